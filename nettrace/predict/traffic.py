"""What traffic control and XDP do to a frame at a device, as far as that can be told without reading programs.

Follows __netif_receive_skb_core, __dev_queue_xmit and tcf_classify (net/core/dev.c, net/sched/cls_api.c): an XDP
program is first on the way in, and packet sockets see what it leaves; the ingress filters come behind them. On the way
out the egress filters and the queue come before packet sockets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum

from nettrace.model.base import Model
from nettrace.model.path import Outcome
from nettrace.model.snapshot import Link

#: Of a frame, before its IP packet.
ETHERNET_HEADER = 14

_FILTER = re.compile(r"filter (ingress|egress|parent \S+) (?:protocol (\S+) pref (\d+) )?(\S+)(.*)")
_QDISC = re.compile(r"qdisc (\S+) (\S+) (root|parent \S+)(.*)")
_ACTION = re.compile(r"action (mirred (?:\S+ \S+ )?(?:dev \S+)?|\S+)")
#: Actions that only write something down, or on the packet, and let it go on.
_HARMLESS = ("pipe", "skbedit", "csum", "sample", "connmark", "ctinfo", "simple", "mpls-mirror")
_PROTOCOL = {4: "ip", 6: "ipv6"}


class Place(StrEnum):
    """Where at a device: the XDP program, the filters on the way in, the filters and the queue on the way out."""

    XDP = "xdp"
    INGRESS = "ingress"
    EGRESS = "egress"


class Met(Model):
    """What a frame meets that ends it, or may: the text of the object, and why."""

    program: str
    outcome: Outcome
    why: str


def met(link: Link, place: Place, *, protocol: str, length: int, find: Callable[[str], Link | None]) -> Met | None:
    """Return what stops a frame at a device for sure, or else what may stop it; None when nothing does.

    `protocol` is ip, ipv6 or arp, `length` the frame's in bytes. `find` gives a device of the namespace by its name.
    """
    if place is Place.XDP:
        if link.xdp is None:
            return None
        return Met(
            program=f"xdp {link.xdp}",
            outcome=Outcome.UNKNOWN,
            why=f"the XDP program on {link.name} is not read: it may drop the packet, or send it elsewhere",
        )
    found = list(_filters(link, place, protocol, find))
    if place is Place.EGRESS:
        found += _queues(link, length)
    certain = next((each for each in found if each.outcome is Outcome.DROP), None)
    if certain is not None and certain is not found[0]:
        # What comes before it may let the packet off.
        return found[0]
    return certain or (found[0] if found else None)


def of_family(family: int) -> str:
    """Return the protocol of an IP packet as filters name it."""
    return _PROTOCOL[family]


def queues(link: Link) -> list[str]:
    """Return the queueing disciplines of a device that somebody has set."""
    return [line for line in link.tc if (at := _QDISC.match(line)) and at[1] not in ("clsact", "ingress")]


def _applying(link: Link, place: Place, protocol: str) -> Iterable[tuple[str, re.Match[str]]]:
    for line in link.tc:
        shape = _FILTER.match(line)
        if shape is None:
            continue
        here = shape[1] == place.value or (place is Place.EGRESS and shape[1].startswith("parent"))
        # Of another chain than 0 a frame meets the filters only where an action sends it there.
        if here and shape[2] in (None, "all", protocol) and " chain " not in line:
            yield line, shape


def _filters(link: Link, place: Place, protocol: str, find: Callable[[str], Link | None]) -> Iterable[Met]:
    off = False
    for line, shape in _applying(link, place, protocol):
        kind, rest = shape[4], shape[5]
        if kind == "tcx" or (kind == "bpf" and "direct-action" in rest):
            why = f"the BPF program at the {place} of {link.name} is not read: it may drop the packet, or redirect it"
            yield Met(program=line, outcome=Outcome.UNKNOWN, why=why)
            continue
        certain = "skip_sw" not in rest and (kind == "matchall" or "match all" in rest)
        ending = _ending(rest, link, find)
        if ending is Outcome.PASS:
            if certain:
                return
            # It may have let the packet off, past all that follows.
            off = True
            continue
        if ending is None:
            continue
        if ending is Outcome.DROP and certain and not off:
            why = f"a filter at the {place} of {link.name} takes every packet away: {line}"
            yield Met(program=line, outcome=Outcome.DROP, why=why)
            return
        why = f"whether a filter at the {place} of {link.name} takes the packet away is not known: {line}"
        yield Met(program=line, outcome=Outcome.UNKNOWN, why=why)
        if certain:
            return


def _ending(text: str, link: Link, find: Callable[[str], Link | None]) -> Outcome | None:
    """Return what a filter's actions do with a packet that it matches; None when the next filter is asked as well."""
    actions = _ACTION.findall(text)
    if not actions:
        return Outcome.PASS
    for action in actions:
        word = action.split()[0]
        if word == "mirred":
            target = find(action.split()[-1])
            if "mirror" in action or (target is not None and target.kind == "ifb"):
                # What an ifb device gets comes back behind the filter (ifb_ri_tasklet).
                if "mirror" in action:
                    continue
                return Outcome.PASS
            gone = "redirect" in action and target is not None and (target.kind == "dummy" or not target.up)
            return Outcome.DROP if gone else Outcome.UNKNOWN
        if word in _HARMLESS:
            continue
        if word in ("ok", "pass"):
            return Outcome.PASS
        if word in ("unspec", "continue"):
            return None
        return Outcome.DROP if word in ("drop", "stolen") else Outcome.UNKNOWN
    return Outcome.PASS


def _queues(link: Link, length: int) -> Iterable[Met]:
    """Yield the queues that take no frame of this length, or lose some by chance (bfifo_enqueue, netem_enqueue)."""
    for line in queues(link):
        shape = _QDISC.match(line)
        assert shape is not None
        limit = re.search(r" limit (\d+)(b|p)\b", shape[4])
        burst = re.search(r" burst (\d+)b\b", shape[4])
        loss = re.search(r" loss (\S+)", shape[4])
        full = limit is not None and int(limit[1]) < (length if limit[2] == "b" else 1)
        if shape[1] == "blackhole":
            yield Met(program=line, outcome=Outcome.DROP, why=f"{link.name} has a queue that drops all: {line}")
        elif (shape[1] in ("bfifo", "pfifo") and full) or (
            # The burst was a time and is rounded; the kernel has it to the byte.
            shape[1] == "tbf" and burst is not None and int(burst[1]) * 1.01 < length
        ):
            why = f"the queue of {link.name} has no room for a frame of {length} bytes: {line}"
            # Which of the classes above it the frame goes to is not known.
            outcome = Outcome.DROP if shape[3] == "root" else Outcome.UNKNOWN
            yield Met(program=line, outcome=outcome, why=why)
        elif shape[1] == "netem" and loss is not None:
            certain = float(loss[1]) >= 1 and shape[3] == "root"
            why = f"the queue of {link.name} drops {'all' if certain else 'some'} packets on purpose: {line}"
            yield Met(program=line, outcome=Outcome.DROP if certain else Outcome.UNKNOWN, why=why)
