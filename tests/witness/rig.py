"""A container, a host that routes and translates, and an outside, in namespaces of one test's own."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterator

from nettrace.netns import Netns, open_socket, pin

CONTAINER, GATEWAY, HOST, OUTSIDE = "10.9.0.2", "10.9.0.1", "203.0.113.2", "203.0.113.9"
CONTAINER6, GATEWAY6, HOST6, OUTSIDE6 = "fd09::2", "fd09::1", "2001:db8::2", "2001:db8::9"


def run(*argv: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
    return done.stdout


class Rig:
    """Three namespaces in a row; `c` asks, `h` forwards and masquerades, `o` answers."""

    def __init__(self) -> None:
        self.tag = f"ntw-{secrets.token_hex(3)}"
        self.pins: dict[str, Netns] = {}

    def open(self) -> None:
        for end in "cho":
            run("ip", "netns", "add", f"{self.tag}-{end}")
            self.pins[end] = pin(f"/run/netns/{self.tag}-{end}", end)
            self.ip(end, "link", "set", "lo", "up")
            # No waiting for duplicate address detection: what has no link-local address yet asks no neighbour.
            self.sysctl(end, "net.ipv6.conf.default.accept_dad=0")
        self.join("c", "eth0", (CONTAINER + "/24", CONTAINER6 + "/64"), "h", "v0", (GATEWAY + "/24", GATEWAY6 + "/64"))
        self.join("h", "eth0", (HOST + "/24", HOST6 + "/64"), "o", "eth0", (OUTSIDE + "/24", OUTSIDE6 + "/64"))
        self.ip("c", "route", "add", "default", "via", GATEWAY)
        self.ip("c", "-6", "route", "add", "default", "via", GATEWAY6)
        self.ip("o", "-6", "route", "add", "default", "via", HOST6)
        self.sysctl("h", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for end, neighbour in (("c", GATEWAY), ("c", GATEWAY6), ("h", OUTSIDE), ("h", OUTSIDE6)):
            # IPv6 needs a moment after its link came up.
            assert any(self.ping(end, neighbour) for _attempt in range(15)), f"{neighbour} does not answer {end}"

    def close(self) -> None:
        for each in self.pins.values():
            each.close()
        for end in "cho":
            run("ip", "netns", "del", f"{self.tag}-{end}", check=False)

    def join(
        self, a: str, a_name: str, a_addresses: tuple[str, ...], b: str, b_name: str, b_addresses: tuple[str, ...]
    ) -> None:
        run(
            *("ip", "link", "add", a_name, "netns", f"{self.tag}-{a}", "type", "veth"),
            *("peer", "name", b_name, "netns", f"{self.tag}-{b}"),
        )
        for end, name, addresses in ((a, a_name, a_addresses), (b, b_name, b_addresses)):
            for address in addresses:
                self.ip(end, "address", "add", address, "dev", name, *(("nodad",) if ":" in address else ()))
            self.ip(end, "link", "set", name, "up")

    def ip(self, end: str, *argv: str) -> str:
        return run("ip", "-n", f"{self.tag}-{end}", *argv)

    def inside(self, end: str, *argv: str, stdin: str | None = None) -> str:
        return run("nsenter", f"--net=/run/netns/{self.tag}-{end}", *argv, stdin=stdin)

    def sysctl(self, end: str, *settings: str) -> None:
        self.inside(end, "sysctl", "-q", "-w", *settings)

    def ping(self, src: str = "c", dst: str = OUTSIDE, ident: int = 0x4E54, sequence: int = 1) -> bool:
        """Send one echo from a raw socket and wait briefly for its answer."""
        six = ":" in dst
        family, proto = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        with open_socket(self.pins[src], family, socket.SOCK_RAW, proto) as sock:
            sock.settimeout(0.3)
            packet = struct.pack(">BBHHH8s", 128 if six else 8, 0, 0, ident, sequence, b"nettrace")
            if not six:
                packet = packet[:2] + checksum(packet) + packet[4:]
            sock.sendto(packet, (dst, 0))
            try:
                while True:
                    data = sock.recv(2048)
                    data = data if six else data[20:]
                    if data[0] in (0, 129) and data[4:6] == struct.pack(">H", ident):
                        return True
            except TimeoutError:
                return False


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        made.open()
        yield made
    finally:
        made.close()
