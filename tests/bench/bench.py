"""How long `nettrace path` takes from the shell's point of view, beside what it cannot be faster than.

In a throw-away host, whole processes are timed: `nettrace path` while all is well, and after the masquerading rule
was deleted. The yardsticks are measured in the same run, in turns, so that a busy machine slows all of them alike:

- *imports*: a bare Python that imports Scapy's inet layers, pyroute2 and the Docker SDK, and does nothing;
- *traceroute*: what a person would type instead, on the same stopped flow, from the same container.

Healthy must take at most 1.5 times the imports; stopped must be no slower than traceroute. With --check a ratio over
its limit is exit code 1. Peak memory is ru_maxrss of the process, getrusage(2).
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nettrace
import probes
from nettrace.errors import NettraceError
from nettrace.lab import Lab

FAULT = "masquerade-deleted"

IMPORTS = """
from scapy.config import conf
conf.route_autoload = conf.route6_autoload = False
import scapy.layers.l2, scapy.layers.inet, scapy.layers.inet6
import pyroute2
import docker
"""


@dataclass(frozen=True)
class Run:
    """One process, from start to end. `memory_kib` is at least what this bench itself holds, which is less."""

    seconds: float
    memory_kib: int
    code: int


@dataclass(frozen=True)
class Series:
    """All runs of one kind."""

    name: str
    median_s: float
    fastest_s: float
    slowest_s: float
    peak_mib: float
    runs: int


@dataclass(frozen=True)
class Ratio:
    """One promise: a series over its yardstick, and how much it may be."""

    name: str
    value: float
    limit: float

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


class BenchError(NettraceError):
    """What was to be measured does not do what it should."""


def timed(lab: Lab, argv: list[str], where: str, codes: tuple[int, ...]) -> Run:
    """Run one process in a namespace of the lab to its end; raises BenchError when it ends otherwise than it must."""
    command, env = lab.command(argv, where), lab.environment()
    start = time.perf_counter()
    child = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in codes:
        raise BenchError(f"`{' '.join(argv)}` ended with {child.returncode}: {said.strip() or 'no message'}")
    return Run(seconds, usage.ru_maxrss, child.returncode)


def series(name: str, runs: list[Run]) -> Series:
    seconds = [run.seconds for run in runs]
    return Series(
        name=name,
        median_s=statistics.median(seconds),
        fastest_s=min(seconds),
        slowest_s=max(seconds),
        peak_mib=max(run.memory_kib for run in runs) / 1024,
        runs=len(runs),
    )


def measure(lab: Lab, count: int) -> dict[str, Series]:
    """Run everything `count` times in turns, after one turn that only warms the caches."""
    path = lab.flow_of(FAULT)
    nettrace = [sys.executable, "-m", "nettrace", *path]
    imports = [sys.executable, "-c", IMPORTS]
    traceroute = ["traceroute", "-n", "-q1", "-w1", "-m5", path[2]]
    runs: dict[str, list[Run]] = {"healthy": [], "imports": [], "stopped": [], "traceroute": []}
    for turn in range(count + 1):
        healthy = timed(lab, nettrace, "host", (0,))
        bare = timed(lab, imports, "host", (0,))
        if turn:
            runs["healthy"].append(healthy)
            runs["imports"].append(bare)
    lab.break_fault(FAULT)
    for turn in range(count + 1):
        stopped = timed(lab, nettrace, "host", (1,))
        other = timed(lab, traceroute, path[1], (0,))
        if turn:
            runs["stopped"].append(stopped)
            runs["traceroute"].append(other)
    return {name: series(name, each) for name, each in runs.items()}


def ratios(measured: dict[str, Series]) -> list[Ratio]:
    return [
        Ratio("healthy / imports", measured["healthy"].median_s / measured["imports"].median_s, 1.5),
        Ratio("stopped / traceroute", measured["stopped"].median_s / measured["traceroute"].median_s, 1.0),
    ]


def text(measured: dict[str, Series], promises: list[Ratio]) -> str:
    from tabulate import tabulate

    rows = [
        [each.name, f"{each.median_s:.3f}", f"{each.fastest_s:.3f}", f"{each.slowest_s:.3f}", f"{each.peak_mib:.0f}"]
        for each in measured.values()
    ]
    times = tabulate(
        rows, headers=["run", "median s", "fastest s", "slowest s", "peak MiB"], disable_numparse=True,
        colalign=("left", "right", "right", "right", "right"),
    )  # fmt: skip
    kept = [[each.name, f"{each.value:.2f}", f"{each.limit:.2f}", "yes" if each.kept else "NO"] for each in promises]
    table = tabulate(
        kept, headers=["ratio of medians", "is", "at most", "kept"], disable_numparse=True,
        colalign=("left", "right", "right", "left"),
    )  # fmt: skip
    return f"{times}\n\n{table}"


def rows_of(script: str, *args: str) -> list[dict[str, Any]]:
    """Measure one part in a process of its own, which holds nothing of the runs before."""
    path = Path(__file__).with_name(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, path, "--json", *args]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return figures as a table."""
    from tabulate import tabulate

    return tabulate(rows, headers="keys", intfmt=",", floatfmt=",.3f")


def compiled() -> None:
    """Compile the source, as pip does for what it installs: the yardstick's libraries are compiled as well."""
    for package in (nettrace, probes):
        compileall.compile_dir(package.__path__[0], quiet=1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure whole runs of nettrace beside their yardsticks.")
    parser.add_argument("--runs", type=int, default=11, help="how often each is measured (default 11)")
    parser.add_argument("--engine", choices=["docker", "none"], default="docker", help="what runs the lab's containers")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is over its limit")
    args = parser.parse_args()
    compiled()
    try:
        with Lab.up(f"bench{os.getpid()}", engine=args.engine) as lab:
            measured = measure(lab, args.runs)
    except NettraceError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    promises = ratios(measured)
    parts = {
        "netfilter": rows_of("netfilter.py"),
        "rules": rows_of("rules.py"),
        "bundles": rows_of("bundles.py"),
        "captures": rows_of("captures.py"),
        "harmless": rows_of("harmless.py", "--engine", args.engine),
    }
    if args.json:
        ratio_rows = [asdict(each) | {"kept": each.kept} for each in promises]
        runs = [asdict(each) for each in measured.values()]
        print(json.dumps({"runs": runs, "ratios": ratio_rows, **parts}, indent=2))
    else:
        print("\n\n".join([text(measured, promises), *map(table_of, parts.values())]))
    held = all(each.kept for each in promises) and all(row["kept"] for rows in parts.values() for row in rows)
    return 1 if args.check and not held else 0


if __name__ == "__main__":
    sys.exit(main())
