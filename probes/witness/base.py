"""What the witnesses share: their error, their losses, and the question whether a module is loaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from nettrace.errors import NettraceError
from nettrace.model.base import Model

__all__ = ["Lost", "WitnessError", "close_together", "module_present"]


class WitnessError(NettraceError):
    """A witness cannot serve; the message is the reason, in one clause."""


class Lost(Model, tag="lost", tag_field="is"):
    """Reports that the kernel had to throw away: silence around them proves nothing. `count` is None when unknown."""

    count: int | None = None


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Undo everything; closing twice is harmless."""


def close_together(witnesses: Iterable[Closable]) -> None:
    """Close several witnesses at once: each waits for the kernel to let go of it (RCU), and these waits overlap.

    Raises the first error, when all are closed or failed.
    """
    errors: list[BaseException] = []

    def close(witness: Closable) -> None:
        try:
            witness.close()
        except BaseException as error:  # handed to the caller
            errors.append(error)

    threads = [threading.Thread(target=close, args=(each,), name="witness-close") for each in witnesses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def module_present(name: str) -> bool:
    """Tell whether a kernel module is loaded or built in, so that asking it makes the kernel load nothing.

    A kernel without loadable modules has no /proc/modules; there every question is harmless.
    """
    if Path(f"/sys/module/{name}").exists() or not Path("/proc/modules").exists():
        return True
    try:
        built_in = Path(f"/lib/modules/{os.uname().release}/modules.builtin").read_text(errors="replace")
    except OSError:
        # The kernel's own list is not here (a container without /lib/modules): it may be built in.
        return True
    return f"/{name}.ko" in built_in.replace("-", "_")
