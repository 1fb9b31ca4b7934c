"""Bundles are read and written: what is sound survives, what is hostile is refused, and nothing else happens."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import msgspec
import pytest

from nettrace.bundle import Bundle, Manifest, decode_member, read_bundle, write_bundle, write_folder
from nettrace.bundle.format import MANIFEST, SCHEMA, decode_manifest, encode_manifest, is_member_name, text_name
from nettrace.errors import InputError, NettraceError
from nettrace.model.snapshot import Snapshot

from .build import CONTENT, archive, bundle, entries, entry, manifest


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    write_bundle(path, bundle())
    again = read_bundle(path)
    assert again.members == CONTENT
    assert again.manifest == bundle().sealed()
    assert [each.name for each in tmp_path.iterdir()] == ["a.tar.gz"]


def test_the_file_is_private_and_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    before = os.umask(0)
    try:
        write_bundle(path, bundle())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as tar:
        facts = {(each.uid, each.gid, each.uname, each.gname, each.mtime, each.mode) for each in tar.getmembers()}
    assert facts == {(0, 0, "", "", 0, 0o600)}


def test_the_same_bundle_is_the_same_bytes(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", bundle())
    write_bundle(tmp_path / "b", bundle())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_folder_holds_the_same(tmp_path: Path) -> None:
    write_folder(tmp_path / "case", bundle())
    (tmp_path / "case" / "case.toml").write_text("title = 'not a member'")
    assert read_bundle(tmp_path / "case") == read_bundle_of(tmp_path, archive(*entries()))


def read_bundle_of(tmp_path: Path, data: bytes) -> Bundle:
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(data)
    return read_bundle(path)


def test_an_archive_that_gnu_tar_made_of_a_folder_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "case", bundle())
    subprocess.run(["tar", "-C", "case", "-czf", "case.tar.gz", "."], check=True, cwd=tmp_path)
    assert read_bundle(tmp_path / "case.tar.gz").members == CONTENT


def test_what_stands_there_is_kept_or_replaced_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_text("precious")
    with pytest.raises(NettraceError, match="--force"):
        write_bundle(path, bundle(), replace=False)
    assert path.read_text() == "precious"
    write_bundle(path, bundle())
    assert read_bundle(path).members == CONTENT
    assert [each.name for each in tmp_path.iterdir()] == ["a.tar.gz"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NettraceError, match="cannot write"):
        write_bundle(tmp_path / "nowhere" / "a.tar.gz", bundle())
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NettraceError, match="no plain file"):
        write_bundle(tmp_path / "pipe", bundle())
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_a_member_of_a_wrong_name_is_not_written(tmp_path: Path) -> None:
    for name in ("../x", "/x", "a\x1bb", MANIFEST, ""):
        with pytest.raises(NettraceError, match="cannot hold"):
            write_bundle(tmp_path / "a", Bundle(manifest=Manifest(), members={name: b""}))
    assert list(tmp_path.iterdir()) == []


EVIL = {
    "above": entry("../evil", b"x"),
    "far-above": entry("texts/../../evil", b"x"),
    "absolute": entry("/tmp/evil", b"x"),
    "hidden": entry(".bashrc", b"x"),
    "backslash": entry("..\\evil", b"x"),
    "drive": entry("C:evil", b"x"),
    "deep": entry("/".join("abcdefgh"), b"x"),
    "long": entry("a/" + "x" * 100, b"x"),
    "escape": entry("\x1b[2J\x1b]0;owned\x07", b"x"),
    "line-break": entry("a\nnettrace: all is well", b"x"),
    "bidi": entry("a\u202egnp.exe", b"x"),
    "no-name": entry("", b"x"),
    "hard-link": entry("texts/x", kind=tarfile.LNKTYPE, link="/etc/passwd"),
    "link": entry("texts/x", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "device": entry("texts/x", kind=tarfile.CHRTYPE),
    "block-device": entry("texts/x", kind=tarfile.BLKTYPE),
    "pipe": entry("texts/x", kind=tarfile.FIFOTYPE),
    "sparse": entry("texts/x", kind=tarfile.GNUTYPE_SPARSE),
    "contiguous": entry("texts/x", kind=tarfile.CONTTYPE),
    "pax": entry("texts/x", b"30 path=../../../../etc/passwd\n", kind=tarfile.XHDTYPE),
    "pax-global": entry("texts/x", b"30 path=../../../../etc/passwd\n", kind=tarfile.XGLTYPE),
    "gnu-long-name": entry("././@LongLink", b"../../evil\0", kind=tarfile.GNUTYPE_LONGNAME),
    "evil-folder": entry("../evil/", kind=tarfile.DIRTYPE),
    "duplicate": entry("before.json", CONTENT["before.json"]),
    "duplicate-by-case": entry("BEFORE.json", CONTENT["before.json"]),
    "duplicate-by-dot": entry("./before.json", CONTENT["before.json"]),
    "second-manifest": entry(MANIFEST, manifest()),
    "unlisted": entry("texts/more.txt", b"x"),
    "huge-size": tarfile.TarInfo.create_ustar_header(  # type: ignore[attr-defined]
        tarfile.TarInfo("texts/x"), tarfile.TarInfo("texts/x").get_info() | {"size": 0o77777777777}, "utf-8", "strict"
    ),
    "no-number": (lambda raw: raw[:124] + b"\x80" + b"\xff" * 11 + raw[136:])(entry("texts/x")),
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_an_evil_member_is_refused_and_writes_nothing(tmp_path: Path, evil: bytes) -> None:
    path = tmp_path / "in" / "bundle.tar.gz"
    path.parent.mkdir()
    path.write_bytes(archive(*entries(), evil))
    with pytest.raises(InputError) as caught:
        read_bundle(path)
    assert str(caught.value).removeprefix(f"cannot read {path}: ").isprintable()
    assert len(str(caught.value)) < 400
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["bundle.tar.gz", "in"]


def resealed(**changes: object) -> bytes:
    """Return an archive whose manifest was changed."""
    changed = msgspec.structs.replace(bundle().sealed(), **changes)
    return archive(entry(MANIFEST, encode_manifest(changed)), *entries()[1:])


LISTED = bundle().sealed().members


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"PK\x03\x04", "no gzip"),
        (gzip.compress(b""), "in the middle"),
        (gzip.compress(b"hello" * 300), "header"),
        (gzip.compress(bytes(512)), "end is missing"),
        (archive(), "manifest.json"),
        (archive(*entries()[1:]), "manifest.json"),
        (archive(entry(MANIFEST, b"{}"), *entries()[1:]), "schema"),
        (archive(entry(MANIFEST, b'{"schema": "other/1"}')), "other/1"),
        (archive(*entries(), end=b""), "in the middle"),
        (archive(*entries(), end=bytes(512)), "end is missing"),
        (archive(*entries(), end=bytes(1024) + b"x"), "follows"),
        (archive(*entries()) + b"x", "follows"),
        (archive(*entries()) + archive(*entries()), "follows"),
        (archive(*entries()[:-1]), "missing"),
        (archive(entries()[0], entry("before.json", b'{"a": 2}\n'), *entries()[2:]), "hash"),
        (archive(entries()[0], entry("before.json", b""), *entries()[2:]), "hash"),
        (resealed(members=(*LISTED, LISTED[0])), "twice"),
        (resealed(members=(*LISTED, msgspec.structs.replace(LISTED[0], name="../x"))), "impossible name"),
        (resealed(members=(*LISTED, msgspec.structs.replace(LISTED[0], name=MANIFEST))), "impossible name"),
        (resealed(members=(msgspec.structs.replace(LISTED[0], size=1), *LISTED[1:])), "hash"),
    ],
    # gzip's headers hold the time.
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_damaged_file_is_refused_with_what_is_wrong(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_bundle_of(tmp_path, data)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = archive(*entries())
    for length in range(len(whole)):
        with pytest.raises(InputError):
            read_bundle_of(tmp_path, whole[:length])


def test_a_byte_that_changed_anywhere_is_found(tmp_path: Path) -> None:
    sound = read_bundle_of(tmp_path, archive(*entries()))
    whole, unseen = archive(*entries()), 0
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x55
        try:
            again = read_bundle_of(tmp_path, bytes(broken))
        except InputError:
            continue
        assert again == sound
        unseen += 1
    assert unseen < 12  # gzip's own remarks (time, system), and the bits that fill its last byte


def test_a_schema_of_the_future_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nettrace.bundle/2.*\(7\.1\) or a later one"):
        read_bundle_of(tmp_path, resealed(schema="nettrace.bundle/2", nettrace="7.1"))
    with pytest.raises(InputError, match=r"use the nettrace that made it \(\\x1b\[31m\)"):
        read_bundle_of(tmp_path, resealed(schema="nettrace.bundle/2", nettrace="\x1b[31m"))
    future = b'{"schema": "nettrace.bundle/9", "members": {"now": "a map"}}'
    with pytest.raises(InputError, match="later one"):
        read_bundle_of(tmp_path, archive(entry(MANIFEST, future)))
    assert SCHEMA == "nettrace.bundle/1"


BOMBS = {
    "zeros": lambda: gzip.compress(entry(MANIFEST, manifest()) + bytes(200 << 20), 9),
    "one-large-member": lambda: archive(entry("texts/x", bytes(60 << 20))),
    "many-members": lambda: archive(*(entry(f"texts/{number}") for number in range(25_000))),
    "bomb-in-a-bomb": lambda: gzip.compress(gzip.compress(bytes(300 << 20), 9) * 40, 9),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_bounded_time_and_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(BOMBS[name]())
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom nettrace.bundle import read_bundle\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_bundle(Path(sys.argv[1]))\nexcept Exception as error:\n    print(type(error).__name__)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    raised, kilobytes = done.stdout.split()
    assert raised == "InputError"
    assert int(kilobytes) < 250_000
    # Other tests of this process have had children too.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "nothing"):
        with pytest.raises(InputError):
            read_bundle(path)
    assert time.monotonic() - began < 5


def test_a_folder_with_links_or_pipes_is_refused(tmp_path: Path) -> None:
    for make in (
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: None,
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_folder(folder, bundle())
        (folder / "verdict.txt").unlink()
        make(folder / "verdict.txt")
        with pytest.raises(InputError, match=r"verdict\.txt"):
            read_bundle(folder)
    write_folder(tmp_path / "case", bundle())
    (tmp_path / "case" / "texts").rename(tmp_path / "texts")
    (tmp_path / "case" / "texts").symlink_to(tmp_path / "texts")
    with pytest.raises(InputError, match="texts"):
        read_bundle(tmp_path / "case")


def test_a_folder_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "texts").symlink_to(tmp_path / "victim")
    with pytest.raises(NettraceError, match="link"):
        write_folder(tmp_path / "out", bundle())
    assert list((tmp_path / "victim").iterdir()) == []


DEEP = 1_000_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"schema": ' + b"[" * DEEP, "manifest"),
        (b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b', "schema": "nettrace.bundle/1"}', "nested too deeply"),
        (b'{"x": ' + b'{"x": ' * DEEP, "objects"),
        (b'{"schema": "nettrace.bundle/1", "created_at_ns": ' + b"9" * 1000 + b"}", "digits"),
        (b'{"schema": "nettrace.bundle/1", "created_at_ns": 1e400}', "created_at_ns"),
        (b'{"schema": "nettrace.bundle/1", "took_s": 1e400}', "took_s"),
        (b'{"schema": "nettrace.bundle/1", "nettrace": "\xff"}', "manifest"),
        (b'{"schema": "nettrace.bundle/1", "nettrace": "\\ud800"}', "manifest"),
        (b"[" + b"0," * 4_000_000 + b"0]", "values"),
        (b"[" + b"{}," * 500_000 + b"{}]", "objects"),
    ],
)
def test_hostile_json_is_refused(data: bytes, words: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError, match=words):
        decode_manifest(data)
    assert time.process_time() - began < 5


def test_digits_in_a_text_are_no_number() -> None:
    data = b'{"schema": "nettrace.bundle/1", "kernel": "a:' + b"1" * 60 + b'"}'
    assert decode_manifest(data).kernel.endswith("111")


def test_a_snapshot_that_is_none_is_refused_with_the_place() -> None:
    with pytest.raises(InputError, match=r"before\.json.*host_netns"):
        decode_member(b'{"host": {"kernel": "6"}, "host_netns": "x", "namespaces": []}', Snapshot, "before.json")


@pytest.mark.parametrize("part", ["web", "a/b", "..", "", "\x1b[31m", "x" * 300, "-rf", "tür", "a b", "Ä" * 50])
def test_any_name_becomes_one_of_a_member(part: str) -> None:
    name = text_name(part, "ip-addr.txt")
    assert is_member_name(name)
    assert name.count("/") == 2


def test_names_that_differ_stay_apart() -> None:
    parts = ["a b", "a_b", "a/b", "x" * 50, "x" * 51, "ä", "ö"]
    assert len({text_name(part) for part in parts}) == len(parts)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", bundle())
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "a").read_bytes())) as tar:
        content = tar.extractfile("before.json")
        assert content is not None
        told = next(each for each in read_bundle(tmp_path / "a").manifest.members if each.name == "before.json")
        assert hashlib.sha256(content.read()).hexdigest() == told.sha256
