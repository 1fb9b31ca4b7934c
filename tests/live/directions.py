"""Every direction of a question on every kind of bridge network, against what real programs in the containers find.

A lab with one network of each kind (`build`), a table of flows (`cells`), and an oracle that knows nothing of nettrace:
busybox's ping and nc, and a UDP socket, run in the source's own namespace. nettrace must say "delivered" exactly
where they get an answer, and name the right fault where they get none.

`python -m tests.live.directions [--engine docker-28] [--kind proxy|noproxy] [--all] [--only TEXT]` runs the table, as
root; with `--all` the whole product of sources and destinations.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from nettrace.lab import Lab
from nettrace.lab.api import DockerAPI
from nettrace.lab.docker import HTTPD, IMAGE, load_image
from nettrace.lab.fetch import engine_dir, find_program
from nettrace.lab.reach import reaches
from nettrace.lab.services import BODY
from nettrace.lab.state import state_dir
from nettrace.lab.system import enter
from nettrace.lab.wiring import services_argv
from tests.live.warm import Asker, Said

UPLINK, UPLINK6, SECOND = "203.0.113.2", "2001:db8:203::2", "203.0.113.12"
OUTSIDE, OUTSIDE6 = "8.8.8.8", "2001:4860:4860::8888"
BRIDGE = "com.docker.network.bridge."
#: Bare addresses beyond the host; the internet's namespace holds both for real.
STRANGER, STRANGER6 = "203.0.113.9", "2001:db8:203::9"


@dataclass(frozen=True)
class Net:
    """One network to make: IPv4 and IPv6 subnets, options, and the least major version of Docker that has it."""

    name: str
    subnet: str
    subnet6: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    internal: bool = False
    since: int = 0

    def request(self) -> dict[str, Any]:
        pools = [{"Subnet": each} for each in (self.subnet, self.subnet6) if each]
        return {
            "Name": self.name,
            "CheckDuplicate": True,
            "Internal": self.internal,
            "EnableIPv6": self.subnet6 is not None,
            "IPAM": {"Config": pools},
            "Options": self.options,
        }


@dataclass(frozen=True)
class Box:
    """One container: its networks in order, its published ports as (host address, host port, port/proto)."""

    name: str
    networks: tuple[str, ...]
    ports: tuple[tuple[str, int, str], ...] = ()
    aliases: tuple[str, ...] = ()
    since: int = 0


NETS = (
    Net("dual", "172.31.1.0/24", "fd00:31:1::/64",
        {f"{BRIDGE}name": "ntdual", "com.docker.network.driver.mtu": "1400"}),
    Net("four", "172.31.2.0/24"),
    Net("noicc", "172.31.3.0/24", options={f"{BRIDGE}enable_icc": "false"}),
    Net("sealed", "172.31.4.0/24", internal=True),
    Net("nomasq", "172.31.5.0/24", options={f"{BRIDGE}enable_ip_masquerade": "false"}),
    Net("bound", "172.31.6.0/24", options={f"{BRIDGE}host_binding_ipv4": SECOND}),
    Net("routed", "172.31.7.0/24", "fd00:31:7::/64",
        {f"{BRIDGE}gateway_mode_ipv4": "routed", f"{BRIDGE}gateway_mode_ipv6": "routed"}, since=28),
    Net("unprot", "172.31.8.0/24", "fd00:31:8::/64",
        {f"{BRIDGE}gateway_mode_ipv4": "nat-unprotected", f"{BRIDGE}gateway_mode_ipv6": "nat-unprotected"}, since=28),
)  # fmt: skip
BOXES = (
    Box("app", ("bridge",)),
    Box("web", ("bridge",), (("", 8080, "80/tcp"), ("127.0.0.1", 8081, "80/tcp"), (SECOND, 8082, "80/tcp"),
                             ("", 5353, "7/udp"), ("", 9081, "81/tcp"))),
    Box("d1", ("dual",)),
    Box("d2", ("dual",), (("", 8110, "80/tcp"), ("", 5311, "7/udp")), ("store",)),
    Box("f1", ("four",)),
    Box("both", ("dual", "four"), (("", 8120, "80/tcp"),)),
    Box("n1", ("noicc",)),
    Box("n2", ("noicc",), (("", 8130, "80/tcp"),)),
    Box("s1", ("sealed",)),
    Box("s2", ("sealed",), (("", 8140, "80/tcp"),)),
    Box("q1", ("nomasq",), (("", 8150, "80/tcp"),)),
    Box("h1", ("bound",), (("", 8160, "80/tcp"),)),
    Box("r1", ("routed",), (("", 8170, "80/tcp"),), since=28),
    Box("u1", ("unprot",), (("", 8180, "80/tcp"),), since=28),
)  # fmt: skip


def major(lab: Lab) -> int:
    """Return the major version of the lab's engine."""
    return int((lab.state.docker_version or "0").split(".")[0])


def up(name: str, engine: str, kind: str) -> Lab:
    """Make a lab with every network and container; `kind` is "proxy" or "noproxy" (dockerd --userland-proxy=false)."""
    unpacked = engine if engine != "docker" else None
    args = ["--ipv6", "--fixed-cidr-v6=fd00:31:0::/64"]
    if unpacked is None:
        args += ["--experimental", "--ip6tables"]
    if kind == "noproxy":
        args.append("--userland-proxy=false")
    lab = Lab.up(name, docker_dir=unpacked, docker_args=args, content=False)
    try:
        build(lab)
    except BaseException:
        down(lab)
        raise
    return lab


def api_of(lab: Lab) -> DockerAPI:
    """Return the lab's engine."""
    assert lab.docker_host is not None
    return DockerAPI(lab.docker_host.removeprefix("unix://"))


def build(lab: Lab) -> None:
    """Make the networks and containers, start their UDP echo servers, and give the internet strangers and routes."""
    api, version = api_of(lab), major(lab)
    lab.check(["ip", "addr", "add", f"{SECOND}/24", "dev", "eth0"])
    lab.check(["ip", "addr", "add", f"{STRANGER}/24", "dev", "br0"], "inet")
    lab.check(["ip", "addr", "add", f"{STRANGER6}/64", "dev", "br0", "nodad"], "inet")
    nets = [each for each in NETS if each.since <= version]
    boxes = [each for each in BOXES if each.since <= version]
    with ThreadPoolExecutor(max_workers=6) as pool:
        jobs: list[Any] = [pool.submit(load_image, api)]
        jobs += [pool.submit(api.call, "POST", "/networks/create", each.request()) for each in nets]
        for job in jobs:
            job.result()
        list(pool.map(lambda box: start(api, box), boxes))
        list(pool.map(lambda box: serve(lab, box.name), boxes))
    for net in nets:
        if net.since:
            lab.check(["ip", "route", "add", net.subnet, "via", UPLINK], "inet")
            lab.check(["ip", "-6", "route", "add", str(net.subnet6), "via", UPLINK6], "inet")


def start(api: DockerAPI, box: Box) -> None:
    """Create a container, connect it to its networks, and start it."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for address, outer, inner in box.ports:
        bindings.setdefault(inner, []).append({"HostIp": address, "HostPort": str(outer)})
    first = box.networks[0]
    body = {
        "Image": IMAGE,
        "Cmd": list(HTTPD),
        "ExposedPorts": {port: {} for port in bindings},
        "StopSignal": "SIGKILL",
        "HostConfig": {"NetworkMode": first, "PortBindings": bindings},
        "NetworkingConfig": {"EndpointsConfig": {first: {"Aliases": list(box.aliases)} if box.aliases else {}}},
    }
    created = api.call("POST", "/containers/create", body, query={"name": box.name})
    for other in box.networks[1:]:
        api.call("POST", f"/networks/{other}/connect", {"Container": created["Id"]})
    api.call("POST", f"/containers/{created['Id']}/start")


def serve(lab: Lab, name: str) -> None:
    """Start a UDP echo server in a container's namespace, on both families; it ends with the lab."""
    pidfile = state_dir(lab.name) / f"echo-{name}.pid"
    argv = services_argv("--echo", "0.0.0.0:7", "--echo", "[::]:7", "--pidfile", str(pidfile))
    subprocess.run([*enter(lab.netns_of(name)), *argv], check=True, stdout=subprocess.DEVNULL)


def down(lab: Lab) -> None:
    """Take the lab away, and the servers that `build` started, each by its own process id."""
    for file in state_dir(lab.name).glob("echo-*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(file.read_text()), 15)
    lab.down()


# the table


@dataclass(frozen=True)
class Cell:
    """One flow: how nettrace is asked, and how the oracle asks. `code` is what stops it; None where it is delivered."""

    src: str
    dst: str
    proto: str
    port: int | None
    address: str
    code: str | None = None
    size: int | None = None

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4

    @property
    def name(self) -> str:
        return f"{self.src}->{self.dst}/{self.proto}{self.port or ''}"

    def question(self, lab: Lab) -> list[str]:
        src = f"netns:{lab.inet}" if self.src == "inet" else self.src
        ports = ["--port", str(self.port)] if self.port else []
        family = [f"-{self.family}"] if self.dst != self.address else []
        size = ["--size", str(self.size)] if self.size else []
        return ["path", src, self.dst, "--proto", self.proto, *ports, *size, *family, "--json", "--timeout", "0.4"]


def ask_oracle(lab: Lab, cell: Cell, *, quick: bool = False) -> bool:
    """Tell whether a program in the source's namespace gets an answer; `quick` asks with bare sockets, and waits less.

    A bare socket is content with a handshake, which a proxy makes also where nobody is behind it.
    """
    where = lab.netns_of({STRANGER: "inet", STRANGER6: "inet"}.get(cell.src, cell.src))
    if cell.proto == "udp" or cell.size is not None or quick:
        return reaches(where, cell.address, proto=cell.proto, port=cell.port, size=cell.size, timeout_s=0.7)
    if cell.proto == "icmp":
        argv = ["busybox", "ping", "-c", "1", "-W", "1", "-q", cell.address]
    else:
        # Its wget would be plainer, but the static one resolves names, and dies of this machine's libraries.
        argv = ["timeout", "3", "busybox", "nc", "-w", "1", cell.address, str(cell.port)]
    done = subprocess.run([*enter(where), *argv], capture_output=True, check=False, input=b"GET / HTTP/1.0\r\n\r\n")
    return done.returncode == 0 if cell.proto == "icmp" else BODY in done.stdout


def addresses(lab: Lab) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the addresses of every container: name → network → addresses."""
    api = api_of(lab)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for row in api.call("GET", "/containers/json"):
        name = row["Names"][0].removeprefix("/")
        found[name] = {
            network: tuple(each for each in (end["IPAddress"], end.get("GlobalIPv6Address")) if each)
            for network, end in row["NetworkSettings"]["Networks"].items()
        }
    return found


def product(lab: Lab) -> Iterator[Cell]:
    """Yield every source × every destination × protocol."""
    known = addresses(lab)
    boxes = [each for each in BOXES if each.since <= major(lab)]
    for src in ("host", "inet", *(each.name for each in boxes)):
        yield from product_of(src, boxes, known)


def product_of(src: str, boxes: Sequence[Box], known: dict[str, dict[str, tuple[str, ...]]]) -> Iterator[Cell]:
    """Yield every flow from one source."""
    for address in (OUTSIDE, OUTSIDE6):
        if src != "inet":
            for proto, port in (("icmp", None), ("tcp", 80), ("udp", 7)):
                yield Cell(src, address, proto, port, address)
    for box in boxes:
        for held in known[box.name].values():
            for address in held:
                yield Cell(src, address, "icmp", None, address)
                yield Cell(src, address, "tcp", 80, address)
        yield Cell(src, held[0], "tcp", 81, held[0])
        yield Cell(src, held[0], "udp", 7, held[0])
    for address in (UPLINK, SECOND, UPLINK6, *(["127.0.0.1", "::1"] if src == "host" else [])):
        yield Cell(src, address, "icmp", None, address)
        for box in boxes:
            for _, outer, inner in box.ports:
                yield Cell(src, address, inner.split("/")[1], outer, address)
    for network in known.get(src, ()):
        net = next((each for each in NETS if each.name == network), Net("bridge", "172.17.0.0/16", "fd00:31:0::/64"))
        for subnet in (net.subnet, net.subnet6):
            if subnet is not None:
                gateway = str(next(ip_network(subnet).hosts()))
                yield Cell(src, gateway, "icmp", None, gateway)


#: What is asked of every engine, and in every continuous run. A row: source, destination, protocol with port, and the
#: code of what stops the flow; "" where it is delivered. A destination is a container by name, alias or id ({d2.id}),
#: an address of it in a network ({d2.dual}, {d2.dual6}), or any address. "20: code" or "proxy: code" holds for that
#: engine or kind alone, and the last entry for all others; "-" leaves the flow out.
TABLE = """
d1    8.8.8.8                tcp/80
d1    2001:4860:4860::8888   icmp
app   2001:4860:4860::8888   tcp/80
both  8.8.8.8                udp/7
s1    8.8.8.8                icmp       filter.internal-network
q1    8.8.8.8                icmp       nat.return-route-missing
f1    2001:4860:4860::8888   icmp       sysctl.ipv6-disabled
r1    8.8.8.8                tcp/80     20: - |
r1    2001:4860:4860::8888   icmp       20: - |
u1    8.8.8.8                icmp       20: - |
d1    d2                     icmp
d1    store                  tcp/80
d1    {d2.id}                udp/7
d1    {d2.dual6}             tcp/80
app   web                    tcp/81     port.not-listening
n1    n2                     tcp/80     filter.icc-disabled
s1    s2                     tcp/80
d1    f1                     icmp       20: filter.network-isolation | filter.direct-access-drop
both  f1                     tcp/80
f1    {both.four}            tcp/80
f1    {both.dual}            icmp       20: filter.network-isolation | filter.direct-access-drop
d1    {u1.unprot}            tcp/80     20: - | filter.network-isolation
f1    {r1.routed}            tcp/80     20: - |
d1    host                   icmp
s1    host                   icmp
n1    203.0.113.2            icmp
host  {d2.dual6}             tcp/80
host  n2                     tcp/80
host  s2                     icmp
app   203.0.113.2            tcp/8110   noproxy: filter.network-isolation |
d1    203.0.113.2            tcp/8110
d2    203.0.113.2            tcp/8110
d2    2001:db8:203::2        tcp/8110
both  203.0.113.2            tcp/8120
n1    203.0.113.2            tcp/8130   noproxy: filter.icc-disabled |
web   203.0.113.12           tcp/8082
app   203.0.113.2            tcp/9081   port.not-listening
host  127.0.0.1              tcp/8080
host  127.0.0.1              tcp/8081
host  203.0.113.2            tcp/8081   port.published-on-loopback
host  203.0.113.12           tcp/8160
host  203.0.113.2            udp/5353
inet  203.0.113.2            tcp/8080
inet  203.0.113.2            tcp/8081   port.published-on-loopback
inet  203.0.113.2            tcp/8082   port.published-on-loopback
inet  203.0.113.12           tcp/8160
inet  203.0.113.2            udp/5311
inet  2001:db8:203::2        tcp/8110
inet  203.0.113.2            tcp/8140   port.not-published
inet  203.0.113.2            tcp/8150
inet  {r1.routed}            tcp/80     20: - |
inet  {r1.routed6}           tcp/81     20: - | filter.unpublished-port-drop
inet  {u1.unprot}            tcp/81     20: - | port.not-listening
"""


def cells(lab: Lab, kind: str) -> list[Cell]:
    """Return the table's flows as this lab has them."""
    known, api = addresses(lab), api_of(lab)
    found = []
    for row in TABLE.strip().splitlines():
        src, dst, what, *rest = row.split(maxsplit=3)
        code = expected(rest[0] if rest else "", str(major(lab)), kind)
        if code == "-":
            continue
        proto, _, port = what.partition("/")
        name, _, network = dst.strip("{}").partition(".") if dst.startswith("{") else (dst, "", "")
        if network == "id":
            dst = str(api.container(name)["Id"])[:14]
            address = known[name][next(iter(known[name]))][0]
        elif network:
            six = network.endswith("6")
            dst = address = known[name][network.removesuffix("6")][1 if six else 0]
        elif dst == "host":
            first = next(each for each in NETS if each.name in known[src])
            address = str(next(ip_network(first.subnet).hosts()))
        elif dst == "store":
            address = known["d2"]["dual"][0]
        else:
            address = nearest(known, src, dst) if dst in known else dst
        found.append(Cell(src, dst, proto, int(port) if port else None, address, code=code))
    return found


def nearest(known: dict[str, dict[str, tuple[str, ...]]], src: str, dst: str) -> str:
    """Return the IPv4 address of a container in a network that the source is in too, else in its first."""
    shared = [network for network in known[dst] if network in known.get(src, {})]
    return known[dst][(shared or list(known[dst]))[0]][0]


def expected(text: str, version: str, kind: str) -> str:
    """Return what a row expects of an engine's major version and a kind."""
    for part in text.split("|"):
        condition, colon, code = part.strip().partition(": ")
        if not colon:
            return condition
        if condition in (version, kind):
            return code.strip()
    return ""


@dataclass(frozen=True)
class Judged:
    """What became of one cell."""

    cell: Cell
    reached: bool
    said: Said

    @property
    def outcome(self) -> str:
        return str(self.said.verdict["outcome"]) if self.said.out else "error"

    @property
    def codes(self) -> list[str]:
        return [each["code"] for each in self.said.verdict["findings"]] if self.said.out else [self.said.err.strip()]

    @property
    def place(self) -> str:
        """Direction and segment of the stop."""
        stop = (self.said.verdict["stop"] or {}) if self.said.out else {}
        return f"{stop.get('direction', '')} {stop.get('segment', '')}"

    @property
    def agrees(self) -> bool:
        named = self.cell.code is None or (self.codes[:1] or [""])[0] == self.cell.code
        return self.reached == (self.outcome == "delivered") and named

    def line(self) -> str:
        return (
            f"{'ok ' if self.agrees else 'BAD'} {self.cell.name:48} reached={self.reached!s:5} {self.outcome:12} "
            f"{self.place:20} {', '.join(self.codes)}"
        )


def judge(lab: Lab, asker: Asker, cells: Sequence[Cell], *, predict: bool = False) -> Iterator[Judged]:
    """Ask the oracle for all cells at once, then nettrace one by one."""
    with ThreadPoolExecutor(max_workers=12) as pool:
        reached = list(pool.map(lambda cell: ask_oracle(lab, cell), cells))
    for cell, truth in zip(cells, reached, strict=True):
        question = cell.question(lab) + (["--predict"] if predict else [])
        yield Judged(cell, truth, asker.ask(question))


def engines() -> list[str]:
    """Return the engines that can be started here, but for those in between."""
    return ["docker", *(["docker-28"] if find_program(engine_dir("docker-28"), "dockerd") is not None else [])]


def main(argv: Sequence[str]) -> int:
    """Run the table and print it; 1 when a cell disagrees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=engines())
    parser.add_argument("--kind", choices=("proxy", "noproxy"))
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--sample", type=int, help="ask so many cells of the product, chosen by chance")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--lab", help="use a lab that is up")
    parser.add_argument("--prefix", default=f"dir{os.getpid()}")
    options = parser.parse_args(argv)
    bad = 0
    for engine in [options.engine] if options.engine else engines():
        for kind in [options.kind] if options.kind else ("proxy", "noproxy"):
            lab = (
                Lab.find(options.lab) if options.lab else up(f"{options.prefix}-{engine[-2:]}{kind[:1]}", engine, kind)
            )
            asker = Asker(lab)
            try:
                started = time.monotonic()
                flows = list(product(lab)) if options.all else cells(lab, kind)
                flows = [each for each in flows if options.only in each.name]
                if options.sample:
                    flows = random.Random(options.sample).sample(flows, min(options.sample, len(flows)))
                for done in judge(lab, asker, flows, predict=options.predict):
                    bad += not done.agrees
                    if options.verbose or not done.agrees or not done.reached:
                        print(engine, kind, done.line(), flush=True)
                print(f"{engine} {kind}: {len(flows)} flows in {time.monotonic() - started:.0f} s", flush=True)
            finally:
                asker.close()
                if not options.lab:
                    down(lab)
    print(f"{bad} disagree")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
