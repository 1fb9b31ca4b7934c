"""The netmask of a container differs from its network's.

What it reports: the container's address has another prefix length than the engine gave it, or the bridge's a longer one
    than its network's.
Why traffic stops: with a wider prefix remote hosts look like neighbours that nobody answers for; with a narrower one
    neighbours, or the gateway itself, look remote.
Proof: the engine's endpoint against the address row.
Remedy: put the address with the right prefix back.
Known limits: a mismatch that this flow does not meet is not reported.
Seen in the field: no public report of its own was read; it comes with hand-made interfaces and with subnets that were
    changed under a running container (moby#14185, moby#26391).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

from nettrace.correlate import Blocker
from nettrace.model.base import IPAddress, IPInterface
from nettrace.model.intent import Network
from nettrace.model.path import Direction, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Address, Link
from nettrace.model.text import address_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_address, add_route, default_route, delete_address, together
from nettrace.rules.faults import attachment, errno_or_wire, intent_evidence
from nettrace.rules.wording import enter, names

REASONS = (Reason.NO_ROUTE, Reason.NO_SOURCE_ADDRESS, Reason.NEIGHBOUR_FAILED, Reason.OTHERHOST, Reason.ARP_IGNORED)


def check(case: Case) -> Result:
    """Fire when an end of a stopped flow holds its address with another prefix length than its endpoint's."""
    for end, segment in ((case.flow.src, Segment.SOURCE), (case.flow.dst, Segment.DESTINATION)):
        own = attachment(case, end)
        if own is None:
            continue
        view, link, _host, _veth, endpoint, network = own
        meant = endpoint.ipv4 if case.flow.family == 4 else endpoint.ipv6
        held = [each for each in view.addresses.get(link.ifindex, ()) if meant and each.address.ip == meant.ip]
        if meant is None or not held or any(each.address.network == meant.network for each in held):
            continue
        wrong = held[0]
        direction = Direction.FORWARD if end is case.flow.src else Direction.REPLY
        blocker = next((each for each in case.blockers if _fits(case, each, view.id, direction)), None)
        if blocker is None:
            continue
        right = Address(ifindex=link.ifindex, address=meant, scope=wrong.scope)
        gateway = endpoint.gateway if case.flow.family == 4 else endpoint.gateway6
        prefix = enter(case, view.id)
        commands = [
            f"{prefix}ip addr del {wrong.address} dev {link.name}",
            f"{prefix}ip addr add {meant} dev {link.name}",
        ]
        change = together(delete_address(view.id, wrong), add_address(view.id, right))
        if gateway is not None:
            commands.append(f"{prefix}ip route replace default via {gateway} dev {link.name}")
            change = together(change, add_route(view.id, default_route(gateway, link.ifindex)))
        return fired(
            Hit(
                title=f"{link.name} in {end.name} has the netmask /{wrong.address.network.prefixlen} instead of "
                f"/{meant.network.prefixlen}",
                explanation=f"{end.name} holds {wrong.address}, but {network.name} is {meant.network}: "
                + (
                    "hosts beyond the network look like neighbours to it."
                    if wrong.address.network.prefixlen < meant.network.prefixlen
                    else "neighbours of the network look remote to it."
                ),
                at=f"{view.name}/{link.name}",
                evidence=(
                    Evidence(
                        kind=EvidenceKind.ADDRESS,
                        ref=f"{view.name}/{link.name}",
                        text=address_text(wrong, names(view)),
                    ),
                    intent_evidence(f"{end.name} in {network.name}: {meant}", network.engine),
                    *errno_or_wire(case, blocker),
                ),
                mend=Mend(
                    summary="Give the interface its address with the right netmask, or reconnect the container.",
                    commands=tuple(commands),
                    change=change,
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=segment,
                device=link.name,
                netns=view.id,
            )
        )
    return fired(_of_bridge(case))


def _of_bridge(case: Case) -> Hit | None:
    """Return the finding of a bridge whose own address has a narrower prefix than the engine's network.

    The rest of the network is then routed elsewhere, and its last address is taken for everybody's.
    """
    host = case.host
    for blocker in case.blockers if host is not None else ():
        for step in case.steps(blocker.direction):
            last = step is blocker.step
            back = last and step.reason is Reason.RP_FILTER
            if step.netns == case.world.host and (step.kind is StepKind.ROUTE or back):
                address = step.packet.src if back else step.packet.dst
                found = _narrow(case, address)
                if found is not None:
                    return _narrow_hit(case, blocker, step, address, *found)
            if last:
                break
    return None


def _narrow(case: Case, address: IPAddress) -> tuple[Network, Link, Address, IPInterface] | None:
    """Return the bridge of an address's network, if its own address leaves that one out: the row, and the right one."""
    host = case.host
    for network in case.before.intent.networks:
        link = host.by_name.get(network.bridge or "") if host is not None else None
        for pool in network.subnets:
            if host is None or link is None or pool.gateway is None or address not in pool.subnet:
                continue
            rows = [each for each in host.addresses.get(link.ifindex, ()) if each.address.ip == pool.gateway]
            whole = any(each.address.network.prefixlen <= pool.subnet.prefixlen for each in rows)
            if not rows or whole or any(_covers(host, link, address)):
                continue
            return network, link, rows[0], ip_interface(f"{pool.gateway}/{pool.subnet.prefixlen}")
    return None


def _covers(host: View, link: Link, address: IPAddress) -> Iterator[bool]:
    """Yield, for each route by a bridge to an address, whether it is one to a host of the link."""
    for routes in (host.merged, *(routes for (family, _table), routes in host.tables.items() if family == 6)):
        for route in routes:
            if address in route.dst and any(hop.ifindex == link.ifindex for hop in route.nexthops):
                yield route.kind == "unicast" and not any(
                    each.kind == "broadcast" and address in each.dst for each in routes
                )


def _narrow_hit(
    case: Case,
    blocker: Blocker,
    step: Step,
    address: IPAddress,
    network: Network,
    link: Link,
    wrong: Address,
    right: IPInterface,
) -> Hit:
    host = case.world.views[step.netns]
    broadcast = "broadcast + " if right.version == 4 else ""
    return Hit(
        title=f"{link.name} has the netmask /{wrong.address.network.prefixlen} instead of /{right.network.prefixlen}",
        explanation=f"{link.name} holds {wrong.address}, but {network.name} is {right.network}: {host.name} does not "
        f"take {address} for one of its hosts.",
        at=f"{host.name}/{link.name}",
        evidence=(
            Evidence(kind=EvidenceKind.ADDRESS, ref=f"{host.name}/{link.name}", text=address_text(wrong, names(host))),
            intent_evidence(f"gateway of {network.name}: {right}", network.engine),
            *errno_or_wire(case, blocker),
        ),
        mend=Mend(
            summary="Give the bridge its address with the right netmask (restarting the engine does so too).",
            commands=(
                f"ip addr del {wrong.address} dev {link.name}",
                f"ip addr add {right} {broadcast}dev {link.name}",
            ),
            change=together(
                delete_address(host.id, wrong),
                add_address(host.id, Address(ifindex=link.ifindex, address=right, scope=wrong.scope)),
            ),
        ),
        basis=blocker.basis,
        blocker=blocker,
        segment=Segment.HOST,
        device=link.name,
        netns=host.id,
    )


def _fits(case: Case, blocker: Blocker, netns: int, direction: Direction) -> bool:
    """Tell whether a wrong netmask in a namespace can explain a stop: one there, or one without a step."""
    if blocker.direction is not direction:
        return False
    return blocker.step is None or (blocker.step.netns == netns and blocker.step.reason in REASONS)


RULE = rule("addr.prefix-mismatch", check, rank=31, needs=("addresses", "intent"))
