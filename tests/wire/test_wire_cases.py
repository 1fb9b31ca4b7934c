"""Captures that once broke a reader, for good, and the fuzzer's seeds: each is read or refused, and nothing else.

A case is a file cases/READER-what, with a reader of tests.fuzz.captures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.captures import READERS, SEEDS, read

CASES = sorted(Path(__file__).parent.joinpath("cases").iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_capture_that_broke_a_reader_is_read_or_refused(case: Path) -> None:
    read(case.name.partition("-")[0], case.read_bytes())


@pytest.mark.parametrize("name", sorted(set(SEEDS) - {"frame"}))
def test_the_seeds_of_the_fuzzer_are_read(name: str) -> None:
    assert read("scan", SEEDS[name])
    assert read("stitch", SEEDS[name])


@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize("name", sorted(SEEDS))
def test_a_seed_cut_anywhere_is_read_or_refused(reader: str, name: str) -> None:
    seed = SEEDS[name]
    for end in range(0, len(seed), 1 if reader != "stitch" else 23):
        read(reader, seed[:end])
