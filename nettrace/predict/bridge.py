"""What a Linux bridge does with a frame: port states, isolation, hairpin, VLANs, forwarding entries, flooding.

Models br_handle_frame, should_deliver, br_allowed_ingress/egress, br_forward, br_flood, br_fdb_update (net/bridge),
and when br_netfilter calls IP hooks for bridged frames.
"""

from __future__ import annotations

from nettrace.model.base import IPAddress, Missing, Model, rows
from nettrace.model.path import Reason
from nettrace.model.snapshot import BridgePort, FdbEntry, Link
from nettrace.predict import neigh
from nettrace.predict.world import View, World

STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
FORWARDING, LEARNING = 3, 2


class Blocked(Model):
    """Why a port takes no frame; `flag` is the switch of the port that says so, as bridge(8) prints it."""

    reason: Reason
    text: str
    flag: str | None = None


class Choice(Model):
    """Where a frame goes. `port` is the port it leaves by, None when none; `reason` set when that port refuses it.

    `right_port` is the port behind which the owner of the MAC really is, when the entry points elsewhere. `needs`
    is the inode of a namespace that must be read first. `open_ended`: it may leave by a port we cannot see behind.
    `flag` is the switch of the port that refuses it, as bridge(8) prints it.
    """

    text: str
    port: Link | None = None
    entry: FdbEntry | None = None
    reason: Reason | None = None
    right_port: Link | None = None
    needs: int | None = None
    open_ended: bool = False
    flag: str | None = None


def ingress(view: View, bridge: Link, port: Link, src_mac: str | None) -> Blocked | None:
    """Return why a bridge takes no data frame of this sender from a port, None when it does."""
    info = port.port or BridgePort()
    if not bridge.up:
        return Blocked(reason=Reason.LINK_DOWN, text=f"{bridge.name} is down, so its port {port.name} takes nothing")
    if info.state != FORWARDING:
        return Blocked(reason=Reason.PORT_BLOCKED, text=f"port {port.name} is in state {_state(info.state)}")
    if _filters_vlans(bridge) and info.vlans is not None and not any(vlan.pvid for vlan in info.vlans):
        return Blocked(reason=Reason.VLAN_FILTERED, text=f"port {port.name} has no VLAN for untagged frames")
    if info.locked and src_mac is not None and not isinstance(view.ns.fdb, Missing):
        # br_handle_frame_finish: a locked port takes only what has an entry there, and learns none.
        entries = [each for each in view.fdb.get(bridge.ifindex, ()) if each.mac == src_mac]
        if not any(each.ifindex == port.ifindex and not each.local for each in entries):
            text = f"port {port.name} is locked, and the bridge has no forwarding entry for {src_mac} there"
            return Blocked(reason=Reason.PORT_LOCKED, text=text, flag="locked on")
    return None


def _state(state: int) -> str:
    return STATES[state] if 0 <= state < len(STATES) else str(state)


def _filters_vlans(bridge: Link) -> bool:
    return bridge.bridge is not None and bridge.bridge.vlan_filtering


def calls_iptables(view: View, bridge: Link, family: int) -> bool:
    """Tell whether br_netfilter shows bridged IP packets of this bridge to the IP hooks."""
    name = "iptables" if family == 4 else "ip6tables"
    value = view.number(f"net.bridge.bridge-nf-call-{name}", 0)
    own = bridge.bridge is not None and (
        bridge.bridge.nf_call_iptables if family == 4 else bridge.bridge.nf_call_ip6tables
    )
    return bool(value) or own


def is_local_mac(view: View, bridge: Link, mac: str) -> bool:
    """Tell whether a bridge takes frames to the MAC as its own (br_handle_frame_finish).

    The forwarding entry alone decides, so that one that was replaced, or flushed, takes the bridge's own address away
    from it. Where no entries are known at all, the address itself tells.
    """
    entries = [entry for entry in view.fdb.get(bridge.ifindex, ()) if entry.mac == mac]
    if entries:
        return any(entry.local for entry in entries)
    return mac == bridge.mac and not lost_itself(view, bridge)


def lost_itself(view: View, bridge: Link) -> bool:
    """Tell whether a bridge has no entry for its own address any more: `bridge fdb flush` spares none.

    It then floods frames for itself to its ports and does not take them, but for one in promiscuous mode.
    """
    known = bool(rows(view.ns.fdb)) and not bridge.promisc
    return known and all(entry.mac != bridge.mac for entry in view.fdb.get(bridge.ifindex, ()))


def taken_up(view: View, bridge: Link, port: Link, mac: str) -> FdbEntry | None:
    """Return the entry by which a bridge takes frames for another's MAC as its own, None where there is none.

    br_pass_frame_up hands them to the host's stack still marked as somebody else's (PACKET_OTHERHOST), as only the
    bridge's address and that of the port they came by make them the host's (eth_type_trans, br_handle_frame).
    """
    if mac in (bridge.mac, port.mac):
        return None
    return next((each for each in view.fdb.get(bridge.ifindex, ()) if each.mac == mac and each.local), None)


def floods(bridge: Link, port: Link, family: int) -> Blocked | None:
    """Return why a bridge does not flood another port's request for a next hop (ARP, NDP) to a port (br_flood).

    What the bridge itself sends is flooded whatever those switches are.
    """
    info = port.port or BridgePort()
    if family == 4 and not info.bcast_flood:
        text = f"broadcasts from other ports are not flooded to {port.name} (bcast_flood off)"
        return Blocked(reason=Reason.NO_FLOOD, text=text, flag="bcast_flood off")
    snoops = bridge.bridge is not None and bridge.bridge.mcast_snooping and bridge.bridge.mcast_querier
    if family == 6 and not info.mcast_flood and not snoops:
        # With a querier about, those who joined the group get it all the same (br_multicast_flood).
        text = f"multicasts from other ports are not flooded to {port.name} (mcast_flood off)"
        return Blocked(reason=Reason.NO_FLOOD, text=text, flag="mcast_flood off")
    return _proxied(port)


def _proxied(port: Link) -> Blocked | None:
    if (port.port or BridgePort()).proxyarp:
        text = f"nothing is flooded to {port.name} (proxy_arp on)"
        return Blocked(reason=Reason.NO_FLOOD, text=text, flag="proxy_arp on")
    return None


def _unflooded(port: Link) -> Blocked | None:
    """Return why a frame to a MAC without an entry is not flooded to a port (br_flood), None when it is."""
    if not (port.port or BridgePort()).unicast_flood:
        text = f"the bridge has not learnt where that address is, and does not flood to {port.name} (flood off)"
        return Blocked(reason=Reason.NO_FLOOD, text=text, flag="flood off")
    return _proxied(port)


def learns(bridge: Link, port: Link) -> bool:
    """Tell whether a bridge learns from frames that come in by a port (br_fdb_update, hold_time)."""
    held = bridge.bridge is None or bridge.bridge.ageing_time_s > 0
    return held and (port.port or BridgePort()).learning


def egress(
    world: World,
    view: View,
    bridge: Link,
    source: Link | None,
    dst_mac: str | None,
    dst: IPAddress,
    *,
    spoke: bool = False,
) -> Choice:
    """Choose the port that a frame leaves a bridge by; `source` is the port it came in by, None from the bridge itself.

    A forwarding entry decides; without one the frame is flooded, and what counts is the port that the owner of the
    MAC (or, when the MAC is unknown, of the address) is behind. `spoke`: the owner of the MAC has just sent a frame,
    which makes an entry, or moves any that is not sticky to its port, if that port learns (br_fdb_update).
    """
    ports = [port for port in view.ports.get(bridge.ifindex, ()) if source is None or port.ifindex != source.ifindex]
    entries = [each for each in view.fdb.get(bridge.ifindex, ()) if dst_mac is not None and each.mac == dst_mac]
    entry = next((each for each in entries if not each.local and each.ifindex != bridge.ifindex), None)
    own = next((each for each in entries if each.local), None)
    if source is None and own is not None and dst_mac == bridge.mac and own.ifindex == bridge.ifindex:
        # br_dev_xmit hands it to br_forward without a port.
        text = f"{dst_mac} is {bridge.name}'s own, so no port takes what {bridge.name} sends there"
        return Choice(text=text, entry=own, reason=Reason.OTHERHOST)
    owner = _owner_port(world, view, ports, dst_mac, dst)
    if isinstance(owner, int):
        return Choice(text="the namespace behind a port was not read", needs=owner)
    if source is None and own is not None:
        if own.ifindex == bridge.ifindex:
            text = f"a forwarding entry says that {dst_mac} is {bridge.name}'s own, so no port takes what is for it"
            return Choice(text=text, entry=own, reason=Reason.FDB_WRONG_PORT, right_port=owner)
        # What the bridge itself sends goes to the port of an entry, also of one that is local.
        entry = own
    fixed = entry is not None and (entry.local or "sticky" in entry.flags)
    if source is not None and spoke and dst_mac is not None and not fixed:
        behind = world.far_end(view, source)
        if behind is not None and behind[1].mac == dst_mac and learns(bridge, source):
            return _back(source, dst_mac, entry)
    if spoke and owner is not None and learns(bridge, owner) and not fixed:
        return _deliverable(bridge, source, owner, Choice(text=f"{dst_mac} is behind {owner.name}", port=owner))
    out = view.links.get(entry.ifindex) if entry is not None else None
    if entry is not None and out is not None and owner is not None and out.ifindex != owner.ifindex:
        behind = world.far_end(view, out)
        if behind is None or behind[1].mac != dst_mac:
            static = fixed or "permanent" in entry.state or "static" in (entry.state, *entry.flags)
            return Choice(
                text=f"a {'static' if static else 'forwarding'} entry sends {dst_mac} out of {out.name}, "
                f"but it is behind {owner.name}",
                port=out,
                entry=entry,
                reason=Reason.FDB_WRONG_PORT,
                right_port=owner,
            )
    if source is not None and entry is not None and entry.ifindex == source.ifindex:
        return _back(source, entry.mac, entry)
    if entry is not None and out is not None:
        return _deliverable(bridge, source, out, Choice(text=f"{dst_mac} is behind {out.name}", port=out, entry=entry))
    if owner is None and dst_mac is not None:
        # Nobody has that MAC: the frame is flooded, and shows at the port of the address's owner, who ignores it.
        flooded = _owner_port(world, view, ports, None, dst)
        owner = flooded if isinstance(flooded, Link) else None
    if owner is not None:
        refused = _unflooded(owner)
        if refused is not None:
            return Choice(text=refused.text, port=owner, reason=refused.reason, flag=refused.flag)
        return _deliverable(bridge, source, owner, Choice(text=f"flooded to {owner.name}", port=owner))
    engines = any(network.bridge == bridge.name for network in world.snapshot.intent.networks)
    outer = [port for port in ports if port.kind != "veth" or _leads_out(world, view, port, engines=engines)]
    if outer:
        return _deliverable(
            bridge, source, outer[0], Choice(text=f"flooded, out of {outer[0].name}", port=outer[0], open_ended=True)
        )
    return Choice(
        text=f"no port of {bridge.name} leads to {dst_mac or dst}",
        reason=Reason.OTHERHOST,
        open_ended=not all(neigh.complete(each) for each in world.views.values()),
    )


def _leads_out(world: World, view: View, port: Link, *, engines: bool) -> bool:
    """Tell whether a veth port leads to what is not known here; on an engine's bridge that is another container."""
    inode = view.peer(port)
    return inode is None or (not engines and world.view(inode) is None)


def _back(source: Link, mac: str, entry: FdbEntry | None) -> Choice:
    """Return what becomes of a frame for a MAC behind the very port that it came in by (should_deliver)."""
    if not (source.port or BridgePort()).hairpin:
        text = f"{mac} is behind {source.name} itself, and hairpin is off there"
        return Choice(text=text, port=source, entry=entry, reason=Reason.PORT_NO_HAIRPIN)
    return Choice(text=f"back out of {source.name} (hairpin)", port=source, entry=entry)


def _owner_port(world: World, view: View, ports: list[Link], mac: str | None, dst: IPAddress) -> Link | int | None:
    """Return the port behind which a MAC (else an address) lives; an inode when that namespace must be read first."""
    unread: list[tuple[Link, int]] = []
    for port in ports:
        inode = view.peer(port)
        if port.kind != "veth" or inode is None:
            continue
        other = world.view(inode)
        if other is None:
            unread.append((port, inode))
            continue
        far = other.links.get(port.peer_ifindex or 0)
        if far is None:
            continue
        if (mac is not None and far.mac == mac) or (mac is None and other.owned.get(dst) == far.ifindex):
            return port
    for _port, inode in unread:
        container = world.containers.get(inode)
        for endpoint in container.endpoints if container is not None else ():
            held = {each.ip for each in (endpoint.ipv4, endpoint.ipv6) if each is not None}
            if (mac is not None and endpoint.mac == mac) or dst in held:
                return inode
    return None


def _deliverable(bridge: Link, source: Link | None, out: Link, choice: Choice) -> Choice:
    """Check the port that was chosen."""
    refused = refuses(bridge, source, out)
    if refused is None:
        return choice
    return Choice(text=refused.text, port=out, entry=choice.entry, reason=refused.reason)


def refuses(bridge: Link, source: Link | None, out: Link) -> Blocked | None:
    """Return why a port lets no frame of another out: state, isolation, VLAN (should_deliver, br_allowed_egress)."""
    info = out.port or BridgePort()
    came = (source.port if source is not None else None) or BridgePort()
    if info.state != FORWARDING:
        return Blocked(reason=Reason.PORT_BLOCKED, text=f"port {out.name} is in state {_state(info.state)}")
    if source is not None and info.isolated and came.isolated:
        return Blocked(reason=Reason.PORT_ISOLATED, text=f"ports {source.name} and {out.name} are both isolated")
    if _filters_vlans(bridge) and info.vlans is not None:
        vid = _vlan_of(bridge, source)
        if vid is not None and all(vlan.vid != vid for vlan in info.vlans):
            return Blocked(reason=Reason.VLAN_FILTERED, text=f"port {out.name} is not in VLAN {vid}")
    return None


def _vlan_of(bridge: Link, source: Link | None) -> int | None:
    if source is None:
        return bridge.bridge.vlan_default_pvid if bridge.bridge is not None else None
    vlans = (source.port or BridgePort()).vlans
    return next((vlan.vid for vlan in vlans or () if vlan.pvid), None)
