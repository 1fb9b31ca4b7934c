"""The hosts of an overlay do not let its tunnel through.

What it reports: a rule drops the outer packets of the overlay's VXLAN, going out of a host or coming in; or, with
    --peer, they leave the one host and do not come in at the other.
Why traffic stops: all traffic between the hosts' containers travels in UDP (4789 unless set otherwise).
Proof: the rule, met by the outer packet; the points that saw the packet and those that did not.
Remedy: delete the rule, or accept the port between the hosts.
Known limits: without --peer, what the far host or the net between drops shows only as silence behind the uplink.
Seen in the field: containers on one host talk, and never across hosts: UDP 4789 is closed, or taken by the
    hypervisor's own VXLAN (moby#30972, classicswarm#2687, flannel#423, flannel#2388). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Segment, StepKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits, lost_on_wire, view_of
from nettrace.rules.wording import wire_evidence

WORDS = FilterWords(
    title="a rule {verb} the overlay's tunnel: {rule}",
    explanation="{place} {verb} the UDP packets in which the overlay travels between the hosts.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "overlay.underlay-blocked", WORDS), *_between(case))


def _between(case: Case) -> list[Hit]:
    """Return the findings of tunnels that one host was seen sending and the other was not seen receiving."""
    hits = []
    for blocker in lost_on_wire(case):
        steps = case.steps(blocker.direction)
        cross = next((each for each in steps if each.kind is StepKind.CROSS), None)
        if blocker.segment is not Segment.UNDERLAY or cross is None or blocker.before is None:
            continue
        missed, view = case.trace.point(blocker.before), view_of(case, cross)
        if blocker.after != f"{view.name}/{cross.device}" or case.world.same_host(missed.netns, cross.netns):
            continue
        outer = cross.packet
        hits.append(
            Hit(
                title=f"the tunnel leaves by {blocker.after} and does not come in at {blocker.before}",
                explanation=f"The overlay's UDP packets from {outer.src} to {outer.dst} port {outer.dport} were seen "
                "leaving the one host and not arriving at the other: what lies between drops them.",
                at=blocker.after,
                evidence=wire_evidence(case, blocker),
                mend=Mend(
                    summary=f"Open {outer.dport}/udp between {outer.src} and {outer.dst}, both ways, in whatever "
                    "firewall or security group lies between the hosts.",
                    commands=(f"tcpdump -ni any udp port {outer.dport}  # along the way",),
                ),
                basis=blocker.basis,
                blocker=blocker,
                device=cross.device,
                netns=view.id,
            )
        )
    return hits


RULE = rule("overlay.underlay-blocked", check, rank=58, needs=("netfilter",))
