"""Follow other people's packets through captures made by hand, and say what was seen where: an Observation.

Pure: Trace × packets × what each capture could see → Stitched. The packets carry no nonce, so they are followed by
what address translation does not touch, between the addresses that the model expects on the way. "Not seen" counts
only at a capture that covers the time of the packet: one that begins later, ends earlier, lost packets, or cut them
too short is blind. Where clocks of files differ, the packets themselves tell by how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import Packet, Proto
from nettrace.model.heard import Heard
from nettrace.model.observe import Blind, Frame, Observation, Open, Sent, Sighting, SightingKind, Way
from nettrace.model.path import Direction, StepKind, Trace
from nettrace.model.snapshot import Gap

__all__ = ["Listening", "Placed", "Stitched", "pairs_on_the_way", "stitch"]

#: How long after a packet a capture must go on for the silence after it to mean that no answer came: inside one host,
#: and from beyond it.
ANSWER_INSIDE_NS = 50_000_000
ANSWER_BEYOND_NS = 250_000_000
#: What passes a host in this time has not been delayed by it; differences of clocks below it are let be.
SLACK_NS = 5_000_000
CLOCK_NS = 20_000_000
#: Most packets of one flow that are followed.
MOST_PROBES = 1000
MOST_OF_STREAM = 200

_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_MASK = 0xFFFFFFFF
_WINDOW = 1 << 30
#: The mark of all segments of a connection whose opening was not captured.
_STREAM = "stream"
_REQUESTS, _ANSWERS = (8, 128), (0, 129)

Key = tuple[object, ...]


class Listening(Model):
    """One capture at one point. `clock` names whose clock it goes by: a file.

    `first_ns` and `last_ns` are when it began and ended, as far as the file shows, None for an empty one. `throughout`
    says that it ran all the time, whatever its packets show. `blind` is why its silence means nothing, empty when it
    does not lack anything.
    """

    point: str
    clock: str
    first_ns: int | None = None
    last_ns: int | None = None
    throughout: bool = False
    blind: str = ""


class Placed(Model):
    """One packet, with the point that it was heard at, and whose clock its time is by."""

    point: str
    clock: str
    heard: Heard
    frame: bytes = b""
    length: int = 0


class Stitched(Model):
    """What the captures show of a flow. `packets` counts those of the flow's own that were followed.

    `gaps` say what was left out, or taken for granted. `identities` are the bytes by which a packet of the flow is
    found whatever its addresses.
    """

    observation: Observation
    packets: int = 0
    gaps: tuple[Gap, ...] = ()
    identities: tuple[bytes, ...] = ()


class _Probe(Model):
    """One packet of the flow, under its number, with everywhere that it was heard."""

    number: int
    key: Key
    first: Placed
    heard: tuple[Placed, ...]
    replies: tuple[Placed, ...] = ()


def pairs_on_the_way(trace: Trace) -> tuple[set[tuple[IPAddress, IPAddress]], set[tuple[IPAddress, IPAddress]]]:
    """Return the addresses (source, destination) that the packet has on its way there, and its answer on its way back.

    All that the model expects, and their reverses: whoever translates one direction translates the other back.
    """
    there: set[tuple[IPAddress, IPAddress]] = set()
    back: set[tuple[IPAddress, IPAddress]] = set()
    for leg in (trace.forward, trace.reply):
        if leg is None:
            continue
        found = there if leg.direction is Direction.FORWARD else back
        for step in (*leg.steps, *leg.beyond):
            carried = step.packet.quoted or step.packet
            for packet in (step.packet, carried):
                if packet.proto in (1, 6, 17, 58) and not packet.src.is_unspecified:
                    found.add((packet.src, packet.dst))
    flow = trace.flow
    if flow.src.address is not None and flow.dst.address is not None:
        there.add((flow.src.address, flow.dst.address))
    return there | {(dst, src) for src, dst in back}, back | {(dst, src) for src, dst in there}


def stitch(trace: Trace, placed: Sequence[Placed], listenings: Sequence[Listening]) -> Stitched:
    """Return what captures show of a trace's flow, as if a probe run had heard it.

    `placed` are packets in any order; those that are not of the flow are left out.
    """
    sorter = _Sorter(trace)
    offsets, clock_gaps = _clocks(sorter, placed)
    placed = sorted((_on_time(each, offsets.get(each.clock, 0)) for each in placed), key=_when)
    shifted = [_shifted(each, offsets.get(each.clock, 0)) for each in listenings]
    points = [point.id for point in trace.points]
    probes = sorter.probes([each for each in placed if each.point in points])
    gaps = [*clock_gaps, *_off_the_way(sorter, placed, points)]
    cover = _Cover(trace, shifted)
    chosen = _best_covered(probes, cover, points)
    if len(chosen) < len(probes):
        text = f"{len(probes) - len(chosen)} of {len(probes)} packets passed while fewer captures ran, and are left out"
        gaps.append(Gap(section="capture", netns=None, reason=text))
    asked = sorter.neighbours(placed, points)
    if not chosen:
        chosen_times = sorter.waiting(asked)
        sent = tuple(Sent(nonce=0, at_ns=at_ns) for at_ns in chosen_times)
    else:
        sent = tuple(Sent(nonce=index, at_ns=each.first.heard.at_ns) for index, each in enumerate(chosen))
        chosen_times = [each.at_ns for each in sent]
    frames: list[Frame] = []
    sightings = _sightings(sorter, chosen, placed, points, frames)
    sightings += [_framed(asked_one, source, frames) for asked_one, source in zip(asked, sorter.asked, strict=True)]
    sightings.sort(key=lambda each: each.at_ns)
    captures = tuple(_state(point, cover, sightings, chosen_times, trace) for point in points)
    captures = tuple(
        replace(each, frames=sum(frame.point == each.point for frame in frames)) if isinstance(each, Open) else each
        for each in captures
    )
    times = [each.at_ns for each in sightings]
    observation = Observation(
        captures=captures,
        sent=sent,
        sightings=tuple(sightings),
        frames=tuple(frames),
        timed_out=not any(each.kind is SightingKind.REPLY for each in sightings),
        started_ns=min(times, default=0),
        ended_ns=max(times, default=0),
    )
    return Stitched(
        observation=observation, packets=len(chosen), gaps=tuple(gaps), identities=sorter.identities(chosen)
    )


_ASKING = (SightingKind.ARP_REQUEST, SightingKind.NDP_SOLICIT)


class _Sorter:
    """Tells what each packet is to the flow."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        flow = trace.flow
        self.proto = {Proto.ICMP: 1 if flow.family == 4 else 58, Proto.TCP: 6, Proto.UDP: 17}[flow.proto]
        self.there, self.back = pairs_on_the_way(trace)
        steps = [step for leg in (trace.forward, trace.reply) if leg is not None for step in (*leg.steps, *leg.beyond)]
        ports = [step.packet.dport for step in (*trace.forward.steps, *trace.forward.beyond)]
        self.ports = {port for port in (flow.dport, *ports) if port is not None}
        self.neighbour_addresses = {step.next_hop for step in steps if step.next_hop is not None}
        self.neighbour_addresses |= {address for pair in (*self.there, *self.back) for address in pair}
        self.synchronised = False
        self.index: dict[object, list[_Probe]] = {}
        self.asked: list[Placed] = []

    # -- which half of the conversation ---------------------------------------------------------------------------

    def forward(self, heard: Heard) -> bool:
        """Tell whether a packet goes the flow's way, by its headers."""
        packet = heard.packet
        if packet.proto != self.proto or heard.neighbour is not None or heard.about is not None:
            return False
        if (packet.src, packet.dst) not in self.there:
            return False
        return packet.icmp_type in _REQUESTS if packet.icmp_type is not None else packet.dport in self.ports

    def answers(self, heard: Heard) -> bool:
        """Tell whether a packet goes the answer's way, by its headers."""
        packet = heard.packet
        if packet.proto != self.proto or heard.neighbour is not None or heard.about is not None:
            return False
        if (packet.src, packet.dst) not in self.back:
            return False
        return packet.icmp_type in _ANSWERS if packet.icmp_type is not None else packet.sport in self.ports

    def key(self, heard: Heard) -> Key | None:
        """Return what a packet of the flow is known by at every point; None for one that stands for nothing."""
        packet = heard.packet
        if packet.icmp_type is not None:
            return (heard.ident, heard.number, heard.payload)
        if packet.proto == 6:
            flags = packet.tcp_flags or 0
            opening = flags & (_SYN | _ACK | _RST) == _SYN
            if opening or (not self.synchronised and heard.payload_length > 0 and not flags & _RST):
                return (heard.number, opening)
            return None
        return (heard.ident, heard.payload_length, heard.payload)

    def expected_way(self, direction: Direction, point: str) -> Way:
        """Return whether the model has the packet go into a device or out of it."""
        leg = self.trace.forward if direction is Direction.FORWARD else self.trace.reply
        for step in (*leg.steps, *leg.beyond) if leg is not None else ():
            if step.point == point and step.kind in (StepKind.XMIT, StepKind.RECEIVE):
                return Way.OUT if step.kind is StepKind.XMIT else Way.IN
        return Way.IN

    # -- the packets that stand for the flow -----------------------------------------------------------------------

    def probes(self, placed: Sequence[Placed]) -> list[_Probe]:
        """Return the flow's packets, each with where it and its answers were heard, in order of time."""
        size = self.trace.flow.size
        going = [each for each in placed if self.forward(each.heard)]
        opening = [each for each in going if (each.heard.packet.tcp_flags or 0) & (_SYN | _ACK) == _SYN]
        if size is not None:
            # Cut into fragments on its way it is the same packet still.
            large = [each for each in going if each.heard.packet.length >= size]
            whole = [each for each in large if each.heard.packet.df or each.heard.packet.family == 6]
            keys = {self.key(each.heard) for each in whole or large}
            going = [each for each in going if self.key(each.heard) in keys]
        elif opening:
            self.synchronised = True
            going = opening
        most = MOST_OF_STREAM if self.proto == 6 and not self.synchronised else MOST_PROBES
        groups: dict[Key, list[Placed]] = {}
        for each in going:
            key = self.key(each.heard)
            if key is not None and (key in groups or len(groups) < most):
                groups.setdefault(key, []).append(each)
        # Packets of the flow under addresses that nobody expected: the same in all that is not translated.
        for each in placed:
            heard = each.heard
            if heard.packet.proto != self.proto or heard.neighbour or heard.about or self.forward(heard):
                continue
            if heard.packet.icmp_type is not None and heard.packet.icmp_type not in _REQUESTS:
                continue
            key = self.key(heard)
            if key in groups and not self.answers(heard) and key is not None and _telling(heard):
                groups[key].append(each)
        made = [
            _Probe(number=number, key=key, first=min(group, key=_when), heard=tuple(group))
            for number, (key, group) in enumerate(groups.items())
        ]
        return self._with_answers(made, placed)

    def _with_answers(self, probes: list[_Probe], placed: Sequence[Placed]) -> list[_Probe]:
        self.index = self._indexed(probes)
        replies: dict[int, list[Placed]] = {}
        for each in placed:
            number = self._answered(each.heard)
            if number is not None:
                replies.setdefault(number, []).append(each)
        return [replace(each, replies=tuple(replies.get(each.number, ()))) for each in probes]

    def _indexed(self, probes: Sequence[_Probe]) -> dict[object, list[_Probe]]:
        """Return the probes by what their answers must hold."""
        index: dict[object, list[_Probe]] = {}
        for probe in probes:
            sent = probe.first.heard
            if sent.packet.icmp_type is not None:
                marks: set[object] = {(sent.number, sent.payload)}
            elif self.proto == 6:
                assert sent.number is not None
                marks = {sent.number + 1 & _MASK} if probe.key[1] else {_STREAM}
            else:
                marks = {each.heard.packet.sport for each in probe.heard}
            for mark in marks:
                index.setdefault(mark, []).append(probe)
        return index

    def _answered(self, heard: Heard) -> int | None:
        """Return the number of the probe that a packet answers: of several that it may, the last before it."""
        packet = heard.packet
        expected = self.answers(heard)
        if packet.proto != self.proto or heard.neighbour or heard.about:
            return None
        if not expected and (self.proto == 17 or not _telling(heard)):
            return None
        found: int | None = None
        for probe in self._candidates(heard):
            if probe.first.heard.at_ns > heard.at_ns + SLACK_NS and found is not None:
                break
            found = probe.number
        return found

    def _candidates(self, heard: Heard) -> list[_Probe]:
        """Return the probes that a packet may be the answer to, in their order."""
        packet = heard.packet
        if packet.icmp_type is not None:
            return self.index.get((heard.number, heard.payload), []) if packet.icmp_type in _ANSWERS else []
        if self.proto == 17:
            near = self.index.get(packet.dport, [])
            return [each for each in near if _same_question(each.first.heard, heard)]
        if heard.ack is None:
            return []
        flags = packet.tcp_flags or 0
        opened = self.index.get(heard.ack, []) if flags & (_SYN | _RST) else []
        return opened or [each for each in self.index.get(_STREAM, ()) if _acknowledged(each.first.heard, heard.ack)]

    def quotes(self, heard: Heard, probes: Sequence[_Probe]) -> int | None:
        """Return the number of the probe that an ICMP error is about."""
        about = heard.about
        if about is None or about.packet.proto != self.proto:
            return None
        expected = (about.packet.src, about.packet.dst) in self.there
        for probe in probes:
            sent = probe.first.heard
            if about.packet.icmp_type is not None or self.proto == 6:
                same = about.number == sent.number
            else:
                ports = {(each.heard.packet.sport, each.heard.packet.dport) for each in probe.heard}
                same = (about.packet.sport, about.packet.dport) in ports
            if same and (expected or (about.ident and about.ident == sent.ident)):
                return probe.number
        return None

    # -- who asked for whom ----------------------------------------------------------------------------------------

    def neighbours(self, placed: Sequence[Placed], points: Sequence[str]) -> list[Sighting]:
        """Return the ARP and NDP messages about addresses on the way."""
        found: list[Sighting] = []
        self.asked = []
        for each in placed:
            kind, packet = each.heard.neighbour, each.heard.packet
            if kind is None or each.point not in points or len(found) >= MOST_PROBES:
                continue
            about = packet.dst if kind in _ASKING else packet.src
            other = packet.src if kind in _ASKING else packet.dst
            if about in self.neighbour_addresses and (other in self.neighbour_addresses or packet.family == 6):
                self.asked.append(each)
                found.append(_sighting(each, kind, None))
        return found

    def waiting(self, asked: Sequence[Sighting]) -> list[int]:
        """Return when the source asked in vain for its next hop: a packet waits for the answer, and is never seen.

        One time at most; none where there was an answer, or nobody asked.
        """
        source = self.trace.flow.src.netns
        hops = {step.next_hop for step in self.trace.forward.steps if step.netns == source and step.next_hop}
        own = {src for src, _dst in self.there}
        asking = [each for each in asked if each.kind in _ASKING and each.packet.dst in hops and each.packet.src in own]
        answered = {each.packet.src for each in asked if each.kind not in _ASKING}
        return [each.at_ns for each in asking if each.packet.dst not in answered][:1]

    def identities(self, probes: Sequence[_Probe]) -> tuple[bytes, ...]:
        """Return the bytes by which the first few packets of the flow are found under any addresses."""
        found: dict[bytes, None] = {}
        for each in probes[:2]:
            sent = each.first.heard
            if sent.packet.proto == 6 and sent.number is not None:
                following = (0 if sent.ack is None else sent.ack).to_bytes(4, "big")
                found[sent.number.to_bytes(4, "big") + following] = None
                found[(sent.number + 1 & _MASK).to_bytes(4, "big")] = None
            elif sent.packet.icmp_type is not None and sent.number is not None and _telling(sent):
                found[sent.number.to_bytes(2, "big") + sent.payload] = None
            elif sent.packet.proto == 17 and _telling(sent):
                found[sent.payload] = None
        return tuple(found)


def _acknowledged(sent: Heard, ack: int) -> bool:
    """Tell whether an acknowledgement covers a segment, as sequence numbers go round (RFC 9293)."""
    return sent.number is not None and ack - sent.number - sent.payload_length & _MASK < _WINDOW


def _telling(heard: Heard) -> bool:
    """Tell whether a packet has enough of its own to be known among strangers."""
    return heard.packet.proto == 6 or len(set(heard.payload)) >= 4


def _same_question(sent: Heard, heard: Heard) -> bool:
    """A DNS answer has the question's number; of other protocols nothing is known."""
    if 53 in (sent.packet.dport, heard.packet.sport) and len(sent.payload) >= 2:
        return sent.payload[:2] == heard.payload[:2]
    return True


def _when(each: Placed) -> int:
    return each.heard.at_ns


def _on_time(each: Placed, offset: int) -> Placed:
    return replace(each, heard=replace(each.heard, at_ns=each.heard.at_ns - offset)) if offset else each


def _shifted(each: Listening, offset: int) -> Listening:
    return replace(
        each,
        first_ns=None if each.first_ns is None else each.first_ns - offset,
        last_ns=None if each.last_ns is None else each.last_ns - offset,
    )


# --- clocks ---------------------------------------------------------------------------------------------------------


def _clocks(sorter: _Sorter, placed: Sequence[Placed]) -> tuple[dict[str, int], list[Gap]]:
    """Return by how many ns each file's clock is ahead of the first file's, as packets heard in both tell it.

    A packet on its way there is heard later by what it took, an answer earlier: half the sum of both is the clocks'.
    """
    names = list(dict.fromkeys(each.clock for each in sorted(placed, key=_when)))
    if len(names) < 2:
        return {}, []
    first: dict[tuple[str, bool, Key], int] = {}
    for each in placed:
        heard = each.heard
        going, coming = sorter.forward(heard), sorter.answers(heard)
        if not (going or coming):
            continue
        # Sent again, a segment has another identification.
        key: Key = (heard.ident, heard.number, heard.ack, heard.payload_length, heard.payload, heard.packet.tcp_flags)
        place = (each.clock, going, key)
        first[place] = min(first.get(place, heard.at_ns), heard.at_ns)
    offsets: dict[str, int] = {}
    gaps: list[Gap] = []
    reference = names[0]
    for name in names[1:]:
        deltas: dict[bool, list[int]] = {True: [], False: []}
        for (clock, going, key), at_ns in first.items():
            if clock == name and (reference, going, key) in first:
                deltas[going].append(at_ns - first[reference, going, key])
        middles = [sorted(each)[len(each) // 2] for each in deltas.values() if each]
        if not middles:
            continue
        offset = sum(middles) // len(middles)
        if abs(offset) < CLOCK_NS:
            continue
        offsets[name] = offset
        ahead = "ahead of" if offset > 0 else "behind"
        text = (
            f"the clock of {name} is {abs(offset) / 1e9:.3f} s {ahead} that of {reference}, by the packets that both "
            "hold; its times are corrected"
        )
        gaps.append(Gap(section="capture", netns=None, reason=text))
    return offsets, gaps


# --- what each capture could see --------------------------------------------------------------------------------------


class _Cover:
    """Which captures could have seen a packet, and an answer to it, by their times."""

    def __init__(self, trace: Trace, listenings: Iterable[Listening]) -> None:
        self.at: dict[str, list[Listening]] = {}
        for each in listenings:
            self.at.setdefault(each.point, []).append(each)
        inside = trace.flow.dst.netns is not None
        self.wait_ns = ANSWER_INSIDE_NS if inside else ANSWER_BEYOND_NS

    def there(self, point: str, at_ns: int) -> bool:
        """Tell whether a packet sent at a time would have been seen at a point."""
        return any(_covers(each, at_ns, at_ns) for each in self.at.get(point, ()))

    def back(self, point: str, at_ns: int) -> bool:
        """Tell whether an answer to a packet sent at a time would have been seen at a point."""
        return any(_covers(each, at_ns, at_ns + self.wait_ns) for each in self.at.get(point, ()))

    def why_blind(self, point: str, times: Sequence[int], *, answer: bool) -> str:
        """Say why silence at a point means nothing; empty when it means something."""
        here = self.at.get(point, ())
        if not here:
            return "nobody captured here"
        lacking = [each.blind for each in here if each.blind]
        if len(lacking) == len(here):
            return lacking[0]
        covers = self.back if answer else self.there
        if times and all(covers(point, at_ns) for at_ns in times):
            return ""
        begun = [each.first_ns for each in here if each.first_ns is not None]
        if not begun:
            return "its capture is empty: nothing shows that it ran when the packet passed (if it did: --throughout)"
        if times and min(begun) > min(times) + SLACK_NS:
            return f"its capture begins {(min(begun) - min(times)) / 1e9:.3f} s after the packet"
        if not times:
            return "no packet shows what it should have seen"
        return "its capture ends too early to tell (if it did not: --throughout)"


def _covers(each: Listening, begin_ns: int, end_ns: int) -> bool:
    if each.blind:
        return False
    if each.throughout:
        return True
    if each.first_ns is None or each.last_ns is None:
        return False
    return each.first_ns - SLACK_NS <= begin_ns and end_ns <= each.last_ns + SLACK_NS


def _best_covered(probes: Sequence[_Probe], cover: _Cover, points: Sequence[str]) -> list[_Probe]:
    """Return the probes that most captures could see with their answers: only these can be compared."""
    ranks: list[int] = []
    for probe in probes:
        at_ns = probe.first.heard.at_ns
        seen = {each.point for each in probe.heard}
        answered = {each.point for each in probe.replies}
        ranks.append(
            sum(
                (point in seen or cover.there(point, at_ns)) + (point in answered or cover.back(point, at_ns))
                for point in points
            )
        )
    best = max(ranks, default=0)
    return [probe for probe, rank in zip(probes, ranks, strict=True) if rank == best]


def _state(
    point: str, cover: _Cover, sightings: Sequence[Sighting], times: Sequence[int], trace: Trace
) -> Open | Blind:
    kinds = {each.kind for each in sightings if each.point == point}
    there = SightingKind.PROBE in kinds
    back = bool(kinds & {SightingKind.REPLY, SightingKind.RESET})
    if there and back:
        return Open(point=point)
    on_the_way = any(step.point == point for step in (*trace.forward.steps, *trace.forward.beyond))
    answer = there or not on_the_way
    why = cover.why_blind(point, times, answer=answer)
    return Blind(point=point, reason=why) if why else Open(point=point)


# --- sightings --------------------------------------------------------------------------------------------------------


def _sightings(
    sorter: _Sorter, probes: Sequence[_Probe], placed: Sequence[Placed], points: Sequence[str], frames: list[Frame]
) -> list[Sighting]:
    found: list[Sighting] = []
    for nonce, probe in enumerate(probes):
        for each in probe.heard:
            way = sorter.expected_way(Direction.FORWARD, each.point)
            found.append(_framed(_sighting(each, SightingKind.PROBE, nonce, way), each, frames))
        for each in probe.replies:
            reset = bool((each.heard.packet.tcp_flags or 0) & _RST)
            kind = SightingKind.RESET if reset else SightingKind.REPLY
            way = sorter.expected_way(Direction.REPLY, each.point)
            found.append(_framed(_sighting(each, kind, nonce, way), each, frames))
    numbers = {probe.number: nonce for nonce, probe in enumerate(probes)}
    for each in placed:
        number = sorter.quotes(each.heard, probes) if each.point in points else None
        if number is not None:
            found.append(_framed(_sighting(each, SightingKind.ICMP_ERROR, numbers[number]), each, frames))
    return found


def _sighting(each: Placed, kind: SightingKind, nonce: int | None, way: Way = Way.IN) -> Sighting:
    """Return a packet as a sighting; `way` is how it passed the device where the capture does not tell."""
    heard = each.heard
    packet: Packet = heard.outer if heard.outer is not None else heard.packet
    if heard.stranger:
        # The capture says only that the frame was for somebody else: an address that no device has.
        packet = replace(packet, dst_mac="00:00:00:00:00:00")
    return Sighting(point=each.point, kind=kind, way=heard.way or way, at_ns=heard.at_ns, packet=packet, nonce=nonce)


def _framed(sighting: Sighting, each: Placed, frames: list[Frame]) -> Sighting:
    frames.append(
        Frame(
            point=each.point,
            way=sighting.way,
            at_ns=sighting.at_ns,
            data=each.frame,
            length=max(each.length, len(each.frame)),
        )
    )
    return replace(sighting, frame=len(frames) - 1)


def _off_the_way(sorter: _Sorter, placed: Sequence[Placed], points: Sequence[str]) -> list[Gap]:
    """Say where packets of the flow were heard although the model leads none there."""
    elsewhere = {
        each.point
        for each in placed
        if each.point not in points and (sorter.forward(each.heard) or sorter.answers(each.heard))
    }
    return [
        Gap(section="capture", netns=point, reason="packets of the flow were seen here, where the model leads none")
        for point in sorted(elsewhere)
    ]
