"""The devices of one namespace by name, while its texts are read: rows name devices, the model numbers them."""

from __future__ import annotations

__all__ = ["UNLISTED", "UNTOLD", "Devices"]

#: First ifindex given to devices that some text names and no listing of links numbers.
UNLISTED = 1_000_001
#: The index of a peer that is there, in another namespace, and whose index is not told.
UNTOLD = 4_000_000_000


class Devices:
    """Gives every device name its ifindex; names that no listing knows get numbers of their own, and are remembered."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._unlisted: dict[str, int] = {}

    def learn(self, name: str, ifindex: int) -> None:
        """Note what a listing of links says."""
        self._known.setdefault(name, ifindex)

    def index(self, name: str) -> int:
        """Return the ifindex of a device."""
        found = self._known.get(name)
        if found is not None:
            return found
        return self._unlisted.setdefault(name, UNLISTED + len(self._unlisted))

    def known(self, name: str) -> int | None:
        """Return the ifindex of a device that a listing numbers, else None."""
        return self._known.get(name)

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Names that were asked for and that no listing of links has."""
        return tuple(name for name in self._unlisted if name not in self._known)
