"""pyroute2's message classes, without the rest of pyroute2.

`import pyroute2` also loads its database, its asynchronous sockets and its command line, which take longer than
reading a whole host. The package's own code is not run here, only that of the modules below it that are used.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec, module_from_spec

__all__ = ["load_messages"]

PACKAGE = "pyroute2"
MODULES = ("ifaddrmsg", "ifinfmsg", "rtmsg", "fibmsg", "ndmsg")


def load_messages() -> None:
    """Make the modules of rtnetlink's messages importable at little cost; calling it twice is harmless.

    A pyroute2 that is made otherwise is imported as a whole, by whoever needs one of its modules.
    """
    if PACKAGE in sys.modules or f"{PACKAGE}.netlink.rtnl.{MODULES[-1]}" in sys.modules:
        return
    spec = find_spec(PACKAGE)
    if spec is None:
        return
    sys.modules[PACKAGE] = module_from_spec(spec)
    try:
        for name in MODULES:
            importlib.import_module(f"{PACKAGE}.netlink.rtnl.{name}")
    except (ImportError, AttributeError):
        for name in [each for each in sys.modules if each.startswith(f"{PACKAGE}.")]:
            del sys.modules[name]
    finally:
        # Whoever imports pyroute2 itself later gets all of it.
        del sys.modules[PACKAGE]
