"""The port is not published, and the engine drops everything else.

What it reports: the engine's default drop for a bridge stops a port that is not published.
Why traffic stops: since Docker 28 a bridge accepts from outside only what is published.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: Publish the port when the container is created.
Known limits: none.
Seen in the field: since Docker 28, ports that are not published are closed to direct routing, also where FORWARD
    accepts (moby#48724, moby#48597, moby#49498, moby#49536). Common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="the engine drops what comes from outside and is not for a published port",
    explanation="The engine accepts from outside only ports that are published, and drops the rest at {place}.",
    summary="Publish the port when the container is created.",
    commands=("docker run -p {ports} …",),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "filter.unpublished-port-drop", WORDS))


RULE = rule("filter.unpublished-port-drop", check, rank=55, needs=("netfilter",))
