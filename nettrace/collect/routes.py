"""Routes of every table, policy rules, addresses, neighbours and forwarding entries, from rtnetlink messages."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from nettrace.collect.messages import load_messages
from nettrace.collect.netlink import Channel, attribute, attributes
from nettrace.model.base import IPAddress, IPNetwork
from nettrace.model.snapshot import Address, FdbEntry, Neighbour, NextHop, PolicyRule, Route

__all__ = [
    "parse_address",
    "parse_fdb",
    "parse_neighbour",
    "parse_nexthop_object",
    "parse_route",
    "parse_rule",
    "read_addresses",
    "read_fdb",
    "read_neighbours",
    "read_routes",
    "read_rules",
    "read_source_address",
]

RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH, RTM_GETRULE, RTM_GETNEXTHOP = 22, 26, 30, 34, 106
AF_INET, AF_BRIDGE, AF_INET6 = 2, 7, 10
FAMILIES = {AF_INET: 4, AF_INET6: 6}
RTM_F_CLONED = 0x200
RTA_DST, RTA_PREFSRC, RTA_NH_ID = 1, 7, 30
FRA_DSCP = 25
NDA_DST = 1
NTF_SELF, NTF_PROXY = 0x02, 0x08
FIB_RULE_INVERT = 0x2
ROUTE_HEADER_BYTES = RULE_HEADER_BYTES = NEIGHBOUR_HEADER_BYTES = 28
NEXTHOP_HEADER_BYTES = 24
UNSET = 0xFFFFFFFF

#: RTN_* of include/uapi/linux/rtnetlink.h.
KINDS = {
    0: "unspec",
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
    10: "nat",
    11: "xresolve",
}
SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
#: RTPROT_*, by the names of iproute2's rt_protos.
PROTOCOLS = {
    0: "unspec",
    1: "redirect",
    2: "kernel",
    3: "boot",
    4: "static",
    8: "gated",
    9: "ra",
    10: "mrt",
    11: "zebra",
    12: "bird",
    13: "dnrouted",
    14: "xorp",
    15: "ntk",
    16: "dhcp",
    17: "mrouted",
    18: "keepalived",
    42: "babel",
    186: "bgp",
    187: "isis",
    188: "ospf",
    189: "rip",
    192: "eigrp",
}
RTNH_FLAGS = {1: "dead", 2: "pervasive", 4: "onlink", 8: "offload", 16: "linkdown", 32: "unresolved", 64: "trap"}
RULE_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
NUD_STATES = {
    0x00: "NONE",
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
NTF_FLAGS = {0x02: "self", 0x04: "master", 0x10: "extern_learn", 0x20: "offload", 0x40: "sticky", 0x80: "router"}


def _network(text: str | None, length: int, family: int) -> IPNetwork:
    default = "0.0.0.0" if family == 4 else "::"
    return ip_network((text or default, length), strict=False)


def _address(text: str | None) -> IPAddress | None:
    return ip_address(text) if text else None


def read_addresses(channel: Channel) -> tuple[Address, ...]:
    """Read the addresses of both families, in the kernel's order."""
    return tuple(map(parse_address, channel.dump(RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0))))


def parse_address(message: bytes) -> Address:
    """Turn one RTM_NEWADDR message into an Address (inet_fill_ifaddr, inet6_fill_ifaddr)."""
    load_messages()
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    msg = ifaddrmsg(message)
    msg.decode()
    attrs = dict(msg["attrs"])
    outer: str = attrs.get("IFA_ADDRESS") or attrs["IFA_LOCAL"]
    own: str = attrs.get("IFA_LOCAL") or outer
    flags = attrs.get("IFA_FLAGS")
    flags = msg["flags"] if flags is None else flags
    pair = own != outer
    length: int = msg["prefixlen"]
    # The prefix of a point-to-point address belongs to its peer: the local side covers itself only.
    single = 32 if FAMILIES[msg["family"]] == 4 else 128
    return Address(
        ifindex=msg["index"],
        address=ip_interface((own, single if pair else length)),
        scope=SCOPES.get(msg["scope"], str(msg["scope"])),
        peer=ip_network((outer, length), strict=False) if pair else None,
        tentative=bool(flags & 0x40),
        dadfailed=bool(flags & 0x08),
        noprefixroute=bool(flags & 0x200),
    )


def read_routes(channel: Channel, *, defaults: bool = False) -> tuple[Route, ...]:
    """Read all tables of both families: no cached clones, nexthop objects resolved.

    `defaults` keeps to default routes: taking routes apart is what costs time.
    """
    messages = [
        message
        for family in (AF_INET, AF_INET6)
        for message in channel.dump(RTM_GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0))
        if not struct.unpack_from("=I", message, 24)[0] & RTM_F_CLONED and not (defaults and message[17])
    ]
    objects: Mapping[int, tuple[NextHop, ...]] = {}
    if any(attribute(message, RTA_NH_ID, offset=ROUTE_HEADER_BYTES) is not None for message in messages):
        objects = parse_nexthop_objects(channel.dump(RTM_GETNEXTHOP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)))
    return tuple(parse_route(message, objects) for message in messages)


def parse_route(message: bytes, objects: Mapping[int, tuple[NextHop, ...]] | None = None) -> Route:
    """Turn one RTM_NEWROUTE message into a Route (fib_dump_info, rt6_fill_node).

    `objects` are the next hops of each nexthop object by its id, used where the message itself gives none.
    """
    load_messages()
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    msg = rtmsg(message)
    msg.decode()
    attrs = dict(msg["attrs"])
    family = FAMILIES.get(msg["family"], 4)
    multipath = attrs.get("RTA_MULTIPATH")
    nh_id = attribute(message, RTA_NH_ID, offset=ROUTE_HEADER_BYTES)
    nexthop_id = struct.unpack("=I", nh_id)[0] if nh_id is not None else None
    hops: tuple[NextHop, ...]
    if multipath:
        hops = tuple(
            _nexthop(dict(hop["attrs"]), hop["oif"] or None, hop["flags"], hop["hops"] + 1) for hop in multipath
        )
    elif attrs.keys() & {"RTA_OIF", "RTA_GATEWAY", "RTA_VIA"}:
        hops = (_nexthop(attrs, attrs.get("RTA_OIF"), msg["flags"], 1),)
    else:
        hops = (objects or {}).get(nexthop_id, ()) if nexthop_id is not None else ()
    metrics = attrs.get("RTA_METRICS")
    table = attrs.get("RTA_TABLE")
    source_length: int = msg["src_len"]
    return Route(
        table=msg["table"] if table is None else table,
        dst=_network(attrs.get("RTA_DST"), msg["dst_len"], family),
        kind=KINDS.get(msg["type"], str(msg["type"])),
        src=_network(attrs.get("RTA_SRC"), source_length, family) if source_length else None,
        tos=msg["tos"],
        scope=SCOPES.get(msg["scope"], str(msg["scope"])),
        proto=PROTOCOLS.get(msg["proto"], str(msg["proto"])),
        priority=attrs.get("RTA_PRIORITY") or 0,
        prefsrc=_address(attrs.get("RTA_PREFSRC")),
        nexthops=hops,
        mtu=(metrics.get_attr("RTAX_MTU") or None) if metrics is not None else None,
        nexthop_id=nexthop_id,
    )


def _nexthop(attrs: Mapping[str, Any], ifindex: int | None, flags: int, weight: int) -> NextHop:
    via = attrs.get("RTA_VIA")
    return NextHop(
        ifindex=ifindex,
        gateway=_address(attrs.get("RTA_GATEWAY") or (via["addr"] if via else None)),
        weight=weight,
        flags=tuple(name for bit, name in RTNH_FLAGS.items() if flags & bit),
    )


def parse_nexthop_object(message: bytes) -> tuple[int, NextHop | None, tuple[tuple[int, int], ...]]:
    """Return (id, next hop, group members as (id, weight)) of one RTM_NEWNEXTHOP message (nh_fill_node)."""
    family = message[16]
    (flags,) = struct.unpack_from("=I", message, 20)
    found = dict(attributes(message, NEXTHOP_HEADER_BYTES))
    (number,) = struct.unpack("=I", found[1])
    if 2 in found:
        rows = [struct.unpack_from("=IB", found[2], start) for start in range(0, len(found[2]), 8)]
        return number, None, tuple((member, weight + 1) for member, weight in rows)
    if 4 in found:
        return number, None, ()
    gateway = found.get(6)
    hop = NextHop(
        ifindex=struct.unpack("=I", found[5])[0] if 5 in found else None,
        gateway=ip_address(gateway) if gateway and family in FAMILIES else None,
        flags=tuple(name for bit, name in RTNH_FLAGS.items() if flags & bit),
    )
    return number, hop, ()


def parse_nexthop_objects(messages: list[bytes]) -> dict[int, tuple[NextHop, ...]]:
    """Return the next hops that each nexthop object stands for, groups taken apart."""
    parsed = [parse_nexthop_object(message) for message in messages]
    single = {number: hop for number, hop, members in parsed if hop is not None}
    found: dict[int, tuple[NextHop, ...]] = {number: (hop,) for number, hop in single.items()}
    for number, _hop, members in parsed:
        if members:
            found[number] = tuple(
                NextHop(ifindex=hop.ifindex, gateway=hop.gateway, weight=weight, flags=hop.flags)
                for member, weight in members
                if (hop := single.get(member)) is not None
            )
    return found


def read_rules(channel: Channel) -> tuple[PolicyRule, ...]:
    """Read the policy rules of both families, in the order they are asked."""
    return tuple(
        parse_rule(message)
        for family in (AF_INET, AF_INET6)
        for message in channel.dump(RTM_GETRULE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0))
    )


def parse_rule(message: bytes) -> PolicyRule:
    """Turn one RTM_NEWRULE message into a PolicyRule (fib_nl_fill_rule in net/core/fib_rules.c)."""
    load_messages()
    from pyroute2.netlink.rtnl.fibmsg import fibmsg

    msg = fibmsg(message)
    msg.decode()
    attrs = dict(msg["attrs"])
    family = FAMILIES.get(msg["family"], 4)
    table = attrs.get("FRA_TABLE")
    mark, mask = attrs.get("FRA_FWMARK"), attrs.get("FRA_FWMASK")
    # DSCP of newer kernels occupies the upper six bits of the TOS byte.
    dscp = attribute(message, FRA_DSCP, offset=RULE_HEADER_BYTES)
    return PolicyRule(
        family=family,
        priority=attrs.get("FRA_PRIORITY") or 0,
        action=RULE_ACTIONS.get(msg["action"], str(msg["action"])),
        table=msg["table"] if table is None else table,
        src=_network(attrs.get("FRA_SRC"), msg["src_len"], family) if msg["src_len"] else None,
        dst=_network(attrs.get("FRA_DST"), msg["dst_len"], family) if msg["dst_len"] else None,
        iif=attrs.get("FRA_IIFNAME"),
        oif=attrs.get("FRA_OIFNAME"),
        fwmark=mark if mark is not None else (0 if mask is not None else None),
        fwmask=mask if mask is not None else UNSET,
        tos=dscp[0] << 2 if dscp else msg["tos"],
        ip_proto=attrs.get("FRA_IP_PROTO"),
        sport=_range(attrs.get("FRA_SPORT_RANGE")),
        dport=_range(attrs.get("FRA_DPORT_RANGE")),
        uid_range=_range(attrs.get("FRA_UID_RANGE")),
        invert=bool(msg["flags"] & FIB_RULE_INVERT),
        goto=attrs.get("FRA_GOTO"),
        suppress_prefixlength=_unless_unset(attrs.get("FRA_SUPPRESS_PREFIXLEN")),
        suppress_ifgroup=_unless_unset(attrs.get("FRA_SUPPRESS_IFGROUP")),
        l3mdev=bool(attrs.get("FRA_L3MDEV")),
    )


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, last = text.split(":")
    return int(first), int(last)


def _unless_unset(value: int | None) -> int | None:
    return None if value == UNSET else value


def read_neighbours(channel: Channel) -> tuple[Neighbour, ...]:
    """Read the ARP and NDP entries, then the addresses that are answered for (proxies).

    Entries of multicast groups are left out: their MAC address is computed (arp_mc_map), never asked for.
    """
    return tuple(
        parse_neighbour(message)
        for flags in (0, NTF_PROXY)
        for message in channel.dump(RTM_GETNEIGH, struct.pack("=BxxxiHBB", 0, 0, 0, flags, 0))
        if message[16] in FAMILIES and not _is_group(message)
    )


def _is_group(message: bytes) -> bool:
    address = attribute(message, NDA_DST, offset=NEIGHBOUR_HEADER_BYTES)
    return address is not None and (address[0] == 0xFF if len(address) == 16 else address[0] >> 4 == 0xE)


def parse_neighbour(message: bytes) -> Neighbour:
    """Turn one RTM_NEWNEIGH message of AF_INET or AF_INET6 into a Neighbour (neigh_fill_info, pneigh_fill_info)."""
    load_messages()
    from pyroute2.netlink.rtnl.ndmsg import ndmsg

    msg = ndmsg(message)
    msg.decode()
    attrs = dict(msg["attrs"])
    return Neighbour(
        ifindex=msg["ifindex"],
        address=ip_address(attrs["NDA_DST"]),
        mac=attrs.get("NDA_LLADDR"),
        state=NUD_STATES.get(msg["state"], f"{msg['state']:#x}"),
        proxy=bool(msg["flags"] & NTF_PROXY),
    )


def read_fdb(channel: Channel, vxlans: frozenset[int] = frozenset()) -> tuple[FdbEntry, ...]:
    """Read the forwarding entries of bridges, and those of the vxlan devices given by ifindex.

    The filter lists of other devices, which the same dump holds ("self"), forward nothing and are left out.
    """
    return tuple(
        parse_fdb(message)
        for message in channel.dump(RTM_GETNEIGH, struct.pack("=BxxxiHBB", AF_BRIDGE, 0, 0, 0, 0))
        if not message[26] & NTF_SELF or struct.unpack_from("=i", message, 20)[0] in vxlans
    )


def parse_fdb(message: bytes) -> FdbEntry:
    """Turn one RTM_NEWNEIGH message of AF_BRIDGE into an FdbEntry (fdb_fill_info, vxlan_fdb_info)."""
    load_messages()
    from pyroute2.netlink.rtnl.ndmsg import ndmsg

    msg = ndmsg(message)
    msg.decode()
    attrs = dict(msg["attrs"])
    flags: int = msg["flags"]
    state: int = msg["state"]
    master = attrs.get("NDA_MASTER")
    own = bool(flags & NTF_SELF)
    return FdbEntry(
        ifindex=msg["ifindex"],
        mac=attrs.get("NDA_LLADDR") or "00:00:00:00:00:00",
        master=master,
        vlan=attrs.get("NDA_VLAN"),
        dst=_address(attrs.get("NDA_DST")),
        vni=attrs.get("NDA_VNI") if attrs.get("NDA_VNI") is not None else attrs.get("NDA_SRC_VNI"),
        # As iproute2 reads them: a vxlan's permanent entries carry NUD_NOARP as well.
        state="permanent" if state & 0x80 else "static" if state & 0x40 else "stale" if state & 0x04 else "",
        flags=tuple(name for bit, name in NTF_FLAGS.items() if flags & bit),
        # A bridge shows its ports' own addresses as permanent (fdb_to_nud); a vxlan's permanent entries are remote.
        local=bool(state & 0x80) and not own,
    )


def read_source_address(channel: Channel, dst: IPAddress) -> IPAddress | None:
    """Ask the kernel which source address it would give a packet to `dst`; None when it has no way to send one.

    This is a look into the routing tables (`ip route get`): no packet is made.
    """
    family, length = (AF_INET, 32) if dst.version == 4 else (AF_INET6, 128)
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, 0, 0, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(dst.packed), RTA_DST) + dst.packed
    try:
        answer = channel.ask(RTM_GETROUTE, body)
    except OSError:
        # ENETUNREACH, EACCES and the like: the errors that routes themselves stand for.
        return None
    source = attribute(answer, RTA_PREFSRC, offset=ROUTE_HEADER_BYTES)
    return ip_address(source) if source else None
