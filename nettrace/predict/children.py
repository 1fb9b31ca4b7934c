"""Devices that hang on a parent: which macvlan or ipvlan child takes a frame, and where a child's own frames go.

Models macvlan_queue_xmit and macvlan_handle_frame (drivers/net/macvlan.c); ipvlan_xmit_mode_l2, ipvlan_xmit_mode_l3,
ipvlan_handle_frame and ipvlan_l3_rcv (drivers/net/ipvlan). A macvlan child has a MAC address of its own; ipvlan
children all bear their parent's and are told apart by IP address. Neither sort ever exchanges frames with the stack of
its parent's own namespace: requests for addresses there go out on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import Packet
from nettrace.model.snapshot import Link
from nettrace.predict.world import View, World

KINDS = ("macvlan", "macvtap", "ipvlan", "ipvtap")
#: ipvlan modes in which the parent's namespace routes what children send, and nobody resolves neighbours.
ROUTED = ("l3", "l3s")


class Way(StrEnum):
    """Where a child's frame goes."""

    SIBLING = "sibling"
    ISOLATED = "isolated"
    HOST = "host"
    WIRE = "wire"
    ROUTED = "routed"


class Choice(Model):
    """What a child's driver does with a frame; `text` says why."""

    way: Way
    text: str = ""


def children_of(world: World, view: View, parent: Link) -> Iterator[tuple[View, Link]]:
    """Yield the children of a device, in whichever namespace they are."""
    for each in world.views.values():
        for link in each.links.values():
            if link.kind in KINDS and link.peer_ifindex == parent.ifindex and each.peer(link) == view.id:
                yield each, link


def taker(
    world: World, view: View, parent: Link, *, mac: str | None = None, address: IPAddress | None = None
) -> tuple[View, Link] | None:
    """Return the child of a device that takes frames for a MAC address (macvlan) or an IP address (ipvlan).

    A macvlan child in passthru mode takes all that its parent receives.
    """
    for each, link in children_of(world, view, parent):
        if link.kind in ("ipvlan", "ipvtap"):
            if address is not None and each.owned.get(address) == link.ifindex and mac in (None, parent.mac):
                return each, link
        elif mac is not None and (link.mac == mac or link.macvlan_mode == "passthru"):
            return each, link
    return None


def ipvlan_choice(
    out: Link, parent_view: View, parent: Link, packet: Packet, dst_mac: str | None, sibling: Link | None
) -> Choice:
    """Say where an ipvlan child's packet goes; `sibling` is the child of the same parent that holds its destination.

    l2: a frame for the common MAC address is handed to the sibling that has the IP address. l3 and l3s: the
    destination's address alone decides, then the routes of the parent's namespace.
    """
    flag = out.ipvlan_flag or "bridge"
    if sibling is not None and flag != "vepa" and (out.ipvlan_mode in ROUTED or dst_mac in (None, parent.mac)):
        if "private" in (flag, sibling.ipvlan_flag):
            return Choice(way=Way.ISOLATED, text=f"{out.name} is private: it does not reach its siblings")
        return Choice(way=Way.SIBLING, text=f"{parent.name} hands it to the sibling that holds {packet.dst}")
    if sibling is not None and flag == "vepa":
        text = f"{out.name} is in vepa mode: only a switch that sends frames back joins siblings"
        return Choice(way=Way.ISOLATED, text=text)
    if packet.dst in parent_view.owned:
        return Choice(way=Way.HOST, text=f"{out.name} and its parent {parent.name} cannot talk to each other")
    return Choice(way=Way.ROUTED if out.ipvlan_mode in ROUTED else Way.WIRE)


def holder(world: World, view: View, parent: Link, address: IPAddress) -> tuple[View, Link] | None:
    """Return the child of a device that holds an address, whatever its kind."""
    for each, link in children_of(world, view, parent):
        if each.owned.get(address) == link.ifindex:
            return each, link
    return None
