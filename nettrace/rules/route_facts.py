"""Routing decisions on the way of a stopped flow, and what the main table would have said."""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.intent import Network
from nettrace.model.path import Direction, Reason, Step, StepKind
from nettrace.model.snapshot import PolicyRule
from nettrace.predict import route as routing
from nettrace.predict.world import DEFAULT_TABLE, LOCAL_TABLE, MAIN_TABLE, View
from nettrace.rules.case import Case
from nettrace.rules.change import Change, delete_policy_rule
from nettrace.rules.wording import enter

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
        if step.kind is StepKind.ROUTE:
            found.append(step)
        if step is blocker.step:
            break
    return found


def without_rule(case: Case, view: View, step: Step) -> routing.Lookup:
    """Return the lookup of a step's packet as if its policy rule were not there."""
    left = {family: tuple(each for each in rules if each != step.rule) for family, rules in view.rules.items()}
    bare = View(view.ns)
    bare.__dict__["rules"] = left
    return routing.lookup(bare, step.packet, iif=_incoming(case, step), src=step.packet.src)


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


def rule_change(view: View, rule: PolicyRule) -> Change:
    """Return the change that deletes a policy rule."""
    return delete_policy_rule(view.id, rule)
