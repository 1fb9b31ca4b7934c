"""The one form that every netfilter language is compiled to: tables, chains, rules, and rules as expressions.

A rule is a sequence of expressions, run in order as the kernel runs them. An expression is either a match (it
lets the packet go on to the next expression, or ends the rule) or a statement (it does something, perhaps a
verdict). Operands say what a match looks at. All of it is data: `nettrace.netfilter.evaluate` gives it meaning.

Values are plain integers and strings, fixed per operand:

    addresses, MAC addresses, marks, ports, lengths, TTL, protocol numbers, ids   int
    interface names, names of helpers and of cgroups                              str
    ct state           int, bits as nft has them: see CT_STATE
    ct status          int, IPS_* bits: see CT_STATUS
    ct direction       int, 0 original, 1 reply
    tcp flags          int, low byte
    meta pkttype       str: host, broadcast, multicast, other
    meta nfproto       int, NFPROTO_*: 2 IPv4, 10 IPv6, 7 bridge
    meta protocol      int, EtherType
    fib type           str, lower case: local, unicast, broadcast, multicast, blackhole, …
    fib oif, oifname   str, name of the device; "" when there is no route

An operand that has no value for a packet (tcp dport of a UDP packet, ct mark without a conntrack entry) is absent:
the match says NO, also when negated, as nft's NFT_BREAK does. Matches of iptables that behave otherwise say so with
`absent=True`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import msgspec

from nettrace.errors import InputError
from nettrace.model.base import Model
from nettrace.model.netfilter import Hook, RuleRef
from nettrace.netfilter.owner import owner_of

#: Bits of `ct state` (include/uapi/linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT). The last two are the
#: virtual states SNAT and DNAT of xt_conntrack, and never part of nft's value.
CT_STATE: dict[str, int] = {
    "invalid": 1,
    "established": 2,
    "related": 4,
    "new": 8,
    "untracked": 64,
    "snat": 128,
    "dnat": 256,
}

#: Bits of `ct status` (IPS_*).
CT_STATUS: dict[str, int] = {
    "expected": 0x1,
    "seen_reply": 0x2,
    "assured": 0x4,
    "confirmed": 0x8,
    "src_nat": 0x10,
    "dst_nat": 0x20,
    "seq_adjust": 0x40,
    "src_nat_done": 0x80,
    "dst_nat_done": 0x100,
    "dying": 0x200,
    "fixed_timeout": 0x400,
    "template": 0x800,
    "untracked": 0x1000,
    "helper": 0x2000,
    "offload": 0x4000,
}


# --- Items: what a value is compared with ---------------------------------------------------------------------------


class Masked(Model, gc=False):
    """Every integer that equals `value` in the bits of `mask`; the mask need not be contiguous."""

    value: int
    mask: int


class Range(Model, gc=False):
    """Every integer from `low` to `high`, both included."""

    low: int
    high: int


class Wildcard(Model, gc=False):
    """Every string that starts with `prefix` ("veth*", "docker+")."""

    prefix: str


#: One value, or one shape of values. A tuple stands for a concatenation, one item per part.
Item: TypeAlias = int | str | Masked | Range | Wildcard | tuple[Any, ...]


# --- Operands: what a match looks at --------------------------------------------------------------------------------


class Operand(Model, gc=False):
    """Base of everything that has a value for a packet."""


class Const(Operand):
    """A value that is the same for every packet."""

    value: int | str


class Meta(Operand):
    """Metadata of the packet (nft "meta"): see META_KEYS in evaluate.py for the keys that have a value."""

    key: str


class Payload(Operand):
    """A header field, named as nft names it: ("ip", "saddr"), ("tcp", "dport"), ("th", "sport"), ("ether", "saddr").

    Protocol "net" holds what both IP versions share for iptables' matches ("length" of the IP packet, "ttl").
    """

    protocol: str
    field: str


class Ct(Operand):
    """A conntrack fact: state, status, direction, mark, zone, helper, protocol, l3proto, saddr, daddr, proto-src,
    proto-dst (the last four with `direction` "original" or "reply"). Addresses are those of the packet's family,
    or of `family` ("ip", "ip6") only when given.
    """

    key: str
    direction: str | None = None
    family: str | None = None


class Fib(Operand):
    """A routing lookup: `result` is type, oif or oifname; `flags` of saddr, daddr, iif, oif, mark."""

    result: str
    flags: tuple[str, ...]


class Sock(Operand):
    """A fact of the local socket that the packet belongs to: transparent, mark, wildcard, cgroupv2, found."""

    key: str


class Binary(Operand):
    """`left op right` on integers; op is one of & | ^ << >> + -."""

    op: str
    left: Operand
    right: Operand


class Concat(Operand):
    """Several operands side by side; its value is a tuple. Absent when any part is."""

    parts: tuple[Operand, ...]


class MapLookup(Operand):
    """The value that a map gives for a key: `entries` of an anonymous map, or the named map `name` of the table.

    Absent when the key is not in the map.
    """

    key: Operand
    entries: tuple[tuple[Item, Any], ...] = ()
    name: str | None = None


class OneOf(Operand):
    """One of several values, chosen by something that cannot be foreseen (numgen, jhash in a map)."""

    values: tuple[Any, ...]
    reason: str


class UnknownOperand(Operand):
    """A value that cannot be told, and why."""

    text: str
    reason: str = "nettrace does not model this expression"


# --- Expressions ----------------------------------------------------------------------------------------------------


class Expr(Model, gc=False):
    """Base of matches and statements."""


class Match(Expr):
    """Base of expressions that only decide whether the rule goes on."""


class Compare(Match):
    """`left op right`; op is one of == != < > <= >=."""

    op: str
    left: Operand
    right: Operand
    absent: bool = False


class In(Match):
    """The value fits one of the items (or none, with `negate`). `absent` is the answer when there is no value."""

    left: Operand
    items: tuple[Item, ...]
    negate: bool = False
    absent: bool = False


class BitTest(Match):
    """At least one bit of `mask` is set in the value (or none, with `negate`)."""

    left: Operand
    mask: int
    negate: bool = False
    absent: bool = False


class Lookup(Match):
    """The value is an element of the named set of the rule's own table."""

    left: Operand
    name: str
    negate: bool = False


class IpSetMatch(Match):
    """xt_set: the packet's parts named by `dims` ("src", "dst") are in the ipset. Unknown when it was not listed."""

    name: str
    dims: tuple[str, ...]
    negate: bool = False
    unsure: str | None = None


class XtConntrack(Match):
    """xt_conntrack: `state` bits of CT_STATE first, then `rest`; without an entry a matching state alone is enough.

    net/netfilter/xt_conntrack.c, conntrack_mt().
    """

    state: int | None
    negate: bool = False
    rest: tuple[Match, ...] = ()


class AnyOf(Match):
    """At least one of the matches says yes."""

    matches: tuple[Match, ...]
    negate: bool = False


class AllOf(Match):
    """Every one of the matches says yes."""

    matches: tuple[Match, ...]
    negate: bool = False


class Never(Match):
    """A match that can never be true here, kept with its text."""

    text: str


class UnknownMatch(Match):
    """A match that cannot be evaluated: its text and the reason.

    `stateful` tells that two evaluations for one packet may differ (limit, statistic), so that what is taken for
    granted at one rule says nothing about another.
    """

    text: str
    reason: str
    stateful: bool = True


class Rpfilter(Match):
    """xt_rpfilter: the reverse path of the packet leaves by the interface it came in on."""

    loose: bool = False
    valid_mark: bool = False
    accept_local: bool = False
    negate: bool = False


class Statement(Expr):
    """Base of expressions that act."""


class Noop(Statement):
    """A statement that changes nothing of the packet's way (counter, log, trace), with its text."""

    text: str


class Accept(Statement):
    """The base chain lets the packet pass."""


class Drop(Statement):
    """The packet ends here, silently."""


class Continue(Statement):
    """The next rule is asked."""


class Return(Statement):
    """The calling chain goes on; in a base chain, the policy applies."""


class Jump(Statement):
    """The rules of another chain of the same table are asked, then those after this one."""

    chain: str


class Goto(Statement):
    """The rules of another chain of the same table are asked; its end is the end of this chain."""

    chain: str


class Reject(Statement):
    """The packet ends here, and the sender is told: `kind` as the tool names it ("icmp-port-unreachable")."""

    kind: str


class Stolen(Statement):
    """The packet is taken away from this path (queue, fwd, synproxy); `text` says by whom."""

    text: str


class Queue(Statement):
    """A user-space program decides; with `bypass` the packet is accepted when none listens."""

    text: str
    bypass: bool = False


class UnknownStatement(Statement):
    """A statement whose effect is not modelled: it may have settled the packet's fate."""

    text: str
    reason: str = "nettrace does not model this statement"


class VerdictMap(Statement):
    """The verdict that a map gives for a key; nothing happens when the key is not in it.

    `entries` pair items with Accept, Drop, Continue, Return, Jump, Goto or Queue; `name` is a named map of the table.
    """

    key: Operand
    entries: tuple[tuple[Item, Statement], ...] = ()
    name: str | None = None


class Nat(Statement):
    """Set up address translation, and end the chain. `kind`: snat, dnat, masquerade, redirect, netmap, null.

    `address` and `port` are the new values, or the low ends of ranges whose high ends are `address_max` and
    `port_max`; all may be None. Operands, so that maps can give them: an address is an int of the packet's family,
    and `target` may give several at once: a Concat or map value (address, port). `port_base` shifts a port range
    (iptables' DNAT "1000-2000/3000"). For netmap, `address` and `address_max` are the ends of the prefix.
    `family` restricts the statement ("ip", "ip6") in an inet table.
    """

    kind: str
    address: Operand | None = None
    address_max: Operand | None = None
    port: Operand | None = None
    port_max: Operand | None = None
    target: Operand | None = None
    port_base: int | None = None
    random: bool = False
    fully_random: bool = False
    persistent: bool = False
    family: str | None = None


class SetMeta(Statement):
    """Set metadata of the packet: mark, priority, pkttype, nftrace. Only mark is followed."""

    key: str
    value: Operand


class SetCt(Statement):
    """Set a conntrack fact: mark, zone, helper, label, event, secmark. Only mark, zone and helper are followed."""

    key: str
    value: Operand


class SetPayload(Statement):
    """Write a header field: ("ip", "ttl"), ("ip", "dscp"), ("ip6", "hoplimit"), ("tcp", "dport"), ("ip", "daddr")…"""

    protocol: str
    field: str
    value: Operand


class Notrack(Statement):
    """Conntrack must leave this packet alone; only effective before conntrack has seen it."""


class Tproxy(Statement):
    """Hand the packet to a local transparent socket: accepted with the mark set, dropped when there is no socket."""

    text: str
    mark: int = 0
    mask: int = 0


class SetUpdate(Statement):
    """Add to, update or delete from a named set; `terminal` is false always: the rule goes on."""

    name: str
    op: str


# --- Rules, chains, tables ------------------------------------------------------------------------------------------


class Rule(Model):
    """One rule: how a person finds it, and what it does."""

    ref: RuleRef
    exprs: tuple[Expr, ...]


#: What must hold for a rule to match, as far as a look at its text tells: the packet's field (of Skb), a mask for
#: numbers (None where the whole value counts), the value, and whether it must differ.
Condition: TypeAlias = tuple[str, int | None, Any, bool]


class Deferred(ABC):
    """A rule of a plain form, read no further than needed: most rules of a long chain never see a packet.

    Only text that is known to be well formed is deferred, so reading it later cannot fail for its form. `target` is
    the chain that it jumps or goes to, None without one.
    """

    __slots__ = ("handle", "target")

    handle: int | None
    target: str | None

    @abstractmethod
    def read(self) -> tuple[tuple[Expr, ...], str, str, int | None]:
        """Return the expressions, the text, the comment, and the packets counted."""

    @abstractmethod
    def conditions(self) -> Iterator[Condition]:
        """Yield what must hold for the rule to match, as far as a look at it tells."""

    @abstractmethod
    def outputs(self) -> list[str]:
        """Return the output devices that the rule names, as it writes them."""


class Rules(Sequence[Rule]):
    """The rules of one chain, in order. Each is read when it is asked for, and then kept."""

    __slots__ = ("_handles", "_place", "rows")

    def __init__(
        self, rows: list[Rule | Deferred], place: tuple[str, str, str, str], handles: list[int | None] | None = None
    ) -> None:
        self.rows = rows
        self._place = place
        self._handles = handles

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Rules, tuple)) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Rules({list(self)!r})"

    @overload
    def __getitem__(self, index: int) -> Rule: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Rule, ...]: ...

    def __getitem__(self, index: int | slice) -> Rule | tuple[Rule, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self.rows))))
        row = self.rows[index]
        if isinstance(row, Rule):
            return row
        at = index if index >= 0 else index + len(self.rows)
        exprs, text, comment, packets = row.read()
        backend, family, table, chain = self._place
        rule = Rule(
            ref=RuleRef(
                backend=backend,
                family=family,
                table=table,
                chain=chain,
                index=at + 1,
                text=text,
                owner=owner_of(backend, family, table, chain, text, comment),
                handle=row.handle if self._handles is None else self._handles[at],
                packets=packets,
            ),
            exprs=exprs,
        )
        self.rows[at] = rule
        return rule

    def plus(self, rule: Rule) -> Rules:
        """Return these rules and one more at their end."""
        return Rules([*self.rows, rule], self._place, None if self._handles is None else [*self._handles, None])

    def handles(self) -> list[int | None]:
        """Return the handle of each rule, reading none."""
        if self._handles is not None:
            return self._handles
        return [row.ref.handle if isinstance(row, Rule) else row.handle for row in self.rows]

    def with_handles(self, handles: list[int | None]) -> Rules:
        """Return the same rules with other handles, reading none."""
        rows = [
            msgspec.structs.replace(row, ref=msgspec.structs.replace(row.ref, handle=handle))
            if isinstance(row, Rule)
            else row
            for row, handle in zip(self.rows, handles, strict=True)
        ]
        return Rules(rows, self._place, handles)


class Base(Model):
    """Where a base chain is hooked in. `kind`: filter, nat, route. `policy`: accept or drop.

    `order` tells base chains of equal priority apart: lower comes first.
    `devices` restrict ingress and egress chains; empty means every device.
    """

    hook: Hook
    priority: int
    kind: str = "filter"
    policy: str = "accept"
    devices: tuple[str, ...] = ()
    order: int = 0


class Chain(Model):
    """One chain with its rules. `ref` names the chain, or its policy when it is a base chain."""

    name: str
    ref: RuleRef
    rules: Rules
    base: Base | None = None


class NamedSet(Model):
    """A named nft set or map. `elements` pair an item with its value (None in a set, a Statement in a verdict map).

    `complete` is false when packets may have changed the contents since they were listed.
    """

    name: str
    elements: tuple[tuple[Item, Any], ...] = ()
    complete: bool = True


class Table(Model):
    """One table of one backend and family. `sets` holds named sets and maps."""

    backend: str
    family: str
    name: str
    chains: dict[str, Chain] = msgspec.field(default_factory=dict)
    sets: dict[str, NamedSet] = msgspec.field(default_factory=dict)
    dormant: bool = False


class IpSet(Model):
    """An ipset: `kind` is its type ("hash:net,port"), `members` its entries as `ipset save` prints them.

    `family` is inet, inet6 or "" (types without one). Each member is (key parts, options), e.g.
    (("10.0.0.0/8", "tcp:80"), ("nomatch",)).
    """

    name: str
    kind: str
    family: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    members: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()


class Ruleset:
    """Every table of one network namespace. Immutable by convention; what is compiled from it is cached in it."""

    __slots__ = ("compiled", "ipsets", "ipsets_listed", "tables")

    def __init__(
        self, tables: Iterable[Table] = (), ipsets: Iterable[IpSet] = (), *, ipsets_listed: bool = False
    ) -> None:
        self.tables = tuple(tables)
        self.ipsets = {each.name: each for each in ipsets}
        self.ipsets_listed = ipsets_listed
        self.compiled: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"Ruleset({', '.join(f'{t.backend} {t.family} {t.name}' for t in self.tables)})"

    def table(self, backend: str, family: str, name: str) -> Table | None:
        """Return that table, or None."""
        for each in self.tables:
            if each.name == name and each.family == family and each.backend == backend:
                return each
        return None

    def base_chains(self, family: str, hook: Hook) -> list[tuple[Table, Chain]]:
        """Return the base chains a packet of `family` (ip, ip6, bridge, arp, netdev) meets at a hook, in order."""
        families = {family, "inet"} if family in ("ip", "ip6") else {family}
        if family == "netdev":
            families.add("inet")
        found = [
            (table, chain)
            for table in self.tables
            if table.family in families and not table.dormant
            for chain in table.chains.values()
            if chain.base is not None and chain.base.hook == hook
        ]
        # Legacy tables are registered by the time nft's are as a rule; among equals both must accept anyway.
        found.sort(key=lambda each: (_priority(each[1]), each[0].backend != "legacy"))
        return found


def _priority(chain: Chain) -> tuple[int, int]:
    base = chain.base
    return (base.priority, base.order) if base is not None else (0, 0)


# --- Builder --------------------------------------------------------------------------------------------------------


class ChainBuilder:
    """A chain in the making: `add` appends rules, which get their index and owner here."""

    __slots__ = ("base", "name", "policy_text", "rules", "table")

    def __init__(self, table: TableBuilder, name: str, base: Base | None, policy_text: str) -> None:
        self.table = table
        self.name = name
        self.base = base
        self.policy_text = policy_text
        self.rules: list[Rule | Deferred] = []

    def defer(self, rule: Deferred) -> None:
        """Append a rule that is read when it is asked for."""
        self.rules.append(rule)

    def add(
        self,
        exprs: Iterable[Expr],
        text: str,
        *,
        handle: int | None = None,
        packets: int | None = None,
        comment: str = "",
    ) -> Rule:
        """Append a rule and return it."""
        table = self.table
        rule = Rule(
            ref=RuleRef(
                backend=table.backend,
                family=table.family,
                table=table.name,
                chain=self.name,
                index=len(self.rules) + 1,
                text=text,
                owner=owner_of(table.backend, table.family, table.name, self.name, text, comment),
                handle=handle,
                packets=packets,
            ),
            exprs=tuple(exprs),
        )
        self.rules.append(rule)
        return rule

    def build(self) -> Chain:
        """Return the finished chain."""
        table = self.table
        ref = RuleRef(
            backend=table.backend,
            family=table.family,
            table=table.name,
            chain=self.name,
            index=None,
            text=self.policy_text,
            owner=owner_of(table.backend, table.family, table.name, self.name, "", ""),
        )
        place = (table.backend, table.family, table.name, self.name)
        return Chain(name=self.name, ref=ref, rules=Rules(self.rules, place), base=self.base)


class TableBuilder:
    """A table in the making."""

    __slots__ = ("backend", "chains", "dormant", "family", "name", "sets")

    def __init__(self, backend: str, family: str, name: str, *, dormant: bool = False) -> None:
        self.backend = backend
        self.family = family
        self.name = name
        self.dormant = dormant
        self.chains: dict[str, ChainBuilder] = {}
        self.sets: dict[str, NamedSet] = {}

    def chain(self, name: str, base: Base | None = None, *, policy_text: str = "") -> ChainBuilder:
        """Return the chain of that name, made on first use; a `base` given later is taken over."""
        found = self.chains.get(name)
        if found is None:
            found = self.chains[name] = ChainBuilder(self, name, base, policy_text)
        if base is not None:
            found.base = base
        if policy_text:
            found.policy_text = policy_text
        return found

    def add_set(self, named: NamedSet) -> None:
        """Add a named set or map."""
        self.sets[named.name] = named

    def build(self) -> Table:
        """Return the finished table; raises InputError when a jump leads nowhere or in a circle."""
        table = Table(
            backend=self.backend,
            family=self.family,
            name=self.name,
            chains={name: chain.build() for name, chain in self.chains.items()},
            sets=dict(self.sets),
            dormant=self.dormant,
        )
        check_jumps(table)
        return table


class RulesetBuilder:
    """A ruleset in the making: ask for tables, fill them, build."""

    __slots__ = ("ipsets", "tables")

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str, str], TableBuilder] = {}
        self.ipsets: list[IpSet] = []

    def table(self, backend: str, family: str, name: str, *, dormant: bool = False) -> TableBuilder:
        """Return the table of that backend, family and name, made on first use."""
        key = (backend, family, name)
        found = self.tables.get(key)
        if found is None:
            found = self.tables[key] = TableBuilder(backend, family, name, dormant=dormant)
        return found

    def build(self) -> Ruleset:
        """Return the finished ruleset; raises InputError when a jump leads nowhere or in a circle."""
        return Ruleset([each.build() for each in self.tables.values()], self.ipsets)


def targets_of(exprs: Iterable[Expr], sets: dict[str, NamedSet]) -> list[str]:
    """Return the chains that expressions can jump or go to."""
    found: list[str] = []
    for expr in exprs:
        if isinstance(expr, (Jump, Goto)):
            found.append(expr.chain)
        elif isinstance(expr, VerdictMap):
            named = sets.get(expr.name) if expr.name is not None else None
            entries = named.elements if named is not None else expr.entries
            found.extend(each.chain for _item, each in entries if isinstance(each, (Jump, Goto)))
    return found


def check_jumps(table: Table) -> None:
    """Raise InputError when a rule jumps to a chain that is not there, or chains call each other in a circle."""
    where = f"table {table.family} {table.name}"
    graph: dict[str, list[str]] = {}
    for chain in table.chains.values():
        out: list[str] = []
        for number, row in enumerate(chain.rules.rows, 1):
            if isinstance(row, Rule):
                targets = targets_of(row.exprs, table.sets)
            elif row.target is not None:
                targets = [row.target]
            else:
                continue
            for target in targets:
                if target not in table.chains:
                    raise InputError(
                        f"{where}: rule {number} of chain {chain.name} jumps to chain {target}, which the "
                        f"dump does not define; take the whole table in one dump"
                    )
                out.append(target)
        graph[chain.name] = list(dict.fromkeys(out))
    done: set[str] = set()
    for start in graph:
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        pending = [iter(graph[start])]
        while pending:
            nxt = next(pending[-1], None)
            if nxt is None:
                pending.pop()
                last = path.pop()
                on_path.discard(last)
                done.add(last)
            elif nxt in on_path:
                cycle = [*path[path.index(nxt) :], nxt]
                raise InputError(
                    f"{where}: chains call each other in a circle: {' → '.join(cycle)}; "
                    f"the kernel refuses such a ruleset, so the dump is not what it runs"
                )
            elif nxt not in done:
                path.append(nxt)
                on_path.add(nxt)
                pending.append(iter(graph[nxt]))
