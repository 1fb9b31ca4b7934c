"""Read statements and rules out of nft's text, as libnftables-json(5) has them."""

from __future__ import annotations

from collections.abc import Callable

from nettrace.netfilter.nft_cursor import SIZES, Json, UnknownWord, one_or_list
from nettrace.netfilter.nft_expressions import VERDICTS, Expressions
from nettrace.netfilter.nft_lexer import END, HANDLE, NEWLINE, PUNCT, STRING, WORD
from nettrace.netfilter.nft_types import BITMASKS, type_of

__all__ = ["CT_OBJECTS", "Statements", "stateless"]

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
_NAT_FLAGS = ("random", "fully-random", "persistent", "netmap")
CT_OBJECTS = frozenset({"helper", "timeout", "expectation"})


class Statements(Expressions):
    """The grammar of rules."""

    def __init__(self, source: str, *, whole_rules: bool = False) -> None:
        super().__init__(source, whole_rules=whole_rules)
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

    # --- Rules

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
                expr.append(self.statement())
            except UnknownWord:
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

    def statement(self) -> Json:
        """Read one statement."""
        token = self.token
        if token.kind == WORD:
            word = token.text
            if word in VERDICTS:
                return self._verdict()
            if word in ("add", "update", "delete") and self.peek().text == "@":
                return self._set_statement()
            if word == "set" and self.peek().text in ("add", "update", "delete"):
                return self._old_set_statement()
            if word == "ct" and self.peek().text == "count":
                return self._ct_count()
            if word == "ct" and self.peek().text in CT_OBJECTS and self.peek(2).text == "set":
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

    # --- Matches

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

    # --- Statements

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

    def _quota(self) -> Json:
        self.advance()
        if self.take("name"):
            return {"quota": self._operand_or_map()}
        inverted = self._inverted()
        body: dict[str, Json] = {"val": self.integer(), "val_unit": self._key(dict.fromkeys(SIZES, ""))}
        if inverted:
            body["inv"] = True
        if self.take("used"):
            body["used"] = self.integer()
            body["used_unit"] = self._key(dict.fromkeys(SIZES, ""))
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
            body["flags"] = one_or_list(flags)
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
            body["flags"] = one_or_list(sorted(flags))
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
            raise UnknownWord(kind)
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
            body["flags"] = one_or_list([flag for flag in _NAT_FLAGS if flag in flags])
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
            raise UnknownWord("tproxy")
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
            raise UnknownWord("flow")
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
                statements.append(stateless(self.statement()))
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
            raise UnknownWord("meter")
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


def _relation(operator: str, left: Json, right: Json) -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _is_binary(expression: Json) -> bool:
    return isinstance(expression, dict) and any(op in expression for op in ("&", "|", "^", "<<", ">>"))


def stateless(statement: Json) -> Json:
    """What a set says of its elements' statements, without counts."""
    if isinstance(statement, dict):
        if isinstance(statement.get("counter"), dict):
            return {"counter": None}
        if isinstance(statement.get("quota"), dict):
            return {"quota": {k: v for k, v in statement["quota"].items() if not k.startswith("used")}}
        if isinstance(statement.get("last"), dict):
            return {"last": None}
    return statement
