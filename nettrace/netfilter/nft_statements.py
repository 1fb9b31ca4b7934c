"""Statements of libnftables-json(5) turned into the expressions of rules.

Every statement becomes something: what is not understood becomes an UnknownMatch or UnknownStatement with the text
that nft would print, so that it can never pass for a match or for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from nettrace.errors import InputError
from nettrace.netfilter.nft_operands import guards_of, is_random, kinds_of, operand_of
from nettrace.netfilter.nft_render import render_expression, render_statement
from nettrace.netfilter.nft_types import BITMASKS, type_of
from nettrace.netfilter.nft_values import NoValue, catch_all, item_of, mask_of, range_of, scalar_of
from nettrace.netfilter.ruleset import (
    Accept,
    AllOf,
    AnyOf,
    BitTest,
    Compare,
    Concat,
    Const,
    Continue,
    Ct,
    Drop,
    Expr,
    Goto,
    In,
    Item,
    Jump,
    Lookup,
    MapLookup,
    Masked,
    Match,
    Meta,
    NamedSet,
    Nat,
    Noop,
    Notrack,
    OneOf,
    Operand,
    Payload,
    Queue,
    Reject,
    Return,
    SetCt,
    SetMeta,
    SetPayload,
    SetUpdate,
    Statement,
    Stolen,
    UnknownMatch,
    UnknownOperand,
    UnknownStatement,
    VerdictMap,
)

__all__ = ["RuleReader", "SetReader"]

Json: TypeAlias = Any

_PORT_PROTOCOLS = (6, 17, 33, 132, 136)

#: icmpx codes as both families send them (nft_reject.c, icmp_code_v4 and icmp_code_v6).
_ICMPX: dict[str, tuple[str, str]] = {
    "no-route": ("icmp-net-unreachable", "icmp6-no-route"),
    "port-unreachable": ("icmp-port-unreachable", "icmp6-port-unreachable"),
    "host-unreachable": ("icmp-host-unreachable", "icmp6-addr-unreachable"),
    "admin-prohibited": ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
}
_ICMP: dict[str, str] = {"prot-unreachable": "icmp-proto-unreachable"}
_ICMP6: dict[str, str] = {"admin-prohibited": "icmp6-adm-prohibited"}

#: Statements that nft prints with nothing inside, and those that may stand for a named object.
_NULLABLE = frozenset({"reject", "queue", "counter", "synproxy"})
_NAMED_OBJECTS = frozenset({"counter", "quota", "limit", "synproxy"})

#: xt targets that let the packet go on as it is.
_HARMLESS_TARGETS = frozenset(
    {"LOG", "NFLOG", "TRACE", "CHECKSUM", "AUDIT", "CLASSIFY", "IDLETIMER", "TCPMSS", "TEE", "ULOG", "LED", "RATEEST"}
)

_COUNTER = Noop(text="counter")

#: More outcomes of a number generator than this are not told apart.
_MAX_CHOICES = 256

_LIMITS = frozenset({"limit", "quota", "ct count"})


class _Unreadable(Exception):
    """A statement that has no meaning here; the message says why."""


class SetReader:
    """The named sets and maps of one table, as listed; what rules do to them is added as rules are read."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.listed: dict[str, dict[str, Json]] = {}
        self.updated: set[str] = set()

    def add(self, body: dict[str, Json], name: str) -> None:
        """Take over a set or map object."""
        self.listed[name] = dict(body)

    def add_elements(self, name: str, elements: Json) -> None:
        """Take over elements that are listed apart from their set."""
        found = self.listed.get(name)
        if found is not None:
            found["elem"] = [*_as_list(found.get("elem", [])), *_as_list(elements)]

    def kinds(self, name: str) -> tuple[str, ...]:
        """Return the types of a set's key."""
        declared = self.listed.get(name, {}).get("type")
        if isinstance(declared, dict) and "typeof" in declared:
            return kinds_of(declared["typeof"], self.family)
        if isinstance(declared, str):
            return tuple(part.strip() for part in declared.split(" . "))
        return tuple(str(each) for each in _as_list(declared))

    def changes(self, name: str) -> bool:
        """Tell whether packets may have changed the contents since they were listed."""
        flags = _as_list(self.listed.get(name, {}).get("flags", []))
        return name in self.updated or "dynamic" in flags

    def elements(self, name: str) -> Json:
        """Return the listed elements as JSON."""
        return self.listed.get(name, {}).get("elem", [])

    def build(self, name: str) -> NamedSet:
        """Return the set in its final form."""
        body = self.listed[name]
        data = body.get("map")
        kinds = self.kinds(name)
        pairs, complete = read_elements(_as_list(body.get("elem", [])), kinds, _data_kinds(data), self.family)
        return NamedSet(name=name, elements=tuple(pairs), complete=complete and not self.changes(name))


def _data_kinds(data: Json) -> tuple[str, ...]:
    """Return the types of a map's values; ("verdict",) for a verdict map, () for a set."""
    if data is None:
        return ()
    if isinstance(data, dict) and "typeof" in data:
        return kinds_of(data["typeof"], "inet")
    parts = data.split(" . ") if isinstance(data, str) else [str(each) for each in _as_list(data)]
    return tuple(part.strip() for part in parts)


def read_elements(
    elements: Iterable[Json], kinds: Sequence[str], data: Sequence[str], family: str
) -> tuple[list[tuple[Item, Any]], bool]:
    """Return the pairs of a set or map, catch-all last, and whether every element could be read.

    An element with a rate limit matches only now and then, so it counts as one that could not be read.
    """
    pairs: list[tuple[Item, Any]] = []
    last: list[tuple[Item, Any]] = []
    complete = True
    for element in elements:
        key, value = element if isinstance(element, list) and len(element) == 2 and data else (element, None)
        if isinstance(key, dict) and isinstance(key.get("elem"), dict):
            body = key["elem"]
            if any(each in body for each in _LIMITS):
                complete = False
                continue
            key = body.get("val")
        try:
            item = catch_all(kinds) if key == "*" else item_of(key, kinds)
            result = _datum(value, data, family) if data else None
        except (NoValue, _Unreadable):
            complete = False
            continue
        (last if key == "*" else pairs).append((item, result))
    return pairs + last, complete


def _datum(value: Json, kinds: Sequence[str], family: str) -> Any:
    if tuple(kinds) == ("verdict",):
        return _verdict(value)
    if isinstance(value, dict) and ("range" in value or "prefix" in value):
        return item_of(value, kinds)
    if isinstance(value, dict) and isinstance(value.get("concat"), list):
        parts = value["concat"]
        if len(parts) == len(kinds):
            return tuple(scalar_of(part, kind) for part, kind in zip(parts, kinds, strict=True))
        return tuple(scalar_of(part, "address" if isinstance(part, str) else "integer") for part in parts)
    kind = kinds[0] if len(kinds) == 1 else "integer"
    return value if kind in _OBJECTS else scalar_of(value, kind)


_OBJECTS = frozenset({"counter", "quota", "limit", "ct helper", "ct timeout", "ct expectation", "synproxy", "secmark"})


def _verdict(statement: Json) -> Statement:
    if isinstance(statement, dict) and len(statement) == 1:
        ((kind, body),) = statement.items()
        plain = _VERDICTS.get(kind)
        if plain is not None:
            return plain
        if kind in ("jump", "goto") and isinstance(body, dict) and isinstance(body.get("target"), str):
            target = body["target"]
            return Jump(chain=target) if kind == "jump" else Goto(chain=target)
        if kind == "queue":
            return Queue(text="queue")
    raise _Unreadable("a verdict that nettrace does not know")


_VERDICTS: dict[str, Statement] = {"accept": Accept(), "drop": Drop(), "return": Return(), "continue": Continue()}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class RuleReader:
    """Turns the statements of the rules of one table into expressions."""

    def __init__(self, family: str, sets: SetReader) -> None:
        self.family = family
        self.sets = sets
        self._transport_known = False
        self._seen: set[Match] = set()
        #: What a match looks at, by the plain left sides seen so far: kinds, operand, and what is checked first.
        self._left_sides: dict[tuple[str, ...], tuple[Any, Operand, tuple[Match, ...]]] = {}
        self._readers: dict[str, Callable[[Json], Iterable[Expr]]] = {
            "match": self._match,
            "vmap": self._vmap,
            "mangle": self._mangle,
            "set": self._set,
            "map": self._set,
            "meter": self._meter,
            "reject": self._reject,
            "queue": self._queue,
            "counter": self._counter,
            "quota": self._limited,
            "limit": self._limited,
            "synproxy": self._synproxy,
            "xt": self._xt,
            "fwd": self._fwd,
        }

    def read(self, statements: Iterable[Json]) -> list[Expr]:
        """Return the expressions of one rule."""
        self._transport_known = False
        self._seen = set()
        found: list[Expr] = []
        for statement in statements:
            found += self._statement(statement)
        return found

    def _statement(self, statement: Json) -> list[Expr]:
        if isinstance(statement, str):
            # nft 1.0.6 prints a statement that has no JSON form as text.
            from nettrace.netfilter.nft_text import parse_rule

            try:
                return [expr for each in parse_rule(statement, self.family) for expr in self._statement(each)]
            except InputError:
                return [UnknownStatement(text=statement)]
        if not isinstance(statement, dict) or len(statement) != 1:
            return [UnknownStatement(text=self._text(statement))]
        ((kind, body),) = statement.items()
        try:
            return self._read(kind, body, statement)
        except (NoValue, _Unreadable) as error:
            if kind == "match":
                return [self._doubt(statement, f"it cannot be evaluated: {error}", stateful=is_random(body))]
            return [UnknownStatement(text=self._text(statement), reason=f"its effect is not known: {error}")]

    def _text(self, statement: Json) -> str:
        return render_statement(statement, family=self.family)

    def _read(self, kind: str, body: Json, statement: Json) -> list[Expr]:
        if kind in ("accept", "drop", "return", "jump", "goto"):
            return [_verdict(statement)]
        if kind in _NOOPS:
            return [Noop(text=self._text(statement))]
        if kind == "notrack":
            return [Notrack()]
        if kind in ("snat", "dnat", "masquerade", "redirect"):
            return [*self._nat_guards(body), *self._nat(kind, body)]
        if kind == "ct count":
            return [self._doubt(statement, "how many connections there are is not known", stateful=True)]
        if kind == "tproxy":
            return [self._doubt(statement, "whether a transparent socket takes the packet is not known")]
        reader = self._readers.get(kind)
        named = kind in _NAMED_OBJECTS and isinstance(body, str)
        if reader is not None and (isinstance(body, dict) or named or (body is None and kind in _NULLABLE)):
            return list(reader(statement))
        return [UnknownStatement(text=self._text(statement))]

    # --- Matches ----------------------------------------------------------------------------------------------------

    def _guards(self, expression: Json) -> list[Expr]:
        """What the kernel checks first, once a rule."""
        key = _plain_key(expression)
        guards = guards_of(expression, self.family) if key is None else self._left_side(key, expression)[2]
        found = [each for each in guards if each not in self._seen]
        self._seen.update(found)
        return list(found)

    def _left_side(self, key: tuple[str, ...], left: Json) -> tuple[Any, Operand, tuple[Match, ...]]:
        found = self._left_sides.get(key)
        if found is None:
            guards = tuple(guards_of(left, self.family))
            found = self._left_sides[key] = (kinds_of(left, self.family), operand_of(left, self.family), guards)
        return found

    def _match(self, statement: Json) -> Iterable[Expr]:
        body = statement["match"]
        left, right, op = body.get("left"), body.get("right"), str(body.get("op", "=="))
        yield from self._guards(left)
        found = self._relation(left, op, right, statement)
        if _is_transport(left) and not self._transport_known and not isinstance(found, UnknownMatch):
            found = self._unguarded(found, statement)
        self._note_transport(left, op)
        yield found

    def _relation(self, left: Json, op: str, right: Json, statement: Json) -> Match:
        key = _plain_key(left)
        if key is None:
            kinds, operand = kinds_of(left, self.family), operand_of(left, self.family)
        else:
            kinds, operand, _guards = self._left_side(key, left)
        kind = kinds[0] if len(kinds) == 1 else "concat"
        if not isinstance(operand, Meta | Payload | Ct) and is_random(left):
            return self._doubt(statement, "it is different for every packet", stateful=True)
        if isinstance(operand, UnknownOperand):
            return self._doubt(statement, operand.reason)
        if isinstance(right, str) and right.startswith("@"):
            return Lookup(left=operand, name=right[1:], negate=op == "!=")
        if isinstance(right, bool) and isinstance(left, dict) and "fib" in left:
            missing = right is (op == "!=")
            return In(left=operand, items=("",), negate=not missing)
        if isinstance(right, dict) and "set" in right:
            pairs, complete = read_elements(_as_list(right["set"]), kinds, (), self.family)
            if not complete:
                return self._doubt(statement, "some values of its set cannot be read")
            return In(left=operand, items=tuple(item for item, _value in pairs), negate=op == "!=")
        if op == "!" or (op == "in" and kind in BITMASKS):
            return BitTest(left=operand, mask=mask_of(right, kind), negate=op == "!")
        if self._is_expression(right):
            return Compare(op="==" if op == "in" else op, left=operand, right=operand_of(right, self.family))
        if _is_doubtful_range(op, right):
            # netlink_delinearize merges "length < 30 mark > 5" into the one range "mark != 30-5".
            return self._doubt(statement, "nft lists two comparisons as one range, and not which they were")
        if op in ("<", ">", "<=", ">="):
            return Compare(op=op, left=operand, right=Const(value=scalar_of(right, kind)))
        if op not in ("==", "!=", "in"):
            raise _Unreadable(f"nettrace does not know the operator {op!r}")
        item: Item = mask_of(right, kind) if isinstance(right, list) else item_of(right, kinds)
        return self._equals(left, operand, item, kind, negate=op == "!=")

    def _equals(self, left: Json, operand: Operand, item: Item, kind: str, *, negate: bool) -> Match:
        """Compare with one item; a bit mask on the left goes into the item."""
        masked = left.get("&") if isinstance(left, dict) else None
        if isinstance(masked, list) and len(masked) == 2 and isinstance(item, int) and kind != "concat":
            try:
                mask = scalar_of(masked[1], kind)
            except NoValue:
                mask = ""
            if isinstance(mask, int):
                return In(
                    left=operand_of(masked[0], self.family), items=(Masked(value=item, mask=mask),), negate=negate
                )
        return In(left=operand, items=(item,), negate=negate)

    def _is_expression(self, right: Json) -> bool:
        if not isinstance(right, dict) or len(right) != 1:
            return False
        ((kind, body),) = right.items()
        if kind in ("&", "|", "^", "<<", ">>") and isinstance(body, list):
            return any(self._is_expression(each) for each in body)
        return kind not in ("range", "prefix", "set", "concat", "elem")

    def _unguarded(self, match: Match, statement: Json) -> Match:
        """A port of a packet that has none: nft reads whatever bytes stand in its place."""
        portless = In(left=Meta(key="l4proto"), items=_PORT_PROTOCOLS, negate=True)
        doubt = self._doubt(statement, "the packet has no ports, and the bytes in their place are not known")
        return AnyOf(matches=(match, AllOf(matches=(portless, doubt))))

    def _note_transport(self, left: Json, op: str) -> None:
        """Remember that the rule is about one transport protocol from here on."""
        if op in ("!=", "!"):
            return
        for part in left.get("concat", [left]) if isinstance(left, dict) else []:
            if not isinstance(part, dict):
                continue
            meta, payload = part.get("meta"), part.get("payload")
            if isinstance(meta, dict) and meta.get("key") == "l4proto":
                self._transport_known = True
            if isinstance(payload, dict) and "base" not in payload:
                place = (payload.get("protocol"), payload.get("field"))
                if place in (("ip", "protocol"), ("ip6", "nexthdr")) or place[0] in ("tcp", "udp", "sctp", "dccp"):
                    self._transport_known = True

    def _doubt(self, statement: Json, reason: str, *, stateful: bool = False) -> UnknownMatch:
        return UnknownMatch(text=self._text(statement), reason=reason, stateful=stateful)

    # --- Maps --------------------------------------------------------------------------------------------------------

    def _vmap(self, statement: Json) -> Iterable[Expr]:
        body = statement["vmap"]
        key, data = body.get("key"), body.get("data")
        yield from self._guards(key)
        operand = self._key_operand(key)
        if isinstance(data, str) and data.startswith("@"):
            yield VerdictMap(key=operand, name=data[1:])
            return
        elements = _as_list(data.get("set", [])) if isinstance(data, dict) else []
        pairs, complete = read_elements(elements, kinds_of(key, self.family), ("verdict",), self.family)
        if not complete:
            yield UnknownStatement(text=self._text(statement), reason="some entries of its map cannot be read")
            return
        yield VerdictMap(key=operand, entries=tuple(pairs))

    def _key_operand(self, key: Json) -> Operand:
        """The key of a map; a number generator becomes the numbers it can give."""
        choices = _choices(key)
        if choices is not None and len(choices) <= _MAX_CHOICES:
            text = render_expression(key, family=self.family)
            return OneOf(values=tuple(choices), reason=f"what {text} gives cannot be foreseen")
        return operand_of(key, self.family)

    def _value_operand(self, value: Json, kind: str) -> Operand:
        """What is written somewhere: a constant, an expression, or what a map gives."""
        if isinstance(value, dict) and isinstance(value.get("map"), dict):
            return self._map_operand(value["map"], (kind,))
        if self._is_expression(value):
            return operand_of(value, self.family)
        return Const(value=mask_of(value, kind) if isinstance(value, list) else scalar_of(value, kind))

    def _map_operand(self, body: dict[str, Json], data: Sequence[str]) -> Operand:
        key, mapping = body.get("key"), body.get("data")
        text = render_expression({"map": body}, family=self.family)
        name = mapping[1:] if isinstance(mapping, str) and mapping.startswith("@") else None
        if name is not None:
            pairs, complete = self._named_pairs(name, data)
        else:
            elements = _as_list(mapping.get("set", [])) if isinstance(mapping, dict) else []
            pairs, complete = read_elements(elements, kinds_of(key, self.family), data, self.family)
        if not complete and name is None:
            return UnknownOperand(text=text, reason="some entries of the map cannot be read")
        if _choices(key) is not None or is_random(key):
            values = tuple(dict.fromkeys(value for _item, value in pairs))
            if not complete or not values or len(values) > _MAX_CHOICES or _misses(_choices(key), pairs):
                return UnknownOperand(text=text, reason="the kernel picks the value by chance")
            return OneOf(values=values, reason=f"which value {text} gives cannot be foreseen")
        operand = operand_of(key, self.family)
        if name is not None:
            return MapLookup(key=operand, name=name)
        return MapLookup(key=operand, entries=tuple(pairs))

    def _named_pairs(self, name: str, data: Sequence[str]) -> tuple[list[tuple[Item, Any]], bool]:
        declared = _data_kinds(self.sets.listed.get(name, {}).get("map")) or tuple(data)
        pairs, complete = read_elements(
            _as_list(self.sets.elements(name)), self.sets.kinds(name), declared, self.family
        )
        return pairs, complete and not self.sets.changes(name)

    # --- Statements --------------------------------------------------------------------------------------------------

    def _mangle(self, statement: Json) -> Iterable[Expr]:
        body = statement["mangle"]
        key, value = body.get("key"), body.get("value")
        text = self._text(statement)
        if not isinstance(key, dict) or len(key) != 1:
            raise _Unreadable("what it writes to has no form that nft prints")
        ((kind, place),) = key.items()
        yield from self._guards(key)
        if kind in ("meta", "ct") and isinstance(place, dict):
            name = str(place.get("key"))
            if name in ("mark", "zone", "helper"):
                operand = self._value_operand(value, type_of(key, self.family))
                yield SetMeta(key=name, value=operand) if kind == "meta" else SetCt(key=name, value=operand)
            else:
                yield Noop(text=text)
            return
        if kind == "payload" and isinstance(place, dict):
            target = operand_of(key, self.family)
            if isinstance(target, Payload):
                operand = self._value_operand(value, type_of(key, self.family))
                yield SetPayload(protocol=target.protocol, field=target.field, value=operand)
            elif "base" in place:
                raise _Unreadable("it writes raw bytes into the packet")
            else:
                yield Noop(text=text)
            return
        if kind in ("tcp option", "ip option", "exthdr", "sctp chunk"):
            yield Noop(text=text)
            return
        raise _Unreadable("nettrace does not know what it writes to")

    def _set(self, statement: Json) -> Iterable[Expr]:
        """add, update or delete an element: the rule goes on when the element's own statements let it."""
        ((kind, body),) = statement.items()
        name = str(body.get("set") or body.get("map")).removeprefix("@")
        element = body.get("elem")
        key = element["elem"].get("val") if isinstance(element, dict) and "elem" in element else element
        self.sets.updated.add(name)
        yield from self._present(key)
        if kind == "map":
            yield from self._present(body.get("data"))
        yield SetUpdate(name=name, op=str(body.get("op")))
        yield from self._element_limits(body.get("stmt", []), statement)

    def _meter(self, statement: Json) -> Iterable[Expr]:
        body = statement["meter"]
        key = body.get("key")
        yield from self._present(key["elem"].get("val") if isinstance(key, dict) and "elem" in key else key)
        limits = list(self._element_limits(_as_list(body.get("stmt")), statement))
        yield from limits or [Noop(text=self._text(statement))]

    def _element_limits(self, statements: Json, statement: Json) -> Iterable[Expr]:
        for each in _as_list(statements):
            if isinstance(each, dict) and any(kind in each for kind in _LIMITS):
                yield self._doubt(statement, "how much traffic this element has had is not known", stateful=True)
                return

    def _present(self, key: Json) -> Iterable[Expr]:
        """The rule ends when the packet has no such header."""
        yield from self._guards(key)
        for part in key.get("concat", [key]) if isinstance(key, dict) else []:
            payload = part.get("payload") if isinstance(part, dict) else None
            if not isinstance(payload, dict):
                continue
            number = {"tcp": 6, "udp": 17, "udplite": 136, "sctp": 132, "dccp": 33, "icmp": 1, "icmpv6": 58}.get(
                str(payload.get("protocol"))
            )
            if number is not None:
                yield In(left=Meta(key="l4proto"), items=(number,))
            elif payload.get("protocol") in ("ip", "ip6") and self.family == "inet":
                yield In(left=Meta(key="nfproto"), items=(2 if payload["protocol"] == "ip" else 10,))

    def _reject(self, statement: Json) -> Iterable[Expr]:
        body = statement["reject"] or {}
        default = {"ip": "icmp", "ip6": "icmpv6"}.get(self.family, "icmpx")
        kind, code = str(body.get("type", default)), str(body.get("expr", "port-unreachable"))
        if kind == "tcp reset":
            yield In(left=Meta(key="l4proto"), items=(6,))
            yield Reject(kind="tcp-reset")
        elif kind == "icmpx":
            four, six = _ICMPX.get(code, (f"icmp-{code}", f"icmp6-{code}"))
            if self.family in ("ip", "ip6"):
                yield Reject(kind=four if self.family == "ip" else six)
            else:
                yield VerdictMap(key=Meta(key="nfproto"), entries=((2, Reject(kind=four)), (10, Reject(kind=six))))
        elif kind == "icmp":
            if self.family != "ip":
                yield In(left=Meta(key="nfproto"), items=(2,))
            yield Reject(kind=_ICMP.get(code, f"icmp-{code}"))
        elif kind == "icmpv6":
            if self.family != "ip6":
                yield In(left=Meta(key="nfproto"), items=(10,))
            yield Reject(kind=_ICMP6.get(code, f"icmp6-{code}"))
        else:
            raise _Unreadable(f"nettrace does not know the answer {kind!r}")

    def _queue(self, statement: Json) -> Iterable[Expr]:
        body = statement["queue"]
        flags = _as_list(body.get("flags", [])) if isinstance(body, dict) else []
        yield Queue(text=self._text(statement), bypass="bypass" in flags)

    def _fwd(self, statement: Json) -> Iterable[Expr]:
        yield Stolen(text=self._text(statement))

    def _synproxy(self, statement: Json) -> Iterable[Expr]:
        yield In(left=Meta(key="l4proto"), items=(6,))
        yield Stolen(text=self._text(statement))

    def _counter(self, statement: Json) -> Iterable[Expr]:
        body = statement["counter"]
        yield from self._object_key(body)
        yield _COUNTER if body is None or "packets" in body else Noop(text=self._text(statement))

    def _limited(self, statement: Json) -> Iterable[Expr]:
        """A limit or quota, on its own or named: it matches as long as the traffic stays below it (or above)."""
        ((kind, body),) = statement.items()
        yield from self._object_key(body)
        yield self._doubt(statement, f"whether the {kind} is reached is not known", stateful=True)

    def _object_key(self, body: Json) -> Iterable[Expr]:
        """The map that chooses a named object: the rule ends when it has none for the packet."""
        mapping = body.get("map") if isinstance(body, dict) else None
        if not isinstance(mapping, dict):
            return
        key, data = mapping.get("key"), mapping.get("data")
        right = data
        if isinstance(data, dict) and "set" in data:
            right = {"set": [each[0] if isinstance(each, list) else each for each in _as_list(data["set"])]}
        yield from self._match({"match": {"op": "==", "left": key, "right": right}})

    def _xt(self, statement: Json) -> Iterable[Expr]:
        body = statement["xt"]
        text = self._text(statement)
        kind, name = (body.get("type"), body.get("name")) if isinstance(body, dict) else (None, None)
        reason = "iptables-nft's own extension, which nft's listing does not spell out"
        if kind == "match" and name == "comment":
            yield Noop(text=text)
        elif kind == "match":
            yield UnknownMatch(text=text, reason=reason)
        elif kind == "watcher" or (kind == "target" and name in _HARMLESS_TARGETS):
            yield Noop(text=text)
        else:
            yield UnknownStatement(text=text, reason=reason)

    # --- Address translation -----------------------------------------------------------------------------------------

    def _nat_guards(self, body: Json) -> Iterable[Expr]:
        if isinstance(body, dict):
            for part in ("addr", "port"):
                value = body.get(part)
                if isinstance(value, dict) and isinstance(value.get("map"), dict):
                    yield from self._guards(value["map"].get("key"))

    def _nat(self, kind: str, body: Json) -> Iterable[Expr]:
        body = body if isinstance(body, dict) else {}
        flags = _as_list(body.get("flags", []))
        fields: dict[str, Any] = {}
        if "addr" in body:
            fields |= self._nat_ends(body["addr"], "address", ("address", "address_max"))
        if "port" in body:
            fields |= self._nat_ends(body["port"], "inet_service", ("port", "port_max"))
        family = body.get("family")
        yield Nat(
            kind="netmap" if "netmap" in flags and kind in ("snat", "dnat") else kind,
            random="random" in flags,
            fully_random="fully-random" in flags,
            persistent="persistent" in flags,
            family=family if family in ("ip", "ip6") else None,
            **fields,
        )

    def _nat_ends(self, value: Json, kind: str, names: tuple[str, str]) -> dict[str, Operand]:
        """Return the fields of Nat that an address or port gives: one value, a range, or what a map gives."""
        low_name, high_name = names
        if isinstance(value, dict) and isinstance(value.get("map"), dict):
            return self._nat_map(value["map"], kind, names)
        if isinstance(value, dict) and ("range" in value or "prefix" in value):
            low, high = range_of(value, kind)
            return {low_name: Const(value=low), high_name: Const(value=high)}
        if isinstance(value, dict) and isinstance(value.get("concat"), list) and low_name == "address":
            if len(value["concat"]) != 2:
                raise _Unreadable("an address and a port are expected")
            address, port = value["concat"]
            parts = (self._value_operand(address, "address"), self._value_operand(port, "inet_service"))
            return {"target": Concat(parts=parts)}
        choices = _choices(value)
        if choices is not None and len(choices) <= _MAX_CHOICES:
            return {low_name: OneOf(values=tuple(choices), reason="the kernel picks it by chance")}
        return {low_name: self._value_operand(value, kind)}

    def _nat_map(self, body: dict[str, Json], kind: str, names: tuple[str, str]) -> dict[str, Operand]:
        low_name, high_name = names
        mapping = body.get("data")
        name = mapping[1:] if isinstance(mapping, str) and mapping.startswith("@") else None
        raw = (
            self.sets.elements(name)
            if name is not None
            else mapping.get("set", [])
            if isinstance(mapping, dict)
            else []
        )
        data = [each[1] for each in _as_list(raw) if isinstance(each, list) and len(each) == 2]
        if any(isinstance(each, dict) and "concat" in each for each in data):
            return {"target": self._map_operand(body, ("address", "inet_service"))}
        if not any(isinstance(each, dict) and ("range" in each or "prefix" in each) for each in data):
            return {low_name: self._map_operand(body, (kind,))}
        # A map of ranges: both ends are looked up by the same key.
        text = render_expression({"map": body}, family=self.family)
        key = body.get("key")
        unsure = UnknownOperand(text=text, reason="the kernel picks the value by chance")
        if _choices(key) is not None or is_random(key) or (name is not None and self.sets.changes(name)):
            return {low_name: unsure}
        kinds = self.sets.kinds(name) if name is not None else kinds_of(key, self.family)
        lows: list[tuple[Item, Any]] = []
        highs: list[tuple[Item, Any]] = []
        for each in _as_list(raw):
            element, value = each
            if isinstance(element, dict) and "elem" in element:
                element = element["elem"].get("val")
            item = catch_all(kinds) if element == "*" else item_of(element, kinds)
            low, high = range_of(value, kind)
            lows.append((item, low))
            highs.append((item, high))
        operand = operand_of(key, self.family)
        return {
            low_name: MapLookup(key=operand, entries=tuple(lows)),
            high_name: MapLookup(key=operand, entries=tuple(highs)),
        }


#: Statements that leave the packet's way as it is. `continue` only asks for the next expression, which comes anyway.
_NOOPS = frozenset(
    {"continue", "log", "last", "dup", "flow", "reset", "ct helper", "ct timeout", "ct expectation", "secmark"}
)


def _is_doubtful_range(op: str, right: Json) -> bool:
    """Tell whether a range runs backwards, or is a negated range of one value."""
    ends = right.get("range") if isinstance(right, dict) else None
    if not isinstance(ends, list) or len(ends) != 2 or not all(type(end) is int for end in ends):
        return False
    low, high = ends
    return bool(low > high or (low == high and op == "!="))


def _plain_key(left: Json) -> tuple[str, ...] | None:
    """Return what tells a plain payload or meta expression from others; None for any other expression."""
    if isinstance(left, dict) and len(left) == 1:
        body = left.get("payload")
        if isinstance(body, dict) and len(body) == 2:
            protocol, field = body.get("protocol"), body.get("field")
            return (protocol, field) if isinstance(protocol, str) and isinstance(field, str) else None
        body = left.get("meta")
        if isinstance(body, dict) and len(body) == 1 and isinstance(body.get("key"), str):
            return (body["key"],)
    return None


def _is_transport(left: Json) -> bool:
    """Tell whether an expression reads a port without saying of which protocol."""
    if not isinstance(left, dict) or len(left) != 1:
        return False
    ((kind, body),) = left.items()
    if kind in ("&", "|", "^", "<<", ">>") and isinstance(body, list):
        return any(_is_transport(each) for each in body)
    if kind != "payload" or not isinstance(body, dict):
        return False
    return body.get("protocol") == "th" or (body.get("base") == "th" and "len" in body)


def _choices(key: Json) -> range | None:
    """Return the numbers that a number generator or hash can give; None for any other expression."""
    if not isinstance(key, dict) or len(key) != 1:
        return None
    ((kind, body),) = key.items()
    if kind not in ("numgen", "jhash", "symhash") or not isinstance(body, dict):
        return None
    mod, offset = body.get("mod"), body.get("offset", 0)
    if not isinstance(mod, int) or not isinstance(offset, int) or mod < 1:
        return None
    return range(offset, offset + mod)


def _misses(choices: range | None, pairs: Sequence[tuple[Item, Any]]) -> bool:
    """Tell whether a number generator can give a key that the map does not have."""
    if choices is None or len(choices) > _MAX_CHOICES:
        return True
    from nettrace.netfilter.items import member_of

    fits = member_of(item for item, _value in pairs)
    return not all(fits(number) for number in choices)
