"""Damaged and made-up dumps: they are read, or refused with an InputError, and nothing else."""

from __future__ import annotations

from random import Random

import pytest

from nettrace.errors import InputError
from nettrace.model.netfilter import Hook
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import load_ruleset
from tests.netfilter.packets import filter_table, tcp, walk

IPTABLES = filter_table(
    "[1:2] -A FORWARD -s 10.0.0.0/8 ! -i br0 -o br+ -p tcp -m tcp --dport 80:90 -j ONE",
    "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"a \\\"b\\\"\" -j ACCEPT",
    "-A FORWARD -p icmp -m icmp --icmp-type 3/4 -m limit --limit 3/min --limit-burst 5 -j LOG --log-prefix \"x \"",
    "-A ONE -p udp -m multiport --dports 1,2:3 -m set --match-set s src,dst -j REJECT --reject-with tcp-reset",
    "-A ONE -m addrtype --dst-type LOCAL -m physdev --physdev-is-bridged -m iprange --src-range 1.2.3.4-1.2.3.9 -g TWO",
    "-A TWO -m mark --mark 0x1/0xff -m owner --uid-owner 5 -m mac --mac-source 02:00:00:00:00:01 -j NFQUEUE",
    chains=("ONE", "TWO"),
) + filter_table(
    "-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2-10.0.0.9:80-90/8080 --random",
    "-A POSTROUTING -o eth0 -j MASQUERADE --to-ports 1000-2000 --random-fully",
    "-A OUTPUT -d 1.0.0.0/8 -j NETMAP --to 2.0.0.0/8",
    table="nat",
)  # fmt: skip
IPSET = """create s hash:net,port family inet hashsize 1024 maxelem 65536 timeout 30
add s 10.0.0.0/8,tcp:80 timeout 3 nomatch
create l list:set size 8
add l s
create b bitmap:ip range 10.0.0.0/24
add b 10.0.0.1-10.0.0.9
"""
EBTABLES = """*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
:mine RETURN
-A FORWARD -p IPv4 -s 02:00:00:00:00:01/ff:ff:ff:00:00:00 --ip-src 10.0.0.0/8 --ip-proto tcp --ip-dport 80 -j mine
-A mine -j mark --mark-set 0x1 --mark-target ACCEPT
"""
WORDS = (
    "-m",
    "!",
    "-j",
    "-p",
    "-s",
    '"',
    "\\",
    "ONE",
    "999999999999999999999",
    "/",
    ":",
    "-",
    "\0",
    "é",
    "0x",
    "::",
    "[",
    "*nat",
)


def damaged(text: str, random: Random) -> str:
    """The text with a few words, characters or lines changed, dropped or doubled."""
    for _ in range(random.randint(1, 4)):
        kind = random.randrange(5)
        text = text or "*"
        if kind == 0:
            at = random.randrange(len(text))
            text = text[:at] + random.choice(WORDS) + text[at + random.randint(0, 5) :]
        elif kind == 1:
            text = text[: random.randrange(len(text))] or "*"
        else:
            lines = text.split("\n")
            at = random.randrange(len(lines))
            words = lines[at].split(" ")
            place = random.randrange(len(words))
            if kind == 2:
                words[place] = random.choice(WORDS)
            elif kind == 3:
                del words[place]
            else:
                words.insert(place, random.choice(WORDS))
            lines[at] = " ".join(words)
            text = "\n".join(lines)
    return text


@pytest.mark.parametrize("batch", range(10))
def test_damage_is_read_or_refused(batch: int) -> None:
    random = Random(batch)
    refused = 0
    for _ in range(120):
        dumps = [
            NetfilterDump(format=kind, backend="nft", family=family, text=damaged(text, random))
            for kind, family, text in (
                (DumpFormat.IPTABLES_SAVE, "ip", IPTABLES),
                (DumpFormat.IPSET_SAVE, "all", IPSET),
                (DumpFormat.EBTABLES_SAVE, "bridge", EBTABLES),
            )
        ]
        for some in ([each] for each in dumps):
            try:
                rules = load_ruleset(some)
            except InputError:
                refused += 1
                continue
            for hook in Hook:
                walk(rules, tcp(), hook)
            walk(rules, tcp(), Hook.FORWARD, family="bridge")
    assert refused
