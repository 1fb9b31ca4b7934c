"""The engine drops packets for a container that come by another interface.

What it reports: Docker 28 and later drop direct access to a container's address in the raw table.
Why traffic stops: only what enters by the container's own bridge may be addressed to it directly; the rest must use
    a published port.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Use the published port of the host, share a network, or set the network's gateway mode to nat-unprotected or
    routed.
Known limits: none.
Seen in the field: since Docker 28, peers on a VPN or a LAN that route to a container's address time out, while
    published ports work (moby#51015, moby#49792, moby#52224, uncloud#293, libtelio#1452). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="direct access to the container is dropped in the raw table",
    explanation="Docker drops packets that are addressed to the container but come in elsewhere, at {place}.",
    summary=(
        "Use the published port of the host, share a network, or set the network's gateway mode to "
        "nat-unprotected or routed."
    ),
)


#: From one container to another the way is a network of both: what the engine drops on purpose stays dropped.
BETWEEN = FilterWords(
    title=WORDS.title,
    explanation=WORDS.explanation,
    summary="Connect one container to the network of the other, or use the published port of the host.",
    commands=("docker network connect {network} {source}",),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    ends = (case.flow.src, case.flow.dst)
    between = all(container is not None and container.endpoints for container in map(case.container_of, ends))
    return fired(*filter_hits(case, "filter.direct-access-drop", BETWEEN if between else WORDS))


RULE = rule("filter.direct-access-drop", check, rank=55, needs=("netfilter",))
