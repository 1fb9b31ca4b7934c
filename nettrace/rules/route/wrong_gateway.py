"""The next hop is not the network's gateway.

What it reports: the container's route goes by another router than the engine's gateway, or a route by a container that
    does not forward, and the flow stops.
Why traffic stops: the other address is nobody, or somebody who does not forward.
Proof: the route against the engine's gateway.
Remedy: put the right gateway in.
Known limits: gateways set on purpose are judged only when the flow stops.
Seen in the field: as above, with the gateway of an internal or macvlan network as the default (libnetwork#2406,
    podman#13153). Common.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.intent import Endpoint, Network
from nettrace.model.path import Direction, Reason, Segment, StepKind
from nettrace.model.snapshot import Link, NextHop
from nettrace.model.text import route_text
from nettrace.predict.children import KINDS
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_route, delete_route, together
from nettrace.rules.faults import attachment, blockers, intent_evidence, last_route, view_of
from nettrace.rules.wording import (
    delete_route_command,
    enter,
    names,
    route_evidence,
    sysctl_evidence,
    wire_evidence,
)


def check(case: Case) -> Result:
    """Fire when a stopped flow goes by a next hop that is not the network's gateway, or does not forward."""
    hit = _by_default(case)
    return fired(*([hit] if hit is not None else _no_router(case)))


def _no_router(case: Case) -> list[Hit]:
    """Return the findings of routes to a container, which took the packet and does not forward it."""
    hits = []
    for blocker, stop in blockers(case, Reason.FORWARDING_OFF):
        step = last_route(case, blocker, stop)
        if stop.netns in case.world.hosts or step is None or step.netns == stop.netns or step.route is None:
            continue
        view, middle = view_of(case, step), view_of(case, stop)
        gateway = step.next_hop
        if gateway is None or gateway == step.packet.dst or gateway not in middle.owned:
            continue
        text = route_text(step.route, names(view))
        name = case.world.containers[stop.netns].name if stop.netns in case.world.containers else middle.name
        hits.append(
            Hit(
                title=f"{view.name} uses {gateway} as a gateway, and {name} does not forward",
                explanation=f"In {view.name} the route '{text}' hands packets for {step.packet.dst} to {gateway}. That "
                f"is {name}, which is no router: it discards what is for others ({stop.sysctl}).",
                at=f"{view.name}/{step.device}",
                evidence=(
                    *route_evidence(view, step.route, step.rule),
                    *((sysctl_evidence(middle, stop.sysctl),) if stop.sysctl is not None else ()),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Delete the route, or name a router in it.",
                    commands=(delete_route_command(case, view, step.route),),
                    change=delete_route(view.id, step.route),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=step.segment if step.segment is not Segment.EGRESS else Segment.HOST,
                device=step.device,
                netns=view.id,
            )
        )
    return hits


def _by_default(case: Case) -> Hit | None:
    """Return the finding of a default route of the source that names another gateway than its endpoint's."""
    own = _own(case)
    if own is None or not case.blockers:
        return None
    view, link, endpoint, network = own
    gateway = endpoint.gateway if case.flow.family == 4 else endpoint.gateway6
    for step in case.steps(Direction.FORWARD):
        route = step.route
        if step.kind is not StepKind.ROUTE or step.netns != view.id or route is None or gateway is None:
            continue
        used = route.nexthops[0].gateway if route.nexthops else None
        if used == gateway or step.ifindex != link.ifindex or route.dst.prefixlen != 0:
            continue
        told = (
            f"goes by {used}" if used is not None else f"names no gateway, so that {link.name} is asked for everybody"
        )
        blocker = case.blockers[0]
        prefix, family = enter(case, view.id), "-6 " if gateway.version == 6 else ""
        # Of the same table and metric, so that it takes the wrong one's place.
        better = replace(
            route, scope="global", nexthops=(NextHop(ifindex=link.ifindex, gateway=gateway),), nexthop_id=None
        )
        return Hit(
            title=f"{view.name} uses {used or 'nobody'} as its gateway instead of {gateway}",
            explanation=f"The default route of {view.name} {told}, but the gateway of {network.name} is {gateway}.",
            at=f"{view.name}/{link.name}",
            evidence=(
                *route_evidence(view, route, step.rule),
                intent_evidence(f"gateway of {network.name}: {gateway}", network.engine),
                *wire_evidence(case, blocker),
            ),
            mend=Mend(
                summary="Set the right gateway.",
                commands=(f"{prefix}ip {family}route replace {route_text(better, names(view))}",),
                change=together(delete_route(view.id, route), add_route(view.id, better)),
            ),
            basis=blocker.basis,
            blocker=blocker,
            direction=Direction.FORWARD,
            segment=step.segment,
            device=link.name,
            netns=view.id,
        )
    return None


def _own(case: Case) -> tuple[View, Link, Endpoint, Network] | None:
    """Return how the source hangs on its network: by a bridge, or by a device on a parent (macvlan, ipvlan)."""
    found = attachment(case, case.flow.src)
    if found is not None:
        return found[0], found[1], found[4], found[5]
    view = case.view(case.flow.src.netns)
    for endpoint, network in case.attachments(case.container_of(case.flow.src)):
        link = case.link_of(view, endpoint) if view is not None else None
        if view is not None and link is not None and link.kind in KINDS:
            return view, link, endpoint, network
    return None


RULE = rule("route.wrong-gateway", check, rank=49, needs=("routes", "intent"))
