"""A static forwarding entry sends the frame out of the wrong port.

What it reports: the bridge's forwarding table holds a permanent entry for the MAC on another port than its owner's.
Why traffic stops: static entries beat what the bridge would learn.
Proof: the entry against the port that the MAC's owner is behind.
Remedy: delete the entry.
Known limits: none.
Seen in the field: a MAC address stays on a port other than its veth, and the container is unreachable until it sends
    (moby#35922, k3s#1719).
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_fdb
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop at a port for this reason."""
    hits = []
    for blocker, step in blockers(case, Reason.FDB_WRONG_PORT):
        view = view_of(case, step)
        port = view.links[step.ifindex or 0]
        hits.append(
            Hit(
                title="a static forwarding entry points at the wrong port",
                explanation=f"{step.text}.",
                at=f"{view.name}/{port.name}",
                evidence=(link_evidence(view, port), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Delete the entry.",
                    commands=(f"bridge fdb del {step.fdb.mac if step.fdb else '<mac>'} dev {port.name} master",),
                    change=delete_fdb(view.id, step.fdb.mac, port.ifindex) if step.fdb else None,
                ),
                basis=blocker.basis,
                blocker=blocker,
                device=port.name,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("bridge.fdb-wrong", check, rank=26, needs=("links",))
