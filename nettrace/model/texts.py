"""Raw texts for a human helper: what the tools of the host print of it."""

from __future__ import annotations

from nettrace.model.base import Model


class RawText(Model):
    """One listing. `owner` is the namespace it was read in, or "engine=docker"; `name` the listing's, as "ip-addr.txt".

    `text` is None when there is none, and `reason` then says why; both are set where the text is not whole.
    """

    owner: str
    name: str
    text: str | None = None
    reason: str | None = None
