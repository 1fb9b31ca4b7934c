"""A bridge port is not in forwarding state.

What it reports: a port that the frame enters or leaves by is disabled, listening, learning or blocking.
Why traffic stops: the bridge takes and gives frames only on forwarding ports.
Proof: the port's state; frames seen at the port and not behind the bridge.
Remedy: set the port to forwarding.
Known limits: with STP running, the state is the protocol's decision: look at the topology first.
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
    for blocker, step in blockers(case, Reason.PORT_BLOCKED):
        view = view_of(case, step)
        port = view.links[step.ifindex or 0]
        if not (port.up and port.lower_up):
            # The bridge itself disables a port without carrier (br_port_carrier_check): link.down says why.
            continue
        hits.append(
            Hit(
                title=f"bridge port {port.name} does not forward",
                explanation=f"{step.text}: the bridge discards its frames.",
                at=f"{view.name}/{port.name}",
                evidence=(link_evidence(view, port), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the port to forwarding.",
                    commands=(f"bridge link set dev {port.name} state 3",),
                    change=set_port(view.id, port.ifindex, state=3),
                ),
                basis=blocker.basis,
                blocker=blocker,
                device=port.name,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("bridge.port-blocked", check, rank=23, needs=("links",))
