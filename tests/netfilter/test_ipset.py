"""ipset save as it is read, and membership as the kernel decides it."""

from __future__ import annotations

import pytest

from nettrace.errors import InputError
from nettrace.model.flow import Packet
from nettrace.model.netfilter import FilterVerdict
from nettrace.netfilter import parse_ipset_save
from tests.netfilter.packets import filter_table, ping, ruleset, tcp, udp, walk

SETS = """create ip hash:ip family inet hashsize 1024 maxelem 65536 counters comment
add ip 10.0.0.9 packets 3 bytes 4 comment "the \\"one\\""
create masked hash:ip family inet netmask 24
add masked 10.0.0.0
create net hash:net family inet
add net 10.0.0.0/8
add net 10.0.0.0/24 nomatch
add net 10.0.0.9
create pair hash:ip,port family inet
add pair 10.0.0.1,tcp:80
add pair 10.0.0.1,udp:53 timeout 20
add pair 10.0.0.1,icmp:8/0
create netport hash:net,port family inet
add netport 10.0.0.0/24,tcp:80
create triple hash:ip,port,ip family inet
add triple 10.0.0.9,tcp:80,10.0.0.1
create mac hash:mac
add mac 02:00:00:00:00:0A
create face hash:net,iface family inet
add face 10.0.0.0/8,eth0
create map bitmap:ip range 10.0.0.0/24
add map 10.0.0.5-10.0.0.12
create ports bitmap:port range 0-1024
add ports 79-81
create all list:set size 8
add all net
add all mac
create six hash:net family inet6
add six fd00::/8
"""


def held(match: str, packet: Packet, family: str = "ip") -> FilterVerdict:
    rules = ruleset(filter_table(f"-A FORWARD -m set {match} -j DROP"), ipset=SETS, family=family)
    return walk(rules, packet).verdict


@pytest.mark.parametrize(
    ("match", "packet", "inside"),
    [
        ("--match-set ip src", tcp(), True),
        ("--match-set ip dst", tcp(), False),
        ("! --match-set ip dst", tcp(), True),
        ("--match-set masked src", tcp(), True),
        ("--match-set masked src", tcp("10.0.1.9"), False),
        ("--match-set net src", tcp(), True),
        ("--match-set net src", tcp("10.0.0.8"), False),
        ("--match-set net src", tcp("10.0.1.8"), True),
        ("--match-set net src", tcp("11.0.0.1"), False),
        ("--match-set pair dst,dst", tcp(), True),
        ("--match-set pair dst,dst", tcp(dport=81), False),
        ("--match-set pair dst,src", tcp(), False),
        ("--match-set pair dst,dst", udp(), True),
        ("--match-set pair dst,dst", ping(), True),
        ("--match-set netport src,dst", tcp(), True),
        ("--match-set triple src,dst,dst", tcp(), True),
        ("--match-set triple dst,dst,src", tcp(), False),
        ("--match-set mac src", tcp(src_mac="02:00:00:00:00:0a"), True),
        ("--match-set mac src", tcp(src_mac="02:00:00:00:00:0b"), False),
        ("--match-set face src,src", tcp(), True),
        ("--match-set map src", tcp(), True),
        ("--match-set map src", tcp("10.0.0.13"), False),
        ("--match-set ports dst", tcp(), True),
        ("--match-set ports dst", tcp(dport=82), False),
        ("--match-set all src", tcp(src_mac="02:00:00:00:00:0b"), True),
        ("--match-set all src", tcp("11.0.0.1", src_mac="02:00:00:00:00:0a"), True),
        ("--match-set six src", tcp(), False),
    ],
)
def test_membership(match: str, packet: Packet, inside: bool) -> None:
    assert held(match, packet) == (FilterVerdict.DROP if inside else FilterVerdict.ACCEPT)


def test_ipv6_sets() -> None:
    assert held("--match-set six src", tcp("fd00::1", "fd00::2"), "ip6") == FilterVerdict.DROP
    assert held("--match-set ip src", tcp("fd00::1", "fd00::2"), "ip6") == FilterVerdict.ACCEPT


def test_what_is_not_listed_or_not_modelled_is_unknown() -> None:
    assert held("--match-set nowhere src", tcp()) == FilterVerdict.UNKNOWN
    assert held("--match-set ip src --packets-gt 3", tcp()) == FilterVerdict.UNKNOWN
    assert held("--match-set mac src", tcp()) == FilterVerdict.UNKNOWN


def test_options_and_members() -> None:
    (one,) = parse_ipset_save('create a hash:ip family inet timeout 300\nadd a 10.0.0.1 timeout 3 comment "x y"\n')
    assert (one.kind, one.family, one.options) == ("hash:ip", "inet", {"timeout": "300"})
    assert one.members == ((("10.0.0.1",), ("timeout 3", "comment x y")),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Name: x\nType: hash:ip\n", "ipset save"),
        ("add a 10.0.0.1\n", "line 1"),
        ("create a hash:ip\nwhat\n", "line 2"),
        ('create a hash:ip\nadd a 10.0.0.1 comment "x\n', "quotes"),
    ],
)
def test_what_is_no_ipset_save_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_ipset_save(text)
