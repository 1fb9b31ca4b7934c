"""`nettrace _peer`: the far half of a question that another host's `nettrace path --peer` asks.

Reads and listens on this host, as it is told over its standard input, and ends when that does. It sends no packet,
changes nothing, and holds namespaces and captures no longer than it lives.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from nettrace._version import __version__
from nettrace.errors import InputError, NettraceError
from nettrace.peer.identity import identity
from nettrace.peer.messages import (
    MAGIC,
    PROTOCOL,
    Answer,
    Arm,
    Armed,
    Frames,
    Hello,
    Question,
    Read,
    Refused,
    Report,
    Reported,
    Snap,
    Welcome,
    decode_question,
    encode,
)

if TYPE_CHECKING:
    from nettrace.collect import Collector
    from probes.listen import Listener

#: An asker that says nothing for so long is gone, whatever its connection pretends.
IDLE_S = 300.0


@click.command(hidden=True)
def command() -> int:
    """Answer the questions of a nettrace on another host, over standard input and output."""
    # Whatever prints must not print into the conversation.
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        os.set_inheritable(out, False)
        Session(lambda data: _write(out, data)).serve(0)
    finally:
        os.close(out)
    return 0


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Session:
    """One conversation."""

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self._say = say
        self._collector: Collector | None = None
        self._listener: Listener | None = None
        self._armed = False

    def serve(self, source: int) -> None:
        """Answer until the other side closes, says nonsense, or nothing."""
        frames = Frames()
        self._say(MAGIC)
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    body = frames.next()
                    if body is None:
                        data = self._wait(source)
                        if not data:
                            return
                        frames.feed(data)
                        continue
                    answer = self.answer(decode_question(body), stack)
                except InputError as error:
                    self._say(encode(Refused(reason=str(error))))
                    return
                except NettraceError as error:
                    answer = Refused(reason=str(error))
                except OSError as error:
                    answer = Refused(reason=f"the system there refuses: {error.strerror or error}")
                self._say(encode(answer))

    def _wait(self, source: int) -> bytes:
        """Return what comes next, nothing at the end; keeps the captures empty meanwhile."""
        deadline = time.monotonic() + IDLE_S
        while time.monotonic() < deadline:
            ready, _, _ = select.select([source], [], [], 0.2 if self._armed else deadline - time.monotonic())
            if self._listener is not None and self._armed:
                self._listener.drain()
            if ready:
                return os.read(source, 1 << 18)
        return b""

    def answer(self, question: Question, stack: contextlib.ExitStack) -> Answer:
        """Answer one question."""
        match question:
            case Hello():
                return self._greet(question)
            case Read():
                return self._read(question, stack)
            case Arm():
                return self._arm(question, stack)
            case Report():
                return self._report()

    @staticmethod
    def _greet(question: Hello) -> Answer:
        from nettrace.commands.path import be_polite, check_capabilities

        if question.protocol != PROTOCOL:
            return Refused(reason=f"nettrace {__version__} is installed there, which speaks another dialect")
        check_capabilities(predict_only=False)
        be_polite()
        boot, netns = identity()
        return Welcome(version=__version__, now_ns=time.time_ns(), boot=boot, netns=netns)

    def _read(self, question: Read, stack: contextlib.ExitStack) -> Answer:
        if self._collector is None:
            from nettrace.collect import Collector

            self._collector = stack.enter_context(Collector())
        collector = self._collector
        if question.flow is None:
            return Snap(snapshot=collector.snapshot())
        collector.attend(question.flow)
        collector.read(collector.host.inode)
        if question.networks:
            collector.read_hidden(question.networks)
        wanted = set(question.containers)
        for container in collector.intent().containers:
            if container.id in wanted:
                collector.read_container(container)
        for netns in question.netns:
            collector.read(netns)
        return Snap(snapshot=collector.snapshot())

    def _arm(self, question: Arm, stack: contextlib.ExitStack) -> Answer:
        from probes.listen import Listener
        from probes.points import capture_spec

        if self._collector is None:
            return Refused(reason="nothing was read yet")
        if self._listener is None:
            self._listener = Listener()
            stack.callback(self._listener.close)
        snapshot = self._collector.snapshot()
        held = {}
        for netns in {point.netns for point in question.points}:
            with contextlib.suppress(NettraceError):  # the capture will say that it is not there
                held[netns] = self._collector.netns(netns)
        specs = [capture_spec(point, snapshot) for point in question.points]
        self._listener.arm(specs, question.token, held, question.neighbours)
        self._armed = True
        return Armed()

    def _report(self) -> Answer:
        if self._collector is None or self._listener is None:
            return Refused(reason="nothing was listened to")
        self._armed = False
        observation = self._listener.finish()
        return Reported(observation=observation, after=self._collector.read_after())
