"""A lab without an engine: namespaces wired as Docker 20.10 wires docker0 and one user network.

    host    docker0 172.17.0.1/16          ports veth7d1c0a2 (ifindex 45) and veth3b9e4f1
            br-5a0c6e2d9b17 172.18.0.1/16 and fd00:18::1/64, port vethe81f6c3
    app     c5ff39f37596  eth0@if45 172.17.0.2/16
    web     eth0 172.17.0.3/16, listens on TCP 80, published as 8080
    c1      eth0 172.18.0.2/16 and fd00:18::2/64

The names and ids are those that a real engine could have given, so the rest of nettrace needs no special case.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from nettrace._version import __version__
from nettrace.lab.state import NamespaceState, Process, state_dir
from nettrace.lab.system import ADMIN_PATH, enter, ip_batch, run, spawn, write_sysctls
from nettrace.lab.wiring import serve
from nettrace.model.base import Model
from nettrace.model.intent import Container, Endpoint, Engine, Intent, Network, PublishedPort, Subnet

__all__ = ["PARTS", "describe", "fill", "host_wiring", "load_rules"]


class PlainNetwork(Model):
    """One bridge network of the plain lab."""

    id: str
    name: str
    bridge: str
    ifindex: int
    mac: str
    subnet: str
    gateway: str
    subnet6: str | None = None
    gateway6: str | None = None


class PlainContainer(Model):
    """One container of the plain lab, with the interface indexes that its veth's ends get."""

    id: str
    name: str
    network: PlainNetwork
    veth: str
    veth_index: int
    eth0_index: int
    mac: str
    address: str
    address6: str | None = None
    published: tuple[int, int] | None = None


BRIDGE = PlainNetwork(
    id="0f3ab7d25c91e8844d6a7be3190c5f62d8e4471ba6903cf58e217d04b96a3c1e",
    name="bridge",
    bridge="docker0",
    ifindex=3,
    mac="02:42:7f:3d:a1:5c",
    subnet="172.17.0.0/16",
    gateway="172.17.0.1",
)
NET1 = PlainNetwork(
    id="5a0c6e2d9b17f4a83e60d2c791b85e3f4a7610dc29e8b35f60714ac8d29e5b03",
    name="net1",
    bridge="br-5a0c6e2d9b17",
    ifindex=4,
    mac="02:42:19:c4:6e:83",
    subnet="172.18.0.0/16",
    gateway="172.18.0.1",
    subnet6="fd00:18::/64",
    gateway6="fd00:18::1",
)
NETWORKS = (BRIDGE, NET1)
CONTAINERS = (
    PlainContainer(
        id="c5ff39f3759627a4be81d05f6c3a9e72b4d8160f5ea9c73d2b48f01e6d957a3c",
        name="app",
        network=BRIDGE,
        veth="veth7d1c0a2",
        veth_index=45,
        eth0_index=44,
        mac="02:42:ac:11:00:02",
        address="172.17.0.2",
    ),
    PlainContainer(
        id="91d4b06ea7f8c23559e10b7d4a6f83c2e95d071b8c64fa3e20d79b5861fe4c0a",
        name="web",
        network=BRIDGE,
        veth="veth3b9e4f1",
        veth_index=47,
        eth0_index=46,
        mac="02:42:ac:11:00:03",
        address="172.17.0.3",
        published=(8080, 80),
    ),
    PlainContainer(
        id="2e7ac8f15d3b90647fe2a15c8db3e6904a17c5f08e2d6b93a4f75c01d8e936b2",
        name="c1",
        network=NET1,
        veth="vethe81f6c3",
        veth_index=49,
        eth0_index=48,
        mac="02:42:ac:12:00:02",
        address="172.18.0.2",
        address6="fd00:18::2",
    ),
)
PARTS = tuple(container.name for container in CONTAINERS)


def host_wiring(containers: dict[str, NamespaceState]) -> list[str]:
    """Return the `ip` commands that make the bridges and the veth pairs in the host's namespace."""
    commands = []
    for net in NETWORKS:
        commands += [
            f"link add {net.bridge} address {net.mac} index {net.ifindex} type bridge",
            f"addr add {net.gateway}/{ip_network(net.subnet).prefixlen} broadcast + dev {net.bridge}",
            f"link set {net.bridge} up",
        ]
        if net.gateway6:
            commands.append(f"addr add {net.gateway6}/64 dev {net.bridge} nodad")
    for each in CONTAINERS:
        commands += [
            f"link add {each.veth} index {each.veth_index} type veth "
            f"peer name eth0 index {each.eth0_index} address {each.mac} netns {containers[each.name].name}",
            f"link set {each.veth} master {each.network.bridge} up",
        ]
    return commands


def before_wiring(containers: dict[str, NamespaceState]) -> None:
    """Switch IPv6 off in the containers whose network has none, before their interface appears, as Docker does."""
    for each in CONTAINERS:
        if each.address6 is None:
            write_sysctls(containers[each.name].path, {"net.ipv6.conf.default.disable_ipv6": "1"})


def container_wiring(container: PlainContainer) -> list[str]:
    """Return the `ip` commands that give one container its addresses and routes."""
    net = container.network
    commands = [
        "link set lo up",
        f"addr add {container.address}/{ip_network(net.subnet).prefixlen} broadcast + dev eth0",
    ]
    if container.address6:
        commands.append(f"addr add {container.address6}/64 dev eth0 nodad")
    commands += ["link set eth0 up", f"route add default via {net.gateway} dev eth0"]
    if net.gateway6:
        commands.append(f"route add default via {net.gateway6} dev eth0")
    return commands


def ruleset(family: int) -> str:
    """Return the rules of dockerd 20.10 for these networks as iptables-restore reads them, for one address family."""
    nets = [net for net in reversed(NETWORKS) if family == 4 or net.subnet6]
    published = [each for each in CONTAINERS if each.published and family == 4]
    loopback = "127.0.0.0/8" if family == 4 else "::1/128"
    lines = ["*nat", ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ":DOCKER -"]
    lines += [
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        f"-A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER",
    ]
    for net in nets:
        lines.append(f"-A POSTROUTING -s {net.subnet if family == 4 else net.subnet6} ! -o {net.bridge} -j MASQUERADE")
    for each in published:
        assert each.published is not None
        lines.append(
            f"-A POSTROUTING -s {each.address}/32 -d {each.address}/32 -p tcp -m tcp --dport {each.published[1]} "
            "-j MASQUERADE"
        )
    lines += [f"-A DOCKER -i {net.bridge} -j RETURN" for net in nets]
    for each in published:
        assert each.published is not None
        lines.append(
            f"-A DOCKER ! -i {each.network.bridge} -p tcp -m tcp --dport {each.published[0]} "
            f"-j DNAT --to-destination {each.address}:{each.published[1]}"
        )
    lines += ["COMMIT", "*filter", ":INPUT ACCEPT", ":FORWARD DROP", ":OUTPUT ACCEPT", ":DOCKER -"]
    lines += [":DOCKER-ISOLATION-STAGE-1 -", ":DOCKER-ISOLATION-STAGE-2 -", ":DOCKER-USER -"]
    lines += ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-ISOLATION-STAGE-1"]
    for net in nets:
        lines += [
            f"-A FORWARD -o {net.bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            f"-A FORWARD -o {net.bridge} -j DOCKER",
            f"-A FORWARD -i {net.bridge} ! -o {net.bridge} -j ACCEPT",
            f"-A FORWARD -i {net.bridge} -o {net.bridge} -j ACCEPT",
        ]
    for each in published:
        assert each.published is not None
        bridge = each.network.bridge
        lines.append(
            f"-A DOCKER -d {each.address}/32 ! -i {bridge} -o {bridge} -p tcp -m tcp --dport {each.published[1]} "
            "-j ACCEPT"
        )
    for net in nets:
        lines.append(f"-A DOCKER-ISOLATION-STAGE-1 -i {net.bridge} ! -o {net.bridge} -j DOCKER-ISOLATION-STAGE-2")
    lines.append("-A DOCKER-ISOLATION-STAGE-1 -j RETURN")
    lines += [f"-A DOCKER-ISOLATION-STAGE-2 -o {net.bridge} -j DROP" for net in nets]
    lines += ["-A DOCKER-ISOLATION-STAGE-2 -j RETURN", "-A DOCKER-USER -j RETURN", "COMMIT"]
    return "\n".join(lines) + "\n"


def load_rules(host: NamespaceState, path: str) -> None:
    """Load the rules of both families in the host's namespace, with the iptables that `path` finds first."""
    for family, program in ((4, "iptables-restore"), (6, "ip6tables-restore")):
        argv = [*enter(host.path), program]
        run(argv, "loading the lab's rules", stdin=ruleset(family), env={"PATH": path})


def fill(lab: str, containers: dict[str, NamespaceState]) -> dict[str, Process]:
    """Give every container its addresses and its first process, and return the processes by container."""
    first = {}
    for each in CONTAINERS:
        where = containers[each.name]
        ip_batch(container_wiring(each), namespace=where.name)
        role = f"container-{each.name}"
        if each.published:
            first[each.name] = serve(lab, where, role, ["--http", f"0.0.0.0:{each.published[1]}"])
        else:
            argv = [*enter(where.path), "sleep", "infinity"]
            first[each.name] = spawn(argv, role, log=state_dir(lab) / f"{role}.log", env={"PATH": ADMIN_PATH})
    return first


def describe(lab: str, containers: dict[str, NamespaceState], first: dict[str, Process]) -> Intent:
    """Return what an engine would say about this lab."""
    engine = Engine(name="lab", version=__version__, endpoint=f"lab:{lab}", firewall_backend="iptables", iptables=True)
    networks = tuple(
        Network(
            id=net.id,
            name=net.name,
            driver="bridge",
            engine="lab",
            ipv6=net.subnet6 is not None,
            subnets=tuple(
                Subnet(subnet=ip_network(subnet), gateway=ip_address(gateway))
                for subnet, gateway in ((net.subnet, net.gateway), (net.subnet6, net.gateway6))
                if subnet and gateway
            ),
            bridge=net.bridge,
            icc=True if net is BRIDGE else None,
            masquerade=True if net is BRIDGE else None,
            mtu=1500 if net is BRIDGE else None,
            host_binding=ip_address("0.0.0.0") if net is BRIDGE else None,
            options={"com.docker.network.bridge.name": "docker0"} if net is BRIDGE else {},
        )
        for net in NETWORKS
    )
    return Intent(
        engines=(engine,),
        networks=networks,
        containers=tuple(_container(each, containers[each.name], first[each.name]) for each in CONTAINERS),
    )


def _container(each: PlainContainer, where: NamespaceState, process: Process) -> Container:
    net = each.network
    endpoint = Endpoint(
        network=net.name,
        network_id=net.id,
        endpoint_id=each.id[::-1],
        mac=each.mac,
        ipv4=ip_interface(f"{each.address}/{ip_network(net.subnet).prefixlen}"),
        ipv6=ip_interface(f"{each.address6}/64") if each.address6 else None,
        gateway=ip_address(net.gateway),
        gateway6=ip_address(net.gateway6) if net.gateway6 else None,
        aliases=(each.id[:12],),
    )
    ports: tuple[PublishedPort, ...] = ()
    if each.published:
        host_port, port = each.published
        ports = (PublishedPort(proto="tcp", container_port=port, host_ip=ip_address("0.0.0.0"), host_port=host_port),)
    return Container(
        id=each.id,
        name=each.name,
        engine="lab",
        pid=process.pid,
        netns=where.inode,
        mode=net.name,
        endpoints=(endpoint,),
        ports=ports,
    )
