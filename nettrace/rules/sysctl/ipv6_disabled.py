"""IPv6 is off on an interface of the path.

What it reports: disable_ipv6 is 1 on an interface that the packet comes in by.
Why traffic stops: the kernel discards IPv6 packets there.
Proof: the sysctl.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: an interface with IPv6 off at the source shows as a missing address.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_sysctls
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, place, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop that this sysctl makes."""
    hits = []
    for blocker, step in blockers(case, Reason.IPV6_DISABLED):
        view = view_of(case, step)
        name, _, value = (step.sysctl or "").partition(" = ")
        if not (name):
            continue
        device = step.device or ""
        hits.append(
            Hit(
                title=f"IPv6 is off on {device}",
                explanation=f"{step.text}, so the packet is discarded there.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                    commands=(f"{enter(case, step.netns)}sysctl -w {name}=0",),
                    change=set_sysctls(step.netns, {name: "0"}),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("sysctl.ipv6-disabled", check, rank=39, needs=("sysctls",))
