"""The state machine, as scripts: this goes in, that comes out."""

from __future__ import annotations

from ipaddress import ip_address

from nettrace.model.observe import Blind, SightingKind
from nettrace.model.path import LegEnd, Reason, Trace
from probes.plan import IN_HOST_SETTLE_S, ProbePlan, plan_probe
from probes.run import (
    DROP_SETTLE_S,
    LEAST_WAIT_S,
    Arm,
    Armed,
    ArmFailed,
    Command,
    Delivered,
    Dropped,
    Finish,
    Heard,
    Inject,
    ProbeRun,
    SetTimer,
    Start,
    Taken,
    Tick,
)
from tests.probes import builders
from tests.probes.builders import IN, OUT, Way

WAY = ("c/eth0", "h/veth", "h/docker0", "h/eth0")
BACK = WAY[::-1]
PROBE, REPLY = SightingKind.PROBE, SightingKind.REPLY


def plan(trace: Trace, *, count: int = 1) -> ProbePlan:
    return plan_probe(trace, builders.snapshot(), token=builders.SECRET, count=count, timeout_s=1.0)


def healthy(*, count: int = 1) -> ProbePlan:
    return plan(builders.trace(WAY, BACK), count=count)


def dropped_at_forward() -> ProbePlan:
    stop = builders.drop(Reason.FILTERED, builders.packet())
    points = tuple(map(builders.point, WAY))
    return plan(builders.trace(WAY[:3], None, points=points, forward_end=LegEnd.DROPPED, stop=stop))


def heard(point: str, kind: SightingKind = PROBE, at_s: float = 0.01, *, nonce: int = 0, way: Way = OUT) -> Heard:
    what = None if kind in (PROBE, REPLY) else builders.packet(icmp_type=3, icmp_code=13)
    return Heard(point=point, way=way, parsed=builders.parsed(kind, nonce, what), at_s=at_s)


def armed(made: ProbePlan, *, listening: bool = False) -> ProbeRun:
    """A run whose captures are all alive, and whose first probe was taken at time 0."""
    run = ProbeRun(made)
    run.handle(Start(at_s=0.0, listening=listening))
    commands: list[Command] = []
    for spec in made.captures:
        commands = run.handle(Armed(point=spec.point, at_s=0.0))
    assert commands == [Inject(nonce=0)]
    return run


def test_nothing_is_injected_before_every_capture_is_alive() -> None:
    run = ProbeRun(healthy())
    assert run.handle(Start(at_s=0.0)) == [Arm(point=name) for name in WAY]
    for name in WAY[:3]:
        assert run.handle(Armed(point=name, at_s=0.0)) == []
    assert run.handle(Armed(point=WAY[3], at_s=0.0)) == [Inject(nonce=0)]
    assert run.handle(Taken(nonce=0, at_s=0.1)) == [SetTimer(at_s=1.1)]


def test_a_capture_that_fails_holds_nothing_up() -> None:
    run = ProbeRun(healthy())
    run.handle(Start(at_s=0.0))
    for name in WAY[:3]:
        run.handle(ArmFailed(point=name, reason="gone", at_s=0.0))
    assert run.handle(Armed(point=WAY[3], at_s=0.0)) == [Inject(nonce=0)]


def test_without_any_capture_the_probe_is_sent_at_once() -> None:
    made = plan(builders.trace((), None))
    assert ProbeRun(made).handle(Start(at_s=0.0)) == [Inject(nonce=0)]


def test_without_a_source_there_is_nothing_to_do() -> None:
    made = plan(builders.trace(WAY, BACK, netns=None))
    run = ProbeRun(made)
    assert run.handle(Start(at_s=0.0)) == [Finish(timed_out=False)]
    assert run.handle(Tick(at_s=9.0)) == []


def test_a_reply_back_at_the_source_ends_the_run() -> None:
    run = armed(healthy())
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY:
        assert run.handle(heard(name)) == [SetTimer(at_s=1.0)]
    for name in BACK[:3]:
        assert run.handle(heard(name, REPLY)) == [SetTimer(at_s=1.0)]
    assert run.handle(heard(WAY[0], REPLY, way=OUT)) == [SetTimer(at_s=1.0)]  # on loopback it is heard leaving first
    assert run.handle(heard(WAY[0], REPLY, way=IN)) == [Finish(timed_out=False)]
    assert run.handle(heard(WAY[0], REPLY, way=IN)) == []


def test_an_error_or_a_reset_about_the_probe_ends_the_run_at_the_source_alone() -> None:
    for kind in (SightingKind.ICMP_ERROR, SightingKind.RESET):
        run = armed(healthy())
        run.handle(Taken(nonce=0, at_s=0.0))
        assert run.handle(heard(WAY[1], kind, way=OUT)) == [SetTimer(at_s=1.0)]
        assert run.handle(heard(WAY[0], kind, way=IN)) == [Finish(timed_out=False)]


def test_where_the_sources_stack_is_heard_a_reply_must_get_that_far() -> None:
    run = armed(healthy(), listening=True)
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY:
        run.handle(heard(name))
    for name in BACK[:3]:
        run.handle(heard(name, REPLY))
    assert run.handle(heard(WAY[0], REPLY, way=IN)) == [SetTimer(at_s=0.2)]  # a few round trips
    assert run.handle(Delivered(nonce=0, at_s=0.02)) == [Finish(timed_out=False)]


def test_the_stack_may_be_heard_first() -> None:
    run = armed(healthy(), listening=True)
    run.handle(Taken(nonce=0, at_s=0.0))
    assert run.handle(Delivered(nonce=0, at_s=0.02)) == [SetTimer(at_s=1.0)]
    assert run.handle(heard(WAY[0], REPLY, way=IN)) == [Finish(timed_out=False)]


def test_a_reply_that_is_back_and_not_taken_waits_no_longer_than_the_kernels_word() -> None:
    run = armed(healthy(), listening=True)
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY:
        run.handle(heard(name))
    for name in BACK[:3]:
        run.handle(heard(name, REPLY))
    run.handle(heard(WAY[0], REPLY, way=IN))
    assert run.handle(Dropped(at_s=0.01)) == [SetTimer(at_s=0.01 + DROP_SETTLE_S)]
    assert run.handle(Tick(at_s=0.04)) == [Finish(timed_out=True)]


def test_no_socket_of_its_protocol_hears_of_an_icmp_error() -> None:
    run = armed(healthy(), listening=True)
    run.handle(Taken(nonce=0, at_s=0.0))
    assert run.handle(heard(WAY[0], SightingKind.ICMP_ERROR, way=IN)) == [Finish(timed_out=False)]


def test_a_redirect_ends_nothing() -> None:
    run = armed(healthy())
    run.handle(Taken(nonce=0, at_s=0.0))
    redirect = builders.parsed(SightingKind.ICMP_ERROR, 0, builders.packet(icmp_type=5, icmp_code=1))
    assert run.handle(Heard(point=WAY[0], way=IN, parsed=redirect, at_s=0.1)) == [SetTimer(at_s=1.0)]


def test_a_refusal_ends_the_run() -> None:
    run = armed(healthy())
    assert run.handle(Taken(nonce=0, at_s=0.0, errno=101)) == [Finish(timed_out=False)]


def test_silence_takes_the_whole_time() -> None:
    run = armed(healthy())
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY:
        run.handle(heard(name))
    assert run.handle(Tick(at_s=0.5)) == [SetTimer(at_s=1.0)]
    assert run.handle(Tick(at_s=1.0)) == [Finish(timed_out=True)]


def test_a_predicted_drop_settles_when_all_before_it_was_heard() -> None:
    run = armed(dropped_at_forward())
    assert run.handle(Taken(nonce=0, at_s=0.0)) == [SetTimer(at_s=1.0)]
    run.handle(heard(WAY[0], at_s=0.01))
    assert run.handle(heard(WAY[1], at_s=0.02)) == [SetTimer(at_s=1.0)]
    assert run.handle(heard(WAY[2], at_s=0.03)) == [SetTimer(at_s=0.03 + IN_HOST_SETTLE_S)]
    assert run.handle(Tick(at_s=0.1)) == [Finish(timed_out=True)]


def test_a_predicted_drop_that_does_not_happen_settles_nothing() -> None:
    run = armed(dropped_at_forward())
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY[:3]:
        run.handle(heard(name))
    assert run.handle(heard(WAY[3], at_s=0.02)) == [SetTimer(at_s=1.0)]
    assert run.handle(heard(WAY[0], REPLY, way=IN)) == [Finish(timed_out=False)]


def test_a_packet_that_stops_earlier_than_predicted_takes_the_whole_time() -> None:
    run = armed(dropped_at_forward())
    run.handle(Taken(nonce=0, at_s=0.0))
    assert run.handle(heard(WAY[0])) == [SetTimer(at_s=1.0)]
    assert run.handle(Tick(at_s=0.9)) == [SetTimer(at_s=1.0)]


def test_points_nobody_hears_are_not_waited_for() -> None:
    run = armed(dropped_at_forward())
    run.handle(Taken(nonce=0, at_s=0.0))
    run.handle(heard(WAY[0], at_s=0.01))
    run.handle(heard(WAY[1], at_s=0.01))
    assert run.handle(ArmFailed(point=WAY[2], reason="vanished", at_s=0.02)) == []
    assert run.handle(Tick(at_s=0.03)) == [SetTimer(at_s=0.01 + IN_HOST_SETTLE_S)]


def test_a_reply_that_is_predicted_to_stop_settles_after_it_was_heard() -> None:
    stop = builders.drop(Reason.FILTERED, builders.packet())
    run = armed(plan(builders.trace(WAY, BACK[:1], reply_end=LegEnd.DROPPED, reply_stop=stop)))
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY:
        assert run.handle(heard(name)) == [SetTimer(at_s=1.0)]
    assert run.handle(heard(WAY[3], REPLY, at_s=0.2, way=IN)) == [SetTimer(at_s=0.2 + IN_HOST_SETTLE_S)]


def test_an_unanswered_neighbour_settles_after_it_was_asked_for() -> None:
    hop = ip_address("172.17.0.99")
    stop = builders.drop(Reason.NEIGHBOUR_FAILED, builders.packet(), at="c/eth0", next_hop=hop)
    points = (builders.point("c/eth0"),)
    made = plan(builders.trace((), None, points=points, forward_end=LegEnd.DROPPED, stop=stop))
    asked = builders.parsed(SightingKind.ARP_REQUEST, None, builders.packet(dst=hop))
    told = builders.parsed(SightingKind.ARP_REPLY, None, builders.packet(src=hop))

    run = armed(made)
    assert run.handle(Taken(nonce=0, at_s=0.0)) == [SetTimer(at_s=1.0)]
    assert run.handle(Heard(point="c/eth0", way=OUT, parsed=asked, at_s=0.01)) == [
        SetTimer(at_s=0.01 + IN_HOST_SETTLE_S)
    ]
    assert run.handle(Tick(at_s=0.08)) == [Finish(timed_out=True)]

    run = armed(made)
    run.handle(Taken(nonce=0, at_s=0.0))
    run.handle(Heard(point="c/eth0", way=OUT, parsed=asked, at_s=0.01))
    assert run.handle(Heard(point="c/eth0", way=IN, parsed=told, at_s=0.02)) == [SetTimer(at_s=1.0)]


def test_several_probes_are_spaced_and_each_must_end() -> None:
    run = armed(healthy(count=2))
    assert run.handle(Taken(nonce=0, at_s=0.0)) == [SetTimer(at_s=0.02)]
    assert run.handle(heard(WAY[0], REPLY, at_s=0.005, way=IN)) == [SetTimer(at_s=0.02)]
    assert run.handle(Tick(at_s=0.01)) == [SetTimer(at_s=0.02)]
    assert run.handle(Tick(at_s=0.02)) == [Inject(nonce=1)]
    # The first was answered after 5 ms: the second is waited for a few times as long, and no shorter than 0.2 s.
    assert run.handle(Taken(nonce=1, at_s=0.02)) == [SetTimer(at_s=0.02 + LEAST_WAIT_S)]
    assert run.handle(heard(WAY[0], REPLY, nonce=0, way=IN)) == [SetTimer(at_s=0.02 + LEAST_WAIT_S)]
    assert run.handle(heard(WAY[0], REPLY, nonce=1, way=IN)) == [Finish(timed_out=False)]


def test_one_refused_probe_among_several_does_not_end_the_run() -> None:
    run = armed(healthy(count=2))
    run.handle(Taken(nonce=0, at_s=0.0, errno=1))
    assert run.handle(Tick(at_s=0.03)) == [Inject(nonce=1)]
    assert run.handle(Taken(nonce=1, at_s=0.03)) == [SetTimer(at_s=1.03)]
    assert run.handle(Tick(at_s=2.0)) == [Finish(timed_out=True)]


def test_points_beyond_this_host_are_known_to_be_deaf() -> None:
    stop = builders.drop(Reason.FILTERED, builders.packet())
    made = plan(builders.trace(("c/eth0", "d/eth0"), None, forward_end=LegEnd.DROPPED, stop=stop))
    assert [each for each in made.unheard if isinstance(each, Blind)]
    run = armed(made)
    run.handle(Taken(nonce=0, at_s=0.0))
    assert run.handle(heard("c/eth0", at_s=0.01)) == [SetTimer(at_s=0.01 + IN_HOST_SETTLE_S)]


# --- the kernel's word ----------------------------------------------------------------------------------------------


def test_a_predicted_drop_that_the_kernel_reports_ends_the_run_at_once() -> None:
    run = armed(dropped_at_forward())
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY[:3]:
        run.handle(heard(name, at_s=0.001))
    assert run.handle(Dropped(at_s=0.002)) == [SetTimer(at_s=0.002)]
    assert run.handle(Tick(at_s=0.002)) == [Finish(timed_out=True)]


def test_a_drop_that_nobody_predicted_ends_it_once_nothing_moves() -> None:
    run = armed(healthy())
    run.handle(Taken(nonce=0, at_s=0.0))
    run.handle(heard(WAY[0], at_s=0.001))
    assert run.handle(Dropped(at_s=0.002)) == [SetTimer(at_s=0.002 + DROP_SETTLE_S)]
    assert run.handle(heard(WAY[1], at_s=0.010)) == [SetTimer(at_s=0.010 + DROP_SETTLE_S)]
    assert run.handle(Tick(at_s=0.030)) == [Finish(timed_out=True)]


def test_a_drop_of_a_copy_does_not_end_a_run_that_waits_for_somebody_else() -> None:
    run = armed(healthy())
    run.handle(Taken(nonce=0, at_s=0.0))
    run.handle(Dropped(at_s=0.001))
    for name in WAY:
        run.handle(heard(name, at_s=0.002))
    assert run.handle(Dropped(at_s=0.003)) == [SetTimer(at_s=1.0)]
    assert run.handle(heard(WAY[0], REPLY, at_s=0.3, way=IN)) == [Finish(timed_out=False)]


def test_an_answer_that_is_lost_on_its_way_through_this_host_ends_it() -> None:
    run = armed(healthy())
    run.handle(Taken(nonce=0, at_s=0.0))
    for name in WAY:
        run.handle(heard(name, at_s=0.001))
    run.handle(heard(WAY[3], REPLY, at_s=0.2, way=IN))
    assert run.handle(Dropped(at_s=0.201)) == [SetTimer(at_s=0.201 + DROP_SETTLE_S)]


def test_a_drop_before_the_last_probe_is_sent_does_not_end_the_run() -> None:
    run = armed(healthy(count=2))
    run.handle(Taken(nonce=0, at_s=0.0))
    assert run.handle(Dropped(at_s=0.001)) == [SetTimer(at_s=0.02)]
    assert run.handle(Tick(at_s=0.02)) == [Inject(nonce=1)]


def test_slow_answers_are_waited_for_longer_but_never_beyond_the_time_given() -> None:
    for took_s, wait_s in ((0.001, LEAST_WAIT_S), (0.1, 0.5), (0.5, 1.0)):
        run = armed(healthy(count=2))
        run.handle(Taken(nonce=0, at_s=0.0))
        run.handle(heard(WAY[0], REPLY, at_s=took_s, way=IN))
        assert run.handle(Taken(nonce=1, at_s=0.6)) == [SetTimer(at_s=0.6 + wait_s)]
