"""Matches of iptables and ip6tables, compiled to expressions.

Source of what is modelled: iptables-extensions(8), and net/netfilter/xt_*.c, net/ipv4/netfilter/ipt_*.c,
net/ipv6/netfilter/ip6t_*.c of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from nettrace.netfilter.names import DSCP_CLASSES, ICMP4_TYPES, ICMP6_TYPES, TOS_NAMES
from nettrace.netfilter.ruleset import (
    CT_STATE,
    CT_STATUS,
    AllOf,
    AnyOf,
    BitTest,
    Compare,
    Concat,
    Const,
    Ct,
    Expr,
    Fib,
    In,
    IpSetMatch,
    Item,
    Masked,
    Match,
    Meta,
    Never,
    Noop,
    Operand,
    Payload,
    Range,
    Rpfilter,
    Sock,
    UnknownMatch,
    Wildcard,
    XtConntrack,
)
from nettrace.netfilter.xt_values import (
    addresses,
    interface,
    masked,
    number,
    ports,
    prefix,
    protocol,
    span,
)

__all__ = ["MODULES", "Module", "Option", "header", "option_table"]


class Option(NamedTuple):
    """One option as it was given: its canonical name, whether a `!` stood before it, its arguments."""

    name: str
    negated: bool
    args: tuple[str, ...]

    @property
    def arg(self) -> str:
        """The first argument."""
        return self.args[0]


Build: TypeAlias = Callable[[tuple[Option, ...], int, str], Iterable[Expr]]


@dataclass(frozen=True, slots=True)
class Module:
    """A match extension: its options (spelling → canonical name and number of arguments), and what they mean.

    `build` takes the options in order, the address family (4 or 6), and the text of the match as it was given.
    """

    options: dict[str, tuple[str, int]]
    build: Build


def option_table(spec: str) -> dict[str, tuple[str, int]]:
    """Read a table of options: words like "--dport|--destination-port:1"."""
    table: dict[str, tuple[str, int]] = {}
    for word in spec.split():
        names, _, count = word.partition(":")
        spellings = names.split("|")
        for spelling in spellings:
            table[spelling] = (spellings[0], int(count or 0))
    return table


# --- the header match ----------------------------------------------------------------------------------------------

_SADDR = {4: Payload(protocol="ip", field="saddr"), 6: Payload(protocol="ip6", field="saddr")}
_DADDR = {4: Payload(protocol="ip", field="daddr"), 6: Payload(protocol="ip6", field="daddr")}
_IIF, _OIF = Meta(key="iifname"), Meta(key="oifname")
_L4PROTO = Meta(key="l4proto")


def header(option: Option, family: int) -> Iterable[Expr]:
    """Return the expressions of -s, -d, -i, -o, -p and -f."""
    name, negated = option.name, option.negated
    if name in ("-s", "-d"):
        items = [prefix(each, family) for each in option.arg.split(",")]
        operand = (_SADDR if name == "-s" else _DADDR)[family]
        return _in(operand, items, negated)
    if name in ("-i", "-o"):
        return _in(_IIF if name == "-i" else _OIF, [interface(option.arg)], negated)
    if name == "-p":
        value = protocol(option.arg)
        return _in(_L4PROTO, [None if value == 0 else value], negated)
    # A whole packet is never a later fragment.
    return () if negated else (Never(text="-f"),)


def _in(operand: Operand, items: Iterable[Item | None], negated: bool) -> Iterable[Expr]:
    """Return the match of an operand against items, of which None is anything at all."""
    given = tuple(items)
    if None in given:
        return (Never(text="! anything"),) if negated else ()
    return (In(left=operand, items=tuple(each for each in given if each is not None), negate=negated),)


# --- ports and transport headers -----------------------------------------------------------------------------------

_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}


def _flags(text: str) -> int:
    bits = 0
    for name in text.split(","):
        bits |= _FLAGS[name.upper()] if not name[:1].isdigit() else number(name)
    return bits


def _transport(proto: str) -> Build:
    def build(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
        for each in options:
            if each.name in ("--sport", "--dport"):
                operand = Payload(protocol=proto, field=each.name[2:])
                yield In(left=operand, items=(ports(each.arg),), negate=each.negated)
            elif each.name == "--tcp-flags":
                mask, wanted = _flags(each.args[0]), _flags(each.args[1])
                yield _tcp_flags(mask, wanted, each.negated)
            elif each.name == "--syn":
                yield _tcp_flags(_flags("SYN,RST,ACK,FIN"), _flags("SYN"), each.negated)
            else:
                yield UnknownMatch(text=text, reason=f"{proto} options of the packet are not known", stateful=False)

    return build


def _tcp_flags(mask: int, wanted: int, negated: bool) -> Match:
    return In(left=Payload(protocol="tcp", field="flags"), items=(Masked(value=wanted, mask=mask),), negate=negated)


def _icmp(options: tuple[Option, ...], family: int, _text: str) -> Iterable[Expr]:
    proto, names = ("icmp", ICMP4_TYPES) if family == 4 else ("icmpv6", ICMP6_TYPES)
    kind = Payload(protocol=proto, field="type")
    for each in options:
        number_text, slash, code_text = each.arg.partition("/")
        if each.arg in names:
            wanted, codes = names[each.arg]
        elif number_text.isdigit():
            wanted = int(number_text)
            codes = (int(code_text), int(code_text)) if slash else None
        else:
            raise ValueError(f"{each.arg} is no ICMP type known here")
        if (wanted == 255 and family == 4) or each.arg == "any":
            if each.negated:
                yield Never(text="! any ICMP type")
        elif codes is None or codes == (0, 255):
            yield In(left=kind, items=(wanted,), negate=each.negated)
        else:
            both = Concat(parts=(kind, Payload(protocol=proto, field="code")))
            yield In(left=both, items=((wanted, Range(low=codes[0], high=codes[1])),), negate=each.negated)


def _multiport(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    sport, dport = Payload(protocol="th", field="sport"), Payload(protocol="th", field="dport")
    for each in options:
        items = tuple(ports(word) for word in each.arg.split(","))
        if each.name == "--ports":
            yield AnyOf(matches=(In(left=sport, items=items), In(left=dport, items=items)), negate=each.negated)
        else:
            yield In(left=sport if each.name == "--sports" else dport, items=items, negate=each.negated)


# --- conntrack -----------------------------------------------------------------------------------------------------

_STATUS = {"NONE": 0, "EXPECTED": CT_STATUS["expected"], "SEEN_REPLY": CT_STATUS["seen_reply"]}
_STATUS |= {"ASSURED": CT_STATUS["assured"], "CONFIRMED": CT_STATUS["confirmed"]}

_TUPLES = {
    "--ctorigsrc": ("saddr", "original"),
    "--ctorigdst": ("daddr", "original"),
    "--ctreplsrc": ("saddr", "reply"),
    "--ctrepldst": ("daddr", "reply"),
    "--ctorigsrcport": ("proto-src", "original"),
    "--ctorigdstport": ("proto-dst", "original"),
    "--ctreplsrcport": ("proto-src", "reply"),
    "--ctrepldstport": ("proto-dst", "reply"),
}


def _bits(text: str, names: dict[str, int]) -> int:
    bits = 0
    for word in text.split(","):
        if word.upper() not in names:
            raise ValueError(f"{word} is no conntrack state or status known here")
        bits |= names[word.upper()]
    return bits


_STATES = {name.upper(): bit for name, bit in CT_STATE.items()}


def _conntrack(options: tuple[Option, ...], family: int, text: str) -> Iterable[Expr]:
    state: int | None = None
    negate = False
    rest: list[Match] = []
    for each in options:
        if each.name in ("--ctstate", "--state"):
            state, negate = _bits(each.arg, _STATES), each.negated
        elif each.name == "--ctproto":
            rest.append(In(left=Ct(key="protocol"), items=(protocol(each.arg),), negate=each.negated))
        elif each.name == "--ctstatus":
            rest.append(BitTest(left=Ct(key="status"), mask=_bits(each.arg, _STATUS), negate=each.negated))
        elif each.name == "--ctdir":
            wanted = 0 if each.arg.upper() == "ORIGINAL" else 1
            rest.append(In(left=Ct(key="direction"), items=(wanted,), negate=each.negated))
        elif each.name in _TUPLES:
            key, direction = _TUPLES[each.name]
            item = ports(each.arg) if key.startswith("proto") else prefix(each.arg, family)
            if item is not None:
                rest.append(In(left=Ct(key=key, direction=direction), items=(item,), negate=each.negated))
            elif each.negated:
                rest.append(Never(text=f"! {each.name} {each.arg}"))
        else:
            rest.append(UnknownMatch(text=text, reason="the remaining life of the entry is not known"))
    yield XtConntrack(state=state, negate=negate, rest=tuple(rest))


def _connmark(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        yield In(left=Ct(key="mark"), items=(masked(each.arg),), negate=each.negated)


def _helper(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        item: Item = Wildcard(prefix="") if each.arg in ("", "any") else each.arg
        yield In(left=Ct(key="helper"), items=(item,), negate=each.negated, absent=each.negated)


# --- packet and route facts ----------------------------------------------------------------------------------------


def _mark(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        yield In(left=Meta(key="mark"), items=(masked(each.arg),), negate=each.negated)


def _addrtype(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    limits = {"--limit-iface-in": "iif", "--limit-iface-out": "oif"}
    extra = tuple(limits[each.name] for each in options if each.name in limits)
    for each in options:
        if each.name in ("--src-type", "--dst-type"):
            side = "saddr" if each.name == "--src-type" else "daddr"
            kinds = tuple(word.lower() for word in each.arg.split(","))
            yield In(left=Fib(result="type", flags=(side, *extra)), items=kinds, negate=each.negated)


def _set(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    unsure = None
    for each in options:
        if each.name in ("--packets-eq", "--packets-lt", "--packets-gt", "--bytes-eq", "--bytes-lt", "--bytes-gt"):
            unsure = "the counters of the set's entries decide"
        if each.name == "--return-nomatch":
            unsure = "--return-nomatch is not modelled"
    for each in options:
        if each.name == "--match-set":
            dims = tuple(each.args[1].split(","))
            yield IpSetMatch(name=each.args[0], dims=dims, negate=each.negated, unsure=unsure)


def _mac(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    from nettrace.netfilter.skb import mac_number

    for each in options:
        yield In(left=Payload(protocol="ether", field="saddr"), items=(mac_number(each.arg),), negate=each.negated)


def _physdev(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        key = "physin" if each.name in ("--physdev-in", "--physdev-is-in") else "physout"
        item: Item = Wildcard(prefix="")
        if each.name in ("--physdev-in", "--physdev-out"):
            item = interface(each.arg) or item
        yield In(left=Meta(key=key), items=(item,), negate=each.negated, absent=each.negated)


def _iprange(options: tuple[Option, ...], family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        low, high = addresses(each.arg, family)
        operand = (_SADDR if each.name == "--src-range" else _DADDR)[family]
        yield In(left=operand, items=(Range(low=low, high=high),), negate=each.negated)


def _length(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        item = span(each.arg, top=0xFFFF)
        yield In(left=Payload(protocol="net", field="length"), items=(item,), negate=each.negated)


def _ttl(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    ttl = Payload(protocol="net", field="ttl")
    for each in options:
        value = Const(value=number(each.arg))
        how = each.name.rpartition("-")[2]
        if how in ("gt", "lt"):
            yield Compare(op=">" if how == "gt" else "<", left=ttl, right=value)
        else:
            yield In(left=ttl, items=(value.value,), negate=each.negated)


def _tos(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        value, slash, mask = each.arg.partition("/")
        wanted = TOS_NAMES[value] if value in TOS_NAMES else number(value)
        # A name stands for the four TOS bits alone (xt_tos: mask 0x3F).
        bits = number(mask) if slash else (0x3F if value in TOS_NAMES else 0xFF)
        item = Masked(value=wanted, mask=bits)
        yield In(left=Payload(protocol="net", field="tos"), items=(item,), negate=each.negated)


def _dscp(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        value = DSCP_CLASSES[each.arg] if each.name == "--dscp-class" else number(each.arg)
        yield In(left=Payload(protocol="net", field="dscp"), items=(value,), negate=each.negated)


def _ecn(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    flags = Payload(protocol="tcp", field="flags")
    for each in options:
        if each.name == "--ecn-ip-ect":
            yield In(left=Payload(protocol="net", field="ecn"), items=(number(each.arg),), negate=each.negated)
        else:
            bit = 0x80 if each.name == "--ecn-tcp-cwr" else 0x40
            yield BitTest(left=flags, mask=bit, negate=each.negated)


def _pkttype(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    names = {"unicast": "host", "host": "host", "us": "host", "otherhost": "other"}
    for each in options:
        yield In(left=Meta(key="pkttype"), items=(names.get(each.arg, each.arg),), negate=each.negated)


def _owner(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    for each in options:
        if each.name == "--socket-exists":
            yield In(
                left=Meta(key="skuid"),
                items=(Range(low=0, high=0xFFFFFFFF),),
                negate=each.negated,
                absent=each.negated,
            )
        elif each.name in ("--uid-owner", "--gid-owner"):
            if not each.arg.replace("-", "").isdigit():
                reason = f"{each.arg} is a name of the host's user database"
                yield UnknownMatch(text=text, reason=reason, stateful=False)
                continue
            operand = Meta(key="skuid" if each.name == "--uid-owner" else "skgid")
            item = span(each.arg, separator="-")
            yield In(left=operand, items=(item,), negate=each.negated, absent=each.negated)


def _devgroup(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        operand = Meta(key="iifgroup" if each.name == "--src-group" else "oifgroup")
        yield In(left=operand, items=(masked(each.arg),), negate=each.negated)


def _realm(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    for each in options:
        yield In(left=Meta(key="rtclassid"), items=(masked(each.arg),), negate=each.negated)


def _policy(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    wanted = next((each.arg for each in options if each.name == "--pol"), "ipsec")
    handled = In(left=Meta(key="secpath"), items=(0 if wanted == "none" else 1,))
    if all(each.name in ("--dir", "--pol") for each in options):
        yield handled
    else:
        reason = "the IPsec policy of the packet is not known"
        yield AllOf(matches=(handled, UnknownMatch(text=text, reason=reason, stateful=False)))


def _rpfilter(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    names = {each.name for each in options}
    yield Rpfilter(
        loose="--loose" in names,
        valid_mark="--validmark" in names,
        accept_local="--accept-local" in names,
        negate="--invert" in names,
    )


def _socket(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    names = {each.name for each in options}
    yield In(left=Sock(key="found"), items=(1,))
    if "--transparent" in names:
        yield In(left=Sock(key="transparent"), items=(1,))
    if "--nowildcard" not in names:
        yield In(left=Sock(key="wildcard"), items=(0,))


def _comment(options: tuple[Option, ...], _family: int, _text: str) -> Iterable[Expr]:
    return ()


def _extension_header(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    # The packets that are asked about carry no extension headers.
    yield Never(text=text)


def _opaque(reason: str, *, stateful: bool = False) -> Build:
    def build(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
        yield UnknownMatch(text=text, reason=reason, stateful=stateful)

    return build


def _nothing(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    yield Noop(text=text)


def _recent(options: tuple[Option, ...], _family: int, text: str) -> Iterable[Expr]:
    # --set always matches: it only notes the address (xt_recent.c, recent_mt).
    if any(each.name == "--set" and not each.negated for each in options):
        yield Noop(text=text)
    else:
        yield UnknownMatch(text=text, reason="it depends on the addresses seen before")


_RATE = "it depends on how many packets came before"

#: Every match extension by its name after -m.
MODULES: dict[str, Module] = {
    name: Module(option_table(spec), build)
    for names, spec, build in (
        (
            "tcp",
            "--sport|--source-port:1 --dport|--destination-port:1 --tcp-flags:2 --syn --tcp-option:1",
            _transport("tcp"),
        ),
        ("udp", "--sport|--source-port:1 --dport|--destination-port:1", _transport("udp")),
        ("udplite", "--sport|--source-port:1 --dport|--destination-port:1", _transport("udplite")),
        ("sctp", "--sport|--source-port:1 --dport|--destination-port:1 --chunk-types:2", _transport("sctp")),
        (
            "dccp",
            "--sport|--source-port:1 --dport|--destination-port:1 --dccp-types:1 --dccp-option:1",
            _transport("dccp"),
        ),
        ("icmp", "--icmp-type:1", _icmp),
        ("icmp6 icmpv6 ipv6-icmp", "--icmpv6-type|--icmp6-type:1", _icmp),
        ("multiport", "--sports|--source-ports:1 --dports|--destination-ports:1 --ports:1", _multiport),
        (
            "conntrack",
            "--ctstate:1 --ctproto:1 --ctorigsrc:1 --ctorigdst:1 --ctreplsrc:1 --ctrepldst:1 --ctorigsrcport:1 "
            "--ctorigdstport:1 --ctreplsrcport:1 --ctrepldstport:1 --ctstatus:1 --ctexpire:1 --ctdir:1",
            _conntrack,
        ),
        ("state", "--state:1", _conntrack),
        ("addrtype", "--src-type:1 --dst-type:1 --limit-iface-in --limit-iface-out", _addrtype),
        ("mark", "--mark:1", _mark),
        ("connmark", "--mark:1", _connmark),
        (
            "set",
            "--match-set|--set:2 --return-nomatch --update-counters --update-subcounters --packets-eq:1 "
            "--packets-lt:1 --packets-gt:1 --bytes-eq:1 --bytes-lt:1 --bytes-gt:1",
            _set,
        ),
        ("mac", "--mac-source:1", _mac),
        (
            "physdev",
            "--physdev-in:1 --physdev-out:1 --physdev-is-in --physdev-is-out --physdev-is-bridged",
            _physdev,
        ),
        ("iprange", "--src-range:1 --dst-range:1", _iprange),
        ("length", "--length:1", _length),
        ("ttl", "--ttl-eq|--ttl:1 --ttl-gt:1 --ttl-lt:1", _ttl),
        ("hl", "--hl-eq|--hl:1 --hl-gt:1 --hl-lt:1", _ttl),
        ("tos", "--tos:1", _tos),
        ("dscp", "--dscp:1 --dscp-class:1", _dscp),
        ("ecn", "--ecn-tcp-cwr --ecn-tcp-ece --ecn-ip-ect:1", _ecn),
        ("pkttype", "--pkt-type:1", _pkttype),
        ("comment", "--comment:1", _comment),
        ("owner", "--uid-owner:1 --gid-owner:1 --socket-exists --suppl-groups", _owner),
        ("devgroup", "--src-group:1 --dst-group:1", _devgroup),
        ("realm", "--realm:1", _realm),
        (
            "policy",
            "--dir:1 --pol:1 --strict --reqid:1 --spi:1 --proto:1 --mode:1 --tunnel-src:1 --tunnel-dst:1 --next",
            _policy,
        ),
        ("rpfilter", "--loose --validmark --accept-local --invert", _rpfilter),
        ("socket", "--transparent --nowildcard --restore-skmark", _socket),
        ("helper", "--helper:1", _helper),
        ("limit", "--limit:1 --limit-burst:1", _opaque(_RATE, stateful=True)),
        (
            "hashlimit",
            "--hashlimit-upto|--hashlimit:1 --hashlimit-above:1 --hashlimit-burst:1 --hashlimit-mode:1 "
            "--hashlimit-srcmask:1 --hashlimit-dstmask:1 --hashlimit-name:1 --hashlimit-htable-size:1 "
            "--hashlimit-htable-max:1 --hashlimit-htable-expire:1 --hashlimit-htable-gcinterval:1 "
            "--hashlimit-rate-match --hashlimit-rate-interval:1",
            _opaque(_RATE, stateful=True),
        ),
        (
            "statistic",
            "--mode:1 --probability:1 --every:1 --packet:1",
            _opaque("it is decided by chance or by a counter", stateful=True),
        ),
        (
            "recent",
            "--name:1 --set --rsource --rdest --mask:1 --rcheck --update --remove --seconds:1 --reap --hitcount:1 "
            "--rttl",
            _recent,
        ),
        (
            "connlimit",
            "--connlimit-upto:1 --connlimit-above:1 --connlimit-mask:1 --connlimit-saddr --connlimit-daddr",
            _opaque("it depends on how many connections there are", stateful=True),
        ),
        (
            "connbytes",
            "--connbytes:1 --connbytes-dir:1 --connbytes-mode:1",
            _opaque("it depends on what the connection has carried", stateful=True),
        ),
        ("quota", "--quota:1", _opaque("it depends on how much of the quota is used", stateful=True)),
        ("rateest", "--rateest:1 --rateest1:1 --rateest2:1", _opaque(_RATE, stateful=True)),
        ("nfacct", "--nfacct-name:1", _nothing),
        (
            "time",
            "--timestart:1 --timestop:1 --datestart:1 --datestop:1 --monthdays:1 --weekdays:1 --contiguous --kerneltz "
            "--utc --localtz",
            _opaque("it depends on the time of day"),
        ),
        (
            "string",
            "--algo:1 --from:1 --to:1 --string:1 --hex-string:1 --icase",
            _opaque("the payload of the packet is not known"),
        ),
        ("u32", "--u32:1", _opaque("it tests raw bytes of the packet")),
        ("bpf", "--bytecode:1 --object-pinned:1", _opaque("it runs a BPF program")),
        ("cgroup", "--cgroup:1 --path:1", _opaque("the control group of the sender is not known")),
        ("cpu", "--cpu:1", _opaque("it depends on the CPU that handles the packet")),
        (
            "cluster",
            "--cluster-total-nodes:1 --cluster-local-node:1 --cluster-local-nodemask:1 --cluster-hash-seed:1",
            _opaque("it depends on a hash of the packet"),
        ),
        ("tcpmss", "--mss:1", _opaque("the TCP options of the packet are not known")),
        ("connlabel", "--label:1 --set", _opaque("conntrack labels are not known")),
        ("osf", "--genre:1 --ttl:1 --log:1", _opaque("the TCP options of the packet are not known")),
        ("ah", "--ahspi:1 --ahlen:1 --ahres", _opaque("the IPsec header of the packet is not known")),
        ("esp", "--espspi:1", _opaque("the IPsec header of the packet is not known")),
        ("ipcomp", "--ipcompspi:1 --compres", _opaque("the IPsec header of the packet is not known")),
        ("l2tp", "--tid:1 --sid:1 --pversion:1 --type:1", _opaque("the L2TP header of the packet is not known")),
        ("eui64", "", _opaque("the link-layer address behind the packet is not known")),
        (
            "frag",
            "--fragid:1 --fraglen:1 --fragres --fragfirst --fragmore --fraglast",
            _extension_header,
        ),
        ("rt", "--rt-type:1 --rt-segsleft:1 --rt-len:1 --rt-0-res --rt-0-addrs:1 --rt-0-not-strict", _extension_header),
        ("hbh", "--hbh-len:1 --hbh-opts:1", _extension_header),
        ("dst", "--dst-len:1 --dst-opts:1", _extension_header),
        ("mh", "--mh-type:1", _extension_header),
        ("srh", "", _extension_header),
        ("ipv6header", "--header:1 --soft", _opaque("extension headers of the packet are not known")),
    )
    for name in names.split()
}
