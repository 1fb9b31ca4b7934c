"""The second half of a flow that a userland proxy takes up: the proxy's own connection to the container.

Docker's docker-proxy (and rootless port drivers) listens on the host's published port, and serves what no DNAT rule
translates. To the asker its answer looks like the container's, also while the container itself answers nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.base import IPAddress
from nettrace.model.flow import PROTO_NUMBER, EndpointKind, Flow, FlowEnd, Packet
from nettrace.model.intent import Container, PublishedPort
from nettrace.model.path import LegEnd, Outcome, Reason, StepKind, Trace
from nettrace.model.snapshot import Snapshot, Socket
from nettrace.predict.sockets import Delivery, accepts
from nettrace.predict.world import World

#: Programs that keep a published port from others and serve nobody: dockerd without its userland proxy
#: (libnetwork/portmapper, newDummyProxy), and Podman's monitor of a container, which is given its ports.
KEEPERS = frozenset({"dockerd", "conmon"})
#: What else of an engine holds a published port, to serve it; whoever is not known is taken for such a proxy.
PROXIES = ("docker-proxy", "rootlessport", "rootlesskit", "slirp4netns", "pasta")


def relay_flow(snapshot: Snapshot, trace: Trace) -> Flow | None:
    """Return the flow from the host to the container behind the proxy that takes the packet; None when none does."""
    last = trace.forward.steps[-1] if trace.forward.steps else None
    if trace.forward.end is not LegEnd.ARRIVED or last is None or last.kind is not StepKind.LOCAL:
        return None
    if last.netns != snapshot.host_netns or last.socket is None:
        return None
    found = published(snapshot, last.socket, last.packet.dst)
    if found is None:
        return None
    container, port = found
    target = target_of(World(snapshot), container, port.host_ip.version)
    if target is None or PROTO_NUMBER[trace.flow.proto, target.version] != last.packet.proto:
        return None
    return Flow(
        src=FlowEnd(kind=EndpointKind.HOST, name="host", netns=snapshot.host_netns),
        dst=FlowEnd(
            kind=EndpointKind.CONTAINER, name=container.name, id=container.id, netns=container.netns, address=target
        ),
        proto=trace.flow.proto,
        dport=port.container_port,
        size=trace.flow.size,
        family=target.version,
    )


def inner_flow(trace: Trace, host: int) -> Flow | None:
    """Return the flow from the host to the socket that the packet from outside is for; None when it gets to none.

    What the model has stop the packet does not matter here: the last part is there behind the stop as well.
    """
    for step in reversed((*trace.forward.steps, *trace.forward.beyond)):
        if step.kind is not StepKind.LOCAL:
            continue
        if step.netns == host:
            return None
        return replace(
            trace.flow,
            src=FlowEnd(kind=EndpointKind.HOST, name="host", netns=host),
            dst=FlowEnd(kind=EndpointKind.ADDRESS, name=trace.flow.dst.name, netns=step.netns, address=step.packet.dst),
            dport=step.packet.dport,
            assumed=(),
        )
    return None


def published(snapshot: Snapshot, socket: Socket, address: IPAddress) -> tuple[Container, PublishedPort] | None:
    """Return the container, and the port, that an engine publishes where it holds a socket of the host."""
    if not all(name in KEEPERS or name.startswith(PROXIES) for name in socket.process):
        return None
    for container in snapshot.intent.containers:
        if container.status not in ("running", "paused") or container.engine not in ("docker", "podman"):
            continue
        for port in container.ports:
            if (port.proto, port.host_port) != (socket.proto, socket.port):
                continue
            fits = port.host_ip == address or (port.host_ip.is_unspecified and port.host_ip.version == address.version)
            if fits and accepts(socket, address):
                return container, port
    return None


def unless_held(snapshot: Snapshot, answer: Delivery, socket: Socket, packet: Packet) -> Delivery:
    """Return what becomes of a packet for a published port of the host that the engine's daemon itself keeps open.

    The kernel completes the handshake there, and nobody takes the connection up.
    """
    if not KEEPERS.intersection(socket.process) or published(snapshot, socket, packet.dst) is None:
        return answer
    text = f"{socket.proto} {socket.address}:{socket.port} is kept by the engine, which serves nobody there"
    return replace(answer, outcome=Outcome.DROP, reason=Reason.PORT_HELD, text=text)


def target_of(world: World, container: Container, family: int) -> IPAddress | None:
    """Return the address that a proxy connects to: of the host address's family if there is one, else the other.

    Of several networks it is the one with the container's default route (libnetwork's gateway endpoint).
    """
    view = world.view(container.netns) if container.netns is not None else None
    for version in (family, 4 if family == 6 else 6):
        gateways = [
            hop.gateway
            for (each, _table), routes in (view.tables.items() if view is not None else ())
            for route in routes
            if each == version and route.dst.prefixlen == 0
            for hop in route.nexthops
            if hop.gateway is not None
        ]
        held = [
            address for end in container.endpoints if (address := end.ipv4 if version == 4 else end.ipv6) is not None
        ]
        held.sort(key=lambda each: not any(gateway in each.network for gateway in gateways))
        if held:
            return held[0].ip
    return None


__all__ = ["inner_flow", "published", "relay_flow", "target_of", "unless_held"]
