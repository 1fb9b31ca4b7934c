"""Cut the text of `nft list ruleset` into tokens.

Line ends are tokens, because they end statements. A comment is dropped, but for the handle that `nft -a` puts into
one. Modelled on nftables' scanner.l, for what nft itself prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from nettrace.errors import InputError
from nettrace.netfilter.nft_plain import PLAIN

WORD = "word"  # a keyword or a name
NUMBER = "number"  # 80, 0x1f
COUNTED = "counted"  # a number with letters behind: 1h30m, 8021q
ADDRESS = "address"  # an IP or MAC address
PAIR = "pair"  # a tc handle, 1:2
STRING = "string"  # quoted; the value is without the quotes
PUNCT = "punct"  # a symbol
NEWLINE = "newline"
HANDLE = "handle"  # the number out of "# handle 5"
RULE = "rule"  # a whole plain rule
END = "end"

_TOKEN = re.compile(
    r"""
      (?P<blank>[ \t\r\f\v]+|\\\r?\n)
    | (?P<newline>\n)
    | (?P<comment>\#[^\n]*)
    | (?P<string>"[^"\n]*")
    | (?P<address>
          (?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4})?(?![\w:])
        | \d{1,3}(?:\.\d{1,3}){3}(?![\w.]))
    | (?P<pair>[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}(?![\w:.]))
    | (?P<number>0[xX][0-9A-Fa-f]+(?!\w)|\d+(?!\w))
    | (?P<counted>\d+[A-Za-z]\w*)
    | (?P<word>[A-Za-z_][\w.]*(?:[-/][\w.]+|[-/](?=\w))*)
    | (?P<punct>==|!=|<=|>=|<<|>>|[{}()\[\];,.:=!<>&|^/*@+$-])
    """,
    re.VERBOSE,
)

#: nft indents the rules of a chain by two tabs.
_PLAIN_LINE = re.compile(rf"\t\t{PLAIN.pattern}", re.VERBOSE)

_HANDLE = re.compile(r"#\s*handle\s+(\d+)\s*$")


class Token(NamedTuple):
    """One token: its kind, its text (without quotes), and where it starts and ends in the source."""

    kind: str
    text: str
    start: int
    end: int


def line_of(source: str, offset: int) -> int:
    """Return the number of the line that an offset lies in, from 1."""
    return source.count("\n", 0, offset) + 1


def scan(source: str, whole_rules: dict[int, re.Match[str]] | None = None) -> Iterator[Token]:
    """Cut the source into tokens, an END token last; raises InputError at a character that nft never prints.

    With `whole_rules` a line that is one plain rule is one token; what was matched is left there by its start.
    """
    position = 0
    size = len(source)
    match = _TOKEN.match
    plain = _PLAIN_LINE.match
    while position < size:
        if whole_rules is not None and source[position] == "\t" and (line := plain(source, position)) is not None:
            start, end = line.span("rule")
            whole_rules[start] = line
            yield Token(RULE, line["rule"], start, end)
            position = line.end()
            continue
        found = match(source, position)
        if found is None:
            raise InputError(
                f"line {line_of(source, position)}: cannot read {source[position : position + 20]!r}; "
                f"give what `nft list ruleset` prints"
            )
        kind = found.lastgroup or ""
        end = found.end()
        if kind == "comment":
            handle = _HANDLE.match(found.group())
            if handle is not None:
                yield Token(HANDLE, handle.group(1), position, end)
        elif kind == STRING:
            yield Token(STRING, source[position + 1 : end - 1], position, end)
        elif kind != "blank":
            yield Token(kind, found.group(), position, end)
        position = end
    yield Token(END, "", size, size)
