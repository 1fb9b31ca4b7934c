"""The name server that the source uses gives no usable answer.

What it reports: the source asked the servers of its resolv.conf, and none said whether the name exists. Where another
    server made up for a silent one, it is a warning.
Why traffic stops: without an address there is nothing to send to.
Proof: the queries and what came back; the way to the server, which is diagnosed as any other way, and the object that
    stops it, which is named beside this finding.
Remedy: that of the stop on the way; else a server that answers.
Known limits: behind Docker's own server (127.0.0.11) the first of the servers that it asks is looked at. A server
    beyond this host that answers with an error is not looked into.
Seen in the field: names of the internet fail behind a VPN or a firewall that takes port 53 (docker/for-linux#179,
    docker/for-linux#392).
"""

from __future__ import annotations

from nettrace.model.base import Missing
from nettrace.model.lookup import EMBEDDED, Answer, Lookup
from nettrace.model.path import Segment
from nettrace.model.verdict import Basis, Severity
from nettrace.rules.base import Hit, Mend, Result, Unknown, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.dns_facts import answer_words, is_query, lookup_evidence, unheard_at_home, upstream_evidence
from nettrace.rules.wording import enter


def check(case: Case) -> Result:
    """Fire when no server gave an answer to the name that was asked for; a warning when a later one did."""
    lookup = case.lookup
    if lookup is None:
        return fired()
    if lookup.addresses or not lookup.failures:
        return fired(_late(case, lookup, lookup.passed_over)) if lookup.passed_over else fired()
    own = case.flow.src.netns == lookup.question.src.netns
    if not is_query(case) or (own and unheard_at_home(case)):
        # Nobody listens in the source's own namespace: a plainer fault, with a code of its own.
        return fired()
    first = lookup.failures[0]
    behind = case.flow.dst.address if case.flow.dst.address != first.server else None
    said = answer_words(first)
    handed = f", which asks {behind} in its turn" if behind is not None else ""
    home = first.server.is_loopback and behind is None
    if home and (lacking := _unread(case)):
        # Whether the query stays unheard at home, which has codes of its own, cannot be told.
        return Unknown(needs=lacking, reason=f"not read: {', '.join(lacking)}")
    stopped = "" if case.blockers else _no_stop(case, first, said)
    return fired(
        Hit(
            title=f"{lookup.name} cannot be looked up: {first.server}"
            + (f", which asks {behind}," if behind is not None else "")
            + f" gives {said}",
            explanation=f"{lookup.question.src.name} resolves names by {first.server}{handed}. The query for "
            f"{lookup.name} came to nothing ({said}), so there is no address to send to.{stopped}",
            at=case.flow.src.name,
            evidence=(*lookup_evidence(lookup, lookup.failures), *upstream_evidence(case, lookup)),
            mend=Mend(
                summary="Use a name server that answers (--dns when the container is made, or the host's resolv.conf).",
                commands=(f"{enter(case, case.flow.src.netns)}nslookup {lookup.name} {behind or first.server}",)
                if case.flow.src.netns is not None
                else (),
            ),
            basis=Basis.OBSERVED,
            segment=Segment.SOURCE if home else Segment.REMOTE,
            netns=lookup.question.src.netns,
        )
    )


def _unread(case: Case) -> tuple[str, ...]:
    view = case.view(case.flow.src.netns)
    sections = ("addresses", "routes", "rules", "sockets", "netfilter")
    return tuple(
        f"{view.name}/{each}" for each in sections if view is not None and isinstance(getattr(view.ns, each), Missing)
    )


def _no_stop(case: Case, first: Answer, said: str) -> str:
    if str(first.server) == EMBEDDED and case.flow.dst.address == first.server:
        return f" Docker's own server took the query ({EMBEDDED} is redirected to where it listens)."
    return f" Packets reach {case.flow.dst.address} and come back: it is the server that does not answer the question."


def _late(case: Case, lookup: Lookup, lost: tuple[Answer, ...]) -> Hit:
    first = lost[0]
    others = sorted({str(each.server) for each in lookup.answers if each not in lost})
    return Hit(
        title=f"the name server {first.server} gives {answer_words(first)}; {', '.join(others)} answers in its place",
        explanation=f"{lookup.question.src.name} asks {first.server} first. Every lookup waits for it, five seconds as "
        "a rule, before the next server is asked.",
        at=lookup.question.src.name,
        evidence=lookup_evidence(lookup),
        mend=Mend(
            summary="Take the server out of resolv.conf, or find out why it does not answer.",
            commands=(f"nettrace path {lookup.question.src.name} {first.server} --proto udp --port 53",),
        ),
        basis=Basis.OBSERVED,
        severity=Severity.WARNING,
        netns=lookup.question.src.netns,
    )


RULE = rule("dns.server-unreachable", check, rank=76, needs=("names",))
