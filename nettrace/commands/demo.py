"""`nettrace demo`: a healthy path, a fault, its diagnosis, its remedy, a healthy path again; in a throw-away host."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from types import FrameType

    from nettrace.lab.host import Lab

__all__ = ["command"]

FAULT = "masquerade-deleted"
FLOW = ("path", "app", "8.8.8.8")


@click.command(name="demo")
@click.option(
    "--engine",
    type=click.Choice(["docker", "none"]),
    help="A real Docker Engine, or plain namespaces wired alike.  [default: docker if it is installed]",
)
@click.option("--keep", is_flag=True, help="Leave the lab up at the end.")
@click.pass_context
def command(context: click.Context, engine: str | None, keep: bool) -> None:
    """Show nettrace at work on a throw-away host: a fault, its diagnosis, its remedy.

    Nothing outside the host that it makes for itself is touched, and no packet leaves it.
    Exits with 0 only if every stage gave what it should.
    """
    from nettrace.lab.host import Lab, engine_available

    with _ended_by_sigterm():
        docker = engine == "docker" or (engine is None and engine_available())
        _say(
            "A throw-away host, with "
            + ("a real Docker Engine" if docker else "containers made of plain namespaces")
            + " and an internet of its own. It takes some seconds …"
        )
        lab = Lab.up(f"demo-{os.getpid()}", engine="docker" if docker else "none")
        try:
            good = _stages(lab)
        finally:
            if not keep:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop the clean-up
                lab.down()
        if keep:
            _say(f"The lab is still there: `nettrace lab shell {lab.name}`, then `nettrace lab down {lab.name}`.")
        else:
            _say("The host is gone, with everything in it.")
    context.exit(0 if good else 1)


def _stages(lab: Lab) -> bool:
    """Run the three stages and tell whether each gave the exit code that it should: 0, 1, 0."""
    _say("1. All is well: the container `app` reaches 8.8.8.8.")
    if not _ask(lab, expected=0):
        return False
    _say("2. Now something deletes one rule of Docker's on the host:")
    for step in lab.break_fault(FAULT):
        click.echo(f"   host# {step.command}")
    _say("   Containers can no longer reach the internet. Why? Ask again:")
    if not _ask(lab, expected=1):
        return False
    commands = _remedy(lab)
    if not commands:
        _say("nettrace named no commands that would mend it.")
        return False
    _say("3. Type what the remedy says, and ask once more:")
    for each in commands:
        click.echo(f"   host# {each}")
        lab.check(["sh", "-c", each])
    return _ask(lab, expected=0)


def _ask(lab: Lab, *, expected: int) -> bool:
    """Show what nettrace says about the flow, and tell whether it said what it should."""
    click.echo(f"   host# nettrace {shlex.join(FLOW)}\n")
    sys.stdout.flush()
    # Not captured: what it prints depends on whether it has the terminal.
    argv = lab.command([sys.executable, "-m", "nettrace", *FLOW])
    done = subprocess.run(argv, env=lab.environment(), check=False)
    click.echo()
    if done.returncode != expected:
        _say(f"That is not what should have come: exit code {done.returncode} instead of {expected}.")
    return done.returncode == expected


def _remedy(lab: Lab) -> list[str]:
    """Return the commands of the first finding that has any, from the same answer as JSON."""
    import json

    done = lab.nettrace([*FLOW, "--json"])
    try:
        findings = json.loads(done.stdout)["findings"]
    except (ValueError, KeyError):
        return []
    return next((finding["remedy"]["commands"] for finding in findings if finding["remedy"]["commands"]), [])


def _say(text: str) -> None:
    click.echo(click.style(text, bold=True) if sys.stdout.isatty() else text)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that the lab is taken down."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
