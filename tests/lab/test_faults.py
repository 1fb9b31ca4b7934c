"""The registry of faults: every one is whole, its commands can be filled in, and the catalogue's names are used."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from nettrace.errors import LabError
from nettrace.lab import facts, faults, wiring
from nettrace.lab.faults import FAULTS, Fault
from nettrace.lab.state import LabState, NamespaceState, Process

CODE = re.compile(r"[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*")
CONTAINERS = {"app", "web", "c1"}
DOCKER_CONTAINERS = CONTAINERS | {"c2", "n1", "n2", "s1"}
OTHER_FACTS = {"uplink", "inet", "rules", "dir", "serve"}

#: Faults that the first rules are written for: each must be makeable, and the commonest in more than one way.
WANTED = {
    "nat.masquerade-missing": 2,
    "filter.icc-disabled": 1,
    "mtu.mismatch": 1,
    "route.missing": 2,
    "route.wrong-device": 2,
    "sysctl.ip-forward-off": 1,
    "link.down": 5,
    "bridge.port-without-master": 2,
    "filter.forward-policy-drop": 2,
    "filter.rule-drop": 6,
    "filter.container-drop": 2,
    "port.not-listening": 1,
    "engine.container-not-running": 2,
    "remote.no-reply": 1,
    "route.blackhole": 2,
    "bridge.port-blocked": 1,
    "bridge.port-isolated": 1,
    "sysctl.rp-filter": 2,
    "filter.input-drop": 1,
    "bridge.no-address": 1,
    "addr.missing": 2,
    "neigh.stale-static": 2,
    "nat.masquerade-shadowed": 2,
    "sysctl.interface-forwarding-off": 1,
    "filter.network-isolation": 1,
    "filter.internal-network": 1,
    "nat.dnat-missing": 1,
    "tc.drop": 1,
    "mtu.veth-mismatch": 1,
    "port.listens-on-loopback": 1,
}


def lab(engine: str = "none", **more: object) -> LabState:
    fresh = LabState(
        name="x",
        engine="docker" if engine == "docker" else "none",
        phase="ready",
        builder=Process(role="builder", pid=1, started=1),
        created_at_ns=1,
        inet=NamespaceState(name="ntlab-x-inet", path="/run/netns/ntlab-x-inet", inode=2),
    )
    return msgspec.structs.replace(fresh, **more)


def answer(argv: Sequence[str], where: str) -> str:
    if argv[:3] == ["ip", "-j", "addr"]:
        return (
            '[{"ifindex": 44, "link_index": 45, "address": "02:42:ac:11:00:02", "addr_info": ['
            '{"family": "inet", "local": "172.17.0.2", "prefixlen": 16, "scope": "global"},'
            '{"family": "inet6", "local": "fd00:18::2", "prefixlen": 64, "scope": "global"}]}]'
        )
    if argv[:3] == ["ip", "-j", "link"]:
        return '[{"ifindex": 1, "ifname": "lo"}, {"ifindex": 45, "ifname": "veth7d1c0a2", "master": "docker0"}]'
    return "-P FORWARD DROP\n"


def test_names_are_unique_and_sorted() -> None:
    assert [name for name, count in Counter(each.name for each in FAULTS).items() if count > 1] == []
    assert list(FAULTS) == sorted(FAULTS, key=lambda each: (each.code, each.name))
    assert all(faults.fault(each.name) is each for each in FAULTS)


@pytest.mark.parametrize("code", sorted(WANTED))
def test_the_common_faults_can_be_made(code: str) -> None:
    assert sum(each.code == code for each in FAULTS) >= WANTED[code]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_whole(fault: Fault) -> None:
    assert CODE.fullmatch(fault.code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fault.name)
    assert fault.summary[0].islower() or fault.summary.split()[0].isupper() or fault.summary[0].isupper()
    assert not fault.summary.endswith(".")
    assert bool(fault.break_commands) == bool(fault.mend_commands)
    assert set(fault.kinds) <= {"docker", "none"}
    assert fault.kinds
    if fault.engines is not None:
        assert fault.engines[0] < fault.engines[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_commands_can_be_filled_in(fault: Fault) -> None:
    known = facts.Facts(lab(), answer)
    texts = [step.command for step in (*fault.setup, *fault.break_commands, *fault.mend_commands)]
    texts += [fault.flow.src, fault.flow.dst, *fault.flow.args]
    names = CONTAINERS if "none" in fault.kinds else DOCKER_CONTAINERS
    for text in texts:
        fields = {field.split(".")[0] for _, field, _, _ in string.Formatter().parse(text) if field is not None}
        assert fields <= names | OTHER_FACTS, text
        filled = facts.render(text, known)
        assert filled
        assert "{app" not in filled
    places = {step.where for step in (*fault.setup, *fault.break_commands, *fault.mend_commands)}
    assert places <= names | {"host", "inet"}


def test_what_docker_alone_can_do_is_for_docker() -> None:
    for each in FAULTS:
        text = " ".join(step.command for step in (*each.setup, *each.break_commands))
        if re.search(r"\bdocker (run|network|stop|pause)", text):
            assert each.kinds == ("docker",), each.name


def test_obstacles() -> None:
    isolation = faults.fault("networks-isolated")
    assert faults.obstacle(isolation, lab()) is None
    assert faults.obstacle(isolation, lab("docker", docker_version="20.10.24+dfsg1")) is None
    assert "lays out" in str(faults.obstacle(isolation, lab("docker", docker_version="28.5.2")))
    assert "--engine docker" in str(faults.obstacle(faults.fault("icc-disabled"), lab()))
    assert "nft back end" in str(faults.obstacle(faults.fault("backend-split"), lab(legacy_iptables=True)))


def test_an_unknown_fault_gets_a_hint() -> None:
    with pytest.raises(LabError, match="masquerade-deleted"):
        faults.fault("masquerade")
    with pytest.raises(LabError, match="masquerade-deleted"):
        faults.fault("nat.masquerade-missing")
    with pytest.raises(LabError, match="nettrace lab faults"):
        faults.fault("zzz")


def test_facts() -> None:
    known = facts.Facts(lab(), answer)
    text = "{app.ip} {app.cidr} {app.subnet} {app.gateway} {app.veth} {app.veth_index} {app.bridge} {rules.forward}"
    assert (
        facts.render(text, known) == "172.17.0.2 172.17.0.2/16 172.17.0.0/16 172.17.0.1 veth7d1c0a2 45 docker0 FORWARD"
    )
    assert facts.render("{{ {uplink.gateway} }}", known) == "{ 203.0.113.1 }"
    with pytest.raises(LabError, match="nothing that"):
        facts.render("{app.nonsense}", known)


def test_docker_28_rules_are_told_by_their_chain() -> None:
    rules = facts.RuleFacts(lambda argv, where: "-P FORWARD DROP\n-N DOCKER\n-N DOCKER-FORWARD\n")
    assert (rules.forward, rules.accept_out) == ("DOCKER-FORWARD", "-i docker0 -j ACCEPT")


def test_names_of_labs() -> None:
    for good in ("a", "demo", "t123-docker-28", "a" * 24):
        assert wiring.check_name(good) == good
        assert wiring.lab_of(wiring.namespace_name(good, "host")) == good
    for bad in ("", "-a", "a-", "A", "a" * 25, "../x", "a b", "ä"):
        with pytest.raises(LabError, match="cannot name a lab"):
            wiring.check_name(bad)
    assert wiring.lab_of("somebody-else") is None
    assert wiring.lab_of("ntlab-") is None
    assert len(f"/run/nettrace/lab/{'a' * 24}/exec/libnetwork/123456789012.sock") < 108
