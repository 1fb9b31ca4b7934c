"""The resolver is a loopback stub that the namespace does not have.

What it reports: resolv.conf names a server such as 127.0.0.53, and nothing in this namespace listens there.
Why traffic stops: a loopback address means the asking namespace itself; the host's stub resolver is in another.
Proof: resolv.conf; the sockets of the namespace; the query that is refused.
Remedy: give the container a server that it can reach (--dns, or "dns" in the engine's daemon.json).
Known limits: a stub that is there and hands on to a dead server is dns.server-unreachable.
Seen in the field: a host with systemd-resolved hands its 127.0.0.53 to a container (libnetwork#1654).
"""

from __future__ import annotations

from nettrace.model.lookup import EMBEDDED
from nettrace.model.path import Segment
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.dns_facts import (
    embedded_sockets,
    has_names,
    lookup_evidence,
    networks_of,
    owner,
    redirected,
    unheard_at_home,
)
from nettrace.rules.faults import view_of
from nettrace.rules.wording import enter, wire_evidence


def check(case: Case) -> Result:
    """Fire when the source's resolver is a loopback address of its own namespace, where nothing takes the query."""
    lookup = case.lookup
    if lookup is None or lookup.addresses or redirected(case):
        return fired()
    hits = []
    for blocker, step in unheard_at_home(case):
        view = view_of(case, step)
        server = case.flow.dst.address
        if server not in lookup.servers:
            continue
        if str(server) == EMBEDDED and (
            embedded_sockets(view) or any(has_names(network) for network in networks_of(case, owner(case)))
        ):
            continue
        on_host = view.id == case.world.host
        whose = "the host's own resolver, which does not run" if on_host else "a service of another namespace"
        summary = (
            "Start the stub resolver (systemd-resolved, dnsmasq …), or name a server that answers in resolv.conf."
            if on_host
            else 'Give the container a name server that it can reach, and create it again: --dns, or "dns" in '
            "/etc/docker/daemon.json."
        )
        container = owner(case)
        image = f"docker run --dns <server> --name {container.name} …" if container is not None else ""
        hits.append(
            Hit(
                title=f"{view.name} resolves names by {server}, a loopback address where nothing listens",
                explanation=f"resolv.conf of {lookup.question.src.name} names {server}. A loopback address stays in "
                f"the namespace that asks, and nothing in {view.name} listens on its port 53: it is {whose}.",
                at=view.name,
                evidence=(
                    Evidence(kind=EvidenceKind.SOCKET, ref=view.name, text=step.text),
                    *lookup_evidence(lookup),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary=summary,
                    commands=tuple(filter(None, (image, f"{enter(case, view.id)}ss -lunt"))),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.SOURCE,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("dns.loopback-stub", check, rank=75, needs=("names", "sockets"))
