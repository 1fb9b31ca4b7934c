"""What netfilter decides about one packet at one hook, as data: verdict, deciding object, NAT, marks, assumptions.

Hook names and priorities are the kernel's (include/uapi/linux/netfilter.h, netfilter_ipv4.h, netfilter_bridge.h).
"""

from __future__ import annotations

from enum import StrEnum

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import Packet
from nettrace.model.snapshot import Tuple5


class Hook(StrEnum):
    """A netfilter hook."""

    INGRESS = "ingress"
    EGRESS = "egress"
    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


class FilterVerdict(StrEnum):
    """What a hook did with a packet. STOLEN: taken over by the kernel or user space (queue, fwd, synproxy)."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    STOLEN = "stolen"
    UNKNOWN = "unknown"


class RuleRef(Model):
    """One rule, or a chain's policy, named so that a person finds it again.

    `family` is ip, ip6, inet, bridge, arp or netdev; `backend` is "nft" or "legacy". `index` counts from 1 within
    the chain, None for the policy. `text` is the rule as the tool that owns it prints it (an iptables-save line, or
    nft syntax); for a policy, ":FORWARD DROP" or "policy drop". `owner` is who wrote it: docker, podman, ufw,
    firewalld, kube, libvirt, tailscale, user … `handle` is nft's. `packets` is its counter, when it has one.
    """

    backend: str
    family: str
    table: str
    chain: str
    index: int | None
    text: str
    owner: str = "user"
    handle: int | None = None
    packets: int | None = None


class TrailEntry(Model):
    """One event of the walk through the chains: a chain entered, a rule that matched, or a policy applied.

    `event`: enter, match, return, policy, unknown. `effect` says what the rule did ("jump DOCKER", "accept",
    "dnat to 172.17.0.2:80", "mark 0x1"). `level` is the depth of jumps.
    """

    event: str
    rule: RuleRef
    effect: str = ""
    level: int = 0


class Assumption(Model):
    """A match that could not be evaluated and could have changed the answer."""

    rule: RuleRef
    reason: str


class NatResult(Model):
    """What address translation was set up, by which rule. Old and new ends of the packet; None where unchanged.

    `kind`: dnat, snat, masquerade, redirect, netmap. `ports` is the range the new source port may come from when
    the kernel chooses.
    """

    kind: str
    rule: RuleRef
    old_src: IPAddress | None = None
    new_src: IPAddress | None = None
    old_sport: int | None = None
    new_sport: int | None = None
    old_dst: IPAddress | None = None
    new_dst: IPAddress | None = None
    old_dport: int | None = None
    new_dport: int | None = None
    port_chosen_by_kernel: bool = False


class CtState(StrEnum):
    """Conntrack state of a packet, as `ctstate` matches it. NONE: before conntrack has looked at it."""

    NEW = "new"
    ESTABLISHED = "established"
    RELATED = "related"
    INVALID = "invalid"
    UNTRACKED = "untracked"
    NONE = "none"


class Tracking(Model):
    """The conntrack entry that a packet belongs to, as rules can see it.

    `reply` tells the direction of this packet. `orig` is the tuple of the first packet before any NAT, `reply_tuple`
    what replies look like. `status` are lower-case IPS_* names; src_nat/dst_nat in it mean that NAT was set up.
    `nat_done` are the manipulations already decided for this entry ("src", "dst"), so nat chains are not asked again.
    """

    state: CtState = CtState.NONE
    reply: bool = False
    orig: Tuple5 | None = None
    reply_tuple: Tuple5 | None = None
    status: tuple[str, ...] = ()
    mark: int = 0
    zone: int = 0
    helper: str | None = None
    nat_done: tuple[str, ...] = ()


class HookResult(Model):
    """Everything that one hook did to one packet, in the kernel's order.

    `packet` and `tracking` are how they leave the hook (NAT applied, marks set). `decided_by` is the rule or policy
    that settled a drop, reject or stolen verdict, or the last one that accepted. `reject_with` names the REJECT
    type. `assumptions` hold every match that could not be evaluated and could have changed the verdict or the NAT.
    `route_changed` is true when marks, addresses or TOS changed so that OUTPUT must be routed again.
    """

    hook: Hook
    verdict: FilterVerdict
    packet: Packet
    tracking: Tracking
    decided_by: RuleRef | None = None
    nats: tuple[NatResult, ...] = ()
    reject_with: str | None = None
    trail: tuple[TrailEntry, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    route_changed: bool = False
