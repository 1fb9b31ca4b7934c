"""The container's private source leaves the host unchanged.

What it reports: no rule translates the source address on the way out.
Why traffic stops: the far side answers to a private address that it cannot route back.
Proof: POSTROUTING holds no rule for the source; the capture at the egress shows the private source; no answer
    comes.
Remedy: add the MASQUERADE rule (restarting the engine writes it again).
Known limits: a router that knows the way back to the private network is not visible from here; then the answer
    comes, and nothing is reported.
Seen in the field: containers reach the host and each other, and nothing beyond; requests leave with 172.17.x.x
    (moby#13381, moby#41795, moby#34531, moby#14073, flannel#799). Very common.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.layout import ip6tables_by_default
from nettrace.model.path import Direction, LegEnd, Reason, Segment, StepKind
from nettrace.model.text import address_text, route_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_route, append_rule, delete_route, together
from nettrace.rules.faults import blockers
from nettrace.rules.nat_facts import Leaving, from_loopback, leaving, nat_hit, neighbourly
from nettrace.rules.publish_facts import asked, nat_table, publish_hit, wanted
from nettrace.rules.wording import enter, names, route_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the packet leaves with the container's own address, masquerading is meant, and no rule does it."""
    local = _local_source(case)
    if local is not None:
        return fired(local)
    own = _chosen_by_host(case)
    if own is not None:
        return fired(own)
    out = leaving(case)
    if out is None or out.translated or out.covering or not out.meant or neighbourly(case, out):
        return fired()
    return fired(_hit(case, out))


def _chosen_by_host(case: Case) -> Hit | None:
    """Return the finding for the host's own packet, whose source a route prefers that is none of the way out's.

    Nobody translates what the host itself sends, and who is on that link need not know the way back, nor answer ARP
    for one who asks from there.
    """
    steps = case.steps(Direction.FORWARD)
    step = next((each for each in steps if each.kind is StepKind.ROUTE), None)
    route = step.route if step is not None else None
    if step is None or route is None or route.prefsrc is None or step.netns != case.world.host:
        return None
    if case.flow.src.netns != step.netns or case.trace.forward.end is not LegEnd.LEFT:
        return None
    view = case.world.views[step.netns]
    held = [each.address.ip for each in view.addresses.get(step.ifindex or 0, ())]
    fit = [each for each in held if each.version == route.prefsrc.version and not each.is_link_local]
    seen = next((each for each in case.blockers if each.step is None or each.segment is Segment.REMOTE), None)
    last = steps[-1].packet.src
    if route.prefsrc in held or not fit or not route.prefsrc.is_private or seen is None or last != route.prefsrc:
        return None
    better = replace(route, prefsrc=None)
    family = "-6 " if route.dst.version == 6 else ""
    return Hit(
        title=f"{view.name} sends by {step.device} with the source {route.prefsrc}, which its route chose",
        explanation=f"The route '{route_text(route, names(view))}' makes {route.prefsrc} the source, which is no "
        f"address of {step.device}, and no rule translates it. Answers cannot find the way back.",
        at=f"{view.name}/{step.device}",
        evidence=(
            *route_evidence(view, route, step.rule),
            *(
                Evidence(kind=EvidenceKind.ADDRESS, ref=f"{view.name}/{step.device}", text=address_text(each, {}))
                for each in view.addresses.get(step.ifindex or 0, ())
                if each.address.ip in fit
            ),
            *wire_evidence(case, seen),
        ),
        mend=Mend(
            summary="Let the route choose no source, so that the kernel takes the address of the interface.",
            commands=(f"{enter(case, view.id)}ip {family}route replace {route_text(better, names(view))}",),
            change=together(delete_route(view.id, route), add_route(view.id, better)),
        ),
        basis=seen.basis,
        blocker=seen,
        direction=Direction.REPLY,
        segment=Segment.REMOTE,
    )


def _local_source(case: Case) -> Hit | None:
    """The host's own packet to a published port on 127.0.0.1 came to the container untranslated."""
    ask, want = asked(case), wanted(case)
    found = next((each for each in blockers(case, Reason.MARTIAN) if from_loopback(case, each[1])), None)
    if ask is None or want is None or found is None:
        return None
    place = nat_table(ask.host, 4)
    rule_text = f"-A POSTROUTING -o {want.bridge} -m addrtype --src-type LOCAL -j MASQUERADE"
    summary = "Add the rule; restarting the engine writes it again."
    commands, change = ("systemctl restart docker",), None
    if place is not None:
        backend, family, tool = place
        commands = (f"{tool} -t nat {rule_text}",)
        change = append_rule(ask.host.id, backend, family, "nat", rule_text)
    source = found[1].packet.src
    return publish_hit(
        case,
        ask,
        found[0],
        title=f"{source} comes to {want.container.name} untranslated: the MASQUERADE rule for local sources is missing",
        explanation=f"The host's own packet for its published port keeps the source {source}, and "
        f"{want.container.name} discards what comes from such an address.",
        mend=Mend(summary=summary, commands=commands, change=change),
        want=want,
        segment=found[0].segment,
        device=want.bridge,
    )


def _hit(case: Case, out: Leaving) -> Hit:
    chosen = _preferred(case, out)
    if chosen is not None:
        return chosen
    return nat_hit(
        case,
        out,
        title=f"{out.packet.src} leaves by {out.device} untranslated: the MASQUERADE rule is missing",
        explanation=f"The packet leaves {out.device} with the container's private address {out.packet.src}; no rule "
        "translates it, so answers cannot find the way back.",
        summary=_again(case, out),
    )


def _again(case: Case, out: Leaving) -> str:
    engine = case.engine
    if out.packet.family == 6 and engine is not None and not ip6tables_by_default(engine):
        return "Add the rule; the engine writes it itself only when it is started with --ip6tables."
    return "Add the rule; restarting the engine writes it again."


def _preferred(case: Case, out: Leaving) -> Hit | None:
    """Return the finding for a source that a route prefers and that is none of the network's: no rule is for it."""
    first = next((step for step in case.steps(Direction.FORWARD) if step.kind is StepKind.ROUTE), None)
    route = first.route if first is not None else None
    if first is None or route is None or route.prefsrc != out.original.src or out.network is None:
        return None
    if out.subnet is not None or first.netns == out.netns:
        return None
    view = case.world.views[first.netns]
    better = replace(route, prefsrc=None)
    family = "-6 " if route.dst.version == 6 else ""
    return nat_hit(
        case,
        out,
        title=f"{out.packet.src} leaves by {out.device} untranslated: a route of {view.name} chose it",
        explanation=f"The route '{route_text(route, names(view))}' of {view.name} makes {route.prefsrc} the source, "
        f"which is no address of {out.network.name}: the rule that translates that network's addresses passes it by.",
        summary="",
        mend=Mend(
            summary="Let the route choose no source, so that the kernel takes the address of the interface.",
            commands=(f"{enter(case, view.id)}ip {family}route replace {route_text(better, names(view))}",),
            change=together(delete_route(view.id, route), add_route(view.id, better)),
        ),
        evidence=route_evidence(view, route, first.rule),
    )


RULE = rule("nat.masquerade-missing", check, rank=61, needs=("netfilter",))
