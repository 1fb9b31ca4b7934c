"""The overlay leaves no room for what VXLAN puts around each packet.

What it reports: a packet that fits the overlay's devices does not fit the uplink once it is in the tunnel.
Why traffic stops: VXLAN adds 50 bytes (70 over IPv6); a packet that may not be fragmented is refused.
Proof: the MTU of the overlay and that of the device that the tunnel leaves by.
Remedy: create the network again with an MTU that leaves room.
Known limits: what routers between the hosts allow is not known here; a smaller --size finds it.
Seen in the field: ping works across nodes and bulk traffic hangs (libnetwork#2661, for-linux#594, origin#22599).
    Common.
"""

from __future__ import annotations

from nettrace.model.path import Reason, Segment
from nettrace.model.verdict import Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import errno_evidence, link_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire when a packet in a tunnel is too big for the way between the hosts."""
    hits = []
    for blocker, step in blockers(case, Reason.TOO_BIG):
        if step.segment is not Segment.UNDERLAY or step.link is None:
            continue
        view = view_of(case, step)
        room = case.trace.forward.mtu or step.link.mtu - 50
        needed = step.packet.length + step.link.mtu - room
        hits.append(
            Hit(
                title=f"in its tunnel the packet needs {needed} bytes, {step.link.name} takes {step.link.mtu}",
                explanation=f"The overlay hands over packets that no longer fit {step.link.name} once VXLAN's headers "
                f"are around them: {room} bytes at most can pass. Smaller packets pass.",
                at=f"{view.name}/{step.link.name}",
                evidence=(
                    link_evidence(view, step.link),
                    *errno_evidence(case),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Create the overlay network again with an MTU that leaves room, or raise the uplink's.",
                    commands=(f"docker network create -d overlay -o com.docker.network.driver.mtu={room} <network>",),
                ),
                basis=blocker.basis,
                blocker=blocker,
                device=step.link.name,
                netns=view.id,
            )
        )
    return fired(*hits)


RULE = rule("mtu.overlay-overhead", check, rank=69, needs=("links",), severity=Severity.DEGRADING)
