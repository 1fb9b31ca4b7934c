"""Two halves made one: another host's snapshot and observation under names, ids and a clock of this host's.

Pure. Inodes of two hosts may be the same number, so those of another one get its number above their 32 bits
(nettrace.model.snapshot.HOST_SHIFT); names of namespaces and containers get the host's name before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from nettrace.model.base import Present
from nettrace.model.flow import Flow, FlowEnd
from nettrace.model.intent import Container, Intent
from nettrace.model.observe import Frame, Observation, Sighting, SightingKind, Way
from nettrace.model.path import Point
from nettrace.model.snapshot import HOST_SHIFT, Gap, Link, Namespace, Peer, Snapshot

__all__ = ["Clock", "far_flow", "far_point", "joined", "merged", "near", "offset", "renamed"]

_INODE = (1 << HOST_SHIFT) - 1


def near(number: int, inode: int) -> int:
    """Return the id under which another host's namespace is known here."""
    return number << HOST_SHIFT | (inode & _INODE)


def renamed(snapshot: Snapshot, name: str, number: int) -> Snapshot:
    """Return another host's snapshot with ids and names that are unique here."""

    def link(each: Link) -> Link:
        return each if each.peer_netns is None else replace(each, peer_netns=near(number, each.peer_netns))

    def namespace(each: Namespace) -> Namespace:
        links = each.links
        if isinstance(links, Present):
            links = Present(rows=tuple(link(row) for row in links.rows))
        return replace(
            each,
            id=near(number, each.id),
            name=f"{name}:{each.name}",
            links=links,
            nsids={nsid: near(number, inode) for nsid, inode in each.nsids.items()},
        )

    def container(each: Container) -> Container:
        netns = near(number, each.netns) if each.netns is not None else None
        return replace(each, name=f"{name}:{each.name}", netns=netns)

    return replace(
        snapshot,
        host_netns=near(number, snapshot.host_netns),
        namespaces=tuple(namespace(each) for each in snapshot.namespaces),
        intent=replace(snapshot.intent, containers=tuple(container(each) for each in snapshot.intent.containers)),
        gaps=tuple(
            Gap(section=each.section, netns=f"{name}:{each.netns}" if each.netns else name, reason=each.reason)
            for each in snapshot.gaps
        ),
    )


def joined(own: Snapshot, others: Iterable[tuple[str, int, Snapshot]]) -> Snapshot:
    """Return one snapshot of all hosts: this one's, then each other's (name, number, snapshot as it was read there)."""
    for name, number, snapshot in others:
        other = renamed(snapshot, name, number)
        known = {network.id for network in own.intent.networks}
        ids = {container.id for container in own.intent.containers}
        own = replace(
            own,
            namespaces=(*own.namespaces, *other.namespaces),
            intent=Intent(
                engines=own.intent.engines or other.intent.engines,
                networks=(
                    *own.intent.networks,
                    *(each for each in other.intent.networks if each.id not in known),
                ),
                containers=(
                    *own.intent.containers,
                    *(each for each in other.intent.containers if each.id not in ids),
                ),
                services=own.intent.services if own.intent.services is not None else other.intent.services,
            ),
            gaps=(*own.gaps, *other.gaps),
            peers=(*own.peers, Peer(name=name, number=number, host_netns=other.host_netns, host=other.host)),
        )
    return own


def far_flow(flow: Flow, number: int) -> Flow:
    """Return a flow as another host knows it: an end's namespace counts only where it is on that host."""

    def end(each: FlowEnd) -> FlowEnd:
        here = each.netns is not None and each.netns >> HOST_SHIFT == number
        return replace(each, netns=each.netns & _INODE if here and each.netns is not None else None)

    return replace(flow, src=end(flow.src), dst=end(flow.dst))


def far_point(point: Point) -> Point:
    """Return a point as its own host knows it."""
    return replace(point, netns=point.netns & _INODE)


class Clock:
    """What is known of another host's clock: `offset_ns` is what it shows more than this one's.

    `error_ns` is how far off that may be: half of a round trip.
    """

    def __init__(self, offset_ns: int, error_ns: int) -> None:
        self.offset_ns = offset_ns
        self.error_ns = error_ns


def offset(own: Observation, other: Observation, asked: Clock) -> Clock:
    """Return how far the other host's clock is ahead, by the packets themselves where they went there and back.

    As NTP does it (RFC 5905, section 8): of a probe and its answer, the last time that this host sent it, the first
    that the other saw it, the last that the other sent the answer, the first that it was seen here. Where there was no
    answer, the estimate of the ssh exchange (`asked`) stands, moved as little as it takes for no packet to arrive
    before it was sent.
    """
    best: Clock | None = None
    ahead = asked.offset_ns
    for nonce in dict.fromkeys(each.nonce for each in other.sightings if each.nonce is not None):
        sent = _time(own, nonce, SightingKind.PROBE, Way.OUT, last=True)
        came = _time(other, nonce, SightingKind.PROBE, Way.IN, last=False)
        back = _time(other, nonce, SightingKind.REPLY, Way.OUT, last=True)
        home = _time(own, nonce, SightingKind.REPLY, Way.IN, last=False)
        if sent is not None and came is not None:
            ahead = min(ahead, came - sent)
        if sent is None or came is None or back is None or home is None:
            continue
        measured = Clock(((came - sent) + (back - home)) // 2, abs((home - sent) - (back - came)) // 2)
        if best is None or measured.error_ns < best.error_ns:
            best = measured
    return best or Clock(ahead, asked.error_ns)


def _time(seen: Observation, nonce: int, kind: SightingKind, way: Way, *, last: bool) -> int | None:
    times = [each.at_ns for each in seen.sightings if (each.nonce, each.kind, each.way) == (nonce, kind, way)]
    return (max(times) if last else min(times)) if times else None


def merged(own: Observation, others: Sequence[tuple[Observation, Clock]]) -> Observation:
    """Return one observation of all hosts, in the order of this host's clock.

    What another host says of a point takes the place of what this one could not say.
    """
    frames: list[tuple[Frame, Sighting | None]] = _heard(own, 0)
    captures = {each.point: each for each in own.captures}
    for other, clock in others:
        frames += _heard(other, clock.offset_ns)
        captures |= {each.point: each for each in other.captures}
    frames.sort(key=lambda each: each[0].at_ns)
    return replace(
        own,
        captures=tuple(captures.values()),
        frames=tuple(frame for frame, _sighting in frames),
        sightings=tuple(
            replace(sighting, frame=index, at_ns=frame.at_ns)
            for index, (frame, sighting) in enumerate(frames)
            if sighting is not None
        ),
    )


def _heard(seen: Observation, ahead_ns: int) -> list[tuple[Frame, Sighting | None]]:
    by_frame = {each.frame: each for each in seen.sightings}
    return [
        (replace(frame, at_ns=frame.at_ns - ahead_ns), by_frame.get(index)) for index, frame in enumerate(seen.frames)
    ]
