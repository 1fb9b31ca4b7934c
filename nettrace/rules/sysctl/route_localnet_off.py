"""Traffic to 127.0.0.0/8 from outside the loopback is discarded.

What it reports: a packet with a loopback address came in by another interface, and route_localnet is 0.
Why traffic stops: the kernel takes it for a martian.
Proof: the sysctl; the packet's addresses.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: none.
Seen in the field: 127.0.0.1 and a published port do not meet without the userland proxy (moby#12165, moby#9078).
"""

from __future__ import annotations

from nettrace.model.path import Reason, Segment
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_sysctls
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.nat_facts import from_loopback
from nettrace.rules.wording import enter, place, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop that this sysctl makes."""
    hits = []
    for blocker, step in blockers(case, Reason.MARTIAN):
        view = view_of(case, step)
        name, _, value = (step.sysctl or "").partition(" = ")
        if "route_localnet" not in name or from_loopback(case, step):
            continue
        device = step.device or ""
        hits.append(
            Hit(
                title=f"a loopback address came in by {device}, and route_localnet is off",
                explanation=f"{step.text}, which the kernel discards unless route_localnet is 1.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                    commands=(f"{enter(case, step.netns)}sysctl -w {name}=1",),
                    change=set_sysctls(step.netns, {name: "1"}),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.HOST if step.netns == case.world.host else blocker.segment,
            )
        )
    return fired(*hits)


RULE = rule("sysctl.route-localnet-off", check, rank=43, needs=("sysctls",))
