"""Every rule in three cases: it fires, nearly the same host is clear, and without what it needs it says nothing.

One row a code. A row breaks one thing in a hand-built host and asks one question; `near` is nearly that host; `lacks`
is a section that the rule stands on, missing from the broken host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace

from nettrace.model.intent import Container
from nettrace.model.lookup import EMBEDDED, AnswerKind
from nettrace.model.observe import SightingKind
from nettrace.model.path import Segment
from nettrace.model.snapshot import (
    BridgeInfo,
    BridgePort,
    ConntrackEntry,
    DumpFormat,
    FdbEntry,
    Link,
    Neighbour,
    NetfilterDump,
    PolicyRule,
    PortVlan,
    Tuple5,
    Vxlan,
)
from nettrace.model.verdict import Result, Severity, Verdict
from nettrace.rules import RULES
from tests.rules.build import (
    Box,
    Lab,
    Wire,
    ask,
    diagnose_case,
    macvlan_lab,
    observed,
    overlay_lab,
    plain_lab,
    two_hosts,
)
from tests.rules.names import embedded, looked_up

Change = Callable[[Lab], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One code, the question, and three hosts. `after` breaks the snapshot taken after the probe as well.

    `near_wire` is what the near miss's probe saw where that is what tells them apart. `instead`: what a host that
    lacks a section may be told instead, a plainer name for the same objects.
    """

    code: str
    asks: tuple[str, ...]
    breaks: Change
    near: Change
    lacks: tuple[str, str] | None
    base: Callable[[], Lab] = plain_lab
    port: int | None = None
    size: int | None = None
    family: int = 4
    wire: Wire | None = None
    near_wire: Wire | None = None
    after: Change | None = None
    segment: Segment | None = None
    instead: tuple[str, ...] = ()


def nothing(lab: Lab) -> None:
    """Leave the host as it is."""


def without_peer(table: str) -> Change:
    """Take the remote container out of a table of the overlay's namespace."""

    def change(lab: Lab) -> None:
        setattr(lab["1-ov"], table, [])

    return change


def far_end_at(address: str) -> Change:
    """Let the overlay's table say that the remote container is behind that host."""

    def change(lab: Lab) -> None:
        lab["1-ov"].fdb = [replace(each, dst=ip_address(address)) for each in lab["1-ov"].fdb]

    return change


def past_the_overlay(lab: Lab) -> None:
    """Take the overlay's route from the container, so that its default route by another network serves."""
    box, host = lab["o1"], lab.host
    box.routes = [each for each in box.routes if str(each.dst) != "10.0.9.0/24"]
    box.links.append(
        Link(ifindex=10, name="eth1", kind="veth", mac="02:42:ac:12:00:03", peer_ifindex=11, peer_netns=host.id)
    )
    box.hold("eth1", "172.18.0.3/16")
    box.route("default", dev="eth1", via="172.18.0.1")
    host.links.append(
        Link(ifindex=11, name="veth1", kind="veth", mac="52:54:00:00:12:0b", peer_ifindex=10, peer_netns=box.id)
    )
    host.hold("veth1", "172.18.0.1/16")
    host.sysctls |= {f"net.ipv4.conf.{each}.forwarding": "1" for each in ("all", "eth0", "veth1")}
    host.sysctls["net.ipv4.ip_forward"] = "1"


def all_of(*changes: Change) -> Change:
    def change(lab: Lab) -> None:
        for each in changes:
            each(lab)

    return change


def outside(lab: Lab) -> None:
    """Put a machine "lan" on another network of the host."""
    lan = Box(id=9000, name="lan", kind="netns")
    lab.boxes["lan"] = lan
    lan.links = [
        Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536),
        Link(ifindex=2, name="eth0", kind="veth", mac="02:00:00:00:00:99", peer_ifindex=90, peer_netns=lab.host.id),
    ]
    lab.host.links.append(
        Link(ifindex=90, name="eth1", kind="veth", mac="02:00:00:00:00:90", peer_ifindex=2, peer_netns=lan.id)
    )
    lan.hold("eth0", "192.0.2.9/24")
    lan.route("default", dev="eth0", via="192.0.2.1")
    lab.host.hold("eth1", "192.0.2.1/24")
    lab.host.sysctls["net.ipv4.conf.eth1.forwarding"] = "1"


def with_lan() -> Lab:
    lab = plain_lab()
    outside(lab)
    return lab


def dup(lab: Lab) -> None:
    """Hang a third container on docker0."""
    lab.attach("dup", "bridge", "172.17.0.9/16", index=18)


def rule(table: str, line: str, family: str = "ip") -> Change:
    return lambda lab: lab.host.insert(table, line, family=family)


def unruled(table: str, pattern: str) -> Change:
    return lambda lab: lab.host.delete(table, pattern)


def sysctl(box: str, **values: str) -> Change:
    return lambda lab: lab[box].set(**values)


def port(name: str, **changes: object) -> Change:
    return lambda lab: lab.host.edit_port(name, **changes)


def edit(box: str, name: str, **changes: object) -> Change:
    return lambda lab: lab[box].edit(name, **changes)


def entry(box: str, device: str, address: str, mac: str) -> Change:
    def change(lab: Lab) -> None:
        lab[box].neighbours.append(
            Neighbour(ifindex=lab[box].link(device).ifindex, address=ip_address(address), mac=mac, state="PERMANENT")
        )

    return change


def fdb(mac: str, device: str) -> Change:
    def change(lab: Lab) -> None:
        index = lab.host.link(device).ifindex
        lab.host.fdb.append(FdbEntry(ifindex=index, mac=mac, master=3, state="static"))

    return change


def local_fdb(mac: str, device: str) -> Change:
    """Let an entry say that a MAC is the bridge's own, as `bridge fdb add` does unless told otherwise."""

    def change(lab: Lab) -> None:
        index = lab.host.link(device).ifindex
        lab.host.fdb.append(FdbEntry(ifindex=index, mac=mac, master=3, state="permanent", local=True))

    return change


def bridge_gone(name: str) -> Change:
    """Delete a bridge, as `ip link del` does: its ports stay, its addresses and routes go."""

    def change(lab: Lab) -> None:
        index = lab.host.link(name).ifindex
        lab.host.links = [each for each in lab.host.links if each.name != name]
        for each in lab.host.links:
            if each.master == index:
                lab.host.edit(each.name, master=None, port=None)
        lab.host.addresses = [each for each in lab.host.addresses if each.ifindex != index]
        lab.host.routes = [each for each in lab.host.routes if all(hop.ifindex != index for hop in each.nexthops)]

    return change


def enslaved(box: str, device: str) -> Change:
    """Make a device a port of a bridge of its own namespace."""

    def change(lab: Lab) -> None:
        mac = lab[box].link(device).mac
        lab[box].links.append(Link(ifindex=77, name="br9", kind="bridge", mac=mac, bridge=BridgeInfo()))
        lab[box].edit(device, master=77, port=BridgePort())

    return change


def unaddressed(lab: Lab) -> None:
    """Make a device without addresses a port of a bridge."""
    lab.host.links.append(Link(ifindex=78, name="eth7", mac="52:54:00:00:00:07"))
    enslaved("host", "eth7")(lab)


def known_web(lab: Lab) -> None:
    """Let app know web's MAC already: an answer of web would move the forwarding entry to its port."""
    lab["app"].neighbours.append(
        Neighbour(ifindex=10, address=ip_address("172.17.0.3"), mac=WEB_MAC, state="REACHABLE")
    )


def ebtables(line: str, table: str = "filter") -> Change:
    chains = {"filter": ("INPUT", "FORWARD", "OUTPUT"), "nat": ("PREROUTING", "OUTPUT", "POSTROUTING")}[table]
    text = "\n".join([f"*{table}", *(f":{chain} ACCEPT" for chain in chains), line, ""])
    dump = NetfilterDump(format=DumpFormat.EBTABLES_SAVE, backend="nft", family="bridge", text=text)
    return lambda lab: lab.host.dumps.append(dump)


def vlans(*, on: bool) -> Change:
    def change(lab: Lab) -> None:
        lab.host.edit("docker0", bridge=BridgeInfo(vlan_filtering=on))
        lab.host.edit_port("veth-app", vlans=(PortVlan(vid=1, pvid=True, untagged=True),))
        lab.host.edit_port("veth-web", vlans=(PortVlan(vid=7, pvid=True, untagged=True),))

    return change


def no_icc(lab: Lab) -> None:
    lab.network("bridge", icc=False)
    lab.host.delete("filter", "-i docker0 -o docker0 -j ACCEPT")
    lab.host.chain("filter", "-A FORWARD -i docker0 -o docker0 -j DROP")


def flushed(lab: Lab) -> None:
    """Flush the filter table, as a firewall's restart does, and leave Docker's policy."""
    lab.host.tables["nft", "ip"]["filter"] = [":INPUT ACCEPT", ":FORWARD DROP", ":OUTPUT ACCEPT"]


def on_legacy(lab: Lab) -> None:
    lab.host.tables["legacy", "ip"] = lab.host.tables.pop(("nft", "ip"))


def nft_drop(lab: Lab) -> None:
    lab.host.chain("filter", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT", "-A FORWARD -i docker0 -j DROP")


def legacy_drop(lab: Lab) -> None:
    lab.host.insert("filter", "-A FORWARD -i docker0 -j DROP", backend="legacy")


def inside(line: str) -> Change:
    return lambda lab: lab["app"].chain("filter", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT", line)


def chains(chain: str, jump: str, body: str) -> Change:
    def change(lab: Lab) -> None:
        lab.host.chain("filter").insert(0, f":{chain} -")
        lab.host.insert("filter", jump)
        lab.host.chain("filter", body)

    return change


def copies(count: int) -> Change:
    return lambda lab: lab.host.chain("filter", *["-A DOCKER-USER -s 10.9.9.9/32 -j ACCEPT"] * count)


def lone(*, connected: bool) -> Change:
    """Add a container without a network; connected, it hangs on docker0 after all."""

    def change(lab: Lab) -> None:
        if connected:
            lab.attach("lone", "bridge", "172.17.0.8/16", index=30)
            return
        box = Box(id=2100, name="lone")
        box.links.append(Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536))
        box.hold("lo", "127.0.0.1/8", scope="host")
        lab.boxes["lone"] = box
        lab.containers["lone"] = Container(id="lone-id", name="lone", engine="docker", netns=2100, mode="none")

    return change


def no_interface(lab: Lab) -> None:
    lab["app"].down("eth0")
    lab["app"].links = [each for each in lab["app"].links if each.name != "eth0"]
    lab["app"].addresses = [each for each in lab["app"].addresses if each.ifindex == 1]
    lab.host.links = [each for each in lab.host.links if each.name != "veth-app"]


def app_down(lab: Lab) -> None:
    lab["app"].down("eth0")
    lab.host.edit("veth-app", lower_up=False, operstate="DOWN")


def parent_down(lab: Lab) -> None:
    """Set the parent down, as the kernel does it: its children are without carrier (netif_stacked_transfer_operstate).

    Their routes stay, marked linkdown.
    """
    lab.host.down("eth0")
    for name in ("m1", "m2"):
        lab[name].edit("eth0", lower_up=False, operstate="LOWERLAYERDOWN")


def parent_without_carrier(lab: Lab) -> None:
    lab.host.edit("eth0", lower_up=False, operstate="DOWN")
    for name in ("m1", "m2"):
        lab[name].edit("eth0", lower_up=False, operstate="LOWERLAYERDOWN")


def shim(lab: Lab) -> None:
    """Give the host a macvlan of its own, which holds its address."""
    lab.host.drop_address("203.0.113.2/24")
    lab.host.links.append(
        Link(
            ifindex=9,
            name="shim0",
            kind="macvlan",
            mac="02:00:00:00:00:09",
            macvlan_mode="bridge",
            peer_ifindex=2,
            peer_netns=lab.host.id,
        )
    )
    lab.host.hold("shim0", "203.0.113.2/24")


def modes(mode: str) -> Change:
    def change(lab: Lab) -> None:
        for name in ("m1", "m2"):
            lab[name].edit("eth0", macvlan_mode=mode)

    return change


def stale(*, answered: bool) -> Change:
    """Leave a UDP entry that was made before the masquerade rule stood."""

    def change(lab: Lab) -> None:
        src, dst = ip_address("172.17.0.2"), ip_address("8.8.8.8")
        lab.host.conntrack.append(
            ConntrackEntry(
                orig=Tuple5(src=src, dst=dst, proto=17, sport=5000, dport=53),
                reply=Tuple5(src=dst, dst=src, proto=17, sport=53, dport=5000),
                status=("confirmed", "seen_reply") if answered else ("confirmed",),
            )
        )

    return change


def counter(**values: int) -> Change:
    return lambda lab: lab.host.counters.update({name.replace("__", "."): value for name, value in values.items()})


def counter_of(box: str, **values: int) -> Change:
    return lambda lab: lab[box].counters.update({name.replace("__", "."): value for name, value in values.items()})


def target(address: str) -> Change:
    def change(lab: Lab) -> None:
        lines = lab.host.chain("nat")
        lines[:] = [each.replace("172.17.0.3:80", f"{address}:80") for each in lines]

    return change


def hairpin(*, on: bool) -> Change:
    """Let Docker translate packets from the bridge too, as it does without its userland proxy."""

    def change(lab: Lab) -> None:
        lines = lab.host.chain("nat")
        lines[:] = [each.replace("! -i docker0 -p", "-p") for each in lines]
        lines.append("-A POSTROUTING -s 172.17.0.3/32 -d 172.17.0.3/32 -p tcp -m tcp --dport 80 -j MASQUERADE")
        lab.host.edit_port("veth-web", hairpin=on)

    return change


def global_address(lab: Lab) -> None:
    """Give c1 an address of the uplink's own prefix, which the host routes to the bridge, and do not translate it."""
    lab["c1"].drop_address("fd00:18::2/64")
    lab["c1"].hold("eth0", "2001:db8:1::c1/128")
    lab["c1"].route("fd00:18::1/128", dev="eth0", scope="link")
    lab["c1"].route("default6", dev="eth0", via="fd00:18::1")
    lab.host.route("2001:db8:1::c1/128", dev="br-net1")
    endpoint = replace(lab.containers["c1"].endpoints[0], ipv6=ip_interface("2001:db8:1::c1/128"))
    lab.container("c1", endpoints=(endpoint,))


def proxied(lab: Lab) -> None:
    lab.host.set(ipv6__conf__eth0__proxy_ndp="1")
    lab.host.neighbours.append(Neighbour(ifindex=2, address=ip_address("2001:db8:1::c1"), proxy=True))


def gateway(via: str) -> Change:
    def change(lab: Lab) -> None:
        lab["app"].no_route("default")
        lab["app"].route("default", dev="eth0", via=via)

    return change


def way(box: str, dst: str, **facts: object) -> Change:
    return lambda lab: lab[box].route(dst, **facts)


def host_default(dev: str, via: str | None = None) -> Change:
    def change(lab: Lab) -> None:
        lab.host.no_route("default")
        lab.host.route("default", dev=dev, via=via)

    return change


def policy(src: str, table: int = 100) -> Change:
    return lambda lab: lab.host.rules.append(PolicyRule(family=4, priority=100, src=ip_network(src), table=table))


def no_forwarding(lab: Lab) -> None:
    for name in lab.host.sysctls:
        if (name.startswith("net.ipv4") and name.endswith("forward")) or name.endswith(".forwarding"):
            lab.host.sysctls[name] = "0"


def no_ipv6(lab: Lab) -> None:
    lab["c1"].drop_address("fd00:18::2/64")
    lab["c1"].no_route("default6")
    lab["c1"].set(ipv6__conf__eth0__disable_ipv6="1")


def ra_lost(accept: str) -> Change:
    def change(lab: Lab) -> None:
        lab.host.no_route("default6")
        lab.host.set(ipv6__conf__eth0__accept_ra=accept, ipv6__conf__eth0__forwarding="1")

    return change


def loopback_nat(lab: Lab) -> None:
    """Translate what the host sends to its own loopback as well, without a new source."""
    lab.host.insert(
        "nat", "-A OUTPUT -d 127.0.0.1/32 -p tcp -m tcp --dport 9090 -j DNAT --to-destination 172.17.0.3:80"
    )


def refused(kind: SightingKind, icmp: tuple[int, int] | None = None) -> Wire:
    return observed(kind=kind, icmp=icmp)


OUT = ("app", "8.8.8.8")
PEER = ("app", "web", "tcp")
NAMES = ("c1", EMBEDDED, "udp")
PUBLISHED = ("lan", "203.0.113.2", "tcp")
V6 = ("c1", "2001:db8:9::1")
REPLIED = observed(reply=True)
SILENT = observed()
APP_MAC, WEB_MAC = "02:42:ac:11:00:02", "02:42:ac:11:00:03"

ROWS = (
    Row(
        code="addr.duplicate",
        asks=PEER,
        port=80,
        breaks=all_of(dup, lambda lab: lab["dup"].hold("eth0", "172.17.0.3/16")),
        near=all_of(dup, lambda lab: lab["dup"].hold("eth0", "172.17.0.4/16")),
        lacks=("addresses", "dup"),
    ),
    Row(
        code="addr.duplicate",
        asks=("app", "web"),
        breaks=all_of(dup, lambda lab: lab["dup"].hold("eth0", "172.17.0.3/16")),
        near=all_of(dup, lambda lab: lab["dup"].hold("eth0", "172.17.0.4/16")),
        wire=observed(until="host/veth-app"),
        lacks=("addresses", "dup"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="addr.missing",
        asks=OUT,
        breaks=lambda lab: lab["app"].drop_address("172.17.0.2/16"),
        near=lambda lab: lab["app"].hold("eth0", "172.17.0.7/16"),
        lacks=("addresses", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="addr.prefix-mismatch",
        asks=("app", "172.99.0.1"),
        breaks=lambda lab: (lab["app"].drop_address("172.17.0.2/16"), lab["app"].hold("eth0", "172.17.0.2/8")),
        near=nothing,
        lacks=("addresses", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="bridge.fdb-wrong",
        asks=PEER,
        port=80,
        breaks=all_of(dup, known_web, fdb(WEB_MAC, "veth-dup")),
        near=all_of(dup, known_web, fdb(WEB_MAC, "veth-web")),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.fdb-wrong",
        asks=PEER,
        port=80,
        breaks=local_fdb(WEB_MAC, "docker0"),
        near=local_fdb("02:42:ac:11:00:77", "docker0"),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.fdb-wrong",
        asks=OUT,
        breaks=local_fdb(APP_MAC, "docker0"),
        near=local_fdb(APP_MAC, "veth-app"),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.fdb-wrong",
        asks=OUT,
        breaks=lambda lab: lab.host.fdb.pop(0),
        near=lambda lab: lab.host.fdb.pop(1),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.filter-drop",
        asks=PEER,
        port=80,
        breaks=ebtables("-A FORWARD -p IPv4 -i veth-app -j DROP"),
        near=ebtables("-A FORWARD -p IPv4 -i veth-dup -j DROP"),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.filter-drop",
        asks=PEER,
        port=80,
        breaks=ebtables(f"-A PREROUTING -d {WEB_MAC} -j dnat --to-destination 02:00:00:00:00:aa", "nat"),
        near=ebtables(f"-A PREROUTING -d {WEB_MAC} -j redirect", "nat"),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.filter-drop",
        asks=PEER,
        port=80,
        breaks=ebtables("-A PREROUTING -p ARP --arp-ip-dst 172.17.0.3 -j arpreply --arpreply-mac 2:0:0:0:0:aa", "nat"),
        near=ebtables("-A PREROUTING -p ARP --arp-ip-dst 172.17.0.9 -j arpreply --arpreply-mac 2:0:0:0:0:aa", "nat"),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.filter-drop",
        asks=OUT,
        breaks=ebtables("-A INPUT -i veth-app -j DROP"),
        near=ebtables("-A INPUT -i docker0 -j DROP"),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.no-address",
        asks=OUT,
        breaks=lambda lab: lab.host.drop_address("172.17.0.1/16"),
        near=nothing,
        lacks=("addresses", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-blocked",
        asks=OUT,
        breaks=port("veth-app", state=4),
        near=port("veth-web", state=4),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-blocked",
        asks=PEER,
        port=80,
        breaks=all_of(known_web, port("veth-web", unicast_flood=False, learning=False)),
        near=port("veth-web", unicast_flood=False),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-blocked",
        asks=PEER,
        port=80,
        breaks=port("veth-web", bcast_flood=False),
        near=port("veth-app", bcast_flood=False),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-blocked",
        asks=("c1", "c2"),
        family=6,
        breaks=port("veth-c2", mcast_flood=False),
        near=all_of(port("veth-c1", mcast_flood=False), port("veth-c2", bcast_flood=False)),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-blocked",
        asks=PEER,
        port=80,
        breaks=port("veth-web", proxyarp=True),
        near=all_of(known_web, fdb(WEB_MAC, "veth-web"), port("veth-web", proxyarp=True)),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-blocked",
        asks=OUT,
        breaks=port("veth-app", locked=True, learning=False),
        near=all_of(fdb(APP_MAC, "veth-app"), port("veth-app", locked=True, learning=False)),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-isolated",
        asks=PEER,
        port=80,
        breaks=all_of(port("veth-app", isolated=True), port("veth-web", isolated=True)),
        near=port("veth-app", isolated=True),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-without-master",
        asks=OUT,
        breaks=edit("host", "veth-app", master=None, port=None),
        near=edit("host", "veth-web", master=None, port=None),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-without-master",
        asks=PEER,
        port=80,
        breaks=bridge_gone("docker0"),
        near=bridge_gone("br-net1"),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-without-master",
        asks=OUT,
        breaks=enslaved("app", "eth0"),
        near=unaddressed,
        lacks=("links", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="bridge.vlan-filtered",
        asks=PEER,
        port=80,
        breaks=vlans(on=True),
        near=vlans(on=False),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="conntrack.invalid-drop",
        asks=OUT,
        breaks=all_of(
            lambda lab: lab.host.chain("raw", ":PREROUTING ACCEPT", "-A PREROUTING -s 172.17.0.2/32 -j NOTRACK"),
            rule("filter", "-A FORWARD -m conntrack --ctstate INVALID,UNTRACKED -j DROP"),
        ),
        near=rule("filter", "-A FORWARD -m conntrack --ctstate INVALID,UNTRACKED -j DROP"),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="conntrack.stale-entry",
        asks=("app", "8.8.8.8", "udp"),
        port=53,
        breaks=stale(answered=False),
        near=stale(answered=True),
        lacks=("conntrack", "host"),
    ),
    Row(
        code="conntrack.table-full",
        asks=OUT,
        breaks=counter(nf_conntrack__count=512, nf_conntrack__max=512),
        near=counter(nf_conntrack__count=511, nf_conntrack__max=512),
        wire=observed(until="host/docker0"),
        lacks=("counters", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="dns.embedded-rules-missing",
        asks=NAMES,
        port=53,
        breaks=all_of(embedded("c1", rules=False), looked_up("c1", (EMBEDDED, AnswerKind.UNREACHABLE))),
        near=all_of(embedded("c1"), looked_up("c1", (EMBEDDED, AnswerKind.FAILED))),
        lacks=("netfilter", "c1"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="dns.loopback-stub",
        asks=("app", "127.0.0.53", "udp"),
        port=53,
        breaks=looked_up("app", ("127.0.0.53", AnswerKind.UNREACHABLE)),
        near=all_of(
            looked_up("app", ("127.0.0.53", AnswerKind.FAILED)), lambda lab: lab["app"].listen(53, "127.0.0.53", "udp")
        ),
        lacks=("sockets", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="dns.name-not-found",
        asks=("app", "8.8.8.8", "udp"),
        port=53,
        breaks=looked_up("app", ("8.8.8.8", AnswerKind.NO_NAME), name="c2."),
        near=looked_up("app", ("8.8.8.8", AnswerKind.FOUND), name="c2.", held=("8.8.4.4",)),
        lacks=("names", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="dns.resolver-not-listening",
        asks=NAMES,
        port=53,
        breaks=all_of(embedded("c1", udp=40009), looked_up("c1", (EMBEDDED, AnswerKind.UNREACHABLE))),
        near=all_of(embedded("c1"), looked_up("c1", (EMBEDDED, AnswerKind.FAILED))),
        lacks=("sockets", "c1"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="dns.server-unreachable",
        asks=("c1", "8.8.8.8", "udp"),
        port=53,
        breaks=all_of(
            embedded("c1"),
            looked_up("c1", (EMBEDDED, AnswerKind.FAILED), upstream="8.8.8.8"),
            rule("filter", "-A FORWARD -p udp -m udp --dport 53 -j DROP"),
        ),
        near=all_of(
            embedded("c1"),
            looked_up("c1", (EMBEDDED, AnswerKind.FOUND), held=("8.8.8.8",)),
            rule("filter", "-A FORWARD -p udp -m udp --dport 53 -j DROP"),
        ),
        lacks=("names", "c1"),
        segment=Segment.HOST,
    ),
    Row(
        code="engine.container-not-running",
        asks=OUT,
        breaks=lambda lab: lab.container("app", status="exited", netns=None),
        near=lambda lab: lab.container("web", status="exited", netns=None),
        # Only the engine knows of a container that does not run: without its word nobody can ask for it.
        lacks=None,
        segment=Segment.SOURCE,
    ),
    Row(
        code="engine.no-network",
        asks=("lone", "8.8.8.8"),
        breaks=lone(connected=False),
        near=lone(connected=True),
        lacks=("routes", "lone"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="filter.backend-split",
        asks=OUT,
        breaks=all_of(on_legacy, nft_drop),
        near=all_of(on_legacy, legacy_drop),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.container-drop",
        asks=OUT,
        breaks=inside("-A OUTPUT -d 8.8.8.8/32 -j DROP"),
        near=inside("-A OUTPUT -d 9.9.9.9/32 -j DROP"),
        lacks=("netfilter", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="filter.direct-access-drop",
        base=with_lan,
        asks=("lan", "web", "tcp"),
        port=80,
        breaks=lambda lab: lab.host.chain(
            "raw", ":PREROUTING ACCEPT", "-A PREROUTING -d 172.17.0.3/32 ! -i docker0 -j DROP"
        ),
        near=lambda lab: lab.host.chain(
            "raw", ":PREROUTING ACCEPT", "-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP"
        ),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.docker-chains-bypassed",
        base=with_lan,
        asks=PUBLISHED,
        port=8080,
        breaks=unruled("filter", "FORWARD -o docker0 -j DOCKER$"),
        near=nothing,
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.docker-rules-missing",
        asks=OUT,
        breaks=flushed,
        near=unruled("filter", "FORWARD -i docker0 ! -o docker0 -j ACCEPT"),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.foreign-firewall",
        asks=OUT,
        breaks=chains(
            "ufw-user-forward", "-A FORWARD -j ufw-user-forward", "-A ufw-user-forward -s 172.17.0.0/16 -j DROP"
        ),
        near=chains(
            "ufw-user-forward", "-A FORWARD -j ufw-user-forward", "-A ufw-user-forward -s 172.99.0.0/16 -j DROP"
        ),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.forward-policy-drop",
        asks=OUT,
        breaks=unruled("filter", "FORWARD -i docker0 ! -o docker0 -j ACCEPT"),
        near=unruled("filter", "FORWARD -i br-net1 ! -o br-net1 -j ACCEPT"),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.icc-disabled",
        asks=PEER,
        port=80,
        breaks=no_icc,
        near=all_of(no_icc, sysctl("host", **{"bridge__bridge-nf-call-iptables": "0"})),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="filter.input-drop",
        asks=("app", "172.17.0.1"),
        breaks=rule("filter", "-A INPUT -i docker0 -j DROP"),
        near=rule("filter", "-A INPUT -i br-net1 -j DROP"),
        lacks=("netfilter", "host"),
    ),
    Row(
        code="filter.internal-network",
        asks=("c1", "8.8.8.8"),
        breaks=lambda lab: (lab.network("net1", internal=True), lab["c1"].no_route("default")),
        near=lambda lab: lab.network("net1", internal=True),
        lacks=("routes", "c1"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="filter.network-isolation",
        asks=("app", "c1"),
        breaks=nothing,
        near=unruled("filter", "STAGE-2 -o .* -j DROP"),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.rule-drop",
        asks=OUT,
        breaks=rule("filter", "-A FORWARD -s 172.17.0.2/32 -j DROP"),
        near=rule("filter", "-A FORWARD -s 172.17.0.3/32 -j DROP"),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.rules-duplicated",
        asks=OUT,
        breaks=copies(60),
        near=copies(40),
        lacks=("netfilter", "host"),
    ),
    Row(
        code="filter.unpublished-port-drop",
        base=with_lan,
        asks=("lan", "web", "tcp"),
        port=81,
        breaks=lambda lab: lab.host.chain("filter", "-A DOCKER ! -i docker0 -o docker0 -j DROP"),
        near=lambda lab: (
            (
                lab.publish("web", 8081, 81),
                lab.host.chain("filter", "-A DOCKER ! -i docker0 -o docker0 -j DROP"),
            )
        ),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="filter.unreadable-table",
        asks=OUT,
        breaks=rule("filter", "-A FORWARD -i docker0 -m mystery --shape round -j DROP"),
        near=rule("filter", "-A FORWARD -i br-net1 -m mystery --shape round -j DROP"),
        lacks=("netfilter", "host"),
    ),
    Row(
        code="link.checksum-offload",
        asks=("app", "web"),
        breaks=nothing,
        after=counter_of("web", Icmp__InCsumErrors=1),
        near=counter_of("web", Icmp__InCsumErrors=1),
        wire=observed(until="web/eth0"),
        lacks=("counters", "web"),
        segment=Segment.DESTINATION,
    ),
    Row(
        code="link.down",
        asks=OUT,
        breaks=app_down,
        near=nothing,
        lacks=("links", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="link.duplicate-mac",
        asks=PEER,
        port=80,
        breaks=all_of(dup, edit("dup", "eth0", mac=WEB_MAC)),
        near=dup,
        wire=observed(until="host/veth-app"),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="link.no-carrier",
        asks=OUT,
        breaks=edit("host", "eth0", lower_up=False, operstate="DOWN"),
        near=edit("host", "br-net1", lower_up=False, operstate="DOWN"),
        lacks=("links", "host"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="link.peer-missing",
        asks=OUT,
        breaks=no_interface,
        near=nothing,
        lacks=("links", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="macvlan.host-isolation",
        base=macvlan_lab,
        asks=("m1", "203.0.113.2"),
        breaks=nothing,
        near=shim,
        lacks=("links", "host"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="macvlan.mode-isolates",
        base=macvlan_lab,
        asks=("m1", "m2"),
        breaks=modes("private"),
        near=modes("bridge"),
        wire=SILENT,
        near_wire=REPLIED,
        lacks=("links", "m2"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="macvlan.parent-down",
        base=macvlan_lab,
        asks=("m1", "8.8.8.8"),
        breaks=parent_down,
        near=nothing,
        lacks=("links", "host"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="macvlan.parent-down",
        base=macvlan_lab,
        asks=("m1", "m2"),
        breaks=parent_without_carrier,
        near=nothing,
        lacks=("links", "m1"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="macvlan.mode-isolates",
        base=macvlan_lab,
        asks=("m2", "m1"),
        breaks=modes("vepa"),
        near=modes("vepa"),
        wire=SILENT,
        near_wire=REPLIED,
        lacks=("links", "m2"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="model.contradicted",
        asks=OUT,
        breaks=rule("filter", "-A FORWARD -s 172.17.0.2/32 -j DROP"),
        near=nothing,
        wire=REPLIED,
        lacks=("links", "host"),
    ),
    Row(
        code="mtu.black-hole",
        asks=OUT,
        size=1500,
        breaks=edit("host", "eth0", mtu=1400),
        near=edit("host", "eth0", mtu=1400),
        wire=observed(until="host/docker0"),
        near_wire=observed(until="host/docker0", kind=SightingKind.ICMP_ERROR, icmp=(3, 4), sender="172.17.0.1"),
        lacks=("links", "host"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="mtu.mismatch",
        asks=OUT,
        size=1500,
        breaks=edit("host", "eth0", mtu=1400),
        near=edit("host", "eth0", mtu=1500),
        lacks=("links", "host"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="mtu.veth-mismatch",
        asks=("app", "web"),
        size=3000,
        breaks=edit("app", "eth0", mtu=9000),
        near=all_of(
            edit("app", "eth0", mtu=9000),
            edit("host", "veth-app", mtu=9000),
            edit("host", "docker0", mtu=9000),
            edit("host", "veth-web", mtu=9000),
            edit("web", "eth0", mtu=9000),
        ),
        lacks=("links", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="mtu.overlay-overhead",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        size=1450,
        breaks=edit("host", "eth0", mtu=1450),
        near=nothing,
        lacks=("links", "host"),
        segment=Segment.UNDERLAY,
        instead=("mtu.mismatch",),
    ),
    Row(
        code="nat.dnat-missing",
        base=with_lan,
        asks=PUBLISHED,
        port=8080,
        breaks=unruled("nat", "--dport 8080 -j DNAT"),
        near=nothing,
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="nat.dnat-shadowed",
        base=with_lan,
        asks=PUBLISHED,
        port=8080,
        breaks=rule("nat", "-A DOCKER -p tcp -m tcp --dport 8080 -j RETURN"),
        near=rule("nat", "-A DOCKER -p tcp -m tcp --dport 8081 -j RETURN"),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="nat.dnat-stale",
        base=with_lan,
        asks=PUBLISHED,
        port=8080,
        breaks=target("172.17.0.77"),
        near=target("172.17.0.3"),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="nat.hairpin-missing",
        asks=("app", "203.0.113.2", "tcp"),
        port=8080,
        breaks=lambda lab: lab.host.insert("nat", "-A DOCKER -i docker0 -j RETURN"),
        near=lambda lab: lab.host.listen(8080),
        lacks=("netfilter", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="nat.hairpin-missing",
        asks=("web", "203.0.113.2", "tcp"),
        port=8080,
        breaks=hairpin(on=False),
        near=hairpin(on=True),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="nat.masquerade-missing",
        asks=OUT,
        breaks=unruled("nat", "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"),
        near=unruled("nat", "-s 172.18.0.0/16 ! -o br-net1 -j MASQUERADE"),
        lacks=("netfilter", "host"),
        segment=Segment.REMOTE,
    ),
    Row(
        code="nat.masquerade-shadowed",
        asks=OUT,
        breaks=rule("nat", "-A POSTROUTING -s 172.17.0.0/16 -j ACCEPT"),
        near=rule("nat", "-A POSTROUTING -s 172.99.0.0/16 -j ACCEPT"),
        lacks=("netfilter", "host"),
        segment=Segment.REMOTE,
    ),
    Row(
        code="nat.port-exhausted",
        asks=OUT,
        breaks=counter(nf_conntrack__insert_failed=3),
        after=counter(nf_conntrack__insert_failed=4),
        near=counter(nf_conntrack__insert_failed=4),
        wire=observed(until="host/docker0"),
        lacks=("counters", "host"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="nat.return-route-missing",
        asks=OUT,
        breaks=all_of(
            unruled("nat", "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"),
            lambda lab: lab.network("bridge", masquerade=False),
        ),
        near=lambda lab: lab.network("bridge", masquerade=False),
        lacks=("netfilter", "host"),
        segment=Segment.REMOTE,
    ),
    Row(
        code="neigh.ndp-proxy-missing",
        asks=V6,
        family=6,
        breaks=global_address,
        near=all_of(global_address, proxied),
        wire=observed(unanswered=("host/eth0", "2001:db8:1::c1")),
        lacks=("neighbours", "host"),
        segment=Segment.EGRESS,
    ),
    Row(
        code="neigh.stale-static",
        asks=OUT,
        breaks=entry("app", "eth0", "172.17.0.1", "02:42:ff:ff:ff:ff"),
        near=entry("app", "eth0", "172.17.0.1", "02:42:7f:3d:a1:5c"),
        lacks=("neighbours", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="neigh.table-overflow",
        asks=OUT,
        breaks=counter(arp_cache__table_fulls=1),
        after=counter(arp_cache__table_fulls=7),
        near=counter(arp_cache__table_fulls=7),
        wire=observed(until="host/docker0"),
        lacks=("counters", "host"),
    ),
    Row(
        code="neigh.unresolved",
        asks=("host", "172.17.0.77"),
        breaks=nothing,
        near=lambda lab: lab.attach("late", "bridge", "172.17.0.77/16", index=40),
        lacks=("addresses", "web"),
    ),
    Row(
        code="overlay.peer-unknown",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=without_peer("fdb"),
        near=nothing,
        lacks=("fdb", "1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.peer-unknown",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=without_peer("neighbours"),
        near=nothing,
        lacks=("neighbours", "1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.underlay-blocked",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=rule("filter", "-A OUTPUT -p udp -m udp --dport 4789 -j DROP"),
        near=rule("filter", "-A OUTPUT -p udp -m udp --dport 4788 -j DROP"),
        lacks=("netfilter", "host"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.underlay-blocked",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=rule("raw", "-A PREROUTING -s 203.0.113.3/32 -j DROP"),
        near=nothing,
        lacks=("netfilter", "host"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="route.missing",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=past_the_overlay,
        near=nothing,
        lacks=("routes", "o1"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="bridge.port-without-master",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=lambda lab: lab["1-ov"].edit("vxlan0", master=None, port=None),
        near=nothing,
        lacks=("links", "1-ov"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="bridge.port-without-master",
        base=two_hosts,
        asks=("o1", "b:o2"),
        breaks=lambda lab: lab["b:1-ov"].edit("vxlan0", master=None, port=None),
        near=nothing,
        lacks=("links", "b:1-ov"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="neigh.stale-static",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=lambda lab: lab["o1"].neighbours.append(
            Neighbour(ifindex=8, address=ip_address("10.0.9.3"), mac="02:42:0a:00:09:99", state="PERMANENT")
        ),
        near=lambda lab: lab["o1"].neighbours.append(
            Neighbour(ifindex=8, address=ip_address("10.0.9.3"), mac="02:42:0a:00:09:03", state="PERMANENT")
        ),
        lacks=("neighbours", "o1"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="overlay.underlay-blocked",
        base=two_hosts,
        asks=("o1", "b:o2"),
        breaks=lambda lab: lab["b:host"].chain("filter", "-A INPUT -p udp -m udp --dport 4789 -j DROP"),
        near=lambda lab: lab["b:host"].chain("filter", "-A INPUT -p udp -m udp --dport 4788 -j DROP"),
        lacks=("netfilter", "b:host"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.underlay-blocked",
        base=two_hosts,
        asks=("o1", "b:o2"),
        breaks=nothing,
        near=nothing,
        wire=observed(until="host/eth0"),
        near_wire=observed(reply=True),
        lacks=None,
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.vni-mismatch",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=lambda lab: lab["1-ov"].edit("vxlan0", vxlan=Vxlan(vni=9999, learning=False, proxy=True)),
        near=nothing,
        lacks=("links", "1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.vni-mismatch",
        base=two_hosts,
        asks=("o1", "b:o2"),
        breaks=lambda lab: lab["b:1-ov"].edit("vxlan0", vxlan=Vxlan(vni=9999, proxy=True)),
        near=nothing,
        lacks=("links", "b:1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.vni-mismatch",
        base=two_hosts,
        asks=("o1", "b:o2"),
        breaks=lambda lab: lab["b:1-ov"].edit("vxlan0", vxlan=Vxlan(vni=4097, port=8472, proxy=True)),
        near=lambda lab: [
            lab[each].edit("vxlan0", vxlan=Vxlan(vni=4097, port=8472, proxy=True)) for each in ("1-ov", "b:1-ov")
        ],
        lacks=("links", "b:1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.vtep-address",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=far_end_at("203.0.113.9"),
        near=nothing,
        lacks=("fdb", "1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.vtep-address",
        base=overlay_lab,
        asks=("o1", "10.0.9.3"),
        breaks=far_end_at("203.0.113.2"),
        near=nothing,
        lacks=("fdb", "1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.vtep-address",
        base=two_hosts,
        asks=("o1", "b:o2"),
        breaks=all_of(
            lambda lab: lab.host.hold("eth0", "203.0.113.77/24"),
            rule("nat", "-A POSTROUTING -p udp -m udp --dport 4789 -j SNAT --to-source 203.0.113.77"),
        ),
        near=all_of(
            lambda lab: lab.host.hold("eth0", "203.0.113.77/24"),
            rule("nat", "-A POSTROUTING -p udp -m udp --dport 4788 -j SNAT --to-source 203.0.113.77"),
        ),
        lacks=("fdb", "b:1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="overlay.vtep-address",
        base=two_hosts,
        asks=("o1", "b:o2"),
        breaks=far_end_at("203.0.113.9"),
        near=nothing,
        lacks=("fdb", "1-ov"),
        segment=Segment.UNDERLAY,
    ),
    Row(
        code="port.listens-on-loopback",
        asks=PEER,
        port=81,
        breaks=lambda lab: lab["web"].listen(81, "127.0.0.1"),
        near=lambda lab: (lab["web"].listen(81, "127.0.0.1"), lab["web"].listen(81, "172.17.0.3")),
        lacks=("sockets", "web"),
        segment=Segment.DESTINATION,
    ),
    Row(
        code="port.not-listening",
        asks=PEER,
        port=81,
        breaks=nothing,
        near=lambda lab: lab["web"].listen(81),
        lacks=("sockets", "web"),
        segment=Segment.DESTINATION,
    ),
    Row(
        code="port.not-published",
        base=with_lan,
        asks=PUBLISHED,
        port=9999,
        breaks=nothing,
        near=lambda lab: lab.publish("web", 9999, 80),
        lacks=("sockets", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="port.published-on-loopback",
        base=with_lan,
        asks=PUBLISHED,
        port=9090,
        breaks=lambda lab: (lab.publish("web", 9090, 80, host_ip="127.0.0.1"), lab.host.listen(9090, "127.0.0.1")),
        near=lambda lab: lab.publish("web", 9090, 80),
        lacks=("sockets", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="port.shadowed",
        base=with_lan,
        asks=PUBLISHED,
        port=8080,
        breaks=lambda lab: lab.host.listen(8080, by="nginx"),
        near=lambda lab: lab.host.listen(8080, by="docker-proxy"),
        lacks=("sockets", "host"),
    ),
    Row(
        code="port.shadowed",
        base=with_lan,
        asks=PUBLISHED,
        port=8080,
        breaks=all_of(
            lambda lab: lab.host.listen(9, by="nginx"),
            rule("nat", "-A DOCKER -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9"),
        ),
        near=all_of(
            lambda lab: lab.host.listen(9, by="nginx"),
            rule("nat", "-A DOCKER -p tcp -m tcp --dport 8081 -j REDIRECT --to-ports 9"),
        ),
        lacks=("netfilter", "host"),
    ),
    Row(
        code="remote.no-reply",
        asks=OUT,
        breaks=nothing,
        near=nothing,
        wire=SILENT,
        near_wire=REPLIED,
        lacks=("links", "host"),
        segment=Segment.REMOTE,
    ),
    Row(
        code="remote.rejected",
        asks=OUT,
        breaks=nothing,
        near=nothing,
        wire=refused(SightingKind.ICMP_ERROR, (3, 1)),
        near_wire=REPLIED,
        lacks=("links", "host"),
        segment=Segment.REMOTE,
    ),
    Row(
        code="route.blackhole",
        asks=OUT,
        breaks=way("host", "8.8.8.0/24", kind="blackhole"),
        near=way("host", "9.9.9.0/24", kind="blackhole"),
        lacks=("routes", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="route.default-hijacked",
        asks=OUT,
        breaks=host_default("br-net1"),
        near=host_default("eth0", "203.0.113.9"),
        lacks=("routes", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="route.gateway-is-local",
        asks=OUT,
        breaks=lambda lab: lab.host.hold("docker0", "203.0.113.1/32"),
        near=lambda lab: lab.host.hold("docker0", "203.0.113.7/32"),
        wire=SILENT,
        lacks=("addresses", "host"),
        segment=Segment.HOST,
        instead=("remote.no-reply",),
    ),
    Row(
        code="route.loop",
        asks=OUT,
        breaks=nothing,
        near=nothing,
        wire=refused(SightingKind.ICMP_ERROR, (11, 0)),
        near_wire=refused(SightingKind.ICMP_ERROR, (3, 1)),
        lacks=("links", "host"),
        segment=Segment.REMOTE,
    ),
    Row(
        code="route.missing",
        asks=OUT,
        breaks=lambda lab: lab["app"].no_route("default"),
        near=lambda lab: lab["web"].no_route("default"),
        lacks=("routes", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="route.policy-rule",
        asks=OUT,
        breaks=all_of(policy("172.17.0.0/16"), way("host", "default", table=100, kind="unreachable")),
        near=policy("172.17.0.0/16"),
        lacks=("rules", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="route.reply-asymmetric",
        base=with_lan,
        asks=PUBLISHED,
        port=8080,
        breaks=all_of(policy("172.17.0.3/32"), way("host", "192.0.2.0/24", table=100, dev="br-net1")),
        near=all_of(policy("172.17.0.3/32"), way("host", "192.0.2.0/24", table=100, dev="eth1")),
        lacks=("rules", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="route.subnet-overlap",
        asks=("host", "app"),
        breaks=way("host", "172.17.0.0/24", dev="br-net1", scope="link"),
        near=way("host", "172.17.9.0/24", dev="br-net1", scope="link"),
        lacks=("routes", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="route.wrong-device",
        asks=OUT,
        breaks=way("host", "8.8.8.0/24", dev="br-net1"),
        near=way("host", "9.9.9.0/24", dev="br-net1"),
        lacks=("routes", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="route.wrong-gateway",
        asks=OUT,
        breaks=gateway("172.17.0.3"),
        near=gateway("172.17.0.1"),
        lacks=("routes", "app"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="sysctl.accept-ra",
        asks=V6,
        family=6,
        breaks=ra_lost("1"),
        near=ra_lost("2"),
        lacks=("routes", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="sysctl.arp-ignore",
        asks=OUT,
        breaks=sysctl("host", ipv4__conf__docker0__arp_ignore="8"),
        near=sysctl("host", ipv4__conf__docker0__arp_ignore="1"),
        lacks=("sysctls", "host"),
    ),
    Row(
        code="sysctl.bridge-nf-call-off",
        asks=PEER,
        port=80,
        breaks=all_of(no_icc, sysctl("host", **{"bridge__bridge-nf-call-iptables": "0"})),
        near=sysctl("host", **{"bridge__bridge-nf-call-iptables": "0"}),
        lacks=("sysctls", "host"),
    ),
    Row(
        code="sysctl.bridge-nf-call-on",
        asks=PEER,
        port=80,
        breaks=unruled("filter", "-i docker0 -o docker0 -j ACCEPT"),
        near=all_of(
            unruled("filter", "-i docker0 -o docker0 -j ACCEPT"),
            sysctl("host", **{"bridge__bridge-nf-call-iptables": "0"}),
        ),
        lacks=("netfilter", "host"),
        segment=Segment.BRIDGE,
    ),
    Row(
        code="sysctl.interface-forwarding-off",
        asks=OUT,
        breaks=sysctl("host", ipv4__conf__docker0__forwarding="0"),
        near=sysctl("host", **{"ipv4__conf__br-net1__forwarding": "0"}),
        lacks=("sysctls", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="sysctl.ip-forward-off",
        asks=OUT,
        breaks=no_forwarding,
        near=nothing,
        lacks=("sysctls", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="sysctl.ipv6-disabled",
        asks=V6,
        family=6,
        breaks=no_ipv6,
        near=sysctl("c2", ipv6__conf__eth0__disable_ipv6="1"),
        lacks=("routes", "c1"),
        segment=Segment.SOURCE,
    ),
    Row(
        code="sysctl.route-localnet-off",
        asks=("host", "127.0.0.1", "tcp"),
        port=9090,
        breaks=loopback_nat,
        near=all_of(
            loopback_nat,
            lambda lab: lab.host.chain("nat", "-A POSTROUTING -o docker0 -j MASQUERADE"),
            sysctl("host", ipv4__conf__docker0__route_localnet="1"),
        ),
        lacks=("sysctls", "host"),
    ),
    Row(
        code="sysctl.rp-filter",
        asks=OUT,
        breaks=all_of(
            way("host", "172.17.0.2/32", dev="br-net1", scope="link"),
            sysctl("host", ipv4__conf__docker0__rp_filter="1"),
        ),
        near=all_of(
            way("host", "172.17.0.2/32", dev="br-net1", scope="link"),
            sysctl("host", ipv4__conf__docker0__rp_filter="2"),
        ),
        lacks=("sysctls", "host"),
        segment=Segment.HOST,
    ),
    Row(
        code="tc.drop",
        asks=OUT,
        breaks=edit("host", "eth0", tc=("qdisc tbf 1: root rate 8bit burst 1b (dropped 0)",)),
        near=edit("host", "br-net1", tc=("qdisc tbf 1: root rate 8bit burst 1b (dropped 0)",)),
        wire=observed(until="host/docker0"),
        lacks=("links", "host"),
        segment=Segment.EGRESS,
    ),
)

#: Tables of the host that a walk decides by, and that may be missing while its devices are known.
DECISIVE = ("addresses", "routes", "rules", "neighbours", "netfilter", "sysctls")
EACH = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code}-{'-'.join(row.asks)}")


def judge(row: Row, *changes: Change, wire: Wire | None = None) -> Verdict:
    """Return the verdict of the row's question on its host after some changes."""
    lab = row.base()
    for change in changes:
        change(lab)
    flow = ask(lab, *row.asks, port=row.port, family=row.family, size=row.size)
    before = lab.snapshot()
    after = before
    if row.after is not None and changes and changes[0] is row.breaks:
        row.after(lab)
        after = lab.snapshot()
    wire = wire or row.wire
    return diagnose_case(before, flow, wire=wire, after=after if wire is not None else None)


def codes(verdict: Verdict) -> list[str]:
    return [each.code for each in verdict.findings]


def causes(verdict: Verdict) -> list[str]:
    return [each.code for each in verdict.findings if each.severity in (Severity.BLOCKING, Severity.DEGRADING)]


def test_every_rule_has_its_row() -> None:
    assert {row.code for row in ROWS} == {each.code for each in RULES}


@EACH
def test_it_fires(row: Row) -> None:
    verdict = judge(row, row.breaks)
    assert row.code in codes(verdict)
    finding = next(each for each in verdict.findings if each.code == row.code)
    assert all((finding.title, finding.explanation, finding.evidence, finding.remedy.summary))
    if finding.severity in (Severity.BLOCKING, Severity.DEGRADING):
        assert causes(verdict)[0] == row.code
        assert verdict.outcome in (Result.STOPPED, Result.DEGRADED)
    if row.segment is not None:
        assert verdict.stop is not None
        assert verdict.stop.segment is row.segment


@EACH
def test_a_near_miss_stays_clear(row: Row) -> None:
    assert row.code not in codes(judge(row, row.near, wire=row.near_wire))


@EACH
def test_without_what_it_needs_it_says_nothing(row: Row) -> None:
    if row.lacks is None:
        return
    section, box = row.lacks
    full = judge(row, row.breaks)
    less = judge(row, row.breaks, lambda lab: lab.lose(section, box))
    assert row.code not in codes(less) or less.outcome is Result.INCONCLUSIVE
    assert set(causes(less)) <= {*causes(full), *row.instead}
    assert any((gap.section, gap.netns) == (section, box) for gap in less.gaps)


@EACH
def test_whatever_the_host_lacks_no_other_cause_is_named(row: Row) -> None:
    known = {*causes(judge(row, row.breaks)), *row.instead}
    for section in DECISIVE:
        less = judge(row, row.breaks, lambda lab, section=section: lab.lose(section, "host"))
        assert set(causes(less)) <= known, section
