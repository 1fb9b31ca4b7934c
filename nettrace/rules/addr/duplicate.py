"""Two live interfaces on one segment hold the same address.

What it reports: an address that the flow must resolve has more than one holder on the link, or the source's address is
    also held by a namespace that should forward for it, which takes its packets for forged.
Why traffic stops: both answer ARP or NDP, the last answer wins, and packets go now to the one and now to the other.
Proof: both address rows and MACs; the neighbour entry.
Remedy: take the address from the one that the engine did not give it to.
Known limits: holders beyond this host cannot be seen; while packets happen to reach the right one it is a warning.
Seen in the field: two containers or hosts that were given one address answer by turns (moby#22334, moby#21357).
"""

from __future__ import annotations

from nettrace.model.base import IPAddress
from nettrace.model.path import Direction, Reason, Segment, StepKind
from nettrace.model.snapshot import Link
from nettrace.model.text import address_text
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, Severity
from nettrace.predict import neigh
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_address
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, names, wire_evidence


def check(case: Case) -> Result:
    """Fire for the first next hop on the way that two namespaces of one segment hold, or a source that is also here."""
    for blocker, step in blockers(case, Reason.MARTIAN):
        view = view_of(case, step)
        source = step.packet.src
        own = [(view, view.links[index]) for address, index in view.owned.items() if address == source]
        sender = case.view(case.flow.src.netns if blocker.direction is Direction.FORWARD else case.flow.dst.netns)
        if own and not source.is_loopback and sender is not None and sender.id != view.id and source in sender.owned:
            holders = [*own, (sender, sender.links[sender.owned[source]])]
            return fired(_hit(case, blocker.direction, source, holders))
    for blocker, step in blockers(case, Reason.TAKEN_ELSEWHERE):
        taker, address = view_of(case, step), step.packet.dst
        owner = case.world.owner_of_address(address)
        meant = case.view(case.flow.dst.netns if address == case.flow.dst.address else owner and owner[0].netns)
        holders = [
            (view, view.links[view.owned[address]])
            for view in (taker, meant)
            if view is not None and address in view.owned and view.owned[address] in view.links
        ]
        twice = len(holders) > 1 or owner is not None
        if twice and holders and holders[0][0] is taker and holders[0][1].up:
            return fired(_hit(case, blocker.direction, address, holders, owner[0].name if owner is not None else None))
    for direction in Direction:
        for step in case.steps(direction):
            if step.kind is not StepKind.NEIGHBOUR or step.next_hop is None:
                continue
            view = view_of(case, step)
            link = view.links.get(step.ifindex or 0)
            holders = _holders(case, view, link, step.next_hop) if link is not None else []
            if len({(each.id, device.ifindex) for each, device in holders}) > 1:
                return fired(_hit(case, direction, step.next_hop, holders))
    return fired()


def _holders(case: Case, view: View, link: Link, address: IPAddress) -> list[tuple[View, Link]]:
    found = []
    for member in neigh.segment_of(case.world, view, link).members:
        there = case.world.views[member.netns]
        device = there.links[member.ifindex]
        if device.up and any(each.address.ip == address for each in there.addresses.get(member.ifindex, ())):
            found.append((there, device))
    return found


def _hit(
    case: Case,
    direction: Direction,
    address: IPAddress,
    holders: list[tuple[View, Link]],
    other: str | None = None,
) -> Hit:
    """Return the finding; `other` is a holder whose namespace the packet did not come to."""
    owner = case.world.owner_of_address(address)
    meant = owner[0].netns if owner is not None else None
    if owner is None and any(pool.gateway == address for each in case.before.intent.networks for pool in each.subnets):
        # The engine gives a network's gateway to its bridge.
        meant = case.world.host
    ordered = sorted(holders, key=lambda each: each[0].id == meant)
    intruder, device = ordered[0]
    row = next(each for each in intruder.addresses[device.ifindex] if each.address.ip == address)
    blocker = next((each for each in case.blockers if each.direction is direction), None)
    blocker = blocker or next(iter(case.blockers), None)
    reason = blocker.step.reason if blocker is not None and blocker.step is not None else None
    shared = reason not in (Reason.MARTIAN, Reason.TAKEN_ELSEWHERE)
    # What the source takes for its own never gets to any bridge, nor what is translated to the address on its way.
    inside = reason is Reason.TAKEN_ELSEWHERE and (
        address != case.flow.dst.address or any(each.id == case.flow.src.netns for each, _device in holders)
    )
    everybody = sorted({*(each.name for each, _device in holders), *([other] if other is not None else [])})
    return Hit(
        title=f"{address} is held by {' and '.join(everybody)}",
        explanation=f"{'Two interfaces on one segment' if shared else 'Two namespaces'} hold {address}, "
        + ("so packets for it reach whichever answered last." if shared else "so each takes it for its own."),
        at=f"{intruder.name}/{device.name}",
        evidence=(
            *(
                Evidence(
                    kind=EvidenceKind.ADDRESS,
                    ref=f"{each.name}/{held.name}",
                    text=f"{address_text(found, names(each))} ({held.mac})",
                )
                for each, held in holders
                for found in each.addresses[held.ifindex]
                if found.address.ip == address
            ),
            *(wire_evidence(case, blocker) if blocker is not None else ()),
        ),
        mend=Mend(
            summary=f"Take the address from {intruder.name}"
            + (f"; the engine gave it to {owner[0].name}." if owner is not None else "."),
            commands=(f"{enter(case, intruder.id)}ip addr del {row.address} dev {device.name}",),
            change=delete_address(intruder.id, row),
        ),
        basis=blocker.basis if blocker is not None else Basis.PREDICTED,
        blocker=blocker,
        severity=None if blocker is not None else Severity.WARNING,
        segment=Segment.BRIDGE if blocker is not None and not inside else None,
        device=device.name if blocker is not None else None,
        netns=intruder.id if blocker is not None else None,
    )


RULE = rule("addr.duplicate", check, rank=31, needs=("addresses",))
