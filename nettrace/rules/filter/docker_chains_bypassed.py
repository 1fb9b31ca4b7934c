"""The engine's chains stand, but FORWARD never reaches them.

What it reports: the engine's chains are filled, and no rule of FORWARD jumps to them.
Why traffic stops: without the jump their accepts are never asked, and the policy drops.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Restart the engine, so that it puts its jumps back.
Known limits: only judged where the engine is known and manages iptables.
Seen in the field: the chains look complete, and nothing refers to them after a firewall script flushed FORWARD
    (synology-docker#66, synology-docker#97, csf-firewall#111); or a REJECT stands before Docker's jumps (moby#49511,
    moby#49528, for-linux#1521). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="nothing jumps to the engine's chains any more",
    explanation=(
        "The engine's chains hold their rules, but FORWARD no longer jumps to them, so {place} drops the packet."
    ),
    summary="Restart the engine, so that it puts its jumps back.",
    commands=("systemctl restart docker",),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.docker-chains-bypassed", WORDS))


RULE = rule("filter.docker-chains-bypassed", check, rank=58, needs=("netfilter",))
