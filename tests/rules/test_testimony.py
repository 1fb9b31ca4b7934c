"""The kernel's word: joined to the listings, put in its place among the model's steps, and never stretched."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from msgspec.structs import replace

from nettrace.model.flow import Packet
from nettrace.model.netfilter import FilterVerdict, Hook
from nettrace.model.observe import ChainOrder, KernelDrop, Observation, RuleStep, SightingKind, Silence, Testimony
from nettrace.model.path import Direction, Segment, Trace
from nettrace.model.verdict import Basis, EvidenceKind, Result, Verdict
from nettrace.testimony import passings
from tests.rules.build import Lab, Wire, ask, case_of, diagnose_case, observed, plain_lab

HOST = 1000
OUT = ("app", "8.8.8.8")
ASKED = Packet(family=4, src=ip_address("172.17.0.2"), dst=ip_address("8.8.8.8"), proto=1, icmp_type=8, icmp_id=1)
ANSWER = Packet(family=4, src=ip_address("8.8.8.8"), dst=ip_address("172.17.0.2"), proto=1, icmp_type=0, icmp_id=1)


def step(chain: str, verdict: str, handle: int | None = None, *, first: Packet | None = None, **facts: Any) -> RuleStep:
    kind = None
    if first is not None:
        kind = SightingKind.PROBE if first.icmp_type == 8 else SightingKind.REPLY
    given: dict[str, Any] = {"family": "ip", "table": "filter", "skb": 7, "event": "rule", **facts}
    return RuleStep(netns=HOST, chain=chain, verdict=verdict, handle=handle, packet=first, kind=kind, nonce=0, **given)


def said(*steps: RuleStep, handles: dict[str, tuple[int, ...]] | None = None, **facts: Any) -> Testimony:
    order = tuple(
        ChainOrder(netns=HOST, family="ip", table="filter", chain=chain, handles=each)
        for chain, each in (handles or {}).items()
    )
    return Testimony(rules=steps, order=order, **facts)


def told(wire: Wire, testimony: Testimony) -> Wire:
    def both(trace: Trace) -> Observation:
        return replace(wire(trace), testimony=testimony)

    return both


def lab_with(*forward: str, change: Callable[[Lab], object] | None = None) -> Lab:
    """A host whose FORWARD begins with these rules, in front of Docker's own."""
    lab = plain_lab()
    for rule in reversed(forward):
        lab.host.insert("filter", f"-A FORWARD {rule}")
    if change is not None:
        change(lab)
    return lab


def forward_handles(lab: Lab) -> tuple[int, ...]:
    """Handles for every rule of FORWARD: 101 for the first, and so on."""
    rules = [each for each in lab.host.chain("filter") if each.startswith("-A FORWARD ")]
    return tuple(101 + at for at in range(len(rules)))


def verdict(lab: Lab, wire: Wire) -> Verdict:
    return diagnose_case(lab.snapshot(), ask(lab, *OUT), wire=wire)


def evidence(found: Verdict, kind: EvidenceKind) -> list[str]:
    return [each.text for each in found.findings[0].evidence if each.kind is kind]


# --- joining --------------------------------------------------------------------------------------------------------


def test_steps_are_split_by_packet_and_by_base_chain() -> None:
    lab = plain_lab()
    steps = (
        step("PREROUTING", "continue", 3, first=ASKED, table="raw"),
        step("PREROUTING", "accept", first=ANSWER, skb=9, event="policy"),
        step("PREROUTING", "continue", event="end", table="raw"),
        step("PREROUTING", "accept", event="policy", table="raw"),
        step("FORWARD", "jump", 101, first=ASKED, target="DOCKER-USER"),
        step("DOCKER-USER", "drop", 5),
        step("INPUT", "accept", 8, skb=11),  # without its beginning nobody knows whose it is
    )
    found = passings(said(*steps), lab.snapshot())
    assert [(each.chain, each.direction, each.verdict) for each in found] == [
        ("PREROUTING", Direction.FORWARD, FilterVerdict.ACCEPT),
        ("PREROUTING", Direction.REPLY, FilterVerdict.ACCEPT),
        ("FORWARD", Direction.FORWARD, FilterVerdict.DROP),
    ]
    assert [each.effect for each in found[2].met] == ["jump DOCKER-USER", "drop"]
    assert found[2].hook is Hook.FORWARD
    assert [each.effect for each in found[0].met] == ["continue", "accept"]


def test_a_rule_that_no_listing_has_is_named_by_its_handle() -> None:
    found = passings(said(step("FORWARD", "drop", 4711, first=ASKED)), plain_lab().snapshot())
    assert found[0].decided_by is None
    assert found[0].met[0].text == "rule with handle 4711"


def test_a_rule_that_came_after_the_first_listing_is_found_in_the_second() -> None:
    before, after = plain_lab(), lab_with("-d 8.8.8.8/32 -j DROP")
    words = said(step("FORWARD", "drop", 101, first=ASKED), handles={"FORWARD": forward_handles(after)})
    ref = passings(words, before.snapshot(), after.snapshot())[0].decided_by
    assert ref is not None
    assert (ref.index, ref.text) == (1, "-A FORWARD -d 8.8.8.8/32 -j DROP")


# --- the model agrees, does not know, or is wrong -------------------------------------------------------------------


def test_what_the_model_says_and_the_kernel_reports_is_both() -> None:
    lab = lab_with("-d 8.8.8.8/32 -j DROP")
    words = said(step("FORWARD", "drop", 101, first=ASKED), handles={"FORWARD": forward_handles(lab)})
    found = verdict(lab, told(observed(until="host/docker0"), words))
    assert [each.code for each in found.findings] == ["filter.rule-drop"]
    assert found.findings[0].basis is Basis.BOTH
    assert evidence(found, EvidenceKind.TRACE) == [
        "the kernel's own trace of the probe through filter FORWARD ends here: dropped"
    ]


def test_the_kernels_word_stands_where_no_capture_could_hear() -> None:
    lab = lab_with("-d 8.8.8.8/32 -j DROP")
    words = said(step("FORWARD", "drop", 101, first=ASKED), handles={"FORWARD": forward_handles(lab)})

    def deaf(trace: Trace) -> Observation:
        heard = observed(arrived=False)(trace)
        return replace(heard, captures=(), testimony=words)

    found = verdict(lab, deaf)
    assert (found.outcome, found.findings[0].code) == (Result.STOPPED, "filter.rule-drop")
    assert found.findings[0].basis is Basis.BOTH


def test_a_match_that_cannot_be_evaluated_is_decided_by_the_kernel() -> None:
    lab = lab_with("-m string --string nettrace --algo bm -j DROP")
    flow = ask(lab, *OUT)
    wire = observed(until="host/docker0")
    without = diagnose_case(lab.snapshot(), flow, wire=wire)
    assert "filter.rule-drop" not in [each.code for each in without.findings]
    words = said(step("FORWARD", "drop", 101, first=ASKED), handles={"FORWARD": forward_handles(lab)})
    found = diagnose_case(lab.snapshot(), flow, wire=told(wire, words))
    assert (found.outcome, found.findings[0].code) == (Result.STOPPED, "filter.rule-drop")
    assert found.findings[0].basis is Basis.OBSERVED
    assert "--string nettrace" in found.findings[0].title
    assert found.stop is not None
    assert (found.stop.segment, found.stop.direction) == (Segment.HOST, Direction.FORWARD)
    assert "model.contradicted" not in [each.code for each in found.findings]


def test_a_rule_that_the_model_lets_pass_is_named_and_the_model_is_contradicted() -> None:
    lab = lab_with("-d 9.9.9.9/32 -j DROP")
    words = said(step("FORWARD", "drop", 101, first=ASKED), handles={"FORWARD": forward_handles(lab)})
    found = verdict(lab, told(observed(until="host/docker0"), words))
    assert [each.code for each in found.findings][:2] == ["filter.rule-drop", "model.contradicted"]
    assert found.findings[0].basis is Basis.OBSERVED


def test_another_rule_than_the_models_is_the_kernels() -> None:
    lab = lab_with("-d 9.9.9.9/32 -j DROP", "-d 8.8.8.8/32 -j DROP")
    words = said(step("FORWARD", "drop", 101, first=ASKED), handles={"FORWARD": forward_handles(lab)})
    found = verdict(lab, told(observed(until="host/docker0"), words))
    assert "9.9.9.9" in found.findings[0].title
    assert "model.contradicted" in [each.code for each in found.findings]


def test_a_drop_in_the_reply_is_a_stop_of_the_reply() -> None:
    lab = lab_with("-s 8.8.8.8/32 -j DROP")
    words = said(step("FORWARD", "drop", 101, first=ANSWER), handles={"FORWARD": forward_handles(lab)})
    found = verdict(lab, told(observed(reply_until="host/eth0"), words))
    assert found.stop is not None
    assert (found.stop.direction, found.findings[0].code) == (Direction.REPLY, "filter.rule-drop")


def test_a_copys_drop_is_no_stop() -> None:
    lab = lab_with("-d 9.9.9.9/32 -j DROP")
    words = said(step("FORWARD", "drop", 101, first=ASKED), handles={"FORWARD": forward_handles(lab)})
    for wire in (observed(reply=True), observed(until="host/eth0")):
        found = verdict(lab, told(wire, words))
        assert "filter.rule-drop" not in [each.code for each in found.findings]
    assert verdict(lab, told(observed(reply=True), words)).outcome is Result.DELIVERED


def test_silence_of_the_kernel_changes_nothing() -> None:
    lab = lab_with("-d 8.8.8.8/32 -j DROP")
    wire = observed(until="host/docker0")
    lost = Testimony(silences=(Silence(witness="rule-trace", reason="lost", netns=HOST),))
    with_gap, without = verdict(lab, told(wire, lost)), verdict(lab, wire)
    assert with_gap.findings == without.findings
    assert [(each.section, each.netns) for each in with_gap.gaps] == [("rule-trace", "host")]


# --- what is shown --------------------------------------------------------------------------------------------------


def test_every_rule_stands_at_the_hop_that_it_led_to() -> None:
    lab = lab_with("-d 9.9.9.9/32 -j DROP")
    steps = (
        step("FORWARD", "jump", 102, first=ASKED, target="DOCKER-USER"),
        step("DOCKER-USER", "return", 5),
        step("FORWARD", "accept", 104),
        step("FORWARD", "accept", 103, first=ANSWER, skb=9),
    )
    words = said(*steps, handles={"FORWARD": forward_handles(lab)})
    found = verdict(lab, told(observed(reply=True), words))
    at = {(hop.direction, hop.point): [line for line in hop.steps if line.startswith("kernel")] for hop in found.hops}
    assert len(at[Direction.FORWARD, "host/eth0"]) == 3
    assert at[Direction.FORWARD, "host/eth0"][0].endswith(": jump DOCKER-USER")
    assert len(at[Direction.REPLY, "host/docker0"]) == 1
    assert sum(map(len, at.values())) == 4


def test_a_drop_reason_is_evidence_and_strangers_are_not() -> None:
    lab = lab_with("-d 8.8.8.8/32 -j DROP")
    drops = (
        KernelDrop(at_ns=100, reason="NETFILTER_DROP", function="nft_do_chain"),
        KernelDrop(at_ns=101, reason="OTHERHOST", function="ip_rcv_core"),
        KernelDrop(at_ns=102, reason=None, function="kfree_skb_list"),
    )
    found = verdict(lab, told(observed(until="host/docker0"), Testimony(drops=drops)))
    texts = [each.rpartition(": ")[2] for each in evidence(found, EvidenceKind.DROP)]
    assert texts == ["NETFILTER_DROP in nft_do_chain", "dropped in kfree_skb_list"]


def test_without_a_probe_nothing_is_claimed() -> None:
    lab = lab_with("-d 8.8.8.8/32 -j DROP")
    case = case_of(lab.snapshot(), ask(lab, *OUT))
    assert case.correlation.told == ()


def test_the_rule_that_drops_only_some_probes_is_told_beside_the_loss() -> None:
    lab = lab_with("-m statistic --mode random --probability 0.5 -j DROP")
    drop = replace(step("FORWARD", "drop", 101, first=ASKED, skb=9), nonce=1)
    words = said(drop, handles={"FORWARD": forward_handles(lab)})

    def half(trace: Trace) -> Observation:
        heard = observed(reply=True)(trace)
        return replace(heard, sent=(*heard.sent, replace(heard.sent[0], nonce=1)), testimony=words)

    found = verdict(lab, half)
    assert found.outcome is Result.DEGRADED
    (gap,) = [each.reason for each in found.gaps if each.section == "probe"]
    assert gap.startswith("1 of 2 probes were answered")
    assert "the kernel dropped 1 at host: iptables (nft) filter FORWARD rule 1: -A FORWARD -m statistic" in gap


def test_a_chain_that_no_listing_has_is_a_stop_at_no_hook_in_particular() -> None:
    lab = plain_lab()
    words = said(step("young", "drop", 7, first=ASKED, table="younger"))

    def deaf(trace: Trace) -> Observation:
        return replace(observed(arrived=False)(trace), captures=(), testimony=words)

    found = verdict(lab, deaf)
    assert found.outcome is Result.STOPPED
    assert found.stop is not None
    assert (found.stop.segment, found.stop.hook) == (Segment.HOST, None)
    assert "model.contradicted" in [each.code for each in found.findings]


def test_what_is_lost_beyond_this_host_is_not_blamed_on_a_drop_in_it() -> None:
    lab = plain_lab()
    drops = (KernelDrop(at_ns=100, reason="IP_RPFILTER", function="ip_rcv_finish_core"),)
    found = verdict(lab, told(observed(), Testimony(drops=drops)))
    assert found.stop is not None
    assert found.stop.segment is Segment.REMOTE
    assert evidence(found, EvidenceKind.DROP) == []
