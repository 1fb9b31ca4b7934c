"""Any other device on the way: loopback, macvlan, a tunnel, a router's interface.

Loopback hears each packet twice, leaving and arriving; a device without a link-layer header hears it from the IP
header on.
"""

from __future__ import annotations

from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(role=Role.DEVICE, hears="whatever passes")


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
