"""A policy rule sends the flow to a table that lacks the way.

What it reports: a row of `ip rule` other than the three that every host has decides the packet's route, and the flow
    stops there; or one of the three is gone or narrowed, and the table it led to is not asked.
Why traffic stops: the rule forbids it, or its table has no route, a discarding one, or one by the wrong device.
Proof: the rule and the route it leads to; what the main table would have said.
Remedy: delete or narrow the rule, or complete its table.
Known limits: rules on purpose cannot be told from mistakes while traffic passes; rules that look at a socket's owner
    are judged for root.
Seen in the field: answers to containers leave by the network card, since a policy rule's table knows no bridge
    (synology-docker#93). Common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.base import IPAddress
from nettrace.model.path import Direction, Reason, Segment, Step
from nettrace.model.snapshot import PolicyRule
from nettrace.model.text import route_text, rule_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.route import ERRORS, Lookup
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_policy_rule
from nettrace.rules.faults import blockers, errno_or_wire, view_of
from nettrace.rules.route_facts import (
    LOOKUP_STOPS,
    add_rule_command,
    direction_of,
    lost_rules,
    own_rule,
    routed_before,
    rule_back,
    rule_change,
    rule_command,
    sent_out,
    with_rule,
    without_rule,
)
from nettrace.rules.wording import names, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a lookup that a policy rule decided stops the packet, or sends it elsewhere than the main table would.

    Ways of the answer that part from the packet's own are route.reply-asymmetric.
    """
    hits = []
    for blocker in case.blockers:
        out = sent_out(case, blocker)
        for step in (*out, *routed_before(case, blocker)):
            policy = step.rule
            if policy is None or not own_rule(policy):
                continue
            view = view_of(case, step)
            stops = step is blocker.step and step.reason in LOOKUP_STOPS
            instead = without_rule(case, view, step)
            better = instead.route is not None and instead.route.kind in ("unicast", "local")
            answers = blocker.direction is Direction.REPLY and not any(each is step for each in out)
            if not stops and (answers or instead.ifindex == step.ifindex):
                continue
            if any(each is step for each in out) and not _leads_to_end(case, view, instead.ifindex):
                continue  # it may well have left by the right device
            if not better:
                continue
            text = rule_text(policy, names(view))
            led = route_text(step.route, names(view)) if step.route is not None and step.route.table else policy.action
            hits.append(
                Hit(
                    title=f"the policy rule '{text}' keeps {view.name} from routing to {step.packet.dst}",
                    explanation=f"In {view.name} the rule '{text}' is asked first and leads to '{led}'; without it "
                    f"the packet to {step.packet.dst} would go "
                    + (f"'{route_text(instead.route, names(view))}'." if instead.route is not None else "on."),
                    at=f"{view.name}/{step.device}" if step.device else view.name,
                    evidence=(
                        *route_evidence(view, step.route if step.route and step.route.table else None, policy),
                        *errno_or_wire(case, blocker),
                    ),
                    mend=Mend(
                        summary="Delete or narrow the rule, or put the missing route into its table.",
                        commands=(rule_command(case, view, policy),),
                        change=rule_change(view, policy),
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    direction=direction_of(case, step),
                    segment=step.segment if step.segment is not Segment.EGRESS else Segment.HOST,
                    device=step.device,
                    netns=view.id,
                )
            )
            break
    return fired(*hits, *_way_back(case), *_not_asked(case))


def _leads_to_end(case: Case, view: View, ifindex: int | None) -> bool:
    """Tell whether a device leads to the network of the destination, which is a container of this host."""
    owner = case.world.owner_of_address(case.flow.dst.address) if case.flow.dst.address is not None else None
    network = case.before.intent.network(owner[1].network_id) if owner is not None else None
    link = view.links.get(ifindex or 0)
    return network is not None and link is not None and network.bridge == link.name


def _not_asked(case: Case) -> list[Hit]:
    """Return the findings of the local and the main table where no rule is left that asks them for every packet."""
    hits = []
    for blocker in case.blockers:
        for step in (*sent_out(case, blocker), *routed_before(case, blocker)):
            view = view_of(case, step)
            absent = next(
                (each for each in lost_rules(view, step.packet.family) if _helps(case, view, step, each)), None
            )
            if absent is None:
                continue
            instead = with_rule(case, view, step, absent)
            hits.append(_absent_hit(case, blocker, step, absent, instead, step.packet.dst))
            break
    return hits


def _absent_hit(
    case: Case, blocker: Blocker, step: Step, absent: PolicyRule, instead: Lookup, target: IPAddress
) -> Hit:
    """Return the finding of a rule that each namespace starts with, and that is gone; `instead` is what it leads to."""
    view = view_of(case, step)
    table = {254: "main", 255: "local"}[absent.table]
    route = route_text(instead.route, names(view)) if instead.route is not None else ""
    return Hit(
        title=f"no policy rule of {view.name} asks the {table} table for {target}",
        explanation=f"The {table} table of {view.name} holds '{route}', but the rule that every namespace "
        f"starts with, '{rule_text(absent)}', is gone or narrowed, so that route is not looked at.",
        at=f"{view.name}/{step.device}" if step.device else view.name,
        evidence=(
            *route_evidence(view, instead.route),
            *(
                Evidence(kind=EvidenceKind.ROUTE, ref=f"{view.name}: ip rule", text=rule_text(each, names(view)))
                for each in view.rules[step.packet.family]
            ),
            *errno_or_wire(case, blocker),
        ),
        mend=Mend(
            summary="Put the rule back.",
            commands=(add_rule_command(case, view, absent, table),),
            change=add_policy_rule(view.id, absent),
        ),
        basis=blocker.basis,
        blocker=blocker,
        direction=direction_of(case, step),
        segment=step.segment if step.segment is not Segment.EGRESS else Segment.HOST,
        device=step.device,
        netns=view.id,
    )


def _helps(case: Case, view: View, step: Step, rule: PolicyRule) -> bool:
    """Tell whether a rule that is gone would have led a packet elsewhere than it went, or to a stop."""
    instead = with_rule(case, view, step, rule)
    if instead.route is None or instead.route.kind not in ("unicast", "local"):
        return False
    here = step.route
    return here is None or (here.kind, step.ifindex) != (instead.route.kind, instead.ifindex)


def _way_back(case: Case) -> list[Hit]:
    """Return the rules that prohibit the way back to a source, or that are gone, so that the filter discards it."""
    hits = []
    for blocker, step in blockers(case, Reason.RP_FILTER):
        policy, route, view = step.rule, step.route, view_of(case, step)
        lost = rule_back(case, view, step) if route is None else None
        if lost is not None:
            hits.append(_absent_hit(case, blocker, step, *lost, step.packet.src))
            continue
        if policy is None or route is None or not own_rule(policy) or route.kind not in ERRORS:
            continue
        text = rule_text(policy, names(view))
        hits.append(
            Hit(
                title=f"the policy rule '{text}' keeps {view.name} from routing to {step.packet.src}",
                explanation=f"In {view.name} the rule '{text}' leads to no way back to {step.packet.src}, so the "
                f"reverse-path filter ({step.sysctl}) discards what comes from there.",
                at=f"{view.name}/{step.device}" if step.device else view.name,
                evidence=(*route_evidence(view, route if route.table else None, policy), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Delete or narrow the rule, or put the missing route into its table.",
                    commands=(rule_command(case, view, policy),),
                    change=rule_change(view, policy),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return hits


RULE = rule("route.policy-rule", check, rank=46, needs=("routes", "rules"))
