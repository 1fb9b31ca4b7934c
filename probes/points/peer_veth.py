"""The host's end of the destination's veth pair.

A probe is heard leaving towards the destination, after the bridge (or the host's routing) chose this port; the reply
is heard arriving.
"""

from __future__ import annotations

from nettrace.model.observe import Way
from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(
    role=Role.PEER_VETH, hears="what the host hands to the destination's veth pair", forward=Way.OUT, reply=Way.IN
)


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
