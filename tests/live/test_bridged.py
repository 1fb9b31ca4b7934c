"""A container bridged to the LAN: the host only carries frames, and its bridge has no address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.spaces import Spaces

pytestmark = pytest.mark.live


@pytest.fixture
def lan() -> Iterator[Spaces]:
    """The container c behind the host h's bridge, and the LAN's router r."""
    with Spaces("ntb", "hcr") as made:
        made.run(
            "h",
            "ip link add br0 type bridge",
            "ip link set br0 up",
            "ip link add v1 type veth peer name eth0 netns {c}",
            "ip link add up0 type veth peer name eth0 netns {r}",
            "ip link set v1 master br0 up",
            "ip link set up0 master br0 up",
        )
        made.run("r", "ip addr add 10.5.0.1/24 dev eth0", "ip link set eth0 up", "ip addr add 8.8.8.8/32 dev lo")
        made.run("c", "ip addr add 10.5.0.2/24 dev eth0", "ip link set eth0 up", "ip route add default via 10.5.0.1")
        yield made


@pytest.mark.parametrize("dst", ["10.5.0.1", "8.8.8.8"])
@pytest.mark.parametrize("extra", [(), ("--predict",)], ids=["probe", "model"])
def test_frames_pass_the_bridge_both_ways(lan: Spaces, dst: str, extra: tuple[str, ...]) -> None:
    code, answer = lan.path("h", "c", dst, *extra)
    assert (code, answer["outcome"], answer["findings"]) == (0, "delivered", [])
    assert [hop["device"] for hop in answer["hops"]] == ["eth0", "v1", "up0", "up0", "v1", "eth0"]
    if not extra:
        assert {hop["agreement"] for hop in answer["hops"]} == {"agree"}
