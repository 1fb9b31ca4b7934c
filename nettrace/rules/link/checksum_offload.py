"""Packets arrive with wrong checksums, and the receiver discards them.

What it reports: the packet reached the last interface of its way, and the receiving stack found its checksum wrong.
Why traffic stops: a device that should have computed the checksum did not (or a device or rule on the way spoilt it);
    the receiver drops such packets without a word.
Proof: the receiving namespace's counter of checksum errors rose by the probes that were sent, or the kernel gave
    such a reason for the drop; the packet was seen at the interface.
Remedy: let the sender's stack compute checksums itself (ethtool -K … tx off), and report the driver.
Known limits: the probe brings its checksum along, so a device that only leaves out what it was asked to compute is
    seen by the answers and by what other traffic counts, not by the probe. A rule that rewrites checksums looks the
    same.
Seen in the field: ping works and TCP never connects, on some network cards and virtual ones, mostly under VXLAN
    (moby#41775, photon#1321, flannel#1279, flannel#1282, calico#3145, calico#4865). Common.
"""

from __future__ import annotations

import re

from nettrace.correlate import Blocker
from nettrace.model.flow import Proto
from nettrace.model.path import Direction, Segment, StepKind
from nettrace.model.verdict import Basis, Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import lost_on_wire
from nettrace.rules.kernel_facts import drop_text, telling_drops
from nettrace.rules.wording import enter, wire_evidence

#: Where the kernel counts a packet with a wrong checksum (snmp_seq_show, snmp6_seq_show), by protocol and family.
COUNTERS = {
    (Proto.ICMP, 4): "Icmp.InCsumErrors",
    (Proto.ICMP, 6): "Icmp6.InCsumErrors",
    (Proto.TCP, 4): "Tcp.InCsumErrors",
    (Proto.TCP, 6): "Tcp.InCsumErrors",
    (Proto.UDP, 4): "Udp.InCsumErrors",
    (Proto.UDP, 6): "Udp6.InCsumErrors",
}
#: Reasons of skb:kfree_skb for it: ICMP_CSUM, TCP_CSUM, UDP_CSUM, IP_CSUM.
REASON = re.compile(r"\w+_CSUM")


def check(case: Case) -> Result:
    """Fire for a loss on the wire where the receiver counted a wrong checksum, or the kernel said so."""
    hits = []
    for blocker in lost_on_wire(case):
        for view in _receivers(case, blocker):
            rise = case.counter_rise(view.id, COUNTERS[case.flow.proto, case.flow.family])
            said = [each for each in telling_drops(case, None) if REASON.fullmatch(each.reason or "")]
            if rise or said:
                hits.append(_hit(case, blocker, view, rise, [drop_text(each) for each in said]))
                break
    return fired(*hits)


def _receivers(case: Case, blocker: Blocker) -> list[View]:
    """Return the namespaces that take packets of this flow for themselves: the lost one's first, then the other's."""
    steps = [step for direction in Direction for step in case.steps(direction) if step.kind is StepKind.LOCAL]
    ends = [case.flow.dst.netns, case.flow.src.netns, *(step.netns for step in steps)]
    if blocker.direction is Direction.REPLY and blocker.segment is Segment.SOURCE:
        ends.insert(0, case.flow.src.netns)
    views = [case.view(netns) for netns in dict.fromkeys(ends)]
    return [view for view in views if view is not None]


def _hit(case: Case, blocker: Blocker, view: View, rise: int, said: list[str]) -> Hit:
    name = COUNTERS[case.flow.proto, case.flow.family]
    counted = [Evidence(kind=EvidenceKind.COUNTER, ref=view.name, text=f"{name} rose by {rise}")] if rise else []
    told = [Evidence(kind=EvidenceKind.DROP, ref="skb:kfree_skb", text=text) for text in said]
    last = next((link.name for link in view.links.values() if not link.loopback), None)
    sender = case.flow.src.netns if view.id != case.flow.src.netns else case.flow.dst.netns
    other = case.view(sender)
    out = next((link.name for link in other.links.values() if not link.loopback), None) if other is not None else None
    commands = (f"{enter(case, other.id)}ethtool -K {out} tx off",) if other is not None and out is not None else ()
    answered = view.id == case.flow.src.netns
    place = Segment.HOST if view.id == case.world.host else Segment.SOURCE if answered else Segment.DESTINATION
    return Hit(
        title=f"{view.name} discards the packet: its checksum is wrong",
        explanation=f"The packet reached {view.name} with a wrong checksum, so {view.name} threw it away. A device on "
        "the way that should have computed the checksum did not, or something spoilt it.",
        at=f"{view.name}/{last}" if last is not None else view.name,
        evidence=(*counted, *told, *wire_evidence(case, blocker)),
        mend=Mend(
            summary="Let the sender's own stack compute checksums, and report the driver that does not; a rule that "
            "rewrites checksums must go.",
            commands=commands,
        ),
        basis=Basis.OBSERVED,
        blocker=blocker,
        segment=place,
        direction=Direction.REPLY if answered else Direction.FORWARD,
        netns=view.id,
        device=last,
    )


RULE = rule("link.checksum-offload", check, rank=25, needs=("counters",))
