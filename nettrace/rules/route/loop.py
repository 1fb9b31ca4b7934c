"""The packet runs in a circle until its TTL is used up.

What it reports: two routes send the packet back and forth; or it was sent with a TTL that is too small for its way.
Why traffic stops: each pass takes one off the TTL, and at zero the packet is discarded.
Proof: the TTL at the points; ICMP time exceeded.
Remedy: break the loop at one of the routes.
Known limits: loops beyond this host show as an ICMP error from there.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.observe import Sighting, SightingKind, Way
from nettrace.model.path import Direction, Reason, Segment, Step, StepKind
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_sysctls
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.outside_facts import answer_spent
from nettrace.rules.rewrites import LIFETIME, culprit
from nettrace.rules.wording import TIME_EXCEEDED, enter, route_evidence, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the TTL runs out on this host."""
    hits = []
    here = blockers(case, Reason.TTL_EXCEEDED)
    for blocker, step in here:
        view = view_of(case, step)
        if culprit(case, blocker, LIFETIME) is not None:
            continue  # filter.rule-drop names the rule
        short = _short(case, blocker, step)
        if short is not None:
            hits.append(short)
            continue
        hits.append(
            Hit(
                title=f"the packet runs in a circle through {view.name}",
                explanation=(
                    f"The routes send the packet to {step.packet.dst} round and round until its TTL is used up."
                ),
                at=view.name,
                evidence=(*route_evidence(view, step.route), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Break the loop: one of the routes must go elsewhere.",
                    commands=(f"ip route get {step.packet.dst}",),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    hits += _spent(case) if not hits else []
    seen = _back_again(case)
    if not here and seen is not None and case.blockers:
        kind, point, text = seen
        hits.append(
            Hit(
                title="the packet runs in a circle beyond this host",
                explanation=f"Routers beyond this host send the packet round and round: {text}.",
                at=point,
                evidence=(Evidence(kind=kind, ref=point, text=text),),
                mend=Mend(
                    summary=f"Ask whoever runs the next router about its route to {case.flow.dst.address}.",
                    commands=(f"traceroute -n {case.flow.dst.address}",),
                ),
                basis=case.blockers[0].basis,
                blocker=case.blockers[0],
                direction=Direction.FORWARD,
                segment=Segment.REMOTE,
            )
        )
    return fired(*hits)


def _short(case: Case, blocker: Blocker, step: Step) -> Hit | None:
    """Return the finding of a sender that gives its packets too small a TTL for the way: they run in no circle."""
    first = next((each for each in case.steps(blocker.direction) if not each.packet.src.is_unspecified), None)
    sender = case.view(first.netns) if first is not None else None
    ttl = first.packet.ttl if first is not None else 64
    name = "net.ipv4.ip_default_ttl"
    if first is not None and first.packet.family == 6:
        name = f"net.ipv6.conf.{first.device}.hop_limit"
    if first is None or sender is None or ttl >= 64 or ttl != sender.number(name, 64):
        return None
    what = "packets" if blocker.direction is Direction.FORWARD else "answers"
    return Hit(
        title=f"the TTL of {ttl} that {sender.name} gives its {what} runs out in {step_name(case, step)}",
        explanation=f"{sender.name} sends with a TTL of {ttl} ({name}), and each router on the way takes one off: "
        f"it does not suffice for the way to {step.packet.dst}.",
        at=step_name(case, step),
        evidence=(sysctl_evidence(sender, f"{name} = {ttl}"), *wire_evidence(case, blocker)),
        mend=Mend(
            summary="Set the sysctl, and keep it in /etc/sysctl.d.",
            commands=(f"{enter(case, sender.id)}sysctl -w {name}=64",),
            change=set_sysctls(sender.id, {name: "64"}),
        ),
        basis=blocker.basis,
        blocker=blocker,
    )


def step_name(case: Case, step: Step) -> str:
    """Return the name of the namespace that a step is in."""
    return view_of(case, step).name


def _spent(case: Case) -> list[Hit]:
    """Return the finding of an answer that came in with its TTL used up, where it had to be forwarded."""
    lost = next((each for each in case.blockers if each.step is None and each.direction is Direction.REPLY), None)
    last = answer_spent(case)
    if lost is None or last is None:
        return []
    point = case.trace.point(last.point)
    view = case.world.views[point.netns]
    return [
        Hit(
            title=f"the answer comes in by {point.device} with a TTL of {last.packet.ttl}, and may go no further",
            explanation=f"{view.name} must forward the answer of {last.packet.src}, and its TTL is used up. Either the "
            "far end sends with too small a TTL, or the answer has been round in a circle.",
            at=last.point,
            evidence=(
                Evidence(
                    kind=EvidenceKind.PACKET,
                    ref=last.point,
                    text=f"{last.packet.src} → {last.packet.dst} came in with a TTL of {last.packet.ttl}",
                ),
            ),
            mend=Mend(
                summary=f"Ask whoever runs {last.packet.src} about the TTL that it sends with.",
                commands=("sysctl net.ipv4.ip_default_ttl  # there",),
            ),
            basis=lost.basis,
            blocker=lost,
            segment=Segment.HOST,
            device=point.device,
            netns=view.id,
        )
    ]


def _back_again(case: Case) -> tuple[EvidenceKind, str, str] | None:
    """Return what shows a loop beyond this host: its error, or the probe itself coming in where it had left."""
    exceeded = TIME_EXCEEDED[0 if case.flow.family == 4 else 1]
    for each in case.correlation.errors:
        if (each.packet.icmp_type, each.packet.icmp_code) == exceeded and not _own_router(case, each):
            return EvidenceKind.ICMP, each.point, f"{each.packet.src} answered that the packet's TTL ran out"
    leave = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.LEAVE), None)
    view = case.view(leave.netns) if leave is not None else None
    for each in case.observation.sightings if case.observation is not None else ():
        if leave is None or view is None or each.kind is not SightingKind.PROBE or each.way is not Way.IN:
            continue
        if each.point == f"{view.name}/{leave.device}" and not _for_a_child(case, each.packet.dst_mac):
            return EvidenceKind.PACKET, each.point, f"the probe came back in by {leave.device}, where it had left"
    return None


def _for_a_child(case: Case, mac: str | None) -> bool:
    """Tell whether a frame is for a macvlan child: from one child to the other it is shown to their parent's taps."""
    kinds = ("macvlan", "macvtap")
    return any(
        link.kind in kinds and link.mac == mac and view.id != case.flow.src.netns
        for view in case.world.views.values()
        for link in view.links.values()
    )


def _own_router(case: Case, error: Sighting) -> bool:
    """Tell whether the one who says that a TTL ran out is a namespace of this host."""
    return any(error.packet.src in view.owned for view in case.world.views.values())


RULE = rule("route.loop", check, rank=52, needs=("routes",))
