"""The snapshot, indexed for the walk: links by ifindex, addresses by device, routes by table, sysctls by name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache

from nettrace.model.base import IPAddress, Missing, Values, rows
from nettrace.model.intent import Container, Endpoint, Network
from nettrace.model.snapshot import (
    HOST_SHIFT,
    Address,
    FdbEntry,
    Link,
    Namespace,
    Neighbour,
    NetfilterDump,
    PolicyRule,
    Route,
    Snapshot,
    Socket,
)
from nettrace.netfilter import Ruleset, load_ruleset

LOCAL_TABLE, MAIN_TABLE, DEFAULT_TABLE = 255, 254, 253
#: What a container is called that has its processes, and its namespace.
UP = ("running", "paused")

#: The rules that a namespace starts with (fib_default_rules_init, fib6_rules_net_init).
DEFAULT_RULES = {
    4: (
        PolicyRule(family=4, priority=0, table=LOCAL_TABLE),
        PolicyRule(family=4, priority=32766, table=MAIN_TABLE),
        PolicyRule(family=4, priority=32767, table=DEFAULT_TABLE),
    ),
    6: (
        PolicyRule(family=6, priority=0, table=LOCAL_TABLE),
        PolicyRule(family=6, priority=32766, table=MAIN_TABLE),
    ),
}


def _precedence(route: Route) -> tuple[int, int, int, int]:
    """Return what orders the routes of a table (fib_insert_alias; fib6_locate's subtrees, fib6_add_rt2node)."""
    return -route.dst.prefixlen, -route.src.prefixlen if route.src is not None else 0, -route.tos, route.priority


@lru_cache(maxsize=32)
def _loaded(dumps: tuple[NetfilterDump, ...]) -> Ruleset:
    """Read the same listings once: each prediction of one question makes a world of its own."""
    return load_ruleset(dumps)


class View:
    """One namespace of the snapshot, indexed."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.id = ns.id
        self.name = ns.name
        self.links: dict[int, Link] = {link.ifindex: link for link in rows(ns.links)}
        self.by_name: dict[str, Link] = {link.name: link for link in rows(ns.links)}

    @cached_property
    def addresses(self) -> dict[int, list[Address]]:
        """Addresses by ifindex, in the kernel's order."""
        table: dict[int, list[Address]] = {}
        for address in rows(self.ns.addresses):
            table.setdefault(address.ifindex, []).append(address)
        return table

    @cached_property
    def owned(self) -> dict[IPAddress, int]:
        """Every address of the namespace, and the ifindex that holds it."""
        return {address.address.ip: address.ifindex for address in rows(self.ns.addresses)}

    @cached_property
    def tables(self) -> dict[tuple[int, int], list[Route]]:
        """Routes by (family, table): longest prefix first, then longest source prefix (IPv6), then lowest priority."""
        tables: dict[tuple[int, int], list[Route]] = {}
        for route in rows(self.ns.routes):
            tables.setdefault((route.dst.version, route.table), []).append(route)
        for table in tables.values():
            table.sort(key=_precedence)
        return tables

    @cached_property
    def merged(self) -> list[Route]:
        """IPv4 routes of the local and the main table as one: longest prefix first, local ones before others."""
        routes = [*self.tables.get((4, LOCAL_TABLE), ()), *self.tables.get((4, MAIN_TABLE), ())]
        return sorted(routes, key=lambda route: (-route.dst.prefixlen, -route.table, -route.tos, route.priority))

    @cached_property
    def rules(self) -> dict[int, tuple[PolicyRule, ...]]:
        """Policy rules by family, in the order they are asked."""
        read = rows(self.ns.rules)
        if isinstance(self.ns.rules, Missing) or not read:
            return DEFAULT_RULES
        return {
            family: tuple(sorted((rule for rule in read if rule.family == family), key=lambda rule: rule.priority))
            or DEFAULT_RULES[family]
            for family in (4, 6)
        }

    @cached_property
    def neighbours(self) -> dict[tuple[int, IPAddress], Neighbour]:
        """Neighbour entries by (ifindex, address), without proxies."""
        return {(each.ifindex, each.address): each for each in rows(self.ns.neighbours) if not each.proxy}

    @cached_property
    def fdb(self) -> dict[int, list[FdbEntry]]:
        """Forwarding entries by bridge ifindex (the port's master, or the bridge itself)."""
        table: dict[int, list[FdbEntry]] = {}
        for entry in rows(self.ns.fdb):
            table.setdefault(entry.master if entry.master is not None else entry.ifindex, []).append(entry)
        return table

    @cached_property
    def ports(self) -> dict[int, list[Link]]:
        """Bridge ports by the ifindex of their bridge."""
        table: dict[int, list[Link]] = {}
        for link in self.links.values():
            if link.master is not None:
                table.setdefault(link.master, []).append(link)
        return table

    @cached_property
    def ruleset(self) -> Ruleset:
        """The merged netfilter rules of the namespace; empty when they could not be read."""
        return _loaded(rows(self.ns.netfilter))

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """Sockets that can receive."""
        return rows(self.ns.sockets)

    def sysctl(self, name: str) -> str | None:
        """Return a sysctl's value as text, None when it is unknown here."""
        return self.ns.sysctls.values.get(name) if isinstance(self.ns.sysctls, Values) else None

    def number(self, name: str, default: int) -> int:
        """Return a sysctl as a number; `default` (the kernel's) when it is unknown here."""
        value = self.sysctl(name)
        try:
            return int(value) if value is not None else default
        except ValueError:
            return default

    def conf(self, family: int, device: str, key: str, default: int) -> int:
        """Return net.ipv4/ipv6.conf.<device>.<key>."""
        return self.number(f"net.ipv{family}.conf.{device.replace('.', '/')}.{key}", default)

    def conf_max(self, family: int, device: str, key: str, default: int) -> int:
        """Return the larger of the `all` and the device's value, as IN_DEV_MAXCONF does."""
        return max(self.conf(family, "all", key, default), self.conf(family, device, key, default))

    def peer(self, link: Link) -> int | None:
        """Return the inode of the namespace that the other end of a link lies in; None when unknown or no peer."""
        if link.peer_ifindex is None or link.peer_ifindex == 0:
            return None
        if link.peer_netns is not None:
            return link.peer_netns
        return self.id if link.peer_nsid is None else None


def unread_text(view: View, section: str) -> str:
    """Return the sentence that says which table of a namespace was not read, and why."""
    table = getattr(view.ns, section)
    what = {"netfilter": "netfilter rules", "rules": "policy rules", "fdb": "forwarding entries"}.get(section, section)
    return f"the {what} of {view.name} were not read" + (f": {table.reason}" if isinstance(table, Missing) else "")


class World:
    """Every namespace of a snapshot, and what engines meant with them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.views = {ns.id: View(ns) for ns in snapshot.namespaces}
        self.host = snapshot.host_netns
        #: The host's own namespace of this host, and of each other one that the snapshot holds.
        self.hosts: tuple[int, ...] = (snapshot.host_netns, *(each.host_netns for each in snapshot.peers))
        self.containers: dict[int, Container] = {}
        for container in snapshot.intent.containers:
            # A container on the host's own network, or one that joined another's, has no namespace of its own.
            if container.netns not in (None, self.host) and container.joined is None:
                self.containers.setdefault(container.netns, container)

    @cached_property
    def macs(self) -> frozenset[str]:
        """The MAC addresses that engines gave to running containers."""
        return frozenset(
            end.mac
            for container in self.snapshot.intent.containers
            if container.status in UP
            for end in container.endpoints
            if end.mac is not None
        )

    def view(self, netns: int) -> View | None:
        """Return a namespace's view, None when it was not read."""
        return self.views.get(netns)

    def host_of(self, netns: int) -> int:
        """Return the host's own namespace on the machine that a namespace is on."""
        peer = self.snapshot.peer_of(netns)
        return peer.host_netns if peer is not None else self.host

    def same_host(self, one: int, other: int) -> bool:
        """Tell whether two namespaces are on one machine."""
        return one >> HOST_SHIFT == other >> HOST_SHIFT

    def far_end(self, view: View, link: Link) -> tuple[View, Link] | None:
        """Return the other end of a veth pair (the parent of a macvlan), None when it was not read."""
        inode = view.peer(link)
        other = self.view(inode) if inode is not None else None
        far = other.links.get(link.peer_ifindex or 0) if other is not None else None
        return (other, far) if other is not None and far is not None else None

    def endpoints(self) -> Iterator[tuple[Container, Endpoint, Network | None]]:
        """Yield every attachment of a container to a network."""
        for container in self.snapshot.intent.containers:
            for endpoint in container.endpoints:
                yield container, endpoint, self.snapshot.intent.network(endpoint.network_id)

    def owner_of_address(self, address: IPAddress) -> tuple[Container, Endpoint] | None:
        """Return the container, running or paused, that an engine gave the address to."""
        for container, endpoint, _network in self.endpoints():
            for held in (endpoint.ipv4, endpoint.ipv6):
                if held is not None and held.ip == address and container.status in UP:
                    return container, endpoint
        return None
