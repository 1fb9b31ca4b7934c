"""pcapng: what is written is read again, by us and by Wireshark; what is broken is refused with a reason."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nettrace.errors import InputError
from nettrace.model.flow import Proto
from nettrace.model.observe import Frame, Way
from nettrace.wire.pcapng import MAX_BLOCK, Interface, read_pcapng, write_pcapng
from tests.wire import samples

FRAMES = (
    Frame(point="c/eth0", way=Way.OUT, at_ns=1_700_000_000_123_456_789, data=b"\x01" * 61, length=61),
    Frame(point="h/veth", way=Way.IN, at_ns=1_700_000_000_123_456_790, data=b"\x02" * 60, length=1500),
    Frame(point="c/eth0", way=Way.IN, at_ns=1_700_000_001_000_000_000, data=b"", length=0),
)


def test_round_trip() -> None:
    data = write_pcapng(FRAMES, comments={1: "cut – here"}, text="a run")
    capture = read_pcapng(data)
    assert capture.frames == FRAMES
    assert capture.interfaces == (Interface(name="c/eth0"), Interface(name="h/veth"))
    assert (capture.comments, capture.text) == ({1: "cut – here"}, "a run")


def test_points_without_frames_and_devices_without_headers_are_in_the_file() -> None:
    capture = read_pcapng(write_pcapng((), arp_types={"h/tun0": 65534, "h/eth0": 1}))
    assert capture.interfaces == (Interface(name="h/tun0", linktype=101), Interface(name="h/eth0", linktype=1))


@given(
    st.lists(
        st.builds(
            Frame,
            point=st.sampled_from(["a/b", "c/d", "ü/ß"]),
            way=st.sampled_from(list(Way)),
            at_ns=st.integers(0, 2**63),
            data=st.binary(max_size=70),
            length=st.integers(70, 70000),
        ),
        max_size=8,
    )
)
def test_any_frames_round_trip(frames: list[Frame]) -> None:
    assert read_pcapng(write_pcapng(frames)).frames == tuple(frames)


def test_wireshark_reads_it(tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    file = tmp_path / "probe.pcapng"
    bare = samples.probe(samples.token(Proto.ICMP, 4))
    framed = samples.ethernet(bare)
    frames = [
        Frame(point="c/eth0", way=Way.OUT, at_ns=10**18 + 1, data=framed, length=len(framed)),
        Frame(point="h/tun0", way=Way.IN, at_ns=10**18 + 2, data=bare, length=len(bare)),
    ]
    file.write_bytes(write_pcapng(frames, arp_types={"c/eth0": 1, "h/tun0": 65534}, comments={0: "hello"}, text="run"))
    fields = ["frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch", "ip.src", "frame.comment"]
    argv = ["tshark", "-r", str(file), "-T", "fields"] + [part for field in fields for part in ("-e", field)]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    assert [row[0] for row in rows] == ["c/eth0", "h/tun0"]
    assert [int(row[1], 0) for row in rows] == [2, 1]
    assert [row[2] for row in rows] == ["1000000000.000000001", "1000000000.000000002"]
    assert [row[3] for row in rows] == ["172.17.0.2", "172.17.0.2"]
    assert rows[0][4] == "hello"
    info = subprocess.run(["capinfos", str(file)], check=True, capture_output=True, text=True).stdout
    assert "Number of packets:   2" in info


def swapped() -> bytes:
    """A big-endian file with one section, one interface (microseconds, no name) and one packet without options."""
    section = struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1)
    interface = struct.pack(">HHI", 1, 0, 0)
    packet = struct.pack(">IIIII", 0, 0, 5_000_000, 3, 9) + b"abc\x00"
    return b"".join(
        struct.pack(">II", kind, len(body) + 12) + body + struct.pack(">I", len(body) + 12)
        for kind, body in ((0x0A0D0D0A, section), (1, interface), (6, packet))
    )


def test_the_other_byte_order_and_microseconds() -> None:
    (frame,) = read_pcapng(swapped()).frames
    assert (frame.point, frame.at_ns, frame.data, frame.length) == ("interface 0", 5_000_000_000, b"abc", 9)


def block(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


HEAD = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
INTERFACE = block(1, struct.pack("<HHI", 1, 0, 0))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "section header"),
        (b"not a capture at all", "section header"),
        (HEAD[:8] + b"\x00\x00\x00\x00" + HEAD[12:], "byte-order magic"),
        (HEAD[:20], "middle of a block"),
        (HEAD + b"\x01\x00", "middle of a block"),
        (HEAD + struct.pack("<II", 1, 7) + bytes(8), "claims 7 bytes"),
        (HEAD + struct.pack("<II", 1, MAX_BLOCK + 4) + bytes(8), "claims"),
        (HEAD[:-4] + struct.pack("<I", 99), "two lengths differ"),
        (HEAD + INTERFACE + swapped(), "byte order"),
        (HEAD + block(6, struct.pack("<IIIII", 0, 0, 0, 0, 0)), "interface that is not in the file"),
        (HEAD + INTERFACE + block(6, struct.pack("<IIIII", 0, 0, 0, 9, 9)), "longer than its block"),
        (HEAD + INTERFACE + block(6, struct.pack("<IIIII", 0, 0, 0, 4, 1) + b"abcd"), "shorter"),
        (HEAD + INTERFACE + block(6, b"\x00" * 8), "too short"),
        (HEAD + INTERFACE + block(3, b"\x00" * 4), "without a direction"),
        (HEAD + block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HH", 2, 200)), "option is longer"),
        (HEAD + block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHI", 9, 1, 99)), "time resolution"),
        (block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "version 2"),
    ],
)
def test_broken_files_are_refused_with_their_place(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_pcapng(data)
    assert "at byte" in str(caught.value)


def test_unknown_blocks_are_stepped_over() -> None:
    good = write_pcapng(FRAMES)
    assert read_pcapng(good + block(5, bytes(12)) + block(0xBAD, bytes(8))).frames == FRAMES


@given(st.data())
def test_hostile_files_raise_nothing_else(data: st.DataObject) -> None:
    content = bytearray(write_pcapng(FRAMES, comments={0: "x"}, text="t"))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    with contextlib.suppress(InputError):
        read_pcapng(bytes(content[:cut]))
