"""What rules share about traffic control: how much a device's queues and filters dropped while the probe ran."""

from __future__ import annotations

import re

from nettrace.model.base import Values
from nettrace.model.snapshot import Link
from nettrace.predict.world import View
from nettrace.rules.case import Case

_DROPPED = re.compile(r"qdisc (\S+) .*dropped (\d+)")


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
