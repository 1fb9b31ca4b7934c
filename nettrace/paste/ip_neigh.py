"""`ip neigh` and `bridge fdb`, as text and as JSON: neighbours and forwarding entries.

See ip-neighbour(8), bridge(8); print_neigh and print_fdb of iproute2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from nettrace.model.snapshot import FdbEntry, Neighbour
from nettrace.paste.devices import Devices
from nettrace.paste.lines import Line, Trouble, index, quoted

__all__ = ["FDB", "NEIGHBOUR", "fdb_row", "neighbour_row", "parse_bridge_fdb", "parse_ip_neigh"]

STATES = frozenset(["NONE", "INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"])
_MAC = r"(?:[0-9a-fA-F]{2}:){5,19}[0-9a-fA-F]{2}"
FDB = re.compile(rf"{_MAC} (?:dev|port|vlan|dst|src_vni|via|vni|self|master)\b.*", re.DOTALL)
NEIGHBOUR = re.compile(
    rf"[0-9a-fA-F:.]+ dev \S+(?: lladdr {_MAC}|(?: \S+)*? (?:{'|'.join(sorted(STATES))}| proxy)\s*$).*", re.DOTALL
)
_USED = re.compile(r"\d+(?:/\d+)*(?:probes)?")
FLAGS = ("self", "master", "extern_learn", "offload", "sticky", "router")


def parse_ip_neigh(lines: Sequence[Line]) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Turn the text of `ip neigh` (with -s or not) into the objects that `ip -j neigh` prints, each with its line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    troubles: list[Trouble] = []
    for number, text in lines:
        words = text.split()
        if not words:
            continue
        row: dict[str, Any] = {"dst": words[0], "state": [], "_text": text.strip()}
        at, strange = 1, ""
        while at < len(words) and not strange:
            word = words[at]
            if word in ("dev", "lladdr", "ref", "used", "probes", "proto", "protocol", "nud") and at + 1 < len(words):
                row[word] = words[at + 1]
                at += 1
            elif word in STATES:
                row["state"].append(word)
            elif word in ("router", "proxy", "extern_learn", "offload", "managed", "extern_valid"):
                row[word] = None
            elif not _USED.fullmatch(word):  # `used 3/63/3probes 0` runs together
                strange = word
            at += 1
        if strange or "dev" not in row:
            reason = f"{strange} is not understood" if strange and "dev" in row else "not understood"
            troubles.append(Trouble(line=number, text=quoted(text), reason=reason))
        else:
            rows.append((number, row))
    return rows, troubles


def neighbour_row(row: dict[str, Any], devices: Devices) -> Neighbour | None:
    """Return the neighbour of one object of `ip -j neigh`; None for a multicast group, whose MAC is computed."""
    address = ip_address(str(row["dst"]))
    if address.is_multicast:
        return None
    states = [str(each) for each in row.get("state") or ()]
    for state in states:
        if state not in STATES:
            raise ValueError(f"the state {state!r} is not known")
    return Neighbour(
        ifindex=devices.index(str(row["dev"])),
        address=address,
        mac=str(row["lladdr"]) if row.get("lladdr") else None,
        state=states[0] if states else "NONE",
        proxy="proxy" in row,
    )


def parse_bridge_fdb(lines: Sequence[Line]) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Turn the text of `bridge fdb` into the objects that `bridge -j fdb` prints, each with its line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    troubles: list[Trouble] = []
    for number, text in lines:
        words = text.split()
        if not words:
            continue
        row: dict[str, Any] = {"mac": words[0], "flags": [], "_text": text.strip()}
        at, strange = 1, "" if FDB.fullmatch(text.strip()) else words[0]
        while at < len(words) and not strange:
            word = words[at]
            if word in ("dev", "port", "vlan", "dst", "src_vni", "vni", "via", "link-netnsid", "used", "nhid"):
                value = words[at + 1] if at + 1 < len(words) else ""
                if word == "port":
                    row["dst_port"] = value
                else:
                    row["ifname" if word == "dev" else word] = value
                at += 1
            elif word == "master" and at + 1 < len(words):
                row["master"] = words[at + 1]
                at += 1
            elif word in ("permanent", "static", "stale"):
                row["state"] = word
            elif word in FLAGS or word in (
                "added_by_user",
                "added_by_external",
                "dynamic",
                "activity_notify",
                "inactive",
            ):
                row["flags"].append(word)
            elif word in ("locked", "blackhole"):
                pass
            else:
                strange = word
            at += 1
        if strange or "ifname" not in row:
            troubles.append(Trouble(line=number, text=quoted(text)))
        else:
            rows.append((number, row))
    return rows, troubles


def fdb_row(row: dict[str, Any], devices: Devices) -> FdbEntry | None:
    """Return the entry of one object of `bridge -j fdb`; None for a device's own filter list, which forwards nothing.

    A vxlan device's entries are its own as well ("self"); they are told by their destination.
    """
    flags = tuple(name for name in FLAGS if name in (row.get("flags") or ()))
    if "self" in flags and not row.get("dst") and not row.get("nhid"):
        return None
    state = str(row.get("state") or "")
    master = devices.index(str(row["master"])) if row.get("master") else None
    vni = row.get("vni", row.get("src_vni"))
    return FdbEntry(
        ifindex=devices.index(str(row["ifname"])),
        mac=str(row["mac"]).lower(),
        master=master,
        vlan=index(row["vlan"]) if row.get("vlan") is not None else None,
        dst=ip_address(str(row["dst"])) if row.get("dst") else None,
        vni=index(vni) if vni is not None else None,
        state=state,
        flags=flags,
        local=state == "permanent" and "self" not in flags,
    )
