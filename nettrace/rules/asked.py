"""Where an ARP or NDP request, or its answer, is lost.

The model walks IP packets; of the request before them it knows who sends it and who should take it. Where it was made
in vain, it is followed here over the devices of the link, from the asker to the holder and back, by what the captures
heard: it is lost behind the last of them and before the next, and whatever is there and can drop it is a suspect.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, HookResult, RuleRef, Tracking
from nettrace.model.observe import Open, Sighting, SightingKind, Way
from nettrace.model.path import Outcome, Point, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Link
from nettrace.netfilter.ruleset import Drop
from nettrace.predict import neigh, traffic
from nettrace.predict.children import KINDS, children_of
from nettrace.predict.hooks import run_hook
from nettrace.predict.segment import Places
from nettrace.predict.world import View
from nettrace.rules.case import Case
from nettrace.rules.traffic_facts import between, counts, queue_drops, rise_of

_REQUESTS = (SightingKind.ARP_REQUEST, SightingKind.NDP_SOLICIT)
_ANSWERS = (SightingKind.ARP_REPLY, SightingKind.NDP_ADVERT)
#: What an ARP packet and a solicitation are long as frames, in bytes.
_LENGTH = {4: 42, 6: 86}
#: Words of a rule that only IP packets can match.
_IP_ONLY = re.compile(r"\b(?:ip6?|tcp|udp|icmp|icmpv6|sctp|th|ct) |protocol ip6?\b|-p (?!arp\b)", re.IGNORECASE)
_ABOUT_REQUESTS = re.compile(r"operation request|--opcode (?:1|Request)\b", re.IGNORECASE)
_ABOUT_ANSWERS = re.compile(r"operation reply|--opcode (?:2|Reply)\b", re.IGNORECASE)
_ARP, _SOLICIT, _ADVERT = "arp", 135, 136


class What(StrEnum):
    """What a frame meets at a spot of its way; OUT and IN are where captures hear it, AFAR is out of sight."""

    SENT = "sent"
    EGRESS = "egress"
    OUT = "out"
    XDP = "xdp"
    IN = "in"
    INGRESS = "ingress"
    BRIDGE = "bridge"
    TAKEN = "taken"
    AFAR = "afar"


class Spot(msgspec.Struct, frozen=True):
    """One spot on the way of a request (`answer` False) or of its answer."""

    what: What
    view: View
    link: Link
    answer: bool


class Suspect(msgspec.Struct, frozen=True):
    """What may have dropped a request or its answer: a rule, or something of a device's traffic control.

    `step` tells it as a stop of the packet that waits. `rise` is by how much its drop counter rose,
    None if it has none; `certain`: what it drops was read.
    """

    spot: Spot
    step: Step
    ref: RuleRef | None = None
    program: str | None = None
    rise: int | None = None
    certain: bool = False


class Lost(msgspec.Struct, frozen=True):
    """A request in vain: the stop that it makes, the decision that waits for it, and between which points it is lost.

    `after` is the last point that heard the request or the answer (`answered`: the answer), `before` the first that
    should have and did not. Suspects come in the order in which the frame meets them, the likeliest first.
    """

    blocker: Blocker
    step: Step
    after: str | None
    before: str | None
    answered: bool
    suspects: tuple[Suspect, ...]


def find_lost_ask(case: Case) -> Lost | None:
    """Return the request whose loss is why a packet is lost on the wire, None when no request was made in vain."""
    for blocker in case.blockers:
        if blocker.step is not None:
            continue
        for _direction, step in between(case, blocker):
            resolved = step.kind is StepKind.NEIGHBOUR and step.outcome is Outcome.PASS
            if resolved and step.next_hop is not None and asked_in_vain(case, step, step.next_hop):
                return _follow(case, blocker, step, step.next_hop)
    return None


def dropped_by_rule(case: Case) -> list[tuple[Blocker, Step, RuleRef]]:
    """Return the stop that a rule makes by dropping ARP or NDP: the blocker, the step as it took it, and the rule."""
    lost = case.lost_ask
    first = lost.suspects[0] if lost is not None and lost.suspects else None
    return [(lost.blocker, first.step, first.ref)] if lost is not None and first is not None and first.ref else []


def asked_in_vain(case: Case, step: Step, next_hop: IPAddress) -> bool:
    """Tell whether a next hop was asked for and did not answer, by the wire or by the kernel's own table."""
    if any(each.packet.dst == next_hop and _there(case, each, step) for each in case.correlation.arp_unanswered):
        return True
    later = case.world_after.view(step.netns) if case.world_after is not None else None
    if later is None:
        return False
    entry = later.neighbours.get((step.ifindex or 0, next_hop))
    return entry is not None and entry.state in ("FAILED", "INCOMPLETE")


def _there(case: Case, request: Sighting, step: Step) -> bool:
    """Tell whether a request was heard on the link that the step asks on, not by another device of the namespace."""
    point = next((each for each in case.trace.points if each.id == request.point), None)
    view = case.view(step.netns)
    link = view.links.get(point.ifindex) if view is not None and point is not None else None
    if point is None or link is None or point.netns != step.netns:
        return True
    return step.ifindex in (link.ifindex, link.master)


# --- the way ------------------------------------------------------------------------------------------------------


def _follow(case: Case, blocker: Blocker, step: Step, next_hop: IPAddress) -> Lost | None:
    view = case.world.views[step.netns]
    asker = view.links.get(step.ifindex or 0)
    if asker is None:
        return None
    spots = _way(case, view, asker, next_hop)
    heard = [_heard(case, spot, next_hop) for spot in spots]
    last = max((index for index, seen in enumerate(heard) if seen), default=None)
    start = 0 if last is None else last + 1
    end = next((index for index in range(start, len(spots)) if heard[index] is False), len(spots) - 1)
    gap = spots[start : end + 1]
    silent = last is None and _asked_before(view, asker, next_hop)
    if silent:
        # The kernel had asked already, and its next try was not due while the captures were open.
        gap = spots
    # What is beyond this host's sight may have kept silent: nothing behind it is to blame.
    afar = next((index for index, spot in enumerate(gap) if spot.what is What.AFAR), len(gap))
    suspects = [each for spot in gap[:afar] for each in _suspects(case, step, spot, next_hop)]
    # A counter that did not move is the word of a rule that it dropped nothing; filters may take away uncounted.
    suspects = [each for each in suspects if silent or each.ref is None or each.rise != 0]
    suspects.sort(key=_likelihood)
    return Lost(
        blocker=blocker,
        step=step,
        after=_point_id(case, spots[last]) if last is not None else None,
        before=_point_id(case, spots[end]) if heard[end] is False and not silent else None,
        answered=last is not None and spots[last].answer,
        suspects=tuple(suspects),
    )


def _asked_before(view: View, asker: Link, next_hop: IPAddress) -> bool:
    """Tell whether a request was under way before the probe (NUD_INCOMPLETE)."""
    entry = view.neighbours.get((asker.ifindex, next_hop))
    return entry is not None and entry.state == "INCOMPLETE"


def _likelihood(suspect: Suspect) -> int:
    """Order suspects: what counted a drop, what says that it drops, what is not counted, what counted none."""
    if suspect.rise:
        return 0
    if suspect.ref is not None or suspect.certain:
        return 1
    return 2 if suspect.rise is None else 3


def _way(case: Case, view: View, asker: Link, next_hop: IPAddress) -> list[Spot]:
    """Return the spots of a request to the next hop's holder and of its answer, in the order they are met."""
    path = _path(case, view, asker, next_hop)
    if path is None:
        there = list(_leg([(view, asker)], answer=False))
        far = Spot(What.AFAR, view, asker, True)
        back = [Spot(what, view, asker, True) for what in (What.XDP, What.IN, What.INGRESS, What.TAKEN)]
        return [*there, far, *back]
    there = [*_leg(path, answer=False), Spot(What.TAKEN, *path[-1], False)]
    back = [*_leg(path[::-1], answer=True), Spot(What.TAKEN, *path[0], True)]
    return [*there, *back]


def _leg(path: list[tuple[View, Link]], *, answer: bool) -> Iterator[Spot]:
    """Yield what a frame meets between the ends of a path (br_dev_xmit, br_handle_frame, veth_xmit)."""
    leaving, entering = (What.EGRESS, What.OUT), (What.XDP, What.IN, What.INGRESS)
    for index, (view, link) in enumerate(path):
        if index == 0:
            for what in (What.SENT, *leaving):
                yield Spot(what, view, link, answer)
            continue
        past_view, past = path[index - 1]
        if past_view.id == view.id and past.master == link.ifindex:
            yield Spot(What.BRIDGE, view, link, answer)
            met: tuple[What, ...] = entering if index == len(path) - 1 else ()
        elif past_view.id == view.id and link.master == past.ifindex:
            if index == 1:
                yield Spot(What.BRIDGE, view, past, answer)
            met = leaving
        elif past.kind in (*KINDS, "vlan") and past.peer_ifindex == link.ifindex:
            met = leaving
        else:
            met = entering
        for what in met:
            yield Spot(what, view, link, answer)


def _path(case: Case, view: View, asker: Link, next_hop: IPAddress) -> list[tuple[View, Link]] | None:
    """Return the devices between the asker and the one that holds the next hop, None when none is in sight."""
    holders = {
        (each.netns, each.ifindex)
        for each in neigh.segment_of(case.world, view, asker).members
        if next_hop in case.world.views[each.netns].owned and (each.netns, each.ifindex) != (view.id, asker.ifindex)
    }
    came: dict[tuple[int, int], tuple[View, Link] | None] = {(view.id, asker.ifindex): None}
    queue = deque([(view, asker)])
    while queue:
        here, link = queue.popleft()
        if (here.id, link.ifindex) in holders:
            path = [(here, link)]
            while (before := came[path[-1][0].id, path[-1][1].ifindex]) is not None:
                path.append(before)
            return path[::-1]
        for there, far in _beside(case, here, link):
            if (there.id, far.ifindex) not in came:
                came[there.id, far.ifindex] = (here, link)
                queue.append((there, far))
    return None


def _beside(case: Case, view: View, link: Link) -> Iterator[tuple[View, Link]]:
    """Yield the devices that frames of a device go to, or come from, directly."""
    if link.master is not None and link.master in view.links:
        yield view, view.links[link.master]
    for port in view.ports.get(link.ifindex, ()):
        yield view, port
    if link.kind in ("veth", "vlan", *KINDS):
        far = case.world.far_end(view, link)
        if far is not None:
            yield far
    yield from children_of(case.world, view, link)


def _heard(case: Case, spot: Spot, next_hop: IPAddress) -> bool | None:
    """Tell whether a capture heard the request or the answer at a spot; None where none could."""
    point = _point(case, spot)
    if spot.what not in (What.OUT, What.IN) or point is None or case.observation is None:
        return None
    way = Way.OUT if spot.what is What.OUT else Way.IN
    for each in case.observation.sightings:
        if each.point != point.id or each.way is not way:
            continue
        if each.kind in _ANSWERS and spot.answer and each.packet.src == next_hop:
            return True
        if each.kind in _REQUESTS and not spot.answer and each.packet.dst == next_hop:
            return True
    return False if isinstance(case.observation.capture(point.id), Open) else None


def _point(case: Case, spot: Spot) -> Point | None:
    place = (spot.view.id, spot.link.ifindex)
    return next((each for each in case.trace.points if (each.netns, each.ifindex) == place), None)


def _point_id(case: Case, spot: Spot) -> str | None:
    point = _point(case, spot)
    return point.id if point is not None else None


# --- suspects -----------------------------------------------------------------------------------------------------


def _suspects(case: Case, step: Step, spot: Spot, next_hop: IPAddress) -> Iterator[Suspect]:
    """Yield what can drop the frame at a spot, in the order in which the kernel asks it."""
    family = next_hop.version
    if spot.what is What.XDP:
        yield from _programs(case, step, spot, traffic.Place.XDP, family)
    elif spot.what is What.INGRESS:
        yield from _programs(case, step, spot, traffic.Place.INGRESS, family)
        yield from _rules(case, step, spot, next_hop, "netdev", (Hook.INGRESS,))
    elif spot.what is What.EGRESS:
        yield from _rules(case, step, spot, next_hop, "netdev", (Hook.EGRESS,))
        yield from _programs(case, step, spot, traffic.Place.EGRESS, family)
        yield from _queues(case, step, spot)
    elif spot.what is What.BRIDGE:
        hooks = (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING)
        yield from _rules(case, step, spot, next_hop, "bridge", hooks)
        if family == 4:
            # br_netfilter shows bridged ARP to arptables' FORWARD.
            yield from _rules(case, step, spot, next_hop, "arp", (Hook.FORWARD,))
    elif spot.what in (What.SENT, What.TAKEN):
        hook = Hook.OUTPUT if spot.what is What.SENT else Hook.INPUT
        yield from _rules(case, step, spot, next_hop, "arp" if family == 4 else "ip6", (hook,))


def _programs(case: Case, step: Step, spot: Spot, place: traffic.Place, family: int) -> Iterator[Suspect]:
    protocol = _ARP if family == 4 else traffic.of_family(family)
    link, view = spot.link, spot.view
    found = traffic.met(link, place, protocol=protocol, length=_LENGTH[family], find=view.by_name.get)
    if found is not None:
        places = Places(case.world, case.flow)
        told = _stop(step, spot, places.device(view, link), found.why, Reason.TC_DROP, kind=StepKind.TC, link=link)
        told = replace(told, program=found.program)
        by = rise_of(case, view, link, found.program) if counts(case, link, found.program) else None
        yield Suspect(spot, told, None, found.program, by, found.outcome is Outcome.DROP)


def _queues(case: Case, step: Step, spot: Spot) -> Iterator[Suspect]:
    """Yield the queues of a device that threw something away while the request was due."""
    places = Places(case.world, case.flow)
    for text, by in queue_drops(case, spot.view, spot.link):
        why = f"{spot.link.name}'s queue drops {by} packets: {text}" if by else f"{spot.link.name} holds it: {text}"
        segment = places.device(spot.view, spot.link)
        told = _stop(step, spot, segment, why, Reason.TC_DROP, kind=StepKind.TC, link=spot.link)
        yield Suspect(spot, replace(told, program=text), None, text, by, certain=False)


def _rules(
    case: Case, step: Step, spot: Spot, next_hop: IPAddress, family: str, hooks: tuple[Hook, ...]
) -> Iterator[Suspect]:
    view, places = spot.view, Places(case.world, case.flow)
    segment = {"bridge": Segment.BRIDGE, "netdev": places.device(view, spot.link)}.get(family)
    found = _arp_rules if next_hop.version == 4 else _ndp_rules
    for hook, ref in found(step, spot, family, hooks, next_hop):
        decided = HookResult(
            hook=hook, verdict=FilterVerdict.DROP, packet=step.packet, tracking=Tracking(), decided_by=ref
        )
        text = f"{ref.family} {hook.upper()} drops {'ARP' if next_hop.version == 4 else 'NDP'}: {ref.text}"
        told = _stop(step, spot, segment or places.stack(view, "stack"), text, Reason.FILTERED, hook=decided)
        yield Suspect(spot, told, ref, None, case.rise(view.id, ref) if ref.packets is not None else None)


def _stop(step: Step, spot: Spot, segment: Segment, text: str, reason: Reason, **facts: Any) -> Step:
    """Return the decision that waits as one that was stopped at a spot."""
    facts = {"kind": StepKind.HOOK, **facts}
    return replace(
        step,
        netns=spot.view.id,
        segment=segment,
        text=text,
        outcome=Outcome.DROP,
        reason=reason,
        device=spot.link.name,
        ifindex=spot.link.ifindex,
        neighbour=None,
        **facts,
    )


def _arp_rules(
    _step: Step, spot: Spot, family: str, hooks: tuple[Hook, ...], _next_hop: IPAddress
) -> Iterator[tuple[Hook, RuleRef]]:
    """Yield the rules and policies that drop ARP, by what they say: the evaluator knows IP packets alone."""
    for table in spot.view.ruleset.tables:
        if table.family != family or table.dormant:
            continue
        bases = [chain for chain in table.chains.values() if chain.base is not None and chain.base.hook in hooks]
        bases = [each for each in bases if each.base and (not each.base.devices or spot.link.name in each.base.devices)]
        for chain in bases:
            assert chain.base is not None
            for rule in chain.rules:
                if any(isinstance(each, Drop) for each in rule.exprs) and _may_match(rule.ref, spot):
                    yield chain.base.hook, rule.ref
            if chain.base.policy == "drop":
                yield chain.base.hook, chain.ref
        # What own chains hold is taken to be jumped to from any of them.
        for chain in table.chains.values() if bases else ():
            for rule in chain.rules if chain.base is None else ():
                base = bases[0].base
                if base and any(isinstance(each, Drop) for each in rule.exprs) and _may_match(rule.ref, spot):
                    yield base.hook, rule.ref


def _may_match(ref: RuleRef, spot: Spot) -> bool:
    """Tell whether a rule may match ARP in this direction."""
    if (_ABOUT_REQUESTS if spot.answer else _ABOUT_ANSWERS).search(ref.text):
        return False
    about_arp = ref.family == "arp" or "arp" in ref.text.lower()
    return about_arp or not _IP_ONLY.search(ref.text)


def _ndp_rules(
    step: Step, spot: Spot, family: str, hooks: tuple[Hook, ...], next_hop: IPAddress
) -> Iterator[tuple[Hook, RuleRef]]:
    """Yield the rules that drop a neighbour solicitation or its answer, which are ICMPv6 as any other."""
    packet = Packet(
        family=6,
        src=next_hop if spot.answer else step.packet.src,
        dst=step.packet.src if spot.answer else _solicited(next_hop),
        proto=58,
        icmp_type=_ADVERT if spot.answer else _SOLICIT,
        icmp_code=0,
        length=72,
        ttl=255,
    )
    leaving = spot.what in (What.SENT, What.EGRESS)
    devices = {"oif": spot.link.name} if leaving else {"iif": spot.link.name}
    for hook in hooks:
        tracking = Tracking(state=CtState.UNTRACKED)
        if spot.view.ruleset.base_chains(family, hook):
            result = run_hook(spot.view, hook, packet, tracking, family=None if family == "ip6" else family, **devices)
            if result.verdict in (FilterVerdict.DROP, FilterVerdict.REJECT) and result.decided_by is not None:
                yield hook, result.decided_by


def _solicited(address: IPAddress) -> IPAddress:
    """Return the solicited-node multicast address of an IPv6 address (RFC 4291, 2.7.1)."""
    from ipaddress import IPv6Address

    return IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
