"""What a rule may read: both snapshots, the trace, the correlation, and what moved between the snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from nettrace.correlate import Blocker, Correlation
from nettrace.model.flow import Flow, FlowEnd
from nettrace.model.intent import Container, Endpoint, Engine, Network
from nettrace.model.lookup import Lookup
from nettrace.model.netfilter import RuleRef
from nettrace.model.observe import Observation
from nettrace.model.path import Direction, Step, Trace
from nettrace.model.snapshot import Link, Snapshot
from nettrace.predict.world import View, World

if TYPE_CHECKING:
    from nettrace.rules.asked import Lost


class Case(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that is known about one question."""

    flow: Flow
    before: Snapshot
    after: Snapshot | None
    trace: Trace
    correlation: Correlation
    observation: Observation | None

    @cached_property
    def world(self) -> World:
        """The snapshot taken before the probe, indexed."""
        return World(self.before)

    @cached_property
    def world_after(self) -> World | None:
        """The snapshot taken after the probe, indexed."""
        return World(self.after) if self.after is not None else None

    @cached_property
    def codes(self) -> dict[int, str]:
        """What rules have worked out about netfilter drops: the code of each, by its step's identity."""
        return {}

    @cached_property
    def lost_ask(self) -> Lost | None:
        """The ARP or NDP request whose loss is why a packet is lost on the wire, None when there is none."""
        from nettrace.rules.asked import find_lost_ask

        return find_lost_ask(self)

    @property
    def blockers(self) -> tuple[Blocker, ...]:
        """What stops the flow, first the cause."""
        return self.correlation.blockers

    def view(self, netns: int | None) -> View | None:
        """Return a namespace's view, None when it was not read."""
        return self.world.view(netns) if netns is not None else None

    @property
    def host(self) -> View | None:
        """The host's namespace."""
        return self.world.view(self.world.host)

    @property
    def lookup(self) -> Lookup | None:
        """What became of the destination's name, None when it was not given as one."""
        found = [ns.names for ns in self.before.namespaces if isinstance(ns.names, Lookup)]
        return found[0] if found else None

    def container_of(self, end: FlowEnd) -> Container | None:
        """Return the engine's container at an end of the flow: by id, or by its namespace or address.

        For one that shares another's network it is that other one, whose interface it is, as long as both are there.
        """
        intent = self.before.intent
        if end.id is not None and (found := intent.container(end.id)) is not None:
            return intent.sharing(found) or found
        if end.netns is not None and end.netns in self.world.containers:
            return self.world.containers[end.netns]
        owner = self.world.owner_of_address(end.address) if end.address is not None else None
        return owner[0] if owner is not None else None

    def attachments(self, container: Container | None) -> Iterator[tuple[Endpoint, Network]]:
        """Yield a container's endpoints with their networks."""
        for endpoint in container.endpoints if container is not None else ():
            network = self.before.intent.network(endpoint.network_id)
            if network is not None:
                yield endpoint, network

    def network_of_bridge(self, bridge: str) -> Network | None:
        """Return the engine's network whose host bridge has that name."""
        return next((net for net in self.before.intent.networks if net.bridge == bridge), None)

    @property
    def engine(self) -> Engine | None:
        """The engine that the flow is about: of its containers, or of the port that it asks for; else the first."""
        engines = self.before.intent.engines
        if len(engines) > 1:
            containers = [self.container_of(self.flow.src), self.container_of(self.flow.dst)]
            containers += [
                each
                for each in self.before.intent.containers
                if any((port.proto, port.host_port) == (self.flow.proto, self.flow.dport) for port in each.ports)
            ]
            for container in containers:
                for engine in engines:
                    if container is not None and engine.name == container.engine:
                        return engine
        return engines[0] if engines else None

    def link_of(self, view: View, endpoint: Endpoint) -> Link | None:
        """Return the interface of a namespace that carries an endpoint: by MAC, else by address."""
        for link in view.links.values():
            if endpoint.mac is not None and link.mac == endpoint.mac:
                return link
        wanted = {held.ip for held in (endpoint.ipv4, endpoint.ipv6) if held is not None}
        for ifindex, held_here in view.addresses.items():
            if any(each.address.ip in wanted for each in held_here):
                return view.links.get(ifindex)
        return None

    def steps(self, direction: Direction) -> tuple[Step, ...]:
        """Return every step of a leg, those beyond its stop too."""
        leg = self.trace.forward if direction is Direction.FORWARD else self.trace.reply
        return (*leg.steps, *leg.beyond) if leg is not None else ()

    def peer_of(self, view: View, link: Link) -> tuple[View, Link] | None:
        """Return the other end of a veth pair, when its namespace was read."""
        return self.world.far_end(view, link)

    @cached_property
    def moved(self) -> tuple[tuple[int, RuleRef, int], ...]:
        """Rules and policies whose packet counter rose during the probe: (netns, rule as after, by how much)."""
        if self.world_after is None:
            return ()
        moved: list[tuple[int, RuleRef, int]] = []
        for netns, view in self.world.views.items():
            later = self.world_after.view(netns)
            if later is None:
                continue
            old = {_identity(ref): ref.packets for ref in _refs(view)}
            for ref in _refs(later):
                past = old.get(_identity(ref))
                if ref.packets is not None and past is not None and ref.packets > past:
                    moved.append((netns, ref, ref.packets - past))
        return tuple(moved)

    def rise(self, netns: int, ref: RuleRef) -> int | None:
        """Return by how much a rule's counter rose during the probe, None when that is unknown."""
        if self.world_after is None:
            return None
        return next((by for where, rule, by in self.moved if where == netns and _identity(rule) == _identity(ref)), 0)

    def counter_rise(self, netns: int, name: str) -> int:
        """Return by how much a namespace's counter ("Ip.InNoRoutes") rose during the probe; 0 when it is unknown."""
        from nettrace.model.base import Values

        before = self.before.namespace(netns)
        after = self.after.namespace(netns) if self.after is not None else None
        if before is None or after is None:
            return 0
        if not isinstance(before.counters, Values) or not isinstance(after.counters, Values):
            return 0
        return after.counters.values.get(name, 0) - before.counters.values.get(name, 0)


def _refs(view: View) -> Iterator[RuleRef]:
    for table in view.ruleset.tables:
        for chain in table.chains.values():
            yield chain.ref
            for rule in chain.rules:
                yield rule.ref


def _identity(ref: RuleRef) -> tuple[object, ...]:
    return ref.backend, ref.family, ref.table, ref.chain, ref.index, ref.text
