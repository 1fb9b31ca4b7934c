from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.witness.rig import Rig, rig


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        yield made


@pytest.fixture
def hosts(shared: Rig) -> Iterator[Rig]:
    """The module's namespaces, with an empty ruleset before and after."""
    yield shared
    for end in "cho":
        shared.inside(end, "nft", "flush", "ruleset")
