"""Every recorded case again, without root: the same pipeline must come to the recorded verdict.

`make fixtures` records cases from labs; `--update-golden` writes the verdicts anew from what was recorded.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.bundle import read_bundle, write_folder
from nettrace.bundle.format import VERDICT_JSON, VERDICT_TEXT, Run
from nettrace.errors import InputError
from nettrace.lab.record import RECIPES, case_toml, differences, seal
from nettrace.model.base import from_json, to_json
from nettrace.model.observe import Open
from nettrace.model.snapshot import Snapshot
from nettrace.render.json import render_json
from nettrace.render.text import render_text
from nettrace.replay import diagnose_again, read_case, recorded

CASES = Path(__file__).parent.parent / "fixtures" / "cases"
SLUGS = sorted(path.name for path in CASES.iterdir())
EVERY = pytest.mark.parametrize("slug", SLUGS)
#: A case holds two snapshots, and a repository many cases.
MOST_BYTES = 400_000


def untimed(text: str) -> dict[str, Any]:
    verdict: dict[str, Any] = json.loads(text)
    del verdict["timing"], verdict["tool"]
    return verdict


@EVERY
def test_the_replay_comes_to_the_recorded_verdict(slug: str, update_golden: bool) -> None:
    if update_golden:
        seal(CASES / slug)
    bundle = read_bundle(CASES / slug)
    verdict, _trace = diagnose_again(recorded(bundle))
    text, golden = render_json(verdict), bundle.members[VERDICT_JSON].decode()
    if update_golden and untimed(text) != untimed(golden):
        golden = text + "\n"
        prose = render_text(verdict, color=False, width=100) + "\n"
        members = {**bundle.members, VERDICT_JSON: golden.encode(), VERDICT_TEXT: prose.encode()}
        write_folder(CASES / slug, replace(bundle, members=members))
    assert untimed(text) == untimed(golden)
    assert verdict.timing.total_s == json.loads(golden)["timing"]["total_s"]


@EVERY
def test_the_verdict_is_the_expected_one(slug: str) -> None:
    recipe = next(each for each in RECIPES if each.slug == slug)
    case = tomllib.loads((CASES / slug / "case.toml").read_text())
    assert case_toml(recipe, case["args"], case.get("engine")) == (CASES / slug / "case.toml").read_text()
    assert differences(recipe.expected, json.loads((CASES / slug / "verdict.json").read_text())) == ""


@EVERY
def test_what_was_recorded_survives_json(slug: str) -> None:
    for name, kind in (("run", Run), ("before", Snapshot), ("after", Snapshot)):
        path = CASES / slug / f"{name}.json"
        if path.exists():
            model = from_json(path.read_bytes(), kind)
            assert from_json(to_json(model), kind) == model


@EVERY
def test_every_capture_is_whole(slug: str) -> None:
    observation = read_case(CASES / slug).observation
    if observation is None:
        return
    for capture in observation.captures:
        if isinstance(capture, Open):
            assert capture.frames == sum(frame.point == capture.point for frame in observation.frames)


@EVERY
def test_a_case_is_small(slug: str) -> None:
    assert sum(path.stat().st_size for path in (CASES / slug).iterdir()) < MOST_BYTES


def test_every_recipe_has_its_case() -> None:
    assert [each.slug for each in RECIPES if each.slug not in SLUGS] == []
    assert len({each.slug for each in RECIPES}) == len(RECIPES)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for path in (CASES / "healthy-out").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["run.json", "before.json", "after.json", "capture.pcapng"])
def test_a_damaged_case_is_refused(copied: Path, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=name):
        read_case(copied)


@pytest.mark.parametrize("name", ["run.json", "before.json", "after.json", "capture.pcapng"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 1_000_000, b"\n\r\r\n" + b"\xff" * 400, None])
def test_a_damaged_part_is_refused_although_its_hash_is_right(name: str, content: bytes | None) -> None:
    bundle = read_bundle(CASES / "healthy-out")
    half = bundle.members[name][: len(bundle.members[name]) // 2]
    with pytest.raises(InputError):
        recorded(replace(bundle, members={**bundle.members, name: half if content is None else content}))


def test_a_snapshot_of_the_future_is_refused() -> None:
    bundle = read_bundle(CASES / "healthy-out")
    newer = bundle.members["before.json"].replace(b"nettrace.snapshot/1", b"nettrace.snapshot/2")
    with pytest.raises(InputError, match="later one"):
        recorded(replace(bundle, members={**bundle.members, "before.json": newer}))


@pytest.mark.parametrize("name", ["run.json", "before.json", "capture.pcapng"])
def test_a_case_without_a_part_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(InputError, match=name):
        read_case(copied)
