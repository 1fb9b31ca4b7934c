"""Hand-made predictions: points by name, legs as lists of where the packet passes."""

from __future__ import annotations

from ipaddress import ip_address

from nettrace.model.base import IPAddress, Present
from nettrace.model.flow import PROTO_NUMBER, EndpointKind, Flow, FlowEnd, Packet, Proto
from nettrace.model.observe import SightingKind, Way
from nettrace.model.path import (
    Direction,
    Leg,
    LegEnd,
    Outcome,
    Point,
    Reason,
    Role,
    Segment,
    Step,
    StepKind,
    Trace,
)
from nettrace.model.snapshot import Host, Link, Namespace, Snapshot
from nettrace.wire.parse import Parsed

SECRET = bytes.fromhex("a1b2c3d4e5f60718")
SRC, DST = ip_address("172.17.0.2"), ip_address("8.8.8.8")
C, H, FAR = 101, 100, 102

ROLES = {
    "c/eth0": (Role.CONTAINER_ETH0, C),
    "h/veth": (Role.HOST_VETH, H),
    "h/docker0": (Role.BRIDGE, H),
    "h/eth0": (Role.EGRESS, H),
    "d/eth0": (Role.PEER_ETH0, FAR),
}


def point(name: str, *, role: Role | None = None, netns: int | None = None, ifindex: int | None = None) -> Point:
    known_role, known_netns = ROLES.get(name, (Role.DEVICE, H))
    return Point(
        id=name,
        role=role or known_role,
        netns=netns if netns is not None else known_netns,
        netns_name=name.split("/")[0],
        device=name.split("/")[1],
        ifindex=ifindex if ifindex is not None else list(ROLES).index(name) + 1,
        segment=Segment.HOST,
    )


def packet(src: IPAddress = SRC, dst: IPAddress = DST, proto: Proto = Proto.ICMP, **facts: int) -> Packet:
    return Packet(family=src.version, src=src, dst=dst, proto=PROTO_NUMBER[proto, src.version], **facts)


def passing(names: tuple[str, ...], points: dict[str, Point], what: Packet) -> tuple[Step, ...]:
    return tuple(
        Step(
            kind=StepKind.XMIT,
            netns=points[name].netns,
            segment=Segment.HOST,
            text=name,
            packet=what,
            point=name,
            device=points[name].device,
            ifindex=points[name].ifindex,
        )
        for name in names
    )


def drop(reason: Reason, what: Packet, *, at: str | None = None, next_hop: IPAddress | None = None) -> Step:
    kind = StepKind.NEIGHBOUR if next_hop is not None else StepKind.HOOK
    return Step(
        kind=kind,
        netns=H,
        segment=Segment.HOST,
        text="stops",
        packet=what,
        outcome=Outcome.DROP,
        reason=reason,
        point=at,
        next_hop=next_hop,
    )


def trace(
    forward: tuple[str, ...],
    reply: tuple[str, ...] | None,
    *,
    points: tuple[Point, ...] | None = None,
    forward_end: LegEnd = LegEnd.LEFT,
    reply_end: LegEnd = LegEnd.ARRIVED,
    stop: Step | None = None,
    reply_stop: Step | None = None,
    proto: Proto = Proto.ICMP,
    dport: int | None = None,
    size: int | None = None,
    src: IPAddress = SRC,
    dst: IPAddress = DST,
    netns: int | None = C,
    hops: tuple[Packet, ...] = (),
) -> Trace:
    chosen = points or tuple(point(name) for name in ROLES if name in {*forward, *(reply or ())})
    by_name = {each.id: each for each in chosen}
    ports = {} if proto is Proto.ICMP else {"sport": 40000, "dport": dport or 0}
    there = packet(src, dst, proto, **ports)
    back = packet(dst, src, proto)
    extra = tuple(Step(kind=StepKind.HOOK, netns=H, segment=Segment.HOST, text="nat", packet=hop) for hop in hops)
    return Trace(
        flow=Flow(
            src=FlowEnd(kind=EndpointKind.NETNS, name="c", netns=netns, address=src),
            dst=FlowEnd(kind=EndpointKind.ADDRESS, name=str(dst), address=dst),
            proto=proto,
            dport=dport,
            size=size,
            family=src.version,
        ),
        points=chosen,
        forward=Leg(
            direction=Direction.FORWARD,
            end=forward_end,
            steps=(*passing(forward, by_name, there), *extra, *((stop,) if stop else ())),
        ),
        reply=None
        if reply is None
        else Leg(
            direction=Direction.REPLY,
            end=reply_end,
            steps=(*passing(reply, by_name, back), *((reply_stop,) if reply_stop else ())),
        ),
    )


def snapshot(*namespaces: tuple[int, str], links: tuple[Link, ...] = ()) -> Snapshot:
    chosen = namespaces or ((C, "c"), (H, "h"))
    return Snapshot(
        host=Host(kernel="test"),
        host_netns=H,
        namespaces=tuple(Namespace(id=number, name=name, links=Present(rows=links)) for number, name in chosen),
    )


def parsed(kind: SightingKind, nonce: int | None = 0, what: Packet | None = None) -> Parsed:
    return Parsed(kind=kind, nonce=nonce, packet=what or packet())


IN, OUT = Way.IN, Way.OUT
