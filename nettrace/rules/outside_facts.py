"""What is said of a question whose source lies beyond this host: what it takes for granted, and what was not shown."""

from __future__ import annotations

from nettrace.correlate import Inner
from nettrace.model.base import IPAddress
from nettrace.model.observe import Sighting, SightingKind, Way
from nettrace.model.path import Direction, StepKind
from nettrace.model.snapshot import Link
from nettrace.model.verdict import GapView
from nettrace.predict.world import View
from nettrace.rules.case import Case

__all__ = ["answer_spent", "assumed", "frame_astray", "out_of_reach"]


def assumed(case: Case) -> tuple[str, ...]:
    """Return what was taken for granted about a packet from outside: where it is sent to, and where it comes in."""
    flow = case.flow
    first = next(iter(case.steps(Direction.FORWARD)), None)
    if not flow.from_outside or first is None or first.kind is not StepKind.LEAVE or first.device is None:
        return flow.assumed
    way = (
        f"packets from {flow.src.address} come in by {first.device}, where this host's own route to it leads, and "
        "nothing beyond this host stops them or the answers"
    )
    return (*flow.assumed, way)


def frame_astray(case: Case) -> tuple[View, Link, Sighting] | None:
    """Return an answer from beyond this host in a frame that none of the devices it came to takes.

    Beside it the namespace and the device. A capture hears such frames where the wire brings them; the stack drops
    them as another host's.
    """
    leave = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.LEAVE), None)
    view = case.view(leave.netns) if leave is not None else None
    link = view.by_name.get(leave.device or "") if view is not None and leave is not None else None
    if view is None or link is None or link.mac is None or link.master is not None or link.macvlan_mode is not None:
        return None
    for each in case.observation.sightings if case.observation is not None else ():
        mac = each.packet.dst_mac
        if each.kind is not SightingKind.REPLY or each.point != f"{view.name}/{link.name}" or each.way is not Way.IN:
            continue
        known = {other.mac for there in case.world.views.values() for other in there.links.values()}
        if mac is not None and mac not in known and not int(mac[:2], 16) & 1:
            return view, link, each
    return None


def answer_spent(case: Case) -> Sighting | None:
    """Return where an answer was last seen, if its TTL is used up there and it had to be forwarded further."""
    seen = [each.sighting for each in case.correlation.passages if each.direction is Direction.REPLY and each.sighting]
    last = seen[-1] if seen else None
    point = case.trace.point(last.point) if last is not None else None
    view = case.view(point.netns) if point is not None else None
    if last is None or view is None or last.packet.ttl is None or last.packet.ttl > 1:
        return None
    # What was translated is for an address of the host, and goes on nevertheless.
    steps = case.steps(Direction.FORWARD)
    translated = any(step.netns == view.id and step.hook is not None and step.hook.nats for step in steps)
    return last if translated or last.packet.dst not in view.owned else None


def out_of_reach(case: Case, inner: Inner) -> GapView:
    """Return the gap that nothing could be sent from the source, with what a probe from this host showed instead."""
    sender, target = case.flow.src.address, case.flow.dst.name
    reason = f"nothing can be sent from {sender}, which is beyond this host: the way to {target} is predicted"
    if inner.packet is not None:
        src, dst = (_endpoint(address, port) for address, port in _ends(inner))
        shown = "was answered" if inner.answered else "arrived, and was not answered" if inner.arrived else "was lost"
        reason += f"; its last part was probed from this host ({src} → {dst}), and that {shown}"
    return GapView(section="probe", netns=None, reason=reason)


def _ends(inner: Inner) -> tuple[tuple[IPAddress, int | None], tuple[IPAddress, int | None]]:
    packet = inner.packet
    assert packet is not None
    return (packet.src, None), (packet.dst, packet.dport)


def _endpoint(address: IPAddress, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
