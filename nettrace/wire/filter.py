"""Classic BPF that lets the packets of one run through, and next to nothing else.

A busy host must not notice the probe, so the nonce is compared in the kernel. What the filter accepts is a superset
of what `nettrace.wire.parse` recognises: it may let a stranger's ICMP error through, it must never hold back ours.
The instruction set is that of Documentation/networking/filter.rst; `interpret` runs it as the kernel does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from nettrace.model.base import IPAddress
from nettrace.model.flow import PROTO_NUMBER, Proto
from nettrace.wire.link import ETHERNET, is_raw_ip
from nettrace.wire.token import DNS_LABEL, MAGIC, RunToken

__all__ = [
    "MAX_INSTRUCTIONS",
    "SNAP_LENGTH",
    "Instruction",
    "capture_filter",
    "delivery_filter",
    "interpret",
    "pack",
    "reject_all",
]

#: BPF_MAXINSNS.
MAX_INSTRUCTIONS = 4096
#: What an accepted frame is cut to: more than any IP packet.
SNAP_LENGTH = 0x40000

# Instruction codes (linux/bpf_common.h, linux/filter.h).
_LD_W_IND, _LD_H_IND, _LD_B_IND = 0x40, 0x48, 0x50
_LD_MEM, _LDX_MEM, _ST, _STX, _LDX_IMM = 0x60, 0x61, 0x02, 0x03, 0x01
_ADD_K, _ADD_X, _AND_K, _LSH_K, _RSH_K = 0x04, 0x0C, 0x54, 0x64, 0x74
_JA, _JEQ, _JSET, _RET_K, _TAX, _TXA = 0x05, 0x15, 0x45, 0x06, 0x07, 0x87

# Scratch memory.
_L3, _L4, _KIND = 0, 1, 2

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58


class Instruction(NamedTuple):
    """One struct sock_filter."""

    code: int
    jt: int
    jf: int
    k: int


class _Line(NamedTuple):
    code: int
    k: int
    label: str | None
    negate: bool


class _Assembler:
    """Collects lines and labels, then lays them out; a conditional jump that is too far goes by way of a BPF_JA."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._labels: dict[str, int] = {}
        self._fresh = 0

    def emit(self, code: int, k: int = 0) -> None:
        self._lines.append(_Line(code, k & 0xFFFFFFFF, None, False))

    def fresh(self, stem: str) -> str:
        self._fresh += 1
        return f"{stem}.{self._fresh}"

    def place(self, label: str) -> None:
        self._labels[label] = len(self._lines)

    def goto(self, label: str) -> None:
        self._lines.append(_Line(_JA, 0, label, False))

    def if_equal(self, k: int, label: str) -> None:
        self._lines.append(_Line(_JEQ, k & 0xFFFFFFFF, label, False))

    def unless_equal(self, k: int, label: str) -> None:
        self._lines.append(_Line(_JEQ, k & 0xFFFFFFFF, label, True))

    def if_bits(self, k: int, label: str) -> None:
        self._lines.append(_Line(_JSET, k, label, False))

    def unless_bits(self, k: int, label: str) -> None:
        self._lines.append(_Line(_JSET, k, label, True))

    def finish(self) -> tuple[Instruction, ...]:
        far: set[int] = set()
        while True:
            starts, at = [], 0
            for index in range(len(self._lines) + 1):
                starts.append(at)
                at += 2 if index in far else 1
            distances = {
                index: starts[self._labels[line.label]] - starts[index] - 1
                for index, line in enumerate(self._lines)
                if line.label is not None and line.code != _JA
            }
            too_far = {index for index, distance in distances.items() if distance > 255} - far
            if not too_far:
                break
            far |= too_far
        program: list[Instruction] = []
        for index, line in enumerate(self._lines):
            program.extend(self._lay(line, starts[index], index in far, starts))
        if len(program) > MAX_INSTRUCTIONS:
            raise ValueError(f"a filter of {len(program)} instructions is more than the kernel takes")
        return tuple(program)

    def _lay(self, line: _Line, start: int, far: bool, starts: list[int]) -> list[Instruction]:
        if line.label is None:
            return [Instruction(line.code, 0, 0, line.k)]
        target = starts[self._labels[line.label]]
        if line.code == _JA:
            return [Instruction(_JA, 0, 0, target - start - 1)]
        if far:
            skip = (1, 0) if line.negate else (0, 1)
            return [Instruction(line.code, *skip, line.k), Instruction(_JA, 0, 0, target - start - 2)]
        distance = target - start - 1
        return [Instruction(line.code, *((0, distance) if line.negate else (distance, 0)), line.k)]


class _Program:
    """Writes the filter of one run; X holds the start of the header at hand, whenever one is read."""

    def __init__(self, run: RunToken, neighbours: Sequence[IPAddress]) -> None:
        self.run = run
        self.asm = _Assembler()
        self.v4 = sorted({int(each) for each in neighbours if each.version == 4})
        self.v6 = sorted({int(each) for each in neighbours if each.version == 6})
        self.proto = PROTO_NUMBER[run.proto, run.family]

    def write(self, raw_ip: bool) -> tuple[Instruction, ...]:
        if raw_ip:
            self._raw()
        else:
            self._ethernet(inner=False)
        if self.run.vxlan_ports:
            self._vxlan()
        self.asm.place("accept")
        self.asm.emit(_RET_K, SNAP_LENGTH)
        self.asm.place("reject")
        self.asm.emit(_RET_K, 0)
        return self.asm.finish()

    def write_delivered(self) -> tuple[Instruction, ...]:
        """Start at the transport header, as a raw IPv6 socket's filter does (rawv6_rcv)."""
        asm = self.asm
        asm.emit(_LDX_IMM, 0)
        {_TCP: self._tcp, _UDP: self._udp}.get(self.proto, self._icmp)(self.run.family)
        asm.place("accept")
        asm.emit(_RET_K, SNAP_LENGTH)
        asm.place("reject")
        asm.emit(_RET_K, 0)
        return asm.finish()

    def _raw(self) -> None:
        asm = self.asm
        asm.emit(_LDX_IMM, 0)
        asm.emit(_STX, _L3)
        asm.emit(_LD_B_IND, 0)
        asm.emit(_RSH_K, 4)
        self._dispatch({4: _IPV4, 6: _IPV6}, inner=False)

    def _ethernet(self, *, inner: bool) -> None:
        """Start at X (0, or the inner frame): step over two VLAN tags at most, then go by the EtherType."""
        asm = self.asm
        if not inner:
            asm.emit(_LDX_IMM, 0)
        asm.emit(_LD_H_IND, 12)
        for _ in range(2):
            tagged, plain = asm.fresh("tagged"), asm.fresh("plain")
            for tag in (0x8100, 0x88A8, 0x9100):
                asm.if_equal(tag, tagged)
            asm.goto(plain)
            asm.place(tagged)
            asm.emit(_TXA)
            asm.emit(_ADD_K, 4)
            asm.emit(_TAX)
            asm.emit(_LD_H_IND, 12)
            asm.place(plain)
        asm.emit(_ST, _KIND)
        asm.emit(_TXA)
        asm.emit(_ADD_K, 14)
        asm.emit(_ST, _L3)
        asm.emit(_TAX)
        asm.emit(_LD_MEM, _KIND)
        self._dispatch({_IPV4: _IPV4, _IPV6: _IPV6, _ARP: _ARP}, inner=inner)

    def _dispatch(self, kinds: dict[int, int], *, inner: bool) -> None:
        asm = self.asm
        labels = {kind: asm.fresh(f"kind{kind:x}") for kind in kinds.values()}
        for value, kind in kinds.items():
            asm.if_equal(value, labels[kind])
        asm.goto("reject")
        for kind, label in labels.items():
            asm.place(label)
            if kind == _ARP:
                self._arp()
            else:
                self._ip(4 if kind == _IPV4 else 6, inner=inner)

    def _arp(self) -> None:
        """Sender or target among the addresses on the way."""
        for offset in (14, 24) if self.v4 else ():
            self.asm.emit(_LD_W_IND, offset)
            for address in self.v4:
                self.asm.if_equal(address, "accept")
        self.asm.goto("reject")

    def _ip(self, family: int, *, inner: bool) -> None:
        """Find the transport header, then go by the protocol. X is the start of the IP header."""
        asm = self.asm
        if family == 4:
            asm.emit(_LD_H_IND, 6)
            asm.if_bits(0x1FFF, "reject")  # a later fragment has no transport header
            asm.emit(_LD_B_IND, 0)
            self._ihl()
            asm.emit(_ADD_X)
            asm.emit(_ST, _L4)
            asm.emit(_LD_B_IND, 9)
            asm.emit(_LDX_MEM, _L4)
        else:
            self._ipv6_headers()
        icmp = _ICMP if family == 4 else _ICMPV6
        branches: dict[int, Callable[[int], None]] = {icmp: self._icmp}
        if family == self.run.family and self.proto in (_TCP, _UDP):
            branches[self.proto] = self._tcp if self.proto == _TCP else self._udp
        tunnels = self.run.vxlan_ports if not inner else ()
        wanted = dict.fromkeys((*branches, *((_UDP,) if tunnels else ())))
        labels = {proto: asm.fresh(f"proto{proto}") for proto in wanted}
        for proto, label in labels.items():
            asm.if_equal(proto, label)
        asm.goto("reject")
        for proto, label in labels.items():
            asm.place(label)
            if proto == _UDP and tunnels:
                asm.emit(_LD_H_IND, 2)
                for port in tunnels:
                    asm.if_equal(port, "vxlan")
            if proto in branches:
                branches[proto](family)
            asm.goto("reject")

    def _ihl(self) -> None:
        """A holds the first byte of an IPv4 header; leave its length in bytes."""
        self.asm.emit(_AND_K, 0xF)
        self.asm.emit(_LSH_K, 2)

    def _ipv6_headers(self) -> None:
        """Step over three extension headers at most; leave the protocol in A, and in X where its header begins."""
        asm = self.asm
        asm.emit(_TXA)
        asm.emit(_ADD_K, 40)
        asm.emit(_ST, _L4)
        asm.emit(_LD_B_IND, 6)
        asm.emit(_LDX_MEM, _L4)
        done = asm.fresh("transport")
        for _ in range(3):
            options, fragment = asm.fresh("options"), asm.fresh("fragment")
            step = asm.fresh("step")
            for kind in (0, 43, 60):
                asm.if_equal(kind, options)
            asm.if_equal(44, fragment)
            asm.goto(done)
            asm.place(fragment)
            asm.emit(_LD_H_IND, 2)
            asm.if_bits(0xFFF8, "reject")
            asm.emit(_LD_B_IND, 0)
            asm.emit(_ST, _KIND)
            asm.emit(_TXA)
            asm.emit(_ADD_K, 8)
            asm.goto(step)
            asm.place(options)
            asm.emit(_LD_B_IND, 0)
            asm.emit(_ST, _KIND)
            asm.emit(_LD_B_IND, 1)
            asm.emit(_ADD_K, 1)
            asm.emit(_LSH_K, 3)
            asm.emit(_ADD_X)
            asm.place(step)
            asm.emit(_ST, _L4)
            asm.emit(_TAX)
            asm.emit(_LD_MEM, _KIND)
        asm.place(done)

    def _icmp(self, family: int) -> None:
        """Echoes with the nonce, errors that quote what could be ours, neighbour discovery. X is the ICMP header."""
        asm = self.asm
        branches: list[tuple[tuple[int, ...], Callable[[], None]]] = []
        if family == self.run.family:
            if self.run.proto is Proto.ICMP:
                branches.append(((8, 0) if family == 4 else (128, 129), lambda: self._nonce(8)))
            branches.append(((3, 4, 5, 11, 12) if family == 4 else (1, 2, 3, 4), lambda: self._quoted(family)))
        if family == 6 and self.v6:
            branches.append(((135, 136), self._neighbour))
        labels = [asm.fresh("icmp") for _ in branches]
        asm.emit(_LD_B_IND, 0)
        for (kinds, _write), label in zip(branches, labels, strict=True):
            for kind in kinds:
                asm.if_equal(kind, label)
        asm.goto("reject")
        for (_kinds, write), label in zip(branches, labels, strict=True):
            asm.place(label)
            write()

    def _neighbour(self) -> None:
        """The target, or the packet's source or destination, among the addresses on the way."""
        asm = self.asm
        for base, offset in ((_L4, 8), (_L3, 8), (_L3, 24)):
            asm.emit(_LDX_MEM, base)
            for address in self.v6:
                other = asm.fresh("other")
                for word in range(4):
                    asm.emit(_LD_W_IND, offset + 4 * word)
                    asm.unless_equal(address >> 32 * (3 - word), other)
                asm.goto("accept")
                asm.place(other)
        asm.goto("reject")

    def _quoted(self, family: int) -> None:
        """An ICMP error: the quoted packet begins 8 bytes behind X."""
        asm = self.asm
        asm.emit(_LD_B_IND, 8 + (9 if family == 4 else 6))
        asm.unless_equal(self.proto, "reject")
        if family == 4:
            asm.emit(_LD_B_IND, 8)
            self._ihl()
            asm.emit(_ADD_X)
            asm.emit(_ADD_K, 8)
        else:
            asm.emit(_TXA)
            asm.emit(_ADD_K, 48)
        asm.emit(_TAX)
        if self.run.proto is Proto.TCP:
            self._sequence(4)
            asm.goto("reject")
        elif self.run.proto is Proto.ICMP:
            asm.emit(_LD_H_IND, 4)
            asm.if_equal(self.run.icmp_id, "accept")
            self._nonce(8)
        else:
            asm.emit(_LD_H_IND, 0)
            for port in sorted(set(self.run.sports)):
                asm.if_equal(port, "accept")
            self._udp_nonce()

    def _words(self, offset: int, data: bytes, otherwise: str) -> None:
        """Accept when the bytes at X + offset are `data`, a whole number of words."""
        for at in range(0, len(data), 4):
            self.asm.emit(_LD_W_IND, offset + at)
            self.asm.unless_equal(int.from_bytes(data[at : at + 4], "big"), otherwise)
        self.asm.goto("accept")

    def _nonce(self, offset: int) -> None:
        self._words(offset, MAGIC + self.run.secret, "reject")

    def _udp_nonce(self) -> None:
        """The nonce first in the payload, or in the name that a DNS message asks for. X is the UDP header."""
        other = self.asm.fresh("name")
        self._words(8, MAGIC + self.run.secret, other)
        self.asm.place(other)
        self._words(8 + 12, DNS_LABEL + self.run.secret.hex().encode(), "reject")

    def _sequence(self, offset: int) -> None:
        self.asm.emit(_LD_W_IND, offset)
        self.asm.emit(_RSH_K, 8)
        self.asm.if_equal(self.run.sequence_base, "accept")

    def _tcp(self, _family: int) -> None:
        self._sequence(4)
        self._sequence(8)
        self.asm.goto("reject")

    def _udp(self, _family: int) -> None:
        """An answer by its ports (a server need not echo the nonce), else anything with the nonce."""
        asm = self.asm
        if self.run.sports and self.run.dports:
            answer, other = asm.fresh("answer"), asm.fresh("nonce")
            asm.emit(_LD_H_IND, 0)
            for port in sorted(set(self.run.dports)):
                asm.if_equal(port, answer)
            asm.goto(other)
            asm.place(answer)
            asm.emit(_LD_H_IND, 2)
            for port in sorted(set(self.run.sports)):
                asm.if_equal(port, "accept")
            asm.place(other)
        self._udp_nonce()

    def _vxlan(self) -> None:
        """X is the outer UDP header: UDP and VXLAN headers are 8 bytes each, then an Ethernet frame."""
        asm = self.asm
        asm.place("vxlan")
        asm.emit(_LD_B_IND, 8)
        asm.unless_bits(0x08, "reject")
        asm.emit(_TXA)
        asm.emit(_ADD_K, 16)
        asm.emit(_TAX)
        self._ethernet(inner=True)


def capture_filter(
    run: RunToken, *, arp_type: int = ETHERNET, neighbours: Iterable[IPAddress] = ()
) -> tuple[Instruction, ...]:
    """Return the program that accepts what `parse_frame` recognises on a device of that ARPHRD type.

    `neighbours` are the addresses whose ARP and NDP is let through, asked for or asking. Raises ValueError when the
    program is longer than the kernel takes.
    """
    return _Program(run, tuple(neighbours)).write(is_raw_ip(arp_type))


def delivery_filter(run: RunToken) -> tuple[Instruction, ...]:
    """Return the program for a raw socket of the run's protocol, which hears what is delivered to the stack (raw(7)).

    Over IPv4 its packets begin with the IP header, over IPv6 with the header behind it.
    """
    program = _Program(msgspec.structs.replace(run, vxlan_ports=()), ())
    return program.write(raw_ip=True) if run.family == 4 else program.write_delivered()


def reject_all() -> tuple[Instruction, ...]:
    """Return the program for a socket that only sends, so that nothing piles up in it."""
    return (Instruction(_RET_K, 0, 0, 0),)


def pack(program: Sequence[Instruction]) -> bytes:
    """Return the program as an array of struct sock_filter, in the machine's byte order."""
    return b"".join(struct.pack("=HBBI", *each) for each in program)


_MASK = 0xFFFFFFFF
_WIDTH = {_LD_W_IND: 4, _LD_H_IND: 2, _LD_B_IND: 1}


def interpret(program: Sequence[Instruction], frame: bytes) -> int:
    """Run the program as the kernel does, and return how many bytes of the frame it accepts.

    A load beyond the frame ends it with 0. Raises ValueError on instructions that the filters here never use.
    """
    accumulator, index, counter = 0, 0, 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[counter]
        counter += 1
        if code in _WIDTH:
            start, width = index + k, _WIDTH[code]
            if start + width > len(frame):
                return 0
            accumulator = int.from_bytes(frame[start : start + width], "big")
        elif code == _RET_K:
            return k
        elif code == _JA:
            counter += k
        elif code == _JEQ:
            counter += jt if accumulator == k else jf
        elif code == _JSET:
            counter += jt if accumulator & k else jf
        elif code == _ST:
            memory[k] = accumulator
        elif code == _STX:
            memory[k] = index
        elif code == _LDX_MEM:
            index = memory[k]
        elif code == _TAX:
            index = accumulator
        elif code == _TXA:
            accumulator = index
        else:
            index, accumulator = _arithmetic(code, k, index, accumulator, memory)


def _arithmetic(code: int, k: int, index: int, accumulator: int, memory: list[int]) -> tuple[int, int]:
    """The rest of the instructions: constants, memory and sums; returns X and A."""
    if code == _LDX_IMM:
        return k, accumulator
    if code == _LD_MEM:
        return index, memory[k]
    if code == _ADD_K:
        return index, accumulator + k & _MASK
    if code == _ADD_X:
        return index, accumulator + index & _MASK
    if code == _AND_K:
        return index, accumulator & k
    if code == _LSH_K:
        return index, accumulator << k & _MASK
    if code == _RSH_K:
        return index, accumulator >> k
    raise ValueError(f"the filter uses instruction {code:#x}, which is not known here")
