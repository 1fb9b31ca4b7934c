"""Ports that an engine only holds: sockets that listen so that nobody else takes a published port, and never accept.

Rootful Podman binds every published port and leaves the socket to conmon, which does nothing with it (podman:
libpod/oci_conmon_common.go, bindPorts); packets reach the container by netavark's DNAT alone. Without the DNAT the
kernel still completes the handshake for such a socket, and no byte is ever answered. A port that is bound by conmon
cannot be bound by anything else, so the engine's word tells whose socket it is.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.base import Present
from nettrace.model.intent import Intent
from nettrace.model.snapshot import Namespace, Socket

__all__ = ["mark_held"]


def mark_held(host: Namespace, intent: Intent) -> Namespace:
    """Return the host's namespace with the container's name on each socket that is only held for its port."""
    engines = {each.name for each in intent.engines if each.name == "podman" and not each.rootless}
    held: dict[tuple[str, int, object], str] = {
        (port.proto, port.host_port, None if port.host_ip.is_unspecified else port.host_ip): container.name
        for container in intent.containers
        if container.engine in engines and container.status in ("running", "paused")
        for port in container.ports
    }
    if not held or not isinstance(host.sockets, Present):
        return host
    rows = tuple(_marked(each, held) for each in host.sockets.rows)
    return replace(host, sockets=Present(rows=rows)) if rows != host.sockets.rows else host


def _marked(socket: Socket, held: dict[tuple[str, int, object], str]) -> Socket:
    address = socket.address
    mapped = getattr(address, "ipv4_mapped", None) or address
    name = held.get((socket.proto, socket.port, None if address.is_unspecified else mapped))
    return replace(socket, held_for=name) if name is not None else socket
