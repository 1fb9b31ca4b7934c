"""Fuzz the readers of rulesets with atheris: anything but a result or an InputError is a finding.

atheris is no dependency of nettrace; give it an environment of its own, and run one reader at a time:

    python3.11 -m venv /tmp/fuzzvenv && /tmp/fuzzvenv/bin/pip install -e . atheris
    /tmp/fuzzvenv/bin/python -m tests.fuzz.parsers iptables -max_total_time=120 -max_len=2048 [CORPUS_DIR]

Readers: iptables, nft-json, nft-text, ipset, ebtables, paste. Without a corpus folder the seeds below are used. An
input that breaks a reader belongs into tests/netfilter/cases/, named READER-what.txt, where a test runs it for good.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nettrace.netfilter.ruleset import Table

__all__ = ["READERS", "main", "read"]

SEEDS: dict[str, str] = {
    "paste": """$ ip -d addr
2: eth0@if7: <BROADCAST,UP,LOWER_UP> mtu 1500 qdisc noqueue master br0 state UP group default
    link/ether 02:42:ac:11:00:02 brd ff:ff:ff:ff:ff:ff link-netnsid 0
    veth addrgenmode eui64
    bridge_slave state forwarding hairpin on
    inet 10.0.0.1 peer 10.0.0.2/32 scope global eth0
```
default via 172.17.0.1 dev eth0 metric 100
10.1.0.0/16 dev eth0 table 7 scope link
> 100:\tfrom 10.0.0.0/8 fwmark 0x1/0xff lookup vpn
172.17.0.9 dev eth0 lladdr 02:42:ac:11:00:09 STALE
02:42:ac:11:00:09 dev eth0 master br0 permanent
Chain FORWARD (policy DROP 0 packets, 0 bytes)
 pkts bytes target prot opt in out source destination
 1 2K DNAT tcp -- !eth0 * 0.0.0.0/0 10.0.0.0/8 tcp dpt:80 to:172.17.0.2:80
-P FORWARD DROP
-A FORWARD -i eth0 -c 1 2 -j DROP
net.ipv4.ip_forward = 1
tcp LISTEN 0 128 [::]:80 [::]:*
[{"Id": "ab", "NetworkSettings": {"Networks": {"x": {"IPAddress": "172.17.0.2", "IPPrefixLen": 16}}}, "State": {}}]
""",
    "iptables": """*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
[1:60] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -m comment --comment "\\"b\\"" -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m limit --limit 5/min -j ACCEPT
-A FORWARD -m set --match-set s src,dst -m mark --mark 0x1/0xf -j REJECT --reject-with icmp-port-unreachable
COMMIT
""",
    "nft-json": """{"nftables": [{"table": {"family": "inet", "name": "t"}},
{"chain": {"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "forward", "prio": 0,
"policy": "drop"}},
{"map": {"family": "inet", "table": "t", "name": "m", "type": "inet_service", "map": "verdict",
"elem": [[80, {"drop": null}]]}},
{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": [{"match": {"op": "==", "left": {"payload":
{"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}},
{"counter": {"packets": 1, "bytes": 2}}, {"vmap":
{"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@m"}},
{"dnat": {"family": "ip", "addr": "10.0.0.1", "port": 80}}]}}]}""",
    "nft-text": """table inet t { # handle 1
	set s {
		type ipv4_addr . inet_service
		flags interval
		elements = { 10.0.0.0/8 . 80-90 }
	}
	chain c {
		type filter hook forward priority filter - 5; policy drop;
		ip saddr 10.0.0.0/8 tcp dport { 80, 443 } counter packets 1 bytes 2 accept comment "x" # handle 3
		ip saddr . tcp dport @s meta mark set ct mark & 0xff limit rate 5/second burst 5 packets drop
		iifname "eth*" ct state established,related vmap { 1 : jump c2, 2 : drop }
	}
	chain c2 {
		dnat ip to 10.0.0.1:80
	}
}
""",
    "ipset": """create s hash:net,port family inet hashsize 1024 maxelem 65536 timeout 0
add s 10.0.0.0/8,tcp:80 timeout 5 nomatch
create b bitmap:port range 0-1024
add b 80-90
create l list:set size 8
add l s
""",
    "ebtables": """*filter
:INPUT ACCEPT
:FORWARD DROP
:x ACCEPT
-A FORWARD -p IPv4 -i veth0 --ip-src 10.0.0.0/8 --ip-proto tcp --ip-dport 80:90 -j x
-A x -s 02:00:00:00:00:00/fe:00:00:00:00:00 -j DROP
""",
}


def _whole(tables: Iterable[Table]) -> None:
    """Read every rule, also those that are read only when they are asked for."""
    from nettrace.netfilter.ruleset import Deferred

    for table in tables:
        for chain in table.chains.values():
            for row, rule in zip(list(chain.rules.rows), chain.rules, strict=True):
                if isinstance(row, Deferred):
                    list(row.conditions())
                    row.outputs()
                assert rule.ref.text or not rule.exprs


def _iptables(text: str) -> None:
    from nettrace.netfilter.iptables import parse_iptables_save

    _whole(parse_iptables_save(text, backend="nft", family="ip"))
    _whole(parse_iptables_save(text, backend="legacy", family="ip6"))


def _nft_json(text: str) -> None:
    from nettrace.netfilter import nft_json

    _whole(nft_json.parse(text))


def _nft_text(text: str) -> None:
    from nettrace.netfilter import nft_json
    from nettrace.netfilter.nft_text import parse_text

    nft_json.parse(parse_text(text))
    _whole(nft_json.parse(parse_text(text, deferring=True)))


def _ipset(text: str) -> None:
    from nettrace.netfilter.ipset import parse_ipset_save

    parse_ipset_save(text)


def _ebtables(text: str) -> None:
    from nettrace.netfilter.ebtables import parse_ebtables_save

    _whole(parse_ebtables_save(text, backend="nft"))


def _paste(text: str) -> None:
    from nettrace.model.base import from_json, to_json
    from nettrace.model.snapshot import Snapshot
    from nettrace.paste import Source, assemble, recognise

    found = assemble([recognise(Source(name="host/paste.txt", text=text))])
    assert from_json(to_json(found.snapshot), Snapshot) == found.snapshot


READERS: dict[str, Callable[[str], None]] = {
    "iptables": _iptables,
    "nft-json": _nft_json,
    "nft-text": _nft_text,
    "ipset": _ipset,
    "ebtables": _ebtables,
    "paste": _paste,
}


def read(reader: str, data: bytes) -> bool:
    """Let one reader read an input; return whether it was read or refused. Any other exception is a finding."""
    from nettrace.errors import InputError

    try:
        READERS[reader](data.decode("utf-8", "replace"))
    except InputError:
        return False
    return True


#: What a value of nft's JSON may be exchanged for.
_WORDS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**32, 2**64, 1.5, "", "@m", "@s", "0x1", [], {},
    "ip", "ip6", "inet", "tcp", "saddr", "dport", "10.0.0.0", "10.0.0.1-10.0.0.9", "::1", "eth*", "new",
    "accept", "match", "payload", "meta", "ct", "fib", "rt", "prefix", "range", "set", "map", "vmap", "concat",
    "&", "|", "^", "<<", "==", "!=", "in",
    {"accept": None}, {"jump": {"target": "c"}}, {"set": [1, 2]}, {"range": [1, 2]}, {"|": [1, 2]},
    {"prefix": {"addr": "10.0.0.0", "len": 33}}, {"concat": ["10.0.0.1", 80]}, {"elem": {"val": 1, "timeout": 5}},
    {"meta": {"key": "mark"}}, {"ct": {"key": "state"}}, {"limit": {"rate": 1, "per": "s"}},
    {"numgen": {"mode": "inc", "mod": 0, "offset": 0}}, {"jhash": {"mod": 0, "expr": {"meta": {"key": "mark"}}}},
    {"xt": {"type": "match", "name": "x"}}, {"dnat": {"addr": "1.2.3.4"}},
)  # fmt: skip


def mutate_tree(document: Any, rng: random.Random) -> Any:
    """Return a JSON document with one place changed: a value exchanged, taken out, doubled, or moved."""
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        node = pending.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        pending += [node[key] for key in keys]
    if not places:
        return rng.choice(_WORDS)
    node, key = rng.choice(places)
    other, from_key = rng.choice(places)
    action = rng.randrange(4)
    if action == 0:
        node[key] = json.loads(json.dumps(rng.choice(_WORDS)))
    elif action == 1:
        node[key] = json.loads(json.dumps(other[from_key]))
    elif action == 2:
        del node[key]
    elif isinstance(node, list):
        node.insert(key, json.loads(json.dumps(other[from_key])))
    else:
        node[rng.choice([str(each) for each in _WORDS])] = node[key]
    return document


def _mutate_json(data: bytes, max_size: int, seed: int) -> bytes:
    """Change a JSON document as a tree; what is none becomes the seed again."""
    rng = random.Random(seed)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = json.loads(SEEDS["nft-json"])
    for _ in range(rng.randint(1, 4)):
        document = mutate_tree(document, rng)
    changed = json.dumps(document).encode()
    return changed if len(changed) <= max_size else SEEDS["nft-json"].encode()


def main() -> None:
    """Fuzz the reader that the first argument names, with the options of libFuzzer after it."""
    # Not a dependency, and without type information.
    atheris = import_module("atheris")
    reader, options = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["nettrace.netfilter", "nettrace.paste"]):
        read(reader, SEEDS[reader].encode())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "seed").write_text(SEEDS[reader])
        mutator = {"custom_mutator": _mutate_json} if reader == "nft-json" else {}
        atheris.Setup([sys.argv[0], *options, folder], lambda data: read(reader, data), **mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
