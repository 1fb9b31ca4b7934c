"""Queries to Docker's name server are redirected, and nothing listens where they are led.

What it reports: the container's nat table leads 127.0.0.11:53 to a port of the namespace that no socket is bound to.
Why traffic stops: the query arrives at that port, and the kernel refuses it.
Proof: the redirect; the sockets of the namespace; the query that is refused.
Remedy: restart the container, or the engine if all its containers are without names.
Known limits: a server that hangs still holds its socket: then it is dns.server-unreachable.
Seen in the field: names fail although the redirect stands, until the engine is restarted (libnetwork#2049,
    moby#20029).
"""

from __future__ import annotations

from nettrace.model.lookup import EMBEDDED
from nettrace.model.path import Direction, Segment
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.dns_facts import embedded_sockets, lookup_evidence, owner, redirected, unheard_at_home
from nettrace.rules.faults import view_of
from nettrace.rules.wording import rule_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a query to 127.0.0.11 was redirected to a port without a listener."""
    if str(case.flow.dst.address) != EMBEDDED or not redirected(case):
        return fired()
    hits = []
    for blocker, step in unheard_at_home(case):
        view = view_of(case, step)
        nats = [
            nat
            for each in case.steps(Direction.FORWARD)
            if each.hook is not None and each.netns == view.id
            for nat in each.hook.nats
            if nat.new_dst is not None or nat.new_dport is not None
        ]
        held = ", ".join(f"{each} {EMBEDDED}:{port}" for each, port in sorted(embedded_sockets(view).items())) or "none"
        container, lookup = owner(case), case.lookup
        proto, port = case.flow.proto.value, step.packet.dport
        restart = (f"docker restart {container.name}",) if container is not None else ()
        hits.append(
            Hit(
                title=f"nothing listens on {proto} {step.packet.dst}:{port}, where {view.name} leads its DNS queries",
                explanation=f"{view.name} resolves names by Docker's own server, {EMBEDDED}. The redirect stands and "
                f"leads to port {port}, but no socket there takes the query: the engine's server is gone, or it "
                "listens elsewhere by now.",
                at=view.name,
                evidence=(
                    *(each for nat in nats[:1] for each in rule_evidence(case, view.id, nat.rule)),
                    Evidence(kind=EvidenceKind.SOCKET, ref=view.name, text=step.text),
                    Evidence(kind=EvidenceKind.SOCKET, ref=view.name, text=f"Docker's name server: {held}"),
                    *(lookup_evidence(lookup) if lookup is not None else ()),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Restart the container; if no container of the host resolves names, restart the engine.",
                    commands=(*restart, "systemctl restart docker"),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.SOURCE,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("dns.resolver-not-listening", check, rank=74, needs=("netfilter", "sockets"))
