"""What a person reads: golden texts, and what holds for every text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nettrace.model.verdict import Verdict
from nettrace.render.text import render_text
from tests.render import samples

GOLDEN = Path(__file__).parent / "golden"
EVERY = pytest.mark.parametrize("sample", samples.ALL.values(), ids=samples.ALL.keys())
SGR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("name", samples.ALL)
def test_the_text_is_the_golden_one(name: str, update_golden: bool) -> None:
    text = render_text(samples.ALL[name](), color=False, width=80)
    golden = GOLDEN / f"{name}.txt"
    if update_golden:
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text + "\n")
    assert text + "\n" == golden.read_text()


def test_every_golden_text_has_its_sample() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(samples.ALL)


@EVERY
@pytest.mark.parametrize("width", [1, 80, 132])
@pytest.mark.parametrize("unicode", [True, False])
def test_nothing_from_the_host_reaches_the_terminal_raw(
    sample: Callable[[], Verdict], width: int, unicode: bool
) -> None:
    text = render_text(sample(), color=False, width=width, unicode=unicode)
    assert all(char.isprintable() or char == "\n" for char in text)


@EVERY
def test_colour_changes_nothing_but_colour(sample: Callable[[], Verdict]) -> None:
    plain = render_text(sample(), color=False, width=80)
    colored = render_text(sample(), color=True, width=80)
    assert colored != plain
    assert SGR.sub("", colored) == plain


@EVERY
def test_ascii_signs_are_ascii(sample: Callable[[], Verdict]) -> None:
    verdict = sample()
    text = render_text(verdict, color=False, width=80, unicode=False)
    own = {char for char in text if not char.isascii()}
    quoted = {char for finding in verdict.findings for each in finding.evidence for char in each.text}
    assert own <= quoted


@EVERY
def test_the_path_fits_eighty_columns(sample: Callable[[], Verdict]) -> None:
    lines = render_text(sample(), color=False, width=80).splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith("--")), None)
    if start is not None:
        assert max(map(len, lines[start : lines.index("", start)])) <= 80


def test_a_command_stands_alone_and_whole_on_its_line() -> None:
    verdict = samples.masquerade_missing()
    lines = [line.strip() for line in render_text(verdict, color=False, width=60).splitlines()]
    for command in verdict.findings[0].remedy.commands:
        assert command in lines


def test_a_line_break_in_a_name_cannot_make_a_second_command() -> None:
    lines = [line.strip() for line in render_text(samples.hostile(), color=False, width=80).splitlines()]
    assert not any(line.startswith("rm ") for line in lines)


def test_the_stop_stands_where_the_packet_was_last_seen() -> None:
    lines = render_text(samples.filtered(), color=False, width=100).splitlines()
    stop = next(index for index, line in enumerate(lines) if "stopped here" in line)
    assert "host/veth9a41c2e" in lines[stop - 1]
    assert any("host/veth77d0b11" in line for line in lines[stop + 1 : stop + 3])


def test_the_model_alone_shows_no_wire() -> None:
    text = render_text(samples.predicted_only(), color=False, width=80)
    assert "wire" not in text
    assert "no packet was sent" in text
