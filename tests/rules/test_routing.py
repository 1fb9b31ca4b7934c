"""Routes, policy rules, addresses and sysctls gone wrong in many ways: the object is named, and its remedy proven."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_interface

import pytest
from msgspec.structs import replace

from nettrace.model.observe import Sighting, SightingKind, Way
from nettrace.model.path import Direction, LegEnd, Segment
from nettrace.model.snapshot import Link, Neighbour, NextHop, PolicyRule, Route
from nettrace.model.text import route_key
from nettrace.model.verdict import Result, Verdict, Verified
from nettrace.predict import predict
from tests.rules.build import Box, Lab, Wire, ask, diagnose_case, observed, plain_lab

Change = Callable[[Lab], None]
FORWARD, REPLY = Direction.FORWARD, Direction.REPLY


def judged(
    *changes: Change, flow: tuple[str, ...] = ("app", "8.8.8.8"), family: int = 4, wire: Wire | None = None
) -> Verdict:
    """Return the verdict about a flow (source, destination, protocol, port) of the plain lab, after changes to it."""
    lab = plain_lab()
    for change in changes:
        change(lab)
    src, dst, *rest = flow
    proto, port = (rest[0], int(rest[1])) if rest else ("icmp", None)
    return diagnose_case(lab.snapshot(), ask(lab, src, dst, proto, port, family=family), wire=wire)


def only_rules(box: str, *keep: int, family: int = 4) -> Change:
    """Return the change that leaves of a family's policy rules those of these tables."""

    def change(lab: Lab) -> None:
        lab[box].rules = [each for each in lab[box].rules if each.family != family or each.table in keep]

    return change


def add_rule(box: str, **facts: object) -> Change:
    return lambda lab: lab[box].rules.append(PolicyRule(**{"family": 4, "priority": 60, **facts}))  # type: ignore[arg-type]


def add_route(box: str, dst: str, **facts: object) -> Change:
    def change(lab: Lab) -> None:
        lab[box].route(dst, **facts)  # type: ignore[arg-type]

    return change


def no_local_route(box: str, dst: str) -> Change:
    def change(lab: Lab) -> None:
        lab[box].routes = [each for each in lab[box].routes if str(each.dst) != dst or each.kind != "local"]

    return change


def sysctl(box: str, name: str, value: str) -> Change:
    return lambda lab: lab[box].sysctls.update({name: value})


def holds(box: str, device: str, held: str) -> Change:
    return lambda lab: lab[box].hold(device, held)


ALL = (255, 253)


@pytest.mark.parametrize(
    ("changes", "flow", "code", "segment", "direction", "command"),
    [
        (
            (only_rules("host", *ALL),),
            ("app", "8.8.8.8"),
            "route.policy-rule",
            Segment.HOST,
            FORWARD,
            "ip rule add priority 32766 table main",
        ),
        (
            (only_rules("host", *ALL), add_rule("host", priority=32766, suppress_prefixlength=0)),
            ("app", "8.8.8.8"),
            "route.policy-rule",
            Segment.HOST,
            FORWARD,
            "ip rule add priority 32766 table main",
        ),
        (
            (only_rules("web", 254, 253),),
            ("app", "web"),
            "route.policy-rule",
            Segment.DESTINATION,
            FORWARD,
            "rule add priority 0 table local",
        ),
        (
            (no_local_route("app", "172.17.0.2/32"),),
            ("app", "8.8.8.8"),
            "route.missing",
            Segment.SOURCE,
            REPLY,
            "ip route add local 172.17.0.2 dev eth0 table local proto kernel scope host src 172.17.0.2",
        ),
        (
            (add_route("app", "0.0.0.0/1", dev="eth0", via="172.17.0.3"),),
            ("app", "8.8.8.8"),
            "route.wrong-gateway",
            Segment.SOURCE,
            FORWARD,
            "ip route del 0.0.0.0/1 via 172.17.0.3 dev eth0",
        ),
        (
            (add_route("host", "172.17.0.2/32", dev="docker0", via="172.17.0.3"),),
            ("app", "8.8.8.8"),
            "route.wrong-gateway",
            Segment.HOST,
            REPLY,
            "ip route del 172.17.0.2 via 172.17.0.3 dev docker0",
        ),
        (
            (add_route("host", "8.8.8.0/24", kind="blackhole", nexthop_id=7),),
            ("app", "8.8.8.8"),
            "route.blackhole",
            Segment.HOST,
            FORWARD,
            "ip route del 8.8.8.0/24 nhid 7",
        ),
        (
            (add_route("host", "8.8.8.0/24", kind="unreachable", priority=5),),
            ("app", "8.8.8.8"),
            "route.blackhole",
            Segment.HOST,
            FORWARD,
            "ip route del unreachable 8.8.8.0/24 metric 5",
        ),
        (
            (
                sysctl("host", "net.ipv4.conf.docker0.rp_filter", "1"),
                add_rule("host", table=50, dst=ip_interface("172.17.0.2/32").network),
                add_route("host", "default", dev="eth0", via="203.0.113.1", table=50),
            ),
            ("app", "8.8.8.8"),
            "sysctl.rp-filter",
            Segment.HOST,
            FORWARD,
            "sysctl -w net.ipv4.conf.docker0.rp_filter=2",
        ),
        (
            (sysctl("app", "net.ipv4.ip_default_ttl", "1"),),
            ("app", "8.8.8.8"),
            "route.loop",
            Segment.HOST,
            FORWARD,
            "sysctl -w net.ipv4.ip_default_ttl=64",
        ),
        (
            (sysctl("web", "net.ipv4.ip_default_ttl", "1"),),
            ("host", "web"),
            None,
            None,
            None,
            "",
        ),
        (
            (holds("host", "lo", "172.17.0.3/32"),),
            ("203.0.113.1", "203.0.113.2", "tcp", "8080"),
            "addr.duplicate",
            Segment.HOST,
            FORWARD,
            "ip addr del 172.17.0.3/32 dev lo",
        ),
    ],
)
def test_the_fault_is_named_and_its_mend_proven(
    changes: tuple[Change, ...],
    flow: tuple[str, ...],
    code: str | None,
    segment: Segment | None,
    direction: Direction | None,
    command: str,
) -> None:
    verdict = judged(*changes, flow=flow)
    if code is None:
        assert verdict.outcome is Result.DELIVERED
        return
    assert verdict.findings
    first = verdict.findings[0]
    assert first.code == code
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (segment, direction)
    assert any(command in each for each in first.remedy.commands), first.remedy.commands
    assert first.remedy.verified is Verified.YES


@pytest.mark.parametrize(
    ("changes", "flow", "code"),
    [
        # Rules that stand in another order, or ask the same table from another place, are no fault.
        ((only_rules("host", *ALL), add_rule("host", table=254)), ("app", "8.8.8.8"), None),
        ((add_rule("host", table=77),), ("app", "8.8.8.8"), None),
        # An address of the loopback is answered for on the link like any other.
        (
            (
                lambda lab: lab["web"].drop_address("172.17.0.3/16"),
                holds("web", "lo", "172.17.0.3/32"),
                add_route("web", "172.17.0.0/16", dev="eth0", scope="link"),
            ),
            ("app", "web"),
            None,
        ),
        # The gateway's address on another device than its route's leaves that route alone.
        ((holds("app", "lo", "172.17.0.1/32"),), ("app", "8.8.8.8"), None),
        ((sysctl("host", "net.ipv4.conf.docker0.arp_filter", "1"),), ("app", "8.8.8.8"), None),
    ],
)
def test_what_only_looks_odd_is_delivered(changes: tuple[Change, ...], flow: tuple[str, ...], code: str | None) -> None:
    verdict = judged(*changes, flow=flow)
    assert verdict.outcome is Result.DELIVERED
    assert [each.code for each in verdict.findings] == ([code] if code else [])


def test_arp_is_filtered_where_the_way_back_to_who_asks_is_another() -> None:
    elsewhere = add_route("web", "172.17.0.2/32", dev="lo")
    verdict = judged(sysctl("web", "net.ipv4.conf.eth0.arp_filter", "1"), elsewhere, flow=("app", "web"))
    assert verdict.findings[0].code == "sysctl.arp-ignore"
    assert verdict.findings[0].remedy.commands[0].endswith("sysctl -w net.ipv4.conf.eth0.arp_filter=0")
    assert verdict.stop is not None
    assert verdict.stop.segment is Segment.DESTINATION


def test_a_bridge_whose_address_became_narrow_gets_the_right_one() -> None:
    def narrow(lab: Lab) -> None:
        lab.host.drop_address("172.17.0.1/16")
        lab.host.hold("docker0", "172.17.0.1/31")

    verdict = judged(narrow, flow=("203.0.113.1", "203.0.113.2", "tcp", "8080"))
    assert [each.code for each in verdict.findings] == ["addr.prefix-mismatch"]
    assert verdict.findings[0].remedy.commands[-1] == "ip addr add 172.17.0.1/16 broadcast + dev docker0"
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_a_route_to_the_rest_of_a_network_makes_up_for_a_narrow_address() -> None:
    def narrow(lab: Lab) -> None:
        lab.host.drop_address("172.17.0.1/16")
        lab.host.hold("docker0", "172.17.0.1/31")
        lab.host.route("172.17.0.0/16", dev="docker0", scope="link")
        lab.host.insert("filter", "-A FORWARD -d 172.17.0.3/32 -j DROP")

    verdict = judged(narrow, flow=("203.0.113.1", "203.0.113.2", "tcp", "8080"))
    assert [each.code for each in verdict.findings] == ["filter.rule-drop"]


def test_an_address_of_too_narrow_a_scope_is_no_source() -> None:
    def change(lab: Lab) -> None:
        box = lab["app"]
        box.addresses = [
            replace(each, scope="host") if each.address.ip.version == 4 else each for each in box.addresses
        ]

    verdict = judged(change)
    assert [each.code for each in verdict.findings] == ["addr.missing"]
    assert verdict.findings[0].remedy.verified is Verified.YES


def two_hops(box: Box, *gateways: str) -> None:
    index = box.link("eth0").ifindex
    box.no_route("0.0.0.0/0")
    hops = tuple(NextHop(ifindex=index, gateway=ip_address(each)) for each in gateways)
    box.routes.append(Route(table=254, dst=ip_interface("0.0.0.0/0").network, nexthops=hops))


def test_one_of_several_next_hops_that_is_dead_leaves_the_way_in_doubt() -> None:
    lab = plain_lab()
    two_hops(lab["app"], "172.17.0.99", "172.17.0.1")
    trace = predict(lab.snapshot(), ask(lab, "app", "8.8.8.8"))
    assert trace.forward.end is LegEnd.UNKNOWN
    assert any("nobody answers for 172.17.0.99" in step.text for step in trace.forward.steps)
    flow = ("app", "8.8.8.8")
    delivered = judged(
        lambda lab: two_hops(lab["app"], "172.17.0.99", "172.17.0.1"), flow=flow, wire=observed(reply=True)
    )
    assert delivered.outcome is Result.DELIVERED
    assert delivered.findings == ()
    lost = observed(until="host/docker0", unanswered=("host/eth0", "203.0.113.99"))
    stopped = judged(lambda lab: two_hops(lab.host, "203.0.113.1", "203.0.113.99"), flow=flow, wire=lost)
    assert [each.code for each in stopped.findings] == ["neigh.unresolved"]
    (command,) = stopped.findings[0].remedy.commands
    assert command == "ip route replace default via 203.0.113.1 dev eth0"


def test_a_flow_that_gets_the_next_hop_by_a_dead_device_is_told_which() -> None:
    def change(lab: Lab) -> None:
        lab.host.links.append(Link(ifindex=9, name="lan9", kind="bridge", lower_up=False, operstate="DOWN"))
        lab.host.hold("lan9", "10.99.0.1/24")
        lab.host.no_route("0.0.0.0/0")
        hops = ((2, "203.0.113.1"), (9, "10.99.0.2"))
        spread = tuple(NextHop(ifindex=index, gateway=ip_address(gateway)) for index, gateway in hops)
        lab.host.routes.append(Route(table=254, dst=ip_interface("0.0.0.0/0").network, nexthops=spread))

    verdict = judged(change, wire=observed(until="host/docker0"))
    assert [each.code for each in verdict.findings] == ["route.wrong-device"]
    assert verdict.findings[0].remedy.commands == ("ip route replace default via 203.0.113.1 dev eth0",)
    assert judged(change, wire=observed(reply=True)).outcome is Result.DELIVERED


def test_an_error_that_comes_to_this_host_and_no_further_leaves_a_black_hole() -> None:
    lab = plain_lab()
    flow = ask(lab, "app", "8.8.8.8", size=1400)
    wire = observed(kind=SightingKind.ICMP_ERROR, icmp=(3, 4), sender="203.0.113.1", at="host/eth0")
    verdict = diagnose_case(lab.snapshot(), flow, wire=wire)
    assert [each.code for each in verdict.findings] == ["mtu.black-hole"]
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (Segment.REMOTE, FORWARD)


def test_next_hops_that_are_all_dead_stop_the_packet() -> None:
    verdict = judged(lambda lab: two_hops(lab["app"], "172.17.0.98", "172.17.0.99"))
    assert verdict.outcome is Result.STOPPED


def test_the_source_that_the_hosts_own_route_chooses_is_told() -> None:
    def change(lab: Lab) -> None:
        lab.host.hold("lo", "10.77.0.1/32")
        lab.host.no_route("0.0.0.0/0")
        lab.host.route("default", dev="eth0", via="203.0.113.1", prefsrc=ip_address("10.77.0.1"))

    flow = ("host", "8.8.8.8")
    verdict = judged(change, flow=flow, wire=observed())
    assert [each.code for each in verdict.findings] == ["nat.masquerade-missing"]
    assert verdict.findings[0].remedy.commands == ("ip route replace default via 203.0.113.1 dev eth0",)
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (Segment.REMOTE, REPLY)
    # Containers are masqueraded to an address of the device, whatever the route prefers (inet_select_addr).
    assert judged(change).outcome is Result.DELIVERED


def test_a_container_that_is_sought_beyond_the_uplink_is_an_overlap() -> None:
    verdict = judged(
        add_route("host", "172.17.0.3/32", dev="eth0", via="203.0.113.1"), flow=("host", "web"), wire=observed()
    )
    assert [each.code for each in verdict.findings] == ["route.subnet-overlap"]
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (Segment.HOST, FORWARD)
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_a_policy_rule_that_leads_beyond_the_uplink_is_named() -> None:
    verdict = judged(
        add_rule("host", table=77, dst=ip_interface("172.17.0.0/16").network),
        add_route("host", "default", dev="eth0", via="203.0.113.1", table=77),
        flow=("host", "web"),
        wire=observed(),
    )
    assert [each.code for each in verdict.findings] == ["route.policy-rule"]
    assert verdict.findings[0].remedy.commands == ("ip rule del priority 60",)


def test_an_answer_that_leaves_the_host_instead_of_coming_home_is_asymmetric() -> None:
    verdict = judged(
        add_rule("host", table=77, src=ip_interface("172.17.0.1/32").network),
        add_route("host", "default", dev="eth0", via="203.0.113.1", table=77),
        flow=("app", "172.17.0.1"),
        wire=observed(),
    )
    assert verdict.findings[0].code == "route.reply-asymmetric"
    assert verdict.findings[0].remedy.commands == ("ip rule del priority 60",)


def test_a_default_route_into_the_loopback_is_the_cause_of_all_that_follows() -> None:
    def change(lab: Lab) -> None:
        lab.host.no_route("0.0.0.0/0")
        lab.host.route("default", dev="lo")

    verdict = judged(change)
    assert [each.code for each in verdict.findings] == ["route.default-hijacked"]


def astray(mac: str) -> Wire:
    """The answer comes to the uplink, in a frame for a MAC."""

    def wire(trace):  # type: ignore[no-untyped-def]
        seen = observed(reply_until="host/eth0")(trace)
        sightings = tuple(
            replace(each, packet=replace(each.packet, dst_mac=mac)) if each.kind is SightingKind.REPLY else each
            for each in seen.sightings
        )
        return replace(seen, sightings=sightings)

    return wire


def test_an_answer_in_a_frame_for_another_mac_is_the_routers_mistake() -> None:
    verdict = judged(wire=astray("02:00:00:00:00:99"))
    assert [each.code for each in verdict.findings] == ["remote.no-reply"]
    assert "02:00:00:00:00:99" in verdict.findings[0].title
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (Segment.REMOTE, REPLY)
    assert judged(wire=astray("52:54:00:00:00:02")).findings[0].code != "remote.no-reply"


def test_an_answer_whose_ttl_is_used_up_is_told() -> None:
    def wire(trace):  # type: ignore[no-untyped-def]
        seen = observed(reply_until="host/eth0")(trace)
        sightings = tuple(
            replace(each, packet=replace(each.packet, ttl=1)) if each.kind is SightingKind.REPLY else each
            for each in seen.sightings
        )
        return replace(seen, sightings=sightings)

    verdict = judged(wire=wire)
    assert verdict.findings[0].code == "route.loop"
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (Segment.HOST, REPLY)


def test_what_was_lost_on_its_way_out_is_not_lost_beyond() -> None:
    verdict = judged(no_local_route("app", "172.17.0.2/32"), wire=observed(arrived=False))
    assert "remote.no-reply" not in {each.code for each in verdict.findings}


def test_the_uplink_that_answers_no_arp_keeps_answers_away() -> None:
    verdict = judged(sysctl("host", "net.ipv4.conf.eth0.arp_ignore", "8"), wire=observed())
    assert [each.code for each in verdict.findings] == ["sysctl.arp-ignore"]
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (Segment.EGRESS, REPLY)


def test_an_address_of_the_link_alone_is_the_lack_of_the_right_one() -> None:
    def change(lab: Lab) -> None:
        box = lab["app"]
        box.drop_address("172.17.0.2/16")
        box.hold("eth0", "169.254.5.5/16")
        box.route("default", dev="eth0", via="169.254.0.1")
        lab.host.hold("docker0", "169.254.0.1/16")

    verdict = judged(change, wire=observed())
    assert verdict.findings[0].code == "addr.missing"


def test_a_fixed_entry_that_is_not_permanent_is_fixed_too() -> None:
    def change(lab: Lab) -> None:
        entry = Neighbour(
            ifindex=lab.host.link("eth0").ifindex,
            address=ip_address("203.0.113.1"),
            mac="02:00:00:00:00:99",
            state="NOARP",
        )
        lab.host.neighbours.append(entry)

    def wire(trace):  # type: ignore[no-untyped-def]
        seen = observed()(trace)
        told = replace(seen.sightings[0].packet, src=ip_address("203.0.113.1"), src_mac="02:00:00:00:00:01")
        answer = Sighting(point="host/eth0", kind=SightingKind.ARP_REPLY, way=Way.IN, at_ns=400, packet=told)
        return replace(seen, sightings=(*seen.sightings, answer))

    assert judged(change, wire=wire).findings[0].code == "neigh.stale-static"


def test_ipv6_that_went_with_the_mtu_of_its_device_comes_back_with_it() -> None:
    def narrow(lab: Lab) -> None:
        lab["c1"].edit("eth0", mtu=1279)
        lab["c1"].drop_address("fd00:18::2/64")

    verdict = judged(narrow, flow=("c1", "2001:db8:9::9"), family=6)
    assert verdict.findings[0].code == "addr.missing"
    assert verdict.findings[0].remedy.commands[0].endswith("ip link set eth0 mtu 1500")

    def uplink(lab: Lab) -> None:
        lab.host.edit("eth0", mtu=1279)
        lab.host.drop_address("2001:db8:1::2/64")

    verdict = judged(uplink, flow=("c1", "2001:db8:9::9"), family=6)
    assert [each.code for each in verdict.findings] == ["sysctl.ipv6-disabled"]


def test_the_hosts_hold_of_a_containers_ipv6_address_takes_its_answers() -> None:
    verdict = judged(holds("host", "lo", "fd00:18::2/128"), flow=("c1", "2001:db8:9::9"), family=6)
    assert verdict.findings[0].code == "addr.duplicate"
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_an_error_that_the_sender_itself_drops_leaves_a_black_hole() -> None:
    lab = plain_lab()
    lab.host.edit("eth0", mtu=1300)
    flow = ask(lab, "app", "8.8.8.8", size=1400)
    wire = observed(until="host/docker0", kind=SightingKind.ICMP_ERROR, icmp=(3, 4), sender="172.17.0.1")
    assert diagnose_case(lab.snapshot(), flow, wire=wire).findings[0].code == "mtu.mismatch"
    lab["app"].chain("filter", ":INPUT ACCEPT", "-A INPUT -p icmp -m icmp --icmp-type 3/4 -j DROP")
    verdict = diagnose_case(lab.snapshot(), flow, wire=wire)
    assert verdict.findings[0].code == "mtu.black-hole"
    assert "iptables" in verdict.findings[0].remedy.commands[0]


def test_a_packet_too_big_for_its_own_device_is_one_fault() -> None:
    lab = plain_lab()
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "8.8.8.8", size=4000))
    assert [each.code for each in verdict.findings] == ["mtu.mismatch"]
    assert verdict.outcome is Result.DEGRADED


def test_an_untracked_published_port_is_blamed_on_the_rule() -> None:
    lab = plain_lab()
    lab.host.chain("raw", ":PREROUTING ACCEPT", "-A PREROUTING -i eth0 -p tcp -m tcp --dport 8080 -j CT --notrack")
    flow = replace(ask(lab, "203.0.113.1", "203.0.113.2", "tcp", 8080))
    verdict = diagnose_case(lab.snapshot(), flow)
    assert [each.code for each in verdict.findings] == ["nat.dnat-shadowed"]
    assert verdict.findings[0].remedy.verified is Verified.YES


@pytest.mark.parametrize(
    ("route", "key"),
    [
        (
            Route(
                table=77,
                dst=ip_interface("10.0.0.0/8").network,
                scope="link",
                proto="static",
                nexthops=(NextHop(ifindex=2, flags=("linkdown",)),),
            ),
            "10.0.0.0/8 dev eth0 table 77",
        ),
        (
            Route(
                table=254,
                dst=ip_interface("0.0.0.0/0").network,
                nexthop_id=9,
                priority=20,
                nexthops=(NextHop(ifindex=2), NextHop(ifindex=3)),
            ),
            "default nhid 9 metric 20",
        ),
        (
            Route(table=254, dst=ip_interface("8.8.8.8/32").network, kind="throw", mtu=1400, priority=3),
            "throw 8.8.8.8 metric 3",
        ),
        (
            Route(
                table=254,
                dst=ip_interface("0.0.0.0/0").network,
                nexthops=(
                    NextHop(ifindex=2, gateway=ip_address("192.0.2.1")),
                    NextHop(ifindex=2, gateway=ip_address("192.0.2.2")),
                ),
            ),
            "default",
        ),
    ],
)
def test_the_key_of_a_route_is_what_ip_route_del_takes(route: Route, key: str) -> None:
    assert route_key(route, {2: "eth0", 3: "eth1"}) == key
