"""The container has no network.

What it reports: the container was started with --network none, or is in no network.
Why traffic stops: its namespace holds only the loopback.
Proof: the engine's endpoints; the namespace's links.
Remedy: connect it to a network.
Known limits: none.
Seen in the field: no public report was read; it is how `--network none` is meant.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, intent_evidence, view_of


def check(case: Case) -> Result:
    """Fire when the source finds no route and its container is in no network, or has nothing but its loopback."""
    hits = []
    container = case.container_of(case.flow.src)
    for blocker, step in blockers(case, Reason.NO_ROUTE, Reason.NO_SOURCE_ADDRESS):
        if container is None or step.netns != case.flow.src.netns or step.netns == case.world.host:
            continue
        view = view_of(case, step)
        if container.mode != "none" and any(endpoint.ipv4 or endpoint.ipv6 for endpoint in container.endpoints):
            continue
        if any(not link.loopback for link in view.links.values()):
            continue
        hits.append(
            Hit(
                title=f"{case.flow.src.name} has no network",
                explanation=f"{case.flow.src.name} is in no network (mode {container.mode or 'none'}): "
                "its namespace holds only the loopback.",
                at=view.name,
                evidence=(intent_evidence(f"container {container.name}: network mode {container.mode}", "engine"),),
                mend=Mend(
                    summary="Connect it to a network (a container with mode none must be made again with a network).",
                    commands=(f"docker network connect bridge {container.name}",),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("engine.no-network", check, rank=12, needs=("intent",))
