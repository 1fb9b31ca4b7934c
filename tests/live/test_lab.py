"""Labs against the real kernel: they come up, carry packets, can be broken and mended, and go without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nettrace.errors import LabError
from nettrace.lab import FAULTS, Fault, Lab, state, teardown
from nettrace.lab.state import state_dir
from nettrace.lab.system import identify

from .conftest import PREFIX, SYSTEM, engines

pytestmark = pytest.mark.live

PLAIN_FAULTS = [each.name for each in FAULTS if "none" in each.kinds]
DOCKER_FAULTS = [each.name for each in FAULTS if "docker" in each.kinds]


def nettrace(*args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "nettrace", *args]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def flow(lab: Lab, fault: Fault) -> Callable[..., bool]:
    """Return a question to the kernel whether the fault's flow works, with its ends as they are now."""
    _, src, dst, *options = lab.flow_of(fault.name)
    known = dict(zip(options[::2], options[1::2], strict=True)) if "-6" not in options else {}
    if fault.code.startswith("dns."):
        argv = ["docker", "exec", src, "timeout", "-s", "KILL", "1", "nslookup", "-type=a", dst]
        return lambda timeout_s=1.0: lab.exec(argv).returncode == 0
    address = dst if "." in dst or ":" in dst else str(lab.facts[dst].ip)  # type: ignore[attr-defined]
    src = "inet" if src.startswith("netns:") else src

    def ask(timeout_s: float = 1.0) -> bool:
        return lab.reaches(
            src,
            address,
            proto=known.get("--proto", "icmp"),
            port=int(known["--port"]) if "--port" in known else None,
            size=int(known["--size"]) if "--size" in known else None,
            timeout_s=timeout_s,
        )

    return ask


def stops_and_passes(lab: Lab, name: str) -> None:
    """Break one thing: the flow passes before, stops while it is broken, and passes again when it is mended."""
    if lab.hosts_fault(name) is not None:  # another engine of the same kind has it
        with pytest.raises(LabError, match="cannot have"):
            lab.break_fault(name)
        return
    fault = next(each for each in FAULTS if each.name == name)
    lab.prepare(name)
    if name == "no-network":
        assert not lab.reaches("lonely", "8.8.8.8", timeout_s=0.25)
        return
    passes = flow(lab, fault)
    if fault.standing:
        assert not passes(timeout_s=0.25)
        assert lab.break_fault(name) == ()
        return
    assert passes()
    steps = lab.break_fault(name)
    assert steps
    assert [each.name for each in state.load(lab.name).broken] == [name]
    if name == "source-stopped":
        with pytest.raises(LabError, match="exited"):
            passes()
    else:
        assert passes(timeout_s=0.25) is not fault.on_wire
    assert lab.mend(name)
    assert passes(timeout_s=2)
    assert state.load(lab.name).broken == ()


@pytest.mark.parametrize("name", PLAIN_FAULTS)
def test_fault_in_a_plain_lab(plain_lab: Lab, name: str) -> None:
    stops_and_passes(plain_lab, name)


@pytest.mark.parametrize("name", DOCKER_FAULTS)
def test_fault_in_a_docker_lab(docker_lab: Lab, name: str) -> None:
    stops_and_passes(docker_lab, name)


@pytest.mark.parametrize("name", ["backend-split-reversed", "forward-drop", "masquerade-deleted"])
def test_fault_on_the_legacy_back_end(labs: dict[str, Lab], name: str) -> None:
    if "legacy" not in labs:
        labs["legacy"] = Lab.up(f"{PREFIX}-legacy", engine="none", legacy_iptables=True)
    assert "legacy" in labs["legacy"].check(["iptables", "--version"], env={"PATH": labs["legacy"].state.path})
    assert "MASQUERADE" not in labs["legacy"].check(["iptables-nft-save"])
    stops_and_passes(labs["legacy"], name)


def test_plain_lab_is_wired_as_docker0(plain_lab: Lab) -> None:
    assert "eth0@if45" in plain_lab.check(["ip", "addr"], "app")
    assert "172.17.0.2/16" in plain_lab.check(["ip", "addr"], "app")
    assert "docker0" in plain_lab.check(["ip", "link", "show", "master", "docker0"])
    assert "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE" in plain_lab.check(["iptables-save", "-t", "nat"])
    for proto, port in (("icmp", None), ("tcp", 80), ("tcp", 7), ("udp", 53), ("udp", 7)):
        assert plain_lab.reaches("app", "8.8.8.8", proto=proto, port=port)
    assert plain_lab.reaches("app", "web", proto="tcp", port=80)
    assert plain_lab.reaches("inet", "203.0.113.2", proto="tcp", port=8080)
    assert plain_lab.reaches("c1", "2001:4860:4860::8888")
    assert plain_lab.reaches("c1", "2001:4860:4860::8888", proto="tcp", port=80)
    assert not plain_lab.reaches("inet", "172.17.0.2", timeout_s=0.2)


def test_plain_lab_is_found_by_its_host_namespace(plain_lab: Lab) -> None:
    found = state.find_lab_of(os.stat(plain_lab.host).st_ino)
    assert found is not None
    assert found.name == plain_lab.name
    app = next(each for each in found.intent.containers if each.name == "app")
    assert app.id.startswith("c5ff39f37596")
    assert app.netns == os.stat(plain_lab.netns_of("app")).st_ino
    assert app.pid is not None
    assert os.stat(f"/proc/{app.pid}/ns/net").st_ino == app.netns
    assert state.find_lab_of(os.stat("/proc/self/ns/net").st_ino) is None


def test_docker_lab_is_a_docker_host(docker_lab: Lab) -> None:
    names = docker_lab.docker("ps", "--format", "{{.Names}}").split()
    assert {"app", "web", "c1", "c2", "n1", "n2", "s1"} <= set(names)
    assert docker_lab.state.intent.containers == ()
    assert docker_lab.docker("version", "--format", "{{.Server.Version}}").strip() == docker_lab.state.docker_version
    assert ":FORWARD DROP" in docker_lab.check(["iptables-save", "-t", "filter"])
    assert docker_lab.reaches("c1", "c2", proto="tcp", port=80)
    assert docker_lab.reaches("inet", "203.0.113.2", proto="tcp", port=8080)
    assert docker_lab.check(["sh", "-c", "echo $DOCKER_HOST"]).strip() == docker_lab.docker_host


def test_further_containers(docker_lab: Lab) -> None:
    docker_lab.docker("rm", "-f", "extra") if "extra" in docker_lab.docker("ps", "-a") else None
    identity = docker_lab.run_container("extra", "net1", published={8090: 80})
    assert docker_lab.docker("inspect", "-f", "{{.Id}}", "extra").strip() == identity
    assert docker_lab.reaches("extra", "8.8.8.8")
    docker_lab.docker("rm", "-f", "extra")
    with pytest.raises(LabError, match="extra"):
        docker_lab.netns_of("extra")


def test_two_labs_do_not_meet(plain_lab: Lab, make_lab: Callable[..., Lab]) -> None:
    other = make_lab("other", engine="none")
    plain_lab.break_fault("masquerade-deleted")
    assert other.reaches("app", "8.8.8.8")
    assert not plain_lab.reaches("app", "8.8.8.8", timeout_s=0.2)
    with pytest.raises(LabError, match="already"):
        Lab.up(other.name, engine="none")
    assert other.reaches("app", "8.8.8.8")


def entries(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()} if Path(folder).exists() else set()


@pytest.mark.parametrize("engine", ["none", *engines()])
def test_down_leaves_nothing(make_lab: Callable[..., Lab], engine: str) -> None:
    etc = entries("/etc/docker")
    lab = make_lab(
        f"gone-{engine}",
        engine="none" if engine == "none" else "docker",
        docker_dir=None if engine in ("none", SYSTEM) else engine,
    )
    processes = list(teardown._processes_of(lab.name, [f"ntlab-{lab.name}-host", f"ntlab-{lab.name}-inet"]))
    assert {process.role for process in processes} >= ({"dockerd", "containerd"} if engine != "none" else set())
    sockets = teardown._shim_sockets(state_dir(lab.name))
    assert len(sockets) == (7 if engine != "none" else 0)
    lab.down()
    assert not state_dir(lab.name).exists()
    assert [name for name in entries("/run/netns") if f"-{lab.name}-" in name] == []
    assert [process for process in processes if identify(process.pid, process.role) == process] == []
    assert teardown._mounts_below(state_dir(lab.name)) == []
    assert teardown._cgroups(lab.name) == []
    assert [path for path in sockets if path.exists()] == []
    assert entries("/etc/docker") == etc
    lab.down()  # twice is harmless


def test_a_failed_up_leaves_nothing(make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nettrace.lab.plain.ruleset", lambda family: "*nonsense\n")
    with pytest.raises(LabError, match="rules"):
        make_lab("broken", engine="none")
    assert f"{PREFIX}-broken" not in teardown.leftovers()


def test_what_a_crash_left_is_found_and_removed(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab("crash", engine="none")
    (state_dir(lab.name) / "state.json").write_text('{"half": ')
    assert lab.name in teardown.leftovers()
    with pytest.raises(LabError, match="lab down"):
        Lab.find(lab.name)
    assert lab.name in nettrace("lab", "list").stdout
    done = nettrace("lab", "down", lab.name)
    assert done.returncode == 0, done.stderr
    assert lab.name not in teardown.leftovers()


def test_namespaces_without_a_folder_are_a_lab_too(make_lab: Callable[..., Lab]) -> None:
    name = f"{PREFIX}-bare"
    subprocess.run(["ip", "netns", "add", f"ntlab-{name}-host"], check=True)
    try:
        assert name in teardown.leftovers()
        with pytest.raises(LabError, match="already"):
            Lab.up(name, engine="none")
    finally:
        teardown.remove(name)
    assert name not in teardown.leftovers()


def test_a_failing_break_is_undone(plain_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from nettrace.lab import faults

    base = faults.fault("forward-drop")
    bad = Fault(
        **{field: getattr(base, field) for field in base.__struct_fields__}
        | {"name": "bad", "break_commands": (*base.break_commands, *faults.host("false"))}
    )
    monkeypatch.setitem(faults._BY_NAME, "bad", bad)
    with pytest.raises(LabError, match="false"):
        plain_lab.break_fault("bad")
    assert plain_lab.reaches("app", "8.8.8.8")
    assert state.load(plain_lab.name).broken == ()


def test_mending_what_is_not_broken_is_said(plain_lab: Lab) -> None:
    assert plain_lab.mend() == ()
    with pytest.raises(LabError, match="does not have"):
        plain_lab.mend("forward-drop")
    with pytest.raises(LabError, match="no fault named"):
        plain_lab.mend("nonsense")
    plain_lab.break_fault("forward-drop")
    with pytest.raises(LabError, match="already has"):
        plain_lab.break_fault("forward-drop")


def test_command_line(make_lab: Callable[..., Lab]) -> None:
    name = f"{PREFIX}-cli"
    try:
        done = nettrace("lab", "up", name, "--engine", "none")
        assert done.returncode == 0, done.stderr
        assert f"nettrace lab exec {name} -- nettrace path" in done.stdout
        done = nettrace("lab", "up", name, "--engine", "none")
        assert done.returncode == 4
        assert "already" in done.stderr
        listed = json.loads(nettrace("lab", "list", "--json").stdout)
        assert name in [each["name"] for each in listed]
        assert "eth0@if45" in nettrace("lab", "exec", name, "--in", "app", "--", "ip", "link").stdout
        assert nettrace("lab", "exec", name, "--", "sh", "-c", "exit 7").returncode == 7
        assert nettrace("lab", "exec", name).returncode == 2
        assert nettrace("lab", "exec", name, "--in", "nowhere", "--", "true").returncode == 4
        assert nettrace("lab", "exec", name, "--", "no-such-program").returncode == 4
        done = nettrace("lab", "break", name, "forward-drop")
        assert "host# iptables -t filter -I FORWARD -s 172.17.0.2 -j DROP" in done.stdout
        assert "nettrace path app 8.8.8.8" in done.stdout
        assert "forward-drop" in nettrace("lab", "list").stdout
        assert "host# iptables -t filter -D FORWARD" in nettrace("lab", "mend", name).stdout
        assert nettrace("lab", "break", name, "nonsense").returncode == 4
        assert nettrace("lab", "down", name).returncode == 0
        assert nettrace("lab", "down", name).returncode == 4
        assert nettrace("lab", "down").returncode == 2
    finally:
        teardown.remove(name)


def test_an_interrupted_up_leaves_nothing() -> None:
    name = f"{PREFIX}-int"
    argv = [
        sys.executable,
        "-m",
        "nettrace",
        "lab",
        "up",
        name,
        "--engine",
        "docker" if SYSTEM in engines() else "none",
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 10
        while name not in teardown.leftovers() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
    assert name not in teardown.leftovers()


@pytest.mark.parametrize("engine", ["none", *(["docker"] if SYSTEM in engines() else [])])
def test_demo(engine: str) -> None:
    before = set(teardown.leftovers())
    done = nettrace("demo", "--engine", engine)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    assert shown.index("DELIVERED") < shown.index("nat.masquerade-missing") < shown.rindex("DELIVERED")
    assert [name for name in set(teardown.leftovers()) - before if name.startswith("demo-")] == []


def test_an_interrupted_demo_cleans_up() -> None:
    argv = [sys.executable, "-m", "nettrace", "demo", "--engine", "none"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        name = f"demo-{process.pid}"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if state.load(name).phase == "ready":
                    break
            except LabError:
                pass
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
    assert name not in teardown.leftovers()


def test_a_terminated_demo_cleans_up() -> None:
    argv = [sys.executable, "-m", "nettrace", "demo", "--engine", "none"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        name = f"demo-{process.pid}"
        while name not in teardown.leftovers() and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
    assert name not in teardown.leftovers()
