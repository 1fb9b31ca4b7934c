"""One module a place to listen: what is heard there, from which side, and the capture to open."""

from __future__ import annotations

from collections.abc import Callable

from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points import bridge, container_eth0, device, egress, host_veth, overlay, peer_eth0, peer_veth
from probes.points.spec import CaptureSpec, PointKind

__all__ = ["KINDS", "CaptureSpec", "PointKind", "capture_spec"]

KINDS: dict[Role, PointKind] = {
    Role.BRIDGE: bridge.KIND,
    Role.CONTAINER_ETH0: container_eth0.KIND,
    Role.DEVICE: device.KIND,
    Role.EGRESS: egress.KIND,
    Role.HOST_VETH: host_veth.KIND,
    Role.OVERLAY: overlay.KIND,
    Role.PEER_ETH0: peer_eth0.KIND,
    Role.PEER_VETH: peer_veth.KIND,
}

_SPECS: dict[Role, Callable[[Point, Snapshot], CaptureSpec]] = {
    Role.BRIDGE: bridge.capture_spec,
    Role.CONTAINER_ETH0: container_eth0.capture_spec,
    Role.DEVICE: device.capture_spec,
    Role.EGRESS: egress.capture_spec,
    Role.HOST_VETH: host_veth.capture_spec,
    Role.OVERLAY: overlay.capture_spec,
    Role.PEER_ETH0: peer_eth0.capture_spec,
    Role.PEER_VETH: peer_veth.capture_spec,
}


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at a point, as the module of its role describes it."""
    return _SPECS[point.role](point, snapshot)
