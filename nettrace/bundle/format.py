"""What a bundle is made of: its manifest, the names of its members, and the run that `run.json` holds.

A bundle is a `.tar.gz`, or a folder with the same members. Nothing in it is trusted: names are of a narrow alphabet,
and every JSON member is measured before it is decoded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

from nettrace._version import __version__
from nettrace.errors import InputError
from nettrace.model.base import Model, from_json, to_json
from nettrace.model.flow import Flow
from nettrace.model.observe import Observation

__all__ = [
    "AFTER",
    "BEFORE",
    "CAPTURE",
    "MANIFEST",
    "MAX_MEMBERS",
    "MAX_MEMBER_BYTES",
    "MAX_TOTAL_BYTES",
    "RUN",
    "SCHEMA",
    "TEXTS",
    "VERDICT_JSON",
    "VERDICT_TEXT",
    "Asked",
    "Bundle",
    "Cut",
    "Manifest",
    "Member",
    "Run",
    "decode_manifest",
    "decode_member",
    "is_member_name",
    "shown",
    "text_name",
]

M = TypeVar("M")

FAMILY = "nettrace.bundle/"
SCHEMA: Literal["nettrace.bundle/1"] = "nettrace.bundle/1"

MANIFEST = "manifest.json"
RUN = "run.json"
BEFORE = "before.json"
AFTER = "after.json"
CAPTURE = "capture.pcapng"
VERDICT_JSON = "verdict.json"
VERDICT_TEXT = "verdict.txt"
#: Folder of the raw texts: texts/<namespace>/<command>.txt, and the engine's below texts/engine/.
TEXTS = "texts/"

#: A bundle holds no more than this: members, bytes of one member, bytes of all of them.
MAX_MEMBERS = 20_000
MAX_MEMBER_BYTES = 48 << 20
MAX_TOTAL_BYTES = 96 << 20
#: The most objects and values that a JSON member may hold: what decoding them costs is bounded by their number.
MAX_OBJECTS = 250_000
MAX_VALUES = 2_500_000

#: Longest integer that any table of the kernel holds, in digits (2^64 has 20).
MAX_DIGITS = 20

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.,@+=-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}")
MAX_NAME_BYTES = 100
_LONG_NUMBER = re.compile(rb"[:,\[\s]-?[0-9]{%d}" % (MAX_DIGITS + 1))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class Member(Model):
    """One member as it was written: size in bytes and SHA-256 in lower-case hexadecimal."""

    name: str
    size: int
    sha256: str


class Cut(Model):
    """Something that is not in the bundle, wholly or in part, and why."""

    what: str
    reason: str


class Asked(Model):
    """The question as it was asked: the arguments of `nettrace path`. `predict`: nothing was sent."""

    src: str
    dst: str
    proto: str = "icmp"
    port: int | None = None
    size: int | None = None
    family: int | None = None
    count: int = 1
    timeout_s: float = 1.0
    predict: bool = False


class Manifest(Model):
    """What a bundle says of itself.

    `nettrace` is the version that made it, `created_at_ns` when (ns since the epoch). `question` is None where the
    whole host was read without one. `origin`: "live", or "import" where it was put together from pasted texts.
    `read` names what was read, `took_s` how long that took, and `cut` what is missing and why. `members` lists every
    member besides the manifest.
    """

    nettrace: str = __version__
    created_at_ns: int = 0
    origin: str = "live"
    redacted: bool = False
    hostname: str | None = None
    kernel: str = ""
    engine: str | None = None
    question: Asked | None = None
    read: tuple[str, ...] = ()
    took_s: float = 0.0
    cut: tuple[Cut, ...] = ()
    members: tuple[Member, ...] = ()
    schema: Literal["nettrace.bundle/1"] = SCHEMA


class Run(Model):
    """One question, and the probe run that went with it. `observation` lacks its packets: they are in the capture.

    `arp_types` are ARPHRD_* of the devices that were listened at; `dports` and `tunnels` what the run's packets may
    be recognised by besides their nonce. `observation` is None when nothing was sent.
    """

    flow: Flow
    observation: Observation | None = None
    dports: tuple[int, ...] = ()
    tunnels: tuple[int, ...] = ()
    arp_types: dict[str, int] = msgspec.field(default_factory=dict)


class Bundle(Model):
    """A bundle in memory: its manifest, and every other member by name, in the order in which they are written."""

    manifest: Manifest
    members: dict[str, bytes]

    def sealed(self) -> Manifest:
        """Return the manifest with sizes and hashes of the members as they are now."""
        return msgspec.structs.replace(self.manifest, members=measured(self.members))

    def decode(self, name: str, kind: type[M]) -> M:
        """Decode a JSON member; raises InputError when it is missing, too large, or not what it should be."""
        if name not in self.members:
            raise InputError(f"the bundle holds no {shown(name)}, which this needs")
        return decode_member(self.members[name], kind, name)


def measured(members: Mapping[str, bytes]) -> tuple[Member, ...]:
    """Return size and hash of each member."""
    return tuple(
        Member(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in members.items()
    )


def is_member_name(name: str) -> bool:
    """Tell whether a member may have that name: a short relative path of plain ASCII without hidden parts."""
    return len(name) <= MAX_NAME_BYTES and _NAME.fullmatch(name) is not None


def text_name(*parts: str) -> str:
    """Return the name of a raw text below texts/, made of names that may hold anything.

    What a member's name may not hold is replaced; names that differ only in that, or beyond 40 characters, are told
    apart by a digest.
    """
    return TEXTS + "/".join(_plain(part) for part in parts)


def _plain(part: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.,@+=-]", "_", part)[:40]
    if not plain or plain[0] in ".,@+=-":
        plain = f"_{plain[1:]}"
    if plain == part:
        return part
    return f"{plain[:31]}={hashlib.sha256(part.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def shown(name: str) -> str:
    """Return a name from elsewhere as a message may show it: printable ASCII, at most 80 characters."""
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")[1:-1]


def decode_manifest(data: bytes) -> Manifest:
    """Decode a manifest; raises InputError, which for a schema of the future names the nettrace that is needed."""
    head = decode_member(data, _Head, MANIFEST)
    if head.schema != SCHEMA:
        if not head.schema.startswith(FAMILY):
            raise InputError(f"{MANIFEST} is of schema {shown(head.schema)}: this is no bundle of nettrace")
        needed = shown(head.nettrace) or "a newer version"
        raise InputError(
            f"the bundle is of schema {shown(head.schema)}, and nettrace {__version__} reads {SCHEMA}: "
            f"use the nettrace that made it ({needed}) or a later one"
        )
    return decode_member(data, Manifest, MANIFEST)


class _Head(Model):
    """What of a manifest is the same in every schema."""

    schema: str
    nettrace: str = ""


def decode_member(data: bytes, kind: type[M], name: str) -> M:
    """Decode one JSON member strictly; raises InputError with the place in it.

    What is too deep, or holds more than MAX_OBJECTS objects or MAX_VALUES values, or numbers beyond MAX_DIGITS digits,
    is refused before it is decoded.
    """
    if data.count(b"{") > MAX_OBJECTS or data.count(b",") + data.count(b"[") > MAX_VALUES:
        raise InputError(f"{shown(name)} holds more than {MAX_OBJECTS:,} objects or {MAX_VALUES:,} values")
    # Text holds digits as well: only where some might be a number is it looked at without its strings.
    if _LONG_NUMBER.search(data) and _LONG_NUMBER.search(_STRING.sub(b'""', data)):
        raise InputError(f"{shown(name)} holds a number of more than {MAX_DIGITS} digits")
    try:
        return from_json(data, kind)
    except RecursionError as error:
        raise InputError(f"{shown(name)} is nested too deeply") from error
    except (msgspec.DecodeError, ValueError, OverflowError, UnicodeError) as error:
        raise InputError(f"{shown(name)} is not what nettrace writes: {' '.join(str(error).split())[:300]}") from error


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest for people to read."""
    return to_json(manifest, indent=2) + b"\n"
