"""From a prediction to a plan: where to listen, what to send, what to expect."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from nettrace.errors import UsageError
from nettrace.model.flow import Proto
from nettrace.model.path import LegEnd, Reason, Trace
from nettrace.model.snapshot import Link, Vxlan
from probes.plan import IN_HOST_SETTLE_S, NEIGHBOUR_SETTLE_S, ProbePlan, plan_probe
from tests.probes import builders

WAY = ("c/eth0", "h/veth", "h/docker0", "h/eth0")
BACK = WAY[::-1]


def plan(trace: Trace, **facts: object) -> ProbePlan:
    return plan_probe(trace, builders.snapshot(), token=builders.SECRET, **facts)  # type: ignore[arg-type]


def test_every_point_of_both_legs_is_listened_to_once() -> None:
    made = plan(builders.trace(WAY, BACK))
    assert [each.point for each in made.captures] == list(WAY)
    assert made.unheard == ()
    assert made.injection is not None
    assert (made.injection.netns, made.injection.dst) == (builders.C, builders.DST)
    assert made.injection.source == builders.SRC
    expect = made.expectation
    assert (expect.forward, expect.reply, expect.home) == (WAY, BACK, ("c/eth0",))
    assert expect.expects_reply
    assert not expect.settles


def test_a_namespace_that_was_not_read_is_blind() -> None:
    made = plan(builders.trace((*WAY, "d/eth0"), None))
    assert [each.point for each in made.captures] == list(WAY)
    assert [each.point for each in made.unheard] == ["d/eth0"]
    assert "not read" in made.unheard[0].reason


def test_a_forward_drop_in_this_host_settles() -> None:
    stop = builders.drop(Reason.FILTERED, builders.packet())
    expect = plan(builders.trace(WAY[:3], None, forward_end=LegEnd.DROPPED, stop=stop)).expectation
    assert expect.settles
    assert (expect.forward, expect.reply) == (WAY[:3], ())
    assert expect.settle_s == IN_HOST_SETTLE_S
    assert not expect.expects_reply


def test_a_reply_drop_in_this_host_settles_once_the_reply_was_heard_so_far() -> None:
    stop = builders.drop(Reason.FILTERED, builders.packet())
    expect = plan(builders.trace(WAY, BACK[:1], reply_end=LegEnd.DROPPED, reply_stop=stop)).expectation
    assert expect.settles
    assert (expect.forward, expect.reply) == (WAY, BACK[:1])
    assert not expect.expects_reply


def test_the_supposed_reply_to_a_dropped_packet_is_not_expected() -> None:
    stop = builders.drop(Reason.FILTERED, builders.packet())
    expect = plan(builders.trace(WAY[:3], BACK, forward_end=LegEnd.DROPPED, stop=stop)).expectation
    assert expect.reply == ()
    assert not expect.expects_reply


@pytest.mark.parametrize("end", [LegEnd.LEFT, LegEnd.UNKNOWN, LegEnd.NEEDS])
def test_what_ends_beyond_this_host_or_is_not_known_waits_for_its_time(end: LegEnd) -> None:
    assert not plan(builders.trace(WAY, None, forward_end=end)).expectation.settles


def test_a_neighbour_that_will_not_answer_is_awaited_by_name() -> None:
    hop = ip_address("172.17.0.99")
    stop = builders.drop(Reason.NEIGHBOUR_FAILED, builders.packet(), at="c/eth0", next_hop=hop)
    made = plan(builders.trace((), None, points=(builders.point("c/eth0"),), forward_end=LegEnd.DROPPED, stop=stop))
    assert made.expectation.neighbour == hop
    assert made.expectation.settle_s == IN_HOST_SETTLE_S
    assert made.expectation.home == ("c/eth0",)
    assert hop in made.neighbours
    beyond = builders.drop(Reason.NEIGHBOUR_FAILED, builders.packet(), at="h/eth0", next_hop=hop)
    trace = builders.trace(
        WAY[:3], None, points=tuple(map(builders.point, WAY)), forward_end=LegEnd.DROPPED, stop=beyond
    )
    assert plan(trace).expectation.settle_s == NEIGHBOUR_SETTLE_S


def test_a_datagram_that_needs_no_answer_settles() -> None:
    trace = builders.trace(WAY, None, forward_end=LegEnd.ARRIVED, proto=Proto.UDP, dport=514)
    assert plan(trace).expectation.settles
    again = builders.trace(WAY, None, forward_end=LegEnd.ARRIVED, proto=Proto.TCP, dport=514)
    assert not plan(again).expectation.settles


def test_dnat_ports_are_known_to_the_run() -> None:
    hop = builders.packet(dst=ip_address("172.17.0.3"), proto=Proto.TCP, sport=40000, dport=80)
    made = plan(builders.trace(WAY, BACK, proto=Proto.TCP, dport=8080, hops=(hop,)))
    assert made.token.dports == (8080, 80)
    assert ip_address("172.17.0.3") in made.neighbours
    assert plan(builders.trace(WAY, BACK)).token.dports == ()


def test_tunnels_are_looked_into_where_there_are_any() -> None:
    assert plan(builders.trace(WAY, BACK)).token.vxlan_ports == ()
    tunnel = Link(ifindex=9, name="vx0", kind="vxlan", vxlan=Vxlan(vni=4097, port=14789))
    snapshot = builders.snapshot((builders.C, "c"), (builders.H, "h"), links=(tunnel,))
    made = plan_probe(builders.trace(WAY, BACK), snapshot, token=builders.SECRET)
    assert made.token.vxlan_ports == (14789, 4789, 8472)


def test_a_source_that_is_not_there_sends_nothing() -> None:
    assert plan(builders.trace(WAY, BACK, netns=None)).injection is None


def test_impossible_questions() -> None:
    with pytest.raises(UsageError, match="--port"):
        plan(builders.trace(WAY, BACK, proto=Proto.TCP))
    with pytest.raises(UsageError, match="--size must be between 44"):
        plan(builders.trace(WAY, BACK, size=43))
    with pytest.raises(UsageError, match="--count"):
        plan(builders.trace(WAY, BACK), count=0)
    assert plan(builders.trace(WAY, BACK, size=44), count=3).token.count == 3
