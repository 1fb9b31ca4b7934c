"""What crictl says becomes a Container. The documents were written after crictl's own format; no crictl runs here."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from nettrace.collect.engines.cri import find_pod, parse_pod, parse_pods
from nettrace.collect.resolve import parse_endpoint
from nettrace.errors import Ambiguous, EngineError, NotFound, UsageError

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "crictl.json").read_text())
HOST = 4026531840


@pytest.fixture
def crictl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called crictl, first on PATH, that prints the recorded documents."""
    (tmp_path / "pods.json").write_text(json.dumps(RECORDED["pods"]))
    for document in RECORDED["inspectp"].values():
        (tmp_path / f"{document['status']['id']}.json").write_text(json.dumps(document))
    program = tmp_path / "crictl"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in pods) cat {tmp_path}/pods.json ;; inspectp) cat {tmp_path}/$4.json ;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_a_listing() -> None:
    rows = parse_pods(RECORDED["pods"])
    assert [(row["namespace"], row["name"], row["ready"]) for row in rows] == [
        ("default", "web-0", True),
        ("shop", "web-0", True),
        ("kube-system", "kube-proxy-x7k2p", True),
        ("default", "web-0", False),
    ]
    assert parse_pods({}) == []


def test_a_sandbox_of_containerd() -> None:
    pod, path = parse_pod(RECORDED["inspectp"]["web-0"])
    assert path == "/var/run/netns/cni-6b1d8d3e-0c55-1f8b-7c0a-3f6f1f1c2a11"
    assert (pod.name, pod.engine, pod.status, pod.pid, pod.mode) == ("default/web-0", "cri", "running", 4242, "pod")
    (endpoint,) = pod.endpoints
    assert (endpoint.ipv4, endpoint.ipv6) == (ip_interface("10.244.0.5"), ip_interface("fd00:10:244::5"))
    assert (endpoint.gateway, endpoint.gateway6) == (ip_address("10.244.0.1"), ip_address("fd00:10:244::1"))
    assert endpoint.mac == "3a:5f:11:0c:77:02"


def test_a_sandbox_of_cri_o_and_one_in_the_nodes_namespace() -> None:
    pod, path = parse_pod(RECORDED["inspectp"]["cri-o"])
    assert (pod.name, pod.status, pod.pid, path) == ("shop/db-0", "exited", None, "/var/run/netns/7e1d8d3e")
    assert pod.endpoints[0].ipv4 == ip_interface("10.85.0.7")
    proxy, path = parse_pod(RECORDED["inspectp"]["kube-proxy-x7k2p"])
    assert (proxy.mode, proxy.endpoints, path) == ("host", (), None)
    assert parse_pod({})[0].status == "exited"


def test_a_pod_is_found_by_name(crictl: Path) -> None:
    assert find_pod("kube-system/kube-proxy-x7k2p", HOST).netns == HOST
    assert find_pod("kube-proxy-x7k2p", HOST).name == "kube-system/kube-proxy-x7k2p"
    with pytest.raises(Ambiguous, match="pod:default/web-0, pod:shop/web-0"):
        find_pod("web-0", HOST)
    with pytest.raises(NotFound, match="there are pod:default/web-0"):
        find_pod("default/none", HOST)
    with pytest.raises(NotFound, match="is not on this machine"):
        find_pod("default/web-0", HOST)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no runtime >&2; exit 1", "refuses .no runtime."),
        ("echo '{'", "is not JSON"),
    ],
)
def test_a_crictl_that_does_not_answer(crictl: Path, script: str, said: str) -> None:
    crictl.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(EngineError, match=said):
        find_pod("default/web-0", HOST)


def test_without_crictl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"there is no crictl here .* pid:N"):
        find_pod("default/web-0", HOST)


def test_the_form_of_an_endpoint() -> None:
    typed = parse_endpoint("pod:kube-system/dns")
    assert (typed.form, typed.value) == ("pod", "kube-system/dns")
    with pytest.raises(UsageError):
        parse_endpoint("pod:")
