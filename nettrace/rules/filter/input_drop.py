"""The host's INPUT drops what the container sends to the host.

What it reports: a rule or the policy of INPUT stops traffic to an address of the host.
Why traffic stops: traffic to the host itself passes INPUT, not FORWARD, so the engine's accepts do not help.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: none.
Seen in the field: containers reach the world and not their own host: its services, its gateway address, or a port
    published on it (moby#13463, moby#10450, moby#27817, moby#32138, for-linux#806, ufw-docker#53). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="the host's INPUT {verb} the packet: {rule}",
    explanation="The container talks to the host itself, and {place} {verb} that.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.input-drop", WORDS))


RULE = rule("filter.input-drop", check, rank=60, needs=("netfilter",))
