"""What a ruleset does to one packet, as `nettrace eval --json` prints it: schema nettrace.eval/1."""

from __future__ import annotations

from typing import Literal

from nettrace.model.base import Model

SCHEMA: Literal["nettrace.eval/1"] = "nettrace.eval/1"


class Decider(Model):
    """The rule or policy that decided; `rule` is its text as saved, None for a policy."""

    backend: str
    family: str
    table: str
    chain: str
    index: int | None
    rule: str | None


class Nat(Model):
    """What became of the addresses: [old, new] with ports where there are any, None where nothing changed."""

    src: tuple[str, str] | None
    dst: tuple[str, str] | None


class Entry(Model):
    """One event of the way: a chain entered, a rule that matched, a policy that applied."""

    hook: str
    event: str
    backend: str
    family: str
    table: str
    chain: str
    index: int | None
    rule: str
    effect: str
    level: int


class Evaluation(Model):
    """The whole answer, as `nettrace eval --json` prints it: schema nettrace.eval/1."""

    verdict: Literal["accept", "drop", "reject", "unknown"]
    decided_by: Decider | None
    nat: Nat
    mark: int
    trail: tuple[Entry, ...]
    assumptions: tuple[str, ...]
    schema: Literal["nettrace.eval/1"] = SCHEMA
