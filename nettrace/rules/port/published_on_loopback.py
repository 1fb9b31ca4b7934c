"""The port is published on 127.0.0.1 only.

What it reports: the engine publishes the port on a loopback (or another single) address of the host, not on the one
    that was asked.
Why traffic stops: the DNAT rule and the proxy are for that address alone; on others the host refuses the packet.
Proof: the engine's host address of the published port.
Remedy: publish the port on the right address, or on all of them.
Known limits: none.
Seen in the field: the host reaches the port and the LAN does not (moby#16137, for-linux#690). Common.
"""

from __future__ import annotations

from nettrace.rules.base import Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.publish_facts import Wanted, asked, publish_hit, published_text, taken_for_host, wanted


def check(case: Case) -> Result:
    """Fire when the port that was asked for is published, but on another address of the host."""
    ask, want = asked(case), wanted(case)
    if ask is None or want is None or want.fits or ask.nat is not None:
        return fired()
    port = want.port
    only = f"{port.host_ip}:{port.host_port}"
    hits = [
        publish_hit(
            case,
            ask,
            blocker,
            title=f"{want.container.name} publishes {port.host_port}/{port.proto} on {port.host_ip} only",
            explanation=f"{published_text(want)}: only packets to {only} reach the container, and this one is for "
            f"{case.flow.dst.address}.",
            mend=Mend(
                summary="Publish the port on all addresses, or on the one that is used (create the container again).",
                commands=_commands(case, want),
            ),
            want=want,
        )
        for blocker in taken_for_host(case, ask.host)
    ]
    return fired(*hits)


def _commands(case: Case, want: Wanted) -> tuple[str, ...]:
    """Return how the port is published on every address, also where the network has another one for its default."""
    port = want.port
    ports = f"{port.host_port}:{port.container_port}/{port.proto}"
    network = case.network_of_bridge(want.bridge or "")
    if network is None or network.host_binding != port.host_ip:
        return (f"docker run -p {ports} …  # without {port.host_ip}",)
    option = "com.docker.network.bridge.host_binding_ipv4"
    return (
        f"docker run -p 0.0.0.0:{ports} …  # {network.name} was created with {option}={port.host_ip}",
        f"docker network create -o {option}=0.0.0.0 …",
    )


RULE = rule("port.published-on-loopback", check, rank=46, needs=("intent",))
