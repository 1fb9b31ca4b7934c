"""What a Linux bridge does with a frame: port states, isolation, hairpin, VLANs, forwarding entries, flooding.

Models br_handle_frame, should_deliver, br_allowed_ingress/egress, br_forward (net/bridge), and when br_netfilter
calls IP hooks for bridged frames.
"""

from __future__ import annotations

from nettrace.model.base import IPAddress, Model
from nettrace.model.path import Reason
from nettrace.model.snapshot import BridgePort, FdbEntry, Link
from nettrace.predict import neigh
from nettrace.predict.world import View, World

STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
FORWARDING, LEARNING = 3, 2


class Blocked(Model):
    """Why a port takes no frame."""

    reason: Reason
    text: str


class Choice(Model):
    """Where a frame goes. `port` is the port it leaves by, None when none; `reason` set when that port refuses it.

    `right_port` is the port behind which the owner of the MAC really is, when the entry points elsewhere. `needs`
    is the inode of a namespace that must be read first. `open_ended`: it may leave by a port we cannot see behind.
    """

    text: str
    port: Link | None = None
    entry: FdbEntry | None = None
    reason: Reason | None = None
    right_port: Link | None = None
    needs: int | None = None
    open_ended: bool = False


def ingress(bridge: Link, port: Link) -> Blocked | None:
    """Return why a bridge takes no data frame from a port, None when it does."""
    info = port.port or BridgePort()
    if not bridge.up:
        return Blocked(reason=Reason.LINK_DOWN, text=f"{bridge.name} is down, so its port {port.name} takes nothing")
    if info.state != FORWARDING:
        return Blocked(reason=Reason.PORT_BLOCKED, text=f"port {port.name} is in state {_state(info.state)}")
    if _filters_vlans(bridge) and info.vlans is not None and not any(vlan.pvid for vlan in info.vlans):
        return Blocked(reason=Reason.VLAN_FILTERED, text=f"port {port.name} has no VLAN for untagged frames")
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

    The forwarding entry alone decides, so that one that was replaced takes the bridge's own address away from it;
    without any, the address itself tells.
    """
    entries = [entry for entry in view.fdb.get(bridge.ifindex, ()) if entry.mac == mac]
    return any(entry.local for entry in entries) if entries else mac == bridge.mac


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
    entry = next(
        (
            each
            for each in view.fdb.get(bridge.ifindex, ())
            if dst_mac is not None and each.mac == dst_mac and not each.local and each.ifindex != bridge.ifindex
        ),
        None,
    )
    if source is None and dst_mac is not None:
        own = next((each for each in view.fdb.get(bridge.ifindex, ()) if each.mac == dst_mac and each.local), None)
        if own is not None and own.ifindex == bridge.ifindex:
            # br_dev_xmit hands it to br_forward without a port.
            text = f"{dst_mac} is {bridge.name}'s own, so no port takes what {bridge.name} sends there"
            return Choice(text=text, entry=own, reason=Reason.OTHERHOST)
    owner = _owner_port(world, view, ports, dst_mac, dst)
    if isinstance(owner, int):
        return Choice(text="the namespace behind a port was not read", needs=owner)
    if source is not None and spoke and dst_mac is not None and (entry is None or "sticky" not in entry.flags):
        behind = world.far_end(view, source)
        if behind is not None and behind[1].mac == dst_mac and (source.port or BridgePort()).learning:
            return _back(source, dst_mac, entry)
    learnt = spoke and owner is not None and (owner.port or BridgePort()).learning
    if learnt and owner is not None and (entry is None or "sticky" not in entry.flags):
        return _deliverable(bridge, source, owner, Choice(text=f"{dst_mac} is behind {owner.name}", port=owner))
    static = entry is not None and ("permanent" in entry.state or "static" in (entry.state, *entry.flags))
    if entry is not None and static and owner is not None and entry.ifindex not in (owner.ifindex, None):
        out = view.links.get(entry.ifindex, owner)
        return Choice(
            text=f"a static entry sends {dst_mac} out of {out.name}, but it is behind {owner.name}",
            port=out,
            entry=entry,
            reason=Reason.FDB_WRONG_PORT,
            right_port=owner,
        )
    if source is not None and entry is not None and entry.ifindex == source.ifindex:
        return _back(source, entry.mac, entry)
    if entry is not None and entry.ifindex in view.links:
        out = view.links[entry.ifindex]
        chosen = owner if owner is not None and not static else out
        return _deliverable(
            bridge, source, chosen, Choice(text=f"{dst_mac} is behind {chosen.name}", port=chosen, entry=entry)
        )
    if owner is not None:
        if not (owner.port or BridgePort()).unicast_flood:
            return Choice(text=f"{owner.name} takes no unknown unicast (flood off)", port=owner, reason=Reason.NO_FLOOD)
        return _deliverable(bridge, source, owner, Choice(text=f"flooded to {owner.name}", port=owner))
    flooded = _owner_port(world, view, ports, None, dst) if dst_mac is not None else None
    if isinstance(flooded, Link) and not (flooded.port or BridgePort()).unicast_flood:
        text = f"{flooded.name} takes no unknown unicast (flood off)"
        return Choice(text=text, port=flooded, reason=Reason.NO_FLOOD)
    if isinstance(flooded, Link):
        # Nobody has that MAC: the frame is flooded, and shows at the port of the address's owner, who ignores it.
        return _deliverable(bridge, source, flooded, Choice(text=f"flooded to {flooded.name}", port=flooded))
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
    """Check the port that was chosen: state, isolation, VLAN (should_deliver, br_allowed_egress)."""
    info = out.port or BridgePort()
    came = (source.port if source is not None else None) or BridgePort()
    reason: Reason | None = None
    text = choice.text
    if info.state != FORWARDING:
        reason, text = Reason.PORT_BLOCKED, f"port {out.name} is in state {_state(info.state)}"
    elif source is not None and info.isolated and came.isolated:
        reason, text = Reason.PORT_ISOLATED, f"ports {source.name} and {out.name} are both isolated"
    elif _filters_vlans(bridge) and info.vlans is not None:
        vid = _vlan_of(bridge, source)
        if vid is not None and all(vlan.vid != vid for vlan in info.vlans):
            reason, text = Reason.VLAN_FILTERED, f"port {out.name} is not in VLAN {vid}"
    if reason is None:
        return choice
    return Choice(text=text, port=out, entry=choice.entry, reason=reason)


def _vlan_of(bridge: Link, source: Link | None) -> int | None:
    if source is None:
        return bridge.bridge.vlan_default_pvid if bridge.bridge is not None else None
    vlans = (source.port or BridgePort()).vlans
    return next((vlan.vid for vlan in vlans or () if vlan.pvid), None)
