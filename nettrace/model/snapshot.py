"""What the kernel holds: every table of every namespace on the path, as it was read.

Identity of a device is (namespace inode, ifindex). Tables that could not be read are `Missing`, with the reason.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nettrace.model.base import IPAddress, IPInterface, IPNetwork, Missing, Model, Present, Values
from nettrace.model.intent import Intent
from nettrace.model.lookup import Lookup

SCHEMA = "nettrace.snapshot/1"


class BridgeInfo(Model):
    """IFLA_INFO_DATA of a bridge. `nf_call_*` are the bridge's own switches, beside the sysctls of br_netfilter."""

    vlan_filtering: bool = False
    vlan_default_pvid: int = 1
    stp_state: int = 0
    group_fwd_mask: int = 0
    ageing_time_s: float = 300.0
    nf_call_iptables: bool = False
    nf_call_ip6tables: bool = False
    nf_call_arptables: bool = False
    mcast_snooping: bool = True
    mcast_querier: bool = False


class PortVlan(Model):
    """One VLAN of a bridge port (or of the bridge itself)."""

    vid: int
    pvid: bool = False
    untagged: bool = False


class BridgePort(Model):
    """IFLA_INFO_SLAVE_DATA of a bridge port. `state`: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking."""

    state: int = 3
    hairpin: bool = False
    isolated: bool = False
    learning: bool = True
    unicast_flood: bool = True
    mcast_flood: bool = True
    bcast_flood: bool = True
    proxyarp: bool = False
    neigh_suppress: bool = False
    guard: bool = False
    locked: bool = False
    vlans: tuple[PortVlan, ...] | None = None


class Vxlan(Model):
    """IFLA_INFO_DATA of a vxlan device."""

    vni: int
    local: IPAddress | None = None
    group: IPAddress | None = None
    port: int = 4789
    underlay_ifindex: int | None = None
    learning: bool = True
    proxy: bool = False
    l2miss: bool = False
    l3miss: bool = False
    ttl: int = 0
    udp_csum: bool = True


class LinkStats(Model):
    """Packet counters of a link (IFLA_STATS64)."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    rx_nohandler: int = 0
    tx_carrier_errors: int = 0


class Link(Model):
    """One network device.

    `kind` is IFLA_INFO_KIND ("veth", "bridge", "macvlan", …), "" for hardware and loopback. `peer_ifindex` is
    IFLA_LINK; it lies in namespace `peer_netns` (inode), which is None when it lies in the same namespace, and
    `peer_nsid` is IFLA_LINK_NETNSID when the namespace has no known inode. `lower_up` is IFF_LOWER_UP (carrier).
    `ipvlan_mode` is l2, l3 or l3s, `ipvlan_flag` bridge, private or vepa.
    `arp_type` is ARPHRD_* (1 Ethernet, 772 loopback, 65534 none). `xdp` and `tc` describe attached programs. `reader`
    is the process behind a tun or tap device, as "slirp4netns (process 123)".
    """

    ifindex: int
    name: str
    kind: str = ""
    mac: str | None = None
    mtu: int = 1500
    up: bool = True
    lower_up: bool = True
    operstate: str = "UNKNOWN"
    noarp: bool = False
    promisc: bool = False
    loopback: bool = False
    pointopoint: bool = False
    arp_type: int = 1
    group: int = 0
    master: int | None = None
    peer_ifindex: int | None = None
    peer_nsid: int | None = None
    peer_netns: int | None = None
    bridge: BridgeInfo | None = None
    port: BridgePort | None = None
    vxlan: Vxlan | None = None
    macvlan_mode: str | None = None
    ipvlan_mode: str | None = None
    ipvlan_flag: str | None = None
    vlan_id: int | None = None
    reader: str | None = None
    qdisc: str = ""
    xdp: str | None = None
    tc: tuple[str, ...] = ()
    alias: str | None = None
    stats: LinkStats = LinkStats()


class Address(Model):
    """One address of a link. `scope` as iproute2 names it; `peer` only for point-to-point addresses."""

    ifindex: int
    address: IPInterface
    scope: str = "global"
    peer: IPNetwork | None = None
    tentative: bool = False
    dadfailed: bool = False
    noprefixroute: bool = False


class NextHop(Model):
    """One way out of a route. `flags`: onlink, dead, linkdown, pervasive …"""

    ifindex: int | None = None
    gateway: IPAddress | None = None
    weight: int = 1
    flags: tuple[str, ...] = ()


class Route(Model):
    """One row of a routing table. `kind`: unicast, local, broadcast, blackhole, unreachable, prohibit, throw, nat …"""

    table: int
    dst: IPNetwork
    kind: str = "unicast"
    src: IPNetwork | None = None
    tos: int = 0
    scope: str = "global"
    proto: str = ""
    priority: int = 0
    prefsrc: IPAddress | None = None
    nexthops: tuple[NextHop, ...] = ()
    mtu: int | None = None
    nexthop_id: int | None = None


class PolicyRule(Model):
    """One row of `ip rule`. `action`: lookup, goto, nop, blackhole, unreachable, prohibit."""

    family: int
    priority: int
    action: str = "lookup"
    table: int = 254
    src: IPNetwork | None = None
    dst: IPNetwork | None = None
    iif: str | None = None
    oif: str | None = None
    fwmark: int | None = None
    fwmask: int = 0xFFFFFFFF
    tos: int = 0
    ip_proto: int | None = None
    sport: tuple[int, int] | None = None
    dport: tuple[int, int] | None = None
    uid_range: tuple[int, int] | None = None
    invert: bool = False
    goto: int | None = None
    suppress_prefixlength: int | None = None
    suppress_ifgroup: int | None = None
    l3mdev: bool = False


class Neighbour(Model):
    """One ARP or NDP entry. `state`: REACHABLE, STALE, DELAY, PROBE, FAILED, INCOMPLETE, PERMANENT, NOARP, NONE."""

    ifindex: int
    address: IPAddress
    mac: str | None = None
    state: str = "NONE"
    proxy: bool = False


class FdbEntry(Model):
    """One forwarding entry of a bridge port, or of a vxlan device (`dst` set). `ifindex` is the port."""

    ifindex: int
    mac: str
    master: int | None = None
    vlan: int | None = None
    dst: IPAddress | None = None
    vni: int | None = None
    state: str = ""
    flags: tuple[str, ...] = ()
    local: bool = False


class Socket(Model):
    """A socket that can receive. `state`: LISTEN for TCP, UNCONN or ESTAB otherwise; `address` may be 0.0.0.0.

    `process` names the programs that hold it, where that was asked for: on the host, for the port of the question.
    `held_for` names the container whose published port an engine only reserves by it: nobody accepts there.
    """

    proto: str
    family: int
    address: IPAddress
    port: int
    state: str
    ifindex: int | None = None
    v6only: bool = False
    uid: int | None = None
    process: tuple[str, ...] = ()
    held_for: str | None = None


class Tuple5(Model):
    """One direction of a conntrack entry."""

    src: IPAddress
    dst: IPAddress
    proto: int
    sport: int | None = None
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    icmp_id: int | None = None


class ConntrackEntry(Model):
    """One conntrack entry. `status` are names of IPS_* bits in lower case (assured, seen_reply, src_nat, dst_nat …)."""

    orig: Tuple5
    reply: Tuple5
    status: tuple[str, ...] = ()
    state: str = ""
    mark: int = 0
    zone: int = 0
    timeout_s: int = 0
    helper: str | None = None


class DumpFormat(StrEnum):
    """Language of a netfilter dump."""

    IPTABLES_SAVE = "iptables-save"
    NFT_JSON = "nft-json"
    NFT_TEXT = "nft-text"
    IPSET_SAVE = "ipset-save"
    EBTABLES_SAVE = "ebtables-save"


class NetfilterDump(Model):
    """Text of one netfilter listing, as the kernel's own tool printed it.

    `backend` is "nft" or "legacy"; `family` is "ip", "ip6", "bridge", or "all" for nft and ipset. iptables-save is
    taken with counters.
    """

    format: DumpFormat
    backend: str
    family: str
    text: str


class Namespace(Model):
    """Everything read of one network namespace. `id` is its inode; `name` is how people call it.

    `kind`: host, container, overlay or netns. `sysctls` are keyed as sysctl(8) prints them, with dots and without
    "net." left out ("net.ipv4.conf.eth0.rp_filter"; a dot inside a device name is kept as "/"). `counters` are
    keyed by protocol and name as /proc/net/snmp has them ("Ip.InNoRoutes", "TcpExt.IPReversePathFilter",
    "nf_conntrack.count"). `nsids` maps this namespace's nsid (as text) to the inode it stands for. `names` is the
    lookup of the flow's destination as it is done here, where that was given as a name. `path` opens the namespace on
    its host, where its name alone does not tell.
    """

    id: int
    name: str
    kind: str = "netns"
    path: str | None = None
    links: Present[Link] | Missing = Missing(reason="not asked for")
    addresses: Present[Address] | Missing = Missing(reason="not asked for")
    routes: Present[Route] | Missing = Missing(reason="not asked for")
    rules: Present[PolicyRule] | Missing = Missing(reason="not asked for")
    neighbours: Present[Neighbour] | Missing = Missing(reason="not asked for")
    fdb: Present[FdbEntry] | Missing = Missing(reason="not asked for")
    sockets: Present[Socket] | Missing = Missing(reason="not asked for")
    conntrack: Present[ConntrackEntry] | Missing = Missing(reason="not asked for")
    netfilter: Present[NetfilterDump] | Missing = Missing(reason="not asked for")
    sysctls: Values[str] | Missing = Missing(reason="not asked for")
    counters: Values[int] | Missing = Missing(reason="not asked for")
    names: Lookup | Missing = Missing(reason="not asked for")
    nsids: dict[str, int] = msgspec.field(default_factory=dict)


class Gap(Model):
    """Something that could not be read or heard, and why.

    `section` may name a part of one: "routes/6", "netfilter/4" (of one IP version), "sockets/udp" (of one protocol),
    "netfilter/part" (some of it).
    """

    section: str
    netns: str | None
    reason: str


class Host(Model):
    """What machine the snapshot was taken on."""

    kernel: str
    engine: str | None = None
    hostname: str | None = None


#: Inodes of namespaces have 32 bits. Those of another host are told apart by what is above: that host's number, from 1.
HOST_SHIFT = 32


class Peer(Model):
    """Another host whose namespaces are in the snapshot too.

    Their ids are its inodes with its `number` above them (HOST_SHIFT), and their names begin with "<name>:".
    `host_netns` is such an id. `number` counts from 1.
    """

    name: str
    number: int
    host_netns: int
    host: Host


class Snapshot(Model):
    """What the kernel of one host holds, and what its engines meant. `host_netns` is the inode nettrace ran in.

    With `peers`, the namespaces and the intent of other hosts are there as well, behind those of this one.
    """

    host: Host
    host_netns: int
    namespaces: tuple[Namespace, ...]
    intent: Intent = Intent()
    gaps: tuple[Gap, ...] = ()
    taken_at_ns: int = 0
    peers: tuple[Peer, ...] = ()
    schema: str = SCHEMA

    def namespace(self, netns: int) -> Namespace | None:
        """Return the namespace with that inode, or None when it was not read."""
        for ns in self.namespaces:
            if ns.id == netns:
                return ns
        return None

    def narrowed(self, *, family: int, proto: str) -> Snapshot:
        """Return the snapshot as a question of that IP version and protocol may read it.

        A section of which just that part was not read (a gap says so) is missing then: it must not look empty.
        """
        parts = {str(family), proto}
        unread: dict[str, dict[str, Missing]] = {}
        for gap in self.gaps:
            section, _, part = gap.section.partition("/")
            if part in parts and gap.netns is not None:
                unread.setdefault(gap.netns, {})[section] = Missing(reason=gap.reason)
        if not unread:
            return self
        namespaces = tuple(
            msgspec.structs.replace(ns, **unread[ns.name]) if ns.name in unread else ns for ns in self.namespaces
        )
        return msgspec.structs.replace(self, namespaces=namespaces)

    def peer_of(self, netns: int) -> Peer | None:
        """Return the other host that a namespace is on, None for one of this host."""
        number = netns >> HOST_SHIFT
        return next((each for each in self.peers if each.number == number), None) if number else None
