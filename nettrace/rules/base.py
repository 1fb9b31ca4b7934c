"""The shapes of a rule and of its result."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import msgspec

from nettrace.correlate import Blocker
from nettrace.model.path import Direction, Segment
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import Basis, Evidence, Severity
from nettrace.rules.case import Case
from nettrace.rules.unread import on_the_way, unread_for, unread_sections

Change = Callable[[Snapshot], Snapshot]


class Mend(msgspec.Struct, frozen=True, kw_only=True):
    """A remedy: one sentence, the commands, and the same change to a snapshot (None when it cannot be modelled)."""

    summary: str
    commands: tuple[str, ...] = ()
    change: Change | None = None


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One fault found: where, the sentences for a person, the evidence, and how to mend it.

    `blocker` is the stop that this fault explains, None for a fault that explains none (a warning). `segment`,
    `device` and `direction` correct the stop where the fault lies elsewhere than its effect. `rank` replaces that of
    the rule, for a finding on weaker evidence than its others.
    """

    title: str
    explanation: str
    at: str
    evidence: tuple[Evidence, ...]
    mend: Mend
    basis: Basis
    blocker: Blocker | None = None
    severity: Severity | None = None
    rank: int | None = None
    segment: Segment | None = None
    direction: Direction | None = None
    device: str | None = None
    netns: int | None = None


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """The fault is there."""

    hits: tuple[Hit, ...]


class Clear(msgspec.Struct, frozen=True):
    """Everything needed was known, and the fault is not there."""


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """It cannot be told: `needs` names the sections that are missing."""

    needs: tuple[str, ...]
    reason: str


Result = Fired | Clear | Unknown


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One fault that nettrace can name. `doc` is the rule's module docstring, read by `nettrace explain`.

    Several faults may explain one stop; the lowest `rank` is the cause: 10 engine, 20 links and bridge, 30 addresses
    and neighbours, 40 sysctls, 50 routes, 60 filter and NAT, 70 MTU, 80 services, 90 whatever is left.
    """

    code: str
    severity: Severity
    needs: tuple[str, ...]
    rank: int
    check: Callable[[Case], Result]
    doc: str = ""


def rule(
    code: str,
    check: Callable[[Case], Result],
    *,
    rank: int,
    needs: tuple[str, ...] = (),
    severity: Severity = Severity.BLOCKING,
) -> Rule:
    """Make a rule out of a check; its documentation is the docstring of the module that the check is in.

    The rule is Unknown instead of firing on what was not read.
    """
    return Rule(
        code=code,
        severity=severity,
        needs=needs,
        rank=rank,
        check=_guarded(check, needs),
        doc=sys.modules[check.__module__].__doc__ or "",
    )


def _guarded(check: Callable[[Case], Result], needs: tuple[str, ...]) -> Callable[[Case], Result]:
    """Keep a check from firing where a section that the finding stands on is missing.

    Devices are what all else refers to: without those of a namespace on the way only the engine's word is left.
    """

    @functools.wraps(check)
    def guarded(case: Case) -> Result:
        if needs != ("intent",) and (lacking := unread_sections(case, on_the_way(case), ("links",))):
            return _unknown(lacking)
        result = check(case)
        if not isinstance(result, Fired):
            return result
        doubts = [unread_for(case, needs, hit.netns, hit.blocker) for hit in result.hits]
        kept = tuple(hit for hit, doubt in zip(result.hits, doubts, strict=True) if not doubt)
        return Fired(hits=kept) if kept else _unknown(doubts[0])

    return guarded


def _unknown(lacking: tuple[str, ...]) -> Unknown:
    return Unknown(needs=lacking, reason=f"not read: {', '.join(dict.fromkeys(lacking))}")


def fired(*hits: Hit | None) -> Result:
    """Return Fired with the hits that are there, Clear without any."""
    found = tuple(hit for hit in hits if hit is not None)
    return Fired(hits=found) if found else Clear()
