"""What packets really did: sightings at each point, which points could see, and what the kernel itself said.

The rules that the kernel names are named as nftables does (family, table, chain, handle); `nettrace.testimony` joins
them to the listings. A kernel that says nothing proves nothing: every witness that could not speak is a `Silence`.
"""

from __future__ import annotations

from enum import StrEnum

from nettrace.model.base import Model
from nettrace.model.flow import Packet


class SightingKind(StrEnum):
    """What a captured packet is to the probe."""

    PROBE = "probe"
    REPLY = "reply"
    ICMP_ERROR = "icmp-error"
    RESET = "reset"
    ARP_REQUEST = "arp-request"
    ARP_REPLY = "arp-reply"
    NDP_SOLICIT = "ndp-solicit"
    NDP_ADVERT = "ndp-advert"


class Way(StrEnum):
    """Direction at the device, as PACKET_OUTGOING tells it."""

    IN = "in"
    OUT = "out"


class Sighting(Model):
    """One packet of ours, seen at one point. `nonce` numbers the probe it belongs to, from 0 (None for ARP, NDP).

    `frame` indexes the capture's raw frames. `at_ns` is the kernel's receive time, ns since the epoch. For ARP and
    NDP `packet.src`/`dst` are the asking address and the address asked for (the answering one for replies).
    """

    point: str
    kind: SightingKind
    way: Way
    at_ns: int
    packet: Packet
    nonce: int | None = None
    frame: int = 0


class Open(Model, tag="open", tag_field="is"):
    """A capture that was proven alive before the first probe, and lost nothing. `frames` counts all that it kept."""

    point: str
    frames: int = 0


class Blind(Model, tag="blind", tag_field="is"):
    """A capture whose silence means nothing: it could not be opened, was not proven alive, or lost packets."""

    point: str
    reason: str


class Frame(Model):
    """One raw frame for the pcapng: link-layer bytes as captured."""

    point: str
    way: Way
    at_ns: int
    data: bytes
    length: int


class Sent(Model):
    """One injected probe: when, and the error number when the kernel refused to send it (None when it was taken)."""

    nonce: int
    at_ns: int
    errno: int | None = None


class RuleStep(Model):
    """One step of a packet of the run through an nftables chain, in the order in which the kernel took them.

    `skb` tells packets apart within the namespace. `event`: "rule", a rule matched to its end; "end", no rule of the
    chain was left (`handle` is None); "policy", the same of a base chain. `verdict`: accept, drop, continue, jump,
    goto, return, queue, stolen; `target` is the chain that a jump or goto leads to. The first step of a packet in each
    base chain carries its headers as `packet`, with what it is to the probe (`kind`) and which probe it belongs to
    (`nonce`, from 0); `kind` is None where the headers do not tell. `iif` and `oif` are ifindexes.
    """

    netns: int
    skb: int
    family: str
    table: str
    chain: str
    event: str
    verdict: str
    handle: int | None = None
    target: str | None = None
    packet: Packet | None = None
    kind: SightingKind | None = None
    nonce: int | None = None
    iif: int | None = None
    oif: int | None = None


class KernelDrop(Model):
    """A packet that the kernel freed as dropped, in the context of the thread that sent the probes, while it sent one.

    `reason` is the kernel's name without SKB_DROP_REASON_ ("NETFILTER_DROP"), None where it knows none; `function`
    dropped it, in `module` when it is in one, and is None when the kernel would not tell. `protocol` is the EtherType.
    `at_ns` is ns since the epoch, to the microsecond.
    """

    at_ns: int
    function: str | None = None
    reason: str | None = None
    module: str | None = None
    protocol: int = 0


class ChainOrder(Model):
    """The handles of a chain's rules in their order, as the kernel had them after the run."""

    netns: int
    family: str
    table: str
    chain: str
    handles: tuple[int, ...] = ()


class Silence(Model):
    """A witness that could not speak, or lost something: `witness` is "rule-trace" or "drop-reason".

    `netns` is an inode, None for the whole machine. What such a witness did say still counts.
    """

    witness: str
    reason: str
    netns: int | None = None


class Testimony(Model):
    """All that the kernel said of one run."""

    rules: tuple[RuleStep, ...] = ()
    drops: tuple[KernelDrop, ...] = ()
    order: tuple[ChainOrder, ...] = ()
    silences: tuple[Silence, ...] = ()


class Receipt(Model):
    """One packet of ours that a stack took for itself: what it is to the probe, and which probe it belongs to."""

    kind: SightingKind
    at_ns: int
    nonce: int | None = None


class Stack(Model):
    """What the IP stack of one namespace (inode) took of the run, behind all of its devices and INPUT chains.

    `reason` says why its silence means nothing: it could not be listened to, or something was lost; else None.
    """

    netns: int
    taken: tuple[Receipt, ...] = ()
    reason: str | None = None

    def took(self, *kinds: SightingKind) -> bool | None:
        """Tell whether it took a packet of one of these kinds; None when nobody can say that it did not."""
        if any(each.kind in kinds for each in self.taken):
            return True
        return None if self.reason is not None else False


class Observation(Model):
    """Everything one probe run saw. `timed_out` is true when it ended by silence.

    `secret` is the run's nonce (8 bytes), and `sports` the source ports that the kernel gave to its probes: what it
    takes to find the run's packets in its frames again. `testimony` is what the kernel said beside them, and `stacks`
    what the namespaces at the ends took, which no capture at a device can tell.
    """

    captures: tuple[Open | Blind, ...] = ()
    sent: tuple[Sent, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    frames: tuple[Frame, ...] = ()
    timed_out: bool = False
    started_ns: int = 0
    ended_ns: int = 0
    secret: bytes = b""
    sports: tuple[int, ...] = ()
    testimony: Testimony = Testimony()
    stacks: tuple[Stack, ...] = ()

    def took(self, netns: int | None, *kinds: SightingKind) -> bool | None:
        """Tell whether a namespace's stack took a packet of one of these kinds; None when nobody listened there."""
        return next((each.took(*kinds) for each in self.stacks if each.netns == netns), None)

    def capture(self, point: str) -> Open | Blind | None:
        """Return the state of the capture at a point, None when nobody listened there."""
        return next((each for each in self.captures if each.point == point), None)
