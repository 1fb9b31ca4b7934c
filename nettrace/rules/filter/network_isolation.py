"""The engine keeps two of its bridge networks apart.

What it reports: a packet from one engine network to another meets the engine's isolation rule.
Why traffic stops: bridge networks are isolated from each other on purpose.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Connect one container to the network of the other.
Known limits: none.
Seen in the field: a container of one network does not reach the address of a container in another (moby#38784,
    moby#49981, moby#48526). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="the engine isolates its networks from each other",
    explanation=(
        "The two ends are in different networks, and the engine drops what goes from one to the other at {place}."
    ),
    summary="Connect one container to the network of the other; it then reaches all that is in it{aside}.",
    commands=("docker network connect {network} {source}",),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.network-isolation", WORDS))


RULE = rule("filter.network-isolation", check, rank=55, needs=("netfilter",))
