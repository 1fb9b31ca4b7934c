"""The hooks of conftest.py: when a live test may be skipped, and when that is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLAIN = "import pytest\n\n@pytest.mark.live\ndef test_it():\n    {}\n"
MODULE = "import pytest\n\npytest.skip('no such kernel', allow_module_level=True)\n"


def outcome(folder: Path, test: str, *, root: bool, required: bool) -> tuple[int, str]:
    """Run one test file under a copy of conftest.py; return pytest's exit code and what it printed."""
    live = folder / "live"
    live.mkdir()
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = live: needs root\n")
    (live / "conftest.py").write_text(f"import os\n\nos.geteuid = lambda: {0 if root else 1000}\n")
    (live / "test_it.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"NETTRACE_REQUIRE_LIVE": "1" if required else "0"},
    )
    return done.returncode, done.stdout


def test_without_root_a_live_test_is_skipped_and_says_why(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, PLAIN.format("assert False"), root=False, required=False)
    assert code == 0
    assert "1 skipped" in text
    assert "needs root" in text


def test_with_root_it_runs(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, PLAIN.format("pass"), root=True, required=True)
    assert code == 0
    assert "1 passed" in text


@pytest.mark.parametrize(
    ("test", "root", "reason"),
    [
        (PLAIN.format("assert False"), False, "needs root"),
        (PLAIN.format("pytest.skip('no such kernel')"), True, "no such kernel"),
        (PLAIN.format("pass").replace("live", "skip(reason='not today')\n@pytest.mark.live", 1), True, "not today"),
        (MODULE, True, "no such kernel"),
    ],
    ids=["no root", "in the test", "by a mark", "whole module"],
)
def test_where_live_tests_must_run_a_skip_has_failed(tmp_path: Path, test: str, root: bool, reason: str) -> None:
    code, text = outcome(tmp_path, test, root=root, required=True)
    assert code != 0
    assert "live test" in text
    assert "skipped where" in text
    assert reason in text


def test_with_root_a_skip_is_a_skip_where_nothing_is_required(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, PLAIN.format("pytest.skip('no such kernel')"), root=True, required=False)
    assert code == 0
    assert "1 skipped" in text
