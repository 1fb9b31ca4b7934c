"""nettrace on another host, at the far end of an ssh connection.

OpenSSH's own client is used, with the user's own configuration, keys and known hosts; it never asks for anything
(BatchMode). `NETTRACE_SSH` names another command in its place, as GIT_SSH_COMMAND does for git. On the far side
`nettrace _peer` is started, by sudo -n where the user is not root. It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import SplitResult, urlsplit

from nettrace._version import __version__
from nettrace.errors import InputError, PeerError, UsageError
from nettrace.model.base import Model
from nettrace.peer.identity import identity
from nettrace.peer.join import Clock
from nettrace.peer.messages import (
    MAGIC,
    PROTOCOL,
    Answer,
    Frames,
    Hello,
    Question,
    Refused,
    Welcome,
    decode_answer,
    encode,
)

__all__ = ["PeerAddress", "Remote", "parse_peer", "ssh_command"]

CONNECT_S = 10
HELLO_S = 20.0
ANSWER_S = 60.0
#: What the far shell runs. A shell without login has a short PATH; pip's and pipx's folders are often not in it.
#: Where it is in none, it may lie where this one does.
REMOTE = (
    'PATH="$PATH:/usr/local/bin:$HOME/.local/bin"; export PATH; N=$(command -v nettrace) || N={here}; '
    'if [ "$(id -u)" = 0 ]; then exec "$N" _peer; else exec sudo -n "$N" _peer; fi'
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RESERVED = ("host", "container", "netns", "pid", "pod")


class PeerAddress(Model):
    """Another host as --peer names it. `target` is what ssh takes: user@host, or host."""

    name: str
    target: str
    port: int | None = None


def parse_peer(text: str) -> PeerAddress:
    """Turn NAME=ssh://[user@]host[:port] into an address; raises UsageError with what is wrong."""
    name, equals, url = text.partition("=")
    usage = f"--peer {text} makes no sense: say NAME=ssh://user@host or NAME=ssh://user@host:port"
    if not equals or not _NAME.fullmatch(name):
        raise UsageError(usage)
    if name in _RESERVED:
        raise UsageError(f"--peer cannot be called {name}, which means something else already: choose another name")
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{usage} ({error})") from error
    if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError(usage)
    if parts.password is not None:
        raise UsageError(f"--peer {name} carries a password: ssh takes keys, see ssh-keygen(1)")
    user, host = parts.username or "", parts.hostname
    if host.startswith("-") or user.startswith("-"):
        raise UsageError(usage)
    return PeerAddress(name=name, target=f"{user}@{host}" if user else host, port=port)


def ssh_command(address: PeerAddress, environment: Mapping[str, str]) -> list[str]:
    """Return the command that starts nettrace on another host."""
    try:
        program = shlex.split(environment.get("NETTRACE_SSH") or "ssh")
    except ValueError as error:
        raise UsageError(f"NETTRACE_SSH is not a command line: {error}") from error
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ServerAliveInterval=5"]
    port = ["-p", str(address.port)] if address.port is not None else []
    command = REMOTE.replace("{here}", shlex.quote(str(Path(sys.prefix, "bin", "nettrace"))))
    return [*program, *options, *port, "--", address.target, f"sh -c {shlex.quote(command)}"]


class Remote:
    """One connection. It is opened at once and used later, so that several can be on their way together."""

    def __init__(self, address: PeerAddress) -> None:
        """Start ssh; raises PeerError when there is no such program."""
        self.address = address
        self.clock = Clock(0, 0)
        self._frames = Frames(MAGIC)
        self._said = TemporaryFile()  # noqa: SIM115 - closed in close()
        command = ssh_command(address, os.environ)
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True
            )
        except OSError as error:
            self._said.close()
            raise PeerError(f"{command[0]} cannot be started ({error.strerror}): install OpenSSH's client") from error
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in, self._out = self._child.stdin.fileno(), self._child.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def greet(self) -> None:
        """Find out who answers; raises PeerError when nobody does, or somebody that cannot be talked to."""
        sent = time.time_ns()
        answer = self.ask(Hello(version=__version__, protocol=PROTOCOL), timeout_s=HELLO_S)
        came = time.time_ns()
        if not isinstance(answer, Welcome):
            raise PeerError("nettrace there gives an answer that was not asked for")
        if answer.version != __version__:
            raise PeerError(f"nettrace {answer.version} is installed there and {__version__} here: make them the same")
        boot, netns = identity()
        if answer.boot and (answer.boot, answer.netns) == (boot, netns):
            raise PeerError("it is this very host, which is asked anyway: leave this --peer out")
        # The first exchange waited for a login; the clock is asked for once more.
        sent = time.time_ns()
        answer = self.ask(Hello(version=__version__, protocol=PROTOCOL), timeout_s=ANSWER_S)
        came = time.time_ns()
        if isinstance(answer, Welcome):
            self.clock = Clock(answer.now_ns - (sent + came) // 2, (came - sent) // 2)

    def ask(self, question: Question, *, timeout_s: float = ANSWER_S) -> Answer:
        """Ask, and return the answer; raises PeerError when it does not come in time, or is a refusal."""
        deadline = time.monotonic() + timeout_s
        self._send(memoryview(encode(question)), deadline)
        try:
            answer = decode_answer(self._receive(deadline))
        except InputError as error:
            raise PeerError(f"nettrace there cannot be understood: {error}") from error
        if isinstance(answer, Refused):
            raise PeerError(answer.reason)
        return answer

    def _send(self, data: memoryview, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_WRITE)
            while data:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise PeerError(self._complaint("does not read what it is asked"))
                try:
                    data = data[os.write(self._in, data) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise PeerError(self._complaint("has hung up")) from error

    def _receive(self, deadline: float) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while (body := self._frames.next()) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise PeerError(self._complaint("does not answer"))
                try:
                    data = os.read(self._out, 1 << 18)
                except BlockingIOError:
                    continue
                if not data:
                    raise PeerError(self._complaint("has hung up"))
                self._frames.feed(data)
        return body

    def _complaint(self, what: str) -> str:
        """Say why a connection is of no use: in ssh's own words, where it has any."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(0.5)
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read(1 << 16).decode(errors="replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith("Warning: Permanently added")]
        said = lines[-1] if lines else f"ssh {self.address.target} {what}"
        if self._child.returncode == 127 or "not found" in said:
            return f"there is no nettrace there ({said}): install the same version for the user who logs in"
        return f"{said} (ssh {self.address.target})" if lines else said

    def close(self) -> None:
        """Let the far side end, and ssh with it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        self._child.stdout.close()
        try:
            self._child.wait(2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._said.close()
