"""Targets of iptables and ip6tables, compiled to statements.

Source of what is modelled: iptables-extensions(8), and the kernel's xt_*.c, ipt_*.c and ip6t_*.c targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from nettrace.netfilter.names import DSCP_CLASSES, TOS_NAMES
from nettrace.netfilter.ruleset import (
    Accept,
    Binary,
    Const,
    Ct,
    Drop,
    Expr,
    In,
    Masked,
    Meta,
    Nat,
    Noop,
    Notrack,
    Operand,
    Payload,
    Queue,
    Reject,
    Return,
    SetCt,
    SetMeta,
    SetPayload,
    SetUpdate,
    Stolen,
    Tproxy,
    UnknownOperand,
    UnknownStatement,
)
from nettrace.netfilter.xt_matches import Option, option_table
from nettrace.netfilter.xt_values import addresses, number, port

__all__ = ["TARGETS", "Target", "is_extension"]

Build: TypeAlias = Callable[[tuple[Option, ...], int, str], Iterable[Expr]]


@dataclass(frozen=True, slots=True)
class Target:
    """A target extension: its options, and what they mean; see Module for the arguments of `build`."""

    options: dict[str, tuple[str, int]]
    build: Build


def is_extension(name: str) -> bool:
    """Tell whether a name is that of a target extension of some kernel, known here or not."""
    return name in TARGETS or name in _OTHERS


#: Targets of other trees and older kernels: never a chain's name by accident.
_OTHERS = frozenset(
    {
        "ACCOUNT",
        "BALANCE",
        "CHAOS",
        "CLUSTERIP",
        "DELUDE",
        "DHCPMAC",
        "DNETMAP",
        "DNPT",
        "ECHO",
        "FLOWOFFLOAD",
        "FTOS",
        "HMARK",
        "IMQ",
        "IPMARK",
        "IPV4OPTSSTRIP",
        "LOGMARK",
        "MIRROR",
        "NATTYPE",
        "NETFLOW",
        "POOL",
        "PROTO",
        "RAWDNAT",
        "RAWSNAT",
        "ROUTE",
        "RTPENGINE",
        "MEDIAPROXY",
        "SAME",
        "SNPT",
        "STEAL",
        "SYSRQ",
        "TARPIT",
        "TCPLAG",
        "TEE",
        "WEBMON",
        "XOR",
        "ipt2socks",
    }
)

_MARK, _CTMARK = Meta(key="mark"), Ct(key="mark")


def _fixed(expr: type[Accept] | type[Drop] | type[Return]) -> Build:
    return lambda _options, _family, _text: (expr(),)


def _noop(_options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    yield Noop(text=text)


def _unknown(reason: str) -> Build:
    def build(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
        yield UnknownStatement(text=text, reason=reason)

    return build


def _named(options: tuple[Option, ...]) -> dict[str, str]:
    return {each.name: each.args[0] if each.args else "" for each in options}


def _reject(options: tuple[Option, ...], family: int, _text: str) -> Iterable[Expr]:
    default = "icmp-port-unreachable" if family == 4 else "icmp6-port-unreachable"
    kind = _named(options).get("--reject-with", default)
    yield Reject(kind=_REJECT_ALIASES.get(kind, kind) if family == 4 else _REJECT6_ALIASES.get(kind, kind))


_REJECT_ALIASES = {
    "net-unreach": "icmp-net-unreachable",
    "host-unreach": "icmp-host-unreachable",
    "proto-unreach": "icmp-proto-unreachable",
    "port-unreach": "icmp-port-unreachable",
    "net-prohib": "icmp-net-prohibited",
    "host-prohib": "icmp-host-prohibited",
    "admin-prohib": "icmp-admin-prohibited",
    "tcp-rst": "tcp-reset",
}
_REJECT6_ALIASES = {
    "no-route": "icmp6-no-route",
    "adm-prohibited": "icmp6-adm-prohibited",
    "addr-unreach": "icmp6-addr-unreachable",
    "port-unreach": "icmp6-port-unreachable",
    "policy-fail": "icmp6-policy-fail",
    "reject-route": "icmp6-reject-route",
}


# --- marks ----------------------------------------------------------------------------------------------------------


def _xor_mask(old: Operand, mask: int, value: Operand) -> Operand:
    kept = Binary(op="&", left=old, right=Const(value=~mask & 0xFFFFFFFF))
    return Binary(op="^", left=kept, right=value)


def _mark_value(old: Operand, option: Option) -> Operand | None:
    """Return the new mark that --set-xmark and its relatives give; None for another option."""
    text, slash, mask_text = option.arg.partition("/") if option.args else ("", "", "")
    if option.name not in ("--set-xmark", "--set-mark", "--and-mark", "--or-mark", "--xor-mark"):
        return None
    value = number(text)
    mask = number(mask_text) if slash else 0xFFFFFFFF
    if option.name == "--set-mark":
        # Bits of the value are set also where the mask has none.
        mask |= value
    elif option.name == "--and-mark":
        value, mask = 0, ~value & 0xFFFFFFFF
    elif option.name == "--or-mark":
        mask = value
    elif option.name == "--xor-mark":
        mask = 0
    if mask == 0xFFFFFFFF:
        return Const(value=value)
    return _xor_mask(old, mask, Const(value=value))


def _set_mark(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    for each in options:
        value = _mark_value(_MARK, each)
        yield SetMeta(key="mark", value=value) if value is not None else UnknownStatement(text=text)


def _connmark(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    named = _named(options)
    both = number(named["--mask"]) if "--mask" in named else 0xFFFFFFFF
    nf_mask = number(named["--nfmask"]) if "--nfmask" in named else both
    ct_mask = number(named["--ctmask"]) if "--ctmask" in named else both
    for each in options:
        if each.name == "--save-mark":
            saved = Binary(op="&", left=_MARK, right=Const(value=nf_mask))
            yield SetCt(key="mark", value=_xor_mask(_CTMARK, ct_mask, saved))
        elif each.name == "--restore-mark":
            restored = Binary(op="&", left=_CTMARK, right=Const(value=ct_mask))
            yield SetMeta(key="mark", value=_xor_mask(_MARK, nf_mask, restored))
        elif each.name in ("--mask", "--nfmask", "--ctmask"):
            continue
        else:
            value = _mark_value(_CTMARK, each)
            yield SetCt(key="mark", value=value) if value is not None else UnknownStatement(text=text)


def _hmark(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    yield SetMeta(key="mark", value=UnknownOperand(text=text, reason="HMARK hashes the packet"))


# --- address translation --------------------------------------------------------------------------------------------


def _flagged(nat: Nat, options: tuple[Option, ...]) -> Nat:
    names = {each.name for each in options}
    if not names & {"--random", "--random-fully", "--persistent"}:
        return nat
    return msgspec.structs.replace(
        nat,
        random="--random" in names,
        fully_random="--random-fully" in names,
        persistent="--persistent" in names,
    )


def _const(value: int | None) -> Const | None:
    return None if value is None else Const(value=value)


def _port_range(text: str) -> tuple[int | None, int | None, int | None]:
    """Return low, high and base of "port", "low-high" or "low-high/base"."""
    if not text:
        return None, None, None
    span, slash, base = text.partition("/")
    low, dash, high = span.partition("-")
    first = port(low)
    last = port(high) if dash else first
    if last < first:
        raise ValueError(f"{text} is no port range")
    return first, last, port(base) if slash else None


def _split_destination(text: str, family: int) -> tuple[str, str]:
    """Split "address:port", where an IPv6 address with a port stands in brackets."""
    if family == 6:
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            if rest.startswith("-["):
                second, _, rest = rest[2:].partition("]")
                host = f"{host}-{second}"
            return host, rest.removeprefix(":")
        return (text, "") if not text.startswith(":") or text.startswith("::") else ("", text[1:])
    host, _, ports = text.partition(":")
    return host, ports


def _nat(kind: str, option_name: str) -> Build:
    def build(options: tuple[Option, ...], family: int, text: str) -> Iterable[Expr]:
        wanted = _named(options).get(option_name)
        if wanted is None:
            yield UnknownStatement(text=text)
            return
        host, port_text = _split_destination(wanted, family)
        low, high = addresses(host, family) if host else (None, None)
        first, last, base = _port_range(port_text)
        nat = Nat(
            kind=kind,
            address=_const(low),
            address_max=_const(high) if high != low else None,
            port=_const(first),
            port_max=_const(last) if last != first else None,
            port_base=base,
        )
        yield _flagged(nat, options)

    return build


def _own_address(kind: str) -> Build:
    def build(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
        first, last, _base = _port_range(_named(options).get("--to-ports", ""))
        nat = Nat(kind=kind, port=_const(first), port_max=_const(last) if last != first else None)
        yield _flagged(nat, options)

    return build


def _netmap(options: tuple[Option, ...], family: int, _text: str) -> Iterable[Expr]:
    low, high = addresses(_named(options)["--to"], family)
    yield Nat(kind="netmap", address=_const(low), address_max=_const(high))


def _ct(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    told = False
    for each in options:
        if each.name == "--notrack":
            yield Notrack()
        elif each.name == "--helper":
            yield SetCt(key="helper", value=Const(value=each.arg))
        elif each.name in ("--zone", "--zone-orig", "--zone-reply") and each.arg.isdigit():
            yield SetCt(key="zone", value=Const(value=int(each.arg)))
        elif not told:
            told = True
            yield Noop(text=text)


# --- header fields and queues ---------------------------------------------------------------------------------------


def _ttl(field: str) -> Build:
    def build(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
        proto = "ip" if field == "ttl" else "ip6"
        own = Payload(protocol="net", field="ttl")
        for each in options:
            value: Operand = Const(value=number(each.arg))
            how = each.name.rpartition("-")[2]
            if how in ("inc", "dec"):
                value = Binary(op="+" if how == "inc" else "-", left=own, right=value)
            yield SetPayload(protocol=proto, field=field, value=value)

    return build


def _dscp(options: tuple[Option, ...], family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        value = DSCP_CLASSES[each.arg] if each.name == "--set-dscp-class" else number(each.arg)
        yield SetPayload(protocol="ip" if family == 4 else "ip6", field="dscp", value=Const(value=value))


def _tos(options: tuple[Option, ...], family: int, _text: str) -> Iterable[Expr]:
    own = Payload(protocol="net", field="tos")
    for each in options:
        text, slash, mask_text = each.arg.partition("/")
        value = TOS_NAMES[text] if text in TOS_NAMES else number(text)
        mask = number(mask_text) if slash else (0x3F if text in TOS_NAMES else 0xFF)
        if each.name == "--and-tos":
            value, mask = 0, ~value & 0xFF
        elif each.name == "--or-tos":
            mask = value
        elif each.name == "--xor-tos":
            mask = 0
        kept = Binary(op="&", left=own, right=Const(value=~mask & 0xFF))
        new = Binary(op="^", left=kept, right=Const(value=value))
        yield SetPayload(protocol="ip" if family == 4 else "ip6", field="tos", value=new)


def _nfqueue(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    yield Queue(text=text, bypass=any(each.name == "--queue-bypass" for each in options))


def _queue(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    yield Stolen(text=text)


def _tproxy(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    value, slash, mask = _named(options).get("--tproxy-mark", "0/0").partition("/")
    yield Tproxy(text=text, mark=number(value), mask=number(mask) if slash else 0xFFFFFFFF)


def _synproxy(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    # Only the packets of the handshake are taken: SYN, and the ACK that answers the proxy's own SYN,ACK.
    flags = Payload(protocol="tcp", field="flags")
    taken = (Masked(value=0x02, mask=0x17), Masked(value=0x10, mask=0x17))
    yield In(left=flags, items=taken)
    yield Stolen(text=text)


def _set(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    for each in options:
        if each.name in ("--add-set", "--del-set", "--map-set"):
            yield SetUpdate(name=each.arg, op=each.name[2:5])
    if any(each.name == "--map-mark" for each in options):
        reason = "the mark comes from the entry of an ipset"
        yield SetMeta(key="mark", value=UnknownOperand(text=text, reason=reason))


_NAT_FLAGS = "--random --random-fully --persistent"

#: Every target extension by its name after -j.
TARGETS: dict[str, Target] = {
    name: Target(option_table(spec), build)
    for name, spec, build in (
        ("ACCEPT", "", _fixed(Accept)),
        ("DROP", "", _fixed(Drop)),
        ("RETURN", "", _fixed(Return)),
        ("REJECT", "--reject-with:1", _reject),
        ("QUEUE", "", _queue),
        ("NFQUEUE", "--queue-num:1 --queue-balance:1 --queue-bypass --queue-cpu-fanout", _nfqueue),
        (
            "LOG",
            "--log-level:1 --log-prefix:1 --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid "
            "--log-macdecode",
            _noop,
        ),
        (
            "NFLOG",
            "--nflog-group:1 --nflog-prefix:1 --nflog-range:1 --nflog-size:1 --nflog-threshold:1",
            _noop,
        ),
        ("ULOG", "--ulog-nlgroup:1 --ulog-prefix:1 --ulog-cprange:1 --ulog-qthreshold:1", _noop),
        ("TRACE", "", _noop),
        ("MARK", "--set-xmark:1 --set-mark:1 --and-mark:1 --or-mark:1 --xor-mark:1", _set_mark),
        (
            "CONNMARK",
            "--set-xmark:1 --set-mark:1 --and-mark:1 --or-mark:1 --xor-mark:1 --save-mark --restore-mark --mask:1 "
            "--nfmask:1 --ctmask:1",
            _connmark,
        ),
        ("DNAT", f"--to-destination:1 {_NAT_FLAGS}", _nat("dnat", "--to-destination")),
        ("SNAT", f"--to-source:1 {_NAT_FLAGS}", _nat("snat", "--to-source")),
        ("MASQUERADE", f"--to-ports:1 {_NAT_FLAGS}", _own_address("masquerade")),
        ("REDIRECT", f"--to-ports:1 {_NAT_FLAGS}", _own_address("redirect")),
        ("NETMAP", "--to:1", _netmap),
        (
            "CT",
            "--notrack --helper:1 --ctevents:1 --expevents:1 --zone:1 --zone-orig:1 --zone-reply:1 --timeout:1",
            _ct,
        ),
        ("NOTRACK", "", lambda _options, _family, _text: (Notrack(),)),
        ("TCPMSS", "--set-mss:1 --clamp-mss-to-pmtu", _noop),
        ("TCPOPTSTRIP", "--strip-options:1", _noop),
        ("TPROXY", "--on-port:1 --on-ip:1 --tproxy-mark:1", _tproxy),
        ("TTL", "--ttl-set:1 --ttl-inc:1 --ttl-dec:1", _ttl("ttl")),
        ("HL", "--hl-set:1 --hl-inc:1 --hl-dec:1", _ttl("hoplimit")),
        ("DSCP", "--set-dscp:1 --set-dscp-class:1", _dscp),
        ("TOS", "--set-tos:1 --and-tos:1 --or-tos:1 --xor-tos:1", _tos),
        ("ECN", "--ecn-tcp-remove --ecn-ip-ect:1 --ecn-tcp-cwr:1 --ecn-tcp-ece:1", _noop),
        ("CLASSIFY", "--set-class:1", _noop),
        (
            "SET",
            "--add-set:2 --del-set:2 --map-set:2 --exist --timeout:1 --map-mark --map-prio --map-queue",
            _set,
        ),
        ("TEE", "--gateway:1 --oif:1", _noop),
        ("CHECKSUM", "--checksum-fill", _noop),
        ("AUDIT", "--type:1", _noop),
        ("SYNPROXY", "--mss:1 --wscale:1 --sack-perm --timestamp --ecn", _synproxy),
        ("IDLETIMER", "--timeout:1 --label:1 --alarm --send_nl_msg:1", _noop),
        ("RATEEST", "--rateest-name:1 --rateest-interval:1 --rateest-ewmalog:1", _noop),
        ("LED", "--led-trigger-id:1 --led-delay:1 --led-always-blink", _noop),
        ("SECMARK", "--selctx:1", _noop),
        ("CONNSECMARK", "--save --restore", _noop),
        (
            "HMARK",
            "--hmark-tuple:1 --hmark-mod:1 --hmark-offset:1 --hmark-rnd:1 --hmark-src-prefix:1 --hmark-dst-prefix:1 "
            "--hmark-sport-mask:1 --hmark-dport-mask:1 --hmark-spi-mask:1 --hmark-proto-mask:1",
            _hmark,
        ),
        ("SNPT", "--src-pfx:1 --dst-pfx:1", _unknown("stateless prefix translation is not modelled")),
        ("DNPT", "--src-pfx:1 --dst-pfx:1", _unknown("stateless prefix translation is not modelled")),
        (
            "CLUSTERIP",
            "--new --hashmode:1 --clustermac:1 --total-nodes:1 --local-node:1 --hash-init:1",
            _unknown("whether this node answers for the cluster address is not modelled"),
        ),
    )
}
