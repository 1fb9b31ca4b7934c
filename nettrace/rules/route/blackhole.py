"""A blackhole, unreachable, prohibit or throw route matches.

What it reports: the best route to the destination is of a kind that discards.
Why traffic stops: blackhole drops silently; unreachable and prohibit answer with an error; throw ends the search in
    its table. On the way back to a source, the reverse-path filter then discards what comes from there.
Proof: the route; the errno at the source, or the ICMP error.
Remedy: delete the route.
Known limits: none.
Seen in the field: "Network is unreachable" with a route of that kind left by another tool (moby#6442).
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.model.text import route_text
from nettrace.predict.route import ERRORS
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_policy_rule, delete_route
from nettrace.rules.faults import blockers, errno_or_wire, view_of
from nettrace.rules.route_facts import own_rule, rule_command
from nettrace.rules.wording import delete_route_command, names, route_evidence

REASONS = (Reason.ROUTE_BLACKHOLE, Reason.ROUTE_UNREACHABLE, Reason.ROUTE_PROHIBIT, Reason.NO_ROUTE, Reason.RP_FILTER)


def check(case: Case) -> Result:
    """Fire when a lookup on the way ends at a route or rule that discards."""
    hits = []
    for blocker, step in blockers(case, *REASONS):
        view = view_of(case, step)
        route = step.route
        if route is None or (step.reason is Reason.NO_ROUTE and route.kind != "throw"):
            continue
        back = step.reason is Reason.RP_FILTER
        if back and (route.kind not in ERRORS or own_rule(step.rule)):
            continue  # a way back, if by another device; or one that a policy rule leads to
        target = step.packet.src if back else step.packet.dst
        text = route_text(route, names(view))
        by_rule = route.table == 0 and step.rule is not None
        command = (
            rule_command(case, view, step.rule)
            if by_rule and step.rule is not None
            else delete_route_command(case, view, route)
        )
        hits.append(
            Hit(
                title=f"a {route.kind} route in {view.name} covers {target}",
                explanation=f"{view.name} discards what goes to {target}: the best match is '{text}'."
                + (f" So the reverse-path filter ({step.sysctl}) discards what comes from there." if back else ""),
                at=view.name,
                evidence=(*route_evidence(view, route, step.rule), *errno_or_wire(case, blocker)),
                mend=Mend(
                    summary="Delete it, or add a better route.",
                    commands=(command,),
                    change=delete_route(view.id, route)
                    if not by_rule or step.rule is None
                    else delete_policy_rule(view.id, step.rule),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("route.blackhole", check, rank=50, needs=("routes",))
