"""How rules show objects: evidence for a rule, a route, a link; the command prefix that enters a namespace."""

from __future__ import annotations

import errno
import re

from nettrace.correlate import Blocker
from nettrace.model.netfilter import RuleRef
from nettrace.model.observe import Sighting, SightingKind
from nettrace.model.path import Direction, Step
from nettrace.model.snapshot import Link, PolicyRule, Route
from nettrace.model.text import link_text, route_key, route_text, rule_text
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.predict.world import View
from nettrace.rules.case import Case

#: ICMP and ICMPv6: (type, code) of a TTL that ran out on the way.
TIME_EXCEEDED = ((11, 0), (3, 0))

#: What sendto(2) says when the kernel refuses a packet, by number.
ERRNO_TEXT = {
    errno.EPERM: "EPERM (operation not permitted: netfilter refused it)",
    errno.EACCES: "EACCES (prohibited)",
    errno.EINVAL: "EINVAL (invalid argument)",
    errno.EMSGSIZE: "EMSGSIZE (message too long for the device)",
    errno.ENETDOWN: "ENETDOWN (network is down)",
    errno.ENETUNREACH: "ENETUNREACH (network is unreachable)",
    errno.EHOSTUNREACH: "EHOSTUNREACH (no route to host)",
    errno.EADDRNOTAVAIL: "EADDRNOTAVAIL (no usable source address)",
    errno.ENOBUFS: "ENOBUFS (no buffer space)",
}


#: Matches whose rules iptables' -D does not find again by their text: what the kernel keeps in them is compared too.
_BY_NUMBER = re.compile(r" -m (?:recent|connlimit) ")


def names(view: View) -> dict[int, str]:
    """Return ifindex → name of a namespace."""
    return {index: link.name for index, link in view.links.items()}


def enter(case: Case, netns: int) -> str:
    """Return what a command must begin with to act in a namespace: nothing on the host, else nsenter."""
    if netns in case.world.hosts:
        return ""
    container = case.world.containers.get(netns)
    if container is not None and container.pid:
        return f"nsenter -t {container.pid} -n "
    view = case.view(netns)
    name = view.name if view is not None else str(netns)
    peer = case.before.peer_of(netns)
    name = name.removeprefix(f"{peer.name}:") if peer is not None else name
    if view is not None and view.ns.path is not None:
        return f"nsenter --net={view.ns.path} "
    if container is None and name.startswith("pid:"):
        return f"nsenter -t {name.removeprefix('pid:')} -n "
    name = name.removeprefix("netns:")
    return f"nsenter --net={name if name.startswith('/') else '/run/netns/' + name} "


def program(ref: RuleRef, *, both: bool = False) -> str:
    """Return the command that edits the table a rule stands in; `both`: the host uses the two back ends of iptables.

    Which of them plain `iptables` is there then depends on the host's alternatives, so that it is named in full.
    """
    base = {"ip6": "ip6tables", "bridge": "ebtables", "arp": "arptables"}.get(ref.family, "iptables")
    if ref.backend == "legacy":
        return f"{base}-legacy"
    return f"{base}-nft" if both and ref.family in ("ip", "ip6") else base


def _both(case: Case, netns: int) -> bool:
    """Tell whether rules stand in both back ends of iptables."""
    view = case.view(netns)
    if view is None:
        return False
    held = {
        table.backend
        for table in view.ruleset.tables
        if table.family in ("ip", "ip6") and any(chain.rules for chain in table.chains.values())
    }
    return held == {"legacy", "nft"}


def is_native_nft(ref: RuleRef) -> bool:
    """Tell whether a rule is nft's own, not one of iptables."""
    return ref.backend == "nft" and not ref.text.startswith(("-A ", ":"))


def place_of(ref: RuleRef) -> str:
    """Name a rule's place: backend, table, chain and position."""
    tool = "nft" if is_native_nft(ref) else f"{program(ref)} ({ref.backend})"
    family = f"{ref.family} " if is_native_nft(ref) else ""
    which = f"rule {ref.index}" if ref.index is not None else "policy"
    return f"{tool} {family}{ref.table} {ref.chain} {which}"


def delete_command(case: Case, netns: int, ref: RuleRef) -> str:
    """Return the command that deletes a rule."""
    prefix = enter(case, netns)
    if is_native_nft(ref):
        handle = f"handle {ref.handle}" if ref.handle is not None else "handle <n>  # nft -a list ruleset shows it"
        return f"{prefix}nft delete rule {ref.family} {ref.table} {ref.chain} {handle}"
    tool = program(ref, both=_both(case, netns))
    if _BY_NUMBER.search(ref.text):
        return f"{prefix}{tool} -t {ref.table} -D {ref.chain} {ref.index}  # {ref.text}"
    return f"{prefix}{tool} -t {ref.table} -D {ref.text.removeprefix('-A ')}"


def policy_command(case: Case, netns: int, ref: RuleRef) -> str:
    """Return the command that makes a base chain's policy accept."""
    prefix = enter(case, netns)
    if is_native_nft(ref):
        return f"{prefix}nft chain {ref.family} {ref.table} {ref.chain} '{{ policy accept; }}'"
    return f"{prefix}{program(ref, both=_both(case, netns))} -t {ref.table} -P {ref.chain} ACCEPT"


def rule_evidence(case: Case, netns: int, ref: RuleRef) -> tuple[Evidence, ...]:
    """Return a rule as evidence, and its counter when it moved during the probe."""
    view = case.view(netns)
    name = view.name if view is not None else str(netns)
    found = [Evidence(kind=EvidenceKind.RULE, ref=f"{name}: {place_of(ref)}", text=ref.text)]
    rise = case.rise(netns, ref)
    if rise:
        found.append(
            Evidence(
                kind=EvidenceKind.COUNTER,
                ref=f"{name}: {place_of(ref)}",
                text=f"its packet counter rose by {rise} while the probe ran",
            )
        )
    return tuple(found)


def delete_route_command(case: Case, view: View, route: Route) -> str:
    """Return the command that deletes a route, and no other."""
    family = "-6 " if route.dst.version == 6 else ""
    return f"{enter(case, view.id)}ip {family}route del {route_key(route, names(view))}"


def route_evidence(view: View, route: Route | None, rule: PolicyRule | None = None) -> tuple[Evidence, ...]:
    """Return a route as evidence, with the policy rule that led to it when that is not one of the three defaults."""
    found = []
    if route is not None:
        found.append(
            Evidence(
                kind=EvidenceKind.ROUTE,
                ref=f"{view.name}: table {route.table}",
                text=route_text(route, names(view)),
            )
        )
    if rule is not None and rule.priority not in (0, 32766, 32767):
        found.append(Evidence(kind=EvidenceKind.ROUTE, ref=f"{view.name}: ip rule", text=rule_text(rule)))
    return tuple(found)


def link_evidence(view: View, link: Link) -> Evidence:
    """Return a link's state as evidence."""
    return Evidence(kind=EvidenceKind.LINK, ref=f"{view.name}/{link.name}", text=link_text(link))


def sysctl_evidence(view: View, text: str) -> Evidence:
    """Return a sysctl ("name = value") as evidence."""
    return Evidence(kind=EvidenceKind.SYSCTL, ref=view.name, text=text)


def wire_evidence(case: Case, blocker: Blocker) -> tuple[Evidence, ...]:
    """Return what the captures say about a stop, when packets were sent."""
    if not case.correlation.probed:
        return ()
    what = "the probe" if blocker.direction == "forward" else "the answer"
    parts = []
    if blocker.after is not None and _seen(case, blocker.after, blocker):
        parts.append(f"{what} was seen at {blocker.after}")
    if blocker.before is not None and _silent(case, blocker.before, blocker):
        parts.append(f"not at {blocker.before}")
    elif parts and blocker.before is None and (refuser := untaken_by(case, blocker)) is not None:
        parts.append(f"the stack of {refuser} did not take it")
    if not parts:
        return ()
    text = " and ".join(parts) if parts[0].startswith(what) else f"{what} was {parts[0]}"
    return (Evidence(kind=EvidenceKind.PACKET, ref=blocker.after or blocker.before or "", text=text),)


def untaken_by(case: Case, blocker: Blocker) -> str | None:
    """Return the name of the namespace whose own stack is known not to have taken a packet that reached its device."""
    if case.observation is None or blocker.after is None:
        return None
    netns = next((each.netns for each in case.trace.points if each.id == blocker.after), None)
    kind = SightingKind.PROBE if blocker.direction is Direction.FORWARD else SightingKind.REPLY
    view = case.view(netns)
    return view.name if view is not None and case.observation.took(netns, kind) is False else None


def _seen(case: Case, point: str, blocker: Blocker) -> bool:
    return any(
        passage.point == point and passage.direction == blocker.direction and passage.observed == "seen"
        for passage in case.correlation.passages
    )


def _silent(case: Case, point: str, blocker: Blocker) -> bool:
    return any(
        passage.point == point and passage.direction == blocker.direction and passage.observed == "not-seen"
        for passage in case.correlation.passages
    )


def errno_evidence(case: Case) -> tuple[Evidence, ...]:
    """Return what the kernel said when it refused to send."""
    number = case.correlation.errno
    if number is None:
        return ()
    text = f"sending fails with {ERRNO_TEXT.get(number, f'error {number}')}"
    return (Evidence(kind=EvidenceKind.PACKET, ref=case.flow.src.name, text=text),)


def place(case: Case, step: Step) -> str:
    """Return where a step is: its point, else namespace/device, else the namespace."""
    if step.point is not None:
        return step.point
    view = case.view(step.netns)
    name = view.name if view is not None else str(step.netns)
    return f"{name}/{step.device}" if step.device else name


def answer_text(sighting: Sighting) -> str:
    """Say who answered with an ICMP error or a TCP reset, and about which probe."""
    packet = sighting.packet
    about = f" about probe {sighting.nonce + 1}" if sighting.nonce is not None else ""
    if sighting.kind is SightingKind.RESET:
        return f"{packet.src} answered with a TCP reset{about}"
    name = {4: "ICMP", 6: "ICMPv6"}[packet.family]
    quoted = f": {packet.quoted.src} → {packet.quoted.dst}" if packet.quoted is not None else ""
    return f"{packet.src} answered with {name} type {packet.icmp_type} code {packet.icmp_code}{about}{quoted}"


def both_ways(case: Case) -> str:
    """Name the question in words: "web → 8.8.8.8"."""
    return f"{case.flow.src.name} → {case.flow.dst.name}"
