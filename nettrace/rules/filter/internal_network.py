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

from nettrace.model.path import Direction, Reason, Segment, StepKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, blockers, ends_as_named, filter_hits, intent_evidence, view_of
from nettrace.rules.route_facts import isolated
from nettrace.rules.wording import wire_evidence

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
                    mend=Mend(
                        summary=SUMMARY,
                        commands=tuple(each.format(**ends_as_named(case, step)) for each in COMMANDS),
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                )
            )
    return fired(*hits, *_from_host(case))


def _from_host(case: Case) -> list[Hit]:
    """Find a packet of the host for a network in isolated gateway mode, which it has no route to."""
    host = case.host
    if host is None or case.flow.src.netns != host.id:
        return []
    for step in case.steps(Direction.FORWARD):
        if step.kind is not StepKind.ROUTE or step.netns != host.id:
            continue
        owner = case.world.owner_of_address(step.packet.dst)
        network = case.before.intent.network(owner[1].network_id) if owner is not None else None
        if owner is None or network is None or not isolated(network, step.packet.family):
            return []
        return [
            Hit(
                title=f"{network.name} is isolated from its host too",
                explanation=f"{network.name} was created internal and in isolated gateway mode: its bridge has no "
                f"address, so {host.name} has no route to {owner[0].name} and sends the packet elsewhere.",
                at=host.name,
                evidence=(
                    intent_evidence(f"network {network.name}: internal, gateway mode isolated", network.engine),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Connect the container to a network that its host is in.",
                    commands=(f"docker network connect bridge {owner[0].name}",),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.HOST,
                direction=Direction.FORWARD,
                device=network.bridge,
                netns=host.id,
            )
            for blocker in case.blockers[:1]
        ]
    return []


RULE = rule("filter.internal-network", check, rank=50, needs=("intent",))
