"""Address translation: setting it up for a new entry, and applying it to every packet of one.

Source of what is modelled: net/netfilter/nf_nat_core.c (nf_nat_setup_info, get_unique_tuple, find_best_ips_proto,
nf_nat_l4proto_unique_tuple, nf_nat_packet), nf_nat_proto.c (nf_nat_icmp_reply_translation), nf_nat_masquerade.c,
nf_nat_redirect.c, xt_NETMAP.c.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet
from nettrace.model.netfilter import Assumption, CtState, Hook, NatResult, RuleRef
from nettrace.model.snapshot import Tuple5
from nettrace.netfilter.operands import getter, why
from nettrace.netfilter.ruleset import Nat, OneOf, Operand, Table
from nettrace.netfilter.ruling import DROP, Code, Ruling
from nettrace.netfilter.skb import UNKNOWN, Skb, address, inverse, tuple_of

__all__ = ["compile_nat", "finish", "wanted"]

Op: TypeAlias = Callable[[Skb], Any]

_WITH_PORTS = (6, 17, 33, 132, 136)
_DST_HOOKS = (Hook.PREROUTING, Hook.OUTPUT)


#: What is taken for granted about a source address that the kernel draws from a range (find_appropriate_src).
REUSE = "the address is drawn by a hash, unless another connection from the same source port has one already"


class _Wish(msgspec.Struct):
    """The values of one NAT statement for one packet; None where it leaves the packet's own."""

    low: int | None = None
    high: int | None = None
    port: int | None = None
    port_high: int | None = None


# --- setting up -----------------------------------------------------------------------------------------------------


def compile_nat(expr: Nat, table: Table, ref: RuleRef) -> tuple[Op, tuple[Op, ...], str | None]:
    """Return the function of a NAT statement, its alternatives when a value is unknown, and the reason for that."""
    if expr.kind in ("masquerade", "redirect"):
        return _own_address(expr, table, ref)
    gets = [
        None if operand is None else getter(operand, table)
        for operand in (expr.address, expr.address_max, expr.port, expr.port_max, expr.target)
    ]
    family = {"ip": 4, "ip6": 6}.get(expr.family or "")

    def perform(s: Skb, values: list[Any]) -> Any:
        if family is not None and s.fam != family:
            return False
        wish = _wish(values)
        if expr.kind == "netmap" and wish.low is not None:
            wish = _netmap(s, wish)
        return _set_up(s, expr, ref, wish)

    def act(s: Skb) -> Any:
        values = [None if get is None else get(s) for get in gets]
        for operand, value in zip(_operands(expr), values, strict=True):
            if value is None and operand is not None:
                return False
        return UNKNOWN if UNKNOWN in values else perform(s, values)

    reason = next((each for operand in _operands(expr) if operand is not None and (each := why(operand))), None)
    chosen = next((each for each in _operands(expr) if isinstance(each, OneOf)), None)
    if chosen is None:
        return act, (lambda s: _unknown_nat(s, expr, ref, reason or ""),), reason
    at = _operands(expr).index(chosen)

    def choice(value: Any) -> Op:
        def take(s: Skb) -> Any:
            values = [None if get is None else get(s) for get in gets]
            values[at] = value
            return perform(s, values)

        return take

    return act, tuple(choice(value) for value in chosen.values), reason


def _operands(expr: Nat) -> tuple[Operand | None, ...]:
    return (expr.address, expr.address_max, expr.port, expr.port_max, expr.target)


def _wish(values: list[Any]) -> _Wish:
    low, high, port, port_high, target = values
    if isinstance(target, tuple):
        low, port = target[0], target[1]
    elif target is not None:
        low = target
    return _Wish(low, high if high is not None else low, port, port_high if port_high is not None else port)


def _netmap(s: Skb, wish: _Wish) -> _Wish:
    low, high = wish.low or 0, wish.high or 0
    varying = low ^ high
    own = s.daddr if s.hook in _DST_HOOKS else s.saddr
    mapped = low & ~varying | own & varying
    return _Wish(mapped, mapped, wish.port, wish.port_high)


def _unknown_nat(s: Skb, expr: Nat, ref: RuleRef, reason: str) -> Ruling:
    """Return the ruling of a NAT whose target cannot be told: the packet goes on, translated to nobody knows what."""
    s.nat_set = True
    s.nats += (NatResult(kind=expr.kind, rule=ref),)
    s.assumed += (Assumption(rule=ref, reason=reason),)
    _mark_status(s, source=s.hook not in _DST_HOOKS)
    return Ruling(Code.ACCEPT, effect=f"{expr.kind} to an address that is not known")


def _own_address(expr: Nat, table: Table, ref: RuleRef) -> tuple[Op, tuple[Op, ...], str | None]:
    """Return the function of MASQUERADE or REDIRECT: the new address is one of the device's own."""
    port_get = None if expr.port is None else getter(expr.port, table)
    high_get = None if expr.port_max is None else getter(expr.port_max, table)
    masquerade = expr.kind == "masquerade"

    def act(s: Skb) -> Any:
        port = None if port_get is None else port_get(s)
        high = port if high_get is None else high_get(s)
        if port is UNKNOWN or high is UNKNOWN:
            return UNKNOWN
        if port is None and port_get is not None:
            return False
        found = _masquerade_address(s) if masquerade else _redirect_address(s)
        if found is None:
            return DROP
        low = None if found is UNKNOWN else int(found)
        if found is UNKNOWN:
            which = f"output interface {s.oif or '(none given)'}" if masquerade else f"input interface {s.iif}"
            reason = f"the address that {expr.kind} gives is that of {which}, which is not known here"
            s.assumed += (Assumption(rule=ref, reason=reason),)
        return _set_up(s, expr, ref, _Wish(low, low, port, high))

    reason = next((each for each in (expr.port, expr.port_max) if each is not None and why(each)), None)
    return act, (lambda s: _unknown_nat(s, expr, ref, ""),), why(reason) if reason is not None else None


def _masquerade_address(s: Skb) -> Any:
    if s.ctx.source_for is None or not s.oif:
        return UNKNOWN
    return s.ctx.source_for(s.oif, s.dst_ip())


def _redirect_address(s: Skb) -> Any:
    if s.hook == Hook.OUTPUT:
        return address(s.fam, 0x7F000001 if s.fam == 4 else 1)
    if s.ctx.primary_address is None or not s.iif:
        return UNKNOWN
    return s.ctx.primary_address(s.iif)


def _entry_tuples(s: Skb) -> tuple[Tuple5, Tuple5]:
    trk = s.trk
    orig = trk.orig if trk.orig is not None else tuple_of(s.current_packet())
    return orig, trk.reply_tuple if trk.reply_tuple is not None else inverse(orig)


def _set_up(s: Skb, expr: Nat, ref: RuleRef, wish: _Wish) -> Ruling:
    """Do what nf_nat_setup_info does: choose the new end, and change the entry's reply tuple."""
    source = s.hook not in _DST_HOOKS
    orig, reply = _entry_tuples(s)
    old_ip, old_port = (reply.dst, reply.dport) if source else (reply.src, reply.sport)
    icmp = orig.proto in (1, 58)
    new_ip = _choose_address(s, expr, reply, wish, old_ip)
    new_port, chosen = (None, False) if orig.proto not in _WITH_PORTS else _choose_port(expr, wish, old_port, source)
    changed_ip, changed_port = new_ip != old_ip, new_port is not None and new_port != old_port
    if icmp and source and (expr.random or expr.fully_random):
        chosen = True
    s.trk = _with_reply(s, orig, reply, source, new_ip, new_port if changed_port else old_port)
    unknown_ip = wish.low is None and expr.kind in ("masquerade", "redirect")
    if changed_ip or changed_port or unknown_ip:
        _mark_status(s, source=source)
    if source and wish.low != wish.high:
        s.assumed += (Assumption(rule=ref, reason=REUSE),)
    s.nat_set = True
    s.nats += (_result(expr, ref, source, (old_ip, new_ip, changed_ip), (old_port, new_port, changed_port), chosen),)
    shown = "an address that is not known" if unknown_ip else str(new_ip)
    if changed_port:
        shown = f"[{shown}]:{new_port}" if s.fam == 6 else f"{shown}:{new_port}"
    return Ruling(Code.ACCEPT, effect=f"{expr.kind} to {shown}")


def _result(
    expr: Nat,
    ref: RuleRef,
    source: bool,
    ips: tuple[IPAddress, IPAddress, bool],
    ports: tuple[int | None, int | None, bool],
    chosen: bool,
) -> NatResult:
    old_ip, new_ip, changed_ip = ips
    old_port, new_port, changed_port = ports
    end = "src" if source else "dst"
    port = "sport" if source else "dport"
    fields: dict[str, Any] = {}
    if changed_ip:
        fields |= {f"old_{end}": old_ip, f"new_{end}": new_ip}
    if changed_port or chosen:
        fields |= {f"old_{port}": old_port, f"new_{port}": new_port}
    return NatResult(kind=expr.kind, rule=ref, port_chosen_by_kernel=chosen, **fields)


def _with_reply(s: Skb, orig: Tuple5, reply: Tuple5, source: bool, new_ip: IPAddress, new_port: int | None) -> Any:
    ends: dict[str, Any] = {"dst": new_ip, "dport": new_port} if source else {"src": new_ip, "sport": new_port}
    return msgspec.structs.replace(s.trk, orig=orig, reply_tuple=msgspec.structs.replace(reply, **ends))


def _mark_status(s: Skb, *, source: bool) -> None:
    name = "src_nat" if source else "dst_nat"
    if name not in s.trk.status:
        s.trk = msgspec.structs.replace(s.trk, status=(*s.trk.status, name))


def _choose_address(s: Skb, expr: Nat, reply: Tuple5, wish: _Wish, old: IPAddress) -> IPAddress:
    """Choose an address as find_best_ips_proto does: a hash of both ends spreads over the range."""
    if wish.low is None or wish.high is None:
        return old
    if wish.low == wish.high:
        return address(s.fam, wish.low)
    width = 4 if s.fam == 4 else 16
    source_side = s.hook not in _DST_HOOKS
    source = reply.dst.packed
    words = [int.from_bytes(source[at : at + 4], sys.byteorder) for at in range(0, width, 4)]
    words += [0] * (4 - len(words))
    packed = reply.src.packed
    far = [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, width, 4)]
    value = _jhash2(words, 0 if expr.persistent else far[-1] ^ s.trk.zone)
    low = wish.low.to_bytes(width, "big")
    high = wish.high.to_bytes(width, "big")
    out = b""
    full = False
    for at in range(0, width, 4):
        least = 0 if full else int.from_bytes(low[at : at + 4], "big")
        most = int.from_bytes(high[at : at + 4], "big")
        span = 0xFFFFFFFF if full else most - least + 1
        part = least + (value * span >> 32)
        out += part.to_bytes(4, "big")
        if part != most:
            full = True
        if not expr.persistent:
            # The destination is rewritten in place: the kernel mixes in what it has just chosen.
            value ^= far[at // 4] if source_side else int.from_bytes(out[at : at + 4], sys.byteorder)
    return address(s.fam, int.from_bytes(out, "big"))


def _jhash2(words: list[int], seed: int) -> int:
    """Return Jenkins' hash of four 32-bit words (include/linux/jhash.h)."""
    mask = 0xFFFFFFFF

    def rol(value: int, by: int) -> int:
        return (value << by | value >> 32 - by) & mask

    a = b = c = 0xDEADBEEF + (len(words) << 2) + seed & mask
    a, b, c = a + words[0] & mask, b + words[1] & mask, c + words[2] & mask
    a = (a - c & mask) ^ rol(c, 4)
    c = c + b & mask
    b = (b - a & mask) ^ rol(a, 6)
    a = a + c & mask
    c = (c - b & mask) ^ rol(b, 8)
    b = b + a & mask
    a = (a - c & mask) ^ rol(c, 16)
    c = c + b & mask
    b = (b - a & mask) ^ rol(a, 19)
    a = a + c & mask
    c = (c - b & mask) ^ rol(b, 4)
    b = b + a & mask
    a = a + words[3] & mask
    for one, two, by in ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)):
        state = [a, b, c]
        state[one] = (state[one] ^ state[two]) - rol(state[two], by) & mask
        a, b, c = state
    return c


def _choose_port(expr: Nat, wish: _Wish, old: int | None, source: bool) -> tuple[int | None, bool]:
    """Return the new port, and whether the kernel chooses it in a way that cannot be foreseen."""
    random = expr.random or expr.fully_random
    low, high = wish.port, wish.port_high
    if low is None or high is None:
        return old, random and source
    if low == high:
        return low, False
    if expr.port_base is not None and old is not None:
        return low + (old - expr.port_base & 0xFFFF) % (high - low + 1), False
    if not random and old is not None and low <= old <= high:
        return old, False
    return low, random or source


# --- applying -------------------------------------------------------------------------------------------------------


def wanted(s: Skb) -> bool:
    """Tell whether nat chains are asked: only for an entry whose manipulation of this hook is still open."""
    if not s.ct or s.trk.state == CtState.ESTABLISHED or (s.trk.state == CtState.RELATED and _is_icmp_error(s)):
        return False
    return ("dst" if s.hook in _DST_HOOKS else "src") not in s.trk.nat_done


def _is_icmp_error(s: Skb) -> bool:
    return s.proto in (1, 58) and s.trk.state == CtState.RELATED


def finish(s: Skb) -> None:
    """Close the manipulation of this hook, as the null binding does, and rewrite the packet (nf_nat_packet)."""
    if not s.ct:
        return
    source = s.hook not in _DST_HOOKS
    trk = s.trk
    if _is_icmp_error(s):
        _translate_error(s, source)
        return
    done = "src" if source else "dst"
    if trk.state in (CtState.NEW, CtState.RELATED) and done not in trk.nat_done:
        trk = s.trk = msgspec.structs.replace(trk, nat_done=(*trk.nat_done, done))
    if not _applies(s, source) or trk.orig is None or trk.reply_tuple is None:
        return
    # The packet must look like the reverse of what the other direction sends.
    other = trk.orig if trk.reply else trk.reply_tuple
    if source:
        s.saddr = int(other.dst)
        if s.proto in _WITH_PORTS and other.dport is not None:
            s.sport = other.dport
    else:
        s.daddr = int(other.src)
        if s.proto in _WITH_PORTS and other.sport is not None:
            s.dport = other.sport
    if s.proto in (1, 58) and other.icmp_id is not None and s.icmp_id is not UNKNOWN:
        s.icmp_id = other.icmp_id


def _applies(s: Skb, source: bool) -> bool:
    """Tell whether the entry's status asks for this manipulation; a reply undoes the opposite one."""
    if s.trk.reply:
        source = not source
    return ("src_nat" if source else "dst_nat") in s.trk.status


def _translate_error(s: Skb, source: bool) -> None:
    """Rewrite an ICMP error and the packet it quotes (nf_nat_icmp_reply_translation)."""
    trk = s.trk
    if not _applies(s, source) or trk.orig is None or trk.reply_tuple is None:
        return
    other = trk.orig if trk.reply else trk.reply_tuple
    if s.quoted is not None:
        s.quoted = _quoted(s.quoted, other, source=not source)
    if source:
        s.saddr = int(other.dst)
    else:
        s.daddr = int(other.src)


def _quoted(packet: Packet, target: Tuple5, *, source: bool) -> Packet:
    changes: dict[str, Any] = {"src": target.src} if source else {"dst": target.dst}
    if packet.proto in _WITH_PORTS:
        if source and target.sport is not None:
            changes["sport"] = target.sport
        elif not source and target.dport is not None:
            changes["dport"] = target.dport
    elif target.icmp_id is not None:
        changes["icmp_id"] = target.icmp_id
    return msgspec.structs.replace(packet, **changes)
