"""Where a packet stands when a hook looks at it: devices, and whom to ask about addresses, routes and sockets.

Whatever is left out cannot be told: a match that needs it is unknown, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet

__all__ = ["AddrTypeOracle", "FibOracle", "FibQuery", "HookContext", "SocketFacts", "SocketOracle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FibQuery:
    """A route lookup that a match asks for: the way to `dst` from `src`.

    With `dev`, only routes that use this device count (fib_info_nh_uses_dev). `mark` is 0 when the match ignores it.
    """

    dst: IPAddress
    src: IPAddress | None = None
    dev: str | None = None
    mark: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketFacts:
    """The local socket that a packet belongs to. `wildcard`: bound to any address."""

    transparent: bool = False
    wildcard: bool = False
    mark: int | None = None


#: (address, device or None) → LOCAL, UNICAST, BROADCAST, MULTICAST, BLACKHOLE, …; None when it cannot be told.
AddrTypeOracle: TypeAlias = Callable[[IPAddress, str | None], str | None]
#: Name of the output device; "" when there is no route (or none by `dev`); None when it cannot be told.
FibOracle: TypeAlias = Callable[[FibQuery], str | None]
#: The socket a packet belongs to; False when there is none; None when it cannot be told.
SocketOracle: TypeAlias = Callable[[Packet], SocketFacts | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HookContext:
    """The surroundings of one packet at one hook.

    `family` chooses the tables: ip, ip6, bridge, arp or netdev. `iif` and `oif` are the devices the hook sees (for a
    bridged frame in an IP hook: the bridge), `physin` and `physout` the bridge ports; None where there is none.
    `bridge` is the name of the bridge for hooks of family bridge, `bridge_mac` its address.
    `bridged` tells that the frame is forwarded by a bridge, not routed.
    `loopback` tells that the packet has come back through `lo`, so conntrack has seen it before.

    Callables, each optional: `address_type(address, dev)`, `is_local(address, dev)`, `fib(query)`, `socket(packet)`;
    `source_for(oif, dst)` the address that MASQUERADE gives (inet_select_addr towards the next hop of `dst`), and
    `primary_address(iif)` the one of the packet's family that REDIRECT gives; both may answer None: the device has no
    address, so the kernel drops the packet.

    `iif_group`, `oif_group`, `realm` and `ipsec` (the packet came or will go through xfrm) are facts, None when they
    are not known. `pkttype` is host, broadcast, multicast or other.
    """

    family: str = "ip"
    iif: str | None = None
    oif: str | None = None
    physin: str | None = None
    physout: str | None = None
    bridge: str | None = None
    bridge_mac: str | None = None
    bridged: bool = False
    loopback: bool = False
    iif_group: int | None = None
    oif_group: int | None = None
    realm: int | None = None
    ipsec: bool | None = None
    pkttype: str | None = None
    address_type: AddrTypeOracle | None = None
    is_local: Callable[[IPAddress, str | None], bool | None] | None = None
    fib: FibOracle | None = None
    source_for: Callable[[str, IPAddress], IPAddress | None] | None = None
    primary_address: Callable[[str], IPAddress | None] | None = None
    socket: SocketOracle | None = None
