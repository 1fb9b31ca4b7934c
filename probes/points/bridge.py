"""The bridge itself: its own interface, where the host's stack meets the bridged segment.

A probe for the host or beyond is heard arriving, after the port's state, VLANs, FDB and the bridge's filters passed
it up; its reply is heard leaving towards the ports. Frames that go from port to port never pass here.
"""

from __future__ import annotations

from nettrace.model.observe import Way
from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(role=Role.BRIDGE, hears="what the bridge hands to the host's stack", forward=Way.IN, reply=Way.OUT)


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
