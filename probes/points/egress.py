"""The device by which the host sends the packet on.

A probe is heard leaving, after FORWARD, POSTROUTING and neighbour resolution, with the addresses that NAT gave it;
the reply is heard arriving, before NAT is undone. On a host of an overlay network the probe is heard here inside
its outer VXLAN packet.
"""

from __future__ import annotations

from nettrace.model.observe import Way
from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from probes.points.spec import CaptureSpec, PointKind, describe

__all__ = ["KIND", "capture_spec"]

KIND = PointKind(role=Role.EGRESS, hears="what leaves the host, after NAT", forward=Way.OUT, reply=Way.IN)


def capture_spec(point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture to open at such a point."""
    return describe(KIND, point, snapshot)
