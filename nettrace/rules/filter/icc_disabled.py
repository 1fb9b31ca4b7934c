"""Containers of this network may not talk to each other.

What it reports: the network was made with enable_icc=false, and the engine's rule drops traffic between its
    containers.
Why traffic stops: frames between two ports of the bridge pass FORWARD, where the engine drops them.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Put both containers into a network that allows it; the option cannot be changed in place.
Known limits: needs the engine's word on the network's option.
Seen in the field: two containers on docker0 cannot talk, and both reach the outside (moby#31453, moby#12071). Common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="this network keeps its containers apart (enable_icc=false)",
    explanation=(
        "The network was created with inter-container communication off, and the engine enforces it at {place}."
    ),
    summary=(
        "Put both containers into a network that allows it, and take the destination out of this one: the option "
        "cannot be changed in place."
    ),
    commands=(
        "docker network create shared",
        "docker network connect shared {source}",
        "docker network connect shared {destination}",
        "docker network disconnect {network} {destination}",
    ),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.icc-disabled", WORDS))


RULE = rule("filter.icc-disabled", check, rank=55, needs=("netfilter",))
