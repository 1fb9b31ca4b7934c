"""What two nettraces say to each other: frames of JSON over a pipe, a question and an answer at a time.

A frame is its length (4 bytes, big-endian) and that many bytes of JSON. The one that is asked says `MAGIC` first, so
that whatever a login shell prints before it is told apart. Namespaces are named by the inodes of the host that is
spoken to; what they are called elsewhere is the asker's business.
"""

from __future__ import annotations

import msgspec

from nettrace.errors import InputError
from nettrace.model.base import IPAddress, Model, from_json, to_json
from nettrace.model.flow import Flow
from nettrace.model.observe import Observation
from nettrace.model.path import Point
from nettrace.model.snapshot import Snapshot
from nettrace.wire.token import RunToken

__all__ = [
    "MAGIC",
    "MAX_FRAME",
    "PROTOCOL",
    "Answer",
    "Arm",
    "Armed",
    "Frames",
    "Hello",
    "Question",
    "Read",
    "Refused",
    "Report",
    "Reported",
    "Snap",
    "Welcome",
    "decode_answer",
    "decode_question",
    "encode",
]

PROTOCOL = 1
MAGIC = b"nettrace-peer/1\n"
#: A snapshot of a host with many rules has a few MB.
MAX_FRAME = 256 << 20
_LENGTH = 4


class Hello(Model, tag="hello", tag_field="is"):
    """The first question: who is there?"""

    version: str
    protocol: int = PROTOCOL


class Read(Model, tag="read", tag_field="is"):
    """Read the host's namespace, and those named: by inode, by container id, by network id (hidden overlay ones).

    Without a flow, read no namespace: the engines' word alone is wanted.
    """

    flow: Flow | None = None
    netns: tuple[int, ...] = ()
    containers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


class Arm(Model, tag="arm", tag_field="is"):
    """Listen at these points for the packets of a run. `neighbours`: whose ARP and NDP is wanted too."""

    points: tuple[Point, ...]
    token: RunToken
    neighbours: tuple[IPAddress, ...] = ()


class Report(Model, tag="report", tag_field="is"):
    """Stop listening, say what was heard, and read again what a probe may have changed."""


class Welcome(Model, tag="welcome", tag_field="is"):
    """The answer to Hello. `now_ns` is the clock there, ns since the epoch.

    `boot` and `netns` tell whether it is another host at all: the kernel's boot id, and the inode of its namespace.
    """

    version: str
    now_ns: int
    boot: str = ""
    netns: int = 0


class Refused(Model, tag="refused", tag_field="is"):
    """The answer to whatever cannot be done: why."""

    reason: str


class Snap(Model, tag="snap", tag_field="is"):
    """The answer to Read: everything read so far."""

    snapshot: Snapshot


class Armed(Model, tag="armed", tag_field="is"):
    """The answer to Arm: the captures are open, or are Blind and will say why."""


class Reported(Model, tag="reported", tag_field="is"):
    """The answer to Report."""

    observation: Observation
    after: Snapshot | None = None


Question = Hello | Read | Arm | Report
Answer = Welcome | Refused | Snap | Armed | Reported


def encode(message: Question | Answer) -> bytes:
    """Return a message as a frame."""
    data = to_json(message)
    return len(data).to_bytes(_LENGTH, "big") + data


def decode_question(data: bytes) -> Question:
    """Return the question in a frame's body; raises InputError."""
    return _decode(data, Question)  # type: ignore[arg-type, return-value]


def decode_answer(data: bytes) -> Answer:
    """Return the answer in a frame's body; raises InputError."""
    return _decode(data, Answer)  # type: ignore[arg-type, return-value]


def _decode(data: bytes, kind: type[object]) -> object:
    try:
        return from_json(data, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"a message that makes no sense: {error}") from error


class Frames:
    """Bytes in, whole frames out. With `magic`, everything before it is skipped."""

    #: How much may be printed before the magic.
    MAX_NOISE = 1 << 16

    def __init__(self, magic: bytes = b"") -> None:
        self._buffer = bytearray()
        self._magic = magic

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        self._buffer += data

    @property
    def begun(self) -> bool:
        """Tell whether the magic has been seen."""
        return not self._magic

    def next(self) -> bytes | None:
        """Return the next frame's body, None while it is incomplete; raises InputError for what is no frame."""
        if self._magic:
            at = self._buffer.find(self._magic)
            if at < 0:
                if len(self._buffer) > self.MAX_NOISE:
                    raise InputError("what answers there is not nettrace")
                return None
            del self._buffer[: at + len(self._magic)]
            self._magic = b""
        if len(self._buffer) < _LENGTH:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH], "big")
        if length > MAX_FRAME:
            raise InputError(f"a message of {length} bytes is announced, more than any has")
        if len(self._buffer) < _LENGTH + length:
            return None
        body = bytes(self._buffer[_LENGTH : _LENGTH + length])
        del self._buffer[: _LENGTH + length]
        return body
