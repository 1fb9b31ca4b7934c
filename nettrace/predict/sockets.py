"""Who takes a packet that arrived: the kernel's own ICMP, or a socket bound to the port.

Models icmp_echo, __inet_lookup_listener and udp4_lib_lookup2 (net/ipv4), and dual-stack sockets.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.base import IPAddress, Missing, Model
from nettrace.model.flow import Packet
from nettrace.model.path import Outcome, Reason
from nettrace.model.snapshot import Socket
from nettrace.predict.world import View, World


class Delivery(Model):
    """What became of a packet that arrived."""

    outcome: Outcome
    text: str
    reason: Reason | None = None
    socket: Socket | None = None
    sysctl: str | None = None


def deliver(view: View, packet: Packet, *, own_reply: bool) -> Delivery:
    """Find who takes the packet; `own_reply` is true for the answer to the probe, whose socket is the prober's."""
    if own_reply:
        return Delivery(outcome=Outcome.ARRIVED, text=f"back in {view.name}")
    if packet.proto in (1, 58):
        name = "net.ipv4.icmp_echo_ignore_all" if packet.family == 4 else "net.ipv6.icmp.echo_ignore_all"
        if view.number(name, 0):
            return Delivery(
                outcome=Outcome.DROP,
                text=f"{view.name} ignores echo requests",
                reason=Reason.NOT_LISTENING,
                sysctl=f"{name} = 1",
            )
        return Delivery(outcome=Outcome.ARRIVED, text=f"{view.name} answers the echo request")
    if isinstance(view.ns.sockets, Missing):
        return Delivery(outcome=Outcome.UNKNOWN, text=f"the sockets of {view.name} were not read")
    proto = "tcp" if packet.proto == 6 else "udp"
    near: Socket | None = None
    for socket in view.sockets:
        if socket.proto != proto or socket.port != packet.dport or (proto == "tcp" and socket.state != "LISTEN"):
            continue
        near = near or socket
        if accepts(socket, packet.dst) and socket.held_for is not None:
            return Delivery(
                outcome=Outcome.DROP,
                text=f"{proto} {socket.address}:{socket.port} is only held for the published port of "
                f"{socket.held_for}: nobody accepts there",
                reason=Reason.PORT_HELD,
            )
        if accepts(socket, packet.dst):
            return Delivery(
                outcome=Outcome.ARRIVED, text=f"{proto} {socket.address}:{socket.port} takes it", socket=socket
            )
    text = f"nothing in {view.name} listens on {proto} {packet.dst}:{packet.dport}"
    return Delivery(outcome=Outcome.DROP, text=text, reason=Reason.NOT_LISTENING, socket=near)


def unless_paused(world: World, view: View, answer: Delivery) -> Delivery:
    """Return what becomes of a packet for a socket in a namespace whose every container is paused.

    The kernel queues it, and completes a handshake, but no process is there to take it up (the freezer cgroup).
    """
    owner = world.containers.get(view.id)
    if owner is None or owner.status != "paused":
        return answer
    sharers = [each for each in world.snapshot.intent.containers if each.joined is not None]
    if any(each.netns == view.id or each.joined in (owner.id, owner.name) for each in sharers):
        return answer  # whose the socket is cannot be told
    text = f"{owner.name} is paused: nobody in it takes up what comes to its sockets"
    return replace(answer, outcome=Outcome.DROP, reason=Reason.NOT_RUNNING, text=text)


def accepts(socket: Socket, address: IPAddress) -> bool:
    """Tell whether a socket's bound address takes packets to an address (an IPv6 wildcard takes IPv4 too)."""
    if socket.address.is_unspecified:
        return socket.family == address.version or (socket.family == 6 and not socket.v6only)
    mapped = getattr(socket.address, "ipv4_mapped", None)
    return address in (socket.address, mapped)
