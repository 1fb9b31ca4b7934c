"""What the evaluator says of one packet on its whole way through the router."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, HookResult, Tracking
from nettrace.netfilter import HookContext, Ruleset, evaluate_hook
from nettrace.netfilter.nat import REUSE
from tests.oracle import rig
from tests.oracle.rig import GROUP, OWN


@dataclass
class Outcome:
    """How the way of one packet ends.

    `kind`: delivered (at `end` c or s), local, reject, none, unknown. `why` is the last hook's trail, for reports.
    """

    kind: str
    packet: Packet
    tracking: Tracking
    end: str = ""
    reject: str = ""
    results: list[HookResult] = field(default_factory=list)
    port_free: bool = False
    id_free: bool = False


class Router:
    """The router as the evaluator sees it, for one ruleset and family."""

    def __init__(self, ruleset: Ruleset, family: int) -> None:
        self.ruleset = ruleset
        self.family = family

    def context(self, iif: str | None, oif: str | None, *, socket_found: bool = False) -> HookContext:
        """The surroundings at one hook."""
        family = self.family
        return HookContext(
            family="ip" if family == 4 else "ip6",
            iif=iif,
            oif=oif,
            iif_group=GROUP.get(iif or ""),
            oif_group=GROUP.get(oif or ""),
            ipsec=False,
            realm=0,
            address_type=rig.address_type,
            fib=rig.fib,
            source_for=rig.source_for,
            primary_address=lambda device: OWN[family].get(device),
            socket=lambda _packet: socket_found,
        )

    def _hook(self, hook: Hook, state: Outcome, iif: str | None, oif: str | None) -> bool:
        """Run one hook; False when the way ends there."""
        result = evaluate_hook(self.ruleset, hook, state.packet, state.tracking, self.context(iif, oif))
        state.results.append(result)
        state.packet, state.tracking = result.packet, result.tracking
        for each in result.nats:
            if each.port_chosen_by_kernel:
                state.port_free = True
        # Flows of a case have source ports of their own, so no address is taken over from another one.
        if any(each.reason != REUSE for each in result.assumptions):
            state.kind = "unknown"
            return False
        if result.verdict == FilterVerdict.ACCEPT:
            return True
        state.kind = {
            FilterVerdict.DROP: "none",
            FilterVerdict.REJECT: "reject",
            FilterVerdict.STOLEN: "none",
            FilterVerdict.UNKNOWN: "unknown",
        }[result.verdict]
        state.reject = result.reject_with or ""
        return False

    def arrive(self, packet: Packet, tracking: Tracking, iif: str) -> Outcome:
        """A packet that comes in from outside."""
        state = Outcome("delivered", packet, tracking)
        if not self._hook(Hook.PREROUTING, state, iif, None):
            return state
        oif = rig.route(state.packet.dst)
        if oif == "local":
            state.kind = "local" if self._hook(Hook.INPUT, state, iif, None) else state.kind
            return state
        if rig.address_type(state.packet.dst, None) != "UNICAST":
            state.kind = "none"
            return state
        if state.packet.ttl <= 1:
            state.kind, state.reject = "reject", "time-exceeded"
            return state
        state.packet = msgspec.structs.replace(state.packet, ttl=state.packet.ttl - 1)
        if self._hook(Hook.FORWARD, state, iif, oif) and self._hook(Hook.POSTROUTING, state, iif, oif):
            state.end = "c" if oif == "cl0" else "s"
        return state

    def originate(self, packet: Packet, tracking: Tracking) -> Outcome:
        """A packet that the router itself sends."""
        state = Outcome("delivered", packet, tracking)
        if not self._hook(Hook.OUTPUT, state, None, rig.route(packet.dst)):
            return state
        oif = rig.route(state.packet.dst)
        if oif == "local":
            state.kind = "local"
        elif self._hook(Hook.POSTROUTING, state, None, oif):
            state.end = "c" if oif == "cl0" else "s"
        return state

    def answer(self, arrived: Outcome) -> Outcome | None:
        """The router's own echo reply to a packet that reached it; None when it sends none, or none that is judged."""
        packet = arrived.packet
        echo, reply = (8, 0) if packet.family == 4 else (128, 129)
        if packet.proto not in (1, 58) or packet.icmp_type != echo or arrived.port_free:
            return None
        own = msgspec.structs.replace(
            packet, src=packet.dst, dst=packet.src, icmp_type=reply, ttl=64, mark=0, src_mac=None
        )
        return self.originate(own, reply_tracking(arrived.tracking, own))


def first_state(packet: Packet) -> CtState:
    """The state that conntrack gives the first packet of a flow."""
    if packet.proto == 6:
        flags = (packet.tcp_flags or 0) & 0x17
        return CtState.NEW if flags in (0x02, 0x10) else CtState.INVALID
    if packet.proto in (1, 58):
        opens = (8, 13, 15, 17) if packet.family == 4 else (128,)
        return CtState.NEW if packet.icmp_type in opens else CtState.INVALID
    return CtState.NEW


def reply_tracking(tracking: Tracking, packet: Packet) -> Tracking:
    """The tracking of a packet that answers one whose tracking is given."""
    if tracking.state in (CtState.UNTRACKED, CtState.INVALID, CtState.NONE):
        return Tracking(state=first_state(packet))
    status = tuple(dict.fromkeys((*tracking.status, "seen_reply", "confirmed")))
    return msgspec.structs.replace(tracking, reply=True, state=CtState.ESTABLISHED, status=status)
