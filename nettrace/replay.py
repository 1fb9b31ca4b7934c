"""Diagnose a bundle again: the same pipeline as live, from a file instead of a host.

A bundle of an answer holds the question with the state of each capture (`run.json`), the snapshots before and after,
and the packets, an interface for each point. Sightings are not stored: they are found again in the capture, by the
run's token. A new question is answered by the model alone, on the snapshot before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import msgspec
from msgspec.structs import replace

from nettrace._version import __version__
from nettrace.bundle.archive import read_bundle
from nettrace.bundle.format import AFTER, BEFORE, CAPTURE, RUN, VERDICT_JSON, Bundle, Run
from nettrace.correlate import Correlation, Inner, beside, correlate, inner_of
from nettrace.diagnose import diagnose
from nettrace.errors import InputError
from nettrace.model.base import IPAddress, Missing, Model, from_json
from nettrace.model.flow import EndpointKind, Flow
from nettrace.model.observe import Observation, Sighting
from nettrace.model.path import Trace
from nettrace.model.snapshot import SCHEMA, Gap, Snapshot
from nettrace.model.verdict import Timing, Verdict
from nettrace.predict import predict
from nettrace.predict.relay import inner_flow
from nettrace.rules.case import Case
from nettrace.testimony import passings


class Recorded(Model):
    """A recorded case, read whole. `timing` is what the answer took when it was given."""

    run: Run
    before: Snapshot
    after: Snapshot | None
    observation: Observation | None
    timing: Timing = Timing(total_s=0.0, collect_s=0.0, probe_s=0.0)


def read_case(path: Path) -> Recorded:
    """Read the case in a bundle, archive or folder; raises InputError with the member and the place in it."""
    return recorded(read_bundle(path))


def recorded(bundle: Bundle) -> Recorded:
    """Return the case that a bundle holds; raises InputError when it holds none, or a damaged one."""
    run = bundle.decode(RUN, Run)
    return Recorded(
        run=run,
        before=snapshot_of(bundle, BEFORE),
        after=snapshot_of(bundle, AFTER) if AFTER in bundle.members else None,
        observation=observe_again(run, bundle),
        timing=_timing(bundle),
    )


def snapshot_of(bundle: Bundle, name: str = BEFORE) -> Snapshot:
    """Return one of a bundle's snapshots; raises InputError also for a schema that is not known here."""
    snapshot = bundle.decode(name, Snapshot)
    if snapshot.schema != SCHEMA:
        raise InputError(
            f"{name} is of schema {ascii(snapshot.schema)[1:60]}, and nettrace {__version__} reads {SCHEMA}: "
            "use the nettrace that made the bundle, or a later one"
        )
    return snapshot


class _Timed(Model):
    timing: Timing


def _timing(bundle: Bundle) -> Timing:
    """Return what the recorded verdict says of its own timing, which nobody can measure again."""
    try:
        return from_json(bundle.members[VERDICT_JSON], _Timed).timing
    except (KeyError, msgspec.DecodeError, ValueError, RecursionError):
        return Timing(total_s=0.0, collect_s=0.0, probe_s=0.0)


def observe_again(run: Run, bundle: Bundle) -> Observation | None:
    """Find the run's packets in its capture again; None when the question was asked without a probe."""
    from nettrace.wire.link import ETHERNET
    from nettrace.wire.ours import read_run
    from nettrace.wire.parse import parse_frame
    from nettrace.wire.token import MAX_PROBES, SECRET_BYTES, RunToken

    if run.observation is None:
        return None
    if CAPTURE not in bundle.members:
        raise InputError(f"the bundle holds no {CAPTURE}, and its question was asked with a probe")
    if len(run.observation.secret) != SECRET_BYTES or len(run.observation.sent) > MAX_PROBES:
        raise InputError(f"{RUN} tells of a run that nettrace cannot have made")
    token = RunToken(
        secret=run.observation.secret,
        proto=run.flow.proto,
        family=run.flow.family,
        count=max(1, len(run.observation.sent)),
        sports=run.observation.sports,
        dports=run.dports,
        vxlan_ports=run.tunnels,
    )
    capture = read_run(bundle.members[CAPTURE], token)
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


def names_of(bundle: Bundle) -> dict[str, IPAddress]:
    """Return the names that the recorded question held, with the addresses that they stood for then."""
    ends = (bundle.decode(RUN, Run).flow.dst,) if RUN in bundle.members else ()
    return {end.name: end.address for end in ends if end.kind is EndpointKind.NAME and end.address is not None}


def new_question(before: Snapshot, flow: Flow) -> Recorded:
    """Return a question that was not asked when the host was recorded, for the model alone to answer.

    Conntrack is read for the flow that is asked about, and names are looked up for its destination: of another flow's
    nothing is known. What was read of one IP version or protocol alone is not taken for all.
    """
    unread: Missing = Missing(reason="entries of this flow were not recorded")
    unasked: Missing = Missing(reason="not asked for")
    narrowed = before.narrowed(family=flow.family, proto=flow.proto.value)
    namespaces = tuple(replace(each, conntrack=unread, names=unasked) for each in narrowed.namespaces)
    return Recorded(run=Run(flow=flow), before=replace(narrowed, namespaces=namespaces), after=None, observation=None)


def case_again(recorded: Recorded) -> Case:
    """Return what rules read of a recorded case: predicted and correlated again."""
    flow = recorded.run.flow
    trace, observation = _on_the_way(predict(recorded.before, flow), recorded.observation)
    looked = (recorded.before, recorded.after) if recorded.after is not None else (recorded.before,)
    told = passings(observation.testimony, *looked) if observation is not None else ()
    if flow.from_outside and observation is not None:
        correlation, observation = _from_outside(recorded, trace, observation), None
    else:
        correlation = correlate(trace, observation, told)
    return Case(
        flow=flow,
        before=recorded.before,
        after=recorded.after,
        trace=trace,
        correlation=correlation,
        observation=observation,
    )


def _from_outside(recorded: Recorded, trace: Trace, observation: Observation) -> Correlation:
    """Return the correlation of a question from beyond the host, whose probe was of the last part of the way alone."""
    correlation = correlate(trace, None)
    flow = inner_flow(trace, recorded.before.host_netns)
    if flow is None:
        return beside(correlation, trace, None, Inner())
    part = predict(recorded.before, flow)
    return beside(correlation, trace, observation, inner_of(part, correlate(part, observation)))


def _on_the_way(trace: Trace, observation: Observation | None) -> tuple[Trace, Observation | None]:
    """Leave out what was seen at points that are none of the trace's, and say so among its gaps.

    A model that has learnt since may send the packet another way than the one that was listened at.
    """
    known = {point.id for point in trace.points}
    elsewhere = sorted({each.point for each in observation.sightings} - known) if observation is not None else []
    if observation is None or not elsewhere:
        return trace, observation
    reason = f"packets were captured at {', '.join(elsewhere)}, by which this model does not expect them to go"
    gap = Gap(section="capture", netns=None, reason=reason)
    kept = tuple(each for each in observation.sightings if each.point in known)
    return replace(trace, gaps=(*trace.gaps, gap)), replace(observation, sightings=kept)


def diagnose_again(recorded: Recorded) -> tuple[Verdict, Trace]:
    """Return the verdict of a recorded case, and the trace it stands on."""
    case = case_again(recorded)
    return diagnose(case, timing=recorded.timing, version=__version__), case.trace


#: How much processor time a file may take: a recorded host of ordinary size needs a second.
MAX_CPU_S = 60.0


@contextlib.contextmanager
def bounded(path: Path, *, cpu_s: float = MAX_CPU_S) -> Iterator[None]:
    """Hold the work on a file from elsewhere to `cpu_s` seconds of processor time, and turn its nonsense into an error.

    Within, InputError is raised when the time is over, and in place of what a snapshot provokes that contradicts
    itself. NETTRACE_DEBUG=1 in the environment lets that through.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise InputError(f"{path} takes more than {cpu_s:.0f} s of computing: no recorded host does, so it is given up")

    timed = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGVTALRM, stop) if timed else None
    if timed:
        # Again and again: a reader that expects broken text takes the first for one more of those.
        signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s, 0.1)
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if os.environ.get("NETTRACE_DEBUG") == "1":
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{path} cannot be diagnosed: it holds what contradicts itself, or nettrace {__version__} does ({what})"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path} needs more memory than there is") from error
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, former)
