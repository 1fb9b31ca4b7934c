"""What `nettrace eval` says to input that is no ruleset: one sentence, exit code 4, in bounded time and memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nettrace.cli import main

ASK = ["--in", "eth0", "--src", "10.0.0.1", "--dst", "10.0.0.2", "--proto", "icmp"]
NFT = "table ip t {{\n\tchain c {{\n\t\ttype filter hook forward priority {}; policy drop;\n\t}}\n}}\n"
SAVE = "*filter\n:FORWARD ACCEPT [0:0]\n{}COMMIT\n"


Ask = Callable[[Path | str | bytes], tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run the command over a file, or over the text of one; gives the exit code and all that it said."""

    def run(given: Path | str | bytes) -> tuple[int, str]:
        path = given if isinstance(given, Path) else tmp_path / "rules"
        if not isinstance(given, Path):
            path.write_bytes(given if isinstance(given, bytes) else given.encode())
        code = main(["eval", str(path), *ASK])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("-P INPUT ACCEPT\n-A FORWARD -j DROP\n", "iptables -S.*run `iptables-save`"),
        ("Chain INPUT (policy ACCEPT 0 packets, 0 bytes)\n pkts bytes target\n", "iptables -L.*run `iptables-save`"),
        (SAVE.format("-A FORWARD -j DROP\n") + NFT.format(0), "line 5: .*nftables.*file of its own"),
        (NFT.format(0) + SAVE.format(""), "line 1: .*nftables.*file of its own"),
        (SAVE.format("").removesuffix("COMMIT\n") + "-A FORWARD -s 10.0.", "cut short"),
        ("*nonsense\nCOMMIT\n", "line 1: 'nonsense' is no table"),
        (SAVE.format(":A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -j A\n"), "in a circle: A → B → A"),
        (SAVE.format('-A FORWARD -m comment --comment "caf\xe9" -j DROP\n').encode("latin-1"), "line 3: not UTF-8"),
        (NFT.format(2**31), "line 3: .*kernel cannot hold"),
        (NFT.format(-999999999999), "line 3: .*kernel cannot hold"),
        (NFT.format("filter + 99999999999"), "line 3: .*kernel cannot hold"),
        (NFT.format("soon"), "line 3: unknown priority 'soon'"),
        (NFT.format(0)[:40], "ends too early"),
        ('{"nftables": [' + "[" * 100_000, "nested deeper"),
        ("table ip t {\n chain c {\n" + "(" * 100_000, "line 3: .*nested deeper"),
        (b"\0" * 1000, "binary data"),
        (bytes(range(256)) * 4, "binary data|not UTF-8"),
        ("hello\n" * 100, "no ruleset that nettrace knows"),
    ],
)
def test_no_ruleset(ask: Ask, content: str | bytes, says: str) -> None:
    code, said = ask(content)
    assert code == 4, said
    assert re.search(says, said, re.DOTALL), said
    assert len(said) < 400


def test_a_priority_of_json_that_the_kernel_cannot_hold(ask: Ask) -> None:
    chain = {"family": "ip", "table": "t", "name": "c", "type": "filter", "hook": "forward", "prio": 10**20}
    code, said = ask(json.dumps({"nftables": [{"table": {"family": "ip", "name": "t"}}, {"chain": chain}]}))
    assert (code, "kernel cannot hold" in said) == (4, True)


def test_fifty_megabytes_of_words(ask: Ask) -> None:
    code, said = ask("*filter\n" + "lorem ipsum -A dolor\n" * 2_400_000)
    assert (code, "line 2" in said) == (4, True)


def test_chains_that_call_each_other_deeper_than_a_screen(ask: Ask) -> None:
    """The kernel takes them on legacy iptables; the answer must not grow with the square of their depth."""
    count = 3000
    chains = "".join(f":C{i} - [0:0]\n" for i in range(count))
    rules = "".join(f"-A C{i} -j C{i + 1}\n" for i in range(count - 1))
    code, said = ask(SAVE.format(f"{chains}-A FORWARD -j C0\n{rules}"))
    assert code == 0
    assert len(said) < count * 200


def test_a_file_that_cannot_be_read(ask: Ask, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        code, said = ask(path)
        assert (code, "cannot read" in said) == (4, True)
