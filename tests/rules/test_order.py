"""The order in which things are listed decides nothing where the kernel and the engine give it no meaning.

An engine lists its networks and containers in any order (they are rows of a map), and so do most dumps of the kernel.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from nettrace.model.base import Present
from nettrace.model.snapshot import Snapshot
from nettrace.replay import Recorded, diagnose_again, read_case

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
SLUGS = sorted(path.name for path in CASES.iterdir())
#: Sections whose rows are a set. Rules, routes of one prefix and addresses of one device have an order that counts.
SETS = ("links", "neighbours", "fdb", "sockets", "conntrack")


def shuffled(snapshot: Snapshot, seed: int) -> Snapshot:
    dice = random.Random(seed)

    def mixed(rows: tuple) -> tuple:  # type: ignore[type-arg]
        return tuple(dice.sample(rows, len(rows)))

    intent = snapshot.intent
    intent = replace(intent, networks=mixed(intent.networks), containers=mixed(intent.containers))
    spaces = []
    for space in snapshot.namespaces:
        for name in SETS:
            section = getattr(space, name)
            if isinstance(section, Present):
                space = replace(space, **{name: replace(section, rows=mixed(tuple(section.rows)))})
        spaces.append(space)
    return replace(snapshot, intent=intent, namespaces=mixed(tuple(spaces)))


def told(recorded: Recorded) -> object:
    verdict, _trace = diagnose_again(recorded)
    findings = [
        (each.code, each.severity, each.at, each.title, each.explanation, each.remedy) for each in verdict.findings
    ]
    return verdict.outcome, findings, [(hop.point, hop.observed) for hop in verdict.hops]


@pytest.mark.parametrize("slug", SLUGS)
def test_a_verdict_does_not_hang_on_the_order_of_a_listing(slug: str) -> None:
    recorded = read_case(CASES / slug)
    expected = told(recorded)
    for seed in range(3):
        after = recorded.after
        mixed = replace(
            recorded,
            before=shuffled(recorded.before, seed),
            after=shuffled(after, seed + 1) if after is not None else None,
        )
        assert told(mixed) == expected
