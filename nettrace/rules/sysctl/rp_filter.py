"""The reverse-path filter discards the packet.

What it reports: the way back to the packet's source does not lead out of the interface it came by, and rp_filter is
    strict (or no way back exists, and it is loose). It may be the ARP request before the packet that is discarded so.
Why traffic stops: the kernel takes such packets for spoofed.
Proof: rp_filter of all and of the interface, the larger of both; the route back; TcpExt.IPReversePathFilter.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: none.
Seen in the field: requests arrive, and nothing happens: the way back leads elsewhere (podman#26044, usernetes#338,
    weave#354, systemd#21550). Common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Reason, Segment, Step
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_sysctls
from nettrace.rules.faults import blockers, holder_of, view_of
from nettrace.rules.wording import enter, place, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop that this sysctl makes."""
    hits = []
    for blocker, step in blockers(case, Reason.RP_FILTER, Reason.ARP_IGNORED):
        view = view_of(case, step)
        if step.reason is Reason.ARP_IGNORED:
            hits += _unheard(case, blocker, step)
            continue
        name, _, value = (step.sysctl or "").partition(" = ")
        if not name or step.route is None or step.route.kind != "unicast":
            continue  # without any way back, in either mode: route.missing and route.blackhole name that
        device = step.device or ""
        # On a device without an address the loose mode is as strict (fib_validate_source).
        better = "2" if value != "2" else "0"
        hits.append(
            Hit(
                title=f"the reverse-path filter discards the packet on {device}",
                explanation=f"{step.text}; with {name} = {value} the kernel takes the packet for spoofed.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                    commands=(f"{enter(case, step.netns)}sysctl -w {name}={better}",),
                    change=set_sysctls(step.netns, {name: better}),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


def _unheard(case: Case, blocker: Blocker, step: Step) -> list[Hit]:
    """Return the finding of a request for a next hop that the filter keeps from being answered (arp_process)."""
    name, _, value = (step.sysctl or "").partition(" = ")
    if not name.endswith(".rp_filter"):
        return []
    view, device = holder_of(case, step)
    names = [f"net.ipv4.conf.{each}.rp_filter" for each in ("all", device) if view.conf(4, each, "rp_filter", 0)]
    link = view.by_name.get(device)
    # A device without an address is judged strictly in either mode (no_addr in __fib_validate_source).
    addressed = link is not None and any(each.address.version == 4 for each in view.addresses.get(link.ifindex, ()))
    right = "2" if addressed else "0"
    ends = {case.flow.dst.netns: Segment.DESTINATION, case.flow.src.netns: Segment.SOURCE}
    return [
        Hit(
            title=f"the reverse-path filter discards the request for {step.next_hop} on {device}",
            explanation=f"{view.name} is asked for {step.next_hop} on {device}, but its way back to who asks leads "
            f"elsewhere; with {name} = {value} the kernel takes the request for spoofed and does not answer.",
            at=f"{view.name}/{device}",
            evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
            mend=Mend(
                summary="Set the sysctl, and keep it in /etc/sysctl.d.",
                commands=tuple(f"{enter(case, view.id)}sysctl -w {each}={right}" for each in names),
                change=set_sysctls(view.id, dict.fromkeys(names, right)),
            ),
            basis=blocker.basis,
            blocker=blocker,
            segment=ends.get(view.id, Segment.HOST),
        )
    ]


RULE = rule("sysctl.rp-filter", check, rank=42, needs=("sysctls",))
