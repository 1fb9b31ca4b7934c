"""`ip route`, as text and as JSON: rows of routing tables. See ip-route(8), print_route of iproute2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from nettrace.model.base import IPAddress, IPNetwork
from nettrace.model.snapshot import NextHop, Route
from nettrace.paste.devices import Devices
from nettrace.paste.lines import Line, Trouble, index, quoted

__all__ = ["KINDS", "Tables", "parse_ip_route", "route_row"]

KINDS = frozenset({
    "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw",
    "nat", "xresolve",
})  # fmt: skip
MAIN, LOCAL, DEFAULT = 254, 255, 253
_NUMBERED = {"main": MAIN, "local": LOCAL, "default": DEFAULT, "unspec": 0}
#: First number given to tables whose name stands in a file of that host (/etc/iproute2/rt_tables).
NAMED = 4_000_000_000

_FLAGS = frozenset({
    "onlink", "dead", "linkdown", "pervasive", "offload", "trap", "unresolved", "rt_offload", "rt_trap",
    "offload_failed", "rt_offload_failed", "notify", "redirected", "cached", "cloned",
})  # fmt: skip
_MODELLED_FLAGS = frozenset(["onlink", "dead", "linkdown", "pervasive", "offload", "trap", "unresolved"])
_ONE_VALUE = {
    "dev": "dev", "table": "table", "proto": "protocol", "scope": "scope", "src": "prefsrc", "metric": "metric",
    "pref": "pref", "nhid": "nhid", "from": "from", "tos": "tos", "dsfield": "tos", "weight": "weight",
    "error": "error",
    "expires": "expires", "realm": "realm", "realms": "realm", "ttl-propagate": "ttl_propagate",
    "preference": "metric", "iif": "iif", "uid": "uid", "users": "users", "age": "age", "used": "used", "mark": "mark",
}  # fmt: skip
_METRICS = frozenset({
    "mtu", "window", "rtt", "rttvar", "ssthresh", "cwnd", "advmss", "reordering", "hoplimit", "initcwnd",
    "features", "rto_min", "initrwnd", "quickack", "congctl", "fastopen_no_cookie",
})  # fmt: skip
_DESTINATION = re.compile(r"(?:default|all|any|[0-9a-fA-F:.]+(?:/\d{1,3})?)")


class Tables:
    """Numbers of routing tables by name; a name of that host's own gets a number that nothing else has."""

    def __init__(self) -> None:
        self.named: dict[str, int] = {}

    def number(self, value: Any) -> int:
        """Return the number of a table."""
        text = str(value)
        if text in _NUMBERED:
            return _NUMBERED[text]
        if text.isdigit():
            return index(text)
        if len(self.named) >= 10_000:
            raise ValueError("more named tables than any host has")
        return self.named.setdefault(text[:64], NAMED + len(self.named))


def parse_ip_route(lines: Sequence[Line]) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Turn the text of `ip route` into the objects that `ip -j route` prints, each with its line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    troubles: list[Trouble] = []
    for number, text in lines:
        for part in text.split("\\") if "\\" in text else (text,):
            words = part.split()
            if not words:
                continue
            try:
                _take(number, words, part, rows, troubles)
            except ValueError as error:
                troubles.append(Trouble(line=number, text=quoted(text), reason=str(error)))
    return rows, troubles


def _take(
    number: int, words: list[str], text: str, rows: list[tuple[int, dict[str, Any]]], troubles: list[Trouble]
) -> None:
    if words[0] == "nexthop":
        if not rows:
            raise ValueError("a next hop without a route")
        hop: dict[str, Any] = {"flags": []}
        rest = _attributes(words[1:], hop)
        rows[-1][1].setdefault("nexthops", []).append(hop)
    elif words[0] == "cache":
        return
    else:
        row: dict[str, Any] = {"flags": [], "_text": text.strip()}
        if words[0] in KINDS:
            row["type"] = words.pop(0)
        if not words or _DESTINATION.fullmatch(words[0]) is None:
            raise ValueError("not understood")
        row["dst"] = words[0]
        rest = _attributes(words[1:], row)
        rows.append((number, row))
    if rest:
        troubles.append(Trouble(line=number, text=quoted(text), reason=f"{rest} is not understood"))


def _attributes(words: list[str], row: dict[str, Any]) -> str:
    """Put the words after a destination into a row; return the first that is not understood, "" when all are."""
    at = 0
    while at < len(words):
        word = words[at]
        value = words[at + 1] if at + 1 < len(words) else ""
        if word == "via":
            if value in ("inet", "inet6"):
                row["via"] = {"family": value, "host": words[at + 2] if at + 2 < len(words) else ""}
                at += 3
                continue
            row["gateway"] = value
        elif word in _ONE_VALUE:
            row[_ONE_VALUE[word]] = value
        elif word in _METRICS:
            if value == "lock" and at + 2 < len(words):
                at += 1
                value = words[at + 1]
            row.setdefault("metrics", [{}])[0][word] = value
        elif word in _FLAGS:
            row["flags"].append(word)
            at += 1
            continue
        else:
            return word
        at += 2
    return ""


def route_row(row: dict[str, Any], devices: Devices, tables: Tables, *, table: str | None = None) -> Route | None:
    """Return the route that one object of `ip -j route` stands for; None for a cached one.

    `table` is the one that was asked for: then the listing leaves it out. Raises ValueError, KeyError, TypeError.
    """
    flags = row.get("flags") or []
    if "cloned" in flags or row.get("cache"):
        return None
    family = _family(row)
    hops = tuple(_hop(each, devices) for each in row.get("nexthops") or ())
    if not hops and (row.get("dev") or row.get("gateway") or row.get("via")):
        hops = (_hop(row, devices),)
    metrics = row.get("metrics") or []
    mtu = next((each["mtu"] for each in metrics if "mtu" in each), None)
    nhid = row.get("nhid")
    kind = str(row.get("type") or "unicast")
    if kind not in KINDS:
        raise ValueError(f"a route of kind {kind!r} is not known")
    if kind == "unicast" and not hops and nhid is None:
        raise ValueError("a route that leads nowhere")
    return Route(
        table=tables.number(row.get("table") or table or "main"),
        dst=_network(str(row["dst"]), family),
        kind=kind,
        src=_source(row.get("from"), family),
        tos=index(row.get("tos", 0)),
        scope=str(row.get("scope") or "global"),
        # What `ip route add` does by itself is not printed (unless asked for details).
        proto=str(row.get("protocol") or "boot"),
        priority=index(row.get("metric", 0)),
        prefsrc=ip_address(str(row["prefsrc"])) if row.get("prefsrc") else None,
        nexthops=hops,
        mtu=index(mtu) or None if mtu is not None else None,
        nexthop_id=index(nhid) if nhid is not None else None,
    )


def _family(row: dict[str, Any]) -> int:
    """Return the IP version of a route; that of a default one shows in its gateway, its source or its attributes."""
    told = row.get("_family")
    for value in (row["dst"], row.get("gateway"), row.get("prefsrc"), row.get("from")):
        text = str(value or "")
        if ":" in text:
            return 6
        if "." in text:
            return 4
    for hop in row.get("nexthops") or ():
        if ":" in str(hop.get("gateway") or ""):
            return 6
    return told if told in (4, 6) else 6 if row.get("pref") or row.get("error") else 4


def _network(text: str, family: int) -> IPNetwork:
    if text in ("default", "all", "any"):
        return ip_network("0.0.0.0/0" if family == 4 else "::/0")
    address, _, length = text.partition("/")
    if ":" not in address and address.count(".") < 3:
        address += ".0" * (3 - address.count("."))  # iproute2 of old left the zeros at the end out
    return ip_network(f"{address}/{length}" if length else address, strict=False)


def _source(value: Any, family: int) -> IPNetwork | None:
    if value in (None, "all", "default"):
        return None
    return _network(str(value), family)


def _hop(row: dict[str, Any], devices: Devices) -> NextHop:
    gateway: IPAddress | None = None
    via = row.get("via")
    if row.get("gateway"):
        gateway = ip_address(str(row["gateway"]))
    elif isinstance(via, dict) and via.get("host"):
        gateway = ip_address(str(via["host"]))
    return NextHop(
        ifindex=devices.index(str(row["dev"])) if row.get("dev") else None,
        gateway=gateway,
        weight=index(row.get("weight", 1)),
        flags=tuple(flag for flag in row.get("flags") or () if flag in _MODELLED_FLAGS),
    )
