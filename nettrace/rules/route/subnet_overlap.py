"""A Docker subnet overlaps a LAN, a VPN or another network.

What it reports: a route that is not the bridge's covers addresses of an engine's network, or the other way round, and
    the flow follows the wrong one.
Why traffic stops: one address, two routes: the more specific wins, whoever the packet was meant for.
Proof: both routes; the engine's subnet.
Remedy: give the engine's network another subnet (default-address-pools), or the other side another route.
Known limits: overlaps that this flow does not meet are not reported.
Seen in the field: the LAN, an ssh session or a VPN dies when a network is made whose subnet is in use elsewhere
    (moby#24796, moby#21141, for-linux#1110, libnetwork#779, for-linux#418, for-mac#2820). Very common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Direction, Reason, Segment, Step
from nettrace.model.snapshot import Route
from nettrace.model.text import route_text
from nettrace.predict.world import View
from nettrace.rules.base import Change, Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_route
from nettrace.rules.faults import intent_evidence, view_of
from nettrace.rules.route_facts import direction_of, own_rule, routed_before, sent_out
from nettrace.rules.wording import delete_route_command, names, route_evidence, wire_evidence

DEAD_ENDS = (Reason.NEIGHBOUR_FAILED, Reason.NO_CARRIER, Reason.OTHERHOST)


def check(case: Case) -> Result:
    """Fire when a stopped leg followed one of two routes of the host that cover the same engine addresses."""
    for blocker in case.blockers:
        for step in (*sent_out(case, blocker), *routed_before(case, blocker)):
            if step.netns != case.world.host or step.route is None or step.route.kind != "unicast":
                continue
            if own_rule(step.rule) or step.route.dst.prefixlen < 4:
                continue
            hit = _stolen(case, blocker, step) or _swallowed(case, blocker, step)
            if hit is not None:
                return fired(hit)
    return fired()


def _stolen(case: Case, blocker: Blocker, step: Step) -> Hit | None:
    """Return the finding of a container's address that another route than the bridge's covers."""
    route = step.route
    owner = case.world.owner_of_address(step.packet.dst)
    network = case.before.intent.network(owner[1].network_id) if owner is not None else None
    if route is None or network is None or network.bridge is None or step.device == network.bridge:
        return None
    view = view_of(case, step)
    bridge = view.by_name.get(network.bridge)
    subnet = next((each.subnet for each in network.subnets if step.packet.dst in each.subnet), None)
    right = _route_of(view, step, bridge.ifindex) if bridge is not None else None
    if subnet is None or right is None:
        return None
    what = "answers" if direction_of(case, step) is Direction.REPLY else "packets"
    return _hit(
        case,
        blocker,
        step,
        title=f"the route '{route.dst}' by {step.device} overlaps {network.name} ({subnet})",
        explanation=f"{step.packet.dst} is a container's, but the host's route "
        f"'{route_text(route, names(view))}' beats the one by {network.bridge}, so {what} leave by {step.device}.",
        network=f"{network.name}: {subnet}",
        engine=network.engine,
        rival=right,
        change=delete_route(view.id, route),
        command=delete_route_command(case, view, route),
    )


def _swallowed(case: Case, blocker: Blocker, step: Step) -> Hit | None:
    """Return the finding of a foreign address that an engine's subnet covers as well."""
    view, route = view_of(case, step), step.route
    network = case.network_of_bridge(step.device or "")
    if route is None or network is None or case.world.owner_of_address(step.packet.dst) is not None:
        return None
    if blocker.step is None or blocker.step.reason not in DEAD_ENDS:
        return None
    subnet = next((each.subnet for each in network.subnets if step.packet.dst in each.subnet), None)
    rival = next(
        (
            each
            for each in view.tables.get((step.packet.family, 254), ())
            if each != route
            and each.kind == "unicast"
            and each.dst.prefixlen >= 4
            and step.packet.dst in each.dst
            and all(hop.ifindex != step.ifindex for hop in each.nexthops)
        ),
        None,
    )
    if subnet is None or rival is None:
        return None
    return _hit(
        case,
        blocker,
        step,
        title=f"{network.name} ({subnet}) overlaps the network {rival.dst} that {step.packet.dst} is in",
        explanation=f"{step.packet.dst} could be reached by '{route_text(rival, names(view))}', but the subnet of "
        f"{network.name} covers it too, and the packet goes to {step.device}, where nobody has that address.",
        network=f"{network.name}: {subnet}",
        engine=network.engine,
        rival=rival,
        change=None,
        command=f"docker network create --subnet <another subnet> {network.name}-moved",
    )


def _route_of(view: View, step: Step, ifindex: int) -> Route | None:
    for route in view.tables.get((step.packet.family, 254), ()):
        if step.packet.dst in route.dst and any(hop.ifindex == ifindex for hop in route.nexthops):
            return route
    return None


def _hit(
    case: Case,
    blocker: Blocker,
    step: Step,
    *,
    title: str,
    explanation: str,
    network: str,
    engine: str,
    rival: Route,
    change: Change | None,
    command: str,
) -> Hit:
    view = view_of(case, step)
    return Hit(
        title=title,
        explanation=explanation,
        at=f"{view.name}/{step.device}",
        evidence=(
            *route_evidence(view, step.route, step.rule),
            *route_evidence(view, rival),
            intent_evidence(network, engine),
            *wire_evidence(case, blocker),
        ),
        mend=Mend(
            summary="Give the engine's network another subnet (default-address-pools), or take the other route away.",
            commands=(command,),
            change=change,
        ),
        basis=blocker.basis,
        blocker=blocker,
        direction=direction_of(case, step),
        segment=Segment.HOST,
        device=step.device,
        netns=view.id,
    )


RULE = rule("route.subnet-overlap", check, rank=44, needs=("routes", "intent"))
