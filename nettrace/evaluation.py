"""What a ruleset does to one packet, all hooks of its way in a row, with nothing known but what was told. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Literal

import msgspec
from msgspec.structs import replace

from nettrace.model.base import IPAddress, IPInterface, IPNetwork, Missing, Present
from nettrace.model.evaluation import Decider, Entry, Evaluation, Nat
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, HookResult, RuleRef, Tracking, TrailEntry
from nettrace.model.snapshot import Address, Link, Namespace, NetfilterDump, NextHop, Route
from nettrace.netfilter.ruleset import Deferred
from nettrace.predict import route as routing
from nettrace.predict.hooks import inverted, run_hook, tuple_of
from nettrace.predict.world import View


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the packet is, and what was told about the host. `iif` is None for packets that the host sends."""

    iif: str | None
    oif: str | None = None
    addresses: tuple[tuple[str, IPInterface], ...] = ()
    routes: tuple[tuple[IPNetwork, IPAddress | None, str], ...] = ()
    ctstate: CtState = CtState.NEW


def evaluate(dumps: Iterable[NetfilterDump], packet: Packet, around: Surroundings) -> Evaluation:
    """Return what the rules do to the packet on its whole way through the host.

    Where the output device is not told and could matter, every device that rules name is tried, and one that none
    names; only if they differ is the verdict unknown.
    """
    view = View(_namespace(tuple(dumps), around, packet))
    first, guessed = _walk(view, packet, around, _NO_RULE_NAMES_IT)
    if not guessed:
        return first
    answers = [_walk(view, packet, around, device)[0] for device in _output_devices(view, around)]
    if all((each.verdict, each.nat) == (first.verdict, first.nat) for each in answers):
        return first
    reason = "the output device is not known, and the answer depends on it: tell it with --route or --out"
    return replace(first, verdict="unknown", decided_by=None, assumptions=(*first.assumptions, reason))


#: A device that no ruleset names (a slash cannot stand in a device's name).
_NO_RULE_NAMES_IT = "other/"

#: Devices that a rule names as output: iptables' -o and --physdev-out, nft's oifname and oif.
_DEVICES = re.compile(r'(?:-o|oifname|oif) "?([^\s"{}!=]+)')


def _namespace(dumps: tuple[NetfilterDump, ...], around: Surroundings, packet: Packet) -> Namespace:
    """Return a namespace that holds what was told."""
    names = {name for name, _address in around.addresses} | {device for _net, _gateway, device in around.routes}
    names |= {name for name in (around.iif, around.oif) if name is not None} | {"lo"}
    index = {name: number for number, name in enumerate(sorted(names, key=lambda each: (each != "lo", each)), 1)}
    links = tuple(Link(ifindex=number, name=name, loopback=name == "lo") for name, number in index.items())
    addresses = tuple(Address(ifindex=index[name], address=address) for name, address in around.addresses)
    routes = [
        Route(table=254, dst=network, nexthops=(NextHop(ifindex=index[device], gateway=gateway),))
        for network, gateway, device in around.routes
    ]
    for name, address in around.addresses:
        hops = (NextHop(ifindex=index[name]),)
        alone = type(address.network)((address.ip, address.max_prefixlen))
        routes.append(Route(table=255, dst=alone, kind="local", scope="host", nexthops=hops))
        routes.append(Route(table=254, dst=address.network, scope="link", prefsrc=address.ip, nexthops=hops))
        if address.version == 4 and address.network.prefixlen < 31:
            last = type(address.network)((address.network.broadcast_address, 32))
            routes.append(Route(table=255, dst=last, kind="broadcast", scope="link", nexthops=hops))
    loopback = ip_network("127.0.0.0/8" if packet.family == 4 else "::1/128")
    routes.append(Route(table=255, dst=loopback, kind="local", nexthops=(NextHop(ifindex=index["lo"]),)))
    told = bool(around.addresses or around.routes)
    return Namespace(
        id=1,
        name="host",
        kind="host",
        links=Present(rows=links),
        addresses=Present(rows=addresses),
        routes=Present(rows=tuple(routes)) if told else Missing(reason="neither --addr nor --route was given"),
        netfilter=Present(rows=dumps),
    )


def _output_devices(view: View, around: Surroundings) -> list[str]:
    """Return the devices that rules tell apart."""
    named: set[str] = set()
    for table in view.ruleset.tables:
        for chain in table.chains.values():
            for row in chain.rules.rows:
                named.update(row.outputs() if isinstance(row, Deferred) else _DEVICES.findall(row.ref.text))
    return [
        _NO_RULE_NAMES_IT,
        *sorted(each.removesuffix("+").removesuffix("*") for each in named if each != around.iif),
    ]


def _walk(view: View, packet: Packet, around: Surroundings, guess: str) -> tuple[Evaluation, bool]:
    """Run every hook that the packet meets, until one ends it; tell whether the output device had to be guessed."""
    guessed = False
    results: list[HookResult] = []
    old = packet
    own = tuple_of(packet)
    known = around.ctstate in (CtState.NEW, CtState.ESTABLISHED, CtState.RELATED)
    tracking = Tracking(
        state=around.ctstate,
        orig=own if known else None,
        reply_tuple=inverted(own) if known else None,
        status=("seen_reply", "assured") if around.ctstate is CtState.ESTABLISHED else (),
        nat_done=("src", "dst") if around.ctstate is CtState.ESTABLISHED else (),
    )
    assumptions: list[str] = []

    def run(hook: Hook, *, iif: str | None = None, out: str | None = None) -> bool:
        nonlocal packet, tracking
        result = run_hook(view, hook, packet, tracking, iif=iif, oif=out)
        results.append(result)
        packet, tracking = result.packet, result.tracking
        return result.verdict is FilterVerdict.ACCEPT

    def leaves_by() -> str:
        nonlocal guessed
        if around.oif is not None:
            return around.oif
        found = routing.lookup(view, packet, iif=around.iif, src=packet.src)
        if found.ifindex in view.links:
            return view.links[found.ifindex].name
        guessed = True
        return guess

    if around.iif is None:
        out = leaves_by()
        alive = run(Hook.OUTPUT, out=out)
        if alive:
            out = leaves_by() if results[-1].route_changed else out
            run(Hook.POSTROUTING, out=out)
    elif run(Hook.PREROUTING, iif=around.iif):
        local = not isinstance(view.ns.routes, Missing) and routing.is_local(view, packet.dst)
        if isinstance(view.ns.routes, Missing):
            assumptions.append(f"{packet.dst} is taken to be beyond this host: no --addr was given")
        if local:
            run(Hook.INPUT, iif=around.iif)
        elif run(Hook.FORWARD, iif=around.iif, out=leaves_by()):
            run(Hook.POSTROUTING, iif=around.iif, out=leaves_by())
    return _answer(results, old, assumptions), guessed


def _answer(results: list[HookResult], old: Packet, assumptions: list[str]) -> Evaluation:
    last = results[-1]
    verdicts: dict[FilterVerdict, Literal["accept", "drop", "reject", "unknown"]] = {
        FilterVerdict.ACCEPT: "accept",
        FilterVerdict.DROP: "drop",
        FilterVerdict.REJECT: "reject",
        FilterVerdict.STOLEN: "unknown",
        FilterVerdict.UNKNOWN: "unknown",
    }
    verdict = verdicts[last.verdict]
    deciding = [each.decided_by for each in results if each.decided_by is not None]
    decider = last.decided_by if verdict != "accept" else (_accepting(results) or (deciding[-1] if deciding else None))
    reasons = [(each.rule.text, each.reason) for result in results for each in result.assumptions]
    untold = f"output interface {_NO_RULE_NAMES_IT}"
    doubts = [f"{text}: {reason.replace(untold, 'the output interface')}" for text, reason in reasons]
    return Evaluation(
        verdict=verdict,
        decided_by=_decider(decider) if decider is not None and verdict != "unknown" else None,
        nat=Nat(
            src=_change(old.src, old.sport, last.packet.src, last.packet.sport),
            dst=_change(old.dst, old.dport, last.packet.dst, last.packet.dport),
        ),
        mark=last.packet.mark,
        trail=tuple(_entry(result, each) for result in results for each in result.trail),
        assumptions=(*assumptions, *doubts),
    )


def _accepting(results: list[HookResult]) -> RuleRef | None:
    """Return what let the packet pass: the filter decision of FORWARD, INPUT or OUTPUT."""
    for result in reversed(results):
        if result.hook in (Hook.FORWARD, Hook.INPUT, Hook.OUTPUT) and result.decided_by is not None:
            return result.decided_by
    return None


def _decider(ref: RuleRef) -> Decider:
    return Decider(
        backend=ref.backend,
        family=ref.family,
        table=ref.table,
        chain=ref.chain,
        index=ref.index,
        rule=ref.text if ref.index is not None else None,
    )


def _change(old: IPAddress, old_port: int | None, new: IPAddress, port: int | None) -> tuple[str, str] | None:
    if (old, old_port) == (new, port):
        return None
    return _endpoint(old, old_port), _endpoint(new, port)


def _endpoint(address: IPAddress, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _entry(result: HookResult, each: TrailEntry) -> Entry:
    ref = each.rule
    return Entry(
        hook=result.hook.value,
        event=each.event,
        backend=ref.backend,
        family=ref.family,
        table=ref.table,
        chain=ref.chain,
        index=ref.index,
        rule=ref.text,
        effect=each.effect,
        level=each.level,
    )
