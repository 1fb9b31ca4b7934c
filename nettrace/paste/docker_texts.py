"""`docker inspect`, `docker network inspect`, `docker info`, `docker version`, `docker ps`: what the engine meant.

The JSON is that of the API, and is read by the functions that read the API. See docs.docker.com/reference/cli/docker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_interface
from typing import Any

from msgspec.structs import replace

from nettrace.collect.engines.docker import merge_inspected, parse_container, parse_engine, parse_network, with_gateways
from nettrace.model.base import Model
from nettrace.model.intent import Container, Endpoint, Engine, Intent, Network
from nettrace.paste.lines import Line, Trouble, quoted

__all__ = ["PS_HEAD", "EngineTexts", "Told"]

PS_HEAD = re.compile(r"CONTAINER ID\s+IMAGE\s.*", re.DOTALL)
NETWORKS_HEAD = re.compile(r"NETWORK ID\s+NAME\s.*", re.DOTALL)
_BAD_JSON = (ValueError, KeyError, TypeError, AttributeError, IndexError)
#: What is in an engine's answers and belongs to nobody else.
PRIVATE = ("Env", "Cmd", "Args", "Entrypoint", "Path", "Labels", "Healthcheck", "LogPath")


class Told(Model):
    """What texts of engines say of the machine besides Intent."""

    kernel: str = ""
    hostname: str | None = None


class EngineTexts:
    """Puts the texts of one engine together: each may say a part, and none must be there."""

    def __init__(self) -> None:
        self._version: dict[str, Any] = {}
        self._info: dict[str, Any] = {}
        self._networks: dict[str, Mapping[str, Any]] = {}
        self._containers: dict[str, Container] = {}
        self._members: dict[str, Container] = {}
        self._listed: dict[str, Container] = {}
        self.inspected = False
        self.networks_inspected = False

    @property
    def anything(self) -> bool:
        """Whether some text told of an engine."""
        return bool(
            self._version or self._info or self._networks or self._containers or self._listed or self.networks_inspected
        )

    def take_json(self, kind: str, document: Any, line: int) -> tuple[int, list[Trouble]]:
        """Take one JSON document, `kind` as `recognise` calls it; return how many things it told of."""
        if kind == "docker version":
            self._take_version(document)
            return 1, []
        if kind == "docker info":
            self._info |= dict(document)
            return 1, []
        troubles: list[Trouble] = []
        count = 0
        if kind == "docker network inspect":
            self.networks_inspected = True
        for each in document if isinstance(document, list) else [document]:
            try:
                if kind == "docker network inspect":
                    self._take_network(each)
                elif kind == "docker inspect":
                    self._take_container(each)
                else:
                    row = parse_container(each, "docker")
                    self._listed[row.id] = row
                count += 1
            except _BAD_JSON as error:
                name = each.get("Name") if isinstance(each, dict) else each
                reason = f"not what the engine prints ({type(error).__name__})"
                troubles.append(Trouble(line=line, text=quoted(f"{kind} {name}"), reason=reason))
        return count, troubles

    def _take_version(self, document: Any) -> None:
        server = document.get("Server") if isinstance(document.get("Server"), dict) else document
        self._version |= dict(server or {})

    def _take_network(self, data: Mapping[str, Any]) -> None:
        network = parse_network(data, "docker")
        self._networks[network.id] = data
        for identity, row in (data.get("Containers") or {}).items():
            if str(identity).startswith("ep-") or len(str(identity)) < 12:
                continue  # endpoints of overlays that belong to no container
            endpoint = _member_endpoint(network, row)
            known = self._members.get(identity)
            if known is None:
                known = Container(id=str(identity), name=str(row.get("Name") or identity[:12]), engine="docker")
                known = replace(known, mode=network.name)
            others = tuple(each for each in known.endpoints if each.network_id != network.id)
            self._members[identity] = replace(known, endpoints=(*others, endpoint))

    def _take_container(self, data: Mapping[str, Any]) -> None:
        identity = str(data["Id"])
        base = Container(id=identity, name=identity[:12], engine="docker")
        self._containers[identity] = merge_inspected(base, data, None)
        self.inspected = True

    def take_info_text(self, lines: Sequence[Line]) -> tuple[int, list[Trouble]]:
        """Take what `docker info` prints for people: what is asked of it here stands in lines of a name and a value."""
        swarm: dict[str, Any] = {}
        for _number, text in lines:
            name, colon, value = text.strip().partition(": ")
            if not colon:
                continue
            value = value.strip()
            if name == "Server Version":
                self._info["ServerVersion"] = value
            elif name == "Kernel Version":
                self._info["KernelVersion"] = value
            elif name == "Name" and value:
                self._info["Name"] = value
            elif name == "Firewall Backend":
                self._info["FirewallBackend"] = {"Driver": value}
            elif name == "Swarm":
                swarm["LocalNodeState"] = value
            elif name == "NodeID":
                swarm["NodeID"] = value
        if swarm:
            self._info["Swarm"] = swarm
        return 1, []

    def take_version_text(self, lines: Sequence[Line]) -> tuple[int, list[Trouble]]:
        """Take what `docker version` prints for people; only the server's part is of interest."""
        part, engine = "", ""
        for _number, text in lines:
            stripped = text.strip()
            name, colon, value = stripped.partition(":")
            value = value.strip()
            if text[:1].strip() and colon:
                part, engine = name.partition(" ")[0], ""
            elif part == "Server" and colon and not value:
                engine = name
            elif part == "Server" and engine in ("", "Engine"):
                if name == "Version":
                    self._version["Version"] = value
                elif name == "API version":
                    self._version["ApiVersion"] = value.partition(" ")[0]
        return 1, []

    def take_ps(self, lines: Sequence[Line]) -> tuple[int, list[Trouble]]:
        """Take `docker ps`: ids, names and whether they run; addresses are not in it."""
        found, troubles = 0, list[Trouble]()
        name_at = status_at = -1
        for number, text in lines:
            if PS_HEAD.fullmatch(text.strip()):
                name_at, status_at = text.find("NAMES"), text.find("STATUS")
                continue
            words = text.split()
            if not words:
                continue
            if re.fullmatch(r"[0-9a-f]{12,64}", words[0]) is None or len(words) < 2:
                troubles.append(Trouble(line=number, text=quoted(text)))
                continue
            name = text[name_at:].strip() if 0 <= name_at < len(text) else words[-1]
            status = text[status_at:] if status_at >= 0 else ""
            state = (
                "exited" if status.startswith("Exited") else "created" if status.startswith("Created") else "running"
            )
            state = "paused" if "(Paused)" in status else state
            row = Container(id=words[0], name=name.split(",")[0] or words[0], engine="docker", status=state)
            self._listed.setdefault(row.id, row)
            found += 1
        return found, troubles

    def told(self) -> Told:
        """Return what the texts say of the machine."""
        kernel = self._info.get("KernelVersion") or self._version.get("KernelVersion") or ""
        name = self._info.get("Name")
        return Told(kernel=str(kernel), hostname=str(name) if name else None)

    def intent(self) -> Intent:
        """Return what the engine meant, as far as it was told."""
        if not self.anything:
            return Intent()
        networks = tuple(parse_network(each, "docker") for each in self._networks.values())
        containers = dict(self._containers)
        for more in (self._members, self._listed):
            for identity, row in more.items():
                same = next(
                    (each for each in containers if each.startswith(identity) or identity.startswith(each)), None
                )
                if same is None:
                    containers[identity] = row
        rows = tuple(_with_network_ids(each, networks) for each in containers.values())
        return Intent(engines=(self._engine(),), networks=with_gateways(networks, rows), containers=rows)

    def _engine(self) -> Engine:
        version = dict(self._version)
        if not version.get("Version") and self._info.get("ServerVersion"):
            version["Version"] = self._info["ServerVersion"]
        try:
            return parse_engine(version, self._info, "docker", "")
        except _BAD_JSON:
            return Engine(name="docker", version=str(version.get("Version") or "")[:100], endpoint="")


def _with_network_ids(container: Container, networks: Sequence[Network]) -> Container:
    """Complete endpoints that name their network without its id, which stopped containers' do."""
    ids = {each.name: each.id for each in networks}
    return replace(
        container,
        endpoints=tuple(
            each if each.network_id else replace(each, network_id=ids.get(each.network, ""))
            for each in container.endpoints
        ),
    )


def _member_endpoint(network: Network, row: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint that a network's inspection shows of one of its containers."""
    pools = with_gateways((network,), ())[0].subnets

    def gateway(version: int) -> Any:
        return next((pool.gateway for pool in pools if pool.subnet.version == version), None)

    ipv4, ipv6 = row.get("IPv4Address"), row.get("IPv6Address")
    internal = network.internal
    return Endpoint(
        network=network.name,
        network_id=network.id,
        endpoint_id=str(row.get("EndpointID") or ""),
        mac=str(row["MacAddress"]).lower() if row.get("MacAddress") else None,
        ipv4=ip_interface(str(ipv4)) if ipv4 else None,
        ipv6=ip_interface(str(ipv6)) if ipv6 else None,
        gateway=gateway(4) if ipv4 and not internal else None,
        gateway6=gateway(6) if ipv6 and not internal else None,
    )
