"""There is no route to the destination.

What it reports: the table that is used holds no route that covers the destination; or the local table none for an
    address that the namespace holds.
Why traffic stops: the kernel refuses to send (network unreachable), or discards what it should forward.
Proof: the lookup in the namespace's tables; ENETUNREACH at the source; Ip.OutNoRoutes or Ip.InNoRoutes.
Remedy: add the route; in a container, the default route by the engine's gateway.
Known limits: none.
Seen in the field: "Network is unreachable" in a container that is only in internal networks, or on a host whose
    default route is gone (moby#48193, for-linux#844). Common.
"""

from __future__ import annotations

from ipaddress import ip_network

from nettrace.model.intent import Endpoint, Network
from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.snapshot import Link, NextHop, Route
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import LOCAL_TABLE, View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import Change, add_route, default_route
from nettrace.rules.faults import blockers, errno_or_wire, intent_evidence, view_of
from nettrace.rules.route_facts import rule_back
from nettrace.rules.wording import enter, route_evidence


def check(case: Case) -> Result:
    """Fire when a routing lookup on the way finds nothing."""
    hits = []
    for blocker, step in blockers(case, Reason.NO_ROUTE, Reason.RP_FILTER):
        view = view_of(case, step)
        if step.route is not None:
            continue  # a route of type throw, which route.blackhole names; or a way back, but by another device
        if step.reason is Reason.RP_FILTER and rule_back(case, view, step) is not None:
            continue  # it is there, and no policy rule asks for it
        target = step.packet.dst if step.reason is Reason.NO_ROUTE else step.packet.src
        own = _attached(case, view)
        gateway = None
        change: Change | None = None
        if own is not None:
            gateway = own[0].gateway if case.flow.family == 4 else own[0].gateway6
        prefix = enter(case, view.id)
        family = "-6 " if case.flow.family == 6 else ""
        command = f"{prefix}ip {family}route add default via {gateway or '<gateway>'}"
        evidence = [
            Evidence(kind=EvidenceKind.ROUTE, ref=view.name, text=f"no route covers {target}"),
        ]
        if own is not None and gateway is not None:
            change = add_route(view.id, default_route(gateway, own[2].ifindex))
            evidence.append(intent_evidence(f"gateway of {own[1].name}: {gateway}", own[1].engine))
        hits.append(
            Hit(
                title=f"{view.name} has no route to {target}",
                explanation=f"No routing table of {view.name} covers {target}, "
                + (
                    "so the packet goes nowhere."
                    if step.reason is Reason.NO_ROUTE
                    else f"so nothing could go back there, and the reverse-path filter ({step.sysctl}) discards it."
                ),
                at=view.name,
                evidence=(*evidence, *errno_or_wire(case, blocker)),
                mend=Mend(summary="Add the route that is missing.", commands=(command,), change=change),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits, *_past_the_overlay(case), *_not_local(case))


def _not_local(case: Case) -> list[Hit]:
    """Return the findings of addresses that a namespace holds without the local route that belongs to each."""
    hits = []
    for blocker, step in blockers(case, Reason.NOT_LOCAL):
        view = view_of(case, step)
        target = step.packet.dst if step.packet.dst in view.owned else step.next_hop
        link = view.links.get(view.owned.get(target, 0)) if target is not None else None
        if target is None or link is None:
            continue
        route = Route(
            table=LOCAL_TABLE,
            dst=ip_network(target),
            kind="local",
            scope="host" if target.version == 4 else "global",
            prefsrc=target if target.version == 4 else None,
            nexthops=(NextHop(ifindex=link.ifindex),),
        )
        family, scope = ("", f" scope host src {target}") if target.version == 4 else ("-6 ", "")
        command = f"ip {family}route add local {target} dev {link.name} table local proto kernel{scope}"
        hits.append(
            Hit(
                title=f"{view.name} has no local route to its own address {target}",
                explanation=f"{link.name} in {view.name} holds {target}, but the route that makes packets for it end "
                "there is gone, so they are taken for somebody else's.",
                at=f"{view.name}/{link.name}",
                evidence=(
                    Evidence(kind=EvidenceKind.ROUTE, ref=f"{view.name}: table local", text=f"no route for {target}"),
                    *route_evidence(view, step.route, step.rule),
                    *errno_or_wire(case, blocker),
                ),
                mend=Mend(
                    summary="Put the route back, or take the address away and add it again.",
                    commands=(f"{enter(case, view.id)}{command}",),
                    change=add_route(view.id, route),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return hits


def _past_the_overlay(case: Case) -> list[Hit]:
    """Return the findings of overlays whose connected route is gone, so that the default route took the packet."""
    hits = []
    for blocker, step in blockers(case, Reason.NOT_ENCAPSULATED):
        end = case.flow.src if blocker.direction is Direction.FORWARD else case.flow.dst
        view = case.view(end.netns)
        for endpoint, network in case.attachments(case.container_of(end)):
            link = case.link_of(view, endpoint) if view is not None else None
            pool = next((each.subnet for each in network.subnets if step.packet.dst in each.subnet), None)
            if view is None or link is None or pool is None or not link.up:
                continue
            held = next((each for each in view.addresses.get(link.ifindex, ()) if each.address.ip in pool), None)
            if held is None or any(route.dst == pool for routes in view.tables.values() for route in routes):
                continue
            route = Route(table=254, dst=pool, nexthops=(NextHop(ifindex=link.ifindex),), prefsrc=held.address.ip)
            hits.append(
                Hit(
                    title=f"{view.name} has no route to {pool} by {link.name}",
                    explanation=f"{link.name} is in the overlay network {network.name}, and the route to its subnet is "
                    f"gone, so a wider one takes what is for {step.packet.dst} out of the host without the tunnel.",
                    at=f"{view.name}/{link.name}",
                    evidence=(
                        Evidence(kind=EvidenceKind.ROUTE, ref=view.name, text=f"no route to {pool} dev {link.name}"),
                        intent_evidence(f"subnet of {network.name}: {pool}", network.engine),
                        *errno_or_wire(case, blocker),
                    ),
                    mend=Mend(
                        summary="Add the route that is missing.",
                        commands=(f"{enter(case, view.id)}ip route add {pool} dev {link.name} src {held.address.ip}",),
                        change=add_route(view.id, route),
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=Segment.SOURCE if blocker.direction is Direction.FORWARD else Segment.DESTINATION,
                    device=link.name,
                    netns=view.id,
                )
            )
    return hits


def _attached(case: Case, view: View) -> tuple[Endpoint, Network, Link] | None:
    """Return the first endpoint of a namespace's container that has a gateway, with its network and interface."""
    container = case.world.containers.get(view.id)
    for endpoint, network in case.attachments(container):
        link = case.link_of(view, endpoint)
        gateway = endpoint.gateway if case.flow.family == 4 else endpoint.gateway6
        if link is not None and gateway is not None:
            return endpoint, network, link
    return None


RULE = rule("route.missing", check, rank=51, needs=("routes",))
