"""What an engine says of itself and its networks, as text for a human helper.

Only what is listed here is kept. What a user can write anything into (labels, environments, arguments, proxies with
their passwords, options of foreign drivers) is not listed. Field names: docs.docker.com/reference/api/engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from nettrace.errors import EngineError, NotFound
from nettrace.model.texts import RawText, open_options

__all__ = ["MAX_NETWORKS", "engine_texts", "kept", "network"]

#: A field's name to what of it is kept: True for a plain value or a list of such, a further table for an object (or
#: a list of objects), "*" for every key of a map.
Allowed = Mapping[str, "bool | Allowed"]

NETWORK: Allowed = {
    "Name": True,
    "Id": True,
    "Created": True,
    "Scope": True,
    "Driver": True,
    "EnableIPv4": True,
    "EnableIPv6": True,
    "IPAM": {
        "Driver": True,
        "Config": {"Subnet": True, "IPRange": True, "Gateway": True, "AuxiliaryAddresses": {"*": True}},
    },
    "Internal": True,
    "Attachable": True,
    "Ingress": True,
    "ConfigFrom": {"Network": True},
    "ConfigOnly": True,
    "Containers": {
        "*": {"Name": True, "EndpointID": True, "MacAddress": True, "IPv4Address": True, "IPv6Address": True}
    },
    "Options": {"*": True},
    "Peers": {"Name": True, "IP": True},
}
VERSION: Allowed = {
    "Platform": {"Name": True},
    "Components": {"Name": True, "Version": True},
    "Version": True,
    "ApiVersion": True,
    "MinAPIVersion": True,
    "GitCommit": True,
    "GoVersion": True,
    "Os": True,
    "Arch": True,
    "KernelVersion": True,
    "BuildTime": True,
}
INFO: Allowed = {
    "Containers": True,
    "ContainersRunning": True,
    "ContainersPaused": True,
    "ContainersStopped": True,
    "Driver": True,
    "Plugins": {"Network": True},
    "IPv4Forwarding": True,
    "BridgeNfIptables": True,
    "BridgeNfIp6tables": True,
    "Debug": True,
    "CgroupDriver": True,
    "CgroupVersion": True,
    "KernelVersion": True,
    "OperatingSystem": True,
    "OSVersion": True,
    "OSType": True,
    "Architecture": True,
    "NCPU": True,
    "MemTotal": True,
    "ExperimentalBuild": True,
    "ServerVersion": True,
    "DefaultRuntime": True,
    "Swarm": {"NodeID": True, "NodeAddr": True, "LocalNodeState": True, "ControlAvailable": True, "Error": True},
    "LiveRestoreEnabled": True,
    "Isolation": True,
    "SecurityOptions": True,
    "DefaultAddressPools": {"Base": True, "Size": True},
    "FirewallBackend": {"Driver": True, "Info": True},
    "Warnings": True,
}

#: More networks than this are not described one by one.
MAX_NETWORKS = 200


def kept(answer: Any, allowed: Allowed) -> Any:
    """Return of an engine's answer what is allowed; what is not named is left out, however deep it lies."""
    if isinstance(answer, list):
        return [kept(each, allowed) for each in answer if isinstance(each, Mapping)]
    if not isinstance(answer, Mapping):
        return None
    found = {}
    for key, value in answer.items():
        rule = allowed.get(key, allowed.get("*"))
        if rule is True:
            if _plain(value) or (isinstance(value, list) and all(map(_plain, value))):
                found[str(key)] = value
        elif isinstance(rule, Mapping) and isinstance(value, Mapping | list):
            found[str(key)] = kept(value, rule)
    return found


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def engine_texts(name: str, call: Callable[..., Any]) -> tuple[RawText, ...]:
    """Ask an engine for its version, its condition and its networks, and keep what may be kept.

    `call` makes one call of the Docker SDK's client by its name. What is refused becomes a text without content.
    """
    owner = f"engine={name}"
    found = []
    for what, method, allowed, arguments in (
        ("version.json", "version", VERSION, {"api_version": False}),
        ("info.json", "info", INFO, {}),
    ):
        try:
            answer = kept(call(method, **arguments), allowed)
        except (EngineError, NotFound) as error:
            found.append(RawText(owner=owner, name=what, reason=str(error)))
        else:
            found.append(RawText(owner=owner, name=what, text=_json(answer)))
    found.append(_networks(owner, call))
    return tuple(found)


def _networks(owner: str, call: Callable[..., Any]) -> RawText:
    name = "network-inspect.json"
    described, reason = [], None
    try:
        listed = call("networks")
        for each in listed[:MAX_NETWORKS]:
            try:
                described.append(network(call("inspect_network", each["Id"])))
            except NotFound:
                continue  # it has gone meanwhile
        if len(listed) > MAX_NETWORKS:
            reason = f"{len(listed) - MAX_NETWORKS} of {len(listed)} networks are left out"
    except EngineError as error:
        reason = str(error)
    return RawText(owner=owner, name=name, text=_json(described), reason=reason)


def network(answer: Any) -> dict[str, Any]:
    """Return of a described network what may be kept; of its options those of Docker's own drivers."""
    found: dict[str, Any] = kept(answer, NETWORK) or {}
    options = found.get("Options")
    if isinstance(options, dict):
        found["Options"] = open_options(options)
    return found


def _json(answer: Any) -> str:
    return json.dumps(answer, indent=2, sort_keys=True, ensure_ascii=True) + "\n"
