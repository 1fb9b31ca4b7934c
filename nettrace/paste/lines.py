"""Lines of a paste, cleaned of what terminals, mail and trackers add: colours, quotes, carriage returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from nettrace.model.base import Model

__all__ = [
    "MAX_LINE",
    "Line",
    "Source",
    "Trouble",
    "clean",
    "converted",
    "counter",
    "index",
    "quoted",
    "without_escapes",
]

T = TypeVar("T")

#: A longer line is none that a tool of this kind prints (sets of nftables and JSON documents are read otherwise).
MAX_LINE = 1 << 16
MAX_QUOTE = 120

#: ECMA-48 control sequences, operating system commands, and two-character escapes.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/][0-~]|[0-~])")
_QUOTE = re.compile(r"(?:\s{0,3}> ?){1,20}+")


class Source(Model):
    """One file as it was given: its name as a path with "/", relative to what the user named, and its text."""

    name: str
    text: str


class Line(NamedTuple):
    """One line: its number in the file, from 1, and its text without the line's end."""

    number: int
    text: str


class Trouble(Model):
    """A line that was not understood, or only in part: where it is, what it says (shortened), and what is wrong."""

    line: int
    text: str
    reason: str = "not understood"


def without_escapes(text: str) -> str:
    """Return the text without what only steers a terminal."""
    return _ESCAPE.sub("", text) if "\x1b" in text else text


def clean(text: str) -> list[str]:
    """Return the lines of a paste: no escapes, no carriage returns, no "> " that quotes an answer."""
    text = without_escapes(text.removeprefix("\ufeff"))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if ">" in text:
        lines = [_unquoted(line) for line in lines]
    return lines


def _unquoted(line: str) -> str:
    head = line[:4].lstrip()
    if not head.startswith(">"):
        return line
    found = _QUOTE.match(line)
    return line[found.end() :] if found is not None else line


def quoted(text: str) -> str:
    """Return a line as a trouble quotes it: its beginning, without the white space around."""
    text = text[: MAX_QUOTE * 8].strip()
    return text if len(text) <= MAX_QUOTE else f"{text[: MAX_QUOTE - 1]}…"


def index(value: Any) -> int:
    """Return an ifindex, table or mark: a number of 32 bits, also as text; raises ValueError."""
    return _bounded(value, 1 << 32)


def counter(value: Any) -> int:
    """Return a count of 64 bits, also as text; raises ValueError."""
    return _bounded(value, 1 << 64)


def _bounded(value: Any, end: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no number")
    if isinstance(value, str) and len(value) > 24:
        raise ValueError("a number too long")
    number = int(value, 0) if isinstance(value, str) and value[:2].lower() == "0x" else int(value)
    if not 0 <= number < end:
        raise ValueError(f"{number} is out of range")
    return number


def converted(
    rows: Iterable[tuple[int, dict[str, Any]]], convert: Callable[[dict[str, Any]], T | None]
) -> tuple[list[T], list[Trouble]]:
    """Convert rows one by one; one that cannot be is a trouble, which quotes it. None is a row to leave out."""
    found: list[T] = []
    troubles: list[Trouble] = []
    for number, row in rows:
        try:
            made = convert(row)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:MAX_QUOTE] or type(error).__name__
            troubles.append(Trouble(line=number, text=quoted(str(row.get("_text") or row)), reason=reason))
            continue
        if made is not None:
            found.append(made)
    return found, troubles


def whole_dicts(document: Any, line: int) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Return the objects of a JSON list (or the one object that stands for a list); iproute2 prints empty ones too."""
    items: Sequence[Any] = document if isinstance(document, list) else [document]
    rows = [(line, each) for each in items if isinstance(each, dict) and each]
    strange = [each for each in items if not isinstance(each, dict)]
    return rows, [Trouble(line=line, text=quoted(str(each)), reason="no object") for each in strange[:20]]
