"""A tc filter, a queueing discipline or an XDP program on the path drops.

What it reports: a filter or queue that takes no such packet, as far as that can be read; or a loss on the wire at a
    device that has traffic control or a program attached, of the packet or of the ARP that it waits for.
Why traffic stops: qdiscs drop what exceeds their limits, filters and programs drop what they are told to.
Proof: the qdisc, filter or program; its drop counter; the packet seen before the device and not on it.
Remedy: remove it, or raise its limits.
Known limits: programs are not read: with one on the way the model does not tell whether the packet passes, and only a
    probe shows the loss. Of filters no more is read than whether they match everything. Programs of netkit devices are
    not listed, those attached by tcx only where the kernel lets itself be asked. What was attached by a BPF link goes
    with that link alone, and who holds it is not seen. Whether an XDP program at the uplink or somebody beyond it lost
    an answer cannot be told apart.
Seen in the field: no public report was read; traffic shapers and eBPF programs of other tools bring it.
"""

from __future__ import annotations

import errno
import re

from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.model.path import Direction, Outcome, Reason, Step
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict import traffic
from nettrace.predict.world import View
from nettrace.rules.asked import Lost
from nettrace.rules.base import Change, Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_link
from nettrace.rules.faults import blockers, errno_or_wire, lost_on_wire, view_of
from nettrace.rules.traffic_facts import lost_at, rise_of
from nettrace.rules.wording import enter

#: How a program is taken off, by the mode that it runs in: `xdp off` alone takes the driver's where it can have one.
_XDP = {"driver": "xdp", "generic": "xdpgeneric", "offloaded": "xdpoffload"}
#: A program that nothing says dropped anything explains a loss only where nothing else does that has evidence.
_UNPROVEN = 85
_FILTER = re.compile(r"filter (parent \S+|\S+) protocol \S+ pref (\d+) ")


def check(case: Case) -> Result:
    """Fire for a stop that the model reads from a queue or filter, and for a loss where only such a thing stands."""
    hits: list[Hit | None] = [
        _hit(case, blocker, step, step.program or "") for blocker, step in blockers(case, Reason.TC_DROP)
    ]
    asked = case.lost_ask
    for blocker in lost_on_wire(case):
        if asked is not None and asked.blocker is blocker:
            hits.append(_ask_lost(case, asked))
        else:
            hits.append(_lost(case, blocker))
    return fired(*hits)


def _lost(case: Case, blocker: Blocker) -> Hit | None:
    """Return the finding of a loss on the wire between two points, by what the packet meets between them."""
    found = lost_at(case, blocker)
    return _hit(case, blocker, found.step, found.text, direction=found.direction) if found is not None else None


def _ask_lost(case: Case, asked: Lost) -> Hit | None:
    """Return the finding of a loss of the ARP or NDP that the packet waits for."""
    first = asked.suspects[0] if asked.suspects else None
    if first is None or first.program is None:
        return None
    view, link, hop = first.spot.view, first.spot.link, asked.step.next_hop
    asker = view_of(case, asked.step)
    protocol = "ARP" if hop is not None and hop.version == 4 else "NDP"
    lost = f"the answer to {asker.name}, which asks for {hop}," if first.spot.answer else f"the request for {hop}"
    heard = [f"{'the answer' if asked.answered else 'the request'} was heard at {asked.after}"] if asked.after else []
    heard += [f"not at {asked.before}"] if asked.before else []
    evidence = Evidence(
        kind=EvidenceKind.PACKET,
        ref=asked.after or asked.before or f"{view.name}/{link.name}",
        text=f"{protocol} for {hop}: " + (" and ".join(heard) or "never answered"),
    )
    hit = _hit(case, asked.blocker, first.step, first.program)
    return replace(
        hit,
        rank=None if first.rise or first.certain else _UNPROVEN,
        explanation=f"{asker.name} must know the MAC address of {hop} before it can send, and {lost} is lost at "
        f"{view.name}/{link.name}, where '{first.program.partition(' dropped ')[0]}' is attached.",
        evidence=(hit.evidence[0], evidence, *hit.evidence[1:]),
    )


def _hit(case: Case, blocker: Blocker, step: Step, text: str, *, direction: Direction | None = None) -> Hit:
    view = view_of(case, step)
    link = view.links[step.ifindex or 0]
    by = rise_of(case, view, link, text)
    shown = text.partition(" dropped ")[0]
    counted = (
        (
            Evidence(
                kind=EvidenceKind.COUNTER,
                ref=f"{view.name}/{link.name}",
                text=f"its drop counter rose by {by} while the probe ran",
            ),
        )
        if by
        else ()
    )
    full = " (the device's queue is full)" if case.correlation.errno == errno.ENOBUFS else ""
    what = "is attached" if text.startswith(("filter", "xdp")) else "is the queue"
    explanation = f"The packet is lost at {view.name}/{link.name}, where '{shown}' {what}{full}."
    if text.startswith("xdp") and blocker.after is None and direction in (None, Direction.REPLY):
        explanation += " Packet captures come behind an XDP program: what it gets is not seen."
    return Hit(
        title=f"traffic control on {link.name} drops the packet: {shown}",
        explanation=explanation,
        at=f"{view.name}/{link.name}",
        evidence=(
            Evidence(kind=EvidenceKind.LINK, ref=f"{view.name}/{link.name}", text=text),
            *counted,
            *errno_or_wire(case, blocker),
        ),
        mend=_mend(case, view, link, text),
        basis=blocker.basis,
        blocker=blocker,
        segment=step.segment,
        direction=direction if direction is not blocker.direction else None,
        rank=None if by or text.startswith("qdisc") or step.outcome is Outcome.DROP else _UNPROVEN,
        device=link.name,
        netns=view.id,
    )


def _mend(case: Case, view: View, link: Link, text: str) -> Mend:
    prefix = enter(case, view.id)
    commands, change = _removal(view, link, text)
    if change is None:
        return Mend(
            summary="See what it is, and mend it where it was made.", commands=tuple(prefix + c for c in commands)
        )
    queue = text.startswith("qdisc")
    return Mend(
        summary="Remove it, or raise its limits." if queue else "Remove it, or mend the tool that attached it.",
        commands=tuple(prefix + each for each in commands),
        change=change,
    )


def _removal(view: View, link: Link, text: str) -> tuple[tuple[str, ...], Change | None]:
    """Return the commands that take something off a device, and what they change; no change where only looks help."""
    if text.startswith("xdp"):
        modes = [off for mode, off in _XDP.items() if f"xdp {mode}" in text] or ["xdpgeneric", "xdpdrv"]
        change = set_link(view.id, link.ifindex, xdp=None)
        return tuple(f"ip link set dev {link.name} {each} off" for each in modes), change
    if " tcx " in text:
        return (f"bpftool net show dev {link.name}",), None
    if (found := _FILTER.match(text)) is not None:
        # A preference holds one classifier of one protocol; what else has the same goes with it.
        start = re.compile(rf"filter {re.escape(found[1])} protocol \S+ pref {found[2]} ")
        kept = tuple(line for line in link.tc if not start.match(line))
        command = f"tc filter del dev {link.name} {found[1]} pref {found[2]}"
        return (command,), set_link(view.id, link.ifindex, tc=kept)
    if text in link.tc:
        kept = tuple(line for line in link.tc if line not in traffic.queues(link) and "filter parent" not in line)
        return (f"tc qdisc del dev {link.name} root",), set_link(view.id, link.ifindex, tc=kept)
    return (f"tc -s qdisc show dev {link.name}",), None


RULE = rule("tc.drop", check, rank=27, needs=("links",))
