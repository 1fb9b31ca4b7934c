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

from nettrace.correlate import Blocker
from nettrace.model.flow import FlowEnd
from nettrace.model.intent import Endpoint, Network
from nettrace.model.path import Reason, Segment
from nettrace.model.snapshot import Address, Link
from nettrace.model.text import address_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import MAIN_TABLE, View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import (
    Change,
    add_address,
    add_route,
    default_route,
    delete_address,
    delete_route,
    set_link,
    together,
)
from nettrace.rules.faults import attachment, blockers, errno_or_wire, intent_evidence, passed_by
from nettrace.rules.nat_facts import leaving
from nettrace.rules.wording import enter, names

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
    stops = [*blockers(case, *REASONS), *((each, None) for each in _untranslated(case))]
    for blocker, step in stops:
        for end, segment in ((case.flow.src, Segment.SOURCE), (case.flow.dst, Segment.DESTINATION)):
            filtered = step is not None and step.reason is Reason.FILTERED
            if step is not None and filtered:
                own = passed_by(case, step) if end is case.flow.src else None
            else:
                own = _by_mac(case, end)
            if own is None:
                continue
            view, link, endpoint, network = own
            held = endpoint.ipv4 if case.flow.family == 4 else endpoint.ipv6
            gateway = endpoint.gateway if case.flow.family == 4 else endpoint.gateway6
            if held is None or held.ip in view.owned:
                narrow_hit = _too_narrow(case, blocker, end, own)
                if narrow_hit is not None:
                    return fired(narrow_hit)
                continue
            prefix = enter(case, view.id)
            narrow, why = held.version == 6 and link.mtu < 1280, ""
            if narrow:
                why = f" Its MTU of {link.mtu} is too small for IPv6, which the kernel then takes off it."
            commands = [f"{prefix}ip link set {link.name} mtu 1500"] if narrow else []
            commands += [f"{prefix}ip addr add {held} {'broadcast + ' if held.version == 4 else ''}dev {link.name}"]
            changes: list[Change] = [set_link(view.id, link.ifindex, mtu=1500)] if narrow else []
            changes += [add_address(view.id, Address(ifindex=link.ifindex, address=held))]
            routed = gateway is not None and not filtered
            if gateway is not None and routed:
                # One that another address brought about would be in the way of adding it.
                there = [
                    each
                    for each in view.tables.get((gateway.version, MAIN_TABLE), ())
                    if each.dst.prefixlen == 0 and not each.priority
                ]
                verb = "replace" if there else "add"
                commands.append(f"{prefix}ip route {verb} default via {gateway}")
                changes += [delete_route(view.id, each) for each in there]
                changes.append(add_route(view.id, default_route(gateway, link.ifindex)))
            hits.append(
                Hit(
                    title=f"{link.name} in {end.name} lacks its address {held.ip}",
                    explanation=f"The engine gave {end.name} the address {held} in {network.name}, "
                    f"but {link.name} does not hold it.{why}",
                    at=f"{view.name}/{link.name}",
                    evidence=(
                        intent_evidence(f"{end.name} in {network.name}: {held}", network.engine),
                        *errno_or_wire(case, blocker),
                    ),
                    mend=Mend(
                        summary=f"Put the address{' and the default route' if routed else ''} back, or "
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


def _too_narrow(case: Case, blocker: Blocker, end: FlowEnd, own: tuple[View, Link, Endpoint, Network]) -> Hit | None:
    """Return the finding of an address whose scope keeps it from being the source of what goes beyond the link."""
    view, link, endpoint, network = own
    held, step = endpoint.ipv4, blocker.step
    if step is None or step.reason is not Reason.NO_SOURCE_ADDRESS or step.netns != view.id or held is None:
        return None
    rows = view.addresses.get(link.ifindex, ())
    row = next((each for each in rows if each.address.ip == held.ip and each.scope != "global"), None)
    if row is None:
        return None
    prefix = enter(case, view.id)
    commands = [
        f"{prefix}ip addr del {row.address} dev {link.name}",
        f"{prefix}ip addr add {held} broadcast + dev {link.name}",
    ]
    changes = [delete_address(view.id, row), add_address(view.id, Address(ifindex=link.ifindex, address=held))]
    if endpoint.gateway is not None:
        commands.append(f"{prefix}ip route replace default via {endpoint.gateway} dev {link.name}")
        changes += [
            delete_route(view.id, each)
            for each in view.tables.get((4, MAIN_TABLE), ())
            if each.dst.prefixlen == 0 and not each.priority
        ]
        changes.append(add_route(view.id, default_route(endpoint.gateway, link.ifindex)))
    return Hit(
        title=f"{link.name} in {end.name} holds {held.ip} with scope {row.scope} only",
        explanation=f"An address of scope {row.scope} is no source for what goes further, and {link.name} has no other "
        f"for {step.packet.dst}. The engine gives {held} in {network.name} to everybody (scope global).",
        at=f"{view.name}/{link.name}",
        evidence=(
            Evidence(kind=EvidenceKind.ADDRESS, ref=f"{view.name}/{link.name}", text=address_text(row, names(view))),
            *errno_or_wire(case, blocker),
        ),
        mend=Mend(
            summary="Give it the scope that it should have.", commands=tuple(commands), change=together(*changes)
        ),
        basis=blocker.basis,
        blocker=blocker,
        device=link.name,
        netns=view.id,
    )


def _untranslated(case: Case) -> list[Blocker]:
    """Return the stop of a packet that left with a source which no rule is for, as the right one was not there."""
    out = leaving(case)
    return [out.blocker] if out is not None and out.subnet is None and not out.translated else []


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
