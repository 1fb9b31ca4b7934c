"""What engines answer becomes Intent: listings of Docker 20.10 and 28.5, recorded, and Podman's ways with them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.collect.engines import Candidate, find_engines
from nettrace.collect.engines.docker import (
    DockerEngine,
    docker_endpoint,
    merge_inspected,
    parse_container,
    parse_engine,
    parse_network,
    parse_podman_network,
    parse_podman_rootless,
    parse_service,
    with_gateways,
    with_network_ids,
)
from nettrace.collect.held import mark_held
from nettrace.collect.intents import Intents
from nettrace.collect.places import Places
from nettrace.collect.resolve import one_hosts, parse_endpoint
from nettrace.errors import EngineError, UsageError
from nettrace.model.base import Present
from nettrace.model.intent import Container, Endpoint, Intent
from nettrace.model.snapshot import Namespace, Socket
from nettrace.netns import current

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "docker.json").read_text())


PODMAN: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "podman-4.3.1.json").read_text())


@pytest.fixture(params=sorted(RECORDED))
def recorded(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    return dict(RECORDED[request.param])


def test_docker_networks(recorded: Mapping[str, Any]) -> None:
    networks = {each.name: each for each in (parse_network(row, "docker") for row in recorded["networks"])}
    bridge, noicc = networks["bridge"], networks["noicc"]
    assert (bridge.bridge, bridge.icc, bridge.masquerade, bridge.mtu) == ("docker0", True, True, 1500)
    assert str(bridge.host_binding) == "0.0.0.0"
    assert bridge.subnets[0].subnet == ip_network("172.17.0.0/16")
    assert noicc.bridge == f"br-{noicc.id[:12]}"
    assert (noicc.icc, noicc.masquerade, noicc.mtu) == (False, None, None)
    assert noicc.options == {"com.docker.network.bridge.enable_icc": "false"}


def test_docker_containers(recorded: Mapping[str, Any]) -> None:
    containers = {each.name: each for each in (parse_container(row, "docker") for row in recorded["containers"])}
    web = containers["web"]
    (endpoint,) = web.endpoints
    row = next(row for row in recorded["containers"] if row["Names"] == ["/web"])
    told = row["NetworkSettings"]["Networks"]["bridge"]
    assert endpoint.ipv4 == ip_interface(f"{told['IPAddress']}/16")
    assert endpoint.mac == told["MacAddress"]
    assert endpoint.gateway == ip_address("172.17.0.1")
    assert (endpoint.ipv6, endpoint.gateway6) == (None, None)
    assert ("tcp", 80, 8080) in {(port.proto, port.container_port, port.host_port) for port in web.ports}
    assert (web.status, web.mode, web.joined, web.pid, web.netns) == ("running", "bridge", None, None, None)
    whole = merge_inspected(web, recorded["inspected"], 4026531840)
    assert whole.pid == recorded["inspected"]["State"]["Pid"]
    assert whole.netns == 4026531840
    assert whole.endpoints[0].ipv4 == endpoint.ipv4
    assert set(web.ports) == set(whole.ports)
    networks = with_gateways([parse_network(row, "docker") for row in recorded["networks"]], [web])
    assert all(pool.gateway == pool.subnet[1] for network in networks for pool in network.subnets)


def test_engine_versions(recorded: Mapping[str, Any]) -> None:
    engine = parse_engine(recorded["version"], {}, "docker", "unix:///x")
    assert engine.name == "docker"
    assert engine.version == recorded["version"]["Version"]
    assert engine.swarm is None


def test_swarm_and_firewall_are_told() -> None:
    info = {"Swarm": {"NodeID": "n1", "LocalNodeState": "active"}, "FirewallBackend": {"Driver": "nftables"}}
    engine = parse_engine({"Version": "29.0.0", "ApiVersion": "1.52"}, info, "docker", "unix:///x")
    assert (engine.swarm, engine.firewall_backend, engine.api) == ("n1", "nftables", "1.52")
    assert parse_engine({}, {"Swarm": {"NodeID": "", "LocalNodeState": "inactive"}}, "docker", "").swarm is None


def test_what_a_swarm_says_of_its_networks_and_services() -> None:
    row = {
        "Id": "xlz8hdipdm5kjtomovrme6umg",
        "Name": "ov1",
        "Driver": "overlay",
        "Scope": "swarm",
        "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097,4098", "encrypted": ""},
        "Peers": [{"Name": "6a71a3318289", "IP": "203.0.113.2"}, {"Name": "b", "IP": "203.0.113.3"}, {"Name": "odd"}],
    }
    network = parse_network(row, "docker")
    assert (network.vnis, network.encrypted) == ((4097, 4098), True)
    assert [str(each) for each in network.nodes] == ["203.0.113.2", "203.0.113.3"]
    plain = parse_network({**row, "Options": None, "Peers": None}, "docker")
    assert (plain.vnis, plain.encrypted, plain.nodes) == ((), False, ())
    ports = [
        {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 5353, "PublishMode": "ingress"},
        {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8088, "PublishMode": "host"},
        {"Protocol": "tcp", "TargetPort": 81},
    ]
    service = parse_service({"ID": "x", "Spec": {"Name": "shop"}, "Endpoint": {"Ports": ports}}, "docker")
    assert service.name == "shop"
    assert [(each.proto, each.host_port, each.container_port) for each in service.ports] == [("udp", 5353, 53)]
    assert parse_service({"ID": "x"}, "docker").ports == ()


def test_podman_names_itself_among_the_components() -> None:
    engine = parse_engine(PODMAN["version"], {}, "docker", "unix:///x")
    assert (engine.name, engine.version, engine.rootless) == ("podman", "4.3.1", False)


def test_podman_networks_are_those_of_its_own_api() -> None:
    networks = {each.name: each for each in map(parse_podman_network, PODMAN["networks"])}
    assert {name: each.bridge for name, each in networks.items()} == {
        "podman": "podman0",
        "net1": "podman1",
        "sealed": "podman2",
        "six": "podman3",
    }
    assert [str(pool.gateway) for pool in networks["six"].subnets] == ["fd00:7::1", "10.89.2.1"]
    assert (networks["six"].ipv6, networks["sealed"].internal, networks["net1"].internal) == (True, True, False)
    assert (networks["net1"].dns, networks["podman"].dns) == (True, False)
    # Its Docker API calls the default network by another name, and knows no device.
    assert "bridge" in {each["Name"] for each in PODMAN["compat_networks"]}


def test_podman_endpoints_lead_to_their_networks() -> None:
    networks = tuple(map(parse_podman_network, PODMAN["networks"]))
    ids = {each.name: each.id for each in networks}
    containers = [with_network_ids(parse_container(row, "podman"), networks) for row in PODMAN["containers"]]
    assert len(containers) == 6
    for container in containers:
        (endpoint,) = container.endpoints
        assert endpoint.network_id == ids[endpoint.network]
    six = next(each for each in containers if each.name == "s6")
    whole = with_network_ids(merge_inspected(six, PODMAN["inspect"]["s6"], 4026531840), networks)
    assert whole.endpoints[0].network_id == ids["six"]
    assert whole.endpoints[0].ipv6 == ip_interface("fd00:7::2/64")
    assert whole.pid == PODMAN["inspect"]["s6"]["State"]["Pid"]


def test_podman_macvlan_and_options() -> None:
    row = {"name": "mv", "id": "ab", "driver": "macvlan", "network_interface": "eth0", "options": {"mtu": "1400"}}
    network = parse_podman_network(row)
    assert (network.parent, network.bridge, network.mtu, network.subnets) == ("eth0", None, 1400, ())


@pytest.mark.parametrize(
    ("info", "rootless"),
    [
        ({"host": {"security": {"rootless": True}}}, True),
        ({"host": {"security": {"rootless": False}}}, False),
        ({}, False),
    ],
)
def test_podman_says_whether_a_plain_user_runs_it(info: dict[str, Any], rootless: bool) -> None:
    assert parse_podman_rootless(info) is rootless


def test_docker_says_whether_a_plain_user_runs_it() -> None:
    info = {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]}
    assert parse_engine({}, info, "docker", "").rootless is True
    assert parse_engine({}, {"SecurityOptions": ["name=seccomp"]}, "docker", "").rootless is False


def test_a_port_that_podman_only_holds_is_told_from_a_service() -> None:
    container = parse_container(next(row for row in PODMAN["containers"] if row["Names"] == ["/web"]), "podman")
    podman = parse_engine(PODMAN["version"], {}, "docker", "")
    intent = Intent(engines=(podman,), containers=(container,))
    rows = tuple(
        Socket(proto=proto, family=4 if "." in at else 6, address=ip_address(at), port=port, state="LISTEN")
        for proto, at, port in (("tcp", "::", 8080), ("udp", "::", 8080), ("tcp", "::", 80), ("tcp", "10.0.0.1", 8080))
    )
    host = Namespace(id=1, name="host", kind="host", sockets=Present(rows=rows))
    sockets = mark_held(host, intent).sockets
    assert isinstance(sockets, Present)
    assert [each.held_for for each in sockets.rows] == ["web", None, None, None]
    docker = replace(
        intent, engines=(replace(podman, name="docker"),), containers=(replace(container, engine="docker"),)
    )
    assert mark_held(host, docker) is host
    # A rootless engine's ports are taken by rootlessport, which passes them on.
    assert mark_held(host, replace(intent, engines=(replace(podman, rootless=True),))) is host


def test_odd_containers() -> None:
    row: dict[str, Any] = {
        "Id": "a" * 64,
        "Names": ["/linked/alias", "/real"],
        "State": "exited",
        "HostConfig": {"NetworkMode": "container:" + "b" * 64},
        "NetworkSettings": {"Networks": {"net": {"IPAddress": "", "IPAMConfig": {"IPv4Address": "10.0.0.9"}}}},
        "Ports": [{"PrivatePort": 80, "Type": "tcp"}],
    }
    container = parse_container(row, "docker")
    assert (container.name, container.status, container.joined) == ("real", "exited", "b" * 64)
    assert container.ports == ()
    assert str(container.endpoints[0].ipv4) == "10.0.0.9/32"
    bare = parse_container({"Id": "c" * 64}, "docker")
    assert (bare.name, bare.status, bare.endpoints) == ("c" * 12, "unknown", ())


class Fake:
    """An engine in memory."""

    name = "docker"
    endpoint = "memory:"

    def __init__(self, *containers: Container) -> None:
        self.containers = containers

    def read_intent(self) -> Intent:
        return Intent(containers=self.containers)

    def inspect(self, container: Container) -> Container:
        return container

    def sandbox_folders(self) -> tuple[str, ...]:
        return ()

    def elsewhere(self, word: str) -> str | None:
        return None

    def close(self) -> None:
        pass


def box(identity: str, name: str, **more: Any) -> Container:
    return Container(id=identity.ljust(64, "0"), name=name, engine="docker", **more)


@pytest.fixture
def intents() -> Iterator[Intents]:
    host = current()
    endpoint = Endpoint(network="n", network_id="n", mac="02:42:ac:11:00:02", ipv4=ip_interface("172.17.0.2/16"))
    fake = Fake(
        box("c5ff39f37596", "web", endpoints=(endpoint,)),
        box("c5aa", "db"),
        box("db12", "other", status="exited", endpoints=(endpoint,)),
        box("eeee", "sidecar", joined="c5ff39f37596".ljust(64, "0")),
    )
    yield Intents(Places(host), [fake])
    host.close()


def test_words_that_containers_are_known_by(intents: Intents) -> None:
    def names(word: str) -> list[str]:
        return [each.name for each in intents.matches(word)]

    assert names("web") == ["web"]
    assert names("c5ff") == ["web"]
    assert names("c5") == ["web", "db"]
    # As for Docker, a name beats the beginning of another one's id.
    assert names("db") == ["db"]
    assert names("db12") == ["other"]
    assert names("nothing") == []
    assert names("") == []


def test_owners(intents: Intents) -> None:
    owner = intents.owner_of(ip_address("172.17.0.2"))
    assert owner is not None
    assert owner[0].name == "web"
    assert intents.owner_of(ip_address("172.17.0.3")) is None
    found = intents.by_macs(["02:42:ac:11:00:02"])
    assert found is not None
    assert found.name == "web"
    sidecar = intents.matches("sidecar")[0]
    assert intents.network_owner(sidecar).name == "web"


@pytest.mark.parametrize(
    ("text", "form", "value"),
    [
        ("c5ff39f37596", "word", "c5ff39f37596"),
        ("container:web", "container", "web"),
        ("netns:/run/netns/x", "netns", "/run/netns/x"),
        ("pid:12", "pid", "12"),
        ("host", "host", "host"),
        ("8.8.8.8", "address", "8.8.8.8"),
        ("2001:db8::1", "address", "2001:db8::1"),
        ("[2001:db8::1]", "address", "2001:db8::1"),
        ("1234", "word", "1234"),
        ("example.org", "word", "example.org"),
    ],
)
def test_forms_of_an_endpoint(text: str, form: str, value: str) -> None:
    typed = parse_endpoint(text)
    assert (typed.form, typed.value) == (form, value)


@pytest.mark.parametrize("text", ["", "  ", "netns:", "pid:x", "container:", "/run/netns/x"])
def test_endpoints_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        parse_endpoint(text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "CONTAINER_HOST",
        "CONTAINER_CONNECTION",
        "CONTAINERS_CONF",
        "CONTAINERS_CONF_OVERRIDE",
        "PODMAN_CONNECTIONS_CONF",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    monkeypatch.setattr("nettrace.collect.engines.DOCKER_SOCKET", str(tmp_path / "docker.sock"))
    monkeypatch.setattr("nettrace.collect.engines.PODMAN_SOCKET", str(tmp_path / "podman.sock"))
    monkeypatch.setattr("nettrace.collect.engines.connections.SYSTEM", (tmp_path / "system",))
    return tmp_path


def found() -> list[tuple[str, str | None, bool]]:
    with current() as host:
        engines, candidates = find_engines(host)
    assert engines == ()
    return [(each.name, each.endpoint, each.explicit) for each in candidates]


def test_engines_are_looked_for_where_their_clients_would(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found() == []
    (home / "docker.sock").touch()
    (home / "podman.sock").touch()
    assert found() == [
        ("docker", f"unix://{home}/docker.sock", False),
        ("podman", f"unix://{home}/podman.sock", False),
    ]
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text('{"currentContext": "far"}')
    assert found()[0] == ("docker", None, True)
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere.sock")
    monkeypatch.setenv("CONTAINER_HOST", "unix:///p.sock")
    assert found() == [("docker", "unix:///elsewhere.sock", True), ("podman", "unix:///p.sock", True)]


def test_one_engine_behind_two_sockets_is_asked_once(home: Path) -> None:
    (home / "podman.sock").touch()
    (home / "docker.sock").symlink_to(home / "podman.sock")
    assert [each[1] for each in found()] == [f"unix://{home}/docker.sock"]


def test_connections_of_podman(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = home / ".config" / "containers"
    user.mkdir(parents=True)
    (home / "system" / "containers.conf.d").mkdir(parents=True)
    (home / "system" / "containers.conf").write_text('[engine.service_destinations.a]\nuri = "unix:///system.sock"\n')
    (home / "system" / "containers.conf.d" / "1.conf").write_text(
        '[engine]\nactive_service = "b"\n[engine.service_destinations.b]\nuri = "unix:///b.sock"\n'
    )
    assert found() == []  # Podman on Linux uses no service unless it is told to
    monkeypatch.setenv("CONTAINER_CONNECTION", "a")
    assert found() == [("podman", "unix:///system.sock", True)]
    (user / "containers.conf").write_text('[engine.service_destinations.a]\nuri = "unix:///user.sock"\n')
    assert found() == [("podman", "unix:///user.sock", True)]
    (user / "podman-connections.json").write_text('{"Connection": {"Connections": {"c": {"URI": "unix:///c.sock"}}}}')
    monkeypatch.setenv("CONTAINER_CONNECTION", "c")
    assert found() == [("podman", "unix:///c.sock", True)]
    monkeypatch.setenv("CONTAINER_CONNECTION", "d")
    with pytest.raises(EngineError, match="no Podman connection 'd'; there are a, b, c"):
        found()
    monkeypatch.setenv("CONTAINER_HOST", "unix:///host.sock")
    assert found() == [("podman", "unix:///host.sock", True)]
    monkeypatch.delenv("CONTAINER_HOST")
    monkeypatch.delenv("CONTAINER_CONNECTION")
    (user / "containers.conf").write_text("[engine]\nremote = true\n")
    assert found() == [("podman", "unix:///b.sock", True)]
    (user / "containers.conf").write_text("[engine\n")
    with pytest.raises(EngineError, match="is not TOML"):
        found()


def test_a_configuration_that_cannot_be_read_is_an_error(home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text("{")
    with pytest.raises(EngineError, match="is not JSON"):
        found()


def test_contexts(home: Path) -> None:
    import hashlib

    folder = home / ".docker" / "contexts" / "meta" / hashlib.sha256(b"far").hexdigest()
    folder.mkdir(parents=True)
    meta = {
        "Name": "far",
        "Metadata": {},
        "Endpoints": {"docker": {"Host": "unix:///far.sock", "SkipTLSVerify": False}},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    (home / ".docker" / "config.json").write_text("{}")
    assert docker_endpoint({"DOCKER_CONTEXT": "far"}) == "unix:///far.sock"
    with pytest.raises(EngineError, match="no Docker context 'near'"):
        docker_endpoint({"DOCKER_CONTEXT": "near"})
    with current() as host, pytest.raises(EngineError, match="another machine"):
        Candidate("docker", "tcp://192.0.2.1:2376", explicit=True).open(host)


def test_ports_of_containers_that_do_not_run_are_those_they_were_made_with() -> None:
    bindings = {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "", "HostPort": ""}],
        "82/tcp": [],
    }
    data: dict[str, Any] = {
        "Name": "/web",
        "State": {"Status": "exited", "Pid": 0},
        "NetworkSettings": {"Ports": {}, "Networks": {}},
        "HostConfig": {"NetworkMode": "bridge", "PortBindings": bindings},
    }
    whole = merge_inspected(Container(id="a", name="web", engine="docker"), data, None)
    assert [(port.container_port, port.host_port) for port in whole.ports] == [(80, 8080)]
    data["HostConfig"]["NetworkMode"] = "host"
    assert merge_inspected(whole, data, None).ports == ()


def test_a_port_of_a_routed_network_has_no_port_of_the_host() -> None:
    rows = [{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "::", "HostPort": ""}]
    data: dict[str, Any] = {
        "State": {"Status": "running", "Pid": 7},
        "NetworkSettings": {"Ports": {"80/tcp": rows, "81/tcp": None}, "Networks": {}},
        "HostConfig": {"NetworkMode": "routed"},
    }
    whole = merge_inspected(Container(id="a", name="r1", engine="docker"), data, 4)
    assert [(port.container_port, port.host_port, port.host_ip.version) for port in whole.ports] == [
        (80, 0, 4),
        (80, 0, 6),
    ]


def test_a_network_that_is_isolated_from_its_host_has_no_gateway() -> None:
    row = {"Id": "n" * 64, "Name": "iso", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "172.22.0.0/16"}]}}
    option = "com.docker.network.bridge.gateway_mode_ipv4"
    isolated = parse_network({**row, "Internal": True, "Options": {option: "isolated"}}, "docker")
    open_ = parse_network({**row, "Options": {}}, "docker")
    gateways = [each.subnets[0].gateway for each in with_gateways((isolated, open_), ())]
    assert gateways == [None, ip_address("172.22.0.1")]


def test_an_engine_that_answers_nothing_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nettrace.collect.engines.docker.FIRST_TIMEOUT_S", 0.2)
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(path))
        silent.listen(8)
        with pytest.raises(EngineError, match=r"has not answered one for .* or give the container as pid:PID"):
            DockerEngine("docker", f"unix://{path}", host=current())


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"])
def test_an_address_that_is_no_one_hosts(address: str) -> None:
    with pytest.raises(UsageError, match="address"):
        one_hosts(ip_address(address))
    assert one_hosts(ip_address("8.8.8.8")) == ip_address("8.8.8.8")
