"""Docker's name server has no redirect rules in the container.

What it reports: the container asks 127.0.0.11, and no rule of its nat table hands the query on to the port where Docker
    listens.
Why traffic stops: Docker's server listens inside the namespace on a high port; a query to port 53 reaches nobody.
Proof: the nat table of the container's namespace; its sockets on 127.0.0.11; the query that is refused.
Remedy: restart the container, which writes the rules again, or write the redirect back by hand.
Known limits: where the server itself is gone as well, only the restart helps, and no redirect can be proposed.
Seen in the field: names fail while addresses work, once a tool has flushed the rules inside the container
    (libnetwork#1938, moby#35095).
"""

from __future__ import annotations

from nettrace.model.lookup import EMBEDDED
from nettrace.model.path import Segment
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import add_table
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
    """Fire when a query to 127.0.0.11 is not redirected, in a namespace that should have Docker's name server."""
    if str(case.flow.dst.address) != EMBEDDED or redirected(case):
        return fired()
    hits = []
    for blocker, step in unheard_at_home(case):
        view = view_of(case, step)
        ports = embedded_sockets(view)
        container = owner(case)
        if not ports and not any(has_names(network) for network in networks_of(case, container)):
            continue  # nobody meant a name server here: dns.loopback-stub
        proto = case.flow.proto.value
        prefix = enter(case, view.id)
        rules = [
            f"-A OUTPUT -d {EMBEDDED}/32 -p {each} -m {each} --dport 53 -j DNAT --to-destination {EMBEDDED}:{port}"
            for each, port in sorted(ports.items(), reverse=True)
        ]
        tool = "podman" if container is not None and container.engine == "podman" else "docker"
        restart = (f"{tool} restart {container.name}",) if container is not None else ()
        held = ", ".join(f"{each} {EMBEDDED}:{port}" for each, port in sorted(ports.items())) or "none"
        lookup = case.lookup
        hits.append(
            Hit(
                title=f"no rule in {view.name} redirects {EMBEDDED} to Docker's name server",
                explanation=f"{view.name} resolves names by Docker's own server, {EMBEDDED}. It listens on a high "
                f"port, and the rules that lead port 53 there (chain DOCKER_OUTPUT, or nft's table docker-dns) are "
                f"missing or not reached for {proto}, so every query goes to a port where nothing listens.",
                at=view.name,
                evidence=(
                    Evidence(
                        kind=EvidenceKind.RULE,
                        ref=f"{view.name}: nat OUTPUT",
                        text=f"no destination translation of {EMBEDDED}:53/{proto}",
                    ),
                    Evidence(kind=EvidenceKind.SOCKET, ref=view.name, text=f"Docker's name server: {held}"),
                    *(lookup_evidence(lookup) if lookup is not None else ()),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Write the redirect anew, before what may hide it; restarting the container does the same. "
                    "Then find out what flushes nat tables inside containers.",
                    commands=tuple(f"{prefix}iptables -t nat {each.replace('-A', '-I', 1)}" for each in rules)
                    or restart,
                    change=add_table(view.id, "ip", "nat", ":OUTPUT ACCEPT [0:0]", rules) if rules else None,
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.SOURCE,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("dns.embedded-rules-missing", check, rank=74, needs=("netfilter", "sockets"))
