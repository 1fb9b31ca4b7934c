"""The bridge lost the gateway address that its containers use.

What it reports: the engine's gateway is not on the bridge.
Why traffic stops: nobody answers ARP for the gateway, so nothing leaves the container.
Proof: the engine's gateway against the bridge's addresses; ARP requests without an answer.
Remedy: add the address, or restart the engine.
Known limits: a gateway that is meant to be elsewhere (internal or macvlan networks) is not judged.
Seen in the field: the bridge has no address after a network manager or a name clash took it (moby#38942, moby#40217,
    moby#15630, moby#21175, for-linux#924). Common.
"""

from __future__ import annotations

from ipaddress import ip_interface

from nettrace.correlate import Blocker
from nettrace.model.path import Direction, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Address
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_address
from nettrace.rules.faults import blockers, intent_evidence
from nettrace.rules.wording import wire_evidence

REASONS = (Reason.NEIGHBOUR_FAILED, Reason.NEIGHBOUR_WRONG, Reason.NO_ROUTE, Reason.RP_FILTER, Reason.OTHERHOST)


def check(case: Case) -> Result:
    """Fire when a stop is on the way over an engine's bridge that lacks the network's gateway address."""
    hits = []
    host = case.host
    ends = [case.container_of(end) for end in (case.flow.src, case.flow.dst)]
    for blocker, step in [*blockers(case, *REASONS), *_astray(case)]:
        for container in ends:
            for _endpoint, network in case.attachments(container):
                bridge = host.by_name.get(network.bridge or "") if host is not None else None
                subnet = next((each for each in network.subnets if each.subnet.version == case.flow.family), None)
                if host is None or bridge is None or subnet is None or subnet.gateway is None:
                    continue
                if network.internal and case.flow.dst.address != subnet.gateway:
                    continue
                if host.owned.get(subnet.gateway) == bridge.ifindex:
                    continue
                if step.reason is Reason.NEIGHBOUR_FAILED and step.next_hop not in subnet.subnet:
                    continue
                held = ip_interface(f"{subnet.gateway}/{subnet.subnet.prefixlen}")
                hits.append(
                    Hit(
                        title=f"{bridge.name} has lost its address {subnet.gateway}",
                        explanation=f"The containers of {network.name} use {subnet.gateway} as their gateway, "
                        f"but {bridge.name} does not hold it, so nobody answers for it.",
                        at=f"{host.name}/{bridge.name}",
                        evidence=(
                            intent_evidence(f"gateway of {network.name}: {subnet.gateway}", network.engine),
                            *wire_evidence(case, blocker),
                        ),
                        mend=Mend(
                            summary="Give the bridge its address back (restarting the engine does so too).",
                            commands=(
                                f"ip addr add {held} {'broadcast + ' if held.version == 4 else ''}dev {bridge.name}",
                            ),
                            change=add_address(host.id, Address(ifindex=bridge.ifindex, address=held)),
                        ),
                        basis=blocker.basis,
                        blocker=blocker,
                        segment=Segment.BRIDGE,
                        device=bridge.name,
                        netns=host.id,
                    )
                )
                return fired(*hits)
    return fired(*hits)


def _astray(case: Case) -> list[tuple[Blocker, Step]]:
    """Return the stops of what the host routes elsewhere although it is for an engine's network.

    With the bridge's address its route to the network went too (fib_del_ifaddr, cleanup_prefix_route).
    """
    found = []
    for blocker in case.blockers:
        before = case.steps(Direction.FORWARD) if blocker.direction is Direction.REPLY else ()
        for step in (*before, *case.steps(blocker.direction)):
            if step is blocker.step:
                break
            if step.kind is not StepKind.ROUTE or step.netns != case.world.host or step.route is None:
                continue
            if step.route.kind == "unicast" and _home_of(case, step) not in (None, step.device):
                found.append((blocker, step))
                break
    return found


def _home_of(case: Case, step: Step) -> str | None:
    """Return the bridge of the engine's network that a routed packet is for."""
    for network in case.before.intent.networks:
        if network.bridge is not None and any(step.packet.dst in pool.subnet for pool in network.subnets):
            return network.bridge
    return None


RULE = rule("bridge.no-address", check, rank=30, needs=("addresses", "intent"))
