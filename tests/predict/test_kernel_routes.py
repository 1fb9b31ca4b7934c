"""Route lookups that the kernel answers in its own way; each was put to RTM_GETROUTE by tests/oracle."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from msgspec.structs import replace

from nettrace.model.base import Present, Values
from nettrace.model.flow import Packet
from nettrace.model.snapshot import Address, Link, Namespace, NextHop, PolicyRule, Route
from nettrace.predict import route as routing
from nettrace.predict.world import DEFAULT_RULES, View

VA, VB = 2, 3


def view(*routes: Route, addresses: tuple[Address, ...] = (), rules: tuple[PolicyRule, ...] = (), **links: Any) -> View:
    """A namespace with two devices; `rules` stand beside the three that are always there."""
    return View(
        Namespace(
            id=1,
            name="r",
            links=Present(rows=(Link(ifindex=1, name="lo", loopback=True), Link(ifindex=VA, name="va"),
                                Link(ifindex=VB, name="vb", **links))),
            addresses=Present(rows=addresses),
            routes=Present(rows=routes),
            rules=Present(rows=(*rules, *DEFAULT_RULES[4], *DEFAULT_RULES[6])),
            sysctls=Values(values={}),
        )
    )  # fmt: skip


def route(dst: str, table: int = 254, *, via: str | None = None, dev: int | None = VA, **facts: Any) -> Route:
    """One route; `dev` None for those that lead nowhere."""
    hops = (NextHop(ifindex=dev, gateway=ip_address(via) if via else None),) if dev is not None else ()
    return Route(table=table, dst=ip_network(dst), nexthops=hops, **facts)


def packet(dst: str, **facts: Any) -> Packet:
    """A datagram to an address."""
    to = ip_address(dst)
    unspecified = "0.0.0.0" if to.version == 4 else "::"
    return Packet(family=to.version, src=ip_address(unspecified), dst=to, proto=17, **facts)


def address(text: str, ifindex: int = VA, scope: str = "global") -> Address:
    """One address of a device."""
    return Address(ifindex=ifindex, address=ip_interface(text), scope=scope)


def rule(priority: int, **facts: Any) -> PolicyRule:
    """One IPv4 policy rule."""
    return PolicyRule(family=4, priority=priority, **facts)


def test_without_policy_rules_the_longer_prefix_wins_over_the_local_table() -> None:
    routes = (route("10.0.0.0/8", 255, dev=1, kind="local"), route("10.1.0.0/16"))
    found = routing.lookup(view(*routes), packet("10.1.2.3"))
    assert found.route is not None
    assert found.route.kind == "unicast"
    ruled = routing.lookup(view(*routes, rules=(rule(99, table=100),)), packet("10.1.2.3"))
    assert ruled.route is not None
    assert ruled.route.kind == "local"


def test_without_policy_rules_a_throw_leaves_the_default_table_alone() -> None:
    throw = route("10.1.0.0/16", 255, dev=None, kind="throw")
    assert routing.lookup(view(throw, route("10.0.0.0/8")), packet("10.1.2.3")).route is None
    assert routing.lookup(view(throw, route("10.0.0.0/8", 253)), packet("10.1.2.3")).route is not None


def test_a_goto_without_target_is_passed_over() -> None:
    rules = (rule(10, action="goto", goto=50), rule(20, table=100))
    found = routing.lookup(view(route("0.0.0.0/0", 100), rules=rules), packet("8.8.8.8"))
    assert found.rule is not None
    assert found.rule.priority == 20


def test_suppression_asks_for_any_kind_of_route_and_for_the_device_group() -> None:
    local = route("10.0.0.0/8", 100, dev=1, kind="local")
    rules = (rule(10, table=100, suppress_prefixlength=8),)
    assert routing.lookup(view(local, rules=rules), packet("10.1.2.3")).route is None
    rules = (rule(10, table=100, suppress_ifgroup=5),)
    held = view(route("10.0.0.0/8", 100, dev=VB), rules=rules, group=5)
    assert routing.lookup(held, packet("10.1.2.3")).route is None


def test_forwarded_packets_count_as_roots() -> None:
    held = view(route("0.0.0.0/0", 100), rules=(rule(10, table=100, uid_range=(0, 10)),))
    assert routing.lookup(held, packet("8.8.8.8"), iif="vb").route is not None
    assert routing.lookup(held, packet("8.8.8.8", uid=11)).route is None


def test_a_blackhole_may_be_a_nexthop_object() -> None:
    found = routing.lookup(view(route("0.0.0.0/0", dev=None, nexthop_id=4)), packet("8.8.8.8"))
    assert found.route is not None
    assert found.route.kind == "blackhole"


def test_a_gateway_that_is_an_own_address_is_none() -> None:
    held = view(route("10.5.0.0/24", via="10.2.0.48"), addresses=(address("10.2.0.181/25"), address("10.2.0.48/32")))
    found = routing.lookup(held, packet("10.5.0.81"))
    assert (found.ifindex, found.gateway) == (VA, None)
    assert routing.choose_source(held, found, ip_address("10.5.0.81")) == ip_address("10.2.0.48")


def test_the_source_is_chosen_for_the_gateway_and_by_scope() -> None:
    own = (address("10.1.0.1/24", scope="link"), address("10.2.0.1/24"), address("10.2.0.2/24"), address("10.3.0.1/24"))
    target = ip_address("8.8.8.8")
    through = view(route("0.0.0.0/0", via="10.3.0.9"), addresses=own)
    assert routing.choose_source(through, routing.lookup(through, packet("8.8.8.8")), target) == own[3].address.ip
    direct = view(route("0.0.0.0/0"), addresses=own)
    assert routing.choose_source(direct, routing.lookup(direct, packet("8.8.8.8")), target) == own[1].address.ip
    link = view(route("8.8.8.0/24", scope="link"), addresses=own)
    assert routing.choose_source(link, routing.lookup(link, packet("8.8.8.8")), target) == own[0].address.ip


def test_a_common_ipv6_prefix_counts_no_further_than_the_address_own() -> None:
    held = view(route("fd00:1::/64"), addresses=(address("fd00:1::43/120"), address("fd00:1::80/64")))
    target = ip_address("fd00:1::d8")
    assert routing.choose_source(held, routing.lookup(held, packet("fd00:1::d8")), target) == ip_address("fd00:1::43")


def test_an_ipv6_source_of_the_same_label_is_preferred() -> None:
    own = (address("fd00:1::1/64"), address("2001:db8::1/64"))
    held = view(route("::/0"), addresses=own)
    found = routing.lookup(held, packet("2a00::1"))
    assert routing.choose_source(held, found, ip_address("2a00::1")) == own[1].address.ip


def test_the_first_next_hop_of_a_multipath_route_is_asked_for_its_group() -> None:
    """fib4_rule_suppress looks at next hop 0, whichever is chosen, and alive or not."""
    hops = (NextHop(ifindex=VB, flags=("dead",)), NextHop(ifindex=VA))
    routes = (replace(route("10.1.0.0/16"), nexthops=hops), route("0.0.0.0/0", 101))
    rules = (rule(20, table=254, suppress_ifgroup=5), rule(30, table=101))
    main_gone = tuple(each for each in DEFAULT_RULES[4] if each.table != 254)
    held = view(*routes, rules=rules, group=5)
    held.rules[4] = (*sorted((*rules, *main_gone), key=lambda each: each.priority),)
    found = routing.lookup(held, packet("10.1.2.3"))
    assert found.route is not None
    assert found.route.table == 101


def test_a_gateway_that_a_local_route_covers_is_none() -> None:
    """fib_check_nh_v4_gw: its lookup gives scope host, so the destination counts as on the link."""
    routes = (route("10.9.0.0/16", 101, kind="local", scope="host"), route("10.1.0.0/16", 101, via="10.9.1.1"))
    found = routing.lookup(view(*routes, rules=(rule(20, table=101),)), packet("10.1.2.3"))
    assert found.hop is not None
    assert found.gateway is None
