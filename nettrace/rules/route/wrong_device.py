"""The best route leaves by another interface than the network's.

What it reports: a route sends the packet, or its answer, out of a device that does not lead to the destination.
Why traffic stops: a more specific route or a lower metric beats the right one.
Proof: the route that was used against the network the address belongs to, and against the route that is next best;
    captures show the other device.
Remedy: delete the route.
Known limits: routes on purpose cannot be told from mistakes while traffic passes.
Seen in the field: a container on several networks sends by the one that has no way out (libnetwork#2406, moby#30302,
    moby#38187, podman#16233). Common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Direction, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Link, NextHop, Route
from nettrace.model.text import route_text
from nettrace.predict import route as routing
from nettrace.predict.world import MAIN_TABLE, View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_route, delete_route, together
from nettrace.rules.faults import lost_on_wire, passed_by, view_of
from nettrace.rules.route_facts import direction_of, fewer_hops, isolated, own_rule, sent_out
from nettrace.rules.wording import (
    delete_route_command,
    enter,
    link_evidence,
    names,
    route_evidence,
    wire_evidence,
)


def check(case: Case) -> Result:
    """Fire for the first route of a stopped leg that leaves by a device which cannot be the right one."""
    for blocker in case.blockers:
        for step in (*sent_out(case, blocker), *case.steps(blocker.direction)):
            if step is blocker.step:
                break
            if step.kind is not StepKind.ROUTE or step.route is None or step.route.kind != "unicast":
                continue
            right = _right_device(case, step, blocker)
            # What a policy rule of its own leads astray is route.policy-rule's, or route.reply-asymmetric's.
            if right is not None and right != step.device and not own_rule(step.rule):
                return fired(_hit(case, blocker, step, right))
    return fired(_spread(case))


def _spread(case: Case) -> Hit | None:
    """Return the finding of a route over several devices, one of which leads nowhere, where the flow may get that."""
    for blocker in lost_on_wire(case):
        for step in case.steps(blocker.direction):
            view = view_of(case, step)
            if step.kind is not StepKind.ROUTE or step.route is None or len(step.route.nexthops) < 2:
                continue
            ways = {hop.ifindex: view.links.get(hop.ifindex or 0) for hop in step.route.nexthops}
            dead = [link for link in ways.values() if link is not None and not (link.up and link.lower_up)]
            if not dead or len(dead) == len(ways):
                continue
            return _spread_hit(case, blocker, step, dead)
    return None


def _spread_hit(case: Case, blocker: Blocker, step: Step, dead: list[Link]) -> Hit:
    view, route = view_of(case, step), step.route
    assert route is not None
    told, gone = " and ".join(link.name for link in dead), {link.ifindex for link in dead}
    return Hit(
        title=f"{view.name} sends some flows out of {told}, which leads nowhere",
        explanation=f"In {view.name} the route '{route_text(route, names(view))}' spreads flows over "
        f"{len(route.nexthops)} next hops, and {told} is down or has no carrier: this flow is lost there.",
        at=f"{view.name}/{dead[0].name}",
        evidence=(
            *route_evidence(view, route, step.rule),
            *(link_evidence(view, link) for link in dead),
            *wire_evidence(case, blocker),
        ),
        mend=fewer_hops(case, step, lambda hop: hop.ifindex in gone) or Mend(summary=f"Bring {told} up."),
        basis=blocker.basis,
        blocker=blocker,
        segment=step.segment if step.segment is not Segment.EGRESS else Segment.HOST,
        device=dead[0].name,
        netns=view.id,
    )


def _right_device(case: Case, step: Step, blocker: Blocker) -> str | None:
    """Return the device that packets to the destination should leave by; None when that cannot be told."""
    view = view_of(case, step)
    if step.route is None or step.ifindex is None:
        return None
    if blocker.step is not None and blocker.step.reason is Reason.NOT_ENCAPSULATED:
        if step.route.dst.prefixlen == 0:
            return None  # the default route is right to be there
        return _overlay_device(case, view, step)
    past = passed_by(case, blocker.step) if blocker.step is not None and view.id == case.flow.src.netns else None
    if past is not None:
        held = past[2].ipv4 if step.packet.family == 4 else past[2].ipv6
        # Without its interface, or its address there, the route went with it.
        return past[1].name if past[1].up and held is not None and held.ip in view.owned else None
    owner = case.world.owner_of_address(step.packet.dst)
    if view.id == case.world.host and owner is not None:
        network = case.before.intent.network(owner[1].network_id)
        if network is not None and isolated(network, step.packet.family):
            return None  # filter.internal-network
        return network.bridge if network is not None and network.bridge in view.by_name else None
    if step.route.dst.prefixlen == 0 and step.route.priority == 0 and view.id == case.world.host:
        return None
    network = case.network_of_bridge(step.device or "")
    if network is not None and any(step.packet.dst in each.subnet for each in network.subnets):
        # An address of that very network which nobody holds: the way is right, and leads to nobody.
        return None
    if _own_network(case, view, step) or not _leads_nowhere(case, step, blocker):
        return None
    return _second_best(view, step)


def _own_network(case: Case, view: View, step: Step) -> bool:
    """Tell whether a container sends to an address of a network that it is in by its interface there."""
    for endpoint, network in case.attachments(case.world.containers.get(view.id)):
        link = case.link_of(view, endpoint)
        if link is not None and link.ifindex == step.ifindex:
            return any(step.packet.dst in pool.subnet for pool in network.subnets)
    return False


def _overlay_device(case: Case, view: View, step: Step) -> str | None:
    """Return a container's interface of the overlay network that the destination is in, where that is up."""
    for endpoint, network in case.attachments(case.world.containers.get(view.id)):
        link = case.link_of(view, endpoint)
        if any(step.packet.dst in pool.subnet for pool in network.subnets) and link is not None and link.up:
            return link.name
    return None


def _leads_nowhere(case: Case, step: Step, blocker: Blocker) -> bool:
    """Tell whether the device that was chosen is where the flow stops, or a network that the destination is not in."""
    stop = blocker.step
    dead_ends = (Reason.NEIGHBOUR_FAILED, Reason.NO_CARRIER, Reason.OTHERHOST, Reason.VXLAN_NO_DESTINATION)
    if stop is not None and (stop.netns, stop.ifindex) == (step.netns, step.ifindex) and stop.reason in dead_ends:
        return True
    link = view_of(case, step).links.get(step.ifindex or 0)
    network = case.network_of_bridge(link.name) if link is not None else None
    if network is not None and step.netns == case.world.host:
        return all(step.packet.dst not in each.subnet for each in network.subnets)
    # Beyond the stop, by the loopback or a device that no engine knows: silence from there is not proof.
    return link is not None and link.loopback


def _second_best(view: View, step: Step) -> str | None:
    """Return the device of the route that would be taken without the one that is."""
    tables = {key: [route for route in table if route != step.route] for key, table in view.tables.items()}
    without = View(view.ns)
    without.__dict__["tables"] = tables
    found = routing.lookup(without, step.packet, src=step.packet.src)
    if found.ifindex is None or found.route is None or found.route.kind != "unicast":
        return None
    return view.links[found.ifindex].name if found.ifindex in view.links else None


def _hit(case: Case, blocker: Blocker, step: Step, right: str) -> Hit:
    view = view_of(case, step)
    route = step.route
    assert route is not None
    text = route_text(route, names(view))
    what = "the packet" if direction_of(case, step) is Direction.FORWARD else "the answer"
    missing = _connected(case, view, step, right)
    if missing is not None:
        return _missing_hit(case, blocker, step, right, missing)
    return Hit(
        title=f"{view.name} sends {what} out of {step.device} instead of {right}",
        explanation=f"In {view.name} the route '{text}' beats the one by {right}, so {what} to "
        f"{step.packet.dst} leaves by {step.device}, where nobody waits for it.",
        at=f"{view.name}/{step.device}",
        evidence=(*route_evidence(view, route, step.rule), *wire_evidence(case, blocker)),
        mend=Mend(
            summary="Delete the route.",
            commands=(delete_route_command(case, view, route),),
            change=delete_route(view.id, route),
        ),
        basis=blocker.basis,
        blocker=blocker,
        direction=direction_of(case, step),
        segment=step.segment if step.segment is not Segment.EGRESS else Segment.HOST,
        device=step.device,
        netns=view.id,
    )


def _connected(case: Case, view: View, step: Step, right: str) -> Route | None:
    """Return the connected route of the network that a packet goes to, where no route of that network is left."""
    link = view.by_name.get(right)
    held = view.addresses.get(link.ifindex, ()) if link is not None else ()
    for each in held:
        network = each.address.network
        routes = view.tables.get((network.version, MAIN_TABLE), ())
        there = any(route.dst == network and link.ifindex in _devices(route) for route in routes) if link else True
        if step.packet.dst in network and not there and link is not None:
            return Route(
                table=MAIN_TABLE,
                dst=network,
                scope="link",
                proto="kernel",
                prefsrc=each.address.ip,
                nexthops=(NextHop(ifindex=link.ifindex),),
            )
    meant = case.network_of_bridge(right)
    pool = next((each for each in meant.subnets if step.packet.dst in each.subnet), None) if meant is not None else None
    if pool is None or link is None or pool.gateway not in view.owned:
        return None
    if any(route.dst == pool.subnet for route in view.tables.get((pool.subnet.version, MAIN_TABLE), ())):
        return None
    # Its address has a narrower prefix than the engine gave it.
    hops = (NextHop(ifindex=link.ifindex),)
    return Route(table=MAIN_TABLE, dst=pool.subnet, scope="link", prefsrc=pool.gateway, nexthops=hops)


def _devices(route: Route) -> list[int | None]:
    return [hop.ifindex for hop in route.nexthops]


def _missing_hit(case: Case, blocker: Blocker, step: Step, right: str, missing: Route) -> Hit:
    view = view_of(case, step)
    assert step.route is not None
    what = "the packet" if direction_of(case, step) is Direction.FORWARD else "the answer"
    text = route_text(missing, names(view))
    # The kernel refuses a second route of the same prefix and metric (fib_table_insert).
    taken = [
        each
        for each in view.tables.get((missing.dst.version, MAIN_TABLE), ())
        if (each.dst, each.priority, each.tos) == (missing.dst, missing.priority, missing.tos)
    ]
    return Hit(
        title=f"{view.name} sends {what} out of {step.device} instead of {right}: its route to {missing.dst} is gone",
        explanation=f"{right} holds an address of {missing.dst}, but {view.name} has no route to that network by it, "
        f"so '{route_text(step.route, names(view))}' takes {what}.",
        at=f"{view.name}/{step.device}",
        evidence=(*route_evidence(view, step.route, step.rule), *wire_evidence(case, blocker)),
        mend=Mend(
            summary="Put the network's own route back.",
            commands=(f"{enter(case, view.id)}ip route {'replace' if taken else 'add'} {text}",),
            change=together(*(delete_route(view.id, each) for each in taken), add_route(view.id, missing)),
        ),
        basis=blocker.basis,
        blocker=blocker,
        direction=direction_of(case, step),
        segment=step.segment if step.segment is not Segment.EGRESS else Segment.HOST,
        device=step.device,
        netns=view.id,
    )


RULE = rule("route.wrong-device", check, rank=48, needs=("routes",))
