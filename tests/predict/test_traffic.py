"""Traffic control and XDP on the way: what is decided, what is doubt, and between which points."""

from __future__ import annotations

import pytest

from nettrace.model.path import Direction, LegEnd, Outcome, Reason, Step, StepKind, Trace
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Result, Verdict, Verified
from nettrace.predict import predict, traffic
from nettrace.predict.traffic import Place
from tests.rules.build import Lab, ask, diagnose_case, plain_lab

CLSACT = "qdisc clsact ffff: parent ffff:fff1 dropped 0"
BPF = "protocol all pref 49152 bpf x.o:[tc] direct-action"
DEVICES = {
    "dummy0": Link(ifindex=2, name="dummy0", kind="dummy"),
    "ifb0": Link(ifindex=3, name="ifb0", kind="ifb"),
    "veth9": Link(ifindex=4, name="veth9", kind="veth"),
    "down0": Link(ifindex=5, name="down0", kind="veth", up=False),
}


def meets(*lines: str, place: Place = Place.INGRESS, protocol: str = "ip", length: int = 98) -> Outcome | None:
    """Return what a frame meets on a device with these lines; None when nothing stops it."""
    link = Link(ifindex=9, name="eth0", tc=lines)
    found = traffic.met(link, place, protocol=protocol, length=length, find=DEVICES.get)
    return found.outcome if found is not None else None


def at(block: str, rest: str, protocol: str = "all", pref: int = 10) -> str:
    return f"filter {block} protocol {protocol} pref {pref} {rest}"


@pytest.mark.parametrize(
    ("filters", "outcome"),
    [
        ((), None),
        (("bpf x direct-action",), Outcome.UNKNOWN),
        (("bpf x action drop",), Outcome.UNKNOWN),
        (("matchall action drop",), Outcome.DROP),
        (("matchall skip_sw action drop",), Outcome.UNKNOWN),
        (("u32 match all action drop",), Outcome.DROP),
        (("u32 action drop",), Outcome.UNKNOWN),
        (("flower action drop",), Outcome.UNKNOWN),
        (("flower action ok",), None),
        (("flower",), None),
        (("u32 chain 7 match all action drop",), None),
        # The first that decides ends it; what may let a packet off leaves the rest in doubt.
        (("matchall action ok", "matchall action drop"), None),
        (("matchall action pipe action drop",), Outcome.DROP),
        (("matchall action skbedit action ok", "matchall action drop"), None),
        (("matchall action continue", "matchall action drop"), Outcome.DROP),
        (("matchall action police",), Outcome.UNKNOWN),
        (("matchall action pedit",), Outcome.UNKNOWN),
        (("bpf x direct-action", "matchall action drop"), Outcome.UNKNOWN),
        (("matchall action mirred egress mirror dev veth9",), None),
        (("matchall action mirred egress redirect dev veth9",), Outcome.UNKNOWN),
        (("matchall action mirred egress redirect dev dummy0",), Outcome.DROP),
        (("matchall action mirred egress redirect dev down0",), Outcome.DROP),
        (("matchall action mirred egress redirect dev gone",), Outcome.UNKNOWN),
        (("matchall action mirred egress mirror dev veth9 action drop",), Outcome.DROP),
        # Shaping what comes in: it comes back behind the filter.
        (("matchall action mirred egress redirect dev ifb0",), None),
        (("matchall action 536870919",), Outcome.UNKNOWN),
    ],
)
def test_what_filters_do(filters: tuple[str, ...], outcome: Outcome | None) -> None:
    assert meets(CLSACT, *(at("ingress", each) for each in filters)) == outcome


def test_a_filter_that_may_let_a_packet_off_leaves_what_follows_in_doubt() -> None:
    lines = (at("ingress", "flower action ok"), at("ingress", "matchall action drop", pref=20))
    assert meets(CLSACT, *lines) is Outcome.UNKNOWN
    link = Link(ifindex=9, name="eth0", tc=lines)
    found = traffic.met(link, Place.INGRESS, protocol="ip", length=98, find=DEVICES.get)
    assert found is not None
    assert found.program == lines[1]


def test_filters_are_of_a_protocol_and_a_block() -> None:
    assert meets(at("ingress", "matchall action drop", "arp")) is None
    assert meets(at("ingress", "matchall action drop", "arp"), protocol="arp") is Outcome.DROP
    assert meets(at("ingress", "matchall action drop", "ipv6"), protocol="ipv6") is Outcome.DROP
    assert meets(at("egress", "matchall action drop")) is None
    assert meets(at("egress", "matchall action drop"), place=Place.EGRESS) is Outcome.DROP
    assert meets(at("parent 1:", "u32 action drop", "ip"), place=Place.EGRESS) is Outcome.UNKNOWN
    assert meets("filter ingress tcx prog id 7") is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("line", "length", "outcome"),
    [
        ("qdisc bfifo 8001: root limit 1b dropped 0", 98, Outcome.DROP),
        ("qdisc bfifo 8001: root limit 98b dropped 0", 98, None),
        ("qdisc pfifo 8001: root limit 0p dropped 0", 98, Outcome.DROP),
        ("qdisc pfifo 8001: root limit 1p dropped 0", 98, None),
        ("qdisc bfifo 8001: parent 1:10 limit 1b dropped 0", 98, Outcome.UNKNOWN),
        ("qdisc tbf 8001: root rate 8000bit burst 50b dropped 0", 98, Outcome.DROP),
        ("qdisc tbf 8001: root rate 8000bit burst 98b dropped 0", 98, None),
        ("qdisc tbf 8001: root rate 8bit dropped 0", 98, None),
        ("qdisc htb 1: root dropped 7", 98, None),
        ("qdisc blackhole 1: root dropped 0", 98, Outcome.DROP),
        ("qdisc netem 1: root loss 0.1 dropped 0", 98, Outcome.UNKNOWN),
        ("qdisc netem 1: root loss 1 dropped 0", 98, Outcome.DROP),
        ("qdisc netem 1: root dropped 0", 98, None),
    ],
)
def test_what_queues_do(line: str, length: int, outcome: Outcome | None) -> None:
    assert meets(line, place=Place.EGRESS, length=length) == outcome
    assert meets(line, place=Place.INGRESS, length=length) is None


def walked(lab: Lab, src: str = "app", dst: str = "8.8.8.8") -> Trace:
    return predict(lab.snapshot(), ask(lab, src, dst))


def around(trace: Trace, direction: Direction = Direction.FORWARD) -> tuple[str | None, str | None]:
    """Return the points before and behind the first step of traffic control."""
    leg = trace.forward if direction is Direction.FORWARD else trace.reply
    assert leg is not None
    steps: list[Step] = [*leg.steps, *leg.beyond]
    place = next(index for index, each in enumerate(steps) if each.kind is StepKind.TC)
    before = [each.point for each in steps[:place] if each.point is not None]
    behind = [each.point for each in steps[place:] if each.point is not None]
    return (before or [None])[-1], (behind or [None])[0]


@pytest.mark.parametrize(
    ("box", "device", "facts", "direction", "points"),
    [
        ("app", "eth0", {"tc": (at("egress", "bpf x direct-action"),)}, "forward", (None, "app/eth0")),
        ("app", "eth0", {"tc": (at("ingress", "bpf x direct-action"),)}, "reply", ("app/eth0", None)),
        ("app", "eth0", {"xdp": "driver prog id 7"}, "reply", ("host/veth-app", "app/eth0")),
        ("host", "veth-app", {"xdp": "driver prog id 7"}, "forward", ("app/eth0", "host/veth-app")),
        ("host", "veth-app", {"xdp": "generic prog id 7"}, "forward", ("app/eth0", "host/veth-app")),
        ("host", "veth-app", {"tc": (at("ingress", "matchall"),)}, "forward", None),
        (
            "host", "veth-app", {"tc": (at("ingress", "bpf x direct-action"),)}, "forward",
            ("host/veth-app", "host/docker0"),
        ),
        ("host", "docker0", {"xdp": "generic prog id 7"}, "forward", ("host/veth-app", "host/docker0")),
        ("host", "docker0", {"tc": (at("ingress", "bpf x direct-action"),)}, "forward", ("host/docker0", "host/eth0")),
        ("host", "docker0", {"tc": (at("egress", "bpf x direct-action"),)}, "reply", ("host/eth0", "host/docker0")),
        ("host", "eth0", {"tc": (at("egress", "bpf x direct-action"),)}, "forward", ("host/docker0", "host/eth0")),
        ("host", "eth0", {"xdp": "driver prog id 7"}, "reply", (None, "host/eth0")),
        ("host", "eth0", {"tc": (at("ingress", "bpf x direct-action"),)}, "reply", ("host/eth0", "host/docker0")),
    ],
)  # fmt: skip
def test_a_program_is_doubt_at_its_place(
    box: str, device: str, facts: dict[str, object], direction: str, points: tuple[str | None, str | None] | None
) -> None:
    lab = plain_lab()
    lab[box].edit(device, **facts)
    trace = walked(lab)
    if points is None:
        assert trace.forward.end is LegEnd.LEFT
        return
    assert around(trace, Direction(direction)) == points
    leg = trace.forward if direction == "forward" else trace.reply
    assert leg is not None
    assert leg.end is LegEnd.UNKNOWN
    assert leg.passing in (LegEnd.LEFT, LegEnd.ARRIVED)
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "8.8.8.8"))
    assert verdict.outcome is Result.INCONCLUSIVE
    assert verdict.findings == ()
    assert any(device in gap.reason and "is not read" in gap.reason for gap in verdict.gaps)


def judged(lab: Lab, src: str = "app", dst: str = "8.8.8.8") -> Verdict:
    return diagnose_case(lab.snapshot(), ask(lab, src, dst))


@pytest.mark.parametrize(
    ("box", "device", "lines", "segment", "direction", "command"),
    [
        (
            "host", "eth0", ("qdisc bfifo 8001: root limit 1b dropped 0",), "egress", "forward",
            "tc qdisc del dev eth0 root",
        ),
        (
            "host", "veth-app", (CLSACT, at("ingress", "u32 match all action drop", "ip")), "source", "forward",
            "tc filter del dev veth-app ingress pref 10",
        ),
        (
            "app", "eth0", (CLSACT, at("egress", "matchall action drop")), "source", "forward",
            "nsenter -t 14010 -n tc filter del dev eth0 egress pref 10",
        ),
        (
            "app", "eth0", (CLSACT, at("ingress", "matchall action drop")), "source", "reply",
            "nsenter -t 14010 -n tc filter del dev eth0 ingress pref 10",
        ),
        (
            "host", "docker0", ("qdisc blackhole 1: root dropped 0",), "bridge", "reply",
            "tc qdisc del dev docker0 root",
        ),
    ],
)  # fmt: skip
def test_what_can_be_read_is_a_stop_with_a_proven_remedy(
    box: str, device: str, lines: tuple[str, ...], segment: str, direction: str, command: str
) -> None:
    lab = plain_lab()
    lab[box].edit(device, tc=lines)
    verdict = judged(lab)
    assert verdict.outcome is Result.STOPPED
    assert [each.code for each in verdict.findings] == ["tc.drop"]
    assert verdict.stop is not None
    assert (verdict.stop.segment, verdict.stop.direction) == (segment, direction)
    assert verdict.findings[0].remedy.commands == (command,)
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_a_filter_of_another_protocol_is_no_doubt() -> None:
    lab = plain_lab()
    lab.host.edit("veth-app", tc=(CLSACT, at("ingress", "bpf x direct-action", "ipv6")))
    assert judged(lab).outcome is Result.DELIVERED


def test_a_stop_behind_a_program_is_still_told() -> None:
    lab = plain_lab()
    lab.host.edit("veth-app", tc=(CLSACT, at("ingress", "bpf x direct-action")))
    lab.host.insert("filter", "-A FORWARD -s 172.17.0.2/32 -j DROP")
    verdict = judged(lab)
    assert [each.code for each in verdict.findings] == ["filter.rule-drop"]


def test_a_parents_programs_count_for_its_children() -> None:
    from tests.rules.build import macvlan_lab

    lab = macvlan_lab()
    lab.host.edit("eth0", tc=(CLSACT, at("egress", "matchall action drop")))
    trace = walked(lab, "m1")
    dropped = [each for each in trace.forward.steps if each.outcome is Outcome.DROP]
    assert [(each.reason, each.device) for each in dropped] == [(Reason.TC_DROP, "eth0")]
