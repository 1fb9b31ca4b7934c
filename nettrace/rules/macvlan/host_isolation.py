"""A macvlan interface and its parent's host cannot talk, by design.

What it reports: the packet goes from a macvlan child to an address of the parent's host.
Why traffic stops: a macvlan child sends past the parent's own stack.
Proof: the parent relation; the destination's MAC is the parent's.
Remedy: give the host a macvlan interface of its own.
Known limits: none.
Seen in the field: everybody reaches the container but its own host, by design of the driver (libnetwork#1915,
    docs#6745, docs#22607, docs#10751, docs#16360). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a frame of a child is for its parent."""
    hits = []
    for blocker, step in blockers(case, Reason.MACVLAN_ISOLATED):
        view = view_of(case, step)
        parent = view.links[step.ifindex or 0]
        hits.append(
            Hit(
                title=f"macvlan keeps the container and {parent.name}'s host apart",
                explanation=f"{step.text}: that is how macvlan works.",
                at=f"{view.name}/{parent.name}",
                evidence=(link_evidence(view, parent), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary=(
                        "Give the host a macvlan interface of its own on the same parent, with a route to the "
                        "container."
                    ),
                    commands=(f"ip link add shim0 link {parent.name} type macvlan mode bridge",),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("macvlan.host-isolation", check, rank=53, needs=("links",))
