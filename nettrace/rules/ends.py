"""What to know about the ends of a flow, whatever becomes of it: whose interface it is, and where there is none.

Containers may share a namespace (`--network container:x`, the pods of Kubernetes and Podman), use the host's, or be
asked for by their namespace alone. None of that is a fault, and all of it says where to look.
"""

from __future__ import annotations

from nettrace.model.flow import EndpointKind, Flow, FlowEnd
from nettrace.model.path import Direction, StepKind
from nettrace.rules.case import Case


def notes(case: Case, flow: Flow) -> tuple[str, ...]:
    """Return a sentence for each thing that is special about the ends of a flow; none for a container on a bridge."""
    found = [note for end in (flow.src, flow.dst) if (note := _note(case, end))]
    inner = flow.src.netns is not None and flow.src.netns == flow.dst.netns and flow.src.name != flow.dst.name
    if inner and {flow.src.kind, flow.dst.kind} <= {EndpointKind.CONTAINER, EndpointKind.NETNS}:
        found.append(
            f"{flow.src.name} and {flow.dst.name} are in one network namespace: packets between them stay on its "
            "loopback, and pass no bridge and no veth"
        )
    found += _kept(case, flow)
    return tuple(dict.fromkeys(found))


def _kept(case: Case, flow: Flow) -> list[str]:
    """Tell of an address asked for that a loopback device on the way holds: then it is no other host's that answers."""
    address = flow.dst.address
    if flow.dst.kind is not EndpointKind.ADDRESS or address is None or address.is_loopback:
        return []
    for step in case.steps(Direction.FORWARD):
        view = case.view(step.netns)
        if step.kind is not StepKind.LOCAL or step.packet.dst != address or view is None:
            continue
        link = view.links.get(view.owned.get(address, 0))
        if link is not None and link.loopback:
            return [f"{address} is held by {view.name} itself, on {link.name}: what is sent to it goes no further"]
    return []


def _note(case: Case, end: FlowEnd) -> str:
    container = case.before.intent.container(end.id) if end.id is not None else None
    if container is None:
        owner = case.world.containers.get(end.netns) if end.netns is not None else None
        if end.kind is EndpointKind.NETNS and owner is not None:
            return f"{end.name} is the network namespace of container {owner.name}{_whose(case, end, owner.name)}"
        return ""
    if container.netns is not None and container.netns == case.world.host:
        return (
            f"{end.name} uses the host's own network (--network host): it has no veth and no bridge, and its traffic "
            "is that of the host's stack"
        )
    owner = case.before.intent.sharing(container)
    if owner is not None:
        return f"{end.name} shares the network of {owner.name}{_whose(case, end, owner.name)}"
    return ""


def _whose(case: Case, end: FlowEnd, owner: str) -> str:
    view = case.view(end.netns)
    names = sorted(link.name for link in view.links.values() if not link.loopback) if view is not None else []
    if not names:
        return ""
    return f"; {', '.join(names)} {'is' if len(names) == 1 else 'are'} {owner}'s"


__all__ = ["notes"]
