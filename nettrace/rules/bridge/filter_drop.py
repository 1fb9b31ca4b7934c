"""A bridge-family rule drops the frame.

What it reports: ebtables or an nft table of the bridge family stops frames between ports.
Why traffic stops: frames bridged within one network pass the bridge's own hooks.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: none.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="a bridge rule {verb} the frame: {rule}",
    explanation="{place} {verb} frames on their way through the bridge; iptables does not show it.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "bridge.filter-drop", WORDS))


RULE = rule("bridge.filter-drop", check, rank=60, needs=("netfilter",))
