"""Every direction, on every kind of bridge network: nettrace and real programs in the containers agree, cell by cell.

The table is in `directions`, its faults in `direction_faults`; `python -m tests.live.directions --all` asks the whole
product of sources and destinations, which takes too long for every run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nettrace.lab import Lab

from .conftest import PREFIX
from .direction_faults import BREAKS, Break, Names, broken
from .directions import (
    SECOND,
    STRANGER,
    STRANGER6,
    UPLINK,
    UPLINK6,
    Cell,
    addresses,
    ask_oracle,
    cells,
    down,
    engines,
    judge,
    major,
    up,
)
from .warm import Asker

pytestmark = pytest.mark.live

GROUNDS = [(engine, kind) for engine in engines() for kind in ("proxy", "noproxy")] if os.geteuid() == 0 else []


@dataclass
class Ground:
    """One lab with all networks, and whoever asks in it."""

    lab: Lab
    kind: str
    asker: Asker
    names: Names

    @property
    def version(self) -> int:
        return major(self.lab)

    def predicted(self, src: str, dst: str, proto: str, port: int | None, *more: str) -> tuple[str, str | None]:
        """Return the outcome of a question from outside, and the first code."""
        ports = ["--port", str(port)] if port else []
        said = self.asker.ask(["path", src, dst, "--proto", proto, *ports, "--json", *more])
        codes = [each["code"] for each in said.verdict["findings"]]
        return said.verdict["outcome"], codes[0] if codes else None


@pytest.fixture(scope="module", params=GROUNDS, ids=lambda each: "-".join(each))
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    engine, kind = request.param
    lab = up(f"{PREFIX}-{engine[-2:]}{kind[:1]}", engine, kind)
    asker = Asker(lab)
    try:
        yield Ground(lab, kind, asker, Names(lab))
    finally:
        asker.close()
        down(lab)


def test_every_flow_of_the_table_is_judged_as_the_containers_find_it(ground: Ground) -> None:
    flows = cells(ground.lab, ground.kind)
    if ground.kind == "noproxy":
        # What passes no port of the host is the same with and without the proxy.
        flows = [each for each in flows if each.address in OF_THE_HOST]
    assert len(flows) > 20
    wrong = [done.line() for done in judge(ground.lab, ground.asker, flows) if not done.agrees]
    assert wrong == []


OF_THE_HOST = (UPLINK, UPLINK6, SECOND, "127.0.0.1")

#: Source, container, protocol, and port as it is asked for: the container's own, or the host's.
FROM_OUTSIDE = (
    (STRANGER, "web", "tcp", 80),
    (STRANGER, "web", "tcp", 81),
    (STRANGER, "web", "tcp", 8081),
    (STRANGER, "web", "udp", 7),
    (STRANGER, "h1", "tcp", 80),
    (STRANGER, "s2", "tcp", 80),
    (STRANGER, "n2", "tcp", 80),
    (STRANGER6, "d2", "tcp", 80),
    (STRANGER, "r1", "tcp", 80),
    (STRANGER6, "u1", "tcp", 80),
)


def test_what_comes_from_outside_is_predicted_as_it_happens(ground: Ground) -> None:
    """The prediction for a bare address beyond the host is what a real packet from there meets."""
    if (ground.version, ground.kind) not in ((28, "proxy"), (20, "noproxy")):
        return
    known, wrong = addresses(ground.lab), []
    for src, dst, proto, port in FROM_OUTSIDE:
        if dst not in known:
            continue
        ports = ["--port", str(port)]
        said = ground.asker.ask(["path", src, dst, "--proto", proto, *ports, "--predict", "--json"])
        flow = said.verdict["flow"]["dst"]["address"], said.verdict["flow"]["dport"]
        reached = ask_oracle(ground.lab, Cell(src, dst, proto, flow[1], flow[0]))
        real = ground.asker.ask(
            ["path", f"netns:{ground.lab.inet}", flow[0], "--proto", proto, "--port", str(flow[1]), "--json"]
        )
        codes = [[each["code"] for each in one.verdict["findings"]] for one in (said, real)]
        same = (said.verdict["outcome"], codes[0]) == (real.verdict["outcome"], codes[1])
        if not same or reached != (said.verdict["outcome"] == "delivered") or len(said.verdict["assumptions"]) < 2:
            wrong.append((src, dst, port, flow, reached, said.verdict["outcome"], real.verdict["outcome"], codes))
    assert wrong == []


def test_from_outside_nothing_is_called_delivered_without_proof(ground: Ground) -> None:
    said = ground.asker.ask(["path", STRANGER, "web", "--proto", "tcp", "--port", "80", "--json"])
    assert (said.code, said.verdict["outcome"]) == (3, "inconclusive")
    seen = {hop["point"] for hop in said.verdict["hops"] if hop["observed"] == "seen"}
    assert "web/eth0" in seen
    assert "host/eth0" not in seen
    (gap,) = [each["reason"] for each in said.verdict["gaps"] if each["section"] == "probe"]
    assert "nothing can be sent from 203.0.113.9" in gap
    assert gap.endswith("and that was answered")
    said = ground.asker.ask(["path", STRANGER, "web", "--proto", "tcp", "--port", "82", "--json"])
    assert (said.code, said.verdict["findings"][0]["code"]) == (1, "port.not-published")


def test_a_question_from_outside_is_replayed_to_the_same_verdict(ground: Ground, tmp_path: Path) -> None:
    if ground.kind != "proxy":
        return
    path = str(tmp_path / "outside.tar.gz")
    live = ground.asker.ask(["path", STRANGER, "web", "--port", "80", "--json", "--bundle", path])
    again = ground.asker.ask(["replay", path, "--json"])
    assert again.code == live.code == 3, again.err
    for part in ("outcome", "flow", "hops", "gaps", "assumptions"):
        assert again.verdict[part] == live.verdict[part], part


def test_a_source_that_cannot_come_from_outside_is_refused(ground: Ground) -> None:
    for args, word in (
        (("172.17.99.99", "web"), "no container holds it"),
        ((STRANGER, "8.8.8.8"), "neither"),
        ((STRANGER, "127.0.0.1"), "never leaves"),
        ((STRANGER, "web", "-6"), "leave -6 out"),
    ):
        said = ground.asker.ask(["path", *args])
        assert said.code in (2, 4)
        assert word in said.err
        assert "Traceback" not in said.err


#: Left to the command `python -m tests.live.direction_faults`, as others like them are asked in every run.
SELDOM = {
    "six-no-route",
    "six-ndp-stale",
    "six-ndp-blocked",
    "six-address-gone",
    "six-published-dropped",
    "multi-default-other-gateway",
    "multi-reply-more-specific",
    "routed-no-return-six",
    "proxy-input-drop",
    "proxy-own-way-blocked",
}
#: What happens inside of containers, or on links, is the same with every engine: asked on the newer one here.
ALIKE = ("multi-", "mtu-", "internal-")


@pytest.mark.parametrize("fault", [each for each in BREAKS if each.name not in SELDOM], ids=lambda each: each.name)
def test_a_fault_is_named(ground: Ground, fault: Break) -> None:
    # What every ground can have is broken on one of each engine: with the proxy on the newer, without on the older.
    chosen = fault.kind or ("proxy" if ground.version >= 28 else "noproxy")
    if not fault.fits(ground.version, ground.kind) or chosen != ground.kind:
        assert any(fault.fits(version, chosen) for version in (20, 28))
        return
    if fault.name.startswith(ALIKE) and ground.version < 28 and "docker-28" in engines():
        return
    seen = broken(ground.lab, ground.names, ground.asker, fault)
    assert seen.agrees, seen.line()
    assert seen.place.startswith(fault.place), seen.line()
