"""What nettrace costs the host that it looks at, and how soon it answers, in a throw-away host.

*Throughput*: TCP from one container to another, over the veth and the bridge that nettrace looks at, at 13 Gbit/s
(SO_MAX_PACING_RATE, where the machine can do that much) and as fast as it goes. Windows with a run of nettrace in them
take turns with windows without. A stream as fast as it goes needs all of a small machine's processors, so it is slowed
by whatever else runs: it is told beside a process that takes as much time of a processor, and has no limit.

*Early answer*: from the packet (or the kernel's report) that decides to the moment that nettrace stops listening, as
its own record has them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nettrace.errors import NettraceError
from nettrace.lab import Lab
from nettrace.model.flow import Proto
from nettrace.model.observe import Observation, SightingKind
from nettrace.replay import read_case

PORT = 5201
WINDOW_S = 3.0
#: Bits a second: what a fast network card brings, and less than the smallest machines can do.
PACE = 13_000_000_000
LEAST_RATIO = 0.97
MOST_LATE_MS = 50.0

RECEIVER = f"""
import socket
server = socket.create_server(("0.0.0.0", {PORT}))
print("ready", flush=True)
stream, _ = server.accept()
buffer = bytearray(1 << 20)
while stream.recv_into(buffer, len(buffer), socket.MSG_TRUNC):
    pass
"""
SENDER = f"""
import socket, struct, sys
data = bytes(1 << 20)
with socket.create_connection((sys.argv[1], {PORT})) as stream:
    if int(sys.argv[2]):
        stream.setsockopt(socket.SOL_SOCKET, 47, struct.pack("Q", int(sys.argv[2]) // 8))  # SO_MAX_PACING_RATE
    while True:
        stream.sendall(data)
"""
#: As long on a processor as a run of nettrace, and nothing else.
SPIN = """
import sys, time
while time.process_time() < float(sys.argv[1]):
    sum(range(10_000))
"""


@dataclass(frozen=True)
class Row:
    """One figure, its limit, and whether it is kept; `limit` None for one that is only told."""

    name: str
    value: float
    limit: float | None
    kept: bool


@contextlib.contextmanager
def stream(lab: Lab, source: str, target: str, pace: int = 0) -> Iterator[int]:
    """Send TCP from one container to another, `pace` bits a second (0: all it can); yield the receiver's process id."""
    address = str(lab.facts[target].ip)
    receiver = subprocess.Popen(
        lab.command([sys.executable, "-c", RECEIVER], target), stdout=subprocess.PIPE, text=True
    )
    assert receiver.stdout is not None
    receiver.stdout.readline()
    sender = subprocess.Popen(lab.command([sys.executable, "-c", SENDER, address, str(pace)], source))
    try:
        time.sleep(0.5)
        yield receiver.pid
    finally:
        for child in (sender, receiver):
            child.kill()
            child.wait()


def received(pid: int) -> int:
    """Bytes that the receiver's eth0 has taken in."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("eth0:"))


def window(pid: int, during: Callable[[], None]) -> float:
    """Return the bits a second of one window in which something else happens."""
    start, before = time.monotonic(), received(pid)
    during()
    time.sleep(max(0.0, start + WINDOW_S - time.monotonic()))
    return (received(pid) - before) * 8 / (time.monotonic() - start)


def throughput(lab: Lab, runs: int) -> list[Row]:
    """Measure with nettrace, without, and with a process of its cost."""
    question = [sys.executable, "-m", "nettrace", "path", "app", "8.8.8.8", "--json"]
    command, environment = lab.command(question), lab.environment()

    def ask() -> None:
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    before = os.times()
    ask()
    after = os.times()
    cost_s = after.children_user + after.children_system - before.children_user - before.children_system

    def spin() -> None:
        subprocess.run([sys.executable, "-c", SPIN, f"{cost_s:.2f}"], check=True)

    rows = []
    for name, pace in (("paced", PACE), ("as fast as it goes", 0)):
        rates: dict[str, list[float]] = {"without": [], "with": [], "spin": []}
        with stream(lab, "app", "web", pace) as pid:
            for _ in range(runs):
                rates["without"].append(window(pid, lambda: None))
                rates["with"].append(window(pid, ask))
                if not pace:
                    rates["spin"].append(window(pid, spin))
        without = statistics.fmean(rates["without"])
        ratio = statistics.fmean(rates["with"]) / without
        limit = LEAST_RATIO if pace else None
        rows += [
            Row(f"TCP {name}, without nettrace, Gbit/s", without / 1e9, None, True),
            Row(f"TCP {name}, with / without", ratio, limit, limit is None or ratio >= limit),
        ]
        if not pace:
            rows.append(
                Row(f"TCP {name}, with as much other work", statistics.fmean(rates["spin"]) / without, None, True)
            )
    return rows


def late_ms(observation: Observation) -> float:
    """Milliseconds from what decided to the end of listening: an answer, an error, or the kernel's report of a drop."""
    answers = (SightingKind.REPLY, SightingKind.RESET, SightingKind.ICMP_ERROR)
    decided = [each.at_ns for each in observation.sightings if each.kind in answers]
    decided += [each.at_ns for each in observation.testimony.drops if each.reason == "NETFILTER_DROP"]
    decided += [each.at_ns for each in observation.sent if each.errno is not None]
    return (observation.ended_ns - max(decided)) / 1e6


def early(lab: Lab, runs: int) -> list[Row]:
    """Measure how late the end is on a healthy and on a blocked flow."""
    rows = []
    for name, fault, proto in (
        ("healthy, ping", None, Proto.ICMP),
        ("blocked by a rule", "forward-drop", Proto.ICMP),
        ("answered with an error", "remote-rejects", Proto.ICMP),
    ):
        if fault is not None:
            lab.break_fault(fault)
        late = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                bundle = Path(folder, "bundle.tar.gz")
                done = lab.nettrace(["path", "app", "8.8.8.8", "--proto", proto.value, "--bundle", str(bundle)])
                if done.returncode not in (0, 1):
                    raise NettraceError(f"nettrace ended with {done.returncode}: {done.stderr.strip()}")
                observation = read_case(bundle).observation
                assert observation is not None
                late.append(late_ms(observation))
        lab.mend()
        middle = statistics.median(late)
        rows.append(Row(f"ms from deciding packet to end: {name}", middle, MOST_LATE_MS, middle <= MOST_LATE_MS))
    return rows


def measure(engine: str, runs: int) -> list[dict[str, Any]]:
    kind: Any = engine
    with Lab.up(f"harm{os.getpid()}", engine=kind) as lab:
        rows = [*throughput(lab, runs), *early(lab, runs)]
    return [asdict(each) for each in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what nettrace costs the host, and how soon it answers.")
    parser.add_argument("--runs", type=int, default=10, help="runs of nettrace for each figure (default 10)")
    parser.add_argument("--engine", choices=["docker", "none"], default="docker", help="what runs the lab's containers")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    try:
        rows = measure(args.engine, args.runs)
    except NettraceError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        from tabulate import tabulate

        print(tabulate(rows, headers="keys", floatfmt=".3f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
