"""`nettrace topo`: everything on this host that hangs on something, and what the engine meant by it."""

from __future__ import annotations

import contextlib
import sys

import click

from nettrace.commands.path import check_capabilities
from nettrace.errors import UsageError

EPILOG = """\b
Examples:
  nettrace topo                            tables for a person
  nettrace topo --json | jq '.differences' what the kernel holds otherwise than the engine meant
  nettrace topo --format dot | dot -Tsvg   a picture
  nettrace topo --format mermaid           for a document or an issue

\b
Exit codes: 0, whatever was found; 2 usage; 4 cannot work here.
"""


@click.command(epilog=EPILOG, short_help="Every container, network, bridge and uplink of this host.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (schema nettrace.topo/1).")
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "dot"]), default="text", show_default=True)
def command(as_json: bool, form: str) -> int:
    """Show networks, containers, veth pairs, bridges and uplinks of this host, and what differs from the intent.

    Links, addresses and routes are read from every namespace that has a name or a container in it; nothing is sent,
    and nothing is changed.
    """
    if as_json and form != "text":
        raise UsageError("--json and --format are two different outputs: leave one of them out")
    check_capabilities(predict_only=True)
    from nettrace.collect import Collector
    from nettrace.topology import topology

    allow_many_files()
    with Collector() as collector:
        snapshot = collector.outline()
    found = topology(snapshot)
    from nettrace.render import topo

    if as_json:
        from nettrace.model.base import to_json
        from nettrace.render.safe import safe_json

        click.echo(safe_json(to_json(found, indent=2).decode()))
    elif form == "text":
        click.echo(topo.render_text(found, unicode="utf" in (sys.stdout.encoding or "").lower()))
    else:
        click.echo(topo.render_mermaid(found) if form == "mermaid" else topo.render_dot(found))
    return 0


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each namespace is held open by a descriptor."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
