"""A real Docker Engine inside a lab's host namespace, and the containers that every such lab starts with.

containerd and dockerd are started with `nsenter --net`, which leaves /sys and the cgroups as they are. All their state
lies in the lab's folder, all containers in the cgroup `/ntlab-<lab>`, so that what belongs to the lab can be told for
certain. containerd is started here, so that a containerd of the machine is never used by accident.

    web  app        on docker0; web listens on TCP 80 and is published as 8080
    c1   c2         on net1  172.18.0.0/16
    n1   n2         on noicc 172.19.0.0/16, enable_icc=false
    s1              on sealed 172.20.0.0/16, --internal
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from nettrace.errors import LabError
from nettrace.lab.api import DockerAPI
from nettrace.lab.state import NamespaceState, Process, state_dir
from nettrace.lab.system import ADMIN_PATH, alive, enter, identify, run, spawn, wait_for
from nettrace.lab.wiring import PREFIX, PUBLIC4

__all__ = ["IMAGE", "cgroup_name", "create_container", "create_network", "fill", "search_path", "socket_path", "start"]

IMAGE = "busybox:latest"
HTTPD = ("httpd", "-f", "-p", "80", "-h", "/www")
IDLE = ("tail", "-f", "/dev/null")
#: Networks: name, subnet, further members of the API's request.
NETWORKS: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("net1", "172.18.0.0/16", {}),
    ("noicc", "172.19.0.0/16", {"Options": {"com.docker.network.bridge.enable_icc": "false"}}),
    ("sealed", "172.20.0.0/16", {"Internal": True}),
)
#: Containers: name, network, command, published ports.
CONTAINERS: tuple[tuple[str, str, Sequence[str], Mapping[int, int]], ...] = (
    ("app", "bridge", IDLE, {}),
    ("web", "bridge", HTTPD, {8080: 80}),
    ("c1", "net1", IDLE, {}),
    ("c2", "net1", HTTPD, {}),
    ("n1", "noicc", IDLE, {}),
    ("n2", "noicc", HTTPD, {}),
    ("s1", "sealed", IDLE, {}),
)


def socket_path(lab: str) -> Path:
    """Return the path of the engine's socket, short enough for sun_path's 108 bytes."""
    return state_dir(lab) / "docker.sock"


def cgroup_name(lab: str) -> str:
    """Return the cgroup that all containers of the lab are children of."""
    return f"{PREFIX}{lab}"


def search_path(docker_dir: Path | None, iptables_dir: Path | None) -> str:
    """Return the PATH of the lab's host: its own iptables first, then its own engine, then the system's programs."""
    own = [iptables_dir] if iptables_dir else []
    if docker_dir:
        own += [sub for part in ("usr/bin", "usr/sbin", "") if (sub := docker_dir / part).is_dir()]
    return ":".join([*(str(folder) for folder in own), ADMIN_PATH])


def start(lab: str, host: NamespaceState, path: str, extra: Sequence[str]) -> tuple[Process, Process]:
    """Start containerd and dockerd in the host's namespace and wait until the engine answers; return both."""
    folder = state_dir(lab)
    into = enter(host.path)
    env = {"PATH": path, "HOME": str(folder)}
    (folder / "containerd.toml").write_text(
        f'version = 2\nroot = "{folder}/cd/root"\nstate = "{folder}/cd/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper", '
        '"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]\n'
        f'[grpc]\naddress = "{folder}/cd.sock"\n'
    )
    containerd = spawn(
        [*into, "containerd", "--config", f"{folder}/containerd.toml", "--log-level", "warn"],
        "containerd",
        log=folder / "containerd.log",
        env=env,
    )
    (folder / "daemon.json").write_text(json.dumps(_settings(folder, path)))
    wait_for(lambda: (folder / "cd.sock").exists() or not alive(containerd), "containerd does not answer", timeout_s=20)
    dockerd = spawn(
        [
            *into,
            "dockerd",
            f"--config-file={folder}/daemon.json",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/dockerd.pid",
            f"--host=unix://{socket_path(lab)}",
            f"--containerd={folder}/cd.sock",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{cgroup_name(lab)}",
            *extra,
        ],
        "dockerd",
        log=folder / "dockerd.log",
        env=env,
    )
    api = DockerAPI(str(socket_path(lab)))
    wait_for(
        lambda: identify(dockerd.pid) is None or not alive(containerd) or api.answers(),
        f"the Docker Engine does not answer: see {folder}/dockerd.log",
        timeout_s=60,
    )
    for process in (containerd, dockerd):
        if not alive(process):
            raise LabError(f"{process.role} ended while it started: {_complaint(folder / (process.role + '.log'))}")
    return containerd, dockerd


def _settings(folder: Path, path: str) -> dict[str, object]:
    """Return dockerd's configuration file; one of the lab's own also keeps the machine's daemon.json out of play."""
    settings: dict[str, object] = {"dns": [PUBLIC4]}
    version = re.search(r"version (\d+)\.", run(["dockerd", "--version"], "the Docker Engine", env={"PATH": path}))
    if version is None or int(version[1]) <= 20:
        # Up to 20.10 dockerd writes a key into /etc/docker unless it is told another place; later ones do not know it.
        settings["deprecated-key-path"] = f"{folder}/key.json"
    return settings


def _complaint(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    bad = [line for line in lines if "level=fatal" in line or "level=error" in line or "failed to start" in line]
    return (bad or lines or ["it said nothing"])[-1]


def image() -> bytes:
    """Return a tar of a root file system around the system's static busybox, with a page for its httpd."""
    program = shutil.which("busybox", path=ADMIN_PATH)
    if program is None:
        raise LabError("a Docker lab needs a static busybox for its image: `apt-get install busybox-static`")
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=10)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "etc", "tmp", "www", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, data, mode in (
            ("bin/busybox", Path(program).read_bytes(), 0o755),
            ("www/index.html", b"hello from a lab\n", 0o644),
            ("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644),
        ):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for applet in applets.stdout.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return buffer.getvalue()


def load_image(api: DockerAPI) -> None:
    """Import the busybox image."""
    repo, tag = IMAGE.split(":")
    query = {"fromSrc": "-", "repo": repo, "tag": tag, "changes": 'CMD ["sh"]'}
    api.call("POST", "/images/create", raw=image(), query=query)


def create_network(api: DockerAPI, name: str, subnet: str, more: Mapping[str, object]) -> str:
    """Create a bridge network and return its id; `more` are members of the API's request, Driver among them."""
    body = {"Name": name, "CheckDuplicate": True, "IPAM": {"Config": [{"Subnet": subnet}]}, **more}
    return str(api.call("POST", "/networks/create", body)["Id"])


def create_container(
    api: DockerAPI,
    name: str,
    network: str,
    command: Sequence[str] = IDLE,
    published: Mapping[int, int] | None = None,
) -> str:
    """Create and start a container, and return its id; `published` maps host ports to TCP ports of the container."""
    ports = {f"{port}/tcp": [{"HostPort": str(outer)}] for outer, port in (published or {}).items()}
    body = {
        "Image": IMAGE,
        "Cmd": list(command),
        "ExposedPorts": {port: {} for port in ports},
        # The first process of a container ignores SIGTERM, and nothing here is worth ten seconds' wait.
        "StopSignal": "SIGKILL",
        "HostConfig": {"NetworkMode": network, "PortBindings": ports},
    }
    created = api.call("POST", "/containers/create", body, query={"name": name})
    api.call("POST", f"/containers/{created['Id']}/start")
    return str(created["Id"])


def fill(api: DockerAPI) -> None:
    """Load the image and start every default network and container, as many at once as is quick."""
    with ThreadPoolExecutor(max_workers=6) as pool:
        ready: list[Future[None] | Future[str]] = [pool.submit(load_image, api)]
        ready += [pool.submit(create_network, api, *network) for network in NETWORKS]
        for job in ready:
            job.result()
        for started in [pool.submit(create_container, api, *container) for container in CONTAINERS]:
            started.result()
