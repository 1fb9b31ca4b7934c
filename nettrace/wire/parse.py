"""Recognise the packets of one run in raw frames.

Frames come from the network, so nothing in them is trusted: whatever is short, inconsistent or foreign is None,
never an exception. Scapy is not used here, because a probe's answer is awaited in this code; the tests hold it
against Scapy's own dissection.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import msgspec

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import PROTO_NUMBER, Packet, Proto
from nettrace.model.observe import SightingKind
from nettrace.wire.link import ETHERNET, is_raw_ip
from nettrace.wire.token import DNS_LABEL, MAGIC, NONCE_BYTES, RunToken

__all__ = ["Headers", "Parsed", "parse_frame", "parse_headers"]

_ARP = 0x0806
_IPV4 = 0x0800
_IPV6 = 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100)
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
#: Hop-by-hop, routing, destination options; fragment and authentication headers have lengths of their own.
_OPTIONS = (0, 43, 60)
_FRAGMENT = 44
_AUTHENTICATION = 51
#: Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792); 1 to 4 of RFC 4443.
_ERRORS_V4 = (3, 4, 5, 11, 12)
_ERRORS_V6 = (1, 2, 3, 4)
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_MAX_EXTENSIONS = 8


class Parsed(Model):
    """One packet of the run: what it is to the probe, which probe it belongs to, and its headers.

    Of a packet inside VXLAN, `packet` is the outer one, and `packet.quoted` the one it carries.
    """

    kind: SightingKind
    nonce: int | None
    packet: Packet


class Headers(Model):
    """The headers of a packet that may be of the run: what it is to the probe, as far as they tell it.

    `kind` and `nonce` are None where the headers alone do not tell. `proven`: they bear the run's own marks.
    """

    packet: Packet
    kind: SightingKind | None = None
    nonce: int | None = None
    proven: bool = False


class _Reject(Exception):
    """The frame is not ours, or not whole."""


class _Ip(Model):
    """An IP header with what lies behind it: `body` begins with the transport header and ends with the datagram."""

    packet: Packet
    body: bytes
    whole: bool


def parse_frame(data: bytes, *, arp_type: int = ETHERNET, run: RunToken) -> Parsed | None:
    """Return what a captured frame is to a run, or None when it is not of the run, or not readable.

    `arp_type` is ARPHRD_* of the device that it was heard on. ARP requests and replies, and IPv6 neighbour
    solicitations and advertisements, are returned whoever they are for: the capture filter chooses among them.
    """
    try:
        return _link(data, run) if not is_raw_ip(arp_type) else _network(data, _version_type(data), run, None, None)
    except (_Reject, struct.error, IndexError, ValueError):
        return None


def parse_headers(network: bytes, transport: bytes, run: RunToken) -> Headers | None:
    """Return what the headers of a packet tell, cut short as the kernel's rule trace reports them.

    `network` begins with the IP header, `transport` with what comes behind it. None when there is no IP header.
    """
    try:
        ip = _ip(network, 6 if network[0] >> 4 == 6 else 4, quoted=True)
    except (_Reject, struct.error, IndexError, ValueError):
        return None
    try:
        return _transport_header(ip.packet, transport, run)
    except (struct.error, IndexError):
        return Headers(packet=ip.packet)


def _transport_header(packet: Packet, data: bytes, run: RunToken) -> Headers:
    if packet.proto in (_ICMP, _ICMPV6):
        kind, code, _sum, ident, sequence = struct.unpack_from("!BBHHH", data)
        packet = msgspec.structs.replace(packet, icmp_type=kind, icmp_code=code)
        if kind in (_ERRORS_V4 if packet.proto == _ICMP else _ERRORS_V6):
            return Headers(packet=packet, kind=SightingKind.ICMP_ERROR)
        packet = msgspec.structs.replace(packet, icmp_id=ident)
        what = SightingKind.PROBE if kind in (8, 128) else SightingKind.REPLY
        return Headers(packet=packet, kind=what, nonce=_number(sequence, run), proven=data[8:20] == MAGIC + run.secret)
    sport, dport = struct.unpack_from("!HH", data)
    packet = msgspec.structs.replace(packet, sport=sport, dport=dport)
    if packet.proto == _TCP:
        found = _tcp(_Ip(packet=packet, body=data, whole=True), run)
        if found is None:
            return Headers(packet=packet)
        far = dport if found.kind is SightingKind.PROBE else sport
        return Headers(packet=found.packet, kind=found.kind, nonce=found.nonce, proven=far in run.dports)
    if run.proto is not Proto.UDP or dport in run.vxlan_ports:
        return Headers(packet=packet)
    answers = dport in run.sports or (sport in run.dports and dport not in run.dports)
    near, far = (dport, sport) if answers else (sport, dport)
    nonce = run.sports.index(near) if len(run.sports) == run.count and near in run.sports else None
    proven = data[8:20] == MAGIC + run.secret or (near in run.sports and far in run.dports)
    return Headers(
        packet=packet, kind=SightingKind.REPLY if answers else SightingKind.PROBE, nonce=nonce, proven=proven
    )


def _version_type(data: bytes) -> int:
    return _IPV6 if data[0] >> 4 == 6 else _IPV4


def _mac(data: bytes) -> str:
    if len(data) != 6:
        raise _Reject
    return data.hex(":")


def _link(data: bytes, run: RunToken, *, tunnelled: bool = False) -> Parsed | None:
    dst_mac, src_mac = _mac(data[:6]), _mac(data[6:12])
    offset = 12
    (kind,) = struct.unpack_from("!H", data, offset)
    for _ in range(2):
        if kind in _VLAN:
            offset += 4
            (kind,) = struct.unpack_from("!H", data, offset)
    return _network(data[offset + 2 :], kind, run, src_mac, dst_mac, tunnelled=tunnelled)


def _network(
    data: bytes, kind: int, run: RunToken, src_mac: str | None, dst_mac: str | None, *, tunnelled: bool = False
) -> Parsed | None:
    if kind == _ARP:
        return _arp(data, src_mac, dst_mac)
    if kind not in (_IPV4, _IPV6):
        return None
    ip = _ip(data, 4 if kind == _IPV4 else 6)
    found = _transport(ip, run, tunnelled)
    if found is None or src_mac is None:
        return found
    return msgspec.structs.replace(
        found, packet=msgspec.structs.replace(found.packet, src_mac=src_mac, dst_mac=dst_mac)
    )


def _arp(data: bytes, src_mac: str | None, dst_mac: str | None) -> Parsed | None:
    hardware, protocol, hw_size, proto_size, operation = struct.unpack_from("!HHBBH", data)
    if (hardware, protocol, hw_size, proto_size) != (1, _IPV4, 6, 4) or operation not in (1, 2) or len(data) < 28:
        return None
    packet = Packet(
        family=4,
        src=IPv4Address(data[14:18]),
        dst=IPv4Address(data[24:28]),
        proto=0,
        ttl=0,
        length=28,
        df=False,
        src_mac=src_mac,
        dst_mac=dst_mac,
    )
    kind = SightingKind.ARP_REQUEST if operation == 1 else SightingKind.ARP_REPLY
    return Parsed(kind=kind, nonce=None, packet=packet)


def _ip(data: bytes, family: int, *, quoted: bool = False) -> _Ip:
    return _ipv4(data, quoted) if family == 4 else _ipv6(data, quoted)


def _ipv4(data: bytes, quoted: bool) -> _Ip:
    first, tos, length, _ident, fragment, ttl, proto, _sum = struct.unpack_from("!BBHHHBBH", data)
    header = (first & 0xF) * 4
    # A quoted packet is cut short by whoever quotes it; a whole one has at least the length that it claims.
    if first >> 4 != 4 or header < 20 or len(data) < header or (not quoted and not header <= length <= len(data)):
        raise _Reject
    packet = Packet(
        family=4,
        src=IPv4Address(data[12:16]),
        dst=IPv4Address(data[16:20]),
        proto=proto,
        ttl=ttl,
        length=length,
        tos=tos,
        df=bool(fragment & 0x4000),
    )
    return _Ip(packet=packet, body=data[header:length] if not quoted else data[header:], whole=not fragment & 0x1FFF)


def _ipv6(data: bytes, quoted: bool) -> _Ip:
    first, payload, proto, hops = struct.unpack_from("!IHBB", data)
    end = 40 + payload
    if first >> 28 != 6 or len(data) < 40 or (not quoted and end > len(data)):
        raise _Reject
    offset, whole = 40, True
    for _ in range(_MAX_EXTENSIONS):
        if proto in _OPTIONS:
            proto, step = data[offset], (data[offset + 1] + 1) * 8
        elif proto == _FRAGMENT:
            (place,) = struct.unpack_from("!H", data, offset + 2)
            whole = whole and not place & 0xFFF8
            proto, step = data[offset], 8
        elif proto == _AUTHENTICATION:
            proto, step = data[offset], (data[offset + 1] + 2) * 4
        else:
            break
        offset += step
    packet = Packet(
        family=6,
        src=IPv6Address(data[8:24]),
        dst=IPv6Address(data[24:40]),
        proto=proto,
        ttl=hops,
        length=end,
        tos=first >> 20 & 0xFF,
    )
    return _Ip(packet=packet, body=data[offset:end] if not quoted else data[offset:], whole=whole)


def _transport(ip: _Ip, run: RunToken, tunnelled: bool) -> Parsed | None:
    if not ip.whole:
        return None
    proto, ours = ip.packet.proto, PROTO_NUMBER[run.proto, run.family]
    if proto == _UDP and not tunnelled:
        carried = _vxlan(ip, run)
        if carried is not None:
            return carried
    if proto == _ICMP and ip.packet.family == 4:
        return _icmp(ip, run, _ERRORS_V4, 8, 0)
    if proto == _ICMPV6 and ip.packet.family == 6:
        return _neighbour(ip) or _icmp(ip, run, _ERRORS_V6, 128, 129)
    if ip.packet.family != run.family or proto != ours:
        return None
    return _udp(ip, run) if proto == _UDP else _tcp(ip, run)


def _vxlan(ip: _Ip, run: RunToken) -> Parsed | None:
    """The packet inside an outer UDP datagram, when that is VXLAN (RFC 7348) and carries one of ours."""
    sport, dport = struct.unpack_from("!HH", ip.body)
    if dport not in run.vxlan_ports or len(ip.body) < 16 or not ip.body[8] & 0x08:
        return None
    try:
        inner = _link(ip.body[16:], run, tunnelled=True)
    except (_Reject, struct.error, IndexError, ValueError):
        return None
    if inner is None:
        return None
    outer = msgspec.structs.replace(ip.packet, sport=sport, dport=dport, quoted=inner.packet)
    return msgspec.structs.replace(inner, packet=outer)


def _icmp(ip: _Ip, run: RunToken, errors: tuple[int, ...], request: int, reply: int) -> Parsed | None:
    kind, code, _sum, ident, _number = struct.unpack_from("!BBHHH", ip.body)
    packet = msgspec.structs.replace(ip.packet, icmp_type=kind, icmp_code=code)
    if kind in errors:
        quoted = _ip(ip.body[8:], ip.packet.family, quoted=True)
        told = _quoted(quoted, run)
        if told is None:
            return None
        nonce, inner = told
        mtu = _next_hop_mtu(ip.packet.family, kind, code, ip.body)
        packet = msgspec.structs.replace(packet, quoted=inner, icmp_mtu=mtu)
        return Parsed(kind=SightingKind.ICMP_ERROR, nonce=nonce, packet=packet)
    if kind not in (request, reply) or run.proto is not Proto.ICMP or run.family != ip.packet.family:
        return None
    nonce_or_none = _payload_nonce(ip.body[8 : 8 + NONCE_BYTES], run)
    if nonce_or_none is None:
        return None
    what = SightingKind.PROBE if kind == request else SightingKind.REPLY
    return Parsed(kind=what, nonce=nonce_or_none, packet=msgspec.structs.replace(packet, icmp_id=ident))


def _next_hop_mtu(family: int, kind: int, code: int, body: bytes) -> int | None:
    """The MTU inside "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443); None when there is none."""
    if family == 4 and (kind, code) == (3, 4):
        return int.from_bytes(body[6:8], "big") or None
    if family == 6 and kind == 2:
        return int.from_bytes(body[4:8], "big") or None
    return None


def _payload_nonce(data: bytes, run: RunToken) -> int | None:
    """The probe's number when the bytes are a nonce of the run, else None."""
    if len(data) < NONCE_BYTES or data[:12] != MAGIC + run.secret:
        return None
    return _number(int.from_bytes(data[12:16], "big"), run)


def _number(value: int, run: RunToken) -> int | None:
    return value if value < run.count else None


def _udp_nonce(payload: bytes, run: RunToken) -> int | None:
    """The probe's number when a UDP payload is a nonce of the run, or a DNS message that asks for one."""
    plain = _payload_nonce(payload, run)
    if plain is not None:
        return plain
    label = payload[12:40].lower()
    if len(label) < 28 or label[:20] != DNS_LABEL + run.secret.hex().encode():
        return None
    return _number(int(label[20:28], 16), run)


def _quoted(ip: _Ip, run: RunToken) -> tuple[int, Packet] | None:
    """Which probe an ICMP error quotes: by its nonce when the quote is long enough, else by its first 8 bytes."""
    if ip.packet.proto != PROTO_NUMBER[run.proto, run.family] or ip.packet.family != run.family or not ip.whole:
        return None
    if run.proto is Proto.ICMP:
        kind, code, _sum, ident, sequence = struct.unpack_from("!BBHHH", ip.body)
        if kind not in (8, 128):
            return None
        nonce = _payload_nonce(ip.body[8:24], run)
        if nonce is None and ident == run.icmp_id:
            nonce = _number(sequence, run)
        packet = msgspec.structs.replace(ip.packet, icmp_type=kind, icmp_code=code, icmp_id=ident)
        return None if nonce is None else (nonce, packet)
    sport, dport, word = struct.unpack_from("!HHI", ip.body)
    if run.proto is Proto.UDP:
        nonce = _udp_nonce(ip.body[8:], run)
        if nonce is None and sport in run.sports and dport in run.dports:
            nonce = run.sports.index(sport)
    else:
        nonce = _sequence_number(word, run)
    flags = ip.body[13] if run.proto is Proto.TCP and len(ip.body) > 13 else None
    packet = msgspec.structs.replace(ip.packet, sport=sport, dport=dport, tcp_flags=flags)
    return None if nonce is None else (nonce, packet)


def _sequence_number(sequence: int, run: RunToken) -> int | None:
    return _number(sequence & 0xFF, run) if sequence >> 8 == run.sequence_base else None


def _udp(ip: _Ip, run: RunToken) -> Parsed | None:
    sport, dport = struct.unpack_from("!HH", ip.body)
    payload = ip.body[8:]
    nonce = _udp_nonce(payload, run)
    if nonce is not None:
        kind = SightingKind.REPLY if _is_udp_answer(sport, dport, payload, run) else SightingKind.PROBE
    elif dport in run.sports and sport in run.dports:
        kind, nonce = SightingKind.REPLY, run.sports.index(dport)
    else:
        return None
    packet = msgspec.structs.replace(ip.packet, sport=sport, dport=dport)
    return Parsed(kind=kind, nonce=nonce, packet=packet)


def _is_udp_answer(sport: int, dport: int, payload: bytes, run: RunToken) -> bool:
    """Tell a far end's echo of the nonce from the probe itself, whichever of the ports NAT has rewritten."""
    if payload[:4] != MAGIC:
        return bool(payload[2] & 0x80)  # the QR bit of a DNS message
    if dport in run.sports or sport in run.sports:
        return dport in run.sports
    return dport not in run.dports and sport in run.dports


def _tcp(ip: _Ip, run: RunToken) -> Parsed | None:
    sport, dport, sequence, acknowledged, _offset, flags = struct.unpack_from("!HHIIBB", ip.body)
    packet = msgspec.structs.replace(ip.packet, sport=sport, dport=dport, tcp_flags=flags)
    if flags & (_SYN | _ACK | _RST) == _SYN:
        nonce = _sequence_number(sequence, run)
        kind = SightingKind.PROBE
    elif flags & _ACK and flags & (_SYN | _RST):
        nonce = _sequence_number((acknowledged - 1) & 0xFFFFFFFF, run)
        kind = SightingKind.RESET if flags & _RST else SightingKind.REPLY
    else:  # the RST by which the source's own kernel closes a connection that it never asked for
        return None
    return None if nonce is None else Parsed(kind=kind, nonce=nonce, packet=packet)


def _neighbour(ip: _Ip) -> Parsed | None:
    """A neighbour solicitation or advertisement (RFC 4861)."""
    kind = ip.body[0]
    if kind not in (135, 136) or ip.packet.ttl != 255:
        return None
    target: IPAddress = IPv6Address(ip.body[8:24])
    packet = msgspec.structs.replace(ip.packet, icmp_type=kind, icmp_code=ip.body[1])
    if kind == 135:
        found = msgspec.structs.replace(packet, dst=target)
        return Parsed(kind=SightingKind.NDP_SOLICIT, nonce=None, packet=found)
    return Parsed(kind=SightingKind.NDP_ADVERT, nonce=None, packet=msgspec.structs.replace(packet, src=target))
