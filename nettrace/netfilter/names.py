"""Names that the netfilter tools print in place of numbers: protocols, ports, ICMP types, DSCP classes, log levels.

Sources: /etc/protocols and /etc/services of Debian, libipt_icmp.c, libip6t_icmp6.c, dscp_helper.c of iptables.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DSCP_CLASSES", "ICMP4_TYPES", "ICMP6_TYPES", "PROTOCOLS", "SERVICES", "TOS_NAMES"]

#: IP protocol names to numbers. "all" is 0: every protocol.
PROTOCOLS: Final[dict[str, int]] = {
    "all": 0, "ip": 0, "hopopt": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "ipip": 4, "st": 5, "tcp": 6,
    "egp": 8, "igp": 9, "pup": 12, "udp": 17, "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33, "xtp": 36,
    "ddp": 37, "idpr-cmtp": 38, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "rsvp": 46, "gre": 47,
    "esp": 50, "ipv6-crypt": 50, "ah": 51, "ipv6-auth": 51, "skip": 57, "ipv6-icmp": 58, "icmpv6": 58, "icmp6": 58,
    "ipv6-nonxt": 59, "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "eigrp": 88, "ospf": 89, "ax.25": 93, "etherip": 97,
    "encap": 98, "pim": 103, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "isis": 124, "sctp": 132, "fc": 133,
    "mobility-header": 135, "ipv6-mh": 135, "mh": 135, "udplite": 136, "mpls-in-ip": 137, "manet": 138, "hip": 139,
    "shim6": 140, "wesp": 141, "rohc": 142, "ethernet": 143, "mptcp": 262,
}  # fmt: skip

#: Service names that rules written by hand carry; iptables-save prints numbers, iptables -S and ebtables may not.
SERVICES: Final[dict[str, int]] = {
    "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "time": 37, "whois": 43, "domain": 53, "bootps": 67,
    "bootpc": 68, "tftp": 69, "http": 80, "www": 80, "kerberos": 88, "pop3": 110, "sunrpc": 111, "ntp": 123,
    "netbios-ns": 137, "netbios-dgm": 138, "netbios-ssn": 139, "imap2": 143, "imap": 143, "snmp": 161,
    "snmp-trap": 162, "bgp": 179, "ldap": 389, "https": 443, "microsoft-ds": 445, "isakmp": 500, "syslog": 514,
    "submission": 587, "ldaps": 636, "rsync": 873, "imaps": 993, "pop3s": 995, "openvpn": 1194, "nfs": 2049,
    "mysql": 3306, "ms-wbt-server": 3389, "ipsec-nat-t": 4500, "postgresql": 5432, "amqp": 5672, "mdns": 5353,
    "redis": 6379, "http-alt": 8080,
}  # fmt: skip

#: ICMP type names of iptables: type, and the codes it allows (None: every code).
ICMP4_TYPES: Final[dict[str, tuple[int, tuple[int, int] | None]]] = {
    "any": (255, None),
    "echo-reply": (0, None),
    "pong": (0, None),
    "destination-unreachable": (3, None),
    "network-unreachable": (3, (0, 0)),
    "host-unreachable": (3, (1, 1)),
    "protocol-unreachable": (3, (2, 2)),
    "port-unreachable": (3, (3, 3)),
    "fragmentation-needed": (3, (4, 4)),
    "source-route-failed": (3, (5, 5)),
    "network-unknown": (3, (6, 6)),
    "host-unknown": (3, (7, 7)),
    "network-prohibited": (3, (9, 9)),
    "host-prohibited": (3, (10, 10)),
    "TOS-network-unreachable": (3, (11, 11)),
    "TOS-host-unreachable": (3, (12, 12)),
    "communication-prohibited": (3, (13, 13)),
    "host-precedence-violation": (3, (14, 14)),
    "precedence-cutoff": (3, (15, 15)),
    "source-quench": (4, None),
    "redirect": (5, None),
    "network-redirect": (5, (0, 0)),
    "host-redirect": (5, (1, 1)),
    "TOS-network-redirect": (5, (2, 2)),
    "TOS-host-redirect": (5, (3, 3)),
    "echo-request": (8, None),
    "ping": (8, None),
    "router-advertisement": (9, None),
    "router-solicitation": (10, None),
    "time-exceeded": (11, None),
    "ttl-exceeded": (11, None),
    "ttl-zero-during-transit": (11, (0, 0)),
    "ttl-zero-during-reassembly": (11, (1, 1)),
    "parameter-problem": (12, None),
    "ip-header-bad": (12, (0, 0)),
    "required-option-missing": (12, (1, 1)),
    "timestamp-request": (13, None),
    "timestamp-reply": (14, None),
    "address-mask-request": (17, None),
    "address-mask-reply": (18, None),
}

#: ICMPv6 type names of ip6tables: type, and the codes it allows (None: every code).
ICMP6_TYPES: Final[dict[str, tuple[int, tuple[int, int] | None]]] = {
    "any": (255, None),
    "destination-unreachable": (1, None),
    "no-route": (1, (0, 0)),
    "communication-prohibited": (1, (1, 1)),
    "beyond-scope": (1, (2, 2)),
    "address-unreachable": (1, (3, 3)),
    "port-unreachable": (1, (4, 4)),
    "failed-policy": (1, (5, 5)),
    "reject-route": (1, (6, 6)),
    "packet-too-big": (2, None),
    "time-exceeded": (3, None),
    "ttl-exceeded": (3, None),
    "ttl-zero-during-transit": (3, (0, 0)),
    "ttl-zero-during-reassembly": (3, (1, 1)),
    "parameter-problem": (4, None),
    "bad-header": (4, (0, 0)),
    "unknown-header-type": (4, (1, 1)),
    "unknown-option": (4, (2, 2)),
    "echo-request": (128, None),
    "ping": (128, None),
    "echo-reply": (129, None),
    "pong": (129, None),
    "mld-listener-query": (130, None),
    "mld-listener-report": (131, None),
    "mld-listener-done": (132, None),
    "mld-listener-reduction": (132, None),
    "router-solicitation": (133, None),
    "router-advertisement": (134, None),
    "neighbour-solicitation": (135, None),
    "neighbor-solicitation": (135, None),
    "neighbour-advertisement": (136, None),
    "neighbor-advertisement": (136, None),
    "redirect": (137, None),
}

#: DiffServ class names to DSCP values.
DSCP_CLASSES: Final[dict[str, int]] = {
    "CS0": 0, "CS1": 8, "CS2": 16, "CS3": 24, "CS4": 32, "CS5": 40, "CS6": 48, "CS7": 56, "BE": 0,
    "AF11": 10, "AF12": 12, "AF13": 14, "AF21": 18, "AF22": 20, "AF23": 22, "AF31": 26, "AF32": 28, "AF33": 30,
    "AF41": 34, "AF42": 36, "AF43": 38, "EF": 46,
}  # fmt: skip

#: TOS names of iptables to values.
TOS_NAMES: Final[dict[str, int]] = {
    "Minimize-Delay": 0x10,
    "Maximize-Throughput": 0x08,
    "Maximize-Reliability": 0x04,
    "Minimize-Cost": 0x02,
    "Normal-Service": 0x00,
}
