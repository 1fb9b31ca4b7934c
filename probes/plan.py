"""Turn a prediction into a probe: where to listen, what to send, and which silence would be an answer.

Pure: reads the Trace and the Snapshot, and nothing else.
"""

from __future__ import annotations

from nettrace.errors import UsageError
from nettrace.model.base import IPAddress, Missing, Model, rows
from nettrace.model.flow import HEADER_BYTES, Proto
from nettrace.model.observe import Blind
from nettrace.model.path import Leg, LegEnd, Outcome, Reason, Role, Segment, Step, StepKind, Trace
from nettrace.model.snapshot import DumpFormat, Snapshot
from nettrace.wire.link import ETHERNET
from nettrace.wire.token import MAX_PROBES, VXLAN_PORTS, RunToken, make_token
from probes.points import CaptureSpec, capture_spec

__all__ = ["Ask", "Expectation", "Injection", "ProbePlan", "Watch", "plan_probe"]

#: Delivery inside one host is done before sendto(2) returns or a moment later; this long after the last sighting,
#: nothing more comes.
IN_HOST_SETTLE_S = 0.045
#: A neighbour beyond the egress device answers at the speed of its link and of its own load.
NEIGHBOUR_SETTLE_S = 0.3
#: How long an answer from beyond the host is waited for that nobody can route back here, unless somebody beyond
#: translates addresses: then it takes a round trip, of which nothing is known.
UNROUTED_SETTLE_S = 0.2
#: What goes on to another host that listens too takes the way between them, of which nothing is known.
PEER_SETTLE_S = 0.25
SPACING_S = 0.02

_NEIGHBOUR_REASONS = (Reason.NEIGHBOUR_FAILED, Reason.ARP_IGNORED)


class Injection(Model):
    """What to send, from which namespace (inode). `source` is the address that the model expects the kernel to choose.

    `size` is the IP length in bytes, sent with DF set and never fragmented here; None leaves both to the defaults.
    `oif` is the device (ifindex) that a link-local destination is on. Probes are `spacing_s` apart.
    """

    netns: int
    proto: Proto
    family: int
    dst: IPAddress
    source: IPAddress | None = None
    sport: int | None = None
    dport: int | None = None
    size: int | None = None
    oif: int | None = None
    spacing_s: float = SPACING_S


class Expectation(Model):
    """What the model expects to be heard.

    `forward` and `reply` are the points where the probe and its reply pass, in travel order. `home` are the points
    where a reply, an ICMP error or a reset has come back to the source. `settles` is true when the model lets the
    packet (or its reply) end inside this host, so that silence of the other points is an answer after `settle_s`.
    `neighbour` is the next hop that the model expects not to answer; it must be heard being asked for first. `inside`
    is true when the destination is in this host, so that its answer is as quick as the probe. `stops` is true when the
    model has the packet, or its reply, thrown away inside this host.
    """

    forward: tuple[str, ...] = ()
    reply: tuple[str, ...] = ()
    home: tuple[str, ...] = ()
    expects_reply: bool = False
    settles: bool = False
    settle_s: float = IN_HOST_SETTLE_S
    neighbour: IPAddress | None = None
    inside: bool = False
    stops: bool = False


class Ask(Model):
    """One ARP or NDP request: who holds `target`? `netns` is an inode; `mac` and `source` are the asking device's."""

    netns: int
    device: str
    ifindex: int
    mac: str
    source: IPAddress
    target: IPAddress


class Watch(Model):
    """One namespace (inode) whose nftables rules are to be traced.

    `bridge` asks for the bridge's own chains too. `order` asks how the rules stand in their chains, for where no
    listing tells their handles.
    """

    netns: int
    bridge: bool = False
    order: bool = False


class ProbePlan(Model):
    """One probe run. `injection` is None when there is nothing to send from; `unheard` are points nobody can hear.

    `neighbours` are the addresses whose ARP and NDP tells something about this flow. `asks` are next hops that the
    kernel does not ask for, since a static entry tells it where they are: whether it is right, only they can say.
    `watches` are the namespaces whose rules are traced; without `kernel_trace` the kernel is not asked to report
    anything. `veiled` are points where nobody can know the packets of the run, since they pass there encrypted.
    `stacks` are the namespaces (inodes) that may take packets of the run for themselves.
    """

    token: RunToken
    injection: Injection | None
    captures: tuple[CaptureSpec, ...] = ()
    unheard: tuple[Blind, ...] = ()
    neighbours: tuple[IPAddress, ...] = ()
    asks: tuple[Ask, ...] = ()
    watches: tuple[Watch, ...] = ()
    kernel_trace: bool = True
    expectation: Expectation = Expectation()
    timeout_s: float = 1.0
    veiled: tuple[str, ...] = ()
    stacks: tuple[int, ...] = ()


def plan_probe(
    trace: Trace,
    snapshot: Snapshot,
    *,
    count: int = 1,
    timeout_s: float = 1.0,
    kernel_trace: bool = True,
    token: bytes,
) -> ProbePlan:
    """Return the probe that checks a prediction: captures at every point of both legs, and one injection.

    Without `kernel_trace` the kernel is not asked to report rules and drops. `token` is 8 random bytes. `timeout_s` is
    the longest wait for an answer after the last probe, in seconds. Raises UsageError when the flow lacks a port that
    its protocol needs, or the count or the size is impossible.
    """
    if not 1 <= count <= MAX_PROBES:
        raise UsageError(f"--count must be between 1 and {MAX_PROBES}")
    captures: list[CaptureSpec] = []
    unheard: list[Blind] = []
    veiled = _veiled(trace)
    for point in trace.points:
        namespace = snapshot.namespace(point.netns)
        peer = snapshot.peer_of(point.netns)
        if point.id in veiled:
            unheard.append(Blind(point=point.id, reason="the tunnel passes here encrypted"))
        elif peer is not None:
            unheard.append(Blind(point=point.id, reason=f"{peer.name} does not say what passes there"))
        elif namespace is None:
            reason = f"the namespace of {point.netns_name} is not on this host, or was not read"
            unheard.append(Blind(point=point.id, reason=reason))
        else:
            captures.append(capture_spec(point, snapshot))
    return ProbePlan(
        token=make_token(
            token,
            trace.flow.proto,
            family=trace.flow.family,
            count=count,
            dports=_destination_ports(trace),
            vxlan_ports=_tunnel_ports(snapshot),
        ),
        injection=_injection(trace),
        captures=tuple(captures),
        unheard=tuple(unheard),
        neighbours=_neighbours(trace),
        asks=_asks(trace, snapshot),
        watches=_watches(trace, snapshot) if kernel_trace else (),
        kernel_trace=kernel_trace,
        expectation=_expectation(trace, snapshot),
        timeout_s=timeout_s,
        veiled=veiled,
        stacks=_stacks(trace, snapshot),
    )


def _stacks(trace: Trace, snapshot: Snapshot) -> tuple[int, ...]:
    """The namespaces of this host where either leg may end: those asked for, and those that the model leads to."""
    ends = [trace.flow.src.netns, trace.flow.dst.netns]
    ends += [step.netns for step in _steps(trace) if step.kind is StepKind.LOCAL]
    held = (each for each in ends if each is not None and snapshot.namespace(each) is not None)
    return tuple(dict.fromkeys(each for each in held if snapshot.peer_of(each) is None))


def _veiled(trace: Trace) -> tuple[str, ...]:
    """The points between the ends of a tunnel that IPsec encrypts."""
    if all(gap.section != "xfrm" for gap in trace.gaps):
        return ()
    outer = [step for step in _steps(trace) if step.segment is Segment.UNDERLAY and step.packet.proto == 17]
    return tuple(dict.fromkeys(step.point for step in outer if step.point is not None and step.link is not None))


def _legs(trace: Trace) -> tuple[Leg, ...]:
    return (trace.forward,) if trace.reply is None else (trace.forward, trace.reply)


def _steps(trace: Trace) -> tuple[Step, ...]:
    return tuple(step for leg in _legs(trace) for step in (*leg.steps, *leg.beyond))


def _destination_ports(trace: Trace) -> tuple[int, ...]:
    """Every destination port that the probe may have: the one asked for first, then those that DNAT gives it."""
    if trace.flow.proto is Proto.ICMP:
        return ()
    ports = [trace.flow.dport, *(step.packet.dport for step in (*trace.forward.steps, *trace.forward.beyond))]
    return tuple(dict.fromkeys(port for port in ports if port is not None))


def _tunnel_ports(snapshot: Snapshot) -> tuple[int, ...]:
    """The UDP ports of this host's vxlan devices, and the usual ones beside them; none when there is no such device."""
    ports = [link.vxlan.port for ns in snapshot.namespaces for link in rows(ns.links) if link.vxlan is not None]
    return tuple(dict.fromkeys((*ports, *VXLAN_PORTS))) if ports else ()


def _neighbours(trace: Trace) -> tuple[IPAddress, ...]:
    found: list[IPAddress] = []
    for step in _steps(trace):
        found.extend((step.packet.src, step.packet.dst))
        if step.next_hop is not None:
            found.append(step.next_hop)
    wanted = {each for each in found if not (each.is_unspecified or each.is_loopback or each.is_multicast)}
    return tuple(sorted(wanted, key=lambda each: (each.version, int(each))))


def _watches(trace: Trace, snapshot: Snapshot) -> tuple[Watch, ...]:
    """The namespaces on the way that hold nftables rules, or may: where there are none, there is nothing to trace."""
    bridging = {step.netns for step in _steps(trace) if step.kind is StepKind.BRIDGE}
    on_the_way = dict.fromkeys([step.netns for step in _steps(trace)] + [point.netns for point in trace.points])
    watches = []
    for netns in on_the_way:
        namespace = snapshot.namespace(netns)
        if namespace is None or snapshot.peer_of(netns) is not None:
            continue
        dumps = [each for each in rows(namespace.netfilter) if each.backend == "nft"]
        if dumps or isinstance(namespace.netfilter, Missing):
            listed = any(each.format is DumpFormat.NFT_JSON for each in dumps)
            watches.append(Watch(netns=netns, bridge=netns in bridging, order=not listed))
    return tuple(watches)


def _asks(trace: Trace, snapshot: Snapshot) -> tuple[Ask, ...]:
    owned = {each.address.ip for ns in snapshot.namespaces for each in rows(ns.addresses)}
    asks: dict[tuple[int, IPAddress], Ask] = {}
    for step in _steps(trace):
        entry = step.neighbour
        namespace = snapshot.namespace(step.netns)
        if entry is None or entry.state not in ("PERMANENT", "NOARP") or entry.address in owned or namespace is None:
            continue
        if snapshot.peer_of(step.netns) is not None:
            continue
        link = next((each for each in rows(namespace.links) if each.ifindex == entry.ifindex), None)
        if link is None or link.mac is None or link.arp_type != ETHERNET or link.vxlan is not None:
            continue
        near = (each.address for each in rows(namespace.addresses) if each.ifindex == entry.ifindex)
        source = next((each.ip for each in near if entry.address in each.network), None)
        if source is not None:
            asks[step.netns, entry.address] = Ask(
                netns=step.netns,
                device=link.name,
                ifindex=link.ifindex,
                mac=link.mac,
                source=source,
                target=entry.address,
            )
    return tuple(asks.values())


def _injection(trace: Trace) -> Injection | None:
    flow = trace.flow
    if flow.src.netns is None or flow.dst.address is None:
        return None
    if flow.proto is not Proto.ICMP and flow.dport is None:
        raise UsageError(f"a {flow.proto} probe needs --port")
    least = HEADER_BYTES[flow.proto, flow.family]
    if flow.size is not None and not least <= flow.size <= 65535:
        raise UsageError(f"--size must be between {least} and 65535 for {flow.proto} over IPv{flow.family}")
    first = next((step for step in trace.forward.steps if step.kind in (StepKind.XMIT, StepKind.RECEIVE)), None)
    sent = first.packet.src if first is not None else None
    return Injection(
        netns=flow.src.netns,
        proto=flow.proto,
        family=flow.family,
        dst=flow.dst.address,
        source=sent if sent is not None and not sent.is_unspecified else None,
        sport=flow.sport,
        dport=flow.dport,
        size=flow.size,
        oif=first.ifindex if first is not None else None,
    )


def _passed(leg: Leg) -> tuple[str, ...]:
    """The points that the leg passes: an AF_PACKET tap hears a frame once a device takes it up or hands it out."""
    heard = (
        step.point
        for step in leg.steps
        if step.kind in (StepKind.XMIT, StepKind.RECEIVE) and step.outcome is not Outcome.DROP
    )
    return tuple(dict.fromkeys(point for point in heard if point is not None))


def _expectation(trace: Trace, snapshot: Snapshot) -> Expectation:
    forward, reply = trace.forward, trace.reply
    there = _passed(forward)
    delivered = forward.end in (LegEnd.ARRIVED, LegEnd.LEFT)
    back = _passed(reply) if reply is not None and delivered else ()
    netns_of = {point.id: point.netns for point in trace.points}
    home = [*there[:1], *(point for point in back[-1:] if netns_of.get(point) == trace.flow.src.netns)]
    if not home:  # the model lets nothing out; should something come back nevertheless, it is here
        home = [point.id for point in trace.points if point.netns == trace.flow.src.netns][:1]
    stop = _stop(trace)
    neighbour = stop.next_hop if stop is not None and stop.reason in _NEIGHBOUR_REASONS else None
    beyond_host = stop is not None and stop.point is not None and trace.point(stop.point).role is Role.EGRESS
    unrouted = stop is None and _unrouted(trace)
    settle_s = NEIGHBOUR_SETTLE_S if neighbour is not None and beyond_host else IN_HOST_SETTLE_S
    far = any(snapshot.peer_of(point.netns) is not None for point in trace.points)
    if far:
        settle_s = PEER_SETTLE_S
    if unrouted:
        back, settle_s = (), UNROUTED_SETTLE_S
    return Expectation(
        forward=there,
        reply=back,
        home=tuple(dict.fromkeys(home)),
        expects_reply=reply is not None and reply.end is LegEnd.ARRIVED and delivered,
        settles=stop is not None or unrouted or _answers_nothing(trace),
        settle_s=settle_s,
        neighbour=neighbour,
        inside=trace.flow.dst.netns is not None and not far,
        stops=stop is not None,
    )


def _stop(trace: Trace) -> Step | None:
    """The step inside this host that ends the flow, or the reply to it; None when neither ends here."""
    leg = trace.forward
    if leg.end in (LegEnd.ARRIVED, LegEnd.LEFT) and trace.reply is not None:
        leg = trace.reply
    return leg.steps[-1] if leg.end is LegEnd.DROPPED and leg.steps else None


def _unrouted(trace: Trace) -> bool:
    """Tell whether the probe leaves for the Internet with a source address that means nothing there (RFC 6890)."""
    first = trace.reply.steps[0] if trace.reply is not None and trace.reply.steps else None
    if first is None or first.kind is not StepKind.LEAVE or first.outcome is not Outcome.UNKNOWN:
        return False
    return first.packet.src.is_global and first.packet.dst.is_private


def _answers_nothing(trace: Trace) -> bool:
    """A datagram that a socket of this host takes, and nobody need answer."""
    return trace.flow.proto is Proto.UDP and trace.forward.end is LegEnd.ARRIVED and trace.reply is None
