"""The engine's forwarding rules are gone.

What it reports: the engine runs with networks, and FORWARD holds none of its rules.
Why traffic stops: something flushed the tables after the engine started; what is left is the policy that drops.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: put back the rules that this traffic needs, or restart the engine, which writes all of them; and keep the other
    tool from flushing them.
Known limits: only judged where the engine is known and manages iptables.
Seen in the field: a firewall that is started or reloaded after Docker flushes the tables (moby#12294, moby#15254,
    moby#16816, moby#10218, moby#14073, csf-firewall#111); Podman's the same (podman#8048, podman#3842, netavark#230).
    Very common.
"""

from __future__ import annotations

import re
from functools import partial

from nettrace.layout import ip6tables_by_default
from nettrace.model.verdict import Evidence
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.engine_rules import absent_rules, put_back
from nettrace.rules.faults import FilterWords, filter_hits
from nettrace.rules.nat_facts import leaving, nat_backend, nat_hit
from nettrace.rules.wording import enter

#: Chains and tables of Docker and Podman.
ENGINE_CHAIN = re.compile(r"DOCKER|NETAVARK|nat-prerouting-and-output")

WORDS = FilterWords(
    title="the engine's own forwarding rules are gone",
    explanation=(
        "The engine's rules were removed (by a flush, or a firewall that was reloaded), so nothing accepts this "
        "traffic any more, and {place} {verb} it."
    ),
    summary="Restart the engine, so that it writes its rules again, and keep the other tool from flushing them.",
    commands=("systemctl restart docker",),
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault, and when the packet leaves untranslated because nothing at all is left."""
    return fired(*filter_hits(case, "filter.docker-rules-missing", WORDS), _nothing_left(case))


def _nothing_left(case: Case) -> Hit | None:
    out = leaving(case)
    engine = case.engine
    if out is None or out.translated or not out.meant or engine is None or engine.iptables is False:
        return None
    if out.packet.family == 6 and not ip6tables_by_default(engine):
        return None  # it writes none, unless asked to
    families = ("ip" if out.packet.family == 4 else "ip6", "inet")
    tables = [table for table in case.world.views[out.netns].ruleset.tables if table.family in families]
    if out.network is None or any(ENGINE_CHAIN.match(name) for table in tables for name in table.chains):
        return None
    family, option = ("ip", "iptables") if out.original.family == 4 else ("ip6", "ip6tables")
    absent = absent_rules(case, out.netns, nat_backend(case, out), family, ("filter", "nat"))
    mend = Mend(summary=WORDS.summary, commands=WORDS.commands)
    meant: tuple[Evidence, ...] = ()
    if absent:
        mend, meant = put_back(case, out.netns, nat_backend(case, out), family, absent, enter=partial(enter, case))
    return nat_hit(
        case,
        out,
        title="the engine's own rules are gone, address translation among them",
        explanation=f"No table holds a rule of the engine, so the packet leaves {out.device} as {out.packet.src}, "
        f"which nobody can answer. Something flushed them, or the engine runs with --{option}=false.",
        summary=WORDS.summary,
        mend=mend,
        evidence=meant,
    )


RULE = rule("filter.docker-rules-missing", check, rank=58, needs=("netfilter",))
