"""Which process is behind a tun or tap device: rootless containers' networks end in one (slirp4netns, pasta).

A process that holds such a device has /dev/net/tun open, and its fdinfo names the device (tun_chr_show_fdinfo in
drivers/net/tun.c), but not the namespace. That is told by the process's own namespace, or by the namespace or process
that its arguments name, as rootless engines start these programs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nettrace.collect.places import netns_of

__all__ = ["find_reader"]

DEVICE = "/dev/net/tun"


def find_reader(netns: int, name: str) -> str | None:
    """Return who holds the device of that name in a namespace, as "slirp4netns (process 123)"; None when unknown."""
    holders = list(_holders(name))
    sure = [pid for pid in holders if netns in _namespaces_of(pid)]
    # Another namespace's device may have the same name: one alone is taken only when nobody says it is elsewhere.
    unsure = [pid for pid in holders if not _named(pid)]
    found = sure or (unsure if len(holders) == 1 else [])
    if not found:
        return None
    try:
        command = Path(f"/proc/{found[0]}/comm").read_text().strip()
    except OSError:
        return None
    return f"{command} (process {found[0]})"


def _holders(name: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and any(_iff(entry.name, fd) == name for fd in _fds(entry.name)):
            yield int(entry.name)


def _fds(pid: str) -> list[str]:
    """Return the descriptors of a process that are /dev/net/tun."""
    found = []
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                try:
                    if os.readlink(entry.path) == DEVICE:
                        found.append(entry.name)
                except OSError:
                    continue
    except OSError:
        pass
    return found


def _iff(pid: str, fd: str) -> str | None:
    try:
        lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("iff:")), None)


def _namespaces_of(pid: int) -> set[int]:
    own = netns_of(f"/proc/{pid}/ns/net")
    return _named(pid) | ({own} if own is not None else set())


def _named(pid: int) -> set[int]:
    """Return the network namespaces that a process's arguments name, by path or by another process."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[1:]
    except OSError:
        return set()
    paths = [f"/proc/{each}/ns/net" if each.isdigit() else each for each in arguments if each.isdigit() or "/" in each]
    return {inode for path in paths if (inode := _nsfs(path)) is not None}


def _nsfs(path: str) -> int | None:
    try:
        there, own = os.stat(path), os.stat("/proc/self/ns/net")
    except (OSError, ValueError):
        return None
    return there.st_ino if there.st_dev == own.st_dev else None
