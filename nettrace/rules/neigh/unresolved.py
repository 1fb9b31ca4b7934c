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

from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.model.base import IPAddress
from nettrace.model.path import LegEnd, Outcome, Reason, Step, StepKind
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict import predict
from nettrace.predict.world import View
from nettrace.rules.asked import asked_in_vain
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_route, set_link
from nettrace.rules.faults import blockers, holder_of, last_route, lost_on_wire, view_of
from nettrace.rules.route_facts import fewer_hops
from nettrace.rules.wording import delete_route_command, enter, place, route_evidence, wire_evidence


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
                mend=_arp_on(case, step)
                or _fewer(case, route, step.next_hop)
                or _other_way(case, blocker, step, route)
                or _look(case, step),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits, *_unanswered(case))


def _look(case: Case, step: Step) -> Mend:
    prefix = enter(case, step.netns)
    return Mend(
        summary="Correct the next hop, or bring up whoever should hold the address.",
        commands=(f"{prefix}ip neigh show {step.next_hop}", f"{prefix}ip route get {step.packet.dst}"),
    )


def _arp_on(case: Case, step: Step) -> Mend | None:
    """Return the remedy for a device that does not do ARP: the one that should ask, or the one that should answer."""
    if step.sysctl is None or not step.sysctl.endswith("NOARP"):
        return None
    asks = step.reason is Reason.NEIGHBOUR_FAILED
    view, device = (view_of(case, step), step.device or "") if asks else holder_of(case, step)
    link = view.by_name.get(device)
    if link is None:
        return None
    return Mend(
        summary=f"Switch ARP on at {device}.",
        commands=(f"{enter(case, view.id)}ip link set {device} arp on",),
        change=set_link(view.id, link.ifindex, noarp=False),
    )


def _other_way(case: Case, blocker: Blocker, step: Step, chosen: Step | None) -> Mend | None:
    """Return the remedy of deleting the route to a dead next hop, where another one then leads there."""
    route = chosen.route if chosen is not None else None
    if chosen is None or route is None or route.proto in ("kernel", "ra") or chosen.netns != step.netns:
        return None
    change = delete_route(step.netns, route)
    trace = predict(change(case.before), case.flow)
    ends = (LegEnd.ARRIVED, LegEnd.LEFT)
    if trace.forward.passing not in ends or trace.reply is None or trace.reply.passing is not LegEnd.ARRIVED:
        return None
    return Mend(
        summary="Delete the route to that next hop: another one leads there as well.",
        commands=(delete_route_command(case, view_of(case, step), route),),
        change=change,
    )


def _fewer(case: Case, chosen: Step | None, dead: IPAddress | None) -> Mend | None:
    """Return the remedy of a route over several next hops, one of which does not answer."""
    return fewer_hops(case, chosen, lambda hop: hop.gateway == dead) if chosen is not None else None


def _unanswered(case: Case) -> list[Hit]:
    """Return the findings of next hops beyond this host's sight that were asked for in vain."""
    hits = []
    for blocker in lost_on_wire(case):
        for step in case.steps(blocker.direction):
            view = case.view(step.netns)
            if step.kind is not StepKind.NEIGHBOUR or view is None:
                continue
            if step.outcome is Outcome.UNKNOWN:
                continue  # who should have answered is not known: the fault may lie in what was not read
            asked = ((_on(view, step, ifindex), hop) for ifindex, hop in _next_hops(case, blocker, step))
            step, hop = next(((at, hop) for at, hop in asked if asked_in_vain(case, at, hop)), (step, None))
            if hop is None:
                continue
            hits.append(
                Hit(
                    title=f"nobody answers for {hop} on {step.device}",
                    explanation=f"{view.name} must hand the packet to {hop} on {step.device}, "
                    "and nobody there answers for that address.",
                    at=f"{view.name}/{step.device}",
                    evidence=(
                        Evidence(
                            kind=EvidenceKind.NEIGHBOUR,
                            ref=view.name,
                            text=f"{hop} dev {step.device}: asked for, no answer",
                        ),
                        *wire_evidence(case, blocker),
                    ),
                    mend=_fewer(case, last_route(case, blocker, step), hop)
                    or _other_way(case, blocker, step, last_route(case, blocker, step))
                    or _look(case, step),
                    basis=blocker.basis,
                    blocker=blocker,
                    segment=step.segment,
                    device=step.device,
                    netns=view.id,
                )
            )
            break
    return hits


def _next_hops(case: Case, blocker: Blocker, step: Step) -> list[tuple[int | None, IPAddress]]:
    """Return the next hops that the kernel may have chosen, by device: of several, which one is a matter of a hash."""
    chosen = last_route(case, blocker, step)
    hops = chosen.route.nexthops if chosen is not None and chosen.route is not None else ()
    others = [(hop.ifindex, hop.gateway) for hop in hops if hop.gateway is not None]
    return [*([(step.ifindex, step.next_hop)] if step.next_hop is not None else []), *others]


def _on(view: View, step: Step, ifindex: int | None) -> Step:
    """Return a neighbour step as it would be on another device of its namespace."""
    link = view.links.get(ifindex or 0)
    return replace(step, ifindex=link.ifindex, device=link.name) if link is not None else step


RULE = rule("neigh.unresolved", check, rank=90, needs=("neighbours",))
