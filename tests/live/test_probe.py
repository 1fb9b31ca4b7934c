"""Probes against the kernel: a docker0-like host, its container and an internet, all of them namespaces."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from nettrace.model.base import IPAddress
from nettrace.model.flow import Proto
from nettrace.model.observe import Blind, Observation, Open, SightingKind, Way
from nettrace.model.path import LegEnd, Point, Reason, Role, Segment, Trace
from nettrace.model.snapshot import Link, Snapshot, Vxlan
from nettrace.netns import Netns, open_socket, pin, run_in
from nettrace.wire.filter import capture_filter
from nettrace.wire.parse import parse_frame
from nettrace.wire.pcapng import read_pcapng, write_pcapng
from probes.capture import open_capture
from probes.driver import run_probe
from probes.plan import ProbePlan, plan_probe
from probes.points import capture_spec
from probes.witness.drops import DropEvent, open_drops
from tests.probes import builders
from tests.wire import samples

pytestmark = pytest.mark.live

NAMES = ("ntp-c", "ntp-h", "ntp-i")
FORWARD = ("ntp-c/eth0", "ntp-h/veth1", "ntp-h/docker0", "ntp-h/eth0")
REPLY = FORWARD[::-1]
ROLES = dict(zip(FORWARD, (Role.CONTAINER_ETH0, Role.HOST_VETH, Role.BRIDGE, Role.EGRESS), strict=True))
V4 = (ip_address("172.17.0.2"), ip_address("8.8.8.8"))
V6 = (ip_address("fd00:17::2"), ip_address("2001:db8:8::8"))

SETUP = """
link add veth1 netns ntp-h type veth peer name eth0 netns ntp-c
link add eth0 netns ntp-h type veth peer name eth0 netns ntp-i
-n ntp-h link add docker0 type bridge
-n ntp-h link set veth1 master docker0
-n ntp-c link set lo up
-n ntp-h link set lo up
-n ntp-i link set lo up
-n ntp-c link set eth0 up
-n ntp-h link set veth1 up
-n ntp-h link set docker0 up
-n ntp-h link set eth0 up
-n ntp-i link set eth0 up
-n ntp-c addr add 172.17.0.2/16 dev eth0
-n ntp-h addr add 172.17.0.1/16 dev docker0
-n ntp-h addr add 203.0.113.2/24 dev eth0
-n ntp-i addr add 203.0.113.1/24 dev eth0
-n ntp-i addr add 8.8.8.8/32 dev lo
-n ntp-c addr add fd00:17::2/64 dev eth0 nodad
-n ntp-h addr add fd00:17::1/64 dev docker0 nodad
-n ntp-h addr add 2001:db8:1::2/64 dev eth0 nodad
-n ntp-i addr add 2001:db8:1::1/64 dev eth0 nodad
-n ntp-i addr add 2001:db8:8::8/128 dev lo nodad
-n ntp-c route add default via 172.17.0.1
-n ntp-h route add default via 203.0.113.1
-n ntp-c -6 route add default via fd00:17::1
-n ntp-h -6 route add default via 2001:db8:1::1
-n ntp-i -6 route add fd00:17::/64 via 2001:db8:1::2
"""


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


def enter(namespace: str, *argv: str) -> None:
    run("nsenter", f"--net=/run/netns/{namespace}", *argv)


def sysctl(namespace: Netns, name: str, value: str) -> None:
    def write() -> None:
        Path("/proc/sys/net", name).write_text(value)

    run_in(namespace, write)


def remove() -> None:
    for name in NAMES:
        if Path("/run/netns", name).exists():
            run("ip", "netns", "del", name)


class House:
    """The three namespaces, pinned."""

    def __init__(self) -> None:
        self.netns = {name: pin(f"/run/netns/{name}", name) for name in NAMES}

    @property
    def by_inode(self) -> dict[int, Netns]:
        return {each.inode: each for each in self.netns.values()}

    def ifindex(self, name: str) -> int:
        namespace, device = name.split("/")
        return run_in(self.netns[namespace], lambda: socket.if_nametoindex(device))

    def point(self, name: str) -> Point:
        namespace, device = name.split("/")
        return Point(
            id=name,
            role=ROLES.get(name, Role.DEVICE),
            netns=self.netns[namespace].inode,
            netns_name=namespace,
            device=device,
            ifindex=self.ifindex(name),
            segment=Segment.HOST,
        )

    def trace(
        self,
        forward: tuple[str, ...] = FORWARD,
        reply: tuple[str, ...] | None = REPLY,
        *,
        every: tuple[str, ...] = FORWARD,
        ends: tuple[IPAddress, IPAddress] = V4,
        **facts: object,
    ) -> Trace:
        points = tuple(self.point(name) for name in every)
        src, dst = ends
        inode = self.netns["ntp-c"].inode
        return builders.trace(forward, reply, points=points, src=src, dst=dst, netns=inode, **facts)  # type: ignore[arg-type]

    def snapshot(self) -> Snapshot:
        return builders.snapshot(*((each.inode, name) for name, each in self.netns.items()))

    def plan(self, trace: Trace, *, count: int = 1, timeout_s: float = 1.0, kernel_trace: bool = True) -> ProbePlan:
        return plan_probe(
            trace,
            self.snapshot(),
            count=count,
            timeout_s=timeout_s,
            kernel_trace=kernel_trace,
            token=os.urandom(8),
        )

    def probe(self, trace: Trace, *, count: int = 1, timeout_s: float = 1.0, kernel_trace: bool = True) -> Observation:
        plan = self.plan(trace, count=count, timeout_s=timeout_s, kernel_trace=kernel_trace)
        return run_probe(plan, self.by_inode)

    def close(self) -> None:
        for each in self.netns.values():
            each.close()


@pytest.fixture
def house() -> Iterator[House]:
    remove()
    try:
        for name in NAMES:
            run("ip", "netns", "add", name)
        subprocess.run(["ip", "-batch", "-"], input=_batch(), text=True, check=True, capture_output=True)
        built = House()
        try:
            for name in ("ntp-h", "ntp-i"):
                sysctl(built.netns[name], "ipv4/ip_forward", "1")
                sysctl(built.netns[name], "ipv6/conf/all/forwarding", "1")
            masquerade = "nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"
            enter("ntp-h", "iptables", "-t", *masquerade.split())
            # The internet does not know the container's private addresses.
            enter("ntp-i", "ip", "route", "add", "blackhole", "172.17.0.0/16")
            yield built
        finally:
            built.close()
    finally:
        remove()


def _batch() -> str:
    """`ip -batch` takes no -n, so lines for another namespace are run one by one, and the rest here."""
    here = []
    for line in SETUP.strip().splitlines():
        if line.startswith("-n"):
            if here:
                subprocess.run(["ip", "-batch", "-"], input="\n".join(here), text=True, check=True)
                here = []
            run("ip", *line.split())
        else:
            here.append(line)
    return "\n".join(here)


def seen(observation: Observation, kind: SightingKind) -> list[tuple[str, Way]]:
    return [(each.point, each.way) for each in observation.sightings if each.kind is kind]


def descriptors() -> int:
    """Open descriptors, after a moment: packet sockets are closed beside the run."""
    time.sleep(0.2)
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


THERE = [(FORWARD[0], Way.OUT), (FORWARD[1], Way.IN), (FORWARD[2], Way.IN), (FORWARD[3], Way.OUT)]
BACK = [(FORWARD[3], Way.IN), (FORWARD[2], Way.OUT), (FORWARD[1], Way.OUT), (FORWARD[0], Way.IN)]


def wait_until_ready(house: House) -> None:
    """Carrier and IPv6 need a moment after the links came up; a first probe also warms the neighbours."""
    for ends in (V4, V6):
        deadline = time.monotonic() + 5
        while house.probe(house.trace(ends=ends), timeout_s=0.3).timed_out:
            assert time.monotonic() < deadline


def test_healthy_icmp_is_seen_at_every_point_with_its_nat(house: House) -> None:
    wait_until_ready(house)
    before = descriptors()
    observation = house.probe(house.trace())
    assert not observation.timed_out
    assert seen(observation, SightingKind.PROBE) == THERE
    assert seen(observation, SightingKind.REPLY) == BACK
    probes = [each.packet for each in observation.sightings if each.kind is SightingKind.PROBE]
    assert [str(each.src) for each in probes] == ["172.17.0.2"] * 3 + ["203.0.113.2"]
    assert [each.ttl for each in probes] == [64, 64, 64, 63]
    assert all(each.length == 84 and each.df for each in probes)
    replies = [each.packet for each in observation.sightings if each.kind is SightingKind.REPLY]
    assert [str(each.dst) for each in replies] == ["203.0.113.2"] + ["172.17.0.2"] * 3
    assert all(isinstance(each, Open) for each in observation.captures)
    assert [each.errno for each in observation.sent] == [None]
    assert descriptors() == before
    times = [each.at_ns for each in observation.sightings]
    assert times == sorted(times)
    assert observation.started_ns < times[0] < times[-1] < observation.ended_ns
    for sighting in observation.sightings:
        assert observation.frames[sighting.frame].point == sighting.point


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize(("proto", "port"), [(Proto.ICMP, None), (Proto.TCP, 80), (Proto.TCP, 81), (Proto.UDP, 53)])
def test_every_protocol_is_seen_both_ways(
    house: House, ends: tuple[IPAddress, IPAddress], proto: Proto, port: int | None
) -> None:
    wait_until_ready(house)
    family = socket.AF_INET if ends is V4 else socket.AF_INET6
    with contextlib.ExitStack() as stack:
        far = house.netns["ntp-i"]
        if proto is Proto.TCP and port == 80:
            server = stack.enter_context(open_socket(far, family, socket.SOCK_STREAM))
            server.bind((str(ends[1]), 80))
            server.listen()
        if proto is Proto.UDP:
            server = stack.enter_context(open_socket(far, family, socket.SOCK_DGRAM))
            server.bind((str(ends[1]), 53))
            server.settimeout(5)

            def serve() -> None:
                question, asker = server.recvfrom(2048)
                assert question[12:16] == b"\x1bntr"
                server.sendto(b"an answer without the nonce", asker)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
        observation = house.probe(house.trace(ends=ends, proto=proto, dport=port))
    assert not observation.timed_out
    assert seen(observation, SightingKind.PROBE) == THERE
    answer = SightingKind.RESET if port == 81 else SightingKind.REPLY
    assert seen(observation, answer) == BACK


def test_udp_to_a_closed_port_is_answered_by_an_icmp_error(house: House) -> None:
    wait_until_ready(house)
    observation = house.probe(house.trace(proto=Proto.UDP, dport=4242))
    assert not observation.timed_out
    assert seen(observation, SightingKind.ICMP_ERROR) == BACK
    error = next(each.packet for each in observation.sightings if each.kind is SightingKind.ICMP_ERROR)
    assert (error.icmp_type, error.icmp_code) == (3, 3)
    assert error.quoted is not None
    assert error.quoted.dport == 4242


@pytest.mark.parametrize(("proto", "port"), [(Proto.ICMP, None), (Proto.TCP, 80), (Proto.UDP, 53)])
def test_a_predicted_drop_settles_long_before_the_timeout(house: House, proto: Proto, port: int | None) -> None:
    wait_until_ready(house)
    enter("ntp-h", "iptables", "-A", "FORWARD", "-i", "docker0", "-j", "DROP")
    forward = FORWARD[:3]
    stop = builders.drop(Reason.FILTERED, builders.packet())
    trace = house.trace(forward, None, forward_end=LegEnd.DROPPED, stop=stop, proto=proto, dport=port)
    start = time.monotonic()
    observation = house.probe(trace, timeout_s=30.0)
    assert time.monotonic() - start < 30.0
    assert observation.timed_out
    assert seen(observation, SightingKind.PROBE) == THERE[:3]
    assert isinstance(observation.capture(FORWARD[3]), Open)


def test_a_drop_that_nobody_predicted_takes_the_whole_timeout(house: House) -> None:
    wait_until_ready(house)
    enter("ntp-h", "iptables", "-A", "FORWARD", "-i", "docker0", "-j", "DROP")
    start = time.monotonic()
    observation = house.probe(house.trace(), timeout_s=0.4, kernel_trace=False)
    assert time.monotonic() - start >= 0.4
    assert observation.timed_out
    assert seen(observation, SightingKind.PROBE) == THERE[:3]
    assert [each.witness for each in observation.testimony.silences] == ["kernel-trace"]


def test_a_drop_that_the_kernel_reports_is_not_waited_for(house: House) -> None:
    wait_until_ready(house)
    enter("ntp-h", "iptables", "-A", "FORWARD", "-i", "docker0", "-j", "DROP")
    start = time.monotonic()
    observation = house.probe(house.trace(), timeout_s=30.0)
    assert time.monotonic() - start < 30.0
    assert seen(observation, SightingKind.PROBE) == THERE[:3]
    last = observation.testimony.rules[-1]
    assert (last.table, last.chain, last.verdict) == ("filter", "FORWARD", "drop")
    assert "NETFILTER_DROP" in [each.reason for each in observation.testimony.drops]


def test_a_drop_after_the_probe_was_sent_is_another_packets(house: House) -> None:
    """Whatever the kernel does in this thread's context later on is not about the probe, and ends nothing."""
    wait_until_ready(house)
    enter("ntp-h", "iptables", "-A", "FORWARD", "-d", "192.0.2.1", "-j", "DROP")
    with open_socket(house.netns["ntp-c"], socket.AF_INET, socket.SOCK_DGRAM) as other:
        dropped: list[str | None] = []

        def meanwhile() -> None:
            time.sleep(0.01)
            with open_drops() as heard:
                other.sendto(b"something else", ("192.0.2.1", 9))
                dropped.extend(each.reason for each in heard.read() if isinstance(each, DropEvent))

        observation = run_probe(house.plan(house.trace()), house.by_inode, meanwhile=meanwhile)
    assert "NETFILTER_DROP" in dropped
    # The answer has no other taker than raw sockets, which the kernel calls a drop as well.
    assert {each.reason for each in observation.testimony.drops} <= {"NO_SOCKET"}
    assert not observation.timed_out


def test_a_reject_comes_back_as_an_error_about_our_probe(house: House) -> None:
    wait_until_ready(house)
    reject = "-A FORWARD -i docker0 -j REJECT --reject-with icmp-admin-prohibited"
    enter("ntp-h", "iptables", *reject.split())
    observation = house.probe(house.trace())
    assert not observation.timed_out
    errors = [each for each in observation.sightings if each.kind is SightingKind.ICMP_ERROR]
    assert [each.point for each in errors] == [FORWARD[2], FORWARD[1], FORWARD[0]]
    assert {(each.nonce, each.packet.icmp_type, each.packet.icmp_code) for each in errors} == {(0, 3, 13)}


def test_a_reply_that_is_dropped_on_the_way_back(house: House) -> None:
    wait_until_ready(house)
    enter("ntp-h", "iptables", "-A", "FORWARD", "-o", "docker0", "-j", "DROP")
    stop = builders.drop(Reason.FILTERED, builders.packet())
    observation = house.probe(house.trace(reply=(FORWARD[3],), reply_end=LegEnd.DROPPED, reply_stop=stop))
    assert observation.timed_out
    assert observation.ended_ns - observation.started_ns < 600_000_000
    assert seen(observation, SightingKind.PROBE) == THERE
    assert seen(observation, SightingKind.REPLY) == BACK[:1]


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("proto", list(Proto))
def test_too_big_for_the_next_hop_names_the_mtu(house: House, ends: tuple[IPAddress, IPAddress], proto: Proto) -> None:
    wait_until_ready(house)
    run("ip", "-n", "ntp-h", "link", "set", "eth0", "mtu", "1400")
    port = None if proto is Proto.ICMP else 80
    observation = house.probe(house.trace(ends=ends, proto=proto, dport=port, size=1450))
    assert not observation.timed_out
    probes = [each.packet for each in observation.sightings if each.kind is SightingKind.PROBE]
    assert [each.length for each in probes] == [1450] * 3
    errors = [each.packet for each in observation.sightings if each.kind is SightingKind.ICMP_ERROR]
    assert [each.icmp_mtu for each in errors] == [1400] * 3
    # Sent again: what the kernel learned from the error must not keep the probe at home.
    again = house.probe(house.trace(ends=ends, proto=proto, dport=port, size=1450))
    assert [each.errno for each in again.sent] == [None]


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("proto", list(Proto))
def test_too_big_for_the_source_itself_is_an_error_number(
    house: House, ends: tuple[IPAddress, IPAddress], proto: Proto
) -> None:
    wait_until_ready(house)
    port = None if proto is Proto.ICMP else 80
    observation = house.probe(house.trace(ends=ends, proto=proto, dport=port, size=1501))
    assert [each.errno for each in observation.sent] == [errno.EMSGSIZE]
    assert not observation.timed_out
    assert not seen(observation, SightingKind.PROBE)
    fits = house.probe(house.trace(ends=ends, proto=proto, dport=port, size=1500))
    assert [each.errno for each in fits.sent] == [None]
    assert seen(fits, SightingKind.PROBE) == THERE


@pytest.mark.parametrize("proto", list(Proto))
@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("ip route del default", errno.ENETUNREACH),
        ("ip route replace unreachable default", errno.EHOSTUNREACH),
        ("ip route replace blackhole default", errno.EINVAL),
        ("ip route replace prohibit default", errno.EACCES),
        ("iptables -A OUTPUT -j DROP", errno.EPERM),
        ("ip link set eth0 down", errno.ENETUNREACH),
    ],
)
def test_what_the_kernel_refuses_is_an_answer(house: House, proto: Proto, command: str, number: int) -> None:
    enter("ntp-c", *command.split())
    observation = house.probe(house.trace(proto=proto, dport=None if proto is Proto.ICMP else 80))
    assert [each.errno for each in observation.sent] == [number]
    assert not observation.timed_out
    assert observation.ended_ns - observation.started_ns < 900_000_000
    assert all(isinstance(each, Open) for each in observation.captures)


def test_an_unanswered_neighbour_settles_once_it_was_asked_for(house: House) -> None:
    wait_until_ready(house)
    run("ip", "-n", "ntp-c", "route", "replace", "default", "via", "172.17.0.99")
    hop = ip_address("172.17.0.99")
    stop = builders.drop(Reason.NEIGHBOUR_FAILED, builders.packet(), at=FORWARD[0], next_hop=hop)
    trace = house.trace((), None, forward_end=LegEnd.DROPPED, stop=stop)
    observation = house.probe(trace)
    assert observation.ended_ns - observation.started_ns < 600_000_000
    asked = [each for each in observation.sightings if each.kind is SightingKind.ARP_REQUEST]
    assert {(each.point, str(each.packet.dst)) for each in asked} >= {(FORWARD[0], "172.17.0.99")}
    assert not seen(observation, SightingKind.PROBE)


def test_first_resolution_is_heard(house: House) -> None:
    wait_until_ready(house)
    for ends, pair in (
        (V4, (SightingKind.ARP_REQUEST, SightingKind.ARP_REPLY)),
        (V6, (SightingKind.NDP_SOLICIT, SightingKind.NDP_ADVERT)),
    ):
        for name in ("ntp-c", "ntp-h"):
            run("ip", "-n", name, "neigh", "flush", "all")
        observation = house.probe(house.trace(ends=ends))
        assert not observation.timed_out
        for kind in pair:
            assert seen(observation, kind), kind


def test_a_device_that_is_down_is_open_and_one_that_is_gone_is_blind(house: House) -> None:
    wait_until_ready(house)
    run("ip", "-n", "ntp-h", "link", "set", "docker0", "down")
    stop = builders.drop(Reason.LINK_DOWN, builders.packet())
    plan = house.plan(house.trace(FORWARD[:2], None, forward_end=LegEnd.DROPPED, stop=stop))
    observation = run_probe(plan, house.by_inode)
    assert seen(observation, SightingKind.PROBE) == THERE[:2]
    assert isinstance(observation.capture(FORWARD[2]), Open)
    run("ip", "-n", "ntp-h", "link", "del", "docker0")
    again = run_probe(plan, house.by_inode)
    gone = again.capture(FORWARD[2])
    assert isinstance(gone, Blind)
    assert "docker0" in gone.reason


def test_a_device_that_vanishes_during_the_run_is_blind(house: House) -> None:
    wait_until_ready(house)
    enter("ntp-h", "iptables", "-A", "FORWARD", "-j", "DROP")
    thread = threading.Timer(0.15, lambda: run("ip", "-n", "ntp-h", "link", "del", "veth1"))
    thread.start()
    try:
        observation = house.probe(house.trace(), timeout_s=0.5, kernel_trace=False)
    finally:
        thread.join()
    for name in FORWARD[:2]:
        state = observation.capture(name)
        assert isinstance(state, Blind)
        assert "vanished" in state.reason
    assert isinstance(observation.capture(FORWARD[3]), Open)


def test_a_namespace_that_is_not_there_is_blind_and_not_an_exception(house: House) -> None:
    before = descriptors()
    plan = house.plan(house.trace())
    held = {inode: each for inode, each in house.by_inode.items() if each.label != "ntp-h"}
    observation = run_probe(plan, held)
    assert [type(each) for each in observation.captures] == [Open, Blind, Blind, Blind]
    closed = dict(house.by_inode)
    source = house.netns["ntp-c"]
    with pin("/run/netns/ntp-c", "gone") as gone:
        closed[source.inode] = gone
    observation = run_probe(plan, closed)
    assert not observation.sent
    assert isinstance(observation.captures[0], Blind)
    assert descriptors() == before


def test_many_probes_and_the_loss_of_some(house: House) -> None:
    wait_until_ready(house)
    lossy = "-A FORWARD -i docker0 -m statistic --mode nth --every 2 --packet 1 -j DROP"
    enter("ntp-h", "iptables", *lossy.split())
    # Established flows keep their conntrack entry, yet FORWARD sees each packet.
    observation = house.probe(house.trace(), count=6, timeout_s=0.3)
    assert len(observation.sent) == 6
    passed = {each.nonce for each in observation.sightings if each.point == FORWARD[3]}
    assert passed == {0, 2, 4}
    answered = {each.nonce for each in observation.sightings if each.kind is SightingKind.REPLY}
    assert answered == passed
    assert observation.timed_out


def test_an_interrupted_run_leaves_no_descriptor(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from probes import driver

    before = descriptors()

    def interrupt(_driver: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver._Driver, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        house.probe(house.trace())
    assert descriptors() == before


def test_a_tag_that_the_kernel_keeps_beside_the_frame_is_put_back(house: House) -> None:
    token = samples.token(Proto.ICMP, 4)
    frame = samples.ethernet(samples.probe(token), (0x8100,))
    spec = capture_spec(house.point(FORWARD[1]), house.snapshot())
    capture = run_in(house.netns["ntp-h"], lambda: open_capture(spec, capture_filter(token)))
    try:
        with open_socket(house.netns["ntp-c"], socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("eth0", 0))
            sender.send(frame)
        deadline = time.monotonic() + 2
        heard = list(capture.frames())
        while not heard and time.monotonic() < deadline:
            time.sleep(0.01)
            heard = list(capture.frames())
    finally:
        capture.close()
    assert [each.data for each in heard] == [frame]
    assert heard[0].length == len(frame)
    parsed = parse_frame(heard[0].data, run=token)
    assert parsed is not None
    assert parsed.kind is SightingKind.PROBE


def test_an_overlay_is_heard_inside_and_outside_its_tunnel(house: House) -> None:
    wait_until_ready(house)
    for name, remote, own in (("ntp-h", "203.0.113.1", "10.42.0.1/24"), ("ntp-i", "203.0.113.2", "10.42.0.2/24")):
        tunnel = f"-n {name} link add vx0 type vxlan id 42 remote {remote} dstport 4789 dev eth0"
        run("ip", *tunnel.split())
        run("ip", "-n", name, "addr", "add", own, "dev", "vx0")
        run("ip", "-n", name, "link", "set", "vx0", "up")
    every = (*FORWARD[:3], "ntp-h/vx0", FORWARD[3])
    trace = house.trace(every, every[::-1], every=every, ends=(V4[0], ip_address("10.42.0.2")))
    device = Link(ifindex=house.ifindex("ntp-h/vx0"), name="vx0", kind="vxlan", vxlan=Vxlan(vni=42))
    snapshot = builders.snapshot(*((each.inode, name) for name, each in house.netns.items()), links=(device,))
    observation = run_probe(plan_probe(trace, snapshot, token=os.urandom(8)), house.by_inode)
    assert not observation.timed_out
    assert [point for point, _way in seen(observation, SightingKind.PROBE)] == list(every)
    outer = next(each.packet for each in observation.sightings if each.point == FORWARD[3] and each.nonce == 0)
    assert (str(outer.src), str(outer.dst), outer.dport) == ("203.0.113.2", "203.0.113.1", 4789)
    assert outer.quoted is not None
    assert (str(outer.quoted.src), str(outer.quoted.dst)) == ("10.42.0.1", "10.42.0.2")


def test_frames_make_a_pcapng_that_wireshark_reads(house: House, tmp_path: Path) -> None:
    wait_until_ready(house)
    plan = house.plan(house.trace())
    observation = run_probe(plan, house.by_inode)
    data = write_pcapng(observation.frames, arp_types={each.point: each.arp_type for each in plan.captures})
    again = read_pcapng(data).frames
    assert again == observation.frames
    token = plan.token.with_ports(observation.sports)
    for sighting in observation.sightings:
        parsed = parse_frame(again[sighting.frame].data, run=token)
        assert parsed is not None
        assert (parsed.kind, parsed.nonce, parsed.packet) == (sighting.kind, sighting.nonce, sighting.packet)
    file = tmp_path / "probe.pcapng"
    file.write_bytes(data)
    argv = [
        "tshark",
        "-r",
        str(file),
        "-T",
        "fields",
        "-e",
        "frame.interface_name",
        "-e",
        "frame.packet_flags_direction",
    ]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(shown) == len(observation.frames)
    assert {line.split("\t")[0] for line in shown} == set(FORWARD)


def test_a_healthy_run_waits_for_no_timeout(house: House) -> None:
    wait_until_ready(house)
    start = time.monotonic()
    observation = house.probe(house.trace(), timeout_s=30.0)
    assert time.monotonic() - start < 30.0
    assert not observation.timed_out
