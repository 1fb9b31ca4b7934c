"""The registry of rules: codes and files name each other; every rule is registered, documented, in the catalogue."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import nettrace.rules
from nettrace.commands.explain import HEADINGS, parse_doc
from nettrace.model.snapshot import Namespace
from nettrace.model.verdict import Severity
from nettrace.rules import RULES, rule_of
from nettrace.rules.base import Rule
from tests.readme import README, readme_text

FOLDER = Path(nettrace.rules.__file__).parent
CODE = re.compile(r"[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*")
#: Every code that the project promises, one a line.
CATALOGUE = tuple((Path(__file__).parent / "catalogue.txt").read_text().split())
#: Codes of the catalogue that no rule names yet. A rule that is built leaves this list.
NOT_BUILT: set[str] = set()
#: What a rule may need: the sections of a namespace, and what the engines meant.
SECTIONS = {*Namespace.__struct_fields__, "intent"}

EACH = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)


def file_of(code: str) -> Path:
    family, fault = code.split(".")
    return FOLDER / family / f"{fault.replace('-', '_')}.py"


@EACH
def test_a_code_is_well_formed(rule: Rule) -> None:
    assert CODE.fullmatch(rule.code)


@EACH
def test_a_rule_lives_in_the_file_that_its_code_names(rule: Rule) -> None:
    family, fault = rule.code.split(".")
    assert rule.check.__module__ == f"nettrace.rules.{family}.{fault.replace('-', '_')}"
    assert file_of(rule.code).is_file()


def test_every_rule_file_is_registered() -> None:
    files = {path for path in FOLDER.glob("*/*.py") if path.name != "__init__.py"}
    assert files == {file_of(rule.code) for rule in RULES}


def test_codes_are_unique_and_sorted() -> None:
    codes = [rule.code for rule in RULES]
    assert [code for code, count in Counter(codes).items() if count > 1] == []
    assert codes == sorted(codes)


@EACH
def test_a_rule_has_its_documentation(rule: Rule) -> None:
    page = parse_doc(rule.doc)
    assert page.title.endswith(".")
    assert list(page.sections) == list(HEADINGS)
    assert all(text.strip() for text in page.sections.values())


@EACH
def test_a_rule_says_what_it_needs_and_how_much_it_matters(rule: Rule) -> None:
    assert rule.severity in Severity
    assert rule.needs
    assert set(rule.needs) <= SECTIONS
    assert 10 <= rule.rank < 100
    assert rule.check.__doc__


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_code_of_the_catalogue_has_a_rule_or_is_known_not_to(code: str) -> None:
    assert (rule_of(code) is None) == (code in NOT_BUILT)


def test_every_rule_is_in_the_catalogue() -> None:
    assert {rule.code for rule in RULES} <= set(CATALOGUE)
    assert set(CATALOGUE) >= NOT_BUILT


def test_an_unknown_code_has_no_rule() -> None:
    assert rule_of("link.upside-down") is None


def test_the_table_of_the_readme_is_what_the_rules_say() -> None:
    text = README.read_text()
    assert readme_text(text) == text, "`make readme` writes it again"
