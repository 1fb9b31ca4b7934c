"""Pin a network namespace by file descriptor, and do something inside it.

A namespace is its inode: names and process ids are decoration, and process ids are reused. So a `Netns`
holds an open descriptor of ``/proc/<pid>/ns/net`` (or of a bind mount such as ``/run/netns/x``) from the
moment it is resolved; whatever is done later is done in that very namespace, or fails.

Every entry happens in a fresh thread that ends afterwards: a thread that has called setns(2) must never be
given other work, and the main thread must never move. See setns(2), network_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from nettrace.errors import NamespaceGone, NotFound, PrivilegeError

T = TypeVar("T")

__all__ = ["Netns", "current", "open_socket", "pin", "run_in"]


class Netns:
    """One network namespace, held open by a close-on-exec descriptor."""

    __slots__ = ("fd", "inode", "label")

    def __init__(self, fd: int, label: str) -> None:
        self.fd = fd
        self.inode = os.fstat(fd).st_ino
        self.label = label

    @property
    def path(self) -> str:
        """A path that other system calls and child processes of this process can open."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """Let go of the namespace; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Netns({self.label!r}, inode={self.inode})"


def pin(path: str, label: str | None = None) -> Netns:
    """Open the namespace behind a path, and keep it.

    Raises NotFound when nothing is there, PrivilegeError when it may not be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError) as error:
        raise NotFound(f"there is no network namespace at {path}") from error
    except PermissionError as error:
        raise PrivilegeError(
            f"not allowed to open {path}: run nettrace as root, or with CAP_SYS_PTRACE and CAP_SYS_ADMIN"
        ) from error
    return Netns(fd, label or path)


def current(label: str = "host") -> Netns:
    """Pin the namespace that this process was started in: the one that nettrace calls the host."""
    return pin("/proc/thread-self/ns/net", label)


class _Entry(threading.Thread, Generic[T]):
    """A thread that lives for one visit to one namespace."""

    def __init__(self, ns: Netns, work: Callable[[], T]) -> None:
        super().__init__(name=f"netns-{ns.inode}", daemon=True)
        self._ns = ns
        self._work = work
        self.result: T
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = _visit(self._ns, self._work)
        except BaseException as error:  # handed to the caller, whole
            self.error = error


def _visit(ns: Netns, work: Callable[[], T]) -> T:
    """Run `work` with the calling thread moved into the namespace."""
    from nsenter import Namespace  # here: it costs ctypes, pathlib and logging at import

    if ns.fd < 0:
        raise NamespaceGone(f"the namespace of {ns.label} was already let go")
    visit = Namespace(f"/proc/self/fd/{ns.fd}", "net")
    try:
        visit.__enter__()
    except PermissionError as error:
        raise PrivilegeError(
            f"not allowed to enter the network namespace of {ns.label}: run nettrace as root, or with CAP_SYS_ADMIN"
        ) from error
    except OSError as error:
        raise NamespaceGone(f"the network namespace of {ns.label} cannot be entered: {error}") from error
    try:
        inside = os.stat("/proc/thread-self/ns/net").st_ino
        if inside != ns.inode:
            raise NamespaceGone(f"entered namespace {inside} instead of {ns.inode} ({ns.label})")
        return work()
    finally:
        visit.__exit__(None, None, None)


def run_in(ns: Netns, work: Callable[[], T]) -> T:
    """Call `work` inside the namespace and return what it returns; its exceptions come through.

    Children that `work` starts inherit the namespace. Already being in the namespace costs no thread.
    """
    if os.stat("/proc/thread-self/ns/net").st_ino == ns.inode:
        return work()
    entry = _Entry(ns, work)
    entry.start()
    entry.join()
    if entry.error is not None:
        raise entry.error
    return entry.result


def open_socket(ns: Netns, family: int, kind: int, proto: int = 0) -> socket.socket:
    """Open a socket that belongs to the namespace for as long as it lives, wherever it is used."""
    try:
        return run_in(ns, lambda: socket.socket(family, kind | socket.SOCK_CLOEXEC, proto))
    except PermissionError as error:
        raise PrivilegeError(
            f"not allowed to open a raw socket in {ns.label}: run nettrace as root, or with CAP_NET_RAW"
        ) from error


@contextlib.contextmanager
def closing_all(namespaces: list[Netns]) -> Iterator[list[Netns]]:
    """Let go of every namespace in the list, whatever happens."""
    try:
        yield namespaces
    finally:
        for ns in namespaces:
            ns.close()
