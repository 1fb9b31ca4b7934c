"""Read values, expressions and set elements out of nft's text, as libnftables-json(5) has them."""

from __future__ import annotations

from nettrace.netfilter.nft_cursor import Cursor, Json, UnknownWord, milliseconds_of
from nettrace.netfilter.nft_lexer import ADDRESS, COUNTED, NUMBER, PAIR, PUNCT, STRING, WORD, Token
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
    type_of,
)

__all__ = ["VERDICTS", "Expressions"]

#: More terms in one expression than nft can print are refused.
MAX_TERMS = 64

_BINARY: tuple[dict[str, str], ...] = (
    {"|": "|", "or": "|"},
    {"^": "^", "xor": "^"},
    {"&": "&", "and": "&"},
    {"<<": "<<", ">>": ">>", "lshift": "<<", "rshift": ">>"},
)
VERDICTS = frozenset({"accept", "drop", "continue", "return", "break"})
_LITERALS = frozenset({NUMBER, ADDRESS, STRING, COUNTED, PAIR})

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

#: Types of which nft prints names in JSON, but numbers in the text of a range.
_NAMED_IN_RANGES = frozenset({"dscp", "icmp_type", "icmpv6_type", "ecn", "ether_type"})


class Expressions(Cursor):
    """The grammar of everything that has a value; each method goes past what it returns."""

    def statement(self) -> Json:
        """Read one statement; set elements carry some."""
        raise NotImplementedError

    # --- Set elements

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
        if self.at(*VERDICTS, "jump", "goto", "queue"):
            if self.take("queue"):
                return {"queue": None}
            return self._verdict()
        return self._concatenated_values(tuple(kind.split(" . ")) if kind else ("",))

    def _verdict(self) -> Json:
        word = self.advance().text
        if word in ("jump", "goto"):
            return {word: {"target": self.name()}}
        return {word: None}

    def _known_statement(self) -> dict[str, Json]:
        try:
            found: dict[str, Json] = self.statement()
        except UnknownWord as error:
            self.fail(f"cannot read {error} before")
        return found

    def _concatenated_values(self, types: tuple[str, ...]) -> Json:
        found = [self._value(types[0] if types else "")]
        while self.at("."):
            self.advance()
            found.append(self._value(types[len(found)] if len(found) < len(types) else ""))
        return {"concat": found} if len(found) > 1 else found[0]

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

    def _operand_or_map(self) -> Json:
        """The name of an object, or a map that gives one."""
        if self.token.kind == STRING:
            return self.advance().text
        key = self._concatenation()
        if self.take("map"):
            return {"map": {"key": key, "data": self._map_data(key, "string")}}
        return key

    # --- Operators and values

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
            milliseconds = milliseconds_of(token.text)
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

    # --- Operands

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
        raise UnknownWord(word)

    def _raw_payload(self) -> Json:
        self.expect("@")
        base = self.name()
        if base not in ("ll", "nh", "th", "ih") or not self.at(","):
            raise UnknownWord(f"@{base}")
        self.expect(",")
        offset = self.integer()
        self.expect(",")
        return {"payload": {"base": base, "offset": offset, "len": self.integer()}}

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
            raise UnknownWord(key)
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
            raise UnknownWord(f"{protocol} {field}")
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


def _in_range(kind: str, value: Json) -> Json:
    """Give an end of a range the name that JSON has for it."""
    if kind in _NAMED_IN_RANGES and isinstance(value, int):
        for name, number in SYMBOLS[kind].items():
            if number == value:
                return name
    return value
