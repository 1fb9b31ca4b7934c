"""Which conversations captures hold, and where each is seen: what to ask about, when nobody has said.

Pure. One conversation is the same under all addresses that translation gives it: packets that are equal in what
translation does not touch join what they were heard as.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nettrace.model.base import IPAddress, Model, rows
from nettrace.model.flow import Proto
from nettrace.model.heard import Heard
from nettrace.model.snapshot import Snapshot

__all__ = ["Conversation", "Where", "conversations", "word_for"]

_PROTO = {1: Proto.ICMP, 58: Proto.ICMP, 6: Proto.TCP, 17: Proto.UDP}
_SYN, _ACK = 0x02, 0x10
#: Most conversations that are told apart; the rest of a busy capture is no help to anyone.
MOST = 2000

_Node = tuple[Proto, IPAddress, IPAddress, int | None]


class Where(Model):
    """One place that a conversation is seen at, under which addresses, and how many packets each way."""

    place: str
    src: IPAddress
    dst: IPAddress
    there: int = 0
    back: int = 0


class Conversation(Model):
    """Who began to talk to whom. `port` is the destination's, None for ICMP. `where` is in order of first sight."""

    proto: Proto
    src: IPAddress
    dst: IPAddress
    port: int | None
    there: int
    back: int
    first_ns: int
    where: tuple[Where, ...]


def conversations(heard: Iterable[tuple[str, Heard]]) -> tuple[Conversation, ...]:
    """Return the conversations of packets, each given with the place it was heard at; the most seen ones first.

    ARP, neighbour discovery and ICMP errors belong to none.
    """
    counts: dict[_Node, dict[str, list[int]]] = {}
    first: dict[_Node, int] = {}
    parent: dict[_Node, _Node] = {}
    known: dict[tuple[object, ...], _Node] = {}

    def root(node: _Node) -> _Node:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for place, each in heard:
        found = _node(each)
        if found is None:
            continue
        node, back = found
        if node not in parent:
            if len(parent) >= MOST:
                continue
            parent[node] = node
        tally = counts.setdefault(node, {}).setdefault(place, [0, 0])
        tally[back] += 1
        first[node] = min(first.get(node, each.at_ns), each.at_ns)
        identity = _identity(each, back)
        if identity is not None:
            other = root(known.setdefault(identity, node))
            parent[root(node)] = other
    groups: dict[_Node, list[_Node]] = {}
    for node in sorted(counts, key=lambda each: first[each]):
        groups.setdefault(root(node), []).append(node)
    made = [_conversation(nodes, counts, first) for nodes in groups.values()]
    return tuple(sorted(made, key=lambda each: (-len({one.place for one in each.where}), -each.there, each.first_ns)))


def _conversation(
    nodes: Sequence[_Node], counts: dict[_Node, dict[str, list[int]]], first: dict[_Node, int]
) -> Conversation:
    proto, src, dst, port = nodes[0]
    where = tuple(
        Where(place=place, src=node[1], dst=node[2], there=there, back=back)
        for node in nodes
        for place, (there, back) in counts[node].items()
    )
    return Conversation(
        proto=proto,
        src=src,
        dst=dst,
        port=port,
        there=max(each.there for each in where),
        back=max(each.back for each in where),
        first_ns=first[nodes[0]],
        where=where,
    )


def _node(heard: Heard) -> tuple[_Node, bool] | None:
    """Return what conversation a packet is of, by its headers, and whether it goes back to who began it."""
    packet = heard.packet
    proto = _PROTO.get(packet.proto)
    if proto is None or heard.neighbour is not None or heard.about is not None:
        return None
    if proto is Proto.ICMP:
        back = packet.icmp_type in (0, 129)
        ends = (packet.dst, packet.src) if back else (packet.src, packet.dst)
        return (proto, *ends, None), back
    if packet.sport is None or packet.dport is None:
        return None
    flags = (packet.tcp_flags or 0) & (_SYN | _ACK)
    # Who has begun is told by the first packet of a TCP connection; else a server has the lower port.
    back = flags == _SYN | _ACK or (flags != _SYN and packet.sport < packet.dport)
    if back:
        return (proto, packet.dst, packet.src, packet.sport), True
    return (proto, packet.src, packet.dst, packet.dport), False


def _identity(heard: Heard, back: bool) -> tuple[object, ...] | None:
    """Return what a packet is the same by under all addresses; None where that is too little."""
    packet = heard.packet
    if packet.proto == 6:
        return (back, heard.number, heard.ack, packet.tcp_flags, heard.payload_length)
    if len(set(heard.payload)) < 4:
        return None
    return (back, packet.proto, heard.ident, heard.number, heard.payload)


def word_for(address: IPAddress, snapshot: Snapshot) -> str:
    """Return how a question names an address of a snapshot's host: by its container, "host", or as it is."""
    for container in snapshot.intent.containers:
        for endpoint in container.endpoints:
            if any(held is not None and held.ip == address for held in (endpoint.ipv4, endpoint.ipv6)):
                return container.name
    for ns in snapshot.namespaces:
        if any(each.address.ip == address for each in rows(ns.addresses)) and not address.is_loopback:
            if ns.id == snapshot.host_netns:
                return "host"
            return ns.name if ns.kind == "container" else f"netns:{ns.name}"
    return str(address)
