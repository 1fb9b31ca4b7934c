"""The container's interface lacks the address that the engine gave it.

What it reports: an address that the engine assigned is not on the container's interface.
Why traffic stops: without it the container has no source address and no routes, and answers for nobody.
Proof: the engine's endpoint against the namespace's addresses.
Remedy: add the address and the default route, or reconnect the container.
Known limits: none.
Seen in the field: network managers that configure veths and bridges take addresses away again (systemd#28626,
    moby#40217).
"""

from __future__ import annotations

from nettrace.model.flow import FlowEnd
from nettrace.model.intent import Endpoint, Network
from nettrace.model.path import Reason, Segment
from nettrace.model.snapshot import Address, Link
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import Change, add_address, add_route, default_route, together
from nettrace.rules.faults import attachment, blockers, errno_or_wire, intent_evidence, passed_by
from nettrace.rules.wording import enter

REASONS = (
    Reason.NO_ROUTE,
    Reason.NO_SOURCE_ADDRESS,
    Reason.NEIGHBOUR_FAILED,
    Reason.OTHERHOST,
    Reason.NOT_LOCAL,
    Reason.RP_FILTER,
    Reason.FORWARDING_OFF,
    Reason.NOT_ENCAPSULATED,
    Reason.FILTERED,
)


def check(case: Case) -> Result:
    """Fire when an end of a stopped flow lacks the address of its endpoint."""
    hits = []
    for blocker, step in blockers(case, *REASONS):
        for end, segment in ((case.flow.src, Segment.SOURCE), (case.flow.dst, Segment.DESTINATION)):
            if step.reason is Reason.FILTERED:
                own = passed_by(case, step) if end is case.flow.src else None
            else:
                own = _by_mac(case, end)
            if own is None:
                continue
            view, link, endpoint, network = own
            held = endpoint.ipv4 if case.flow.family == 4 else endpoint.ipv6
            gateway = endpoint.gateway if case.flow.family == 4 else endpoint.gateway6
            if held is None or held.ip in view.owned:
                continue
            prefix = enter(case, view.id)
            commands = [f"{prefix}ip addr add {held} {'broadcast + ' if held.version == 4 else ''}dev {link.name}"]
            changes: list[Change] = [add_address(view.id, Address(ifindex=link.ifindex, address=held))]
            if gateway is not None and step.reason is not Reason.FILTERED:
                commands.append(f"{prefix}ip route add default via {gateway}")
                changes.append(add_route(view.id, default_route(gateway, link.ifindex)))
            hits.append(
                Hit(
                    title=f"{link.name} in {end.name} lacks its address {held.ip}",
                    explanation=f"The engine gave {end.name} the address {held} in {network.name}, "
                    f"but {link.name} does not hold it.",
                    at=f"{view.name}/{link.name}",
                    evidence=(
                        intent_evidence(f"{end.name} in {network.name}: {held}", network.engine),
                        *errno_or_wire(case, blocker),
                    ),
                    mend=Mend(
                        summary=f"Put the address{' and the default route' if len(commands) > 1 else ''} back, or "
                        "disconnect and connect the container.",
                        commands=tuple(commands),
                        change=together(*changes),
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=segment,
                    device=link.name,
                    netns=view.id,
                )
            )
            return fired(*hits)
    return fired(*hits)


def _by_mac(case: Case, end: FlowEnd) -> tuple[View, Link, Endpoint, Network] | None:
    """Return an end's interface by its MAC address alone: its address is what may be missing."""
    view, container = case.view(end.netns), case.container_of(end)
    for endpoint, network in case.attachments(container) if view is not None else ():
        # Overlays have no bridge in the host's namespace.
        link = case.link_of(view, endpoint) if view is not None else None
        held = endpoint.ipv4 if case.flow.family == 4 else endpoint.ipv6
        if network.driver != "overlay" or view is None or link is None or held is None:
            continue
        if held.ip not in view.owned:
            return view, link, endpoint, network
    own = attachment(case, end)
    return (own[0], own[1], own[4], own[5]) if own is not None else None


RULE = rule("addr.missing", check, rank=31, needs=("addresses", "intent"))
