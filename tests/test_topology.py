"""The topology of hand-built hosts: joined by index, marked where kernel and intent part, and safe to print."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from nettrace.model.topology import Box, Topology
from nettrace.render.topo import render_dot, render_mermaid, render_text
from nettrace.topology import topology
from tests.rules.build import Box as Host
from tests.rules.build import Lab, macvlan_lab, plain_lab


def of(change: Callable[[Lab], object] | None = None) -> Topology:
    lab = plain_lab()
    if change is not None:
        change(lab)
    return topology(lab.snapshot())


def box(topo: Topology, name: str) -> Box:
    return next(each for each in topo.boxes if each.name == name)


def test_a_veth_pair_is_shown_from_both_ends() -> None:
    topo = of()
    (eth0,) = [each for each in box(topo, "app").interfaces if each.device == "eth0"]
    veth = next(each for each in box(topo, "host").interfaces if each.peer == "app/eth0")
    assert eth0.peer == f"host/{veth.device}"
    assert (eth0.peer_ifindex, veth.peer_ifindex) == (veth.ifindex, eth0.ifindex)
    assert eth0.name == f"eth0@if{veth.ifindex}"
    assert (eth0.network, veth.master) == ("bridge", "docker0")
    assert eth0.addresses == ("172.17.0.2/16",)


def test_networks_and_ports_are_told_in_the_engines_words() -> None:
    topo = of()
    bridge = next(each for each in topo.networks if each.name == "bridge")
    assert bridge.subnets == ("172.17.0.0/16 via 172.17.0.1",)
    assert bridge.options == {"icc": "on", "masquerade": "on"}
    assert bridge.members == ("app", "web")
    assert box(topo, "web").ports == ("0.0.0.0:8080 → 80/tcp",)
    assert box(topo, "host").gateways[0] == "203.0.113.1 dev eth0"


def test_a_healthy_host_differs_in_nothing() -> None:
    assert of().differences == ()


def host_end(lab: Lab, name: str) -> str:
    peer = lab[name].link("eth0").peer_ifindex
    return next(link.name for link in lab.host.links if link.ifindex == peer)


def other_mtu(lab: Lab) -> None:
    lab.networks["bridge"] = replace(lab.networks["bridge"], mtu=1400)


@pytest.mark.parametrize(
    ("change", "at", "found"),
    [
        (lambda lab: lab.host.down("docker0"), "host/docker0", "down"),
        (lambda lab: lab.host.drop_address("172.17.0.1/16"), "host/docker0", "not held"),
        (lambda lab: lab["app"].drop_address("172.17.0.2/16"), "app/eth0", "not held"),
        (lambda lab: lab["app"].no_route("default"), "app/eth0", "no such route"),
        (lambda lab: lab.host.edit(host_end(lab, "app"), master=None), "host/", "port of no bridge"),
        (lambda lab: lab.host.edit(host_end(lab, "app"), master=4), "host/", "port of br-net1"),
        (other_mtu, "app/eth0", "mtu 1500"),
    ],
)
def test_what_differs_from_the_intent_is_marked(change: Callable[[Lab], object], at: str, found: str) -> None:
    told = [(each.at, each.found) for each in of(change).differences]
    assert [each for each in told if each[0].startswith(at) and each[1] == found], told


def test_namespaces_that_share_nothing_with_this_host_are_left_out() -> None:
    def strangers(lab: Lab) -> None:
        lab.boxes["stranger"] = Host(id=7777, name="stranger")

    assert "stranger" not in [each.name for each in of(strangers).boxes]


def test_the_text_has_a_line_for_each_container_and_says_what_differs_first() -> None:
    text = render_text(of(lambda lab: lab.host.down("docker0")))
    assert text.startswith("Differs from what the engine meant\n  - host/docker0: meant up; down")
    for name in ("app", "web", "c1", "c2"):
        assert [line for line in text.splitlines() if line.split()[:1] == [name]]
    assert "→" not in render_text(of(), unicode=False)


def test_names_cannot_break_out_of_a_picture_or_a_terminal() -> None:
    def hostile(lab: Lab) -> None:
        container = lab.containers.pop("app")
        lab.containers["x"] = replace(container, name='a"];\n<b>\x1b[31m')

    topo = of(hostile)
    dot, mermaid, text = render_dot(topo), render_mermaid(topo), render_text(topo)
    assert not any("\x1b" in each for each in (dot, mermaid, text))
    assert 'label="a\\"];' in dot
    assert "<b>" not in mermaid
    assert mermaid.startswith("flowchart LR\n")
    assert dot.count("{") == dot.count("}")


def test_every_edge_of_a_picture_has_both_its_nodes() -> None:
    lines = render_dot(of()).splitlines()
    nodes = {line.split()[0] for line in lines if line.startswith("    n")}
    edges = [line.strip().rstrip(";").split(" ") for line in lines if " -- " in line]
    assert edges
    assert all({edge[0], edge[2]} <= nodes for edge in edges)


@pytest.mark.parametrize("section", ["links", "addresses", "routes"])
@pytest.mark.parametrize("name", ["host", "app"])
def test_what_was_not_read_is_a_gap_and_no_difference(section: str, name: str) -> None:
    topo = of(lambda lab: lab.lose(section, name))
    assert topo.differences == ()
    assert (section, name) in [(each.section, each.netns) for each in topo.gaps]


def test_pictures_mark_what_differs_and_tell_published_ports() -> None:
    whole, broken = of(), of(lambda lab: lab["app"].edit("eth0", up=False))
    assert "stroke:#d00" not in render_mermaid(whole)
    assert "#dd0000" not in render_dot(whole)
    assert "web (0.0.0.0:8080 → 80/tcp)" in render_mermaid(whole)
    mermaid, dot = render_mermaid(broken).splitlines(), render_dot(broken).splitlines()
    (style,) = [line.split() for line in mermaid if "stroke:#d00" in line]
    assert any(line.strip().startswith(f'{style[1]}["eth0@') for line in mermaid)
    (marked,) = [line for line in dot if "#dd0000" in line]
    assert f"{style[1]} [label=" in marked


def test_a_networks_mode_and_parent_are_told() -> None:
    lab = macvlan_lab()
    lab.networks["mv"] = replace(lab.networks["mv"], options={"parent": "eth0", "macvlan_mode": "private"})
    (network,) = topology(lab.snapshot()).networks
    assert (network.parent, network.options) == ("eth0", {"mode": "private"})
