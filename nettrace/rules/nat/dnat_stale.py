"""The DNAT of a published port points at an address that is no longer the container's.

What it reports: the rule for a published port leads to another address or port than the container has now.
Why traffic stops: nobody holds the old address, or somebody else does; what accepts and answers is not the container.
Proof: the rule's target against the engine's endpoint; ARP for the old address unanswered.
Remedy: restart the container, so that the engine writes the rule again; delete the old one.
Known limits: none.
Seen in the field: "No route to host" on a published port whose container is healthy: an old DNAT stands before the
    right one (moby#32048, moby#10354, moby#15151, moby#16337, moby#30558, podman#5097, podman#11696). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Segment
from nettrace.rules.base import Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule, delete_rule, together
from nettrace.rules.publish_facts import (
    after_nat,
    asked,
    dnat_rule,
    dnat_rules,
    nat_table,
    publish_hit,
    restart_command,
    wanted,
)
from nettrace.rules.wording import delete_command, rule_evidence


def check(case: Case) -> Result:
    """Fire when the translation that was done leads to another address than the published container's."""
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or not want.fits or ask.nat is None:
        return fired()
    right, wrong = dnat_rules(ask.host, want)
    stale = ask.nat.rule
    if right or not any(stale == each for each in wrong):
        return fired()
    place = nat_table(ask.host, case.flow.family)
    commands = [delete_command(case, ask.host.id, stale), restart_command(want)]
    change = delete_rule(ask.host.id, stale)
    if place is not None:
        backend, family, tool = place
        commands.append(f"{tool} -t nat {dnat_rule(want)}")
        change = together(change, append_rule(ask.host.id, backend, family, "nat", dnat_rule(want)))
    port = f"{want.port.host_port}/{want.port.proto}"
    hits = [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"the DNAT of the published port {port} leads to {ask.nat.new_dst}, which is not "
            f"{want.container.name}",
            explanation=f"{want.container.name} is at {want.target}, but the rule for its published port {port} "
            f"still translates to {ask.nat.new_dst}.",
            mend=Mend(
                summary="Restart the container, so that the engine writes the rule again; delete what it leaves.",
                commands=tuple(commands),
                change=change,
            ),
            want=want,
            evidence=rule_evidence(case, ask.host.id, stale),
            segment=Segment.BRIDGE,
            device=want.bridge,
        )
        for blocker in after_nat(case, ask)
    ]
    return fired(*hits)


RULE = rule("nat.dnat-stale", check, rank=45, needs=("netfilter", "intent"))
