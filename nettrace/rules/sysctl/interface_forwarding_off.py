"""Forwarding is off on the interface that the packet comes in by.

What it reports: the host forwards, but not what enters by this interface.
Why traffic stops: the kernel asks the ingress interface's own forwarding switch.
Proof: the sysctl of the interface; the packet seen there and not further.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: none.
Seen in the field: networkd or a hardening script turns forwarding off on one device (systemd#468, systemd#1411,
    moby#14185). Common.
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
    for blocker, step in blockers(case, Reason.FORWARDING_OFF):
        view = view_of(case, step)
        name, _, value = (step.sysctl or "").partition(" = ")
        if not (name != "net.ipv4.ip_forward" and ".all." not in name):
            continue
        device = step.device or ""
        hits.append(
            Hit(
                title=f"forwarding is off on {device}",
                explanation=(
                    f"The host forwards in general, but {name} is 0, so what comes in by {device} goes nowhere."
                ),
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                    commands=(f"{enter(case, step.netns)}sysctl -w {name}=1",),
                    change=set_sysctls(step.netns, {name: "1"}),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("sysctl.interface-forwarding-off", check, rank=41, needs=("sysctls",))
