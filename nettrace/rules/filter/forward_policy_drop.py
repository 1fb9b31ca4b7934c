"""No rule accepts the packet, and FORWARD's policy drops it.

What it reports: the packet reached the end of FORWARD without being accepted.
Why traffic stops: the policy is DROP, as Docker sets it, and the accept for this bridge or direction is missing.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: none.
Seen in the field: pods, virtual machines or bridges beside Docker lose all that lies beyond their bridge, since Docker
    sets FORWARD's policy to DROP (kubernetes#39823, kubernetes#40182, flannel#609, lxd#3387, for-linux#103,
    moby#48392). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="FORWARD's policy drops the packet: no rule accepts it",
    explanation="No rule in FORWARD accepts this traffic, and what no rule accepts its policy drops ({place}).",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.forward-policy-drop", WORDS))


RULE = rule("filter.forward-policy-drop", check, rank=60, needs=("netfilter",))
