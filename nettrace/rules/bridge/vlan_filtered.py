"""VLAN filtering keeps the ports apart.

What it reports: the bridge filters by VLAN, and the two ports share none.
Why traffic stops: a frame may leave only by ports in its VLAN.
Proof: vlan_filtering; the VLANs of both ports.
Remedy: put both ports into the same VLAN, or switch filtering off.
Known limits: none.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop at a port for this reason."""
    hits = []
    for blocker, step in blockers(case, Reason.VLAN_FILTERED):
        view = view_of(case, step)
        port = view.links[step.ifindex or 0]
        hits.append(
            Hit(
                title="VLAN filtering on the bridge keeps the ports apart",
                explanation=f"{step.text}, and the bridge filters by VLAN.",
                at=f"{view.name}/{port.name}",
                evidence=(link_evidence(view, port), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Put the port into the VLAN of the other.",
                    commands=(f"bridge vlan add dev {port.name} vid 1 pvid untagged",),
                    change=None,
                ),
                basis=blocker.basis,
                blocker=blocker,
                device=port.name,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("bridge.vlan-filtered", check, rank=25, needs=("links",))
