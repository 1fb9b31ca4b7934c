"""Texts become the rows that JSON becomes, whatever was asked for beside; formats of older versions as well."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace

from nettrace.model.base import Missing, Present, Values, rows
from nettrace.model.snapshot import Address, FdbEntry, Link, LinkStats, Neighbour, NextHop, PolicyRule, Route, Socket

from .read import host_of, of_files, of_text

JSON = (
    "ip_-d_-j_addr", "ip_-d_-j_link", "ip_-j_route_show_table_all", "ip_-j_rule", "ip_-j_-6_rule", "ip_-j_neigh",
    "bridge_-j_fdb", "bridge_-d_-j_link",
)  # fmt: skip
VARIANTS = {
    "-d": ("ip_-d_-s_addr", "ip_-d_link", "ip_-d_route_show_table_all", "ip_-d_rule", "ip_-6_rule", "ip_-s_-s_neigh",
           "bridge_-s_fdb", "bridge_-d_link"),
    "plain": ("ip_-d_link", "ip_addr", "ip_route_show_table_all", "ip_rule", "ip_-6_rule", "ip_neigh", "bridge_fdb"),
    "-o": ("ip_-d_link", "ip_-o_addr", "ip_-o_route_show_table_all", "ip_rule", "ip_-6_rule", "ip_neigh", "bridge_fdb"),
}  # fmt: skip
SECTIONS = ("links", "addresses", "routes", "rules", "neighbours", "fdb")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("space", ["host", "web", "wired"])
def test_text_and_json_give_the_same_rows(space: str, variant: str) -> None:
    of_json, of_texts = of_files(space, *JSON), of_files(space, *VARIANTS[variant])
    assert of_json.untold == of_texts.untold == ()
    for section in SECTIONS:
        one, other = getattr(host_of(of_json), section), getattr(host_of(of_texts), section)
        assert isinstance(one, Present)
        assert isinstance(other, Present)
        assert sorted(map(_told, one.rows)) == sorted(map(_told, other.rows))
        assert len(one.rows) > 0 or section in ("neighbours", "fdb")


def _told(row: object) -> str:
    """Return a row without what one of the two does not say: counters, and the id of a namespace that has a name."""
    if isinstance(row, Link):
        row = replace(row, stats=LinkStats(), peer_nsid=-1 if row.peer_nsid is not None else None)
    return repr(row)


def test_every_word_of_a_listing_of_links_comes_through() -> None:
    links = {link.name: link for link in rows(host_of(of_files("wired", "ip_-d_-s_addr")).links)}
    port, vxlan = links["p2"].port, links["vx0"].vxlan
    assert port is not None
    assert vxlan is not None
    assert (port.hairpin, port.isolated, port.mcast_flood, port.neigh_suppress, port.learning) == (
        True,
        True,
        False,
        True,
        False,
    )
    assert (vxlan.vni, vxlan.local, vxlan.port, vxlan.learning, vxlan.proxy, vxlan.l2miss) == (
        77, ip_address("192.0.2.1"), 4790, False, True, True,
    )  # fmt: skip
    assert vxlan.underlay_ifindex == links["br0"].ifindex
    assert links["mv0"].macvlan_mode == "private"
    assert links["mv0"].peer_ifindex == links["e2"].ifindex
    assert (links["e2"].alias, links["vx0"].mtu, links["mv0"].up) == ("hello there", 1400, False)
    bridge = links["br0"].bridge
    assert bridge is not None
    assert (bridge.ageing_time_s, bridge.group_fwd_mask, bridge.nf_call_iptables) == (120.0, 8, True)
    assert links["p1"].master == links["br0"].ifindex
    assert links["br0"].stats.tx_packets > 0


def test_routes_of_every_kind() -> None:
    host = host_of(of_text(
        "$ ip route show table all\n"
        "default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.9 metric 100 mtu 1400\n"
        "10.1.0.0/16 proto bird metric 32\n"
        "\tnexthop via 192.0.2.2 dev eth0 weight 2\n"
        "\tnexthop via 192.0.2.3 dev eth1 weight 1 linkdown\n"
        "10.2.0.0/16 via inet6 fe80::1 dev eth0 onlink\n"
        "unreachable 10.3.0.0/16 metric 4278198272\n"
        "10.4.0.0/16 dev tun0 table vpn scope link\n"
        "10.5.0.0/16 nhid 7 via 192.0.2.4 dev eth0 tos 0x10 mtu lock 1300\n"
        "local 192.0.2.9 dev eth0 table local proto kernel scope host src 192.0.2.9\n"
        "2001:db8::/32 from 2001:db8:1::/48 via fe80::1 dev eth0 proto ra metric 1024 expires 1797sec pref high\n"
        "fe80::/64 dev eth0 proto kernel metric 256 pref medium\n"
    ))  # fmt: skip
    found = {str(route.dst): route for route in rows(host.routes)}
    eth0 = found["0.0.0.0/0"].nexthops[0].ifindex
    assert found["0.0.0.0/0"] == Route(
        table=254, dst=ip_network("0.0.0.0/0"), proto="dhcp", priority=100, prefsrc=ip_address("192.0.2.9"), mtu=1400,
        nexthops=(NextHop(ifindex=eth0, gateway=ip_address("192.0.2.1")),),
    )  # fmt: skip
    first, second = found["10.1.0.0/16"].nexthops
    assert (first.weight, second.weight, second.flags) == (2, 1, ("linkdown",))
    assert found["10.2.0.0/16"].nexthops[0].gateway == ip_address("fe80::1")
    assert found["10.3.0.0/16"].kind == "unreachable"
    assert found["10.3.0.0/16"].nexthops == ()
    assert found["10.4.0.0/16"].table not in (254, 255, 0)
    assert (found["10.5.0.0/16"].nexthop_id, found["10.5.0.0/16"].tos, found["10.5.0.0/16"].mtu) == (7, 16, 1300)
    assert found["192.0.2.9/32"].table == 255
    assert found["2001:db8::/32"].src == ip_network("2001:db8:1::/48")


def test_a_named_table_is_the_same_in_rules_and_routes() -> None:
    host = host_of(of_text(
        "# ip rule\n0:\tfrom all lookup local\n100:\tfrom 10.0.0.0/8 lookup vpn\n32766:\tfrom all lookup main\n"
        "32767:\tfrom all lookup default\n# ip route show table vpn\ndefault dev tun0 scope link\n"
    ))  # fmt: skip
    (route,) = rows(host.routes)
    assert [rule.table for rule in rows(host.rules)] == [255, route.table, 254, 253]


def test_rules_of_every_kind() -> None:
    host = host_of(of_files("wired", "ip_rule", "ip_-6_rule"))
    found = {(rule.family, rule.priority): rule for rule in rows(host.rules)}
    assert found[4, 1000] == PolicyRule(
        family=4, priority=1000, table=100, src=ip_network("10.0.0.0/8"), dst=ip_network("192.168.0.0/16"), fwmark=0x10,
        fwmask=0xF0, iif="br0",
    )  # fmt: skip
    assert (found[4, 1001].invert, found[4, 1001].oif, found[4, 1001].action) == (True, "e2", "prohibit")
    assert (found[4, 1002].goto, found[4, 1002].tos, found[4, 1002].action) == (32766, 16, "goto")
    assert (found[4, 1003].dport, found[4, 1003].sport, found[4, 1003].uid_range) == ((80, 90), (5, 5), (0, 100))
    assert found[4, 1003].suppress_prefixlength == 0
    assert found[4, 1004].suppress_ifgroup == 5
    assert found[4, 1006].l3mdev
    assert found[6, 1005].src == ip_network("fd00::/8")


def test_a_rule_that_asks_for_more_is_not_taken_for_one_that_asks_less() -> None:
    found = of_text(
        "$ ip rule\n0:\tfrom all lookup local\n9:\tfrom all frobnicate 7 lookup 9\n32767:\tfrom all lookup default\n"
    )
    assert [rule.priority for rule in rows(host_of(found).rules)] == [0, 32767]
    (trouble,) = found.untold
    assert trouble.reason == "frobnicate is not understood"
    assert "frobnicate 7" in trouble.text
    assert any("frobnicate 7" in gap.reason for gap in found.snapshot.gaps)


def test_neighbours_and_forwarding_entries() -> None:
    host = host_of(of_files("wired", "ip_-d_link", "ip_-s_-s_neigh", "bridge_-s_fdb"))
    names = {link.name: link.ifindex for link in rows(host.links)}
    assert Neighbour(
        ifindex=names["br0"], address=ip_address("fd00:1::9"), mac="02:00:00:00:00:19", state="REACHABLE"
    ) in rows(host.neighbours)
    assert {each.state for each in rows(host.neighbours)} == {"REACHABLE", "STALE", "PERMANENT"}
    assert FdbEntry(ifindex=names["p2"], mac="02:00:00:00:00:05", master=names["br0"], state="static") in rows(host.fdb)
    remote = next(each for each in rows(host.fdb) if each.dst == ip_address("192.0.2.10"))
    assert (remote.ifindex, remote.flags, remote.local) == (names["vx0"], ("self",), False)
    # A device's own list of multicast filters forwards nothing.
    assert not [each for each in rows(host.fdb) if each.mac.startswith("33:33")]


def test_failed_neighbours_and_those_without_a_mac() -> None:
    host = host_of(of_text(
        "$ ip neigh\n172.17.0.9 dev docker0  FAILED\n172.17.0.8 dev docker0 INCOMPLETE\n"
        "fe80::1 dev eth0 lladdr 00:11:22:33:44:55 router STALE\n"
        "172.17.0.7 dev docker0 lladdr 02:42:ac:11:00:07 DELAY\n"
    ))  # fmt: skip
    assert [(str(each.address), each.state, each.mac is None) for each in rows(host.neighbours)] == [
        ("172.17.0.9", "FAILED", True), ("172.17.0.8", "INCOMPLETE", True), ("fe80::1", "STALE", False),
        ("172.17.0.7", "DELAY", False),
    ]  # fmt: skip


def test_sockets_of_ss_and_netstat() -> None:
    for name in ("ss_-lntu", "ss_-tulpen", "ss_-ltnp"):
        host = host_of(of_files("host", name))
        assert [(each.proto, str(each.address), each.port, each.v6only, each.state) for each in rows(host.sockets)] == [
            ("tcp", "0.0.0.0", 8080, False, "LISTEN"), ("tcp", "::", 8080, True, "LISTEN"),
        ]  # fmt: skip
    assert [(each.family, each.port) for each in rows(host_of(of_files("host", "netstat_-lntu")).sockets)] == [
        (4, 8080),
        (6, 8080),
    ]
    assert [(each.v6only, str(each.address)) for each in rows(host_of(of_files("web", "ss_-lntu")).sockets)] == [
        (False, "::")
    ]


def test_programs_that_hold_a_port() -> None:
    for name in ("ss_-tulpen", "ss_-ltnp"):
        assert {each.process for each in rows(host_of(of_files("host", name)).sockets)} == {("docker-proxy",)}
    (socket,) = rows(host_of(of_text(
        "$ netstat -ltnp\nActive Internet connections (only servers)\n"
        "Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name\n"
        "tcp        0      0 0.0.0.0:8080            0.0.0.0:*               LISTEN      812/nginx: master\n"
    )).sockets)  # fmt: skip
    assert socket.process == ("nginx",)


def test_sockets_bound_to_a_device_and_old_spellings() -> None:
    host = host_of(of_text(
        "$ ss -lntu\n"
        "Netid  State      Recv-Q Send-Q     Local Address:Port       Peer Address:Port\n"
        "udp    UNCONN     0      0      127.0.0.53%lo:53                    *:*\n"
        "udp    UNCONN     0      0            *:68                    *:*\n"
        "tcp    LISTEN     0      128         :::22                   :::*\n"
        "nl     UNCONN     0      0           rtnl:kernel              *\n"
        "tcp    ESTAB      0      0      192.0.2.9:22          192.0.2.1:50000\n"
    ))  # fmt: skip
    found = rows(host.sockets)
    assert [(each.proto, str(each.address), each.port) for each in found] == [
        ("udp", "127.0.0.53", 53), ("udp", "::", 68), ("tcp", "::", 22),
    ]  # fmt: skip
    assert found[0].ifindex is not None
    assert isinstance(found[0], Socket)


def test_conntrack_with_what_it_implies() -> None:
    (entry,) = rows(host_of(of_text(
        "$ conntrack -L\n"
        "tcp      6 431999 ESTABLISHED src=192.0.2.1 dst=192.0.2.9 sport=5000 dport=8080 src=172.17.0.3 dst=192.0.2.1 "
        "sport=80 dport=5000 [ASSURED] mark=7 zone=2 use=1\n"
        "conntrack v1.4.7 (conntrack-tools): 1 flow entries have been shown.\n"
    )).conntrack)  # fmt: skip
    assert (entry.state, entry.mark, entry.zone, entry.timeout_s) == ("ESTABLISHED", 7, 2, 431999)
    assert entry.status == ("seen_reply", "assured", "confirmed", "dst_nat")
    assert (entry.orig.dport, entry.reply.src) == (8080, ip_address("172.17.0.3"))
    for name in ("conntrack_-L", "conntrack_-L_-o_extended"):
        found = of_files("host", name)
        assert found.untold == ()
        assert len(rows(host_of(found).conntrack)) == 17


def test_sysctls_are_those_of_the_network() -> None:
    sysctls = host_of(of_files("host", "sysctl_-a")).sysctls
    assert isinstance(sysctls, Values)
    assert sysctls.values["net.ipv4.ip_forward"] == "1"
    assert sysctls.values["net.ipv4.conf.docker0.rp_filter"] == "2"
    assert not [name for name in sysctls.values if not name.startswith("net.")]


def test_addresses_of_old_listings() -> None:
    found = of_text(
        "3: docker0: <NO-CARRIER,BROADCAST,MULTICAST,UP> mtu 1500 qdisc noqueue state DOWN \n"
        "    link/ether 56:84:7a:fe:97:99 brd ff:ff:ff:ff:ff:ff\n"
        "    inet 172.17.42.1/16 scope global docker0\n"
        "    inet6 fe80::5484:7aff:fefe:9799/64 scope link tentative dadfailed \n"
        "       valid_lft forever preferred_lft forever\n"
        "4: ppp0: <POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1492 qdisc pfifo_fast state UNKNOWN qlen 3\n"
        "    link/ppp \n"
        "    inet 198.51.100.7 peer 198.51.100.1/32 scope global ppp0\n"
    )
    host = host_of(found)
    assert found.untold == ()
    assert [(link.name, link.up, link.lower_up, link.arp_type, link.noarp) for link in rows(host.links)] == [
        ("docker0", True, False, 1, False), ("ppp0", True, True, 512, True),
    ]  # fmt: skip
    assert rows(host.addresses) == (
        Address(ifindex=3, address=ip_interface("172.17.42.1/16")),
        Address(
            ifindex=3,
            address=ip_interface("fe80::5484:7aff:fefe:9799/64"),
            scope="link",
            tentative=True,
            dadfailed=True,
        ),
        Address(ifindex=4, address=ip_interface("198.51.100.7/32"), peer=ip_network("198.51.100.1/32")),
    )


def test_nothing_is_present_that_no_text_gave() -> None:
    host = host_of(of_files("host", "ip_neigh"))
    for section in ("links", "addresses", "routes", "rules", "fdb", "sockets", "conntrack", "netfilter", "sysctls"):
        table = getattr(host, section)
        assert isinstance(table, Missing)
        assert table.reason.startswith("not in the paste: run `")
    # An empty file that is called after its command says that there are none.
    assert isinstance(host.neighbours, Present)
