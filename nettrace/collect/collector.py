"""Live kernel and engines to Snapshot: resolves a question, then reads one namespace after the other, as asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from msgspec.structs import replace

from nettrace.collect.engines import Engine
from nettrace.collect.held import mark_held
from nettrace.collect.intents import Intents
from nettrace.collect.namespace import begin_listing, read_again, read_namespace, read_outline
from nettrace.collect.netfilter import Listing
from nettrace.collect.netlink import Channel
from nettrace.collect.places import Place, Places
from nettrace.collect.resolve import Resolver
from nettrace.collect.sockets import read_holders
from nettrace.errors import EngineError, NamespaceGone, NotFound
from nettrace.model.base import IPAddress, Missing, Present, rows
from nettrace.model.flow import Flow, Proto
from nettrace.model.intent import Container, Intent
from nettrace.model.lookup import Lookup
from nettrace.model.snapshot import Gap, Host, Link, Namespace, Snapshot
from nettrace.model.texts import RawText
from nettrace.netns import Netns, current, run_in

__all__ = ["Collector"]

#: Of a whole host, the rules of so many namespaces are listed at a time.
AT_ONCE = 4
#: Of the containers that do not run, so many are asked for the ports that they would publish.
MANY_IDLE = 40


def _pairs(namespace: Namespace) -> Iterator[tuple[str, IPAddress]]:
    """Yield the MAC address of each device with each address on it."""
    macs = {link.ifindex: link.mac for link in rows(namespace.links) if not link.loopback}
    for each in rows(namespace.addresses):
        mac = macs.get(each.ifindex)
        if mac is not None:
            yield mac, each.address.ip


def _with_readers(namespace: Namespace) -> Namespace:
    """Name the processes behind the tun and tap devices of a namespace."""
    if not any(link.kind == "tun" for link in rows(namespace.links)):
        return namespace
    from nettrace.collect.taps import find_reader

    links = tuple(
        replace(link, reader=find_reader(namespace.id, link.name)) if link.kind == "tun" else link
        for link in rows(namespace.links)
    )
    return replace(namespace, links=Present(rows=links))


class Collector:
    """Reads namespaces into a snapshot, each once, and holds every one of them open until it is closed.

    `engines` are asked instead of those that are found; `parallel` reads the flow's namespaces in one go.
    """

    def __init__(self, *, engines: Sequence[Engine] | None = None, parallel: bool = True) -> None:
        self.host: Netns = current()
        self._parallel = parallel
        self._places = Places(self.host)
        self._intents = Intents(self._places, engines)
        self._channels: dict[int, Channel] = {}
        self._flow: Flow | None = None
        self._resolver: Resolver | None = None
        self._read: dict[int, Namespace] = {}
        self._gaps: dict[int, tuple[Gap, ...]] = {}
        self._nsids: dict[int, dict[int, int]] = {}
        self._lost: list[Gap] = []
        self._taken_at_ns = 0

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets, the engines' connections and the pinned namespaces."""
        for channel in self._channels.values():
            channel.close()
        self._intents.close()
        self._places.close()

    def resolve(
        self, src: str, dst: str, *, proto: Proto, dport: int | None, size: int | None, family: int | None
    ) -> Flow:
        """Turn what the user typed into a flow, and remember it: conntrack is read for that flow alone.

        Raises UsageError, NotFound, Ambiguous, EngineError, PrivilegeError.
        """
        self._resolver = Resolver(self._places, self._intents, self._channel)
        self._flow = self._resolver.resolve(src, dst, proto=proto, dport=dport, size=size, family=family)
        return self._flow

    @property
    def lookup(self) -> Lookup | None:
        """What became of the destination's name, None when it was not given as one (or nobody could be asked)."""
        return self._resolver.lookup if self._resolver is not None else None

    def turn_to(self, server: IPAddress, *, from_host: bool = False) -> Flow:
        """Look at the way to a name server from now on, the source's or the host's: what was read is read anew."""
        assert self._resolver is not None
        self._flow = self._resolver.way_to(server, from_host=from_host)
        self._read.clear()
        self._gaps.clear()
        return self._flow

    @property
    def host_netns(self) -> int:
        """Inode of the host's namespace."""
        return self.host.inode

    def attend(self, flow: Flow) -> None:
        """Take a flow that somebody else resolved for the one that is asked about."""
        self._flow = flow

    def netns(self, inode: int) -> Netns:
        """Return a namespace held open; raises NamespaceGone when it cannot be found (any more)."""
        ns = self._find(inode)
        if ns is None:
            raise NamespaceGone(f"network namespace {inode} is gone: ask again, the container may have restarted")
        return ns

    def read(self, netns: int) -> bool:
        """Read a namespace into the snapshot, by its inode; False when it cannot be found. Reading twice reads once.

        The first call reads those of the flow all together. Raises PrivilegeError.
        """
        if netns in self._read:
            return True
        wanted = [netns]
        if self._parallel and self._flow is not None and not self._read:
            ends = (self._flow.src.netns, self.host.inode, self._flow.dst.netns)
            wanted = list(dict.fromkeys([netns, *(each for each in ends if each is not None)]))
        found = [ns for each in wanted if (ns := self._find(each)) is not None]
        self._read_all(found)
        return netns in self._read

    def read_container(self, container: Container) -> bool:
        """Read a container's namespace, which its engine may have to be asked for; True when it was not read before.

        One that has gone meanwhile is no error: then there is nothing to read.
        """
        whole = self._inspect(container)
        if whole is None or whole.netns is None or whole.netns in self._read:
            return False
        return self.read(whole.netns)

    def find_publisher(self, proto: str, port: int) -> None:
        """Learn which container that does not run would publish a port of the host, unless one that runs does.

        Listings tell the ports of running containers only; of the others each is asked for by itself.
        """
        containers = self._intents.all().containers
        if any((each.proto, each.host_port) == (proto, port) for one in containers for each in one.ports):
            return
        idle = [each for each in containers if each.status not in ("running", "paused")]
        idle.sort(key=lambda each: each.status != "restarting")
        for container in idle[:MANY_IDLE]:
            whole = self._inspect(container)
            if whole is not None and any((each.proto, each.host_port) == (proto, port) for each in whole.ports):
                return

    def fallen(self) -> tuple[Container, ...]:
        """Return the containers at the flow's ends that have ended since they were read, as they are now.

        One that runs again, as another process, is given as "restarting".
        """
        ends = (self._flow.src.id, self._flow.dst.id) if self._flow is not None else ()
        found = []
        for identity in ends:
            container = self._intents.all().container(identity) if identity is not None else None
            if container is None or container.status != "running" or container.pid is None:
                continue
            try:
                now = self._intents.look_again(container)
            except NotFound:
                now = replace(container, status="gone")
            except EngineError:
                continue
            if now.status != "running" or now.pid != container.pid:
                found.append(replace(now, status="restarting") if now.status == "running" else now)
        return tuple(found)

    def read_hidden(self, networks: Sequence[str], *, ingress: bool = False) -> None:
        """Read the hidden namespaces of overlay networks, by their ids: they are called "<n>-<beginning of the id>".

        `ingress` asks for the one too that the swarm's load balancer of published ports works in.
        """
        if not networks and not ingress:
            return
        self._look_around()
        for place in self._places.all():
            number, dash, begin = place.name.partition("-")
            numbered = place.kind == "overlay" and bool(dash) and number.isdigit()
            wanted = numbered and any(each.startswith(begin) for each in networks)
            if wanted or (ingress and place.name == "ingress_sbox"):
                self.read(place.inode)

    def snapshot(self) -> Snapshot:
        """Return everything read so far."""
        return self._snapshot(self._read, self._gaps)

    def read_after(self) -> Snapshot:
        """Read the same namespaces again, after the probe: rules and their counters, links, neighbours, conntrack.

        The other tables are carried over. Namespaces are held open, so all of them are still there.
        """
        after: dict[int, Namespace] = dict(self._read)
        gaps = dict(self._gaps)
        namespaces = [ns for inode in self._read if (ns := self._find(inode)) is not None]
        listings = self._begin(namespaces)
        try:
            for ns in namespaces:
                namespace, gaps[ns.inode] = read_again(
                    self._read[ns.inode],
                    ns,
                    self._channel(ns),
                    flow=self._flow,
                    listing=listings.pop(ns.inode, None),
                )
                after[ns.inode] = self._with_peers(namespace)
        finally:
            for listing in listings.values():
                listing.cancel()
        self._taken_at_ns = time.time_ns()
        return self._snapshot(after, gaps)

    def outline(self) -> Snapshot:
        """Read links, addresses and default routes of every namespace that can be found: for views of the whole host.

        What dies meanwhile is left out, or a gap. Raises PrivilegeError.
        """
        self._intents.all()
        self._look_around()
        self._outline_all(self._places.all())
        # Only what was not told by its addresses is asked for: a call for each of five hundred containers is slow.
        asked = [self._inspect(container) for container in self._intents.settle()]
        self._intents.settle()
        places = [self._places.get(each.netns) for each in asked if each is not None and each.netns is not None]
        self._outline_all([place for place in places if place is not None])
        for inode, namespace in self._read.items():
            place = self._places.get(inode)
            if place is not None and place.kind == "container" and namespace.kind != "container":
                self._read[inode] = replace(namespace, name=self._unique(place.name, inode), kind=place.kind)
        self._taken_at_ns = time.time_ns()
        return self.snapshot()

    def _outline_all(self, places: Sequence[Place]) -> None:
        """Read the outline of these namespaces, where that was not done yet."""
        fresh = [place for place in places if place.inode not in self._read]
        pinned = [ns for place in fresh if (ns := self._places.pinned(place.inode)) is not None]
        for ns in pinned:
            place = self._places.get(ns.inode)
            name, kind = (place.name, place.kind) if place is not None else (ns.label, "netns")
            try:
                # A socket for each of five hundred namespaces at once would be too many.
                with Channel(ns) as channel:
                    self._channels[ns.inode] = channel
                    self._read[ns.inode], self._gaps[ns.inode] = read_outline(ns, channel, name=name, kind=kind)
                    if place is not None and ns.inode != self.host.inode:
                        self._intents.locate(place, _pairs(self._read[ns.inode]))
                    self._finish(ns)
            except NamespaceGone as error:
                self._lost.append(Gap(section="namespace", netns=name, reason=str(error)))
            finally:
                self._channels.pop(ns.inode, None)

    def find_all(self) -> tuple[Netns, ...]:
        """Find every namespace that has a name or a container in it, and hold it open; the host's comes first.

        What dies meanwhile is left out, or a gap. Raises PrivilegeError.
        """
        for container in self._intents.all().containers:
            if container.status in ("running", "paused"):
                self._inspect(container)
        self._look_around()
        places = sorted(self._places.all(), key=lambda place: place.kind != "host")
        return tuple(ns for place in places if (ns := self._places.pinned(place.inode)) is not None)

    def everything(self, namespaces: Sequence[Netns], *, progress: Callable[[], None] | None = None) -> Snapshot:
        """Read every table of many namespaces; `progress` is called after each. Raises PrivilegeError."""
        for at in range(0, len(namespaces), AT_ONCE):
            batch = [ns for ns in namespaces[at : at + AT_ONCE] if ns.inode not in self._read]
            listings = self._begin(batch)
            try:
                for ns in batch:
                    self._read_alone(ns, listings.pop(ns.inode, None))
                    if progress is not None:
                        progress()
            finally:
                for listing in listings.values():
                    listing.cancel()
        self._taken_at_ns = time.time_ns()
        return self.snapshot()

    def _read_alone(self, ns: Netns, listing: Listing | None) -> None:
        """Read one of many namespaces, with a socket that is closed again: five hundred would be too many."""
        place = self._places.get(ns.inode)
        name, kind = (place.name, place.kind) if place is not None else (ns.label, "netns")
        try:
            with Channel(ns) as channel:
                self._channels[ns.inode] = channel
                self._read[ns.inode], self._gaps[ns.inode] = read_namespace(
                    ns, channel, name=name, kind=kind, listing=listing
                )
                self._finish(ns)
        except NamespaceGone as error:
            if listing is not None:
                listing.cancel()
            self._lost.append(Gap(section="namespace", netns=name, reason=str(error)))
        finally:
            self._channels.pop(ns.inode, None)

    def _inspect(self, container: Container) -> Container | None:
        """Ask its engine for all of a container; None when it has gone, or the engine does not say."""
        try:
            return self._intents.inspect(container)
        except (EngineError, NotFound) as error:
            gap = Gap(section="intent", netns=None, reason=str(error))
            self._lost += [] if gap in self._lost else [gap]
            return None

    def engine_texts(self) -> tuple[RawText, ...]:
        """Return what the engines say of themselves, for a human helper."""
        return tuple(text for engine in self._intents.engines() for text in engine.read_texts())

    def intent(self, *, complete: bool = False) -> Intent:
        """Return what the engines meant; `complete` asks for the process and namespace of every running container."""
        return self._intents.inspect_all() if complete else self._intents.all()

    def namespaces(self) -> tuple[Place, ...]:
        """Return every namespace that can be found by name or by engine: for views of the whole host."""
        self._intents.inspect_all()
        self._look_around()
        return self._places.all()

    def _channel(self, ns: Netns) -> Channel:
        if ns.inode not in self._channels:
            self._channels[ns.inode] = Channel(ns)
        return self._channels[ns.inode]

    def _find(self, inode: int) -> Netns | None:
        ns = self._places.pinned(inode)
        if ns is None:
            self._look_around()
            ns = self._places.pinned(inode)
        if ns is None:
            self._places.scan_processes()
            ns = self._places.pinned(inode)
        return ns

    def _look_around(self) -> None:
        """List the places where namespaces have names: ip-netns's folder, then the engines'."""
        self._places.list_folder("/run/netns")
        try:
            self._intents.list_sandboxes()
        except (EngineError, NotFound) as error:
            self._lost.append(Gap(section="intent", netns=None, reason=str(error)))

    def _begin(self, namespaces: Sequence[Netns]) -> dict[int, Listing]:
        """Start listing the rules of all namespaces: those tools are what takes long, and they need no Python.

        The tables are then read one namespace after the other; threads would only wait for each other.
        """
        listings: dict[int, Listing] = {}
        if self._parallel:
            try:
                for ns in namespaces:
                    listings[ns.inode] = begin_listing(ns)
            except BaseException:
                for listing in listings.values():
                    listing.cancel()
                raise
        return listings

    def _read_all(self, namespaces: Sequence[Netns]) -> None:
        fresh = [ns for ns in namespaces if ns.inode not in self._read]
        listings = self._begin(fresh)
        try:
            for ns in fresh:
                place = self._places.get(ns.inode)
                name, kind = (place.name, place.kind) if place is not None else (ns.label, "netns")
                self._read[ns.inode], self._gaps[ns.inode] = read_namespace(
                    ns, self._channel(ns), name=name, kind=kind, flow=self._flow, listing=listings.pop(ns.inode, None)
                )
                self._finish(ns)
        finally:
            for listing in listings.values():
                listing.cancel()
        self._taken_at_ns = time.time_ns()

    def _finish(self, ns: Netns) -> None:
        """Give a namespace its name, and the far ends of its links theirs."""
        namespace = self._with_holders(ns, _with_readers(self._read[ns.inode]))
        self._find_peers(ns, rows(namespace.links))
        place = self._places.get(ns.inode)
        if place is not None and not place.named:
            self._name_by_engine(ns.inode, rows(namespace.links))
            place = self._places.get(ns.inode)
        name = self._unique(place.name if place is not None else namespace.name, ns.inode)
        self._gaps[ns.inode] = tuple(replace(gap, netns=name) for gap in self._gaps[ns.inode])
        self._read[ns.inode] = replace(
            self._with_peers(namespace),
            name=name,
            kind=place.kind if place is not None else namespace.kind,
            path=place.path if place is not None and place.kind == "overlay" else None,
            nsids={str(nsid): inode for nsid, inode in self._nsids.get(ns.inode, {}).items()},
        )

    def _with_holders(self, ns: Netns, namespace: Namespace) -> Namespace:
        """Tell who holds the host's sockets on a published port that is asked for: the engine's proxy, or another."""
        flow = self._flow
        if flow is None or flow.dport is None or ns.inode != self.host.inode:
            return namespace
        if flow.dst.netns != ns.inode and not flow.from_outside:
            return namespace
        proto, port = flow.proto.value, flow.dport
        ports = (each for container in self._intents.all().containers for each in container.ports)
        if not any((each.proto, each.host_port) == (proto, port) for each in ports):
            return namespace
        held = run_in(ns, lambda: read_holders(rows(namespace.sockets), proto, port))
        return namespace if isinstance(namespace.sockets, Missing) else replace(namespace, sockets=Present(rows=held))

    def _unique(self, name: str, inode: int) -> str:
        """Return the name, told apart from that of another namespace: points are known by it."""
        taken = any(other.name == name and other.id != inode for other in self._read.values())
        return f"{name}@{inode}" if taken else name

    def _find_peers(self, ns: Netns, links: Sequence[Link]) -> None:
        """Find the namespaces behind the nsids of links: the open ones, then the named ones, then any process's."""
        lacking = {link.peer_nsid for link in links if link.peer_nsid is not None and link.peer_nsid >= 0}
        found: dict[int, int] = {}
        for widen in (None, self._look_around, self._places.scan_processes):
            if not lacking:
                break
            if widen is not None:
                widen()
            found |= self._places.find_peers(self._channel(ns), lacking)
            lacking -= found.keys()
        self._nsids[ns.inode] = found

    def _with_peers(self, namespace: Namespace) -> Namespace:
        if isinstance(namespace.links, Missing):
            return namespace
        links = tuple(self._with_peer(namespace.id, link) for link in namespace.links.rows)
        return replace(namespace, links=Present(rows=links))

    def _with_peer(self, inode: int, link: Link) -> Link:
        if link.peer_nsid is None:
            return link
        peer = self._nsids.get(inode, {}).get(link.peer_nsid)
        return link if peer is None else replace(link, peer_nsid=None, peer_netns=peer)

    def _name_by_engine(self, inode: int, links: Sequence[Link]) -> None:
        """Ask the engines whose namespace it is, going by the MAC addresses that they gave out."""
        container = self._intents.by_macs(link.mac for link in links if link.mac)
        if container is None:
            return
        try:
            self._intents.inspect(container)
        except (EngineError, NotFound) as error:
            self._lost.append(Gap(section="intent", netns=None, reason=str(error)))

    def _with_names(self, namespaces: dict[int, Namespace]) -> tuple[Namespace, ...]:
        """Return the namespaces, the one that a name was looked up in with what came of it."""
        lookup = self.lookup
        asks = lookup.question.src.netns if lookup is not None else None
        return tuple(
            replace(each, names=lookup) if lookup is not None and each.id == asks else each
            for each in namespaces.values()
        )

    def _snapshot(self, namespaces: dict[int, Namespace], gaps: dict[int, tuple[Gap, ...]]) -> Snapshot:
        intent = self._intents.all()
        host = namespaces.get(self.host.inode)
        if host is not None:
            namespaces = namespaces | {host.id: mark_held(host, intent)}
        system = os.uname()
        return Snapshot(
            host=Host(
                kernel=system.release,
                engine=", ".join(f"{each.name} {each.version}".strip() for each in intent.engines) or None,
                hostname=system.nodename,
            ),
            host_netns=self.host.inode,
            namespaces=self._with_names(namespaces),
            intent=intent,
            gaps=(
                *(Gap(section="intent", netns=None, reason=reason) for reason in self._intents.troubles),
                *self._lost,
                *(gap for each in gaps.values() for gap in each),
            ),
            taken_at_ns=self._taken_at_ns,
        )
