"""`nettrace path` in real hosts: what is healthy is delivered, and what is broken is named, and only that."""

from __future__ import annotations

import contextlib
import json
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nettrace.errors import LabError
from nettrace.lab import FAULTS, Fault, Lab
from nettrace.lab.fetch import ENGINES, engine_dir, find_program
from nettrace.model.verdict import Severity
from nettrace.rules import RULES, rule_of

from . import remedies
from .conftest import engines
from .warm import Asker, Said

pytestmark = pytest.mark.live

CODES = {rule.code for rule in RULES}
PLAIN = [each for each in FAULTS if "none" in each.kinds and each.code in CODES and each.iptables in (None, "nft")]


def hosted(engine: str) -> list[Fault]:
    """Return the faults that a lab with that engine can have."""
    found = find_program(engine_dir(engine), "dockerd") if engine in ENGINES else shutil.which("dockerd")
    assert found is not None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(re.findall(r"version (\d+)", said)[0])
    return [
        each
        for each in FAULTS
        if "docker" in each.kinds
        and each.code in CODES
        and each.iptables in (None, "nft")  # the labs here are made with Debian's own
        and (each.engines is None or each.engines[0] <= major <= each.engines[1])
    ]


DOCKER = [(engine, each) for engine in engines() for each in hosted(engine)]
#: Outcomes other than "stopped": packets arrive, but not all that should.
DEGRADED = {"mtu.mismatch"}
TRACEBACK = "Traceback"


@pytest.fixture(scope="module")
def askers() -> Iterator[dict[str, Asker]]:
    made: dict[str, Asker] = {}
    yield made
    for each in made.values():
        each.close()


def asker_of(askers: dict[str, Asker], lab: Lab) -> Asker:
    if lab.name not in askers:
        askers[lab.name] = Asker(lab)
    return askers[lab.name]


def ask(askers: dict[str, Asker], lab: Lab, *args: str) -> Said:
    said = asker_of(askers, lab).ask([*args, "--json", "--timeout", "0.5"])
    assert TRACEBACK not in said.err
    return said


def ask_and_replay(askers: dict[str, Asker], lab: Lab, *args: str) -> Said:
    said = asker_of(askers, lab).ask_and_replay([*args, "--json", "--timeout", "0.5"])
    assert TRACEBACK not in said.err
    return said


def delivered(said: Said) -> None:
    verdict = said.verdict
    assert (said.code, verdict["outcome"], verdict["stop"]) == (0, "delivered", None), codes(said)
    assert [hop["point"] for hop in verdict["hops"] if hop["observed"] == "not-seen"] == []
    assert {hop["agreement"] for hop in verdict["hops"]} <= {"agree", "unchecked"}


def codes(said: Said) -> list[str]:
    return [finding["code"] for finding in said.verdict["findings"]]


def named_and_mended(askers: dict[str, Asker], lab: Lab, fault: Fault) -> None:
    """Break one thing: exactly that is named, at its place; mend it, and the flow is delivered."""
    if (obstacle := lab.hosts_fault(fault.name)) is not None:
        # Left out below by what each engine can have; one that slips through is no pass.
        pytest.fail(f"this lab cannot have {fault.name}: {obstacle}")
    lab.prepare(fault.name)
    question = lab.flow_of(fault.name)
    lab.break_fault(fault.name)
    said = ask_and_replay(askers, lab, *question)
    known = rule_of(fault.code)
    if known is not None and known.severity is Severity.WARNING:
        assert (said.code, said.verdict["outcome"], fault.code in codes(said)) == (0, "delivered", True), codes(said)
        lab.mend(fault.name)
        assert fault.code not in codes(ask(askers, lab, *lab.flow_of(fault.name)))
        return
    stop = said.verdict["stop"] or {}
    expected = (fault.code, fault.segment_with(lab.state.docker_version).value, fault.direction.value)
    got = (codes(said)[0] if codes(said) else None, stop.get("segment"), stop.get("direction"))
    assert (got, said.code) == (expected, 1), (codes(said), said.verdict["outcome"])
    if fault.standing:
        return
    if remedies.not_pasted(lab, fault):
        assert "yes" not in [each["verified"] for each in remedies.stopping(said)]
        lab.mend(fault.name)
    else:
        proven(askers, lab, fault, said)
        undone(lab, fault)
    question = lab.flow_of(fault.name)
    if is_address(question[2]):
        assert works(lab, question), "the lab is not as it was"
    else:
        # Names are resolved as the container does, which is nettrace's to do, and never the test's own.
        delivered(ask(askers, lab, *question))


def is_address(dst: str) -> bool:
    """Tell whether a destination is an address or a container of the lab, not a name to be resolved."""
    return "." not in dst or dst.replace(".", "").isdigit() or ":" in dst


def works(lab: Lab, question: list[str]) -> bool:
    """Ask the kernel, not nettrace, whether a question's flow gets through."""
    _path, src, dst, *more = question
    options = dict(zip(more[::2], more[1::2], strict=False))
    where = "inet" if src.startswith("netns:") else src
    port, size = options.get("--port"), options.get("--size")
    return any(
        lab.reaches(
            where,
            dst,
            proto=options.get("--proto", "icmp"),
            port=int(port) if port is not None else None,
            size=int(size) if size is not None else None,
        )
        # A neighbour that has not answered is asked again after a second.
        for _ in range(3)
    )


def proven(askers: dict[str, Asker], lab: Lab, fault: Fault, said: Said) -> None:
    """Paste the printed remedies: the flow is delivered, as the model said it would be."""
    told = {"unverifiable"} if fault.name in remedies.BEYOND_THE_MODEL else {"yes"}
    assert {each["verified"] for each in remedies.stopping(said)} == told
    saved = remedies.keep_rules(lab, fault, said)
    try:
        remedies.paste(lab, said)
        after = ask(askers, lab, *lab.flow_of(fault.name))
        if after.verdict["outcome"] != "delivered":
            # The kernel itself waits a second before it asks a neighbour again that has not answered.
            time.sleep(1)
            after = ask(askers, lab, *lab.flow_of(fault.name))
        assert after.verdict["outcome"] == "delivered", (codes(after), codes(said))
    finally:
        remedies.load_rules(lab, saved)


def undone(lab: Lab, fault: Fault) -> None:
    """Take the rest of a fault back: what the remedy has undone already cannot be undone twice, and need not be."""
    with contextlib.suppress(LabError):
        lab.mend(fault.name)


@pytest.mark.parametrize("fault", PLAIN, ids=lambda each: each.name)
def test_a_fault_of_the_plain_lab_is_named(plain_lab: Lab, askers: dict[str, Asker], fault: Fault) -> None:
    named_and_mended(askers, plain_lab, fault)


@pytest.mark.parametrize(
    ("docker_lab", "fault"), DOCKER, indirect=["docker_lab"], ids=[f"{engine}-{each.name}" for engine, each in DOCKER]
)
def test_a_fault_of_a_docker_lab_is_named(docker_lab: Lab, askers: dict[str, Asker], fault: Fault) -> None:
    named_and_mended(askers, docker_lab, fault)


@pytest.mark.parametrize("fault", [each for each in FAULTS if each.iptables == "legacy"], ids=lambda each: each.name)
def test_a_fault_of_a_legacy_host_is_named(make_lab: Callable[..., Lab], fault: Fault) -> None:
    lab = make_lab(fault.name[-12:], engine="none", legacy_iptables=True)
    asker = Asker(lab)
    try:
        named_and_mended({lab.name: asker}, lab, fault)
    finally:
        asker.close()


#: Faults that stop one flow together, in the order in which its packets meet them.
SEVERAL = {
    "routes-in-a-row": ("container-default-deleted", "host-blackhole"),
    "link-and-rule": ("host-veth-down", "docker-user-drop"),
    "rules-of-all-kinds": ("source-output-drop", "raw-drop", "postrouting-drop", "reply-drop"),
    "sysctl-rule-and-nat": ("ip-forward-off", "forward-drop", "masquerade-deleted"),
    "policy-and-rule": ("policy-rule-prohibit", "nft-table-drop"),
}


@pytest.mark.parametrize("names", SEVERAL.values(), ids=SEVERAL)
def test_several_faults_are_listed_in_order_and_mended_together(
    plain_lab: Lab, askers: dict[str, Asker], names: tuple[str, ...]
) -> None:
    broken = [next(each for each in FAULTS if each.name == name) for name in names]
    question = plain_lab.flow_of(names[0])
    for fault in broken:
        plain_lab.break_fault(fault.name)
    said = ask(askers, plain_lab, *question)
    stops = [each["code"] for each in said.verdict["findings"] if each["severity"] in remedies.STOPPING]
    assert (stops, said.code) == ([fault.code for fault in broken], 1)
    assert [each["verified"] for each in remedies.stopping(said)] == ["yes"] * len(broken)
    everything = msgspec.structs.replace(
        broken[0], break_commands=tuple(step for fault in broken for step in fault.break_commands)
    )
    saved = remedies.keep_rules(plain_lab, everything, said)
    try:
        remedies.paste(plain_lab, said)
        after = ask(askers, plain_lab, *question, "--count", "2")
    finally:
        remedies.load_rules(plain_lab, saved)
        with contextlib.suppress(LabError):
            plain_lab.mend()
    assert after.verdict["outcome"] == "delivered", codes(after)
    assert works(plain_lab, question)


HEALTHY = {
    "out": ("app", "8.8.8.8"),
    "out-tcp": ("app", "8.8.8.8", "--proto", "tcp", "--port", "80"),
    "out-udp": ("app", "8.8.8.8", "--proto", "udp", "--port", "53"),
    "out-full-size": ("app", "8.8.8.8", "--size", "1500"),
    "peer": ("app", "web"),
    "peer-tcp": ("app", "web", "--proto", "tcp", "--port", "80"),
    "from-the-host": ("host", "app"),
}


@pytest.mark.parametrize("args", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_flow_of_a_docker_lab_is_delivered(
    docker_lab: Lab, askers: dict[str, Asker], args: tuple[str, ...]
) -> None:
    delivered(ask_and_replay(askers, docker_lab, "path", *args))


@pytest.mark.parametrize("args", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_flow_of_the_plain_lab_is_delivered(
    plain_lab: Lab, askers: dict[str, Asker], args: tuple[str, ...]
) -> None:
    delivered(ask_and_replay(askers, plain_lab, "path", *args))


def test_some_lost_probes_are_not_called_health(plain_lab: Lab, askers: dict[str, Asker]) -> None:
    match = "-p icmp -m limit --limit 1/hour --limit-burst 2 -j ACCEPT"
    plain_lab.check(["sh", "-c", f"iptables -I FORWARD -i docker0 {match}; iptables -I FORWARD 2 -i docker0 -j DROP"])
    try:
        said = ask_and_replay(askers, plain_lab, "path", "app", "8.8.8.8", "--count", "5")
    finally:
        plain_lab.check(["sh", "-c", f"iptables -D FORWARD -i docker0 {match}; iptables -D FORWARD -i docker0 -j DROP"])
    assert (said.code, said.verdict["outcome"]) == (1, "degraded")
    assert [gap["reason"] for gap in said.verdict["gaps"]] == [
        "2 of 5 probes were answered; the others were last seen at host/docker0; "
        "the kernel dropped 3 at host: iptables (nft) filter FORWARD rule 2: -A FORWARD -i docker0 -j DROP"
    ]


# the command as it is typed


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Hold an error to its form: that exit code, nothing on stdout, one or two sentences that say what it is about."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("nettrace: ")
    assert TRACEBACK not in done.stderr
    assert "defect" not in done.stderr
    assert len(done.stderr) < 600
    for word in words:
        assert word in done.stderr


def test_the_text_and_the_exit_code(plain_lab: Lab) -> None:
    done = plain_lab.nettrace(["path", "c5ff39f37596", "8.8.8.8"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DELIVERED")
    assert done.stderr == ""


def test_predict_sends_nothing(plain_lab: Lab) -> None:
    before = packets(plain_lab)
    done = plain_lab.nettrace(["path", "app", "8.8.8.8", "--predict", "--json"])
    assert done.returncode == 0, done.stderr
    assert {hop["observed"] for hop in json.loads(done.stdout)["hops"]} == {"not-probed"}
    assert packets(plain_lab) == before


def packets(lab: Lab) -> int:
    """Return how many echo requests the container's namespace has sent; ARP and IPv6 chatter are not the probe's."""
    rows = [
        line.split() for line in lab.check(["cat", "/proc/net/snmp"], "app").splitlines() if line.startswith("Icmp:")
    ]
    return int(rows[1][rows[0].index("OutEchos")])


def test_the_capture_is_written(plain_lab: Lab, tmp_path: Path) -> None:
    from nettrace.wire.pcapng import read_pcapng

    path = tmp_path / "out.pcapng"
    assert plain_lab.nettrace(["path", "app", "8.8.8.8", "--pcap", str(path)]).returncode == 0
    assert len(read_pcapng(path.read_bytes()).frames) >= 8
    refused(plain_lab.nettrace(["path", "app", "8.8.8.8", "--pcap", "/nonexistent/x"]), 4, "/nonexistent/x")


USAGE = {
    "icmp-port": (("app", "web", "--port", "80"), "icmp"),
    "tcp-no-port": (("app", "web", "--proto", "tcp"), "--port"),
    "port-0": (("app", "web", "--proto", "tcp", "--port", "0"), "--port"),
    "size-small": (("app", "web", "--size", "10"), "--size 10"),
    "size-large": (("app", "web", "--size", "65536"), "--size 65536"),
    "size-word": (("app", "web", "--size", "big"), "--size"),
    "unknown-flag": (("app", "web", "--sise", "10"), "--sise"),
    "missing-dst": (("app",), "DST"),
    "too-many": (("app", "web", "c1"), "c1"),
}


@pytest.mark.parametrize(("args", "word"), USAGE.values(), ids=USAGE)
def test_a_wrong_command_line_is_a_usage_error(plain_lab: Lab, args: tuple[str, ...], word: str) -> None:
    refused(plain_lab.nettrace(["path", *args]), 2, word)


def test_what_is_not_there_is_said(plain_lab: Lab) -> None:
    refused(plain_lab.nettrace(["path", "nosuch", "8.8.8.8"]), 4, "nosuch")
    refused(plain_lab.nettrace(["path", "netns:nosuch", "8.8.8.8"]), 4, "nosuch")
    refused(plain_lab.nettrace(["path", "pid:4194305", "8.8.8.8"]), 4, "4194305")


def test_an_ambiguous_prefix_lists_what_it_fits(docker_lab: Lab) -> None:
    ids = docker_lab.docker("ps", "-aq", "--no-trunc").split()
    first = [identity[0] for identity in ids]
    letter = next((each for each in first if first.count(each) > 1), None)
    number = 0
    while letter is None:
        number += 1
        identity = docker_lab.run_container(f"twin{number}", "net1")
        letter = identity[0] if identity[0] in first else None
        first.append(identity[0])
    try:
        refused(docker_lab.nettrace(["path", letter, "8.8.8.8"]), 4, letter, "container:")
    finally:
        for each in range(1, number + 1):
            docker_lab.docker("rm", "-f", f"twin{each}")


def test_an_engine_that_does_not_answer_is_said(docker_lab: Lab) -> None:
    env = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    refused(docker_lab.nettrace(["path", "nosuch", "8.8.8.8"], env=env), 4, "/nonexistent/docker.sock")


def test_ipv6_that_a_container_lacks_is_said(plain_lab: Lab) -> None:
    done = plain_lab.nettrace(["path", "app", "2001:4860:4860::8888"])
    assert done.returncode in (1, 4)
    assert "IPv6" in done.stdout + done.stderr
    assert TRACEBACK not in done.stderr


def test_without_root_the_lacking_capability_is_named(plain_lab: Lab, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    argv = [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    done = plain_lab.exec([*argv, sys.executable, "-m", "nettrace", "path", "app", "8.8.8.8"])
    refused(done, 4, "CAP_")


def test_a_container_that_dies_meanwhile_is_no_traceback(docker_lab: Lab) -> None:
    identity = docker_lab.run_container("mortal")
    try:
        for delay in (0.3, 0.6, 0.9):
            docker_lab.docker("start", identity)
            child = started(docker_lab, "path", "mortal", "8.8.8.8")
            time.sleep(delay)
            docker_lab.docker("kill", identity)
            out, err = child.communicate(timeout=30)
            assert child.returncode in (0, 1, 3, 4)
            assert TRACEBACK not in err
            assert "defect" not in err
            assert bool(out) or err.startswith("nettrace: ")
    finally:
        docker_lab.docker("rm", "-f", identity)


def started(lab: Lab, *args: str, pipe_to: str | None = None) -> subprocess.Popen[str]:
    argv = lab.command([sys.executable, "-m", "nettrace", *args])
    return subprocess.Popen(
        argv, env=lab.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def own_objects(lab: Lab) -> tuple[str, str]:
    """Return what a run could leave in the host's namespace: nft tables and links."""
    return lab.check(["nft", "list", "tables"]), lab.check(["ip", "-br", "link"])


@pytest.mark.parametrize("delay", [0.4, 1.2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_ctrl_c_ends_it_and_leaves_nothing(plain_lab: Lab, number: signal.Signals, code: int, delay: float) -> None:
    before = own_objects(plain_lab)
    plain_lab.break_fault("remote-silent")
    child = started(plain_lab, "path", "app", "8.8.8.8", "--timeout", "30")
    time.sleep(delay)
    child.send_signal(number)
    _out, err = child.communicate(timeout=10)
    assert child.returncode == code, err
    assert TRACEBACK not in err
    plain_lab.mend()
    assert own_objects(plain_lab) == before


def test_a_reader_that_leaves_early_is_no_traceback(plain_lab: Lab) -> None:
    argv = ["bash", "-c", f"{sys.executable} -m nettrace path app 8.8.8.8 --json | true; echo ${{PIPESTATUS[0]}}"]
    done = plain_lab.exec(argv)
    assert done.stdout.strip() in ("141", "0")
    assert done.stderr == ""


def test_two_labs_of_one_name_are_refused(plain_lab: Lab) -> None:
    argv = [sys.executable, "-m", "nettrace", "lab", "up", plain_lab.name, "--engine", "none"]
    refused(subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60), 4, plain_lab.name)


def test_a_run_closes_what_it_opens(plain_lab: Lab) -> None:
    code = (
        "import os, sys\nfrom nettrace.cli import main\n"
        "count = lambda: len(os.listdir('/proc/self/fd'))\n"
        "args = ['path', 'app', '8.8.8.8', '--json']\n"
        "main(args); before = count(); main(args); after = count()\n"
        "print(before, after, file=sys.stderr)\n"
    )
    done = plain_lab.exec([sys.executable, "-c", code], env={"PYTHONPATH": str(Path.cwd())})
    before, after = done.stderr.split()
    assert before == after
