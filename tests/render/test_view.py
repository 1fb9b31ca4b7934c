"""The one-line answer, and where on the path the stop is drawn."""

from __future__ import annotations

import msgspec
import pytest

from nettrace.model.path import Direction, Segment
from nettrace.model.verdict import Result, Stop
from nettrace.render.safe import safe
from nettrace.render.view import endpoint, headline, rewritten, stop_position
from tests.render import samples


def _stop(direction: Direction, segment: Segment, *, after: str | None = None, before: str | None = None) -> Stop:
    return Stop(direction=direction, segment=segment, after=after, before=before, netns=None, device=None, hook=None)


@pytest.mark.parametrize(
    ("direction", "segment", "words"),
    [
        (Direction.FORWARD, Segment.SOURCE, "it never leaves the source"),
        (Direction.FORWARD, Segment.EGRESS, "it stops on its way out of the host"),
        (Direction.FORWARD, Segment.REMOTE, "it stops beyond this host"),
        (Direction.REPLY, Segment.REMOTE, "the reply never comes back"),
        (Direction.REPLY, Segment.BRIDGE, "it arrives, but the reply stops at the bridge"),
    ],
)
def test_the_headline_says_what_became_of_it(direction: Direction, segment: Segment, words: str) -> None:
    verdict = samples.verdict(Result.STOPPED, hops=(), stop=_stop(direction, segment))
    assert headline(verdict) == f"web → 8.8.8.8 (icmp): {words}"


@pytest.mark.parametrize("segment", Segment)
@pytest.mark.parametrize("direction", Direction)
def test_every_segment_has_words(direction: Direction, segment: Segment) -> None:
    verdict = samples.verdict(Result.STOPPED, hops=(), stop=_stop(direction, segment))
    assert ": " in headline(verdict)


@pytest.mark.parametrize(
    ("direction", "after", "before", "position"),
    [
        (Direction.FORWARD, "host/docker0", "host/eth0", 3),
        (Direction.FORWARD, "host/eth0", None, 4),
        (Direction.FORWARD, None, None, 0),
        (Direction.REPLY, "host/eth0", "host/eth0", 4),
        (Direction.REPLY, "host/docker0", "host/veth9a41c2e", 6),
        (Direction.REPLY, "host/docker0", None, 6),
        (Direction.REPLY, None, None, 4),
        (Direction.REPLY, "nowhere", "nowhere", 4),
    ],
)
def test_the_stop_is_drawn_between_after_and_before(
    direction: Direction, after: str | None, before: str | None, position: int
) -> None:
    stop = _stop(direction, Segment.HOST, after=after, before=before)
    verdict = msgspec.structs.replace(samples.delivered(), outcome=Result.STOPPED, stop=stop)
    assert stop_position(verdict) == position


def test_a_delivered_flow_has_no_stop() -> None:
    assert stop_position(samples.delivered()) is None


def test_nat_is_seen_in_each_direction_for_itself() -> None:
    hops = samples.delivered().hops
    changes = [rewritten(hops, index) for index in range(len(hops))]
    assert changes == [(False, False)] * 3 + [(True, False), (False, False), (False, True)] + [(False, False)] * 2


def test_a_port_joins_an_address_as_people_write_it() -> None:
    v4, v6 = samples.packet("10.0.0.1", "10.0.0.2"), samples.packet("2001:db8::1", "::1")
    assert endpoint(v4.src, None) == "10.0.0.1"
    assert endpoint(v4.src, 80) == "10.0.0.1:80"
    assert endpoint(v6.src, 80) == "[2001:db8::1]:80"


def test_what_is_printable_stays_and_the_rest_is_shown() -> None:
    assert safe("wéb → 駅") == "wéb → 駅"
    assert safe("\x1b[2J\n\x9b\u202e\U000e0001") == "\\x1b[2J\\x0a\\x9b\\u202e\\U000e0001"
