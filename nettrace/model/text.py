"""Rows of the kernel's tables as text, in the words of iproute2: evidence that a reader can compare with `ip`.

`names` maps an ifindex of the row's own namespace to the device's name; an unknown one is written "if7", as iproute2
does. What iproute2 prints by default is left out here as well: the main table, the universe scope, weight 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from nettrace.model.base import IPNetwork
from nettrace.model.snapshot import (
    Address,
    ConntrackEntry,
    FdbEntry,
    Link,
    Neighbour,
    NextHop,
    PolicyRule,
    Route,
    Tuple5,
)

__all__ = [
    "address_text",
    "conntrack_text",
    "fdb_text",
    "link_text",
    "neighbour_text",
    "route_key",
    "route_text",
    "rule_text",
]

_TABLES = {253: "default", 254: "main", 255: "local"}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
_PORT_STATES = {0: "disabled", 1: "listening", 2: "learning", 3: "forwarding", 4: "blocking"}


def _device(ifindex: int | None, names: Mapping[int, str]) -> str:
    return names.get(ifindex or 0, f"if{ifindex}")


def _prefix(network: IPNetwork) -> str:
    if network.prefixlen == 0:
        return "default"
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _nexthop(hop: NextHop, names: Mapping[int, str], family: int) -> list[str]:
    words = []
    if hop.gateway is not None:
        other = hop.gateway.version != family
        words += ["via", *(["inet6" if hop.gateway.version == 6 else "inet"] if other else []), str(hop.gateway)]
    if hop.ifindex is not None:
        words += ["dev", _device(hop.ifindex, names)]
    return words


def route_text(route: Route, names: Mapping[int, str]) -> str:
    """Return a route as `ip route show` prints it: "default via 172.17.0.1 dev eth0 proto static"."""
    words = _route_head(route)
    single = len(route.nexthops) == 1
    if single:
        words += _nexthop(route.nexthops[0], names, route.dst.version)
    if route.table != 254:
        words += ["table", _TABLES.get(route.table, str(route.table))]
    if route.proto and route.proto != "boot":
        words += ["proto", route.proto]
    if route.scope != "global":
        words += ["scope", route.scope]
    if route.prefsrc is not None:
        words += ["src", str(route.prefsrc)]
    if route.priority:
        words += ["metric", str(route.priority)]
    if single:
        words += route.nexthops[0].flags
    if route.mtu is not None:
        words += ["mtu", str(route.mtu)]
    if not single:
        for hop in route.nexthops:
            words += ["nexthop", *_nexthop(hop, names, route.dst.version), "weight", str(hop.weight), *hop.flags]
    return " ".join(words)


def route_key(route: Route, names: Mapping[int, str]) -> str:
    """Return what tells a route from all others, in the words that `ip route del` takes (ip-route(8)).

    That is less than `ip route show` prints: flags are no words of the command, and next hops none beside the object
    that holds them.
    """
    words = _route_head(replace(route, kind="unicast") if route.nexthop_id is not None else route)
    if route.nexthop_id is None and len(route.nexthops) == 1:
        words += _nexthop(route.nexthops[0], names, route.dst.version)
    if route.table != 254:
        words += ["table", _TABLES.get(route.table, str(route.table))]
    if route.priority:
        words += ["metric", str(route.priority)]
    return " ".join(words)


def _route_head(route: Route) -> list[str]:
    words = [] if route.kind == "unicast" else [route.kind]
    words.append(_prefix(route.dst))
    if route.src is not None:
        words += ["from", _prefix(route.src)]
    if route.tos:
        words += ["tos", f"{route.tos:#04x}"]
    if route.nexthop_id is not None:
        words += ["nhid", str(route.nexthop_id)]
    return words


def rule_text(rule: PolicyRule, names: Mapping[int, str] | None = None) -> str:
    """Return a policy rule as `ip rule show` prints it: "32766: from all lookup main"."""
    words = [f"{rule.priority}:"]
    if rule.invert:
        words.append("not")
    words += ["from", str(rule.src) if rule.src is not None else "all"]
    if rule.dst is not None:
        words += ["to", str(rule.dst)]
    if rule.tos:
        words += ["tos", f"{rule.tos:#04x}"]
    if rule.fwmark is not None:
        mask = "" if rule.fwmask == 0xFFFFFFFF else f"/{rule.fwmask:#x}"
        words += ["fwmark", f"{rule.fwmark:#x}{mask}"]
    if rule.iif is not None:
        words += ["iif", rule.iif]
    if rule.oif is not None:
        words += ["oif", rule.oif]
    if rule.l3mdev:
        words += ["lookup", "[l3mdev-table]"]
    if rule.uid_range is not None:
        words += ["uidrange", f"{rule.uid_range[0]}-{rule.uid_range[1]}"]
    if rule.ip_proto is not None:
        words += ["ipproto", _PROTOCOLS.get(rule.ip_proto, str(rule.ip_proto))]
    for key, ports in (("sport", rule.sport), ("dport", rule.dport)):
        if ports is not None:
            words += [key, str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"]
    if rule.action == "lookup" and not rule.l3mdev:
        words += ["lookup", _TABLES.get(rule.table, str(rule.table))]
        if rule.suppress_prefixlength is not None:
            words += ["suppress_prefixlength", str(rule.suppress_prefixlength)]
        if rule.suppress_ifgroup is not None:
            words += ["suppress_ifgroup", str(rule.suppress_ifgroup)]
    elif rule.action == "goto":
        words += ["goto", str(rule.goto)]
    elif rule.action != "lookup":
        words.append(rule.action)
    return " ".join(words)


def address_text(address: Address, names: Mapping[int, str]) -> str:
    """Return an address in the manner of `ip addr show`: "inet 172.17.0.2/16 scope global dev eth0"."""
    held = address.address
    words = ["inet" if held.version == 4 else "inet6"]
    words += [str(held)] if address.peer is None else [str(held.ip), "peer", str(address.peer)]
    words += ["scope", address.scope]
    for name in ("tentative", "dadfailed", "noprefixroute"):
        if getattr(address, name):
            words.append(name)
    return " ".join([*words, "dev", _device(address.ifindex, names)])


def link_text(link: Link, names: Mapping[int, str] | None = None) -> str:
    """Return a device as `ip -d link show` begins it: "3: eth0@if4: <UP,LOWER_UP> mtu 1500 … state UP".

    The flags are those that the model holds; BROADCAST and MULTICAST, which decide nothing here, are not among them.
    """
    names = names or {}
    name = link.name
    if link.peer_ifindex:
        near = link.peer_netns is None and link.peer_nsid is None
        name += f"@{_device(link.peer_ifindex, names) if near else f'if{link.peer_ifindex}'}"
    shown = (
        ("NO-CARRIER", link.up and not link.lower_up),
        ("LOOPBACK", link.loopback),
        ("POINTOPOINT", link.pointopoint),
        ("NOARP", link.noarp),
        ("PROMISC", link.promisc),
        ("UP", link.up),
        ("LOWER_UP", link.lower_up),
    )
    words = [f"{link.ifindex}: {name}: <{','.join(flag for flag, on in shown if on)}>", f"mtu {link.mtu}"]
    if link.xdp is not None:
        words.append(f"xdp {link.xdp}")
    if link.qdisc:
        words.append(f"qdisc {link.qdisc}")
    if link.master is not None:
        words.append(f"master {_device(link.master, names)}")
    words.append(f"state {link.operstate}")
    if link.mac is not None:
        words.append(f"link/{'loopback' if link.loopback else 'ether'} {link.mac}")
    if link.vxlan is not None:
        words.append(f"vxlan id {link.vxlan.vni} dstport {link.vxlan.port}")
    for key, mode in (("macvlan", link.macvlan_mode), ("ipvlan", link.ipvlan_mode)):
        if mode is not None:
            words.append(f"{key} mode {mode}")
    if link.vlan_id is not None:
        words.append(f"vlan id {link.vlan_id}")
    if link.port is not None:
        words.append(f"bridge_slave state {_PORT_STATES.get(link.port.state, str(link.port.state))}")
        words += [key for key in ("hairpin", "isolated") if getattr(link.port, key)]
    return " ".join(words)


def neighbour_text(neighbour: Neighbour, names: Mapping[int, str]) -> str:
    """Return a neighbour as `ip neigh show` prints it: "172.17.0.2 dev docker0 lladdr 02:42:… REACHABLE"."""
    words = [str(neighbour.address), "dev", _device(neighbour.ifindex, names)]
    if neighbour.proxy:
        return " ".join([*words, "proxy"])
    if neighbour.mac is not None:
        words += ["lladdr", neighbour.mac]
    return " ".join([*words, neighbour.state])


def fdb_text(entry: FdbEntry, names: Mapping[int, str]) -> str:
    """Return a forwarding entry as `bridge fdb show` prints it: "02:42:… dev veth1 master docker0"."""
    words = [entry.mac, "dev", _device(entry.ifindex, names)]
    if entry.dst is not None:
        words += ["dst", str(entry.dst)]
    if entry.vlan is not None:
        words += ["vlan", str(entry.vlan)]
    if entry.vni is not None:
        words += ["vni", str(entry.vni)]
    if entry.master is not None:
        words += ["master", _device(entry.master, names)]
    words += [flag for flag in entry.flags if flag != "master"]
    if entry.state:
        words.append(entry.state)
    return " ".join(words)


def conntrack_text(entry: ConntrackEntry) -> str:
    """Return a conntrack entry in the manner of conntrack(8)."""
    proto = _PROTOCOLS.get(entry.orig.proto, str(entry.orig.proto))
    words = [proto, *([entry.state] if entry.state else []), _tuple_text(entry.orig)]
    if "seen_reply" not in entry.status:
        words.append("[UNREPLIED]")
    words.append(_tuple_text(entry.reply))
    words += ["[ASSURED]"] if "assured" in entry.status else []
    words += [f"mark={entry.mark}"] if entry.mark else []
    words += [f"zone={entry.zone}"] if entry.zone else []
    return " ".join(words)


def _tuple_text(way: Tuple5) -> str:
    ends = f"src={way.src} dst={way.dst}"
    if way.icmp_id is not None:
        return f"{ends} type={way.icmp_type} code={way.icmp_code} id={way.icmp_id}"
    return f"{ends} sport={way.sport} dport={way.dport}"
