"""Read what `nft -j list ruleset` prints, and compile it to tables.

The language is libnftables-json(5); every construct becomes something in nettrace.netfilter.ruleset, and what is not
understood is kept as unknown with the text that nft would print for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from nettrace.errors import InputError
from nettrace.model.netfilter import Hook
from nettrace.netfilter.nft_plain import PlainJson, PlainRule
from nettrace.netfilter.nft_render import render_rule
from nettrace.netfilter.nft_statements import RuleReader, SetReader
from nettrace.netfilter.nft_types import BRIDGE_PRIORITIES, FAMILIES, PRIORITIES
from nettrace.netfilter.ruleset import (
    Base,
    ChainBuilder,
    Condition,
    Deferred,
    Expr,
    RulesetBuilder,
    Table,
    TableBuilder,
)
from nettrace.netfilter.xt_values import address_condition

__all__ = ["parse"]

Json: TypeAlias = Any

_HINT = "give the whole output of `nft -j list ruleset`"

#: Objects that decide nothing by themselves: what rules make of them is read in the rules.
_PASSIVE = frozenset(
    {
        "metainfo",
        "counter",
        "quota",
        "limit",
        "ct helper",
        "ct timeout",
        "ct expectation",
        "synproxy",
        "secmark",
        "tunnel",
        "flowtable",
    }
)
_HOOKS = frozenset(each.value for each in Hook)
_COMMANDS = frozenset({"add", "create", "insert", "replace", "delete", "destroy", "flush", "rename", "reset", "list"})


def parse(document: dict[str, Json] | str | bytes) -> tuple[Table, ...]:
    """Compile the output of `nft -j list ruleset` (or of nft_text.parse_text) to tables, in listed order.

    Raises InputError when it is not JSON of that form, or when jumps lead nowhere or in a circle.
    """
    objects = _objects(document)
    try:
        return _Compiler().compile(objects)
    except RecursionError as error:
        raise InputError(f"the nft JSON is nested deeper than nft nests it; {_HINT}") from error


class _Listing(msgspec.Struct):
    nftables: list[dict[str, msgspec.Raw]]


class _RuleBody(msgspec.Struct, omit_defaults=True):
    family: str
    table: str
    chain: str
    expr: msgspec.Raw
    handle: int | None = None
    comment: str | None = None


def _opened(listed: dict[str, msgspec.Raw]) -> dict[str, Json]:
    """Return one object of the listing as JSON, but for the statements of a plain rule, which stay as they are."""
    raw = listed.get("rule")
    if raw is not None and len(listed) == 1:
        try:
            body = msgspec.json.decode(raw, type=_RuleBody)
        except msgspec.ValidationError:
            return {"rule": msgspec.json.decode(raw)}
        plain = PlainJson.of(bytes(body.expr))
        return {
            "rule": {
                "family": body.family,
                "table": body.table,
                "chain": body.chain,
                "handle": body.handle,
                "comment": body.comment,
                "expr": plain if plain is not None else msgspec.json.decode(body.expr),
            }
        }
    return {kind: msgspec.json.decode(each) for kind, each in listed.items()}


def _objects(document: dict[str, Json] | str | bytes) -> list[Json]:
    if isinstance(document, str | bytes):
        try:
            try:
                return [_opened(each) for each in msgspec.json.decode(document, type=_Listing).nftables]
            except msgspec.ValidationError:
                document = msgspec.json.decode(document)
        except msgspec.DecodeError as error:
            raise InputError(f"the nft JSON cannot be read ({error}); {_HINT}") from error
        except RecursionError as error:
            raise InputError(f"the nft JSON is nested deeper than nft nests it; {_HINT}") from error
    objects = document.get("nftables") if isinstance(document, dict) else None
    if not isinstance(objects, list):
        raise InputError(f'the JSON has no "nftables" list; {_HINT}')
    return objects


#: Fields that a plain match looks at, as the packet's.
_FIELDS = {"saddr": "saddr", "daddr": "daddr", "sport": "sport", "dport": "dport", "iifname": "iif", "oifname": "oif"}
_NUMBERS = {"ip": 4, "ip6": 6, "tcp": 6, "udp": 17}


class _Plain(Deferred):
    """A rule of a plain form, kept as the JSON or the text that lists it."""

    __slots__ = ("body", "number", "plain", "reader")

    def __init__(self, body: dict[str, Json], plain: PlainRule, reader: RuleReader, number: int) -> None:
        self.body = body
        self.plain = plain
        self.reader = reader
        self.number = number
        self.handle = body.get("handle")
        self.target = plain.target

    def read(self) -> tuple[tuple[Expr, ...], str, str, int | None]:
        """Return the expressions, the text, the comment, and the packets counted."""
        comment = self.body.get("comment")
        comment = comment if isinstance(comment, str) else ""
        family = self.body["family"]
        try:
            statements = self.plain.statements(family)
            text = render_rule(statements, comment, family=family)
            return tuple(self.reader.read(statements)), text, comment, _packets(statements)
        except _MALFORMED as error:
            raise _malformed(f"object {self.number} of the nft JSON (rule)") from error

    def conditions(self) -> Iterator[Condition]:
        """Yield what the matches before any verdict ask for."""
        for protocol, name, negated, value in self.plain.matches():
            field = _FIELDS[name]
            if protocol in ("ip", "ip6"):
                yield "fam", None, _NUMBERS[protocol], False
                yield from address_condition(field, value, _NUMBERS[protocol], negated=negated)
            elif protocol in ("tcp", "udp"):
                yield "proto", None, _NUMBERS[protocol], False
                yield field, None, int(value), negated
            elif "*" not in value:
                yield field, None, value, negated

    def outputs(self) -> list[str]:
        """Return the output devices that the rule names."""
        return [value for _protocol, name, _negated, value in self.plain.matches() if name == "oifname"]


class _Compiler:
    """Collects the objects of a listing, then compiles the rules, when every set is known."""

    def __init__(self) -> None:
        self.builder = RulesetBuilder()
        self.sets: dict[tuple[str, str], SetReader] = {}
        self.rules: list[tuple[int, dict[str, Json]]] = []
        self.order = 0

    def compile(self, objects: list[Json]) -> tuple[Table, ...]:
        """Compile every object."""
        self.order = len(objects)
        for number, each in enumerate(objects, 1):
            try:
                self._object(number, each)
            except _MALFORMED as error:
                raise _malformed(f"object {number} of the nft JSON") from error
        readers: dict[tuple[str, str], RuleReader] = {}
        plain_places: dict[tuple[str, str, str], tuple[ChainBuilder, RuleReader]] = {}
        for number, body in self.rules:
            plain = body.get("expr")
            if isinstance(plain, PlainRule):
                found = plain_places.get((body["family"], body["table"], body["chain"]))
                if found is not None:
                    found[0].defer(_Plain(body, plain, found[1], number))
                    continue
            key = self._place(number, "rule", body)
            reader = readers.get(key)
            if reader is None:
                reader = readers[key] = RuleReader(key[0], self._sets(key))
            try:
                chain = self._rule(number, body, key, reader)
                if isinstance(plain, PlainRule):
                    plain_places[(*key, body["chain"])] = chain, reader
            except _MALFORMED as error:
                raise _malformed(f"object {number} of the nft JSON (rule)") from error
        for key, sets in self.sets.items():
            table = self._table(key)
            for name in sets.listed:
                try:
                    table.add_set(sets.build(name))
                except _MALFORMED as error:
                    raise _malformed(f"set {name} of table {key[0]} {key[1]}") from error
        return tuple(table.build() for table in self.builder.tables.values())

    def _object(self, number: int, each: Json) -> None:
        if not isinstance(each, dict) or len(each) != 1:
            raise InputError(f"object {number} of the nft JSON is not one named object; {_HINT}")
        ((kind, body),) = each.items()
        if kind in _PASSIVE:
            return
        if kind in _COMMANDS:
            raise InputError(f"object {number} of the nft JSON is a command ({kind}), not a listing; {_HINT}")
        if not isinstance(body, dict):
            raise InputError(f"object {number} of the nft JSON ({kind}) has no properties; {_HINT}")
        if kind == "table":
            self._add_table(number, body)
        elif kind == "chain":
            self._add_chain(number, body)
        elif kind in ("set", "map", "meter"):
            key = self._place(number, kind, body)
            self._sets(key).add(body, _word(number, kind, body, "name"))
        elif kind == "element":
            key = self._place(number, kind, body)
            self._sets(key).add_elements(_word(number, kind, body, "name"), body.get("elem", []))
        elif kind == "rule":
            self.rules.append((number, body))

    def _place(self, number: int, kind: str, body: dict[str, Json]) -> tuple[str, str]:
        family = _word(number, kind, body, "family")
        if family not in FAMILIES:
            raise InputError(f"object {number} of the nft JSON ({kind}) is of the unknown family {family!r}; {_HINT}")
        return family, _word(number, kind, body, "table")

    def _sets(self, key: tuple[str, str]) -> SetReader:
        found = self.sets.get(key)
        if found is None:
            found = self.sets[key] = SetReader(key[0])
        return found

    def _table(self, key: tuple[str, str]) -> TableBuilder:
        return self.builder.table("nft", key[0], key[1])

    def _add_table(self, number: int, body: dict[str, Json]) -> None:
        family = _word(number, "table", body, "family")
        if family not in FAMILIES:
            raise InputError(f"object {number} of the nft JSON (table) is of the unknown family {family!r}; {_HINT}")
        flags = body.get("flags", [])
        dormant = "dormant" in (flags if isinstance(flags, list) else [flags])
        table = self._table((family, _word(number, "table", body, "name")))
        table.dormant = table.dormant or dormant

    def _add_chain(self, number: int, body: dict[str, Json]) -> None:
        key = self._place(number, "chain", body)
        name = _word(number, "chain", body, "name")
        base, policy = None, ""
        if "hook" in body:
            base = self._base(number, body, key[0])
            policy = f"policy {base.policy}"
        self._table(key).chain(name, base, policy_text=policy)

    def _base(self, number: int, body: dict[str, Json], family: str) -> Base:
        hook, devices = _word(number, "chain", body, "hook"), body.get("dev", [])
        if hook not in _HOOKS:
            raise InputError(f"object {number} of the nft JSON (chain) has the unknown hook {hook!r}; {_HINT}")
        self.order -= 1
        return Base(
            hook=Hook(hook),
            priority=_priority(number, body.get("prio", 0), family),
            kind=str(body.get("type", "filter")),
            policy=str(body.get("policy", "accept")),
            devices=tuple(str(each) for each in (devices if isinstance(devices, list) else [devices])),
            # Of two chains with one priority, the kernel asks the younger first (nf_hook_entries_grow).
            order=self.order,
        )

    def _rule(self, number: int, body: dict[str, Json], key: tuple[str, str], reader: RuleReader) -> ChainBuilder:
        statements = body.get("expr", [])
        chain = self._table(key).chain(_word(number, "rule", body, "chain"))
        if isinstance(statements, PlainRule):
            chain.defer(_Plain(body, statements, reader, number))
            return chain
        if not isinstance(statements, list):
            raise InputError(f"object {number} of the nft JSON (rule) has no list of statements; {_HINT}")
        comment, handle = body.get("comment"), body.get("handle")
        text = render_rule(statements, comment if isinstance(comment, str) else "", family=key[0])
        chain.add(
            reader.read(statements),
            text,
            handle=handle if isinstance(handle, int) else None,
            packets=_packets(statements),
            comment=comment if isinstance(comment, str) else "",
        )
        return chain


#: What a value of another type than libnftables-json(5) gives it leads to, deep in a statement.
_MALFORMED = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError)


def _malformed(what: str) -> InputError:
    return InputError(f"{what} holds a value of a form that nft does not print; {_HINT}")


def _word(number: int, kind: str, body: dict[str, Json], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise InputError(f'object {number} of the nft JSON ({kind}) has no "{name}"; {_HINT}')
    return value


def _packets(statements: list[Json]) -> int | None:
    """Return the packets that the first counter of a rule has seen."""
    for each in statements:
        if isinstance(each, dict) and isinstance(each.get("counter"), dict):
            packets = each["counter"].get("packets")
            return packets if isinstance(packets, int) else None
    return None


def _priority(number: int, value: Json, family: str) -> int:
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise InputError(
                f"object {number} of the nft JSON (chain) has a priority that the kernel cannot hold: {str(value)[:40]}"
            )
        return value
    if isinstance(value, str):
        name, sign, rest = value.partition("+") if "+" in value else value.partition("-")
        known = BRIDGE_PRIORITIES if family == "bridge" else PRIORITIES
        base = known.get(name.strip())
        digits = rest.strip()
        if base is not None and (not sign or digits.isdigit()):
            return base + (int(f"{sign}{digits}") if sign else 0)
    raise InputError(f"object {number} of the nft JSON (chain) has the unknown priority {value!r}; {_HINT}")
