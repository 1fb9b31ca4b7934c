"""Routing decisions on the way of a stopped flow, and what the main table would have said."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.model.intent import Network
from nettrace.model.path import Direction, LegEnd, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import NextHop, PolicyRule
from nettrace.model.text import route_text
from nettrace.predict import route as routing
from nettrace.predict.world import DEFAULT_RULES, DEFAULT_TABLE, LOCAL_TABLE, MAIN_TABLE, View
from nettrace.rules.base import Mend
from nettrace.rules.case import Case
from nettrace.rules.change import Change, add_route, delete_policy_rule, delete_route, together
from nettrace.rules.wording import enter, names

#: Stops that a lookup itself makes.
LOOKUP_STOPS = (
    Reason.NO_ROUTE,
    Reason.ROUTE_BLACKHOLE,
    Reason.ROUTE_UNREACHABLE,
    Reason.ROUTE_PROHIBIT,
)


def isolated(network: Network, family: int) -> bool:
    """Tell whether a network's host takes no part in it (Docker's gateway mode "isolated", since 28)."""
    return (network.gateway_mode_ipv4 if family == 4 else network.gateway_mode_ipv6) == "isolated"


def own_rule(rule: PolicyRule | None) -> bool:
    """Tell whether a policy rule is none of the three that every namespace starts with."""
    if rule is None:
        return False
    plain = rule.src is None and rule.dst is None and rule.iif is None and rule.oif is None and rule.fwmark is None
    return not (plain and rule.action == "lookup" and rule.table in (LOCAL_TABLE, MAIN_TABLE, DEFAULT_TABLE))


def routed_before(case: Case, blocker: Blocker) -> list[Step]:
    """Return the routing decisions of a stopped leg up to its stop, the stop included."""
    found = []
    for step in case.steps(blocker.direction):
        if step.kind is StepKind.ROUTE or (step is blocker.step and step.reason is Reason.NOT_LOCAL):
            found.append(step)
        if step is blocker.step:
            break
    return found


def sent_out(case: Case, blocker: Blocker) -> list[Step]:
    """Return the routing decisions of a packet that left this host, where it or its answer is lost beyond it.

    The stop is the answer's then, or nobody's: which way it was lost cannot be told, but the way out can be wrong.
    """
    if blocker.segment is not Segment.REMOTE or case.trace.forward.end is not LegEnd.LEFT:
        return []
    return [step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.ROUTE]


def direction_of(case: Case, step: Step) -> Direction:
    """Return which way the packet of a routing decision was going."""
    answers = any(each is step for each in case.steps(Direction.REPLY))
    return Direction.REPLY if answers else Direction.FORWARD


def fewer_hops(case: Case, step: Step, dead: Callable[[NextHop], bool]) -> Mend | None:
    """Return the remedy of a route over several next hops: the same without those that lead nowhere."""
    route = step.route
    left = tuple(replace(hop, flags=()) for hop in route.nexthops if not dead(hop)) if route is not None else ()
    if route is None or not left or len(left) == len(route.nexthops) or route.nexthop_id is not None:
        return None
    view, better = case.world.views[step.netns], replace(route, nexthops=left)
    family = "-6 " if route.dst.version == 6 else ""
    return Mend(
        summary="Leave what leads nowhere out of the route, or bring it up.",
        commands=(f"{enter(case, view.id)}ip {family}route replace {route_text(better, names(view))}",),
        change=together(delete_route(view.id, route), add_route(view.id, better)),
    )


def without_rule(case: Case, view: View, step: Step) -> routing.Lookup:
    """Return the lookup of a step's packet as if its policy rule were not there."""
    left = {family: tuple(each for each in rules if each != step.rule) for family, rules in view.rules.items()}
    bare = View(view.ns)
    bare.__dict__["rules"] = left
    return routing.lookup(bare, step.packet, iif=_incoming(case, step), src=step.packet.src)


def lost_rules(view: View, family: int) -> tuple[PolicyRule, ...]:
    """Return the rules for the local and the main table that a namespace starts with and no longer has.

    One of another priority will do, as long as it asks the table for every packet, and takes every answer.
    """
    asked = {
        each.table
        for each in view.rules[family]
        if each == PolicyRule(family=family, priority=each.priority, table=each.table)
    }
    return tuple(
        each for each in DEFAULT_RULES[family] if each.table in (LOCAL_TABLE, MAIN_TABLE) and each.table not in asked
    )


def with_rule(case: Case, view: View, step: Step, rule: PolicyRule) -> routing.Lookup:
    """Return the lookup of a step's packet as if a policy rule were there that is not."""
    more = {**view.rules, rule.family: tuple(sorted((*view.rules[rule.family], rule), key=lambda each: each.priority))}
    fuller = View(view.ns)
    fuller.__dict__["rules"] = more
    return routing.lookup(fuller, step.packet, iif=_incoming(case, step), src=step.packet.src)


def rule_back(case: Case, view: View, step: Step) -> tuple[PolicyRule, routing.Lookup] | None:
    """Return the rule whose loss leaves no way back to a packet's source, and the lookup as if it were there."""
    packet = replace(step.packet, src=step.packet.dst, dst=step.packet.src)
    for lost in lost_rules(view, packet.family):
        found = with_rule(case, view, replace(step, packet=packet), lost)
        if found.route is not None and found.route.kind == "unicast":
            return lost, found
    return None


def _incoming(case: Case, step: Step) -> str | None:
    """Return the device by which a routed packet came into the namespace, None for the namespace's own."""
    found: str | None = None
    for direction in Direction:
        steps = case.steps(direction)
        if not any(each is step for each in steps):
            continue
        for each in steps:
            if each is step:
                return found
            if each.netns == step.netns and each.kind is StepKind.RECEIVE:
                found = each.device
    return found


def forward_device(case: Case, netns: int) -> str | None:
    """Return the device by which the forward leg came into a namespace's IP stack, None when it began there."""
    found: str | None = None
    for step in case.steps(Direction.FORWARD):
        if step.netns != netns:
            continue
        if step.kind is StepKind.ROUTE:
            return found
        if step.kind is StepKind.RECEIVE:
            found = step.device
    return found


def rule_command(case: Case, view: View, rule: PolicyRule) -> str:
    """Return the command that deletes a policy rule."""
    family = "-6 " if rule.family == 6 else ""
    return f"{enter(case, view.id)}ip {family}rule del priority {rule.priority}"


def add_rule_command(case: Case, view: View, rule: PolicyRule, table: str) -> str:
    """Return the command that adds a policy rule which asks a table for every packet."""
    family = "-6 " if rule.family == 6 else ""
    return f"{enter(case, view.id)}ip {family}rule add priority {rule.priority} table {table}"


def rule_change(view: View, rule: PolicyRule) -> Change:
    """Return the change that deletes a policy rule."""
    return delete_policy_rule(view.id, rule)
