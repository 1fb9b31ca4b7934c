"""The source's own interface, inside its namespace.

A probe is heard leaving, after the source's routes, netfilter and neighbour resolution had their say; its reply is
heard arriving, before the source's INPUT chain. Silence here while the send succeeded means that the source itself
stopped the packet (an unanswered ARP or NDP request is then heard instead).
"""

from __future__ import annotations

from nettrace.model.observe import Way
from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(role=Role.CONTAINER_ETH0, hears="what the source sends and receives", forward=Way.OUT, reply=Way.IN)


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
