"""Namespaces of containers that nobody pasted, as their engine makes them: from Intent and the host's own listings.

Only what is beside the question can be taken so; that it was taken, and not read, is told as a gap of the namespace.
What an engine may make in several ways (which of several networks holds the default route) is left unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_interface, ip_network

from msgspec.structs import replace

from nettrace.model.base import IPAddress, Missing, Present, Values, rows
from nettrace.model.intent import Container, Endpoint, Network
from nettrace.model.snapshot import (
    Address,
    FdbEntry,
    Link,
    Namespace,
    Neighbour,
    NetfilterDump,
    NextHop,
    PolicyRule,
    Route,
)
from nettrace.paste.devices import UNTOLD
from nettrace.paste.namespace import local_routes

__all__ = ["default_rules", "filled", "pair_up"]

LOCAL, MAIN, DEFAULT = 255, 254, 253
LOOPBACK = 1
#: ifindex of the first interface of a namespace that is made up.
FIRST = 2


def default_rules() -> tuple[PolicyRule, ...]:
    """Return the policy rules that a namespace starts with (fib_default_rules_init, fib6_rules_net_init)."""
    return tuple(
        PolicyRule(family=family, priority=priority, table=table)
        for family, priority, table in (
            (4, 0, LOCAL),
            (4, 32766, MAIN),
            (4, 32767, DEFAULT),
            (6, 0, LOCAL),
            (6, 32766, MAIN),
        )
    )


def filled(
    pasted: Namespace, container: Container, networks: Mapping[str, Network], host: Namespace
) -> tuple[Namespace, list[str]]:
    """Return a container's namespace with what is missing of it as its engine makes it, and the sections so made."""
    made: list[str] = []
    namespace = pasted
    attached = [
        (endpoint, networks[endpoint.network_id]) for endpoint in container.endpoints if endpoint.network_id in networks
    ]
    modelled = len(attached) == len(container.endpoints) and all(
        network.driver in ("bridge", "macvlan") and (endpoint.ipv4 or endpoint.ipv6) for endpoint, network in attached
    )
    if isinstance(namespace.links, Missing) and modelled:
        namespace = replace(namespace, links=Present(rows=_links(attached, host)))
        made.append("links")
    devices = _devices(namespace, attached)
    if isinstance(namespace.addresses, Missing) and modelled and devices is not None:
        namespace = replace(namespace, addresses=Present(rows=_addresses(namespace, attached, devices)))
        made.append("addresses")
    if isinstance(namespace.routes, Missing) and modelled and devices is not None and not _ambiguous(attached):
        routes = _routes(namespace, attached, devices)
        namespace = replace(namespace, routes=Present(rows=routes))
        made.append("routes")
    if isinstance(namespace.rules, Missing):
        namespace = replace(namespace, rules=Present(rows=default_rules()))
        made.append("rules")
    if isinstance(namespace.neighbours, Missing):
        namespace = replace(namespace, neighbours=Present[Neighbour]())
        made.append("neighbours")
    if isinstance(namespace.fdb, Missing):
        namespace = replace(namespace, fdb=Present[FdbEntry]())
        made.append("fdb")
    if isinstance(namespace.netfilter, Missing):
        namespace = replace(namespace, netfilter=Present[NetfilterDump]())
        made.append("netfilter")
    if isinstance(namespace.sysctls, Missing):
        namespace = replace(namespace, sysctls=Values[str]())
        made.append("sysctls")
    return namespace, made


def _ambiguous(attached: Sequence[tuple[Endpoint, Network]]) -> bool:
    """Tell whether several networks could hold the default route: which one does depends on the engine's version."""
    return any(
        len([each for each, _ in attached if getattr(each, name) is not None]) > 1 for name in ("gateway", "gateway6")
    )


def _links(attached: Sequence[tuple[Endpoint, Network]], host: Namespace) -> tuple[Link, ...]:
    loopback = Link(
        ifindex=LOOPBACK,
        name="lo",
        mac="00:00:00:00:00:00",
        mtu=65536,
        operstate="UNKNOWN",
        loopback=True,
        arp_type=772,
    )
    made = [loopback]
    by_name = {link.name: link for link in rows(host.links)}
    for place, (endpoint, network) in enumerate(attached):
        upper = by_name.get(network.bridge or "") if network.driver == "bridge" else by_name.get(network.parent or "")
        made.append(
            Link(
                ifindex=FIRST + place,
                name=f"eth{place}",
                kind="veth" if network.driver == "bridge" else "macvlan",
                mac=endpoint.mac,
                mtu=network.mtu or (upper.mtu if upper is not None and network.driver != "bridge" else 1500),
                operstate="UP",
                # The other end is in the host's namespace; which device it is `pair_up` finds, if anything tells.
                peer_ifindex=upper.ifindex if upper is not None and network.driver == "macvlan" else UNTOLD,
                peer_netns=host.id if upper is not None and network.driver == "macvlan" else None,
                peer_nsid=None if upper is not None and network.driver == "macvlan" else 0,
                macvlan_mode="bridge" if network.driver == "macvlan" else None,
            )
        )
    return tuple(made)


def _devices(namespace: Namespace, attached: Sequence[tuple[Endpoint, Network]]) -> list[Link] | None:
    """Return the link of each endpoint, by its MAC address; None when one has none."""
    links = [link for link in rows(namespace.links) if not link.loopback]
    by_mac = {link.mac: link for link in links if link.mac}
    found = [by_mac.get(endpoint.mac or "") for endpoint, _ in attached]
    return None if None in found else [link for link in found if link is not None]


def _interfaces(endpoint: Endpoint, network: Network) -> list[Address]:
    made = []
    for address in (endpoint.ipv4, endpoint.ipv6):
        if address is None:
            continue
        pool = next((each.subnet for each in network.subnets if address.ip in each.subnet), None)
        length = pool.prefixlen if pool is not None else address.network.prefixlen
        made.append(Address(ifindex=0, address=ip_interface((address.ip, length)), noprefixroute=False))
    return made


def _addresses(
    namespace: Namespace, attached: Sequence[tuple[Endpoint, Network]], devices: Sequence[Link]
) -> tuple[Address, ...]:
    loopback = next((link.ifindex for link in rows(namespace.links) if link.loopback), LOOPBACK)
    made = [Address(ifindex=loopback, address=ip_interface("127.0.0.1/8"), scope="host")]
    if any(endpoint.ipv6 is not None for endpoint, _ in attached):
        made.append(Address(ifindex=loopback, address=ip_interface("::1/128"), scope="host"))
    for (endpoint, network), link in zip(attached, devices, strict=True):
        made += [replace(each, ifindex=link.ifindex) for each in _interfaces(endpoint, network)]
    return tuple(made)


def _routes(
    namespace: Namespace, attached: Sequence[tuple[Endpoint, Network]], devices: Sequence[Link]
) -> tuple[Route, ...]:
    made: list[Route] = []
    links = {link.ifindex: link for link in rows(namespace.links)}
    for (endpoint, network), link in zip(attached, devices, strict=True):
        hop = (NextHop(ifindex=link.ifindex),)
        for each in _interfaces(endpoint, network):
            six = each.address.version == 6
            made.append(
                Route(
                    table=MAIN,
                    dst=each.address.network,
                    scope="global" if six else "link",
                    proto="kernel",
                    priority=256 if six else 0,
                    prefsrc=None if six else each.address.ip,
                    nexthops=hop,
                )
            )
        gateways: tuple[IPAddress | None, ...] = (endpoint.gateway, endpoint.gateway6)
        for gateway in gateways:
            if gateway is not None and not network.internal:
                everything = ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0")
                priority = 0 if gateway.version == 4 else 1024
                hops = (NextHop(ifindex=link.ifindex, gateway=gateway),)
                made.append(Route(table=MAIN, dst=everything, proto="boot", priority=priority, nexthops=hops))
    for version in (4, 6):
        made += local_routes(rows(namespace.addresses), links, version)
    return tuple(made)


def pair_up(
    host: Namespace, inside: Sequence[tuple[Namespace, Container]], networks: Mapping[str, Network]
) -> tuple[Namespace, list[Namespace], list[str]]:
    """Find the host's ends of made-up interfaces: by what the bridge learned, else where every choice is the same.

    Returns the host, the namespaces in their order, and what was taken for granted.
    """
    links = {link.ifindex: link for link in rows(host.links)}
    spaces = {namespace.id: namespace for namespace, _ in inside}
    said: list[str] = []
    learned = {entry.mac: entry.ifindex for entry in rows(host.fdb) if not entry.local and entry.master is not None}
    by_name = {link.name: link for link in links.values()}
    open_ends: dict[int, list[tuple[int, Link]]] = {}
    for namespace, container in inside:
        macs = {each.mac: networks[each.network_id] for each in container.endpoints if each.network_id in networks}
        for link in rows(namespace.links):
            network = macs.get(link.mac)
            bridge = by_name.get(network.bridge or "") if network is not None else None
            if link.kind != "veth" or link.peer_netns is not None or link.peer_nsid is None or bridge is None:
                continue
            told = links.get(link.peer_ifindex or 0)
            port = links.get(learned.get(link.mac or "", 0))
            if told is not None:
                if _is_open(told, bridge.ifindex) and told.peer_ifindex in (UNTOLD, link.ifindex):
                    _join(links, spaces, host.id, told, namespace.id, link)
            elif port is not None and _is_open(port, bridge.ifindex):
                _join(links, spaces, host.id, port, namespace.id, link)
                said.append(f"{namespace.name} is behind {port.name}, where the bridge learned its MAC address")
            else:
                open_ends.setdefault(bridge.ifindex, []).append((namespace.id, link))
    for bridge_index, ends in open_ends.items():
        ports = [link for link in links.values() if _is_open(link, bridge_index)]
        if len(ports) != len(ends) or len({_character(port) for port in ports}) > 1:
            continue
        for port, (netns, link) in zip(ports, ends, strict=True):
            _join(links, spaces, host.id, port, netns, link)
        if len(ends) > 1:
            names = ", ".join(port.name for port in ports[:6])
            said.append(f"which of {names} leads to which container is not told; they are all alike")
    return (
        replace(host, links=Present(rows=tuple(links.values()))) if isinstance(host.links, Present) else host,
        [spaces[namespace.id] for namespace, _ in inside],
        said,
    )


def _is_open(port: Link, bridge: int) -> bool:
    return port.kind == "veth" and port.master == bridge and port.peer_netns is None and port.peer_nsid is not None


def _character(port: Link) -> tuple[object, ...]:
    return port.up, port.lower_up, port.mtu, port.port, port.xdp, port.tc, port.qdisc


def _join(links: dict[int, Link], spaces: dict[int, Namespace], host: int, port: Link, netns: int, link: Link) -> None:
    """Make a host's port and a made-up interface each other's peers."""
    index = link.ifindex if port.peer_ifindex in (None, UNTOLD) else port.peer_ifindex or link.ifindex
    space = spaces[netns]
    moved = replace(link, ifindex=index, peer_ifindex=port.ifindex, peer_netns=host, peer_nsid=None, lower_up=port.up)
    taken = any(each.ifindex == index and each is not link for each in rows(space.links))
    if taken:
        return
    links[port.ifindex] = replace(port, peer_ifindex=index, peer_netns=netns, peer_nsid=None)

    def renumbered(ifindex: int) -> int:
        return index if ifindex == link.ifindex else ifindex

    spaces[netns] = replace(
        space,
        links=Present(rows=tuple(moved if each.ifindex == link.ifindex else each for each in rows(space.links))),
        addresses=Present(rows=tuple(replace(each, ifindex=renumbered(each.ifindex)) for each in space.addresses.rows))
        if isinstance(space.addresses, Present)
        else space.addresses,
        routes=Present(
            rows=tuple(
                replace(
                    each,
                    nexthops=tuple(
                        replace(hop, ifindex=renumbered(hop.ifindex) if hop.ifindex is not None else None)
                        for hop in each.nexthops
                    ),
                )
                for each in space.routes.rows
            )
        )
        if isinstance(space.routes, Present)
        else space.routes,
    )
