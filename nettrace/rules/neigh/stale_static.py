"""A neighbour entry holds the wrong MAC address.

What it reports: an ARP or NDP entry, set by hand or learnt, names a MAC that is not the owner's.
Why traffic stops: the frame goes to nobody; a static entry never expires, a learnt one serves until it is asked again.
Proof: the entry against the owner's link, or, for an owner beyond this host, against its answer when it is asked.
Remedy: delete the entry.
Known limits: an owner beyond this host that does not answer cannot be compared.
Seen in the field: peers keep an old MAC address for an address that has moved (cni#84, rkt#1765).
"""

from __future__ import annotations

from nettrace.model.observe import Sighting, SightingKind
from nettrace.model.path import Direction, Segment, Step, StepKind
from nettrace.model.text import neighbour_text
from nettrace.model.verdict import Basis, Evidence, EvidenceKind
from nettrace.predict.neigh import segment_of
from nettrace.rules.arp_filters import answers_with
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_neighbour
from nettrace.rules.faults import view_of
from nettrace.rules.wording import enter, names, wire_evidence


def check(case: Case) -> Result:
    """Fire when a permanent entry on the way holds another MAC than the owner of the address, and the flow stops."""
    hits = []
    for blocker in case.blockers:
        lost = blocker.segment is Segment.REMOTE  # on either way: nobody here can tell
        for step in case.steps(Direction.FORWARD if lost else blocker.direction):
            entry = step.neighbour
            if step.kind is not StepKind.NEIGHBOUR or entry is None or entry.mac is None:
                continue
            owner = _owner_mac(case, step.next_hop) or _tunnels_word(case, step)
            told = None if owner is not None else _answer_of(case, step.next_hop)
            if told is not None:
                owner = told.packet.src_mac
            if owner is None or owner == entry.mac:
                continue
            if entry.state not in _SET_BY_HAND and any(
                answers_with(each, entry.mac) for each in case.world.views.values()
            ):
                continue  # a rule of the bridge has said so, and would again: bridge.filter-drop
            view = view_of(case, step)
            answered = (
                (
                    Evidence(
                        kind=EvidenceKind.PACKET,
                        ref=told.point,
                        text=f"asked who has {entry.address}, {owner} answered",
                    ),
                )
                if told is not None
                else ()
            )
            hits.append(
                Hit(
                    title=f"{_kind(entry.state)} neighbour entry for {entry.address} holds the wrong MAC",
                    explanation=f"{view.name} sends to {entry.mac} for {entry.address}, but that address is at {owner}."
                    + ("" if entry.state in _SET_BY_HAND else " The kernel asks again within a minute or so."),
                    at=f"{view.name}/{step.device}",
                    evidence=(
                        Evidence(kind=EvidenceKind.NEIGHBOUR, ref=view.name, text=neighbour_text(entry, names(view))),
                        *answered,
                        *wire_evidence(case, blocker),
                    ),
                    mend=Mend(
                        summary="Delete the entry; the right one is learnt.",
                        commands=(f"{enter(case, view.id)}ip neigh del {entry.address} dev {step.device}",),
                        change=delete_neighbour(view.id, entry),
                    ),
                    basis=Basis.OBSERVED if told is not None else blocker.basis,
                    blocker=blocker,
                    direction=Direction.FORWARD if lost else None,
                    segment=step.segment,
                    device=step.device,
                    netns=view.id,
                )
            )
            return fired(*hits)
    return fired(*hits)


#: States that only somebody's command makes, and that never expire.
_SET_BY_HAND = ("PERMANENT", "NOARP")


def _kind(state: str) -> str:
    return {"PERMANENT": "a permanent", "NOARP": "a static (noarp)"}.get(state, "a learnt")


def _answer_of(case: Case, address: object) -> Sighting | None:
    """Return the ARP or NDP answer in which the owner of an address told its MAC, None when none was heard."""
    told = (SightingKind.ARP_REPLY, SightingKind.NDP_ADVERT)
    sightings = case.observation.sightings if case.observation is not None else ()
    return next((each for each in sightings if each.kind in told and each.packet.src == address), None)


def _tunnels_word(case: Case, step: Step) -> str | None:
    """Return the MAC by which a tunnel that answers for others knows the next hop, None where there is none."""
    view = view_of(case, step)
    link = view.links.get(step.ifindex or 0)
    for tunnel in segment_of(case.world, view, link).tunnels if link is not None else ():
        for (ifindex, address), entry in case.world.views[tunnel.netns].neighbours.items():
            if (ifindex, address) == (tunnel.ifindex, step.next_hop) and entry.mac is not None:
                return entry.mac
    return None


def _owner_mac(case: Case, address: object) -> str | None:
    """Return the MAC of the interface that holds an address here, None when nobody known does."""
    for view in case.world.views.values():
        for held, ifindex in view.owned.items():
            if held == address and ifindex in view.links:
                return view.links[ifindex].mac
    return None


RULE = rule("neigh.stale-static", check, rank=32, needs=("neighbours",))
