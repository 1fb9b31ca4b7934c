"""Prediction and wire disagree.

What it reports: the model says one thing about the packet's way, the captures another.
Why traffic stops: it need not: this tells that something on the host is not what the snapshot says, or that
    nettrace's model is wrong.
Proof: both, at the first point where they part.
Remedy: report it, with a bundle.
Known limits: none.
Seen in the field: where the kernel and this model of it part; please report it, with a bundle.
"""

from __future__ import annotations

from nettrace.model.verdict import Agreement, Basis, Evidence, EvidenceKind, Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import dropping_rules_that_moved
from nettrace.rules.wording import place_of


def check(case: Case) -> Result:
    """Fire when a probe contradicts the trace."""
    correlation = case.correlation
    if not correlation.probed or correlation.model_stands:
        return fired()
    parted = next(
        (each for each in correlation.passages if each.agreement in (Agreement.MODEL_ONLY, Agreement.WIRE_ONLY)),
        None,
    )
    at = parted.point if parted is not None else case.flow.src.name
    said = (
        f"predicted {parted.predicted.value}, {parted.observed.value} on the wire ({parted.direction.value})"
        if parted is not None
        else "the flow was predicted to stop, and got through"
    )
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


RULE = rule("model.contradicted", check, rank=95, needs=("links",), severity=Severity.WARNING)
