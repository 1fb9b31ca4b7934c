"""What the collector reads, against what the kernel's own tools print, and against real engines."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from nettrace.collect import Collector
from nettrace.collect.engines import Candidate
from nettrace.collect.namespace import read_namespace
from nettrace.collect.netlink import Channel
from nettrace.collect.places import netns_of
from nettrace.collect.proc import read_text
from nettrace.errors import Ambiguous, EngineError, NotFound, UsageError
from nettrace.lab import Lab
from nettrace.model.base import Missing, Present, Values, rows
from nettrace.model.flow import EndpointKind, Flow, FlowEnd, Proto
from nettrace.model.lookup import AnswerKind, Lookup
from nettrace.model.snapshot import DumpFormat, Namespace, Snapshot
from nettrace.model.text import fdb_text, neighbour_text, route_text, rule_text
from nettrace.netns import pin, run_in

pytestmark = pytest.mark.live

#: The system's: the package of the same name puts another one on an environment's PATH.
NSENTER = "/usr/bin/nsenter"
PREFIX = f"ntc{os.getpid()}"

WIRING = """
ip link set lo up
ip link add br0 type bridge ageing_time 12000 nf_call_iptables 1
ip link set br0 up
ip link add p1 type veth peer name e1
ip link set p1 master br0
ip link set p1 up
ip link set e1 netns {far}
ip -n {far} link set e1 up
ip link add p2 type veth peer name e2
ip link set p2 master br0
ip link set p2 up
ip link set e2 up
ip link set dev p2 type bridge_slave hairpin on isolated on mcast_flood off neigh_suppress on learning off
ip addr add 192.0.2.1/24 dev br0
ip addr add 198.51.100.1 peer 198.51.100.2/32 dev e2
ip addr add 203.0.113.9/25 dev e2 noprefixroute
ip addr add fd00:1::1/64 dev br0 nodad
ip link add mv0 link e2 type macvlan mode private
ip link add vx0 type vxlan id 77 local 192.0.2.1 dstport 4790 dev br0 nolearning l2miss l3miss proxy
ip link set vx0 mtu 1400
ip link set vx0 up
ip link set vx0 alias 'to the other side'
bridge fdb add 02:00:00:00:00:99 dev vx0 dst 192.0.2.99 self permanent
bridge fdb add 02:00:00:00:00:10 dev p1 master static
ip neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev br0 nud permanent
ip neigh add fd00:1::50 lladdr 02:00:00:00:00:51 dev br0 nud stale
ip neigh add proxy 192.0.2.77 dev br0
ip neigh add proxy fd00:1::77 dev br0
ip route add default via 192.0.2.254 metric 100
ip route add blackhole 10.66.0.0/16
ip route add unreachable 10.67.0.0/16 metric 5
ip route add prohibit fd00:66::/32
ip route add throw 10.68.0.0/16 table 100
ip route add 10.1.0.0/16 nexthop via 192.0.2.2 weight 3 nexthop via 198.51.100.2 dev e2
ip route add 10.2.0.0/16 via inet6 fd00:1::2 dev br0
ip route add 10.3.0.0/16 via 203.0.113.200 dev br0 onlink mtu 1300 src 192.0.2.1 proto static
ip route add 10.4.0.0/16 dev br0 scope link tos 0x10 table 100
ip route add fd00:2::/64 via fd00:1::2 metric 77 mtu 1290
ip route add fd00:3::/64 nexthop via fd00:1::3 nexthop via fd00:1::4 weight 2
ip nexthop add id 7 via 192.0.2.3 dev br0
ip nexthop add id 8 via 192.0.2.4 dev br0
ip nexthop add id 9 group 7,2/8
ip route add 10.5.0.0/16 nhid 7
ip route add 10.6.0.0/16 nhid 9
ip rule add from 10.0.0.0/8 to 192.0.2.0/24 lookup 100 priority 50
ip rule add not fwmark 0x1/0xff lookup 101 priority 60
ip rule add iif br0 oif e2 tos 0x10 lookup 102 priority 70
ip rule add ipproto tcp sport 1000-2000 dport 80 blackhole priority 80
ip rule add uidrange 0-99 lookup main suppress_prefixlength 0 priority 90
ip rule add goto 32766 priority 95
ip -6 rule add from fd00::/8 prohibit priority 50
tc qdisc add dev e2 clsact
tc filter add dev e2 ingress bpf da bytecode '1,6 0 0 2,'
tc filter add dev e2 egress protocol ip u32 match ip dst 10.9.9.9/32 action mirred egress mirror dev p2
tc qdisc add dev p2 root tbf rate 1mbit burst 10kb latency 50ms
sysctl -qw net.ipv4.conf.e2.rp_filter=2 net.ipv4.conf.e2.route_localnet=1 net.ipv6.conf.e2.proxy_ndp=1
sysctl -qw net.ipv4.conf.e2.arp_ignore=3 net.ipv4.conf.br0.send_redirects=0 net.ipv4.conf.br0.medium_id=7
sysctl -qw net.ipv6.conf.mv0.disable_ipv6=1 net.ipv4.conf.br0.forwarding=0 net.ipv6.conf.br0.accept_ra=2
"""


def sh(command: str, *, ns: str | None = None) -> str:
    argv = shlex.split(command)
    if ns is not None:
        # Not `ip netns exec`: that would mount another /sys.
        argv = [NSENTER, f"--net=/run/netns/{ns}", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def ip_json(command: str, ns: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sh(command, ns=ns) or "[]")
    return [row for row in found if row]


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[list[str]]:
    made: list[str] = []
    try:
        for name in names:
            sh(f"ip netns add {PREFIX}{name}")
            made.append(f"{PREFIX}{name}")
        yield made
    finally:
        for name in made:
            sh(f"ip netns del {name}")


def read(name: str, flow: Flow | None = None) -> Namespace:
    with pin(f"/run/netns/{name}", name) as ns, Channel(ns) as channel:
        namespace, gaps = read_namespace(ns, channel, name=name, kind="netns", flow=flow)
    assert gaps == ()
    return namespace


@pytest.fixture(scope="module")
def messy() -> Iterator[tuple[str, Namespace]]:
    """A namespace with one of everything, and what was read of it."""
    with namespaces("a", "b") as (near, far):
        for line in WIRING.strip().splitlines():
            sh(line.format(far=far), ns=near)
        time.sleep(0.2)
        yield near, read(near)


def names_of(ns: Namespace) -> dict[int, str]:
    return {link.ifindex: link.name for link in rows(ns.links)}


def test_links_are_as_ip_prints_them(messy: tuple[str, Namespace]) -> None:
    name, ns = messy
    links = {link.name: link for link in rows(ns.links)}
    printed = {row["ifname"]: row for row in ip_json("ip -j -d -s link show", name)}
    assert links.keys() == printed.keys()
    for device, row in printed.items():
        link, info = links[device], row.get("linkinfo", {})
        assert (link.ifindex, link.mtu, link.operstate) == (row["ifindex"], row["mtu"], row["operstate"]), device
        assert link.kind == info.get("info_kind", "")
        assert link.mac == row["address"]
        assert link.up == ("UP" in row["flags"])
        assert link.lower_up == ("LOWER_UP" in row["flags"])
        assert link.loopback == ("LOOPBACK" in row["flags"])
        assert link.qdisc == row["qdisc"]
        assert link.alias == row.get("ifalias")
        assert (names_of(ns).get(link.master) if link.master else None) == row.get("master")
        assert link.peer_ifindex == row.get(
            "link_index", next((n.ifindex for n in links.values() if n.name == row.get("link")), None)
        )
        assert link.peer_nsid == row.get("link_netnsid")
        for key, ours in (("rx", "rx_packets"), ("tx", "tx_packets")):
            assert getattr(link.stats, ours) <= row["stats64"][key]["packets"]
    slave = printed["p2"]["linkinfo"]["info_slave_data"]
    port = links["p2"].port
    assert port is not None
    assert (port.hairpin, port.isolated, port.mcast_flood, port.neigh_suppress, port.learning) == (
        slave["hairpin"],
        slave["isolated"],
        slave["mcast_flood"],
        slave["neigh_suppress"],
        slave["learning"],
    )
    assert (port.hairpin, port.isolated, port.learning) == (True, True, False)
    assert {"disabled": 0, "listening": 1, "learning": 2, "forwarding": 3, "blocking": 4}[slave["state"]] == port.state
    bridge = links["br0"].bridge
    assert bridge is not None
    assert (bridge.vlan_filtering, bridge.ageing_time_s, bridge.nf_call_iptables) == (False, 120.0, True)
    assert links["mv0"].macvlan_mode == printed["mv0"]["linkinfo"]["info_data"]["mode"] == "private"
    vxlan = links["vx0"].vxlan
    assert vxlan is not None
    told = printed["vx0"]["linkinfo"]["info_data"]
    assert (
        (vxlan.vni, str(vxlan.local), vxlan.port)
        == (told["id"], told["local"], told["port"])
        == (77, "192.0.2.1", 4790)
    )
    assert (vxlan.learning, vxlan.proxy, vxlan.l2miss, vxlan.l3miss) == (False, True, True, True)
    assert vxlan.underlay_ifindex == links["br0"].ifindex


def test_traffic_control_is_told(messy: tuple[str, Namespace]) -> None:
    _name, ns = messy
    by_name = {link.name: link.tc for link in rows(ns.links)}
    told = " | ".join(by_name["e2"])
    assert "qdisc clsact" in told
    assert "filter ingress protocol all pref 49152 bpf direct-action" in told
    assert "filter egress protocol ip pref 49152 u32 action mirred egress mirror dev " in told
    assert by_name["p2"][0].startswith("qdisc tbf")
    assert by_name["lo"] == ()


def test_addresses_are_as_ip_prints_them(messy: tuple[str, Namespace]) -> None:
    name, ns = messy
    ours = {(each.ifindex, str(each.address.ip)): each for each in rows(ns.addresses)}
    printed = {
        (row["ifindex"], info["local"]): info for row in ip_json("ip -j addr show", name) for info in row["addr_info"]
    }
    assert ours.keys() == printed.keys()
    for key, info in printed.items():
        address = ours[key]
        assert address.scope == info["scope"]
        assert address.noprefixroute == info.get("noprefixroute", False)
        assert address.tentative == info.get("tentative", False)
        if "address" in info:
            assert address.peer == ip_network(f"{info['address']}/{info['prefixlen']}")
        else:
            assert address.address == ip_interface(f"{info['local']}/{info['prefixlen']}")


@pytest.mark.parametrize("family", [4, 6])
def test_routes_are_as_ip_prints_them(messy: tuple[str, Namespace], family: int) -> None:
    name, ns = messy
    names = names_of(ns)
    tables = {"main": 254, "local": 255, "default": 253}

    def key(row: dict[str, Any]) -> tuple[object, ...]:
        dst = row["dst"]
        everything = "0.0.0.0/0" if family == 4 else "::/0"
        hops = row.get("nexthops") or ([row] if "dev" in row or "gateway" in row or "via" in row else [])
        kind = row.get("type", "unicast")
        return (
            tables.get(row.get("table", "main"), row.get("table")),
            str(ip_network(everything if dst == "default" else dst)),
            kind,
            row.get("metric", 0),
            row.get("prefsrc"),
            row.get("protocol", "boot"),
            row.get("scope", "global"),
            int(row["tos"], 0) if "tos" in row else 0,
            next((int(each["mtu"]) for each in row.get("metrics", []) if "mtu" in each), None),
            tuple(
                (hop.get("dev"), hop.get("gateway") or hop.get("via", {}).get("host"), hop.get("weight", 1))
                for hop in hops
            ),
        )

    printed = [key(row) for row in ip_json(f"ip -j -{family} route show table all", name)]
    ours = [
        (
            int(route.table),
            str(route.dst),
            route.kind,
            route.priority,
            str(route.prefsrc) if route.prefsrc else None,
            route.proto,
            route.scope,
            route.tos,
            route.mtu,
            tuple(
                (names.get(hop.ifindex or 0), str(hop.gateway) if hop.gateway else None, hop.weight)
                for hop in route.nexthops
            ),
        )
        for route in rows(ns.routes)
        if route.dst.version == family
    ]
    printed = [(int(str(row[0])), *row[1:]) for row in printed]
    assert sorted(map(repr, ours)) == sorted(map(repr, printed))


@pytest.mark.parametrize("family", [4, 6])
def test_routes_read_like_iproute2(messy: tuple[str, Namespace], family: int) -> None:
    name, ns = messy
    printed = " ".join(sh(f"ip -{family} route show", ns=name).replace(" pref medium", "").split())
    for route in rows(ns.routes):
        if route.dst.version != family or route.table != 254:
            continue
        text = route_text(route, names_of(ns))
        told = text.replace("proto boot ", "")
        assert told in printed.replace("proto boot ", ""), text


@pytest.mark.parametrize("family", [4, 6])
def test_rules_are_as_ip_prints_them(messy: tuple[str, Namespace], family: int) -> None:
    name, ns = messy
    printed = [" ".join(line.split()) for line in sh(f"ip -{family} rule show", ns=name).splitlines()]
    assert [rule_text(rule) for rule in rows(ns.rules) if rule.family == family] == printed


def test_neighbours_are_as_ip_prints_them(messy: tuple[str, Namespace]) -> None:
    name, ns = messy
    # The kernel makes entries for multicast groups whenever it speaks to one: they come and go.
    lines = [*sh("ip neigh show nud all", ns=name).splitlines(), *sh("ip neigh show proxy", ns=name).splitlines()]
    printed = sorted(" ".join(line.split()) for line in lines if "NOARP" not in line)
    ours = [neighbour_text(each, names_of(ns)) for each in rows(ns.neighbours) if each.state != "NOARP"]
    assert sorted(ours) == printed
    assert len(ours) == 4


def test_forwarding_entries_are_as_bridge_prints_them(messy: tuple[str, Namespace]) -> None:
    name, ns = messy
    printed = {
        " ".join(line.split())
        for line in sh("bridge fdb show", ns=name).splitlines()
        if "self" not in line.split() or "vx0" in line.split()
    }
    assert {fdb_text(each, names_of(ns)) for each in rows(ns.fdb)} == printed
    local = {each.mac for each in rows(ns.fdb) if each.local}
    macs = {link.name: link.mac for link in rows(ns.links)}
    assert {macs["p1"], macs["p2"]} <= local
    assert "02:00:00:00:00:10" not in local


def test_sysctls_of_devices_are_those_of_proc(messy: tuple[str, Namespace]) -> None:
    name, ns = messy
    assert isinstance(ns.sysctls, Values)
    values = ns.sysctls.values
    with pin(f"/run/netns/{name}") as inside:

        def proc() -> dict[str, str]:
            return {key: read_text("/proc/sys/" + key.replace(".", "/")).strip() for key in values}

        assert values == {
            key: values[key] if "conntrack_count" in key else text for key, text in run_in(inside, proc).items()
        }
    assert values["net.ipv4.conf.e2.rp_filter"] == "2"
    assert values["net.ipv4.conf.br0.forwarding"] == "0"
    assert values["net.ipv6.conf.mv0.disable_ipv6"] == "1"
    assert values["net.ipv4.conf.br0.medium_id"] == "7"
    assert "net.ipv4.ip_forward" in values
    assert "net.bridge.bridge-nf-call-iptables" in values


def test_counters_have_the_kernels_names(messy: tuple[str, Namespace]) -> None:
    _name, ns = messy
    assert isinstance(ns.counters, Values)
    for key in ("Ip.InNoRoutes", "Ip.OutNoRoutes", "TcpExt.IPReversePathFilter", "Ip6.InNoRoutes", "Icmp6.InMsgs"):
        assert key in ns.counters.values
    assert {
        "nf_conntrack.count",
        "nf_conntrack.max",
        "nf_conntrack.drop",
    } <= ns.counters.values.keys()


def test_sockets_that_can_receive_are_told() -> None:
    with namespaces("s") as (name,), contextlib.ExitStack() as stack:
        sh("ip link set lo up", ns=name)
        with pin(f"/run/netns/{name}") as ns:

            def listen(family: int, kind: int, address: str, port: int, only: bool | None = None) -> None:
                made = stack.enter_context(run_in(ns, lambda: socket.socket(family, kind)))
                if only is not None:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
                made.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    made.listen()

            listen(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 80)
            listen(socket.AF_INET6, socket.SOCK_STREAM, "::", 81, False)
            listen(socket.AF_INET6, socket.SOCK_STREAM, "::", 82, True)
            listen(socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", 53)
            from nettrace.collect import sockets

            told = {(each.proto, each.family, str(each.address), each.port): each for each in rows(read(name).sockets)}
            plain = {(each.proto, each.family, str(each.address), each.port) for each in run_in(ns, sockets._read_proc)}
        assert told.keys() == plain
        assert told["tcp", 4, "127.0.0.1", 80].state == "LISTEN"
        assert not told["tcp", 6, "::", 81].v6only
        assert told["tcp", 6, "::", 82].v6only
        assert told["udp", 4, "0.0.0.0", 53].state == "UNCONN"


def dumps(ns: Namespace) -> dict[tuple[str, str, str], str]:
    assert isinstance(ns.netfilter, Present)
    return {(each.format.value, each.backend, each.family): each.text for each in ns.netfilter.rows}


def test_looking_at_netfilter_changes_nothing_and_finds_everything() -> None:
    with namespaces("n") as (name,):
        assert dumps(read(name)) == {}
        assert sh("nft list tables", ns=name) == ""
        assert sh("cat /proc/net/ip_tables_names", ns=name) == ""

        sh("nft add table inet own", ns=name)
        assert list(dumps(read(name))) == [("nft-json", "nft", "all")]

        sh("iptables-nft -A FORWARD -s 192.0.2.1 -j DROP", ns=name)
        found = dumps(read(name))
        assert list(found) == [("nft-json", "nft", "all"), ("iptables-save", "nft", "ip")]
        assert "-A FORWARD -s 192.0.2.1/32 -j DROP" in found["iptables-save", "nft", "ip"]
        assert ":FORWARD ACCEPT [0:0]" in found["iptables-save", "nft", "ip"]

        sh("ip6tables-legacy -A INPUT -j DROP", ns=name)
        sh("ebtables-nft -A FORWARD -p ARP -j DROP", ns=name)
        sh("ipset create ntcset hash:ip", ns=name)
        sh("ipset add ntcset 192.0.2.7", ns=name)
        assert ("ipset-save", "nft", "all") not in dumps(read(name))
        sh("iptables-nft -A INPUT -m set --match-set ntcset src -j DROP", ns=name)
        found = dumps(read(name))
        assert "-A INPUT -j DROP" in found["iptables-save", "legacy", "ip6"]
        assert "FORWARD -p ARP -j DROP" in found["ebtables-save", "nft", "bridge"]
        assert "add ntcset 192.0.2.7" in found["ipset-save", "nft", "all"]
        assert sh("cat /proc/net/ip_tables_names", ns=name) == ""


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two namespaces, 192.0.2.1 and 192.0.2.2, with rules that make the first one track connections."""
    with namespaces("p", "q") as (near, far):
        sh(f"ip link add e0 type veth peer name e1 netns {far}", ns=near)
        for name, device, last in ((near, "e0", 1), (far, "e1", 2)):
            sh("ip link set lo up", ns=name)
            sh(f"ip addr add 192.0.2.{last}/24 dev {device}", ns=name)
            sh(f"ip addr add fd00:9::{last}/64 dev {device} nodad", ns=name)
            sh(f"ip link set {device} up", ns=name)
        sh("iptables-nft -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT", ns=near)
        sh("sysctl -qw net.ipv4.ip_forward=1", ns=near)
        yield near, far


def inside(name: str) -> Callable[[Callable[[], Any]], Any]:
    def run(work: Callable[[], Any]) -> Any:
        with pin(f"/run/netns/{name}") as ns:
            return run_in(ns, work)

    return run


def send_udp(name: str, address: str, port: int) -> None:
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", (address, port))

    inside(name)(work)


def test_conntrack_holds_the_flows_entries_alone(pair: tuple[str, str]) -> None:
    near, _far = pair
    send_udp(near, "192.0.2.2", 53)
    send_udp(near, "192.0.2.2", 54)
    send_udp(near, "192.0.2.3", 53)
    flow = Flow(
        src=FlowEnd(kind=EndpointKind.NETNS, name=near, address=ip_address("192.0.2.1")),
        dst=FlowEnd(kind=EndpointKind.ADDRESS, name="192.0.2.2", address=ip_address("192.0.2.2")),
        proto=Proto.UDP,
        dport=53,
    )
    (entry,) = rows(read(near, flow).conntrack)
    assert (str(entry.orig.dst), entry.orig.dport, entry.orig.proto) == ("192.0.2.2", 53, 17)
    assert (str(entry.reply.src), entry.reply.sport) == ("192.0.2.2", 53)
    assert "confirmed" in entry.status
    assert "seen_reply" not in entry.status
    assert isinstance(read(near).conntrack, Missing)


def collect_in(name: str, *, engines: tuple[Any, ...] | None = ()) -> Callable[..., tuple[Flow, Snapshot, Snapshot]]:
    """Return a function that asks a question with `name` as the host, and reads what it takes, twice."""

    def ask(src: str, dst: str, **options: Any) -> tuple[Flow, Snapshot, Snapshot]:
        def work() -> tuple[Flow, Snapshot, Snapshot]:
            with Collector(engines=engines) as collector:
                flow = collector.resolve(
                    src,
                    dst,
                    proto=options.get("proto", Proto.ICMP),
                    dport=options.get("dport"),
                    size=None,
                    family=options.get("family"),
                )
                for netns in (flow.src.netns, collector.host.inode, flow.dst.netns):
                    if netns is not None:
                        assert collector.read(netns)
                before = collector.snapshot()
                options.get("between", lambda: None)()
                return flow, before, collector.read_after()

        found: tuple[Flow, Snapshot, Snapshot] = inside(name)(work)
        return found

    return ask


def test_both_ends_of_a_veth_pair_know_each_other(pair: tuple[str, str]) -> None:
    near, far = pair
    flow, before, after = collect_in(near)("host", f"netns:{far}", between=lambda: send_udp(far, "192.0.2.1", 9))
    assert flow.src.netns == netns_of(f"/run/netns/{near}") == before.host_netns
    assert str(flow.dst.address) == "192.0.2.2"
    assert str(flow.src.address) == "192.0.2.1"
    host, other = before.namespace(before.host_netns), before.namespace(netns_of(f"/run/netns/{far}") or 0)
    assert host is not None
    assert other is not None
    e0 = next(link for link in rows(host.links) if link.name == "e0")
    e1 = next(link for link in rows(other.links) if link.name == "e1")
    assert (e0.peer_ifindex, e0.peer_netns, e0.peer_nsid) == (e1.ifindex, other.id, None)
    assert (e1.peer_ifindex, e1.peer_netns, e1.peer_nsid) == (e0.ifindex, host.id, None)
    assert other.name == far
    assert (host.name, host.kind) == ("host", "host")
    later = after.namespace(other.id)
    assert later is not None
    e1_later = next(link for link in rows(later.links) if link.name == "e1")
    assert e1_later.stats.tx_packets > e1.stats.tx_packets
    assert e1_later.peer_netns == host.id
    assert later.routes == other.routes
    assert (before.taken_at_ns, before.gaps) < (after.taken_at_ns, before.gaps)


def test_namespaces_without_a_name_are_found_by_their_processes(pair: tuple[str, str]) -> None:
    near, _far = pair
    with subprocess.Popen([NSENTER, f"--net=/run/netns/{near}", "unshare", "-n", "sleep", "60"]) as child:
        try:
            for _attempt in range(100):
                if netns_of(f"/proc/{child.pid}/ns/net") not in (
                    netns_of("/proc/self/ns/net"),
                    netns_of(f"/run/netns/{near}"),
                ):
                    break
                time.sleep(0.02)
            sh(f"ip link add u0 type veth peer name u1 netns {child.pid}", ns=near)
            sh("ip addr add 192.0.2.129/25 dev u0", ns=near)
            _flow, before, _after = collect_in(near)("host", "192.0.2.200")
            host = before.namespace(before.host_netns)
            assert host is not None
            u0 = next(link for link in rows(host.links) if link.name == "u0")
            assert u0.peer_netns == netns_of(f"/proc/{child.pid}/ns/net")
            flow, found, _after = collect_in(near)(f"pid:{child.pid}", "192.0.2.129")
            assert flow.src.name == f"pid:{child.pid}"
            assert {ns.name for ns in found.namespaces} == {"host", f"pid:{child.pid}"}
        finally:
            child.kill()


def test_endpoints_without_an_engine(pair: tuple[str, str]) -> None:
    near, far = pair
    ask = collect_in(near)
    flow, _before, _after = ask(f"netns:{far}", "host")
    assert str(flow.dst.address) == "192.0.2.1"
    assert flow.dst.netns == netns_of(f"/run/netns/{near}")
    flow, _before, _after = ask("host", f"netns:/run/netns/{far}", family=6)
    assert (str(flow.dst.address), flow.family) == ("fd00:9::2", 6)
    flow, _before, _after = ask(f"netns:{far}", "192.0.2.1")
    assert (flow.dst.kind, flow.dst.netns) == (EndpointKind.ADDRESS, netns_of(f"/run/netns/{near}"))
    flow, _before, _after = ask("192.0.2.1", "192.0.2.2")
    assert flow.src.netns == netns_of(f"/run/netns/{near}")
    flow, _before, _after = ask(f"netns:{far}", "127.0.0.1")
    assert flow.dst.netns == flow.src.netns
    with pytest.raises(UsageError, match="IPv4 address"):
        ask("host", "192.0.2.2", family=6)
    with pytest.raises(NotFound, match=f"did you mean .*{far}"):
        ask("host", f"netns:{far}x")
    with pytest.raises(NotFound, match="no process"):
        ask("pid:4194999", "192.0.2.2")
    with pytest.raises(NotFound, match="not a network namespace"):
        ask("netns:/etc/hostname", "192.0.2.2")
    with pytest.raises(NotFound, match=f"say netns:{far}"):
        ask(far, "192.0.2.2")
    flow, _before, _after = ask("192.0.2.2", "192.0.2.1")
    assert (flow.src.kind, flow.src.netns) == (EndpointKind.ADDRESS, None)  # whoever holds it: beyond this host
    with pytest.raises(NotFound, match="no container engine found"):
        ask("container:web", "192.0.2.1")


DNS_SERVER = """
import socket, struct, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("192.0.2.2", 53))
print("ready", flush=True)
while True:
    query, peer = server.recvfrom(512)
    name, offset = [], 12
    while query[offset]:
        name.append(query[offset + 1 : offset + 1 + query[offset]].decode())
        offset += query[offset] + 1
    kind = struct.unpack(">H", query[offset + 1 : offset + 3])[0]
    known = {("db.example.test", 1): bytes([192, 0, 2, 9]), ("six.test", 28): bytes([0x20, 1]) + bytes(13) + b"\\1"}
    answer = known.get((".".join(name), kind))
    if ".".join(name) == "silent.test":
        continue
    record = b"" if answer is None else b"\\xc0\\x0c" + struct.pack(">HHIH", kind, 1, 60, len(answer)) + answer
    code = 0 if answer is not None or ".".join(name) == "six.test" else 3
    header = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, int(answer is not None), 0, 0)
    server.sendto(header + query[12 : offset + 5] + record, peer)
"""


def test_names_are_resolved_as_the_source_would(pair: tuple[str, str]) -> None:
    near, far = pair
    folder = Path("/etc/netns") / near
    folder.mkdir(parents=True)
    argv = [NSENTER, f"--net=/run/netns/{far}", sys.executable, "-c", DNS_SERVER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            (folder / "resolv.conf").write_text("search example.test\nnameserver 192.0.2.2\noptions ndots:1\n")
            (folder / "hosts").write_text("127.0.0.1 localhost\n192.0.2.33 filed.test filed\n")
            ask = collect_in(far)
            flow, _before, _after = ask(f"netns:{near}", "db")
            assert (flow.dst.kind, str(flow.dst.address), flow.dst.name) == (EndpointKind.NAME, "192.0.2.9", "db")
            flow, _before, _after = ask(f"netns:{near}", "filed")
            assert str(flow.dst.address) == "192.0.2.33"
            flow, _before, _after = ask(f"netns:{near}", "six.test")
            assert (str(flow.dst.address), flow.family) == ("2001::1", 6)
            assert answered(ask, near, "nowhere.test") == [AnswerKind.NO_NAME]
            assert answered(ask, near, "silent.test") == [AnswerKind.SILENT]
            server.kill()
            server.wait()
            assert answered(ask, near, "db.example.test") == [AnswerKind.UNREACHABLE]
        finally:
            server.kill()
            for path in (folder / "resolv.conf", folder / "hosts"):
                path.unlink(missing_ok=True)
            folder.rmdir()


def answered(ask: Callable[..., tuple[Flow, Snapshot, Snapshot]], near: str, name: str) -> list[AnswerKind]:
    """Ask for a name that comes to nothing, and return what its server said to it, each thing once."""
    flow, before, _after = ask(f"netns:{near}", name)
    source = before.namespace(flow.src.netns or 0)
    assert flow.dst.address is None
    assert source is not None
    assert isinstance(source.names, Lookup)
    assert source.names.addresses == ()
    assert {str(each.server) for each in source.names.answers} == {"192.0.2.2"}
    return list(dict.fromkeys(each.kind for each in source.names.answers if each.name == name))


def test_nothing_stays_open(pair: tuple[str, str]) -> None:
    near, far = pair
    before = set(Path("/proc/self/fd").iterdir())
    collect_in(near)("host", f"netns:{far}")
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pin("/proc/self/ns/net") as host:
        for path, said in ((tmp_path / "none.sock", "start the engine"), (tmp_path, "cannot be used|nobody answers")):
            with pytest.raises(EngineError, match=said):
                Candidate("docker", f"unix://{path}", explicit=True).open(host)
        with pytest.raises(EngineError, match="run nettrace on that machine"):
            Candidate("docker", "ssh://user@elsewhere", explicit=True).open(host)


# --- real engines -----------------------------------------------------------------------------------------------


def in_lab(lab: Lab, work: Callable[[Collector], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `work` with a collector whose host is the lab's, as `nettrace lab exec` would."""
    assert lab.state.host is not None
    if lab.state.docker_host:
        monkeypatch.setenv("DOCKER_HOST", lab.state.docker_host)

    def inside() -> Any:
        with Collector() as collector:
            return work(collector)

    with pin(lab.state.host.path) as ns:
        return run_in(ns, inside)


def question(collector: Collector, src: str, dst: str, **options: Any) -> Flow:
    return collector.resolve(src, dst, proto=Proto.ICMP, dport=None, size=None, family=options.get("family"))


@pytest.fixture
def busy_lab(docker_lab: Lab) -> Iterator[Lab]:
    """The Docker lab, with containers of every odd kind beside its own."""
    run = ("run", "-d", "--stop-timeout", "0")
    idle = ("busybox", "tail", "-f", "/dev/null")
    extra = {
        "ntc-none": (*run, "--network", "none", *idle),
        "ntc-host": (*run, "--network", "host", *idle),
        "ntc-joined": (*run, "--network", "container:c1", *idle),
        "ntc-dead": (*run, *idle),
        # One of two networks; the lab's own containers keep the resolv.conf that they were made with.
        "ntc-roamer": (*run, *idle),
        "ntc.dotted": (*run, "--network", "net1", "--network-alias", "ntcalias", *idle),
    }
    made = []
    try:
        for name, (verb, *rest) in extra.items():
            docker_lab.docker(verb, "--name", name, *rest)
            made.append(name)
        docker_lab.docker("stop", "ntc-dead")
        docker_lab.docker("network", "connect", "net1", "ntc-roamer")
        yield docker_lab
    finally:
        if made:
            docker_lab.docker("rm", "-f", *made)


def inspected(lab: Lab, name: str) -> dict[str, Any]:
    (found,) = json.loads(lab.docker("inspect", name))
    return dict(found)


def test_intent_is_what_the_engine_says(busy_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    intent = in_lab(busy_lab, lambda collector: collector.intent(complete=True), monkeypatch)
    (engine,) = intent.engines
    assert engine.version == busy_lab.docker("version", "-f", "{{.Server.Version}}").strip()
    networks = {network.name: network for network in intent.networks}
    for name in ("bridge", "net1", "noicc", "sealed"):
        (told,) = json.loads(busy_lab.docker("network", "inspect", name))
        network = networks[name]
        assert (network.id, network.driver, network.internal) == (told["Id"], told["Driver"], told["Internal"])
        assert [str(pool.subnet) for pool in network.subnets] == [each["Subnet"] for each in told["IPAM"]["Config"]]
        assert all(pool.gateway == pool.subnet[1] for pool in network.subnets)
    assert networks["bridge"].bridge == "docker0"
    assert networks["net1"].bridge == f"br-{networks['net1'].id[:12]}"
    assert (networks["bridge"].icc, networks["noicc"].icc, networks["net1"].icc) == (True, False, None)
    assert networks["bridge"].mtu == 1500
    assert networks["sealed"].internal
    containers = {container.name: container for container in intent.containers}
    for name, container in containers.items():
        told = inspected(busy_lab, name)
        assert container.id == told["Id"]
        assert container.status == told["State"]["Status"]
        assert container.mode == told["HostConfig"]["NetworkMode"]
        if container.status == "running":
            assert container.pid == told["State"]["Pid"]
            assert container.netns == netns_of(f"/proc/{container.pid}/ns/net")
        for endpoint in container.endpoints:
            row = told["NetworkSettings"]["Networks"][endpoint.network]
            assert (endpoint.endpoint_id, endpoint.mac) == (row["EndpointID"], row["MacAddress"] or None)
            assert str(endpoint.ipv4) == f"{row['IPAddress']}/{row['IPPrefixLen']}" or not row["IPAddress"]
            assert str(endpoint.gateway or "") in (row["Gateway"], "")
    assert {
        (port.proto, port.container_port, str(port.host_ip), port.host_port) for port in containers["web"].ports
    } >= {("tcp", 80, "0.0.0.0", 8080)}
    assert containers["ntc-joined"].joined == containers["c1"].id
    assert containers["ntc-joined"].netns == containers["c1"].netns
    assert containers["ntc-dead"].netns is None


def test_endpoints_of_a_real_engine(busy_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {name: inspected(busy_lab, name) for name in ("ntc-roamer", "web", "c1", "ntc-none", "ntc-host", "ntc-dead")}

    def address(name: str, network: str) -> str:
        return str(told[name]["NetworkSettings"]["Networks"][network]["IPAddress"])

    def ask(src: str, dst: str, **options: Any) -> Flow:
        found: Flow = in_lab(busy_lab, lambda collector: question(collector, src, dst, **options), monkeypatch)
        return found

    identity = told["web"]["Id"]
    for form in ("web", "container:web", identity, identity[:12], identity[:9]):
        flow = ask("ntc-roamer", form)
        assert (flow.dst.kind, flow.dst.name, flow.dst.id) == (EndpointKind.CONTAINER, "web", identity)
        assert str(flow.dst.address) == address("web", "bridge")
        assert flow.dst.netns == netns_of(f"/proc/{told['web']['State']['Pid']}/ns/net")
        assert str(flow.src.address) == address("ntc-roamer", "bridge")
    # The network that both are on counts, and the kernel then sends from that network's address.
    flow = ask("ntc-roamer", "c1")
    assert str(flow.dst.address) == address("c1", "net1")
    assert (
        str(flow.src.address) == inspected(busy_lab, "ntc-roamer")["NetworkSettings"]["Networks"]["net1"]["IPAddress"]
    )
    assert str(ask("web", "c1").dst.address) == address("c1", "net1")
    assert str(ask("host", "web").dst.address) == address("web", "bridge")
    assert str(ask("host", "web").src.address) == "172.17.0.1"
    assert str(ask("c1", "host").dst.address) == "172.18.0.1"
    assert str(ask("s1", "host").dst.address) == "172.20.0.1"
    assert str(ask("ntc-none", "host").dst.address) == "203.0.113.2"
    flow = ask("ntc-roamer", address("web", "bridge"))
    assert (flow.dst.kind, flow.dst.name) == (EndpointKind.ADDRESS, address("web", "bridge"))
    assert flow.dst.netns == netns_of(f"/proc/{told['web']['State']['Pid']}/ns/net")
    host = netns_of(busy_lab.host if "/" in busy_lab.host else f"/run/netns/{busy_lab.host}")
    assert ask("ntc-roamer", "203.0.113.2").dst.netns == host
    assert ask("ntc-roamer", "8.8.8.8").dst.netns is None
    flow = ask("ntc-joined", "c2")
    assert flow.src.netns == netns_of(f"/proc/{told['c1']['State']['Pid']}/ns/net")
    assert str(flow.src.address) == address("c1", "net1")
    assert ask("ntc-host", "8.8.8.8").src.netns == host
    assert ask("ntc-none", "8.8.8.8").src.address is None
    for src, dst in (("ntc-dead", "8.8.8.8"), ("ntc-roamer", "ntc-dead"), ("ntc-roamer", "ntc-none")):
        flow = ask(src, dst)
        end = flow.src if src == "ntc-dead" else flow.dst
        assert end.kind is EndpointKind.CONTAINER
        assert end.address is None
        assert (end.netns is None) == ("ntc-dead" in (src, dst))
    with pytest.raises(NotFound, match=r"no container is called wep.*did you mean web"):
        ask("wep", "8.8.8.8")
    with pytest.raises(NotFound, match="has no IPv6 address"):
        ask("ntc-roamer", "web", family=6)
    assert ask("ntc-roamer", "2001:db8::5").family == 6
    # Docker's resolver answers for aliases, inside the namespace of the container that asks.
    flow = ask("c2", "ntcalias")
    assert (flow.dst.kind, flow.dst.netns) == (
        EndpointKind.NAME,
        netns_of(f"/proc/{inspected(busy_lab, 'ntc.dotted')['State']['Pid']}/ns/net"),
    )
    known = busy_lab.docker("ps", "-aq", "--no-trunc").split()
    shared = [each for each in "0123456789abcdef" if sum(identity.startswith(each) for identity in known) > 1]
    if shared:  # twelve ids nearly always share a first letter
        with pytest.raises(Ambiguous, match=r"container:[0-9a-f]{12}.*container:[0-9a-f]{12}"):
            ask("ntc-roamer", f"container:{shared[0]}")


def test_the_way_of_a_container_is_read_whole(busy_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(collector: Collector) -> tuple[Flow, Snapshot, Snapshot]:
        flow = question(collector, "ntc-roamer", "8.8.8.8")
        assert flow.src.netns is not None
        assert collector.read(flow.src.netns)
        assert collector.read(flow.src.netns)
        assert collector.read(collector.host.inode)
        assert not collector.read(4294967295)
        before = collector.snapshot()
        host = before.namespace(collector.host.inode)
        assert host is not None
        for link in rows(host.links):
            if link.master is not None:
                assert link.peer_netns is not None
                assert collector.read(link.peer_netns)
        return flow, collector.snapshot(), collector.read_after()

    flow, before, after = in_lab(busy_lab, work, monkeypatch)
    assert before.gaps == ()
    names = {ns.name: ns for ns in before.namespaces}
    # Other tests leave containers of theirs in the lab.
    assert {"host", "app", "web", "c1", "c2", "n1", "n2", "s1", "ntc.dotted", "ntc-roamer"} <= names.keys()
    assert all(ns.kind == "container" for name, ns in names.items() if name != "host")
    assert names["ntc-roamer"].id == flow.src.netns
    host = names["host"]
    assert "-A FORWARD -j DOCKER-USER" in dumps(host)["iptables-save", "nft", "ip"]
    assert ("nft-json", "nft", "all") in dumps(host)
    assert before.host.engine is not None
    assert before.host.engine.startswith("docker ")
    assert {ns.id for ns in after.namespaces} == {ns.id for ns in before.namespaces}
    assert {each.format for each in rows(after.namespaces[0].netfilter)} <= set(DumpFormat)


def test_an_engine_that_the_user_named_must_answer(plain_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(name: str, dst: str) -> Any:
        def ask() -> Snapshot:
            with Collector() as collector:
                flow = question(collector, name, dst)
                assert flow.src.netns is not None
                collector.read(flow.src.netns)
                return collector.snapshot()

        return ask

    with namespaces("e") as (name,):
        monkeypatch.setenv("DOCKER_HOST", "unix:///run/ntc-nobody.sock")
        with pytest.raises(EngineError, match=r"no docker socket at /run/ntc-nobody\.sock"):
            inside(name)(work("web", "8.8.8.8"))
        snapshot = inside(name)(work("host", "8.8.8.8"))
        assert [gap.section for gap in snapshot.gaps] == ["intent"]
        assert "no docker socket" in snapshot.gaps[0].reason


def test_a_plain_lab_answers_as_an_engine_would(plain_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)

    def work(collector: Collector) -> tuple[Flow, Snapshot]:
        flow = question(collector, "c5ff39f37596", "8.8.8.8")
        for netns in (flow.src.netns, collector.host.inode):
            assert netns is not None
            assert collector.read(netns)
        return flow, collector.snapshot()

    flow, snapshot = in_lab(plain_lab, work, monkeypatch)
    assert (flow.src.name, str(flow.src.address)) == ("app", "172.17.0.2")
    assert {ns.name for ns in snapshot.namespaces} == {"app", "host"}
    assert snapshot.gaps == ()
    host = snapshot.namespace(snapshot.host_netns)
    assert host is not None
    assert {link.peer_netns for link in rows(host.links) if link.master is not None} <= {
        container.netns for container in snapshot.intent.containers
    }
