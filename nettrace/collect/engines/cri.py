"""Kubernetes pods as the node's container runtime knows them: `crictl` asks containerd or CRI-O.

crictl finds its runtime by its own configuration (/etc/crictl.yaml, CONTAINER_RUNTIME_ENDPOINT). A pod is its sandbox:
`crictl pods` lists them, `crictl inspectp` tells the sandbox's process and namespace (kubernetes-sigs/cri-tools,
PodSandboxStatus of the CRI; the verbose part, "info", is the runtime's own).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface
from shutil import which
from typing import Any

from nettrace.errors import Ambiguous, EngineError, NotFound
from nettrace.model.base import IPInterface
from nettrace.model.intent import Container, Endpoint

__all__ = ["find_pod", "parse_pod", "parse_pods"]

TIMEOUT_S = 10
OTHERWISE = "name its namespace instead: pid:N of any process in it, or netns:/var/run/netns/NAME"
READY = "SANDBOX_READY"


def find_pod(word: str, host_netns: int) -> Container:
    """Return the pod "NAMESPACE/NAME", or "NAME" where only one namespace has it; `host_netns` is the node's inode.

    Raises EngineError when there is no crictl or it does not answer, NotFound and Ambiguous.
    """
    namespace, _, name = word.rpartition("/")
    listed = parse_pods(_ask("pods", "-o", "json"))
    fitting = [each for each in listed if each["name"] == name and namespace in ("", each["namespace"])]
    # Sandboxes that were replaced stay listed for a while.
    found = [each for each in fitting if each["ready"]] or fitting[:1]
    if not found:
        known = ", ".join(sorted(f"pod:{each['namespace']}/{each['name']}" for each in listed)[:8])
        raise NotFound(f"no pod on this node is called {word}" + (f"; there are {known}" if known else ""))
    if len(found) > 1:
        forms = ", ".join(sorted(f"pod:{each['namespace']}/{each['name']}" for each in found))
        raise Ambiguous(f"{word} fits more than one pod: {forms}; say which")
    pod, path = parse_pod(_ask("inspectp", "-o", "json", str(found[0]["id"])))
    netns = None
    for place in ([path] if path else []) + ([f"/proc/{pod.pid}/ns/net"] if pod.pid else []):
        try:
            netns = os.stat(place).st_ino
            break
        except OSError:
            continue
    if pod.mode == "host":
        netns = host_netns
    if netns is None and pod.status == "running":
        raise NotFound(
            f"the namespace of pod {word} is not on this machine ({path or 'no process is told'}): {OTHERWISE}"
        )
    return Container(
        id=pod.id,
        name=pod.name,
        engine=pod.engine,
        status=pod.status,
        pid=pod.pid,
        netns=netns,
        mode=pod.mode,
        endpoints=pod.endpoints,
    )


def _ask(*words: str) -> Mapping[str, Any]:
    program = which("crictl")
    if program is None:
        raise EngineError(f"there is no crictl here to find a pod with: {OTHERWISE}")
    try:
        done = subprocess.run([program, *words], capture_output=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"crictl did not answer within {TIMEOUT_S} s: {OTHERWISE}") from error
    except OSError as error:
        raise EngineError(f"crictl cannot be run ({error.strerror}): {OTHERWISE}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"crictl refuses ({said[-1][:300]}): see /etc/crictl.yaml, or {OTHERWISE}")
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise EngineError(f"crictl's answer is not JSON ({error}): {OTHERWISE}") from error
    return answer if isinstance(answer, dict) else {}


def parse_pods(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Turn `crictl pods -o json` into rows of id, namespace, name, ready; the newest first."""
    rows = [each for each in answer.get("items") or () if isinstance(each, dict) and each.get("id")]
    rows.sort(key=lambda each: int(str(each.get("createdAt") or 0)) if str(each.get("createdAt")).isdigit() else 0)
    return [
        {
            "id": str(each["id"]),
            "namespace": str(_part(each, "metadata").get("namespace") or "default"),
            "name": str(_part(each, "metadata").get("name") or ""),
            "ready": each.get("state") == READY,
        }
        for each in reversed(rows)
    ]


def parse_pod(answer: Mapping[str, Any]) -> tuple[Container, str | None]:
    """Turn `crictl inspectp -o json` into a Container and the path of its namespace, where the runtime tells it.

    containerd says its CNI result and the sandbox's specification; CRI-O the latter alone.
    """
    status, info = _part(answer, "status"), _part(answer, "info")
    metadata = _part(status, "metadata")
    namespace = str(metadata.get("namespace") or "default")
    options = _part(_part(_part(status, "linux"), "namespaces"), "options")
    spec = _part(_part(info, "runtimeSpec"), "linux")
    paths = [str(each.get("path") or "") for each in spec.get("namespaces") or () if each.get("type") == "network"]
    interfaces = _part(_part(info, "cniResult"), "Interfaces")
    name = str(metadata.get("name") or status.get("id") or "")
    container = Container(
        id=str(status.get("id") or ""),
        name=f"{namespace}/{name}",
        engine="cri",
        status="running" if status.get("state") == READY else "exited",
        pid=int(info.get("pid") or 0) or None,
        mode="host" if options.get("network") == "NODE" else "pod",
        endpoints=_endpoints(_part(status, "network"), interfaces),
    )
    return container, next((path for path in paths if path), None)


def _endpoints(network: Mapping[str, Any], interfaces: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """Return one attachment an interface by the CNI result, else one for the addresses that the CRI tells."""
    found = []
    for device, row in interfaces.items():
        if device == "lo" or not isinstance(row, dict) or not row.get("IPConfigs"):
            continue
        held = [str(each.get("IP") or "") for each in row["IPConfigs"]]
        gateways = [str(each.get("Gateway") or "") for each in row["IPConfigs"]]
        found.append(_endpoint(held, gateways, str(row.get("Mac") or "").lower() or None))
    if not found:
        more = [str(each.get("ip") or "") for each in network.get("additionalIps") or ()]
        held = [str(network.get("ip") or ""), *more]
        found = [_endpoint(held, [], None)] if any(held) else []
    return tuple(found)


def _endpoint(held: Sequence[str], gateways: Sequence[str], mac: str | None) -> Endpoint:
    addresses = [each for each in map(_interface, held) if each is not None]
    routers = [ip_address(each) for each in gateways if _interface(each) is not None]
    return Endpoint(
        network="cni",
        network_id="",
        mac=mac,
        ipv4=next((each for each in addresses if each.version == 4), None),
        ipv6=next((each for each in addresses if each.version == 6), None),
        gateway=next((each for each in routers if each.version == 4), None),
        gateway6=next((each for each in routers if each.version == 6), None),
    )


def _interface(text: str) -> IPInterface | None:
    try:
        return ip_interface(text)
    except ValueError:
        return None


def _part(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}
