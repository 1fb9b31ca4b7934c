"""The host's default route points into a veth or a bridge.

What it reports: the default route that the flow follows leaves by a container's veth, an engine's bridge, or the
    loopback.
Why traffic stops: no router is there; a network manager took the device for an uplink and configured it.
Proof: the route and its protocol; the device's kind; 169.254 addresses on veths.
Remedy: delete the route, and tell the network manager to leave veths and bridges alone.
Known limits: a host whose router really is a container behind that bridge looks the same; it is reported only when
    the flow stops.
Seen in the field: host and containers go offline seconds after a container starts: ConnMan or dhcpcd configured its
    veth (moby#49653, libnetwork#2481, dhcpcd#531). Common.
"""

from __future__ import annotations

from nettrace.model.path import Direction, Segment, Step, StepKind
from nettrace.model.snapshot import Link
from nettrace.model.text import address_text, route_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_route
from nettrace.rules.faults import view_of
from nettrace.rules.wording import delete_route_command, link_evidence, names, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for the stops that follow a default route of the host into a container's veth or an engine's bridge."""
    hits = []
    for blocker in case.blockers:
        found = _hijacked(case, blocker.direction)
        if found is None:
            continue
        view, step, link = found
        order = [id(each) for each in case.steps(blocker.direction)]
        if blocker.step is not None and order.index(id(blocker.step)) < order.index(id(step)):
            continue
        assert step.route is not None
        text = route_text(step.route, names(view))
        others = [
            each
            for each in view.tables.get((step.packet.family, 254), ())
            if each.dst.prefixlen == 0 and each != step.route
        ]
        commands = [delete_route_command(case, view, step.route)]
        if not others:
            family = "-6 " if step.packet.family == 6 else ""
            commands.append(f"ip {family}route add default via <gateway> dev <uplink>")
        hits.append(
            Hit(
                title=f"the default route of {view.name} leads into {link.name}",
                explanation=f"'{text}' sends everything for the outside into {link.name}, which "
                + (
                    "leads nowhere but back to the host itself."
                    if link.loopback
                    else "belongs to a container network: a network manager configured it as if it were an uplink."
                ),
                at=f"{view.name}/{link.name}",
                evidence=(
                    *route_evidence(view, step.route, step.rule),
                    link_evidence(view, link),
                    *_zeroconf(view, link),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Delete the route, and keep the network manager off veths and bridges "
                    "(unmanaged-devices, denyinterfaces veth*).",
                    commands=tuple(commands),
                    change=delete_route(view.id, step.route) if others else None,
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.HOST,
                device=link.name,
                netns=view.id,
            )
        )
    return fired(*hits)


def _hijacked(case: Case, direction: Direction) -> tuple[View, Step, Link] | None:
    for step in case.steps(direction):
        if step.kind is not StepKind.ROUTE or step.netns != case.world.host or step.route is None:
            continue
        if step.route.dst.prefixlen != 0 or step.route.kind != "unicast" or step.ifindex is None:
            continue
        view = view_of(case, step)
        link = view.links.get(step.ifindex)
        if link is None:
            continue
        into_container = link.kind == "veth" and (
            view.peer(link) in case.world.containers or case.network_of_bridge(_master(view, link)) is not None
        )
        if link.loopback or into_container or case.network_of_bridge(link.name) is not None:
            return view, step, link
    return None


def _master(view: View, link: Link) -> str:
    master = view.links.get(link.master or 0)
    return master.name if master is not None else ""


def _zeroconf(view: View, link: Link) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(kind=EvidenceKind.ADDRESS, ref=f"{view.name}/{link.name}", text=address_text(each, names(view)))
        for each in view.addresses.get(link.ifindex, ())
        if each.address.version == 4 and each.address.ip.is_link_local
    )


RULE = rule("route.default-hijacked", check, rank=30, needs=("routes",))
