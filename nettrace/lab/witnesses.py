"""Which witness names what: every fault of the lab, and what each account of the packet's way can say about it alone.

`python -m nettrace.lab.witnesses [-o FILE]` breaks each fault in a lab, asks, and writes a table as Markdown. The
columns are taken from the same run: the captures without anything else, the counters that moved by exactly the probe,
the kernel's reason of the drop, the kernel's trace through the rules, and the answer that stands on all of them and
the model.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from nettrace.errors import LabError, NettraceError
from nettrace.lab.faults import FAULTS, Fault
from nettrace.lab.fetch import engine_dir, find_program
from nettrace.lab.host import Lab
from nettrace.model.base import Model
from nettrace.model.netfilter import FilterVerdict
from nettrace.model.path import Direction
from nettrace.model.verdict import ObservedSight
from nettrace.replay import case_again, read_case
from nettrace.rules.case import Case
from nettrace.rules.faults import dropping_rules_that_moved
from nettrace.rules.kernel_facts import drop_text, rises, telling_drops
from nettrace.rules.wording import ERRNO_TEXT, place_of

__all__ = ["Row", "main", "table", "witness"]

NOTHING = "–"
HEADERS = ("fault", "captures alone", "counters", "drop reason", "rule trace", "all, with the model")

#: Names that are drawn anew in every lab.
_DRAWN = ((re.compile(r"veth[0-9a-f]{7}"), "vethN"), (re.compile(r"br-[0-9a-f]{12}"), "br-N"))


class Row(Model):
    """What each witness says about one fault; NOTHING where it says nothing."""

    fault: str
    captures: str
    counters: str
    drop: str
    trace: str
    together: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (self.fault, self.captures, self.counters, self.drop, self.trace, self.together)


def witness(name: str, case: Case, verdict: dict[str, Any]) -> Row:
    """Return what each witness says in one case; `verdict` is the whole answer (schema nettrace.verdict/1)."""
    stop = case.blockers[0].step if case.blockers else None
    reason = stop.reason if stop is not None else None
    return Row(
        fault=name,
        captures=_plain(_captures(case)),
        counters=_plain(_joined(_counters(case))),
        drop=_plain(_joined(dict.fromkeys(drop_text(each) for each in telling_drops(case, reason)))),
        trace=_plain(_joined(_traced(case))),
        together=_plain(_together(verdict)),
    )


def _plain(text: str) -> str:
    for pattern, name in _DRAWN:
        text = pattern.sub(name, text)
    return text


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(parts) or NOTHING


def _captures(case: Case) -> str:
    """Between which points the packet, or its answer, was lost: all that listening can tell."""
    correlation = case.correlation
    if not correlation.probed:
        return NOTHING
    if correlation.errno is not None:
        return f"not sent: {ERRNO_TEXT.get(correlation.errno, str(correlation.errno)).split(' ')[0]}"
    if correlation.reply_seen:
        return "an answer came"
    said = [
        f"ICMP {each.packet.icmp_type}/{each.packet.icmp_code} from {each.packet.src}" for each in correlation.errors
    ]
    said += [f"TCP reset from {each.packet.src}" for each in correlation.resets]
    for direction in (Direction.REPLY, Direction.FORWARD):
        seen = [
            each.point
            for each in correlation.passages
            if each.direction is direction and each.observed is ObservedSight.SEEN
        ]
        if seen:
            what = "the answer" if direction is Direction.REPLY else "the probe"
            return "; ".join([f"{what} is last seen at {seen[-1]}", *dict.fromkeys(said)])
    return "nothing is seen"


def _counters(case: Case) -> Iterator[str]:
    sent = len(case.observation.sent) if case.observation is not None else 0
    for _netns, ref, by in dropping_rules_that_moved(case):
        if by == sent:
            yield f"{place_of(ref)} +{by}"
    for before in case.before.namespaces:
        after = case.after.namespace(before.id) if case.after is not None else None
        for name, by in rises(before, after, case.flow.family) if after is not None else ():
            if by == sent:
                yield f"{before.name}: {name} +{by}"


def _traced(case: Case) -> Iterator[str]:
    for each in case.correlation.told:
        if each.verdict is FilterVerdict.DROP and each.decided_by is not None:
            yield f"dropped by {place_of(each.decided_by)}"


def _together(verdict: dict[str, Any]) -> str:
    findings, stop = verdict["findings"], verdict["stop"]
    first = findings[0]["code"] if findings else NOTHING
    return f"{first} ({stop['direction']}, {stop['segment']})" if stop else f"{first} ({verdict['outcome']})"


def table(rows: Iterable[Row], host: str) -> str:
    """Return the document: what the columns mean, how often each names something, and the table."""
    listed = sorted(rows, key=lambda row: row.fault)
    spoke = {
        "counters": sum(row.counters != NOTHING for row in listed),
        "the drop reason": sum(row.drop != NOTHING for row in listed),
        "the rule trace": sum(row.trace != NOTHING for row in listed),
    }
    none = sum(NOTHING == row.counters == row.drop == row.trace for row in listed)
    lines = [
        "# Which witness names what",
        "",
        "Made by `make witnesses`, not by hand. Each row is one fault of `nettrace lab`, broken in a throw-away host",
        "and asked about once. The columns come from one run: what the captures tell by themselves, which counters",
        "of losses rose by exactly the probe, which reason and function the kernel gave for a drop in the sender's",
        "context, which rule the kernel's own trace ended at, and the finding that stands on all of it and the model.",
        "",
        f"Of {len(listed)} faults, "
        + ", ".join(f"{name} said something about {count}" for name, count in spoke.items())
        + f"; about {none} only the captures did. Captures say between which points a packet was lost, and never why.",
        "A drop reason may be of a copy of the packet, as of a frame that a bridge floods to several ports. A far end",
        "of a lab is on the same machine, so its drops are reported too; those of a real far end are not.",
        "",
        f"Taken on {host}.",
        "",
        "| " + " | ".join(HEADERS) + " |",
        "| " + " | ".join("---" for _ in HEADERS) + " |",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells) + " |" for row in listed]
    return "\n".join(lines) + "\n"


def _ask(lab: Lab, fault: Fault) -> tuple[Row, str]:
    lab.prepare(fault.name)
    question = lab.flow_of(fault.name)
    lab.break_fault(fault.name)
    try:
        with tempfile.TemporaryDirectory(prefix="nettrace-witnesses-") as folder:
            bundle = Path(folder, "bundle.tar.gz")
            done = lab.nettrace([*question, "--json", "--bundle", str(bundle)])
            if done.returncode not in (0, 1, 3):
                raise LabError(f"{fault.name}: nettrace ended with {done.returncode}: {done.stderr.strip()}")
            verdict = json.loads(done.stdout)
            host = f"Linux {verdict['host']['kernel']}"
            return witness(fault.name, case_again(read_case(bundle)), verdict), host
    finally:
        lab.mend()


def main(argv: list[str] | None = None) -> int:
    """Break, ask and write; return 1 when a fault could not be asked about."""
    parser = argparse.ArgumentParser(description="Write which witness names what, fault by fault.")
    parser.add_argument("-o", "--output", type=Path, help="write here instead of to the terminal")
    args = parser.parse_args(argv)
    rows: dict[str, Row] = {}
    host, failed = "", 0
    kinds: list[tuple[Literal["docker", "none"], str | None]] = [("none", None), ("docker", None)]
    if find_program(engine_dir("docker-28"), "dockerd") is not None:
        kinds.append(("docker", "docker-28"))
    try:
        for engine, directory in kinds:
            with Lab.up(f"witnesses-{directory or engine}", engine=engine, docker_dir=directory) as lab:
                for fault in FAULTS:
                    if fault.name in rows or engine not in fault.kinds or lab.hosts_fault(fault.name) is not None:
                        continue
                    try:
                        rows[fault.name], host = _ask(lab, fault)
                    except LabError as error:
                        failed += 1
                        print(f"witnesses: {error}", file=sys.stderr)
    except NettraceError as error:
        print(f"witnesses: {error}", file=sys.stderr)
        return error.exit_code
    text = table(rows.values(), host)
    if args.output is None:
        print(text, end="")
    else:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
