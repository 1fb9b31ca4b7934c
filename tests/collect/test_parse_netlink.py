"""Messages of a real kernel (6.18), recorded in a namespace with one of everything, and a few made by hand."""

from __future__ import annotations

import json
import struct
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from nettrace.collect.conntrack import belongs, parse_conntrack
from nettrace.collect.links import parse_devconf, parse_filter, parse_link, parse_port_vlans, parse_qdisc
from nettrace.collect.netfilter import parse_nft_chains, parse_nft_devices, with_devices
from nettrace.collect.netlink import attribute, attributes
from nettrace.collect.routes import (
    parse_address,
    parse_fdb,
    parse_neighbour,
    parse_nexthop_objects,
    parse_route,
    parse_rule,
)
from nettrace.collect.sockets import parse_diag, parse_proc_net
from nettrace.model.flow import EndpointKind, Flow, FlowEnd, Proto
from nettrace.model.snapshot import Link, NextHop, PortVlan
from nettrace.model.text import address_text, fdb_text, link_text, neighbour_text, route_text, rule_text

RECORDED: dict[str, list[str]] = json.loads((Path(__file__).parent / "data" / "messages.json").read_text())


def messages(table: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in RECORDED[table]]


@pytest.fixture(scope="module")
def links() -> dict[str, Link]:
    return {link.name: link for link in map(parse_link, messages("links"))}


@pytest.fixture(scope="module")
def names(links: dict[str, Link]) -> dict[int, str]:
    return {link.ifindex: link.name for link in links.values()}


def test_links(links: dict[str, Link]) -> None:
    assert {name: link.kind for name, link in links.items()} == {
        "lo": "",
        "br0": "bridge",
        "p1": "veth",
        "p2": "veth",
        "e2": "veth",
        "mv0": "macvlan",
        "vx0": "vxlan",
    }
    assert links["lo"].loopback
    assert links["lo"].arp_type == 772
    bridge = links["br0"].bridge
    assert bridge is not None
    assert (bridge.ageing_time_s, bridge.nf_call_iptables, bridge.nf_call_ip6tables) == (120.0, True, False)
    port = links["p2"].port
    assert port is not None
    assert (port.hairpin, port.isolated, port.mcast_flood, port.learning, port.neigh_suppress) == (
        True,
        True,
        False,
        False,
        True,
    )
    assert links["p2"].master == links["br0"].ifindex
    # The far end of p1 is in another namespace, that of p2 in this one.
    assert links["p1"].peer_nsid == 0
    assert (links["p2"].peer_ifindex, links["p2"].peer_nsid) == (links["e2"].ifindex, None)
    assert links["mv0"].macvlan_mode == "private"
    assert links["mv0"].peer_ifindex == links["e2"].ifindex
    assert not links["mv0"].up
    vxlan = links["vx0"].vxlan
    assert vxlan is not None
    assert (vxlan.vni, vxlan.port, vxlan.local, vxlan.learning) == (77, 4790, ip_address("192.0.2.1"), False)
    assert (vxlan.proxy, vxlan.l2miss, vxlan.l3miss) == (True, True, True)
    assert links["vx0"].alias == "to the other side"
    assert links["vx0"].mtu == 1400
    assert links["p2"].qdisc == "tbf"


def test_device_sysctls_come_with_the_links() -> None:
    found: dict[str, str] = {}
    for message in messages("links"):
        found |= parse_devconf(message, parse_link(message).name)
    assert found["net.ipv4.conf.e2.rp_filter"] == "2"
    assert found["net.ipv4.conf.e2.route_localnet"] == "1"
    assert found["net.ipv4.conf.e2.arp_ignore"] == "3"
    assert found["net.ipv4.conf.br0.medium_id"] == "7"
    assert found["net.ipv4.conf.br0.forwarding"] == "0"
    assert found["net.ipv6.conf.e2.proxy_ndp"] == "1"
    assert found["net.ipv6.conf.mv0.disable_ipv6"] == "1"
    assert found["net.ipv6.conf.br0.accept_ra"] == "2"
    (first, *_rest) = messages("links")
    assert "net.ipv4.conf.eth0/100.forwarding" in parse_devconf(first, "eth0.100")


def test_link_text(links: dict[str, Link], names: dict[int, str]) -> None:
    text = link_text(links["p2"], names)
    assert text.startswith(
        f"{links['p2'].ifindex}: p2@e2: <UP,LOWER_UP> mtu 1500 qdisc tbf master br0 state UP link/ether"
    )
    assert text.endswith("bridge_slave state forwarding hairpin isolated") or "hairpin isolated" in text
    assert "@if" in link_text(links["p1"], names)
    assert "vxlan id 77 dstport 4790" in link_text(links["vx0"], names)
    assert link_text(links["lo"], names).startswith(
        "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN"
    )


def test_addresses(names: dict[int, str]) -> None:
    texts = [address_text(parse_address(message), names) for message in messages("addresses")]
    assert "inet 192.0.2.1/24 scope global dev br0" in texts
    assert "inet 198.51.100.1 peer 198.51.100.2/32 scope global dev e2" in texts
    assert "inet 203.0.113.9/25 scope global noprefixroute dev e2" in texts
    assert "inet6 fd00:1::1/64 scope global dev br0" in texts
    assert "inet 127.0.0.1/8 scope host dev lo" in texts
    pair = next(each for each in map(parse_address, messages("addresses")) if each.peer is not None)
    assert (pair.address, pair.peer) == (ip_interface("198.51.100.1/32"), ip_network("198.51.100.2/32"))


@pytest.mark.parametrize(
    "line",
    [
        "default via 192.0.2.254 dev br0 metric 100",
        "10.1.0.0/16 nexthop via 192.0.2.2 dev br0 weight 3 nexthop via 198.51.100.2 dev e2 weight 1",
        "10.2.0.0/16 via inet6 fd00:1::2 dev br0",
        "10.3.0.0/16 via 203.0.113.200 dev br0 proto static src 192.0.2.1 onlink mtu 1300",
        "10.4.0.0/16 tos 0x10 dev br0 table 100 scope link",
        "10.5.0.0/16 nhid 7 via 192.0.2.3 dev br0",
        "10.6.0.0/16 nhid 9 nexthop via 192.0.2.3 dev br0 weight 2 nexthop via 192.0.2.4 dev br0 weight 1",
        "blackhole 10.66.0.0/16",
        "unreachable 10.67.0.0/16 metric 5",
        "throw 10.68.0.0/16 table 100",
        "192.0.2.0/24 dev br0 proto kernel scope link src 192.0.2.1",
        "fd00:2::/64 via fd00:1::2 dev br0 metric 77 mtu 1290",
        "prohibit fd00:66::/32 dev lo metric 1024",
    ],
)
def test_routes_read_as_ip_prints_them(line: str, names: dict[int, str]) -> None:
    assert line in [route_text(parse_route(message), names) for message in messages("routes")]


def test_nexthop_objects_stand_in_where_a_route_gives_none(names: dict[int, str]) -> None:
    objects = parse_nexthop_objects(messages("nexthops"))
    gateways = {key: [(str(hop.gateway), hop.weight) for hop in hops] for key, hops in objects.items()}
    assert gateways == {
        7: [("192.0.2.3", 1)],
        8: [("192.0.2.4", 1)],
        9: [("192.0.2.3", 2), ("192.0.2.4", 1)],
    }
    # As kernels with net.ipv4.nexthop_compat_mode=0 send it: the object's id alone.
    whole = next(each for each in messages("routes") if parse_route(each).nexthop_id == 9)
    kept = b"".join(
        struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)
        for kind, payload in attributes(whole, 28)
        if kind != 9
    )
    bare = struct.pack("=I", 28 + len(kept)) + whole[4:28] + kept
    assert parse_route(bare).nexthops == ()
    assert parse_route(bare, objects).nexthops == objects[9]
    assert all(isinstance(hop, NextHop) for hop in objects[9])


@pytest.mark.parametrize(
    ("family", "lines"),
    [
        (
            4,
            [
                "0: from all lookup local",
                "50: from 10.0.0.0/8 to 192.0.2.0/24 lookup 100",
                "60: not from all fwmark 0x1/0xff lookup 101",
                "70: from all tos 0x10 iif br0 oif e2 lookup 102",
                "80: from all ipproto tcp sport 1000-2000 dport 80 blackhole",
                "90: from all uidrange 0-99 lookup main suppress_prefixlength 0",
                "95: from all goto 32766",
                "32766: from all lookup main",
                "32767: from all lookup default",
            ],
        ),
        (6, ["0: from all lookup local", "50: from fd00::/8 prohibit", "32766: from all lookup main"]),
    ],
)
def test_rules_read_as_ip_prints_them(family: int, lines: list[str]) -> None:
    rules = [parse_rule(message) for message in messages("rules")]
    assert [rule_text(rule) for rule in rules if rule.family == family] == lines


def test_neighbours_read_as_ip_prints_them(names: dict[int, str]) -> None:
    texts = [neighbour_text(parse_neighbour(message), names) for message in messages("neighbours")]
    assert "192.0.2.50 dev br0 lladdr 02:00:00:00:00:50 PERMANENT" in texts
    assert "fd00:1::50 dev br0 lladdr 02:00:00:00:00:51 STALE" in texts
    assert "192.0.2.77 dev br0 proxy" in texts
    assert "fd00:1::77 dev br0 proxy" in texts
    assert "192.0.2.2 dev br0 INCOMPLETE" in texts


def test_forwarding_entries_read_as_bridge_prints_them(names: dict[int, str]) -> None:
    entries = [parse_fdb(message) for message in messages("fdb")]
    texts = [fdb_text(entry, names) for entry in entries]
    assert "02:00:00:00:00:10 dev p1 master br0 static" in texts
    assert "02:00:00:00:00:99 dev vx0 dst 192.0.2.99 self permanent" in texts
    local = {entry.mac for entry in entries if entry.local}
    assert not {"02:00:00:00:00:10", "02:00:00:00:00:99"} & local
    assert local


def test_traffic_control() -> None:
    qdiscs = {kind: text for _ifindex, kind, text in map(parse_qdisc, messages("qdiscs"))}
    assert qdiscs["clsact"].startswith("qdisc clsact ffff: parent ffff:fff1")
    assert qdiscs["tbf"].startswith("qdisc tbf 8001: root") or ": root" in qdiscs["tbf"]
    lines = [parse_filter(message, "ingress") for message in messages("filters")]
    assert "filter ingress protocol all pref 49152 bpf direct-action" in lines
    assert "filter ingress protocol ip pref 49152 u32 action mirred egress mirror dev if6" in lines
    # Heads of classifiers and empty hash tables are no filters.
    assert lines.count(None) == len(lines) - 2


def attr(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def test_a_filter_that_drops_says_so() -> None:
    gact = attr(2, attr(2, struct.pack("=IIiii", 1, 0, 2, 1, 1)))
    options = attr(2, attr(1, attr(1, b"gact\0") + gact))
    info = 10 << 16 | struct.unpack("=H", struct.pack(">H", 0x0800))[0]
    body = struct.pack("=BxxxiIII", 0, 3, 1, 0xFFFFFFF2, info) + attr(1, b"matchall\0") + attr(2, options)
    message = struct.pack("=IHHII", 16 + len(body), 44, 2, 1, 0) + body
    assert parse_filter(message, "ingress") == "filter ingress protocol ip pref 10 matchall action drop"


def filter_message(kind: bytes, options: bytes, *more: bytes) -> bytes:
    info = 10 << 16 | struct.unpack("=H", struct.pack(">H", 0x0800))[0]
    body = struct.pack("=BxxxiIII", 0, 3, 1, 0xFFFFFFF2, info) + attr(1, kind) + attr(2, options) + b"".join(more)
    return struct.pack("=IHHII", 16 + len(body), 44, 2, 1, 0) + body


def qdisc_message(kind: bytes, options: bytes, *, parent: int = 0xFFFFFFFF, queue: tuple[int, ...] = (0,) * 5) -> bytes:
    body = struct.pack("=BxxxiIII", 0, 3, 0x80010000, parent, 0) + attr(1, kind) + attr(2, options)
    body += attr(7, attr(3, struct.pack("=5I", *queue)))
    return struct.pack("=IHHII", 16 + len(body), 36, 2, 1, 0) + body


def test_a_filter_tells_whether_it_matches_all_and_where_it_sends_to() -> None:
    redirect = attr(2, attr(2, struct.pack("=IIiiiiI", 1, 0, 4, 1, 1, 1, 6)))
    acts = attr(7, attr(1, attr(1, b"mirred\0") + redirect))

    def u32(mask: int, *more: bytes) -> bytes:
        key = struct.pack(">IIii", mask, 0, 16, 0)
        return attr(5, struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + key) + b"".join(more) + acts

    start = "filter ingress protocol ip pref 10 u32"
    to = "action mirred egress redirect dev dummy0"
    for options, chain, words in (
        (u32(0), (), f" match all {to}"),
        (u32(0xFF), (), f" {to}"),
        (u32(0, attr(10, b"\0" * 12)), (), f" {to}"),
        (u32(0, attr(11, struct.pack("=I", 2))), (), f" {to}"),
        (u32(0), (attr(11, struct.pack("=I", 5)),), f" chain 5 match all {to}"),
    ):
        assert parse_filter(filter_message(b"u32\0", options, *chain), "ingress", {6: "dummy0"}) == start + words
    assert parse_filter(filter_message(b"matchall\0", attr(3, struct.pack("=I", 2))), "ingress") == (
        "filter ingress protocol ip pref 10 matchall skip_sw"
    )


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (b"bfifo\0", struct.pack("=I", 1), "limit 1b"),
        (b"pfifo\0", struct.pack("=I", 0), "limit 0p"),
        (b"netem\0", struct.pack("=6I", 0, 1000, 0xFFFFFFFF // 2, 0, 0, 0), "loss 0.5"),
        (b"netem\0", struct.pack("=6I", 0, 1000, 0, 0, 0, 0), ""),
        (b"tbf\0", attr(1, struct.pack("=8xI12xIII", 1000, 3000, 93750000, 0)), "rate 8000bit burst 6000b"),
        # A byte a second: the time for one frame does not fit into what the kernel tells.
        (b"tbf\0", attr(1, struct.pack("=8xI12xIII", 1, 3000, 93750000, 0)), "rate 8bit"),
        (b"htb\0", b"", ""),
    ],
)
def test_a_queue_tells_the_limits_that_drop_by_themselves(kind: bytes, options: bytes, words: str) -> None:
    name = kind.decode().rstrip("\0")
    shown = f" {words}" if words else ""
    assert parse_qdisc(qdisc_message(kind, options)) == (3, name, f"qdisc {name} 8001: root{shown} dropped 0")
    held = qdisc_message(kind, options, parent=0x10010, queue=(2, 196, 7, 0, 0))
    assert parse_qdisc(held)[2] == f"qdisc {name} 8001: parent 1:10{shown} backlog 2p dropped 7"


def test_bridge_vlans_come_as_single_ones_and_ranges() -> None:
    spec = b"".join(
        attr(2, struct.pack("=HH", flags, vid)) for flags, vid in ((0x6, 1), (0x8, 10), (0x10, 12), (0x4, 20))
    )
    body = struct.pack("=BxHiII", 7, 1, 5, 0, 0) + attr(3, b"veth0\0") + attr(26, spec)
    message = struct.pack("=IHHII", 16 + len(body), 16, 2, 1, 0) + body
    assert parse_port_vlans([message]) == {
        5: (
            PortVlan(vid=1, pvid=True, untagged=True),
            PortVlan(vid=10),
            PortVlan(vid=11),
            PortVlan(vid=12),
            PortVlan(vid=20, untagged=True),
        )
    }


def flow(dst: str, proto: Proto, dport: int | None, src: str | None = "192.0.2.1") -> Flow:
    return Flow(
        src=FlowEnd(kind=EndpointKind.NETNS, name="a", address=ip_address(src) if src else None),
        dst=FlowEnd(kind=EndpointKind.ADDRESS, name=dst, address=ip_address(dst)),
        proto=proto,
        dport=dport,
    )


def test_conntrack_entries() -> None:
    entries = {
        entry.orig.proto: entry for entry in map(parse_conntrack, messages("conntrack")) if entry.orig.proto != 2
    }
    udp, tcp = entries[17], entries[6]
    assert (str(udp.orig.src), str(udp.orig.dst), udp.orig.dport) == ("192.0.2.1", "192.0.2.2", 53)
    assert udp.reply.sport == 53
    assert "seen_reply" not in udp.status
    assert {"seen_reply", "assured", "confirmed"} <= set(tcp.status)
    assert tcp.state == "CLOSE"
    assert belongs(udp, flow("192.0.2.2", Proto.UDP, 53))
    assert belongs(udp, flow("192.0.2.2", Proto.UDP, 53, src=None))
    assert not belongs(udp, flow("192.0.2.2", Proto.UDP, 54))
    assert not belongs(udp, flow("192.0.2.2", Proto.TCP, 53))
    assert not belongs(udp, flow("192.0.2.3", Proto.UDP, 53))


def test_nft_chains() -> None:
    assert parse_nft_chains(messages("chains")) == [("ip", "filter", "OUTPUT")]


def test_the_devices_of_nft_chains() -> None:
    place = attr(1, b"guard\0") + attr(3, b"c\0")
    head = bytes(16) + bytes((5, 0, 0, 0))
    one = head + place + attr(4, attr(3, b"eth0\0"))
    several = head + place + attr(4, attr(4, attr(1, b"eth0\0") + attr(1, b"eth1\0")))
    for message, names in ((one, ("eth0",)), (several, ("eth0", "eth1"))):
        assert parse_nft_devices([message]) == {("netdev", "guard", "c"): names}
    assert parse_nft_devices([head + place]) == {}


def test_nft_listings_get_the_devices_that_they_leave_out() -> None:
    listing = '{"nftables": [{"chain": {"family": "netdev", "table": "guard", "name": "c", "hook": "ingress"}}]}'
    text = with_devices(listing, {("netdev", "guard", "c"): ("eth0",)})
    assert '"dev":["eth0"]' in text
    assert with_devices(text, {("netdev", "guard", "c"): ("eth1",)}) == text


def test_attributes_stop_at_nonsense() -> None:
    assert list(attributes(b"\x03\x00\x01\x00")) == []
    assert list(attributes(b"\x08\x00\x01\x80ab")) == []
    assert attribute(attr(1, attr(2, b"x")), 1, 2) == b"x"
    assert attribute(attr(1, attr(2, b"x")), 1, 3) is None


def test_sockets_of_sock_diag() -> None:
    identity = struct.pack(">HH", 80, 0) + ip_address("::").packed + bytes(16) + struct.pack("=III", 7, 1, 2)
    body = struct.pack("=BBBB", 10, 10, 0, 0) + identity + struct.pack("=IIIII", 0, 0, 0, 1000, 99)
    found = parse_diag(bytes(16) + body + attr(11, b"\1"), "tcp")
    assert (found.proto, found.family, str(found.address), found.port, found.state) == ("tcp", 6, "::", 80, "LISTEN")
    assert (found.ifindex, found.v6only, found.uid) == (7, True, 1000)


def test_sockets_of_proc() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    rest = "00000000:00000000 00:00000000 00000000"
    tcp = (
        f"   0: 0100007F:1F40 00000000:0000 0A {rest}   101        0 1 1 0\n"
        f"   1: 0200000A:0016 0100000A:C000 01 {rest}     0        0 2 1 0\n"
    )
    (only,) = parse_proc_net(head + tcp, "tcp")
    assert (str(only.address), only.port, only.state, only.uid) == ("127.0.0.1", 8000, "LISTEN", 101)
    udp6 = f"  9: 000080FE00000000000000000100000A:0035 {'0' * 32}:0000 07 {rest}     0        0 3 2 0 0\n"
    (only,) = parse_proc_net(head + udp6, "udp6")
    assert (str(only.address), only.port, only.state, only.family) == ("fe80::a00:1", 53, "UNCONN", 6)
