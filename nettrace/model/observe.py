"""What packets really did: sightings at each point, and which points could see."""

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


class Observation(Model):
    """Everything one probe run saw. `timed_out` is true when it ended by silence.

    `secret` is the run's nonce (8 bytes), and `sports` the source ports that the kernel gave to its probes: what it
    takes to find the run's packets in its frames again.
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

    def capture(self, point: str) -> Open | Blind | None:
        """Return the state of the capture at a point, None when nobody listened there."""
        return next((each for each in self.captures if each.point == point), None)
