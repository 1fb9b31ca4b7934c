"""An interface is up, but has no carrier.

What it reports: an interface on the path is up while its lower side is gone.
Why traffic stops: the kernel discards what is sent on a device without carrier.
Proof: IFF_LOWER_UP; the peer, when it can be seen.
Remedy: mend the other end: the cable, the switch, the peer of the pair.
Known limits: a peer that is down is reported as link.down there.
Seen in the field: routes are shown as linkdown while containers run, since no port of the bridge is up. Common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a stop is at a device without carrier whose other end is not known to be down."""
    hits = []
    for blocker, step in blockers(case, Reason.NO_CARRIER):
        view = view_of(case, step)
        link = view.links[step.ifindex or 0]
        peer = case.peer_of(view, link)
        if peer is not None and not peer[1].up:
            continue
        hits.append(
            Hit(
                title=f"{link.name} in {view.name} has no carrier",
                explanation=f"{link.name} is up, but its lower side is gone, so whatever is sent on it is discarded.",
                at=f"{view.name}/{link.name}",
                evidence=(link_evidence(view, link), *wire_evidence(case, blocker)),
                mend=Mend(summary="Mend the other end of the link.", commands=(f"ip -d link show {link.name}",)),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("link.no-carrier", check, rank=21, needs=("links",))
