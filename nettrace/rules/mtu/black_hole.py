"""The packet is too big, and the ICMP that should say so does not arrive.

What it reports: a packet with DF set does not fit into a device on the way, and the sender hears nothing.
Why traffic stops: senders keep sending packets of a size that never arrives.
Proof: the MTUs along the way; the packet seen before the small device and not behind; no fragmentation needed at
    the source.
Remedy: let ICMP fragmentation needed through, or lower the MTU of the network.
Known limits: needs a probe; prediction alone reports mtu.mismatch.
Seen in the field: small requests work and large ones hang, with ICMP filtered somewhere (moby#12565, libnetwork#2661,
    for-linux#594). Common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.model.verdict import Evidence, Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.mtu_facts import dropped_inside, frag_needed_back, frag_needed_heard, mtu_mend
from nettrace.rules.wording import delete_command, link_evidence, place_of, rule_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a probe that is too big vanished and no ICMP error reached the source."""
    hits: list[Hit] = []
    if not case.correlation.probed or frag_needed_back(case) is not None or case.correlation.errno is not None:
        return fired()
    for blocker, step in blockers(case, Reason.TOO_BIG):
        if step.netns == case.flow.src.netns:
            continue
        view = view_of(case, step)
        mend: Mend = mtu_mend(case, step, case.trace.forward.mtu)
        heard = frag_needed_heard(case)
        culprit = dropped_inside(case, heard) if heard is not None else None
        fate = "never reached the sender"
        shown: tuple[Evidence, ...] = ()
        if heard is not None and culprit is not None and case.flow.src.netns is not None:
            fate = f"came to {heard.point} and was dropped there by {place_of(culprit)}"
            shown = rule_evidence(case, case.flow.src.netns, culprit)
            mend = Mend(
                summary="Delete the rule, or let ICMP's fragmentation needed through before it.",
                commands=(delete_command(case, case.flow.src.netns, culprit),),
            )
        hits.append(
            Hit(
                title=f"{step.packet.length} bytes vanish at {step.device}, and the sender is not told",
                explanation=f"A packet of {step.packet.length} bytes does not fit into {step.device}, and the ICMP "
                f"error that should say so {fate}: the sender will go on sending that size.",
                at=f"{view.name}/{step.device}",
                evidence=(
                    *((link_evidence(view, step.link),) if step.link is not None else ()),
                    *shown,
                    *wire_evidence(case, blocker),
                ),
                mend=mend,
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("mtu.black-hole", check, rank=71, needs=("links",), severity=Severity.DEGRADING)
