"""Masquerading is off by design, and the far side has no way back.

What it reports: the network was created without masquerading (or in routed gateway mode), and no answer comes.
Why traffic stops: the far side sees the container's own address, and must have a route to it.
Proof: the network's option; the capture at the egress; no answer.
Remedy: a route to the network on the router, or masquerading.
Known limits: whether the router has the route cannot be seen from here.
Seen in the field: networks without masquerading, and routed ones, need a route on the router that nobody made
    (moby#36486, moby#28133, moby#30302, ipv6nat#76). Common.
"""

from __future__ import annotations

from nettrace.rules.base import Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.nat_facts import Leaving, leaving, nat_hit


def check(case: Case) -> Result:
    """Fire when the packet leaves with its own address, as the engine meant it, and nothing comes back."""
    out = leaving(case)
    if out is None or out.translated or out.covering or out.meant:
        return fired()
    name = out.network.name if out.network is not None else "the network"
    summary = "Give the next router a route to the container's network, or create the network with masquerading."
    return fired(
        nat_hit(
            case,
            out,
            title=f"{name} does not masquerade, and no answer finds the way back to {out.packet.src}",
            explanation=f"{name} was created without address translation{_by_default(out)}, so the far side answers "
            f"to {out.packet.src} itself and needs a route back to this host.",
            summary=summary,
            mend=Mend(summary=summary, commands=(_command(case, out),)),
        )
    )


def _by_default(out: Leaving) -> str:
    default = out.network is not None and (out.network.name, out.network.engine) == ("bridge", "docker")
    return " (the engine runs with --ip-masq=false or --iptables=false)" if default else ""


def _command(case: Case, out: Leaving) -> str:
    view = case.world.views[out.netns]
    held = view.addresses.get(view.by_name[out.device].ifindex, ()) if out.device in view.by_name else ()
    own = [each.address.ip for each in held if each.address.version == out.packet.family]
    via = next((str(each) for each in own if not each.is_link_local), "<this host>")
    family = "-6 " if out.packet.family == 6 else ""
    return f"ip {family}route add {out.subnet} via {via}  # on the next router"


RULE = rule("nat.return-route-missing", check, rank=62, needs=("netfilter", "intent"))
