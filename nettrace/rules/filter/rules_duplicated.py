"""The same rule stands in a chain many times.

What it reports: identical rules fill a chain, which something appends again and again.
Why traffic stops: it does not; each packet walks all of them, which costs time, and deleting one copy changes nothing.
Proof: how often the rule stands.
Remedy: delete the copies, and mend what appends without looking (an old iptables, a script).
Known limits: fewer than 50 copies are not reported.
Seen in the field: iptables 1.8.1 and 1.8.2 could not find a rule again, and programs appended it without end
    (kubernetes#76431, kubernetes#82361, k3s#3117).
"""

from __future__ import annotations

from collections import Counter

from nettrace.model.netfilter import RuleRef
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.wording import delete_command, place_of

#: Fewer copies than this can be deliberate (a chain that jumps alike from many places).
MANY = 50


def check(case: Case) -> Result:
    """Fire for each rule that stands at least 50 times in one chain of a namespace on the way."""
    hits = []
    for netns, view in case.world.views.items():
        counts: Counter[tuple[str, str, str, str, str]] = Counter()
        first: dict[tuple[str, str, str, str, str], RuleRef] = {}
        for table in view.ruleset.tables:
            for chain in table.chains.values():
                for each in chain.rules:
                    ref = each.ref
                    key = (ref.backend, ref.family, ref.table, ref.chain, ref.text)
                    counts[key] += 1
                    first.setdefault(key, ref)
        for key, count in counts.items():
            if count >= MANY:
                hits.append(_hit(case, netns, view.name, first[key], count))
    return fired(*hits)


def _hit(case: Case, netns: int, name: str, ref: RuleRef, count: int) -> Hit:
    return Hit(
        title=f"the rule '{ref.text}' stands {count} times in {ref.table} {ref.chain} of {name}",
        explanation=f"{ref.table} {ref.chain} holds the same rule {count} times: something appends it without looking "
        "whether it is there.",
        at=name,
        evidence=(
            Evidence(kind=EvidenceKind.RULE, ref=f"{name}: {place_of(ref)}", text=f"{ref.text}  ({count} times)"),
        ),
        mend=Mend(
            summary="Delete the copies, and mend what appends them.",
            commands=(f"{delete_command(case, netns, ref)}  # once for each copy too many",),
        ),
        basis=Basis.PREDICTED,
    )


RULE = rule("filter.rules-duplicated", check, rank=66, needs=("netfilter",), severity=Severity.WARNING)
