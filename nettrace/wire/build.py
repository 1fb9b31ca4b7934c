"""Build the probes: complete IP packets whose nonce, length and ports are known to the byte.

Scapy builds them. Every address is given, so that it never consults its own routes or interfaces, which belong to
the namespace it was first imported in.
"""

from __future__ import annotations

import struct
from typing import Any

from nettrace.model.base import IPAddress
from nettrace.model.flow import PROTO_NUMBER, Proto
from nettrace.wire.checksum import internet_checksum
from nettrace.wire.token import DNS_PORT, NONCE_BYTES, RunToken

__all__ = [
    "IP_HEADER",
    "TRANSPORT_HEADER",
    "build_answer",
    "build_frame",
    "build_neighbour_request",
    "build_probe",
    "default_length",
    "foreign_twin",
    "preload",
    "probe_payload",
]

IP_HEADER = {4: 20, 6: 40}
TRANSPORT_HEADER = {Proto.ICMP: 8, Proto.UDP: 8, Proto.TCP: 20}
#: IP lengths where nobody asked for one: what ping(8) sends, a SYN as Linux makes it, and a little more than a nonce.
_ECHO_LENGTH = 84
_SYN_OPTIONS = 20
_DATAGRAM_LENGTH = 60
_DNS_HEADER = struct.Struct("!HHHHHH")
#: An empty OPT record with one empty padding option.
_OPT_MINIMUM = 11 + 4


def preload() -> None:
    """Import the layers of Scapy that are used, without the routes and interfaces it would read on the way."""
    from scapy.config import conf

    conf.route_autoload = False
    conf.route6_autoload = False
    import scapy.layers.inet
    import scapy.layers.inet6  # noqa: F401


def default_length(token: RunToken, dport: int | None = None) -> int:
    """Return the IP length in bytes of a probe that nobody asked a size of."""
    header = IP_HEADER[token.family] + TRANSPORT_HEADER[token.proto]
    if token.proto is Proto.TCP:
        return header + _SYN_OPTIONS
    if token.proto is Proto.UDP and dport == DNS_PORT:
        return header + len(_dns_query(token, 0, 0))
    return max(header + NONCE_BYTES, _ECHO_LENGTH if token.proto is Proto.ICMP else _DATAGRAM_LENGTH)


def _dns_query(token: RunToken, number: int, padding: int) -> bytes:
    """A query for <nonce>.invalid, which resolvers answer by themselves (RFC 6761), padded as RFC 7830 has it."""
    use_opt = padding >= _OPT_MINIMUM
    query_id = int.from_bytes(token.secret[5:7], "big") ^ number
    message = _DNS_HEADER.pack(query_id, 0x0100, 1, 0, 0, 1 if use_opt else 0)
    message += token.dns_label(number) + b"\x07invalid\x00" + struct.pack("!HH", 1, 1)
    if not use_opt:
        return message + bytes(padding)
    rest = padding - _OPT_MINIMUM
    return message + b"\x00" + struct.pack("!HHIHHH", 41, 1232, 0, 4 + rest, 12, rest) + bytes(rest)


def probe_payload(token: RunToken, number: int, *, dport: int | None, room: int) -> bytes:
    """Return the transport payload of a probe, exactly `room` bytes long; longer only when the nonce needs more.

    ICMP and UDP carry the nonce first; UDP to port 53 is a DNS query that carries it in the name, unless `room` is
    too small for one. A TCP SYN carries only padding, if anything.
    """
    natural = b"" if token.proto is Proto.TCP else token.nonce(number)
    if token.proto is Proto.UDP and dport == DNS_PORT:
        spare = room - len(_dns_query(token, number, 0))
        if spare >= 0:
            return _dns_query(token, number, spare)
    return natural + _pattern(room - len(natural))


def _pattern(length: int) -> bytes:
    """Padding that is not all zero: some links and middleboxes treat runs of zeros specially."""
    return bytes(0x40 + i % 0x3F for i in range(max(0, length)))


def build_probe(
    token: RunToken,
    number: int,
    *,
    src: IPAddress,
    dst: IPAddress,
    sport: int | None = None,
    dport: int | None = None,
    size: int | None = None,
    ttl: int = 64,
) -> bytes:
    """Return a whole probe packet, from its IP header on, with DF set and every checksum right.

    `size` is the IP length in bytes (None: the default of the protocol); `sport` and `dport` are needed for TCP and
    UDP. Raises ValueError when the size cannot hold the headers and the nonce, or exceeds 65535.
    """
    header = IP_HEADER[token.family] + TRANSPORT_HEADER[token.proto]
    least = header + (0 if token.proto is Proto.TCP else NONCE_BYTES)
    length = default_length(token, dport) if size is None else size
    if not least <= length <= 65535:
        raise ValueError(f"an IP length of {length} bytes is not between {least} and 65535")
    options = _SYN_OPTIONS if token.proto is Proto.TCP and length >= header + _SYN_OPTIONS else 0
    payload = probe_payload(token, number, dport=dport, room=length - header - options)
    segment = _request(token, number, sport, dport, options) / payload
    return bytes(_ip(token, src, dst, ttl) / segment)


def _ip(token: RunToken, src: IPAddress, dst: IPAddress, ttl: int) -> Any:
    preload()
    number = PROTO_NUMBER[token.proto, token.family]
    if token.family == 6:
        from scapy.layers.inet6 import IPv6

        return IPv6(src=_bare(src), dst=_bare(dst), hlim=ttl, nh=number)
    from scapy.layers.inet import IP

    return IP(src=str(src), dst=str(dst), ttl=ttl, flags="DF", id=0, proto=number)


def _bare(address: IPAddress) -> str:
    """An address without its zone, which is not on the wire."""
    return str(address).partition("%")[0]


def _request(token: RunToken, number: int, sport: int | None, dport: int | None, options: int) -> Any:
    preload()
    if token.proto is Proto.ICMP:
        if token.family == 6:
            from scapy.layers.inet6 import ICMPv6EchoRequest

            return ICMPv6EchoRequest(id=token.icmp_id, seq=number)
        from scapy.layers.inet import ICMP

        return ICMP(type=8, id=token.icmp_id, seq=number)
    if token.proto is Proto.UDP:
        from scapy.layers.inet import UDP

        return UDP(sport=sport, dport=dport)
    from scapy.layers.inet import TCP

    offered = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)] if options else []
    return TCP(sport=sport, dport=dport, flags="S", seq=token.sequence(number), window=64240, options=offered)


def build_answer(token: RunToken, packet: bytes) -> bytes:
    """Return what an open far end would answer to a probe, as far as a filter looks at it (checksums are not mended).

    A UDP answer need not hold the nonce, so this one does not.
    """
    at = IP_HEADER[token.family]
    if token.proto is Proto.ICMP:
        return packet[:at] + (b"\x00" if token.family == 4 else b"\x81") + packet[at + 1 :]
    ports = packet[at + 2 : at + 4] + packet[at : at + 2]
    if token.proto is Proto.UDP:
        return packet[:at] + ports + packet[at + 4 : at + 8] + bytes(len(packet) - at - 8)
    sequence = int.from_bytes(packet[at + 4 : at + 8], "big") + 1 & 0xFFFFFFFF
    flags = bytes((packet[at + 12], 0x12))
    return packet[:at] + ports + struct.pack("!II", 1, sequence) + flags + packet[at + 14 :]


def foreign_twin(token: RunToken, packet: bytes) -> bytes:
    """Return a probe as another run would have sent it: the same packet with other marks (its checksum is wrong)."""
    other = bytes(byte ^ 0xFF for byte in token.secret)
    if token.proto is Proto.TCP:
        at = IP_HEADER[token.family] + 4
        return packet[:at] + other[:3] + packet[at + 3 :]
    return packet.replace(token.secret, other).replace(token.secret.hex().encode(), other.hex().encode())


def build_frame(packet: bytes, *, raw_ip: bool = False) -> bytes:
    """Return the packet as a device would carry it: behind an Ethernet header, or bare for a raw-IP device."""
    if raw_ip:
        return packet
    kind = 0x86DD if packet[:1] and packet[0] >> 4 == 6 else 0x0800
    return bytes.fromhex("020000000002 020000000001") + kind.to_bytes(2, "big") + packet


def build_neighbour_request(mac: str, source: IPAddress, target: IPAddress) -> bytes:
    """Return the Ethernet frame that asks who holds an address: ARP (RFC 826), or a solicitation (RFC 4861, 4.3).

    `mac` and `source` are the asker's own. It is a few dozen bytes of fixed layout, and goes out while Scapy is still
    being imported.
    """
    own = bytes.fromhex(mac.replace(":", ""))
    if target.version == 4:
        asked = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + source.packed + bytes(6) + target.packed
        return b"\xff" * 6 + own + b"\x08\x06" + asked
    group = bytes.fromhex("ff0200000000000000000001ff") + target.packed[13:]
    message = struct.pack("!BBHI", 135, 0, 0, 0) + target.packed + b"\x01\x01" + own
    pseudo = source.packed + group + struct.pack("!II", len(message), 58)
    message = message[:2] + internet_checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    header = struct.pack("!IHBB", 0x60000000, len(message), 58, 255) + source.packed + group
    return b"\x33\x33" + group[12:] + own + b"\x86\xdd" + header + message
