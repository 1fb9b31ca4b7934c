"""The answer of `nettrace eval`, for a person: the verdict, and the walk through the chains with the decider marked."""

from __future__ import annotations

from nettrace.model.evaluation import Decider, Entry, Evaluation
from nettrace.render.safe import safe


def render_evaluation(result: Evaluation) -> str:
    """Return the evaluation as text; the deciding rule stands behind an arrow."""
    decider = result.decided_by
    lines = [result.verdict.upper() + (f" by {_place(decider)}" if decider is not None else "")]
    if decider is not None and decider.rule:
        lines.append(f"  {safe(decider.rule)}")
    for name, change in (("source", result.nat.src), ("destination", result.nat.dst)):
        if change is not None:
            lines.append(f"  {name} {change[0]} becomes {change[1]}")
    if result.mark:
        lines.append(f"  mark {result.mark:#x}")
    lines.append("")
    hook = ""
    for entry in result.trail:
        if entry.hook != hook:
            hook = entry.hook
            lines.append(hook.upper())
        lines.append(_line(entry, decider))
    if result.assumptions:
        lines += ["", "Taken for granted:", *(f"  - {safe(each)}" for each in result.assumptions)]
    return "\n".join(lines).rstrip()


#: nf_tables jumps no deeper (NFT_JUMP_STACK_SIZE); where a legacy ruleset does, the margin stays.
MAX_INDENT = 16


def _place(decider: Decider) -> str:
    which = f"rule {decider.index}" if decider.index is not None else "policy"
    return safe(f"{decider.backend} {decider.family} {decider.table} {decider.chain} {which}")


def _line(entry: Entry, decider: Decider | None) -> str:
    same = decider is not None and (entry.backend, entry.family, entry.table, entry.chain, entry.index) == (
        decider.backend,
        decider.family,
        decider.table,
        decider.chain,
        decider.index,
    )
    decides = same and entry.event in ("match", "policy")
    indent = "  " * min(entry.level + 1, MAX_INDENT)
    if entry.event == "enter":
        return f"  {indent}{safe(entry.family)} {safe(entry.table)} {safe(entry.chain)}"
    number = f"{entry.index}. " if entry.index is not None else ""
    effect = f"   {safe(entry.effect)}" if entry.effect else ""
    return f"{'→' if decides else ' '} {indent}  {number}{safe(entry.rule)}{effect}"
