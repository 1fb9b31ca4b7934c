"""A question about a pasted host: what of the paste it may read, and what may be supposed of what is missing."""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace

from nettrace.model.base import Missing, Present, rows
from nettrace.model.flow import PROTO_NUMBER, Flow
from nettrace.model.snapshot import ConntrackEntry, DumpFormat, Namespace, Snapshot
from nettrace.paste.iptables_text import UNREAD

#: Rules that stand for a table of which nothing is known.
_SELDOM = re.compile(rf'^-A \S+ -m {UNREAD} --text "table (?:raw|mangle)" -j DROP\n', re.MULTILINE)

#: Tables of which a packet's way may depend on every row.
_DECIDING = frozenset(f"{each}/part" for each in ("links", "addresses", "routes", "rules", "netfilter", "sysctls"))

__all__ = ["read_in_part", "supposing", "with_conntrack"]


def with_conntrack(asked: Snapshot, pasted: Snapshot, flow: Flow) -> Snapshot:
    """Return the snapshot of a question with the entries of its flow: a pasted listing holds those of all flows."""
    tables = {each.id: each.conntrack for each in pasted.namespaces}
    namespaces = []
    for namespace in asked.namespaces:
        table = tables.get(namespace.id)
        if isinstance(table, Present):
            own = tuple(entry for entry in table.rows if _belongs(entry, flow))
            namespace = replace(namespace, conntrack=Present(rows=own))
        namespaces.append(namespace)
    return replace(asked, namespaces=tuple(namespaces))


def read_in_part(snapshot: Snapshot) -> bool:
    """Tell whether of some table that may decide over a packet only a part is known: then nothing is proved well."""
    return any(gap.section in _DECIDING for gap in snapshot.gaps)


def supposing(snapshot: Snapshot) -> tuple[Snapshot, str] | None:
    """Return the snapshot with tables that were not pasted as they are where nobody interferes; and what that takes.

    Neighbours and learnt forwarding entries come and go by themselves: with none, each is asked for again. iptables'
    tables raw and mangle are empty on most hosts. None when nothing of that is missing.
    """
    namespaces, names = [], []
    for namespace in snapshot.namespaces:
        lacks = [name for name in ("neighbours", "fdb") if isinstance(getattr(namespace, name), Missing)]
        if lacks:
            what = " and ".join("forwarding entries" if name == "fdb" else name for name in lacks)
            names.append(f"{what} of {namespace.name}")
            empty: dict[str, Any] = {name: Present() for name in lacks}
            namespace = replace(namespace, **empty)
        if isinstance(namespace.netfilter, Present) and any(map(_SELDOM.search, _texts(namespace))):
            names.append(f"raw and mangle of {namespace.name}")
            dumps = tuple(replace(each, text=_SELDOM.sub("", each.text)) for each in namespace.netfilter.rows)
            namespace = replace(namespace, netfilter=Present(rows=dumps))
        namespaces.append(namespace)
    if not names:
        return None
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return replace(
        snapshot, namespaces=tuple(namespaces)
    ), f"not in the paste, and supposed to hold nothing odd: {shown}"


def _texts(namespace: Namespace) -> list[str]:
    return [each.text for each in rows(namespace.netfilter) if each.format is DumpFormat.IPTABLES_SAVE]


def _belongs(entry: ConntrackEntry, flow: Flow) -> bool:
    """Tell whether an entry may be of the flow: same protocol, its addresses and its port among those of both ways."""
    if entry.orig.proto != PROTO_NUMBER[flow.proto, flow.family]:
        return False
    ways = (entry.orig, entry.reply)
    addresses = {each for way in ways for each in (way.src, way.dst)}
    ports = {each for way in ways for each in (way.sport, way.dport)}
    known = {end.address for end in (flow.src, flow.dst) if end.address is not None}
    return bool(known) and known <= addresses and (flow.dport is None or flow.dport in ports)
