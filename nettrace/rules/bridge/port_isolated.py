"""Both ports are isolated from each other.

What it reports: the frame comes in by an isolated port and would leave by another isolated one.
Why traffic stops: isolated ports may talk only to ports that are not.
Proof: the flag of both ports.
Remedy: take the flag off one of them.
Known limits: none.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_port
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop at a port for this reason."""
    hits = []
    for blocker, step in blockers(case, Reason.PORT_ISOLATED):
        view = view_of(case, step)
        port = view.links[step.ifindex or 0]
        hits.append(
            Hit(
                title="ports of the bridge are isolated from each other",
                explanation=f"{step.text}, so the bridge carries nothing between them.",
                at=f"{view.name}/{port.name}",
                evidence=(link_evidence(view, port), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Take the isolation off one of the ports.",
                    commands=(f"bridge link set dev {port.name} isolated off",),
                    change=set_port(view.id, port.ifindex, isolated=False),
                ),
                basis=blocker.basis,
                blocker=blocker,
                device=port.name,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("bridge.port-isolated", check, rank=24, needs=("links",))
