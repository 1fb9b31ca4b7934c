"""`nettrace lab`: throw-away hosts in network namespaces, with a fault of your choice."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nettrace.lab.host import Lab
    from nettrace.lab.state import LabState, Step

__all__ = ["command"]


@click.group(name="lab")
def command() -> None:
    """Make throw-away hosts in network namespaces, break them, look at them, take them away.

    \b
    nettrace lab up demo
    nettrace lab break demo masquerade-deleted
    nettrace lab exec demo -- nettrace path app 8.8.8.8
    nettrace lab down demo
    """


@command.command()
@click.argument("name", default="lab")
@click.option(
    "--engine",
    type=click.Choice(["docker", "none"]),
    help="A real Docker Engine, or plain namespaces wired alike.  [default: docker if it is installed]",
)
@click.option("--docker-dir", metavar="DIR", help="Another engine: a folder with its binaries, or docker-28.")
@click.option("--legacy-iptables", is_flag=True, help="The lab's host uses iptables' legacy back end.")
@click.option("--json", "as_json", is_flag=True, help="Print the lab's state as JSON.")
def up(name: str, engine: str | None, docker_dir: str | None, legacy_iptables: bool, as_json: bool) -> None:
    """Make a lab and print what to type next."""
    from nettrace.lab.host import Lab, engine_available
    from nettrace.model.base import to_json

    if engine is None:
        engine = "docker" if docker_dir is not None or engine_available() else "none"
        if engine == "none":
            click.echo("No Docker Engine is installed: making a lab of plain namespaces.", err=True)
    _progress(f"making lab {name} ({'Docker' if engine == 'docker' else 'no engine'}) …")
    lab = Lab.up(
        name,
        engine="docker" if engine == "docker" else "none",
        docker_dir=docker_dir,
        legacy_iptables=legacy_iptables,
    )
    if as_json:
        click.echo(to_json(lab.state, indent=2))
        return
    kind = f"Docker {lab.state.docker_version}" if lab.state.docker_version else "plain namespaces"
    target = "web" if lab.engine == "docker" else "c5ff39f37596"
    click.echo(f"Lab {name} is up: {kind}, host namespace {lab.host}.")
    click.echo("Next:")
    click.echo(f"  nettrace lab exec {name} -- nettrace path {target} 8.8.8.8")
    click.echo(f"  nettrace lab break {name} masquerade-deleted     (others: nettrace lab faults)")
    click.echo(f"  nettrace lab down {name}")


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print the labs' states as JSON.")
def list_labs(as_json: bool) -> None:
    """List the labs of this machine, also unfinished ones and what crashed ones left."""
    import msgspec

    from nettrace.errors import LabError
    from nettrace.lab import state, teardown
    from nettrace.model.base import to_json

    found: list[LabState] = []
    rows = []
    for name in teardown.leftovers():
        try:
            each = state.load(name)
        except LabError:
            rows.append((name, "?", "left over", "", ""))
            continue
        found.append(each)
        phase = each.phase if each.host is None or os.path.exists(each.host.path) else "broken"  # noqa: PTH110
        engine = f"docker {each.docker_version or ''}" if each.engine == "docker" else "none"
        host = each.host.name if each.host else ""
        rows.append((name, engine.strip(), phase, host, ", ".join(fault.name for fault in each.broken)))
    if as_json:
        click.echo(msgspec.json.format(b"[" + b",".join(to_json(each) for each in found) + b"]", indent=2))
    elif rows:
        _table(rows, ("name", "engine", "phase", "host namespace", "broken by"))
    else:
        click.echo("There is no lab. Make one with `nettrace lab up`.")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print the faults as JSON.")
def faults(as_json: bool) -> None:
    """List the faults that a lab can have."""
    import msgspec

    from nettrace.lab.faults import FAULTS
    from nettrace.model.base import to_json

    if as_json:
        click.echo(msgspec.json.format(to_json(FAULTS), indent=2))
        return
    rows = []
    for each in FAULTS:
        kinds = ", ".join(each.kinds)
        if each.engines is not None and "docker" in each.kinds:
            least, greatest = each.engines
            kinds = kinds.replace("docker", f"docker <= {greatest}" if least <= 1 else f"docker >= {least}")
        if each.iptables is not None:
            kinds += f" (iptables-{each.iptables})"
        rows.append((each.name, each.code, each.summary + (" [stands already]" if each.standing else ""), kinds))
    _table(rows, ("name", "code", "what it does", "labs"))


@command.command(name="break")
@click.argument("name")
@click.argument("fault")
def break_(name: str, fault: str) -> None:
    """Bring a fault about, showing the commands that do it."""
    lab = _find(name)
    _show(lab.break_fault(fault))
    click.echo("See it:")
    click.echo(f"  nettrace lab exec {name} -- nettrace {' '.join(lab.flow_of(fault))}")


@command.command()
@click.argument("name")
@click.argument("fault", required=False)
def mend(name: str, fault: str | None) -> None:
    """Take one fault back, or all of them, showing the commands that do it."""
    lab = _find(name)
    done = lab.mend(fault)
    _show(done)
    if not done:
        click.echo(f"Lab {name} is not broken.")


@command.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--in WHERE] -- CMD…")
@click.option("--in", "where", default="host", metavar="WHERE", help="host, inet or a container.  [default: host]")
def exec_(name: str, words: tuple[str, ...], where: str) -> None:
    """Run a command in the network namespace of a lab's host (or its internet, or a container).

    Files and programs are the machine's own; DOCKER_HOST leads to the lab's engine. The exit code is the command's.
    """
    where, argv = _split(words, where)
    if not argv:
        raise click.UsageError("say what to run, after `--`")
    _become(_find(name), argv, where)


@command.command()
@click.argument("name")
@click.option("--in", "where", default="host", metavar="WHERE", help="host, inet or a container.  [default: host]")
def shell(name: str, where: str) -> None:
    """Open a shell in the network namespace of a lab."""
    lab = _find(name)
    click.echo(f"This shell is in {where} of lab {name}; leave it with `exit`.", err=True)
    _become(lab, [os.environ.get("SHELL") or "/bin/sh"], where)


@command.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every lab, and whatever crashed ones left behind.")
def down(names: tuple[str, ...], everything: bool) -> None:
    """Take labs away, with everything that was started in them."""
    from nettrace.errors import LabError
    from nettrace.lab import teardown
    from nettrace.lab.system import require
    from nettrace.lab.wiring import check_name

    if bool(names) == everything:
        raise click.UsageError("name the labs to take down, or say --all")
    require("ip")
    there = teardown.leftovers()
    for name in names:
        if check_name(name) not in there:
            raise LabError(f"there is no lab named {name}: see `nettrace lab list`")
    for name in there if everything else names:
        teardown.remove(name)
        click.echo(f"Lab {name} is gone.")
    if everything and not there:
        click.echo("There was no lab.")


def _find(name: str) -> Lab:
    from nettrace.lab.host import Lab
    from nettrace.lab.system import require

    require()
    return Lab.find(name)


def _split(words: tuple[str, ...], where: str) -> tuple[str, list[str]]:
    """Take `--in WHERE` and the `--` off the words; all that follows is the command."""
    rest = list(words)
    if rest[:1] == ["--in"]:
        if len(rest) < 2:
            raise click.UsageError("--in needs host, inet or the name of a container")
        where, rest = rest[1], rest[2:]
    elif rest and rest[0].startswith("--in="):
        where, rest = rest[0].removeprefix("--in="), rest[1:]
    if rest[:1] == ["--"]:
        rest = rest[1:]
    return where, rest


def _become(lab: Lab, argv: list[str], where: str) -> None:
    """Replace this process by the command, in the lab."""
    import shutil

    from nettrace.errors import LabError

    env = lab.environment()
    if shutil.which(argv[0], path=env["PATH"]) is None:
        raise LabError(f"there is no program {argv[0]} on this machine")
    sys.stdout.flush()
    sys.stderr.flush()
    full = lab.command(argv, where)
    os.execve(full[0], full, env)


def _show(steps: tuple[Step, ...]) -> None:
    for step in steps:
        click.echo(f"{step.where}# {step.command}")


def _table(rows: Sequence[tuple[str, ...]], headers: tuple[str, ...]) -> None:
    from tabulate import tabulate

    click.echo(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(text, err=True)
