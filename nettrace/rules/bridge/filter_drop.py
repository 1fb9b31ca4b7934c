"""A bridge-family rule drops the frame, or sends it to another MAC address.

What it reports: ebtables or an nft table of the bridge family stops frames between ports, writes a MAC address into
    them that is not their receiver's (ebtables' dnat, nft's `ether daddr set`), or tells one to who asks (arpreply).
Why traffic stops: frames bridged within one network pass the bridge's own hooks; whoever gets a frame for another's
    address discards it.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: none.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

import re

from nettrace.correlate import Blocker
from nettrace.model.netfilter import RuleRef
from nettrace.model.path import Direction, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Neighbour
from nettrace.model.text import neighbour_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.arp_filters import answers_with
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_rule, forget_neighbours, together
from nettrace.rules.faults import FilterWords, filter_fault, filter_hit, filtered, view_of
from nettrace.rules.wording import delete_command, enter, names, place_of, rule_evidence, wire_evidence

CODE = "bridge.filter-drop"
#: ebtables' targets dnat and redirect, and nft's statement.
_READDRESSES = re.compile(r"-j (dnat|redirect)\b|\bether daddr set\b")
WORDS = FilterWords(
    title="a bridge rule {verb} the frame: {rule}",
    explanation="{place} {verb} frames on their way through the bridge; iptables does not show it.",
)
READDRESSED = FilterWords(
    title="a bridge rule sends the frame to another MAC address: {rule}",
    explanation="{place} writes another MAC address into frames on their way through the bridge, so that their "
    "receiver discards them; iptables does not show it.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(
        *(
            filter_hit(case, blocker, step, ref, READDRESSED if _READDRESSES.search(ref.text) else WORDS, code=CODE)
            for blocker, step, ref in filtered(case)
            if filter_fault(case, step, ref) == CODE
        ),
        *_misinformed(case),
    )


def _misinformed(case: Case) -> list[Hit]:
    """Return the finding of a rule that tells who asks for a next hop a MAC address that is not its holder's."""
    for blocker in case.blockers[:1]:
        if blocker.step is not None and blocker.step.reason is not Reason.OTHERHOST:
            continue
        for direction in Direction:
            for step in case.steps(direction):
                found = _told(case, step) if step.kind is StepKind.NEIGHBOUR else None
                if found is not None:
                    return [_misinformed_hit(case, blocker, direction, step, *found)]
    return []


def _told(case: Case, step: Step) -> tuple[View, RuleRef, Neighbour] | None:
    """Return the rule from which a next hop's MAC address was learnt, with its namespace, and the entry."""
    later = case.world_after.view(step.netns) if case.world_after is not None else None
    key = (step.ifindex or 0, step.next_hop)
    now = later.neighbours.get(key) if later is not None and step.next_hop is not None else None  # type: ignore[arg-type]
    for entry in (step.neighbour, now):
        if entry is None or entry.mac is None or _holds(case, entry):
            continue
        for view in case.world.views.values():
            ref = answers_with(view, entry.mac)
            if ref is not None:
                return view, ref, entry
    return None


def _holds(case: Case, entry: Neighbour) -> bool:
    """Tell whether the address of an entry is held by an interface with its MAC address."""
    held = ((view, view.owned.get(entry.address)) for view in case.world.views.values())
    return any(index in view.links and view.links[index].mac == entry.mac for view, index in held if index is not None)


def _misinformed_hit(
    case: Case, blocker: Blocker, direction: Direction, step: Step, where: View, ref: RuleRef, entry: Neighbour
) -> Hit:
    view = view_of(case, step)
    return Hit(
        title=f"a bridge rule answers for {entry.address} with a wrong MAC address: {ref.text}",
        explanation=f"{view.name} asked for {entry.address}, and {place_of(ref)} told it {entry.mac}. Nobody takes "
        "what is sent there; iptables does not show it.",
        at=f"{view.name}/{step.device}",
        evidence=(
            *rule_evidence(case, where.id, ref),
            Evidence(kind=EvidenceKind.NEIGHBOUR, ref=view.name, text=neighbour_text(entry, names(view))),
            *wire_evidence(case, blocker),
        ),
        mend=Mend(
            summary="Delete the rule, and what was learnt from it.",
            commands=(
                delete_command(case, where.id, ref),
                f"{enter(case, view.id)}ip neigh del {entry.address} dev {step.device}",
            ),
            change=together(delete_rule(where.id, ref), forget_neighbours(view.id)),
        ),
        basis=blocker.basis,
        blocker=blocker,
        direction=direction,
        segment=Segment.BRIDGE,
        device=step.device,
        netns=view.id,
    )


RULE = rule(CODE, check, rank=60, needs=("netfilter",))
