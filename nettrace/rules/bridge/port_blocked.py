"""A bridge port does not let these frames through.

What it reports: a port that the frame enters or leaves by is disabled, listening, learning or blocking, is locked, or
    has flooding of its kind of frame switched off.
Why traffic stops: the bridge takes and gives frames only on forwarding ports; on a locked port it takes only those of
    senders with a forwarding entry there; and what has no entry (requests for an address, frames to one that was not
    learnt) reaches only ports that it is flooded to.
Proof: the port's state and switches; frames seen at the port and not behind the bridge, requests without an answer.
Remedy: set the port to forwarding, or its switch as it is by default.
Known limits: with the spanning tree on, the state is the protocol's decision: look at the topology first. Where a
    bridge snoops multicasts and somebody queries for groups, who gets a multicast is not modelled.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from nettrace.model.path import Reason, Step
from nettrace.model.snapshot import BridgePort, Link
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_link, set_port, together
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, link_evidence, wire_evidence

#: The switches that keep frames from a port, as bridge(8) names them: the field, and the words for a person.
_SWITCHES: dict[str, tuple[str, str]] = {
    "flood": ("unicast_flood", "is not given frames for addresses that the bridge has not learnt"),
    "bcast_flood": ("bcast_flood", "is not given ARP requests from other ports"),
    "mcast_flood": ("mcast_flood", "is not given requests for neighbours (NDP) from other ports"),
    "proxy_arp": ("proxyarp", "is not given what the bridge floods, ARP requests among it"),
    "locked": ("locked", "is locked"),
}


def check(case: Case) -> Result:
    """Fire for each stop at a port for this reason."""
    hits = []
    for blocker, step in blockers(case, Reason.PORT_BLOCKED, Reason.NO_FLOOD, Reason.PORT_LOCKED):
        view = view_of(case, step)
        port = view.links[step.ifindex or 0]
        if step.reason is Reason.PORT_BLOCKED and not (port.up and port.lower_up):
            # The bridge itself disables a port without carrier (br_port_carrier_check): link.down says why.
            continue
        title, explanation, mend = _state(case, view, port, step)
        if step.reason is not Reason.PORT_BLOCKED:
            title, explanation, mend = _switch(case, view, port, step)
        hits.append(
            Hit(
                title=title,
                explanation=explanation,
                at=f"{view.name}/{port.name}",
                evidence=(*_shown(view, port, step), *wire_evidence(case, blocker)),
                mend=mend,
                basis=blocker.basis,
                blocker=blocker,
                device=port.name,
                netns=view.id,
            )
        )
    return fired(*hits)


def _shown(view: View, port: Link, step: Step) -> tuple[Evidence, ...]:
    link = link_evidence(view, port)
    if step.reason is Reason.PORT_BLOCKED or step.sysctl is None:
        return (link,)
    return link, Evidence(kind=EvidenceKind.LINK, ref=f"{view.name}/{port.name}", text=f"bridge port: {step.sysctl}")


def _state(case: Case, view: View, port: Link, step: Step) -> tuple[str, str, Mend]:
    bridge = view.links.get(port.master or 0)
    prefix = enter(case, view.id)
    tree = bridge is not None and bridge.bridge is not None and bool(bridge.bridge.stp_state)
    commands = [f"{prefix}bridge link set dev {port.name} state 3"]
    explanation = f"{step.text}: the bridge discards its frames."
    summary = "Set the port to forwarding."
    changes = [set_port(view.id, port.ifindex, state=3)]
    if tree and bridge is not None and bridge.bridge is not None:
        # The state is not for anyone else to set while the kernel's own protocol runs (br_set_port_state).
        commands.insert(0, f"{prefix}ip link set {bridge.name} type bridge stp_state 0")
        explanation += f" {bridge.name} runs the spanning tree protocol, which decides that."
        summary = (
            "Wait until the protocol lets the port forward (twice the forward delay), or, if no other way leads round "
            "in a loop, switch it off and set the port to forwarding."
        )
        changes.append(set_link(view.id, bridge.ifindex, bridge=replace(bridge.bridge, stp_state=0)))
    mend = Mend(summary=summary, commands=tuple(commands), change=together(*changes))
    return f"bridge port {port.name} does not forward", explanation, mend


def _switch(case: Case, view: View, port: Link, step: Step) -> tuple[str, str, Mend]:
    name = (step.sysctl or "").partition(" ")[0]
    field, what = _SWITCHES.get(name, ("", "does not let these frames through"))
    right = "off" if name in ("proxy_arp", "locked") else "on"
    facts: dict[str, Any] = {field: right == "on"} if field else {}
    words = [name, right]
    if name == "flood" and not (port.port or BridgePort()).learning:
        # With neither, the bridge would go on flooding every frame for that port to all others.
        words += ["learning", "on"]
        facts["learning"] = True
    title = f"bridge port {port.name} {what}"
    explanation = f"{step.text[:1].upper()}{step.text[1:]}, so the bridge discards what is meant to pass."
    mend = Mend(
        summary="Set the port's switch back to what it is by default.",
        commands=(f"{enter(case, view.id)}bridge link set dev {port.name} {' '.join(words)}",),
        change=set_port(view.id, port.ifindex, **facts),
    )
    return title, explanation, mend


RULE = rule("bridge.port-blocked", check, rank=23, needs=("links",))
