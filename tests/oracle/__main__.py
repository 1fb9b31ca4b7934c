"""Let the kernel judge the evaluator: `python -m tests.oracle --cases 500 --seed 1`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.oracle import run


def main() -> int:
    """Run the cases, print what came of them; 1 when the evaluator and the kernel differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="how many rulesets (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same rulesets (default 1)")
    parser.add_argument("--stop-after", type=int, default=5, help="stop after so many differences (default 5)")
    options = parser.parse_args()
    begun = time.monotonic()
    report = run(options.cases, options.seed, stop_after=options.stop_after)
    for difference in report.differences:
        print(difference, end="\n\n")
    print(report)
    print(f"{report.cases / (time.monotonic() - begun):.1f} cases/s, seed {options.seed}")
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
