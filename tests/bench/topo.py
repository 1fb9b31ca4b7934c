"""How long `nettrace topo` takes on a host with many containers, and how much memory it needs.

The host is a plain lab with as many further namespaces as asked for, each with a veth pair on the lab's bridge: the
kernel is asked for real, and only the engine's word is the lab's own. With --engine the containers are a real Docker
Engine's. Figures depend on the machine and on what else runs there: the best of the runs is told, and judged by nobody.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import ip_interface

import msgspec

from nettrace.lab import Lab, state, wiring
from nettrace.lab.docker import create_container
from nettrace.lab.system import ip_batch
from nettrace.model.intent import Container, Endpoint

#: Addresses of the plain lab's bridge, beyond those of its own containers.
FIRST = 256


@dataclass(frozen=True)
class Figures:
    """One measurement: seconds and peak resident memory of a whole run of `nettrace topo --json`.

    `least_cpu_s` is what it takes of a processor: on a busy machine the rest of the time is waiting.
    """

    engine: str
    containers: int
    best_s: float
    all_s: tuple[float, ...]
    least_cpu_s: float
    peak_mb: float
    boxes: int
    differences: int


def many(lab: Lab, count: int) -> None:
    """Add namespaces with a veth pair to a plain lab, and the engine's word on each to its Intent."""
    parts = [f"b{number}" for number in range(count)]
    made = wiring.add_namespaces(lab.name, parts, ())
    network = next(each for each in lab.state.intent.networks if each.bridge)
    subnet = network.subnets[0]
    host, links, containers = [], [], []
    for number, part in enumerate(parts):
        name, mac = made[part].name, f"02:42:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
        address = ip_interface(f"{subnet.subnet.network_address + FIRST + number}/{subnet.subnet.prefixlen}")
        host.append(f"link add vb{number} type veth peer name eth0 address {mac} netns {name}")
        host.append(f"link set vb{number} master {network.bridge} up")
        links.append((name, [f"addr add {address} dev eth0", "link set eth0 up", "link set lo up"]))
        endpoint = Endpoint(network=network.name, network_id=network.id, mac=mac, ipv4=address, gateway=subnet.gateway)
        containers.append(
            Container(
                id=f"{number:064x}",
                name=part,
                engine="lab",
                netns=made[part].inode,
                mode=network.name,
                endpoints=(endpoint,),
            )
        )
    assert lab.state.host is not None
    ip_batch(host, namespace=lab.state.host.name)
    for name, commands in links:
        ip_batch([*commands, f"route add default via {subnet.gateway}"], namespace=name)
    intent = msgspec.structs.replace(lab.state.intent, containers=(*lab.state.intent.containers, *containers))
    lab.state = msgspec.structs.replace(lab.state, intent=intent)
    state.save(lab.state)


@contextmanager
def host_with(engine: str, count: int, name: str) -> Iterator[Lab]:
    """Make the host, and take it away at the end."""
    with Lab.up(name, engine="none" if engine == "none" else "docker", docker_dir=None) as lab:
        if engine == "none":
            many(lab, count)
        else:
            from nettrace.lab.api import DockerAPI

            api = DockerAPI((lab.docker_host or "").removeprefix("unix://"))
            for number in range(count):
                create_container(api, f"b{number}", "net1")
        yield lab


def measure(lab: Lab, engine: str, runs: int) -> Figures:
    """Run `nettrace topo --json` some times and return the figures."""
    took, used, peak, found = [], [], 0, {}
    for _ in range(runs):
        start = time.monotonic()
        argv = lab.command([sys.executable, "-m", "nettrace", "topo", "--json"])
        with subprocess.Popen(argv, env=lab.environment(), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            out = process.stdout.read()
            _pid, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        took.append(round(time.monotonic() - start, 3))
        used.append(round(usage.ru_utime + usage.ru_stime, 3))
        assert process.returncode == 0
        peak, found = max(peak, usage.ru_maxrss), json.loads(out)
    containers = sum(box["kind"] == "container" for box in found["boxes"])
    return Figures(
        engine=engine,
        containers=containers,
        best_s=min(took),
        all_s=tuple(took),
        least_cpu_s=min(used),
        peak_mb=round(peak / 1024, 1),
        boxes=len(found["boxes"]),
        differences=len(found["differences"]),
    )


def main() -> None:
    """Measure once and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--engine", choices=("none", "docker"), default="none")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--name", default="bench-topo")
    options = parser.parse_args()
    with host_with(options.engine, options.containers, options.name) as lab:
        print(json.dumps(asdict(measure(lab, options.engine, options.runs)), indent=2))


if __name__ == "__main__":
    main()
