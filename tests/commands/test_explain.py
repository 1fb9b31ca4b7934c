"""`nettrace explain`: the page, the list, and the way back from a mistyped code."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from nettrace.cli import main
from nettrace.commands.explain import HEADINGS, parse_doc
from nettrace.model.verdict import Severity

DOC = """A host veth that should be a bridge port has no master.

What it reports: the engine attached the container to a bridge,
but its host veth is a port of none.
Why traffic stops: frames reach the host's stack: the bridge never sees them.
Proof: the engine's attachment.

    A second paragraph.
Remedy: make it a port again.
Known limits: without an engine there is no intent.
Seen in the field: after a restart of the network manager.
"""


@dataclass(frozen=True)
class FakeRule:
    code: str
    severity: Severity = Severity.BLOCKING
    doc: str = DOC
    needs: tuple[str, ...] = ("links",)


RULES = (
    FakeRule("bridge.port-without-master"),
    FakeRule("nat.masquerade-missing", doc="Nothing translates the source."),
    FakeRule("nat.masquerade-shadowed", Severity.WARNING),
)


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("nettrace.rules")
    module.RULES = RULES  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nettrace.rules", module)


def test_a_docstring_falls_apart_at_its_headings() -> None:
    parts = parse_doc(DOC)
    assert parts.title == "A host veth that should be a bridge port has no master."
    assert list(parts.sections) == list(HEADINGS)
    assert parts.sections["What it reports"] == (
        "the engine attached the container to a bridge, but its host veth is a port of none."
    )
    assert parts.sections["Why traffic stops"].endswith("stack: the bridge never sees them.")
    assert parts.sections["Proof"] == "the engine's attachment.\n\nA second paragraph."


def test_without_a_code_every_rule_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line] == [rule.code for rule in RULES]
    assert lines[1] == ""  # families stand apart


def test_a_family_lists_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nat"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [each.code for each in RULES[1:]]


def test_a_code_prints_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "bridge.port-without-master"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("bridge.port-without-master (blocking)\nA host veth")
    for heading in HEADINGS:
        assert f"\n{heading}\n  " in out


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("nat.masquerade-mising", "nat.masquerade-missing"),
        ("masquerade-missing", "nat.masquerade-missing"),
        ("bridge.port-without-masters", "bridge.port-without-master"),
    ],
)
def test_a_mistyped_code_gets_the_nearest_and_exit_2(typed: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", typed]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert near in err


def test_a_code_like_no_other_is_told_where_the_list_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "zzz"]) == 2
    assert "`nettrace explain` lists them all" in capsys.readouterr().err


def test_json_of_one_and_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "bridge.port-without-master", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["schema"] == "nettrace.explain/1"
    assert set(one["rule"]) == {"code", "severity", "title", "needs", *HEADINGS.values()}
    assert main(["explain", "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert [each["code"] for each in every["rules"]] == [rule.code for rule in RULES]
    assert main(["explain", "nat.masquerade-missing", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"]["proof"] is None
