"""An earlier rule decides before the DNAT of a published port.

What it reports: the rule for the published port stands, but another returns, accepts or redirects before it.
Why traffic stops: the first rule of a nat chain that decides is the only one; the packet stays on the host or goes
    elsewhere.
Proof: the order of the rules; the translation that was done instead.
Remedy: delete the earlier rule, or put it behind the DNAT.
Known limits: none.
Seen in the field: a rule before the DNAT returns or redirects, as Docker 28.0.0 wrote it for some networks
    (moby#49509).
"""

from __future__ import annotations

from nettrace.model.netfilter import RuleRef
from nettrace.model.path import Direction, Segment
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_rule
from nettrace.rules.publish_facts import (
    Asked,
    Wanted,
    after_nat,
    asked,
    by_own_bridge,
    chosen_first,
    dnat_rules,
    publish_hit,
    taken_for_host,
    wanted,
)
from nettrace.rules.rewrites import TRACKING, culprit, delete_mend
from nettrace.rules.wording import delete_command, place_of, rule_evidence


def check(case: Case) -> Result:
    """Fire when a published port's own DNAT stands, and another rule of the nat table decided instead."""
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or not want.fits:
        return fired()
    untracked = _untracked(case, ask, want)
    if untracked is not None:
        return fired(untracked)
    right, _wrong = dnat_rules(ask.host, want)
    if not right:
        return fired()
    earlier: RuleRef | None
    if ask.nat is not None:
        if any(ask.nat.rule == each for each in right):
            return fired()
        earlier, blockers = ask.nat.rule, [*taken_for_host(case, ask.host), *after_nat(case, ask)]
        instead = "takes the packet"
    else:
        earlier, blockers = chosen_first(case, ask), taken_for_host(case, ask.host)
        instead = "ends the search"
        if by_own_bridge(ask, want) and earlier is not None and f"-i {want.bridge} " in earlier.text:
            return fired()
    if earlier is None:
        return fired()
    port = f"{want.port.host_port}/{want.port.proto}"
    hits = [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"a rule before the DNAT of the published port {port} {instead}",
            explanation=f"{want.container.name} publishes {port}, and the rule for it stands, but '{earlier.text}' "
            f"comes first and {instead}, so the packet never reaches {want.target}:{want.port.container_port}.",
            mend=Mend(
                summary="Delete the earlier rule, or put it behind the published port's.",
                commands=(delete_command(case, ask.host.id, earlier),),
                change=delete_rule(ask.host.id, earlier),
            ),
            want=want,
            evidence=(*rule_evidence(case, ask.host.id, earlier), *rule_evidence(case, ask.host.id, right[0])),
        )
        for blocker in {id(each): each for each in blockers}.values()
    ]
    return fired(*hits)


def _untracked(case: Case, ask: Asked, want: Wanted) -> Hit | None:
    """Find the rule that keeps the packet or its answer from conntrack, without which no DNAT is done or undone."""
    for blocker in case.blockers:
        found = culprit(case, blocker, TRACKING)
        if found is None or found.step.netns != ask.host.id:
            continue
        answer = any(each is found.step for each in case.steps(Direction.REPLY))
        port = f"{want.port.host_port}/{want.port.proto}"
        whose = "the answer" if answer else "the packet"
        return publish_hit(
            case,
            ask,
            blocker,
            title=f"{whose} of the published port {port} is kept from connection tracking: {found.rule.text}",
            explanation=f"{want.container.name} publishes {port}, and the rule for it stands, but "
            f"{place_of(found.rule)} takes {whose} out of the connection, so its address is not translated"
            + (" back." if answer else "."),
            mend=delete_mend(case, found, "Delete the rule, or narrow it to traffic that needs no translation."),
            want=want,
            evidence=rule_evidence(case, ask.host.id, found.rule),
            segment=Segment.HOST,
        )
    return None


RULE = rule("nat.dnat-shadowed", check, rank=46, needs=("netfilter", "intent"))
