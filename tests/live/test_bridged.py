"""A container bridged to the LAN: the host only carries frames, and its bridge has no address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.live

PREFIX = f"ntb{os.getpid()}"


def run(space: str, *commands: str) -> None:
    for command in commands:
        subprocess.run(["nsenter", f"--net=/run/netns/{PREFIX}-{space}", *command.split()], check=True)


@pytest.fixture
def lan() -> Iterator[None]:
    """The container c behind the host h's bridge, and the LAN's router r."""
    try:
        for space in "hcr":
            subprocess.run(["ip", "netns", "add", f"{PREFIX}-{space}"], check=True)
            run(space, "ip link set lo up")
        run(
            "h",
            "ip link add br0 type bridge",
            "ip link set br0 up",
            f"ip link add v1 type veth peer name eth0 netns {PREFIX}-c",
            f"ip link add up0 type veth peer name eth0 netns {PREFIX}-r",
            "ip link set v1 master br0 up",
            "ip link set up0 master br0 up",
        )
        run("r", "ip addr add 10.5.0.1/24 dev eth0", "ip link set eth0 up", "ip addr add 8.8.8.8/32 dev lo")
        run("c", "ip addr add 10.5.0.2/24 dev eth0", "ip link set eth0 up", "ip route add default via 10.5.0.1")
        yield
    finally:
        for space in "hcr":
            subprocess.run(["ip", "netns", "del", f"{PREFIX}-{space}"], check=False, capture_output=True)


@pytest.mark.parametrize("dst", ["10.5.0.1", "8.8.8.8"])
@pytest.mark.parametrize("extra", [(), ("--predict",)], ids=["probe", "model"])
def test_frames_pass_the_bridge_both_ways(lan: None, dst: str, extra: tuple[str, ...]) -> None:
    nettrace = [sys.executable, "-m", "nettrace", "path", f"netns:{PREFIX}-c", dst, "--json", *extra]
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{PREFIX}-h", *nettrace], check=False, capture_output=True, text=True, timeout=60
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["outcome"], answer["findings"]) == (0, "delivered", [])
    assert [hop["device"] for hop in answer["hops"]] == ["eth0", "v1", "up0", "up0", "v1", "eth0"]
    if not extra:
        assert {hop["agreement"] for hop in answer["hops"]} == {"agree"}
