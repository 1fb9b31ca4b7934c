"""Whether a fault stands on something that was not read.

A table that was not read looks empty to the walk, and an empty table is a fault: no address, no route, nobody who
answers. A rule says what it needs; here that is held against what the snapshot lacks. Only rules.base asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nettrace.correlate import Blocker
from nettrace.model.base import Missing
from nettrace.model.path import Direction, Reason
from nettrace.model.verdict import Basis
from nettrace.predict.world import View
from nettrace.rules.case import Case

LOOKUP = ("routes", "rules", "addresses")

#: What the walk looked up in the namespace of a stop before it came to that reason.
STANDS_ON: dict[Reason, tuple[str, ...]] = {
    Reason.NO_ROUTE: LOOKUP,
    Reason.ROUTE_BLACKHOLE: LOOKUP,
    Reason.ROUTE_UNREACHABLE: LOOKUP,
    Reason.ROUTE_PROHIBIT: LOOKUP,
    Reason.NO_SOURCE_ADDRESS: LOOKUP,
    Reason.FORWARDING_OFF: ("sysctls", *LOOKUP),
    Reason.RP_FILTER: ("sysctls", *LOOKUP),
    Reason.MARTIAN: ("sysctls", *LOOKUP),
    Reason.FILTERED: ("netfilter", "sysctls"),
    Reason.NOT_LISTENING: ("sockets", "netfilter", *LOOKUP),
    Reason.PORT_HELD: ("sockets", "netfilter", *LOOKUP),
    Reason.NOT_LOCAL: ("addresses",),
}

#: What leads a packet elsewhere. Where the wire did not show it at a stop, it may never come there.
LEADS = ("addresses", "routes", "rules", "sysctls", "netfilter")

#: Rules that ask for the namespace's own addresses or routes: masquerading drops where there is no address to use.
BY_ADDRESS = re.compile(r"masquerade|addrtype|fib |rpfilter", re.IGNORECASE)

#: Stops at a next hop or a frame's receiver: they stand on the addresses of everyone who could answer.
BY_OTHERS = (Reason.NEIGHBOUR_FAILED, Reason.NEIGHBOUR_WRONG, Reason.ARP_IGNORED, Reason.OTHERHOST)


def on_the_way(case: Case) -> list[View]:
    """Return the namespaces that the flow's ends lie in or that a leg leads through."""
    ids = {case.flow.src.netns, case.flow.dst.netns, case.world.host}
    ids.update(step.netns for direction in Direction for step in case.steps(direction))
    return [view for view in case.world.views.values() if view.id in ids]


def unread_sections(case: Case, views: Iterable[View], sections: Iterable[str]) -> tuple[str, ...]:
    """Return which of the sections were not read, as "<namespace>/<section>" (what engines meant: "intent")."""
    lacking = [
        f"{view.name}/{section}"
        for section in sections
        if section != "intent"
        for view in views
        if isinstance(getattr(view.ns, section), Missing)
    ]
    if "intent" in sections and not case.before.intent.engines:
        lacking += ["intent" for gap in case.before.gaps if gap.section == "intent"][:1]
    return tuple(lacking)


def unread_for(case: Case, needs: tuple[str, ...], netns: int | None, blocker: Blocker | None) -> tuple[str, ...]:
    """Return what a finding stands on that was not read: in its own namespace and in that of its stop."""
    step = blocker.step if blocker is not None else None
    places = {each for each in (netns, step.netns if step is not None else None) if each is not None}
    views = [view for view in case.world.views.values() if view.id in places]
    lacking = unread_sections(case, views, needs)
    if step is None or step.reason is None:
        return lacking
    at_stop = [view for view in views if view.id == step.netns]
    lacking += unread_sections(case, at_stop, STANDS_ON.get(step.reason, ()))
    decided = step.hook.decided_by if step.hook is not None else None
    if decided is not None and BY_ADDRESS.search(decided.text):
        lacking += unread_sections(case, at_stop, LOOKUP)
    if step.reason in BY_OTHERS:
        lacking += unread_sections(case, case.world.views.values(), ("addresses", "sysctls"))
    if blocker is not None and blocker.basis is Basis.PREDICTED:
        lacking += unread_sections(case, _passed(case, blocker), LEADS)
        # Whoever else holds a next hop's address could have taken the packet.
        lacking += unread_sections(case, case.world.views.values(), ("addresses",))
    return lacking


def _passed(case: Case, blocker: Blocker) -> list[View]:
    """Return the namespaces that lead a packet to a stop: those of its leg so far, and of the leg before."""
    ids: set[int] = set()
    for direction in Direction:
        for step in case.steps(direction):
            ids.add(step.netns)
            if step is blocker.step:
                return [view for view in case.world.views.values() if view.id in ids]
    return [view for view in case.world.views.values() if view.id in ids]


__all__ = ["on_the_way", "unread_for", "unread_sections"]
