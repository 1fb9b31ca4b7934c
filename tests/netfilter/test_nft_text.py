"""The text of `nft list ruleset` against what nft's own JSON says of the same rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nettrace.errors import InputError
from nettrace.netfilter.nft_text import parse_rule, parse_text
from tests.netfilter.effort import calls
from tests.netfilter.nft_compare import comparable

CORPUS = Path(__file__).parent / "nft_corpus"


def statements(text: str, family: str = "inet") -> Any:
    return parse_rule(text, family)


def equals(left: object, value: object) -> object:
    return {"match": {"op": "==", "left": left, "right": value}}


def right(text: str, family: str = "inet") -> Any:
    return parse_rule(text, family)[0]["match"]["right"]


def test_the_corpus_parses_to_what_nft_says_of_it() -> None:
    ours = comparable(parse_text((CORPUS / "corpus.list").read_text()))
    theirs = comparable(json.loads((CORPUS / "corpus.json").read_text()))
    assert len(ours) == len(theirs) > 780
    for one, two in zip(ours, theirs, strict=True):
        assert one == two


def test_what_people_write_parses_as_what_nft_prints_of_it() -> None:
    written = parse_text((CORPUS / "corpus.nft").read_text())
    listed = parse_text((CORPUS / "corpus.list").read_text())
    assert len(written["nftables"]) == len(listed["nftables"])
    assert "unknown" not in json.dumps(written)


def test_text_says_more_than_old_json() -> None:
    text = """
table inet t { # handle 7
	comment "of a table"
	flags dormant
	set s { # handle 3
		typeof ip saddr . meta mark
		size 65535
		flags dynamic,timeout
		timeout 1h
		auto-merge
	}

	chain c { # handle 1
		comment "of a chain"
		type filter hook ingress devices = { eth0, eth1 } priority filter + 5; policy drop;
		accept # handle 9
	}
}
"""
    table, named, chain, rule = parse_text(text)["nftables"]
    assert table["table"] == {
        "family": "inet",
        "name": "t",
        "handle": 7,
        "comment": "of a table",
        "flags": ["dormant"],
    }
    assert named["set"]["flags"] == ["timeout", "dynamic"]
    assert named["set"]["auto-merge"] is True
    assert named["set"]["type"] == {
        "typeof": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"meta": {"key": "mark"}}]}
    }
    assert chain["chain"]["dev"] == ["eth0", "eth1"]
    assert (chain["chain"]["prio"], chain["chain"]["policy"], chain["chain"]["handle"]) == (5, "drop", 1)
    assert rule["rule"]["handle"] == 9


@pytest.mark.parametrize(
    ("family", "text", "priority"),
    [
        ("ip", "filter", 0),
        ("ip", "dstnat", -100),
        ("ip", "srcnat - 5", 95),
        ("ip", "raw", -300),
        ("ip", "security", 50),
        ("ip", "-150", -150),
        ("bridge", "dstnat", -300),
        ("bridge", "out", 100),
        ("bridge", "filter + 10", -190),
    ],
)
def test_priorities_by_name_and_number(family: str, text: str, priority: int) -> None:
    document = parse_text(f"table {family} t {{\n chain c {{\n type filter hook output priority {text};\n }}\n}}\n")
    assert document["nftables"][1]["chain"]["prio"] == priority


# Constructs that the machine's nft or kernel cannot load, from nft(8) and libnftables-json(5).
@pytest.mark.parametrize(
    ("text", "json_form"),
    [
        ("queue to 1-3", {"queue": {"num": {"range": [1, 3]}}}),
        ("queue flags bypass,fanout to 1-3", {"queue": {"num": {"range": [1, 3]}, "flags": ["bypass", "fanout"]}}),
        ("queue num 5 bypass", {"queue": {"num": 5, "flags": "bypass"}}),
        ("queue", {"queue": None}),
        (
            "queue flags bypass to oifname map { \"eth0\" : 0, \"eth1\" : 2 }",
            {
                "queue": {
                    "num": {"map": {"key": {"meta": {"key": "oifname"}}, "data": {"set": [["eth0", 0], ["eth1", 2]]}}},
                    "flags": "bypass",
                }
            },
        ),
        ("flow add @f", {"flow": {"op": "add", "flowtable": "@f"}}),
        ("last used 5s", {"last": {"used": 5000}}),
        ("ct expectation set \"e\"", {"ct expectation": "e"}),
        (
            "update @m { ip saddr : tcp dport }",
            {
                "map": {
                    "op": "update",
                    "elem": {"payload": {"protocol": "ip", "field": "saddr"}},
                    "data": {"payload": {"protocol": "tcp", "field": "dport"}},
                    "map": "@m",
                }
            },
        ),
        (
            "vxlan ip saddr 10.0.0.1",
            equals({"payload": {"tunnel": "vxlan", "protocol": "ip", "field": "saddr"}}, "10.0.0.1"),
        ),
        ("vxlan vni 5", equals({"payload": {"protocol": "vxlan", "field": "vni"}}, 5)),
        ("xt match \"conntrack\"", {"xt": {"type": "match", "name": "conntrack"}}),
        ("tcp option @42,16,4 5", equals({"tcp option": {"base": 42, "offset": 16, "len": 4}}, 5)),
        ("dccp option 5 exists", equals({"dccp option": {"type": 5}}, True)),
    ],
)  # fmt: skip
def test_constructs_of_other_versions(text: str, json_form: object) -> None:
    assert statements(text) == [json_form]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("meta l4proto tcp", "tcp"),
        ("meta l4proto 200", 200),
        ("ip protocol ah", "ah"),
        ("ether type vlan", "8021q"),
        ("iif 0", "0"),
        ("meta mark 0x0000ff00", 0xFF00),
        ("ct expiration 1h30m", 5400),
        ("ip saddr 10.0.0.0/8", {"prefix": {"addr": "10.0.0.0", "len": 8}}),
        ("ip6 daddr fe80::/10", {"prefix": {"addr": "fe80::", "len": 10}}),
        ("ip saddr 10.0.0.1-10.0.0.9", {"range": ["10.0.0.1", "10.0.0.9"]}),
        ("tcp dport 1000-2000", {"range": [1000, 2000]}),
        ("meta hour \"10:00\"-\"12:00\"", {"range": ["10:00", "12:00"]}),
        ("ip dscp 0x02-0x10", {"range": [2, "cs2"]}),
        ("ct state established,related", ["established", "related"]),
        ("fib saddr . iif oif missing", False),
        ("@th,160,128 0x102030405060708090a0b0c0d0e0f", "0x102030405060708090a0b0c0d0e0f"),
        ("ether saddr 00:11:22:33:44:55", "00:11:22:33:44:55"),
        ("meta priority 1:2", "1:2"),
        ("iifname \"eth*\"", "eth*"),
        ("ip saddr @blocked", "@blocked"),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    assert right(text) == value


def test_what_is_not_understood_is_kept_with_its_text() -> None:
    document = parse_text(
        'table ip t {\n\tchain c {\n\t\tip saddr 1.2.3.4 frobnicate { a, "b}" } 5 comment "mine" # handle 4\n\t}\n}\n'
    )
    rule = document["nftables"][2]["rule"]
    assert rule["expr"][1] == {"unknown": 'frobnicate { a, "b}" } 5'}
    assert (rule["comment"], rule["handle"]) == ("mine", 4)
    assert statements("meta broute set 1")[0]["mangle"]["key"] == {"meta": {"key": "broute"}}
    assert statements("meta somekey 5 accept") == [{"unknown": "meta somekey 5 accept"}]


def test_a_family_left_out_is_ip() -> None:
    assert parse_text("table filter {\n}\n")["nftables"] == [{"table": {"family": "ip", "name": "filter"}}]


def test_nothing_is_an_empty_ruleset() -> None:
    assert parse_text("") == {"nftables": []}
    assert parse_text("# Warning: table ip nat is managed by iptables-nft, do not touch!\n\n") == {"nftables": []}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("Chain INPUT (policy ACCEPT)\n", 1, "expected a table"),
        ("table ip t {\n\tchain c {\n\t\taccept\n", 4, "ends too early"),
        ("table ip t {\n\tchain c {\n\t\ttcp dport\n\t}\n}\n", 3, "expected a value"),
        ("table ip t {\n\tchain c {\n\t\tlog prefix \"abc\n\t}\n}\n", 3, "cannot read"),
        ("table ip t {\n\tchain c {\n\t\ttype filter hook input priority high;\n\t}\n}\n", 3, "unknown priority"),
        ("table ip t {\n\tnonsense\n}\n", 2, "nothing in a table begins with"),
        ("table ip t {\n\tset s {\n\t\tcolour red\n\t}\n}\n", 3, "nothing in a set begins with"),
        ("table ip t {\n\tchain c {\n\t\t5 accept\n\t}\n}\n", 3, "no statement begins with"),
        ("table ip t {\n\tchain c {\n\t\tmeta mark " + "9" * 5000 + "\n\t}\n}\n", 3, "too long"),
        ("table ip t {\n}\n}\n", 3, "expected a table"),
        ("add table ip t\n", 1, "expected a table"),
        ("\x00\x01\x02", 1, "cannot read"),
    ],
)  # fmt: skip
def test_errors_name_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(InputError, match=f"line {line}: .*{words}"):
        parse_text(text)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InputError, match="nested deeper"):
        statements("ip saddr " + "(" * 100000)
    with pytest.raises(InputError, match="more than 64 terms"):
        statements("meta mark set 1 " + "| 1 " * 100000)


def test_every_truncation_is_noticed() -> None:
    text = (CORPUS / "corpus.list").read_text()
    for end in range(7, len(text) - 8, 997):
        # Between two tables a text is whole; the first one's end is the only such place that is hit.
        if text[:end].rstrip().endswith("\n}"):
            continue
        with pytest.raises(InputError, match=r"line \d+"):
            parse_text(text[:end])


@given(st.data())
def test_damage_never_escapes_as_another_exception(data: st.DataObject) -> None:
    text = (CORPUS / "corpus.list").read_text()
    start = data.draw(st.integers(0, len(text) - 400))
    piece = list(text[start : start + 300])
    for _ in range(data.draw(st.integers(1, 4))):
        piece[data.draw(st.integers(0, 299))] = data.draw(st.sampled_from('{}()[];,.:"abx19 \n@#-/=!<&|\x00é*'))
    try:
        parse_text("table inet t {\n\tchain c {\n" + "".join(piece) + "\n\t}\n}\n")
    except InputError:
        return


def test_the_work_grows_with_the_text_only() -> None:
    def text(rules: int) -> str:
        lines = "".join(
            f"\t\tip saddr 10.0.{n // 256 % 256}.{n % 256} tcp dport {{ 80, 443 }} drop\n" for n in range(rules)
        )
        return f"table ip t {{\n\tchain c {{\n{lines}\t}}\n}}\n"

    def work(rules: int) -> int:
        given = text(rules)
        return calls(lambda: parse_text(given))

    work(100)  # imports and caches
    small, large = work(500), work(4000)
    assert large < small * 8 * 1.2
