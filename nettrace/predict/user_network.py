"""Networks that end in a process: what is sent into a tun or tap device is read by a program, which no table shows.

Rootless containers have one (slirp4netns, pasta), and so have VPNs in user space. The program may open sockets of its
own on the host, and those are other packets: neither the walk nor a capture can follow.
"""

from __future__ import annotations

from collections.abc import Iterator

from nettrace.model.base import IPAddress
from nettrace.model.path import Leg, StepKind
from nettrace.model.snapshot import Gap, Link
from nettrace.predict.world import View, World

__all__ = ["behind_process", "handed_over", "handed_text"]


def handed_text(view: View, out: Link) -> str:
    """Say who takes what is sent out of a tun or tap device."""
    return f"handed to {out.reader or 'the process'} behind {out.name} of {view.name}"


def handed_over(world: World, *legs: Leg | None) -> Iterator[Gap]:
    """Yield a gap for each device by which a leg hands its packet to a process."""
    seen = set()
    for leg in legs:
        for step in leg.steps if leg is not None else ():
            view = world.view(step.netns)
            link = view.links.get(step.ifindex or 0) if view is not None else None
            if view is None or link is None or link.kind != "tun" or step.kind is not StepKind.LEAVE:
                continue
            if (view.id, link.ifindex) not in seen:
                seen.add((view.id, link.ifindex))
                reason = (
                    f"packets are handed to {link.reader or 'a process'} behind {link.name}: what it does with them, "
                    "and the host's rules for the sockets that it opens itself, cannot be followed"
                )
                yield Gap(section="path", netns=view.name, reason=reason)


def behind_process(world: World, netns: int | None, address: IPAddress | None) -> tuple[View, Link] | None:
    """Return the tap that alone leads into a namespace and holds an address there; None for any other network."""
    view = world.view(netns) if netns is not None and netns != world.host else None
    if view is None or address is None:
        return None
    devices = [link for link in view.links.values() if not link.loopback]
    if len(devices) != 1 or devices[0].kind != "tun":
        return None
    return (view, devices[0]) if view.owned.get(address) == devices[0].ifindex else None
