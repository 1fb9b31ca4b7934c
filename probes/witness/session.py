"""The kernel's witnesses of one run: opened before the first probe, heard while it is on its way, closed after it.

None of them is needed for the run: what cannot be opened is a Silence with its reason. The rule trace is opened in
each namespace that holds nftables rules; drops are reported for the thread that opens them, which must be the one
that sends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

from nettrace.errors import NettraceError
from nettrace.model.observe import ChainOrder, KernelDrop, RuleStep, SightingKind, Silence, Testimony
from nettrace.netns import Netns
from nettrace.wire.parse import Headers, parse_headers
from nettrace.wire.token import RunToken
from probes.plan import Watch
from probes.witness.base import Lost, WitnessError, close_together
from probes.witness.drops import DropEvent, Drops, open_drops, sweep
from probes.witness.marks import marks_of
from probes.witness.nftrace import RuleEvent, RuleTrace, open_rule_trace, read_handles

__all__ = ["Witnesses", "wait_until_closed"]

#: What an ICMP error is known by again: its namespace, type and code, and what it quotes of an IP header that no
#: translation changes (RFC 792: the first 10 of the 12 bytes that are reported of it).
Quote = tuple[int, bytes, bytes]

#: More steps than a hundred probes take through a large ruleset; what comes after them is only counted as lost.
MAX_STEPS: Final = 20_000
#: Steps of packets that somebody else traces; a host where that many come is one where we cannot keep up.
MAX_FOREIGN: Final = 50_000
#: The trace clock is told to the microsecond, and tied to the epoch by two readings one after the other.
CLOCK_NS: Final = 500_000
_ETHERTYPE: Final = {4: 0x0800, 6: 0x86DD}
#: Ends of packets that are no loss: a device in promiscuous mode or a flooded bridge port got what is not for it, and
#: a reply that raw sockets had their copies of has no other taker.
_HARMLESS: Final = ("OTHERHOST", "NO_SOCKET", "SOCKET_FILTER", "NOT_SPECIFIED")


_closing: list[threading.Thread] = []


def wait_until_closed() -> None:
    """Wait until everything that was closed in this process is gone."""
    while _closing:
        _closing.pop().join()


class Witnesses:
    """All witnesses of a run. `open` first, `close` always; `testimony` when all is over."""

    def __init__(self, watches: Iterable[Watch], namespaces: Mapping[int, Netns], token: RunToken) -> None:
        self._watches = tuple(watches)
        self._namespaces = namespaces
        self._token = token
        self._traces: list[RuleTrace] = []
        self._drops: Drops | None = None
        self._steps: list[RuleStep] = []
        self._dropped: list[KernelDrop] = []
        self._order: list[ChainOrder] = []
        self._silences: dict[tuple[str, int | None, str], Silence] = {}
        self._following: set[tuple[int, int]] = set()
        self._quotes: set[Quote] = set()
        self._foreign = 0
        self._sending: list[tuple[int, int]] = []

    def open(self) -> None:
        """Open what can be opened; must be called by the thread that sends the probes."""
        marks = marks_of(self._token)
        for watch in self._watches:
            namespace = self._namespaces.get(watch.netns)
            if namespace is None:
                continue
            try:
                trace = open_rule_trace(namespace, marks, bridge=watch.bridge)
            except WitnessError as error:
                self._silent("rule-trace", str(error), watch.netns)
                continue
            self._traces.append(trace)
            if trace.bridge_refused is not None:
                self._silent("rule-trace", f"of bridge chains: {trace.bridge_refused}", watch.netns)
        try:
            sweep()
            self._drops = open_drops()
        except WitnessError as error:
            self._silent("drop-reason", str(error), None)

    def sent(self, start_ns: int, end_ns: int) -> None:
        """Note when a probe was handed to the kernel: what happens to it inside this host happens in that time.

        A thread's context is lent to whatever the kernel has to do meanwhile, other packets among it: the shorter the
        time, the fewer drops of theirs are taken for ours.
        """
        self._sending.append((start_ns - CLOCK_NS, end_ns + CLOCK_NS))

    def sources(self) -> list[RuleTrace | Drops]:
        """Return what becomes readable when the kernel says something, for a selector; each knows its `fileno`."""
        return [*self._traces, *([self._drops] if self._drops is not None else [])]

    def hear(self, source: RuleTrace | Drops) -> bool:
        """Take what a source has to say; true when it speaks of a packet that was thrown away."""
        try:
            return self._hear_rules(source) if isinstance(source, RuleTrace) else self._hear_drops(source)
        except OSError as error:
            witness = "rule-trace" if isinstance(source, RuleTrace) else "drop-reason"
            netns = source.netns if isinstance(source, RuleTrace) else None
            self._silent(witness, f"reading stopped: {error.strerror or error}", netns)
            return False

    def _hear_rules(self, source: RuleTrace) -> bool:
        lost = False
        for event in source.read():
            if isinstance(event, Lost):
                self._silent("rule-trace", "the kernel had more to report than could be read", source.netns)
                continue
            headers = parse_headers(event.network, event.transport, self._token) if event.network else None
            if not self._is_ours(event, headers):
                self._foreign += 1
            elif len(self._steps) < MAX_STEPS:
                self._steps.append(_step(event, headers))
                lost = lost or event.verdict == "drop"
            else:
                self._silent("rule-trace", f"more than {MAX_STEPS} steps were reported", source.netns)
        if self._foreign > MAX_FOREIGN:
            self._silent("rule-trace", "somebody else traces too many packets here", source.netns)
            source.close()
        return lost

    def _is_ours(self, event: RuleEvent, headers: Headers | None) -> bool:
        """Tell whether a step is one of our packets; steps without headers go with those before them.

        A packet that was cloned on its way has another id from there on, and must be known by its headers again.
        """
        key = (event.netns, event.id)
        if headers is None:
            return key in self._following
        quote = _quote(event, headers)
        if event.marked and quote is not None:
            self._quotes.add(quote)
        if event.marked or headers.proven or quote in self._quotes:
            self._following.add(key)
            return True
        self._following.discard(key)
        return False

    def _hear_drops(self, source: Drops) -> bool:
        lost = False
        for event in source.read():
            if isinstance(event, Lost):
                self._silent("drop-reason", "the kernel had more to report than could be read", None)
            elif self._concerns_us(event):
                self._dropped.append(
                    KernelDrop(
                        at_ns=event.at_ns,
                        function=event.function,
                        reason=event.reason,
                        module=event.module,
                        protocol=event.protocol,
                    )
                )
                lost = lost or event.reason not in _HARMLESS
        return lost

    def _concerns_us(self, event: DropEvent) -> bool:
        """Tell whether a drop can be of one of the probes: an IP packet of their family, while one was being sent."""
        if event.protocol != _ETHERTYPE[self._token.family]:
            return False
        return any(start <= event.at_ns <= end for start, end in self._sending)

    def finish(self) -> None:
        """Hear what is left, and ask how the rules that were met stand in their chains."""
        for source in self.sources():
            self.hear(source)
        for watch in self._watches:
            met = {(each.family, each.table, each.chain) for each in self._steps if each.netns == watch.netns}
            namespace = self._namespaces.get(watch.netns)
            if not watch.order or not met or namespace is None:
                continue
            try:
                handles = read_handles(namespace)
            except (WitnessError, NettraceError) as error:
                self._silent("rule-trace", str(error), watch.netns)
                continue
            for family, table, chain in sorted(met & handles.keys()):
                self._order.append(
                    ChainOrder(
                        netns=watch.netns,
                        family=family,
                        table=table,
                        chain=chain,
                        handles=handles[family, table, chain],
                    )
                )

    def close(self) -> None:
        """Close everything; closing twice is harmless.

        The kernel takes its time over both (RCU grace periods): the tables are gone when this returns, the tracing
        instance is when the process ends, or `wait_until_closed` returns.
        """
        drops, self._drops = self._drops, None
        if drops is not None:
            closing = threading.Thread(target=drops.close, name="witness-close")
            _closing.append(closing)
            closing.start()
        traces, self._traces = self._traces, []
        close_together(traces)

    def testimony(self) -> Testimony:
        """Return what was said."""
        return Testimony(
            rules=tuple(self._steps),
            drops=tuple(self._dropped),
            order=tuple(self._order),
            silences=tuple(self._silences.values()),
        )

    def _silent(self, witness: str, reason: str, netns: int | None) -> None:
        self._silences.setdefault((witness, netns, reason), Silence(witness=witness, reason=reason, netns=netns))


def _quote(event: RuleEvent, headers: Headers) -> Quote | None:
    if headers.kind is not SightingKind.ICMP_ERROR:
        return None
    return event.netns, event.transport[:2], event.transport[8:18]


def _step(event: RuleEvent, headers: Headers | None) -> RuleStep:
    return RuleStep(
        netns=event.netns,
        skb=event.id,
        family=event.family,
        table=event.table,
        chain=event.chain,
        event=event.kind,
        verdict=event.verdict,
        handle=event.handle,
        target=event.target,
        packet=headers.packet if headers is not None else None,
        kind=headers.kind if headers is not None else None,
        nonce=headers.nonce if headers is not None else None,
        iif=event.iif,
        oif=event.oif,
    )
