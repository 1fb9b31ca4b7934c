"""The question: a flow from a source to a destination, and the packet that stands for it."""

from __future__ import annotations

from enum import StrEnum

from nettrace.model.base import IPAddress, Model


class Proto(StrEnum):
    """Transport of a flow, as the command line names it."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"


#: Proto of a flow to IP protocol number, by address family (ICMP is 58 on IPv6).
PROTO_NUMBER: dict[tuple[Proto, int], int] = {
    (Proto.ICMP, 4): 1,
    (Proto.ICMP, 6): 58,
    (Proto.TCP, 4): 6,
    (Proto.TCP, 6): 6,
    (Proto.UDP, 4): 17,
    (Proto.UDP, 6): 17,
}

#: Smallest IP length that the probe can have: IP header, transport header, and the nonce where it rides in the payload.
HEADER_BYTES: dict[tuple[Proto, int], int] = {
    (Proto.ICMP, 4): 20 + 8 + 16,
    (Proto.ICMP, 6): 40 + 8 + 16,
    (Proto.TCP, 4): 20 + 20,
    (Proto.TCP, 6): 40 + 20,
    (Proto.UDP, 4): 20 + 8 + 16,
    (Proto.UDP, 6): 40 + 8 + 16,
}


class EndpointKind(StrEnum):
    """What an endpoint turned out to be."""

    CONTAINER = "container"
    NETNS = "netns"
    HOST = "host"
    ADDRESS = "address"
    NAME = "name"


class FlowEnd(Model):
    """One end of a flow. `netns` is the inode of its namespace, None when it lies beyond this host."""

    kind: EndpointKind
    name: str
    id: str | None = None
    netns: int | None = None
    address: IPAddress | None = None


class Flow(Model):
    """One direction of a conversation. `size` is the IP length in bytes with DF set, or None for the default.

    `assumed` is what was taken for granted when the question was turned into this flow.
    """

    src: FlowEnd
    dst: FlowEnd
    proto: Proto = Proto.ICMP
    sport: int | None = None
    dport: int | None = None
    size: int | None = None
    family: int = 4
    assumed: tuple[str, ...] = ()

    @property
    def from_outside(self) -> bool:
        """Whether the source is an address that nothing on this host holds, so that nothing can be sent from it."""
        return self.src.netns is None and self.src.address is not None and self.src.kind is EndpointKind.ADDRESS


class Packet(Model):
    """What of a packet decides its way: headers, mark and link-layer facts, at one point in time.

    `proto` is the IP protocol number; `length` the IP length in bytes; `tcp_flags` the low byte of the TCP flags.
    MAC addresses are lower-case text. `quoted` holds the packet an ICMP error talks about, and `icmp_mtu` the MTU
    that "fragmentation needed" or "packet too big" names.
    """

    family: int
    src: IPAddress
    dst: IPAddress
    proto: int
    sport: int | None = None
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    icmp_id: int | None = None
    tcp_flags: int | None = None
    ttl: int = 64
    length: int = 84
    tos: int = 0
    mark: int = 0
    df: bool = True
    src_mac: str | None = None
    dst_mac: str | None = None
    uid: int | None = None
    gid: int | None = None
    quoted: Packet | None = None
    icmp_mtu: int | None = None
