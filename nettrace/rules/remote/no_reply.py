"""The packet left the host correctly, and nothing came back.

What it reports: the egress device sent the packet with an address of the host, and no answer or error returned; or
    the answer came in a frame that is not for this host.
Why traffic stops: something beyond this host discards the packet or the answer.
Proof: the capture at the egress; silence until the timeout; conntrack UNREPLIED.
Remedy: ask whoever runs what is behind the egress device.
Known limits: which of the two directions is lost cannot be told from here.
Seen in the field: security groups, source checks of clouds and far firewalls swallow what left correctly (moby#30972,
    kube-router#35, flannel#506, kops#10019, cilium#14243). Common.
"""

from __future__ import annotations

from nettrace.model.observe import SightingKind
from nettrace.model.path import Direction, LegEnd, Segment, StepKind
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, ObservedSight
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.nat_facts import leaving
from nettrace.rules.outside_facts import frame_astray


def check(case: Case) -> Result:
    """Fire when the flow left this host, was seen leaving, and nothing at all came back."""
    correlation = case.correlation
    if not correlation.probed or not correlation.silent or case.trace.forward.passing is not LegEnd.LEFT:
        return fired()
    astray = _astray(case)
    if astray is not None:
        return fired(astray)
    if leaving(case) is not None:
        # It left with an address that nobody can answer: that has codes of its own.
        return fired()
    blocker = next(
        (each for each in case.blockers if each.direction is Direction.REPLY and each.segment is Segment.REMOTE), None
    )
    leave = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.LEAVE), None)
    if blocker is None or leave is None:
        return fired()
    view = case.world.views[leave.netns]
    point = f"{view.name}/{leave.device}"
    out = [each for each in correlation.passages if each.direction is Direction.FORWARD and each.point == point]
    if any(each.observed is ObservedSight.NOT_SEEN for each in out):
        return fired()  # it did not get that far
    seen = next(
        (
            each
            for each in (case.observation.sightings if case.observation is not None else ())
            if each.kind is SightingKind.PROBE and each.point == point
        ),
        None,
    )
    shown = seen.packet if seen is not None else leave.packet
    explanation = (
        f"The packet left this host by {leave.device} as {shown.src} → {shown.dst}, which is right, "
        "and nothing came back: it is lost beyond this host, one way or the other."
    )
    tap = view.by_name.get(leave.device or "")
    if tap is not None and tap.kind == "tun":
        explanation = (
            f"The packet was handed to {tap.reader or 'the process'} behind {tap.name} as {shown.src} → {shown.dst}, "
            "and nothing came back: that process may not have sent it on, the host's rules for its own sockets may "
            "stop it, or it is lost beyond this host."
        )
    inside = _tunnel(case)
    if inside is not None:
        explanation += f" It is the tunnel of an overlay: {inside[0]}"
    return fired(
        Hit(
            title=f"{case.flow.dst.name} did not answer",
            explanation=explanation,
            at=point,
            evidence=(
                Evidence(
                    kind=EvidenceKind.PACKET,
                    ref=point,
                    text=f"{'seen leaving' if seen is not None else 'leaves'} as {shown.src} → {shown.dst}; "
                    "no answer and no error",
                ),
            ),
            mend=inside[1]
            if inside is not None
            else Mend(
                summary=f"Ask at {shown.dst}, or at the router behind {leave.device}, whether packets from "
                f"{shown.src} arrive and answers are sent.",
                commands=(f"tcpdump -ni any host {shown.src}  # there",),
            ),
            basis=blocker.basis,
            blocker=blocker,
        )
    )


def _astray(case: Case) -> Hit | None:
    """Return the finding of an answer that came in a frame for another MAC than that of the device it came to."""
    found = frame_astray(case)
    blocker = next((each for each in case.blockers if each.direction is Direction.REPLY), None)
    if found is None or blocker is None:
        return None
    view, link, frame = found
    mac, held = frame.packet.dst_mac, frame.packet.dst
    router = next((step.next_hop for step in case.steps(Direction.FORWARD) if step.kind is StepKind.NEIGHBOUR), None)
    return Hit(
        title=f"the answer comes to {link.name} in a frame for {mac}, which is not its MAC",
        explanation=f"{case.flow.dst.name} answered, and the router handed the answer to {mac}, although {link.name} "
        f"has {link.mac}: it remembers an old or wrong MAC for {held}.",
        at=frame.point,
        evidence=(
            Evidence(
                kind=EvidenceKind.PACKET, ref=frame.point, text=f"{frame.packet.src} → {held} came in a frame for {mac}"
            ),
            Evidence(kind=EvidenceKind.LINK, ref=frame.point, text=f"{link.name} has the MAC {link.mac}"),
        ),
        mend=Mend(
            summary=f"Delete the entry for {held} at the router"
            + (f" behind {router}." if router is not None else "."),
            commands=(f"ip neigh del {held} dev <device>  # there",),
        ),
        basis=Basis.OBSERVED,
        blocker=blocker,
        segment=Segment.REMOTE,
        device=link.name,
        netns=view.id,
    )


def _tunnel(case: Case) -> tuple[str, Mend] | None:
    """Return what the other host of an overlay has to do for the packet, and what to ask there."""
    wrap = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.ENCAP), None)
    vxlan = wrap.link.vxlan if wrap is not None and wrap.link is not None else None
    if wrap is None or vxlan is None:
        return None
    first = case.steps(Direction.FORWARD)[0].packet
    outer = wrap.packet
    text = (
        f"the host {outer.dst} must let UDP port {outer.dport} in from here, take VXLAN id {vxlan.vni} out of it, know "
        f"{first.dst} behind its bridge, and send the answer back the same way."
    )
    mend = Mend(
        summary=f"Ask at {outer.dst} whether the tunnel arrives and answers leave; with --peer NAME=ssh://{outer.dst} "
        "nettrace looks there itself.",
        commands=(f"tcpdump -ni any udp port {outer.dport}  # at {outer.dst}",),
    )
    return text, mend


RULE = rule("remote.no-reply", check, rank=92, needs=("links",))
