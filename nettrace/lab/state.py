"""What a lab writes down about itself: `<root>/<name>/state.json`, one document a lab, replaced atomically.

A plain lab (`engine` "none") has no container engine to ask, so its state also holds what an engine would
answer: an Intent whose engine, networks and containers are called "lab". A Docker lab's Intent stays empty: there
the real engine is asked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from nettrace.errors import LabError
from nettrace.model.base import Model, from_json, to_json
from nettrace.model.intent import Intent

__all__ = [
    "ROOT",
    "BrokenFault",
    "LabEngine",
    "LabState",
    "NamespaceState",
    "Process",
    "Step",
    "find_lab_of",
    "load",
    "names",
    "save",
    "state_dir",
]

#: Where labs keep their state, Docker's data roots and sockets.
ROOT = Path("/run/nettrace/lab")
SCHEMA: Literal["nettrace.lab/1"] = "nettrace.lab/1"

LabEngine = Literal["docker", "none"]


class NamespaceState(Model):
    """One network namespace of a lab: its name for `ip netns`, the path that opens it, its inode."""

    name: str
    path: str
    inode: int


class Process(Model):
    """One process that a lab started. Pid and start time (clock ticks since boot) together are never reused."""

    role: str
    pid: int
    started: int


class Step(Model):
    """One shell command of a fault. `where`: host, inet, or the name of a container whose namespace it runs in."""

    where: str
    command: str


class BrokenFault(Model):
    """A fault that is in force, and the commands that take it back."""

    name: str
    mend: tuple[Step, ...]


class LabState(Model):
    """One lab. `containers` maps a plain lab's container names to their namespaces; a Docker lab's engine knows them.

    `phase` is "building" until everything stands. `docker_host` is the engine's address as DOCKER_HOST wants it,
    `path` the PATH that commands on this host use (its own engine and iptables first).
    """

    name: str
    engine: LabEngine
    phase: Literal["building", "ready"]
    builder: Process
    created_at_ns: int
    host: NamespaceState | None = None
    inet: NamespaceState | None = None
    containers: dict[str, NamespaceState] = msgspec.field(default_factory=dict)
    docker_host: str | None = None
    docker_dir: str | None = None
    docker_version: str | None = None
    legacy_iptables: bool = False
    path: str = ""
    processes: tuple[Process, ...] = ()
    intent: Intent = Intent()
    broken: tuple[BrokenFault, ...] = ()
    schema: Literal["nettrace.lab/1"] = SCHEMA


def state_dir(name: str) -> Path:
    """Return the folder that belongs to the lab of that name."""
    return ROOT / name


def save(state: LabState) -> None:
    """Replace the lab's state.json in one step, so that no reader ever sees half of it."""
    target = state_dir(state.name) / "state.json"
    draft = target.with_name(f".state.json.{os.getpid()}")
    draft.write_bytes(to_json(state, indent=1))
    draft.replace(target)


def claim(state: LabState) -> bool:
    """Make a lab's folder, with its first state in it, in one step; False when the name is taken.

    So there is never a folder that does not say whose it is, whenever a signal ends the process.
    """
    ROOT.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{state.name}.", dir=ROOT.parent))
    try:
        (draft / "state.json").write_bytes(to_json(state, indent=1))
        draft.rename(state_dir(state.name))  # not over a folder that holds anything
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def load(name: str) -> LabState:
    """Read the state of one lab.

    Raises LabError when there is no such lab, or its state cannot be understood.
    """
    path = state_dir(name) / "state.json"
    try:
        return from_json(path.read_bytes(), LabState)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LabError(f"there is no lab named {name}: see `nettrace lab list`") from error
    except (msgspec.DecodeError, OSError) as error:
        raise LabError(
            f"the state of lab {name} cannot be read ({error}): take it away with `nettrace lab down {name}`"
        ) from error


def names() -> tuple[str, ...]:
    """Return the names of all labs that left a state folder, sorted, whatever shape they are in."""
    with contextlib.suppress(FileNotFoundError):
        return tuple(sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir()))
    return ()


def find_lab_of(host_netns_inode: int) -> LabState | None:
    """Return the lab whose host namespace has that inode, or None; a lab that cannot be read is not the one.

    The inode alone could belong to a later namespace, so the path that the lab wrote down must still lead to it.
    """
    for name in names():
        try:
            state = load(name)
        except LabError:
            continue
        if state.host is None or state.host.inode != host_netns_inode:
            continue
        with contextlib.suppress(OSError):
            if os.stat(state.host.path).st_ino == host_netns_inode:
                return state
    return None
