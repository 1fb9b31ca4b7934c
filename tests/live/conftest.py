"""Labs for live tests: one of each kind a session, mended after every test, and nothing left behind at the end.

`docker_lab` runs a test once for every engine at hand: the system's, and each one that `nettrace.lab.fetch` unpacked.
`plain_lab` has no engine. `make_lab` makes further ones for tests that need a lab of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from nettrace.lab import Lab, teardown
from nettrace.lab.fetch import ENGINES, engine_dir, find_program
from nettrace.lab.host import engine_available

PREFIX = f"t{os.getpid()}"
SYSTEM = "docker"


def engines() -> list[str]:
    """Return the engines that can be started here."""
    unpacked = [name for name in ENGINES if find_program(engine_dir(name), "dockerd") is not None]
    return ([SYSTEM] if engine_available() else []) + unpacked


def own_links() -> list[str]:
    """Return the links of the machine's own namespace: whoever wrote a test must not have touched them."""
    done = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True)
    return sorted(f"{row['ifname']} {row['mtu']} {row['flags']}" for row in json.loads(done.stdout))


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail at the end when a lab of this session left anything, or the machine's own links changed."""
    if os.geteuid() != 0:
        yield
        return
    before = own_links()
    yield
    left = [name for name in teardown.leftovers() if name.startswith(PREFIX)]
    for name in left:
        teardown.remove(name)
    assert left == []
    assert own_links() == before


@pytest.fixture(scope="session")
def labs(nothing_left: None) -> Iterator[dict[str, Lab]]:
    """The session's labs by engine; each is made when the first test asks for it."""
    made: dict[str, Lab] = {}
    yield made
    for lab in made.values():
        lab.down()


#: The containers that each lab was made with, by the lab's name.
OWN: dict[str, set[str]] = {}


def containers_of(lab: Lab) -> set[str]:
    """Return the ids of a lab's containers, stopped ones too; none without an engine."""
    return set() if lab.engine == "none" else set(lab.docker("ps", "-aq", "--no-trunc").split())


@pytest.fixture(scope="module", autouse=True)
def every_file_finds_a_lab_as_it_was_made(labs: dict[str, Lab]) -> Iterator[None]:
    """Take away the containers that a file's tests, and the faults they broke, have left in shared labs."""
    yield
    for lab in labs.values():
        left = containers_of(lab) - OWN[lab.name] if lab.name in OWN else set()
        if left:
            lab.docker("rm", "-f", *left)


def _lent(labs: dict[str, Lab], engine: str) -> Iterator[Lab]:
    if engine not in labs:
        name = f"{PREFIX}-{engine}"
        directory = None if engine in (SYSTEM, "none") else engine
        labs[engine] = Lab.up(name, engine="none" if engine == "none" else "docker", docker_dir=directory)
        OWN[name] = containers_of(labs[engine])
    yield labs[engine]
    labs[engine].mend()


@pytest.fixture(params=engines())
def docker_lab(request: pytest.FixtureRequest, labs: dict[str, Lab]) -> Iterator[Lab]:
    """A lab with a real Docker Engine, shared by all tests and healthy at the start of each."""
    yield from _lent(labs, request.param)


@pytest.fixture
def plain_lab(labs: dict[str, Lab]) -> Iterator[Lab]:
    """A lab without an engine, shared by all tests and healthy at the start of each."""
    yield from _lent(labs, "none")


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Make labs of one's own with `make_lab("suffix", engine=…)`; they go at the end of the test."""
    made: list[str] = []

    def make(suffix: str, **options: object) -> Lab:
        name = f"{PREFIX}-{suffix}"
        made.append(name)
        return Lab.up(name, **options)  # type: ignore[arg-type]

    yield make
    for name in made:
        teardown.remove(name)
