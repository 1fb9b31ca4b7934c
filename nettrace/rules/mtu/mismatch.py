"""An interface on the path is smaller than the packet, and ICMP says so.

What it reports: a packet with DF set does not fit into a device on the way; the sender is told.
Why traffic stops: the packet is discarded where it no longer fits; smaller ones pass.
Proof: the MTUs along the way; ICMP fragmentation needed, seen at the source; EMSGSIZE when it is the source's own
    device.
Remedy: lower the MTU of the network, or clamp TCP's segment size.
Known limits: only the size that was asked for is tried; ask again with --size.
Seen in the field: ping works, while TLS handshakes and downloads hang, on clouds and VPNs with a smaller MTU than
    Docker's 1500 (moby#22297, moby#22028, moby#20178, origin#22599). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.verdict import Evidence, EvidenceKind, Severity
from nettrace.rules.base import Hit, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.mtu_facts import frag_needed_back, mtu_mend
from nettrace.rules.wording import errno_evidence, link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the packet is too big for a device and the sender learns of it; without a probe, when it should."""
    hits = []
    back = frag_needed_back(case)
    for blocker, step in blockers(case, Reason.TOO_BIG):
        local = case.correlation.errno is not None or step.netns == case.flow.src.netns
        if step.segment is Segment.UNDERLAY or (case.correlation.probed and back is None and not local):
            continue
        view = view_of(case, step)
        link = step.link
        mtu = case.trace.forward.mtu or (link.mtu if link is not None else None)
        heard: tuple[Evidence, ...] = ()
        if back is not None:
            heard = (
                Evidence(
                    kind=EvidenceKind.ICMP,
                    ref=back.point,
                    text=f"fragmentation needed, from {back.packet.src}, seen at {back.point}",
                ),
            )
        hits.append(
            Hit(
                title=f"{step.packet.length} bytes do not fit through {step.device} (MTU {mtu})",
                explanation=(
                    f"A packet of {step.packet.length} bytes that may not be fragmented meets {step.device} in "
                    f"{view.name}, which takes {mtu}; the sender is told, smaller packets pass."
                ),
                at=f"{view.name}/{step.device}",
                evidence=(
                    *((link_evidence(view, link),) if link is not None else ()),
                    *heard,
                    *errno_evidence(case),
                    *wire_evidence(case, blocker),
                ),
                mend=mtu_mend(case, step, mtu),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    if not hits and back is not None and case.blockers:
        hits.append(
            Hit(
                title="a router beyond this host says the packet is too big",
                explanation=f"{back.packet.src} answered that the packet does not fit its next link; "
                "smaller packets pass.",
                at=back.point,
                evidence=(
                    Evidence(
                        kind=EvidenceKind.ICMP, ref=back.point, text=f"fragmentation needed from {back.packet.src}"
                    ),
                ),
                mend=mtu_mend(case, None, None),
                basis=case.blockers[0].basis,
                blocker=case.blockers[0],
                direction=Direction.FORWARD,
                segment=Segment.REMOTE,
            )
        )
    return fired(*hits)


RULE = rule("mtu.mismatch", check, rank=70, needs=("links",), severity=Severity.DEGRADING)
