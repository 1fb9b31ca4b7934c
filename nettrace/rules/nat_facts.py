"""How a packet leaves the host, and what its source address should have become."""

from __future__ import annotations

import re
from ipaddress import ip_network

from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.model.base import IPNetwork, Model
from nettrace.model.flow import Packet
from nettrace.model.intent import Network
from nettrace.model.netfilter import Hook, RuleRef
from nettrace.model.observe import SightingKind
from nettrace.model.path import Direction, LegEnd, Reason, Segment, Step, StepKind
from nettrace.model.verdict import Basis, Evidence, EvidenceKind
from nettrace.netfilter.ruleset import Nat
from nettrace.predict import route as routing
from nettrace.predict.children import ROUTED
from nettrace.rules.base import Hit, Mend
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule
from nettrace.rules.faults import attachment, intent_evidence
from nettrace.rules.wording import wire_evidence

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "icmpv6": 58, "sctp": 132}


class Leaving(Model):
    """A packet that left this host with a source address that is not the host's.

    `original` is the source it had inside; `translated` is true when that was changed. `covering` are source NAT
    rules that would have matched it. `meant` is false when the engine was told not to masquerade.
    """

    packet: Packet
    original: Packet
    netns: int
    device: str
    translated: bool
    covering: tuple[RuleRef, ...]
    meant: bool
    network: Network | None
    subnet: IPNetwork | None
    blocker: Blocker


def leaving(case: Case) -> Leaving | None:
    """Return how the flow left with a source that cannot be answered; None when it did not."""
    blocker = next(
        (each for each in case.blockers if each.direction is Direction.REPLY and each.segment is Segment.REMOTE), None
    )
    if blocker is None or case.trace.forward.passing is not LegEnd.LEFT:
        return None
    steps = case.steps(Direction.FORWARD)
    out = next((step for step in steps if step.kind is StepKind.LEAVE), None)
    first = _as_sent(steps)
    if out is None or first is None or out.device is None:
        return None
    if not any(step.kind is StepKind.ROUTE and step.netns == out.netns for step in steps):
        # A macvlan sends by its parent, past the host's stack: nothing there is to translate it.
        return None
    view = case.world.views[out.netns]
    packet = _seen_leaving(case, out.packet, f"{view.name}/{out.device}")
    # A loopback address is the host's own, and nobody beyond can answer to it.
    if routing.is_local(view, packet.src) and not packet.src.is_loopback:
        return None
    if out.netns == case.flow.src.netns:
        return None
    own = attachment(case, case.flow.src)
    routed = _routed_child(case)
    network = own[5] if own is not None else routed
    subnet = next((each.subnet for each in network.subnets if first.src in each.subnet), None) if network else None
    mode = (network.gateway_mode_ipv4 if packet.family == 4 else network.gateway_mode_ipv6) if network else None
    # What an ipvlan child in l3 mode sends is routed by the host under its own address: nobody means to translate it.
    meant = routed is None and _masquerades(network, mode)
    if network is None and not first.src.is_private:
        return None
    return Leaving(
        packet=packet,
        original=first,
        netns=out.netns,
        device=out.device,
        translated=packet.src != first.src,
        covering=_covering(case, out.netns, first, out.device),
        meant=meant,
        network=network,
        subnet=subnet,
        blocker=blocker,
    )


def _as_sent(steps: tuple[Step, ...]) -> Packet | None:
    """Return the packet with its first source, which a rule in its own namespace may have changed at once."""
    first = next((step for step in steps if not step.packet.src.is_unspecified), None)
    if first is None:
        return None
    for nat in first.hook.nats if first.hook is not None else ():
        if nat.new_src == first.packet.src and nat.old_src is not None:
            return replace(first.packet, src=nat.old_src)
    return first.packet


def _masquerades(network: Network | None, mode: str | None) -> bool:
    return network is None or (network.masquerade is not False and mode not in ("routed", "isolated"))


def _routed_child(case: Case) -> Network | None:
    """Return the network of a source that is an ipvlan child whose parent's namespace routes for it."""
    view = case.view(case.flow.src.netns)
    for endpoint, network in case.attachments(case.container_of(case.flow.src)):
        link = case.link_of(view, endpoint) if view is not None else None
        if link is not None and link.ipvlan_mode in ROUTED:
            return network
    return None


def _seen_leaving(case: Case, predicted: Packet, point: str) -> Packet:
    """Return the packet as the capture at the egress shows it, else as the model does."""
    for sighting in case.observation.sightings if case.observation is not None else ():
        if sighting.kind is SightingKind.PROBE and sighting.point == point:
            return sighting.packet
    return predicted


def _covering(case: Case, netns: int, packet: Packet, device: str) -> tuple[RuleRef, ...]:
    """Return the source NAT rules whose source and output device fit the packet, read from their text.

    A chain of its own counts only where a jump to it fits too: netavark's names the subnet there.
    """
    family = "ip" if packet.family == 4 else "ip6"
    found = []
    for table in case.world.views[netns].ruleset.tables:
        if table.family not in (family, "inet"):
            continue
        texts = [rule.ref.text for chain in table.chains.values() for rule in chain.rules]
        for chain in table.chains.values():
            for rule in chain.rules:
                kinds = [each.kind for each in rule.exprs if isinstance(each, Nat)]
                translates = any(kind in ("masquerade", "snat") for kind in kinds)
                if not translates or not _fits(rule.ref.text, packet, device):
                    continue
                if chain.base is not None or any(_leads(text, chain.name, packet) for text in texts):
                    found.append(rule.ref)
    return tuple(found)


def _leads(text: str, chain: str, packet: Packet) -> bool:
    """Tell whether a rule jumps to a chain, for this packet's addresses."""
    jump = rf"(?:-j|-g|jump|goto) {re.escape(chain)}(?![\w.-])"
    return re.search(jump, text) is not None and _addressed(text, packet)


def _addressed(text: str, packet: Packet) -> bool:
    """Tell whether the addresses in a rule's text are the packet's."""
    for flag, word, address in (("-s", "saddr", packet.src), ("-d", "daddr", packet.dst)):
        said = re.search(rf"(! )?(?:{flag}|ip6? {word})( !=)? ([0-9a-fA-F.:]+(?:/\d+)?)", text)
        if said is not None and (address in ip_network(said[3], strict=False)) == bool(said[1] or said[2]):
            return False
    return True


def _fits(text: str, packet: Packet, device: str) -> bool:
    if not _addressed(text, packet):
        return False
    if "mark" in text and not re.search(r"-s |saddr", text):
        return False
    if re.search(r"--src-type LOCAL|fib saddr type local", text):
        # For what the host itself sends to its containers.
        return False
    out = re.search(r"(! )?(?:-o|oifname)( !=)? \"?([^\s\"]+)\"?", text)
    if out is not None and (out[3] == device) == bool(out[1] or out[2]):
        return False
    proto = re.search(r"(! )?-p (\S+)", text) or re.search(r"()\b(icmp|tcp|udp) ", text)
    return proto is None or (PROTOCOLS.get(proto[2], proto[2]) == packet.proto) != bool(proto[1])


def from_loopback(case: Case, step: Step) -> bool:
    """Tell whether a packet of the host's own came to another namespace with a source of 127.0.0.0/8."""
    return step.reason is Reason.MARTIAN and step.packet.src.is_loopback and step.netns != case.world.host


def neighbourly(case: Case, out: Leaving) -> bool:
    """Tell whether an IPv6 source lies in the prefix of the link it leaves by: the router looks for it there."""
    held = case.world.views[out.netns].addresses
    index = case.world.views[out.netns].by_name[out.device].ifindex
    return out.packet.family == 6 and any(out.packet.src in each.address.network for each in held.get(index, ()))


def shadowing(case: Case, out: Leaving) -> tuple[int, RuleRef] | None:
    """Return the rule that decided the packet's source translation before the right one, and its namespace."""
    for step in case.steps(Direction.FORWARD):
        if step.hook is None or step.hook.hook is not Hook.POSTROUTING:
            continue
        for nat in step.hook.nats:
            if step.netns == out.netns or nat.new_src is not None:
                return step.netns, nat.rule
        for entry in reversed(step.hook.trail if step.netns == out.netns else ()):
            if entry.event == "match" and entry.rule.table != "mangle" and entry.rule.index is not None:
                return step.netns, entry.rule
    return None


def nat_hit(
    case: Case,
    out: Leaving,
    *,
    title: str,
    explanation: str,
    summary: str,
    mend: Mend | None = None,
    evidence: tuple[Evidence, ...] = (),
) -> Hit:
    """Return the finding of a source address that leaves wrongly, with the packet at the egress as evidence."""
    shown = [Evidence(kind=EvidenceKind.PACKET, ref=out.device, text=f"leaves as {out.packet.src} → {out.packet.dst}")]
    if out.network is not None:
        meant = "off" if not out.meant else "on"
        shown.append(intent_evidence(f"network {out.network.name}: masquerade {meant}", out.network.engine))
    basis = out.blocker.basis
    if case.correlation.probed and case.correlation.silent:
        basis = Basis.BOTH
    view = case.world.views[out.netns]
    return Hit(
        title=title,
        explanation=explanation,
        at=f"{view.name}/{out.device}",
        evidence=(*evidence, *shown, *wire_evidence(case, out.blocker)),
        mend=mend or _masquerade(case, out, summary),
        basis=basis,
        blocker=out.blocker,
    )


def _masquerade(case: Case, out: Leaving, summary: str) -> Mend:
    """Return the rule that the engine would have written."""
    bridge = out.network.bridge if out.network is not None else None
    subnet = out.subnet or ip_network(f"{out.original.src}/{out.original.src.max_prefixlen}")
    tool = "iptables" if out.original.family == 4 else "ip6tables"
    backend = nat_backend(case, out)
    rule = f"-A POSTROUTING -s {subnet}" + (f" ! -o {bridge}" if bridge else f" -o {out.device}") + " -j MASQUERADE"
    family = "ip" if out.original.family == 4 else "ip6"
    podman = out.network is not None and out.network.engine == "podman"
    reload = ("podman network reload --all",) if podman else ()
    return Mend(
        summary=summary,
        commands=(*reload, f"{tool}{'-legacy' if backend == 'legacy' else ''} -t nat {rule}"),
        change=append_rule(out.netns, backend, family, "nat", rule),
    )


def nat_backend(case: Case, out: Leaving) -> str:
    """Return the iptables back end that the engine keeps its rules in."""
    backends = {
        table.backend
        for table in case.world.views[out.netns].ruleset.tables
        if any(chain.name.startswith(("DOCKER", "NETAVARK")) for chain in table.chains.values())
    }
    return "legacy" if backends == {"legacy"} else "nft"
