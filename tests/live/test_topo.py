"""`nettrace topo` on real hosts: what Docker built is shown as Docker means it, and what was broken is marked."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from nettrace.lab import Lab
from nettrace.model.base import from_json
from nettrace.model.topology import Topology

pytestmark = pytest.mark.live


def topo(lab: Lab) -> dict[str, Any]:
    done = lab.nettrace(["topo", "--json"])
    assert done.returncode == 0, done.stderr
    decoded: dict[str, Any] = json.loads(done.stdout)
    from_json(done.stdout.encode(), Topology)
    return decoded


def box(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in found["boxes"] if each["name"] == name)


def differences(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["at"], each["found"]) for each in found["differences"]]


def test_a_healthy_docker_host_is_as_docker_meant_it(docker_lab: Lab) -> None:
    docker_lab.prepare("macvlan-host")
    found = topo(docker_lab)
    # A test before this one may have left the containers a larger MTU, which only another fault's setup asks for.
    assert [each for each in found["differences"] if each["meant"] != "mtu 1500"] == []
    assert found["gaps"] == []
    nets = {each["name"]: each for each in found["networks"]}
    assert nets["noicc"]["options"]["icc"] == "off"
    assert nets["sealed"]["options"]["internal"] == "yes"
    assert nets["mv"]["driver"] == "macvlan"
    (eth0,) = [each for each in box(found, "app")["interfaces"] if each["device"] == "eth0"]
    host = {each["device"]: each for each in box(found, "host")["interfaces"]}
    veth = host[eth0["peer"].removeprefix("host/")]
    assert (eth0["peer_ifindex"], veth["peer_ifindex"]) == (veth["ifindex"], eth0["ifindex"])
    assert veth["peer"] == "app/eth0"
    assert veth["master"] == "docker0"
    assert eth0["network"] == "bridge"
    assert "0.0.0.0:8080 → 80/tcp" in box(found, "web")["ports"]
    assert [each["peer"] for each in box(found, "mv1")["interfaces"] if each["kind"] == "macvlan"] == ["host/eth0"]
    # Labs beside this one are hosts of their own.
    assert not [each["name"] for each in found["boxes"] if each["name"].endswith("-host")]


def test_a_container_in_anothers_namespace_is_told_by_its_owner(docker_lab: Lab) -> None:
    docker_lab.docker("run", "-d", "--name", "sidecar", "--network", "container:app", "busybox", "sleep", "600")
    try:
        found = topo(docker_lab)
        assert box(found, "sidecar")["joined"] == "app"
        assert box(found, "sidecar")["interfaces"] == []
        assert box(found, "sidecar")["netns"] == box(found, "app")["netns"]
    finally:
        docker_lab.docker("rm", "-f", "sidecar")


#: Counts what a run asks of the engine and how often it enters a namespace, and prints that after the document.
COUNT = """
import collections, json, sys
from nettrace.collect.engines.docker import DockerEngine
from nettrace import netns
from nettrace.cli import main
calls = collections.Counter()
call, enter = DockerEngine._call, netns.run_in
def counted(self, what, *arguments, **options):
    calls[what] += 1
    return call(self, what, *arguments, **options)
def entered(ns, work):
    calls[f"entry of {ns.inode}"] += 1
    return enter(ns, work)
DockerEngine._call, netns.run_in = counted, entered
code = main(["topo", "--json"])
print(json.dumps(calls), file=sys.stderr)
sys.exit(code)
"""


def test_containers_are_told_by_their_addresses_not_by_a_call_each(docker_lab: Lab) -> None:
    """One listing of each kind; a call only for the folder of namespaces and for what has no address there."""
    docker_lab.docker(
        "run", "-d", "--stop-signal", "KILL", "--name", "apart", "--network", "none", "busybox", "sleep", "600"
    )
    try:
        done = docker_lab.exec([sys.executable, "-c", COUNT])
        assert done.returncode == 0, done.stderr
        found, calls = json.loads(done.stdout), json.loads(done.stderr.splitlines()[-1])
        assert (calls["networks"], calls["containers"]) == (1, 1)
        assert calls["inspect_container"] <= 2
        running = [each for each in found["boxes"] if each["kind"] == "container" and each["status"] == "running"]
        assert len(running) > 6
        assert all(each["netns"] for each in running)
        # A namespace is entered once, to open the socket that all of its tables are read by.
        entries = {what: number for what, number in calls.items() if what.startswith("entry of ")}
        assert set(entries.values()) == {1}
        assert {f"entry of {each['netns']}" for each in running} <= entries.keys()
    finally:
        docker_lab.docker("rm", "-f", "apart")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("veth-detached", "port of no bridge"),
        ("bridge-down", "down"),
        ("destination-address-flushed", "not held"),
        ("container-default-deleted", "no such route"),
    ],
)
def test_what_was_broken_is_marked(docker_lab: Lab, fault: str, words: str) -> None:
    docker_lab.prepare(fault)
    docker_lab.break_fault(fault)
    assert words in [found for _at, found in differences(topo(docker_lab))]


def test_a_host_without_an_engine_shows_its_namespaces(plain_lab: Lab) -> None:
    found = topo(plain_lab)
    assert box(found, "host")["kind"] == "host"
    assert [each for each in box(found, "host")["interfaces"] if each["master"] == "docker0"]


def test_pictures_and_tables_are_printed(docker_lab: Lab) -> None:
    for form, start in (("dot", "graph nettrace {\n"), ("mermaid", "flowchart LR\n"), ("text", "Networks\n")):
        done = docker_lab.nettrace(["topo", "--format", form])
        assert (done.returncode, done.stderr) == (0, "")
        assert f"\n{start}" in f"\n{done.stdout}"


def test_two_outputs_at_once_are_a_usage_error(plain_lab: Lab) -> None:
    done = plain_lab.nettrace(["topo", "--json", "--format", "dot"])
    assert done.returncode == 2
    assert "--json" in done.stderr


def test_a_container_that_dies_meanwhile_is_no_traceback(docker_lab: Lab) -> None:
    docker_lab.docker("run", "-d", "--name", "brief", "busybox", "sleep", "600")
    command = docker_lab.command(["docker", "rm", "-f", "brief"])
    with subprocess.Popen(command, env=docker_lab.environment(), stdout=subprocess.DEVNULL) as killer:
        for _ in range(3):
            done = docker_lab.nettrace(["topo", "--json"])
            assert done.returncode == 0, done.stderr
            json.loads(done.stdout)
        killer.wait(30)
