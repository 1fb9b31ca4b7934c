"""What the captures say about packets that are too big, and what mends it."""

from __future__ import annotations

from nettrace.model.observe import Sighting
from nettrace.model.path import Step
from nettrace.rules.base import Mend
from nettrace.rules.case import Case
from nettrace.rules.faults import attachment

#: ICMP and ICMPv6: (type, code) of "too big".
TOO_BIG = ((3, 4), (2, 0))


def frag_needed_back(case: Case) -> Sighting | None:
    """Return the sighting of a "fragmentation needed" that reached the source, None when none did."""
    own = {point.id for point in case.trace.points if point.netns == case.flow.src.netns}
    for each in case.correlation.errors:
        if (each.packet.icmp_type, each.packet.icmp_code) in TOO_BIG and each.point in own:
            return each
    return None


def mtu_mend(case: Case, step: Step | None, mtu: int | None) -> Mend:
    """Return how to keep packets small enough: the network's MTU option, or clamping TCP's segment size."""
    own = attachment(case, case.flow.src)
    size = mtu or (step.link.mtu if step is not None and step.link is not None else 1400)
    name = own[5].name if own is not None else "<network>"
    return Mend(
        summary=(
            f"Give the network an MTU of {size} (it must be created again), or clamp TCP's segment size meanwhile."
        ),
        commands=(
            f"docker network create -o com.docker.network.driver.mtu={size} {name}-{size}",
            "iptables -t mangle -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        ),
    )
