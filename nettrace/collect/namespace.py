"""Read one namespace: every table of it, in one visit, while the netfilter tools run beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from nettrace.collect.conntrack import read_conntrack
from nettrace.collect.links import read_links, read_queue_drops
from nettrace.collect.netfilter import Listing
from nettrace.collect.netlink import Channel
from nettrace.collect.proc import read_counters, read_sysctls
from nettrace.collect.routes import read_addresses, read_fdb, read_neighbours, read_routes, read_rules
from nettrace.collect.sockets import read_sockets
from nettrace.model.base import Missing, Present, Values, rows
from nettrace.model.flow import Flow
from nettrace.model.snapshot import ConntrackEntry, Gap, Link, Namespace
from nettrace.netns import Netns, run_in

__all__ = ["begin_listing", "read_again", "read_namespace", "read_outline"]

T = TypeVar("T")


class _Visit:
    """One visit to one namespace, and what could not be read in it."""

    def __init__(self, ns: Netns, channel: Channel, name: str, flow: Flow | None) -> None:
        self.ns, self.channel, self.name, self.flow = ns, channel, name, flow
        self.gaps: list[Gap] = []

    def gap(self, section: str, reason: str) -> Missing:
        """Write down that a section could not be read."""
        self.gaps.append(Gap(section=section, netns=self.name, reason=reason))
        return Missing(reason=reason)

    def table(self, section: str, read: Callable[[], tuple[T, ...]]) -> Present[T] | Missing:
        """Read one table; an error becomes Missing and a gap. PrivilegeError comes through."""
        try:
            return Present(rows=read())
        except OSError as error:
            return self.gap(section, error.strerror or str(error))

    def values(self, section: str, read: Callable[[], dict[str, T]]) -> Values[T] | Missing:
        """Read one set of named values, in the same manner."""
        try:
            return Values(values=read())
        except OSError as error:
            return self.gap(section, error.strerror or str(error))

    def conntrack(self) -> Present[ConntrackEntry] | Missing:
        """Read the flow's conntrack entries."""
        if self.flow is None:
            return Missing(reason="no flow to look for")
        try:
            found = read_conntrack(self.ns, self.flow)
        except OSError as error:
            return self.gap("conntrack", error.strerror or str(error))
        return self.gap("conntrack", found.reason) if isinstance(found, Missing) else found


def begin_listing(ns: Netns) -> Listing:
    """Start the tools that list a namespace's rules, so that they run while tables are read, here or elsewhere.

    Raises PrivilegeError, NamespaceGone.
    """
    listing = Listing()
    try:
        run_in(ns, lambda: listing.start(ns))
    except BaseException:
        listing.cancel()
        raise
    return listing


def read_namespace(
    ns: Netns, channel: Channel, *, name: str, kind: str, flow: Flow | None = None, listing: Listing | None = None
) -> tuple[Namespace, tuple[Gap, ...]]:
    """Read every table of a namespace; `channel` is a netlink socket that was opened in it.

    `listing` is that of its rules, if it was begun already; it is ended here in any case. What cannot be read becomes
    Missing with its reason, and a gap. Raises PrivilegeError, NamespaceGone.
    """
    visit = _Visit(ns, channel, name, flow)
    listing = listing or begin_listing(ns)

    def work() -> Namespace:
        try:
            device_sysctls: dict[str, str] = {}

            def links() -> tuple[Link, ...]:
                found, sysctls = read_links(channel, inside=True)
                device_sysctls.update(sysctls)
                return found

            read = visit.table("links", links)
            vxlans = frozenset(link.ifindex for link in rows(read) if link.vxlan is not None)
            return Namespace(
                id=ns.inode,
                name=name,
                kind=kind,
                links=read,
                addresses=visit.table("addresses", lambda: read_addresses(channel)),
                routes=visit.table("routes", lambda: read_routes(channel)),
                rules=visit.table("rules", lambda: read_rules(channel)),
                neighbours=visit.table("neighbours", lambda: read_neighbours(channel)),
                fdb=visit.table("fdb", lambda: read_fdb(channel, vxlans)),
                sockets=visit.table("sockets", lambda: read_sockets(ns)),
                conntrack=visit.conntrack(),
                sysctls=visit.values("sysctls", lambda: read_sysctls() | device_sysctls),
                counters=visit.values("counters", lambda: read_counters() | read_queue_drops(channel)),
                netfilter=listing.result(),
            )
        finally:
            listing.cancel()
            visit.gaps += [Gap(section="netfilter", netns=name, reason=reason) for reason in listing.reasons]

    namespace = run_in(ns, work)
    return namespace, tuple(visit.gaps)


def read_again(
    before: Namespace, ns: Netns, channel: Channel, *, flow: Flow | None = None, listing: Listing | None = None
) -> tuple[Namespace, tuple[Gap, ...]]:
    """Read what a probe may have changed: links, neighbours, conntrack, counters, and the rules with theirs.

    Everything else is carried over. Raises as `read_namespace` does.
    """
    visit = _Visit(ns, channel, before.name, flow)
    listing = listing or begin_listing(ns)

    def work() -> Namespace:
        try:
            return replace(
                before,
                links=visit.table("links", lambda: read_links(channel, inside=True)[0]),
                neighbours=visit.table("neighbours", lambda: read_neighbours(channel)),
                conntrack=visit.conntrack(),
                counters=visit.values("counters", lambda: read_counters() | read_queue_drops(channel)),
                netfilter=listing.result(),
            )
        finally:
            listing.cancel()
            visit.gaps += [Gap(section="netfilter", netns=before.name, reason=reason) for reason in listing.reasons]

    namespace = run_in(ns, work)
    return namespace, tuple(visit.gaps)


def read_outline(ns: Netns, channel: Channel, *, name: str, kind: str) -> tuple[Namespace, tuple[Gap, ...]]:
    """Read what hangs on what in a namespace: its links, addresses and default routes, and nothing else."""
    visit = _Visit(ns, channel, name, None)
    namespace = Namespace(
        id=ns.inode,
        name=name,
        kind=kind,
        links=visit.table("links", lambda: read_links(channel)[0]),
        addresses=visit.table("addresses", lambda: read_addresses(channel)),
        routes=visit.table("routes", lambda: read_routes(channel, defaults=True)),
    )
    return namespace, tuple(visit.gaps)
