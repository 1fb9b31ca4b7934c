"""A published port has no DNAT rule that the packet meets.

What it reports: the engine publishes the port, but no rule translates the packet to the container, or, for a service
    of a swarm, to the swarm's load balancer.
Why traffic stops: the host takes the packet for its own, and nothing listens there.
Proof: the engine's published port; the nat table without a rule for it, or without a jump to it; the reset or error.
Remedy: restart the container, so that the engine writes the rule again.
Known limits: where a userland proxy listens in the rule's place, traffic passes and nothing is reported.
Seen in the field: a published port is refused or times out from outside while the container's own address works
    (podman#4288, podman#6401, podman#6065, podman#5315, synology-docker#8, moby#14073). Common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.netfilter import Hook
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule
from nettrace.rules.faults import intent_evidence
from nettrace.rules.publish_facts import (
    PODMAN_CHAIN,
    Asked,
    Wanted,
    add_rule_mend,
    asked,
    by_own_bridge,
    chosen_first,
    dnat_rule,
    dnat_rules,
    nat_table,
    publish_hit,
    published_service,
    restart_command,
    taken_for_host,
    wanted,
)
from nettrace.rules.rewrites import TRACKING, culprit
from nettrace.rules.wording import rule_evidence


def check(case: Case) -> Result:
    """Fire when a packet for a published port is taken for the host's own because no rule translates it."""
    ask, want = asked(case), wanted(case)
    if ask is not None and want is None and ask.nat is None:
        return fired(*_not_taken_in(case, ask))
    if ask is None or want is None or not want.fits or ask.nat is not None:
        return fired()
    if any(culprit(case, each, TRACKING) is not None for each in taken_for_host(case, ask.host)):
        return fired()  # conntrack never saw it: nat.dnat-shadowed names the rule
    right, wrong = dnat_rules(ask.host, want)
    left_out = by_own_bridge(ask, want) and want.engine != "podman"
    if wrong or (right and (left_out or chosen_first(case, ask) is not None)):
        return fired()
    hits = []
    for blocker in taken_for_host(case, ask.host):
        port = f"{want.port.host_port}/{want.port.proto}"
        address = case.flow.dst.address
        if right and ask.incoming is None and address is not None and address.is_loopback:
            hits.append(_unproxied(case, ask, want, port, blocker))
            continue
        if right:
            # The host's own packets come back in by the loopback device.
            hook = Hook.PREROUTING if ask.incoming not in (None, "lo") else Hook.OUTPUT
            hits.append(
                publish_hit(
                    case,
                    ask,
                    blocker,
                    title=f"no rule leads from nat {hook.value.upper()} to the DNAT of the published port {port}",
                    explanation=f"{want.container.name} publishes {port}, and the rule for it stands in "
                    f"{right[0].chain}, but nothing in {hook.value.upper()} jumps there, so {ask.host.name} takes "
                    "the packet for its own.",
                    mend=_jump_mend(case, ask, want, hook),
                    want=want,
                    evidence=rule_evidence(case, ask.host.id, right[0]),
                )
            )
            continue
        hits.append(_missing(case, ask, want, port, blocker))
    return fired(*hits)


def _not_taken_in(case: Case, ask: Asked) -> list[Hit]:
    """Return the findings of a service's port that the routing mesh of this host does not take in."""
    found = published_service(case)
    if found is None:
        return []
    service, port = found
    asked_for = f"{port.host_port}/{port.proto}"
    return [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"the port {asked_for} of service {service.name} has no DNAT rule",
            explanation=f"The swarm's service {service.name} publishes {asked_for} on every host, and no rule here "
            f"(chain DOCKER-INGRESS) hands it to the swarm's load balancer, so {ask.host.name} takes the packet for "
            "its own. The engine writes the rule together with its load balancer, which needs IPVS in the kernel, "
            "once a task of the service runs.",
            mend=Mend(
                summary="Let a task of the service run on a kernel that has IPVS, then restart the engine.",
                commands=(f"docker service ps {service.name}", "modprobe ip_vs", "systemctl restart docker"),
            ),
            evidence=(
                intent_evidence(
                    f"service {service.name} publishes {port.host_port}->{port.container_port}/{port.proto}",
                    service.engine,
                ),
            ),
        )
        for blocker in taken_for_host(case, ask.host)
    ]


def _missing(case: Case, ask: Asked, want: Wanted, port: str, blocker: Blocker) -> Hit:
    return publish_hit(
        case,
        ask,
        blocker,
        title=f"the published port {port} has no DNAT rule",
        explanation=f"{want.container.name} publishes {port}, but no rule translates packets for it to "
        f"{want.target}:{want.port.container_port}, so {ask.host.name} takes them for its own.",
        mend=add_rule_mend(case, ask, want, dnat_rule(want), "Put the rule back."),
        want=want,
    )


def _unproxied(case: Case, ask: Asked, want: Wanted, port: str, blocker: Blocker) -> Hit:
    """The engine's rules leave 127.0.0.0/8 and ::1 to its userland proxy."""
    return publish_hit(
        case,
        ask,
        blocker,
        title=f"no rule translates {case.flow.dst.address} for the published port {port}, and no proxy listens",
        explanation=f"{want.container.name} publishes {port}. The engine's rules leave packets to the host's loopback "
        "to its userland proxy (docker-proxy), and none listens on that port, so nobody takes this one.",
        mend=Mend(
            summary="Restart the container, so that the engine starts its proxy again, and find what ended it.",
            commands=(restart_command(want),),
        ),
        want=want,
    )


def _jump_mend(case: Case, ask: Asked, want: Wanted, hook: Hook) -> Mend:
    summary = "Restart the engine, so that it writes the jump again, and find what deleted it."
    podman = want.engine == "podman"
    place = nat_table(ask.host, case.flow.family, want.engine)
    if place is None:
        return Mend(summary=summary, commands=("systemctl restart docker",))
    backend, family, tool = place
    own = ""
    if hook is Hook.OUTPUT:
        own = "! -d 127.0.0.0/8 " if case.flow.family == 4 else "! -d ::1/128 "
    target = PODMAN_CHAIN if podman else "DOCKER"
    own = "" if podman else own
    rule_text = f"-A {hook.value.upper()} {own}-m addrtype --dst-type LOCAL -j {target}"
    return Mend(
        summary=summary,
        commands=("podman network reload --all" if podman else f"{tool} -t nat {rule_text}",),
        change=append_rule(ask.host.id, backend, family, "nat", rule_text),
    )


RULE = rule("nat.dnat-missing", check, rank=46, needs=("netfilter", "intent"))
