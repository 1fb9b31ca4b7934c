"""The kernel as judge of the walk: random small hosts, real packets, and a capture on every device.

A host with two bridges, three containers and an uplink to an outside that answers; then a list of alterations, each of
which may fail. A packet is sent as nettrace's probes send it, and where it (and its answer) is seen is compared with
the points of the predicted trace. Alterations can be left out one by one, so that a difference can be shrunk.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random

from msgspec.structs import replace

from nettrace import netns
from nettrace.collect import Collector
from nettrace.correlate import correlate
from nettrace.diagnose import diagnose
from nettrace.model.base import rows
from nettrace.model.flow import EndpointKind, Flow, FlowEnd, Proto
from nettrace.model.intent import Container, Intent
from nettrace.model.observe import SightingKind
from nettrace.model.path import Leg, LegEnd, Outcome, Reason, StepKind, Trace
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import Result, Severity, Timing
from nettrace.predict import predict
from nettrace.rules.case import Case as Diagnosed
from nettrace.wire.parse import parse_frame
from nettrace.wire.token import RunToken, make_token
from probes.inject import open_injector
from probes.plan import Injection
from tests.oracle.judge import Report
from tests.oracle.routes import batch, minimal, write

PLACES = ("h", "c1", "c2", "c3", "o")
#: Veth pairs: host device, the far end's place and device. The last byte of each MAC is its number here.
PAIRS = (("v1", "c1", "eth0"), ("v2", "c2", "eth0"), ("v3", "c3", "eth0"), ("up0", "o", "up0"))
HOST_MAC = {device: f"02:00:00:00:01:0{at}" for at, (device, _place, _far) in enumerate(PAIRS, 1)}
FAR_MAC = {place: f"02:00:00:00:02:0{at}" for at, (_device, place, _far) in enumerate(PAIRS, 1)}
BRIDGE_MAC = {"br0": "02:00:00:00:03:01", "br1": "02:00:00:00:03:02"}
ADDRESS = {"c1": "10.1.0.11", "c2": "10.1.0.12", "c3": "10.2.0.13"}
OUTSIDE, FAR_AWAY = "203.0.113.1", "8.8.8.8"
LISTENING, CLOSED = 7, 81
PACKET_OTHERHOST, PACKET_OUTGOING = 3, 4
REJECTS = {"icmp-port-unreachable": (3, 3), "icmp-host-prohibited": (3, 10), "icmp-admin-prohibited": (3, 13)}

Alteration = tuple[str, str, str]
Sights = dict[tuple[str, str], set[int]]


@dataclass(frozen=True)
class Packets:
    """One question: from a place to an address."""

    src: str
    dst: str
    proto: Proto
    dport: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Case:
    """Alterations as (place, tool, arguments), and the questions asked of the altered host."""

    alterations: tuple[Alteration, ...]
    questions: tuple[Packets, ...]


@dataclass
class Seen:
    """Where packets were captured, with their kinds of arrival (PACKET_*), and every ICMP error that went by."""

    probe: Sights = field(default_factory=dict)
    reply: Sights = field(default_factory=dict)
    errors: set[tuple[int, int]] = field(default_factory=set)
    refused: int | None = None


# --- making cases


def cases(count: int, seed: int) -> Iterator[Case]:
    """The cases of a seed; each has a random source of its own."""
    for at in range(count):
        random = Random(f"topology/{seed}/{at}")
        number = random.choice((0, 1, 1, 2, 2, 3, 4, 6))
        alterations = tuple(_alteration(random) for _ in range(number))
        yield Case(alterations, tuple(_question(random) for _ in range(4)))


def _question(random: Random) -> Packets:
    src = random.choice(("c1", "c1", "c1", "c2", "c3", "h"))
    dst = random.choice(
        (*ADDRESS.values(), *ADDRESS.values(), OUTSIDE, FAR_AWAY, FAR_AWAY, "10.1.0.1", "10.2.0.1", "203.0.113.2",
         "10.1.0.99", "192.0.2.5")
    )  # fmt: skip
    if dst == ADDRESS.get(src):
        dst = FAR_AWAY
    proto = random.choice((Proto.ICMP, Proto.UDP, Proto.TCP))
    dport = None if proto is Proto.ICMP else random.choice((LISTENING, LISTENING, CLOSED, 8080))
    size = random.choice((None, None, None, 1400, 1500)) if proto is not Proto.TCP else None
    return Packets(src, dst, proto, dport, size)


def _alteration(random: Random) -> Alteration:
    return random.choice(
        (_sysctl, _sysctl, _sysctl, _port, _port, _link, _route, _route, _rule, _neighbour, _address, _fdb, _iptables,
         _iptables, _nft)
    )(random)  # fmt: skip


def _place(random: Random) -> str:
    return random.choice(("h", "h", "h", "c1", "c2", "c3"))


def _device(random: Random, place: str) -> str:
    return random.choice(("br0", "br1", "up0")) if place == "h" else "eth0"


def _sysctl(random: Random) -> Alteration:
    place = _place(random)
    device = random.choice((_device(random, place), "all"))
    name, value = random.choice(
        (("net/ipv4/ip_forward", "0"), (f"net/ipv4/conf/{device}/forwarding", "0"),
         (f"net/ipv4/conf/{device}/rp_filter", "1"), (f"net/ipv4/conf/{device}/rp_filter", "2"),
         (f"net/ipv4/conf/{device}/accept_local", "1"), (f"net/ipv4/conf/{device}/route_localnet", "1"),
         (f"net/ipv4/conf/{device}/proxy_arp", "1"), (f"net/ipv4/conf/{device}/src_valid_mark", "1"),
         (f"net/ipv4/conf/{device}/arp_ignore", random.choice(("1", "2", "3", "8"))),
         ("net/bridge/bridge-nf-call-iptables", random.choice(("0", "1"))),
         ("net/ipv4/icmp_echo_ignore_all", "1"))
    )  # fmt: skip
    return place, "sysctl", f"{name} {value}"


def _port(random: Random) -> Alteration:
    port = random.choice(("v1", "v2", "v3"))
    what = random.choice(("state 0", "state 2", "state 4", "isolated on", "learning off", "hairpin on", "flood off"))
    if random.random() < 0.25:
        bridge = random.choice(("br0", "br1"))
        return random.choice(
            (("h", "ip", f"link set {bridge} type bridge vlan_filtering 1"),
             ("h", "bridge", f"vlan add dev {port} vid 20 pvid untagged"),
             ("h", "bridge", f"vlan del dev {port} vid 1"),
             ("h", "ip", f"link set {port} nomaster"))
        )  # fmt: skip
    return "h", "bridge", f"link set dev {port} {what}"


def _link(random: Random) -> Alteration:
    place = _place(random)
    device = random.choice((_device(random, place), *(("v1", "v2") if place == "h" else ())))
    return place, "ip", f"link set {device} {random.choice(('down', 'mtu 1400', 'mtu 1300', 'mtu 9000', 'arp off'))}"


def _gateway(random: Random, place: str) -> str:
    if place == "h":
        return random.choice((f"via {OUTSIDE} dev up0", "via 10.1.0.11 dev br0", "dev br0", "dev up0", "dev br1"))
    own = "10.2.0" if place == "c3" else "10.1.0"
    return random.choice((f"via {own}.1", f"via {own}.77", "dev eth0", "via 10.1.0.12"))


def _route(random: Random) -> Alteration:
    place = _place(random)
    prefix = random.choice(("default", "8.8.8.0/24", "10.0.0.0/8", "10.2.0.0/24", "10.1.0.0/25", "10.1.0.12/32",
                            "203.0.113.0/24"))  # fmt: skip
    table = random.choice(("", "", "", " table 100"))
    shape = random.random()
    if shape < 0.2:
        return place, "ip", f"route del {random.choice(('default', '10.1.0.0/24', '10.2.0.0/24'))}"
    if shape < 0.4:
        return place, "ip", f"route replace {random.choice(('blackhole', 'unreachable', 'prohibit'))} {prefix}{table}"
    extra = random.choice(("", "", " mtu 1200", " onlink"))
    if "via" not in (way := _gateway(random, place)):
        extra = extra.replace(" onlink", "")
    return place, "ip", f"route replace {prefix} {way}{table}{extra}"


def _rule(random: Random) -> Alteration:
    place = _place(random)
    what = random.choice(("from 10.1.0.0/24", "from 10.1.0.11", "to 8.8.8.8", f"iif {_device(random, place)}",
                          "fwmark 1", "iif lo", "from all"))  # fmt: skip
    action = random.choice(("lookup 100", "lookup 100", "prohibit", "unreachable", "blackhole"))
    return place, "ip", f"rule add pref 100 {what} {action}"


def _neighbour(random: Random) -> Alteration:
    place = _place(random)
    macs = [*FAR_MAC.values(), *BRIDGE_MAC.values(), "02:00:00:00:09:09"]
    if place == "h":
        address, device = random.choice((("10.1.0.11", "br0"), ("10.1.0.12", "br0"), (OUTSIDE, "up0")))
    else:
        address, device = random.choice(("10.1.0.1", "10.2.0.1", "10.1.0.12", "10.1.0.11")), "eth0"
    return place, "ip", f"neigh replace {address} lladdr {random.choice(macs)} nud permanent dev {device}"


def _address(random: Random) -> Alteration:
    place = _place(random)
    device = _device(random, place)
    if random.random() < 0.4:
        return place, "ip", f"addr flush dev {device}"
    address = random.choice(("10.1.0.99/24", "10.1.0.12/32", "10.2.0.1/16", "10.9.0.1/24", "192.0.2.5/32",
                             "10.1.0.11/24", "10.2.0.13/24"))  # fmt: skip
    return place, "ip", f"addr add {address} dev {device}"


def _fdb(random: Random) -> Alteration:
    port = random.choice(("v1", "v2", "v3"))
    mac = random.choice([*FAR_MAC.values(), *BRIDGE_MAC.values()])
    return "h", "bridge", f"fdb replace {mac} dev {port} master {random.choice(('static', 'static sticky'))}"


def _iptables(random: Random) -> Alteration:
    place = random.choice(("h", "h", "h", "c1", "c2"))
    match = random.choice(("", "-s 10.1.0.0/24", "-d 8.8.8.8", "-p tcp", "-p icmp", "-p udp", "-s 10.1.0.11"))
    rule = random.choice(
        ("-t nat -A POSTROUTING -o up0 MATCH -j MASQUERADE", "-t nat -A POSTROUTING MATCH -j MASQUERADE",
         "-t nat -A POSTROUTING MATCH -j SNAT --to-source 203.0.113.2",
         "-t nat -A PREROUTING MATCH -j DNAT --to-destination 10.1.0.12",
         "-t nat -A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 10.2.0.13:7",
         "-t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.1.0.12:7",
         "-t nat -A OUTPUT MATCH -j DNAT --to-destination 10.2.0.13",
         "-t mangle -A PREROUTING MATCH -j MARK --set-mark 1", "-t mangle -A OUTPUT MATCH -j MARK --set-mark 1",
         "-A FORWARD MATCH -j DROP", "-A FORWARD MATCH -j REJECT", "-A INPUT MATCH -j DROP", "-A OUTPUT MATCH -j DROP",
         "-P FORWARD DROP", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
         "-t raw -A PREROUTING MATCH -j DROP", "-A FORWARD -i br0 -o br0 -j DROP",
         "-t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 7")
    )  # fmt: skip
    return place, "iptables", rule.replace("MATCH", match)


def _nft(random: Random) -> Alteration:
    hook = random.choice(("prerouting", "input", "forward", "output", "postrouting"))
    what = random.choice(("ip protocol icmp drop", "udp dport 7 drop", "tcp dport 7 drop", "ip saddr 10.1.0.11 drop"))
    family = random.choice(("ip", "inet", "bridge"))
    name = f"t{random.randint(0, 99999)}"
    chain = f"chain c {{ type filter hook {hook} priority 0; {what}; }}"
    return random.choice(("h", "h", "c2")), "nft", f"table {family} {name} {{ {chain} }}"


# --- the rig


class Rig:
    """The namespaces of one case, with a capture on every device and a server at every place."""

    def __init__(self, name: str) -> None:
        self.names = {place: f"{name}-{place}" for place in PLACES}
        self.stack = contextlib.ExitStack()
        self.ns: dict[str, netns.Netns] = {}
        self.captures: dict[tuple[str, str], socket.socket] = {}
        self.udp: list[socket.socket] = []

    def __enter__(self) -> Rig:
        try:
            self._make()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stack.close()

    def _make(self) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
            self.stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
        self.ns = {
            place: self.stack.enter_context(netns.pin(f"/run/netns/{name}", name)) for place, name in self.names.items()
        }
        for place in PLACES:
            netns.run_in(self.ns[place], _calm)
        batch("\n".join(self._host()), self.names["h"])
        for place, address in ADDRESS.items():
            router = "10.2.0.1" if place == "c3" else "10.1.0.1"
            batch(
                f"link set lo up\nlink set eth0 up\naddr add {address}/24 brd + dev eth0\n"
                f"route add default via {router}",
                self.names[place],
            )
        batch(
            f"link set lo up\nlink set up0 up\naddr add {OUTSIDE}/24 brd + dev up0\naddr add {FAR_AWAY}/32 dev lo\n"
            "route add 10.0.0.0/8 via 203.0.113.2",
            self.names["o"],
        )
        for device in ("v1", "v2", "v3", "up0", "br0", "br1", "lo"):
            self._listen("h", device)
        for _device_name, place, far in PAIRS:
            self._listen(place, far)
        for place in PLACES:
            self._serve(place)

    def _host(self) -> Iterator[str]:
        yield "link set lo up"
        for bridge, mac in BRIDGE_MAC.items():
            yield f"link add {bridge} address {mac} type bridge"
            yield f"link set {bridge} up"
        for device, place, far in PAIRS:
            yield (
                f"link add {device} address {HOST_MAC[device]} type veth peer name {far} address {FAR_MAC[place]}"
                f" netns {self.names[place]}"
            )
            if device != "up0":
                yield f"link set {device} master {'br1' if device == 'v3' else 'br0'}"
            yield f"link set {device} up"
        yield "addr add 10.1.0.1/24 brd + dev br0"
        yield "addr add 10.2.0.1/24 brd + dev br1"
        yield "addr add 203.0.113.2/24 brd + dev up0"
        yield f"route add default via {OUTSIDE}"

    def _listen(self, place: str, device: str) -> None:
        sock = self.stack.enter_context(netns.open_socket(self.ns[place], socket.AF_PACKET, socket.SOCK_RAW, 0))
        sock.bind((device, 3))
        sock.setblocking(False)
        self.captures[place, device] = sock

    def _serve(self, place: str) -> None:
        udp = self.stack.enter_context(netns.open_socket(self.ns[place], socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", LISTENING))
        udp.setblocking(False)
        # The answer leaves from the address that was asked.
        udp.setsockopt(socket.IPPROTO_IP, 8, 1)
        self.udp.append(udp)
        tcp = self.stack.enter_context(netns.open_socket(self.ns[place], socket.AF_INET, socket.SOCK_STREAM))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("0.0.0.0", LISTENING))
        tcp.listen(8)

    def alter(self, alterations: tuple[Alteration, ...]) -> None:
        """Carry alterations out, in order; what the kernel refuses is left out."""
        for place, tool, text in alterations:
            netns.run_in(self.ns[place], lambda tool=tool, text=text: _alter(tool, text))  # type: ignore[misc]
        if any(tool in ("ip", "bridge") for _place_name, tool, _text in alterations):
            time.sleep(0.02)

    def read(self) -> Snapshot:
        """The host and its containers, as nettrace's own collector reads them."""

        def work() -> Snapshot:
            with Collector(engines=()) as collector:
                for place in ("h", "c1", "c2", "c3"):
                    collector.read(self.ns[place].inode)
                return replace(collector.snapshot(), intent=Intent(containers=self._containers()))

        return netns.run_in(self.ns["h"], work)

    def _containers(self) -> tuple[Container, ...]:
        """The containers as an engine would tell of them, so that the walk follows packets into any of them."""
        return tuple(
            Container(id=place, name=place, engine="none", status="running", netns=self.ns[place].inode)
            for place in ADDRESS
        )

    def drain(self, run: RunToken, seen: Seen) -> None:
        """Take what the captures heard, and answer datagrams."""
        for where, sock in self.captures.items():
            while True:
                try:
                    data, address = sock.recvfrom(65536)
                except (BlockingIOError, OSError):
                    break
                parsed = parse_frame(data, run=run)
                if parsed is None:
                    continue
                if parsed.kind is SightingKind.PROBE:
                    seen.probe.setdefault(where, set()).add(address[2])
                elif parsed.kind in (SightingKind.REPLY, SightingKind.RESET):
                    seen.reply.setdefault(where, set()).add(address[2])
                elif parsed.kind is SightingKind.ICMP_ERROR:
                    seen.errors.add((parsed.packet.icmp_type or 0, parsed.packet.icmp_code or 0))
        for sock in self.udp:
            with contextlib.suppress(OSError):
                data, ancillary, _flags, peer = sock.recvmsg(65536, 256)
                _interface, local, _asked = struct.unpack("I4s4s", ancillary[0][2][:12])
                info = struct.pack("I4s4s", 0, local, bytes(4))
                sock.sendmsg([data], [(socket.IPPROTO_IP, 8, info)], 0, peer)

    def send(self, question: Packets, wanted: int) -> Seen:
        """Send a question's packet, and listen until so many sights were had and nothing more comes."""
        dports = (question.dport, LISTENING) if question.dport is not None else ()
        token = make_token(os.urandom(8), question.proto, dports=dports)
        injection = Injection(
            netns=self.ns[question.src].inode, proto=question.proto, family=4, dst=ip_address(question.dst),
            dport=question.dport, size=question.size,
        )  # fmt: skip
        seen = Seen()
        injector = netns.run_in(self.ns[question.src], lambda: open_injector(injection, token))
        try:
            run = injector.token
            self.drain(run, Seen())
            seen.refused = injector.send(0).errno
            begun = quiet = time.monotonic()
            count = 0
            while time.monotonic() - quiet < (0.012 if count >= wanted else 0.08) and time.monotonic() - begun < 0.4:
                self.drain(run, seen)
                if len(seen.probe) + len(seen.reply) > count:
                    count, quiet = len(seen.probe) + len(seen.reply), time.monotonic()
                time.sleep(0.002)
        finally:
            injector.close()
        return seen


def _calm() -> None:
    """Nothing but the packets under test on the wire, and every ICMP error said."""
    for path, value in (
        ("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"), ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/icmp_ratelimit", "0"), ("net/ipv4/ip_forward", "1"),
    ):  # fmt: skip
        write(path, value)


def _alter(tool: str, text: str) -> None:
    if tool == "sysctl":
        with contextlib.suppress(OSError):
            write(*text.split())
        return
    if tool == "nft":
        subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True, check=False)
        return
    subprocess.run([tool, *text.split()], capture_output=True, text=True, check=False)


# --- judging


def flow_of(one: Rig, question: Packets, sport: int | None = None) -> Flow:
    """The question as nettrace's resolver puts it."""
    src = FlowEnd(
        kind=EndpointKind.HOST if question.src == "h" else EndpointKind.NETNS,
        name=question.src,
        netns=one.ns[question.src].inode,
    )
    holder = next((place for place, address in ADDRESS.items() if address == question.dst), None)
    if question.dst in ("10.1.0.1", "10.2.0.1", "203.0.113.2"):
        holder = "h"
    kind = EndpointKind.ADDRESS if holder is None else EndpointKind.HOST if holder == "h" else EndpointKind.NETNS
    dst = FlowEnd(
        kind=kind,
        name=question.dst,
        netns=one.ns[holder].inode if holder is not None else None,
        address=ip_address(question.dst),
    )
    return Flow(src=src, dst=dst, proto=question.proto, sport=sport, dport=question.dport, size=question.size)


def sights(one: Rig, trace: Trace, leg: Leg | None) -> set[tuple[str, str]]:
    """Where the model lets a leg's packet be seen."""
    places = {ns.inode: place for place, ns in one.ns.items()}
    points = {point.id: (places[point.netns], point.device) for point in trace.points}
    return {
        points[step.point]
        for step in (leg.steps if leg is not None else ())
        if step.point is not None and step.outcome in (Outcome.PASS, Outcome.ARRIVED)
    } - {("o", "up0")}


def compare(one: Rig, trace: Trace, seen: Seen) -> str | None:
    """What is wrong with the prediction; None when nothing is, "unknown…" when it did not commit itself."""
    forward, reply = trace.forward, trace.reply
    if forward.end in (LegEnd.UNKNOWN, LegEnd.NEEDS):
        return f"unknown: {forward.steps[-1].text if forward.steps else forward.end}"
    problem = _leg_problem("probe", sights(one, trace, forward), seen.probe, forward)
    if problem is not None and problem.endswith(NOWHERE_ELSE) and any(map(_asks_first, (forward, reply))):
        return "unknown: stopped as predicted, but with its ARP already"
    if problem is not None:
        return problem
    error = forward.icmp_error
    last = forward.steps[-1]
    rejected = last.hook is not None and last.hook.reject_with is not None
    closed = last.reason is Reason.NOT_LISTENING
    if not rejected and not closed and forward.end is LegEnd.DROPPED and seen.errors - {error}:
        return f"ICMP errors {seen.errors}, predicted {error}"
    if closed and trace.flow.proto is Proto.UDP:
        return None
    if forward.end is LegEnd.LEFT and any(step.open_ended for step in forward.steps) and not seen.reply:
        return None
    if forward.end is LegEnd.LEFT and not seen.probe.get(("o", "up0")):
        return None
    if forward.end is LegEnd.LEFT and trace.flow.dst.address not in (ip_address(OUTSIDE), ip_address(FAR_AWAY)):
        return None
    if forward.end is LegEnd.DROPPED and not closed:
        return "an answer was seen, though the packet was predicted to be dropped" if seen.reply else None
    if reply is None:
        return "unknown: no reply leg"
    if reply.end in (LegEnd.UNKNOWN, LegEnd.NEEDS):
        return f"unknown: reply: {reply.steps[-1].text if reply.steps else reply.end}"
    if last.sysctl is not None and closed:
        return "an answer was seen" if seen.reply else None
    problem = _leg_problem("reply", sights(one, trace, reply), seen.reply, reply)
    if problem is not None and problem.endswith(NOWHERE_ELSE) and _asks_first(reply):
        return "unknown: reply: stopped as predicted, but with its ARP already"
    return problem


#: What stops a frame on its link, or on its way into the next hop's stack, stops the question for the next hop's
#: address as well: bridges flood it like any frame, and arp_process routes it as a packet.
ON_THE_LINK = (
    Reason.PORT_BLOCKED, Reason.PORT_ISOLATED, Reason.VLAN_FILTERED, Reason.LINK_DOWN, Reason.NO_CARRIER,
    Reason.RP_FILTER, Reason.MARTIAN, Reason.ROUTE_PROHIBIT, Reason.ROUTE_UNREACHABLE, Reason.ROUTE_BLACKHOLE,
    Reason.FDB_WRONG_PORT, Reason.PEER_DOWN, Reason.OTHERHOST, Reason.NO_FLOOD, Reason.PORT_NO_HAIRPIN,
)  # fmt: skip


NOWHERE_ELSE = "and nowhere unexpectedly"


def _asks_first(leg: Leg | None) -> bool:
    """Tell whether a leg ends on a link where the next hop had to be asked for, before the packet could be sent."""
    if leg is None or leg.end is not LegEnd.DROPPED or leg.steps[-1].reason not in ON_THE_LINK:
        return False
    hops = [step for step in leg.steps if step.kind is StepKind.NEIGHBOUR]
    return bool(hops) and (hops[-1].neighbour is None or hops[-1].neighbour.mac is None)


def _leg_problem(name: str, want: set[tuple[str, str]], got: Sights, leg: Leg) -> str | None:
    lacking = {where for where in want - set(got) if where != ("h", "lo") and where[1] != "lo"}
    # Frames for others, which bridges flood, are heard but not taken.
    extra = {
        where
        for where, kinds in got.items()
        if where not in want and where[0] != "o" and where[1] not in HOST_MAC and kinds - {PACKET_OTHERHOST}
    }
    # br_nf_pre_routing_finish_bridge sends by the bridge itself when it must ask for the neighbour first.
    if any(step.hook is not None and step.hook.nats for step in leg.steps) or name == "reply":
        extra -= {where for where in extra if where[1] in BRIDGE_MAC and got[where] == {PACKET_OUTGOING}}
    if not lacking and not extra:
        return None
    if lacking and not extra and any(step.open_ended for step in leg.steps):
        return "unknown: the next hop lies beyond this host"
    return f"{name} not seen at {sorted(lacking)}, " + (f"but at {sorted(extra)}" if extra else NOWHERE_ELSE)


def answer(one: Rig, snapshot: Snapshot, question: Packets) -> tuple[Trace, Seen, str | None]:
    """Predict, send, compare."""
    trace = predict(snapshot, flow_of(one, question))
    wanted = len(sights(one, trace, trace.forward))
    ends = (LegEnd.ARRIVED, LegEnd.LEFT)
    if trace.forward.end in ends and trace.reply is not None:
        wanted += len(sights(one, trace, trace.reply))
    seen = one.send(question, wanted)
    problem = compare(one, trace, seen)
    whole = trace.forward.end in ends and trace.reply is not None and trace.reply.end is LegEnd.ARRIVED
    if problem is None and whole and seen.reply:
        problem = _false_alarm(snapshot, trace)
    if problem is not None and _twice(snapshot):
        problem = "unknown: two hosts have one address, and the first to answer wins"
    return trace, seen, problem


def _false_alarm(snapshot: Snapshot, trace: Trace) -> str | None:
    """Tell what the rules blame on a flow that the kernel delivered; None when it is nothing."""
    case = Diagnosed(
        flow=trace.flow, before=snapshot, after=None, trace=trace, correlation=correlate(trace, None), observation=None
    )
    verdict = diagnose(case, timing=Timing(total_s=0, collect_s=0, probe_s=0), version="")
    blamed = [each.code for each in verdict.findings if each.severity in (Severity.BLOCKING, Severity.DEGRADING)]
    if blamed or verdict.outcome is not Result.DELIVERED:
        return f"the kernel delivered it, and the verdict is {verdict.outcome}: {', '.join(blamed)}"
    return None


def _twice(snapshot: Snapshot) -> bool:
    held = [
        (ns.id, each.address.ip) for ns in snapshot.namespaces for each in rows(ns.addresses) if each.scope == "global"
    ]
    places = {address: {inode for inode, other in held if other == address} for _inode, address in held}
    return any(len(each) > 1 for each in places.values())


def run(count: int, seed: int, *, stop_after: int = 5) -> Report:
    """Judge so many topologies, each with four questions; needs root. The same seed makes the same cases."""
    report = Report()
    for at, case in enumerate(cases(count, seed)):
        report.cases += 1
        for question in _judge(case, report):
            alone = Case(case.alterations, (question,))
            if not _fails(alone):
                report.skipped["not the same alone"] += 1
                continue
            small = Case(minimal(case.alterations, lambda each, q=question: _fails(Case(each, (q,)))), (question,))  # type: ignore[misc]
            report.differences.append(f"topology case {at} of seed {seed}\n{describe(small)}")
            break
        if len(report.differences) >= stop_after:
            break
    return report


def _judge(case: Case, report: Report) -> list[Packets]:
    wrong = []
    with Rig(f"nto-{os.getpid()}") as one:
        one.alter(case.alterations)
        snapshot = one.read()
        for question in case.questions:
            trace, _seen, problem = answer(one, snapshot, question)
            if problem is not None and problem.startswith("unknown"):
                report.skipped[problem] += 1
                continue
            end = trace.forward.end.value
            if trace.forward.end in (LegEnd.ARRIVED, LegEnd.LEFT) and trace.reply is not None:
                end += f", reply {trace.reply.end.value}"
            report.outcomes[end] += 1
            if problem is not None:
                wrong.append(question)
    return wrong


def _fails(case: Case) -> bool:
    return bool(_judge(case, Report()))


def describe(case: Case) -> str:
    """A case in full: alterations, the question, the predicted steps, and where packets were seen."""
    with Rig(f"nto-{os.getpid()}") as one:
        one.alter(case.alterations)
        trace, seen, problem = answer(one, one.read(), case.questions[0])
    lines = [" ".join(each) for each in case.alterations]
    lines += [str(case.questions[0]), f"  {problem}"]
    for leg in (trace.forward, trace.reply):
        if leg is not None:
            lines.append(f"  {leg.direction}: {leg.end} icmp {leg.icmp_error}")
            lines += [f"    {step.point or ''} {step.outcome}: {step.text}" for step in leg.steps]
    lines.append(f"  probe {sorted((*where, sorted(kinds)) for where, kinds in seen.probe.items())}")
    lines.append(f"  reply {sorted((*where, sorted(kinds)) for where, kinds in seen.reply.items())}")
    lines.append(f"  errors {seen.errors} errno {seen.refused}")
    return "\n".join(lines)
