"""The kernel as judge of route lookups: random tables and policy rules, asked by RTM_GETROUTE and by the model.

Each case is a list of `ip` commands, run one by one in a fresh namespace (those that the kernel refuses do not count),
so that a difference can be shrunk by leaving commands out. See rtnetlink(7), ip-route(8), ip-rule(8).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random

from msgspec.structs import replace

from nettrace import netns
from nettrace.collect.links import read_links
from nettrace.collect.netlink import Channel, attribute
from nettrace.collect.proc import read_sysctls
from nettrace.collect.routes import read_addresses, read_routes, read_rules
from nettrace.model.base import IPAddress, Present, Values
from nettrace.model.flow import Packet
from nettrace.model.snapshot import Namespace, NextHop
from nettrace.predict import route as routing
from nettrace.predict.world import View
from tests.oracle.judge import Report

DEVICES = ("va", "vb", "vc", "vd")
TABLES = (254, 254, 254, 255, 253, 100, 101, 1000)
RTM_GETROUTE = 26
RTM_F_LOOKUP_TABLE, RTM_F_FIB_MATCH = 0x1000, 0x2000
RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 2, 3, 4, 5, 7, 15
RTA_MARK, RTA_VIA, RTA_UID, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT = 16, 18, 25, 27, 28, 29
HEADER_BYTES = 28
KINDS = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable",
         8: "prohibit"}  # fmt: skip
#: Error routes as fib_props and ip6_rt_type_to_error name them.
ERRNOS = {
    4: {"blackhole": errno.EINVAL, "unreachable": errno.EHOSTUNREACH, "prohibit": errno.EACCES},
    6: {"blackhole": errno.EINVAL, "unreachable": errno.EHOSTUNREACH, "prohibit": errno.EACCES},
}


@dataclass(frozen=True)
class Query:
    """One lookup. `iif` is a device name for input lookups, None for packets made here; `src` None: to be chosen."""

    family: int
    dst: IPAddress
    src: IPAddress | None = None
    iif: str | None = None
    oif: str | None = None
    mark: int = 0
    tos: int = 0
    uid: int = 0
    proto: int = 17
    sport: int = 1000
    dport: int = 80

    def packet(self) -> Packet:
        """The packet that the lookup is for."""
        ports = self.proto in (6, 17)
        return Packet(
            family=self.family,
            src=self.src or ip_address("0.0.0.0" if self.family == 4 else "::"),
            dst=self.dst,
            proto=self.proto,
            sport=self.sport if ports else None,
            dport=self.dport if ports else None,
            tos=self.tos,
            mark=self.mark,
            uid=self.uid,
        )


@dataclass(frozen=True)
class Case:
    """Commands for `ip`, sysctls as (path below /proc/sys, value), and lookups."""

    commands: tuple[str, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Reply:
    """What the kernel, or the model, says; `hops` holds every next hop that may be taken, with the source."""

    error: int = 0
    kind: str = ""
    table: int = 0
    hops: frozenset[tuple[int | None, str, IPAddress | None]] = frozenset()

    def __str__(self) -> str:
        if self.error:
            return errno.errorcode.get(self.error, str(self.error))
        hops = " or ".join(
            f"{gateway or 'on link'} dev {device} src {source}"
            for device, gateway, source in sorted(self.hops, key=str)
        )
        return f"{self.kind} table {self.table} {hops}"


# --- making cases


class Maker:
    """Makes the cases of one random source."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.family = 4 if random.random() < 0.6 else 6
        self.own: list[str] = []
        self.nets: list[str] = []
        self.objects = random.random() < 0.5

    def case(self, queries: int) -> Case:
        """A case with so many lookups."""
        commands = ["link set lo up"] if self.random.random() < 0.95 else []
        for device in DEVICES:
            commands += self._device(device)
        commands += self._objects()
        for _ in range(self.random.randint(4, 22)):
            commands.append(self._route())
        for _ in range(self.random.choice((0, 0, 1, 3, 6))):
            commands.append(self._rule())
        commands += self._late()
        return Case(tuple(commands), tuple(self._query() for _ in range(queries)))

    def _net(self, device: int) -> str:
        return f"10.{device}.0" if self.family == 4 else f"fd00:{device}:"

    def _address(self, device: int, last: int) -> str:
        return f"{self._net(device)}.{last}" if self.family == 4 else f"{self._net(device)}:{last:x}"

    def _device(self, name: str) -> list[str]:
        random, number = self.random, DEVICES.index(name) + 1
        commands = [f"link set {name} group {random.choice((0, 0, 5))}"] if random.random() < 0.5 else []
        if random.random() < 0.95:
            commands.append(f"link set {name} up")
        for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
            last = random.randint(1, 250)
            if self.family == 4:
                length = random.choice((8, 16, 24, 24, 25, 30, 32))
                # Nexthop objects remember a source that was chosen when they were made (nh_create_ipv4).
                scope = "" if self.objects else random.choice(("", "", "", "", " scope link", " scope host"))
                brd = random.choice((" brd +", ""))
            else:
                length, scope, brd = random.choice((64, 64, 96, 120, 128)), "", " nodad"
            own = self._address(number, last)
            extra = random.choice(("", "", "", " noprefixroute", f" metric {random.randint(1, 500)}"))
            commands.append(f"addr add {own}/{length}{brd} dev {name}{scope}{extra}")
            self.own.append(own)
        if random.random() < 0.1 and self.family == 4:
            own = self._address(number, 251)
            commands.append(f"addr add {own} peer {self._address(number, 252)}/{random.choice((32, 30))} dev {name}")
            self.own.append(own)
        return commands

    def _objects(self) -> list[str]:
        random, commands = self.random, []
        if not self.objects:
            return []
        word = "-6 " if self.family == 6 else ""
        for number in (1, 2, 3):
            device = random.randint(1, 4)
            via = f"via {self._address(device, random.randint(2, 9))} " if random.random() < 0.8 else ""
            onlink = " onlink" if via and random.random() < 0.5 else ""
            commands.append(f"{word}nexthop add id {number} {via}dev {DEVICES[device - 1]}{onlink}")
        commands.append(f"{word}nexthop add id 4 blackhole")
        commands.append("nexthop add id 10 group 1/2,3")
        return commands

    def _prefix(self) -> str:
        random = self.random
        if self.family == 4:
            length = random.choice((0, 0, 8, 12, 16, 20, 24, 28, 32))
            base = f"{random.choice((10, 10, 172, 192))}.{random.randint(0, 6)}.{random.choice((0, 0, 8, 16))}.0"
            if length == 32:
                base = base[:-1] + str(random.randint(1, 9))
        else:
            length = random.choice((0, 0, 8, 16, 32, 48, 64, 128))
            base = f"{random.choice(('fd00', 'fd00', '2001'))}:{random.randint(0, 6)}::"
            if length == 128:
                base += str(random.randint(1, 9))
        import ipaddress

        net = str(ipaddress.ip_network(f"{base}/{length}", strict=False))
        self.nets.append(net)
        return net

    def _route(self) -> str:
        random = self.random
        kind = random.choices(
            ("", "blackhole ", "unreachable ", "prohibit ", "throw ", "local ", "broadcast ", "anycast "),
            (60, 3, 3, 3, 4, 3, 1, 1),
        )[0]
        prefix = self._prefix()
        if kind == "local " and int(prefix.partition("/")[2]) < 24:
            # It would make gateways the namespace's own, and what the kernel then made of them is not in the dump.
            kind = "blackhole "
        text = f"{'-6 ' if self.family == 6 else ''}route add {kind}{prefix}"
        text += f" table {random.choice(TABLES)}"
        if random.random() < 0.3:
            text += f" metric {random.choice((1, 50, 100, 2000))}"
        if self.family == 4 and random.random() < 0.12:
            text += f" tos {random.choice((8, 16, 32))}"
        if self.family == 6 and random.random() < 0.1:
            text += f" from {self._prefix()}"
        if kind in ("blackhole ", "unreachable ", "prohibit ", "throw "):
            return text
        if kind in ("local ", "broadcast ", "anycast "):
            return f"{text} dev {random.choice((*DEVICES, 'lo', 'lo'))}"
        shape = random.random()
        if shape < 0.15:
            hops = " ".join(f"nexthop {self._hop()} weight {random.randint(1, 3)}" for _ in range(random.randint(2, 3)))
            text += f" {hops}"
        elif shape < 0.25:
            return f"{text} nhid {random.choice((1, 2, 3, 4, 10))}"
        else:
            text += f" {self._hop()}"
        if self.own and random.random() < 0.15:
            text += f" src {random.choice(self.own)}"
        return text

    def _hop(self) -> str:
        number = self.random.randint(1, 4)
        device = DEVICES[number - 1]
        shape = self.random.random()
        if shape < 0.3:
            return f"dev {device}"
        gateway = self._address(number, self.random.randint(2, 254))
        if shape < 0.6:
            return f"via {gateway} dev {device}"
        return f"via {gateway} dev {device} onlink"

    def _rule(self) -> str:
        random = self.random
        text = f"{'-6 ' if self.family == 6 else ''}rule add pref {random.choice((10, 20, 30, 40, 50, 32770, 40000))}"
        if random.random() < 0.15:
            text += " not"
        for word, chance, choices in (
            ("from", 0.3, [*self.own, *(self.nets or ["default"])]),
            ("to", 0.2, self.nets or ["default"]),
            ("iif", 0.15, [*DEVICES, "lo"]),
            ("oif", 0.05, list(DEVICES)),
            ("fwmark", 0.3, ["1", "0x2", "0x10/0x10", "0/0x1"]),
            ("tos", 0.08, ["8", "16"]),
            ("uidrange", 0.12, ["0-0", "0-1000", "1000-2000"]),
            ("ipproto", 0.12, ["tcp", "udp", "icmp"]),
            ("sport", 0.06, ["1000", "900-1100", "5"]),
            ("dport", 0.1, ["80", "1-100", "443"]),
        ):
            if random.random() < chance:
                text += f" {word} {random.choice(choices)}"
        action = random.random()
        if action < 0.08:
            return f"{text} {random.choice(('blackhole', 'unreachable', 'prohibit', 'nop'))}"
        if action < 0.18:
            return f"{text} goto {random.choice((20, 30, 40, 50, 32766, 50000))}"
        text += f" lookup {random.choice((100, 101, 1000, 254))}"
        if random.random() < 0.2:
            text += f" suppress_prefixlength {random.choice((0, 8, 16, 24))}"
        if random.random() < 0.06:
            text += " suppress_ifgroup 5"
        return text

    def _late(self) -> list[str]:
        """What changes the state of routes that are there already."""
        random, commands = self.random, []
        if random.random() < 0.25:
            commands.append(f"link set {random.choice(DEVICES)} down")
        if random.random() < 0.3:
            commands.append(f"peer {random.choice(DEVICES)} down")
        for family in (4, 6):
            for device in random.sample((*DEVICES, "all"), random.choice((0, 0, 1, 2))):
                commands.append(f"sysctl net/ipv{family}/conf/{device}/ignore_routes_with_linkdown 1")
        return commands

    def _target(self) -> IPAddress:
        import ipaddress

        random = self.random
        pick = random.random()
        if pick < 0.12 and self.own:
            return ip_address(random.choice(self.own))
        if pick < 0.4:
            return ip_address(self._address(random.randint(1, 5), random.randint(1, 255)))
        if pick < 0.9 and self.nets:
            net = ipaddress.ip_network(random.choice(self.nets))
            return net.network_address + random.randint(0, min(net.num_addresses - 1, 300))
        if self.family == 4:
            return ip_address(f"{random.choice((8, 10, 172, 192))}.{random.randint(0, 8)}.8.{random.randint(1, 9)}")
        return ip_address(f"{random.choice(('2001', 'fd00', '2a00'))}:{random.randint(0, 8)}::{random.randint(1, 9)}")

    def _query(self) -> Query:
        random = self.random
        dst = self._target()
        while dst.is_unspecified or dst.is_multicast or dst.is_loopback or (dst.version == 4 and int(dst) >> 24 == 0):
            dst = self._target()
        src: IPAddress | None = None
        iif = oif = None
        way = random.random()
        if way < 0.35 and self.own:
            src = ip_address(random.choice(self.own))
        if way > 0.65:
            iif = random.choice(DEVICES)
            src = self._target() if random.random() < 0.3 else ip_address(self._foreign())
        elif random.random() < 0.12:
            oif = random.choice(DEVICES)
        return Query(
            family=self.family, dst=dst, src=src, iif=iif, oif=oif,
            mark=random.choice((0, 0, 0, 1, 2, 0x10, 0x11)),
            tos=random.choice((0, 0, 0, 8, 16, 32)),
            uid=0 if iif else random.choice((0, 0, 1, 1500)),
            proto=random.choice((6, 17, 1 if self.family == 4 else 58)),
            sport=random.choice((5, 1000, 3000)), dport=random.choice((80, 443)),
        )  # fmt: skip

    def _foreign(self) -> str:
        last = self.random.randint(1, 9)
        return f"198.51.100.{last}" if self.family == 4 else f"2001:db8:9::{last}"


# --- the two answers


@contextlib.contextmanager
def laid_out(commands: tuple[str, ...], name: str) -> Iterator[netns.Netns]:
    """A namespace with the case's commands carried out, and its devices' far ends in another one."""
    names = (name, f"{name}-far")
    made: list[str] = []
    try:
        for each in names:
            subprocess.run(["ip", "netns", "add", each], check=True)
            made.append(each)
        with netns.pin(f"/run/netns/{name}", name) as ns:
            netns.run_in(ns, lambda: _lay_out(commands, names[1]))
            yield ns
    finally:
        for each in made:
            subprocess.run(["ip", "netns", "del", each], check=True)


def _lay_out(commands: tuple[str, ...], far: str) -> None:
    write("net/ipv4/ip_forward", "1")
    write("net/ipv6/conf/all/forwarding", "1")
    for device in ("all", "default"):
        write(f"net/ipv4/conf/{device}/rp_filter", "0")
        write(f"net/ipv4/conf/{device}/send_redirects", "0")
        write(f"net/ipv4/conf/{device}/accept_local", "1")
        write(f"net/ipv6/conf/{device}/accept_dad", "0")
        write(f"net/ipv6/conf/{device}/router_solicitations", "0")
    batch("".join(f"link add {device} type veth peer name {device} netns {far}\n" for device in DEVICES))
    batch("".join(f"link set {device} up\n" for device in DEVICES), far)
    waiting: list[str] = []
    for command in commands:
        word, *rest = command.split()
        if word not in ("sysctl", "peer"):
            waiting.append(command)
            continue
        batch("\n".join(waiting))
        waiting = []
        if word == "sysctl":
            write(rest[0], rest[1])
        else:
            batch(f"link set {rest[0]} {rest[1]}", far)
    batch("\n".join(waiting))
    # Carrier changes reach the routes a moment later (linkwatch_event).
    time.sleep(0.02)


def batch(lines: str, where: str | None = None) -> None:
    """Carry out `ip` commands; refused ones are left out, as the kernel leaves them out."""
    there = ["-n", where] if where is not None else []
    subprocess.run(["ip", *there, "-force", "-batch", "-"], input=lines, text=True, capture_output=True, check=False)


def write(path: str, value: str) -> None:
    """Set a sysctl of the calling thread's namespace."""
    with open(f"/proc/sys/{path}", "w") as file:
        file.write(value)


def read_view(ns: netns.Netns, channel: Channel) -> View:
    """What a route lookup needs of a namespace, read by nettrace's collectors."""
    links, sysctls = read_links(channel)
    namespace = Namespace(
        id=ns.inode,
        name=ns.label,
        links=Present(rows=links),
        addresses=Present(rows=read_addresses(channel)),
        routes=Present(rows=read_routes(channel)),
        rules=Present(rows=read_rules(channel)),
        sysctls=Values(values=netns.run_in(ns, read_sysctls) | sysctls),
    )
    return View(namespace)


def ask_kernel(channel: Channel, query: Query, index: dict[str, int]) -> Reply:
    """RTM_GETROUTE: the result for the source and device, and the entry itself for its next hops."""
    try:
        answer = channel.ask(RTM_GETROUTE, _request(query, index, RTM_F_LOOKUP_TABLE))
    except OSError as error:
        return Reply(error=error.errno or errno.EIO)
    kind = KINDS.get(answer[23], str(answer[23]))
    source = attribute(answer, RTA_PREFSRC, offset=HEADER_BYTES)
    table = _number(attribute(answer, RTA_TABLE, offset=HEADER_BYTES)) or answer[20]
    gateway = attribute(answer, RTA_GATEWAY, offset=HEADER_BYTES)
    via = attribute(answer, RTA_VIA, offset=HEADER_BYTES)
    hop = str(ip_address(gateway)) if gateway else (str(ip_address(via[2:])) if via else "")
    if not query.iif and query.family == 6 and hop == str(query.dst):
        hop = ""
    device = _number(attribute(answer, RTA_OIF, offset=HEADER_BYTES))
    errors = {"blackhole": errno.EINVAL, "unreachable": errno.EHOSTUNREACH, "prohibit": errno.EACCES}
    if kind in errors:
        return Reply(error=errors[kind])
    chosen = ip_address(source) if source and query.iif is None and query.src is None else None
    return Reply(kind=kind, table=table, hops=frozenset({(device, hop, chosen)}))


def _number(data: bytes | None) -> int | None:
    return int(struct.unpack("=I", data)[0]) if data is not None else None


def _request(query: Query, index: dict[str, int], flags: int) -> bytes:
    family, length = (socket.AF_INET, 32) if query.family == 4 else (socket.AF_INET6, 128)
    body = struct.pack(
        "=BBBBBBBBI", family, length, length if query.src is not None else 0, query.tos, 0, 0, 0, 0, flags
    )
    parts: list[tuple[int, bytes]] = [(RTA_DST, query.dst.packed)]
    if query.src is not None:
        parts.append((RTA_SRC, query.src.packed))
    for kind, name in ((RTA_IIF, query.iif), (RTA_OIF, query.oif)):
        if name is not None:
            parts.append((kind, struct.pack("=I", index[name])))
    parts += [(RTA_MARK, struct.pack("=I", query.mark)), (RTA_IP_PROTO, bytes([query.proto]))]
    if query.iif is None:
        parts.append((RTA_UID, struct.pack("=I", query.uid)))
    if query.proto in (6, 17):
        parts += [(RTA_SPORT, struct.pack("!H", query.sport)), (RTA_DPORT, struct.pack("!H", query.dport))]
    for kind, data in parts:
        body += struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)
    return body


def ask_model(view: View, query: Query) -> Reply:
    """The model's answer to the same lookup."""
    oif = view.by_name[query.oif].ifindex if query.oif is not None else None
    packet = query.packet()
    found = routing.lookup(view, packet, iif=query.iif, oif=oif, src=query.src)
    if found.route is None:
        return Reply(error=errno.ENETUNREACH)
    kind = found.route.kind
    if kind == "unreachable" and found.rule is not None and found.rule.action == kind:
        # The rule's action has another error than the route's type (fib4_rule_action).
        return Reply(error=errno.ENETUNREACH)
    if kind in ERRNOS[query.family]:
        return Reply(error=ERRNOS[query.family][kind])
    choosing = query.iif is None and query.src is None
    hops = frozenset(
        (
            hop.ifindex,
            str(hop.gateway or ""),
            routing.choose_source(view, replace(found, hop=hop), query.dst) if choosing else None,
        )
        for each in found.route.nexthops or (NextHop(),)
        if routing.usable(view, each, query.family) and (oif is None or each.ifindex == oif)
        for hop in (routing.on_link(view, found.route, each),)
    )
    return Reply(kind=kind, table=found.route.table, hops=hops)


def differs(query: Query, want: Reply, got: Reply) -> bool:
    """Tell whether the model's answer (`want`) and the kernel's (`got`) part."""
    if want.error or got.error:
        return want.error != got.error
    # The kernel names the main table for the local one's routes while both are merged.
    tables = {want.table} | ({254, 255} if want.table in (254, 255) else set())
    if want.kind != got.kind or got.table not in tables:
        return True
    if want.kind == "unicast":
        return not got.hops <= want.hops
    return {source for *_, source in got.hops} != {source for *_, source in want.hops}


# --- the run


def cases(count: int, seed: int, queries: int) -> Iterator[Case]:
    """The cases of a seed; each has a random source of its own, so that one can be made again alone."""
    for at in range(count):
        yield Maker(Random(f"routes/{seed}/{at}")).case(queries)


def run(count: int, seed: int, *, queries: int = 100, stop_after: int = 5) -> Report:
    """Judge so many set-ups, each with so many lookups; needs root. The same seed makes the same cases."""
    report = Report()
    for at, case in enumerate(cases(count, seed, queries)):
        report.cases += 1
        found = judge(case, report)
        if found is not None and judge(Case(case.commands, (found,))) is None:
            report.skipped["not the same when asked again"] += 1
        elif found is not None:
            small = shrink(case, found)
            report.differences.append(f"routes case {at} of seed {seed}\n{describe(small)}")
        if len(report.differences) >= stop_after:
            break
    return report


def judge(case: Case, report: Report | None = None) -> Query | None:
    """Lay a case out, and return the first lookup that kernel and model answer differently."""
    name = f"nto-{os.getpid()}-r"
    with laid_out(case.commands, name) as ns, Channel(ns) as channel:
        view = read_view(ns, channel)
        index = {link.name: link.ifindex for link in view.links.values()}
        for query in case.queries:
            want, got = ask_model(view, query), ask_kernel(channel, query, index)
            if odd(view, query, got):
                if report is not None:
                    report.skipped["not a lookup's result"] += 1
                continue
            if report is not None:
                report.outcomes["error" if got.error else got.kind] += 1
            if differs(query, want, got):
                return query
    return None


def odd(view: View, query: Query, got: Reply) -> bool:
    """Tell whether the kernel's answer is about the question rather than about routes.

    A source that is not the namespace's own is refused before any lookup, and so is an output device that is down
    (ip_route_output_key_hash_rcu). Input lookups also validate the source, which the walk does apart.
    """
    if query.iif is not None:
        device = view.by_name[query.iif]
        return query.family == 4 and (not device.up or not device.lower_up or got.error in (errno.EXDEV, errno.EINVAL))
    if query.src is not None and query.src not in view.owned:
        return True
    return query.oif is not None


def describe(case: Case) -> str:
    """A case in full, with both answers to its lookups."""
    lines = list(case.commands)
    with laid_out(case.commands, f"nto-{os.getpid()}-r") as ns, Channel(ns) as channel:
        view = read_view(ns, channel)
        index = {link.name: link.ifindex for link in view.links.values()}
        for query in case.queries:
            lines.append(f"  {query}")
            lines.append(f"  model:  {ask_model(view, query)}")
            lines.append(f"  kernel: {ask_kernel(channel, query, index)}")
        lines.append(f"  devices {index}")
    return "\n".join(lines)


def shrink(case: Case, query: Query) -> Case:
    """Leave out every command without which the difference stays."""
    return Case(minimal(case.commands, lambda each: judge(Case(each, (query,))) is not None), (query,))


def minimal(items: tuple[str, ...], fails: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
    """The smallest part of a list that still fails, as far as leaving out runs of it finds (delta debugging)."""
    size = max(1, len(items) // 2)
    while True:
        at, smaller = 0, False
        while at < len(items):
            rest = items[:at] + items[at + size :]
            if fails(rest):
                items, smaller = rest, True
            else:
                at += size
        if size == 1 and not smaller:
            return items
        if not smaller:
            size = max(1, size // 2)
