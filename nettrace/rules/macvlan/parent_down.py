"""The parent of a macvlan (or ipvlan) interface is down or without carrier.

What it reports: the device under the container's interface does not pass packets.
Why traffic stops: a macvlan sends and receives through its parent, and follows its state.
Proof: the parent's link row.
Remedy: set the parent up, or mend its cable.
Known limits: none.
Seen in the field: a parent that is a bond or a wireless device, or is down, carries nothing (for-linux#202).
"""

from __future__ import annotations

from nettrace.model.path import Reason, Segment
from nettrace.model.snapshot import Link
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import bring_up, together
from nettrace.rules.faults import blockers, errno_or_wire, view_of
from nettrace.rules.wording import enter, link_evidence

KINDS = ("macvlan", "ipvlan")
REASONS = (Reason.LINK_DOWN, Reason.NO_CARRIER, Reason.NO_ROUTE, Reason.NEIGHBOUR_FAILED)


def check(case: Case) -> Result:
    """Fire for stops at a macvlan or its parent while the parent is down or has no carrier."""
    hits = []
    for blocker, step in blockers(case, *REASONS):
        view = view_of(case, step)
        for child_view, child in _children(case, view, step.ifindex):
            parent = case.peer_of(child_view, child)
            if parent is None or (parent[1].up and parent[1].lower_up):
                continue
            where, device = parent
            state = "down" if not device.up else "without carrier"
            change = None
            if not device.up:
                # A child has the carrier of its parent, and its routes count again with it.
                change = together(bring_up(where.id, device.ifindex), bring_up(child_view.id, child.ifindex))
            hits.append(
                Hit(
                    title=f"{device.name}, the parent of {child.name} in {child_view.name}, is {state}",
                    explanation=f"{child.name} in {child_view.name} is a {child.kind} on {device.name}, which is "
                    f"{state}, so nothing gets in or out.",
                    at=f"{where.name}/{device.name}",
                    evidence=(
                        link_evidence(where, device),
                        link_evidence(child_view, child),
                        *errno_or_wire(case, blocker),
                    ),
                    mend=Mend(
                        summary="Set the parent up." if not device.up else "Mend what the parent is connected to.",
                        commands=(f"{enter(case, where.id)}ip link set {device.name} up",),
                        change=change,
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=Segment.EGRESS,
                    device=device.name,
                    netns=where.id,
                )
            )
            break
    return fired(*hits)


def _children(case: Case, view: View, ifindex: int | None) -> list[tuple[View, Link]]:
    """Return the macvlans that a stop can be about: the device itself, those on it, or all of a container's own."""
    link = view.links.get(ifindex or 0)
    if link is not None and link.kind in KINDS:
        return [(view, link)]
    ends = [case.view(end.netns) for end in (case.flow.src, case.flow.dst)]
    own = [(each, child) for each in ends if each is not None for child in each.links.values() if child.kind in KINDS]
    if link is None:
        return [pair for pair in own if pair[0].id == view.id]
    return [pair for pair in own if (pair[1].peer_ifindex, pair[0].peer(pair[1])) == (link.ifindex, view.id)]


RULE = rule("macvlan.parent-down", check, rank=18, needs=("links",))
