"""Addresses for addresses: what must stay the same between them does, for any of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace.bundle.mapping import AddressMap, facts_of

KEY = bytes(range(32))


def mapped(*texts: str, key: bytes = KEY) -> AddressMap:
    return AddressMap(key, facts_of(texts))


def shared(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> int:
    return one.max_prefixlen - (int(one) ^ int(other)).bit_length()


@settings(max_examples=300, deadline=None)
@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_two_addresses_share_as_many_bits_as_before(one: IPv4Address, other: IPv4Address, common: int) -> None:
    mask = (1 << 32 - common) - 1
    near = IPv4Address(int(one) & ~mask | int(other) & mask)
    names = mapped("10.0.0.0/8 172.17.0.0/16 192.168.7.0/24 203.0.113.0/24 8.8.8.0/24")
    assert shared(names.address(one), names.address(near)) == shared(one, near)


@settings(max_examples=150, deadline=None)
@given(st.ip_addresses(v=6), st.ip_addresses(v=6), st.integers(0, 128))
def test_so_do_those_of_ipv6(one: IPv6Address, other: IPv6Address, common: int) -> None:
    mask = (1 << 128 - common) - 1
    near = IPv6Address(int(one) & ~mask | int(other) & mask)
    made = [int(each) >> 24 & 0xFFFF == 0xFFFE for each in (one, near)]  # of a MAC address: mapped with it
    names = mapped("fd00:18::/64 2001:db8::/32")
    if not any(made):
        assert shared(names.address(one), names.address(near)) == shared(one, near)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_an_address_stays_of_its_kind(address: IPv4Address | IPv6Address) -> None:
    other = mapped().address(address)
    for kind in ("is_private", "is_global", "is_loopback", "is_multicast", "is_link_local", "is_unspecified"):
        assert getattr(other, kind) == getattr(address, kind)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "127.0.0.11", "0.0.0.0", "255.255.255.255", "255.255.0.0", "224.0.0.1", "::1", "::", "ff02::1"],
)
def test_what_means_the_same_everywhere_stays(text: str) -> None:
    assert mapped().text(text) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.ip_addresses(v=4), st.integers(1, 30)), min_size=1, max_size=6))
def test_networks_stay_networks(pairs: list[tuple[IPv4Address, int]]) -> None:
    networks = [ip_network(f"{address}/{length}", strict=False) for address, length in pairs]
    names = mapped(" ".join(map(str, networks)))
    for network in networks:
        first = names.address(network.network_address)
        other = ip_network(f"{first}/{network.prefixlen}")  # strict: no bit of a host is set
        assert names.address(network.broadcast_address) == other.broadcast_address
        for more in networks:
            assert network.subnet_of(more) == other.subnet_of(
                ip_network(f"{names.address(more.network_address)}/{more.prefixlen}")
            )


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses(v=4), st.integers(0, 5000), st.integers(0, 5000))
def test_a_range_keeps_its_order(first: IPv4Address, width: int, at: int) -> None:
    last = IPv4Address(min(int(first) + width, 2**32 - 1))
    within = IPv4Address(min(int(first) + at, 2**32 - 1))
    names = mapped(f"-m iprange --src-range {first}-{last}")
    low, high, middle = (int(names.address(each)) for each in (first, last, within))
    assert low <= high
    assert (low <= middle <= high) == (within <= last)


def test_texts_are_mapped_as_their_addresses_are() -> None:
    names = mapped("172.17.0.0/16")
    app = names.address(ip_address("172.17.0.2"))
    assert names.text("-A POSTROUTING -s 172.17.0.2/32 ! -o docker0 -j MASQUERADE") == (
        f"-A POSTROUTING -s {app}/32 ! -o docker0 -j MASQUERADE"
    )
    assert names.text("to:172.17.0.2:80 at 172.17.0.2.") == f"to:{app}:80 at {app}."
    six = names.address(ip_address("2001:db8::5"))
    assert names.text("[2001:db8::5]:80 and 2001:db8::5/64") == f"[{six}]:80 and {six}/64"
    for other in ("Docker 20.10.24+dfsg1", "1.2.3.4.5", "12:34:56", "a::b::c", "999.1.1.1", "std::string", "x1.2.3.4"):
        assert names.text(other) == other


def test_a_mac_address_stays_of_its_kind_and_takes_its_ipv6_addresses_along() -> None:
    names = mapped("02:42:ac:11:00:02 fe80::42:acff:fe11:2 ff02::1:ff11:2 33:33:ff:11:00:02 ff:ff:ff:ff:ff:ff")
    mac = names.mac("02:42:AC:11:00:02")
    assert mac != "02:42:ac:11:00:02"
    assert int(mac[:2], 16) & 3 == 2
    assert names.text("ff:ff:ff:ff:ff:ff 01:00:5e:00:00:01 00:00:00:00:00:00") == (
        "ff:ff:ff:ff:ff:ff 01:00:5e:00:00:01 00:00:00:00:00:00"
    )
    own = names.address(ip_address("fe80::42:acff:fe11:2"))
    raw = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:]
    assert own.packed == ip_address("fe80::").packed[:8] + identifier
    group = names.address(ip_address("ff02::1:ff11:2"))
    assert group.packed[-3:] == own.packed[-3:]
    assert names.mac("33:33:ff:11:00:02") == "33:33:ff:" + own.packed[-3:].hex(":")


def test_keys_make_maps() -> None:
    texts = ("172.17.0.0/16 8.8.8.8 02:42:ac:11:00:02",)
    line = "172.17.77.9 8.8.8.8 02:42:ac:11:00:02"
    assert mapped(*texts).text(line) == mapped(*texts).text(line)
    assert mapped(*texts).text(line) != mapped(*texts, key=b"other key, sixteen").text(line)
    assert mapped(*texts).text(line).split()[2] != line.split()[2]


def test_the_gateway_and_the_first_addresses_of_a_network_are_told_apart() -> None:
    names = mapped("172.17.0.0/16")
    others = {names.address(ip_interface(f"172.17.0.{last}/16").ip) for last in range(256)}
    assert len(others) == 256
