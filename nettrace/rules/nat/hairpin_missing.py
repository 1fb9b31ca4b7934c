"""A container cannot reach itself or its neighbour through the published port.

What it reports: the packet comes in by the bridge that the published container hangs on, and is not turned back; or
    a datagram from a container is answered by the userland proxy under another address.
Why traffic stops: the engine's DNAT leaves packets from that bridge alone (a userland proxy should take them, and none
    listens), or the bridge does not send a frame out of the port that it came in by.
Proof: the DNAT rule with its "! -i"; no listener on the host; the port's hairpin flag.
Remedy: reach the container by its own address, run the engine with its userland proxy, or translate these packets too.
Known limits: none.
Seen in the field: a container cannot reach its own published port by the host's address, mostly without the userland
    proxy (moby#6810, moby#12165, moby#13162, moby#48664, moby#12946). Common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule, insert_rule, set_port
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.publish_facts import (
    answered_by_proxy,
    asked,
    by_own_bridge,
    chosen_first,
    dnat_rule,
    dnat_rules,
    nat_table,
    publish_hit,
    restart_command,
    taken_for_host,
    wanted,
)
from nettrace.rules.wording import link_evidence, rule_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a published port is asked for from the published container's own bridge, and is not translated."""
    return fired(*_untranslated(case), *_no_hairpin(case), *_own_source(case), *_answers_otherwise(case))


def _untranslated(case: Case) -> list[Hit]:
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or not want.fits or ask.nat is not None or not by_own_bridge(ask, want):
        return []
    right, _wrong = dnat_rules(ask.host, want)
    earlier = chosen_first(case, ask)
    if not right or (earlier is not None and f"-i {want.bridge} " not in earlier.text):
        return []
    plain = dnat_rule(want).replace("! -i", "-i")
    place = nat_table(ask.host, case.flow.family)
    commands = []
    change = None
    if place is not None:
        backend, family, tool = place
        commands.append(f"{tool} -t nat {plain.replace('-A DOCKER', '-I DOCKER')}")
        change = insert_rule(ask.host.id, backend, family, "nat", plain)
    port = f"{want.port.host_port}/{want.port.proto}"
    name = want.container.name
    return [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"the published port {port} is not translated for packets from {want.bridge} itself",
            explanation=f"The rule that leads to {name} leaves out what comes in by {want.bridge}, and no userland "
            f"proxy listens on {port}, so neighbours of {name} cannot use its published port.",
            mend=Mend(
                summary=f"Translate packets from the bridge too; or reach {name} without the detour, at "
                f"{want.target}:{want.port.container_port}, or switch the engine's userland proxy on.",
                commands=tuple(commands),
                change=change,
            ),
            want=want,
            evidence=rule_evidence(case, ask.host.id, right[0]),
        )
        for blocker in taken_for_host(case, ask.host)
    ]


def _answers_otherwise(case: Case) -> list[Hit]:
    """A datagram that no rule translates is taken by the userland proxy, which answers from whatever address fits."""
    found, stranger = answered_by_proxy(case), case.correlation.stranger
    if found is None or stranger is None or not case.blockers:
        return []
    ask, want = found
    right, _wrong = dnat_rules(ask.host, want)
    port = f"{want.port.host_port}/{want.port.proto}"
    name = want.container.name
    return [
        publish_hit(
            case,
            ask,
            case.blockers[0],
            title=f"the userland proxy answers {port} from {stranger.packet.src}, not from {case.flow.dst.address}",
            explanation=f"No rule translates what comes by {ask.incoming} for the published port of {name}, so the "
            f"engine's userland proxy takes it, and its answer leaves with the source {stranger.packet.src}. The "
            f"socket that asked {case.flow.dst.address} does not take that for an answer.",
            mend=Mend(
                summary=f"Ask the address that answers, reach {name} by its own name on a network that both are in, or "
                "run the engine with --userland-proxy=false, so that rules translate these packets.",
                commands=(f"docker network connect <network of {name}> <the container that asks>",),
            ),
            want=want,
            evidence=(
                Evidence(
                    kind=EvidenceKind.PACKET,
                    ref=stranger.point,
                    text=f"the answer to {case.flow.dst.address}:{case.flow.dport} came from "
                    f"{stranger.packet.src}:{stranger.packet.sport}",
                ),
                *(rule_evidence(case, ask.host.id, right[0]) if right else ()),
            ),
            segment=case.blockers[0].segment,
        )
    ]


def _no_hairpin(case: Case) -> list[Hit]:
    hits = []
    for blocker, step in blockers(case, Reason.PORT_NO_HAIRPIN, Reason.OTHERHOST):
        view = view_of(case, step)
        port = _way_back(case, blocker, step)
        if port is None:
            continue
        hits.append(
            Hit(
                title=f"{port.name} does not send frames back to where they came from (hairpin off)",
                explanation=f"The packet comes in by {port.name} and is translated to the same container again, "
                "but the port's hairpin mode is off, so the bridge drops it.",
                at=f"{view.name}/{port.name}",
                evidence=(link_evidence(view, port), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary="Switch hairpin mode on for the port, or the engine's userland proxy.",
                    commands=(f"bridge link set dev {port.name} hairpin on",),
                    change=set_port(view.id, port.ifindex, hairpin=True),
                ),
                basis=blocker.basis,
                blocker=blocker,
                segment=Segment.BRIDGE,
                device=port.name,
                netns=view.id,
            )
        )
    return hits


def _own_source(case: Case) -> list[Hit]:
    """A packet that was turned back to its sender still carries the sender's own address, which nobody takes in."""
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or ask.nat is None:
        return []
    place = nat_table(ask.host, case.flow.family)
    hits = []
    for blocker, step in blockers(case, Reason.MARTIAN):
        packet = step.packet
        if packet.src != packet.dst or step.netns != case.flow.src.netns or packet.dst != want.target:
            continue
        wide = 32 if packet.family == 4 else 128
        text = (
            f"-A POSTROUTING -s {packet.src}/{wide} -d {packet.dst}/{wide} -p {want.port.proto} -m {want.port.proto} "
            f"--dport {want.port.container_port} -j MASQUERADE"
        )
        commands, change = [restart_command(want)], None
        if place is not None:
            backend, family, tool = place
            commands.append(f"{tool} -t nat {text}")
            change = append_rule(ask.host.id, backend, family, "nat", text)
        hits.append(
            publish_hit(
                case,
                ask,
                blocker,
                title=f"{want.container.name} gets its own packet back with its own address as the source",
                explanation=f"The packet of {want.container.name} for its published port comes back to it, and no rule "
                f"gives it another source than {packet.src}: an address of its own coming in is discarded.",
                mend=Mend(
                    summary="Add the rule that masquerades it; restarting the container writes it again.",
                    commands=tuple(commands),
                    change=change,
                ),
                want=want,
                segment=blocker.segment,
                device=want.bridge,
            )
        )
    return hits


def _way_back(case: Case, blocker: Blocker, step: Step) -> Link | None:
    """Return the port that a frame would have to go back by, and may not.

    The bridge has learnt from the frame itself where its sender is, also when the snapshot's entry for it has aged.
    """
    view = view_of(case, step)
    if step.reason is Reason.PORT_NO_HAIRPIN:
        return view.links.get(step.ifindex or 0)
    came: Link | None = None
    for each in case.steps(blocker.direction):
        if each is step:
            break
        if each.kind is StepKind.RECEIVE and each.netns == view.id and each.link is not None:
            came = each.link
    bridge = view.links.get(step.ifindex or 0)
    if came is None or came.port is None or came.port.hairpin or bridge is None or came.master != bridge.ifindex:
        return None
    peer = case.peer_of(view, came)
    return came if peer is not None and step.packet.dst in peer[0].owned else None


RULE = rule("nat.hairpin-missing", check, rank=46, needs=("netfilter", "intent"))
