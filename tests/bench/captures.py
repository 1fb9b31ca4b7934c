"""How long `nettrace replay` takes to follow a flow through a capture of a million packets, beside tcpdump and tshark.

A pcapng with four interfaces is made, of which a few packets belong to the flow: pings that a container sends beyond
its host, translated at the uplink, and answered (`delivered`), or lost before the uplink (`stopped`: the file is then
searched twice).
Whole processes are timed in turns, each with its output to /dev/null: `nettrace replay`, `tcpdump -nr` of the same
file, and `tshark -n -r` of a twentieth of it where that is installed. nettrace may take 1.5 times what tcpdump takes,
and 150 MB of memory (ru_maxrss, getrusage(2)). With --check a limit that is not kept is exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).parents[2]
CASE = ROOT / "fixtures" / "cases" / "healthy-out"
POINTS = ("app/eth0", "host/vethf47a079", "host/docker0", "host/eth0")
SOURCE, UPLINK, FAR = bytes([172, 17, 0, 2]), bytes([203, 0, 113, 2]), bytes([8, 8, 8, 8])
#: tshark dissects so thoroughly that it is given a part of the packets only.
TSHARK_PART = 20
MOST_RATIO, MOST_MB = 1.5, 150.0
START_NS = 1_795_532_137_000_000_000
EVERY_NS = 20_000


def option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def packet(number: int, at_ns: int, frame: bytes) -> bytes:
    head = struct.pack("<5I", number, at_ns >> 32, at_ns & 0xFFFFFFFF, len(frame), len(frame))
    return block(6, head + frame + bytes(-len(frame) % 4))


def ipv4(src: bytes, dst: bytes, proto: int, ident: int, body: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), ident, 0x4000, 63, proto, 0)
    return bytes.fromhex("02420a00000102420a0000020800") + head + src + dst + body


def strangers(rng: random.Random, largest: int) -> list[bytes]:
    """Frames of other conversations: TCP and UDP, of other containers, with payloads of all sizes."""
    frames = []
    for number in range(997):
        src = bytes([172, 17, 0, rng.randrange(3, 250)])
        dst = rng.randbytes(4)
        payload = rng.randbytes(rng.randrange(0, largest))
        ports = struct.pack("!HH", rng.randrange(32768, 61000), rng.choice((53, 80, 443, 5432)))
        if number % 4:
            body = ports + rng.randbytes(8) + struct.pack("!BBHHH", 0x50, 0x10, 500, 0, 0) + payload
            frames.append(ipv4(src, dst, 6, number, body))
        else:
            body = ports + struct.pack("!HH", 8 + len(payload), 0) + payload
            frames.append(ipv4(src, dst, 17, number, body))
    return frames


def pings(number: int, *, answered: bool) -> list[tuple[int, bytes]]:
    """One ping of the flow at the interfaces that it passes, in their order, with its answer if it has one."""
    payload = struct.pack("<Q", number) + bytes(range(48))
    request = struct.pack("!BBHHH", 8, 0, 0, 77, number) + payload
    reply = struct.pack("!BBHHH", 0, 0, 0, 77, number) + payload
    there = [ipv4(SOURCE, FAR, 1, number, request)] * 3
    if not answered:
        return list(enumerate(there))
    there.append(ipv4(UPLINK, FAR, 1, number, request))
    back = [ipv4(FAR, UPLINK, 1, 9, reply)] + [ipv4(FAR, SOURCE, 1, 9, reply)] * 3
    return [*enumerate(there), *zip((3, 2, 1, 0), back, strict=True)]


def make(file: BinaryIO, count: int, largest: int, *, answered: bool) -> None:
    """Write a capture of `count` packets with at most `largest` bytes of payload; five pings are among them."""
    rng = random.Random(7)
    others = strangers(rng, largest)
    file.write(block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
    for point in POINTS:
        options = option(2, point.encode()) + option(9, b"\x09") + option(0, b"")
        file.write(block(1, struct.pack("<HHI", 1, 0, 262144) + options))
    ours = {count * place // 6: place for place in range(1, 6)}
    parts: list[bytes] = []
    for index in range(count):
        at_ns = START_NS + index * EVERY_NS
        if index in ours:
            for step, (number, frame) in enumerate(pings(ours[index], answered=answered)):
                parts.append(packet(number, at_ns + step * 10, frame))
        parts.append(packet(index % 4, at_ns + 500, others[index % len(others)]))
        if len(parts) > 20_000:
            file.write(b"".join(parts))
            parts.clear()
    file.write(b"".join(parts))


def run(argv: list[str], codes: tuple[int, ...]) -> tuple[float, float]:
    """Run one process to its end, its output thrown away; returns seconds and MB at its peak."""
    start = time.perf_counter()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in codes:
        raise SystemExit(f"bench: `{' '.join(argv)}` ended with {child.returncode}: {said.decode('utf-8', 'replace')}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def measure(count: int, turns: int, largest: int) -> list[dict[str, Any]]:
    """Return a row for each kind of capture."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="nettrace-bench-") as folder:
        for name, answered, code in (("delivered", True, 0), ("stopped", False, 1)):
            path = Path(folder, f"{name}.pcapng")
            with path.open("wb") as file:
                make(file, count, largest, answered=answered)
            ours = [sys.executable, "-m", "nettrace", "replay", str(path), "--snapshot", str(CASE / "before.json")]
            commands: dict[str, tuple[list[str], int]] = {
                "nettrace": ([*ours, "app", "8.8.8.8"], code),
                "tcpdump": (["tcpdump", "-nr", str(path)], 0),
            }
            if shutil.which("tshark") is not None:
                commands["tshark"] = (["tshark", "-n", "-c", str(count // TSHARK_PART), "-r", str(path)], 0)
            taken: dict[str, list[tuple[float, float]]] = {each: [] for each in commands}
            for turn in range(turns + 1):
                for each, (argv, expected) in commands.items():
                    if turn and (each != "tshark" or turn == 1):
                        taken[each].append(run(argv, (expected,)))
                    elif not turn and each != "tshark":
                        run(argv, (expected,))
            seconds = {each: statistics.median(one for one, _mb in runs) for each, runs in taken.items()}
            ratio = seconds["nettrace"] / seconds["tcpdump"]
            peak = max(mb for _one, mb in taken["nettrace"])
            rows.append(
                {
                    "capture": f"{name}, {count} packets",
                    "file MB": path.stat().st_size / 1e6,
                    "nettrace s": seconds["nettrace"],
                    "tcpdump s": seconds["tcpdump"],
                    f"tshark s, 1/{TSHARK_PART}": seconds.get("tshark"),
                    "ratio": ratio,
                    "at most": MOST_RATIO,
                    "peak MB": peak,
                    "at most MB": MOST_MB,
                    "kept": ratio <= MOST_RATIO and peak <= MOST_MB,
                }
            )
            path.unlink()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure nettrace replay of a large capture beside tcpdump.")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--largest", type=int, default=400, help="bytes of payload at most (default 400)")
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--check", action="store_true", help="exit 1 when a limit is not kept")
    args = parser.parse_args()
    rows = measure(args.packets, args.runs, args.largest)
    if args.json:
        print(json.dumps(rows))
    else:
        from tabulate import tabulate

        print(tabulate(rows, headers="keys", floatfmt=".2f"))
    return 1 if args.check and not all(row["kept"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
