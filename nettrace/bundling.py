"""Put an answer, or a whole host, into a bundle: everything that it stands on, and remarks in its capture."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from nettrace.bundle.format import (
    AFTER,
    BEFORE,
    CAPTURE,
    RUN,
    VERDICT_JSON,
    VERDICT_TEXT,
    Asked,
    Bundle,
    Cut,
    Manifest,
    Run,
    text_name,
)
from nettrace.model.base import to_json
from nettrace.model.flow import Flow
from nettrace.model.observe import Observation, SightingKind
from nettrace.model.path import Direction
from nettrace.model.snapshot import Snapshot
from nettrace.model.texts import RawText, open_options
from nettrace.model.verdict import Hop, Verdict

__all__ = ["bundle_of_answer", "bundle_of_host", "capture_of", "default_name", "frame_comments"]

#: Kinds of packets that belong to the way back.
_BACK = (SightingKind.REPLY, SightingKind.ICMP_ERROR, SightingKind.RESET)

_WHAT = {
    SightingKind.PROBE: "the probe",
    SightingKind.REPLY: "its reply",
    SightingKind.ICMP_ERROR: "an ICMP error about the probe",
    SightingKind.RESET: "a reset",
    SightingKind.ARP_REQUEST: "an ARP request for a next hop",
    SightingKind.ARP_REPLY: "an ARP reply about a next hop",
    SightingKind.NDP_SOLICIT: "an NDP solicitation for a next hop",
    SightingKind.NDP_ADVERT: "an NDP advertisement of a next hop",
}


def frame_comments(verdict: Verdict, observation: Observation) -> dict[int, str]:
    """Return what to remark on each of the run's frames, by its number: its hop on the way, and the verdict."""
    from nettrace.render.view import headline

    said = f"{verdict.outcome.value}: {headline(verdict)}"
    hops: dict[tuple[str, Direction], tuple[int, Hop]] = {}
    for number, hop in enumerate(verdict.hops, 1):
        hops.setdefault((hop.point, hop.direction), (number, hop))
    comments = {}
    for sighting in observation.sightings:
        way = Direction.REPLY if sighting.kind in _BACK else Direction.FORWARD
        place = hops.get((sighting.point, way))
        words = [f"{_WHAT[sighting.kind]} at {sighting.point}"]
        if sighting.nonce is not None:
            words.append(f"probe {sighting.nonce + 1}")
        if place is not None and sighting.nonce is not None:
            number, hop = place
            words.append(f"hop {number} of {len(verdict.hops)} ({way.value}), by the model {hop.predicted.value}")
        comments[sighting.frame] = f"{', '.join(words)}\n{said}"
    return comments


def capture_of(verdict: Verdict, observation: Observation | None, arp_types: Mapping[str, int]) -> bytes:
    """Return the capture as pcapng: an interface a point, and every frame of the run with its remark."""
    from nettrace.render.view import headline
    from nettrace.wire.pcapng import write_pcapng

    if observation is None:
        return write_pcapng((), arp_types=arp_types, text=headline(verdict))
    comments = frame_comments(verdict, observation)
    return write_pcapng(observation.frames, arp_types=arp_types, comments=comments, text=headline(verdict))


def bundle_of_answer(
    *,
    asked: Asked | None,
    flow: Flow,
    verdict: Verdict,
    before: Snapshot,
    after: Snapshot | None,
    observation: Observation | None,
    arp_types: Mapping[str, int],
    dports: Sequence[int] = (),
    tunnels: Sequence[int] = (),
    texts: Sequence[RawText] = (),
    took_s: float = 0.0,
) -> Bundle:
    """Return an answer as a bundle: the question, both snapshots, the capture, the verdict, and the texts given."""
    from nettrace.render.json import render_json
    from nettrace.render.text import render_text

    run = Run(
        flow=flow,
        observation=replace(observation, sightings=(), frames=()) if observation is not None else None,
        dports=tuple(dports),
        tunnels=tuple(tunnels),
        arp_types=dict(arp_types),
    )
    members = {RUN: to_json(run, indent=1) + b"\n", BEFORE: to_json(_shareable(before)) + b"\n"}
    if after is not None:
        members[AFTER] = to_json(_shareable(after)) + b"\n"
    if observation is not None:
        members[CAPTURE] = capture_of(verdict, observation, arp_types)
    members[VERDICT_JSON] = render_json(verdict).encode() + b"\n"
    members[VERDICT_TEXT] = render_text(verdict, color=False, width=100).encode() + b"\n"
    gaps = (*before.gaps, *(after.gaps if after is not None else ()))
    return _bundle(members, replace(before, gaps=gaps), asked, texts, took_s)


def bundle_of_host(snapshot: Snapshot, *, texts: Sequence[RawText] = (), took_s: float = 0.0) -> Bundle:
    """Return a whole host as a bundle: one snapshot, and the texts given; no question was asked."""
    return _bundle({BEFORE: to_json(_shareable(snapshot)) + b"\n"}, snapshot, None, texts, took_s)


def _bundle(
    members: dict[str, bytes],
    snapshot: Snapshot,
    asked: Asked | None,
    texts: Sequence[RawText],
    took_s: float,
) -> Bundle:
    for each in texts:
        if each.text is not None:
            members.setdefault(text_name(each.owner, each.name), each.text.encode("utf-8", "replace"))
    lacking = [(gap.netns, gap.section, gap.reason) for gap in dict.fromkeys(snapshot.gaps)]
    lacking += [(each.owner, each.name, each.reason) for each in texts if each.reason is not None]
    manifest = Manifest(
        created_at_ns=snapshot.taken_at_ns,
        hostname=snapshot.host.hostname,
        kernel=snapshot.host.kernel,
        engine=snapshot.host.engine,
        question=asked,
        read=tuple(f"{each.kind} {each.name}" if each.kind != "host" else "host" for each in snapshot.namespaces),
        took_s=round(took_s, 3),
        cut=_cuts(lacking),
    )
    bundle = Bundle(manifest=manifest, members=members)
    return replace(bundle, manifest=bundle.sealed())


#: Of places that lack the same for the same reason, so many are named.
_NAMED = 5


def _cuts(lacking: Sequence[tuple[str | None, str, str]]) -> tuple[Cut, ...]:
    """Return what is lacking, as (place, what, reason), with places that lack the same told together."""
    places: dict[tuple[str, str], list[str]] = {}
    for place, what, reason in lacking:
        places.setdefault((what, reason), []).extend([place] if place is not None else [])
    cuts = []
    for (what, reason), where in places.items():
        more = f" and {len(where) - _NAMED} more" if len(where) > _NAMED else ""
        told = f"{', '.join(where[:_NAMED])}{more}: {what}" if where else what
        cuts.append(Cut(what=told, reason=reason))
    return tuple(cuts)


def _shareable(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot without options of foreign network drivers, which may hold anything."""
    networks = tuple(replace(each, options=open_options(each.options)) for each in snapshot.intent.networks)
    return replace(snapshot, intent=replace(snapshot.intent, networks=networks))


def default_name(hostname: str) -> str:
    """Return the name for a bundle that was given none: nettrace-<hostname>-<UTC time>.tar.gz."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", hostname)[:60].lstrip(".-") or "host"
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    return f"nettrace-{plain}-{now:%Y%m%dT%H%M%SZ}.tar.gz"
