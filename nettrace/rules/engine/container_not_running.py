"""A container of the flow is not running.

What it reports: the source or destination container is stopped, paused, restarting or dead.
Why traffic stops: without a running process there is no network namespace, or nobody in it to send and answer.
Proof: the engine's own state of the container.
Remedy: start or unpause it.
Known limits: none.
Seen in the field: no public report is needed: it is the first thing to look at, and is easily overlooked with
    containers that restart in a loop.
"""

from __future__ import annotations

from nettrace.model.path import Reason, Segment
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_status
from nettrace.rules.faults import blockers, intent_evidence


def check(case: Case) -> Result:
    """Fire for the end whose container does not run."""
    hits = []
    for blocker, step in blockers(case, Reason.NOT_RUNNING):
        end = case.flow.src if step.segment is Segment.SOURCE else case.flow.dst
        container = case.container_of(end)
        status = container.status if container is not None else "not running"
        verb = "unpause" if status == "paused" else "start"
        tool = container.engine if container is not None and container.engine in ("podman", "cri") else "docker"
        command = f"{tool} {verb} {end.name}"
        if tool == "cri":
            namespace, _, name = end.name.removeprefix("pod:").partition("/")
            command = f"kubectl --namespace {namespace} describe pod {name}"
        hits.append(
            Hit(
                title=f"container {end.name} is {status}",
                explanation=f"{end.name} is {status}, so nothing can be sent from it or delivered to it.",
                at=end.name,
                evidence=(intent_evidence(f"container {end.name}: {status}", tool),),
                mend=Mend(
                    summary=f"{verb.capitalize()} the container.",
                    commands=(command,),
                    # A stopped container has no namespace yet that the model could walk.
                    change=set_status(container, "running") if container is not None and status == "paused" else None,
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("engine.container-not-running", check, rank=10, needs=("intent",))
