"""One packet through one hook: order, jumps, conntrack, NAT, and what is not known."""

from __future__ import annotations

import msgspec
import pytest

from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, Tracking
from nettrace.model.snapshot import Tuple5
from nettrace.netfilter import Ruleset, load_ruleset
from nettrace.netfilter.evaluate import MAX_DOUBTS
from nettrace.netfilter.ruleset import (
    Accept,
    Base,
    BitTest,
    Const,
    Ct,
    Drop,
    In,
    Jump,
    Lookup,
    Meta,
    NamedSet,
    Nat,
    OneOf,
    Payload,
    Range,
    Reject,
    Return,
    RulesetBuilder,
    SetMeta,
    UnknownMatch,
    VerdictMap,
)
from nettrace.netfilter.skb import inverse, tuple_of
from tests.netfilter.packets import NEW, dump, filter_table, ip, ping, ruleset, tcp, udp, walk

A, D, R, U = FilterVerdict.ACCEPT, FilterVerdict.DROP, FilterVerdict.REJECT, FilterVerdict.UNKNOWN


# --- chains ---------------------------------------------------------------------------------------------------------


def test_the_policy_decides_when_no_rule_does() -> None:
    result = walk(ruleset(filter_table(policy="DROP")), tcp())
    assert result.verdict == D
    assert result.decided_by is not None
    assert (result.decided_by.index, result.decided_by.text) == (None, ":FORWARD DROP")


def test_jump_return_and_goto() -> None:
    rules = ruleset(
        filter_table(
            "-A FORWARD -j ONE",
            "-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            "-A ONE -p tcp -g TWO",
            "-A ONE -j DROP",
            "-A TWO -p tcp -m tcp --dport 80 -j ACCEPT",
            chains=("ONE", "TWO"),
        )
    )
    assert walk(rules, tcp()).verdict == A
    # The end of a chain that was gone to is the end of the chain that went there.
    result = walk(rules, tcp(dport=81))
    assert (result.verdict, result.reject_with) == (R, "icmp-host-prohibited")
    assert walk(rules, udp()).verdict == D


def test_the_trail_tells_the_whole_walk() -> None:
    rules = ruleset(filter_table("-A FORWARD -j ONE", "-A ONE -p tcp -j RETURN", "-A ONE -j DROP", chains=("ONE",)))
    trail = [(each.event, each.rule.chain, each.effect, each.level) for each in walk(rules, tcp()).trail]
    assert trail == [
        ("enter", "FORWARD", "", 0),
        ("match", "FORWARD", "jump ONE", 0),
        ("enter", "ONE", "", 1),
        ("match", "ONE", "return", 1),
        ("return", "ONE", "back to FORWARD", 1),
        ("policy", "FORWARD", "accept", 0),
    ]


def test_accept_ends_one_base_chain_and_drop_all() -> None:
    both = load_ruleset(
        [
            dump(filter_table("-A FORWARD -j ACCEPT")),
            dump(filter_table("-A FORWARD -p tcp -j DROP"), backend="legacy"),
        ]
    )
    result = walk(both, tcp())
    assert result.verdict == D
    assert result.decided_by is not None
    assert result.decided_by.backend == "legacy"
    assert walk(both, udp()).verdict == A


def test_base_chains_run_by_priority() -> None:
    builder = RulesetBuilder()
    table = builder.table("nft", "inet", "t")
    for priority, mark in ((10, 2), (-10, 1)):
        chain = table.chain(f"c{mark}", Base(hook=Hook.FORWARD, priority=priority))
        chain.add([SetMeta(key="mark", value=Const(value=mark))], f"meta mark set {mark}")
    assert walk(builder.build(), tcp()).packet.mark == 2


def test_inet_tables_see_both_families_and_a_match_of_one_says_no_to_the_other() -> None:
    builder = RulesetBuilder()
    chain = builder.table("nft", "inet", "t").chain("f", Base(hook=Hook.FORWARD, priority=0))
    v4 = In(left=Payload(protocol="ip", field="saddr"), items=(1,), negate=True)
    chain.add([v4, Drop()], "ip saddr != 0.0.0.1 drop")
    assert walk(builder.build(), tcp()).verdict == D
    assert walk(builder.build(), tcp("fd00::1", "fd00::2")).verdict == A


def test_verdict_maps_and_sets() -> None:
    builder = RulesetBuilder()
    table = builder.table("nft", "ip", "t")
    table.add_set(NamedSet(name="ports", elements=((80, None), (Range(low=100, high=200), None))))
    table.add_set(NamedSet(name="grown", elements=((80, None),), complete=False))
    chain = table.chain("f", Base(hook=Hook.FORWARD, priority=0))
    dport = Payload(protocol="tcp", field="dport")
    chain.add([VerdictMap(key=Meta(key="oifname"), entries=(("br0", Jump(chain="in")),))], "oifname vmap { … }")
    chain.add([Lookup(left=dport, name="grown"), Drop()], "tcp dport @grown drop")
    inner = table.chain("in")
    inner.add([Lookup(left=dport, name="ports"), Accept()], "tcp dport @ports accept")
    inner.add([Return()], "return")
    rules = builder.build()
    assert walk(rules, tcp()).verdict == A
    assert walk(rules, tcp(dport=150)).verdict == A
    unsure = walk(rules, tcp(dport=90))
    assert unsure.verdict == U
    assert "contents" in unsure.assumptions[0].reason


def test_compiled_programs_are_kept() -> None:
    rules = ruleset(filter_table("-A FORWARD -j DROP"))
    walk(rules, tcp())
    held = dict(rules.compiled)
    walk(rules, tcp())
    assert rules.compiled == held


@pytest.mark.parametrize(
    ("rule", "mark", "want"),
    [
        ("--set-xmark 0x1/0xffffffff", 6, 1),
        ("--set-xmark 0x2/0x3", 5, 6),
        ("--set-mark 0x6/0x3", 0xF1, 0xF6),
        ("--and-mark 0xfe", 0x1FF, 0xFE),
        ("--or-mark 0x10", 1, 0x11),
        ("--xor-mark 0x3", 1, 2),
    ],
)
def test_marks(rule: str, mark: int, want: int) -> None:
    rules = ruleset(filter_table(f"-A FORWARD -j MARK {rule}", table="mangle"))
    assert walk(rules, tcp(mark=mark)).packet.mark == want


def test_connmark_saves_and_restores() -> None:
    text = filter_table("-A FORWARD -m mark --mark 0x5 -j CONNMARK --save-mark", table="mangle")
    kept = walk(ruleset(text), tcp(mark=5)).tracking
    assert kept.mark == 5
    restore = ruleset(filter_table("-A FORWARD -j CONNMARK --restore-mark", table="mangle"))
    assert walk(restore, tcp(), tracking=kept).packet.mark == 5


@pytest.mark.parametrize(
    ("rule", "field", "want"),
    [
        ("-j TTL --ttl-set 3", "ttl", 3),
        ("-j TTL --ttl-inc 2", "ttl", 66),
        ("-j TTL --ttl-dec 2", "ttl", 62),
        ("-j DSCP --set-dscp 0x0a", "tos", 0x29),
        ("-j TOS --set-tos 0x10/0xff", "tos", 0x10),
        ("-j TOS --or-tos 0x08", "tos", 0x09),
    ],
)
def test_header_fields_are_rewritten(rule: str, field: str, want: int) -> None:
    result = walk(ruleset(filter_table(f"-A FORWARD {rule}", table="mangle")), tcp(tos=1))
    assert getattr(result.packet, field) == want


def test_only_the_mangle_table_reroutes_a_local_packet_for_its_mark() -> None:
    mangle = ruleset(filter_table("-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff", table="mangle"))
    plain = ruleset(filter_table("-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff"))
    assert walk(mangle, tcp(), Hook.OUTPUT).route_changed
    assert not walk(plain, tcp(), Hook.OUTPUT).route_changed
    assert not walk(mangle, tcp(mark=1), Hook.OUTPUT).route_changed


# --- conntrack ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "state", "matches"),
    [
        ("NEW", CtState.NEW, True),
        ("RELATED,ESTABLISHED", CtState.ESTABLISHED, True),
        ("RELATED,ESTABLISHED", CtState.NEW, False),
        ("INVALID", CtState.INVALID, True),
        ("INVALID", CtState.NONE, True),
        ("INVALID", CtState.UNTRACKED, False),
        ("UNTRACKED", CtState.UNTRACKED, True),
    ],
)
def test_states(states: str, state: CtState, matches: bool) -> None:
    for match in (f"-m conntrack --ctstate {states}", f"-m state --state {states}"):
        result = walk(ruleset(filter_table(f"-A FORWARD {match} -j DROP")), tcp(), tracking=Tracking(state=state))
        assert result.verdict == (D if matches else A)


def test_rules_before_conntrack_do_not_see_the_state() -> None:
    raw = filter_table("-A PREROUTING -m conntrack --ctstate NEW -j DROP", table="raw")
    mangle = filter_table("-A PREROUTING -m conntrack --ctstate NEW -j DROP", table="mangle")
    assert walk(ruleset(raw), tcp(), Hook.PREROUTING).verdict == A
    assert walk(ruleset(mangle), tcp(), Hook.PREROUTING).verdict == D
    # A packet that comes back through lo has been seen.
    assert walk(ruleset(raw), tcp(), Hook.PREROUTING, loopback=True).verdict == D


def test_notrack_hides_the_packet_from_conntrack_and_nat() -> None:
    rules = ruleset(
        filter_table("-A PREROUTING -p tcp -j CT --notrack", table="raw"),
        filter_table("-A PREROUTING -j DNAT --to-destination 10.9.9.9", table="nat"),
    )
    result = walk(rules, tcp(), Hook.PREROUTING)
    assert (result.tracking.state, result.nats) == (CtState.UNTRACKED, ())
    assert walk(rules, udp(), Hook.PREROUTING).packet.dst == ip("10.9.9.9")


def test_neighbour_discovery_is_untracked() -> None:
    result = walk(ruleset(family="ip6"), ping("fe80::1", "fe80::2", icmp_type=135), Hook.PREROUTING)
    assert result.tracking.state == CtState.UNTRACKED


def test_xt_conntrack_without_an_entry() -> None:
    invalid = Tracking(state=CtState.INVALID)
    both = ruleset(filter_table("-A FORWARD -m conntrack --ctstate INVALID --ctproto udp -j DROP"))
    assert walk(both, tcp(), tracking=invalid).verdict == D
    alone = ruleset(filter_table("-A FORWARD -m conntrack ! --ctproto udp -j DROP"))
    assert walk(alone, tcp(), tracking=invalid).verdict == A


def test_conntrack_tuples_and_direction() -> None:
    orig = tuple_of(tcp(dst="10.0.0.1", dport=8080))
    reply = msgspec.structs.replace(inverse(orig), src=ip("172.17.0.2"), sport=80)
    tracking = Tracking(state=CtState.ESTABLISHED, orig=orig, reply_tuple=reply, status=("dst_nat",))
    for match in (
        "--ctorigdst 10.0.0.1",
        "--ctorigdstport 8080",
        "--ctdir ORIGINAL",
        "--ctstate DNAT",
        "--ctreplsrc 172.17.0.0/16",
    ):
        rules = ruleset(filter_table(f"-A FORWARD -m conntrack {match} -j DROP"))
        assert walk(rules, tcp(), tracking=tracking).verdict == D, match
    rules = ruleset(filter_table("-A FORWARD -m conntrack --ctdir REPLY -j DROP"))
    assert walk(rules, tcp(), tracking=msgspec.structs.replace(tracking, reply=True)).verdict == D


# --- address translation --------------------------------------------------------------------------------------------


def nat(*rules: str, chains: tuple[str, ...] = (), family: str = "ip") -> Ruleset:
    return ruleset(filter_table(*rules, table="nat", chains=chains), family=family)


def test_dnat_for_a_new_flow_only() -> None:
    rules = nat("-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80")
    result = walk(rules, tcp(dport=8080), Hook.PREROUTING)
    assert (result.packet.dst, result.packet.dport) == (ip("172.17.0.2"), 80)
    (made,) = result.nats
    assert (made.kind, made.old_dst, made.new_dst, made.old_dport, made.new_dport) == (
        "dnat", ip("10.0.0.1"), ip("172.17.0.2"), 8080, 80,
    )  # fmt: skip
    assert (made.old_src, made.new_src) == (None, None)
    assert result.tracking.status == ("dst_nat",)
    assert result.tracking.nat_done == ("dst",)
    assert result.tracking.reply_tuple is not None
    assert (result.tracking.reply_tuple.src, result.tracking.reply_tuple.sport) == (ip("172.17.0.2"), 80)
    assert result.trail[-1].effect == "dnat to 172.17.0.2:80"
    # Asked again with its entry, the packet is translated by the entry and not by the rule.
    again = walk(
        Ruleset(), tcp(dport=8080), Hook.PREROUTING, msgspec.structs.replace(result.tracking, state=CtState.ESTABLISHED)
    )
    assert (again.packet.dst, again.packet.dport, again.nats) == (ip("172.17.0.2"), 80, ())


def test_replies_are_translated_back_without_any_rule() -> None:
    forward = walk(nat("-A PREROUTING -j DNAT --to-destination 172.17.0.2:80"), tcp(dport=8080), Hook.PREROUTING)
    out = walk(
        nat("-A POSTROUTING -j MASQUERADE"), forward.packet, Hook.POSTROUTING, forward.tracking,
        source_for=lambda _oif, _dst: ip("172.17.0.1"),
    )  # fmt: skip
    assert out.packet.src == ip("172.17.0.1")
    answer = tcp("172.17.0.2", "172.17.0.1", dport=40000, sport=80)
    back = msgspec.structs.replace(out.tracking, reply=True, state=CtState.ESTABLISHED)
    first = walk(Ruleset(), answer, Hook.PREROUTING, back)
    assert first.packet.dst == ip("10.0.0.9")
    last = walk(Ruleset(), first.packet, Hook.POSTROUTING, first.tracking)
    assert (last.packet.src, last.packet.sport) == (ip("10.0.0.1"), 8080)


def test_icmp_errors_are_translated_with_what_they_quote() -> None:
    orig = tuple_of(udp("172.17.0.2", "8.8.8.8"))
    reply = msgspec.structs.replace(inverse(orig), dst=ip("192.0.2.1"), dport=50000)
    tracking = Tracking(state=CtState.RELATED, reply=True, orig=orig, reply_tuple=reply, status=("src_nat",))
    quoted = udp("192.0.2.1", "8.8.8.8", sport=50000)
    error = Packet(
        family=4, src=ip("198.51.100.1"), dst=ip("192.0.2.1"), proto=1, icmp_type=3, icmp_code=4, quoted=quoted
    )
    result = walk(nat("-A PREROUTING -j DNAT --to-destination 1.2.3.4"), error, Hook.PREROUTING, tracking)
    assert result.packet.dst == ip("172.17.0.2")
    assert result.packet.quoted is not None
    assert (result.packet.quoted.src, result.packet.quoted.sport) == (ip("172.17.0.2"), 40000)
    assert result.nats == ()


def test_masquerade_takes_the_address_of_the_way_out() -> None:
    rules = nat("-A POSTROUTING -s 10.0.0.0/24 ! -o docker0 -j MASQUERADE")
    result = walk(rules, tcp(), Hook.POSTROUTING, source_for=lambda oif, dst: ip("192.0.2.1"))
    assert result.packet.src == ip("192.0.2.1")
    none = walk(rules, tcp(), Hook.POSTROUTING, source_for=lambda oif, dst: None)
    assert none.verdict == D
    untold = walk(rules, tcp(), Hook.POSTROUTING)
    assert (untold.verdict, untold.nats[0].new_src) == (A, None)
    assert "not known" in untold.assumptions[0].reason


def test_redirect_goes_to_the_device_or_to_loopback() -> None:
    rules = nat("-A PREROUTING -p tcp -j REDIRECT --to-ports 3128", "-A OUTPUT -p tcp -j REDIRECT --to-ports 3128")
    inward = walk(rules, tcp(), Hook.PREROUTING, primary_address=lambda dev: ip("192.0.2.7"))
    assert (inward.packet.dst, inward.packet.dport) == (ip("192.0.2.7"), 3128)
    local = walk(rules, tcp(), Hook.OUTPUT)
    assert (local.packet.dst, local.packet.dport, local.route_changed) == (ip("127.0.0.1"), 3128, True)


def test_netmap_keeps_the_host_part() -> None:
    rules = nat("-A PREROUTING -d 10.0.0.0/24 -j NETMAP --to 192.168.5.0/24")
    assert walk(rules, tcp(dst="10.0.0.77"), Hook.PREROUTING).packet.dst == ip("192.168.5.77")


@pytest.mark.parametrize(
    ("to", "sport", "want", "chosen"),
    [
        ("192.0.2.1", 40000, 40000, False),
        ("192.0.2.1:1000", 40000, 1000, False),
        ("192.0.2.1:1000-1010", 1005, 1005, False),
        ("192.0.2.1:1000-1010", 40000, 1000, True),
        ("192.0.2.1 --random", 40000, 40000, True),
    ],
)
def test_source_ports(to: str, sport: int, want: int, chosen: bool) -> None:
    result = walk(nat(f"-A POSTROUTING -p tcp -j SNAT --to-source {to}"), tcp(sport=sport), Hook.POSTROUTING)
    assert result.nats[0].port_chosen_by_kernel is chosen
    assert result.packet.sport == want
    assert result.packet.src == ip("192.0.2.1")


@pytest.mark.parametrize(
    ("to", "dport", "want"),
    [
        ("10.9.9.9:1000-1010", 1005, 1005),
        ("10.9.9.9:1000-1010", 80, 1000),
        ("10.9.9.9:2000-2010/1000", 1003, 2003),
        (":99", 80, 99),
    ],
)
def test_destination_ports(to: str, dport: int, want: int) -> None:
    rules = nat(f"-A PREROUTING -p tcp -j DNAT --to-destination {to}")
    assert walk(rules, tcp(dport=dport), Hook.PREROUTING).packet.dport == want


def test_an_address_range_is_chosen_as_the_kernel_hashes() -> None:
    rules = nat("-A PREROUTING -j DNAT --to-destination 10.71.2.2-10.71.2.6")
    chosen = {
        str(walk(rules, tcp(src=f"10.71.1.{i}", dst="203.0.113.5"), Hook.PREROUTING).packet.dst) for i in range(2, 60)
    }
    assert chosen == {f"10.71.2.{i}" for i in range(2, 7)}


def test_a_source_address_from_a_range_is_taken_for_granted_not_guessed() -> None:
    result = walk(nat("-A POSTROUTING -j SNAT --to-source 192.0.2.1-192.0.2.9"), tcp(), Hook.POSTROUTING)
    assert result.verdict == A
    assert "drawn" in result.assumptions[0].reason


def test_ipv6_destinations_in_brackets() -> None:
    rules = nat("-A PREROUTING -p tcp -j DNAT --to-destination [fd00::5]:80", family="ip6")
    result = walk(rules, tcp("fd00::1", "fd00::2", dport=8080), Hook.PREROUTING)
    assert (result.packet.dst, result.packet.dport) == (ip("fd00::5"), 80)
    assert result.trail[-1].effect == "dnat to [fd00::5]:80"


def test_the_first_translation_wins_across_base_chains() -> None:
    builder = RulesetBuilder()
    for name, priority, target in (("late", -90, 2), ("early", -110, 1)):
        table = builder.table("nft", "ip", name)
        chain = table.chain("pre", Base(hook=Hook.PREROUTING, priority=priority, kind="nat"))
        chain.add([Nat(kind="dnat", address=Const(value=target))], f"dnat to 0.0.0.{target}")
    result = walk(builder.build(), tcp(), Hook.PREROUTING)
    assert int(result.packet.dst) == 1
    assert len(result.nats) == 1


def test_a_target_that_the_kernel_draws_leaves_the_verdict_open() -> None:
    builder = RulesetBuilder()
    chain = builder.table("nft", "ip", "t").chain("pre", Base(hook=Hook.PREROUTING, priority=-100, kind="nat"))
    chain.add([Nat(kind="dnat", address=OneOf(values=(1, 2), reason="it is drawn"))], "dnat to numgen …")
    result = walk(builder.build(), tcp(), Hook.PREROUTING)
    assert result.verdict == U
    assert result.assumptions[0].reason == "it is drawn"


# --- what is not known ----------------------------------------------------------------------------------------------


LIMIT = "-m limit --limit 3/min"


def test_a_doubt_that_decides_nothing_is_no_assumption() -> None:
    rules = ruleset(filter_table(f"-A FORWARD {LIMIT} -j DROP", "-A FORWARD -j DROP"))
    result = walk(rules, tcp())
    assert (result.verdict, result.assumptions) == (D, ())


def test_only_the_doubt_that_tips_is_named() -> None:
    rules = ruleset(
        filter_table(
            f"-A FORWARD -p tcp {LIMIT} -j AGREE",
            f"-A FORWARD -p tcp {LIMIT} -m comment --comment tips -j DROP",
            f"-A FORWARD -p udp {LIMIT} -j DROP",
            "-A AGREE -s 192.0.2.1 -j DROP",
            chains=("AGREE",),
        )
    )
    result = walk(rules, tcp())
    assert result.verdict == U
    assert [each.rule.index for each in result.assumptions] == [2]


def test_a_rule_that_drops_for_certain_hides_the_doubts_after_it() -> None:
    rules = ruleset(filter_table("-A FORWARD -p tcp -j DROP", f"-A FORWARD {LIMIT} -j ACCEPT"))
    assert walk(rules, tcp()).assumptions == ()


def test_the_same_fact_is_decided_once() -> None:
    # "In the set" and "not in the set" cannot both be false.
    rules = ruleset(
        filter_table(
            "-A FORWARD -m set --match-set x src -j DROP",
            "-A FORWARD -m set ! --match-set x src -j DROP",
        )
    )
    assert walk(rules, tcp()).verdict == D


def test_a_mark_in_doubt_is_told_but_leaves_the_verdict() -> None:
    rules = ruleset(filter_table(f"-A FORWARD {LIMIT} -j MARK --set-xmark 0x1/0xffffffff", table="mangle"))
    result = walk(rules, tcp())
    assert result.verdict == A
    assert "marks" in result.assumptions[0].reason


def test_a_mark_in_doubt_that_decides_later_makes_the_verdict_unknown() -> None:
    rules = ruleset(
        filter_table(f"-A FORWARD {LIMIT} -j MARK --set-xmark 0x1/0xffffffff", table="mangle"),
        filter_table("-A FORWARD -m mark --mark 0x1 -j DROP"),
    )
    result = walk(rules, tcp())
    assert result.verdict == U
    assert [each.rule.table for each in result.assumptions] == ["mangle"]


def test_ports_that_are_not_given_are_not_guessed() -> None:
    rules = ruleset(filter_table("-A FORWARD -p tcp -m tcp --sport 1024: -j DROP"))
    result = walk(rules, tcp(sport=None))
    assert result.verdict == U
    assert "source port" in result.assumptions[0].reason


def test_many_doubts_in_a_row_stay_cheap_and_exact() -> None:
    agree = [f"-A FORWARD {LIMIT} -j C{i}" for i in range(100)]
    rules = ruleset(filter_table(*agree, chains=tuple(f"C{i}" for i in range(100))))
    result = walk(rules, tcp())
    assert (result.verdict, result.assumptions) == (A, ())


def test_more_doubts_than_can_be_walked_are_unknown() -> None:
    rules = ruleset(filter_table(*[f"-A FORWARD {LIMIT} -j DROP"] * (MAX_DOUBTS + 50)))
    result = walk(rules, tcp())
    assert result.verdict == U
    assert any("more than" in each.reason for each in result.assumptions)


def test_queues() -> None:
    taken = walk(ruleset(filter_table("-A FORWARD -j NFQUEUE --queue-num 1")), tcp())
    assert taken.verdict == FilterVerdict.STOLEN
    bypass = walk(ruleset(filter_table("-A FORWARD -j NFQUEUE --queue-num 1 --queue-bypass")), tcp())
    assert bypass.verdict == U


def test_tproxy_accepts_with_its_mark_or_drops() -> None:
    rule = "-A PREROUTING -p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff"
    rules = ruleset(filter_table(rule, table="mangle"))
    assert walk(rules, tcp(), Hook.PREROUTING, socket=lambda _packet: False).verdict == D
    assert walk(rules, tcp(), Hook.PREROUTING).verdict == U


def test_an_unknown_in_one_rule_is_resumed_after_the_expression_in_doubt() -> None:
    builder = RulesetBuilder()
    chain = builder.table("nft", "ip", "t").chain("f", Base(hook=Hook.FORWARD, priority=0))
    doubts = [UnknownMatch(text=f"x{i}", reason=f"r{i}", stateful=True) for i in range(3)]
    chain.add([*doubts, SetMeta(key="mark", value=Const(value=9)), Reject(kind="tcp reset")], "x0 x1 x2 reject")
    result = walk(builder.build(), tcp())
    assert result.verdict == U
    assert {each.reason for each in result.assumptions} == {"r0", "r1", "r2"}


def test_bits_and_absent_operands() -> None:
    builder = RulesetBuilder()
    chain = builder.table("nft", "ip", "t").chain("f", Base(hook=Hook.FORWARD, priority=0))
    chain.add([BitTest(left=Ct(key="status"), mask=0x20), Drop()], "ct status dnat drop")
    chain.add([In(left=Ct(key="mark"), items=(7,), negate=True), Drop()], "ct mark != 7 drop")
    rules = builder.build()
    assert walk(rules, tcp(), tracking=Tracking(state=CtState.INVALID)).verdict == A
    assert walk(rules, tcp(), tracking=Tracking(state=CtState.NEW, mark=7)).verdict == A
    assert walk(rules, tcp(), tracking=Tracking(state=CtState.NEW, mark=7, status=("dst_nat",))).verdict == D
    assert walk(rules, tcp(), tracking=NEW).verdict == D


def test_inverse_of_a_tuple() -> None:
    one = Tuple5(src=ip("10.0.0.1"), dst=ip("10.0.0.2"), proto=1, icmp_type=8, icmp_code=0, icmp_id=3)
    assert inverse(one).icmp_type == 0
    assert inverse(inverse(one)) == one
