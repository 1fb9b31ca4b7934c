"""Which host this is: what two nettraces compare to find out that they are on one and the same."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["identity"]


def identity() -> tuple[str, int]:
    """Return the kernel's boot id ("" where it does not tell) and the inode of the network namespace we are in.

    Two hosts may be namespaces of one kernel, as in a lab; then the inode tells them apart.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return boot, os.stat("/proc/thread-self/ns/net").st_ino
