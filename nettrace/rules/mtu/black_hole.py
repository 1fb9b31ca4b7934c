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

from nettrace.model.path import Direction, Reason, Segment
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, dropping_rules_that_moved, view_of
from nettrace.rules.mtu_facts import TOO_BIG, dropped_inside, frag_needed_back, frag_needed_heard, mtu_mend
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
    return fired(*hits, *_stuck(case))


def _stuck(case: Case) -> list[Hit]:
    """Return the finding of an error from beyond this host that came to it, and not to the sender."""
    own = {point.id for point in case.trace.points if point.netns == case.flow.src.netns}
    errors = [each for each in case.correlation.errors if (each.packet.icmp_type, each.packet.icmp_code) in TOO_BIG]
    if not errors or any(each.point in own for each in errors) or blockers(case, Reason.TOO_BIG) or not case.blockers:
        return []
    last = errors[-1]
    rules = [(netns, ref) for netns, ref, _by in dropping_rules_that_moved(case)]
    dropped = rules[0] if len(rules) == 1 else None
    mend = Mend(summary="Let ICMP's fragmentation needed through to the sender, or give its network a smaller MTU.")
    if dropped is not None:
        mend = Mend(
            summary="Delete the rule, or let ICMP's fragmentation needed through before it.",
            commands=(delete_command(case, *dropped),),
        )
    return [
        Hit(
            title=f"{last.packet.src} says that the packet is too big, and the sender is not told",
            explanation=f"{last.packet.src} answered that the packet does not fit its next link. That came to "
            f"{last.point} and no further: the sender will go on sending that size, while smaller packets pass.",
            at=last.point,
            evidence=(
                Evidence(
                    kind=EvidenceKind.ICMP,
                    ref=last.point,
                    text=f"fragmentation needed, from {last.packet.src}, seen at {last.point} and not at the sender",
                ),
                *(rule_evidence(case, *dropped) if dropped is not None else ()),
            ),
            mend=mend,
            basis=Basis.OBSERVED,
            blocker=case.blockers[0],
            direction=Direction.FORWARD,
            segment=Segment.REMOTE,
        )
    ]


RULE = rule("mtu.black-hole", check, rank=71, needs=("links",), severity=Severity.DEGRADING)
