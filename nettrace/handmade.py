"""Diagnose captures that somebody made by hand: tcpdump at several points, or one pcapng with several interfaces.

The same pipeline as live, from captures and a Snapshot instead of a host: predict, stitch, correlate, diagnose. A
capture's interface is put to a device of the Snapshot by the name that the user gives it, by the name that the file
gives it, or by the file's own name where it is that of a device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nettrace._version import __version__
from nettrace.conversations import Conversation
from nettrace.errors import InputError, UsageError
from nettrace.model.base import Model, from_json, rows
from nettrace.model.flow import Flow, Proto
from nettrace.model.heard import Heard
from nettrace.model.observe import Way
from nettrace.model.path import Direction, Trace
from nettrace.model.snapshot import Gap, Link, Namespace, Snapshot
from nettrace.model.verdict import ObservedSight, Result, Timing, Verdict
from nettrace.stitch import Listening, Placed, Stitched
from nettrace.wire.scan import Record, Scan, Tap

__all__ = [
    "Answered",
    "Capture",
    "Device",
    "answer_captures",
    "choose_conversation",
    "list_conversations",
    "place",
    "read_snapshot",
    "scan_files",
]


class Capture(Model):
    """One file, scanned. `label` is what it is called in answers."""

    path: Path
    label: str
    scan: Scan


class Device(Model):
    """Where a capture's interface is: a device of a namespace, or a whole namespace (`link` None; `tcpdump -i any`)."""

    ns: Namespace
    link: Link | None = None

    @property
    def point(self) -> str:
        """Return the id that a Trace gives the point."""
        return f"{self.ns.name}/{self.link.name}" if self.link is not None else self.ns.name


def read_snapshot(path: Path) -> Snapshot:
    """Read a Snapshot as nettrace records it; raises InputError when it is none."""
    try:
        return from_json(path.read_bytes(), Snapshot)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no snapshot that nettrace recorded: {error}") from error


def scan_files(paths: Sequence[Path], needles: Sequence[bytes] = (), **limits: int) -> tuple[Capture, ...]:
    """Scan capture files; raises InputError with the file's name. `limits` are those of `nettrace.wire.scan.scan`."""
    from nettrace.wire.scan import scan

    labels = [path.name for path in paths]
    found = []
    for path, name in zip(paths, labels, strict=True):
        label = name if labels.count(name) == 1 else str(path)
        try:
            with path.open("rb", buffering=0) as stream:
                found.append(Capture(path=path, label=label, scan=scan(stream, needles, **limits)))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return tuple(found)


# --- which device each interface is ---------------------------------------------------------------------------------


def place(
    captures: Sequence[Capture], snapshot: Snapshot, named: Sequence[str] = ()
) -> tuple[dict[tuple[int, int], Device], tuple[Gap, ...]]:
    """Return the device of each interface, by the numbers of its file and its interface, and what could not be placed.

    `named` are the user's own names, "FILE=NAMESPACE/DEVICE", "FILE:INTERFACE=…" or "INTERFACE=…"; a namespace alone
    is meant for `tcpdump -i any`. Raises UsageError on a name that fits no file or no device, and InputError when no
    interface at all has a place.
    """
    from nettrace.wire.captured import LINKTYPES, SLL2

    given = [_split(each) for each in named]
    used: set[str] = set()
    devices: dict[tuple[int, int], Device] = {}
    gaps: list[Gap] = []
    for file, capture in enumerate(captures):
        for number, tap in enumerate(capture.scan.taps):
            called = _called(capture, number, tap)
            wanted = next(((key, value) for key, value in given if key in called), None)
            where = _title(capture, number, tap)
            if wanted is not None:
                used.add(wanted[0])
                devices[file, number] = _device(snapshot, wanted[1], whole=tap.linktype == SLL2)
                continue
            if tap.linktype not in LINKTYPES:
                gaps.append(_unplaced(where, f"frames of link type {tap.linktype} are not known here"))
                continue
            found = _by_own_names(snapshot, capture, tap)
            if isinstance(found, Device):
                devices[file, number] = found
            else:
                gaps.append(_unplaced(where, found))
    for key, value in given:
        if key not in used:
            titles = [_title(each, number, tap) for each in captures for number, tap in enumerate(each.scan.taps)]
            have = ", ".join(titles[:12])
            raise UsageError(f"--point {key}={value}: there is no capture called {key}; there are {have}")
    if not devices and any(each.scan.taps for each in captures):
        reasons = "; ".join(f"{gap.netns}: {gap.reason}" for gap in gaps[:4])
        raise InputError(f"no interface of these captures can be placed ({reasons})")
    for (file, number), device in devices.items():
        tap = captures[file].scan.taps[number]
        if tap.linktype not in LINKTYPES:
            where = _title(captures[file], number, tap)
            raise InputError(
                f"{where}: frames of link type {tap.linktype} are not known here; capture at {device.point} again"
            )
    return devices, tuple(gaps)


def _unplaced(where: str, reason: str) -> Gap:
    return Gap(section="capture", netns=where, reason=reason)


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.rpartition("=")
    if not equals or not key or not value:
        raise UsageError(f"--point {text} is not FILE=NAMESPACE/DEVICE, as in: --point a.pcap=web/eth0")
    return key, value


def _called(capture: Capture, number: int, tap: Tap) -> set[str]:
    """Return all that the user may call an interface."""
    files = {capture.label, str(capture.path), capture.path.name}
    own = {each for each in (tap.name, tap.description, str(number)) if each}
    alone = files if len(capture.scan.taps) == 1 else set()
    return alone | {f"{file}:{name}" for file in files for name in own} | (own - {str(number)})


def _title(capture: Capture, number: int, tap: Tap) -> str:
    if len(capture.scan.taps) == 1 and not tap.name:
        return capture.label
    return f"{capture.label}:{tap.name or number}"


def _device(snapshot: Snapshot, text: str, *, whole: bool) -> Device:
    """Return the device that the user names; raises UsageError."""
    found = _named(snapshot, text, whole=whole)
    if isinstance(found, str):
        raise UsageError(f"--point …={text}: {found}")
    return found


def _by_own_names(snapshot: Snapshot, capture: Capture, tap: Tap) -> Device | str:
    """Return the device that the file itself names, or why there is none."""
    from nettrace.wire.captured import SLL, SLL2

    whole = tap.linktype == SLL2
    reasons: list[str] = []
    for name in (tap.name, tap.description):
        if name and not (whole and name == "any"):
            found = _named(snapshot, name, whole=whole)
            if isinstance(found, Device):
                return found
            reasons.append(found)
    if whole:
        host = snapshot.namespace(snapshot.host_netns)
        return Device(ns=host) if host is not None else "the snapshot does not hold the host itself"
    if reasons:
        return reasons[0]
    if tap.linktype == SLL:
        return (
            "it was captured at all interfaces at once, and does not tell which; capture again with tcpdump -i any -y "
            "LINUX_SLL2"
        )
    stem = capture.path.name.partition(".pcap")[0]
    fitting = _by_stem(snapshot, stem)
    if fitting is not None:
        return fitting
    return f"nothing tells which interface it is; say so, as in: --point {capture.label}=web/eth0"


def _by_stem(snapshot: Snapshot, stem: str) -> Device | None:
    """Return the device whose name a file bears: "docker0.pcap", "web-eth0.pcap"; None unless just one fits."""
    plain = re.sub(r"[^0-9A-Za-z]+", "/", stem)
    fits = [
        Device(ns=ns, link=link)
        for ns in snapshot.namespaces
        for link in rows(ns.links)
        if plain in (re.sub(r"[^0-9A-Za-z]+", "/", each) for each in (link.name, f"{ns.name}/{link.name}"))
    ]
    return fits[0] if len(fits) == 1 else None


def _named(snapshot: Snapshot, text: str, *, whole: bool) -> Device | str:
    """Return the one device that a text names, or why there is none."""
    space, slash, device = text.rpartition("/")
    spaces = [ns for ns in snapshot.namespaces if not slash or _is(ns, space, snapshot)]
    if whole and not slash:
        alone = [ns for ns in snapshot.namespaces if _is(ns, text, snapshot)]
        if len(alone) == 1:
            return Device(ns=alone[0])
    if slash and not spaces:
        return f"the snapshot holds no namespace {space}; it has {', '.join(ns.name for ns in snapshot.namespaces)}"
    fits = [Device(ns=ns, link=link) for ns in spaces for link in rows(ns.links) if link.name == device]
    if len(fits) == 1:
        return fits[0]
    if fits:
        choices = ", ".join(each.point for each in fits[:6])
        return f"several devices are called {device}; name one of them with --point: {choices}"
    return f"the snapshot holds no device {text}"


def _is(ns: Namespace, name: str, snapshot: Snapshot) -> bool:
    """Tell whether a namespace is called that: by its name, as the host, or by its container's name or id."""
    if name in (ns.name, f"container:{ns.name}", f"netns:{ns.name}"):
        return True
    if name == "host":
        return ns.id == snapshot.host_netns
    return any(
        each.netns == ns.id and (each.name == name or (len(name) >= 6 and each.id.startswith(name)))
        for each in snapshot.intent.containers
    )


# --- what was heard where -------------------------------------------------------------------------------------------


def _needles(trace: Trace) -> tuple[bytes, ...]:
    """Return what the packets of a flow, and the questions for its next hops, hold."""
    from nettrace.stitch import pairs_on_the_way
    from nettrace.wire.captured import ARP_NEEDLE, pair_needles, solicit_needles

    there, back = pairs_on_the_way(trace)
    pairs = sorted((*there, *back), key=str)
    found = [pair_needles(src, dst) for src, dst in pairs]
    if trace.flow.family == 4:
        found.append(ARP_NEEDLE)
    steps = [step for leg in (trace.forward, trace.reply) if leg is not None for step in (*leg.steps, *leg.beyond)]
    asked = {step.next_hop for step in steps if step.next_hop is not None} | {src for src, _dst in pairs}
    for target in sorted(asked, key=str):
        found.extend(solicit_needles(target))
    return tuple(dict.fromkeys(found))


class _Placer:
    """Turns records into packets at points."""

    def __init__(self, captures: Sequence[Capture], devices: dict[tuple[int, int], Device], snapshot: Snapshot) -> None:
        self.captures, self.devices, self.snapshot = captures, devices, snapshot
        self.links = {(ns.id, link.ifindex): link for ns in snapshot.namespaces for link in rows(ns.links)}
        self.macs = {link.mac for link in self.links.values() if link.mac is not None and not link.loopback}
        #: Files that tell of devices by numbers which their namespace does not have.
        self.misfits: set[str] = set()
        #: Files whose MAC addresses are of no device here: rewritten, as captures are that are passed on.
        self.foreign: list[str] = []
        self.tunnels = tuple({link.vxlan.port for link in self.links.values() if link.vxlan is not None}) or (4789,)

    def packets(self, family: int) -> list[Placed]:
        """Return the readable packets of all captures that have a place."""
        from nettrace.wire.captured import read_frame

        found: list[Placed] = []
        self.foreign = []
        for file, capture in enumerate(self.captures):
            heards: list[tuple[Device, Record, Heard]] = []
            for index, record in enumerate(capture.scan.records):
                device = self.devices.get((file, record.tap))
                if device is None:
                    continue
                heard = read_frame(
                    record.data,
                    capture.scan.taps[record.tap].linktype,
                    tap=record.tap,
                    at_ns=record.at_ns,
                    way=record.way,
                    record=index,
                    tunnels=self.tunnels,
                )
                if heard is not None and heard.packet.family == family:
                    heards.append((device, record, heard))
            if any(_macs(each) for _device, _record, each in heards) and not any(
                self.macs & _macs(each) for _device, _record, each in heards
            ):
                self.foreign.append(capture.label)
                heards = [(device, record, _without_macs(each)) for device, record, each in heards]
            placed = (self._at(capture, device, record, each) for device, record, each in heards)
            found.extend(each for each in placed if each is not None)
        return found

    def _at(self, capture: Capture, device: Device, record: Record, heard: Heard) -> Placed | None:
        if heard.ifindex is not None:
            link = self.links.get((device.ns.id, heard.ifindex))
            if link is None:
                self.misfits.add(capture.label)
            if link is None or (device.link is not None and device.link.ifindex != link.ifindex):
                return None
            device = replace(device, link=link)
        if heard.way is None:
            heard = replace(heard, way=self._way(device, heard))
        return Placed(point=device.point, clock=capture.label, heard=heard, frame=record.data, length=record.length)

    def _way(self, device: Device, heard: Heard) -> Way | None:
        """Tell by the addresses whether a frame went into a device or out of it, where the file does not; or not."""
        link, packet = device.link, heard.outer or heard.packet
        if link is None:
            return None
        if packet.src_mac is None:
            own = {each.address.ip for each in rows(device.ns.addresses)}
            return Way.OUT if packet.src in own else Way.IN if packet.dst in own else None
        if link.kind == "veth" and link.master is not None and link.peer_ifindex is not None:
            peer = self.links.get((link.peer_netns or device.ns.id, link.peer_ifindex))
            if peer is not None and peer.mac in (packet.src_mac, packet.dst_mac):
                return Way.IN if packet.src_mac == peer.mac else Way.OUT
        if link.mac == packet.src_mac:
            return Way.OUT
        return Way.IN if link.mac == packet.dst_mac else None

    def listenings(self, family: int, *, throughout: bool) -> list[Listening]:
        """Return what each capture could see, one for each point that it listened at."""
        from nettrace.wire.captured import least_snaplen

        found: list[Listening] = []
        for (file, number), device in self.devices.items():
            capture = self.captures[file]
            tap = capture.scan.taps[number]
            least = least_snaplen(tap.linktype, family)
            blind = ""
            if tap.dropped:
                blind = f"its capture lost {tap.dropped} packets"
            elif 0 < tap.snaplen < least:
                blind = f"its capture cut packets at {tap.snaplen} bytes, too short to tell them apart"
            elif device.link is None and capture.label in self.misfits:
                blind = f"its capture knows devices that {device.ns.name} does not have: is it another namespace's?"
            elif tap.filter:
                blind = f"its capture was filtered ({tap.filter})"
            ends = [each for each in (tap.last_ns, tap.full_ns) if each is not None]
            links = [device.link] if device.link is not None else list(rows(device.ns.links))
            for link in links:
                point = replace(device, link=link).point
                found.append(
                    Listening(
                        point=point,
                        clock=capture.label,
                        first_ns=tap.first_ns,
                        last_ns=min(ends) if ends else None,
                        throughout=throughout and tap.full_ns is None and not capture.scan.cut,
                        blind=blind,
                    )
                )
        return found


def _merged(captures: Sequence[Capture], again: Sequence[Capture]) -> tuple[Capture, ...]:
    """Return captures with what another scan of the same files found beside."""
    merged = []
    for one, other in zip(captures, again, strict=True):
        records = {each.at: each for each in (*one.scan.records, *other.scan.records)}
        in_order = tuple(records[at] for at in sorted(records))
        merged.append(replace(one, scan=replace(one.scan, records=in_order)))
    return tuple(merged)


def _macs(heard: Heard) -> set[str]:
    packet = heard.outer or heard.packet
    return {each for each in (packet.src_mac, packet.dst_mac) if each is not None}


def _without_macs(heard: Heard) -> Heard:
    if heard.outer is not None:
        return replace(heard, outer=replace(heard.outer, src_mac=None, dst_mac=None))
    return replace(heard, packet=replace(heard.packet, src_mac=None, dst_mac=None))


# --- the answer -----------------------------------------------------------------------------------------------------


class Answered(Model):
    """A verdict about captures, with what it stands on."""

    verdict: Verdict
    trace: Trace
    stitched: Stitched


def answer_captures(
    paths: Sequence[Path],
    snapshot: Snapshot,
    flow: Flow,
    *,
    named: Sequence[str] = (),
    throughout: bool = False,
    guess: Callable[[Flow], Snapshot] | None = None,
    whole: Snapshot | None = None,
) -> Answered:
    """Return the verdict of a flow from captures and a snapshot of the same host.

    `named` says where captures were made (see `place`); `throughout` that all of them ran the whole time. `whole` is
    all that was recorded of the host, where `snapshot` is what the flow passes: captures elsewhere have their place in
    it. With `guess`, which returns the snapshot for another flow, the protocol and port are those that the flow's ends
    have spoken, where the captures hold no packet of the flow itself and just one other conversation of theirs. Raises
    InputError and UsageError.
    """
    import time

    from nettrace.correlate import correlate
    from nettrace.diagnose import diagnose
    from nettrace.predict import predict
    from nettrace.rules.case import Case
    from nettrace.stitch import stitch

    started = time.monotonic()
    trace = predict(snapshot, flow)
    needles = _needles(trace)
    captures = scan_files(paths, needles)
    host = whole or snapshot
    devices, gaps = place(captures, host, named)
    placer = _Placer(captures, devices, host)
    packets = placer.packets(flow.family)
    listenings = placer.listenings(flow.family, throughout=throughout)
    stitched = stitch(trace, packets, listenings)
    if not stitched.packets:
        others = _between(flow, packets)
        if guess is not None and len(others) == 1:
            said = replace(flow, proto=others[0].proto, dport=others[0].port)
            return answer_captures(paths, guess(said), said, named=named, throughout=throughout, whole=host)
        if guess is not None and others:
            raise UsageError(f"say which of these is meant:{_asked(others, host)}")
    correlation = correlate(trace, stitched.observation)
    heard = {each.point for each in listenings}
    missed = any(
        each.direction is Direction.FORWARD and each.observed is not ObservedSight.SEEN and each.point in heard
        for each in correlation.passages
    )
    if correlation.silent and missed and stitched.identities:
        # As far as the expected addresses tell, it is lost: look for the packet under any others.
        captures = _merged(captures, scan_files(paths, stitched.identities))
        placer = _Placer(captures, devices, host)
        stitched = stitch(trace, placer.packets(flow.family), listenings)
        correlation = correlate(trace, stitched.observation)
    cut = [Gap(section="capture", netns=each.label, reason=each.scan.cut) for each in captures if each.scan.cut]
    full = [
        Gap(section="capture", netns=_title(each, number, tap), reason="it holds more packets than are looked at")
        for each in captures
        for number, tap in enumerate(each.scan.taps)
        if tap.full_ns is not None
    ]
    foreign = [
        Gap(section="capture", netns=each, reason="its MAC addresses are of no device here, and are passed over")
        for each in placer.foreign
    ]
    said_of_captures = (*gaps, *cut, *full, *foreign, *stitched.gaps)
    if not stitched.packets:
        none = "no packet of this flow is in the captures"
        if stitched.observation.sent:
            none += ", but the question for its next hop, which nobody answered"
        said_of_captures = (*said_of_captures, Gap(section="capture", netns=None, reason=none))
    trace = replace(trace, gaps=(*trace.gaps, *said_of_captures))
    case = Case(
        flow=flow, before=snapshot, after=None, trace=trace, correlation=correlation, observation=stitched.observation
    )
    timing = Timing(total_s=round(time.monotonic() - started, 6), collect_s=0.0, probe_s=0.0)
    verdict = diagnose(case, timing=timing, version=__version__)
    if verdict.outcome is Result.DELIVERED and not stitched.observation.sent:
        # The model alone would have it delivered; captures without a packet of it show no such thing.
        verdict = replace(verdict, outcome=Result.INCONCLUSIVE)
    return Answered(verdict=verdict, trace=trace, stitched=stitched)


def _between(flow: Flow, packets: Sequence[Placed]) -> list[Conversation]:
    """Return the conversations of a flow's ends, in other protocols or to other ports; each of these once."""
    from nettrace.conversations import conversations

    found: dict[tuple[Proto, int | None], Conversation] = {}
    for each in conversations((one.point, one.heard) for one in packets):
        if any((one.src, one.dst) == (flow.src.address, flow.dst.address) for one in each.where):
            found.setdefault((each.proto, each.port), each)
    return list(found.values())


def _asked(found: Sequence[Conversation], snapshot: Snapshot, most: int = 12) -> str:
    """Return how each of some conversations is asked for, a line each."""
    from nettrace.conversations import word_for

    lines = []
    for each in found[:most]:
        port = f" --proto {each.proto.value} --port {each.port}" if each.port is not None else ""
        ends = f"{word_for(each.src, snapshot)} {word_for(each.dst, snapshot)}"
        lines.append(f"\n  {ends}{port}  ({each.there} packets there, {each.back} back)")
    more = f"\n  and {len(found) - most} more" if len(found) > most else ""
    return "".join(lines) + more


# --- which flows there are --------------------------------------------------------------------------------------------

#: How many packets of each file are looked at for its conversations.
MOST_LISTED = 20_000


def list_conversations(
    paths: Sequence[Path], snapshot: Snapshot | None = None, named: Sequence[str] = ()
) -> tuple[tuple[Conversation, ...], tuple[Gap, ...]]:
    """Return the conversations that captures hold, and what of them was not looked at.

    With a snapshot, places are its devices, and captures that have none are left out; without, they are called as the
    files call them.
    """
    from nettrace.conversations import conversations
    from nettrace.wire.captured import LINKTYPES, read_frame

    captures = scan_files(paths, most=MOST_LISTED, keep=256)
    gaps = [Gap(section="capture", netns=each.label, reason=each.scan.cut) for each in captures if each.scan.cut]
    if snapshot is not None:
        devices, unplaced = place(captures, snapshot, named)
        placer = _Placer(captures, devices, snapshot)
        heard = [(each.point, each.heard) for family in (4, 6) for each in placer.packets(family)]
        return conversations(sorted(heard, key=lambda each: each[1].at_ns)), (*unplaced, *gaps)
    told: list[tuple[str, Heard]] = []
    for capture in captures:
        titles = [_title(capture, number, tap) for number, tap in enumerate(capture.scan.taps)]
        for record in capture.scan.records:
            tap = capture.scan.taps[record.tap]
            found = read_frame(record.data, tap.linktype, tap=record.tap, at_ns=record.at_ns, way=record.way)
            if found is not None:
                title = titles[record.tap]
                told.append((title if found.ifindex is None else f"{title}#{found.ifindex}", found))
        for number, tap in enumerate(capture.scan.taps):
            if tap.linktype not in LINKTYPES:
                reason = f"frames of link type {tap.linktype} are not known here"
                gaps.append(_unplaced(titles[number], reason))
    return conversations(sorted(told, key=lambda each: each[1].at_ns)), tuple(gaps)


def choose_conversation(
    paths: Sequence[Path], snapshot: Snapshot, named: Sequence[str], proto: Proto | None, port: int | None
) -> Conversation:
    """Return the only conversation that captures hold, of a protocol and to a port where these are given.

    Raises UsageError that lists them where there are several, and InputError where there is none.
    """
    found, _gaps = list_conversations(paths, snapshot, named)
    fits = [each for each in found if proto in (None, each.proto) and port in (None, each.port)]
    kinds = {(each.proto, each.src, each.dst, each.port) for each in fits}
    if not kinds:
        raise InputError("the captures hold no conversation to ask about; say who wanted to reach whom: SRC DST")
    if len(kinds) > 1:
        raise UsageError(f"the captures hold several conversations; say which, SRC DST:{_asked(fits, snapshot)}")
    return fits[0]
