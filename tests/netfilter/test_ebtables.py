"""ebtables-save as it is read, and bridged frames walked through it."""

from __future__ import annotations

from typing import Any

import pytest

from nettrace.errors import InputError
from nettrace.model.netfilter import FilterVerdict, Hook
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import Ruleset, load_ruleset, parse_ebtables_save
from tests.netfilter.packets import tcp, udp, walk

A, D, U = FilterVerdict.ACCEPT, FilterVerdict.DROP, FilterVerdict.UNKNOWN


def rules(*lines: str, table: str = "filter", policy: str = "ACCEPT") -> Ruleset:
    hooks = ("INPUT", "FORWARD", "OUTPUT") if table == "filter" else ("PREROUTING", "OUTPUT", "POSTROUTING")
    text = "\n".join([f"*{table}", *(f":{hook} {policy}" for hook in hooks), *lines, ""])
    return load_ruleset([NetfilterDump(format=DumpFormat.EBTABLES_SAVE, backend="nft", family="bridge", text=text)])


def bridged(made: Ruleset, packet: Any = None, hook: Hook = Hook.FORWARD, **context: Any) -> FilterVerdict:
    fields = {"family": "bridge", "iif": "veth1", "oif": "veth2", "bridge": "br0"} | context
    frame = tcp(src_mac="02:00:00:00:00:01", dst_mac="02:00:00:00:00:02") if packet is None else packet
    return walk(made, frame, hook, **fields).verdict


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("-j DROP", D),
        ("-p IPv4 -j DROP", D),
        ("-p IPv6 -j DROP", A),
        ("-p ARP -j DROP", A),
        ("-p 0800 -j DROP", D),
        ("-i veth1 -j DROP", D),
        ("-i veth+ -j DROP", D),
        ("! -i veth1 -j DROP", A),
        ("-o veth1 -j DROP", A),
        ("--logical-in br0 -j DROP", D),
        ("-s 02:00:00:00:00:01 -j DROP", D),
        ("-s ! 02:00:00:00:00:01 -j DROP", A),
        ("-d 02:00:00:00:00:00/ff:ff:ff:ff:ff:00 -j DROP", D),
        ("-d Multicast -j DROP", A),
        ("-p IPv4 --ip-src 10.0.0.0/24 --ip-proto tcp --ip-dport 80 -j DROP", D),
        ("-p IPv4 --ip-proto udp -j DROP", A),
        ("-p IPv4 --ip-dst 10.0.0.1 -j CONTINUE", A),
        ("-p IPv4 --ip-sport 1:100 -j DROP", A),
        ("--pkttype-type host -j DROP", U),
        ("--limit 3/sec --limit-burst 5 -j DROP", U),
        ("--vlan-id 5 -j DROP", U),
        ("--log-level notice --log-prefix x -j CONTINUE", A),
        ("-j dnat --to-destination 02:00:00:00:00:09", U),
        ("-j mark --mark-set 0x3 --mark-target DROP", D),
        ("-j mark --mark-set nonsense --mark-target DROP", U),
        ('--log-level info --log-prefix "-j x" -j DROP', D),
        ("-j snat --to-src 02:00:00:00:00:03 --snat-arp --snat-target DROP", D),
    ],
)
def test_rules(rule: str, verdict: FilterVerdict) -> None:
    assert bridged(rules(f"-A FORWARD {rule}")) == verdict


def test_a_chain_of_the_user_has_a_policy() -> None:
    drops = rules(":mine DROP", "-A FORWARD -j mine", "-A mine -p IPv4 --ip-proto tcp -j RETURN")
    assert bridged(drops) == A
    assert bridged(drops, udp()) == D
    accepts = rules(":mine ACCEPT", "-A FORWARD -j mine", "-A FORWARD -j DROP")
    assert bridged(accepts) == A
    returns = rules(":mine RETURN", "-A FORWARD -j mine", "-A FORWARD -j DROP")
    assert bridged(returns) == D


def test_ip_rules_do_not_meet_bridged_frames() -> None:
    assert bridged(Ruleset()) == A
    made = rules("-A PREROUTING -j mark --mark-set 0x3", table="nat")
    result = walk(made, tcp(), Hook.PREROUTING, family="bridge")
    assert result.packet.mark == 3


def test_the_receiver_of_a_frame_can_be_rewritten() -> None:
    made = rules("-A PREROUTING -p IPv4 -j dnat --to-destination 02:00:00:00:00:0A --dnat-target CONTINUE", table="nat")
    result = walk(made, tcp(), Hook.PREROUTING, family="bridge")
    assert (result.verdict, result.packet.dst_mac) == (A, "02:00:00:00:00:0a")
    assert [each.effect for each in result.trail if each.event == "match"] == ["set ether daddr, continue"]
    made = rules("-A PREROUTING -j redirect --redirect-target DROP", table="nat")
    result = walk(made, tcp(), Hook.PREROUTING, family="bridge", bridge_mac="02:00:00:00:00:0b")
    assert (result.verdict, result.packet.dst_mac) == (D, "02:00:00:00:00:0b")


@pytest.mark.parametrize(
    "text", ["-A FORWARD -j DROP\n", "*nonesuch\n", "*filter\n:X MAYBE\n", "*filter\nwhat\n", "*filter\n-A X -j DROP\n"]
)
def test_what_is_no_ebtables_save_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="line"):
        parse_ebtables_save(text)
