"""A container of the flow has no network.

What it reports: the source or destination was started with --network none, was disconnected from its last network, or
    shares the network of a container that has stopped or has started anew since; or the destination's only network is a
    process (slirp4netns, pasta), which nothing else is in; or it is in an overlay network that the source is not in.
Why traffic stops: its namespace holds only the loopback; or no device leads into it, as none leads into an overlay from
    outside of it.
Proof: the engine's endpoints; the namespace's links, and the process behind its tap.
Remedy: connect it to a network; one that shares another's network must be started again after that one; publish a port
    of a rootless container.
Known limits: none.
Seen in the field: no public report was read; it is how `--network none` is meant.
"""

from __future__ import annotations

from nettrace.model.flow import FlowEnd
from nettrace.model.intent import Container
from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.verdict import Evidence
from nettrace.predict.user_network import behind_process
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, errno_or_wire, intent_evidence
from nettrace.rules.wording import link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when an end's container is in no network, and its namespace has nothing but the loopback."""
    hits = []
    for blocker, step in blockers(case, Reason.NO_ROUTE, Reason.NO_SOURCE_ADDRESS, Reason.NO_NETWORK):
        end = (
            case.flow.dst if step.reason is Reason.NO_NETWORK and step.segment is Segment.DESTINATION else case.flow.src
        )
        container = case.before.intent.container(end.id) if end.id is not None else case.container_of(end)
        if container is None or end.netns is None or end.netns == case.world.host:
            continue
        if step.netns != end.netns or blocker.direction is not Direction.FORWARD:
            continue
        view = case.view(end.netns)
        if view is None or any(not link.loopback for link in view.links.values()):
            continue
        held = any(endpoint.ipv4 or endpoint.ipv6 for endpoint in container.endpoints)
        if container.mode != "none" and container.joined is None and held:
            continue
        why, mend = _explain(case, end, container)
        hits.append(
            Hit(
                title=f"{end.name} has no network",
                explanation=f"{why} Its namespace holds only the loopback.",
                at=view.name,
                evidence=(
                    intent_evidence(f"container {container.name}: network mode {container.mode}", "engine"),
                    *_owner_evidence(case, container),
                    *errno_or_wire(case, blocker),
                ),
                mend=mend,
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits, *_behind_a_process(case), *_outside_of_the_overlay(case))


def _outside_of_the_overlay(case: Case) -> list[Hit]:
    """Return the findings of a source that has no way into the overlay network of its destination."""
    hits = []
    container = case.container_of(case.flow.src)
    joined = {endpoint.network_id for endpoint in container.endpoints} if container is not None else set()
    for blocker, step in blockers(case, Reason.NOT_ENCAPSULATED):
        owner = case.world.owner_of_address(step.packet.dst)
        network = case.before.intent.network(owner[1].network_id) if owner is not None else None
        if blocker.direction is not Direction.FORWARD or owner is None or network is None or network.id in joined:
            continue
        whose = f"{owner[0].name} has {step.packet.dst} in {network.name}"
        can = container is not None and container.mode != "host"
        hits.append(
            Hit(
                title=f"{case.flow.src.name} is not in the overlay network {network.name}",
                explanation=f"{whose}, an overlay network, and {case.flow.src.name} is not in it: the packet leaves "
                "for the world outside, where nobody has that address.",
                at=case.flow.src.name,
                evidence=(intent_evidence(whose, network.engine), *errno_or_wire(case, blocker)),
                mend=Mend(
                    summary="Connect it to the network, or publish a port of the destination.",
                    commands=(f"docker network connect {network.name} {case.flow.src.name}",) if can else (),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.SOURCE,
                netns=case.flow.src.netns,
            )
        )
    return hits


def _owner_evidence(case: Case, container: Container) -> tuple[Evidence, ...]:
    owner = case.before.intent.owner(container)
    return (intent_evidence(f"container {owner.name}: {owner.status}", "engine"),) if owner is not None else ()


def _explain(case: Case, end: FlowEnd, container: Container) -> tuple[str, Mend]:
    tool = "podman" if container.engine == "podman" else "docker"
    if container.joined is not None:
        owner = case.before.intent.owner(container)
        if owner is None:
            return (
                f"{end.name} shares the network of a container that is gone ({container.joined[:12]}).",
                Mend(summary="Create it again with another network."),
            )
        again = f"{tool} restart {container.name}"
        if owner.status != "running":
            return (
                f"{end.name} shares the network of {owner.name}, which is {owner.status}: the interface went with it.",
                Mend(
                    summary=f"Start {owner.name}, then start {end.name} again: it joins the new namespace only then.",
                    commands=(f"{tool} start {owner.name}", again),
                ),
            )
        return (
            f"{end.name} shares the network of {owner.name}, which has started anew since: {end.name} is still in the "
            "namespace that was left behind.",
            Mend(
                summary=f"Start {end.name} again: it joins the new namespace of {owner.name} then.", commands=(again,)
            ),
        )
    if container.mode == "none":
        return (
            f"{end.name} is in no network (mode none).",
            Mend(
                summary="Take it off the network none, and connect it to another; or make it again with one.",
                commands=(
                    f"{tool} network disconnect none {container.name}",
                    f"{tool} network connect bridge {container.name}",
                ),
            ),
        )
    made_for = "bridge" if container.mode in ("", "default") else container.mode
    return (
        f"{end.name} is in no network any more (it was made for {made_for}).",
        Mend(
            summary="Connect it to its network again.",
            commands=(f"{tool} network connect {made_for} {container.name}",),
        ),
    )


def _behind_a_process(case: Case) -> list[Hit]:
    """Return the finding of a destination that only a process passes packets to: they cannot be sent to its address."""
    end = case.flow.dst
    tap = behind_process(case.world, end.netns, end.address)
    if tap is None or not case.blockers or any(step.netns == end.netns for step in case.steps(Direction.FORWARD)):
        return []
    view, link = tap
    blocker = case.blockers[0]
    reader = link.reader or "a process"
    return [
        Hit(
            title=f"no network leads to {end.name}: {reader} is all that is behind its {link.name}",
            explanation=f"{end.address} is an address that {reader} made up for {end.name}. Nothing else is in that "
            "network, so packets to it go elsewhere.",
            at=f"{view.name}/{link.name}",
            evidence=(link_evidence(view, link), *wire_evidence(case, blocker)),
            mend=Mend(
                summary="Publish the port and ask for it at the host's address, or use a network that both are in.",
                commands=("podman run -p <host port>:<container port> …",),
            ),
            basis=blocker.basis,
            blocker=blocker,
            segment=Segment.DESTINATION,
            direction=Direction.FORWARD,
            device=link.name,
            netns=view.id,
        )
    ]


RULE = rule("engine.no-network", check, rank=12, needs=("links",))
