"""Transport checksums of whole packets, as a receiver on this machine looks at them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nettrace.model.flow import Proto
from nettrace.wire.checksum import checksum_stands, internet_checksum
from tests.wire import samples

CASES = pytest.mark.parametrize(("proto", "family"), samples.CASES)
AT = {Proto.TCP: 16, Proto.UDP: 6, Proto.ICMP: 2}


@CASES
@given(st.data())
def test_a_probe_stands_until_one_of_its_bytes_is_another(proto: Proto, family: int, data: st.DataObject) -> None:
    packet = samples.probe(samples.token(proto, family))
    assert checksum_stands(packet)
    start = 20 if family == 4 else 40
    at = data.draw(st.integers(start, len(packet) - 1))
    flip = data.draw(st.integers(1, 255))
    spoilt = packet[:at] + bytes([packet[at] ^ flip]) + packet[at + 1 :]
    if proto is Proto.UDP and spoilt[start + 4 : start + 6] != packet[start + 4 : start + 6]:
        return  # another length, which the kernel looks at before
    assert not checksum_stands(spoilt)


@CASES
def test_what_a_device_was_to_compute_stands(proto: Proto, family: int) -> None:
    """CHECKSUM_PARTIAL: the field holds the sum of the pseudo header, not its complement."""
    if proto is Proto.ICMP:
        return
    packet = samples.probe(samples.token(proto, family))
    start, addresses = (20, packet[12:20]) if family == 4 else (40, packet[8:40])
    pseudo = addresses + struct.pack("!II", len(packet) - start, 6 if proto is Proto.TCP else 17)
    at = start + AT[proto]
    partial = packet[:at] + (internet_checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big") + packet[at + 2 :]
    assert checksum_stands(partial)
    assert not checksum_stands(packet[:at] + internet_checksum(pseudo).to_bytes(2, "big") + packet[at + 2 :])


def test_udp_may_go_without_over_ipv4() -> None:
    for family, stands in ((4, True), (6, False)):
        packet = samples.probe(samples.token(Proto.UDP, family))
        at = (20 if family == 4 else 40) + 6
        assert checksum_stands(packet[:at] + b"\0\0" + packet[at + 2 :]) is stands


def test_what_is_cut_or_unknown_is_not_blamed() -> None:
    packet = samples.probe(samples.token(Proto.ICMP, 4))
    assert checksum_stands(packet[:-1])
    assert checksum_stands(packet[:9] + bytes([132]) + packet[10:])
