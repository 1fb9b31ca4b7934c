"""Read what `nft list ruleset` prints, into the structure that `nft -j list ruleset` prints.

The result is that of libnftables-json(5). Where JSON of older nft says less than its text (the "dynamic" flag, the
comment of a chain, the devices of a netdev chain, "typeof"), the result says what newer nft's JSON says. A statement
that is not understood is kept as {"unknown": text}, with all that follows it in its rule; text whose structure is
broken is refused.
"""

from __future__ import annotations

from nettrace.netfilter.nft_cursor import SIZES, Json, UnknownWord, one_or_list
from nettrace.netfilter.nft_grammar import CT_OBJECTS, Statements, stateless
from nettrace.netfilter.nft_lexer import END, HANDLE, NEWLINE, NUMBER, PUNCT, RULE, STRING, WORD
from nettrace.netfilter.nft_plain import PlainText
from nettrace.netfilter.nft_types import BRIDGE_PRIORITIES, FAMILIES, PRIORITIES, type_names

__all__ = ["parse_rule", "parse_text"]

_SET_FLAGS = ("constant", "interval", "timeout", "dynamic")
OBJECT_TYPES = frozenset({"counter", "quota", "limit", "synproxy", "secmark", "tunnel"})


def parse_text(text: str, *, deferring: bool = False) -> dict[str, Json]:
    """Parse the output of `nft list ruleset` (also with -a, -s, -n, -t) into {"nftables": [...]}.

    With `deferring`, the "expr" of a plain rule is a PlainText, to be read when it is needed. Raises InputError, with
    the number of the line, where the text is malformed or cut off.
    """
    return _Parser(text, whole_rules=deferring).ruleset()


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


class _Parser(Statements):
    """The grammar of tables and what they hold."""

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
            elif word == "ct" and self.at(*CT_OBJECTS):
                kind = f"ct {self.advance().text}"
                items.append({kind: self._object(kind, name)})
            elif word in OBJECT_TYPES:
                items.append({word: self._object(word, name)})
            else:
                self.fail("nothing in a table begins with", start)
            self.separator()
        self.close("}")
        items.extend(rules)

    def _chain(self, table: str, items: list[Json], rules: list[Json]) -> None:
        name = self.name()
        body: dict[str, Json] = {"family": self.family, "table": table, "name": name}
        items.append({"chain": body})
        self.open("{")
        body.update(self.handle())
        self.begin()
        while not self.at("}"):
            if self.token.kind == RULE:
                rules.append({"rule": self._plain_rule(table, name)})
            elif self.at("comment") and self.peek().kind == STRING:
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

    def _plain_rule(self, table: str, chain: str) -> dict[str, Json]:
        token = self.advance()
        found = self.plain.pop(token.start)
        body: dict[str, Json] = {"family": self.family, "table": table, "chain": chain}
        if found["handle"] is not None:
            body["handle"] = int(found["handle"])
        if found["comment"] is not None:
            body["comment"] = found["comment"]
        body["expr"] = PlainText(found["rule"], found["target"])
        self.forget()
        return body

    def _hook(self, body: dict[str, Json]) -> None:
        self.expect("type")
        body["type"] = self.name()
        self.expect("hook")
        body["hook"] = self.name()
        if self.take("device"):
            body["dev"] = self.name()
        elif self.take("devices"):
            self.take("=")
            body["dev"] = one_or_list(self._names_in_braces())
        self.expect("priority")
        body["prio"] = self._priority()
        body.setdefault("policy", "accept")

    def _priority(self) -> int:
        start = self.token
        value = self._priority_value()
        if not -(2**31) <= value < 2**31:
            self.fail("the kernel cannot hold the priority that begins with", start)
        return value

    def _priority_value(self) -> int:
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
                body["dev"] = one_or_list(self._names_in_braces())
            elif word == "flags":
                body["flags"] = self._words()
            elif word == "counter":
                body["counter"] = None
            else:
                self.fail("nothing in a flowtable follows", self.peek(-1))
            self.separator()
        self.close("}")
        return body

    # --- Named objects

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

    def _byte_count(self) -> int:
        count = self.integer()
        if not self.at(*SIZES):
            self.fail("expected bytes, kbytes or mbytes instead of")
        return count * SIZES[self.advance().text]

    # --- Sets and maps

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
                    statements.append(stateless(self._known_statement()))
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
                    if self.at("verdict", *OBJECT_TYPES) and self.peek().kind in (NEWLINE, PUNCT):
                        body["map"] = self.advance().text
                    else:
                        data = type_names(self._concatenation(), self.family)
                        body["map"] = " . ".join(data) if isinstance(data, list) else data
                    types = (*types, str(body["map"]))
            except UnknownWord as error:
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
