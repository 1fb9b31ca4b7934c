"""Marks fit the packets of one run, wherever they ride, and no others."""

from __future__ import annotations

import pytest

from nettrace.model.flow import Proto
from nettrace.wire.token import RunToken
from probes.witness.marks import MOST_PORTS, NETWORK, Mark, marks_of
from tests.wire import samples

CASES = pytest.mark.parametrize(("proto", "family"), samples.CASES)


def fits(mark: Mark, frame: bytes) -> bool:
    """Compare as the kernel's payload expression does: from the IP header, or from what lies behind it."""
    packet = frame[14:]
    if len(packet) < 20 or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return False
    family = packet[0] >> 4
    proto = packet[9] if family == 4 else packet[6]
    header = (packet[0] & 0xF) * 4 if family == 4 else 40
    if (family, proto) != (mark.family, mark.proto):
        return False
    for each in mark.compares:
        start = each.offset + (0 if each.base == NETWORK else header)
        if packet[start : start + len(each.value)] != each.value:
            return False
    return True


def marked(run: RunToken, frame: bytes) -> bool:
    return any(fits(mark, frame) for mark in marks_of(run))


@CASES
def test_everything_of_a_run_is_marked(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    for name, (frame, _kind) in samples.ours(run).items():
        if "vlan" in name or (name == "error that quotes little" and proto is not Proto.TCP):
            continue  # a tag hides the packet from the hooks of the IP family; 8 bytes do not reach the nonce
        if (name, proto) == ("reply in vxlan over ipv6", Proto.UDP):
            frame = samples.vxlan(samples.ethernet(samples.reply(run)), port=8472, family=6)
        assert marked(run, frame), name


@CASES
def test_strangers_are_not(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    for name, frame in samples.strangers(run).items():
        assert not marked(run, frame), name
    other = samples.token(proto, family, secret=bytes(8))
    if proto is not Proto.UDP:  # answers of UDP services are known by their ports
        for name, (frame, _kind) in samples.ours(other).items():
            assert not marked(run, frame), name


def test_a_dns_question_is_known_by_its_name() -> None:
    run = samples.token(Proto.UDP, 4, dport=53)
    assert marked(run, samples.ethernet(samples.probe(run)))


def test_there_are_few_marks_however_many_probes() -> None:
    run = samples.token(Proto.UDP, 4, vxlan=False).with_ports(tuple(range(40000, 40100)))
    assert len(marks_of(run)) <= 2 + 2 * MOST_PORTS
    assert len(marks_of(samples.token(Proto.ICMP, 4, vxlan=False))) == 2
