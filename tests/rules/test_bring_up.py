"""Setting a link up, as the model does it to prove a remedy: the carrier, the ports and the routes come back."""

from __future__ import annotations

import pytest

from nettrace.model.base import rows
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import Verified
from nettrace.rules.change import bring_up
from tests.rules.build import Lab, ask, diagnose_case, plain_lab


def down(lab: Lab, box: str, name: str) -> None:
    """Set a device down with what the kernel does to its peer, its bridge and its ports."""
    lab[box].down(name)
    link = lab[box].link(name)
    for other in lab.boxes.values():
        for each in list(other.links):
            if (each.peer_netns, each.peer_ifindex) == (lab[box].id, link.ifindex):
                other.edit(each.name, lower_up=False, operstate="LOWERLAYERDOWN")
                if each.port is not None:
                    other.edit_port(each.name, state=0)
    for each in list(lab[box].links):
        if each.master == link.ifindex:
            lab[box].edit_port(each.name, state=0)
    if link.port is not None:
        lab[box].edit_port(name, state=0)


@pytest.mark.parametrize(("box", "name"), [("host", "docker0"), ("host", "veth-app"), ("app", "eth0")])
def test_the_remedy_of_a_link_that_is_down_is_proven(box: str, name: str) -> None:
    lab = plain_lab()
    down(lab, box, name)
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "8.8.8.8"))
    assert [each.code for each in verdict.findings] == ["link.down"]
    assert verdict.findings[0].remedy.verified is Verified.YES


def snapshot_with_both_ends_down() -> tuple[Snapshot, int, int]:
    lab = plain_lab()
    lab["app"].down("eth0")
    lab["host"].down("veth-app")
    lab["host"].edit_port("veth-app", state=0)
    return lab.snapshot(), lab["app"].id, lab["app"].link("eth0").ifindex


def test_without_its_peer_a_veth_gets_no_carrier() -> None:
    before, netns, ifindex = snapshot_with_both_ends_down()
    after = bring_up(netns, ifindex)(before).namespace(netns)
    assert after is not None
    link = next(each for each in rows(after.links) if each.ifindex == ifindex)
    assert (link.up, link.lower_up) == (True, False)


def test_a_link_that_is_not_there_changes_nothing() -> None:
    before = plain_lab().snapshot()
    assert bring_up(before.host_netns, 999)(before) == before
