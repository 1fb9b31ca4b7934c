"""The connection table is full: new connections are dropped.

What it reports: the wire loses the packet in a namespace whose conntrack table holds as many entries as it may, or
    that counted a drop.
Why traffic stops: without room for an entry conntrack drops the packet ("nf_conntrack: table full, dropping packet").
Proof: nf_conntrack_count against nf_conntrack_max; the drop counter of /proc/net/stat/nf_conntrack.
Remedy: raise net.netfilter.nf_conntrack_max, and find who fills the table.
Known limits: the model knows no such drop, so only a probe shows it; without one a full table is a warning.
Seen in the field: connections fail at random under load, and the kernel log says "table full" (kubernetes#71261,
    kubernetes#18604, nixpkgs#12987). Common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.base import Values
from nettrace.model.path import Segment
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, Severity
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import lost_on_wire
from nettrace.rules.wording import enter, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for a loss that only the wire shows where a namespace on the way has a full conntrack table."""
    full = [view for view in case.world.views.values() if _is_full(case, view)]
    if not full:
        return fired()
    view = next((each for each in full if each.id == case.world.host), full[0])
    if not case.correlation.probed:
        return fired(_hit(case, view, None)) if not case.blockers else fired()
    return fired(*(_hit(case, view, blocker) for blocker in lost_on_wire(case)))


def _is_full(case: Case, view: View) -> bool:
    for snapshot in (case.before, case.after):
        ns = snapshot.namespace(view.id) if snapshot is not None else None
        if ns is None or not isinstance(ns.counters, Values):
            continue
        count, limit = ns.counters.values.get("nf_conntrack.count"), ns.counters.values.get("nf_conntrack.max")
        if count is not None and limit and count >= limit:
            return True
    return False


def _hit(case: Case, view: View, blocker: Blocker | None) -> Hit:
    ns = view.ns.counters
    values = ns.values if isinstance(ns, Values) else {}
    count, limit = values.get("nf_conntrack.count", 0), values.get("nf_conntrack.max", 0)
    rise = case.counter_rise(view.id, "nf_conntrack.drop")
    counted = (
        (Evidence(kind=EvidenceKind.COUNTER, ref=view.name, text=f"nf_conntrack drop rose by {rise}"),) if rise else ()
    )
    segment = Segment.HOST if view.id == case.world.host else None
    return Hit(
        title=f"the connection table of {view.name} is full ({count} of {limit})",
        explanation=f"{view.name} tracks {count} connections and may track {limit}, so packets of new connections "
        "are dropped.",
        at=view.name,
        evidence=(
            Evidence(kind=EvidenceKind.COUNTER, ref=view.name, text=f"nf_conntrack_count = {count}"),
            sysctl_evidence(view, f"net.netfilter.nf_conntrack_max = {limit}"),
            *counted,
            *(wire_evidence(case, blocker) if blocker is not None else ()),
        ),
        mend=Mend(
            summary="Raise the limit, and find who fills the table.",
            commands=(
                f"sysctl -w net.netfilter.nf_conntrack_max={max(65536, 2 * limit)}",
                f"{enter(case, view.id)}conntrack -S",
            ),
        ),
        basis=blocker.basis if blocker is not None else Basis.PREDICTED,
        blocker=blocker,
        severity=None if blocker is not None else Severity.WARNING,
        segment=segment if blocker is not None else None,
        netns=view.id if blocker is not None else None,
    )


RULE = rule("conntrack.table-full", check, rank=43, needs=("counters",))
