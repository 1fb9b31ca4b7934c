"""Parts of a way that are asked about on their own: the last one of a packet from outside, and a proxy's own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from nettrace.model.path import Direction, Trace
from nettrace.model.verdict import Result, Verdict

if TYPE_CHECKING:
    from nettrace.collect import Collector
    from nettrace.commands.path import Answer, Question
    from nettrace.model.snapshot import Snapshot
    from nettrace.peer.company import Company
    from probes.builder import BuildProbe


def answer_from_outside(
    question: Question,
    collector: Collector | Company,
    before: Snapshot,
    trace: Trace,
    build: BuildProbe | None,
    *,
    started: float,
) -> Answer:
    """Conclude a question from outside, with a probe of the last part of its way."""
    from nettrace.commands.path import conclude, look, plan, probe
    from nettrace.correlate import Inner, correlate, inner_of
    from nettrace.predict.relay import inner_flow

    collected = time.monotonic()
    observation, inner, planned = None, Inner(), None
    flow = inner_flow(trace, collector.host.inode)
    if flow is not None:
        seen_before, part = look(collector, flow)
        planned = plan(seen_before, part, question)
        if planned is not None:
            observation = probe(collector, part, planned, build)
            seen = correlate(part, observation)
            inner = inner_of(part, seen)
            from probes.witness.session import wait_until_closed

            wait_until_closed()
    timing = (started, collected, time.monotonic())
    answer = conclude(trace.flow, before, None, trace, None, timing=timing, inner=(observation, inner))
    if planned is None:
        return answer
    return replace(answer, dports=planned.token.dports, tunnels=planned.token.vxlan_ports)


def joined(outer: Answer, inner: Answer) -> Answer:
    """Return the answer about a way whose second half is a proxy's own connection.

    The proxy answers the asker whether or not the container does, so the way is as good as its second half. Its hops
    stand where they belong: between those there and those back; they were
    probed later, so that their times say nothing.
    """
    near, far = outer.verdict, inner.verdict
    hops = (
        *(each for each in near.hops if each.direction is Direction.FORWARD),
        *(replace(each, at_ns=None) for each in far.hops),
        *(each for each in near.hops if each.direction is Direction.REPLY),
    )
    target = f"{far.flow.dst.address}:{far.flow.dport}" if far.flow.family == 4 else f"port {far.flow.dport}"
    said = f"the engine's userland proxy takes this up, and connects to {far.flow.dst.name} ({target}) itself"
    verdict = replace(
        near,
        outcome=_worse(near, far),
        stop=far.stop,
        hops=tuple(sorted(hops, key=lambda each: each.direction is Direction.REPLY)),
        findings=(*far.findings, *(each for each in near.findings if each not in far.findings)),
        gaps=tuple(dict.fromkeys((*near.gaps, *far.gaps))),
        assumptions=tuple(dict.fromkeys((*near.assumptions, said, *far.assumptions))),
        timing=replace(near.timing, total_s=round(near.timing.total_s + far.timing.probe_s, 6)),
    )
    return replace(outer, verdict=verdict)


def _worse(near: Verdict, far: Verdict) -> Result:
    order = (Result.DELIVERED, Result.INCONCLUSIVE, Result.DEGRADED, Result.STOPPED)
    return max(near.outcome, far.outcome, key=order.index)
