"""`sysctl -a`: names and values. See sysctl(8)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nettrace.paste.lines import Line, Trouble, quoted

__all__ = ["LINE", "parse_proc_path", "parse_sysctl"]

LINE = re.compile(r"([a-z0-9_-]+(?:\.[\w@:/+-]+)+) ?= ?(.*)", re.DOTALL)
_COMPLAINT = re.compile(r"sysctl: |error: (?:permission denied|reading key|\")")


def parse_sysctl(lines: Sequence[Line]) -> tuple[dict[str, str], list[Trouble]]:
    """Return the sysctls of the network by name, as `sysctl` prints them; others are of no use here.

    What sysctl itself complains about (keys that only root may read) is no line of the listing.
    """
    found: dict[str, str] = {}
    troubles: list[Trouble] = []
    for number, text in lines:
        stripped = text.strip()
        if not stripped or _COMPLAINT.match(stripped):
            continue
        line = LINE.fullmatch(stripped)
        if line is None:
            troubles.append(Trouble(line=number, text=quoted(text)))
        elif line[1].startswith("net."):
            found[line[1]] = line[2].strip()
    return found, troubles


def parse_proc_path(path: str) -> str | None:
    """Return the sysctl behind a file of /proc/sys/net, as in `cat /proc/sys/net/ipv4/ip_forward`; else None."""
    rest = path.removeprefix("/proc/sys/")
    if rest == path or not rest.startswith("net/"):
        return None
    # A dot inside a device's name is kept as "/", as sysctl(8) prints it.
    return ".".join(part.replace(".", "/") for part in rest.split("/") if part)
