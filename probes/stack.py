"""Hear what a namespace's own IP stack takes: raw sockets get a copy of every packet that is delivered locally.

A packet socket hears what a device hands up, and much can still happen to a packet behind it: generic XDP and tc
ingress, the chains of PREROUTING and INPUT, the reverse path filter. A raw socket hears what came through all of that
(raw_local_deliver in net/ipv4/raw.c, raw6_local_deliver in net/ipv6/raw.c). It does not look at checksums of IPv4
packets, so that is done here: the protocol behind it throws away what is wrong. Whether a checksum was left to a
device, only a packet socket tells.
"""

from __future__ import annotations

import errno
import socket
import struct
import time

from nettrace.errors import PrivilegeError
from nettrace.model.base import Model
from nettrace.model.flow import PROTO_NUMBER
from nettrace.model.observe import Receipt, SightingKind
from nettrace.wire.checksum import checksum_stands
from nettrace.wire.filter import delivery_filter
from nettrace.wire.parse import parse_frame
from nettrace.wire.token import RunToken
from probes.capture import attach, enlarge

__all__ = ["Arrival", "StackEar", "open_ear"]

# <asm-generic/socket.h>, <linux/sock_diag.h>, <linux/in6.h>, <linux/in.h>
_SO_TIMESTAMPNS, _SO_MEMINFO = 35, 55
_SK_MEMINFO_DROPS, _SK_MEMINFO_WORDS = 8, 9
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_IP_MTU_DISCOVER, _IP_PMTUDISC_INTERFACE = 10, 4
_TIMESPEC = struct.Struct("ll")
_PKTINFO = struct.Struct("16si")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_PKTINFO.size)
_BUFFER = 1 << 17
#: More packets than any run needs.
_MOST = 2000
#: ARPHRD_NONE: what begins with the IP header.
_RAW_IP = 65534
_PROBE, _ANSWERS = SightingKind.PROBE, (SightingKind.REPLY, SightingKind.RESET)


class Arrival(Model):
    """One packet of the run that a stack took. `sound`: its checksum is right, as it stands."""

    receipt: Receipt
    sound: bool


class StackEar:
    """One open ear for what a namespace's stack takes of a run. Use `hear`, `trouble` at the end, `close` always."""

    def __init__(self, netns: int, sock: socket.socket, run: RunToken) -> None:
        self.netns = netns
        self._sock = sock
        self._run = run
        self._heard = 0
        self._failure: str | None = None

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._sock.fileno()

    def hear(self) -> list[Arrival]:
        """Return what was taken since the last call, oldest first; never blocks."""
        fresh: list[Arrival] = []
        while self._failure is None:
            try:
                data, ancillary, _flags, address = self._sock.recvmsg(_BUFFER, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._failure = f"reading stopped: {error.strerror}"
                break
            self._heard += 1
            if self._heard > _MOST:
                self._failure = f"more than {_MOST} packets were taken"
                break
            arrival = self._understand(data, ancillary, str(address[0]))
            if arrival is not None:
                fresh.append(arrival)
        return fresh

    def _understand(self, data: bytes, ancillary: list[tuple[int, int, bytes]], source: str) -> Arrival | None:
        at_ns, target = 0, b""
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(value) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                at_ns = seconds * 1_000_000_000 + nanoseconds
            elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO) and len(value) >= _PKTINFO.size:
                target = _PKTINFO.unpack_from(value)[0]
        if self._run.family == 6:
            data = _with_header(data, PROTO_NUMBER[self._run.proto, 6], source, target)
        parsed = parse_frame(data, arp_type=_RAW_IP, run=self._run)
        if parsed is None or parsed.kind not in (_PROBE, *_ANSWERS):
            return None
        receipt = Receipt(kind=parsed.kind, at_ns=at_ns or time.time_ns(), nonce=parsed.nonce)
        return Arrival(receipt=receipt, sound=checksum_stands(data))

    def trouble(self) -> str | None:
        """Return why the silence of this ear means nothing; None when it does."""
        if self._failure is not None:
            return self._failure
        try:
            held = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _SK_MEMINFO_WORDS)
        except OSError as error:
            return None if error.errno == errno.ENOPROTOOPT else f"the socket could not be checked: {error.strerror}"
        lost = struct.unpack_from("=I", held, 4 * _SK_MEMINFO_DROPS)[0] if len(held) >= 4 * _SK_MEMINFO_WORDS else 0
        return f"the kernel dropped {lost} packets before they could be read" if lost else None

    def close(self) -> None:
        """Stop listening; closing twice is harmless."""
        self._sock.close()


def _with_header(data: bytes, proto: int, source: str, target: bytes) -> bytes:
    """Put back the IPv6 header that the kernel keeps (raw(7), ipv6(7)): addresses and protocol are as they were."""
    sender = socket.inet_pton(socket.AF_INET6, source.partition("%")[0])
    return struct.pack("!IHBB", 6 << 28, len(data), proto, 64) + sender + (target or bytes(16)) + data


def open_ear(netns: int, run: RunToken) -> StackEar:
    """Open an ear in the calling thread's namespace, whose inode `netns` is.

    Raises PrivilegeError without CAP_NET_RAW; OSError when the kernel has no such sockets (IPv6 switched off).
    """
    family = socket.AF_INET if run.family == 4 else socket.AF_INET6
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        sock = socket.socket(family, kind, PROTO_NUMBER[run.proto, run.family])
    except PermissionError as error:
        raise PrivilegeError(
            "not allowed to open a raw socket in a namespace on the way: run nettrace as root, or with CAP_NET_RAW"
        ) from error
    try:
        # Whatever came before the filter is not of the run, and is not understood as such.
        attach(sock, delivery_filter(run))
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if run.family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            # Errors reach every raw socket of the protocol: the host must not learn a path MTU from them (raw_err).
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_INTERFACE)
        enlarge(sock)
    except BaseException:
        sock.close()
        raise
    return StackEar(netns, sock, run)
