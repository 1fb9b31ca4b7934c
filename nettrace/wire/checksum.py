"""The Internet checksum (RFC 1071) of whole packets."""

from __future__ import annotations

import struct

__all__ = ["checksum_stands", "internet_checksum"]

_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
#: Where the checksum stands in the header of each protocol.
_AT = {_TCP: 16, _UDP: 6, _ICMP: 2, _ICMPV6: 2}


def internet_checksum(data: bytes) -> int:
    """Return the one's complement of the one's complement sum of the 16-bit words, the last one padded with zero."""
    return ~_sum(data) & 0xFFFF


def _sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum_stands(packet: bytes) -> bool:
    """Tell whether a receiver takes the transport checksum of a whole IP packet, which begins with its IP header.

    So it does where there is none (UDP over IPv4), and where it was left to a device that never came (CHECKSUM_PARTIAL
    in skbuff.h: the field holds the sum of the pseudo header alone, and the packet never left this machine). What has
    no checksum that is known here, or is not whole, stands as well.
    """
    if packet[0] >> 4 == 4:
        start, proto = (packet[0] & 0xF) * 4, packet[9]
        (length,) = struct.unpack_from("!H", packet, 2)
        addresses = packet[12:20]
    else:
        start, proto = 40, packet[6]
        length = 40 + struct.unpack_from("!H", packet, 4)[0]
        addresses = packet[8:40]
    body = packet[start:length]
    at = _AT.get(proto)
    if at is None or length > len(packet) or len(body) < at + 2:
        return True
    (field,) = struct.unpack_from("!H", body, at)
    if proto == _UDP and field == 0 and len(addresses) == 8:
        return True
    pseudo = b"" if proto == _ICMP else addresses + struct.pack("!II", len(body), proto)
    partial = proto != _ICMP and field == _sum(pseudo)
    return partial or _sum(pseudo + body) == 0xFFFF
