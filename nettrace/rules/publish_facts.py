"""What became of a packet that asks for a published port: what the engine meant, and what address translation did."""

from __future__ import annotations

import re

import msgspec

from nettrace.correlate import Blocker
from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet, Proto
from nettrace.model.intent import Container, PublishedPort, Service
from nettrace.model.netfilter import Hook, NatResult, RuleRef
from nettrace.model.path import Direction, Reason, Segment, Step, StepKind
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.netfilter.ruleset import Nat
from nettrace.predict import route as routing
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule
from nettrace.rules.faults import intent_evidence
from nettrace.rules.wording import answer_text, errno_evidence, wire_evidence

#: Where netavark's iptables driver leads packets for published ports.
PODMAN_CHAIN = "NETAVARK-HOSTPORT-DNAT"
#: A packet came to the host's own sockets, and none takes it.
UNTAKEN = (Reason.NOT_LISTENING, Reason.PORT_HELD)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A flow to an address of the host: the packet as the host first saw it, and what translation made of it.

    `incoming` is the device that the host took it in by, None for the host's own packets. `nat` is the destination
    translation that was done.
    """

    host: View
    packet: Packet
    incoming: str | None
    nat: NatResult | None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The published port that a packet asked for; `fits` is false when it is published on another address only."""

    container: Container
    port: PublishedPort
    target: IPAddress
    bridge: str | None
    engine: str
    fits: bool


def asked(case: Case) -> Asked | None:
    """Return the question when it is TCP or UDP to an address of the host, from wherever; else None."""
    host = case.host
    address = case.flow.dst.address
    if host is None or address is None or case.flow.proto is Proto.ICMP or case.flow.dport is None:
        return None
    if not routing.is_local(host, address):
        return None
    incoming: str | None = None
    nat: NatResult | None = None
    packet: Packet | None = None
    for step in case.steps(Direction.FORWARD):
        if step.netns != host.id:
            continue
        if packet is None:
            packet = step.packet
        if step.kind is StepKind.RECEIVE and incoming is None and packet.dst == address:
            link = host.links.get(step.ifindex or 0)
            if link is not None and link.loopback:
                continue  # the host's own packet, which the engine's rules see in OUTPUT
            master = host.links.get(link.master or 0) if link is not None else None
            incoming = master.name if master is not None and master.kind == "bridge" else step.device
        if step.hook is not None and step.hook.hook in (Hook.PREROUTING, Hook.OUTPUT):
            done = [each for each in step.hook.nats if each.new_dst is not None or each.new_dport is not None]
            nat = nat or next(iter(done), None)
    if packet is None:
        return None
    return Asked(host=host, packet=packet, incoming=incoming, nat=nat)


def wanted(case: Case) -> Wanted | None:
    """Return the published port that the question asks the host for; one on another address when none fits better."""
    address, family = case.flow.dst.address, case.flow.family
    other: Wanted | None = None
    for container in case.before.intent.containers:
        if container.status not in ("running", "paused"):
            continue
        for port in container.ports:
            if (port.proto, port.host_port) != (case.flow.proto.value, case.flow.dport):
                continue
            fits = port.host_ip.version == family and (port.host_ip.is_unspecified or port.host_ip == address)
            # One that is published on an address of the other family alone is not published on this one.
            found = _target(case, container, family) or (_target(case, container, 10 - family) if not fits else None)
            if found is None:
                continue
            target, bridge = found
            want = Wanted(
                container=container,
                port=port,
                target=target,
                bridge=bridge,
                engine=container.engine,
                fits=fits,
            )
            if fits:
                return want
            other = other or want
    return other


def absent_publisher(case: Case) -> tuple[Container, PublishedPort] | None:
    """Return the container that does not run and would publish the port that the question asks the host for."""
    address = case.flow.dst.address
    if wanted(case) is not None or published_service(case) is not None:
        return None
    for container in case.before.intent.containers:
        if container.status in ("running", "paused"):
            continue
        for port in container.ports:
            same = (port.proto, port.host_port) == (case.flow.proto.value, case.flow.dport)
            # Of a container that has not been started yet, 0.0.0.0 stands for both families.
            if same and (port.host_ip.is_unspecified or port.host_ip == address):
                return container, port
    return None


def published_service(case: Case) -> tuple[Service, PublishedPort] | None:
    """Return the swarm's service, and its port, that the question asks the host for."""
    for service in case.before.intent.services or ():
        for port in service.ports:
            if (port.proto, port.host_port) == (case.flow.proto.value, case.flow.dport):
                return service, port
    return None


def _target(case: Case, container: Container, family: int) -> tuple[IPAddress, str | None] | None:
    for endpoint, network in case.attachments(container):
        held = endpoint.ipv4 if family == 4 else endpoint.ipv6
        if held is not None and network.bridge is not None:
            return held.ip, network.bridge
    return None


def dnat_rules(host: View, want: Wanted) -> tuple[list[RuleRef], list[RuleRef]]:
    """Return the DNAT rules for a published port that lead to its container's port, and those that lead elsewhere.

    Read from the rules' text: the port may stand as --dport (iptables), or as "dport" (nft).
    """
    right: list[RuleRef] = []
    wrong: list[RuleRef] = []
    family = "ip" if want.target.version == 4 else "ip6"
    port = re.compile(rf"dport {want.port.host_port}(?!\d)")
    proto = re.compile(rf"\b{want.port.proto}\b")
    for table in host.ruleset.tables:
        if table.family not in (family, "inet"):
            continue
        for chain in table.chains.values():
            for rule in chain.rules:
                text = rule.ref.text
                if not any(isinstance(each, Nat) and each.kind == "dnat" for each in rule.exprs):
                    continue
                if port.search(text) and proto.search(text):
                    to = text.split("DNAT" if "DNAT" in text else "dnat")[-1]
                    (right if _leads(to, want) else wrong).append(rule.ref)
    return right, wrong


def _leads(to: str, want: Wanted) -> bool:
    """Tell whether the target that a DNAT rule names is the container's port; of a range, whether it is its address.

    A target without a port leaves the port as it came.
    """
    address = re.escape(str(want.target))
    if want.target.version == 6:
        address = rf"(?:\[{address}\]|{address}(?![:\da-f]))"
    found = re.search(rf"(?<![\d.:a-f]){address}(?![\d.a-f])(?::(\d+)(-\d+)?)?", to)
    if found is None or found[2] is not None:
        return found is not None
    return int(found[1] or want.port.host_port) == want.port.container_port


def taken_for_host(case: Case, host: View) -> list[Blocker]:
    """Return the stops of a packet that the host took for its own: nobody listening, or INPUT dropping it."""
    found = []
    for each in case.blockers:
        step = each.step
        if step is None or step.netns != host.id or each.direction is not Direction.FORWARD:
            continue
        if step.reason in UNTAKEN or (
            step.reason is Reason.FILTERED and step.hook is not None and step.hook.hook is Hook.INPUT
        ):
            found.append(each)
    return found if any(each.step is not None and each.step.reason in UNTAKEN for each in found) else []


def publish_hit(
    case: Case,
    ask: Asked,
    blocker: Blocker,
    *,
    title: str,
    explanation: str,
    mend: Mend,
    want: Wanted | None = None,
    evidence: tuple[Evidence, ...] = (),
    segment: Segment = Segment.HOST,
    device: str | None = None,
) -> Hit:
    """Return the finding of a published port that is not translated as it is meant."""
    meant: tuple[Evidence, ...] = ()
    if want is not None:
        meant = (intent_evidence(published_text(want), want.engine),)
    device = device or ask.incoming
    return Hit(
        title=title,
        explanation=explanation,
        at=f"{ask.host.name}/{device}" if device else ask.host.name,
        evidence=(*evidence, *meant, *_heard(case), *errno_evidence(case), *wire_evidence(case, blocker)),
        mend=mend,
        basis=blocker.basis,
        blocker=blocker,
        segment=segment,
        device=device,
        netns=ask.host.id if device else None,
    )


def _heard(case: Case) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(kind=EvidenceKind.PACKET, ref=each.point, text=answer_text(each))
        for each in case.correlation.resets[:1]
    )


def published_text(want: Wanted) -> str:
    """Say what the engine publishes, as `docker ps` does."""
    return (
        f"{want.container.name} publishes {want.port.host_ip}:{want.port.host_port}->"
        f"{want.port.container_port}/{want.port.proto}"
    )


def restart_command(want: Wanted) -> str:
    """Return the command that makes the engine write a container's rules again."""
    tool = "podman network reload" if want.engine == "podman" else "docker restart"
    return f"{tool} {want.container.name}"


def dnat_rule(want: Wanted) -> str:
    """Return the DNAT rule that the engine writes for a published port; for Podman's two chains, one rule.

    Netavark leaves no bridge out: what comes from its own is masqueraded.
    """
    port = want.port
    to = f"[{want.target}]" if want.target.version == 6 else str(want.target)
    podman = want.engine == "podman"
    chain = PODMAN_CHAIN if podman else "DOCKER"
    away = f"! -i {want.bridge} " if want.bridge and not podman else ""
    at = "" if port.host_ip.is_unspecified else f"-d {port.host_ip} "
    return (
        f"-A {chain} {at}{away}-p {port.proto} -m {port.proto} --dport {port.host_port} "
        f"-j DNAT --to-destination {to}:{port.container_port}"
    )


def nat_table(host: View, family: int, engine: str = "docker") -> tuple[str, str, str] | None:
    """Return (backend, family, command) of the iptables nat table that the engine keeps its DNAT rules in."""
    chain = PODMAN_CHAIN if engine == "podman" else "DOCKER"
    name = "ip" if family == 4 else "ip6"
    for table in host.ruleset.tables:
        if table.name == "nat" and table.family == name and chain in table.chains:
            tool = "iptables" if family == 4 else "ip6tables"
            return table.backend, name, f"{tool}-legacy" if table.backend == "legacy" else tool
    return None


def add_rule_mend(case: Case, ask: Asked, want: Wanted, rule: str, summary: str) -> Mend:
    """Return the remedy that appends a rule to the nat table; without such a table, restart the container."""
    place = nat_table(ask.host, case.flow.family, want.engine)
    if place is None:
        return Mend(summary=summary, commands=(restart_command(want),))
    backend, family, tool = place
    change = append_rule(ask.host.id, backend, family, "nat", rule)
    if want.engine == "podman":
        # It writes the rules of one container again, and ends nothing.
        return Mend(summary=summary, commands=(restart_command(want),), change=change)
    return Mend(
        summary=f"{summary} `{restart_command(want)}` does the same, and ends its connections.",
        commands=(f"{tool} -t nat {rule}",),
        change=change,
    )


def last_nat_step(case: Case, ask: Asked) -> Step | None:
    """Return the hook that translated the destination."""
    for step in case.steps(Direction.FORWARD):
        if step.netns == ask.host.id and step.hook is not None and ask.nat is not None and ask.nat in step.hook.nats:
            return step
    return None


def after_nat(case: Case, ask: Asked) -> list[Blocker]:
    """Return the stops that the packet meets once its destination was translated, and those of its answer.

    Of those behind the host, what comes to a port that nobody has opened is one: a wrong translation leads there.
    """
    nat = last_nat_step(case, ask)
    if nat is None:
        return []
    order = {id(step): index for index, step in enumerate(case.steps(Direction.FORWARD))}
    start = order[id(nat)]
    found = []
    for each in case.blockers:
        behind = each.direction is Direction.REPLY or order.get(id(each.step), start + 1) > start
        here = each.step is None or each.step.netns == ask.host.id or each.step.reason is Reason.NOT_LISTENING
        if behind and here:
            found.append(each)
    return found


def chosen_first(case: Case, ask: Asked) -> RuleRef | None:
    """Return the rule of the nat table that ended the search for a translation before the engine's rule was asked."""
    for step in case.steps(Direction.FORWARD):
        if step.netns != ask.host.id or step.hook is None or step.hook.hook not in (Hook.PREROUTING, Hook.OUTPUT):
            continue
        for entry in reversed(step.hook.trail):
            ends = entry.effect.split(" ")[0] in ("return", "accept")
            if entry.event == "match" and entry.rule.table == "nat" and entry.rule.index is not None and ends:
                return entry.rule
    return None


def answered_by_proxy(case: Case) -> tuple[Asked, Wanted] | None:
    """Return a question that no rule translates, and that a userland proxy answered under another address."""
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or not want.fits or ask.nat is not None or case.correlation.stranger is None:
        return None
    return ask, want


def by_own_bridge(ask: Asked, want: Wanted) -> bool:
    """Tell whether the packet came in by the very bridge that the container hangs on."""
    return want.bridge is not None and ask.incoming == want.bridge


__all__ = [
    "PODMAN_CHAIN",
    "Asked",
    "Wanted",
    "absent_publisher",
    "add_rule_mend",
    "after_nat",
    "answered_by_proxy",
    "asked",
    "by_own_bridge",
    "chosen_first",
    "dnat_rule",
    "dnat_rules",
    "nat_table",
    "publish_hit",
    "published_service",
    "published_text",
    "restart_command",
    "taken_for_host",
    "wanted",
]
