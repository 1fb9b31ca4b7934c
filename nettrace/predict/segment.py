"""Which segment of the way a device or a decision belongs to, as the contract defines segments."""

from __future__ import annotations

from nettrace.model.flow import Flow
from nettrace.model.path import Point, Role, Segment
from nettrace.model.snapshot import Link
from nettrace.predict.world import View, World


class Places:
    """Names places on the way of one flow: segments of devices and of decisions, and points to listen at."""

    def __init__(self, world: World, flow: Flow) -> None:
        self.world = world
        self.src = flow.src.netns
        self.dst = flow.dst.netns
        self.hosts = world.hosts
        self.points: dict[str, Point] = {}

    def _end(self, netns: int | None) -> Segment | None:
        """Return source or destination for an end's own namespace, None for the host's and those between."""
        if netns is None or netns in self.hosts:
            return None
        if netns == self.src:
            return Segment.SOURCE
        return Segment.DESTINATION if netns == self.dst else None

    def stack(self, view: View, stage: str) -> Segment:
        """Return the segment of a decision of a namespace's IP stack.

        `stage`: output (routing and OUTPUT of own packets), stack (all before POSTROUTING), egress (POSTROUTING,
        neighbour, transmit), local (delivery to a socket).
        """
        end = self._end(view.id)
        if end is not None:
            return end
        if stage == "egress":
            return Segment.EGRESS
        if stage == "output" and view.id == self.src:
            return Segment.SOURCE
        if stage == "local":
            if view.id == self.src and view.id != self.dst:
                return Segment.SOURCE
            return Segment.HOST if view.id in self.hosts and view.id != self.dst else Segment.DESTINATION
        return Segment.HOST

    def device(self, view: View, link: Link) -> Segment:
        """Return the segment that a device itself belongs to."""
        end = self._end(view.id)
        if end is not None:
            return end
        peer_end = self._end(view.peer(link)) if link.kind == "veth" else None
        if peer_end is not None:
            return peer_end
        if link.kind == "bridge" or link.master is not None:
            return Segment.BRIDGE
        if link.kind == "vxlan":
            return Segment.UNDERLAY
        if link.loopback:
            return Segment.DESTINATION if view.id == self.dst else Segment.SOURCE
        return Segment.EGRESS

    def next_hop(self, view: View, link: Link) -> Segment:
        """Return the segment where the next hop on a device is resolved."""
        end = self._end(view.id)
        if end is not None:
            return end
        return Segment.BRIDGE if link.kind == "bridge" else Segment.EGRESS

    def role(self, view: View, link: Link) -> Role:
        """Return the part that a device plays on this way."""
        if view.id == self.src and view.id not in self.hosts:
            return Role.CONTAINER_ETH0
        if view.id == self.dst and view.id not in self.hosts:
            return Role.PEER_ETH0
        peer = view.peer(link) if link.kind == "veth" else None
        if peer is not None and peer == self.src and peer not in self.hosts:
            return Role.HOST_VETH
        if peer is not None and peer == self.dst and peer not in self.hosts:
            return Role.PEER_VETH
        if link.kind == "bridge":
            return Role.BRIDGE
        if link.kind == "vxlan":
            return Role.OVERLAY
        return Role.EGRESS if view.id in self.hosts and not link.loopback else Role.DEVICE

    def point(self, view: View, link: Link) -> str:
        """Return the id of the point at a device, making the point when the way first meets it."""
        identity = f"{view.name}/{link.name}"
        known = self.points.get(identity)
        if known is not None and (known.netns, known.ifindex) != (view.id, link.ifindex):
            identity = f"{view.name}@{view.id}/{link.name}"
        if identity not in self.points:
            self.points[identity] = Point(
                id=identity,
                role=self.role(view, link),
                netns=view.id,
                netns_name=view.name,
                device=link.name,
                ifindex=link.ifindex,
                segment=self.device(view, link),
                mac=link.mac if link.master is None and not link.loopback else None,
            )
        return identity
