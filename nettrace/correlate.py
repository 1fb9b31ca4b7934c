"""Put the model's way and the packets' way side by side, point by point, and find where the flow really ends.

Pure: Trace × Observation × Passings → Correlation. "Not seen" counts only at a capture that was proven open. Where the
kernel itself says which rule dropped a packet, that stands, whatever the model holds of it.
"""

from __future__ import annotations

import msgspec

from nettrace.model.base import Model
from nettrace.model.flow import Packet, Proto
from nettrace.model.netfilter import FilterVerdict, HookResult, Tracking
from nettrace.model.observe import Blind, Observation, Open, Sighting, SightingKind, Way
from nettrace.model.path import Direction, Leg, LegEnd, Outcome, Reason, Segment, Step, StepKind, Trace
from nettrace.model.verdict import Agreement, Basis, ObservedSight, PredictedSight
from nettrace.testimony import Passing

#: What kinds of sighting belong to which half of the conversation.
KINDS = {
    Direction.FORWARD: (SightingKind.PROBE,),
    Direction.REPLY: (SightingKind.REPLY, SightingKind.RESET),
}


#: States of neighbour entries that nobody asks about again.
FIXED = ("PERMANENT", "NOARP")

#: ICMP types that mean the packet was given up: unreachable, too big, time exceeded, parameter problem. A redirect is
#: advice; the packet goes on.
ERROR_TYPES = {4: (3, 11, 12), 6: (1, 2, 3, 4)}


class Passage(Model):
    """One point of one leg, in travel order: what the model expects there, and what was seen.

    `sighting` is the first packet seen there. `beyond` is true for points that lie behind the model's stop. `steps`
    are the model's decisions since the point before.
    """

    direction: Direction
    point: str
    predicted: PredictedSight
    observed: ObservedSight
    agreement: Agreement
    expected: Packet | None = None
    sighting: Sighting | None = None
    beyond: bool = False
    steps: tuple[Step, ...] = ()


class Blocker(Model):
    """Something that stops the flow: the model's step, or (step None) a gap on the wire that the model has no step for.

    `after` is the last point where the packet was, `before` the first where it was not. The first blocker is the
    cause; those that follow were found by walking on.
    """

    direction: Direction
    segment: Segment
    basis: Basis
    step: Step | None = None
    after: str | None = None
    before: str | None = None


class Inner(Model):
    """What a probe of the last part of the way showed: its first packet, whether it arrived, and was answered.

    `packet` is None when nothing of the way could be probed at all.
    """

    packet: Packet | None = None
    arrived: bool = False
    answered: bool = False


class Correlation(Model):
    """What really happened. `forward_seen` and `reply_seen`: proven on the wire at the end of that leg.

    `model_stands` is false when the wire contradicts the model. `errno` is what the kernel said when it refused to
    send. `errors` are ICMP errors about the probe, `resets` TCP resets, in order of sight. `lost` are the numbers of
    the probes that were not answered although others were. `told` are the kernel's reports. `inner` is what a probe
    from the host itself showed, for a question whose own source is out of reach. `stranger` is an answer that came
    from another address or port than was asked, when no other came.
    """

    passages: tuple[Passage, ...]
    blockers: tuple[Blocker, ...]
    probed: bool
    forward_seen: bool = False
    reply_seen: bool = False
    model_stands: bool = True
    silent: bool = False
    errno: int | None = None
    errors: tuple[Sighting, ...] = ()
    resets: tuple[Sighting, ...] = ()
    arp_unanswered: tuple[Sighting, ...] = ()
    lost: tuple[int, ...] = ()
    told: tuple[Passing, ...] = ()
    inner: Inner | None = None
    stranger: Sighting | None = None


def correlate(trace: Trace, observation: Observation | None, told: tuple[Passing, ...] = ()) -> Correlation:
    """Compare a trace with what was observed; without an observation the model stands alone.

    `told` is what the kernel reported of the rules that the packets met.
    """
    forward = _passages(trace.forward, observation)
    reply = _passages(trace.reply, observation, supposed=_reply_prospect(trace)) if trace.reply is not None else ()
    if observation is None:
        return Correlation(passages=(*forward, *reply), blockers=_predicted_blockers(trace), probed=False)
    forward = _with_strays(forward, observation, Direction.FORWARD)
    reply = _with_strays(reply, observation, Direction.REPLY)
    errno = next((sent.errno for sent in observation.sent if sent.errno is not None), None)
    sightings = observation.sightings
    errors = tuple(
        each
        for each in sightings
        if each.kind is SightingKind.ICMP_ERROR and each.packet.icmp_type in ERROR_TYPES[each.packet.family]
    )
    resets = tuple(each for each in sightings if each.kind is SightingKind.RESET)
    arrived = _arrived(trace, forward, observation)
    returned, stranger = _returned(trace, observation)
    blockers, stands = _observed_blockers(
        trace,
        forward,
        reply,
        observation,
        arrived=arrived,
        returned=returned,
        errno=errno,
        refused=bool(errors or resets),
    )
    if stranger is not None:
        # It came all the way, and the socket that asked is connected to another address (ip_route_connect).
        stop = Blocker(direction=Direction.REPLY, segment=Segment.SOURCE, basis=Basis.OBSERVED, after=stranger.point)
        blockers, stands = (stop,), True
    elif not returned:
        blockers, stands = _with_the_kernels_word(trace, blockers, stands, told, forward, reply, arrived=arrived)
    return Correlation(
        passages=(*forward, *reply),
        blockers=blockers,
        probed=bool(observation.sent),
        forward_seen=arrived,
        reply_seen=returned,
        model_stands=stands,
        silent=not returned and not errors and not resets,
        errno=errno,
        errors=errors,
        resets=resets,
        arp_unanswered=_unanswered(trace, sightings),
        lost=_lost(observation) if returned else (),
        told=told,
        stranger=stranger,
    )


def inner_of(part: Trace, seen: Correlation) -> Inner:
    """Return what a probe of the last part of a way showed, by that part's own trace and correlation."""
    sent = [each.packet for each in part.forward.steps if not each.packet.src.is_unspecified]
    return Inner(packet=sent[0] if sent else None, arrived=seen.forward_seen, answered=seen.reply_seen)


def beside(correlation: Correlation, trace: Trace, observation: Observation | None, inner: Inner) -> Correlation:
    """Put beside a predicted way what a probe of its last part showed; the stops stay the model's."""
    if observation is None:
        return msgspec.structs.replace(correlation, inner=inner)
    passages = []
    for each in correlation.passages:
        sighting, observed = _sight(each.point, each.direction, observation)
        if sighting is None:
            passages.append(each)
            continue
        seen = msgspec.structs.replace(
            each, sighting=sighting, observed=observed, agreement=_agreement(each.predicted, observed)
        )
        passages.append(seen)
    return msgspec.structs.replace(correlation, passages=tuple(passages), inner=inner)


def _reply_prospect(trace: Trace) -> PredictedSight:
    """Return what the forward leg's end means for the answer: it comes, it cannot come, or nobody can tell."""
    if trace.forward.end in (LegEnd.ARRIVED, LegEnd.LEFT):
        return PredictedSight.SEEN
    last = trace.forward.steps[-1] if trace.forward.steps else None
    if last is not None and last.reason is Reason.PORT_HELD:
        # A handshake that nobody takes up, unless the engine keeps even that from happening.
        return PredictedSight.UNKNOWN
    if last is not None and last.reason is Reason.NOT_LISTENING and trace.flow.proto is Proto.TCP:
        return PredictedSight.SEEN
    return PredictedSight.NOT_SEEN if trace.forward.end is LegEnd.DROPPED else PredictedSight.UNKNOWN


def _passages(
    leg: Leg, observation: Observation | None, supposed: PredictedSight = PredictedSight.SEEN
) -> tuple[Passage, ...]:
    """List the points of a leg in travel order, each once; `supposed` is the best that can be expected of the leg."""
    passages: list[Passage] = []
    pending: list[Step] = []
    unknown = stopped = False
    for beyond, steps in ((False, leg.steps), (True, leg.beyond)):
        for step in steps:
            pending.append(step)
            # What lies behind a program that was not read is no further than any other point.
            passes = step.outcome in (Outcome.PASS, Outcome.ARRIVED) or _is_program(step)
            stopped = stopped or not passes
            if step.outcome is Outcome.UNKNOWN:
                unknown = True
            if step.point is None or any(each.point == step.point for each in passages):
                continue
            stopped_here = step.outcome is Outcome.DROP
            predicted = supposed
            if beyond or stopped_here:
                predicted = PredictedSight.NOT_SEEN
            if unknown and leg.end is LegEnd.UNKNOWN:
                predicted = PredictedSight.UNKNOWN
            sighting, observed = _sight(step.point, leg.direction, observation)
            passages.append(
                Passage(
                    direction=leg.direction,
                    point=step.point,
                    predicted=predicted,
                    observed=observed,
                    agreement=_agreement(predicted, observed),
                    expected=step.packet,
                    sighting=sighting,
                    beyond=stopped or supposed is PredictedSight.NOT_SEEN,
                    steps=tuple(pending),
                )
            )
            pending = []
    return tuple(passages)


def _is_program(step: Step) -> bool:
    return step.kind is StepKind.TC and step.outcome is Outcome.UNKNOWN


def _sight(point: str, direction: Direction, observation: Observation | None) -> tuple[Sighting | None, ObservedSight]:
    if observation is None:
        return None, ObservedSight.NOT_PROBED
    for sighting in observation.sightings:
        if sighting.point == point and sighting.kind in KINDS[direction]:
            return sighting, ObservedSight.SEEN
    capture = observation.capture(point)
    if isinstance(capture, Blind):
        return None, ObservedSight.BLIND
    if isinstance(capture, Open) and observation.sent:
        return None, ObservedSight.NOT_SEEN
    return None, ObservedSight.NOT_PROBED


def _agreement(predicted: PredictedSight, observed: ObservedSight) -> Agreement:
    if predicted is PredictedSight.UNKNOWN or observed not in (ObservedSight.SEEN, ObservedSight.NOT_SEEN):
        return Agreement.UNCHECKED
    if (predicted is PredictedSight.SEEN) == (observed is ObservedSight.SEEN):
        return Agreement.AGREE
    return Agreement.MODEL_ONLY if predicted is PredictedSight.SEEN else Agreement.WIRE_ONLY


def _with_strays(passages: tuple[Passage, ...], observation: Observation, direction: Direction) -> tuple[Passage, ...]:
    """Add points where packets of this half were seen although the model leads none there."""
    known = {passage.point for passage in passages}
    strays: list[Passage] = []
    for sighting in observation.sightings:
        if sighting.kind in KINDS[direction] and sighting.point not in known:
            known.add(sighting.point)
            strays.append(
                Passage(
                    direction=direction,
                    point=sighting.point,
                    predicted=PredictedSight.NOT_SEEN,
                    observed=ObservedSight.SEEN,
                    agreement=Agreement.WIRE_ONLY,
                    sighting=sighting,
                    beyond=True,
                )
            )
    if not strays:
        return passages
    # Travel order on the wire is the order of sight; points never seen keep their place behind the model's order.
    merged = [*passages, *strays]
    order = {id(each): index for index, each in enumerate(merged)}
    seen_at = [each.sighting.at_ns for each in merged if each.sighting is not None]
    last = max(seen_at, default=0)
    return tuple(
        sorted(merged, key=lambda each: (each.sighting.at_ns if each.sighting is not None else last, order[id(each)]))
    )


def _arrived(trace: Trace, forward: tuple[Passage, ...], observation: Observation) -> bool:
    """Tell whether the wire shows the packet at the end of the forward leg, as far as this host can see."""
    if not forward:
        return False
    last = trace.forward.steps[-1] if trace.forward.steps else None
    if last is not None and last.reason is Reason.PORT_NO_HAIRPIN:
        # It would have to go back by the port that it came by: the capture there saw it on its way in.
        return False
    inside = trace.flow.dst.netns
    steps = (*trace.forward.steps, *trace.forward.beyond)
    end = next((each for each in reversed(steps) if each.kind is StepKind.LOCAL), None)
    if end is not None and inside is not None:
        # Translated on its way, it ends in another namespace than that of the address that was asked.
        inside = end.netns
        if inside == trace.flow.src.netns != trace.flow.dst.netns:
            # Turned back to its sender: what counts there is that it came in.
            back = {each.id for each in trace.points if each.netns == inside}
            return any(
                each.kind is SightingKind.PROBE and each.point in back and each.way is Way.IN and _taken(trace, each)
                for each in observation.sightings
            )
    elif trace.forward.end is LegEnd.DROPPED and trace.forward.steps[-1].netns == inside and inside is not None:
        # What stops it there is behind every point that it passes there.
        return False
    ends = [passage for passage in forward if inside is None or trace.point(passage.point).netns == inside]
    target = ends[-1] if ends else forward[-1]
    if target.sighting is None or not _taken(trace, target.sighting):
        return False
    # Behind the last device there is still its own input path: what that says counts, where it was listened to.
    return observation.took(_where_it_ends(trace), SightingKind.PROBE) is not False


def _taken(trace: Trace, sighting: Sighting) -> bool:
    """Tell whether the device that heard a frame also takes it: captures show frames for other MAC addresses too."""
    mac = trace.point(sighting.point).mac
    target = sighting.packet.dst_mac
    if sighting.way is Way.OUT or mac is None or target is None:
        return True
    return target == mac or bool(int(target[:2], 16) & 1)


def _returned(trace: Trace, observation: Observation) -> tuple[bool, Sighting | None]:
    """Tell whether an answer of the far end was seen at one of the source's own points, and was for it.

    Beside it an answer from another address than was asked: whoever asked does not take that one.
    """
    own = {point.id for point in trace.points if point.netns == trace.flow.src.netns}
    home = [
        each
        for each in observation.sightings
        if each.kind is SightingKind.REPLY and each.point in own and _taken(trace, each)
    ]
    asked = {
        (each.packet.dst, each.packet.dport)
        for each in observation.sightings
        if each.kind is SightingKind.PROBE and each.point in own
    }
    # Back at the device is not back at whoever asked: the source's own stack must have taken it.
    taken = observation.took(trace.flow.src.netns, SightingKind.REPLY) is not False
    if trace.flow.proto is not Proto.UDP or not asked:
        return bool(home) and taken, None
    known = [each for each in home if (each.packet.src, each.packet.sport) in asked]
    return bool(known) and taken, None if known or not home else home[-1]


def _left_at_the_door(trace: Trace, observation: Observation) -> bool:
    """Tell whether the stack that the packet is for is known not to have taken it."""
    return observation.took(_where_it_ends(trace), SightingKind.PROBE) is False


def _where_it_ends(trace: Trace) -> int | None:
    """Return the namespace that takes the packet: translated on its way, another than that of the address asked.

    None where that is beyond this host, or in a namespace that was not read.
    """
    meant = trace.flow.dst.netns
    steps = (*trace.forward.steps, *trace.forward.beyond)
    end = next((each for each in reversed(steps) if each.kind is StepKind.LOCAL), None)
    if end is not None and meant is not None:
        return end.netns
    untouched = not steps or steps[-1].packet.dst == trace.flow.dst.address
    return meant if untouched else None


def _lost(observation: Observation) -> tuple[int, ...]:
    """Return the numbers of the probes without an answer; none where answers do not tell which probe they are for."""
    answered = {each.nonce for each in observation.sightings if each.kind is SightingKind.REPLY}
    if None in answered:
        return ()
    return tuple(each.nonce for each in observation.sent if each.nonce not in answered)


def _unanswered(trace: Trace, sightings: tuple[Sighting, ...]) -> tuple[Sighting, ...]:
    """Return the ARP and NDP requests that no reply was seen for, one for each address and point.

    Next hops with a static entry are left out: the kernel does not ask for them, only the prober did.
    """
    steps = (step for leg in (trace.forward, trace.reply) if leg is not None for step in (*leg.steps, *leg.beyond))
    known = {step.neighbour.address for step in steps if step.neighbour and step.neighbour.state in FIXED}
    answered = known | {
        each.packet.src for each in sightings if each.kind in (SightingKind.ARP_REPLY, SightingKind.NDP_ADVERT)
    }
    kept: dict[tuple[str, object], Sighting] = {}
    for each in sightings:
        if each.kind in (SightingKind.ARP_REQUEST, SightingKind.NDP_SOLICIT) and each.packet.dst not in answered:
            kept.setdefault((each.point, each.packet.dst), each)
    return tuple(kept.values())


def _drops(leg: Leg) -> list[tuple[Step, str | None, str | None]]:
    """Return each stopping step of a leg with the points around it.

    A point that the packet has passed already, as when it is turned back to where it came from, tells nothing.
    """
    steps = (*leg.steps, *leg.beyond)
    drops: list[tuple[Step, str | None, str | None]] = []
    after: str | None = None
    passed: set[str] = set()
    for index, step in enumerate(steps):
        if step.outcome is Outcome.DROP:
            rest = (each.point for each in steps[index:] if each.point is not None and each.point not in passed)
            drops.append((step, after, next(rest, None)))
        elif step.point is not None:
            after = step.point
            passed.add(after)
    return drops


def _predicted_blockers(trace: Trace) -> tuple[Blocker, ...]:
    """Return what stops the flow by the model alone, in the order the packet meets it."""
    blockers: list[Blocker] = []
    for leg in (trace.forward, trace.reply):
        if leg is None:
            continue
        unrouted = _unrouted_answer(leg)
        if unrouted is not None:
            # Whoever is to route the answer back decides; what it would meet here then is of no use to anyone.
            if not blockers:
                blockers.append(unrouted)
            continue
        for step, after, before in _drops(leg):
            blockers.append(
                Blocker(
                    direction=leg.direction,
                    segment=step.segment,
                    basis=Basis.PREDICTED,
                    step=step,
                    after=after,
                    before=before,
                )
            )
    return tuple(blockers)


def _unrouted_answer(leg: Leg) -> Blocker | None:
    """Return the blocker of an answer whose address someone beyond this host would have to route back."""
    first = leg.steps[0] if leg.steps else None
    if first is None or leg.direction is not Direction.REPLY:
        return None
    if first.kind is not StepKind.LEAVE or first.outcome is not Outcome.UNKNOWN:
        return None
    return Blocker(direction=Direction.REPLY, segment=Segment.REMOTE, basis=Basis.PREDICTED, step=first)


def _observed_blockers(
    trace: Trace,
    forward: tuple[Passage, ...],
    reply: tuple[Passage, ...],
    observation: Observation,
    *,
    arrived: bool,
    returned: bool,
    errno: int | None,
    refused: bool,
) -> tuple[tuple[Blocker, ...], bool]:
    """Find what stops the flow by both accounts; false beside it when the wire contradicts the model.

    `refused`: somebody answered with an ICMP error or a reset.
    """
    predicted = _predicted_blockers(trace)
    if returned:
        # Packets got through: whatever the model says stops them, does not (or only sometimes) stop them. Only what
        # comes after the last device is out of every capture's sight: the source's own input path.
        hard = [each for each in predicted if each.step is not None and each.step.outcome is Outcome.DROP]
        unseen = [each for each in hard if _behind_all_points(each, trace) or _after_the_handshake(each)]
        return tuple(unseen), len(unseen) == len(hard)
    seen = [each for each in forward if each.observed is ObservedSight.SEEN]
    blind = [each for each in (*forward, *reply) if each.observed is ObservedSight.BLIND]
    blockers: list[Blocker] = []
    contradicted = False
    for each in predicted:
        passages = forward if each.direction is Direction.FORWARD else reply
        index = _index(passages, each.before)
        # The wire has been past this step: it does not stop the packet.
        past = [item for item in passages[index:] if item.observed is ObservedSight.SEEN] if index is not None else []
        if each.direction is Direction.FORWARD and arrived and index is not None:
            past = past or list(seen[-1:])
        if past and each.step is not None and each.step.outcome is Outcome.DROP:
            contradicted = True
            continue
        if each.direction is Direction.REPLY and not blockers and not arrived and _lost_ahead(forward):
            # Nobody answers what did not get there.
            contradicted = True
            blockers.append(_wire_gap(trace, forward, Direction.FORWARD))
        before_it = passages[:index] if index is not None else passages
        missing = [item for item in before_it if item.observed is ObservedSight.NOT_SEEN and not item.beyond]
        if missing and not blockers and not _request_meets_it_too(each.step, before_it, missing[0]):
            # The wire lost it earlier than the model does.
            contradicted = contradicted or missing[0].predicted is PredictedSight.SEEN
            blockers.append(_wire_gap(trace, passages, each.direction))
        blockers.append(
            Blocker(
                direction=each.direction,
                segment=each.segment,
                basis=Basis.BOTH if _witnessed(passages, index, errno) else Basis.PREDICTED,
                step=each.step,
                after=each.after,
                before=each.before,
            )
        )
    quiet = not any(each.observed is ObservedSight.SEEN for each in reply)
    if not blockers and arrived and quiet and trace.flow.proto is Proto.UDP and trace.flow.dst.netns is not None:
        # A UDP service owes nobody an answer: its silence is no stop.
        return (), True
    if not blockers:
        passages = forward
        direction = Direction.FORWARD
        there = forward[-1].observed is ObservedSight.SEEN if forward else False
        if arrived or (there and not _left_at_the_door(trace, observation)):
            passages, direction = reply, Direction.REPLY
        if not refused and errno is None and _out_of_sight(passages):
            return (), True
        blockers.append(_wire_gap(trace, passages, direction))
        lost_inside = blockers[0].segment is not Segment.REMOTE
        leg = trace.forward if direction is Direction.FORWARD else trace.reply
        doubted = trace.forward.end is LegEnd.UNKNOWN or leg is None or leg.end is LegEnd.UNKNOWN
        missing_at = _index(passages, blockers[0].before)
        # So had it what lies between two hosts: no capture is there.
        doubted = doubted or (
            missing_at is not None and (_next_hop_is_open(passages[missing_at]) or _crosses(passages[missing_at]))
        )
        contradicted = contradicted or (lost_inside and not blind and not doubted and bool(passages))
    return tuple(blockers), not contradicted


def _with_the_kernels_word(
    trace: Trace,
    blockers: tuple[Blocker, ...],
    stands: bool,
    told: tuple[Passing, ...],
    forward: tuple[Passage, ...],
    reply: tuple[Passage, ...],
    *,
    arrived: bool,
) -> tuple[tuple[Blocker, ...], bool]:
    """Correct the stops by the rule that the kernel says has dropped the packet, if it says one.

    A drop that the wire has been past was a copy's (a frame flooded to several ports), and tells nothing.
    """
    for leg, passages in ((trace.forward, forward), (trace.reply, reply)):
        if leg is None or (leg.direction is Direction.FORWARD and arrived):
            continue
        dropped = [each for each in told if each.verdict is FilterVerdict.DROP and each.direction is leg.direction]
        for passing in dropped:
            steps = (*leg.steps, *leg.beyond)
            at = _hook_step(steps, passing)
            if at is not None and _seen_behind(steps[at:], passages):
                continue
            return _told_blockers(trace, leg, at, passing, blockers, stands)
    return blockers, stands


def _hook_step(steps: tuple[Step, ...], passing: Passing) -> int | None:
    """Return which of the model's steps a passing is: the same namespace and hook, best the one that it ends at."""
    best: tuple[int, int] | None = None
    for index, step in enumerate(steps):
        if step.hook is None or step.netns != passing.netns or step.hook.hook is not passing.hook:
            continue
        same = (step.packet.src, step.packet.dst) == (passing.packet.src, passing.packet.dst)
        decided = step.hook.decided_by
        bridged = decided is not None and (decided.family == "bridge") == (passing.family == "bridge")
        weight = 4 * (step.outcome is not Outcome.PASS) + 2 * same + bridged
        if best is None or weight > best[0]:
            best = (weight, index)
    return best[1] if best is not None else None


def _seen_behind(steps: tuple[Step, ...], passages: tuple[Passage, ...]) -> bool:
    """Tell whether the wire shows the packet at a point that comes only after the first of these steps."""
    behind = {step.point for step in steps[1:] if step.point is not None and step.point != steps[0].point}
    return any(each.point in behind and each.observed is ObservedSight.SEEN for each in passages)


def _told_blockers(
    trace: Trace,
    leg: Leg,
    at: int | None,
    passing: Passing,
    blockers: tuple[Blocker, ...],
    stands: bool,
) -> tuple[tuple[Blocker, ...], bool]:
    """Put the stop that the kernel reports first; what the model has before it was passed, what is behind it stays."""
    steps = (*leg.steps, *leg.beyond)
    known = steps[at] if at is not None else None
    for blocker in blockers:
        if blocker.direction is leg.direction and blocker.step is not None and _is_that(blocker.step, passing):
            # The model has it right, at whichever of its steps; the packet was past all that it has before.
            place = blockers.index(blocker)
            agreed = msgspec.structs.replace(blocker, basis=Basis.BOTH)
            return (agreed, *blockers[place + 1 :]), stands and place == 0
    step = _told_step(trace, leg, known, passing)
    places = [each.point for each in (steps[: at + 1] if at is not None else ()) if each.point is not None]
    ahead = [each.point for each in (steps[at:] if at is not None else ()) if each.point is not None]
    after = places[-1] if places else None
    new = Blocker(
        direction=leg.direction,
        segment=step.segment,
        basis=Basis.OBSERVED,
        step=step,
        after=after,
        before=next((each for each in ahead if each != after), None),
    )
    behind = {id(each) for each in steps[at + 1 :]} if at is not None else set()
    if leg.direction is Direction.FORWARD and trace.reply is not None:
        behind |= {id(each) for each in (*trace.reply.steps, *trace.reply.beyond)}
    kept = tuple(each for each in blockers if each.step is not None and id(each.step) in behind)
    undecided = known is not None and known.outcome is Outcome.UNKNOWN
    refuted = any(each.step is not None and each.step.outcome is Outcome.DROP for each in blockers if each not in kept)
    return (new, *kept), undecided and not refuted


def _is_that(step: Step, passing: Passing) -> bool:
    """Tell whether a stop of the model is the one that the kernel reports, down to the rule."""
    ref, told = step.hook.decided_by if step.hook is not None else None, passing.decided_by
    if ref is None or told is None or step.netns != passing.netns or step.outcome is not Outcome.DROP:
        return False
    return (ref.family, ref.table, ref.chain, ref.index) == (told.family, told.table, told.chain, told.index)


def _told_step(trace: Trace, leg: Leg, known: Step | None, passing: Passing) -> Step:
    """Return the model's step as the kernel took it, or one of its own where the model has none."""
    ref = passing.decided_by
    last = passing.met[-1]
    said = ref.text if ref is not None else f"{last.family} {last.table} {last.chain} {last.text}"
    text = f"the kernel reports that the packet was dropped by {said}"
    if known is not None and known.hook is not None:
        decided = msgspec.structs.replace(known.hook, verdict=FilterVerdict.DROP, decided_by=ref)
        return msgspec.structs.replace(known, outcome=Outcome.DROP, reason=Reason.FILTERED, hook=decided, text=text)
    ends = {trace.flow.src.netns: Segment.SOURCE, trace.flow.dst.netns: Segment.DESTINATION}
    hook: HookResult | None = None
    if passing.hook is not None:
        hook = HookResult(
            hook=passing.hook,
            verdict=FilterVerdict.DROP,
            packet=passing.packet,
            tracking=Tracking(),
            decided_by=ref,
        )
    return Step(
        kind=StepKind.HOOK,
        netns=passing.netns,
        segment=ends.get(passing.netns, Segment.HOST),
        text=text,
        packet=passing.packet,
        outcome=Outcome.DROP,
        reason=Reason.FILTERED,
        hook=hook,
    )


def _behind_all_points(blocker: Blocker, trace: Trace) -> bool:
    """Tell whether a stop lies where no capture sees it: behind the source's device, or behind a listening socket."""
    step = blocker.step
    if step is not None and step.reason in (Reason.PORT_HELD, Reason.TAKEN_ELSEWHERE):
        # The kernel completes the handshake for a socket that listens, whether or not anybody accepts from it; and
        # whoever else holds the address answers for it.
        return True
    if step is None or blocker.direction is not Direction.REPLY or blocker.before is not None:
        return False
    return step.netns == trace.flow.src.netns and step.point is None and blocker.after is not None


def _after_the_handshake(blocker: Blocker) -> bool:
    """Tell whether a stop comes only after the answer that the probe takes for one: a handshake nobody takes up."""
    return blocker.step is not None and blocker.step.reason is Reason.PORT_HELD


def _lost_ahead(forward: tuple[Passage, ...]) -> bool:
    """Tell whether open captures show that the packet itself went missing where the model lets it pass."""
    return any(each.observed is ObservedSight.NOT_SEEN and not each.beyond for each in forward)


def _index(passages: tuple[Passage, ...], point: str | None) -> int | None:
    return next((index for index, each in enumerate(passages) if each.point == point), None)


def _witnessed(passages: tuple[Passage, ...], index: int | None, errno: int | None) -> bool:
    """Tell whether the wire itself shows a stop at a passage: nothing seen from there on, something up to it."""
    if errno is not None:
        return True
    tail = passages[index:] if index is not None else ()
    head = passages[:index] if index is not None else passages
    silent = all(each.observed in (ObservedSight.NOT_SEEN, ObservedSight.NOT_PROBED) for each in tail)
    shown = [each for each in head if each.observed is ObservedSight.SEEN]
    heard = any(each.observed is ObservedSight.NOT_SEEN for each in tail) or not tail
    return silent and heard and (bool(shown) or not head)


def _out_of_sight(passages: tuple[Passage, ...]) -> bool:
    """Tell whether nobody could see what becomes of the packet behind the last point where it was seen."""
    seen = [index for index, each in enumerate(passages) if each.observed is ObservedSight.SEEN]
    behind = passages[seen[-1] + 1 :] if seen else passages
    blind = any(each.observed is ObservedSight.BLIND for each in behind)
    return blind and not any(each.observed is ObservedSight.NOT_SEEN for each in behind)


def _wire_gap(trace: Trace, passages: tuple[Passage, ...], direction: Direction) -> Blocker:
    """Describe the gap that captures alone show: between the last point with the packet and the first without."""
    last: Passage | None = None
    first_missing: Passage | None = None
    for passage in passages:
        if passage.observed is ObservedSight.SEEN:
            last, first_missing = passage, None
        elif passage.observed is ObservedSight.NOT_SEEN and first_missing is None:
            first_missing = passage
    segment = Segment.REMOTE
    if direction is Direction.REPLY and last is None:
        arrived_inside = trace.forward.end is LegEnd.ARRIVED
        segment = Segment.DESTINATION if arrived_inside else Segment.REMOTE
        return Blocker(
            direction=direction,
            segment=segment,
            basis=Basis.OBSERVED,
            after=None,
            before=passages[0].point if passages else None,
        )
    if first_missing is not None:
        steps = first_missing.steps
        segment = _suspect(steps) if steps else Segment.HOST
        point = next((each for each in trace.points if each.id == first_missing.point), None)
        if point is not None and not steps:
            segment = point.segment
    elif last is not None and trace.flow.dst.netns is not None and direction is Direction.FORWARD:
        segment = Segment.DESTINATION
    elif last is not None and direction is Direction.REPLY and _at_home(trace, last):
        segment = Segment.SOURCE
    return Blocker(
        direction=direction,
        segment=segment,
        basis=Basis.OBSERVED,
        after=last.point if last is not None else None,
        before=first_missing.point if first_missing is not None else None,
    )


def _at_home(trace: Trace, passage: Passage) -> bool:
    """Tell whether a passage is at a device of the source's own."""
    return any(each.id == passage.point and each.netns == trace.flow.src.netns for each in trace.points)


#: Stops that an ARP or NDP request meets as well as the packet that waits for its answer.
_ON_LINK = (
    Reason.LINK_DOWN,
    Reason.NO_CARRIER,
    Reason.PORT_BLOCKED,
    Reason.PORT_LOCKED,
    Reason.PORT_ISOLATED,
    Reason.VLAN_FILTERED,
    Reason.NO_FLOOD,
    Reason.FDB_WRONG_PORT,
    Reason.MACVLAN_ISOLATED,
    Reason.MACVLAN_MODE,
    Reason.VXLAN_WRONG_HOST,
)


def _request_meets_it_too(step: Step | None, passages: tuple[Passage, ...], missing: Passage) -> bool:
    """Tell whether a packet is missing early because the request for its next hop met the very stop that it would."""
    unseen: list[Passage] = []
    for each in passages:
        unseen = [] if each.observed is ObservedSight.SEEN else [*unseen, each]
        if each is missing:
            break
    if step is None or not any(at.kind is StepKind.NEIGHBOUR for each in unseen for at in each.steps):
        return False
    decided = step.hook.decided_by if step.hook is not None else None
    return step.reason in _ON_LINK or (decided is not None and decided.family == "bridge")


def _next_hop_is_open(passage: Passage) -> bool:
    """Tell whether the model took for granted that a next hop beyond its sight answers."""
    return any(step.kind is StepKind.NEIGHBOUR and step.open_ended for step in passage.steps)


def _crosses(passage: Passage) -> bool:
    """Tell whether what lies between two hosts comes before a passage."""
    return any(step.kind is StepKind.CROSS for step in passage.steps)


def _suspect(steps: tuple[Step, ...]) -> Segment:
    """Return the segment of the step that most likely lost a packet: one that could not be told, else the last but one.

    The last step is the arrival at the point that did not see the packet.
    """
    doubtful = next((step for step in steps if step.outcome is Outcome.UNKNOWN), None)
    doubtful = doubtful or next((step for step in steps if step.kind is StepKind.CROSS), None)
    return (doubtful or (steps[-2] if len(steps) > 1 else steps[-1])).segment


__all__ = ["Blocker", "Correlation", "Inner", "Passage", "beside", "correlate", "inner_of"]
