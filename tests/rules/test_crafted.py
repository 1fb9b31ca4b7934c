"""Faults made in ways of their own, by the model alone: the object is named, and its remedy proven."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from nettrace.model.path import Direction, Segment
from nettrace.model.snapshot import Neighbour
from nettrace.model.verdict import Verdict, Verified
from tests.rules.build import Lab, ask, diagnose_case, plain_lab

Change = Callable[[Lab], None]
DST = "8.8.8.8"


def judged(*changes: Change, src: str = "app", dst: str = DST) -> Verdict:
    """Return the verdict of the model alone about a flow of the plain lab, after changes to it."""
    lab = plain_lab()
    for change in changes:
        change(lab)
    return diagnose_case(lab.snapshot(), ask(lab, src, dst))


def rule(table: str, line: str) -> Change:
    return lambda lab: lab.host.insert(table, line)


def early(table: str, line: str) -> Change:
    """Return the change that makes a table whose PREROUTING holds one rule."""

    def change(lab: Lab) -> None:
        lab.host.chain(table, ":PREROUTING ACCEPT", line)

    return change


def route(kind: str) -> Change:
    def change(lab: Lab) -> None:
        lab.host.route("8.8.8.0/24", kind=kind)

    return change


def no_default(lab: Lab) -> None:
    lab["app"].no_route("0.0.0.0/0")


def no_connected_route(lab: Lab) -> None:
    lab.host.no_route("172.17.0.0/16")


def learnt(mac: str, state: str) -> Change:
    def change(lab: Lab) -> None:
        index = lab["app"].link("eth0").ifindex
        entry = Neighbour(ifindex=index, address=ip_address("172.17.0.1"), mac=mac, state=state)
        lab["app"].neighbours.append(entry)

    return change


def address_on_host(lab: Lab) -> None:
    lab.host.hold("lo", "172.17.0.2/32")


@pytest.mark.parametrize(
    ("changes", "code", "segment", "direction"),
    [
        (
            (early("mangle", "-A PREROUTING -s 172.17.0.2/32 -j TTL --ttl-set 1"),),
            "filter.rule-drop",
            Segment.HOST,
            "forward",
        ),
        (
            (early("raw", "-A PREROUTING -i docker0 -j CT --notrack"),),
            "nat.masquerade-shadowed",
            Segment.REMOTE,
            "reply",
        ),
        ((route("throw"),), "route.blackhole", Segment.HOST, "forward"),
        ((no_connected_route,), "route.wrong-device", Segment.HOST, "reply"),
        ((learnt("02:00:00:00:00:99", "REACHABLE"),), "neigh.stale-static", Segment.SOURCE, "forward"),
        ((learnt("02:00:00:00:00:99", "NOARP"),), "neigh.stale-static", Segment.SOURCE, "forward"),
        ((lambda lab: lab["app"].edit("eth0", noarp=True),), "neigh.unresolved", Segment.SOURCE, "forward"),
        ((lambda lab: lab.host.edit("eth0", noarp=True),), "neigh.unresolved", Segment.EGRESS, "forward"),
        ((address_on_host,), "addr.duplicate", Segment.BRIDGE, "forward"),
        (
            (early("raw", "-A PREROUTING ! -d 172.16.0.0/12 -i docker0 -j DROP"),),
            "filter.rule-drop",
            Segment.HOST,
            "forward",
        ),
    ],
)
def test_the_object_is_named_and_its_mend_proven(
    changes: tuple[Change, ...], code: str, segment: Segment, direction: str
) -> None:
    verdict = judged(*changes)
    assert [each.code for each in verdict.findings] == [code]
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (segment, Direction(direction))
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_a_redirect_of_outbound_traffic_is_blamed_for_where_it_leads() -> None:
    lab = plain_lab()
    lab.host.insert("nat", "-A PREROUTING -i docker0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128")
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", DST, "tcp", 80))
    assert [each.code for each in verdict.findings] == ["nat.dnat-stale"]
    assert "REDIRECT" in verdict.findings[0].title
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_what_lies_behind_a_stop_is_found_with_the_stop_mended() -> None:
    verdict = judged(no_default, route("blackhole"))
    assert [each.code for each in verdict.findings] == ["route.missing", "route.blackhole"]
    assert {each.remedy.verified for each in verdict.findings} == {Verified.YES}


def bridge_gone(lab: Lab) -> None:
    """Delete docker0: its ports stay, its addresses and routes go."""
    index = lab.host.link("docker0").ifindex
    lab.host.links = [each for each in lab.host.links if each.ifindex != index]
    for each in lab.host.links:
        if each.master == index:
            lab.host.edit(each.name, master=None, port=None)
    lab.host.addresses = [each for each in lab.host.addresses if each.ifindex != index]
    lab.host.routes = [each for each in lab.host.routes if all(hop.ifindex != index for hop in each.nexthops)]


def test_effects_are_passed_over_also_where_one_of_them_has_no_remedy_of_its_own() -> None:
    direct = early("raw", "-A PREROUTING -d 172.17.0.3/32 ! -i docker0 -j DROP")
    verdict = judged(bridge_gone, direct, lambda lab: lab.host.set(ipv4__conf__all__rp_filter="2"), dst="web")
    assert [each.code for each in verdict.findings] == ["bridge.port-without-master"]
    assert verdict.findings[0].remedy.verified is Verified.YES
    assert "ip link set veth-web master docker0" in verdict.findings[0].remedy.commands


def twins(lab: Lab) -> None:
    """Give c2, on another bridge, the MAC address of web; and two containers of docker0 one that app never meets."""
    lab["c2"].edit("eth0", mac=lab["web"].link("eth0").mac)
    for index, name in ((30, "one"), (32, "two")):
        lab.attach(name, "bridge", f"172.17.0.{index}/16", index=index)
        lab[name].edit("eth0", mac="02:42:ac:11:00:77")


def test_a_mac_address_that_stands_twice_elsewhere_explains_nothing() -> None:
    dropped = rule("filter", "-A FORWARD -s 172.17.0.2/32 -j DROP")
    assert [each.code for each in judged(twins, dropped).findings] == ["filter.rule-drop"]
    verdict = judged(twins, lambda lab: lab.host.edit_port("veth-app", state=4), dst="web")
    assert [each.code for each in verdict.findings] == ["bridge.port-blocked"]
    assert judged(twins, dst="web").findings == ()


def test_a_remedy_by_number_names_the_rule_in_a_comment() -> None:
    verdict = judged(rule("filter", "-A FORWARD -s 172.17.0.2/32 -m recent --set --name x --rsource -j DROP"))
    (command,) = verdict.findings[0].remedy.commands
    assert command.startswith("iptables -t filter -D FORWARD 1  # -A FORWARD ")


def test_nothing_is_blamed_on_a_healthy_lab() -> None:
    assert judged().findings == ()
