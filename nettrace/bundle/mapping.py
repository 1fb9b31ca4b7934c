"""Other addresses for addresses: consistent, prefix-preserving, and of the same kind.

Two addresses that share their first n bits are mapped to two that share just n bits, as Crypto-PAn does it (Xu, Fan,
Ammar, Moon: "Prefix-Preserving IP Address Anonymization", 2002): each bit is flipped or not by a keyed function of the
bits before it. What a network's meaning hangs on stays: addresses of special blocks (RFC 6890) stay in their block, a
network's own address and its broadcast address are mapped to those of the mapped network, and addresses within a range
keep their order. No public library of this kind keeps these, so the bits are turned here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from nettrace.model.base import IPAddress, IPNetwork

__all__ = ["AddressMap", "Facts", "facts_of"]

#: Blocks that mean the same everywhere: their addresses are nobody's, and stay as they are.
_KEPT: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/3"),
        *("::/96", "64:ff9b::/96", "2001::/23", "ff00::/8"),
    )
)
#: Blocks whose addresses are somebody's, and must stay in the block: private ones, documentation, link-local.
_HELD: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.2.0/24", "192.88.99.0/24"),
        *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("::ffff:0:0/96", "100::/64", "2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/64", "fe80::/10"),
    )
)
#: Multicast groups of IPv6 for one address: ff02::1:ff00:0/104 and its MAC addresses (RFC 4291, RFC 2464).
_SOLICITED = ip_network("ff02::1:ff00:0/104")
_EUI64 = 0xFFFE << 24
_LOW24 = 0xFFFFFF

_V4 = r"(?:\d{1,3}\.){3}\d{1,3}"
_V6 = rf"(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:{_V4}|[0-9A-Fa-f]{{0,4}})"
_MAC = r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}"
#: A MAC address, an IPv6 address or an IPv4 address, each where no longer word could hold it.
_FOUND = re.compile(
    rf"(?<![\w:.])(?:(?P<mac>{_MAC})(?![\w:])|(?P<six>{_V6})(?![\w:]))"
    rf"|(?<![\w.])(?P<four>{_V4})(?!\w|\.\d)"
)
_PREFIX = re.compile(rf"(?<![\w:.])({_V6}|{_V4})/(\d{{1,3}})(?!\d)")
_JSON_PREFIX = re.compile(rf'"addr":\s*"({_V6}|{_V4})",\s*"len":\s*(\d{{1,3}})')
_RANGE = re.compile(rf"(?<![\w:.])({_V6}|{_V4})\s?-\s?({_V6}|{_V4})(?![\w:])")
_JSON_RANGE = re.compile(rf'"range":\s*\[\s*"({_V6}|{_V4})",\s*"({_V6}|{_V4})"')


class Facts:
    """What a set of texts tells of addresses: those that occur, networks, ranges, and MAC addresses."""

    def __init__(self) -> None:
        self.addresses: set[IPAddress] = set()
        self.networks: set[IPNetwork] = set()
        self.ranges: set[IPNetwork] = set()
        self.macs: set[str] = set()

    def add(self, text: str) -> None:
        """Note all that a text holds."""
        for found in _FOUND.finditer(text):
            if found["mac"]:
                self.macs.add(found["mac"].lower())
            elif (address := _address(found["six"] or found["four"])) is not None:
                self.addresses.add(address)
        for pattern in (_PREFIX, _JSON_PREFIX):
            for first, length in pattern.findall(text):
                self._network(first, int(length))
        for pattern in (_RANGE, _JSON_RANGE):
            for first, last in pattern.findall(text):
                self._range(first, last)

    def _network(self, text: str, length: int) -> None:
        address = _address(text)
        if address is not None and 0 < length <= address.max_prefixlen - 2:
            self.networks.add(ip_network(f"{address}/{length}", strict=False))

    def _range(self, first: str, last: str) -> None:
        low, high = _address(first), _address(last)
        if low is None or high is None or low.version != high.version:
            return
        shared = low.max_prefixlen - (int(low) ^ int(high)).bit_length()
        self.ranges.add(ip_network(f"{low}/{shared}", strict=False))


def facts_of(texts: Iterable[str]) -> Facts:
    """Return what texts tell of addresses."""
    facts = Facts()
    for text in texts:
        facts.add(text)
    return facts


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


class AddressMap:
    """Maps addresses and MAC addresses by a key of 16 bytes or more; the same key and facts make the same map."""

    def __init__(self, key: bytes, facts: Facts) -> None:
        self._key = key[:64]
        self._done: dict[IPAddress, IPAddress] = {}
        self._macs: dict[str, str] = {}
        self._taken: set[str] = set()
        #: Nodes of the tree of bits (version, depth, bits so far) at which no bit may be flipped.
        self._still: set[tuple[int, int, int]] = set()
        #: Nodes below which none may be.
        self._frozen: set[tuple[int, int, int]] = set()
        for block in (*_KEPT, *_HELD):
            self._still.update(_above(block))
        for network in facts.networks:
            self._still.update(_edges(network))
        self._frozen.update((each.version, each.prefixlen, _bits(each, each.prefixlen)) for each in facts.ranges)
        self._groups: dict[int, int] = {}
        for mac in sorted(each for each in facts.macs if not each.startswith("33:33:")):
            self.mac(mac)
        self._groups = {
            int(address) & _LOW24: int(self.address(address)) & _LOW24
            for address in sorted(facts.addresses, key=lambda each: (each.version, int(each)))
            if address.version == 6 and address not in _SOLICITED
        }

    def address(self, address: IPAddress) -> IPAddress:
        """Return the address that stands for an address."""
        known = self._done.get(address)
        if known is None:
            known = self._done[address] = self._mapped(address)
        return known

    def _mapped(self, address: IPAddress) -> IPAddress:
        if isinstance(address, IPv6Address):
            if address in _SOLICITED:
                low = int(address) & _LOW24
                return IPv6Address(int(address) & ~_LOW24 | self._group(low))
            if address.ipv4_mapped is not None:
                return IPv6Address(0xFFFF << 32 | int(self.address(address.ipv4_mapped)))
        if any(address.version == block.version and address in block for block in _KEPT):
            return address
        bits = address.max_prefixlen
        value = int(address)
        kept = self._walk(address.version, bits, value, 64 if self._is_eui64(address) else bits)
        if self._is_eui64(address):
            mac = int(self.mac(_mac_of(value)).replace(":", ""), 16)
            low = (mac >> 24 ^ 0x020000) << 40 | _EUI64 | mac & _LOW24
            return IPv6Address(kept & ~((1 << 64) - 1) | low)
        return IPv4Address(kept) if bits == 32 else IPv6Address(kept)

    def _walk(self, version: int, bits: int, value: int, depth: int) -> int:
        """Flip the first `depth` bits of an address, each by the bits before it."""
        mapped = 0
        for at in range(bits):
            node = (version, at, value >> bits - at)
            bit = value >> bits - at - 1 & 1
            if node in self._frozen:
                depth = at
            if at < depth and node not in self._still:
                bit ^= self._flips(node)
            mapped = mapped << 1 | bit
        return mapped

    def _flips(self, node: tuple[int, int, int]) -> int:
        version, at, value = node
        text = bytes((version, at)) + value.to_bytes(16, "big")
        return hashlib.blake2b(text, key=self._key, digest_size=1).digest()[0] & 1

    @staticmethod
    def _is_eui64(address: IPAddress) -> bool:
        """Tell whether an IPv6 address was made of a MAC address (RFC 4291, appendix A)."""
        return address.version == 6 and int(address) >> 24 & 0xFFFF == 0xFFFE

    def _group(self, low: int) -> int:
        return self._groups.get(low, low)

    def mac(self, mac: str) -> str:
        """Return the MAC address that stands for one, as lower-case text; groups and the empty one stay."""
        mac = mac.lower()
        known = self._macs.get(mac)
        if known is None:
            known = self._macs[mac] = self._mapped_mac(mac)
        return known

    def _mapped_mac(self, mac: str) -> str:
        if mac.startswith("33:33:ff:"):
            low = f"{self._group(int(mac[9:].replace(':', ''), 16)):06x}"
            return f"33:33:ff:{low[:2]}:{low[2:4]}:{low[4:]}"
        first = int(mac[:2], 16)
        if first & 1 or mac == "00:00:00:00:00:00":
            return mac
        for attempt in range(256):
            text = bytes((attempt,)) + mac.encode()
            raw = bytearray(hashlib.blake2b(text, key=self._key, digest_size=6).digest())
            raw[0] = raw[0] & 0xFC | first & 3  # unicast, and administered as it was
            mapped = raw.hex(":")
            if mapped not in self._taken:
                break
        self._taken.add(mapped)
        return mapped

    def text(self, text: str) -> str:
        """Return a text with every address in it replaced; what is no address stays as it is."""
        return _FOUND.sub(self._replaced, text)

    def _replaced(self, found: re.Match[str]) -> str:
        if found["mac"]:
            mapped = self.mac(found["mac"])
            return mapped.upper() if found["mac"].isupper() else mapped
        address = _address(found["six"] or found["four"])
        return found[0] if address is None or (mapped_to := self.address(address)) == address else str(mapped_to)

    def table(self) -> dict[str, str]:
        """Return what stands for what, of all that was mapped to something else."""
        changed = {str(old): str(new) for old, new in self._done.items() if old != new}
        return changed | {old: new for old, new in self._macs.items() if old != new}


def _mac_of(value: int) -> str:
    """Return the MAC address that an EUI-64 interface identifier was made of."""
    high, low = value >> 40 & 0xFFFFFF ^ 0x020000, value & _LOW24
    return bytes.fromhex(f"{high << 24 | low:012x}").hex(":")


def _bits(network: IPNetwork, depth: int) -> int:
    return int(network.network_address) >> network.max_prefixlen - depth


def _above(block: IPv4Network | IPv6Network) -> Iterator[tuple[int, int, int]]:
    """Yield the nodes on the way to a block: whoever is in it stays in it, and nobody else gets in."""
    for depth in range(block.prefixlen):
        yield block.version, depth, _bits(block, depth)


def _edges(network: IPv4Network | IPv6Network) -> Iterator[tuple[int, int, int]]:
    """Yield the nodes below a network that lead to its first and to its last address."""
    bits = network.max_prefixlen
    for value in (int(network.network_address), int(network.broadcast_address)):
        for depth in range(network.prefixlen, bits):
            yield network.version, depth, value >> bits - depth
