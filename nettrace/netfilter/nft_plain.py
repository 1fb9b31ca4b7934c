"""Recognise plain rules in nft's text and JSON by one regular expression each.

Of a long listing a packet meets few rules, so most need not be read: what is plain is known to be well formed, and a
look at it tells whether it can match.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import msgspec

__all__ = ["PLAIN", "PlainJson", "PlainRule", "PlainText"]

_PORT = r"(?:6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|\d{1,4})"
_IPV4 = r"\d{1,3}(?:\.\d{1,3}){3}(?:/(?:3[0-2]|[12]?\d))?"
_IPV6 = r"[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}"
_MATCH = rf"""
    (?:ip\ [sd]addr\ (?:!=\ )?{_IPV4}
      |ip6\ [sd]addr\ (?:!=\ )?{_IPV6}
      |[io]ifname\ (?:!=\ )?"[^"\n\\]+"
      |(?:tcp|udp)\ [sd]port\ (?:!=\ )?{_PORT}
      |counter\ packets\ \d{{1,18}}\ bytes\ \d{{1,18}})\ """

#: One whole line: matches on plain fields, counters, and a verdict, as `nft list ruleset` writes them.
PLAIN = re.compile(
    rf"""(?P<rule>(?:{_MATCH})*
    (?:accept|drop|return|(?:jump|goto)\ (?P<target>[A-Za-z_][\w-]*)))
    (?:\ comment\ "(?P<comment>[^"\n\\]*)")?(?:\ \#\ handle\ (?P<handle>\d{{1,18}}))?[ \t]*(?=\n)""",
    re.VERBOSE,
)

_PARTS = re.compile(r'(?:(ip6?|tcp|udp) )?([sd]addr|[sd]port|[io]ifname) (!= )?("[^"]*"|\S+)')


def _json(text: str) -> str:
    """Return a pattern of JSON text as nft prints it, or without the blanks."""
    return text.replace(": ", ": ?").replace(", ", ", ?").replace("{", "\\{").replace("}", "\\}")


_RIGHT4 = '(?:"' + _IPV4.partition("(?:/")[0].replace("{", "<").replace("}", ">") + '")'
_RIGHT6 = '(?:"' + _IPV6.replace("{", "<").replace("}", ">") + '")'
_STATEMENT = "|".join(
    _json(each)
    for each in (
        '{"match": {"op": "[!=]=", "left": {"payload": {"protocol": "ip", "field": "[sd]addr"}}, "right": RIGHT4}}',
        '{"match": {"op": "[!=]=", "left": {"payload": {"protocol": "ip6", "field": "[sd]addr"}}, "right": RIGHT6}}',
        '{"match": {"op": "[!=]=", "left": {"payload": {"protocol": "(?:tcp|udp)", "field": "[sd]port"}}, '
        '"right": PORT}}',
        '{"match": {"op": "[!=]=", "left": {"meta": {"key": "[io]ifname"}}, "right": "[^"\\\\@][^"\\\\]*"}}',
        '{"counter": {"packets": NUMBER, "bytes": NUMBER}}',
    )
)
_STATEMENT = _STATEMENT.replace("RIGHT4", _RIGHT4).replace("RIGHT6", _RIGHT6).replace("<", "{").replace(">", "}")
_STATEMENT = _STATEMENT.replace("PORT", _PORT).replace("NUMBER", r"\d{1,18}")
_VERDICT = _json('{"(?:accept|drop|return)": null}|{"(?:jump|goto)": {"target": "TARGET"}}')
_PLAIN_JSON = re.compile(
    (rf"\[(?:(?:{_STATEMENT}), ?)*(?:{_VERDICT})\]").replace("TARGET", r"(?P<target>[\w-]+)").encode(), re.ASCII
).fullmatch
_JSON_PARTS = re.compile(
    rb'"op": ?"([!=]=)", ?"left": ?\{"(?:payload": ?\{"protocol": ?"(\w+)", ?"field|meta": ?\{"key)": ?"(\w+)"\}\}, ?'
    rb'"right": ?"?([^"}]+)'
)


class PlainRule(ABC):
    """A plain rule, not read yet, without comment and handle. `target` is the chain that it leads to."""

    __slots__ = ("target",)

    target: str | None

    @abstractmethod
    def matches(self) -> Iterator[tuple[str, str, bool, str]]:
        """Yield what the rule matches on: protocol (or "meta"), field, whether it is negated, and the value."""

    @abstractmethod
    def statements(self, family: str) -> list[Any]:
        """Return the statements as JSON; `family` is that of the table."""


class PlainText(PlainRule):
    """A plain rule as nft's text."""

    __slots__ = ("text",)

    def __init__(self, text: str, target: str | None) -> None:
        self.text = text
        self.target = target

    def matches(self) -> Iterator[tuple[str, str, bool, str]]:
        """Yield what the rule matches on: protocol (or "meta"), field, whether it is negated, and the value."""
        for found in _PARTS.finditer(self.text):
            yield found[1] or "meta", found[2], found[3] is not None, found[4].strip('"')

    def statements(self, family: str) -> list[Any]:
        """Return the statements as JSON; `family` is that of the table."""
        from nettrace.netfilter.nft_text import parse_rule

        return parse_rule(self.text, family)


class PlainJson(PlainRule):
    """A plain rule as nft's JSON: the bytes of its list of statements."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes, target: str | None) -> None:
        self.raw = raw
        self.target = target

    @classmethod
    def of(cls, raw: bytes) -> PlainJson | None:
        """Return a plain rule when the statements are those of one, else None."""
        found = _PLAIN_JSON(raw)
        if found is None:
            return None
        target = found["target"]
        return cls(raw, target.decode() if target is not None else None)

    def matches(self) -> Iterator[tuple[str, str, bool, str]]:
        """Yield what the rule matches on: protocol (or "meta"), field, whether it is negated, and the value."""
        for op, protocol, field, value in _JSON_PARTS.findall(self.raw):
            yield protocol.decode() or "meta", field.decode(), op == b"!=", value.decode()

    def statements(self, family: str) -> list[Any]:
        """Return the statements as JSON; `family` is that of the table."""
        statements: list[Any] = msgspec.json.decode(self.raw)
        return statements
