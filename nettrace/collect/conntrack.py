"""Conntrack entries that belong to the flow, from ctnetlink."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

from nettrace.collect.netlink import NETLINK_NETFILTER, Channel, attribute
from nettrace.collect.proc import module_available
from nettrace.model.base import IPAddress, Missing, Present
from nettrace.model.flow import PROTO_NUMBER, Flow
from nettrace.model.snapshot import ConntrackEntry, Tuple5
from nettrace.netns import Netns

__all__ = ["belongs", "parse_conntrack", "read_conntrack"]

IPCTNL_MSG_CT_GET = 1 << 8 | 1
AF_INET, AF_INET6 = 2, 10
#: struct nlmsghdr and struct nfgenmsg.
HEADER_BYTES = 20

# enum ctattr_type and those below it, of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_HELP = 1, 2, 3, 4, 5
CTA_TIMEOUT, CTA_MARK, CTA_ZONE = 7, 8, 18
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE = 4, 5, 6
CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE = 7, 8, 9
CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE = 1, 1
CTA_HELP_NAME = 1

#: enum ip_conntrack_status of include/uapi/linux/netfilter/nf_conntrack_common.h, from bit 0.
STATUS = (
    "expected",
    "seen_reply",
    "assured",
    "confirmed",
    "src_nat",
    "dst_nat",
    "seq_adjust",
    "src_nat_done",
    "dst_nat_done",
    "dying",
    "fixed_timeout",
    "template",
    "nat_clash",
    "helper",
    "offload",
    "hw_offload",
)
TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)


def read_conntrack(ns: Netns, flow: Flow) -> Present[ConntrackEntry] | Missing:
    """Read the entries of a namespace that carry the flow's addresses, protocol and destination port.

    The table may hold a million entries: each is looked through as bytes, and decoded only when it is one of ours.
    Must be called from inside the namespace. Raises OSError, PrivilegeError.
    """
    if not Path("/proc/sys/net/netfilter/nf_conntrack_count").exists():
        return Present[ConntrackEntry]()
    if not module_available("nf_conntrack_netlink"):
        return Missing(reason="nf_conntrack_netlink is not loaded, and nettrace loads no modules")
    if flow.dst.address is None:
        return Missing(reason="the destination has no address to look for")
    family = AF_INET if flow.family == 4 else AF_INET6
    needles = [end.address.packed for end in (flow.src, flow.dst) if end.address is not None]
    with Channel(ns, NETLINK_NETFILTER) as channel:
        messages = channel.dump(IPCTNL_MSG_CT_GET, struct.pack(">BBH", family, 0, 0))
    entries = [parse_conntrack(each) for each in messages if all(needle in each for needle in needles)]
    return Present(rows=tuple(entry for entry in entries if belongs(entry, flow)))


def belongs(entry: ConntrackEntry, flow: Flow) -> bool:
    """Tell whether an entry is of the flow: same protocol and addresses in either direction, same destination port."""
    if entry.orig.proto != PROTO_NUMBER[flow.proto, flow.family]:
        return False
    for way in (entry.orig, entry.reply):
        ends = {way.src: way.sport, way.dst: way.dport}
        if flow.src.address is not None and flow.src.address not in ends:
            continue
        if flow.dst.address in ends and flow.dport in (None, ends[flow.dst.address]):
            return True
    # An address may stand in one tuple and the other in its answer, when both ends are translated.
    addresses = {entry.orig.src, entry.orig.dst, entry.reply.src, entry.reply.dst}
    ports = {entry.orig.sport, entry.orig.dport, entry.reply.sport, entry.reply.dport}
    known = {end.address for end in (flow.src, flow.dst) if end.address is not None}
    return known <= addresses and (flow.dport is None or flow.dport in ports)


def parse_conntrack(message: bytes) -> ConntrackEntry:
    """Turn one IPCTNL_MSG_CT_NEW message into a ConntrackEntry (ctnetlink_fill_info; all numbers are big-endian).

    Read attribute by attribute, since pyroute2 has this message only together with its sockets, whose import takes
    longer than reading the table.
    """
    body = message[HEADER_BYTES:]
    status = _number(body, CTA_STATUS) or 0
    state = _number(body, CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE)
    helper = attribute(body, CTA_HELP, CTA_HELP_NAME)
    return ConntrackEntry(
        orig=_tuple(body, CTA_TUPLE_ORIG),
        reply=_tuple(body, CTA_TUPLE_REPLY),
        status=tuple(name for bit, name in enumerate(STATUS) if status >> bit & 1),
        state=TCP_STATES[state] if state is not None and state < len(TCP_STATES) else "",
        mark=_number(body, CTA_MARK) or 0,
        zone=_number(body, CTA_ZONE) or 0,
        timeout_s=_number(body, CTA_TIMEOUT) or 0,
        helper=helper.rstrip(b"\0").decode(errors="replace") if helper is not None else None,
    )


def _number(body: bytes, *path: int) -> int | None:
    payload = attribute(body, *path)
    return int.from_bytes(payload, "big") if payload is not None else None


def _tuple(body: bytes, which: int) -> Tuple5:
    def address(v4: int, v6: int) -> IPAddress:
        packed = attribute(body, which, CTA_TUPLE_IP, v4) or attribute(body, which, CTA_TUPLE_IP, v6)
        if packed is None:
            raise ValueError("a conntrack entry without addresses")
        return ip_address(packed)

    def part(*kinds: int) -> int | None:
        values = (_number(body, which, CTA_TUPLE_PROTO, kind) for kind in kinds)
        return next((value for value in values if value is not None), None)

    return Tuple5(
        src=address(CTA_IP_V4_SRC, CTA_IP_V6_SRC),
        dst=address(CTA_IP_V4_DST, CTA_IP_V6_DST),
        proto=part(CTA_PROTO_NUM) or 0,
        sport=part(CTA_PROTO_SRC_PORT),
        dport=part(CTA_PROTO_DST_PORT),
        icmp_type=part(CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMPV6_TYPE),
        icmp_code=part(CTA_PROTO_ICMP_CODE, CTA_PROTO_ICMPV6_CODE),
        icmp_id=part(CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID),
    )
