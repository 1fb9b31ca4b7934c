"""Which device of the host a packet from beyond it comes in by.

Nothing on the host says so. Where the host's routes are as they should be, it is the device that the way back to the
sender leads to; that is what reverse-path filtering takes for granted too (RFC 3704).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from nettrace.model.flow import Packet
from nettrace.model.snapshot import Link
from nettrace.predict import route as routing
from nettrace.predict.world import View, World


def arrival_device(world: World, view: View, packet: Packet) -> Link | None:
    """Return the device by which a packet comes in; of a bridge, the port that leads out of this host.

    Where the way back is gone, or leads nowhere, the sender's own subnet tells, then any default route.
    """
    return next((_outer(world, view, link) for link in _candidates(view, packet) if not link.loopback), None)


def _candidates(view: View, packet: Packet) -> Iterator[Link]:
    back = replace(packet, src=packet.dst, dst=packet.src)
    found = routing.lookup(view, back)
    if found.route is not None and found.route.kind == "unicast" and found.ifindex in view.links:
        yield view.links[found.ifindex]
    for ifindex, held in view.addresses.items():
        if any(packet.src in each.address.network for each in held) and ifindex in view.links:
            yield view.links[ifindex]
    for ifindex, held in view.addresses.items():
        if any(each.address.ip == packet.dst for each in held) and ifindex in view.links:
            yield view.links[ifindex]
    for (family, _table), routes in view.tables.items():
        for route in routes:
            if family == packet.family and route.dst.prefixlen == 0:
                yield from (view.links[hop.ifindex] for hop in route.nexthops if hop.ifindex in view.links)


def _outer(world: World, view: View, link: Link) -> Link:
    """Return the port of a bridge that leads out of this host: the one whose other end is in no known namespace."""
    if link.kind != "bridge":
        return link
    ports = view.ports.get(link.ifindex, ())
    return next((port for port in ports if port.kind != "veth" or world.far_end(view, port) is None), link)


__all__ = ["arrival_device"]
