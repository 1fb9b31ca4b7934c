"""Who answers for an address on the way, and was not read: holders of it that only their MAC address gives away.

The namespaces on the way are read, and no others. Where the kernel learnt, or the wire shows, a MAC address for a next
hop that none of them has, the bridge's own table and the engine's word tell whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from nettrace.model.base import IPAddress
from nettrace.model.intent import Container
from nettrace.model.observe import Observation, SightingKind
from nettrace.model.path import Leg, StepKind, Trace
from nettrace.model.snapshot import Snapshot
from nettrace.predict.world import World

__all__ = ["MOST_NEIGHBOURS", "neighbours_unread", "strangers"]

#: How many of a bridge's containers are read at most for the sake of one that is not on the way.
MOST_NEIGHBOURS = 64

_ANSWERS = (SightingKind.ARP_REPLY, SightingKind.NDP_ADVERT)
_DEAD = ("FAILED", "INCOMPLETE")


def strangers(
    trace: Trace, *snapshots: Snapshot, observation: Observation | None = None
) -> tuple[tuple[int, ...], tuple[Container, ...]]:
    """Return the namespaces (inodes) and containers whose interface answers for a next hop, and that were not read."""
    worlds = [World(each) for each in snapshots]
    known = {link.mac for world in worlds for view in world.views.values() for link in view.links.values()}
    unknown = {mac for world in worlds for mac in _learnt(trace, world)} | set(_heard(trace, observation))
    unknown -= known
    # A frame may also go to another port than the one behind which its owner is.
    borne = unknown | {mac for leg in (trace.forward, trace.reply) if leg is not None for mac in _borne(leg)}
    inodes = {inode for world in worlds for inode in _behind_ports(world, borne) if world.view(inode) is None}
    containers = {
        container.id: container
        for world in worlds
        for container, endpoint, _network in world.endpoints()
        if endpoint.mac in unknown and container.netns not in inodes
    }
    if inodes:
        # Which of an engine's containers a namespace is, only the container's own reading tells.
        others = neighbours_unread(trace, snapshots[0])[1]
        containers |= {each.id: each for each in others} if len(others) <= MOST_NEIGHBOURS else {}
    return tuple(sorted(inodes)), tuple(containers.values())


def neighbours_unread(trace: Trace, snapshot: Snapshot) -> tuple[tuple[int, ...], tuple[Container, ...]]:
    """Return the namespaces (inodes) and containers on the bridges on the way that were not read.

    A container is told as such, and its namespace too: whoever reads it first knows its name.
    """
    world = World(snapshot)
    bridges: dict[tuple[int, int], str] = {}
    for leg in (trace.forward, trace.reply):
        for step in (*leg.steps, *leg.beyond) if leg is not None else ():
            view = world.view(step.netns)
            link = view.links.get(step.ifindex or 0) if view is not None else None
            if view is None or link is None:
                continue
            bridge = view.links.get(link.master or 0, link)
            bridges[view.id, bridge.ifindex] = bridge.name
    containers = {
        container.id: container
        for container, _endpoint, network in world.endpoints()
        if network is not None and network.bridge in bridges.values() and container.status == "running"
        if container.netns is None or world.view(container.netns) is None
    }
    inodes = {
        inode: None
        for netns, ifindex in sorted(bridges)
        for port in world.views[netns].ports.get(ifindex, ())
        if (inode := world.views[netns].peer(port)) is not None and world.view(inode) is None
    }
    return tuple(inodes), tuple(containers.values())


def _asked(trace: Trace) -> Iterator[tuple[int, int, IPAddress]]:
    """Yield each next hop with the namespace and the device (ifindex) that it is asked on."""
    for leg in (trace.forward, trace.reply):
        for step in (*leg.steps, *leg.beyond) if leg is not None else ():
            if step.kind is StepKind.NEIGHBOUR and step.next_hop is not None and step.ifindex is not None:
                yield step.netns, step.ifindex, step.next_hop


def _learnt(trace: Trace, world: World) -> Iterator[str]:
    for netns, ifindex, address in _asked(trace):
        view = world.view(netns)
        entry = view.neighbours.get((ifindex, address)) if view is not None else None
        if entry is not None and entry.mac is not None and entry.state not in _DEAD:
            yield entry.mac


def _borne(leg: Leg) -> Iterator[str]:
    """Yield the MAC addresses that frames on the way are for."""
    for step in (*leg.steps, *leg.beyond):
        if step.packet.dst_mac is not None:
            yield step.packet.dst_mac


def _heard(trace: Trace, observation: Observation | None) -> Iterator[str]:
    asked = {address for _netns, _ifindex, address in _asked(trace)}
    for each in observation.sightings if observation is not None else ():
        if each.kind in _ANSWERS and each.packet.src in asked and each.packet.src_mac is not None:
            yield each.packet.src_mac


def _behind_ports(world: World, macs: set[str]) -> Iterator[int]:
    """Yield the namespaces at the other ends of the bridge ports by which frames for these addresses go."""
    for view in world.views.values():
        for entries in view.fdb.values():
            for entry in entries:
                link = view.links.get(entry.ifindex)
                inode = view.peer(link) if link is not None and entry.mac in macs else None
                if inode is not None:
                    yield inode
