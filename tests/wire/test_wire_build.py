"""Probes are what they claim to be, to the byte: held against Scapy's dissection."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from nettrace.model.flow import HEADER_BYTES, Proto
from nettrace.wire.build import IP_HEADER, build_neighbour_request, build_probe, default_length, preload, probe_payload
from nettrace.wire.token import MAX_PROBES, RunToken, make_token
from tests.wire import samples


def dissect(packet: bytes) -> Any:
    preload()
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    return IPv6(packet) if packet[0] >> 4 == 6 else IP(packet)


def checksums_hold(packet: bytes) -> bool:
    """Let Scapy compute every checksum anew, and compare."""
    again = dissect(packet)
    layer = again
    while layer:
        for field in ("chksum", "cksum"):
            if field in layer.fields:
                delattr(layer, field)
        layer = layer.payload
    return bytes(again) == packet


@pytest.mark.parametrize(("proto", "family"), samples.CASES)
def test_a_probe_has_its_marks_ports_length_and_checksums(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    packet = samples.probe(run, 2)
    shown = dissect(packet)
    assert (shown.src, shown.dst) == tuple(str(each) for each in samples.ENDS[family])
    assert len(packet) == default_length(run)
    assert checksums_hold(packet)
    if family == 4:
        assert shown.flags == "DF"
    if proto is Proto.TCP:
        assert (shown["TCP"].seq, shown["TCP"].flags) == (run.sequence(2), "S")
        assert (shown["TCP"].sport, shown["TCP"].dport) == (40003, 80)
    else:
        assert run.nonce(2) in packet
    if proto is Proto.UDP:
        assert (shown["UDP"].sport, shown["UDP"].dport) == (40003, 80)


@pytest.mark.parametrize(("proto", "family"), samples.CASES)
@pytest.mark.parametrize("extra", [0, 1, 3, 19, 20, 21, 500, 8936])
def test_size_is_exact(proto: Proto, family: int, extra: int) -> None:
    run = samples.token(proto, family)
    size = HEADER_BYTES[proto, family] + extra
    packet = samples.probe(run, size=size)
    assert len(packet) == size
    assert checksums_hold(packet)
    field = dissect(packet)
    assert (field.len if family == 4 else field.plen + IP_HEADER[6]) == size


@pytest.mark.parametrize(("proto", "family"), samples.CASES)
def test_a_size_that_cannot_hold_the_nonce_is_refused(proto: Proto, family: int) -> None:
    for size in (HEADER_BYTES[proto, family] - 1, 65536):
        with pytest.raises(ValueError, match="IP length"):
            samples.probe(samples.token(proto, family), size=size)


@pytest.mark.parametrize("room", [53, 54, 60, 67, 68, 69, 200])
def test_a_dns_probe_is_a_query_that_a_server_understands(room: int) -> None:
    preload()
    from scapy.layers.dns import DNS

    run = samples.token(Proto.UDP, 4, dport=53)
    payload = probe_payload(run, 1, dport=53, room=room)
    assert len(payload) == room
    query = DNS(payload)
    assert (query.qr, query.rd, query.qdcount) == (0, 1, 1)
    name = query.qd[0].qname
    assert name == b"ntr" + run.secret.hex().encode() + b"00000001.invalid."
    assert query.arcount == (1 if room >= 68 else 0)
    if room >= 68:
        assert query.ar[0].type == 41


def test_a_dns_probe_too_small_for_a_query_still_has_the_nonce() -> None:
    run = samples.token(Proto.UDP, 4, dport=53)
    assert probe_payload(run, 1, dport=53, room=20).startswith(run.nonce(1))


def test_link_local_zones_are_not_on_the_wire() -> None:
    from ipaddress import ip_address

    run = samples.token(Proto.ICMP, 6)
    packet = build_probe(run, 0, src=ip_address("fe80::1%eth0"), dst=ip_address("fe80::2%eth0"))
    assert dissect(packet).dst == "fe80::2"


def test_a_token_checks_its_parts() -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        make_token(b"short", Proto.ICMP)
    with pytest.raises(ValueError, match="probes"):
        make_token(samples.SECRET, Proto.ICMP, count=MAX_PROBES + 1)
    run = make_token(samples.SECRET, Proto.TCP, count=MAX_PROBES)
    assert isinstance(run, RunToken)
    assert run.sequence(MAX_PROBES - 1) + 1 >> 8 == run.sequence_base


@pytest.mark.parametrize(
    ("source", "target"), [("172.17.0.1", "172.17.0.9"), ("2001:db8::1", "2001:db8::9:8"), ("fe80::1", "fe80::ab:cdef")]
)
def test_a_neighbour_request_is_what_scapy_makes_of_it(source: str, target: str) -> None:
    preload()
    from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6, in6_getnsma, in6_getnsmac, inet_pton
    from scapy.layers.l2 import ARP, Ether

    mac = "02:42:ac:11:00:01"
    if "." in source:
        wanted = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=mac, psrc=source, pdst=target)
    else:
        group = in6_getnsma(inet_pton(10, target))
        wanted = (
            Ether(src=mac, dst=in6_getnsmac(group))
            / IPv6(src=source, dst=str(ip_address(group)), hlim=255)
            / ICMPv6ND_NS(tgt=target)
            / ICMPv6NDOptSrcLLAddr(lladdr=mac)
        )
    assert build_neighbour_request(mac, ip_address(source), ip_address(target)) == bytes(wanted)
