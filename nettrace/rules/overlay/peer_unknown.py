"""The overlay does not know behind which host the other container is.

What it reports: the vxlan device has no forwarding entry for the receiver's MAC, or nothing there answers for its
    address.
Why traffic stops: a vxlan device without learning sends only where its table says; without an entry it drops.
Proof: the forwarding and neighbour tables of the overlay's own namespace.
Remedy: let the hosts of the swarm talk to each other (7946/tcp and udp), then let this one join again.
Known limits: an address that nobody in the network has looks the same; the swarm's own list tells them apart.
Seen in the field: no forwarding to the other node, since gossip on port 7946 is blocked or the tables went stale
    (moby#30972, moby#35807, flannel#322, flannel#844). Common.
"""

from __future__ import annotations

from nettrace.correlate import Blocker
from nettrace.model.path import Reason, Segment
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.neigh import segment_of
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, lost_on_wire, view_of
from nettrace.rules.wording import link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire where a vxlan device has no destination for a frame, or no answer for the address of a next hop."""
    hits = []
    for blocker, step in blockers(case, Reason.VXLAN_NO_DESTINATION, Reason.NEIGHBOUR_FAILED):
        view = view_of(case, step)
        link = view.links[step.ifindex or 0]
        if step.reason is Reason.VXLAN_NO_DESTINATION:
            known = view.neighbours.get((link.ifindex, step.packet.dst))
            if known is not None and known.mac not in (None, step.packet.dst_mac):
                continue  # the sender took another MAC for the address: neigh.stale-static
            tunnel_view, tunnel = view, link
            lacks = f"no forwarding entry for {step.packet.dst_mac or step.packet.dst}"
        else:
            tunnels = segment_of(case.world, view, link).tunnels
            if not tunnels:
                continue
            tunnel_view = case.world.views[tunnels[0].netns]
            tunnel = tunnel_view.links[tunnels[0].ifindex]
            lacks = f"no neighbour entry for {step.next_hop}"
        kind = EvidenceKind.FDB if step.reason is Reason.VXLAN_NO_DESTINATION else EvidenceKind.NEIGHBOUR
        hits.append(_hit(case, blocker, tunnel_view, tunnel, lacks, str(step.next_hop or step.packet.dst), kind))
    return fired(*hits, *_unanswered(case))


def _hit(case: Case, blocker: Blocker, view: View, tunnel: Link, lacks: str, target: str, kind: EvidenceKind) -> Hit:
    vni = tunnel.vxlan.vni if tunnel.vxlan is not None else "?"
    place = f"{view.name}/{tunnel.name}"
    entry = Evidence(kind=kind, ref=place, text=f"{tunnel.name} in {view.name} has {lacks}")
    return Hit(
        title=f"{tunnel.name} (VXLAN {vni}) does not know where {target} is",
        explanation=f"The overlay's device {tunnel.name} has {lacks}, so it cannot tell to which host the "
        "packet must go. Usually its host does not hear the swarm's gossip.",
        at=place,
        evidence=(entry, link_evidence(view, tunnel), *wire_evidence(case, blocker)),
        mend=Mend(
            summary="Open 7946/tcp and 7946/udp between the hosts; if it stays, let this host join again.",
            commands=("docker node ls", "ss -lntup sport = :7946"),
        ),
        basis=blocker.basis,
        blocker=blocker,
        segment=Segment.UNDERLAY,
        device=tunnel.name,
        netns=view.id,
    )


def _unanswered(case: Case) -> list[Hit]:
    """Return the findings of requests that a tunnel did not answer, where the model took an older answer for good."""
    hits = []
    for blocker in lost_on_wire(case):
        for asked in case.correlation.arp_unanswered:
            point = next((each for each in case.trace.points if each.id == asked.point), None)
            view = case.view(point.netns) if point is not None else None
            link = view.links.get(point.ifindex) if view is not None and point is not None else None
            for tunnel in segment_of(case.world, view, link).tunnels if view is not None and link is not None else ():
                where = case.world.views[tunnel.netns]
                if (tunnel.ifindex, asked.packet.dst) in where.neighbours:
                    continue
                lacks = f"no neighbour entry for {asked.packet.dst}"
                device = where.links[tunnel.ifindex]
                hits.append(_hit(case, blocker, where, device, lacks, str(asked.packet.dst), EvidenceKind.NEIGHBOUR))
            if hits:
                return hits
    return hits


RULE = rule("overlay.peer-unknown", check, rank=28, needs=("links", "fdb", "neighbours"))
