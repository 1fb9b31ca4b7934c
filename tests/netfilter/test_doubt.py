"""What is not known, judged by trying every answer: the verdict is unknown exactly when the answers disagree.

Random rulesets carry matches that cannot be evaluated. Each is replaced by "always" and "never" in every combination,
and the walk with doubts must agree with all of the walks without.
"""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from nettrace.model.netfilter import FilterVerdict
from tests.netfilter.packets import filter_table, ruleset, tcp, walk

DOUBT = "-m limit --limit 3/sec"
#: Matches that always and never hold.
CERTAIN = {True: "-m mark --mark 0x0/0x0", False: "-m mark ! --mark 0x0/0x0"}
CHAINS = ("ONE", "TWO", "THREE")


def rules_of(random: Random) -> list[str]:
    """Random rules over a few chains, with at most six doubts."""
    rules: list[str] = []
    doubts = 0
    for at, chain in enumerate(("FORWARD", *CHAINS)):
        for _ in range(random.randint(1, 4)):
            words = [f"-A {chain}"]
            if doubts < 6 and random.random() < 0.6:
                words.append(DOUBT)
                doubts += 1
            if random.random() < 0.3:
                words.append(random.choice(("-p tcp", "-p udp", "-m mark --mark 0x1", "-m mark ! --mark 0x1")))
            later = CHAINS[at:]
            targets = ["-j ACCEPT", "-j DROP", "-j RETURN", "-j MARK --set-xmark 0x1/0xffffffff", "-j REJECT", ""]
            targets += [f"{how} {each}" for each in later for how in ("-j", "-j", "-g")]
            words.append(random.choice(targets))
            rules.append(" ".join(words))
    return rules


def settled(rules: list[str], answers: tuple[bool, ...]) -> list[str]:
    """The rules with each doubt replaced by an answer."""
    left = iter(answers)
    return [rule.replace(DOUBT, CERTAIN[next(left)]) if DOUBT in rule else rule for rule in rules]


@pytest.mark.parametrize("seed", range(200))
def test_the_verdict_is_unknown_exactly_when_the_answers_disagree(seed: int) -> None:
    random = Random(seed)
    rules = rules_of(random)
    doubtful = [rule for rule in rules if DOUBT in rule]
    result = walk(ruleset(filter_table(*rules, chains=CHAINS)), tcp())
    every = {
        answers: walk(ruleset(filter_table(*settled(rules, answers), chains=CHAINS)), tcp()).verdict
        for answers in product((False, True), repeat=len(doubtful))
    }
    found = set(every.values())
    assert FilterVerdict.UNKNOWN not in found
    if len(found) == 1:
        assert {result.verdict} == found
        return
    assert result.verdict == FilterVerdict.UNKNOWN
    # Every doubt that tips some answer is named. No other is, unless a chain is asked twice: then a doubt in it is two.
    tipping = {
        at
        for at in range(len(doubtful))
        for answers, verdict in every.items()
        if every[(*answers[:at], not answers[at], *answers[at + 1 :])] != verdict
    }
    named = [f"{each.rule.chain} {each.rule.index}" for each in result.assumptions]
    places = [f"{chain} {index}" for chain, index in positions(rules)]
    assert set(named) >= {places[at] for at in tipping}
    calls = [rule.split()[-1] for rule in rules if rule.split()[-1] in CHAINS]
    if len(calls) == len(set(calls)):
        assert set(named) == {places[at] for at in tipping}


def positions(rules: list[str]) -> list[tuple[str, int]]:
    """Chain and index of each doubtful rule, in order."""
    counts: dict[str, int] = {}
    found: list[tuple[str, int]] = []
    for rule in rules:
        chain = rule.split()[1]
        counts[chain] = counts.get(chain, 0) + 1
        if DOUBT in rule:
            found.append((chain, counts[chain]))
    return found
