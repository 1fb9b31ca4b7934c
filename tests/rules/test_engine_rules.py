"""Rules of the engine that are gone: named as such, and put back where they stood, on rulesets that engines wrote."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import permutations
from pathlib import Path

import pytest
from msgspec.structs import replace

from nettrace.layout import chains, docker_rules
from nettrace.model.base import Present, from_json
from nettrace.model.flow import Flow, Proto
from nettrace.model.intent import Engine, Intent, Network, Subnet
from nettrace.model.snapshot import DumpFormat, Snapshot
from nettrace.model.verdict import Verified
from nettrace.replay import Run
from nettrace.rules.change import delete_text, insert_rule_at, together
from nettrace.rules.engine_rules import absent_of_chain, absent_rules, lost, put_back
from tests.rules.build import case_of, diagnose_case

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
#: Recorded with 20.10 and with 28.5, both healthy.
OLD, NEW = "healthy-out", "healthy-peer"


def broken(slug: str, *edits: tuple[str, str]) -> Snapshot:
    """Return a recorded host whose iptables lost the lines that (table, beginning) tell; "" is every rule."""
    snapshot = from_json((CASES / slug / "before.json").read_bytes(), Snapshot)

    def edit(text: str) -> str:
        table, kept = "", []
        for line in text.splitlines():
            table = line[1:] if line.startswith("*") else table
            rule = line[line.find("-A ") :] if "-A " in line else None
            gone = rule is not None and any(table == where and rule.startswith(f"-A {what}") for where, what in edits)
            kept += [] if gone else [line]
        return "\n".join(kept) + "\n"

    spaces = []
    for space in snapshot.namespaces:
        if space.id == snapshot.host_netns and isinstance(space.netfilter, Present):
            rows = tuple(
                replace(dump, text=edit(dump.text))
                if (dump.format, dump.family) == (DumpFormat.IPTABLES_SAVE, "ip")
                else dump
                for dump in space.netfilter.rows
            )
            space = replace(space, netfilter=Present(rows=rows))
        spaces.append(space)
    return replace(snapshot, namespaces=tuple(spaces))


OUTSIDE = from_json((CASES / OLD / "run.json").read_bytes(), Run).flow


def flow_to_outside(slug: str) -> Flow:
    """Return the ping to 8.8.8.8 that was recorded, from the same container of another recorded host."""
    source = from_json((CASES / slug / "run.json").read_bytes(), Run).flow.src
    return replace(OUTSIDE, src=source)


@pytest.mark.parametrize(
    ("slug", "edits", "code", "commands"),
    [
        (
            OLD,
            [("filter", "FORWARD -i docker0 ! -o docker0")],
            "filter.forward-policy-drop",
            ["iptables -I FORWARD 13 -i docker0 ! -o docker0 -j ACCEPT"],
        ),
        (
            OLD,
            [("filter", "FORWARD -o docker0 -m conntrack")],
            "filter.forward-policy-drop",
            ["-o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
        ),
        (OLD, [("filter", "")], "filter.docker-rules-missing", ["-i docker0 ! -o docker0 -j ACCEPT"]),
        (
            OLD,
            [("filter", ""), ("nat", "")],
            "filter.docker-rules-missing",
            ["-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"],
        ),
        (
            NEW,
            [("filter", "DOCKER-FORWARD -i docker0")],
            "filter.forward-policy-drop",
            ["iptables -A DOCKER-FORWARD -i docker0 -j ACCEPT"],
        ),
        (
            NEW,
            [("filter", "FORWARD -j DOCKER-FORWARD")],
            "filter.docker-chains-bypassed",
            ["iptables -A FORWARD -j DOCKER-FORWARD"],
        ),
        (
            NEW,
            [("filter", "DOCKER-FORWARD -j DOCKER-CT")],
            "filter.docker-chains-bypassed",
            ["iptables -I DOCKER-FORWARD -j DOCKER-CT"],
        ),
        (NEW, [("filter", "DOCKER-CT ")], "filter.docker-rules-missing", ["iptables -A DOCKER-CT -o docker0"]),
        (NEW, [("filter", "DOCKER-FORWARD ")], "filter.docker-rules-missing", ["-A DOCKER-FORWARD -j DOCKER-CT"]),
        (NEW, [("filter", ""), ("nat", "")], "filter.docker-rules-missing", ["MASQUERADE", "DOCKER-CT"]),
    ],
)
def test_what_is_gone_is_put_back_where_it_stood(
    slug: str, edits: list[tuple[str, str]], code: str, commands: list[str]
) -> None:
    verdict = diagnose_case(broken(slug, *edits), flow_to_outside(slug))
    first = verdict.findings[0]
    assert (first.code, first.remedy.verified) == (code, Verified.YES)
    for command in commands:
        assert command in "\n".join(first.remedy.commands)
    engine = [each for each in first.evidence if each.kind == "intent" and "it is not there" in each.text]
    assert len(engine) == len([each for each in first.remedy.commands if " -N " not in each])


def test_what_keeps_networks_apart_is_not_what_a_flow_needs() -> None:
    gone = [
        ("filter", "FORWARD -j DOCKER-ISOLATION"),
        ("filter", "DOCKER-ISOLATION"),
        ("filter", "FORWARD -j DOCKER-USER"),
    ]
    assert diagnose_case(broken(OLD, *gone), flow_to_outside(OLD)).findings == ()


def test_without_a_known_layout_the_accepts_of_the_bridge_are_told() -> None:
    snapshot = broken(OLD, ("filter", "FORWARD -i docker0 ! -o docker0"))
    (engine,) = snapshot.intent.engines
    for version in ("28.0.0", "unknown"):
        other = replace(snapshot, intent=replace(snapshot.intent, engines=(replace(engine, version=version),)))
        first = diagnose_case(other, flow_to_outside(OLD)).findings[0]
        assert first.code == "filter.forward-policy-drop"
        assert first.remedy.commands[0] == "iptables -A FORWARD -i docker0 -j ACCEPT"


def test_an_accept_behind_the_engines_own_drop_is_moved_before_it() -> None:
    """As a script does that deletes a rule and appends it again."""
    snapshot = from_json((CASES / NEW / "before.json").read_bytes(), Snapshot)
    published = next(each for each in snapshot.intent.containers if each.ports)
    (endpoint,) = published.endpoints
    assert endpoint.ipv4 is not None
    accept = f"-A DOCKER -d {endpoint.ipv4.ip}/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT"
    where = (snapshot.host_netns, "nft", "ip")
    moved = together(delete_text(*where, "filter", accept), insert_rule_at(*where, "filter", accept, None))(snapshot)
    asks = replace(flow_to_outside(NEW), proto=Proto.TCP, dport=80)

    (late,) = absent_rules(case_of(moved, asks), *where, ("filter",))
    assert (late.rule.text, late.position, late.late) == (accept, 1, True)
    assert lost(case_of(moved, asks), *where, (late,)) == "filter.docker-chains-bypassed"
    mend, (evidence,) = put_back(case_of(moved, asks), *where, (late,), enter=lambda _netns: "")
    rule = accept.removeprefix("-A DOCKER ")
    assert mend.commands == (f"iptables -D DOCKER {rule}", f"iptables -I DOCKER {rule}")
    assert "behind a rule that drops" in evidence.text
    assert mend.change is not None
    assert absent_rules(case_of(mend.change(moved), asks), *where, ("filter",)) == ()
    # A ping asks for no port.
    assert absent_rules(case_of(moved, flow_to_outside(NEW)), *where, ("filter",)) == ()


def three_networks(version: str) -> tuple[Intent, Engine]:
    """Return an engine with a plain network, a routed one and one without icc."""
    networks = tuple(
        Network(
            id=name,
            name=name,
            driver="bridge",
            engine="docker",
            bridge=f"br-{name}",
            subnets=(Subnet(subnet=ip_network(f"10.{index}.0.0/24")),),
            icc=name != "quiet",
            gateway_mode_ipv4="routed" if name == "routed" else "nat",
        )
        for index, name in enumerate(("plain", "routed", "quiet"))
    )
    return Intent(networks=networks), Engine(name="docker", version=version, endpoint="unix:///docker.sock")


@pytest.mark.parametrize("version", ["20.10.24", "27.5.1", "28.5.2", "29.0.0"])
def test_a_rule_goes_back_to_its_own_side_in_whatever_order_networks_are_listed(version: str) -> None:
    """An engine writes its networks in the order of their making and lists them in any."""
    intent, engine = three_networks(version)
    written = docker_rules(intent, engine, 4, proxy=True)
    assert written is not None
    checked = 0
    for order in permutations(intent.networks):
        listed = docker_rules(replace(intent, networks=order), engine, 4, proxy=True)
        assert listed is not None
        for key, rules in chains(listed).items():
            stood = chains(written)[key]
            for gone in rules:
                if gone.guards:
                    continue
                left = tuple(each.text for each in stood if each.text != gone.text)
                (absent,) = absent_of_chain(left, rules, [not each.guards for each in rules])
                at = len(left) if absent.position is None else absent.position - 1
                for other in stood:
                    if other.text == gone.text or other.network not in (gone.network, None):
                        continue
                    behind = [each.text for each in stood].index(other.text) < [each.text for each in stood].index(
                        gone.text
                    )
                    assert (left.index(other.text) < at) == behind, (gone.text, other.text, left)
                    checked += 1
    assert checked > 50
