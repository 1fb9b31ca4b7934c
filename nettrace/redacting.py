"""Redact a bundle, and prove before it is written that the diagnosis is the same.

What was replaced is `nettrace.bundle.redact`'s to say; here the redacted question is diagnosed again, its capture and
its verdict are written anew, and everything is searched for what should no longer be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from nettrace._version import __version__
from nettrace.bundle.format import CAPTURE, RUN, VERDICT_JSON, VERDICT_TEXT, Bundle, Run
from nettrace.bundle.mapping import AddressMap
from nettrace.bundle.redact import Redacted, redact
from nettrace.bundling import capture_of
from nettrace.diagnose import diagnose
from nettrace.errors import NettraceError
from nettrace.model.base import Model
from nettrace.model.verdict import Timing, Verdict
from nettrace.replay import case_again, recorded, snapshot_of
from nettrace.wire.pcapng import write_pcapng
from nettrace.wire.rewrite import rewrite_frame

__all__ = ["NotTheSame", "Translation", "redact_bundle", "what_was_said"]


class Translation(Model):
    """What stands for what: the key to a redacted bundle, for whoever made it."""

    names: dict[str, str]
    addresses: dict[str, str]
    schema: str = "nettrace.redaction/1"


class NotTheSame(NettraceError):
    """The redacted bundle comes to another answer, or something is left in it; it is not written."""


def redact_bundle(bundle: Bundle, key: bytes) -> tuple[Bundle, Translation]:
    """Return a redacted bundle and what stands for what; `key` of 16 bytes or more makes the map.

    Raises InputError for a damaged bundle, and NotTheSame where redaction changes the diagnosis: its outcome, codes,
    places, or whether a remedy is proven.
    """
    asked = RUN in bundle.members
    recording = recorded(bundle) if asked else None
    frames = recording.observation.frames if recording is not None and recording.observation is not None else ()
    redacted = redact(bundle, key, frames, _rewritten)
    made = redacted.bundle
    if recording is None:
        snapshot_of(made)
    else:
        made, verdict = _diagnosed(redacted, recording.timing)
        before = diagnose(case_again(recording), timing=recording.timing, version=__version__)
        if (was := what_was_said(before)) != (now := what_was_said(verdict)):
            where = next((old, new) for old, new in zip(was, now, strict=True) if old != new)
            raise NotTheSame(
                f"redacted, the bundle comes to another answer ({where[0]!r} becomes {where[1]!r}), so it is not "
                "written: something in it tells of addresses in a form that is not recognised"
            )
    left = next(_left(made, redacted), None)
    if left is not None:
        raise NotTheSame(f"redacted, the bundle would still hold {left!a}, so it is not written")
    return replace(made, manifest=made.sealed()), Translation(names=redacted.names, addresses=redacted.addresses)


def _rewritten(data: bytes, arp_type: int, addresses: AddressMap, vxlan_ports: tuple[int, ...]) -> bytes:
    return rewrite_frame(data, arp_type=arp_type, address=addresses.address, mac=addresses.mac, vxlan_ports=vxlan_ports)


def _diagnosed(redacted: Redacted, timing: Timing) -> tuple[Bundle, Verdict]:
    """Return the redacted bundle with its capture and its verdict, which is diagnosed from it."""
    from nettrace.render.json import render_json
    from nettrace.render.text import render_text

    run = redacted.bundle.decode(RUN, Run)
    members = dict(redacted.bundle.members)
    if run.observation is not None:
        members[CAPTURE] = write_pcapng(redacted.frames, arp_types=run.arp_types)
    recording = recorded(replace(redacted.bundle, members=members))
    verdict = diagnose(case_again(recording), timing=timing, version=__version__)
    if recording.observation is not None:
        members[CAPTURE] = capture_of(verdict, recording.observation, run.arp_types)
    members[VERDICT_JSON] = render_json(verdict).encode() + b"\n"
    members[VERDICT_TEXT] = render_text(verdict, color=False, width=100).encode() + b"\n"
    return replace(redacted.bundle, members=members), verdict


def what_was_said(verdict: Verdict) -> tuple[object, ...]:
    """Return of a verdict what must be the same whoever's host it is: no names, no addresses."""
    stop = verdict.stop
    return (
        verdict.outcome.value,
        (stop.direction, stop.segment, stop.device, stop.hook) if stop is not None else None,
        [(each.code, each.severity, each.basis, each.remedy.verified) for each in verdict.findings],
        [(each.direction, each.device, each.predicted, each.observed, len(each.steps)) for each in verdict.hops],
        [each.section for each in verdict.gaps],
        len(verdict.assumptions),
        (verdict.lookup.outcome, len(verdict.lookup.answers)) if verdict.lookup else None,
    )


def _left(bundle: Bundle, redacted: Redacted) -> Iterator[str]:
    """Yield what of the old is left in any member: addresses that are now others, and long enough names.

    An address that by chance stands for another one is no remainder.
    """
    gone = set(redacted.addresses) - set(redacted.addresses.values())
    names = [name for name in redacted.names if len(name) > 7 and re.fullmatch(r"[\w.-]+", name)]
    if not gone and not names:
        return
    words = re.compile(
        r"(?<![\w.:-])(?:"
        + "|".join(map(re.escape, sorted([*gone, *names], key=len, reverse=True)))
        + r")(?![\w:-]|\.\d)"
    )
    for data in bundle.members.values():
        for found in words.finditer(data.decode("utf-8", "replace")):
            yield found[0]
