"""A host veth that should be a bridge port has no master, or the wrong one; or an interface in use was made a port.

What it reports: the engine attached the container to a bridge, but its host veth is a port of none, or of another, or
    that bridge is gone or goes by another name. The other way round, an interface with addresses of its own is a port
    of some bridge.
Why traffic stops: frames reach the host's stack on the veth itself; the bridge never sees them, and answers for the
    container go to the bridge. What comes in by a port is the bridge's: answers to requests that the interface itself
    sent are not heard any more, and the packets seem to come by another interface.
Proof: the engine's attachment; the veth's link row; frames seen at the veth and not at the bridge. The port's own
    addresses.
Remedy: make it a port again, then find what detached it; take an interface out that should be none.
Known limits: without an engine there is no intent to compare the first with.
Seen in the field: containers cannot reach their gateway until they are restarted; networkd or another manager had
    taken the veth out of the bridge (coreos/bugs#1785, coreos/bugs#1554, coreos/bugs#1638, moby#26492). Common.
"""

from __future__ import annotations

from ipaddress import ip_interface

from nettrace.correlate import Blocker
from nettrace.model.flow import EndpointKind, FlowEnd
from nettrace.model.intent import Network
from nettrace.model.path import Direction, Outcome, Reason, Segment
from nettrace.model.snapshot import Address, BridgePort, Link
from nettrace.predict import predict
from nettrace.predict.segment import Places
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import (
    Change,
    add_address,
    add_bridge,
    forget_neighbours,
    next_ifindex,
    set_link,
    set_port,
    together,
)
from nettrace.rules.faults import attachment, blockers, holder_of, intent_evidence, view_of
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
    return fired(*hits, *_renamed(case), *_gone(case), *_in_use(case), *_in_an_overlay(case))


def _renamed(case: Case) -> list[Hit]:
    """Return the finding of an engine's bridge that goes by another name: by the model, its own takes the stop away."""
    blocker = next(iter(case.blockers), None)
    if blocker is None or blocker.step is None:
        return []
    ends = [case.flow.src, case.flow.dst]
    owner = case.world.owner_of_address(blocker.step.packet.dst)
    if owner is not None:  # what a published port was translated to
        whose = owner[0]
        ends.append(FlowEnd(kind=EndpointKind.CONTAINER, name=whose.name, id=whose.id, netns=whose.netns))
    for end in ends:
        own = attachment(case, end)
        host, veth = (own[2], own[3]) if own is not None else (None, None)
        if own is None or host is None or veth is None:
            continue
        network, master = own[5], host.links.get(veth.master or 0)
        name = network.bridge or ""
        if not name or name in host.by_name or master is None or case.network_of_bridge(master.name) is not None:
            continue
        change = set_link(host.id, master.ifindex, name=name)
        if not _mends(case, blocker, change):
            continue
        return [
            Hit(
                title=f"the bridge of network {network.name} is called {master.name}, and not {name}",
                explanation=f"The engine's rules are written for {name}. What comes by {master.name}, which "
                f"{veth.name} is a port of, none of them knows.",
                at=f"{host.name}/{master.name}",
                evidence=(
                    intent_evidence(f"{end.name} is in network {network.name}, bridge {name}", network.engine),
                    link_evidence(host, veth),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Give the bridge its name back.",
                    commands=(
                        f"ip link set {master.name} down",
                        f"ip link set {master.name} name {name}",
                        f"ip link set {name} up",
                    ),
                    change=change,
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.BRIDGE,
                device=veth.name,
                netns=host.id,
            )
        ]
    return []


def _mends(case: Case, blocker: Blocker, change: Change) -> bool:
    """Tell whether a change takes the first stop away, by predicting again."""
    if blocker.step is None:
        return False
    trace = predict(change(case.before), case.flow)
    place = (blocker.step.reason, blocker.step.netns, blocker.step.kind)
    return not any(
        (step.reason, step.netns, step.kind) == place and step.outcome is Outcome.DROP
        for leg in (trace.forward, trace.reply)
        if leg is not None
        for step in leg.steps
    )


def _gone(case: Case) -> list[Hit]:
    """Return the finding of an engine's bridge that is not there any more: its ports are ports of none."""
    host = case.host
    lost = [net for net in case.before.intent.networks if net.bridge and host and net.bridge not in host.by_name]
    if host is None or not case.blockers:
        return []
    for network in lost:
        members = [
            each
            for each in case.before.intent.containers
            if each.status == "running" and any(end.network_id == network.id for end in each.endpoints)
        ]
        inside = {each.netns for each in members if each.netns is not None}
        ports = [
            link
            for link in host.links.values()
            if link.kind == "veth" and link.master is None and host.peer(link) in inside
        ]
        if not ports or not _crosses(case, network):
            continue
        return [_made_again(case, host, network, ports, case.blockers[0])]
    return []


def _crosses(case: Case, network: Network) -> bool:
    """Tell whether the flow is for an address of a network, or comes from one."""
    ends = {case.flow.src.address, case.flow.dst.address}
    ends |= {
        address
        for direction in Direction
        for step in case.steps(direction)
        for address in (step.packet.src, step.packet.dst)
    }
    return any(end is not None and end in pool.subnet for end in ends for pool in network.subnets)


def _made_again(case: Case, host: View, network: Network, ports: list[Link], blocker: Blocker) -> Hit:
    name = network.bridge or ""
    pools = [pool for pool in network.subnets if pool.gateway is not None]
    held = [ip_interface(f"{pool.gateway}/{pool.subnet.prefixlen}") for pool in pools]
    ends = [end for port in ports if (end := case.peer_of(host, port)) is not None]
    index = next_ifindex(host.links.values())
    commands = [
        f"ip link add {name} type bridge",
        *(f"ip addr add {each} {'broadcast + ' if each.version == 4 else ''}dev {name}" for each in held),
        f"ip link set {name} up",
        *(f"ip link set {port.name} master {name}" for port in ports),
        *(f"{enter(case, view.id)}ip neigh flush dev {link.name}" for view, link in ends),
    ]
    return Hit(
        title=f"{name}, the bridge of the network {network.name}, is gone",
        explanation=f"The engine joins the containers of {network.name} by {name}, but {host.name} has no such bridge. "
        "Their interfaces lead nowhere, and nobody is their gateway.",
        at=host.name,
        evidence=(
            intent_evidence(f"network {network.name}: bridge {name}", network.engine),
            *(link_evidence(host, port) for port in ports[:3]),
            *wire_evidence(case, blocker),
        ),
        mend=Mend(
            summary="Make the bridge again, with its addresses and ports (restarting the engine and then the "
            "containers of the network does so too).",
            commands=tuple(commands),
            change=together(
                add_bridge(host.id, name, [port.ifindex for port in ports]),
                *(add_address(host.id, Address(ifindex=index, address=each)) for each in held),
                *(forget_neighbours(view.id) for view, _link in ends),
            ),
        ),
        basis=blocker.basis,
        blocker=blocker,
        segment=Segment.BRIDGE,
        device=ports[0].name,
        netns=host.id,
    )


#: What becomes of packets whose interface was made a port of a bridge: answers unheard, or in by the bridge instead.
_OF_A_PORT = (
    Reason.PORT_ENSLAVED,
    Reason.RP_FILTER,
    Reason.NEIGHBOUR_FAILED,
    Reason.ARP_IGNORED,
    Reason.LINK_DOWN,
    Reason.PORT_BLOCKED,
    Reason.OTHERHOST,
)


def _in_use(case: Case) -> list[Hit]:
    """Return the findings of interfaces on the way that have addresses of their own, and are ports of a bridge."""
    hits = []
    places = Places(case.world, case.flow)
    for blocker, step in blockers(case, *_OF_A_PORT):
        view = view_of(case, step)
        link = view.links.get(step.ifindex or 0)
        if step.reason in (Reason.ARP_IGNORED, Reason.NEIGHBOUR_FAILED):
            # It is the one who is asked that does not hear.
            view, name = holder_of(case, step)
            link = view.by_name.get(name) if view.id != step.netns else None
        ports = view.ports.get(link.ifindex, ()) if link is not None and link.kind == "bridge" else (link,)
        port = next((each for each in ports if each is not None and _held(view, each, case.flow.family)), None)
        bridge = view.links.get(port.master or 0) if port is not None else None
        if port is None or bridge is None or bridge.kind != "bridge":
            continue
        if step.reason is not Reason.PORT_ENSLAVED and _moved(view, bridge, port):
            continue  # the bridge has taken over, and what is left at the port is only a leftover
        hits.append(
            Hit(
                title=f"{port.name} in {view.name} is a port of the bridge {bridge.name}, though it is in use itself",
                explanation=f"{port.name} holds {_held(view, port, case.flow.family)[0]}, and routes lead out by it, "
                f"but what comes in there goes to {bridge.name}. So {port.name} itself hears nothing.",
                at=f"{view.name}/{port.name}",
                evidence=(link_evidence(view, port), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary=f"Take {port.name} out of the bridge, or else give {bridge.name} its addresses.",
                    commands=(f"{enter(case, view.id)}ip link set {port.name} nomaster",),
                    change=together(
                        set_link(view.id, port.ifindex, master=None, port=None), forget_neighbours(view.id)
                    ),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=places.stack(view, "egress") if view.id != step.netns else None,
                device=port.name,
                netns=view.id,
            )
        )
    return hits


def _moved(view: View, bridge: Link, port: Link) -> bool:
    """Tell whether a bridge holds an address of its own in the network of its port's."""
    own = [each.address for each in view.addresses.get(port.ifindex, ()) if each.scope == "global"]
    taken = [each.address for each in view.addresses.get(bridge.ifindex, ())]
    return any(one.version == other.version and one.ip in other.network for one in own for other in taken)


def _held(view: View, port: Link, family: int) -> list[str]:
    """Return the addresses that packets to and from elsewhere could bear."""
    held = view.addresses.get(port.ifindex, ())
    return [str(each.address.ip) for each in held if each.address.version == family and each.scope == "global"]


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
