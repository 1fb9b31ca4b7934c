"""An overlay as Docker builds it, by hand: a hidden namespace with bridge and vxlan, and the far container's host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.spaces import Spaces

pytestmark = pytest.mark.live

NEAR, FAR = "02:42:0a:00:09:02", "02:42:0a:00:09:03"


@pytest.fixture
def overlay() -> Iterator[Spaces]:
    """The host h, the overlay's hidden o, the container c, and the far host r, which is its container too."""
    with Spaces("nto", "hocr") as made:
        made.run(
            "h",
            "ip link add vh type veth peer name vr netns {r}",
            "ip addr add 192.0.2.1/24 dev vh",
            "ip link set vh up",
            "ip link add vxlan0 type vxlan id 4097 dstport 4789 proxy nolearning",
            "ip link set vxlan0 netns {o}",
        )
        made.run(
            "r",
            "ip addr add 192.0.2.2/24 dev vr",
            "ip link set vr up",
            f"ip link add vxlan0 address {FAR} type vxlan id 4097 dstport 4789",
            "ip link set vxlan0 mtu 1450 up",
            "ip addr add 10.0.9.3/24 dev vxlan0",
            f"bridge fdb add {NEAR} dev vxlan0 dst 192.0.2.1",
            f"ip neigh add 10.0.9.2 lladdr {NEAR} dev vxlan0 nud permanent",
        )
        made.run(
            "o",
            "ip link add br0 mtu 1450 type bridge",
            "ip addr add 10.0.9.1/24 dev br0",
            "ip link set br0 up",
            "ip link set vxlan0 mtu 1450 master br0 up",
            "ip link add veth0 mtu 1450 type veth peer name eth0 netns {c}",
            "ip link set veth0 master br0 up",
            f"bridge fdb add {FAR} dev vxlan0 dst 192.0.2.2 self permanent",
            f"ip neigh add 10.0.9.3 lladdr {FAR} dev vxlan0 nud permanent",
        )
        made.run("c", f"ip link set eth0 address {NEAR} mtu 1450 up", "ip addr add 10.0.9.2/24 dev eth0")
        yield made


def test_the_tunnel_is_walked_and_heard(overlay: Spaces) -> None:
    for extra in ((), ("--predict",)):
        code, answer = overlay.path("h", "c", "10.0.9.3", *extra)
        assert (code, answer["outcome"]) == (0, "delivered"), answer
        hops = [(hop["direction"], hop["device"]) for hop in answer["hops"]]
        way = ["eth0", "veth0", "vxlan0", "vh"]
        assert hops == [("forward", each) for each in way] + [("reply", each) for each in reversed(way)]
        if not extra:
            assert {hop["agreement"] for hop in answer["hops"]} == {"agree"}


@pytest.mark.parametrize(
    ("space", "command", "code", "direction", "segment", "size"),
    [
        ("h", "iptables -A OUTPUT -p udp --dport 4789 -j DROP", "overlay.underlay-blocked", "forward", "underlay", ()),
        ("h", "iptables -A INPUT -p udp --dport 4789 -j DROP", "overlay.underlay-blocked", "reply", "underlay", ()),
        ("h", "iptables -t mangle -A POSTROUTING -d 192.0.2.2 -j DROP", "overlay.underlay-blocked", "forward",
         "underlay", ()),
        ("o", f"bridge fdb del {FAR} dev vxlan0 dst 192.0.2.2 self", "overlay.peer-unknown", "forward", "underlay", ()),
        ("o", "ip neigh del 10.0.9.3 dev vxlan0", "overlay.peer-unknown", "forward", "underlay", ()),
        ("h", "ip link set vh mtu 1450", "mtu.overlay-overhead", "forward", "underlay", ("--size", "1450")),
        ("h", "ip link set vh down", "link.down", "forward", "egress", ()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("extra", [(), ("--predict",)], ids=["probe", "model"])
def test_a_fault_between_the_hosts(
    overlay: Spaces,
    space: str,
    command: str,
    code: str,
    direction: str,
    segment: str,
    size: tuple[str, ...],
    extra: tuple[str, ...],
) -> None:
    overlay.run(space, command)
    exit_code, answer = overlay.path("h", "c", "10.0.9.3", *size, *extra)
    assert exit_code == 1
    found = (answer["findings"][0]["code"], answer["stop"]["direction"], answer["stop"]["segment"])
    assert found == (code, direction, segment)
