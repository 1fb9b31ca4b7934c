"""Bundles to be read: sound ones, and archives put together header by header to be hostile."""

from __future__ import annotations

import gzip
import tarfile

from nettrace.bundle.format import MANIFEST, Bundle, Manifest, encode_manifest

CONTENT = {"before.json": b'{"a": 1}\n', "texts/host/ip-addr.txt": b"1: lo\n" * 200, "verdict.txt": b"DELIVERED\n"}


def bundle() -> Bundle:
    return Bundle(manifest=Manifest(kernel="6.1", hostname="box", read=("all",)), members=dict(CONTENT))


def manifest() -> bytes:
    return encode_manifest(bundle().sealed())


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return a tar entry of any kind, with whatever name."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), link
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def entries() -> list[bytes]:
    """Return the entries of a sound bundle, the manifest first."""
    return [entry(MANIFEST, manifest()), *(entry(name, content) for name, content in CONTENT.items())]


def archive(*parts: bytes, end: bytes = bytes(1024)) -> bytes:
    """Return a compressed archive of entries."""
    return gzip.compress(b"".join(parts) + end)
