"""A DNAT leads to where nobody takes the packet, such as an address that is no longer the container's.

What it reports: the rule for a published port leads to another address or port than the container has now; or any
    other rule gives a packet a destination that nobody holds, or where nothing listens.
Why traffic stops: nobody holds the new address, or somebody else does; what accepts and answers is not the target.
Proof: the rule's target against the engine's endpoint; ARP for the old address unanswered; without the rule, the
    model has the packet arrive.
Remedy: restart the container, so that the engine writes the rule again; delete the old one.
Known limits: of a rule that hands the packet to a remote address which stays silent, only the model tells that the
    original destination would have been reached.
Seen in the field: "No route to host" on a published port whose container is healthy: an old DNAT stands before the
    right one (moby#32048, moby#10354, moby#15151, moby#16337, moby#30558, podman#5097, podman#11696). Very common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Outcome, Reason, Segment
from nettrace.predict import route as routing
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule, delete_rule, together
from nettrace.rules.publish_facts import (
    Asked,
    Wanted,
    after_nat,
    asked,
    dnat_rule,
    dnat_rules,
    nat_table,
    publish_hit,
    restart_command,
    wanted,
)
from nettrace.rules.rewrites import DESTINATION, Rewrite, culprit, delete_mend, rewrites
from nettrace.rules.wording import delete_command, errno_evidence, place_of, rule_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the translation that was done leads to another address than the published container's."""
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or not want.fits or ask.nat is None:
        return fired(*_elsewhere(case))
    right, wrong = dnat_rules(ask.host, want)
    stale = ask.nat.rule
    if right or not any(stale == each for each in wrong):
        return fired()
    place = nat_table(ask.host, case.flow.family)
    commands = [delete_command(case, ask.host.id, stale)]
    change = delete_rule(ask.host.id, stale)
    if place is not None:
        backend, family, tool = place
        commands.append(f"{tool} -t nat {dnat_rule(want)}")
        change = together(change, append_rule(ask.host.id, backend, family, "nat", dnat_rule(want)))
    else:
        commands.append(restart_command(want))
    port = f"{want.port.host_port}/{want.port.proto}"
    to = f"{ask.nat.new_dst}:{ask.nat.new_dport}" if ask.nat.new_dport is not None else str(ask.nat.new_dst)
    hits = [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"the DNAT of the published port {port} leads to {to}, which is not {_meant(want, ask)}",
            explanation=f"{want.container.name} takes it at {want.target}:{want.port.container_port}, but the rule for "
            f"its published port {port} still translates to {to}.",
            mend=Mend(
                summary="Delete the old rule, and write the right one; restarting the container instead of the latter "
                "works as well, and ends its connections.",
                commands=tuple(commands),
                change=change,
            ),
            want=want,
            evidence=rule_evidence(case, ask.host.id, stale),
            segment=Segment.BRIDGE if _on_host(blocker, ask) else blocker.segment,
            device=want.bridge,
        )
        for blocker in after_nat(case, ask)
    ]
    return fired(*hits)


def _meant(want: Wanted, ask: Asked) -> str:
    own = ask.nat is not None and ask.nat.new_dst == want.target
    return f"the port of {want.container.name}" if own else want.container.name


def _on_host(blocker: Blocker, ask: Asked) -> bool:
    return blocker.step is None or blocker.step.netns == ask.host.id


#: Ends that a packet comes to at a wrong destination, and would not come to at the right one.
_LOST = (
    Reason.NEIGHBOUR_FAILED,
    Reason.NO_ROUTE,
    Reason.ROUTE_BLACKHOLE,
    Reason.ROUTE_UNREACHABLE,
    Reason.NOT_LISTENING,
    Reason.MARTIAN,
    Reason.FORWARDING_OFF,
    Reason.NO_FLOOD,
)


def _elsewhere(case: Case) -> list[Hit]:
    """Find the rule that gives a packet a destination where it is lost, of the user's or of whoever else."""
    for blocker in case.blockers:
        step = blocker.step
        lost = step is None or step.reason in _LOST or step.outcome is Outcome.UNKNOWN
        found = _wrong_target(case, blocker) if lost else None
        if found is None:
            continue
        view = case.world.views[found.step.netns]
        target = (
            next((nat for nat in found.step.hook.nats if nat.rule == found.rule), None) if found.step.hook else None
        )
        to = str(target.new_dst if target is not None and target.new_dst is not None else found.step.packet.dst)
        if target is not None and target.new_dport is not None:
            to += f" port {target.new_dport}"
        return [
            Hit(
                title=f"a rule sends the packet to {to}, where nobody takes it: {found.rule.text}",
                explanation=f"The packet was meant for {case.flow.dst.name}, but {place_of(found.rule)} in {view.name} "
                f"gives it the destination {to}, and there it is lost.",
                at=view.name,
                evidence=(
                    *rule_evidence(case, found.step.netns, found.rule),
                    *errno_evidence(case),
                    *wire_evidence(case, blocker),
                ),
                mend=delete_mend(
                    case, found, "Delete the rule, or correct its target: whoever wrote it meant traffic to go there."
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        ]
    return []


def _wrong_target(case: Case, blocker: Blocker) -> Rewrite | None:
    """Return the rule that a packet owes its lost destination to.

    Of packets for the host's own address the translation was meant: there only a target that nobody holds is wrong.
    """
    for each in rewrites(case, blocker, DESTINATION):
        view = case.world.views[each.step.netns]
        address = case.flow.dst.address
        if each.rule.owner != "user":
            return None  # an engine's own; what it publishes is judged by what it means
        meant = address is not None and routing.is_local(view, address)
        unheld = blocker.step is not None and blocker.step.reason in (Reason.NEIGHBOUR_FAILED, Reason.NO_ROUTE)
        if meant:
            return each if unheld else None
    return culprit(case, blocker, DESTINATION)


RULE = rule("nat.dnat-stale", check, rank=45, needs=("netfilter",))
