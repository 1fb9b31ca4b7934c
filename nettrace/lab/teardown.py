"""Take a lab away, whatever shape it is in: ready, half-built, or left by a crash.

Nothing here trusts that a state file exists. What belongs to a lab is told by four things that only a lab has:
its namespaces' names, the inode of those namespaces, its cgroup, and its folder in a process's arguments. Every
process is pinned by a pidfd and compared once more before it is ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from nettrace.errors import LabError
from nettrace.lab import state
from nettrace.lab.state import Process, state_dir
from nettrace.lab.system import ADMIN_PATH, identify, ip_batch, kill
from nettrace.lab.wiring import NETNS_DIR, PREFIX, lab_of

__all__ = ["leftovers", "namespaces", "remove"]

CGROUPS = Path("/sys/fs/cgroup")
#: Programs of a lab that name its folder in their arguments.
PROGRAMS = ("dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy", "runc")


def namespaces() -> tuple[str, ...]:
    """Return the names of all network namespaces that are some lab's."""
    return tuple(name for name in _listdir(NETNS_DIR) if lab_of(name) is not None)


def leftovers() -> tuple[str, ...]:
    """Return the names of all labs of which anything exists: a folder, a namespace, a cgroup. Sorted."""
    found = set(state.names())
    found |= {lab for name in namespaces() if (lab := lab_of(name)) is not None}
    found |= {path.name.removeprefix(PREFIX) for path in _cgroups("*")}
    return tuple(sorted(found))


def remove(name: str) -> None:
    """End the lab's processes, then take away its mounts, namespaces, cgroups, sockets and folder.

    Doing it twice is harmless. Raises LabError when something would not go.
    """
    mine = [each for each in namespaces() if lab_of(each) == name]
    stubborn: list[Process] = []
    for _ in range(20):  # a process may have started another one while we looked
        processes = list(_processes_of(name, mine))
        if not processes:
            break
        stubborn = kill(processes)
        if stubborn:
            break
    sockets = _shim_sockets(state_dir(name))
    _unmount(state_dir(name))
    if mine:
        ip_batch(f"netns del {each}" for each in mine)
    for path in sockets:
        path.unlink(missing_ok=True)
    _remove_cgroups(name)
    _remove_tree(state_dir(name))
    if stubborn:
        what = ", ".join(f"{process.role} (pid {process.pid})" for process in stubborn)
        raise LabError(f"some processes of lab {name} would not end: {what}")


def _processes_of(name: str, mine: list[str]) -> Iterator[Process]:
    """Yield every process that belongs to the lab, never ourselves or those who called us."""
    spared = set(_ancestors())
    inodes = set()
    for each in mine:
        with contextlib.suppress(OSError):
            inodes.add(os.stat(NETNS_DIR / each).st_ino)
    contained = _contained(name)
    recorded = set(_recorded(name))
    folder = f"{state_dir(name)}/"
    for entry in _listdir(Path("/proc")):
        if not entry.isdigit() or int(entry) in spared:
            continue
        process = identify(int(entry), "")
        if process is None:
            continue
        arguments = _arguments(process.pid)
        role = Path(arguments[0]).name if arguments else entry
        ours = (
            process.pid in contained
            or (process.pid, process.started) in recorded
            or _netns_of(process.pid) in inodes
            or (_is_ours(arguments) and any(folder in argument for argument in arguments[1:]))
        )
        if ours:
            yield Process(role=role, pid=process.pid, started=process.started)


def _is_ours(arguments: list[str]) -> bool:
    """Tell whether a command line is that of a program which labs start with their folder in its arguments."""
    return bool(arguments) and (
        Path(arguments[0]).name in PROGRAMS or any(each.endswith("/nettrace/lab/services.py") for each in arguments)
    )


def _arguments(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def _netns_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    return None


def _ancestors() -> Iterator[int]:
    """Yield our own pid, our parent's, and so on up to the first process."""
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _recorded(name: str) -> Iterator[tuple[int, int]]:
    with contextlib.suppress(LabError):
        for process in state.load(name).processes:
            yield process.pid, process.started


def _contained(name: str) -> set[int]:
    """Return the pids in the lab's cgroups, of every hierarchy."""
    pids: set[int] = set()
    for top in _cgroups(name):
        for cgroup in _tree(top):
            with contextlib.suppress(OSError):
                pids |= {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}
    return pids


def _cgroups(lab: str) -> list[Path]:
    """Return the cgroups of a lab (or of all, for "*") in the unified hierarchy and in each version 1 controller."""
    return [path for pattern in (f"{PREFIX}{lab}", f"*/{PREFIX}{lab}") for path in CGROUPS.glob(pattern)]


def _tree(top: Path) -> list[Path]:
    """Return a folder and all below it, parents first; what disappears while we look is left out.

    Path.rglob raises in that case, and runc removes cgroups while a lab is being taken down.
    """
    return [Path(folder) for folder, _, _ in os.walk(top)]


def _remove_cgroups(name: str) -> None:
    """Remove the lab's empty cgroups, deepest first; the kernel may need a moment after the last process ended."""
    deadline = time.monotonic() + 3
    for top in _cgroups(name):
        for cgroup in reversed(_tree(top)):
            while True:
                try:
                    cgroup.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if time.monotonic() < deadline:
                        time.sleep(0.01)
                        continue
                    raise LabError(f"cgroup {cgroup} of lab {name} cannot be removed: {error.strerror}") from error
                break


def _shim_sockets(folder: Path) -> list[Path]:
    """Return the sockets that containerd's shims left outside the lab's folder; each bundle names its own."""
    found = []
    for bundle in (folder / "cd" / "state").glob("io.containerd.runtime.v2.task/*/*"):
        for name in ("address", "bootstrap.json"):
            with contextlib.suppress(OSError):
                text = (bundle / name).read_text()
                start = text.find("unix:///run/containerd/s/")
                if start >= 0:
                    found.append(Path(text[start + len("unix://") :].split('"')[0].strip()))
    return found


def _unmount(folder: Path) -> None:
    """Detach every mount below the folder, the newest first; raises LabError when one stays."""
    said = ""
    for _ in range(5):
        mounts = _mounts_below(folder)
        if not mounts:
            return
        argv = ["umount", "-l", *reversed(mounts)]
        done = subprocess.run(argv, env={"PATH": ADMIN_PATH}, capture_output=True, text=True, check=False, timeout=30)
        said = done.stderr.strip()
    if _mounts_below(folder):
        raise LabError(f"mounts below {folder} cannot be detached: {said}")


def _mounts_below(folder: Path) -> list[str]:
    """Return the mount points below a folder, oldest first (proc_pid_mountinfo(5) escapes blanks in octal)."""
    paths = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [path.encode().decode("unicode_escape") for path in paths if path.startswith(f"{folder}/")]


def _remove_tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabError(f"the folder {folder} cannot be removed: {error.strerror} ({error.filename})") from error


def _listdir(folder: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in folder.iterdir())
    return []
