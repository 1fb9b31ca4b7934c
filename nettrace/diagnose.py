"""From a case to a verdict: run every rule, keep the cause of each stop, prove the remedies by predicting again.

Pure. The outcome is never better than the evidence: delivered needs the packet at the destination and an answer at
the source; silence counts only where a capture was proven open; what could not be read is a gap.
"""

from __future__ import annotations

import msgspec

from nettrace.correlate import Blocker, Passage, correlate
from nettrace.model.base import IPAddress
from nettrace.model.flow import EndpointKind, Flow, FlowEnd
from nettrace.model.observe import Blind, SightingKind
from nettrace.model.path import Direction, Leg, LegEnd, Outcome, Reason, Trace
from nettrace.model.verdict import (
    Basis,
    Evidence,
    Finding,
    FlowEndView,
    FlowView,
    GapView,
    Hop,
    HostView,
    ObservedSight,
    PacketView,
    Remedy,
    Result,
    Severity,
    Stop,
    StopHook,
    Timing,
    Tool,
    Verdict,
    Verified,
)
from nettrace.predict import predict
from nettrace.rules import RULES
from nettrace.rules.base import Fired, Hit, Rule, Unknown
from nettrace.rules.case import Case
from nettrace.rules.ends import notes
from nettrace.rules.first_leg import NAME, asked_flow, lookup_view, names_first, settles, stop_without_blocker
from nettrace.rules.idiom import in_words_of
from nettrace.rules.kernel_facts import dropped_by, kernel_evidence, kernel_gaps, kernel_lines
from nettrace.rules.outside_facts import assumed, out_of_reach

#: How often the way is walked again with all mended that was found.
_DEEPEST = 4
_TOO_BIG = (Reason.TOO_BIG, Reason.FRAME_TOO_BIG)
_ORDER = {Severity.BLOCKING: 0, Severity.DEGRADING: 1, Severity.WARNING: 2, Severity.INFO: 3}


class _Ranked(msgspec.Struct, frozen=True):
    """A hit with its rule, and its place among the stops."""

    position: int
    rule: Rule
    hit: Hit

    @property
    def severity(self) -> Severity:
        return self.hit.severity or self.rule.severity

    @property
    def rank(self) -> int:
        return self.hit.rank if self.hit.rank is not None else self.rule.rank


def diagnose(case: Case, *, timing: Timing, version: str) -> Verdict:
    """Return the verdict of a case."""
    ranked = _without_consequences(case, _run_rules(case))
    ranked = _in_order([*ranked, *_behind(case, ranked)])
    causes = [each for each in ranked if each.hit.blocker is not None]
    findings = names_first(case, tuple(_finding(case, each, causes) for each in ranked))
    named = settles(findings)
    outcome = Result.STOPPED if named else _outcome(case, ranked)
    stop = _stop(case, causes) if outcome in (Result.STOPPED, Result.DEGRADED) else None
    if named and (stop is None or findings[0].code == NAME):
        stop = stop_without_blocker(case, findings)
    return Verdict(
        outcome=outcome,
        flow=_flow_view(case, asked_flow(case)),
        stop=stop,
        hops=() if named and findings[0].code == NAME else _hops(case),
        findings=findings,
        gaps=_gaps(case, outcome),
        assumptions=(*assumed(case), *(f"{each.rule.text}: {each.reason}" for each in case.trace.assumptions)),
        timing=timing,
        tool=Tool(version=version),
        host=HostView(kernel=case.before.host.kernel, engine=case.before.host.engine),
        lookup=lookup_view(case, _flow_view(case, case.flow)) or msgspec.UNSET,
        notes=notes(case, asked_flow(case)) or msgspec.UNSET,
    )


def _run_rules(case: Case) -> list[_Ranked]:
    """Run all rules; of several that explain one stop, keep the lowest rank: the others are its effects.

    Where the first stop has no explanation for want of a table that was not read, those behind it are no causes.
    """
    found: list[_Ranked] = []
    doubtful = False
    for rule in RULES:
        result = rule.check(case)
        doubtful = doubtful or isinstance(result, Unknown)
        if isinstance(result, Fired):
            found.extend(_Ranked(_position(case, hit.blocker), rule, hit) for hit in result.hits)
    if doubtful and not any(each.position == 0 for each in found):
        found = [each for each in found if each.hit.blocker is None]
    best: dict[int, int] = {}
    for each in found:
        if each.hit.blocker is not None:
            best[each.position] = min(best.get(each.position, each.rank), each.rank)
    kept = [each for each in found if each.hit.blocker is None or each.rank == best[each.position]]
    kept.sort(key=lambda each: (_ORDER[each.severity] > 1, each.position, each.rank, each.rule.code))
    unique: list[_Ranked] = []
    for each in kept:
        if not any((each.rule.code, each.hit.title) == (other.rule.code, other.hit.title) for other in unique):
            unique.append(each)
    return unique


def _without_consequences(case: Case, ranked: list[_Ranked]) -> list[_Ranked]:
    """Leave out the causes whose stop is gone once those before are mended: they were effects of the same fault."""
    causes = [each for each in ranked if each.hit.blocker is not None and _ORDER[each.severity] <= 1]
    snapshot, gone = case.before, []
    before: _Ranked | None = None
    for each in causes:
        later = before is not None and each.position > before.position
        if later and not _stops_still(each, predict(snapshot, case.flow)):
            gone.append(each)
            continue
        if each.hit.mend.change is None:
            break
        snapshot, before = each.hit.mend.change(snapshot), each
    return [each for each in ranked if each not in gone]


def _behind(case: Case, ranked: list[_Ranked], depth: int = 0) -> list[_Ranked]:
    """Walk on with everything mended that was found, and return what stops the flow then, by the model alone.

    Where a stop hides what lies behind it (without a route there is no device to go on to), this shows it.
    """
    causes = [each for each in ranked if each.hit.blocker is not None and _ORDER[each.severity] <= 1]
    changes = [each.hit.mend.change for each in causes]
    if not causes or depth >= _DEEPEST or any(change is None for change in changes):
        return []
    snapshot = case.before
    for change in changes:
        snapshot = change(snapshot) if change is not None else snapshot
    trace = predict(snapshot, case.flow)
    ends = [leg.passing for leg in (trace.forward, trace.reply) if leg is not None]
    unrouted = trace.forward.passing is LegEnd.LEFT
    if _delivers(trace.forward, trace.reply) or LegEnd.NEEDS in ends or (LegEnd.UNKNOWN in ends and not unrouted):
        return []
    mended = Case(
        flow=case.flow,
        before=snapshot,
        after=None,
        trace=trace,
        correlation=correlate(trace, None),
        observation=None,
    )
    known = {(each.rule.code, each.hit.title) for each in ranked}
    # Further rules may drop; of any other fault, what comes after its own remedy is part of the same.
    told = {each.rule.code for each in ranked if not each.rule.code.startswith("filter.")}
    first = len(case.blockers) + 10 * depth
    found = [
        _Ranked(first + each.position, each.rule, each.hit)
        for each in _without_consequences(mended, _run_rules(mended))
        if each.hit.blocker is not None and _ORDER[each.severity] <= 1
        if (each.rule.code, each.hit.title) not in known and each.rule.code not in told
    ]
    return [*found, *_behind(mended, found, depth + 1)]


def _in_order(ranked: list[_Ranked]) -> list[_Ranked]:
    """Put the findings that stop or degrade first, in the order the packet meets them."""
    return sorted(ranked, key=lambda each: _ORDER[each.severity] > 1)


def _stops_still(each: _Ranked, trace: Trace) -> bool:
    step = each.hit.blocker.step if each.hit.blocker is not None else None
    if step is None or step.outcome is not Outcome.DROP:
        return True
    place = (step.reason, step.netns, step.device)
    return any(
        (again.reason, again.netns, again.device) == place and again.outcome is Outcome.DROP
        for leg in (trace.forward, trace.reply)
        if leg is not None
        for again in (*leg.steps, *leg.beyond)
    )


def _delivers(forward: Leg, reply: Leg | None) -> bool:
    return forward.end in (LegEnd.ARRIVED, LegEnd.LEFT) and reply is not None and reply.end is LegEnd.ARRIVED


def _position(case: Case, blocker: Blocker | None) -> int:
    if blocker is None:
        return len(case.blockers)
    return next((index for index, each in enumerate(case.blockers) if each is blocker), len(case.blockers))


# --- outcome --------------------------------------------------------------------------------------------------------


def _outcome(case: Case, ranked: list[_Ranked]) -> Result:
    correlation = case.correlation
    stopping = [each for each in ranked if each.hit.blocker is not None and _ORDER[each.severity] <= 1]
    if correlation.probed and correlation.reply_seen and not case.blockers:
        ends_here = case.flow.dst.netns is not None
        if correlation.lost:
            return Result.DEGRADED
        return Result.DELIVERED if correlation.forward_seen or not ends_here else Result.INCONCLUSIVE
    if not correlation.probed and not case.blockers:
        predicted = _predicted_outcome(case)
        # Without a packet from the source itself, delivery is not proven, whatever its last part showed.
        unproven = correlation.inner is not None and predicted is Result.DELIVERED
        return Result.INCONCLUSIVE if unproven else predicted
    if stopping:
        explained = {each.position for each in stopping}
        mild = all(each.severity is Severity.DEGRADING for each in stopping)
        # Of a packet that is too big for one device, what it would meet at the next is no further fault.
        rest = [each for index, each in enumerate(case.blockers) if index not in explained]
        mild = mild and 0 in explained and all(each.step is not None and each.step.reason in _TOO_BIG for each in rest)
        return Result.DEGRADED if mild else Result.STOPPED
    if any(_proven(case, each) for each in case.blockers) or (correlation.probed and _settled_by_wire(case)):
        return Result.STOPPED
    return Result.INCONCLUSIVE


def _proven(case: Case, blocker: Blocker) -> bool:
    """Tell whether a stop stands without a finding that names its cause: the model's own step, not refuted."""
    step = blocker.step
    if step is None or step.outcome is not Outcome.DROP:
        return False
    if case.correlation.probed:
        # Observed: the kernel itself has reported this very drop.
        return blocker.basis is not Basis.PREDICTED
    # What lies beyond a decision that could not be told is a supposition.
    leg = case.trace.forward if blocker.direction is Direction.FORWARD else case.trace.reply
    return case.trace.forward.end is not LegEnd.UNKNOWN and leg is not None and leg.end is not LegEnd.UNKNOWN


def _predicted_outcome(case: Case) -> Result:
    forward, reply = case.trace.forward, case.trace.reply
    if forward.end is LegEnd.UNKNOWN or forward.end is LegEnd.NEEDS or reply is None:
        return Result.INCONCLUSIVE
    if _strayed(case):
        return Result.INCONCLUSIVE
    if _delivers(forward, reply):
        return Result.DELIVERED
    return Result.STOPPED if LegEnd.DROPPED in (forward.end, reply.end) else Result.INCONCLUSIVE


def _strayed(case: Case) -> bool:
    """Tell whether the packet leaves this host although the container that it is for is on it."""
    inside = case.flow.dst.netns
    ours = inside is not None and case.flow.dst.kind is EndpointKind.CONTAINER and inside != case.world.host
    return ours and case.trace.forward.end is LegEnd.LEFT and case.world.same_host(inside or 0, case.world.host)


def _settled_by_wire(case: Case) -> bool:
    """Tell whether the captures alone prove a stop: the packet was sent, and an open capture did not see it."""
    if case.correlation.errno is not None:
        return True
    if not case.blockers:
        return False
    missed = False
    for direction in (case.blockers[0].direction, Direction.REPLY):
        passages = [each for each in case.correlation.passages if each.direction is direction]
        seen = [index for index, each in enumerate(passages) if each.observed is ObservedSight.SEEN]
        behind = passages[seen[-1] + 1 :] if seen else passages
        not_seen = any(each.observed is ObservedSight.NOT_SEEN for each in behind)
        blind = any(each.observed is ObservedSight.BLIND for each in behind)
        # Of answers, one open capture on their way tells enough; where the packet itself stops, all must be open.
        if blind and (direction is case.blockers[0].direction or not not_seen):
            return False
        missed = missed or any(each.observed is ObservedSight.NOT_SEEN and not each.beyond for each in behind)
    return missed


# --- stop and hops --------------------------------------------------------------------------------------------------


def _stop(case: Case, causes: list[_Ranked]) -> Stop | None:
    if not case.blockers:
        return None
    hit = causes[0].hit if causes else None
    blocker = hit.blocker if hit is not None and hit.blocker is not None else case.blockers[0]
    step = blocker.step
    direction = hit.direction if hit is not None and hit.direction is not None else blocker.direction
    after, before = _around(case, blocker, direction)
    hook = None
    if step is not None and step.hook is not None and step.hook.decided_by is not None:
        ref = step.hook.decided_by
        hook = StopHook(hook=step.hook.hook.value, table=ref.table, chain=ref.chain)
    netns = step.netns if step is not None else None
    device = step.device if step is not None else None
    if hit is not None and hit.device is not None:
        netns, device = hit.netns, hit.device
    return Stop(
        direction=direction,
        segment=hit.segment if hit is not None and hit.segment is not None else blocker.segment,
        after=after,
        before=before,
        netns=netns or None,
        device=device,
        hook=hook,
    )


def _around(case: Case, blocker: Blocker, direction: Direction) -> tuple[str | None, str | None]:
    """Return the last point that saw the packet and the first that did not; the model's where nobody listened."""
    if direction is not blocker.direction:
        forward = [each.point for each in case.correlation.passages if each.direction is direction]
        return (forward[-1] if forward else None), None
    passages = [each for each in case.correlation.passages if each.direction is direction]
    seen = [each.point for each in passages if each.observed is ObservedSight.SEEN]
    missed = [each.point for each in passages if each.observed is ObservedSight.NOT_SEEN]
    if not case.correlation.probed:
        return blocker.after, blocker.before
    return (seen[-1] if seen else None), (missed[0] if missed else blocker.before)


def _hops(case: Case) -> tuple[Hop, ...]:
    """Return the points in travel order, with the decisions that led to each, and the rules that the kernel names."""
    passages = case.correlation.passages
    lines = kernel_lines(case, passages)
    return tuple(_hop(case, passage, lines[index]) for index, passage in enumerate(passages))


def _hop(case: Case, passage: Passage, steps: tuple[str, ...]) -> Hop:
    point = case.trace.point(passage.point)
    packet = passage.sighting.packet if passage.sighting is not None else passage.expected
    shown = (
        PacketView(
            src=packet.src,
            dst=packet.dst,
            sport=packet.sport,
            dport=packet.dport,
            ttl=packet.ttl,
            length=packet.length,
        )
        if packet is not None
        else None
    )
    return Hop(
        direction=passage.direction,
        point=passage.point,
        netns=point.netns,
        device=point.device,
        ifindex=point.ifindex,
        predicted=passage.predicted,
        observed=passage.observed,
        agreement=passage.agreement,
        packet=shown,
        at_ns=passage.sighting.at_ns if passage.sighting is not None else None,
        steps=steps,
    )


# --- findings -------------------------------------------------------------------------------------------------------


def _finding(case: Case, each: _Ranked, causes: list[_Ranked]) -> Finding:
    hit = each.hit
    said: tuple[Evidence, ...] = ()
    if hit.blocker is not None:
        said = kernel_evidence(case, hit.blocker, first=each.position == 0, known=hit.evidence)
    mend = in_words_of(case.engine.name if case.engine is not None else None, hit.mend)
    return Finding(
        code=each.rule.code,
        severity=each.severity,
        title=hit.title,
        explanation=hit.explanation,
        basis=hit.basis,
        at=hit.at,
        evidence=(*hit.evidence, *said),
        remedy=Remedy(
            summary=_on_its_host(case, hit, mend.summary),
            commands=mend.commands,
            verified=_verify(case, each, causes),
        ),
    )


def _on_its_host(case: Case, hit: Hit, summary: str) -> str:
    """Return what is to be done, and where, if that is another host."""
    step = hit.blocker.step if hit.blocker is not None else None
    netns = hit.netns if hit.netns is not None else step.netns if step is not None else None
    peer = case.before.peer_of(netns) if netns is not None else None
    return f"On {peer.name}: {summary}" if peer is not None else summary


def _verify(case: Case, each: _Ranked, causes: list[_Ranked]) -> Verified:
    """Apply the remedy, and those of the stops before it, to a copy, and predict again.

    "yes" when the flow is then delivered, or when this stop is gone and only others that have findings are left.
    """
    change = each.hit.mend.change
    if change is None:
        return Verified.UNVERIFIABLE
    snapshot = case.before
    for other in causes:
        if other.hit.mend.change is not None:
            snapshot = other.hit.mend.change(snapshot)
    if each not in causes:
        snapshot = change(snapshot)
    trace = predict(snapshot, case.flow)
    reply = trace.reply
    if _delivers(trace.forward, reply):
        return Verified.YES
    unknown = any(step.outcome is Outcome.UNKNOWN for leg in (trace.forward, reply) if leg for step in leg.steps)
    unread = any(leg.end is LegEnd.NEEDS for leg in (trace.forward, reply) if leg is not None)
    if unknown or unread or any(other.hit.mend.change is None for other in causes):
        return Verified.UNVERIFIABLE
    return Verified.NO


# --- gaps -----------------------------------------------------------------------------------------------------------


def _gaps(case: Case, outcome: Result) -> tuple[GapView, ...]:
    gaps: dict[tuple[str, str | None, str], GapView] = {}
    for gap in (*case.before.gaps, *(case.after.gaps if case.after is not None else ()), *case.trace.gaps):
        gaps[gap.section, gap.netns, gap.reason] = GapView(section=gap.section, netns=gap.netns, reason=gap.reason)
    for capture in case.observation.captures if case.observation is not None else ():
        if isinstance(capture, Blind):
            view = GapView(section="capture", netns=capture.point, reason=capture.reason)
            gaps["capture", capture.point, capture.reason] = view
    for view in kernel_gaps(case):
        gaps[view.section, view.netns, view.reason] = view
    if case.correlation.inner is not None:
        view = out_of_reach(case, case.correlation.inner)
        gaps[view.section, view.netns, view.reason] = view
    if case.correlation.lost:
        view = _losses(case)
        gaps[view.section, view.netns, view.reason] = view
    if outcome is Result.INCONCLUSIVE:
        for view in _why_inconclusive(case):
            gaps[view.section, view.netns, view.reason] = view
    return tuple(gaps.values())


def _losses(case: Case) -> GapView:
    """Say how many probes were answered, and how far the others came."""
    assert case.observation is not None
    lost, sent = case.correlation.lost, len(case.observation.sent)
    kinds = {SightingKind.PROBE: Direction.FORWARD, SightingKind.REPLY: Direction.REPLY}
    seen = {(kinds.get(each.kind), each.point) for each in case.observation.sightings if each.nonce in lost}
    passages = [each for each in case.correlation.passages if (each.direction, each.point) in seen]
    last = passages[-1].point if passages else None
    where = f"; the others were last seen at {last}" if last is not None else ""
    where += "".join(f"; {text}" for text in dropped_by(case, lost))
    return GapView(section="probe", netns=None, reason=f"{sent - len(lost)} of {sent} probes were answered{where}")


def _why_inconclusive(case: Case) -> list[GapView]:
    """Say what keeps the answer open."""
    trace, correlation = case.trace, case.correlation
    found = []
    for leg in (trace.forward, trace.reply):
        for step in leg.steps if leg is not None else ():
            if step.outcome is Outcome.UNKNOWN:
                found.append(GapView(section="model", netns=None, reason=step.text))
    if not correlation.probed and _strayed(case):
        reason = f"the packet leaves this host, and {case.flow.dst.name} is a container on it"
        found.append(GapView(section="model", netns=None, reason=reason))
    back = [each for each in correlation.passages if each.direction is Direction.REPLY]
    answered = any(each.observed is ObservedSight.SEEN for each in back)
    if correlation.probed and correlation.forward_seen and not correlation.reply_seen and not answered:
        found.append(
            GapView(
                section="probe",
                netns=None,
                reason="the packet was seen at the destination; whoever took it sent no answer, as UDP services may",
            )
        )
    if trace.forward.end is LegEnd.NEEDS:
        found.append(GapView(section="snapshot", netns=None, reason="a namespace on the way could not be read"))
    return found


# --- the question ---------------------------------------------------------------------------------------------------


def _flow_view(case: Case, flow: Flow) -> FlowView:
    first = next((step.packet for step in case.trace.forward.steps if not step.packet.src.is_unspecified), None)
    source = first.src if first is not None and flow.src == case.flow.src else flow.src.address
    return FlowView(
        src=_end_view(flow.src, source),
        dst=_end_view(flow.dst, flow.dst.address),
        proto=flow.proto,
        sport=flow.sport,
        dport=flow.dport,
        size=flow.size,
        family=flow.family,
    )


def _end_view(end: FlowEnd, address: IPAddress | None) -> FlowEndView:
    kind = EndpointKind(end.kind)
    return FlowEndView(kind=kind, name=end.name, id=end.id, netns=end.netns, address=address)


__all__ = ["diagnose"]
