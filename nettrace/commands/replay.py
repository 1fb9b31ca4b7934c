"""`nettrace replay FILE [SRC DST]`: the recorded question again, or a new one on the recorded host.

Reads one file and nothing of the machine it runs on: no privilege, no engine, no namespace.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from nettrace.errors import InputError, UsageError
from nettrace.model.flow import Proto
from nettrace.model.verdict import EXIT_CODE

if TYPE_CHECKING:
    from nettrace.bundle.format import Bundle
    from nettrace.commands.path import Question
    from nettrace.model.verdict import Verdict
    from nettrace.replay import Recorded

EPILOG = """\b
Examples:
  nettrace replay nettrace-box.tar.gz                     the recorded question, the same answer
  nettrace replay nettrace-box.tar.gz web db --proto tcp --port 5432
                                                          another question: what would happen on that host
  nettrace replay nettrace-box.tar.gz --json | jq '.findings[0]'
  nettrace replay docker0.pcap eth0.pcap c.pcap --snapshot nettrace-box.tar.gz app 8.8.8.8 --point c.pcap=app/eth0
                                                          what tcpdump wrote at several points, followed together

\b
SRC and DST are named as for `nettrace path`, on the recorded host. A new question is answered by the model
alone, as with `nettrace path --predict`: no packet can be sent to a file.

\b
Exit codes: 0 delivered, 1 stopped or degraded, 2 usage, 3 inconclusive, 4 the file cannot be read or does not
hold what the question needs.
"""


@click.command(epilog=EPILOG, short_help="Diagnose a bundle again, anywhere.")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, metavar="[CAPTURE]... [SRC DST]")
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Judge captures made by hand by this bundle of the host (or its before.json).",
)
@click.option("--point", "points", multiple=True, metavar="FILE=WEB/ETH0", help="Where a capture was made.")
@click.option("--throughout", is_flag=True, help="All captures ran the whole time: silence in them counts.")
@click.option("--proto", type=click.Choice([each.value for each in Proto]), default="icmp", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Destination port, for tcp and udp.")
@click.option("--size", type=int, metavar="BYTES", help="IP length of the packet; it may not be fragmented (DF).")
@click.option("-4", "family", flag_value=4, type=int, help="IPv4 only.")
@click.option("-6", "family", flag_value=6, type=int, help="IPv6 only.")
@click.option("--predict", "predict_only", is_flag=True, help="Ask the model alone, also about the recorded question.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (schema nettrace.verdict/1).")
@click.pass_context
def command(
    context: click.Context,
    file: Path,
    words: tuple[str, ...],
    snapshot: Path | None,
    points: tuple[str, ...],
    throughout: bool,
    proto: str,
    port: int | None,
    size: int | None,
    family: int | None,
    predict_only: bool,
    as_json: bool,
) -> int:
    """Diagnose the support bundle FILE: the question that was recorded in it, or a new one from SRC to DST.

    Or follow a flow through captures made by hand (pcap, pcapng), judged by a --snapshot of the host.
    """
    from nettrace.bundle.archive import read_bundle
    from nettrace.commands._captures import are_captures, replay_captures, sum_of_sizes
    from nettrace.commands.path import ask, show
    from nettrace.replay import MAX_CPU_S, bounded

    if snapshot is not None or points or throughout or are_captures([file]):
        if predict_only:
            raise UsageError("--predict asks the model alone, and captures tell it nothing: leave one of them out")
        said = context.get_parameter_source("proto") is not click.core.ParameterSource.DEFAULT
        # What a capture takes grows with it; a machine of any age searches a megabyte in a fraction of a second.
        with bounded(file, cpu_s=MAX_CPU_S + sum_of_sizes((file, *map(Path, words))) / 1_000_000):
            return replay_captures(
                (str(file), *words),
                snapshot=snapshot,
                points=points,
                throughout=throughout,
                proto=proto if said else None,
                port=port,
                size=size,
                family=family,
                as_json=as_json,
            )
    if len(words) > 2:
        raise UsageError(f"{' '.join(words)} is more than SRC and DST")
    src, dst = (*words, None, None)[:2]
    question = None
    if src is not None:
        if dst is None:
            raise UsageError(f"a question has two ends: say where to, as in: nettrace replay {file} {src} 8.8.8.8")
        question = ask(src, dst, proto=proto, port=port, size=size, family=family)
    else:
        _refuse_stray_options(context, file)
    with bounded(file):
        bundle = read_bundle(file)
        verdict = answer_again(bundle, predict_only) if question is None else answer_anew(bundle, question)
        show(verdict, as_json=as_json)
    return EXIT_CODE[verdict.outcome]


def _refuse_stray_options(context: click.Context, file: Path) -> None:
    """Refuse options that belong to a question when none is asked: the recorded one stays as it was."""
    for name, option in (("proto", "--proto"), ("port", "--port"), ("size", "--size"), ("family", "-4 or -6")):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(
                f"the recorded question stays as it was asked, so {option} changes nothing: leave it out, or ask a new "
                f"question, as in: nettrace replay {file} SRC DST {option} …"
            )


def answer_again(bundle: Bundle, predict_only: bool = False) -> Verdict:
    """Return the answer to the recorded question, or what the model alone says to it.

    Raises InputError when none was recorded.
    """
    from nettrace.bundle.format import RUN
    from nettrace.replay import diagnose_again, recorded

    if RUN not in bundle.members:
        raise InputError("no question was recorded, but the whole host: ask one, as in: nettrace replay FILE SRC DST")
    case = recorded(bundle)
    if predict_only:
        case = replace(case, after=None, observation=None)
    return diagnose_again(case)[0]


def answer_anew(bundle: Bundle, question: Question) -> Verdict:
    """Return the model's answer to a new question on the recorded host."""
    from nettrace.replay import diagnose_again

    case = case_anew(bundle, question)
    verdict = diagnose_again(case)[0]
    return _of_paste(case, verdict) if bundle.manifest.origin == "import" else verdict


def _of_paste(case: Recorded, verdict: Verdict) -> Verdict:
    """Return the answer to a question about a pasted host, where few paste all.

    A fault that stands whatever the tables hold that come and go is told, with what that supposes. That nothing is
    wrong is never supposed.
    """
    from msgspec.structs import replace

    from nettrace.model.verdict import Result
    from nettrace.paste.question import read_in_part, supposing
    from nettrace.replay import diagnose_again

    if verdict.outcome is Result.DELIVERED and read_in_part(case.before):
        return replace(verdict, outcome=Result.INCONCLUSIVE)
    supposed = supposing(case.before) if verdict.outcome is Result.INCONCLUSIVE else None
    if supposed is not None:
        again = diagnose_again(replace(case, before=supposed[0]))[0]
        if again.outcome in (Result.STOPPED, Result.DEGRADED):
            gaps = tuple(dict.fromkeys((*again.gaps, *(gap for gap in verdict.gaps if gap.section != "model"))))
            return replace(again, gaps=gaps, assumptions=(*again.assumptions, supposed[1]))
    return verdict


def case_anew(bundle: Bundle, question: Question) -> Recorded:
    """Return a new question on the recorded host as a case; raises NotFound, Ambiguous, UsageError, InputError."""
    from nettrace.collect.resolve import parse_endpoint
    from nettrace.commands.path import check_size, look
    from nettrace.recorded import RecordedHost, resolve_recorded
    from nettrace.replay import names_of, new_question, snapshot_of

    before = snapshot_of(bundle)
    flow = resolve_recorded(
        before,
        parse_endpoint(question.src),
        parse_endpoint(question.dst),
        proto=question.proto,
        dport=question.port,
        size=question.size,
        family=question.family,
        names=names_of(bundle),
    )
    check_size(flow)
    seen, _trace = look(RecordedHost(before, flow), flow)
    asked = new_question(seen, flow)
    if bundle.manifest.origin == "import":
        from msgspec.structs import replace

        from nettrace.paste.question import with_conntrack

        return replace(asked, before=with_conntrack(asked.before, before, flow))
    return asked
