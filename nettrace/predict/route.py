"""Route lookup as the kernel does it: policy rules in order, longest prefix, lowest metric, then the next hop.

Models fib_rules_lookup, fib_table_lookup, ip_route_output_key_hash and ip_route_input_slow (net/ipv4), and
fib6_rule_lookup, ip6_route_output (net/ipv6); source addresses as inet_select_addr and RFC 6724 choose them.
"""

from __future__ import annotations

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import Packet
from nettrace.model.snapshot import NextHop, PolicyRule, Route
from nettrace.predict.world import LOCAL_TABLE, MAIN_TABLE, View

SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
ERRORS = ("blackhole", "unreachable", "prohibit")


class Lookup(Model):
    """Answer of a route lookup. `route` is None when nothing matched; `hop` the next hop that was chosen.

    `rule` is the policy rule that led there. `choices` counts the live next hops of a multipath route.
    """

    route: Route | None = None
    hop: NextHop | None = None
    rule: PolicyRule | None = None
    choices: int = 1

    @property
    def ifindex(self) -> int | None:
        """The output device, None without one."""
        return self.hop.ifindex if self.hop is not None else None

    @property
    def gateway(self) -> IPAddress | None:
        """The router to hand the packet to, None when the destination is on the link."""
        return self.hop.gateway if self.hop is not None else None


def lookup(
    view: View,
    packet: Packet,
    *,
    iif: str | None = None,
    oif: int | None = None,
    src: IPAddress | None = None,
) -> Lookup:
    """Look up the route of a packet; `iif` for input lookups (None: local output), `src` None before it is chosen."""
    by_priority = view.rules[packet.family]
    index = 0
    skipped_to: int | None = None
    while index < len(by_priority):
        rule = by_priority[index]
        index += 1
        if skipped_to is not None and rule.priority < skipped_to:
            continue
        skipped_to = None
        if not rule_matches(rule, packet, iif=iif, oif=view.links[oif].name if oif in view.links else None, src=src):
            continue
        if rule.action == "goto":
            skipped_to = rule.goto
            continue
        if rule.action == "nop":
            continue
        if rule.action in ERRORS:
            return Lookup(rule=rule, route=Route(table=0, dst=_everything(packet.family), kind=rule.action))
        found = _table_lookup(view, rule.table, packet, oif=oif, src=src)
        if found is None:
            continue
        route, hop, choices = found
        if route.kind == "throw":
            continue
        if (
            rule.suppress_prefixlength is not None
            and route.kind == "unicast"
            and route.dst.prefixlen <= rule.suppress_prefixlength
        ):
            continue
        return Lookup(route=route, hop=hop, rule=rule, choices=choices)
    return Lookup()


def _everything(family: int):  # type: ignore[no-untyped-def]
    from ipaddress import IPv4Network, IPv6Network

    return IPv4Network("0.0.0.0/0") if family == 4 else IPv6Network("::/0")


def rule_matches(rule: PolicyRule, packet: Packet, *, iif: str | None, oif: str | None, src: IPAddress | None) -> bool:
    """Tell whether a policy rule applies (fib_rule_match, fib4_rule_match)."""
    matched = True
    if rule.iif is not None:
        # Locally made packets are looked up with the loopback as their input device.
        matched = rule.iif == (iif if iif is not None else "lo")
    if matched and rule.oif is not None:
        matched = rule.oif == oif
    if matched and rule.fwmark is not None:
        matched = (packet.mark & rule.fwmask) == (rule.fwmark & rule.fwmask)
    if matched and rule.src is not None and rule.src.prefixlen:
        matched = src is not None and src in rule.src
    if matched and rule.dst is not None:
        matched = packet.dst in rule.dst
    if matched and rule.tos:
        matched = packet.tos == rule.tos
    if matched and rule.ip_proto is not None:
        matched = packet.proto == rule.ip_proto
    if matched and rule.sport is not None:
        matched = packet.sport is not None and rule.sport[0] <= packet.sport <= rule.sport[1]
    if matched and rule.dport is not None:
        matched = packet.dport is not None and rule.dport[0] <= packet.dport <= rule.dport[1]
    if matched and rule.uid_range is not None:
        matched = iif is None and rule.uid_range[0] <= (packet.uid or 0) <= rule.uid_range[1]
    return matched != rule.invert


def _table_lookup(
    view: View, table: int, packet: Packet, *, oif: int | None, src: IPAddress | None
) -> tuple[Route, NextHop | None, int] | None:
    for route in view.tables.get((packet.family, table), ()):
        if packet.dst not in route.dst or (route.tos and route.tos != packet.tos):
            continue
        if route.src is not None and route.src.prefixlen and (src is None or src not in route.src):
            continue
        if not route.nexthops:
            return route, None, 0
        alive = [hop for hop in route.nexthops if usable(view, hop) and (oif is None or hop.ifindex == oif)]
        if alive:
            return route, alive[0], len(alive)
    return None


def usable(view: View, hop: NextHop) -> bool:
    """Tell whether a next hop is considered: not dead, and not without carrier where that is ignored by sysctl."""
    if "dead" in hop.flags:
        return False
    if "linkdown" not in hop.flags or hop.ifindex not in view.links:
        return True
    name = view.links[hop.ifindex].name
    return not any(view.conf_max(family, name, "ignore_routes_with_linkdown", 0) for family in (4, 6))


def choose_source(view: View, found: Lookup, dst: IPAddress) -> IPAddress | None:
    """Choose the source address of a packet that leaves by a route (fib_select_default, inet_select_addr; RFC 6724)."""
    route = found.route
    if route is None:
        return None
    if route.prefsrc is not None:
        return route.prefsrc
    if route.kind == "local":
        return dst
    near = found.gateway or dst
    if near.version != dst.version:
        near = dst
    if found.ifindex is None:
        return None
    return (source_v6 if dst.version == 6 else source_v4)(view, found.ifindex, near)


def source_v4(view: View, ifindex: int, near: IPAddress) -> IPAddress | None:
    """Return the address of a device that the kernel prefers towards `near`, else one of any other device."""
    own = [each for each in view.addresses.get(ifindex, ()) if each.address.version == 4 and each.scope != "host"]
    for each in own:
        if near in each.address.network:
            return each.address.ip
    if own:
        return own[0].address.ip
    for other, held in view.addresses.items():
        for each in held:
            if other != ifindex and each.address.version == 4 and each.scope == "global":
                return each.address.ip
    return None


def source_v6(view: View, ifindex: int, near: IPAddress) -> IPAddress | None:
    """Return the preferred IPv6 source: same scope, on the output device, longest common prefix."""
    best: tuple[tuple[bool, bool, int], IPAddress] | None = None
    for holder, held in view.addresses.items():
        for each in held:
            address = each.address.ip
            if address.version != 6 or each.tentative or address.is_loopback:
                continue
            if address.is_link_local and holder != ifindex:
                continue
            common = 128 - (int(address) ^ int(near)).bit_length()
            key = (address.is_link_local == near.is_link_local, holder == ifindex, common)
            if best is None or key > best[0]:
                best = (key, address)
    return best[1] if best is not None else None


def is_local(view: View, address: IPAddress) -> bool:
    """Tell whether the namespace takes packets to the address as its own (a local route covers it)."""
    return address_type(view, address) == "LOCAL"


_TYPES = {
    "local": "LOCAL",
    "broadcast": "BROADCAST",
    "multicast": "MULTICAST",
    "anycast": "ANYCAST",
    "blackhole": "BLACKHOLE",
    "unreachable": "UNREACHABLE",
    "prohibit": "PROHIBIT",
    "throw": "THROW",
    "nat": "NAT",
}


def address_type(view: View, address: IPAddress, ifindex: int | None = None) -> str:
    """Return the type of an address as xt_addrtype sees it (inet_addr_type: the local table; then the main one)."""
    if address.is_unspecified:
        return "UNSPEC" if address.version == 6 else "BROADCAST"
    if address.is_multicast:
        return "MULTICAST"
    if address.version == 4 and int(address) == 0xFFFFFFFF:
        return "BROADCAST"
    tables = (LOCAL_TABLE,) if address.version == 4 else (LOCAL_TABLE, MAIN_TABLE)
    for table in tables:
        for route in view.tables.get((address.version, table), ()):
            if address in route.dst:
                if ifindex is not None and all(hop.ifindex != ifindex for hop in route.nexthops):
                    continue
                return _TYPES.get(route.kind, "UNICAST")
    return "UNICAST"
