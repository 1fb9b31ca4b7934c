"""The packet runs in a circle until its TTL is used up.

What it reports: two routes send the packet back and forth.
Why traffic stops: each pass takes one off the TTL, and at zero the packet is discarded.
Proof: the TTL at the points; ICMP time exceeded.
Remedy: break the loop at one of the routes.
Known limits: loops beyond this host show as an ICMP error from there.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import route_evidence, wire_evidence


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
    return fired(*hits)


RULE = rule("route.loop", check, rank=52, needs=("routes",))
