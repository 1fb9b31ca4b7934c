"""Live kernel and engines to Snapshot: resolves a question, then reads one namespace after the other, as asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from msgspec.structs import replace

from nettrace.collect.engines import Engine
from nettrace.collect.intents import Intents
from nettrace.collect.namespace import read_again, read_namespace
from nettrace.collect.netlink import Channel
from nettrace.collect.places import Place, Places
from nettrace.collect.resolve import Resolver
from nettrace.errors import EngineError, NamespaceGone, NotFound
from nettrace.model.base import Present, rows
from nettrace.model.flow import Flow, Proto
from nettrace.model.intent import Intent
from nettrace.model.snapshot import Gap, Host, Link, Namespace, Snapshot
from nettrace.netns import Netns, current

__all__ = ["Collector"]


class Collector:
    """Reads namespaces into a snapshot, each once, and holds every one of them open until it is closed.

    `engines` are asked instead of those that are found; `parallel` reads the namespaces of the flow side by side.
    """

    def __init__(self, *, engines: Sequence[Engine] | None = None, parallel: bool = True) -> None:
        self.host: Netns = current()
        self._parallel = parallel
        self._places = Places(self.host)
        self._intents = Intents(self._places, engines)
        self._channels: dict[int, Channel] = {}
        self._flow: Flow | None = None
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
        resolver = Resolver(self._places, self._intents, self._channel)
        self._flow = resolver.resolve(src, dst, proto=proto, dport=dport, size=size, family=family)
        return self._flow

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

    def snapshot(self) -> Snapshot:
        """Return everything read so far."""
        return self._snapshot(self._read, self._gaps)

    def read_after(self) -> Snapshot:
        """Read the same namespaces again, after the probe: rules and their counters, links, neighbours, conntrack.

        The other tables are carried over. A namespace that vanished meanwhile stays as it was, and leaves a gap.
        """
        after: dict[int, Namespace] = dict(self._read)
        gaps = dict(self._gaps)

        def again(ns: Netns) -> None:
            before = self._read[ns.inode]
            try:
                namespace, lacking = read_again(before, ns, self._channel(ns), flow=self._flow)
            except NamespaceGone as error:
                gaps[ns.inode] = (*gaps[ns.inode], Gap(section="namespace", netns=before.name, reason=str(error)))
                return
            if isinstance(namespace.links, Present):
                links = tuple(self._with_peer(ns.inode, link) for link in namespace.links.rows)
                namespace = replace(namespace, links=Present(rows=links))
            after[ns.inode] = namespace
            gaps[ns.inode] = lacking

        self._each([ns for inode in self._read if (ns := self._find(inode)) is not None], again)
        self._taken_at_ns = time.time_ns()
        return self._snapshot(after, gaps)

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

    def _each(self, namespaces: Sequence[Netns], work: Callable[[Netns], None]) -> None:
        """Do the work for every namespace, side by side when allowed; the first error is raised when all have ended."""
        if not self._parallel or len(namespaces) < 2:
            for ns in namespaces:
                work(ns)
            return
        errors: list[BaseException] = []

        def guarded(ns: Netns) -> None:
            try:
                work(ns)
            except BaseException as error:  # raised again below, in the caller's thread
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(ns,), daemon=True) for ns in namespaces]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _read_all(self, namespaces: Sequence[Netns]) -> None:
        fresh = [ns for ns in namespaces if ns.inode not in self._read]
        for ns in fresh:
            self._channel(ns)

        def first(ns: Netns) -> None:
            place = self._places.get(ns.inode)
            name, kind = (place.name, place.kind) if place is not None else (ns.label, "netns")
            try:
                namespace, lacking = read_namespace(ns, self._channel(ns), name=name, kind=kind, flow=self._flow)
            except NamespaceGone as error:
                self._lost.append(Gap(section="namespace", netns=name, reason=str(error)))
                return
            self._read[ns.inode] = namespace
            self._gaps[ns.inode] = lacking

        self._each(fresh, first)
        self._taken_at_ns = time.time_ns()
        for ns in fresh:
            if ns.inode in self._read:
                self._finish(ns)

    def _finish(self, ns: Netns) -> None:
        """Give a namespace its name, and the far ends of its links theirs."""
        namespace = self._read[ns.inode]
        self._find_peers(ns, rows(namespace.links))
        place = self._places.get(ns.inode)
        if place is not None and not place.named:
            self._name_by_engine(ns.inode, rows(namespace.links))
            place = self._places.get(ns.inode)
        links = namespace.links
        if isinstance(links, Present):
            links = Present(rows=tuple(self._with_peer(ns.inode, link) for link in links.rows))
        name = self._unique(place.name if place is not None else namespace.name, ns.inode)
        self._gaps[ns.inode] = tuple(replace(gap, netns=name) for gap in self._gaps[ns.inode])
        self._read[ns.inode] = replace(
            namespace,
            name=name,
            kind=place.kind if place is not None else namespace.kind,
            links=links,
            nsids={str(nsid): inode for nsid, inode in self._nsids.get(ns.inode, {}).items()},
        )

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

    def _snapshot(self, namespaces: dict[int, Namespace], gaps: dict[int, tuple[Gap, ...]]) -> Snapshot:
        intent = self._intents.all()
        system = os.uname()
        return Snapshot(
            host=Host(
                kernel=system.release,
                engine=", ".join(f"{each.name} {each.version}".strip() for each in intent.engines) or None,
                hostname=system.nodename,
            ),
            host_netns=self.host.inode,
            namespaces=tuple(namespaces.values()),
            intent=intent,
            gaps=(
                *(Gap(section="intent", netns=None, reason=reason) for reason in self._intents.troubles),
                *self._lost,
                *(gap for each in gaps.values() for gap in each),
            ),
            taken_at_ns=self._taken_at_ns,
        )
