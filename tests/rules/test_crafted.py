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


def test_a_remedy_by_number_names_the_rule_in_a_comment() -> None:
    verdict = judged(rule("filter", "-A FORWARD -s 172.17.0.2/32 -m recent --set --name x --rsource -j DROP"))
    (command,) = verdict.findings[0].remedy.commands
    assert command.startswith("iptables -t filter -D FORWARD 1  # -A FORWARD ")


def test_nothing_is_blamed_on_a_healthy_lab() -> None:
    assert judged().findings == ()
