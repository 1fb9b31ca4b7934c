"""Bundles of real hosts: what is in them, what is never in them, and that they tell what the host told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nettrace.bundle import Bundle, read_bundle
from nettrace.bundle.format import BEFORE, CAPTURE, RUN, VERDICT_JSON
from nettrace.lab import Lab
from nettrace.model.snapshot import Snapshot
from nettrace.wire.pcapng import read_pcapng

from .warm import Asker

pytestmark = pytest.mark.live

SECRET = "hunter2-7f3a"
MOST_BYTES = 2_000_000
LISTINGS = ("ip-addr.txt", "ip-link.txt", "ip-route.txt", "ip-6-route.txt", "ip-rule.txt", "ip-neigh.txt", "sysctl.txt")


@pytest.fixture
def secretive(docker_lab: Lab) -> Iterator[Lab]:
    """A lab with a container and a network that have secrets wherever an engine keeps text."""
    image = docker_lab.docker("images", "-q").split()[0]
    docker_lab.docker(
        *("run", "-d", "--name", "keeper", "-e", f"PASSWORD={SECRET}", "--label", f"token={SECRET}"),
        *("--log-opt", f"env={SECRET}", image, "sh", "-c", f"echo {SECRET}; exec tail -f /dev/null # {SECRET}"),
    )
    docker_lab.docker("network", "create", "--label", f"token={SECRET}", "keepnet")
    yield docker_lab
    docker_lab.docker("rm", "-f", "keeper")
    docker_lab.docker("network", "rm", "keepnet")


def created(lab: Lab, folder: Path, *args: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    path = folder / "bundle.tar.gz"
    done = lab.nettrace(["bundle", "create", *args, "-o", str(path)], timeout_s=120)
    assert "Traceback" not in done.stderr
    return done, path


def texts_of(bundle: Bundle) -> dict[str, str]:
    return {name: data.decode("utf-8", "replace") for name, data in bundle.members.items()}


def test_secrets_of_containers_and_networks_stay_on_the_host(secretive: Lab, tmp_path: Path) -> None:
    for question in (("keeper", "8.8.8.8"), ()):
        done, path = created(secretive, tmp_path, *question)
        assert done.returncode == 0, done.stderr
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_size < MOST_BYTES
        bundle = read_bundle(path)
        assert [name for name, text in texts_of(bundle).items() if SECRET in text] == []
        assert SECRET not in str(bundle.manifest)
        with tarfile.open(path) as tar:
            assert SECRET not in str(tar.getmembers())
        networks = json.loads(bundle.members["texts/engine=docker/network-inspect.json"])
        assert "keepnet" in {each["Name"] for each in networks}
        assert "keeper" in {each["Name"] for network in networks for each in network["Containers"].values()}


def test_a_question_brings_everything_that_a_helper_wants(docker_lab: Lab, tmp_path: Path) -> None:
    done, path = created(docker_lab, tmp_path, "app", "8.8.8.8")
    assert done.returncode == 0
    assert done.stdout.startswith("DELIVERED")
    assert done.stderr.startswith(f"wrote {path} (")
    bundle = read_bundle(path)
    assert {each for owner in ("host", "app") for each in (f"texts/{owner}/{name}" for name in LISTINGS)} <= set(
        bundle.members
    )
    texts = texts_of(bundle)
    assert "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0" in texts["texts/host/iptables-save.nft.txt"]
    assert "chain POSTROUTING" in texts["texts/host/nft-list-ruleset.txt"]
    assert "master docker0" in texts["texts/host/bridge-link.txt"]
    assert "default via 172.17.0.1 dev eth0" in texts["texts/app/ip-route.txt"]
    assert "net.ipv4.ip_forward = 1" in texts["texts/host/sysctl.txt"]
    assert "nf_conntrack_count" in texts["texts/host/conntrack-summary.txt"]
    assert json.loads(texts["texts/engine=docker/version.json"])["Version"] == docker_lab.state.docker_version
    assert json.loads(texts["texts/engine=docker/info.json"])["IPv4Forwarding"] is True
    assert bundle.manifest.cut == ()
    assert bundle.manifest.took_s > 0


def test_the_capture_opens_elsewhere(plain_lab: Lab, tmp_path: Path) -> None:
    done, path = created(plain_lab, tmp_path, "app", "8.8.8.8")
    assert done.returncode == 0
    capture = tmp_path / "capture.pcapng"
    capture.write_bytes(read_bundle(path).members[CAPTURE])
    own = read_pcapng(capture.read_bytes())
    tcpdump, tshark = shutil.which("tcpdump"), shutil.which("tshark")
    assert tcpdump is not None
    said = subprocess.run([tcpdump, "-nr", str(capture)], capture_output=True, text=True, check=True)
    assert said.stdout.count("ICMP echo request") == sum(b"ntrc" in frame.data for frame in own.frames) / 2
    if tshark is not None:
        fields = ("frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch", "frame.comment")
        argv = [tshark, "-r", str(capture), "-T", "fields", "-E", "separator=|", *(f"-e{each}" for each in fields)]
        rows = [
            line.split("|")
            for line in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
        ]
        assert [row[0] for row in rows] == [frame.point for frame in own.frames]
        assert [int(row[1], 16) for row in rows] == [{"in": 1, "out": 2}[frame.way.value] for frame in own.frames]
        assert [row[2] for row in rows] == [f"{frame.at_ns // 10**9}.{frame.at_ns % 10**9:09}" for frame in own.frames]
        assert all("delivered" in row[3] for row in rows)


QUESTIONS = (
    ("app", "8.8.8.8"),
    ("app", "8.8.8.8", "--proto", "udp", "--port", "53"),
    ("app", "web", "--proto", "tcp", "--port", "80"),
    ("app", "web", "--proto", "tcp", "--port", "81"),
    ("app", "host"),
    ("host", "web"),
    ("app", "n1"),
)


def test_a_new_question_to_a_recorded_host_is_answered_as_the_host_answers(docker_lab: Lab, tmp_path: Path) -> None:
    done, path = created(docker_lab, tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = read_bundle(path)
    assert RUN not in bundle.members
    recorded = {each.name for each in bundle.decode(BEFORE, Snapshot).namespaces}
    assert {"host", "app", "web", "c1", "c2", "n1", "n2"} <= recorded
    with contextlib.closing(Asker(docker_lab)) as asker:
        identity = docker_lab.docker("ps", "-q", "--no-trunc", "-f", "name=^app$").strip()
        for question in (*QUESTIONS, ("web", f"container:{identity[:12]}"), (identity, "8.8.8.8")):
            live = asker.ask(["path", *question, "--predict", "--json"])
            again = asker.ask(["replay", str(path), *question, "--json"])
            assert again.code == live.code, (question, live.err, again.err)
            assert same(again.out) == same(live.out), question


def same(text: str) -> dict[str, object]:
    """Return of a verdict what must not depend on when, and how far around, the host was read."""
    verdict = json.loads(text)
    return {key: verdict[key] for key in ("outcome", "flow", "stop", "hops", "findings", "host")}


def test_a_bundle_of_a_fault_is_verified_and_replayed(docker_lab: Lab, tmp_path: Path) -> None:
    docker_lab.break_fault("forward-drop")
    done, path = created(docker_lab, tmp_path, "app", "8.8.8.8", "--json")
    assert done.returncode == 1
    verdict = json.loads(done.stdout)
    assert json.loads(read_bundle(path).members[VERDICT_JSON]) == verdict
    argv = [sys.executable, "-m", "nettrace"]
    replayed = subprocess.run([*argv, "replay", path, "--json"], capture_output=True, text=True, check=False)
    assert (replayed.returncode, json.loads(replayed.stdout)) == (1, verdict)
    verified = subprocess.run([*argv, "bundle", "verify", path], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_a_name_of_its_own_is_given_and_nothing_is_replaced(plain_lab: Lab, tmp_path: Path) -> None:
    argv = [
        "sh",
        "-c",
        f"cd {tmp_path} && umask 0 && {sys.executable} -m nettrace bundle create app 8.8.8.8 --predict --json",
    ]
    done = plain_lab.exec(argv, env={"PYTHONPATH": str(Path.cwd())})
    (path,) = tmp_path.iterdir()
    assert done.returncode == 0, done.stderr
    assert path.name.startswith(f"nettrace-{os.uname().nodename}-")
    assert path.stat().st_mode & 0o777 == 0o600
    assert {hop["observed"] for hop in json.loads(done.stdout)["hops"]} == {"not-probed"}
    assert read_bundle(path).manifest.question is not None
    replayed = plain_lab.nettrace(["replay", str(path), "--json"])
    assert (replayed.returncode, replayed.stdout) == (0, done.stdout)
    for where in ("/nonexistent/x.tar.gz", "/dev/null"):
        refused = plain_lab.nettrace(["bundle", "create", "app", "8.8.8.8", "--predict", "-o", where])
        assert (refused.returncode, "Traceback" in refused.stderr) == (4, False)
        assert where.split("/")[1] in refused.stderr
    assert Path("/dev/null").is_char_device()


def test_a_host_is_read_without_a_trace_and_with_a_bar(plain_lab: Lab, tmp_path: Path) -> None:
    modules = Path("/proc/modules")
    loaded = modules.read_text() if modules.exists() else ""
    before = plain_lab.check(["nft", "list", "ruleset"])
    path = tmp_path / "host.tar.gz"
    argv = plain_lab.command([sys.executable, "-m", "nettrace", "bundle", "create", "-o", str(path), "--json"])
    terminal, end = os.openpty()
    with open(terminal, "rb") as screen:
        done = subprocess.run(argv, env=plain_lab.environment(), stdout=subprocess.PIPE, stderr=end, check=False)
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # a terminal that nobody holds open reads as an error
            while part := screen.read1(65536):
                shown += part
    assert done.returncode == 0, shown
    assert b"reading namespaces" in shown
    assert b"100%" in shown
    manifest = read_bundle(path).manifest
    assert json.loads(done.stdout)["members"] == [
        {"name": each.name, "size": each.size, "sha256": each.sha256} for each in manifest.members
    ]
    assert "container app" in manifest.read
    assert plain_lab.check(["nft", "list", "ruleset"]) == before
    assert (modules.read_text() if modules.exists() else "") == loaded
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_without_root_the_lacking_capability_is_named(plain_lab: Lab, tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    argv = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "nettrace"]
    done = plain_lab.exec([*argv, "bundle", "create", "-o", str(tmp_path / "x")])
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("nettrace: nettrace bundle lacks CAP_")


def test_a_redacted_bundle_tells_nothing_of_the_host_and_comes_to_the_same_answer(
    docker_lab: Lab, tmp_path: Path
) -> None:
    docker_lab.break_fault("docker-user-drop")
    done, path = created(docker_lab, tmp_path, "app", "8.8.8.8", "--redact")
    assert done.returncode == 1, done.stderr
    bundle = read_bundle(path)
    texts = texts_of(bundle)
    assert bundle.manifest.redacted
    assert "filter.rule-drop" in texts[VERDICT_JSON]
    name = docker_lab.host.removesuffix("-host")
    for member, text in texts.items():
        words = set(re.findall(r"[\w.-]+", text)) if member != CAPTURE else set()
        assert not words & {"app", "noicc", "sealed", docker_lab.host}, member
        assert name not in text, member
    assert docker_lab.nettrace(["bundle", "verify", str(path)]).returncode == 0
    again = docker_lab.nettrace(["replay", str(path), "--json"])
    assert json.loads(again.stdout)["findings"] == json.loads(texts[VERDICT_JSON])["findings"]
