"""Prediction and wire disagree.

What it reports: the model says one thing about the packet's way, the captures another.
Why traffic stops: it need not: this tells that something on the host is not what the snapshot says, or that
    nettrace's model is wrong.
Proof: both, at the first point where they part.
Remedy: report it, with a bundle.
Known limits: what queues drop, and what becomes of ARP and NDP, is not predicted; a loss there is no disagreement.
Seen in the field: where the kernel and this model of it part; please report it, with a bundle.
"""

from __future__ import annotations

from nettrace.model.path import Direction
from nettrace.model.verdict import Agreement, Basis, Evidence, EvidenceKind, Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import dropping_rules_that_moved
from nettrace.rules.outside_facts import answer_spent, frame_astray
from nettrace.rules.traffic_facts import lost_at
from nettrace.rules.wording import place_of, untaken_by


def check(case: Case) -> Result:
    """Fire when a probe contradicts the trace."""
    correlation = case.correlation
    if not correlation.probed or correlation.model_stands:
        return fired()
    if frame_astray(case) is not None or answer_spent(case) is not None:
        return fired()  # the far end's doing, which no model of this host foresees
    if _beyond_the_model(case):
        return fired()
    at, said = _difference(case)
    moved = tuple(
        Evidence(kind=EvidenceKind.COUNTER, ref=place_of(ref), text=f"{ref.text}: counter rose by {by}")
        for _netns, ref, by in dropping_rules_that_moved(case)[:3]
    )
    return fired(
        Hit(
            title="what the model predicts and what the wire shows disagree",
            explanation=f"At {at}: {said}. The verdict follows the wire.",
            at=at,
            evidence=(Evidence(kind=EvidenceKind.PACKET, ref=at, text=said), *moved),
            mend=Mend(summary="Run it again; if it stays so, report it with a bundle of this run."),
            basis=Basis.OBSERVED,
        )
    )


def _difference(case: Case) -> tuple[str, str]:
    """Return where the two accounts part first, and how."""
    first = case.correlation.blockers[0] if case.correlation.blockers else None
    if first is not None and first.step is None and first.after is not None:
        refuser = untaken_by(case, first)
        if first.before is None and refuser is not None:
            what = "the packet" if first.direction is Direction.FORWARD else "the answer"
            return first.after, f"predicted to be taken by {refuser}, which did not take {what} ({first.direction})"
    for each in case.correlation.passages:
        if each.agreement in (Agreement.MODEL_ONLY, Agreement.WIRE_ONLY):
            said = f"predicted {each.predicted.value}, {each.observed.value} on the wire ({each.direction.value})"
            return each.point, said
    return case.flow.src.name, "the flow was predicted to stop, and got through"


def _beyond_the_model(case: Case) -> bool:
    """Tell whether the loss is one that the model never says anything about: a full queue, or ARP that is dropped."""
    first = case.blockers[0] if case.blockers else None
    if first is None or first.step is not None:
        return False
    if case.lost_ask is not None and case.lost_ask.blocker is first:
        return bool(case.lost_ask.suspects)
    found = lost_at(case, first)
    return found is not None and found.rise > 0


RULE = rule("model.contradicted", check, rank=95, needs=("links",), severity=Severity.WARNING)
