"""Fuzz the readers of captures with atheris: anything but a result or an InputError is a finding.

atheris is no dependency of nettrace; give it an environment of its own, and run one reader at a time:

    python3.11 -m venv /tmp/fuzzvenv && /tmp/fuzzvenv/bin/pip install -e . atheris
    /tmp/fuzzvenv/bin/python -m tests.fuzz.captures scan -max_total_time=600 -max_len=4096 [CORPUS_DIR]

Readers: scan (pcap and pcapng, searched and listed), pcapng (read whole), frames (one frame of every link type),
stitch (a capture of a recorded host, up to the verdict). An input that breaks one belongs into tests/wire/cases/, named
READER-what, where a test runs it for good.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tests.wire.captures import interface, option, packet, pcap, section

if TYPE_CHECKING:
    from nettrace.model.flow import Flow
    from nettrace.model.snapshot import Snapshot

__all__ = ["READERS", "SEEDS", "main", "read"]

CASE = Path(__file__).parents[2] / "fixtures" / "cases" / "healthy-out"
NEEDLES = (bytes([172, 17, 0, 2, 8, 8, 8, 8]), b"\x00\x00\x00")


def _scan(data: bytes) -> None:
    from nettrace.wire.scan import scan

    for needles, window in ((NEEDLES, 64), (NEEDLES, 1 << 16), ((), 256)):
        found = scan(io.BytesIO(data), needles, window=window)
        assert all(0 <= each.tap < len(found.taps) for each in found.records)


def _pcapng(data: bytes) -> None:
    from nettrace.wire.pcapng import read_pcapng

    read_pcapng(data)


def _frames(data: bytes) -> None:
    from nettrace.wire.captured import LINKTYPES, read_frame

    for linktype in LINKTYPES:
        read_frame(data, linktype)


@cache
def _case() -> tuple[Snapshot, Flow]:
    from nettrace.handmade import read_snapshot
    from nettrace.model.flow import EndpointKind, Flow, FlowEnd

    snapshot = read_snapshot(CASE / "before.json")
    container = next(each for each in snapshot.intent.containers if each.name == "app")
    address = container.endpoints[0].ipv4
    assert address is not None
    beyond = type(address.ip)("8.8.8.8")
    flow = Flow(
        src=FlowEnd(kind=EndpointKind.CONTAINER, name="app", netns=container.netns, address=address.ip),
        dst=FlowEnd(kind=EndpointKind.ADDRESS, name="8.8.8.8", address=beyond),
    )
    return snapshot, flow


def _stitch(data: bytes) -> None:
    from nettrace.errors import UsageError
    from nettrace.handmade import answer_captures, list_conversations
    from nettrace.render.text import render_text

    snapshot, flow = _case()
    with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
        file.write(data)
        file.flush()
        paths = [Path(file.name)]
        list_conversations(paths)
        named = [] if data[:4] == b"\x0a\x0d\x0d\x0a" else [f"{file.name}=app/eth0"]
        try:
            answered = answer_captures(paths, snapshot, flow, named=named)
        except UsageError:
            return
        render_text(answered.verdict, color=False, width=80)


READERS: dict[str, Callable[[bytes], None]] = {
    "scan": _scan,
    "pcapng": _pcapng,
    "frames": _frames,
    "stitch": _stitch,
}


def seeds() -> dict[str, bytes]:
    """Return small files of every kind, by name."""
    recorded = (CASE / "capture.pcapng").read_bytes()
    echo = bytes.fromhex("4500002400014000400100000a000001") + bytes([8, 8, 8, 8, 8, 0, 0, 0, 0, 1, 0, 1]) + b"payload!"
    frame = bytes(12) + b"\x08\x00" + echo
    cooked = bytes.fromhex("080000000000000200010406") + bytes(8) + echo
    big = section(">") + interface(">", option(9, b"\x09", ">"), linktype=276) + packet(0, 2**60, cooked, ">")
    return {
        "recorded": recorded,
        "pcap": pcap([(10**18, frame), (10**18 + 10**9, frame)]),
        "nanoseconds": pcap([(10**18, frame)], order=">", nanoseconds=True),
        "cooked": pcap([(10**18, cooked)], linktype=276),
        "big-endian": big + section() + interface() + packet(0, 2**50, frame),
        "frame": frame,
    }


SEEDS = seeds()


def read(reader: str, data: bytes) -> bool:
    """Let one reader read an input; return whether it was read or refused. Any other exception is a finding."""
    from nettrace.errors import InputError

    try:
        READERS[reader](data)
    except InputError:
        return False
    return True


def main() -> None:
    """Fuzz the reader that the first argument names, with the options of libFuzzer after it."""
    # Not a dependency, and without type information.
    atheris = import_module("atheris")
    reader, options = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["nettrace.wire", "nettrace.stitch", "nettrace.handmade"]):
        for data in SEEDS.values():
            read(reader, data)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in SEEDS.items():
            Path(folder, name).write_bytes(data)
        atheris.Setup([sys.argv[0], *options, folder], lambda data: read(reader, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
