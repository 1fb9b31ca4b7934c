"""Container engines: what they meant their networks to be.

An engine answers with the vocabulary of `nettrace.model.intent`; nothing of it but networks, containers, addresses and
ports is ever kept: no images, environments or arguments. One listing tells of every container what a listing has;
`inspect` adds what needs a call of its own (process, namespace), for the few containers that a question is about.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nettrace.collect.engines.connections import podman_endpoint
from nettrace.errors import EngineError
from nettrace.model.intent import Container, Intent
from nettrace.model.texts import RawText
from nettrace.netns import Netns

__all__ = ["Candidate", "Engine", "find_engines"]

DOCKER_SOCKET = "/var/run/docker.sock"
PODMAN_SOCKET = "/run/podman/podman.sock"


class Engine(Protocol):
    """One container engine."""

    #: docker, podman or lab.
    name: str
    #: Its address, as DOCKER_HOST would have it.
    endpoint: str

    def read_intent(self) -> Intent:
        """Return all networks and containers; raises EngineError when the engine cannot be asked."""

    def inspect(self, container: Container) -> Container:
        """Return the container with its process, namespace and network mode; raises EngineError, NotFound."""

    def sandbox_folders(self) -> tuple[str, ...]:
        """Return folders whose files are network namespaces of this engine."""

    def elsewhere(self, word: str) -> str | None:
        """Say where a container lives that is known to the engine but does not run on this host, else None."""

    def read_texts(self) -> tuple[RawText, ...]:
        """Return what a human helper wants to know of the engine: version, condition, networks; never raises."""

    def close(self) -> None:
        """Let go of connections; closing twice is harmless."""


class Candidate:
    """An engine that may be there: an address to try, and whether the user named it."""

    __slots__ = ("endpoint", "explicit", "name")

    def __init__(self, name: str, endpoint: str | None, *, explicit: bool) -> None:
        self.name = name
        self.endpoint = endpoint
        self.explicit = explicit

    def open(self, host: Netns) -> Engine:
        """Connect; raises EngineError that says what to do when nobody answers."""
        from nettrace.collect.engines.docker import DockerEngine, docker_endpoint

        endpoint = self.endpoint or docker_endpoint()
        return DockerEngine(self.name, endpoint, host=host, explicit=self.explicit)


def find_engines(host: Netns) -> tuple[Sequence[Engine], Sequence[Candidate]]:
    """Return the engines that need no connection, and the addresses at which others may answer.

    A host of a lab has that lab's engine and no other. Otherwise the addresses are those that the engines' own clients
    would use: DOCKER_HOST, DOCKER_CONTEXT and the current context, or the default socket; CONTAINER_HOST,
    CONTAINER_CONNECTION, containers.conf's destinations, or Podman's sockets. One engine is asked once, also where
    Docker's socket is a link to Podman's.
    """
    from nettrace.lab.state import find_lab_of

    lab = find_lab_of(host.inode)
    environment = os.environ
    if lab is not None and lab.engine == "none":
        from nettrace.collect.engines.lab import LabEngine

        return (LabEngine(lab),), ()
    candidates = []
    if environment.get("DOCKER_HOST"):
        candidates.append(Candidate("docker", environment["DOCKER_HOST"], explicit=True))
    elif lab is not None and lab.docker_host is not None:
        return (), (Candidate("docker", lab.docker_host, explicit=False),)
    elif environment.get("DOCKER_CONTEXT") or _configured_context():
        candidates.append(Candidate("docker", None, explicit=True))
    elif Path(DOCKER_SOCKET).exists():
        candidates.append(Candidate("docker", f"unix://{DOCKER_SOCKET}", explicit=False))
    podman = podman_endpoint(environment)
    if podman is not None:
        candidates.append(Candidate("podman", podman, explicit=True))
    else:
        runtime = environment.get("XDG_RUNTIME_DIR")
        sockets = (PODMAN_SOCKET, *((f"{runtime}/podman/podman.sock",) if runtime else ()))
        candidates += [Candidate("podman", f"unix://{path}", explicit=False) for path in sockets if Path(path).exists()]
    asked: dict[str, Candidate] = {}
    for each in candidates:
        asked.setdefault(_socket_of(each.endpoint), each)
    return (), list(asked.values())


def _socket_of(endpoint: str | None) -> str:
    """Return what tells two addresses of one engine from those of two: the socket behind all links."""
    scheme, separator, path = (endpoint or "").partition("://")
    return os.path.realpath(path) if separator and scheme in ("unix", "http+unix") else endpoint or ""


def _configured_context() -> bool:
    """Tell whether the Docker client's configuration names a context other than the default one."""
    folder = os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker")
    try:
        text = Path(folder, "config.json").read_text()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise EngineError(f"{folder}/config.json cannot be read ({error.strerror}): set DOCKER_HOST instead") from error
    import json

    try:
        config = json.loads(text)
    except ValueError as error:
        raise EngineError(f"{folder}/config.json is not JSON ({error}): mend it, or set DOCKER_HOST") from error
    return isinstance(config, dict) and config.get("currentContext") not in (None, "", "default")
