"""`conntrack -L` and /proc/net/nf_conntrack: entries of connection tracking. See conntrack(8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from nettrace.model.base import IPAddress
from nettrace.model.snapshot import ConntrackEntry, Tuple5
from nettrace.paste.lines import Line, Trouble, index, quoted

__all__ = ["LINE", "parse_conntrack_list"]

LINE = re.compile(r"(?:ipv[46]\s+\d+\s+)?([a-z][\w-]*)\s+(\d{1,3})\s+(.*\bsrc=\S.*)", re.DOTALL)
_SUMMARY = re.compile(r"conntrack v[\d.]+ \(conntrack-tools\): ")
_FLAGS = {"[ASSURED]": "assured", "[OFFLOAD]": "offload", "[HW_OFFLOAD]": "hw_offload"}
_KEYS = {"sport": "sport", "dport": "dport", "type": "icmp_type", "code": "icmp_code", "id": "icmp_id"}


def parse_conntrack_list(lines: Sequence[Line]) -> tuple[list[ConntrackEntry], list[Trouble]]:
    """Return the entries of a listing; of the status what it shows, and what addresses and flags imply."""
    found: list[ConntrackEntry] = []
    troubles: list[Trouble] = []
    for number, text in lines:
        stripped = text.strip()
        if not stripped or _SUMMARY.match(stripped):
            continue
        line = LINE.fullmatch(stripped)
        try:
            if line is None:
                raise ValueError("not understood")
            found.append(_entry(int(line[2]), line[3].split()))
        except (ValueError, KeyError) as error:
            troubles.append(Trouble(line=number, text=quoted(text), reason=str(error) or "not understood"))
    return found, troubles


def _entry(proto: int, words: list[str]) -> ConntrackEntry:
    ways: list[dict[str, Any]] = []
    status: set[str] = {"confirmed"}
    state, helper, unreplied = "", None, False
    numbers = {"mark": 0, "zone": 0}
    timeout = 0
    for place, word in enumerate(words):
        key, equal, value = word.partition("=")
        if word in _FLAGS:
            status.add(_FLAGS[word])
        elif word == "[UNREPLIED]":
            unreplied = True
        elif not equal:
            if word.isdigit() and place == 0:
                timeout = index(word)
            elif re.fullmatch(r"[A-Z][A-Z_0-9]+", word):
                state = word
        elif key == "src":
            ways.append({"proto": proto, "src": _address(value)})
        elif key == "dst":
            ways[-1]["dst"] = _address(value)
        elif key in _KEYS and ways:
            ways[-1][_KEYS[key]] = index(value)
        elif key in numbers:
            numbers[key] = index(value)
        elif key == "helper":
            helper = value
    if len(ways) != 2 or any("dst" not in way for way in ways):
        raise ValueError("an entry without both directions")
    orig, reply = Tuple5(**ways[0]), Tuple5(**ways[1])
    if not unreplied:
        status.add("seen_reply")
    if reply.dst != orig.src or (reply.dport is not None and reply.dport != orig.sport):
        status.add("src_nat")
    if reply.src != orig.dst or (reply.sport is not None and reply.sport != orig.dport):
        status.add("dst_nat")
    order = ("seen_reply", "assured", "confirmed", "src_nat", "dst_nat", "offload", "hw_offload")
    return ConntrackEntry(
        orig=orig,
        reply=reply,
        status=tuple(name for name in order if name in status),
        state=state,
        mark=numbers["mark"],
        zone=numbers["zone"],
        timeout_s=timeout,
        helper=helper,
    )


def _address(text: str) -> IPAddress:
    return ip_address(text)
