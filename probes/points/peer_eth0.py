"""The destination's own interface, inside its namespace.

A probe is heard arriving, before the destination's netfilter, routes and sockets: being heard here is not yet being
accepted. The reply is heard leaving, after the destination's OUTPUT chain and routes.
"""

from __future__ import annotations

from nettrace.model.observe import Way
from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(role=Role.PEER_ETH0, hears="what the destination receives and answers", forward=Way.IN, reply=Way.OUT)


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
