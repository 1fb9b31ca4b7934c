"""Resolve a question on a recorded host: the forms of `nettrace path`, answered by a snapshot instead of the machine.

What a name means is told as the live resolver tells it: by the engines' containers, by the namespaces that were read,
by their addresses and routes. Names of the internet cannot be looked up again; those that were asked about are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Protocol

from msgspec.structs import replace

from nettrace.errors import Ambiguous, NotFound, UsageError
from nettrace.model.base import IPAddress, Model, rows
from nettrace.model.flow import EndpointKind, Flow, FlowEnd, Packet, Proto
from nettrace.model.intent import Container, Endpoint
from nettrace.model.snapshot import Address, Namespace, Snapshot
from nettrace.predict.route import choose_source, lookup
from nettrace.predict.world import View

__all__ = ["RecordedHost", "resolve_recorded"]

#: As many characters of an id as engines print; a word this long is meant as an id.
SHORT_ID = 12
#: Addresses that lie beyond any host (RFC 5737, RFC 3849): the way to them is the way to the internet.
BEYOND: dict[int, IPAddress] = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
UNSPECIFIED: dict[int, IPAddress] = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
#: The engine that pods are recorded with.
POD_ENGINE = "cri"
#: So many names are listed where one was not found.
LISTED = 8


class Typed(Protocol):
    """An endpoint as it was typed. `form`: container, netns, pid, pod, host, address, word."""

    @property
    def form(self) -> str: ...
    @property
    def value(self) -> str: ...


class _End(Model):
    """One end on its way to a FlowEnd, with the container it turned out to be."""

    kind: EndpointKind
    name: str
    netns: int | None = None
    container: Container | None = None
    address: IPAddress | None = None

    def flow_end(self, address: IPAddress | None) -> FlowEnd:
        """Return the end as the flow shows it."""
        identity = self.container.id if self.container is not None and self.kind is EndpointKind.CONTAINER else None
        return FlowEnd(kind=self.kind, name=self.name, id=identity, netns=self.netns, address=address)


class RecordedHost:
    """Gives out a recorded host namespace by namespace, as the collector reads a live one.

    What a whole host holds besides the flow's way would else be taken for a part of it.
    """

    def __init__(self, snapshot: Snapshot, flow: Flow) -> None:
        self._whole = snapshot
        self._flow = flow
        self._read: list[int] = []
        self.host_netns = snapshot.host_netns

    def read(self, netns: int) -> bool:
        """Take a namespace into the snapshot; False when it was not recorded. The first call takes the flow's all."""
        if netns in self._read:
            return True
        ends = (self._flow.src.netns, self.host_netns, self._flow.dst.netns) if not self._read else ()
        for each in dict.fromkeys((netns, *ends)):
            if each is not None and self._whole.namespace(each) is not None:
                self._read.append(each)
        return netns in self._read

    def read_container(self, container: Container) -> bool:
        """Take a container's namespace into the snapshot; True when it was not there before."""
        return container.netns is not None and container.netns not in self._read and self.read(container.netns)

    def find_publisher(self, proto: str, port: int) -> None:
        """Do nothing: what was learnt of containers that do not run is in the recording."""

    def read_hidden(self, networks: Sequence[str], *, ingress: bool = False) -> None:
        """Take what a live collector reads of overlay networks, and the halves of other hosts that were recorded."""
        for peer in self._whole.peers:
            self.read(peer.host_netns)
        for each in self._whole.namespaces:
            own = each.name.rpartition(":")[2]
            number, dash, begin = own.partition("-")
            numbered = each.kind == "overlay" and bool(dash) and number.isdigit()
            wanted = numbered and any(network.startswith(begin) for network in networks)
            if wanted or (ingress and own == "ingress_sbox"):
                self.read(each.id)

    def snapshot(self) -> Snapshot:
        """Return what was taken so far, with the gaps of that."""
        namespaces = tuple(ns for each in self._read if (ns := self._whole.namespace(each)) is not None)
        names = {each.name for each in namespaces} | {None}
        gaps = tuple(each for each in self._whole.gaps if each.netns in names)
        return replace(self._whole, namespaces=namespaces, gaps=gaps)


def resolve_recorded(
    snapshot: Snapshot,
    src: Typed,
    dst: Typed,
    *,
    proto: Proto,
    dport: int | None,
    size: int | None,
    family: int | None,
    names: Mapping[str, IPAddress] | None = None,
) -> Flow:
    """Return the flow of a question on a recorded host; `names` are those whose address was recorded.

    Raises UsageError for a family that contradicts an address, NotFound and Ambiguous for an end that the recorded
    host does not tell.
    """
    return _Resolver(snapshot, names or {}).resolve(src, dst, proto=proto, dport=dport, size=size, family=family)


class _Resolver:
    def __init__(self, snapshot: Snapshot, names: Mapping[str, IPAddress]) -> None:
        self._snapshot = snapshot
        self._intent = snapshot.intent
        self._host = snapshot.host_netns
        self._names = names
        self._views = {ns.id: View(ns) for ns in snapshot.namespaces}

    def resolve(
        self, src: Typed, dst: Typed, *, proto: Proto, dport: int | None, size: int | None, family: int | None
    ) -> Flow:
        source = self._source(src)
        self._require_read(source)
        target = self._target(dst, source, family)
        self._require_read(target)
        address = target.address
        if address is None:
            family, address = self._choose_address(source, target, family)
        elif family not in (None, address.version):
            raise UsageError(f"{target.name} is an IPv{address.version} address: leave -{family} out")
        chosen = family or (address.version if address is not None else 4)
        return Flow(
            src=source.flow_end(self._source_address(source, address, chosen)),
            dst=target.flow_end(address),
            proto=proto,
            dport=dport,
            size=size,
            family=chosen,
        )

    def _require_read(self, end: _End) -> None:
        """Refuse an end whose namespace exists on the host, and is not in the snapshot."""
        container = end.container
        running = container is not None and container.status in ("running", "paused")
        if (end.netns is None and not running) or end.netns in self._views:
            return
        held = ", ".join(each.name for each in self._snapshot.namespaces[:LISTED])
        raise NotFound(
            f"{end.name} is known, but its namespace was not recorded; the bundle holds {held}. "
            "`nettrace bundle create` without SRC and DST records the whole host"
        )

    def _source(self, typed: Typed) -> _End:
        match typed.form:
            case "host":
                return self._the_host()
            case "netns":
                return self._namespace(typed.value)
            case "pid":
                return self._process(typed.value)
            case "pod":
                return self._pod(typed.value)
            case "address":
                end = self._address_end(ip_address(typed.value), typed.value, EndpointKind.ADDRESS, None)
                if end.netns is None:
                    raise NotFound(
                        f"{typed.value} is no address of the recorded host or of a container on it: give a container, "
                        "netns:NAME or host as the source"
                    )
                return end
        return self._container(typed.value)

    def _target(self, typed: Typed, source: _End, family: int | None) -> _End:
        match typed.form:
            case "host":
                return self._the_host()
            case "netns":
                return self._namespace(typed.value)
            case "pid":
                return self._process(typed.value)
            case "pod":
                return self._pod(typed.value)
            case "address":
                return self._address_end(ip_address(typed.value), typed.value, EndpointKind.ADDRESS, source)
            case "word" if not self._matches(typed.value) and typed.value in self._names:
                return self._address_end(self._names[typed.value], typed.value, EndpointKind.NAME, source)
        return self._container(typed.value)

    def _the_host(self) -> _End:
        return _End(kind=EndpointKind.HOST, name="host", netns=self._host)

    def _namespace(self, value: str) -> _End:
        name = value.rpartition("/")[2]
        found = [each for each in self._snapshot.namespaces if each.name == name and each.kind != "host"]
        found = found or [each for each in self._snapshot.namespaces if str(each.id) == name]
        if not found:
            raise NotFound(f"no namespace {value} was recorded{_nearest(name, [each.name for each in self._named()])}")
        return _End(kind=EndpointKind.NETNS, name=value, netns=found[0].id)

    def _named(self) -> Sequence[Namespace]:
        return [each for each in self._snapshot.namespaces if each.kind != "host"]

    def _process(self, value: str) -> _End:
        name = f"pid:{value}"
        found = {each.netns for each in self._intent.containers if each.pid is not None and str(each.pid) == value}
        found |= {each.id for each in self._snapshot.namespaces if each.name == name}
        netns = next((each for each in found if each is not None), None)
        if netns is None:
            raise NotFound(f"process {value} was not recorded: say the container, or netns:NAME")
        return _End(kind=EndpointKind.NETNS, name=name, netns=netns)

    def _pod(self, value: str) -> _End:
        """Return a pod, which was recorded when the recorded question was about it."""
        pods = {each.name: each for each in self._intent.containers if each.engine == POD_ENGINE}
        fitting = [pods[value]] if value in pods else [pods[name] for name in pods if name.endswith(f"/{value}")]
        if not fitting:
            raise NotFound(f"no pod {value} was recorded{_nearest(value, list(pods))}")
        if len(fitting) > 1:
            raise Ambiguous(
                f"{value} fits more than one pod: {', '.join(f'pod:{each.name}' for each in fitting[:LISTED])}"
            )
        pod = fitting[0]
        return _End(kind=EndpointKind.CONTAINER, name=f"pod:{pod.name}", netns=pod.netns, container=pod)

    def _matches(self, word: str) -> list[Container]:
        """Return the containers that a word may mean, as `nettrace.collect.intents` tells it."""
        containers = self._intent.containers
        named = [each for each in containers if each.name == word]
        if word and all(letter in "0123456789abcdef" for letter in word) and (not named or len(word) >= SHORT_ID):
            named += [each for each in containers if each.id.startswith(word) and each not in named]
        return named

    def _container(self, word: str) -> _End:
        found = self._matches(word)
        if len(found) > 1:
            forms = ", ".join(f"{each.name} of {each.engine} (container:{each.id[:12]})" for each in found[:LISTED])
            raise Ambiguous(f"{word} fits more than one container: {forms}; say which with the form in brackets")
        if not found:
            if any(each.name == word for each in self._named()):
                raise NotFound(f"no container is called {word}, but a namespace is: say netns:{word}")
            known = [each.name for each in self._intent.containers]
            raise NotFound(
                f"the recorded host has no container {word}{_nearest(word, known)}. Names of the internet cannot be "
                "looked up from a bundle: give the address"
            )
        container = found[0]
        return _End(kind=EndpointKind.CONTAINER, name=container.name, netns=self._netns(container), container=container)

    def _netns(self, container: Container) -> int | None:
        """Return a container's namespace: its own, or where another's is used, that one's."""
        if container.netns is not None:
            return container.netns
        if container.mode == "host" and container.status in ("running", "paused"):
            return self._host
        owner = self._owner(container)
        return owner.netns if owner is not container else None

    def _owner(self, container: Container) -> Container:
        """Return the container whose network another one uses (`--network container:x`); itself when it has its own."""
        seen: set[str] = set()
        while container.joined and container.id not in seen:
            seen.add(container.id)
            joined = container.joined
            known = self._intent.containers
            other = next((each for each in known if each.id.startswith(joined) or each.name == joined), None)
            if other is None:
                break
            container = other
        return container

    def _moved(self, container: Container, owner: Container) -> bool:
        """Tell whether the owner of a shared network has started anew, in another namespace than the sharer's."""
        return owner.netns not in (None, self._netns(container))

    def _address_end(self, address: IPAddress, name: str, kind: EndpointKind, source: _End | None) -> _End:
        """Return the end that an address is, with its namespace when something on the host holds it."""
        if address.is_loopback:
            netns = source.netns if source is not None else self._host
            return _End(kind=kind, name=name, netns=netns, address=address)
        if source is not None and source.netns is not None and self._holds(source.netns, address):
            return _End(kind=kind, name=name, netns=source.netns, address=address)
        if self._holds(self._host, address):
            return _End(kind=kind, name=name, netns=self._host, address=address)
        for container in self._intent.containers:
            if container.status in ("running", "paused") and address in _addresses_of(container):
                return _End(kind=kind, name=name, netns=self._netns(container), container=container, address=address)
        return _End(kind=kind, name=name, address=address)

    def _addresses(self, netns: int | None) -> tuple[Address, ...]:
        view = self._views.get(netns) if netns is not None else None
        return rows(view.ns.addresses) if view is not None else ()

    def _holds(self, netns: int, address: IPAddress) -> bool:
        return any(each.address.ip == address for each in self._addresses(netns))

    def _choose_address(self, source: _End, target: _End, family: int | None) -> tuple[int | None, IPAddress | None]:
        """Choose the address to send to, and the family, when the destination is not an address itself."""
        families = (family,) if family is not None else (4, 6)
        for each in families:
            address = self._address_in(source, target, each)
            if address is not None:
                return each, address
        container = target.container
        if container is not None:
            owner = self._owner(container)
            if self._moved(container, owner):
                return family, None
            if container.status not in ("running", "paused") or not _addresses_of(owner) or target.netns is None:
                return family, None  # stopped, or without a network: that is what the diagnosis will say
        wanted = " or ".join(f"IPv{each}" for each in families)
        raise NotFound(f"{target.name} has no {wanted} address: name the address to reach, or use another family")

    def _address_in(self, source: _End, target: _End, family: int) -> IPAddress | None:
        if target.container is not None and target.netns != self._host:
            owner = self._owner(target.container)
            return None if self._moved(target.container, owner) else self._container_address(source, owner, family)
        if target.netns == self._host:
            return self._host_address(source, family)
        near = self._on_link(source.netns, target.netns, family) if source.netns != target.netns else None
        return near or self._first_global(target.netns, family)

    def _container_address(self, source: _End, container: Container, family: int) -> IPAddress | None:
        """Return an address of a container: on a network that the source is in too, else its first."""
        shared: set[str] = set()
        if source.container is not None:
            shared = {each.network_id for each in self._owner(source.container).endpoints}
        for endpoint in sorted(container.endpoints, key=lambda each: each.network_id not in shared):
            held = endpoint.ipv4 if family == 4 else endpoint.ipv6
            if held is not None:
                return held.ip
        return None

    def _host_address(self, source: _End, family: int) -> IPAddress | None:
        """Return the host's address as the source would use it: its gateway, else the host's primary one."""
        if source.netns != self._host:
            for endpoint in self._owner(source.container).endpoints if source.container is not None else ():
                gateway = self._gateway(endpoint, family)
                if gateway is not None:
                    return gateway
            view = self._views.get(source.netns) if source.netns is not None else None
            for route in rows(view.ns.routes) if view is not None and source.container is None else ():
                for hop in route.nexthops:
                    gateway = hop.gateway if route.dst.prefixlen == 0 else None
                    if gateway is not None and gateway.version == family and self._holds(self._host, gateway):
                        return gateway
            near = self._on_link(source.netns, self._host, family) if source.container is None else None
            if near is not None:
                return near
        return self._routed_source(self._host, BEYOND[family], family) or self._first_global(self._host, family)

    def _gateway(self, endpoint: Endpoint, family: int) -> IPAddress | None:
        """Return the address of the host's bridge on a container's network."""
        network = self._intent.network(endpoint.network_id)
        if network is None or network.driver != "bridge":
            return None
        told = endpoint.gateway if family == 4 else endpoint.gateway6
        pools = (pool.gateway for pool in network.subnets if pool.gateway and pool.gateway.version == family)
        return told or next(pools, None)

    def _on_link(self, near: int | None, far: int | None, family: int) -> IPAddress | None:
        """Return an address of `far` that lies in a subnet of `near`."""
        networks = [
            each.address.network
            for each in self._addresses(near)
            if each.address.version == family and each.scope == "global"
        ]
        for each in self._addresses(far):
            if each.scope == "global" and any(each.address.ip in network for network in networks):
                return each.address.ip
        return None

    def _first_global(self, netns: int | None, family: int) -> IPAddress | None:
        for each in self._addresses(netns):
            if each.address.version == family and each.scope == "global":
                return each.address.ip
        return None

    def _routed_source(self, netns: int, dst: IPAddress, family: int) -> IPAddress | None:
        """Return the address that the namespace's kernel would send from."""
        view = self._views.get(netns)
        if view is None:
            return None
        packet = Packet(family=family, src=UNSPECIFIED[family], dst=dst, proto=1)
        found = lookup(view, packet)
        return choose_source(view, found, dst) if found.route is not None else None

    def _source_address(self, source: _End, dst: IPAddress | None, family: int) -> IPAddress | None:
        """Return the address that the source's kernel would send from, else the one that the engine gave it."""
        if source.address is not None and source.address.version == family:
            return source.address
        if source.netns is not None and dst is not None:
            chosen = self._routed_source(source.netns, dst, family)
            if chosen is not None:
                return chosen
        if source.container is not None:
            owner = self._owner(source.container)
            given = None if self._moved(source.container, owner) else self._container_address(source, owner, family)
            if given is not None:
                return given
        return self._first_global(source.netns, family)


def _addresses_of(container: Container) -> list[IPAddress]:
    return [held.ip for endpoint in container.endpoints for held in (endpoint.ipv4, endpoint.ipv6) if held is not None]


def _nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint at the names that are most like a word."""
    from difflib import get_close_matches

    near = get_close_matches(word[:100], [each[:100] for each in known[:1000]], n=3, cutoff=0.5)
    if near:
        return f"; did you mean {', '.join(near)}?"
    return f"; there are {', '.join(sorted(known)[:LISTED])}" if known else ""
