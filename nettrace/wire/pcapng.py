"""Write and read pcapng (IETF draft-ietf-opsawg-pcapng), with nanoseconds and with the direction at the device.

One interface stands for one point, and is named as the point is: "<namespace>/<device>". A file that is read may
come from anyone, so every length is checked before it is believed, and every complaint names its byte offset.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import msgspec

from nettrace.errors import InputError
from nettrace.model.base import Model
from nettrace.model.observe import Frame, Way
from nettrace.wire.link import ETHERNET, linktype

__all__ = ["MAX_BLOCK", "MAX_FRAMES", "Capture", "Interface", "read_pcapng", "write_pcapng"]

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_OLD_PACKET, _SIMPLE_PACKET = 2, 3
_BYTE_ORDER = 0x1A2B3C4D
_END, _COMMENT, _USER_APPLICATION, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS, _IF_TSOFFSET = 0, 1, 4, 2, 9, 2, 14
_INBOUND, _OUTBOUND = 1, 2
_SNAP_LENGTH = 0x40000

#: Largest block that is read, in bytes, and the most frames.
MAX_BLOCK = 1 << 20
MAX_FRAMES = 1_000_000
_MAX_INTERFACES = 4096


class Interface(Model):
    """One point of a capture. `linktype` is LINKTYPE_* (1 Ethernet, 101 raw IP)."""

    name: str
    linktype: int = 1


class Capture(Model):
    """What a pcapng file holds. `comments` are keyed by the index of the frame; `text` is the section's comment."""

    interfaces: tuple[Interface, ...] = ()
    frames: tuple[Frame, ...] = ()
    comments: dict[int, str] = msgspec.field(default_factory=dict)
    text: str = ""


def write_pcapng(
    frames: Sequence[Frame],
    *,
    arp_types: Mapping[str, int] | None = None,
    comments: Mapping[int, str] | None = None,
    text: str = "",
) -> bytes:
    """Return a pcapng file with one interface a point, in the order the points first occur.

    `arp_types` gives each point's ARPHRD type (Ethernet where it is silent), and its points come first, so that a
    point without a frame is in the file too; `comments` belong to frames by index; `text` comments on the whole file.
    """
    kinds = dict(arp_types or {})
    for frame in frames:
        kinds.setdefault(frame.point, ETHERNET)
    numbers = {point: number for number, point in enumerate(kinds)}
    parts = [_section(text)]
    parts.extend(_interface(point, linktype(kind)) for point, kind in kinds.items())
    notes = comments or {}
    parts.extend(_packet(frame, numbers[frame.point], notes.get(at, "")) for at, frame in enumerate(frames))
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _text_option(code: int, text: str) -> bytes:
    """A text, cut at the length that an option can have without splitting a character."""
    data = text.encode("utf-8", "replace")[:65535].decode("utf-8", "ignore").encode()
    return _option(code, data) if data else b""


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _section(text: str) -> bytes:
    options = _text_option(_COMMENT, text) + _option(_USER_APPLICATION, b"nettrace") + _option(_END, b"")
    return _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + options)


def _interface(name: str, kind: int) -> bytes:
    options = _text_option(_IF_NAME, name) + _option(_IF_TSRESOL, b"\x09") + _option(_END, b"")
    return _block(_INTERFACE, struct.pack("<HHI", kind, 0, _SNAP_LENGTH) + options)


def _packet(frame: Frame, interface: int, comment: str) -> bytes:
    flags = _OUTBOUND if frame.way is Way.OUT else _INBOUND
    options = _option(_EPB_FLAGS, struct.pack("<I", flags)) + _text_option(_COMMENT, comment) + _option(_END, b"")
    high, low = frame.at_ns >> 32 & 0xFFFFFFFF, frame.at_ns & 0xFFFFFFFF
    head = struct.pack("<IIIII", interface, high, low, len(frame.data), max(frame.length, len(frame.data)))
    return _block(_PACKET, head + _padded(frame.data) + options)


class _Clock(Model):
    """How one interface counts time: `divisor` ticks a second, from `offset_s` on."""

    divisor: int = 1_000_000
    offset_s: int = 0


class _Reader:
    """Walks the blocks of one file; `order` is struct's sign for the byte order of the sections."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.order = ""
        self.interfaces: list[Interface] = []
        self.clocks: list[_Clock] = []
        self.first = 0  # number of the section's first interface
        self.frames: list[Frame] = []
        self.comments: dict[int, str] = {}
        self.text = ""

    def fail(self, what: str) -> InputError:
        return InputError(f"this is not a readable pcapng file: {what} (at byte {self.at})")

    def read(self) -> Capture:
        if len(self.data) < 12 or self.data[:4] != b"\x0a\x0d\x0d\x0a":
            raise self.fail("it does not begin with a section header")
        while self.at < len(self.data):
            self._next()
        return Capture(
            interfaces=tuple(self.interfaces), frames=tuple(self.frames), comments=self.comments, text=self.text
        )

    def _next(self) -> None:
        if len(self.data) - self.at < 12:
            raise self.fail("it ends in the middle of a block")
        if self.data[self.at : self.at + 4] == b"\x0a\x0d\x0d\x0a":
            self._byte_order()
        kind, length = struct.unpack_from(self.order + "II", self.data, self.at)
        if length < 12 or length % 4 or length > MAX_BLOCK:
            raise self.fail(f"a block claims {length} bytes")
        end = self.at + length
        if end > len(self.data):
            raise self.fail("it ends in the middle of a block")
        (again,) = struct.unpack_from(self.order + "I", self.data, end - 4)
        if again != length:
            raise self.fail(f"a block's two lengths differ: {length} and {again}")
        body = self.data[self.at + 8 : end - 4]
        try:
            self._take(kind, body)
        except struct.error as error:
            raise self.fail("a block is too short for its own fields") from error
        self.at = end

    def _byte_order(self) -> None:
        orders = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
        order = orders.get(self.data[self.at + 8 : self.at + 12])
        if order is None:
            raise self.fail("the byte-order magic is wrong")
        if self.order and order != self.order:
            raise self.fail("sections of different byte order are mixed")
        self.order = order

    def _take(self, kind: int, body: bytes) -> None:
        if kind == _SECTION:
            self._take_section(body)
        elif kind == _INTERFACE:
            self._take_interface(body)
        elif kind == _PACKET:
            self._take_packet(body)
        elif kind in (_SIMPLE_PACKET, _OLD_PACKET):
            raise self.fail("it holds packets without a direction or a time (save it again with Wireshark)")
        # Other blocks (names, statistics, secrets) hold no packets, and the format asks readers to step over them.

    def _take_section(self, body: bytes) -> None:
        _magic, major, _minor, _length = struct.unpack_from(self.order + "IHHq", body)
        if major != 1:
            raise self.fail(f"version {major} of the format is not known")
        self.first = len(self.interfaces)
        notes = [value for code, value in self._options(body, 16) if code == _COMMENT]
        if notes and not self.text:
            self.text = notes[0].decode("utf-8", "replace")

    def _take_interface(self, body: bytes) -> None:
        if len(self.interfaces) >= _MAX_INTERFACES:
            raise self.fail(f"it has more than {_MAX_INTERFACES} interfaces")
        kind, _reserved, _snap = struct.unpack_from(self.order + "HHI", body)
        name, divisor, offset_s = "", 1_000_000, 0
        for code, value in self._options(body, 8):
            if code == _IF_NAME:
                name = value.decode("utf-8", "replace")
            elif code == _IF_TSRESOL:
                divisor = self._resolution(value)
            elif code == _IF_TSOFFSET:
                (offset_s,) = struct.unpack(self.order + "q", value)
        self.interfaces.append(Interface(name=name or f"interface {len(self.interfaces)}", linktype=kind))
        self.clocks.append(_Clock(divisor=divisor, offset_s=offset_s))

    def _resolution(self, value: bytes) -> int:
        if len(value) != 1 or value[0] & 0x7F > (63 if value[0] & 0x80 else 18):
            raise self.fail("an interface has an impossible time resolution")
        return 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]

    def _take_packet(self, body: bytes) -> None:
        if len(self.frames) >= MAX_FRAMES:
            raise self.fail(f"it has more than {MAX_FRAMES} packets")
        number, high, low, kept, length = struct.unpack_from(self.order + "IIIII", body)
        number += self.first
        if number >= len(self.interfaces):
            raise self.fail("a packet belongs to an interface that is not in the file")
        if kept > len(body) - 20:
            raise self.fail("a packet is longer than its block")
        if length < kept:
            raise self.fail("a packet claims to be shorter than what was kept of it")
        way, notes = Way.IN, []
        for code, value in self._options(body, 20 + kept + -kept % 4):
            if code == _EPB_FLAGS:
                (flags,) = struct.unpack(self.order + "I", value)
                way = Way.OUT if flags & 3 == _OUTBOUND else Way.IN
            elif code == _COMMENT:
                notes.append(value.decode("utf-8", "replace"))
        if notes:
            self.comments[len(self.frames)] = "\n".join(notes)
        clock = self.clocks[number]
        at_ns = clock.offset_s * 1_000_000_000 + (high << 32 | low) * 1_000_000_000 // clock.divisor
        frame = Frame(
            point=self.interfaces[number].name, way=way, at_ns=at_ns, data=body[20 : 20 + kept], length=length
        )
        self.frames.append(frame)

    def _options(self, body: bytes, at: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while at + 4 <= len(body):
            code, length = struct.unpack_from(self.order + "HH", body, at)
            if code == _END:
                break
            at += 4
            if at + length > len(body):
                raise self.fail("an option is longer than its block")
            found.append((code, body[at : at + length]))
            at += length + -length % 4
        return found


def read_pcapng(data: bytes) -> Capture:
    """Read a pcapng file of either byte order.

    Raises InputError, with the place in the file, on wrong or contradicting lengths, truncation, sections of mixed
    byte order, unknown interfaces, and files beyond MAX_FRAMES packets or MAX_BLOCK bytes in one block.
    """
    return _Reader(data).read()
