"""Drop reasons: what the kernel says when it throws a packet of ours away, and in which function.

Asked of the tracepoint skb:kfree_skb, in a tracing instance of our own, for what happens in the context of one
thread: the one that sends the probes. A veth hands a packet over in the sender's context, so this follows a probe
through namespaces, bridges and netfilter, until a real device or ksoftirqd takes it over: silence proves nothing.
What is told is about a packet, not about which one: not every drop in that context is a probe's.

Kernels since 5.17 know reasons, older ones only the function. The tracing file system is used where it is mounted;
where it is not, a mount of our own serves that is attached nowhere and ends with its descriptor. The instance is
removed when the witness closes; one whose owner was killed is found by its name and removed by `sweep`. Nothing of
the machine's own tracing is touched.

Sources: Documentation/trace/{ftrace,events}.rst, include/trace/events/skb.h, net/core/skbuff.c, fsopen(2), fsmount(2).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from nettrace.model.base import Model
from probes.witness.base import Lost, WitnessError

__all__ = ["DropEvent", "DropParser", "Drops", "open_drops", "sweep"]

_EVENT: Final = "events/skb/kfree_skb"
_READ_BYTES: Final = 1 << 16
_INSTANCE = re.compile(r"nettrace-(\d+)-(\d+)-\d+")
_serial = itertools.count(1)

# Since Linux 5.2, with the same numbers on every architecture that Debian and Fedora build for.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1


class DropEvent(Model, tag="drop", tag_field="is"):
    """One packet that was freed as dropped.

    `reason` is the kernel's name without SKB_DROP_REASON_ ("NETFILTER_DROP"), None where the kernel knows no reasons;
    "NOT_SPECIFIED" is a reason that nobody gave. `function` did it, in `module` when it is in one; None when the kernel
    would not tell. `protocol` is the EtherType, `skb` tells packets apart for as long as they live (a hash), and
    `stack` is the way to the function, innermost first, where it was asked for. `at_ns` is ns since the epoch, to the
    microsecond.
    """

    at_ns: int
    tid: int
    function: str | None
    reason: str | None = None
    protocol: int = 0
    skb: str = ""
    module: str | None = None
    stack: tuple[str, ...] = ()


_LINE = re.compile(
    r"\s*(?P<comm>.*)-(?P<tid>\d+)\s+(?:\([\s\d-]*\)\s+)?\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?"
    r"(?P<s>\d+)\.(?P<frac>\d+): (?P<what>.*)"
)
_LOCATION = re.compile(
    r"\blocation=(?P<name>[A-Za-z_][\w.$]*)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[(?P<module>[\w-]+)\])?"
)
_LOST = re.compile(r"CPU:\d+ \[LOST(?: (\d+))? EVENTS\]")
#: What stands on the stack above the function that dropped: the tracing itself, and the ways to kfree_skb.
_ABOVE = re.compile(r"trace_|__traceiter_|perf_trace_|__bpf_trace_|(?:__)?kfree_skb|sk_skb_reason_drop|skb_do_drop")
_SYMBOL = re.compile(r"\{ *(0x[0-9a-fA-F]+|\d+), *\"([^\"]+)\" *\}")


def _clock_ns(line: re.Match[str]) -> int:
    return int(line["s"]) * 10**9 + int(line["frac"].ljust(9, "0")[:9])


class DropParser:
    """Reads the text of trace_pipe, given the event's `format` file and what to add to its times to get the epoch.

    `names_location` is false on kernels that print the place of the drop as a number made useless by hashing (before
    %pS in the format, 6.0 and older); there the function is found on the stack.
    """

    def __init__(self, layout: str, offset_ns: int = 0) -> None:
        self.has_reason = re.search(r"\breason;", layout) is not None
        self.names_location = "location=%pS" in layout
        #: Reason names by number, those that the format lists.
        self.reasons: dict[int, str] = {}
        if self.has_reason:
            self.reasons = {int(key, 0): name for key, name in _SYMBOL.findall(layout.partition("REC->reason")[2])}
        self._offset_ns = offset_ns
        self._rest = ""
        self._pending: DropEvent | None = None
        self._frames: list[str] = []

    def feed(self, text: str) -> list[DropEvent | Lost]:
        """Take some text and return every event that is known to be complete."""
        out: list[DropEvent | Lost] = []
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line, out)
        return out

    def flush(self) -> list[DropEvent | Lost]:
        """Return the last event: nothing more is coming that could belong to it."""
        if self._rest or self._pending is None:
            return []
        return [self._settle(self._pending)]

    def _line(self, line: str, out: list[DropEvent | Lost]) -> None:
        if line.startswith(" => "):
            self._frames.append(line[4:].split("+")[0].split(" ")[0].strip())
            return
        found = _LINE.fullmatch(line)
        if found is not None and found["what"].startswith("<stack trace>"):
            return
        if self._pending is not None:
            out.append(self._settle(self._pending))
        lost = _LOST.search(line)
        if lost is not None:
            out.append(Lost(count=int(lost[1]) if lost[1] else None))
        elif found is not None and found["what"].startswith("kfree_skb: "):
            self._frames = []
            self._pending = self._event(found)

    def _event(self, found: re.Match[str]) -> DropEvent:
        what = found["what"]
        fields = dict(re.findall(r"\b(\w+)=(\S+)", what))
        reason = re.search(r"\breason: (\S+)", what) if self.has_reason else None
        where = _LOCATION.search(what) if self.names_location else None
        protocol = fields.get("protocol", "")
        return DropEvent(
            at_ns=_clock_ns(found) + self._offset_ns,
            tid=int(found["tid"]),
            function=where["name"] if where is not None else None,
            module=where["module"] if where is not None else None,
            reason=self._reason(reason[1]) if reason is not None else None,
            protocol=int(protocol) if protocol.isdigit() else 0,
            skb=fields.get("skbaddr", ""),
        )

    def _reason(self, text: str) -> str:
        """Name a reason; one that the format does not list is printed as a number."""
        try:
            return self.reasons.get(int(text, 0), text)
        except ValueError:
            return text.removeprefix("SKB_DROP_REASON_")

    def _settle(self, event: DropEvent) -> DropEvent:
        frames, self._frames, self._pending = self._frames, [], None
        own = next((at for at, name in enumerate(frames) if not _ABOVE.match(name)), len(frames))
        stack = tuple(frames[own:])
        return msgspec.structs.replace(event, function=event.function or (stack[0] if stack else None), stack=stack)


class Drops:
    """The drop reports about one thread: readable when there are some."""

    def __init__(self, instances: int, name: str) -> None:
        self.name = name
        self.tid = 0
        self.has_reason = False
        self._instances = instances
        self._folder = -1
        self._pipe = -1
        self._parser = DropParser("")

    def __enter__(self) -> Drops:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._pipe

    def start(self, tid: int | None, stack: bool) -> None:
        """Set the instance up and switch the event on; raises OSError."""
        self._folder = os.open(self.name, _FOLDER, dir_fd=self._instances)
        layout = _get(self._folder, f"{_EVENT}/format")
        with contextlib.suppress(FileNotFoundError):
            # Since 5.0: wake the reader for the first event, not for a half-full buffer.
            _put(self._folder, "buffer_percent", "0")
        self._parser = DropParser(layout)
        self.has_reason = self._parser.has_reason
        if stack or not self._parser.names_location:
            _put(self._folder, "options/stacktrace", "1")
        self._pipe = os.open("trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        own_tid, offset_ns = self._calibrate()
        self._parser = DropParser(layout, offset_ns)
        self.tid = tid if tid is not None else own_tid
        _put(self._folder, f"{_EVENT}/filter", f"common_pid == {self.tid}")
        _put(self._folder, f"{_EVENT}/enable", "1")

    def _calibrate(self) -> tuple[int, int]:
        """Return how the kernel numbers this thread, and what its trace clock lacks to the epoch: a marker tells both.

        The number is the initial pid namespace's. Choosing another clock instead would take the kernel some 30 ms.
        """
        at_ns = time.time_ns()
        _put(self._folder, "trace_marker", "nettrace")
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self._pipe, _READ_BYTES).decode(errors="replace").splitlines():
                found = _LINE.fullmatch(line)
                if found is not None and "nettrace" in found["what"]:
                    return int(found["tid"]), at_ns - _clock_ns(found)
        raise WitnessError("the kernel's tracing does not report what is written to it (tracing_on is 0?)")

    def read(self) -> list[DropEvent | Lost]:
        """Return what was reported since the last read; never blocks."""
        out: list[DropEvent | Lost] = []
        while True:
            try:
                data = os.read(self._pipe, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            out += self._parser.feed(data.decode(errors="replace"))
        return out + self._parser.flush()

    def close(self) -> None:
        """Switch the event off and remove the instance; closing twice is harmless."""
        if self._instances < 0:
            return
        try:
            for fd in (self._pipe, self._folder):
                if fd >= 0:
                    os.close(fd)
            # Removing an instance switches its events off as well (event_trace_del_tracer).
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self.name, dir_fd=self._instances)
        finally:
            os.close(self._instances)
            self._instances = self._pipe = self._folder = -1


def open_drops(tid: int | None = None, *, stack: bool = False) -> Drops:
    """Listen for drops in the context of the calling thread, or of thread `tid` as the initial pid namespace counts.

    With `stack`, each event carries the functions that led to the drop. Raises WitnessError.
    """
    instances = _open_instances()
    name = f"nettrace-{os.getpid()}-{_start_time(os.getpid())}-{next(_serial)}"
    try:
        os.mkdir(name, 0o700, dir_fd=instances)
    except OSError as error:
        os.close(instances)
        raise WitnessError(_why(error)) from error
    drops = Drops(instances, name)
    try:
        drops.start(tid, stack)
    except OSError as error:
        drops.close()
        raise WitnessError(_why(error)) from error
    except BaseException:
        drops.close()
        raise
    return drops


def sweep() -> tuple[str, ...]:
    """Remove the instances of owners that are gone, and return their names; raises WitnessError.

    An owner is a process id with a start time. The kernel refuses to remove an instance that somebody reads, so one of
    a process that cannot be seen from here (another pid namespace) stays as well.
    """
    instances = _open_instances()
    removed = []
    try:
        for each in Path(f"/proc/self/fd/{instances}").iterdir():
            name = each.name
            found = _INSTANCE.fullmatch(name)
            if found is None or _start_time(int(found[1])) == int(found[2]):
                continue
            try:
                os.rmdir(name, dir_fd=instances)
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.ENOENT):
                    continue
                raise
            removed.append(name)
    except OSError as error:
        raise WitnessError(_why(error)) from error
    finally:
        os.close(instances)
    return tuple(removed)


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot (proc(5), field 22); None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _put(folder: int, path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, dir_fd=folder), "w") as file:
        file.write(text)


def _get(folder: int, path: str) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), errors="replace") as file:
        return file.read()


# --- The tracing file system ----------------------------------------------------------------------------------------

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def _open_instances() -> int:
    """Return a descriptor of the folder of tracing instances; raises WitnessError."""
    try:
        mounted = _mounted(Path("/proc/self/mountinfo").read_text(errors="replace"))
        root = os.open(mounted, _FOLDER) if mounted is not None else _private_mount()
        try:
            return os.open("instances", _FOLDER, dir_fd=root)
        finally:
            os.close(root)
    except OSError as error:
        raise WitnessError(_why(error)) from error


def _mounted(mountinfo: str) -> str | None:
    """Return where the whole of tracefs is mounted; see proc_pid_mountinfo(5)."""
    for line in mountinfo.splitlines():
        words = line.split()
        if "-" in words and words[words.index("-") + 1] == "tracefs" and words[3] == "/":
            return words[4].replace("\\040", " ")
    return None


def _private_mount() -> int:
    """Mount tracefs nowhere: the returned descriptor is its root and its only user, and closing it unmounts."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result: int = libc.syscall(number, *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    try:
        context = call(_SYS_FSOPEN, b"tracefs", _FSOPEN_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise WitnessError("tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing") from error
        raise
    try:
        call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _why(error: OSError) -> str:
    code = error.errno
    if code in (errno.EPERM, errno.EACCES):
        if _locked_down():
            return "the kernel is locked down (confidentiality), which closes its tracing"
        return "the kernel asks for CAP_SYS_ADMIN to use its tracing"
    if code == errno.EROFS:
        return "tracefs is mounted read-only here"
    if code == errno.ENODEV:
        return "this kernel has no tracefs"
    if code == errno.ENOENT:
        return "this kernel's tracing has no event skb:kfree_skb"
    if code == errno.ENOMEM:
        return "the kernel has no memory for a trace buffer"
    return f"the kernel's tracing refused: {os.strerror(code) if code else error}"


def _locked_down() -> bool:
    try:
        return "[confidentiality]" in Path("/sys/kernel/security/lockdown").read_text()
    except OSError:
        # No securityfs, or no such security module: then it is not what stops us.
        return False
