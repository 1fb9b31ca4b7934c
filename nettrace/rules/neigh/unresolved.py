"""Nobody answers ARP or NDP for the next hop.

What it reports: the next hop's address has no holder that answers on this link.
Why traffic stops: without a MAC address the kernel cannot send, and reports host unreachable after three seconds.
Proof: the neighbour entry; requests seen and not answered.
Remedy: find who should hold the address, or mend the route that names it.
Known limits: causes that nettrace can see (a device down, a lost address, arp_ignore) have codes of their own.
Seen in the field: "No route to host" after three seconds: the next hop does not answer (OrangePiShell#18, moby#32048).
    Common.
"""

from __future__ import annotations

from nettrace.model.observe import Sighting
from nettrace.model.path import Outcome, Reason, Step, StepKind
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, last_route, lost_on_wire, view_of
from nettrace.rules.wording import place, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the next hop stays unresolved."""
    hits = []
    for blocker, step in blockers(case, Reason.NEIGHBOUR_FAILED, Reason.ARP_IGNORED):
        view = view_of(case, step)
        asked = [each for each in case.correlation.arp_unanswered if each.packet.dst == step.next_hop]
        heard = tuple(
            Evidence(
                kind=EvidenceKind.PACKET, ref=each.point, text=f"who has {step.next_hop}? was asked, nobody answered"
            )
            for each in asked[:1]
        )
        route = last_route(case, blocker, step)
        hits.append(
            Hit(
                title=f"nobody answers for {step.next_hop} on {step.device}",
                explanation=f"{view.name} must hand the packet to {step.next_hop} on {step.device}: {step.text}.",
                at=place(case, step),
                evidence=(
                    *heard,
                    *(route_evidence(view, route.route) if route is not None else ()),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Correct the next hop, or bring up whoever should hold the address.",
                    commands=(f"ip neigh show {step.next_hop}", f"ip route get {step.packet.dst}"),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits, *_unanswered(case))


def _unanswered(case: Case) -> list[Hit]:
    """Return the findings of next hops beyond this host's sight that were asked for in vain."""
    hits = []
    for blocker in lost_on_wire(case):
        for step in case.steps(blocker.direction):
            view = case.view(step.netns)
            if step.kind is not StepKind.NEIGHBOUR or view is None or not _asked_in_vain(case, step):
                continue
            if step.outcome is Outcome.UNKNOWN:
                continue  # who should have answered is not known: the fault may lie in what was not read
            hits.append(
                Hit(
                    title=f"nobody answers for {step.next_hop} on {step.device}",
                    explanation=f"{view.name} must hand the packet to {step.next_hop} on {step.device}, "
                    "and nobody there answers for that address.",
                    at=f"{view.name}/{step.device}",
                    evidence=(
                        Evidence(
                            kind=EvidenceKind.NEIGHBOUR,
                            ref=view.name,
                            text=f"{step.next_hop} dev {step.device}: asked for, no answer",
                        ),
                        *wire_evidence(case, blocker),
                    ),
                    mend=Mend(
                        summary="Correct the next hop, or bring up whoever should hold the address.",
                        commands=(f"ip neigh show {step.next_hop}", f"ip route get {step.packet.dst}"),
                    ),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=step.segment,
                    device=step.device,
                    netns=view.id,
                )
            )
            break
    return hits


def _asked_in_vain(case: Case, step: Step) -> bool:
    """Tell whether a step's next hop was asked for and did not answer, by the wire or by the kernel's own table."""
    if any(each.packet.dst == step.next_hop and _there(case, each, step) for each in case.correlation.arp_unanswered):
        return True
    later = case.world_after.view(step.netns) if case.world_after is not None else None
    if later is None or step.next_hop is None:
        return False
    entry = later.neighbours.get((step.ifindex or 0, step.next_hop))
    return entry is not None and entry.state in ("FAILED", "INCOMPLETE")


def _there(case: Case, request: Sighting, step: Step) -> bool:
    """Tell whether a request was heard on the link that the step asks on, not by another device of the namespace."""
    point = next((each for each in case.trace.points if each.id == request.point), None)
    view = case.view(step.netns)
    link = view.links.get(point.ifindex) if view is not None and point is not None else None
    if point is None or link is None or point.netns != step.netns:
        return True
    return step.ifindex in (link.ifindex, link.master)


RULE = rule("neigh.unresolved", check, rank=90, needs=("neighbours",))
