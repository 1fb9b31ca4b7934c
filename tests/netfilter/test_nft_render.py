"""Rules printed back from nft's JSON, against the text that nft prints of the same rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nettrace.netfilter.nft_render import render_expression, render_rule, render_statement
from nettrace.netfilter.nft_text import parse_rule, parse_text

CORPUS = Path(__file__).parent / "nft_corpus"


def rules_of(listing: str) -> list[str]:
    """Return the rule lines of a listing, in order."""
    found, inside = [], False
    for line in listing.splitlines():
        if line.startswith("\tchain "):
            inside = True
        elif line == "\t}":
            inside = False
        elif inside and line.startswith("\t\t") and not re.match(r"\t\t(type \w+ hook|comment )", line):
            found.append(line.strip())
    return found


def test_every_rule_of_the_corpus_is_printed_as_nft_prints_it() -> None:
    listed = rules_of((CORPUS / "corpus.list").read_text())
    document = json.loads((CORPUS / "corpus.json").read_text())
    rules = [each["rule"] for each in document["nftables"] if "rule" in each]
    assert len(listed) == len(rules)
    for text, rule in zip(listed, rules, strict=True):
        printed = render_rule(rule["expr"], rule.get("comment", ""), family=rule["family"], stateless=False)
        assert printed == text


def test_parsing_what_was_printed_gives_the_same_rule() -> None:
    for each in parse_text((CORPUS / "corpus.list").read_text())["nftables"]:
        rule: dict[str, Any] = each.get("rule", {"expr": [], "family": "inet"})
        again = parse_rule(render_rule(rule["expr"], family=rule["family"], stateless=False), rule["family"])
        assert again == rule["expr"]


@pytest.mark.parametrize(
    ("text", "stateless"),
    [
        ("counter packets 5 bytes 10 accept", "counter accept"),
        ("quota 10 mbytes used 5 kbytes", "quota 10 mbytes"),
        ("last used 5s", "last"),
    ],
)
def test_counts_are_left_out_when_stateless(text: str, stateless: str) -> None:
    assert render_rule(parse_rule(text)) == stateless
    assert render_rule(parse_rule(text), stateless=False) == text


@pytest.mark.parametrize(
    "text",
    [
        "queue to 1-3",
        "queue flags bypass,fanout to 1-3",
        "flow add @f",
        "update @m { ip saddr timeout 5s : tcp dport }",
        'xt match "conntrack"',
        "vxlan ip saddr 10.0.0.1",
        'ct expectation set "e"',
        "tcp option @42,16,4 5",
        "dccp option 5 exists",
    ],
)
def test_constructs_of_other_versions(text: str) -> None:
    assert render_rule(parse_rule(text)) == text


def test_comments_and_unknown_statements() -> None:
    assert render_rule([{"unknown": "frob 5"}, {"drop": None}], "why") == 'frob 5 drop comment "why"'
    assert render_statement({"newthing": {"a": 1}}) == '{"newthing":{"a":1}}'
    assert render_statement("as nft said") == "as nft said"
    assert render_expression({"meta": {"key": "mark"}}) == "meta mark"


@pytest.mark.parametrize("broken", [None, 5, [], {}, {"match": 5}, {"a": 1, "b": 2}, {"dnat": [1]}, {"counter": 5}])
def test_broken_json_is_printed_and_not_fatal(broken: object) -> None:
    assert isinstance(render_statement(broken), str)
