"""The engine of a plain lab: what it would answer is written down in the lab's own state."""

from __future__ import annotations

from nettrace.lab.state import LabState, state_dir
from nettrace.model.intent import Container, Intent
from nettrace.model.texts import RawText

__all__ = ["LabEngine"]


class LabEngine:
    """A lab without a container engine, answering for the containers it made by hand."""

    name = "lab"

    def __init__(self, state: LabState) -> None:
        self._state = state
        self.endpoint = str(state_dir(state.name))

    def read_intent(self) -> Intent:
        """Return the Intent that the lab wrote down when it was made."""
        return self._state.intent

    def inspect(self, container: Container) -> Container:
        """Return the container as it is: the lab's Intent is complete."""
        return container

    def sandbox_folders(self) -> tuple[str, ...]:
        """Return nothing: a lab's namespaces lie in /run/netns."""
        return ()

    def elsewhere(self, word: str) -> str | None:
        """Return None: a lab is one host."""
        return None

    def read_texts(self) -> tuple[RawText, ...]:
        """Return nothing: all that there is to say is in the Intent."""
        return ()

    def close(self) -> None:
        """Do nothing: there is no connection."""
