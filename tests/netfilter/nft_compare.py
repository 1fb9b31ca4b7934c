"""Bring two listings of one ruleset to what both can say, to compare text with the JSON of nft 1.0.6.

That version's JSON leaves out the "dynamic" flag, "auto-merge", comments of tables and chains, devices of chains, the
policy of constant sets, and gives names of types for "typeof". Statements without a JSON form it prints as text.
"""

from __future__ import annotations

from typing import Any

from nettrace.netfilter.nft_text import parse_rule
from nettrace.netfilter.nft_types import type_names


def comparable(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a listing without handles and without what one of the forms cannot say."""
    found = []
    for each in document["nftables"]:
        ((kind, body),) = each.items()
        if kind == "metainfo":
            continue
        body = {key: value for key, value in body.items() if key != "handle"}
        if kind in ("table", "chain"):
            body.pop("comment", None)
        if kind == "chain":
            body.pop("dev", None)
        if kind in ("set", "map"):
            body = _set(body)
        if kind == "rule":
            body["expr"] = [
                _same(part, body["family"]) for each in body["expr"] for part in _parsed(each, body["family"])
            ]
        found.append({kind: body})
    return found


def _parsed(statement: Any, family: str) -> list[Any]:
    return parse_rule(statement, family) if isinstance(statement, str) else [statement]


def _set(body: dict[str, Any]) -> dict[str, Any]:
    body.pop("auto-merge", None)
    if "constant" in body.get("flags", ()):
        body.pop("policy", None)
    if isinstance(body["type"], dict):
        body["type"] = type_names(body["type"]["typeof"], body["family"])
    flags = [flag for flag in body.pop("flags", []) if flag != "dynamic"]
    if body.get("timeout") and "timeout" not in flags:
        flags.append("timeout")
    if flags:
        body["flags"] = flags
    if "elem" in body:
        # Time passes between two listings.
        body["elem"] = [_without_expiry(each) for each in body["elem"]]
    return body


def _without_expiry(element: Any) -> Any:
    if isinstance(element, list):
        return [_without_expiry(each) for each in element]
    if isinstance(element, dict) and isinstance(element.get("elem"), dict):
        rest = {key: value for key, value in element["elem"].items() if key != "expires"}
        return {"elem": rest} if set(rest) != {"val"} else rest["val"]
    return element


def _same(value: Any, family: str) -> Any:
    """In tables of one IP version, "ct original saddr" and "ct original ip saddr" are listed alike."""
    if isinstance(value, list):
        return [_same(each, family) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("ct"), dict) and family in ("ip", "ip6"):
        key = value["ct"]["key"].removeprefix("ip ").removeprefix("ip6 ")
        return {"ct": {**value["ct"], "key": key}}
    return {key: _same(each, family) for key, each in value.items()}
