"""The fast scan of capture files: it finds what a slow reader finds, whatever lies where, and bears hostile files."""

from __future__ import annotations

import io
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace.errors import InputError
from nettrace.model.observe import Frame, Way
from nettrace.wire import scan as module
from nettrace.wire.pcapng import write_pcapng
from nettrace.wire.scan import MAX_BLOCK, MAX_TAPS, Scan, scan
from tests.wire.captures import NS, Slow, block, interface, option, packet, pcap, section, slowly

#: A needle whose beginning is its end, so that hits overlap, and one that every length field may hold.
NEEDLES = (b"\x06\x06\x00\x06\x06", b"\x00\x00\x01", b"needle")
ORDERS = st.sampled_from("<>")
#: Data that hold needles often, in whole and in part, also across what follows them.
PIECES = st.sampled_from([*NEEDLES, b"need", b"le", b"\x06", b"\x00", b"\x06\x06\x00", b"x" * 7])
DATA = st.lists(PIECES, max_size=6).map(b"".join)


def looked(data: bytes, needles: tuple[bytes, ...] = NEEDLES, **limits: int) -> Scan:
    return scan(io.BytesIO(data), needles, **limits)


def agree(data: bytes, window: int) -> None:
    """Both readers find the same packets, and the same first and last times of each interface."""
    every = slowly(data)
    wanted = [each for each in every if any(needle in each.data for needle in NEEDLES)]
    found = looked(data, window=window)
    assert [Slow(each.tap, each.at_ns, each.data, each.length) for each in found.records] == wanted
    assert all(data[each.at : each.at + len(each.data)] == each.data for each in found.records)
    for number, tap in enumerate(found.taps):
        times = [each.at_ns for each in every if each.tap == number]
        assert (tap.first_ns, tap.last_ns) == (min(times, default=None), max(times, default=None))
    assert found.cut == ""
    all_of_them = scan(io.BytesIO(data), window=window)
    assert [each.data for each in all_of_them.records] == [each.data for each in every]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**32 * NS - 1), DATA), max_size=12), ORDERS, st.booleans(), st.integers(64, 200)
)
def test_a_pcap_is_read_as_the_slow_reader_reads_it(
    packets: list[tuple[int, bytes]], order: str, nanoseconds: bool, window: int
) -> None:
    packets.sort()
    agree(pcap(packets, order=order, nanoseconds=nanoseconds), window)


@st.composite
def sections(draw: st.DrawFn) -> bytes:
    """Sections of either byte order, each with interfaces of its own, packets, and blocks that are stepped over."""
    parts = []
    ticks = 0
    for _ in range(draw(st.integers(1, 3))):
        order = draw(ORDERS)
        parts.append(section(order, option(1, draw(DATA), order)))
        count = draw(st.integers(1, 3))
        for _ in range(count):
            resolution = option(9, bytes([draw(st.sampled_from([6, 9]))]), order)
            parts.append(interface(order, option(2, b"needle", order) + resolution))
        for _ in range(draw(st.integers(0, 8))):
            if draw(st.integers(0, 5)) == 0:
                parts.append(block(draw(st.sampled_from([4, 0xBAD, 0x40000001])), bytes(4) + b"needle  ", order))
            ticks += draw(st.integers(0, 2**34))
            notes = option(1, draw(DATA), order) if draw(st.booleans()) else b""
            number = draw(st.integers(0, count - 1))
            parts.append(packet(number, ticks, draw(DATA), order, notes, length=draw(st.integers(100, 70000))))
    return b"".join(parts)


@settings(deadline=None)
@given(sections(), st.integers(64, 300))
def test_a_pcapng_is_read_as_the_slow_reader_reads_it(data: bytes, window: int) -> None:
    agree(data, window)


def test_what_the_file_says_of_its_interfaces() -> None:
    lost = option(2, struct.pack("<II", 0, 1_000_000)) + option(3, struct.pack("<II", 0, 9_000_000))
    lost += option(5, struct.pack("<Q", 3)) + option(7, struct.pack("<Q", 4))
    texts = option(2, b"eth0") + option(3, b"the uplink") + option(11, b"\x00tcp port 80")
    data = section() + interface(options=texts, linktype=276, snaplen=96) + packet(0, 5_000_000, b"needle")
    data += block(5, struct.pack("<III", 0, 0, 0) + lost)
    (tap,) = looked(data).taps
    assert (tap.name, tap.description, tap.filter, tap.linktype, tap.snaplen) == (
        "eth0", "the uplink", "tcp port 80", 276, 96,
    )  # fmt: skip
    assert (tap.first_ns, tap.last_ns, tap.dropped) == (1 * NS, 9 * NS, 7)


def test_the_direction_is_kept_where_the_file_tells_it() -> None:
    frames = [Frame(point="a/b", way=way, at_ns=10**18, data=b"needle", length=60) for way in (Way.OUT, Way.IN)]
    assert [each.way for each in looked(write_pcapng(frames)).records] == [Way.OUT, Way.IN]
    assert looked(pcap([(0, b"needle")])).records[0].way is None


def test_a_needle_that_lies_across_two_packets_is_none() -> None:
    assert looked(pcap([(0, b"nee"), (1, b"dle")]), (b"needle",)).records == ()
    joined = section() + interface() + packet(0, 1, b"nee", options=b"dle\x00") + packet(0, 2, b"xneedle")
    assert [each.data for each in looked(joined, (b"needle",)).records] == [b"xneedle"]


def test_no_more_is_kept_than_was_asked_for_and_it_is_told() -> None:
    data = pcap([(each * NS, b"needle" + bytes(50)) for each in range(10)])
    found = looked(data, most=4, keep=8)
    assert [each.data for each in found.records] == [b"needle\x00\x00"] * 4
    assert (found.taps[0].full_ns, found.taps[0].last_ns) == (4 * NS, 9 * NS)
    listed = scan(io.BytesIO(data), most=3)
    assert (len(listed.records), "first 3 packets" in listed.cut) == (3, True)


HEAD = section() + interface()

#: Files that contradict themselves: each is refused, with the place.
BROKEN = {
    "nothing": (b"", "neither"),
    "text": (b"not a capture at all", "neither"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), "gunzip"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "unzstd"),
    "byte order magic": (HEAD[:8] + bytes(4) + HEAD[12:], "byte-order magic"),
    "future section": (section(major=2), "version 2"),
    "length 0": (HEAD + struct.pack("<II", 6, 0) + bytes(40), "claims 0 bytes"),
    "length 3": (HEAD + struct.pack("<II", 6, 3) + bytes(40), "claims 3 bytes"),
    "length 4": (HEAD + struct.pack("<II", 6, 4) + bytes(40), "claims 4 bytes"),
    "length 8": (HEAD + struct.pack("<II", 1, 8) + bytes(40), "claims 8 bytes"),
    "length odd": (HEAD + struct.pack("<II", 6, 45) + bytes(60), "claims 45 bytes"),
    "length of all": (HEAD + struct.pack("<II", 6, 2**32 - 1) + bytes(40), "claims 4294967295 bytes"),
    "length too great": (HEAD + struct.pack("<II", 9, MAX_BLOCK + 4) + bytes(40), "claims"),
    "section of length 0": (struct.pack("<III", 0x0A0D0D0A, 0, 0x1A2B3C4D) + bytes(40), "claims 0 bytes"),
    "lengths differ": (HEAD + packet(0, 1, b"abcd")[:-4] + struct.pack("<I", 99) + HEAD, "two lengths differ"),
    "last lengths differ": (HEAD + packet(0, 1, b"abcd")[:-4] + struct.pack("<I", 99), "two lengths differ"),
    "name lengths differ": (section() + interface()[:-4] + bytes(4), "two lengths differ"),
    "no such interface": (HEAD + packet(7, 1, b"needle"), "interface that is not in the file"),
    "interface of the section before": (HEAD + section() + packet(0, 1, b"needle"), "interface that is not"),
    "statistics of no interface": (HEAD + block(5, struct.pack("<III", 4, 0, 0)), "interface that is not"),
    "short packet": (HEAD + block(6, bytes(16)), "too short"),
    "short interface": (section() + block(1, bytes(4)), "too short"),
    "short statistics": (HEAD + block(5, bytes(8)), "too short"),
    "kept too much": (HEAD + block(6, struct.pack("<IIIII", 0, 0, 0, 99, 99) + b"needle__"), "longer than its block"),
    "kept 4 GiB": (HEAD + block(6, struct.pack("<5I", 0, 0, 0, 2**32 - 1, 9) + b"needle__"), "longer than its block"),
    "option overruns": (section() + interface(options=struct.pack("<HH", 2, 200)), "option is longer"),
    "packet's option overruns": (HEAD + packet(0, 1, b"needle", options=struct.pack("<HH", 2, 9)), "option is longer"),
    "no resolution": (section() + interface(options=option(9, b"\x63")), "time resolution"),
    "binary resolution": (section() + interface(options=option(9, b"\xff")), "time resolution"),
    "resolution of two bytes": (section() + interface(options=option(9, b"\x06\x06")), "time resolution"),
    "offset of two bytes": (section() + interface(options=option(14, b"\x06\x06")), "too short"),
    "time without end": (section() + interface(options=option(9, b"\x00")) + packet(0, 2**63, b"needle"), "no clock"),
    "time before 1970": (
        section() + interface(options=option(14, struct.pack("<q", -(2**62)))) + packet(0, 1, b"needle"), "no clock",
    ),
    "simple packet": (HEAD + block(3, bytes(8)), "without a direction"),
    "old packet": (HEAD + block(2, bytes(24)), "without a direction"),
    "pcap of version 9": (struct.pack("<IHHiIII", 0xA1B2C3D4, 9, 4, 0, 0, 0, 1), "version 9"),
    "pcap header cut": (pcap([])[:20], "within its header"),
    "pcap record of 4 GiB": (pcap([]) + struct.pack("<IIII", 0, 0, 2**32 - 1, 1), "claims 4294967295 bytes"),
    "pcap in the other order": (pcap([]) + struct.pack(">IIII", 0, 0, 60, 60) + bytes(60), "claims"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_contradicts_itself_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        looked(data)
    with pytest.raises(InputError, match=reason):
        looked(data, (), window=64)


@settings(deadline=None)
@given(sections(), st.data())
def test_a_file_that_ends_too_early_is_read_up_to_there(data: bytes, more: st.DataObject) -> None:
    size = more.draw(st.integers(12, len(data) - 1))
    found = looked(data[:size])
    whole = looked(data)
    assert found.records == whole.records[: len(found.records)]
    at_an_end = any(data[:size] == data[:end] for end in ends(data))
    assert (found.cut == "") == at_an_end
    if found.cut:
        assert f"at byte {max(end for end in ends(data) if end <= size)}" in found.cut


def ends(data: bytes) -> list[int]:
    found, at, order = [0], 0, "<"
    while at < len(data):
        if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8] == 0x4D else ">"
        at += struct.unpack_from(order + "I", data, at + 4)[0]
        found.append(at)
    return found


@settings(deadline=None)
@given(st.one_of(sections(), st.just(pcap([(5, b"needle"), (9, b"xx")]))), st.data())
def test_any_file_is_read_or_refused(data: bytes, more: st.DataObject) -> None:
    content = bytearray(data)
    for _ in range(more.draw(st.integers(1, 4))):
        at = more.draw(st.integers(0, len(content) - 1))
        content[at : at + 1] = more.draw(st.sampled_from([b"", b"\x00", b"\xff", b"\x06", b"\x0a\x0d\x0d\x0a"]))
    for window in (64, 1 << 12):
        try:
            found = looked(bytes(content), window=window)
        except InputError:
            continue
        assert all(0 <= each.at_ns < 2**63 for each in found.records)


def test_a_million_interfaces_are_refused() -> None:
    with pytest.raises(InputError, match=f"more than {MAX_TAPS} interfaces"):
        looked(section() + interface() * 1_000_000)


@settings(deadline=None)
@given(st.sampled_from([b"\x00" * 4, b"\x00"]), st.booleans())
def test_a_needle_that_is_everywhere_costs_no_memory(needle: bytes, classic: bool) -> None:
    many = [(each, bytes(60)) for each in range(20_000)]
    data = pcap(many) if classic else HEAD + b"".join(packet(0, at, zeros) for at, zeros in many)
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        found = scan(stream, (needle,), most=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.records) == 100
    assert peak < module.WINDOW * 2 + MAX_BLOCK + (2 << 20)


def test_the_packets_kept_are_bounded_in_bytes() -> None:
    large = bytes(MAX_BLOCK - 100)
    found = looked(pcap([(each, b"needle" + large[:-6]) for each in range(40)]))
    assert sum(len(each.data) for each in found.records) <= module.MAX_KEPT
    assert found.taps[0].full_ns is not None
