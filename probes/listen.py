"""Listen for a run whose probes another host sends: captures alone, nothing is injected, nothing is traced."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from nettrace.errors import NamespaceGone
from nettrace.model.base import IPAddress
from nettrace.model.observe import Blind, Frame, Observation, Open, Sighting
from nettrace.netns import Netns, run_in
from nettrace.wire.filter import Instruction, capture_filter
from nettrace.wire.parse import parse_frame
from nettrace.wire.token import RunToken
from probes.capture import Capture, CaptureError, open_capture
from probes.points import CaptureSpec

__all__ = ["Listener"]


class Listener:
    """Captures that are open from `arm` until `finish`; `close` always."""

    def __init__(self) -> None:
        self._captures: dict[str, Capture] = {}
        self._blind: dict[str, str] = {}
        self._token: RunToken | None = None
        self._started_ns = 0
        self._heard: list[tuple[Frame, Sighting | None]] = []

    def arm(
        self,
        specs: Sequence[CaptureSpec],
        token: RunToken,
        namespaces: Mapping[int, Netns],
        neighbours: Sequence[IPAddress] = (),
    ) -> None:
        """Open the captures; what cannot be listened to is Blind in the end. Raises PrivilegeError."""
        self.close()
        self._captures, self._blind, self._heard = {}, {}, []
        self._token, self._started_ns = token, time.time_ns()
        programs: dict[int, tuple[Instruction, ...] | str] = {}
        for arp_type in {spec.arp_type for spec in specs}:
            try:
                programs[arp_type] = capture_filter(token, arp_type=arp_type, neighbours=neighbours)
            except ValueError as error:
                programs[arp_type] = str(error)
        for spec in specs:
            program, ns = programs[spec.arp_type], namespaces.get(spec.netns)
            if isinstance(program, str):
                self._blind[spec.point] = program
            elif ns is None:
                self._blind[spec.point] = f"the namespace of {spec.netns_name} is not held open"
            else:
                self._open(spec, program, ns)

    def _open(self, spec: CaptureSpec, program: tuple[Instruction, ...], ns: Netns) -> None:
        try:
            self._captures[spec.point] = run_in(ns, lambda: open_capture(spec, program))
        except (CaptureError, NamespaceGone) as error:
            self._blind[spec.point] = str(error)

    def drain(self) -> None:
        """Take what was heard so far; never blocks."""
        for capture in self._captures.values():
            for frame in capture.frames():
                self._heard.append((frame, self._sighting(capture.spec, frame)))

    def _sighting(self, spec: CaptureSpec, frame: Frame) -> Sighting | None:
        assert self._token is not None
        parsed = parse_frame(frame.data, arp_type=spec.arp_type, run=self._token)
        if parsed is None:
            return None
        return Sighting(
            point=frame.point,
            kind=parsed.kind,
            way=frame.way,
            at_ns=frame.at_ns,
            packet=parsed.packet,
            nonce=parsed.nonce,
        )

    def finish(self) -> Observation:
        """Stop listening and return what was heard, oldest first."""
        self.drain()
        self._heard.sort(key=lambda each: each[0].at_ns)
        states: list[Open | Blind] = [capture.settle() for capture in self._captures.values()]
        states += [Blind(point=point, reason=reason) for point, reason in self._blind.items()]
        self.close()
        return Observation(
            captures=tuple(states),
            sightings=tuple(
                replace(sighting, frame=at) for at, (_frame, sighting) in enumerate(self._heard) if sighting is not None
            ),
            frames=tuple(frame for frame, _sighting in self._heard),
            started_ns=self._started_ns,
            ended_ns=time.time_ns(),
        )

    def close(self) -> None:
        """Stop listening."""
        for capture in self._captures.values():
            capture.close()
        self._captures = {}
