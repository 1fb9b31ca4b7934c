"""What the captures say about packets that are too big, and what mends it."""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.base import Missing
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, RuleRef, Tracking
from nettrace.model.observe import Sighting
from nettrace.model.path import Direction, Step, StepKind
from nettrace.model.text import route_text
from nettrace.predict.hooks import run_hook
from nettrace.rules.base import Mend
from nettrace.rules.case import Case
from nettrace.rules.change import add_route, delete_route, together
from nettrace.rules.faults import attachment
from nettrace.rules.wording import enter, names

#: ICMP and ICMPv6: (type, code) of "too big".
TOO_BIG = ((3, 4), (2, 0))


def frag_needed_back(case: Case) -> Sighting | None:
    """Return the sighting of a "fragmentation needed" that reached the source's stack, None when none did."""
    found = frag_needed_heard(case)
    return found if found is not None and dropped_inside(case, found) is None else None


def dropped_inside(case: Case, error: Sighting) -> RuleRef | None:
    """Return the rule in the source's own namespace that drops an ICMP error which came to its device."""
    view, point = case.view(case.flow.src.netns), case.trace.point(error.point)
    if view is None or isinstance(view.ns.netfilter, Missing):
        return None
    tracking = Tracking(state=CtState.RELATED)
    for hook in (Hook.PREROUTING, Hook.INPUT):
        result = run_hook(view, hook, error.packet, tracking, iif=point.device)
        if result.verdict is FilterVerdict.DROP:
            return result.decided_by
    return None


def frag_needed_heard(case: Case) -> Sighting | None:
    """Return the sighting of a "fragmentation needed" at a device of the source, None when there is none."""
    own = {point.id for point in case.trace.points if point.netns == case.flow.src.netns}
    for each in case.correlation.errors:
        if (each.packet.icmp_type, each.packet.icmp_code) in TOO_BIG and each.point in own:
            return each
    return None


def mtu_mend(case: Case, step: Step | None, mtu: int | None) -> Mend:
    """Return how to keep packets small enough: the network's MTU option, or clamping TCP's segment size."""
    if step is not None and step.link is not None and mtu is not None and mtu < step.link.mtu:
        limited = _by_route(case, step, mtu)
        if limited is not None:
            return limited
    own = attachment(case, case.flow.src)
    if step is not None and own is not None and (step.netns, step.ifindex) == (own[0].id, own[1].ifindex):
        return Mend(
            summary=f"Send no more than {own[1].mtu} bytes, or make a network with a larger MTU for the container, if "
            "every link beyond takes as much.",
            commands=(
                f"docker network create -o com.docker.network.driver.mtu={step.packet.length} "
                f"{own[5].name}-{step.packet.length}",
            ),
        )
    size = mtu or (step.link.mtu if step is not None and step.link is not None else 1400)
    name = own[5].name if own is not None else "<network>"
    return Mend(
        summary=(
            f"Give the network an MTU of {size} (it must be created again), or clamp TCP's segment size meanwhile."
        ),
        commands=(
            f"docker network create -o com.docker.network.driver.mtu={size} {name}-{size}",
            "iptables -t mangle -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        ),
    )


def _by_route(case: Case, step: Step, mtu: int) -> Mend | None:
    """Return the remedy for a route that allows less than its device does."""
    view = case.world.views[step.netns]
    for each in case.steps(Direction.FORWARD):
        route = each.route
        if each.kind is not StepKind.ROUTE or each.netns != step.netns or route is None or route.mtu != mtu:
            continue
        wider = replace(route, mtu=None)
        family = "-6 " if route.dst.version == 6 else ""
        text = route_text(wider, names(view))
        return Mend(
            summary=f"Take the MTU of {mtu} off the route, if what lies behind it takes more.",
            commands=(f"{enter(case, view.id)}ip {family}route replace {text}",),
            change=together(delete_route(view.id, route), add_route(view.id, wider)),
        )
    return None
