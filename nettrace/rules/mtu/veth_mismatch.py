"""The two ends of a veth pair, or a port and its bridge, disagree on the MTU.

What it reports: a frame is longer than the receiving end of a veth pair takes.
Why traffic stops: veth discards it silently; no ICMP is sent on layer 2.
Proof: both MTUs; the frame seen at one end and not at the other.
Remedy: set the same MTU on both ends.
Known limits: none.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.model.verdict import Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_link
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a frame does not fit into the receiving end of a pair."""
    hits = []
    for blocker, step in blockers(case, Reason.FRAME_TOO_BIG):
        view = view_of(case, step)
        link = view.links[step.ifindex or 0]
        peer = case.peer_of(view, link)
        size = peer[1].mtu if peer is not None else step.packet.length
        hits.append(
            Hit(
                title=f"{step.packet.length} bytes do not fit into {link.name} (MTU {link.mtu})",
                explanation=(
                    f"The two ends of the pair disagree: {link.name} takes {link.mtu} bytes, its peer sends up "
                    f"to {size}; longer frames vanish without an error."
                ),
                at=f"{view.name}/{link.name}",
                evidence=(
                    link_evidence(view, link),
                    *((link_evidence(*peer),) if peer is not None else ()),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Give both ends the same MTU.",
                    commands=(f"{enter(case, view.id)}ip link set {link.name} mtu {size}",),
                    change=set_link(view.id, link.ifindex, mtu=size),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("mtu.veth-mismatch", check, rank=69, needs=("links",), severity=Severity.DEGRADING)
