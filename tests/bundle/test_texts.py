"""Raw texts: what an engine says is kept by an allow list, and a tool that hangs or floods is cut off."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from nettrace.bundle import read_bundle
from nettrace.bundle.format import CAPTURE, VERDICT_JSON, Cut, is_member_name
from nettrace.bundling import bundle_of_host, capture_of, default_name
from nettrace.collect.engines.texts import engine_texts, kept, network
from nettrace.collect.texts import MAX_BYTES, from_snapshot, run_tools, start_tool
from nettrace.errors import EngineError, NotFound
from nettrace.model.base import from_json
from nettrace.model.intent import Intent, Network
from nettrace.model.observe import Way
from nettrace.model.snapshot import Gap, Host, Snapshot
from nettrace.model.texts import RawText
from nettrace.model.verdict import Verdict
from nettrace.replay import read_case
from nettrace.wire.pcapng import read_pcapng

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
SECRET = "hunter2"

NETWORK: dict[str, Any] = {
    "Name": "net1",
    "Id": "1f" * 32,
    "Driver": "bridge",
    "IPAM": {"Driver": "default", "Options": {"token": SECRET}, "Config": [{"Subnet": "10.0.0.0/24", "Extra": SECRET}]},
    "Containers": {"ab": {"Name": "web", "IPv4Address": "10.0.0.2/24", "Env": [SECRET]}, "odd": SECRET},
    "Options": {"com.docker.network.bridge.name": "br1", "vendor.password": SECRET},
    "Labels": {"secret": SECRET},
    "Unheard": {"of": SECRET},
}
INFO: dict[str, Any] = {
    "ServerVersion": "28.5.2",
    "Labels": [f"key={SECRET}"],
    "HttpProxy": f"http://user:{SECRET}@proxy",
    "RegistryConfig": {"Mirrors": [SECRET]},
    "Plugins": {"Network": ["bridge"], "Log": [SECRET], "Volume": [{"x": SECRET}]},
    "Swarm": {"LocalNodeState": "active", "Cluster": {"JoinTokens": SECRET}},
    "SecurityOptions": ["name=seccomp", {"nested": SECRET}],
    "Warnings": {"now": {"a": SECRET}},
    "FirewallBackend": {"Driver": "iptables", "Info": [["a", SECRET]]},
}


def test_what_is_not_named_is_not_kept() -> None:
    def call(what: str, *arguments: Any, **options: Any) -> Any:
        return {"version": {"Version": "28", "Odd": SECRET}, "info": INFO, "networks": [NETWORK]}.get(what, NETWORK)

    texts = {each.name: each for each in engine_texts("docker", call)}
    assert set(texts) == {"version.json", "info.json", "network-inspect.json"}
    assert all(
        each.owner == "engine=docker" and each.text is not None and each.reason is None for each in texts.values()
    )
    assert SECRET not in "".join(str(each) for each in texts.values())
    (told,) = json.loads(texts["network-inspect.json"].text or "")
    assert told["Containers"] == {"ab": {"Name": "web", "IPv4Address": "10.0.0.2/24"}}
    assert told["Options"] == {"com.docker.network.bridge.name": "br1"}
    assert told["IPAM"] == {"Driver": "default", "Config": [{"Subnet": "10.0.0.0/24"}]}
    assert json.loads(texts["info.json"].text or "")["Plugins"] == {"Network": ["bridge"]}


def test_an_answer_of_another_shape_is_dropped() -> None:
    for odd in (
        None,
        SECRET,
        7,
        [SECRET],
        [[SECRET]],
        {"IPAM": SECRET},
        {"Containers": [SECRET]},
        {"Name": {"a": SECRET}},
    ):
        assert SECRET not in json.dumps([network(odd), kept(odd, {"Name": True})])


def test_an_engine_that_refuses_is_told() -> None:
    def call(what: str, *arguments: Any, **options: Any) -> Any:
        if what == "networks":
            return [{"Id": "gone"}]
        raise NotFound("no such network") if what == "inspect_network" else EngineError(f"{what} is refused")

    texts = {each.name: each for each in engine_texts("docker", call)}
    assert texts["info.json"] == RawText(owner="engine=docker", name="info.json", reason="info is refused")
    assert texts["network-inspect.json"].text == "[]\n"


def test_options_of_foreign_drivers_do_not_leave_the_host() -> None:
    options = {"vendor.password": SECRET, "parent": "eth0", "com.docker.network.driver.mtu": "1400"}
    intent = Intent(networks=(Network(id="1", name="n", driver="vendor", engine="docker", options=options),))
    snapshot = Snapshot(host=Host(kernel="6"), host_netns=1, namespaces=(), intent=intent)
    bundle = bundle_of_host(snapshot)
    assert SECRET not in str(bundle.members)
    told = bundle.decode("before.json", Snapshot).intent.networks[0].options
    assert told == {"parent": "eth0", "com.docker.network.driver.mtu": "1400"}


def test_tools_are_held_to_their_time_and_size() -> None:
    began = time.monotonic()
    children = [
        start_tool("box", "slow.txt", ["sh", "-c", "echo begun; exec sleep 60"]),
        start_tool("box", "flood.txt", ["sh", "-c", "exec yes"]),
        start_tool("box", "deaf.txt", ["sh", "-c", "trap '' TERM; exec >&-; exec 2>&-; exec sleep 60"]),
        start_tool("box", "wrong.txt", ["sh", "-c", "echo such words >&2; exit 3"]),
        start_tool("box", "none.txt", ["no-such-tool-anywhere"]),
        start_tool("box", "well.txt", ["sh", "-c", "echo $LC_ALL $SECRET"]),
    ]
    os.environ["SECRET"] = SECRET
    slow, flood, deaf, wrong, none, well = run_tools(children, timeout_s=0.5)
    del os.environ["SECRET"]
    assert time.monotonic() - began < 20
    assert (slow.text, slow.reason) == ("begun\n", "`sh -c echo begun; exec sleep 60` did not end within 0.5 s")
    assert flood.text is not None
    assert len(flood.text) == MAX_BYTES
    assert "more than 1 MB" in str(flood.reason)
    assert deaf.reason is not None
    assert wrong.reason == "`sh -c echo such words >&2; exit 3` failed: such words"
    assert (none.text, none.reason) == (None, "no-such-tool-anywhere is not installed")
    assert (well.text, well.reason) == ("C\n", None)
    assert all(child.process is None or child.process.returncode is not None for child in children)


def test_listings_of_rules_and_sysctls_come_from_the_snapshot() -> None:
    host = read_case(CASES / "rule-drop").before.namespaces[-1]
    texts = {each.name: each.text or "" for each in from_snapshot(host)}
    assert "-A FORWARD -s 172.17.0.3/32 -j DROP" in texts["iptables-save.nft.txt"]
    assert "net.ipv4.ip_forward = 1\n" in texts["sysctl.txt"]


def test_what_is_lacking_is_told_together() -> None:
    gaps = tuple(Gap(section="links", netns=f"c{number}", reason="gone") for number in range(9))
    texts = [RawText(owner="host", name="ip-addr.txt", text="x", reason="half")]
    snapshot = Snapshot(host=Host(kernel="6"), host_netns=1, namespaces=(), gaps=(*gaps, gaps[0]))
    assert bundle_of_host(snapshot, texts=texts).manifest.cut == (
        Cut(what="c0, c1, c2, c3, c4 and 4 more: links", reason="gone"),
        Cut(what="host: ip-addr.txt", reason="half"),
    )


def test_names_of_texts_may_be_anything_and_stay_apart() -> None:
    owners = ["web", "../../etc", "\x1b[31m", "a b", "a_b", "ä" * 200, "\udcff", "engine=docker", ""]
    snapshot = Snapshot(host=Host(kernel="6"), host_netns=1, namespaces=())
    bundle = bundle_of_host(snapshot, texts=[RawText(owner=each, name="x.txt", text=each) for each in owners])
    assert len(bundle.members) == len(owners) + 1
    assert all(map(is_member_name, bundle.members))


def test_the_capture_tells_points_directions_hops_and_the_verdict() -> None:
    recorded = read_case(CASES / "rule-drop")
    verdict = from_json((CASES / "rule-drop" / VERDICT_JSON).read_bytes(), Verdict)
    data = capture_of(verdict, recorded.observation, recorded.run.arp_types)
    assert data == read_bundle(CASES / "rule-drop").members[CAPTURE]
    capture = read_pcapng(data)
    assert [each.name for each in capture.interfaces] == ["app/eth0", "host/veth421ad4b", "host/docker0", "host/eth0"]
    assert {frame.way for frame in capture.frames} == {Way.IN, Way.OUT}
    assert any(frame.at_ns % 1000 for frame in capture.frames)
    assert recorded.observation is not None
    probes = [each for each in recorded.observation.sightings if each.kind.value == "probe"]
    assert [capture.comments[each.frame].splitlines()[0] for each in probes] == [
        f"the probe at {each.point}, probe 1, hop {number} of 8 (forward), by the model seen"
        for number, each in enumerate(probes, 1)
    ]
    assert all("stopped: app → 8.8.8.8 (icmp)" in text for text in capture.comments.values())


def test_the_default_name_is_a_plain_file_name() -> None:
    for hostname in ("box", "../../etc/passwd", "\x1b[31m", "", "-rf", "x" * 300):
        name = default_name(hostname)
        assert name.startswith("nettrace-")
        assert name.endswith("Z.tar.gz")
        assert is_member_name(name)
