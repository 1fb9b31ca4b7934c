"""The answer takes another way back than the packet came, and dies there.

What it reports: the answer leaves a namespace by another device than the one the packet came in by, and stops; or a
    datagram's answer carries the address of that device, which nobody asked.
Why traffic stops: the other network does not lead to the source, translates it otherwise, or refuses it.
Proof: the routes of both directions; the captures on both devices.
Remedy: a source-based rule that sends answers back the way they came, or no second way.
Known limits: asymmetric ways that work are not reported.
Seen in the field: a published port works on one of the host's addresses only (moby#17212, moby#35251, moby#33435,
    lxd#1102, kubernetes#22698). Common.
"""

from __future__ import annotations

from nettrace.model.path import Direction, LegEnd, Reason, Segment, Step
from nettrace.model.text import route_text, rule_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Change, Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import view_of
from nettrace.rules.publish_facts import answered_by_proxy
from nettrace.rules.route_facts import forward_device, own_rule, routed_before, rule_change, rule_command
from nettrace.rules.wording import enter, names, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a stopped answer was routed by a policy rule, or inside a container, to another device."""
    hits = []
    for blocker in case.blockers:
        if blocker.direction is not Direction.REPLY or (blocker.step is None and not _left(case)):
            continue
        if blocker.step is not None and blocker.step.reason is Reason.NOT_ENCAPSULATED:
            continue  # what should have led into the overlay is missing: that is named by what it is
        for step in routed_before(case, blocker):
            came = _way_in(case, step)
            if came is None or step.device is None or step.device == came:
                continue
            by_rule = own_rule(step.rule)
            if not by_rule and step.netns == case.world.host:
                continue
            view = view_of(case, step)
            text = rule_text(step.rule, names(view)) if by_rule and step.rule is not None else ""
            route = route_text(step.route, names(view)) if step.route is not None else "no route"
            change: Change | None = rule_change(view, step.rule) if by_rule and step.rule is not None else None
            back = f"{enter(case, view.id)}ip rule add from {step.packet.src} table 100"
            command = rule_command(case, view, step.rule) if by_rule and step.rule is not None else back
            hits.append(
                Hit(
                    title=f"{view.name} sends the answer out of {step.device}, although the packet came by {came}",
                    explanation=f"In {view.name} the answer to {step.packet.dst} takes '{route}'"
                    + (f" by the rule '{text}'" if text else "")
                    + f" and stops there; the packet had come by {came}.",
                    at=f"{view.name}/{step.device}",
                    evidence=(*route_evidence(view, step.route, step.rule), *wire_evidence(case, blocker)),
                    mend=Mend(
                        summary=f"Send answers back by {came}: delete or narrow the rule, or add one for the source.",
                        commands=(command,),
                        change=change,
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=step.segment if step.segment is not Segment.EGRESS else Segment.HOST,
                    device=step.device,
                    netns=view.id,
                )
            )
            break
    return fired(*hits, *_from_another_address(case))


def _from_another_address(case: Case) -> list[Hit]:
    """The answer of a service that listens on all addresses carries the one of the way it leaves by."""
    stranger = case.correlation.stranger
    if stranger is None or not case.blockers or answered_by_proxy(case) is not None:
        return []
    asked, came = case.flow.dst.address, stranger.packet.src
    blocker = case.blockers[0]
    return [
        Hit(
            title=f"the answer comes from {came}, although {asked} was asked",
            explanation=f"The service listens on every address, and its answer leaves with the source {came}, that of "
            f"the device it goes out by. The socket that asked {asked} does not take that for an answer.",
            at=stranger.point,
            evidence=(
                Evidence(
                    kind=EvidenceKind.PACKET,
                    ref=stranger.point,
                    text=f"the answer to {asked}:{case.flow.dport} came from {came}:{stranger.packet.sport}",
                ),
            ),
            mend=Mend(summary=f"Ask {came} instead, or let the service bind to the address that is asked."),
            basis=blocker.basis,
            blocker=blocker,
        )
    ]


def _left(case: Case) -> bool:
    """Tell whether the answer leaves this host, although it is for a container or the host itself."""
    return case.trace.reply is not None and case.trace.reply.end is LegEnd.LEFT


def _way_in(case: Case, step: Step) -> str | None:
    """Return the device that the answer should leave a namespace by: the one that the packet came in by."""
    return forward_device(case, step.netns)


RULE = rule("route.reply-asymmetric", check, rank=45, needs=("routes",))
