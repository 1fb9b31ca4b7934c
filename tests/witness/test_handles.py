"""From a handle to the rule, where the listings agree and where they do not."""

from __future__ import annotations

import json

from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import load_ruleset
from nettrace.netfilter.handles import RuleHandles

SAVED = """*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -s 10.0.0.1/32 -j ACCEPT
-A FORWARD -j DROP
COMMIT
"""


def saved() -> NetfilterDump:
    return NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend="nft", family="ip", text=SAVED)


def listed(*handles: int) -> NetfilterDump:
    place = {"family": "ip", "table": "filter", "chain": "FORWARD"}
    chain = {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0}
    objects = [{"table": {"family": "ip", "name": "filter"}}, {"chain": {**chain, "policy": "accept"}}]
    objects += [{"rule": {**place, "handle": each, "expr": [{"drop": None}]}} for each in handles]
    text = json.dumps({"nftables": objects})
    return NetfilterDump(format=DumpFormat.NFT_JSON, backend="nft", family="all", text=text)


def found(dumps: list[NetfilterDump], handle: int, order: tuple[int, ...] = ()) -> tuple[int | None, str] | None:
    places = {("ip", "filter", "FORWARD"): order} if order else None
    ref = RuleHandles(load_ruleset(dumps), dumps=dumps, order=places).rule("ip", "filter", "FORWARD", handle)
    assert ref is None or ref.handle == handle
    return (ref.index, ref.text) if ref is not None else None


def test_both_listings_agree() -> None:
    assert found([saved(), listed(4, 9)], 9) == (2, "-A FORWARD -j DROP")
    assert found([saved(), listed(4, 9)], 5) is None


def test_where_they_have_not_as_many_rules_nfts_own_text_is_taken() -> None:
    assert found([saved(), listed(4, 9, 12)], 12) == (3, "drop")


def test_the_kernels_order_serves_without_nft_and_only_when_it_fits() -> None:
    assert found([saved()], 9) is None
    assert found([saved()], 9, (4, 9)) == (2, "-A FORWARD -j DROP")
    assert found([saved()], 9, (4, 9, 12)) is None


def test_unknown_places_are_not_found() -> None:
    rules = RuleHandles(load_ruleset([saved()]))
    assert rules.rule("ip", "nat", "FORWARD", 1) is None
    assert rules.chain("ip", "filter", "nowhere") is None
    policy = rules.chain("ip", "filter", "FORWARD")
    assert policy is not None
    assert policy.text == ":FORWARD ACCEPT"
