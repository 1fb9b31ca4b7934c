"""Let the kernel judge the model: `python -m tests.oracle --kind routes --cases 500 --seed 1`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.oracle import Report, nft_grammar, routes, run, topology

#: Of every ten cases of `all`, how many each kind gets. A case of routes has a hundred lookups, a topology four flows.
SHARES = {"rules": 4, "nft": 2, "routes": 2, "topology": 2}
KINDS: dict[str, Callable[[int, int, int], Report]] = {
    "rules": lambda cases, seed, stop_after: run(cases, seed, stop_after=stop_after),
    "nft": lambda cases, seed, stop_after: nft_grammar.run(cases, seed, stop_after=stop_after),
    "routes": lambda cases, seed, stop_after: routes.run(cases, seed, stop_after=stop_after),
    "topology": lambda cases, seed, stop_after: topology.run(cases, seed, stop_after=stop_after),
}


def main() -> int:
    """Run the cases, print what came of them; 1 when the model and the kernel differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--kind", choices=("all", *KINDS), default="all", help="what is judged (default all)")
    parser.add_argument("--cases", type=int, default=200, help="how many cases (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same cases (default 1)")
    parser.add_argument("--stop-after", type=int, default=5, help="stop after so many differences (default 5)")
    options = parser.parse_args()
    wrong = False
    for kind in KINDS if options.kind == "all" else (options.kind,):
        cases = options.cases if options.kind != "all" else max(1, options.cases * SHARES[kind] // 10)
        begun = time.monotonic()
        report = KINDS[kind](cases, options.seed, options.stop_after)
        for difference in report.differences:
            print(difference, end="\n\n")
        print(f"{kind}: {report}")
        judged = sum(report.outcomes.values())
        print(
            f"{kind}: {judged} judged, {len(report.differences)} differ, {sum(report.skipped.values())} not judged;"
            f" {report.cases / (time.monotonic() - begun):.1f} cases/s, seed {options.seed}"
        )
        wrong = wrong or bool(report.differences)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
