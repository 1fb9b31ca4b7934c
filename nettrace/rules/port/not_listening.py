"""Nothing listens on the port in the destination.

What it reports: the packet arrives, and no socket takes it.
Why traffic stops: the destination's kernel answers with a reset, or with ICMP port unreachable.
Proof: the socket table; the reset or error on the wire.
Remedy: start the service, or use the port it listens on.
Known limits: a service that starts after the look is not seen.
Seen in the field: refused, since the service listens on another port or has not started (logspout#136). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Reason, Step
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_sysctls
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import answer_text, enter, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the destination has no socket on the port, on any address."""
    hits = []
    for blocker, step in blockers(case, Reason.NOT_LISTENING, Reason.PORT_HELD):
        if step.socket is not None and step.reason is Reason.NOT_LISTENING:
            continue
        view = view_of(case, step)
        port = step.packet.dport
        heard = tuple(
            Evidence(kind=EvidenceKind.PACKET, ref=each.point, text=answer_text(each))
            for each in case.correlation.resets[:1]
        ) + tuple(
            Evidence(kind=EvidenceKind.ICMP, ref=each.point, text=f"{each.packet.src} answered: port unreachable")
            for each in case.correlation.errors[:1]
        )
        if step.sysctl is not None:
            heard = (*heard, sysctl_evidence(view, step.sysctl))
        proto = case.flow.proto.value
        what = f"{proto} port {port}" if port is not None else "echo requests"
        hits.append(
            Hit(
                title=f"nothing in {view.name} takes {what}",
                explanation=f"The packet reaches {view.name}, but nothing there takes {what}.",
                at=view.name,
                evidence=(
                    Evidence(kind=EvidenceKind.SOCKET, ref=view.name, text=step.text),
                    *heard,
                    *wire_evidence(case, blocker),
                ),
                mend=_mend(case, step),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


def _mend(case: Case, step: Step) -> Mend:
    prefix = enter(case, step.netns)
    name = (step.sysctl or "").partition(" = ")[0]
    if "echo_ignore" in name:
        return Mend(
            summary="Set the sysctl, and keep it in /etc/sysctl.d.",
            commands=(f"{prefix}sysctl -w {name}=0",),
            change=set_sysctls(step.netns, {name: "0"}),
        )
    return Mend(
        summary="Start the service, or use the port that it listens on.",
        commands=(f"{prefix}ss -lntu",),
    )


RULE = rule("port.not-listening", check, rank=80, needs=("sockets",))
