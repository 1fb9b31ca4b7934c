"""What container engines meant: their networks, containers, endpoints and published ports."""

from __future__ import annotations

import msgspec

from nettrace.model.base import IPAddress, IPInterface, IPNetwork, Model


class Subnet(Model):
    """One IPAM pool of a network."""

    subnet: IPNetwork
    gateway: IPAddress | None = None


class Network(Model):
    """One engine network. Options that the engine left to its default are None; `bridge` is the host's device name.

    `vnis` are the VXLAN ids of an overlay network, one a subnet, and `nodes` the addresses of the hosts that take part
    in it, as the swarm knows them. `options` are the raw driver options, as the engine keeps them. `dns` is true where
    the engine serves names on the bridge's address (Podman's aardvark-dns). For Docker's default bridge, `icc`,
    `masquerade` and `mtu` come from com.docker.network.bridge.* and com.docker.network.driver.mtu.
    """

    id: str
    name: str
    driver: str
    engine: str
    scope: str = "local"
    internal: bool = False
    ipv6: bool = False
    subnets: tuple[Subnet, ...] = ()
    bridge: str | None = None
    icc: bool | None = None
    masquerade: bool | None = None
    mtu: int | None = None
    host_binding: IPAddress | None = None
    gateway_mode_ipv4: str | None = None
    gateway_mode_ipv6: str | None = None
    parent: str | None = None
    vnis: tuple[int, ...] = ()
    nodes: tuple[IPAddress, ...] = ()
    options: dict[str, str] = msgspec.field(default_factory=dict)
    dns: bool = False

    @property
    def encrypted(self) -> bool:
        """Tell whether an overlay network sends its tunnel through IPsec (`--opt encrypted`)."""
        return self.driver == "overlay" and self.options.get("encrypted", "false").lower() != "false"


class Endpoint(Model):
    """The attachment of one container to one network, as the engine made it."""

    network: str
    network_id: str
    endpoint_id: str = ""
    mac: str | None = None
    ipv4: IPInterface | None = None
    ipv6: IPInterface | None = None
    gateway: IPAddress | None = None
    gateway6: IPAddress | None = None
    aliases: tuple[str, ...] = ()


class PublishedPort(Model):
    """A container port that the engine publishes. `host_ip` is 0.0.0.0 or :: for every address of the host."""

    proto: str
    container_port: int
    host_ip: IPAddress
    host_port: int


class Container(Model):
    """One container. `status` is the engine's word (running, exited, paused, …); `netns` the inode, when it has one.

    `mode` is the network mode: "bridge", a network's name, "host", "none" or "container:<id>". `dns` are the name
    servers that it was made with.
    """

    id: str
    name: str
    engine: str
    status: str = "running"
    pid: int | None = None
    netns: int | None = None
    mode: str = ""
    joined: str | None = None
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    dns: tuple[str, ...] = ()


class Service(Model):
    """One service of a swarm, with the ports that every host of the swarm takes in for it (the routing mesh)."""

    name: str
    engine: str
    ports: tuple[PublishedPort, ...] = ()


class Engine(Model):
    """One engine that was asked. `name`: docker, podman, lab, cri. `userland_proxy` is None when it cannot be told.

    `rootless` is true when a plain user runs it: then its bridges and rules lie in a namespace of that user's own.
    """

    name: str
    version: str
    endpoint: str
    api: str = ""
    firewall_backend: str | None = None
    iptables: bool | None = None
    userland_proxy: bool | None = None
    swarm: str | None = None
    rootless: bool = False


class Intent(Model):
    """What every engine on the host meant. Empty when there is no engine.

    `services` are those of a swarm; only its managers know them, and None means that this host is none.
    """

    engines: tuple[Engine, ...] = ()
    networks: tuple[Network, ...] = ()
    containers: tuple[Container, ...] = ()
    services: tuple[Service, ...] | None = None

    def network(self, network_id: str) -> Network | None:
        """Return the network with that id, or None."""
        return next((net for net in self.networks if net.id == network_id), None)

    def container(self, container_id: str) -> Container | None:
        """Return the container with that full id, or None."""
        return next((each for each in self.containers if each.id == container_id), None)

    def owner(self, container: Container) -> Container | None:
        """Return the container whose network another one was told to use, None when it is gone or there is none.

        Of several in a row it is the last, which has a network of its own.
        """
        seen: set[str] = set()
        found: Container | None = container
        while found is not None and found.joined and found.id not in seen:
            seen.add(found.id)
            joined = found.joined
            found = next((each for each in self.containers if each.id.startswith(joined) or each.name == joined), None)
        return found if found is not container else None

    def sharing(self, container: Container) -> Container | None:
        """Return the running container whose namespace another running one is in, None when it is in its own."""
        found = self.owner(container)
        if found is None or not found.status == container.status == "running":
            return None
        return found if found.netns in (None, container.netns) else None
