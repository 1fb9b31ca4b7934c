"""What the rules cost: all of them together, on a host with a hundred containers, beside the prediction they stand on.

Pure, without root: the host is built by hand, in the shape of Docker's. Each figure is the median over runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, TypeVar

from nettrace.diagnose import diagnose
from nettrace.model.verdict import Timing
from nettrace.predict import predict
from nettrace.rules import RULES
from nettrace.rules.case import Case
from tests.rules.build import Lab, Wire, ask, case_of, docker_rules, observed, plain_lab

T = TypeVar("T")

CONTAINERS = 100
#: Milliseconds that all rules together may take.
MOST_MS = 20.0


def host(containers: int) -> Lab:
    """Return a host with so many containers on docker0, each with a published port."""
    lab = plain_lab()
    docker_rules(lab.host)
    for number in range(containers - len(lab.snapshot().intent.containers)):
        name = f"c{number}"
        address = ip_address("172.17.1.0") + number
        lab.attach(name, "bridge", f"{address}/16", index=100 + 2 * number)
        lab.publish(name, 20_000 + number, 80)
    return lab


def timed(work: Callable[[T], object], runs: int, make: Callable[[], T]) -> float:
    """Return the median milliseconds of a piece of work, on something made anew for each run."""
    spent = []
    for _ in range(runs):
        made = make()
        started = time.perf_counter()
        work(made)
        spent.append((time.perf_counter() - started) * 1000)
    return statistics.median(spent)


def fresh(case: Case) -> Case:
    """Return the case with nothing worked out yet but its two worlds, which prediction builds as well."""
    again = Case(
        flow=case.flow, before=case.before, after=case.after, trace=case.trace,
        correlation=case.correlation, observation=case.observation,
    )  # fmt: skip
    _ = again.world, again.world_after
    return again


def measure(containers: int, runs: int) -> list[dict[str, Any]]:
    """Return one row for a healthy flow, and one for a flow that a rule drops."""
    lab = host(containers)
    rows = [_row(lab, "healthy", observed(reply=True), runs)]
    lab.host.insert("filter", "-A FORWARD -s 172.17.0.2/32 -j DROP")
    return [*rows, _row(lab, "dropped by a rule", observed(until="host/docker0"), runs)]


def _row(lab: Lab, name: str, wire: Wire, runs: int) -> dict[str, Any]:
    snapshot, flow = lab.snapshot(), ask(lab, "app", "8.8.8.8")
    case = case_of(snapshot, flow, wire=wire)
    checks = timed(lambda each: [rule.check(each) for rule in RULES], runs, lambda: fresh(case))
    spent = Timing(total_s=0, collect_s=0, probe_s=0)
    whole = timed(lambda each: diagnose(each, timing=spent, version="bench"), runs, lambda: fresh(case))
    return {
        "host": f"{len(snapshot.intent.containers)} containers, {name}",
        "rules_ms": round(checks, 2),
        "limit_ms": MOST_MS,
        "kept": checks <= MOST_MS,
        "diagnose_ms": round(whole, 2),
        "predict_ms": round(timed(lambda _none: predict(snapshot, flow), runs, lambda: None), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--containers", type=int, default=CONTAINERS)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    rows = measure(args.containers, args.runs)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        from tabulate import tabulate

        print(tabulate(rows, headers="keys"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
