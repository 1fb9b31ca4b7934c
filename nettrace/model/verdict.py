"""The answer, as `nettrace path --json` prints it: schema nettrace.verdict/1.

The JSON Schema in nettrace/data/verdict.schema.json is generated from these types.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import EndpointKind, Proto
from nettrace.model.lookup import AnswerKind
from nettrace.model.path import Direction, Segment

SCHEMA: Literal["nettrace.verdict/1"] = "nettrace.verdict/1"


class Result(StrEnum):
    """The outcome, never better than the evidence."""

    DELIVERED = "delivered"
    STOPPED = "stopped"
    DEGRADED = "degraded"
    INCONCLUSIVE = "inconclusive"


EXIT_CODE: dict[Result, int] = {
    Result.DELIVERED: 0,
    Result.STOPPED: 1,
    Result.DEGRADED: 1,
    Result.INCONCLUSIVE: 3,
}


class Severity(StrEnum):
    """How much a finding matters."""

    BLOCKING = "blocking"
    DEGRADING = "degrading"
    WARNING = "warning"
    INFO = "info"


class Basis(StrEnum):
    """Which account a finding stands on."""

    OBSERVED = "observed"
    PREDICTED = "predicted"
    BOTH = "both"


class EvidenceKind(StrEnum):
    """What kind of object a piece of evidence is."""

    RULE = "rule"
    ROUTE = "route"
    SYSCTL = "sysctl"
    LINK = "link"
    ADDRESS = "address"
    NEIGHBOUR = "neighbour"
    FDB = "fdb"
    CONNTRACK = "conntrack"
    SOCKET = "socket"
    COUNTER = "counter"
    DROP = "drop"
    TRACE = "trace"
    PACKET = "packet"
    ICMP = "icmp"
    INTENT = "intent"


class Evidence(Model):
    """One fact: `ref` says where it was read ("host: iptables-nft filter/FORWARD rule 3"), `text` what was read."""

    kind: EvidenceKind
    ref: str
    text: str


class Verified(StrEnum):
    """Whether the model delivers the flow once the remedy is applied."""

    YES = "yes"
    NO = "no"
    UNVERIFIABLE = "unverifiable"


class Remedy(Model):
    """How to mend it: one sentence, and commands to paste, in order."""

    summary: str
    commands: tuple[str, ...] = ()
    verified: Verified = Verified.UNVERIFIABLE


class Finding(Model):
    """One fault. `at` is the place: a point id, or "<namespace>" when no device is meant."""

    code: str
    severity: Severity
    title: str
    explanation: str
    basis: Basis
    at: str
    evidence: tuple[Evidence, ...] = ()
    remedy: Remedy = Remedy(summary="")


class FlowEndView(Model):
    """One end of the flow, as the verdict shows it."""

    kind: EndpointKind
    name: str
    id: str | None
    netns: int | None
    address: IPAddress | None


class FlowView(Model):
    """The question, as the verdict shows it."""

    src: FlowEndView
    dst: FlowEndView
    proto: Proto
    sport: int | None
    dport: int | None
    size: int | None
    family: int


class StopHook(Model):
    """The netfilter hook, table and chain that decided."""

    hook: str
    table: str
    chain: str


class Stop(Model):
    """Where the packet stops."""

    direction: Direction
    segment: Segment
    after: str | None
    before: str | None
    netns: int | None
    device: str | None
    hook: StopHook | None


class PredictedSight(StrEnum):
    """Whether the model expects the packet at a point."""

    SEEN = "seen"
    NOT_SEEN = "not-seen"
    UNKNOWN = "unknown"


class ObservedSight(StrEnum):
    """Whether the packet was seen at a point. BLIND: nobody could have seen it; NOT_PROBED: nobody listened."""

    SEEN = "seen"
    NOT_SEEN = "not-seen"
    BLIND = "blind"
    NOT_PROBED = "not-probed"


class Agreement(StrEnum):
    """Model against wire at one point."""

    AGREE = "agree"
    MODEL_ONLY = "model-only"
    WIRE_ONLY = "wire-only"
    UNCHECKED = "unchecked"


class PacketView(Model):
    """The packet as it was at a point, for people and scripts."""

    src: IPAddress
    dst: IPAddress
    sport: int | None
    dport: int | None
    ttl: int | None
    length: int | None


class Hop(Model):
    """One point in travel order, prediction and sight side by side; `steps` are the decisions that led here."""

    direction: Direction
    point: str
    netns: int
    device: str
    ifindex: int
    predicted: PredictedSight
    observed: ObservedSight
    agreement: Agreement
    packet: PacketView | None = None
    at_ns: int | None = None
    steps: tuple[str, ...] = ()


class AnswerView(Model):
    """What one name server said to one name, asked for the addresses of one family."""

    server: IPAddress
    name: str
    family: int
    kind: AnswerKind
    addresses: tuple[IPAddress, ...] = ()


class UpstreamView(Model):
    """A server that the engine's own name server asks in its turn: from which namespace, and who says so."""

    server: IPAddress
    netns: int
    source: str


class LookupView(Model):
    """The first leg of a question about a name: how the source resolves it.

    `outcome` is the leg's own: delivered when the name came to `addresses`, else stopped, inconclusive when nobody
    could be asked. `told` says in one line who answered what. When the leg is stopped, `flow` is the way to the name
    server that the verdict's hops and stop belong to; else it is null, and they belong to the flow that was asked for.
    """

    name: str
    outcome: Result
    told: str
    addresses: tuple[IPAddress, ...]
    files: tuple[str, ...]
    servers: tuple[IPAddress, ...]
    search: tuple[str, ...]
    answers: tuple[AnswerView, ...]
    upstreams: tuple[UpstreamView, ...]
    flow: FlowView | None


class GapView(Model):
    """What could not be read or heard, and why."""

    section: str
    netns: str | None
    reason: str


class Timing(Model):
    """Seconds spent."""

    total_s: float
    collect_s: float
    probe_s: float


class Tool(Model):
    """Which nettrace answered."""

    version: str


class HostView(Model):
    """Which host was asked."""

    kernel: str
    engine: str | None


class Verdict(Model):
    """The whole answer.

    `lookup` is there only when the destination was given as a name, `notes` only when there is something to know about
    the ends: a namespace that they share with others, or the host's own.
    """

    outcome: Result
    flow: FlowView
    stop: Stop | None
    hops: tuple[Hop, ...]
    findings: tuple[Finding, ...]
    gaps: tuple[GapView, ...]
    assumptions: tuple[str, ...]
    timing: Timing
    tool: Tool
    host: HostView
    lookup: LookupView | msgspec.UnsetType = msgspec.UNSET
    notes: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    schema: Literal["nettrace.verdict/1"] = SCHEMA
