"""IPv6 is off on an interface of the path.

What it reports: disable_ipv6 is 1 on an interface that the packet comes in by.
Why traffic stops: the kernel discards IPv6 packets there.
Proof: the sysctl.
Remedy: the sysctl, set back; make it last in /etc/sysctl.d.
Known limits: an interface with IPv6 off at the source shows as a missing address.
Seen in the field: no public report of its own was read; hardening files turn IPv6 off on all interfaces, those of
    containers among them.
"""

from __future__ import annotations

from ipaddress import ip_interface

from nettrace.model.path import Reason
from nettrace.model.snapshot import Address, Link
from nettrace.predict.world import MAIN_TABLE, View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import Change, add_address, add_route, default_route, set_sysctls, together
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, link_evidence, place, sysctl_evidence, wire_evidence


def check(case: Case) -> Result:
    """Fire for each stop that this sysctl makes."""
    hits = []
    for blocker, step in blockers(case, Reason.IPV6_DISABLED):
        view = view_of(case, step)
        name, _, value = (step.sysctl or "").partition(" = ")
        if not (name):
            continue
        device = step.device or ""
        hits.append(
            Hit(
                title=f"IPv6 is off on {device}",
                explanation=f"{step.text}, so the packet is discarded there.",
                at=place(case, step),
                evidence=(sysctl_evidence(view, f"{name} = {value}"), *wire_evidence(case, blocker)),
                mend=_switch_on(case, view, device, name),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits, *_at_source(case), *_at_uplink(case))


def _at_uplink(case: Case) -> list[Hit]:
    """Return the finding for a host whose way out lost its IPv6 routes because IPv6 is off there.

    The way out is the device of the IPv4 default route: that is all that is left to tell it.
    """
    view = case.host
    if case.flow.family != 6 or view is None:
        return []
    ways = [
        view.links[hop.ifindex]
        for route in view.tables.get((4, MAIN_TABLE), ())
        for hop in route.nexthops
        if route.dst.prefixlen == 0 and hop.ifindex in view.links
    ]
    off = [link for link in ways if view.conf(6, link.name, "disable_ipv6", 0) or link.mtu < 1280]
    for blocker, step in blockers(case, Reason.NO_ROUTE, Reason.NO_SOURCE_ADDRESS):
        if step.netns != view.id or not off:
            continue
        link = off[0]
        name = f"net.ipv6.conf.{link.name}.disable_ipv6"
        cause, command = f"{name} = 1", f"sysctl -w {name}=0"
        if not view.conf(6, link.name, "disable_ipv6", 0):
            cause, command = f"the MTU of {link.name} is {link.mtu}", f"ip link set {link.name} mtu 1500"
        return [
            Hit(
                title=f"IPv6 is off on {link.name}, the way out of {view.name}",
                explanation=f"IPv6 is off on {link.name} ({cause}"
                + (", and IPv6 needs 1280" if "MTU" in cause else "")
                + f"), so {view.name} has no IPv6 address and no IPv6 route there.",
                at=f"{view.name}/{link.name}",
                evidence=(
                    sysctl_evidence(view, cause) if "=" in cause else link_evidence(view, link),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Switch IPv6 on there again, and put back the address and the routes that went with it.",
                    commands=(
                        command,
                        f"ip -6 addr add <address> dev {link.name}",
                        f"ip -6 route add default via <gateway> dev {link.name}",
                    ),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        ]
    return []


def _switch_on(case: Case, view: View, device: str, name: str) -> Mend:
    """Return the remedy: the sysctl, and the bridge's addresses, which went when IPv6 was switched off."""
    commands = [f"{enter(case, view.id)}sysctl -w {name}=0"]
    changes = [set_sysctls(view.id, {name: "0"})]
    network, link = case.network_of_bridge(device), view.by_name.get(device)
    for pool in network.subnets if network is not None and link is not None else ():
        if link is None or pool.gateway is None or pool.gateway.version != 6 or pool.gateway in view.owned:
            continue
        held = ip_interface(f"{pool.gateway}/{pool.subnet.prefixlen}")
        commands.append(f"{enter(case, view.id)}ip -6 addr add {held} dev {device}")
        changes.append(add_address(view.id, Address(ifindex=link.ifindex, address=held)))
    return Mend(
        summary="Set the sysctl, and keep it in /etc/sysctl.d.", commands=tuple(commands), change=together(*changes)
    )


def _mend_source(case: Case, view: View, link: Link, name: str) -> Mend:
    """Return the remedy for a container without IPv6: as its networks were made without, or as it was switched off."""
    networks = [network for _end, network in case.attachments(case.container_of(case.flow.src))]
    if networks and not any(network.ipv6 for network in networks):
        return Mend(
            summary=f"{networks[0].name} was created without IPv6, which cannot be changed in place: connect the "
            "container to a network that has it.",
            commands=(
                "docker network create --ipv6 --subnet fd00:1::/64 six",
                f"docker network connect six {case.flow.src.name}",
            ),
        )
    return _back_again(case, view, link, name)


def _at_source(case: Case) -> list[Hit]:
    """Return the finding for a source whose interface lost its IPv6 address because IPv6 is off there."""
    view = case.view(case.flow.src.netns)
    if case.flow.family != 6 or view is None:
        return []
    for blocker, step in blockers(case, Reason.NO_ROUTE, Reason.NO_SOURCE_ADDRESS):
        for link in view.links.values():
            if step.netns != view.id or link.loopback or not view.conf(6, link.name, "disable_ipv6", 0):
                continue
            name = f"net.ipv6.conf.{link.name}.disable_ipv6"
            return [
                Hit(
                    title=f"IPv6 is off on {link.name}",
                    explanation=f"{name} is 1 in {view.name}, so {link.name} has no IPv6 address and no IPv6 route.",
                    at=f"{view.name}/{link.name}",
                    evidence=(sysctl_evidence(view, f"{name} = 1"), *wire_evidence(case, blocker)),
                    mend=_mend_source(case, view, link, name),
                    basis=blocker.basis,
                    blocker=blocker,
                )
            ]
    return []


def _back_again(case: Case, view: View, link: Link, name: str) -> Mend:
    """Return the remedy that also puts back the address and the route that the kernel took away with IPv6."""
    prefix = enter(case, view.id)
    commands = [f"{prefix}sysctl -w {name}=0"]
    changes: list[Change] = [set_sysctls(view.id, {name: "0"})]
    for endpoint, _network in case.attachments(case.container_of(case.flow.src)):
        held, gateway = endpoint.ipv6, endpoint.gateway6
        if held is None or case.link_of(view, endpoint) != link or held.ip in view.owned:
            continue
        commands.append(f"{prefix}ip addr add {held} dev {link.name} nodad")
        changes.append(add_address(view.id, Address(ifindex=link.ifindex, address=held)))
        if gateway is not None:
            commands.append(f"{prefix}ip -6 route add default via {gateway} dev {link.name}")
            changes.append(add_route(view.id, default_route(gateway, link.ifindex)))
    return Mend(
        summary="Switch IPv6 on again, and put back what the kernel took away with it; reconnecting the container to "
        "its network does the same.",
        commands=tuple(commands),
        change=together(*changes) if len(changes) > 1 else None,
    )


RULE = rule("sysctl.ipv6-disabled", check, rank=29, needs=("sysctls",))
