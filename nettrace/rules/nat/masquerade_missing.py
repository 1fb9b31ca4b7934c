"""The container's private source leaves the host unchanged.

What it reports: no rule translates the source address on the way out.
Why traffic stops: the far side answers to a private address that it cannot route back.
Proof: POSTROUTING holds no rule for the source; the capture at the egress shows the private source; no answer
    comes.
Remedy: add the MASQUERADE rule (restarting the engine writes it again).
Known limits: a router that knows the way back to the private network is not visible from here; then the answer
    comes, and nothing is reported.
Seen in the field: containers reach the host and each other, and nothing beyond; requests leave with 172.17.x.x
    (moby#13381, moby#41795, moby#34531, moby#14073, flannel#799). Very common.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.path import Direction, StepKind
from nettrace.model.text import route_text
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_route, delete_route, together
from nettrace.rules.nat_facts import Leaving, leaving, nat_hit, neighbourly
from nettrace.rules.wording import enter, names, route_evidence


def check(case: Case) -> Result:
    """Fire when the packet leaves with the container's own address, masquerading is meant, and no rule does it."""
    out = leaving(case)
    if out is None or out.translated or out.covering or not out.meant or neighbourly(case, out):
        return fired()
    return fired(_hit(case, out))


def _hit(case: Case, out: Leaving) -> Hit:
    chosen = _preferred(case, out)
    if chosen is not None:
        return chosen
    return nat_hit(
        case,
        out,
        title=f"{out.packet.src} leaves by {out.device} untranslated: the MASQUERADE rule is missing",
        explanation=f"The packet leaves {out.device} with the container's private address {out.packet.src}; no rule "
        "translates it, so answers cannot find the way back.",
        summary="Add the rule; restarting the engine writes it again.",
    )


def _preferred(case: Case, out: Leaving) -> Hit | None:
    """Return the finding for a source that a route prefers and that is none of the network's: no rule is for it."""
    first = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.ROUTE), None)
    route = first.route if first is not None else None
    if first is None or route is None or route.prefsrc != out.original.src or out.network is None:
        return None
    if out.subnet is not None or first.netns == out.netns:
        return None
    view = case.world.views[first.netns]
    better = replace(route, prefsrc=None)
    family = "-6 " if route.dst.version == 6 else ""
    return nat_hit(
        case,
        out,
        title=f"{out.packet.src} leaves by {out.device} untranslated: a route of {view.name} chose it",
        explanation=f"The route '{route_text(route, names(view))}' of {view.name} makes {route.prefsrc} the source, "
        f"which is no address of {out.network.name}: the rule that translates that network's addresses passes it by.",
        summary="",
        mend=Mend(
            summary="Let the route choose no source, so that the kernel takes the address of the interface.",
            commands=(f"{enter(case, view.id)}ip {family}route replace {route_text(better, names(view))}",),
            change=together(delete_route(view.id, route), add_route(view.id, better)),
        ),
        evidence=route_evidence(view, route, first.rule),
    )


RULE = rule("nat.masquerade-missing", check, rank=61, needs=("netfilter",))
