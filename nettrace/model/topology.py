"""The whole host as `nettrace topo` shows it: schema nettrace.topo/1.

The JSON Schema in nettrace/data/topo.schema.json is generated from these types.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nettrace.model.base import Model
from nettrace.model.verdict import GapView, HostView

SCHEMA: Literal["nettrace.topo/1"] = "nettrace.topo/1"


class Interface(Model):
    """One device of one namespace. `name` reads as iproute2 has it, "eth0@if45"; addresses are "172.17.0.2/16".

    `peer` names the other end of a veth pair, or the parent of a macvlan, ipvlan or VLAN device, as
    "<namespace>/<device>"; None when there is none, or nobody here can see it. `master` is the bridge that the device
    is a port of, and `network` the engine's network that it carries.
    """

    device: str
    name: str
    ifindex: int
    kind: str
    up: bool
    mtu: int
    mac: str | None = None
    addresses: tuple[str, ...] = ()
    peer: str | None = None
    peer_ifindex: int | None = None
    master: str | None = None
    network: str | None = None


class Box(Model):
    """One namespace with what is in it: the host's, a container's, an overlay's or any other that has a name.

    `netns` is its inode; None for a container that has none (it does not run, or its namespace cannot be seen).
    `joined` names the container whose namespace this one shares; its devices are listed there. `ports` are published
    ports, "0.0.0.0:8080 → 80/tcp". `gateways` are next hops of default routes, "172.17.0.1 dev eth0".
    """

    name: str
    kind: str
    netns: int | None = None
    id: str | None = None
    engine: str | None = None
    status: str | None = None
    mode: str | None = None
    joined: str | None = None
    interfaces: tuple[Interface, ...] = ()
    gateways: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()


class NetworkView(Model):
    """One network of an engine. `subnets` read "172.17.0.0/16 via 172.17.0.1".

    `options` are those that mean something for the way of packets, in Docker's words (icc, masquerade, mtu,
    internal …); what the engine left to its default is left out. `members` are names of containers.
    """

    name: str
    id: str
    engine: str
    driver: str
    scope: str
    subnets: tuple[str, ...] = ()
    bridge: str | None = None
    parent: str | None = None
    options: dict[str, str] = msgspec.field(default_factory=dict)
    members: tuple[str, ...] = ()


class Difference(Model):
    """One thing that the kernel holds otherwise than the engine meant it. `at` is "<namespace>/<device>" or a name."""

    at: str
    meant: str
    found: str


class Topology(Model):
    """The whole host."""

    host: HostView
    networks: tuple[NetworkView, ...]
    boxes: tuple[Box, ...]
    differences: tuple[Difference, ...]
    gaps: tuple[GapView, ...]
    schema: Literal["nettrace.topo/1"] = SCHEMA
