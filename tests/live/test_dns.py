"""Names as real containers resolve them: who is asked, what the answer is, and why there is none.

The faults of `nettrace lab` for names run in test_path.py; here is what needs circumstances of its own.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import nettrace
from nettrace.lab import Lab
from nettrace.replay import diagnose_again, read_case

from .warm import Asker, Said

pytestmark = pytest.mark.live

SCHEMA = Path(nettrace.__file__).parent / "data" / "verdict.schema.json"
#: Containers with resolvers of their own: name, options of `docker run`.
RUN = {
    "aliased": "--network net1 --network-alias db",
    "searching": "--dns-search org --dns-option ndots:2 --add-host pinned.example:8.8.8.8",
    "lame": "--network net1 --dns 203.0.113.99",
}


@pytest.fixture(scope="module")
def askers() -> Iterator[dict[str, Asker]]:
    made: dict[str, Asker] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def names(docker_lab: Lab, askers: dict[str, Asker]) -> Asker:
    """Ask in a lab that has the containers above."""
    if docker_lab.name not in askers:
        run = [
            f"docker run -d --name {name} --stop-signal KILL {options} busybox tail -f /dev/null"
            for name, options in RUN.items()
        ]
        docker_lab.check(["sh", "-ec", " & ".join(run) + " & wait"])
        askers[docker_lab.name] = Asker(docker_lab)
    return askers[docker_lab.name]


def ask(asker: Asker, *args: str) -> Said:
    said = asker.ask_and_replay(["path", *args, "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def codes(said: Said) -> list[str]:
    return [each["code"] for each in said.verdict["findings"]]


RESOLVED: dict[str, tuple[str, str, str]] = {
    "by Docker's own server": ("c1", "example.org", "says 127.0.0.11 (Docker's own server)"),
    "by an alias": ("c1", "db", "db is 172.18.0."),
    "by a server beyond": ("app", "example.org", "example.org is 8.8.8.8, says 8.8.8.8"),
    "by a search domain": ("searching", "example", "example (as example.org) is 8.8.8.8"),
    "by the hosts file": ("searching", "pinned.example", "/etc/hosts"),
    "in the host's network": ("host", "localhost", "/etc/hosts"),
}


@pytest.mark.parametrize(("src", "name", "told"), RESOLVED.values(), ids=RESOLVED)
def test_a_name_is_resolved_as_its_source_does(names: Asker, src: str, name: str, told: str) -> None:
    said = ask(names, src, name)
    assert (said.code, said.verdict["outcome"], codes(said)) == (0, "delivered", [])
    assert told in said.verdict["lookup"]["told"]
    assert said.verdict["flow"]["dst"]["name"] == name


UNRESOLVED: dict[str, tuple[tuple[str, ...], str, str | None, str]] = {
    "alias of another network": (("app", "db"), "dns.name-not-found", "source", "docker network connect net1 app"),
    "default bridge": (("app", "web."), "dns.name-not-found", "source", "docker network create"),
    "IPv6 only": (("app", "six.example"), "dns.name-not-found", "source", "nettrace path app six.example -6"),
    "dead upstream": (("lame", "example.org"), "dns.server-unreachable", "egress", ""),
    "internal network": (("s1", "example.org"), "dns.server-unreachable", None, "docker network connect"),
}


@pytest.mark.parametrize(("args", "code", "segment", "command"), UNRESOLVED.values(), ids=UNRESOLVED)
def test_a_name_that_comes_to_nothing_is_a_diagnosis(
    names: Asker, args: tuple[str, ...], code: str, segment: str | None, command: str
) -> None:
    said = ask(names, *args)
    assert (said.code, said.verdict["outcome"], codes(said)[0]) == (1, "stopped", code)
    assert segment in (None, said.verdict["stop"]["segment"])
    assert any(command in each for each in said.verdict["findings"][0]["remedy"]["commands"]) or not command
    assert said.verdict["flow"]["dst"]["address"] is None
    assert said.verdict["lookup"]["outcome"] == "stopped"
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(said.verdict)


def upstreams(verdict: dict[str, Any]) -> list[str]:
    return [each["server"] for each in verdict["lookup"]["upstreams"]]


def test_the_object_that_stops_the_query_is_named_beside_the_server(docker_lab: Lab, names: Asker) -> None:
    rule = "-s 172.18.0.0/16 -p udp -m udp --dport 53 -j DROP"
    docker_lab.check(["sh", "-c", f"iptables -t mangle -I FORWARD {rule}"])
    try:
        said = ask(names, "c1", "example.org")
    finally:
        docker_lab.check(["sh", "-c", f"iptables -t mangle -D FORWARD {rule}"])
    assert codes(said) == ["dns.server-unreachable", "filter.rule-drop"]
    first = said.verdict["findings"][0]
    assert any(each["kind"] == "rule" and rule in each["text"] for each in first["evidence"])
    assert (first["remedy"]["commands"], first["remedy"]["verified"]) == (
        [f"iptables -t mangle -D FORWARD {rule}"],
        "yes",
    )
    assert upstreams(said.verdict) == ["8.8.8.8"]
    assert said.verdict["lookup"]["flow"]["dport"] == 53


def test_a_silent_first_server_is_a_warning(docker_lab: Lab, names: Asker) -> None:
    write = "printf 'nameserver 203.0.113.99\\nnameserver 8.8.8.8\\n' > /etc/resolv.conf"
    docker_lab.docker("exec", "searching", "sh", "-c", f"cp /etc/resolv.conf /tmp/kept; {write}")
    try:
        said = ask(names, "searching", "example.org")
    finally:
        docker_lab.docker("exec", "searching", "sh", "-c", "cat /tmp/kept > /etc/resolv.conf")
    assert (said.code, said.verdict["outcome"], codes(said)) == (0, "delivered", ["dns.server-unreachable"])
    assert said.verdict["findings"][0]["severity"] == "warning"


def test_what_a_container_puts_in_place_of_its_files_does_no_harm(docker_lab: Lab, names: Asker) -> None:
    """A FIFO would hang the reader, and an absolute link lead it to a file of the host."""
    spoil = "umount /etc/resolv.conf /etc/hosts; rm -f /etc/resolv.conf /etc/hosts; mkfifo /etc/resolv.conf; "
    docker_lab.docker("run", "-d", "--name", "odd", "--cap-add", "SYS_ADMIN", "busybox", "tail", "-f", "/dev/null")
    try:
        docker_lab.docker("exec", "odd", "sh", "-c", f"{spoil} ln -s {Path(__file__).resolve()} /etc/hosts")
        said = names.ask(["path", "odd", "example.org"])
        assert (said.code, said.out) == (4, "")
        assert "not a regular file" in said.err
        assert len(said.err) < 400
    finally:
        docker_lab.docker("rm", "-f", "odd")


def test_an_engine_that_died_leaves_a_redirect_to_nobody(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab("gone", engine="docker")
    pid = lab.docker("inspect", "-f", "{{.State.Pid}}", "c1").strip()
    dockerd = next(each for each in lab.state.processes if each.role == "dockerd")
    os.kill(dockerd.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while "127.0.0.11" in lab.check(["nsenter", "-t", pid, "-n", "ss", "-Huln"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = lab.nettrace(["path", f"pid:{pid}", "example.org", "--json", "--timeout", "0.5"])
    verdict = json.loads(done.stdout)
    assert (done.returncode, [each["code"] for each in verdict["findings"]]) == (1, ["dns.resolver-not-listening"])
    assert verdict["stop"]["segment"] == "source"


def test_a_recorded_first_leg_is_diagnosed_again_to_the_same(docker_lab: Lab, names: Asker, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    said = names.ask(["path", "app", "db", "--json", "--bundle", str(bundle)])
    again, _trace = diagnose_again(read_case(bundle))
    assert [each.code for each in again.findings] == codes(said) == ["dns.name-not-found"]
    assert again.outcome.value == said.verdict["outcome"]


def test_the_text_tells_the_first_leg_in_one_line(names: Asker) -> None:
    out = names.ask(["path", "c1", "example.org"]).out.splitlines()
    assert out[0].startswith("DELIVERED  c1 → example.org")
    assert out[1] == "Name: example.org is 8.8.8.8, says 127.0.0.11 (Docker's own server)."
