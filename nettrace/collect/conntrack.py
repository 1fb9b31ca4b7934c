"""Conntrack entries that belong to the flow, from ctnetlink."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from nettrace.collect.netlink import NETLINK_NETFILTER, Channel
from nettrace.collect.proc import module_available
from nettrace.model.base import IPAddress, Missing, Present
from nettrace.model.flow import PROTO_NUMBER, Flow
from nettrace.model.snapshot import ConntrackEntry, Tuple5
from nettrace.netns import Netns

__all__ = ["belongs", "parse_conntrack", "read_conntrack"]

IPCTNL_MSG_CT_GET = 1 << 8 | 1
AF_INET, AF_INET6 = 2, 10

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
    """Turn one IPCTNL_MSG_CT_NEW message into a ConntrackEntry (ctnetlink_fill_info)."""
    from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

    msg = nfct_msg(message)
    msg.decode()
    info = msg.get_attr("CTA_PROTOINFO")
    tcp = info.get_attr("CTA_PROTOINFO_TCP") if info is not None else None
    state = tcp.get_attr("CTA_PROTOINFO_TCP_STATE") if tcp is not None else None
    status = msg.get_attr("CTA_STATUS") or 0
    helper = msg.get_attr("CTA_HELP")
    return ConntrackEntry(
        orig=_tuple(msg.get_attr("CTA_TUPLE_ORIG")),
        reply=_tuple(msg.get_attr("CTA_TUPLE_REPLY")),
        status=tuple(name for bit, name in enumerate(STATUS) if status >> bit & 1),
        state=TCP_STATES[state] if state is not None and state < len(TCP_STATES) else "",
        mark=msg.get_attr("CTA_MARK") or 0,
        zone=msg.get_attr("CTA_ZONE") or 0,
        timeout_s=msg.get_attr("CTA_TIMEOUT") or 0,
        helper=helper if isinstance(helper, str) else None,
    )


def _tuple(attrs: Any) -> Tuple5:
    ip, proto = attrs.get_attr("CTA_TUPLE_IP"), attrs.get_attr("CTA_TUPLE_PROTO")

    def address(which: str) -> IPAddress:
        return ip_address(ip.get_attr(f"CTA_IP_V4_{which}") or ip.get_attr(f"CTA_IP_V6_{which}"))

    def icmp(which: str) -> int | None:
        value = proto.get_attr(f"CTA_PROTO_ICMP_{which}")
        found: int | None = value if value is not None else proto.get_attr(f"CTA_PROTO_ICMPV6_{which}")
        return found

    return Tuple5(
        src=address("SRC"),
        dst=address("DST"),
        proto=proto.get_attr("CTA_PROTO_NUM"),
        sport=proto.get_attr("CTA_PROTO_SRC_PORT"),
        dport=proto.get_attr("CTA_PROTO_DST_PORT"),
        icmp_type=icmp("TYPE"),
        icmp_code=icmp("CODE"),
        icmp_id=icmp("ID"),
    )
