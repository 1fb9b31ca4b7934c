"""Faults that the labs' list leaves out, since they take nothing away or cannot be mended by what is printed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nettrace.lab import Lab

from .warm import Asker, Said

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def askers() -> Iterator[dict[str, Asker]]:
    made: dict[str, Asker] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture(params=["none", "docker", "docker-28"])
def lab(request: pytest.FixtureRequest) -> Lab:
    """The plain lab, and one of each engine."""
    if request.param == "none":
        made: Lab = request.getfixturevalue("plain_lab")
        return made
    return next(_docker_labs(request))


def _docker_labs(request: pytest.FixtureRequest) -> Iterator[Lab]:
    from .conftest import _lent

    yield from _lent(request.getfixturevalue("labs"), request.param)


def ask(askers: dict[str, Asker], lab: Lab, *args: str) -> Said:
    if lab.name not in askers:
        askers[lab.name] = Asker(lab)
    said = askers[lab.name].ask(["path", *args, "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def codes(said: Said) -> list[str]:
    return [finding["code"] for finding in said.verdict["findings"]]


def told(said: Said) -> tuple[Any, ...]:
    stop = said.verdict["stop"] or {}
    return said.code, (codes(said) or [None])[0], stop.get("segment"), stop.get("direction")


def test_forwarding_makes_the_host_deaf_to_its_router(plain_lab: Lab, askers: dict[str, Asker]) -> None:
    """The lab's router sends no advertisements, so the route cannot come back by what is printed."""
    question = ("c1", "2001:4860:4860::8888", "-6")
    assert ask(askers, plain_lab, *question).code == 0
    gateway = plain_lab.facts["uplink"].gateway6
    plain_lab.check(["sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1"])
    plain_lab.check(["ip", "-6", "route", "del", "default"])
    try:
        said = ask(askers, plain_lab, *question)
        assert told(said) == (1, "sysctl.accept-ra", "host", "forward")
        remedy = said.verdict["findings"][0]["remedy"]
        assert remedy["commands"] == ["sysctl -w net.ipv6.conf.eth0.accept_ra=2"]
        assert remedy["verified"] != "yes"
    finally:
        plain_lab.exec(["sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0"])
        plain_lab.check(["ip", "-6", "route", "add", "default", "via", gateway])
    assert ask(askers, plain_lab, *question).code == 0


def test_a_rule_that_stands_hundreds_of_times_is_a_warning(lab: Lab, askers: dict[str, Asker]) -> None:
    rule = "-p tcp --dport 9 -j ACCEPT"
    lab.check(["sh", "-c", f"for i in $(seq 120); do iptables -A INPUT {rule}; done"])
    try:
        said = ask(askers, lab, "app", "8.8.8.8")
        assert (said.code, said.verdict["outcome"], codes(said)) == (0, "delivered", ["filter.rules-duplicated"])
        finding = said.verdict["findings"][0]
        assert finding["severity"] == "warning"
        assert "120 times" in finding["title"]
    finally:
        lab.exec(["sh", "-c", f"while iptables -D INPUT {rule} 2>/dev/null; do :; done"])


#: One datagram from port 5000 of a container to a name server beyond.
DATAGRAM = "import socket; one = socket.socket(2, 2); one.bind(('', 5000)); one.sendto(b'x', ('8.8.8.8', 53))"


def test_an_entry_older_than_the_rules_keeps_its_translation(lab: Lab, askers: dict[str, Asker]) -> None:
    """A client that never pauses goes on untranslated after the rule is back; a new one is well."""
    rule = f"POSTROUTING -s {lab.facts['app'].subnet} ! -o {lab.facts['app'].bridge} -j MASQUERADE"
    question = ("app", "8.8.8.8", "--proto", "udp", "--port", "53")
    lab.check(["sh", "-c", f"iptables -t nat -D {rule}"])
    try:
        lab.check([sys.executable, "-c", DATAGRAM], "app")
    finally:
        lab.check(["sh", "-c", f"iptables -t nat -A {rule}"])
    said = ask(askers, lab, *question)
    assert (said.code, codes(said)) == (0, ["conntrack.stale-entry"])
    (command,) = said.verdict["findings"][0]["remedy"]["commands"]
    lab.check(["sh", "-c", command])
    assert codes(ask(askers, lab, *question)) == []


def test_an_address_of_the_uplinks_own_prefix_is_looked_for_on_the_link(
    plain_lab: Lab, askers: dict[str, Asker]
) -> None:
    lab, question = plain_lab, ("c1", "2001:4860:4860::8888", "-6")
    held, bridge = f"{lab.facts['uplink'].ip6.rpartition(':')[0]}:c1", lab.facts["c1"].bridge
    default = next(each for each in lab.check(["ip", "-6", "route"], "c1").splitlines() if each.startswith("default"))
    gateway = default.split()[2]
    lab.check(["ip", "-6", "addr", "add", f"{held}/128", "dev", "eth0", "nodad"], "c1")
    lab.check(["ip", "-6", "route", "add", f"{held}/128", "dev", bridge])
    lab.check(["ip", "-6", "route", "replace", "default", "via", gateway, "dev", "eth0", "src", held], "c1")
    try:
        said = ask(askers, lab, *question)
        assert told(said) == (1, "neigh.ndp-proxy-missing", "egress", "reply")
        for command in said.verdict["findings"][0]["remedy"]["commands"]:
            lab.check(["sh", "-c", command])
        # The kernel lets its proxy answer late (proxy_delay), and the router asks again after a second.
        assert any(ask(askers, lab, *question).code == 0 for _ in range(5))
    finally:
        lab.exec(["ip", "-6", "route", "replace", "default", "via", gateway, "dev", "eth0"], "c1")
        lab.exec(["ip", "-6", "addr", "del", f"{held}/128", "dev", "eth0"], "c1")
        lab.exec(["ip", "-6", "route", "del", f"{held}/128"])
        lab.exec(["ip", "-6", "neigh", "del", "proxy", held, "dev", "eth0"])
        lab.exec(["sysctl", "-qw", "net.ipv6.conf.eth0.proxy_ndp=0"])
    assert ask(askers, lab, *question).code == 0


def test_a_match_that_nobody_models_is_doubt_for_the_model_and_none_for_the_kernel(
    plain_lab: Lab, askers: dict[str, Asker]
) -> None:
    rule = "-m string --algo bm --string nobody-sends-this -j DROP"
    plain_lab.check(["sh", "-c", f"iptables -I FORWARD {rule}"])
    try:
        predicted = ask(askers, plain_lab, "app", "8.8.8.8", "--predict")
        assert (predicted.code, predicted.verdict["outcome"]) == (3, "inconclusive")
        assert "filter.unreadable-table" in codes(predicted)
        assert any("string" in each for each in predicted.verdict["assumptions"])
        assert ask(askers, plain_lab, "app", "8.8.8.8").code == 0
    finally:
        plain_lab.exec(["sh", "-c", f"iptables -D FORWARD {rule}"])


def test_a_frame_of_an_icc_network_that_skips_iptables_is_a_warning(docker_lab: Lab, askers: dict[str, Asker]) -> None:
    name = "net.bridge.bridge-nf-call-iptables"
    before = docker_lab.check(["sysctl", "-n", name]).strip()
    docker_lab.check(["sysctl", "-qw", f"{name}=0"])
    try:
        said = ask(askers, docker_lab, "n1", "n2")
        assert (said.code, said.verdict["outcome"]) == (0, "delivered")
        assert "sysctl.bridge-nf-call-off" in codes(said)
    finally:
        docker_lab.exec(["sysctl", "-qw", f"{name}={before}"])
    assert told(ask(askers, docker_lab, "n1", "n2"))[:2] == (1, "filter.icc-disabled")


@pytest.mark.parametrize(
    ("networks", "codes_of"),
    [
        (("bridge", "net1"), ("filter.network-isolation", "filter.direct-access-drop")),
        (("noicc", "noicc"), ("filter.icc-disabled",)),
        (("sealed", None), ("filter.internal-network",)),
    ],
    ids=["two networks", "icc off", "internal"],
)
def test_what_the_engine_keeps_apart_is_brought_together_by_what_is_printed(
    docker_lab: Lab, askers: dict[str, Asker], networks: tuple[str, str | None], codes_of: tuple[str, ...]
) -> None:
    """Networks cannot be changed in place: the remedy connects containers, with their own names in it."""
    made = [f"apart{number}" for number, network in enumerate(networks) if network is not None]
    for name, network in zip(made, networks, strict=False):
        run = ["docker", "run", "-d", "--name", name, "--stop-signal", "KILL", "--network", str(network)]
        docker_lab.check([*run, "busybox", "tail", "-f", "/dev/null"])
    question = (made[0], made[1] if len(made) > 1 else "8.8.8.8")
    try:
        said = ask(askers, docker_lab, *question)
        assert said.code == 1
        assert codes(said)[0] in codes_of
        for command in said.verdict["findings"][0]["remedy"]["commands"]:
            docker_lab.check(["sh", "-c", command])
        assert ask(askers, docker_lab, *question).code == 0
    finally:
        docker_lab.docker("rm", "-f", *made)
        docker_lab.exec(["sh", "-c", "docker network rm shared 2>/dev/null"])


@pytest.fixture
def third(docker_lab: Lab) -> Iterator[str]:
    """A container beside app and web that no question names; its process id."""
    docker_lab.run_container("third")
    try:
        yield docker_lab.docker("inspect", "-f", "{{.State.Pid}}", "third").strip()
    finally:
        docker_lab.docker("rm", "-f", "third")


def run(lab: Lab, *commands: str, where: str = "host") -> None:
    for command in commands:
        lab.check(["sh", "-c", command], where)


def mended_by_what_is_printed(lab: Lab, said: Said, name: str) -> None:
    """Paste the remedy, which must name the container that nobody asked about."""
    first = said.verdict["findings"][0]
    assert name in first["title"]
    for command in first["remedy"]["commands"]:
        run(lab, command)


def test_a_third_container_that_answers_for_the_destination(
    docker_lab: Lab, askers: dict[str, Asker], third: str
) -> None:
    """It lies on nobody's way; only its MAC address in an answer gives it away."""
    web = docker_lab.facts["web"]
    inside = f"nsenter -t {third} -n"
    run(docker_lab, f"{inside} ip addr add {web.ip}/16 dev eth0")  # type: ignore[attr-defined]
    run(docker_lab, "sysctl -qw net.ipv4.conf.all.arp_ignore=8", where="web")
    run(docker_lab, "ip neigh flush dev eth0", where="app")
    try:
        said = ask(askers, docker_lab, "app", "web")
        assert told(said) == (1, "addr.duplicate", "bridge", "forward")
        mended_by_what_is_printed(docker_lab, said, "third")
    finally:
        run(docker_lab, "sysctl -qw net.ipv4.conf.all.arp_ignore=0", where="web")
        run(docker_lab, "ip neigh flush dev eth0", where="app")
    assert told(ask(askers, docker_lab, "app", "web")) == (0, None, None, None)


def test_a_third_container_with_the_destinations_mac(docker_lab: Lab, askers: dict[str, Asker], third: str) -> None:
    """It was the last to send, and the bridge does not learn otherwise any more."""
    web = docker_lab.facts["web"]
    veth, mac = web.veth, web.mac  # type: ignore[attr-defined]
    run(docker_lab, f"bridge link set dev {veth} learning off")
    run(docker_lab, f"nsenter -t {third} -n ip link set eth0 address {mac}")
    docker_lab.docker("exec", "third", "ping", "-c", "1", "-W", "1", web.gateway)  # type: ignore[attr-defined]
    try:
        said = ask(askers, docker_lab, "app", "web", "--proto", "tcp", "--port", "80")
        assert told(said) == (1, "link.duplicate-mac", "bridge", "forward")
        mended_by_what_is_printed(docker_lab, said, "third")
    finally:
        run(docker_lab, f"bridge link set dev {veth} learning on")
        run(docker_lab, f"bridge fdb del {mac} dev {veth} master 2>/dev/null; true")
    docker_lab.docker("rm", "-f", "third")
    assert told(ask(askers, docker_lab, "app", "web", "--proto", "tcp", "--port", "80")) == (0, None, None, None)


def test_a_container_that_ends_whenever_it_is_started(docker_lab: Lab, askers: dict[str, Asker]) -> None:
    """Whether it is met alive or not, its being started again and again is what is told, and where to read why."""
    start = ["docker", "run", "-d", "--name", "looper", "--restart", "always", "-p", "8199:80"]
    docker_lab.check([*start, "busybox", "sh", "-c", "sleep 0.1; exit 1"])
    outside, uplink = f"netns:{docker_lab.inet}", docker_lab.facts["uplink"].ip
    try:
        # It takes a while until the engine waits longer than the container lives.
        for question in (
            (outside, uplink, "--proto", "tcp", "--port", "8199"),
            ("app", "looper"),
            ("looper", "8.8.8.8"),
        ):
            said = next(
                said
                for said in (ask(askers, docker_lab, *question) for _ in range(8))
                if said.out and codes(said)[:1] == ["engine.container-not-running"]
            )
            assert said.code == 1
            assert said.verdict["findings"][0]["remedy"]["commands"] == ["docker logs --tail 20 looper"]
    finally:
        docker_lab.docker("rm", "-f", "looper")


def test_an_engine_that_hangs_is_done_without_where_it_can_be(docker_lab: Lab, askers: dict[str, Asker]) -> None:
    """It takes calls and answers none; that it hangs is told as a gap, after seconds and not minutes."""
    dockerd = next(each.pid for each in docker_lab.state.processes if each.role == "dockerd")
    os.kill(dockerd, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        said = ask(askers, docker_lab, "host", "8.8.8.8")
        assert said.code == 0
        assert any("has not answered" in each["reason"] for each in said.verdict["gaps"])
        assert time.monotonic() - begun < 8
    finally:
        os.kill(dockerd, signal.SIGCONT)


def test_a_question_that_finds_nothing_prints_an_empty_list(plain_lab: Lab) -> None:
    done = plain_lab.nettrace(["path", "app", "8.8.8.8", "--json"])
    assert json.loads(done.stdout)["findings"] == []
