"""From a snapshot of the whole host to its topology: what hangs on what, and what differs from the engine's intent.

Pure. Devices are joined by (namespace, ifindex), as the kernel names the two ends of a pair; names are for people.
"""

from __future__ import annotations

from collections.abc import Iterator

from nettrace.model.base import Missing, rows
from nettrace.model.intent import Container, Endpoint, Network, PublishedPort
from nettrace.model.snapshot import Link, Namespace, Snapshot
from nettrace.model.topology import Box, Difference, Interface, NetworkView, Topology
from nettrace.model.verdict import GapView, HostView

__all__ = ["topology"]

#: Kinds of devices whose IFLA_LINK is a parent, not the other end of a pair.
_CHILDREN = ("macvlan", "macvtap", "ipvlan", "ipvtap", "vlan")


class _Host:
    """The snapshot, by what is looked up in it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.intent = snapshot.intent
        self.namespaces = {each.id: each for each in snapshot.namespaces}
        self.links = {(ns.id, link.ifindex): link for ns in snapshot.namespaces for link in rows(ns.links)}
        self.networks = {each.id: each for each in self.intent.networks}
        self.bridges = {each.bridge: each for each in self.intent.networks if each.bridge is not None}
        self.owners: dict[int, Container] = {}
        for container in self.intent.containers:
            if container.netns is not None and container.joined is None and container.mode != "host":
                self.owners.setdefault(container.netns, container)

    @property
    def root(self) -> Namespace | None:
        """The host's namespace."""
        return self.namespaces.get(self.snapshot.host_netns)

    def far_end(self, ns: Namespace, link: Link) -> tuple[Namespace, Link] | None:
        """The device that IFLA_LINK means, when its namespace was read."""
        if link.peer_ifindex is None or link.peer_nsid is not None:
            return None
        inode = link.peer_netns if link.peer_netns is not None else ns.id
        found = self.links.get((inode, link.peer_ifindex))
        return (self.namespaces[inode], found) if found is not None else None

    def endpoint_of(self, ns: Namespace, link: Link) -> Endpoint | None:
        """The attachment that a container's device carries: by MAC address, else by address."""
        container = self.owners.get(ns.id)
        if container is None:
            return None
        for endpoint in container.endpoints:
            if endpoint.mac is not None and endpoint.mac == link.mac:
                return endpoint
        held = {each.address.ip for each in rows(ns.addresses) if each.ifindex == link.ifindex}
        for endpoint in container.endpoints:
            if held & {each.ip for each in (endpoint.ipv4, endpoint.ipv6) if each is not None}:
                return endpoint
        return None


def topology(snapshot: Snapshot) -> Topology:
    """Return the topology of a snapshot that holds every namespace of the host, with links, addresses and routes."""
    host = _Host(snapshot)
    gaps = tuple(GapView(section=each.section, netns=each.netns, reason=each.reason) for each in snapshot.gaps)
    return Topology(
        host=HostView(kernel=snapshot.host.kernel, engine=snapshot.host.engine),
        networks=tuple(_network(host, each) for each in sorted(host.intent.networks, key=lambda net: net.name)),
        boxes=tuple(_boxes(host)),
        differences=tuple(_differences(host)),
        gaps=tuple(dict.fromkeys(gaps)),
    )


# --- networks -------------------------------------------------------------------------------------------------------


def _network(host: _Host, network: Network) -> NetworkView:
    members = [
        each.name for each in host.intent.containers if any(ep.network_id == network.id for ep in each.endpoints)
    ]
    return NetworkView(
        name=network.name,
        id=network.id,
        engine=network.engine,
        driver=network.driver,
        scope=network.scope,
        subnets=tuple(
            f"{each.subnet} via {each.gateway}" if each.gateway is not None else str(each.subnet)
            for each in network.subnets
        ),
        bridge=network.bridge,
        parent=network.parent,
        options=dict(_options(network)),
        members=tuple(sorted(members)),
    )


def _options(network: Network) -> Iterator[tuple[str, str]]:
    for name, value in (("icc", network.icc), ("masquerade", network.masquerade)):
        if value is not None:
            yield name, "on" if value else "off"
    for name, flag in (("internal", network.internal), ("ipv6", network.ipv6)):
        if flag:
            yield name, "yes"
    modes = ("macvlan_mode", "ipvlan_mode", "ipvlan_flag", *(("mode",) if network.parent is not None else ()))
    for name, said in (
        ("mode", next((network.options[each] for each in modes if each in network.options), None)),
        ("mtu", network.mtu),
        ("host binding", network.host_binding),
        ("gateway mode ipv4", network.gateway_mode_ipv4),
        ("gateway mode ipv6", network.gateway_mode_ipv6),
    ):
        if said is not None:
            yield name, str(said)


# --- namespaces -----------------------------------------------------------------------------------------------------


def _boxes(host: _Host) -> Iterator[Box]:
    """The host first, then containers by name, then what else has a namespace."""
    root = host.root
    if root is not None:
        yield Box(
            name=root.name, kind="host", netns=root.id, interfaces=_interfaces(host, root), gateways=_gateways(root)
        )
    for container in sorted(host.intent.containers, key=lambda each: each.name):
        yield _container(host, container)
    kin = _kin(host)
    for ns in sorted(host.namespaces.values(), key=lambda each: each.name):
        if ns.id not in host.owners and ns is not root and ns.id in kin:
            yield Box(name=ns.name, kind=ns.kind, netns=ns.id, interfaces=_interfaces(host, ns), gateways=_gateways(ns))


def _kin(host: _Host) -> set[int]:
    """The namespaces that a device pair leads to from the host or its containers, in any number of steps.

    What else has a name on this machine may be a host of its own, and none of this one's business.
    """
    pairs: dict[int, set[int]] = {}
    for ns in host.namespaces.values():
        for link in rows(ns.links):
            far = host.far_end(ns, link)
            if far is not None:
                pairs.setdefault(ns.id, set()).add(far[0].id)
                pairs.setdefault(far[0].id, set()).add(ns.id)
    found = {host.snapshot.host_netns, *host.owners}
    found |= {ns.id for ns in host.namespaces.values() if ns.kind == "overlay"}
    fresh = set(found)
    while fresh:
        fresh = {each for inode in fresh for each in pairs.get(inode, ())} - found
        found |= fresh
    return found


def _container(host: _Host, container: Container) -> Box:
    owned = container.netns is not None and host.owners.get(container.netns) is container
    ns = host.namespaces.get(container.netns) if owned and container.netns is not None else None
    joined = next((each.name for each in host.intent.containers if each.id == container.joined), container.joined)
    return Box(
        name=container.name,
        kind="container",
        netns=container.netns,
        id=container.id,
        engine=container.engine,
        status=container.status,
        mode=container.mode or None,
        joined=joined,
        interfaces=_interfaces(host, ns) if ns is not None else (),
        gateways=_gateways(ns) if ns is not None else (),
        ports=tuple(dict.fromkeys(_port(each) for each in container.ports)),
    )


def _port(port: PublishedPort) -> str:
    address = f"[{port.host_ip}]" if port.host_ip.version == 6 else str(port.host_ip)
    own = f"{port.container_port}/{port.proto}"
    # In a routed network a published port has none of the host's.
    return f"{address}:{port.host_port} → {own}" if port.host_port else own


def _gateways(ns: Namespace) -> tuple[str, ...]:
    names = {link.ifindex: link.name for link in rows(ns.links)}
    found = []
    for route in rows(ns.routes):
        if route.dst.prefixlen or route.kind != "unicast" or route.table != 254:
            continue
        for hop in route.nexthops:
            device = f"dev {names.get(hop.ifindex or 0, f'if{hop.ifindex}')}"
            found.append(f"{hop.gateway} {device}" if hop.gateway is not None else device)
    return tuple(dict.fromkeys(found))


def _interfaces(host: _Host, ns: Namespace) -> tuple[Interface, ...]:
    return tuple(_interface(host, ns, link) for link in sorted(rows(ns.links), key=lambda each: each.ifindex))


def _interface(host: _Host, ns: Namespace, link: Link) -> Interface:
    far = host.far_end(ns, link)
    master = host.links.get((ns.id, link.master)) if link.master is not None else None
    endpoint = host.endpoint_of(ns, link)
    network = host.networks.get(endpoint.network_id) if endpoint is not None else None
    if network is None and ns.id == host.snapshot.host_netns:
        network = host.bridges.get(link.name)
    suffix = f"@if{link.peer_ifindex}" if link.peer_ifindex else ""
    if far is not None and far[0].id == ns.id:
        suffix = f"@{far[1].name}"
    return Interface(
        device=link.name,
        name=f"{link.name}{suffix}",
        ifindex=link.ifindex,
        kind=link.kind or ("loopback" if link.loopback else "device"),
        up=link.up,
        mtu=link.mtu,
        mac=link.mac,
        addresses=tuple(
            str(each.address) for each in rows(ns.addresses) if each.ifindex == link.ifindex and each.scope != "link"
        ),
        peer=f"{far[0].name}/{far[1].name}" if far is not None else None,
        peer_ifindex=link.peer_ifindex,
        master=master.name if master is not None else None,
        network=network.name if network is not None else None,
    )


# --- what differs ---------------------------------------------------------------------------------------------------


def _differences(host: _Host) -> Iterator[Difference]:
    for network in host.intent.networks:
        yield from _network_differences(host, network)
    for container in host.intent.containers:
        ns = host.namespaces.get(container.netns) if container.netns is not None else None
        if container.status == "running" and ns is not None and host.owners.get(ns.id) is container:
            for endpoint in container.endpoints:
                yield from _endpoint_differences(host, ns, container, endpoint)


def _network_differences(host: _Host, network: Network) -> Iterator[Difference]:
    root = host.root
    rootless = any(each.rootless and each.name == network.engine for each in host.intent.engines)
    if network.driver != "bridge" or network.bridge is None or root is None or _unread(root) or rootless:
        # A rootless engine's bridges lie in a namespace of its user's own.
        return
    bridge = next((link for link in rows(root.links) if link.name == network.bridge), None)
    at = f"{root.name}/{network.bridge}"
    if bridge is None:
        yield Difference(at=at, meant=f"the bridge of network {network.name}", found="there is no such device")
        return
    if not bridge.up:
        yield Difference(at=at, meant="up", found="down")
    held = {each.address.ip for each in rows(root.addresses) if each.ifindex == bridge.ifindex}
    isolated = "isolated" in (network.gateway_mode_ipv4, network.gateway_mode_ipv6)
    for subnet in network.subnets:
        if subnet.gateway is not None and subnet.gateway not in held and not isolated:
            yield Difference(at=at, meant=f"address {subnet.gateway}", found="not held")


def _endpoint_differences(host: _Host, ns: Namespace, container: Container, endpoint: Endpoint) -> Iterator[Difference]:
    network = host.networks.get(endpoint.network_id)
    if network is None or network.driver in ("host", "null") or _unread(ns):
        return
    link = next((each for each in rows(ns.links) if host.endpoint_of(ns, each) is endpoint), None)
    if link is None:
        meant = f"an interface for network {endpoint.network} ({endpoint.mac or endpoint.ipv4})"
        yield Difference(at=container.name, meant=meant, found="there is none with its MAC or its address")
        return
    at = f"{ns.name}/{link.name}"
    held = {each.address.ip for each in rows(ns.addresses) if each.ifindex == link.ifindex}
    for wanted in (endpoint.ipv4, endpoint.ipv6):
        if wanted is not None and wanted.ip not in held:
            yield Difference(at=at, meant=f"address {wanted.ip}", found="not held")
    if not link.up:
        yield Difference(at=at, meant="up", found="down")
    if network.mtu is not None and link.mtu != network.mtu:
        yield Difference(at=at, meant=f"mtu {network.mtu}", found=f"mtu {link.mtu}")
    gateways = {hop.gateway for route in rows(ns.routes) if not route.dst.prefixlen for hop in route.nexthops}
    routed = network.driver == "bridge" and not network.internal and not isinstance(ns.routes, Missing)
    if len(container.endpoints) == 1 and routed:
        for gateway in (endpoint.gateway, endpoint.gateway6):
            if gateway is not None and gateway not in gateways:
                yield Difference(at=at, meant=f"default via {gateway}", found="no such route")
    if network.driver == "bridge" and network.bridge is not None:
        yield from _port_differences(host, ns, link, network)


def _unread(ns: Namespace) -> bool:
    """Tell whether devices or addresses could not be read: then nothing is known to be missing. The gaps say it."""
    return isinstance(ns.links, Missing) or isinstance(ns.addresses, Missing)


def _port_differences(host: _Host, ns: Namespace, link: Link, network: Network) -> Iterator[Difference]:
    """The host's end of a container's veth pair: a port of the network's bridge, and up."""
    far = host.far_end(ns, link)
    at = f"{ns.name}/{link.name}"
    if link.kind != "veth":
        return
    if far is None:
        there = host.namespaces.get(link.peer_netns if link.peer_netns is not None else ns.id)
        if link.peer_nsid is None and there is not None and not _unread(there):
            yield Difference(at=at, meant="a veth pair with the host", found="its other end is gone")
        return
    other, port = far
    master = host.links.get((other.id, port.master)) if port.master is not None else None
    place = f"{other.name}/{port.name}"
    if master is None or master.name != network.bridge:
        found = f"port of {master.name}" if master is not None else "port of no bridge"
        yield Difference(at=place, meant=f"port of {network.bridge}", found=found)
    if not port.up:
        yield Difference(at=place, meant="up", found="down")
