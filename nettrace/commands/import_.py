"""`nettrace import DIR|FILE…`: what people attach to bug reports becomes a bundle for `nettrace replay`.

Reads files and nothing of the machine it runs on: no privilege, no engine, no namespace.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nettrace.errors import InputError, NettraceError, UsageError

if TYPE_CHECKING:
    from nettrace.bundle.format import Cut
    from nettrace.model.snapshot import Gap
    from nettrace.paste import Assembled, Source

EPILOG = """\b
Give files ("-" for standard input) or folders with what these commands print, in any order, several in one file
or each in its own, with prompts or without:
  iptables-save, iptables -S, iptables -nvL, nft list ruleset, ip addr|link|route|rule|neigh, bridge fdb|link,
  sysctl -a, ss -lntu, conntrack -L, docker inspect, docker network inspect, docker info, docker version;
  text or JSON, also the folder of a sosreport

\b
A text belongs to the host, unless its prompt (docker exec web …, nsenter …, ip netns exec NAME …) or its folder
(host/…, web/…) names a container or a namespace.

\b
Examples:
  nettrace import report.md -o report.tar.gz
  nettrace import sosreport-box-2026/ -o box.tar.gz && nettrace replay box.tar.gz web 8.8.8.8

\b
Exit codes: 0 something was read, 2 usage, 4 nothing was.
"""

MAX_FILES = 20_000
MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
#: How much of the texts themselves a bundle keeps: of one, and of all.
KEEP_BYTES = 2 << 20
KEEP_TOTAL_BYTES = 6 << 20

#: Folders of a sosreport that hold what is read here.
SOS_FOLDERS = ("networking", "docker", "podman", "firewall_tables", "iptables", "nftables", "conntrack", "kernel")
#: What `docker inspect` tells besides, and what no bundle may hold: environments, arguments, labels.
_LISTS = re.compile(r'"(Env|Cmd|Args|Entrypoint|Healthcheck|Test)"\s*:\s*\[(?:\s*"(?:[^"\\]|\\.)*+"\s*,?)*+\s*\]')
_LABELS = re.compile(r'"(Labels)"\s*:\s*\{(?:\s*"(?:[^"\\]|\\.)*+"\s*:\s*"(?:[^"\\]|\\.)*+"\s*,?)*+\s*\}')
_PATHS = re.compile(r'"(Path|Entrypoint|Cmd)"\s*:\s*"(?:[^"\\]|\\.)*+"')
SCHEMA = "nettrace.import/1"
DEFAULT_OUTPUT = "nettrace-import.tar.gz"


@click.command("import", epilog=EPILOG, short_help="Make a bundle of pasted texts.")
@click.argument("paths", nargs=-1, required=True, metavar="DIR|FILE…")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The bundle to write; {DEFAULT_OUTPUT} if left out, which then must not be there yet.",
)
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document (schema {SCHEMA}).")
def command(paths: tuple[str, ...], output: Path | None, as_json: bool) -> int:
    """Read texts that someone pasted, say what they are and what is missing, and write a bundle to ask questions of."""
    from nettrace.bundle.archive import write_bundle
    from nettrace.paste import assemble, recognise

    if output is None:
        output = Path(DEFAULT_OUTPUT)
        if output.exists():
            raise NettraceError(f"{output} exists: choose another name with -o")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"cannot write {output}: name a file in a folder that exists with -o")
    sources, cuts = read_sources(paths)
    found = assemble([recognise(source) for source in sources])
    if not found.usable:
        raise InputError(
            f"nothing in {_named(paths)} is a listing that nettrace knows: give what `iptables-save`, `ip addr`, "
            "`ip route show table all`, `docker network inspect` and the like print; see nettrace import --help"
        )
    write_bundle(output, bundle_of(found, sources, cuts))
    print(document(found, output) if as_json else report(found, output))
    return 0


def _named(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


# --- reading ------------------------------------------------------------------------------------------------------


def read_sources(paths: Sequence[str]) -> tuple[list[Source], list[Cut]]:
    """Return the texts of all files named, and of those in folders named; and what was not read, and why.

    Raises InputError for a path that cannot be read at all.
    """
    from nettrace.bundle.format import Cut
    from nettrace.paste import Source

    sources: list[Source] = []
    cuts: list[Cut] = []
    total = 0
    for name, path in _files(paths):
        if len(sources) >= MAX_FILES or total > MAX_TOTAL_BYTES:
            cuts.append(Cut(what=f"{name} and what follows", reason="more files, or more bytes, than are read at once"))
            break
        try:
            data = _read(path)
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            cuts.append(Cut(what=name, reason=f"larger than {MAX_FILE_BYTES >> 20} MiB: its end was not read"))
            data = data[:MAX_FILE_BYTES]
        total += len(data)
        sources.append(Source(name=name, text=_decoded(data)))
    return sources, cuts


def _read(path: Path | None) -> bytes:
    if path is None:
        return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _decoded(data: bytes) -> str:
    """Return bytes as text: UTF-8, or UTF-16 where a mark says so; what is neither becomes a replacement character."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8", errors="replace")


def _files(paths: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """Yield every file with the name it is told by: below a folder, the path within it."""
    for given in paths:
        if given == "-":
            yield "standard input", None
            continue
        path = Path(given)
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(f"cannot read {given}: {reason}") from error
        if stat.S_ISDIR(mode):
            yield from _below(path)
        elif stat.S_ISREG(mode):
            # The folder that a file lies in may name its namespace.
            yield "/".join(path.parts[-2:] if not path.is_absolute() or len(path.parts) > 2 else path.parts[-1:]), path
        else:
            raise InputError(f"{given} is neither a file nor a folder: give the texts themselves")


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the plain files below a folder, sorted; links are not followed, and of a sosreport what is of use."""
    for root, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        inside = Path(root).relative_to(folder).parts
        if "sos_commands" in folders:
            folders[:] = ["sos_commands"]
            continue
        if inside[-1:] == ("sos_commands",):
            folders[:] = [each for each in folders if each in SOS_FOLDERS]
            continue
        for name in sorted(files):
            path = Path(root, name)
            try:
                plain = stat.S_ISREG(path.lstat().st_mode)
            except OSError:
                plain = False
            if plain:
                yield "/".join((*inside, name)), path


# --- the bundle ---------------------------------------------------------------------------------------------------


def bundle_of(found: Assembled, sources: Sequence[Source], cuts: Sequence[Cut]) -> Any:
    """Return the bundle of a paste: the Snapshot, and the texts that it was read from.

    Raises InputError when the paste holds more than a bundle may.
    """
    import time

    from nettrace.bundle.format import BEFORE, Bundle, Cut, Manifest, decode_member
    from nettrace.model.base import to_json
    from nettrace.model.snapshot import Snapshot

    snapshot = found.snapshot
    data = to_json(snapshot)
    try:
        decode_member(data, Snapshot, BEFORE)
    except InputError as error:
        raise InputError(f"the paste holds more than a bundle can: {error}") from error
    texts, left_out = kept_texts(sources)
    manifest = Manifest(
        created_at_ns=time.time_ns(),
        origin="import",
        hostname=snapshot.host.hostname,
        kernel=snapshot.host.kernel,
        engine=snapshot.host.engine,
        read=tuple(dict.fromkeys(f"{each.netns or 'engine'}: {each.what}" for each in found.listings)),
        cut=(
            *cuts,
            *left_out,
            *(
                Cut(what=f"{each.netns or 'engine'}: {each.section}", reason=f"run {each.command}")
                for each in found.needs
            ),
        ),
    )
    return Bundle(manifest=manifest, members={BEFORE: data, **texts})


def kept_texts(sources: Sequence[Source]) -> tuple[dict[str, bytes], list[Cut]]:
    """Return the texts as members of a bundle, without environments and arguments; and what was left out."""
    from nettrace.bundle.format import Cut, text_name

    members: dict[str, bytes] = {}
    cuts: list[Cut] = []
    room = KEEP_TOTAL_BYTES
    for number, source in enumerate(sources, 1):
        text, removed = without_private(source.text)
        if removed:
            cuts.append(Cut(what=f"text {source.name}", reason="environments, arguments and labels were taken out"))
        data = text.encode("utf-8", "replace")
        most = min(KEEP_BYTES, room)
        if len(data) > most:
            cuts.append(Cut(what=f"text {source.name}", reason=f"only its first {most} bytes are kept"))
            data = data[:most]
        room -= len(data)
        if data:
            members[text_name("pasted", f"{number:04d}-{source.name.replace('/', ',')}")] = data
    return members, cuts


def without_private(text: str) -> tuple[str, bool]:
    """Return a text without what `docker inspect` tells of environments, arguments, labels; and whether it told any."""
    if '"' not in text:
        return text, False
    count = 0
    for pattern in (_LISTS, _LABELS, _PATHS):
        text, found = pattern.subn(r'"\1": "(taken out)"', text)
        count += found
    return text, count > 0


# --- what is said -------------------------------------------------------------------------------------------------


def document(found: Assembled, output: Path) -> str:
    """Return the report as JSON."""
    import json

    from nettrace.render.safe import safe_json

    def rows(models: Sequence[Any]) -> list[dict[str, Any]]:
        return [{name: getattr(each, name) for name in each.__struct_fields__} for each in models]

    content = {
        "schema": SCHEMA,
        "bundle": str(output),
        "listings": rows(found.listings),
        "not_understood": rows(found.untold),
        "missing": rows(found.needs),
        "gaps": rows(found.snapshot.gaps),
        "namespaces": [{"name": each.name, "kind": each.kind} for each in found.snapshot.namespaces],
    }
    return safe_json(json.dumps(content, indent=2, ensure_ascii=False))


def report(found: Assembled, output: Path) -> str:
    """Return the report for people: what was recognised, what was not understood, what is missing, what to do next."""
    from tabulate import tabulate

    from nettrace.render.safe import safe

    table = [
        [
            safe(each.file),
            each.line or "",
            each.what,
            safe(each.netns or "engine"),
            each.rows,
            each.not_understood or "",
        ]
        for each in found.listings
    ]
    heads = ["file", "line", "what", "namespace", "rows", "not understood"]
    parts = [
        tabulate(
            table, headers=heads, disable_numparse=True, colalign=("left", "right", "left", "left", "right", "right")
        )
    ]
    if found.untold:
        parts.append("\n".join(["Not understood", *(f"  - {line}" for line in _untold_lines(found))]))
    if found.needs:
        parts.append("\n".join(["Missing for a firm answer; on that host, run", *_need_lines(found)]))
    told = [f"  - {safe(line)}" for line in _gap_lines(found)]
    if told:
        parts.append("\n".join(["Taken for granted, or not told", *_first(told, 30)]))
    parts.append(f"{safe(str(output))} is written. Ask it: nettrace replay {safe(str(output))} {_example(found)}")
    return "\n\n".join(parts)


def _gap_lines(found: Assembled) -> list[str]:
    """Return the gaps; what is the same of several namespaces is said once, of the first, with the names of all."""
    alike: dict[tuple[str, str], list[Gap]] = {}
    for each in found.snapshot.gaps:
        if each.section != "paste":
            plain = each.reason.replace(f" {each.netns})", " {})") if each.netns is not None else each.reason
            alike.setdefault((each.section, plain), []).append(each)
    lines = []
    for gaps in alike.values():
        names = [each.netns or "engine" for each in gaps]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        lines.append(f"{shown}: {gaps[0].section}: {gaps[0].reason}")
    return lines


def _first(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"  - and {len(lines) - most} more (--json tells all)"]


def _untold_lines(found: Assembled) -> list[str]:
    from nettrace.render.safe import safe

    lines = [
        f"{safe(each.file)}{f', line {each.line}' if each.line else ''}: {safe(each.reason)}"
        + (f": {safe(each.text)}" if each.text else "")
        for each in found.untold
    ]
    return [line.removeprefix("  - ") for line in _first(lines, 30)]


def _need_lines(found: Assembled) -> list[str]:
    from nettrace.render.safe import safe

    lines = [f"  {safe(each.command)}" for each in found.needs]
    return _first(list(dict.fromkeys(lines)), 30)


def _example(found: Assembled) -> str:
    import shlex

    from nettrace.render.safe import safe

    running = [each for each in found.snapshot.intent.containers if each.netns not in (None, found.snapshot.host_netns)]
    return f"{safe(shlex.quote(running[0].name))} 8.8.8.8" if running else "host 8.8.8.8"
