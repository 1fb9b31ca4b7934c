"""Finding the machine's Debian mirror, and the folders of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from nettrace.errors import LabError
from nettrace.lab import fetch

DEB822 = """\
# the machine's own
Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian
 http://second.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
"""


def sources(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        name = name.replace("_", ".")
        (folder / name if name == "sources.list" else folder / "sources.list.d" / name).write_text(text)
    return folder


def test_deb822(tmp_path: Path) -> None:
    assert fetch.mirror_of(sources(tmp_path, debian_sources=DEB822)) == "http://mirror.example/debian"
    uris = [uri for uri, _, _ in fetch.parse_deb822(DEB822)]
    assert uris[1:] == ["http://mirror.example/debian", "http://second.example/debian"]


def test_one_line(tmp_path: Path) -> None:
    text = (
        "# deb http://old.example/debian stretch main\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] https://download.vendor.example/linux/debian bookworm stable\n"
        "deb http://deb.example/debian-security bookworm-security main\n"
        "deb\thttp://deb.example/debian/ bookworm main non-free # mine\n"
    )
    assert fetch.mirror_of(sources(tmp_path, sources_list=text)) == "http://deb.example/debian/"


def test_another_vendors_mirror_is_the_last_resort(tmp_path: Path) -> None:
    text = "deb http://archive.vendor.example/pool trixie main\n"
    assert fetch.mirror_of(sources(tmp_path, extra_list=text)) == "http://archive.vendor.example/pool"


def test_disabled_files_do_not_count(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="--mirror"):
        fetch.mirror_of(sources(tmp_path, extra_list_disabled="deb http://x.example/debian sid main\n"))


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert fetch.engine_dir("docker-28") == tmp_path / "nettrace" / "engines" / "docker-28"
    with pytest.raises(LabError, match=r"nettrace\.lab\.fetch docker-28"):
        fetch.resolve_docker_dir("docker-28")
    with pytest.raises(LabError, match="neither a folder nor"):
        fetch.resolve_docker_dir("docker-99")
    with pytest.raises(LabError, match="no dockerd"):
        fetch.resolve_docker_dir(str(tmp_path))
    place = fetch.engine_dir("docker-28") / "usr" / "sbin"
    place.mkdir(parents=True)
    (place / "dockerd").touch()
    assert fetch.resolve_docker_dir("docker-28") == fetch.engine_dir("docker-28")
    assert fetch.resolve_docker_dir(str(place.parent.parent)) == fetch.engine_dir("docker-28")
    assert fetch.fetch("docker-28") == fetch.engine_dir("docker-28")  # it is there: nothing is downloaded


def test_unknown_engines_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main(["docker-1"]) == 4
    assert "docker-28" in capsys.readouterr().err
