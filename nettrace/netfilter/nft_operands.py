"""Expressions of libnftables-json(5) turned into operands, and what the kernel checks before it reads them.

nft leaves a dependency out of its listing where the expression itself implies it ("tcp dport 80" stands for
"meta l4proto tcp" as well); `guards_of` puts it back where the operand does not already say so by being absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from nettrace.netfilter.nft_render import render_expression
from nettrace.netfilter.nft_types import type_of
from nettrace.netfilter.nft_values import NoValue, scalar_of
from nettrace.netfilter.ruleset import (
    Binary,
    Concat,
    Const,
    Ct,
    Fib,
    In,
    Match,
    Meta,
    Operand,
    Payload,
    Sock,
    UnknownOperand,
)

__all__ = ["guards_of", "is_random", "kinds_of", "operand_of"]

Json: TypeAlias = Any

#: Keys of meta that the evaluator knows a value for.
_META = frozenset(
    {
        "length",
        "mark",
        "iif",
        "oif",
        "iifname",
        "oifname",
        "nfproto",
        "l4proto",
        "protocol",
        "pkttype",
        "skuid",
        "skgid",
        "iifgroup",
        "oifgroup",
        "ibrname",
        "obrname",
        "rtclassid",
        "ipsec",
    }
)

#: Transport headers by IP protocol. icmp and icmpv6 also decide the network header.
_TRANSPORT: dict[str, int] = {
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "sctp": 132,
    "dccp": 33,
    "icmp": 1,
    "icmpv6": 58,
    "igmp": 2,
    "esp": 50,
    "ah": 51,
    "comp": 108,
    "gre": 47,
    "gretap": 47,
    "vxlan": 17,
    "geneve": 17,
}
#: Those whose operands are absent by themselves in packets of another protocol.
_SELF_GUARDED = frozenset({"tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6"})

#: ICMP types without which a field does not exist (proto.c: icmp and icmp6 dependencies).
_ICMP_FIELDS: dict[tuple[str, str], tuple[int, ...]] = {
    ("icmp", "mtu"): (3,),
    ("icmp", "gateway"): (5,),
    ("icmpv6", "mtu"): (2,),
    ("icmpv6", "parameter-problem"): (4,),
    ("icmpv6", "max-delay"): (130, 131, 132),
}

#: Raw places in a header that have a name: base, offset, length → protocol and field, by the family of the table.
_RAW: dict[tuple[str, str, int, int], tuple[str, str]] = {
    ("", "th", 0, 16): ("th", "sport"),
    ("", "th", 16, 16): ("th", "dport"),
    ("ip", "nh", 96, 32): ("ip", "saddr"),
    ("ip", "nh", 128, 32): ("ip", "daddr"),
    ("ip", "nh", 72, 8): ("ip", "protocol"),
    ("ip", "nh", 64, 8): ("ip", "ttl"),
    ("ip6", "nh", 64, 128): ("ip6", "saddr"),
    ("ip6", "nh", 192, 128): ("ip6", "daddr"),
    ("ip6", "nh", 48, 8): ("ip6", "nexthdr"),
    ("ip6", "nh", 56, 8): ("ip6", "hoplimit"),
}


def operand_of(expression: Json, family: str) -> Operand:
    """Return the operand of an expression; one that cannot be followed becomes an UnknownOperand with its text."""
    if not isinstance(expression, dict) or len(expression) != 1:
        return _unknown(expression, family, "its JSON has no form that nft prints")
    ((kind, body),) = expression.items()
    if kind in ("&", "|", "^", "<<", ">>") and isinstance(body, list) and len(body) > 1:
        return _binary(kind, body, family)
    if kind == "concat" and isinstance(body, list):
        return Concat(parts=tuple(operand_of(part, family) for part in body))
    if not isinstance(body, dict):
        return _unknown(expression, family)
    if kind == "meta":
        key = str(body.get("key"))
        if key in _META:
            return Meta(key=key)
        return _unknown(expression, family, f"meta {key} of the packet is not known")
    if kind == "payload":
        return _payload(expression, body, family)
    if kind == "ct":
        return _ct(body, family)
    if kind == "fib":
        flags = body.get("flags", [])
        return Fib(result=str(body.get("result")), flags=tuple(flags if isinstance(flags, list) else [flags]))
    if kind == "socket":
        return Sock(key=str(body.get("key")))
    if kind in ("numgen", "jhash", "symhash"):
        return _unknown(expression, family, "the kernel picks it by chance or by a hash")
    return _unknown(expression, family)


def _unknown(expression: Json, family: str, reason: str = "") -> UnknownOperand:
    text = render_expression(expression, family=family)
    return UnknownOperand(text=text, reason=reason or f"what {text} of the packet is, is not known")


def _binary(op: str, body: list[Json], family: str) -> Operand:
    kind = type_of(body[0], family)
    result = _side(body[0], kind, family)
    for each in body[1:]:
        result = Binary(op=op, left=result, right=_side(each, "integer" if op in ("<<", ">>") else kind, family))
    return result


def _side(value: Json, kind: str, family: str) -> Operand:
    if isinstance(value, dict) and not _is_constant(value):
        return operand_of(value, family)
    try:
        found = scalar_of(value, kind)
    except NoValue as error:
        return _unknown(value, family, str(error))
    return Const(value=found)


def _is_constant(value: dict[str, Json]) -> bool:
    """Tell whether an operator joins constants only, such as the flags of "tcp flags & (syn | ack)"."""
    if len(value) != 1:
        return False
    ((kind, body),) = value.items()
    if kind not in ("&", "|", "^", "<<", ">>") or not isinstance(body, list):
        return False
    return all(not isinstance(each, dict) or _is_constant(each) for each in body)


def _payload(expression: Json, body: dict[str, Json], family: str) -> Operand:
    if "tunnel" in body:
        return _unknown(expression, family, "headers inside a tunnel are not followed")
    if "base" in body:
        offset, length = body.get("offset"), body.get("len")
        if isinstance(offset, int) and isinstance(length, int):
            place = (str(body["base"]), offset, length)
            found = _RAW.get(("", *place)) or _RAW.get((family, *place))
            if found is not None:
                return Payload(protocol=found[0], field=found[1])
        return _unknown(expression, family, "raw bytes of the packet are not known")
    protocol, field = str(body.get("protocol")), str(body.get("field"))
    if protocol in ("vlan", "igmp", "esp", "ah", "comp", "gre", "gretap", "vxlan", "geneve"):
        return _unknown(expression, family, f"the {protocol} header of the packet is not known")
    return Payload(protocol=protocol, field=field)


def _ct(body: dict[str, Json], table_family: str) -> Operand:
    key, direction = str(body.get("key")), body.get("dir")
    family = None
    if key.startswith(("ip ", "ip6 ")):
        family, _blank, key = key.partition(" ")
    if key in ("saddr", "daddr", "proto-src", "proto-dst"):
        # In a table of one IP version both spellings are one.
        only = None if table_family in ("ip", "ip6") else family
        return Ct(key=key, direction=str(direction or "original"), family=only)
    # The protocols and the mark are those of the entry whichever way; a zone or count of one direction is not told.
    if direction is not None and key not in ("protocol", "l3proto", "mark", "zone"):
        return Ct(key=f"{direction} {key}")
    return Ct(key=key)


def is_random(expression: Json) -> bool:
    """Tell whether an expression gives another value each time it is asked, even for one packet."""
    if isinstance(expression, dict):
        for kind, body in expression.items():
            if kind in ("numgen", "symhash"):
                return True
            if kind == "meta" and isinstance(body, dict) and body.get("key") in ("random", "prandom", "cpu"):
                return True
            if isinstance(body, dict | list) and is_random(body):
                return True
    if isinstance(expression, list):
        return any(is_random(each) for each in expression)
    return False


def kinds_of(expression: Json, family: str) -> tuple[str, ...]:
    """Return the types of the parts of an expression: several for a concatenation, else one."""
    if isinstance(expression, dict) and isinstance(expression.get("concat"), list):
        return tuple(type_of(part, family) for part in expression["concat"])
    return (type_of(expression, family),)


# --- Guards ---------------------------------------------------------------------------------------------------------


def guards_of(expression: Json, family: str) -> Sequence[Match]:
    """Return the matches that the kernel makes before it can read an expression."""
    found: list[Match] = []
    for kind, body in _leaves(expression):
        if kind == "payload" and isinstance(body, dict):
            found += _payload_guards(str(body.get("protocol")), str(body.get("field")))
        elif kind == "tcp option":
            found.append(_l4(6))
        elif kind == "sctp chunk":
            found.append(_l4(132))
        elif kind == "dccp option":
            found.append(_l4(33))
        elif kind == "ip option" and family != "ip":
            found.append(_l3(2))
        elif kind == "exthdr" and family != "ip6":
            found.append(_l3(10))
        elif kind == "rt" and isinstance(body, dict) and body.get("family") and family == "inet":
            found.append(_l3(2 if body["family"] == "ip" else 10))
    return found


def _leaves(expression: Json) -> list[tuple[str, Json]]:
    """Return every reading expression inside an expression; not those inside the key of a map."""
    if not isinstance(expression, dict) or len(expression) != 1:
        return []
    ((kind, body),) = expression.items()
    if isinstance(body, list):
        return [leaf for each in body for leaf in _leaves(each)]
    if kind == "jhash" and isinstance(body, dict):
        return _leaves(body.get("expr"))
    return [(kind, body)]


def _payload_guards(protocol: str, field: str) -> list[Match]:
    number = _TRANSPORT.get(protocol)
    types = _ICMP_FIELDS.get((protocol, field))
    if types is not None:
        return [In(left=Payload(protocol=protocol, field="type"), items=types)]
    if number is None or protocol in _SELF_GUARDED:
        return []
    return [_l4(number)]


def _l4(number: int) -> Match:
    return In(left=Meta(key="l4proto"), items=(number,))


def _l3(number: int) -> Match:
    return In(left=Meta(key="nfproto"), items=(number,))
