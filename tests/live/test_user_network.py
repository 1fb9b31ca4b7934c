"""Rootless containers' networks: a namespace whose only way out is a process, the real slirp4netns or pasta.

The process runs in the lab's host namespace, so the sockets that it opens stay there. What is behind its tap is said
not to be seen; answers are judged by what comes back, and nothing on the host is blamed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nettrace.lab import Lab, teardown
from nettrace.lab.state import state_dir
from nettrace.lab.system import ADMIN_PATH, enter, wait_for

from .conftest import PREFIX
from .podman import bare_host
from .warm import Asker, Said

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        not all(shutil.which(each, path=ADMIN_PATH) for each in ("slirp4netns", "pasta")),
        reason="needs slirp4netns and pasta",
    ),
]

NAME = f"{PREFIX}-user"
SLIRP, PASTA = f"netns:ntlab-{NAME}-slirp", f"netns:ntlab-{NAME}-pasta"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host, with slirp4netns behind the tap of one namespace, and pasta behind that of another."""
    processes = []
    try:
        bare = bare_host(NAME, ("slirp", "pasta"))
        paths = {name: f"/run/netns/ntlab-{NAME}-{name}" for name in ("slirp", "pasta")}
        quiet = ["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"]
        commands = (
            ["slirp4netns", "--configure", "--netns-type=path", paths["slirp"], "tap0"],
            ["pasta", "--foreground", "--config-net", "--runas", "0", *quiet, "-I", "tap0", "--netns", paths["pasta"]],
        )
        for command in commands:
            log = (state_dir(NAME) / f"{command[0]}.log").open("wb")
            with log:
                argv = [*enter(bare.host), *command]
                process = subprocess.Popen(argv, env={"PATH": ADMIN_PATH}, stdout=log, stderr=log)
            processes.append(process)
        for name in paths:
            ns = f"ntlab-{NAME}-{name}"
            wait_for(lambda ns=ns: "default" in _routes(ns), f"{name} makes no tap", timeout_s=10)  # type: ignore[misc]
        yield bare
    finally:
        for process in processes:
            process.kill()
            process.wait()
        teardown.remove(NAME)


def _routes(ns: str) -> str:
    done = subprocess.run(["ip", "-n", ns, "route"], capture_output=True, text=True, check=False)
    return done.stdout


@pytest.fixture(scope="module")
def asker(lab: Lab) -> Iterator[Asker]:
    made = Asker(lab)
    yield made
    made.close()


def ask(asker: Asker, *question: str) -> Said:
    said = asker.ask(["path", *question, "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def codes(said: Said) -> list[str]:
    return [each["code"] for each in said.verdict["findings"]]


def gaps(said: Said) -> list[dict[str, Any]]:
    return [each for each in said.verdict["gaps"] if each["section"] == "path"]


@pytest.mark.parametrize(("source", "reader"), [(SLIRP, "slirp4netns"), (PASTA, "pas")], ids=["slirp", "pasta"])
def test_the_process_behind_a_tap_is_named(asker: Asker, source: str, reader: str) -> None:
    said = ask(asker, source, "8.8.8.8", "--proto", "tcp", "--port", "80")
    assert (said.code, codes(said)) == (0, [])
    (gap,) = gaps(said)
    assert f"handed to {reader}" in gap["reason"]
    pid = int(gap["reason"].partition("(process ")[2].partition(")")[0])
    assert Path(f"/proc/{pid}/comm").read_text().startswith(reader)


@pytest.mark.parametrize("source", [SLIRP, PASTA], ids=["slirp", "pasta"])
def test_a_rule_of_the_host_for_the_process_is_nobodys_cause(lab: Lab, asker: Asker, source: str) -> None:
    """The rule drops what the process sends itself: that it is the cause cannot be seen, so it is not said."""
    rule = ["OUTPUT", "-d", "8.8.8.8", "-p", "tcp", "--dport", "80", "-j", "DROP"]
    lab.check(["iptables", "-I", *rule])
    try:
        said = ask(asker, source, "8.8.8.8", "--proto", "tcp", "--port", "80")
        assert (said.code, codes(said)) == (1, ["remote.no-reply"])
        assert (said.verdict["stop"]["segment"], said.verdict["stop"]["direction"]) == ("remote", "reply")
        assert "the host's rules for its own sockets" in said.verdict["findings"][0]["explanation"]
        assert gaps(said)
    finally:
        lab.check(["iptables", "-D", *rule])


@pytest.mark.parametrize("target", [SLIRP, PASTA], ids=["slirp", "pasta"])
def test_nothing_leads_to_such_an_address(asker: Asker, target: str) -> None:
    """Pasta's is even the host's own, which answers: that is no answer of the container."""
    said = ask(asker, "host", target)
    assert (said.code, codes(said)) == (1, ["engine.no-network"])
    assert said.verdict["stop"]["segment"] == "destination"


def test_the_namespace_itself_is_judged_as_ever(lab: Lab, asker: Asker) -> None:
    lab.check(["ip", "-n", f"ntlab-{NAME}-slirp", "link", "set", "tap0", "down"])
    try:
        said = ask(asker, SLIRP, "8.8.8.8")
        assert (said.code, codes(said)[0], said.verdict["stop"]["segment"]) == (1, "link.down", "source")
    finally:
        lab.check(["ip", "-n", f"ntlab-{NAME}-slirp", "link", "set", "tap0", "up"])
        lab.check(["ip", "-n", f"ntlab-{NAME}-slirp", "route", "add", "default", "via", "10.0.2.2"])
    assert os.getuid() == 0
    assert ask(asker, SLIRP, "8.8.8.8").code == 0
