"""nettrace at the far end of a connection: what is said, and every way in which it may not be there.

A program of the test's own takes ssh's place (NETTRACE_SSH) and runs the far command here.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nettrace.peer.ssh
from nettrace._version import __version__
from nettrace.cli import main
from nettrace.errors import InputError, PeerError, UsageError
from nettrace.model.snapshot import Host, Snapshot
from nettrace.peer.identity import identity
from nettrace.peer.messages import (
    MAGIC,
    Frames,
    Hello,
    Read,
    Refused,
    Snap,
    Welcome,
    decode_answer,
    decode_question,
    encode,
)
from nettrace.peer.ssh import PeerAddress, Remote, parse_peer, ssh_command

ROOT = Path(__file__).parents[2]
B = PeerAddress(name="b", target="root@b")

Place = Callable[[str], None]


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return a function that puts a shell script where the far host's nettrace is looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    ssh = tmp_path / "ssh"
    # Like ssh: all that follows "--" and the host is the command, for a shell.
    ssh.write_text(
        f'#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift 2\n'
        f"PATH={folder}:/usr/bin:/bin\nexport PATH HOME=/nowhere\n"
        'exec sh -c "$*"\n'
    )
    ssh.chmod(0o755)
    sudo = folder / "sudo"
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("NETTRACE_SSH", str(ssh))

    def put(script: str) -> None:
        program = folder / "nettrace"
        program.write_text(script)
        program.chmod(0o755)

    return put


def talk(*messages: bytes) -> str:
    """Return a script that says these bytes, and then waits until nobody listens."""
    said = "".join(f"\\{byte:03o}" for message in messages for byte in message)
    return f"#!/bin/sh\nprintf '%b' '{said.replace(chr(92), chr(92) + '0')}'\nexec cat >/dev/null\n"


def greet() -> Remote:
    remote = Remote(B)
    try:
        remote.greet()
    finally:
        remote.close()
    return remote


@pytest.mark.parametrize(
    ("text", "target", "port"),
    [
        ("b=ssh://root@203.0.113.3:2222", "root@203.0.113.3", 2222),
        ("node-2=ssh://db.example.org", "db.example.org", None),
        ("b=ssh://[2001:db8::3]:22/", "2001:db8::3", 22),
    ],
)
def test_a_peer_is_a_name_and_an_address(text: str, target: str, port: int | None) -> None:
    found = parse_peer(text)
    assert (found.target, found.port) == (target, port)


@pytest.mark.parametrize(
    "text",
    [
        "b", "ssh://b", "=ssh://b", "b=b", "b=http://b", "b=ssh://", "b=ssh://b:99999", "b=ssh://b/path", "b c=ssh://b",
        "host=ssh://b", "container=ssh://b", "b=ssh://root:secret@b", "b=ssh://-oProxyCommand=x", "b=ssh://-l@b",
        "b:x=ssh://b",
    ],
)  # fmt: skip
def test_what_is_no_peer_is_told_so(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_peer(text)
    assert "--peer" in str(error.value)


def test_the_users_own_ssh_is_used_and_never_asks() -> None:
    command = ssh_command(PeerAddress(name="b", target="me@b", port=2222), {"NETTRACE_SSH": "ssh -F 'my config'"})
    assert command[:3] == ["ssh", "-F", "my config"]
    assert "BatchMode=yes" in command
    assert command[command.index("-p") + 1] == "2222"
    assert command[-2] == "me@b"
    assert ssh_command(B, {})[0] == "ssh"


def test_it_greets_past_whatever_a_login_prints(far: Place) -> None:
    welcome = encode(Welcome(version=__version__, now_ns=time.time_ns() + 5_000_000_000))
    far(talk(b"Welcome to b!\nLast login: never\n", MAGIC, welcome, welcome))
    remote = greet()
    assert 4_000_000_000 < remote.clock.offset_ns <= 5_000_000_000


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (talk(MAGIC, encode(Welcome(version="0.0.1", now_ns=1))), "0.0.1 is installed there"),
        (talk(MAGIC, encode(Refused(reason="nettrace path lacks CAP_SYS_ADMIN"))), "CAP_SYS_ADMIN"),
        (talk(MAGIC, b"\0\0\0\2{}"), "makes no sense"),
        (talk(MAGIC, b"\xff\xff\xff\xff"), "bytes is announced"),
        (talk(b"x" * 70_000), "not nettrace"),
        ("#!/bin/sh\nexit 0\n", "has hung up"),
        ("#!/bin/sh\necho 'no such command: _peer' >&2\nexit 2\n", "no such command"),
    ],
    ids=["another version", "no privilege", "nonsense", "too long", "noise", "hung up", "too old"],
)
def test_a_far_nettrace_that_is_of_no_use_says_why(far: Place, script: str, reason: str) -> None:
    far(script)
    with pytest.raises(PeerError) as error:
        greet()
    assert reason in str(error.value)


def test_a_peer_that_is_this_very_host_is_refused(far: Place) -> None:
    boot, netns = identity()
    far(talk(MAGIC, encode(Welcome(version=__version__, now_ns=1, boot=boot, netns=netns))))
    with pytest.raises(PeerError, match="this very host"):
        greet()


def test_without_nettrace_there_it_says_what_to_install(far: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    with pytest.raises(PeerError) as error:
        greet()
    assert "there is no nettrace there" in str(error.value)


def test_silence_is_waited_for_no_longer_than_told(far: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nettrace.peer.ssh, "HELLO_S", 0.3)
    far("#!/bin/sh\nexec cat >/dev/null\n")
    with pytest.raises(PeerError) as error:
        greet()
    assert "does not answer" in str(error.value)


def test_without_ssh_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETTRACE_SSH", "/nowhere/ssh")
    with pytest.raises(PeerError, match="install OpenSSH"):
        Remote(B)


@pytest.mark.skipif(os.geteuid() != 0, reason="reads the namespaces of containers: needs root")
def test_the_real_far_half_answers_and_ends_with_its_input(far: Place) -> None:
    # In a network namespace of its own it is another host.
    words = f'exec unshare --net {sys.executable} -m nettrace "$@"'
    far(f"#!/bin/sh\nPYTHONPATH={ROOT} DOCKER_HOST=unix:///nowhere {words}\n")
    remote = Remote(B)
    try:
        remote.greet()
        answer = remote.ask(Read())
    finally:
        remote.close()
    assert isinstance(answer, Snap)
    assert answer.snapshot.namespaces == ()
    assert abs(remote.clock.offset_ns) < 2_000_000_000
    assert remote._child.returncode == 0


def test_messages_come_through_in_any_pieces() -> None:
    snapshot = Snapshot(host=Host(kernel="6.1"), host_netns=1, namespaces=())
    data = b"motd\n" + MAGIC + encode(Snap(snapshot=snapshot)) + encode(Refused(reason="no"))
    for size in (1, 3, 7, len(data)):
        frames, found = Frames(MAGIC), []
        for at in range(0, len(data), size):
            frames.feed(data[at : at + size])
            while (body := frames.next()) is not None:
                found.append(decode_answer(body))
        assert found == [Snap(snapshot=snapshot), Refused(reason="no")]


def test_an_answer_is_no_question() -> None:
    assert decode_question(encode(Hello(version="1"))[4:]) == Hello(version="1")
    with pytest.raises(InputError):
        decode_question(encode(Refused(reason="no"))[4:])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--peer", "b=ssh://b", "--peer", "b=ssh://c"], "two peers are called b"),
        (["--peer", "b=ssh://b", "--redact", "--bundle", "/nowhere/x.tar.gz"], "leave one of the two out"),
        (["--peer", "b"], "NAME=ssh://"),
    ],
)
def test_options_that_make_no_sense_together(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["path", "web", "b:db", *options]) == 2
    assert reason in capsys.readouterr().err
