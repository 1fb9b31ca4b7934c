"""The way a packet takes: points where it can be seen, and the steps the kernel takes between them.

A Trace is what the model says will happen. Its legs are forward and reply; each leg is a list of steps in the
order the kernel takes them, each with the very object used and the packet as it then was. Prose and evidence are
both built from steps, so they cannot part.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import Flow, Packet
from nettrace.model.netfilter import Assumption, HookResult
from nettrace.model.snapshot import ConntrackEntry, FdbEntry, Gap, Link, Neighbour, PolicyRule, Route, Socket


class Direction(StrEnum):
    """Which half of the conversation."""

    FORWARD = "forward"
    REPLY = "reply"


class Segment(StrEnum):
    """Where on the way something happens; the contract defines each."""

    SOURCE = "source"
    BRIDGE = "bridge"
    HOST = "host"
    EGRESS = "egress"
    UNDERLAY = "underlay"
    REMOTE = "remote"
    DESTINATION = "destination"


class Role(StrEnum):
    """What part a point plays; one module of probes.points each."""

    CONTAINER_ETH0 = "container_eth0"
    HOST_VETH = "host_veth"
    BRIDGE = "bridge"
    EGRESS = "egress"
    OVERLAY = "overlay"
    PEER_VETH = "peer_veth"
    PEER_ETH0 = "peer_eth0"
    DEVICE = "device"


class Point(Model):
    """A device where the packet can be listened for. `id` reads "<namespace>/<device>", and is unique in a trace.

    `mac` is what frames must be addressed to for the device to take them, None where that does not matter (bridge
    ports, loopback).
    """

    id: str
    role: Role
    netns: int
    netns_name: str
    device: str
    ifindex: int
    segment: Segment
    mac: str | None = None


class Ref(Model):
    """A place in the snapshot: namespace inode, section name, and the row's text as iproute2 would print it."""

    netns: int
    section: str
    text: str


class Outcome(StrEnum):
    """What a step did with the packet. PASS: it goes on; DROP: it ends here, silently or with an error; UNKNOWN."""

    PASS = "pass"
    DROP = "drop"
    UNKNOWN = "unknown"
    ARRIVED = "arrived"


class Reason(StrEnum):
    """Why a step dropped a packet: the model's own word for each cause, from which rules derive codes."""

    NO_ROUTE = "no-route"
    ROUTE_BLACKHOLE = "route-blackhole"
    ROUTE_UNREACHABLE = "route-unreachable"
    ROUTE_PROHIBIT = "route-prohibit"
    NO_SOURCE_ADDRESS = "no-source-address"
    IPV6_DISABLED = "ipv6-disabled"
    LINK_DOWN = "link-down"
    NO_CARRIER = "no-carrier"
    NO_PEER = "no-peer"
    PEER_DOWN = "peer-down"
    OTHERHOST = "otherhost"
    NEIGHBOUR_FAILED = "neighbour-failed"
    NEIGHBOUR_WRONG = "neighbour-wrong"
    ARP_IGNORED = "arp-ignored"
    PORT_BLOCKED = "port-blocked"
    PORT_ISOLATED = "port-isolated"
    PORT_NO_HAIRPIN = "port-no-hairpin"
    NO_FLOOD = "no-flood"
    PORT_LOCKED = "port-locked"
    PORT_ENSLAVED = "port-enslaved"
    VLAN_FILTERED = "vlan-filtered"
    FDB_WRONG_PORT = "fdb-wrong-port"
    FORWARDING_OFF = "forwarding-off"
    RP_FILTER = "rp-filter"
    MARTIAN = "martian"
    TTL_EXCEEDED = "ttl-exceeded"
    FILTERED = "filtered"
    TOO_BIG = "too-big"
    FRAME_TOO_BIG = "frame-too-big"
    NOT_LISTENING = "not-listening"
    PORT_HELD = "port-held"
    TAKEN_ELSEWHERE = "taken-elsewhere"
    NOT_LOCAL = "not-local"
    MACVLAN_ISOLATED = "macvlan-isolated"
    MACVLAN_MODE = "macvlan-mode"
    VXLAN_NO_DESTINATION = "vxlan-no-destination"
    NOT_ENCAPSULATED = "not-encapsulated"
    VXLAN_WRONG_HOST = "vxlan-wrong-host"
    VXLAN_WRONG_SOURCE = "vxlan-wrong-source"
    VXLAN_NO_DEVICE = "vxlan-no-device"
    TC_DROP = "tc-drop"
    NOT_RUNNING = "not-running"
    NO_NETWORK = "no-network"
    CONNTRACK_FULL = "conntrack-full"


class StepKind(StrEnum):
    """Which kernel decision a step is."""

    SEND = "send"
    ROUTE = "route"
    NEIGHBOUR = "neighbour"
    HOOK = "hook"
    XMIT = "xmit"
    RECEIVE = "receive"
    BRIDGE = "bridge"
    RP_FILTER = "rp-filter"
    FORWARD = "forward"
    MTU = "mtu"
    TC = "tc"
    LOCAL = "local"
    ENCAP = "encap"
    DECAP = "decap"
    CROSS = "cross"
    LEAVE = "leave"


class Step(Model):
    """One decision of the kernel, and the object it was made with.

    `text` says it in one line. `open_ended` marks a next hop whose holder cannot be seen from this host. Of the
    object fields, the one that belongs to `kind` is set: `route` and `rule` for ROUTE, `neighbour` for NEIGHBOUR,
    `hook` for HOOK, `link` for XMIT and RECEIVE, `fdb` for BRIDGE, `socket` for LOCAL, `sysctl` ("name = value") for
    RP_FILTER and FORWARD, `program` (a line of the link's `tc`, or "xdp " and its `xdp`) for TC. `packet` is the
    packet as it leaves the step.
    """

    kind: StepKind
    netns: int
    segment: Segment
    text: str
    packet: Packet
    outcome: Outcome = Outcome.PASS
    reason: Reason | None = None
    device: str | None = None
    ifindex: int | None = None
    point: str | None = None
    route: Route | None = None
    rule: PolicyRule | None = None
    neighbour: Neighbour | None = None
    hook: HookResult | None = None
    link: Link | None = None
    fdb: FdbEntry | None = None
    socket: Socket | None = None
    sysctl: str | None = None
    program: str | None = None
    next_hop: IPAddress | None = None
    open_ended: bool = False


class LegEnd(StrEnum):
    """How a leg ends. LEFT: it leaves this host by its egress device; NEEDS: the next namespace was not read."""

    ARRIVED = "arrived"
    LEFT = "left"
    DROPPED = "dropped"
    UNKNOWN = "unknown"
    NEEDS = "needs"


class Leg(Model):
    """One direction of a trace, with the steps in the kernel's order and what became of the packet.

    `steps` end with the step that stopped the packet; `beyond` is how it would go on if that were mended, as far as
    the model can tell, so that points and further blockers past the stop are known too. `icmp_error` is the error
    the kernel would send back about the packet (type, code), with `mtu` in it, if any. `needs` names the namespaces
    (inodes) that must be read before the leg can be walked further. `answer` is what the far end sends back.
    """

    direction: Direction
    end: LegEnd
    steps: tuple[Step, ...] = ()
    beyond: tuple[Step, ...] = ()
    icmp_error: tuple[int, int] | None = None
    mtu: int | None = None
    needs: tuple[int, ...] = ()
    answer: Packet | None = None

    @property
    def passing(self) -> LegEnd:
        """How the leg ends if the programs that were not read let the packet pass (tcx, XDP, a filter's)."""
        steps = (*self.steps, *self.beyond)
        decided = [step for step in steps if step.outcome not in (Outcome.PASS, Outcome.ARRIVED)]
        if self.end is not LegEnd.UNKNOWN or not decided:
            return self.end
        if any(step.kind is not StepKind.TC or step.outcome is not Outcome.UNKNOWN for step in decided):
            return self.end
        if steps[-1].outcome is Outcome.ARRIVED:
            return LegEnd.ARRIVED
        return LegEnd.LEFT if steps[-1].kind is StepKind.LEAVE else self.end


class Trace(Model):
    """The model's whole answer: the points in travel order, the forward leg, the reply leg when there is one.

    `points` holds every point of both legs once. `conntrack` are the entries that the forward leg made, by
    namespace inode (as text).
    """

    flow: Flow
    points: tuple[Point, ...]
    forward: Leg
    reply: Leg | None = None
    conntrack: dict[str, ConntrackEntry] = msgspec.field(default_factory=dict)
    assumptions: tuple[Assumption, ...] = ()
    gaps: tuple[Gap, ...] = ()

    def point(self, point_id: str) -> Point:
        """Return the point with that id; KeyError when the trace has none."""
        for each in self.points:
            if each.id == point_id:
                return each
        raise KeyError(point_id)
