"""A rule would translate the source, but an earlier one keeps it from doing so.

What it reports: the MASQUERADE rule stands, and another returns, accepts or translates to something else before it,
    or takes the packet out of connection tracking (NOTRACK, another zone).
Why traffic stops: the first rule that decides ends the chain; the packet leaves with an address that answers cannot
    find. Or a rule keeps the packet, or its answer, from the conntrack entry without which nothing is translated.
Proof: the order of the rules; the source that the capture at the egress shows; the model has the flow delivered
    without the rule that hides.
Remedy: delete or move the earlier rule.
Known limits: none.
Seen in the field: no public report of its own was read; a SNAT to an address that the host does not hold, or an ACCEPT
    for a VPN put before Docker's rule, does it.
"""

from __future__ import annotations

from nettrace.model.path import Direction, LegEnd, Segment
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_rule
from nettrace.rules.nat_facts import leaving, nat_hit, shadowing
from nettrace.rules.rewrites import SOURCE, TRACKING, culprit, delete_mend
from nettrace.rules.wording import delete_command, place_of, rule_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the packet leaves with an address that is not the host's although a rule for it stands."""
    untracked = _untracked(case)
    if untracked is not None:
        return fired(untracked)
    out = leaving(case)
    if out is None or not (out.covering or out.translated):
        return fired(_astray(case))
    found = shadowing(case, out)
    if found is None:
        return fired()
    netns, earlier = found
    shown = f"with the wrong source {out.packet.src}" if out.translated else f"untranslated, as {out.packet.src}"
    hit: Hit = nat_hit(
        case,
        out,
        title=f"the packet leaves {shown}: an earlier rule comes before MASQUERADE",
        explanation=f"A rule that translates the source stands, but '{earlier.text}' comes first and decides, so the "
        f"packet leaves {out.device} {shown}.",
        summary="Delete the earlier rule, or put it behind the translation.",
        mend=Mend(
            summary="Delete the earlier rule, or put it behind the translation.",
            commands=(delete_command(case, netns, earlier),),
            change=delete_rule(netns, earlier),
        ),
        evidence=rule_evidence(case, netns, earlier),
    )
    return fired(hit)


def _astray(case: Case) -> Hit | None:
    """Find the rule that gave a packet which arrived here a source that answers to it leave this host for."""
    for blocker in case.blockers:
        if blocker.direction is not Direction.REPLY or blocker.step is not None:
            continue
        found = culprit(case, blocker, SOURCE)
        if found is None or case.trace.forward.end is not LegEnd.ARRIVED:
            continue
        source = case.steps(Direction.FORWARD)[-1].packet.src
        where = case.world.views[found.step.netns].name
        return Hit(
            title=f"the packet comes with the wrong source {source}: {found.rule.text}",
            explanation=f"{place_of(found.rule)} in {where} gives the packet the source {source}, "
            "which is not the sender's, so the answer goes elsewhere.",
            at=where,
            evidence=(*rule_evidence(case, found.step.netns, found.rule), *wire_evidence(case, blocker)),
            mend=delete_mend(case, found, "Delete the rule, or narrow it to traffic that leaves this host."),
            basis=blocker.basis,
            blocker=blocker,
        )
    return None


def _untracked(case: Case) -> Hit | None:
    """Find the rule that keeps the packet or its answer from conntrack, without which nothing is translated."""
    for blocker in case.blockers:
        found = culprit(case, blocker, TRACKING)
        if found is None or found.step.hook is None or found.step.netns != case.world.host:
            continue
        whose = "the answer" if found.step in case.steps(Direction.REPLY) else "the packet"
        return Hit(
            title=f"{whose} is kept from connection tracking, and so from address translation: {found.rule.text}",
            explanation=f"MASQUERADE stands, but {place_of(found.rule)} takes {whose} out of the connection that it "
            "belongs to, so its address is not translated.",
            at=case.world.views[found.step.netns].name,
            evidence=(*rule_evidence(case, found.step.netns, found.rule), *wire_evidence(case, blocker)),
            mend=delete_mend(case, found, "Delete the rule, or narrow it to traffic that needs no translation."),
            basis=blocker.basis,
            blocker=blocker,
            segment=Segment.REMOTE if blocker.direction is Direction.REPLY else None,
        )
    return None


RULE = rule("nat.masquerade-shadowed", check, rank=60, needs=("netfilter",))
