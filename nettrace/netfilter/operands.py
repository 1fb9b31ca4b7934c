"""Operands turned into functions of a packet.

Each function returns a value, None when the operand is absent for this packet, or UNKNOWN. The sources are the
kernel's nft_meta.c, nft_payload.c, nft_ct.c, nft_fib*.c and nft_socket.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, TypeAlias

from nettrace.model.base import IPAddress
from nettrace.model.snapshot import Tuple5
from nettrace.netfilter.context import FibQuery
from nettrace.netfilter.items import Member, member_of, table_of
from nettrace.netfilter.ruleset import (
    Binary,
    Concat,
    Const,
    Ct,
    Fib,
    Item,
    MapLookup,
    Meta,
    OneOf,
    Operand,
    Payload,
    Sock,
    Table,
    UnknownOperand,
)
from nettrace.netfilter.skb import UNKNOWN, Skb, mac_number

__all__ = ["SURE", "Getter", "address_type", "getter", "why"]

Getter: TypeAlias = Callable[[Skb], Any]

_NFPROTO = {4: 2, 6: 10}
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_ARPHRD_ETHER = 1

#: Attributes of Skb that always have a value, by operand; these are compared without looking for UNKNOWN first.
SURE: dict[Operand, str] = {
    Meta(key="iifname"): "iif",
    Meta(key="iif"): "iif",
    Meta(key="oifname"): "oif",
    Meta(key="oif"): "oif",
    Meta(key="l4proto"): "proto",
    Meta(key="length"): "length",
    Payload(protocol="net", field="length"): "length",
    Payload(protocol="net", field="ttl"): "ttl",
    Payload(protocol="net", field="tos"): "tos",
}


def sure_attribute(operand: Operand, table: Table) -> str | None:
    """Return the attribute of Skb that an operand always equals in a table, or None."""
    if isinstance(operand, Payload) and operand.protocol == table.family and operand.field in ("saddr", "daddr"):
        return operand.field if table.family in ("ip", "ip6") else None
    return SURE.get(operand)


def getter(operand: Operand, table: Table) -> Getter:
    """Return the function that gives an operand's value; `table` gives named maps and the family."""
    attribute = sure_attribute(operand, table)
    if attribute is not None:
        return attrgetter(attribute)
    if isinstance(operand, Const):
        value = operand.value
        return lambda _s: value
    if isinstance(operand, Meta):
        return _META.get(operand.key, _unknown)
    if isinstance(operand, Payload):
        return _payload(operand.protocol, operand.field)
    if isinstance(operand, Ct):
        return _ct(operand)
    if isinstance(operand, Fib):
        return _fib(operand)
    if isinstance(operand, Sock):
        return _sock(operand.key)
    if isinstance(operand, Binary):
        return _binary(operand, table)
    if isinstance(operand, Concat):
        return _concat([getter(part, table) for part in operand.parts])
    if isinstance(operand, MapLookup):
        return _map(operand, table)
    return _unknown


def why(operand: Operand) -> str | None:
    """Return why an operand can be unknown, in words for people; None when it never is."""
    if isinstance(operand, (UnknownOperand, OneOf)):
        return operand.reason
    if isinstance(operand, Payload):
        return _WHY_PAYLOAD.get(operand.field, f"{operand.protocol} {operand.field} of the packet is not known")
    if isinstance(operand, Meta):
        return _WHY_META.get(operand.key, f"meta {operand.key} is not known")
    if isinstance(operand, Fib):
        return "it needs a route lookup, and the routes are not known here"
    if isinstance(operand, Sock):
        return "the local socket of the packet is not known"
    if isinstance(operand, Ct):
        return f"ct {operand.key} is not known"
    if isinstance(operand, Binary):
        return why(operand.left) or why(operand.right)
    if isinstance(operand, Concat):
        return next((each for part in operand.parts if (each := why(part))), None)
    if isinstance(operand, MapLookup):
        return why(operand.key) or "the contents of the map may have changed since"
    return None


_WHY_PAYLOAD = {
    "sport": "the source port of the packet is not given",
    "dport": "the destination port of the packet is not given",
    "flags": "the TCP flags of the packet are not given",
    "saddr": "the source address is not known",
}
_WHY_META = {
    "mark": "the mark was set from something unknown",
    "skuid": "the user who sends is not given",
    "skgid": "the group that sends is not given",
    "iifgroup": "the group of the input interface is not given",
    "oifgroup": "the group of the output interface is not given",
    "secpath": "whether IPsec handles the packet is not known",
    "pkttype": "the link-layer packet type is not given",
}


def _unknown(_s: Skb) -> Any:
    return UNKNOWN


# --- meta -----------------------------------------------------------------------------------------------------------


def _pkttype(s: Skb) -> Any:
    kind = s.ctx.pkttype
    if kind is not None:
        return "host" if kind == "unicast" else kind
    if s.daddr >> 28 == 0xE if s.fam == 4 else s.daddr >> 120 == 0xFF:
        return "multicast"
    if s.fam == 4 and s.daddr == 0xFFFFFFFF:
        return "broadcast"
    # A packet sent to a unicast address is PACKET_HOST on its way; a directed broadcast cannot be told without routes.
    found = address_type(s, s.dst_ip(), None)
    if found is UNKNOWN:
        return UNKNOWN
    return "broadcast" if found == "broadcast" else "host"


def _owner(field: str) -> Getter:
    def get(s: Skb) -> Any:
        # Only packets that a local socket sends carry one where nft and xt_owner look (skb->sk); ip_rcv orphans others.
        if s.iif:
            return None
        value = getattr(s.packet, field)
        return UNKNOWN if value is None else value

    return get


def _group(which: str) -> Getter:
    def get(s: Skb) -> Any:
        name, value = (s.iif, s.ctx.iif_group) if which == "iif" else (s.oif, s.ctx.oif_group)
        if value is not None:
            return value
        return UNKNOWN if name else None

    return get


def _fact(name: str, *, none: Any = UNKNOWN) -> Getter:
    def get(s: Skb) -> Any:
        value = getattr(s.ctx, name)
        return none if value is None else value

    return get


def _secpath(s: Skb) -> Any:
    return UNKNOWN if s.ctx.ipsec is None else int(s.ctx.ipsec)


def _bridge_mac(s: Skb) -> Any:
    return UNKNOWN if s.ctx.bridge_mac is None else mac_number(s.ctx.bridge_mac)


#: Functions of the meta keys that have a value; every other key is unknown.
_META: dict[str, Getter] = {
    "mark": attrgetter("mark"),
    "nfproto": lambda s: _NFPROTO[s.fam],
    "protocol": lambda s: _ETHERTYPE[s.fam],
    "pkttype": _pkttype,
    "skuid": _owner("uid"),
    "skgid": _owner("gid"),
    "iifgroup": _group("iif"),
    "oifgroup": _group("oif"),
    "ibrname": _fact("bridge"),
    "obrname": _fact("bridge"),
    "ibrhwaddr": _bridge_mac,
    "physin": lambda s: s.ctx.physin,
    "physout": lambda s: s.ctx.physout,
    "rtclassid": _fact("realm"),
    "secpath": _secpath,
    "ipsec": _secpath,
}


# --- payload --------------------------------------------------------------------------------------------------------

_PORT_PROTOCOLS = {"tcp": (6,), "udp": (17,), "dccp": (33,), "sctp": (132,), "udplite": (136,)}
_WITH_PORTS = (6, 17, 33, 132, 136)


def _payload(protocol: str, field: str) -> Getter:
    if protocol in ("ip", "ip6"):
        found = (_IP if protocol == "ip" else _IP6).get(field)
        fam = 4 if protocol == "ip" else 6
        if found is None:
            return lambda s: UNKNOWN if s.fam == fam else None
        known = found
        return lambda s: known(s) if s.fam == fam else None
    if protocol == "net":
        return _NET.get(field, _unknown)
    if protocol == "th" or protocol in _PORT_PROTOCOLS:
        return _transport(protocol, field)
    if protocol in ("icmp", "icmpv6"):
        proto = 1 if protocol == "icmp" else 58
        attribute = {"type": "icmp_type", "code": "icmp_code", "id": "icmp_id"}.get(field)
        if attribute is None:
            return lambda s: UNKNOWN if s.proto == proto else None
        get = attrgetter(attribute)
        return lambda s: get(s) if s.proto == proto else None
    if protocol == "ether":
        return _ETHER.get(field, _unknown)
    if protocol == "arp":
        return lambda _s: None
    return _unknown


def _transport(protocol: str, field: str) -> Getter:
    protos = _PORT_PROTOCOLS.get(protocol, _WITH_PORTS)
    if field in ("sport", "dport"):
        get = attrgetter(field)
        if len(protos) == 1:
            only = protos[0]
            return lambda s: get(s) if s.proto == only else None
        return lambda s: get(s) if s.proto in protos else None
    if field == "flags" and protocol == "tcp":
        return lambda s: s.tcp_flags if s.proto == 6 else None
    if field == "length" and protocol in ("udp", "udplite"):
        return lambda s: s.length - (20 if s.fam == 4 else 40) if s.proto in protos else None
    return lambda s: UNKNOWN if s.proto in protos else None


_IP: dict[str, Getter] = {
    "saddr": attrgetter("saddr"),
    "daddr": attrgetter("daddr"),
    "protocol": attrgetter("proto"),
    "ttl": attrgetter("ttl"),
    "length": attrgetter("length"),
    "tos": attrgetter("tos"),
    "dscp": lambda s: s.tos >> 2,
    "ecn": lambda s: s.tos & 3,
    "version": lambda _s: 4,
    "hdrlength": lambda _s: 5,
    "frag-off": lambda s: 0x4000 if s.packet.df else 0,
}
_IP6: dict[str, Getter] = {
    "saddr": attrgetter("saddr"),
    "daddr": attrgetter("daddr"),
    "nexthdr": attrgetter("proto"),
    "hoplimit": attrgetter("ttl"),
    "length": lambda s: s.length - 40,
    "dscp": lambda s: s.tos >> 2,
    "ecn": lambda s: s.tos & 3,
    "version": lambda _s: 6,
}
_NET: dict[str, Getter] = {
    "saddr": attrgetter("saddr"),
    "daddr": attrgetter("daddr"),
    "length": attrgetter("length"),
    "ttl": attrgetter("ttl"),
    "tos": attrgetter("tos"),
    "dscp": lambda s: s.tos >> 2,
    "ecn": lambda s: s.tos & 3,
}


def _mac(field: str) -> Getter:
    def get(s: Skb) -> Any:
        text = getattr(s.packet, field)
        if text is None:
            # A packet that starts here has no link-layer header yet; one that came in has one we were not told.
            return UNKNOWN if s.iif or s.ctx.physin else None
        try:
            return mac_number(text)
        except ValueError:
            return UNKNOWN

    return get


_ETHER: dict[str, Getter] = {
    "saddr": _mac("src_mac"),
    "daddr": _mac("dst_mac"),
    "type": lambda s: _ETHERTYPE[s.fam],
}


# --- ct -------------------------------------------------------------------------------------------------------------


def _xtstate(s: Skb) -> int:
    bits = s.ct_bits
    if s.ct:
        status = s.trk.status
        if "src_nat" in status:
            bits |= 128
        if "dst_nat" in status:
            bits |= 256
    return bits


def _ct(operand: Ct) -> Getter:
    key = operand.key
    if key == "state":
        return attrgetter("ct_bits")
    if key == "xtstate":
        return _xtstate
    plain = _CT_PLAIN.get(key)
    if plain is not None:
        return lambda s: plain(s) if s.ct else None
    part = _CT_TUPLE.get(key)
    if part is None:
        return lambda s: UNKNOWN if s.ct else None
    reply = operand.direction == "reply"
    only = {"ip": 4, "ip6": 6}.get(operand.family or "")

    def get(s: Skb) -> Any:
        if not s.ct or (only is not None and s.fam != only):
            return None
        one = s.trk.reply_tuple if reply else s.trk.orig
        return UNKNOWN if one is None else part(one)

    return get


def _protocol_of_entry(s: Skb) -> Any:
    return s.trk.orig.proto if s.trk.orig is not None else s.proto


_CT_PLAIN: dict[str, Getter] = {
    "status": lambda s: s.ct_status(),
    "direction": lambda s: int(s.trk.reply),
    "mark": lambda s: s.trk.mark,
    "zone": lambda s: s.trk.zone,
    "helper": lambda s: s.trk.helper,
    "protocol": _protocol_of_entry,
    "l3proto": lambda s: _NFPROTO[s.fam],
}


def _source_port(one: Tuple5) -> Any:
    return one.icmp_id if one.proto in (1, 58) else one.sport if one.sport is not None else UNKNOWN


def _destination_port(one: Tuple5) -> Any:
    if one.proto in (1, 58):
        return UNKNOWN if one.icmp_type is None else one.icmp_type << 8 | (one.icmp_code or 0)
    return one.dport if one.dport is not None else UNKNOWN


_CT_TUPLE: dict[str, Callable[[Tuple5], Any]] = {
    "saddr": lambda one: int(one.src),
    "daddr": lambda one: int(one.dst),
    "proto-src": _source_port,
    "proto-dst": _destination_port,
}


# --- fib and socket -------------------------------------------------------------------------------------------------


def address_type(s: Skb, address: IPAddress, dev: str | None) -> Any:
    """Return the type of an address in lower case (inet_dev_addr_type), or UNKNOWN."""
    if address.version == 4:
        if address.is_multicast:
            return "multicast"
        number = int(address)
        if number == 0xFFFFFFFF or number >> 24 == 0:
            return "broadcast"
    ctx = s.ctx
    if ctx.address_type is not None:
        found = ctx.address_type(address, dev)
        return UNKNOWN if found is None else found.lower()
    if address.version == 6 and address.is_multicast:
        return "multicast"
    if ctx.is_local is not None and ctx.is_local(address, dev):
        return "local"
    # "Not local" leaves unicast and directed broadcast open; only a table of routes can tell them apart.
    return UNKNOWN


def _fib(operand: Fib) -> Getter:
    flags = frozenset(operand.flags)
    of_source = "saddr" in flags
    if operand.result == "type":

        def kind(s: Skb) -> Any:
            dev = s.iif if "iif" in flags else s.oif if "oif" in flags else None
            return address_type(s, s.src_ip() if of_source else s.dst_ip(), dev or None)

        return kind
    if operand.result in ("oif", "oifname"):
        return lambda s: _fib_device(s, flags)
    if operand.result == "present":

        def present(s: Skb) -> Any:
            found = _fib_device(s, flags)
            return UNKNOWN if found is UNKNOWN else int(found != "")

        return present
    return _unknown


def _fib_device(s: Skb, flags: frozenset[str]) -> Any:
    if s.iif == "lo" and "iif" in flags:
        return "lo"
    if s.ctx.fib is None:
        return UNKNOWN
    dev = s.iif if "iif" in flags else s.oif if "oif" in flags else None
    towards, other = (s.src_ip(), s.dst_ip()) if "saddr" in flags else (s.dst_ip(), s.src_ip())
    if "mark" in flags and s.mark is UNKNOWN:
        return UNKNOWN
    mark = s.mark if "mark" in flags else 0
    both = "saddr" in flags and "daddr" in flags
    found = s.ctx.fib(FibQuery(dst=towards, src=other if both else None, dev=dev or None, mark=mark))
    return UNKNOWN if found is None else found


def _sock(key: str) -> Getter:
    def get(s: Skb) -> Any:
        found = s.ctx.socket(s.current_packet()) if s.ctx.socket is not None else None
        if found is None or found is True:
            return UNKNOWN
        if found is False:
            return None
        if key == "found":
            return 1
        value = {"transparent": int(found.transparent), "wildcard": int(found.wildcard), "mark": found.mark}.get(key)
        return UNKNOWN if value is None else value

    return get


# --- compounds ------------------------------------------------------------------------------------------------------


def _binary(operand: Binary, table: Table) -> Getter:
    left, right = getter(operand.left, table), getter(operand.right, table)
    apply = _OPERATORS.get(operand.op)
    if apply is None:
        return _unknown
    known = apply

    def get(s: Skb) -> Any:
        one, two = left(s), right(s)
        if one is None or two is None:
            return None
        if one is UNKNOWN or two is UNKNOWN:
            return UNKNOWN
        return known(one, two)

    return get


_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "&": lambda one, two: one & two,
    "|": lambda one, two: one | two,
    "^": lambda one, two: one ^ two,
    "<<": lambda one, two: one << two & 0xFFFFFFFF,
    ">>": lambda one, two: one >> two,
    "+": lambda one, two: one + two,
    "-": lambda one, two: max(one - two, 0),
}


def _concat(parts: list[Getter]) -> Getter:
    def get(s: Skb) -> Any:
        values = tuple([part(s) for part in parts])
        if None in values:
            return None
        return UNKNOWN if UNKNOWN in values else values

    return get


def _map(operand: MapLookup, table: Table) -> Getter:
    key = getter(operand.key, table)
    entries: Iterable[tuple[Item, Any]] = operand.entries
    complete = True
    if operand.name is not None:
        named = table.sets.get(operand.name)
        if named is None:
            return _unknown
        entries, complete = named.elements, named.complete
    lookup = table_of(tuple(entries))

    def get(s: Skb) -> Any:
        value = key(s)
        if value is None or value is UNKNOWN:
            return value
        found = lookup(value)
        return UNKNOWN if found is None and not complete else found

    return get


def membership(items: tuple[Item, ...]) -> Member:
    """Return the function that tells whether a value fits one of the items."""
    return member_of(items)
