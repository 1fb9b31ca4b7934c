"""A table holds what nettrace cannot evaluate, and it could matter.

What it reports: a rule on the packet's way has a match or action that the model does not know, and the answer could
    depend on it.
Why traffic stops: it need not; the model only cannot tell.
Proof: the rule; the assumption that the verdict makes about it.
Remedy: look at the rule's counter while sending; report the rule, so that nettrace learns it.
Known limits: none.
Seen in the field: rules written by nft into tables that iptables manages are shown by neither tool as a whole
    (moby#46147, moby#48411). Common.
"""

from __future__ import annotations

from nettrace.model.netfilter import Assumption
from nettrace.model.path import Direction
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import filtered
from nettrace.rules.wording import enter, is_native_nft, place_of, program


def check(case: Case) -> Result:
    """Fire for each rule that the trace makes an assumption about, as long as no answer was seen.

    A rule that the kernel or its counter has told about is a stop, and no open question any more.
    """
    if case.correlation.reply_seen:
        return fired()
    told = [ref for _blocker, _step, ref in filtered(case)]
    return fired(*(_hit(case, each) for each in case.trace.assumptions if each.rule not in told))


def _hit(case: Case, assumption: Assumption) -> Hit:
    ref = assumption.rule
    steps = [step for direction in Direction for step in case.steps(direction) if step.hook is not None]
    netns = next((step.netns for step in steps if step.hook and assumption in step.hook.assumptions), None)
    inside = enter(case, netns) if netns is not None else ""
    listing = inside + (
        f"nft -a list chain {ref.family} {ref.table} {ref.chain}"
        if is_native_nft(ref)
        else f"{program(ref)} -t {ref.table} -vnL {ref.chain} --line-numbers"
    )
    return Hit(
        title=f"'{ref.text}' cannot be evaluated, and could change the answer",
        explanation=f"{place_of(ref)}: {assumption.reason}.",
        at=place_of(ref),
        evidence=(Evidence(kind=EvidenceKind.RULE, ref=place_of(ref), text=ref.text),),
        mend=Mend(summary="Watch the rule's counter while sending.", commands=(listing,)),
        basis=Basis.PREDICTED,
    )


RULE = rule("filter.unreadable-table", check, rank=94, needs=("netfilter",), severity=Severity.WARNING)
