"""The walk: one packet from the source's socket to wherever the kernel takes it, and the answer back.

Every decision is a Step with the object it was made with. At the first decision that stops the packet the leg ends;
the walk then goes on "beyond" it, as if that were mended, where the model can tell how, so that what lies behind
the stop is known as well. Follows ip_output, ip_rcv, ip_forward, ip_local_deliver (net/ipv4), br_handle_frame and
br_dev_xmit (net/bridge), br_netfilter, veth_xmit and macvlan_start_xmit (drivers/net).
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from msgspec.structs import replace

from nettrace.model.base import IPAddress, Missing
from nettrace.model.flow import PROTO_NUMBER, EndpointKind, Flow, Packet, Proto
from nettrace.model.netfilter import Assumption, FilterVerdict, Hook, HookResult, Tracking
from nettrace.model.path import (
    Direction,
    Leg,
    LegEnd,
    Outcome,
    Reason,
    Segment,
    Step,
    StepKind,
    Trace,
)
from nettrace.model.snapshot import FdbEntry, Gap, Link, Neighbour, NextHop, Snapshot
from nettrace.model.text import link_text, neighbour_text, route_text
from nettrace.predict import arrival, children, neigh, overlay, relay, reverse_path, sockets, traffic
from nettrace.predict import asking as requests
from nettrace.predict import bridge as bridging
from nettrace.predict import route as routing
from nettrace.predict.hooks import Table, run_hook
from nettrace.predict.segment import Places
from nettrace.predict.user_network import handed_over, handed_text
from nettrace.predict.world import View, World, unread_text

#: More steps than any sane path has; a packet that takes more is in a loop.
MAX_STEPS = 400
DEFAULT_LENGTH = {Proto.ICMP: 84, Proto.TCP: 60, Proto.UDP: 60}
#: Port of the probe's own socket where the caller gives none.
PROBE_PORT = 40000
#: What VXLAN puts around an IP packet: Ethernet, VXLAN, UDP and the outer IP header (VXLAN_HEADROOM).
VXLAN_HEADERS = {4: 50, 6: 70}
TCP_SYN, TCP_SYN_ACK, TCP_RST_ACK = 0x02, 0x12, 0x14


def predict(snapshot: Snapshot, flow: Flow) -> Trace:
    """Return what Linux will do with the flow's packet and with its answer.

    Reads nothing but the snapshot. Where a namespace on the way was not read, the leg ends with NEEDS and names it.
    """
    world = World(snapshot)
    places = Places(world, flow)
    table = Table()
    heard = _Heard()
    forward = _Walk(world, places, flow, table, Direction.FORWARD, heard).forward()
    reply = None
    if forward.end is not LegEnd.NEEDS:
        reply = _Walk(world, places, flow, table, Direction.REPLY, heard).reply_to(forward)
    assumptions: list[Assumption] = []
    for leg in (forward, reply):
        for step in leg.steps if leg is not None else ():
            if step.hook is not None:
                assumptions.extend(each for each in step.hook.assumptions if each not in assumptions)
    return Trace(
        flow=flow,
        points=tuple(places.points.values()),
        forward=forward,
        reply=reply,
        conntrack=table.as_entries(),
        assumptions=tuple(assumptions),
        gaps=(*_gaps(world), *handed_over(world, forward, reply), *_not_modelled(heard)),
    )


def _gaps(world: World) -> tuple[Gap, ...]:
    return tuple(
        Gap(section=section, netns=view.name, reason=table.reason)
        for view in world.views.values()
        for section in ("links", "addresses", "routes", "rules", "neighbours", "fdb", "netfilter", "sysctls", "sockets")
        if isinstance(table := getattr(view.ns, section), Missing)
    )


def _not_modelled(heard: _Heard) -> tuple[Gap, ...]:
    if heard.encrypted is None:
        return ()
    reason = (
        f"the network {heard.encrypted} is encrypted: its tunnel is followed as if it were not, and what IPsec does to "
        "it (ESP, its keys and policies) is not modelled, nor seen between the hosts"
    )
    return (Gap(section="xfrm", netns=None, reason=reason),)


class _End(Exception):
    """The walk cannot go on."""


class _Heard:
    """What others have learnt from the frames of this way.

    `spoke` are MACs that sent a frame, an answer to a request too: bridges know where they are (br_fdb_update).
    `tunnel` is the one that the way out went through. `asked` are the addresses that a holder was asked from, by its
    namespace and device: it keeps their MAC, and need not ask in turn (neigh_event_ns in arp_process).
    """

    def __init__(self) -> None:
        self.spoke: set[str] = set()
        self.asked: dict[tuple[int, int, IPAddress], str] = {}
        self.tunnel: _Tunnel | None = None
        #: What vxlan devices have learnt from frames of this way, by namespace, device and MAC (vxlan_snoop).
        self.learnt: dict[tuple[int, int, str], FdbEntry] = {}
        #: The network whose tunnel goes through IPsec.
        self.encrypted: str | None = None


class _Tunnel:
    """A VXLAN on the way: the overlay's namespace and device, the frame in it, and the outer packet's ends."""

    def __init__(self, view: View, link: Link, inner: Packet, outer: Packet) -> None:
        self.view = view
        self.link = link
        self.inner = inner
        self.outer = outer


class _Walk:
    """One leg being walked: mutable while it runs, a frozen Leg afterwards."""

    def __init__(
        self, world: World, places: Places, flow: Flow, table: Table, direction: Direction, heard: _Heard
    ) -> None:
        self.world = world
        self.places = places
        self.flow = flow
        self.table = table
        self.direction = direction
        self.steps: list[Step] = []
        self.beyond: list[Step] = []
        self.end: LegEnd | None = None
        self.final: LegEnd | None = None
        self.icmp_error: tuple[int, int] | None = None
        self.mtu: int | None = None
        self.needs: tuple[int, ...] = ()
        self.answer: Packet | None = None
        self.heard = heard
        self.spoke = heard.spoke
        #: The tunnel that the packet is in now.
        self.tunnel: _Tunnel | None = None
        self.next_hop: IPAddress | None = None
        #: A stop that comes once the frame is out: it went to the device's own MAC.
        self.unasked: Step | None = None
        #: The rule that gave the frame another MAC address than the one that its receiver has.
        self.readdressed: Step | None = None
        #: Stops of a tunnel that its packets meet only beyond this host.
        self.awaits: list[Step] = []

    # -- legs --------------------------------------------------------------------------------------------------

    def forward(self) -> Leg:
        """Walk the flow's packet from its source."""
        try:
            view, packet = self._source()
            if self.flow.from_outside:
                self._arrive(view, packet)
            else:
                self._local_output(view, packet)
        except _End:
            pass
        except RecursionError:
            self.end = self.end or LegEnd.UNKNOWN
        return self._leg()

    def reply_to(self, forward: Leg) -> Leg | None:
        """Walk the answer to a forward leg, from the far end or from the device that the packet left by."""
        last = (forward.beyond or forward.steps)[-1] if forward.steps else None
        if forward.answer is None or last is None:
            return None
        packet = forward.answer
        view = self.world.view(last.netns)
        if view is None:
            return None
        # What follows a stopped forward leg, or an answer that someone beyond this host must route, is a supposition.
        supposed = forward.end is not LegEnd.ARRIVED
        try:
            if last.kind is StepKind.LEAVE:
                link = view.links[last.ifindex or 0]
                if self.heard.tunnel is not None:
                    packet = self._tunnelled(self.heard.tunnel, packet)
                child = children.holder(self.world, view, link, packet.dst)
                # What a bridge let out under another's MAC comes back to that MAC, as to any host of that link.
                sender = last.packet.src_mac if self.heard.tunnel is None else None
                bridged = (
                    link.master is not None
                    and sender is not None
                    and all(each.mac != sender for each in view.links.values())
                )
                ours = child is not None or bridged or routing.is_local(view, packet.dst)
                self._add(
                    Step(
                        kind=StepKind.LEAVE,
                        netns=view.id,
                        segment=Segment.REMOTE,
                        text=f"the answer to {packet.dst} comes back to {link.name}"
                        if ours
                        else f"the answer to {packet.dst} must be routed back here by someone else",
                        packet=packet,
                        outcome=Outcome.PASS if ours else Outcome.UNKNOWN,
                        device=link.name,
                        ifindex=link.ifindex,
                    )
                )
                if not ours and self.end is None:
                    self.end = LegEnd.UNKNOWN
                own = child[1].mac if child is not None else link.mac
                self._receive(view, link, packet, dst_mac=sender if bridged else own)
            else:
                self._local_output(view, replace(packet, ttl=_first_ttl(view, packet)), bound=packet.src)
        except _End:
            pass
        except RecursionError:
            self.end = self.end or LegEnd.UNKNOWN
        leg = _home(self._leg(), self.flow) if self.flow.from_outside else self._leg()
        return replace(leg, end=LegEnd.UNKNOWN) if supposed and forward.end is LegEnd.UNKNOWN else leg

    def _leg(self) -> Leg:
        return Leg(
            direction=self.direction,
            end=self.end or self.final or LegEnd.UNKNOWN,
            steps=tuple(self.steps),
            beyond=tuple(self.beyond),
            icmp_error=self.icmp_error,
            mtu=self.mtu,
            needs=self.needs,
            answer=self.answer,
        )

    # -- book-keeping ------------------------------------------------------------------------------------------

    def _add(self, step: Step) -> None:
        if self.tunnel is not None and step.kind is not StepKind.LEAVE:
            step = replace(step, segment=Segment.UNDERLAY)
        (self.steps if self.end is None else self.beyond).append(step)
        if len(self.steps) + len(self.beyond) > MAX_STEPS:
            self._finish(LegEnd.DROPPED)

    def _stop(self, step: Step) -> None:
        """Record a step that ends the leg; the walk may go on beyond it."""
        self._add(step)
        if self.end is None:
            self.end = LegEnd.UNKNOWN if step.outcome is Outcome.UNKNOWN else LegEnd.DROPPED

    def _finish(self, end: LegEnd) -> NoReturn:
        self.final = end
        if self.end is None:
            self.end = end
        raise _End

    def _step(self, view: View, kind: StepKind, stage: str, text: str, packet: Packet, **facts: Any) -> Step:
        return Step(kind=kind, netns=view.id, segment=self.places.stack(view, stage), text=text, packet=packet, **facts)

    # -- the source --------------------------------------------------------------------------------------------

    def _source(self) -> tuple[View, Packet]:
        flow = self.flow
        packet = self._first_packet()
        for end, segment in ((flow.src, Segment.SOURCE), (flow.dst, Segment.DESTINATION)):
            if end.kind is not EndpointKind.CONTAINER:
                continue
            container = self.world.snapshot.intent.container(end.id or "")
            status = container.status if container is not None else "gone"
            if status != "running" or end.netns is None:
                self._stop(
                    Step(
                        kind=StepKind.SEND,
                        netns=end.netns or 0,
                        segment=segment,
                        text=f"{end.name} is {status}",
                        packet=packet,
                        outcome=Outcome.DROP,
                        reason=Reason.NOT_RUNNING,
                    )
                )
                raise _End
        if flow.dst.address is None:
            self._nowhere(packet)
        sender = self.world.host if flow.from_outside else flow.src.netns
        view = self.world.view(sender) if sender is not None else None
        if view is None:
            self.needs = (flow.src.netns,) if flow.src.netns is not None else ()
            self._finish(LegEnd.NEEDS if self.needs else LegEnd.UNKNOWN)
        return view, packet if flow.from_outside else replace(packet, ttl=_first_ttl(view, packet))

    def _nowhere(self, packet: Packet) -> NoReturn:
        """Stop a packet that has no destination: one end is a container without any network."""
        flow = self.flow
        ends = [(flow.src, Segment.SOURCE), (flow.dst, Segment.DESTINATION)]
        bare = [each for each in ends if each[0].kind is EndpointKind.CONTAINER and each[0].address is None]
        if not bare:
            self._finish(LegEnd.UNKNOWN)
        end, segment = bare[0]
        text = f"{end.name} has no address on any network"
        self._stop(
            Step(
                kind=StepKind.SEND,
                netns=end.netns or 0,
                segment=segment,
                text=text,
                packet=packet,
                outcome=Outcome.DROP,
                reason=Reason.NO_NETWORK,
            )
        )
        raise _End

    def _arrive(self, view: View, packet: Packet) -> None:
        """Take in a packet from beyond this host, by the device that the way back to its sender leads to."""
        found = arrival.arrival_device(self.world, view, packet)
        if found is None:
            self._need_routes(view, "stack", packet)
            self._lost(view, "stack", f"no device of {view.name} leads out to {packet.src}", packet)
        child = children.taker(self.world, view, found, address=packet.dst)
        master = view.links.get(found.master or 0)
        mac = child[1].mac if child is not None else (master or found).mac
        self._add(
            Step(
                kind=StepKind.LEAVE,
                netns=view.id,
                segment=Segment.REMOTE,
                text=f"{packet.src} sends to {packet.dst}, and it comes by {found.name}, the way back to {packet.src}",
                packet=packet,
                device=found.name,
                ifindex=found.ifindex,
            )
        )
        self._receive(view, found, replace(packet, dst_mac=mac), dst_mac=mac)

    def _first_packet(self) -> Packet:
        flow = self.flow
        unspecified = _unspecified(flow.family)
        return Packet(
            family=flow.family,
            src=flow.src.address if flow.src.address is not None and flow.src.netns is None else unspecified,
            dst=flow.dst.address if flow.dst.address is not None else unspecified,
            proto=PROTO_NUMBER[flow.proto, flow.family],
            sport=None if flow.proto is Proto.ICMP else flow.sport or PROBE_PORT,
            dport=flow.dport,
            icmp_type=None if flow.proto is not Proto.ICMP else (8 if flow.family == 4 else 128),
            icmp_code=0 if flow.proto is Proto.ICMP else None,
            icmp_id=1 if flow.proto is Proto.ICMP else None,
            tcp_flags=TCP_SYN if flow.proto is Proto.TCP else None,
            length=flow.size or DEFAULT_LENGTH[flow.proto],
            df=flow.size is not None or flow.proto is not Proto.UDP,
            uid=0,
            gid=0,
        )

    # -- local output ------------------------------------------------------------------------------------------

    def _local_output(self, view: View, packet: Packet, bound: IPAddress | None = None) -> None:
        """Route a packet that the namespace itself sends, run OUTPUT, and send it out (ip_local_out)."""
        found = self._route(view, packet, "output", src=bound)
        source = bound or routing.choose_source(view, found, packet.dst)
        if source is None and isinstance(view.ns.addresses, Missing):
            self._lost(view, "output", unread_text(view, "addresses"), packet)
        if source is None:
            self._stop(
                self._step(
                    view,
                    StepKind.ROUTE,
                    "output",
                    f"no source address for {packet.dst}",
                    packet,
                    outcome=Outcome.DROP,
                    reason=Reason.NO_SOURCE_ADDRESS,
                    route=found.route,
                    device=self._name(view, found.ifindex),
                    ifindex=found.ifindex,
                )
            )
            raise _End
        packet = replace(packet, src=source)
        if bound is None and not (found.route is not None and found.route.kind == "local"):
            # The kernel looks again once the source is chosen (ip_route_connect), for rules that ask for it.
            found = self._route(view, packet, "output", src=source, quiet=True)
        local = found.route is not None and found.route.kind == "local"
        out = view.by_name.get("lo") if local else view.links.get(found.ifindex or 0)
        if out is None:
            self._lost(view, "output", f"the output device of the route is not known in {view.name}", packet)
        if not local and packet.length > out.mtu:
            # Senders that forbid fragments as the probe does heed the device alone (ip_sk_use_pmtu). Answers are
            # fragmented where they are made: ICMP's never carry DF, a datagram's only when it fits (__ip_make_skb).
            if self.direction is Direction.REPLY:
                packet = replace(packet, length=out.mtu, df=False)
            elif packet.df:
                packet = self._too_big(view, out, packet, out.mtu, "output", local=True)
        tracking = self.table.begin(view, packet)
        result = self._hook(view, Hook.OUTPUT, packet, tracking, "output", oif=out.name)
        if result.route_changed or result.packet.dst != packet.dst:
            found = self._route(view, result.packet, "output", src=result.packet.src)
            local = found.route is not None and found.route.kind == "local"
            out = view.by_name.get("lo") if local else view.links.get(found.ifindex or 0)
            if out is None:
                self._lost(view, "output", f"the output device of the route is not known in {view.name}", packet)
            self._check_loopback_source(view, out, result.packet)
        self._output(view, result.packet, result.tracking, found, out)

    def _check_loopback_source(self, view: View, out: Link, packet: Packet) -> None:
        """Stop what would leave with a loopback source after its destination was translated (__mkroute_output)."""
        if packet.family != 4 or not packet.src.is_loopback or out.loopback or isinstance(view.ns.sysctls, Missing):
            return
        if view.conf_max(4, out.name, "route_localnet", 0):
            return
        self._stop(
            self._step(
                view,
                StepKind.RP_FILTER,
                "output",
                f"{packet.src} may not leave {view.name} by {out.name}",
                packet,
                outcome=Outcome.DROP,
                reason=Reason.MARTIAN,
                sysctl=f"net.ipv4.conf.{out.name}.route_localnet = 0",
                device=out.name,
                ifindex=out.ifindex,
            )
        )

    def _route(
        self,
        view: View,
        packet: Packet,
        stage: str,
        *,
        src: IPAddress | None,
        iif: Link | None = None,
        quiet: bool = False,
    ) -> routing.Lookup:
        """Look a route up and record it; the leg ends here when there is none."""
        self._need_routes(view, stage, packet)
        found = routing.lookup(view, packet, iif=iif.name if iif is not None else None, src=src)
        names = {index: link.name for index, link in view.links.items()}
        reason: Reason | None = None
        # Without a route the network is unreachable (fib_lookup), and so it is where a rule says so (fib4_rule_action).
        network = found.route is None or (found.rule is not None and found.rule.action == "unreachable")
        if found.route is None:
            reason = Reason.NO_ROUTE
            text = f"no route to {packet.dst} in {view.name}"
            if found.thrown is not None:
                text += f": {route_text(found.thrown, names)} ends the search"
        else:
            reason = {
                "blackhole": Reason.ROUTE_BLACKHOLE,
                "unreachable": Reason.ROUTE_UNREACHABLE,
                "prohibit": Reason.ROUTE_PROHIBIT,
            }.get(found.route.kind)
            text = f"route {route_text(found.route, names)}"
        facts: dict[str, Any] = {
            "route": found.route or found.thrown,
            "rule": found.rule,
            "device": self._name(view, found.ifindex),
            "ifindex": found.ifindex,
            "next_hop": found.gateway or packet.dst,
        }
        if reason is not None:
            self._stop(
                self._step(view, StepKind.ROUTE, stage, text, packet, outcome=Outcome.DROP, reason=reason, **facts)
            )
            if self.icmp_error is None and reason is not Reason.ROUTE_BLACKHOLE:
                # ip_error; ip6_pkt_discard_out, ip6_pkt_prohibit.
                if packet.family == 6:
                    self.icmp_error = (1, 1) if reason is Reason.ROUTE_PROHIBIT else (1, 0)
                else:
                    self.icmp_error = (3, 13) if reason is Reason.ROUTE_PROHIBIT else (3, 0 if network else 1)
            raise _End
        if not quiet:
            self._add(self._step(view, StepKind.ROUTE, stage, text, packet, **facts))
        return self._spread(view, packet, stage, found, quiet=quiet) if found.others else found

    def _spread(self, view: View, packet: Packet, stage: str, found: routing.Lookup, *, quiet: bool) -> routing.Lookup:
        """Take a next hop that answers where others of the route do not, in doubt whether this flow gets it."""
        hops = [hop for hop in (found.hop, *found.others) if hop is not None]
        dead = [hop for hop in hops if not self._answers(view, hop, packet)]
        if not dead or len(dead) == len(hops):
            return found
        if not quiet:
            named = ", ".join(str(hop.gateway or self._name(view, hop.ifindex)) for hop in dead)
            text = f"{view.name} spreads flows over {len(hops)} next hops, and nobody answers for {named}"
            self._doubt(view, stage, text, packet)
        return replace(found, hop=next(hop for hop in hops if hop not in dead))

    def _answers(self, view: View, hop: NextHop, packet: Packet) -> bool:
        """Tell whether a next hop can be resolved, or may be, as far as can be seen from here."""
        out, address = view.links.get(hop.ifindex or 0), hop.gateway or packet.dst
        if out is None or not (out.up and out.lower_up):
            return False
        found = neigh.resolve(self.world, view, out, address, asking=_asking(view, out, address, packet))
        return found.how not in (neigh.Resolved.NOBODY, neigh.Resolved.IGNORED)

    def _need_routes(self, view: View, stage: str, packet: Packet) -> None:
        """End the leg where the routes of a namespace were not read; without its policy rules, go on in doubt."""
        if isinstance(view.ns.routes, Missing):
            self._lost(view, stage, unread_text(view, "routes"), packet)
        self._need(view, "rules", stage, packet)

    def _need(self, view: View, section: str, stage: str, packet: Packet) -> None:
        """Go on in doubt where a decision depends on a table that was not read."""
        if isinstance(getattr(view.ns, section), Missing):
            self._doubt(view, stage, unread_text(view, section), packet)

    def _path_mtu(self, found: routing.Lookup, out: Link) -> int:
        return min(out.mtu, found.route.mtu) if found.route is not None and found.route.mtu else out.mtu

    def _too_big(self, view: View, out: Link, packet: Packet, limit: int, stage: str, *, local: bool) -> Packet:
        """Stop a packet that may not be fragmented and does not fit (ip_exceeds_mtu; EMSGSIZE for local senders).

        Returns the packet as its sender makes it when it knows, for what lies beyond.
        """
        if self.end is None:
            self.icmp_error = (3, 4) if packet.family == 4 else (2, 0)
            self.mtu = limit
        self._stop(
            Step(
                kind=StepKind.MTU,
                netns=view.id,
                segment=self.places.device(view, out) if not local else self.places.stack(view, stage),
                text=f"{packet.length} bytes do not fit into {out.name} (mtu {limit})",
                packet=packet,
                outcome=Outcome.DROP,
                reason=Reason.TOO_BIG,
                device=out.name,
                ifindex=out.ifindex,
                link=out,
            )
        )
        return replace(packet, length=limit)

    # -- output ------------------------------------------------------------------------------------------------

    def _output(
        self,
        view: View,
        packet: Packet,
        tracking: Tracking,
        found: routing.Lookup,
        out: Link,
        *,
        iif: str | None = None,
    ) -> None:
        """Run POSTROUTING, resolve the next hop, and hand the frame to the device (ip_output, neigh_output)."""
        # A forwarded packet still carries its input device here (ip_output), and nft can match it.
        result = self._hook(view, Hook.POSTROUTING, packet, tracking, "egress", iif=iif, oif=out.name)
        packet = result.packet
        self.table.keep(view, result.tracking)
        if out.loopback:
            self._receive(view, out, packet, dst_mac=None)
            return
        mac = self._resolve(view, out, found.gateway or packet.dst, packet)
        self._xmit(view, out, replace(packet, src_mac=out.mac, dst_mac=mac), dst_mac=mac)

    def _resolve(self, view: View, out: Link, address: IPAddress, packet: Packet) -> str | None:
        """Resolve the next hop to a MAC; None when it cannot be told from here."""
        self.next_hop = address
        if not (out.up and out.lower_up):
            return None
        if not (out.loopback or out.pointopoint):
            self._need(view, "neighbours", "egress", packet)
        asking = _asking(view, out, address, packet)
        answer = neigh.resolve(self.world, view, out, address, asking=asking)
        told = self.heard.asked.get((view.id, out.ifindex, address))
        if told is not None and answer.how in (neigh.Resolved.NOBODY, neigh.Resolved.IGNORED):
            answer = neigh.Resolution(how=neigh.Resolved.OWNER, mac=told, entry=answer.entry)
        told_by_rule = requests.told_by_rule(self.world, view, out, address) if answer.how in _ASKED else None
        if told_by_rule is not None:
            learnt = Neighbour(ifindex=out.ifindex, address=address, mac=told_by_rule, state="REACHABLE")
            answer = neigh.Resolution(how=neigh.Resolved.CACHED, mac=told_by_rule, entry=learnt)
        segment = self.places.next_hop(view, out)
        if answer.how is neigh.Resolved.OWNER and answer.mac is not None:
            self.spoke.add(answer.mac)
        facts: dict[str, Any] = {
            "kind": StepKind.NEIGHBOUR,
            "netns": view.id,
            "segment": segment,
            "packet": packet,
            "device": out.name,
            "ifindex": out.ifindex,
            "neighbour": answer.entry,
            "next_hop": address,
        }
        if answer.how is neigh.Resolved.NO_ARP and out.noarp and out.arp_type == 1 and out.kind != "ipvlan":
            # The frame goes out to the sender's own MAC, which nobody else on the link takes.
            self.unasked = Step(
                outcome=Outcome.DROP,
                reason=Reason.NEIGHBOUR_FAILED,
                text=f"{out.name} asks nobody for {address}: ARP is off there (NOARP)",
                sysctl=f"{out.name}: NOARP",
                **facts,
            )
            return neigh.resolve(self.world, view, replace(out, noarp=False), address, asking=asking).mac
        if self._enslaved(view, out, answer, facts) or self._unheard(view, out, answer, facts):
            return answer.mac
        if answer.how is neigh.Resolved.UNREAD:
            self._stop(Step(outcome=Outcome.UNKNOWN, text=answer.unread or "", **facts))
            return None
        if answer.how in (neigh.Resolved.NOBODY, neigh.Resolved.IGNORED):
            self._meet_what_awaits()
            point = self.places.point(view, out)
            text = (
                f"nobody on {out.name} answers for {address}"
                if answer.how is neigh.Resolved.NOBODY
                else f"the holder of {address} does not answer: {answer.sysctl}"
            )
            if self.end is None and self.icmp_error is None:
                self.icmp_error = (3, 1) if packet.family == 4 else (1, 3)
            if answer.owner is not None and answer.refusal is not None:
                self._stop(self._refused_request(answer.owner, answer.refusal, replace(packet, src=asking), facts))
                return None
            reason = Reason.NEIGHBOUR_FAILED if answer.how is neigh.Resolved.NOBODY else Reason.ARP_IGNORED
            self._stop(Step(outcome=Outcome.DROP, reason=reason, text=text, point=point, sysctl=answer.sysctl, **facts))
            return None
        if answer.how is neigh.Resolved.STATIC and answer.entry is not None and answer.owner is None:
            wrong = not self._open_ended(view, out)
            if wrong:
                names = {index: link.name for index, link in view.links.items()}
                self._add(Step(text=f"permanent entry {neighbour_text(answer.entry, names)}", **facts))
                return answer.mac
        if answer.how is not neigh.Resolved.NO_ARP:
            whose = f" is {answer.mac}" if answer.mac else " is resolved on the link"
            beyond = answer.how is neigh.Resolved.BEYOND and answer.mac is None
            # Whether a permanent entry names who is really there cannot be seen from here either.
            beyond = beyond or (answer.how is neigh.Resolved.STATIC and answer.owner is None)
            self._add(Step(text=f"next hop {address}{whose}", open_ended=beyond, **facts))
        return answer.mac

    def _refused_request(
        self, owner: neigh.Member, refusal: reverse_path.Refusal, asked: Packet, facts: dict[str, Any]
    ) -> Step:
        """Return the stop of a packet whose next hop gets the request, and refuses it for what it would refuse too."""
        holder = self.world.views[owner.netns]
        device = holder.links[owner.ifindex]
        return Step(
            **{
                **facts,
                "netns": holder.id,
                "segment": self.places.stack(holder, "stack"),
                "packet": asked,
                "device": device.name,
                "ifindex": device.ifindex,
                "neighbour": None,
            },
            outcome=Outcome.DROP,
            reason=refusal.reason,
            text=refusal.text,
            sysctl=refusal.sysctl,
            route=refusal.route,
            rule=refusal.rule,
        )

    def _unheard(self, view: View, out: Link, answer: neigh.Resolution, facts: dict[str, Any]) -> bool:
        """Stop where a bridge keeps the request for a next hop from its holder, or the answer from who asked."""
        packet: Packet = facts["packet"]
        address: IPAddress = facts["next_hop"]
        if answer.owner is None or answer.how is not neigh.Resolved.OWNER:
            return False
        if (view.id, out.ifindex, address) in self.heard.asked:
            return False  # it was asked by that one before, and has kept its MAC
        asking = _asking(view, out, address, packet)
        lost = requests.lost(self.world, view, out, answer.owner, family=packet.family, address=address, asking=asking)
        if out.mac is not None and (lost is None or lost.heard):
            self.heard.asked[answer.owner.netns, answer.owner.ifindex, asking] = out.mac
        if lost is None:
            return False
        facts = {**facts, "netns": lost.netns, "segment": Segment.BRIDGE, "device": lost.link.name, "fdb": lost.fdb}
        facts |= {"ifindex": lost.link.ifindex, "link": lost.link, "sysctl": lost.flag}
        self._stop(Step(outcome=Outcome.DROP, reason=lost.reason, text=lost.text, **facts))
        return True

    def _enslaved(self, view: View, out: Link, answer: neigh.Resolution, facts: dict[str, Any]) -> bool:
        """Stop where a device that asks is a bridge port: what comes in there, the answers too, is the bridge's."""
        bridge = view.links.get(out.master or 0)
        asks = answer.how in (neigh.Resolved.OWNER, neigh.Resolved.NOBODY, neigh.Resolved.BEYOND)
        known = answer.how is neigh.Resolved.BEYOND and answer.mac is not None
        if bridge is None or bridge.kind != "bridge" or not asks or known:
            return False
        text = f"{out.name} asks for {facts['next_hop']}, and {bridge.name}, which it is a port of, takes the answer"
        self._stop(Step(outcome=Outcome.DROP, reason=Reason.PORT_ENSLAVED, text=text, link=out, **facts))
        return True

    def _open_ended(self, view: View, out: Link) -> bool:
        segment = neigh.segment_of(self.world, view, out)
        return segment.open_ended or bool(segment.unread)

    # -- devices -----------------------------------------------------------------------------------------------

    def _xmit(self, view: View, out: Link, packet: Packet, *, dst_mac: str | None) -> None:
        """Transmit a frame on a device."""
        if out.up:
            packet = self._depart(view, out, packet)
        point = self.places.point(view, out)
        facts: dict[str, Any] = {
            "kind": StepKind.XMIT,
            "netns": view.id,
            "segment": self.places.device(view, out),
            "packet": packet,
            "device": out.name,
            "ifindex": out.ifindex,
            "link": out,
            "point": point,
        }
        if not out.up:
            self._stop(Step(outcome=Outcome.DROP, reason=Reason.LINK_DOWN, text=f"{link_text(out)} is down", **facts))
        elif not out.lower_up:
            self._stop(
                Step(outcome=Outcome.DROP, reason=Reason.NO_CARRIER, text=f"{link_text(out)} has no carrier", **facts)
            )
        else:
            self._add(Step(text=f"out of {out.name}", **facts))
            self._past_children(view, out, packet, dst_mac)
        self._onward(view, out, packet, dst_mac)

    def _onward(self, view: View, out: Link, packet: Packet, dst_mac: str | None) -> None:
        """Hand a frame to the driver of a device (ndo_start_xmit)."""
        if out.kind == "bridge":
            self._lost_unasked()
            self._bridge_forward(view, out, None, packet, dst_mac)
        elif out.kind == "veth":
            self._veth(view, out, packet, dst_mac)
        elif out.kind in ("macvlan", "macvtap"):
            self._macvlan(view, out, packet, dst_mac)
        elif out.kind in ("ipvlan", "ipvtap"):
            self._ipvlan(view, out, packet, dst_mac)
        elif out.kind == "vxlan":
            self._vxlan(view, out, packet, dst_mac)
        else:
            text = f"leaves this host by {out.name}" if out.kind != "tun" else handed_text(view, out)
            self._leave(view, out, packet, text)

    def _lost_unasked(self) -> None:
        """Stop a frame that was sent to its own sender's MAC, where it is clear that nobody takes it."""
        if self.unasked is not None:
            unasked, self.unasked = self.unasked, None
            self._stop(unasked)

    def _leave(self, view: View, out: Link, packet: Packet, text: str) -> NoReturn:
        self._lost_unasked()
        landed = overlay.landing(self.world, view, packet)
        if landed is not None:
            self._cross(view, out, packet, *landed)
        self._check_translated(view, out, packet)
        self._add(
            Step(
                kind=StepKind.LEAVE,
                netns=view.id,
                segment=Segment.REMOTE,
                text=text,
                packet=packet,
                device=out.name,
                ifindex=out.ifindex,
            )
        )
        self.answer = answer_to(packet if self.tunnel is None else self.tunnel.inner, accepted=True)
        self._finish(LegEnd.LEFT)

    def _meet_what_awaits(self) -> None:
        """Stop a tunnel by what its packets meet beyond this host, and by what comes of that here."""
        for step in self.awaits:
            self._stop(step)
        self.awaits = []

    def _check_translated(self, view: View, out: Link, packet: Packet) -> None:
        """Stop a tunnel whose outer source was translated to what the other hosts do not know.

        What is for an overlay's network but left its container by another way reaches nobody either.
        """
        if self.tunnel is None:
            start = self.steps[0].netns if self.steps else None
            passed = overlay.missed(self.world, start, packet.dst)
            if passed is not None:
                self._stop(
                    Step(
                        kind=StepKind.CROSS,
                        netns=view.id,
                        segment=Segment.EGRESS,
                        text=f"{packet.dst} is in the overlay {passed.name}, and leaves {out.name} without its tunnel",
                        packet=packet,
                        outcome=Outcome.DROP,
                        reason=Reason.NOT_ENCAPSULATED,
                        device=out.name,
                        ifindex=out.ifindex,
                    )
                )
            return
        self._meet_what_awaits()
        network = overlay.network_of(self.world, self.tunnel.view, self.tunnel.inner.dst)
        ends = overlay.translated(self.steps, self.tunnel.link, network)
        if ends is not None:
            self._stop(
                Step(
                    kind=StepKind.CROSS,
                    netns=view.id,
                    segment=Segment.UNDERLAY,
                    text=f"the other hosts take {self.tunnel.inner.src_mac} from {ends[0]} alone, not from {ends[1]}",
                    packet=packet,
                    outcome=Outcome.DROP,
                    reason=Reason.VXLAN_WRONG_SOURCE,
                    device=out.name,
                    ifindex=out.ifindex,
                )
            )

    def _cross(self, view: View, out: Link, packet: Packet, host: View, device: Link) -> NoReturn:
        """Go on where another host of the snapshot takes the packet in; what lies between hosts is taken to pass it."""
        self._add(
            Step(
                kind=StepKind.CROSS,
                netns=view.id,
                segment=Segment.REMOTE,
                text=f"leaves this host by {out.name}, for {packet.dst} of {host.name}",
                packet=packet,
                device=out.name,
                ifindex=out.ifindex,
            )
        )
        if self.tunnel is not None and packet.length > device.mtu:
            self._stop(
                Step(
                    kind=StepKind.MTU,
                    netns=host.id,
                    segment=Segment.UNDERLAY,
                    text=f"{packet.length} bytes do not fit into {device.name} of {host.name} (mtu {device.mtu})",
                    packet=self.tunnel.inner,
                    outcome=Outcome.DROP,
                    reason=Reason.TOO_BIG,
                    device=device.name,
                    ifindex=device.ifindex,
                    link=device,
                )
            )
        self._receive(host, device, packet, dst_mac=device.mac)
        raise _End

    def _vxlan(self, view: View, out: Link, packet: Packet, dst_mac: str | None) -> None:
        """Put a frame into UDP for the host behind which its receiver is (vxlan_xmit, vxlan_xmit_one).

        The outer packet is sent from the namespace that the device was made in.
        """
        info = out.vxlan
        if info is None or (out.peer_nsid is not None and out.peer_netns is None):
            self._leave(view, out, packet, f"encapsulated by {out.name}")
        if isinstance(view.ns.fdb, Missing):
            self._doubt(view, "egress", unread_text(view, "fdb"), packet)
        entry = overlay.vtep(view, out, dst_mac)
        if entry is None:
            entry = self.heard.learnt.get((view.id, out.ifindex, dst_mac or ""))
        remote = entry.dst if entry is not None else info.group
        facts: dict[str, Any] = {
            "kind": StepKind.ENCAP,
            "netns": view.id,
            "segment": Segment.UNDERLAY,
            "device": out.name,
            "ifindex": out.ifindex,
            "link": out,
            "fdb": entry,
        }
        if remote is None:
            text = f"{out.name} knows no host behind which {dst_mac or 'the next hop'} is"
            self._stop(
                Step(text=text, packet=packet, outcome=Outcome.DROP, reason=Reason.VXLAN_NO_DESTINATION, **facts)
            )
            raise _End
        if remote.is_multicast:
            self._leave(view, out, packet, f"encapsulated by {out.name} for the group {remote}")
        right = overlay.host_behind(self.world, view, dst_mac, (self.flow.src.netns, self.flow.dst.netns))
        if right is not None and right.owned and remote not in right.owned:
            text = f"{out.name} sends what is for {dst_mac} to {remote}, which is no address of {right.name}"
            self._stop(Step(text=text, packet=packet, outcome=Outcome.DROP, reason=Reason.VXLAN_WRONG_HOST, **facts))
            remote = overlay.own_address(right, remote) or remote
        network = overlay.network_of(self.world, view, packet.dst)
        if network is not None and network.encrypted:
            self.heard.encrypted = network.name
        inode = out.peer_netns if out.peer_netns is not None else view.id
        under = self.world.view(inode)
        if under is None:
            self.needs = (inode,)
            self._finish(LegEnd.NEEDS)
        family = remote.version
        if right is None:
            source = info.local if info.local is not None else overlay.own_address(under, remote)
            wrong = overlay.misdirected(under, network, source, remote)
            if wrong is not None:
                text = f"{out.name} sends what is for {dst_mac} to {remote}: {wrong}"
                astray = Step(text=text, packet=packet, outcome=Outcome.DROP, reason=Reason.VXLAN_WRONG_HOST, **facts)
                if remote in under.owned:
                    self._stop(astray)
                    raise _End
                self.awaits.append(astray)
            if network is not None and network.vnis and info.vni not in network.vnis:
                text = f"{out.name} has VXLAN {info.vni}, and the network {network.name} is {network.vnis[0]} elsewhere"
                self.awaits.append(
                    Step(text=text, packet=packet, outcome=Outcome.DROP, reason=Reason.VXLAN_NO_DEVICE, **facts)
                )
        headers = VXLAN_HEADERS[family]
        outer = Packet(
            family=family,
            src=info.local if info.local is not None else _unspecified(family),
            dst=remote,
            proto=17,
            sport=PROBE_PORT,
            dport=info.port,
            length=packet.length + headers,
            ttl=info.ttl or 64,
            df=False,
        )
        self._add(Step(text=f"into VXLAN {info.vni}, to {remote} port {info.port}", packet=outer, **facts))
        if network is not None and network.encrypted:
            text = f"{network.name} is encrypted, and what IPsec does to its tunnel is not modelled"
            self._stop(Step(text=text, packet=outer, outcome=Outcome.UNKNOWN, **facts))
        self.tunnel = self.heard.tunnel = _Tunnel(view, out, packet, outer)
        found = routing.lookup(under, outer, src=info.local)
        device = under.links.get(found.ifindex or 0)
        if device is not None and packet.df and outer.length > (limit := self._path_mtu(found, device)):
            # skb_tunnel_check_pmtu answers the sender for the frame inside.
            self._too_big(under, device, packet, limit - headers, "egress", local=False)
        self._local_output(under, outer, bound=info.local)

    def _tunnelled(self, tunnel: _Tunnel, answer: Packet) -> Packet:
        """Put an answer into the tunnel, and return the packet that brings it back."""
        outer = tunnel.outer
        local = outer.src
        if local.is_unspecified:
            under = self.world.view(tunnel.link.peer_netns or tunnel.view.id)
            found = routing.lookup(under, outer) if under is not None else routing.Lookup()
            local = (routing.choose_source(under, found, outer.dst) if under is not None else None) or local
        length = answer.length + VXLAN_HEADERS[outer.family]
        back = replace(outer, src=outer.dst, dst=local, length=length)
        self.tunnel = _Tunnel(tunnel.view, tunnel.link, replace(answer, dst_mac=tunnel.inner.src_mac), back)
        return back

    def _veth(self, view: View, out: Link, packet: Packet, dst_mac: str | None) -> None:
        """Cross a veth pair (veth_xmit, __dev_forward_skb)."""
        inode = view.peer(out)
        if inode is None or self._is_uplink(view, out, inode, packet):
            self._leave(view, out, packet, f"leaves this host by {out.name}")
        other = self.world.view(inode)
        if other is None:
            self.needs = (inode,)
            self._finish(LegEnd.NEEDS)
        far = other.links.get(out.peer_ifindex or 0)
        if far is None:
            self._lost(other, "stack", f"the peer of {out.name} is not in {other.name}", packet)
        # is_skb_forwardable: the frame may be as long as the receiving end's MTU, link header and one VLAN tag.
        if packet.length > far.mtu + 4:
            self._stop(
                Step(
                    kind=StepKind.MTU,
                    netns=other.id,
                    segment=Segment.BRIDGE
                    if far.master is not None or out.master is not None
                    else self.places.device(other, far),
                    text=f"{packet.length} bytes do not fit into {far.name} (mtu {far.mtu}), and veth sends no error",
                    packet=packet,
                    outcome=Outcome.DROP,
                    reason=Reason.FRAME_TOO_BIG,
                    device=far.name,
                    ifindex=far.ifindex,
                    link=far,
                )
            )
        self._receive(other, far, packet, dst_mac=dst_mac)

    def _is_uplink(self, view: View, out: Link, inode: int, packet: Packet) -> bool:
        """Tell whether a veth of the host leads out of what this host's question is about.

        From the host's namespace the way is followed only into namespaces that the question or an engine names:
        anything else behind a veth is the outside world to this host, as hardware would be.
        """
        if view.id not in self.world.hosts or inode == view.id:
            return False
        if inode in (self.flow.src.netns, self.flow.dst.netns) or inode in self.world.containers:
            return False
        if packet.dst_mac is not None and packet.dst_mac in self.world.macs:
            return False
        # The engine's listing tells addresses and bridges, but not which namespace is whose.
        owner = self.world.owner_of_address(packet.dst)
        network = self.world.snapshot.intent.network(owner[1].network_id) if owner is not None else None
        bridge = view.links.get(out.master or 0)
        hidden = self.world.view(inode)
        if hidden is not None and hidden.ns.kind == "overlay":
            return False  # an engine's own, such as the load balancer of a swarm's published ports
        return network is None or bridge is None or network.bridge != bridge.name

    def _parent(self, view: View, out: Link, packet: Packet) -> tuple[View, Link]:
        """Return the parent of a macvlan or ipvlan child; ask for its namespace where it was not read."""
        inode = view.peer(out)
        parent_view = self.world.view(inode) if inode is not None else None
        if inode is not None and parent_view is None:
            self.needs = (inode,)
            self._finish(LegEnd.NEEDS)
        parent = parent_view.links.get(out.peer_ifindex or 0) if parent_view is not None else None
        if parent_view is None or parent is None:
            self._leave(view, out, packet, f"leaves by the parent of {out.name}")
        return parent_view, parent

    def _macvlan(self, view: View, out: Link, packet: Packet, dst_mac: str | None) -> None:
        """Send from a macvlan child: to a sibling in bridge mode, else out by the parent (macvlan_queue_xmit)."""
        parent_view, parent = self._parent(view, out, packet)
        sibling = children.taker(self.world, parent_view, parent, mac=dst_mac) if dst_mac is not None else None
        if sibling is not None and sibling[1] is out:
            sibling = None
        if out.macvlan_mode == "bridge" and sibling is not None and sibling[1].macvlan_mode == "bridge":
            # It is handed to the parent's taps first, and comes to the sibling by its parent (dev_forward_skb).
            self._receive(parent_view, parent, packet, dst_mac=dst_mac)
            return
        if sibling is None:
            self._need_sibling(parent_view, parent, packet)
        if parent.up:
            packet = self._depart(parent_view, parent, packet)
        point = self.places.point(parent_view, parent)
        facts: dict[str, Any] = {
            "kind": StepKind.XMIT,
            "netns": parent_view.id,
            "segment": Segment.EGRESS,
            "packet": packet,
            "device": parent.name,
            "ifindex": parent.ifindex,
            "link": parent,
            "point": point,
        }
        if not (parent.up and parent.lower_up):
            reason = Reason.LINK_DOWN if not parent.up else Reason.NO_CARRIER
            self._stop(Step(outcome=Outcome.DROP, reason=reason, text=f"the parent {parent.name} is down", **facts))
        elif dst_mac is not None and dst_mac == parent.mac and out.macvlan_mode != "passthru":
            text = f"{out.name} and its parent {parent.name} cannot talk to each other"
            self._stop(Step(outcome=Outcome.DROP, reason=Reason.MACVLAN_ISOLATED, text=text, **facts))
            raise _End
        else:
            self._add(Step(text=f"out of {parent.name}", **facts))
            if sibling is not None:
                self._to_isolated_sibling(parent_view, parent, out, *sibling, packet)
        self._onward(parent_view, parent, packet, dst_mac)

    def _ipvlan(self, view: View, out: Link, packet: Packet, dst_mac: str | None) -> None:
        """Send from an ipvlan child: to a sibling, out by the parent (l2), or by the parent's own routes (l3, l3s)."""
        parent_view, parent = self._parent(view, out, packet)
        sibling = children.taker(self.world, parent_view, parent, address=packet.dst)
        if sibling is None:
            self._need_sibling(parent_view, parent, packet)
        choice = children.ipvlan_choice(out, parent_view, parent, packet, dst_mac, sibling[1] if sibling else None)
        facts: dict[str, Any] = {
            "kind": StepKind.XMIT,
            "netns": parent_view.id,
            "segment": Segment.EGRESS,
            "packet": packet,
            "device": parent.name,
            "ifindex": parent.ifindex,
            "link": parent,
        }
        if choice.way is children.Way.SIBLING and sibling is not None:
            self._add(Step(text=choice.text, **facts))
            self._receive(*sibling, packet, dst_mac=dst_mac)
            return
        if not (parent.up and parent.lower_up):
            reason = Reason.LINK_DOWN if not parent.up else Reason.NO_CARRIER
            self._stop(Step(outcome=Outcome.DROP, reason=reason, text=f"the parent {parent.name} is down", **facts))
            if choice.way is children.Way.ROUTED:
                raise _End
        if choice.way in (children.Way.ISOLATED, children.Way.HOST):
            host = choice.way is children.Way.HOST
            reason = Reason.MACVLAN_ISOLATED if host else Reason.MACVLAN_MODE
            self._stop(Step(outcome=Outcome.DROP, reason=reason, text=choice.text, **facts))
            raise _End
        if choice.way is children.Way.ROUTED:
            # ipvlan_process_v4_outbound: the parent's namespace sends it as its own, bound to the parent.
            self._local_output(parent_view, packet, packet.src)
            return
        packet = self._depart(parent_view, parent, packet)
        facts["packet"] = packet
        self._add(Step(text=f"out of {parent.name}", point=self.places.point(parent_view, parent), **facts))
        self._onward(parent_view, parent, packet, dst_mac)

    def _past_children(self, view: View, out: Link, packet: Packet, dst_mac: str | None) -> None:
        """Stop what a parent's own stack sends to one of its children: it goes out on the wire, past them."""
        child = children.taker(self.world, view, out, mac=dst_mac, address=packet.dst)
        if child is None or child[1].macvlan_mode == "passthru":
            self._need_sibling(view, out, packet)
            return
        text = f"{out.name} and its child {child[1].name} in {child[0].name} cannot talk to each other"
        self._stop(
            Step(
                kind=StepKind.XMIT,
                netns=view.id,
                segment=Segment.EGRESS,
                packet=packet,
                device=out.name,
                ifindex=out.ifindex,
                link=out,
                outcome=Outcome.DROP,
                reason=Reason.MACVLAN_ISOLATED,
                text=text,
            )
        )
        raise _End

    def _need_sibling(self, parent_view: View, parent: Link, packet: Packet) -> None:
        """Ask for the namespace of the container that holds the destination, or the next hop, by an engine's word."""
        for address in dict.fromkeys((packet.dst, self.next_hop or packet.dst)):
            owner = self.world.owner_of_address(address)
            network = self.world.snapshot.intent.network(owner[1].network_id) if owner is not None else None
            if owner is None or network is None or network.parent != parent.name:
                continue
            inode = owner[0].netns
            if inode is not None and self.world.view(inode) is None:
                self.needs = (inode,)
                self._finish(LegEnd.NEEDS)

    def _to_isolated_sibling(
        self, parent_view: View, parent: Link, out: Link, view: View, child: Link, packet: Packet
    ) -> NoReturn:
        """Stop at a sibling that macvlan does not hand the frame to itself (macvlan_queue_xmit, macvlan_handle_frame).

        Outside of bridge mode a frame goes out by the parent. A switch that reflects it could bring it back to a
        child in vepa mode; a private child's requests are not let in even then.
        """
        reflected = "private" not in (out.macvlan_mode, child.macvlan_mode)
        modes = " and ".join(dict.fromkeys(str(each.macvlan_mode) for each in (out, child)))
        self._stop(
            Step(
                kind=StepKind.XMIT,
                netns=parent_view.id,
                segment=Segment.EGRESS,
                text=f"{out.name} and {child.name} of {view.name} are children of {parent.name} in mode {modes}: "
                + ("only a switch that sends frames back joins them" if reflected else "they do not reach each other"),
                packet=packet,
                outcome=Outcome.UNKNOWN if reflected else Outcome.DROP,
                reason=Reason.MACVLAN_MODE,
                device=out.name,
                ifindex=out.ifindex,
                link=out,
            )
        )
        self._receive(view, child, packet, dst_mac=child.mac)
        raise _End

    def _to_child(
        self, view: View, parent: Link, child_view: View, child: Link, packet: Packet, dst_mac: str | None
    ) -> None:
        """Hand a frame that came in by a parent to its child; in l3s mode the parent's hooks see it first."""
        if child.ipvlan_mode == "l3s":
            # ipvlan_l3_rcv changes the route in ip_rcv, ipvlan_nf_input the device at the end of INPUT.
            result = self._hook(view, Hook.PREROUTING, packet, self.table.begin(view, packet), "stack", iif=parent.name)
            result = self._hook(view, Hook.INPUT, result.packet, result.tracking, "stack", iif=parent.name)
            packet = result.packet
        self._receive(child_view, child, packet, dst_mac=dst_mac)

    # -- input -------------------------------------------------------------------------------------------------

    def _receive(self, view: View, device: Link, packet: Packet, *, dst_mac: str | None) -> None:
        """Take a frame in on a device (__netif_receive_skb_core)."""
        if device.up:
            self._traffic_control(view, device, traffic.Place.XDP, packet)
        point = self.places.point(view, device)
        facts: dict[str, Any] = {
            "kind": StepKind.RECEIVE,
            "netns": view.id,
            "segment": self.places.device(view, device),
            "packet": packet,
            "device": device.name,
            "ifindex": device.ifindex,
            "link": device,
        }
        if not device.up:
            self._stop(
                Step(outcome=Outcome.DROP, reason=Reason.LINK_DOWN, text=f"{link_text(device)} is down", **facts)
            )
        else:
            self._add(Step(text=f"in by {device.name}", point=point, **facts))
            self._lost_unasked()
            self._traffic_control(view, device, traffic.Place.INGRESS, packet)
            packet = self._device_hook(view, Hook.INGRESS, device, packet)
        if device.master is not None and device.master in view.links and view.links[device.master].kind == "bridge":
            self._bridge_input(view, view.links[device.master], device, packet, dst_mac)
            return
        child = children.taker(self.world, view, device, mac=dst_mac, address=packet.dst)
        if child is not None and (dst_mac is not None or child[1].kind in ("ipvlan", "ipvtap")):
            # macvlan_handle_frame, ipvlan_handle_frame
            self._to_child(view, device, *child, packet, dst_mac)
            return
        if self.readdressed is not None:
            rewrote, self.readdressed = self.readdressed, None
            self._stop(rewrote)
            if dst_mac == device.mac:
                raise _End  # it is another's, whose ways do not matter here
        elif dst_mac is not None and device.mac is not None and dst_mac != device.mac and not device.loopback:
            self._stop(
                Step(
                    outcome=Outcome.DROP,
                    reason=Reason.OTHERHOST,
                    text=f"the frame is for {dst_mac}, not for {device.name} ({device.mac})",
                    **facts,
                )
            )
            self._adopt(view, device, packet, dst_mac)
        self._ip_receive(view, device, packet)

    def _adopt(self, view: View, device: Link, packet: Packet, dst_mac: str) -> None:
        """Go on beyond a port that no bridge holds, as a port of the bridge that the frame is meant for."""
        for candidate in view.links.values():
            if candidate.kind == "bridge" and candidate.mac == dst_mac:
                self._bridge_up(view, candidate, packet)
                raise _End

    def _bridge_input(self, view: View, bridge: Link, port: Link, packet: Packet, dst_mac: str | None) -> None:
        """Take a frame in on a bridge port (br_handle_frame, br_handle_frame_finish)."""
        facts: dict[str, Any] = {
            "kind": StepKind.BRIDGE,
            "netns": view.id,
            "segment": Segment.BRIDGE,
            "device": port.name,
            "ifindex": port.ifindex,
            "link": port,
        }
        if packet.src_mac is not None:
            self.spoke.add(packet.src_mac)
        blocked = bridging.ingress(view, bridge, port, packet.src_mac)
        if blocked is not None:
            why: dict[str, Any] = {"reason": blocked.reason, "text": blocked.text, "sysctl": blocked.flag}
            self._stop(Step(outcome=Outcome.DROP, packet=packet, **why, **facts))
        arrived = packet
        self._need(view, "fdb", "bridge", packet)
        # Whether br_netfilter shows the frame to the IP hooks is a sysctl.
        self._need(view, "sysctls", "bridge", packet)
        prerouted = bridging.calls_iptables(view, bridge, packet.family)
        tracking = self.table.begin(view, packet)
        bridge_result = self._hook(
            view, Hook.PREROUTING, packet, tracking, "bridge", family="bridge", iif=port.name, physin=port.name
        )
        packet = bridge_result.packet
        dst_mac = self._readdress(view, bridge, port, bridge_result, dst_mac)
        if prerouted:
            # Meant for the bridge's own address, the frame is on its way up into the host's stack already.
            stage = "stack" if dst_mac is None or bridging.is_local_mac(view, bridge, dst_mac) else "bridge"
            result = self._hook(view, Hook.PREROUTING, packet, tracking, stage, iif=bridge.name, physin=port.name)
            packet, tracking = result.packet, result.tracking
        target, sourced = dst_mac, False
        if packet.dst != arrived.dst:
            # br_nf_pre_routing_finish: after DNAT the frame goes to the bridge's own stack, unless the new
            # destination is on this very bridge.
            found = routing.lookup(view, packet, iif=bridge.name, src=packet.src)
            onlink = found.route is not None and found.route.kind == "unicast" and found.ifindex == bridge.ifindex
            # Without forwarding the route is an error, and the frame goes up to meet it (ip_route_input_slow).
            onlink = onlink and bool(self._forwards(view, bridge, packet.family))
            target = self._resolve(view, bridge, packet.dst, packet) if onlink else bridge.mac
            if found.route is not None and found.route.kind in ("unicast", "local"):
                # That lookup looks at the source too, and what it refuses is gone before the bridge has it.
                self._check_source(view, bridge, packet, towards=self._name(view, found.ifindex))
                sourced = True
        # Without a MAC the holder is somewhere on the link: here, if the next hop is an address of this namespace, or
        # should be one (beyond a stop).
        told = self.end is None and self.next_hop is not None and not isinstance(view.ns.addresses, Missing)
        elsewhere = told and target is None and self.next_hop not in view.owned
        if (
            self.end is not None
            and target is None
            and any(each.vxlan is not None for each in view.ports.get(bridge.ifindex, ()))
        ):
            # Nobody answered for the next hop, so nothing is known of where the frame would go.
            self._finish(LegEnd.DROPPED)
        if target == bridge.mac and bridging.lost_itself(view, bridge):
            facts |= {"device": bridge.name, "ifindex": bridge.ifindex, "link": bridge, "reason": Reason.FDB_WRONG_PORT}
            text = f"the bridge {bridge.name} has no entry for its own address {bridge.mac}, and takes nothing for it"
            self._stop(Step(outcome=Outcome.DROP, text=text, packet=packet, **facts))
            target = None  # as if it had
        taken = bridging.taken_up(view, bridge, port, target) if target is not None and not elsewhere else None
        if taken is not None:
            entry_at = view.links.get(taken.ifindex, bridge)
            facts |= {"device": entry_at.name, "ifindex": entry_at.ifindex, "link": entry_at}
            text = f"a forwarding entry says that {target} is {bridge.name}'s own, so the host takes what is for it"
            why = {"reason": Reason.FDB_WRONG_PORT, "text": text, "fdb": taken}
            self._stop(Step(outcome=Outcome.DROP, packet=packet, **why, **facts))
            self._bridge_forward(view, bridge, port, packet, target, tracking=tracking)
            return
        if not elsewhere and (target is None or bridging.is_local_mac(view, bridge, target)):
            kept = tracking if prerouted else None
            self._bridge_up(view, bridge, packet, port=port, tracking=kept, sourced=sourced)
            return
        self._bridge_forward(view, bridge, port, packet, target, tracking=tracking)

    def _readdress(self, view: View, bridge: Link, port: Link, result: HookResult, dst_mac: str | None) -> str | None:
        """Return whom a frame is for after a hook of the bridge, which may have written another MAC address into it.

        Whoever gets it then drops it, unless that is the bridge itself, or somebody who forwards.
        """
        new = result.packet.dst_mac
        rule = next((each.rule for each in result.trail if _REWRITES.search(each.effect)), None)
        if rule is None or new is None or new == dst_mac:
            return dst_mac
        ends = [self.world.far_end(view, each) for each in view.ports.get(bridge.ifindex, ())]
        taker = next((end for end in ends if end is not None and end[1].mac == new), None)
        forwards = taker is not None and self._forwards(taker[0], taker[1], result.packet.family)
        self.readdressed = None
        if new not in (bridge.mac, port.mac) and not forwards:
            self.readdressed = Step(
                kind=StepKind.HOOK,
                netns=view.id,
                segment=Segment.BRIDGE,
                text=f"{rule.table} {rule.chain} sends the frame to {new}: {rule.text}",
                packet=result.packet,
                outcome=Outcome.DROP,
                reason=Reason.FILTERED,
                hook=replace(result, verdict=FilterVerdict.DROP, decided_by=rule),
                device=port.name,
                ifindex=port.ifindex,
            )
        return new

    def _bridge_up(
        self,
        view: View,
        bridge: Link,
        packet: Packet,
        *,
        port: Link | None = None,
        tracking: Tracking | None = None,
        sourced: bool = False,
    ) -> None:
        """Pass a frame up to the bridge's own IP stack (br_pass_frame_up); rules there see the port it came by.

        `sourced`: its way back was looked at already.
        """
        if bridge.up:
            self._traffic_control(view, bridge, traffic.Place.XDP, packet)
        point = self.places.point(view, bridge)
        facts: dict[str, Any] = {
            "kind": StepKind.RECEIVE,
            "netns": view.id,
            "segment": self.places.device(view, bridge),
            "packet": packet,
            "device": bridge.name,
            "ifindex": bridge.ifindex,
            "link": bridge,
        }
        # The hook comes before the device's own taps (br_netif_receive_skb).
        came = (port or bridge).name
        self._hook(view, Hook.INPUT, packet, self.table.begin(view, packet), "bridge", family="bridge", iif=came)
        if not bridge.up:
            self._stop(
                Step(outcome=Outcome.DROP, reason=Reason.LINK_DOWN, text=f"{link_text(bridge)} is down", **facts)
            )
        else:
            self._add(Step(text=f"up to {bridge.name}", point=point, **facts))
            self._traffic_control(view, bridge, traffic.Place.INGRESS, packet)
            packet = self._device_hook(view, Hook.INGRESS, bridge, packet)
        self._ip_receive(view, bridge, packet, tracked=tracking, sourced=sourced)

    def _bridge_forward(
        self,
        view: View,
        bridge: Link,
        port: Link | None,
        packet: Packet,
        dst_mac: str | None,
        *,
        tracking: Tracking | None = None,
    ) -> None:
        """Choose the port a frame leaves a bridge by, and send it (br_forward, br_flood, br_dev_queue_push_xmit)."""
        if port is None:
            self._need(view, "fdb", "bridge", packet)
        choice = bridging.egress(
            self.world, view, bridge, port, dst_mac, packet.dst, spoke=dst_mac is not None and dst_mac in self.spoke
        )
        facts: dict[str, Any] = {
            "kind": StepKind.BRIDGE,
            "netns": view.id,
            "segment": Segment.BRIDGE,
            "packet": packet,
            "fdb": choice.entry,
        }
        if choice.needs is not None:
            self.needs = (choice.needs,)
            self._finish(LegEnd.NEEDS)
        out = choice.port
        if out is None and self.readdressed is not None and not choice.open_ended:
            self._stop(self.readdressed)
            raise _End
        if out is None:
            self._stop(
                Step(
                    outcome=Outcome.UNKNOWN if choice.open_ended else Outcome.DROP,
                    reason=choice.reason,
                    text=choice.text,
                    device=bridge.name,
                    ifindex=bridge.ifindex,
                    link=bridge,
                    **facts,
                )
            )
            if choice.right_port is None:
                raise _End
            out = choice.right_port
        elif choice.reason is not None:
            self._stop(
                Step(
                    outcome=Outcome.DROP,
                    reason=choice.reason,
                    text=choice.text,
                    device=out.name,
                    ifindex=out.ifindex,
                    link=out,
                    sysctl=choice.flag,
                    **facts,
                )
            )
            out = choice.right_port or out
        else:
            self._add(Step(text=choice.text, device=out.name, ifindex=out.ifindex, link=out, **facts))
        if port is not None:
            packet = self._bridge_hooks(view, bridge, port, out, packet, tracking or self.table.begin(view, packet))
            dst_mac = packet.dst_mac if self.readdressed is not None else dst_mac
        else:
            for hook in (Hook.OUTPUT, Hook.POSTROUTING):
                tracked = self.table.begin(view, packet)
                result = self._hook(
                    view, hook, packet, tracked, "bridge", family="bridge", oif=out.name, physout=out.name
                )
                # The port was chosen before (br_dev_xmit): what is written now is for who is behind it.
                dst_mac = self._readdress(view, bridge, out, result, dst_mac)
                packet = result.packet
        if packet.length > out.mtu + 4:  # is_skb_forwardable: link header and one VLAN tag come on top
            self._stop(
                Step(
                    outcome=Outcome.DROP,
                    reason=Reason.FRAME_TOO_BIG,
                    text=f"{packet.length} bytes do not fit into {out.name} (mtu {out.mtu}), and bridges send no error",
                    device=out.name,
                    ifindex=out.ifindex,
                    link=out,
                    **facts,
                )
            )
        self._xmit(view, out, packet, dst_mac=dst_mac)

    def _bridge_hooks(
        self, view: View, bridge: Link, port: Link, out: Link, packet: Packet, tracking: Tracking
    ) -> Packet:
        """Run FORWARD and POSTROUTING for a bridged frame: the bridge's, and IP's where br_netfilter calls them."""
        ip_too = bridging.calls_iptables(view, bridge, packet.family)
        for hook in (Hook.FORWARD, Hook.POSTROUTING):
            result = self._hook(
                view,
                hook,
                packet,
                tracking,
                "bridge",
                family="bridge",
                iif=port.name,
                oif=out.name,
                physin=port.name,
                physout=out.name,
            )
            self._readdress(view, bridge, out, result, packet.dst_mac)
            packet = result.packet
            if ip_too:
                result = self._hook(
                    view,
                    hook,
                    packet,
                    tracking,
                    "bridge",
                    iif=bridge.name if hook is Hook.FORWARD else None,
                    oif=bridge.name,
                    physin=port.name,
                    physout=out.name,
                )
                packet, tracking = result.packet, result.tracking
        if ip_too:
            self.table.keep(view, tracking)
        return packet

    def _ip_receive(
        self, view: View, device: Link, packet: Packet, *, tracked: Tracking | None = None, sourced: bool = False
    ) -> None:
        """Run PREROUTING, route the packet, and deliver or forward it (ip_rcv, ip_route_input_slow)."""
        if packet.family == 6 and view.conf(6, device.name, "disable_ipv6", 0):
            self._stop(
                self._step(
                    view,
                    StepKind.RECEIVE,
                    "stack",
                    f"IPv6 is disabled on {device.name}",
                    packet,
                    outcome=Outcome.DROP,
                    reason=Reason.IPV6_DISABLED,
                    device=device.name,
                    ifindex=device.ifindex,
                    sysctl=f"net.ipv6.conf.{device.name}.disable_ipv6 = 1",
                )
            )
        # What it accepts as a source, forwards and answers are sysctls.
        self._need(view, "sysctls", "stack", packet)
        tracking = tracked
        if tracking is None:
            # br_netfilter ran PREROUTING already for a frame that came up through a bridge (ip_sabotage_in).
            result = self._hook(view, Hook.PREROUTING, packet, self.table.begin(view, packet), "stack", iif=device.name)
            packet, tracking = result.packet, result.tracking
        self._need_routes(view, "stack", packet)
        found = routing.lookup(view, packet, iif=device.name, src=packet.src)
        local = found.route is not None and found.route.kind == "local"
        # The lookup comes first, and what it finds is an error before the source is looked at (ip_route_input_slow);
        # only addresses that no wire may carry are refused before.
        self._check_martian(view, device, packet)
        if local:
            if not sourced:
                self._check_source(view, device, packet)
            self._route(view, packet, "stack", src=packet.src, iif=device)
            self._deliver(view, device, packet, tracking)
            return
        self._check_held(view, device, packet, tracking, found)
        self._check_forwarding(view, device, packet)
        found = self._route(view, packet, "stack", src=packet.src, iif=device)
        if found.route is not None and found.route.kind in ("broadcast", "multicast", "anycast"):
            self._check_source(view, device, packet)
            self._deliver(view, device, packet, tracking)
            return
        if not sourced:
            self._check_source(view, device, packet, towards=self._name(view, found.ifindex))
        self._forward(view, device, packet, tracking, found)

    def _check_held(self, view: View, device: Link, packet: Packet, tracking: Tracking, found: routing.Lookup) -> None:
        """Stop what is for an address that the namespace holds, when no local route says so, and go on as if one did.

        An IPv6 address has none before it is found to be nobody else's (addrconf_dad_completed).
        """
        index = view.owned.get(packet.dst)
        if index is None or any(each.tentative for each in view.addresses[index] if each.address.ip == packet.dst):
            return
        self._stop(
            self._step(
                view,
                StepKind.ROUTE,
                "stack",
                f"{view.name} holds {packet.dst}, but its routes do not say so",
                packet,
                outcome=Outcome.DROP,
                reason=Reason.NOT_LOCAL,
                route=found.route,
                rule=found.rule,
                device=device.name,
                ifindex=device.ifindex,
            )
        )
        self._deliver(view, device, packet, tracking)
        raise _End

    def _check_martian(self, view: View, device: Link, packet: Packet) -> None:
        """Drop what bears an address of 127.0.0.0/8 though it came by a wire (ip_route_input_slow)."""
        if packet.family != 4 or device.loopback:
            return
        facts: dict[str, Any] = {"device": device.name, "ifindex": device.ifindex, "outcome": Outcome.DROP}
        localnet = view.conf_max(4, device.name, "route_localnet", 0)
        if (
            not localnet
            and not isinstance(view.ns.sysctls, Missing)
            and (packet.src.is_loopback or packet.dst.is_loopback)
        ):
            self._stop(
                self._step(
                    view,
                    StepKind.RP_FILTER,
                    "stack",
                    f"an address of 127.0.0.0/8 came in by {device.name}",
                    packet,
                    reason=Reason.MARTIAN,
                    sysctl=f"net.ipv4.conf.{device.name}.route_localnet = 0",
                    **facts,
                )
            )

    def _check_source(self, view: View, device: Link, packet: Packet, *, towards: str | None = None) -> None:
        """Drop what bears an own address as its source, or what the reverse path refuses (__fib_validate_source)."""
        found = reverse_path.refused(view, device, packet, towards=towards)
        if found is None:
            return
        if found.reason is None:
            self._doubt(view, "stack", unread_text(view, "addresses"), packet)
            return
        self._stop(
            self._step(
                view,
                StepKind.RP_FILTER,
                "stack",
                found.text,
                packet,
                outcome=Outcome.DROP,
                reason=found.reason,
                sysctl=found.sysctl,
                route=found.route,
                rule=found.rule,
                device=device.name,
                ifindex=device.ifindex,
            )
        )

    @staticmethod
    def _forwards(view: View, device: Link, family: int) -> int:
        """Return whether what comes in by a device for others is forwarded (IN_DEV_FORWARD; ip6_forward)."""
        if family == 6:
            # IPv6 asks for all interfaces at once (net->ipv6.devconf_all->forwarding).
            return _forwarding_of_all(view, 6)
        return view.conf(4, device.name, "forwarding", view.number("net.ipv4.ip_forward", 0))

    def _check_forwarding(self, view: View, device: Link, packet: Packet) -> None:
        """Drop packets for others where the namespace, or the interface they came by, does not forward."""
        general = _forwarding_of_all(view, packet.family)
        passes = self._forwards(view, device, packet.family)
        key = device.name if packet.family == 4 and general else "all"
        text = f"net.ipv{packet.family}.conf.{key}.forwarding = {0 if not passes else 1}"
        if packet.family == 4 and not general:
            text = "net.ipv4.ip_forward = 0"
        if passes:
            self._add(
                self._step(
                    view,
                    StepKind.FORWARD,
                    "stack",
                    f"{view.name} forwards what comes in by {device.name}",
                    packet,
                    device=device.name,
                    ifindex=device.ifindex,
                    sysctl=text,
                )
            )
            return
        if isinstance(view.ns.sysctls, Missing):
            return  # in doubt already
        self._stop(
            self._step(
                view,
                StepKind.FORWARD,
                "stack",
                f"{view.name} does not forward: {text}",
                packet,
                outcome=Outcome.DROP,
                reason=Reason.FORWARDING_OFF,
                device=device.name,
                ifindex=device.ifindex,
                sysctl=text,
            )
        )

    def _forward(self, view: View, device: Link, packet: Packet, tracking: Tracking, found: routing.Lookup) -> None:
        """Forward a packet: TTL, MTU, FORWARD, then out (ip_forward)."""
        out = view.links.get(found.ifindex or 0)
        if out is None:
            self._lost(view, "stack", f"the output device of the route is not known in {view.name}", packet)
        if packet.ttl <= 1:
            if self.end is None:
                self.icmp_error = (11, 0) if packet.family == 4 else (3, 0)
            self._stop(
                self._step(
                    view,
                    StepKind.FORWARD,
                    "stack",
                    f"the packet's TTL runs out in {view.name}",
                    packet,
                    outcome=Outcome.DROP,
                    reason=Reason.TTL_EXCEEDED,
                    device=device.name,
                    ifindex=device.ifindex,
                    route=found.route,
                )
            )
            raise _End
        if packet.df and packet.length > (limit := self._path_mtu(found, out)):
            packet = self._too_big(view, out, packet, limit, "egress", local=False)
        elif packet.length > out.mtu:
            packet = replace(packet, length=out.mtu)
        packet = replace(packet, ttl=packet.ttl - 1)
        result = self._hook(view, Hook.FORWARD, packet, tracking, "stack", iif=device.name, oif=out.name)
        self._output(view, result.packet, result.tracking, found, out, iif=device.name)

    def _taken_elsewhere(self, view: View, device: Link, packet: Packet) -> None:
        """Stop where another namespace than the one that is meant holds the address too, and takes the packet.

        Meant is the end that was asked for; of what was translated on the way, the container that has the address.
        """
        forward = self.direction is Direction.FORWARD
        end = self.flow.dst if forward else self.flow.src
        if packet.dst.is_loopback or (not forward and (end.netns is None or packet.family == 4)):
            return  # IPv4 lets nobody in under an address of its own: such a packet never got this far
        meant, name = end.netns, end.name
        if packet.dst != end.address:
            owner = self.world.owner_of_address(packet.dst)
            meant, name = (owner[0].netns, owner[0].name) if owner is not None else (None, "")
        if meant in (None, view.id) or not (meant in self.world.containers or self.world.view(meant or 0)):
            return
        self._stop(
            self._step(
                view,
                StepKind.LOCAL,
                "local",
                f"{packet.dst} is an address of {view.name} as well, which takes what is meant for {name}",
                packet,
                outcome=Outcome.DROP,
                reason=Reason.TAKEN_ELSEWHERE,
                device=device.name,
                ifindex=device.ifindex,
            )
        )

    def _deliver(self, view: View, device: Link, packet: Packet, tracking: Tracking) -> None:
        """Run INPUT and hand the packet to a socket, or to the kernel's own ICMP (ip_local_deliver)."""
        result = self._hook(view, Hook.INPUT, packet, tracking, "stack", iif=device.name)
        packet = result.packet
        self.table.keep(view, result.tracking)
        if self.tunnel is not None and (packet.proto, packet.dport) == (17, self.tunnel.outer.dport):
            self._decapsulate(view, packet, self.tunnel)
            return
        self._taken_elsewhere(view, device, packet)
        answer = sockets.deliver(view, packet, own_reply=self.direction is Direction.REPLY)
        if answer.outcome is Outcome.ARRIVED and answer.socket is not None and view.id == self.world.host:
            answer = relay.unless_held(self.world.snapshot, answer, answer.socket, packet)
        if answer.outcome is Outcome.ARRIVED and answer.socket is not None:
            answer = sockets.unless_paused(self.world, view, answer)
        if answer.reason is Reason.NOT_LISTENING and view.ns.kind == "overlay" and packet.proto in (6, 17):
            self._lost(
                view,
                "local",
                f"the swarm's load balancer (IPVS) in {view.name} chooses the task that gets this packet; neither what "
                "it holds nor whether this kernel has it was seen",
                packet,
            )
        step = self._step(
            view,
            StepKind.LOCAL,
            "local",
            answer.text,
            packet,
            outcome=answer.outcome,
            reason=answer.reason,
            socket=answer.socket,
            sysctl=answer.sysctl,
            device=device.name,
            ifindex=device.ifindex,
        )
        self.answer = answer_to(packet, accepted=answer.reason is not Reason.NOT_LISTENING)
        if answer.outcome is Outcome.ARRIVED:
            self._add(step)
            self._finish(LegEnd.ARRIVED)
        self._stop(step)
        self._finish(LegEnd.DROPPED if answer.outcome is Outcome.DROP else LegEnd.UNKNOWN)

    def _decapsulate(self, view: View, packet: Packet, tunnel: _Tunnel) -> None:
        """Take a frame out of its tunnel, by the device of this host that has its id (vxlan_rcv)."""
        vni = tunnel.link.vxlan.vni if tunnel.link.vxlan is not None else None
        found = overlay.ends(self.world, view.id)
        if not found:
            self._lost(view, "stack", f"no vxlan device of {view.name} was read", packet)
        exact = [
            each for each in found if each[1].vxlan and (each[1].vxlan.port, each[1].vxlan.vni) == (packet.dport, vni)
        ]
        containers = (self.flow.src.netns, self.flow.dst.netns)
        meant = overlay.same_overlay(self.world, exact, containers) or next(iter(exact), None)
        if meant is None:
            meant = overlay.same_overlay(self.world, found, containers) or found[0]
        where, link = meant
        inner = tunnel.inner
        facts: dict[str, Any] = {
            "kind": StepKind.DECAP,
            "netns": where.id,
            "segment": Segment.UNDERLAY,
            "device": link.name,
            "ifindex": link.ifindex,
            "link": link,
        }
        if not exact:
            text = f"no vxlan device of {view.name} takes VXLAN {vni} at port {packet.dport}"
            self._stop(Step(text=text, packet=packet, outcome=Outcome.DROP, reason=Reason.VXLAN_NO_DEVICE, **facts))
        entry = overlay.refuses(where, link, inner.src_mac, packet.src)
        if entry is not None:
            text = f"{link.name} takes {entry.mac} from {entry.dst} alone, and this came from {packet.src}"
            facts["fdb"] = entry
            self._stop(Step(text=text, packet=packet, outcome=Outcome.DROP, reason=Reason.VXLAN_WRONG_SOURCE, **facts))
        else:
            self._add(Step(text=f"out of the tunnel by {link.name}", packet=inner, **facts))
            if link.vxlan is not None and link.vxlan.learning and inner.src_mac is not None:
                learnt = FdbEntry(ifindex=link.ifindex, mac=inner.src_mac, dst=packet.src)
                self.heard.learnt[where.id, link.ifindex, inner.src_mac] = learnt
        self.tunnel = None
        self._receive(where, link, inner, dst_mac=inner.dst_mac)

    # -- shared ------------------------------------------------------------------------------------------------

    def _hook(
        self,
        view: View,
        hook: Hook,
        packet: Packet,
        tracking: Tracking,
        stage: str | Segment,
        *,
        family: str | None = None,
        iif: str | None = None,
        oif: str | None = None,
        physin: str | None = None,
        physout: str | None = None,
    ) -> HookResult:
        """Run a netfilter hook and record it; a drop ends the leg, and the walk goes on beyond as if accepted."""
        where: dict[str, Any] = {"family": family, "iif": iif, "oif": oif, "physin": physin, "physout": physout}
        result = run_hook(view, hook, packet, tracking, **where)
        zone = result.tracking.zone
        if family is None and zone != tracking.zone and hook in (Hook.PREROUTING, Hook.OUTPUT):
            # A rule before conntrack has chosen another zone, where conntrack then looks for the entry.
            result = run_hook(view, hook, packet, self.table.begin(view, packet, zone), **where)
        segment = Segment.BRIDGE if stage == "bridge" else self.places.stack(view, stage)
        if isinstance(stage, Segment):
            segment = stage
        facts: dict[str, Any] = {
            "kind": StepKind.HOOK,
            "netns": view.id,
            "segment": segment,
            "packet": result.packet,
            "hook": result,
            "device": oif or iif,
        }
        name = f"{family or ('ip' if packet.family == 4 else 'ip6')} {hook.upper()}"
        if isinstance(view.ns.netfilter, Missing):
            self._doubt(view, str(stage), unread_text(view, "netfilter"), packet)
        if self.direction is Direction.FORWARD and result.packet.dst != packet.dst:
            self._retarget(result.packet)
        if result.verdict is FilterVerdict.ACCEPT:
            if result.trail or result.nats or result.packet != packet:
                nats = "; ".join(_nat_text(each) for each in result.nats)
                self._add(Step(text=f"{name} accepts" + (f"; {nats}" if nats else ""), **facts))
            return result
        if result.verdict is FilterVerdict.UNKNOWN:
            self._stop(Step(text=f"{name}: a match cannot be evaluated", outcome=Outcome.UNKNOWN, **facts))
            return result
        rule = result.decided_by
        what = f"{rule.table} {rule.chain}: {rule.text}" if rule is not None else "a rule"
        self._stop(
            Step(text=f"{name} {result.verdict}s: {what}", outcome=Outcome.DROP, reason=Reason.FILTERED, **facts)
        )
        if result.verdict is FilterVerdict.STOLEN:
            raise _End
        return result

    def _retarget(self, packet: Packet) -> None:
        """Take the container that a packet for the host is translated to for the destination that it has."""
        owner = self.world.owner_of_address(packet.dst)
        if self.flow.dst.netns != self.world.host or owner is None or owner[0].netns is None:
            return
        if owner[0].netns != self.world.host:
            self.places.dst = owner[0].netns

    def _device_hook(self, view: View, hook: Hook, device: Link, packet: Packet) -> Packet:
        """Run what nft has at a device itself: behind packet sockets on the way in, before them on the way out.

        See nf_ingress in __netif_receive_skb_core and nf_hook_egress in __dev_queue_xmit (net/core/dev.c).
        """
        if not view.ruleset.base_chains("netdev", hook):
            return packet
        iif, oif = (device.name, None) if hook is Hook.INGRESS else (None, device.name)
        stage = self.places.device(view, device)
        return self._hook(view, hook, packet, Tracking(), stage, family="netdev", iif=iif, oif=oif).packet

    def _depart(self, view: View, out: Link, packet: Packet) -> Packet:
        """Run what a frame meets at a device before packet sockets see it leave (__dev_queue_xmit)."""
        packet = self._device_hook(view, Hook.EGRESS, out, packet)
        self._traffic_control(view, out, traffic.Place.EGRESS, packet)
        return packet

    def _traffic_control(self, view: View, device: Link, place: traffic.Place, packet: Packet) -> None:
        """Record what traffic control or an XDP program does with a frame at a device, or may do."""
        if not device.tc and device.xdp is None:
            return
        protocol, length = traffic.of_family(packet.family), packet.length + traffic.ETHERNET_HEADER
        found = traffic.met(device, place, protocol=protocol, length=length, find=view.by_name.get)
        if found is None:
            return
        self._stop(
            Step(
                kind=StepKind.TC,
                netns=view.id,
                segment=self.places.device(view, device),
                text=f"{view.name}: {found.why}",
                packet=packet,
                outcome=found.outcome,
                reason=Reason.TC_DROP,
                device=device.name,
                ifindex=device.ifindex,
                link=device,
                program=found.program,
            )
        )

    def _doubt(self, view: View, stage: str, text: str, packet: Packet) -> None:
        """Record that the model cannot tell from here on, and go on as if the packet passed."""
        self._stop(self._step(view, StepKind.SEND, stage, text, packet, outcome=Outcome.UNKNOWN))

    def _lost(self, view: View, stage: str, text: str, packet: Packet) -> NoReturn:
        """Record that the model cannot tell where the packet goes."""
        self._doubt(view, stage, text, packet)
        self._finish(LegEnd.UNKNOWN)

    @staticmethod
    def _name(view: View, ifindex: int | None) -> str | None:
        return view.links[ifindex].name if ifindex is not None and ifindex in view.links else None


#: How a resolution ends for which somebody is asked.
_ASKED = (neigh.Resolved.OWNER, neigh.Resolved.NOBODY, neigh.Resolved.IGNORED)
#: What a rule of a bridge's hook did that changes whom the frame is for.
_REWRITES = re.compile(r"set ether daddr")


def _home(leg: Leg, flow: Flow) -> Leg:
    """Return an answer that leaves for a sender beyond this host as one that came home, if that can take it for one."""
    last = leg.steps[-1] if leg.steps else None
    if leg.end is not LegEnd.LEFT or last is None:
        return leg
    packet = last.packet
    own = packet.dst == flow.src.address and packet.src == flow.dst.address
    ports = flow.proto is Proto.ICMP or packet.sport == flow.dport
    return replace(leg, end=LegEnd.ARRIVED if own and ports else LegEnd.UNKNOWN)


def _forwarding_of_all(view: View, family: int) -> int:
    default = view.number("net.ipv4.ip_forward", 0) if family == 4 else 0
    return view.conf(family, "all", "forwarding", default)


def _first_ttl(view: View, packet: Packet) -> int:
    """Return the TTL that a namespace's own packets begin with (ip4_dst_hoplimit)."""
    if packet.family == 4:
        return view.number("net.ipv4.ip_default_ttl", packet.ttl)
    # The device that it leaves by says (ip6_dst_hoplimit).
    found = routing.lookup(view, packet, src=None if packet.src.is_unspecified else packet.src)
    out = view.links.get(found.ifindex or 0)
    return view.conf(6, out.name, "hop_limit", packet.ttl) if out is not None else packet.ttl


def _asking(view: View, out: Link, address: IPAddress, packet: Packet) -> IPAddress:
    """Return the address that a next hop is asked for from: the packet's source if it is local (arp_solicit)."""
    if packet.family == 6:
        return packet.src
    announce = view.conf_max(4, out.name, "arp_announce", 0)
    near = any(packet.src in each.address.network for each in view.addresses.get(out.ifindex, ()))
    if routing.is_local(view, packet.src) and (announce == 0 or (announce == 1 and near)):
        return packet.src
    return routing.source_v4(view, out.ifindex, address, scope=routing.SCOPES["link"]) or packet.src


def _nat_text(nat: Any) -> str:
    parts = []
    if nat.new_src is not None:
        parts.append(f"source {nat.old_src} becomes {nat.new_src}")
    if nat.new_dst is not None:
        port = f":{nat.new_dport}" if nat.new_dport is not None else ""
        parts.append(f"destination {nat.old_dst} becomes {nat.new_dst}{port}")
    return ", ".join(parts)


def _unspecified(family: int) -> IPAddress:
    from ipaddress import IPv4Address, IPv6Address

    return IPv4Address(0) if family == 4 else IPv6Address(0)


def answer_to(packet: Packet, *, accepted: bool) -> Packet:
    """Return what a healthy far end sends back to a packet: echo reply, SYN-ACK, RST, or a datagram."""
    swapped = replace(
        packet,
        src=packet.dst,
        dst=packet.src,
        sport=packet.dport,
        dport=packet.sport,
        ttl=64,
        mark=0,
        src_mac=None,
        dst_mac=None,
        uid=None,
        gid=None,
    )
    if packet.proto in (1, 58):
        # icmp_sk_init: the kernel's own answers may be fragmented on their way.
        return replace(swapped, icmp_type=0 if packet.family == 4 else 129, df=packet.family == 6)
    if packet.proto == 6:
        return replace(swapped, tcp_flags=TCP_SYN_ACK if accepted else TCP_RST_ACK, length=60 if accepted else 40)
    return swapped


__all__ = ["answer_to", "predict"]
