"""A real rootful Podman with netavark in a host namespace, served on a socket of its own.

Podman keeps one address database and one aardvark-dns for all rootful instances of a machine in /run/containers
(common: libnetwork/netavark, "we cannot use the runroot for rootful"). The service gets a /run/containers of its own
in a mount namespace, so that it meets neither the machine's Podman nor another test's; the containers' namespaces are
bound in the machine's /run/netns as ever.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nettrace.errors import LabError
from nettrace.lab import Lab, state, wiring
from nettrace.lab.docker import image
from nettrace.lab.state import LabState, Process
from nettrace.lab.system import ADMIN_PATH, alive, identify, kill, spawn, wait_for

HELPERS = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/libexec/podman")

_SETTINGS = """
[engine]
lock_type = "file"
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "none"
tmp_dir = "{folder}/tmp"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/net"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]
log_driver = "k8s-file"
"""

_SERVE = """
set -e
mkdir -p /run/containers
mount --make-private "$(findmnt -n -o TARGET --target /run/containers)"
mount -t tmpfs tmpfs /run/containers
exec podman system service --time=0 "unix://$1/podman.sock"
"""


def podman_available() -> bool:
    """Tell whether Podman with netavark can run here."""
    programs = ("podman", "conmon", "runc", "busybox", "unshare", "findmnt")
    helper = any(Path(folder, "netavark").exists() for folder in HELPERS)
    return helper and all(shutil.which(each, path=ADMIN_PATH) is not None for each in programs)


class Podman:
    """Podman in the namespace at `host`, with its state in `folder`, an image named busybox, and no container."""

    def __init__(self, host: str, folder: Path) -> None:
        self.folder = folder
        self.host = host
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "containers.conf").write_text(_SETTINGS.format(folder=folder))
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/runroot"\n'
        )
        self.environment = {
            "PATH": ADMIN_PATH,
            "HOME": str(folder),
            "CONTAINERS_CONF": f"{folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
        }
        enter = ["/usr/bin/nsenter", f"--net={host}", "--", "unshare", "--mount", "--propagation", "unchanged"]
        self.service: Process = spawn(
            [*enter, "sh", "-c", _SERVE, "serve", str(folder)],
            "podman",
            log=folder / "podman.log",
            env=self.environment,
        )
        wait_for(lambda: Path(self.socket).exists() or not alive(self.service), "Podman does not answer", timeout_s=20)
        if not alive(self.service):
            raise LabError(f"Podman ended: {(folder / 'podman.log').read_text()}")
        (folder / "image.tar").write_bytes(image())
        self("import", str(folder / "image.tar"), "busybox")

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return f"{self.folder}/podman.sock"

    @property
    def endpoint(self) -> str:
        """Its address for CONTAINER_HOST."""
        return f"unix://{self.socket}"

    def __call__(self, *words: str) -> str:
        """Run a podman command where the service runs, and return what it says."""
        into = ["/usr/bin/nsenter", f"--target={self.service.pid}", "--mount", "--net", "--"]
        done = subprocess.run(
            [*into, "podman", *words], env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def run(self, name: str, *options: str, command: tuple[str, ...] = ("tail", "-f", "/dev/null")) -> str:
        """Start a container and return its id."""
        return self("run", "-d", "--name", name, *options, "busybox", *command)

    def close(self) -> None:
        """Remove its containers with their namespaces, the latest first as others may depend on them, and end it."""
        pids = [int(pid) for pid in self("ps", "-a", "--format", "{{.Pid}}").split()]
        inside = [found for pid in pids if pid and (found := identify(pid, "container")) is not None]
        try:
            for identity in reversed(self("ps", "-a", "-q", "--no-trunc", "--sort", "created").splitlines()):
                self("rm", "-f", "-t", "0", identity)
        finally:
            kill([*inside, self.service])


class PodmanLab(Lab):
    """A lab's host on which Podman runs: `nettrace` finds it by CONTAINER_HOST, as Podman's own client does."""

    def __init__(self, lab_state: LabState, podman: Podman) -> None:
        super().__init__(lab_state)
        self.podman = podman

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the lab's environment, with the address of its Podman."""
        return super().environment({"CONTAINER_HOST": self.podman.endpoint, **(more or {})})


def bare_host(name: str, containers: tuple[str, ...] = ()) -> Lab:
    """Return a host with an uplink and an internet, without any engine, which no lab's state names as its own.

    nettrace on it finds what a user's environment tells, not the lab. `teardown.remove(name)` takes it away.
    """
    draft = LabState(name=name, engine="docker", phase="building", builder=_self(), created_at_ns=time.time_ns())
    assert state.claim(draft), f"there is a lab {name} already"
    made = wiring.add_namespaces(name, ("host", "inet", *containers), ("inet",))
    host, inet = made["host"], made["inet"]
    wiring.wire_uplink(host, inet)
    internet = wiring.serve_internet(name, inet)
    state.save(msgspec.structs.replace(draft, processes=(internet,)))
    return Lab(msgspec.structs.replace(draft, host=host, inet=inet, path=ADMIN_PATH, phase="ready"))


def _self() -> Process:
    found = identify(os.getpid(), "builder")
    assert found is not None
    return found
