"""The gateway does not answer ARP on the bridge.

What it reports: arp_ignore (or arp_filter) keeps the holder of the next hop's address from answering; or the host, on
    its way out, whoever is to hand it the answer.
Why traffic stops: without an answer the sender has no MAC address to send to.
Proof: the sysctl of all and of the interface; the request seen, no reply.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: cached neighbour entries hide the fault until they expire.
Seen in the field: load balancers' settings for ARP keep the bridge from answering (kubernetes#70530, moby#31448).
"""

from __future__ import annotations

from nettrace.model.path import Direction, Reason, Segment, StepKind
from nettrace.predict.neigh import arp_blocked
from nettrace.predict.world import View
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
        if "arp_" not in name:
            continue
        view, device = holder_of(case, step)
        ends = {case.flow.dst.netns: Segment.DESTINATION, case.flow.src.netns: Segment.SOURCE}
        hits.append(
            Hit(
                title=f"the next hop does not answer ARP ({name} = {value})",
                explanation=f"{step.text}, so the packet cannot be handed over.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=_mend(case, view, device, name),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.BRIDGE if view.id == case.world.host else ends.get(view.id),
            )
        )
    return fired(*hits, *_towards_us(case))


def _mend(case: Case, view: View, device: str, sysctl: str) -> Mend:
    """Return the remedy: the sysctl off, of all devices and of this one, wherever it is set."""
    key = sysctl.rpartition(".")[2]
    names = [f"net.ipv4.conf.{each}.{key}" for each in ("all", device) if view.conf(4, each, key, 0)]
    return Mend(
        summary="Set the sysctl, and keep it in /etc/sysctl.d.",
        commands=tuple(f"{enter(case, view.id)}sysctl -w {each}=0" for each in names),
        change=set_sysctls(view.id, dict.fromkeys(names, "0")),
    )


def _towards_us(case: Case) -> list[Hit]:
    """Return the finding of the way out, where whoever is to hand the answer over gets no answer to its request.

    It may remember the MAC from before for a while; it is only where the answer stays away that this tells.
    """
    leave = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.LEAVE), None)
    lost = next((each for each in case.blockers if each.segment is Segment.REMOTE), None)
    view = case.view(leave.netns) if leave is not None else None
    link = view.by_name.get(leave.device or "") if view is not None and leave is not None else None
    if leave is None or lost is None or view is None or link is None or not case.correlation.silent:
        return []
    source = leave.packet.src
    hop = next((each.next_hop for each in case.steps(Direction.FORWARD) if each.kind is StepKind.NEIGHBOUR), None)
    name, _, value = (arp_blocked(view, link, source, hop or leave.packet.dst) or "").partition(" = ")
    if source not in view.owned or "arp_" not in name:
        return []
    return [
        Hit(
            title=f"{link.name} does not answer ARP for {source} ({name} = {value})",
            explanation=f"The packet left by {link.name}, and whoever is to hand the answer over asks who has "
            f"{source}: {view.name} does not say.",
            at=f"{view.name}/{link.name}",
            evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, lost)),
            mend=_mend(case, view, link.name, name),
            basis=lost.basis,
            blocker=lost,
            direction=Direction.REPLY,
            segment=Segment.EGRESS,
            device=link.name,
            netns=view.id,
        )
    ]


RULE = rule("sysctl.arp-ignore", check, rank=38, needs=("sysctls",))
