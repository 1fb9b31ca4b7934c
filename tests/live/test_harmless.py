"""nettrace leaves no trace on a host, and neither does it mislead in a crowd: killed, flooded, doubled, hindered."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nettrace.lab import Lab

pytestmark = [pytest.mark.live, pytest.mark.alone]

QUESTION = ["path", "app", "8.8.8.8", "--json"]
#: More by hand: NETTRACE_KILLS=200 pytest tests/live/test_harmless.py -k killed
KILLS = int(os.environ.get("NETTRACE_KILLS", "25"))
#: Sysctls that change by themselves.
RESTLESS = ("nf_conntrack_count", "random.", "pty.nr", "dentry-state", "inode", "file-nr", "ns_last_pid", "aio-nr")


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert "Traceback" not in done.stderr
    assert done.stdout, done.stderr
    decoded: dict[str, Any] = json.loads(done.stdout)
    return decoded


def first_code(verdict: dict[str, Any]) -> str | None:
    return verdict["findings"][0]["code"] if verdict["findings"] else None


def kernel_lines(verdict: dict[str, Any]) -> list[str]:
    return [line for hop in verdict["hops"] for line in hop["steps"] if line.startswith("kernel: ")]


@dataclass(frozen=True)
class Traces:
    """What a run could leave behind, as others see it."""

    tables: str
    instances: tuple[str, ...]
    namespaces: str
    mounts: tuple[str, ...]
    processes: tuple[str, ...]
    sysctls: tuple[str, ...]
    sockets: int


def sysctls(lab: Lab) -> tuple[str, ...]:
    text = lab.exec(["sysctl", "-a"]).stdout
    return tuple(line for line in text.splitlines() if not any(word in line for word in RESTLESS))


def instances() -> tuple[str, ...]:
    """The tracing instances that ended processes left, whether or not the machine has its tracefs mounted.

    Tracing is the whole machine's: an instance of a living process is somebody else's, who is at work.
    """
    from probes.witness.drops import _INSTANCE, _open_instances, _start_time

    folder = _open_instances()
    try:
        names = [each.name for each in Path(f"/proc/self/fd/{folder}").iterdir()]
    finally:
        os.close(folder)
    owners = [found for name in names if (found := _INSTANCE.fullmatch(name)) is not None]
    return tuple(sorted(each[0] for each in owners if _start_time(int(each[1])) != int(each[2])))


def processes(lab: Lab) -> tuple[str, ...]:
    found, own = [], os.stat(lab.netns_of("host")).st_ino
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                argv = (each / "cmdline").read_bytes().split(b"\0")
                netns = os.stat(each / "ns/net").st_ino
            except OSError:
                continue
            if b"path" in argv and netns == own:
                found.append(" ".join(word.decode(errors="replace") for word in argv))
    return tuple(found)


def traces(lab: Lab) -> Traces:
    return Traces(
        tables=lab.exec(["nft", "list", "tables"]).stdout,
        instances=instances(),
        namespaces=subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout,
        mounts=tuple(Path("/proc/self/mounts").read_text().splitlines()),
        processes=processes(lab),
        sysctls=sysctls(lab),
        sockets=len(lab.exec(["ss", "-0", "-a", "-n"]).stdout.splitlines()),
    )


# --- killed ---------------------------------------------------------------------------------------------------------


def settled(lab: Lab, before: Traces) -> Traces:
    """Look again until it is as before, for a moment: the kernel needs RCU grace periods to let go."""
    deadline = time.monotonic() + 10
    now = traces(lab)
    while now != before and time.monotonic() < deadline:
        time.sleep(0.05)
        now = traces(lab)
    return now


def test_killed_at_any_moment_it_leaves_nothing_that_the_next_run_does_not_clean(plain_lab: Lab) -> None:
    chance = random.Random(20_000)
    answer(plain_lab.nettrace(QUESTION))
    before = traces(plain_lab)
    command = plain_lab.command([sys.executable, "-m", "nettrace", *QUESTION])
    left = 0
    for _ in range(KILLS):
        with subprocess.Popen(
            command, env=plain_lab.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            time.sleep(chance.uniform(0.0, 0.9))
            child.send_signal(signal.SIGKILL)
        now = settled(plain_lab, Traces(**{**vars(before), "instances": instances()}))
        left += len(now.instances)
        assert Traces(**{**vars(now), "instances": ()}) == before
        if now.instances:
            answer(plain_lab.nettrace(QUESTION))
            assert instances() == ()
    print(f"{KILLS} killed, {left} tracing instances left and cleaned")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_by_a_signal_it_leaves_nothing_at_all(plain_lab: Lab, number: signal.Signals) -> None:
    before = traces(plain_lab)
    command = plain_lab.command([sys.executable, "-m", "nettrace", "path", "app", "203.0.113.250", "--timeout", "5"])
    for delay_s in (0.3, 0.45, 0.6, 1.5):
        with subprocess.Popen(
            command, env=plain_lab.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as child:
            time.sleep(delay_s)
            child.send_signal(number)
            _out, err = child.communicate(timeout=20)
        assert "Traceback" not in err
        assert instances() == ()
    assert settled(plain_lab, before) == before


# --- in a crowd -----------------------------------------------------------------------------------------------------


def source_address(lab: Lab) -> str:
    found = answer(lab.nettrace(QUESTION))["flow"]["src"]["address"]
    assert isinstance(found, str)
    return found


@contextmanager
def flooded(lab: Lab, kind: str, port: int) -> Iterator[None]:
    """Let packets that resemble the probe come out of the container as fast as they can."""
    argv = [sys.executable, str(Path(__file__).with_name("flood.py")), source_address(lab), "8.8.8.8", kind, str(port)]
    with subprocess.Popen(lab.command([*argv, "60"], "app"), stdout=subprocess.PIPE, text=True) as flood:
        try:
            assert flood.stdout is not None
            assert flood.stdout.readline() == "ready\n"
            yield
        finally:
            flood.kill()


@pytest.mark.parametrize(("kind", "port"), [("icmp", 0), ("udp", 53), ("tcp", 443)])
def test_a_flood_of_packets_like_the_probe_does_not_mislead(plain_lab: Lab, kind: str, port: int) -> None:
    question = [*QUESTION, *(() if kind == "icmp" else ("--proto", kind, "--port", str(port)))]
    quiet = answer(plain_lab.nettrace(question))
    with flooded(plain_lab, kind, port):
        for _ in range(3):
            verdict = answer(plain_lab.nettrace(question))
            same = (verdict["outcome"], first_code(verdict)) == (quiet["outcome"], first_code(quiet))
            # The flood reaches the far end's service as well, and may drown it: then it truly does not answer.
            same = same or (kind == "udp" and first_code(verdict) == "remote.no-reply")
            assert same or (verdict["outcome"] == "inconclusive" and verdict["gaps"]), verdict
    plain_lab.break_fault("forward-drop")
    with flooded(plain_lab, kind, port):
        for _ in range(3):
            verdict = answer(plain_lab.nettrace(question))
            assert first_code(verdict) == "filter.rule-drop" or (
                verdict["outcome"] == "inconclusive" and verdict["gaps"]
            ), verdict


def test_several_at_once_do_not_meddle(plain_lab: Lab) -> None:
    """Four on the same container, two of them inside its own namespace; one flow is blocked, the others are not."""
    plain_lab.break_fault("forward-drop")
    blocked, healthy = QUESTION, ["path", "web", "8.8.8.8", "--json"]
    inside = ["path", "host", "8.8.8.8", "--json"]
    expected = {"out": ("stopped", "filter.rule-drop"), "other": ("delivered", None)}

    def one(name: str) -> tuple[str, dict[str, Any]]:
        if name == "inside":
            command = plain_lab.command([sys.executable, "-m", "nettrace", *inside], "app")
            done = subprocess.run(command, env=plain_lab.environment(), capture_output=True, text=True, check=False)
            return name, answer(done)
        return name, answer(plain_lab.nettrace(blocked if name == "out" else healthy))

    with ThreadPoolExecutor(5) as pool:
        for name, verdict in pool.map(one, ["out", "inside", "other", "out", "inside"] * 2):
            assert not [each for each in verdict["gaps"] if each["section"] in ("rule-trace", "drop-reason")]
            if name in expected:
                assert (verdict["outcome"], first_code(verdict)) == expected[name]
            else:
                # From inside nobody sees the host's rules: the packet leaves, and no answer comes.
                assert verdict["outcome"] == "stopped"
                assert verdict["stop"]["segment"] == "remote"
    assert "nettrace" not in plain_lab.exec(["nft", "list", "tables"]).stdout
    assert instances() == ()


def test_another_tracer_is_neither_heard_nor_disturbed(plain_lab: Lab) -> None:
    plain_lab.break_fault("forward-drop")
    plain_lab.exec(["nft", "add table ip theirs"])
    try:
        plain_lab.exec(["nft", "add chain ip theirs pre { type filter hook prerouting priority -350; }"])
        plain_lab.exec(["nft", "add rule ip theirs pre meta nftrace set 1"])
        with (
            tempfile.TemporaryFile("w+") as heard,
            subprocess.Popen(plain_lab.command(["nft", "monitor", "trace"]), stdout=heard) as monitor,
            flooded(plain_lab, "icmp", 0),
        ):
            time.sleep(0.2)
            verdict = answer(plain_lab.nettrace(QUESTION))
            monitor.kill()
            monitor.wait(10)
            heard.seek(0)
            assert "trace id" in heard.read(10_000)
        assert first_code(verdict) == "filter.rule-drop"
        assert "theirs" in plain_lab.exec(["nft", "list", "tables"]).stdout
    finally:
        plain_lab.exec(["nft", "delete table ip theirs"])


# --- hindered -------------------------------------------------------------------------------------------------------


def hindered(lab: Lab, preparation: str, question: list[str]) -> dict[str, Any]:
    """Ask in a mount namespace of its own, in which something was put in nettrace's way."""
    script = f'set -e; {preparation}; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "nettrace", *question]
    done = subprocess.run(
        lab.command(command), env=lab.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    return answer(done)


def test_without_the_nft_program_rules_are_still_named(plain_lab: Lab) -> None:
    plain_lab.break_fault("forward-drop")
    verdict = hindered(plain_lab, 'for at in $(which -a nft); do mount --bind /dev/null "$at"; done', QUESTION)
    assert first_code(verdict) == "filter.rule-drop"
    assert [line for line in kernel_lines(verdict) if "filter FORWARD rule 1" in line and line.endswith(": drop")]
    assert [gap for gap in verdict["gaps"] if gap["section"] == "netfilter"]


def test_a_container_that_dies_in_the_middle_is_an_answer_or_a_clear_error(docker_lab: Lab) -> None:
    """Whatever of it was already read: the moment is drawn from a whole run, asked at leisure first."""
    chance = random.Random(7)
    question = ["path", "mayfly", "203.0.113.250", "--json", "--timeout", "0.5"]
    command = docker_lab.command([sys.executable, "-m", "nettrace", *question])
    for number in range(4):
        docker_lab.run_container("mayfly")
        try:
            if number == 0:
                assert docker_lab.nettrace(question).returncode == 1
            with subprocess.Popen(
                command, env=docker_lab.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as child:
                time.sleep(chance.uniform(0.2, 1.2))
                docker_lab.docker("kill", "mayfly")
                out, err = child.communicate(timeout=30)
        finally:
            docker_lab.docker("rm", "-f", "mayfly")
        assert "Traceback" not in err
        if child.returncode == 4:
            assert (out, err.count("\n")) == ("", 1)
        else:
            verdict = json.loads(out)
            assert (child.returncode, verdict["outcome"]) in [(1, "stopped"), (3, "inconclusive")], verdict


MOUNTED = "mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing"
UNMOUNTED = "while umount /sys/kernel/tracing /sys/kernel/debug/tracing 2>/dev/null; do :; done; true"


@pytest.mark.parametrize("preparation", [MOUNTED, UNMOUNTED], ids=["mounted", "not mounted"])
def test_drops_have_reasons_wherever_tracefs_is(plain_lab: Lab, preparation: str) -> None:
    plain_lab.break_fault("forward-drop")
    verdict = hindered(plain_lab, preparation, QUESTION)
    assert verdict["gaps"] == []
    found = [each["text"] for each in verdict["findings"][0]["evidence"] if each["kind"] == "drop"]
    assert [text for text in found if "NETFILTER_DROP" in text]


def test_a_tracefs_that_may_only_be_read_is_a_gap(plain_lab: Lab) -> None:
    plain_lab.break_fault("forward-drop")
    preparation = f"{{ {MOUNTED}; }}; mount -o remount,ro,bind /sys/kernel/tracing"
    verdict = hindered(plain_lab, preparation, QUESTION)
    assert first_code(verdict) == "filter.rule-drop"
    (gap,) = [each for each in verdict["gaps"] if each["section"] == "drop-reason"]
    assert "read-only" in gap["reason"]


def test_the_cautious_are_answered_without_the_kernels_reports(plain_lab: Lab) -> None:
    plain_lab.break_fault("forward-drop")
    verdict = answer(plain_lab.nettrace([*QUESTION, "--no-kernel-trace"]))
    assert first_code(verdict) == "filter.rule-drop"
    kinds = {each["kind"] for each in verdict["findings"][0]["evidence"]}
    assert "counter" in kinds
    assert not kinds & {"trace", "drop"}
    assert [each["section"] for each in verdict["gaps"]] == ["kernel-trace"]
    assert not kernel_lines(verdict)


def test_thousands_of_rules_are_traced_to_the_one_that_drops(plain_lab: Lab) -> None:
    rules = "".join(f"-A CROWD -s 10.{i >> 8 & 255}.{i & 255}.77/32 -j DROP\n" for i in range(5000))
    text = f"*filter\n:CROWD - [0:0]\n{rules}-A CROWD -d 8.8.8.8/32 -j DROP\nCOMMIT\n"
    restore = ["sh", "-c", "iptables-restore --noflush && iptables -I FORWARD -j CROWD"]
    subprocess.run(plain_lab.command(restore), input=text, text=True, check=True)
    try:
        verdict = answer(plain_lab.nettrace(QUESTION))
        assert first_code(verdict) == "filter.rule-drop"
        assert kernel_lines(verdict)[-1].endswith("CROWD rule 5001: -A CROWD -d 8.8.8.8/32 -j DROP: drop")
    finally:
        plain_lab.exec(["sh", "-c", "iptables -D FORWARD -j CROWD; iptables -F CROWD; iptables -X CROWD"])


def test_a_healthy_answer_names_every_rule_that_the_packet_met(docker_lab: Lab) -> None:
    verdict = answer(docker_lab.nettrace(QUESTION))
    assert (verdict["outcome"], verdict["gaps"]) == ("delivered", [])
    lines = kernel_lines(verdict)
    assert [line for line in lines if "MASQUERADE" in line and "[docker]" in line]
    assert [line for line in lines if "DOCKER-USER" in line]
    replies = [hop for hop in verdict["hops"] if hop["direction"] == "reply"]
    assert [line for hop in replies for line in hop["steps"] if line.startswith("kernel: ") and "FORWARD" in line]
