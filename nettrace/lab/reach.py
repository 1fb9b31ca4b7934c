"""Ask the kernel itself whether a flow works in a lab: the plain truth that faults and diagnoses are held against."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Sequence

from nettrace import netns

__all__ = ["reaches"]

#: From linux/in.h and linux/in6.h; Python's socket module does not name them.
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2
DNS_QUERY = b"\x4e\x54\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01"


def reaches(
    namespace: str,
    address: str,
    *,
    proto: str = "icmp",
    port: int | None = None,
    size: int | None = None,
    timeout_s: float = 1.0,
) -> bool:
    """Tell whether a namespace gets an answer from an address.

    ICMP sends one echo request, TCP connects, UDP asks the lab's DNS or echo server; `size` is the IP length of the
    echo request, sent with DF set. An error that the kernel reports is a no.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.pin(namespace) as ns:
        try:
            if proto == "icmp":
                return _echo(ns, family, address, size, timeout_s)
            kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
            with netns.open_socket(ns, family, kind) as sock:
                sock.settimeout(timeout_s)
                sock.connect((address, port or 0))
                if proto == "udp":
                    sock.send(DNS_QUERY)
                    sock.recv(4096)
                return True
        except (TimeoutError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
                raise
            return False


def _echo(ns: netns.Netns, family: int, address: str, size: int | None, timeout_s: float) -> bool:
    """Send one echo request and wait for its own reply."""
    six = family == socket.AF_INET6
    header = 40 if six else 20
    nonce = os.urandom(8)
    # A fresh id and sequence, lest an older conntrack entry answer for today's rules.
    body = os.urandom(4) + nonce.ljust(max(56, (size or 0) - header - 8), b".")
    request, reply = (128, 129) if six else (8, 0)
    packet = bytes((request, 0)) + b"\0\0" + body
    packet = packet[:2] + (b"\0\0" if six else _checksum(packet)) + packet[4:]
    with netns.open_socket(ns, family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP) as sock:
        if size is not None:
            level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if six else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
            sock.setsockopt(level, option, PMTUDISC_DO)
        sock.connect((address, 0))
        sock.send(packet)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            data = sock.recv(65535)[0 if six else 20 :]
            if data[0] == reply and data[8:16] == nonce:
                return True
    return False


def _checksum(data: Sequence[int]) -> bytes:
    """Return the Internet checksum (RFC 1071) of bytes of even length."""
    total = sum((data[i] << 8) + (data[i + 1] if i + 1 < len(data) else 0) for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")
