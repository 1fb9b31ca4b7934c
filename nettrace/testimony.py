"""The kernel's rule trace, joined to the listings: which base chains each packet passed, by which rules, to what end.

Pure: Observation × Snapshot → Passings. A rule that no listing has (it is younger, or gone by now) is named by its
handle. What the kernel did not report is not taken for anything: silence proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nettrace.model.base import Model, rows
from nettrace.model.flow import Packet
from nettrace.model.netfilter import FilterVerdict, Hook, RuleRef
from nettrace.model.observe import RuleStep, SightingKind, Testimony
from nettrace.model.path import Direction
from nettrace.model.snapshot import Snapshot
from nettrace.netfilter.handles import Place, RuleHandles
from nettrace.netfilter.ruleset import Ruleset
from nettrace.predict.world import World

__all__ = ["Met", "Passing", "passings"]

#: enum nf_inet_hooks by the names that iptables gives its chains; a listing says it for all others.
_BUILT_IN = {
    "PREROUTING": Hook.PREROUTING,
    "INPUT": Hook.INPUT,
    "FORWARD": Hook.FORWARD,
    "OUTPUT": Hook.OUTPUT,
    "POSTROUTING": Hook.POSTROUTING,
}

_VERDICTS = {
    "accept": FilterVerdict.ACCEPT,
    "drop": FilterVerdict.DROP,
    "stolen": FilterVerdict.STOLEN,
    "queue": FilterVerdict.STOLEN,
}

_DIRECTION = {
    SightingKind.PROBE: Direction.FORWARD,
    SightingKind.REPLY: Direction.REPLY,
    SightingKind.RESET: Direction.REPLY,
}


class Met(Model):
    """One rule that a packet met, or the policy that was applied: what the kernel did there, and the rule when known.

    `effect` is the kernel's verdict in words ("jump DOCKER-USER", "accept", "drop", "continue").
    """

    family: str
    table: str
    chain: str
    effect: str
    rule: RuleRef | None = None
    handle: int | None = None

    @property
    def text(self) -> str:
        """The rule in one line."""
        if self.rule is not None:
            return self.rule.text
        return f"rule with handle {self.handle}" if self.handle is not None else "policy"


class Passing(Model):
    """One packet of the run going through one base chain, as the kernel reported it.

    `direction` is None for ICMP errors about the probe and where the headers did not tell; `kind` says which. `met` is
    in order; `verdict` is what came of it in this chain, UNKNOWN when the report breaks off. `hook` is None where no
    listing has the chain.
    """

    netns: int
    family: str
    table: str
    chain: str
    hook: Hook | None
    verdict: FilterVerdict
    met: tuple[Met, ...]
    packet: Packet
    kind: SightingKind | None = None
    nonce: int | None = None

    @property
    def direction(self) -> Direction | None:
        """Which half of the conversation the packet belongs to."""
        return _DIRECTION.get(self.kind) if self.kind is not None else None

    @property
    def decided_by(self) -> RuleRef | None:
        """The rule or policy that ended it, None when no listing has that."""
        return self.met[-1].rule if self.met else None


def passings(testimony: Testimony, *snapshots: Snapshot) -> tuple[Passing, ...]:
    """Return the base chains that the packets of a run passed, in the order in which the kernel reported them.

    Rules are looked up in the snapshots in turn: what was not there before the run may have come since.
    """
    if not testimony.rules:
        return ()
    worlds = [World(each) for each in snapshots]
    joins = {
        netns: [found for world in worlds if (found := _handles(netns, testimony, world)) is not None]
        for netns in {each.netns for each in testimony.rules}
    }
    all_of_them = (_passing(steps, joins[steps[0].netns]) for steps in _runs(testimony.rules))
    return tuple(each for each in all_of_them if each.met)


class _Join(NamedTuple):
    """One listing of a namespace: its rules by handle, and itself."""

    handles: RuleHandles
    ruleset: Ruleset


def _handles(netns: int, testimony: Testimony, world: World) -> _Join | None:
    view = world.view(netns)
    if view is None:
        return None
    order: dict[Place, Sequence[int]] = {
        (each.family, each.table, each.chain): each.handles for each in testimony.order if each.netns == netns
    }
    return _Join(RuleHandles(view.ruleset, dumps=rows(view.ns.netfilter), order=order), view.ruleset)


def _runs(steps: Sequence[RuleStep]) -> Iterator[list[RuleStep]]:
    """Split the steps by packet and base chain; a step with headers begins a new one."""
    open_runs: dict[tuple[int, int], list[RuleStep]] = {}
    found: list[list[RuleStep]] = []
    for step in steps:
        key = (step.netns, step.skb)
        if step.packet is not None:
            open_runs[key] = [step]
            found.append(open_runs[key])
        elif key in open_runs:
            # Without the step that begins it (lost, or before the packet was marked) it cannot be told whose it is.
            open_runs[key].append(step)
    yield from found


def _passing(steps: list[RuleStep], joins: Sequence[_Join]) -> Passing:
    first, last = steps[0], steps[-1]
    assert first.packet is not None
    return Passing(
        netns=first.netns,
        family=first.family,
        table=first.table,
        chain=first.chain,
        hook=_hook(first, joins),
        verdict=_VERDICTS.get(last.verdict, FilterVerdict.UNKNOWN),
        # That a chain has no more rules says nothing that the next step does not say.
        met=tuple(_met(step, joins) for step in steps if step.event != "end"),
        packet=first.packet,
        kind=first.kind,
        nonce=first.nonce,
    )


def _met(step: RuleStep, joins: Sequence[_Join]) -> Met:
    place = (step.family, step.table, step.chain)
    found: Iterator[RuleRef | None] = iter(())
    if step.handle is not None:
        found = (each.handles.rule(*place, step.handle) for each in joins)
    elif step.event == "policy":
        found = (each.handles.chain(*place) for each in joins)
    rule = next((each for each in found if each is not None), None)
    effect = f"{step.verdict} {step.target}" if step.target is not None else step.verdict
    return Met(family=step.family, table=step.table, chain=step.chain, effect=effect, rule=rule, handle=step.handle)


def _hook(step: RuleStep, joins: Sequence[_Join]) -> Hook | None:
    for each in joins:
        table = each.ruleset.table("nft", step.family, step.table)
        chain = table.chains.get(step.chain) if table is not None else None
        if chain is not None and chain.base is not None:
            return chain.base.hook
    return _BUILT_IN.get(step.chain)
