"""Source translation finds no free port.

What it reports: the packet is translated to a range of source ports, and the wire loses it where the kernel counted
    a connection that it could not enter.
Why traffic stops: each connection to one destination needs a port of its own; when all are taken, the entry collides
    with another and the packet is dropped.
Proof: the rule and its range; insert_failed and drop of /proc/net/stat/nf_conntrack.
Remedy: widen the range, or add addresses to translate to.
Known limits: the model does not know the other connections, so only a probe shows the loss.
Seen in the field: connections to one server time out once containers together hold some 28,000 of them (moby#32356,
    plugins#163, flannel#1001).
"""

from __future__ import annotations

from nettrace.model.netfilter import Hook, NatResult
from nettrace.model.path import Direction, Segment, Step
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import lost_on_wire, view_of
from nettrace.rules.wording import delete_command, rule_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for a loss on the wire behind a source translation, when conntrack counted a failed insertion."""
    found = _translated(case)
    if found is None:
        return fired()
    step, nat = found
    failed = case.counter_rise(step.netns, "nf_conntrack.insert_failed")
    if failed <= 0:
        return fired()
    view = view_of(case, step)
    hits = []
    for blocker in lost_on_wire(case):
        if blocker.direction is not Direction.FORWARD:
            continue
        source = f"{nat.new_src}" + (f":{nat.new_sport}" if nat.new_sport is not None else "")
        hits.append(
            Hit(
                title=f"no free source port is left for {source}",
                explanation=f"'{nat.rule.text}' translates the source, but every port that it may use towards "
                f"{step.packet.dst} is taken, so the packet is dropped on its way out.",
                at=f"{view.name}/{step.device}" if step.device else view.name,
                evidence=(
                    *rule_evidence(case, view.id, nat.rule),
                    Evidence(
                        kind=EvidenceKind.COUNTER,
                        ref=f"{view.name}: /proc/net/stat/nf_conntrack",
                        text=f"insert_failed rose by {failed} while the probe ran",
                    ),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Widen the rule's range of ports, or let it translate to more addresses.",
                    commands=(
                        f"conntrack -L -d {step.packet.dst}  # who holds the ports",
                        f"{delete_command(case, view.id, nat.rule)}  # and add it again with a wider range",
                    ),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.EGRESS,
                device=step.device,
                netns=view.id,
            )
        )
    return fired(*hits)


def _translated(case: Case) -> tuple[Step, NatResult] | None:
    for step in case.steps(Direction.FORWARD):
        if step.hook is None or step.hook.hook is not Hook.POSTROUTING:
            continue
        for nat in step.hook.nats:
            if nat.new_src is not None or nat.new_sport is not None:
                return step, nat
    return None


RULE = rule("nat.port-exhausted", check, rank=44, needs=("netfilter", "counters"))
