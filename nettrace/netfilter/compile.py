"""Rules turned into functions: what the evaluator runs.

Every expression of a rule becomes one function of the packet. It returns True (go on with the next expression),
False (the rule does not match), UNKNOWN, or a Ruling. What may follow from UNKNOWN is listed in `Doubt`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from nettrace.model.netfilter import Hook, RuleRef, TrailEntry
from nettrace.netfilter.ipset import compile_ipset
from nettrace.netfilter.items import fits, member_of, table_of
from nettrace.netfilter.nat import compile_nat
from nettrace.netfilter.operands import getter, sure_attribute, why
from nettrace.netfilter.ruleset import (
    CT_STATE,
    Accept,
    AllOf,
    AnyOf,
    BitTest,
    Chain,
    Compare,
    Condition,
    Const,
    Continue,
    Deferred,
    Drop,
    Expr,
    Goto,
    In,
    IpSetMatch,
    Jump,
    Lookup,
    Masked,
    Nat,
    Never,
    Noop,
    Notrack,
    OneOf,
    Queue,
    Reject,
    Return,
    Rpfilter,
    Rule,
    Rules,
    Ruleset,
    SetCt,
    SetMeta,
    SetPayload,
    SetUpdate,
    Statement,
    Stolen,
    Table,
    Tproxy,
    UnknownMatch,
    UnknownStatement,
    VerdictMap,
    Wildcard,
    XtConntrack,
)
from nettrace.netfilter.ruling import ACCEPT, CONTINUE, DROP, RETURN, UNSETTLED, Code, Ruling
from nettrace.netfilter.skb import UNKNOWN, Skb, mac_text

__all__ = ["CompiledChain", "CompiledRule", "Doubt", "HookProgram", "Op", "Step", "compile_hook"]

#: A compiled expression: True, False, UNKNOWN or a Ruling.
Op: TypeAlias = Callable[[Skb], Any]

#: Priority of conntrack's hooks, and of NAT's two (NF_IP_PRI_CONNTRACK, NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC).
CONNTRACK_PRIORITY: Final = -200
NAT_PRIORITY: Final[dict[Hook, int]] = {
    Hook.PREROUTING: -100,
    Hook.OUTPUT: -100,
    Hook.INPUT: 100,
    Hook.POSTROUTING: 100,
}


class Doubt:
    """What follows when an expression is unknown: the reason, and every way it may go.

    `alternatives` are functions as Op; a plain match has two: no and yes. `atom` names the fact in doubt when it is
    the same for every rule that asks (None when each rule is a case of its own), and `negated` tells that yes of
    this expression is no of the fact.
    """

    __slots__ = ("alternatives", "atom", "negated", "reason")

    def __init__(self, reason: str, alternatives: tuple[Op, ...], atom: Any = None, *, negated: bool = False) -> None:
        self.reason = reason
        self.alternatives = alternatives
        self.atom = atom
        self.negated = negated


class CompiledRule:
    """A rule ready to run. `ops` and `doubts` are parallel; `inert` rules change nothing, whether they match or not."""

    __slots__ = ("doubts", "effect", "entries", "inert", "ops", "ref")

    def __init__(self, ref: RuleRef, ops: tuple[Op, ...], doubts: tuple[Doubt | None, ...], effect: str) -> None:
        self.ref = ref
        self.ops = ops
        self.doubts = doubts
        self.effect = effect
        self.inert = False
        self.entries: dict[tuple[str, int], TrailEntry] = {}

    def entry(self, effect: str, level: int) -> TrailEntry:
        """Return the trail's word that this rule matched; the same object for the same event."""
        entries = self.entries
        found = entries.get((effect, level))
        if found is None:
            found = entries[effect, level] = TrailEntry(event="match", rule=self.ref, effect=effect, level=level)
        return found


class CompiledChain:
    """A chain ready to run. `ops` holds the operations of each rule, so that the loop touches little else."""

    __slots__ = ("entries", "kind", "name", "ops", "policy", "ref", "rules", "table")

    def __init__(self, chain: Chain, table: Table) -> None:
        self.name = chain.name
        self.ref = chain.ref
        self.table = table
        self.rules: list[CompiledRule] = []
        self.ops: list[tuple[Op, ...]] = []
        self.policy = chain.base.policy if chain.base is not None else "accept"
        self.kind = chain.base.kind if chain.base is not None else "filter"
        self.entries: dict[tuple[str, int], TrailEntry] = {}

    def entry(self, event: str, effect: str, level: int) -> TrailEntry:
        """Return the trail's word that this chain was entered, left, or its policy applied."""
        found = self.entries.get((event, level))
        if found is None:
            found = self.entries[event, level] = TrailEntry(event=event, rule=self.ref, effect=effect, level=level)
        return found


class Step:
    """One thing that a hook does: "conntrack", "nat" begin and end, or a base chain."""

    __slots__ = ("chain", "kind", "reroutes", "skip_to")

    def __init__(self, kind: str, chain: CompiledChain | None = None, *, reroutes: bool = False) -> None:
        self.kind = kind
        self.chain = chain
        self.reroutes = reroutes
        self.skip_to = 0


class HookProgram:
    """Everything one hook runs for one address family, in order; `shared` are facts that several rules ask about."""

    __slots__ = ("hook", "shared", "steps")

    def __init__(self, hook: Hook, steps: list[Step], shared: frozenset[Any]) -> None:
        self.hook = hook
        self.steps = steps
        self.shared = shared


def compile_hook(ruleset: Ruleset, family: str, hook: Hook, device: str | None = None) -> HookProgram:
    """Return the program of a hook, compiled on first use and kept in the ruleset. `device` only counts for netdev."""
    key = ("hook", family, hook, device if family == "netdev" else None)
    found: HookProgram | None = ruleset.compiled.get(key)
    if found is None:
        found = ruleset.compiled[key] = _compile_hook(ruleset, family, hook, device)
    return found


def _compile_hook(ruleset: Ruleset, family: str, hook: Hook, device: str | None) -> HookProgram:
    compiler = _Compiler(ruleset)
    ordinary: list[tuple[int, Step]] = []
    nat: list[Step] = []
    at_ip = family in ("ip", "ip6")
    for table, chain in ruleset.base_chains(family, hook):
        base = chain.base
        if base is None or (base.devices and device not in base.devices):
            continue
        compiled = compiler.chain(table, chain.name)
        if base.kind == "nat" and at_ip:
            nat.append(Step("chain", compiled))
        else:
            reroutes = base.kind == "route" or (table.backend == "legacy" and table.name == "mangle")
            ordinary.append((base.priority, Step("chain", compiled, reroutes=reroutes and hook == Hook.OUTPUT)))
    fixed: list[tuple[int, list[Step]]] = []
    if at_ip and hook in (Hook.PREROUTING, Hook.OUTPUT):
        fixed.append((CONNTRACK_PRIORITY, [Step("conntrack")]))
    if at_ip and hook in NAT_PRIORITY:
        fixed.append((NAT_PRIORITY[hook], [Step("nat"), *nat, Step("nat-end")]))
    steps: list[Step] = []
    for priority, step in ordinary:
        while fixed and fixed[0][0] <= priority:
            steps += fixed.pop(0)[1]
        steps.append(step)
    for _priority, block in fixed:
        steps += block
    for at, step in enumerate(steps):
        if step.kind == "nat":
            step.skip_to = next(i for i in range(at, len(steps)) if steps[i].kind == "nat-end")
    return HookProgram(hook, steps, frozenset(atom for atom, count in compiler.atoms.items() if count > 1))


class _Compiler:
    """Compiles the chains that a hook can reach, and counts the facts that may be in doubt."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.ruleset = ruleset
        self.chains: dict[tuple[str, str, str, str], CompiledChain] = {}
        self.atoms: Counter[Any] = Counter()
        #: Compiled matches by the identity of their expression and table: equal matches are often one object.
        self.matches: dict[tuple[int, int], tuple[Op, Doubt | None]] = {}
        self.ref = RuleRef(backend="", family="", table="", chain="", index=None, text="")

    def chain(self, table: Table, name: str) -> CompiledChain:
        """Return a compiled chain and, with it, all that it can jump to."""
        pending = [name]
        while pending:
            each = pending.pop()
            key = (table.backend, table.family, table.name, each)
            if key in self.chains:
                continue
            compiled = self.chains[key] = CompiledChain(table.chains[each], table)
            rules = table.chains[each].rules
            for at, row in enumerate(rules.rows):
                if isinstance(row, Deferred):
                    compiled.rules.append(_UNREAD)
                    compiled.ops.append((_Later(self, row, rules, at, compiled),))
                    if row.target is not None:
                        pending.append(row.target)
                    continue
                one = self.rule(row, table)
                compiled.rules.append(one)
                compiled.ops.append(one.ops)
                pending += _targets(row, table)
        return self.chains[(table.backend, table.family, table.name, name)]

    def rule(self, rule: Rule, table: Table) -> CompiledRule:
        """Return a compiled rule."""
        self.ref = rule.ref
        ops: list[Op] = []
        doubts: list[Doubt | None] = []
        effects: list[str] = []
        inert = True
        for expr in rule.exprs:
            if isinstance(expr, Statement):
                if (text := _effect(expr)) is not None:
                    effects.append(text)
                if isinstance(expr, (Noop, SetUpdate, Continue)):
                    if isinstance(expr, Continue):
                        break
                    continue
                inert = False
                op, doubt = self._statement(expr, table)
            else:
                op, doubt = self._match(expr, table)
            ops.append(op)
            doubts.append(doubt)
            if doubt is not None and doubt.atom is not None:
                self.atoms[doubt.atom] += 1
        effect = ", ".join(dict.fromkeys(effects)) or "continue"
        sure = _SURE[len(doubts)] if len(doubts) < len(_SURE) and not any(doubts) else tuple(doubts)
        compiled = CompiledRule(rule.ref, tuple(ops), sure, effect)
        compiled.inert = inert
        return compiled

    # --- matches

    def _match(self, expr: Expr, table: Table) -> tuple[Op, Doubt | None]:
        key = (id(expr), id(table))
        found = self.matches.get(key)
        if found is None:
            found = self.matches[key] = self._fresh_match(expr, table)
        return found

    def _fresh_match(self, expr: Expr, table: Table) -> tuple[Op, Doubt | None]:
        op, reason = self._test(expr, table)
        if reason is None:
            return op, None
        stateful = isinstance(expr, UnknownMatch) and expr.stateful
        plain, negated = _unnegated(expr)
        atom = None if stateful else (table.family, plain)
        return op, Doubt(reason, (_no, _yes), atom, negated=negated)

    def _test(self, expr: Expr, table: Table) -> tuple[Op, str | None]:
        """Return the function of a match, and why it can be unknown (None when it never is)."""
        simple = _TESTS.get(type(expr))
        if simple is not None:
            return simple(expr, table)
        if isinstance(expr, IpSetMatch):
            return compile_ipset(expr, self.ruleset)
        if isinstance(expr, XtConntrack):
            return self._conntrack(expr, table)
        if isinstance(expr, (AnyOf, AllOf)):
            return self._several(expr, table)
        if isinstance(expr, Rpfilter):
            return _rpfilter(expr), "the reverse path needs a route lookup, and the routes are not known here"
        if isinstance(expr, UnknownMatch):
            return _unknown, expr.reason
        return _unknown, f"nettrace does not model {type(expr).__name__}"

    def _several(self, expr: AnyOf | AllOf, table: Table) -> tuple[Op, str | None]:
        pairs = [self._test(each, table) for each in expr.matches]
        tests = tuple(op for op, _reason in pairs)
        settles = isinstance(expr, AnyOf)
        negate = expr.negate

        def test(s: Skb) -> Any:
            answer: Any = not settles
            for each in tests:
                found = each(s)
                if found is UNKNOWN:
                    answer = UNKNOWN
                elif found is settles:
                    return settles is not negate
            return answer if answer is UNKNOWN else answer is not negate

        return test, next((reason for _op, reason in pairs if reason is not None), None)

    def _conntrack(self, expr: XtConntrack, table: Table) -> tuple[Op, str | None]:
        pairs = [self._test(each, table) for each in expr.rest]
        tests = tuple(op for op, _reason in pairs)
        reason = next((reason for _op, reason in pairs if reason is not None), None)
        mask, negate = expr.state, expr.negate
        if mask is not None and not tests and mask < 128:
            if negate:
                return (lambda s: not s.ct_bits & mask), None
            return (lambda s: s.ct_bits & mask != 0), None

        def test(s: Skb) -> Any:
            if mask is not None:
                bits = s.ct_bits
                if s.ct:
                    status = s.trk.status
                    bits |= (128 if "src_nat" in status else 0) | (256 if "dst_nat" in status else 0)
                if (bits & mask != 0) is negate:
                    return False
            if not s.ct:
                return mask is not None
            answer: Any = True
            for each in tests:
                found = each(s)
                if found is False:
                    return False
                if found is UNKNOWN:
                    answer = UNKNOWN
            return answer

        return test, reason

    # --- statements

    def _statement(self, expr: Statement, table: Table) -> tuple[Op, Doubt | None]:
        fixed = _FIXED.get(type(expr))
        if fixed is not None:
            return (lambda _s: fixed), None
        if isinstance(expr, (Jump, Goto, Reject, Stolen)):
            ruling = self._ruling(expr, table)
            return (lambda _s: ruling), None
        if isinstance(expr, Queue):
            return self._queue(expr)
        if isinstance(expr, VerdictMap):
            return self._verdict_map(expr, table)
        if isinstance(expr, Nat):
            return _nat(expr, table, self.ref)
        if isinstance(expr, (SetMeta, SetCt, SetPayload)):
            return _setter(expr, table), None
        if isinstance(expr, Notrack):
            return _notrack, None
        if isinstance(expr, Tproxy):
            return self._tproxy(expr)
        if isinstance(expr, UnknownStatement):
            return _unknown, Doubt(expr.reason, (_no, lambda _s: UNSETTLED))
        return _unknown, Doubt(f"nettrace does not model {type(expr).__name__}", (_no, lambda _s: UNSETTLED))

    def _ruling(self, expr: Statement, table: Table) -> Ruling:
        fixed = _FIXED.get(type(expr))
        if fixed is not None:
            return fixed
        if isinstance(expr, (Jump, Goto)):
            # The chain is compiled by the time a packet comes by; it is looked up once then.
            code = Code.JUMP if isinstance(expr, Jump) else Code.GOTO
            key = (table.backend, table.family, table.name, expr.chain)
            return Ruling(code, chains=self.chains, key=key, effect=_effect(expr) or "")
        if isinstance(expr, Reject):
            return Ruling(Code.REJECT, detail=expr.kind, effect=f"reject with {expr.kind}")
        if isinstance(expr, (Stolen, Queue)):
            return Ruling(Code.STOLEN, detail=expr.text, effect=expr.text)
        return UNSETTLED

    def _queue(self, expr: Queue) -> tuple[Op, Doubt | None]:
        taken = Ruling(Code.STOLEN, detail=expr.text, effect=expr.text)
        if not expr.bypass:
            return (lambda _s: taken), None
        doubt = Doubt(
            "whether a program listens on the queue is not known", (lambda _s: ACCEPT, lambda _s: taken), ("q", expr)
        )
        return _unknown, doubt

    def _tproxy(self, expr: Tproxy) -> tuple[Op, Doubt | None]:
        mark, mask = expr.mark, expr.mask

        def hand_over(s: Skb) -> Any:
            if s.mark is not UNKNOWN:
                s.mark = s.mark & ~mask & 0xFFFFFFFF ^ mark
            return ACCEPT

        def decide(s: Skb) -> Any:
            found = s.ctx.socket(s.current_packet()) if s.ctx.socket is not None else None
            if found is None:
                return UNKNOWN
            return DROP if found is False else hand_over(s)

        reason = "whether a transparent socket takes the packet is not known"
        return decide, Doubt(reason, (lambda _s: DROP, hand_over), ("tproxy", expr))

    def _verdict_map(self, expr: VerdictMap, table: Table) -> tuple[Op, Doubt | None]:
        entries, complete = _entries(expr, table)
        # NFT_CONTINUE out of a map goes on with the next expression of the same rule (nft_do_chain).
        rulings = tuple(
            (item, True if isinstance(each, Continue) else self._ruling(each, table)) for item, each in entries
        )
        find = table_of(rulings)
        key = getter(expr.key, table)

        def decide(s: Skb) -> Any:
            value = key(s)
            if value is None:
                return False
            if value is UNKNOWN:
                return UNKNOWN
            found = find(value)
            # A key that is not in a verdict map ends the rule (NFT_BREAK).
            return found if found is not None else complete and False if complete else UNKNOWN

        different = list(dict.fromkeys(ruling for _item, ruling in rulings))
        if isinstance(expr.key, OneOf) and all(
            any(fits(item, value) for item, _ruling in rulings) for value in expr.key.values
        ):
            alternatives: tuple[Op, ...] = ()
        else:
            alternatives = (_no,)
        alternatives += tuple(_always(ruling) for ruling in different)
        reason = (None if complete else "the contents of the map may have changed since") or why(expr.key)
        return decide, Doubt(reason, alternatives) if reason is not None else None


#: Doubts of rules without any, by the number of expressions: most rules share one of these.
_SURE = tuple((None,) * count for count in range(16))


def _always(ruling: Ruling | bool) -> Op:
    return lambda _s: ruling


def _entries(expr: VerdictMap, table: Table) -> tuple[tuple[tuple[Any, Statement], ...], bool]:
    if expr.name is None:
        return expr.entries, True
    named = table.sets.get(expr.name)
    return (named.elements, named.complete) if named is not None else ((), False)


#: Stands where a rule is not compiled yet: its operation compiles it before anybody looks.
_UNREAD: Final = CompiledRule(RuleRef(backend="", family="", table="", chain="", index=None, text=""), (), (), "")


class _Later:
    """The operation of a rule that is not read yet: it says no by a look at the text, else it reads the rule."""

    __slots__ = ("asked", "at", "chain", "compiler", "conditions", "row", "rules")

    def __init__(self, compiler: _Compiler, row: Deferred, rules: Rules, at: int, chain: CompiledChain) -> None:
        self.compiler = compiler
        self.row = row
        self.rules = rules
        self.at = at
        self.chain = chain
        self.conditions: tuple[Condition, ...] | None = None
        self.asked = False

    def __call__(self, s: Skb) -> Any:
        conditions: Iterable[Condition] | None = self.conditions
        if conditions is None:
            # Asked once, as by `eval`, most say no at their first condition; asked again, all are kept.
            conditions = self.row.conditions() if not self.asked else tuple(self.row.conditions())
            self.conditions = conditions if isinstance(conditions, tuple) else None
            self.asked = True
        for field, mask, value, negated in conditions:
            have = getattr(s, field)
            if have is not UNKNOWN and ((have if mask is None else have & mask) == value) is negated:
                return False
        at, chain = self.at, self.chain
        one = self.compiler.rule(self.rules[at], chain.table)
        chain.rules[at], chain.ops[at] = one, one.ops
        for op in one.ops:
            result = op(s)
            if result is not True:
                return result
        return True


def _targets(rule: Rule, table: Table) -> list[str]:
    out: list[str] = []
    for expr in rule.exprs:
        if isinstance(expr, (Jump, Goto)):
            out.append(expr.chain)
        elif isinstance(expr, VerdictMap):
            out += [each.chain for _item, each in _entries(expr, table)[0] if isinstance(each, (Jump, Goto))]
    return out


_FIXED: dict[type[Statement], Ruling] = {Accept: ACCEPT, Drop: DROP, Return: RETURN, Continue: CONTINUE}


def _yes(_s: Skb) -> Any:
    return True


def _no(_s: Skb) -> Any:
    return False


def _unknown(_s: Skb) -> Any:
    return UNKNOWN


def _unnegated(expr: Expr) -> tuple[Any, bool]:
    """Return the fact a match asks about, without its negation, and whether it was negated."""
    import msgspec

    if isinstance(expr, (In, BitTest, Lookup, IpSetMatch, Rpfilter, AnyOf, AllOf)) and expr.negate:
        return msgspec.structs.replace(expr, negate=False), True
    if isinstance(expr, Compare) and expr.op == "!=":
        return msgspec.structs.replace(expr, op="=="), True
    return expr, False


# --- matches --------------------------------------------------------------------------------------------------------


def _in(expr: In, table: Table) -> tuple[Op, str | None]:
    attribute = sure_attribute(expr.left, table)
    if attribute is not None and len(expr.items) == 1:
        op = _single(attribute, expr.items[0], expr.negate)
        if op is not None:
            return op, None
    get = getter(expr.left, table)
    member = member_of(expr.items)
    negate = expr.negate
    if attribute is not None:
        if negate:
            return (lambda s: not member(get(s))), None
        return (lambda s: member(get(s))), None
    absent = expr.absent

    def test(s: Skb) -> Any:
        value = get(s)
        if value is None:
            return absent
        if value is UNKNOWN:
            return UNKNOWN
        return member(value) is not negate

    return test, why(expr.left)


def _single(attribute: str, item: Any, negate: bool) -> Op | None:
    """Return the fastest test of one attribute against one item; the common ones are spelt out."""
    if isinstance(item, (int, str)):
        return _EQUAL[attribute](item, negate) if attribute in _EQUAL else None
    if isinstance(item, Masked) and attribute in ("saddr", "daddr"):
        value, mask = item.value, item.mask
        if attribute == "saddr":
            if negate:
                return lambda s: s.saddr & mask != value
            return lambda s: s.saddr & mask == value
        if negate:
            return lambda s: s.daddr & mask != value
        return lambda s: s.daddr & mask == value
    if isinstance(item, Wildcard) and attribute in ("iif", "oif"):
        prefix = item.prefix
        if attribute == "iif":
            return lambda s: s.iif.startswith(prefix) is not negate
        return lambda s: s.oif.startswith(prefix) is not negate
    return None


_EQUAL: dict[str, Callable[[Any, bool], Op]] = {
    "iif": lambda v, negate: (lambda s: s.iif != v) if negate else (lambda s: s.iif == v),
    "oif": lambda v, negate: (lambda s: s.oif != v) if negate else (lambda s: s.oif == v),
    "saddr": lambda v, negate: (lambda s: s.saddr != v) if negate else (lambda s: s.saddr == v),
    "daddr": lambda v, negate: (lambda s: s.daddr != v) if negate else (lambda s: s.daddr == v),
    "proto": lambda v, negate: (lambda s: s.proto != v) if negate else (lambda s: s.proto == v),
}


def _never(_expr: Never, _table: Table) -> tuple[Op, str | None]:
    return _no, None


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda one, two: bool(one == two),
    "!=": lambda one, two: bool(one != two),
    "<": lambda one, two: bool(one < two),
    ">": lambda one, two: bool(one > two),
    "<=": lambda one, two: bool(one <= two),
    ">=": lambda one, two: bool(one >= two),
}


def _compare(expr: Compare, table: Table) -> tuple[Op, str | None]:
    if expr.op in ("==", "!=") and isinstance(expr.right, Const):
        return _in(In(left=expr.left, items=(expr.right.value,), negate=expr.op == "!=", absent=expr.absent), table)
    left, right = getter(expr.left, table), getter(expr.right, table)
    apply = _COMPARE[expr.op]
    absent = expr.absent

    def test(s: Skb) -> Any:
        one, two = left(s), right(s)
        if one is None or two is None:
            return absent
        if one is UNKNOWN or two is UNKNOWN:
            return UNKNOWN
        return apply(one, two)

    return test, why(expr.left) or why(expr.right)


def _bit_test(expr: BitTest, table: Table) -> tuple[Op, str | None]:
    get = getter(expr.left, table)
    mask, negate, absent = expr.mask, expr.negate, expr.absent

    def test(s: Skb) -> Any:
        value = get(s)
        if value is None:
            return absent
        if value is UNKNOWN:
            return UNKNOWN
        return (value & mask != 0) is not negate

    return test, why(expr.left)


def _lookup(expr: Lookup, table: Table) -> tuple[Op, str | None]:
    named = table.sets.get(expr.name)
    if named is None:
        return _unknown, f"set {expr.name} of table {table.family} {table.name} is not in the dump"
    get = getter(expr.left, table)
    member = member_of(item for item, _value in named.elements)
    negate, complete = expr.negate, named.complete

    def test(s: Skb) -> Any:
        value = get(s)
        if value is None:
            return False
        if value is UNKNOWN:
            return UNKNOWN
        if member(value):
            return not negate
        return negate if complete else UNKNOWN

    changing = None if complete else f"packets add to set {expr.name}, so its contents change"
    return test, changing or why(expr.left)


#: Functions of the matches that need nothing but their table.
_TESTS: dict[type[Expr], Callable[[Any, Table], tuple[Op, str | None]]] = {
    In: _in,
    Compare: _compare,
    BitTest: _bit_test,
    Lookup: _lookup,
    Never: _never,
}


def _rpfilter(expr: Rpfilter) -> Op:
    """Return the test of xt_rpfilter (ipt_rpfilter.c, rpfilter_mt)."""
    from nettrace.netfilter.context import FibQuery
    from nettrace.netfilter.operands import address_type

    def reverse(s: Skb) -> Any:
        if s.iif == "lo":
            return True
        src = s.src_ip()
        if s.fam == 4 and s.daddr >> 28 == 0xE and s.saddr >> 24 == 0:
            return s.daddr >> 8 == 0xE00000
        kind = address_type(s, src, None)
        if kind is UNKNOWN or s.ctx.fib is None or s.mark is UNKNOWN:
            return UNKNOWN
        if kind != "unicast" and not (kind == "local" and expr.accept_local):
            return False
        mark = s.mark if expr.valid_mark else 0
        found = s.ctx.fib(FibQuery(dst=src, src=s.dst_ip(), dev=None if expr.loose else s.iif, mark=mark))
        return UNKNOWN if found is None else found != ""

    negate = expr.negate

    def test(s: Skb) -> Any:
        found = reverse(s)
        return found if found is UNKNOWN else found is not negate

    return test


# --- statements -----------------------------------------------------------------------------------------------------


def _nat(expr: Nat, table: Table, ref: RuleRef) -> tuple[Op, Doubt | None]:
    op, alternatives, reason = compile_nat(expr, table, ref)
    return op, Doubt(reason, alternatives) if reason is not None else None


def _notrack(s: Skb) -> Any:
    # An entry that is there already (a packet back from loopback) is left alone: skb->_nfct is set.
    if not s.ct and not s.ctx.loopback:
        s.notrack = True
        s.ct_bits = CT_STATE["untracked"]
    return True


def _setter(expr: SetMeta | SetCt | SetPayload, table: Table) -> Op:
    import msgspec

    get = getter(expr.value, table)
    if isinstance(expr, SetMeta):
        if expr.key != "mark":
            return _yes

        def set_mark(s: Skb) -> Any:
            value = get(s)
            if value is None:
                return False
            s.mark = value
            return True

        return set_mark
    if isinstance(expr, SetCt):
        key = expr.key
        if key not in ("mark", "zone", "helper"):
            return _yes

        def set_ct(s: Skb) -> Any:
            value = get(s)
            # A zone and a helper are put on a template before conntrack has made the entry.
            if value is None or (key == "mark" and not s.ct):
                return value is not None
            if value is not UNKNOWN:
                s.trk = msgspec.structs.replace(s.trk, **{key: value})
            return True

        return set_ct
    return _payload_setter(expr, get)


_WRITABLE = {(proto, field) for proto in ("ip", "ip6") for field in ("saddr", "daddr")} | {
    (proto, field) for proto in ("tcp", "udp", "th", "sctp", "udplite", "dccp") for field in ("sport", "dport")
}


def _mac_setter(field: str, get: Op) -> Op:
    import msgspec

    attribute = {"saddr": "src_mac", "daddr": "dst_mac"}[field]

    def write(s: Skb) -> Any:
        value = get(s)
        if value is None:
            return False
        if value is not UNKNOWN:
            s.packet = msgspec.structs.replace(s.packet, **{attribute: mac_text(value)})
        return True

    return write


def _payload_setter(expr: SetPayload, get: Op) -> Op:
    proto, field = expr.protocol, expr.field
    if proto == "ether" and field in ("saddr", "daddr"):
        return _mac_setter(field, get)
    if field in ("ttl", "hoplimit"):
        attribute = "ttl"
    elif field in ("dscp", "tos", "ecn"):
        attribute = "tos"
    elif (proto, field) in _WRITABLE:
        attribute = field
    else:
        return _yes

    def write(s: Skb) -> Any:
        value = get(s)
        if value is None:
            return False
        if attribute == "tos" and value is not UNKNOWN:
            value = {"dscp": value << 2 | s.tos & 3, "ecn": s.tos & 0xFC | value}.get(field, value)
        if value is not UNKNOWN or attribute in ("sport", "dport"):
            setattr(s, attribute, value)
        return True

    return write


def _effect(expr: Statement) -> str | None:
    """Return what a statement does, in a few words; None for what goes without saying."""
    if isinstance(expr, (Jump, Goto)):
        return f"{'jump' if isinstance(expr, Jump) else 'goto'} {expr.chain}"
    if isinstance(expr, Reject):
        return f"reject with {expr.kind}"
    if isinstance(expr, (Accept, Drop, Return, Continue, Notrack)):
        return type(expr).__name__.lower()
    if isinstance(expr, (SetMeta, SetCt)):
        value = expr.value.value if isinstance(expr.value, Const) else None
        shown = hex(value) if isinstance(value, int) and expr.key == "mark" else value
        name = expr.key if isinstance(expr, SetMeta) else f"ct {expr.key}"
        return f"{name} {shown}" if shown is not None else f"set {name}"
    if isinstance(expr, SetPayload):
        return f"set {expr.protocol} {expr.field}"
    if isinstance(expr, (Noop, Stolen, Queue, Tproxy, UnknownStatement)):
        return expr.text if not expr.text.startswith("counter") else None
    if isinstance(expr, SetUpdate):
        return f"{expr.op} @{expr.name}"
    if isinstance(expr, Nat):
        return expr.kind
    return None
