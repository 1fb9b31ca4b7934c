"""A host veth that should be a bridge port has no master, or the wrong one.

What it reports: the engine attached the container to a bridge, but its host veth is a port of none, or of another.
Why traffic stops: frames reach the host's stack on the veth itself; the bridge never sees them, and answers for the
    container go to the bridge.
Proof: the engine's attachment; the veth's link row; frames seen at the veth and not at the bridge.
Remedy: make it a port again, then find what detached it.
Known limits: without an engine there is no intent to compare with.
Seen in the field: containers cannot reach their gateway until they are restarted; networkd or another manager had
    taken the veth out of the bridge (coreos/bugs#1785, coreos/bugs#1554, coreos/bugs#1638, moby#26492). Common.
"""

from __future__ import annotations

from nettrace.model.path import Segment
from nettrace.model.snapshot import BridgePort, Link
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import forget_neighbours, set_link, set_port, together
from nettrace.rules.faults import attachment, intent_evidence
from nettrace.rules.wording import enter, link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when the engine names a bridge, the container's host veth is no port of it, and the flow is stopped."""
    hits = []
    for end in (case.flow.src, case.flow.dst):
        own = attachment(case, end)
        if own is None or not case.blockers:
            continue
        view, link, host, veth, _endpoint, network = own
        if host is None or veth is None:
            continue
        bridge = host.by_name.get(network.bridge or "")
        if bridge is None or veth.master == bridge.ifindex:
            continue
        now = host.links[veth.master].name if veth.master in host.links else "none"
        hits.append(
            Hit(
                title=f"{veth.name}, the host's end of {end.name}'s interface, is not a port of {bridge.name}",
                explanation=f"The engine put {end.name} on {bridge.name}, but {veth.name} is a port of {now}, "
                "so the bridge never sees its frames.",
                at=f"{host.name}/{veth.name}",
                evidence=(
                    intent_evidence(f"{end.name} is in network {network.name}, bridge {bridge.name}", network.engine),
                    link_evidence(host, veth),
                    *wire_evidence(case, case.blockers[0]),
                ),
                mend=Mend(
                    summary="Make it a port of the bridge again, and find what detached it.",
                    commands=(f"ip link set {veth.name} master {bridge.name}", *_forget(case, view, link, veth)),
                    change=together(
                        set_link(host.id, veth.ifindex, master=bridge.ifindex),
                        set_port(host.id, veth.ifindex, state=3),
                        set_link(host.id, bridge.ifindex, lower_up=True),
                        forget_neighbours(view.id),
                    ),
                ),
                basis=case.blockers[0].basis,
                blocker=case.blockers[0],
                segment=Segment.BRIDGE,
                device=veth.name,
                netns=host.id,
            )
        )
    return fired(*hits, *_in_an_overlay(case))


def _in_an_overlay(case: Case) -> list[Hit]:
    """Return the findings of hidden namespaces whose bridge has lost the tunnel, or the port of an end."""
    hits = []
    ends = (case.flow.src.netns, case.flow.dst.netns)
    for view in case.world.views.values():
        bridge = next((link for link in view.links.values() if link.kind == "bridge"), None)
        if view.ns.kind != "overlay" or bridge is None:
            continue
        here = [each for each in case.blockers if each.step is not None and each.step.netns in (view.id, *ends)]
        for link in view.links.values():
            needed = link.vxlan is not None or (link.kind == "veth" and view.peer(link) in ends)
            if link.master is not None or not needed or not here:
                continue
            what = "the tunnel to the other hosts" if link.vxlan is not None else "the container's interface"
            hits.append(
                Hit(
                    title=f"{link.name} in {view.name}, {what}, is not a port of {bridge.name}",
                    explanation=f"The overlay's bridge {bridge.name} joins its containers and the tunnel, and "
                    f"{link.name} is a port of none, so no frame gets from the one to the other.",
                    at=f"{view.name}/{link.name}",
                    evidence=(link_evidence(view, link), *wire_evidence(case, here[0])),
                    mend=Mend(
                        summary="Make it a port of the bridge again, and find what detached it.",
                        commands=(f"{enter(case, view.id)}ip link set {link.name} master {bridge.name}",),
                        change=together(
                            set_link(view.id, link.ifindex, master=bridge.ifindex, port=BridgePort()),
                            *(forget_neighbours(each) for each in ends if each is not None),
                        ),
                    ),
                    basis=here[0].basis,
                    blocker=here[0],
                    segment=Segment.BRIDGE,
                    device=link.name,
                    netns=view.id,
                )
            )
    return hits


def _forget(case: Case, view: View, link: Link, veth: Link) -> tuple[str, ...]:
    """Return the command that forgets whom a container met on a wrong bridge: it would go on sending to them."""
    return (f"{enter(case, view.id)}ip neigh flush dev {link.name}",) if veth.master is not None else ()


RULE = rule("bridge.port-without-master", check, rank=22, needs=("links", "intent"))
