"""Measure the netfilter model: reading rulesets, walking packets, and `nettrace eval` as a whole process.

    python tests/bench/netfilter.py [--json] [--check] [--rules N]

Sends nothing and needs no root. With --check the exit code is 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

DOCKER = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""
RUNS = 7
FORMATS = ("iptables-save", "nft -j", "nft")


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def iptables_text(count: int) -> str:
    """Return an iptables-save dump whose one long chain has `count` rules."""
    lines = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]", ":MANY - [0:0]"]
    for i in range(count):
        if i % 2:
            lines.append(f"-A MANY -s {_address(i)}/32 -j DROP")
        else:
            ways, port = f"! -i br-{i % 97} -o br-{i % 97}", i % 60000 + 1
            lines.append(f"-A MANY -d {_address(i)}/32 {ways} -p tcp -m tcp --dport {port} -j ACCEPT")
    return "\n".join([*lines, "-A FORWARD -i docker0 -j MANY", "-A FORWARD -j ACCEPT", "COMMIT", ""])


def nft_text(count: int) -> str:
    """Return the same rules as `nft list ruleset` prints them."""
    lines = ["table ip filter {", "\tchain MANY {"]
    for i in range(count):
        lines.append(
            f"\t\tip saddr {_address(i)} counter packets 0 bytes 0 drop" if i % 2
            else f'\t\tip daddr {_address(i)} iifname != "br-{i % 97}" oifname "br-{i % 97}" tcp dport {i % 60000 + 1} '
            "counter packets 0 bytes 0 accept"
        )  # fmt: skip
    hook = "\t\ttype filter hook forward priority filter; policy drop;"
    last = [hook, '\t\tiifname "docker0" jump MANY', "\t\taccept"]
    return "\n".join([*lines, "\t}", "\tchain FORWARD {", *last, "\t}", "}", ""])


def nft_json(count: int) -> str:
    """Return the same rules as `nft -j list ruleset` prints them."""
    from nettrace.netfilter.nft_text import parse_text

    return json.dumps(parse_text(nft_text(count)))


MAKERS: dict[str, Callable[[int], str]] = {"iptables-save": iptables_text, "nft -j": nft_json, "nft": nft_text}


def parse_seconds(text: str) -> float:
    """Return the seconds of CPU that reading a ruleset takes."""
    from nettrace.netfilter.load import load_ruleset
    from nettrace.netfilter.sniff import sniff

    start = time.process_time()
    load_ruleset(sniff(text, "bench"))
    return time.process_time() - start


def packets_and_rules(rounds: int) -> tuple[float, float]:
    """Return how many packets, and matched rules of their trails, go through Docker's ruleset in a second."""
    from nettrace.model.flow import Packet
    from nettrace.model.netfilter import CtState, FilterVerdict, Hook, Tracking
    from nettrace.netfilter import HookContext, evaluate_hook, load_ruleset
    from nettrace.netfilter.sniff import sniff

    ruleset = load_ruleset(sniff(DOCKER, "bench"))
    ways = (("docker0", "eth0", "172.17.0.2", "8.8.8.8"), ("eth0", "docker0", "203.0.113.9", "172.17.0.2"),
            ("docker0", "docker0", "172.17.0.2", "172.17.0.3"))  # fmt: skip
    grid = []
    for iif, oif, src, dst in ways:
        for state in (CtState.NEW, CtState.ESTABLISHED):
            packet = Packet(
                family=4, src=ip_address(src), dst=ip_address(dst), proto=6, sport=40000, dport=80, tcp_flags=2
            )
            tracking = Tracking(state=state, nat_done=("src", "dst") if state is CtState.ESTABLISHED else ())
            contexts = tuple(
                (hook, HookContext(
                    iif=iif if hook is not Hook.POSTROUTING else None, oif=oif if hook is not Hook.PREROUTING else None,
                    address_type=lambda _address, _device: "unicast",
                    source_for=lambda _device, _address: ip_address("203.0.113.2"),
                ))
                for hook in (Hook.PREROUTING, Hook.FORWARD, Hook.POSTROUTING)
            )  # fmt: skip
            grid.append((packet, tracking, contexts))
    matched = 0
    start = time.process_time()
    for _ in range(rounds):
        for first, begin, contexts in grid:
            packet, tracking = first, begin
            for hook, context in contexts:
                result = evaluate_hook(ruleset, hook, packet, tracking, context)
                matched += len(result.trail)
                if result.verdict is not FilterVerdict.ACCEPT:
                    break
                packet, tracking = result.packet, result.tracking
    spent = time.process_time() - start
    return rounds * len(grid) / spent, matched / spent


def eval_seconds(path: Path) -> float:
    """Return the median seconds of `nettrace eval` as a whole process."""
    command = [sys.executable, "-m", "nettrace", "eval", str(path), "--in", "docker0", "--out", "eth0"]
    command += ["--src", "172.17.0.2", "--dst", "8.8.8.8", "--proto", "icmp"]
    spent = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def measure(rules: int) -> list[dict[str, object]]:
    """Return one row per measurement: what, value, unit, limit, and whether it holds."""
    rows: list[dict[str, object]] = []

    def add(what: str, value: float, unit: str, limit: float, *, least: bool) -> None:
        held = value >= limit if least else value <= limit
        rows.append({"what": what, "value": round(value, 3), "unit": unit, "limit": limit, "kept": held})

    for name in FORMATS:
        add(f"read {name}", rules / parse_seconds(MAKERS[name](rules)), "rules/s", 20000, least=True)
    packets_and_rules(200)
    packets, matched = (
        statistics.median(each) for each in zip(*(packets_and_rules(1000) for _ in range(RUNS)), strict=True)
    )
    add("packets through Docker's ruleset", packets, "packets/s", 20000, least=True)
    add("chains and rules on their trails", matched, "events/s", 100000, least=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            spent = []
            for count in (1, 10000):
                path = Path(folder, f"{count}.rules")
                path.write_text(MAKERS[name](count))
                spent.append(eval_seconds(path))
            add(f"eval, 10,000 rules more than 3, {name}", spent[1] - spent[0], "s", 0.3, least=False)
    return rows


def main() -> int:
    """Measure, print, and tell whether every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is broken")
    parser.add_argument("--rules", type=int, default=20000, help="rules to read (default 20000)")
    options = parser.parse_args()
    rows = measure(options.rules)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        from tabulate import tabulate

        print(tabulate(rows, headers="keys", intfmt=",", floatfmt=",.3f"))
    return 1 if options.check and not all(row["kept"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
