"""A container's global IPv6 address is on-link for the router, and nobody answers for it.

What it reports: the container uses an address of the uplink's own /64, leaves untranslated, and no answer comes.
Why traffic stops: the router takes the address for a neighbour on its link and asks for it there; the host does not
    answer for its container.
Proof: the uplink's prefix; the container's address; no proxy entry; solicitations unanswered on the uplink.
Remedy: an NDP proxy entry on the uplink, or a prefix that the router routes to this host.
Known limits: NDP proxies in user space (ndppd, radvd) are not seen; then the answer comes, and nothing is reported.
Seen in the field: a container's global IPv6 address is unreachable from outside, since nobody answers for it on the
    link (for-linux#928, moby#10919, moby#25407, podman#14407). Common.
"""

from __future__ import annotations

from nettrace.model.base import rows
from nettrace.model.observe import SightingKind
from nettrace.model.path import Direction, LegEnd, Segment, StepKind
from nettrace.model.verdict import Basis, Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import view_of
from nettrace.rules.wording import wire_evidence


def check(case: Case) -> Result:
    """Fire when an IPv6 flow left with an on-link address of the uplink that the host neither holds nor proxies."""
    blocker = next(
        (each for each in case.blockers if each.direction is Direction.REPLY and each.segment is Segment.REMOTE), None
    )
    if case.flow.family != 6 or blocker is None or case.trace.forward.passing is not LegEnd.LEFT:
        return fired()
    out = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.LEAVE), None)
    if out is None or out.netns != case.world.host or out.ifindex is None:
        return fired()
    view, address = view_of(case, out), out.packet.src
    onlink = next(
        (
            each
            for each in view.addresses.get(out.ifindex, ())
            if each.address.version == 6 and address in each.address.network and each.address.network.prefixlen < 128
        ),
        None,
    )
    if onlink is None or address.is_link_local or address in view.owned:
        return fired()
    proxied = any(each.proxy and each.address == address for each in rows(view.ns.neighbours))
    device = out.device or ""
    if proxied and view.conf_max(6, device, "proxy_ndp", 0):
        return fired()
    asked = [
        each
        for each in case.correlation.arp_unanswered
        if each.kind is SightingKind.NDP_SOLICIT and each.packet.dst == address
    ]
    commands = (
        f"sysctl -w net.ipv6.conf.{device.replace('.', '/')}.proxy_ndp=1",
        f"ip -6 neigh add proxy {address} dev {device}",
    )
    return fired(
        Hit(
            title=f"nobody answers on {device} for {address}, which the router takes for its neighbour",
            explanation=f"{address} lies in {onlink.address.network}, the prefix of {device} itself, so the router "
            f"asks for it on the link instead of sending to this host, and {view.name} does not answer for it.",
            at=f"{view.name}/{device}",
            evidence=(
                Evidence(
                    kind=EvidenceKind.ADDRESS, ref=f"{view.name}/{device}", text=f"on-link: {onlink.address.network}"
                ),
                *(
                    Evidence(kind=EvidenceKind.PACKET, ref=each.point, text=f"who has {address}? was not answered")
                    for each in asked[:1]
                ),
                *wire_evidence(case, blocker),
            ),
            mend=Mend(
                summary="Let the host answer for the address, or use a prefix that the router routes to this host.",
                commands=commands,
            ),
            basis=Basis.BOTH if asked else blocker.basis,
            blocker=blocker,
            segment=Segment.EGRESS,
            device=device or None,
            netns=view.id,
        )
    )


RULE = rule("neigh.ndp-proxy-missing", check, rank=59, needs=("addresses", "neighbours"))
