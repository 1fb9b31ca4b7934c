"""Read and write bundles: `.tar.gz` files, and folders with the same members.

What is read may come from anyone. A file is unpacked into memory alone, in steps, and every limit is checked before
the next step; members are plain files with plain names, each once, each with the hash that the manifest gives it.
Archives are in the POSIX ustar format (POSIX.1-2017, pax, "ustar Interchange Format"), compressed by gzip (RFC 1952).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nettrace.bundle.format import (
    MANIFEST,
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    MAX_TOTAL_BYTES,
    Bundle,
    Manifest,
    decode_manifest,
    encode_manifest,
    is_member_name,
    measured,
    shown,
)
from nettrace.errors import InputError, NettraceError

__all__ = ["MAX_FILE_BYTES", "MAX_RATIO", "read_bundle", "write_bundle", "write_folder"]

#: Largest archive that is opened, and how many bytes one byte of it may unpack to (beyond the first megabytes).
MAX_FILE_BYTES = 64 << 20
MAX_RATIO = 250
_FREE_BYTES = 8 << 20

_STEP = 1 << 18
_BLOCK = 512

_KINDS = {
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a character device",
    "4": "a block device",
    "6": "a named pipe",
    "S": "a sparse file",
    "x": "an extended header (pax)",
    "g": "an extended header (pax)",
    "L": "a long name (GNU)",
    "K": "a long link (GNU)",
    "M": "a part of a volume",
}


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, archive or folder, whole, and check every member against the manifest.

    Raises InputError for what cannot be read, is no bundle, is damaged, or goes beyond a limit of `format`.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
        data = _read_file(path, MAX_FILE_BYTES)
        members: dict[str, bytes] = {}
        for name, content in _untar(_unzip(data)):
            members[name] = content
        return _checked(members)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _checked(members: dict[str, bytes]) -> Bundle:
    """Return the members as a bundle, once they are just those that the manifest lists."""
    if MANIFEST not in members:
        raise InputError(f"it holds no {MANIFEST}: this is no bundle of nettrace")
    manifest = decode_manifest(members.pop(MANIFEST))
    _check_listing(manifest)
    listed = {each.name for each in manifest.members}
    for name in members:
        if name not in listed:
            raise InputError(f"member {shown(name)} is not in the manifest: the file was changed after it was made")
    _check_hashes(manifest, members)
    return Bundle(manifest=manifest, members=members)


def _check_listing(manifest: Manifest) -> None:
    """Refuse a manifest that lists the same member twice, or one that no bundle can hold."""
    seen: set[str] = set()
    if len(manifest.members) > MAX_MEMBERS:
        raise InputError(f"its manifest lists more than {MAX_MEMBERS} members")
    for each in manifest.members:
        if not is_member_name(each.name) or each.name == MANIFEST:
            raise InputError(f"its manifest lists a member with an impossible name, {shown(each.name)}")
        if each.name.casefold() in seen:
            raise InputError(f"its manifest lists {shown(each.name)} twice")
        seen.add(each.name.casefold())


def _check_hashes(manifest: Manifest, members: dict[str, bytes]) -> None:
    found = {each.name: each for each in measured(members)}
    for each in manifest.members:
        if each.name not in found:
            raise InputError(f"member {shown(each.name)} is in the manifest, and missing: get the file again")
        if found[each.name] != each:
            raise InputError(
                f"member {shown(each.name)} is not as it was written (its hash differs): get the file again, and trust "
                "nothing in this one"
            )


def _read_file(path: Path, most: int) -> bytes:
    """Read a plain file of at most `most` bytes; anything else is refused without waiting for it."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("it is not a plain file")
        if status.st_size > most:
            raise InputError(f"it is larger than {most >> 20} MB, and no bundle is")
        with open(handle, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(handle)
    if len(data) > most:
        raise InputError(f"it is larger than {most >> 20} MB, and no bundle is")
    if not data:
        raise InputError("it is empty")
    return data


def _unzip(data: bytes) -> bytes:
    """Unpack one gzip stream, which must be all of the data."""
    if data[:2] != b"\x1f\x8b":
        raise InputError("it is no gzip file: a bundle is a .tar.gz, or a folder")
    unpacker = zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    total = 0
    rest = data
    while not unpacker.eof:
        try:
            part = unpacker.decompress(rest, _STEP)
        except zlib.error as error:
            raise InputError(f"its compression is damaged ({error}): get the file again") from error
        rest = unpacker.unconsumed_tail
        total += len(part)
        if total > MAX_TOTAL_BYTES:
            raise InputError(f"it unpacks to more than {MAX_TOTAL_BYTES >> 20} MB, and no bundle does")
        if total > _FREE_BYTES and total > MAX_RATIO * (len(data) - len(rest)):
            raise InputError(f"it unpacks to more than {MAX_RATIO} times its size, and no bundle does")
        parts.append(part)
        if not part and not rest and not unpacker.eof:
            raise InputError("it ends in the middle: get the file again")
    if unpacker.unused_data:
        raise InputError("something follows the end of the archive: get the file again")
    return b"".join(parts)


def _untar(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every plain file of a tar archive; everything but files and folders is refused."""
    at, names = 0, set[str]()
    while True:
        header = data[at : at + _BLOCK]
        if len(header) < _BLOCK:
            raise InputError("it ends in the middle: get the file again")
        if not header.strip(b"\0"):
            break
        name, kind, size = _header(header)
        at += _BLOCK
        if kind == "5":
            if size:
                raise InputError(f"folder {shown(name)} has a content")
            continue
        if name.casefold() in names:
            raise InputError(f"member {shown(name)} is in it twice")
        names.add(name.casefold())
        if len(names) > MAX_MEMBERS:
            raise InputError(f"it holds more than {MAX_MEMBERS} members")
        if size > MAX_MEMBER_BYTES:
            raise InputError(f"member {shown(name)} is larger than {MAX_MEMBER_BYTES >> 20} MB")
        if at + size + -size % _BLOCK > len(data):
            raise InputError(f"it ends in the middle of member {shown(name)}: get the file again")
        yield name, data[at : at + size]
        at += size + -size % _BLOCK
    if len(data) - at < 2 * _BLOCK or data.count(0, at) != len(data) - at:
        raise InputError("the archive's end is missing, or something follows it: get the file again")


def _header(header: bytes) -> tuple[str, str, int]:
    """Return name, kind ("0" file, "5" folder) and size of one tar header."""
    told = _octal(header[148:156])
    if told != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise InputError("a member's header is damaged, or this is no tar archive: get the file again")
    name, prefix = (_text(part) for part in (header[:100], header[345:500]))
    if header[257:263] == b"ustar\0" and prefix:
        name = f"{prefix}/{name}"
    kind = header[156:157].decode("latin-1").replace("\0", "0")
    if kind not in ("0", "5"):
        raise InputError(f"member {shown(name)} is {_KINDS.get(kind, 'of an unknown kind')}: no bundle holds one")
    size = _octal(header[124:136])
    plain = name.removeprefix("./")
    if kind == "5":
        plain = plain.rstrip("/")
        if plain and plain != "." and not is_member_name(plain):
            raise InputError(f"folder {shown(name)} has a name that no bundle has")
        return plain, kind, size
    if not is_member_name(plain):
        raise InputError(f"member {shown(name)} has a name that no bundle has")
    return plain, kind, size


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits or any(digit not in b"01234567" for digit in digits):
        raise InputError("a number in a member's header is none: this is no archive of nettrace")
    return int(digits, 8)


def _read_folder(path: Path) -> Bundle:
    """Read an unpacked bundle: just the members that its manifest lists; what else lies there is not looked at."""
    manifest = decode_manifest(_read_inside(path, MANIFEST))
    _check_listing(manifest)
    members: dict[str, bytes] = {}
    total = 0
    for each in manifest.members:
        members[each.name] = _read_inside(path, each.name)
        total += len(members[each.name])
        if total > MAX_TOTAL_BYTES:
            raise InputError(f"it holds more than {MAX_TOTAL_BYTES >> 20} MB, and no bundle does")
    _check_hashes(manifest, members)
    return Bundle(manifest=manifest, members=members)


def _read_inside(folder: Path, name: str) -> bytes:
    """Read a member of a folder, following no link on the way."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    *above, last = name.split("/")
    try:
        for part in above:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            os.close(handle)
            handle = inner
        file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
    except FileNotFoundError as error:
        raise InputError(f"it holds no {shown(name)}") from error
    except OSError as error:
        raise InputError(f"member {shown(name)} is no plain file, or cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise InputError(f"member {shown(name)} is no plain file")
        with open(file, "rb", closefd=False) as opened:
            data = opened.read(MAX_MEMBER_BYTES + 1)
    finally:
        os.close(file)
    if len(data) > MAX_MEMBER_BYTES:
        raise InputError(f"member {shown(name)} is larger than {MAX_MEMBER_BYTES >> 20} MB")
    return data


def write_bundle(path: Path, bundle: Bundle, *, replace: bool = True) -> None:
    """Write a bundle as `.tar.gz`: whole or not at all, readable by its owner alone.

    The same bundle makes the same bytes, and the manifest's list of members is made anew. Raises NettraceError when
    the file cannot be written; with `replace` off also when there is one already.
    """
    data = _pack(bundle)
    draft: Path | None = None
    try:
        # mkstemp makes the file with mode 0600, whatever the umask.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
        draft = Path(name)
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        if path.exists() and not path.is_file():
            raise NettraceError(f"{path} is no plain file: choose another name")
        if replace:
            draft.replace(path)
        else:
            _place(draft, path)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise NettraceError(f"{path} exists: choose another name with -o, or replace it with --force") from error
    except OSError as error:
        raise NettraceError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            if draft is not None:
                draft.unlink()


def _place(draft: Path, path: Path) -> None:
    """Give the draft its name, unless something has it; raises FileExistsError."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links: then nobody can take the name in one step.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from error
        draft.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make a rename last; not every file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _pack(bundle: Bundle) -> bytes:
    """Return the archive's bytes; raises NettraceError when it would be one that `read_bundle` refuses."""
    manifest = bundle.sealed()
    parts: list[bytes] = []
    for name, content in {MANIFEST: encode_manifest(manifest), **bundle.members}.items():
        if not is_member_name(name) or (name == MANIFEST and MANIFEST in bundle.members):
            raise NettraceError(f"a bundle cannot hold a member {shown(name)}")
        info = tarfile.TarInfo(name)  # owner, group and times stay zero and nameless
        info.size, info.mode = len(content), 0o600
        parts += [info.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % _BLOCK)]
    parts.append(bytes(2 * _BLOCK))
    total = sum(map(len, parts))
    if total > MAX_TOTAL_BYTES or len(bundle.members) >= MAX_MEMBERS:
        raise NettraceError(f"a bundle of {total >> 20} MB in {len(bundle.members)} members is more than one may be")
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_folder(path: Path, bundle: Bundle) -> None:
    """Write a bundle's members into a folder, which is made when it is not there; files of other names stay.

    The owner alone may read what is made. Nothing is followed or overwritten through a link: each file is written
    beside its place and renamed. Raises NettraceError.
    """
    sealed = msgspec.structs.replace(bundle, manifest=bundle.sealed())
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in {**sealed.members, MANIFEST: encode_manifest(sealed.manifest)}.items():
            if not is_member_name(name):
                raise NettraceError(f"a bundle cannot hold a member {shown(name)}")
            target = path / name
            for above in reversed(target.relative_to(path).parents[:-1]):
                (path / above).mkdir(mode=0o700, exist_ok=True)
                if (path / above).is_symlink():
                    raise NettraceError(f"{path / above} is a link: choose another folder")
            draft = target.with_name(f".{target.name}.part")
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
            with open(draft, "xb", opener=_private) as file:
                file.write(content)
            draft.replace(target)
    except OSError as error:
        raise NettraceError(f"cannot write {error.filename or path}: {error.strerror or error}") from error
