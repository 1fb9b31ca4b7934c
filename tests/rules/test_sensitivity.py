"""Knowing less never makes a verdict bolder.

Every recorded case is diagnosed again with one section of one namespace missing, as the collector marks what it could
not read, and with the engine's word missing: with the recorded probe, and by the model alone. The answer stays, or
becomes less certain. It never turns into another blocking cause, nor into "delivered".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from msgspec.structs import replace

from nettrace.model.base import Missing
from nettrace.model.flow import EndpointKind, FlowEnd
from nettrace.model.intent import Intent
from nettrace.model.snapshot import Gap, Snapshot
from nettrace.model.verdict import Result, Severity, Verdict
from nettrace.predict import predict
from nettrace.replay import Recorded, diagnose_again, read_case
from tests.rules.build import REASON, SECTIONS

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
SLUGS = sorted(path.name for path in CASES.iterdir())


def without(snapshot: Snapshot, netns: int, section: str) -> Snapshot:
    """Mark a section of a namespace as missing, with the gap that the collector leaves."""
    spaces = tuple(
        replace(ns, **{section: Missing(reason=REASON)}) if ns.id == netns else ns for ns in snapshot.namespaces
    )
    ns = snapshot.namespace(netns)
    gap = Gap(section=section, netns=ns.name if ns is not None else None, reason=REASON)
    return replace(snapshot, namespaces=spaces, gaps=(*snapshot.gaps, gap))


def without_intent(snapshot: Snapshot) -> Snapshot:
    gap = Gap(section="intent", netns=None, reason=REASON)
    return replace(snapshot, intent=Intent(), gaps=(*snapshot.gaps, gap))


def reduced(recorded: Recorded) -> Iterator[tuple[str, Recorded]]:
    """Yield a recorded case once for each thing that can be missing from it, with its name."""
    for ns in recorded.before.namespaces:
        for section in SECTIONS:
            after = recorded.after
            yield (
                f"{ns.name}/{section}",
                replace(
                    recorded,
                    before=without(recorded.before, ns.id, section),
                    after=without(after, ns.id, section) if after is not None else None,
                ),
            )
    if not any(end.kind is EndpointKind.CONTAINER and end.netns is None for end in ends(recorded)):
        after = recorded.after
        src, dst = (unnamed(end) for end in ends(recorded))
        yield (
            "intent",
            replace(
                recorded,
                run=replace(recorded.run, flow=replace(recorded.run.flow, src=src, dst=dst)),
                before=without_intent(recorded.before),
                after=without_intent(after) if after is not None else None,
            ),
        )


def ends(recorded: Recorded) -> tuple[FlowEnd, FlowEnd]:
    return recorded.run.flow.src, recorded.run.flow.dst


def unnamed(end: FlowEnd) -> FlowEnd:
    """Return an end as it is asked for when no engine answers: a container by its namespace."""
    return replace(end, kind=EndpointKind.NETNS, id=None) if end.kind is EndpointKind.CONTAINER else end


def heard_at(recorded: Recorded) -> Recorded:
    """Leave of a recorded probe what its own plan would have heard: a point that the model has not, nobody opens."""
    observation = recorded.observation
    if observation is None:
        return recorded
    points = {point.id for point in predict(recorded.before, recorded.run.flow).points}
    return replace(
        recorded,
        observation=replace(
            observation,
            captures=tuple(each for each in observation.captures if each.point in points),
            sightings=tuple(each for each in observation.sightings if each.point in points),
        ),
    )


def modelled(recorded: Recorded) -> Recorded:
    """Return the case as --predict would have recorded it."""
    return replace(recorded, observation=None, after=None)


@cache
def case(slug: str) -> Recorded:
    return read_case(CASES / slug)


def causes(verdict: Verdict) -> list[str]:
    return [each.code for each in verdict.findings if each.severity in (Severity.BLOCKING, Severity.DEGRADING)]


#: Without the engine's word a rule is only somebody's rule, and a veth without master is no fault: the host answers
#: for its gateway on the veth itself, and the packet then runs into rp_filter, as the veth has no address.
PLAINER = {
    "filter.icc-disabled": "filter.rule-drop",
    "bridge.port-without-master": "sysctl.rp-filter",
}


def bolder(full: Verdict, less: Verdict, missing: str) -> str:
    """Return how a verdict with less to go by says more than the full one; empty when it does not.

    Without the engine's word the same objects may bear plainer names, but the cause, the first of them, stays.
    """
    known = causes(full)
    if missing == "intent":
        first, now = causes(full)[:1], causes(less)[:1]
        same = not now or now == first or now == [PLAINER.get(each) for each in first]
        return "" if same and less.outcome in (full.outcome, Result.INCONCLUSIVE) else f"{first} became {now}"
    if less.outcome is Result.DELIVERED and full.outcome is not Result.DELIVERED:
        return f"{full.outcome} {known} became delivered"
    if new := [code for code in causes(less) if code not in known]:
        return f"{full.outcome} {known} became {less.outcome} {causes(less)}: {new} is new"
    if less.outcome in (Result.STOPPED, Result.DEGRADED) and full.outcome not in (Result.STOPPED, Result.DEGRADED):
        return f"{full.outcome} became {less.outcome}"
    return ""


@cache
def verdicts(slug: str, way: str) -> tuple[Verdict, dict[str, Verdict]]:
    """Return the full verdict of a case, and those with something missing, by its name."""
    recorded = case(slug) if way == "probe" else modelled(case(slug))
    return diagnose_again(recorded)[0], {name: diagnose_again(heard_at(less))[0] for name, less in reduced(recorded)}


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("way", ["probe", "model"])
def test_a_missing_section_makes_no_verdict_bolder(slug: str, way: str) -> None:
    full, fewer = verdicts(slug, way)
    found = {name: bolder(full, less, name) for name, less in fewer.items()}
    assert {name: text for name, text in found.items() if text} == {}


@pytest.mark.parametrize("slug", SLUGS)
def test_what_is_missing_is_among_the_gaps(slug: str) -> None:
    for name, verdict in verdicts(slug, "probe")[1].items():
        netns, _, section = name.rpartition("/")
        assert any((gap.section, gap.netns or "") == (section, netns) for gap in verdict.gaps), name
