"""The command line as a whole: exit codes, messages, and what start-up may import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType

import click
import pytest

from nettrace import cli
from nettrace.errors import NettraceError, NotFound, UsageError

HEAVY = {"scapy", "pyroute2", "docker", "tabulate", "jsonschema", "requests", "nsenter", "msgspec"}


def run(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nettrace", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | (env or {}),
        check=False,
    )


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Put a function in the place of `nettrace demo`."""

    def put(work: Callable[[], object]) -> None:
        module = ModuleType("nettrace.commands.demo")
        module.command = click.command("demo")(work)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "nettrace.commands.demo", module)
        monkeypatch.setattr(cli, "_exists", lambda name: True)

    return put


def raising(error: BaseException) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NotFound("no container is called web; `docker ps` lists them"), 4, "no container is called web"),
        (UsageError("--port needs --proto tcp or udp"), 2, "--port needs --proto"),
        (NettraceError("first\nsecond"), 4, "nettrace: first\nsecond\n"),
        (click.UsageError("bad value"), 2, "nettrace: bad value\nTry 'nettrace demo --help'."),
        (click.ClickException("unreadable"), 4, "nettrace: unreadable"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (ValueError("x\x1b[2J\ny"), 4, "this is a defect in nettrace"),
        (RecursionError("too deep"), 4, "this is a defect in nettrace"),
        (OSError(28, "No space left on device", "/x"), 4, "the system refuses to go on: No space left on device: /x"),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_way_to_fail_has_a_code_and_a_message(
    plant: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    monkeypatch.delenv("NETTRACE_DEBUG", raising=False)
    plant(raising(error))
    assert cli.main(["demo"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert all(char.isprintable() or char == "\n" for char in err)


def test_a_defect_is_told_in_one_line_and_shown_on_request(
    plant: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(raising(ValueError("a\nb")))
    monkeypatch.delenv("NETTRACE_DEBUG", raising=False)
    assert cli.main(["demo"]) == cli.EXIT_CANNOT
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("NETTRACE_DEBUG", "1")
    with pytest.raises(ValueError, match="a\nb"):
        cli.main(["demo"])


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_what_a_command_returns_is_the_exit_code(
    plant: Callable[[Callable[[], object]], None], result: int | None, code: int
) -> None:
    plant(lambda: result)
    assert cli.main(["demo"]) == code


@pytest.mark.parametrize("leave", [click.exceptions.Exit(3), SystemExit(3)])
def test_leaving_early_keeps_the_code(plant: Callable[[Callable[[], object]], None], leave: BaseException) -> None:
    plant(raising(leave))
    assert cli.main(["demo"]) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_unwinds_before_it_ends_the_run(
    plant: Callable[[Callable[[], object]], None], number: signal.Signals
) -> None:
    closed = []
    # Whoever runs the tests may ignore SIGHUP, as nohup does, and that would be left alone.
    inherited = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    former = signal.getsignal(number)

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            closed.append(True)

    plant(work)
    try:
        assert cli.main(["demo"]) == 128 + number
        assert closed == [True]
        assert signal.getsignal(number) is former
    finally:
        signal.signal(number, inherited)


def test_an_ignored_hangup_stays_ignored(plant: Callable[[Callable[[], object]], None]) -> None:
    inherited = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    plant(lambda: os.kill(os.getpid(), signal.SIGHUP))
    try:
        assert cli.main(["demo"]) == 0
    finally:
        signal.signal(signal.SIGHUP, inherited)


@pytest.mark.parametrize(
    ("args", "hint"),
    [(["--nope"], "--nope"), (["nope"], "nope"), (["completion"], "zsh"), (["completion", "tcsh"], "")],
)
def test_wrong_arguments_are_two_lines_and_exit_2(args: list[str], hint: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("nettrace: ")
    assert hint.lower() in done.stderr.lower()
    assert done.stderr.rstrip().endswith("--help'.")
    assert done.stderr.count("\n") == 2


def test_no_arguments_show_the_help() -> None:
    done = run()
    assert "nettrace path web 8.8.8.8" in done.stdout + done.stderr
    assert done.returncode in (0, 2)  # as the click at hand has it


def test_the_version_is_printed() -> None:
    from nettrace import __version__

    assert run("--version").stdout == f"nettrace {__version__}\n"


def test_help_names_each_command_that_is_there() -> None:
    from importlib.util import find_spec

    text = run("--help").stdout
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()]
    for name in cli.COMMANDS:
        assert (name in listed) == (find_spec(cli._module(name)) is not None)


def test_every_command_module_is_in_the_table() -> None:
    from pathlib import Path

    folder = Path(cli.__file__).parent / "commands"
    assert {path.stem.rstrip("_") for path in folder.glob("*.py") if not path.stem.startswith("_")} <= set(cli.COMMANDS)


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if cli._exists(name)])
def test_each_command_answers_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: nettrace {name}" in done.stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_start_up_imports_neither_commands_nor_heavy_libraries(args: list[str]) -> None:
    script = (
        "import json, sys\n"
        "from nettrace.cli import main\n"
        "main(sys.argv[1:])\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert not [name for name in loaded if name.startswith("nettrace.commands.")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_for_each_shell(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert "_NETTRACE_COMPLETE" in done.stdout


def test_the_shell_is_answered_with_command_names() -> None:
    done = run(env={"_NETTRACE_COMPLETE": "bash_complete", "COMP_WORDS": "nettrace compl", "COMP_CWORD": "1"})
    assert done.stdout == "plain,completion\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nettrace", "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nettrace", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 4
    assert done.stderr == b"nettrace: the system refuses to go on: No space left on device\n"


def test_a_narrow_terminal_encoding_is_survived() -> None:
    done = run("nöpe→", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
