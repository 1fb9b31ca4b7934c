"""Rules that are read late are the rules that are read at once, and decide alike."""

from __future__ import annotations

import json
import random
import re
from ipaddress import ip_address
from typing import Any

import pytest

from nettrace.errors import InputError
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, Hook, HookResult, Tracking
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import HookContext, Ruleset, evaluate_hook, iptables, load_ruleset, nft_json, nft_lexer
from nettrace.netfilter.nft_text import parse_text
from nettrace.netfilter.ruleset import Deferred
from tests.bench import netfilter as bench

DEVICES = ("eth0", "docker0", "br-1", "br-22")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.1.7", "172.17.0.2")
PORTS = (22, 80, 443, 40000)


def iptables_rules(rng: random.Random, count: int) -> str:
    """Rules of every plain form, and some that are not plain."""
    lines = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":USER - [0:0]"]
    for _ in range(count):
        words = [rng.choice(("-A FORWARD", "-A FORWARD", "-A USER"))]
        for option in ("-s", "-d"):
            if rng.random() < 0.4:
                words.append(rng.choice(("", "", "! ")) + f"{option} {rng.choice(ADDRESSES)}/{rng.choice((32, 24, 8))}")
        for option in ("-i", "-o"):
            if rng.random() < 0.4:
                words.append(rng.choice(("", "", "! ")) + f"{option} {rng.choice((*DEVICES, 'br-+'))}")
        if rng.random() < 0.5:
            proto = rng.choice(("tcp", "udp"))
            words.append(f"-p {proto} -m {proto} --dport {rng.choice((*PORTS, '80:443'))}")
        words += rng.choice(([], [], ['-m comment --comment "a word"'], ["-m conntrack --ctstate NEW"]))
        words += rng.choice(([], [], ["-m mark --mark 0x1"]))
        target = rng.choice(("-j ACCEPT", "-j DROP", "-j RETURN", "-j REJECT --reject-with icmp-port-unreachable", ""))
        words.append("-j USER" if words[0] == "-A FORWARD" and rng.random() < 0.2 else target)
        lines.append(" ".join(word for word in words if word))
    return "\n".join([*lines, "COMMIT", ""])


def nft_rules(rng: random.Random, count: int) -> str:
    """The same for nft's language."""
    user, forward = [], []
    for _ in range(count):
        words = []
        for field in ("saddr", "daddr"):
            if rng.random() < 0.4:
                words.append(f"ip {field} {rng.choice(('', '', '!= '))}{rng.choice(ADDRESSES)}")
        for field in ("iifname", "oifname"):
            if rng.random() < 0.4:
                words.append(f'{field} {rng.choice(("", "", "!= "))}"{rng.choice((*DEVICES, "br-*"))}"')
        if rng.random() < 0.5:
            words.append(f"{rng.choice(('tcp', 'udp'))} dport {rng.choice((*PORTS, '80-443'))}")
        words += rng.choice(([], ["ct state established,related"], ["counter packets 3 bytes 40"], ["meta mark 1"]))
        verdict = rng.choice(("accept", "drop", "return", "reject"))
        if rng.random() < 0.5:
            forward.append(" ".join([*words, "jump USER" if rng.random() < 0.3 else verdict]))
        else:
            user.append(" ".join([*words, verdict]))
    rules = "\n".join(f"\t\t{each}" for each in user)
    base = "\n".join(f"\t\t{each}" for each in ("type filter hook forward priority filter; policy accept;", *forward))
    return f"table inet t {{\n\tchain USER {{\n{rules}\n\t}}\n\tchain FORWARD {{\n{base}\n\t}}\n}}\n"


def load(kind: DumpFormat, text: str) -> Ruleset:
    """Load one dump."""
    return load_ruleset([NetfilterDump(format=kind, backend="nft", family="ip", text=text)])


def rules_of(ruleset: Ruleset) -> list[Any]:
    """Read every rule."""
    return [rule for table in ruleset.tables for chain in table.chains.values() for rule in chain.rules]


def deferred_of(ruleset: Ruleset) -> int:
    """Count the rules that are not read."""
    rows = [row for table in ruleset.tables for chain in table.chains.values() for row in chain.rules.rows]
    return sum(isinstance(row, Deferred) for row in rows)


def answers(ruleset: Ruleset, rng: random.Random) -> list[HookResult]:
    """Send packets through FORWARD."""
    out = []
    for _ in range(40):
        proto = rng.choice((1, 6, 17))
        packet = Packet(
            family=4,
            src=ip_address(rng.choice(ADDRESSES)),
            dst=ip_address(rng.choice(ADDRESSES)),
            proto=proto,
            sport=40000 if proto != 1 else None,
            dport=rng.choice(PORTS) if proto != 1 else None,
            icmp_type=8 if proto == 1 else None,
            icmp_code=0 if proto == 1 else None,
            icmp_id=1 if proto == 1 else None,
            tcp_flags=2 if proto == 6 else None,
        )
        context = HookContext(iif=rng.choice(DEVICES), oif=rng.choice(DEVICES))
        tracking = Tracking(state=rng.choice((CtState.NEW, CtState.ESTABLISHED)))
        out.append(evaluate_hook(ruleset, Hook.FORWARD, packet, tracking, context))
    return out


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kind", [DumpFormat.IPTABLES_SAVE, DumpFormat.NFT_TEXT, DumpFormat.NFT_JSON])
def test_late_and_at_once_are_one(kind: DumpFormat, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    text = (iptables_rules if kind is DumpFormat.IPTABLES_SAVE else nft_rules)(rng, 30)
    if kind is DumpFormat.NFT_JSON:
        text = json.dumps(parse_text(text))
    late = load(kind, text)
    assert deferred_of(late) > 3
    walked = answers(late, random.Random(seed + 1))
    with monkeypatch.context() as patch:
        patch.setattr(iptables, "_PLAIN", lambda _line: None)
        patch.setattr(nft_lexer, "_PLAIN_LINE", re.compile(r"(?!)"))
        patch.setattr(nft_json.PlainJson, "of", lambda _raw: None)
        once = load(kind, text)
    assert deferred_of(once) == 0
    assert answers(once, random.Random(seed + 1)) == walked
    assert rules_of(late) == rules_of(once)


@pytest.mark.parametrize("kind", bench.FORMATS)
def test_of_a_long_chain_few_rules_are_read(kind: str) -> None:
    formats = {"iptables-save": DumpFormat.IPTABLES_SAVE, "nft": DumpFormat.NFT_TEXT, "nft -j": DumpFormat.NFT_JSON}
    ruleset = load(formats[kind], bench.MAKERS[kind](500))
    before = deferred_of(ruleset)
    assert before > 490
    answers(ruleset, random.Random(1))
    assert deferred_of(ruleset) > before - 20


def test_a_jump_that_leads_nowhere_is_refused_without_reading_the_rule() -> None:
    text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.0.0.1/32 -j NOWHERE\nCOMMIT\n"
    with pytest.raises(InputError, match="rule 1 of chain FORWARD jumps to chain NOWHERE"):
        load(DumpFormat.IPTABLES_SAVE, text)


def test_plain_rules_that_call_in_a_circle_are_refused() -> None:
    text = "*filter\n:FORWARD ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -j A\nCOMMIT\n"
    with pytest.raises(InputError, match="in a circle"):
        load(DumpFormat.IPTABLES_SAVE, text)
