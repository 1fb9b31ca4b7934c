"""The data types of nft: which type every expression has, which names its values have, and what they mean.

Modelled on nftables' meta.c, ct.c, proto.c, exthdr.c and datatype.c, and on `nft describe`. Expressions are those of
libnftables-json(5): one-key dictionaries.
"""

from __future__ import annotations

from typing import Any

FAMILIES: frozenset[str] = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})

#: Standard priorities of base chains (nft(8), CHAINS).
PRIORITIES: dict[str, int] = {
    "raw": -300,
    "mangle": -150,
    "dstnat": -100,
    "filter": 0,
    "security": 50,
    "srcnat": 100,
}
BRIDGE_PRIORITIES: dict[str, int] = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}

#: Names of IP protocols as nft prints them (Debian's /etc/protocols first, then nft's own aliases).
PROTOCOLS: dict[str, int] = {
    "ip": 0,
    "hopopt": 0,
    "icmp": 1,
    "igmp": 2,
    "ggp": 3,
    "ipencap": 4,
    "ipv4": 4,
    "st": 5,
    "tcp": 6,
    "egp": 8,
    "igp": 9,
    "pup": 12,
    "udp": 17,
    "hmp": 20,
    "xns-idp": 22,
    "rdp": 27,
    "iso-tp4": 29,
    "dccp": 33,
    "xtp": 36,
    "ddp": 37,
    "idpr-cmtp": 38,
    "ipv6": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "idrp": 45,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "skip": 57,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "rspf": 73,
    "vmtp": 81,
    "eigrp": 88,
    "ospf": 89,
    "ax.25": 93,
    "ipip": 94,
    "etherip": 97,
    "encap": 98,
    "pim": 103,
    "ipcomp": 108,
    "comp": 108,
    "vrrp": 112,
    "l2tp": 115,
    "isis": 124,
    "sctp": 132,
    "fc": 133,
    "mobility-header": 135,
    "udplite": 136,
    "mpls-in-ip": 137,
    "manet": 138,
    "hip": 139,
    "shim6": 140,
    "wesp": 141,
    "rohc": 142,
    "ethernet": 143,
    "mptcp": 262,
}

ETHER_TYPES: dict[str, int] = {
    "ip": 0x0800,
    "arp": 0x0806,
    "ip6": 0x86DD,
    "8021q": 0x8100,
    "vlan": 0x8100,
    "8021ad": 0x88A8,
}

_DSCP: dict[str, int] = {
    **{f"cs{n}": n << 3 for n in range(8)},
    "df": 0,
    "be": 0,
    "lephb": 1,
    **{f"af{c}{d}": (c << 3) | (d << 1) for c in range(1, 5) for d in range(1, 4)},
    "va": 0x2C,
    "ef": 0x2E,
}

#: Names of the values of a type, and the numbers behind them (as the header field or register reads in host order).
SYMBOLS: dict[str, dict[str, int]] = {
    "inet_proto": PROTOCOLS,
    "ether_type": ETHER_TYPES,
    "dscp": _DSCP,
    "ecn": {"not-ect": 0, "ect1": 1, "ect0": 2, "ce": 3},
    "nf_proto": {"ipv4": 2, "ipv6": 10},
    "boolean": {"exists": 1, "missing": 0},
    "icmp_type": {
        "echo-reply": 0,
        "destination-unreachable": 3,
        "source-quench": 4,
        "redirect": 5,
        "echo-request": 8,
        "router-advertisement": 9,
        "router-solicitation": 10,
        "time-exceeded": 11,
        "parameter-problem": 12,
        "timestamp-request": 13,
        "timestamp-reply": 14,
        "info-request": 15,
        "info-reply": 16,
        "address-mask-request": 17,
        "address-mask-reply": 18,
    },
    "icmp_code": {
        "net-unreachable": 0,
        "host-unreachable": 1,
        "prot-unreachable": 2,
        "port-unreachable": 3,
        "frag-needed": 4,
        "net-prohibited": 9,
        "host-prohibited": 10,
        "admin-prohibited": 13,
    },
    "icmpv6_type": {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "echo-reply": 129,
        "mld-listener-query": 130,
        "mld-listener-report": 131,
        "mld-listener-done": 132,
        "mld-listener-reduction": 132,
        "nd-router-solicit": 133,
        "nd-router-advert": 134,
        "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136,
        "nd-redirect": 137,
        "router-renumbering": 138,
        "ind-neighbor-solicit": 141,
        "ind-neighbor-advert": 142,
        "mld2-listener-report": 143,
    },
    "icmpv6_code": {
        "no-route": 0,
        "admin-prohibited": 1,
        "addr-unreachable": 3,
        "port-unreachable": 4,
        "policy-fail": 5,
        "reject-route": 6,
    },
    "icmpx_code": {"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3},
    "igmp_type": {
        "membership-query": 17,
        "membership-report-v1": 18,
        "membership-report-v2": 22,
        "leave-group": 23,
        "membership-report-v3": 34,
    },
    "dccp_pkttype": {
        "request": 0,
        "response": 1,
        "data": 2,
        "ack": 3,
        "dataack": 4,
        "closereq": 5,
        "close": 6,
        "reset": 7,
        "sync": 8,
        "syncack": 9,
    },
    "mh_type": {
        "binding-refresh-request": 0,
        "home-test-init": 1,
        "careof-test-init": 2,
        "home-test": 3,
        "careof-test": 4,
        "binding-update": 5,
        "binding-acknowledgement": 6,
        "binding-error": 7,
        "fast-binding-update": 8,
        "fast-binding-acknowledgement": 9,
        "fast-binding-advertisement": 10,
        "experimental-mobility-header": 11,
        "home-agent-switch-message": 12,
    },
    "arp_op": {
        "request": 1,
        "reply": 2,
        "rrequest": 3,
        "rreply": 4,
        "inrequest": 8,
        "inreply": 9,
        "nak": 10,
    },
    "tcp_flag": {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128},
    "ct_state": {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64},
    "ct_status": {
        "expected": 0x1,
        "seen-reply": 0x2,
        "assured": 0x4,
        "confirmed": 0x8,
        "snat": 0x10,
        "dnat": 0x20,
        "dying": 0x200,
    },
    "ct_dir": {"original": 0, "reply": 1},
    "ct_event": {
        "new": 1,
        "related": 2,
        "destroy": 4,
        "reply": 8,
        "assured": 16,
        "protoinfo": 32,
        "helper": 64,
        "mark": 128,
        "seqadj": 256,
        "secmark": 512,
        "label": 1024,
    },
    "fib_addrtype": {
        "unspec": 0,
        "unicast": 1,
        "local": 2,
        "broadcast": 3,
        "anycast": 4,
        "multicast": 5,
        "blackhole": 6,
        "unreachable": 7,
        "prohibit": 8,
    },
    "pkt_type": {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3},
    "iface_type": {
        "ether": 1,
        "ppp": 512,
        "ipip": 768,
        "ipip6": 769,
        "loopback": 772,
        "sit": 776,
        "ipgre": 778,
    },
    "day": {
        "Sunday": 0,
        "Monday": 1,
        "Tuesday": 2,
        "Wednesday": 3,
        "Thursday": 4,
        "Friday": 5,
        "Saturday": 6,
    },
    # /etc/iproute2/group and rt_realms, as every distribution ships them.
    "devgroup": {"default": 0},
    "realm": {"cosmos": 0},
    "classid": {"root": 0xFFFFFFFF, "none": 0},
}

#: Types whose values are sets of bits: a bare value tests whether any of them is set.
BITMASKS: frozenset[str] = frozenset({"ct_state", "ct_status", "ct_event", "ct_label", "tcp_flag", "bitmask"})

#: Types whose values nft quotes.
QUOTED: frozenset[str] = frozenset(
    {
        "ifname",
        "string",
        "ifindex",
        "iface_index",
        "devgroup",
        "time_of_day",
        "hour",
        "day",
        "realm",
        "cgroupsv2",
        "nft_time",
    }
)

#: nft's name for a type where it differs from ours, as a set's "type" shows it.
TYPE_NAMES: dict[str, str] = {"nft_time": "time", "icmpx_code": "icmpx_code"}

META_TYPES: dict[str, str] = {
    "length": "integer",
    "protocol": "ether_type",
    "priority": "classid",
    "mark": "mark",
    "iif": "iface_index",
    "oif": "iface_index",
    "iifname": "ifname",
    "oifname": "ifname",
    "iiftype": "iface_type",
    "oiftype": "iface_type",
    "skuid": "uid",
    "skgid": "gid",
    "nftrace": "integer",
    "rtclassid": "realm",
    "secmark": "string",
    "nfproto": "nf_proto",
    "l4proto": "inet_proto",
    "ibrname": "ifname",
    "obrname": "ifname",
    "ibriport": "ifname",
    "obriport": "ifname",
    "pkttype": "pkt_type",
    "cpu": "integer",
    "iifgroup": "devgroup",
    "oifgroup": "devgroup",
    "cgroup": "integer",
    "random": "integer",
    "prandom": "integer",
    "ipsec": "boolean",
    "secpath": "boolean",
    "iifkind": "ifname",
    "oifkind": "ifname",
    "ibrpvid": "integer",
    "ibrvproto": "ether_type",
    "ibrhwaddr": "ether_addr",
    "time": "nft_time",
    "day": "day",
    "hour": "hour",
    "sdif": "iface_index",
    "sdifname": "ifname",
    "broute": "integer",
}

#: Keys that nft prints, and reads, without the word "meta".
UNQUALIFIED_META: frozenset[str] = frozenset({"iif", "oif", "iifname", "oifname", "iifgroup", "oifgroup"})

#: Further keys that nft reads without the word "meta".
BARE_META: frozenset[str] = UNQUALIFIED_META | {
    "mark",
    "iiftype",
    "oiftype",
    "skuid",
    "skgid",
    "nftrace",
    "rtclassid",
    "pkttype",
    "cpu",
    "cgroup",
    "ibriport",
    "obriport",
}

CT_TYPES: dict[str, str] = {
    "state": "ct_state",
    "direction": "ct_dir",
    "status": "ct_status",
    "mark": "mark",
    "secmark": "string",
    "expiration": "time",
    "helper": "string",
    "l3proto": "nf_proto",
    "saddr": "address",
    "daddr": "address",
    "ip saddr": "ipv4_addr",
    "ip daddr": "ipv4_addr",
    "ip6 saddr": "ipv6_addr",
    "ip6 daddr": "ipv6_addr",
    "protocol": "inet_proto",
    "proto-src": "inet_service",
    "proto-dst": "inet_service",
    "label": "ct_label",
    "bytes": "integer",
    "packets": "integer",
    "avgpkt": "integer",
    "zone": "integer",
    "event": "ct_event",
    "id": "integer",
    "count": "integer",
}


def _fields(text: str) -> dict[str, str]:
    """Turn "name:type name name" into a dictionary; a name without a type is an integer."""
    pairs = (word.partition(":") for word in text.split())
    return {name.replace("_", " "): kind or "integer" for name, _colon, kind in pairs}


_PORTS = "sport:inet_service dport:inet_service "

#: Header fields by protocol, with their types. An underscore stands for a blank inside a name.
PAYLOAD_TYPES: dict[str, dict[str, str]] = {
    "ether": _fields("saddr:ether_addr daddr:ether_addr type:ether_type"),
    "vlan": _fields("id pcp dei cfi type:ether_type"),
    "arp": _fields(
        "htype ptype:ether_type hlen plen operation:arp_op saddr_ether:ether_addr daddr_ether:ether_addr "
        "saddr_ip:ipv4_addr daddr_ip:ipv4_addr"
    ),
    "ip": _fields(
        "version hdrlength dscp:dscp ecn:ecn length id frag-off ttl protocol:inet_proto checksum saddr:ipv4_addr "
        "daddr:ipv4_addr"
    ),
    "ip6": _fields(
        "version dscp:dscp ecn:ecn flowlabel length nexthdr:inet_proto hoplimit saddr:ipv6_addr daddr:ipv6_addr"
    ),
    "tcp": _fields(_PORTS + "sequence ackseq doff reserved flags:tcp_flag window checksum urgptr"),
    "udp": _fields(_PORTS + "length checksum"),
    "udplite": _fields(_PORTS + "csumcov checksum"),
    "sctp": _fields(_PORTS + "vtag checksum"),
    "dccp": _fields(_PORTS + "type:dccp_pkttype"),
    "th": _fields(_PORTS),
    "icmp": _fields(
        "type:icmp_type code:icmp_code checksum id sequence mtu gateway",
    ),
    "icmpv6": _fields(
        "type:icmpv6_type code:icmpv6_code checksum parameter-problem packet-too-big mtu id sequence max-delay "
        "taddr:ipv6_addr daddr:ipv6_addr"
    ),
    "igmp": _fields("type:igmp_type mrt checksum group"),
    "ah": _fields("nexthdr:inet_proto hdrlength reserved spi sequence"),
    "esp": _fields("spi sequence"),
    "comp": _fields("nexthdr:inet_proto flags:bitmask cpi"),
    "gre": _fields("flags:bitmask version protocol:ether_type"),
    "gretap": {},
    "vxlan": _fields("vni type:ether_type flags:bitmask"),
    "geneve": _fields("vni type:ether_type"),
}

#: Protocols inside which further headers can be matched ("vxlan ip saddr …").
TUNNELS: frozenset[str] = frozenset({"vxlan", "geneve", "gre", "gretap"})

#: IPv6 extension headers and their fields.
EXTHDR_TYPES: dict[str, dict[str, str]] = {
    "hbh": _fields("nexthdr:inet_proto hdrlength"),
    "rt": _fields("nexthdr:inet_proto hdrlength type seg-left"),
    "rt0": _fields("addr:ipv6_addr"),
    "rt2": _fields("addr:ipv6_addr"),
    "srh": _fields("flags:bitmask last-entry tag sid:ipv6_addr seg-left"),
    "frag": _fields("nexthdr:inet_proto reserved frag-off reserved2 more-fragments id"),
    "dst": _fields("nexthdr:inet_proto hdrlength"),
    "mh": _fields("nexthdr:inet_proto hdrlength type:mh_type reserved checksum"),
}

RT_KEYS: dict[str, str] = {"classid": "realm", "nexthop": "address", "mtu": "integer", "ipsec": "boolean"}

SOCKET_TYPES: dict[str, str] = {
    "transparent": "integer",
    "mark": "mark",
    "wildcard": "integer",
    "cgroupv2": "cgroupsv2",
}


def type_of(expression: Any, family: str = "inet") -> str:
    """Return the name of the data type that an expression has; "integer" where nothing tells.

    `family` is the family of the rule's table; it decides what a bare `ct saddr` is. A concatenation is "concat".
    """
    if not isinstance(expression, dict) or len(expression) != 1:
        return "integer"
    ((kind, body),) = expression.items()
    if kind in ("&", "|", "^", "<<", ">>") and isinstance(body, list) and body:
        return type_of(body[0], family)
    if kind == "concat":
        return "concat"
    if kind == "map" and isinstance(body, dict):
        return "integer"
    if not isinstance(body, dict):
        return "integer"
    key = body.get("key")
    if kind == "meta" and isinstance(key, str):
        return META_TYPES.get(key, "integer")
    if kind == "ct" and isinstance(key, str):
        found = CT_TYPES.get(key, "integer")
        if found == "address":
            return "ipv6_addr" if family == "ip6" else "ipv4_addr"
        return found
    if kind == "payload":
        return _payload_type(body)
    if kind == "exthdr":
        return _exthdr_type(body)
    if kind == "tcp option":
        return "integer" if "field" in body else "boolean"
    if kind in ("ip option", "sctp chunk", "dccp option"):
        return "integer" if "field" in body else "boolean"
    if kind == "fib":
        return {"type": "fib_addrtype", "oif": "iface_index", "oifname": "ifname"}.get(
            body.get("result", ""), "boolean"
        )
    if kind == "socket":
        return SOCKET_TYPES.get(str(key), "integer")
    if kind == "rt":
        if key == "nexthop":
            return "ipv6_addr" if body.get("family") == "ip6" else "ipv4_addr"
        return RT_KEYS.get(str(key), "integer")
    if kind == "ipsec":
        if key in ("saddr", "daddr"):
            return "ipv6_addr" if body.get("family") == "ip6" else "ipv4_addr"
        return "integer"
    if kind == "osf":
        return "string"
    return "integer"


def _payload_type(body: dict[str, Any]) -> str:
    protocol, name = body.get("protocol"), body.get("field")
    if isinstance(protocol, str) and isinstance(name, str):
        return PAYLOAD_TYPES.get(protocol, {}).get(name, "integer")
    return "raw"


def _exthdr_type(body: dict[str, Any]) -> str:
    name, field = body.get("name"), body.get("field")
    if not isinstance(field, str):
        return "boolean"
    return EXTHDR_TYPES.get(str(name), {}).get(field.partition("[")[0], "integer")


def type_names(expression: Any, family: str = "inet") -> str | list[str]:
    """Return the type of an expression as a set declares it: a name, or a list of names for a concatenation."""
    if isinstance(expression, dict) and isinstance(expression.get("concat"), list):
        return [str(type_names(part, family)) for part in expression["concat"]]
    found = type_of(expression, family)
    return {"raw": "integer", "nft_time": "time"}.get(found, found)
