"""nft rules compiled and asked about packets: what each construct lets through, changes, and leaves open."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from nettrace.errors import InputError
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, HookResult, Tracking
from nettrace.model.snapshot import DumpFormat, NetfilterDump, Tuple5
from nettrace.netfilter import HookContext, Ruleset, SocketFacts, evaluate_hook, load_ruleset, nft_json
from nettrace.netfilter.nft_text import parse_text

YES, NO, OPEN = FilterVerdict.DROP, FilterVerdict.ACCEPT, FilterVerdict.UNKNOWN


def packet(**changes: Any) -> Packet:
    """A TCP SYN from 10.0.0.5:40000 to 192.0.2.1:80, changed where said."""
    family = 6 if ":" in str(changes.get("src", "")) else 4
    fields: dict[str, Any] = {
        "family": family,
        "src": "10.0.0.5",
        "dst": "192.0.2.1" if family == 4 else "2001:db8::80",
        "proto": 6,
        "sport": 40000,
        "dport": 80,
        "tcp_flags": 0x02,
        "ttl": 64,
        "length": 60,
        "uid": 1000,
        "src_mac": "02:00:00:00:00:05",
        "dst_mac": "02:00:00:00:00:06",
    } | changes
    if fields["proto"] in (1, 58):
        fields |= {"sport": None, "dport": None, "icmp_id": 7, "icmp_code": changes.get("icmp_code", 0)}
        fields.setdefault("icmp_type", 8 if family == 4 else 128)
    if fields["proto"] != 6:
        fields["tcp_flags"] = None
    return Packet(**{**fields, "src": ip_address(fields["src"]), "dst": ip_address(fields["dst"])})


def context(packet_family: int = 4, **changes: Any) -> HookContext:
    fields: dict[str, Any] = {
        "family": "ip" if packet_family == 4 else "ip6",
        "iif": "eth0",
        "oif": "br-x",
        "iif_group": 5,
        "oif_group": 0,
        "address_type": lambda address, _dev: "LOCAL" if str(address) == "192.0.2.1" else "UNICAST",
        "fib": lambda query: "eth0" if query.dev in (None, "eth0") else "",
        "source_for": lambda _device, _dst: ip_address("198.51.100.1"),
        "primary_address": lambda _device: ip_address("198.51.100.2"),
    } | changes
    return HookContext(**fields)


def compiled(text: str) -> Ruleset:
    return Ruleset(nft_json.parse(parse_text(text)))


def one_chain(
    rule: str, *, family: str = "inet", extra: str = "", hook: str = "forward", kind: str = "filter"
) -> Ruleset:
    priority = {"nat prerouting": -100, "nat output": -100, "nat postrouting": 100, "nat input": 100}.get(
        f"{kind} {hook}", 0
    )
    return compiled(
        f"table {family} t {{\n{extra}\n chain side {{\n  accept\n }}\n"
        f" chain c {{\n  type {kind} hook {hook} priority {priority}; policy accept;\n  {rule}\n }}\n}}\n"
    )


def ask(rules: Ruleset, one: Packet, hook: Hook = Hook.FORWARD, **changes: Any) -> HookResult:
    tracking = changes.pop("tracking", Tracking(state=CtState.NEW))
    return evaluate_hook(rules, hook, one, tracking, context(**{"packet_family": one.family, **changes}))


def matched(match: str, one: Packet, **changes: Any) -> FilterVerdict:
    """DROP when the match says yes, ACCEPT when it says no, UNKNOWN when it stays open."""
    where = {key: changes.pop(key) for key in ("family", "extra") if key in changes}
    hook = changes.pop("hook", "forward")
    return ask(one_chain(f"{match} drop", hook=hook, **where), one, Hook(hook), **changes).verdict


V6 = packet(src="2001:db8::5")
UDP = packet(proto=17, dport=53)
ICMP = packet(proto=1)
ICMP6 = packet(src="2001:db8::5", proto=58)


@pytest.mark.parametrize(
    ("match", "verdict"),
    [
        ("ip saddr 10.0.0.5", YES),
        ("ip saddr != 10.0.0.5", NO),
        ("ip saddr 10.0.0.0/8", YES),
        ("ip saddr != 10.0.0.0/8", NO),
        ("ip saddr 10.0.0.1-10.0.0.9", YES),
        ("ip saddr != 10.0.0.1-10.0.0.9", NO),
        ("ip saddr { 10.1.0.0/16, 10.0.0.5 }", YES),
        ("ip saddr != { 10.1.0.0/16, 10.0.0.4-10.0.0.6 }", NO),
        ("ip saddr & 255.0.0.255 == 10.0.0.5", YES),
        ("ip saddr & 255.0.0.255 != 10.0.0.5", NO),
        ("ip saddr > 10.0.0.4", YES),
        ("ip saddr <= 10.0.0.4", NO),
        ("ip6 saddr != ::1", NO),
        ("ip protocol tcp", YES),
        ("ip ttl 64", YES),
        ("ip ttl < 64", NO),
        ("ip length 60", YES),
        ("ip dscp cs0", YES),
        ("ip version 4", YES),
        ("tcp dport 80", YES),
        ("tcp dport != 80", NO),
        ("tcp dport { 22, 80-90 }", YES),
        ("tcp dport >= 81", NO),
        ("udp dport != 53", NO),
        ("th dport 80", YES),
        ("@th,16,16 80", YES),
        ("meta l4proto { tcp, udp } th dport 80", YES),
        ("tcp flags syn", YES),
        ("tcp flags == syn", YES),
        ("tcp flags ack", NO),
        ("tcp flags ! ack", YES),
        ("tcp flags syn / syn,ack", YES),
        ("tcp flags != syn / fin,syn,rst,ack", NO),
        ("tcp flags & (fin | syn | rst | ack) == { syn, syn | ack }", YES),
        ("icmp type echo-request", NO),
        ("meta l4proto tcp", YES),
        ("meta l4proto != tcp", NO),
        ("meta l4proto 6", YES),
        ("meta nfproto ipv4", YES),
        ("meta nfproto ipv6", NO),
        ("meta protocol ip", YES),
        ("meta length 50-70", YES),
        ("meta mark 0", YES),
        ("meta mark & 0xff != 0", NO),
        ('iifname "eth0"', YES),
        ('iifname "eth*"', YES),
        ('iifname != "eth*"', NO),
        ('iifname { "eth1", "et*" }', YES),
        ('iif "eth0"', YES),
        ('oifname "br-x"', YES),
        ("iifgroup 5", YES),
        ('iifgroup "default"', NO),
        ("oifgroup { 0, 7-9 }", YES),
        ("meta pkttype host", YES),
        ("ct state new", YES),
        ("ct state established,related", NO),
        ("ct state { new, established }", YES),
        ("ct state != new", NO),
        ("ct state ! new", NO),
        ("ct direction original", YES),
        ("ct mark 0", YES),
        ("ct status dnat", NO),
        ("ct original ip saddr 10.0.0.5", YES),
        ("ct original proto-dst 80", YES),
        ("ct reply ip daddr 10.0.0.0/8", YES),
        ("ct protocol tcp", YES),
        ("ct l3proto ipv4", YES),
        ("ct zone 0", YES),
        ('ct helper "ftp"', NO),
        ("fib daddr type local", YES),
        ("fib daddr type != local", NO),
        ("fib daddr type { local, broadcast }", YES),
        ("fib saddr . iif oif exists", YES),
        ("fib saddr . iif oif missing", NO),
        ("fib saddr . iif oif 0", NO),
        ('fib saddr oif "eth0"', YES),
        ('fib saddr oifname != "eth0"', NO),
        ("ether saddr 02:00:00:00:00:05", YES),
        ("ether saddr & ff:ff:00:00:00:00 == 02:00:00:00:00:00", YES),
        ("ether type ip", YES),
        ("ip saddr . tcp dport { 10.0.0.5 . 80, 10.0.0.6 . 443 }", YES),
        ("ip saddr . tcp dport { 10.0.0.0/8 . 70-90 }", YES),
        ("ip saddr . tcp dport != { 10.0.0.5 . 80 }", NO),
        ('iifname . oifname { "eth0" . "br-x" }', YES),
        ("meta l4proto . th dport { tcp . 80, udp . 53 }", YES),
        ("ip saddr @a", YES),
        ("ip saddr != @a", NO),
        ("ip daddr @a", NO),
        ("ip saddr . tcp dport @b", YES),
        ("counter", YES),
        ('log prefix "x"', YES),
        ("counter name ip saddr map { 10.0.0.5 : \"c\" }", YES),
        ("counter name ip saddr map { 10.0.0.6 : \"c\" }", NO),
        ("meta mark != 30-5", OPEN),
        ("meta length != 60-60", OPEN),
        ("ip option ra exists", OPEN),
        ("exthdr frag exists", NO),
        ("tcp option maxseg exists", OPEN),
        ("limit rate 10/second", OPEN),
        ("quota over 10 mbytes", OPEN),
        ("ct count over 5", OPEN),
        ("meta random 5", OPEN),
        ("numgen random mod 2 0", OPEN),
        ("meta cgroup 5", OPEN),
        ('meta hour "10:00"-"12:00"', OPEN),
        ("socket transparent 1", OPEN),
        ("rt mtu > 1000", OPEN),
        ("@nh,8,8 0x5", OPEN),
        ("vlan id 5", OPEN),
        ("esp spi 5", NO),
        ("sctp chunk init exists", NO),
        ("frobnicate 5", OPEN),
        ('xt match "conntrack"', OPEN),
        ('xt match "comment"', YES),
        ("add @d { ip saddr }", YES),
        ("add @d { udp dport }", NO),
        ("add @d { ip saddr limit rate over 5/second }", OPEN),
        ("ip saddr @d", OPEN),
        ("dup to 1.2.3.4", YES),
        ("continue", YES),
    ],
)  # fmt: skip
def test_matches_of_a_tcp_packet(match: str, verdict: FilterVerdict) -> None:
    extra = (
        " set a {\n  type ipv4_addr\n  flags interval\n  elements = { 10.0.0.0/24 }\n }\n"
        " set b {\n  type ipv4_addr . inet_service\n  elements = { 10.0.0.5 . 80 }\n }\n"
        " set d {\n  type ipv4_addr\n  flags dynamic\n }\n"
    )
    orig = Tuple5(src=ip_address("10.0.0.5"), dst=ip_address("192.0.2.1"), proto=6, sport=40000, dport=80)
    reply = Tuple5(src=ip_address("192.0.2.1"), dst=ip_address("10.0.0.5"), proto=6, sport=80, dport=40000)
    tracking = Tracking(state=CtState.NEW, orig=orig, reply_tuple=reply)
    assert matched(match, packet(), extra=extra, tracking=tracking) == verdict


@pytest.mark.parametrize(
    ("match", "one", "verdict"),
    [
        ("ip saddr != 10.0.0.5", V6, NO),
        ("ip6 saddr 2001:db8::/32", V6, YES),
        ("ip6 saddr { 2001:db8::1-2001:db8::9, ::1 }", V6, YES),
        ("ip6 nexthdr tcp", V6, YES),
        ("ip6 hoplimit 64", V6, YES),
        ("exthdr frag exists", V6, OPEN),
        ("meta nfproto ipv6", V6, YES),
        ("tcp dport != 80", UDP, NO),
        ("tcp flags ! syn", UDP, NO),
        ("udp dport { 53, 67-68 }", UDP, YES),
        ("udp length 40", UDP, YES),
        ("meta l4proto . th dport { tcp . 80, udp . 53 }", UDP, YES),
        ("icmp type echo-request", ICMP, YES),
        ("icmp type { echo-reply, echo-request }", ICMP, YES),
        ("icmp type . icmp code { echo-request . 0 }", ICMP, YES),
        ("icmp id 7", ICMP, YES),
        ("icmp mtu 1400", ICMP, NO),
        ("icmp mtu 1400", packet(proto=1, icmp_type=3, icmp_code=4), OPEN),
        ("th dport 80", ICMP, OPEN),
        ("meta l4proto { tcp, udp } th dport != 80", ICMP, NO),
        ("icmpv6 type echo-request", ICMP6, YES),
        ("icmpv6 type nd-neighbor-solicit", ICMP6, NO),
        ("meta l4proto ipv6-icmp", ICMP6, YES),
        ("icmp type echo-request", ICMP6, NO),
        ("igmp type membership-query", packet(proto=2), OPEN),
        ("esp spi 5", packet(proto=50), OPEN),
    ],
)
def test_matches_of_other_packets(match: str, one: Packet, verdict: FilterVerdict) -> None:
    assert matched(match, one) == verdict


def test_conntrack_facts_need_an_entry() -> None:
    for match in ("ct mark != 5", "ct direction original", "ct status ! dnat", "ct zone 0"):
        assert matched(match, packet(), tracking=Tracking(state=CtState.INVALID)) == NO
    assert matched("ct state invalid", packet(), tracking=Tracking(state=CtState.INVALID)) == YES
    assert matched("ct state untracked", packet(), tracking=Tracking(state=CtState.UNTRACKED)) == YES


def test_output_has_no_input_device_and_a_user() -> None:
    own = {"iif": None, "iif_group": None, "hook": "output"}
    assert matched('iifname != "eth0"', packet(), **own) == YES
    assert matched("meta skuid 1000", packet(), **own) == YES
    assert matched("meta skuid { 5, 900-1100 }", packet(), **own) == YES
    assert matched("meta skuid != 1000", packet(), **own) == NO
    assert matched("meta skuid != 0", packet()) == NO


def test_sockets() -> None:
    found = {"socket": lambda _packet: SocketFacts(transparent=True, mark=5)}
    assert matched("socket transparent 1", packet(), **found) == YES
    assert matched("socket mark 0x5", packet(), **found) == YES
    assert matched("socket transparent 0", packet(), socket=lambda _packet: False) == NO
    assert matched("meta l4proto tcp tproxy to :50080", packet(), hook="prerouting") == OPEN


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("tcp dport vmap { 80 : drop, 443 : accept }", YES),
        ("tcp dport vmap { 443 : drop }", NO),
        ("tcp dport vmap { 70-90 : drop }", YES),
        ("meta mark vmap { 0x1 : accept, * : drop }", YES),
        ("meta mark vmap { 0x0 : accept, * : drop }", NO),
        ("ip saddr vmap { 10.0.0.0/24 : drop, 10.0.1.0/24 : accept }", YES),
        ("ct state vmap { invalid : accept, new : drop }", YES),
        ('iifname . ip saddr . tcp dport vmap { "eth0" . 10.0.0.5 . 80 : drop }', YES),
        ("ip saddr vmap @v drop", NO),
        ("ip daddr vmap @v drop", YES),
        ("tcp dport vmap { 80 : continue } drop", YES),
        ("tcp dport vmap { 443 : continue } drop", NO),
        ("tcp dport vmap { 80 : return }", NO),
        ("tcp dport vmap { 80 : goto side }", NO),
        ("numgen inc mod 2 vmap { 0 : drop, 1 : drop }", YES),
        ("numgen inc mod 2 vmap { 0 : drop, 1 : accept }", OPEN),
        ("numgen inc mod 3 vmap { 0 : drop, 1 : drop }", OPEN),
        ("jhash ip saddr mod 2 vmap { 0 : drop, 1 : accept }", OPEN),
    ],
)
def test_verdict_maps(rule: str, verdict: FilterVerdict) -> None:
    extra = (
        " map v {\n  type ipv4_addr : verdict\n"
        "  elements = { 10.0.0.5 : jump side, 192.0.2.1 : continue }\n }\n"
    )  # fmt: skip
    assert ask(one_chain(rule, extra=extra), packet()).verdict == verdict


def test_a_set_that_rules_add_to_is_open_beyond_what_was_listed() -> None:
    text = "table ip t {\n set s {\n  type ipv4_addr\n  size 10\n  elements = { 10.0.0.5 }\n }\n chain c {\n"
    text += (
        "  type filter hook forward priority 0; policy accept;\n  ip saddr @s drop\n  update @s { ip daddr }\n }\n}\n"
    )
    rules = compiled(text)
    assert ask(rules, packet()).verdict == YES
    other = ask(rules, packet(src="10.0.0.6"))
    assert other.verdict == OPEN
    assert "set s" in other.assumptions[0].reason


def test_an_element_with_a_rate_limit_is_open() -> None:
    text = "table ip t {\n set s {\n  type ipv4_addr\n  elements = { 10.0.0.5 limit rate 1/second, 10.0.0.6 }\n }\n"
    rules = compiled(f"{text} chain c {{\n  type filter hook forward priority 0;\n  ip saddr @s drop\n }}\n}}\n")
    assert ask(rules, packet()).verdict == OPEN
    assert ask(rules, packet(src="10.0.0.6")).verdict == YES


@pytest.mark.parametrize(
    ("family", "rule", "kind", "one"),
    [
        ("ip", "reject", "icmp-port-unreachable", packet()),
        ("ip6", "reject", "icmp6-port-unreachable", V6),
        ("inet", "reject", "icmp-port-unreachable", packet()),
        ("inet", "reject", "icmp6-port-unreachable", V6),
        ("inet", "reject with icmpx admin-prohibited", "icmp-admin-prohibited", packet()),
        ("inet", "reject with icmpx admin-prohibited", "icmp6-adm-prohibited", V6),
        ("inet", "reject with icmpx no-route", "icmp-net-unreachable", packet()),
        ("inet", "reject with icmpx host-unreachable", "icmp6-addr-unreachable", V6),
        ("ip", "reject with icmp prot-unreachable", "icmp-proto-unreachable", packet()),
        ("ip", "reject with tcp reset", "tcp-reset", packet()),
        ("ip6", "reject with icmpv6 policy-fail", "icmp6-policy-fail", V6),
    ],
)
def test_rejects(family: str, rule: str, kind: str, one: Packet) -> None:
    result = ask(one_chain(rule, family=family), one)
    assert (result.verdict, result.reject_with) == (FilterVerdict.REJECT, kind)


def test_a_reject_for_the_other_family_does_not_match() -> None:
    assert ask(one_chain("reject with icmp host-unreachable"), V6).verdict == FilterVerdict.ACCEPT
    assert ask(one_chain("reject with tcp reset"), UDP).verdict == FilterVerdict.ACCEPT


@pytest.mark.parametrize(
    ("rule", "mark"),
    [
        ("meta mark set 0x5", 5),
        ("meta mark set meta mark & 0xf0 | 0x5", 5),
        ("meta mark set meta mark ^ 0xff", 0xFF),
        ("meta mark set tcp dport map { 80 : 0x7, 443 : 0x8 }", 7),
        ("meta mark set ip saddr . tcp dport map { 10.0.0.5 . 80 : 0x9 }", 9),
        ("meta mark set ip dscp map { cs0 : 0x3 }", 3),
        ("meta mark set ct mark", 0x20),
        ("meta mark set ct mark << 4", 0x200),
        ("meta mark set udp dport map { 53 : 0x7 }", 0),
        ("tcp dport 443 meta mark set 0x5", 0),
    ],
)
def test_marks(rule: str, mark: int) -> None:
    result = ask(one_chain(rule), packet(), tracking=Tracking(state=CtState.NEW, mark=0x20))
    assert result.packet.mark == mark


def test_other_changes() -> None:
    result = ask(one_chain("ip ttl set 9 ip dscp set cs1 ct mark set 0x4 tcp option maxseg size set 1400"), packet())
    assert (result.packet.ttl, result.packet.tos, result.tracking.mark) == (9, 0x20, 4)
    assert result.verdict == FilterVerdict.ACCEPT
    moved = ask(one_chain("ip daddr set 1.2.3.4 tcp dport set 81"), packet()).packet
    assert (str(moved.dst), moved.dport) == ("1.2.3.4", 81)
    assert ask(one_chain("@nh,0,8 set 0x45"), packet()).verdict == OPEN


def test_a_mark_nobody_can_know_is_an_assumption() -> None:
    result = ask(one_chain("meta mark set numgen random mod 10"), packet())
    assert result.verdict == FilterVerdict.ACCEPT
    assert result.assumptions


def test_notrack_counts_at_once() -> None:
    text = "table ip t {\n chain c {\n  type filter hook prerouting priority raw; policy accept;\n"
    text += "  notrack\n  ct state untracked drop\n }\n}\n"
    assert ask(compiled(text), packet(), Hook.PREROUTING).verdict == YES


@pytest.mark.parametrize(
    ("rule", "address", "port"),
    [
        ("dnat ip to 10.9.9.9", "10.9.9.9", 80),
        ("tcp dport 80 dnat ip to 10.9.9.9:8080", "10.9.9.9", 8080),
        ("tcp dport 80 dnat ip to 10.9.9.9:70-90", "10.9.9.9", 80),
        ("tcp dport 80 dnat to :8080", "192.0.2.1", 8080),
        ("dnat ip to ip saddr map { 10.0.0.5 : 10.9.9.9 }", "10.9.9.9", 80),
        ("dnat ip to tcp dport map { 80 : 10.9.9.9 . 8080, 81 : 10.9.9.8 . 1 }", "10.9.9.9", 8080),
        ("tcp dport 80 dnat ip to 10.9.9.9:tcp dport map { 80 : 8080 }", "10.9.9.9", 8080),
        ("dnat ip to tcp dport map @m", "10.9.9.9", 8080),
        ("dnat ip prefix to ip daddr map { 192.0.2.0/24 : 10.7.7.0/24 }", "10.7.7.1", 80),
        ("dnat ip to numgen inc mod 2 map { 0 : 10.9.9.9, 1 : 10.9.9.9 }", "10.9.9.9", 80),
        ("dnat ip6 to 2001:db8::9", "192.0.2.1", 80),
        ("dnat ip to ip saddr map { 10.0.0.6 : 10.9.9.9 }", "192.0.2.1", 80),
        ("tcp dport 80 redirect to :8080", "198.51.100.2", 8080),
        ("tcp dport 80 redirect to :tcp dport map { 80 : 8081 }", "198.51.100.2", 8081),
        ("accept", "192.0.2.1", 80),
    ],
)
def test_destination_nat(rule: str, address: str, port: int) -> None:
    extra = " map m {\n  type inet_service : ipv4_addr . inet_service\n  elements = { 80 : 10.9.9.9 . 8080 }\n }\n"
    result = ask(one_chain(rule, extra=extra, hook="prerouting", kind="nat"), packet(), Hook.PREROUTING)
    assert result.verdict == FilterVerdict.ACCEPT
    assert (str(result.packet.dst), result.packet.dport) == (address, port)


def test_a_target_left_to_chance_is_open() -> None:
    rule = "dnat ip to numgen random mod 2 map { 0 : 10.9.9.9, 1 : 10.9.9.8 }"
    result = ask(one_chain(rule, hook="prerouting", kind="nat"), packet(), Hook.PREROUTING)
    assert result.verdict == OPEN
    assert "cannot be foreseen" in result.assumptions[0].reason


@pytest.mark.parametrize(
    ("rule", "address"),
    [
        ("masquerade", "198.51.100.1"),
        ("snat ip to 10.9.9.9", "10.9.9.9"),
        ("snat ip to ip saddr map { 10.0.0.0/8 : 10.9.9.0-10.9.9.0 }", "10.9.9.0"),
        ('oifname "br-x" snat ip to 10.9.9.9 persistent', "10.9.9.9"),
        ('oifname != "br-x" masquerade', "10.0.0.5"),
    ],
)
def test_source_nat(rule: str, address: str) -> None:
    result = ask(one_chain(rule, hook="postrouting", kind="nat"), packet(), Hook.POSTROUTING)
    assert str(result.packet.src) == address


def test_ports_of_source_nat() -> None:
    rules = one_chain("tcp dport 80 masquerade to :1024-2000 random", hook="postrouting", kind="nat")
    (nat,) = ask(rules, packet(), Hook.POSTROUTING).nats
    assert nat.port_chosen_by_kernel
    assert nat.kind == "masquerade"


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("queue to 1", FilterVerdict.STOLEN),
        ("synproxy", FilterVerdict.STOLEN),
        ("flow add @f", NO),
        ("ct helper set \"ftp\"", NO),
        ("jump side", NO),
        ("return", NO),
        ("xt target \"LOG\"", NO),
        ("xt target \"FOO\"", OPEN),
    ],
)  # fmt: skip
def test_statements(rule: str, verdict: FilterVerdict) -> None:
    assert ask(one_chain(rule), packet()).verdict == verdict


def test_the_younger_of_two_chains_with_one_priority_comes_first() -> None:
    text = "".join(
        f"table ip t{n} {{\n chain c {{\n  type nat hook prerouting priority dstnat; policy accept;\n"
        f"  dnat to 10.9.9.{n}\n }}\n}}\n"
        for n in (1, 2)
    )
    assert str(ask(compiled(text), packet(), Hook.PREROUTING).packet.dst) == "10.9.9.2"


def test_chains_of_devices_and_dormant_tables() -> None:
    rules = compiled(
        "table netdev t {\n chain c {\n"
        '  type filter hook ingress device "eth0" priority 0; policy accept;\n  drop\n }\n}\n'
    )
    assert ask(rules, packet(), Hook.INGRESS, family="netdev").verdict == YES
    assert ask(rules, packet(), Hook.INGRESS, family="netdev", iif="eth1").verdict == NO
    dormant = compiled(
        "table ip t {\n flags dormant\n chain c {\n  type filter hook forward priority 0; policy drop;\n }\n}\n"
    )
    assert ask(dormant, packet()).verdict == NO


def test_what_a_rule_is_called() -> None:
    text = (
        "table ip docker-bridges { # handle 9\n chain filter-FORWARD { # handle 1\n"
        "  type filter hook forward priority filter; policy drop;\n"
        '  iifname "br-x" counter packets 7 bytes 420 drop comment "ICC" # handle 5\n }\n}\n'
    )
    rules = compiled(text)
    ref = ask(rules, packet(), iif="br-x").decided_by
    assert ref is not None
    assert msgspec.structs.asdict(ref) == {
        "backend": "nft",
        "family": "ip",
        "table": "docker-bridges",
        "chain": "filter-FORWARD",
        "index": 1,
        "text": 'iifname "br-x" counter drop comment "ICC"',
        "owner": "docker",
        "handle": 5,
        "packets": 7,
    }
    policy = ask(rules, packet()).decided_by
    assert policy is not None
    assert (policy.index, policy.text, policy.owner) == (None, "policy drop", "docker")


def test_json_of_newer_versions() -> None:
    place = {"family": "ip", "table": "t"}
    key = {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"meta": {"key": "mark"}}]}
    flags = {"payload": {"protocol": "tcp", "field": "flags"}}
    expr = [
        {"match": {"op": "==", "left": key, "right": "@s"}},
        {"match": {"op": "==", "left": {"&": [flags, {"|": ["fin", "syn", "rst", "ack"]}]}, "right": "syn"}},
        {"drop": None},
    ]
    base = {"type": "filter", "hook": "forward", "prio": "filter + 5", "policy": "accept"}
    document = {
        "nftables": [
            {"metainfo": {"version": "1.1.1"}},
            {"table": {"family": "ip", "name": "t", "handle": 1}},
            {"set": {**place, "name": "s", "type": {"typeof": key}, "elem": [{"concat": ["10.0.0.5", 0]}]}},
            {"element": {**place, "name": "s", "elem": [{"concat": ["10.0.0.6", 0]}]}},
            {"chain": {**place, "name": "c", **base}},
            {"rule": {**place, "chain": "c", "expr": expr}},
        ]
    }
    rules = Ruleset(nft_json.parse(json.dumps(document)))
    assert ask(rules, packet()).verdict == YES
    assert ask(rules, packet(src="10.0.0.6")).verdict == YES
    assert ask(rules, packet(src="10.0.0.7")).verdict == NO
    (table,) = rules.tables
    hooked = table.chains["c"].base
    assert hooked is not None
    assert hooked.priority == 5


RULE = '{"nftables": [{"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [%s]}}]}'


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", 'no "nftables" list'),
        ('{"nftables": 5}', 'no "nftables" list'),
        ('{"nftables": [5]}', "object 1"),
        ('{"nftables": [{"add": {"table": {}}}]}', "is a command"),
        ('{"nftables": [{"table": {"name": "t"}}]}', 'no "family"'),
        ('{"nftables": [{"table": {"family": "x", "name": "t"}}]}', "unknown family"),
        ('{"nftables": [{"rule": {"family": "ip", "table": "t", "expr": []}}]}', 'no "chain"'),
        ('{"nftables": [{"rule": {"family": "ip", "table": "t", "chain": "c", "expr": 5}}]}', "no list of statements"),
        (
            '{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "c", "hook": "nowhere"}}]}',
            "unknown hook",
        ),
        (
            '{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "c", "hook": "input", "prio": "high"}}]}',
            "unknown priority",
        ),
        (RULE % '{"jump": {"target": "x"}}', "jumps to chain x"),
        (RULE % '{"goto": {"target": "c"}}', "circle: c → c"),
        ('{"nftables": ' + "[" * 100000, "nested deeper|cannot be read"),
    ],
)
def test_errors(document: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        nft_json.parse(document)


def test_deep_expressions_are_refused() -> None:
    deep: Any = {"meta": {"key": "mark"}}
    for _ in range(5000):
        deep = {"&": [deep, 1]}
    rule = {"family": "ip", "table": "t", "chain": "c", "expr": [{"match": {"op": "==", "left": deep, "right": 1}}]}
    with pytest.raises(InputError, match="nested deeper"):
        nft_json.parse({"nftables": [{"rule": rule}]})


SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}


@pytest.mark.parametrize(
    "statement",
    [
        5,
        None,
        [],
        {},
        {"match": None},
        {"match": {}},
        {"match": {"left": 5, "right": {"set": 5}}},
        {"match": {"op": "~", "left": {"meta": {"key": "mark"}}, "right": 5}},
        {"match": {"op": "==", "left": {"meta": 5}, "right": 5}},
        {"match": {"op": "==", "left": SADDR, "right": "nonsense"}},
        {"match": {"op": "==", "left": SADDR, "right": {"prefix": {"addr": "1.2.3.4", "len": 99}}}},
        {"vmap": {"key": 5, "data": 5}},
        {"vmap": {"key": {"meta": {"key": "mark"}}, "data": {"set": [[1, {"frob": None}]]}}},
        {"mangle": {"key": 5, "value": 5}},
        {"dnat": {"addr": {"map": {"key": 5, "data": {"set": [5]}}}}},
        {"dnat": {"addr": {"range": ["1.2.3.4"]}}},
        {"reject": {"type": "frob"}},
        {"set": {"op": "add"}},
        {"meter": {}},
        {"queue": 5},
        {"xt": None},
        {"jump": {}},
        {"frob": {"a": 1}},
        "frob 5",
    ],
)  # fmt: skip
def test_statements_out_of_form_stay_unknown(statement: object) -> None:
    chain = {
        "family": "ip",
        "table": "t",
        "name": "c",
        "type": "filter",
        "hook": "forward",
        "prio": 0,
        "policy": "accept",
    }
    rule = {"family": "ip", "table": "t", "chain": "c", "expr": [statement, {"drop": None}]}
    rules = Ruleset(nft_json.parse({"nftables": [{"chain": chain}, {"rule": rule}]}))
    result = ask(rules, packet())
    assert result.verdict in (OPEN, YES, NO)
    if result.verdict == OPEN:
        assert result.assumptions


def test_iptables_and_nft_views_of_one_table_are_merged() -> None:
    nft = (
        '{"nftables": [{"table": {"family": "ip", "name": "filter", "handle": 1}},'
        '{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter",'
        ' "hook": "forward", "prio": 0, "policy": "accept"}},'
        '{"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 7, "expr": ['
        '{"xt": {"type": "match", "name": "conntrack"}}, {"counter": {"packets": 0, "bytes": 0}}, {"drop": null}]}},'
        '{"table": {"family": "inet", "name": "own", "handle": 2}},'
        '{"chain": {"family": "inet", "table": "own", "name": "f", "handle": 1, "type": "filter", "hook": "forward",'
        ' "prio": 10, "policy": "drop"}}]}'
    )
    save = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    save += "[0:0] -A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"
    rules = load_ruleset(
        [
            NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend="nft", family="ip", text=save),
            NetfilterDump(format=DumpFormat.NFT_JSON, backend="nft", family="all", text=nft),
        ]
    )
    result = ask(rules, packet())
    assert result.verdict == YES
    assert result.decided_by is not None
    assert (result.decided_by.table, result.decided_by.text) == ("own", "policy drop")
    invalid = ask(rules, packet(), tracking=Tracking(state=CtState.INVALID)).decided_by
    assert invalid is not None
    assert (invalid.table, invalid.handle) == ("filter", 7)
