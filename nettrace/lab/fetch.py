"""Unpack another Docker Engine into a folder of its own, without installing it.

`python -m nettrace.lab.fetch docker-28` downloads the Debian packages of that engine with apt (so signatures are
checked against the machine's own keyrings), from the mirror that the machine's own sources name, with lists and
caches kept apart from the system's, and unpacks them with dpkg -x into
``${XDG_CACHE_HOME:-~/.cache}/nettrace/engines/<name>``. Nothing is installed, no maintainer script runs, no service
starts. runc is left out: the newest one may need a newer libc than this system has, and the system's own serves.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nettrace.errors import LabError
from nettrace.model.base import Model

__all__ = ["ENGINES", "EngineSource", "engine_dir", "fetch", "mirror_of", "resolve_docker_dir"]

APT_SOURCES = Path("/etc/apt")
KEYRINGS = Path("/usr/share/keyrings")
#: Programs of which every shared library must be there when the engine is unpacked.
PROGRAMS = ("dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2")


class EngineSource(Model):
    """Where a short name's engine comes from: a Debian suite, and the version that its docker.io must have."""

    suite: str
    version: str
    packages: tuple[str, ...] = ("docker.io", "containerd")


ENGINES: dict[str, EngineSource] = {
    "docker-26": EngineSource(suite="trixie", version="26"),
    "docker-28": EngineSource(suite="sid", version="28"),
}


def engines_root() -> Path:
    """Return the folder that all unpacked engines lie in."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "nettrace" / "engines"


def engine_dir(name: str) -> Path:
    """Return the folder of an engine by its short name, whether it is there or not."""
    return engines_root() / name


def resolve_docker_dir(name: str) -> Path:
    """Turn what --docker-dir says, a folder or a short name such as docker-28, into a folder with an engine in it.

    Raises LabError when there is no dockerd in it.
    """
    short = "/" not in name and not Path(name).is_dir()
    folder = engine_dir(name) if short else Path(name).resolve()
    if find_program(folder, "dockerd") is not None:
        return folder
    if short and name in ENGINES:
        raise LabError(f"{name} is not unpacked here: run `{sys.executable} -m nettrace.lab.fetch {name}` first")
    if short:
        raise LabError(f"{name} is neither a folder nor a known engine (known: {', '.join(ENGINES)})")
    raise LabError(f"there is no dockerd under {folder}: give a folder that docker.io was unpacked into with dpkg -x")


def find_program(folder: Path, name: str) -> Path | None:
    """Return the path of one of the engine's programs inside an unpacked folder, or None."""
    return next((path for sub in ("usr/sbin", "usr/bin", "") if (path := folder / sub / name).is_file()), None)


def mirror_of(sources: Path = APT_SOURCES) -> str:
    """Return the URI of the Debian mirror that this machine's apt uses: the first entry for Debian itself.

    Reads sources.list and sources.list.d/*.{sources,list}, see sources.list(5). An entry counts when it is of type deb,
    is not for a security archive, and has the component main with a path ending in /debian; else any with main.
    Raises LabError when there is none.
    """
    entries: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    for path in [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            entries += parse_deb822(text)
        elif path.suffix == ".list":
            entries += parse_one_line(text)
    main = [uri for uri, suites, parts in entries if "main" in parts and not _is_security(uri, suites)]
    main = [uri for uri in main if uri.split(":", 1)[0] in ("http", "https", "file", "copy", "mirror+file", "mirror")]
    debian = [uri for uri in main if uri.rstrip("/").endswith("/debian")]
    for uri in debian + main:
        return uri
    raise LabError(
        f"no Debian mirror stands in {sources}/sources.list or {sources}/sources.list.d: give one with --mirror URI"
    )


def _is_security(uri: str, suites: Sequence[str]) -> bool:
    return "security" in uri or all("security" in suite for suite in suites)


def parse_deb822(text: str) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return (uri, suites, components) of every enabled binary stanza of a .sources file."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and last:
                fields[last] += " " + line.strip()
            elif ":" in line:
                last, value = line.split(":", 1)
                last = last.strip().lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        suites, parts = tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
        found += [(uri, suites, parts) for uri in fields.get("uris", "").split()]
    return found


def parse_one_line(text: str) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return (uri, suites, components) of every `deb` line of a .list file."""
    found: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            found.append((match[1], (match[2],), tuple(match[3].split())))
    return found


def fetch(name: str, *, mirror: str | None = None, suite: str | None = None) -> Path:
    """Download and unpack an engine by its short name, and return its folder; does nothing when it is there.

    Raises LabError when the name is unknown, a download fails, the suite has moved on to another version, or a program
    would not start here for want of a shared library.
    """
    source = ENGINES.get(name)
    if source is None:
        raise LabError(f"{name} is not an engine that can be fetched: choose one of {', '.join(ENGINES)}")
    target = engine_dir(name)
    if find_program(target, "dockerd") is not None:
        return target
    mirror = mirror or mirror_of()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as folder:
        work = Path(folder)
        apt = _private_apt(work, mirror, suite or source.suite)
        _run([*apt, "-qq", "update"], f"apt cannot read {suite or source.suite} from {mirror}")
        wanted = [f"{source.packages[0]}={source.version}*", *source.packages[1:]]
        debs = work / "debs"
        debs.mkdir()
        hint = (
            f"{mirror} has no Docker {source.version} in {suite or source.suite} (any more): give --mirror or --suite"
        )
        _run([*apt, "-qq", "download", *wanted], hint, cwd=debs)
        tree = work / "tree"
        for deb in sorted(debs.glob("*.deb")):
            _run(["dpkg", "-x", str(deb), str(tree)], f"{deb.name} cannot be unpacked")
        _check_libraries(tree)
        if target.exists():
            shutil.rmtree(target)
        tree.chmod(0o755)
        tree.rename(target)
    return target


def _private_apt(work: Path, mirror: str, suite: str) -> list[str]:
    """Return an apt-get command whose sources, lists and caches lie in the folder given."""
    keys = [path for path in sorted(KEYRINGS.glob("debian-archive-*.gpg")) if "removed" not in path.name]
    signed = f"[signed-by={','.join(str(key) for key in keys)}] " if keys else ""
    (work / "sources.list").write_text(f"deb {signed}{mirror} {suite} main\n")
    for sub in ("lists/partial", "cache/archives/partial"):
        (work / sub).mkdir(parents=True)
    for path in (work, *work.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    options = {
        "Dir::Etc::sourcelist": f"{work}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": f"{work}/lists",
        "Dir::Cache": f"{work}/cache",
        # The folder may be one that apt's own user cannot enter.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
    }
    return ["apt-get", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]


def _check_libraries(tree: Path) -> None:
    """Raise LabError when a program of the unpacked engine lacks a shared library (or symbol version) here."""
    for name in PROGRAMS:
        program = find_program(tree, name)
        if program is None:
            raise LabError(f"the packages hold no {name}: this release of Debian splits them otherwise")
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
        lacking = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "not found" in line]
        if lacking:
            raise LabError(f"{name} would not start here, for want of a shared library: {'; '.join(lacking)}")


def _run(argv: list[str], what: str, *, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=900)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is missing: engines can be fetched on Debian and its relatives only") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{what}: no end after 15 minutes") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"{what}: {last}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the engines named on the command line, and print their folders."""
    import argparse

    parser = argparse.ArgumentParser(prog="nettrace.lab.fetch", description=fetch.__doc__)
    parser.add_argument("name", nargs="+", help=f"engine: {', '.join(ENGINES)}")
    parser.add_argument("--mirror", help="URI of a Debian mirror (default: the one of this machine's apt sources)")
    parser.add_argument("--suite", help="Debian suite to take it from")
    chosen = parser.parse_args(arguments)
    for name in chosen.name:
        try:
            print(fetch(name, mirror=chosen.mirror, suite=chosen.suite))
        except LabError as error:
            print(f"nettrace.lab.fetch: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
