"""The engine's forwarding rules are gone.

What it reports: the engine runs with networks, and FORWARD holds none of its rules.
Why traffic stops: something flushed the tables after the engine started; what is left is the policy that drops.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Restart the engine, so that it writes its rules again, and keep the other tool from flushing them.
Known limits: only judged where the engine is known and manages iptables.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="the engine's own forwarding rules are gone",
    explanation=(
        "The engine's rules were removed (a flush, or a firewall that was reloaded), so {place} drops what they "
        "used to accept."
    ),
    summary="Restart the engine, so that it writes its rules again, and keep the other tool from flushing them.",
    commands=("systemctl restart docker",),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.docker-rules-missing", WORDS))


RULE = rule("filter.docker-rules-missing", check, rank=58, needs=("netfilter",))
