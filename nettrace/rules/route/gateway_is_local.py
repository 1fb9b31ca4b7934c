"""A bridge carries the address of the host's own default gateway.

What it reports: the next hop of the host's route is an address of the host itself, held by another device.
Why traffic stops: the host takes the gateway's packets for its own and answers ARP for it, so nothing gets out by it.
Proof: the route; the address row that holds the same address.
Remedy: give the engine's network another subnet or gateway; take the address away meanwhile.
Known limits: virtual addresses that routers share with the host (VRRP) on purpose look the same.
Seen in the field: the whole host goes offline when Docker starts, since its bridge took the router's address
    (for-linux#1110).
"""

from __future__ import annotations

from nettrace.model.path import Direction, Segment, StepKind
from nettrace.model.text import address_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_address
from nettrace.rules.faults import view_of
from nettrace.rules.wording import names, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the flow stops and a route of the host goes by a gateway that the host itself holds elsewhere."""
    for step in case.steps(Direction.FORWARD):
        if step.kind is not StepKind.ROUTE or step.netns != case.world.host or step.route is None:
            continue
        # The route's own word: the kernel takes its gateway for itself, and asks the link for the destination.
        gateway = next((hop.gateway for hop in step.route.nexthops if hop.ifindex == step.ifindex), None)
        view = view_of(case, step)
        holder = view.owned.get(gateway) if gateway is not None else None
        if (
            holder is None
            or holder not in view.links
            or gateway == step.packet.dst
            or holder == step.ifindex
            or not case.blockers
        ):
            continue
        row = next(each for each in view.addresses[holder] if each.address.ip == gateway)
        device = view.links[holder].name
        blocker = case.blockers[0]
        return fired(
            Hit(
                title=f"{device} holds {gateway}, the address of the host's own gateway",
                explanation=f"{view.name} routes by {gateway} on {step.device}, but {device} carries that very "
                "address, so the host takes the gateway for itself.",
                at=f"{view.name}/{device}",
                evidence=(
                    *route_evidence(view, step.route, step.rule),
                    Evidence(
                        kind=EvidenceKind.ADDRESS, ref=f"{view.name}/{device}", text=address_text(row, names(view))
                    ),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Give the engine's network another subnet; take the address away meanwhile.",
                    commands=(f"ip addr del {row.address} dev {device}",),
                    change=delete_address(view.id, row),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.HOST,
                device=device,
                netns=view.id,
            )
        )
    return fired()


RULE = rule("route.gateway-is-local", check, rank=34, needs=("routes", "addresses"))
