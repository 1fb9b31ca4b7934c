"""`nettrace replay` and `nettrace bundle` on recorded cases: without root or an engine, writing what is asked."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from nettrace.bundle import Bundle, read_bundle, write_bundle
from nettrace.bundle.format import RUN, VERDICT_JSON, VERDICT_TEXT, Cut
from nettrace.cli import main

from .test_archive import EVIL, archive, entries

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
SLUGS = sorted(path.name for path in CASES.iterdir())
EXIT_CODE = {"delivered": 0, "stopped": 1, "degraded": 1, "inconclusive": 3}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "healthy.tar.gz"
    write_bundle(path, read_bundle(CASES / "healthy-peer"))
    return path


def ran(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = main([str(each) for each in args])
    out, err = capsys.readouterr()
    assert "defect" not in err
    assert "Traceback" not in err
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], code: int, words: str, *args: str | Path) -> None:
    got, out, err = ran(capsys, *args)
    assert (got, out) == (code, ""), (got, out, err)
    assert words in err
    assert len(err) < 600
    assert err.replace("\n", "").isprintable()


@pytest.mark.parametrize("slug", SLUGS)
def test_a_replay_is_the_answer_again(slug: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads((CASES / slug / VERDICT_JSON).read_text())
    code, out, err = ran(capsys, "replay", CASES / slug)
    assert (code, err) == (EXIT_CODE[told["outcome"]], "")
    assert out == (CASES / slug / VERDICT_TEXT).read_text()
    code, out, err = ran(capsys, "replay", CASES / slug, "--json")
    assert (code, json.loads(out)) == (EXIT_CODE[told["outcome"]], told)


def test_a_replay_needs_no_privilege_and_no_path(packed: Path) -> None:
    setpriv = shutil.which("setpriv")
    argv = [sys.executable, "-m", "nettrace", "replay", str(packed)]
    if os.geteuid() == 0 and setpriv is not None:
        packed.chmod(0o644)
        for folder in packed.parents:
            if str(folder).startswith("/tmp/"):
                folder.chmod(0o755)
        nobody = pwd.getpwnam("nobody")
        argv = [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *argv]
    environment = {"PATH": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("DELIVERED")


def test_a_new_question_is_answered_by_the_model(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = ran(capsys, "replay", packed, "web", "app", "--json")
    verdict = json.loads(out)
    assert (code, verdict["outcome"]) == (0, "delivered")
    assert {hop["observed"] for hop in verdict["hops"]} == {"not-probed"}
    assert (verdict["flow"]["src"]["name"], verdict["flow"]["dst"]["name"]) == ("web", "app")
    code, out, _err = ran(capsys, "replay", packed, "web", "app", "--proto", "tcp", "--port", "81", "--json")
    assert code == 1
    assert [each["code"] for each in json.loads(out)["findings"]] == ["port.not-listening"]


def test_the_model_alone_can_be_asked_again(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = ran(capsys, "replay", packed, "--predict", "--json")
    verdict = json.loads(out)
    assert (code, verdict["outcome"]) == (0, "delivered")
    assert {hop["observed"] for hop in verdict["hops"]} == {"not-probed"}
    assert ran(capsys, "replay", packed, "app", "web", "--predict")[0] == 0


def test_what_the_file_does_not_tell_is_said(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, 4, "no container nosuch", "replay", packed, "nosuch", "8.8.8.8")
    refused(capsys, 4, "not recorded", "replay", packed, "app", "c1")
    refused(capsys, 4, "no namespace nosuch", "replay", packed, "netns:nosuch", "app")
    refused(capsys, 4, "process 1", "replay", packed, "pid:1", "app")
    refused(capsys, 4, "address", "replay", packed, "app", "example.org")
    refused(capsys, 4, "no address", "replay", packed, "8.8.8.8", "app")


def test_a_wrong_command_line_is_a_usage_error(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, 2, "two ends", "replay", packed, "app")
    refused(capsys, 2, "--port", "replay", packed, "app", "web", "--proto", "tcp")
    refused(capsys, 2, "--port", "replay", packed, "--port", "80")
    refused(capsys, 2, "IPv4", "replay", packed, "app", "8.8.8.8", "-6")
    refused(capsys, 2, "FILE", "replay")
    refused(capsys, 2, "two ends", "bundle", "create", "app")
    refused(capsys, 2, "--port", "bundle", "create", "--port", "80")
    refused(capsys, 2, "folder", "bundle", "create", "-o", packed.parent)


def test_a_part_that_is_damaged_is_named_with_its_file(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(packed, before_json=b'{"host": 7}')
    refused(capsys, 4, "healthy.tar.gz: before.json is not what nettrace writes", "replay", packed)
    refused(capsys, 4, "$.host", "bundle", "verify", packed)


def test_what_is_no_bundle_is_refused_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"\x1f\x8b" + b"x" * 100)
    for verb in (("replay",), ("bundle", "show"), ("bundle", "verify"), ("bundle", "extract")):
        refused(capsys, 4, "broken.tar.gz", *verb, broken)
        refused(capsys, 4, "No such file", *verb, tmp_path / "nothing")
        refused(capsys, 4, "manifest.json", *verb, tmp_path)
    assert sorted(tmp_path.iterdir()) == [broken]


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_file_is_refused_on_a_line_that_is_safe_to_print(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.tar.gz"
    path.write_bytes(archive(*entries(), EVIL[name]))
    for verb in (("replay",), ("bundle", "show"), ("bundle", "verify"), ("bundle", "extract")):
        refused(capsys, 4, "evil.tar.gz", *verb, path)
    assert sorted(tmp_path.rglob("*")) == [path]


def test_show_tells_the_manifest_and_the_answer(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = ran(capsys, "bundle", "show", packed)
    assert code == 0
    assert out.endswith((CASES / "healthy-peer" / VERDICT_TEXT).read_text())
    assert "question  app web --proto tcp --port 80\n" in out
    code, out, _err = ran(capsys, "bundle", "show", packed, "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["verdict"] == json.loads((CASES / "healthy-peer" / VERDICT_JSON).read_text())
    assert shown["manifest"]["question"]["dst"] == "web"


def changed(path: Path, **members: bytes | None) -> Path:
    """Write a bundle anew with some members changed, or left out, and with hashes that fit."""
    bundle = read_bundle(path)
    told = {name.replace("_", "."): data for name, data in members.items()}
    kept = {name: told.get(name, data) for name, data in bundle.members.items()}
    write_bundle(path, replace(bundle, members={name: data for name, data in kept.items() if data is not None}))
    return path


def test_show_prints_nothing_raw(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x07\u202e\x9b31m"
    changed(packed, verdict_txt=f"DELIVERED {evil}\n".encode())
    bundle = read_bundle(packed)
    assert bundle.manifest.question is not None
    manifest = replace(
        bundle.manifest,
        **dict.fromkeys(("nettrace", "hostname", "kernel", "engine", "origin"), evil),
        question=replace(bundle.manifest.question, src=evil, dst=evil, proto=evil),
        read=(evil,),
        cut=(Cut(what=evil, reason=evil),),
        created_at_ns=10**19,
    )
    write_bundle(packed, replace(bundle, manifest=manifest))
    for more in ((), ("--json",)):
        code, out, err = ran(capsys, "bundle", "show", packed, *more)
        assert (code, err) == (0, "")
        assert out.replace("\n", "").isprintable()
        assert "x1b" in out or "u001b" in out


def test_replay_prints_no_name_raw(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = read_bundle(packed)
    evil = json.dumps("\x1b]0;owned\x07\n\u202eapp")[1:-1].encode()
    members = {name: data.replace(b'"app"', b'"' + evil + b'"') for name, data in bundle.members.items()}
    members = {
        name: data.replace(b"app/eth0", evil + b"/eth0") for name, data in members.items() if name != "capture.pcapng"
    }
    members["capture.pcapng"] = bundle.members["capture.pcapng"]
    write_bundle(packed, replace(bundle, members=members))
    for more in ((), ("--json",), ("\x1b[1mx", "app"), ("web", "\x1b]0;owned\x07\n\u202eapp")):
        _code, out, err = ran(capsys, "replay", packed, *more)
        assert (out + err).replace("\n", "").isprintable()
        assert out or err


def test_verify_compares_the_verdict(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = ran(capsys, "bundle", "verify", packed)
    assert (code, out.count("\n")) == (0, 2)
    told = json.loads(read_bundle(packed).members[VERDICT_JSON])
    changed(packed, verdict_json=json.dumps({**told, "outcome": "degraded"}).encode())
    code, out, _err = ran(capsys, "bundle", "verify", packed, "--json")
    assert (code, json.loads(out)) == (1, {"members": 6, "replayed": True, "differences": ["outcome"]})


def test_a_whole_host_holds_no_question(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(packed, run_json=None, verdict_json=None, verdict_txt=None, capture_pcapng=None)
    refused(capsys, 4, "no question was recorded", "replay", packed)
    assert ran(capsys, "bundle", "verify", packed)[0] == 0
    assert ran(capsys, "bundle", "show", packed)[0] == 0
    assert ran(capsys, "replay", packed, "app", "web")[0] == 0


def test_extract_makes_a_new_folder(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert ran(capsys, "bundle", "extract", packed) == (0, "healthy\n", "")
    assert read_bundle(Path("healthy")) == read_bundle(packed)
    assert all(path.stat().st_mode & 0o077 == 0 for path in Path("healthy").rglob("*"))
    refused(capsys, 4, "healthy exists", "bundle", "extract", packed)
    assert ran(capsys, "bundle", "extract", packed, "-C", "deeper/down")[0] == 0
    assert ran(capsys, "replay", "deeper/down")[0] == 0
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    refused(capsys, 4, "link", "bundle", "extract", packed, "-C", tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_is_left_of_the_old_form() -> None:
    for slug in SLUGS:
        bundle: Bundle = read_bundle(CASES / slug)
        assert set(bundle.members) | {"manifest.json", "case.toml"} == {each.name for each in (CASES / slug).iterdir()}
        assert RUN in bundle.members
