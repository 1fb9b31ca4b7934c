"""The kernel as judge of the evaluator: random iptables rulesets, both backends, both families."""

from __future__ import annotations

import shutil

import pytest

from tests.oracle import run

pytestmark = pytest.mark.live


@pytest.mark.parametrize("seed", [1, 2])
def test_the_evaluator_says_what_the_kernel_does(seed: int) -> None:
    missing = [
        name for name in ("iptables-nft", "iptables-legacy", "ipset", "conntrack", "nft") if not shutil.which(name)
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    report = run(60, seed, stop_after=3)
    assert not report.differences, "\n\n".join(report.differences)
    # The judge must have had something to judge.
    assert report.outcomes["first delivered"] > 50
    assert report.outcomes["first none"] > 10
    assert report.outcomes["reply delivered"] > 25
