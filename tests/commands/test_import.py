"""`nettrace import`: what it says, what it writes, and how the bundle answers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from nettrace.bundle.archive import read_bundle
from nettrace.bundle.format import BEFORE
from nettrace.cli import main
from nettrace.model.snapshot import Snapshot
from tests.paste.read import HERE, recorded
from tests.paste.test_recognise import sos

ISSUE = HERE / "pastes" / "masquerade-flushed.md"


def imported(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["import", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_an_issue_names_its_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "issue.tar.gz"
    code, out, err = imported(capsys, str(ISSUE), "-o", str(bundle))
    assert (code, err) == (0, "")
    assert "docker network inspect" in out
    assert "Missing for a firm answer; on that host, run" in out
    assert "  ip neigh" in out.splitlines()
    assert f"nettrace replay {bundle} web 8.8.8.8" in out
    assert main(["replay", str(bundle), "web", "8.8.8.8", "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["outcome"] == "stopped"
    assert verdict["findings"][0]["code"] == "nat.masquerade-missing"
    assert verdict["findings"][0]["basis"] == "predicted"
    assert any("supposed to hold nothing odd: " in each for each in verdict["assumptions"])
    sections = {gap["section"] for gap in verdict["gaps"]}
    assert sections >= {"neighbours", "fdb", "netfilter/part", "sysctls/part", "namespace", "paste"}


def test_health_is_never_supposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = "Chain DOCKER (2 references)"
    masquerade = "    0     0 MASQUERADE  all  --  *      !docker0  172.17.0.0/16        0.0.0.0/0"
    mended = ISSUE.read_text().replace(f"\n\n{chain}", f"\n{masquerade}\n\n{chain}")
    assert masquerade in mended
    (tmp_path / "issue.md").write_text(mended)
    bundle = tmp_path / "issue.tar.gz"
    assert imported(capsys, str(tmp_path / "issue.md"), "-o", str(bundle))[0] == 0
    assert main(["replay", str(bundle), "web", "8.8.8.8", "--json"]) == 3
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["outcome"], verdict["findings"][:0]) == ("inconclusive", [])
    assert "nat.masquerade-missing" not in [each["code"] for each in verdict["findings"]]


WHOLE = (
    "ip_-d_-s_addr", "ip_route_show_table_all", "ip_rule", "ip_-6_rule", "ip_neigh", "bridge_fdb", "iptables-save_-c",
    "nft_-j_list_ruleset", "sysctl_-a", "ss_-lntu",
)  # fmt: skip


@pytest.mark.parametrize(
    ("exchanged", "told"),
    [
        ({}, None),
        ({"nft_-j_list_ruleset": None}, "netfilter/part"),
        ({"iptables-save_-c": "iptables_-nvL", "nft_-j_list_ruleset": None}, "netfilter/part"),
        ({"ip_-d_-s_addr": "ip_addr"}, "links/part"),
        ({"sysctl_-a": None}, "sysctls"),
        ({"ip_rule": None}, "rules/4"),
        ({"ip_-6_rule": None}, None),
        ({"ss_-lntu": None}, None),
    ],
)
def test_delivered_is_said_only_of_what_was_pasted_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exchanged: dict[str, str | None], told: str | None
) -> None:
    (tmp_path / "host").mkdir()
    for name in WHOLE:
        instead = exchanged.get(name, name)
        if instead is not None:
            (tmp_path / "host" / instead).write_text(recorded("host", instead))
    for name in ("docker_inspect", "docker_network_inspect", "docker_info", "docker_version"):
        (tmp_path / name).write_text(recorded("engine", name))
    bundle = tmp_path.with_suffix(".tar.gz")
    assert imported(capsys, str(tmp_path), "-o", str(bundle))[0] == 0
    code = main(["replay", str(bundle), "app", "8.8.8.8", "--json"])
    verdict = json.loads(capsys.readouterr().out)
    assert (code, verdict["outcome"]) == ((3, "inconclusive") if told else (0, "delivered"))
    assert told is None or told in {gap["section"] for gap in verdict["gaps"]}


def test_entries_of_the_flow_are_taken_from_a_listing_of_all(tmp_path: Path) -> None:
    from nettrace.collect.resolve import parse_endpoint
    from nettrace.model.base import Present
    from nettrace.model.flow import Proto
    from nettrace.paste.question import with_conntrack
    from nettrace.recorded import resolve_recorded
    from tests.paste.read import assembled

    way = "{0} 29 src=172.17.0.2 dst={1} {2} src={1} dst=203.0.113.2 {3} mark=0 use=1\n"
    ports = "sport=999 dport=53", "sport=53 dport=999"
    listing = way.format("udp 17", "8.8.8.8", *ports) + way.format("udp 17", "8.8.4.4", *ports)
    listing += way.format("icmp 1", "8.8.8.8", "type=8 code=0 id=5", "type=0 code=0 id=5")
    names = ("docker_inspect", "docker_network_inspect")
    texts = [(f"host/{name}", recorded("host", name)) for name in WHOLE] + [
        (name, recorded("engine", name)) for name in names
    ]
    snapshot = assembled(*texts, ("host/conntrack_-L", listing)).snapshot
    flow = resolve_recorded(
        snapshot,
        parse_endpoint("app"),
        parse_endpoint("8.8.8.8"),
        proto=Proto.UDP,
        dport=53,
        size=None,
        family=None,
        names={},
    )
    table = with_conntrack(snapshot, snapshot, flow).namespaces[0].conntrack
    assert isinstance(table, Present)
    assert [(str(each.orig.dst), each.orig.proto) for each in table.rows] == [("8.8.8.8", 17)]


def test_json_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "issue.tar.gz"
    code, out, _ = imported(capsys, str(ISSUE), "-o", str(bundle), "--json")
    said = json.loads(out)
    assert code == 0
    assert said["schema"] == "nettrace.import/1"
    assert {"file", "line", "what", "netns", "rows", "not_understood"} == said["listings"][0].keys()
    assert [each["name"] for each in said["namespaces"]] == ["host", "web"]
    assert {"section": "neighbours", "netns": "host", "command": "ip neigh"} in said["missing"]
    snapshot = read_bundle(bundle).decode(BEFORE, Snapshot)
    assert len(said["gaps"]) == len(snapshot.gaps)


def test_a_bundle_says_where_it_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "issue.tar.gz"
    imported(capsys, str(ISSUE), "-o", str(bundle))
    assert bundle.stat().st_mode & 0o777 == 0o600
    read = read_bundle(bundle)
    assert (read.manifest.origin, read.manifest.hostname, read.manifest.engine) == (
        "import",
        "build-3",
        "docker 20.10.7",
    )
    assert any(cut.what == "host: neighbours" and cut.reason == "run ip neigh" for cut in read.manifest.cut)
    (text,) = (data for name, data in read.members.items() if name.startswith("texts/"))
    assert text.decode() == ISSUE.read_text().replace('"Labels": {}', '"Labels": "(taken out)"')
    assert main(["bundle", "verify", str(bundle)]) == 0
    assert main(["bundle", "show", str(bundle)]) == 0
    capsys.readouterr()


def test_a_redacted_import_keeps_no_word_of_the_paste(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # By chance an address may stand for itself, and three letters in a hash: with this key none does.
    monkeypatch.setattr("nettrace.commands.bundle.os.urandom", lambda length: bytes(range(length)))
    bundle, redacted = tmp_path / "issue.tar.gz", tmp_path / "redacted.tar.gz"
    imported(capsys, str(ISSUE), "-o", str(bundle))
    assert main(["bundle", "redact", str(bundle), "-o", str(redacted)]) == 0
    capsys.readouterr()
    read = read_bundle(redacted)
    held = b"\n".join(read.members.values()) + repr(read.manifest).encode()
    for word in (
        b"build-3",
        b"joe",
        b"192.0.2.10",
        b"Worked until",
        b"52:54:00:12:34:56",
        b"9a:1b:2c",
        b"masquerade-flushed",
    ):
        assert word not in held
    assert not [name for name in read.members if name.startswith("texts/")]
    assert main(["replay", str(redacted), "container-1", "8.8.8.8", "--json"]) in (1, 3)
    assert "nat.masquerade-missing" in capsys.readouterr().out


def test_what_belongs_to_nobody_else_is_taken_out_of_kept_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = '"Env": ["TOKEN=hunter2 " ]", "A=b"]'
    inspect = recorded("engine", "docker_inspect").replace('"Env": null', environment, 1)
    assert "hunter2" in inspect
    (tmp_path / "inspect.json").write_text(inspect)
    imported(capsys, str(tmp_path / "inspect.json"), "-o", str(tmp_path / "b.tar.gz"))
    read = read_bundle(tmp_path / "b.tar.gz")
    for data in read.members.values():
        for secret in (b"hunter2", b"TOKEN", b"tail", b"/dev/null", b"httpd"):
            assert secret not in data
    assert any("were taken out" in cut.reason for cut in read.manifest.cut)


def test_a_sosreports_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in sos().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # Folders beside, and links to what is there already, are left alone.
    (tmp_path / "sosreport-box" / "proc").mkdir()
    (tmp_path / "sosreport-box" / "proc" / "junk").write_text("junk\n")
    (tmp_path / "sosreport-box" / "ip_addr").symlink_to("sos_commands/networking/ip_-d_address")
    (tmp_path / "sosreport-box" / "sos_commands" / "logs").mkdir()
    (tmp_path / "sosreport-box" / "sos_commands" / "logs" / "journalctl").write_text("log\n" * 10)
    bundle = tmp_path / "box.tar.gz"
    code, out, _ = imported(capsys, str(tmp_path / "sosreport-box"), "-o", str(bundle), "--json")
    said = json.loads(out)
    assert code == 0
    assert len(said["listings"]) == len(sos())
    assert "log" not in {each["file"].rpartition("/")[2] for each in said["listings"]}
    assert main(["replay", str(bundle), "app", "8.8.8.8", "--json"]) in (0, 3)
    assert json.loads(capsys.readouterr().out)["outcome"] in ("delivered", "inconclusive")


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "is a listing that nettrace knows"), ("Hello, it does not work.\n", "is a listing that nettrace knows")],
)
def test_nothing_to_read_is_an_error_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, part: str
) -> None:
    (tmp_path / "x.txt").write_text(text)
    code, out, err = imported(capsys, str(tmp_path / "x.txt"), "-o", str(tmp_path / "b.tar.gz"))
    assert (code, out) == (4, "")
    assert part in err
    assert not (tmp_path / "b.tar.gz").exists()


def test_paths_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nowhere", tmp_path / "pipe", Path("/dev/null")):
        code, out, err = imported(capsys, str(path), "-o", str(tmp_path / "b.tar.gz"))
        assert (code, out) == (4, "")
        assert str(path) in err
    # A pipe among other files is passed over: only plain files are texts.
    shutil.copy(ISSUE, tmp_path / "issue.md")
    assert imported(capsys, str(tmp_path), "-o", str(tmp_path / "b.tar.gz"))[0] == 0
    assert main(["import"]) == 2


def test_where_a_bundle_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert imported(capsys, str(ISSUE))[0] == 0
    code, out, err = imported(capsys, str(ISSUE))
    assert (code, out) == (4, "")
    assert "nettrace-import.tar.gz exists" in err
    assert imported(capsys, str(ISSUE), "-o", "nettrace-import.tar.gz")[0] == 0
    for output in (tmp_path, tmp_path / "nowhere" / "b.tar.gz"):
        code, out, err = imported(capsys, str(ISSUE), "-o", str(output))
        assert (code, out) == (2, "")
        assert str(output) in err


def test_names_and_lines_are_never_printed_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / f"ip{evil}addr").write_text(
        recorded("host", "ip_addr")
        + f"$ docker exec we\u202eb ip route\ndefault via 192.0.2.1 dev eth0 frob\u202enicate 1\n"
        f"$ ip route\nwhat {evil} is \u202e this\n"
    )
    for more in ((), ("--json",)):
        code, out, err = imported(capsys, str(folder), "-o", str(tmp_path / "b.tar.gz"), *more)
        assert (code, err) == (0, "")
        assert out.replace("\n", "").isprintable()
    assert "\\u202e" in out
    main(["replay", str(tmp_path / "b.tar.gz"), "host", "8.8.8.8"])
    said = capsys.readouterr()
    assert (said.out + said.err).replace("\n", "").isprintable()


def test_standard_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Given:
        buffer = ISSUE.open("rb")

    monkeypatch.setattr("sys.stdin", Given)
    code, out, _ = imported(capsys, "-", "-o", str(tmp_path / "b.tar.gz"))
    Given.buffer.close()
    assert code == 0
    assert "standard input" in out


def test_utf_16_and_other_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = recorded("host", "ip_addr")
    (tmp_path / "wide.txt").write_bytes(text.encode("utf-16"))
    (tmp_path / "latin.txt").write_bytes(b"\xe9\xff\n" + text.encode())
    for name in ("wide.txt", "latin.txt"):
        code, out, _ = imported(capsys, str(tmp_path / name), "-o", str(tmp_path / "b.tar.gz"), "--json")
        assert code == 0
        assert [each["rows"] for each in json.loads(out)["listings"]] == [13]
