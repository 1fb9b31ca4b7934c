"""Who answers for an address on a link: neighbour entries, and ARP or NDP through bridges into other namespaces.

Models arp_process, arp_ignore (net/ipv4/arp.c), neigh_resolve_output, and how a bridge floods requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from nettrace.model.base import IPAddress, Missing, Model, rows
from nettrace.model.flow import Packet
from nettrace.model.path import Reason
from nettrace.model.snapshot import Link, Neighbour
from nettrace.predict import route as routing
from nettrace.predict.children import KINDS, children_of
from nettrace.predict.proxy_arp import answers_for
from nettrace.predict.reverse_path import Refusal, refused
from nettrace.predict.world import View, World, unread_text

#: The entry of a vxlan device for every address that it has no entry for.
_ALL = "00:00:00:00:00:00"


#: States in which a MAC is used and never asked about (NUD_PERMANENT, and NUD_NOARP, which a command can set too).
FIXED = ("PERMANENT", "NOARP")
#: States in which a MAC is used without asking first (the rest of NUD_VALID).
_LEARNT = ("REACHABLE", "STALE", "DELAY", "PROBE")


class Member(Model):
    """One device on a layer-2 segment where frames are taken up by an IP stack."""

    netns: int
    ifindex: int


class Segment(Model):
    """Everything attached to one layer-2 segment. `open_ended`: part of it cannot be seen from this host.

    `unread` are namespaces (inodes, None when not even that is known) on it that the snapshot does not hold.
    `tunnels` are its vxlan devices that answer for others themselves (proxy).
    """

    members: tuple[Member, ...]
    open_ended: bool
    unread: tuple[int | None, ...] = ()
    tunnels: tuple[Member, ...] = ()


def segment_of(world: World, view: View, link: Link) -> Segment:
    """Find what shares a layer-2 segment with a device: veth peers, bridges and their ports, macvlan siblings."""
    members: list[Member] = []
    seen: set[tuple[int, int]] = set()
    queue: list[tuple[View, Link]] = [(view, link)]
    open_ended = False
    unread: list[int | None] = []
    tunnels: list[Member] = []
    while queue:
        here, device = queue.pop()
        if (here.id, device.ifindex) in seen:
            continue
        seen.add((here.id, device.ifindex))
        if device.master is not None and device.master in here.links:
            master = here.links[device.master]
            queue.append((here, master))
        else:
            members.append(Member(netns=here.id, ifindex=device.ifindex))
        queue.extend(children_of(world, here, device))
        if device.kind == "bridge":
            queue.extend((here, port) for port in here.ports.get(device.ifindex, ()))
        elif device.kind in ("veth", "vlan", *KINDS):
            inode = here.peer(device)
            other = world.view(inode) if inode is not None else None
            far = other.links.get(device.peer_ifindex or 0) if other is not None else None
            if other is None or far is None:
                if here.id in world.hosts and not _an_engines(world, here, device):
                    open_ended = True
                else:
                    unread.append(inode)
                continue
            queue.append((other, far))
        elif device.vxlan is not None and device.vxlan.proxy:
            tunnels.append(Member(netns=here.id, ifindex=device.ifindex))
            # Requests that it cannot answer go to the group, or to those who get all that is unknown.
            wide = any(e.ifindex == device.ifindex and e.mac == _ALL and e.dst is not None for e in rows(here.ns.fdb))
            open_ended = open_ended or wide or device.vxlan.group is not None or isinstance(here.ns.fdb, Missing)
        elif not device.loopback:
            open_ended = True
    return Segment(members=tuple(members), open_ended=open_ended, unread=tuple(unread), tunnels=tuple(tunnels))


def _an_engines(world: World, view: View, device: Link) -> bool:
    """Tell whether a veth is a port of an engine's bridge, so that another container is behind it."""
    bridge = view.links.get(device.master or 0)
    known = {network.bridge for network in world.snapshot.intent.networks if network.bridge is not None}
    return bridge is not None and (not known or bridge.name in known)


class Resolved(StrEnum):
    """How the resolution of a next hop ends."""

    OWNER = "owner"
    STATIC = "static"
    CACHED = "cached"
    BEYOND = "beyond"
    NOBODY = "nobody"
    IGNORED = "ignored"
    NO_ARP = "no-arp"
    UNREAD = "unread"


class Resolution(Model):
    """Answer of a next hop's resolution: the MAC to use, who owns the address here, the entry that was used.

    `unread` says which table of which namespace would have to be known, where the answer is UNREAD; `refusal` why the
    owner does not take the request for one to answer.
    """

    how: Resolved
    mac: str | None = None
    owner: Member | None = None
    entry: Neighbour | None = None
    sysctl: str | None = None
    unread: str | None = None
    refusal: Refusal | None = None


def resolve(world: World, view: View, link: Link, address: IPAddress, *, asking: IPAddress) -> Resolution:
    """Resolve a next hop on a device, as the kernel would if it had to ask now.

    A permanent entry decides, and so does a cached one, which is used while it is asked about again. Otherwise the
    owner on the segment answers if it may; without one the answer lies beyond what this host can see, or nobody
    has the address.
    """
    entry = view.neighbours.get((link.ifindex, address))
    if link.loopback or link.pointopoint:
        return Resolution(how=Resolved.NO_ARP)
    if link.noarp and (entry is None or entry.state != "PERMANENT"):
        # arp_constructor, ndisc_constructor: an Ethernet device that does not ask sends to its own address.
        return Resolution(how=Resolved.NO_ARP, mac=link.mac if link.arp_type == 1 else None)
    segment = segment_of(world, view, link)
    owners = list(_owners(world, segment, address, exclude=(view.id, link.ifindex)))
    if entry is not None and entry.mac is not None and entry.state in FIXED:
        owner = next((each for each, device in owners if device.mac == entry.mac), None)
        return Resolution(how=Resolved.STATIC, mac=entry.mac, owner=owner, entry=entry)
    if entry is not None and entry.mac is not None and entry.state in _LEARNT:
        for member in segment.members:
            if world.views[member.netns].links[member.ifindex].mac == entry.mac and (member.netns, member.ifindex) != (
                view.id,
                link.ifindex,
            ):
                return Resolution(how=Resolved.CACHED, mac=entry.mac, owner=member, entry=entry)
        shut = not (segment.open_ended or segment.tunnels) and not _elsewhere(world, segment, entry.mac)
        if (segment.tunnels and not owners) or (shut and owners):
            # What was learnt is used until it is found to be wrong, also where nobody has that MAC any more.
            return Resolution(how=Resolved.CACHED, mac=entry.mac, entry=entry)
    ignored: str | None = None
    refusing: tuple[Member, Refusal] | None = None
    for owner, device in owners:
        holder = world.views[owner.netns]
        if not device.up:
            continue
        if device.noarp:
            ignored = f"{device.name}: NOARP"
            continue
        blocked = arp_blocked(holder, device, address, asking)
        if blocked is not None:
            ignored = blocked
            continue
        refusal = request_refused(holder, device, address, asking)
        if refusal is not None and refusal.reason is not None:
            refusing = (owner, refusal)
            continue
        return Resolution(how=Resolved.OWNER, mac=device.mac, owner=owner, entry=entry)
    for member in segment.members:
        holder, device = world.views[member.netns], world.views[member.netns].links[member.ifindex]
        asked_here = (member.netns, member.ifindex) != (view.id, link.ifindex)
        if asked_here and answers_for(holder, device, address, asking):
            return Resolution(how=Resolved.OWNER, mac=device.mac, owner=member, entry=entry)
    if ignored is not None:
        return Resolution(how=Resolved.IGNORED, entry=entry, sysctl=ignored)
    if refusing is not None:
        member, refusal = refusing
        return Resolution(how=Resolved.IGNORED, entry=entry, owner=member, sysctl=refusal.sysctl, refusal=refusal)
    for tunnel in segment.tunnels:
        # arp_reduce, neigh_reduce: a vxlan device answers out of its own neighbour table.
        held = world.views[tunnel.netns].neighbours.get((tunnel.ifindex, address))
        if held is not None and held.mac is not None and held.state not in ("FAILED", "INCOMPLETE"):
            return Resolution(how=Resolved.OWNER, mac=held.mac, entry=entry)
        if isinstance(world.views[tunnel.netns].ns.neighbours, Missing):
            unread = unread_text(world.views[tunnel.netns], "neighbours")
            return Resolution(how=Resolved.UNREAD, entry=entry, unread=unread)
    missing = _unread(world, segment, address)
    if missing is not None:
        return Resolution(how=Resolved.UNREAD, entry=entry, unread=missing)
    if segment.open_ended or (segment.unread and not _told_apart(world, view, segment, address)):
        known = entry.mac if entry is not None and entry.state not in ("FAILED", "INCOMPLETE") else None
        if entry is not None and entry.state == "FAILED" and not _engine_owns(world, address):
            return Resolution(how=Resolved.NOBODY, entry=entry)
        return Resolution(how=Resolved.BEYOND, mac=known, entry=entry)
    return Resolution(how=Resolved.NOBODY, entry=entry)


def _elsewhere(world: World, segment: Segment, mac: str) -> bool:
    """Tell whether a namespace on the segment that was not read may have a MAC address.

    An engine's listing tells the addresses of its containers, though not which namespace is whose.
    """
    if not segment.unread:
        return False
    running = [each for each in world.snapshot.intent.containers if each.status == "running"]
    told = [end.mac for each in running for end in each.endpoints]
    return not told or None in told or mac in told


def _unread(world: World, segment: Segment, address: IPAddress) -> str | None:
    """Return the table that hides whether a namespace on the segment, whose links were read, holds an address.

    An address that the engine gave to another container is not looked for.
    """
    owner = world.owner_of_address(address)
    for netns in dict.fromkeys((*(each.netns for each in segment.members), *segment.unread)):
        view = world.view(netns) if netns is not None else None
        if view is None or complete(view):
            continue
        if owner is not None and owner[0].netns is not None and owner[0].netns != view.id:
            continue
        return unread_text(view, "links" if isinstance(view.ns.links, Missing) else "addresses")
    return None


def _told_apart(world: World, asker: View, segment: Segment, address: IPAddress) -> bool:
    """Tell whether an engine's word is enough to know that no unread namespace holds an address.

    It is when the engine gave the address to nobody, or to a container that was read and does not hold it.
    """
    owner = world.owner_of_address(address)
    if owner is not None:
        view = world.views.get(owner[0].netns or 0)
        if view is not None and not world.same_host(view.id, asker.id):
            return bool(segment.tunnels)
        return view is not None and complete(view) and address not in view.owned
    spanning = (network for network in world.snapshot.intent.networks if network.scope != "local")
    if not segment.tunnels and any(address in pool.subnet for network in spanning for pool in network.subnets):
        return False  # it may be another host's, behind a tunnel that was not read
    return bool(world.snapshot.intent.containers)


def _engine_owns(world: World, address: IPAddress) -> bool:
    return world.owner_of_address(address) is not None


def _owners(
    world: World, segment: Segment, address: IPAddress, *, exclude: tuple[int, int]
) -> Iterator[tuple[Member, Link]]:
    """Yield the devices of a segment whose namespace would answer for the address.

    A Linux host answers for any of its addresses on any device (arp_ignore 0), so the holder may be another device.
    """
    weak: list[tuple[Member, Link]] = []
    for member in segment.members:
        if (member.netns, member.ifindex) == exclude:
            continue
        view = world.views[member.netns]
        device = view.links[member.ifindex]
        holder = view.owned.get(address)
        if holder == member.ifindex:
            yield member, device
        elif holder is not None and address.version == 4 and not address.is_loopback:
            weak.append((member, device))
    yield from weak


def request_refused(view: View, device: Link, address: IPAddress, asking: IPAddress) -> Refusal | None:
    """Return why a holder of an address does not take an ARP request for its own, None when it does.

    arp_process answers only what ip_route_input would deliver: the source must pass, and the route be a local one.
    """
    if address.version == 6 or isinstance(view.ns.routes, Missing):
        return None
    request = Packet(family=4, src=asking, dst=address, proto=0)
    found = routing.lookup(view, request, iif=device.name, src=asking)
    if found.route is None or found.route.kind != "local":
        text = f"{view.name} holds {address}, but its routes do not say so"
        return Refusal(text=text, reason=Reason.NOT_LOCAL, route=found.route, rule=found.rule)
    return refused(view, device, request)


def arp_blocked(view: View, device: Link, address: IPAddress, asking: IPAddress) -> str | None:
    """Return the sysctl that keeps a device from answering ARP for an address, None when it answers.

    That is arp_ignore, arp_filter, or the reverse-path filter: arp_process looks at a request's way back as at a
    packet's.
    """
    if address.version == 6:
        return None
    if view.conf_max(4, device.name, "arp_filter", 0) and not isinstance(view.ns.routes, Missing):
        back = routing.lookup(view, Packet(family=4, src=address, dst=asking, proto=0), src=address)
        if back.route is None or back.ifindex != device.ifindex:
            return f"net.ipv4.conf.{device.name}.arp_filter = 1"
    value = view.conf_max(4, device.name, "arp_ignore", 0)
    name = f"net.ipv4.conf.{device.name}.arp_ignore = {value}"
    on_device = [each for each in view.addresses.get(device.ifindex, ()) if each.address.ip == address]
    if value == 1 and not on_device:
        return name
    if value == 2 and not any(asking in each.address.network for each in on_device):
        return name
    if value == 3:
        # Of whichever device the address is: in_dev is NULL there.
        held = [each for own in view.addresses.values() for each in own if each.address.ip == address]
        return None if any(each.scope != "host" for each in held) else name
    if value >= 8:
        return name
    return _spoofed(view, device, address, asking)


def _spoofed(view: View, device: Link, address: IPAddress, asking: IPAddress) -> str | None:
    """Return the reverse-path filter that takes a request for spoofed, None when it lets it pass."""
    if isinstance(view.ns.routes, Missing) or isinstance(view.ns.rules, Missing):
        return None
    found = refused(view, device, Packet(family=4, src=asking, dst=address, proto=0))
    # Of who has no way back at all, or one that discards, or asks from an address held here, request_refused tells.
    if found is None or found.reason is not Reason.RP_FILTER or found.route is None:
        return None
    return found.sysctl if found.route.kind == "unicast" else None


def complete(view: View) -> bool:
    """Tell whether links and addresses of a namespace were both read."""
    return not isinstance(view.ns.links, Missing) and not isinstance(view.ns.addresses, Missing)
