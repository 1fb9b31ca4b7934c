"""The filter, run three ways: by the interpreter, by the kernel on a Unix socket pair, and against the parser."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace.model.flow import Proto
from nettrace.wire.build import foreign_twin
from nettrace.wire.filter import Instruction, capture_filter, delivery_filter, interpret, pack, reject_all
from nettrace.wire.parse import parse_frame
from nettrace.wire.token import MAX_PROBES, make_token
from probes.capture import CaptureError, Samples, attach, prove_filter
from tests.wire import samples

NEIGHBOURS = (ip_address("172.17.0.1"), ip_address("172.17.0.2"), ip_address("fd00::1"))
CASES = pytest.mark.parametrize(("proto", "family"), samples.CASES)


def kernel_takes(program: tuple[Instruction, ...], frames: list[bytes]) -> list[bool]:
    """What the kernel's own interpreter or JIT does with the program; an empty frame cannot be told from none."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    taken = []
    with near, far:
        far.setblocking(False)
        attach(far, program)
        for frame in frames:
            near.send(frame)
            try:
                taken.append(far.recv(1 << 17) == frame)
            except BlockingIOError:
                taken.append(False)
    return taken


@CASES
@pytest.mark.parametrize("vxlan", [True, False])
def test_ours_pass_and_strangers_do_not(proto: Proto, family: int, vxlan: bool) -> None:
    run = samples.token(proto, family, vxlan=vxlan)
    program = capture_filter(run, neighbours=NEIGHBOURS)
    frames = {name: frame for name, (frame, _kind) in samples.ours(run).items()}
    for name, frame in frames.items():
        assert interpret(program, frame) >= len(frame), name
    others = samples.strangers(run)
    for name, frame in others.items():
        assert interpret(program, frame) == 0, name
    every = [*frames.values(), *(frame for frame in others.values() if frame)]
    assert kernel_takes(program, every) == [bool(interpret(program, frame)) for frame in every]


@CASES
def test_devices_without_a_link_header(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    program = capture_filter(run, arp_type=65534)
    mine = [samples.probe(run), samples.reply(run), samples.error(run, samples.probe(run))]
    others = [
        frame[14:]
        for name, frame in samples.strangers(run).items()
        if "vlan" not in name and "ethertype" not in name and len(frame) > 14
    ]
    assert [bool(interpret(program, frame)) for frame in mine] == [True] * 3
    assert not any(interpret(program, frame) for frame in others)
    assert kernel_takes(program, mine + others) == [True] * 3 + [False] * len(others)


@CASES
def test_a_raw_socket_hears_what_is_delivered(proto: Proto, family: int) -> None:
    """Over IPv6 the kernel hands out what is behind the IP header."""
    run = samples.token(proto, family)
    program = delivery_filter(run)
    start = 0 if family == 4 else 40
    mine = [each[start:] for each in (samples.probe(run), samples.reply(run))]
    stranger = foreign_twin(run, samples.probe(run))[start:]
    assert [bool(interpret(program, each)) for each in (*mine, stranger)] == [True, True, False]
    assert kernel_takes(program, [*mine, stranger]) == [True, True, False]


def test_arp_passes_for_the_addresses_on_the_way_alone() -> None:
    program = capture_filter(samples.token(Proto.ICMP, 4), neighbours=NEIGHBOURS)
    frames = {
        samples.arp(): True,
        samples.arp(operation=2, asking="172.17.0.1", asked="172.17.0.9"): True,
        samples.arp(asking="172.17.0.9", asked="172.17.0.2"): True,
        samples.arp(asking="172.17.0.9", asked="172.17.0.8"): False,
    }
    assert [bool(interpret(program, frame)) for frame in frames] == list(frames.values())
    assert kernel_takes(program, list(frames)) == list(frames.values())


def test_ndp_passes_for_the_addresses_on_the_way_alone() -> None:
    program = capture_filter(samples.token(Proto.ICMP, 6), neighbours=NEIGHBOURS)
    frames = {
        samples.ethernet(samples.neighbour()): True,
        samples.ethernet(samples.neighbour(advert=True)): True,
        samples.ethernet(samples.neighbour(target="fd00::9")): False,
    }
    assert [bool(interpret(program, frame)) for frame in frames] == list(frames.values())
    assert kernel_takes(program, list(frames)) == list(frames.values())


def test_ipv4_options_move_the_nonce() -> None:
    run = samples.token(Proto.ICMP, 4)
    packet = samples.probe(run)
    longer = bytes([0x47]) + packet[1:2] + (len(packet) + 8).to_bytes(2, "big") + packet[4:20] + bytes(8) + packet[20:]
    program = capture_filter(run)
    assert interpret(program, samples.ethernet(longer))
    assert parse_frame(samples.ethernet(longer), run=run) is not None
    assert kernel_takes(program, [samples.ethernet(longer)]) == [True]


@CASES
def test_what_the_parser_knows_the_filter_lets_through(proto: Proto, family: int) -> None:
    """A frame that differs in some bytes from one of ours: the filter's answer never hides a sighting."""
    run = samples.token(proto, family)
    program = capture_filter(run, neighbours=NEIGHBOURS)
    for frame, _kind in samples.ours(run).values():
        for at in range(len(frame)):
            changed = frame[:at] + bytes([frame[at] ^ 0x41]) + frame[at + 1 :]
            if parse_frame(changed, run=run) is not None:
                assert interpret(program, changed), (at, changed.hex())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_interpreter_is_the_kernel(data: st.DataObject) -> None:
    proto, family = data.draw(st.sampled_from(samples.CASES))
    run = samples.token(proto, family)
    program = capture_filter(run, neighbours=NEIGHBOURS)
    frames = []
    for _ in range(20):
        frame = bytearray(data.draw(st.sampled_from([frame for frame, _ in samples.ours(run).values()])))
        for _ in range(data.draw(st.integers(0, 4))):
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        frames.append(bytes(frame[: data.draw(st.integers(1, len(frame)))]))
    assert kernel_takes(program, frames) == [bool(interpret(program, frame)) for frame in frames]


def test_a_big_run_fits_the_kernel() -> None:
    run = make_token(samples.SECRET, Proto.UDP, count=MAX_PROBES, dports=(80, 8080), vxlan_ports=(4789, 8472))
    run = run.with_ports(tuple(range(40000, 40000 + MAX_PROBES)))
    neighbours = [ip_address(f"172.17.0.{number}") for number in range(1, 60)]
    neighbours += [ip_address(f"fd00::{number}") for number in range(1, 20)]
    program = capture_filter(run, neighbours=neighbours)
    assert any(instruction.code == 0x05 and instruction.k > 255 for instruction in program)
    frames = [samples.ethernet(samples.probe(run, 249)), samples.ethernet(samples.reply(run, 249))]
    frames += [samples.arp(asking="172.17.0.59", asked="10.9.9.9"), samples.arp(asking="10.9.9.8", asked="10.9.9.9")]
    assert kernel_takes(program, frames) == [True, True, True, False]
    assert [bool(interpret(program, frame)) for frame in frames] == [True, True, True, False]


def test_a_filter_too_long_for_the_kernel_is_refused_here() -> None:
    neighbours = [ip_address(f"10.0.{number // 250}.{number % 250}") for number in range(4000)]
    with pytest.raises(ValueError, match="more than the kernel takes"):
        capture_filter(samples.token(Proto.ICMP, 4), neighbours=neighbours)


def test_proof_of_a_filter() -> None:
    run = samples.token(Proto.ICMP, 4)
    probe = samples.ethernet(samples.probe(run))
    foreign = samples.strangers(run)["stranger's probe"]
    prove_filter(capture_filter(run), Samples(ours=(probe,), foreign=(foreign,)))
    with pytest.raises(CaptureError, match="differently"):
        prove_filter(reject_all(), Samples(ours=(probe,), foreign=()))
    with pytest.raises(CaptureError, match="differently"):
        prove_filter((Instruction(0x06, 0, 0, 65535),), Samples(ours=(probe,), foreign=(foreign,)))
    with pytest.raises(CaptureError, match="refuses"):
        prove_filter((Instruction(0x05, 0, 0, 9),), Samples(ours=(probe,), foreign=()))


def test_the_layout_of_an_instruction() -> None:
    assert pack([Instruction(0x15, 1, 2, 0x0A0B0C0D)]) == b"\x15\x00\x01\x02\x0d\x0c\x0b\x0a"
    with pytest.raises(ValueError, match="instruction"):
        interpret([Instruction(0x35, 0, 0, 1)], b"x")
