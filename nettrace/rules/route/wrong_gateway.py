"""The next hop is not the network's gateway.

What it reports: the container's route goes by another router than the engine's gateway, and the flow stops.
Why traffic stops: the other address is nobody, or somebody who does not forward.
Proof: the route against the engine's gateway.
Remedy: put the right gateway in.
Known limits: gateways set on purpose are judged only when the flow stops.
Seen in the field: as above, with the gateway of an internal or macvlan network as the default (libnetwork#2406,
    podman#13153). Common.
"""

from __future__ import annotations

from nettrace.model.intent import Endpoint, Network
from nettrace.model.path import Direction, StepKind
from nettrace.model.snapshot import Link
from nettrace.predict.children import KINDS
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_route, default_route, delete_route, together
from nettrace.rules.faults import attachment, intent_evidence
from nettrace.rules.wording import enter, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the source's default route names another gateway than its endpoint's, and the flow stops."""
    own = _own(case)
    if own is None or not case.blockers:
        return fired()
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
        prefix = enter(case, view.id)
        return fired(
            Hit(
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
                    commands=(f"{prefix}ip route replace default via {gateway} dev {link.name}",),
                    change=together(
                        delete_route(view.id, route), add_route(view.id, default_route(gateway, link.ifindex))
                    ),
                ),
                basis=blocker.basis,
                blocker=blocker,
                direction=Direction.FORWARD,
                segment=step.segment,
                device=link.name,
                netns=view.id,
            )
        )
    return fired()


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
