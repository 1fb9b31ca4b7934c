"""How a verdict tells the first leg of a question about a name: its findings before all others, and what became of it.

A name server that cannot be reached is one fault with two names: that of the leg (dns.server-unreachable), which comes
first, and that of the object that stops its packets, which gives it evidence and remedy and stands behind it.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.flow import Flow
from nettrace.model.lookup import EMBEDDED, Lookup
from nettrace.model.path import Direction, Segment
from nettrace.model.verdict import (
    AnswerView,
    Finding,
    FlowView,
    LookupView,
    Result,
    Severity,
    Stop,
    UpstreamView,
)
from nettrace.rules.case import Case
from nettrace.rules.dns_facts import answer_words

SERVER, NAME = "dns.server-unreachable", "dns.name-not-found"


def failed(case: Case) -> Lookup | None:
    """Return the lookup when the name came to nothing, so that the case is about the first leg; else None."""
    lookup = case.lookup
    return lookup if lookup is not None and not lookup.addresses and lookup.answers else None


def asked_flow(case: Case) -> Flow:
    """Return the question as it was asked: the case's flow may be the way to the name server."""
    lookup = failed(case)
    return lookup.question if lookup is not None else case.flow


def names_first(case: Case, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Order the findings of a first leg: the name's own fault first, told with the object that stops the query.

    A container that does not run, or has no network, is no fault of its names. Where the server has answered, the way
    to it stands, whatever the model holds of it.
    """
    if failed(case) is None:
        return findings
    # The lookup itself has just left entries behind that nobody answered: they are no old connection's.
    findings = tuple(each for each in findings if each.code != "conntrack.stale-entry")
    own = [each for each in findings if each.code in (SERVER, NAME) and each.severity is Severity.BLOCKING]
    if not own:
        return findings
    others = [each for each in findings if each not in own]
    causes = [each for each in others if each.severity is Severity.BLOCKING]
    if own[0].code == NAME:
        return (own[0], *(each for each in others if each.severity in (Severity.WARNING, Severity.INFO)))
    if not causes:
        return (own[0], *others)
    first = causes[0]
    if first.code.startswith("engine."):
        return tuple(others)
    told = replace(
        own[0],
        explanation=f"{own[0].explanation} The way to the server is stopped: {first.title}.",
        basis=first.basis,
        at=first.at,
        evidence=(*own[0].evidence, *first.evidence[:2]),
        remedy=first.remedy,
    )
    return (told, *others)


def settles(findings: tuple[Finding, ...]) -> bool:
    """Tell whether a finding says that the name came to nothing: that was observed, whatever the probe told."""
    return any(each.code in (SERVER, NAME) and each.severity is Severity.BLOCKING for each in findings)


def stop_without_blocker(case: Case, findings: tuple[Finding, ...]) -> Stop | None:
    """Return where a first leg stops that no packet was lost on: at the server that answered, or in the source."""
    lookup = failed(case)
    if lookup is None or not settles(findings):
        return None
    server = case.flow.dst.address
    beyond = findings[0].code == SERVER and server is not None and not server.is_loopback
    netns = None if beyond else lookup.question.src.netns
    return Stop(
        direction=Direction.FORWARD,
        segment=Segment.REMOTE if beyond else Segment.SOURCE,
        after=None,
        before=None,
        netns=netns,
        device=None,
        hook=None,
    )


def lookup_view(case: Case, flow: FlowView) -> LookupView | None:
    """Return what the verdict says of the lookup, None when the destination was no name; `flow` is the case's own."""
    lookup = case.lookup
    if lookup is None:
        return None
    return LookupView(
        name=lookup.name,
        outcome=Result.DELIVERED if lookup.addresses else Result.STOPPED if lookup.answers else Result.INCONCLUSIVE,
        told=told(lookup),
        addresses=lookup.addresses,
        files=lookup.files,
        servers=lookup.servers,
        search=lookup.search,
        answers=tuple(
            AnswerView(server=each.server, name=each.name, family=each.family, kind=each.kind, addresses=each.addresses)
            for each in lookup.answers
        ),
        upstreams=tuple(
            UpstreamView(server=each.server, netns=each.netns, source=each.source) for each in lookup.upstreams
        ),
        flow=None if lookup.addresses else flow,
    )


def told(lookup: Lookup) -> str:
    """Say in one line who answered what: "example.org is 8.8.8.8, says 127.0.0.11 (Docker's own server)"."""
    if lookup.listed:
        file = next((each for each in lookup.files if each.endswith("/hosts")), "the hosts file")
        return f"{lookup.name} is {', '.join(map(str, lookup.addresses))}, says {file}"
    last = lookup.answers[-1] if lookup.answers else None
    if last is None:
        return f"nobody was asked for {lookup.name}"
    if lookup.addresses:
        full = f" (as {last.name})" if last.name.lower() != lookup.name.rstrip(".").lower() else ""
        late = f", after {len(lookup.passed_over)} without an answer" if lookup.passed_over else ""
        return f"{lookup.name}{full} is {', '.join(map(str, last.addresses))}, says {_server(str(last.server))}{late}"
    first = (lookup.failures or lookup.answers)[0]
    return f"{lookup.name}: {_server(str(first.server))} gives {answer_words(first)}"


def _server(address: str) -> str:
    return f"{address} (Docker's own server)" if address == EMBEDDED else address


__all__ = [
    "NAME",
    "SERVER",
    "asked_flow",
    "failed",
    "lookup_view",
    "names_first",
    "settles",
    "stop_without_blocker",
    "told",
]
