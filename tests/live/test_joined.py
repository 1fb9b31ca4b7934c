"""Containers without a bridge port of their own: those that share another's network, the host's, or have none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nettrace.lab import Lab

from .warm import Asker, Said

pytestmark = pytest.mark.live

#: Further containers: name, options of `docker run`, in the order in which they must start.
RUN = {
    "pod": "--network container:c1",
    "sidecar": "--network container:web",
    "hn": "--network host",
    "lone": "--network none",
    "left": "--network net1",
    "owner": "--network net1",
    "orphan": "--network container:owner",
}
TCP80 = ("--proto", "tcp", "--port", "80")


@pytest.fixture(scope="module")
def askers() -> Iterator[dict[str, Asker]]:
    made: dict[str, Asker] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def shared(docker_lab: Lab, askers: dict[str, Asker]) -> Asker:
    """Ask in a lab that has the containers above; `owner` is stopped, and `left` disconnected."""
    if docker_lab.name not in askers:
        run = [
            f"docker run -d --name {name} --stop-signal KILL {options} busybox tail -f /dev/null"
            for name, options in RUN.items()
        ]
        script = "; ".join([*run, "docker kill owner", "docker network disconnect net1 left"])
        docker_lab.check(["sh", "-ec", script])
        askers[docker_lab.name] = Asker(docker_lab)
    return askers[docker_lab.name]


def ask(asker: Asker, *args: str) -> Said:
    said = asker.ask_and_replay(["path", *args, "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def codes(said: Said) -> list[str]:
    return [each["code"] for each in said.verdict["findings"]]


HOSTED = "--network host"
HEALTHY: dict[str, tuple[tuple[str, ...], str]] = {
    "joined, out": (("pod", "8.8.8.8"), "pod shares the network of c1; eth0 is c1's"),
    "joined, a name": (("pod", "example.org"), "pod shares the network of c1; eth0 is c1's"),
    "to a joined one": (("app", "sidecar", *TCP80), "sidecar shares the network of web; eth0 is web's"),
    "both joined": (("pod", "c1"), "pod and c1 are in one network namespace"),
    "host, out": (("hn", "8.8.8.8"), HOSTED),
    "host, to a container": (("hn", "web", *TCP80), HOSTED),
    "to the host's network": (("app", "hn"), HOSTED),
}


@pytest.mark.parametrize(("args", "note"), HEALTHY.values(), ids=HEALTHY)
def test_what_is_healthy_is_delivered_and_told(shared: Asker, args: tuple[str, ...], note: str) -> None:
    said = ask(shared, *args)
    assert (said.code, said.verdict["outcome"], codes(said)) == (0, "delivered", [])
    assert any(note in each for each in said.verdict["notes"])


def test_the_hosts_network_has_no_veth_and_no_bridge(shared: Asker) -> None:
    hops = ask(shared, "hn", "8.8.8.8").verdict["hops"]
    assert {hop["point"] for hop in hops} == {"host/eth0"}


def test_two_of_one_namespace_meet_on_its_loopback(shared: Asker) -> None:
    said = ask(shared, "sidecar", "web", *TCP80)
    assert {hop["point"] for hop in said.verdict["hops"]} == {"web/lo"}
    said = ask(shared, "web", "sidecar", "--proto", "tcp", "--port", "81")
    assert codes(said) == ["port.not-listening"]


def test_a_namespace_asked_for_as_such_is_known_by_its_container(docker_lab: Lab, shared: Asker) -> None:
    pid = docker_lab.docker("inspect", "-f", "{{.State.Pid}}", "c1").strip()
    said = ask(shared, f"pid:{pid}", "8.8.8.8")
    assert (said.code, said.verdict["notes"]) == (
        0,
        [f"pid:{pid} is the network namespace of container c1; eth0 is c1's"],
    )


BARE: dict[str, tuple[tuple[str, ...], str, str]] = {
    "none, from": (("lone", "8.8.8.8"), "source", "mode none"),
    "none, to": (("app", "lone"), "destination", "mode none"),
    "none, a name": (("lone", "example.org"), "source", "mode none"),
    "disconnected, from": (("left", "8.8.8.8"), "source", "any more"),
    "disconnected, to": (("c1", "left"), "destination", "any more"),
    "owner stopped, from": (("orphan", "8.8.8.8"), "source", "owner, which is exited"),
    "owner stopped, to": (("c1", "orphan"), "destination", "owner, which is exited"),
}


@pytest.mark.parametrize(("args", "segment", "words"), BARE.values(), ids=BARE)
def test_no_network_is_named_at_either_end(shared: Asker, args: tuple[str, ...], segment: str, words: str) -> None:
    said = ask(shared, *args)
    assert (said.code, said.verdict["outcome"], codes(said)) == (1, "stopped", ["engine.no-network"])
    assert said.verdict["stop"]["segment"] == segment
    assert words in said.verdict["findings"][0]["explanation"]


#: Faults of the owner's, asked about by the one that shares its network: where, break, mend, question, code, segment.
FAULTS: dict[str, tuple[str, str, str, tuple[str, ...], str, str]] = {
    "joined: no address": (
        "c1",
        "ip addr flush dev eth0",
        "ip addr add {c1.cidr} brd + dev eth0 && ip route replace default via {c1.gateway}",
        ("pod", "8.8.8.8"),
        "addr.missing",
        "source",
    ),
    "joined: a rule inside": (
        "web",
        "iptables -I INPUT -p tcp --dport 80 -j DROP",
        "iptables -D INPUT -p tcp --dport 80 -j DROP",
        ("app", "sidecar", *TCP80),
        "filter.container-drop",
        "destination",
    ),
    "joined: loopback down": ("c1", "ip link set lo down", "ip link set lo up", ("pod", "c1"), "link.down", "source"),
    "host: INPUT drops": (
        "host",
        "iptables -I INPUT -i docker0 -p icmp -j DROP",
        "iptables -D INPUT -i docker0 -p icmp -j DROP",
        ("app", "hn"),
        "filter.input-drop",
        "host",
    ),
    "host: OUTPUT drops": (
        "host",
        "iptables -I OUTPUT -d 8.8.8.8 -j DROP",
        "iptables -D OUTPUT -d 8.8.8.8 -j DROP",
        ("hn", "8.8.8.8"),
        "filter.rule-drop",
        "source",
    ),
    "host: no route": (
        "host",
        "ip route del default",
        "ip route add default via {uplink.gateway} dev eth0",
        ("hn", "8.8.8.8"),
        "route.missing",
        "source",
    ),
    "host: nothing listens": (
        "host",
        "true",
        "true",
        ("app", "hn", "--proto", "tcp", "--port", "8099"),
        "port.not-listening",
        "destination",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_for_whoever_uses_the_network(docker_lab: Lab, shared: Asker, name: str) -> None:
    where, breaks, mends, args, code, segment = FAULTS[name]
    mends = mends.format(c1=Held(docker_lab), uplink=docker_lab.facts["uplink"])
    docker_lab.check(["sh", "-ec", breaks], where)
    try:
        said = ask(shared, *args)
    finally:
        docker_lab.check(["sh", "-ec", mends], where)
    assert (said.code, codes(said)[0], said.verdict["stop"]["segment"]) == (1, code, segment), codes(said)


class Held:
    """What c1 holds, read before it is broken."""

    def __init__(self, lab: Lab) -> None:
        facts = lab.facts["c1"]
        self.cidr, self.gateway = facts.cidr, facts.gateway  # type: ignore[attr-defined]


def test_who_is_left_behind_by_a_restart_is_told_to_follow(docker_lab: Lab, shared: Asker) -> None:
    docker_lab.docker("start", "owner")
    try:
        said = ask(shared, "orphan", "8.8.8.8")
        assert codes(said) == ["engine.no-network"]
        assert "started anew" in said.verdict["findings"][0]["explanation"]
        docker_lab.docker("restart", "-t", "0", "orphan")
        assert ask(shared, "orphan", "8.8.8.8").code == 0
    finally:
        docker_lab.docker("kill", "owner")


def test_a_published_port_of_the_owner_serves_who_shares_its_network(docker_lab: Lab, shared: Asker) -> None:
    assert docker_lab.state.inet is not None
    outside = f"netns:{docker_lab.state.inet.path}"
    said = ask(shared, outside, "203.0.113.2", "--proto", "tcp", "--port", "8080")
    assert (said.code, codes(said)) == (0, [])
    assert said.verdict["hops"][-1]["point"].endswith("/br0")
