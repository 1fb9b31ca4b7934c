"""What the rules about names share: who resolves for the source, how to say what was answered, Docker's redirect."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from nettrace.correlate import Blocker
from nettrace.model.intent import Container, Network
from nettrace.model.lookup import DNS_PORT, EMBEDDED, Answer, AnswerKind, Lookup
from nettrace.model.path import Direction, Reason, Step
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers

#: DNS response codes by their names (RFC 1035, 4.1.1).
RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
ERRNO = {
    errno.ECONNREFUSED: "ICMP port unreachable",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.EPERM: "not permitted (netfilter refused it)",
    errno.EACCES: "prohibited",
    errno.EINVAL: "invalid argument",
}


def answer_words(answer: Answer) -> str:
    """Say what a server answered, as in "NXDOMAIN" or "no answer (ICMP port unreachable)"."""
    if answer.kind is AnswerKind.FOUND:
        return ", ".join(str(each) for each in answer.addresses)
    if answer.rcode:
        return RCODES.get(answer.rcode, f"response code {answer.rcode}")
    if answer.errno is not None:
        return f"no answer ({ERRNO.get(answer.errno, f'error {answer.errno}')})"
    if answer.kind is AnswerKind.NO_DATA:
        return f"no {'A' if answer.family == 4 else 'AAAA'} record"
    return answer.kind.value


def lookup_evidence(lookup: Lookup, answers: Iterable[Answer] | None = None) -> tuple[Evidence, ...]:
    """Return what was asked and answered as evidence, and what resolv.conf says."""
    found = [
        Evidence(
            kind=EvidenceKind.PACKET,
            ref=f"DNS query to {each.server}",
            text=f"{each.name} {'A' if each.family == 4 else 'AAAA'}: {answer_words(each)}",
        )
        for each in (lookup.answers if answers is None else answers)
    ]
    return tuple(dict.fromkeys((*found, resolver_evidence(lookup))))


def resolver_evidence(lookup: Lookup) -> Evidence:
    """Return what the source's resolv.conf says, as evidence."""
    file = next((each for each in lookup.files if each.endswith("/resolv.conf")), "no resolv.conf")
    words = [f"nameserver {', '.join(map(str, lookup.servers))}"]
    if lookup.search:
        words.append(f"search {' '.join(lookup.search)}")
    return Evidence(kind=EvidenceKind.INTENT, ref=file, text="; ".join([*words, f"ndots {lookup.ndots}"]))


def upstream_evidence(case: Case, lookup: Lookup) -> tuple[Evidence, ...]:
    """Return whom the engine's own server asks, and from where, as evidence."""
    found = []
    for each in lookup.upstreams:
        view = case.view(each.netns)
        where = view.name if view is not None else ("host" if each.netns == case.world.host else str(each.netns))
        found.append(
            Evidence(
                kind=EvidenceKind.INTENT,
                ref=each.source,
                text=f"{EMBEDDED} asks {each.server} from namespace {where}",
            )
        )
    return tuple(found)


def is_query(case: Case) -> bool:
    """Tell whether the flow is a query to a name server."""
    return case.flow.dport == DNS_PORT and case.flow.proto.value in ("udp", "tcp")


def unheard_at_home(case: Case) -> list[tuple[Blocker, Step]]:
    """Return the stops of a query that stays in the source's namespace, where nothing takes it."""
    if not is_query(case) or case.flow.dst.address is None or not case.flow.dst.address.is_loopback:
        return []
    return [
        (blocker, step)
        for blocker, step in blockers(case, Reason.NOT_LISTENING)
        if step.netns == case.flow.src.netns and blocker.direction is Direction.FORWARD
    ]


def redirected(case: Case) -> bool:
    """Tell whether the query's destination was translated in the source's own namespace."""
    return any(
        step.hook is not None
        and step.netns == case.flow.src.netns
        and any(nat.new_dst is not None or nat.new_dport is not None for nat in step.hook.nats)
        for step in case.steps(Direction.FORWARD)
    )


def owner(case: Case) -> Container | None:
    """Return the container that made the source's namespace."""
    netns = case.flow.src.netns
    return case.world.containers.get(netns) if netns is not None else None


def networks_of(case: Case, container: Container | None) -> list[Network]:
    """Return the networks that a container is in."""
    return [network for _endpoint, network in case.attachments(container)]


def has_names(network: Network) -> bool:
    """Tell whether Docker resolves names on a network: on all but the default bridges, host and none."""
    return network.name not in ("bridge", "host", "none", "podman")


def embedded_sockets(view: View) -> dict[str, int]:
    """Return the ports of Docker's own server in a namespace, by protocol: it listens on 127.0.0.11."""
    return {each.proto: each.port for each in view.sockets if str(each.address) == EMBEDDED}


__all__ = [
    "answer_words",
    "embedded_sockets",
    "has_names",
    "is_query",
    "lookup_evidence",
    "networks_of",
    "owner",
    "redirected",
    "resolver_evidence",
    "unheard_at_home",
    "upstream_evidence",
]
