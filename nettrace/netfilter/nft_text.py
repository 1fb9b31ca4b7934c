"""Read what `nft list ruleset` prints, into the structure that `nft -j list ruleset` prints.

The result is that of libnftables-json(5). Where JSON of older nft says less than its text (the "dynamic" flag, the
comment of a chain, the devices of a netdev chain, "typeof"), the result says what newer nft's JSON says. A statement
that is not understood is kept as {"unknown": text}, with all that follows it in its rule; text whose structure is
broken is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, NoReturn, TypeAlias

from nettrace.errors import InputError
from nettrace.netfilter.nft_lexer import (
    ADDRESS,
    COUNTED,
    END,
    HANDLE,
    NEWLINE,
    NUMBER,
    PAIR,
    PUNCT,
    STRING,
    WORD,
    Token,
    line_of,
    scan,
)
from nettrace.netfilter.nft_types import (
    BARE_META,
    BITMASKS,
    CT_TYPES,
    EXTHDR_TYPES,
    META_TYPES,
    PAYLOAD_TYPES,
    RT_KEYS,
    SOCKET_TYPES,
    SYMBOLS,
    TUNNELS,
    type_names,
    type_of,
)

__all__ = ["FAMILIES", "parse_rule", "parse_text"]

Json: TypeAlias = Any

FAMILIES: frozenset[str] = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})

#: Deeper nesting of brackets than nft can print is refused.
MAX_DEPTH = 32
MAX_TERMS = 64

#: Standard priorities of base chains (nft(8), CHAINS).
PRIORITIES: dict[str, int] = {
    "raw": -300,
    "mangle": -150,
    "dstnat": -100,
    "filter": 0,
    "security": 50,
    "srcnat": 100,
}
BRIDGE_PRIORITIES: dict[str, int] = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}

_OPERATORS: dict[str, str] = {
    "==": "==",
    "!=": "!=",
    "<": "<",
    ">": ">",
    "<=": "<=",
    ">=": ">=",
    "!": "!",
    "eq": "==",
    "ne": "!=",
    "neq": "!=",
    "lt": "<",
    "gt": ">",
    "le": "<=",
    "ge": ">=",
}
_BINARY: tuple[dict[str, str], ...] = (
    {"|": "|", "or": "|"},
    {"^": "^", "xor": "^"},
    {"&": "&", "and": "&"},
    {"<<": "<<", ">>": ">>", "lshift": "<<", "rshift": ">>"},
)
_VERDICTS = frozenset({"accept", "drop", "continue", "return", "break"})
_SIZES: dict[str, int] = {"bytes": 1, "kbytes": 1024, "mbytes": 1024 * 1024, "gbytes": 1024**3}
_UNITS: dict[str, int] = {"w": 604800000, "d": 86400000, "h": 3600000, "m": 60000, "s": 1000, "ms": 1}
_NAT_FLAGS = ("random", "fully-random", "persistent", "netmap")
_SET_FLAGS = ("constant", "interval", "timeout", "dynamic")
_OBJECT_TYPES = frozenset({"counter", "quota", "limit", "synproxy", "secmark", "tunnel"})
_CT_OBJECTS = frozenset({"helper", "timeout", "expectation"})
_LITERALS = frozenset({NUMBER, ADDRESS, STRING, COUNTED, PAIR})


class _Unknown(Exception):
    """A word that this reader has no grammar for; the rest of the rule is kept as text."""


def parse_text(text: str) -> dict[str, Json]:
    """Parse the output of `nft list ruleset` (also with -a, -s, -n, -t) into {"nftables": [...]}.

    Raises InputError, with the number of the line, where the text is malformed or cut off.
    """
    return _Parser(text).ruleset()


def parse_rule(text: str, family: str = "inet") -> list[Json]:
    """Parse one rule into its list of statements; raises InputError when it is malformed."""
    parser = _Parser(text)
    parser.family = family
    rule = parser.rule("", "")
    parser.skip_newlines()
    if parser.token.kind != END:
        parser.fail("unexpected")
    expr: list[Json] = rule["expr"]
    return expr


class _Parser:
    """A recursive-descent parser over the tokens of one text."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.stream = scan(source)
        self.tokens: list[Token] = []
        self.index = 0
        self._fill(0)
        self.token: Token = self.tokens[0]
        self.depth = 0
        self.family = "ip"
        self._statements: dict[str, Callable[[], Json]] = {
            "counter": self._counter,
            "quota": self._quota,
            "limit": self._limit,
            "last": self._last,
            "log": self._log,
            "queue": self._queue,
            "reject": self._reject,
            "snat": lambda: self._nat("snat"),
            "dnat": lambda: self._nat("dnat"),
            "masquerade": lambda: self._nat("masquerade"),
            "redirect": lambda: self._nat("redirect"),
            "tproxy": self._tproxy,
            "fwd": self._fwd,
            "dup": self._dup,
            "flow": self._flow,
            "meter": self._meter,
            "synproxy": self._synproxy,
            "reset": self._reset,
            "xt": self._xt,
            "jump": self._verdict,
            "goto": self._verdict,
        }

    # --- Moving over the tokens ---------------------------------------------------------------------------------

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

    # --- Tables --------------------------------------------------------------------------------------------------

    def ruleset(self) -> dict[str, Json]:
        """Parse the whole text."""
        items: list[Json] = []
        self.skip_newlines()
        while self.take("flush"):
            self.expect("ruleset")
            self.separator()
        while self.token.kind != END:
            if not self.at("table"):
                self.fail("expected a table instead of")
            self._table(items)
            self.skip_newlines()
            while self.take(";"):
                self.skip_newlines()
        return {"nftables": items}

    def _table(self, items: list[Json]) -> None:
        self.expect("table")
        self.family = "ip"
        if self.at(*FAMILIES) and not (self.peek().kind == PUNCT and self.peek().text == "{"):
            self.family = self.advance().text
        name = self.name()
        body: dict[str, Json] = {"family": self.family, "name": name}
        items.append({"table": body})
        rules: list[Json] = []
        self.open("{")
        body.update(self.handle())
        self.begin()
        while not self.at("}"):
            start = self.token
            if start.kind not in (WORD, STRING):
                self.fail("unexpected")
            word = self.advance().text
            if word == "comment":
                body["comment"] = self.string()
            elif word == "flags":
                body["flags"] = self._words()
            elif word == "chain":
                self._chain(name, items, rules)
            elif word in ("set", "map", "meter"):
                items.append({word: self._set(word, name)})
            elif word == "flowtable":
                items.append({"flowtable": self._flowtable(name)})
            elif word == "ct" and self.at(*_CT_OBJECTS):
                kind = f"ct {self.advance().text}"
                items.append({kind: self._object(kind, name)})
            elif word in _OBJECT_TYPES:
                items.append({word: self._object(word, name)})
            else:
                self.fail("nothing in a table begins with", start)
            self.separator()
        self.close("}")
        items.extend(rules)

    def _words(self) -> list[str]:
        found = [self.name()]
        while self.take(","):
            found.append(self.name())
        return found

    def _chain(self, table: str, items: list[Json], rules: list[Json]) -> None:
        name = self.name()
        body: dict[str, Json] = {"family": self.family, "table": table, "name": name}
        items.append({"chain": body})
        self.open("{")
        body.update(self.handle())
        self.begin()
        while not self.at("}"):
            if self.at("comment") and self.peek().kind == STRING:
                self.advance()
                body["comment"] = self.string()
            elif self.at("type") and self.peek(2).text == "hook":
                self._hook(body)
            elif self.at("policy"):
                self.advance()
                body["policy"] = self.name()
            elif self.at("flags"):
                self.advance()
                body["flags"] = self._words()
            else:
                rules.append({"rule": self.rule(table, name)})
            self.separator()
        self.close("}")

    def _hook(self, body: dict[str, Json]) -> None:
        self.expect("type")
        body["type"] = self.name()
        self.expect("hook")
        body["hook"] = self.name()
        if self.take("device"):
            body["dev"] = self.name()
        elif self.take("devices"):
            self.take("=")
            body["dev"] = _one_or_list(self._names_in_braces())
        self.expect("priority")
        body["prio"] = self._priority()
        body.setdefault("policy", "accept")

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

    def _priority(self) -> int:
        base = 0
        if self.token.kind == WORD:
            word, sign, rest = self.token.text, 1, ""
            if "-" in word:
                word, _dash, rest = word.partition("-")
                sign = -1
            known = BRIDGE_PRIORITIES if self.family == "bridge" else PRIORITIES
            if word not in known or (rest and not rest.isdigit()):
                self.fail("unknown priority")
            self.advance()
            base = known[word] + (sign * int(rest) if rest else 0)
            if self.at("+", "-"):
                return base + self._signed()
            return base
        return self._signed()

    def _signed(self) -> int:
        sign = -1 if self.at("-") else 1
        self.take("+", "-")
        return sign * self.integer()

    def _flowtable(self, table: str) -> dict[str, Json]:
        body: dict[str, Json] = {"family": self.family, "name": self.name(), "table": table}
        self.open("{")
        body.update(self.handle())
        self.begin()
        while not self.at("}"):
            word = self.name()
            if word == "hook":
                body["hook"] = self.name()
                self.expect("priority")
                body["prio"] = self._priority()
            elif word == "devices":
                self.expect("=")
                body["dev"] = _one_or_list(self._names_in_braces())
            elif word == "flags":
                body["flags"] = self._words()
            elif word == "counter":
                body["counter"] = None
            else:
                self.fail("nothing in a flowtable follows", self.peek(-1))
            self.separator()
        self.close("}")
        return body

    # --- Named objects --------------------------------------------------------------------------------------------

    def _object(self, kind: str, table: str) -> dict[str, Json]:
        body: dict[str, Json] = {"family": self.family, "name": self.name(), "table": table}
        self.open("{")
        body.update(self.handle())
        self.begin()
        if kind == "quota":
            body["inv"] = False
        while not self.at("}"):
            if self.at("comment"):
                self.advance()
                body["comment"] = self.string()
            else:
                self._object_property(kind, body)
            self.separator()
        self.close("}")
        if kind == "counter":
            body.setdefault("packets", 0)
            body.setdefault("bytes", 0)
        if kind == "quota":
            body.setdefault("used", 0)
        return body

    def _object_property(self, kind: str, body: dict[str, Json]) -> None:
        if kind == "counter":
            for part in ("packets", "bytes"):
                self.expect(part)
                body[part] = self.integer()
        elif kind == "quota":
            body["inv"] = self._inverted()
            body["bytes"] = self._byte_count()
            body["used"] = self._byte_count() if self.take("used") else 0
        elif kind == "limit":
            limit = self._rate()
            if limit.get("burst") == 0:
                del limit["burst"]
                limit.pop("burst_unit", None)
            body.update(limit)
        elif kind == "synproxy":
            self._synproxy_options(body)
        elif kind == "secmark":
            body["context"] = self.string()
        elif kind.startswith("ct "):
            self._ct_property(kind, body)
        else:
            self._raw_property(body)

    def _ct_property(self, kind: str, body: dict[str, Json]) -> None:
        word = self.name()
        if word == "type":
            body["type"] = self.string()
            self.expect("protocol")
            body["protocol"] = self._plain()
        elif word in ("protocol", "l3proto"):
            body[word] = self._plain()
        elif word == "policy":
            self.expect("=")
            body["policy"] = self._timeout_policy()
        elif word == "timeout" and kind == "ct expectation":
            body["timeout"] = self._milliseconds()
        elif word in ("dport", "size"):
            body[word] = self.integer()
        else:
            self.fail("unknown property", self.peek(-1))
        self.take(",")

    def _timeout_policy(self) -> dict[str, int]:
        policy: dict[str, int] = {}
        self.open("{")
        self.skip_newlines()
        while not self.at("}"):
            state = self.name()
            self.expect(":")
            policy[state] = self.integer() if self.token.kind == NUMBER else self._milliseconds() // 1000
            self.take(",")
            self.skip_newlines()
        self.close("}")
        return policy

    def _raw_property(self, body: dict[str, Json]) -> None:
        start = self.index
        while not self.end_of_statement():
            self.advance()
        text = self.source[self.tokens[start].start : self.tokens[self.index - 1].end]
        body.setdefault("text", []).append(text)

    def _plain(self) -> Json:
        """A bare value: a number or a name."""
        return self.integer() if self.token.kind == NUMBER else self.name()

    def _milliseconds(self) -> int:
        token = self.token
        if token.kind == NUMBER:
            return self.integer() * 1000
        value = _duration(token.text) if token.kind == COUNTED else None
        if value is None:
            self.fail("expected a time instead of")
        self.advance()
        return value

    def _inverted(self) -> bool:
        if self.take("over"):
            return True
        self.take("until")
        return False

    def _byte_count(self) -> int:
        count = self.integer()
        if not self.at(*_SIZES):
            self.fail("expected bytes, kbytes or mbytes instead of")
        return count * _SIZES[self.advance().text]

    # --- Sets and maps ---------------------------------------------------------------------------------------------

    def _set(self, kind: str, table: str) -> dict[str, Json]:
        body: dict[str, Json] = {"family": self.family, "name": self.name(), "table": table}
        statements: list[Json] = []
        self.open("{")
        body.update(self.handle())
        self.begin()
        types: tuple[str, ...] = ()
        while not self.at("}"):
            if self.at("type", "typeof"):
                types = self._set_type(body)
            elif self.take("flags"):
                given = self._words()
                body["flags"] = [*(f for f in _SET_FLAGS if f in given), *(f for f in given if f not in _SET_FLAGS)]
            elif self.at("timeout", "gc-interval"):
                word = self.advance().text
                body[word] = self._milliseconds() // 1000
            elif self.take("size"):
                body["size"] = self.integer()
                if self.token.kind == HANDLE or (self.token.kind == WORD and self.token.text.startswith("count")):
                    self.advance()
            elif self.take("policy"):
                body["policy"] = self.name()
            elif self.take("auto-merge"):
                body["auto-merge"] = True
            elif self.take("comment"):
                body["comment"] = self.string()
            elif self.take("elements"):
                self.expect("=")
                body["elem"] = self._elements(types, named=True)
            elif self.at("counter", "limit", "quota", "ct", "last"):
                while not self.end_of_statement():
                    statements.append(_stateless(self._known_statement()))
            else:
                self.fail(f"nothing in a {kind} begins with")
            self.separator()
        self.close("}")
        if statements:
            body["stmt"] = statements
        if "flags" in body and not body["flags"]:
            del body["flags"]
        return body

    def _set_type(self, body: dict[str, Json]) -> tuple[str, ...]:
        """Read "type a . b : c" or "typeof expr : expr"; return the types of the key and, last, of the data."""
        if self.advance().text == "typeof":
            try:
                key = self._concatenation()
                body["type"] = {"typeof": key}
                names = type_names(key, self.family)
                types = tuple(names) if isinstance(names, list) else (names,)
                if self.take(":"):
                    self.take("interval")
                    if self.at("verdict", *_OBJECT_TYPES) and self.peek().kind in (NEWLINE, PUNCT):
                        body["map"] = self.advance().text
                    else:
                        data = type_names(self._concatenation(), self.family)
                        body["map"] = " . ".join(data) if isinstance(data, list) else data
                    types = (*types, str(body["map"]))
            except _Unknown as error:
                self.fail(f"cannot read the type of the set at {error}:")
            return types
        names = [self.name()]
        while self.take("."):
            names.append(self.name())
        body["type"] = names if len(names) > 1 else names[0]
        if not self.take(":"):
            return tuple(names)
        self.take("interval")
        data = [self.name()]
        if data[0] == "ct":
            data = [f"ct {self.name()}"]
        while self.take("."):
            data.append(self.name())
        body["map"] = " . ".join(data)
        return (*names, body["map"])

    def _elements(self, types: tuple[str, ...], *, named: bool = False) -> list[Json]:
        found: list[Json] = []
        self.open("{")
        self.skip_newlines()
        while not self.at("}"):
            if named:
                self.forget()
            found.append(self._element(types[0] if len(types) == 1 else "", types))
            self.skip_newlines()
            if not self.take(","):
                break
            self.skip_newlines()
        self.close("}")
        return found

    def _element(self, kind: str, types: tuple[str, ...] = ()) -> Json:
        """One element of a set or map: a key with its options, and perhaps ": value"."""
        if self.take("*"):
            key: Json = "*"
        elif types and len(types) > 1:
            key = self._concatenated_values(types)
        else:
            key = self._concatenated_values((kind,))
        key = self._with_options(key)
        self.skip_newlines()
        if not self.take(":"):
            return key
        self.skip_newlines()
        return [key, self._data(types[-1] if len(types) > 1 else "")]

    def _with_options(self, key: Json) -> Json:
        options: dict[str, Json] = {}
        while True:
            if self.at("timeout", "expires"):
                word = self.advance().text
                seconds = self._milliseconds() // 1000
                if seconds:
                    options[word] = seconds
            elif self.at("comment"):
                self.advance()
                options["comment"] = self.string()
            elif self.at("counter", "limit", "quota", "last") or (self.at("ct") and self.peek().text == "count"):
                for name, value in self._known_statement().items():
                    options.setdefault(name, value)
            else:
                break
        return {"elem": {"val": key, **options}} if options else key

    def _data(self, kind: str) -> Json:
        """The value of an element of a map: a verdict, or a constant, possibly several joined by dots."""
        if self.at(*_VERDICTS, "jump", "goto", "queue"):
            if self.take("queue"):
                return {"queue": None}
            return self._verdict()
        return self._concatenated_values(tuple(kind.split(" . ")) if kind else ("",))

    def _concatenated_values(self, types: tuple[str, ...]) -> Json:
        found = [self._value(types[0] if types else "")]
        while self.at("."):
            self.advance()
            found.append(self._value(types[len(found)] if len(found) < len(types) else ""))
        return {"concat": found} if len(found) > 1 else found[0]

    # --- Rules ------------------------------------------------------------------------------------------------------

    def rule(self, table: str, chain: str) -> dict[str, Json]:
        """Parse one rule, up to the end of its line."""
        body: dict[str, Json] = {"family": self.family, "table": table, "chain": chain}
        expr: list[Json] = []
        while not self.end_of_statement():
            if self.at("comment") and self.peek().kind == STRING:
                self.advance()
                body["comment"] = self.string()
                continue
            start, depth = self.index, self.depth
            try:
                expr.append(self._statement())
            except _Unknown:
                self.index, self.depth = start, depth
                self.token = self.tokens[start]
                expr.append({"unknown": self._rest_of_rule(body)})
        body.update(self.handle())
        if not expr and not self.at("}") and self.token.kind != END:
            self.fail("expected a rule instead of")
        body["expr"] = expr
        return body

    def _rest_of_rule(self, body: dict[str, Json]) -> str:
        """Go to the end of the rule, and return its text; the comment at its end stays a comment."""
        start, nested, end = self.token.start, 0, self.token.start
        while True:
            if self.token.kind == END or (nested == 0 and self.end_of_statement()):
                if nested:
                    self.fail("a bracket is not closed")
                break
            if self.token.kind == PUNCT:
                nested += {"{": 1, "(": 1, "}": -1, ")": -1}.get(self.token.text, 0)
            if nested == 0 and self.at("comment") and self.peek().kind == STRING and self._last_in_rule(2):
                self.advance()
                body["comment"] = self.string()
                break
            end = self.advance().end
        return " ".join(self.source[start:end].split())

    def _last_in_rule(self, ahead: int) -> bool:
        token = self.peek(ahead)
        return token.kind in (NEWLINE, END, HANDLE) or token.text in (";", "}")

    def _known_statement(self) -> dict[str, Json]:
        try:
            found: dict[str, Json] = self._statement()
        except _Unknown as error:
            self.fail(f"cannot read {error} before")
        return found

    def _statement(self) -> Json:
        token = self.token
        if token.kind == WORD:
            word = token.text
            if word in _VERDICTS:
                return self._verdict()
            if word in ("add", "update", "delete") and self.peek().text == "@":
                return self._set_statement()
            if word == "set" and self.peek().text in ("add", "update", "delete"):
                return self._old_set_statement()
            if word == "ct" and self.peek().text == "count":
                return self._ct_count()
            if word == "ct" and self.peek().text in _CT_OBJECTS and self.peek(2).text == "set":
                self.advance()
                kind = f"ct {self.advance().text}"
                self.advance()
                return {kind: self._operand()}
            if word == "notrack":
                self.advance()
                return {"notrack": None}
            known = self._statements.get(word)
            if known is not None:
                return known()
        return self._match()

    def _verdict(self) -> Json:
        word = self.advance().text
        if word in ("jump", "goto"):
            return {word: {"target": self.name()}}
        return {word: None}

    # --- Matches ----------------------------------------------------------------------------------------------------

    def _match(self) -> Json:
        """Parse "left [op] right", "key vmap { … }" or "key set value"."""
        start = self.token
        left = self._concatenation()
        if not isinstance(left, dict):
            self.fail("no statement begins with", start)
        if self.take("vmap"):
            return {"vmap": {"key": left, "data": self._map_data(left, "verdict")}}
        if self.take("set"):
            kind = type_of(left, self.family)
            return {"mangle": {"key": left, "value": self._stated(kind)}}
        operator = ""
        if self.token.kind in (PUNCT, WORD) and self.token.text in _OPERATORS:
            operator = _OPERATORS[self.advance().text]
        return self._relation(left, operator)

    def _relation(self, left: Json, operator: str) -> Json:
        kind = type_of(left, self.family)
        if self.end_of_statement():
            self.fail("expected a value before")
        right = self._right(kind, left)
        if kind in BITMASKS and self.take("/"):
            mask = self._right(kind, left)
            return _relation(operator or "==", {"&": [left, mask]}, right)
        if not operator:
            listed = isinstance(right, list)
            plain = not isinstance(right, dict) and not (isinstance(right, str) and right.startswith("@"))
            operator = "in" if listed or (kind in BITMASKS and plain and not _is_binary(left)) else "=="
        return _relation(operator, left, right)

    def _right(self, kind: str, left: Json) -> Json:
        """What a match compares with: a set, a set's name, a list of flags, a range, a value or an expression."""
        if self.at("{"):
            return {"set": self._set_literal(left)}
        if self.at("@") and self.peek(2).text != ",":
            self.advance()
            return f"@{self.name()}"
        if kind == "concat":
            return self._concatenated_values(self._types_of_concat(left))
        first = self._stated(kind)
        if not self.at(","):
            return first
        found = [first]
        while self.take(","):
            found.append(self._value(kind))
        return found

    def _types_of_concat(self, left: Json) -> tuple[str, ...]:
        return tuple(type_of(part, self.family) for part in left.get("concat", ()))

    def _set_literal(self, left: Json, data: str = "") -> list[Json]:
        kind = type_of(left, self.family)
        keys = self._types_of_concat(left) if kind == "concat" else (kind,)
        return self._elements((*keys, data) if data else keys)

    def _map_data(self, left: Json, data: str) -> Json:
        if self.take("@"):
            return f"@{self.name()}"
        return {"set": self._set_literal(left, data or "integer")}

    # --- Expressions --------------------------------------------------------------------------------------------------

    def _concatenation(self) -> Json:
        """A left-hand side: expressions joined by dots."""
        found = [self._binary(0, "")]
        while self.at("."):
            self.advance()
            found.append(self._binary(0, ""))
        return {"concat": found} if len(found) > 1 else found[0]

    def _stated(self, kind: str) -> Json:
        """A right-hand side that may be an expression, and may look a map up."""
        found: Json = self._value_or_expression(kind)
        if self.at(".") and isinstance(found, dict):
            parts = [found]
            while self.take("."):
                parts.append(self._binary(0, ""))
            found = {"concat": parts}
        if self.take("map"):
            return {"map": {"key": found, "data": self._map_data(found, kind)}}
        if self.at(",") and kind in BITMASKS:
            parts = [found]
            while self.take(","):
                parts.append(self._value(kind))
            return parts
        return found

    def _value_or_expression(self, kind: str) -> Json:
        found = self._binary(0, kind)
        if self.take("-"):
            return {"range": [_in_range(kind, found), _in_range(kind, self._binary(0, kind))]}
        return found

    def _binary(self, level: int, kind: str) -> Json:
        """Operators by precedence: | below ^ below & below shifts."""
        if level == len(_BINARY):
            return self._primary(kind)
        left = self._binary(level + 1, kind)
        operators, terms = _BINARY[level], 0
        while self.token.kind in (PUNCT, WORD) and self.token.text in operators:
            operator = operators[self.advance().text]
            wanted = kind or type_of(left, self.family)
            if operator in ("<<", ">>"):
                wanted = "integer"
            left = {operator: [left, self._binary(level + 1, "" if wanted == "concat" else wanted)]}
            terms += 1
            if terms > MAX_TERMS:
                self.fail(f"more than {MAX_TERMS} terms in one expression at")
        return left

    def _primary(self, kind: str) -> Json:
        token = self.token
        if token.kind == PUNCT and token.text == "(":
            self.open("(")
            inner = self._binary(0, kind)
            self.close(")")
            return inner
        if token.kind == PUNCT and token.text == "@":
            return self._raw_payload()
        if token.kind == PUNCT and token.text == "[":
            return self._bracketed()
        if token.kind in _LITERALS:
            return self._literal(kind)
        if token.kind != WORD:
            self.fail("expected an expression instead of")
        if kind and (kind in ("inet_proto", "ether_type") or not self._starts_expression(kind)):
            return self._literal(kind)
        return self._operand()

    def _value(self, kind: str) -> Json:
        """A constant in a set or list: a literal, a range, a prefix, or bits joined by |."""
        found = self._literal_or_group(kind)
        terms = 0
        while self.at("|", "&", "^", "<<"):
            operator = self.advance().text
            found = {operator: [found, self._literal_or_group(kind)]}
            terms += 1
            if terms > MAX_TERMS:
                self.fail(f"more than {MAX_TERMS} terms in one expression at")
        if self.take("-"):
            return {"range": [_in_range(kind, found), _in_range(kind, self._literal_or_group(kind))]}
        return found

    def _literal_or_group(self, kind: str) -> Json:
        if self.at("("):
            self.open("(")
            inner = self._value(kind)
            self.close(")")
            return inner
        if self.at("["):
            return self._bracketed()
        return self._literal(kind)

    def _bracketed(self) -> str:
        """An IPv6 address in square brackets."""
        self.open("[")
        if self.token.kind != ADDRESS:
            self.fail("expected an address instead of")
        found = self.advance().text
        self.close("]")
        return found

    def _literal(self, kind: str) -> Json:
        """One constant, with its prefix length when it has one."""
        token = self.token
        if token.kind not in _LITERALS and token.kind != WORD:
            self.fail("expected a value instead of")
        self.advance()
        if token.kind == NUMBER:
            value: Json = self._number(token, kind)
        elif token.kind == COUNTED and kind in ("time", "integer", ""):
            milliseconds = _duration(token.text)
            value = token.text if milliseconds is None else milliseconds // 1000
        elif token.kind == WORD:
            value = _symbol(token.text, kind)
        else:
            value = token.text
        if self.at("/") and kind not in BITMASKS and self.peek().kind == NUMBER:
            self.advance()
            return {"prefix": {"addr": value, "len": self.integer()}}
        return value

    def _number(self, token: Token, kind: str) -> Json:
        value = self._int(token)
        if self.at("[") and self.peek().text == "invalid":
            # nft has no type for the parts of some sets, and says so instead of printing the value.
            while not self.take("]"):
                if self.end_of_statement():
                    self.fail("unexpected")
                self.advance()
            return f"{token.text} [invalid type]"
        if kind in ("realm", "iface_index", "ifindex"):
            return token.text
        if value > 0xFFFFFFFFFFFFFFFF:
            return f"0x{value:x}"
        return value

    def _raw_payload(self) -> Json:
        self.expect("@")
        base = self.name()
        if base not in ("ll", "nh", "th", "ih") or not self.at(","):
            raise _Unknown(f"@{base}")
        self.expect(",")
        offset = self.integer()
        self.expect(",")
        return {"payload": {"base": base, "offset": offset, "len": self.integer()}}

    def _starts_expression(self, kind: str) -> bool:
        """Tell whether a word on a right-hand side begins an expression, and is not a constant's name."""
        word, following = self.token.text, self.peek()
        if word in SYMBOLS.get(kind, {}) and word not in ("mark",):
            return False
        if word in ("numgen", "jhash", "symhash"):
            return following.kind == WORD
        if word == "meta":
            return following.text in META_TYPES
        if word == "ct":
            return following.text in CT_TYPES or following.text in ("original", "reply")
        if word in PAYLOAD_TYPES:
            return following.text in PAYLOAD_TYPES[word] or following.text == "option"
        if word == "rt":
            return following.text in RT_KEYS or following.text in ("ip", "ip6")
        if word == "socket":
            return following.text in SOCKET_TYPES
        if word == "fib":
            return following.kind == WORD
        return word in BARE_META and kind in ("mark", "", "integer", "address")

    def _operand(self) -> Json:
        """An expression that has a value for a packet, or a quoted name."""
        token = self.token
        if token.kind in _LITERALS:
            found = self._literal("")
            if self.take("map"):
                return {"map": {"key": found, "data": self._map_data(found, "")}}
            return found
        if token.kind != WORD:
            self.fail("expected an expression instead of")
        word = token.text
        if word in BARE_META:
            self.advance()
            return {"meta": {"key": word}}
        reader = {
            "meta": self._meta,
            "ct": self._ct,
            "rt": self._rt,
            "fib": self._fib,
            "socket": self._socket,
            "osf": self._osf,
            "ipsec": self._ipsec,
            "numgen": self._numgen,
            "jhash": self._jhash,
            "symhash": self._symhash,
            "exthdr": self._exthdr_exists,
            "tunnel": self._tunnel,
        }.get(word)
        if reader is not None:
            self.advance()
            return reader()
        if word in PAYLOAD_TYPES:
            self.advance()
            return self._payload(word)
        if word in EXTHDR_TYPES:
            self.advance()
            return self._exthdr(word)
        raise _Unknown(word)

    def _key(self, known: dict[str, str]) -> str:
        key = self.name()
        if key not in known:
            raise _Unknown(key)
        return key

    def _meta(self) -> Json:
        key = self._key(META_TYPES)
        return {"meta": {"key": "ipsec" if key == "secpath" else key}}

    def _ct(self) -> Json:
        body: dict[str, Json] = {}
        direction = self.advance().text if self.at("original", "reply") else None
        key = self.name()
        if key in ("ip", "ip6"):
            key = f"{key} {self.name()}"
        if key not in CT_TYPES:
            raise _Unknown(key)
        body["key"] = key
        if direction is not None:
            body["dir"] = direction
        return {"ct": body}

    def _rt(self) -> Json:
        if self.at(*EXTHDR_TYPES["rt"]):
            return self._exthdr("rt")
        family = self.advance().text if self.at("ip", "ip6") else None
        key = self._key(RT_KEYS)
        body: dict[str, Json] = {"key": key}
        if key == "nexthop":
            body["family"] = family or ("ip6" if self.family == "ip6" else "ip")
        return {"rt": body}

    def _fib(self) -> Json:
        flags = [self._key({"saddr": "", "daddr": "", "mark": "", "iif": "", "oif": ""})]
        while self.take("."):
            flags.append(self.name())
        result = self._key({"type": "", "oif": "", "oifname": "", "check": ""})
        order = ("saddr", "daddr", "mark", "iif", "oif")
        return {"fib": {"result": result, "flags": sorted(flags, key=lambda f: order.index(f) if f in order else 9)}}

    def _socket(self) -> Json:
        key = self._key(SOCKET_TYPES)
        body: dict[str, Json] = {"key": key}
        if key == "cgroupv2":
            self.expect("level")
            body["level"] = self.integer()
        return {"socket": body}

    def _osf(self) -> Json:
        body: dict[str, Json] = {}
        if self.take("ttl"):
            body["ttl"] = self.name()
        return {"osf": {"key": self._key({"name": "", "version": ""}), **body}}

    def _ipsec(self) -> Json:
        direction = self._key({"in": "", "out": ""})
        number = self.integer() if self.take("spnum") else 0
        family = self.advance().text if self.at("ip", "ip6") else None
        body: dict[str, Json] = {"key": self._key({"saddr": "", "daddr": "", "reqid": "", "spi": ""})}
        if family is not None:
            body["family"] = family
        return {"ipsec": {**body, "dir": direction, "spnum": number}}

    def _numgen(self) -> Json:
        mode = self._key({"inc": "", "random": ""})
        self.expect("mod")
        mod = self.integer()
        return {"numgen": {"mode": mode, "mod": mod, "offset": self.integer() if self.take("offset") else 0}}

    def _jhash(self) -> Json:
        expr = self._concatenation()
        return {"jhash": {**self._hash_options(), "expr": expr}}

    def _symhash(self) -> Json:
        return {"symhash": self._hash_options()}

    def _hash_options(self) -> dict[str, Json]:
        self.expect("mod")
        body: dict[str, Json] = {"mod": self.integer()}
        while self.at("seed", "offset"):
            word = self.advance().text
            value = self.integer()
            if value or word == "seed":
                body[word] = value
        return body

    def _tunnel(self) -> Json:
        return {"tunnel": {"key": self._key({"id": "", "path": ""})}}

    def _exthdr_exists(self) -> Json:
        return {"exthdr": {"name": self._key(dict.fromkeys(EXTHDR_TYPES, ""))}}

    def _exthdr(self, name: str) -> Json:
        field = self._key(EXTHDR_TYPES[name])
        if self.at("["):
            self.open("[")
            field = f"{field}[{self.integer()}]"
            self.close("]")
        return {"exthdr": {"name": name, "field": field}}

    def _payload(self, protocol: str) -> Json:
        if protocol in ("ip", "tcp", "dccp") and self.take("option"):
            return self._option(f"{protocol} option")
        if protocol == "sctp" and self.take("chunk"):
            return self._option("sctp chunk")
        if protocol in TUNNELS and self.token.text in PAYLOAD_TYPES and self.peek().text in self._inner_fields():
            inner = self.advance().text
            return {"payload": {"tunnel": protocol, "protocol": inner, "field": self._field(inner)}}
        return {"payload": {"protocol": protocol, "field": self._field(protocol)}}

    def _inner_fields(self) -> dict[str, str]:
        return PAYLOAD_TYPES.get(self.token.text, {})

    def _field(self, protocol: str) -> str:
        field = self.name()
        if protocol == "arp" and field in ("saddr", "daddr"):
            field = f"{field} {self.name()}"
        if field not in PAYLOAD_TYPES[protocol]:
            raise _Unknown(f"{protocol} {field}")
        return field

    def _option(self, kind: str) -> Json:
        """An IP or TCP option, or an SCTP chunk: its name, and a field of it."""
        if self.take("@"):
            base = self.integer()
            self.expect(",")
            offset = self.integer()
            self.expect(",")
            return {kind: {"base": base, "offset": offset, "len": self.integer()}}
        if self.token.kind == NUMBER:
            number = self.integer()
            if kind == "dccp option":
                return {kind: {"type": number}}
            return {kind: {"base": number, "offset": 0, "len": 8}}
        name = self.name()
        aliases = {"sack-permitted": "sack-perm", "mss": "maxseg"}
        body = {"name": aliases.get(name, name)}
        if self.token.kind == WORD and not self.at("exists", "missing") and not self.end_of_statement():
            nested = kind == "tcp option" and self.at("vmap", "map", "set")
            if not nested and self._is_option_field():
                body["field"] = self.name()
        return {kind: body}

    def _is_option_field(self) -> bool:
        return self.token.text in _OPTION_FIELDS

    # --- Statements ------------------------------------------------------------------------------------------------

    def _counter(self) -> Json:
        self.advance()
        if self.take("name"):
            return {"counter": self._operand_or_map()}
        if self.at("packets"):
            self.advance()
            packets = self.integer()
            self.expect("bytes")
            return {"counter": {"packets": packets, "bytes": self.integer()}}
        return {"counter": None}

    def _operand_or_map(self) -> Json:
        """The name of an object, or a map that gives one."""
        if self.token.kind == STRING:
            return self.advance().text
        key = self._concatenation()
        if self.take("map"):
            return {"map": {"key": key, "data": self._map_data(key, "string")}}
        return key

    def _quota(self) -> Json:
        self.advance()
        if self.take("name"):
            return {"quota": self._operand_or_map()}
        inverted = self._inverted()
        body: dict[str, Json] = {"val": self.integer(), "val_unit": self._key(dict.fromkeys(_SIZES, ""))}
        if inverted:
            body["inv"] = True
        if self.take("used"):
            body["used"] = self.integer()
            body["used_unit"] = self._key(dict.fromkeys(_SIZES, ""))
        return {"quota": body}

    def _limit(self) -> Json:
        self.advance()
        if self.take("name"):
            return {"limit": self._operand_or_map()}
        return {"limit": self._rate()}

    def _rate(self) -> dict[str, Json]:
        """Read "rate [over] 10[ kbytes]/second [burst 5 packets]"."""
        self.expect("rate")
        inverted = self._inverted()
        body: dict[str, Json] = {"rate": self.integer()}
        if self.token.kind == WORD and "/" in self.token.text:
            unit, _slash, per = self.advance().text.partition("/")
            body["rate_unit"] = unit
        else:
            self.expect("/")
            per = self.name()
        body["per"] = per
        in_bytes = "rate_unit" in body
        body["burst"] = 0 if in_bytes else 5
        if in_bytes:
            body["burst_unit"] = "bytes"
        if self.take("burst"):
            body["burst"] = self.integer()
            unit = self.name()
            if unit != "packets":
                body["burst_unit"] = unit
        if inverted:
            body["inv"] = True
        return body

    def _last(self) -> Json:
        self.advance()
        if not self.take("used"):
            return {"last": None}
        if self.take("never"):
            return {"last": None}
        return {"last": {"used": self._milliseconds()}}

    def _ct_count(self) -> Json:
        self.advance()
        self.expect("count")
        inverted = self.take("over")
        body: dict[str, Json] = {"val": self.integer()}
        if inverted:
            body["inv"] = True
        return {"ct count": body}

    def _log(self) -> Json:
        self.advance()
        body: dict[str, Json] = {}
        flags: list[str] = []
        while True:
            if self.take("prefix"):
                body["prefix"] = self.string()
            elif self.at("group", "snaplen", "queue-threshold"):
                word = self.advance().text
                body[word] = self.integer()
            elif self.take("level"):
                level = self.name()
                if level not in ("warn", "warning"):
                    body["level"] = level
            elif self.take("flags"):
                flags.extend(self._log_flags())
            else:
                break
        if flags:
            body["flags"] = _one_or_list(flags)
        return {"log": body or None}

    def _log_flags(self) -> list[str]:
        word = self.name()
        if word == "tcp":
            found = [f"tcp {self.name()}"]
            while self.take(","):
                found.append(f"tcp {self.name()}")
            return found
        return [f"ip {self.name()}"] if word == "ip" else [word]

    def _queue(self) -> Json:
        self.advance()
        body: dict[str, Json] = {}
        flags: list[str] = []
        if self.take("flags"):
            flags = self._words()
        if self.take("num", "to"):
            found = self._stated("integer")
            body["num"] = found
        while self.at("bypass", "fanout"):
            flags.append(self.advance().text)
            self.take(",")
        if flags:
            body["flags"] = _one_or_list(sorted(flags))
        return {"queue": body or None}

    def _reject(self) -> Json:
        self.advance()
        if not self.take("with"):
            kind = {"ip": "icmp", "ip6": "icmpv6"}.get(self.family, "icmpx")
            return {"reject": {"type": kind, "expr": "port-unreachable"}}
        kind = self.name()
        if kind == "tcp":
            self.expect("reset")
            return {"reject": {"type": "tcp reset"}}
        self.take("type")
        if kind not in ("icmp", "icmpv6", "icmpx"):
            raise _Unknown(kind)
        return {"reject": {"type": kind, "expr": self._plain()}}

    def _nat(self, kind: str) -> Json:
        self.advance()
        body: dict[str, Json] = {}
        if self.at("ip", "ip6"):
            body["family"] = self.advance().text
        prefix = False
        while self.at("addr", "prefix", "interval", "port"):
            prefix = prefix or self.token.text == "prefix"
            self.advance()
            self.take(".")
        if self.take("to"):
            self._nat_target(body)
        flags = []
        while self.at(*_NAT_FLAGS):
            flags.append(self.advance().text)
            self.take(",")
        if prefix and "netmap" not in flags:
            flags.append("netmap")
        if flags:
            body["flags"] = _one_or_list([flag for flag in _NAT_FLAGS if flag in flags])
        if prefix:
            body["type_flags"] = "prefix"
        return {kind: body or None}

    def _nat_target(self, body: dict[str, Json]) -> None:
        """Read "address", "address:port", ":port", each possibly a range or a map."""
        if not self.at(":"):
            body["addr"] = self._stated("address")
        if self.take(":"):
            body["port"] = self._stated("integer")

    def _tproxy(self) -> Json:
        self.advance()
        body: dict[str, Json] = {}
        if self.at("ip", "ip6"):
            body["family"] = self.advance().text
        self.expect("to")
        if self.end_of_statement():
            # nft 1.0.6 prints nothing here when the port comes out of a map.
            raise _Unknown("tproxy")
        self._nat_target(body)
        return {"tproxy": body}

    def _fwd(self) -> Json:
        self.advance()
        family = self.advance().text if self.at("ip", "ip6") else None
        self.expect("to")
        first = self._stated("address")
        if self.take("device"):
            return {"fwd": {"dev": self._stated("ifname"), "family": family, "addr": first}}
        return {"fwd": {"dev": first}}

    def _dup(self) -> Json:
        self.advance()
        self.expect("to")
        body: dict[str, Json] = {"addr": self._stated("address")}
        if self.take("device"):
            body["dev"] = self._stated("ifname")
        return {"dup": body}

    def _flow(self) -> Json:
        self.advance()
        if not self.take("add", "offload"):
            raise _Unknown("flow")
        self.expect("@")
        return {"flow": {"op": "add", "flowtable": f"@{self.name()}"}}

    def _set_statement(self) -> Json:
        operation = self.advance().text
        self.expect("@")
        name = f"@{self.name()}"
        self.open("{")
        element, statements = self._set_key()
        data = self._concatenation() if self.take(":") else None
        self.close("}")
        if data is not None:
            body = {"op": operation, "elem": element, "data": data, "map": name}
        else:
            body = {"op": operation, "elem": element, "set": name}
        if statements:
            body["stmt"] = statements
        return {"map" if data is not None else "set": body}

    def _set_key(self) -> tuple[Json, list[Json]]:
        """The key of a set statement with its timeout, and the statements that each element carries."""
        element = self._concatenation()
        options: dict[str, Json] = {}
        statements: list[Json] = []
        while not self.at("}", ":"):
            if self.at("timeout", "expires"):
                word = self.advance().text
                options[word] = self._milliseconds() // 1000
            elif self.at("comment"):
                self.advance()
                options["comment"] = self.string()
            else:
                statements.append(_stateless(self._statement()))
        return ({"elem": {"val": element, **options}} if options else element), statements

    def _old_set_statement(self) -> Json:
        self.advance()
        operation = self.advance().text
        element = self._concatenation()
        self.expect("@")
        return {"set": {"op": operation, "elem": element, "set": f"@{self.name()}"}}

    def _meter(self) -> Json:
        self.advance()
        name = self.name()
        size = self.integer() if self.take("size") else 65535
        self.open("{")
        key, statements = self._set_key()
        self.close("}")
        if len(statements) != 1:
            raise _Unknown("meter")
        return {"meter": {"key": key, "stmt": statements[0], "size": size, "name": name}}

    def _synproxy(self) -> Json:
        self.advance()
        if self.take("name"):
            return {"synproxy": self._operand_or_map()}
        body: dict[str, Json] = {}
        self._synproxy_options(body)
        if body.get("wscale") == 0:
            del body["wscale"]
        return {"synproxy": body or None}

    def _synproxy_options(self, body: dict[str, Json]) -> None:
        flags: list[str] = []
        while self.at("mss", "wscale", "timestamp", "sack-perm"):
            word = self.advance().text
            if word in ("mss", "wscale"):
                body[word] = self.integer()
            else:
                flags.append(word)
        if flags:
            body["flags"] = flags

    def _reset(self) -> Json:
        self.advance()
        self.expect("tcp")
        self.expect("option")
        return {"reset": self._option("tcp option")}

    def _xt(self) -> Json:
        self.advance()
        kind = self._key({"match": "", "target": "", "watcher": ""})
        return {"xt": {"type": kind, "name": self.name()}}


#: Fields of TCP and IP options and of SCTP chunks (exthdr.c, tcpopt.c, ipopt.c, sctp_chunk.c).
_OPTION_FIELDS = frozenset(
    {
        *("kind", "length", "size", "count", "left", "right", "tsval", "tsecr", "subtype"),
        *("type", "ptr", "value", "addr"),
        *("flags", "stream", "ssn", "ppid", "init-tag", "a-rwnd", "num-outbound-streams", "num-inbound-streams"),
        *("initial-tsn", "cum-tsn-ack", "num-gap-ack-blocks", "num-dup-tsns", "lowest-tsn", "seqno", "new-cum-tsn"),
        "tsn",
    }
)


def _relation(operator: str, left: Json, right: Json) -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _is_binary(expression: Json) -> bool:
    return isinstance(expression, dict) and any(op in expression for op in ("&", "|", "^", "<<", ">>"))


def _one_or_list(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _stateless(statement: Json) -> Json:
    """What a set says of its elements' statements, without counts."""
    if isinstance(statement, dict):
        if isinstance(statement.get("counter"), dict):
            return {"counter": None}
        if isinstance(statement.get("quota"), dict):
            return {"quota": {k: v for k, v in statement["quota"].items() if not k.startswith("used")}}
        if isinstance(statement.get("last"), dict):
            return {"last": None}
    return statement


def _duration(text: str) -> int | None:
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


def _symbol(word: str, kind: str) -> Json:
    """What a bare word on a right-hand side stands for in JSON."""
    if word == "exists" and kind in ("boolean", "iface_index", "ifname", ""):
        return True
    if word == "missing" and kind in ("boolean", "iface_index", "ifname", ""):
        return False
    known = SYMBOLS.get(kind)
    if known is not None and word not in known and "-" in word:
        low, _dash, high = word.partition("-")
        if low in known and (high in known or high.isdigit() or high.startswith("0x")):
            end: Json = high if high in known else _in_range(kind, int(high, 0))
            return {"range": [low, end]}
    if kind == "ether_type" and word == "vlan":
        return "8021q"
    return word


#: Types of which nft prints names in JSON, but numbers in the text of a range.
_NAMED_IN_RANGES = frozenset({"dscp", "icmp_type", "icmpv6_type", "ecn", "ether_type"})


def _in_range(kind: str, value: Json) -> Json:
    """Give an end of a range the name that JSON has for it."""
    if kind in _NAMED_IN_RANGES and isinstance(value, int):
        for name, number in SYMBOLS[kind].items():
            if number == value:
                return name
    return value
