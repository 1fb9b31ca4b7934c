"""Three namespaces in a row, client – router – server; only the router has an IP stack that answers.

The ends have no addresses: their kernels stay silent, and every packet is built and read by the oracle. The router
knows every neighbour, so that no ARP or NDP goes over the wire.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TypeVar

from nettrace import netns
from nettrace.model.base import IPAddress
from nettrace.netfilter.context import FibQuery
from tests.oracle import wire

T = TypeVar("T")

CLIENT_MAC, SERVER_MAC = "02:00:00:00:01:02", "02:00:00:00:02:02"
ROUTER_MAC = {"cl0": "02:00:00:00:01:01", "sv0": "02:00:00:00:02:01"}
OWN = {
    4: {"cl0": ip_address("10.71.1.1"), "sv0": ip_address("10.71.2.1")},
    6: {"cl0": ip_address("fd71:1::1"), "sv0": ip_address("fd71:2::1")},
}
NETS = {
    4: {"cl0": ip_network("10.71.1.0/24"), "sv0": ip_network("10.71.2.0/24")},
    6: {"cl0": ip_network("fd71:1::/64"), "sv0": ip_network("fd71:2::/64")},
}
#: Hosts that the router knows on each side.
HOSTS = {
    4: {"cl0": [f"10.71.1.{i}" for i in range(2, 10)], "sv0": [f"10.71.2.{i}" for i in range(2, 10)]},
    6: {"cl0": [f"fd71:1::{i}" for i in range(2, 10)], "sv0": [f"fd71:2::{i}" for i in range(2, 10)]},
}
GROUP = {"cl0": 5, "sv0": 7}


class Rig:
    """The namespaces, with a capture socket at each end. Use `rig()` to make one."""

    def __init__(self, name: str) -> None:
        self.names = {end: f"{name}-{end}" for end in ("c", "r", "s")}
        self.made: list[str] = []
        self.ns: dict[str, netns.Netns] = {}
        self.socks: dict[str, socket.socket] = {}

    def setup(self) -> None:
        """Make everything; `close` takes it down, also after a failure half way."""
        for name in self.names.values():
            _run("ip", "netns", "add", name)
            self.made.append(name)
        self.ns = {end: netns.pin(f"/run/netns/{name}", name) for end, name in self.names.items()}
        for end in ("c", "s"):
            self.inside(end, lambda: _write("net/ipv6/conf/all/disable_ipv6", "1"))
            self.inside(end, lambda: _write("net/ipv6/conf/default/disable_ipv6", "1"))
        for end, device, own in (("c", "cl0", CLIENT_MAC), ("s", "sv0", SERVER_MAC)):
            _run(
                "ip", "-n", self.names["r"], "link", "add", device, "address", ROUTER_MAC[device], "type", "veth",
                "peer", "name", "eth0", "address", own, "netns", self.names[end],
            )  # fmt: skip
            _run("ip", "-n", self.names[end], "link", "set", "eth0", "up")
        self.inside("r", self._router)
        for end in ("c", "s"):
            sock = netns.open_socket(self.ns[end], socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.bind(("eth0", 3))
            sock.setblocking(False)
            self.socks[end] = sock

    def _router(self) -> None:
        for path, value in (
            ("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"), ("net/ipv4/conf/default/send_redirects", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"), ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"), ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ):  # fmt: skip
            _write(path, value)
        commands = ["link set lo up"]
        for device, peer in (("cl0", CLIENT_MAC), ("sv0", SERVER_MAC)):
            _write(f"net/ipv4/conf/{device}/rp_filter", "0")
            _write(f"net/ipv4/conf/{device}/send_redirects", "0")
            commands += [f"link set {device} group {GROUP[device]}", f"link set {device} up"]
            commands += [
                f"addr add {OWN[4][device]}/24 brd + dev {device}",
                f"addr add {OWN[6][device]}/64 dev {device} nodad",
            ]
            commands += [
                f"neigh replace {host} lladdr {peer} nud permanent dev {device}"
                for family in (4, 6)
                for host in HOSTS[family][device]
            ]
        commands += [f"route add default via {HOSTS[4]['sv0'][0]}", f"route add ::/0 via {HOSTS[6]['sv0'][0]}"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)

    def inside(self, end: str, work: Callable[[], T]) -> T:
        """Call something in a namespace: c, r or s."""
        return netns.run_in(self.ns[end], work)

    def tool(self, *command: str, text: str | None = None) -> str:
        """Run a command in the router; raises CalledProcessError with its stderr."""
        done = self.inside(
            "r", lambda: subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def send(self, end: str, family: int, data: bytes) -> None:
        """Send an IP packet from the client or the server to the router."""
        own, device = (CLIENT_MAC, "cl0") if end == "c" else (SERVER_MAC, "sv0")
        self.socks[end].send(wire.frame(ROUTER_MAC[device], own, family, data))

    def sights(self, wanted: int, grace_s: float = 0.25) -> dict[str, list[wire.Sight]]:
        """What arrived at both ends; waits until `wanted` packets have come, or the grace is over."""
        seen: dict[str, list[wire.Sight]] = {"c": [], "s": []}
        # A little time always, so that a packet that should not come has its chance.
        settle = time.monotonic() + 0.004
        until = time.monotonic() + grace_s
        while True:
            for end, sock in self.socks.items():
                seen[end] += [sight for data in wire.drain(sock) if (sight := wire.read(data)) is not None]
            now = time.monotonic()
            if now > until or (now > settle and len(seen["c"]) + len(seen["s"]) >= wanted):
                return seen
            time.sleep(0.001)

    def close(self) -> None:
        """Take everything down."""
        for sock in self.socks.values():
            sock.close()
        for ns in self.ns.values():
            ns.close()
        for name in self.made:
            _run("ip", "netns", "del", name)
        self.made = []


@contextlib.contextmanager
def rig(prefix: str = "nf1") -> Iterator[Rig]:
    """Make the three namespaces, and take them down afterwards."""
    one = Rig(f"{prefix}-{os.getpid()}")
    try:
        one.setup()
        yield one
    finally:
        one.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _write(path: str, value: str) -> None:
    with open(f"/proc/sys/{path}", "w") as file:
        file.write(value)


# --- what the router would answer -----------------------------------------------------------------------------------


def route(address: IPAddress) -> str:
    """The device by which the router reaches an address; "local" for its own."""
    own = OWN[address.version]
    if address in own.values() or address.is_loopback:
        return "local"
    for device, net in NETS[address.version].items():
        if address in net:
            return device
    return "sv0"


def address_type(address: IPAddress, device: str | None) -> str:
    """inet_dev_addr_type in the router."""
    own = OWN[address.version]
    if address.is_multicast:
        return "MULTICAST"
    if address.is_loopback:
        return "LOCAL" if device in (None, "lo") else "UNICAST"
    for name, held in own.items():
        if address == held and device in (None, name):
            return "LOCAL"
    if isinstance(address, IPv4Address):
        for name, net in NETS[4].items():
            if address == net.broadcast_address and device in (None, name):
                return "BROADCAST"
    return "UNICAST"


def fib(query: FibQuery) -> str:
    """The output device of a lookup, "" when the named device is not it."""
    found = route(query.dst)
    if found == "local":
        found = next((name for name, held in OWN[query.dst.version].items() if held == query.dst), "lo")
    return found if query.dev in (None, found) else ""


def source_for(device: str, towards: IPAddress) -> IPAddress | None:
    """The address that masquerading gives."""
    return OWN[towards.version].get(device)
