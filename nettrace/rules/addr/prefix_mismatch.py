"""The netmask of a container differs from its network's.

What it reports: the container's address has another prefix length than the engine gave it.
Why traffic stops: with a wider prefix remote hosts look like neighbours that nobody answers for; with a narrower one
    neighbours, or the gateway itself, look remote.
Proof: the engine's endpoint against the address row.
Remedy: put the address with the right prefix back.
Known limits: a mismatch that this flow does not meet is not reported.
Seen in the field: no public report of its own was read; it comes with hand-made interfaces and with subnets that were
    changed under a running container (moby#14185, moby#26391).
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.snapshot import Address
from nettrace.model.text import address_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_address, add_route, default_route, delete_address, together
from nettrace.rules.faults import attachment, errno_or_wire, intent_evidence
from nettrace.rules.wording import enter, names

REASONS = (Reason.NO_ROUTE, Reason.NO_SOURCE_ADDRESS, Reason.NEIGHBOUR_FAILED, Reason.OTHERHOST, Reason.ARP_IGNORED)


def check(case: Case) -> Result:
    """Fire when an end of a stopped flow holds its address with another prefix length than its endpoint's."""
    for end, segment in ((case.flow.src, Segment.SOURCE), (case.flow.dst, Segment.DESTINATION)):
        own = attachment(case, end)
        if own is None:
            continue
        view, link, _host, _veth, endpoint, network = own
        meant = endpoint.ipv4 if case.flow.family == 4 else endpoint.ipv6
        held = [each for each in view.addresses.get(link.ifindex, ()) if meant and each.address.ip == meant.ip]
        if meant is None or not held or any(each.address.network == meant.network for each in held):
            continue
        wrong = held[0]
        direction = Direction.FORWARD if end is case.flow.src else Direction.REPLY
        blocker = next((each for each in case.blockers if _fits(case, each, view.id, direction)), None)
        if blocker is None:
            continue
        right = Address(ifindex=link.ifindex, address=meant, scope=wrong.scope)
        gateway = endpoint.gateway if case.flow.family == 4 else endpoint.gateway6
        prefix = enter(case, view.id)
        commands = [
            f"{prefix}ip addr del {wrong.address} dev {link.name}",
            f"{prefix}ip addr add {meant} dev {link.name}",
        ]
        change = together(delete_address(view.id, wrong), add_address(view.id, right))
        if gateway is not None:
            commands.append(f"{prefix}ip route replace default via {gateway} dev {link.name}")
            change = together(change, add_route(view.id, default_route(gateway, link.ifindex)))
        return fired(
            Hit(
                title=f"{link.name} in {end.name} has the netmask /{wrong.address.network.prefixlen} instead of "
                f"/{meant.network.prefixlen}",
                explanation=f"{end.name} holds {wrong.address}, but {network.name} is {meant.network}: "
                + (
                    "hosts beyond the network look like neighbours to it."
                    if wrong.address.network.prefixlen < meant.network.prefixlen
                    else "neighbours of the network look remote to it."
                ),
                at=f"{view.name}/{link.name}",
                evidence=(
                    Evidence(
                        kind=EvidenceKind.ADDRESS,
                        ref=f"{view.name}/{link.name}",
                        text=address_text(wrong, names(view)),
                    ),
                    intent_evidence(f"{end.name} in {network.name}: {meant}", network.engine),
                    *errno_or_wire(case, blocker),
                ),
                mend=Mend(
                    summary="Give the interface its address with the right netmask, or reconnect the container.",
                    commands=tuple(commands),
                    change=change,
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=segment,
                device=link.name,
                netns=view.id,
            )
        )
    return fired()


def _fits(case: Case, blocker: Blocker, netns: int, direction: Direction) -> bool:
    """Tell whether a wrong netmask in a namespace can explain a stop: one there, or one without a step."""
    if blocker.direction is not direction:
        return False
    return blocker.step is None or (blocker.step.netns == netns and blocker.step.reason in REASONS)


RULE = rule("addr.prefix-mismatch", check, rank=31, needs=("addresses", "intent"))
