"""Forwarding made the host ignore router advertisements, and its IPv6 default route is gone.

What it reports: the host has no IPv6 default route, and an uplink that is set to learn one ignores advertisements
    because it forwards.
Why traffic stops: with forwarding on, accept_ra=1 means "no"; the route that was learnt before expires.
Proof: the uplink's forwarding and accept_ra; no default route.
Remedy: accept_ra=2 on the uplink; the next advertisement brings the route back.
Known limits: whether a router advertises at all cannot be seen from the snapshot.
Seen in the field: the host loses its IPv6 default route when Docker turns forwarding on (for-linux#844,
    for-linux#1373, nextcloud-aio#4392). Common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, errno_or_wire, view_of
from nettrace.rules.wording import sysctl_evidence


def check(case: Case) -> Result:
    """Fire when the host has no IPv6 route for the packet, and an uplink with a global address ignores RAs."""
    hits = []
    for blocker, step in blockers(case, Reason.NO_ROUTE, Reason.ROUTE_UNREACHABLE):
        if step.netns != case.world.host or step.packet.family != 6:
            continue
        view = view_of(case, step)
        deaf = next((link for link in view.links.values() if _deaf(case, view, link)), None)
        if deaf is None:
            continue
        base = f"net.ipv6.conf.{deaf.name.replace('.', '/')}"
        hits.append(
            Hit(
                title=f"{deaf.name} ignores router advertisements because the host forwards IPv6",
                explanation=f"With forwarding on, accept_ra = 1 makes {deaf.name} ignore advertisements, and the "
                "IPv6 default route that it once learnt has expired.",
                at=f"{view.name}/{deaf.name}",
                evidence=(
                    sysctl_evidence(view, f"{base}.forwarding = 1"),
                    sysctl_evidence(view, f"{base}.accept_ra = 1"),
                    Evidence(kind=EvidenceKind.ROUTE, ref=view.name, text="no IPv6 default route"),
                    *errno_or_wire(case, blocker),
                ),
                mend=Mend(
                    summary="Accept advertisements although the host forwards; the next one brings the route back.",
                    commands=(f"sysctl -w {base}.accept_ra=2",),
                ),
                basis=blocker.basis,
                blocker=blocker,
                device=deaf.name,
                netns=view.id,
            )
        )
    return fired(*hits)


def _deaf(case: Case, view: View, link: Link) -> bool:
    """Tell whether a link is an uplink that would learn routes if it did not forward."""
    inside = link.loopback or link.kind == "bridge" or link.master is not None or case.network_of_bridge(link.name)
    if inside or not link.up or view.peer(link) in case.world.containers:
        return False
    own = any(each.address.version == 6 and each.scope == "global" for each in view.addresses.get(link.ifindex, ()))
    return own and view.conf(6, link.name, "forwarding", 0) == 1 and view.conf(6, link.name, "accept_ra", 0) == 1


RULE = rule("sysctl.accept-ra", check, rank=44, needs=("sysctls", "routes"))
