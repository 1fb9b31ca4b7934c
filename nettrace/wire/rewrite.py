"""Put other addresses into captured frames: every header that holds one, also of what an error quotes or a tunnel
carries, with its checksums computed anew.

Scapy dissects and builds. What it cannot dissect keeps its bytes; callers that must be sure look for what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from nettrace.model.base import IPAddress
from nettrace.wire.build import preload
from nettrace.wire.link import is_raw_ip

__all__ = ["rewrite_frame"]

#: Fields that hold an address, by Scapy's names of the layers: those of IP, and those of the link layer.
_IP_FIELDS = {
    "IP": ("src", "dst"),
    "IPerror": ("src", "dst"),
    "IPv6": ("src", "dst"),
    "IPerror6": ("src", "dst"),
    "ARP": ("psrc", "pdst"),
    "ICMPv6ND_NS": ("tgt",),
    "ICMPv6ND_NA": ("tgt",),
    "ICMPv6ND_Redirect": ("tgt", "dst"),
    "ICMP": ("gw",),
}
_MAC_FIELDS = {
    "Ether": ("src", "dst"),
    "ARP": ("hwsrc", "hwdst"),
    "ICMPv6NDOptSrcLLAddr": ("lladdr",),
    "ICMPv6NDOptDstLLAddr": ("lladdr",),
}
_CHECKSUMS = ("chksum", "cksum")
_VXLAN_PORTS = (4789, 8472)


def rewrite_frame(
    data: bytes,
    *,
    arp_type: int,
    address: Callable[[IPAddress], IPAddress],
    mac: Callable[[str], str],
    vxlan_ports: tuple[int, ...] = (),
) -> bytes:
    """Return a frame with its addresses replaced, as long as before.

    `arp_type` is ARPHRD_* of the device that it was captured on; UDP to one of `vxlan_ports` (and the usual two)
    carries VXLAN.
    """
    preload()
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    first: Any = Ether
    if is_raw_ip(arp_type):
        first = IPv6 if data[:1] and data[0] >> 4 == 6 else IP
    packet = first(data)
    ports = {*_VXLAN_PORTS, *vxlan_ports}
    layer = packet
    while layer is not None and layer.name != "NoPayload":
        if isinstance(layer, UDP) and layer.dport in ports and isinstance(layer.payload, Raw):
            inner = VXLAN(bytes(layer.payload))
            layer.remove_payload()
            layer.add_payload(inner)
        _rewrite_layer(layer, address, mac)
        layer = layer.payload or None
    built = bytes(packet)
    # Scapy takes what follows a datagram for padding and keeps it; a length that differs would be another frame.
    return built if len(built) == len(data) else built[: len(data)].ljust(len(data), b"\0")


def _rewrite_layer(layer: Any, address: Callable[[IPAddress], IPAddress], mac: Callable[[str], str]) -> None:
    name = type(layer).__name__
    for field in _IP_FIELDS.get(name, ()):
        value = layer.getfieldval(field) if field in layer.fields else None
        if isinstance(value, str) and value:
            layer.setfieldval(field, str(address(ip_address(value))))
    for field in _MAC_FIELDS.get(name, ()):
        value = layer.getfieldval(field) if field in layer.fields else None
        if isinstance(value, str) and value:
            layer.setfieldval(field, mac(value))
    for field in _CHECKSUMS:
        # Of a packet that an error quotes there is often no more than a beginning: its checksum says nothing.
        # A UDP checksum of zero over IPv4 means that there is none (RFC 768).
        if field in layer.fields and not name.endswith(("error", "error6")) and layer.getfieldval(field):
            layer.delfieldval(field)
