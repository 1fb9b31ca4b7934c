"""The first leg of a question about a name: what comes first, what stands beside it, and what is not its fault."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
import pytest
from msgspec.structs import replace

from nettrace.model.base import from_json, to_json
from nettrace.model.lookup import EMBEDDED, Answer, AnswerKind, Lookup
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import LookupView, Result, Verdict, Verified
from nettrace.render.text import render_text
from tests.rules.build import Lab, ask, diagnose_case, observed, plain_lab
from tests.rules.names import Change, embedded, looked_up

FAILED, SILENT, NO_NAME = AnswerKind.FAILED, AnswerKind.SILENT, AnswerKind.NO_NAME


def judge(lab: Lab, src: str, server: str, *changes: Change, reply: bool | None = None) -> Verdict:
    for change in changes:
        change(lab)
    flow = ask(lab, src, server, "udp", 53)
    snapshot = from_json(to_json(lab.snapshot()), Snapshot)  # as a bundle holds it
    return diagnose_case(snapshot, flow, wire=observed(reply=reply) if reply is not None else None, after=snapshot)


def codes(verdict: Verdict) -> list[str]:
    return [each.code for each in verdict.findings]


def lookup_of(verdict: Verdict) -> LookupView:
    assert isinstance(verdict.lookup, LookupView)
    return verdict.lookup


def test_the_object_that_stops_the_query_gives_evidence_and_remedy() -> None:
    rule = "-A FORWARD -p udp -m udp --dport 53 -j DROP"
    verdict = judge(
        plain_lab(),
        "c1",
        "8.8.8.8",
        embedded("c1"),
        looked_up("c1", (EMBEDDED, FAILED), upstream="8.8.8.8"),
        lambda lab: lab.host.insert("filter", rule),
    )
    assert codes(verdict) == ["dns.server-unreachable", "filter.rule-drop"]
    first = verdict.findings[0]
    assert any(each.text == rule for each in first.evidence)
    assert first.remedy.commands == ("iptables -t filter -D FORWARD -p udp -m udp --dport 53 -j DROP",)
    assert first.remedy.verified is Verified.YES
    assert (verdict.flow.dst.name, verdict.flow.dst.address, verdict.flow.dport) == ("example.org", None, None)
    way = lookup_of(verdict).flow
    assert way is not None
    assert (str(way.dst.address), way.dport) == ("8.8.8.8", 53)
    text = render_text(verdict, color=False, width=100)
    assert "the name cannot be looked up: the query stops in the host's IP stack" in text
    assert "The way of the query: c1 → 8.8.8.8 (udp/53)" in text


def test_a_container_that_does_not_run_is_no_fault_of_its_names() -> None:
    verdict = judge(
        plain_lab(),
        "app",
        "8.8.8.8",
        looked_up("app", ("8.8.8.8", SILENT)),
        lambda lab: lab.container("app", status="paused"),
    )
    assert codes(verdict) == ["engine.container-not-running"]


def test_a_server_on_the_host_s_own_loopback_is_asked_from_there() -> None:
    verdict = judge(
        plain_lab(),
        "host",
        "127.0.0.53",
        embedded("c1"),
        looked_up("c1", (EMBEDDED, FAILED), upstream="127.0.0.53", asks_from="host"),
    )
    assert codes(verdict) == ["dns.server-unreachable", "port.not-listening"]
    assert verdict.flow.src.name == "c1"
    assert any("from namespace host" in each.text for each in verdict.findings[0].evidence)


def test_a_server_that_answers_badly_is_named_though_packets_pass() -> None:
    verdict = judge(plain_lab(), "app", "8.8.8.8", looked_up("app", ("8.8.8.8", AnswerKind.REFUSED)), reply=True)
    assert codes(verdict) == ["dns.server-unreachable"]
    assert (verdict.outcome, verdict.stop.segment if verdict.stop else None) == (Result.STOPPED, "remote")
    assert "REFUSED" in verdict.findings[0].title


def test_the_engines_own_server_that_hangs_stops_in_the_source() -> None:
    verdict = judge(plain_lab(), "c1", EMBEDDED, embedded("c1"), looked_up("c1", (EMBEDDED, SILENT)))
    assert codes(verdict) == ["dns.server-unreachable"]
    assert (verdict.outcome, verdict.stop.segment if verdict.stop else None) == (Result.STOPPED, "source")


def test_a_later_server_that_answers_makes_it_a_warning() -> None:
    answers = (("192.0.2.53", SILENT), ("8.8.8.8", AnswerKind.FOUND))
    verdict = judge(plain_lab(), "app", "8.8.8.8", looked_up("app", *answers, held=("8.8.8.8",)), reply=True)
    assert verdict.outcome is Result.DELIVERED
    assert [(each.code, each.severity) for each in verdict.findings] == [("dns.server-unreachable", "warning")]
    assert (lookup_of(verdict).outcome, lookup_of(verdict).flow) == (Result.DELIVERED, None)


NAMED = {
    "another network": (("app", "c2."), ("network net1, and app is not in it",), "docker network connect net1 app"),
    "default bridge": (("app", "web."), ("default bridge", "user-defined"), "docker network create names"),
    "near": (("c1", "c22"), ("called c2",), "nettrace path c1 c2"),
    "nothing like it": (("c1", "postgres"), ("No container is called postgres",), None),
}


@pytest.mark.parametrize(("asked", "words", "command"), NAMED.values(), ids=NAMED)
def test_a_name_that_is_not_found_is_explained(
    asked: tuple[str, str], words: tuple[str, ...], command: str | None
) -> None:
    box, name = asked
    verdict = judge(plain_lab(), box, "8.8.8.8", looked_up(box, ("8.8.8.8", NO_NAME), name=name))
    assert codes(verdict) == ["dns.name-not-found"]
    finding = verdict.findings[0]
    assert all(word in finding.explanation for word in words), finding.explanation
    assert finding.remedy.commands[:1] == ((command,) if command else ())
    assert (verdict.outcome, verdict.hops) == (Result.STOPPED, ())


def test_a_name_of_a_container_that_is_stopped_is_said() -> None:
    lab = plain_lab()
    lab.container("c2", status="exited")
    verdict = judge(lab, "c1", "8.8.8.8", looked_up("c1", (EMBEDDED, NO_NAME), name="c2."))
    assert codes(verdict) == ["dns.name-not-found"]
    assert verdict.findings[0].remedy.commands == ("docker start c2",)


def test_a_server_of_the_host_that_is_down_needs_no_publishing() -> None:
    verdict = judge(plain_lab(), "app", "172.17.0.1", looked_up("app", ("172.17.0.1", SILENT)))
    assert codes(verdict) == ["dns.server-unreachable", "port.not-listening"]


def answer(name: str, kind: AnswerKind, family: int = 4) -> Answer:
    return Answer(server=ip_address("192.0.2.53"), name=name, kind=kind, family=family)


def test_what_counts_is_the_answer_to_the_name_as_it_was_typed() -> None:
    base = Lookup(name="db", question=ask(plain_lab(), "app", "8.8.8.8"))
    found = replace(base, answers=(answer("db.corp", SILENT), answer("db", NO_NAME)))
    assert (found.denied, found.failures) == (True, ())
    found = replace(base, answers=(answer("db.corp", NO_NAME), answer("db", SILENT)))
    assert (found.denied, found.failures) == (False, (answer("db", SILENT),))
    found = replace(base, answers=(answer("db", NO_NAME), answer("db", SILENT, family=6)))
    assert (found.denied, found.failures) == (False, (answer("db", SILENT, family=6),))
    found = replace(base, answers=(answer("db.corp", SILENT),))
    assert (found.denied, found.failures) == (False, (answer("db.corp", SILENT),))
    assert (base.denied, base.failures) == (False, ())


def test_a_name_of_the_other_family_only_is_said() -> None:
    held = looked_up("app", ("8.8.8.8", AnswerKind.NO_DATA), elsewhere=("2001:db8::7",))
    verdict = judge(plain_lab(), "app", "8.8.8.8", held)
    assert codes(verdict) == ["dns.name-not-found"]
    assert "only IPv6 addresses (2001:db8::7)" in verdict.findings[0].explanation


def test_a_redirect_that_is_missing_is_written_back_and_proven() -> None:
    verdict = judge(
        plain_lab(), "c1", EMBEDDED, embedded("c1", rules=False), looked_up("c1", (EMBEDDED, AnswerKind.UNREACHABLE))
    )
    assert codes(verdict) == ["dns.embedded-rules-missing"]
    assert verdict.findings[0].remedy.verified is Verified.YES
    assert " iptables -t nat -I OUTPUT -d 127.0.0.11/32 " in verdict.findings[0].remedy.commands[0]


def test_a_redirect_that_an_earlier_rule_hides_is_missing_as_well() -> None:
    verdict = judge(
        plain_lab(),
        "c1",
        EMBEDDED,
        embedded("c1"),
        looked_up("c1", (EMBEDDED, AnswerKind.UNREACHABLE)),
        lambda lab: lab["c1"].insert("nat", "-A OUTPUT -d 127.0.0.0/8 -j ACCEPT"),
    )
    assert codes(verdict)[0] == "dns.embedded-rules-missing"


def test_a_flow_to_a_name_server_by_its_address_is_about_no_name() -> None:
    lab = plain_lab()
    lab.host.insert("filter", "-A FORWARD -p udp -m udp --dport 53 -j DROP")
    verdict = diagnose_case(lab.snapshot(), ask(lab, "c1", "8.8.8.8", "udp", 53))
    assert codes(verdict) == ["filter.rule-drop"]
    assert verdict.lookup is msgspec.UNSET
    assert b'"lookup"' not in to_json(verdict)
