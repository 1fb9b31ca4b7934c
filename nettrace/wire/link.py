"""Which link-layer header a device puts before the IP packet, by its ARPHRD type (include/uapi/linux/if_arp.h)."""

from __future__ import annotations

__all__ = ["ETHERNET", "LINKTYPE_ETHERNET", "LINKTYPE_RAW", "is_raw_ip", "linktype"]

ETHERNET = 1
#: PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE: an AF_PACKET socket hears them from the IP header on.
_RAW_IP = frozenset({512, 519, 768, 769, 776, 778, 823, 65534})

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101


def is_raw_ip(arp_type: int) -> bool:
    """Tell whether frames of such a device begin with the IP header; loopback and all others begin with Ethernet."""
    return arp_type in _RAW_IP


def linktype(arp_type: int) -> int:
    """Return the LINKTYPE_* that pcapng knows such frames by (https://www.tcpdump.org/linktypes.html)."""
    return LINKTYPE_RAW if is_raw_ip(arp_type) else LINKTYPE_ETHERNET
