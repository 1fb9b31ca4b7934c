"""`nettrace bundle`: make a support bundle, look into one, check it, unpack it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nettrace.commands import path as path_command
from nettrace.errors import NettraceError, UsageError
from nettrace.model.base import Model
from nettrace.model.verdict import Verdict

if TYPE_CHECKING:
    from nettrace.bundle.format import Bundle

EPILOG = """\b
The person with the broken host:
  nettrace bundle create web 8.8.8.8          ask, and keep all that the answer stands on in one file
  nettrace bundle create                      the whole host, for questions that somebody else will ask
  nettrace bundle redact FILE                 the same with other names and addresses, to give to anyone

\b
The person who can help, on any machine, without root or an engine:
  nettrace bundle show FILE                   what is in it, and the answer
  nettrace bundle verify FILE                 is it whole, and does it still come to the same answer?
  nettrace replay FILE                        the recorded question again
  nettrace replay FILE web db                 a question that was not asked
  nettrace bundle extract FILE                its parts as files: open capture.pcapng in Wireshark

\b
A bundle holds what the kernel and the engines say of networks: links, addresses, routes, rules, neighbours,
sysctls, listening ports, containers with their names and addresses, and the packets of the probe. It never holds
environment variables, labels, arguments of processes, images or logs.
"""


@click.group(epilog=EPILOG, short_help="Put all the evidence of a diagnosis in one file.")
def command() -> None:
    """Keep all the evidence of a diagnosis in one file, which anyone can diagnose again anywhere."""


CREATE_EPILOG = """\b
Examples:
  nettrace bundle create                                  the whole host
  nettrace bundle create web db --proto tcp --port 5432   one question, with everything its answer stands on
  nettrace bundle create web 8.8.8.8 -o web.tar.gz        into a file of that name

\b
Without -o the file is nettrace-<hostname>-<time>.tar.gz in the current folder, and replaces nothing. It is
readable by you alone.

\b
Exit codes: with SRC and DST those of `nettrace path`, the file is written with 0, 1 and 3; without them 0;
4 cannot work here, and nothing was written.
"""


def _path_options() -> list[click.Parameter]:
    """Return the options of `nettrace path` that belong to a question, as they are there."""
    return [
        each
        for each in path_command.command.params
        if isinstance(each, click.Option) and each.name not in ("bundle", "as_json")
    ]


def create(src: str | None, dst: str | None, output: Path | None, force: bool, as_json: bool, **options: Any) -> int:
    """Make a support bundle: of the question from SRC to DST, or of the whole host when none is asked."""
    import socket

    from nettrace.bundling import default_name

    path = output if output is not None else Path(default_name(socket.gethostname()))
    if os.path.isdir(path):  # noqa: PTH112 - as those below: a folder that may not be looked into is no error yet
        raise UsageError(f"{path} is a folder: name a file with -o, as in -o {path / default_name('host')}")
    if output is None and not force and os.path.lexists(path):
        raise NettraceError(f"{path} exists: choose another name with -o, or replace it with --force")
    replace = force or output is not None
    if src is None:
        redacted = options.pop("redact")
        return _create_of_host(path, replace=replace, redacted=redacted, as_json=as_json, options=options)
    if dst is None:
        raise UsageError(f"a question has two ends: say where to, as in: nettrace bundle create {src} 8.8.8.8")
    return path_command.run(src, dst, bundle=path, replace=replace, as_json=as_json, announce=True, **options)


def _create_of_host(path: Path, *, replace: bool, redacted: bool, as_json: bool, options: dict[str, Any]) -> int:
    context = click.get_current_context()
    for name in options:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            shown = next(each for each in context.command.params if each.name == name).opts[0]
            raise UsageError(
                f"{shown} belongs to a question: say between which ends, or leave it out for the whole host"
            )
    from nettrace.bundle.archive import write_bundle

    path_command.check_capabilities(predict_only=True, command="bundle")
    path_command.check_folder(path)
    bundle = record_host()
    if redacted:
        from nettrace.redacting import redact_bundle

        bundle, _translation = redact_bundle(bundle, os.urandom(32))
    write_bundle(path, bundle, replace=replace)
    if as_json:
        click.echo(_json(bundle.manifest))
    else:
        click.echo(f"{_announced(path)}: {_counted(len(bundle.manifest.read), 'namespace')}")
        for line in _cut_lines(bundle):
            click.echo(line)
    return 0


def record_host() -> Bundle:
    """Read the whole host into a bundle: every namespace that has a name or a container in it."""
    from nettrace.bundling import bundle_of_host
    from nettrace.collect import Collector
    from nettrace.collect.texts import read_texts
    from nettrace.commands.topo import allow_many_files

    started = time.monotonic()
    path_command.be_polite()
    allow_many_files()
    with Collector() as collector:
        namespaces = collector.find_all()
        with _progress(2 * len(namespaces), "reading namespaces") as step:
            snapshot = collector.everything(namespaces, progress=step)
            texts = read_texts(collector, snapshot, budget_s=TEXTS_S, progress=step)
    return bundle_of_host(snapshot, texts=texts, took_s=time.monotonic() - started)


#: How long raw texts are read: a host of five hundred containers should take less than 15 s in all.
TEXTS_S = 5.0


@contextmanager
def _progress(length: int, label: str) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr when that is a terminal; yields what to call at each step."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


def _announced(path: Path) -> str:
    from nettrace.render.safe import safe

    return f"wrote {safe(str(path))} ({_size(path.stat().st_size)})"


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@command.command(short_help="What is in a bundle, and its answer.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: the manifest, and the verdict in it.")
def show(file: Path, as_json: bool) -> int:
    """Show what FILE holds: where and when it was made, what was read and what was not, and the answer."""
    from nettrace.bundle.archive import read_bundle
    from nettrace.bundle.format import VERDICT_JSON, VERDICT_TEXT
    from nettrace.render.safe import safe
    from nettrace.replay import bounded

    with bounded(file):
        bundle = read_bundle(file)
        verdict = bundle.decode(VERDICT_JSON, Verdict) if VERDICT_JSON in bundle.members else None
        if as_json:
            click.echo(_json(Shown(manifest=bundle.manifest, verdict=verdict)))
            return 0
        for line in _manifest_lines(bundle):
            click.echo(line)
        if VERDICT_TEXT in bundle.members:
            click.echo()
            for line in bundle.members[VERDICT_TEXT].decode("utf-8", "replace").splitlines():
                click.echo(safe(line))
    return 0


def _manifest_lines(bundle: Bundle) -> Iterator[str]:
    import datetime

    from nettrace.bundle.format import TEXTS
    from nettrace.render.safe import safe

    manifest = bundle.manifest
    try:
        made = f"{datetime.datetime.fromtimestamp(manifest.created_at_ns // 10**9, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        made = "at no possible time"
    asked = manifest.question
    yield f"made      {made}, by nettrace {safe(manifest.nettrace)}, in {manifest.took_s:.1f} s"
    host = (manifest.hostname or "no name", f"Linux {manifest.kernel or '?'}", manifest.engine or "no engine")
    yield f"host      {safe(', '.join(host))}"
    if manifest.origin != "live":
        yield f"origin    {safe(manifest.origin)}"
    if manifest.redacted:
        yield "redacted  names and addresses are not the host's own"
    if asked is None:
        yield "question  none: the whole host was read"
    else:
        words = [asked.src, asked.dst, "--proto", asked.proto]
        words += ["--port", str(asked.port)] if asked.port is not None else []
        words += ["--size", str(asked.size)] if asked.size is not None else []
        words += [f"-{asked.family}"] if asked.family is not None else []
        words += ["--predict"] if asked.predict else []
        yield f"question  {safe(' '.join(words))}"
    yield f"read      {safe(_listed(manifest.read))}"
    texts = [name for name in bundle.members if name.startswith(TEXTS)]
    parts = [f"{name} ({_size(len(data))})" for name, data in bundle.members.items() if name not in texts]
    parts += [f"{len(texts)} raw texts ({_size(sum(len(bundle.members[name]) for name in texts))})"] if texts else []
    yield f"holds     {', '.join(parts)}"
    yield from _cut_lines(bundle)


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


MOST_LISTED = 12


def _cut_lines(bundle: Bundle) -> Iterator[str]:
    from nettrace.render.safe import safe

    cut = bundle.manifest.cut
    for each in cut[:MOST_LISTED]:
        yield f"lacks     {safe(each.what)}: {safe(each.reason)}"
    if len(cut) > MOST_LISTED:
        yield f"lacks     {len(cut) - MOST_LISTED} more, see --json"


@command.command(short_help="Is a bundle whole, and does it come to the same answer?")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(file: Path, as_json: bool) -> int:
    """Check FILE: its schema, the hash of every part, and whether its replay comes to the recorded verdict.

    Exit codes: 0 all is as recorded, 1 the replay comes to another verdict, 4 the file is damaged.
    """
    from nettrace.bundle.archive import read_bundle
    from nettrace.bundle.format import RUN, VERDICT_JSON
    from nettrace.commands.replay import answer_again
    from nettrace.replay import bounded, snapshot_of

    with bounded(file):
        bundle = read_bundle(file)
        differences: tuple[str, ...] = ()
        replayed = RUN in bundle.members and VERDICT_JSON in bundle.members
        if replayed:
            differences = parts_that_differ(bundle.decode(VERDICT_JSON, Verdict), answer_again(bundle))
        else:
            snapshot_of(bundle)
    if as_json:
        click.echo(_json(Verified(members=len(bundle.members), replayed=replayed, differences=differences)))
    else:
        click.echo(f"{_counted(len(bundle.members), 'member')}, each as it was written")
        if not replayed:
            click.echo("no verdict was recorded, so there is none to compare")
        elif differences:
            click.echo(f"the replay comes to another verdict; these parts of it differ: {', '.join(differences)}")
        else:
            click.echo("the replay comes to the recorded verdict")
    return 1 if differences else 0


class Verified(Model):
    """What `verify` found. `differences` are the parts of the verdict that differ."""

    members: int
    replayed: bool
    differences: tuple[str, ...]


class Shown(Model):
    """What `show --json` prints."""

    manifest: Any
    verdict: Verdict | None


def parts_that_differ(told: Verdict, again: Verdict) -> tuple[str, ...]:
    """Return the fields in which two verdicts differ, but for what it took and by which version it was given."""
    names = [name for name in Verdict.__struct_fields__ if name not in ("timing", "tool")]
    return tuple(name for name in names if getattr(told, name) != getattr(again, name))


@command.command(short_help="Unpack a bundle into a new folder.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-C", "--directory", type=click.Path(path_type=Path), help="Unpack there; it must be new or empty.")
def extract(file: Path, directory: Path | None) -> int:
    """Unpack FILE into a new folder, named as the file unless -C names another; nothing is overwritten."""
    from nettrace.bundle.archive import read_bundle, write_folder
    from nettrace.render.safe import safe

    bundle = read_bundle(file)
    name = file.resolve().name
    for suffix in (".gz", ".tar", ".tgz"):
        name = name.removesuffix(suffix)
    folder = directory if directory is not None else Path(name)
    try:
        taken = os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise NettraceError(f"cannot look into {folder}: {error.strerror}") from error
    if taken:
        raise NettraceError(f"{folder} exists and is not an empty folder: name a new one with -C")
    write_folder(folder, bundle)
    click.echo(safe(str(folder)))
    return 0


@command.command(short_help="Replace names and addresses, keeping the diagnosis.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write this file.  [default: the name with .redacted in it]",
)
@click.option(
    "--map",
    "table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what stands for what into a file of its own, for you alone.",
)
@click.option("-f", "--force", is_flag=True, help="Replace a file of that name.")
def redact(file: Path, output: Path | None, table: Path | None, force: bool) -> int:
    """Replace in FILE all names and addresses by others, so that it can be given to anyone.

    Addresses and MAC addresses are mapped consistently: what was in one network still is. Containers, networks,
    namespaces and hosts get tokens for names; names of devices stay. The redacted bundle comes to the same outcome,
    codes and places: that is checked before it is written.
    """
    from nettrace.bundle.archive import read_bundle, write_bundle
    from nettrace.redacting import redact_bundle
    from nettrace.replay import bounded

    if output is None:
        stem = file.name.removesuffix(".tar.gz").removesuffix(".tgz")
        output = file.with_name(f"{stem}.redacted.tar.gz")
    for path in (output, table):
        if path is not None and path.exists() and not force:
            raise NettraceError(f"{path} exists: choose another name, or replace it with --force")
    with bounded(file):
        bundle = read_bundle(file)
        if bundle.manifest.redacted:
            raise NettraceError(f"{file} is redacted already")
        made, translation = redact_bundle(bundle, os.urandom(32))
    write_bundle(output, made, replace=force)
    if table is not None:
        write_private(table, _json(translation) + "\n")
    count = len(translation.names) + len(translation.addresses)
    click.echo(f"{_announced(output)}: {count} names and addresses replaced")
    return 0


def write_private(path: Path, text: str) -> None:
    """Write a text for the user alone (mode 0600); raises NettraceError when it cannot be."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, 0o600)
            file.write(text)
    except OSError as error:
        raise NettraceError(f"cannot write {path}: {error.strerror}") from error


def _json(value: object) -> str:
    from nettrace.model.base import to_json
    from nettrace.render.safe import safe_json

    return safe_json(to_json(value, indent=2).decode())


command.add_command(
    click.Command(
        "create",
        callback=create,
        params=[
            click.Argument(["src"], required=False),
            click.Argument(["dst"], required=False),
            click.Option(
                ["-o", "--output"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Write this file; one of that name is replaced.",
            ),
            click.Option(["-f", "--force"], is_flag=True, help="Replace a file of the default name, too."),
            click.Option(
                ["--json", "as_json"], is_flag=True, help="Print one JSON document: the verdict, or the manifest."
            ),
            *_path_options(),
        ],
        epilog=CREATE_EPILOG,
        short_help="Make a bundle of a question, or of the whole host.",
        help=create.__doc__,
    )
)
