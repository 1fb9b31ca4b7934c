"""What marks the packets of one run, for the rules that ask the kernel to report them.

The marks are what address translation does not touch (see `nettrace.wire.token`), at the place in the packet where
they ride: so the packets of the run are reported before and after every NAT, and no others, however alike they are.

Known limits: the answer of a UDP service that does not echo the nonce is known by its ports alone, and is not
reported where NAT has changed those, or there are more than a few probes. A TCP reset or SYN-ACK is known by 24 bits
of its acknowledgement and the port it comes from. IPv4 options and IPv6 extension headers inside a tunnel or an ICMP
error hide the packet in it.
"""

from __future__ import annotations

import struct
from typing import Final

from nettrace.model.base import Model
from nettrace.model.flow import PROTO_NUMBER, Proto
from nettrace.wire.token import DNS_LABEL, DNS_PORT, MAGIC, RunToken

__all__ = ["NETWORK", "TRANSPORT", "Compare", "Mark", "marks_of"]

#: enum nft_payload_bases: where an offset counts from.
NETWORK: Final = 1
TRANSPORT: Final = 2

_UDP: Final = 17
_ICMP_OF: Final = {4: 1, 6: 58}
_IP_BYTES: Final = {4: 20, 6: 40}
_L4_BYTES: Final = 8
#: UDP, VXLAN and Ethernet headers, in front of the packet inside a tunnel.
_TUNNEL_BYTES: Final = 8 + 8 + 14
_SPORT, _DPORT = 0, 2
_SEQUENCE, _ACKNOWLEDGEMENT = 4, 8
#: Every packet of a namespace is held against every mark, so there may not be one for each of a hundred probes.
MOST_PORTS: Final = 4
#: In a DNS message the name that is asked for comes behind the header.
_DNS_BYTES: Final = 12


class Compare(Model):
    """Bytes that a packet must have, `offset` bytes behind the beginning of its network or transport header."""

    base: int
    offset: int
    value: bytes


class Mark(Model):
    """One kind of packet: of an address family (4, 6) and an IP protocol, with all of these bytes."""

    family: int
    proto: int
    compares: tuple[Compare, ...]


def marks_of(token: RunToken, *, tunnel_families: tuple[int, ...] = (4, 6)) -> tuple[Mark, ...]:
    """Return the marks of a run's probes, of the answers, of ICMP errors about them, and of what carries them.

    `tunnel_families` are the address families of VXLAN tunnels that the run may pass.
    """
    family = token.family
    proto = PROTO_NUMBER[token.proto, family]
    inner = _inner(token)
    marks = [Mark(family=family, proto=proto, compares=each) for each in (*inner, *_answers(token))]
    quoted = _L4_BYTES + _IP_BYTES[family]
    marks += [Mark(family=family, proto=_ICMP_OF[family], compares=_moved(each, quoted)) for each in inner]
    ports = token.vxlan_ports if tunnel_families else ()
    for outer in tunnel_families:
        for port in ports:
            to_tunnel = _transport(_DPORT, struct.pack(">H", port))
            deep = _TUNNEL_BYTES + _IP_BYTES[family]
            marks += [
                Mark(family=outer, proto=_UDP, compares=(to_tunnel, *_moved(each, deep)))
                for each in (*inner, *_answers(token))
            ]
    return tuple(dict.fromkeys(marks))


def _transport(offset: int, value: bytes) -> Compare:
    return Compare(base=TRANSPORT, offset=offset, value=value)


def _moved(compares: tuple[Compare, ...], by: int) -> tuple[Compare, ...]:
    """The same bytes inside something that is `by` bytes long in front of their transport header."""
    return tuple(_transport(each.offset + by, each.value) for each in compares)


def _inner(token: RunToken) -> list[tuple[Compare, ...]]:
    """What the probes themselves have; answers that echo them too."""
    secret = MAGIC + token.secret
    if token.proto is Proto.TCP:
        start = _transport(_SEQUENCE, token.secret[:3])
        return [(_transport(_DPORT, struct.pack(">H", port)), start) for port in token.dports]
    if token.proto is Proto.UDP and DNS_PORT in token.dports:
        label = DNS_LABEL + token.secret.hex().encode()
        return [(_transport(_L4_BYTES, secret),), (_transport(_L4_BYTES + _DNS_BYTES, label),)]
    return [(_transport(_L4_BYTES, secret),)]


def _answers(token: RunToken) -> list[tuple[Compare, ...]]:
    """What answers have that do not carry the nonce."""
    if token.proto is Proto.TCP:
        about = _transport(_ACKNOWLEDGEMENT, token.secret[:3])
        return [(_transport(_SPORT, struct.pack(">H", port)), about) for port in token.dports]
    if token.proto is Proto.UDP and DNS_PORT not in token.dports:
        return [
            (_transport(_SPORT, struct.pack(">H", far)), _transport(_DPORT, struct.pack(">H", near)))
            for far in token.dports
            for near in token.sports[:MOST_PORTS]
        ]
    return []
