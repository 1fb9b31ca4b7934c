"""The table of witnesses: each column from its own account alone, and names that change from lab to lab left out."""

from __future__ import annotations

from pathlib import Path

from nettrace.lab.witnesses import HEADERS, NOTHING, Row, table, witness
from nettrace.replay import case_again, read_case

ROOT = Path(__file__).parents[2]
CASES = ROOT / "fixtures/cases"


def row_of(case: str) -> Row:
    import json

    recorded = read_case(CASES / case)
    return witness(case, case_again(recorded), json.loads((CASES / case / "verdict.json").read_text()))


def test_a_rule_that_drops_is_named_by_three_of_them() -> None:
    row = row_of("rule-drop")
    assert row.captures == "the probe is last seen at host/docker0"
    assert row.counters.endswith("filter FORWARD rule 1 +1")
    assert row.drop.startswith("NETFILTER_DROP")
    assert row.trace.startswith("dropped by iptables (nft) filter FORWARD rule 1")
    assert row.together == "filter.rule-drop (forward, host)"


def test_a_routing_fault_has_a_counter_and_a_reason_and_no_trace() -> None:
    row = row_of("ip-forward-off")
    assert (row.counters, row.trace) == ("host: Ip.InAddrErrors +1", NOTHING)
    assert row.drop.startswith("IP_INADDRERRORS")


def test_what_was_not_probed_has_no_witness() -> None:
    row = row_of("container-not-running")
    assert row.cells[1:5] == (NOTHING,) * 4


def test_the_table_is_markdown_and_names_no_interface_of_one_lab() -> None:
    text = table([row_of("link-down"), row_of("icc-disabled-28")], "Linux 6.1")
    assert "vethN" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") for line in rows} == {len(HEADERS) - 1}
    assert rows[2].startswith("| icc-disabled-28 ")


def test_the_document_in_the_repository_has_every_fault_that_it_could_have() -> None:
    from nettrace.lab import FAULTS

    listed = {
        line.split("|")[1].strip()
        for line in (ROOT / "docs/witnesses.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| fault", "| ---"))
    }
    known = {each.name for each in FAULTS}
    assert listed <= known
    # What is missing needs another backend of iptables than the labs that the table is made with.
    assert {each.name for each in FAULTS if each.iptables in (None, "nft")} <= listed
