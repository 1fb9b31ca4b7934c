"""The packet while a hook works on it: plain slots, so that a match is one attribute and one comparison."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import msgspec

from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet
from nettrace.model.netfilter import Assumption, CtState, Hook, NatResult, Tracking
from nettrace.model.snapshot import Tuple5
from nettrace.netfilter.context import HookContext
from nettrace.netfilter.ruleset import CT_STATE, CT_STATUS

__all__ = ["ICMP_REPLY", "UNKNOWN", "Skb", "Unknown", "address", "inverse", "mac_number", "tuple_of"]


class Unknown:
    """The third truth value, and the value of an operand that cannot be told. There is one instance: UNKNOWN."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()

#: ICMP query type to its answer, for both families (nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c).
ICMP_REPLY: dict[int, dict[int, int]] = {
    1: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17},
    58: {128: 129, 129: 128, 139: 140, 140: 139},
}

#: ICMPv6 types that conntrack marks untracked (nf_conntrack_icmpv6_init_net's noct_valid_new).
_UNTRACKED_ICMP6 = frozenset({130, 131, 132, 133, 134, 135, 136, 143})

_STATE_BITS = {
    CtState.NEW: CT_STATE["new"],
    CtState.ESTABLISHED: CT_STATE["established"],
    CtState.RELATED: CT_STATE["related"],
}


def address(family: int, value: int) -> IPAddress:
    """Return the address of a family (4 or 6) with that integer value."""
    return IPv4Address(value) if family == 4 else IPv6Address(value)


def mac_number(text: str) -> int:
    """Return a MAC address as an integer; raises ValueError when it is none."""
    parts = text.split(":")
    if len(parts) != 6:
        raise ValueError(f"{text!r} is no MAC address")
    number = 0
    for part in parts:
        byte = int(part, 16)
        if not 0 <= byte <= 255:
            raise ValueError(f"{text!r} is no MAC address")
        number = number << 8 | byte
    return number


def mac_text(number: int) -> str:
    """Return a MAC address as people write it."""
    return ":".join(f"{byte:02x}" for byte in number.to_bytes(6, "big"))


def tuple_of(packet: Packet) -> Tuple5:
    """Return the conntrack tuple of a packet (nf_ct_get_tuple)."""
    return Tuple5(
        src=packet.src,
        dst=packet.dst,
        proto=packet.proto,
        sport=packet.sport,
        dport=packet.dport,
        icmp_type=packet.icmp_type,
        icmp_code=packet.icmp_code,
        icmp_id=packet.icmp_id,
    )


def inverse(one: Tuple5) -> Tuple5:
    """Return what replies to a tuple look like (nf_ct_invert_tuple)."""
    kind = one.icmp_type
    if kind is not None:
        kind = ICMP_REPLY.get(one.proto, {}).get(kind, kind)
    return Tuple5(
        src=one.dst,
        dst=one.src,
        proto=one.proto,
        sport=one.dport,
        dport=one.sport,
        icmp_type=kind,
        icmp_code=one.icmp_code,
        icmp_id=one.icmp_id,
    )


class Skb:
    """One packet in one hook. Numbers are as in nettrace.netfilter.ruleset; UNKNOWN where the question left them open.

    `src0` and `dst0` are the addresses that the packet came with.

    `ct_bits` is the conntrack state as rules see it now; `ct` tells whether there is an entry they may look into.
    """

    __slots__ = (
        "assumed",
        "ct",
        "ct_bits",
        "ctx",
        "daddr",
        "dport",
        "dst0",
        "fam",
        "hook",
        "icmp_code",
        "icmp_id",
        "icmp_type",
        "iif",
        "length",
        "mark",
        "nat_set",
        "nats",
        "notrack",
        "oif",
        "packet",
        "proto",
        "quoted",
        "saddr",
        "sport",
        "src0",
        "tcp_flags",
        "tos",
        "trk",
        "ttl",
    )

    saddr: int
    daddr: int
    src0: int
    dst0: int
    sport: Any
    dport: Any
    icmp_type: Any
    icmp_code: Any
    icmp_id: Any
    tcp_flags: Any
    mark: Any

    def __init__(self, packet: Packet, tracking: Tracking, ctx: HookContext, hook: Hook) -> None:
        self.hook = hook
        self.packet = packet
        self.ctx = ctx
        self.trk = tracking
        self.fam = packet.family
        self.saddr = self.src0 = int(packet.src)
        self.daddr = self.dst0 = int(packet.dst)
        self.proto = proto = packet.proto
        self.sport = self.dport = self.icmp_type = self.icmp_code = self.icmp_id = self.tcp_flags = None
        if proto in (1, 58):
            self.icmp_type = UNKNOWN if packet.icmp_type is None else packet.icmp_type
            self.icmp_code = UNKNOWN if packet.icmp_code is None else packet.icmp_code
            self.icmp_id = UNKNOWN if packet.icmp_id is None else packet.icmp_id
        elif proto in (6, 17, 33, 132, 136):
            self.sport = UNKNOWN if packet.sport is None else packet.sport
            self.dport = UNKNOWN if packet.dport is None else packet.dport
            if proto == 6:
                self.tcp_flags = UNKNOWN if packet.tcp_flags is None else packet.tcp_flags
        self.ttl = packet.ttl
        self.length = packet.length
        self.tos = packet.tos
        self.mark = packet.mark
        self.quoted = packet.quoted
        self.iif = ctx.iif or ""
        self.oif = ctx.oif or ""
        self.ct_bits = CT_STATE["invalid"]
        self.ct = False
        self.notrack = False
        self.nat_set = False
        self.nats: tuple[NatResult, ...] = ()
        self.assumed: tuple[Assumption, ...] = ()

    def copy(self) -> Skb:
        """Return an independent copy, for another branch."""
        other = Skb.__new__(Skb)
        for name in Skb.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def key(self) -> tuple[Any, ...]:
        """Return everything that rules can change, for telling equal branches."""
        return (
            self.saddr, self.daddr, self.sport, self.dport, self.icmp_id, self.mark, self.ttl, self.tos,
            self.ct_bits, self.nat_set, self.notrack, self.trk, self.nats, self.packet.src_mac, self.packet.dst_mac,
        )  # fmt: skip

    def see_conntrack(self) -> None:
        """Let rules see the entry: what nf_conntrack_in does at its priority."""
        trk = self.trk
        state = trk.state
        if self.notrack or (
            self.proto == 58 and self.fam == 6 and state != CtState.NONE and self.icmp_type in _UNTRACKED_ICMP6
        ):
            if state != CtState.UNTRACKED:
                self.trk = Tracking(state=CtState.UNTRACKED)
            self.ct_bits = CT_STATE["untracked"]
            return
        bits = _STATE_BITS.get(state)
        if bits is None:
            self.ct_bits = CT_STATE["untracked" if state == CtState.UNTRACKED else "invalid"]
            return
        self.ct_bits = bits
        self.ct = True
        if trk.orig is None and state == CtState.NEW:
            orig = tuple_of(self.current_packet())
            self.trk = msgspec.structs.replace(trk, orig=orig, reply_tuple=trk.reply_tuple or inverse(orig))

    def ct_status(self) -> int:
        """Return the IPS_* bits of the entry."""
        bits = 0
        trk = self.trk
        for name in trk.status:
            bits |= CT_STATUS.get(name, 0)
        if "src" in trk.nat_done:
            bits |= CT_STATUS["src_nat_done"]
        if "dst" in trk.nat_done:
            bits |= CT_STATUS["dst_nat_done"]
        return bits

    def src_ip(self) -> IPAddress:
        """Return the source address as it is now."""
        src = self.packet.src
        return src if self.src0 == self.saddr else address(self.fam, self.saddr)

    def dst_ip(self) -> IPAddress:
        """Return the destination address as it is now."""
        dst = self.packet.dst
        return dst if self.dst0 == self.daddr else address(self.fam, self.daddr)

    def current_packet(self) -> Packet:
        """Return the packet as it is now; the very packet that came in when nothing changed."""
        packet = self.packet
        mark = packet.mark if self.mark is UNKNOWN else self.mark
        sport = packet.sport if self.sport is UNKNOWN or self.sport is None else self.sport
        dport = packet.dport if self.dport is UNKNOWN or self.dport is None else self.dport
        icmp_id = packet.icmp_id if self.icmp_id is UNKNOWN or self.icmp_id is None else self.icmp_id
        if (
            self.saddr == self.src0
            and self.daddr == self.dst0
            and mark == packet.mark
            and sport == packet.sport
            and dport == packet.dport
            and self.ttl == packet.ttl
            and self.tos == packet.tos
            and icmp_id == packet.icmp_id
            and self.quoted is packet.quoted
        ):
            return packet
        return msgspec.structs.replace(
            packet,
            src=self.src_ip(),
            dst=self.dst_ip(),
            sport=sport,
            dport=dport,
            icmp_id=icmp_id,
            mark=mark,
            ttl=self.ttl,
            tos=self.tos,
            quoted=self.quoted,
        )
