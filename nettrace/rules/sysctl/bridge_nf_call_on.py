"""Frames bridged within one network meet a FORWARD policy that drops.

What it reports: br_netfilter shows bridged frames to iptables, and FORWARD drops what no rule accepts.
Why traffic stops: frames between two ports of one bridge, which routing never sees, end at the policy.
Proof: net.bridge.bridge-nf-call-iptables (or the bridge's own switch); the policy; the frame seen at one port only.
Remedy: accept what stays on the bridge, as the engine does; or switch bridge-nf-call off.
Known limits: drops by single rules are reported with the codes of the family filter.
Seen in the field: frames within one bridge meet FORWARD's drop (moby#48411, moby#48375, moby#48492, plugins#430).
    Common.
"""

from __future__ import annotations

from nettrace.model.path import Segment
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule, set_sysctls
from nettrace.rules.faults import filter_fault, filtered, view_of
from nettrace.rules.wording import is_native_nft, program, rule_evidence, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when an IP chain's policy drops a frame that is bridged between two ports of one bridge."""
    hits = []
    for blocker, step, ref in filtered(case):
        if step.segment is not Segment.BRIDGE or ref.family == "bridge" or ref.index is not None:
            continue
        if step.netns != case.world.host or filter_fault(case, step, ref) != "filter.forward-policy-drop":
            continue
        view = view_of(case, step)
        bridge = step.device or ""
        name = f"net.bridge.bridge-nf-call-{'iptables' if step.packet.family == 4 else 'ip6tables'}"
        accept = f"-A FORWARD -i {bridge} -o {bridge} -j ACCEPT"
        native = is_native_nft(ref)
        off = f"sysctl -w {name}=0"
        hits.append(
            Hit(
                title=f"frames bridged within {bridge} meet the FORWARD policy, which drops",
                explanation=f"{name} shows bridged frames to iptables; no rule accepts what stays on {bridge}, so "
                f"the policy of {ref.chain} drops it.",
                at=f"{view.name}/{bridge}",
                evidence=(
                    sysctl_evidence(view, f"{name} = {_switch(view, name)}"),
                    *rule_evidence(case, view.id, ref),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Accept what stays on the bridge; restarting the engine writes the rule again."
                    if not native
                    else "Switch bridge-nf-call off, or accept what stays on the bridge in that chain. Off, no rule of "
                    "iptables sees bridged frames any more, and enable_icc=false has no effect.",
                    commands=(off,) if native else (f"{program(ref)} {accept}",),
                    change=set_sysctls(view.id, {name: "0"})
                    if native
                    else append_rule(view.id, ref.backend, ref.family, "filter", accept),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.BRIDGE,
                device=bridge or None,
                netns=view.id,
            )
        )
    return fired(*hits)


def _switch(view: View, name: str) -> str:
    return view.sysctl(name) or "0 (the bridge's own nf_call switch is on)"


RULE = rule("sysctl.bridge-nf-call-on", check, rank=44, needs=("netfilter", "sysctls"))
