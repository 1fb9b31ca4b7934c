"""Network devices: RTM_NEWLINK messages, bridge port VLANs, traffic control, and the sysctls that links carry."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from msgspec.structs import replace

from nettrace.collect.messages import load_messages
from nettrace.collect.netlink import Channel, attribute, attributes
from nettrace.collect.tcx import read_tcx
from nettrace.model.snapshot import BridgeInfo, BridgePort, Link, LinkStats, PortVlan, Vxlan

__all__ = [
    "NSID_UNKNOWN",
    "parse_devconf",
    "parse_filter",
    "parse_link",
    "parse_port_vlans",
    "parse_qdisc",
    "read_links",
    "read_queue_drops",
]

RTM_GETLINK = 18
RTM_GETQDISC = 38
RTM_GETTFILTER = 46
AF_INET, AF_BRIDGE, AF_INET6 = 2, 7, 10

IFF_UP, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_NOARP, IFF_PROMISC, IFF_LOWER_UP = 0x1, 0x8, 0x10, 0x80, 0x100, 0x10000
IFLA_STATS64, IFLA_AF_SPEC, IFLA_EXT_MASK = 23, 26, 29
RTEXT_FILTER_BRVLAN = 2

#: IFLA_LINK_NETNSID of a namespace that has no id in the asking one (NETNSA_NSID_NOT_ASSIGNED).
NSID_UNKNOWN = -1

#: Of a link: address, name, mtu, link, qdisc, master, operstate, linkinfo, alias, group, netnsid, xdp.
DECODED = frozenset({1, 3, 4, 5, 6, 10, 16, 18, 20, 27, 37, 43})

#: struct nlmsghdr and struct ifinfomsg, before the attributes.
LINK_HEADER_BYTES = 32
TC_HEADER_BYTES = 36

#: IPV4_DEVCONF_* of include/uapi/linux/ip.h, as the files of /proc/sys/net/ipv4/conf/<device>/ are called.
DEVCONF4 = {
    1: "forwarding",
    3: "proxy_arp",
    4: "accept_redirects",
    6: "send_redirects",
    8: "rp_filter",
    9: "accept_source_route",
    11: "log_martians",
    13: "arp_filter",
    14: "medium_id",
    15: "disable_xfrm",
    16: "disable_policy",
    18: "arp_announce",
    19: "arp_ignore",
    21: "arp_accept",
    23: "accept_local",
    24: "src_valid_mark",
    25: "proxy_arp_pvlan",
    26: "route_localnet",
    29: "ignore_routes_with_linkdown",
    30: "drop_unicast_in_l2_multicast",
    31: "drop_gratuitous_arp",
    32: "bc_forwarding",
}
#: DEVCONF_* of include/uapi/linux/ipv6.h, as the files of /proc/sys/net/ipv6/conf/<device>/ are called.
DEVCONF6 = {
    0: "forwarding",
    1: "hop_limit",
    2: "mtu",
    3: "accept_ra",
    4: "accept_redirects",
    5: "autoconf",
    17: "accept_ra_defrtr",
    18: "accept_ra_pinfo",
    22: "proxy_ndp",
    24: "accept_source_route",
    26: "disable_ipv6",
    27: "accept_dad",
}

IFLA_LINKINFO, IFLA_INFO_DATA, IFLA_IPVLAN_FLAGS = 18, 2, 2
_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
_IPVLAN_MODES = {0: "l2", 1: "l3", 2: "l3s"}
_IPVLAN_FLAGS = {0: "bridge", 1: "private", 2: "vepa"}
#: XDP_ATTACHED_*, by number and as pyroute2 calls them.
_XDP_MODES: dict[object, str] = {1: "driver", 2: "generic", 3: "offloaded", 4: "several modes"}
_XDP_MODES |= {"xdp": "driver", "xdpgeneric": "generic", "xdpoffload": "offloaded", "xdpmulti": "several modes"}


def read_links(channel: Channel, *, inside: bool = False) -> tuple[tuple[Link, ...], dict[str, str]]:
    """Read every device of a namespace, and the per-device sysctls that the kernel sends along.

    Bridge VLANs and tc filters are asked for only where a device shows that there are some; programs attached by tcx
    only if the calling thread is `inside` the namespace.
    """
    raw = channel.dump(RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
    links = [parse_link(message) for message in raw]
    sysctls: dict[str, str] = {}
    for message, link in zip(raw, links, strict=True):
        sysctls |= parse_devconf(message, link.name)
    if any(link.bridge is not None and link.bridge.vlan_filtering for link in links):
        body = struct.pack("=BxHiII", AF_BRIDGE, 0, 0, 0, 0) + struct.pack(
            "=HHI", 8, IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN
        )
        vlans = parse_port_vlans(channel.dump(RTM_GETLINK, body))
        links = [_with_vlans(link, vlans) for link in links]
    attached = read_traffic_control(channel, {link.ifindex: link.name for link in links}, inside=inside)
    if attached:
        links = [replace(link, tc=attached[link.ifindex]) if link.ifindex in attached else link for link in links]
    return tuple(links), sysctls


def _with_vlans(link: Link, vlans: Mapping[int, tuple[PortVlan, ...]]) -> Link:
    if link.port is None:
        return link
    return replace(link, port=replace(link.port, vlans=vlans.get(link.ifindex, ())))


def parse_link(message: bytes) -> Link:
    """Turn one RTM_NEWLINK message, header included, into a Link (rtnl_fill_ifinfo in net/core/rtnetlink.c).

    `peer_nsid` is set as the kernel gave it; the inode behind it is for the caller to find. Of a vxlan device it is
    the namespace of its underlay.
    """
    load_messages()
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    # Decoding is what costs time here, and half of a message is what this model does not hold or reads by itself.
    msg = ifinfmsg(_only(message, DECODED))
    msg.decode()
    flags: int = msg["flags"]
    attrs = _named(msg)
    info = _named(attrs.get("IFLA_LINKINFO"))
    kind = info.get("IFLA_INFO_KIND") or ""
    details = _named(info.get("IFLA_INFO_DATA"))
    port = _named(info.get("IFLA_INFO_SLAVE_DATA")) if info.get("IFLA_INFO_SLAVE_KIND") == "bridge" else {}
    mtu = attrs.get("IFLA_MTU")
    return Link(
        ifindex=msg["index"],
        name=attrs["IFLA_IFNAME"],
        kind=kind,
        mac=attrs.get("IFLA_ADDRESS"),
        mtu=mtu if mtu is not None else 0,
        up=bool(flags & IFF_UP),
        lower_up=bool(flags & IFF_LOWER_UP),
        operstate=_operstate(attrs.get("IFLA_OPERSTATE")),
        noarp=bool(flags & IFF_NOARP),
        promisc=bool(flags & IFF_PROMISC),
        loopback=bool(flags & IFF_LOOPBACK),
        pointopoint=bool(flags & IFF_POINTOPOINT),
        arp_type=msg["ifi_type"],
        group=attrs.get("IFLA_GROUP") or 0,
        master=attrs.get("IFLA_MASTER"),
        # A vxlan device has no lower one; with its underlay in another namespace the kernel sends its own index here.
        peer_ifindex=attrs.get("IFLA_LINK") if kind != "vxlan" else None,
        peer_nsid=attrs.get("IFLA_LINK_NETNSID"),
        bridge=_bridge(details) if kind == "bridge" and details else None,
        port=_bridge_port(port) if port else None,
        vxlan=_vxlan(details) if kind == "vxlan" and details else None,
        macvlan_mode=details.get("IFLA_MACVLAN_MODE") if kind in ("macvlan", "macvtap") and details else None,
        ipvlan_mode=_ipvlan_mode(details) if kind == "ipvlan" and details else None,
        ipvlan_flag=_ipvlan_flag(message) if kind == "ipvlan" and details else None,
        vlan_id=details.get("IFLA_VLAN_ID") if kind == "vlan" and details else None,
        qdisc=attrs.get("IFLA_QDISC") or "",
        xdp=_xdp(_named(attrs.get("IFLA_XDP"))),
        alias=attrs.get("IFLA_IFALIAS"),
        stats=_stats(attribute(message, IFLA_STATS64, offset=LINK_HEADER_BYTES)),
    )


def _only(message: bytes, kinds: frozenset[int]) -> bytes:
    """Return a link message with the attributes of these types alone."""
    kept = [message[4:LINK_HEADER_BYTES]]
    for kind, payload in attributes(message, LINK_HEADER_BYTES):
        if kind in kinds:
            kept.append(struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4))
    body = b"".join(kept)
    return struct.pack("=I", len(body) + 4) + body


def _named(attrs: Any) -> dict[str, Any]:
    """Return the attributes of a message by name; none of what is absent, or of what pyroute2 has no layout for."""
    return dict(attrs["attrs"]) if hasattr(attrs, "get_attr") else {}


def _operstate(value: Any) -> str:
    if isinstance(value, int):
        return _OPERSTATES[value] if value < len(_OPERSTATES) else str(value)
    return str(value) if value is not None else "UNKNOWN"


def _flag(attrs: Mapping[str, Any], name: str, default: bool) -> bool:
    value = attrs.get(name)
    return default if value is None else bool(value)


def _number(attrs: Mapping[str, Any], name: str, default: int) -> int:
    value = attrs.get(name)
    return default if value is None else int(value)


def _bridge(attrs: Mapping[str, Any]) -> BridgeInfo:
    return BridgeInfo(
        vlan_filtering=_flag(attrs, "IFLA_BR_VLAN_FILTERING", False),
        vlan_default_pvid=_number(attrs, "IFLA_BR_VLAN_DEFAULT_PVID", 1),
        stp_state=_number(attrs, "IFLA_BR_STP_STATE", 0),
        group_fwd_mask=_number(attrs, "IFLA_BR_GROUP_FWD_MASK", 0),
        # Times cross netlink in clock ticks of 1/100 s (USER_HZ).
        ageing_time_s=_number(attrs, "IFLA_BR_AGEING_TIME", 30000) / 100,
        nf_call_iptables=_flag(attrs, "IFLA_BR_NF_CALL_IPTABLES", False),
        nf_call_ip6tables=_flag(attrs, "IFLA_BR_NF_CALL_IP6TABLES", False),
        nf_call_arptables=_flag(attrs, "IFLA_BR_NF_CALL_ARPTABLES", False),
        mcast_snooping=_flag(attrs, "IFLA_BR_MCAST_SNOOPING", False),
        mcast_querier=_flag(attrs, "IFLA_BR_MCAST_QUERIER", False),
    )


def _bridge_port(attrs: Mapping[str, Any]) -> BridgePort:
    return BridgePort(
        state=_number(attrs, "IFLA_BRPORT_STATE", 3),
        hairpin=_flag(attrs, "IFLA_BRPORT_MODE", False),
        isolated=_flag(attrs, "IFLA_BRPORT_ISOLATED", False),
        learning=_flag(attrs, "IFLA_BRPORT_LEARNING", True),
        unicast_flood=_flag(attrs, "IFLA_BRPORT_UNICAST_FLOOD", True),
        mcast_flood=_flag(attrs, "IFLA_BRPORT_MCAST_FLOOD", True),
        bcast_flood=_flag(attrs, "IFLA_BRPORT_BCAST_FLOOD", True),
        proxyarp=_flag(attrs, "IFLA_BRPORT_PROXYARP", False),
        neigh_suppress=_flag(attrs, "IFLA_BRPORT_NEIGH_SUPPRESS", False),
        guard=_flag(attrs, "IFLA_BRPORT_GUARD", False),
        locked=_flag(attrs, "IFLA_BRPORT_LOCKED", False),
    )


def _vxlan(attrs: Mapping[str, Any]) -> Vxlan:
    local = attrs.get("IFLA_VXLAN_LOCAL") or attrs.get("IFLA_VXLAN_LOCAL6")
    group = attrs.get("IFLA_VXLAN_GROUP") or attrs.get("IFLA_VXLAN_GROUP6")
    return Vxlan(
        vni=_number(attrs, "IFLA_VXLAN_ID", 0),
        local=ip_address(local) if local else None,
        group=ip_address(group) if group else None,
        port=_number(attrs, "IFLA_VXLAN_PORT", 4789),
        underlay_ifindex=attrs.get("IFLA_VXLAN_LINK") or None,
        learning=_flag(attrs, "IFLA_VXLAN_LEARNING", False),
        proxy=_flag(attrs, "IFLA_VXLAN_PROXY", False),
        l2miss=_flag(attrs, "IFLA_VXLAN_L2MISS", False),
        l3miss=_flag(attrs, "IFLA_VXLAN_L3MISS", False),
        ttl=_number(attrs, "IFLA_VXLAN_TTL", 0),
        udp_csum=_flag(attrs, "IFLA_VXLAN_UDP_CSUM", False),
    )


def _ipvlan_mode(attrs: Mapping[str, Any]) -> str | None:
    mode = attrs.get("IFLA_IPVLAN_MODE")
    return None if mode is None else _IPVLAN_MODES.get(mode, str(mode))


def _ipvlan_flag(message: bytes) -> str | None:
    """Return which siblings an ipvlan device reaches (IFLA_IPVLAN_FLAGS, which pyroute2 has no name for)."""
    data = attribute(message, IFLA_LINKINFO, offset=LINK_HEADER_BYTES)
    for wanted in (IFLA_INFO_DATA, IFLA_IPVLAN_FLAGS):
        data = next((payload for kind, payload in attributes(data or b"", 0) if kind == wanted), None)
    return None if data is None else _IPVLAN_FLAGS.get(struct.unpack_from("=H", data)[0])


def _xdp(attrs: Mapping[str, Any]) -> str | None:
    attached = attrs.get("IFLA_XDP_ATTACHED")
    if not attached:
        return None
    mode = _XDP_MODES.get(attached, str(attached))
    program = attrs.get("IFLA_XDP_PROG_ID")
    return f"{mode} prog id {program}" if program else mode


def _stats(data: bytes | None) -> LinkStats:
    """Turn struct rtnl_link_stats64 into LinkStats; older kernels send a shorter one."""
    if data is None:
        return LinkStats()
    values = struct.unpack_from(f"={len(data) // 8}Q", data)
    return LinkStats(
        rx_packets=values[0],
        tx_packets=values[1],
        rx_errors=values[4],
        tx_errors=values[5],
        rx_dropped=values[6],
        tx_dropped=values[7],
        rx_nohandler=values[23] if len(values) > 23 else 0,
        tx_carrier_errors=values[17],
    )


def parse_devconf(message: bytes, device: str) -> dict[str, str]:
    """Return the per-device sysctls in an RTM_NEWLINK message, keyed as sysctl(8) prints them.

    They are the very values of /proc/sys/net/ipv4|ipv6/conf/<device>/ (inet_fill_link_af, inet6_fill_ifla6_attrs):
    a host with 500 devices is read without opening 20,000 files.
    """
    spec = attribute(message, IFLA_AF_SPEC, offset=LINK_HEADER_BYTES)
    if spec is None:
        return {}
    name = device.replace(".", "/")
    found: dict[str, str] = {}
    conf4 = attribute(spec, AF_INET, 1)
    if conf4 is not None:
        # The array starts at index 1: devconf 0 is a placeholder that is not sent.
        values = struct.unpack_from(f"={len(conf4) // 4}i", conf4)
        for index, key in DEVCONF4.items():
            if index <= len(values):
                found[f"net.ipv4.conf.{name}.{key}"] = str(values[index - 1])
    conf6 = attribute(spec, AF_INET6, 2)
    if conf6 is not None:
        values = struct.unpack_from(f"={len(conf6) // 4}i", conf6)
        for index, key in DEVCONF6.items():
            if index < len(values):
                found[f"net.ipv6.conf.{name}.{key}"] = str(values[index])
    return found


def parse_port_vlans(messages: Iterable[bytes]) -> dict[int, tuple[PortVlan, ...]]:
    """Return the VLANs of every bridge port (and bridge) by ifindex, from AF_BRIDGE link messages.

    Reads IFLA_BRIDGE_VLAN_INFO, {flags u16, vid u16}, with ranges as begin and end markers (br_fill_ifvlaninfo).
    """
    pvid, untagged, begin, end = 0x2, 0x4, 0x8, 0x10
    found: dict[int, tuple[PortVlan, ...]] = {}
    for message in messages:
        (ifindex,) = struct.unpack_from("=i", message, 20)
        spec = attribute(message, IFLA_AF_SPEC, offset=LINK_HEADER_BYTES)
        vlans: list[PortVlan] = []
        first = 0
        for kind, payload in attributes(spec or b""):
            if kind != 2:
                continue
            flags, vid = struct.unpack_from("=HH", payload)
            if flags & begin:
                first = vid
                continue
            start = first if flags & end else vid
            vlans += [
                PortVlan(vid=each, pvid=bool(flags & pvid), untagged=bool(flags & untagged))
                for each in range(start, vid + 1)
            ]
        found[ifindex] = tuple(vlans)
    return found


#: Queueing disciplines that devices get by themselves, and that drop only when a queue overflows.
_PLAIN_QDISCS = {"noqueue", "pfifo_fast", "fq_codel", "fq", "mq", "pfifo_head_drop"}
#: Those that somebody has set when they are a device's own, and that come with others beneath them.
_FIFOS = {"pfifo": "p", "bfifo": "b"}
_ROOT = 0xFFFFFFFF
ETH_FRAME_LEN = 1514
TBF_LEAST_RATE = 256
#: TCA_CLS_FLAGS_SKIP_SW: a filter for the hardware alone.
SKIP_SW = 2
_TC_ACTIONS = {
    -1: "unspec",
    0: "ok",
    1: "reclassify",
    2: "drop",
    3: "pipe",
    4: "stolen",
    5: "queued",
    6: "repeat",
    7: "redirect",
    8: "trap",
}
#: enum in include/uapi/linux/tc_act/tc_mirred.h.
_MIRRED = {1: "egress redirect", 2: "egress mirror", 3: "ingress redirect", 4: "ingress mirror"}
#: Where each classifier keeps its list of actions (TCA_<CLASSIFIER>_ACT).
_ACTION_ATTRIBUTE = {
    "u32": 7,
    "matchall": 2,
    "flower": 3,
    "bpf": 1,
    "basic": 3,
    "fw": 4,
    "flow": 9,
    "route": 6,
    "cgroup": 1,
}
_BLOCKS = {"clsact": ((0xFFFFFFF2, "ingress"), (0xFFFFFFF3, "egress")), "ingress": ((0xFFFF0000, "ingress"),)}


def read_traffic_control(
    channel: Channel, names: Mapping[int, str], *, inside: bool = False
) -> dict[int, tuple[str, ...]]:
    """Return what could drop packets in traffic control, by ifindex, as `tc` would print it.

    `names` are those of the devices, by ifindex. Filters are asked for only on devices with a clsact or ingress qdisc,
    or with one that has classes. BPF programs that are attached by tcx come first: the kernel runs them so (tcx_run).
    They can only be asked for `inside` the namespace.
    """
    found: dict[int, list[str]] = {}
    for ifindex, programs in read_tcx(names).items() if inside else ():
        found[ifindex] = list(programs)
    for message in channel.dump(RTM_GETQDISC, struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)):
        ifindex, kind, text = parse_qdisc(message)
        handle, parent = struct.unpack_from("=II", message, 24)
        # Beneath others a queue is of note only where a full frame does not fit.
        tiny = _limit(message) < {"pfifo": 1, "bfifo": ETH_FRAME_LEN}.get(kind, 0)
        if kind in _PLAIN_QDISCS or (kind in _FIFOS and parent != _ROOT and not tiny):
            continue
        found.setdefault(ifindex, []).append(text)
        own = ((handle, f"parent {handle >> 16:x}:"),) if kind not in _FIFOS else ()
        for where, block in _BLOCKS.get(kind, own):
            body = struct.pack("=BxxxiIII", 0, ifindex, 0, where, 0)
            lines = [parse_filter(each, block, names) for each in _filters(channel, body)]
            found[ifindex] += [line for line in lines if line is not None]
    return {ifindex: tuple(lines) for ifindex, lines in found.items()}


def _filters(channel: Channel, body: bytes) -> list[bytes]:
    """Return the filters of a block; none where a qdisc has no classes, and so no block."""
    try:
        return channel.dump(RTM_GETTFILTER, body)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):
            return []
        raise


def read_queue_drops(channel: Channel) -> dict[str, int]:
    """Return what the queues of devices have thrown away, as counters: "qdisc.<ifindex>.<kind>.drops", where not 0."""
    found: dict[str, int] = {}
    for message in channel.dump(RTM_GETQDISC, struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)):
        ifindex, kind, text = parse_qdisc(message)
        drops = int(text.rpartition(" dropped ")[2]) if " dropped " in text else 0
        if drops:
            name = f"qdisc.{ifindex}.{kind}.drops"
            found[name] = found.get(name, 0) + drops
    return found


def parse_qdisc(message: bytes) -> tuple[int, str, str]:
    """Return (ifindex, kind, text) of one RTM_NEWQDISC message, with the limits that drop by themselves."""
    ifindex, handle, parent = struct.unpack_from("=iII", message, 20)
    kind = _text(attribute(message, 1, offset=TC_HEADER_BYTES))
    place = "root" if parent == _ROOT else f"parent {parent >> 16:x}:{parent & 0xFFFF:x}"
    text = f"qdisc {kind} {handle >> 16:x}: {place}"
    options = attribute(message, 2, offset=TC_HEADER_BYTES) or b""
    if kind in _FIFOS and len(options) >= 4:
        text += f" limit {_limit(message)}{_FIFOS[kind]}"
    shape = attribute(options, 1) if kind == "tbf" else None
    if shape is not None and len(shape) >= 36:
        # struct tc_tbf_qopt: bytes a second, and the burst as the time that it takes, in ticks of 64 ns. With a rate so
        # low that this time overflows its 32 bits for one frame, it tells nothing.
        rate, ticks = struct.unpack_from("=I", shape, 8)[0], struct.unpack_from("=I", shape, 28)[0]
        text += f" rate {8 * rate}bit"
        text += f" burst {round(rate * ticks * 64 / 1e9)}b" if rate >= TBF_LEAST_RATE else ""
    if kind == "netem" and len(options) >= 12 and (loss := struct.unpack_from("=I", options, 8)[0]):
        # struct tc_netem_qopt: the chance is a fraction of 2^32 - 1.
        text += f" loss {loss / 0xFFFFFFFF:.4g}"
    queue = attribute(message, 7, 3, offset=TC_HEADER_BYTES)
    if queue is not None and len(queue) >= 12:
        # struct gnet_stats_queue: packets and bytes that are waiting, and those that were dropped.
        waiting, _bytes, drops = struct.unpack_from("=III", queue)
        text += f" backlog {waiting}p" if waiting else ""
        text += f" dropped {drops}"
    return ifindex, kind, text


def _limit(message: bytes) -> int:
    """Return the limit of a pfifo or bfifo (struct tc_fifo_qopt)."""
    options = attribute(message, 2, offset=TC_HEADER_BYTES) or b""
    return int(struct.unpack_from("=I", options)[0]) if len(options) >= 4 else 0xFFFFFFFF


def parse_filter(message: bytes, block: str, names: Mapping[int, str] | None = None) -> str | None:
    """Return the text of one RTM_NEWTFILTER message; None for the header row that a classifier prints first.

    `names` are those of the devices that filters redirect to, by ifindex. Of what a u32 filter matches only this is
    told: whether it is everything ("match all").
    """
    (info,) = struct.unpack_from("=I", message, 32)
    kind = _text(attribute(message, 1, offset=TC_HEADER_BYTES))
    options = attribute(message, 2, offset=TC_HEADER_BYTES)
    if options is None:
        return None
    actions = [
        _action(payload, names or {})
        for _order, payload in attributes(attribute(options, _ACTION_ATTRIBUTE.get(kind, 0)) or b"")
    ]
    if kind == "bpf":
        name = _text(attribute(options, 7))
        flags = attribute(options, 8)
        direct = flags is not None and struct.unpack_from("=I", flags)[0] & 1
        actions.insert(0, f"{name}{' direct-action' if direct else ''}".strip())
    if kind == "u32" and not actions and attribute(options, 5) is None:
        return None
    if kind == "matchall" and (attribute(options, 3) or b"\0")[0] & SKIP_SW:
        actions.insert(0, "skip_sw")
    if kind == "u32" and _matches_all(options):
        actions.insert(0, "match all")
    chain = attribute(message, 11, offset=TC_HEADER_BYTES)
    number = struct.unpack_from("=I", chain)[0] if chain is not None and len(chain) >= 4 else 0
    protocol = struct.unpack(">H", struct.pack("=H", info & 0xFFFF))[0]
    shown = {0x0003: "all", 0x0800: "ip", 0x86DD: "ipv6", 0x0806: "arp"}.get(protocol, f"{protocol:#06x}")
    words = ["filter", block, "protocol", shown, "pref", str(info >> 16), kind]
    if number:
        words += ["chain", str(number)]
    return " ".join([*words, *actions]).rstrip()


def _matches_all(options: bytes) -> bool:
    """Tell whether a u32 filter takes every packet of its protocol: the masks of all its keys are 0 (u32_classify)."""
    chosen = attribute(options, 5)
    # A link to another table, a device, a mark is one more condition (TCA_U32_LINK, _INDEV, _MARK).
    if chosen is None or len(chosen) < 16 or any(attribute(options, each) is not None for each in (3, 8, 10)):
        return False
    if (attribute(options, 11) or b"\0")[0] & SKIP_SW:
        return False
    # struct tc_u32_sel and struct tc_u32_key: the mask comes first in each of the keys.
    return all(chosen[16 + 16 * each : 20 + 16 * each] == b"\0\0\0\0" for each in range(chosen[2]))


def _action(payload: bytes, names: Mapping[int, str]) -> str:
    """Return one action of a filter as tc prints it: its kind, and for gact and mirred what it does with the packet."""
    kind = _text(attribute(payload, 1))
    parameters = attribute(payload, 2, 2)
    if kind == "mirred" and parameters is not None and len(parameters) >= 28:
        # struct tc_mirred
        how, ifindex = struct.unpack_from("=iI", parameters, 20)
        return f"action mirred {_MIRRED.get(how, str(how))} dev {names.get(ifindex, f'if{ifindex}')}"
    if kind != "gact" or parameters is None or len(parameters) < 12:
        return f"action {kind}"
    verdict = struct.unpack_from("=i", parameters, 8)[0]
    return f"action {_TC_ACTIONS.get(verdict, str(verdict))}"


def _text(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")
