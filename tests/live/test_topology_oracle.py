"""The kernel as judge of routes and of the whole walk: random tables, random hosts, real packets."""

from __future__ import annotations

import shutil

import pytest

from tests.oracle import routes, topology

pytestmark = pytest.mark.live


def test_routes_are_looked_up_as_the_kernel_does() -> None:
    report = routes.run(12, 5, stop_after=2)
    assert not report.differences, "\n\n".join(report.differences)
    # The judge must have had something to judge.
    assert sum(report.outcomes.values()) > 700
    assert report.outcomes["unicast"] > 200


def test_packets_go_where_the_walk_says() -> None:
    missing = [name for name in ("iptables", "nft", "bridge") if not shutil.which(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    report = topology.run(60, 5, stop_after=2)
    assert not report.differences, "\n\n".join(report.differences)
    judged = sum(report.outcomes.values())
    assert judged > 100
    assert report.outcomes["arrived, reply arrived"] > 20
    assert report.outcomes["dropped"] > 20
