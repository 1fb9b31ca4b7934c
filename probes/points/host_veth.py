"""The far end of the source's veth pair, in the host's namespace.

A probe is heard arriving, before the bridge (or the host's stack, where the device has no master) looks at it; its
reply is heard leaving. Heard at the source's interface but not here: the peer end is down, or the pair is broken.
"""

from __future__ import annotations

from nettrace.model.observe import Way
from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(role=Role.HOST_VETH, hears="what crosses the source's veth pair", forward=Way.IN, reply=Way.OUT)


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
