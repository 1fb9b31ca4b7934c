"""Two halves made one: ids and names that stay apart, and clocks compared by the packets themselves."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from nettrace.model.base import Present
from nettrace.model.flow import EndpointKind, Flow, FlowEnd, Packet
from nettrace.model.observe import Blind, Frame, Observation, Open, Sighting, SightingKind, Way
from nettrace.model.path import Point, Role, Segment
from nettrace.model.snapshot import HOST_SHIFT, Gap
from nettrace.peer.join import Clock, far_flow, far_point, joined, merged, near, offset
from tests.rules.build import overlay_lab

MS = 1_000_000
PACKET = Packet(family=4, src=ip_address("10.0.9.2"), dst=ip_address("10.0.9.3"), proto=1)


def seen(*passed: tuple[str, SightingKind, Way, int], captures: tuple[Open | Blind, ...] = ()) -> Observation:
    """Return an observation of these passages: point, kind, way, and time in ms."""
    rows = sorted(passed, key=lambda each: each[3])
    return Observation(
        captures=captures,
        frames=tuple(
            Frame(point=point, way=way, at_ns=at * MS, data=point.encode(), length=10) for point, _kind, way, at in rows
        ),
        sightings=tuple(
            Sighting(point=point, kind=kind, way=way, at_ns=at * MS, packet=PACKET, nonce=0, frame=index)
            for index, (point, kind, way, at) in enumerate(rows)
        ),
    )


PROBE, REPLY, IN, OUT = SightingKind.PROBE, SightingKind.REPLY, Way.IN, Way.OUT
OWN = (("host/eth0", PROBE, OUT, 100), ("host/eth0", REPLY, IN, 110))


@pytest.mark.parametrize("ahead", [0, 5000, -70_000])
def test_the_packets_tell_how_far_another_clock_is_ahead(ahead: int) -> None:
    other = seen(("b:host/eth0", PROBE, IN, 103 + ahead), ("b:host/eth0", REPLY, OUT, 107 + ahead))
    clock = offset(seen(*OWN), other, Clock(999 * MS, 50 * MS))
    assert (clock.offset_ns, clock.error_ns) == (ahead * MS, 3 * MS)


def test_without_an_answer_the_other_estimate_stands_as_far_as_causes_come_before_effects() -> None:
    own = seen(OWN[0])
    late = seen(("b:host/eth0", PROBE, IN, 5103))
    assert offset(own, late, Clock(5000 * MS, 9 * MS)).offset_ns == 5000 * MS
    assert offset(own, late, Clock(5007 * MS, 9 * MS)).offset_ns == 5003 * MS
    assert offset(own, seen(), Clock(5007 * MS, 9 * MS)).offset_ns == 5007 * MS


def test_observations_are_merged_in_the_order_of_this_hosts_clock() -> None:
    own = seen(*OWN, captures=(Open(point="host/eth0", frames=2), Blind(point="b:host/eth0", reason="not here")))
    far = seen(
        ("b:host/eth0", PROBE, IN, 5103),
        ("b:host/eth0", REPLY, OUT, 5107),
        captures=(Open(point="b:host/eth0", frames=2),),
    )
    whole = merged(own, [(far, Clock(5000 * MS, 0))])
    points = ["host/eth0", "b:host/eth0", "b:host/eth0", "host/eth0"]
    assert [each.point for each in whole.sightings] == [each.point for each in whole.frames] == points
    assert [each.at_ns // MS for each in whole.sightings] == [100, 103, 107, 110]
    assert [whole.frames[each.frame].data.decode() for each in whole.sightings] == points
    assert whole.capture("b:host/eth0") == Open(point="b:host/eth0", frames=2)


def test_ids_of_two_hosts_stay_apart_even_if_their_inodes_are_the_same() -> None:
    half = overlay_lab().snapshot()
    gap = Gap(section="netfilter", netns="host", reason="no such tool")
    whole = joined(half, [("b", 1, replace(half, gaps=(gap,))), ("c", 2, half)])
    ids = [each.id for each in whole.namespaces]
    assert len(set(ids)) == len(ids) == 3 * len(half.namespaces)
    assert [each.name for each in whole.namespaces][3:6] == ["b:host", "b:1-ov", "b:o1"]
    assert [peer.name for peer in whole.peers] == ["b", "c"]
    assert {each.netns for each in whole.gaps} == {"b:host"}
    for name, number in (("b", 1), ("c", 2)):
        hidden = next(each for each in whole.namespaces if each.name == f"{name}:1-ov")
        assert isinstance(hidden.links, Present)
        far = {link.peer_netns for link in hidden.links.rows if link.peer_netns is not None}
        assert far == {near(number, 1000), near(number, 4001)}
        assert whole.peer_of(hidden.id) == next(each for each in whole.peers if each.name == name)
    assert whole.peer_of(half.host_netns) is None
    # The engine is one swarm: its network is there once, and its containers by whose they are.
    assert len(whole.intent.networks) == 1


def test_what_is_asked_of_another_host_is_in_its_own_words() -> None:
    end = FlowEnd(kind=EndpointKind.CONTAINER, name="b:o2", id="o2", netns=near(1, 4001))
    flow = Flow(src=FlowEnd(kind=EndpointKind.CONTAINER, name="o1", netns=4001), dst=end)
    there, elsewhere = far_flow(flow, 1), far_flow(flow, 2)
    assert (there.src.netns, there.dst.netns) == (None, 4001)
    assert (elsewhere.src.netns, elsewhere.dst.netns) == (None, None)
    point = Point(
        id="b:host/eth0", role=Role.EGRESS, netns=near(1, 1000), netns_name="b:host", device="eth0", ifindex=2,
        segment=Segment.EGRESS,
    )  # fmt: skip
    assert far_point(point).netns == 1000
    assert near(1, 4026531840) >> HOST_SHIFT == 1
