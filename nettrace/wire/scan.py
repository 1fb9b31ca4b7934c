"""Find the few packets that matter in a large capture file, pcap or pcapng, without taking the others apart.

Captures are searched for needles (byte strings that every wanted packet holds) with bytes.find, a window of the file at
a time, and the chain of records is walked beside it, so that a needle counts only where it lies within one packet's
data. Time grows with the size of the file, memory does not. The file may come from anyone: every length is checked
before it is believed, and every complaint names its byte offset. A file that merely ends too early (its writer was
killed, the disk was full) is read as far as it goes, and says so.

Formats: pcap of both byte orders, with µs and ns (pcap-savefile(5)); pcapng of both byte orders, with several
sections (IETF draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from nettrace.errors import InputError
from nettrace.model.base import Model
from nettrace.model.observe import Way

__all__ = ["MAX_BLOCK", "MAX_TAPS", "Record", "Scan", "Tap", "is_capture", "scan"]

#: Largest block or record that is read, in bytes; libpcap's own limit of a packet is a quarter of it.
MAX_BLOCK = 1 << 20
MAX_TAPS = 4096
#: Bytes that are searched at a time, and bytes of packets that are kept at most.
WINDOW = 4 << 20
MAX_KEPT = 24 << 20
_LAST_NS = 1 << 63

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 2, 3, 5, 6
_END, _IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_FILTER, _IF_TSOFFSET = 0, 2, 3, 9, 11, 14
_ISB_START, _ISB_END, _ISB_IFDROP, _ISB_OSDROP, _EPB_FLAGS = 2, 3, 5, 7, 2
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
#: First bytes of a pcap file: its byte order, and ns in one tick of its clock.
_PCAP = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PACKED = {b"\x1f\x8b": "gunzip", b"\x28\xb5": "unzstd", b"\xfd7": "unxz", b"BZ": "bunzip2"}


class Tap(Model):
    """One interface of a capture file. `linktype` is LINKTYPE_*, `snaplen` in bytes (0: unlimited).

    `name`, `description` and `filter` are what the file says, empty where it says nothing. `first_ns` and `last_ns`
    are the times of the first and the last packet, or of the capture's start and end where the file tells them; None
    when there was no packet. `dropped` packets are those that the capture itself says it lost. `full_ns` is the time
    of the first packet that was not kept any more, None when all were.
    """

    linktype: int
    name: str = ""
    description: str = ""
    snaplen: int = 0
    filter: str = ""
    first_ns: int | None = None
    last_ns: int | None = None
    dropped: int = 0
    full_ns: int | None = None


class Record(Model):
    """One packet that holds a needle: `tap` numbers its interface, `length` is what it had on the wire.

    `way` is None where the file does not tell it. `at` is the place in the file, in bytes.
    """

    tap: int
    at_ns: int
    data: bytes
    length: int
    way: Way | None = None
    at: int = 0


class Scan(Model):
    """What was found in one file. `cut` says why the file was not read to a proper end, empty when it was."""

    taps: tuple[Tap, ...] = ()
    records: tuple[Record, ...] = ()
    cut: str = ""


def is_capture(start: bytes) -> bool:
    """Tell whether a file that begins with these four bytes is a capture."""
    return start[:4] == b"\x0a\x0d\x0d\x0a" or start[:4] in _PCAP


def scan(
    stream: BinaryIO, needles: Sequence[bytes] = (), *, most: int = 5000, keep: int = MAX_BLOCK, window: int = WINDOW
) -> Scan:
    """Return the interfaces of a capture file and its packets that hold any needle; without needles, all packets.

    At most `most` packets are kept of each interface (without needles: of the whole file, which is read no further),
    and the first `keep` bytes of each. `stream` is read once, from its beginning, `window` bytes at a time. Raises
    InputError, with the place in the file, on anything that is no capture or contradicts itself; a record that the
    file ends in the middle of is left out, and told in `cut`.
    """
    buffer = bytearray(max(window, 64) + MAX_BLOCK + _MARGIN)
    count = _fill(stream, buffer, _MARGIN, max(window, 64))
    start = bytes(buffer[_MARGIN : _MARGIN + min(count, 4)])
    kinds: dict[bytes, type[_Reader]] = {b"\x0a\x0d\x0d\x0a": _Pcapng, **dict.fromkeys(_PCAP, _Pcap)}
    if start not in kinds:
        tool = _PACKED.get(start[:2])
        if tool is not None:
            raise InputError(f"this capture is compressed: unpack it first, with {tool}")
        raise InputError("this is neither a pcap nor a pcapng file (at byte 0)")
    reader = kinds[start](stream, buffer, _MARGIN + count, needles, most, keep, max(window, 64))
    return reader.read()


#: Room before the data, for the length that ends the block before.
_MARGIN = 4


def _fill(stream: BinaryIO, buffer: bytearray, at: int, most: int) -> int:
    """Read until `most` bytes are there or the stream ends; returns how many were read."""
    view = memoryview(buffer)
    got = 0
    while got < most:
        piece = stream.read(most - got)
        if not piece:
            break
        view[at + got : at + got + len(piece)] = piece
        got += len(piece)
    return got


class _Open(msgspec.Struct):
    """A tap while its file is being read: how it counts time, and what was kept of it."""

    tap: Tap
    divisor: int = 1_000_000
    offset_s: int = 0
    kept: int = 0
    first: int | None = None
    last: int | None = None
    started: int | None = None
    ended: int | None = None
    dropped: int = 0
    full: int | None = None


class _Reader:
    """One file being read. `at` and `end` delimit what is in the buffer and not walked yet, `base` is where it lies."""

    #: Bytes that a record's own header has at least.
    least = 0
    what = "capture"

    def __init__(
        self,
        stream: BinaryIO,
        buffer: bytearray,
        end: int,
        needles: Sequence[bytes],
        most: int,
        keep: int,
        window: int,
    ) -> None:
        self.stream, self.buffer, self.end = stream, buffer, end
        self.needles = tuple(dict.fromkeys(each for each in needles if each))
        self.every = not needles
        self.most, self.keep, self.window = most, keep, window
        self.at = _MARGIN
        self.base = -_MARGIN
        self.taps: list[_Open] = []
        self.records: list[Record] = []
        self.room = MAX_KEPT
        self.cut = ""

    def fail(self, what: str, at: int | None = None) -> InputError:
        place = self.base + (self.at if at is None else at)
        return InputError(f"this is not a readable {self.what} file: {what} (at byte {place})")

    def read(self) -> Scan:
        self.begin()
        while True:
            self._window()
            rest = self.end - self.at
            # What is left is the beginning of a record, and the length before it that its check needs.
            self.buffer[: rest + _MARGIN] = self.buffer[self.at - _MARGIN : self.end]
            self.base += self.at - _MARGIN
            self.at, self.end = _MARGIN, _MARGIN + rest
            if self.cut:
                return self._found()
            got = _fill(self.stream, self.buffer, self.end, self.window)
            self.end += got
            if not got:
                break
        self.finish()
        if self.at < self.end:
            self.cut = f"it ends in the middle of a packet (at byte {self.base + self.at}), and was read up to there"
        return self._found()

    def _found(self) -> Scan:
        return Scan(taps=tuple(self._closed(each) for each in self.taps), records=tuple(self.records), cut=self.cut)

    def begin(self) -> None:
        """Read what stands once, at the head of the file."""

    def finish(self) -> None:
        """Check what could not be checked before the file's end was known."""

    def walk(self, until: int) -> bool:
        """Walk records until one ends behind `until`, the last of them `self.seen`; False where they are all walked."""
        raise NotImplementedError

    def take(self) -> None:
        """Keep the record that was walked last, if it is a packet that holds a needle."""
        raise NotImplementedError

    def flush(self) -> None:
        """Note what walking a window has shown of the taps."""

    def _window(self) -> None:
        """Walk all whole records in the buffer, and take those that may hold a needle."""
        if self.every:
            while self.walk(self.at):
                self.take()
                if len(self.records) >= self.most:
                    self.cut = f"only its first {self.most} packets were looked at"
                    break
        else:
            find, end = self.buffer.find, self.end
            ahead = [find(each, self.at, end) for each in self.needles]
            while True:
                targets = [each for each in ahead if each >= 0]
                if not targets:
                    break
                if not self.walk(min(targets)):
                    break
                self.take()
                at = self.at
                for index, place in enumerate(ahead):
                    if 0 <= place < at:
                        ahead[index] = find(self.needles[index], at, end)
            while self.walk(self.end):
                pass
        self.flush()

    def holds(self, start: int, end: int) -> bool:
        """Tell whether a packet's data, from `start` to `end` in the buffer, hold a needle."""
        return self.every or any(self.buffer.find(each, start, end) >= 0 for each in self.needles)

    def keep_record(self, number: int, at_ns: int, start: int, end: int, length: int, way: Way | None) -> None:
        tap = self.taps[number]
        size = min(end - start, self.keep)
        if tap.full is not None or tap.kept >= self.most or self.room < size:
            tap.full = at_ns
            return
        tap.kept += 1
        self.room -= size
        data = bytes(self.buffer[start : start + size])
        self.records.append(Record(tap=number, at_ns=at_ns, data=data, length=length, way=way, at=self.base + start))

    def time(self, tap: _Open, ticks: int, at: int) -> int:
        at_ns = tap.offset_s * 1_000_000_000 + ticks * 1_000_000_000 // tap.divisor
        if not 0 <= at_ns < _LAST_NS:
            raise self.fail("a packet claims a time that no clock shows", at)
        return at_ns

    def _closed(self, tap: _Open) -> Tap:
        begins = [each for each in (tap.first, tap.started) if each is not None]
        ends = [each for each in (tap.last, tap.ended) if each is not None]
        return msgspec.structs.replace(
            tap.tap,
            first_ns=min(begins) if begins else None,
            last_ns=max(ends) if ends else None,
            dropped=tap.dropped,
            full_ns=tap.full,
        )


class _Pcap(_Reader):
    """A pcap file: one interface, and nothing between the packets' records."""

    what = "pcap"

    def begin(self) -> None:
        magic = bytes(self.buffer[self.at : self.at + 4])
        self.order, tick_ns = _PCAP[magic]
        if self.end - self.at < 24:
            raise self.fail("it ends within its header", self.end)
        major, _minor, _zone, _sigfigs, snaplen, network = struct.unpack_from(
            self.order + "HHiIII", self.buffer, self.at + 4
        )
        if major != 2:
            raise self.fail(f"version {major} of the format is not known")
        # The upper bits tell of a frame check sequence at the end of each packet.
        tap = Tap(linktype=network & 0xFFFF, snaplen=snaplen)
        self.taps.append(_Open(tap=tap, divisor=1_000_000_000 // tick_ns))
        self.at += 24
        self.seen = self.at

    def walk(self, until: int) -> bool:
        at, end, buffer = self.at, self.end, self.buffer
        unpack = struct.Struct(self.order + "I").unpack_from
        seen = -1
        stop = end - 16
        while at <= until and at <= stop:
            (kept,) = unpack(buffer, at + 8)
            if kept > MAX_BLOCK - 16:
                raise self.fail(f"a packet claims {kept} bytes", at)
            following = at + 16 + kept
            if following > end:
                break
            seen, at = at, following
        if seen < 0:
            return False
        if self.taps[0].first is None:
            self.taps[0].first = self._time(self.at)
        self.at = at
        self.seen = seen
        return at > until

    def _time(self, at: int) -> int:
        seconds, ticks = struct.unpack_from(self.order + "II", self.buffer, at)
        tap = self.taps[0]
        return self.time(tap, seconds * tap.divisor + ticks, at)

    def flush(self) -> None:
        if self.taps[0].first is not None and self.seen < self.at:
            self.taps[0].last = self._time(self.seen)

    def take(self) -> None:
        kept, length = struct.unpack_from(self.order + "II", self.buffer, self.seen + 8)
        start = self.seen + 16
        if self.taps[0].full is None and self.holds(start, start + kept):
            self.keep_record(0, self._time(self.seen), start, start + kept, max(length, kept), None)


class _Pcapng(_Reader):
    """A pcapng file: sections of blocks, each with its length at both ends."""

    what = "pcapng"

    def begin(self) -> None:
        self._count_in("<")
        self.base_tap = 0  # number of the section's first interface
        self.length = 0  # of the block before, which must stand at its end as well
        self.seen = self.at
        self.firsts: dict[int, int] = {}
        self.lasts: dict[int, int] = {}

    def walk(self, until: int) -> bool:
        at, end, buffer, length = self.at, self.end, self.buffer, self.length
        firsts, lasts = self.firsts, self.lasts
        unpack = self.unpack
        stop = end - 12
        seen = -1
        while at <= until and at <= stop:
            again, kind, claimed, number = unpack(buffer, at - 4)
            if again != length:
                raise self.fail(f"a block's two lengths differ: {length} and {again}", at)
            if kind != _PACKET or claimed < 32 or claimed & 3 or claimed > MAX_BLOCK:
                order = self.order
                if kind == _SECTION:
                    order = self._order_of(at)
                    (claimed,) = struct.unpack_from(order + "I", buffer, at + 4)
                if claimed < 12 or claimed & 3 or claimed > MAX_BLOCK:
                    raise self.fail(f"a block claims {claimed} bytes", at)
                if at + claimed > end:
                    break
                if kind == _PACKET:
                    raise self.fail("a block is too short for its own fields", at)
                if order != self.order:
                    self.flush()  # the packets before are written as their own section has it
                    self._count_in(order)
                    unpack = self.unpack
                self._other(kind, at, claimed)
            elif at + claimed > end:
                break
            else:
                lasts[number] = at
                if number not in firsts:
                    firsts[number] = at
            seen, length = at, claimed
            at += claimed
        if seen < 0:
            return False
        self.at, self.length, self.seen = at, length, seen
        return at > until

    def finish(self) -> None:
        if self.at == self.end and self.length:
            (again,) = struct.unpack_from(self.order + "I", self.buffer, self.at - 4)
            if again != self.length:
                raise self.fail(f"a block's two lengths differ: {self.length} and {again}")

    def _order_of(self, at: int) -> str:
        """Return struct's sign for the byte order of a section."""
        order = _ORDERS.get(bytes(self.buffer[at + 8 : at + 12]))
        if order is None:
            raise self.fail("the byte-order magic is wrong", at)
        return order

    def _count_in(self, order: str) -> None:
        self.order = order
        self.unpack = struct.Struct(order + "IIII").unpack_from

    def flush(self) -> None:
        for places, which in ((self.firsts, 0), (self.lasts, 1)):
            for number, at in places.items():
                tap, at_ns = self._packet_time(number, at)
                if which == 0:
                    tap.first = at_ns if tap.first is None else min(tap.first, at_ns)
                tap.last = at_ns if tap.last is None else max(tap.last, at_ns)
            places.clear()

    def _packet_time(self, number: int, at: int) -> tuple[_Open, int]:
        number += self.base_tap
        if number >= len(self.taps):
            raise self.fail("a packet belongs to an interface that is not in the file", at)
        high, low = struct.unpack_from(self.order + "II", self.buffer, at + 12)
        tap = self.taps[number]
        return tap, self.time(tap, high << 32 | low, at)

    def take(self) -> None:
        at = self.seen
        kind, claimed, number, _high, _low, kept, length = struct.unpack_from(self.order + "7I", self.buffer, at)
        if kind != _PACKET:
            return
        start = at + 28
        if kept > claimed - 32:
            raise self.fail("a packet is longer than its block", at)
        tap, at_ns = self._packet_time(number, at)
        if tap.full is not None or not self.holds(start, start + kept):
            return
        way: Way | None = None
        for code, value in self._options(start + kept + -kept % 4, at + claimed - 4):
            if code == _EPB_FLAGS and len(value) == 4:
                (flags,) = struct.unpack(self.order + "I", value)
                way = {1: Way.IN, 2: Way.OUT}.get(flags & 3)
        self.keep_record(self.base_tap + number, at_ns, start, start + kept, max(length, kept), way)

    def _other(self, kind: int, at: int, claimed: int) -> None:
        """Read a block that is no packet; those that are not known hold none, and are stepped over."""
        (again,) = struct.unpack_from(self.order + "I", self.buffer, at + claimed - 4)
        if again != claimed:
            raise self.fail(f"a block's two lengths differ: {claimed} and {again}", at)
        try:
            if kind == _SECTION:
                self._section(at)
            elif kind == _INTERFACE:
                self._interface(at, claimed)
            elif kind == _STATISTICS:
                self._statistics(at, claimed)
        except struct.error as error:
            raise self.fail("a block is too short for its own fields", at) from error
        if kind in (_SIMPLE_PACKET, _OLD_PACKET):
            raise self.fail("it holds packets without a direction or a time (save it again with Wireshark)", at)

    def _section(self, at: int) -> None:
        self.flush()  # what comes belongs to interfaces of this section
        major, _minor = struct.unpack_from(self.order + "HH", self.buffer, at + 12)
        if major != 1:
            raise self.fail(f"version {major} of the format is not known", at)
        self.base_tap = len(self.taps)

    def _interface(self, at: int, claimed: int) -> None:
        if len(self.taps) >= MAX_TAPS:
            raise self.fail(f"it has more than {MAX_TAPS} interfaces", at)
        if claimed < 20:
            raise self.fail("a block is too short for its own fields", at)
        linktype, _reserved, snaplen = struct.unpack_from(self.order + "HHI", self.buffer, at + 8)
        texts, divisor, offset_s = {_IF_NAME: "", _IF_DESCRIPTION: "", _IF_FILTER: ""}, 1_000_000, 0
        for code, value in self._options(at + 16, at + claimed - 4):
            if code in texts:
                # A filter begins with a byte that says how it is written (0: as text).
                texts[code] = value[code == _IF_FILTER :].decode("utf-8", "replace")
            elif code == _IF_TSRESOL:
                divisor = self._resolution(value, at)
            elif code == _IF_TSOFFSET:
                (offset_s,) = struct.unpack(self.order + "q", value)
        tap = Tap(
            linktype=linktype,
            name=texts[_IF_NAME],
            description=texts[_IF_DESCRIPTION],
            snaplen=snaplen,
            filter=texts[_IF_FILTER],
        )
        self.taps.append(_Open(tap=tap, divisor=divisor, offset_s=offset_s))

    def _resolution(self, value: bytes, at: int) -> int:
        if len(value) != 1 or value[0] & 0x7F > (63 if value[0] & 0x80 else 18):
            raise self.fail("an interface has an impossible time resolution", at)
        return 1 << (value[0] & 0x7F) if value[0] & 0x80 else int(10 ** value[0])

    def _statistics(self, at: int, claimed: int) -> None:
        """An interface statistics block: when the capture began and ended, and what it lost."""
        if claimed < 24:
            raise self.fail("a block is too short for its own fields", at)
        (number,) = struct.unpack_from(self.order + "I", self.buffer, at + 8)
        number += self.base_tap
        if number >= len(self.taps):
            raise self.fail("statistics belong to an interface that is not in the file", at)
        tap, dropped = self.taps[number], 0
        for code, value in self._options(at + 20, at + claimed - 4):
            if len(value) != 8:
                continue
            if code in (_ISB_START, _ISB_END):
                high, low = struct.unpack(self.order + "II", value)
                at_ns = self.time(tap, high << 32 | low, at)
                tap.started, tap.ended = (at_ns, tap.ended) if code == _ISB_START else (tap.started, at_ns)
            elif code in (_ISB_IFDROP, _ISB_OSDROP):
                (lost,) = struct.unpack(self.order + "Q", value)
                dropped += lost
        tap.dropped = max(tap.dropped, dropped)

    def _options(self, at: int, end: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while at + 4 <= end:
            code, length = struct.unpack_from(self.order + "HH", self.buffer, at)
            if code == _END:
                break
            at += 4
            if at + length > end:
                raise self.fail("an option is longer than its block", at)
            found.append((code, bytes(self.buffer[at : at + length])))
            at += length + -length % 4
        return found
