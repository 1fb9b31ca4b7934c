"""ipsets: what `ipset save` prints, and whether a packet is in one.

Source of what is modelled: ipset(8), net/netfilter/ipset/ip_set_core.c (ip_set_test), ip_set_getport.c, and the
kadt functions of the hash, bitmap and list types.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any, TypeAlias

from nettrace.errors import InputError
from nettrace.netfilter.names import ICMP4_TYPES, ICMP6_TYPES, PROTOCOLS
from nettrace.netfilter.ruleset import IpSet, IpSetMatch, Ruleset
from nettrace.netfilter.skb import UNKNOWN, Skb, mac_number

__all__ = ["compile_ipset", "parse_ipset_save"]

_FLAGS = frozenset({"counters", "comment", "skbinfo", "forceadd", "markmask"})
_MEMBER_FLAGS = frozenset({"nomatch", "wildcard"})

Test: TypeAlias = Callable[[Skb, tuple[str, ...]], Any]


def parse_ipset_save(text: str) -> tuple[IpSet, ...]:
    """Parse what `ipset save` prints: create and add lines, in any order of sets.

    Raises InputError with the line number for anything else.
    """
    sets: dict[str, tuple[str, str, dict[str, str]]] = {}
    members: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith(("Name:", "Type:")):
            raise InputError(f"line {number}: this is the output of `ipset list`; use `ipset save`")
        words = _words(line, number)
        if words[0] in ("create", "-N") and len(words) >= 3:
            options = _options(words[3:])
            sets[words[1]] = (words[2], options.pop("family", ""), options)
            members.setdefault(words[1], [])
        elif words[0] in ("add", "-A") and len(words) >= 3:
            if words[1] not in members:
                raise InputError(f"line {number}: adds to set {words[1]}, which the dump does not create")
            members[words[1]].append((tuple(words[2].split(",")), _member_options(words[3:])))
        elif words[0] == "COMMIT":
            continue
        else:
            raise InputError(f"line {number}: not a line of `ipset save`: {line[:60]!r}")
    return tuple(
        IpSet(name=name, kind=kind, family=family, options=options, members=tuple(members[name]))
        for name, (kind, family, options) in sets.items()
    )


def _words(line: str, number: int) -> list[str]:
    if '"' not in line:
        return line.split()
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InputError(f"line {number}: unbalanced quotes in the ipset dump") from error


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    at = 0
    while at < len(words):
        if words[at] in _FLAGS and words[at] != "markmask":
            options[words[at]] = ""
            at += 1
        else:
            options[words[at]] = words[at + 1] if at + 1 < len(words) else ""
            at += 2
    return options


def _member_options(words: list[str]) -> tuple[str, ...]:
    options: list[str] = []
    at = 0
    while at < len(words):
        if words[at] in _MEMBER_FLAGS:
            options.append(words[at])
            at += 1
        else:
            options.append(" ".join(words[at : at + 2]))
            at += 2
    return tuple(options)


# --- membership -----------------------------------------------------------------------------------------------------


def compile_ipset(match: IpSetMatch, ruleset: Ruleset) -> tuple[Callable[[Skb], Any], str]:
    """Return the function that tells whether a packet is in a set (True, False or UNKNOWN), and why it may not know."""
    if match.unsure is not None:
        return (lambda _s: UNKNOWN), match.unsure
    if match.name not in ruleset.ipsets:
        reason = f"ipset {match.name} is not listed" if ruleset.ipsets_listed else "no ipset was listed"
        return (lambda _s: UNKNOWN), f"{reason}: give the output of `ipset save` too"
    test = _compile_set(match.name, ruleset, ())
    dims = match.dims
    negate = match.negate

    def decide(s: Skb) -> Any:
        found = test(s, dims)
        return UNKNOWN if found is UNKNOWN else bool(found) != negate

    return decide, f"the members of ipset {match.name} that decide cannot be read"


def _compile_set(name: str, ruleset: Ruleset, outer: tuple[str, ...]) -> Test:
    cache = ruleset.compiled
    key = ("ipset", name)
    found: Test | None = cache.get(key)
    if found is not None:
        return found
    one = ruleset.ipsets.get(name)
    if one is None or name in outer:
        return lambda _s, _dims: UNKNOWN
    test = _list_test(one, ruleset, outer) if one.kind == "list:set" else _set_test(one)
    cache[key] = test
    return test


def _list_test(one: IpSet, ruleset: Ruleset, outer: tuple[str, ...]) -> Test:
    tests = [_compile_set(parts[0], ruleset, (*outer, one.name)) for parts, _options in one.members]

    def test(s: Skb, dims: tuple[str, ...]) -> Any:
        answer: Any = False
        for each in tests:
            found = each(s, dims)
            if found is True:
                return True
            if found is UNKNOWN:
                answer = UNKNOWN
        return answer

    return test


Part: TypeAlias = Callable[[Skb, bool], Any]


def _address(s: Skb, source: bool) -> Any:
    return s.saddr if source else s.daddr


def _port(s: Skb, source: bool) -> Any:
    if s.proto in (1, 58):
        if s.icmp_type is UNKNOWN or s.icmp_code is UNKNOWN:
            return UNKNOWN
        return (s.proto, s.icmp_type << 8 | s.icmp_code)
    port = s.sport if source else s.dport
    return UNKNOWN if port is UNKNOWN else (s.proto, port if port is not None else 0)


def _bare_port(s: Skb, source: bool) -> Any:
    return s.sport if source else s.dport


def _mac(s: Skb, source: bool) -> Any:
    text = s.packet.src_mac if source else s.packet.dst_mac
    if text is None:
        return UNKNOWN if s.iif else None
    return mac_number(text)


def _device(s: Skb, source: bool) -> Any:
    return (s.iif if source else s.oif) or None


def _mark(s: Skb, _source: bool) -> Any:
    return s.mark


_PARTS: dict[str, Part] = {
    "ip": _address, "net": _address, "port": _port, "mac": _mac, "iface": _device, "mark": _mark,
}  # fmt: skip


class _Groups:
    """Members of a set, grouped by the masks of their parts: a lookup is one dictionary access per group."""

    def __init__(self) -> None:
        self.groups: dict[tuple[tuple[int, int | None], ...], dict[tuple[Any, ...], bool]] = {}

    def add(self, masked: list[tuple[Any, int, int | None]], nomatch: bool) -> None:
        """Add a member: per part its value, prefix length and mask."""
        shape = tuple((length, mask) for _value, length, mask in masked)
        self.groups.setdefault(shape, {})[tuple(value for value, _length, _mask in masked)] = nomatch

    def finish(self) -> list[tuple[tuple[int | None, ...], dict[tuple[Any, ...], bool]]]:
        """Return the groups, longest prefixes first, as ip_set_hash_gen.h walks them."""
        return [
            (tuple(mask for _length, mask in shape), members)
            for shape, members in sorted(self.groups.items(), key=lambda each: [-length for length, _mask in each[0]])
        ]


def _set_test(one: IpSet) -> Test:
    kinds = one.kind.partition(":")[2].split(",")
    family = {"inet": 4, "inet6": 6}.get(one.family, 4 if "ip" in kinds or "net" in kinds else 0)
    parts = [_PARTS.get(kind) for kind in kinds]
    if one.kind == "bitmap:port":
        parts = [_bare_port]
    groups = _Groups()
    ranges: list[list[tuple[Any, Any]]] = []
    readable = all(part is not None for part in parts)
    for texts, options in one.members:
        try:
            _add_member(one, kinds, family, texts, options, groups, ranges)
        except ValueError:
            readable = False
    own_mask = _own_mask(one, family)
    getters = [part for part in parts if part is not None]
    finished = groups.finish()

    def test(s: Skb, dims: tuple[str, ...]) -> Any:
        if len(dims) < len(getters) or (family and s.fam != family):
            return False
        values = [get(s, dims[at] == "src") for at, get in enumerate(getters)]
        if own_mask is not None:
            values = [each & own_mask if kind == "ip" else each for kind, each in zip(kinds, values, strict=True)]
        if UNKNOWN in values:
            return UNKNOWN if finished or ranges else False
        for masks, members in finished:
            probe = tuple(
                value & mask if mask is not None and value is not None else value
                for value, mask in zip(values, masks, strict=True)
            )
            found = members.get(probe)
            if found is None and probe[-1:] and one.kind in ("hash:ip,mac", "bitmap:ip,mac"):
                found = members.get((*probe[:-1], None))
            if found is not None:
                return not found
        for bounds in ranges:
            if all(
                value is not None and low <= value <= high for value, (low, high) in zip(values, bounds, strict=True)
            ):
                return True
        return False if readable else UNKNOWN

    return test


def _own_mask(one: IpSet, family: int) -> int | None:
    text = one.options.get("netmask") or one.options.get("bitmask")
    if not text:
        return None
    width = 32 if family == 4 else 128
    if text.isdigit():
        length = int(text)
        return ((1 << width) - 1) ^ ((1 << (width - length)) - 1)
    return int(ip_address(text))


def _add_member(
    one: IpSet,
    kinds: list[str],
    family: int,
    texts: tuple[str, ...],
    options: tuple[str, ...],
    groups: _Groups,
    ranges: list[list[tuple[Any, Any]]],
) -> None:
    if one.kind == "bitmap:ip,mac" and len(texts) == 1:
        texts = (*texts, "")
    if len(texts) != len(kinds):
        raise ValueError(f"{','.join(texts)} is no member of a {one.kind} set")
    values = [_member_part(one, kind, family, text) for kind, text in zip(kinds, texts, strict=True)]
    if any(isinstance(value[0], range) for value in values):
        ranges.append(
            [
                (value[0][0], value[0][-1]) if isinstance(value[0], range) else (value[0], value[0] | _host(value))
                for value in values
            ]
        )
        return
    groups.add(values, "nomatch" in options)


def _host(value: tuple[Any, int, int | None]) -> Any:
    found, length, mask = value
    if mask is None or not isinstance(found, int):
        return found
    width = 32 if mask < 1 << 32 else 128
    return (1 << (width - length)) - 1


def _member_part(one: IpSet, kind: str, family: int, text: str) -> tuple[Any, int, int | None]:
    """Return the value, prefix length and mask of one part of a member; a range for ranges."""
    if kind in ("ip", "net"):
        return _address_part(one, family, text)
    if kind == "port":
        return _port_part(one, text)
    if kind == "mac":
        return (mac_number(text) if text else None), 0, None
    if kind == "mark":
        return int(text, 0), 0, None
    if kind == "iface":
        if text.startswith("physdev:"):
            raise ValueError("physdev members")
        return text, 0, None
    raise ValueError(kind)


def _address_part(one: IpSet, family: int, text: str) -> tuple[Any, int, int | None]:
    if "-" in text:
        low, _, high = text.partition("-")
        return range(int(ip_address(low)), int(ip_address(high)) + 1), 0, None
    network = ip_network(text, strict=False)
    width = 32 if isinstance(network, IPv4Network) else 128
    if width != (32 if family == 4 else 128):
        raise ValueError(f"{text} is of another family")
    length = network.prefixlen
    if one.kind.startswith("bitmap:") and length < width:
        return range(int(network.network_address), int(network.broadcast_address) + 1), 0, None
    if "net" not in one.kind.partition(":")[2].split(",") and length == width:
        return int(network.network_address), width, None
    return int(network.network_address), length, int(network.netmask)


_PORT_TEXT = re.compile(r"(?:(?P<proto>[A-Za-z0-9_-]+):)?(?P<port>.+)\Z")


def _port_part(one: IpSet, text: str) -> tuple[Any, int, int | None]:
    found = _PORT_TEXT.match(text)
    if found is None:
        raise ValueError(text)
    name, port = found["proto"], found["port"]
    if one.kind == "bitmap:port":
        low, _, high = port.partition("-")
        return (range(int(low), int(high) + 1) if high else int(low)), 0, None
    name = name or "tcp"
    proto = int(name) if name.isdigit() else PROTOCOLS.get(name.lower())
    if proto is None:
        raise ValueError(text)
    if proto in (1, 58):
        return (proto, _icmp_number(proto, port)), 0, None
    low, _, high = port.partition("-")
    if high:
        raise ValueError(text)
    return (proto, int(low)), 0, None


def _icmp_number(proto: int, text: str) -> int:
    kind, slash, code = text.partition("/")
    if slash:
        return int(kind) << 8 | int(code)
    names = ICMP4_TYPES if proto == 1 else ICMP6_TYPES
    if text in names:
        number, codes = names[text]
        return number << 8 | (codes[0] if codes is not None else 0)
    return int(text)
