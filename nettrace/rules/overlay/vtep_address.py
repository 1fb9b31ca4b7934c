"""The hosts of an overlay look for each other at the wrong address.

What it reports: a forwarding entry sends the tunnel to an address that is not the other host's, or the tunnel leaves
    with another source than the one that the others know this host by.
Why traffic stops: the outer packets go to nobody, or to the wrong host; or they arrive, and the vxlan device there
    discards them, since its permanent entry names another host for that MAC (VXLAN_ENTRY_EXISTS).
Proof: the entry's destination against the addresses of the host that has the container; the outer packet's source
    before and after translation against the far side's entry.
Remedy: let the host join the swarm again with --advertise-addr (or --data-path-addr) set to the address that the others
    reach it by; delete the rule that translates the tunnel.
Known limits: from one host alone, an address that is wrong in the swarm's own list of hosts looks right: that host is
    asked, and does not answer (remote.no-reply). With --peer its own addresses tell.
Seen in the field: nodes advertise an address behind NAT or of the wrong interface (flannel#895, flannel#1379,
    classicswarm#2687), or their tunnel leaves with another source than they advertise: frames reach the host, and its
    vxlan device receives none (moby#53004, libnetwork#2446). Very common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.base import IPAddress
from nettrace.model.netfilter import RuleRef
from nettrace.model.path import Direction, Reason, Segment, Step
from nettrace.model.text import fdb_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict import overlay
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import delete_rule, set_vtep
from nettrace.rules.faults import blockers, intent_evidence, view_of
from nettrace.rules.wording import delete_command, enter, names, rule_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire where the tunnel goes to, or comes from, an address that is not the host's."""
    hits = [_wrong_host(case, *each) for each in blockers(case, Reason.VXLAN_WRONG_HOST)]
    hits += [_wrong_source(case, *each) for each in blockers(case, Reason.VXLAN_WRONG_SOURCE)]
    return fired(*hits)


def _wrong_host(case: Case, blocker: Blocker, step: Step) -> Hit:
    view = view_of(case, step)
    entry = step.fdb
    at = entry.dst if entry is not None else None
    network = overlay.network_of(case.world, view, step.packet.dst)
    right = overlay.host_behind(case.world, view, step.packet.dst_mac, (case.flow.src.netns, case.flow.dst.netns))
    address = overlay.own_address(right, at) if right is not None and at is not None else None
    whose = f"{right.name} has the container, and is at {address}" if right is not None else step.text
    facts = [Evidence(kind=EvidenceKind.FDB, ref=view.name, text=fdb_text(entry, names(view)))] if entry else []
    if network is not None and network.nodes:
        hosts = ", ".join(str(each) for each in network.nodes)
        facts.append(intent_evidence(f"hosts of the network {network.name}: {hosts}", network.engine))
    for netns in sorted({right.id} if right is not None else ()):
        held = ", ".join(str(each) for each in case.world.views[netns].owned if not each.is_loopback)
        facts.append(Evidence(kind=EvidenceKind.ADDRESS, ref=case.world.views[netns].name, text=f"holds {held}"))
    return Hit(
        title=f"{step.device} sends the tunnel to {at}, where the other host is not",
        explanation=f"What is for {step.packet.dst} goes to {at} inside the tunnel; {whose}.",
        at=f"{view.name}/{step.device}",
        evidence=(*facts, *wire_evidence(case, blocker)),
        mend=_replace(case, step, address),
        basis=blocker.basis,
        blocker=blocker,
        segment=Segment.UNDERLAY,
        device=step.device,
        netns=view.id,
    )


def _replace(case: Case, step: Step, address: IPAddress | None) -> Mend:
    """Return the entry that should stand there, where the right address is known."""
    entry = step.fdb
    again = "let the other host leave the swarm and join again with --advertise-addr set to its reachable address"
    if entry is None or address is None:
        return Mend(
            summary=f"{again[0].upper()}{again[1:]}.",
            commands=("docker swarm leave", "docker swarm join --advertise-addr <its address> …"),
        )
    prefix = enter(case, step.netns)
    return Mend(
        summary=f"Correct the entry; so that it stays, {again}.",
        commands=(f"{prefix}bridge fdb replace {entry.mac} dev {step.device} dst {address} self permanent",),
        change=set_vtep(step.netns, entry, address),
    )


def _wrong_source(case: Case, blocker: Blocker, step: Step) -> Hit:
    view = view_of(case, step)
    found = _translation(case, blocker.direction)
    facts: list[Evidence] = []
    mend = Mend(
        summary="Let the tunnel leave with the address that the swarm knows this host by: join again with "
        "--data-path-addr set to the one that it leaves from.",
        commands=("docker swarm leave", "docker swarm join --data-path-addr <address> …"),
    )
    source, known = step.packet.src, step.fdb.dst if step.fdb is not None else None
    where: int | None = view.id
    if found is not None:
        netns, ref, old = found
        known = known or old
        facts += rule_evidence(case, netns, ref)
        where = netns
        if ref.index is not None:
            mend = Mend(
                summary="Delete the rule, or keep the tunnel out of it.",
                commands=(delete_command(case, netns, ref),),
                change=delete_rule(netns, ref),
            )
    elif step.fdb is not None and step.fdb.dst is not None:
        mend = _replace(case, step, source)
    if step.fdb is not None:
        facts.append(Evidence(kind=EvidenceKind.FDB, ref=view.name, text=fdb_text(step.fdb, names(view))))
    return Hit(
        title=f"the tunnel comes from {source}, and the other hosts know this one as {known}",
        explanation=f"The outer packets have the source {source}. A vxlan device that has a permanent entry for a "
        f"container behind {known} discards its frames when they come from elsewhere.",
        at=f"{view.name}/{step.device}",
        evidence=(*facts, *wire_evidence(case, blocker)),
        mend=mend,
        basis=blocker.basis,
        blocker=blocker,
        segment=Segment.UNDERLAY,
        device=step.device,
        netns=where if found is not None and step.fdb is None else view.id,
    )


def _translation(case: Case, direction: Direction) -> tuple[int, RuleRef, IPAddress] | None:
    """Return the rule that gave the tunnel another source, with its namespace and the source before."""
    for step in case.steps(direction):
        for nat in step.hook.nats if step.hook is not None and step.segment is Segment.UNDERLAY else ():
            if nat.old_src is not None and nat.new_src not in (None, nat.old_src):
                return step.netns, nat.rule, nat.old_src
    return None


RULE = rule("overlay.vtep-address", check, rank=27, needs=("links", "fdb"))
