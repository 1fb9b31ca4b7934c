"""Decisions that several rules share: which fault a filter drop is, and where a container hangs on its bridge.

Every stop has one name. The rules of one family ask the same function here and answer only for their own code, so
that two of them can never claim the same object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from msgspec.structs import replace

from nettrace.correlate import Blocker
from nettrace.layout import ip6tables_by_default
from nettrace.model.flow import FlowEnd, Proto
from nettrace.model.intent import Endpoint, Network
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, RuleRef
from nettrace.model.path import Direction, Outcome, Reason, Segment, Step, StepKind
from nettrace.model.snapshot import Link
from nettrace.model.verdict import Basis, Evidence, EvidenceKind
from nettrace.netfilter.ruleset import Rule as FilterRule
from nettrace.netfilter.ruleset import Table as FilterTable
from nettrace.predict import neigh
from nettrace.predict.world import View
from nettrace.rules.asked import dropped_by_rule
from nettrace.rules.base import Hit, Mend
from nettrace.rules.case import Case
from nettrace.rules.change import append_rule, delete_rule, set_policy, together
from nettrace.rules.engine_rules import absent_rules, hiding_rules, lost, put_back, would_pass
from nettrace.rules.wording import (
    delete_command,
    enter,
    errno_evidence,
    is_native_nft,
    place_of,
    policy_command,
    program,
    rule_evidence,
    wire_evidence,
)

#: Firewall managers whose rules are mended with their own commands.
MANAGERS = ("ufw", "firewalld", "csf", "fail2ban", "kube", "calico", "cilium", "flannel", "libvirt", "lxd", "tailscale")
ENGINES = ("docker", "podman", "cni")


#: Rules and policies that end a packet.
_DROPPING = re.compile(r"-j (DROP|REJECT|NFQUEUE|QUEUE)\b|^:\S+ DROP|\b(drop|reject|queue)\b|policy drop")


def blockers(case: Case, *reasons: Reason) -> list[tuple[Blocker, Step]]:
    """Return the stops that the model has a step for, with one of the reasons."""
    return [(each, each.step) for each in case.blockers if each.step is not None and each.step.reason in reasons]


def view_of(case: Case, step: Step) -> View:
    """Return the namespace that a step is in; every step of a trace has one."""
    return case.world.views[step.netns]


def holder_of(case: Case, step: Step) -> tuple[View, str]:
    """Return the namespace that should answer for a step's next hop, and its device on that link."""
    view = view_of(case, step)
    link = view.links.get(step.ifindex or 0)
    for member in neigh.segment_of(case.world, view, link).members if link is not None else ():
        there = case.world.views[member.netns]
        if step.next_hop in there.owned and (member.netns, member.ifindex) != (view.id, step.ifindex):
            return there, there.links[member.ifindex].name
    return view, step.device or ""


def attachment(case: Case, end: FlowEnd) -> tuple[View, Link, View | None, Link | None, Endpoint, Network] | None:
    """Return how an end hangs on a bridge network: its namespace and link, the host's and the veth, endpoint, network.

    Of several networks, the one that the flow's address belongs to; else the first with a bridge.
    """
    container = case.container_of(end)
    view = case.view(end.netns)
    if container is None or view is None or end.netns == case.world.host:
        return None
    best: tuple[View, Link, View | None, Link | None, Endpoint, Network] | None = None
    for endpoint, network in case.attachments(container):
        link = case.link_of(view, endpoint)
        if link is None or network.bridge is None:
            continue
        peer = case.peer_of(view, link)
        found = (view, link, peer[0] if peer else None, peer[1] if peer else None, endpoint, network)
        used = any(
            step.netns == view.id and step.device == link.name
            for direction in Direction
            for step in case.steps(direction)
        )
        if used:
            return found
        best = best or found
    return best


def passed_by(case: Case, step: Step) -> tuple[View, Link, Endpoint, Network] | None:
    """Return the source's interface in the very network that a packet is for, where it left by another and came here.

    What the host does with such a packet is no fault: it should have gone straight.
    """
    view = case.view(case.flow.src.netns)
    if view is None or step.netns != case.world.host or step not in case.steps(Direction.FORWARD):
        return None
    used = {each.device for each in case.steps(Direction.FORWARD) if each.netns == view.id}
    for endpoint, network in case.attachments(case.container_of(case.flow.src)):
        link = case.link_of(view, endpoint)
        if (
            link is not None
            and link.name not in used
            and any(step.packet.dst in each.subnet for each in network.subnets)
        ):
            return view, link, endpoint, network
    return None


# --- filter ---------------------------------------------------------------------------------------------------------


def filtered(case: Case) -> list[tuple[Blocker, Step, RuleRef]]:
    """Return the stops that a netfilter rule or policy makes."""
    found = []
    for blocker, step in blockers(case, Reason.FILTERED):
        if step.hook is not None and step.hook.decided_by is not None:
            found.append((blocker, step, step.hook.decided_by))
    return found or _counted(case) or dropped_by_rule(case)


def _counted(case: Case) -> list[tuple[Blocker, Step, RuleRef]]:
    """Return the stop that a rule makes which the model cannot evaluate: its own counter tells that it matched."""
    for blocker in lost_on_wire(case):
        for step in case.steps(blocker.direction):
            if step.hook is None or step.outcome is not Outcome.UNKNOWN:
                continue
            for each in step.hook.assumptions:
                if _DROPPING.search(each.rule.text) and case.rise(step.netns, each.rule):
                    hook = replace(step.hook, verdict=FilterVerdict.DROP, decided_by=each.rule)
                    told = replace(step, outcome=Outcome.DROP, reason=Reason.FILTERED, hook=hook)
                    return [(blocker, told, each.rule)]
    return []


def filter_fault(case: Case, step: Step, ref: RuleRef) -> str:
    """Return the code of a filter drop, by where the rule stands, who wrote it, and what the engine meant.

    Every filter rule asks for it; it is worked out once.
    """
    if id(step) not in case.codes:
        case.codes[id(step)] = _filter_fault(case, step, ref)
    return case.codes[id(step)]


def _filter_fault(case: Case, step: Step, ref: RuleRef) -> str:
    if step.segment is Segment.UNDERLAY:
        return "overlay.underlay-blocked"
    if ref.family == "bridge":
        return "bridge.filter-drop"
    if step.netns not in case.world.hosts:
        return "filter.container-drop"
    if ref.family == "arp":
        return "filter.rule-drop"
    if _drops_invalid(step, ref):
        return "conntrack.invalid-drop"
    hook = step.hook.hook if step.hook is not None else None
    engine_code = _engine_rule_fault(case, step, ref)
    if engine_code is not None:
        # What the engine drops by design it accepts before, for what it means to let pass.
        absent = absent_rules(case, step.netns, ref.backend, ref.family, ("filter",))
        if would_pass(case, step.netns, ref.backend, ref.family, absent, step):
            return lost(case, step.netns, ref.backend, ref.family, absent) or "filter.docker-rules-missing"
        return "filter.docker-chains-bypassed" if hiding_rules(case, step) else engine_code
    if _split(case, step, ref):
        return "filter.backend-split"
    if ref.owner in MANAGERS:
        return "filter.foreign-firewall"
    if hook is Hook.INPUT:
        return "filter.input-drop"
    if hook is Hook.FORWARD and ref.index is None and ref.chain == "FORWARD":
        absent = absent_rules(case, step.netns, ref.backend, ref.family, ("filter",))
        missing = lost(case, step.netns, ref.backend, ref.family, absent)
        if missing is None and not absent:
            missing = engine_rules(case, step, ref)
        if missing is not None:
            return missing
        return "filter.docker-chains-bypassed" if hiding_rules(case, step) else "filter.forward-policy-drop"
    return "filter.rule-drop"


def _drops_invalid(step: Step, ref: RuleRef) -> bool:
    states = (CtState.INVALID, CtState.UNTRACKED)
    return step.hook is not None and step.hook.tracking.state in states and "invalid" in ref.text.lower()


#: What Docker's own dropping rules look like, as iptables-save prints them, by the fault that they are: the chain
#: alone does not tell, as anyone can put a rule into it. Every version's layout (moby, bridge driver and iptabler).
_DOCKER_DROPS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("filter.icc-disabled", re.compile(r"-A (?:DOCKER-)?FORWARD -i (\S+) -o \1 -j DROP")),
    ("filter.network-isolation", re.compile(r"-A DOCKER-ISOLATION(?:-STAGE-2)? (?:-i \S+ )?-o \S+ -j DROP")),
    (
        "filter.internal-network",
        re.compile(r"-A DOCKER-(?:ISOLATION-STAGE-1|INTERNAL) ! -[sd] \S+(?: (?:! )?-[io] \S+){1,2} -j DROP"),
    ),
    ("filter.unpublished-port-drop", re.compile(r"-A DOCKER ! -i (\S+) -o \1 -j DROP")),
    (
        "filter.direct-access-drop",
        re.compile(r"-A PREROUTING -d \S+ ! -i (\S+) (?:-p \w+ -m \w+ --dport \d+ )?-j DROP"),
    ),
)
#: The same in the comments of the rules that Docker writes into its nft tables.
_DOCKER_COMMENTS = {
    "INTERNAL NETWORK": "filter.internal-network",
    "DROP DIRECT ACCESS": "filter.direct-access-drop",
    "DROP REMOTE LOOPBACK": "filter.direct-access-drop",
    "UNPUBLISHED PORT DROP": "filter.unpublished-port-drop",
    '"ICC"': "filter.icc-disabled",
}


def _engine_rule_fault(case: Case, step: Step, ref: RuleRef) -> str | None:
    """Return the code of a drop that the engine itself wrote, None when it did not."""
    if ref.index is None:
        return None
    code = _engine_wrote(ref)
    if code == "filter.icc-disabled":
        # Only what the engine meant is icc; the same rule from another hand is that hand's rule.
        same = re.search(r"(?<!! )-i (\S+) -o \1(?: |$)", ref.text)
        network = case.network_of_bridge(same[1]) if same else _network_of_chain(case, ref)
        return code if network is not None and network.icc is False else None
    if code == "filter.direct-access-drop":
        away = re.search(r"! -i (\S+)", ref.text)
        known = away is None or away[1] == "lo" or case.network_of_bridge(away[1]) is not None
        return code if known else None
    if code == "filter.unpublished-port-drop" and case.container_of(case.flow.src) is not None:
        # An answer from outside comes there too, where it is not known for one.
        return "filter.network-isolation" if step in case.steps(Direction.FORWARD) else code
    return code


def _engine_wrote(ref: RuleRef) -> str | None:
    if ref.owner not in ENGINES and not ref.text.startswith("-A "):
        return None
    if not ref.text.startswith("-A "):
        return next((code for mark, code in _DOCKER_COMMENTS.items() if mark in ref.text), None)
    if ref.owner in ENGINES and ref.owner != "docker" and "ISOLATION" in ref.chain:
        return "filter.network-isolation"
    tables = {"filter.direct-access-drop": "raw"}
    return next(
        (
            code
            for code, shape in _DOCKER_DROPS
            if ref.table == tables.get(code, "filter") and shape.fullmatch(ref.text)
        ),
        None,
    )


def _network_of_chain(case: Case, ref: RuleRef) -> Network | None:
    for network in case.before.intent.networks:
        if network.bridge is not None and ref.chain.endswith(f"__{network.bridge}"):
            return network
    return None


def _split(case: Case, step: Step, ref: RuleRef) -> bool:
    """Tell whether the engine's rules stand in the other iptables backend than the one that drops."""
    if is_native_nft(ref):
        return False
    view = view_of(case, step)
    backends = {
        table.backend
        for table in view.ruleset.tables
        if table.name == "filter" and table.family == ref.family
        for chain in table.chains.values()
        if chain.name.startswith(("DOCKER", "NETAVARK")) and chain.rules
    }
    return bool(backends) and ref.backend not in backends


def engine_rules(case: Case, step: Step, ref: RuleRef) -> str | None:
    """Tell whether the engine's forward rules are gone or bypassed; None when they are in place or none is meant."""
    engine = case.engine
    if engine is None or engine.name not in ("docker", "podman", "lab") or engine.iptables is False:
        return None
    table = case.world.views[step.netns].ruleset.table(ref.backend, ref.family, "filter")
    if table is None or not any(network.bridge for network in case.before.intent.networks):
        return None
    if engine.name == "podman":
        return _podman_rules(case, table)
    chains = [chain for name, chain in table.chains.items() if name.startswith("DOCKER") and name != "DOCKER-USER"]
    forward = table.chains.get("FORWARD")
    bridges = {network.bridge for network in case.before.intent.networks if network.bridge}
    own = [
        rule
        for rule in (forward.rules if forward is not None else ())
        if (re.search(r"-j DOCKER", rule.ref.text) and "DOCKER-USER" not in rule.ref.text)
        or any(re.search(rf"-[io] {re.escape(bridge)}(?: |$)", rule.ref.text) for bridge in bridges)
    ]
    filled = any(chain.rules for chain in chains if chain.base is None and not _only_returns(chain.rules))
    modern = "DOCKER-FORWARD" in table.chains
    if not own and not chains and ref.family == "ip6" and not ip6tables_by_default(engine):
        return None
    if not own:
        # Up to Docker 27 the accepts stand in FORWARD itself; later it holds two jumps alone.
        if modern and filled:
            return "filter.docker-chains-bypassed"
        return "filter.docker-rules-missing" if chains or engine.name == "docker" else None
    out = f"-o {step.device}"
    name = "DOCKER-FORWARD" if modern else "DOCKER"
    jumps = [rule.ref.text for rule in own if rule.ref.text.endswith(f"-j {name}")]
    target = table.chains.get(name)
    if target is None:
        return None
    if modern and not jumps and target.rules:
        return "filter.docker-chains-bypassed"
    meant = any(f" {out} " in rule.ref.text for rule in target.rules)
    if not modern and meant and not any(out in text or " -o " not in text for text in jumps):
        return "filter.docker-chains-bypassed"
    return None


def _podman_rules(case: Case, table: FilterTable) -> str | None:
    """Tell the same of netavark's one chain, which FORWARD jumps to, with two accepts for each subnet."""
    chain = table.chains.get("NETAVARK_FORWARD")
    if chain is None or not chain.rules:
        return "filter.docker-rules-missing"
    forward = table.chains.get("FORWARD")
    texts = [rule.ref.text for rule in (forward.rules if forward is not None else ())]
    if not any(text.endswith("-j NETAVARK_FORWARD") for text in texts):
        return "filter.docker-chains-bypassed"
    own = attachment(case, case.flow.src) or attachment(case, case.flow.dst)
    subnets = [str(pool.subnet) for pool in own[5].subnets] if own is not None and not own[5].internal else []
    if subnets and not any(subnet in rule.ref.text for subnet in subnets for rule in chain.rules):
        return "filter.docker-rules-missing"
    return None


def _only_returns(rules: Iterable[FilterRule]) -> bool:
    return all(rule.ref.text.endswith("-j RETURN") for rule in rules)


def filter_hits(case: Case, code: str, describe: FilterWords) -> list[Hit]:
    """Return the findings of one filter code."""
    hits = []
    for blocker, step, ref in filtered(case):
        if filter_fault(case, step, ref) == code:
            hits.append(filter_hit(case, blocker, step, ref, describe, code=code))
    return hits


#: What a rule of the engine's own that is not there may stop traffic by.
ENGINE_CODES = ("filter.forward-policy-drop", "filter.docker-rules-missing", "filter.docker-chains-bypassed")


class FilterWords:
    """The words of one filter code: a title and an explanation with {place}, {rule}, {verb} and {owner} in them.

    Commands may also name the {source}, the {destination} and its {network}.
    """

    def __init__(self, title: str, explanation: str, summary: str = "", commands: tuple[str, ...] = ()) -> None:
        self.title = title
        self.explanation = explanation
        self.summary = summary
        self.commands = commands


def ends_as_named(case: Case, step: Step) -> dict[str, str]:
    """Return what commands call the ends of the flow: both containers, and the network of the destination.

    Where the flow asks an address of the host, the destination is the container that the packet was translated to by
    then, and `aside` says that it is not to be asked there. `ports` are the packet's, as -p takes them.
    """
    source, target = case.container_of(case.flow.src), case.container_of(case.flow.dst)
    hanging = attachment(case, case.flow.dst)
    network = hanging[5] if hanging is not None else None
    aside = ""
    if target is None and step in case.steps(Direction.FORWARD):
        owner = case.world.owner_of_address(step.packet.dst)
        if owner is not None:
            target, network = owner[0], case.before.intent.network(owner[1].network_id)
            aside = f" by its own name or address, not by {case.flow.dst.address}"
    proto = "/udp" if case.flow.proto is Proto.UDP else ""
    dport = step.packet.dport
    return {
        "source": source.name if source is not None else "<source container>",
        "destination": target.name if target is not None else "<destination container>",
        "network": network.name if network is not None else "<network of the destination>",
        "aside": aside,
        "ports": f"{dport}:{dport}{proto}" if dport is not None else "<host port>:<container port>",
    }


def filter_hit(case: Case, blocker: Blocker, step: Step, ref: RuleRef, words: FilterWords, *, code: str = "") -> Hit:
    """Return the finding of a filter drop, with the rule, its counter, and the command that takes it away.

    For codes of the engine's own rules, the remedy is to put back what its layout lacks, where that is known.
    """
    verb = "rejects" if step.hook is not None and step.hook.verdict is FilterVerdict.REJECT else "drops"
    facts = {"place": place_of(ref), "rule": ref.text, "verb": verb, "owner": ref.owner, "device": step.device or ""}
    facts |= ends_as_named(case, step)
    mend = filter_mend(case, step, ref)
    if words.summary or words.commands:
        mend = Mend(
            summary=words.summary.format(**facts) or mend.summary,
            commands=tuple(each.format(**facts) for each in words.commands) or mend.commands,
            change=None if words.commands else mend.change,
        )
    view = view_of(case, step)
    meant: tuple[Evidence, ...] = ()
    # A flush spares no table: what it took of the others the flow needs next.
    tables = ("filter", "nat") if code == "filter.docker-rules-missing" else ("filter",)
    if code in ENGINE_CODES and (absent := absent_rules(case, step.netns, ref.backend, ref.family, tables)):
        mend, meant = put_back(case, step.netns, ref.backend, ref.family, absent, enter=partial(enter, case))
    elif code == "filter.docker-chains-bypassed" and (hiding := hiding_rules(case, step)):
        mend = Mend(
            summary="Delete the rule that leads the packet past the engine's own, or narrow it.",
            commands=tuple(delete_command(case, step.netns, each) for each in hiding),
            change=together(*(delete_rule(step.netns, each) for each in hiding)),
        )
        meant = tuple(each for rule in hiding for each in rule_evidence(case, step.netns, rule))
    return Hit(
        title=words.title.format(**facts),
        explanation=words.explanation.format(**facts),
        at=f"{view.name}/{step.device}" if step.device else view.name,
        evidence=(*rule_evidence(case, step.netns, ref), *meant, *wire_evidence(case, blocker)),
        mend=mend,
        basis=_basis(case, blocker, step.netns, ref),
        blocker=blocker,
        # A gap on the wire does not know where the rule stands.
        segment=step.segment if blocker.step is None else None,
        device=step.device,
        netns=step.netns,
    )


def _basis(case: Case, blocker: Blocker, netns: int, ref: RuleRef) -> Basis:
    if blocker.basis is Basis.PREDICTED and case.correlation.probed and case.rise(netns, ref):
        return Basis.BOTH
    return blocker.basis


def filter_mend(case: Case, step: Step, ref: RuleRef) -> Mend:
    """Return the smallest change that lets the packet pass a rule: delete it, or accept before a policy."""
    if ref.index is not None:
        return Mend(
            summary="Delete the rule, or narrow it so that this traffic no longer matches.",
            commands=(delete_command(case, step.netns, ref),),
            change=delete_rule(step.netns, ref),
        )
    hook = step.hook.hook if step.hook is not None else None
    if hook is Hook.FORWARD and ref.family in ("ip", "ip6") and ref.table == "filter" and not is_native_nft(ref):
        return accept_mend(case, step, ref)
    return Mend(
        summary=f"Accept this traffic before the end of {ref.chain}, or let the policy accept.",
        commands=(policy_command(case, step.netns, ref),),
        change=set_policy(step.netns, ref, "ACCEPT"),
    )


def accept_mend(case: Case, step: Step, ref: RuleRef) -> Mend:
    """Return the accepts that a bridge needs in FORWARD: out, and the answers back in."""
    bridge = _bridge_on_way(case, step)
    prefix = f"{enter(case, step.netns)}{program(ref)}"
    if bridge is None:
        return Mend(
            summary="Let FORWARD accept.",
            commands=(policy_command(case, step.netns, ref),),
            change=set_policy(step.netns, ref, "ACCEPT"),
        )
    inbound = _inbound_accept(case, step)
    rules = (
        *((inbound,) if inbound is not None else ()),
        f"-A FORWARD -i {bridge} -j ACCEPT",
        f"-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    )

    def change(snapshot):  # type: ignore[no-untyped-def]
        for rule in rules:
            snapshot = append_rule(step.netns, ref.backend, ref.family, "filter", rule)(snapshot)
        return snapshot

    return Mend(
        summary=(
            f"Accept what comes from {bridge}, and the answers to it; restarting the engine writes its own rules again."
            if inbound is None
            else f"Accept what comes for the container by {bridge}, and its answers; restarting the engine writes its "
            "own rules again."
        ),
        commands=tuple(f"{prefix} {rule}" for rule in rules),
        change=change,
    )


def _inbound_accept(case: Case, step: Step) -> str | None:
    """Return the accept that a new packet for a container behind a bridge needs, where it comes from elsewhere."""
    link = view_of(case, step).by_name.get(step.device or "")
    new = step.hook is not None and step.hook.tracking.state is CtState.NEW
    if link is None or link.kind != "bridge" or not new:
        return None
    came = [each.device for each in case.steps(Direction.FORWARD) if each.netns == step.netns and each.device]
    if came[:1] == [link.name]:
        return None
    packet = step.packet
    proto = {6: "tcp", 17: "udp"}.get(packet.proto)
    port = f" -p {proto} -m {proto} --dport {packet.dport}" if proto is not None else ""
    wide = 32 if packet.family == 4 else 128
    return f"-A FORWARD -d {packet.dst}/{wide} ! -i {link.name} -o {link.name}{port} -j ACCEPT"


def _bridge_on_way(case: Case, step: Step) -> str | None:
    """Return the engine's bridge that the packet came from, or that it goes to."""
    view = view_of(case, step)
    devices = [each.device for each in case.steps(Direction.FORWARD) if each.netns == step.netns and each.device]
    for device in devices:
        link = view.by_name.get(device)
        if link is not None and link.kind == "bridge":
            return device
    return None


def lost_on_wire(case: Case) -> list[Blocker]:
    """Return the stops that only the wire shows."""
    return [each for each in case.blockers if each.step is None]


def dropping_rules_that_moved(case: Case) -> list[tuple[int, RuleRef, int]]:
    """Return the rules that drop or reject and whose counters rose while the probe ran."""
    return [each for each in case.moved if _DROPPING.search(each[1].text)]


def last_route(case: Case, blocker: Blocker, step: Step) -> Step | None:
    """Return the last routing decision before a stop, in the same leg."""
    found: Step | None = None
    for each in case.steps(blocker.direction):
        if each is step:
            break
        if each.kind is StepKind.ROUTE and each.route is not None:
            found = each
    return found


def intent_evidence(text: str, ref: str) -> Evidence:
    """Return what the engine meant as evidence."""
    return Evidence(kind=EvidenceKind.INTENT, ref=ref, text=text)


def errno_or_wire(case: Case, blocker: Blocker) -> tuple[Evidence, ...]:
    """Return what the kernel said when it refused to send, and what the captures say about the stop."""
    return (*errno_evidence(case), *wire_evidence(case, blocker))
