"""A container of the flow is not running.

What it reports: the source or destination container is stopped, paused, restarting or dead; or the one that would
    publish the port of the host which is asked for.
Why traffic stops: without a running process there is no network namespace, or nobody in it to send and answer; nor do
    the rules stand, or the proxy listen, that publish its ports.
Proof: the engine's own state of the container.
Remedy: start or unpause it.
Known limits: none.
Seen in the field: no public report is needed: it is the first thing to look at, and is easily overlooked with
    containers that restart in a loop.
"""

from __future__ import annotations

from nettrace.model.flow import EndpointKind
from nettrace.model.intent import Container
from nettrace.model.path import Reason, Segment
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_status
from nettrace.rules.faults import blockers, intent_evidence
from nettrace.rules.publish_facts import absent_publisher, asked, publish_hit, taken_for_host


def check(case: Case) -> Result:
    """Fire for the end whose container does not run."""
    hits = []
    for blocker, step in blockers(case, Reason.NOT_RUNNING):
        end = case.flow.src if step.segment is Segment.SOURCE else case.flow.dst
        container, name = case.container_of(end), end.name
        if end.kind is not EndpointKind.CONTAINER and step.netns in case.world.containers:
            # The host's address was asked, or the container's own: the packet came to it all the same.
            container = case.world.containers[step.netns]
            name = container.name
        status = container.status if container is not None else "not running"
        tool = container.engine if container is not None and container.engine in ("podman", "cri") else "docker"
        hits.append(
            Hit(
                title=f"container {name} is {status}",
                explanation=f"{name} is {status}, so nothing can be sent from it or delivered to it.",
                at=name,
                evidence=(intent_evidence(f"container {name}: {status}", tool),),
                mend=_mend(container, name, status, tool),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits, *_not_there_to_publish(case))


def _mend(container: Container | None, name: str, status: str, tool: str) -> Mend:
    """Return what brings a container back; of one that ends whenever it is started, what tells why."""
    if tool == "cri":
        namespace, _, pod = name.removeprefix("pod:").partition("/")
        command = f"kubectl --namespace {namespace} describe pod {pod}"
        return Mend(summary="Start the container.", commands=(command,))
    if status == "restarting":
        return Mend(
            summary="Find out from what it says why its process ends: the engine starts it again and again.",
            commands=(f"{tool} logs --tail 20 {name}",),
        )
    verb = "unpause" if status == "paused" else "start"
    return Mend(
        summary=f"{verb.capitalize()} the container.",
        commands=(f"{tool} {verb} {name}",),
        # A stopped container has no namespace yet that the model could walk.
        change=set_status(container, "running") if container is not None and status == "paused" else None,
    )


def _not_there_to_publish(case: Case) -> list[Hit]:
    """Find the container that would publish the port of the host which is asked for, if it ran."""
    ask, found = asked(case), absent_publisher(case)
    if ask is None or found is None:
        return []
    container, port = found
    tool = container.engine if container.engine == "podman" else "docker"
    published = f"{port.host_port}/{port.proto}"
    return [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"container {container.name}, which publishes {published}, is {container.status}",
            explanation=f"{container.name} publishes {published} while it runs. It is {container.status}, so "
            f"{ask.host.name} takes the packet for its own, and nothing listens there.",
            mend=_mend(container, container.name, container.status, tool),
            evidence=(intent_evidence(f"container {container.name}: {container.status}, publishes {published}", tool),),
        )
        for blocker in taken_for_host(case, ask.host)
    ]


RULE = rule("engine.container-not-running", check, rank=10, needs=("intent",))
