"""The engine's chains stand, but packets do not reach what would accept them.

What it reports: the engine's chains are filled, and no rule jumps to them; or a drop of the engine's, or a RETURN of
    another hand, stands before the accept.
Why traffic stops: without the jump, or behind the other rule, the accept is never asked.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: put the jump (or the accept) back where the engine's own layout has it, which restarting the engine does too;
    delete what comes before it.
Known limits: only judged where the engine is known and manages iptables; from Docker 18.05 on, but for 28.0.0.
Seen in the field: the chains look complete, and nothing refers to them after a firewall script flushed FORWARD
    (synology-docker#66, synology-docker#97, csf-firewall#111); or a REJECT stands before Docker's jumps (moby#49511,
    moby#49528, for-linux#1521). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="the engine's chains stand, but the packet does not reach what would accept it",
    explanation=(
        "The engine's rules would accept this traffic, but no jump leads to them any more, or another rule comes "
        "before them; so {place} {verb} the packet."
    ),
    summary="Restart the engine, so that it puts its jumps back.",
    commands=("systemctl restart docker",),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.docker-chains-bypassed", WORDS))


RULE = rule("filter.docker-chains-bypassed", check, rank=58, needs=("netfilter",))
