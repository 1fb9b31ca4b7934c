"""Drop reasons: the text of old and new kernels, and what this one says of a packet it drops."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from probes.witness import drops
from probes.witness.base import Lost
from probes.witness.drops import DropEvent, DropParser, open_drops, sweep
from tests.witness.rig import Rig

ROOT = Path(__file__).parent.parent.parent

COMMON = """name: kfree_skb
ID: 1377
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:void * skbaddr;	offset:8;	size:8;	signed:0;
	field:void * location;	offset:16;	size:8;	signed:0;
	field:unsigned short protocol;	offset:24;	size:2;	signed:0;
"""
REASON = "	field:enum skb_drop_reason reason;	offset:28;	size:4;	signed:0;\n"

#: TRACE_EVENT(kfree_skb) of include/trace/events/skb.h, by release.
V5_10 = COMMON + ('\nprint fmt: "skbaddr=%p protocol=%u location=%p", REC->skbaddr, REC->protocol, REC->location\n')
V5_17 = (
    COMMON
    + REASON
    + (
        '\nprint fmt: "skbaddr=%p protocol=%u location=%p reason: %s", REC->skbaddr, REC->protocol, REC->location, '
        '__print_symbolic(REC->reason, { 0, "NOT_SPECIFIED" }, { 1, "NO_SOCKET" }, { 2, "PKT_TOO_SMALL" }, '
        '{ 3, "TCP_CSUM" }, { 4, "SOCKET_FILTER" }, { 5, "UDP_CSUM" }, { 6, "NETFILTER_DROP" })\n'
    )
)
V6_1 = (
    COMMON
    + REASON
    + (
        '\nprint fmt: "skbaddr=%p protocol=%u location=%pS reason: %s", REC->skbaddr, REC->protocol, REC->location, '
        '__print_symbolic(REC->reason, { 1, "NOT_SPECIFIED" }, { 2, "NO_SOCKET" }, { 7, "NETFILTER_DROP" })\n'
    )
)
V6_8 = (
    COMMON
    + REASON
    + (
        '\nprint fmt: "skbaddr=%p protocol=%u location=%pS reason: %s", REC->skbaddr, REC->protocol, REC->location, '
        '__print_symbolic(REC->reason, { 2, "NOT_SPECIFIED" }, { 3, "NO_SOCKET" }, { 8, "NETFILTER_DROP" })\n'
    )
)

STACK = """           <...>-77      [001] ..s1  12.000004: <stack trace>
 => kfree_skb
 => nf_hook_slow
 => ip_forward
 => ip_rcv
"""


def parse(layout: str, text: str) -> list[DropEvent | Lost]:
    parser = DropParser(layout, 1000)
    return parser.feed(text) + parser.flush()


def test_5_10_has_no_reason_and_the_stack_names_the_function() -> None:
    line = " ping -3-77 [001] ..s1    12.000003: kfree_skb: skbaddr=00000000ab protocol=2048 location=00000000cd\n"
    (event,) = parse(V5_10, line + STACK)
    assert event == DropEvent(
        at_ns=12_000_004_000,
        tid=77,
        function="nf_hook_slow",
        protocol=2048,
        skb="00000000ab",
        stack=("nf_hook_slow", "ip_forward", "ip_rcv"),
    )
    assert not DropParser(V5_10).has_reason


def test_5_17_has_a_reason_but_no_function_in_its_line() -> None:
    line = (
        "  python3-77  [000] b.s1. 12.000003: kfree_skb: skbaddr=00000000ab protocol=2048 location=00000000cd "
        "reason: NETFILTER_DROP\n"
    )
    one, two = parse(V5_17, line + STACK + line)
    assert isinstance(one, DropEvent)
    assert isinstance(two, DropEvent)
    assert (one.reason, one.function) == ("NETFILTER_DROP", "nf_hook_slow")
    assert (two.reason, two.function, two.stack) == ("NETFILTER_DROP", None, ())


@pytest.mark.parametrize("layout", [V6_1, V6_8])
def test_6_x_names_function_module_and_reason(layout: str) -> None:
    line = (
        "          <idle>-0       [003] b.s2.  4523.123456: kfree_skb: skbaddr=000000009d8f8e1c protocol=34525 "
        "location=nft_do_chain+0x4a1/0x5f0 [nf_tables] reason: NETFILTER_DROP\n"
    )
    (event,) = parse(layout, line)
    assert isinstance(event, DropEvent)
    assert (event.function, event.module, event.reason) == ("nft_do_chain", "nf_tables", "NETFILTER_DROP")
    assert (event.at_ns, event.protocol, event.tid) == (4523_123_457_000, 34525, 0)


def test_a_reason_of_a_subsystem_keeps_its_number_and_known_numbers_get_their_names() -> None:
    line = "a-1 [000] ..... 1.0: kfree_skb: skbaddr=0 protocol=8 location=f+0x1/0x2 reason: {}\n"
    first, second = parse(V6_8, line.format("0x30001") + line.format("0x8"))
    assert isinstance(first, DropEvent)
    assert isinstance(second, DropEvent)
    assert (first.reason, second.reason) == ("0x30001", "NETFILTER_DROP")


def test_lost_events_are_told_and_half_lines_wait() -> None:
    parser = DropParser(V6_8)
    line = "a-1 [000] ..... 1.0: kfree_skb: skbaddr=0 protocol=8 location=f+0x1/0x2 reason: NO_SOCKET\n"
    assert parser.feed(line[:30]) == []
    assert parser.flush() == []
    assert parser.feed(line[30:]) == []
    assert parser.feed("CPU:1 [LOST 12 EVENTS]\n") != []
    event, lost = [*parse(V6_8, line + "CPU:0 [LOST EVENTS]\n")]
    assert isinstance(event, DropEvent)
    assert lost == Lost(count=None)


def instances() -> set[str]:
    fd = drops._open_instances()
    try:
        return {each.name for each in Path(f"/proc/self/fd/{fd}").iterdir()}
    finally:
        os.close(fd)


@pytest.mark.live
@pytest.mark.alone
def test_a_drop_is_explained_and_other_threads_are_not_heard(hosts: Rig) -> None:
    hosts.inside("h", "iptables", "-A", "FORWARD", "-p", "icmp", "-j", "DROP")
    before = instances()
    with open_drops() as witness:
        assert witness.name in instances()
        subprocess.run([sys.executable, "-c", "import socket"], check=True)
        witness.read()
        sent_ns = time.time_ns()
        assert not hosts.ping()
        assert select.select([witness], [], [], 1)[0] == [witness]
        found = [each for each in witness.read() if isinstance(each, DropEvent) and each.protocol == 0x0800]
        assert witness.has_reason
    assert [each.reason for each in found] == ["NETFILTER_DROP"]
    assert {each.tid for each in found} == {witness.tid}
    assert found[0].function is not None
    assert abs(found[0].at_ns - sent_ns) < 50_000_000
    assert instances() == before


@pytest.mark.live
@pytest.mark.alone
def test_the_stack_leads_from_the_sender_to_the_drop(hosts: Rig) -> None:
    with open_drops(stack=True) as witness:
        assert not hosts.ping(dst="192.0.2.1")
        found = [each for each in witness.read() if isinstance(each, DropEvent) and each.protocol == 0x0800]
    (event,) = found
    assert event.reason == "IP_INNOROUTES"
    assert event.stack[0] == event.function
    assert "raw_sendmsg" in event.stack


@pytest.mark.live
@pytest.mark.alone
def test_what_a_killed_owner_left_is_swept_and_the_living_stay() -> None:
    script = textwrap.dedent("""
        import time
        from probes.witness.drops import open_drops
        witness = open_drops()
        print(witness.name, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        with open_drops() as living:
            assert name not in sweep()
            assert name in instances()
            os.kill(child.pid, signal.SIGKILL)
            child.wait(5)
            assert name in sweep()
            assert living.name in instances()
    assert name not in instances()


@pytest.mark.live
@pytest.mark.alone
def test_without_the_capability_it_says_so() -> None:
    script = textwrap.dedent("""
        import ctypes
        from probes.witness.base import WitnessError
        from probes.witness.drops import open_drops
        ctypes.CDLL(None).unshare(0x10000000)  # CLONE_NEWUSER: no capability outside
        try:
            open_drops()
        except WitnessError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "CAP_SYS_ADMIN" in done.stdout


def test_where_tracefs_is_mounted_is_read_from_mountinfo() -> None:
    text = "30 25 0:7 / /sys rw shared:2 - sysfs sysfs rw\n41 30 0:12 / /sys/kernel/tracing rw,nosuid - tracefs t rw\n"
    assert drops._mounted(text) == "/sys/kernel/tracing"
    assert drops._mounted(text.splitlines()[0]) is None
