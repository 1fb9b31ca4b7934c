"""Frames for the wire tests: what a run sends and hears, built by Scapy, independently of nettrace's own parser."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from nettrace.model.base import IPAddress
from nettrace.model.flow import Proto
from nettrace.model.observe import SightingKind
from nettrace.wire.build import build_probe, preload
from nettrace.wire.token import RunToken, make_token

SECRET = bytes.fromhex("a1b2c3d4e5f60718")
ENDS: dict[int, tuple[IPAddress, IPAddress]] = {
    4: (ip_address("172.17.0.2"), ip_address("8.8.8.8")),
    6: (ip_address("fd00::2"), ip_address("2001:db8::8")),
}
GATEWAY: dict[int, IPAddress] = {4: ip_address("172.17.0.1"), 6: ip_address("fd00::1")}
CASES = [(proto, family) for proto in Proto for family in (4, 6)]
SPORTS = (40001, 40002, 40003)


def token(proto: Proto, family: int, *, dport: int = 80, secret: bytes = SECRET, vxlan: bool = True) -> RunToken:
    dports = () if proto is Proto.ICMP else (dport, 8080)
    made = make_token(secret, proto, family=family, count=3, dports=dports, vxlan_ports=(4789, 8472) if vxlan else ())
    return made if proto is Proto.ICMP else made.with_ports(SPORTS)


def probe(run: RunToken, number: int = 1, *, size: int | None = None) -> bytes:
    src, dst = ENDS[run.family]
    return build_probe(
        run,
        number,
        src=src,
        dst=dst,
        sport=run.sports[number] if run.sports else None,
        dport=run.dports[0] if run.dports else None,
        size=size,
    )


def ethernet(packet: bytes, tags: tuple[int, ...] = (), kind: int | None = None) -> bytes:
    own = kind or (0x86DD if packet[0] >> 4 == 6 else 0x0800)
    middle = b"".join(tag.to_bytes(2, "big") + b"\x00\x05" for tag in tags)
    return bytes.fromhex("02000000000b02000000000a") + middle + own.to_bytes(2, "big") + packet


def _ip(family: int, src: IPAddress, dst: IPAddress) -> Any:
    preload()
    if family == 6:
        from scapy.layers.inet6 import IPv6

        return IPv6(src=str(src), dst=str(dst), hlim=61)
    from scapy.layers.inet import IP

    return IP(src=str(src), dst=str(dst), ttl=61)


def reply(run: RunToken, number: int = 1) -> bytes:
    src, dst = ENDS[run.family]
    back = _ip(run.family, dst, src)
    if run.proto is Proto.ICMP:
        from scapy.layers.inet import ICMP
        from scapy.layers.inet6 import ICMPv6EchoReply

        echo = ICMP(type=0, id=7, seq=number) if run.family == 4 else ICMPv6EchoReply(id=7, seq=number)
        return bytes(back / echo / run.nonce(number))
    from scapy.layers.inet import TCP, UDP

    if run.proto is Proto.UDP:
        return bytes(back / UDP(sport=run.dports[0], dport=run.sports[number]) / b"answer")
    return bytes(back / TCP(sport=80, dport=run.sports[number], flags="SA", seq=9, ack=run.sequence(number) + 1))


def reset(run: RunToken, number: int = 1) -> bytes:
    from scapy.layers.inet import TCP

    src, dst = ENDS[run.family]
    segment = TCP(sport=80, dport=run.sports[number], flags="RA", seq=0, ack=run.sequence(number) + 1)
    return bytes(_ip(run.family, dst, src) / segment)


def error(run: RunToken, quoted: bytes, *, mtu: int = 1400) -> bytes:
    """A router's "fragmentation needed" or "packet too big" about a packet."""
    from scapy.layers.inet import ICMP
    from scapy.layers.inet6 import ICMPv6PacketTooBig

    src, _dst = ENDS[run.family]
    about = ICMP(type=3, code=4, nexthopmtu=mtu) if run.family == 4 else ICMPv6PacketTooBig(mtu=mtu)
    return bytes(_ip(run.family, GATEWAY[run.family], src) / about / quoted)


def arp(*, operation: int = 1, asking: str = "172.17.0.2", asked: str = "172.17.0.1") -> bytes:
    preload()
    from scapy.layers.l2 import ARP, Ether

    message = ARP(op=operation, psrc=asking, pdst=asked, hwsrc="02:00:00:00:00:0a", hwdst="00:00:00:00:00:00")
    return bytes(Ether(src="02:00:00:00:00:0a", dst="ff:ff:ff:ff:ff:ff") / message)


def neighbour(*, advert: bool = False, target: str = "fd00::1") -> bytes:
    preload()
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6

    if advert:
        return bytes(IPv6(src=target, dst="fd00::2", hlim=255) / ICMPv6ND_NA(tgt=target))
    return bytes(IPv6(src="fd00::2", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=target))


def vxlan(frame: bytes, *, port: int = 4789, family: int = 4) -> bytes:
    from scapy.layers.inet import UDP

    ends = {4: ("203.0.113.2", "203.0.113.3"), 6: ("2001:db8:1::2", "2001:db8:1::3")}[family]
    header = bytes.fromhex("0800000000002a00")
    udp = UDP(sport=55555, dport=port)
    return ethernet(bytes(_ip(family, ip_address(ends[0]), ip_address(ends[1])) / udp / header / frame))


def ours(run: RunToken) -> dict[str, tuple[bytes, SightingKind]]:
    """Everything of a run that may be heard, by what it is called."""
    sent = probe(run)
    header = 20 if run.family == 4 else 40
    found = {
        "probe": (ethernet(sent), SightingKind.PROBE),
        "probe in a vlan": (ethernet(sent, (0x8100,)), SightingKind.PROBE),
        "probe in two vlans": (ethernet(sent, (0x88A8, 0x8100)), SightingKind.PROBE),
        "reply": (ethernet(reply(run)), SightingKind.REPLY),
        "error that quotes all": (ethernet(error(run, sent)), SightingKind.ICMP_ERROR),
        "error that quotes little": (ethernet(error(run, sent[: header + 8])), SightingKind.ICMP_ERROR),
    }
    if run.proto is Proto.TCP:
        found["reset"] = (ethernet(reset(run)), SightingKind.RESET)
    if run.vxlan_ports:
        found["probe in vxlan"] = (vxlan(ethernet(sent)), SightingKind.PROBE)
        found["reply in vxlan over ipv6"] = (vxlan(ethernet(reply(run)), port=8472, family=6), SightingKind.REPLY)
    return found


def strangers(run: RunToken) -> dict[str, bytes]:
    """Packets of the same shape that are not of the run."""
    other = token(run.proto, run.family, secret=bytes(byte ^ 0xFF for byte in run.secret), dport=443)
    other = other.with_ports(()) if run.proto is Proto.ICMP else other.with_ports((50001, 50002, 50003))
    return {f"stranger's {name}": frame for name, (frame, _kind) in ours(other).items()} | {
        "empty": b"",
        "ethernet only": ethernet(b"\x45")[:14],
        "another ethertype": ethernet(probe(run), kind=0x88CC),
        "noise": bytes(range(256)),
    }
