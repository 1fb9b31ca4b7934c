"""Whatever is pasted: a result or a plain refusal, in bounded time, and nothing of it raw on a terminal."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nettrace.model.base import Missing, from_json, to_json
from nettrace.model.snapshot import Snapshot
from nettrace.paste import Assembled, Source, assemble, recognise

from .read import TEXTS, host_of, of_text

FILES = sorted(TEXTS.glob("*/*"))
RECORDED = {f"{path.parent.name}/{path.name}": path.read_text() for path in FILES}
BITS = (
    "\x1b[31m", "\x1b]0;x\x07", '"', "{", "}", "[", "]", "-A ", "*filter", "COMMIT", "\0",
    "9" * 30, "fe80::/200",
    "1.2.3.4/99", "@",
    "via", "dev", "\t", "\\", "-1", "0x", "٣", "nexthop", "scope", "not", "!", "lookup", "`", "# ip addr", "> ",
    "$ docker exec web ip addr", "\\ud800", "\u202e", "Chain X (policy ACCEPT)", "inf", "1e9", "null",
)  # fmt: skip


def sound(found: Assembled) -> None:
    """Assert that what was made can be written and read again, and that every row counted is a row."""
    assert from_json(to_json(found.snapshot), Snapshot) == found.snapshot
    assert all(each.rows >= 0 for each in found.listings)


def mangled(rng: random.Random) -> list[Source]:
    """Return some recorded files with lines cut, doubled, shuffled and swapped."""
    sources = []
    for name in rng.sample(sorted(RECORDED), rng.randint(1, 10)):
        lines = RECORDED[name].split("\n")
        for _ in range(rng.randint(0, 6)):
            at = rng.randrange(len(lines)) if lines else 0
            words = lines[at].split(" ") if lines else [""]
            match rng.randrange(6):
                case 0:
                    del lines[at : at + rng.randint(1, 20)]
                case 1:
                    lines.insert(at, rng.choice(BITS))
                case 2:
                    rng.shuffle(words)
                    lines[at : at + 1] = [" ".join(words)]
                case 3:
                    words[rng.randrange(len(words))] = rng.choice(BITS)
                    lines[at : at + 1] = [" ".join(words)]
                case 4:
                    other = RECORDED[rng.choice(sorted(RECORDED))].split("\n")
                    lines[at:at] = other[: rng.randint(0, 30)]
                case _:
                    lines[at : at + 1] = [" ".join(words)[: rng.randint(0, 60)]]
        sources.append(Source(name=name, text="\n".join(lines)))
    return sources


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(min_value=0, max_value=2**32))
def test_mangled_listings(seed: int) -> None:
    sound(assemble([recognise(source) for source in mangled(random.Random(seed))]))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400), st.sampled_from(["x", "host/ip_route", "ss_-lntu", "docker_inspect_web", "iptables_-S"]))
def test_any_text(text: str, name: str) -> None:
    sound(assemble([recognise(Source(name=name, text=text))]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["ifname", "ifindex", "flags", "addr_info", "local", "prefixlen", "dst", "gateway", "dev", "state", "Id",
             "Name", "NetworkSettings", "Networks", "IPAM", "Config", "Subnet", "State", "Containers", "nftables",
             "priority",
             "table", "mac", "vlans", "linkinfo", "info_kind", "info_data", "metrics", "nexthops", "Ports",
             "Server", "ServerVersion"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_any_json(document: object) -> None:
    import json

    sound(of_text(json.dumps([document])))
    sound(of_text(json.dumps(document)))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"nftables": ' + "[" * 100_000,
        '{"a":' * 50_000,
        "[\n" * 100_000,
        '[{"ifname": "x", "ifindex": ' + "9" * 5000 + "}]",
        '[{"ifname": "x", "ifindex": 99999999999999999999, "flags": [], "mtu": 5}]',
        '[{"Id": "abc", "Name": "\\ud800", "NetworkSettings": {"Ports": {"80/tcp": [{}]}}, "State": {}}]',
        '[{"Id": "abc", "NetworkSettings": {"Ports": {"80/tcp": [{"HostPort": "1e99"}]}}, "State": {"Pid": 1e99}}]',
        "\0" * 1000,
        "*filter\n" * 5_000,
        "table ip t {\n" * 20_000,
        "> " * 100_000,
        "\x1b[" * 100_000,
        "-P FORWARD DROP\n" * 20_000,
        "Chain FORWARD (policy DROP)\n" * 20_000,
        "0:\tfrom all lookup local\n" * 20_000,
    ],
)  # fmt: skip
def test_bombs(text: str) -> None:
    began = time.process_time()
    sound(of_text(text))
    assert time.process_time() - began < 20


def test_much_of_nothing_takes_bounded_time() -> None:
    rng = random.Random(2)
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789 .:-/=#$@[]{}()<>\"'\\`*_+,;!?%&|~^\t"
    some = ["".join(rng.choice(alphabet) for _ in range(rng.randint(0, 120))) for _ in range(5000)]
    garbage = "\n".join(rng.choice(some) for _ in range(850_000))
    assert len(garbage) > 48_000_000
    for text in (
        garbage,
        "a" * 10_000_000,
        "1" * 10_000_000,
        "$ ip " + "a" * 10_000_000,
        "*filter\n-A X " + "-m " * 3_000_000,
    ):
        began = time.process_time()
        found = of_text(text)
        assert time.process_time() - began < 20
        assert found.untold
        assert sum(each.rows for each in found.listings) == 0


def test_a_listing_beyond_what_a_bundle_holds_is_cut_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nettrace.paste.namespace.MAX_ROWS", 2000)
    routes = "".join(f"10.{n >> 8 & 255}.{n & 255}.0/24 dev eth0 scope link\n" for n in range(3000))
    found = of_text(f"$ ip route\n{routes}")
    gaps = [gap for gap in found.snapshot.gaps if gap.section == "routes/part"]
    assert [gap.reason for gap in gaps] == ["only the first 2000 rows were taken"]
    # A part of a table is no table.
    assert isinstance(host_of(found).routes, Missing)


def test_quotes_of_lines_are_short_and_come_with_their_place() -> None:
    found = of_text("$ ip route\ndefault via 192.0.2.1 dev eth0\n" + "frobnicate " * 500 + "\n")
    (trouble,) = found.untold
    assert trouble.line == 3
    assert len(trouble.text) <= 120
