"""Somebody beyond this host answers with an error or a reset.

What it reports: the packet left this host, and an ICMP error or a TCP reset came back.
Why traffic stops: a router or the target refuses it.
Proof: the packet that came back, and who sent it.
Remedy: ask whoever runs the sender of the error.
Known limits: none.
Seen in the field: no single report stands for it: the far side's own refusal is taken for a fault of the container's
    network.
"""

from __future__ import annotations

from nettrace.model.path import Direction, LegEnd, Segment, StepKind
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.user_network import behind_process
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.mtu_facts import TOO_BIG
from nettrace.rules.wording import TIME_EXCEEDED, answer_text


def check(case: Case) -> Result:
    """Fire when the flow left this host and was refused from there."""
    correlation = case.correlation
    if case.trace.forward.passing is not LegEnd.LEFT or not case.blockers:
        return fired()
    refusals = [
        each
        for each in correlation.errors
        if (each.packet.icmp_type, each.packet.icmp_code) not in _no_refusals(each.packet.family)
    ] + list(correlation.resets)
    if not refusals or behind_process(case.world, case.flow.dst.netns, case.flow.dst.address) is not None:
        return fired()
    # Between the hosts of an overlay the refusal is seen in its tunnel; who sent it shows on this side of it.
    inside = [each for each in refusals if each.packet.proto != 17]
    first = (inside or refusals)[0]
    what = (
        f"ICMP type {first.packet.icmp_type} code {first.packet.icmp_code}"
        if first in correlation.errors
        else "a TCP reset"
    )
    kind = EvidenceKind.ICMP if first in correlation.errors else EvidenceKind.PACKET
    return fired(
        Hit(
            title=f"{first.packet.src} refuses the packet ({what})",
            explanation=f"The packet left {_by(case)} correctly, and {first.packet.src} answered with {what}.",
            at=first.point,
            evidence=(Evidence(kind=kind, ref=first.point, text=answer_text(first)),),
            mend=Mend(summary=f"Ask whoever runs {first.packet.src}; nothing on this host stops the packet."),
            basis=case.blockers[0].basis,
            blocker=case.blockers[0],
            direction=Direction.FORWARD,
            segment=Segment.REMOTE,
        )
    )


def _no_refusals(family: int) -> tuple[tuple[int, int], ...]:
    """Return what has codes of its own: type 3 code 0 means "time exceeded" in ICMPv6, "net unreachable" in ICMP."""
    return TOO_BIG[0 if family == 4 else 1], TIME_EXCEEDED[0 if family == 4 else 1]


def _by(case: Case) -> str:
    """Say what the packet left: this host, or a container for the process behind its tap."""
    out = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.LEAVE), None)
    view = case.view(out.netns) if out is not None else None
    link = view.by_name.get(out.device or "") if view is not None and out is not None else None
    if view is None or link is None or link.kind != "tun":
        return "this host"
    return f"{view.name} for {link.reader or 'the process'} behind {link.name}"


RULE = rule("remote.rejected", check, rank=91, needs=("links",))
