"""The course of one probe run as a state machine: events in, commands out, no socket and no clock.

Invariants: nothing is injected before every capture is armed or has failed; every probe is sent once; after Finish
no command follows. Times are seconds of whatever monotonic clock the driver reads.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from nettrace.model.base import Model
from nettrace.model.observe import SightingKind, Way
from nettrace.wire.parse import Parsed
from probes.plan import ProbePlan

__all__ = [
    "Arm",
    "ArmFailed",
    "Armed",
    "Command",
    "Delivered",
    "Dropped",
    "Event",
    "Finish",
    "Heard",
    "Inject",
    "ProbeRun",
    "SetTimer",
    "Start",
    "Taken",
    "Tick",
]


class Start(Model):
    """Begin. `listening` is true when the source's own stack can be heard taking what comes back."""

    at_s: float
    listening: bool = False


class Armed(Model):
    """The capture at a point is proven alive."""

    point: str
    at_s: float


class ArmFailed(Model):
    """The capture at a point could not be opened or proven, or died: its silence means nothing."""

    point: str
    reason: str
    at_s: float


class Taken(Model):
    """The kernel took a probe (`errno` None) or refused it."""

    nonce: int
    at_s: float
    errno: int | None = None


class Heard(Model):
    """A packet of the run was heard at a point."""

    point: str
    way: Way
    parsed: Parsed
    at_s: float


class Delivered(Model):
    """The source's own stack took an answer."""

    nonce: int | None
    at_s: float


class Dropped(Model):
    """The kernel said that a packet was thrown away, and all that points to it is one of ours."""

    at_s: float


class Tick(Model):
    """The timer ran out."""

    at_s: float


class Arm(Model):
    """Open the capture at a point, and prove it."""

    point: str


class Inject(Model):
    """Send a probe."""

    nonce: int


class SetTimer(Model):
    """Send a Tick at that time, instead of whatever was asked before."""

    at_s: float


class Finish(Model):
    """Stop listening. `timed_out` is true when some probe had no decisive end, and silence was taken for one."""

    timed_out: bool


Event: TypeAlias = Start | Armed | ArmFailed | Taken | Heard | Delivered | Dropped | Tick
Command: TypeAlias = Arm | Inject | SetTimer | Finish

#: After the kernel's word that it dropped a packet, this long is listened for what goes on all the same.
DROP_SETTLE_S = 0.02
#: Of several probes some were answered: the others are waited for a few round trips, but no shorter than this.
LEAST_WAIT_S = 0.2
RTT_FACTOR = 5

_ASKED = (SightingKind.ARP_REQUEST, SightingKind.NDP_SOLICIT)
_TOLD = (SightingKind.ARP_REPLY, SightingKind.NDP_ADVERT)
#: An ICMP redirect (RFC 792) says that a better way exists; the packet itself went on.
_REDIRECT = 5


class ProbeRun:
    """One run: `handle` takes an event and returns the commands that follow from it."""

    def __init__(self, plan: ProbePlan) -> None:
        self._plan = plan
        self._expect = plan.expectation
        self._count = plan.token.count
        self._pending: set[str] = set()
        self._deaf: set[str] = {each.point for each in plan.unheard}
        self._sent = 0
        self._sent_at = 0.0
        self._taken_at: dict[int, float] = {}
        self._decided: set[int] = set()
        self._forward: dict[int, set[str]] = {}
        self._reply: dict[int, set[str]] = {}
        self._listening = False
        self._home: set[int] = set()
        self._delivered: set[int] = set()
        self._last_heard = 0.0
        self._asked_at: float | None = None
        self._contradicted = False
        self._dropped_at: float | None = None
        self._rtt: float = 0.0
        self._finished = False

    def handle(self, event: Event) -> list[Command]:
        """Take one event, and return the commands to carry out, in order."""
        if self._finished:
            return []
        match event:
            case Start():
                return self._start(event)
            case Armed():
                self._pending.discard(event.point)
                return self._inject_when_ready()
            case ArmFailed():
                return self._fail(event)
            case Taken():
                return self._take(event)
            case Heard():
                return self._hear(event)
            case Delivered():
                if event.nonce is not None:
                    self._delivered.add(event.nonce)
                return self._settle(event.nonce, event.at_s)
            case Dropped():
                self._dropped_at = event.at_s
                return self._next(event.at_s)
            case Tick():
                return self._tick(event)
            case _:
                assert_never(event)

    def _start(self, event: Start) -> list[Command]:
        self._last_heard = event.at_s
        self._listening = event.listening
        if self._plan.injection is None:
            return self._finish(timed_out=False)
        self._pending = {each.point for each in self._plan.captures}
        commands: list[Command] = [Arm(point=each.point) for each in self._plan.captures]
        return commands or self._inject_when_ready()

    def _fail(self, event: ArmFailed) -> list[Command]:
        """Count a point out: before the first probe it no longer delays it, later it no longer settles anything."""
        self._deaf.add(event.point)
        if event.point not in self._pending:
            return []
        self._pending.discard(event.point)
        return self._inject_when_ready()

    def _inject_when_ready(self) -> list[Command]:
        return [Inject(nonce=0)] if not self._pending and not self._sent else []

    def _take(self, event: Taken) -> list[Command]:
        self._sent = event.nonce + 1
        self._sent_at = self._taken_at[event.nonce] = event.at_s
        self._last_heard = max(self._last_heard, event.at_s)
        if event.errno is not None:
            self._decided.add(event.nonce)
        return self._next(event.at_s)

    def _hear(self, event: Heard) -> list[Command]:
        kind, nonce = event.parsed.kind, event.parsed.nonce
        self._last_heard = event.at_s
        if kind in _ASKED and event.parsed.packet.dst == self._expect.neighbour:
            self._asked_at = event.at_s if self._asked_at is None else self._asked_at
        elif kind in _TOLD and event.parsed.packet.src == self._expect.neighbour:
            self._contradicted = True
        if nonce is None:
            return self._next(event.at_s)
        if kind is SightingKind.PROBE:
            self._forward.setdefault(nonce, set()).add(event.point)
            self._contradicted |= event.point not in self._expect.forward
        elif kind is SightingKind.REPLY:
            self._reply.setdefault(nonce, set()).add(event.point)
            self._contradicted |= event.point not in self._expect.reply
        came_back = kind is not SightingKind.PROBE and event.parsed.packet.icmp_type != _REDIRECT
        if came_back and event.way is Way.IN and event.point in self._expect.home:
            self._home.add(nonce)
            self._rtt = max(self._rtt, event.at_s - self._taken_at.get(nonce, event.at_s))
            if kind is SightingKind.ICMP_ERROR:
                # No socket of the probe's protocol hears of it.
                self._delivered.add(nonce)
        return self._settle(nonce, event.at_s)

    def _settle(self, nonce: int | None, now_s: float) -> list[Command]:
        """Count a probe as decided once its answer is back at the source, and its stack has it, if that can be heard.

        An answer that is back and is not taken may have been thrown away behind the device: that takes its time.
        """
        if nonce in self._home and (not self._listening or nonce in self._delivered):
            self._decided.add(nonce)
        return self._next(now_s)

    def _tick(self, event: Tick) -> list[Command]:
        if self._sent == 0:
            return []
        if self._sent < self._count and event.at_s >= self._next_send_s():
            return [Inject(nonce=self._sent)]
        if self._sent == self._count and event.at_s >= self._deadline_s():
            return self._finish(timed_out=True)
        return self._next(event.at_s)

    def _next(self, now_s: float) -> list[Command]:
        """What to wait for now: the next probe's turn, an early end, or the end of the time."""
        if not self._sent:
            return []
        if self._sent < self._count:
            return [SetTimer(at_s=self._next_send_s())]
        if len(self._decided) == self._count:
            return self._finish(timed_out=False)
        return [SetTimer(at_s=self._deadline_s())]

    def _next_send_s(self) -> float:
        spacing = self._plan.injection.spacing_s if self._plan.injection is not None else 0.0
        return self._sent_at + spacing

    def _deadline_s(self) -> float:
        deadline = self._sent_at + self._wait_s()
        if self._silence_answers():
            deadline = min(deadline, self._last_heard + self._expect.settle_s)
        if self._dropped_at is not None and self._something_is_missing():
            # The kernel's word takes the place of silence, once nothing moves any more. Where the model has said the
            # same, there is nothing left to wait for.
            quiet_s = 0.0 if self._expect.stops and self._silence_answers() else DROP_SETTLE_S
            deadline = min(deadline, max(self._dropped_at, self._last_heard) + quiet_s)
        return deadline

    def _wait_s(self) -> float:
        """How long an answer is waited for: once answers came, a few times as long as they took."""
        if not self._rtt:
            return self._plan.timeout_s
        return min(self._plan.timeout_s, max(LEAST_WAIT_S, RTT_FACTOR * self._rtt))

    def _something_is_missing(self) -> bool:
        """Tell whether a probe without an answer is missing where the model expects it inside this host.

        The kernel also drops copies (frames flooded to other ports of a bridge); what is everywhere it should be, and
        now in somebody else's hands, was none.
        """
        expect = self._expect
        forward, reply = set(expect.forward) - self._deaf, set(expect.reply) - self._deaf
        for nonce in range(self._count):
            if nonce in self._decided:
                continue
            if nonce in self._home:
                return True
            heard, back = self._forward.get(nonce, set()), self._reply.get(nonce, set())
            if not forward <= heard:
                return True
            if (back or expect.inside) and not (reply and reply <= back):
                return True
        # The model lets the packet no further than this.
        return expect.stops

    def _silence_answers(self) -> bool:
        """Tell whether all that the model expects was heard, nothing that contradicts it, and no more is to come."""
        expect = self._expect
        if not expect.settles or self._contradicted:
            return False
        if expect.neighbour is not None and self._asked_at is None:
            return False
        forward, reply = set(expect.forward) - self._deaf, set(expect.reply) - self._deaf
        return all(
            forward <= self._forward.get(nonce, set()) and reply <= self._reply.get(nonce, set())
            for nonce in range(self._count)
            if nonce not in self._decided
        )

    def _finish(self, *, timed_out: bool) -> list[Command]:
        self._finished = True
        return [Finish(timed_out=timed_out)]
