"""What SRC and DST mean on a recorded host, told as the live resolver tells it."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.collect.resolve import parse_endpoint
from nettrace.errors import Ambiguous, NettraceError, NotFound, UsageError
from nettrace.model.base import Present
from nettrace.model.flow import EndpointKind, Flow, Proto
from nettrace.model.intent import Container, Endpoint, Engine, Intent, Network, Subnet
from nettrace.model.snapshot import Address, Host, Link, Namespace, NextHop, Route, Snapshot
from nettrace.recorded import resolve_recorded
from nettrace.replay import read_case

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
ID = "c5ff39f37596" + "0" * 52


def address(index: int, text: str) -> Address:
    return Address(ifindex=index, address=ip_interface(text))


def route(text: str, index: int, via: str | None = None) -> Route:
    hop = NextHop(ifindex=index, gateway=ip_address(via) if via else None)
    return Route(table=254, dst=ip_interface(text).network, nexthops=(hop,))


def namespace(inode: int, name: str, kind: str, addresses: list[str], gateway: str | None) -> Namespace:
    near = [route(str(ip_interface(each).network), 2) for each in addresses]
    far = [route("0.0.0.0/0", 2, gateway)] if gateway else []
    return Namespace(
        id=inode,
        name=name,
        kind=kind,
        links=Present(rows=(Link(ifindex=1, name="lo", loopback=True), Link(ifindex=2, name="eth0"))),
        addresses=Present(rows=tuple(address(2, each) for each in addresses)),
        routes=Present(rows=(*near, *far)),
        rules=Present(),
    )


def container(name: str, ip: str | None, netns: int | None, **fields: Any) -> Container:
    held = ip_interface(ip) if ip else None
    six = ip_interface(fields.pop("six")) if "six" in fields else None
    endpoint = Endpoint(network="bridge", network_id="n1", ipv4=held, ipv6=six, gateway=ip_address("172.17.0.1"))
    given: dict[str, Any] = {"id": fields.pop("id", name.ljust(64, "0")), "endpoints": (endpoint,)} | fields
    return Container(name=name, netns=netns, **({"engine": "docker"} | given))


SNAPSHOT = Snapshot(
    host=Host(kernel="6.1"),
    host_netns=1,
    namespaces=(
        namespace(1, "host", "host", ["172.17.0.1/16", "203.0.113.2/24"], "203.0.113.1"),
        namespace(2, "web", "container", ["172.17.0.2/16"], "172.17.0.1"),
        namespace(3, "db", "container", ["172.17.0.3/16", "2001:db8::3/64"], "172.17.0.1"),
        namespace(4, "blue", "netns", ["172.17.0.9/16"], None),
    ),
    intent=Intent(
        engines=(Engine(name="docker", version="28", endpoint="unix:///s"),),
        networks=(
            Network(
                id="n1",
                name="bridge",
                driver="bridge",
                engine="docker",
                subnets=(Subnet(subnet=ip_interface("172.17.0.0/16").network, gateway=ip_address("172.17.0.1")),),
            ),
        ),
        containers=(
            container("web", "172.17.0.2/16", 2, id=ID, pid=77),
            container("db", "172.17.0.3/16", 3, six="2001:db8::3/64"),
            container("side", None, None, joined="db", mode="container:db", endpoints=()),
            container("daemon", None, None, mode="host", endpoints=()),
            container("off", None, None, status="exited"),
            container("unread", "172.17.0.7/16", 99),
            container("shop/cart-0", None, 4, engine="cri", endpoints=()),
            container("left", None, 4, joined="db", mode="container:db", endpoints=()),
        ),
    ),
)


def resolve(src: str, dst: str, **options: Any) -> Flow:
    given = {"proto": Proto.ICMP, "dport": None, "size": None, "family": None} | options
    return resolve_recorded(SNAPSHOT, parse_endpoint(src), parse_endpoint(dst), **given)


@pytest.mark.parametrize(
    ("src", "dst", "ends"),
    [
        ("web", "8.8.8.8", (2, "172.17.0.2", None, "8.8.8.8")),
        ("web", "db", (2, "172.17.0.2", 3, "172.17.0.3")),
        ("container:web", "172.17.0.3", (2, "172.17.0.2", 3, "172.17.0.3")),
        (ID[:5], "host", (2, "172.17.0.2", 1, "172.17.0.1")),
        ("pid:77", "db", (2, "172.17.0.2", 3, "172.17.0.3")),
        ("host", "web", (1, "172.17.0.1", 2, "172.17.0.2")),
        ("host", "8.8.8.8", (1, "203.0.113.2", None, "8.8.8.8")),
        ("netns:blue", "web", (4, "172.17.0.9", 2, "172.17.0.2")),
        ("netns:/run/netns/blue", "host", (4, "172.17.0.9", 1, "172.17.0.1")),
        ("web", "netns:blue", (2, "172.17.0.2", 4, "172.17.0.9")),
        ("172.17.0.2", "db", (2, "172.17.0.2", 3, "172.17.0.3")),
        ("side", "web", (3, "172.17.0.3", 2, "172.17.0.2")),
        ("web", "side", (2, "172.17.0.2", 3, "172.17.0.3")),
        ("daemon", "web", (1, "172.17.0.1", 2, "172.17.0.2")),
        ("web", "daemon", (2, "172.17.0.2", 1, "172.17.0.1")),
        ("web", "127.0.0.1", (2, "127.0.0.1", 2, "127.0.0.1")),
        ("web", "left", (2, "172.17.0.2", 4, None)),
        ("left", "web", (4, "172.17.0.9", 2, "172.17.0.2")),
        ("pod:cart-0", "web", (4, "172.17.0.9", 2, "172.17.0.2")),
        ("pod:shop/cart-0", "web", (4, "172.17.0.9", 2, "172.17.0.2")),
        ("off", "web", (None, None, 2, "172.17.0.2")),
        ("web", "off", (2, "172.17.0.2", None, None)),
    ],
)
def test_an_end_is_found(src: str, dst: str, ends: tuple[int | None, str | None, int | None, str | None]) -> None:
    flow = resolve(src, dst)
    got = (flow.src.netns, flow.src.address and str(flow.src.address))
    if dst == "127.0.0.1":
        got = (flow.src.netns, ends[1])  # no loopback address was recorded here to choose
    assert (*got, flow.dst.netns, flow.dst.address and str(flow.dst.address)) == ends


def test_a_family_is_chosen_or_kept() -> None:
    assert str(resolve("web", "db", family=6).dst.address) == "2001:db8::3"
    assert resolve("web", "2001:db8::9").family == 6
    with pytest.raises(UsageError, match="IPv4"):
        resolve("web", "8.8.8.8", family=6)
    with pytest.raises(NotFound, match="no IPv6 address"):
        resolve("db", "netns:blue", family=6)


def test_a_name_that_was_asked_about_is_known() -> None:
    names = {"example.org": ip_address("203.0.113.9")}
    flow = resolve("web", "example.org", names=names)
    assert (flow.dst.kind, flow.dst.name, str(flow.dst.address)) == (EndpointKind.NAME, "example.org", "203.0.113.9")


@pytest.mark.parametrize(
    ("src", "dst", "error", "words"),
    [
        ("nosuch", "web", NotFound, "there are daemon, db, left"),
        ("wep", "db", NotFound, "did you mean web"),
        ("blue", "web", NotFound, "netns:blue"),
        ("netns:red", "web", NotFound, "no namespace red"),
        ("web", "netns:host", NotFound, "no namespace host"),
        ("pid:1", "web", NotFound, "process 1"),
        ("pod:nosuch", "web", NotFound, "no pod nosuch"),
        ("web", "example.org", NotFound, "give the address"),
        ("8.8.8.8", "web", NotFound, "no address of the recorded host"),
        ("unread", "web", NotFound, "not recorded"),
        ("web", "unread", NotFound, "not recorded"),
        ("web", "172.17.0.7", NotFound, "not recorded"),
        ("d", "web", Ambiguous, "container:"),
    ],
)
def test_what_is_not_there_is_an_error(src: str, dst: str, error: type[NettraceError], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve(src, dst)


@pytest.mark.parametrize("slug", sorted(path.name for path in CASES.iterdir()))
def test_the_recorded_ends_are_found_again(slug: str) -> None:
    recorded = read_case(CASES / slug)
    asked = recorded.run.flow
    flow = resolve_recorded(
        recorded.before,
        parse_endpoint(asked.src.name),
        parse_endpoint(asked.dst.name),
        proto=asked.proto,
        dport=asked.dport,
        size=asked.size,
        family=None,
    )
    assert flow == replace(asked, sport=None)
