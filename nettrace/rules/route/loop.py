"""The packet runs in a circle until its TTL is used up.

What it reports: two routes send the packet back and forth.
Why traffic stops: each pass takes one off the TTL, and at zero the packet is discarded.
Proof: the TTL at the points; ICMP time exceeded.
Remedy: break the loop at one of the routes.
Known limits: loops beyond this host show as an ICMP error from there.
"""

from __future__ import annotations

from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import TIME_EXCEEDED, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the TTL runs out on this host."""
    hits = []
    for blocker, step in blockers(case, Reason.TTL_EXCEEDED):
        view = view_of(case, step)
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
    exceeded = TIME_EXCEEDED[0 if case.flow.family == 4 else 1]
    expired = [each for each in case.correlation.errors if (each.packet.icmp_type, each.packet.icmp_code) == exceeded]
    if not hits and expired and case.blockers:
        first = expired[0]
        hits.append(
            Hit(
                title=f"the packet runs in a circle beyond this host, says {first.packet.src}",
                explanation=f"{first.packet.src} answered that the packet's TTL ran out: routers beyond this host send "
                "it round and round.",
                at=first.point,
                evidence=(
                    Evidence(kind=EvidenceKind.ICMP, ref=first.point, text=f"time exceeded, from {first.packet.src}"),
                ),
                mend=Mend(
                    summary=f"Ask whoever runs {first.packet.src} about its route to {case.flow.dst.address}.",
                    commands=(f"traceroute -n {case.flow.dst.address}",),
                ),
                basis=case.blockers[0].basis,
                blocker=case.blockers[0],
                direction=Direction.FORWARD,
                segment=Segment.REMOTE,
            )
        )
    return fired(*hits)


RULE = rule("route.loop", check, rank=52, needs=("routes",))
