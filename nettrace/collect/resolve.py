"""Turn what the user typed into a flow: two namespaces, two addresses, one family.

The forms of an endpoint are those of the contract: a container, ``netns:``, ``pid:``, ``host``, an address, a name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from msgspec.structs import replace

from nettrace.collect.dns import Asking, ResolverConfig, read_config
from nettrace.collect.intents import Intents
from nettrace.collect.netlink import Channel
from nettrace.collect.outside import aim
from nettrace.collect.places import Places, netns_of, run_netns
from nettrace.collect.routes import read_addresses, read_routes, read_source_address
from nettrace.errors import Ambiguous, EngineError, NotFound, UsageError
from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import EndpointKind, Flow, FlowEnd, Proto
from nettrace.model.intent import Container, Endpoint
from nettrace.model.lookup import DNS_PORT, EMBEDDED, AnswerKind, Lookup, Upstream
from nettrace.model.snapshot import Address
from nettrace.netns import Netns

__all__ = ["Resolver", "parse_endpoint"]

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
BROADCAST = ip_address("255.255.255.255")
#: Addresses that lie beyond any host (RFC 5737, RFC 3849): the way to them is the way to the internet.
BEYOND: dict[int, IPAddress] = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
#: With more containers than this, asking for each of them takes longer than the answer is worth.
MANY = 150
PREFIXES = ("container", "netns", "pid", "pod")


class Typed(Model):
    """An endpoint as it was typed. `form`: container, netns, pid, pod, host, address, word."""

    form: str
    value: str


def parse_endpoint(text: str) -> Typed:
    """Tell the form of an endpoint by its spelling alone; raises UsageError when it is empty or malformed."""
    text = text.strip()
    if not text:
        raise UsageError("an endpoint is empty: give a container, netns:NAME, pid:N, host, an address or a name")
    if text == "host":
        return Typed(form="host", value=text)
    with contextlib.suppress(ValueError):
        return Typed(form="address", value=str(ip_address(text.removeprefix("[").removesuffix("]"))))
    form, colon, value = text.partition(":")
    if colon and form in PREFIXES:
        if not value:
            raise UsageError(f"{text} names nothing: say {form}:NAME" if form != "pid" else "say pid:NUMBER")
        if form == "pid" and not value.isdigit():
            raise UsageError(f"{text} is not a process: say pid:NUMBER")
        return Typed(form=form, value=value)
    if "/" in text:
        raise UsageError(f"{text} is neither a name nor an address: a namespace's path is written netns:{text}")
    return Typed(form="word", value=text)


class _End(Model):
    """One end on its way to a FlowEnd, with the container it turned out to be."""

    kind: EndpointKind
    name: str
    netns: int | None = None
    container: Container | None = None
    address: IPAddress | None = None
    etc: tuple[str, ...] = ("/etc",)

    def flow_end(self, address: IPAddress | None) -> FlowEnd:
        """Return the end as the flow shows it."""
        identity = self.container.id if self.container is not None and self.kind is EndpointKind.CONTAINER else None
        return FlowEnd(kind=self.kind, name=self.name, id=identity, netns=self.netns, address=address)


def one_hosts(address: IPAddress) -> IPAddress:
    """Return an address that one host can have; raises UsageError for those that stand for none, or for many."""
    if address.is_unspecified:
        own = LOOPBACK[address.version]
        raise UsageError(f"{address} is no host's address: what listens there is reached at {own}, for one")
    if address.is_multicast or address == BROADCAST:
        kind = "multicast" if address.is_multicast else "broadcast"
        raise UsageError(f"{address} is a {kind} address, for many hosts at once: give the address of one of them")
    return address


class Resolver:
    """Resolves the two ends of one question; reads only what that needs."""

    def __init__(self, places: Places, intents: Intents, channel: Callable[[Netns], Channel]) -> None:
        self._places = places
        self._intents = intents
        self._channel = channel
        self._held: dict[int, tuple[Address, ...]] = {}
        self._asks: _End | None = None
        #: What became of the destination's name, where it is one; the question in it is filled in at the end.
        self.lookup: Lookup | None = None

    def resolve(
        self, src: str, dst: str, *, proto: Proto, dport: int | None, size: int | None, family: int | None
    ) -> Flow:
        """Return the flow of a question.

        Raises UsageError for a family that contradicts an address, NotFound and Ambiguous for an endpoint that cannot
        be told, EngineError when an engine that the user named is needed and does not answer.
        """
        typed_src, typed_dst = parse_endpoint(src), parse_endpoint(dst)
        source = self._asks = self._source(typed_src)
        if source.kind is EndpointKind.ADDRESS and source.netns is None and source.container is None:
            assert source.address is not None
            if family not in (None, source.address.version):
                raise UsageError(f"{source.address} is an IPv{source.address.version} address: leave -{family} out")
            family = source.address.version
        if typed_dst.form == "address":
            literal = one_hosts(ip_address(typed_dst.value))
            if family not in (None, literal.version):
                raise UsageError(f"{literal} is an IPv{literal.version} address: leave -{family} out")
            family = literal.version
            target = self._address_end(literal, str(literal), EndpointKind.ADDRESS, source)
        else:
            target = self._target(typed_dst, source, family)
        if source.netns is None and source.container is None and source.address is not None:
            return self._from_outside(source, source.address, target, proto=proto, dport=dport, size=size)
        address = target.address
        if address is None and target.kind is not EndpointKind.NAME:
            family, address = self._choose_address(source, target, family)
        chosen = family or (address.version if address is not None else 4)
        flow = Flow(
            src=source.flow_end(self._source_address(source, address, chosen)),
            dst=target.flow_end(address),
            proto=proto,
            dport=dport,
            size=size,
            family=chosen,
        )
        self.lookup = replace(self.lookup, question=flow) if self.lookup is not None else None
        return flow

    def way_to(self, server: IPAddress, *, from_host: bool = False) -> Flow:
        """Return the flow of a query of the source's, or of the host's, to a name server."""
        source = self._asks if self._asks is not None and not from_host else self._host()
        target = self._address_end(server, str(server), EndpointKind.ADDRESS, source)
        return Flow(
            src=source.flow_end(self._source_address(source, server, server.version)),
            dst=target.flow_end(server),
            proto=Proto.UDP,
            dport=DNS_PORT,
            family=server.version,
        )

    def _from_outside(
        self, source: _End, peer: IPAddress, target: _End, *, proto: Proto, dport: int | None, size: int | None
    ) -> Flow:
        """Return the flow of a packet that comes from beyond this host.

        Raises NotFound when it is not for this host either, and for an address that cannot come from outside.
        """
        networks = self._intents.all().networks
        # The subnet of a macvlan is a piece of the network outside.
        inner = [net for net in networks if net.driver in ("bridge", "overlay")]
        if near := next((net for net in inner for pool in net.subnets if peer in pool.subnet), None):
            raise NotFound(
                f"{peer} lies in the network {near.name}, and no container holds it: give a container of that "
                "network as the source, or an address beyond this host"
            )
        if target.address is not None and target.address.is_loopback:
            raise NotFound(
                f"a packet from {peer} to {target.address} never leaves the sender: give the address of this host, "
                "or a container"
            )
        if target.netns is None and target.container is None:
            raise NotFound(
                f"neither {peer} nor {target.name} is an address of this host or of a container on it, and packets "
                "can only be sent from here: give a container, netns:NAME, pid:N or host as the source"
            )
        own = target.container if target.netns != self._places.host.inode else None
        mine = read_source_address(self._channel(self._places.host), peer)
        arrival = aim(
            peer,
            proto=proto,
            dport=dport,
            address=target.address,
            name=target.name,
            container=self._intents.network_owner(own) if own is not None else None,
            networks=networks,
            host=mine or self._first_global(self._places.host.inode, peer.version),
        )
        address = arrival.address
        if address is None and (target.container is None or target.netns == self._places.host.inode):
            address = self._address_in(source, target, peer.version)
        running = target.container is None or (target.container.status == "running" and target.netns is not None)
        if address is None and running:
            raise NotFound(f"{target.name} has no IPv{peer.version} address that {peer} could send to")
        return Flow(
            src=source.flow_end(peer),
            dst=target.flow_end(address),
            proto=proto,
            dport=arrival.dport,
            size=size,
            family=peer.version,
            assumed=arrival.assumed,
        )

    def _source(self, typed: Typed) -> _End:
        match typed.form:
            case "host":
                return self._host()
            case "netns" | "pid":
                return self._namespace(typed)
            case "address":
                return self._address_end(one_hosts(ip_address(typed.value)), typed.value, EndpointKind.ADDRESS, None)
            case "container":
                return self._container(typed.value, prefix=True)
            case "pod":
                return self._pod(typed.value)
        found = self._intents.matches(typed.value)
        if not found and netns_of(run_netns(typed.value)) is not None:
            raise NotFound(f"no container is called {typed.value}, but a namespace is: say netns:{typed.value}")
        return self._container(typed.value, prefix=False)

    def _target(self, typed: Typed, source: _End, family: int | None) -> _End:
        match typed.form:
            case "host":
                return self._host()
            case "netns" | "pid":
                return self._namespace(typed)
            case "container":
                return self._container(typed.value, prefix=True)
            case "pod":
                return self._pod(typed.value)
        word = typed.value
        if "." not in word:
            # With a dot it is a name of DNS almost for certain, and those need no engine.
            self._intents.require()
        found = self._intents.matches(word)
        if not found:
            return self._name(word, source, family)
        end = self._container(word, prefix=False)
        if "." in word:
            # A container may be called like a name of the internet; then nobody can tell which one is meant.
            with contextlib.suppress(NotFound):
                named = self._name(word, source, family)
                self.lookup = None
                if named.address is not None and (named.netns is None or named.netns != end.netns):
                    raise Ambiguous(
                        f"{word} is a container and a name that resolves to {named.address}: say container:{word}, "
                        f"or {word}. with a dot at the end for the name"
                    )
        return end

    def _host(self) -> _End:
        return _End(kind=EndpointKind.HOST, name="host", netns=self._places.host.inode)

    def _namespace(self, typed: Typed) -> _End:
        if typed.form == "pid":
            path, name = f"/proc/{typed.value}/ns/net", f"pid:{typed.value}"
            if netns_of(path) is None:
                if Path(f"/proc/{typed.value}").is_dir():
                    # Opening it says why: not permitted, or a zombie.
                    self._places.open(path, name, named=False)
                raise NotFound(f"there is no process {typed.value}: see `ps -e`, and mind that containers restart")
            ns = self._places.open(path, name, named=False)
            return _End(kind=EndpointKind.NETNS, name=name, netns=ns.inode, etc=(f"/proc/{typed.value}/root/etc",))
        is_path = "/" in typed.value
        path = typed.value if is_path else run_netns(typed.value)
        if netns_of(path) is None:
            known = [] if is_path else _names_in("/run/netns")
            raise NotFound(f"there is no network namespace {typed.value} ({path}){_nearest(typed.value, known)}")
        if not _is_namespace(path):
            raise NotFound(f"{path} is not a network namespace: a file is left over, or the path is wrong")
        name = Path(path).name if is_path else typed.value
        ns = self._places.open(path, name)
        etc = ("/etc",) if is_path else (f"/etc/netns/{name}", "/etc")
        return _End(kind=EndpointKind.NETNS, name=typed.value, netns=ns.inode, etc=etc)

    def _container(self, word: str, *, prefix: bool) -> _End:
        self._intents.require()
        found = self._intents.matches(word)
        if not found:
            raise NotFound(self._no_container(word, prefix=prefix))
        if len(found) > 1:
            forms = ", ".join(f"{each.name} of {each.engine} (container:{each.id[:12]})" for each in found)
            raise Ambiguous(f"{word} fits more than one container: {forms}; say which with the form in brackets")
        container = self._intents.inspect(found[0])
        if container.joined:
            self._intents.name_shared(container)
        return _End(
            kind=EndpointKind.CONTAINER,
            name=container.name,
            netns=container.netns,
            container=container,
            etc=self._etc_of(container),
        )

    def _pod(self, word: str) -> _End:
        from nettrace.collect.engines.cri import find_pod

        pod = self._intents.add(find_pod(word, self._places.host.inode))
        return _End(
            kind=EndpointKind.CONTAINER, name=f"pod:{pod.name}", netns=pod.netns, container=pod, etc=self._etc_of(pod)
        )

    def _etc_of(self, container: Container) -> tuple[str, ...]:
        self._places.list_folder("/run/netns")
        names = [name for name in _names_in("/run/netns") if netns_of(run_netns(name)) == container.netns]
        folders = [f"/etc/netns/{name}" for name in names] if container.netns is not None else []
        return (*folders, *((f"/proc/{container.pid}/root/etc",) if container.pid else ("/etc",)))

    def _no_container(self, word: str, *, prefix: bool) -> str:
        intent = self._intents.all()
        if not intent.engines:
            why = "; ".join(self._intents.troubles)
            return f"cannot look for a container {word}: {why}. Namespaces need no engine: netns:NAME or pid:N"
        place = self._intents.elsewhere(word)
        if place is not None:
            return f"container {word} runs on another host ({place}): run nettrace there"
        asked = ", ".join(f"{engine.name} {engine.version} at {engine.endpoint}" for engine in intent.engines)
        more = "" if prefix else "; a namespace is written netns:NAME, a process pid:N"
        nearest = _nearest(word, [each.name for each in intent.containers])
        other = f"; {'; '.join(self._intents.troubles)}" if self._intents.troubles else ""
        return (
            f"no container is called {word}, and no id begins with it ({asked}: {len(intent.containers)} containers)"
            f"{nearest}{more}{other}"
        )

    def _address_end(self, address: IPAddress, name: str, kind: EndpointKind, source: _End | None) -> _End:
        """Return the end that an address is, with its namespace when something on this host holds it."""
        if address.is_loopback:
            netns = source.netns if source is not None else self._places.host.inode
            return _End(kind=kind, name=name, netns=netns, address=address)
        if source is not None and source.netns is not None and self._holds(source.netns, address):
            return _End(kind=kind, name=name, netns=source.netns, address=address)
        if self._holds(self._places.host.inode, address):
            return _End(kind=kind, name=name, netns=self._places.host.inode, address=address)
        owner = self._intents.owner_of(address)
        if owner is not None:
            container = self._intents.inspect(owner[0])
            return _End(
                kind=kind,
                name=name,
                netns=container.netns,
                container=container,
                address=address,
                etc=self._etc_of(container),
            )
        return _End(kind=kind, name=name, address=address)

    def _name(self, word: str, source: _End, family: int | None) -> _End:
        """Return the end that a name leads to, without an address where it leads nowhere: `lookup` then says why.

        Raises NotFound when it cannot be a name, or the source's own files cannot be read.
        """
        ns = self._places.pinned(source.netns) if source.netns is not None else None
        if ns is None:
            # A source without a namespace can ask nobody: that it has none is what the diagnosis will say.
            return _End(kind=EndpointKind.NAME, name=word)
        config = read_config(source.etc)
        families = (family,) if family is not None else self._families(source)
        flow = Flow(src=source.flow_end(None), dst=FlowEnd(kind=EndpointKind.NAME, name=word))
        listed = tuple(
            address
            for text in config.hosts.get(word.rstrip(".").lower(), ())
            if (address := ip_address(text)).version in families
        )
        lookup = Lookup(
            name=word,
            question=flow,
            servers=config.servers,
            search=config.search,
            ndots=config.ndots,
            files=config.sources,
            listed=listed,
            addresses=tuple(sorted(listed, key=lambda each: families.index(each.version))),
        )
        if not listed:
            if "resolv.conf" in config.unreadable:
                raise NotFound(
                    f"cannot tell who resolves names for {source.name} ({config.unreadable['resolv.conf']}): "
                    "give the address of the destination instead"
                )
            lookup = self._ask(lookup, config, ns, source, families)
        self.lookup = lookup
        if not lookup.addresses:
            if lookup.denied:
                self._learn_aliases()
            return _End(kind=EndpointKind.NAME, name=word)
        return self._address_end(lookup.addresses[0], word, EndpointKind.NAME, source)

    def _learn_aliases(self) -> None:
        """Ask for every running container, whose aliases the listing leaves out: one may bear the name elsewhere."""
        if sum(each.status == "running" for each in self._intents.all().containers) <= MANY:
            with contextlib.suppress(NotFound, EngineError):
                self._intents.inspect_all()

    def _ask(
        self, lookup: Lookup, config: ResolverConfig, ns: Netns, source: _End, families: tuple[int, ...]
    ) -> Lookup:
        """Ask the source's name servers; where Docker's own one has no answer, find out whom it asks in its turn."""
        from nettrace.collect.upstreams import peers_asked, read_upstreams

        seen: list[IPAddress] = []
        embedded = EMBEDDED in map(str, config.servers)

        def known() -> tuple[Upstream, ...]:
            seen.extend(each for each in peers_asked(ns) if each not in (*seen, *config.servers))
            return read_upstreams(config.text, self._engine_view(source), ns.inode, self._places.host, seen)

        asking = Asking(ns, config, patient=(lambda: len(known()) > 1) if embedded else None)
        try:
            addresses = asking.ask(lookup.name, families)
        except ValueError as error:
            raise NotFound(f"{error}, and {self._no_container(lookup.name, prefix=True)}") from error
        answers = tuple(asking.answers)
        elsewhere: tuple[IPAddress, ...] = ()
        if not addresses and any(each.kind is AnswerKind.NO_DATA for each in answers):
            elsewhere = asking.ask(lookup.name, [each for each in (4, 6) if each not in families])
        upstreams = known() if embedded and not addresses else ()
        return replace(lookup, answers=answers, addresses=addresses, elsewhere=elsewhere, upstreams=upstreams)

    def _engine_view(self, source: _End) -> Container | None:
        """Return the container whose options decide over the source's names: the one that made its namespace."""
        if source.container is None:
            return None
        owner = self._intents.network_owner(source.container)
        return self._intents.inspect(owner) if owner.status in ("running", "paused") else owner

    def _families(self, source: _End) -> tuple[int, ...]:
        """Return the families to look a name up in, by what the source has; IPv4 first."""
        if source.netns is None:
            return (4, 6)
        usable = {each.address.version for each in self._addresses(source.netns) if each.scope in ("global", "site")}
        return tuple(sorted(usable)) or (4, 6)

    def _addresses(self, netns: int) -> tuple[Address, ...]:
        if netns not in self._held:
            ns = self._places.pinned(netns)
            if ns is None:
                return ()
            self._held[netns] = read_addresses(self._channel(ns))
        return self._held[netns]

    def _holds(self, netns: int, address: IPAddress) -> bool:
        return any(each.address.ip == address for each in self._addresses(netns))

    def _choose_address(self, source: _End, target: _End, family: int | None) -> tuple[int | None, IPAddress | None]:
        """Choose the address to send to, and the family, when the destination is not an address itself."""
        # A source without IPv4 means the other, wherever it asks to.
        usable = self._families(source)
        families = (family,) if family is not None else tuple(sorted((4, 6), key=lambda each: each not in usable))
        for each in families:
            address = self._address_in(source, target, each)
            if address is not None:
                return each, address
        container = target.container
        if container is not None:
            owner = self._intents.network_owner(container)
            if owner.netns not in (None, container.netns):
                return family, None
            if container.status not in ("running", "paused") or not owner.endpoints or target.netns is None:
                # Stopped, or without a network: that is what the diagnosis will say.
                return family, None
            held = [endpoint for endpoint in owner.endpoints if endpoint.ipv4 or endpoint.ipv6]
            if not held:
                return family, None
        wanted = " or ".join(f"IPv{each}" for each in families)
        raise NotFound(f"{target.name} has no {wanted} address: name the address to reach, or use another family")

    def _address_in(self, source: _End, target: _End, family: int) -> IPAddress | None:
        container = target.container
        is_host = target.netns == self._places.host.inode
        if container is not None and not is_host:
            owner = self._intents.network_owner(container)
            if owner.netns not in (None, container.netns):
                # Its owner has started anew, in another namespace: the addresses are there, and not with this one.
                return None
            return self._container_address(source, owner, family)
        if is_host:
            return self._host_address(source, family)
        return self._namespace_address(source, target, family) if target.netns is not None else None

    def _container_address(self, source: _End, container: Container, family: int) -> IPAddress | None:
        """Return an address of a container: on a network that the source is in too, else its first."""
        shared: set[str] = set()
        if source.container is not None:
            shared = {each.network_id for each in self._intents.network_owner(source.container).endpoints}
        for endpoint in sorted(container.endpoints, key=lambda each: each.network_id not in shared):
            held = endpoint.ipv4 if family == 4 else endpoint.ipv6
            if held is not None:
                return held.ip
        return None

    def _host_address(self, source: _End, family: int) -> IPAddress | None:
        """Return the host's address as the source would use it: its gateway, else the host's primary one."""
        if source.container is not None and source.netns != self._places.host.inode:
            for endpoint in self._intents.network_owner(source.container).endpoints:
                gateway = self._gateway(endpoint, family)
                if gateway is not None:
                    return gateway
        elif source.netns is not None and source.netns != self._places.host.inode:
            ns = self._places.pinned(source.netns)
            gateways = [
                hop.gateway
                for route in (read_routes(self._channel(ns)) if ns is not None else ())
                for hop in route.nexthops
                if route.dst.prefixlen == 0 and hop.gateway is not None and hop.gateway.version == family
            ]
            for gateway in gateways:
                if self._holds(self._places.host.inode, gateway):
                    return gateway
            near = self._on_link(source.netns, self._places.host.inode, family)
            if near is not None:
                return near
        primary = read_source_address(self._channel(self._places.host), BEYOND[family])
        return primary or self._first_global(self._places.host.inode, family)

    def _gateway(self, endpoint: Endpoint, family: int) -> IPAddress | None:
        """Return the address of the host's bridge on a container's network."""
        network = self._intents.all().network(endpoint.network_id)
        if network is None or network.driver != "bridge":
            return None
        told = endpoint.gateway if family == 4 else endpoint.gateway6
        # On internal networks the engine tells the container no gateway, yet the bridge holds the address.
        pools = (pool.gateway for pool in network.subnets if pool.gateway and pool.gateway.version == family)
        return told or next(pools, None)

    def _namespace_address(self, source: _End, target: _End, family: int) -> IPAddress | None:
        assert target.netns is not None
        if source.netns is not None and source.netns != target.netns:
            near = self._on_link(source.netns, target.netns, family)
            if near is not None:
                return near
        return self._first_global(target.netns, family)

    def _on_link(self, near: int, far: int, family: int) -> IPAddress | None:
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

    def _first_global(self, netns: int, family: int) -> IPAddress | None:
        for each in self._addresses(netns):
            if each.address.version == family and each.scope == "global":
                return each.address.ip
        return None

    def _source_address(self, source: _End, dst: IPAddress | None, family: int) -> IPAddress | None:
        """Return the address that the source's kernel would send from, else the one that the engine gave it."""
        ns = self._places.pinned(source.netns) if source.netns is not None else None
        if source.address is not None and source.address.version == family:
            return source.address
        if ns is not None and dst is not None:
            chosen = read_source_address(self._channel(ns), dst)
            if chosen is not None:
                return chosen
        if source.container is not None:
            owner = self._intents.network_owner(source.container)
            given = self._container_address(source, owner, family) if owner.netns == source.netns else None
            if given is not None:
                return given
        return self._first_global(source.netns, family) if ns is not None and source.netns is not None else None


def _is_namespace(path: str) -> bool:
    return os.stat(path).st_dev == os.stat("/proc/thread-self/ns/net").st_dev


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(each.name for each in Path(folder).iterdir())
    except OSError:
        return []


def _nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint at the names that are most like a word."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=3, cutoff=0.5)
    near += [name for name in known if word in name and name not in near][:3]
    if near:
        return f"; did you mean {', '.join(near[:4])}?"
    return f"; there are {', '.join(sorted(known)[:8])}" if known else ""
