"""Raw texts for a human helper: what ip, bridge and nft print of each namespace, and what the engines say.

Nothing is read that tells of programs: no environment, arguments or logs. Listings of rules come from the snapshot,
which holds them as iptables-save and its kin printed them, so nothing is read in a way that could load a module. Every
tool has a deadline and a largest output.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nettrace.collect.netfilter import Tools
from nettrace.errors import NamespaceGone
from nettrace.model.base import Missing, Values, rows
from nettrace.model.snapshot import DumpFormat, Namespace, Snapshot
from nettrace.model.texts import RawText
from nettrace.netns import run_in

if TYPE_CHECKING:
    from nettrace.collect.collector import Collector

__all__ = ["MAX_BYTES", "TOOL_S", "from_snapshot", "read_texts", "run_tools", "start_tool"]

#: Name of a listing, and the command that prints it.
LISTINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ip-link.txt", ("ip", "-d", "-s", "link", "show")),
    ("ip-addr.txt", ("ip", "-d", "addr", "show")),
    ("ip-route.txt", ("ip", "-4", "-d", "route", "show", "table", "all")),
    ("ip-6-route.txt", ("ip", "-6", "-d", "route", "show", "table", "all")),
    ("ip-rule.txt", ("ip", "-4", "-d", "rule", "show")),
    ("ip-6-rule.txt", ("ip", "-6", "-d", "rule", "show")),
    ("ip-neigh.txt", ("ip", "-s", "neigh", "show")),
)
BRIDGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bridge-link.txt", ("bridge", "-d", "link", "show")),
    ("bridge-fdb.txt", ("bridge", "fdb", "show")),
    ("bridge-vlan.txt", ("bridge", "vlan", "show")),
)
NFT = ("nft-list-ruleset.txt", ("nft", "-a", "list", "ruleset"))

#: How long a tool may take, and how much of what it prints is kept.
TOOL_S = 5.0
MAX_BYTES = 1 << 20
#: So many namespaces are read at a time: the tools of one wait for each other less than Python starts them.
AT_ONCE = 4

_SAVE = {
    DumpFormat.IPTABLES_SAVE: {"ip": "iptables-save", "ip6": "ip6tables-save"},
    DumpFormat.EBTABLES_SAVE: {"bridge": "ebtables-save"},
    DumpFormat.IPSET_SAVE: {"all": "ipset-save"},
}


def read_texts(
    collector: Collector,
    snapshot: Snapshot,
    *,
    budget_s: float = 30.0,
    progress: Callable[[], None] | None = None,
) -> tuple[RawText, ...]:
    """Read the raw texts of every namespace of a snapshot, the host's first, and of the engines.

    Namespaces whose turn does not come within `budget_s` are left out, and say so. `progress` is called for each
    namespace. Raises PrivilegeError.
    """
    found = list(collector.engine_texts())
    order = sorted(snapshot.namespaces, key=lambda each: {"host": 0, "overlay": 1}.get(each.kind, 2))
    ends = time.monotonic() + budget_s
    for at in range(0, len(order), AT_ONCE):
        batch = order[at : at + AT_ONCE]
        found += [text for each in batch for text in from_snapshot(each)]
        if time.monotonic() > ends:
            reason = f"{budget_s:.0f} s for reading texts were over; its tables are in before.json"
            found += [RawText(owner=each.name, name="ip, bridge, nft", reason=reason) for each in batch]
        else:
            found += _read_batch(collector, batch)
        if progress is not None:
            for _each in batch:
                progress()
    return tuple(found)


def from_snapshot(namespace: Namespace) -> list[RawText]:
    """Return the texts that the snapshot holds of a namespace: listings of rules, sysctls."""
    found = []
    for dump in rows(namespace.netfilter):
        name = _SAVE.get(dump.format, {}).get(dump.family)
        if name is not None:
            found.append(RawText(owner=namespace.name, name=f"{name}.{dump.backend}.txt", text=dump.text))
    if isinstance(namespace.netfilter, Missing):
        found.append(RawText(owner=namespace.name, name="iptables-save", reason=namespace.netfilter.reason))
    if isinstance(namespace.sysctls, Values):
        lines = [f"{name} = {value}\n" for name, value in sorted(namespace.sysctls.values.items())]
        found.append(RawText(owner=namespace.name, name="sysctl.txt", text="".join(lines)))
    return found


def _read_batch(collector: Collector, batch: Sequence[Namespace]) -> list[RawText]:
    children: list[Child] = []
    found: list[RawText] = []
    try:
        for each in batch:

            def start(each: Namespace = each) -> None:
                # One by one, so that those that were started are ended whatever happens.
                for name, argv in _wanted(each):
                    children.append(start_tool(each.name, name, argv))
                found.append(_conntrack(each.name))

            try:
                run_in(collector.netns(each.id), start)
            except NamespaceGone as error:
                found.append(RawText(owner=each.name, name="ip, bridge, nft", reason=str(error)))
        found += run_tools(children)
    finally:
        for child in children:
            child.end()
    return found


def _wanted(namespace: Namespace) -> list[tuple[str, tuple[str, ...]]]:
    """Return the commands that have something to print in a namespace."""
    wanted = list(LISTINGS)
    if any(link.kind in ("bridge", "vxlan") for link in rows(namespace.links)):
        wanted += BRIDGES
    # Where there are no tables, nft would have nf_tables loaded for the sake of printing none.
    if any(dump.format in (DumpFormat.NFT_JSON, DumpFormat.NFT_TEXT) for dump in rows(namespace.netfilter)):
        wanted.append(NFT)
    return wanted


def _conntrack(owner: str) -> RawText:
    """Read what conntrack says of itself in the namespace that the caller is in: how many entries, what was lost."""
    lines = []
    for name in ("nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_buckets"):
        try:
            lines.append(f"{name} {Path('/proc/sys/net/netfilter', name).read_text().strip()}\n")
        except OSError:
            continue
    if not lines:
        return RawText(owner=owner, name="conntrack-summary.txt", text="conntrack is not in use\n")
    try:
        lines.append(Path("/proc/thread-self/net/stat/nf_conntrack").read_text())
    except OSError as error:
        return RawText(owner=owner, name="conntrack-summary.txt", text="".join(lines), reason=error.strerror)
    return RawText(owner=owner, name="conntrack-summary.txt", text="".join(lines))


class Child:
    """One tool on its way, started in the namespace of the caller."""

    def __init__(self, owner: str, name: str, argv: Sequence[str]) -> None:
        self.owner, self.name, self.what = owner, name, " ".join(argv)
        self.parts: list[bytes] = []
        self.size = 0
        self.reason: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        program = Tools().find(argv[0])
        if program is None:
            self.reason = f"{argv[0]} is not installed"
            return
        try:
            self.process = subprocess.Popen(
                [program, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )
        except OSError as error:
            self.reason = f"{argv[0]} cannot be run: {error.strerror}"

    def take(self) -> bool:
        """Take what is there to read; False when there will be no more."""
        assert self.process is not None
        assert self.process.stdout is not None
        part = os.read(self.process.stdout.fileno(), 1 << 16)
        room = MAX_BYTES - self.size
        self.parts.append(part[:room])
        self.size += len(part)
        if len(part) > room:
            self.reason = f"`{self.what}` prints more than {MAX_BYTES >> 20} MB; the rest is left out"
            return False
        return bool(part)

    def end(self) -> int:
        """End the process if it is still there, and return its exit status."""
        if self.process is None:
            return 0
        with self.process:
            if self.reason is not None:
                self.process.kill()
            try:
                return self.process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.returncode

    def result(self) -> RawText:
        """Return the listing, and what is wrong with it."""
        status = self.end()
        text = b"".join(self.parts).decode(errors="replace") if self.process is not None else None
        if status != 0 and self.reason is None:
            last = (text or "").strip().splitlines()[-1:]
            self.reason = f"`{self.what}` failed: {last[0] if last else f'exit status {status}'}"
        return RawText(owner=self.owner, name=self.name, text=text, reason=self.reason)


def start_tool(owner: str, name: str, argv: Sequence[str]) -> Child:
    """Start a tool in the namespace of the caller."""
    return Child(owner, name, argv)


def run_tools(children: Sequence[Child], *, timeout_s: float = TOOL_S) -> list[RawText]:
    """Wait for tools together, for `timeout_s` at most, and return what they printed."""
    ends = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for child in children:
            if child.process is not None and child.process.stdout is not None:
                selector.register(child.process.stdout, selectors.EVENT_READ, child)
        while selector.get_map():
            ready = selector.select(max(0.0, ends - time.monotonic()))
            if not ready and time.monotonic() >= ends:
                break
            for key, _mask in ready:
                if not key.data.take():
                    selector.unregister(key.fileobj)
        for key in list(selector.get_map().values()):
            key.data.reason = f"`{key.data.what}` did not end within {timeout_s:g} s"
    return [child.result() for child in children]
