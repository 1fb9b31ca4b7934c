"""Every exception that nettrace raises on purpose.

    NettraceError                     exit code 4 unless said otherwise
    ├── UsageError                    exit code 2: the question itself makes no sense
    ├── ResolveError                  an endpoint cannot be turned into a namespace and an address
    │   ├── NotFound                  no such container, namespace, process or name
    │   └── Ambiguous                 the name fits several things; the message lists them
    ├── EngineError                   an engine's socket is missing, refuses, or answers nonsense
    ├── PrivilegeError                a capability is missing; the message names it
    ├── NamespaceGone                 a namespace vanished while we looked
    ├── PeerError                     nettrace on another host cannot be asked
    ├── InputError                    a file or text cannot be read; carries the place in it
    └── LabError                      a throw-away host cannot be made, found or taken down

The message is for the person at the terminal: what is wrong, and what to do next.
"""

from __future__ import annotations


class NettraceError(Exception):
    """Base of all errors that end a command with a message instead of a traceback."""

    exit_code = 4


class UsageError(NettraceError):
    """The arguments contradict each other or name something impossible."""

    exit_code = 2


class ResolveError(NettraceError):
    """An endpoint cannot be turned into a namespace and an address."""


class NotFound(ResolveError):
    """No engine, namespace or resolver knows the name."""


class Ambiguous(ResolveError):
    """The name fits more than one thing."""


class EngineError(NettraceError):
    """A container engine cannot be asked."""


class PrivilegeError(NettraceError):
    """The process lacks a capability that the command needs."""


class NamespaceGone(NettraceError):
    """A network namespace ended while it was being read or probed."""


class PeerError(NettraceError):
    """nettrace on another host cannot be reached, or cannot do what it is asked."""


class InputError(NettraceError):
    """A file or a pasted text cannot be understood."""


class LabError(NettraceError):
    """A throw-away host cannot be made, found or taken down."""
