"""`nettrace` on a real rootful Podman with netavark: what is healthy is delivered, and what is broken is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from nettrace.lab import Lab, teardown
from nettrace.lab.state import state_dir

from .conftest import PREFIX, SYSTEM, engines
from .podman import Podman, PodmanLab, bare_host, podman_available
from .warm import Asker, Said

pytestmark = [pytest.mark.live, pytest.mark.skipif(not podman_available(), reason="needs podman, netavark and conmon")]

NAME = f"{PREFIX}-podman"
WEB = ("httpd", "-f", "-p", "80", "-h", "/www")
HOST = "203.0.113.2"
INTERNET = f"netns:ntlab-{NAME}-inet"
#: The rules that netavark's iptables driver has for the first network.
JUMP = 'FORWARD -m comment --comment "netavark firewall plugin rules" -j NETAVARK_FORWARD'


@pytest.fixture(scope="module")
def lab() -> Iterator[PodmanLab]:
    """A host with web (published as 8080) and app on the default network, c1 and c2 on net1, six on both families."""
    try:
        bare = bare_host(NAME)
        podman = Podman(bare.host, state_dir(NAME) / "podman")
        try:
            podman("network", "create", "net1")
            podman("network", "create", "--internal", "sealed")
            podman("network", "create", "--ipv6", "--subnet", "fd00:7::/64", "dual")
            # Without CAP_NET_RAW nothing in a container could send a probe: it is sent from outside of it.
            podman.run("web", "--cap-drop", "all", "--cap-add", "net_bind_service", "-p", "8080:80", command=WEB)
            podman.run("app", "--cap-drop", "all")
            podman.run("c1", "--network", "net1")
            podman.run("c2", "--network", "net1", "--network-alias", "two", command=WEB)
            podman.run("six", "--network", "dual")
            podman.run("shut", "--network", "sealed")
            podman.run("sidecar", "--network", "container:web")
            podman.run("bare", "--network", "none")
            podman.run("inhost", "--network", "host")
            yield PodmanLab(bare.state, podman)
        finally:
            podman.close()
    finally:
        teardown.remove(NAME)


@pytest.fixture(scope="module")
def asker(lab: PodmanLab) -> Iterator[Asker]:
    made = Asker(lab)
    yield made
    made.close()


def ask(asker: Asker, *question: str) -> Said:
    said = asker.ask(["path", *question, "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def veth_of(lab: PodmanLab, container: str) -> str:
    """Return the name of the host's end of a container's eth0."""
    pid = lab.podman("inspect", "--format", "{{.State.Pid}}", container)
    inside = lab.check(["nsenter", f"--target={pid}", "--net", "ip", "-j", "link", "show", "eth0"])
    index = json.loads(inside)[0]["link_index"]
    rows = json.loads(lab.check(["ip", "-j", "link"]))
    return str(next(row["ifname"] for row in rows if row["ifindex"] == index))


def codes(said: Said) -> list[str]:
    return [each["code"] for each in said.verdict["findings"]]


HEALTHY = [
    ("web", "8.8.8.8"),
    ("web", "8.8.8.8", "--proto", "tcp", "--port", "80"),
    ("app", "web", "--proto", "tcp", "--port", "80"),
    ("app", "c1"),
    ("c1", "two", "--proto", "tcp", "--port", "80"),
    ("c1", "c2.dns.podman"),
    ("app", "host"),
    ("host", "web", "--proto", "tcp", "--port", "80"),
    ("host", HOST, "--proto", "tcp", "--port", "8080"),
    ("app", HOST, "--proto", "tcp", "--port", "8080"),
    (INTERNET, HOST, "--proto", "tcp", "--port", "8080"),
    ("six", "2001:4860:4860::8888"),
    ("sidecar", "8.8.8.8"),
    ("inhost", "8.8.8.8"),
]


@pytest.mark.parametrize("question", HEALTHY, ids=lambda question: " ".join(question).replace(PREFIX, "lab"))
def test_healthy(asker: Asker, question: tuple[str, ...]) -> None:
    said = ask(asker, *question)
    assert (said.code, said.verdict["outcome"], codes(said)) == (0, "delivered", [])
    assert "podman 4" in said.verdict["host"]["engine"]
    assert {hop["agreement"] for hop in said.verdict["hops"]} <= {"agree", "unchecked"}


@dataclass(frozen=True)
class Broken:
    """One thing broken by shell commands on the host; `podman network reload` or `mend` takes it back."""

    name: str
    code: str
    segment: str
    direction: str
    commands: str
    question: tuple[str, ...] = ("web", "8.8.8.8")
    remedy: str = "podman network reload"
    mend: str = "true"


PUBLISHED = (INTERNET, HOST, "--proto", "tcp", "--port", "8080")
MASQUERADE = 'set -- $(iptables-save -t nat | grep -- "-A POSTROUTING -s 10.88.0.0/16"); chain=${6}; '
BROKEN = [
    Broken(
        "all rules flushed",
        "filter.docker-rules-missing",
        "remote",
        "reply",
        "nft delete table ip filter; nft delete table ip nat",
    ),
    Broken(
        "filter rules flushed under a policy of DROP",
        "filter.docker-rules-missing",
        "host",
        "forward",
        "iptables -P FORWARD DROP; iptables -F; iptables -X",
        mend="iptables -P FORWARD ACCEPT",
    ),
    Broken(
        "chains bypassed under a policy of DROP",
        "filter.docker-chains-bypassed",
        "host",
        "forward",
        f"iptables -P FORWARD DROP; iptables -D {JUMP}",
        mend="iptables -P FORWARD ACCEPT",
    ),
    Broken(
        "masquerade deleted",
        "nat.masquerade-missing",
        "remote",
        "reply",
        MASQUERADE + "iptables -t nat -D $chain ! -d 224.0.0.0/4 -j MASQUERADE",
    ),
    Broken(
        "a rule before masquerade",
        "nat.masquerade-shadowed",
        "remote",
        "reply",
        "iptables -t nat -I POSTROUTING -s 10.88.0.0/16 -o eth0 -j ACCEPT",
        remedy="iptables -t nat -D POSTROUTING -s 10.88.0.0/16 -o eth0 -j ACCEPT",
        mend="iptables -t nat -D POSTROUTING -s 10.88.0.0/16 -o eth0 -j ACCEPT",
    ),
    Broken(
        "FORWARD drops",
        "filter.rule-drop",
        "host",
        "forward",
        "iptables -I FORWARD -s 10.88.0.0/16 -j DROP",
        remedy="iptables -t filter -D FORWARD -s 10.88.0.0/16 -j DROP",
        mend="iptables -D FORWARD -s 10.88.0.0/16 -j DROP",
    ),
    Broken(
        "DNAT removed",
        "nat.dnat-missing",
        "host",
        "forward",
        'iptables -t nat $(iptables-save -t nat | grep -- "--dport 8080 -j DNAT" | sed s/^-A/-D/)',
        question=PUBLISHED,
    ),
    Broken(
        "DNAT removed, asked on the host itself",
        "nat.dnat-missing",
        "host",
        "forward",
        'iptables -t nat $(iptables-save -t nat | grep -- "--dport 8080 -j DNAT" | sed s/^-A/-D/)',
        question=("host", *PUBLISHED[1:]),
    ),
    Broken(
        "jump to DNAT removed",
        "nat.dnat-missing",
        "host",
        "forward",
        "iptables -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT",
        question=PUBLISHED,
    ),
    Broken(
        "veth detached",
        "bridge.port-without-master",
        "bridge",
        "forward",
        "ip link set $VETH nomaster",
        remedy="ip link set veth",
        mend="ip link set $VETH master podman0",
    ),
    Broken(
        "forwarding off",
        "sysctl.ip-forward-off",
        "host",
        "forward",
        "sysctl -qw net.ipv4.ip_forward=0",
        remedy="sysctl -w net.ipv4.ip_forward=1",
        mend="sysctl -qw net.ipv4.ip_forward=1",
    ),
    Broken(
        "veth down",
        "link.down",
        "source",
        "forward",
        "ip link set $VETH down",
        remedy="ip link set veth",
        mend="ip link set $VETH up",
    ),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.name)
def test_what_is_broken_is_named_with_podmans_remedy(lab: PodmanLab, asker: Asker, broken: Broken) -> None:
    host = {"VETH": veth_of(lab, "web")}
    try:
        lab.check(["sh", "-ec", broken.commands], env=host)
        said = ask(asker, *broken.question)
        first, stop = said.verdict["findings"][0], said.verdict["stop"]
        assert (said.code, first["code"]) == (1, broken.code)
        assert (stop["segment"], stop["direction"]) == (broken.segment, broken.direction)
        assert any(command.startswith(broken.remedy) for command in first["remedy"]["commands"])
        assert "docker" not in " ".join(first["remedy"]["commands"]) + first["remedy"]["summary"]
    finally:
        lab.check(["sh", "-ec", broken.mend], env=host)
        lab.podman("network", "reload", "web", "app", "c1", "c2")
        # Reloaded containers have new MAC addresses, and the kernel keeps to the old ones for a while.
        lab.check(["ip", "neigh", "flush", "all"])
    said = ask(asker, *broken.question)
    assert (said.code, codes(said)) == (0, [])


def test_a_stopped_container_is_started_by_podman(lab: PodmanLab, asker: Asker) -> None:
    lab.podman.run("gone", command=("true",))
    said = ask(asker, "gone", "8.8.8.8")
    assert (said.code, codes(said)[0]) == (1, "engine.container-not-running")
    assert said.verdict["findings"][0]["remedy"]["commands"] == ["podman start gone"]


def test_networks_without_a_way_out(asker: Asker) -> None:
    said = ask(asker, "shut", "8.8.8.8")
    assert (said.code, codes(said)[0]) == (1, "filter.internal-network")
    assert said.verdict["findings"][0]["remedy"]["commands"] == ["podman network connect podman shut"]
    said = ask(asker, "bare", "8.8.8.8")
    assert (said.code, codes(said)[0]) == (1, "engine.no-network")


def test_a_container_cannot_reach_itself_by_its_published_port(asker: Asker) -> None:
    """Netavark sets no hairpin mode: the bridge turns back a frame that bridge netfilter translated to its sender."""
    said = ask(asker, "web", HOST, "--proto", "tcp", "--port", "8080")
    assert (said.code, codes(said)) == (1, ["nat.hairpin-missing"])
    assert (said.verdict["stop"]["segment"], said.verdict["stop"]["direction"]) == ("bridge", "forward")


def test_topology_of_podman(lab: PodmanLab, asker: Asker) -> None:
    said = asker.ask(["topo", "--json"])
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["differences"] == []
    networks = {each["name"]: each for each in found["networks"]}
    assert networks["podman"]["bridge"] == "podman0"
    assert networks["net1"]["members"] == ["c1", "c2"]
    assert networks["podman"]["subnets"] == ["10.88.0.0/16 via 10.88.0.1"]
    boxes = {each["name"]: each for each in found["boxes"]}
    assert boxes["web"]["ports"] == ["0.0.0.0:8080 → 80/tcp"]
    assert boxes["sidecar"]["joined"] == "web"
    eth0 = next(each for each in boxes["web"]["interfaces"] if each["device"] == "eth0")
    assert eth0["network"] == "podman"
    veth = veth_of(lab, "web")
    lab.check(["ip", "link", "set", veth, "nomaster"])
    try:
        found = json.loads(asker.ask(["topo", "--json"]).out)
        assert [(each["at"], each["meant"]) for each in found["differences"]] == [(f"host/{veth}", "port of podman0")]
    finally:
        lab.check(["ip", "link", "set", veth, "master", "podman0"])


@pytest.mark.skipif(SYSTEM not in engines(), reason="needs the system's Docker Engine")
@pytest.mark.parametrize("docker_lab", [SYSTEM], indirect=True)
def test_two_engines_on_one_host(docker_lab: Lab) -> None:
    """Docker's web and Podman's: the name alone is an error that shows both forms; each form is answered."""
    podman = Podman(docker_lab.host, state_dir(docker_lab.name) / "podman")
    try:
        identity = podman.run("web", "-p", "8088:80", command=WEB)
        asker = Asker(PodmanLab(docker_lab.state, podman))
        try:
            said = asker.ask(["path", "web", "8.8.8.8", "--json"])
            other = docker_lab.docker("inspect", "--format", "{{.Id}}", "web").strip()
            assert (said.code, said.out) == (4, "")
            assert f"web of docker (container:{other[:12]})" in said.err
            assert f"web of podman (container:{identity[:12]})" in said.err
            for each in (other, identity):
                said = ask(asker, f"container:{each[:12]}", "8.8.8.8")
                assert (said.code, said.verdict["flow"]["src"]["id"]) == (0, each)
            # Docker has set FORWARD's policy to DROP: without netavark's accepts its rules are what is missing.
            docker_lab.check(["sh", "-ec", f"iptables -D {JUMP}; iptables -F NETAVARK_FORWARD"])
            said = ask(asker, f"container:{identity[:12]}", "8.8.8.8")
            first = said.verdict["findings"][0]
            assert (said.code, first["code"]) == (1, "filter.docker-rules-missing")
            assert first["remedy"]["commands"] == ["podman network reload --all"]
            assert ask(asker, f"container:{other[:12]}", "8.8.8.8").code == 0
        finally:
            asker.close()
    finally:
        podman.close()
