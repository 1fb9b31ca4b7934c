"""Docker Engine, and whatever else speaks its API (Podman's socket): answers become Intent.

Three calls tell everything that a listing knows: /version, /networks, /containers/json?all=1. The Docker SDK makes
them: contexts, TLS and API negotiation are its business. See docs.docker.com/reference/api/engine.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from nettrace.collect.proc import read_text
from nettrace.errors import EngineError, NotFound
from nettrace.model.base import IPAddress, IPInterface
from nettrace.model.intent import Container, Endpoint, Engine, Intent, Network, PublishedPort, Service, Subnet
from nettrace.model.texts import RawText
from nettrace.netns import Netns

__all__ = [
    "DockerEngine",
    "docker_endpoint",
    "merge_inspected",
    "parse_container",
    "parse_engine",
    "parse_network",
    "parse_nodes",
    "parse_podman_network",
    "parse_podman_rootless",
    "parse_service",
    "with_gateways",
    "with_network_ids",
]

TIMEOUT_S = 10
#: What the first call asks for, the engine holds in memory: one that hangs is told from one at work.
FIRST_TIMEOUT_S = 4
#: Any version will do for the call that asks for the version.
ANY_VERSION = "1.44"
DEFAULT_FOLDERS = ("/run/docker/netns", "/var/run/docker/netns")
_OPTION = "com.docker.network."
_VNIS = f"{_OPTION}driver.overlay.vxlanid_list"


def docker_endpoint(environment: Mapping[str, str] | None = None) -> str:
    """Return the address of the context that DOCKER_CONTEXT or the client's configuration names.

    Raises EngineError when there is no such context.
    """
    from docker.context import ContextAPI
    from docker.errors import DockerException

    name = (os.environ if environment is None else environment).get("DOCKER_CONTEXT")
    try:
        context = ContextAPI.get_context(name)
    except (DockerException, OSError, ValueError, KeyError) as error:
        raise EngineError(f"the Docker context {name or 'in use'} cannot be read ({error}): set DOCKER_HOST") from error
    if context is None or not context.Host:
        raise EngineError(f"there is no Docker context {name!r}: see `docker context ls`, or set DOCKER_HOST")
    return str(context.Host)


class DockerEngine:
    """One engine behind the Docker API."""

    def __init__(self, name: str, endpoint: str, *, host: Netns, explicit: bool = True) -> None:
        """Connect to `endpoint`; `host` is the namespace that nettrace takes for the host.

        Raises EngineError when nobody answers, when it is another machine's engine, or, unless `explicit`, when it is
        the engine of another network namespace.
        """
        self.name = name
        self.endpoint = endpoint
        #: What the user should know although the engine answers.
        self.warning: str | None = None
        self._node: str | None = None
        #: Who serves the socket; a plain user's engine is rootless.
        self._uid: int | None = None
        #: Podman's networks, to translate the names that it gives for ids.
        self._networks: tuple[Network, ...] = ()
        self._folders: list[str] = list(DEFAULT_FOLDERS) if name == "docker" else ["/run/netns"]
        self._check(host, explicit=explicit)
        self._client = self._connect()

    def _check(self, host: Netns, *, explicit: bool) -> None:
        """Find out, without the SDK, whether the socket answers, and whose it is."""
        parts = urlsplit(self.endpoint)
        if parts.scheme == "ssh" or (parts.scheme in ("tcp", "http", "https") and not _is_local(parts.hostname)):
            raise EngineError(
                f"{self.endpoint} is the engine of another machine: run nettrace on that machine, where its packets are"
            )
        if parts.scheme not in ("unix", "http+unix"):
            return
        path = parts.netloc + parts.path
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(FIRST_TIMEOUT_S)
            try:
                peer.connect(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise EngineError(
                    f"there is no {self.name} socket at {path}: start the engine, or set DOCKER_HOST to its address"
                ) from error
            except PermissionError as error:
                raise EngineError(f"not allowed to use the {self.name} socket {path}: run nettrace as root") from error
            except ConnectionRefusedError as error:
                raise EngineError(
                    f"nobody answers at the {self.name} socket {path}: start the engine, or give the container as "
                    "pid:PID or netns:PATH"
                ) from error
            except TimeoutError as error:
                raise EngineError(self._hangs()) from error
            except OSError as error:
                raise EngineError(f"the {self.name} socket {path} cannot be used: {error.strerror}") from error
            pid, self._uid, _ = struct.unpack("=iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        with contextlib.suppress(OSError):
            # The process that listens may be hidden or gone; then nothing can be said about it.
            if self._uid:
                self.warning = (
                    f"the {self.name} engine at {path} is run by user {self._uid} (rootless): its bridges and rules "
                    "lie in a namespace of that user's own, and a process carries packets between that and the host"
                )
            elif pid and os.stat(f"/proc/{pid}/ns/net").st_ino != host.inode:
                self.warning = (
                    f"the {self.name} engine at {path} runs in another network namespace than nettrace: "
                    "its bridges and rules are not on the host that nettrace sees"
                )
                if not explicit:
                    raise EngineError(self.warning)

    def _hangs(self) -> str:
        return (
            f"the {self.name} engine at {self.endpoint} takes calls, and has not answered one for {FIRST_TIMEOUT_S} "
            "seconds: restart it, or give the container as pid:PID or netns:PATH"
        )

    def _connect(self) -> Any:
        from docker import APIClient
        from docker.errors import DockerException
        from docker.tls import TLSConfig
        from requests.exceptions import RequestException, Timeout

        tls: Any = False
        if os.environ.get("DOCKER_TLS_VERIFY") and self.endpoint.startswith("tcp://"):
            folder = os.environ.get("DOCKER_CERT_PATH") or str(Path.home() / ".docker")
            try:
                tls = TLSConfig(
                    client_cert=(f"{folder}/cert.pem", f"{folder}/key.pem"), ca_cert=f"{folder}/ca.pem", verify=True
                )
            except DockerException as error:
                raise EngineError(f"the certificates in {folder} cannot be used: {error}") from error
        options: dict[str, Any] = {"base_url": self.endpoint, "timeout": TIMEOUT_S, "tls": tls}
        try:
            # The SDK's own negotiation asks for the version as well, and throws the answer away; it is a slow call.
            with contextlib.closing(APIClient(version=ANY_VERSION, **options | {"timeout": FIRST_TIMEOUT_S})) as first:
                self._version: Mapping[str, Any] = first.version(api_version=False)
            return APIClient(version=str(self._version["ApiVersion"]), **options)
        except Timeout as error:
            raise EngineError(self._hangs()) from error
        except (DockerException, RequestException, KeyError, TypeError) as error:
            raise EngineError(f"the {self.name} engine at {self.endpoint} does not answer: {error}") from error

    def _call(self, what: str, *arguments: Any, **options: Any) -> Any:
        """Make one call through the SDK; raises EngineError, NotFound for 404."""
        from docker import errors
        from requests.exceptions import RequestException, Timeout

        try:
            return getattr(self._client, what)(*arguments, **options)
        except errors.NotFound as error:
            raise NotFound(f"the {self.name} engine at {self.endpoint} knows no {arguments[0]}") from error
        except Timeout as error:
            raise EngineError(
                f"the {self.name} engine at {self.endpoint} has not answered for {TIMEOUT_S} seconds ({what}): "
                "restart it, or give the container as pid:PID or netns:PATH"
            ) from error
        except (errors.DockerException, RequestException) as error:
            raise EngineError(f"the {self.name} engine at {self.endpoint} refuses ({what}): {error}") from error

    def read_intent(self) -> Intent:
        """Return all networks and containers as the listings show them."""
        if (parsed := parse_engine(self._version, {}, self.name, self.endpoint)).name == "podman":
            return self._read_podman(parsed)
        networks = tuple(parse_network(each, self.name) for each in self._call("networks"))
        # /info is slow, and says only three things of interest: the node of a swarm, the firewall (since 28), and
        # whether the engine runs as a plain user.
        major = str(self._version.get("Version") or "").partition(".")[0]
        telling = any(each.scope == "swarm" for each in networks) or (major.isdigit() and int(major) >= 28)
        info = self._call("info") if telling or self._uid else {}
        engine = parse_engine(self._version, info, self.name, self.endpoint)
        self._node = engine.swarm
        containers = tuple(parse_container(each, self.name) for each in self._call("containers", all=True))
        if engine.swarm is not None:
            networks = self._with_nodes(networks, containers)
        services = self._services() if engine.swarm is not None else None
        networks = with_gateways(networks, containers)
        return Intent(engines=(engine,), networks=networks, containers=containers, services=services)

    def _services(self) -> tuple[Service, ...] | None:
        """Return the swarm's services, None where the engine is no manager and may not say."""
        try:
            return tuple(parse_service(each, self.name) for each in self._call("services"))
        except (EngineError, NotFound):
            return None

    def _with_nodes(self, networks: tuple[Network, ...], containers: Sequence[Container]) -> tuple[Network, ...]:
        """Name the hosts of the overlay networks that containers here are in; the listing leaves them out."""
        used = {endpoint.network_id for container in containers for endpoint in container.endpoints}
        found = []
        for network in networks:
            nodes = network.nodes
            if network.driver == "overlay" and network.id in used:
                with contextlib.suppress(EngineError, NotFound):  # then the kernel's tables alone tell
                    nodes = parse_nodes(self._call("inspect_network", network.id))
            found.append(replace(network, nodes=nodes))
        return tuple(found)

    def _read_podman(self, engine: Engine) -> Intent:
        """Return what Podman meant: its networks by its own API, for the Docker API leaves half of them out.

        There the default network goes by another name, endpoints give names for ids, and bridges have no device.
        """
        self.name = "podman"
        if "/run/netns" not in self._folders:
            self._folders.insert(0, "/run/netns")
        networks = tuple(parse_podman_network(each) for each in self._libpod("networks/json"))
        containers = tuple(
            with_network_ids(parse_container(each, self.name), networks) for each in self._call("containers", all=True)
        )
        self._networks = networks
        # Rootless Podman serves its socket as the user; asking it costs a call.
        rootless = bool(self._uid) and parse_podman_rootless(self._libpod("info"))
        engine = replace(engine, rootless=rootless)
        return Intent(engines=(engine,), networks=with_gateways(networks, containers), containers=containers)

    def _libpod(self, what: str) -> Any:
        """Ask Podman's own API (docs.podman.io, `libpod`); raises EngineError when it does not know the question."""
        from requests.exceptions import RequestException

        try:
            answer = self._client.get(f"{self._client.base_url}/v4.0.0/libpod/{what}", timeout=TIMEOUT_S)
            if answer.status_code == 200:
                return answer.json()
            said = f"status {answer.status_code}"
        except (RequestException, ValueError) as error:
            said = str(error)
        raise EngineError(
            f"the podman engine at {self.endpoint} does not say what its {what.partition('/')[0]} are ({said}): "
            "nettrace needs Podman 4 or newer"
        )

    def inspect(self, container: Container) -> Container:
        """Return the container with its process, namespace, ports and aliases.

        Raises NotFound when it is gone, EngineError when its process is not one of this machine.
        """
        answer = self._call("inspect_container", container.id)
        key = str((answer.get("NetworkSettings") or {}).get("SandboxKey") or "")
        if key:
            folder = str(Path(key).parent)
            if folder not in self._folders:
                self._folders.insert(0, folder)
        pid = int((answer.get("State") or {}).get("Pid") or 0)
        inode = self._namespace_of(container, pid, key) if pid else None
        return with_network_ids(merge_inspected(container, answer, inode), self._networks)

    def _namespace_of(self, container: Container, pid: int, key: str) -> int | None:
        """Return the inode of a container's namespace, after making sure that the process is the container's."""
        try:
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
        except OSError:
            return None
        if self.endpoint.startswith(("unix:", "http+unix:")):
            return inode
        known = False
        with contextlib.suppress(OSError):
            known = container.id in read_text(f"/proc/{pid}/cgroup")
        with contextlib.suppress(OSError):
            known = known or (bool(key) and os.stat(key).st_ino == inode)
        if not known:
            raise EngineError(
                f"process {pid} of container {container.name} is not on this machine: "
                f"{self.endpoint} is another machine's engine, so run nettrace there"
            )
        return inode

    def sandbox_folders(self) -> tuple[str, ...]:
        """Return the folders of sandbox keys, where hidden overlay namespaces lie as well."""
        return tuple(self._folders)

    def elsewhere(self, word: str) -> str | None:
        """Say on which node a swarm task runs whose container, service or task name begins with the word."""
        try:
            tasks: Sequence[Mapping[str, Any]] = self._call("tasks")
            services = {each["ID"]: each["Spec"]["Name"] for each in self._call("services")} if tasks else {}
        except (EngineError, NotFound):
            # Only managers of a swarm may ask; without one there is no other host to speak of.
            return None
        for task in tasks:
            identity = ((task.get("Status") or {}).get("ContainerStatus") or {}).get("ContainerID") or ""
            name = f"{services.get(task.get('ServiceID'), '')}.{task.get('Slot', '')}"
            if task.get("NodeID") == self._node:
                continue
            if (identity and identity.startswith(word)) or name == word or word.startswith(f"{name}."):
                return f"swarm node {task.get('NodeID')}"
        return None

    def read_texts(self) -> tuple[RawText, ...]:
        """Return what the engine says of itself and its networks, for a human helper."""
        from nettrace.collect.engines.texts import engine_texts

        return engine_texts(self.name, self._call)

    def close(self) -> None:
        """Close the SDK's connections."""
        self._client.close()


def _is_local(host: str | None) -> bool:
    if host in (None, "", "localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ip_address(str(host)).is_loopback
    return False


def parse_engine(version: Mapping[str, Any], info: Mapping[str, Any], name: str, endpoint: str) -> Engine:
    """Turn the answers of /version and /info into an Engine; Podman names itself among the components."""
    parts = {part.get("Name"): part for part in version.get("Components") or ()}
    podman = parts.get("Podman Engine")
    swarm = info.get("Swarm") or {}
    backend = (info.get("FirewallBackend") or {}).get("Driver")
    return Engine(
        name="podman" if podman else name,
        version=str((podman or version).get("Version") or ""),
        endpoint=endpoint,
        api=str(version.get("ApiVersion") or ""),
        firewall_backend=backend or None,
        swarm=swarm.get("NodeID") or None if swarm.get("LocalNodeState") == "active" else None,
        rootless=any("name=rootless" in str(each) for each in info.get("SecurityOptions") or ()),
    )


def parse_network(data: Mapping[str, Any], engine: str) -> Network:
    """Turn one row of GET /networks into a Network.

    Docker's bridge driver calls its device br-<first 12 of the id> unless com.docker.network.bridge.name says
    otherwise (libnetwork/drivers/bridge); options that were not given stay None.
    """
    options = {str(key): str(value) for key, value in (data.get("Options") or {}).items()}
    driver = str(data.get("Driver") or "")
    bridge = options.get(f"{_OPTION}bridge.name")
    if driver == "bridge" and bridge is None and engine == "docker":
        bridge = f"br-{str(data['Id'])[:12]}"
    mtu = options.get(f"{_OPTION}driver.mtu") or options.get("mtu", "")
    binding = options.get(f"{_OPTION}bridge.host_binding_ipv4")
    pools = (data.get("IPAM") or {}).get("Config") or ()
    return Network(
        id=str(data["Id"]),
        name=str(data["Name"]),
        driver=driver,
        engine=engine,
        scope=str(data.get("Scope") or "local"),
        internal=bool(data.get("Internal")),
        ipv6=bool(data.get("EnableIPv6")),
        subnets=tuple(
            Subnet(subnet=ip_network(pool["Subnet"], strict=False), gateway=_address(pool.get("Gateway")))
            for pool in pools
            if pool.get("Subnet")
        ),
        bridge=bridge,
        icc=_switch(options.get(f"{_OPTION}bridge.enable_icc")),
        masquerade=_switch(options.get(f"{_OPTION}bridge.enable_ip_masquerade")),
        mtu=int(mtu) if mtu.isdigit() else None,
        host_binding=_address(binding),
        gateway_mode_ipv4=options.get(f"{_OPTION}bridge.gateway_mode_ipv4"),
        gateway_mode_ipv6=options.get(f"{_OPTION}bridge.gateway_mode_ipv6"),
        parent=options.get("parent"),
        vnis=tuple(int(each) for each in options.get(_VNIS, "").split(",") if each.isdigit()),
        nodes=parse_nodes(data),
        options=options,
    )


def parse_nodes(data: Mapping[str, Any]) -> tuple[IPAddress, ...]:
    """Return the addresses of the hosts that take part in an overlay network (GET /networks/{id}: Peers)."""
    told = (_address(each.get("IP")) for each in data.get("Peers") or ())
    return tuple(each for each in told if each is not None)


def parse_service(data: Mapping[str, Any], engine: str) -> Service:
    """Turn one row of GET /services into a Service; ports that tasks publish on their own hosts are left out."""
    ports = (data.get("Endpoint") or {}).get("Ports") or ()
    return Service(
        name=str((data.get("Spec") or {}).get("Name") or data.get("ID") or ""),
        engine=engine,
        ports=tuple(
            PublishedPort(
                proto=str(port.get("Protocol") or "tcp"),
                container_port=int(port.get("TargetPort") or 0),
                host_ip=IPv4Address(0),
                host_port=int(port["PublishedPort"]),
            )
            for port in ports
            if port.get("PublishedPort") and port.get("PublishMode", "ingress") == "ingress"
        ),
    )


def with_gateways(networks: Sequence[Network], containers: Sequence[Container]) -> tuple[Network, ...]:
    """Complete subnets that the engine lists without a gateway.

    What containers on the network were told comes first. Else a bridge takes the first address of its pool, as
    libnetwork's default IPAM gives it out (also on internal networks, whose containers are told none since 28).
    """
    told = {
        (endpoint.network_id, gateway)
        for container in containers
        for endpoint in container.endpoints
        for gateway in (endpoint.gateway, endpoint.gateway6)
        if gateway is not None
    }
    found = []
    for network in networks:
        gateways = [gateway for identity, gateway in told if identity == network.id]
        subnets = tuple(
            pool
            if pool.gateway is not None
            else replace(pool, gateway=next((each for each in gateways if each in pool.subnet), _first(network, pool)))
            for pool in network.subnets
        )
        found.append(replace(network, subnets=subnets))
    return tuple(found)


def _first(network: Network, pool: Subnet) -> IPAddress | None:
    if network.driver != "bridge" or pool.subnet.num_addresses < 4:
        return None
    mode = network.gateway_mode_ipv4 if pool.subnet.version == 4 else network.gateway_mode_ipv6
    if mode == "isolated":
        return None  # the host takes no part in it: the first address is a container's
    return pool.subnet.network_address + 1


def parse_podman_network(data: Mapping[str, Any]) -> Network:
    """Turn one row of Podman's GET /libpod/networks/json into a Network.

    `network_interface` is the bridge, or the parent of a macvlan or ipvlan; options are netavark's (mtu, isolate,
    mode, vlan, metric, no_default_route). Podman masquerades every bridge network that is not internal, and all
    containers of one network may talk.
    """
    options = {str(key): str(value) for key, value in (data.get("options") or {}).items()}
    driver, device = str(data.get("driver") or ""), str(data.get("network_interface") or "") or None
    return Network(
        id=str(data.get("id") or data["name"]),
        name=str(data["name"]),
        driver=driver,
        engine="podman",
        internal=bool(data.get("internal")),
        ipv6=bool(data.get("ipv6_enabled")),
        subnets=tuple(
            Subnet(subnet=ip_network(pool["subnet"], strict=False), gateway=_address(pool.get("gateway")))
            for pool in data.get("subnets") or ()
            if pool.get("subnet")
        ),
        bridge=device if driver == "bridge" else None,
        mtu=int(options["mtu"]) if options.get("mtu", "").isdigit() else None,
        parent=device if driver in ("macvlan", "ipvlan") else None,
        options=options,
        dns=bool(data.get("dns_enabled")),
    )


def parse_podman_rootless(info: Mapping[str, Any]) -> bool:
    """Tell from Podman's GET /libpod/info whether a plain user runs it."""
    return bool(((info.get("host") or {}).get("security") or {}).get("rootless"))


def with_network_ids(container: Container, networks: Sequence[Network]) -> Container:
    """Give a container's endpoints the ids of their networks where the engine gave their names (Podman does)."""
    ids = {each.name: each.id for each in networks}
    endpoints = tuple(
        replace(each, network_id=ids.get(each.network_id, each.network_id)) for each in container.endpoints
    )
    return replace(container, endpoints=endpoints)


def parse_container(data: Mapping[str, Any], engine: str) -> Container:
    """Turn one row of GET /containers/json into a Container; process and namespace are not in it."""
    names = [str(name).removeprefix("/") for name in data.get("Names") or ()]
    own = [name for name in names if "/" not in name]
    identity = str(data["Id"])
    mode = str((data.get("HostConfig") or {}).get("NetworkMode") or "")
    return Container(
        id=identity,
        name=(own or names or [identity[:12]])[0],
        engine=engine,
        status=str(data.get("State") or "unknown").lower(),
        mode=mode,
        joined=_joined(mode),
        endpoints=_endpoints(data),
        ports=tuple(
            PublishedPort(
                proto=str(port.get("Type") or "tcp"),
                container_port=int(port["PrivatePort"]),
                host_ip=ip_address(port.get("IP") or "0.0.0.0"),
                host_port=int(port["PublicPort"]),
            )
            for port in data.get("Ports") or ()
            if port.get("PublicPort")
        ),
    )


def merge_inspected(container: Container, data: Mapping[str, Any], inode: int | None) -> Container:
    """Add to a listed Container what GET /containers/{id}/json says; `inode` is that of its process's namespace."""
    state = data.get("State") or {}
    mode = str((data.get("HostConfig") or {}).get("NetworkMode") or container.mode)
    return replace(
        container,
        name=str(data.get("Name") or container.name).removeprefix("/"),
        status=str(state.get("Status") or container.status).lower(),
        pid=int(state.get("Pid") or 0) or None,
        netns=inode,
        mode=mode,
        joined=_joined(mode),
        endpoints=_endpoints(data),
        ports=_published(data),
        dns=tuple(str(each) for each in (data.get("HostConfig") or {}).get("Dns") or ()),
    )


def _endpoints(data: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    networks = (data.get("NetworkSettings") or {}).get("Networks") or {}
    return tuple(_endpoint(str(name), row or {}) for name, row in networks.items())


def _endpoint(name: str, row: Mapping[str, Any]) -> Endpoint:
    asked = row.get("IPAMConfig") or {}
    return Endpoint(
        network=name,
        network_id=str(row.get("NetworkID") or ""),
        endpoint_id=str(row.get("EndpointID") or ""),
        mac=str(row["MacAddress"]).lower() if row.get("MacAddress") else None,
        # A stopped container holds no address; one that was asked for is what it will have again.
        ipv4=_interface(row.get("IPAddress"), row.get("IPPrefixLen")) or _interface(asked.get("IPv4Address"), 32),
        ipv6=_interface(row.get("GlobalIPv6Address"), row.get("GlobalIPv6PrefixLen"))
        or _interface(asked.get("IPv6Address"), 128),
        gateway=_address(row.get("Gateway")),
        gateway6=_address(row.get("IPv6Gateway")),
        aliases=tuple(dict.fromkeys(str(each) for each in (*(row.get("Aliases") or ()), *(row.get("DNSNames") or ())))),
    )


def _bindings(ports: Mapping[str, Any]) -> tuple[PublishedPort, ...]:
    """Turn NetworkSettings.Ports, {"80/tcp": [{HostIp, HostPort}] or null}, into published ports.

    In a network in routed mode a port has no host's port: there the engine writes "", or 0.
    """
    found = []
    for inside, bindings in ports.items():
        number, _, proto = inside.partition("/")
        found += [
            PublishedPort(
                proto=proto or "tcp",
                container_port=int(number),
                host_ip=ip_address(row.get("HostIp") or "0.0.0.0"),
                host_port=int(row["HostPort"] or 0),
            )
            for row in bindings or ()
            if str(row.get("HostPort") or "0").isdigit()
        ]
    return tuple(found)


def _published(data: Mapping[str, Any]) -> tuple[PublishedPort, ...]:
    """Return what is published; of a container without a process, what it was made to publish.

    A host's port that the engine is to choose, or a range of them, is not known before the start.
    """
    wanted = data.get("HostConfig") or {}
    if (data.get("State") or {}).get("Pid") or wanted.get("NetworkMode") == "host":
        return _bindings((data.get("NetworkSettings") or {}).get("Ports") or {})
    return tuple(each for each in _bindings(wanted.get("PortBindings") or {}) if each.host_port)


def _joined(mode: str) -> str | None:
    kind, _, identity = mode.partition(":")
    return identity or None if kind == "container" else None


def _address(text: object) -> IPAddress | None:
    # Podman writes "" and Docker 20.10 "invalid IP" where there is none.
    with contextlib.suppress(ValueError):
        return ip_address(str(text))
    return None


def _interface(text: object, length: object) -> IPInterface | None:
    address = _address(text)
    if address is None:
        return None
    most = 32 if isinstance(address, IPv4Address) else 128
    return ip_interface((address, int(str(length)) if str(length).isdigit() and int(str(length)) else most))


def _switch(text: str | None) -> bool | None:
    return None if text is None else text.lower() in ("true", "1", "yes")
