"""Faults on the engine's side, by the model: rules that hide its own, published ports, containers that do not run."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from nettrace.model.intent import Container, Engine, Subnet
from nettrace.model.path import Direction, Segment
from nettrace.model.snapshot import Socket
from nettrace.model.verdict import Result, Verdict, Verified
from tests.rules.build import Lab, Wire, ask, diagnose_case, macvlan_lab, observed, plain_lab

OUT, PUBLISHED = ("app", "8.8.8.8"), ("host", "203.0.113.2", "tcp", 8080)


def judged(lab: Lab, *question: object, wire: Wire | None = None, family: int = 4, size: int | None = None) -> Verdict:
    src, dst, *rest = question
    return diagnose_case(lab.snapshot(), ask(lab, src, dst, *rest, family=family, size=size), wire=wire)  # type: ignore[arg-type]


def told(verdict: Verdict) -> tuple[str | None, Segment | None, Direction | None]:
    """Return the first code, and where the flow stops."""
    stop = verdict.stop
    code = verdict.findings[0].code if verdict.findings else None
    return code, stop.segment if stop else None, stop.direction if stop else None


def proven(verdict: Verdict) -> tuple[str, ...]:
    """Return the commands of the first finding, which the model must have proven."""
    remedy = verdict.findings[0].remedy
    assert remedy is not None
    assert remedy.verified is Verified.YES, remedy
    return remedy.commands


# --- rules of another hand before the engine's own


@pytest.mark.parametrize(
    ("lines", "direction"),
    [
        (["-A FORWARD -j RETURN"], Direction.FORWARD),
        (["-A FORWARD -o docker0 -j RETURN"], Direction.REPLY),
        (["-A FORWARD -i docker0 -g ELSEWHERE"], Direction.FORWARD),
        (["-A FORWARD -i docker0 -j RETURN", "-A FORWARD -s 172.17.0.2/32 -j RETURN"], Direction.FORWARD),
    ],
    ids=["return", "return of the answer", "goto", "two of them"],
)
def test_a_rule_that_leads_past_the_engines_own_is_named_and_deleted(lines: list[str], direction: Direction) -> None:
    lab = plain_lab()
    lab.host.chain("filter", ":ELSEWHERE -")
    for line in reversed(lines):
        lab.host.insert("filter", line)
    found = judged(lab, *OUT)
    assert told(found) == ("filter.docker-chains-bypassed", Segment.HOST, direction)
    deletions = tuple(f"iptables -t filter {line.replace('-A ', '-D ')}" for line in lines)
    assert proven(found) == deletions


def test_a_return_before_the_accept_of_a_published_port() -> None:
    lab = plain_lab()
    lab.host.insert("filter", "-A DOCKER -j RETURN")
    # Let in from another network, where isolation and that network's own accept are gone.
    lab.host.delete("filter", "DOCKER-ISOLATION-STAGE-2 -o .* -j DROP")
    lab.host.delete("filter", "FORWARD -i br-net1 ! -o br-net1 -j ACCEPT")
    found = judged(lab, "c1", "203.0.113.2", "tcp", 8080)
    assert told(found) == ("filter.docker-chains-bypassed", Segment.HOST, Direction.FORWARD)
    assert proven(found)


def test_a_return_that_hides_nothing_is_left_alone() -> None:
    lab = plain_lab()
    lab.host.insert("filter", "-A FORWARD -i docker0 -p tcp -j RETURN")
    assert judged(lab, *OUT).outcome is Result.DELIVERED
    lab.host.delete("filter", "FORWARD -i docker0 ! -o docker0 -j ACCEPT")
    assert told(judged(lab, *OUT))[0] == "filter.forward-policy-drop"


# --- address translation


def test_a_dnat_to_another_port_of_the_container_shadows_the_right_one() -> None:
    lab = plain_lab()
    rule = "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.3:99"
    lab.host.insert("nat", rule)
    found = judged(lab, *PUBLISHED)
    assert told(found) == ("nat.dnat-shadowed", Segment.HOST, Direction.FORWARD)
    assert proven(found) == (f"iptables -t nat {rule.replace('-A', '-D')}",)


def test_a_dnat_to_another_port_alone_is_stale() -> None:
    lab = plain_lab()
    lab.host.delete("nat", "--dport 8080")
    lab.host.chain("nat", "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.3:99")
    found = judged(lab, *PUBLISHED)
    assert told(found)[0] == "nat.dnat-stale"
    assert proven(found)[1].endswith("--dport 8080 -j DNAT --to-destination 172.17.0.3:80")


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("-A POSTROUTING -o eth0 -j SNAT --to-source 127.0.0.1", "127.0.0.1"),
        ("-A POSTROUTING -s 172.17.0.0/16 -o eth0 -j NETMAP --to 10.9.0.0/16", "10.9.0.2"),
    ],
)
def test_a_source_that_nobody_can_answer(line: str, source: str) -> None:
    lab = plain_lab()
    lab.host.insert("nat", line)
    found = judged(lab, *OUT, wire=observed())
    assert told(found) == ("nat.masquerade-shadowed", Segment.REMOTE, Direction.REPLY)
    assert source in found.findings[0].title
    assert proven(found) == (f"iptables -t nat {line.replace('-A', '-D')}",)


def test_a_netmap_on_the_way_in_is_of_the_destination() -> None:
    lab = plain_lab()
    lab.host.insert("nat", "-A PREROUTING -d 8.8.8.0/24 -j NETMAP --to 172.17.99.0/24")
    assert told(judged(lab, *OUT))[0] == "nat.dnat-stale"


@pytest.mark.parametrize(
    ("dst", "wire"),
    [("8.8.8.8", observed()), ("172.17.0.3", observed(reply_until="host/eth0"))],
    ids=["out", "peer"],
)
def test_a_source_translated_in_the_container_itself(dst: str, wire: Wire) -> None:
    lab = plain_lab()
    line = "-A POSTROUTING -j SNAT --to-source 10.9.8.7"
    lab["app"].chain("nat", ":PREROUTING ACCEPT", ":POSTROUTING ACCEPT", line)
    found = judged(lab, "app", dst, wire=wire)
    assert told(found) == ("nat.masquerade-shadowed", Segment.REMOTE, Direction.REPLY)
    assert "10.9.8.7" in found.findings[0].title
    assert proven(found)[0].endswith("iptables -t nat -D POSTROUTING -j SNAT --to-source 10.9.8.7")


def without_ip6tables(version: str) -> Lab:
    lab = plain_lab()
    lab.engine = Engine(name="docker", version=version, endpoint="unix:///S", iptables=True)
    for backend, family in list(lab.host.tables):
        if family == "ip6":
            del lab.host.tables[backend, family]
    return lab


def test_an_engine_that_writes_no_ip6tables_has_lost_none() -> None:
    found = judged(without_ip6tables("20.10.24"), "c1", "2001:4860:4860::8888", family=6)
    assert told(found) == ("nat.masquerade-missing", Segment.REMOTE, Direction.REPLY)
    assert proven(found) == ("ip6tables -t nat -A POSTROUTING -s fd00:18::/64 ! -o br-net1 -j MASQUERADE",)
    assert "--ip6tables" in str(found.findings[0].remedy)
    found = judged(without_ip6tables("28.5.2"), "c1", "2001:4860:4860::8888", family=6)
    assert told(found)[0] == "filter.docker-rules-missing"
    assert "--ip6tables=false" in found.findings[0].explanation


# --- containers that do not run


def paused(lab: Lab) -> Lab:
    lab.container("web", status="paused")
    return lab


def test_a_paused_container_takes_up_nothing_that_its_kernel_accepts() -> None:
    found = judged(paused(plain_lab()), *PUBLISHED)
    assert told(found) == ("engine.container-not-running", Segment.DESTINATION, Direction.FORWARD)
    assert proven(found) == ("docker unpause web",)


def test_a_service_beside_a_paused_container_is_nobodys_to_judge() -> None:
    lab = paused(plain_lab())
    lab.containers["side"] = Container(
        id="side-id", name="side", engine="docker", pid=1, netns=lab["web"].id, mode="container:web-id", joined="web-id"
    )
    assert judged(lab, *PUBLISHED).outcome is Result.DELIVERED


def ended(status: str) -> Lab:
    """Return the lab whose web does not run: its namespace and its rules are gone, what it publishes is known."""
    lab = plain_lab()
    lab.host.delete("nat", "--dport 8080")
    lab.host.delete("filter", "172.17.0.3/32")
    lab.container("web", status=status, netns=None, pid=None)
    del lab.boxes["web"]
    lab.host.links = [each for each in lab.host.links if each.name != "veth-web"]
    return lab


@pytest.mark.parametrize(
    ("status", "command"), [("exited", "docker start web"), ("restarting", "docker logs --tail 20 web")]
)
def test_a_container_that_would_publish_the_port_if_it_ran(status: str, command: str) -> None:
    found = judged(ended(status), *PUBLISHED)
    assert told(found) == ("engine.container-not-running", Segment.HOST, Direction.FORWARD)
    assert [each.code for each in found.findings] == ["engine.container-not-running"]
    assert status in found.findings[0].title
    assert found.findings[0].remedy is not None
    assert found.findings[0].remedy.commands == (command,)


def test_a_port_that_nobody_would_publish_is_not_published() -> None:
    assert told(judged(ended("exited"), "host", "203.0.113.2", "tcp", 8081))[0] == "port.not-published"


def two_networks() -> Lab:
    """Return the lab whose app is in net1 too, with its default route by the other."""
    lab = plain_lab()
    lab.attach("app", "net1", "172.18.0.7/16", index=20)
    return lab


def test_what_should_have_gone_straight_is_not_the_hosts_to_isolate() -> None:
    lab = two_networks()
    lab["app"].down("eth1")
    found = judged(lab, "app", "172.18.0.2")
    assert told(found) == ("link.down", Segment.SOURCE, Direction.FORWARD)
    assert proven(found)[0].endswith("ip link set eth1 up")

    lab = two_networks()
    lab["app"].drop_address("172.18.0.7/16")
    found = judged(lab, "app", "172.18.0.2")
    assert told(found) == ("addr.missing", Segment.SOURCE, Direction.FORWARD)
    assert len(proven(found)) == 1

    lab = two_networks()
    lab["app"].no_route("172.18.0.0/16")
    found = judged(lab, "app", "172.18.0.2")
    assert told(found) == ("route.wrong-device", Segment.SOURCE, Direction.FORWARD)
    assert "ip route add 172.18.0.0/16 dev eth1" in proven(found)[0]

    lab = two_networks()
    lab["app"].route("172.18.0.2/32", dev="eth0", via="172.17.0.1")
    found = judged(lab, "app", "172.18.0.2")
    assert told(found) == ("route.wrong-device", Segment.SOURCE, Direction.FORWARD)
    assert "ip route del 172.18.0.2 via 172.17.0.1" in proven(found)[0]


# --- networks


def test_a_published_port_of_another_network_names_that_network() -> None:
    found = judged(plain_lab(), "c1", "203.0.113.2", "tcp", 8080)
    assert told(found)[0] == "filter.network-isolation"
    remedy = found.findings[0].remedy
    assert remedy is not None
    assert remedy.commands == ("docker network connect bridge c1",)
    assert remedy.summary.endswith("by its own name or address, not by 203.0.113.2.")


def isolated_lab() -> Lab:
    lab = plain_lab()
    lab.networks["net1"] = replace(
        lab.networks["net1"],
        internal=True,
        gateway_mode_ipv4="isolated",
        subnets=(Subnet(subnet=ip_network("172.18.0.0/16")),),
    )
    lab.host.drop_address("172.18.0.1/16")
    return lab


def test_a_network_that_is_isolated_from_its_host() -> None:
    found = judged(isolated_lab(), "host", "c1", wire=observed())
    assert told(found) == ("filter.internal-network", Segment.HOST, Direction.FORWARD)
    assert [each.code for each in found.findings] == ["filter.internal-network"]


def test_an_address_that_nobody_holds_in_a_network_of_ones_own() -> None:
    lab = plain_lab()
    lab.attach("app", "net1", "172.18.0.7/16", index=20)
    found = judged(lab, "app", "172.18.0.200")
    assert told(found)[0] == "neigh.unresolved"
    assert "route.wrong-device" not in [each.code for each in found.findings]


def test_a_macvlans_host_gets_an_interface_beside_it_and_a_route() -> None:
    found = judged(macvlan_lab(), "m1", "203.0.113.2")
    assert told(found)[0] == "macvlan.host-isolation"
    assert found.findings[0].remedy is not None
    assert found.findings[0].remedy.commands == (
        "ip link add shim0 link eth0 type macvlan mode bridge",
        "ip link set shim0 up",
        "ip route add 203.0.113.101/32 dev shim0",
    )


# --- sizes and sockets


def test_a_packet_too_big_for_the_sender_itself_is_one_fault() -> None:
    lab = plain_lab()
    lab["app"].edit("eth0", mtu=1400)
    for name in ("veth-app", "docker0"):
        lab.host.edit(name, mtu=1400)
    found = judged(lab, *OUT, size=1500)
    assert [each.code for each in found.findings] == ["mtu.mismatch"]
    assert found.outcome is Result.DEGRADED
    assert found.findings[0].remedy is not None
    assert "1400 bytes" in found.findings[0].remedy.summary


def test_a_service_that_takes_ipv6_alone_is_told_as_such() -> None:
    lab = plain_lab()
    lab["web"].sockets = [
        Socket(proto="tcp", family=6, address=ip_address("::"), port=80, state="LISTEN", v6only=True),
    ]
    found = judged(lab, "app", "web", "tcp", 80)
    assert told(found)[0] == "port.listens-on-loopback"
    assert found.findings[0].title.endswith("listens on IPv6 only")
    assert found.findings[0].remedy is not None
    assert "0.0.0.0 too" in found.findings[0].remedy.summary


def test_a_packet_that_leaves_the_host_of_its_destination_is_not_predicted_to_arrive() -> None:
    lab = plain_lab()
    lab.host.drop_address("172.17.0.1/16")
    found = judged(lab, "host", "web")
    assert found.outcome is not Result.DELIVERED
    assert any("a container on it" in gap.reason for gap in found.gaps) or found.findings


def test_a_bridge_that_was_renamed_gets_its_name_back() -> None:
    lab = plain_lab()
    lab.host.links = [replace(each, name="br9") if each.name == "docker0" else each for each in lab.host.links]
    found = judged(lab, *OUT)
    assert told(found) == ("bridge.port-without-master", Segment.BRIDGE, Direction.FORWARD)
    assert proven(found)[1] == "ip link set br9 name docker0"
    # A stop of another kind is not the name's.
    lab["app"].down("eth0")
    assert told(judged(lab, *OUT))[0] == "link.down"


def test_a_route_in_the_place_of_a_bridges_own_is_replaced() -> None:
    lab = plain_lab()
    lab.host.links.append(
        replace(lab.host.link("br-net1"), ifindex=40, name="zz9", mac="02:00:00:00:00:40"),
    )
    lab.host.no_route("172.17.0.0/16")
    lab.host.hold("zz9", "172.17.0.254/16")
    found = judged(lab, *OUT)
    assert told(found)[0] == "route.wrong-device"
    assert proven(found)[0].startswith("ip route replace 172.17.0.0/16 dev docker0")
