"""What is known of a place to listen before anyone listens there."""

from __future__ import annotations

from nettrace.model.base import Model, rows
from nettrace.model.observe import Way
from nettrace.model.path import Point, Role
from nettrace.model.snapshot import Snapshot
from nettrace.wire.link import ETHERNET

__all__ = ["CaptureSpec", "PointKind", "describe"]


class PointKind(Model):
    """What one role means to a listener: one sentence, and on which way a probe passes there first, and its reply.

    `forward` and `reply` are None where the role does not settle it.
    """

    role: Role
    hears: str
    forward: Way | None = None
    reply: Way | None = None


class CaptureSpec(Model):
    """One capture to open: the device, and what its frames look like.

    `arp_type` is ARPHRD_* of the device; `forward` and `reply` as in PointKind.
    """

    point: str
    role: Role
    netns: int
    netns_name: str
    device: str
    ifindex: int
    arp_type: int = ETHERNET
    forward: Way | None = None
    reply: Way | None = None


def describe(kind: PointKind, point: Point, snapshot: Snapshot) -> CaptureSpec:
    """Return the capture of a point; a device whose link row was not read counts as Ethernet."""
    namespace = snapshot.namespace(point.netns)
    links = rows(namespace.links) if namespace is not None else ()
    arp_type = next((link.arp_type for link in links if link.ifindex == point.ifindex), ETHERNET)
    return CaptureSpec(
        point=point.id,
        role=point.role,
        netns=point.netns,
        netns_name=point.netns_name,
        device=point.device,
        ifindex=point.ifindex,
        arp_type=arp_type,
        forward=kind.forward,
        reply=kind.reply,
    )
