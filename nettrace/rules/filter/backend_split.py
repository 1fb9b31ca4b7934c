"""iptables-legacy and nft both hold rules, and the other one drops.

What it reports: the engine's accepts stand in one backend, the drop in the other.
Why traffic stops: both backends are hooks of the same kernel; a packet must pass both.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Use one backend for everything, and clear the other.
Known limits: none.
Seen in the field: rules look right in one listing, and packets die by the other back end (k3s#1114, flannel#1317,
    moby#38974, moby#46636, kubernetes#71305, ufw-docker#9). Common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="the other iptables backend {verb} the packet: {rule}",
    explanation=(
        "The engine's rules are in one iptables backend, and {place}, in the other, {verb} the packet: both must "
        "accept."
    ),
    summary="Use one backend for everything, and clear the other.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.backend-split", WORDS))


RULE = rule("filter.backend-split", check, rank=57, needs=("netfilter",))
