"""A question about a pasted host: what of the paste it may read, and which gaps concern it."""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.base import Present
from nettrace.model.flow import PROTO_NUMBER, Flow
from nettrace.model.snapshot import ConntrackEntry, Snapshot
from nettrace.model.verdict import GapView, Verdict

__all__ = ["concerning", "with_conntrack"]


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


def _belongs(entry: ConntrackEntry, flow: Flow) -> bool:
    """Tell whether an entry may be of the flow: same protocol, its addresses and its port among those of both ways."""
    if entry.orig.proto != PROTO_NUMBER[flow.proto, flow.family]:
        return False
    ways = (entry.orig, entry.reply)
    addresses = {each for way in ways for each in (way.src, way.dst)}
    ports = {each for way in ways for each in (way.sport, way.dport)}
    known = {end.address for end in (flow.src, flow.dst) if end.address is not None}
    return bool(known) and known <= addresses and (flow.dport is None or flow.dport in ports)


def concerning(verdict: Verdict, snapshot: Snapshot, flow: Flow) -> Verdict:
    """Return a verdict without gaps of namespaces that the flow has nothing to do with, but for how many they are.

    A paste of a host with a hundred containers lacks something of each; what is not on the way is not of interest.
    """
    ids = {flow.src.netns, flow.dst.netns, snapshot.host_netns}
    ids |= {hop.netns for hop in verdict.hops}
    names = {each.name for each in snapshot.namespaces if each.id in ids}
    other = {each.name for each in snapshot.namespaces} - names
    kept = tuple(gap for gap in verdict.gaps if gap.netns not in other)
    left_out = len(verdict.gaps) - len(kept)
    if not left_out:
        return verdict
    reason = f"{left_out} gaps of namespaces that the flow has nothing to do with are not shown"
    return replace(verdict, gaps=(*kept, GapView(section="namespace", netns=None, reason=reason)))
