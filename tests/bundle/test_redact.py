"""A redacted bundle tells no names and no addresses of the host, and comes to the same answer."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.bundle.archive import read_bundle, write_bundle
from nettrace.bundle.format import AFTER, BEFORE, CAPTURE, RUN, VERDICT_JSON, Run
from nettrace.cli import main
from nettrace.model.base import to_json
from nettrace.model.intent import Container
from nettrace.model.snapshot import Snapshot
from nettrace.model.verdict import Verdict
from nettrace.redacting import redact_bundle, what_was_said
from nettrace.replay import diagnose_again, recorded
from nettrace.wire.link import ETHERNET
from nettrace.wire.rewrite import rewrite_frame

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
SLUGS = sorted(path.name for path in CASES.iterdir())
KEYS = [bytes([number]) * 32 for number in range(3)]


@pytest.mark.parametrize(
    ("slug", "key"), [*((slug, KEYS[0]) for slug in SLUGS), *(("healthy-peer", key) for key in KEYS[1:])]
)
def test_every_case_comes_to_the_same_answer(slug: str, key: bytes) -> None:
    original = read_bundle(CASES / slug)
    told, _trace = diagnose_again(recorded(original))
    bundle, _table = redact_bundle(original, key)
    again, _trace = diagnose_again(recorded(bundle))
    assert what_was_said(again) == what_was_said(told)
    assert bundle.decode(VERDICT_JSON, Verdict) == again
    assert bundle.manifest.redacted


@pytest.mark.parametrize("slug", ["rule-drop", "masquerade-missing", "icc-disabled"])
def test_nothing_of_the_host_is_left(slug: str) -> None:
    original = read_bundle(CASES / slug)
    bundle, table = redact_bundle(original, KEYS[0])
    before = original.decode(BEFORE, Snapshot)
    macs = {link.mac for ns in before.namespaces for link in getattr(ns.links, "rows", ()) if link.mac}
    names = {each.name for each in before.intent.containers} | {before.host.hostname}
    assert names - {None} <= set(table.names)
    # By chance an address may stand for itself, or for another one that was there.
    gone = set(table.addresses) - set(table.addresses.values())
    assert len(gone) > 10
    shown = re.compile(r"(?<![\w.:])(?:" + "|".join(map(re.escape, gone)) + r")(?![\w:]|\.\d)")
    for name, data in bundle.members.items():
        text = data.decode("utf-8", "replace")
        assert not shown.search(text), name
        for mac in macs - {"00:00:00:00:00:00"}:
            assert mac not in text, name
            assert name != CAPTURE or bytes.fromhex(mac.replace(":", "")) not in data
        for old in gone if name == CAPTURE else ():
            if "." in old:
                assert ip_address(old).packed not in data


@pytest.mark.parametrize(
    "name", ["eth0", "nft", "tcp", "filter", "links", "DROP", "docker0", "running", "a", "10.0.0.1"]
)
def test_a_container_may_be_called_anything(name: str) -> None:
    """What it is called may be a word that means something elsewhere: only its name is replaced."""
    original = read_bundle(CASES / "rule-drop")
    snapshot = original.decode(BEFORE, Snapshot)
    run = original.decode(RUN, Run)

    def named(container: Container) -> Container:
        return replace(container, name=name) if container.name == "app" else container

    def with_name(snapshot: Snapshot) -> bytes:
        intent = replace(snapshot.intent, containers=tuple(map(named, snapshot.intent.containers)))
        spaces = tuple(replace(ns, name=name) if ns.name == "app" else ns for ns in snapshot.namespaces)
        return to_json(replace(snapshot, intent=intent, namespaces=spaces))

    flow = replace(run.flow, src=replace(run.flow.src, name=name))
    members = {
        **{name: data for name, data in original.members.items() if name not in (RUN, BEFORE, AFTER)},
        BEFORE: with_name(snapshot),
        AFTER: with_name(original.decode(AFTER, Snapshot)),
        RUN: to_json(replace(run, flow=flow, observation=None)),
    }
    bundle, table = redact_bundle(replace(original, members=members), KEYS[1])
    assert table.names[name].startswith("container-")
    assert bundle.decode(RUN, Run).flow.src.name == table.names[name]
    verdict, _trace = diagnose_again(recorded(bundle))
    assert [each.code for each in verdict.findings] == ["filter.rule-drop"]


def test_every_header_of_a_frame_is_rewritten() -> None:
    from scapy.layers.inet import ICMP, IP, UDP
    from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
    from scapy.layers.l2 import ARP, Ether
    from scapy.layers.vxlan import VXLAN

    others = {"10.0.0.1": "10.9.9.1", "10.0.0.2": "10.9.9.2", "fe80::1": "fe80::9"}

    def address(old: object) -> object:
        return ip_address(others.get(str(old), str(old)))

    def mac(old: str) -> str:
        return old.replace("02:00:00:00:00", "02:99:99:99:99")

    ether: Any = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    inner = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP()
    one = IP(src="10.0.0.1", dst="10.0.0.2")
    own = ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:01")
    frames = [
        ether / one / UDP(sport=1, dport=2) / b"payload",
        ether / ARP(hwsrc="02:00:00:00:00:01", psrc="10.0.0.1", pdst="10.0.0.2"),
        ether / IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=3, code=1) / bytes(one / UDP()),
        ether / one / UDP(sport=9, dport=4789) / VXLAN(vni=5) / inner,
        ether / IPv6(src="fe80::1", dst="fe80::2") / ICMPv6ND_NS(tgt="fe80::1") / own,
    ]
    for frame in frames:
        data = bytes(frame)
        done = rewrite_frame(data, arp_type=ETHERNET, address=address, mac=mac)  # type: ignore[arg-type]
        assert len(done) == len(data)
        assert b"\x02\x00\x00\x00\x00" not in done
        assert bytes((10, 0, 0)) not in done
        assert ip_address("fe80::1").packed not in done
        again = Ether(done)
        checked = again.copy()
        if IP in checked:
            del checked[IP].chksum
            if UDP in checked:
                del checked[UDP].chksum
            assert bytes(checked) == done


def test_the_command_writes_what_replays_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "web.tar.gz"
    write_bundle(file, read_bundle(CASES / "rule-drop"))
    table = tmp_path / "map.json"
    assert main(["bundle", "redact", str(file), "--map", str(table)]) == 0
    assert "names and addresses replaced" in capsys.readouterr().out
    made = tmp_path / "web.redacted.tar.gz"
    assert [path.stat().st_mode & 0o777 for path in (made, table)] == [0o600, 0o600]
    assert json.loads(table.read_text())["schema"] == "nettrace.redaction/1"
    assert main(["bundle", "verify", str(made)]) == 0
    assert main(["replay", str(made)]) == 1
    out = capsys.readouterr().out
    assert "filter.rule-drop" in out
    assert "container-" in out
    assert main(["bundle", "redact", str(file)]) == 4  # it is there
    assert main(["bundle", "redact", str(made), "-o", str(tmp_path / "twice.tar.gz")]) == 4
    assert "redacted already" in capsys.readouterr().err
