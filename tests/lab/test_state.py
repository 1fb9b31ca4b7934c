"""The state that a lab writes down: it survives the round trip, and is found by the host namespace only."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from nettrace.errors import LabError
from nettrace.lab import state
from nettrace.lab.state import BrokenFault, LabState, NamespaceState, Process, Step
from nettrace.model.intent import Container, Intent


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "ROOT", tmp_path)
    return tmp_path


def made(name: str, host: Path | None = None, **more: object) -> LabState:
    fresh = LabState(
        name=name,
        engine="none",
        phase="ready",
        builder=Process(role="builder", pid=1, started=1),
        created_at_ns=1,
        host=NamespaceState(name="x", path=str(host), inode=host.stat().st_ino) if host else None,
    )
    return msgspec.structs.replace(fresh, **more)


def test_round_trip(root: Path) -> None:
    (root / "one").mkdir()
    saved = made(
        "one",
        root / "one",
        containers={"app": NamespaceState(name="a", path="/run/netns/a", inode=7)},
        processes=(Process(role="internet", pid=12, started=34),),
        intent=Intent(containers=(Container(id="c5ff39f37596", name="app", engine="lab", pid=3, netns=7),)),
        broken=(BrokenFault(name="f", mend=(Step(where="host", command="true"),)),),
    )
    state.save(saved)
    assert state.load("one") == saved
    assert [path.name for path in (root / "one").iterdir()] == ["state.json"]


def test_found_by_the_inode_of_its_host(root: Path) -> None:
    place = root / "netns"
    place.touch()
    (root / "one").mkdir()
    state.save(made("one", place))
    assert state.find_lab_of(place.stat().st_ino) == state.load("one")
    assert state.find_lab_of(place.stat().st_ino + 1) is None


def test_an_inode_that_now_is_something_else_is_not_a_lab(root: Path) -> None:
    place = root / "netns"
    place.touch()
    (root / "one").mkdir()
    inode = place.stat().st_ino
    state.save(made("one", place))
    place.rename(root / "moved")
    assert state.find_lab_of(inode) is None


def test_unreadable_labs_do_not_hide_others(root: Path) -> None:
    place = root / "netns"
    place.touch()
    for name in ("bad", "empty", "good"):
        (root / name).mkdir()
    (root / "bad" / "state.json").write_text("{")
    state.save(made("good", place))
    assert state.names() == ("bad", "empty", "good")
    found = state.find_lab_of(os.stat(place).st_ino)
    assert found is not None
    assert found.name == "good"


def test_errors_say_what_to_do(root: Path) -> None:
    with pytest.raises(LabError, match="nettrace lab list"):
        state.load("none")
    (root / "bad").mkdir()
    (root / "bad" / "state.json").write_text('{"name": 3}')
    with pytest.raises(LabError, match="nettrace lab down bad"):
        state.load("bad")


def test_no_labs_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROOT", root / "nowhere")
    assert state.names() == ()
    assert state.find_lab_of(1) is None
