"""A loss at traffic control, of a packet or of the ARP and NDP that it waits for: named where it is, and only there."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from nettrace.model.base import IPAddress, Present, Values
from nettrace.model.flow import Packet
from nettrace.model.observe import Observation, Sighting, SightingKind, Stack, Way
from nettrace.model.path import Trace
from nettrace.model.snapshot import DumpFormat, LinkStats, Neighbour, NetfilterDump, Snapshot
from nettrace.model.verdict import Result, Verdict
from nettrace.rules.asked import find_lost_ask
from tests.rules.build import Lab, Wire, ask, case_of, diagnose_case, observed, plain_lab

CLSACT = "qdisc clsact ffff: parent ffff:fff1 dropped {}"
ANY = "filter {} protocol all pref 49152 bpf x direct-action"
APP, GATEWAY, WEB = (ip_address(f"172.17.0.{last}") for last in (2, 1, 3))
C1, C2 = ip_address("fd00:18::2"), ip_address("fd00:18::3")
#: Where ARP of app for its gateway is heard, request and answer, in order.
TO_GATEWAY = (
    ("app/eth0", Way.OUT, False),
    ("host/veth-app", Way.IN, False),
    ("host/docker0", Way.IN, False),
    ("host/docker0", Way.OUT, True),
    ("host/veth-app", Way.OUT, True),
    ("app/eth0", Way.IN, True),
)
TO_WEB = (
    ("app/eth0", Way.OUT, False),
    ("host/veth-app", Way.IN, False),
    ("host/veth-web", Way.OUT, False),
    ("web/eth0", Way.IN, False),
    ("web/eth0", Way.OUT, True),
    ("host/veth-web", Way.IN, True),
    ("host/veth-app", Way.OUT, True),
    ("app/eth0", Way.IN, True),
)


def asking(heard: tuple[tuple[str, Way, bool], ...], asker: IPAddress, hop: IPAddress) -> Wire:
    """Return a wire without the probe, on which a request for `hop` and its answer are heard at these points."""

    def wire(trace: Trace) -> Observation:
        nothing = observed(arrived=False)(trace)
        v4 = hop.version == 4
        request, answer = (
            (SightingKind.ARP_REQUEST, SightingKind.ARP_REPLY)
            if v4
            else (SightingKind.NDP_SOLICIT, SightingKind.NDP_ADVERT)
        )
        found = [
            Sighting(
                point=point,
                kind=answer if answered else request,
                way=way,
                at_ns=100 + number,
                packet=Packet(
                    family=hop.version, src=hop if answered else asker, dst=asker if answered else hop, proto=0
                ),
            )
            for number, (point, way, answered) in enumerate(heard)
        ]
        return replace(nothing, sightings=tuple(found))

    return wire


def afterwards(lab: Lab, box: str, hop: IPAddress, state: str = "INCOMPLETE", device: str = "eth0") -> Snapshot:
    """Return the host after the probe: the asker's entry is not resolved."""
    entry = Neighbour(ifindex=lab[box].link(device).ifindex, address=hop, state=state)
    lab[box].neighbours.append(entry)
    after = lab.snapshot()
    lab[box].neighbours.remove(entry)
    return after


def judged(
    change: Callable[[Lab], None],
    way: tuple[tuple[str, Way, bool], ...],
    count: int,
    *,
    asker: IPAddress = APP,
    hop: IPAddress = GATEWAY,
    question: tuple[str, str] = ("app", "8.8.8.8"),
) -> Verdict:
    """Return the verdict where a request or its answer is heard at the first `count` spots of its way."""
    lab = plain_lab()
    change(lab)
    flow = ask(lab, *question, family=hop.version)
    return diagnose_case(
        lab.snapshot(), flow, wire=asking(way[:count], asker, hop), after=afterwards(lab, question[0], hop)
    )


def program(box: str, device: str, block: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        facts = {"xdp": "driver prog id 7"} if block == "xdp" else {"tc": (CLSACT.format(0), ANY.format(block))}
        lab[box].edit(device, **facts)

    return change


def table(box: str, text: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        lab[box].dumps.append(NetfilterDump(format=DumpFormat.NFT_TEXT, backend="nft", family="all", text=text))

    return change


def netdev(hook: str, device: str, rule: str) -> str:
    return (
        f'table netdev guard {{\n\tchain c {{\n\t\ttype filter hook {hook} device "{device}" priority filter; '
        f"policy accept;\n\t\t{rule} # handle 2\n\t}}\n}}\n"
    )


def arp(hook: str, rule: str) -> str:
    return (
        f"table arp guard {{\n\tchain c {{\n\t\ttype filter hook {hook} priority filter; policy accept;\n"
        f"\t\t{rule} # handle 2\n\t}}\n}}\n"
    )


def named(verdict: Verdict) -> tuple[str, str, str]:
    assert verdict.outcome is Result.STOPPED
    assert verdict.stop is not None
    return verdict.findings[0].code, verdict.stop.segment, verdict.stop.direction


@pytest.mark.parametrize(
    ("change", "way", "count", "expected"),
    [
        # The program is between the last point that heard the request or its answer, and the next.
        (program("app", "eth0", "egress"), TO_GATEWAY, 0, ("tc.drop", "source", "forward")),
        (program("host", "veth-app", "xdp"), TO_GATEWAY, 1, ("tc.drop", "source", "forward")),
        (program("host", "veth-app", "ingress"), TO_GATEWAY, 2, ("tc.drop", "source", "forward")),
        (program("host", "docker0", "xdp"), TO_GATEWAY, 2, ("tc.drop", "bridge", "forward")),
        (program("host", "docker0", "ingress"), TO_GATEWAY, 3, ("tc.drop", "bridge", "forward")),
        (program("host", "docker0", "egress"), TO_GATEWAY, 3, ("tc.drop", "bridge", "forward")),
        (program("host", "veth-app", "egress"), TO_GATEWAY, 4, ("tc.drop", "source", "forward")),
        (program("app", "eth0", "xdp"), TO_GATEWAY, 5, ("tc.drop", "source", "forward")),
        (program("app", "eth0", "ingress"), TO_GATEWAY, 6, ("tc.drop", "source", "forward")),
        # Where the wire has been past it, or does not come to it, it is none.
        (program("app", "eth0", "egress"), TO_GATEWAY, 1, ("neigh.unresolved", "source", "forward")),
        (program("host", "veth-app", "xdp"), TO_GATEWAY, 2, ("neigh.unresolved", "source", "forward")),
        (program("app", "eth0", "ingress"), TO_GATEWAY, 5, ("neigh.unresolved", "source", "forward")),
        (program("host", "eth0", "ingress"), TO_GATEWAY, 3, ("neigh.unresolved", "source", "forward")),
        # Rules of the families that see ARP.
        (
            table("host", netdev("ingress", "veth-app", "ether type arp drop")),
            TO_GATEWAY, 2, ("filter.rule-drop", "source", "forward"),
        ),
        (
            table("host", netdev("ingress", "veth-web", "ether type arp drop")),
            TO_GATEWAY, 2, ("neigh.unresolved", "source", "forward"),
        ),
        (
            table("host", netdev("ingress", "veth-app", "ip saddr 172.17.0.9 drop")),
            TO_GATEWAY, 2, ("neigh.unresolved", "source", "forward"),
        ),
        (
            table("app", netdev("ingress", "eth0", "ether type arp drop")),
            TO_GATEWAY, 6, ("filter.container-drop", "source", "forward"),
        ),
        (table("host", arp("input", "drop")), TO_GATEWAY, 3, ("filter.rule-drop", "host", "forward")),
        (table("host", arp("input", "drop")), TO_GATEWAY, 6, ("neigh.unresolved", "source", "forward")),
        (
            table("host", arp("output", "arp operation reply drop")),
            TO_GATEWAY, 3, ("filter.rule-drop", "host", "forward"),
        ),
        (
            table("host", arp("output", "arp operation request drop")),
            TO_GATEWAY, 3, ("neigh.unresolved", "source", "forward"),
        ),
        (table("app", arp("output", "drop")), TO_GATEWAY, 0, ("filter.container-drop", "source", "forward")),
    ],
)  # fmt: skip
def test_arp_is_lost_where_the_captures_end(
    change: Callable[[Lab], None], way: tuple[tuple[str, Way, bool], ...], count: int, expected: tuple[str, str, str]
) -> None:
    assert named(judged(change, way, count)) == expected


@pytest.mark.parametrize(
    ("change", "count", "expected"),
    [
        (program("host", "veth-web", "egress"), 2, ("tc.drop", "destination", "forward")),
        (program("web", "eth0", "xdp"), 3, ("tc.drop", "destination", "forward")),
        (program("web", "eth0", "ingress"), 4, ("tc.drop", "destination", "forward")),
        (program("web", "eth0", "egress"), 4, ("tc.drop", "destination", "forward")),
        (program("host", "veth-web", "xdp"), 5, ("tc.drop", "destination", "forward")),
        (program("host", "veth-web", "egress"), 5, ("neigh.unresolved", "source", "forward")),
        (table("web", arp("input", "drop")), 4, ("filter.container-drop", "destination", "forward")),
    ],
)
def test_arp_is_followed_over_a_bridge(
    change: Callable[[Lab], None], count: int, expected: tuple[str, str, str]
) -> None:
    assert named(judged(change, TO_WEB, count, hop=WEB, question=("app", "web"))) == expected


def test_ndp_meets_the_rules_for_ipv6() -> None:
    """A filter of ICMPv6 that forgets neighbour discovery."""
    way = tuple((point.replace("app", "c1").replace("web", "c2"), how, answer) for point, how, answer in TO_WEB)

    text = arp("input", "icmpv6 type nd-neighbor-solicit drop").replace("table arp", "table ip6")
    verdict = judged(table("c2", text), way, 4, asker=C1, hop=C2, question=("c1", "c2"))
    assert named(verdict) == ("filter.container-drop", "destination", "forward")
    verdict = judged(program("c2", "eth0", "ingress"), way, 4, asker=C1, hop=C2, question=("c1", "c2"))
    assert named(verdict) == ("tc.drop", "destination", "forward")


def test_what_is_said_names_the_request_and_the_two_points() -> None:
    verdict = judged(program("host", "veth-app", "xdp"), TO_GATEWAY, 1)
    finding = verdict.findings[0]
    assert "172.17.0.1" in finding.explanation
    told = [each.text for each in finding.evidence]
    assert "ARP for 172.17.0.1: the request was heard at app/eth0 and not at host/veth-app" in told
    assert [each.code for each in verdict.findings] == ["tc.drop"]


def test_a_next_hop_beyond_this_host_may_be_silent_itself() -> None:
    """An XDP program at the uplink sees answers before any capture does: that is no proof against it."""
    lab = plain_lab()
    lab.host.edit("eth0", xdp="driver prog id 7")
    gateway = ip_address("203.0.113.1")

    def wire(trace: Trace) -> Observation:
        reached = observed(until="host/docker0")(trace)
        asked = asking((("host/eth0", Way.OUT, False),), ip_address("203.0.113.2"), gateway)(trace)
        return replace(reached, sightings=(*reached.sightings, *asked.sightings))

    after = afterwards(lab, "host", gateway)
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=wire, after=after)
    assert named(verdict)[0] == "neigh.unresolved"


def test_a_request_that_was_under_way_before_the_probe_tells_no_place() -> None:
    lab = plain_lab()
    lab.host.edit("docker0", tc=(CLSACT.format(0), ANY.format("egress")))
    index = lab["app"].link("eth0").ifindex
    lab["app"].neighbours.append(Neighbour(ifindex=index, address=GATEWAY, state="INCOMPLETE"))
    case = case_of(lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(arrived=False), after=lab.snapshot())
    lost = find_lost_ask(case)
    assert lost is not None
    assert (lost.after, lost.before) == (None, None)
    assert [each.program for each in lost.suspects] == [ANY.format("egress")]


# --- packets --------------------------------------------------------------------------------------------------------


def counted(lab: Lab, box: str, device: str, kind: str, drops: int, *, waits: bool = False) -> Snapshot:
    """Return the host after the probe, with so many more drops of a queue, and with packets that wait in it."""
    snapshot = lab.snapshot()
    spaces = []
    for ns in snapshot.namespaces:
        if ns.name == box:
            assert isinstance(ns.counters, Values)
            assert isinstance(ns.links, Present)
            index = next(link.ifindex for link in ns.links.rows if link.name == device)
            ns = replace(ns, counters=Values(values={**ns.counters.values, f"qdisc.{index}.{kind}.drops": drops}))
            if waits:
                links = (
                    replace(link, tc=tuple(line.replace(" dropped", " backlog 1p dropped") for line in link.tc))
                    for link in ns.links.rows
                )
                ns = replace(ns, links=Present(rows=tuple(links)))
        spaces.append(ns)
    return replace(snapshot, namespaces=tuple(spaces))


HTB = "qdisc htb 1: root dropped 0"


@pytest.mark.parametrize(("drops", "waits", "code"), [(1, False, "tc.drop"), (0, True, "tc.drop"), (0, False, None)])
def test_a_queue_is_named_when_it_dropped_or_holds_something(drops: int, waits: bool, code: str | None) -> None:
    lab = plain_lab()
    lab.host.edit("eth0", tc=(HTB,))
    after = counted(lab, "host", "eth0", "htb", drops, waits=waits)
    verdict = diagnose_case(
        lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(until="host/docker0"), after=after
    )
    codes = [each.code for each in verdict.findings]
    assert codes == ([code] if code is not None else [])
    if code is not None:
        assert verdict.findings[0].remedy.commands == ("tc qdisc del dev eth0 root",)


def test_a_queue_that_a_device_has_by_itself_is_named_by_its_counter() -> None:
    lab = plain_lab()
    after = counted(lab, "host", "eth0", "fq_codel", 1)
    verdict = diagnose_case(
        lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(until="host/docker0"), after=after
    )
    assert [each.code for each in verdict.findings] == ["tc.drop"]
    assert verdict.findings[0].remedy.commands == ("tc -s qdisc show dev eth0",)


def test_of_several_the_one_that_counted_the_drop_is_named() -> None:
    lab = plain_lab()
    lab.host.edit("docker0", tc=(CLSACT.format(0), ANY.format("ingress")))
    lab.host.edit("eth0", tc=("qdisc htb 1: root dropped 0",))
    after = counted(lab, "host", "eth0", "htb", 1)
    verdict = diagnose_case(
        lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(until="host/docker0"), after=after
    )
    assert verdict.findings[0].at == "host/eth0"


def swallowed(netns_of: str, lab: Lab, *, reply: bool) -> Wire:
    """Return a wire where the packet reaches an end's device, and that end's stack takes nothing."""

    def wire(trace: Trace) -> Observation:
        seen = observed(reply=reply)(trace)
        return replace(seen, stacks=(Stack(netns=lab[netns_of].id),))

    return wire


@pytest.mark.parametrize(
    ("question", "box", "reply", "expected"),
    [
        (("app", "web"), "web", False, ("tc.drop", "destination", "forward")),
        (("app", "8.8.8.8"), "app", True, ("tc.drop", "source", "reply")),
    ],
)
def test_what_a_filter_takes_behind_the_last_capture(
    question: tuple[str, str], box: str, reply: bool, expected: tuple[str, str, str]
) -> None:
    lab = plain_lab()
    lab[box].edit("eth0", tc=(CLSACT.format(0), ANY.format("ingress")))
    verdict = diagnose_case(lab.snapshot(), ask(lab, *question), wire=swallowed(box, lab, reply=reply))
    assert named(verdict) == expected
    assert [each.code for each in verdict.findings] == ["tc.drop"]


def test_without_an_ear_at_the_stack_an_answer_that_nobody_saw_is_looked_for_behind_the_door() -> None:
    lab = plain_lab()
    lab["web"].edit("eth0", tc=(CLSACT.format(0), ANY.format("ingress")))
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "web"), wire=observed())
    assert named(verdict) == ("tc.drop", "destination", "forward")


def test_a_program_before_a_predicted_stop_is_the_cause_where_the_wire_ends_before_it() -> None:
    lab = plain_lab()
    lab.host.edit("veth-app", tc=(CLSACT.format(0), ANY.format("ingress")))
    flow = ask(lab, "app", "web", "tcp", 81)
    verdict = diagnose_case(lab.snapshot(), flow, wire=observed(until="host/veth-app"))
    assert [each.code for each in verdict.findings] == ["tc.drop", "port.not-listening"]
    verdict = diagnose_case(lab.snapshot(), flow, wire=observed(kind=SightingKind.RESET, sender="172.17.0.3"))
    assert [each.code for each in verdict.findings] == ["port.not-listening"]


@pytest.mark.parametrize(("came", "code"), [(0, "remote.no-reply"), (1, "tc.drop"), (2000, "remote.no-reply")])
def test_an_answer_that_an_uplinks_program_may_have_had(came: int, code: str) -> None:
    """Its driver counts what its XDP program gets: nothing came, or so much that it tells nothing of this flow."""
    lab = plain_lab()
    lab.host.edit("eth0", xdp="driver prog id 7", stats=LinkStats(rx_packets=100))
    before = lab.snapshot()
    lab.host.edit("eth0", stats=LinkStats(rx_packets=100 + came))
    verdict = diagnose_case(before, ask(lab, "app", "8.8.8.8"), wire=observed(), after=lab.snapshot())
    assert verdict.findings[0].code == code


def test_a_healthy_program_hides_no_other_cause() -> None:
    lab = plain_lab()
    lab.host.edit("veth-app", tc=(CLSACT.format(0), ANY.format("ingress"), ANY.format("egress")))
    lab.host.delete("nat", "MASQUERADE")
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed())
    assert verdict.findings[0].code == "nat.masquerade-missing"
    delivered = diagnose_case(lab.snapshot(), ask(lab, "app", "web"), wire=observed(reply=True))
    assert (delivered.outcome, delivered.findings) == (Result.DELIVERED, ())


def test_tcx_is_not_taken_off_by_tc() -> None:
    lab = plain_lab()
    lab.host.edit("veth-app", tc=("filter ingress tcx prog id 7",))
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(until="host/veth-app"))
    assert verdict.findings[0].remedy.commands == ("bpftool net show dev veth-app",)
    assert verdict.findings[0].remedy.verified == "unverifiable"


@pytest.mark.parametrize(
    ("xdp", "commands"),
    [
        ("driver prog id 7", ("ip link set dev veth-app xdp off",)),
        ("generic prog id 7", ("ip link set dev veth-app xdpgeneric off",)),
        ("several modes", ("ip link set dev veth-app xdpgeneric off", "ip link set dev veth-app xdpdrv off")),
    ],
)
def test_an_xdp_program_is_taken_off_in_its_own_mode(xdp: str, commands: tuple[str, ...]) -> None:
    lab = plain_lab()
    lab.host.edit("veth-app", xdp=xdp)
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(until="app/eth0"))
    assert verdict.findings[0].remedy.commands == commands
    assert verdict.findings[0].remedy.verified == "yes"


@pytest.mark.parametrize(("drops", "code"), [(0, "conntrack.table-full"), (3, "tc.drop")])
def test_a_program_that_dropped_nothing_gives_way_to_what_has_evidence(drops: int, code: str) -> None:
    lab = plain_lab()
    lab.host.edit("docker0", tc=(CLSACT.format(0), ANY.format("ingress")))
    lab.host.counters.update({"nf_conntrack.count": 512, "nf_conntrack.max": 512})
    after = counted(lab, "host", "docker0", "clsact", drops)
    verdict = diagnose_case(
        lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(until="host/docker0"), after=after
    )
    assert [each.code for each in verdict.findings] == [code]


def test_a_next_hop_that_failed_elsewhere_is_not_why_a_packet_is_lost_here() -> None:
    """The uplink's entry is of an earlier try: this packet never came so far."""
    lab = plain_lab()
    lab.host.edit("veth-app", tc=(CLSACT.format(0), ANY.format("ingress")))
    after = afterwards(lab, "host", ip_address("203.0.113.1"), "FAILED")
    verdict = diagnose_case(
        lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=observed(until="host/veth-app"), after=after
    )
    assert named(verdict) == ("tc.drop", "source", "forward")
