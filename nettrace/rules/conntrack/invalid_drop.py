"""A rule drops packets that conntrack calls INVALID.

What it reports: the packet belongs to no connection that conntrack knows, and a rule drops such packets.
Why traffic stops: one direction went another way, or the state was lost.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: none.
Seen in the field: asymmetric flows die at a `ct state invalid drop` that a container tool brought along
    (netavark#1149, podman#26044).
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="a rule drops what conntrack calls invalid: {rule}",
    explanation="Conntrack knows no connection for this packet, and {place} drops such packets.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "conntrack.invalid-drop", WORDS))


RULE = rule("conntrack.invalid-drop", check, rank=60, needs=("netfilter",))
