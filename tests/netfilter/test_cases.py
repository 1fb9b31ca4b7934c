"""Inputs that once broke a reader, for good: each is read or refused, and nothing else.

A case is a file cases/READER-what.txt, with a reader of tests.fuzz.parsers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.parsers import READERS, SEEDS, read

CASES = sorted(Path(__file__).parent.joinpath("cases").glob("*.txt"))


def _reader(case: Path) -> str:
    return next(each for each in READERS if case.name.startswith(each + "-"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_an_input_that_broke_a_reader_is_read_or_refused(case: Path) -> None:
    read(_reader(case), case.read_bytes())


@pytest.mark.parametrize("reader", sorted(READERS))
def test_the_seeds_of_the_fuzzer_are_read(reader: str) -> None:
    assert read(reader, SEEDS[reader].encode())


@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_seed_cut_anywhere_is_read_or_refused(reader: str) -> None:
    seed = SEEDS[reader].encode()
    for end in range(len(seed)):
        read(reader, seed[:end])


@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_seed_in_another_encoding_is_read_or_refused(reader: str, encoding: str) -> None:
    read(reader, SEEDS[reader].encode(encoding))
