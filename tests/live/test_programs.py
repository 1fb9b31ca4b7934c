"""Programs on the way, attached to every device of it: one that lets all pass hides nothing, one that drops is named.

The kernel is the judge: whether a packet gets through is what it says, and every printed remedy is pasted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nettrace.lab import Lab
from nettrace.lab.facts import render

from .warm import Asker, Said

pytestmark = pytest.mark.live

ATTACH = Path(__file__).with_name("attach.py")
OUT, PEER = ("app", "8.8.8.8"), ("app", "web", "--proto", "tcp", "--port", "80")
PUBLISHED = ("netns:{inet.path}", "{uplink.ip}", "--proto", "tcp", "--port", "8080")
FORGET = (
    ("host", "ip neigh flush dev {app.bridge}"),
    ("app", "ip neigh flush dev eth0"),
    ("web", "ip neigh flush dev eth0"),
)
#: A way to attach, what returns there to let pass, and to drop.
WAYS = {"ingress": (0, 2), "egress": (0, 2), "xdp": (2, 1), "xdpgeneric": (2, 1), "tcx-ingress": (0, 2)}

#: Question, namespace, device, way, and the segment and direction of the stop when the program drops IP packets.
PLACES = (
    (OUT, "app", "eth0", "egress", "source", "forward"),
    (OUT, "app", "eth0", "ingress", "source", "reply"),
    (OUT, "app", "eth0", "tcx-ingress", "source", "reply"),
    (OUT, "host", "{app.veth}", "ingress", "source", "forward"),
    (OUT, "host", "{app.veth}", "xdp", "source", "forward"),
    (OUT, "host", "{app.veth}", "xdpgeneric", "source", "forward"),
    (OUT, "host", "{app.bridge}", "ingress", "bridge", "forward"),
    (OUT, "host", "{app.bridge}", "egress", "bridge", "reply"),
    (OUT, "host", "{app.bridge}", "xdpgeneric", "bridge", "forward"),
    (OUT, "host", "{uplink.dev}", "egress", "egress", "forward"),
    (OUT, "host", "{uplink.dev}", "xdp", "egress", "reply"),
    (PUBLISHED, "host", "{uplink.dev}", "xdp", "source", "forward"),
    (PEER, "host", "{web.veth}", "egress", "destination", "forward"),
    (PEER, "web", "eth0", "xdp", "destination", "forward"),
    (PEER, "web", "eth0", "ingress", "destination", "forward"),
    (PEER, "web", "eth0", "egress", "destination", "reply"),
)
EACH = pytest.mark.parametrize(
    ("question", "where", "device", "way", "segment", "direction"),
    PLACES,
    ids=[f"{way}-{where}-{device.strip('{}')}-{q[1].strip('{}')}" for q, where, device, way, _s, _d in PLACES],
)


@pytest.fixture(scope="module")
def askers() -> Iterator[dict[str, Asker]]:
    made: dict[str, Asker] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture(autouse=True)
def _ordinary_frames(plain_lab: Lab) -> None:
    """A veth with a peer that sends jumbo frames takes no XDP program (veth_xdp_set)."""
    for where in ("app", "web"):
        plain_lab.check(["ip", "link", "set", "eth0", "mtu", "1500"], where)


def ask(askers: dict[str, Asker], lab: Lab, *args: str) -> Said:
    if lab.name not in askers:
        askers[lab.name] = Asker(lab)
    said = askers[lab.name].ask(["path", *(render(each, lab.facts) for each in args), "--json", "--timeout", "0.5"])
    assert "Traceback" not in said.err
    return said


def attach(lab: Lab, where: str, device: str, way: str, verdict: int, protocol: str = "all") -> None:
    """Attach a program that returns `verdict`: by tc as classic BPF of one instruction, else by bpf(2)."""
    if way in ("ingress", "egress"):
        lab.check(["tc", "qdisc", "add", "dev", device, "clsact"], where)
        code = f"bpf da bytecode 1,6 0 0 {verdict}".split(maxsplit=3)
        lab.check(["tc", "filter", "add", "dev", device, way, "protocol", protocol, *code], where)
    else:
        lab.check([sys.executable, str(ATTACH), device, way, str(verdict)], where)


def detach(lab: Lab, where: str, device: str, way: str) -> None:
    """Take a program off, if it is still there."""
    if way in ("ingress", "egress"):
        lab.exec(["tc", "qdisc", "del", "dev", device, "clsact"], where)
    elif way.startswith("tcx"):
        lab.exec([sys.executable, str(ATTACH), device, way, "off"], where)
    else:
        lab.exec(["ip", "link", "set", "dev", device, way, "off"], where)


def told(said: Said) -> tuple[Any, ...]:
    stop = said.verdict["stop"] or {}
    return [each["code"] for each in said.verdict["findings"]], stop.get("segment"), stop.get("direction")


def paste(lab: Lab, said: Said) -> None:
    for command in said.verdict["findings"][0]["remedy"]["commands"]:
        lab.check(["sh", "-c", command])


@EACH
def test_a_program_on_the_way(
    plain_lab: Lab,
    askers: dict[str, Asker],
    question: tuple[str, ...],
    where: str,
    device: str,
    way: str,
    segment: str,
    direction: str,
) -> None:
    lab, device = plain_lab, render(device, plain_lab.facts)
    passes, drops = WAYS[way]
    try:
        # This one also makes addresses known, so that the next loses the packet itself.
        attach(lab, where, device, way, passes)
        said = ask(askers, lab, *question)
        assert (said.code, told(said)) == (0, ([], None, None))
        predicted = ask(askers, lab, *question, "--predict")
        assert (predicted.code, predicted.verdict["outcome"]) == (3, "inconclusive")
        assert any(f"{device} is not read" in gap["reason"] for gap in predicted.verdict["gaps"])
        detach(lab, where, device, way)
        attach(lab, where, device, way, drops, "ip")
        said = ask(askers, lab, *question)
        assert (said.code, told(said)) == (1, (["tc.drop"], segment, direction))
        remedy = said.verdict["findings"][0]["remedy"]
        if way.startswith("tcx"):
            assert remedy["verified"] == "unverifiable"
            return
        assert remedy["verified"] == "yes"
        paste(lab, said)
        assert ask(askers, lab, *question).code == 0
    finally:
        detach(lab, where, device, way)


#: Devices whose program takes the ARP of the next hop, in whichever order request and answer meet it.
ARP = (
    (OUT, "app", "eth0", "egress", "source", "forward"),
    (OUT, "app", "eth0", "ingress", "source", "forward"),
    (OUT, "app", "eth0", "xdp", "source", "forward"),
    (OUT, "host", "{app.veth}", "xdp", "source", "forward"),
    (OUT, "host", "{app.veth}", "egress", "source", "forward"),
    (OUT, "host", "{app.bridge}", "ingress", "bridge", "forward"),
    (PEER, "host", "{web.veth}", "xdp", "destination", "forward"),
    (PEER, "web", "eth0", "ingress", "destination", "forward"),
)


@pytest.mark.parametrize(
    ("question", "where", "device", "way", "segment", "direction"),
    ARP,
    ids=[f"{way}-{where}-{device.strip('{}')}" for _q, where, device, way, _s, _d in ARP],
)
def test_a_program_that_takes_arp(
    plain_lab: Lab,
    askers: dict[str, Asker],
    question: tuple[str, ...],
    where: str,
    device: str,
    way: str,
    segment: str,
    direction: str,
) -> None:
    lab, device = plain_lab, render(device, plain_lab.facts)
    try:
        attach(lab, where, device, way, WAYS[way][1], "all" if way == "xdp" else "arp")
        for place, command in FORGET:
            lab.check(["sh", "-c", render(command, lab.facts)], place)
        said = ask(askers, lab, *question)
        assert (said.code, told(said)) == (1, (["tc.drop"], segment, direction))
        assert said.verdict["findings"][0]["remedy"]["verified"] == "yes"
        paste(lab, said)
        # The kernel itself waits a second before it asks again.
        assert any(ask(askers, lab, *question).code == 0 for _ in range(4))
    finally:
        detach(lab, where, device, way)


def test_a_program_that_takes_neighbour_discovery(plain_lab: Lab, askers: dict[str, Asker]) -> None:
    lab, question = plain_lab, ("c1", "2001:4860:4860::8888", "-6")
    try:
        attach(lab, "c1", "eth0", "ingress", 2, "ipv6")
        lab.check(["ip", "-6", "neigh", "flush", "dev", "eth0"], "c1")
        said = ask(askers, lab, *question)
        assert told(said) == (["tc.drop"], "source", "forward")
        paste(lab, said)
        assert any(ask(askers, lab, *question).code == 0 for _ in range(4))
    finally:
        detach(lab, "c1", "eth0", "ingress")


def test_ip6tables_that_forget_neighbour_discovery(plain_lab: Lab, askers: dict[str, Asker]) -> None:
    lab, question = plain_lab, ("c1", "2001:4860:4860::8888", "-6")
    rule = ["INPUT", "-p", "icmpv6", "--icmpv6-type", "neighbour-solicitation", "-j", "DROP"]
    lab.check(["ip6tables", "-I", *rule])
    try:
        lab.check(["ip", "-6", "neigh", "flush", "dev", "eth0"], "c1")
        said = ask(askers, lab, *question)
        assert told(said) == (["filter.input-drop"], "host", "forward")
        paste(lab, said)
        assert any(ask(askers, lab, *question).code == 0 for _ in range(4))
    finally:
        lab.exec(["ip6tables", "-D", *rule])


def test_a_healthy_program_beside_a_fault(docker_lab: Lab, askers: dict[str, Asker]) -> None:
    """The model does not know what the program does; the wire shows that it was passed."""
    lab, device, way = docker_lab, docker_lab.facts["app"].veth, "ingress"
    attach(lab, "host", device, way, 0)
    try:
        for rule, code in (
            ("FORWARD -s {app.ip} -j DROP", "filter.rule-drop"),
            ("POSTROUTING -t nat -s {app.ip} -j ACCEPT", "nat.masquerade-shadowed"),
        ):
            words = render(rule, lab.facts)
            lab.check(["sh", "-c", f"iptables -I {words}"])
            said = ask(askers, lab, *OUT)
            lab.check(["sh", "-c", f"iptables -D {words}"])
            assert told(said)[0][0] == code
    finally:
        detach(lab, "host", device, way)
