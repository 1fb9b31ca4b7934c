"""Rules that keep ARP from being heard or answered.

The model walks IP packets; of the requests and answers before them it knows who sends and who takes them. Where a
holder that should answer was asked in vain, the rules on that link that drop ARP are the suspects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.model.netfilter import FilterVerdict, Hook, HookResult, RuleRef, Tracking
from nettrace.model.path import Outcome, Reason, Segment, Step, StepKind
from nettrace.netfilter.ruleset import Drop
from nettrace.predict import neigh
from nettrace.predict.segment import Places
from nettrace.predict.world import View
from nettrace.rules.case import Case


def arp_filtered(case: Case) -> list[tuple[Blocker, Step, RuleRef]]:
    """Return the stops that a rule against ARP makes: the blocker, the step as that rule took it, and the rule."""
    for blocker in case.blockers:
        if blocker.step is not None:
            continue
        for step in case.steps(blocker.direction):
            if step.kind is StepKind.NEIGHBOUR and step.outcome is Outcome.PASS and _asked_in_vain(case, step):
                found = next(_suspects(case, step), None)
                if found is not None:
                    return [(blocker, *found)]
    return []


def answers_with(view: View, mac: str) -> RuleRef | None:
    """Return the rule of a bridge that answers ARP requests with a MAC address itself (ebtables' arpreply)."""
    for table in view.ruleset.tables:
        if table.family != "bridge":
            continue
        for chain in table.chains.values():
            for each in chain.rules:
                told = _ANSWER.search(each.ref.text)
                if told is not None and _same_mac(told[1], mac):
                    return each.ref
    return None


_ANSWER = re.compile(r"-j arpreply\b.*--arpreply-mac ([0-9A-Fa-f:]+)")


def _same_mac(one: str, other: str) -> bool:
    """Compare addresses as people write them: ebtables leaves leading zeros out."""
    return [int(byte, 16) for byte in one.split(":")] == [int(byte, 16) for byte in other.split(":")]


def _asked_in_vain(case: Case, step: Step) -> bool:
    """Tell whether a next hop was asked for and did not answer, by the wire or by the kernel's own table."""
    if any(each.packet.dst == step.next_hop for each in case.correlation.arp_unanswered):
        return True
    later = case.world_after.view(step.netns) if case.world_after is not None else None
    if later is None or step.next_hop is None:
        return False
    entry = later.neighbours.get((step.ifindex or 0, step.next_hop))
    return entry is not None and entry.state in ("FAILED", "INCOMPLETE")


def _suspects(case: Case, step: Step) -> Iterator[tuple[Step, RuleRef]]:
    """Yield the rules that drop ARP on the link of a next hop, first of all those where it is asked."""
    view = case.world.views[step.netns]
    link = view.links.get(step.ifindex or 0)
    if link is None:
        return
    members = neigh.segment_of(case.world, view, link).members
    places = Places(case.world, case.flow)
    for netns in dict.fromkeys((step.netns, *(each.netns for each in members))):
        there = case.world.views[netns]
        for hook, ref in _dropping(there):
            bridged = ref.family == "bridge"
            segment = Segment.BRIDGE if bridged else places.stack(there, "stack")
            decided = HookResult(
                hook=hook, verdict=FilterVerdict.DROP, packet=step.packet, tracking=Tracking(), decided_by=ref
            )
            here = next((there.links[each.ifindex].name for each in members if each.netns == netns), step.device)
            yield (
                replace(
                    step,
                    kind=StepKind.HOOK,
                    netns=netns,
                    segment=segment,
                    text=f"{ref.family} {hook.upper()} drops ARP: {ref.text}",
                    outcome=Outcome.DROP,
                    reason=Reason.FILTERED,
                    hook=decided,
                    device=here,
                ),
                ref,
            )


def _dropping(view: View) -> Iterator[tuple[Hook, RuleRef]]:
    for table in view.ruleset.tables:
        if table.family not in ("arp", "bridge"):
            continue
        hooks = {name: chain.base.hook for name, chain in table.chains.items() if chain.base is not None}
        for name, chain in table.chains.items():
            hook = hooks.get(name, Hook.INPUT)
            for rule in chain.rules:
                about_arp = table.family == "arp" or "arp" in rule.ref.text.lower()
                if about_arp and any(isinstance(each, Drop) for each in rule.exprs):
                    yield hook, rule.ref
            if table.family == "arp" and chain.base is not None and chain.base.policy == "drop":
                yield hook, chain.ref
