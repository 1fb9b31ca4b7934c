"""Diagnose a recorded case again: the same pipeline as live, from a folder instead of a host.

A case is a folder with `case.toml` (what was asked and where, for people), `run.json` (the flow, the state of each
capture and what was sent), `before.json` and `after.json` (snapshots), and `capture.pcapng` (an interface for each
point). Sightings are not stored: they are found again in the capture, by the run's token.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from nettrace._version import __version__
from nettrace.bundle.format import Run
from nettrace.correlate import correlate
from nettrace.diagnose import diagnose
from nettrace.errors import InputError
from nettrace.model.base import Model, from_json
from nettrace.model.observe import Observation, Sighting
from nettrace.model.path import Trace
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import Timing, Verdict
from nettrace.predict import predict
from nettrace.rules.case import Case
from nettrace.testimony import passings

M = TypeVar("M")


class Recorded(Model):
    """A recorded case, read whole."""

    run: Run
    before: Snapshot
    after: Snapshot | None
    observation: Observation | None


def read_case(folder: Path) -> Recorded:
    """Read a case; raises InputError with the file and the place in it."""
    run = _read(folder / "run.json", Run)
    before = _read(folder / "before.json", Snapshot)
    after = _read(folder / "after.json", Snapshot) if (folder / "after.json").exists() else None
    observation = observe_again(run, folder / "capture.pcapng")
    return Recorded(run=run, before=before, after=after, observation=observation)


def _read(path: Path, kind: type[M]) -> M:
    try:
        return from_json(path.read_bytes(), kind)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise InputError(f"{path} is not what nettrace recorded: {error}") from error


def observe_again(run: Run, path: Path) -> Observation | None:
    """Find the run's packets in its capture again; None when the question was asked without a probe."""
    from nettrace.wire.link import ETHERNET
    from nettrace.wire.parse import parse_frame
    from nettrace.wire.pcapng import read_pcapng
    from nettrace.wire.token import RunToken

    if run.observation is None:
        return None

    try:
        capture = read_pcapng(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    token = RunToken(
        secret=run.observation.secret,
        proto=run.flow.proto,
        family=run.flow.family,
        count=max(1, len(run.observation.sent)),
        sports=run.observation.sports,
        dports=run.dports,
        vxlan_ports=run.tunnels,
    )
    sightings = []
    for number, frame in enumerate(capture.frames):
        parsed = parse_frame(frame.data, arp_type=run.arp_types.get(frame.point, ETHERNET), run=token)
        if parsed is not None:
            sightings.append(
                Sighting(
                    point=frame.point,
                    kind=parsed.kind,
                    way=frame.way,
                    at_ns=frame.at_ns,
                    packet=parsed.packet,
                    nonce=parsed.nonce,
                    frame=number,
                )
            )
    return replace(run.observation, sightings=tuple(sightings), frames=tuple(capture.frames))


def case_again(recorded: Recorded) -> Case:
    """Return what rules read of a recorded case: predicted and correlated again."""
    flow, observation = recorded.run.flow, recorded.observation
    trace = predict(recorded.before, flow)
    looked = (recorded.before, recorded.after) if recorded.after is not None else (recorded.before,)
    told = passings(observation.testimony, *looked) if observation is not None else ()
    return Case(
        flow=flow,
        before=recorded.before,
        after=recorded.after,
        trace=trace,
        correlation=correlate(trace, observation, told),
        observation=observation,
    )


def diagnose_again(recorded: Recorded) -> tuple[Verdict, Trace]:
    """Return the verdict of a recorded case, and the trace it stands on."""
    case = case_again(recorded)
    timing = Timing(total_s=0.0, collect_s=0.0, probe_s=0.0)
    return diagnose(case, timing=timing, version=__version__), case.trace
