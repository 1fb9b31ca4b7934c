"""The reverse-path filter discards the packet.

What it reports: the way back to the packet's source does not lead out of the interface it came by, and rp_filter is
    strict (or no way back exists, and it is loose).
Why traffic stops: the kernel takes such packets for spoofed.
Proof: rp_filter of all and of the interface, the larger of both; the route back; TcpExt.IPReversePathFilter.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: none.
Seen in the field: requests arrive, and nothing happens: the way back leads elsewhere (podman#26044, usernetes#338,
    weave#354, systemd#21550). Common.
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
    for blocker, step in blockers(case, Reason.RP_FILTER):
        view = view_of(case, step)
        name, _, value = (step.sysctl or "").partition(" = ")
        if not name or step.route is None or step.route.kind != "unicast":
            continue  # without any way back, in either mode: route.missing and route.blackhole name that
        device = step.device or ""
        hits.append(
            Hit(
                title=f"the reverse-path filter discards the packet on {device}",
                explanation=f"{step.text}; with {name} = {value} the kernel takes the packet for spoofed.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                    commands=(f"{enter(case, step.netns)}sysctl -w {name}=2",),
                    change=set_sysctls(step.netns, {name: "2"}),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("sysctl.rp-filter", check, rank=42, needs=("sysctls",))
