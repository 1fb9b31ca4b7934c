"""What the kernel itself said of a probe run, as evidence and as lines beside the model's steps.

Evidence is added to each stop in one place, whatever rule explains it: the rule trace, the reason of a drop, ICMP
errors, the conntrack entry, and counters that moved by exactly the probes that were sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nettrace.correlate import Blocker, Passage
from nettrace.model.base import Values, rows
from nettrace.model.flow import PROTO_NUMBER, Proto
from nettrace.model.netfilter import FilterVerdict, Hook
from nettrace.model.observe import KernelDrop, SightingKind
from nettrace.model.path import Direction, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import ConntrackEntry, Namespace
from nettrace.model.text import conntrack_text
from nettrace.model.verdict import Evidence, EvidenceKind, GapView
from nettrace.rules.case import Case
from nettrace.rules.wording import answer_text, place_of
from nettrace.testimony import Met, Passing

__all__ = ["drop_text", "dropped_by", "kernel_evidence", "kernel_gaps", "kernel_lines", "rises", "telling_drops"]

#: A drop for one of these reasons is a loss only where the model knows one that ends so: frames for others reach
#: every port of a flooding bridge, and an answer that raw sockets have had has no other taker.
_USUAL: dict[str, frozenset[Reason]] = {
    "OTHERHOST": frozenset({Reason.OTHERHOST, Reason.NEIGHBOUR_WRONG, Reason.NO_PEER}),
    "NO_SOCKET": frozenset({Reason.NOT_LISTENING}),
    # A raw socket that wanted nothing of it: whoever else is there got it.
    "SOCKET_FILTER": frozenset(),
}

#: Names of counters that mean a loss, in /proc/net/snmp, netstat, snmp6 and nf_conntrack, and of links and queues.
_LOSS = re.compile(
    r"(Drop|Discard|Err|Fail|NoRoute|Filter|NoPorts|TooBig|Unreach|TimeExcd|NoHandler|drop|invalid|early_drop|fulls"
    r"|error|overlimit)",
)
#: They count a consequence, not the loss itself: an ICMP error that was sent or came.
#: IpExt.InNoRoutes stands as Ip.InNoRoutes already.
_CONSEQUENCE = re.compile(r"^(Icmp|Icmp6|IcmpMsg)\.|^IpExt\.InNoRoutes$")
#: Counters of the family that the flow is not of.
_STRANGE = {4: ("Ip6.", "Udp6.", "UdpLite6."), 6: ("Ip.", "IpExt.", "Udp.", "UdpLite.")}
_MOST_COUNTERS = 4


def kernel_evidence(case: Case, blocker: Blocker, *, first: bool, known: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Return what the kernel said about a stop; `known` is the evidence that the finding has already.

    Only the first stop has any drop reason, ICMP error, entry or counter: nothing got to those behind it.
    """
    if not case.correlation.probed:
        return ()
    shown = {each.kind for each in known}
    found = list(_traced(case, blocker))
    if first:
        found += _dropped(case, blocker)
        if EvidenceKind.ICMP not in shown:
            found += _errors(case)
        if EvidenceKind.CONNTRACK not in shown:
            found += _tracked(case, blocker)
        found += _counted(case, blocker)
    return tuple(each for each in dict.fromkeys(found) if each not in known)


def _name(case: Case, netns: int) -> str:
    view = case.view(netns)
    return view.name if view is not None else f"netns {netns}"


# --- the rule trace -------------------------------------------------------------------------------------------------


def _traced(case: Case, blocker: Blocker) -> Iterator[Evidence]:
    """The passing that ended at this stop; for a flow that is lost beyond the host, what source NAT made of it."""
    step = blocker.step
    for passing in case.correlation.told:
        if passing.verdict is FilterVerdict.DROP and passing.kind is SightingKind.ICMP_ERROR:
            yield _trace_evidence(case, passing)
        elif passing.verdict is FilterVerdict.DROP:
            here = step is not None and step.netns == passing.netns and step.reason is Reason.FILTERED
            if here and passing.direction is blocker.direction:
                yield _trace_evidence(case, passing)
                return
        elif blocker.segment is Segment.REMOTE and (passing.table, passing.hook) == ("nat", Hook.POSTROUTING):
            yield _trace_evidence(case, passing)


def dropped_by(case: Case, lost: Iterable[int]) -> Iterator[str]:
    """Say which rules dropped some of the lost probes, or the answers to them, and how many each."""
    among = set(lost)
    counts: dict[str, int] = {}
    for each in case.correlation.told:
        if each.verdict is FilterVerdict.DROP and each.nonce in among and each.direction is not None:
            place = f"{_name(case, each.netns)}: {_place(each.met[-1])}: {each.met[-1].text}"
            counts[place] = counts.get(place, 0) + 1
    for place, count in counts.items():
        yield f"the kernel dropped {count} at {place}"


_WHAT = {
    SightingKind.PROBE: "the probe",
    SightingKind.REPLY: "the answer",
    SightingKind.RESET: "the reset",
    SightingKind.ICMP_ERROR: "the ICMP error about the probe",
}


def _trace_evidence(case: Case, passing: Passing) -> Evidence:
    what = _WHAT.get(passing.kind, "a packet of the probe") if passing.kind is not None else "a packet of the probe"
    way = [passing.chain, *(each.effect[5:] for each in passing.met if each.effect.startswith(("jump ", "goto ")))]
    last = passing.met[-1]
    ended = "dropped" if passing.verdict is FilterVerdict.DROP else last.effect
    if len(passing.met) == 1 and last.handle is None:
        ended = f"no rule matched, {ended} by policy"
    through = f", by way of {' → '.join(way)}" if len(way) > 1 else ""
    return Evidence(
        kind=EvidenceKind.TRACE,
        ref=f"{_name(case, passing.netns)}: {_place(last)}",
        text=f"the kernel's own trace of {what} through {passing.table} {passing.chain} ends here: {ended}{through}",
    )


def _place(met: Met) -> str:
    if met.rule is not None:
        return place_of(met.rule)
    which = f"handle {met.handle}" if met.handle is not None else "policy"
    return f"nft {met.family} {met.table} {met.chain} {which}"


def kernel_lines(case: Case, passages: tuple[Passage, ...]) -> dict[int, tuple[str, ...]]:
    """Return, for each passage by its place, its steps with the rules that the kernel reports among them."""
    left = list(_distinct(case.correlation.told))
    lines: dict[int, list[str]] = {}
    for index, passage in enumerate(passages):
        lines[index] = []
        for step in passage.steps:
            lines[index].append(step.text)
            for passing in [each for each in left if _belongs(each, step, passage.direction)]:
                left.remove(passing)
                lines[index] += _lines(case, passing)
    for passing in left:
        # The model has no step for it: it stands where the packet was last in that namespace.
        where = [
            index
            for index, passage in enumerate(passages)
            if passage.direction is passing.direction and case.trace.point(passage.point).netns == passing.netns
        ]
        if where:
            lines[where[-1]] += _lines(case, passing)
    return {index: tuple(each) for index, each in lines.items()}


def _distinct(told: Iterable[Passing]) -> Iterator[Passing]:
    """Of several probes that met the same, the first."""
    seen = set()
    for each in told:
        key = (each.netns, each.family, each.table, each.chain, each.kind, each.met)
        if key not in seen:
            seen.add(key)
            yield each


def _belongs(passing: Passing, step: Step, direction: Direction) -> bool:
    return (
        step.kind is StepKind.HOOK
        and step.hook is not None
        and passing.direction is direction
        and step.netns == passing.netns
        and step.hook.hook is passing.hook
    )


def _lines(case: Case, passing: Passing) -> list[str]:
    name = _name(case, passing.netns)
    return [f"kernel: {name}: {_place(each)}{_owner(each)}: {each.text}: {each.effect}" for each in passing.met]


def _owner(met: Met) -> str:
    return f" [{met.rule.owner}]" if met.rule is not None and met.rule.owner != "user" else ""


# --- the reason of a drop -------------------------------------------------------------------------------------------


def telling_drops(case: Case, reason: Reason | None) -> tuple[KernelDrop, ...]:
    """Return the drops that may be of a probe that ends for a reason of the model (None: for no known one)."""
    drops = case.observation.testimony.drops if case.observation is not None else ()
    return tuple(each for each in drops if reason in _USUAL.get(each.reason or "", {reason}))


def drop_text(drop: KernelDrop) -> str:
    """Return a drop in one clause: "NETFILTER_DROP in nft_do_chain"."""
    where = f" in {drop.function}" if drop.function is not None else ""
    module = f" [{drop.module}]" if drop.module is not None else ""
    return f"{drop.reason or 'dropped'}{where}{module}"


def _dropped(case: Case, blocker: Blocker) -> Iterator[Evidence]:
    """The reasons of drops; not for a packet that is lost beyond this host, where what happens here is another's."""
    if blocker.segment is Segment.REMOTE:
        return
    reason = blocker.step.reason if blocker.step is not None else None
    for text in dict.fromkeys(drop_text(each) for each in telling_drops(case, reason)):
        yield Evidence(
            kind=EvidenceKind.DROP,
            ref="skb:kfree_skb",
            text=f"the kernel dropped a packet while the probe was sent: {text}",
        )


# --- ICMP errors, conntrack, counters -------------------------------------------------------------------------------


def _errors(case: Case) -> Iterator[Evidence]:
    """Who answered with an ICMP error, and about which probe; each once."""
    seen = set()
    for each in case.correlation.errors:
        key = (each.packet.src, each.packet.icmp_type, each.packet.icmp_code, each.nonce)
        if key not in seen:
            seen.add(key)
            yield Evidence(kind=EvidenceKind.ICMP, ref=each.point, text=answer_text(each))


def _tracked(case: Case, blocker: Blocker) -> Iterator[Evidence]:
    """The entries that the probe itself made where it stops, or on all its way: what its answer should look like."""
    if case.after is None:
        return
    step = blocker.step
    for namespace in case.after.namespaces:
        if step is not None and step.reason is not None and namespace.id != step.netns:
            continue
        for entry in rows(namespace.conntrack):
            if _is_ours(case, entry):
                yield Evidence(kind=EvidenceKind.CONNTRACK, ref=namespace.name, text=conntrack_text(entry))


def _is_ours(case: Case, entry: ConntrackEntry) -> bool:
    flow, observation = case.flow, case.observation
    if observation is None or entry.orig.proto != PROTO_NUMBER[flow.proto, flow.family]:
        return False
    if flow.proto is Proto.ICMP:
        return len(observation.secret) == 8 and entry.orig.icmp_id == int.from_bytes(observation.secret[3:5], "big")
    return entry.orig.sport in observation.sports


def _counted(case: Case, blocker: Blocker) -> Iterator[Evidence]:
    """Counters of losses that rose by exactly the probes that were sent, where the stop is."""
    if case.observation is None or case.after is None:
        return
    sent, step = len(case.observation.sent), blocker.step
    found: list[Evidence] = []
    for before in case.before.namespaces:
        after = case.after.namespace(before.id)
        if after is None or (step is not None and before.id != step.netns):
            continue
        found += [
            Evidence(kind=EvidenceKind.COUNTER, ref=before.name, text=f"{name} rose by {by} while the probe ran")
            for name, by in rises(before, after, case.flow.family)
            if by == sent
        ]
    yield from found[:_MOST_COUNTERS]


def rises(before: Namespace, after: Namespace, family: int) -> Iterator[tuple[str, int]]:
    """Yield every counter of losses of an address family that rose, with by how much."""
    if isinstance(before.counters, Values) and isinstance(after.counters, Values):
        for name, value in sorted(after.counters.values.items()):
            by = value - before.counters.values.get(name, 0)
            if by > 0 and _LOSS.search(name) and not (_CONSEQUENCE.match(name) or name.startswith(_STRANGE[family])):
                yield _shown(name, after), by
    old = {link.ifindex: link for link in rows(before.links)}
    for link in rows(after.links):
        was = old.get(link.ifindex)
        if was is None:
            continue
        for name in ("rx_dropped", "tx_dropped", "rx_errors", "tx_errors", "rx_nohandler", "tx_carrier_errors"):
            by = getattr(link.stats, name) - getattr(was.stats, name)
            if by > 0:
                yield f"{link.name} {name}", by


def _shown(name: str, namespace: Namespace) -> str:
    """Return a counter's name for people: a queue's with its device."""
    words = name.split(".")
    if words[0] != "qdisc":
        return name
    device = next((link.name for link in rows(namespace.links) if str(link.ifindex) == words[1]), f"if{words[1]}")
    return f"qdisc {words[2]} dev {device} dropped"


# --- what could not be asked ----------------------------------------------------------------------------------------


def kernel_gaps(case: Case) -> Iterator[GapView]:
    """Yield the witnesses that could not speak, each with its reason."""
    if case.observation is None:
        return
    for each in case.observation.testimony.silences:
        netns = _name(case, each.netns) if each.netns is not None else None
        yield GapView(section=each.witness, netns=netns, reason=each.reason)
