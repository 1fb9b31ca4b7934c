"""Bridged packets skip iptables, so that icc=false is not enforced.

What it reports: the network forbids its containers to talk to each other, but bridged frames never meet iptables.
Why traffic stops: it does not: it passes although the engine means it to be dropped.
Proof: the network's option; net.bridge.bridge-nf-call-iptables = 0.
Remedy: load br_netfilter and set the sysctl to 1.
Known limits: a bridge's own nf_call switch is taken into account; other drops are not looked for.
Seen in the field: icc=false and network policies are not enforced, and ping works where it should not (moby#12071,
    moby#11404, moby#26724, moby#48664, moby#50635). Common.
"""

from __future__ import annotations

from nettrace.model.base import Missing
from nettrace.model.verdict import Basis, Severity
from nettrace.predict.bridge import calls_iptables
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_sysctls
from nettrace.rules.faults import attachment, intent_evidence
from nettrace.rules.wording import sysctl_evidence


def check(case: Case) -> Result:
    """Fire when both ends are in one network with icc off, and its bridge does not call iptables."""
    ends = (attachment(case, case.flow.src), attachment(case, case.flow.dst))
    host = case.host
    if ends[0] is None or ends[1] is None or host is None or isinstance(host.ns.sysctls, Missing):
        return fired()
    network = ends[0][5]
    bridge = host.by_name.get(network.bridge or "")
    if ends[1][5].id != network.id or network.icc is not False or bridge is None:
        return fired()
    if calls_iptables(host, bridge, case.flow.family):
        return fired()
    name = f"net.bridge.bridge-nf-call-{'iptables' if case.flow.family == 4 else 'ip6tables'}"
    return fired(
        Hit(
            title=f"{network.name} forbids its containers to talk, but nothing enforces it",
            explanation=f"{network.name} was created with icc off, but frames bridged within {bridge.name} do not "
            f"pass iptables ({name} is off), so its containers reach each other.",
            at=f"{host.name}/{bridge.name}",
            evidence=(
                intent_evidence(f"network {network.name}: icc false", network.engine),
                sysctl_evidence(host, f"{name} = {host.sysctl(name) or 'absent'}"),
            ),
            mend=Mend(
                summary="Load br_netfilter and switch the call on.",
                commands=("modprobe br_netfilter", f"sysctl -w {name}=1"),
                change=set_sysctls(host.id, {name: "1"}),
            ),
            basis=Basis.PREDICTED,
        )
    )


RULE = rule("sysctl.bridge-nf-call-off", check, rank=44, needs=("intent", "sysctls"), severity=Severity.WARNING)
