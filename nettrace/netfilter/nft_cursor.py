"""Move over the tokens of a text, and take from it what is expected.

The layers of the reader of nft's text stand on each other: this one knows tokens, nft_expressions values and
expressions, nft_grammar statements and rules, nft_text tables.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any, NoReturn, TypeAlias

from nettrace.errors import InputError
from nettrace.netfilter.nft_lexer import (
    COUNTED,
    END,
    HANDLE,
    NEWLINE,
    NUMBER,
    PUNCT,
    STRING,
    WORD,
    Token,
    line_of,
    scan,
)

__all__ = ["MAX_DEPTH", "SIZES", "Cursor", "Json", "UnknownWord", "milliseconds_of", "one_or_list"]

Json: TypeAlias = Any

#: Deeper nesting of brackets than nft can print is refused.
MAX_DEPTH = 32

SIZES: dict[str, int] = {"bytes": 1, "kbytes": 1024, "mbytes": 1024 * 1024, "gbytes": 1024**3}
_UNITS: dict[str, int] = {"w": 604800000, "d": 86400000, "h": 3600000, "m": 60000, "s": 1000, "ms": 1}


class UnknownWord(Exception):
    """A word that this reader has no grammar for; the rest of the rule is kept as text."""


class Cursor:
    """A place in the tokens of one text, and the family of the table it lies in."""

    def __init__(self, source: str, *, whole_rules: bool = False) -> None:
        self.source = source
        #: The plain rules that stand next, by where they start.
        self.plain: dict[int, re.Match[str]] = {}
        self.stream = scan(source, self.plain if whole_rules else None)
        self.tokens: list[Token] = []
        self.index = 0
        self._fill(0)
        self.token: Token = self.tokens[0]
        self.depth = 0
        self.family = "ip"

    def fail(self, what: str, token: Token | None = None) -> NoReturn:
        """Raise InputError at a token."""
        at = token or self.token
        line = line_of(self.source, at.start)
        if at.kind == END:
            raise InputError(f"line {line}: the ruleset ends too early; give the whole of `nft list ruleset`")
        shown = "the end of the line" if at.kind == NEWLINE else repr(at.text)
        raise InputError(f"line {line}: {what} {shown}; give what `nft list ruleset` prints")

    def advance(self) -> Token:
        """Return the current token, and go to the next."""
        token = self.token
        if token.kind != END:
            self.index += 1
            if self.index >= len(self.tokens):
                self._fill(self.index)
            self.token = self.tokens[self.index]
        return token

    def peek(self, ahead: int = 1) -> Token:
        """Return a token further on."""
        if self.index + ahead >= len(self.tokens):
            self._fill(self.index + ahead)
        return self.tokens[min(self.index + ahead, len(self.tokens) - 1)]

    def _fill(self, index: int) -> None:
        """Cut more tokens, at least up to an index; the last one is END when the text ends before."""
        self.tokens.extend(islice(self.stream, max(256, index + 1 - len(self.tokens))))

    def forget(self) -> None:
        """Let go of the tokens behind, to which nothing returns: a ruleset may be long."""
        if self.index > 4096:
            del self.tokens[: self.index - 1]
            self.index = 1

    def at(self, *texts: str) -> bool:
        """Tell whether the current token is one of these words or symbols."""
        return self.token.kind in (WORD, PUNCT) and self.token.text in texts

    def take(self, *texts: str) -> bool:
        """Go past the current token when it is one of these words or symbols."""
        if self.at(*texts):
            self.advance()
            return True
        return False

    def expect(self, text: str) -> Token:
        """Go past a word or symbol that must be here."""
        if not self.at(text):
            self.fail(f"expected {text!r} instead of")
        return self.advance()

    def skip_newlines(self) -> None:
        """Go past line ends (and handles, which belong to nothing there)."""
        while self.token.kind in (NEWLINE, HANDLE):
            self.advance()

    def name(self) -> str:
        """Return a name: of a table, a chain, a set, an object."""
        if self.token.kind not in (WORD, STRING, COUNTED, NUMBER):
            self.fail("expected a name instead of")
        return self.advance().text

    def integer(self) -> int:
        """Return a number that must be here."""
        if self.token.kind != NUMBER:
            self.fail("expected a number instead of")
        return self._int(self.advance())

    def _int(self, token: Token) -> int:
        text = token.text
        if len(text) > 64:
            self.fail("a number too long to be one:", token)
        return int(text, 16) if text[:2] in ("0x", "0X") else int(text)

    def string(self) -> str:
        """Return a quoted text that must be here."""
        if self.token.kind != STRING:
            self.fail("expected a quoted text instead of")
        return self.advance().text

    def end_of_statement(self) -> bool:
        """Tell whether a rule or a property ends here."""
        return self.token.kind in (NEWLINE, END, HANDLE) or self.at(";", "}")

    def separator(self) -> None:
        """Go past the end of a property."""
        self.forget()
        if not self.end_of_statement():
            self.fail("unexpected")
        while self.token.kind in (NEWLINE, HANDLE) or self.at(";"):
            self.advance()
        if self.token.kind == END and self.depth:
            self.fail("a bracket is not closed")

    def begin(self) -> None:
        """Go past the line end behind an opening bracket, if there is one."""
        while self.token.kind in (NEWLINE, HANDLE) or self.at(";"):
            self.advance()

    def open(self, bracket: str) -> None:
        """Go past an opening bracket, counting the nesting."""
        self.expect(bracket)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"brackets nested deeper than {MAX_DEPTH} at")

    def close(self, bracket: str) -> None:
        """Go past a closing bracket."""
        self.skip_newlines()
        self.expect(bracket)
        self.depth -= 1

    def handle(self) -> dict[str, int]:
        """Return the handle that stands behind this place, if any."""
        return {"handle": int(self.advance().text)} if self.token.kind == HANDLE else {}

    def _key(self, known: dict[str, str]) -> str:
        key = self.name()
        if key not in known:
            raise UnknownWord(key)
        return key

    def _words(self) -> list[str]:
        found = [self.name()]
        while self.take(","):
            found.append(self.name())
        return found

    def _names_in_braces(self) -> list[str]:
        found: list[str] = []
        self.open("{")
        self.skip_newlines()
        while not self.at("}"):
            found.append(self.name())
            self.skip_newlines()
            if not self.take(","):
                break
            self.skip_newlines()
        self.close("}")
        return found

    def _plain(self) -> Json:
        """A bare value: a number or a name."""
        return self.integer() if self.token.kind == NUMBER else self.name()

    def _milliseconds(self) -> int:
        token = self.token
        if token.kind == NUMBER:
            return self.integer() * 1000
        value = milliseconds_of(token.text) if token.kind == COUNTED else None
        if value is None:
            self.fail("expected a time instead of")
        self.advance()
        return value

    def _inverted(self) -> bool:
        if self.take("over"):
            return True
        self.take("until")
        return False


def one_or_list(values: list[Any]) -> Any:
    """Return the only value, or all of them: JSON has a list only where there are several."""
    return values[0] if len(values) == 1 else values


def milliseconds_of(text: str) -> int | None:
    """Turn "1d2h3m4s5ms" into milliseconds; None when it is no time."""
    total, position = 0, 0
    while position < len(text):
        end = position
        while end < len(text) and text[end].isdigit():
            end += 1
        unit = end
        while unit < len(text) and text[unit].isalpha():
            unit += 1
        factor = _UNITS.get(text[end:unit])
        if end == position or factor is None:
            return None
        total += int(text[position:end]) * factor
        position = unit
    return total
