"""A verdict as the document that `nettrace path --json` prints."""

from __future__ import annotations

from nettrace.model.base import to_json
from nettrace.model.verdict import Verdict
from nettrace.render.safe import safe_json

__all__ = ["render_json"]


def render_json(verdict: Verdict) -> str:
    """Return the verdict as one JSON document of schema nettrace.verdict/1, two spaces a level, without a newline."""
    return safe_json(to_json(verdict, indent=2).decode())
