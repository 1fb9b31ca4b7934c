"""One packet through one hook: every base chain in order, conntrack and NAT in their places, three-valued.

What cannot be evaluated is walked both ways. When every way ends alike, that is the answer; otherwise the verdict is
unknown, and the assumptions name exactly the matches that tip it. Ways that meet again in the same place with the
same packet are walked once, and the ways are bounded.

Source of what is modelled: net/netfilter/core.c (nf_hook_slow), nf_tables_core.c (nft_do_chain), ip_tables.c
(ipt_do_table), nf_conntrack_core.c (nf_conntrack_in), nf_nat_core.c (nf_nat_inet_fn).
"""

from __future__ import annotations

from typing import Any, Final

from nettrace.model.flow import Packet
from nettrace.model.netfilter import (
    Assumption,
    FilterVerdict,
    Hook,
    HookResult,
    NatResult,
    RuleRef,
    Tracking,
    TrailEntry,
)
from nettrace.netfilter import nat
from nettrace.netfilter.compile import CompiledChain, CompiledRule, Doubt, HookProgram, Step, compile_hook
from nettrace.netfilter.context import HookContext
from nettrace.netfilter.ruleset import Ruleset
from nettrace.netfilter.ruling import Code, Ruling
from nettrace.netfilter.skb import UNKNOWN, Skb

__all__ = ["MAX_DOUBTS", "evaluate_hook"]

#: How many doubtful points one hook may have before the rest is left unknown.
MAX_DOUBTS: Final = 200


#: Hooks whose first chains may run before conntrack does, in the families that it tracks.
_BEFORE_CONNTRACK: Final = frozenset({Hook.PREROUTING, Hook.OUTPUT})
_INTERNET: Final = frozenset({"ip", "ip6"})


def evaluate_hook(ruleset: Ruleset, hook: Hook, packet: Packet, tracking: Tracking, context: HookContext) -> HookResult:
    """Return what every chain of one hook does to a packet, in the kernel's order.

    `tracking` holds the state that conntrack will assign; rules that run before conntrack do not see it yet. The
    result is UNKNOWN only where a match that cannot be evaluated tips the verdict or the address translation.
    """
    family = context.family
    program = compile_hook(ruleset, family, hook, context.iif if hook == Hook.INGRESS else context.oif)
    skb = Skb(packet, tracking, context, hook)
    if context.loopback or hook not in _BEFORE_CONNTRACK or family not in _INTERNET:
        skb.see_conntrack()
    end = _run(program, _Way(skb))
    if isinstance(end, _Leaf):
        return _result(hook, end, (), end.verdict)
    return _explore(program, end)


class _Leaf:
    """How one way ends. `reason` says why the verdict is unknown, when the way itself cannot tell."""

    __slots__ = ("decided_by", "reason", "reject_with", "rerouted", "skb", "trail", "verdict")

    def __init__(self, way: _Way, verdict: FilterVerdict, decided_by: RuleRef | None, detail: str = "") -> None:
        self.skb = way.skb
        self.trail = way.trail
        self.rerouted = way.rerouted
        self.verdict = verdict
        self.decided_by = decided_by
        self.reject_with = detail if verdict == FilterVerdict.REJECT else None
        self.reason = detail

    def outcome(self) -> tuple[Any, ...]:
        """Return what tells answers apart: the verdict, and for a packet that goes on, its addresses."""
        if self.verdict != FilterVerdict.ACCEPT:
            return (self.verdict,)
        s = self.skb
        nats = tuple(_nat_key(each) for each in s.nats)
        return (self.verdict, s.saddr, s.daddr, s.sport, s.dport, nats)

    def everything(self) -> tuple[Any, ...]:
        """Return every lasting effect, so that a mark in doubt is told too."""
        if self.verdict != FilterVerdict.ACCEPT:
            return (self.verdict,)
        return (self.outcome(), self.skb.mark, self.skb.tos, self.skb.ttl, self.skb.trk)


def _nat_key(one: NatResult) -> tuple[Any, ...]:
    return (one.kind, one.new_src, one.new_sport, one.new_dst, one.new_dport, one.port_chosen_by_kernel)


class _Way:
    """One way through the hook: where it stands, and the packet as it is there.

    `frames` are (chain, index of the next rule), innermost last; `op` is the expression to go on with, and `forced`
    the answer that is taken for granted for it. `low` is the first expression of the rule that is still open.
    """

    __slots__ = ("decided_by", "facts", "forced", "frames", "low", "op", "rerouted", "skb", "step", "trail")

    def __init__(self, skb: Skb) -> None:
        self.skb = skb
        self.step = 0
        self.frames: list[tuple[CompiledChain, int]] = []
        self.op = 0
        self.forced: Any = None
        self.low = 0
        self.trail: list[TrailEntry] = []
        self.facts: dict[Any, bool] = {}
        self.rerouted = False
        self.decided_by: RuleRef | None = None

    def branch(self) -> _Way:
        """Return a copy that can go another way."""
        other = _Way(self.skb.copy())
        other.step = self.step
        other.frames = list(self.frames)
        other.op = self.op
        other.trail = list(self.trail)
        other.facts = dict(self.facts)
        other.rerouted = self.rerouted
        other.decided_by = self.decided_by
        return other

    def place(self) -> tuple[Any, ...]:
        """Return what tells this standpoint from others: same place, same future."""
        frames = tuple((id(chain), at) for chain, at in self.frames)
        return (self.step, frames, self.op, self.rerouted, self.skb.key(), frozenset(self.facts.items()))


class _Fork:
    """A standpoint where an expression is unknown; `way` stands right before it."""

    __slots__ = ("atom", "doubt", "rule", "way")

    def __init__(self, way: _Way, rule: CompiledRule, doubt: Doubt, atom: Any) -> None:
        self.way = way
        self.rule = rule
        self.doubt = doubt
        self.atom = atom


# --- walking --------------------------------------------------------------------------------------------------------


def _run(program: HookProgram, way: _Way) -> _Leaf | _Fork:
    """Walk on until the hook ends, the packet does, or something is unknown."""
    steps = program.steps
    skb = way.skb
    while way.step < len(steps):
        step = steps[way.step]
        kind = step.kind
        if kind == "chain":
            end = _run_chain(program, way, step)
            if end is not None:
                return end
            if skb.nat_set and step.chain is not None and step.chain.kind == "nat":
                while steps[way.step].kind != "nat-end":
                    way.step += 1
                continue
        elif kind == "conntrack":
            if not skb.ctx.loopback:
                skb.see_conntrack()
        elif kind == "nat":
            if not nat.wanted(skb):
                way.step = step.skip_to
                continue
        else:
            before = skb.daddr
            nat.finish(skb)
            skb.nat_set = False
            if skb.hook == Hook.OUTPUT and skb.daddr != before:
                way.rerouted = True
        way.step += 1
    return _Leaf(way, FilterVerdict.ACCEPT, way.decided_by)


def _route_key(skb: Skb) -> tuple[Any, ...]:
    return (skb.saddr, skb.daddr, skb.mark, skb.tos)


def _run_chain(program: HookProgram, way: _Way, step: Step) -> _Leaf | _Fork | None:
    """Walk one base chain with all that it jumps to; None when it lets the packet pass."""
    skb, trail, frames = way.skb, way.trail, way.frames
    base = step.chain
    if base is None:
        return None
    before = _route_key(skb) if step.reroutes else None
    if not base.rules and not frames:
        trail.append(base.entry("enter", "", 0))
        return _policy(way, base, before)
    if not frames:
        trail.append(base.entry("enter", "", 0))
        frames.append((base, 0))
    chain, at = frames[-1]
    rules, all_ops = chain.rules, chain.ops
    count = len(rules)
    depth = len(frames) - 1
    while True:
        result: Any = None
        if way.op or way.forced is not None:
            result = _resume(way, rules[at])
        while result is None or result is False:
            if result is False:
                at += 1
            if at >= count:
                break
            result = True
            for op in all_ops[at]:
                result = op(skb)
                if result is not True:
                    break
        if at >= count:
            ruling = None
        elif result is True:
            trail.append(rules[at].entry(rules[at].effect, depth))
            at += 1
            frames[-1] = (chain, at)
            continue
        elif result is UNKNOWN:
            frames[-1] = (chain, at)
            fork = _doubt(program, way, rules[at])
            if fork is not None:
                return fork
            if way.forced is False:
                way.forced, way.op = None, 0
                at += 1
            continue
        else:
            rule = rules[at]
            ruling = result
            code = ruling.code
            if code == Code.CONTINUE:
                at += 1
                continue
            effect = ruling.effect if len(rule.ops) < 2 else _effect(rule, ruling.effect)
            trail.append(rule.entry(effect, depth))
            if code == Code.JUMP or code == Code.GOTO:
                if code == Code.GOTO:
                    frames.pop()
                else:
                    frames[-1] = (chain, at + 1)
                    depth += 1
                chain, at = ruling.chain, 0
                frames.append((chain, 0))
                trail.append(chain.entry("enter", "", depth))
                rules, all_ops = chain.rules, chain.ops
                count = len(rules)
                continue
            if code != Code.RETURN:
                return _settle(way, step, rule, ruling, before)
        # The end of a chain, or a return: the caller goes on, or the policy applies.
        frames.pop()
        depth -= 1
        if not frames:
            return _policy(way, base, before)
        if ruling is not None:
            trail.append(chain.entry("return", f"back to {frames[-1][0].name}", len(frames)))
        chain, at = frames[-1]
        rules, all_ops = chain.rules, chain.ops
        count = len(rules)


def _effect(rule: CompiledRule, verdict: str) -> str:
    """Return what a rule did: its verdict, after anything it set on the way."""
    if rule.effect in (verdict, "continue"):
        return verdict
    parts = rule.effect.split(", ")
    if verdict.partition(" ")[0] in parts:
        parts.remove(verdict.partition(" ")[0])
    if verdict not in parts:
        parts.append(verdict)
    return ", ".join(parts)


def _settle(way: _Way, step: Step, rule: CompiledRule, ruling: Ruling, before: tuple[Any, ...] | None) -> _Leaf | None:
    code = ruling.code
    way.frames.clear()
    if code == Code.ACCEPT:
        way.decided_by = rule.ref
        if before is not None and _route_key(way.skb) != before:
            way.rerouted = True
        return None
    if code == Code.DROP:
        return _Leaf(way, FilterVerdict.DROP, rule.ref)
    if code == Code.REJECT:
        return _Leaf(way, FilterVerdict.REJECT, rule.ref, ruling.detail)
    if code == Code.STOLEN:
        return _Leaf(way, FilterVerdict.STOLEN, rule.ref)
    return _Leaf(way, FilterVerdict.UNKNOWN, rule.ref, ruling.detail)


def _policy(way: _Way, base: CompiledChain, before: tuple[Any, ...] | None) -> _Leaf | None:
    way.trail.append(base.entry("policy", base.policy, 0))
    if base.policy == "drop":
        return _Leaf(way, FilterVerdict.DROP, base.ref)
    way.decided_by = base.ref
    if before is not None and _route_key(way.skb) != before:
        way.rerouted = True
    return None


def _resume(way: _Way, rule: CompiledRule) -> Any:
    """Go on inside a rule whose expression was in doubt, with the answer that this way takes for granted."""
    at, result = way.op, way.forced
    way.op, way.forced = 0, None
    if result is not True:
        return result
    for op in rule.ops[at + 1 :]:
        result = op(way.skb)
        if result is not True:
            break
    if result is UNKNOWN:
        way.low = at + 1
    return result


def _doubt(program: HookProgram, way: _Way, rule: CompiledRule) -> _Fork | None:
    """Handle an unknown expression of a rule: None when it does not matter or was decided before, else the fork."""
    if rule.inert:
        way.low = 0
        way.forced = False
        return None
    at = _where(way, rule)
    doubt = rule.doubts[at]
    if doubt is None:
        doubt = Doubt("a value of this rule is not known", (lambda _s: False, lambda _s: True))
    atom = None
    if doubt.atom is not None and doubt.atom in program.shared:
        atom = (doubt.atom, way.skb.key())
        known = way.facts.get(atom)
        if known is not None:
            way.op = at
            way.forced = known is not doubt.negated
            return None
    way.op = at
    return _Fork(way, rule, doubt, atom)


def _where(way: _Way, rule: CompiledRule) -> int:
    """Find the expression that was unknown: matches have no side effects, so the first that still is."""
    start, way.low = way.low, 0
    for at in range(start, len(rule.ops)):
        if rule.doubts[at] is not None and rule.ops[at](way.skb) is UNKNOWN:
            return at
    return start


# --- exploring ------------------------------------------------------------------------------------------------------


class _Node:
    """A fork that was walked, with one child per way."""

    __slots__ = ("children", "fork")

    def __init__(self, fork: _Fork) -> None:
        self.fork = fork
        self.children: list[_Node | _Leaf | None] = [None] * len(fork.doubt.alternatives)


def _explore(program: HookProgram, first: _Fork) -> HookResult:
    """Walk every way from a first doubt, and put the answers together."""
    root = _Node(first)
    known: dict[tuple[Any, ...], _Node] = {first.way.place(): root}
    pending: list[tuple[_Node, int]] = [(root, at) for at in reversed(range(len(root.children)))]
    leaves: list[_Leaf] = []
    while pending:
        node, at = pending.pop()
        end: _Leaf | _Fork = _take(program, node.fork, at)
        if isinstance(end, _Leaf):
            node.children[at] = end
            leaves.append(end)
            continue
        place = end.way.place()
        seen = known.get(place)
        if seen is None and len(known) >= MAX_DOUBTS:
            reason = f"more than {MAX_DOUBTS} matches in this hook cannot be evaluated"
            leaf = _Leaf(end.way, FilterVerdict.UNKNOWN, end.rule.ref, reason)
            node.children[at] = leaf
            leaves.append(leaf)
            continue
        if seen is None:
            seen = known[place] = _Node(end)
            pending += [(seen, each) for each in reversed(range(len(seen.children)))]
        node.children[at] = seen
    return _conclude(program.hook, root, leaves)


def _take(program: HookProgram, fork: _Fork, at: int) -> _Leaf | _Fork:
    """Walk one alternative of a doubt."""
    way = fork.way.branch()
    answer = fork.doubt.alternatives[at](way.skb)
    if fork.atom is not None and isinstance(answer, bool):
        way.facts[fork.atom] = answer is not fork.doubt.negated
    said = {True: "taken as a match", False: "taken as no match"}.get(answer, "") if isinstance(answer, bool) else ""
    said = said or f"taken as: {answer.effect}"
    way.trail.append(
        TrailEntry(
            event="unknown", rule=fork.rule.ref, effect=f"{said} ({fork.doubt.reason})", level=len(way.frames) - 1
        )
    )
    way.forced = answer
    return _run(program, way)


def _conclude(hook: Hook, root: _Node, leaves: list[_Leaf]) -> HookResult:
    outcomes = {leaf.outcome() for leaf in leaves}
    primary = leaves[0]
    if len(outcomes) == 1 and primary.verdict != FilterVerdict.UNKNOWN:
        kept = _tipping(root, _Leaf.everything) if len({leaf.everything() for leaf in leaves}) > 1 else []
        assumptions = tuple(
            Assumption(rule=each.rule.ref, reason=f"{each.doubt.reason}; it may change marks, not the verdict")
            for each in kept
        )
        return _result(hook, primary, assumptions, primary.verdict)
    primary = next((leaf for leaf in leaves if leaf.verdict == FilterVerdict.ACCEPT), primary)
    forks = _tipping(root, _Leaf.outcome)
    assumptions = tuple(
        dict.fromkeys(
            [Assumption(rule=each.rule.ref, reason=each.doubt.reason) for each in forks]
            + [
                Assumption(rule=leaf.decided_by, reason=leaf.reason)
                for leaf in leaves
                if leaf.verdict == FilterVerdict.UNKNOWN and leaf.decided_by is not None and leaf.reason
            ]
        )
    )
    return _result(hook, primary, assumptions, FilterVerdict.UNKNOWN)


def _tipping(root: _Node, outcome: Any) -> list[_Fork]:
    """Return the forks that tip the outcome: those left when forks whose ways all end alike are taken out."""
    reduced: dict[int, Any] = {}
    unique: dict[Any, Any] = {}
    forks: dict[Any, _Fork] = {}

    def value(child: _Node | _Leaf | None) -> Any:
        if isinstance(child, _Leaf):
            return ("leaf", outcome(child))
        return reduced[id(child)]

    stack: list[tuple[_Node, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if id(node) in reduced:
            continue
        if not ready:
            stack.append((node, True))
            stack += [(child, False) for child in node.children if isinstance(child, _Node)]
            continue
        children = tuple(value(child) for child in node.children)
        if len(set(children)) == 1:
            reduced[id(node)] = children[0]
        else:
            key = (id(node.fork.rule), children)
            name = unique.setdefault(key, ("fork", len(unique)))
            forks[name] = node.fork
            reduced[id(node)] = name
    # Only forks that can still be reached from the root count.
    below: dict[Any, tuple[Any, ...]] = {name: children for (_rule, children), name in unique.items()}
    wanted, found = [reduced[id(root)]], []
    seen: set[Any] = set()
    while wanted:
        name = wanted.pop()
        if name in seen or name not in below:
            continue
        seen.add(name)
        found.append(forks[name])
        wanted += reversed(below[name])
    return found


def _result(hook: Hook, leaf: _Leaf, assumptions: tuple[Assumption, ...], verdict: FilterVerdict) -> HookResult:
    skb = leaf.skb
    extra = skb.assumed
    if skb.mark is UNKNOWN and verdict == FilterVerdict.ACCEPT and leaf.decided_by is not None:
        extra += (Assumption(rule=leaf.decided_by, reason="the mark was set from something that is not known"),)
    return HookResult(
        hook=hook,
        verdict=verdict,
        packet=skb.current_packet(),
        tracking=skb.trk,
        decided_by=leaf.decided_by,
        nats=skb.nats,
        reject_with=leaf.reject_with,
        trail=tuple(leaf.trail),
        assumptions=assumptions + extra,
        route_changed=leaf.rerouted,
    )
