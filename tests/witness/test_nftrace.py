"""The rule trace against the kernel: what decides is named, and nothing stays behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import load_ruleset
from nettrace.netfilter.handles import RuleHandles
from probes.witness.base import Lost, WitnessError, close_together
from probes.witness.marks import NETWORK, TRANSPORT, Compare, Mark
from probes.witness.nftrace import RuleEvent, RuleTrace, open_rule_trace, read_handles
from tests.witness.rig import CONTAINER, CONTAINER6, HOST, OUTSIDE, OUTSIDE6, Rig

pytestmark = [pytest.mark.live, pytest.mark.alone]

ROOT = Path(__file__).parent.parent.parent


def echo(src: str = CONTAINER, dst: str = OUTSIDE, ident: int = 0x4E54) -> list[Mark]:
    """What marks the echoes between two addresses, both ways, by their id."""
    six = ":" in src
    offsets = (8, 24) if six else (12, 16)
    one, other = ip_address(src).packed, ip_address(dst).packed
    return [
        Mark(
            family=6 if six else 4,
            proto=58 if six else 1,
            compares=(
                Compare(base=NETWORK, offset=offsets[0], value=way[0]),
                Compare(base=NETWORK, offset=offsets[1], value=way[1]),
                Compare(base=TRANSPORT, offset=4, value=ident.to_bytes(2, "big")),
            ),
        )
        for way in ((one, other), (other, one))
    ]


def events(trace: RuleTrace) -> list[RuleEvent]:
    out = trace.read()
    assert not [each for each in out if isinstance(each, Lost)]
    return [each for each in out if isinstance(each, RuleEvent) and each.marked]


def dumps(rig: Rig, *families: str) -> list[NetfilterDump]:
    tools = {"ip": "iptables-save", "ip6": "ip6tables-save"}
    out = [
        NetfilterDump(
            format=DumpFormat.IPTABLES_SAVE,
            backend="nft",
            family=each,
            text=rig.inside("h", tools[each], "-c"),
        )
        for each in families
    ]
    text = rig.inside("h", "nft", "-j", "list", "ruleset")
    return [*out, NetfilterDump(format=DumpFormat.NFT_JSON, backend="nft", family="all", text=text)]


def tables(rig: Rig, end: str = "h") -> str:
    return rig.inside(end, "nft", "list", "tables")


def test_an_iptables_drop_is_named_down_to_its_handle(hosts: Rig) -> None:
    hosts.inside("h", "iptables", "-N", "LOCK")
    hosts.inside("h", "iptables", "-A", "FORWARD", "-j", "LOCK")
    hosts.inside("h", "iptables", "-A", "LOCK", "-p", "tcp", "-j", "ACCEPT")
    hosts.inside("h", "iptables", "-A", "LOCK", "-d", OUTSIDE, "-m", "comment", "--comment", "the one", "-j", "DROP")
    listed = dumps(hosts, "ip")
    with open_rule_trace(hosts.pins["h"], echo()) as trace:
        assert not hosts.ping()
        assert select.select([trace], [], [], 0)[0] == [trace]
        seen = events(trace)
    last = seen[-1]
    assert (last.family, last.table, last.chain, last.kind, last.verdict) == ("ip", "filter", "LOCK", "rule", "drop")
    assert [(each.chain, each.verdict, each.target) for each in seen[:-1]] == [("FORWARD", "jump", "LOCK")]
    assert seen[0].iif is not None
    assert seen[0].network[12:16] == ip_address(CONTAINER).packed
    assert last.handle is not None
    rules = RuleHandles(load_ruleset(listed), dumps=listed)
    ref = rules.rule(last.family, last.table, last.chain, last.handle)
    assert ref is not None
    assert (ref.index, ref.handle) == (2, last.handle)
    assert ref.text.startswith(f"-A LOCK -d {OUTSIDE}/32")
    assert rules.rule("ip", "filter", "LOCK", 999) is None


def test_the_kernels_own_order_joins_where_nft_is_not_installed(hosts: Rig) -> None:
    hosts.inside("h", "iptables", "-A", "FORWARD", "-p", "udp", "-j", "ACCEPT")
    hosts.inside("h", "iptables", "-I", "FORWARD", "-s", CONTAINER, "-j", "REJECT")
    listed = [each for each in dumps(hosts, "ip") if each.format == DumpFormat.IPTABLES_SAVE]
    order = read_handles(hosts.pins["h"])
    with open_rule_trace(hosts.pins["h"], echo()) as trace:
        hosts.ping()
        last = events(trace)[-1]
    assert last.handle is not None
    assert RuleHandles(load_ruleset(listed)).rule("ip", "filter", "FORWARD", last.handle) is None
    ref = RuleHandles(load_ruleset(listed), order=order).rule("ip", "filter", "FORWARD", last.handle)
    assert ref is not None
    assert (ref.index, ref.handle) == (1, last.handle)
    assert "REJECT" in ref.text


def test_a_policy_is_named(hosts: Rig) -> None:
    hosts.inside("h", "iptables", "-P", "FORWARD", "DROP")
    listed = dumps(hosts, "ip")
    with open_rule_trace(hosts.pins["h"], echo()) as trace:
        assert not hosts.ping()
        last = events(trace)[-1]
    assert (last.kind, last.verdict, last.chain, last.handle) == ("policy", "drop", "FORWARD", None)
    policy = RuleHandles(load_ruleset(listed)).chain(last.family, last.table, last.chain)
    assert policy is not None
    assert (policy.index, policy.text) == (None, ":FORWARD DROP")


def test_masquerade_is_followed_in_both_directions(hosts: Rig) -> None:
    hosts.inside("h", "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
    hosts.inside("h", "nft", "add table ip watch")
    hosts.inside("h", "nft", "add chain ip watch pre { type filter hook prerouting priority -300; }")
    ident = 0x6E01
    with open_rule_trace(hosts.pins["h"], [*echo(ident=ident), *echo(HOST, OUTSIDE, ident)]) as trace:
        assert hosts.ping(ident=ident)
        seen = events(trace)
    asked, answered = list(dict.fromkeys(each.id for each in seen))
    nat = [each for each in seen if each.table == "nat"]
    assert [(each.id, each.chain, each.kind, each.verdict) for each in nat] == [
        (asked, "POSTROUTING", "rule", "accept")
    ]
    first = next(each for each in seen if each.id == answered)
    assert first.network[12:20] == ip_address(OUTSIDE).packed + ip_address(HOST).packed
    assert first.transport[0] == 0


def test_ipv6_through_nft_with_verdict_and_return(hosts: Rig) -> None:
    hosts.inside(
        "h",
        "nft",
        "-f",
        "-",
        stdin=textwrap.dedent("""
        table inet fw {
            chain sub { meta l4proto ipv6-icmp return; }
            chain through {
                type filter hook forward priority 0; policy accept;
                jump sub
                ip6 daddr 2001:db8::9 counter drop
            }
        }"""),
    )
    with open_rule_trace(hosts.pins["h"], echo(CONTAINER6, OUTSIDE6)) as trace:
        assert not hosts.ping(dst=OUTSIDE6)
        seen = events(trace)
    steps = [(each.chain, each.kind, each.verdict) for each in seen]
    assert steps == [("through", "rule", "jump"), ("sub", "rule", "return"), ("through", "rule", "drop")]
    assert {(each.family, each.nfproto) for each in seen} == {("inet", 10)}


def test_other_packets_are_not_reported(hosts: Rig) -> None:
    hosts.inside("h", "nft", "add table ip fw")
    hosts.inside("h", "nft", "add chain ip fw through { type filter hook forward priority 0; }")
    # Somebody else traces everything.
    hosts.inside("h", "nft", "add chain ip fw early { type filter hook prerouting priority -300; }")
    hosts.inside("h", "nft", "add rule ip fw early meta nftrace set 1")
    with open_rule_trace(hosts.pins["h"], echo(ident=7)) as trace:
        hosts.ping(ident=8)
        assert events(trace) == []
        hosts.ping(ident=7)
        assert events(trace)


def test_two_at_once_each_hear_their_own(hosts: Rig) -> None:
    hosts.inside("h", "nft", "add table ip fw")
    hosts.inside("h", "nft", "add chain ip fw through { type filter hook forward priority 0; }")
    with (
        open_rule_trace(hosts.pins["h"], echo(ident=11)) as one,
        open_rule_trace(hosts.pins["h"], echo(ident=12)) as two,
    ):
        hosts.ping(ident=11)
        assert events(one)
        assert events(two) == []
        one.close()
        hosts.ping(ident=12)
        assert events(two)
    assert "nettrace" not in tables(hosts)


def test_a_table_of_another_owner_stays(hosts: Rig) -> None:
    with subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{hosts.tag}-h", "nft", "-i"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as other:
        assert other.stdin is not None
        other.stdin.write("add table ip theirs { flags owner; }\n")
        other.stdin.flush()
        deadline = time.monotonic() + 5
        while "theirs" not in tables(hosts) and time.monotonic() < deadline:
            time.sleep(0.02)
        with open_rule_trace(hosts.pins["h"], echo(), bridge=True) as trace:
            assert trace.bridge_refused is None
            assert f"inet {trace.table}" in tables(hosts)
            assert f"bridge {trace.table}" in tables(hosts)
        assert tables(hosts).split() == ["table", "ip", "theirs"]
        other.stdin.close()
        other.wait(5)


def test_the_kernel_removes_the_table_of_a_killed_process(hosts: Rig) -> None:
    script = textwrap.dedent("""
        import sys, time
        from nettrace.netns import pin
        from probes.witness.marks import Mark
        from probes.witness.nftrace import open_rule_trace
        trace = open_rule_trace(pin(sys.argv[1]), [Mark(family=4, proto=1, compares=())])
        print(trace.table, flush=True)
        time.sleep(60)
    """)
    path = f"/run/netns/{hosts.tag}-h"
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert name in tables(hosts)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(5)
    deadline = time.monotonic() + 5
    while name in tables(hosts) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "nettrace" not in tables(hosts)


def test_a_rule_is_known_again_in_a_large_ruleset(hosts: Rig) -> None:
    rules = "".join(f"-A FORWARD -s 10.{i >> 8 & 255}.{i & 255}.77/32 -j ACCEPT\n" for i in range(5000))
    text = f"*filter\n:FORWARD ACCEPT [0:0]\n{rules}-A FORWARD -d {OUTSIDE}/32 -j DROP\nCOMMIT\n"
    hosts.inside("h", "iptables-restore", stdin=text)
    listed = dumps(hosts, "ip")
    with open_rule_trace(hosts.pins["h"], echo()) as trace:
        assert not hosts.ping()
        last = events(trace)[-1]
    assert last.handle is not None
    ref = RuleHandles(load_ruleset(listed)).rule(last.family, last.table, last.chain, last.handle)
    assert ref is not None
    assert ref.index == 5001
    handles = read_handles(hosts.pins["h"])["ip", "filter", "FORWARD"]
    assert len(handles) == 5001
    assert handles[-1] == last.handle


def test_no_descriptor_is_left_open(hosts: Rig) -> None:
    with open_rule_trace(hosts.pins["h"], echo()):
        pass
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with open_rule_trace(hosts.pins["h"], echo()):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_several_close_together(hosts: Rig) -> None:
    close_together([open_rule_trace(hosts.pins[end], echo()) for end in "cho"])
    assert [tables(hosts, end) for end in "cho"] == ["", "", ""]


def test_without_the_capability_it_says_so(hosts: Rig) -> None:
    script = textwrap.dedent("""
        import ctypes, os, sys
        from nettrace.netns import pin
        from probes.witness import nftrace
        from probes.witness.base import WitnessError
        from probes.witness.marks import Mark
        ns = pin(sys.argv[1])
        ctypes.CDLL(None, use_errno=True).unshare(0x10000000)  # CLONE_NEWUSER: no capability outside
        try:
            nftrace.open_rule_trace(ns, [Mark(family=4, proto=1, compares=())])
        except WitnessError as error:
            print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, f"/run/netns/{hosts.tag}-h"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert "CAP_" in done.stdout


def test_a_closed_namespace_is_a_reason(hosts: Rig) -> None:
    from nettrace.netns import pin

    gone = pin(f"/run/netns/{hosts.tag}-h", "gone")
    gone.close()
    with pytest.raises(WitnessError, match="let go"):
        open_rule_trace(gone, echo())
