"""Two labs joined: one internet, two hosts with a Docker Engine each, a swarm of both, and an sshd on the second.

    a   203.0.113.2   manager    c1 (httpd) on the overlay ov1
    b   203.0.113.3   worker     c2 (httpd) on the overlay ov1

Both are labs of their own (`nettrace.lab`); the second one's uplink is moved to the first one's internet. All keys and
settings of ssh and sshd lie in a temporary folder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from nettrace.lab import Lab, teardown
from nettrace.lab.api import DockerAPI
from nettrace.lab.docker import HTTPD, load_image
from nettrace.lab.system import ADMIN_PATH, enter, ip_batch, run, wait_for

ADDRESSES = {"a": "203.0.113.2", "b": "203.0.113.3"}
PORT = 2222
ROOT = Path(__file__).parents[2]
ROUTER = "203.0.113.1"
SUBNET = "10.0.77.0/24"
C1, C2 = "10.0.77.11", "10.0.77.12"


class Swarm:
    """A context that takes all of it away again."""

    def __init__(self, prefix: str, engines: Sequence[str | None] = (None, None)) -> None:
        """Name what is to be made; `engines` are the docker_dir of host a and of host b, None for the system's."""
        self.names = {side: f"{prefix}-{side}" for side in ADDRESSES}
        self.engines = dict(zip(ADDRESSES, engines, strict=True))
        self.labs: dict[str, Lab] = {}
        self.network = ""
        self.folder = tempfile.TemporaryDirectory(prefix="nettrace-ssh-")
        self._sshd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Swarm:
        try:
            with ThreadPoolExecutor(max_workers=2) as pool:
                self.labs = dict(zip(self.names, pool.map(self._up, self.names), strict=True))
                self._join_internets()
                list(pool.map(lambda side: load_image(self.api(side)), self.names))
            self._make_swarm()
            self._start_sshd()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    def down(self) -> None:
        """End what was started, by process and by name."""
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd.wait(10)
        for name in self.names.values():
            teardown.remove(name)
        self.folder.cleanup()

    # making it

    def _up(self, side: str) -> Lab:
        return Lab.up(self.names[side], docker_dir=self.engines[side], content=False)

    def _join_internets(self) -> None:
        """Hang the second host's uplink on the first one's internet."""
        host = self.labs["b"].state.host
        inet = self.labs["a"].state.inet
        assert host is not None
        assert inet is not None
        ip_batch(
            [
                "link del eth0",
                f"link add eth0 index 2 type veth peer name hostb index 13 netns {inet.name}",
                f"addr add {ADDRESSES['b']}/24 broadcast + dev eth0",
                "link set eth0 up",
            ],
            namespace=host.name,
        )
        ip_batch(["link set hostb master br0 up"], namespace=inet.name)
        ip_batch([f"route add default via {ROUTER} dev eth0"], namespace=host.name)

    def _make_swarm(self) -> None:
        a, b = self.api("a"), self.api("b")
        a.call(
            "POST",
            "/swarm/init",
            {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": ADDRESSES["a"], "DataPathAddr": ADDRESSES["a"]},
        )
        tokens = a.call("GET", "/swarm")["JoinTokens"]
        b.call(
            "POST",
            "/swarm/join",
            {
                "ListenAddr": "0.0.0.0:2377",
                "AdvertiseAddr": ADDRESSES["b"],
                "DataPathAddr": ADDRESSES["b"],
                "RemoteAddrs": [f"{ADDRESSES['a']}:2377"],
                "JoinToken": tokens["Worker"],
            },
        )
        self.network = a.call(
            "POST",
            "/networks/create",
            {"Name": "ov1", "Driver": "overlay", "Attachable": True, "IPAM": {"Config": [{"Subnet": SUBNET}]}},
        )["Id"]
        self.container("a", "c1", "ov1", C1)
        self.container("b", "c2", "ov1", C2)
        self.wait_until_whole()

    def container(self, side: str, name: str, network: str, address: str) -> str:
        """Start a container with an address of its own choice on a network; tried again while gossip spreads it."""
        body = {
            "Image": "busybox:latest",
            "Cmd": list(HTTPD),
            "StopSignal": "SIGKILL",
            "HostConfig": {"NetworkMode": network},
            "NetworkingConfig": {"EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": address}}}},
        }
        identity = str(self.api(side).call("POST", "/containers/create", body, query={"name": name})["Id"])
        self.api(side).call("POST", f"/containers/{identity}/start")
        return identity

    def _start_sshd(self) -> None:
        """Start an sshd of our own in the second host, which lets our own key in and nobody else."""
        folder = Path(self.folder.name)
        for key in ("host", "user"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "nettrace test", "-f", str(folder / key)]
            subprocess.run(argv, check=True, timeout=30)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        (folder / "known").write_text(f"[{ADDRESSES['b']}]:{PORT} {(folder / 'host.pub').read_text()}")
        environment = self.labs["b"].environment()
        # There must be a folder that sshd's child without privileges is locked into; it stays, as packages leave it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (folder / "sshd_config").write_text(
            f"Port {PORT}\nListenAddress {ADDRESSES['b']}\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\n"
            "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            f"SetEnv PATH={folder}/bin:{environment['PATH']} DOCKER_HOST={environment['DOCKER_HOST']}\n"
        )
        (folder / "ssh_config").write_text(
            f"Host {ADDRESSES['b']}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
        )
        (folder / "bin").mkdir()
        (folder / "bin" / "nettrace").write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m nettrace "$@"\n'
        )
        (folder / "bin" / "nettrace").chmod(0o755)
        sshd = shutil.which("sshd", path=ADMIN_PATH)
        assert sshd is not None, "apt-get install openssh-server"
        argv = self.labs["b"].command([sshd, "-D", "-e", "-f", str(folder / "sshd_config")])
        with (folder / "sshd.log").open("wb") as log:
            self._sshd = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: b"listening" in (folder / "sshd.log").read_bytes(), "sshd does not listen", timeout_s=10)

    @property
    def peer(self) -> list[str]:
        """The option that makes the second host a peer of the first one."""
        return ["--peer", f"b=ssh://root@{ADDRESSES['b']}:{PORT}"]

    @property
    def ssh(self) -> str:
        """The ssh command that knows our key: for NETTRACE_SSH."""
        return f"ssh -F {self.folder.name}/ssh_config"

    # using it

    def hidden(self, side: str) -> str:
        """Return the path of the overlay's hidden namespace on one host, which lies beside the sandbox keys."""
        key = self.api(side).container({"a": "c1", "b": "c2"}[side])["NetworkSettings"]["SandboxKey"]
        return str(Path(key).with_name(f"1-{self.network[:10]}"))

    def space(self, where: str) -> str:
        """Return the path of a namespace: "a" or "b", "a/overlay", "a/c1", or "inet"."""
        side, _, inside = where.partition("/")
        if side == "inet":
            return self.labs["a"].inet
        if not inside:
            return self.labs[side].host
        return self.hidden(side) if inside == "overlay" else self.labs[side].netns_of(inside)

    def run(self, where: str, *commands: str) -> None:
        """Run shell commands in a namespace; raises LabError when one fails."""
        side = where[0] if where[0] in self.labs else "a"
        for command in commands:
            run(
                [*enter(self.space(where)), "sh", "-c", command],
                where,
                env={"PATH": self.labs[side].state.path},
            )

    def port(self, side: str, container: str) -> str:
        """Return the bridge port of the overlay's hidden namespace that leads to a container."""
        listed = run([*enter(self.space(f"{side}/{container}")), "ip", "-j", "link", "show", "eth0"], container)
        index = json.loads(listed)[0]["link_index"]
        ports = json.loads(run([*enter(self.hidden(side)), "ip", "-j", "link"], "the overlay"))
        return str(next(each["ifname"] for each in ports if each["ifindex"] == index))

    def wait_until_whole(self) -> None:
        """Return once c1 reaches c2 again; raises LabError when it does not."""
        wait_for(lambda: self.labs["a"].reaches("c1", C2), "c1 does not reach c2 again", timeout_s=20, pause_s=0.1)

    def api(self, side: str) -> DockerAPI:
        """Return the API of one host's engine."""
        return DockerAPI(str(self.labs[side].docker_host).removeprefix("unix://"))
