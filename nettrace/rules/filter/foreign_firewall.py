"""A firewall manager's rule drops or rejects the packet.

What it reports: a rule in the chains of ufw, firewalld, kube-proxy or another manager stops this flow.
Why traffic stops: the manager's chains come before, or beside, what the engine accepts.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Allow it with {owner}'s own command, so that the change lasts; deleting the rule by hand works until {owner}
    writes it again.
Known limits: a manager is known by the names of its chains and tables.
Seen in the field: ufw and firewalld forward nothing by default and meet Docker's bridges (moby#49528, moby#4737,
    ufw-docker#105, ufw-docker#156, moby#48375, firewalld#844, firewalld#1536). Common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="{owner} {verb} the packet: {rule}",
    explanation="The firewall manager {owner} {verb} this traffic, at {place}.",
    summary=(
        "Allow it with {owner}'s own command, so that the change lasts; deleting the rule by hand works until "
        "{owner} writes it again."
    ),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.foreign-firewall", WORDS))


RULE = rule("filter.foreign-firewall", check, rank=60, needs=("netfilter",))
