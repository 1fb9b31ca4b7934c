"""Two interfaces on one segment carry the same MAC address.

What it reports: two ports of a bridge lead to the same MAC.
Why traffic stops: the bridge learns the MAC now here, now there, and frames go to the wrong one.
Proof: both links; the forwarding entry.
Remedy: give one of them its own MAC.
Known limits: segments beyond this host cannot be seen.
Seen in the field: intermittent loss between containers that carry one MAC address, often copied by a mac_address
    option (for-linux#589, for-linux#798, moby#48595, moby#48082, moby#47211). Common.
"""

from __future__ import annotations

from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.snapshot import Link
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import forget_neighbours, set_link, together
from nettrace.rules.wording import enter, link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the flow is stopped and two ends behind one bridge on its way share a MAC that the flow uses."""
    blocker = next((each for each in case.blockers if each.step is None or each.step.reason not in _OF_THEIR_OWN), None)
    if blocker is None:
        return fired()
    bridges, macs = _on_the_way(case)
    seen: dict[tuple[int, int | None, str], tuple[View, Link]] = {}
    for view in case.world.views.values():
        for link in view.links.values():
            peer = case.peer_of(view, link)
            if link.kind != "veth" or link.mac not in macs or peer is None:
                continue
            if (peer[0].id, peer[1].master) not in bridges:
                continue
            key = (peer[0].id, peer[1].master, link.mac or "")
            other = seen.setdefault(key, (view, link))
            if other[0].id == view.id and other[1].ifindex == link.ifindex:
                continue
            ends = (other, (view, link))
            wrong, right = _meant(case, *ends)
            return fired(
                Hit(
                    title=f"{other[0].name} and {view.name} use the same MAC address {link.mac}",
                    explanation=f"Two ports of one bridge lead to {link.mac}, so the bridge sends frames now to "
                    f"{other[0].name}, now to {view.name}.",
                    at=f"{wrong[0].name}/{wrong[1].name}",
                    evidence=(
                        link_evidence(*other),
                        link_evidence(view, link),
                        *wire_evidence(case, blocker),
                    ),
                    mend=Mend(
                        summary=f"Give {wrong[0].name} the MAC address that the engine chose for it."
                        if right is not None
                        else "Give one of them a MAC address of its own.",
                        commands=(
                            f"{enter(case, wrong[0].id)}ip link set {wrong[1].name} address {right or _FREE_MAC}",
                            *(f"{enter(case, each.id)}ip neigh flush dev {held.name}" for each, held in ends),
                        ),
                        change=together(
                            set_link(wrong[0].id, wrong[1].ifindex, mac=right or _FREE_MAC),
                            *(forget_neighbours(each.id) for each, _held in ends),
                        ),
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=Segment.BRIDGE,
                )
            )
    return fired()


#: Stops at an object of their own, which a MAC address that stands twice does not make.
_OF_THEIR_OWN = (
    Reason.NOT_RUNNING,
    Reason.NO_NETWORK,
    Reason.LINK_DOWN,
    Reason.NO_CARRIER,
    Reason.NO_ROUTE,
    Reason.NO_SOURCE_ADDRESS,
    Reason.ROUTE_BLACKHOLE,
    Reason.ROUTE_UNREACHABLE,
    Reason.ROUTE_PROHIBIT,
    Reason.FILTERED,
    Reason.PORT_BLOCKED,
    Reason.PORT_LOCKED,
    Reason.PORT_ENSLAVED,
    Reason.NOT_LISTENING,
)


def _on_the_way(case: Case) -> tuple[set[tuple[int, int | None]], set[str | None]]:
    """Return the bridges that the flow's frames meet (namespace and ifindex), and the MAC addresses that they bear."""
    bridges: set[tuple[int, int | None]] = set()
    macs: set[str | None] = set()
    for direction in Direction:
        for step in case.steps(direction):
            view = case.world.views.get(step.netns)
            link = view.links.get(step.ifindex or 0) if view is not None else None
            macs |= {step.packet.src_mac, step.packet.dst_mac}
            if view is None or link is None:
                continue
            macs.add(link.mac)
            bridges |= {(view.id, link.ifindex), (view.id, link.master)}
            far = case.peer_of(view, link)
            if far is not None:
                bridges.add((far[0].id, far[1].master))
    return {each for each in bridges if each[1] is not None}, macs - {None}


#: Locally administered, and outside of what Docker derives from addresses of its usual pools.
_FREE_MAC = "02:42:00:00:ff:fe"

_End = tuple[View, Link]


def _meant(case: Case, one: _End, other: _End) -> tuple[_End, str | None]:
    """Return the end whose MAC the engine did not choose, and the one that it did; without such a word, the latter."""
    for view, link in (one, other):
        for endpoint, _network in case.attachments(case.world.containers.get(view.id)):
            held = {each.ip for each in (endpoint.ipv4, endpoint.ipv6) if each is not None}
            there = {each.address.ip for each in view.addresses.get(link.ifindex, ())}
            if held & there and endpoint.mac is not None and endpoint.mac != link.mac:
                return (view, link), endpoint.mac
    return other, None


RULE = rule("link.duplicate-mac", check, rank=33, needs=("links",))
