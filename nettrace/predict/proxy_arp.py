"""Who answers ARP for an address that is not his own: proxy ARP, by a sysctl or an entry.

Models the branch of arp_process (net/ipv4/arp.c) behind "not local": the namespace forwards, its route to the address
leaves by another device, and either proxy_arp is set (arp_fwd_proxy) or an entry says so (pneigh_lookup). Calico's
gateway 169.254.1.1 is nobody's address: each pod's veth answers for it so.
"""

from __future__ import annotations

from nettrace.model.base import IPAddress, rows
from nettrace.model.flow import Packet
from nettrace.model.snapshot import Link
from nettrace.predict import route as routing
from nettrace.predict.world import View

__all__ = ["answers_for"]


def answers_for(view: View, device: Link, address: IPAddress, asking: IPAddress) -> bool:
    """Tell whether a namespace answers on a device for an address that it does not hold; IPv4 only."""
    if address.version != 4 or device.noarp or not device.up:
        return False
    entry = any(each.proxy and each.address == address for each in rows(view.ns.neighbours))
    if not entry and not view.conf_max(4, device.name, "proxy_arp", 0):
        return False
    if not view.conf(4, device.name, "forwarding", view.number("net.ipv4.ip_forward", 0)):
        return False
    request = Packet(family=4, src=asking, dst=address, proto=0)
    found = routing.lookup(view, request, iif=device.name, src=asking)
    unicast = found.route is not None and found.route.kind == "unicast"
    return unicast and found.ifindex != device.ifindex
