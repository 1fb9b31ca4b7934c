"""What all tests share: when live tests run, and the flag that writes golden files anew.

A live test makes hosts out of namespaces, so it needs root; without root it is skipped, with the reason printed.
With NETTRACE_REQUIRE_LIVE=1 in the environment, as in CI, a live test that is skipped for any reason has failed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

LIVE = Path(__file__).parent / "live"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Whoever runs the tests in the background of a shell has it ignored, and so would every child that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew instead of comparing")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared; read the diff before keeping it."""
    return bool(request.config.getoption("--update-golden"))


def live_required() -> bool:
    return os.environ.get("NETTRACE_REQUIRE_LIVE") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("live"):
            item.add_marker(pytest.mark.skip(reason="needs root: makes network namespaces"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and live_required() and item.get_closest_marker("live") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a live test was skipped where live tests must run: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and live_required() and collector.path.is_relative_to(LIVE):
        report.outcome = "failed"
        report.longrepr = f"live tests were skipped where they must run: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
