"""As much of the Docker Engine's HTTP API as a lab needs, over its Unix socket (docs.docker.com/engine/api).

Not the Docker SDK: a lab starts a dozen containers at once from threads, and the import alone would cost more.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

from nettrace.errors import LabError

__all__ = ["DockerAPI"]


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerAPI:
    """One engine. Every call is a connection of its own, so that threads can share the object."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        raw: bytes | None = None,
        timeout_s: float = 60,
    ) -> Any:
        """Make one call and return its decoded JSON (None when there is none).

        Raises LabError with the engine's own message when it refuses, cannot be reached, or is too slow.
        """
        data, kind = (raw, "application/x-tar") if raw is not None else (json.dumps(body), "application/json")
        connection = _UnixConnection(self.path, timeout_s)
        try:
            connection.request(
                method,
                path + ("?" + urlencode(query) if query else ""),
                body=data if body is not None or raw is not None else None,
                headers={"Content-Type": kind},
            )
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"the lab's engine at {self.path} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise LabError(f"the lab's engine refuses {method} {path}: {_message(text)}")
        if "json" not in (answer.getheader("Content-Type") or ""):
            return None
        # A stream of progress messages is JSON documents in a row; what was asked for is then its effect.
        lines = text.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def answers(self) -> bool:
        """Tell whether the engine is up."""
        try:
            self.call("GET", "/_ping", timeout_s=5)
        except LabError:
            return False
        return True

    def version(self) -> str:
        """Return the engine's version, such as 28.5.2."""
        return str(self.call("GET", "/version")["Version"])

    def container(self, name: str) -> dict[str, Any]:
        """Return what the engine knows about one container."""
        found: dict[str, Any] = self.call("GET", f"/containers/{name}/json")
        return found


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace").strip() or "no reason given"
