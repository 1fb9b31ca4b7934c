"""Sockets that can receive: listening TCP and every bound UDP, of both families."""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from msgspec.structs import replace

from nettrace.collect.netlink import NETLINK_SOCK_DIAG, Channel, attribute
from nettrace.collect.proc import module_available, read_text
from nettrace.model.base import IPAddress
from nettrace.model.snapshot import Socket
from nettrace.netns import Netns

__all__ = ["parse_diag", "parse_inodes", "parse_peers", "parse_proc_net", "read_holders", "read_sockets"]

SOCK_DIAG_BY_FAMILY = 20
AF_INET, AF_INET6 = 2, 10
IPPROTO_TCP, IPPROTO_UDP = 6, 17
TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN = 1, 7, 10
INET_DIAG_SKV6ONLY = 11
DIAG_HEADER_BYTES = 16 + 72
STATES = {TCP_ESTABLISHED: "ESTAB", TCP_CLOSE: "UNCONN", TCP_LISTEN: "LISTEN"}


def read_sockets(ns: Netns) -> tuple[Socket, ...]:
    """Read the sockets of a namespace that can receive; must be called from inside it.

    sock_diag(7) names the bound device and IPV6_V6ONLY as well; where asking it would make the kernel load a module,
    /proc/net is read instead, which knows neither.
    """
    if module_available("tcp_diag") and module_available("udp_diag"):
        try:
            return _read_diag(ns)
        except OSError:
            # Kernels without CONFIG_INET_DIAG answer ENOENT: /proc has most of it.
            return _read_proc()
    return _read_proc()


def _read_diag(ns: Netns) -> tuple[Socket, ...]:
    found: list[Socket] = []
    with Channel(ns, NETLINK_SOCK_DIAG) as channel:
        for protocol, states in ((IPPROTO_TCP, 1 << TCP_LISTEN), (IPPROTO_UDP, 1 << TCP_CLOSE | 1 << TCP_ESTABLISHED)):
            for family in (AF_INET, AF_INET6):
                body = struct.pack("=BBBxI48x", family, protocol, 0, states)
                name = "tcp" if protocol == IPPROTO_TCP else "udp"
                found += [parse_diag(message, name) for message in channel.dump(SOCK_DIAG_BY_FAMILY, body)]
    return tuple(socket for socket in found if socket.port)


def parse_diag(message: bytes, proto: str) -> Socket:
    """Turn one struct inet_diag_msg, netlink header included, into a Socket."""
    family, state = message[16], message[17]
    (port,) = struct.unpack_from(">H", message, 20)
    address: IPAddress = IPv4Address(message[24:28]) if family == AF_INET else IPv6Address(message[24:40])
    (ifindex,) = struct.unpack_from("=I", message, 56)
    (uid,) = struct.unpack_from("=I", message, 80)
    only = attribute(message, INET_DIAG_SKV6ONLY, offset=DIAG_HEADER_BYTES)
    return Socket(
        proto=proto,
        family=4 if family == AF_INET else 6,
        address=address,
        port=port,
        state=STATES.get(state, str(state)),
        ifindex=ifindex or None,
        v6only=bool(only and only[0]),
        uid=uid,
    )


def _read_proc() -> tuple[Socket, ...]:
    found: list[Socket] = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        try:
            found += parse_proc_net(read_text(f"/proc/thread-self/net/{name}"), name)
        except FileNotFoundError:
            # IPv6 is compiled out or switched off at boot.
            if not name.endswith("6"):
                raise
    return tuple(found)


def parse_proc_net(text: str, name: str) -> list[Socket]:
    """Parse /proc/net/tcp, tcp6, udp or udp6 (`name`), keeping listening TCP and bound UDP sockets.

    Addresses are 32-bit words in the machine's byte order, ports hexadecimal numbers (proc(5)).
    """
    proto, family = name.rstrip("6"), 6 if name.endswith("6") else 4
    wanted = {TCP_LISTEN} if proto == "tcp" else {TCP_CLOSE, TCP_ESTABLISHED}
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or int(fields[3], 16) not in wanted:
            continue
        host, _, port = fields[1].partition(":")
        if not int(port, 16):
            continue
        state = STATES[int(fields[3], 16)]
        uid = int(fields[7])
        found.append(
            Socket(proto=proto, family=family, address=_hex_address(host), port=int(port, 16), state=state, uid=uid)
        )
    return found


def read_holders(sockets: tuple[Socket, ...], proto: str, port: int) -> tuple[Socket, ...]:
    """Return the sockets, those on one port with the names of the programs that hold them.

    Must be called from inside their namespace. Programs of other users stay unknown without the right to see them.
    """
    if not any((each.proto, each.port) == (proto, port) for each in sockets):
        return sockets
    inodes: dict[IPAddress, int] = {}
    for name in (proto, f"{proto}6"):
        with suppress(OSError):
            inodes |= parse_inodes(read_text(f"/proc/thread-self/net/{name}"), port)
    holders = _holders(frozenset(inodes.values()))
    return tuple(
        replace(each, process=holders.get(inodes.get(each.address, 0), ()))
        if (each.proto, each.port) == (proto, port)
        else each
        for each in sockets
    )


def _holders(inodes: frozenset[int]) -> dict[int, tuple[str, ...]]:
    """Return the name of a program that has a descriptor of each socket, by its inode."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    lacking = set(inodes)
    found: dict[int, tuple[str, ...]] = {}
    with os.scandir("/proc") as entries:
        pids = [entry.name for entry in entries if entry.name.isdigit()]
    for pid in pids:
        if not lacking:
            break
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as links:
            for link in links:
                with suppress(OSError):
                    inode = wanted.get(os.readlink(link.path))
                    if inode is not None:
                        name = read_text(f"/proc/{pid}/comm").strip()
                        found[inode] = tuple(dict.fromkeys((*found.get(inode, ()), name)))
                        lacking.discard(inode)
    return found


def parse_inodes(text: str, port: int) -> dict[IPAddress, int]:
    """Return the inode of each socket of /proc/net/tcp, udp (or 6) that is bound to a port and sends to nobody."""
    found = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or int(fields[3], 16) not in (TCP_LISTEN, TCP_CLOSE):
            continue
        host, _, number = fields[1].partition(":")
        if int(number, 16) == port:
            found[_hex_address(host)] = int(fields[9])
    return found


def parse_peers(text: str) -> list[tuple[IPAddress, int]]:
    """Return whom the connected sockets of /proc/net/udp or udp6 send to: address and port."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 4 and int(fields[3], 16) == TCP_ESTABLISHED:
            host, _, port = fields[2].partition(":")
            found.append((_hex_address(host), int(port, 16)))
    return found


def _hex_address(text: str) -> IPAddress:
    order = "<" if sys.byteorder == "little" else ">"
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    data = struct.pack(f"{order}{len(words)}I", *words)
    return IPv4Address(data) if len(data) == 4 else IPv6Address(data)
