"""`nettrace explain`: what a finding means, how it is proved, how it is mended, from the rule's own documentation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nettrace.errors import UsageError

if TYPE_CHECKING:
    from nettrace.rules.base import Rule

__all__ = ["HEADINGS", "Explanation", "command", "parse_doc"]

SCHEMA = "nettrace.explain/1"

#: The headings of a rule's documentation, in order, and their keys in the JSON document.
HEADINGS: dict[str, str] = {
    "What it reports": "reports",
    "Why traffic stops": "why",
    "Proof": "proof",
    "Remedy": "remedy",
    "Known limits": "limits",
    "Seen in the field": "seen",
}


class Explanation:
    """A rule's documentation in its parts: the title, and one text for each heading that it has."""

    __slots__ = ("sections", "title")

    def __init__(self, title: str, sections: dict[str, str]) -> None:
        self.title = title
        self.sections = sections


def parse_doc(doc: str) -> Explanation:
    """Split a rule's docstring at its headings; lines of one part are joined, blank lines part paragraphs.

    The title is what stands before the first heading. A heading is one of `HEADINGS` and a colon at a line's start.
    """
    parts: dict[str, list[str]] = {"": []}
    current = ""
    for line in doc.strip().splitlines():
        text = line.strip()
        heading, colon, rest = text.partition(":")
        if colon and heading in HEADINGS:
            current, text = heading, rest.strip()
            parts[current] = []
        parts[current].append(text)
    joined = {heading: _paragraphs(lines) for heading, lines in parts.items()}
    title = joined.pop("").partition("\n")[0]
    return Explanation(title, joined)


def _paragraphs(lines: list[str]) -> str:
    """Join lines into paragraphs, which blank lines part."""
    return "\n\n".join(" ".join(group) for full, group in itertools.groupby(lines, key=bool) if full)


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [rule.code for rule in _rules() if rule.code.startswith(incomplete)]


@click.command("explain")
@click.argument("code", required=False, shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, schema nettrace.explain/1.")
def command(code: str | None, as_json: bool) -> None:
    """Tell what a finding means, how it is proved, and how it is mended.

    CODE is a finding's code, or a family for all of its codes; without it, every code that nettrace can name is
    listed.

    \b
    Examples:
      nettrace explain nat.masquerade-missing
      nettrace explain filter
    """
    rules = _rules()
    families = {rule.code.partition(".")[0] for rule in rules}
    if code is None or code in families:
        chosen = [rule for rule in rules if code is None or rule.code.startswith(f"{code}.")]
        click.echo(_json({"rules": [_summary(rule) for rule in chosen]}) if as_json else _listing(chosen))
        return
    found = next((rule for rule in rules if rule.code == code), None)
    if found is None:
        raise UsageError(_unknown(code, rules))
    click.echo(_json({"rule": _detail(found)}) if as_json else _page(found))


def _rules() -> Sequence[Rule]:
    from nettrace.rules import RULES  # here: it imports every rule, and with them the predictor

    return RULES


def _unknown(code: str, rules: Sequence[Rule]) -> str:
    import difflib

    codes = [rule.code for rule in rules]
    near = difflib.get_close_matches(code, codes, n=3, cutoff=0.5)
    tails = {each.partition(".")[2]: each for each in codes}
    near += [tails[tail] for tail in difflib.get_close_matches(code.rpartition(".")[2], tails, n=3, cutoff=0.6)]
    hint = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    return f"there is no finding {code!r}: {hint}`nettrace explain` lists them all"


def _listing(rules: Sequence[Rule]) -> str:
    """Return one line a rule, in paragraphs by family."""
    wide = max((len(rule.code) for rule in rules), default=0)
    families: dict[str, list[str]] = {}
    for rule in sorted(rules, key=lambda each: each.code):
        line = f"{rule.code:<{wide}}  {rule.severity.value:<9}  {parse_doc(rule.doc).title}"
        families.setdefault(rule.code.partition(".")[0], []).append(line.rstrip())
    return "\n\n".join("\n".join(lines) for lines in families.values())


def _page(rule: Rule) -> str:
    """Return a rule's documentation as a page of text."""
    explanation = parse_doc(rule.doc)
    blocks = [f"{rule.code} ({rule.severity.value})\n{_wrap(explanation.title, '')}"]
    blocks += [
        f"{heading}\n" + "\n\n".join(_wrap(paragraph, "  ") for paragraph in text.split("\n\n"))
        for heading, text in explanation.sections.items()
    ]
    return "\n\n".join(blocks)


def _wrap(text: str, indent: str) -> str:
    import shutil
    import textwrap

    width = max(60, min(100, shutil.get_terminal_size().columns))
    return textwrap.fill(
        text,
        width=width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(rule: Rule) -> dict[str, Any]:
    return {"code": rule.code, "severity": rule.severity.value, "title": parse_doc(rule.doc).title}


def _detail(rule: Rule) -> dict[str, Any]:
    sections = parse_doc(rule.doc).sections
    texts = {key: sections.get(heading) for heading, key in HEADINGS.items()}
    return {**_summary(rule), **texts, "needs": list(rule.needs)}


def _json(body: dict[str, Any]) -> str:
    import json

    return json.dumps({"schema": SCHEMA, **body}, indent=2, ensure_ascii=False)
