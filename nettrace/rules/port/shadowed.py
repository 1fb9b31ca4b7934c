"""Something else on the host takes a published port.

What it reports: a container publishes the port, and a program of the host listens on it as well, or another rule leads
    it elsewhere first, so that some or all of what is sent there reaches the other one.
Why traffic stops: it does not: it is delivered, but to the wrong one.
Proof: the engine's published port; the host's sockets on it and who holds them; the translation that was done.
Remedy: move one of the two to another port.
Known limits: the engine's own proxy listens on published ports as well, and is known by its name. Who holds a socket
    is looked up for the port of the question alone; where that cannot be seen, nothing is said about it.
Seen in the field: no public report was read; it is how a port can be taken twice where no proxy holds it.
"""

from __future__ import annotations

from nettrace.model.path import Direction, LegEnd
from nettrace.model.snapshot import Socket
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, Severity
from nettrace.predict.sockets import accepts
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_rule
from nettrace.rules.faults import intent_evidence
from nettrace.rules.publish_facts import Asked, Wanted, asked, dnat_rules, published_text, wanted
from nettrace.rules.wording import delete_command, rule_evidence

#: Programs by which engines keep or forward a published port themselves.
PROXIES = ("docker-proxy", "dockerd", "rootlessport", "rootlesskit", "conmon", "slirp4netns", "pasta", "netavark")


def check(case: Case) -> Result:
    """Fire when a published port that was asked for is taken by a program of the host, or by another translation."""
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or not want.fits:
        return fired()
    return fired(_by_rule(case, ask, want), *(_by_socket(case, ask, want, each) for each in _foreign(case, ask)))


def _foreign(case: Case, ask: Asked) -> list[Socket]:
    """Return the host's sockets that would take the packet, and that no part of the engine holds."""
    address = case.flow.dst.address
    return [
        each
        for each in ask.host.sockets
        if (each.proto, each.port) == (case.flow.proto.value, case.flow.dport)
        and address is not None
        and accepts(each, address)
        and each.process
        and not any(name.startswith(PROXIES) for name in each.process)
    ][:1]


def _by_socket(case: Case, ask: Asked, want: Wanted, socket: Socket) -> Hit:
    port, name = f"{want.port.host_port}/{want.port.proto}", ", ".join(socket.process)
    container = want.container.name
    if ask.nat is not None:
        gets = f"What is asked this way is translated, and reaches {container}; what is not (from the host itself by "
        gets += f"127.0.0.1, from the container's own bridge) reaches {name}."
    else:
        gets = f"What is asked this way is not translated, so it reaches {name}, and not {container}."
    return Hit(
        title=f"{name} on {ask.host.name} listens on {port}, which {container} publishes",
        explanation=f"{container} publishes {port}, and {name} listens on the same port of the host. {gets}",
        at=ask.host.name,
        evidence=(
            Evidence(
                kind=EvidenceKind.SOCKET,
                ref=ask.host.name,
                text=f"{socket.proto} {socket.address}:{socket.port} {socket.state}, held by {name}",
            ),
            intent_evidence(published_text(want), want.engine),
        ),
        mend=Mend(
            summary=f"Stop {name}, or let one of the two use another port.",
            commands=(f"ss -lntup 'sport = :{want.port.host_port}'",),
        ),
        basis=Basis.PREDICTED,
        netns=ask.host.id,
    )


def _by_rule(case: Case, ask: Asked, want: Wanted) -> Hit | None:
    """Return the finding of a translation that another rule did: with a stop behind it, that is nat.dnat-shadowed."""
    right, _wrong = dnat_rules(ask.host, want)
    if ask.nat is None or case.blockers or case.trace.forward.passing is not LegEnd.ARRIVED:
        return None
    last = case.steps(Direction.FORWARD)[-1].packet
    if last.dst == want.target and last.dport == want.port.container_port:
        return None
    port, container = f"{want.port.host_port}/{want.port.proto}", want.container.name
    return Hit(
        title=f"a rule leads {port} to {last.dst}:{last.dport}, and not to {container}, which publishes it",
        explanation=f"{container} publishes {port}, but '{ask.nat.rule.text}' decides first: the packet is delivered "
        f"to {last.dst}:{last.dport}, and not to {want.target}:{want.port.container_port}.",
        at=ask.host.name,
        evidence=(
            *rule_evidence(case, ask.host.id, ask.nat.rule),
            *(each for ref in right[:1] for each in rule_evidence(case, ask.host.id, ref)),
            intent_evidence(published_text(want), want.engine),
        ),
        mend=Mend(
            summary="Delete the rule, or let one of the two use another port.",
            commands=(delete_command(case, ask.host.id, ask.nat.rule),),
            change=delete_rule(ask.host.id, ask.nat.rule),
        ),
        basis=Basis.PREDICTED,
        netns=ask.host.id,
    )


RULE = rule("port.shadowed", check, rank=79, needs=("sockets", "netfilter", "intent"), severity=Severity.WARNING)
