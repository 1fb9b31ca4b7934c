"""`ip rule`, as text and as JSON: policy rules. See ip-rule(8), print_rule of iproute2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from nettrace.model.base import IPNetwork
from nettrace.model.snapshot import PolicyRule
from nettrace.paste.ip_route import Tables
from nettrace.paste.lines import Line, Trouble, index, quoted

__all__ = ["HEAD", "parse_ip_rule", "rule_family", "rule_row"]

HEAD = re.compile(r"(\d{1,10}):\s+((?:not\s+)?from\s.*)", re.DOTALL)
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132, "gre": 47, "esp": 50, "ah": 51}
_ACTIONS = ("nop", "blackhole", "unreachable", "prohibit")


def parse_ip_rule(lines: Sequence[Line]) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Turn the text of `ip rule` into the objects that `ip -j rule` prints, each with its line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    troubles: list[Trouble] = []
    for number, text in lines:
        if not text.strip():
            continue
        head = HEAD.fullmatch(text.strip())
        if head is None:
            troubles.append(Trouble(line=number, text=quoted(text)))
            continue
        row: dict[str, Any] = {"priority": int(head[1]), "_text": text.strip()}
        strange = _attributes(head[2].split(), row)
        if strange:
            # A rule that asks for more than is understood cannot be evaluated: better known as missing.
            troubles.append(Trouble(line=number, text=quoted(text), reason=f"{strange} is not understood"))
            continue
        rows.append((number, row))
    return rows, troubles


def _attributes(words: list[str], row: dict[str, Any]) -> str:
    at = 0
    while at < len(words):
        word = words[at]
        value = words[at + 1] if at + 1 < len(words) else ""
        if word == "not":
            row["not"] = None
            at += 1
            continue
        if word in ("[detached]", "unresolved", "[unresolved]"):
            at += 1
            continue
        if word in ("from", "to"):
            address, _, length = value.partition("/")
            side = "src" if word == "from" else "dst"
            row[side] = address
            if length:
                row[f"{side}len"] = length
        elif word in ("fwmark",):
            row["fwmark"], _, mask = value.partition("/")
            if mask:
                row["fwmask"] = mask
        elif word in ("lookup", "table"):
            row |= {"l3mdev": None} if value == "[l3mdev-table]" else {"table": value}
        elif word in ("tos", "dsfield", "dscp"):
            row["dscp" if word == "dscp" else "tos"] = value
        elif word in ("sport", "dport", "uidrange") or word in ("iif", "oif", "ipproto", "goto", "suppress_ifgroup"):
            row[word] = value
        elif word in ("suppress_prefixlength", "suppress_prefixlen"):
            row["suppress_prefixlen"] = value
        elif word in ("proto", "protocol"):
            pass
        elif word in _ACTIONS:
            row["action"] = word
            at += 1
            continue
        elif word == "realms":
            pass
        else:
            return word
        at += 2
    return ""


def rule_family(rows: Sequence[dict[str, Any]]) -> int | None:
    """Return the IP version that a listing of rules shows by itself, None when it might be either.

    Only IPv4 has a rule for table default from the start (fib_default_rules_init).
    """
    for row in rows:
        for side in ("src", "dst"):
            text = str(row.get(side) or "")
            if ":" in text:
                return 6
            if "." in text:
                return 4
    if any(row.get("table") == "default" for row in rows):
        return 4
    return None


def rule_row(row: dict[str, Any], family: int, tables: Tables) -> PolicyRule:
    """Return the rule that one object of `ip -j rule` stands for; raises ValueError, KeyError, TypeError."""
    action = str(row.get("action") or ("goto" if "goto" in row else "lookup"))
    if action == "to_tbl":
        action = "lookup"
    if action not in ("lookup", "goto", *_ACTIONS):
        raise ValueError(f"the action {action!r} is not known")
    mark, mask = row.get("fwmark"), row.get("fwmask")
    tos = index(row.get("tos", 0))
    if "dscp" in row:
        tos = index(row["dscp"]) << 2
    goto = row.get("goto")
    return PolicyRule(
        family=family,
        priority=index(row["priority"]),
        action=action,
        table=tables.number(row["table"]) if "table" in row else 0,
        src=_network(row, "src", family),
        dst=_network(row, "dst", family),
        iif=str(row["iif"]) if row.get("iif") else None,
        oif=str(row["oif"]) if row.get("oif") else None,
        fwmark=index(mark) if mark is not None else None,
        fwmask=index(mask) if mask is not None else 0xFFFFFFFF,
        tos=tos,
        ip_proto=_protocol(row.get("ipproto")),
        sport=_range(row, "sport"),
        dport=_range(row, "dport"),
        uid_range=_range(row, "uidrange", "uid"),
        invert="not" in row,
        goto=index(goto) if goto is not None and str(goto) != "none" else None,
        suppress_prefixlength=_optional(row.get("suppress_prefixlen", row.get("suppress_prefixlength"))),
        suppress_ifgroup=_optional(row.get("suppress_ifgroup")),
        l3mdev="l3mdev" in row,
    )


def _optional(value: Any) -> int | None:
    return index(value) if value is not None else None


def _network(row: dict[str, Any], side: str, family: int) -> IPNetwork | None:
    value = row.get(side)
    if value in (None, "all"):
        return None
    single = 32 if family == 4 else 128
    network = ip_network((str(value), index(row.get(f"{side}len", single))), strict=False)
    return network if network.prefixlen else None


def _protocol(value: Any) -> int | None:
    if value is None:
        return None
    text = str(value).removeprefix("ipproto-")
    if text in _PROTOCOLS:
        return _PROTOCOLS[text]
    return index(text)


def _range(row: dict[str, Any], name: str, spelt: str | None = None) -> tuple[int, int] | None:
    first, last = row.get(f"{spelt or name}_start"), row.get(f"{spelt or name}_end")
    if first is not None and last is not None:
        return index(first), index(last)
    value = row.get(name)
    if value is None:
        return None
    low, _, high = str(value).partition("-")
    return index(low), index(high or low)
