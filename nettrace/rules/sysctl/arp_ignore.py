"""The gateway does not answer ARP on the bridge.

What it reports: arp_ignore keeps the holder of the next hop's address from answering.
Why traffic stops: without an answer the sender has no MAC address to send to.
Proof: arp_ignore of all and of the interface; the request seen, no reply.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: cached neighbour entries hide the fault until they expire.
Seen in the field: load balancers' settings for ARP keep the bridge from answering (kubernetes#70530, moby#31448).
"""

from __future__ import annotations

from nettrace.model.path import Reason, Segment
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_sysctls
from nettrace.rules.faults import blockers, holder_of
from nettrace.rules.wording import enter, place, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop that this sysctl makes."""
    hits = []
    for blocker, step in blockers(case, Reason.ARP_IGNORED):
        name, _, value = (step.sysctl or "").partition(" = ")
        if "arp_ignore" not in name:
            continue
        view, device = holder_of(case, step)
        names = [f"net.ipv4.conf.{each}.arp_ignore" for each in ("all", device) if view.conf(4, each, "arp_ignore", 0)]
        ends = {case.flow.dst.netns: Segment.DESTINATION, case.flow.src.netns: Segment.SOURCE}
        hits.append(
            Hit(
                title=f"the next hop does not answer ARP ({name} = {value})",
                explanation=f"{step.text}, so the packet cannot be handed over.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                    commands=tuple(f"{enter(case, view.id)}sysctl -w {each}=0" for each in names),
                    change=set_sysctls(view.id, dict.fromkeys(names, "0")),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.BRIDGE if view.id == case.world.host else ends.get(view.id),
            )
        )
    return fired(*hits)


RULE = rule("sysctl.arp-ignore", check, rank=38, needs=("sysctls",))
