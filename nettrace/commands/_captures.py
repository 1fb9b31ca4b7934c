"""`nettrace replay a.pcap [b.pcap …]`: captures made by hand, judged with a snapshot of the same host.

Without a snapshot nobody can say what should have happened: then the conversations are listed, and where each is seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from nettrace.errors import InputError, UsageError
from nettrace.model.base import IPAddress
from nettrace.model.flow import Flow, Proto
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import EXIT_CODE, Result

if TYPE_CHECKING:
    from nettrace.conversations import Conversation
    from nettrace.model.snapshot import Gap

__all__ = ["are_captures", "replay_captures", "sum_of_sizes"]

#: Most conversations that are listed without a snapshot.
MOST_ROWS = 40


def are_captures(paths: Sequence[Path]) -> int:
    """Return how many of these, from the first on, are capture files."""
    from nettrace.wire.scan import is_capture

    for count, path in enumerate(paths):
        try:
            if not path.is_file():  # a pipe would be waited for
                return count
            with path.open("rb") as file:
                if not is_capture(file.read(4)):
                    return count
        except (OSError, ValueError):
            return count
    return len(paths)


def sum_of_sizes(paths: Sequence[Path]) -> int:
    """Return how many bytes those of the paths that are files hold together."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            total += path.stat().st_size
    return total


def replay_captures(
    words: Sequence[str],
    *,
    snapshot: Path | None,
    points: Sequence[str],
    throughout: bool,
    proto: str | None,
    port: int | None,
    size: int | None,
    family: int | None,
    as_json: bool,
) -> int:
    """Answer a question by capture files: `words` are the files, and after them SRC and DST or nothing.

    `proto` is None where the user has not said it. Returns the exit code; raises NettraceError.
    """
    count = are_captures([Path(each) for each in words])
    if count == 0:
        raise InputError(f"{words[0]} is no capture file (pcap or pcapng): give tcpdump's files before SRC and DST")
    paths, rest = [Path(each) for each in words[:count]], words[count:]
    if len(rest) not in (0, 2):
        raise UsageError(
            f"after the captures come SRC and DST, or nothing: {' '.join(rest)} is neither (nor a capture file)"
        )
    if snapshot is None:
        if rest:
            raise UsageError(
                "captures alone do not tell what should have happened: add --snapshot FILE (a bundle of the host, made "
                "with `nettrace bundle create`, or its before.json)"
            )
        return _list(paths, as_json=as_json)
    return _answer(paths, rest, _known(snapshot), points, throughout, proto, port, size, family, as_json)


class _Known(msgspec.Struct, frozen=True):
    """What is known of the host: its snapshot, the names that were looked up on it, and what it was recorded for."""

    snapshot: Snapshot
    names: Mapping[str, IPAddress] = {}
    flow: Flow | None = None


def _known(path: Path) -> _Known:
    """Read a snapshot: a JSON file, or the one in a bundle."""
    from nettrace.handmade import read_snapshot

    try:
        start = b""
        if path.is_file() or not path.exists():
            with path.open("rb") as file:
                start = file.read(1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if start == b"{":
        return _Known(read_snapshot(path))
    from nettrace.bundle.archive import read_bundle
    from nettrace.bundle.format import RUN, Run
    from nettrace.replay import names_of, snapshot_of

    bundle = read_bundle(path)
    flow = bundle.decode(RUN, Run).flow if RUN in bundle.members else None
    return _Known(snapshot_of(bundle), names_of(bundle), flow)


def _answer(
    paths: Sequence[Path],
    ends: Sequence[str],
    known: _Known,
    points: Sequence[str],
    throughout: bool,
    proto: str | None,
    port: int | None,
    size: int | None,
    family: int | None,
    as_json: bool,
) -> int:
    from nettrace.collect.resolve import parse_endpoint
    from nettrace.commands.path import ask, check_size, look, show
    from nettrace.conversations import word_for
    from nettrace.handmade import answer_captures, choose_conversation
    from nettrace.recorded import RecordedHost, resolve_recorded
    from nettrace.replay import new_question

    snapshot = known.snapshot
    guess = proto is None and port is None
    if not ends:
        chosen = choose_conversation(paths, snapshot, points, Proto(proto) if proto else None, port)
        ends = (word_for(chosen.src, snapshot), word_for(chosen.dst, snapshot))
        proto, port, family, guess = chosen.proto.value, chosen.port, chosen.src.version, False
    question = ask(*ends, proto=proto or "icmp", port=port, size=size, family=family)
    flow = resolve_recorded(
        snapshot,
        parse_endpoint(question.src),
        parse_endpoint(question.dst),
        proto=question.proto,
        dport=question.port,
        size=question.size,
        family=question.family,
        names=known.names,
    )
    check_size(flow)

    def on_the_way(flow: Flow) -> Snapshot:
        """Return what of the host the flow passes, as it is read of a live one."""
        seen, _trace = look(RecordedHost(snapshot, flow), flow)
        other = known.flow is not None and _what(known.flow) != _what(flow)
        return new_question(seen, flow).before if other else seen

    answered = answer_captures(
        paths,
        on_the_way(flow),
        flow,
        named=points,
        throughout=throughout,
        guess=on_the_way if guess else None,
        whole=snapshot,
    )
    show(answered.verdict, as_json=as_json)
    return EXIT_CODE[answered.verdict.outcome]


def _what(flow: Flow) -> tuple[object, ...]:
    """Return what a flow's entries in conntrack are told by."""
    return (flow.src.netns, flow.dst.address, flow.proto, flow.dport)


def _list(paths: Sequence[Path], *, as_json: bool) -> int:
    """Show the conversations that captures hold; nothing is settled by them, which is exit code 3."""
    from nettrace.handmade import list_conversations

    found, gaps = list_conversations(paths)
    if as_json:
        from nettrace.model.base import to_json

        document = {"schema": "nettrace.conversations/1", "conversations": found, "gaps": gaps}
        click.echo(to_json(document, indent=2).decode())
    else:
        click.echo(_table(found, gaps))
    return EXIT_CODE[Result.INCONCLUSIVE]


def _table(found: Sequence[Conversation], gaps: Sequence[Gap]) -> str:
    from tabulate import tabulate

    from nettrace.render.safe import safe

    rows = []
    for each in found[:MOST_ROWS]:
        port = f" {each.port}" if each.port is not None else ""
        for index, where in enumerate(each.where):
            name = f"{each.src} → {each.dst} {each.proto.value}{port}" if index == 0 else ""
            under = f"{where.src} → {where.dst}" if (where.src, where.dst) != (each.src, each.dst) else ""
            rows.append([name, safe(where.place), where.there, where.back, under])
    lines = []
    if rows:
        headers = ["conversation", "seen at", "there", "back", "as"]
        lines.append(
            tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", "left", "right", "right"))
        )
    else:
        lines.append("No conversation is in these captures.")
    if len(found) > MOST_ROWS:
        lines.append(f"and {len(found) - MOST_ROWS} more conversations")
    lines.extend(f"{safe(gap.netns or 'capture')}: {safe(gap.reason)}" for gap in gaps)
    lines.append("")
    lines.append(
        "What should have happened only the host tells: add --snapshot FILE, a bundle of the host made with "
        "`nettrace bundle create`."
    )
    return "\n".join(lines)
