"""nft itself as the judge: what it lists as text and as JSON, and what the kernel does with its rules."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nettrace.netfilter import nft_json
from nettrace.netfilter.nft_render import render_rule
from nettrace.netfilter.nft_text import parse_text
from tests.netfilter.nft_compare import comparable
from tests.netfilter.test_nft_render import rules_of

pytestmark = pytest.mark.live

CORPUS = Path(__file__).parents[1] / "netfilter" / "nft_corpus" / "corpus.nft"
DATA = Path(__file__).parents[3] / "shared" / "data"

Nft = Callable[..., str]


@pytest.fixture(scope="module")
def nft() -> Iterator[Nft]:
    """Run nft in a namespace of its own; fails with what nft says."""
    name = f"nf2-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)

    def run(*arguments: str, text: str | None = None) -> str:
        command = ["nsenter", f"--net=/run/netns/{name}", "nft", *arguments]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        yield run
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def check(nft: Nft, text: str) -> None:
    """Load a ruleset, and compare both of nft's listings with ours."""
    nft("-f", "-", text="flush ruleset\n" + text)
    listed, stateless = nft("-a", "list", "ruleset"), nft("-s", "list", "ruleset")
    document = json.loads(nft("-j", "list", "ruleset"))
    ours, theirs = comparable(parse_text(listed)), comparable(document)
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert one == two
    lines = rules_of(stateless)
    rules = [each["rule"] for each in document["nftables"] if "rule" in each]
    assert len(lines) == len(rules)
    for line, rule in zip(lines, rules, strict=True):
        assert render_rule(rule["expr"], rule.get("comment", ""), family=rule["family"]) == line
    handles = {each["rule"]["handle"] for each in parse_text(listed)["nftables"] if "rule" in each}
    assert handles == {rule["handle"] for rule in rules}
    # Both ways must compile to the same rules; old JSON does not tell which sets packets may change, and which device.
    from_text, from_json = nft_json.parse(parse_text(listed)), nft_json.parse(document)
    for one_table, two_table in zip(from_text, from_json, strict=True):
        for chain in two_table.chains.values():
            same = one_table.chains[chain.name]
            assert [rule.exprs for rule in same.rules] == [rule.exprs for rule in chain.rules]
            assert [rule.ref for rule in same.rules] == [rule.ref for rule in chain.rules]


def test_text_and_json_of_the_corpus(nft: Nft) -> None:
    check(nft, CORPUS.read_text())


def golden_files() -> list[Path]:
    found = sorted((DATA / "moby-goldens" / "nftabler").glob("*.golden"))
    return found + sorted(path for path in (DATA / "docker-layouts").glob("*nft*/*") if path.is_file())


@pytest.mark.skipif(not DATA.is_dir(), reason=f"Docker's test data is not at {DATA}")
def test_text_and_json_of_every_ruleset_of_docker(nft: Nft) -> None:
    # Each is one table; under names of their own they are loaded all at once.
    parts = []
    for number, path in enumerate(golden_files()):
        text = path.read_text().replace("hook output priority dstnat", "hook output priority -100")
        parts.append(re.sub(r"^table (\w+) (\S+)", rf"table \1 \2-{number}", text, flags=re.MULTILINE))
    assert len(parts) > 300
    check(nft, "\n".join(parts))


def test_iptables_rules_in_both_listings(nft: Nft) -> None:
    nft("flush", "ruleset")
    name = f"nf2-{os.getpid()}"
    for rule in (
        "-t nat -A POSTROUTING -s 10.0.0.0/8 ! -o br0 -j MASQUERADE",
        "-A FORWARD -m comment --comment hello -m conntrack --ctstate NEW -j DROP",
        "-A FORWARD -m statistic --mode random --probability 0.5 -j LOG",
    ):
        subprocess.run(["nsenter", f"--net=/run/netns/{name}", "iptables-nft", *rule.split()], check=True)
    tables = {table.name: table for table in nft_json.parse(nft("-j", "list", "ruleset"))}
    texts = [rule.ref.text for rule in tables["filter"].chains["FORWARD"].rules]
    assert texts == [
        'xt match "comment" xt match "conntrack" counter drop',
        'xt match "statistic" counter xt target "LOG"',
    ]
    # As text, nft translates what it can of iptables' own extensions.
    translated = {table.name: table for table in nft_json.parse(parse_text(nft("list", "ruleset")))}
    (masquerade,) = translated["nat"].chains["POSTROUTING"].rules
    assert masquerade.ref.text == 'oifname != "br0" ip saddr 10.0.0.0/8 counter masquerade'


def test_the_kernel_does_what_the_evaluator_says() -> None:
    from tests.oracle import nft_grammar

    cases = int(os.environ.get("NETTRACE_ORACLE_CASES", "40"))
    report = nft_grammar.run(cases, seed=int(os.environ.get("NETTRACE_ORACLE_SEED", "20")))
    print(report)
    assert report.differences == []
    assert report.cases == cases
