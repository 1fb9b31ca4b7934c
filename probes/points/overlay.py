"""The vxlan device or its bridge, in the hidden namespace of an overlay network.

The inner packet is heard before it is wrapped, or after it was unwrapped. On the sender's host a probe leaves by the
vxlan device; on the receiver's host it arrives: so the role alone does not settle the way.
"""

from __future__ import annotations

from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(role=Role.OVERLAY, hears="the inner packet of an overlay network")


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
