"""`nettrace completion`: the script that teaches a shell to complete nettrace's commands and options."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    For this shell only:   source <(nettrace completion bash)
    For good, in bash:     nettrace completion bash > /etc/bash_completion.d/nettrace
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "nettrace", "_NETTRACE_COMPLETE").source())
