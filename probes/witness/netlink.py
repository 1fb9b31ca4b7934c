"""The few pieces of netlink that the witnesses speak: messages, attributes, and one request with its answers.

Written out here because importing pyroute2's nftables and conntrack messages takes longer than a whole probe.
Sources: netlink(7), linux/netlink.h, linux/netfilter/nfnetlink.h. Numbers of netfilter are big-endian, the headers
of netlink are not.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from nettrace.errors import NettraceError
from nettrace.netns import Netns, run_in
from probes.witness.base import WitnessError

__all__ = [
    "NETLINK_NETFILTER",
    "NETLINK_ROUTE",
    "attr",
    "attributes",
    "message",
    "messages",
    "nest",
    "netfilter_message",
    "number",
    "open_netlink",
    "transact",
    "u32",
]

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
#: struct nfgenmsg, in front of the attributes of every netfilter message.
NFGENMSG_BYTES = 4

TIMEOUT_S = 5.0
BUFFER_BYTES = 1 << 17
ATTEMPTS = 5


def attr(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """Return one attribute that holds others."""
    return attr(kind | NLA_F_NESTED, b"".join(parts))


def u32(kind: int, value: int) -> bytes:
    """Return an attribute with a big-endian 32-bit number, as netfilter has them."""
    return attr(kind, struct.pack(">I", value & 0xFFFFFFFF))


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one netlink message."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def netfilter_message(kind: int, flags: int, sequence: int, family: int, body: bytes = b"", resource: int = 0) -> bytes:
    """Return one message of nfnetlink, with its struct nfgenmsg (version 0)."""
    return message(kind, flags, sequence, struct.pack(">BBH", family, 0, resource) + body)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, sequence, body) of every message of a datagram."""
    offset = 0
    while offset + HEADER.size <= len(data):
        size, kind, flags, sequence, _port = HEADER.unpack_from(data, offset)
        if size < HEADER.size or offset + size > len(data):
            return
        yield kind, flags, sequence, data[offset + HEADER.size : offset + size]
        offset += (size + 3) & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the payload of every attribute by its type; of several of one type, the last."""
    found: dict[int, bytes] = {}
    while offset + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, offset)
        if size < ATTRIBUTE.size or offset + size > len(data):
            break
        found[kind & NLA_TYPE_MASK] = data[offset + ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
    return found


def number(payload: bytes | None) -> int | None:
    """Return a big-endian number of any width; None when the attribute is absent."""
    return int.from_bytes(payload, "big") if payload is not None else None


def open_netlink(ns: Netns, protocol: int, *groups: int) -> socket.socket:
    """Open a netlink socket of the namespace, subscribed to multicast groups; raises WitnessError."""

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            sock.bind((0, sum(1 << (group - 1) for group in groups)))
        except BaseException:
            sock.close()
            raise
        return sock

    try:
        return run_in(ns, opened)
    except OSError as error:
        raise WitnessError(_reason(ns, error)) from error
    except NettraceError as error:
        raise WitnessError(str(error)) from error


def _reason(ns: Netns, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"the kernel asks for CAP_NET_ADMIN in {ns.label}"
    if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return f"this kernel has no netlink of that kind ({os.strerror(error.errno)})"
    return f"netlink in {ns.label} failed: {os.strerror(error.errno or errno.EIO)}"


def transact(sock: socket.socket, request: bytes, sequence: int) -> list[tuple[int, bytes]]:
    """Send one request (its flags ask for an ACK or a dump) and return (type, body) of each answer.

    A dump that changed while it was read is asked for again. Raises OSError with the kernel's errno, TimeoutError
    when it does not answer.
    """
    sock.settimeout(TIMEOUT_S)
    for _attempt in range(ATTEMPTS):
        sock.send(request)
        answers, whole = _answers(sock, sequence)
        if whole:
            return answers
    raise OSError(errno.EAGAIN, "the table kept changing while it was read")


def _answers(sock: socket.socket, sequence: int) -> tuple[list[tuple[int, bytes]], bool]:
    found: list[tuple[int, bytes]] = []
    whole = True
    while True:
        for kind, flags, of, body in messages(sock.recv(BUFFER_BYTES)):
            if of != sequence:
                continue
            whole = whole and not flags & NLM_F_DUMP_INTR
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                if code:
                    raise OSError(-code, os.strerror(-code))
                return found, whole
            if kind != NLMSG_NOOP:
                found.append((kind, body))
