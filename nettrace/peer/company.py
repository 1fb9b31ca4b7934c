"""This host and its peers, read as if they were one: what a Collector offers, for namespaces of all of them.

A peer that cannot be asked is a gap: the answer then stands on what this host alone shows. Only where the destination
is that peer's own, it is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from msgspec.structs import replace

from nettrace.errors import Ambiguous, NotFound, PeerError
from nettrace.model.base import rows
from nettrace.model.flow import EndpointKind, Flow, Proto
from nettrace.model.observe import Observation
from nettrace.model.path import Point
from nettrace.model.snapshot import HOST_SHIFT, Gap, Snapshot
from nettrace.peer.join import far_flow, far_point, joined, merged, near, offset
from nettrace.peer.messages import Arm, Read, Report, Reported, Snap
from nettrace.peer.ssh import PeerAddress, Remote

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from nettrace.collect import Collector
    from nettrace.model.intent import Container
    from nettrace.model.lookup import Lookup
    from nettrace.netns import Netns
    from nettrace.wire.token import RunToken

    Address = IPv4Address | IPv6Address

__all__ = ["Company"]


class _Member:
    """One peer. `remote` is None once it cannot be asked any more; what it said before stays."""

    def __init__(self, number: int, address: PeerAddress) -> None:
        self.number = number
        self.name = address.name
        self.remote: Remote | None = None
        self.trouble: str | None = None
        self.snapshot: Snapshot | None = None
        self.after: Snapshot | None = None
        self.armed = False
        self.asked: set[str] = set()

    def lose(self, error: PeerError) -> None:
        """Give the peer up, and remember why."""
        self.trouble = self.trouble or str(error)
        if self.remote is not None:
            self.remote.close()
            self.remote = None

    def read(self, question: Read) -> bool:
        """Let the peer read; True when namespaces came that were not there before."""
        if self.remote is None:
            return False
        before = len(self.snapshot.namespaces) if self.snapshot is not None else 0
        try:
            answer = self.remote.ask(question)
        except PeerError as error:
            self.lose(error)
            return False
        if isinstance(answer, Snap):
            self.snapshot = answer.snapshot
        return self.snapshot is not None and len(self.snapshot.namespaces) > before

    def inodes(self) -> set[int]:
        """Return the inodes of the namespaces that were read."""
        return {each.id for each in self.snapshot.namespaces} if self.snapshot is not None else set()


class Company:
    """A Collector and its peers; a context that ends every connection."""

    def __init__(self, collector: Collector, addresses: Sequence[PeerAddress]) -> None:
        """Begin to connect to every peer; nothing waits for them yet."""
        self._own = collector
        self.host: Netns = collector.host
        self._members = [_Member(number, address) for number, address in enumerate(addresses, 1)]
        self._flow: Flow | None = None
        self._points: tuple[Point, ...] = ()
        self._neighbours: tuple[Address, ...] = ()
        for member, address in zip(self._members, addresses, strict=True):
            try:
                member.remote = Remote(address)
            except PeerError as error:
                member.lose(error)

    @property
    def host_netns(self) -> int:
        """Inode of this host's namespace."""
        return self.host.inode

    def __enter__(self) -> Company:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End every connection."""
        for member in self._members:
            if member.remote is not None:
                member.remote.close()
                member.remote = None

    # what is asked

    def resolve(
        self, src: str, dst: str, *, proto: Proto, dport: int | None, size: int | None, family: int | None
    ) -> Flow:
        """Turn what was typed into a flow, as a Collector does; a destination may be a container of a peer.

        Raises what the Collector raises, and PeerError when the destination is a peer's that cannot be asked.
        """

        def ask(target: str, version: int | None) -> Flow:
            return self._own.resolve(src, target, proto=proto, dport=dport, size=size, family=version)

        self._refuse_far_source(src)
        self._meet()
        member, container = self._far_container(dst)
        if member is None or container is None:
            flow = self._asked_here(ask, dst, family)
            self._flow = flow
            self._read_hosts(flow, ())
            self._flow = self._with_owner(flow)
            return self._flow
        address = self._address_of(src, dst, member, container, family)
        flow = ask(str(address), None) if address is not None else ask("192.0.2.1", None)
        end = replace(
            flow.dst,
            kind=EndpointKind.CONTAINER,
            name=f"{member.name}:{container.name}",
            id=container.id,
            netns=None,
            address=address,
        )
        self._flow = replace(flow, dst=end)
        self._read_hosts(self._flow, (container.id,))
        found = member.snapshot.intent.container(container.id) if member.snapshot is not None else None
        if found is not None and found.netns is not None:
            self._flow = replace(self._flow, dst=replace(end, netns=near(member.number, found.netns)))
        return self._flow

    def _asked_here(self, ask: Callable[[str, int | None], Flow], dst: str, family: int | None) -> Flow:
        try:
            return ask(dst, family)
        except NotFound as error:
            missing = [f"{each.name} could not be asked ({each.trouble})" for each in self._members if each.trouble]
            if missing:
                raise NotFound(f"{error}; {'; '.join(missing)}") from error
            raise

    def _refuse_far_source(self, src: str) -> None:
        for member in self._members:
            if src.startswith(f"{member.name}:"):
                raise NotFound(
                    f"{src} is on {member.name}, and packets are sent from this host alone: run nettrace there, with "
                    "this host as its --peer"
                )

    def _meet(self) -> None:
        """Greet every peer, and take its engines' word."""
        for member in self._members:
            if member.remote is None:
                continue
            try:
                member.remote.greet()
            except PeerError as error:
                member.lose(error)
                continue
            member.read(Read())

    def _far_container(self, dst: str) -> tuple[_Member | None, Container | None]:
        """Return the peer's container that a destination names: "NAME:container", or a name that none has here."""
        head, colon, word = dst.partition(":")
        for member in self._members:
            if colon and head == member.name:
                if member.snapshot is None:
                    raise PeerError(f"{dst} is on {member.name}, which cannot be asked: {member.trouble}")
                found = _named(member, word)
                if not found:
                    known = ", ".join(sorted(each.name for each in member.snapshot.intent.containers)[:8]) or "none"
                    raise NotFound(f"no container is called {word} on {member.name}; there are: {known}")
                if len(found) > 1:
                    raise Ambiguous(
                        f"{word} fits more than one container on {member.name}: "
                        + ", ".join(f"{member.name}:{each.id[:12]} ({each.name})" for each in found)
                    )
                return member, found[0]
        if colon:
            return None, None
        there = [(member, each) for member in self._members for each in _named(member, dst)]
        if not there:
            return None, None
        here = [each for each in self._own.intent().containers if _fits(each, dst)]
        if here or len(there) > 1:
            forms = [f"container:{each.name} (this host)" for each in here]
            forms += [f"{member.name}:{each.name}" for member, each in there]
            raise Ambiguous(f"{dst} fits containers on more than one host: say {' or '.join(forms)}")
        return there[0]

    def _address_of(
        self, src: str, dst: str, member: _Member, container: Container, family: int | None
    ) -> Address | None:
        """Return the address of a peer's container on a network that spans hosts, best one that the source is in."""
        assert member.snapshot is not None
        intent = member.snapshot.intent
        owner = next(
            (each for each in intent.containers if container.joined and each.id == container.joined), container
        )
        word = src.removeprefix("container:")
        own = {
            endpoint.network_id
            for each in self._own.intent().containers
            if _fits(each, word)
            for endpoint in each.endpoints
        }
        spanning = {network.id for network in intent.networks if network.scope != "local"}
        versions = (family,) if family is not None else (4, 6)
        for wanted in (own & spanning, own, spanning):
            for endpoint in owner.endpoints:
                for held in (endpoint.ipv4, endpoint.ipv6):
                    if endpoint.network_id in wanted and held is not None and held.version in versions:
                        return held.ip
        if owner.status not in ("running", "paused"):
            return None
        raise NotFound(
            f"{dst} is in no network that spans hosts, so it has no address for this one: name an address of "
            f"{member.name} and a port that it publishes"
        )

    def _read_hosts(self, flow: Flow, containers: tuple[str, ...]) -> None:
        """Read every peer's host, its part of the overlays that the flow may use, and the containers."""
        intent = self._own.intent()
        address = flow.dst.address
        overlays = {
            network.id
            for network in intent.networks
            if network.driver == "overlay"
            and (address is None or any(address in pool.subnet for pool in network.subnets))
        }
        source = intent.container(flow.src.id or "")
        if source is not None:
            overlays &= {endpoint.network_id for endpoint in source.endpoints}
        for member in self._members:
            known = {each.id for each in member.snapshot.intent.containers} if member.snapshot is not None else set()
            member.read(
                Read(
                    flow=far_flow(flow, member.number),
                    containers=tuple(each for each in containers if each in known),
                    networks=tuple(sorted(overlays)),
                )
            )

    def _with_owner(self, flow: Flow) -> Flow:
        """Return the flow with the namespace of the peer that holds its destination's address, if one does."""
        address = flow.dst.address
        if flow.dst.netns is not None or address is None:
            return flow
        for member in self._members:
            if member.snapshot is None:
                continue
            spanning = {network.id for network in member.snapshot.intent.networks if network.scope != "local"}
            for container in member.snapshot.intent.containers:
                held = [
                    each.ip
                    for endpoint in container.endpoints
                    if endpoint.network_id in spanning
                    for each in (endpoint.ipv4, endpoint.ipv6)
                    if each is not None
                ]
                if address in held and container.status in ("running", "paused"):
                    member.read(Read(flow=far_flow(flow, member.number), containers=(container.id,)))
                    found = member.snapshot.intent.container(container.id)
                    if found is not None and found.netns is not None:
                        return replace(flow, dst=replace(flow.dst, netns=near(member.number, found.netns)))
            host = member.snapshot.namespace(member.snapshot.host_netns)
            bridges = {network.bridge for network in member.snapshot.intent.networks if network.bridge is not None}
            inner = {link.ifindex for link in rows(host.links) if link.name in bridges or link.loopback} if host else ()
            for each in rows(host.addresses) if host is not None else ():
                if each.address.ip == address and each.ifindex not in inner and host is not None:
                    return replace(flow, dst=replace(flow.dst, netns=near(member.number, host.id)))
        return flow

    @property
    def lookup(self) -> Lookup | None:
        """What became of the destination's name, as the Collector has it; names are looked up on this host alone."""
        return self._own.lookup

    def turn_to(self, server: Address, *, from_host: bool = False) -> Flow:
        """Look at the way to a name server from now on, as the Collector does."""
        self._flow = self._own.turn_to(server, from_host=from_host)
        return self._flow

    # what is read

    def _member(self, netns: int) -> _Member | None:
        number = netns >> HOST_SHIFT
        return self._members[number - 1] if 0 < number <= len(self._members) else None

    def read(self, netns: int) -> bool:
        """Read a namespace of whichever host; False when it cannot be found."""
        member = self._member(netns)
        if member is None:
            return self._own.read(netns)
        inode = netns & ((1 << HOST_SHIFT) - 1)
        if inode not in member.inodes() and self._flow is not None:
            member.read(Read(flow=far_flow(self._flow, member.number), netns=(inode,)))
        return inode in member.inodes()

    def read_container(self, container: Container) -> bool:
        """Read a container's namespace on whichever host; True when it was not read before."""
        for member in self._members:
            if member.snapshot is None or member.snapshot.intent.container(container.id) is None:
                continue
            if container.id in member.asked or self._flow is None:
                return False
            member.asked.add(container.id)
            return member.read(Read(flow=far_flow(self._flow, member.number), containers=(container.id,)))
        return self._own.read_container(container)

    def find_publisher(self, proto: str, port: int) -> None:
        """Learn which container of this host that does not run would publish a port of it."""
        self._own.find_publisher(proto, port)

    def fallen(self) -> tuple[Container, ...]:
        """Return this host's containers at the flow's ends that have ended since they were read."""
        return self._own.fallen()

    def read_hidden(self, networks: Sequence[str], *, ingress: bool = False) -> None:
        """Read this host's hidden namespaces of overlay networks; peers have read theirs."""
        self._own.read_hidden(networks, ingress=ingress)

    def snapshot(self) -> Snapshot:
        """Return everything read so far, of all hosts."""
        return self._joined(self._own.snapshot(), after=False)

    def read_after(self) -> Snapshot:
        """Read again what a probe may have changed; peers have done so with their report."""
        return self._joined(self._own.read_after(), after=True)

    def _joined(self, own: Snapshot, *, after: bool) -> Snapshot:
        halves = [
            (member.name, member.number, found)
            for member in self._members
            if (found := (member.after if after else None) or member.snapshot) is not None and found.namespaces
        ]
        gaps = [
            Gap(section="peer", netns=member.name, reason=f"{member.name} could not be asked: {member.trouble}")
            for member in self._members
            if member.trouble is not None
        ]
        whole = joined(own, halves)
        return replace(whole, gaps=(*whole.gaps, *gaps))

    def netns(self, inode: int) -> Netns:
        """Return a namespace of this host held open; raises NamespaceGone."""
        return self._own.netns(inode)

    # what is heard

    def expect(self, points: Sequence[Point], neighbours: Sequence[Address]) -> None:
        """Remember where the peers are to listen."""
        self._points, self._neighbours = tuple(points), tuple(neighbours)

    def arm(self, token: RunToken) -> None:
        """Let every peer listen at its points for the packets of a run; returns when they do."""
        for member in self._members:
            own = tuple(far_point(each) for each in self._points if each.netns >> HOST_SHIFT == member.number)
            if member.remote is None or not own:
                continue
            try:
                member.remote.ask(Arm(points=own, token=token, neighbours=self._neighbours))
                member.armed = True
            except PeerError as error:
                member.lose(error)

    def report(self, own: Observation) -> Observation:
        """Return the observation with what the peers heard, on this host's clock."""
        others = []
        for member in self._members:
            if member.remote is None or not member.armed:
                continue
            with contextlib.suppress(PeerError):
                try:
                    answer = member.remote.ask(Report())
                except PeerError as error:
                    member.lose(error)
                    raise
                if isinstance(answer, Reported):
                    member.after = answer.after
                    others.append((answer.observation, offset(own, answer.observation, member.remote.clock)))
        return merged(own, others) if others else own


def _fits(container: Container, word: str) -> bool:
    """Tell whether a word is a container's name, or the beginning of its id (twelve letters and more)."""
    return container.name == word or (len(word) >= 12 and container.id.startswith(word))


def _named(member: _Member, word: str) -> list[Container]:
    return [each for each in member.snapshot.intent.containers if _fits(each, word)] if member.snapshot else []
