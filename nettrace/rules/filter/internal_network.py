"""The network is internal: it has no way out or in.

What it reports: the container's network was created with --internal, and the packet would have to leave it.
Why traffic stops: the engine gives an internal network no default route, and drops what crosses its border.
Proof: the engine's word on the network; the missing route, or the engine's rule.
Remedy: attach the container to another network as well.
Known limits: none.
Seen in the field: containers of an `--internal` network have no way out, by design, and people expect one
    (libnetwork#2260, libnetwork#1151, moby#48193). Common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, blockers, ends_as_named, filter_hits, intent_evidence, view_of

TITLE = "the network is internal: nothing leaves or enters it"
SUMMARY = "Connect the container to a network that has a way out."
COMMANDS = ("docker network connect bridge {source}",)
WORDS = FilterWords(
    title=TITLE,
    explanation="The network was created with --internal, and the engine enforces it at {place}.",
    summary=SUMMARY,
    commands=COMMANDS,
)


def check(case: Case) -> Result:
    """Fire when the engine's rule says so, or when all of the source's networks are internal and no route leads out."""
    hits = filter_hits(case, "filter.internal-network", WORDS)
    networks = [network for _endpoint, network in case.attachments(case.container_of(case.flow.src))]
    if networks and all(network.internal for network in networks):
        for blocker, step in blockers(case, Reason.NO_ROUTE):
            if step.netns != case.flow.src.netns:
                continue
            view = view_of(case, step)
            network = networks[0]
            hits.append(
                Hit(
                    title=TITLE,
                    explanation=f"{case.flow.src.name} is only in the internal network {network.name}, "
                    "which has no route to anywhere else.",
                    at=view.name,
                    evidence=(intent_evidence(f"network {network.name}: internal", network.engine),),
                    mend=Mend(summary=SUMMARY, commands=tuple(each.format(**ends_as_named(case)) for each in COMMANDS)),
                    basis=blocker.basis,
                    blocker=blocker,
                )
            )
    return fired(*hits)


RULE = rule("filter.internal-network", check, rank=50, needs=("intent",))
