"""Ask the kernel over netlink: one socket a namespace, whole dumps or an error, never a part of one.

The sockets are plain and synchronous, opened inside the namespace by `nettrace.netns`; what comes back is the bytes
of each message, header included, which the parse_* functions of this package turn into the vocabulary. A dump that
changed while it was read carries NLM_F_DUMP_INTR and is asked for again. See netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType

from nettrace.errors import PrivilegeError
from nettrace.netns import Netns, open_socket

__all__ = ["NETLINK_NETFILTER", "NETLINK_ROUTE", "NETLINK_SOCK_DIAG", "Channel", "attribute", "attributes"]

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4
NETLINK_NETFILTER = 12

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
NLA_TYPE_MASK = 0x3FFF

#: How often a dump is asked for again when the table keeps changing under it.
ATTEMPTS = 5
TIMEOUT_S = 5.0
#: The kernel makes dump messages of at most 32 KiB, or as large as the last read was.
BUFFER_BYTES = 1 << 17


class Interrupted(OSError):
    """The table changed during every one of the dumps that were tried."""


class Channel:
    """One netlink socket of one namespace, usable from any thread, by one at a time."""

    def __init__(self, ns: Netns, protocol: int = NETLINK_ROUTE) -> None:
        self._label = ns.label
        self._socket = open_socket(ns, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.settimeout(TIMEOUT_S)
        self._buffer = bytearray(BUFFER_BYTES)
        self._sequence = itertools.count(1)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; closing twice is harmless."""
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return every message of a table; `kind` is the RTM_GET… type, `body` its header and attributes.

        Raises OSError with the kernel's errno, PrivilegeError for EPERM, Interrupted when the table never held still.
        """
        for _attempt in range(ATTEMPTS):
            messages, whole = self._transact(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
            if whole:
                return messages
        raise Interrupted(errno.EAGAIN, f"the table kept changing during {ATTEMPTS} dumps")

    def ask(self, kind: int, body: bytes) -> bytes:
        """Return the one message that answers a request.

        Raises OSError with the kernel's errno, PrivilegeError for EPERM.
        """
        messages, _whole = self._transact(kind, NLM_F_REQUEST | NLM_F_ACK, body)
        if not messages:
            raise OSError(errno.ENODATA, "the kernel acknowledged without an answer")
        return messages[0]

    def _transact(self, kind: int, flags: int, body: bytes) -> tuple[list[bytes], bool]:
        sequence = next(self._sequence)
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body)
        messages: list[bytes] = []
        whole = True
        while True:
            length = self._socket.recv_into(self._buffer)
            data = bytes(memoryview(self._buffer)[:length])
            offset = 0
            while offset + HEADER.size <= length:
                size, of, with_flags, answers, _port = HEADER.unpack_from(data, offset)
                if size < HEADER.size:
                    raise OSError(errno.EBADMSG, "netlink message shorter than its header")
                if answers == sequence:
                    whole = whole and not with_flags & NLM_F_DUMP_INTR
                    if of == NLMSG_DONE:
                        self._raise_for(struct.unpack_from("=i", data, offset + HEADER.size)[0] if size >= 20 else 0)
                        return messages, whole
                    if of == NLMSG_ERROR:
                        self._raise_for(struct.unpack_from("=i", data, offset + HEADER.size)[0])
                        return messages, whole
                    messages.append(data[offset : offset + size])
                offset += (size + 3) & ~3

    def _raise_for(self, code: int) -> None:
        if code == 0:
            return
        if -code == errno.EPERM:
            raise PrivilegeError(
                f"not allowed to read the network of {self._label}: run nettrace as root, or with CAP_NET_ADMIN"
            )
        raise OSError(-code, os.strerror(-code))


def attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (type, payload) of every attribute in a run of them that starts at `offset` (struct nlattr)."""
    end = len(data)
    while offset + ATTRIBUTE.size <= end:
        size, kind = ATTRIBUTE.unpack_from(data, offset)
        if size < ATTRIBUTE.size or offset + size > end:
            return
        yield kind & NLA_TYPE_MASK, data[offset + ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3


def attribute(data: bytes, *path: int, offset: int = 0) -> bytes | None:
    """Return the payload of an attribute, nested ones by their path of types; None when it is absent."""
    for wanted in path:
        for kind, payload in attributes(data, offset):
            if kind == wanted:
                data, offset = payload, 0
                break
        else:
            return None
    return data
