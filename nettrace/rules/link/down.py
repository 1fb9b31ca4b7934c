"""An interface on the path is administratively down.

What it reports: an interface that the packet needs is not up.
Why traffic stops: a device that is down neither sends nor receives, its routes are gone, and its peer has no
    carrier.
Proof: IFF_UP of the link; the point before it saw the packet, none behind it did.
Remedy: ip link set X up, and what was lost with it: the container's default route.
Known limits: a device that is down on purpose cannot be told from one that is not.
Seen in the field: a network manager or a failed start leaves docker0 or a veth down (ddev#1671, coreos#2501).
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Direction, Reason, Segment, Step
from nettrace.model.snapshot import Link
from nettrace.predict import route as routing
from nettrace.predict.segment import Places
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import Change, add_route, bring_up, default_route, together
from nettrace.rules.faults import attachment, blockers, errno_or_wire, passed_by, view_of
from nettrace.rules.wording import enter, link_evidence

EFFECTS = (
    Reason.LINK_DOWN,
    Reason.NO_CARRIER,
    Reason.NO_ROUTE,
    Reason.NO_SOURCE_ADDRESS,
    Reason.NEIGHBOUR_FAILED,
    Reason.PEER_DOWN,
    Reason.PORT_BLOCKED,
    Reason.NOT_ENCAPSULATED,
    Reason.FILTERED,
)


def check(case: Case) -> Result:
    """Fire for the interface that is down behind each stop: itself, its peer, or the one whose routes are gone."""
    hits = []
    for blocker, step in blockers(case, *EFFECTS):
        found = _down(case, step)
        if found is not None:
            hits.append(_hit(case, blocker, *found))
    return fired(*hits)


def _down(case: Case, step: Step) -> tuple[View, Link] | None:
    """Return the interface that is down and explains a stop."""
    view = view_of(case, step)
    link = view.links.get(step.ifindex or 0)
    if step.reason is Reason.LINK_DOWN and link is not None:
        if link.up and link.master in view.links:
            link = view.links[link.master]
        return (view, link) if not link.up else None
    if step.reason is Reason.PORT_BLOCKED and link is not None:
        peer = case.peer_of(view, link)
        if not link.up:
            return view, link
        return peer if not link.lower_up and peer is not None and not peer[1].up else None
    if step.reason in (Reason.NO_CARRIER, Reason.PEER_DOWN) and link is not None:
        peer = case.peer_of(view, link)
        if peer is not None:
            return peer if not peer[1].up else None
        for port in view.ports.get(link.ifindex, ()):
            other = case.peer_of(view, port)
            if not port.up:
                return view, port
            if other is not None and not other[1].up:
                return other
        return None
    if step.reason is Reason.FILTERED:
        past = passed_by(case, step)
        return past[:2] if past is not None and not past[1].up else None
    if step.reason is Reason.NOT_ENCAPSULATED:
        return _past_the_overlay(case, step)
    if step.reason is Reason.NEIGHBOUR_FAILED:
        return _silent_holder(case, step)
    return _lost_routes(case, view)


def _lost_routes(case: Case, view: View) -> tuple[View, Link] | None:
    """Return an interface that is down and holds addresses, or is the container's own: its routes went with it."""
    own = attachment(case, case.flow.src) if view.id == case.flow.src.netns else None
    if own is not None and not own[1].up:
        return own[0], own[1]
    for link in view.links.values():
        held = [each for each in view.addresses.get(link.ifindex, ()) if each.address.version == case.flow.family]
        if not link.up and not link.loopback and (held or view.id == case.flow.src.netns):
            return view, link
    return None


def _past_the_overlay(case: Case, step: Step) -> tuple[View, Link] | None:
    """Return the interface of an overlay's network that is down at the end which a packet left by another way."""
    for end in (case.flow.src, case.flow.dst):
        view = case.view(end.netns)
        for endpoint, network in case.attachments(case.container_of(end)):
            link = case.link_of(view, endpoint) if view is not None else None
            if any(step.packet.dst in pool.subnet for pool in network.subnets) and link is not None and not link.up:
                assert view is not None
                return view, link
    return None


def _silent_holder(case: Case, step: Step) -> tuple[View, Link] | None:
    """Return the interface that holds the next hop's address and is down, or a port on the way to it that is."""
    for view in case.world.views.values():
        if not case.world.same_host(view.id, step.netns):
            continue
        holder = view.owned.get(step.next_hop) if step.next_hop is not None else None
        link = view.links.get(holder) if holder is not None else None
        if link is None:
            continue
        if not link.up:
            return view, link
        peer = case.peer_of(view, link)
        if peer is not None and not peer[1].up:
            return peer
    for end in (case.flow.src, case.flow.dst):
        own = attachment(case, end)
        if own is None:
            continue
        for where, device in ((own[0], own[1]), (own[2], own[3])):
            if where is not None and device is not None and not device.up:
                return where, device
        bridge = own[2].by_name.get(own[5].bridge or "") if own[2] is not None else None
        if own[2] is not None and bridge is not None and not bridge.up:
            return own[2], bridge
    return None


def _hit(case: Case, blocker: Blocker, view: View, link: Link) -> Hit:
    prefix = enter(case, view.id)
    commands = [f"{prefix}ip link set {link.name} up"]
    changes: list[Change] = [bring_up(view.id, link.ifindex)]
    own = attachment(case, case.flow.src)
    if own is not None and own[1] == link and own[4].gateway is not None and link.ifindex in view.addresses:
        commands.append(f"{prefix}ip route add default via {own[4].gateway}")
        changes.append(add_route(view.id, default_route(own[4].gateway, link.ifindex)))
    elif _route_went_too(case, view, link):
        commands.append(f"{prefix}ip route add default via <gateway> dev {link.name}")
        changes = []
    segment = Places(case.world, case.flow).device(view, link)
    return Hit(
        title=f"{link.name} in {view.name} is down",
        explanation=f"The interface {link.name} of {view.name} is administratively down, so nothing passes it.",
        at=f"{view.name}/{link.name}",
        evidence=(link_evidence(view, link), *errno_or_wire(case, blocker)),
        mend=Mend(
            summary="Set the interface up"
            + (", and put back the default route that went with it." if len(commands) > 1 else "."),
            commands=tuple(commands),
            change=together(*changes) if changes else None,
        ),
        basis=blocker.basis,
        blocker=blocker,
        segment=segment if segment is not Segment.REMOTE else None,
        device=link.name,
        netns=view.id,
    )


def _route_went_too(case: Case, view: View, link: Link) -> bool:
    """Tell whether nothing would lead out by a link that is set up again: its own routes were deleted with it."""
    destination = case.flow.dst.address
    if destination is None or link.master is not None or case.world.owner_of_address(destination) is not None:
        return False
    mended = View(next(ns for ns in bring_up(view.id, link.ifindex)(case.before).namespaces if ns.id == view.id))
    steps = [step for step in case.steps(Direction.FORWARD) if step.netns == view.id]
    packet = steps[-1].packet if steps else None
    return packet is not None and link.ifindex in view.addresses and routing.lookup(mended, packet).route is None


RULE = rule("link.down", check, rank=20, needs=("links",))
