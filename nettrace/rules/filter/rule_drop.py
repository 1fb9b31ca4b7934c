"""A netfilter rule drops or rejects the packet.

What it reports: a rule of the user, or of nobody known, in any table, chain, hook or backend, stops this flow; or
    leaves the packet no time to live, or drops the ARP that it needs.
Why traffic stops: a DROP in one base chain is final; no accept elsewhere can undo it.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: rules that limit by rate or chance are told as assumptions. A rule against ARP is suspected by what it
    says, where the request or its answer was lost; whether it matched this very one is not known.
Seen in the field: own rules in DOCKER-USER block more than meant, often the answers (moby#22054, moby#4737,
    ufw-docker#115); own nftables tables drop what Docker's accept (lxd#8716, netavark#977, moby#26824). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, blockers, filter_hits
from nettrace.rules.rewrites import LIFETIME, culprit, delete_mend
from nettrace.rules.wording import place_of, rule_evidence, wire_evidence

WORDS = FilterWords(
    title="a rule {verb} the packet: {rule}",
    explanation="{place} {verb} this traffic on the host; the packet was accepted nowhere before it.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault, and for a packet that a rule leaves no time to live."""
    return fired(*filter_hits(case, "filter.rule-drop", WORDS), *_short_lived(case))


def _short_lived(case: Case) -> list[Hit]:
    hits = []
    for blocker, step in blockers(case, Reason.TTL_EXCEEDED):
        found = culprit(case, blocker, LIFETIME)
        if found is None:
            continue
        view = case.world.views[step.netns]
        hits.append(
            Hit(
                title=f"a rule leaves the packet no time to live: {found.rule.text}",
                explanation=f"{place_of(found.rule)} sets the TTL so low that {view.name} must discard the packet "
                "instead of forwarding it.",
                at=f"{view.name}/{step.device}" if step.device else view.name,
                evidence=(*rule_evidence(case, found.step.netns, found.rule), *wire_evidence(case, blocker)),
                mend=delete_mend(case, found, "Delete the rule, or let it set a TTL that lasts."),
                basis=blocker.basis,
                blocker=blocker,
                device=step.device,
                netns=step.netns,
            )
        )
    return hits


RULE = rule("filter.rule-drop", check, rank=60, needs=("netfilter",))
