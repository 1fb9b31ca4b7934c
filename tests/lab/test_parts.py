"""The parts of a lab that need no root: its servers, its processes, its rules, its commands, what it looks for."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nettrace.commands import lab as lab_command
from nettrace.errors import LabError, PrivilegeError
from nettrace.lab import docker, plain, reach, services, state, system, teardown
from nettrace.lab.state import NamespaceState, Process


def test_dns_answers() -> None:
    def query(name: str, kind: int) -> bytes:
        labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
        return b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6 + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\x01"

    known = services.dns_answer(query("EXAMPLE.org", 1))
    assert known[:2] == b"\x12\x34"
    assert known[3] & 0xF == 0
    assert known.endswith(socket.inet_aton("8.8.8.8"))
    assert services.dns_answer(query("example.org", 28)).endswith(
        socket.inet_pton(socket.AF_INET6, "2001:4860:4860::8888")
    )
    empty = services.dns_answer(query("example.org", 15))
    assert (empty[3] & 0xF, empty[6:8]) == (0, b"\0\0")
    assert services.dns_answer(query("nowhere.example", 1))[3] & 0xF == 3
    assert services.dns_answer(reach.DNS_QUERY)[3] & 0xF == 0


def test_services_split_addresses() -> None:
    assert services.split("8.8.8.8:80") == (socket.AF_INET, "8.8.8.8", 80)
    assert services.split("[::1]:53") == (socket.AF_INET6, "::1", 53)


def test_checksum_makes_the_sum_all_ones() -> None:
    packet = b"\x08\x00\x00\x00NT\x00\x01" + b"payload!"
    filled = packet[:2] + reach._checksum(packet) + packet[4:]
    assert reach._checksum(filled) == b"\0\0"


def test_rules_are_those_of_docker_20_10() -> None:
    four = plain.ruleset(4)
    assert "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE" in four
    assert "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.3:80" in four
    assert ":FORWARD DROP" in four
    assert four.count("COMMIT") == 2
    six = plain.ruleset(6)
    assert "-s fd00:18::/64 ! -o br-5a0c6e2d9b17 -j MASQUERADE" in six
    assert "172." not in six
    assert "docker0" not in six


def test_intent_of_a_plain_lab() -> None:
    places = {part: NamespaceState(name=part, path=f"/run/netns/{part}", inode=n) for n, part in enumerate(plain.PARTS)}
    first = {part: Process(role=part, pid=100 + n, started=1) for n, part in enumerate(plain.PARTS)}
    intent = plain.describe("x", places, first)
    app = intent.containers[0]
    assert app.id.startswith("c5ff39f37596")
    assert len(app.id) == 64
    assert (app.name, app.pid, app.netns) == ("app", 100, 0)
    assert str(app.endpoints[0].ipv4) == "172.17.0.2/16"
    assert {each.id for each in intent.networks} == {each.id for each in plain.NETWORKS}
    for each in intent.containers:
        assert intent.network(each.endpoints[0].network_id) is not None
    assert [port.host_port for each in intent.containers for port in each.ports] == [8080]


def test_interface_names_fit() -> None:
    assert all(len(net.bridge) < 16 for net in plain.NETWORKS)
    assert all(len(each.veth) < 16 for each in plain.CONTAINERS)
    assert plain.NET1.bridge == f"br-{plain.NET1.id[:12]}"


def test_processes_are_known_by_their_start() -> None:
    own = system.identify(os.getpid(), "me")
    assert own is not None
    assert system.alive(own)
    assert not system.alive(Process(role="me", pid=own.pid, started=own.started + 1))
    assert system.identify(2**22 + 1) is None


def test_only_the_process_meant_is_killed(tmp_path: Path) -> None:
    process = system.spawn(["sleep", "60"], "sleeper", log=tmp_path / "log", env={"PATH": os.environ["PATH"]})
    impostor = Process(role="sleeper", pid=process.pid, started=process.started + 1)
    assert system.kill([impostor]) == []
    assert system.alive(process)
    assert system.kill([process, process]) == []
    assert not system.alive(process)


def test_a_daemon_that_does_not_start_says_why(tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo no such luck >&2; exit 1"]
    with pytest.raises(LabError, match="no such luck"):
        system.spawn(argv, "thing", log=tmp_path / "log", env={"PATH": os.environ["PATH"]}, ready=True)
    with pytest.raises(LabError, match="not installed"):
        system.spawn(["no-such-program"], "thing", log=tmp_path / "log", env={"PATH": os.environ["PATH"]})


def test_servers_serve(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-I", "-S", services.__file__, "--http", f"127.0.0.1:{port}"]
    process = system.spawn(argv, "web", log=tmp_path / "log", env={"PATH": os.environ["PATH"]}, ready=True)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.endswith(services.BODY)
    finally:
        system.kill([process])


def test_run_reports_the_programs_own_words() -> None:
    assert system.run(["echo", "hi"], "greeting") == "hi\n"
    with pytest.raises(LabError, match="greeting: cannot"):
        system.run(["sh", "-c", "echo cannot >&2; exit 3"], "greeting")
    with pytest.raises(LabError, match="did not end"):
        system.run(["sleep", "5"], "waiting", timeout_s=0.05)
    with pytest.raises(LabError, match="not installed"):
        system.run(["no-such-program"], "greeting")


def test_root_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError, match="root"):
        system.require("ip")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(LabError, match="apt-get install no-such-program"):
        system.require("no-such-program")


def test_search_path_puts_its_own_first(tmp_path: Path) -> None:
    for part in ("usr/bin", "usr/sbin", "legacy"):
        (tmp_path / part).mkdir(parents=True)
    path = docker.search_path(tmp_path, tmp_path / "legacy").split(":")
    assert path[:3] == [str(tmp_path / part) for part in ("legacy", "usr/bin", "usr/sbin")]
    assert "/usr/sbin" in path


def test_the_image_is_a_root_file_system() -> None:
    try:
        data = docker.image()
    except LabError as error:
        assert "busybox-static" in str(error)  # noqa: PT017
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("bin/busybox").mode & 0o111
        assert tar.getmember("bin/httpd").linkname == "busybox"
        assert tar.getmember("www/index.html").size > 0


def test_what_belongs_to_a_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(state, "ROOT", tmp_path / "state")
    monkeypatch.setattr(teardown, "NETNS_DIR", tmp_path / "netns")
    monkeypatch.setattr(teardown, "CGROUPS", tmp_path / "cgroup")
    for path in ("state/one", "netns/ntlab-two-host", "netns/other", "cgroup/memory/ntlab-three", "cgroup/ntlab-four"):
        (tmp_path / path).mkdir(parents=True)
    assert teardown.leftovers() == ("four", "one", "three", "two")


def test_ancestors_are_spared() -> None:
    found = list(teardown._ancestors())
    assert found[0] == os.getpid()
    assert os.getppid() in found


def test_which_processes_are_a_labs() -> None:
    folder = "/run/nettrace/lab/x"
    assert teardown._is_ours(["/opt/usr/sbin/dockerd", f"--data-root={folder}/data"])
    assert teardown._is_ours(["/usr/bin/python3", "/lib/nettrace/lab/services.py", "--pidfile", f"{folder}/p"])
    assert not teardown._is_ours(["vim", f"{folder}/state.json"])
    assert not teardown._is_ours([])


def test_shim_sockets_are_read_off_the_bundles(tmp_path: Path) -> None:
    for version, name, text in (
        ("a", "address", "unix:///run/containerd/s/abc"),
        ("b", "bootstrap.json", '{"version":3,"address":"unix:///run/containerd/s/def","protocol":"ttrpc"}'),
        ("c", "address", "unix:///somewhere/else"),
    ):
        bundle = tmp_path / "cd" / "state" / "io.containerd.runtime.v2.task" / "moby" / version
        bundle.mkdir(parents=True)
        (bundle / name).write_text(text)
    assert sorted(str(path) for path in teardown._shim_sockets(tmp_path)) == [
        "/run/containerd/s/abc",
        "/run/containerd/s/def",
    ]


@pytest.mark.parametrize(
    ("words", "where", "argv"),
    [
        (("--", "ip", "a"), "host", ["ip", "a"]),
        (("ip", "a"), "host", ["ip", "a"]),
        (("--in", "web", "--", "ip", "--", "a"), "web", ["ip", "--", "a"]),
        (("--in=inet", "true"), "inet", ["true"]),
        ((), "host", []),
    ],
)
def test_words_of_exec(words: tuple[str, ...], where: str, argv: list[str]) -> None:
    assert lab_command._split(words, "host") == (where, argv)


def test_in_needs_a_place() -> None:
    with pytest.raises(click.UsageError):
        lab_command._split(("--in",), "host")


def test_the_table_of_faults() -> None:
    shown = CliRunner().invoke(lab_command.command, ["faults"])
    assert shown.exit_code == 0
    assert "masquerade-deleted" in shown.output
    assert "docker >= 28" in shown.output
    listed = CliRunner().invoke(lab_command.command, ["faults", "--json"])
    assert '"nat.masquerade-missing"' in listed.output


def test_reading_state_costs_little() -> None:
    script = (
        "import sys, nettrace.lab.state; heavy = {'subprocess', 'click', 'docker', 'scapy', 'pyroute2', 'tabulate'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
