"""A forwarding entry sends the frame out of the wrong port, or up into the host.

What it reports: the bridge's forwarding table holds an entry for the MAC on another port than its owner's, or one that
    calls it the bridge's own (local, which is what `bridge fdb add` makes unless told otherwise). Or the bridge has
    none for its own address any more (`bridge fdb flush` without a filter).
Why traffic stops: such entries beat what the bridge would learn; the host, which takes frames for its own addresses,
    discards those for another's. Without an entry for itself a bridge floods what is for it, and does not take it.
Proof: the entry against the port that the MAC's owner is behind.
Remedy: delete the entry, or give the bridge its own one back.
Known limits: an entry that was learnt moves with the next frame that its owner sends.
Seen in the field: a MAC address stays on a port other than its veth, and the container is unreachable until it sends
    (moby#35922, k3s#1719).
"""

from __future__ import annotations

from nettrace.model.path import Reason, Step
from nettrace.model.snapshot import FdbEntry, Link
from nettrace.model.text import fdb_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_fdb, delete_fdb
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, link_evidence, names, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop at a port for this reason."""
    hits = []
    for blocker, step in blockers(case, Reason.FDB_WRONG_PORT):
        view = view_of(case, step)
        port = view.links[step.ifindex or 0]
        if _stands_twice(case, view, step.fdb):
            continue
        hits.append(
            Hit(
                title=_title(view, step),
                explanation=f"{step.text[:1].upper()}{step.text[1:]}.",
                at=f"{view.name}/{port.name}",
                evidence=(*_entry(view, step.fdb), link_evidence(view, port), *wire_evidence(case, blocker)),
                mend=_mend(case, view, port, step.fdb),
                basis=blocker.basis,
                blocker=blocker,
                device=port.name,
                netns=view.id,
            )
        )
    return fired(*hits)


def _stands_twice(case: Case, view: View, entry: FdbEntry | None) -> bool:
    """Tell whether an entry points at somebody who has that MAC address too: then it is not the entry that is wrong."""
    port = view.links.get(entry.ifindex) if entry is not None and not entry.local else None
    far = case.peer_of(view, port) if port is not None else None
    return entry is not None and far is not None and far[1].mac == entry.mac


def _mend(case: Case, view: View, port: Link, entry: FdbEntry | None) -> Mend:
    prefix = enter(case, view.id)
    if entry is not None:
        return Mend(
            summary="Delete the entry.",
            commands=(f"{prefix}{_delete(port, entry)}",),
            change=delete_fdb(view.id, entry.mac, port.ifindex),
        )
    own = FdbEntry(ifindex=port.ifindex, mac=port.mac or "", master=port.ifindex, state="permanent", local=True)
    return Mend(
        summary="Give the bridge its own entry back.",
        commands=(f"{prefix}bridge fdb add {port.mac} dev {port.name} self permanent",),
        change=add_fdb(view.id, own),
    )


def _title(view: View, step: Step) -> str:
    if step.fdb is None:
        return f"{step.device} has lost the forwarding entry for its own address"
    if not step.fdb.local:
        kind = "a static" if step.fdb.state else "a learnt"
        return f"{kind} forwarding entry points at the wrong port"
    at = view.links.get(step.fdb.ifindex)
    return f"a forwarding entry at {at.name if at is not None else 'the bridge'} calls {step.fdb.mac} the host's own"


def _entry(view: View, entry: FdbEntry | None) -> tuple[Evidence, ...]:
    if entry is None:
        return ()
    return (Evidence(kind=EvidenceKind.FDB, ref=view.name, text=fdb_text(entry, names(view))),)


def _delete(port: Link, entry: FdbEntry) -> str:
    vlan = f" vlan {entry.vlan}" if entry.vlan is not None else ""
    # The bridge's own entries are kept by its device, those of ports by their master.
    return f"bridge fdb del {entry.mac} dev {port.name} {'self' if port.kind == 'bridge' else 'master'}{vlan}"


RULE = rule("bridge.fdb-wrong", check, rank=26, needs=("links",))
