"""Carry out a probe run: the thin loop between the state machine and the sockets.

One thread and one selector; the clock is read here and nowhere else. Namespaces are entered once to open the
source's sockets and once for all captures in each; whatever happens, every socket is closed before this returns.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from nettrace.errors import NamespaceGone
from nettrace.model.observe import (
    Blind,
    Frame,
    Observation,
    Open,
    Receipt,
    Sent,
    Sighting,
    SightingKind,
    Silence,
    Stack,
    Testimony,
)
from nettrace.netns import Netns, run_in
from nettrace.wire.build import build_answer, build_frame, build_neighbour_request, build_probe, foreign_twin
from nettrace.wire.filter import Instruction, capture_filter
from nettrace.wire.link import is_raw_ip
from nettrace.wire.parse import parse_frame
from nettrace.wire.token import RunToken
from probes.builder import BuildProbe
from probes.capture import Capture, CaptureError, Samples, open_capture, prove_filter
from probes.inject import Injector, open_injector
from probes.plan import Ask, Injection, ProbePlan
from probes.points import CaptureSpec
from probes.run import (
    Arm,
    Armed,
    ArmFailed,
    Command,
    Delivered,
    Dropped,
    Event,
    Finish,
    Heard,
    Inject,
    ProbeRun,
    SetTimer,
    Start,
    Taken,
    Tick,
)
from probes.stack import StackEar, open_ear
from probes.witness.drops import Drops
from probes.witness.nftrace import RuleTrace
from probes.witness.session import Witnesses

__all__ = ["run_probe"]

Program = tuple[Instruction, ...]


def run_probe(
    plan: ProbePlan,
    namespaces: Mapping[int, Netns],
    *,
    build: BuildProbe = build_probe,
    meanwhile: Callable[[], None] | None = None,
    armed: Callable[[RunToken], None] | None = None,
) -> Observation:
    """Carry out a plan, and return all that was seen, sent and heard.

    `build` makes the probes. `armed` is called with the run's marks before anything is sent, for those who listen
    elsewhere. `meanwhile` is called once when the last probe is out, to use the time of waiting for
    answers: the captures go on, and the kernel stamps what they hear.

    `namespaces` are the pinned namespaces by inode; a capture whose namespace is not among them, or is gone, is
    Blind. Sightings and frames are in the order of their kernel time stamps, and `Sighting.frame` indexes the
    observation's frames. Raises PrivilegeError without CAP_NET_RAW or CAP_SYS_ADMIN.
    """
    with _Driver(plan, namespaces, build, meanwhile, armed) as driver:
        return driver.run()


def ask_neighbour(ask: Ask) -> None:
    """Send one ARP or NDP request from a device of the calling thread's namespace; raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as out:
        out.bind((ask.device, 0))
        out.send(build_neighbour_request(ask.mac, ask.source, ask.target))


class _Driver:
    """The sockets of one run, and what came out of them."""

    def __init__(
        self,
        plan: ProbePlan,
        namespaces: Mapping[int, Netns],
        build: BuildProbe,
        meanwhile: Callable[[], None] | None,
        armed: Callable[[RunToken], None] | None = None,
    ) -> None:
        self.plan = plan
        self.build = build
        self.meanwhile = meanwhile
        self.armed = armed
        self.namespaces = namespaces
        self.machine = ProbeRun(plan)
        self.token: RunToken = plan.token
        self.injector: Injector | None = None
        self.captures: dict[str, Capture] = {}
        self.ears: list[StackEar] = []
        self.deaf: list[Stack] = []
        self.taken: dict[int, list[Receipt]] = {}
        self.unfinished: set[tuple[int, SightingKind, int | None]] = set()
        self.witnesses: Witnesses | None = None
        self.blind: dict[str, str] = {each.point: each.reason for each in plan.unheard}
        self.sent: list[Sent] = []
        self.heard: list[tuple[Frame, Sighting | None]] = []
        self.deadline_s: float | None = None
        self.finish: Finish | None = None
        self.stack = contextlib.ExitStack()
        self.selector = self.stack.enter_context(selectors.DefaultSelector())

    def __enter__(self) -> _Driver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    def run(self) -> Observation:
        """Feed the machine until it finishes."""
        started_ns = time.time_ns()
        if self.plan.injection is not None:
            self._open_source(self.plan.injection)
        if self.armed is not None and self.injector is not None:
            self.armed(self.token)
        if self.plan.kernel_trace and self.injector is not None and self.injector.refusal is None:
            self._open_witnesses()
        if self.injector is not None and self.injector.refusal is None:
            self._open_ears()
        self._feed([Start(at_s=time.monotonic(), listening=self._listening())])
        while self.finish is None:
            self._wait()
        self._drain(self.captures.values(), feed=False)
        for ear in self.ears:
            self._taken_by(ear)
        ended_ns = time.time_ns()
        if self.witnesses is not None:
            self.witnesses.finish()
        return self._observation(started_ns, ended_ns)

    # -- before ------------------------------------------------------------------------------------------------

    def _open_source(self, injection: Injection) -> None:
        """Open the source's sockets first: the filters need the ports that the kernel gives."""
        namespace = self.namespaces.get(injection.netns)
        if namespace is None:
            return
        try:
            self.injector = run_in(namespace, lambda: open_injector(injection, self.plan.token, self.build))
        except NamespaceGone:  # its captures will say so
            return
        self.stack.callback(self.injector.close)
        self.token = self.injector.token
        if self.injector.refusal is None:
            self.injector.packet(0)

    def _open_witnesses(self) -> None:
        """Ask the kernel to report what it does with the probes, in the thread that sends them."""
        self.witnesses = Witnesses(self.plan.watches, self.namespaces, self.token)
        self.stack.callback(self.witnesses.close)
        self.witnesses.open()
        for source in self.witnesses.sources():
            self.selector.register(source, selectors.EVENT_READ, source)

    def _open_ears(self) -> None:
        """Listen to the stacks at the ends; one that cannot be heard proves nothing by its silence."""
        for netns in self.plan.stacks:
            namespace = self.namespaces.get(netns)
            if namespace is None:
                continue
            try:
                ear = run_in(namespace, partial(open_ear, netns, self.token))
            except (NamespaceGone, OSError) as error:
                self.deaf.append(Stack(netns=netns, reason=f"its stack cannot be listened to: {error}"))
                continue
            self.ears.append(ear)
            self.stack.callback(ear.close)
            self.selector.register(ear, selectors.EVENT_READ, ear)

    def _listening(self) -> bool:
        """Tell whether the source's own stack can be heard."""
        return self.plan.injection is not None and any(ear.netns == self.plan.injection.netns for ear in self.ears)

    def _arm(self, points: Sequence[str]) -> list[Event]:
        """Open the captures, with one visit to each namespace."""
        groups: dict[int, list[CaptureSpec]] = {}
        for spec in self.plan.captures:
            if spec.point in points:
                groups.setdefault(spec.netns, []).append(spec)
        programs = self._programs({spec.arp_type for group in groups.values() for spec in group})
        for netns, specs in groups.items():
            self._open_group(netns, specs, programs)
        now = time.monotonic()
        events: list[Event] = []
        for point in points:
            if point in self.captures:
                self.selector.register(self.captures[point], selectors.EVENT_READ, point)
                events.append(Armed(point=point, at_s=now))
            else:
                events.append(ArmFailed(point=point, reason=self.blind[point], at_s=now))
        return events

    def _open_group(self, netns: int, specs: Sequence[CaptureSpec], programs: Mapping[int, Program | str]) -> None:
        namespace = self.namespaces.get(netns)
        if namespace is None:
            for spec in specs:
                self.blind[spec.point] = f"the namespace of {spec.netns_name} is not held open"
            return
        try:
            run_in(namespace, lambda: self._open_all(specs, programs))
        except NamespaceGone as error:
            for spec in specs:
                self.blind[spec.point] = str(error)

    def _open_all(self, specs: Sequence[CaptureSpec], programs: Mapping[int, Program | str]) -> None:
        """Open captures in the calling thread's namespace."""
        for spec in specs:
            program = programs[spec.arp_type]
            if isinstance(program, str):
                self.blind[spec.point] = program
                continue
            try:
                capture = open_capture(spec, program)
            except CaptureError as error:
                self.blind[spec.point] = str(error)
                continue
            self.captures[spec.point] = capture
            self.stack.callback(capture.close)

    def _programs(self, arp_types: Iterable[int]) -> dict[int, Program | str]:
        """The proven filter for each kind of device, or why there is none."""
        programs: dict[int, Program | str] = {}
        for arp_type in arp_types:
            try:
                program = capture_filter(self.token, arp_type=arp_type, neighbours=self.plan.neighbours)
                samples = self._samples(is_raw_ip(arp_type))
                if samples is not None:
                    prove_filter(program, samples)
            except (CaptureError, ValueError) as error:
                programs[arp_type] = str(error)
            else:
                programs[arp_type] = program
        return programs

    def _samples(self, raw_ip: bool) -> Samples | None:
        """This run's own first probe and its answer, and the same probe of a run with other marks."""
        injector = self.injector
        if injector is None or injector.refusal is not None or injector.source is None:
            return None
        probe = injector.packet(0)
        answer = build_answer(self.token, probe)
        return Samples(
            ours=(build_frame(probe, raw_ip=raw_ip), build_frame(answer, raw_ip=raw_ip)),
            foreign=(build_frame(foreign_twin(self.token, probe), raw_ip=raw_ip),),
        )

    # -- during ------------------------------------------------------------------------------------------------

    def _feed(self, events: Sequence[Event]) -> None:
        """Give events to the machine, carry its commands out, and give it what follows from them."""
        queue = list(events)
        while queue:
            commands = self.machine.handle(queue.pop(0))
            points = [command.point for command in commands if isinstance(command, Arm)]
            if points:
                queue.extend(self._arm(points))
            for command in commands:
                queue.extend(self._carry_out(command))

    def _carry_out(self, command: Command) -> list[Event]:
        match command:
            case Inject():
                return self._inject(command.nonce)
            case SetTimer():
                self.deadline_s = command.at_s
            case Finish():
                self.finish = command
            case Arm():
                pass  # all of them at once, in _arm
        return []

    def _inject(self, nonce: int) -> list[Event]:
        if self.injector is None:
            # Nothing can be sent from a namespace that is not there; the captures in it are blind, and say why.
            self.finish = Finish(timed_out=False)
            return []
        if nonce == 0:
            self._ask()
        sent = self.injector.send(nonce)
        if self.witnesses is not None:
            self.witnesses.sent(sent.at_ns, time.time_ns())
        self.sent.append(sent)
        return [Taken(nonce=nonce, at_s=time.monotonic(), errno=sent.errno)]

    def _ask(self) -> None:
        """Ask for the next hops that the kernel takes for known. What cannot be asked stays as unproven as it was."""
        for ask in self.plan.asks:
            namespace = self.namespaces.get(ask.netns)
            if namespace is not None:
                with contextlib.suppress(OSError, NamespaceGone):
                    run_in(namespace, partial(ask_neighbour, ask))

    def _wait(self) -> None:
        if self.meanwhile is not None and len(self.sent) == self.plan.token.count:
            self.meanwhile()
            self.meanwhile = None
        timeout = None if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())
        ready = self.selector.select(timeout)
        self._drain([self.captures[key.data] for key, _mask in ready if isinstance(key.data, str)], feed=True)
        self._hear_stacks([key.data for key, _mask in ready if isinstance(key.data, StackEar)])
        self._hear_witnesses([key.data for key, _mask in ready if isinstance(key.data, RuleTrace | Drops)])
        now = time.monotonic()
        if self.finish is None and self.deadline_s is not None and now >= self.deadline_s:
            self._feed([Tick(at_s=now)])

    def _hear_stacks(self, ears: Iterable[StackEar]) -> None:
        """Take what stacks took; what the source's took is an answer that has come all the way."""
        for ear in ears:
            answers = [each for each in self._taken_by(ear) if each.kind is not SightingKind.PROBE]
            if self.plan.injection is not None and ear.netns == self.plan.injection.netns and self.finish is None:
                self._feed([Delivered(nonce=each.nonce, at_s=time.monotonic()) for each in answers])

    def _taken_by(self, ear: StackEar) -> list[Receipt]:
        """Keep what a stack took, but for what the protocol behind it throws away for its checksum."""
        fresh = [
            each.receipt
            for each in ear.hear()
            if each.sound or (ear.netns, each.receipt.kind, each.receipt.nonce) in self.unfinished
        ]
        self.taken.setdefault(ear.netns, []).extend(fresh)
        return fresh

    def _hear_witnesses(self, sources: Iterable[RuleTrace | Drops]) -> None:
        """Take what the kernel says; after the captures, so that what was seen before it is known."""
        for source in sources:
            if self.witnesses is not None and self.witnesses.hear(source) and self.finish is None:
                self._feed([Dropped(at_s=time.monotonic())])

    def _drain(self, captures: Iterable[Capture], *, feed: bool) -> None:
        for capture in captures:
            for frame in capture.frames():
                self._take(capture.spec, frame, unfinished=capture.unfinished, feed=feed)

    def _take(self, spec: CaptureSpec, frame: Frame, *, unfinished: bool, feed: bool) -> None:
        parsed = parse_frame(frame.data, arp_type=spec.arp_type, run=self.token)
        if parsed is None:
            self.heard.append((frame, None))
            return
        sighting = Sighting(
            point=frame.point,
            kind=parsed.kind,
            way=frame.way,
            at_ns=frame.at_ns,
            packet=parsed.packet,
            nonce=parsed.nonce,
        )
        self.heard.append((frame, sighting))
        if unfinished:
            self.unfinished.add((spec.netns, sighting.kind, sighting.nonce))
        if feed:
            self._feed([Heard(point=frame.point, way=frame.way, parsed=parsed, at_s=time.monotonic())])

    # -- after -------------------------------------------------------------------------------------------------

    def _observation(self, started_ns: int, ended_ns: int) -> Observation:
        self.heard.sort(key=lambda each: each[0].at_ns)
        sightings = [
            replace(sighting, frame=at) for at, (_frame, sighting) in enumerate(self.heard) if sighting is not None
        ]
        states: dict[str, Open | Blind] = {point: capture.settle() for point, capture in self.captures.items()}
        states.update((point, Blind(point=point, reason=reason)) for point, reason in self.blind.items())
        return Observation(
            captures=tuple(states[point] for point in self._points() if point in states),
            sent=tuple(self.sent),
            sightings=tuple(sightings),
            frames=tuple(frame for frame, _sighting in self.heard),
            timed_out=self.finish is not None and self.finish.timed_out,
            started_ns=started_ns,
            ended_ns=ended_ns,
            secret=self.token.secret,
            sports=self.token.sports,
            testimony=self._testimony(),
            stacks=(
                *(
                    Stack(netns=ear.netns, taken=tuple(self.taken.get(ear.netns, ())), reason=ear.trouble())
                    for ear in self.ears
                ),
                *self.deaf,
            ),
        )

    def _testimony(self) -> Testimony:
        if self.witnesses is not None:
            return self.witnesses.testimony()
        if not self.plan.kernel_trace:
            silence = Silence(witness="kernel-trace", reason="--no-kernel-trace: the kernel was not asked what it did")
            return Testimony(silences=(silence,))
        return Testimony()

    def _points(self) -> list[str]:
        return [each.point for each in self.plan.captures] + [each.point for each in self.plan.unheard]
