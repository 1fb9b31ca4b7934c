"""What rules share about traffic control: what stands where a packet is lost, and how much it dropped meanwhile."""

from __future__ import annotations

import re

import msgspec

from nettrace.correlate import Blocker
from nettrace.model.base import Missing, Values
from nettrace.model.path import Direction, Step, StepKind
from nettrace.model.snapshot import Link
from nettrace.model.verdict import ObservedSight
from nettrace.predict import traffic
from nettrace.predict.world import View
from nettrace.rules.case import Case

#: Packets of others, such as ARP, that an idle device may get while a probe runs.
_STRANGERS = 8
_DROPPED = re.compile(r"qdisc (\S+) .*dropped (\d+)")


class LostAt(msgspec.Struct, frozen=True):
    """What stands where a packet is lost: the leg and the step, the text of the object, how much it counted."""

    direction: Direction
    step: Step
    text: str
    rise: int


def lost_at(case: Case, blocker: Blocker) -> LostAt | None:
    """Return what a packet meets between the points of a loss and that can drop it: what counted drops, else the first.

    None where there is nothing.
    """
    found: list[LostAt] = []
    outside = False
    for direction, step in between(case, blocker):
        outside = outside or step.kind is StepKind.LEAVE
        view = case.view(step.netns)
        link = view.links.get(step.ifindex or 0) if view is not None else None
        if outside and view is not None and link is not None and not _received(case, view, link):
            continue
        if view is not None and link is not None:
            found += [LostAt(direction, step, text, by) for text, by in _met(case, view, link, step)]
    return min(found, key=lambda each: -each.rise, default=None)


def _met(case: Case, view: View, link: Link, step: Step) -> list[tuple[str, int]]:
    """Return what can drop a packet at a step: its text, and by how much its drop counter rose."""
    if step.kind is StepKind.TC and step.program is not None:
        return [(step.program, rise_of(case, view, link, step.program))]
    return queue_drops(case, view, link) if step.kind is StepKind.XMIT else []


def queue_drops(case: Case, view: View, link: Link) -> list[tuple[str, int]]:
    """Return the queues of a device that dropped something while the probe ran, or hold it: text, and how many."""
    queues = traffic.queues(link)
    set_up = [(line, by) for line in queues if (by := rise_of(case, view, link, line)) or _may_hold(case, view, line)]
    known = {line.split()[1] for line in queues} | {"clsact", "ingress"}
    # A queue that the device has by itself drops only what overflows it.
    plain = [(f"qdisc {kind}", by) for kind, by in queue_rises(case, view, link).items() if kind not in known]
    return [*set_up, *plain]


def counts(case: Case, link: Link, text: str) -> bool:
    """Tell whether what a queue or filter drops is counted, and was read before and after the probe."""
    if case.after is None or text.startswith("xdp") or " tcx " in text:
        return False
    return text.startswith("qdisc") or any(line.startswith(("qdisc clsact", "qdisc ingress")) for line in link.tc)


def _received(case: Case, view: View, link: Link) -> bool:
    """Tell whether a device at the edge got what nobody behind it saw: as many packets as were sent, and few more.

    Its driver counts before its XDP program has them. Where none came, or very many, those beyond may have kept silent.
    """
    later = case.world_after.view(view.id) if case.world_after is not None else None
    after = later.links.get(link.ifindex) if later is not None else None
    sent = len(case.observation.sent) if case.observation is not None else 0
    return after is None or sent <= after.stats.rx_packets - link.stats.rx_packets <= sent + _STRANGERS


def _may_hold(case: Case, view: View, line: str) -> bool:
    """Tell whether a queue that dropped nothing may have the packet: it holds some, or was not read again."""
    later = case.world_after.view(view.id) if case.world_after is not None else None
    if later is None or isinstance(later.ns.links, Missing):
        return True
    start = line.partition(": ")[0]
    return any(each.startswith(start) and " backlog " in each for link in later.links.values() for each in link.tc)


def rise_of(case: Case, view: View, link: Link, text: str) -> int:
    """Return by how much what counts the drops of a queue, or of the filters, rose; 0 where nothing counts them."""
    kinds = [text.split()[1]] if text.startswith("qdisc") else ["clsact", "ingress"]
    if not counts(case, link, text):
        return 0
    return max(rise(case, view, link, kind) for kind in kinds)


def between(case: Case, blocker: Blocker) -> list[tuple[Direction, Step]]:
    """Return the steps between the last point that saw a packet and the first that did not, in travel order.

    Of an answer that no point saw, those behind the packet's own last point come first: it may not have been taken.
    """
    steps = case.steps(blocker.direction)
    end = next((at for at, each in enumerate(steps) if _is(each, blocker.before)), len(steps) - 1)
    start = 0
    if blocker.after is not None:
        at_point = [at for at, each in enumerate(steps[: end + 1]) if _is(each, blocker.after)]
        start = at_point[-1] + 1 if at_point else end
    found = [(blocker.direction, each) for each in steps[start : end + 1]]
    if blocker.direction is Direction.REPLY and blocker.after is None:
        forward = case.steps(Direction.FORWARD)
        seen = {
            each.point
            for each in case.correlation.passages
            if each.direction is Direction.FORWARD and each.observed is ObservedSight.SEEN
        }
        last = max((at for at, each in enumerate(forward) if each.point in seen), default=None)
        if last is not None:
            found = [*((Direction.FORWARD, each) for each in forward[last + 1 :]), *found]
    return found


def _is(step: Step, point: str | None) -> bool:
    return point is not None and step.point == point


def rise(case: Case, view: View, link: Link, kind: str | None = None) -> int:
    """Return by how much the drop counters of a device's qdiscs rose while the probe ran; of one kind only, or of all.

    What filters drop is counted by the clsact or ingress qdisc that they hang on (mini_qdisc_qstats_cpu_drop).
    """
    later = case.world_after.view(view.id) if case.world_after is not None else None
    after = later.links.get(link.ifindex) if later is not None else None
    told = max(0, _dropped(after, kind) - _dropped(link, kind)) if after is not None else 0
    return max(told, sum(by for name, by in queue_rises(case, view, link).items() if kind in (None, name)))


def queue_rises(case: Case, view: View, link: Link) -> dict[str, int]:
    """Return by how much the drop counters of a device's qdiscs rose, by kind, those that it has by itself too."""
    before = view.ns.counters
    later = case.after.namespace(view.id) if case.after is not None else None
    if later is None or not isinstance(before, Values) or not isinstance(later.counters, Values):
        return {}
    found: dict[str, int] = {}
    for name, value in later.counters.values.items():
        words = name.split(".")
        if words[0] != "qdisc" or words[1:2] != [str(link.ifindex)]:
            continue
        by = value - before.values.get(name, 0)
        if by > 0:
            found[words[2]] = by
    return found


def _dropped(link: Link, kind: str | None) -> int:
    found = (_DROPPED.match(line) for line in link.tc)
    return sum(int(each[2]) for each in found if each is not None and kind in (None, each[1]))
