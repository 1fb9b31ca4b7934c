"""Which sources a namespace refuses: its own addresses, and those that the way back does not lead to.

Models __fib_validate_source (net/ipv4/fib_frontend.c), which judges every packet that comes in by a wire, and the ARP
requests too: arp_process looks up the way from who asks before it answers.
"""

from __future__ import annotations

from msgspec.structs import replace

from nettrace.model.base import Missing, Model
from nettrace.model.flow import Packet
from nettrace.model.path import Reason
from nettrace.model.snapshot import Link, PolicyRule, Route
from nettrace.predict import route as routing
from nettrace.predict.world import View

__all__ = ["Refusal", "refused"]


class Refusal(Model):
    """Why a packet is refused for its source; `reason` None where it depends on addresses that were not read.

    `route` and `rule` are the way back to the source, where that decided.
    """

    text: str
    reason: Reason | None = None
    sysctl: str | None = None
    route: Route | None = None
    rule: PolicyRule | None = None


def refused(view: View, device: Link, packet: Packet, *, towards: str | None = None) -> Refusal | None:
    """Return why a packet that came in by a device is refused for its source, None when it is not; IPv4 only.

    Of a packet that goes on, `towards` is the device it will leave by, which is taken for the one that the answer
    comes by. Without the sysctls of the namespace nothing is refused.
    """
    if packet.family != 4 or device.loopback or isinstance(view.ns.sysctls, Missing):
        return None
    mode = view.conf_max(4, device.name, "rp_filter", 0)
    # The way back is looked up without the mark unless src_valid_mark says so.
    mark = packet.mark if view.conf_max(4, device.name, "src_valid_mark", 0) else 0
    back = replace(packet, src=packet.dst, dst=packet.src, mark=mark)
    found = routing.lookup(view, back, iif=towards or "lo", src=packet.dst)
    kind = found.route.kind if found.route is not None else None
    if kind == "local":
        if view.conf_max(4, device.name, "accept_local", 0):
            return None
        return Refusal(
            text=f"the source {packet.src} is an address of {view.name} itself",
            reason=Reason.MARTIAN,
            sysctl=f"net.ipv4.conf.{device.name}.accept_local = 0",
        )
    if not mode:
        return None
    devices = [hop.ifindex for hop in found.route.nexthops] if kind == "unicast" and found.route else []
    if device.ifindex in devices:
        return None
    # A device without an address is judged strictly in either mode (no_addr in __fib_validate_source).
    addressed = any(each.address.version == 4 for each in view.addresses.get(device.ifindex, ()))
    if mode == 2 and devices and addressed:
        return None
    if mode == 2 and devices and isinstance(view.ns.addresses, Missing):
        return Refusal(text="")
    way = view.links.get(devices[0] or 0) if devices else None
    own = view.conf(4, device.name, "rp_filter", 0)
    return Refusal(
        text=f"{packet.src} came in by {device.name}, but the way back to it is "
        + (f"by {way.name}" if way is not None else "unknown"),
        reason=Reason.RP_FILTER,
        sysctl=f"net.ipv4.conf.{device.name if own == mode else 'all'}.rp_filter = {mode}",
        route=found.route,
        rule=found.rule,
    )
