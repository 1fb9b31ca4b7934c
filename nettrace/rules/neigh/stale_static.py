"""A permanent neighbour entry holds the wrong MAC address.

What it reports: a static ARP or NDP entry names a MAC that is not the owner's.
Why traffic stops: the frame goes to nobody, and the entry never expires.
Proof: the entry against the owner's link.
Remedy: delete the entry.
Known limits: owners beyond this host cannot be compared.
"""

from __future__ import annotations

from nettrace.model.path import StepKind
from nettrace.model.text import neighbour_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_neighbour
from nettrace.rules.faults import view_of
from nettrace.rules.wording import enter, names, wire_evidence


def check(case: Case) -> Result:
    """Fire when a permanent entry on the way holds another MAC than the owner of the address, and the flow stops."""
    hits = []
    for blocker in case.blockers:
        for step in case.steps(blocker.direction):
            entry = step.neighbour
            if step.kind is not StepKind.NEIGHBOUR or entry is None or entry.state != "PERMANENT":
                continue
            owner = _owner_mac(case, step.next_hop)
            if owner is None or owner == entry.mac:
                continue
            view = view_of(case, step)
            hits.append(
                Hit(
                    title=f"a permanent neighbour entry for {entry.address} holds the wrong MAC",
                    explanation=(
                        f"{view.name} sends to {entry.mac} for {entry.address}, but that address is at {owner}."
                    ),
                    at=f"{view.name}/{step.device}",
                    evidence=(
                        Evidence(kind=EvidenceKind.NEIGHBOUR, ref=view.name, text=neighbour_text(entry, names(view))),
                        *wire_evidence(case, blocker),
                    ),
                    mend=Mend(
                        summary="Delete the entry; the right one is learnt.",
                        commands=(f"{enter(case, view.id)}ip neigh del {entry.address} dev {step.device}",),
                        change=delete_neighbour(view.id, entry),
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=step.segment,
                    device=step.device,
                    netns=view.id,
                )
            )
            return fired(*hits)
    return fired(*hits)


def _owner_mac(case: Case, address: object) -> str | None:
    """Return the MAC of the interface that holds an address here, None when nobody known does."""
    for view in case.world.views.values():
        for held, ifindex in view.owned.items():
            if held == address:
                return view.links[ifindex].mac
    return None


RULE = rule("neigh.stale-static", check, rank=32, needs=("neighbours",))
