"""Where network namespaces can be found: by name, by engine, by process; each pinned once, known by its inode.

The other end of a veth pair is told by the kernel as an id that only the asking namespace understands (nsid).
RTM_GETNSID translates the other way round, from an open namespace to its id, so candidates are offered one by one
until all ids have a face. See ip-netns(8), rtnl_net_getid in net/core/net_namespace.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from nettrace.collect.netlink import Channel, attribute
from nettrace.errors import NotFound, PrivilegeError
from nettrace.model.base import Model
from nettrace.netns import Netns, pin

__all__ = ["Place", "Places", "netns_of", "read_nsid"]

RTM_GETNSID = 90
NETNSA_NSID, NETNSA_FD = 1, 3
RUN_NETNS = "/run/netns"


class Place(Model):
    """A path that opens a namespace, and what to call it. `kind`: host, container, overlay or netns.

    `named` is false when the name only says how it was found (a sandbox key, a process).
    """

    inode: int
    path: str
    name: str
    kind: str = "netns"
    named: bool = True


def netns_of(path: str) -> int | None:
    """Return the inode of the namespace behind a path, None when there is none (any more)."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


class Places:
    """Every namespace that was met, and every pin; the pins are let go together."""

    def __init__(self, host: Netns) -> None:
        self.host = host
        self._pins: dict[int, Netns] = {host.inode: host}
        self._places: dict[int, Place] = {
            host.inode: Place(inode=host.inode, path=host.path, name="host", kind="host"),
        }
        self._listed: set[str] = set()
        self._scanned = False

    def close(self) -> None:
        """Let go of every pinned namespace."""
        for ns in self._pins.values():
            ns.close()

    def add(self, place: Place) -> None:
        """Remember a place: a container's name beats any other name, and a name the mere way it was found."""
        known = self._places.get(place.inode)
        if known is None or _worth(place) > _worth(known):
            self._places[place.inode] = place

    def all(self) -> tuple[Place, ...]:
        """Return every place that is known."""
        return tuple(self._places.values())

    def get(self, inode: int) -> Place | None:
        """Return what is known of a namespace."""
        return self._places.get(inode)

    def pinned(self, inode: int) -> Netns | None:
        """Return the namespace held open; opens it when a place for it is known and still leads there."""
        ns = self._pins.get(inode)
        if ns is not None:
            return ns
        place = self._places.get(inode)
        if place is None:
            return None
        try:
            ns = pin(place.path, place.name)
        except NotFound:
            return None
        if ns.inode != inode:
            ns.close()
            return None
        self._pins[inode] = ns
        return ns

    def open(self, path: str, name: str, kind: str = "netns", *, named: bool = True) -> Netns:
        """Pin the namespace behind a path and remember it; raises NotFound, PrivilegeError."""
        ns = pin(path, name)
        known = self._pins.get(ns.inode)
        if known is not None:
            ns.close()
            ns = known
        else:
            self._pins[ns.inode] = ns
        self.add(Place(inode=ns.inode, path=path, name=name, kind=kind, named=named))
        return ns

    def list_folder(self, folder: str, *, sandboxes: bool = False) -> None:
        """Remember every namespace in a folder; `sandboxes`: an engine's, whose names mean nothing to people.

        Docker keeps the hidden namespaces of overlay networks ("1-<network id>"), load balancers ("lb_…") and of
        swarm's ingress beside the sandbox keys of its containers.
        """
        real = os.path.realpath(folder)
        if real in self._listed:
            return
        self._listed.add(real)
        device = os.stat("/proc/thread-self/ns/net").st_dev
        for name in _names(real):
            path = f"{real}/{name}"
            try:
                there = os.stat(path)
            except OSError:
                continue
            # A file that nothing is mounted on is left over from a namespace: nsfs has a device of its own.
            if there.st_dev != device or (sandboxes and name == "default"):
                continue
            hidden = sandboxes and (name[1:2] == "-" or name.startswith("lb_") or name == "ingress_sbox")
            kind, named = ("overlay" if hidden else "netns"), hidden or not sandboxes
            self.add(Place(inode=there.st_ino, path=path, name=name, kind=kind, named=named))

    def scan_processes(self) -> None:
        """Remember the namespaces of all processes: the last resort, done once."""
        if self._scanned:
            return
        self._scanned = True
        with os.scandir("/proc") as entries:
            names = [entry.name for entry in entries if entry.name.isdigit()]
        for name in names:
            path = f"/proc/{name}/ns/net"
            inode = netns_of(path)
            if inode is not None and inode not in self._places:
                self.add(Place(inode=inode, path=path, name=f"pid:{name}", named=False))

    def find_peers(self, channel: Channel, wanted: Iterable[int]) -> dict[int, int]:
        """Return the inode behind each nsid of the channel's namespace, for those that can be found."""
        lacking = set(wanted)
        found: dict[int, int] = {}
        for inode, fd in self._candidates():
            if not lacking:
                break
            nsid = read_nsid(channel, fd)
            if nsid is not None and nsid in lacking:
                found[nsid] = inode
                lacking.discard(nsid)
        return found

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """Yield (inode, open descriptor) of every namespace that is known, those held open first."""
        offered = set(self._pins)
        for inode, ns in list(self._pins.items()):
            yield inode, ns.fd
        for inode, place in list(self._places.items()):
            if inode in offered:
                continue
            try:
                ns = pin(place.path, place.name)
            except (NotFound, PrivilegeError):
                continue
            with ns:
                if ns.inode == inode:
                    yield inode, ns.fd


def _worth(place: Place) -> int:
    return {"host": 3, "container": 2}.get(place.kind, 1) if place.named else 0


def _names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; none when it is not there or not for us."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except OSError:
        return []


def read_nsid(channel: Channel, fd: int) -> int | None:
    """Return the id that the channel's namespace has for the open namespace `fd`, None when it has none."""
    body = struct.pack("=Bxxx", 0) + struct.pack("=HHI", 8, NETNSA_FD, fd)
    try:
        answer = channel.ask(RTM_GETNSID, body)
    except OSError:
        return None
    payload = attribute(answer, NETNSA_NSID, offset=20)
    if payload is None:
        return None
    nsid: int = struct.unpack("=i", payload)[0]
    return nsid if nsid >= 0 else None


def run_netns(name: str) -> str:
    """Return the path of a namespace by its name for ip-netns(8)."""
    return str(Path(RUN_NETNS, name))
