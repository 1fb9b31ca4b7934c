"""Ends that share a namespace, use the host's, or have no network: whose interface it is, and what is no fault."""

from __future__ import annotations

import pytest

from nettrace.model.intent import Container
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Result, Verdict
from nettrace.render.text import render_text
from tests.rules.build import Box, Lab, ask, diagnose_case, plain_lab


def joined(lab: Lab, name: str = "pod", to: str = "c1", **changes: object) -> None:
    """Add a container that shares another's network."""
    owner = lab.containers[to]
    facts = {"netns": owner.netns, "pid": 20000, "joined": owner.id, "mode": f"container:{owner.id}", **changes}
    lab.containers[name] = Container(id=f"{name}-id", name=name, engine="docker", **facts)  # type: ignore[arg-type]


def left_behind(lab: Lab, **changes: object) -> None:
    """Add a container whose namespace holds nothing any more: its owner has stopped, or started anew."""
    lab.boxes["pod"] = Box(id=7000, name="pod")
    lab["pod"].links.append(Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536))
    lab["pod"].hold("lo", "127.0.0.1/8", scope="host")
    joined(lab, netns=7000)
    lab.container("c1", **changes)


def on_host(lab: Lab) -> None:
    lab.containers["hn"] = Container(id="hn-id", name="hn", engine="docker", netns=lab.host.id, pid=20001, mode="host")


def judge(lab: Lab, src: str, dst: str, *proto: str, port: int | None = None) -> Verdict:
    return diagnose_case(lab.snapshot(), ask(lab, src, dst, *proto, port=port))


def notes(verdict: Verdict) -> list[str]:
    return list(verdict.notes) if isinstance(verdict.notes, tuple) else []


def test_whose_interface_it_is() -> None:
    lab = plain_lab()
    joined(lab)
    verdict = judge(lab, "pod", "8.8.8.8")
    assert (verdict.outcome, notes(verdict)) == (Result.DELIVERED, ["pod shares the network of c1; eth0 is c1's"])
    assert "Note: pod shares the network of c1; eth0 is c1's." in render_text(verdict, color=False, width=100)
    assert notes(judge(lab, "app", "web")) == []


def test_the_owners_faults_are_named_for_who_shares_its_network() -> None:
    lab = plain_lab()
    joined(lab)
    lab["c1"].drop_address("172.18.0.2/16")
    assert [each.code for each in judge(lab, "pod", "8.8.8.8").findings][:1] == ["addr.missing"]


def test_two_ends_of_one_namespace() -> None:
    lab = plain_lab()
    joined(lab)
    verdict = judge(lab, "pod", "c1")
    assert verdict.outcome is Result.DELIVERED
    assert {hop.point for hop in verdict.hops} == {"c1/lo"}
    assert len(notes(verdict)) == 2
    assert notes(verdict)[1].startswith("pod and c1 are in one network namespace")


STALE = {
    "stopped": ({"status": "exited", "netns": None, "endpoints": ()}, "which is exited", "docker start c1"),
    "anew": ({"netns": 7001}, "started anew", "docker restart pod"),
}


@pytest.mark.parametrize(("changes", "words", "command"), STALE.values(), ids=STALE)
@pytest.mark.parametrize("end", ["source", "destination"])
def test_an_owner_that_left(changes: dict[str, object], words: str, command: str, end: str) -> None:
    lab = plain_lab()
    left_behind(lab, **changes)
    verdict = judge(lab, *(("pod", "8.8.8.8") if end == "source" else ("app", "pod")))
    assert [each.code for each in verdict.findings] == ["engine.no-network"]
    assert verdict.stop is not None
    assert verdict.stop.segment == end
    assert words in verdict.findings[0].explanation
    assert command in verdict.findings[0].remedy.commands


def test_the_hosts_own_network_is_said_and_needs_no_publishing() -> None:
    lab = plain_lab()
    on_host(lab)
    verdict = judge(lab, "hn", "8.8.8.8")
    assert verdict.outcome is Result.DELIVERED
    assert "--network host" in notes(verdict)[0]
    assert {hop.netns for hop in verdict.hops} == {lab.host.id}
    # The host as such stays the host: whoever uses its network owns nothing of it.
    assert judge(lab, "app", "host").flow.dst.id is None


@pytest.mark.parametrize("mode", ["none", "net1"])
@pytest.mark.parametrize("end", ["source", "destination"])
def test_no_network_at_either_end(mode: str, end: str) -> None:
    lab = plain_lab()
    lab.boxes["lone"] = Box(id=7000, name="lone")
    lab["lone"].links.append(Link(ifindex=1, name="lo", loopback=True, arp_type=772, mtu=65536))
    lab.containers["lone"] = Container(id="lone-id", name="lone", engine="docker", netns=7000, pid=1, mode=mode)
    verdict = judge(lab, *(("lone", "8.8.8.8") if end == "source" else ("app", "lone")))
    assert [each.code for each in verdict.findings] == ["engine.no-network"]
    assert (verdict.outcome, verdict.stop.segment if verdict.stop else None) == (Result.STOPPED, end)


@pytest.mark.parametrize("holder", ["host", "app"])
def test_an_address_of_the_internet_that_is_held_here(holder: str) -> None:
    """It is answered, and by nobody whom the question meant."""
    lab = plain_lab()
    (lab.host if holder == "host" else lab[holder]).hold("lo", "8.8.8.8/32")
    verdict = judge(lab, "app", "8.8.8.8")
    assert verdict.outcome is Result.DELIVERED
    assert notes(verdict) == [f"8.8.8.8 is held by {holder} itself, on lo: what is sent to it goes no further"]
    assert notes(judge(plain_lab(), "app", "8.8.8.8")) == []
