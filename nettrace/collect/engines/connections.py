"""Which Podman its own client would talk to: CONTAINER_HOST, CONTAINER_CONNECTION, containers.conf's destinations.

See podman(1) and containers.conf(5); later files override earlier ones. Podman 5 keeps its connections in
podman-connections.json beside the user's containers.conf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nettrace.errors import EngineError

__all__ = ["podman_endpoint"]

SYSTEM = (Path("/usr/share/containers"), Path("/etc/containers"))


def podman_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return the address that the user's settings name, None when they name none and the local socket is meant.

    Raises EngineError for a connection that nobody knows, and for settings that cannot be read.
    """
    host = environment.get("CONTAINER_HOST")
    if host:
        return host
    name = environment.get("CONTAINER_CONNECTION")
    known, active = _destinations(environment)
    if not name:
        return known.get(active) if active else None
    if name not in known:
        listed = f"; there are {', '.join(sorted(known))}" if known else ""
        raise EngineError(f"there is no Podman connection {name!r}{listed}: see `podman system connection list`")
    return known[name]


def _destinations(environment: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """Return the addresses by connection name, and the connection that is always used, if one is."""
    known: dict[str, str] = {}
    active: str | None = None
    remote = False
    for path in _files(environment):
        engine = _table(_read_toml(path), "engine")
        for name, row in _table(engine, "service_destinations").items():
            if isinstance(row, dict) and row.get("uri"):
                known[str(name)] = str(row["uri"])
        active = str(engine.get("active_service") or "") or active
        remote = bool(engine.get("remote", remote))
    path = Path(environment.get("PODMAN_CONNECTIONS_CONF") or _user(environment) / "podman-connections.json")
    connection = _table(_read_json(path), "Connection")
    for name, row in _table(connection, "Connections").items():
        if isinstance(row, dict) and row.get("URI"):
            known[str(name)] = str(row["URI"])
    active = str(connection.get("Default") or "") or active
    # Without `remote` the client on Linux uses no service at all.
    return known, active if remote else None


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    if environment.get("CONTAINERS_CONF"):
        yield Path(environment["CONTAINERS_CONF"])
    else:
        for folder in (*SYSTEM, _user(environment)):
            yield folder / "containers.conf"
            try:
                yield from sorted((folder / "containers.conf.d").glob("*.conf"))
            except OSError:
                continue
    if environment.get("CONTAINERS_CONF_OVERRIDE"):
        yield Path(environment["CONTAINERS_CONF_OVERRIDE"])


def _user(environment: Mapping[str, str]) -> Path:
    folder = environment.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path(environment.get("HOME") or "/root", ".config")) / "containers"


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read ({error}): set CONTAINER_HOST instead") from error


def _read_toml(path: Path) -> Mapping[str, Any]:
    text = _text(path)
    if text is None or "engine" not in text:
        return {}
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise EngineError(f"{path} is not TOML ({error}): mend it, or set CONTAINER_HOST") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    text = _text(path)
    if text is None:
        return {}
    import json

    try:
        found = json.loads(text)
    except ValueError as error:
        raise EngineError(f"{path} is not JSON ({error}): mend it, or set CONTAINER_HOST") from error
    return found if isinstance(found, dict) else {}


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}
