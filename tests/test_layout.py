"""What an engine writes for its networks: compared with what engines of each version wrote."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from nettrace.layout import chains, docker_rules, parse_version
from nettrace.model.base import from_json
from nettrace.model.intent import Container, Endpoint, Engine, Intent, Network, PublishedPort, Subnet
from nettrace.model.snapshot import DumpFormat, Snapshot

SHARED = Path(__file__).parents[2] / "shared" / "data"
GOLDENS = sorted((SHARED / "moby-goldens" / "iptabler").glob("*.golden"))
CASES = Path(__file__).parents[1] / "fixtures" / "cases"


def docker(**fields: Any) -> Engine:
    return Engine(**{"name": "docker", "endpoint": "unix:///docker.sock", **fields})


def written(text: str) -> dict[tuple[str, str], list[str]]:
    """Return the rules of an iptables-save text by table and chain."""
    found: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            found.setdefault((table, line.split(" ", 2)[1]), []).append(line)
    return found


def golden_intent(options: dict[str, str], family: int) -> Intent:
    """Return the one network of a golden file: br-dummy, with a container that publishes 8080 to 80."""
    subnet = ip_network("192.168.0.0/24" if family == 4 else "fd49:efd7:54aa::/64")
    address = ip_interface("192.168.0.2/24" if family == 4 else "fd49:efd7:54aa::1/64")
    host = ("127.0.0.1" if family == 4 else "::1") if options.get("bindlh") == "true" else "0.0.0.0"
    if family == 6 and host == "0.0.0.0":
        host = "::"
    network = Network(
        id="n" * 64,
        name="dummy",
        driver="bridge",
        engine="docker",
        internal=options["internal"] == "true",
        subnets=(Subnet(subnet=subnet),),
        bridge="br-dummy",
        icc=options["icc"] == "true",
        masquerade=options.get("masq") != "false",
        gateway_mode_ipv4=options.get("gwm", "nat"),
        gateway_mode_ipv6=options.get("gwm", "nat"),
        options={"com.docker.network.host_ipv4": "192.168.123.0", "com.docker.network.host_ipv6": "fd34:d0d4:672f::123"}
        if options.get("snat") == "true"
        else {},
    )
    endpoint = Endpoint(
        network="dummy",
        network_id=network.id,
        ipv4=address if family == 4 else None,
        ipv6=address if family == 6 else None,
    )
    port = PublishedPort(proto="tcp", container_port=80, host_ip=ip_address(host), host_port=8080)
    container = Container(id="c", name="c", engine="docker", netns=1, endpoints=(endpoint,), ports=(port,))
    return Intent(networks=(network,), containers=(container,))


@pytest.mark.skipif(not GOLDENS, reason="moby's golden files are not here")
@pytest.mark.parametrize(
    "path",
    [each for each in GOLDENS if "wsl2" not in each.name and not each.name.startswith(("cleaned", "no__"))],
    ids=lambda path: path.name,
)
def test_29_writes_what_its_own_tests_expect(path: Path) -> None:
    options = dict(part.split("=") for part in path.name.split("__")[0].split(","))
    family = 6 if "ip6tables" in path.name else 4
    engine = docker(version="29.0.0", firewall_backend="iptables")
    rules = docker_rules(golden_intent(options, family), engine, family, proxy=options["hairpin"] == "false")
    assert rules is not None
    found = {key: [each.text for each in value] for key, value in chains(rules).items()}
    found["filter", "FORWARD"].remove("-A FORWARD -j DOCKER-USER")  # the goldens' driver does not write that one
    if options.get("gwm") == "routed":
        # An engine gives a routed network's ports no host port; the driver that the goldens call does.
        assert found.pop(("nat", "DOCKER")) == written(path.read_text()).pop(("nat", "DOCKER"))
    expected = written(path.read_text())
    if options.get("gwm") == "routed":
        expected.pop(("nat", "DOCKER"))
    assert {key: sorted(value) for key, value in found.items()} == {
        key: sorted(value) for key, value in expected.items()
    }
    # The order within a chain is the engine's, but for rules that can be told apart by their devices alone.
    assert found["filter", "FORWARD"] == expected["filter", "FORWARD"]
    assert found.get(("filter", "DOCKER")) == expected.get(("filter", "DOCKER"))


@pytest.mark.parametrize("slug", ["healthy-out", "healthy-peer", "icc-disabled", "icc-disabled-28", "mtu-mismatch"])
def test_recorded_engines_wrote_just_that(slug: str) -> None:
    snapshot = from_json((CASES / slug / "before.json").read_bytes(), Snapshot)
    (engine,) = snapshot.intent.engines
    namespace = snapshot.namespace(snapshot.host_netns)
    assert namespace is not None
    (dump,) = [
        each
        for each in namespace.netfilter.rows  # type: ignore[union-attr]
        if each.format is DumpFormat.IPTABLES_SAVE and each.family == "ip" and each.backend == "nft"
    ]
    text = re.sub(r"^\[\d+:\d+\] ", "", dump.text, flags=re.M)
    rules = docker_rules(snapshot.intent, engine, 4, proxy=True)
    assert rules is not None
    found = {key: sorted(each.text for each in value) for key, value in chains(rules).items()}
    expected = {key: sorted(value) for key, value in written(text).items()}
    expected.pop(("filter", "DOCKER-USER"), None)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "version"),
    [("28.5.2+dfsg4", (28, 5, 2)), ("20.10.24+dfsg1", (20, 10, 24)), ("29.0", (29, 0, 0)), ("dev", None)],
)
def test_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    "engine",
    [
        docker(version="28.0.0"),
        docker(version="29.1.0", firewall_backend="nftables"),
        docker(version="28.5.2", iptables=False),
        docker(name="podman", version="4.3.1"),
        docker(version="master"),
        docker(version="1.13.1"),
    ],
)
def test_what_is_not_known_is_not_told(engine: Engine) -> None:
    assert docker_rules(Intent(), engine, 4, proxy=True) is None


LAYOUTS = SHARED / "docker-layouts"
VARIANTS: dict[str, dict[str, Any]] = {
    "portmap": {},
    "portmap-noicc": {"icc": False},
    "portmap-noproxy": {},
    "portmap-lo": {},
    "portmap-natunprot": {"gateway_mode_ipv4": "nat-unprotected"},
    "portmap-routed": {"gateway_mode_ipv4": "routed"},
}


@pytest.mark.skipif(not LAYOUTS.exists(), reason="the captured layouts are not here")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("folder", ["iptables-28.2.2", "iptables-28.5.2", "iptables-29.0.0", "iptables-29.7.2"])
def test_two_networks_stand_as_captured(folder: str, variant: str) -> None:
    path = LAYOUTS / folder / f"usernet-{variant}.iptables-save"
    assert path.exists()
    networks = (
        bridge("docker0", "172.17.0.0/16"),
        bridge("bridge1", "192.0.2.0/24", **VARIANTS[variant]),
    )
    # A routed network's ports have no host port: the engine gives them none.
    host_port = 0 if variant == "portmap-routed" else 8080
    host_ip = ip_address("127.0.0.1" if variant == "portmap-lo" else "0.0.0.0")
    port = PublishedPort(proto="tcp", container_port=80, host_ip=host_ip, host_port=host_port)
    endpoint = Endpoint(network="bridge1", network_id="bridge1", ipv4=ip_interface("192.0.2.2/24"))
    container = Container(id="c", name="c", engine="docker", endpoints=(endpoint,), ports=(port,))
    version = folder.removeprefix("iptables-")
    rules = docker_rules(
        Intent(networks=networks, containers=(container,)),
        docker(version=version),
        4,
        proxy=variant != "portmap-noproxy",
    )
    assert rules is not None
    found = {key: sorted(each.text for each in value) for key, value in chains(rules).items() if key[0] != "raw"}
    expected = {key: sorted(value) for key, value in written(path.read_text()).items() if key[0] != "raw"}
    expected.pop(("filter", "DOCKER-USER"), None)
    assert found == expected


def bridge(name: str, subnet: str, **fields: Any) -> Network:
    subnets = (Subnet(subnet=ip_network(subnet)),)
    return Network(id=name, name=name, driver="bridge", engine="docker", bridge=name, subnets=subnets, **fields)
