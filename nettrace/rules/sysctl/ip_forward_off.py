"""The host does not forward packets at all.

What it reports: net.ipv4.ip_forward (or its IPv6 twin) is 0.
Why traffic stops: a Linux host discards packets that are not for itself unless forwarding is on.
Proof: the sysctl; Ip.InAddrErrors; the packet seen at the bridge and not at the egress.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: a container that gets packets for others is not told to forward: route.wrong-gateway names who sent them.
Seen in the field: containers reach each other and nothing beyond, after a hardening file set it to 0 (moby#47966,
    moby#27319, nixpkgs#118656, debops#1878). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.predict.world import View
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
        if not (name == "net.ipv4.ip_forward" or ".all." in name):
            continue
        if step.netns in case.world.containers and step.netns != case.world.host:
            # A container is no router; that a packet for others came to it is the fault.
            continue
        hits.append(
            Hit(
                title=f"the host does not forward packets ({name} = 0)",
                explanation=f"IP forwarding is off on {view.name}, so packets from containers end at the bridge.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                    commands=(f"{enter(case, step.netns)}sysctl -w {name}=1",),
                    change=set_sysctls(step.netns, _all_on(view, name)),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


def _all_on(view: View, name: str) -> dict[str, str]:
    """Return what writing 1 to ip_forward (or conf.all.forwarding) sets: every interface, and the default."""
    family = "ipv6" if "ipv6" in name else "ipv4"
    devices = ["all", "default", *(link.name.replace(".", "/") for link in view.links.values())]
    return {name: "1", **{f"net.{family}.conf.{device}.forwarding": "1" for device in devices}}


RULE = rule("sysctl.ip-forward-off", check, rank=40, needs=("sysctls",))
