"""Build the probes in a process of their own, which imports Scapy while this one reads the kernel.

Importing Scapy takes longer than everything else that a run does, and needs nothing of what the run finds out first.
The child holds no socket but the one to its parent, touches nothing, and ends with it, however the parent ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn

from nettrace.wire.build import build_probe, preload

__all__ = ["BuildProbe", "Builder"]

#: Has the signature of `nettrace.wire.build.build_probe`.
BuildProbe = Callable[..., bytes]

_LENGTH = struct.Struct("=I")


class Builder:
    """A child process that builds probes; where there can be none, they are built here.

    Start it before any thread: a fork copies the calling thread alone, and every lock as it is. `build` has the
    arguments of `nettrace.wire.build.build_probe`, and raises what that raises.
    """

    def __init__(self) -> None:
        self._pid: int | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Builder:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the child. Without one (no process to be had, Scapy loaded already) `build` works all the same."""
        if "scapy.layers.inet" in sys.modules or (os.cpu_count() or 1) < 2:
            return
        ours, theirs = socket.socketpair()
        with contextlib.suppress(OSError):
            pid = os.fork()
            if pid == 0:
                ours.close()
                _serve(theirs)
            self._pid, self._socket = pid, ours
        theirs.close()
        if self._socket is None:
            ours.close()

    def close(self) -> None:
        """End the child; closing twice is harmless."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pid is not None:
            # It may be in the middle of an import, and has nothing to put away.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            self._pid = None

    def build(self, *args: Any, **kwargs: Any) -> bytes:
        """Return a probe; see `nettrace.wire.build.build_probe`."""
        if self._socket is not None:
            try:
                _send(self._socket, (args, kwargs))
                answer = _receive(self._socket)
            except (OSError, EOFError):  # it was killed; what it does can be done here
                self.close()
            else:
                if isinstance(answer, Exception):
                    raise answer
                assert isinstance(answer, bytes)
                return answer
        return build_probe(*args, **kwargs)


def _serve(channel: socket.socket) -> NoReturn:
    """Import, then build what is asked for until the parent is gone. Never returns into the parent's code."""
    try:
        # Ctrl-C goes to the whole group: the parent's end is what ends this process.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        preload()
        while True:
            args, kwargs = _receive(channel)
            _send(channel, _built(args, kwargs))
    except BaseException:
        os._exit(1)


def _built(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | Exception:
    try:
        return build_probe(*args, **kwargs)
    except ValueError as error:
        return error


def _send(channel: socket.socket, value: object) -> None:
    data = pickle.dumps(value)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def _receive(channel: socket.socket) -> Any:
    """Read one value; raises EOFError when the other side is gone. Both sides are this program."""
    (size,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
    return pickle.loads(_read(channel, size))


def _read(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
