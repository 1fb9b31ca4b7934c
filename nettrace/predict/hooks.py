"""Netfilter in the walk: what rules may ask about the namespace, and conntrack, kept per namespace."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from nettrace.model.base import IPAddress, Missing
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, Hook, HookResult, Tracking
from nettrace.model.snapshot import ConntrackEntry, Tuple5
from nettrace.netfilter import HookContext, evaluate_hook
from nettrace.netfilter.context import FibQuery
from nettrace.predict import route as routing
from nettrace.predict.world import View

#: ICMP types that ask, by family: only these open a conntrack entry of their own.
_ICMP_REQUESTS = {4: (8, 13, 15, 17), 6: (128,)}


def tuple_of(packet: Packet) -> Tuple5:
    """Return the conntrack tuple of a packet as sent (nf_ct_get_tuple)."""
    return Tuple5(
        src=packet.src,
        dst=packet.dst,
        proto=packet.proto,
        sport=packet.sport,
        dport=packet.dport,
        icmp_type=packet.icmp_type,
        icmp_code=packet.icmp_code,
        icmp_id=packet.icmp_id,
    )


def inverted(own: Tuple5) -> Tuple5:
    """Return the tuple of replies to a tuple (nf_ct_invert_tuple)."""
    reply_type = {8: 0, 128: 129, 13: 14, 15: 16, 17: 18}.get(own.icmp_type or 0, own.icmp_type)
    return Tuple5(
        src=own.dst,
        dst=own.src,
        proto=own.proto,
        sport=own.dport,
        dport=own.sport,
        icmp_type=reply_type if own.icmp_type is not None else None,
        icmp_code=own.icmp_code,
        icmp_id=own.icmp_id,
    )


class Table:
    """The conntrack entries that the walk has made, by namespace; what the kernel would hold after the same packets."""

    def __init__(self) -> None:
        self.entries: dict[int, list[Tracking]] = {}
        self.untracked: set[int] = set()

    def begin(self, view: View, packet: Packet, zone: int = 0) -> Tracking:
        """Return the tracking of a packet that enters a namespace: an entry of its zone that exists, or a new one."""
        own = tuple_of(packet)
        for entry in self.entries.get(view.id, ()):
            if entry.zone != zone:
                continue
            if _same(entry.orig, own):
                return _with(
                    entry, reply=False, state=CtState.ESTABLISHED if "seen_reply" in entry.status else entry.state
                )
            if _same(entry.reply_tuple, own):
                return _with(entry, reply=True, state=CtState.ESTABLISHED)
        icmp = packet.proto in (1, 58)
        if icmp and packet.icmp_type not in _ICMP_REQUESTS[packet.family]:
            return Tracking(state=CtState.INVALID, zone=zone)
        return Tracking(state=CtState.NEW, orig=own, reply_tuple=inverted(own), zone=zone)

    def keep(self, view: View, tracking: Tracking) -> None:
        """Remember an entry after the last hook, as nf_conntrack_confirm does."""
        orig = tracking.orig
        if orig is None or tracking.state in (CtState.UNTRACKED, CtState.INVALID, CtState.NONE):
            return
        if tracking.reply and "seen_reply" not in tracking.status:
            tracking = _with(tracking, status=(*tracking.status, "seen_reply"))
        held = self.entries.setdefault(view.id, [])
        held[:] = [entry for entry in held if entry.zone != tracking.zone or not _same(entry.orig, orig)]
        held.append(tracking)

    def as_entries(self) -> dict[str, ConntrackEntry]:
        """Return the last entry of each namespace, as data for the trace."""
        return {
            str(netns): ConntrackEntry(
                orig=held[-1].orig, reply=held[-1].reply_tuple, status=held[-1].status, mark=held[-1].mark
            )
            for netns, held in self.entries.items()
            if held and held[-1].orig is not None and held[-1].reply_tuple is not None
        }


def _with(tracking: Tracking, **changes: Any) -> Tracking:
    return replace(tracking, **changes)


def _same(one: Tuple5 | None, other: Tuple5) -> bool:
    if one is None or one.proto != other.proto:
        return False
    if one.proto in (1, 58):
        return (one.src, one.dst, one.icmp_type, one.icmp_id) == (other.src, other.dst, other.icmp_type, other.icmp_id)
    return (one.src, one.dst, one.sport, one.dport) == (other.src, other.dst, other.sport, other.dport)


def run_hook(
    view: View,
    hook: Hook,
    packet: Packet,
    tracking: Tracking,
    *,
    family: str | None = None,
    iif: str | None = None,
    oif: str | None = None,
    physin: str | None = None,
    physout: str | None = None,
) -> HookResult:
    """Run one hook of a namespace over a packet, with everything rules may ask about the namespace."""
    address_family = "ip" if packet.family == 4 else "ip6"

    def address_type(address: IPAddress, device: str | None = None) -> str:
        link = view.by_name.get(device) if device is not None else None
        return routing.address_type(view, address, link.ifindex if link is not None else None)

    def is_local(address: IPAddress, device: str | None = None) -> bool:
        return address_type(address, device) == "LOCAL"

    def fib(query: FibQuery) -> str | None:
        device = view.by_name.get(query.dev) if query.dev is not None else None
        asked = _with_packet(packet, dst=query.dst, src=query.src or packet.src, mark=query.mark)
        found = routing.lookup(view, asked, iif=iif, oif=device.ifindex if device is not None else None, src=query.src)
        link = view.links.get(found.ifindex or 0)
        return link.name if link is not None else ""

    def source_for(device: str, towards: IPAddress) -> IPAddress | None:
        link = view.by_name.get(device)
        if link is None:
            return None
        found = routing.lookup(view, _with_packet(packet, dst=towards), oif=link.ifindex)
        if found.gateway is not None and found.gateway.version == towards.version:
            towards = found.gateway
        choose = routing.source_v4 if towards.version == 4 else routing.source_v6
        return choose(view, link.ifindex, towards)

    def primary_address(device: str) -> IPAddress | None:
        link = view.by_name.get(device)
        held = view.addresses.get(link.ifindex, ()) if link is not None else ()
        return next((each.address.ip for each in held if each.address.version == packet.family), None)

    port = view.by_name.get(physin or physout or iif or oif or "") if family == "bridge" else None
    bridge = view.links.get(port.master or port.ifindex) if port is not None else None
    routed = not isinstance(view.ns.routes, Missing) and not isinstance(view.ns.rules, Missing)
    addressed = not isinstance(view.ns.addresses, Missing) and not isinstance(view.ns.links, Missing)
    context = HookContext(
        family=family or address_family,
        iif=iif,
        oif=oif,
        physin=physin,
        physout=physout,
        bridge=bridge.name if bridge is not None else None,
        bridge_mac=bridge.mac if bridge is not None else None,
        bridged=physin is not None and physout is not None,
        loopback=iif == "lo",
        iif_group=_group(view, iif),
        oif_group=_group(view, oif),
        pkttype="host" if iif is not None else None,
        address_type=address_type if not isinstance(view.ns.routes, Missing) else None,
        is_local=is_local if not isinstance(view.ns.routes, Missing) else None,
        fib=fib if routed else None,
        source_for=source_for if routed and addressed else None,
        primary_address=primary_address if addressed else None,
    )
    return evaluate_hook(view.ruleset, hook, packet, tracking, context)


def _group(view: View, device: str | None) -> int | None:
    link = view.by_name.get(device) if device is not None else None
    return link.group if link is not None else None


def _with_packet(packet: Packet, **changes: Any) -> Packet:
    return replace(packet, **changes)
