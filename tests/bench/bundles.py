"""What a bundle of a whole host takes, on a host with five hundred containers.

The containers are bare namespaces behind the bridge of a plain lab, every fifth with rules of its own; they have names
in a mount namespace of this bench alone, so that nobody else on the machine meets them. Seconds are those of the whole
process, as its user waits; `cpu_s` is what it and its tools computed, which a busy machine does not stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nettrace.errors import NettraceError
from nettrace.lab import Lab

MOST_S = 15.0
MOST_BYTES = 2_000_000
HOST = "host"


def batch(commands: list[str], *enter: str) -> None:
    """Let one ip(8) run many commands, in a namespace."""
    subprocess.run([*enter, "ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def inside(name: str) -> tuple[str, ...]:
    return ("nsenter", f"--net=/run/netns/{name}")


def populate(count: int) -> None:
    """Make the namespaces and wire them to the host's bridge."""
    names = [f"c{number}" for number in range(count)]
    batch([f"netns add {name}" for name in names])
    wires = [f"link add v{at} type veth peer name eth0 netns {name}" for at, name in enumerate(names)]
    batch([*wires, *(f"link set v{at} master docker0 up" for at in range(count))], *inside(HOST))
    for at, name in enumerate(names):
        address = f"172.17.{at // 250 + 1}.{at % 250 + 1}/16"
        ups = ["link set lo up", "link set eth0 up", f"addr add {address} dev eth0", "route add default via 172.17.0.1"]
        batch(ups, *inside(name))
        if at % 5 == 0:
            rule = ["iptables", "-t", "nat", "-A", "OUTPUT", "-d", "127.0.0.11", "-j", "ACCEPT"]
            subprocess.run([*inside(name), *rule], check=True)


def measure(host_path: str, count: int) -> list[dict[str, object]]:
    """Record the host; must be called in a mount namespace of its own."""
    host = os.open(host_path, os.O_RDONLY)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
    Path("/run/netns", HOST).touch()
    subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/fd/{host}", f"/run/netns/{HOST}"], check=True)
    populate(count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "host.tar.gz")
        argv = [*inside(HOST), sys.executable, "-m", "nettrace", "bundle", "create", "-o", str(path)]
        spent, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        seconds, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        size = path.stat().st_size
        began = time.perf_counter()
        replayed = [sys.executable, "-m", "nettrace", "replay", str(path), "netns:c1", f"netns:c{count - 1}"]
        subprocess.run(replayed, check=True, stdout=subprocess.DEVNULL)
        answer = time.perf_counter() - began
    cpu = now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime
    what = f"bundle of {count} namespaces"
    return [
        {"name": f"{what}: s", "value": seconds, "limit": MOST_S, "kept": seconds <= MOST_S},
        {"name": f"{what}: cpu_s", "value": cpu, "limit": 2 * MOST_S, "kept": cpu <= 2 * MOST_S},
        {"name": f"{what}: bytes", "value": size, "limit": MOST_BYTES, "kept": size <= MOST_BYTES},
        {"name": f"{what}: s for a new question", "value": answer, "limit": MOST_S, "kept": answer <= MOST_S},
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a bundle of a host with many containers.")
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--lab", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.lab is not None:
        print(json.dumps(measure(args.lab, args.containers), indent=2))
        return 0
    try:
        with Lab.up(f"bundles{os.getpid()}", engine="none") as lab:
            alone = ["unshare", "--mount", "--propagation", "private"]
            again = [sys.executable, __file__, "--containers", str(args.containers), "--lab", lab.netns_of("host")]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
            return subprocess.run([*alone, *again], check=False, env=environment).returncode
    except NettraceError as error:
        print(f"bundles: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
