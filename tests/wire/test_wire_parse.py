"""The parser knows this run's packets, no others, and survives anything."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nettrace.model.flow import PROTO_NUMBER, Proto
from nettrace.model.observe import SightingKind
from nettrace.wire.parse import parse_frame, parse_headers
from tests.wire import samples

CASES = pytest.mark.parametrize(("proto", "family"), samples.CASES)


@CASES
def test_everything_of_a_run_is_recognised(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    for name, (frame, kind) in samples.ours(run).items():
        parsed = parse_frame(frame, run=run)
        assert parsed is not None, name
        assert (parsed.kind, parsed.nonce) == (kind, 1), name


@CASES
def test_strangers_are_not(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    for name, frame in samples.strangers(run).items():
        assert parse_frame(frame, run=run) is None, name


@CASES
def test_the_headers_are_read(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    parsed = parse_frame(samples.ethernet(samples.probe(run)), run=run)
    assert parsed is not None
    packet = parsed.packet
    assert (packet.src, packet.dst) == samples.ENDS[family]
    assert (packet.src_mac, packet.dst_mac) == ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
    assert (packet.family, packet.proto, packet.ttl, packet.df) == (family, PROTO_NUMBER[proto, family], 64, True)
    assert packet.length == len(samples.probe(run))
    if proto is Proto.ICMP:
        assert (packet.icmp_type, packet.icmp_code, packet.icmp_id) == (8 if family == 4 else 128, 0, run.icmp_id)
    else:
        assert (packet.sport, packet.dport) == (40002, 80)
    if proto is Proto.TCP:
        assert packet.tcp_flags == 2


@CASES
def test_an_error_holds_the_packet_it_is_about(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    parsed = parse_frame(samples.ethernet(samples.error(run, samples.probe(run), mtu=1280)), run=run)
    assert parsed is not None
    packet = parsed.packet
    assert packet.src == samples.GATEWAY[family]
    assert packet.icmp_mtu == 1280
    assert packet.quoted is not None
    assert (packet.quoted.src, packet.quoted.dst) == samples.ENDS[family]
    if proto is not Proto.ICMP:
        assert (packet.quoted.sport, packet.quoted.dport) == (40002, 80)


@CASES
def test_devices_without_a_link_header(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    for arp_type in (65534, 768, 519):
        parsed = parse_frame(samples.probe(run), arp_type=arp_type, run=run)
        assert parsed is not None
        assert parsed.kind is SightingKind.PROBE
        assert parsed.packet.src_mac is None


@CASES
def test_the_packet_inside_vxlan_is_beside_the_outer_one(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    parsed = parse_frame(samples.vxlan(samples.ethernet(samples.probe(run))), run=run)
    assert parsed is not None
    assert (str(parsed.packet.src), parsed.packet.dport) == ("203.0.113.2", 4789)
    assert parsed.packet.quoted is not None
    assert (parsed.packet.quoted.src, parsed.packet.quoted.dst) == samples.ENDS[family]
    assert parse_frame(samples.vxlan(samples.ethernet(samples.probe(run)), port=4790), run=run) is None


def test_arp_says_who_asks_and_who_is_asked() -> None:
    run = samples.token(Proto.ICMP, 4)
    request = parse_frame(samples.arp(), run=run)
    assert request is not None
    assert request.kind is SightingKind.ARP_REQUEST
    assert (request.packet.src, request.packet.dst) == (ip_address("172.17.0.2"), ip_address("172.17.0.1"))
    answer = parse_frame(samples.arp(operation=2, asking="172.17.0.1", asked="172.17.0.2"), run=run)
    assert answer is not None
    assert answer.kind is SightingKind.ARP_REPLY
    assert (answer.packet.src, answer.nonce) == (ip_address("172.17.0.1"), None)


def test_ndp_says_who_is_asked() -> None:
    run = samples.token(Proto.ICMP, 6)
    solicit = parse_frame(samples.ethernet(samples.neighbour()), run=run)
    assert solicit is not None
    assert (solicit.kind, solicit.packet.dst) == (SightingKind.NDP_SOLICIT, ip_address("fd00::1"))
    advert = parse_frame(samples.ethernet(samples.neighbour(advert=True)), run=run)
    assert advert is not None
    assert (advert.kind, advert.packet.src) == (SightingKind.NDP_ADVERT, ip_address("fd00::1"))
    spoofed = bytearray(samples.neighbour())
    spoofed[7] = 64  # it came by a router, which RFC 4861 forbids
    assert parse_frame(samples.ethernet(bytes(spoofed)), run=run) is None


def test_nat_does_not_hide_a_udp_probe_or_its_answer() -> None:
    run = samples.token(Proto.UDP, 4)
    packet = bytearray(samples.probe(run))
    struct.pack_into("!H", packet, 20, 61000)  # source port rewritten on the way out
    parsed = parse_frame(samples.ethernet(bytes(packet)), run=run)
    assert parsed is not None
    assert (parsed.kind, parsed.packet.sport) == (SightingKind.PROBE, 61000)
    struct.pack_into("!HH", packet, 20, 80, 61000)  # an echo of it, before NAT is undone
    parsed = parse_frame(samples.ethernet(bytes(packet)), run=run)
    assert parsed is not None
    assert parsed.kind is SightingKind.REPLY


def test_a_dns_answer_is_known_by_its_own_flag() -> None:
    run = samples.token(Proto.UDP, 4, dport=53)
    packet = bytearray(samples.probe(run))
    packet[30] |= 0x80
    parsed = parse_frame(samples.ethernet(bytes(packet)), run=run)
    assert parsed is not None
    assert (parsed.kind, parsed.nonce) == (SightingKind.REPLY, 1)


def test_the_kernels_own_reset_is_no_sighting() -> None:
    run = samples.token(Proto.TCP, 4)
    packet = bytearray(samples.probe(run))
    struct.pack_into("!I", packet, 24, run.sequence(1) + 1)
    packet[33] = 0x04
    assert parse_frame(samples.ethernet(bytes(packet)), run=run) is None


def test_a_number_that_was_never_sent_is_no_probe() -> None:
    run = samples.token(Proto.ICMP, 4)
    packet = samples.probe(run).replace(run.nonce(1), run.nonce(9))
    assert parse_frame(samples.ethernet(packet), run=run) is None


def test_ipv6_extension_headers_are_stepped_over() -> None:
    run = samples.token(Proto.ICMP, 6)
    packet = samples.probe(run)
    options = bytes([58, 0, 1, 4, 0, 0, 0, 0])
    carried = packet[:4] + struct.pack("!H", len(packet) - 40 + 8) + b"\x00" + packet[7:40] + options + packet[40:]
    parsed = parse_frame(samples.ethernet(carried), run=run)
    assert parsed is not None
    assert parsed.packet.proto == 58
    later = bytes([58, 0, 0, 8, 0, 0, 0, 1])  # the second fragment of something
    fragment = packet[:4] + struct.pack("!H", len(packet) - 40 + 8) + b"\x2c" + packet[7:40] + later + packet[40:]
    assert parse_frame(samples.ethernet(fragment), run=run) is None


@CASES
def test_truncated_frames_are_none_or_ours_and_never_raise(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    for frame, _kind in samples.ours(run).values():
        for length in range(len(frame)):
            parse_frame(frame[:length], run=run)
            parse_frame(frame[14:length], arp_type=65534, run=run)


@given(data=st.data())
def test_hostile_frames_never_raise(data: st.DataObject) -> None:
    proto, family = data.draw(st.sampled_from(samples.CASES))
    run = samples.token(proto, family)
    frame = bytearray(data.draw(st.sampled_from([frame for frame, _ in samples.ours(run).values()])))
    for _ in range(data.draw(st.integers(0, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    parse_frame(bytes(frame), run=run)
    parse_frame(data.draw(st.binary(max_size=120)), run=run)


@CASES
def test_what_the_rule_trace_reports_of_a_packet_is_enough_to_know_it(proto: Proto, family: int) -> None:
    """The kernel reports at most 40 bytes of the IP header and 20 of what follows."""
    run = samples.token(proto, family)
    header = 20 if family == 4 else 40
    for name in ("probe", "reply", "reset"):
        if name not in samples.ours(run):
            continue
        frame, kind = samples.ours(run)[name]
        packet = frame[14:]
        found = parse_headers(packet[:40][: header if family == 4 else 40], packet[header : header + 20], run)
        assert found is not None
        assert (found.kind, found.nonce, found.proven) == (kind, 1, True), name
        whole = parse_frame(frame, run=run)
        assert whole is not None
        assert (found.packet.src, found.packet.dst, found.packet.sport) == (
            whole.packet.src,
            whole.packet.dst,
            whole.packet.sport,
        )


@CASES
def test_headers_of_strangers_are_not_proven(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    other = samples.token(proto, family, secret=bytes(8)).with_ports((50001, 50002, 50003))
    header = 20 if family == 4 else 40
    packet = samples.probe(other)
    found = parse_headers(packet[:header], packet[header : header + 20], run)
    assert found is None or not found.proven


@given(st.binary(max_size=40), st.binary(max_size=20))
def test_hostile_headers_never_raise(network: bytes, transport: bytes) -> None:
    for proto, family in samples.CASES:
        parse_headers(network, transport, samples.token(proto, family))
