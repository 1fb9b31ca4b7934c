"""The two ends of an overlay use different VXLAN ids or ports.

What it reports: no vxlan device of the receiving host has the id and the port that the tunnel is sent with; or this
    host's device has another id than the network has in the swarm.
Why traffic stops: the receiving kernel looks its device up by port and id, and discards what is nobody's.
Proof: both vxlan devices; the id that the engine gave the network.
Remedy: let the engine make the device again: take the network's containers off that host's end and attach them again.
Known limits: from one host alone, the port of the other one is not known.
Seen in the field: the port is changed since a hypervisor uses it for a VXLAN of its own, and not on every host alike
    (flannel#423, flannel#2388). Common.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.model.base import IPAddress
from nettrace.model.path import Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Link, Vxlan
from nettrace.model.verdict import Evidence
from nettrace.predict import overlay
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_link
from nettrace.rules.faults import blockers, intent_evidence, view_of
from nettrace.rules.wording import enter, link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire where the tunnel reaches a host that has no device for its id at its port."""
    return fired(*(_hit(case, *each) for each in blockers(case, Reason.VXLAN_NO_DEVICE)))


def _hit(case: Case, blocker: Blocker, step: Step) -> Hit:
    sender = _sender(case, blocker, step)
    receiver = (view_of(case, step), step.link) if step.kind is StepKind.DECAP else None
    network = overlay.network_of(case.world, sender[0], _inner_destination(case, blocker))
    meant = network.vnis if network is not None else ()
    odd, right = _odd_one(sender, receiver, meant)
    view, link = odd
    facts: list[Evidence] = [link_evidence(*sender)]
    if receiver is not None and receiver[1] is not None:
        facts.append(link_evidence(receiver[0], receiver[1]))
    if network is not None and meant:
        ids = ", ".join(str(each) for each in meant)
        facts.append(intent_evidence(f"network {network.name}: VXLAN id {ids}", network.engine))
    return Hit(
        title=f"{link.name} in {view.name} has {_text(link)}, the other end {_wanted(right)}",
        explanation="The ends of an overlay find each other by the VXLAN id and the UDP port, and here they differ: "
        "what the one sends, the other's kernel discards.",
        at=f"{view.name}/{link.name}",
        evidence=(*facts, *wire_evidence(case, blocker)),
        mend=_mend(case, view, link, right),
        basis=blocker.basis,
        blocker=blocker,
        segment=Segment.UNDERLAY,
        device=link.name,
        netns=view.id,
    )


def _sender(case: Case, blocker: Blocker, step: Step) -> tuple[View, Link]:
    """Return the device that the tunnel was entered by."""
    found = step
    for each in case.steps(blocker.direction):
        if each is step:
            break
        if each.kind is StepKind.ENCAP:
            found = each
    view = view_of(case, found)
    return view, view.links[found.ifindex or 0]


def _inner_destination(case: Case, blocker: Blocker) -> IPAddress:
    """Return where the packet inside the tunnel goes: where the leg's first step sends it."""
    return case.steps(blocker.direction)[0].packet.dst


def _odd_one(
    sender: tuple[View, Link], receiver: tuple[View, Link | None] | None, meant: tuple[int, ...]
) -> tuple[tuple[View, Link], Vxlan]:
    """Return the end that is not as it should be, and how it should be: as the engine meant it, else as the sender."""
    own = sender[1].vxlan
    assert own is not None
    far = receiver[1] if receiver is not None else None
    if receiver is None or far is None or far.vxlan is None:
        return sender, replace(own, vni=meant[0] if meant else own.vni)
    if meant and own.vni not in meant and far.vxlan.vni in meant:
        return sender, far.vxlan
    return (receiver[0], far), own


def _text(link: Link) -> str:
    return f"VXLAN id {link.vxlan.vni} at port {link.vxlan.port}" if link.vxlan is not None else "no VXLAN id"


def _wanted(vxlan: Vxlan) -> str:
    return f"{vxlan.vni} at port {vxlan.port}"


def _mend(case: Case, view: View, link: Link, right: Vxlan) -> Mend:
    assert link.vxlan is not None
    prefix = enter(case, view.id)
    return Mend(
        summary="Detach the network's containers there and attach them again: the engine makes the device anew, with "
        f"id {right.vni} at port {right.port}.",
        commands=(
            f"{prefix}ip -d link show {link.name}",
            "docker network disconnect <network> <container>; docker network connect <network> <container>",
        ),
        change=set_link(view.id, link.ifindex, vxlan=replace(link.vxlan, vni=right.vni, port=right.port)),
    )


RULE = rule("overlay.vni-mismatch", check, rank=26, needs=("links",))
