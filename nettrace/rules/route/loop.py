"""The packet runs in a circle until its TTL is used up.

What it reports: two routes send the packet back and forth.
Why traffic stops: each pass takes one off the TTL, and at zero the packet is discarded.
Proof: the TTL at the points; ICMP time exceeded.
Remedy: break the loop at one of the routes.
Known limits: loops beyond this host show as an ICMP error from there.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from nettrace.model.observe import SightingKind, Way
from nettrace.model.path import Direction, Reason, Segment, StepKind
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.rewrites import LIFETIME, culprit
from nettrace.rules.wording import TIME_EXCEEDED, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the TTL runs out on this host."""
    hits = []
    here = blockers(case, Reason.TTL_EXCEEDED)
    for blocker, step in here:
        view = view_of(case, step)
        if culprit(case, blocker, LIFETIME) is not None:
            continue  # filter.rule-drop names the rule
        hits.append(
            Hit(
                title=f"the packet runs in a circle through {view.name}",
                explanation=(
                    f"The routes send the packet to {step.packet.dst} round and round until its TTL is used up."
                ),
                at=view.name,
                evidence=(*route_evidence(view, step.route), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Break the loop: one of the routes must go elsewhere.",
                    commands=(f"ip route get {step.packet.dst}",),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    seen = _back_again(case)
    if not here and seen is not None and case.blockers:
        kind, point, text = seen
        hits.append(
            Hit(
                title="the packet runs in a circle beyond this host",
                explanation=f"Routers beyond this host send the packet round and round: {text}.",
                at=point,
                evidence=(Evidence(kind=kind, ref=point, text=text),),
                mend=Mend(
                    summary=f"Ask whoever runs the next router about its route to {case.flow.dst.address}.",
                    commands=(f"traceroute -n {case.flow.dst.address}",),
                ),
                basis=case.blockers[0].basis,
                blocker=case.blockers[0],
                direction=Direction.FORWARD,
                segment=Segment.REMOTE,
            )
        )
    return fired(*hits)


def _back_again(case: Case) -> tuple[EvidenceKind, str, str] | None:
    """Return what shows a loop beyond this host: its error, or the probe itself coming in where it had left."""
    exceeded = TIME_EXCEEDED[0 if case.flow.family == 4 else 1]
    for each in case.correlation.errors:
        if (each.packet.icmp_type, each.packet.icmp_code) == exceeded:
            return EvidenceKind.ICMP, each.point, f"{each.packet.src} answered that the packet's TTL ran out"
    leave = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.LEAVE), None)
    view = case.view(leave.netns) if leave is not None else None
    for each in case.observation.sightings if case.observation is not None else ():
        if leave is None or view is None or each.kind is not SightingKind.PROBE or each.way is not Way.IN:
            continue
        if each.point == f"{view.name}/{leave.device}" and not _for_a_child(case, each.packet.dst_mac):
            return EvidenceKind.PACKET, each.point, f"the probe came back in by {leave.device}, where it had left"
    return None


def _for_a_child(case: Case, mac: str | None) -> bool:
    """Tell whether a frame is for a macvlan child: from one child to the other it is shown to their parent's taps."""
    kinds = ("macvlan", "macvtap")
    return any(
        link.kind in kinds and link.mac == mac and view.id != case.flow.src.netns
        for view in case.world.views.values()
        for link in view.links.values()
    )


RULE = rule("route.loop", check, rank=52, needs=("routes",))
