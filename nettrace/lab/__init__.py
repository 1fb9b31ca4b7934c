"""Throw-away hosts in network namespaces: real kernels, real engines, and a fault of your choice.

    with Lab.up("demo") as lab:
        lab.break_fault("masquerade-deleted")
        print(lab.nettrace(["path", "app", "8.8.8.8"]).stdout)

Every packet of a lab stays inside the namespaces that it made: an "internet" of its own answers for 8.8.8.8.
The package itself imports nothing, so that reading a lab's state costs no more than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nettrace.lab.faults import FAULTS, Fault
    from nettrace.lab.host import Lab

__all__ = ["FAULTS", "Fault", "Lab"]


def __getattr__(name: str) -> object:
    if name == "Lab":
        from nettrace.lab.host import Lab

        return Lab
    if name in ("FAULTS", "Fault"):
        from nettrace.lab import faults

        return getattr(faults, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
