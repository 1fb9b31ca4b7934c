"""Run programs, start daemons, and end exactly the processes that were started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from nettrace import netns
from nettrace.errors import LabError, PrivilegeError
from nettrace.lab.state import Process

__all__ = [
    "alive",
    "enter",
    "identify",
    "ip_batch",
    "kill",
    "require",
    "run",
    "spawn",
    "wait_for",
    "write_sysctls",
]

#: Where administration programs lie, also when the caller's PATH is a plain user's.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ADMIN_PATH = f"/usr/local/sbin:/usr/local/bin:{SYSTEM_PATH}"

_PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "nsenter": "util-linux",
    "iptables-restore": "iptables",
    "ip6tables-restore": "iptables",
    "xtables-legacy-multi": "iptables",
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "docker": "docker.io",
    "busybox": "busybox-static",
}


def require(*programs: str, path: str = ADMIN_PATH) -> None:
    """Raise when this process may not make namespaces, or a program is not there.

    Raises PrivilegeError or LabError, naming what to do.
    """
    if os.geteuid() != 0:
        raise PrivilegeError("a lab makes network namespaces: run nettrace as root")
    lacking = [program for program in programs if shutil.which(program, path=path) is None]
    if lacking:
        packages = " ".join(sorted({_PACKAGES.get(program, program) for program in lacking}))
        raise LabError(f"a lab needs {', '.join(lacking)}: install with `apt-get install {packages}`")


def enter(path: str) -> list[str]:
    """Return the words that run what follows them inside the network namespace at `path`.

    They name util-linux's nsenter by its full path: the Python package nsenter installs a script of the same name.
    """
    program = shutil.which("nsenter", path=SYSTEM_PATH)
    if program is None:
        raise LabError("a lab needs util-linux's nsenter: install with `apt-get install util-linux`")
    return [program, f"--net={path}", "--"]


def run(
    argv: Sequence[str],
    what: str,
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> str:
    """Run a program and return what it printed.

    Raises LabError, beginning with `what`, when it is missing, fails, or does not end in time.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env=dict(env) if env is not None else {**os.environ, "PATH": ADMIN_PATH},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except FileNotFoundError as error:
        raise LabError(f"{what}: {argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{what}: {argv[0]} did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise LabError(f"{what}: {'; '.join(said[-3:])}")
    return done.stdout


def ip_batch(commands: Iterable[str], *, namespace: str | None = None) -> None:
    """Give iproute2 many commands at once, all inside one named namespace; raises LabError at the first that fails."""
    into = ["-n", namespace] if namespace else []
    run(["ip", *into, "-batch", "-"], f"wiring of {namespace or 'the lab'}", stdin="\n".join(commands) + "\n")


def write_sysctls(path: str, values: Mapping[str, str]) -> None:
    """Write sysctls ("net.ipv4.ip_forward", a device's dots as "/") inside the namespace at `path`."""

    def write() -> None:
        for key, value in values.items():
            file = "/proc/sys/" + "/".join(part.replace("/", ".") for part in key.split("."))
            try:
                with open(file, "w") as sysctl:
                    sysctl.write(value)
            except OSError as error:
                raise LabError(f"sysctl {key}={value} is refused in {path}: {error.strerror}") from error

    with netns.pin(path) as ns:
        netns.run_in(ns, write)


def identify(pid: int, role: str = "") -> Process | None:
    """Return a process by pid with its start time, see proc(5); None when there is none (a zombie is none)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else Process(role=role, pid=pid, started=int(fields[19]))


def alive(process: Process) -> bool:
    """Tell whether that very process still runs."""
    return identify(process.pid, process.role) == process


def spawn(
    argv: Sequence[str], role: str, *, log: Path, env: Mapping[str, str], ready: bool = False, timeout_s: float = 10
) -> Process:
    """Start a daemon in a session of its own, its output in a log file, and return its identity.

    With `ready`, wait until it closes or writes to its standard output. Raises LabError when it ends or stays silent.
    """
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        raise LabError(f"cannot start {role}: {argv[0]} is not installed")
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    listen, speak = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, speak if ready else out, 1),
            (os.POSIX_SPAWN_DUP2, out, 2),
        ]
        pid = os.posix_spawn(program, list(argv), dict(env), file_actions=actions, setsid=True)
    finally:
        for fd in (out, null, speak):
            os.close(fd)
    try:
        process = identify(pid, role)
        if process is not None and ready:
            import select

            readable, _, _ = select.select([listen], [], [], timeout_s)
            if not readable or not os.read(listen, 64):
                kill([process])
                process = None
    finally:
        os.close(listen)
    if process is None:
        _reap(pid)
        raise LabError(f"{role} did not start: {_last_line(log)}")
    return process


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def _reap(pid: int) -> None:
    """Collect the exit status of a child of ours; another process's child is its parent's business."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def kill(processes: Iterable[Process], *, timeout_s: float = 10) -> list[Process]:
    """End processes at once, each only if it still is the one meant, and return those that would not go.

    The pidfd is opened before the start time is compared, so that a reused pid is never hit.
    """
    waiting = []
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except (ProcessLookupError, OSError):
            continue
        try:
            if alive(process):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                waiting.append(process)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)
    deadline = time.monotonic() + timeout_s
    while True:
        for process in waiting:
            _reap(process.pid)
        waiting = [process for process in waiting if alive(process)]
        if not waiting or time.monotonic() > deadline:
            return waiting
        time.sleep(0.005)


def wait_for(question: Callable[[], bool], what: str, *, timeout_s: float, pause_s: float = 0.02) -> None:
    """Ask until the answer is yes; raises LabError when it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not question():
        if time.monotonic() > deadline:
            raise LabError(f"{what} within {timeout_s:g} s")
        time.sleep(pause_s)
