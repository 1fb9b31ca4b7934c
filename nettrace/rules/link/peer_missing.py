"""The container has no interface of its network.

What it reports: the engine attached the container to a network, but its namespace has no interface for it.
Why traffic stops: without the interface the container has no address and no route there; nobody can reach it either.
Proof: the engine's endpoint; the namespace's links.
Remedy: disconnect the container from the network and connect it again (or restart it).
Known limits: an interface whose MAC and address were both changed is taken for missing only when the namespace has
    fewer interfaces than the engine made.
Seen in the field: a veth pair is lost with a failed start, or was deleted by a clean-up script; see also the kernels
    that cannot make one (moby#39188, moby#27426, moby#34575).
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.base import Missing
from nettrace.model.flow import FlowEnd
from nettrace.model.intent import Container, Endpoint, Network
from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.text import link_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import errno_or_wire, intent_evidence

REASONS = (
    Reason.NO_ROUTE,
    Reason.NO_SOURCE_ADDRESS,
    Reason.NEIGHBOUR_FAILED,
    Reason.NO_PEER,
    Reason.NO_CARRIER,
    Reason.OTHERHOST,
    Reason.NOT_LOCAL,
)


def check(case: Case) -> Result:
    """Fire when an end of a stopped flow lacks the interface of an endpoint that the engine gave it."""
    hits = []
    for end, segment in ((case.flow.src, Segment.SOURCE), (case.flow.dst, Segment.DESTINATION)):
        container, view = case.container_of(end), case.view(end.netns)
        if container is None or view is None or end.netns == case.world.host or isinstance(view.ns.links, Missing):
            continue
        lost = _lost(case, container, view)
        if lost is None:
            continue
        for blocker in case.blockers:
            if _explains(case, blocker, end, lost[0]):
                hits.append(_hit(case, blocker, end, view, lost, container, segment))
    return fired(*hits)


def _lost(case: Case, container: Container, view: View) -> tuple[Endpoint, Network] | None:
    """Return the endpoint that has no interface; None while there are as many interfaces as endpoints."""
    attached = list(case.attachments(container))
    links = [link for link in view.links.values() if not link.loopback and link.kind in ("veth", "macvlan", "ipvlan")]
    if len(links) >= len(attached):
        return None
    return next(((one, net) for one, net in attached if case.link_of(view, one) is None), None)


def _explains(case: Case, blocker: Blocker, end: FlowEnd, endpoint: Endpoint) -> bool:
    step = blocker.step
    if step is None or step.reason not in REASONS or blocker.direction is not Direction.FORWARD:
        return False
    if end is case.flow.src:
        return step.netns == end.netns
    held = {each.ip for each in (endpoint.ipv4, endpoint.ipv6) if each is not None}
    return step.packet.dst in held or step.next_hop in held


def _hit(
    case: Case,
    blocker: Blocker,
    end: FlowEnd,
    view: View,
    lost: tuple[Endpoint, Network],
    container: Container,
    segment: Segment,
) -> Hit:
    endpoint, network = lost
    tool = "podman" if network.engine == "podman" else "docker"
    held = endpoint.ipv4 if case.flow.family == 4 else endpoint.ipv6
    left = tuple(
        Evidence(kind=EvidenceKind.LINK, ref=f"{view.name}/{link.name}", text=link_text(link))
        for link in view.links.values()
    )
    return Hit(
        title=f"{end.name} has lost its interface of the network {network.name}",
        explanation=f"The engine gave {end.name} an interface in {network.name} ({held}, {endpoint.mac}), but its "
        "namespace has none: somebody deleted the veth pair.",
        at=view.name,
        evidence=(
            intent_evidence(f"{end.name} in {network.name}: {held}, MAC {endpoint.mac}", network.engine),
            *left,
            *errno_or_wire(case, blocker),
        ),
        mend=Mend(
            summary="Take the container off the network and put it back, or restart it.",
            commands=(
                f"{tool} network disconnect -f {network.name} {container.name}",
                f"{tool} network connect {network.name} {container.name}",
            ),
        ),
        basis=blocker.basis,
        blocker=blocker,
        segment=segment,
        netns=view.id,
    )


RULE = rule("link.peer-missing", check, rank=22, needs=("links", "intent"))
