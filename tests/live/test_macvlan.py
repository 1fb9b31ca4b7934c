"""macvlan on real engines in all four modes: parents and siblings, the gateway, outside, and what keeps them apart.

Parents are eth0 (mode bridge) and three further uplinks of the host, one a mode: the "internet" is the switch that they
all hang on, and it reflects nothing. VLAN sub-interfaces (parent eth0.5) are not tested: this kernel has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from nettrace.lab import Lab

from .warm import Asker, Said

pytestmark = pytest.mark.live

#: Parent, mode, network, the third byte of its subnet.
UPLINKS = (("lan1", "private", 1), ("lan2", "vepa", 2), ("lan3", "passthru", 3))
CHILDREN = (("mp1", "private"), ("mp2", "private"), ("me1", "vepa"), ("me2", "vepa"), ("mt1", "passthru"))


@dataclass
class Made:
    """Labs that have their macvlans, with an asker each."""

    askers: dict[str, Asker]
    labs: list[Lab]


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    found = Made({}, [])
    yield found
    for each in found.askers.values():
        each.close()
    for lab in found.labs:
        names = [name for name, _mode in CHILDREN] + ["mv2"]
        lab.docker("rm", "-f", *names)
        lab.docker("network", "rm", *(mode for _parent, mode, _number in UPLINKS))
        for parent, _mode, number in UPLINKS:
            lab.check(["ip", "link", "del", parent])
            lab.check(["ip", "addr", "del", f"10.50.{number}.1/24", "dev", "br0"], "inet")


@pytest.fixture
def asker(docker_lab: Lab, made: Made) -> Asker:
    if docker_lab.name not in made.askers:
        made.labs.append(docker_lab)
        docker_lab.prepare("macvlan-host")
        inet = docker_lab.state.inet
        assert inet is not None
        for parent, mode, number in UPLINKS:
            # Two indexes, for the carrier to be told at once (linkwatch_urgent_event).
            pair = ["type", "veth", "peer", "name", parent, "index", str(900 + number), "netns", inet.name]
            docker_lab.check(["ip", "link", "add", parent, "index", str(800 + number), *pair])
            docker_lab.check(["ip", "link", "set", parent, "up"])
            docker_lab.check(["ip", "link", "set", parent, "master", "br0", "up"], "inet")
            docker_lab.check(["ip", "addr", "add", f"10.50.{number}.1/24", "dev", "br0"], "inet")
            options = ["-d", "macvlan", "--subnet", f"10.50.{number}.0/24", "-o", f"parent={parent}"]
            docker_lab.docker("network", "create", *options, "-o", f"macvlan_mode={mode}", mode)
        for name, network in (*CHILDREN, ("mv2", "mv")):
            image = ["busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
            docker_lab.docker("run", "-d", "--stop-signal", "KILL", "--name", name, "--network", network, *image)
        made.askers[docker_lab.name] = Asker(docker_lab)
    return made.askers[docker_lab.name]


def ask(asker: Asker, *question: str) -> Said:
    said = asker.ask(["path", *question, "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def codes(said: Said) -> list[str]:
    return [each["code"] for each in said.verdict["findings"]]


def points(said: Said, direction: str = "forward") -> list[str]:
    return [each["point"] for each in said.verdict["hops"] if each["direction"] == direction]


def test_healthy(docker_lab: Lab, asker: Asker) -> None:
    """Siblings in bridge mode, the gateway and the outside in each mode; a point at the child and at its parent."""
    for question, way in (
        (("mv1", "mv2", "--proto", "tcp", "--port", "80"), ["mv1/eth0", "host/eth0", "mv2/eth0"]),
        (("mv1", "203.0.113.1"), ["mv1/eth0", "host/eth0"]),
        (("mv1", "8.8.8.8"), ["mv1/eth0", "host/eth0"]),
        (("mp1", "10.50.1.1"), ["mp1/eth0", "host/lan1"]),
        (("me1", "8.8.8.8"), ["me1/eth0", "host/lan2"]),
        (("mt1", "8.8.8.8", "--proto", "tcp", "--port", "80"), ["mt1/eth0", "host/lan3"]),
    ):
        said = ask(asker, *question)
        assert (said.code, codes(said), points(said)) == (0, [], way), question
        assert points(said, "reply") == way[::-1]


def test_children_and_their_host_are_kept_apart(docker_lab: Lab, asker: Asker) -> None:
    """Either way, and from another network of the same host too, which has to go by the parent."""
    child = docker_lab.docker("inspect", "--format", "{{.NetworkSettings.Networks.mv.IPAddress}}", "mv1").strip()
    for question in (("mv1", "host"), ("host", "mv1"), ("host", child), ("app", "mv1")):
        said = ask(asker, *question)
        stop = said.verdict["stop"]
        assert (said.code, codes(said)[0]) == (1, "macvlan.host-isolation"), question
        assert (stop["segment"], stop["direction"]) == ("egress", "forward")


@pytest.mark.parametrize(("question", "mode"), [(("mp1", "mp2"), "private"), (("me1", "me2"), "vepa")])
def test_modes_that_keep_siblings_apart(docker_lab: Lab, asker: Asker, question: tuple[str, str], mode: str) -> None:
    said = ask(asker, *question)
    assert (said.code, codes(said)[0], said.verdict["stop"]["segment"]) == (1, "macvlan.mode-isolates", "egress")
    assert mode in said.verdict["findings"][0]["title"]


def test_the_parent_is_down(docker_lab: Lab, asker: Asker) -> None:
    docker_lab.check(["ip", "link", "set", "lan1", "down"])
    try:
        said = ask(asker, "mp1", "8.8.8.8")
        first = said.verdict["findings"][0]
        assert (said.code, first["code"], first["at"]) == (1, "macvlan.parent-down", "host/lan1")
        assert first["remedy"]["verified"] == "yes"
        # Its siblings' parents are others, and not concerned.
        assert ask(asker, "mv1", "8.8.8.8").code == 0
    finally:
        docker_lab.check(["ip", "link", "set", "lan1", "up"])
    assert ask(asker, "mp1", "8.8.8.8").code == 0


@pytest.mark.parametrize("gateway", ["203.0.113.2", "mv2", "203.0.113.99"], ids=["the host", "a sibling", "nobody"])
def test_a_wrong_gateway(docker_lab: Lab, asker: Asker, gateway: str) -> None:
    if gateway == "mv2":
        form = "{{.NetworkSettings.Networks.mv.IPAddress}}"
        gateway = docker_lab.docker("inspect", "--format", form, "mv2").strip()
    docker_lab.check(["ip", "route", "replace", "default", "via", gateway], "mv1")
    try:
        said = ask(asker, "mv1", "8.8.8.8")
        assert (said.code, codes(said)[0]) == (1, "route.wrong-gateway")
        assert (said.verdict["stop"]["segment"], said.verdict["stop"]["direction"]) == ("source", "forward")
        assert gateway in said.verdict["findings"][0]["title"]
    finally:
        docker_lab.check(["ip", "route", "replace", "default", "via", "203.0.113.1"], "mv1")


def test_a_child_in_another_subnet(docker_lab: Lab, asker: Asker) -> None:
    """Addresses that nobody else on the wire has: the gateway of the child's subnet does not answer."""
    for words in (["addr", "flush", "dev", "eth0"], ["addr", "add", "10.77.0.9/24", "dev", "eth0"]):
        docker_lab.check(["ip", *words], "mt1")
    docker_lab.check(["ip", "route", "replace", "default", "via", "10.77.0.1"], "mt1")
    try:
        said = ask(asker, "mt1", "8.8.8.8")
        assert (said.code, said.verdict["stop"]["segment"]) == (1, "source")
        assert codes(said)[0] in ("addr.missing", "route.wrong-gateway")
    finally:
        docker_lab.check(["ip", "addr", "flush", "dev", "eth0"], "mt1")
        docker_lab.check(["ip", "addr", "add", "10.50.3.2/24", "dev", "eth0"], "mt1")
        docker_lab.check(["ip", "route", "replace", "default", "via", "10.50.3.1"], "mt1")
    assert ask(asker, "mt1", "8.8.8.8").code == 0


def test_a_child_never_has_a_greater_mtu_than_its_parent(docker_lab: Lab, asker: Asker) -> None:
    """The kernel shrinks children with their parent, and refuses more: what is too big stops in the container."""
    docker_lab.check(["ip", "link", "set", "lan2", "mtu", "1400"])
    try:
        rows = json.loads(docker_lab.check(["ip", "-j", "link", "show", "eth0"], "me1"))
        assert rows[0]["mtu"] == 1400
        assert docker_lab.exec(["ip", "link", "set", "eth0", "mtu", "1500"], "me1").returncode != 0
        said = ask(asker, "me1", "8.8.8.8", "--size", "1500")
        assert (said.code, codes(said)[0], said.verdict["stop"]["segment"]) == (1, "mtu.mismatch", "source")
    finally:
        docker_lab.check(["ip", "link", "set", "lan2", "mtu", "1500"])
        for name in ("me1", "me2"):
            docker_lab.check(["ip", "link", "set", "eth0", "mtu", "1500"], name)


def test_topology(docker_lab: Lab, asker: Asker) -> None:
    found = json.loads(asker.ask(["topo", "--json"]).out)
    nets = {each["name"]: each for each in found["networks"]}
    assert (nets["private"]["parent"], nets["mv"]["parent"]) == ("lan1", "eth0")
    boxes = {each["name"]: each for each in found["boxes"]}
    eth0 = next(each for each in boxes["mp1"]["interfaces"] if each["device"] == "eth0")
    assert (eth0["kind"], eth0["peer"], eth0["network"]) == ("macvlan", "host/lan1", "private")
    assert [each for each in found["differences"] if each["at"].startswith(("mp", "me", "mt", "mv"))] == []
