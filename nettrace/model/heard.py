"""Packets of other people's programs, as captures hold them: what tells one from another, wherever it is heard.

A probe of nettrace's own carries a nonce. Any other packet is followed by what address translation does not touch: the
IPv4 identification, the TCP sequence number, the ICMP echo's sequence number, the first bytes of the payload.
"""

from __future__ import annotations

from nettrace.model.base import Model
from nettrace.model.flow import Packet
from nettrace.model.observe import SightingKind, Way

#: How many bytes of a payload tell packets apart.
PAYLOAD_BYTES = 32


class Heard(Model):
    """One packet in one capture.

    `tap` numbers the capture's interface; `ifindex` is the device's where the file tells it packet by packet (`tcpdump
    -i any`). `way` is None where nothing tells it. `neighbour` says which message of ARP or NDP it is, None for all
    others; then `packet.src` is the asking (answering) address and `packet.dst` the one asked for. `ident` is the IPv4
    identification. `number` is the TCP sequence number or the ICMP echo's; `ack` that of TCP, None without the flag.
    `payload` holds at most PAYLOAD_BYTES bytes behind the transport header, of `payload_length`. `about` is the packet
    that an ICMP error quotes, `outer` the packet that carried this one through a tunnel. `record` numbers the raw
    frame. `stranger`: the device that heard it was not the one it was addressed to.
    """

    tap: int
    at_ns: int
    packet: Packet
    way: Way | None = None
    ifindex: int | None = None
    neighbour: SightingKind | None = None
    ident: int = 0
    number: int | None = None
    ack: int | None = None
    payload: bytes = b""
    payload_length: int = 0
    about: Heard | None = None
    outer: Packet | None = None
    record: int = 0
    stranger: bool = False
