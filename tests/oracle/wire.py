"""Frames by hand: built and read with struct, because the oracle sends tens of thousands of them."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from nettrace.model.flow import Packet

ETH = {4: 0x0800, 6: 0x86DD}


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def transport(packet: Packet, nonce: int, ack: int, payload: bytes, quoted: bytes = b"") -> bytes:
    """The transport header and payload of a packet, with its checksum."""
    source, destination = packet.src.packed, packet.dst.packed
    if packet.proto == 6:
        flags = packet.tcp_flags or 0
        head = struct.pack("!HHIIBBHHH", packet.sport, packet.dport, nonce, ack, 5 << 4, flags, 65000, 0, 0)
        return _summed(packet, source, destination, head, b"", 16)
    if packet.proto == 17:
        head = struct.pack("!HHHH", packet.sport, packet.dport, 8 + len(payload), 0)
        return _summed(packet, source, destination, head, payload, 6)
    rest = struct.pack("!HH", packet.icmp_id or 0, 1) if not quoted else bytes(4)
    head = struct.pack("!BBH", packet.icmp_type, packet.icmp_code, 0) + rest
    return _summed(packet, source, destination, head, quoted or payload, 2)


def _summed(packet: Packet, source: bytes, destination: bytes, head: bytes, payload: bytes, at: int) -> bytes:
    body = head + payload
    pseudo = b""
    if packet.proto != 1:
        pseudo = source + destination + struct.pack("!IHBB", len(body), 0, 0, packet.proto)
    value = checksum(pseudo + body)
    if value == 0 and packet.proto == 17:
        value = 0xFFFF
    return body[:at] + struct.pack("!H", value) + body[at + 2 :]


def network(packet: Packet, body: bytes) -> bytes:
    """A packet with its IP header."""
    if packet.family == 4:
        head = struct.pack(
            "!BBHHHBBH4s4s",
            0x45, packet.tos, 20 + len(body), 1, 0x4000 if packet.df else 0, packet.ttl, packet.proto, 0,
            packet.src.packed, packet.dst.packed,
        )  # fmt: skip
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
    first = 6 << 28 | packet.tos << 20
    return (
        struct.pack("!IHBB", first, len(body), packet.proto, packet.ttl) + packet.src.packed + packet.dst.packed + body
    )


def frame(dst_mac: str, src_mac: str, family: int, data: bytes) -> bytes:
    """An Ethernet frame around an IP packet."""
    return mac(dst_mac) + mac(src_mac) + struct.pack("!H", ETH[family]) + data


def mac(text: str) -> bytes:
    """The bytes of a MAC address."""
    return bytes(int(part, 16) for part in text.split(":"))


@dataclass
class Sight:
    """A packet that was captured: its headers, the flow it belongs to, and for ICMP errors what they quote."""

    packet: Packet
    flow: int
    quoted: Packet | None = None
    reset: bool = False


def read(data: bytes) -> Sight | None:
    """Read a captured frame; None when it is none of the oracle's."""
    if len(data) < 34:
        return None
    kind = struct.unpack("!H", data[12:14])[0]
    if kind not in (0x0800, 0x86DD):
        return None
    return _read_ip(data[14:])


def _read_ip(data: bytes, *, inner: bool = False) -> Sight | None:
    family = data[0] >> 4
    if family == 4 and len(data) >= 20:
        tos, length, ttl, proto = data[1], struct.unpack("!H", data[2:4])[0], data[8], data[9]
        source, destination, body = data[12:16], data[16:20], data[(data[0] & 15) * 4 : length]
    elif family == 6 and len(data) >= 40:
        tos, ttl, proto = (data[0] & 15) << 4 | data[1] >> 4, data[7], data[6]
        length = struct.unpack("!H", data[4:6])[0] + 40
        source, destination, body = data[8:24], data[24:40], data[40:length]
    else:
        return None
    fields: dict[str, int | None] = {}
    flow, quoted, reset = -1, None, False
    if proto == 6 and len(body) >= 14:
        sport, dport, seq, ack = struct.unpack("!HHII", body[:12])
        flags = body[13]
        fields = {"sport": sport, "dport": dport, "tcp_flags": flags}
        reset = bool(flags & 4) and not inner
        flow = ack >> 8 if reset and not seq else seq >> 8
    elif proto == 17 and len(body) >= 12:
        sport, dport = struct.unpack("!HH", body[:4])
        fields = {"sport": sport, "dport": dport}
        flow = struct.unpack("!I", body[8:12])[0] >> 8
    elif proto in (1, 58) and len(body) >= 8:
        fields = {"icmp_type": body[0], "icmp_code": body[1]}
        if (proto == 1 and body[0] in (3, 11)) or (proto == 58 and body[0] < 128):
            inside = _read_ip(body[8:], inner=True)
            if inside is None:
                return None
            quoted, flow = inside.packet, inside.flow
        else:
            fields["icmp_id"] = struct.unpack("!H", body[4:6])[0]
            flow = struct.unpack("!I", body[8:12])[0] >> 8 if len(body) >= 12 else -1
    else:
        return None
    packet = Packet(
        family=family, src=ip_address(source), dst=ip_address(destination),
        proto=proto, ttl=ttl, length=length, tos=tos,
        **fields,
    )  # fmt: skip
    return Sight(packet, flow, quoted, reset)


def drain(sock: socket.socket) -> list[bytes]:
    """Every frame that waits in a capture socket, but not those that left by its own device."""
    frames = []
    while True:
        try:
            data, where = sock.recvfrom(4096)
        except BlockingIOError:
            return frames
        if where[2] != 4:  # PACKET_OUTGOING
            frames.append(data)
