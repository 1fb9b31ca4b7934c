"""ipvlan in its three modes, on snapshots built by hand: this kernel has no ipvlan, so nothing here was seen on a wire.

The host has eth0, and the containers m1 and m2 are its children with the parent's MAC address. What is expected is what
ipvlan_core.c and Docker's documentation of the driver say.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.collect.links import _ipvlan_flag
from nettrace.model.intent import Subnet
from nettrace.model.verdict import Verdict
from tests.rules.build import Lab, ask, diagnose_case, macvlan_lab, observed

PARENT_MAC = "52:54:00:00:00:02"


def ipvlan_lab(mode: str, flag: str = "bridge") -> Lab:
    """Return the macvlan lab with ipvlan children; in l3 and l3s they have a subnet of their own and no gateway."""
    lab = macvlan_lab()
    routed = mode != "l2"
    for number, name in ((1, "m1"), (2, "m2")):
        box = lab[name]
        box.edit(
            "eth0", kind="ipvlan", macvlan_mode=None, ipvlan_mode=mode, ipvlan_flag=flag, mac=PARENT_MAC, noarp=routed
        )
        container = lab.containers[name]
        endpoint = replace(container.endpoints[0], mac=PARENT_MAC)
        if routed:
            held = ip_interface(f"10.9.0.{number}/24")
            box.drop_address(str(container.endpoints[0].ipv4))
            box.routes = [each for each in box.routes if each.dst.prefixlen]
            box.hold("eth0", str(held))
            box.route("default", dev="eth0")
            endpoint = replace(endpoint, ipv4=held, gateway=None)
        lab.containers[name] = replace(container, endpoints=(endpoint,))
    subnet = Subnet(subnet=ip_network("10.9.0.0/24")) if routed else lab.networks["mv"].subnets[0]
    lab.networks["mv"] = replace(lab.networks["mv"], driver="ipvlan", subnets=(subnet,))
    return lab


def verdict(lab: Lab, src: str, dst: str, **wire: Any) -> Verdict:
    return diagnose_case(lab.snapshot(), ask(lab, src, dst), wire=observed(**wire) if wire else None)


def told(found: Verdict) -> tuple[str, list[str], str | None]:
    codes = [each.code for each in found.findings]
    return found.outcome.value, codes, found.stop.segment.value if found.stop else None


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_siblings_reach_each_other(mode: str) -> None:
    found = verdict(ipvlan_lab(mode), "m1", "m2")
    assert told(found) == ("delivered", [], None)
    assert [hop.point for hop in found.hops] == ["m1/eth0", "m2/eth0", "m2/eth0", "m1/eth0"]


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
@pytest.mark.parametrize("question", [("m1", "203.0.113.2"), ("host", "m1")])
def test_children_and_their_host_are_kept_apart(mode: str, question: tuple[str, str]) -> None:
    found = verdict(ipvlan_lab(mode), *question)
    assert told(found)[:2] == ("stopped", ["macvlan.host-isolation"])
    assert "ipvlan" in found.findings[0].title
    assert found.findings[0].remedy.commands == ("ip link add shim0 link eth0 type ipvlan mode l2",)


@pytest.mark.parametrize("flag", ["private", "vepa"])
@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_flags_that_keep_siblings_apart(mode: str, flag: str) -> None:
    lab = ipvlan_lab(mode, flag)
    found = verdict(lab, "m1", "m2")
    assert told(found) == ("stopped", ["macvlan.mode-isolates"], "egress")
    remedy = found.findings[0].remedy
    assert (remedy.verified.value, remedy.commands[0].split("ip link ")[1]) == (
        "yes",
        f"set eth0 type ipvlan mode {mode} bridge",
    )


def test_l2_resolves_its_gateway_on_the_wire() -> None:
    found = verdict(ipvlan_lab("l2"), "m1", "8.8.8.8")
    assert told(found) == ("delivered", [], None)
    assert [hop.point for hop in found.hops] == ["m1/eth0", "host/eth0", "host/eth0", "m1/eth0"]


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_l3_is_routed_by_the_parents_namespace(mode: str) -> None:
    lab = ipvlan_lab(mode)
    found = verdict(lab, "m1", "8.8.8.8", reply=True)
    assert told(found)[:2] == ("delivered", [])
    forward = [hop for hop in found.hops if hop.direction.value == "forward"]
    assert [hop.point for hop in forward] == ["m1/eth0", "host/eth0"]
    assert any("default via 203.0.113.1" in step for step in forward[1].steps)
    lab.host.routes = [each for each in lab.host.routes if each.dst.prefixlen]
    found = verdict(lab, "m1", "8.8.8.8")
    assert (told(found)[0], told(found)[1]) == ("stopped", ["route.missing"])


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_l3_needs_a_way_back(mode: str) -> None:
    """Nobody answers ARP for a child in l3: the far side must send what is for it to the host, by a route."""
    found = verdict(ipvlan_lab(mode), "m1", "8.8.8.8", reply=False)
    assert told(found) == ("stopped", ["nat.return-route-missing"], "remote")
    assert found.findings[0].remedy.commands == ("ip route add 10.9.0.0/24 via 203.0.113.2  # on the next router",)


def test_l3s_shows_what_comes_back_to_the_parents_hooks() -> None:
    """In l3s mode alone, what comes in by the parent runs through its PREROUTING and INPUT."""
    for mode, outcome in (("l3", "delivered"), ("l3s", "stopped")):
        lab = ipvlan_lab(mode)
        lab.host.tables["nft", "ip"] = {
            "filter": [
                ":INPUT ACCEPT [0:0]",
                ":FORWARD ACCEPT [0:0]",
                ":OUTPUT ACCEPT [0:0]",
                "-A INPUT -d 10.9.0.0/24 -j DROP",
            ]
        }
        found = verdict(lab, "m1", "8.8.8.8", **({"reply": True} if mode == "l3" else {"reply": False}))
        assert found.outcome.value == outcome


@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_the_parent_is_down(mode: str) -> None:
    lab = ipvlan_lab(mode)
    lab.host.down("eth0")
    lab["m1"].edit("eth0", lower_up=False, operstate="LOWERLAYERDOWN")
    found = verdict(lab, "m1", "8.8.8.8")
    # The host's default route went with the link, and the ways that take it need it again.
    behind = [] if mode == "l2" else ["route.missing"]
    assert told(found) == ("stopped", ["macvlan.parent-down", *behind], "egress")


def test_the_flags_are_read_from_the_kernels_message() -> None:
    """IFLA_IPVLAN_FLAGS as ipvlan_nl_fillinfo writes it; made by hand, as no kernel here sends it."""

    def attribute(kind: int, payload: bytes) -> bytes:
        return struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)

    for flags, name in ((0, "bridge"), (1, "private"), (2, "vepa")):
        data = attribute(2, attribute(1, struct.pack("=H", 1)) + attribute(2, struct.pack("=H", flags)))
        info = attribute(18, attribute(1, b"ipvlan\0") + data)
        assert _ipvlan_flag(bytes(32) + info) == name
    assert _ipvlan_flag(bytes(32)) is None
    assert ip_address("10.9.0.1") in ip_network("10.9.0.0/24")
