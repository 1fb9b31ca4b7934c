"""Read packets of any program out of raw frames, as far as a capture kept them.

Frames come from anyone, and may be cut short: what does not hold together, or is cut within the headers that tell it
from others, is None, never an exception. Link types are LINKTYPE_* (https://www.tcpdump.org/linktypes.html).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from msgspec.structs import replace

from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet
from nettrace.model.heard import PAYLOAD_BYTES, Heard
from nettrace.model.observe import SightingKind, Way
from nettrace.wire.token import VXLAN_PORTS

__all__ = ["ARP_NEEDLE", "LINKTYPES", "SLL2", "least_snaplen", "pair_needles", "read_frame", "solicit_needles"]

NULL, ETHERNET, RAW, LOOP, SLL, IPV4, IPV6, SLL2 = 0, 1, 101, 108, 113, 228, 229, 276
#: Each link type that is read, with the bytes that its header has.
LINKTYPES = {NULL: 4, ETHERNET: 14, RAW: 0, LOOP: 4, SLL: 16, IPV4: 0, IPV6: 0, SLL2: 20, 12: 0, 14: 0}

_IP4, _IP6, _ARP = 0x0800, 0x86DD, 0x0806
_VLAN = (0x8100, 0x88A8, 0x9100)
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_ERRORS = {4: (3, 4, 5, 11, 12), 6: (1, 2, 3, 4)}
_ECHOES = {4: (8, 0), 6: (128, 129)}
_OPTIONS, _FRAGMENT, _AUTHENTICATION = (0, 43, 60), 44, 51
_MAX_EXTENSIONS = 8
#: Packet types of a cooked header (packet(7)): to another host, and sent by this one.
_OTHERHOST, _OUTGOING = 3, 4

#: The head of every ARP message about IPv4 over Ethernet, up to the operation's first byte.
ARP_NEEDLE = b"\x00\x01\x08\x00\x06\x04\x00"


def least_snaplen(linktype: int, family: int) -> int:
    """Return how many bytes of a frame must be kept to tell its packet from others."""
    return LINKTYPES.get(linktype, 14) + (40 if family == 4 else 60)


def pair_needles(src: IPAddress, dst: IPAddress) -> bytes:
    """Return the bytes that every packet from one address to another holds, in its own header or quoted."""
    return src.packed + dst.packed


def solicit_needles(target: IPAddress) -> tuple[bytes, ...]:
    """Return what neighbour solicitations and advertisements for an IPv6 address hold."""
    return (bytes(3) + target.packed,) if target.version == 6 else ()


class _Short(Exception):
    """The frame ends before what must be read of it, or is of no kind that is read here."""


def read_frame(
    data: bytes,
    linktype: int,
    *,
    tap: int = 0,
    at_ns: int = 0,
    way: Way | None = None,
    record: int = 0,
    tunnels: tuple[int, ...] = VXLAN_PORTS,
) -> Heard | None:
    """Return the packet in a frame, None where there is none that can be told from others.

    `tunnels` are the UDP ports whose datagrams are VXLAN: the packet inside is what is returned then.
    """
    try:
        heard = _link(data, linktype, tunnels)
    except (_Short, struct.error, IndexError, ValueError):
        return None
    return replace(heard, tap=tap, at_ns=at_ns, way=way or heard.way, record=record)


def _link(data: bytes, linktype: int, tunnels: tuple[int, ...]) -> Heard:
    if linktype == ETHERNET:
        return _ethernet(data, tunnels)
    if linktype == SLL2:
        kind, _zero, ifindex, _arphrd, role, size = struct.unpack_from("!HHIHBB", data)
        heard = _tagged(data[20:], kind, tunnels)
        return replace(_cooked(heard, role, data[12 : 12 + min(size, 8)]), ifindex=ifindex)
    if linktype == SLL:
        role, _arphrd, size = struct.unpack_from("!HHH", data)
        (kind,) = struct.unpack_from("!H", data, 14)
        return _cooked(_tagged(data[16:], kind, tunnels), role, data[6 : 6 + min(size, 8)])
    if linktype in (NULL, LOOP):
        data = data[4:]
    elif linktype not in LINKTYPES:
        raise _Short
    return _network(data, _IP6 if data[0] >> 4 == 6 else _IP4, tunnels)


def _ethernet(data: bytes, tunnels: tuple[int, ...]) -> Heard:
    (kind,) = struct.unpack_from("!H", data, 12)
    heard = _tagged(data[14:], kind, tunnels)
    return _with_macs(heard, data[6:12].hex(":"), data[:6].hex(":"))


def _tagged(data: bytes, kind: int, tunnels: tuple[int, ...]) -> Heard:
    for _ in range(2):
        if kind in _VLAN:
            (kind,) = struct.unpack_from("!H", data, 2)
            data = data[4:]
    return _network(data, kind, tunnels)


def _cooked(heard: Heard, role: int, address: bytes) -> Heard:
    way = Way.OUT if role == _OUTGOING else Way.IN
    sender = address.hex(":") if len(address) == 6 else None
    return replace(_with_macs(heard, sender, None), way=way, stranger=role == _OTHERHOST)


def _with_macs(heard: Heard, src: str | None, dst: str | None) -> Heard:
    if heard.outer is not None:
        return replace(heard, outer=replace(heard.outer, src_mac=src, dst_mac=dst))
    return replace(heard, packet=replace(heard.packet, src_mac=src, dst_mac=dst))


def _network(data: bytes, kind: int, tunnels: tuple[int, ...]) -> Heard:
    if kind == _ARP:
        return _arp(data)
    if kind == _IP4:
        return _ipv4(data, tunnels)
    if kind == _IP6:
        return _ipv6(data, tunnels)
    raise _Short


def _arp(data: bytes) -> Heard:
    hardware, protocol, hw_size, size, operation = struct.unpack_from("!HHBBH", data)
    if (hardware, protocol, hw_size, size) != (1, _IP4, 6, 4) or operation not in (1, 2) or len(data) < 28:
        raise _Short
    packet = Packet(
        family=4, src=IPv4Address(data[14:18]), dst=IPv4Address(data[24:28]), proto=0, ttl=0, length=28, df=False
    )
    kind = SightingKind.ARP_REQUEST if operation == 1 else SightingKind.ARP_REPLY
    return Heard(tap=0, at_ns=0, packet=packet, neighbour=kind)


def _ipv4(data: bytes, tunnels: tuple[int, ...], *, quoted: bool = False) -> Heard:
    first, tos, length, ident, fragment, ttl, proto, _sum = struct.unpack_from("!BBHHHBBH", data)
    header = (first & 0xF) * 4
    # A length of 0 is that of a packet which the card is to cut into segments.
    if first >> 4 != 4 or header < 20 or len(data) < header or 0 < length < header or fragment & 0x1FFF:
        raise _Short
    packet = Packet(
        family=4,
        src=IPv4Address(data[12:16]),
        dst=IPv4Address(data[16:20]),
        proto=proto,
        ttl=ttl,
        length=length or len(data),
        tos=tos,
        df=bool(fragment & 0x4000),
    )
    body = data[header : packet.length]
    heard = Heard(tap=0, at_ns=0, packet=packet, ident=ident)
    return _transport(heard, body, packet.length - header, tunnels, quoted=quoted)


def _ipv6(data: bytes, tunnels: tuple[int, ...], *, quoted: bool = False) -> Heard:
    first, payload, proto, hops = struct.unpack_from("!IHBB", data)
    if first >> 28 != 6 or len(data) < 40:
        raise _Short
    end = 40 + payload if payload else len(data)
    offset = 40
    for _ in range(_MAX_EXTENSIONS):
        if proto in _OPTIONS:
            proto, step = data[offset], (data[offset + 1] + 1) * 8
        elif proto == _FRAGMENT:
            (place,) = struct.unpack_from("!H", data, offset + 2)
            if place & 0xFFF8:
                raise _Short
            proto, step = data[offset], 8
        elif proto == _AUTHENTICATION:
            proto, step = data[offset], (data[offset + 1] + 2) * 4
        else:
            break
        offset += step
    if offset > end:
        raise _Short
    packet = Packet(
        family=6,
        src=IPv6Address(data[8:24]),
        dst=IPv6Address(data[24:40]),
        proto=proto,
        ttl=hops,
        length=end,
        tos=first >> 20 & 0xFF,
    )
    return _transport(Heard(tap=0, at_ns=0, packet=packet), data[offset:end], end - offset, tunnels, quoted=quoted)


def _transport(heard: Heard, body: bytes, length: int, tunnels: tuple[int, ...], *, quoted: bool) -> Heard:
    proto, family = heard.packet.proto, heard.packet.family
    if (proto == _ICMP and family == 4) or (proto == _ICMP6 and family == 6):
        return _icmp(heard, body, length, quoted=quoted)
    if proto == _UDP:
        return _udp(heard, body, length, tunnels, quoted=quoted)
    if proto == _TCP:
        return _tcp(heard, body, length, quoted=quoted)
    raise _Short


def _icmp(heard: Heard, body: bytes, length: int, *, quoted: bool) -> Heard:
    family = heard.packet.family
    kind, code, _sum, ident, number = struct.unpack_from("!BBHHH", body)
    packet = replace(heard.packet, icmp_type=kind, icmp_code=code)
    if kind in _ERRORS[family] and not quoted:
        read = _ipv4 if family == 4 else _ipv6
        about = read(body[8:], (), quoted=True)
        mtu = None
        if family == 4 and (kind, code) == (3, 4):
            mtu = number or None
        elif family == 6 and kind == 2:
            mtu = int.from_bytes(body[4:8], "big") or None
        return replace(heard, packet=replace(packet, quoted=about.packet, icmp_mtu=mtu), about=about)
    if family == 6 and kind in (135, 136) and packet.ttl == 255 and len(body) >= 24:
        target = IPv6Address(body[8:24])
        if kind == 135:
            return replace(heard, packet=replace(packet, dst=target), neighbour=SightingKind.NDP_SOLICIT)
        return replace(heard, packet=replace(packet, src=target), neighbour=SightingKind.NDP_ADVERT)
    if kind not in _ECHOES[family]:
        raise _Short
    return replace(
        heard,
        packet=replace(packet, icmp_id=ident),
        number=number,
        payload=body[8 : 8 + PAYLOAD_BYTES],
        payload_length=max(0, length - 8),
    )


def _udp(heard: Heard, body: bytes, length: int, tunnels: tuple[int, ...], *, quoted: bool) -> Heard:
    sport, dport = struct.unpack_from("!HH", body)
    packet = replace(heard.packet, sport=sport, dport=dport)
    if dport in tunnels and not quoted and len(body) > 16 and body[8] & 0x08:
        inner = _ethernet(body[16:], ())
        return replace(inner, outer=replace(packet, quoted=inner.packet))
    return replace(heard, packet=packet, payload=body[8 : 8 + PAYLOAD_BYTES], payload_length=max(0, length - 8))


def _tcp(heard: Heard, body: bytes, length: int, *, quoted: bool) -> Heard:
    sport, dport, number = struct.unpack_from("!HHI", body)
    packet = replace(heard.packet, sport=sport, dport=dport)
    if quoted and len(body) < 14:  # routers may quote just 8 bytes
        return replace(heard, packet=packet, number=number)
    acknowledged, offset, flags = struct.unpack_from("!IBB", body, 8)
    header = (offset >> 4) * 4
    return replace(
        heard,
        packet=replace(packet, tcp_flags=flags),
        number=number,
        ack=acknowledged if flags & 0x10 else None,
        payload=body[header : header + PAYLOAD_BYTES],
        payload_length=max(0, length - header),
    )
