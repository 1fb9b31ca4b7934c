"""`bridge link` and `bridge vlan`, as text and as JSON: what a bridge thinks of its ports. See bridge(8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from nettrace.model.snapshot import PortVlan
from nettrace.paste.lines import Line, Trouble, index, quoted

__all__ = ["HEAD", "VLAN_HEAD", "parse_bridge_link", "parse_bridge_vlan", "vlan_rows"]

HEAD = re.compile(
    r"(\d{1,10}): (\S+?)(?: state \S+)?(?:@(\S+?))?(?: @(\S+?))?: <([^<>]*)>(.* priority \d+ cost \d+.*)", re.DOTALL
)
VLAN_HEAD = re.compile(r"port\s+vlan(?:-id|\s+ids?)\s*")
_SWITCHES = (
    "hairpin", "guard", "root_block", "fastleave", "learning", "flood", "mcast_flood", "bcast_flood",
    "mcast_to_unicast",
    "neigh_suppress", "neigh_vlan_suppress", "vlan_tunnel", "isolated", "locked", "mab", "proxy_arp", "proxy_arp_wifi",
)  # fmt: skip


def parse_bridge_link(lines: Sequence[Line]) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Turn the text of `bridge link` into the objects that `bridge -j link` prints, each with its line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    troubles: list[Trouble] = []
    for number, text in lines:
        stripped = text.strip()
        if not stripped:
            continue
        head = HEAD.fullmatch(stripped)
        words = (head[6] if head is not None else stripped).split()
        if head is not None:
            row: dict[str, Any] = {"ifindex": int(head[1]), "ifname": head[2], "flags": head[5].split(",")}
            rows.append((number, row))
        elif rows and words[0] in _SWITCHES:
            row = rows[-1][1]
        else:
            troubles.append(Trouble(line=number, text=quoted(text)))
            continue
        for name, value in pairwise(words):
            if name in _SWITCHES and value in ("on", "off"):
                row[name] = value == "on"
            elif name in ("state", "master", "mtu", "priority", "cost"):
                row[name] = value
    return rows, troubles


def parse_bridge_vlan(lines: Sequence[Line]) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Turn the text of `bridge vlan` into the objects that `bridge -j vlan` prints, each with its line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    troubles: list[Trouble] = []
    for number, text in lines:
        words = text.split()
        if not words or VLAN_HEAD.fullmatch(text.strip()):
            continue
        if not text[0].isspace():
            rows.append((number, {"ifname": words.pop(0), "vlans": []}))
        numbers = words[0].partition("-") if words else ("", "", "")
        if not words or words == ["None"]:
            continue
        known = all(word in ("PVID", "Egress", "Untagged") for word in words[1:])
        if not rows or not numbers[0].isdigit() or not known:
            troubles.append(Trouble(line=number, text=quoted(text)))
            continue
        flags = [word for word in ("PVID", "Egress Untagged") if word in " ".join(words)]
        vlan: dict[str, Any] = {"vlan": numbers[0], "flags": flags}
        if numbers[2]:
            vlan["vlanEnd"] = numbers[2]
        rows[-1][1]["vlans"].append(vlan)
    return rows, troubles


def vlan_rows(row: dict[str, Any]) -> tuple[str, tuple[PortVlan, ...]]:
    """Return the port and the VLANs of one object of `bridge -j vlan`; raises ValueError, KeyError, TypeError."""
    found: list[PortVlan] = []
    for each in row.get("vlans") or ():
        first = index(each["vlan"])
        last = index(each.get("vlanEnd", first))
        if not first <= last < 4096:
            raise ValueError(f"VLANs {first} to {last} are no range")
        flags = each.get("flags") or ()
        found += [
            PortVlan(vid=vid, pvid="PVID" in flags, untagged="Egress Untagged" in flags)
            for vid in range(first, last + 1)
        ]
    return str(row["ifname"]), tuple(found)
