"""A tc filter, a queueing discipline or an XDP program on the path drops.

What it reports: the wire loses the packet at a device that has traffic control or a program attached.
Why traffic stops: qdiscs drop what exceeds their limits, filters and programs drop what they are told to.
Proof: the qdisc, filter or program; its drop counter; the packet seen before the device and not on it.
Remedy: remove it, or raise its limits.
Known limits: programs are not read, so the model goes past them; only a probe shows the loss.
Seen in the field: no public report was read; traffic shapers and eBPF programs of other tools bring it.
"""

from __future__ import annotations

import errno
import re

from nettrace.correlate import Blocker
from nettrace.model.path import Point
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import errno_or_wire, lost_on_wire
from nettrace.rules.wording import enter

_DROPPED = re.compile(r"dropped (\d+)")


def check(case: Case) -> Result:
    """Fire for a stop that only the wire shows, at a device with a qdisc, filter or program that can drop."""
    hits = []
    for blocker in lost_on_wire(case):
        for name, leaving in ((blocker.before, True), (blocker.after, False)):
            point = next((each for each in case.trace.points if each.id == name), None)
            view = case.view(point.netns) if point is not None else None
            link = view.links.get(point.ifindex) if view is not None and point is not None else None
            if point is None or view is None or link is None:
                continue
            attached = _attached(link, leaving=leaving)
            if attached:
                hits.append(_hit(case, blocker, point, view, link, attached))
                break
    return fired(*hits)


def _attached(link: Link, *, leaving: bool) -> list[str]:
    """Return what can drop a packet that should come out of a device, or one that was seen there and went no further.

    Packet sockets look at what leaves after the qdisc and the egress filters, and at what comes in before the ingress
    filters; a driver's XDP program runs before both.
    """
    into = ("ingress", "clsact")
    shaping = [line for line in link.tc if not any(word in line for word in into)]
    coming = [line for line in link.tc if "ingress" in line and line.startswith("filter")]
    program = [f"xdp {link.xdp}"] if link.xdp else []
    if leaving:
        egress = [line for line in link.tc if "egress" in line and line.startswith("filter")]
        return list(dict.fromkeys([*shaping, *egress, *program]))
    return [*coming, *program]


def _hit(case: Case, blocker: Blocker, point: Point, view: View, link: Link, attached: list[str]) -> Hit:
    rise = _rise(case, view, link)
    counted = (
        (
            Evidence(
                kind=EvidenceKind.COUNTER,
                ref=f"{view.name}/{link.name}",
                text=f"its drop counter rose by {rise} while the probe ran",
            ),
        )
        if rise
        else ()
    )
    first = attached[0]
    full = " (the device's queue is full)" if case.correlation.errno == errno.ENOBUFS else ""
    return Hit(
        title=f"traffic control on {link.name} drops the packet: {first}",
        explanation=f"The packet is lost at {view.name}/{link.name}, where '{first}' is attached{full}.",
        at=f"{view.name}/{link.name}",
        evidence=(
            *(Evidence(kind=EvidenceKind.LINK, ref=f"{view.name}/{link.name}", text=line) for line in attached),
            *counted,
            *errno_or_wire(case, blocker),
        ),
        mend=Mend(
            summary="Remove it, or raise its limits.",
            commands=(enter(case, view.id) + _command(link, first),),
        ),
        basis=blocker.basis,
        blocker=blocker,
        segment=point.segment,
        device=link.name,
        netns=view.id,
    )


def _command(link: Link, text: str) -> str:
    if text.startswith("xdp"):
        return f"ip link set dev {link.name} xdp off"
    if text.startswith("filter"):
        return f"tc filter del dev {link.name} {'ingress' if 'ingress' in text else 'egress'}"
    return f"tc qdisc del dev {link.name} root"


def _rise(case: Case, view: View, link: Link) -> int:
    """Return by how much the drop counters of a device's qdiscs rose while the probe ran."""
    later = case.world_after.view(view.id) if case.world_after is not None else None
    after = later.links.get(link.ifindex) if later is not None else None
    return max(0, _dropped(after) - _dropped(link)) if after is not None else 0


def _dropped(link: Link) -> int:
    return sum(int(found[1]) for line in link.tc if (found := _DROPPED.search(line)))


RULE = rule("tc.drop", check, rank=27, needs=("links",))
