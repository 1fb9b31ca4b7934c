"""A real swarm of two engines: its overlay from one host, and with the other one asked over a real ssh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nettrace.lab.system import enter, run, wait_for
from tests.live.conftest import PREFIX, SYSTEM, engines
from tests.live.swarm import ADDRESSES, C1, C2, PORT, Swarm
from tests.live.warm import Asker, Said

pytestmark = pytest.mark.live

MAC1, MAC2 = "02:42:0a:00:4d:0b", "02:42:0a:00:4d:0c"
#: The engine of the mixed swarm's host a; its host b has the system's.
NEWER = next((each for each in engines() if each == "docker-28"), None)


@dataclass
class Asked:
    """A swarm, and a nettrace on its host a that answers."""

    swarm: Swarm
    asker: Asker

    def path(self, *args: str, peer: bool = False) -> Said:
        return self.asker.ask(["path", *args, "--json", *(self.swarm.peer if peer else [])])


@pytest.fixture(scope="module")
def alike() -> Iterator[Asked]:
    """A swarm of two of the system's engines."""
    yield from made("alike", None)


@pytest.fixture(scope="module")
def mixed() -> Iterator[Asked]:
    """A swarm of a newer engine, where one is at hand, and the system's."""
    yield from made("mixed", NEWER)


def made(name: str, engine: str | None) -> Iterator[Asked]:
    assert SYSTEM in engines(), "the system's Docker Engine is missing"
    with Swarm(f"{PREFIX}-{name}", (engine, None)) as swarm:
        os.environ["NETTRACE_SSH"] = swarm.ssh
        try:
            asker = Asker(swarm.labs["a"])
        finally:
            del os.environ["NETTRACE_SSH"]
        try:
            yield Asked(swarm, asker)
        finally:
            asker.close()


def again(side: str, vni: int, port: int = 4789) -> tuple[tuple[str, str], ...]:
    """Return the commands that make a host's vxlan device anew, as the engine makes it, but with these numbers."""
    mac, far, address = (MAC2, ADDRESSES["b"], C2) if side == "a" else (MAC1, ADDRESSES["a"], C1)
    return (
        (f"{side}/overlay", "ip link del vxlan0"),
        (side, f"ip link add vxlan0 type vxlan id {vni} dstport {port} proxy l2miss l3miss"),
        (side, "ip link set vxlan0 netns {overlay}"),
        (f"{side}/overlay", "ip link set vxlan0 mtu 1450 master br0 up"),
        (f"{side}/overlay", f"bridge fdb add {mac} dev vxlan0 dst {far} self permanent"),
        (f"{side}/overlay", f"ip neigh add {address} lladdr {mac} dev vxlan0 nud permanent"),
    )


def overlay_mtu(number: int) -> tuple[tuple[str, str], ...]:
    """Return the commands that give the overlay another MTU on both hosts."""
    return tuple(
        (where, f"ip link set {device} mtu {number}")
        for side, container in (("a", "c1"), ("b", "c2"))
        for where, device in (
            (f"{side}/overlay", "vxlan0"),
            (f"{side}/overlay", f"{{port_{side}}}"),
            (f"{side}/{container}", "eth0"),
        )
    )


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: what breaks it and what mends it (namespace, command), and what must be said of it."""

    name: str
    breaks: tuple[tuple[str, str], ...]
    mends: tuple[tuple[str, str], ...]
    code: str
    direction: str = "forward"
    segment: str = "underlay"
    at: str = ""
    verified: str | None = None
    extra: tuple[str, ...] = ()


FDB = f"{MAC2} dev vxlan0 dst {ADDRESSES['b']} self"
DROP = "udp -p udp --dport 4789 -j DROP".removeprefix("udp ")
SNAT = "POSTROUTING -p udp --dport 4789 -j SNAT --to 203.0.113.77"
SNAT_ON = (("a", "ip addr add 203.0.113.77/24 dev eth0"), ("a", f"iptables -t nat -I {SNAT}"), ("a", "{forget}"))
SNAT_OFF = (("a", f"iptables -t nat -D {SNAT}"), ("a", "ip addr del 203.0.113.77/24 dev eth0"), ("a", "{forget}"))

ONE_HOST = (
    Fault(
        name="no forwarding entry",
        breaks=(("a/overlay", f"bridge fdb del {FDB}"),),
        mends=(("a/overlay", f"bridge fdb add {FDB} permanent"),),
        code="overlay.peer-unknown",
        at="/vxlan0",
    ),
    Fault(
        name="no neighbour entry",
        breaks=(("a/overlay", f"ip neigh del {C2} dev vxlan0"), ("a/c1", "ip neigh flush dev eth0")),
        mends=(("a/overlay", f"ip neigh add {C2} lladdr {MAC2} dev vxlan0 nud permanent"),),
        code="overlay.peer-unknown",
        at="/vxlan0",
    ),
    Fault(
        name="the tunnel may not leave",
        breaks=(("a", f"iptables -A OUTPUT {DROP}"),),
        mends=(("a", f"iptables -D OUTPUT {DROP}"),),
        code="overlay.underlay-blocked",
        at="host/eth0",
        verified="yes",
    ),
    Fault(
        name="the far host does not let it in",
        breaks=(("b", f"iptables -A INPUT {DROP}"),),
        mends=(("b", f"iptables -D INPUT {DROP}"),),
        code="remote.no-reply",
        direction="reply",
        segment="remote",
        at="host/eth0",
    ),
    Fault(
        name="no room for the tunnel",
        breaks=overlay_mtu(1500),
        mends=overlay_mtu(1450),
        code="mtu.overlay-overhead",
        at="host/eth0",
        extra=("--size", "1500"),
    ),
    Fault(
        name="the tunnel's source is translated",
        breaks=SNAT_ON,
        mends=SNAT_OFF,
        code="overlay.vtep-address",
        at="host/eth0",
        verified="yes",
    ),
    Fault(
        name="an entry for a host that is none",
        breaks=(("a/overlay", f"bridge fdb replace {MAC2} dev vxlan0 dst 203.0.113.99 self permanent"),),
        mends=(("a/overlay", f"bridge fdb replace {FDB} permanent"),),
        code="overlay.vtep-address",
        at="/vxlan0",
    ),
    Fault(name="another id here", breaks=again("a", 9999), mends=again("a", 4097), code="overlay.vni-mismatch",
          at="/vxlan0", verified="yes"),
    Fault(
        name="the overlay's port is down",
        breaks=(("a/overlay", "ip link set {port_a} down"),),
        mends=(("a/overlay", "ip link set {port_a} up"),),
        code="link.down",
        segment="source",
        verified="yes",
    ),
    Fault(
        name="the container's interface is down",
        breaks=(("a/c1", "ip link set eth0 down"),),
        mends=(("a/c1", "ip link set eth0 up"), ("a/c1", f"ip route replace 10.0.77.0/24 dev eth0 src {C1}")),
        code="link.down",
        segment="source",
        at="c1/eth0",
        verified="yes",
    ),
    Fault(
        name="the overlay's route is gone",
        breaks=(("a/c1", "ip route del 10.0.77.0/24"),),
        mends=(("a/c1", f"ip route add 10.0.77.0/24 dev eth0 src {C1}"),),
        code="route.missing",
        segment="source",
        at="c1/eth0",
        verified="yes",
    ),
)  # fmt: skip

TWO_HOSTS = (
    Fault(
        name="the far host does not let it in",
        breaks=(("b", f"iptables -A INPUT {DROP}"),),
        mends=(("b", f"iptables -D INPUT {DROP}"),),
        code="overlay.underlay-blocked",
        at="b:host/eth0",
        verified="yes",
    ),
    Fault(
        name="the far host does not let the answer out",
        breaks=(("b", f"iptables -A OUTPUT {DROP}"),),
        mends=(("b", f"iptables -D OUTPUT {DROP}"),),
        code="overlay.underlay-blocked",
        direction="reply",
        at="b:host/eth0",
        verified="yes",
    ),
    Fault(
        name="lost between the hosts",
        breaks=(
            ("inet", "nft add table bridge between"),
            ("inet", "nft 'add chain bridge between f { type filter hook forward priority 0; }'"),
            ("inet", "nft add rule bridge between f udp dport 4789 drop"),
        ),
        mends=(("inet", "nft delete table bridge between"),),
        code="overlay.underlay-blocked",
        at="host/eth0",
    ),
    Fault(
        name="the far container does not take it",
        breaks=(("b/c2", f"iptables -A INPUT -s {C1} -j DROP"),),
        mends=(("b/c2", f"iptables -D INPUT -s {C1} -j DROP"),),
        code="filter.container-drop",
        segment="destination",
        at="b:c2/eth0",
        verified="yes",
    ),
    Fault(
        name="the far host does not know the way back",
        breaks=(("b/overlay", f"ip neigh del {C1} dev vxlan0"), ("b/c2", "ip neigh flush dev eth0")),
        mends=(("b/overlay", f"ip neigh add {C1} lladdr {MAC1} dev vxlan0 nud permanent"),),
        code="overlay.peer-unknown",
        direction="reply",
        at="/vxlan0",
    ),
    Fault(
        name="the tunnel's source is translated",
        breaks=SNAT_ON,
        mends=SNAT_OFF,
        code="overlay.vtep-address",
        at="/vxlan0",
        verified="yes",
    ),
    Fault(name="another id there", breaks=again("b", 9999), mends=again("b", 4097), code="overlay.vni-mismatch",
          at="/vxlan0", verified="yes"),
    Fault(name="another port there", breaks=again("b", 4097, 8472), mends=again("b", 4097),
          code="overlay.vni-mismatch", at="/vxlan0", verified="yes"),
    Fault(
        name="the far container's interface is down",
        breaks=(("b/c2", "ip link set eth0 down"),),
        mends=(("b/c2", "ip link set eth0 up"), ("b/c2", f"ip route replace 10.0.77.0/24 dev eth0 src {C2}")),
        code="link.down",
        segment="destination",
        at="b:c2/eth0",
        verified="yes",
    ),
)  # fmt: skip


def carry_out(swarm: Swarm, commands: tuple[tuple[str, str], ...]) -> None:
    for where, command in commands:
        side = where[0] if where[0] in ADDRESSES else "a"
        filled = command
        if "{" in command and "nft" not in command:
            filled = command.format(
                overlay=swarm.hidden(side),
                port_a=swarm.port("a", "c1"),
                port_b=swarm.port("b", "c2"),
                # A tunnel that is known already is translated as before.
                forget="conntrack -D -p udp 2>/dev/null; true",
            )
        swarm.run(where, filled)


def check(said: Said, fault: Fault) -> dict[str, Any]:
    verdict = said.verdict
    assert said.code == 1, said.out
    first, stop = verdict["findings"][0], verdict["stop"]
    assert (first["code"], stop["direction"], stop["segment"]) == (fault.code, fault.direction, fault.segment), said.out
    assert first["at"].endswith(fault.at), first["at"]
    if fault.verified is not None:
        assert first["remedy"]["verified"] == fault.verified
    assert "model.contradicted" not in [each["code"] for each in verdict["findings"]], said.out
    return verdict


@pytest.mark.parametrize("fault", ONE_HOST, ids=lambda fault: fault.name)
def test_a_fault_is_named_from_one_host(alike: Asked, fault: Fault) -> None:
    asked = alike
    carry_out(asked.swarm, fault.breaks)
    try:
        verdict = check(asked.path("c1", C2, *fault.extra), fault)
        if fault.code == "remote.no-reply":
            # What nobody here can see is said: what the other side has to do.
            assert "VXLAN" in verdict["findings"][0]["explanation"]
            assert ADDRESSES["b"] in verdict["findings"][0]["remedy"]["summary"]
        else:
            check(asked.path("c1", C2, "--predict", *fault.extra), fault)
    finally:
        carry_out(asked.swarm, fault.mends)
    asked.swarm.wait_until_whole()


@pytest.mark.parametrize("fault", TWO_HOSTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_with_both_hosts(mixed: Asked, fault: Fault) -> None:
    asked = mixed
    carry_out(asked.swarm, fault.breaks)
    try:
        verdict = check(asked.path("c1", "b:c2", peer=True), fault)
    finally:
        carry_out(asked.swarm, fault.mends)
    asked.swarm.wait_until_whole()
    first = verdict["findings"][0]
    assert first["remedy"]["summary"].startswith("On b: ") == first["at"].startswith("b:")
    assert [gap for gap in verdict["gaps"] if gap["section"] in ("peer", "capture")] == []


@pytest.mark.parametrize("which", ["alike", "mixed"])
def test_the_overlay_delivers_from_one_host(which: str, request: pytest.FixtureRequest) -> None:
    asked: Asked = request.getfixturevalue(which)
    for args in (("c1", C2), ("c1", C2, "--proto", "tcp", "--port", "80"), ("c1", "c2"), ("c1", C2, "--predict")):
        said = asked.path(*args)
        assert (said.code, said.verdict["findings"]) == (0, []), said.out
        devices = [hop["device"] for hop in said.verdict["hops"] if hop["direction"] == "forward"]
        assert devices == ["eth0", asked.swarm.port("a", "c1"), "vxlan0", "eth0"]
        assert {hop["agreement"] for hop in said.verdict["hops"]} <= {"agree", "unchecked"}


def test_what_is_not_for_the_overlay_goes_by_docker_gwbridge(alike: Asked) -> None:
    asked = alike
    said = asked.path("c1", "8.8.8.8")
    assert said.code == 0, said.out
    assert "host/docker_gwbridge" in [hop["point"] for hop in said.verdict["hops"]]
    listed = asked.swarm.labs["a"].check(["iptables", "-t", "nat", "-S", "POSTROUTING"])
    rule = next(line for line in listed.splitlines() if "! -o docker_gwbridge" in line)
    asked.swarm.run("a", f"iptables -t nat -D {rule.removeprefix('-A ')}")
    try:
        said = asked.path("c1", "8.8.8.8")
    finally:
        asked.swarm.run("a", f"iptables -t nat {rule}")
    assert (said.code, said.verdict["findings"][0]["code"]) == (1, "nat.masquerade-missing"), said.out


def test_into_an_overlay_nothing_leads_from_outside(alike: Asked) -> None:
    alike.swarm.api("a").call("POST", "/networks/create", {"Name": "apart", "Driver": "overlay", "Attachable": True})
    alike.swarm.api("a").call(
        "POST",
        "/containers/create",
        {"Image": "busybox:latest", "Cmd": ["tail", "-f", "/dev/null"], "StopSignal": "SIGKILL",
         "HostConfig": {"NetworkMode": "apart"}},
        query={"name": "lone"},
    )  # fmt: skip
    alike.swarm.api("a").call("POST", "/containers/lone/start")
    for src in ("c1", "host"):
        for extra in ((), ("--predict",)):
            said = alike.path(src, "container:lone", *extra)
            assert (said.code, said.verdict["findings"][0]["code"]) == (1, "engine.no-network"), said.out
            assert (said.verdict["stop"]["direction"], said.verdict["stop"]["segment"]) == ("forward", "source")
    # Both hang on docker_gwbridge as well, which lets them out and keeps them apart.
    listed = run([*enter(alike.swarm.space("a/lone")), "ip", "-j", "address", "show", "eth1"], "lone")
    said = alike.path("c1", json.loads(listed)[0]["addr_info"][0]["local"])
    assert (said.code, said.verdict["findings"][0]["code"]) == (1, "filter.icc-disabled"), said.out


def test_a_services_port_is_followed_to_the_load_balancer(alike: Asked) -> None:
    """This kernel has no IPVS, so no engine builds the routing mesh here: its rules are written by hand."""
    swarm, question = alike.swarm, ("host", ADDRESSES["a"], "--proto", "tcp", "--port", "8088")
    ports = [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8088, "PublishMode": "ingress"}]
    service = swarm.api("a").call(
        "POST",
        "/services/create",
        {
            "Name": "shop",
            "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest"}},
            "Mode": {"Replicated": {"Replicas": 0}},
            "EndpointSpec": {"Ports": ports},
        },
    )
    key = Path(swarm.hidden("a")).with_name("ingress_sbox")
    listed = json.loads(run([*enter(str(key)), "ip", "-j", "address", "show", "eth1"], "the load balancer"))
    inside = next(each["local"] for each in listed[0]["addr_info"] if each["family"] == "inet")
    mesh = f"-p tcp --dport 8088 -j DNAT --to-destination {inside}:8088"
    try:
        said = alike.path(*question)
        assert (said.code, said.verdict["findings"][0]["code"]) == (1, "nat.dnat-missing"), said.out
        assert "shop" in said.verdict["findings"][0]["title"]
        swarm.run("a", "iptables -t nat -N DOCKER-INGRESS", f"iptables -t nat -A DOCKER-INGRESS {mesh}")
        swarm.run("a", "iptables -t nat -I OUTPUT -m addrtype --dst-type LOCAL -j DOCKER-INGRESS")
        said = alike.path(*question)
    finally:
        swarm.run("a", "iptables -t nat -D OUTPUT -m addrtype --dst-type LOCAL -j DOCKER-INGRESS || true")
        swarm.run("a", "iptables -t nat -F DOCKER-INGRESS && iptables -t nat -X DOCKER-INGRESS || true")
        swarm.api("a").call("DELETE", f"/services/{service['ID']}")
    assert (said.code, said.verdict["findings"]) == (3, []), said.out
    assert "ingress_sbox/eth1" in [hop["point"] for hop in said.verdict["hops"] if hop["observed"] == "seen"]
    assert any("IPVS" in gap["reason"] for gap in said.verdict["gaps"])


def test_an_encrypted_overlay_is_recognised_and_not_judged(alike: Asked) -> None:
    swarm = alike.swarm
    body = {"Name": "veiled", "Driver": "overlay", "Attachable": True, "Options": {"encrypted": ""},
            "IPAM": {"Config": [{"Subnet": "10.0.78.0/24"}]}}  # fmt: skip
    swarm.api("a").call("POST", "/networks/create", body)
    swarm.container("a", "v1", "veiled", "10.0.78.11")
    swarm.container("b", "v2", "veiled", "10.0.78.12")
    said = alike.path("v1", "10.0.78.12")
    assert [gap["section"] for gap in said.verdict["gaps"]].count("xfrm") == 1
    # Whether packets pass depends on this kernel's IPsec; what is between the hosts is sought by nobody.
    assert said.code in (0, 3), said.out
    assert "model.contradicted" not in [each["code"] for each in said.verdict["findings"]]
    assert {hop["observed"] for hop in said.verdict["hops"] if hop["point"] == "host/eth0"} == {"blind"}
    assert alike.path("v1", "10.0.78.12", "--predict").code == 3


def test_both_halves_are_one_path(mixed: Asked) -> None:
    for args in (("c1", "b:c2"), ("c1", "c2", "--proto", "tcp", "--port", "80"), ("c1", C2)):
        said = mixed.path(*args, peer=True)
        verdict = said.verdict
        assert (said.code, verdict["findings"]) == (0, []), said.out
        assert [gap for gap in verdict["gaps"] if gap["section"] in ("peer", "capture")] == []
        hidden = Path(mixed.swarm.hidden("a")).name
        near = ["c1/eth0", f"{hidden}/{mixed.swarm.port('a', 'c1')}", f"{hidden}/vxlan0", "host/eth0"]
        far = ["b:host/eth0", f"b:{hidden}/vxlan0", f"b:{hidden}/{mixed.swarm.port('b', 'c2')}", "b:c2/eth0"]
        way = near + far
        hops = [(hop["direction"], hop["point"]) for hop in verdict["hops"]]
        assert hops == [("forward", each) for each in way] + [("reply", each) for each in reversed(way)]
        assert {hop["agreement"] for hop in verdict["hops"]} == {"agree"}
        times = [hop["at_ns"] for hop in verdict["hops"]]
        assert times == sorted(times)
    predicted = mixed.path("c1", "b:c2", "--predict", peer=True)
    assert (predicted.code, predicted.verdict["outcome"]) == (0, "delivered")


def test_a_far_port_that_nobody_listens_on(mixed: Asked) -> None:
    said = mixed.path("c1", "b:c2", "--proto", "tcp", "--port", "81", peer=True)
    assert (said.code, said.verdict["findings"][0]["code"]) == (1, "port.not-listening"), said.out
    assert said.verdict["stop"]["segment"] == "destination"


def test_a_far_container_that_does_not_run(mixed: Asked) -> None:
    api = mixed.swarm.api("b")
    created = api.call("POST", "/containers/create", {"Image": "busybox:latest"}, query={"name": "idle"})
    try:
        said = mixed.path("c1", "b:idle", peer=True)
    finally:
        api.call("DELETE", f"/containers/{created['Id']}")
    assert (said.code, said.verdict["findings"][0]["code"]) == (1, "engine.container-not-running"), said.out
    assert said.verdict["stop"]["segment"] == "destination"


def test_the_far_host_itself_is_reached_outside_of_any_tunnel(mixed: Asked) -> None:
    said = mixed.path("host", ADDRESSES["b"], "--proto", "tcp", "--port", str(PORT), peer=True)
    assert (said.code, said.verdict["findings"]) == (0, []), said.out
    assert [hop["point"] for hop in said.verdict["hops"]][:2] == ["host/eth0", "b:host/eth0"]
    mixed.swarm.run("b", "iptables -A INPUT -p icmp -j DROP")
    try:
        said = mixed.path("host", ADDRESSES["b"], peer=True)
    finally:
        mixed.swarm.run("b", "iptables -D INPUT -p icmp -j DROP")
    assert (said.code, said.verdict["findings"][0]["code"]) == (1, "filter.input-drop"), said.out
    assert said.verdict["findings"][0]["at"] == "b:host/eth0"


def test_a_name_that_both_hosts_know_is_ambiguous(mixed: Asked) -> None:
    made = mixed.swarm.container("b", "c1", "ov1", "10.0.77.21")
    try:
        said = mixed.path("c1", "c1", peer=True)
    finally:
        mixed.swarm.api("b").call("DELETE", f"/containers/{made}", query={"force": "1"})
    assert said.code == 4
    assert "container:c1" in said.err
    assert "b:c1" in said.err


def test_a_peer_that_cannot_be_asked_is_a_gap_unless_it_is_the_destination(mixed: Asked) -> None:
    closed = ["--peer", f"b=ssh://root@{ADDRESSES['b']}:{PORT + 1}", "--json"]
    said = mixed.asker.ask(["path", "c1", C2, *closed])
    assert (said.code, said.verdict["outcome"]) == (0, "delivered"), said.err
    gaps = [gap for gap in said.verdict["gaps"] if gap["section"] == "peer"]
    assert len(gaps) == 1
    assert "Connection refused" in gaps[0]["reason"]
    said = mixed.asker.ask(["path", "c1", "b:c2", *closed])
    assert (said.code, said.out) == (4, "")
    assert "Connection refused" in said.err


def far_halves(mixed: Asked) -> list[int]:
    """Return the processes on host b that are nettrace's far half."""
    inode = os.stat(mixed.swarm.space("b")).st_ino
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"_peer" in words and os.stat(entry / "ns/net").st_ino == inode:
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def test_the_far_half_ends_with_the_near_one_however_that_ends(mixed: Asked) -> None:
    mixed.path("c1", "b:c2", peer=True)
    wait_for(lambda: not far_halves(mixed), "the far half is still there", timeout_s=10)
    lab = mixed.swarm.labs["a"]
    argv = [sys.executable, "-m", "nettrace", "path", "c1", "b:c2", "--count", "100", *mixed.swarm.peer]
    child = subprocess.Popen(
        [*enter(lab.host), *argv], env=lab.environment({"NETTRACE_SSH": mixed.swarm.ssh}), stdout=subprocess.DEVNULL
    )
    wait_for(lambda: bool(far_halves(mixed)), "there is no far half", timeout_s=20)
    time.sleep(0.5)
    child.kill()
    child.wait()
    wait_for(lambda: not far_halves(mixed), "the far half is still there", timeout_s=10)
    listed = json.loads(lab.check(["nft", "-j", "list", "tables"]))
    names = [each["table"]["name"] for each in listed["nftables"] if "table" in each]
    assert [name for name in names if "nettrace" in name] == []
