"""Where VXLAN's outer packets go and what takes them in: forwarding entries, the far host, the device with the same id.

Models vxlan_find_mac, vxlan_snoop, vxlan_rcv and vxlan_vs_find_vni (drivers/net/vxlan). A vxlan device receives by a
UDP socket in the namespace that it was made in; devices with one port share the socket, and the id tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterable

from nettrace.model.base import IPAddress, rows
from nettrace.model.flow import Packet
from nettrace.model.intent import Network
from nettrace.model.path import Segment, Step
from nettrace.model.snapshot import FdbEntry, Link
from nettrace.predict import route as routing
from nettrace.predict.world import View, World

__all__ = [
    "ends",
    "host_behind",
    "landing",
    "misdirected",
    "missed",
    "network_of",
    "own_address",
    "refuses",
    "same_overlay",
    "translated",
    "vtep",
]

#: The entry of a vxlan device for every address that it has no entry for.
ALL_MACS = "00:00:00:00:00:00"


def vtep(view: View, out: Link, mac: str | None) -> FdbEntry | None:
    """Return the entry of a vxlan device that says where a MAC is, else the one for all others (vxlan_find_mac)."""
    own = [each for each in rows(view.ns.fdb) if each.ifindex == out.ifindex and each.dst is not None]
    return next((each for each in own if each.mac == mac), None) or next(
        (each for each in own if each.mac == ALL_MACS), None
    )


def network_of(world: World, view: View, address: IPAddress) -> Network | None:
    """Return the engine's overlay network that an address of a hidden namespace belongs to."""
    fitting = [
        network
        for network in world.snapshot.intent.networks
        if network.driver == "overlay" and any(address in pool.subnet for pool in network.subnets)
    ]
    begin = view.name.rpartition("-")[2]
    named = [network for network in fitting if begin and network.id.startswith(begin)]
    return next(iter(named or fitting), None)


def missed(world: World, netns: int | None, address: IPAddress) -> Network | None:
    """Return the overlay network that an address is to be reached by: one that the sender is in, or its holder is."""
    container = world.containers.get(netns) if netns is not None else None
    for endpoint in container.endpoints if container is not None else ():
        network = world.snapshot.intent.network(endpoint.network_id)
        if network is None or network.driver != "overlay":
            continue
        if any(address in pool.subnet for pool in network.subnets):
            return network
    owner = world.owner_of_address(address)
    network = world.snapshot.intent.network(owner[1].network_id) if owner is not None else None
    return network if network is not None and network.driver == "overlay" else None


def misdirected(under: View, network: Network | None, source: IPAddress | None, remote: IPAddress) -> str | None:
    """Return why no other host of an overlay can be at an address; None when one may be.

    The swarm's list of hosts tells, if it lists this one by the address that its tunnels leave from: the addresses
    of the data path may be others than those (`--data-path-addr`).
    """
    if remote in under.owned:
        return f"{remote} is this host's own address"
    nodes = network.nodes if network is not None else ()
    if network is not None and source in nodes and remote not in nodes:
        return f"no host of the network {network.name} is at {remote}: they are {', '.join(map(str, nodes))}"
    return None


def translated(steps: Iterable[Step], link: Link, network: Network | None) -> tuple[IPAddress, IPAddress] | None:
    """Return the outer source before and after translation, where the other hosts will not take it any more.

    They have permanent entries for the address that the swarm knows, and their devices learn as this one does.
    """
    nodes = network.nodes if network is not None else ()
    if link.vxlan is None or not link.vxlan.learning:
        return None
    for step in steps:
        for nat in step.hook.nats if step.hook is not None and step.segment is Segment.UNDERLAY else ():
            old, new = nat.old_src, nat.new_src
            if old is not None and new is not None and old in nodes and new not in nodes:
                return old, new
    return None


def ends(world: World, netns: int) -> list[tuple[View, Link]]:
    """Return the vxlan devices, wherever they are by now, whose socket is in a namespace."""
    return [
        (view, link)
        for view in world.views.values()
        if world.same_host(view.id, netns)
        for link in view.links.values()
        if link.vxlan is not None and (link.peer_netns if link.peer_netns is not None else view.id) == netns
    ]


def same_overlay(
    world: World, candidates: Iterable[tuple[View, Link]], netns: Iterable[int | None]
) -> tuple[View, Link] | None:
    """Return the vxlan device that shares a namespace with a veth into one of the namespaces, if any does."""
    wanted = set(netns)
    for view, link in candidates:
        if view.id in wanted or any(view.peer(each) in wanted for each in view.links.values() if each.kind == "veth"):
            return view, link
    return None


def refuses(view: View, link: Link, mac: str | None, source: IPAddress) -> FdbEntry | None:
    """Return the entry for which a vxlan device discards what comes from a MAC by another host (vxlan_snoop).

    A device that learns moves an entry to the host that its frames come from, unless it is a permanent one.
    """
    if link.vxlan is None or not link.vxlan.learning or mac is None:
        return None
    for entry in rows(view.ns.fdb):
        if (entry.ifindex, entry.mac) == (link.ifindex, mac) and entry.dst is not None and entry.dst != source:
            return entry if entry.state in ("permanent", "static") else None
    return None


def host_behind(world: World, view: View, mac: str | None, netns: Iterable[int | None]) -> View | None:
    """Return the host, another than the view's, on which one of the namespaces holds the MAC; None when none does."""
    for each in netns:
        other = world.view(each) if each is not None else None
        if other is None or mac is None or world.same_host(other.id, view.id):
            continue
        if any(link.mac == mac for link in other.links.values()):
            return world.view(world.host_of(other.id))
    return None


def own_address(host: View, towards: IPAddress) -> IPAddress | None:
    """Return the address that a host itself would send from to another."""
    probe = Packet(family=towards.version, src=towards, dst=towards, proto=17)
    return routing.choose_source(host, routing.lookup(host, probe), towards)


def landing(world: World, view: View, packet: Packet) -> tuple[View, Link] | None:
    """Return the other host that holds a packet's destination, and the device that it comes in by there.

    Addresses of loopback and of the bridges that an engine made are nobody's outside of that host.
    """
    for netns in world.hosts:
        host = world.view(netns)
        if host is None or world.same_host(netns, view.id):
            continue
        holder = host.links.get(host.owned.get(packet.dst, 0))
        if holder is None or holder.loopback or _inner(world, host, holder):
            continue
        back = Packet(family=packet.family, src=packet.dst, dst=packet.src, proto=packet.proto)
        found = routing.lookup(host, back, src=packet.dst)
        device = host.links.get(found.ifindex or 0)
        return host, holder if device is None or device.loopback else device
    return None


def _inner(world: World, host: View, link: Link) -> bool:
    """Tell whether an engine made a device for containers of that host alone."""
    bridges = {network.bridge for network in world.snapshot.intent.networks if network.bridge is not None}
    return link.kind == "bridge" and (link.name in bridges or link.name.startswith(("docker", "br-")))
