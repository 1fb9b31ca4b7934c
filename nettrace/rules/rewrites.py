"""Rules that rewrite a packet, or keep it from conntrack, and thereby stop it further on.

What stops such a packet (no answer to ARP, a TTL that runs out, an address that nobody routes back) is an effect.
The cause is found by asking the model what would happen without the rule: is this stop gone?
"""

from __future__ import annotations

from collections.abc import Iterator

from nettrace.correlate import Blocker
from nettrace.model.base import Model
from nettrace.model.netfilter import Hook, RuleRef
from nettrace.model.path import Direction, LegEnd, Outcome, Segment, Step, StepKind, Trace
from nettrace.predict import predict
from nettrace.rules.base import Mend
from nettrace.rules.case import Case
from nettrace.rules.change import delete_rule
from nettrace.rules.wording import delete_command

#: The first words of what a rule does to a packet, as the trail tells it, by what it changes.
DESTINATION = ("dnat", "redirect", "netmap", "set ip daddr", "set ip6 daddr", "set tcp dport", "set udp dport")
SOURCE = ("snat", "masquerade", "netmap", "set ip saddr", "set ip6 saddr")
TRACKING = ("notrack", "ct zone")
LIFETIME = ("set ip ttl", "set ip6 hoplimit")
#: Few packets meet more rewriting rules than these, and each costs a prediction.
_MOST = 8


class Rewrite(Model):
    """A rule that rewrote the packet on its way to a stop: the hook's step, the rule, and the words for its effect."""

    step: Step
    rule: RuleRef
    effect: str


def rewrites(case: Case, blocker: Blocker, effects: tuple[str, ...]) -> Iterator[Rewrite]:
    """Yield what rewrote the packet in one of these ways before a stop, each rule once, in travel order."""
    told: list[RuleRef] = []
    for step in _steps_before(case, blocker):
        for entry in step.hook.trail if step.hook is not None else ():
            if entry.event != "match" or entry.rule.index is None or entry.rule in told:
                continue
            parts = [part for part in entry.effect.split(", ") if _is_one(part, effects, step)]
            if parts:
                told.append(entry.rule)
                yield Rewrite(step=step, rule=entry.rule, effect=parts[0])


def _is_one(effect: str, effects: tuple[str, ...], step: Step) -> bool:
    """Tell whether an effect is one of these; NETMAP maps the destination on the way in, the source on the way out."""
    if not effect.startswith(effects):
        return False
    incoming = step.hook is not None and step.hook.hook in (Hook.PREROUTING, Hook.OUTPUT)
    return not effect.startswith("netmap") or incoming == (effects == DESTINATION)


def _steps_before(case: Case, blocker: Blocker) -> Iterator[Step]:
    legs = (Direction.FORWARD,) if blocker.direction is Direction.FORWARD else tuple(Direction)
    for direction in legs:
        for step in case.steps(direction):
            if step is blocker.step:
                return
            yield step


def culprit(case: Case, blocker: Blocker, effects: tuple[str, ...]) -> Rewrite | None:
    """Return the rewriting rule without which a stop would not be there, None when no single one makes it."""
    for index, each in enumerate(rewrites(case, blocker, effects)):
        if index >= _MOST:
            break
        if _gone(blocker, predict(delete_rule(each.step.netns, each.rule)(case.before), case.flow)):
            return each
    return None


def _gone(blocker: Blocker, trace: Trace) -> bool:
    """Tell whether a stop is not in a trace; one that only the wire shows is gone when all arrives."""
    step = blocker.step
    legs = [leg for leg in (trace.forward, trace.reply) if leg is not None]
    if any(leg.end in (LegEnd.NEEDS, LegEnd.UNKNOWN) for leg in legs if leg.direction is blocker.direction):
        return False
    if step is None or step.kind is StepKind.LEAVE:
        ended = trace.forward.passing in (LegEnd.ARRIVED, LegEnd.LEFT)
        return ended and trace.reply is not None and trace.reply.passing is LegEnd.ARRIVED
    return not any(
        (each.reason, each.netns, each.device, each.segment) == (step.reason, step.netns, step.device, step.segment)
        and each.outcome is Outcome.DROP
        for leg in legs
        if leg.direction is blocker.direction
        for each in leg.steps
    )


def delete_mend(case: Case, found: Rewrite, summary: str) -> Mend:
    """Return the remedy that deletes a rewriting rule."""
    return Mend(
        summary=summary,
        commands=(delete_command(case, found.step.netns, found.rule),),
        change=delete_rule(found.step.netns, found.rule),
    )


def lost_remotely(case: Case) -> Blocker | None:
    """Return the stop of an answer that nobody brought back, None when there is none."""
    return next(
        (each for each in case.blockers if each.direction is Direction.REPLY and each.segment is Segment.REMOTE), None
    )
