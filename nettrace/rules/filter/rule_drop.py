"""A netfilter rule drops or rejects the packet.

What it reports: a rule of the user, or of nobody known, in any table, chain, hook or backend, stops this flow.
Why traffic stops: a DROP in one base chain is final; no accept elsewhere can undo it.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: rules that limit by rate or chance are told as assumptions.
Seen in the field: own rules in DOCKER-USER block more than meant, often the answers (moby#22054, moby#4737,
    ufw-docker#115); own nftables tables drop what Docker's accept (lxd#8716, netavark#977, moby#26824). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="a rule {verb} the packet: {rule}",
    explanation="{place} {verb} this traffic on the host; the packet was accepted nowhere before it.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.rule-drop", WORDS))


RULE = rule("filter.rule-drop", check, rank=60, needs=("netfilter",))
