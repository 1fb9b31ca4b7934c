"""tcpdump by hand at several points of a real host, real traffic, and a replay that says what `nettrace path` says."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nettrace.lab import FAULTS, Lab

from .conftest import engines
from .warm import Asker, Said

pytestmark = pytest.mark.live

PING = ("busybox", "ping", "-c", "2", "-W", "1", "8.8.8.8")
FETCH = ("sh", "-c", r"printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 1 8.8.8.8 80")
KNOCK = ("busybox", "nc", "-w", "1", "8.8.8.8", "80")
OUT, OUT_HTTP = ("app", "8.8.8.8"), ("app", "8.8.8.8", "--proto", "tcp", "--port", "80")
#: What is broken (None: nothing), what is asked, and what a program in the container does meanwhile.
CASES: dict[str, tuple[str | None, tuple[str, ...], tuple[str, ...]]] = {
    "healthy-ping": (None, OUT, PING),
    "healthy-fetch": (None, OUT_HTTP, FETCH),
    "masquerade-deleted": ("masquerade-deleted", OUT, PING),
    "docker-user-drop": ("docker-user-drop", OUT, PING),
    "ip-forward-off": ("ip-forward-off", OUT_HTTP, KNOCK),
    "remote-silent": ("remote-silent", OUT, PING),
}


@pytest.fixture
def asker(docker_lab: Lab) -> Iterator[Asker]:
    made = Asker(docker_lab)
    yield made
    made.close()


@contextlib.contextmanager
def tcpdump(lab: Lab, folder: Path, points: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Capture at points, and at all of the host's interfaces at once; yields the files by point ("any")."""
    files, running = {}, []
    try:
        for point in (*points, "host/any"):
            space, _, device = point.partition("/")
            path = folder / f"{space}-{device}.pcap"
            argv = [
                "tcpdump",
                "-Z",
                "root",
                "--immediate-mode",
                "-s",
                "2048",
                "-U",
                "-n",
                "-i",
                device,
                "-w",
                str(path),
            ]
            running.append(subprocess.Popen(lab.command(argv, space), stderr=subprocess.PIPE))
            files[point] = path
        for child in running:
            assert child.stderr is not None
            while b"listening on" not in (line := child.stderr.readline()):
                assert line, "tcpdump did not start"
        yield files
        for child in running:
            wait_until_written(child)
    finally:
        for child in running:
            child.send_signal(signal.SIGINT)
        for child in running:
            with child:
                child.wait(timeout=20)


def wait_until_written(child: subprocess.Popen[bytes]) -> None:
    """Wait until tcpdump has written all that the kernel had for it: what it has not read when it ends is lost."""
    assert child.stderr is not None
    for _ in range(200):
        child.send_signal(signal.SIGUSR1)
        line = child.stderr.readline()
        written, received = re.findall(rb"(\d+) packets? (?:captured|received)", line)[:2]
        if written == received:
            return
        time.sleep(0.05)
    pytest.fail(f"tcpdump does not keep up: {line!r}")


def said(answer: Said) -> tuple[str, str | None, str | None, str | None]:
    verdict = answer.verdict
    stop = verdict["stop"] or {}
    code = verdict["findings"][0]["code"] if verdict["findings"] else None
    return verdict["outcome"], code, stop.get("segment"), stop.get("direction")


@pytest.mark.parametrize(
    ("docker_lab", "name"),
    # The engines take turns: what differs between them is in the snapshot, which the other tests replay.
    [(engines()[index % len(engines())], name) for index, name in enumerate(CASES)] if engines() else [],
    indirect=["docker_lab"],
)
def test_captures_by_hand_are_judged_as_the_probe_is(docker_lab: Lab, asker: Asker, name: str, tmp_path: Path) -> None:
    fault, question, program = CASES[name]
    if fault is not None:
        assert fault in {each.name for each in FAULTS}
        docker_lab.prepare(fault)
        docker_lab.break_fault(fault)
    bundle = tmp_path / "host.tar.gz"
    probed = asker.ask(["path", *question, "--json", "--timeout", "0.5", "--bundle", str(bundle)])
    points = list(dict.fromkeys(hop["point"] for hop in probed.verdict["hops"]))
    assert len(points) == 4
    with tcpdump(docker_lab, tmp_path, points) as files:
        docker_lab.exec(program, "app")
        # What tells that the captures still ran: somebody else's traffic.
        docker_lab.exec(("busybox", "ping", "-c", "1", "-W", "1", "203.0.113.1"), "host")
    anywhere = files.pop("host/any")
    asked = ["--snapshot", str(bundle), *question, "--json"]
    for captures in (list(files.values()), [files["app/eth0"], anywhere]):
        replayed = asker.ask(["replay", *map(str, captures), *asked])
        gaps = replayed.out[replayed.out.find('"gaps"') :][:900]
        assert said(replayed) == said(probed), (captures, replayed.err, gaps)
        assert replayed.code == probed.code
