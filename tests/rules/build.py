"""Hand-built hosts: a small one as in the plain lab, to be altered in one thing, and the pipeline that judges it.

A `Lab` is mutable, so that a test can break one thing in it with a function; `snapshot` freezes it. The host has
docker0 with app and web, net1 with c1 and c2 (IPv4 and IPv6), the uplink eth0, and the rules that Docker 20.10 writes.
`observed` makes up what a probe would have seen on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from msgspec.structs import replace

from nettrace._version import __version__
from nettrace.correlate import correlate
from nettrace.diagnose import diagnose
from nettrace.model.base import IPAddress, Missing, Present, Values
from nettrace.model.flow import EndpointKind, Flow, FlowEnd, Packet, Proto
from nettrace.model.intent import Container, Endpoint, Engine, Intent, Network, PublishedPort, Subnet
from nettrace.model.lookup import Lookup
from nettrace.model.observe import Observation, Open, Sent, Sighting, SightingKind, Way
from nettrace.model.path import Direction, StepKind, Trace
from nettrace.model.snapshot import (
    HOST_SHIFT,
    Address,
    BridgeInfo,
    BridgePort,
    ConntrackEntry,
    DumpFormat,
    FdbEntry,
    Gap,
    Host,
    Link,
    Namespace,
    Neighbour,
    NetfilterDump,
    NextHop,
    Peer,
    PolicyRule,
    Route,
    Snapshot,
    Socket,
    Vxlan,
)
from nettrace.model.verdict import Timing, Verdict
from nettrace.predict import predict
from nettrace.predict.world import DEFAULT_RULES
from nettrace.rules.case import Case
from nettrace.testimony import passings

#: The tables of a namespace that a collector may fail to read.
SECTIONS = (
    "links",
    "addresses",
    "routes",
    "rules",
    "neighbours",
    "fdb",
    "sockets",
    "conntrack",
    "netfilter",
    "sysctls",
    "counters",
)
REASON = "the kernel did not answer in time"
BRIDGE_MAC = {"docker0": "02:42:7f:3d:a1:5c", "br-net1": "02:42:19:c4:6e:83"}


@dataclass
class Box:
    """One namespace being built. `tables` are iptables-save lines by (backend, family) and table."""

    id: int
    name: str
    kind: str = "container"
    links: list[Link] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[PolicyRule] = field(default_factory=lambda: [*DEFAULT_RULES[4], *DEFAULT_RULES[6]])
    neighbours: list[Neighbour] = field(default_factory=list)
    fdb: list[FdbEntry] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    conntrack: list[ConntrackEntry] = field(default_factory=list)
    tables: dict[tuple[str, str], dict[str, list[str]]] = field(default_factory=dict)
    dumps: list[NetfilterDump] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    names: Lookup | Missing = field(default_factory=lambda: Missing(reason="not asked for"))

    # -- devices and addresses ---------------------------------------------------------------------------------

    def link(self, name: str) -> Link:
        return next(each for each in self.links if each.name == name)

    def edit(self, name: str, **changes: Any) -> None:
        """Change fields of a device."""
        self.links = [replace(each, **changes) if each.name == name else each for each in self.links]

    def edit_port(self, name: str, **changes: Any) -> None:
        """Change fields of a device as a bridge port."""
        self.edit(name, port=replace(self.link(name).port or BridgePort(), **changes))

    def down(self, name: str) -> None:
        """Set a device down, as the kernel does it: its routes go."""
        index = self.link(name).ifindex
        self.edit(name, up=False, lower_up=False, operstate="DOWN")
        self.routes = [
            each
            for each in self.routes
            if each.kind == "local" or not any(hop.ifindex == index for hop in each.nexthops)
        ]

    def hold(self, device: str, held: str, **facts: Any) -> None:
        """Give a device an address, with its local and connected routes."""
        index, address = self.link(device).ifindex, ip_interface(held)
        hop = (NextHop(ifindex=index),)
        self.addresses.append(Address(ifindex=index, address=address, **facts))
        own = ip_network(f"{address.ip}/{address.max_prefixlen}")
        self.routes.append(Route(table=255, dst=own, kind="local", nexthops=hop, scope="host", proto="kernel"))
        if address.network.prefixlen < address.max_prefixlen:
            source = address.ip if address.version == 4 else None
            if address.ip.is_loopback:  # the whole of 127.0.0.0/8 is local (fib_add_ifaddr)
                self.routes.append(Route(table=255, dst=address.network, kind="local", nexthops=hop, scope="host"))
                return
            self.routes.append(
                Route(table=254, dst=address.network, scope="link", proto="kernel", prefsrc=source, nexthops=hop)
            )

    def drop_address(self, held: str) -> None:
        """Take an address away, with its routes, and with those by gateways that it alone reached."""
        address = ip_interface(held)
        self.addresses = [each for each in self.addresses if each.address != address]
        self.routes = [
            each
            for each in self.routes
            if not (each.kind == "local" and each.dst.network_address == address.ip)
            and not (each.scope == "link" and each.dst == address.network)
            and not any(hop.gateway is not None and hop.gateway in address.network for hop in each.nexthops)
        ]

    def route(self, dst: str, *, dev: str | None = None, via: str | None = None, **facts: Any) -> Route:
        """Add a route; "default" and "default6" stand for everything."""
        everything = {"default": "0.0.0.0/0", "default6": "::/0"}
        hops = ()
        if dev is not None:
            gateway = ip_address(via) if via is not None else None
            hops = (NextHop(ifindex=self.link(dev).ifindex, gateway=gateway),)
        facts.setdefault("table", 254)
        route = Route(dst=ip_network(everything.get(dst, dst)), nexthops=hops, **facts)
        self.routes.append(route)
        return route

    def no_route(self, dst: str) -> None:
        """Delete the routes to a destination."""
        everything = {"default": "0.0.0.0/0", "default6": "::/0"}
        gone = ip_network(everything.get(dst, dst))
        self.routes = [each for each in self.routes if each.dst != gone or each.kind == "local"]

    def listen(self, port: int, address: str = "0.0.0.0", proto: str = "tcp", by: str | None = None) -> None:
        held = ip_address(address)
        state = "LISTEN" if proto == "tcp" else "UNCONN"
        process = (by,) if by is not None else ()
        self.sockets.append(
            Socket(proto=proto, family=held.version, address=held, port=port, state=state, process=process)
        )

    # -- netfilter ---------------------------------------------------------------------------------------------

    def chain(self, table: str, *lines: str, family: str = "ip", backend: str = "nft") -> list[str]:
        """Return the lines of a table for editing, with lines added last."""
        found = self.tables.setdefault((backend, family), {}).setdefault(table, [])
        found.extend(lines)
        return found

    def insert(self, table: str, line: str, family: str = "ip", backend: str = "nft") -> None:
        """Put a rule before all others of its table."""
        lines = self.chain(table, family=family, backend=backend)
        first = next((index for index, each in enumerate(lines) if each.startswith("-A ")), len(lines))
        lines.insert(first, line)

    def delete(self, table: str, pattern: str, family: str = "ip") -> None:
        """Delete the rules of a table that a pattern fits; there must be one."""
        lines = self.chain(table, family=family)
        kept = [each for each in lines if not (each.startswith("-A ") and re.search(pattern, each))]
        assert len(kept) < len(lines), pattern
        lines[:] = kept

    def policy(self, chain: str, verdict: str, family: str = "ip") -> None:
        lines = self.chain("filter", family=family)
        lines[:] = [f":{chain} {verdict}" if each.startswith(f":{chain} ") else each for each in lines]

    def set(self, **values: str) -> None:
        """Set sysctls; "ipv4__conf__all__rp_filter" stands for net.ipv4.conf.all.rp_filter."""
        self.sysctls.update({f"net.{name.replace('__', '.')}": value for name, value in values.items()})

    # -- frozen ------------------------------------------------------------------------------------------------

    def namespace(self) -> Namespace:
        dumps = [
            NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend=backend, family=family, text=_save(tables))
            for (backend, family), tables in self.tables.items()
        ]
        sections: dict[str, Any] = {
            "links": Present(rows=tuple(self.links)),
            "addresses": Present(rows=tuple(self.addresses)),
            "routes": Present(rows=tuple(self.routes)),
            "rules": Present(rows=tuple(self.rules)),
            "neighbours": Present(rows=tuple(self.neighbours)),
            "fdb": Present(rows=tuple(self.fdb)),
            "sockets": Present(rows=tuple(self.sockets)),
            "conntrack": Present(rows=tuple(self.conntrack)),
            "netfilter": Present(rows=(*dumps, *self.dumps)),
            "sysctls": Values(values=dict(self.sysctls)),
            "counters": Values(values=dict(self.counters)),
            "names": self.names,
        }
        sections.update({section: Missing(reason=REASON) for section in self.missing})
        return Namespace(id=self.id, name=self.name, kind=self.kind, **sections)


def _save(tables: dict[str, list[str]]) -> str:
    out = []
    for table, lines in tables.items():
        body = [f"{each} [0:0]" if each.startswith(":") else f"[0:0] {each}" for each in lines]
        out += [f"*{table}", *body, "COMMIT"]
    return "\n".join(out) + "\n"


@dataclass
class Lab:
    """A host being built, with what its engine meant."""

    boxes: dict[str, Box] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    engine: Engine | None = field(
        default_factory=lambda: Engine(name="docker", version="20.10.24", endpoint="unix:///S", iptables=True)
    )
    gaps: list[Gap] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)

    @property
    def host(self) -> Box:
        return self.boxes["host"]

    def __getitem__(self, name: str) -> Box:
        return self.boxes[name]

    def snapshot(self) -> Snapshot:
        gaps = [
            Gap(section=section, netns=box.name, reason=REASON)
            for box in self.boxes.values()
            for section in sorted(box.missing)
        ]
        return Snapshot(
            host=Host(kernel="6.18.0", engine="docker 20.10.24" if self.engine else None),
            host_netns=self.host.id,
            namespaces=tuple(box.namespace() for box in self.boxes.values()),
            intent=Intent(
                engines=(self.engine,) if self.engine is not None else (),
                networks=tuple(self.networks.values()),
                containers=tuple(self.containers.values()),
            ),
            gaps=(*self.gaps, *gaps),
            peers=tuple(self.peers),
        )

    def lose(self, section: str, box: str | None = None) -> None:
        """Mark a section as not read, as the collector does: of one namespace, or what the engine meant."""
        if section == "intent":
            self.engine, self.networks, self.containers = None, {}, {}
            self.gaps.append(Gap(section="intent", netns=None, reason=REASON))
        else:
            self.boxes[box or "host"].missing.add(section)

    def network(self, name: str, **changes: Any) -> None:
        """Change what the engine meant with a network."""
        self.networks[name] = replace(self.networks[name], **changes)

    def container(self, name: str, **changes: Any) -> None:
        """Change what the engine meant with a container."""
        self.containers[name] = replace(self.containers[name], **changes)

    def publish(self, name: str, port: int, to: int, host_ip: str = "0.0.0.0", proto: str = "tcp") -> None:
        """Publish a container's port, with the rules that Docker writes for it."""
        held = self.containers[name].endpoints[0].ipv4
        bridge = self.networks[self.containers[name].endpoints[0].network].bridge
        assert held is not None
        at = "" if host_ip == "0.0.0.0" else f"-d {host_ip}/32 "
        self.host.chain(
            "nat",
            f"-A DOCKER {at}! -i {bridge} -p {proto} -m {proto} --dport {port} -j DNAT --to-destination {held.ip}:{to}",
        )
        self.host.chain(
            "filter",
            f"-A DOCKER -d {held.ip}/32 ! -i {bridge} -o {bridge} -p {proto} -m {proto} --dport {to} -j ACCEPT",
        )
        published = PublishedPort(proto=proto, container_port=to, host_ip=ip_address(host_ip), host_port=port)
        self.container(name, ports=(*self.containers[name].ports, published))

    def attach(self, name: str, network: str, held: str, held6: str | None = None, *, index: int) -> None:
        """Hang a container on a bridge network: a veth pair, addresses, default routes, and the endpoint."""
        net = self.networks[network]
        box = self.boxes.get(name) or Box(id=2000 + index, name=name)
        if name not in self.boxes:
            self.boxes[name] = box
            box.links.append(Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536))
            box.hold("lo", "127.0.0.1/8", scope="host")
            box.hold("lo", "::1/128", scope="host")
            box.sysctls = dict(SYSCTLS)
        bridge = self.host.link(net.bridge or "")
        address = ip_interface(held)
        octets = address.ip.packed
        mac = "02:42:" + ":".join(f"{each:02x}" for each in octets)
        device = f"eth{sum(each.name.startswith('eth') for each in box.links)}"
        box.links.append(
            Link(
                ifindex=index,
                name=device,
                kind="veth",
                mac=mac,
                operstate="UP",
                peer_ifindex=index + 1,
                peer_netns=self.host.id,
            )
        )
        self.host.links.append(
            Link(
                ifindex=index + 1,
                name=f"veth-{name}" if device == "eth0" else f"veth-{name}-{device}",
                kind="veth",
                mac=f"5e:00:00:00:00:{index:02x}",
                operstate="UP",
                peer_ifindex=index,
                peer_netns=box.id,
                master=bridge.ifindex,
                port=BridgePort(),
            )
        )
        box.hold(device, held)
        gateways = {each.subnet.version: each.gateway for each in net.subnets}
        if gateways.get(4) and not net.internal and device == "eth0":
            box.route("default", dev=device, via=str(gateways[4]))
        if held6 is not None:
            box.hold(device, held6)
            if device == "eth0":
                box.route("default6", dev=device, via=str(gateways[6]))
        endpoint = Endpoint(
            network=network,
            network_id=net.id,
            mac=mac,
            ipv4=address,
            ipv6=ip_interface(held6) if held6 is not None else None,
            gateway=gateways.get(4),
            gateway6=gateways.get(6),
        )
        known = self.containers.get(name) or Container(
            id=f"{name}-id", name=name, engine="docker", pid=14000 + index, netns=box.id, mode=network
        )
        self.containers[name] = replace(known, endpoints=(*known.endpoints, endpoint))


SYSCTLS = {
    "net.ipv4.ip_forward": "0",
    "net.ipv4.conf.all.forwarding": "0",
    "net.ipv6.conf.all.forwarding": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}


def plain_lab() -> Lab:
    """Return a healthy host with Docker's two bridges, four containers, and port 8080 of web published."""
    host = Box(id=1000, name="host", kind="host")
    lab = Lab(boxes={"host": host})
    host.links = [
        Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536),
        Link(ifindex=2, name="eth0", mac="52:54:00:00:00:02", operstate="UP"),
        Link(ifindex=3, name="docker0", kind="bridge", mac=BRIDGE_MAC["docker0"], operstate="UP", bridge=BridgeInfo()),
        Link(ifindex=4, name="br-net1", kind="bridge", mac=BRIDGE_MAC["br-net1"], operstate="UP", bridge=BridgeInfo()),
    ]
    host.fdb = [
        FdbEntry(ifindex=index, mac=BRIDGE_MAC[name], master=index, state="permanent", local=True)
        for index, name in ((3, "docker0"), (4, "br-net1"))
    ]
    host.hold("lo", "127.0.0.1/8", scope="host")
    host.hold("lo", "::1/128", scope="host")
    host.hold("eth0", "203.0.113.2/24")
    host.hold("eth0", "2001:db8:1::2/64")
    host.hold("docker0", "172.17.0.1/16")
    host.hold("br-net1", "172.18.0.1/16")
    host.hold("br-net1", "fd00:18::1/64")
    host.route("default", dev="eth0", via="203.0.113.1")
    host.route("default6", dev="eth0", via="2001:db8:1::1")
    host.sysctls = dict(SYSCTLS)
    host.set(ipv4__ip_forward="1", ipv4__conf__all__forwarding="1", ipv6__conf__all__forwarding="1")
    for device in ("lo", "eth0", "docker0", "br-net1"):
        host.sysctls[f"net.ipv4.conf.{device}.forwarding"] = "1"
        host.sysctls[f"net.ipv6.conf.{device}.forwarding"] = "1"
    lab.networks["bridge"] = Network(
        id="net-bridge",
        name="bridge",
        driver="bridge",
        engine="docker",
        bridge="docker0",
        icc=True,
        masquerade=True,
        subnets=(Subnet(subnet=ip_network("172.17.0.0/16"), gateway=ip_address("172.17.0.1")),),
    )
    lab.networks["net1"] = Network(
        id="net-net1",
        name="net1",
        driver="bridge",
        engine="docker",
        bridge="br-net1",
        ipv6=True,
        subnets=(
            Subnet(subnet=ip_network("172.18.0.0/16"), gateway=ip_address("172.18.0.1")),
            Subnet(subnet=ip_network("fd00:18::/64"), gateway=ip_address("fd00:18::1")),
        ),
    )
    lab.attach("app", "bridge", "172.17.0.2/16", index=10)
    lab.attach("web", "bridge", "172.17.0.3/16", index=12)
    lab.attach("c1", "net1", "172.18.0.2/16", "fd00:18::2/64", index=14)
    lab.attach("c2", "net1", "172.18.0.3/16", "fd00:18::3/64", index=16)
    lab["web"].listen(80)
    docker_rules(host)
    lab.publish("web", 8080, 80)
    return lab


def docker_rules(host: Box, bridges: tuple[tuple[str, str, str | None], ...] = ()) -> None:
    """Write the rules of Docker 20.10 for both bridges; for IPv6 a masquerade and accepts alone."""
    bridges = bridges or (("docker0", "172.17.0.0/16", None), ("br-net1", "172.18.0.0/16", "fd00:18::/64"))
    for family in ("ip", "ip6"):
        host.chain(
            "filter",
            *(":INPUT ACCEPT", ":FORWARD DROP", ":OUTPUT ACCEPT", ":DOCKER -", ":DOCKER-USER -"),
            *(":DOCKER-ISOLATION-STAGE-1 -", ":DOCKER-ISOLATION-STAGE-2 -"),
            *("-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-ISOLATION-STAGE-1"),
            family=family,
        )
        host.chain(
            "nat",
            *(":PREROUTING ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ":DOCKER -"),
            *("-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",),
            f"-A OUTPUT ! -d {'127.0.0.0/8' if family == 'ip' else '::1/128'} -m addrtype --dst-type LOCAL -j DOCKER",
            family=family,
        )
        for bridge, v4, v6 in bridges:
            subnet = v4 if family == "ip" else v6
            if subnet is None:
                continue
            host.chain(
                "filter",
                f"-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                f"-A FORWARD -o {bridge} -j DOCKER",
                f"-A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT",
                f"-A FORWARD -i {bridge} -o {bridge} -j ACCEPT",
                f"-A DOCKER-ISOLATION-STAGE-1 -i {bridge} ! -o {bridge} -j DOCKER-ISOLATION-STAGE-2",
                f"-A DOCKER-ISOLATION-STAGE-2 -o {bridge} -j DROP",
                family=family,
            )
            host.chain("nat", f"-A POSTROUTING -s {subnet} ! -o {bridge} -j MASQUERADE", family=family)
        host.chain("filter", "-A DOCKER-USER -j RETURN", family=family)


REMOTE_MAC = "02:42:0a:00:09:03"


def overlay_lab() -> Lab:
    """Return a host whose container o1 hangs on an overlay; 10.0.9.3 is a container on the host 203.0.113.3."""
    host = Box(id=1000, name="host", kind="host", sysctls=dict(SYSCTLS))
    hidden = Box(id=4000, name="1-ov", kind="overlay", sysctls=dict(SYSCTLS))
    app = Box(id=4001, name="o1", sysctls=dict(SYSCTLS))
    lab = Lab(boxes={"host": host, "1-ov": hidden, "o1": app})
    for box in (host, hidden, app):
        box.links = [Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536)]
        box.hold("lo", "127.0.0.1/8", scope="host")
    host.links.append(Link(ifindex=2, name="eth0", mac="52:54:00:00:00:02", operstate="UP"))
    host.hold("eth0", "203.0.113.2/24")
    host.route("default", dev="eth0", via="203.0.113.1")
    host.tables["nft", "ip"] = {
        "raw": [":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"],
        "filter": [":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"],
        "nat": [f":{hook} ACCEPT [0:0]" for hook in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")],
    }
    hidden.links += [
        Link(ifindex=2, name="br0", kind="bridge", mac="52:54:00:00:09:01", mtu=1450, bridge=BridgeInfo()),
        Link(
            ifindex=7, name="vxlan0", kind="vxlan", mac="52:54:00:00:09:07", mtu=1450, master=2, port=BridgePort(),
            vxlan=Vxlan(vni=4097, learning=False, proxy=True), peer_netns=host.id,
        ),
        Link(
            ifindex=9, name="veth0", kind="veth", mac="52:54:00:00:09:09", mtu=1450, master=2, port=BridgePort(),
            peer_ifindex=8, peer_netns=app.id,
        ),
    ]  # fmt: skip
    hidden.hold("br0", "10.0.9.1/24")
    hidden.fdb.append(FdbEntry(ifindex=7, mac=REMOTE_MAC, dst=ip_address("203.0.113.3"), state="permanent"))
    hidden.neighbours.append(Neighbour(ifindex=7, address=ip_address("10.0.9.3"), mac=REMOTE_MAC, state="PERMANENT"))
    app.links.append(
        Link(
            ifindex=8, name="eth0", kind="veth", mac="02:42:0a:00:09:02", mtu=1450,
            peer_ifindex=9, peer_netns=hidden.id,
        )
    )  # fmt: skip
    app.hold("eth0", "10.0.9.2/24")
    lab.networks["ov"] = Network(
        id="net-ov", name="ov", driver="overlay", engine="docker", scope="swarm",
        subnets=(Subnet(subnet=ip_network("10.0.9.0/24"), gateway=ip_address("10.0.9.1")),),
        vnis=(4097,), nodes=(ip_address("203.0.113.2"), ip_address("203.0.113.3")),
    )  # fmt: skip
    endpoint = Endpoint(
        network="ov", network_id="net-ov", mac="02:42:0a:00:09:02", ipv4=ip_interface("10.0.9.2/24"),
        gateway=ip_address("10.0.9.1"),
    )  # fmt: skip
    lab.containers["o1"] = Container(
        id="o1", name="o1", engine="docker", status="running", netns=app.id, endpoints=(endpoint,)
    )
    return lab


def two_hosts() -> Lab:
    """Return the overlay's lab with its other host b in it, which is asked too: o2 holds 10.0.9.3 there."""
    lab = overlay_lab()
    far = 1 << HOST_SHIFT
    host = Box(id=far + 1000, name="b:host", kind="host", sysctls=dict(SYSCTLS))
    hidden = Box(id=far + 4000, name="b:1-ov", kind="overlay", sysctls=dict(SYSCTLS))
    app = Box(id=far + 4001, name="b:o2", sysctls=dict(SYSCTLS))
    lab.boxes |= {each.name: each for each in (host, hidden, app)}
    for box in (host, hidden, app):
        box.links = [Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536)]
        box.hold("lo", "127.0.0.1/8", scope="host")
    host.links.append(Link(ifindex=2, name="eth0", mac="52:54:00:00:00:03", operstate="UP"))
    host.hold("eth0", "203.0.113.3/24")
    host.route("default", dev="eth0", via="203.0.113.1")
    host.tables["nft", "ip"] = {"filter": [":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]}
    hidden.links += [
        Link(ifindex=2, name="br0", kind="bridge", mac="52:54:00:00:19:01", mtu=1450, bridge=BridgeInfo()),
        Link(
            ifindex=7, name="vxlan0", kind="vxlan", mac="52:54:00:00:19:07", mtu=1450, master=2, port=BridgePort(),
            vxlan=Vxlan(vni=4097, proxy=True), peer_netns=host.id,
        ),
        Link(
            ifindex=9, name="veth0", kind="veth", mac="52:54:00:00:19:09", mtu=1450, master=2, port=BridgePort(),
            peer_ifindex=8, peer_netns=app.id,
        ),
    ]  # fmt: skip
    hidden.hold("br0", "10.0.9.1/24")
    near = "02:42:0a:00:09:02"
    hidden.fdb.append(FdbEntry(ifindex=7, mac=near, dst=ip_address("203.0.113.2"), state="permanent"))
    hidden.neighbours.append(Neighbour(ifindex=7, address=ip_address("10.0.9.2"), mac=near, state="PERMANENT"))
    app.links.append(
        Link(
            ifindex=8, name="eth0", kind="veth", mac=REMOTE_MAC, mtu=1450, peer_ifindex=9, peer_netns=hidden.id
        )
    )  # fmt: skip
    app.hold("eth0", "10.0.9.3/24")
    endpoint = Endpoint(network="ov", network_id="net-ov", mac=REMOTE_MAC, ipv4=ip_interface("10.0.9.3/24"))
    lab.containers["b:o2"] = Container(
        id="o2", name="b:o2", engine="docker", status="running", netns=app.id, endpoints=(endpoint,)
    )
    lab.peers = [Peer(name="b", number=1, host_netns=host.id, host=Host(kernel="6.18.0"))]
    return lab


def macvlan_lab() -> Lab:
    """Return a host without bridges whose containers m1 and m2 are macvlans in bridge mode on eth0."""
    host = Box(id=1000, name="host", kind="host", sysctls=dict(SYSCTLS))
    lab = Lab(boxes={"host": host})
    host.links = [
        Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536),
        Link(ifindex=2, name="eth0", mac="52:54:00:00:00:02", operstate="UP"),
    ]
    host.hold("lo", "127.0.0.1/8", scope="host")
    host.hold("eth0", "203.0.113.2/24")
    host.route("default", dev="eth0", via="203.0.113.1")
    lab.networks["mv"] = Network(
        id="net-mv",
        name="mv",
        driver="macvlan",
        engine="docker",
        parent="eth0",
        subnets=(Subnet(subnet=ip_network("203.0.113.0/24"), gateway=ip_address("203.0.113.1")),),
    )
    for number, name in ((1, "m1"), (2, "m2")):
        box = Box(id=3000 + number, name=name, sysctls=dict(SYSCTLS))
        lab.boxes[name] = box
        held, mac = ip_interface(f"203.0.113.{100 + number}/24"), f"02:42:cb:00:71:{100 + number:02x}"
        box.links = [
            Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536),
            Link(
                ifindex=20 + number,
                name="eth0",
                kind="macvlan",
                mac=mac,
                operstate="UP",
                macvlan_mode="bridge",
                peer_ifindex=2,
                peer_netns=host.id,
            ),
        ]
        box.hold("lo", "127.0.0.1/8", scope="host")
        box.hold("eth0", str(held))
        box.route("default", dev="eth0", via="203.0.113.1")
        endpoint = Endpoint(network="mv", network_id="net-mv", mac=mac, ipv4=held, gateway=ip_address("203.0.113.1"))
        lab.containers[name] = Container(
            id=f"{name}-id",
            name=name,
            engine="docker",
            pid=15000 + number,
            netns=box.id,
            mode="mv",
            endpoints=(endpoint,),
        )
    return lab


# --- the question ---------------------------------------------------------------------------------------------------


def ask(
    lab: Lab, src: str, dst: str, proto: str = "icmp", port: int | None = None, *, family: int = 4, **facts: Any
) -> Flow:
    """Return the flow that a question is resolved to: names of boxes, or addresses."""
    return Flow(
        src=_end(lab, src, family),
        dst=_end(lab, dst, family),
        proto=Proto(proto),
        dport=port,
        family=family,
        **facts,
    )


def _end(lab: Lab, name: str, family: int) -> FlowEnd:
    if name == "host":
        return FlowEnd(kind=EndpointKind.HOST, name=name, netns=lab.host.id)
    container = lab.containers.get(name)
    if container is not None:
        held: Any = next((each.ipv4 if family == 4 else each.ipv6 for each in container.endpoints), None)
        return FlowEnd(
            kind=EndpointKind.CONTAINER,
            name=name,
            id=container.id,
            netns=container.netns,
            address=held.ip if held is not None else None,
        )
    if name in lab.boxes:
        return FlowEnd(kind=EndpointKind.NETNS, name=name, netns=lab[name].id)
    address: IPAddress = ip_address(name)
    local = any(held.address.ip == address for held in lab.host.addresses)
    return FlowEnd(kind=EndpointKind.ADDRESS, name=name, address=address, netns=lab.host.id if local else None)


# --- the wire -------------------------------------------------------------------------------------------------------

Wire = Callable[[Trace], Observation]


def observed(
    *,
    until: str | None = None,
    reply: bool = False,
    reply_until: str | None = None,
    kind: SightingKind | None = None,
    icmp: tuple[int, int] | None = None,
    sender: str = "203.0.113.1",
    at: str | None = None,
    errno: int | None = None,
    unanswered: tuple[str, str] | None = None,
    arrived: bool = True,
) -> Wire:
    """Return a wire on which the probe is seen at the points of the forward leg up to and with `until`.

    Without `until`, or where the model does not lead there, it is seen at all of them.

    `reply`: its answer is seen back at the source, `reply_until` up to that point only. `kind`, `icmp` and `sender`:
    an error or reset of that sender, seen at `at` (the source's first point). `unanswered`: a point, and the address
    asked for there in vain. `arrived` false: the captures are open, and nothing at all is seen.
    """

    def wire(trace: Trace) -> Observation:
        order = {direction: _points(trace, direction) for direction in Direction}
        seen = order[Direction.FORWARD] if arrived else []
        if until in (known := [point for point, _packet, _way in seen]):
            seen = seen[: known.index(until) + 1]
        back = order[Direction.REPLY] if reply or reply_until is not None else []
        if reply_until in (known := [point for point, _packet, _way in back]):
            back = back[: known.index(reply_until) + 1]
        sightings = [
            Sighting(point=point, kind=SightingKind.PROBE, way=way, at_ns=100 + number, packet=packet, nonce=0)
            for number, (point, packet, way) in enumerate(seen)
        ]
        sightings += [
            Sighting(point=point, kind=SightingKind.REPLY, way=way, at_ns=200 + number, packet=packet, nonce=0)
            for number, (point, packet, way) in enumerate(back)
        ]
        first = trace.forward.steps[0].packet
        home = at or next((point.id for point in trace.points if point.netns == trace.flow.src.netns), "")
        if kind is not None:
            heard = Packet(
                family=first.family,
                src=ip_address(sender),
                dst=first.src,
                proto=6 if kind is SightingKind.RESET else 1,
                icmp_type=icmp[0] if icmp else None,
                icmp_code=icmp[1] if icmp else None,
            )
            sightings.append(Sighting(point=home, kind=kind, way=Way.IN, at_ns=300, packet=heard, nonce=0))
        if unanswered is not None:
            point, address = unanswered
            asked = ip_address(address)
            request = SightingKind.ARP_REQUEST if asked.version == 4 else SightingKind.NDP_SOLICIT
            packet = Packet(family=asked.version, src=first.src, dst=asked, proto=0)
            sightings.append(Sighting(point=point, kind=request, way=Way.OUT, at_ns=150, packet=packet))
        return Observation(
            captures=tuple(Open(point=point.id) for point in trace.points),
            sent=(Sent(nonce=0, at_ns=90, errno=errno),),
            sightings=tuple(sightings),
            timed_out=not reply,
        )

    return wire


def _points(trace: Trace, direction: Direction) -> list[tuple[str, Packet, Way]]:
    leg = trace.forward if direction is Direction.FORWARD else trace.reply
    found: dict[str, tuple[str, Packet, Way]] = {}
    for step in (*leg.steps, *leg.beyond) if leg is not None else ():
        if step.point is not None and step.kind in (StepKind.XMIT, StepKind.RECEIVE):
            way = Way.OUT if step.kind is StepKind.XMIT else Way.IN
            found.setdefault(step.point, (step.point, step.packet, way))
    return list(found.values())


def case_of(snapshot: Snapshot, flow: Flow, *, wire: Wire | None = None, after: Snapshot | None = None) -> Case:
    """Return what rules read of a question: predicted, and correlated with what the wire saw."""
    trace = predict(snapshot, flow)
    observation = wire(trace) if wire is not None else None
    looked = (snapshot, after) if after is not None else (snapshot,)
    told = passings(observation.testimony, *looked) if observation is not None else ()
    return Case(
        flow=flow,
        before=snapshot,
        after=after,
        trace=trace,
        correlation=correlate(trace, observation, told),
        observation=observation,
    )


def diagnose_case(
    snapshot: Snapshot, flow: Flow, *, wire: Wire | None = None, after: Snapshot | None = None
) -> Verdict:
    """Return the verdict of the whole pipeline: predict, correlate, rules, diagnose."""
    case = case_of(snapshot, flow, wire=wire, after=after)
    return diagnose(case, timing=Timing(total_s=0, collect_s=0, probe_s=0), version=__version__)
