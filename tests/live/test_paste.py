"""What the kernel's own tools print, imported, against what the collector reads of the same host at the same time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.bundle.archive import read_bundle
from nettrace.bundle.format import BEFORE
from nettrace.cli import main
from nettrace.lab import Lab
from nettrace.lab.faults import fault
from nettrace.model.base import Present, Values
from nettrace.model.snapshot import LinkStats, Namespace, Snapshot
from nettrace.netfilter import load_ruleset
from nettrace.netfilter.ruleset import Base

from .conftest import _lent, engines
from .warm import Asker

pytestmark = pytest.mark.live

#: What is asked in each namespace: the file, and the command that fills it.
TEXTS = {
    "ip-addr": "ip -d -s addr",
    "ip-route": "ip route show table all",
    "ip-rule": "ip rule",
    "ip-6-rule": "ip -6 rule",
    "ip-neigh": "ip neigh",
    "bridge-fdb": "bridge fdb",
    "iptables-save": "iptables-save -c",
    "ip6tables-save": "ip6tables-save -c",
    "nft-list-ruleset": "nft list ruleset",
    "ss-lntu": "ss -lntue",
    "sysctl-a": "sysctl -a -r ^net",
    "conntrack-L": "conntrack -L",
}
JSON = {
    "iptables-save": "iptables-save -c",
    "ip6tables-save": "ip6tables-save -c",
    "ip-addr": "ip -j -d -s addr",
    "ip-route": "ip -j route show table all",
    "ip-6-route": "ip -j -6 route show table all",
    "ip-rule": "ip -j rule",
    "ip-6-rule": "ip -j -6 rule",
    "ip-neigh": "ip -j neigh",
    "bridge-fdb": "bridge -j fdb",
    "nft-list-ruleset": "nft -j list ruleset",
}
ENGINE = {
    "docker-inspect": "docker inspect $(docker ps -aq)",
    "docker-network-inspect": "docker network inspect $(docker network ls -q)",
    "docker-info": "docker info",
    "docker-version": "docker version",
}
CONTAINERS = ("app", "web")
SECTIONS = ("links", "addresses", "routes", "rules", "neighbours", "fdb", "sockets")

#: What texts cannot tell, or what goes on while one reading follows the other.
#: Links: packet counters move; traffic control is another tool's; `ip` prints names for namespaces of /run/netns where
#: the kernel gives ids, and which namespace an id stands for it does not say.
#: Neighbours and forwarding entries age. Older clients do not print which firewall an engine of 28 uses.
MOVING = ("neighbours", "fdb")


@pytest.fixture(scope="module")
def askers() -> Iterator[dict[str, Asker]]:
    made: dict[str, Asker] = {}
    yield made
    for each in made.values():
        each.close()


def asker_of(askers: dict[str, Asker], lab: Lab) -> Asker:
    if lab.name not in askers:
        askers[lab.name] = Asker(lab)
    return askers[lab.name]


def take(lab: Lab, folder: Path, commands: dict[str, str] = TEXTS) -> Path:
    """Run the commands on a lab's host and in its containers, each into a file of its own, as a person would."""
    script = []
    for name in ("host", *CONTAINERS):
        (folder / name).mkdir(parents=True)
        enter = "" if name == "host" else f"nsenter -t $pid_{name} -n "
        script += [] if name == "host" else [f"pid_{name}=$(docker inspect -f '{{{{.State.Pid}}}}' {name})"]
        script += [f"{enter}{command} > {folder / name / file} 2>/dev/null" for file, command in commands.items()]
    (folder / "engine").mkdir()
    script += [f"{command} > {folder / 'engine' / file} 2>/dev/null" for file, command in ENGINE.items()]
    done = subprocess.run(lab.command(["sh", "-c", "; ".join(script)]), env=lab.environment(), check=False, timeout=60)
    assert done.returncode == 0
    return folder


def imported(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, dict[str, Any]]:
    """Import a folder; return the bundle and what was said of it."""
    bundle = folder.with_suffix(".tar.gz")
    assert main(["import", str(folder), "-o", str(bundle), "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return bundle, said


def snapshot_in(bundle: Path) -> Snapshot:
    return read_bundle(bundle).decode(BEFORE, Snapshot)


def named(snapshot: Snapshot) -> dict[int, str]:
    return {each.id: each.name for each in snapshot.namespaces}


def comparable(namespace: Namespace, section: str, names: dict[int, str]) -> list[str]:
    """Return the rows of a section as text, without what a text does not tell."""
    table = getattr(namespace, section)
    assert isinstance(table, Present), (namespace.name, section, table)
    found = []
    for row in table.rows:
        match section:
            case "links":
                peer = names.get(row.peer_netns or 0)
                peer = peer if peer in ("host", *CONTAINERS) else None
                row = replace(row, stats=LinkStats(), tc=(), peer_nsid=None, peer_netns=peer)
            case "neighbours":
                row = replace(row, state="")
        found.append(repr(row))
    return sorted(found)


def base_of(base: Base | None) -> str:
    """Return what a base chain hangs on; in which order tables were made only handles tell, which texts leave out."""
    return "" if base is None else f"{base.kind} {base.hook} {base.priority} {base.policy}"


def rules_of(namespace: Namespace) -> list[tuple[str, ...]]:
    """Return every rule and policy that the model makes of a namespace's listings.

    Tables of the legacy back end that were only ever touched hold nothing, and nobody pastes them.
    """
    table = namespace.netfilter
    assert isinstance(table, Present), (namespace.name, table)
    ruleset = load_ruleset(table.rows)
    return sorted(
        (
            each.backend,
            each.family,
            each.name,
            chain.name,
            base_of(chain.base),
            *(rule.ref.text for rule in chain.rules),
        )
        for each in ruleset.tables
        if each.backend != "legacy" or any(chain.rules for chain in each.chains.values())
        for chain in each.chains.values()
    )


def differences(live: Snapshot, pasted: Snapshot, sections: Sequence[str] = SECTIONS) -> list[str]:
    """Return in what two snapshots of one host differ, but for what a text does not tell."""
    found = []
    names = named(live), named(pasted)
    spaces = {each.name: each for each in live.namespaces}, {each.name: each for each in pasted.namespaces}
    for name in ("host", *CONTAINERS):
        one, other = spaces[0][name], spaces[1][name]
        for section in sections:
            a, b = comparable(one, section, names[0]), comparable(other, section, names[1])
            if section in MOVING:
                found += [f"{name} {section} {each}" for each in set(a) ^ set(b) if "permanent" in each.lower()]
            elif a != b:
                found += [f"{name} {section} live only {each}" for each in sorted(set(a) - set(b))]
                found += [f"{name} {section} pasted only {each}" for each in sorted(set(b) - set(a))]
        chains = set(rules_of(one)), set(rules_of(other))
        found += [f"{name} netfilter {each}" for each in sorted(chains[0] ^ chains[1])]
    return found


def _sysctl_differences(name: str, live: Snapshot, pasted: Snapshot) -> list[str]:
    one, other = (next(each for each in s.namespaces if each.name == name) for s in (live, pasted))
    assert isinstance(one.sysctls, Values)
    assert isinstance(other.sysctls, Values)
    told = other.sysctls.values
    return [
        f"{name} {key}: {value!r} {told.get(key)!r}"
        for key, value in one.sysctls.values.items()
        if told.get(key) != value and not key.endswith("nf_conntrack_count")
    ]


def _intent_differences(live: Snapshot, pasted: Snapshot) -> list[str]:
    found = []
    names = named(live), named(pasted)
    engines = [[(each.name, each.version, each.swarm) for each in s.intent.engines] for s in (live, pasted)]
    if engines[0] != engines[1]:
        found.append(f"engines {engines}")
    if (live.host.kernel, live.host.engine) != (pasted.host.kernel, pasted.host.engine):
        found.append(f"host {live.host} {pasted.host}")
    networks = [sorted(map(repr, s.intent.networks)) for s in (live, pasted)]
    found += [f"network {each}" for each in set(networks[0]) ^ set(networks[1])]
    for name in CONTAINERS:
        both = [next(each for each in s.intent.containers if each.name == name) for s in (live, pasted)]
        one, other = (
            replace(
                each,
                netns=None,
                endpoints=tuple(sorted(each.endpoints, key=repr)),
                ports=tuple(sorted(each.ports, key=repr)),
            )
            for each in both
        )
        if one != other or names[0][both[0].netns or 0] != names[1][both[1].netns or 0]:
            found.append(f"container {both}")
    return found


#: Something in every table that a healthy lab leaves empty; and its undoing.
ADDED = (
    "sysctl -w net.ipv4.conf.docker0.rp_filter=2",
    "ip rule add fwmark 0x10/0xf0 lookup 100 pref 1000",
    "ip route add 198.51.100.0/24 dev docker0 table 100 metric 7",
    "ip route add blackhole 198.18.0.0/15",
    "ip neigh add 172.17.0.77 lladdr 02:00:00:00:00:77 dev docker0 nud permanent",
    "bridge fdb add 02:00:00:00:00:77 dev $(ls -1 /proc/sys/net/ipv4/conf | grep -m1 ^veth) master static",
)
TAKEN_BACK = (
    "sysctl -w net.ipv4.conf.docker0.rp_filter=0",
    "ip rule del pref 1000",
    "ip route flush table 100",
    "ip route del blackhole 198.18.0.0/15",
    "ip neigh del 172.17.0.77 dev docker0",
    "bridge fdb del 02:00:00:00:00:77 dev $(ls -1 /proc/sys/net/ipv4/conf | grep -m1 ^veth) master",
)


def test_texts_give_the_rows_that_the_collector_reads(
    docker_lab: Lab, askers: dict[str, Asker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = docker_lab
    lab.exec(["sh", "-c", "; ".join(ADDED)])
    try:
        text = take(lab, tmp_path / "text")
        bundle = tmp_path / "live.tar.gz"
        said = asker_of(askers, lab).ask(["path", *CONTAINERS, "--predict", "--bundle", str(bundle)])
        assert said.code == 0, said.err
        document = take(lab, tmp_path / "json", JSON)
    finally:
        lab.exec(["sh", "-c", "; ".join(TAKEN_BACK)])
    live = snapshot_in(bundle)
    written, of_text = imported(text, capsys)
    pasted = snapshot_in(written)
    assert of_text["not_understood"] == []
    assert "\n".join(differences(live, pasted)) == ""
    assert [_sysctl_differences(name, live, pasted) for name in ("host", *CONTAINERS)] == [[], [], []]
    assert _intent_differences(live, pasted) == []
    written, of_document = imported(document, capsys)
    assert of_document["not_understood"] == []
    sections = [each for each in SECTIONS if each != "sockets"]
    assert "\n".join(differences(live, snapshot_in(written), sections)) == ""


#: Faults of every kind of table, some on each engine.
FAULTS = {
    "docker": ("masquerade-deleted", "user-chain-drop", "policy-rule", "container-default-deleted", "ip-forward-off"),
    "docker-28": ("accept-deleted", "nft-table-drop", "host-default-deleted", "veth-detached", "source-output-drop"),
}
HEALTHY = (("app", "8.8.8.8"), ("app", "web", "--proto", "tcp", "--port", "80"))


def codes(said: str) -> tuple[str, list[str]]:
    verdict = json.loads(said)
    return verdict["outcome"], [each["code"] for each in verdict["findings"]][:1]


def asked_of_both(
    asker: Asker, lab: Lab, folder: Path, question: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> tuple[tuple[str, list[str]], tuple[str, list[str]]]:
    """Ask the model on the lab and on the import of what its tools print; return outcome and first code of both."""
    said = asker.ask(["path", *question, "--predict", "--json"])
    assert said.out, said.err
    bundle, _ = imported(take(lab, folder), capsys)
    assert main(["replay", str(bundle), *question, "--json"]) == said.code
    return codes(said.out), codes(capsys.readouterr().out)


@pytest.mark.parametrize("engine", engines())
def test_an_import_answers_as_the_host_does(
    engine: str, labs: dict[str, Lab], askers: dict[str, Asker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lab in _lent(labs, engine):
        asker = asker_of(askers, lab)
        for number, question in enumerate(HEALTHY):
            live, pasted = asked_of_both(asker, lab, tmp_path / f"healthy{number}", question, capsys)
            assert pasted == live == ("delivered", [])
        for name in FAULTS.get(engine, ()):
            lab.break_fault(name)
            live, pasted = asked_of_both(asker, lab, tmp_path / name, tuple(lab.flow_of(name))[1:], capsys)
            lab.mend(name)
            assert pasted == live, name
            assert live[1] == [fault(name).code], name
