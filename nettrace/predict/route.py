"""Route lookup as the kernel does it: policy rules in order, longest prefix, lowest metric, then the next hop.

Models fib_rules_lookup, fib_table_lookup, ip_route_output_key_hash and ip_route_input_slow (net/ipv4), and
fib6_rule_lookup, ip6_route_output (net/ipv6); source addresses as inet_select_addr and RFC 6724 choose them.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network

from msgspec.structs import replace

from nettrace.model.base import IPAddress, IPNetwork, Model
from nettrace.model.flow import Packet
from nettrace.model.snapshot import Address, NextHop, PolicyRule, Route
from nettrace.predict.world import DEFAULT_RULES, LOCAL_TABLE, MAIN_TABLE, View

SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
ERRORS = ("blackhole", "unreachable", "prohibit")


class Lookup(Model):
    """Answer of a route lookup. `route` is None when nothing matched; `hop` the next hop that was chosen.

    `rule` is the policy rule that led there. `others` are the further live next hops of a multipath route: which of
    them a flow gets is a matter of a hash with a secret key (fib_multipath_hash, rt6_multipath_hash). `thrown` is a
    route of type throw that ended the search in its table, where nothing matched after it.
    """

    route: Route | None = None
    hop: NextHop | None = None
    rule: PolicyRule | None = None
    others: tuple[NextHop, ...] = ()
    thrown: Route | None = None

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
    if packet.family == 4 and by_priority == DEFAULT_RULES[4]:
        return _unruled_lookup(view, packet, oif=oif, src=src)
    index = 0
    thrown: Route | None = None
    while index < len(by_priority):
        rule = by_priority[index]
        index += 1
        if not rule_matches(rule, packet, iif=iif, oif=view.links[oif].name if oif in view.links else None, src=src):
            continue
        if rule.action == "goto":
            # A goto without a rule of that priority is unresolved, and passed over (fib_rules_lookup); one that leads
            # back is refused when it is made (fib_nl_newrule), so none does.
            later = range(index, len(by_priority))
            index = next((at for at in later if by_priority[at].priority == rule.goto), index)
            continue
        if rule.action == "nop":
            continue
        if rule.action in ERRORS:
            return Lookup(rule=rule, route=Route(table=0, dst=_everything(packet.family), kind=rule.action))
        found = _table_lookup(view, view.tables.get((packet.family, rule.table), []), packet, oif=oif, src=src)
        if found is None:
            continue
        route, hop, others = found
        if route.kind == "throw":
            thrown = thrown or route
            continue
        if route.kind not in ERRORS and _suppressed(view, rule, route, hop):
            continue
        return Lookup(route=route, hop=hop, rule=rule, others=others)
    return Lookup(thrown=thrown)


def _unruled_lookup(view: View, packet: Packet, *, oif: int | None, src: IPAddress | None) -> Lookup:
    """Look an IPv4 route up where no policy rule was ever added (fib_lookup of include/net/ip_fib.h).

    The local and the main table are then one trie, in which the longer prefix wins, whichever of them it is in
    (fib_trie_table; fib_unmerge takes them apart at the first rule). Where a throw wins, only the default table is
    asked after it.
    """
    local, main, default = DEFAULT_RULES[4]
    thrown: Route | None = None
    for routes in (view.merged, view.tables.get((4, default.table), [])):
        found = _table_lookup(view, routes, packet, oif=oif, src=src)
        if found is None:
            continue
        route, hop, others = found
        if route.kind == "throw":
            thrown = thrown or route
            continue
        rule = {local.table: local, main.table: main}.get(route.table, default)
        return Lookup(route=route, hop=hop, rule=rule, others=others)
    return Lookup(thrown=thrown)


def _suppressed(view: View, rule: PolicyRule, route: Route, hop: NextHop | None) -> bool:
    """Tell whether a rule refuses what its table gave (fib4_rule_suppress, fib6_rule_suppress)."""
    if rule.suppress_prefixlength is not None and route.dst.prefixlen <= rule.suppress_prefixlength:
        return True
    # Of a multipath IPv4 route the first next hop is looked at, whichever is chosen, and alive or not.
    asked = route.nexthops[0] if route.dst.version == 4 and route.nexthops else hop
    if rule.suppress_ifgroup is None or asked is None or asked.ifindex not in view.links:
        return False
    return view.links[asked.ifindex].group == rule.suppress_ifgroup


def _everything(family: int) -> IPNetwork:
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
        # Packets without a socket are root's (sock_net_uid), forwarded ones too.
        uid = (packet.uid or 0) if iif is None else 0
        matched = rule.uid_range[0] <= uid <= rule.uid_range[1]
    return matched != rule.invert


def _table_lookup(
    view: View, routes: list[Route], packet: Packet, *, oif: int | None, src: IPAddress | None
) -> tuple[Route, NextHop | None, tuple[NextHop, ...]] | None:
    for route in routes:
        if packet.dst not in route.dst or (route.tos and route.tos != packet.tos):
            continue
        if route.src is not None and route.src.prefixlen and (src is None or src not in route.src):
            continue
        if not route.nexthops:
            # Only a nexthop object can be a blackhole without the route saying so (nexthop_is_blackhole).
            if route.kind == "unicast" and route.nexthop_id is not None:
                return replace(route, kind="blackhole"), None, ()
            return route, None, ()
        hops = [hop for hop in route.nexthops if oif is None or hop.ifindex == oif]
        alive = [hop for hop in hops if usable(view, hop, packet.family)]
        if alive:
            first, *others = (on_link(view, route, hop) for hop in alive)
            return route, first, tuple(others)
    return None


def on_link(view: View, route: Route, hop: NextHop) -> NextHop:
    """Return a next hop of a route as it is used: a gateway that a local route covers counts for none.

    Such a next hop gets scope host, with which rt_set_nexthop leaves the gateway out (fib_check_nh_v4_gw).
    """
    gateway = hop.gateway
    if gateway is None or gateway.version != 4:
        return hop
    # An address of another device does not count: the lookup is for the next hop's own (flowi4_oif).
    own = view.owned.get(gateway) == hop.ifindex or _covered_by_local(view, route, gateway, hop.ifindex)
    return replace(hop, gateway=None) if own else hop


def _covered_by_local(view: View, route: Route, gateway: IPAddress, ifindex: int | None) -> bool:
    """Tell whether the lookup of a gateway, when its route was added, met a local route on the gateway's device.

    The table that the route is in is asked first, then all (fib_check_nh_v4_gw); routes of a wider scope than link
    do not count.
    """
    own = view.tables.get((4, route.table), []) if route.table != MAIN_TABLE else []
    for routes in (own, view.merged):
        for each in routes:
            if gateway not in each.dst or each is route or SCOPES.get(each.scope, 0) < SCOPES["link"]:
                continue
            if all(hop.ifindex != ifindex for hop in each.nexthops):
                continue
            return each.kind == "local"
    return False


def usable(view: View, hop: NextHop, family: int) -> bool:
    """Tell whether a next hop is considered: not dead, and not without carrier where that is ignored by sysctl."""
    if "dead" in hop.flags:
        return False
    if "linkdown" not in hop.flags or hop.ifindex not in view.links:
        return True
    name = view.links[hop.ifindex].name
    return not view.conf_max(family, name, "ignore_routes_with_linkdown", 0)


def choose_source(view: View, found: Lookup, dst: IPAddress) -> IPAddress | None:
    """Choose the source address of a packet that leaves by a route (fib_select_default, inet_select_addr; RFC 6724)."""
    route = found.route
    if route is None:
        return None
    if route.prefsrc is not None:
        return route.prefsrc
    if route.kind == "local":
        return dst
    if found.ifindex is None:
        return None
    if dst.version == 6:
        return source_v6(view, found.ifindex, dst)
    # fib_info_update_nhc_saddr asks for the gateway's network, and for any address where there is no gateway.
    gateway = next((each.gateway for each in route.nexthops if on_link(view, route, each) == found.hop), found.gateway)
    if gateway is not None and gateway.version != 4:
        gateway = None
    return source_v4(view, found.ifindex, gateway, scope=SCOPES.get(route.scope, 0))


def source_v4(view: View, ifindex: int, near: IPAddress | None, *, scope: int = 0) -> IPAddress | None:
    """Return the address of a device that the kernel prefers towards `near`, else one of any other device.

    `scope` is the widest RT_SCOPE_* number that will do (inet_select_addr, in_dev_select_addr).
    """
    own = _primaries(view, ifindex)
    # route_localnet lets addresses of scope host serve on the link.
    device = view.links[ifindex].name if ifindex in view.links else "all"
    localnet = SCOPES["link"] if view.conf_max(4, device, "route_localnet", 0) else SCOPES["host"]
    fit = [each for each in own if min(SCOPES.get(each.scope, 0), localnet) <= scope]
    for each in fit:
        if near is None or near in (each.peer or each.address.network):
            return each.address.ip
    if fit:
        return fit[0].address.ip
    for other in view.links:
        for each in _primaries(view, other):
            if each.scope != "link" and SCOPES.get(each.scope, 0) <= scope:
                return each.address.ip
    return None


def _primaries(view: View, ifindex: int) -> list[Address]:
    """Return the IPv4 addresses of a device that are the first of their network (__inet_insert_ifa)."""
    found: dict[IPNetwork, Address] = {}
    for each in view.addresses.get(ifindex, ()):
        if each.address.version == 4:
            found.setdefault(each.peer or each.address.network, each)
    return list(found.values())


#: RFC 6724's labels as the kernel has them (ip6addrlbl_init_table), longest prefix first.
_LABELS = (
    (IPv6Network("::1/128"), 0),
    (IPv6Network("::ffff:0:0/96"), 4),
    (IPv6Network("::/96"), 3),
    (IPv6Network("2001::/32"), 6),
    (IPv6Network("2001:10::/28"), 7),
    (IPv6Network("2002::/16"), 2),
    (IPv6Network("fc00::/7"), 5),
)


def _label(address: IPAddress) -> int:
    return next((label for network, label in _LABELS if address in network), 1)


def _scope_v6(address: IPAddress) -> int:
    """Return IPV6_ADDR_SCOPE_* of a unicast address (__ipv6_addr_type)."""
    if address.is_loopback or address.is_link_local:
        return 2
    return 5 if isinstance(address, IPv6Address) and address.is_site_local else 14


def source_v6(view: View, ifindex: int, near: IPAddress) -> IPAddress | None:
    """Return the preferred IPv6 source towards an address (ipv6_dev_get_saddr, ipv6_get_saddr_eval).

    The rules in order: the address itself, smallest scope that suffices, the output device, the same label, the
    longest common prefix, which counts no further than the address's own prefix length.
    """
    best: tuple[tuple[bool, int, bool, bool, int], IPAddress] | None = None
    wanted = _scope_v6(near)
    for holder in view.links:
        if near.is_link_local and holder != ifindex:
            continue
        for each in view.addresses.get(holder, ()):
            address = each.address.ip
            if address.version != 6 or each.tentative:
                continue
            scope = _scope_v6(address)
            common = 128 - (int(address) ^ int(near)).bit_length()
            key = (
                address == near,
                -scope if scope >= wanted else scope - 128,
                holder == ifindex,
                _label(address) == _label(near),
                min(common, each.address.network.prefixlen),
            )
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
