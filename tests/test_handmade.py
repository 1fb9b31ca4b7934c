"""Captures made by hand: the flow is followed through them, and silence counts only where somebody listened."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nettrace.cli import main
from nettrace.errors import InputError, UsageError
from nettrace.handmade import Answered, answer_captures, list_conversations, place, scan_files
from nettrace.model.base import rows
from nettrace.model.flow import Flow, Proto
from nettrace.model.observe import Blind, Frame, Open, SightingKind, Way
from nettrace.model.snapshot import Snapshot
from nettrace.replay import read_case
from nettrace.wire.pcapng import read_pcapng, write_pcapng
from tests.wire.captures import NS, block, interface, option, packet, pcap, section

CASES = Path(__file__).parent.parent / "fixtures" / "cases"
PROBED = sorted(path.parent.name for path in CASES.glob("*/capture.pcapng"))
T0 = 1_795_532_137 * NS
APP, HOST, FAR = bytes([172, 17, 0, 2]), bytes([203, 0, 113, 2]), bytes([8, 8, 8, 8])
VETH = "vethf47a079"
WAY = ("app/eth0", f"host/{VETH}", "host/docker0", "host/eth0")
Packets = dict[str, list[tuple[int, bytes]]]


@pytest.fixture(scope="module")
def healthy() -> tuple[Snapshot, Flow]:
    recorded = read_case(CASES / "healthy-out")
    return recorded.before, recorded.run.flow


def came_to(answered: Answered) -> tuple[str, str | None, str | None, str | None]:
    verdict = answered.verdict
    code = verdict.findings[0].code if verdict.findings else None
    stop = verdict.stop
    return verdict.outcome.value, code, stop.segment.value if stop else None, stop.direction.value if stop else None


def golden(slug: str) -> tuple[str, str | None, str | None, str | None]:
    verdict = json.loads((CASES / slug / "verdict.json").read_text())
    code = verdict["findings"][0]["code"] if verdict["findings"] else None
    stop = verdict["stop"] or {}
    return verdict["outcome"], code, stop.get("segment"), stop.get("direction")


# --- recorded hosts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", PROBED)
def test_a_recorded_capture_is_judged_as_the_probe_was(slug: str) -> None:
    recorded = read_case(CASES / slug)
    answered = answer_captures([CASES / slug / "capture.pcapng"], recorded.before, recorded.run.flow, throughout=True)
    assert came_to(answered) == golden(slug)


@pytest.mark.parametrize("slug", ["healthy-out", "healthy-peer", "no-reply", "masquerade-missing", "icc-disabled"])
def test_with_fewer_captures_less_is_known_and_nothing_else(slug: str, tmp_path: Path) -> None:
    recorded = read_case(CASES / slug)
    capture = read_pcapng((CASES / slug / "capture.pcapng").read_bytes())
    names = [each.name for each in capture.interfaces]
    for count in range(1, len(names)):
        for kept in itertools.combinations(names, count):
            frames = [each for each in capture.frames if each.point in kept]
            path = tmp_path / "some.pcapng"
            path.write_bytes(write_pcapng(frames, arp_types=dict.fromkeys(kept, 1)))
            answered = answer_captures([path], recorded.before, recorded.run.flow, throughout=True)
            outcome, code, segment, _direction = came_to(answered)
            assert (outcome, code, segment) == golden(slug)[:3] or (outcome, code) == ("inconclusive", None), kept


# --- captures of many kinds -------------------------------------------------------------------------------------------


def mac(snapshot: Snapshot, point: str) -> bytes:
    space, _, device = point.partition("/")
    ns = next(each for each in snapshot.namespaces if each.name == space)
    link = next(each for each in rows(ns.links) if each.name == device)
    assert link.mac is not None
    return bytes.fromhex(link.mac.replace(":", ""))


def ipv4(src: bytes, dst: bytes, proto: int, body: bytes, ident: int = 0) -> bytes:
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), ident, 0x4000, 63, proto, 0) + src + dst + body


def echo(number: int, *, reply: bool = False) -> bytes:
    return struct.pack("!BBHHH", 0 if reply else 8, 0, 0, 77, number) + struct.pack("<Q", number) + bytes(range(40))


def tcp(sport: int, dport: int, seq: int, ack: int, flags: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 500, 0, 0) + payload


def udp(sport: int, dport: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


class Host:
    """Writes what passes the recorded host, as captures at its four devices hold it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.app, self.bridge = mac(snapshot, "app/eth0"), mac(snapshot, "host/docker0")
        self.eth0, self.router = mac(snapshot, "host/eth0"), bytes.fromhex("02aabbccdd01")
        self.packets: Packets = {point: [] for point in WAY}

    def there(self, at_ns: int, proto: int, body: bytes, *, ident: int = 5, until: int = 4, snat: bytes = HOST) -> None:
        """One packet on its way out, seen at the first `until` points."""
        for place_number, point in enumerate(WAY[:until]):
            inside = point != "host/eth0"
            head = self.bridge + self.app if inside else self.router + self.eth0
            network = ipv4(APP if inside else snat, FAR, proto, body, ident)
            self.packets[point].append((at_ns + 10_000 * place_number, head + b"\x08\x00" + network))

    def back(self, at_ns: int, proto: int, body: bytes, *, until: int = 4, snat: bytes = HOST) -> None:
        """One answer, seen at the first `until` points from the uplink on."""
        for place_number, point in enumerate(WAY[::-1][:until]):
            inside = point != "host/eth0"
            head = self.app + self.bridge if inside else self.eth0 + self.router
            network = ipv4(FAR, APP if inside else snat, proto, body, 9)
            self.packets[point].append((at_ns + 10_000 * place_number, head + b"\x08\x00" + network))

    def noise(self, at_ns: int, points: Sequence[str] = WAY) -> None:
        """Something else passes, so that a capture shows that it runs."""
        body = udp(9, 9, b"something else")
        for point in points:
            network = ipv4(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 17, body)
            self.packets[point].append((at_ns, self.eth0 + self.router + b"\x08\x00" + network))

    def files(self, folder: Path, *, shift: dict[str, int] | None = None, snaplen: int = 262144) -> list[Path]:
        """One pcap for each point, named as its device is; `shift` puts clocks wrong, in ns."""
        paths = []
        for point, packets in self.packets.items():
            path = folder / f"{point.replace('/', '-')}.pcap"
            moved = [(at_ns + (shift or {}).get(point, 0), data[:snaplen]) for at_ns, data in sorted(packets)]
            path.write_bytes(pcap(moved, nanoseconds=True, snaplen=snaplen))
            paths.append(path)
        return paths


@pytest.fixture
def host(healthy: tuple[Snapshot, Flow]) -> Host:
    return Host(healthy[0])


def ping(host: Host, *, count: int = 3, there: int = 4, back: int = 4) -> None:
    for number in range(count):
        host.there(T0 + number * NS, 1, echo(number), until=there)
        if there == 4 and back:
            host.back(T0 + number * NS + 1_000_000, 1, echo(number, reply=True), until=back)


def states(answered: Answered) -> dict[str, type[Open] | type[Blind]]:
    return {each.point: type(each) for each in answered.stitched.observation.captures}


def reasons(answered: Answered) -> str:
    return "; ".join(f"{gap.netns}: {gap.reason}" for gap in answered.verdict.gaps)


def test_a_ping_is_followed_there_and_back(healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path) -> None:
    ping(host)
    answered = answer_captures(host.files(tmp_path), *healthy)
    assert came_to(answered) == ("delivered", None, None, None)
    assert answered.stitched.packets == 3
    ways = {(each.point, each.kind): each.way for each in answered.stitched.observation.sightings}
    assert [ways[point, SightingKind.PROBE] for point in WAY] == [Way.OUT, Way.IN, Way.IN, Way.OUT]
    assert [ways[point, SightingKind.REPLY] for point in WAY] == [Way.IN, Way.OUT, Way.OUT, Way.IN]


def test_a_packet_that_is_lost_on_its_way_is_missed_where_captures_ran(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host, there=3)
    host.noise(T0 - NS)
    host.noise(T0 + 5 * NS)
    answered = answer_captures(host.files(tmp_path), *healthy)
    outcome, _code, _segment, direction = came_to(answered)
    assert (outcome, direction) == ("stopped", "forward")
    stop = answered.verdict.stop
    assert stop is not None
    assert (stop.after, stop.before) == ("host/docker0", "host/eth0")


BLINDING: dict[str, tuple[Callable[[Host], None], str]] = {
    "begins later": (lambda host: host.noise(T0 + 9 * NS, ["host/eth0"]), "begins 9.000 s after the packet"),
    "ends earlier": (lambda host: host.noise(T0 - 9 * NS, ["host/eth0"]), "ends too early"),
    "is empty": (lambda _host: None, "is empty"),
}


@pytest.mark.parametrize(("make", "reason"), BLINDING.values(), ids=BLINDING)
def test_a_capture_that_does_not_cover_the_packet_is_blind(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path, make: Callable[[Host], None], reason: str
) -> None:
    ping(host, there=3)
    make(host)
    paths = host.files(tmp_path)
    answered = answer_captures(paths, *healthy)
    assert came_to(answered) == ("inconclusive", None, None, None)
    assert states(answered)["host/eth0"] is Blind
    assert reason in reasons(answered)
    assert came_to(answer_captures(paths, *healthy, throughout=True))[0] == "stopped"


def test_silence_at_the_end_of_a_capture_is_no_missing_answer(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host, count=1, back=0)
    assert came_to(answer_captures(host.files(tmp_path), *healthy))[0] == "inconclusive"
    host.noise(T0 + NS)
    assert came_to(answer_captures(host.files(tmp_path), *healthy)) == (
        "stopped", "remote.no-reply", "remote", "reply",
    )  # fmt: skip


def test_a_last_ping_whose_answer_fell_behind_the_end_is_not_called_lost(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host, count=3)
    host.there(T0 + 3 * NS, 1, echo(3))
    answered = answer_captures(host.files(tmp_path), *healthy)
    assert came_to(answered)[0] == "delivered"
    assert "1 of 4 packets" in reasons(answered)


def test_answers_that_are_missing_between_others_are_a_loss(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host, count=3)
    host.there(T0 + NS // 2, 1, echo(9))
    assert came_to(answer_captures(host.files(tmp_path), *healthy))[0] == "degraded"


def blinded(host: Host, folder: Path, options: bytes = b"", statistics: bytes = b"", snaplen: int = 0) -> Path:
    """One pcapng with all four points; the uplink's interface has further options and statistics."""
    parts = [section()]
    for point in WAY:
        more = options if point == "host/eth0" else b""
        cut = snaplen if point == "host/eth0" else 0
        parts.append(interface(options=option(2, point.encode()) + option(9, b"\x09") + more, snaplen=cut))
    for number, point in enumerate(WAY):
        parts.extend(packet(number, at_ns, data) for at_ns, data in host.packets[point])
    path = folder / "all.pcapng"
    path.write_bytes(b"".join(parts) + statistics)
    return path


LOST = block(5, struct.pack("<III", 3, 0, 0) + option(5, struct.pack("<Q", 7)))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"statistics": LOST}, "lost 7 packets"),
        ({"options": option(11, b"\x00host 172.17.0.2")}, "was filtered (host 172.17.0.2)"),
        ({"snaplen": 40}, "cut packets at 40 bytes"),
    ],
    ids=["dropped", "filter", "snaplen"],
)
def test_a_capture_that_may_have_missed_the_packet_is_blind(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    ping(host, there=3)
    host.noise(T0 - NS)
    host.noise(T0 + 5 * NS)
    assert came_to(answer_captures([blinded(host, tmp_path)], *healthy))[0] == "stopped"
    answered = answer_captures([blinded(host, tmp_path, **more)], *healthy)
    assert came_to(answered)[0] == "inconclusive"
    assert reason in reasons(answered)


@pytest.mark.parametrize("seconds", [-86_400, -3, 3, 86_400])
def test_clocks_that_differ_are_told_by_the_packets(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path, seconds: int
) -> None:
    ping(host)
    answered = answer_captures(host.files(tmp_path, shift={"host/eth0": seconds * NS}), *healthy)
    assert came_to(answered) == ("delivered", None, None, None)
    assert "clock" in reasons(answered)
    times = [each.at_ns for each in answered.stitched.observation.sightings]
    assert max(times) - min(times) < 3 * NS


def test_a_clock_that_differs_leaves_a_late_capture_late(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host, count=1, there=3)
    host.noise(T0 + 2 * NS)
    host.there(T0 + 3 * NS, 1, echo(50))
    host.back(T0 + 3 * NS + 1_000_000, 1, echo(50, reply=True))
    host.noise(T0 + 5 * NS)
    answered = answer_captures(host.files(tmp_path, shift={"host/eth0": -100 * NS}), *healthy)
    # The uplink's capture begins, by the others' clock, after the first ping: nothing is known of that one.
    assert came_to(answered)[0] == "delivered"
    assert "1 of 2 packets" in reasons(answered)


def test_a_translation_that_nobody_expected_is_followed(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    other = bytes([198, 51, 100, 9])
    host.there(T0, 1, echo(1), snat=other)
    host.there(T0 + NS, 1, echo(2), snat=other)
    host.noise(T0 + 2 * NS)
    answered = answer_captures(host.files(tmp_path), *healthy)
    seen = {each.point: str(each.packet.src) for each in answered.stitched.observation.sightings}
    assert seen["host/eth0"] == "198.51.100.9"
    host.back(T0 + 1_000_000, 1, echo(1, reply=True), snat=other)
    host.back(T0 + NS + 1_000_000, 1, echo(2, reply=True), snat=other)
    assert came_to(answer_captures(host.files(tmp_path), *healthy))[0] == "delivered"


def cooked(version: int, ifindex: int, role: int, data: bytes) -> bytes:
    if version == 2:
        return struct.pack("!HHIHBB", 0x0800, 0, ifindex, 1, role, 6) + data[6:12] + bytes(2) + data[14:]
    return struct.pack("!HHH", role, 1, 6) + data[6:12] + bytes(2) + b"\x08\x00" + data[14:]


def test_one_capture_at_all_interfaces_tells_each_by_its_number(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host)
    ns = next(each for each in healthy[0].namespaces if each.name == "host")
    numbers = {f"host/{link.name}": link.ifindex for link in rows(ns.links)}
    every = []
    for point in WAY[1:]:
        for at_ns, data in host.packets[point]:
            sent = data[6:12] in (host.eth0 if point == "host/eth0" else b"", host.bridge)
            every.append((at_ns, cooked(2, numbers[point], 4 if sent else 0, data)))
    anywhere = tmp_path / "any.pcap"
    anywhere.write_bytes(pcap(sorted(every), linktype=276, nanoseconds=True))
    answered = answer_captures([anywhere, host.files(tmp_path)[0]], *healthy)
    assert came_to(answered) == ("delivered", None, None, None)
    assert set(states(answered).values()) == {Open}


def test_a_capture_of_another_namespace_is_not_taken_for_the_hosts(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host)
    every = [(at_ns, cooked(2, 4711, 4, data)) for at_ns, data in host.packets["app/eth0"]]
    anywhere = tmp_path / "any.pcap"
    anywhere.write_bytes(pcap(every, linktype=276, nanoseconds=True))
    host.noise(T0 + 9 * NS)
    answered = answer_captures([anywhere, host.files(tmp_path)[0]], *healthy)
    assert [states(answered)[point] for point in WAY] == [Open, Blind, Blind, Blind]
    assert "another namespace's" in reasons(answered)


@pytest.mark.parametrize(
    ("linktype", "framed"),
    [
        (101, lambda data: data[14:]),
        (228, lambda data: data[14:]),
        (0, lambda data: b"\x02\x00\x00\x00" + data[14:]),
        (108, lambda data: b"\x00\x00\x00\x02" + data[14:]),
        (113, lambda data: cooked(1, 0, 0, data)),
        (1, lambda data: data[:12] + b"\x81\x00\x00\x07" + data[12:]),
    ],
    ids=["raw", "ipv4", "null", "loop", "sll", "vlan"],
)
def test_frames_of_each_link_type_are_read(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path, linktype: int, framed: Callable[[bytes], bytes]
) -> None:
    ping(host)
    paths = host.files(tmp_path)
    changed = [(at_ns, framed(data)) for at_ns, data in sorted(host.packets["host/docker0"])]
    paths[2].write_bytes(pcap(changed, linktype=linktype, order=">"))
    answered = answer_captures(paths, *healthy, named=["host-docker0.pcap=host/docker0"])
    assert came_to(answered) == ("delivered", None, None, None)


# --- TCP, UDP, errors -------------------------------------------------------------------------------------------------


def other(healthy: tuple[Snapshot, Flow], proto: Proto, port: int) -> tuple[Snapshot, Flow]:
    return healthy[0], replace(healthy[1], proto=proto, dport=port)


def test_a_handshake_is_followed_by_its_sequence_numbers(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    host.there(T0, 6, tcp(40000, 80, 1000, 0, 0x02))
    host.back(T0 + 1_000_000, 6, tcp(80, 40000, 9000, 1001, 0x12))
    host.there(T0 + 2_000_000, 6, tcp(40000, 80, 1001, 9001, 0x18, b"GET / HTTP/1.0\r\n\r\n"))
    answered = answer_captures(host.files(tmp_path), *other(healthy, Proto.TCP, 80))
    assert came_to(answered)[0] == "delivered"
    assert answered.stitched.packets == 1
    host.packets = {point: [] for point in WAY}
    host.there(T0, 6, tcp(40000, 80, 1000, 0, 0x02))
    host.back(T0 + 1_000_000, 6, tcp(80, 40000, 0, 1001, 0x14))
    answered = answer_captures(host.files(tmp_path), *other(healthy, Proto.TCP, 80))
    assert came_to(answered)[:2] == ("stopped", "remote.rejected")


def test_a_connection_whose_beginning_was_not_captured_is_followed_by_its_segments(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    for number in range(3):
        at_ns, sequence = T0 + number * NS, 5000 + 100 * number
        host.there(at_ns, 6, tcp(40000, 80, sequence, 1, 0x18, bytes([number]) * 100))
        host.back(at_ns + 1_000_000, 6, tcp(80, 40000, 1, sequence + 100, 0x10))
    answered = answer_captures(host.files(tmp_path), *other(healthy, Proto.TCP, 80))
    assert came_to(answered)[0] == "delivered"
    assert answered.stitched.packets == 3


def test_questions_by_dns_are_followed_by_their_numbers(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    question = b"\x01\x00\x00\x01" + bytes(6) + b"\x07example\x03org\x00\x00\x01\x00\x01"
    host.there(T0, 17, udp(40000, 53, b"\x12\x34" + question))
    host.back(T0 + 1_000_000, 17, udp(53, 40000, b"\x12\x34\x81\x80" + question[2:]))
    answered = answer_captures(host.files(tmp_path), *other(healthy, Proto.UDP, 53))
    assert came_to(answered)[0] == "delivered"


def test_an_error_about_the_packet_is_heard(healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path) -> None:
    host.there(T0, 1, echo(1))
    for point, source in (("host/eth0", HOST), ("app/eth0", APP)):
        quoted = ipv4(source, FAR, 1, echo(1)[:8], 5)
        error = ipv4(bytes([203, 0, 113, 1]), source, 1, struct.pack("!BBHI", 3, 1, 0, 0) + quoted)
        host.packets[point].append((T0 + 1_000_000, bytes(12) + b"\x08\x00" + error))
    answered = answer_captures(host.files(tmp_path), *healthy)
    kinds = [each.kind for each in answered.stitched.observation.sightings]
    assert kinds.count(SightingKind.ICMP_ERROR) == 2
    assert came_to(answered)[0] == "stopped"


def test_a_question_for_the_next_hop_that_nobody_answers_is_the_packet_that_waits(tmp_path: Path) -> None:
    recorded = read_case(CASES / "link-down")
    interfaces = read_pcapng((CASES / "link-down" / "capture.pcapng").read_bytes()).interfaces
    source = mac(recorded.before, "app/eth0")
    asking = (
        b"\xff" * 6 + source + bytes.fromhex("08060001080006040001") + source + APP + bytes(6) + bytes([172, 17, 0, 1])
    )
    frames = [
        Frame(point=each.name, way=Way.OUT, at_ns=T0 + number * NS, data=asking, length=len(asking))
        for number in range(3)
        for each in interfaces[:2]
    ]
    path = tmp_path / "asking.pcapng"
    path.write_bytes(write_pcapng(frames, arp_types={each.name: 1 for each in interfaces}))
    answered = answer_captures([path], recorded.before, recorded.run.flow, throughout=True)
    assert came_to(answered) == golden("link-down")
    assert answered.stitched.packets == 0


# --- which capture is where -------------------------------------------------------------------------------------------


def test_captures_are_placed_by_name(healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path) -> None:
    ping(host)
    paths = host.files(tmp_path)
    captures = scan_files(paths)
    assert [each.point for each in place(captures, healthy[0])[0].values()] == list(WAY)
    for index, path in enumerate(paths):
        paths[index] = path.rename(tmp_path / f"{index}.pcap")
    captures = scan_files(paths)
    with pytest.raises(InputError, match="nothing tells which interface it is"):
        place(captures, healthy[0])
    named = ["0.pcap=app/eth0", f"1.pcap={VETH}", f"{paths[2]}=host/docker0"]
    devices, gaps = place(captures, healthy[0], named)
    assert [each.point for each in devices.values()] == list(WAY[:3])
    assert [gap.netns for gap in gaps] == ["3.pcap"]


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("0.pcap", "is not FILE=NAMESPACE/DEVICE"),
        ("nosuch.pcap=app/eth0", "no capture called nosuch.pcap"),
        ("0.pcap=app/eth9", "no device app/eth9"),
        ("0.pcap=nosuch/eth0", "no namespace nosuch"),
        ("0.pcap=eth0", "several devices are called eth0"),
    ],
)
def test_a_wrong_name_is_refused(healthy: tuple[Snapshot, Flow], tmp_path: Path, named: str, reason: str) -> None:
    path = tmp_path / "0.pcap"
    path.write_bytes(pcap([(T0, bytes(60))]))
    with pytest.raises(UsageError, match=reason):
        place(scan_files([path]), healthy[0], [named])


def test_a_link_type_that_is_not_known_is_refused(healthy: tuple[Snapshot, Flow], tmp_path: Path) -> None:
    path = tmp_path / "docker0.pcap"
    path.write_bytes(pcap([(T0, bytes(60))], linktype=105))
    for named in ([], ["docker0.pcap=host/docker0"]):
        with pytest.raises(InputError, match="link type 105"):
            place(scan_files([path]), healthy[0], named)
    _found, gaps = list_conversations([path])
    assert "link type 105" in gaps[0].reason


def test_an_old_cooked_capture_of_all_interfaces_says_what_to_do(
    healthy: tuple[Snapshot, Flow], tmp_path: Path
) -> None:
    path = tmp_path / "any.pcap"
    path.write_bytes(pcap([(T0, bytes(60))], linktype=113))
    with pytest.raises(InputError, match="LINUX_SLL2"):
        place(scan_files([path]), healthy[0])


def test_rewritten_mac_addresses_are_passed_over(healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path) -> None:
    ping(host)
    host.packets = {
        point: [(at_ns, bytes.fromhex("0a00000000020a0000000001") + data[12:]) for at_ns, data in passed]
        for point, passed in host.packets.items()
    }
    answered = answer_captures(host.files(tmp_path), *healthy)
    assert came_to(answered) == ("delivered", None, None, None)
    assert "MAC addresses" in reasons(answered)


# --- the command ------------------------------------------------------------------------------------------------------


def asked(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, args)])
    said = capsys.readouterr()
    return code, said.out, said.err


SNAPSHOT = ("--snapshot", CASES / "healthy-out" / "before.json")


def test_the_command_answers(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ping(host)
    paths = host.files(tmp_path)
    code, out, err = asked(capsys, *paths, *SNAPSHOT, "app", "8.8.8.8", "--json")
    assert (code, json.loads(out)["outcome"], err) == (0, "delivered", "")
    # Just one conversation is there: it need not be named, nor need the snapshot be taken out of its bundle.
    code, out, err = asked(capsys, *paths, "--snapshot", CASES / "healthy-out")
    assert (code, out.splitlines()[0][:9], err) == (0, "DELIVERED", "")
    code, out, _err = asked(capsys, *paths, *SNAPSHOT, "app", "8.8.4.4")
    assert (code, "no packet of this flow is in the captures" in " ".join(out.split())) == (3, True)


def test_several_conversations_are_listed(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ping(host)
    host.there(T0, 6, tcp(40000, 80, 1000, 0, 0x02))
    host.back(T0 + 1_000_000, 6, tcp(80, 40000, 9000, 1001, 0x12))
    paths = host.files(tmp_path)
    code, out, err = asked(capsys, *paths, *SNAPSHOT)
    assert (code, out) == (2, "")
    assert "app 8.8.8.8  (3 packets" in err
    assert "app 8.8.8.8 --proto tcp --port 80  (1 packets" in err
    code, out, err = asked(capsys, *paths, *SNAPSHOT, "--proto", "tcp", "--port", "80")
    assert (code, out.splitlines()[0]) == (0, out.splitlines()[0]), err
    assert "tcp/80" in out.splitlines()[0] or "tcp" in out.splitlines()[0]


def test_the_protocol_need_not_be_said_where_only_one_was_spoken(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.there(T0, 6, tcp(40000, 80, 1000, 0, 0x02))
    host.back(T0 + 1_000_000, 6, tcp(80, 40000, 9000, 1001, 0x12))
    code, out, _err = asked(capsys, *host.files(tmp_path), *SNAPSHOT, "app", "8.8.8.8", "--json")
    assert (code, json.loads(out)["flow"]["dport"]) == (0, 80)


def test_without_a_snapshot_conversations_are_shown_and_nothing_is_settled(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ping(host)
    paths = host.files(tmp_path)
    code, out, err = asked(capsys, *paths)
    assert (code, err) == (3, "")
    assert "172.17.0.2 → 8.8.8.8 icmp" in out
    assert "203.0.113.2 → 8.8.8.8" in out
    assert "--snapshot" in out
    document = json.loads(asked(capsys, *paths, "--json")[1])
    assert [len(each["where"]) for each in document["conversations"]] == [4]
    code, out, err = asked(capsys, *paths, "app", "8.8.8.8")
    assert (code, out) == (2, "")
    assert "--snapshot" in err


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (("x.pcap", "--snapshot", "nosuch.json"), 4, "nosuch.json"),
        (("x.pcap", "--snapshot", "x.pcap"), 4, "x.pcap"),
        (("nosuch.pcap", *SNAPSHOT), 4, "nosuch.pcap"),
        (("x.pcap", "app", *SNAPSHOT), 2, "SRC and DST"),
        (("x.pcap", "nosuch", "8.8.8.8", *SNAPSHOT), 4, "nosuch"),
        (("x.pcap", "app", "8.8.8.8", *SNAPSHOT, "--point", "x.pcap"), 2, "--point"),
        (("x.pcap", "app", "8.8.8.8", *SNAPSHOT), 4, "--point x.pcap=web/eth0"),
        (("broken.pcap", "app", "8.8.8.8", *SNAPSHOT), 4, "broken.pcap"),
        (("broken.pcap",), 4, "broken.pcap"),
        (("x.pcap", "app", "8.8.8.8", *SNAPSHOT, "--predict"), 2, "--predict"),
        (("x.pcap", "app", "8.8.8.8", *SNAPSHOT, "--port", "80"), 2, "--proto"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: Any, code: int, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pcap").write_bytes(pcap([(T0, bytes(60))]))
    Path("broken.pcap").write_bytes(pcap([]) + struct.pack("<IIII", 0, 0, 2**31, 2**31))
    got, out, err = asked(capsys, *args)
    assert (got, out) == (code, "")
    assert word in err
    assert len(err) < 500


def test_names_with_escape_sequences_are_never_printed_raw(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ping(host)
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    options = option(2, evil.encode()) + option(3, evil.encode()) + option(11, b"\x00" + evil.encode())
    body = section(options=option(1, evil.encode())) + interface(options=options + option(9, b"\x09"))
    body += b"".join(packet(0, at_ns, data, options=option(1, evil.encode())) for at_ns, data in host.packets[WAY[2]])
    path = tmp_path / f"x{evil[:4]}.pcapng"
    path.write_bytes(body)
    found = [asked(capsys, path), asked(capsys, path, *SNAPSHOT)]
    found.append(asked(capsys, path, *SNAPSHOT, "app", "8.8.8.8", "--point", f"{evil}=host/docker0"))
    found.append(asked(capsys, path, *SNAPSHOT, "app", "8.8.8.8", "--point", f"{evil}x=host/docker0"))
    for _code, out, err in found:
        assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
    assert [code for code, _out, _err in found] == [3, 4, 3, 2]


def test_a_capture_that_was_cut_off_is_read_and_told(
    healthy: tuple[Snapshot, Flow], host: Host, tmp_path: Path
) -> None:
    ping(host)
    paths = host.files(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    answered = answer_captures(paths, *healthy)
    assert came_to(answered)[0] == "delivered"
    assert "ends in the middle of a packet" in reasons(answered)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_frames_come_to_some_answer(data: st.DataObject) -> None:
    """Frames of the flow, changed anywhere, never break what follows them."""
    import tempfile

    recorded = read_case(CASES / "healthy-out")
    host = Host(recorded.before)
    ping(host, count=2)
    host.there(T0, 6, tcp(40000, 80, 1000, 0, 0x02))
    host.there(T0, 17, udp(40000, 53, b"question"))
    with tempfile.TemporaryDirectory() as folder:
        for packets in host.packets.values():
            for index, (at_ns, frame) in enumerate(packets):
                changed = bytearray(frame)
                for _ in range(data.draw(st.integers(0, 3))):
                    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
                packets[index] = (at_ns, bytes(changed[: data.draw(st.integers(0, len(changed)))]))
        proto = data.draw(st.sampled_from(list(Proto)))
        flow = replace(recorded.run.flow, proto=proto, dport=None if proto is Proto.ICMP else 80)
        answered = answer_captures(host.files(Path(folder)), recorded.before, flow)
        assert answered.verdict.outcome.value in ("delivered", "degraded", "stopped", "inconclusive")
