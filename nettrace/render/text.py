"""A verdict for people: the answer in the first line, then the path, then each finding with its proof and its remedy.

Commands stand on lines of their own, without a prompt and never wrapped, so that they can be pasted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import msgspec

from nettrace.model.path import Direction
from nettrace.model.verdict import (
    Agreement,
    Evidence,
    Finding,
    GapView,
    Hop,
    ObservedSight,
    PredictedSight,
    Remedy,
    Result,
    Severity,
    Verdict,
    Verified,
)
from nettrace.render.safe import safe
from nettrace.render.view import (
    BASIS,
    endpoint,
    first_leg_line,
    headline,
    host_line,
    lookup_line,
    note_lines,
    place_of_stop,
    probed,
    rewritten,
    stop_position,
)

__all__ = ["render_text"]

_MIN_WIDTH = 60
_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"

_OUTCOME_COLOR: dict[Result, str] = {
    Result.DELIVERED: _GREEN,
    Result.STOPPED: _RED,
    Result.DEGRADED: _YELLOW,
    Result.INCONCLUSIVE: _YELLOW,
}

_SEVERITY_COLOR: dict[Severity, str] = {
    Severity.BLOCKING: _RED,
    Severity.DEGRADING: _YELLOW,
    Severity.WARNING: _YELLOW,
    Severity.INFO: _DIM,
}

_VERIFIED: dict[Verified, str] = {
    Verified.YES: "Verified: with this applied, the model delivers the flow.",
    Verified.NO: "Not enough by itself: with this applied, the model still does not deliver the flow.",
    Verified.UNVERIFIABLE: "Not verified: the model cannot tell what this would change.",
}


class _Signs(msgspec.Struct, frozen=True, kw_only=True):
    """The signs of the path table."""

    forward: str
    reply: str
    arrow: str
    seen: str
    unseen: str
    unknown: str
    nobody: str
    differ: str
    ellipsis: str


_UNICODE = _Signs(
    forward="→", reply="←", arrow="→", seen="✓", unseen="✗", unknown="?", nobody="·", differ="≠", ellipsis="…"
)
_ASCII = _Signs(
    forward=">", reply="<", arrow="->", seen="+", unseen="x", unknown="?", nobody=".", differ="!", ellipsis="..."
)


class _Style(msgspec.Struct, frozen=True, kw_only=True):
    """How to write: line width in columns, colours or none, and which signs."""

    width: int
    color: bool
    signs: _Signs

    def paint(self, text: str, *codes: str) -> str:
        """Return the text in the SGR colours given (ECMA-48), or unchanged where no colour is wanted."""
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.color and text else text

    def wrap(self, text: str, indent: str, hanging: str | None = None) -> list[str]:
        """Return the text in lines of the style's width."""
        return textwrap.wrap(
            text,
            width=self.width,
            initial_indent=indent,
            subsequent_indent=indent if hanging is None else hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )


def render_text(verdict: Verdict, *, color: bool, width: int, unicode: bool = True) -> str:
    """Return the verdict as text of at most `width` columns where it can be wrapped, without a last newline.

    Text that came from the host is shown with control characters escaped. `unicode` False uses ASCII signs.
    """
    style = _Style(width=max(width, _MIN_WIDTH), color=color, signs=_UNICODE if unicode else _ASCII)
    about = [line for line in (lookup_line(verdict), *note_lines(verdict)) if line]
    blocks = [[*_headline(verdict, style), *(part for line in about for part in style.wrap(line, "", "  "))]]
    if verdict.hops:
        blocks.append(_path(verdict, style))
    elif verdict.stop is not None and (verdict.stop.device is not None or verdict.stop.hook is not None):
        blocks.append([f"Stopped {place_of_stop(verdict)}."])
    blocks += [_finding(number, each, style) for number, each in enumerate(verdict.findings, 1)]
    blocks.append(_list("Not known", (_gap_text(each) for each in verdict.gaps), style))
    blocks.append(_list("Taken for granted", (safe(each) for each in verdict.assumptions), style))
    blocks.append([style.paint(host_line(verdict), _DIM)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headline(verdict: Verdict, style: _Style) -> list[str]:
    word = style.paint(verdict.outcome.value.upper(), _BOLD, _OUTCOME_COLOR[verdict.outcome])
    return [f"{word}  {headline(verdict, style.signs.arrow)}"]


def _path(verdict: Verdict, style: _Style) -> list[str]:
    table = _fit(verdict, style)
    notes = _legend(verdict, style.signs)
    leg = first_leg_line(verdict, style.signs.arrow)
    lines = [*([leg] if leg else []), *table, *([style.paint("   ".join(notes), _DIM)] if notes else [])]
    for hop in verdict.hops:
        if hop.agreement in (Agreement.MODEL_ONLY, Agreement.WIRE_ONLY) and hop.steps:
            lines += style.wrap(
                f"{style.signs.differ} {safe(hop.point)}: the model says: {'; '.join(map(safe, hop.steps))}", "", "  "
            )
    return lines


def _fit(verdict: Verdict, style: _Style) -> list[str]:
    """Return the path table, made narrower step by step until it fits the width, or as narrow as it gets."""
    longest = max(len(safe(hop.point)) for hop in verdict.hops)
    lines: list[str] = []
    for stacked, place in ((False, longest), (True, longest), (True, 28), (True, 18)):
        lines = _table(verdict, style, stacked=stacked, place=min(place, longest))
        if max(len(line) for line in lines) <= style.width:
            break
    return _tint(lines, verdict, style)


def _table(verdict: Verdict, style: _Style, *, stacked: bool, place: int) -> list[str]:
    from tabulate import tabulate  # here: it costs as much to import as the rest of the rendering

    wire = probed(verdict)
    start_ns = min((hop.at_ns for hop in verdict.hops if hop.at_ns is not None), default=0)
    rows = [
        _row(verdict.hops, index, start_ns, style, wire=wire, stacked=stacked, place=place)
        for index in range(len(verdict.hops))
    ]
    stop = stop_position(verdict)
    if stop is not None:
        room = max(max(len(line) for line in row[-2 if wire else -1].split("\n")) for row in rows)
        where = textwrap.wrap(place_of_stop(verdict), max(room, 30))
        rows.insert(stop, [style.signs.unseen, "stopped here", "", *[""] * wire, "\n".join(where), *[""] * wire])
    headers = ["", "point", "model", *(["wire"] if wire else []), "packet", *(["ms"] if wire else [])]
    align = ["left", "left", "center", *(["center"] if wire else []), "left", *(["right"] if wire else [])]
    text = tabulate(rows, headers=headers, tablefmt="simple", colalign=align, disable_numparse=True)
    return [line.rstrip() for line in text.splitlines()]


def _row(
    hops: tuple[Hop, ...], index: int, start_ns: int, style: _Style, *, wire: bool, stacked: bool, place: int
) -> list[str]:
    hop, signs = hops[index], style.signs
    cells = [
        signs.forward if hop.direction is Direction.FORWARD else signs.reply,
        _elide(safe(hop.point), place, signs.ellipsis),
        _predicted(hop.predicted, signs),
    ]
    if wire:
        differ = signs.differ if hop.agreement in (Agreement.MODEL_ONLY, Agreement.WIRE_ONLY) else ""
        cells.append(" ".join(filter(None, (_observed(hop.observed, signs), differ))))
    cells.append(_packet(hops, index, signs, stacked=stacked))
    if wire:
        cells.append("" if hop.at_ns is None else f"{(hop.at_ns - start_ns) / 1e6:.2f}")
    return cells


def _tint(lines: list[str], verdict: Verdict, style: _Style) -> list[str]:
    """Colour the line of the stop; tabulate is done, so the widths are settled."""
    mark = f"{style.signs.unseen} "
    return [style.paint(line, _BOLD, _RED) if line.startswith(mark) else line for line in lines]


def _predicted(sight: PredictedSight, signs: _Signs) -> str:
    match sight:
        case PredictedSight.SEEN:
            return signs.seen
        case PredictedSight.NOT_SEEN:
            return signs.unseen
        case PredictedSight.UNKNOWN:
            return signs.unknown


def _observed(sight: ObservedSight, signs: _Signs) -> str:
    match sight:
        case ObservedSight.SEEN:
            return signs.seen
        case ObservedSight.NOT_SEEN:
            return signs.unseen
        case ObservedSight.BLIND:
            return signs.unknown
        case ObservedSight.NOT_PROBED:
            return signs.nobody


def _packet(hops: tuple[Hop, ...], index: int, signs: _Signs, *, stacked: bool) -> str:
    packet = hops[index].packet
    if packet is None:
        return ""
    new_src, new_dst = rewritten(hops, index)
    src = endpoint(packet.src, packet.sport) + ("*" if new_src else "")
    dst = endpoint(packet.dst, packet.dport) + ("*" if new_dst else "")
    return f"{src}\n{signs.arrow} {dst}" if stacked else f"{src} {signs.arrow} {dst}"


def _legend(verdict: Verdict, signs: _Signs) -> list[str]:
    """Explain the signs that were used, but for the one that needs no words."""
    hops = verdict.hops
    predicted, observed = {hop.predicted for hop in hops}, {hop.observed for hop in hops}
    wire = probed(verdict)
    notes = []
    if PredictedSight.NOT_SEEN in predicted or ObservedSight.NOT_SEEN in observed:
        notes.append(f"{signs.unseen} not there")
    if PredictedSight.UNKNOWN in predicted or ObservedSight.BLIND in observed:
        notes.append(f"{signs.unknown} cannot tell")
    if wire and ObservedSight.NOT_PROBED in observed:
        notes.append(f"{signs.nobody} nobody listened")
    if any(hop.agreement in (Agreement.MODEL_ONLY, Agreement.WIRE_ONLY) for hop in hops):
        notes.append(f"{signs.differ} model and wire disagree")
    if any(any(rewritten(hops, index)) for index in range(len(hops))):
        notes.append("* rewritten since the point before")
    return notes


def _finding(number: int, finding: Finding, style: _Style) -> list[str]:
    title = style.wrap(f"{number}. {safe(finding.title)}", "", "   ")
    facts = [safe(finding.code), f"at {safe(finding.at)}" if finding.at else "", BASIS[finding.basis]]
    severity = style.paint(finding.severity.value, _BOLD, _SEVERITY_COLOR[finding.severity])
    lines = [style.paint(line, _BOLD) for line in title]
    lines.append(f"   {severity}, {', '.join(filter(None, facts))}")
    if finding.explanation:
        lines += ["", *style.wrap(safe(" ".join(finding.explanation.split())), "   ")]
    if finding.evidence:
        lines += ["", "   Evidence", *_evidence(finding.evidence, style)]
    if finding.remedy.summary or finding.remedy.commands:
        lines += ["", *_remedy(finding.remedy, style)]
    return lines


def _evidence(evidence: tuple[Evidence, ...], style: _Style) -> list[str]:
    wide = max(len(each.kind.value) for each in evidence)
    hanging = " " * (5 + wide + 2)
    lines = []
    for each in evidence:
        start = f"     {each.kind.value:<{wide}}  {safe(each.ref)}"
        texts = [safe(line) for line in each.text.splitlines()]
        if len(texts) == 1 and len(start) + 2 + len(texts[0]) <= style.width:
            lines.append(f"{start}: {texts[0]}")
            continue
        lines.append(start + (":" if texts else ""))
        for text in texts:
            lines += style.wrap(text, hanging, hanging + "  ")
    return lines


def _remedy(remedy: Remedy, style: _Style) -> list[str]:
    lines = style.wrap(f"Remedy: {safe(remedy.summary)}", "   ")
    lines += [f"       {style.paint(safe(command), _BOLD)}" for command in remedy.commands]
    return [*lines, *style.wrap(_VERIFIED[remedy.verified], "   ")]


def _gap_text(gap: GapView) -> str:
    where = f" of {safe(gap.netns)}" if gap.netns else ""
    return f"{safe(gap.section)}{where}: {safe(gap.reason)}"


def _list(title: str, items: Iterable[str], style: _Style) -> list[str]:
    lines = [line for item in items for line in style.wrap(item, "  - ", "    ")]
    return [title, *lines] if lines else []


def _elide(text: str, room: int, ellipsis: str) -> str:
    """Cut the middle out of a text that is longer than its room: a device's end tells more than its middle."""
    if len(text) <= room:
        return text
    keep = room - len(ellipsis)
    return text[: keep // 2] + ellipsis + text[len(text) - (keep - keep // 2) :]
