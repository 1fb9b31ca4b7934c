"""What the commands of a fault may name: `{app.ip}`, `{uplink.gateway}`, `{rules.forward}` …, read from the lab.

Facts are looked up when a command names them, and only then. Names of containers lead to `ContainerFacts`; `uplink`,
`inet`, `rules` and `dir` are fixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from ipaddress import ip_interface
from typing import Any

from nettrace.errors import LabError
from nettrace.lab import wiring
from nettrace.lab.api import DockerAPI
from nettrace.lab.state import LabState, state_dir

__all__ = ["ContainerFacts", "Facts", "RuleFacts", "UplinkFacts", "container_path", "render"]

Exec = Callable[[list[str], str], str]


class UplinkFacts:
    """The host's way out."""

    dev = "eth0"
    ip = wiring.HOST4
    ip6 = wiring.HOST6
    gateway = wiring.INET4
    gateway6 = wiring.INET6
    #: The far end of the uplink, in the internet's namespace.
    far = "host"


class InetFacts:
    """The internet: `path` opens its namespace, `public` is the address that its servers listen on."""

    public = wiring.PUBLIC4
    public6 = wiring.PUBLIC6

    def __init__(self, path: str) -> None:
        self.path = path


class ContainerFacts:
    """One container: its own interface, and the host's end of it."""

    dev = "eth0"

    def __init__(self, name: str, state: LabState, execute: Exec) -> None:
        self._name = name
        self._state = state
        self._exec = execute

    @cached_property
    def _link(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self._exec(["ip", "-j", "addr", "show", "dev", "eth0"], self._name))
        return found[0]

    def _address(self, family: str) -> str:
        rows = [row for row in self._link["addr_info"] if row["family"] == family and row["scope"] == "global"]
        if not rows:
            raise LabError(f"{self._name} has no {family} address on eth0: mend the lab before breaking it again")
        return f"{rows[0]['local']}/{rows[0]['prefixlen']}"

    @property
    def cidr(self) -> str:
        """Address with prefix length."""
        return self._address("inet")

    @property
    def ip(self) -> str:
        """IPv4 address."""
        return self.cidr.split("/")[0]

    @property
    def cidr6(self) -> str:
        """IPv6 address with prefix length."""
        return self._address("inet6")

    @property
    def ip6(self) -> str:
        """IPv6 address."""
        return self.cidr6.split("/")[0]

    @property
    def subnet(self) -> str:
        """The IPv4 network that the address lies in."""
        return str(ip_interface(self.cidr).network)

    @property
    def subnet6(self) -> str:
        """The IPv6 network that the address lies in."""
        return str(ip_interface(self.cidr6).network)

    @property
    def gateway(self) -> str:
        """The first address of the network, which Docker gives to the bridge."""
        return str(next(ip_interface(self.cidr).network.hosts()))

    @property
    def gateway6(self) -> str:
        """The first IPv6 address of the network."""
        return str(next(ip_interface(self.cidr6).network.hosts()))

    @property
    def mac(self) -> str:
        """MAC address of eth0."""
        return str(self._link["address"])

    @cached_property
    def _port(self) -> dict[str, Any]:
        index = self._link["link_index"]
        rows: list[dict[str, Any]] = json.loads(self._exec(["ip", "-j", "link", "show"], "host"))
        for row in rows:
            if row["ifindex"] == index:
                return row
        raise LabError(f"the host's end of {self._name}'s eth0 is gone: mend the lab before breaking it again")

    @property
    def veth(self) -> str:
        """Name of the host's end of eth0."""
        return str(self._port["ifname"])

    @property
    def veth_index(self) -> int:
        """Interface index of the host's end."""
        return int(self._port["ifindex"])

    @property
    def index(self) -> int:
        """Interface index of eth0."""
        return int(self._link["ifindex"])

    @property
    def bridge(self) -> str:
        """Name of the bridge that the host's end is a port of."""
        if "master" not in self._port:
            raise LabError(f"{self.veth} is a port of no bridge: mend the lab before breaking it again")
        return str(self._port["master"])


class RuleFacts:
    """How the engine laid out its iptables rules: where a bridge's own rules stand, and how its accept reads.

    Up to Docker 27 a bridge's rules stand in FORWARD itself; from 28.0.1 on in DOCKER-FORWARD.
    """

    def __init__(self, execute: Exec) -> None:
        self._exec = execute

    @cached_property
    def forward(self) -> str:
        """The chain that holds the bridges' accepts."""
        return "DOCKER-FORWARD" if "-N DOCKER-FORWARD" in self._exec(["iptables", "-S"], "host") else "FORWARD"

    @property
    def accept_out(self) -> str:
        """What lets docker0's containers out, as arguments of iptables after the chain."""
        return "-i docker0 -j ACCEPT" if self.forward == "DOCKER-FORWARD" else "-i docker0 ! -o docker0 -j ACCEPT"


class Facts(Mapping[str, object]):
    """Everything a command may name, as a mapping for str.format_map."""

    def __init__(self, state: LabState, execute: Exec) -> None:
        from nettrace.lab.wiring import services_argv

        assert state.inet is not None
        self._state = state
        self._exec = execute
        self._known: dict[str, object] = {
            "uplink": UplinkFacts(),
            "inet": InetFacts(state.inet.path),
            "rules": RuleFacts(execute),
            "dir": str(state_dir(state.name)),
            "serve": " ".join(services_argv()),
        }

    def __getitem__(self, key: str) -> object:
        if key not in self._known:
            self._known[key] = ContainerFacts(key, self._state, self._exec)
        return self._known[key]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def render(template: str, facts: Facts) -> str:
    """Fill in a command's names; doubled braces stand for single ones. Raises LabError for a fact that is not there."""
    try:
        return template.format_map(facts)
    except (AttributeError, KeyError, IndexError) as error:
        raise LabError(f"this lab has nothing that {template!r} could mean: {error}") from error


def container_path(state: LabState, name: str) -> str:
    """Return the path that opens a container's namespace; raises LabError when the lab has no such container."""
    known = state.containers.get(name)
    if known is not None:
        return known.path
    if state.docker_host is None:
        raise LabError(f"lab {state.name} has no {name}: choose host, inet, {', '.join(sorted(state.containers))}")
    facts = DockerAPI(state.docker_host.removeprefix("unix://")).container(name)
    pid = int(facts["State"]["Pid"])
    if pid == 0:
        raise LabError(f"container {name} of lab {state.name} is {facts['State']['Status']}: it has no namespace now")
    return f"/proc/{pid}/ns/net"
