"""Snapshots that no kernel can hold: an answer or a clear error, in bounded time, never a traceback."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.bundle import read_bundle, write_bundle
from nettrace.cli import main
from nettrace.errors import InputError
from nettrace.replay import bounded
from tests.fuzz.bundles import read

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
FOUND = sorted(Path(__file__).with_name("cases").glob("*.*"))

Snapshot = dict[str, Any]
MOST_S = 30.0


def links(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [link for namespace in snapshot["namespaces"] for link in namespace["links"]["rows"]]


def routes(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [route for namespace in snapshot["namespaces"] for route in namespace["routes"]["rows"]]


def every_link_its_own_master(snapshot: Snapshot) -> None:
    for link in links(snapshot):
        link["master"] = link["ifindex"]


def every_link_its_own_peer(snapshot: Snapshot) -> None:
    for namespace in snapshot["namespaces"]:
        for link in namespace["links"]["rows"]:
            link |= {"peer_ifindex": link["ifindex"], "peer_netns": namespace["id"], "kind": "veth"}


def bridges_that_are_ports_of_each_other(snapshot: Snapshot) -> None:
    for namespace in snapshot["namespaces"]:
        rows = namespace["links"]["rows"]
        for at, link in enumerate(rows):
            link |= {"kind": "bridge", "bridge": {}, "port": {}, "master": rows[at - 1]["ifindex"]}


def tunnels_through_themselves(snapshot: Snapshot) -> None:
    for link in links(snapshot):
        link |= {"kind": "vxlan", "vxlan": {"vni": 1, "underlay_ifindex": link["ifindex"], "local": "10.0.0.1"}}


def macvlans_on_themselves(snapshot: Snapshot) -> None:
    for link in links(snapshot):
        link |= {"kind": "macvlan", "macvlan_mode": "bridge", "peer_ifindex": link["ifindex"], "peer_netns": None}


def routes_to_nowhere(snapshot: Snapshot) -> None:
    for route in routes(snapshot):
        route["nexthops"] = [{"ifindex": 2**31 - 1}, {"ifindex": -5, "gateway": "::1"}, {}]


def routes_via_themselves(snapshot: Snapshot) -> None:
    for route in routes(snapshot):
        for hop in route.get("nexthops", ()):
            hop["gateway"] = "172.17.0.2"


def rules_that_lead_back(snapshot: Snapshot) -> None:
    for namespace in snapshot["namespaces"]:
        namespace["rules"]["rows"] = [
            {"family": 4, "priority": 1, "action": "nop"},
            {"family": 4, "priority": 2, "action": "goto", "goto": 1},
            {"family": 4, "priority": 3, "action": "goto", "goto": 3},
        ]


def chains_that_jump_in_circles(snapshot: Snapshot) -> None:
    for namespace in snapshot["namespaces"]:
        text = "*filter\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n"
        text += "-A FORWARD -j A\n-A OUTPUT -j A\n-A A -j B\n-A A -j B\n-A B -j A\n-A B -j A\nCOMMIT\n"
        dump = {"format": "iptables-save", "backend": "nft", "family": "ip", "text": text}
        namespace["netfilter"] = {"is": "present", "rows": [dump]}


def listings_of_nothing(snapshot: Snapshot) -> None:
    for namespace in snapshot["namespaces"]:
        for dump in namespace["netfilter"].get("rows", ()):
            dump["text"] = "\x00\udbff" if dump["format"] != "nft-json" else '{"nftables": [[[]]]}'


def no_namespace_at_all(snapshot: Snapshot) -> None:
    snapshot["namespaces"] = []


def every_namespace_twice(snapshot: Snapshot) -> None:
    snapshot["namespaces"] += json.loads(json.dumps(snapshot["namespaces"]))


def the_host_is_elsewhere(snapshot: Snapshot) -> None:
    snapshot["host_netns"] = -1


def nothing_was_read(snapshot: Snapshot) -> None:
    for namespace in snapshot["namespaces"]:
        for section in list(namespace):
            if isinstance(namespace[section], dict) and "is" in namespace[section]:
                namespace[section] = {"is": "missing", "reason": "\x1b[31mnot read"}


def containers_that_join_each_other(snapshot: Snapshot) -> None:
    for each in snapshot["intent"]["containers"]:
        each |= {"joined": each["id"], "netns": None, "endpoints": []}


def numbers_that_are_too_large(snapshot: Snapshot) -> None:
    for link in links(snapshot):
        link |= {"ifindex": 2**64 - 1, "mtu": -1, "arp_type": 2**40}


def sysctls_that_are_no_numbers(snapshot: Snapshot) -> None:
    for namespace in snapshot["namespaces"]:
        values = namespace["sysctls"]["values"]
        namespace["sysctls"]["values"] = dict.fromkeys(values, "\x1b[31mfour")


def many_rows(snapshot: Snapshot) -> None:
    networks = [f"10.{number >> 8 & 255}.{number & 255}.0/24" for number in range(10_000)]
    for namespace in snapshot["namespaces"][:1]:
        rows = [{"table": 254, "dst": network, "nexthops": [{"ifindex": 2}]} for network in networks]
        namespace["routes"]["rows"] += rows
    template = json.dumps(snapshot["intent"]["containers"][0])
    more = [json.loads(template) | {"id": f"{number:064x}", "name": f"c{number}"} for number in range(5_000)]
    snapshot["intent"]["containers"] += more


EVIL: list[Callable[[Snapshot], None]] = [
    every_link_its_own_master,
    every_link_its_own_peer,
    bridges_that_are_ports_of_each_other,
    tunnels_through_themselves,
    macvlans_on_themselves,
    routes_to_nowhere,
    routes_via_themselves,
    rules_that_lead_back,
    chains_that_jump_in_circles,
    listings_of_nothing,
    no_namespace_at_all,
    every_namespace_twice,
    the_host_is_elsewhere,
    nothing_was_read,
    containers_that_join_each_other,
    numbers_that_are_too_large,
    sysctls_that_are_no_numbers,
]
CHANGES = [(slug, change) for slug in ("healthy-peer", "masquerade-missing") for change in EVIL]


@pytest.mark.parametrize(
    ("slug", "change"),
    [*CHANGES, ("healthy-peer", many_rows)],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_a_snapshot_that_cannot_be_is_answered_or_refused(
    slug: str, change: Callable[[Snapshot], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = read_bundle(CASES / slug)
    members = dict(bundle.members)
    for name in ("before.json", "after.json"):
        snapshot = json.loads(members[name])
        change(snapshot)
        members[name] = json.dumps(snapshot).encode()
    path = tmp_path / "evil.tar.gz"
    write_bundle(path, replace(bundle, members=members))
    for question in ((), ("app", "8.8.8.8"), ("host", "app")):
        began = time.process_time()
        code = main(["replay", str(path), *question])
        assert time.process_time() - began < MOST_S
        out, err = capsys.readouterr()
        assert code in (0, 1, 3, 4)
        assert bool(out) != bool(err)
        assert "defect" not in err
        assert "contradicts itself" not in err  # the last resort, which nothing known needs
        assert (out + err).replace("\n", "").isprintable()


def work_without_end() -> None:
    while True:
        pass


def test_work_without_an_end_is_ended() -> None:
    began = time.process_time()
    with pytest.raises(InputError, match="computing"), bounded(Path("endless.tar.gz"), cpu_s=0.2):
        work_without_end()
    assert time.process_time() - began < 5


def test_a_contradiction_becomes_an_error_with_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETTRACE_DEBUG", raising=False)
    with pytest.raises(InputError, match=r"odd\.tar\.gz.*KeyError: 7"), bounded(Path("odd.tar.gz")):
        raise KeyError(7)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_fuzzing_found_stays_mended(path: Path) -> None:
    read(path.name.partition("-")[0], path.read_bytes())


def test_there_are_findings() -> None:
    assert FOUND
