"""The host does not publish that port.

What it reports: the packet asks the host for a port that no container publishes and nothing on the host listens on.
Why traffic stops: without a published port there is no DNAT, and the host itself refuses the packet.
Proof: the engine's list of published ports; the host's sockets; the reset or error.
Remedy: create the container with -p for that port, or use a port that is published.
Known limits: a service of the host itself that is down looks the same; the engine only tells what it publishes.
Seen in the field: no single report stands for it: a port that is exposed is taken for one that is published.
"""

from __future__ import annotations

from nettrace.model.flow import EndpointKind
from nettrace.model.path import Reason
from nettrace.rules.base import Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import intent_evidence
from nettrace.rules.publish_facts import absent_publisher, asked, publish_hit, published_service, taken_for_host, wanted


def check(case: Case) -> Result:
    """Fire when the host takes the packet for its own, nothing listens, and no container publishes the port."""
    ask = asked(case)
    engine = case.engine
    if ask is None or ask.nat is not None or wanted(case) is not None or engine is None:
        return fired()
    if case.flow.dst.kind is EndpointKind.CONTAINER and case.flow.dst.netns == ask.host.id:
        return fired()  # it uses the host's own network: what listens there needs no publishing
    if case.lookup is not None and not case.lookup.addresses:
        return fired()  # the query for a name: a server of the host's own is meant
    if published_service(case) is not None:
        return fired()  # nat.dnat-missing
    if absent_publisher(case) is not None:
        return fired()  # engine.container-not-running
    bridged = [each for each in case.before.intent.containers if each.status == "running" and each.endpoints]
    if not bridged:
        return fired()
    port = f"{case.flow.dport}/{case.flow.proto.value}"
    published = sorted({f"{each.host_port}/{each.proto}" for one in bridged for each in one.ports if each.host_port})
    inside = next(
        (
            (each.name, item.host_port)
            for each in bridged
            for item in each.ports
            if item.host_port and (item.container_port, item.proto) == (case.flow.dport, case.flow.proto.value)
        ),
        None,
    )
    hint = f" {inside[0]} publishes its port {case.flow.dport} as {inside[1]}." if inside is not None else ""
    if engine.swarm is not None and case.before.intent.services is None:
        hint += " Whether a service of the swarm does, only a manager of it can tell."
    told = f"published: {', '.join(published)}" if published else "no container publishes a port"
    hits = [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"no container publishes {port} on {ask.host.name}",
            explanation=f"{ask.host.name} takes the packet for its own: no container publishes {port}, and nothing "
            f"on the host listens there.{hint}",
            mend=Mend(
                summary="Publish the port (the container must be created again), or use one that is published.",
                commands=("docker ps --format '{{.Names}} {{.Ports}}'", f"docker run -p {case.flow.dport}:<port> …"),
            ),
            evidence=(intent_evidence(told, engine.name),),
        )
        for blocker in taken_for_host(case, ask.host)
        if blocker.step is not None and blocker.step.reason is Reason.NOT_LISTENING and blocker.step.socket is None
    ]
    return fired(*hits)


RULE = rule("port.not-published", check, rank=78, needs=("intent", "sockets"))
