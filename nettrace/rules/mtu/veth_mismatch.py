"""The two ends of a veth pair, or a port and its bridge, disagree on the MTU.

What it reports: a frame is longer than the receiving end of a veth pair takes.
Why traffic stops: veth discards it silently; no ICMP is sent on layer 2.
Proof: both MTUs; the frame seen at one end and not at the other.
Remedy: set the same MTU on both ends.
Known limits: none.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from nettrace.model.path import Direction, Reason, StepKind
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_link
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a frame does not fit into the receiving end of a pair."""
    hits = []
    for blocker, step in blockers(case, Reason.FRAME_TOO_BIG):
        view = view_of(case, step)
        link = view.links[step.ifindex or 0]
        peer = case.peer_of(view, link)
        sender = _sender(case, blocker.direction)
        if sender is not None and link.mtu >= sender.mtu:
            continue  # its own device takes no such frame either: none comes here
        size = peer[1].mtu if peer is not None else step.packet.length
        told = f"The two ends of the pair disagree: {link.name} takes {link.mtu} bytes, its peer sends up to {size}"
        if size <= link.mtu and sender is not None:
            size = sender.mtu
            told = f"{link.name} takes {link.mtu} bytes, and the sender's {sender.name} sends up to {size}"
        hits.append(
            Hit(
                title=f"{step.packet.length} bytes do not fit into {link.name} (MTU {link.mtu})",
                explanation=f"{told}; longer frames vanish without an error.",
                at=f"{view.name}/{link.name}",
                evidence=(
                    link_evidence(view, link),
                    *((link_evidence(*peer),) if peer is not None else ()),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Give both ends the same MTU.",
                    commands=(f"{enter(case, view.id)}ip link set {link.name} mtu {size}",),
                    change=set_link(view.id, link.ifindex, mtu=size),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


def _sender(case: Case, direction: Direction) -> Link | None:
    """Return the device by which a leg's packet leaves its first namespace."""
    steps = case.steps(direction)
    first = steps[0].netns if steps else None
    view = case.view(first)
    step = next((each for each in steps if each.netns == first and each.ifindex and each.kind is StepKind.ROUTE), None)
    return view.links.get(step.ifindex or 0) if view is not None and step is not None else None


RULE = rule("mtu.veth-mismatch", check, rank=69, needs=("links",), severity=Severity.DEGRADING)
