"""The same remedy in another engine's words.

Rules write commands as Docker's users type them. Podman has its own for the same, and no daemon to restart: its
rules are written anew by `podman network reload` (podman-network-reload(1)).
"""

from __future__ import annotations

from nettrace.rules.base import Mend

__all__ = ["in_words_of"]

_PODMAN_COMMANDS = (
    ("systemctl restart docker", "podman network reload --all"),
    ("-o com.docker.network.driver.mtu=", "-o mtu="),
    ("docker network connect bridge ", "podman network connect podman "),
    ("docker network ", "podman network "),
    ("docker run ", "podman run "),
    ("docker ps ", "podman ps "),
    ("docker restart ", "podman restart "),
)
_PODMAN_PROSE = (
    ("Restart the engine, so that it", "Let Podman reload its networks, so that it"),
    ("restarting the engine writes", "`podman network reload --all` writes"),
    ("Restart the container, so that the engine", "Let Podman reload the container's network, so that it"),
)


def in_words_of(engine: str | None, mend: Mend) -> Mend:
    """Return a remedy as the users of an engine know it; the change that it makes stays the same."""
    if engine != "podman":
        return mend
    return Mend(
        summary=_said(mend.summary, _PODMAN_PROSE),
        commands=tuple(_said(each, _PODMAN_COMMANDS) for each in mend.commands),
        change=mend.change,
    )


def _said(text: str, words: tuple[tuple[str, str], ...]) -> str:
    for docker, podman in words:
        text = text.replace(docker, podman)
    return text
