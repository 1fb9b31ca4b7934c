"""The words and choices that every rendering of a verdict shares, so that no two can differ."""

from __future__ import annotations

import msgspec

from nettrace.model.base import IPAddress
from nettrace.model.path import Direction, Segment
from nettrace.model.verdict import (
    Basis,
    FlowEndView,
    FlowView,
    Hop,
    ObservedSight,
    PacketView,
    PredictedSight,
    Result,
    Severity,
    Stop,
    Verdict,
)
from nettrace.render.safe import safe

__all__ = [
    "BASIS",
    "SEGMENT",
    "end_name",
    "endpoint",
    "first_leg_line",
    "flow_name",
    "headline",
    "host_line",
    "lookup_line",
    "note_lines",
    "place_of_stop",
    "probed",
    "rewritten",
    "stop_position",
]

#: Where a packet stops, to be read after "stops".
SEGMENT: dict[Segment, str] = {
    Segment.SOURCE: "in the source's own namespace",
    Segment.BRIDGE: "at the bridge",
    Segment.HOST: "in the host's IP stack",
    Segment.EGRESS: "on its way out of the host",
    Segment.UNDERLAY: "between the hosts of the overlay",
    Segment.REMOTE: "beyond this host",
    Segment.DESTINATION: "at the destination",
}

BASIS: dict[Basis, str] = {
    Basis.OBSERVED: "observed",
    Basis.PREDICTED: "predicted",
    Basis.BOTH: "predicted and observed",
}


def end_name(end: FlowEndView) -> str:
    """Return what a person calls one end of the flow."""
    if end.name:
        return safe(end.name)
    return str(end.address) if end.address is not None else end.kind.value


def flow_name(flow: FlowView, arrow: str = "→") -> str:
    """Return the flow as "web → 8.8.8.8 (icmp)", with port and size where the question named them."""
    what = flow.proto.value if flow.dport is None else f"{flow.proto.value}/{flow.dport}"
    if flow.size is not None:
        what += f", {flow.size} bytes"
    if flow.family == 6:
        what += ", IPv6"
    return f"{end_name(flow.src)} {arrow} {end_name(flow.dst)} ({what})"


def probed(verdict: Verdict) -> bool:
    """Tell whether anyone listened: False for an answer of the model alone."""
    return any(hop.observed is not ObservedSight.NOT_PROBED for hop in verdict.hops)


def headline(verdict: Verdict, arrow: str = "→") -> str:
    """Return the verdict in one line, without its outcome word: the flow, what became of it, and the first code."""
    return f"{flow_name(verdict.flow, arrow)}: {_what_became(verdict)}{_codes(verdict)}"


def lookup_line(verdict: Verdict) -> str:
    """Return what was learnt about the destination's name in one line; "" where it was given as none."""
    lookup = verdict.lookup
    return "" if isinstance(lookup, msgspec.UnsetType) else f"Name: {safe(lookup.told)}."


def note_lines(verdict: Verdict) -> list[str]:
    """Return what there is to know about the ends of the flow, a line each."""
    return [] if isinstance(verdict.notes, msgspec.UnsetType) else [f"Note: {safe(each)}." for each in verdict.notes]


def first_leg_line(verdict: Verdict, arrow: str = "→") -> str:
    """Return which way the path shows, where that is the way to a name server; else ""."""
    flow = None if isinstance(verdict.lookup, msgspec.UnsetType) else verdict.lookup.flow
    return "" if flow is None or not verdict.hops else f"The way of the query: {flow_name(flow, arrow)}"


def _what_became(verdict: Verdict) -> str:
    lookup = verdict.lookup
    first = verdict.findings[0].code if verdict.findings else ""
    if not isinstance(lookup, msgspec.UnsetType) and lookup.outcome is Result.STOPPED and first.startswith("dns."):
        if not verdict.hops:
            return "the name has no address here"
        return f"the name cannot be looked up: {_stopped(verdict.stop, 'the query')}"
    match verdict.outcome:
        case Result.DELIVERED:
            return _delivered(verdict)
        case Result.STOPPED:
            return _stopped(verdict.stop)
        case Result.DEGRADED:
            if verdict.stop is not None:  # this size or kind of packet is lost, others are not
                return _stopped(verdict.stop)
            losses = next((gap.reason for gap in verdict.gaps if gap.section == "probe"), None)
            return losses or "it gets through, but not as it should"
        case Result.INCONCLUSIVE:
            return "the evidence does not settle it"


def _delivered(verdict: Verdict) -> str:
    if not probed(verdict):
        return "the model delivers it and its reply; no packet was sent"
    return "it arrives, and the reply comes back" + _round_trip(verdict.hops)


def _round_trip(hops: tuple[Hop, ...]) -> str:
    """Time from the first sight of the probe to the last of its reply."""
    forward = [hop.at_ns for hop in hops if hop.direction is Direction.FORWARD and hop.at_ns is not None]
    reply = [hop.at_ns for hop in hops if hop.direction is Direction.REPLY and hop.at_ns is not None]
    if not forward or not reply or max(reply) < min(forward):
        return ""
    return f" in {(max(reply) - min(forward)) / 1e6:.2f} ms"


def _stopped(stop: Stop | None, what: str = "it") -> str:
    if stop is None:
        return "traffic does not get through"
    if stop.direction is Direction.REPLY:
        if stop.segment is Segment.REMOTE:
            return "the reply never comes back"
        return f"{what} arrives, but the reply stops {SEGMENT[stop.segment]}"
    if stop.segment is Segment.SOURCE and stop.after is None:
        return f"{what} never leaves the source"
    return f"{what} stops {SEGMENT[stop.segment]}"


def _codes(verdict: Verdict) -> str:
    wanted = {Severity.BLOCKING, Severity.DEGRADING} if verdict.outcome is not Result.DELIVERED else set(Severity)
    codes = list(dict.fromkeys(finding.code for finding in verdict.findings if finding.severity in wanted))
    if not codes:
        return ""
    more = f" (and {len(codes) - 1} more)" if len(codes) > 1 else ""
    return f"; {safe(codes[0])}{more}"


def place_of_stop(verdict: Verdict) -> str:
    """Return where the flow stops as precisely as the verdict says: segment, device, netfilter hook; "" if nowhere."""
    stop = verdict.stop
    if stop is None:
        return ""
    words = [SEGMENT[stop.segment]]
    if stop.device is not None:
        names = {hop.netns: hop.point.rpartition("/")[0] for hop in verdict.hops}
        owner = names.get(stop.netns) if stop.netns is not None else None
        words.append(safe(f"{owner}/{stop.device}" if owner else stop.device))
    if stop.hook is not None:
        words.append(safe(f"{stop.hook.hook} {stop.hook.table}/{stop.hook.chain}"))
    return ", ".join(words)


def stop_position(verdict: Verdict) -> int | None:
    """Return the index in `hops` before which the flow stops; len(hops) when after them all, None when it does not."""
    stop, hops = verdict.stop, verdict.hops
    if stop is None:
        return None
    for index, hop in enumerate(hops):
        if hop.point == stop.before and hop.direction is stop.direction:
            return index
    for index in range(len(hops) - 1, -1, -1):
        if hops[index].point == stop.after and hops[index].direction is stop.direction:
            return index + 1
    replies = (index for index, hop in enumerate(hops) if hop.direction is Direction.REPLY)
    if stop.direction is Direction.REPLY:
        return next(replies, len(hops))
    if stop.after is None:
        return 0
    unseen = (
        index
        for index, hop in enumerate(hops)
        if hop.direction is Direction.FORWARD
        and (hop.observed is ObservedSight.NOT_SEEN or hop.predicted is PredictedSight.NOT_SEEN)
    )
    return next(unseen, next(replies, len(hops)))


def endpoint(address: IPAddress, port: int | None) -> str:
    """Return address and port as they are commonly written: 10.0.0.1:80, [2001:db8::1]:80."""
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def rewritten(hops: tuple[Hop, ...], index: int) -> tuple[bool, bool]:
    """Tell whether source and destination of a hop's packet differ from the hop before it in the same direction."""
    packet = hops[index].packet
    before: PacketView | None = None
    for hop in hops[:index]:
        if hop.direction is hops[index].direction and hop.packet is not None:
            before = hop.packet
    if packet is None or before is None:
        return False, False
    return (
        (packet.src, packet.sport) != (before.src, before.sport),
        (packet.dst, packet.dport) != (before.dst, before.dport),
    )


def host_line(verdict: Verdict) -> str:
    """Return what it cost and who says so: seconds, versions of tool, kernel and engine."""
    spent = verdict.timing
    parts = [
        f"{spent.total_s:.2f} s (collect {spent.collect_s:.2f}, probe {spent.probe_s:.2f})",
        f"nettrace {safe(verdict.tool.version)}",
        f"Linux {safe(verdict.host.kernel)}",
    ]
    if verdict.host.engine is not None:
        parts.append(safe(verdict.host.engine))
    return ", ".join(parts)
