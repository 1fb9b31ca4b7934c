"""Send probes at layer 3, from sockets of the source's own namespace.

So the packet meets the source's routes, OUTPUT chains and neighbours, as an application's would. The source address
is the one that the kernel chooses for a connected socket (ip_route_connect), and every socket is bound to it, so that
policy rules that ask for the source see it. Ports are held by bound sockets for as long as the run lasts: no other
process can get them, the UDP answer finds an owner, and the SYN-ACK meets a port that does not listen, whereupon the
kernel resets the half-open connection. What sendto(2) says is an answer, not an error.

Known limits: a TCP SYN goes out by a raw socket, so that `ip rule` selectors for ports do not see them, nor those for
the protocol before Linux 6.4, and neither do per-user rules.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from ipaddress import IPv6Address, ip_address

from nettrace.errors import PrivilegeError
from nettrace.model.base import IPAddress
from nettrace.model.flow import PROTO_NUMBER, Proto
from nettrace.model.observe import Sent
from nettrace.wire.build import IP_HEADER, build_probe
from nettrace.wire.token import RunToken
from probes.builder import BuildProbe
from probes.plan import Injection

__all__ = ["Injector", "open_injector"]

# <linux/in.h>, <linux/in6.h>, <linux/icmp.h>, <linux/icmpv6.h>.
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_IPV6_MTU_DISCOVER, _IPV6_DONTFRAG, _IPV6_HDRINCL = 23, 62, 36
_SOL_RAW, _ICMP_FILTER = 255, 1
_SOL_ICMPV6, _ICMPV6_FILTER = 58, 1
#: <linux/in.h>: names the protocol of a packet that brings its own header, to routing and policy (Linux 6.4).
_IP_PROTOCOL = 52
_NOT_ALLOWED = "not allowed to open a raw socket in the source's namespace: run nettrace as root, or with CAP_NET_RAW"
#: Port that the source address is asked for, where the flow has none; nothing is sent to it.
_ANY_PORT = 9

_SocketAddress = tuple[str, int] | tuple[str, int, int, int]


class Injector:
    """The open sockets of one run's source. `token` knows the ports that the kernel gave.

    `refusal` is the error number when the kernel would not even choose a source address; every probe is then refused
    with it.
    """

    def __init__(self, injection: Injection, token: RunToken, build: BuildProbe) -> None:
        self.injection = injection
        self._build = build
        self.token = token
        self.source: IPAddress | None = None
        self.refusal: int | None = None
        self._family = socket.AF_INET if injection.family == 4 else socket.AF_INET6
        self._stack = contextlib.ExitStack()
        self._senders: list[socket.socket] = []
        self._packets: dict[int, bytes] = {}
        self._scope = 0
        self._tells_protocol = True

    def open(self) -> None:
        """Open and bind every socket, in the calling thread's namespace; see `open_injector`."""
        try:
            self._scope = self._find_scope()
            self.source = self._choose_source()
            self._reserve()
        except OSError as error:
            self.refusal = error.errno or errno.EIO

    def close(self) -> None:
        """Give the ports back; closing twice is harmless."""
        self._stack.close()

    def _socket(self, kind: int, proto: int = 0) -> socket.socket:
        try:
            return self._stack.enter_context(socket.socket(self._family, kind | socket.SOCK_CLOEXEC, proto))
        except PermissionError as error:
            raise PrivilegeError(_NOT_ALLOWED) from error

    def _find_scope(self) -> int:
        """The device that a link-local destination is on; 0 for all others."""
        dst = self.injection.dst
        if not isinstance(dst, IPv6Address) or not dst.is_link_local:
            return 0
        if dst.scope_id is None:
            return self.injection.oif or 0
        return int(dst.scope_id) if dst.scope_id.isdigit() else socket.if_nametoindex(dst.scope_id)

    def _address(self, address: IPAddress, port: int) -> _SocketAddress:
        text = str(address).partition("%")[0]
        return (text, port) if self.injection.family == 4 else (text, port, 0, self._scope)

    def _choose_source(self) -> IPAddress:
        """Ask the kernel which source address it takes: connecting such a socket sends nothing (udp(7), raw(7)).

        It is one of the probe's own protocol, as policy rules may ask for that.
        """
        with self._asking_socket() as asking:
            asking.connect(self._address(self.injection.dst, self.injection.dport or _ANY_PORT))
            return ip_address(str(asking.getsockname()[0]).partition("%")[0])

    def _asking_socket(self) -> socket.socket:
        proto = PROTO_NUMBER[self.injection.proto, self.injection.family]
        kind = socket.SOCK_DGRAM if self.injection.proto is Proto.UDP else socket.SOCK_RAW
        try:
            return socket.socket(self._family, kind | socket.SOCK_CLOEXEC, proto)
        except PermissionError as error:
            raise PrivilegeError(_NOT_ALLOWED) from error

    def _reserve(self) -> None:
        proto, source = self.injection.proto, self.source
        assert source is not None
        if proto is Proto.ICMP:
            self._senders = [self._echo_socket(source)]
            return
        kind = socket.SOCK_DGRAM if proto is Proto.UDP else socket.SOCK_STREAM
        holders: list[socket.socket] = []
        for _ in range(1 if self.injection.sport is not None else self.token.count):
            holder = self._socket(kind)
            holder.bind(self._address(source, self.injection.sport or 0))
            holders.append(holder)
        ports = tuple(int(holder.getsockname()[1]) for holder in holders)
        self.token = self.token.with_ports(ports)
        if proto is Proto.UDP:
            self._senders = holders
            for holder in holders:
                self._forbid_fragments(holder)
        else:
            self._senders = [self._raw_socket(source)]

    def _echo_socket(self, source: IPAddress) -> socket.socket:
        """A raw ICMP socket that hears nothing: the captures listen, and this queue would only fill up."""
        if self.injection.family == 4:
            sock = self._socket(socket.SOCK_RAW, socket.IPPROTO_ICMP)
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("I", 0xFFFFFFFF))
        else:
            sock = self._socket(socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            sock.setsockopt(_SOL_ICMPV6, _ICMPV6_FILTER, b"\xff" * 32)
        self._forbid_fragments(sock)
        sock.bind(self._address(source, 0))
        return sock

    def _raw_socket(self, source: IPAddress) -> socket.socket:
        """A socket that takes whole IP packets; IPPROTO_RAW receives nothing (raw(7))."""
        sock = self._socket(socket.SOCK_RAW, socket.IPPROTO_RAW)
        if self.injection.family == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        self._forbid_fragments(sock)
        sock.bind(self._address(source, 0))
        return sock

    def _forbid_fragments(self, sock: socket.socket) -> None:
        """Set DF where a size was asked for; only the device may refuse, not what ICMP taught before."""
        if self.injection.size is None:
            return
        if self.injection.family == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)

    def packet(self, number: int) -> bytes:
        """Return a probe as a whole IP packet, as it will leave the source (the kernel may set its id and TTL).

        Raises ValueError when the size asked for cannot hold it.
        """
        if number not in self._packets:
            sports = self.token.sports
            self._packets[number] = self._build(
                self.token,
                number,
                src=self.source or self.injection.source or self.injection.dst,
                dst=self.injection.dst,
                sport=sports[number % len(sports)] if sports else None,
                dport=self.injection.dport,
                size=self.injection.size,
            )
        return self._packets[number]

    def send(self, number: int) -> Sent:
        """Send one probe, and return what the kernel said."""
        refusal = self.refusal
        at_ns = time.time_ns()
        if refusal is None:
            sender = self._senders[number % len(self._senders)]
            data, port = self._layer(self.packet(number))
            at_ns = time.time_ns()
            try:
                self._hand_over(sender, data, self._address(self.injection.dst, port))
            except OSError as error:
                refusal = error.errno or errno.EIO
        return Sent(nonce=number, at_ns=at_ns, errno=refusal)

    def _hand_over(self, sender: socket.socket, data: bytes, address: _SocketAddress) -> None:
        """Send; of a whole IPv4 packet the kernel is told the protocol, lest its policy rules take it for RAW."""
        if self.injection.proto is Proto.TCP and self.injection.family == 4 and self._tells_protocol:
            told = (socket.IPPROTO_IP, _IP_PROTOCOL, struct.pack("i", socket.IPPROTO_TCP))
            try:
                sender.sendmsg([data], [told], 0, address)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._tells_protocol = False  # an older kernel: no such message
            else:
                return
        sender.sendto(data, address)

    def _layer(self, packet: bytes) -> tuple[bytes, int]:
        """What the socket is given of the packet, and the port of its address."""
        header = IP_HEADER[self.injection.family]
        if self.injection.proto is Proto.TCP:
            # For IPv6 the port of the address is the protocol (rawv6_sendmsg).
            return packet, 0 if self.injection.family == 4 else socket.IPPROTO_TCP
        if self.injection.proto is Proto.ICMP:
            return packet[header:], 0
        return packet[header + 8 :], self.injection.dport or 0


def open_injector(injection: Injection, token: RunToken, build: BuildProbe = build_probe) -> Injector:
    """Open the sockets of a run's source in the calling thread's namespace.

    What the kernel refuses on the way (no route, no such address, port taken) becomes the injector's `refusal`.
    Raises PrivilegeError without CAP_NET_RAW, NamespaceGone comes from the caller's entering.
    """
    injector = Injector(injection, token, build)
    try:
        injector.open()
    except BaseException:
        injector.close()
        raise
    return injector
