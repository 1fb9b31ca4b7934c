"""Capture files made by hand for the tests, and a slow reader of them to hold the fast one against."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

NS = 1_000_000_000


@dataclass(frozen=True)
class Slow:
    """One packet as the slow reader has it."""

    tap: int
    at_ns: int
    data: bytes
    length: int


def pcap(
    packets: Sequence[tuple[int, bytes]], *, order: str = "<", nanoseconds: bool = False, linktype: int = 1,
    snaplen: int = 262144,
) -> bytes:  # fmt: skip
    """A pcap file of packets, each with its time in ns."""
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)]
    for at_ns, data in packets:
        part = at_ns % NS if nanoseconds else at_ns % NS // 1000
        parts.append(struct.pack(order + "IIII", at_ns // NS, part, len(data), len(data)) + data)
    return b"".join(parts)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + padded(value)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    length = len(body) + 12
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def section(order: str = "<", options: bytes = b"", major: int = 1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1) + options, order)


def interface(order: str = "<", options: bytes = b"", linktype: int = 1, snaplen: int = 0) -> bytes:
    return block(1, struct.pack(order + "HHI", linktype, 0, snaplen) + options, order)


def packet(
    number: int, ticks: int, data: bytes, order: str = "<", options: bytes = b"", length: int | None = None
) -> bytes:
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length or len(data))
    return block(6, head + padded(data) + options, order)


def slowly(data: bytes) -> list[Slow]:
    """Every packet of a well-formed file, found by walking it one field at a time, with no window and no search."""
    magics = {b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000)}
    magics |= {b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1)}
    found: list[Slow] = []
    if data[:4] in magics:
        order, tick = magics[data[:4]]
        at = 24
        while at < len(data):
            seconds, part, kept, length = struct.unpack_from(order + "IIII", data, at)
            found.append(Slow(0, seconds * NS + part * tick, data[at + 16 : at + 16 + kept], length))
            at += 16 + kept
        return found
    at, order, base, divisors = 0, "<", 0, list[int]()
    while at < len(data):
        if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8] == 0x4D else ">"
            base = len(divisors)
        kind, total = struct.unpack_from(order + "II", data, at)
        if kind == 1:
            place = at + 16
            divisor = 1_000_000
            while place < at + total - 4:
                code, size = struct.unpack_from(order + "HH", data, place)
                if code == 9:
                    divisor = 10 ** data[place + 4]
                place += 4 + size + -size % 4
            divisors.append(divisor)
        elif kind == 6:
            number, high, low, kept, length = struct.unpack_from(order + "IIIII", data, at + 8)
            at_ns = (high << 32 | low) * NS // divisors[base + number]
            found.append(Slow(base + number, at_ns, data[at + 28 : at + 28 + kept], length))
        at += total
    return found
