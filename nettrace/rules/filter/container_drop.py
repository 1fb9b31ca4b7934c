"""A rule inside the container's own namespace drops the packet.

What it reports: netfilter in the source's or destination's namespace stops this flow.
Why traffic stops: each network namespace has its own rules; the host's do not show them.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: none.
Seen in the field: no public report was read; tools that write firewalls into containers, and VPN containers with a
    kill switch, bring it.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="a rule inside the namespace {verb} the packet: {rule}",
    explanation=(
        "{place}, inside the container's own network namespace, {verb} this traffic; rules on the host do not show it."
    ),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.container-drop", WORDS))


RULE = rule("filter.container-drop", check, rank=60, needs=("netfilter",))
