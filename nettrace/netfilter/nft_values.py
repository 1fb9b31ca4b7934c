"""Constants of libnftables-json(5) turned into the values that operands are compared with.

The form of each value is fixed in nettrace.netfilter.ruleset: integers for most, names for devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, TypeAlias

from nettrace.netfilter.names import SERVICES
from nettrace.netfilter.nft_types import BITMASKS, SYMBOLS
from nettrace.netfilter.ruleset import Item, Masked, Range, Wildcard
from nettrace.netfilter.skb import mac_number

__all__ = ["NoValue", "catch_all", "item_of", "mask_of", "range_of", "scalar_of"]

Json: TypeAlias = Any

#: Types whose values are compared as text.
_TEXTUAL = frozenset({"ifname", "iface_index", "ifindex", "string", "pkt_type", "fib_addrtype"})

_WIDTH: dict[str, int] = {
    "ipv4_addr": 32,
    "ipv6_addr": 128,
    "ether_addr": 48,
    "inet_service": 16,
    "inet_proto": 8,
    "ether_type": 16,
}


class NoValue(Exception):
    """A constant that has no value here; the message says why, in words for people."""


def scalar_of(value: Json, kind: str) -> int | str:
    """Return the one value that a constant stands for; raises NoValue."""
    if isinstance(value, list):
        return mask_of(value, kind)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return str(value) if kind in _TEXTUAL else value
    if isinstance(value, dict):
        return _folded(value, kind)
    if not isinstance(value, str):
        raise NoValue(f"{value!r} is no value")
    return _named(value, kind)


def _named(value: str, kind: str) -> int | str:
    if kind in ("ipv4_addr", "ipv6_addr", "address"):
        return _address(value)
    if kind == "ether_addr":
        try:
            return mac_number(value)
        except ValueError as error:
            raise NoValue(str(error)) from error
    if kind == "pkt_type":
        return "host" if value == "unicast" else value
    if kind in ("iface_index", "ifindex"):
        return "" if value == "0" else value
    if kind in _TEXTUAL:
        return value.replace("\\*", "*")
    known = SYMBOLS.get(kind)
    if known is not None and value in known:
        return known[value]
    if kind == "inet_service" and value in SERVICES:
        return SERVICES[value]
    text = value.removesuffix(" [invalid type]")
    try:
        return int(text, 0)
    except ValueError as error:
        raise NoValue(f"the name {value!r} has no number here") from error


def _address(value: str) -> int:
    try:
        return int(ip_address(value))
    except ValueError as error:
        raise NoValue(f"{value!r} is no address") from error


def _folded(value: dict[str, Json], kind: str) -> int:
    """Return the number that constants joined by operators make."""
    if len(value) == 1:
        ((op, operands),) = value.items()
        if op in ("|", "&", "^", "<<", ">>") and isinstance(operands, list) and len(operands) > 1:
            numbers = [_number(each, kind) for each in operands]
            result = numbers[0]
            for number in numbers[1:]:
                result = _apply(op, result, number)
            return result
    raise NoValue("a value that is no constant")


def _apply(op: str, one: int, two: int) -> int:
    if op == "|":
        return one | two
    if op == "&":
        return one & two
    if op == "^":
        return one ^ two
    if not 0 <= two < 128:
        raise NoValue(f"a shift by {two} bits")
    return one << two if op == "<<" else one >> two


def _number(value: Json, kind: str) -> int:
    found = scalar_of(value, kind)
    if not isinstance(found, int):
        raise NoValue(f"{value!r} is no number")
    return found


def mask_of(value: Json, kind: str) -> int:
    """Return the bits of a flag or a list of flags; raises NoValue."""
    bits = 0
    for each in value if isinstance(value, list) else [value]:
        number = _number(each, kind)
        if kind == "ct_label":
            number = 1 << number if 0 <= number < 128 else 0
        bits |= number
    return bits


def range_of(value: Json, kind: str) -> tuple[int, int]:
    """Return both ends of a range or prefix, or a single number twice; raises NoValue."""
    if isinstance(value, dict) and isinstance(value.get("range"), list) and len(value["range"]) == 2:
        low, high = value["range"]
        return _number(low, kind), _number(high, kind)
    if isinstance(value, dict) and isinstance(value.get("prefix"), dict):
        masked = _prefix(value["prefix"], kind)
        return masked.value, masked.value | ~masked.mask & (1 << _width(value["prefix"], kind)) - 1
    number = _number(value, kind)
    return number, number


def _width(body: dict[str, Json], kind: str) -> int:
    if kind == "address":
        return 128 if ":" in str(body.get("addr")) else 32
    return _WIDTH.get(kind, 32)


def _prefix(body: dict[str, Json], kind: str) -> Masked:
    length, width = body.get("len"), _width(body, kind)
    if not isinstance(length, int) or not 0 <= length <= width:
        raise NoValue(f"a prefix of {length!r} bits")
    mask = (1 << width) - (1 << width - length)
    return Masked(value=_number(body.get("addr"), kind) & mask, mask=mask)


def item_of(value: Json, kinds: Sequence[str]) -> Item:
    """Return what one element of a set, or one right-hand side, lets match; raises NoValue.

    `kinds` are the types of the parts of a concatenation, or the one type of a plain value.
    """
    if isinstance(value, dict) and isinstance(value.get("concat"), list):
        parts = value["concat"]
        if len(parts) != len(kinds):
            raise NoValue("a concatenation of another length than its key")
        return tuple(item_of(part, (kind,)) for part, kind in zip(parts, kinds, strict=True))
    if len(kinds) != 1:
        raise NoValue("a single value for a key of several parts")
    kind = kinds[0]
    if isinstance(value, dict) and "prefix" in value and isinstance(value["prefix"], dict):
        masked = _prefix(value["prefix"], kind)
        return masked if masked.mask != (1 << _width(value["prefix"], kind)) - 1 else masked.value
    if isinstance(value, dict) and "range" in value:
        low, high = range_of(value, kind)
        return Range(low=low, high=high)
    if kind == "ifname" and isinstance(value, str) and value.endswith("*") and not value.endswith("\\*"):
        return Wildcard(prefix=value[:-1].replace("\\*", "*"))
    if kind in BITMASKS:
        return mask_of(value, kind)
    return scalar_of(value, kind)


def catch_all(kinds: Sequence[str]) -> Item:
    """Return the item that every key fits: nft's "*"."""
    items: list[Item] = [Wildcard(prefix="") if kind in _TEXTUAL else Masked(value=0, mask=0) for kind in kinds]
    return items[0] if len(items) == 1 else tuple(items)
