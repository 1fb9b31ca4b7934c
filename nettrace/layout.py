"""What a Docker Engine writes into iptables for its bridge networks, version by version.

Where traffic stops for want of one of the engine's own rules, this tells which rule that is, and where in its chain it
belongs. Read off libnetwork's iptables drivers (drivers/bridge/setup_ip_tables_linux.go of 18.05 to 27.5,
drivers/bridge/internal/iptabler of 28 and 29) and compared with what engines of those versions write.

Not told here: 28.0.0, which alone put its rules otherwise; the nftables backend of 29; swarm's ingress and
docker_gwbridge; engines older than 18.05.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

import msgspec

from nettrace.model.base import IPAddress, Model
from nettrace.model.intent import Container, Endpoint, Engine, Intent, Network, PublishedPort

__all__ = ["EngineRule", "docker_rules", "ip6tables_by_default", "parse_version"]

#: Networks that swarm's own code writes rules for.
#: What a container is called that has its endpoints.
_LIVING = ("running", "paused", "restarting")
_SWARM = ("docker_gwbridge", "ingress")
_HOST_ADDRESS = {4: "com.docker.network.host_ipv4", 6: "com.docker.network.host_ipv6"}
_LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}
_ICMP = {4: "icmp", 6: "ipv6-icmp"}


class EngineRule(Model):
    """One rule that the engine writes: its table, its chain, and its text as iptables-save prints it.

    `network` is the name of the network that it is for, None for those that serve all; `address` and `ports` (host,
    container) are those of the published port that it is for. `guards` is true for a rule that is there to keep
    traffic out, or to end a chain that ends without it: its absence stops nothing.
    """

    table: str
    chain: str
    text: str
    network: str | None = None
    address: IPAddress | None = None
    ports: tuple[int, int] = (0, 0)
    guards: bool = False


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Return an engine's version as three numbers ("28.5.2+dfsg4" is 28, 5, 2), None when it is not told."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def docker_rules(intent: Intent, engine: Engine, family: int, *, proxy: bool) -> tuple[EngineRule, ...] | None:
    """Return the rules that Docker writes for its networks, each chain's in the order in which they must stand.

    `family` is 4 or 6; `proxy` whether the userland proxy serves published ports. None where it is not known what this
    engine writes: another version or backend, or one that manages no iptables (of that family).
    """
    version = parse_version(engine.version)
    if engine.name != "docker" or engine.iptables is False or version is None:
        return None
    if (engine.firewall_backend or "").startswith("nft") or version < (18, 5, 0) or version == (28, 0, 0):
        return None
    if family == 6 and not ip6tables_by_default(engine):
        return None  # whether it was asked for the engine does not tell
    return tuple(_Writer(intent, version, family, proxy).rules())


def ip6tables_by_default(engine: Engine) -> bool:
    """Tell whether an engine manages ip6tables without being asked to, as Docker does since 27 (moby#47747)."""
    version = parse_version(engine.version)
    return engine.name != "docker" or version is None or version >= (27, 0, 0)


class _Writer:
    """The rules of one engine and one family."""

    def __init__(self, intent: Intent, version: tuple[int, int, int], family: int, proxy: bool) -> None:
        self.version = version
        self.family = family
        self.proxy = proxy
        self.containers = [each for each in intent.containers if each.engine == "docker" and each.status in _LIVING]
        self.networks = [
            each
            for each in intent.networks
            if each.engine == "docker"
            and each.driver == "bridge"
            and each.bridge is not None
            and each.name not in _SWARM
            and any(subnet.subnet.version == family for subnet in each.subnets)
        ]
        self.open = [each for each in self.networks if not each.internal]
        self.swarm = any(each.name in _SWARM or each.scope == "swarm" for each in intent.networks)

    def rules(self) -> Iterator[EngineRule]:
        yield from self._nat()
        if self.version < (28, 0, 0):
            yield from self._forward_of_27()
        else:
            yield from self._forward_of_28()
            yield from self._raw()
        yield from self._docker_chain()

    # --- nat ---

    def _nat(self) -> Iterator[EngineRule]:
        local = "-m addrtype --dst-type LOCAL -j DOCKER"
        yield _rule("nat", f"-A PREROUTING {local}")
        loopback = f"! -d {_LOOPBACK[self.family]} " if self.proxy else ""
        yield _rule("nat", f"-A OUTPUT {loopback}{local}")
        for network in self.open:
            mode = _mode(network, self.family)
            if self.proxy and self.version < (29, 0, 0):
                yield _rule("nat", f"-A DOCKER -i {network.bridge} -j RETURN", network, guards=True)
            if mode == "routed" and self.version >= (28, 0, 0) and not self.proxy:
                yield _rule("nat", self._from_host(network), network)
            if mode == "routed":
                continue
            if not self.proxy:
                yield _rule("nat", self._from_host(network), network)
            if network.masquerade is not False:
                for subnet in network.subnets:
                    if subnet.subnet.version == self.family:
                        target = self._source_target(network)
                        text = f"-A POSTROUTING -s {subnet.subnet} ! -o {network.bridge} {target}"
                        yield _rule("nat", text, network)
        for network, address, port in self._published():
            if port.host_port == 0:
                continue
            yield _port_rule("nat", self._dnat(network, address, port), network, address, port)
            if self.version < (28, 0, 0) or not self.proxy:
                one = f"{address}/{address.max_prefixlen}"
                match = f"-p {port.proto} -m {port.proto} --dport {port.container_port}"
                text = f"-A POSTROUTING -s {one} -d {one} {match} -j MASQUERADE"
                yield _port_rule("nat", text, network, address, port)

    def _from_host(self, network: Network) -> str:
        return f"-A POSTROUTING -o {network.bridge} -m addrtype --src-type LOCAL {self._source_target(network)}"

    def _source_target(self, network: Network) -> str:
        held = network.options.get(_HOST_ADDRESS[self.family])
        return f"-j SNAT --to-source {held}" if held else "-j MASQUERADE"

    def _dnat(self, network: Network, address: IPAddress, port: PublishedPort) -> str:
        link_local = "! -s fe80::/10 " if self.family == 6 and self.version >= (28, 0, 0) else ""
        bound = "" if port.host_ip.is_unspecified else f"-d {port.host_ip}/{port.host_ip.max_prefixlen} "
        other = f"! -i {network.bridge} " if self.proxy else ""
        match = f"-p {port.proto} -m {port.proto} --dport {port.host_port}"
        target = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
        return f"-A DOCKER {link_local}{bound}{other}{match} -j DNAT --to-destination {target}:{port.container_port}"

    # --- filter ---

    def _forward_of_27(self) -> Iterator[EngineRule]:
        yield _rule("filter", "-A FORWARD -j DOCKER-USER", guards=True)
        yield _rule("filter", "-A FORWARD -j DOCKER-ISOLATION-STAGE-1", guards=True)
        for network in self.networks:
            bridge = network.bridge
            if not network.internal:
                yield _rule("filter", f"-A FORWARD -o {bridge} {_ANSWERS}", network)
                yield _rule("filter", f"-A FORWARD -o {bridge} -j DOCKER", network)
                yield _rule("filter", f"-A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT", network)
            if network.icc is not False:
                yield _rule("filter", f"-A FORWARD -i {bridge} -o {bridge} -j ACCEPT", network)
        for network in self.networks:
            if network.icc is False:
                text = f"-A FORWARD -i {network.bridge} -o {network.bridge} -j DROP"
                yield _rule("filter", text, network, guards=True)
        yield from self._isolation()
        yield _rule("filter", "-A DOCKER-ISOLATION-STAGE-1 -j RETURN", guards=True)
        yield _rule("filter", "-A DOCKER-ISOLATION-STAGE-2 -j RETURN", guards=True)

    def _forward_of_28(self) -> Iterator[EngineRule]:
        yield _rule("filter", "-A FORWARD -j DOCKER-USER", guards=True)
        yield _rule("filter", "-A FORWARD -j DOCKER-FORWARD")
        inner = "DOCKER-INTERNAL" if self.version >= (29, 0, 0) else "DOCKER-ISOLATION-STAGE-1"
        yield _rule("filter", "-A DOCKER-FORWARD -j DOCKER-CT")
        yield _rule("filter", f"-A DOCKER-FORWARD -j {inner}", guards=True)
        yield _rule("filter", "-A DOCKER-FORWARD -j DOCKER-BRIDGE")
        for network in self.networks:
            bridge = network.bridge
            if network.internal:
                verdict = "DROP" if network.icc is False else "ACCEPT"
                text = f"-A DOCKER-FORWARD -i {bridge} -o {bridge} -j {verdict}"
                yield _rule("filter", text, network, guards=network.icc is False)
            elif network.icc is False:
                yield _rule("filter", f"-A DOCKER-FORWARD -i {bridge} -o {bridge} -j DROP", network, guards=True)
                yield _rule("filter", f"-A DOCKER-FORWARD -i {bridge} ! -o {bridge} -j ACCEPT", network)
            else:
                yield _rule("filter", f"-A DOCKER-FORWARD -i {bridge} -j ACCEPT", network)
        for network in self.open:
            yield _rule("filter", f"-A DOCKER-CT -o {network.bridge} {_ANSWERS}", network)
        for network in self.open:
            yield _rule("filter", f"-A DOCKER-BRIDGE -o {network.bridge} -j DOCKER", network)
        if self.version >= (29, 0, 0):
            yield from self._internal("DOCKER-INTERNAL")
        else:
            yield from self._isolation()

    def _internal(self, chain: str) -> Iterator[EngineRule]:
        for network in self.networks:
            for subnet in network.subnets:
                if network.internal and subnet.subnet.version == self.family:
                    # Link-local neighbours of one bridge may talk: only IPv6 has any.
                    into, out = (f"! -i {network.bridge} ", f"! -o {network.bridge} ") if self.family == 6 else ("", "")
                    text = f"-A {chain} ! -s {subnet.subnet} {into}-o {network.bridge} -j DROP"
                    yield _rule("filter", text, network, guards=True)
                    text = f"-A {chain} ! -d {subnet.subnet} -i {network.bridge} {out}-j DROP"
                    yield _rule("filter", text, network, guards=True)

    def _isolation(self) -> Iterator[EngineRule]:
        first, second = "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2"
        yield from self._internal(first)
        for network in self.open:
            bridge = network.bridge
            if _mode(network, self.family) == "routed" and self.version >= (28, 0, 0):
                yield _rule("filter", f"-A {first} -i {bridge} {_ANSWERS}", network)
                yield _rule("filter", f"-A {first} -o {bridge} -j RETURN", network)
            yield _rule("filter", f"-A {first} -i {bridge} ! -o {bridge} -j {second}", network, guards=True)
            yield _rule("filter", f"-A {second} -o {bridge} -j DROP", network, guards=True)

    def _docker_chain(self) -> Iterator[EngineRule]:
        for network, address, port in self._published():
            if self.version >= (28, 0, 0) and _mode(network, self.family) == "nat-unprotected":
                continue
            match = f"-p {port.proto} -m {port.proto} --dport {port.container_port}"
            bridge = network.bridge
            text = f"-A DOCKER -d {address}/{address.max_prefixlen} ! -i {bridge} -o {bridge} {match} -j ACCEPT"
            yield _port_rule("filter", text, network, address, port)
        if self.version < (28, 0, 0):
            return
        for network in self.open:
            bridge, mode = network.bridge, _mode(network, self.family)
            if mode == "routed":
                yield _rule("filter", f"-A DOCKER -o {bridge} -p {_ICMP[self.family]} -j ACCEPT", network)
            verdict = "ACCEPT" if mode == "nat-unprotected" else "DROP"
            text = f"-A DOCKER ! -i {bridge} -o {bridge} -j {verdict}"
            yield _rule("filter", text, network, guards=verdict == "DROP")

    # --- raw ---

    def _raw(self) -> Iterator[EngineRule]:
        """The drops of direct access, as they are since 28.2.2; before, those of published ports looked otherwise."""
        if self.version < (28, 2, 2):
            return
        for network in self.open:
            if _mode(network, self.family) != "nat":
                continue
            for _container, endpoint in self._attached(network):
                address = _address(endpoint, self.family)
                if address is not None:
                    text = f"-A PREROUTING -d {address}/{address.max_prefixlen} ! -i {network.bridge} -j DROP"
                    yield _rule("raw", text, network, guards=True)
        for _network, _target, port in self._published():
            if port.host_ip.is_loopback and self.family == 4:
                match = f"-p {port.proto} -m {port.proto} --dport {port.host_port}"
                yield _rule("raw", f"-A PREROUTING -d {port.host_ip}/32 ! -i lo {match} -j DROP", guards=True)

    # --- whom it is for ---

    def _attached(self, network: Network) -> Iterator[tuple[Container, Endpoint]]:
        for container in self.containers:
            for endpoint in container.endpoints:
                if endpoint.network_id == network.id:
                    yield container, endpoint

    def _published(self) -> Iterator[tuple[Network, IPAddress, PublishedPort]]:
        """Yield what is published, for containers of one network: of several, the engine alone knows which serves."""
        for network in self.open:
            for container, endpoint in self._attached(network):
                address = _address(endpoint, self.family)
                if address is None or len(container.endpoints) != 1:
                    continue
                for port in container.ports:
                    if port.host_ip.version == self.family and port.proto in ("tcp", "udp", "sctp"):
                        yield network, address, port


_ANSWERS = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def _rule(table: str, text: str, network: Network | None = None, *, guards: bool = False) -> EngineRule:
    name = network.name if network is not None else None
    return EngineRule(table=table, chain=text.split(" ", 2)[1], text=text, network=name, guards=guards)


def _port_rule(table: str, text: str, network: Network, address: IPAddress, port: PublishedPort) -> EngineRule:
    ports = (port.host_port, port.container_port)
    return msgspec.structs.replace(_rule(table, text, network), address=address, ports=ports)


def _mode(network: Network, family: int) -> str:
    told = network.gateway_mode_ipv6 if family == 6 else network.gateway_mode_ipv4
    return told or "nat"


def _address(endpoint: Endpoint, family: int) -> IPAddress | None:
    held = endpoint.ipv6 if family == 6 else endpoint.ipv4
    return held.ip if held is not None else None


def chains(rules: Iterable[EngineRule]) -> dict[tuple[str, str], tuple[EngineRule, ...]]:
    """Return the rules by table and chain, in their order."""
    found: dict[tuple[str, str], list[EngineRule]] = {}
    for each in rules:
        found.setdefault((each.table, each.chain), []).append(each)
    return {key: tuple(value) for key, value in found.items()}
