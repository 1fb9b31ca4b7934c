"""What a packet from beyond this host is addressed to, when the question names a container.

Nobody outside knows a container's own address, unless it is routed there: what they send goes to the address and port
of the host that the container is published at. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import Proto
from nettrace.model.intent import Container, Network, PublishedPort

__all__ = ["Arrival", "aim"]

#: Gateway modes whose containers are addressed directly from outside (docs.docker.com, "Gateway modes").
DIRECT = ("routed", "nat-unprotected")


class Arrival(Model):
    """The address and port that the packet arrives with; `address` None leaves the choice to who asks."""

    address: IPAddress | None
    dport: int | None
    assumed: tuple[str, ...] = ()


def aim(
    peer: IPAddress,
    *,
    proto: Proto,
    dport: int | None,
    address: IPAddress | None,
    name: str,
    container: Container | None,
    networks: Sequence[Network],
    host: IPAddress | None,
) -> Arrival:
    """Return what a packet from `peer` to `name` is addressed to.

    `address` is the destination where it was given as one; `container` the one that holds it, or that was named.
    `host` is the address that this host has towards the peer. A port means the container's own, unless it publishes
    none such and does publish the port itself. Where it publishes neither, the packet is for the container's own
    address in networks that are meant to be routed to, and for ICMP; else it is for the host's.
    """
    if container is None or not container.endpoints:
        return Arrival(address=address, dport=dport)
    own = address or _own_address(container, networks, peer.version)
    routed = f"the network outside sends packets for {own}, an address of {name}, to this host"
    if address is not None:
        return Arrival(address=address, dport=dport, assumed=(routed,))
    if proto is Proto.ICMP or dport is None:
        return Arrival(address=own, dport=None, assumed=(routed,) if own is not None else ())
    port = _published(container, proto, dport, peer.version)
    if port is not None and host is not None:
        at = host if port.host_ip.is_unspecified or port.host_ip.is_loopback else port.host_ip
        outer = f"[{at}]:{port.host_port}" if at.version == 6 else f"{at}:{port.host_port}"
        told = f"--port {dport} is {name}'s own port {dport}/{proto.value}"
        if port.container_port != dport:
            told = f"--port {dport} is the host's port {dport}/{proto.value}, {name}'s own is {port.container_port}"
        said = f"{told}, which is published: {peer} sends to {outer}"
        return Arrival(address=at, dport=port.host_port, assumed=(said,))
    if own is None or (host is not None and not _direct(container, networks, peer.version)):
        said = f"{name} does not publish {dport}/{proto.value}: {peer} is taken to send to port {dport} of {host}"
        return Arrival(address=host, dport=dport, assumed=(said,) if host is not None else ())
    return Arrival(address=own, dport=dport, assumed=(routed,))


def _published(container: Container, proto: Proto, dport: int, family: int) -> PublishedPort | None:
    """Return the published port that is meant: of the container's own port first, and best on an address for others."""
    # In a routed network a published port has none of the host's.
    own = [each for each in container.ports if each.host_port]
    ports = [each for each in own if each.proto == proto.value and each.host_ip.version == family]
    ports.sort(key=lambda each: (each.container_port != dport, each.host_ip.is_loopback, int(each.host_ip)))
    return next((each for each in ports if dport in (each.container_port, each.host_port)), None)


def _own_address(container: Container, networks: Sequence[Network], family: int) -> IPAddress | None:
    """Return the container's own address, best in a network that is meant to be reached from outside."""
    known = {each.id: each for each in networks}
    held = [
        (end, address) for end in container.endpoints if (address := end.ipv4 if family == 4 else end.ipv6) is not None
    ]
    held.sort(key=lambda each: not _reachable(known.get(each[0].network_id), family))
    return held[0][1].ip if held else None


def _direct(container: Container, networks: Sequence[Network], family: int) -> bool:
    """Tell whether one of the container's networks is meant to be reached by its own addresses."""
    known = {each.id: each for each in networks}
    return any(_reachable(known.get(end.network_id), family) for end in container.endpoints)


def _reachable(network: Network | None, family: int) -> bool:
    if network is None:
        return False
    mode = network.gateway_mode_ipv4 if family == 4 else network.gateway_mode_ipv6
    return network.driver in ("macvlan", "ipvlan") or (mode or "nat") in DIRECT
