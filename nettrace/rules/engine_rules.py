"""The engine's own rules that a flow needs and that are not there: which, where they belong, and how to put them back.

What the engine would have written is nettrace.layout's to say; this compares it with what the kernel holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from nettrace.layout import EngineRule, chains, docker_rules
from nettrace.model.intent import Engine
from nettrace.model.netfilter import RuleRef
from nettrace.model.path import Direction, Outcome, Step
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.netfilter.ruleset import Table
from nettrace.predict import predict
from nettrace.predict.world import View
from nettrace.rules.base import Change, Mend
from nettrace.rules.case import Case
from nettrace.rules.change import delete_rule, delete_text, insert_rule_at, together

__all__ = ["Absent", "absent_of_chain", "absent_rules", "hiding_rules", "lost", "put_back", "would_pass"]


class Absent(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of the engine that is not where it should be; `position` is where it belongs, None for the chain's end.

    `late` is true for one that stands, but behind a rule of its network that keeps traffic out. Positions count from
    1, and hold when the rules are put back in the order in which they are told.
    """

    rule: EngineRule
    position: int | None
    late: bool = False


def absent_rules(case: Case, netns: int, backend: str, family: str, tables: Iterable[str]) -> tuple[Absent, ...]:
    """Return the engine's rules that this flow needs and that do not stand in these tables.

    Those that serve all networks, and those of the networks whose bridges the flow passes; rules that only keep traffic
    out are no part of it. `family` is "ip" or "ip6". Empty where it is not known what the engine writes.
    """
    engine, view = case.engine, case.view(netns)
    if engine is None or view is None:
        return ()
    meant = _meant(case, engine, view, backend, family)
    if meant is None:
        return ()
    devices = {
        step.device for direction in Direction for step in case.steps(direction) if step.netns == netns and step.device
    }
    networks = {each.name for each in case.before.intent.networks if each.bridge in devices}
    found: list[Absent] = []
    for (table, chain), rules in chains(meant).items():
        if table in tables:
            needed = [_needed(case, each, networks) for each in rules]
            found += absent_of_chain(_texts(view, backend, family, table, chain), rules, needed)
    return tuple(found)


def _needed(case: Case, rule: EngineRule, networks: set[str]) -> bool:
    """Tell whether the flow may need a rule: one of its networks', and of a published port that it asks for."""
    if rule.guards or (rule.network is not None and rule.network not in networks):
        return False
    return rule.address is None or case.flow.dport in rule.ports


def lost(case: Case, netns: int, backend: str, family: str, absent: tuple[Absent, ...]) -> str | None:
    """Return the code of the fault that some of the engine's rules are not there, None when it is no such fault.

    Jumps alone leave chains that stand and are bypassed, and so does an order in which a drop comes before. A chain
    without any of the rules that it should have was flushed. A rule that is missing among others is no fault of the
    engine's layout as a whole.
    """
    view = case.view(netns)
    engine = case.engine
    meant = _meant(case, engine, view, backend, family) if engine is not None and view is not None else None
    if not absent or meant is None or view is None:
        return None
    targets = [each.rule.text.rpartition(" -j ")[2] for each in absent]
    if all(each.late for each in absent):
        return "filter.docker-chains-bypassed"
    if all(target.startswith("DOCKER") and _filled(view, backend, family, target) for target in targets):
        return "filter.docker-chains-bypassed"
    for (table, chain), rules in chains(meant).items():
        standing = _texts(view, backend, family, table, chain) or ()
        emptied = not any(each.text in standing for each in rules)
        if emptied and any((each.rule.table, each.rule.chain) == (table, chain) for each in absent):
            return "filter.docker-rules-missing"
    return None


def _filled(view: View, backend: str, family: str, chain: str) -> bool:
    texts = _texts(view, backend, family, "filter", chain) or ()
    return any(not text.endswith("-j RETURN") for text in texts)


def would_pass(case: Case, netns: int, backend: str, family: str, absent: tuple[Absent, ...], step: Step) -> bool:
    """Tell whether the packet would get past a step if the engine's absent rules stood: by predicting again."""
    return bool(absent) and _passes(case, _restored(netns, backend, family, absent), step)


#: Few packets are led past more rules than these, and each costs a prediction.
_MOST = 6


def hiding_rules(case: Case, step: Step) -> tuple[RuleRef, ...]:
    """Return the rules of another hand that lead a packet past the engine's own, which would have let it pass a step.

    Such a rule returns, or goes elsewhere, before what accepts: by the model, the packet passes without it. Where no
    single one is to blame, several are, to be deleted in this order. Empty where there is none, or no engine.
    """
    engine, view = case.engine, case.view(step.netns)
    if engine is None or view is None or step.hook is None or step.hook.decided_by is None:
        return ()
    last = step.hook.decided_by
    own = {(each.table, each.text) for each in _meant(case, engine, view, last.backend, last.family) or ()}
    found: list[RuleRef] = []
    snapshot, stop = case.before, step
    for _ in range(_MOST):
        leading = _leading_away(stop, own)
        for ref in leading:
            if _stop_again(delete_rule(step.netns, ref)(snapshot), case, step) is None:
                return (*found, ref)
        if not leading:
            return ()
        # One behind it is not seen before this one is gone.
        found.append(leading[-1])
        snapshot = delete_rule(step.netns, leading[-1])(snapshot)
        again = _stop_again(snapshot, case, step)
        if again is None:
            return tuple(found)
        stop = again
    return ()


def _leading_away(step: Step, own: set[tuple[str, str]]) -> list[RuleRef]:
    """Return the rules of a hook's filter chains that ended the search in them without a verdict, and are not `own`."""
    found = []
    for entry in step.hook.trail if step.hook is not None else ():
        ref = entry.rule
        away = entry.event == "match" and entry.effect.split(" ")[0] in ("return", "goto") and ref.index is not None
        there = ref.table == "filter" and ref.chain.startswith(("FORWARD", "DOCKER", "NETAVARK"))
        if away and there and (ref.table, ref.text) not in own and ref not in found:
            found.append(ref)
    return found


def _passes(case: Case, change: Change, step: Step) -> bool:
    """Tell whether the packet gets past a step after a change, by predicting again."""
    return _stop_again(change(case.before), case, step) is None


def _stop_again(snapshot: Snapshot, case: Case, step: Step) -> Step | None:
    """Return where the packet, or its answer, stops by the same sort of decision as at a step, None where it passes."""
    trace = predict(snapshot, case.flow)
    place = (step.reason, step.netns, step.hook.hook if step.hook is not None else None)
    for leg in (trace.forward, trace.reply):
        for again in (*leg.steps, *leg.beyond) if leg is not None else ():
            hook = again.hook.hook if again.hook is not None else None
            if (again.reason, again.netns, hook) == place and again.outcome is Outcome.DROP:
                return again
    return None


def _meant(case: Case, engine: Engine, view: View, backend: str, family: str) -> tuple[EngineRule, ...] | None:
    """Return what the engine writes; where it is not told whether it has a proxy, as fits what stands there best."""
    version = 6 if family == "ip6" else 4
    choices = (True, False) if engine.userland_proxy is None else (engine.userland_proxy,)
    best: tuple[EngineRule, ...] | None = None
    fewest = -1
    for proxy in choices:
        rules = docker_rules(case.before.intent, engine, version, proxy=proxy)
        if rules is None:
            return None
        standing = {
            (table, text)
            for table in ("filter", "nat")
            for chain in _chains(view, backend, family, table)
            for text in _texts(view, backend, family, table, chain) or ()
        }
        missing = sum((each.table, each.text) not in standing for each in rules)
        if best is None or missing < fewest:
            best, fewest = rules, missing
    return best


def _table(view: View, backend: str, family: str, table: str) -> Table | None:
    return view.ruleset.table(backend, family, table)


def _chains(view: View, backend: str, family: str, table: str) -> tuple[str, ...]:
    held = _table(view, backend, family, table)
    return tuple(held.chains) if held is not None else ()


def _texts(view: View, backend: str, family: str, table: str, chain: str) -> tuple[str, ...] | None:
    """Return the rules of a chain as they are saved, None when there is no such chain."""
    held = _table(view, backend, family, table)
    if held is None or chain not in held.chains:
        return None
    return tuple(rule.ref.text for rule in held.chains[chain].rules)


def _restored(netns: int, backend: str, family: str, absent: tuple[Absent, ...]) -> Change:
    """Return the change that puts the rules where they belong."""
    steps = []
    for each in absent:
        if each.late:
            steps.append(delete_text(netns, backend, family, each.rule.table, each.rule.text))
        steps.append(insert_rule_at(netns, backend, family, each.rule.table, each.rule.text, each.position))
    return together(*steps)


def absent_of_chain(
    standing: tuple[str, ...] | None, meant: tuple[EngineRule, ...], needed: list[bool]
) -> list[Absent]:
    """Return what is absent of one chain, each to be put behind what stands before it, else before what stands after.

    Only rules of the same network, and those of all networks, have an order among them: the engine writes its networks
    in the order in which they were made, and lists them in any. Where nothing of the engine's stands in the chain, its
    rules go first, as the engine itself puts them.
    """
    texts = list(standing or ())
    found: list[Absent] = []
    for index, each in enumerate(meant):
        stands = each.text in texts
        guards = [
            texts.index(other.text)
            for other in meant[index + 1 :]
            if _keeps_out(other) and other.network == each.network and other.text in texts
        ]
        late = stands and any(guard < texts.index(each.text) for guard in guards)
        if (stands and not late) or not needed[index]:
            continue
        if late:
            texts.remove(each.text)
        at = min(guards) if late else _place(texts, meant, index)
        found.append(Absent(rule=each, position=at + 1 if at < len(texts) else None, late=late))
        texts.insert(at, each.text)
    return found


def _keeps_out(rule: EngineRule) -> bool:
    """Tell whether a rule drops, or leads to what does: since 28 the chain DOCKER ends with drops."""
    return rule.guards or rule.text == "-A DOCKER-FORWARD -j DOCKER-BRIDGE"


def _place(texts: list[str], meant: tuple[EngineRule, ...], index: int) -> int:
    """Return where in a chain the rule `meant[index]` belongs that does not stand there."""
    own = meant[index].network

    def standing(rules: Iterable[EngineRule], *, kin: bool = False) -> list[int]:
        near = (each for each in rules if not kin or own is None or each.network in (own, None))
        return [texts.index(each.text) for each in near if each.text in texts]

    before, after = standing(meant[:index]), standing(meant[index + 1 :])
    at = max(before) + 1 if before else min(after) if after else 0
    # Other networks' rules are only neighbours: those of its own, and of all networks, must be on the right side.
    behind, ahead = standing(meant[:index], kin=True), standing(meant[index + 1 :], kin=True)
    return max(min([at, *ahead]), max(behind, default=-1) + 1)


def put_back(
    case: Case, netns: int, backend: str, family: str, absent: tuple[Absent, ...], *, enter: Callable[[int], str]
) -> tuple[Mend, tuple[Evidence, ...]]:
    """Return the remedy that puts rules of the engine back where they belong, and what the engine meant as evidence.

    `enter` returns what a command must begin with to act in a namespace.
    """
    engine = case.engine
    assert engine is not None
    program = ("ip6tables" if family == "ip6" else "iptables") + ("-legacy" if backend == "legacy" else "")
    tool = f"{enter(netns)}{program}"
    commands: list[str] = []
    builtin = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
    view = case.view(netns)
    made: set[tuple[str, str]] = set()
    for each in absent:
        rule = each.rule
        table = f" -t {rule.table}" if rule.table != "filter" else ""
        target = rule.text.rpartition(" -j ")[2]
        for chain in (rule.chain, target):
            # A jump needs the chain that it leads to, be it as empty as one that nobody has filled.
            unknown = view is None or _texts(view, backend, family, rule.table, chain) is None
            if unknown and chain.startswith("DOCKER") and (rule.table, chain) not in made and chain not in builtin:
                commands.append(f"{tool}{table} -N {chain}")
                made.add((rule.table, chain))
        body = rule.text.split(" ", 2)[2]
        where = f"-A {rule.chain}" if each.position is None else f"-I {rule.chain} {each.position}"
        if each.late:
            commands.append(f"{tool}{table} -D {rule.chain} {body}")
        commands.append(f"{tool}{table} {where.removesuffix(' 1')} {body}")
    what, place, them = ("rules", "their places", "them") if len(absent) > 1 else ("rule", "its place", "it")
    mend = Mend(
        summary=(
            f"Put the {what} that the engine writes back in {place}, and find what took {them} away. Restarting the "
            "engine writes all of its rules again, but it stops the containers too unless live-restore is on."
        ),
        commands=tuple(commands),
        change=_restored(netns, backend, family, absent),
    )
    evidence = tuple(
        Evidence(
            kind=EvidenceKind.INTENT,
            ref=engine.name,
            text=f"{engine.name} {engine.version} writes in {each.rule.table}: {each.rule.text}; "
            f"{'it stands behind a rule that drops' if each.late else 'it is not there'}",
        )
        for each in absent
    )
    return mend, evidence
