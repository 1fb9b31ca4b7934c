"""The faults that a lab can have: what each does, with which commands, and what it looks like from outside.

A fault is data: shell commands in the network namespace of the host, the internet or a container, with the lab's own
names filled in (`{app.ip}`, see nettrace.lab.facts; doubled braces are single ones). `flow` is what to ask nettrace
to see it; before the fault that flow is delivered, and after mending it is again. A fault without break commands is
standing: its `setup` makes the circumstances once, and the flow is stopped by design.
"""

from __future__ import annotations

from collections.abc import Iterable

from nettrace.errors import LabError
from nettrace.lab.state import LabState, Step
from nettrace.model.base import Model
from nettrace.model.path import Direction, Segment

__all__ = ["FAULTS", "Fault", "FaultFlow", "fault", "obstacle"]


class FaultFlow(Model):
    """What to ask: source, destination and further arguments of `nettrace path`."""

    src: str
    dst: str
    args: tuple[str, ...] = ()


class Fault(Model):
    """One fault that a lab can have.

    `code`, `segment` and `direction` are what the diagnosis must be. `kinds` are the lab's kinds that can have it,
    `engines` the least and greatest major version of Docker, `iptables` the only back end that it can be made with.
    `on_wire` is False when packets still pass and only the engine's account tells. `formerly` is the segment with
    Docker older than a major version, where that laid its network out otherwise.
    """

    name: str
    code: str
    summary: str
    flow: FaultFlow
    segment: Segment
    direction: Direction = Direction.FORWARD
    break_commands: tuple[Step, ...] = ()
    mend_commands: tuple[Step, ...] = ()
    setup: tuple[Step, ...] = ()
    kinds: tuple[str, ...] = ("docker", "none")
    engines: tuple[int, int] | None = None
    iptables: str | None = None
    on_wire: bool = True
    formerly: tuple[int, Segment] | None = None

    def segment_with(self, docker_version: str | None) -> Segment:
        """Return where the flow stops with this version of Docker, None for a lab without Docker."""
        if self.formerly is not None and docker_version is not None:
            major, segment = self.formerly
            if int(docker_version.split(".")[0]) < major:
                return segment
        return self.segment

    @property
    def standing(self) -> bool:
        """Whether the flow is stopped by design, with nothing to break."""
        return not self.break_commands


def fault(name: str) -> Fault:
    """Return a fault by name; raises LabError when there is none."""
    found = _BY_NAME.get(name)
    if found is None:
        near = [each for each in _BY_NAME if name in each or name in _BY_NAME[each].code]
        hint = f"did you mean {', '.join(near[:4])}?" if near else "see `nettrace lab faults`"
        raise LabError(f"there is no fault named {name}: {hint}")
    return found


def obstacle(wanted: Fault, lab: LabState) -> str | None:
    """Return why a lab cannot have a fault, or None when it can."""
    if lab.engine not in wanted.kinds:
        return f"it needs a lab made with --engine {' or '.join(wanted.kinds)}"
    if wanted.engines is not None and lab.docker_version is not None:
        least, greatest = wanted.engines
        if not least <= int(lab.docker_version.split(".")[0]) <= greatest:
            return f"Docker {lab.docker_version} lays out its rules otherwise"
    backend = "legacy" if lab.legacy_iptables else "nft"
    if wanted.iptables not in (None, backend):
        return f"it needs iptables' {wanted.iptables} back end"
    return None


def _at(where: str, *commands: str) -> tuple[Step, ...]:
    return tuple(Step(where=where, command=command) for command in commands)


def host(*commands: str) -> tuple[Step, ...]:
    """Return steps in the host's namespace."""
    return _at("host", *commands)


def inet(*commands: str) -> tuple[Step, ...]:
    """Return steps in the internet's namespace."""
    return _at("inet", *commands)


def inside(container: str, *commands: str) -> tuple[Step, ...]:
    """Return steps in a container's namespace."""
    return _at(container, *commands)


OUT = FaultFlow(src="app", dst="8.8.8.8")
OUT_HTTP = FaultFlow(src="app", dst="8.8.8.8", args=("--proto", "tcp", "--port", "80"))
OUT_DNS = FaultFlow(src="app", dst="8.8.8.8", args=("--proto", "udp", "--port", "53"))
OUT_BIG = FaultFlow(src="app", dst="8.8.8.8", args=("--size", "1500"))
OUT6 = FaultFlow(src="c1", dst="2001:4860:4860::8888", args=("-6",))
PEER = FaultFlow(src="app", dst="web")
PEER_HTTP = FaultFlow(src="app", dst="web", args=("--proto", "tcp", "--port", "80"))
PUBLISHED_OUTSIDE = FaultFlow(src="netns:{inet.path}", dst="{uplink.ip}", args=("--proto", "tcp", "--port", "8080"))
PUBLISHED_HOST = FaultFlow(src="host", dst="{uplink.ip}", args=("--proto", "tcp", "--port", "8080"))

#: A spare bridge without ports, with a subnet of its own: a network that leads nowhere.
LAN9 = ("ip link add lan9 type bridge", "ip addr add 10.99.0.1/24 dev lan9", "ip link set lan9 up")
HOST_DEFAULT = "ip route replace default via {uplink.gateway} dev {uplink.dev}"
HOST_DEFAULT6 = "ip -6 route replace default via {uplink.gateway6} dev {uplink.dev}"
APP_DEFAULT = "ip route replace default via {app.gateway} dev eth0"
#: Lest the host, asking for the container again, tell it the bridge's MAC address.
FORGET = "ip neigh flush dev {app.bridge}"
NOBODY = "02:00:00:00:00:99"


def _toggle(add: str, rule: str) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return how an iptables rule is put first in its chain on the host, and how it is deleted again."""
    table, chain = add.split()
    tool = f"iptables -t {table}"
    return host(f"{tool} -I {chain} {rule}"), host(f"{tool} -D {chain} {rule}")


def _rule_drop(
    name: str,
    summary: str,
    chain: str,
    rule: str,
    *,
    flow: FaultFlow = OUT,
    segment: Segment = Segment.HOST,
    direction: Direction = Direction.FORWARD,
    code: str = "filter.rule-drop",
) -> Fault:
    """Return a fault that is one iptables rule at the head of "table CHAIN" on the host."""
    made, undone = _toggle(chain, rule)
    return Fault(
        name=name,
        code=code,
        summary=summary,
        flow=flow,
        segment=segment,
        direction=direction,
        break_commands=made,
        mend_commands=undone,
    )


def _saved(name: str, *commands: str) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return steps that save all rules of both families before the commands, and steps that load them again."""
    four, six = f"{{dir}}/{name}.iptables", f"{{dir}}/{name}.ip6tables"
    return (
        host(f"iptables-save > {four}", f"ip6tables-save > {six}", *commands),
        host(f"iptables-restore < {four}", f"ip6tables-restore < {six}"),
    )


def _nat() -> Iterable[Fault]:
    masquerade = "POSTROUTING -s {app.subnet} ! -o {app.bridge} -j MASQUERADE"
    yield Fault(
        name="masquerade-deleted",
        code="nat.masquerade-missing",
        summary="the MASQUERADE rule of docker0's subnet is deleted",
        flow=OUT,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=host(f"iptables -t nat -D {masquerade}"),
        mend_commands=host(f"iptables -t nat -A {masquerade}"),
    )
    flushed, restored = _saved("masquerade-flushed", "iptables -t nat -F POSTROUTING")
    yield Fault(
        name="masquerade-flushed",
        code="nat.masquerade-missing",
        summary="nat POSTROUTING is flushed",
        flow=OUT_HTTP,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=flushed,
        mend_commands=restored,
    )
    yield Fault(
        name="masquerade-narrowed",
        code="nat.masquerade-missing",
        summary="MASQUERADE is left for TCP only, and ICMP leaves untranslated",
        flow=OUT,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=host(
            "iptables -t nat -A POSTROUTING -s {app.subnet} ! -o {app.bridge} -p tcp -j MASQUERADE",
            f"iptables -t nat -D {masquerade}",
        ),
        mend_commands=host(
            f"iptables -t nat -A {masquerade}",
            "iptables -t nat -D POSTROUTING -s {app.subnet} ! -o {app.bridge} -p tcp -j MASQUERADE",
        ),
    )
    for name, summary, rule in (
        ("masquerade-accepted-first", "an earlier ACCEPT in nat POSTROUTING hides MASQUERADE", "-j ACCEPT"),
        ("masquerade-returned-first", "an earlier RETURN in nat POSTROUTING hides MASQUERADE", "-j RETURN"),
        (
            "snat-wrong-address",
            "an earlier SNAT gives an address that nobody routes here",
            "-o {uplink.dev} -j SNAT --to-source 192.0.2.77",
        ),
        (
            "snat-loopback",
            "an earlier SNAT gives the host's loopback address, which nobody beyond can answer",
            "-o {uplink.dev} -j SNAT --to-source 127.0.0.1",
        ),
        (
            "netmap-first",
            "an earlier NETMAP gives an address of a network that nobody routes here",
            "-o {uplink.dev} -j NETMAP --to 10.9.0.0/16",
        ),
    ):
        yield _rule_drop(
            name,
            summary,
            "nat POSTROUTING",
            f"-s {{app.subnet}} {rule}",
            code="nat.masquerade-shadowed",
            segment=Segment.REMOTE,
            direction=Direction.REPLY,
        )
    yield Fault(
        name="source-snat",
        code="nat.masquerade-shadowed",
        summary="a rule of the container's own translates its source, so that MASQUERADE passes it by",
        flow=OUT,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=inside("app", "iptables -t nat -I POSTROUTING -j SNAT --to-source 10.9.8.7"),
        mend_commands=inside("app", "iptables -t nat -D POSTROUTING -j SNAT --to-source 10.9.8.7"),
    )
    yield Fault(
        name="masquerade-off-by-option",
        code="nat.return-route-missing",
        summary="a network made with enable_ip_masquerade=false, which the far side has no route back to",
        flow=FaultFlow(src="routed", dst="8.8.8.8"),
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        setup=host(
            "docker network inspect nomasq >/dev/null 2>&1 || docker network create --subnet 172.21.0.0/16 "
            "-o com.docker.network.bridge.enable_ip_masquerade=false nomasq",
            "docker inspect routed >/dev/null 2>&1 || docker run -d --name routed --stop-signal KILL --network nomasq "
            "busybox tail -f /dev/null",
        ),
        kinds=("docker",),
    )
    dnat = "DOCKER ! -i {web.bridge} -p tcp -m tcp --dport 8080 -j DNAT --to-destination {web.ip}:80"
    stale = "DOCKER ! -i {web.bridge} -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.99:80"
    yield Fault(
        name="dnat-deleted",
        code="nat.dnat-missing",
        summary="the DNAT of the published port 8080 is deleted (no userland proxy stands in)",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=host(f"iptables -t nat -D {dnat}"),
        mend_commands=host(f"iptables -t nat -A {dnat}"),
        kinds=("none",),
    )
    yield Fault(
        name="dnat-deleted-locally",
        code="nat.dnat-missing",
        summary="nobody jumps to the nat chain DOCKER for the host's own packets",
        flow=PUBLISHED_HOST,
        segment=Segment.HOST,
        break_commands=host("iptables -t nat -D OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER"),
        mend_commands=host("iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER"),
        kinds=("none",),
    )
    yield Fault(
        name="dnat-stale",
        code="nat.dnat-stale",
        summary="the DNAT of the published port points at an address that no container has",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.BRIDGE,
        break_commands=host(f"iptables -t nat -D {dnat}", f"iptables -t nat -A {stale}"),
        mend_commands=host(f"iptables -t nat -D {stale}", f"iptables -t nat -A {dnat}"),
    )
    made, undone = _toggle("nat DOCKER", "-p tcp --dport 8080 -j REDIRECT --to-ports 9")
    yield Fault(
        name="dnat-redirected",
        code="nat.dnat-shadowed",
        summary="an earlier REDIRECT takes the published port",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=made,
        mend_commands=undone,
    )
    made, undone = _toggle("nat DOCKER", "-p tcp --dport 8080 -j DNAT --to-destination {web.ip}:99")
    yield Fault(
        name="dnat-other-port",
        code="nat.dnat-shadowed",
        summary="an earlier DNAT leads the published port to another port of the container",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=made,
        mend_commands=undone,
    )
    made, undone = _toggle("nat DOCKER", "-j RETURN")
    yield Fault(
        name="dnat-returned-first",
        code="nat.dnat-shadowed",
        summary="an earlier RETURN in the nat chain DOCKER hides every published port",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=made,
        mend_commands=undone,
        kinds=("none",),
    )
    yield Fault(
        name="masquerade6-deleted",
        code="nat.masquerade-missing",
        summary="the IPv6 MASQUERADE rule of net1 is deleted",
        flow=OUT6,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=host("ip6tables -t nat -D POSTROUTING -s {c1.subnet6} ! -o {c1.bridge} -j MASQUERADE"),
        mend_commands=host("ip6tables -t nat -A POSTROUTING -s {c1.subnet6} ! -o {c1.bridge} -j MASQUERADE"),
        kinds=("none",),
    )
    yield Fault(
        name="published-from-neighbour",
        code="nat.hairpin-missing",
        summary="a neighbour on the same bridge gets no DNAT, and no userland proxy stands in",
        flow=FaultFlow(src="app", dst="{uplink.ip}", args=("--proto", "tcp", "--port", "8080")),
        segment=Segment.HOST,
        kinds=("none",),
    )
    made, undone = _toggle("nat POSTROUTING", "-s {app.subnet} -p tcp --dport 80 -j SNAT --to-source {uplink.ip}:40000")
    held = "-p tcp -s 10.9.9.9 -d 8.8.8.8 --sport 1 --dport 80"
    yield Fault(
        name="snat-port-exhausted",
        code="nat.port-exhausted",
        summary="an SNAT rule has a single port, and another connection holds it",
        flow=OUT_HTTP,
        segment=Segment.EGRESS,
        break_commands=made
        + host(
            f"conntrack -I {held} -r 8.8.8.8 -q {{uplink.ip}} --reply-port-src 80 --reply-port-dst 40000 "
            "--timeout 600 --state ESTABLISHED --status SEEN_REPLY,ASSURED"
        ),
        mend_commands=undone + host(f"conntrack -D {held}"),
    )
    yield Fault(
        name="invalid-drop",
        code="conntrack.invalid-drop",
        summary="requests bypass conntrack, so their replies are INVALID, which FORWARD drops",
        flow=PEER,
        segment=Segment.BRIDGE,
        direction=Direction.REPLY,
        break_commands=host(
            "iptables -t raw -I PREROUTING -i {app.bridge} -d {web.ip} -p icmp -j NOTRACK",
            "iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP",
        ),
        mend_commands=host(
            "iptables -D FORWARD -m conntrack --ctstate INVALID -j DROP",
            "iptables -t raw -D PREROUTING -i {app.bridge} -d {web.ip} -p icmp -j NOTRACK",
        ),
    )
    # Flushed first: an older entry that expired would leave room for one more.
    fill = (
        "conntrack -F >/dev/null 2>&1; "
        "i=0; max=$(cat /proc/sys/net/netfilter/nf_conntrack_max); { while [ $i -le $max ]; do "
        'echo "-I -p udp -s 10.$((i>>16&255)).$((i>>8&255)).$((i&255)) -d 198.51.100.1 --sport 1 --dport 1 '
        '--timeout 3600 --status SEEN_REPLY,ASSURED"; i=$((i+1)); done; } | conntrack --load-file - >/dev/null 2>&1; '
        "[ $(cat /proc/sys/net/netfilter/nf_conntrack_count) -ge $max ]"
    )
    yield Fault(
        name="conntrack-full",
        code="conntrack.table-full",
        summary="the connection table is filled with assured entries up to nf_conntrack_max",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(fill.replace("{", "{{").replace("}", "}}")),
        mend_commands=host("conntrack -F"),
    )

    yield Fault(
        name="checksum-spoilt",
        code="link.checksum-offload",
        summary="frames between the two containers lose their right checksum on the bridge",
        flow=PEER,
        segment=Segment.DESTINATION,
        break_commands=host(
            "nft add table bridge spoil",
            "nft 'add chain bridge spoil pass {{ type filter hook forward priority 200; }}'",
            "nft add rule bridge spoil pass ip saddr {app.ip} icmp checksum set 0x1234",
        ),
        mend_commands=host("nft delete table bridge spoil"),
    )
    yield Fault(
        name="reply-checksum-spoilt",
        code="link.checksum-offload",
        summary="what the destination answers loses its right checksum on the bridge",
        flow=PEER,
        segment=Segment.SOURCE,
        direction=Direction.REPLY,
        break_commands=host(
            "nft add table bridge spoil",
            "nft 'add chain bridge spoil pass {{ type filter hook forward priority 200; }}'",
            "nft add rule bridge spoil pass ip saddr {web.ip} icmp checksum set 0x1234",
        ),
        mend_commands=host("nft delete table bridge spoil"),
        kinds=("none",),
        # Raw sockets, as ping has them, get it all the same.
        on_wire=False,
    )


def _filters() -> Iterable[Fault]:
    yield Fault(
        name="icc-disabled",
        code="filter.icc-disabled",
        summary="a network made with enable_icc=false keeps its containers apart",
        flow=FaultFlow(src="n1", dst="n2"),
        segment=Segment.BRIDGE,
        kinds=("docker",),
    )
    yield Fault(
        name="networks-isolated",
        code="filter.network-isolation",
        summary="Docker's isolation chains keep two bridge networks apart",
        flow=FaultFlow(src="c1", dst="{web.ip}", args=("--proto", "tcp", "--port", "80")),
        segment=Segment.HOST,
        engines=(1, 27),
    )
    yield Fault(
        name="direct-access-between-networks",
        code="filter.direct-access-drop",
        summary="Docker's raw table drops what comes for a container from another network",
        flow=FaultFlow(src="c1", dst="{web.ip}", args=("--proto", "tcp", "--port", "80")),
        segment=Segment.HOST,
        kinds=("docker",),
        engines=(28, 99),
    )
    yield Fault(
        name="direct-access-from-outside",
        code="filter.direct-access-drop",
        summary="Docker's raw table drops what comes for a container's own address from outside",
        flow=FaultFlow(src="netns:{inet.path}", dst="{web.ip}", args=("--proto", "tcp", "--port", "80")),
        segment=Segment.HOST,
        setup=inet("ip route replace {web.ip}/32 via {uplink.ip}"),
        kinds=("docker",),
        engines=(28, 99),
    )
    yield Fault(
        name="network-internal",
        code="filter.internal-network",
        summary="an --internal network has no way out",
        flow=FaultFlow(src="s1", dst="8.8.8.8"),
        segment=Segment.SOURCE,
        # Once containers of such a network had a default route, and the host's rules stopped them.
        formerly=(28, Segment.HOST),
        kinds=("docker",),
    )
    yield Fault(
        name="network-isolated-from-host",
        code="filter.internal-network",
        summary="a network in isolated gateway mode: its own host has no address in it",
        flow=FaultFlow(src="host", dst="alone"),
        segment=Segment.HOST,
        setup=host(
            "docker network inspect closed >/dev/null 2>&1 || docker network create --internal --subnet 172.22.0.0/16 "
            "-o com.docker.network.bridge.gateway_mode_ipv4=isolated closed",
            "docker inspect alone >/dev/null 2>&1 || docker run -d --name alone --stop-signal KILL --network closed "
            "busybox tail -f /dev/null",
        ),
        kinds=("docker",),
        engines=(28, 99),
    )
    yield Fault(
        name="accept-deleted",
        code="filter.forward-policy-drop",
        summary="FORWARD's policy is DROP, and the rule that lets docker0 out is deleted",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("iptables -D {rules.forward} {rules.accept_out}"),
        mend_commands=host("iptables -A {rules.forward} {rules.accept_out}"),
    )
    established = "FORWARD -o {app.bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    yield Fault(
        name="established-accept-deleted",
        code="filter.forward-policy-drop",
        summary="FORWARD's policy is DROP, and the rule that lets replies back to docker0 is deleted",
        flow=OUT,
        segment=Segment.HOST,
        direction=Direction.REPLY,
        break_commands=host(f"iptables -D {established}"),
        mend_commands=host(f"iptables -A {established}"),
        engines=(1, 27),
    )
    flushed, restored = _saved("forward-flushed", "iptables -F FORWARD")
    yield Fault(
        name="forward-flushed",
        code="filter.docker-rules-missing",
        summary="another tool flushes FORWARD, whose policy stays DROP",
        flow=OUT_HTTP,
        segment=Segment.HOST,
        break_commands=flushed,
        mend_commands=restored,
        engines=(1, 27),
    )
    flushed, restored = _saved("ruleset-flushed", "nft flush ruleset")
    yield Fault(
        name="ruleset-flushed",
        code="filter.docker-rules-missing",
        summary="a firewall's reload flushes the whole ruleset (nft flush ruleset)",
        flow=OUT,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=flushed,
        mend_commands=restored,
        iptables="nft",
    )
    yield Fault(
        name="docker-jump-deleted",
        code="filter.docker-chains-bypassed",
        summary="nothing jumps to the chain DOCKER-FORWARD any more",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("iptables -D FORWARD -j DOCKER-FORWARD"),
        mend_commands=host("iptables -A FORWARD -j DOCKER-FORWARD"),
        kinds=("docker",),
        engines=(28, 99),
    )
    flushed, restored = _saved("docker-ct-flushed", "iptables -F DOCKER-CT")
    yield Fault(
        name="docker-ct-flushed",
        code="filter.docker-rules-missing",
        summary="the chain that accepts answers is empty, and the engine's own drop takes them",
        flow=OUT,
        segment=Segment.HOST,
        direction=Direction.REPLY,
        break_commands=flushed,
        mend_commands=restored,
        kinds=("docker",),
        engines=(28, 99),
    )
    for name, summary, rules in (
        ("forward-returned", "a RETURN at the head of FORWARD hides what the engine accepts", ("-j RETURN",)),
        (
            "forward-returned-twice",
            "two rules of FORWARD, one behind the other, lead packets past what the engine accepts",
            ("-i {app.bridge} -j RETURN", "-s {app.ip} -j RETURN"),
        ),
    ):
        yield Fault(
            name=name,
            code="filter.docker-chains-bypassed",
            summary=summary,
            flow=OUT,
            segment=Segment.HOST,
            break_commands=host(*(f"iptables -I FORWARD {each}" for each in rules)),
            mend_commands=host(*(f"iptables -D FORWARD {each}" for each in rules)),
        )
    yield Fault(
        name="docker-ct-returned",
        code="filter.docker-chains-bypassed",
        summary="a RETURN at the head of DOCKER-CT hides the accept of answers, and the engine's own drop takes them",
        flow=OUT,
        segment=Segment.HOST,
        direction=Direction.REPLY,
        break_commands=host("iptables -I DOCKER-CT -j RETURN"),
        mend_commands=host("iptables -D DOCKER-CT -j RETURN"),
        kinds=("docker",),
        engines=(28, 99),
    )
    yield Fault(
        name="docker-ct-late",
        code="filter.docker-chains-bypassed",
        summary="the jump to what accepts answers stands behind the one to the engine's own drop",
        flow=OUT,
        segment=Segment.HOST,
        direction=Direction.REPLY,
        break_commands=host("iptables -D DOCKER-FORWARD -j DOCKER-CT", "iptables -A DOCKER-FORWARD -j DOCKER-CT"),
        mend_commands=host("iptables -D DOCKER-FORWARD -j DOCKER-CT", "iptables -I DOCKER-FORWARD -j DOCKER-CT"),
        kinds=("docker",),
        engines=(28, 99),
    )
    yield Fault(
        name="docker-accept-late",
        code="filter.docker-chains-bypassed",
        summary="the accept of a published port was appended again, behind the engine's own drop",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=host(
            "iptables -D DOCKER -d {web.ip} ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT",
            "iptables -A DOCKER -d {web.ip} ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT",
        ),
        mend_commands=host(
            "iptables -D DOCKER -d {web.ip} ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT",
            "iptables -I DOCKER -d {web.ip} ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT",
        ),
        kinds=("docker",),
        engines=(28, 99),
    )
    yield Fault(
        name="docker-chain-jump-deleted",
        code="filter.docker-chains-bypassed",
        summary="nothing jumps to the chain DOCKER, which accepts published ports, any more",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=host("iptables -D FORWARD -o {web.bridge} -j DOCKER"),
        mend_commands=host("iptables -A FORWARD -o {web.bridge} -j DOCKER"),
        engines=(1, 27),
    )
    yield Fault(
        name="bridged-frames-meet-forward",
        code="sysctl.bridge-nf-call-on",
        summary="bridged frames pass iptables, and the accept for docker0's own is deleted",
        flow=PEER,
        segment=Segment.BRIDGE,
        break_commands=host("iptables -D FORWARD -i {app.bridge} -o {app.bridge} -j ACCEPT"),
        mend_commands=host("iptables -A FORWARD -i {app.bridge} -o {app.bridge} -j ACCEPT"),
        engines=(1, 27),
    )
    yield from _rules()


def _rules() -> Iterable[Fault]:
    source = "-s {app.ip}"
    yield _rule_drop("forward-drop", "a DROP for the container heads FORWARD", "filter FORWARD", f"{source} -j DROP")
    yield _rule_drop(
        "docker-user-drop",
        "a DROP for the container stands in DOCKER-USER",
        "filter DOCKER-USER",
        f"{source} -d 8.8.8.8 -j DROP",
    )
    yield _rule_drop(
        "docker-user-reject",
        "a REJECT with a TCP reset stands in DOCKER-USER",
        "filter DOCKER-USER",
        "-i {app.bridge} -p tcp --dport 80 -j REJECT --reject-with tcp-reset",
        flow=OUT_HTTP,
    )
    yield _rule_drop(
        "mangle-prerouting-drop",
        "mangle PREROUTING drops ICMP from docker0",
        "mangle PREROUTING",
        "-i {app.bridge} -p icmp -j DROP",
    )
    yield _rule_drop(
        "mangle-forward-drop",
        "mangle FORWARD drops DNS queries",
        "mangle FORWARD",
        "-p udp --dport 53 -j DROP",
        flow=OUT_DNS,
    )
    yield _rule_drop("raw-drop", "raw PREROUTING drops the container's packets", "raw PREROUTING", f"{source} -j DROP")
    yield _rule_drop(
        "postrouting-drop",
        "mangle POSTROUTING drops on the way out of the uplink",
        "mangle POSTROUTING",
        f"-o {{uplink.dev}} {source} -j DROP",
        segment=Segment.EGRESS,
    )
    yield _rule_drop(
        "reply-drop",
        "FORWARD drops what comes back for the container",
        "filter FORWARD",
        "-i {uplink.dev} -d {app.ip} -j DROP",
        direction=Direction.REPLY,
    )
    yield _rule_drop(
        "published-port-drop",
        "DOCKER-USER drops what comes for the published port from outside",
        "filter DOCKER-USER",
        "-i {uplink.dev} -p tcp --dport 80 -j DROP",
        flow=PUBLISHED_OUTSIDE,
    )
    yield _rule_drop(
        "host-output-drop",
        "the host's own OUTPUT drops",
        "filter OUTPUT",
        "-d 8.8.8.8 -j DROP",
        flow=FaultFlow(src="host", dst="8.8.8.8"),
        segment=Segment.SOURCE,
    )
    yield Fault(
        name="forward6-drop",
        code="filter.rule-drop",
        summary="ip6tables FORWARD drops what the container sends",
        flow=OUT6,
        segment=Segment.HOST,
        break_commands=host("ip6tables -I FORWARD -s {c1.ip6} -j DROP"),
        mend_commands=host("ip6tables -D FORWARD -s {c1.ip6} -j DROP"),
        kinds=("none",),
    )
    yield _rule_drop(
        "input-drop",
        "INPUT drops what containers send to the host",
        "filter INPUT",
        "-i {app.bridge} -j DROP",
        flow=FaultFlow(src="app", dst="{app.gateway}"),
        code="filter.input-drop",
    )
    yield Fault(
        name="marked-drop",
        code="filter.rule-drop",
        summary="mangle marks the packet, and FORWARD drops by the mark",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            "iptables -t mangle -I PREROUTING -s {app.ip} -j MARK --set-mark 0x99",
            "iptables -I FORWARD -m mark --mark 0x99 -j DROP",
        ),
        mend_commands=host(
            "iptables -D FORWARD -m mark --mark 0x99 -j DROP",
            "iptables -t mangle -D PREROUTING -s {app.ip} -j MARK --set-mark 0x99",
        ),
    )
    yield Fault(
        name="user-chain-drop",
        code="filter.rule-drop",
        summary="FORWARD jumps to a chain of the user's that drops the destination",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            "iptables -N BLOCKLIST", "iptables -A BLOCKLIST -d 8.8.8.0/24 -j DROP", "iptables -I FORWARD -j BLOCKLIST"
        ),
        mend_commands=host("iptables -D FORWARD -j BLOCKLIST", "iptables -F BLOCKLIST", "iptables -X BLOCKLIST"),
    )
    yield Fault(
        name="ipset-drop",
        code="filter.rule-drop",
        summary="FORWARD drops members of an ipset",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            "ipset create blocked hash:ip",
            "ipset add blocked {app.ip}",
            "iptables -I FORWARD -m set --match-set blocked src -j DROP",
        ),
        mend_commands=host("iptables -D FORWARD -m set --match-set blocked src -j DROP", "ipset destroy blocked"),
    )
    yield Fault(
        name="nft-table-drop",
        code="filter.rule-drop",
        summary="an nft table of the user's drops in forward at an odd priority",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            "nft 'add table inet guard; add chain inet guard pass {{ type filter hook forward priority -7; }}; "
            "add rule inet guard pass ip saddr {app.ip} counter drop'"
        ),
        mend_commands=host("nft delete table inet guard"),
    )
    yield Fault(
        name="nft-prerouting-drop",
        code="filter.rule-drop",
        summary="an nft table of the user's drops a set of destinations in prerouting, after conntrack",
        flow=OUT_HTTP,
        segment=Segment.HOST,
        break_commands=host(
            "nft 'add table ip guard; add set ip guard bad {{ type ipv4_addr; flags interval; elements = "
            "{{ 8.8.8.0/24 }}; }}; add chain ip guard pre {{ type filter hook prerouting priority -123; }}; "
            'add rule ip guard pre iifname "{app.bridge}" ip daddr @bad drop\''
        ),
        mend_commands=host("nft delete table ip guard"),
    )
    yield Fault(
        name="backend-split",
        code="filter.backend-split",
        summary="Docker's rules are nft's, and iptables-legacy drops the same packets",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("iptables-legacy -I FORWARD -s {app.ip} -j DROP"),
        mend_commands=host("iptables-legacy -D FORWARD -s {app.ip} -j DROP"),
        iptables="nft",
    )
    yield Fault(
        name="backend-split-reversed",
        code="filter.backend-split",
        summary="Docker's rules are legacy ones, and iptables-nft drops the same packets",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("iptables-nft -I FORWARD -s {app.ip} -j DROP"),
        mend_commands=host("iptables-nft -D FORWARD -s {app.ip} -j DROP"),
        iptables="legacy",
    )
    yield Fault(
        name="ufw-drop",
        code="filter.foreign-firewall",
        summary="ufw's chains stand before Docker's and drop routed traffic",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            "iptables -N ufw-before-forward",
            "iptables -N ufw-user-forward",
            "iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables -A ufw-before-forward -j ufw-user-forward",
            "iptables -A ufw-user-forward -s {app.subnet} -j DROP",
            "iptables -I FORWARD -j ufw-before-forward",
        ),
        mend_commands=host(
            "iptables -D FORWARD -j ufw-before-forward",
            "iptables -F ufw-before-forward",
            "iptables -F ufw-user-forward",
            "iptables -X ufw-before-forward",
            "iptables -X ufw-user-forward",
        ),
    )
    yield Fault(
        name="firewalld-drop",
        code="filter.foreign-firewall",
        summary="firewalld's nft table rejects what it has no zone for",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            "nft 'add table inet firewalld; "
            "add chain inet firewalld filter_FORWARD {{ type filter hook forward priority filter + 10; }}; "
            "add rule inet firewalld filter_FORWARD ct state {{ established, related }} accept; "
            'add rule inet firewalld filter_FORWARD iifname "{app.bridge}" reject with icmpx admin-prohibited\''
        ),
        mend_commands=host("nft delete table inet firewalld"),
    )
    yield Fault(
        name="source-output-drop",
        code="filter.container-drop",
        summary="OUTPUT inside the source container drops",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=inside("app", "iptables -A OUTPUT -d 8.8.8.8 -j DROP"),
        mend_commands=inside("app", "iptables -D OUTPUT -d 8.8.8.8 -j DROP"),
    )
    yield Fault(
        name="destination-input-drop",
        code="filter.container-drop",
        summary="INPUT inside the destination container drops",
        flow=PEER_HTTP,
        segment=Segment.DESTINATION,
        break_commands=inside("web", "iptables -A INPUT -p tcp --dport 80 -j DROP"),
        mend_commands=inside("web", "iptables -D INPUT -p tcp --dport 80 -j DROP"),
    )
    yield Fault(
        name="destination-output-drop",
        code="filter.container-drop",
        summary="an nft table inside the destination container drops what it answers",
        flow=PEER,
        segment=Segment.DESTINATION,
        direction=Direction.REPLY,
        break_commands=inside(
            "web",
            "nft 'add table ip guard; add chain ip guard out {{ type filter hook output priority 0; }}; "
            "add rule ip guard out icmp type echo-reply drop'",
        ),
        mend_commands=inside("web", "nft delete table ip guard"),
    )
    yield Fault(
        name="ebtables-drop",
        code="bridge.filter-drop",
        summary="ebtables drops the container's frames on the bridge",
        flow=PEER,
        segment=Segment.BRIDGE,
        break_commands=host("ebtables -A FORWARD -s {app.mac} -j DROP"),
        mend_commands=host("ebtables -D FORWARD -s {app.mac} -j DROP"),
    )
    yield Fault(
        name="nft-bridge-drop",
        code="bridge.filter-drop",
        summary="an nft table of family bridge drops the container's IP frames",
        flow=PEER_HTTP,
        segment=Segment.BRIDGE,
        break_commands=host(
            "nft 'add table bridge guard; add chain bridge guard pass {{ type filter hook forward priority 0; }}; "
            "add rule bridge guard pass ip saddr {app.ip} tcp dport 80 drop'"
        ),
        mend_commands=host("nft delete table bridge guard"),
    )


def _mtu() -> Iterable[Fault]:
    yield Fault(
        name="uplink-mtu",
        code="mtu.mismatch",
        summary="the uplink's MTU is 1400, the containers' is 1500",
        flow=OUT_BIG,
        segment=Segment.EGRESS,
        break_commands=host("ip link set {uplink.dev} mtu 1400"),
        mend_commands=host("ip link set {uplink.dev} mtu 1500") + inside("app", "ip route flush cache"),
    )
    made, undone = _toggle("filter OUTPUT", "-p icmp --icmp-type fragmentation-needed -j DROP")
    yield Fault(
        name="mtu-black-hole",
        code="mtu.black-hole",
        summary="the uplink's MTU is 1400, and the ICMP that would say so is dropped",
        flow=OUT_BIG,
        segment=Segment.EGRESS,
        break_commands=host("ip link set {uplink.dev} mtu 1400") + made,
        mend_commands=undone + host("ip link set {uplink.dev} mtu 1500"),
    )
    yield Fault(
        name="veth-mtu-small",
        code="mtu.veth-mismatch",
        summary="the host's end of the veth has MTU 1400, the container's end 1500",
        flow=OUT_BIG,
        segment=Segment.BRIDGE,
        break_commands=host("ip link set {app.veth} mtu 1400"),
        mend_commands=host("ip link set {app.veth} mtu 1500"),
    )
    yield Fault(
        name="eth0-mtu-large",
        code="mtu.veth-mismatch",
        summary="the container's eth0 has MTU 9000, the host's end and the bridge 1500",
        flow=FaultFlow(src="app", dst="web", args=("--size", "4000")),
        segment=Segment.BRIDGE,
        setup=inside("app", "ip link set eth0 mtu 9000") + inside("web", "ip link set eth0 mtu 9000"),
    )


def _routes() -> Iterable[Fault]:
    yield Fault(
        name="container-default-deleted",
        code="route.missing",
        summary="the container's default route is deleted",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=inside("app", "ip route del default"),
        mend_commands=inside("app", APP_DEFAULT),
    )
    yield Fault(
        name="host-default-deleted",
        code="route.missing",
        summary="the host's default route is deleted",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("ip route del default"),
        mend_commands=host(HOST_DEFAULT),
    )
    yield Fault(
        name="host-default6-deleted",
        code="route.missing",
        summary="the host's IPv6 default route is deleted",
        flow=OUT6,
        segment=Segment.HOST,
        break_commands=host("ip -6 route del default"),
        mend_commands=host(HOST_DEFAULT6),
        kinds=("none",),
    )
    yield Fault(
        name="host-route-wrong-device",
        code="route.wrong-device",
        summary="a more specific route on the host leads to another network",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(*LAN9, "ip route add 8.8.8.0/24 dev lan9"),
        mend_commands=host("ip link del lan9"),
    )
    yield Fault(
        name="container-route-wrong-device",
        code="route.wrong-device",
        summary="a more specific route in the container leads to another interface",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=inside("app", *LAN9, "ip route add 8.8.8.0/24 dev lan9"),
        mend_commands=inside("app", "ip link del lan9"),
    )
    yield Fault(
        name="wrong-gateway",
        code="route.wrong-gateway",
        summary="the container's default route leads to a neighbour that does not forward",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=inside("web", "sysctl -qw net.ipv4.ip_forward=0")
        + inside("app", "ip route replace default via {web.ip} dev eth0"),
        mend_commands=inside("app", APP_DEFAULT),
    )
    yield Fault(
        name="uplink-gateway-absent",
        code="neigh.unresolved",
        summary="the host's default gateway is an address that nobody holds",
        flow=OUT,
        segment=Segment.EGRESS,
        break_commands=host("ip route replace default via 203.0.113.99 dev {uplink.dev}"),
        mend_commands=host(HOST_DEFAULT),
    )
    for name, where, kind, segment in (
        ("host-blackhole", "host", "blackhole", Segment.HOST),
        ("host-unreachable", "host", "unreachable", Segment.HOST),
        ("host-prohibit", "host", "prohibit", Segment.HOST),
        ("container-blackhole", "app", "blackhole", Segment.SOURCE),
    ):
        yield Fault(
            name=name,
            code="route.blackhole",
            summary=f"a route of type {kind} covers the destination, {'on the host' if where == 'host' else 'inside'}",
            flow=OUT,
            segment=segment,
            break_commands=_at(where, f"ip route add {kind} 8.8.8.0/24"),
            mend_commands=_at(where, f"ip route del {kind} 8.8.8.0/24"),
        )
    yield Fault(
        name="policy-rule",
        code="route.policy-rule",
        summary="an ip rule sends the containers' packets to a table without a way out",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            "ip route add unreachable default table 100", "ip rule add from {app.subnet} table 100 priority 100"
        ),
        mend_commands=host("ip rule del priority 100", "ip route del unreachable default table 100"),
    )
    yield Fault(
        name="policy-rule-prohibit",
        code="route.policy-rule",
        summary="an ip rule prohibits what comes in from docker0",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("ip rule add iif {app.bridge} prohibit priority 90"),
        mend_commands=host("ip rule del priority 90"),
    )
    yield Fault(
        name="default-hijacked",
        code="route.default-hijacked",
        summary="the host's default route leads into a container's veth",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("ip route replace default dev {web.veth}"),
        mend_commands=host("ip route del default dev {web.veth}", HOST_DEFAULT),
    )
    yield Fault(
        name="subnet-overlap",
        code="route.subnet-overlap",
        summary="a VPN's route covers part of docker0's subnet, and replies follow it",
        flow=OUT,
        segment=Segment.HOST,
        direction=Direction.REPLY,
        break_commands=host("ip route add 172.17.0.0/24 via {uplink.gateway}"),
        mend_commands=host("ip route del 172.17.0.0/24 via {uplink.gateway}"),
    )
    yield Fault(
        name="reply-asymmetric",
        code="route.reply-asymmetric",
        summary="an ip rule sends replies that come in on the uplink to a network that leads nowhere",
        flow=OUT,
        segment=Segment.HOST,
        direction=Direction.REPLY,
        break_commands=host(
            *LAN9, "ip route add default dev lan9 table 101", "ip rule add iif {uplink.dev} table 101 priority 101"
        ),
        mend_commands=host("ip rule del priority 101", "ip link del lan9"),
    )
    yield Fault(
        name="route-loop",
        code="route.loop",
        summary="the internet routes the address back to the host, which routes it to the internet",
        flow=OUT,
        segment=Segment.REMOTE,
        break_commands=inet("ip addr del 8.8.8.8/32 dev lo", "ip route add 8.8.8.8/32 via {uplink.ip}"),
        mend_commands=inet("ip route del 8.8.8.8/32 via {uplink.ip}", "ip addr add 8.8.8.8/32 dev lo"),
    )


def _sysctls() -> Iterable[Fault]:
    yield Fault(
        name="ip-forward-off",
        code="sysctl.ip-forward-off",
        summary="the host does not forward IPv4",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("sysctl -qw net.ipv4.ip_forward=0"),
        mend_commands=host("sysctl -qw net.ipv4.ip_forward=1"),
    )
    yield Fault(
        name="ipv6-forward-off",
        code="sysctl.ip-forward-off",
        summary="the host does not forward IPv6",
        flow=OUT6,
        segment=Segment.HOST,
        break_commands=host("sysctl -qw net.ipv6.conf.all.forwarding=0"),
        mend_commands=host("sysctl -qw net.ipv6.conf.all.forwarding=1", HOST_DEFAULT6),
        kinds=("none",),
    )
    yield Fault(
        name="bridge-forwarding-off",
        code="sysctl.interface-forwarding-off",
        summary="forwarding is off on docker0 alone",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host("sysctl -qw net.ipv4.conf.{app.bridge}.forwarding=0"),
        mend_commands=host("sysctl -qw net.ipv4.conf.{app.bridge}.forwarding=1"),
    )
    yield Fault(
        name="rp-filter-bridge",
        code="sysctl.rp-filter",
        summary="docker0 filters strictly by reverse path, and the way back to the container is another",
        flow=OUT,
        segment=Segment.HOST,
        break_commands=host(
            *LAN9, "ip route add {app.ip}/32 dev lan9", "sysctl -qw net.ipv4.conf.{app.bridge}.rp_filter=1"
        ),
        mend_commands=host("sysctl -qw net.ipv4.conf.{app.bridge}.rp_filter=2", "ip link del lan9"),
    )
    yield Fault(
        name="rp-filter-uplink",
        code="sysctl.rp-filter",
        summary="the uplink filters strictly by reverse path, and drops replies from where the host would not send",
        flow=OUT,
        segment=Segment.HOST,
        direction=Direction.REPLY,
        break_commands=host(
            *LAN9,
            "ip route add default via {uplink.gateway} dev {uplink.dev} table 102",
            # By mark: the kernel's reverse lookup takes the outgoing device for iif, but does not know the mark.
            "iptables -t mangle -I PREROUTING -i {app.bridge} -j MARK --set-mark 0x66",
            "ip rule add fwmark 0x66 table 102 priority 102",
            "ip route add 8.8.8.0/24 dev lan9",
            "sysctl -qw net.ipv4.conf.{uplink.dev}.rp_filter=1",
        ),
        mend_commands=host(
            "sysctl -qw net.ipv4.conf.{uplink.dev}.rp_filter=2",
            "iptables -t mangle -D PREROUTING -i {app.bridge} -j MARK --set-mark 0x66",
            "ip rule del priority 102",
            "ip route flush table 102",
            "ip link del lan9",
        ),
    )
    yield Fault(
        name="arp-ignore",
        code="sysctl.arp-ignore",
        summary="the bridge does not answer ARP for its gateway address",
        flow=OUT,
        segment=Segment.BRIDGE,
        break_commands=host("sysctl -qw net.ipv4.conf.{app.bridge}.arp_ignore=8", FORGET)
        + inside("app", "ip neigh flush dev eth0"),
        mend_commands=host("sysctl -qw net.ipv4.conf.{app.bridge}.arp_ignore=0")
        + inside("app", "ip neigh flush dev eth0"),
    )
    yield Fault(
        name="ipv6-disabled",
        code="sysctl.ipv6-disabled",
        summary="IPv6 is switched off in a container of an IPv6 network",
        flow=OUT6,
        segment=Segment.SOURCE,
        break_commands=inside("c1", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1"),
        mend_commands=inside(
            "c1",
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0",
            "ip addr add {c1.cidr6} dev eth0 nodad",
            "ip -6 route replace default via {c1.gateway6} dev eth0",
        ),
        kinds=("none",),
    )


def _links() -> Iterable[Fault]:
    yield Fault(
        name="container-eth0-down",
        code="link.down",
        summary="the container's eth0 is down",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=inside("app", "ip link set eth0 down"),
        mend_commands=inside("app", "ip link set eth0 up", APP_DEFAULT),
    )
    yield Fault(
        name="host-veth-down",
        code="link.down",
        summary="the host's end of the container's veth is down",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=host("ip link set {app.veth} down"),
        mend_commands=host("ip link set {app.veth} up"),
    )
    yield Fault(
        name="bridge-down",
        code="link.down",
        summary="docker0 is down",
        flow=OUT,
        segment=Segment.BRIDGE,
        break_commands=host("ip link set {app.bridge} down"),
        mend_commands=host("ip link set {app.bridge} up"),
    )
    yield Fault(
        name="uplink-down",
        code="link.down",
        summary="the host's uplink is down",
        flow=OUT,
        segment=Segment.EGRESS,
        break_commands=host("ip link set {uplink.dev} down"),
        mend_commands=host(
            "ip link set {uplink.dev} up",
            HOST_DEFAULT,
            "ip -6 addr replace {uplink.ip6}/64 dev {uplink.dev} nodad",
            HOST_DEFAULT6,
        ),
    )
    yield Fault(
        name="peer-eth0-down",
        code="link.down",
        summary="the destination container's eth0 is down",
        flow=PEER,
        segment=Segment.DESTINATION,
        break_commands=inside("web", "ip link set eth0 down"),
        mend_commands=inside("web", "ip link set eth0 up", "ip route replace default via {web.gateway} dev eth0"),
    )
    yield Fault(
        name="uplink-no-carrier",
        code="link.no-carrier",
        summary="the far end of the uplink is down",
        flow=OUT,
        segment=Segment.EGRESS,
        break_commands=inet("ip link set {uplink.far} down"),
        mend_commands=inet("ip link set {uplink.far} up"),
    )
    yield Fault(
        name="veth-deleted",
        code="link.peer-missing",
        summary="the container's veth is deleted behind the engine's back",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=host("ip link del {app.veth}"),
        mend_commands=host("docker restart -t 0 app"),
        kinds=("docker",),
    )
    yield Fault(
        name="veth-deleted-plain",
        code="link.peer-missing",
        summary="the container's veth is deleted",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=host("ip link del {app.veth}"),
        mend_commands=inside(
            "app",
            "ip link add eth0 index {app.index} address {app.mac} type veth "
            "peer name {app.veth} index {app.veth_index} netns $(basename {dir} | sed 's/.*/ntlab-&-host/')",
            "ip addr add {app.cidr} broadcast + dev eth0",
            "ip link set eth0 up",
        )
        + host("ip link set {app.veth} master {app.bridge} up")
        + inside("app", APP_DEFAULT),
        kinds=("none",),
    )
    yield Fault(
        name="duplicate-mac",
        code="link.duplicate-mac",
        summary="two containers of one bridge have the same MAC address",
        flow=PEER,
        segment=Segment.BRIDGE,
        break_commands=inside("app", "ip link set eth0 address {web.mac}", "ip neigh flush dev eth0"),
        mend_commands=inside("app", "ip link set eth0 address {app.mac}", "ip neigh flush dev eth0")
        + inside("web", "ip neigh flush dev eth0"),
    )


def _bridges() -> Iterable[Fault]:
    yield Fault(
        name="veth-detached",
        code="bridge.port-without-master",
        summary="the host's end of the veth is a port of no bridge",
        flow=OUT,
        segment=Segment.BRIDGE,
        break_commands=host("ip link set {app.veth} nomaster"),
        mend_commands=host("ip link set {app.veth} master {app.bridge}"),
    )
    yield Fault(
        name="bridge-renamed",
        code="bridge.port-without-master",
        summary="the engine's bridge goes by another name, which none of its rules knows",
        flow=OUT,
        segment=Segment.BRIDGE,
        break_commands=host(
            "ip link set {app.bridge} down", "ip link set {app.bridge} name ntrenamed", "ip link set ntrenamed up"
        ),
        mend_commands=host(
            "ip link set ntrenamed down", "ip link set ntrenamed name {app.bridge}", "ip link set {app.bridge} up"
        ),
    )
    yield Fault(
        name="veth-wrong-bridge",
        code="bridge.port-without-master",
        summary="the host's end of the veth is a port of another network's bridge",
        flow=OUT,
        segment=Segment.BRIDGE,
        direction=Direction.REPLY,
        break_commands=host("ip link set {app.veth} master {c1.bridge}", FORGET)
        + inside("app", "ip neigh flush dev eth0"),
        mend_commands=host("ip link set {app.veth} master {app.bridge}") + inside("app", "ip neigh flush dev eth0"),
    )
    yield Fault(
        name="port-blocked",
        code="bridge.port-blocked",
        summary="the bridge port is not in forwarding state",
        flow=OUT,
        segment=Segment.BRIDGE,
        break_commands=host("bridge link set dev {app.veth} state 0"),
        mend_commands=host("bridge link set dev {app.veth} state 3"),
    )
    yield Fault(
        name="ports-isolated",
        code="bridge.port-isolated",
        summary="both containers' bridge ports are isolated",
        flow=PEER,
        segment=Segment.BRIDGE,
        break_commands=host("bridge link set dev {app.veth} isolated on", "bridge link set dev {web.veth} isolated on"),
        mend_commands=host(
            "bridge link set dev {app.veth} isolated off", "bridge link set dev {web.veth} isolated off"
        ),
    )
    yield Fault(
        name="fdb-static",
        code="bridge.fdb-wrong",
        summary="a static, sticky forwarding entry sends the destination's frames out of the wrong port",
        flow=PEER,
        segment=Segment.BRIDGE,
        break_commands=host("bridge fdb replace {web.mac} dev {app.veth} master static sticky"),
        mend_commands=host("bridge fdb del {web.mac} dev {app.veth} master") + inside("web", "ip neigh flush dev eth0"),
    )
    yield Fault(
        name="bridge-address-flushed",
        code="bridge.no-address",
        summary="docker0 lost the gateway address",
        flow=OUT,
        segment=Segment.BRIDGE,
        break_commands=host("ip addr flush dev {app.bridge}", FORGET) + inside("app", "ip neigh flush dev eth0"),
        mend_commands=host("ip addr add 172.17.0.1/16 broadcast + dev {app.bridge}"),
    )
    yield Fault(
        name="source-address-flushed",
        code="addr.missing",
        summary="the source container lost its address",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=inside("app", "ip addr flush dev eth0"),
        mend_commands=inside("app", "ip addr add {app.cidr} broadcast + dev eth0", APP_DEFAULT),
    )
    yield Fault(
        name="destination-address-flushed",
        code="addr.missing",
        summary="the destination container lost its address",
        flow=PEER,
        segment=Segment.DESTINATION,
        break_commands=inside("web", "ip addr flush dev eth0"),
        mend_commands=inside(
            "web",
            "ip addr add {web.cidr} broadcast + dev eth0",
            "ip route replace default via {web.gateway} dev eth0",
        ),
    )
    yield Fault(
        name="prefix-too-wide",
        code="addr.prefix-mismatch",
        summary="the container's netmask is too wide, so that it takes a remote address for a neighbour",
        flow=FaultFlow(src="app", dst="{uplink.gateway}"),
        segment=Segment.SOURCE,
        break_commands=inside("app", "ip addr add {app.ip}/1 dev eth0", "ip addr del {app.cidr} dev eth0"),
        mend_commands=inside(
            "app", "ip addr add {app.cidr} broadcast + dev eth0", "ip addr del {app.ip}/1 dev eth0", APP_DEFAULT
        ),
    )
    yield Fault(
        name="gateway-arp-off",
        code="neigh.unresolved",
        summary="docker0 does not do ARP",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=host("ip link set {app.bridge} arp off", FORGET) + inside("app", "ip neigh flush dev eth0"),
        mend_commands=host("ip link set {app.bridge} arp on", "ip neigh flush dev {app.bridge}")
        + inside("app", "ip neigh flush dev eth0"),
    )
    for name, where, target, dev, segment, direction in (
        ("stale-neighbour-source", "app", "{app.gateway}", "eth0", Segment.SOURCE, Direction.FORWARD),
        ("stale-neighbour-uplink", "host", "{uplink.gateway}", "{uplink.dev}", Segment.EGRESS, Direction.FORWARD),
        ("stale-neighbour-reply", "host", "{app.ip}", "{app.bridge}", Segment.BRIDGE, Direction.REPLY),
    ):
        place = "source container" if where == "app" else "host"
        yield Fault(
            name=name,
            code="neigh.stale-static",
            summary=f"a permanent neighbour entry in the {place} holds the wrong MAC for {target}",
            flow=OUT,
            segment=segment,
            direction=direction,
            break_commands=_at(where, f"ip neigh replace {target} lladdr {NOBODY} dev {dev} nud permanent"),
            mend_commands=_at(where, f"ip neigh del {target} dev {dev}"),
        )
    yield Fault(
        name="uplink-tbf",
        code="tc.drop",
        summary="a token bucket on the uplink is too small for any packet",
        flow=OUT,
        segment=Segment.EGRESS,
        break_commands=host("tc qdisc add dev {uplink.dev} root tbf rate 8bit burst 10 limit 10"),
        mend_commands=host("tc qdisc del dev {uplink.dev} root"),
    )
    for name, where, device, segment, direction, flow, kinds in (
        ("uplink-fifo", "host", "{uplink.dev}", Segment.EGRESS, Direction.FORWARD, OUT, ("docker", "none")),
        ("destination-fifo", "web", "eth0", Segment.DESTINATION, Direction.REPLY, PEER, ("none",)),
    ):
        yield Fault(
            name=name,
            code="tc.drop",
            summary="a device's queue holds less than one packet, and ARP",
            flow=flow,
            segment=segment,
            direction=direction,
            break_commands=_at(where, f"tc qdisc add dev {device} root bfifo limit 60"),
            mend_commands=_at(where, f"tc qdisc del dev {device} root"),
            kinds=kinds,
        )
    # Of IP alone, or of ARP too: whether that is needed at the time is no part of the fault.
    shot, shot_all = (f"protocol {protocol} bpf da bytecode '1,6 0 0 2,'" for protocol in ("ip", "all"))
    away = "protocol ip u32 match u32 0 0 action mirred egress redirect dev lo"
    forget = host(FORGET) + inside("app", "ip neigh flush dev eth0") + inside("web", "ip neigh flush dev eth0")
    docker, none = ("docker", "none"), ("none",)
    for name, where, device, filtered, more, segment, direction, flow, kinds in (
        ("veth-redirect", "host", "{app.veth}", f"ingress {away}", (), Segment.SOURCE, Direction.FORWARD, OUT, none),
        ("bridge-bpf", "host", "{app.bridge}", f"egress {shot}", (), Segment.BRIDGE, Direction.REPLY, OUT, none),
        ("uplink-bpf", "host", "{uplink.dev}", f"ingress {shot}", (), Segment.EGRESS, Direction.REPLY, OUT, docker),
        (
            "destination-ingress-bpf", "web", "eth0", f"ingress {shot}", (),
            Segment.DESTINATION, Direction.FORWARD, PEER_HTTP, docker,
        ),
        (
            "destination-redirect", "web", "eth0", f"ingress {away}", (),
            Segment.DESTINATION, Direction.FORWARD, PEER, none,
        ),
        (
            "source-arp-bpf", "app", "eth0", f"ingress {shot_all}", forget,
            Segment.SOURCE, Direction.FORWARD, OUT, docker,
        ),
        (
            "peer-arp-bpf", "host", "{web.veth}", f"egress {shot_all}", forget,
            Segment.DESTINATION, Direction.FORWARD, PEER, none,
        ),
    ):  # fmt: skip
        yield Fault(
            name=name,
            code="tc.drop",
            summary="a tc filter takes packets away" if not more else "a tc filter drops ARP with all else",
            flow=flow,
            segment=segment,
            direction=direction,
            break_commands=_at(where, f"tc qdisc add dev {device} clsact", f"tc filter add dev {device} {filtered}")
            + more,
            mend_commands=_at(where, f"tc qdisc del dev {device} clsact"),
            kinds=kinds,
        )
    yield Fault(
        name="source-tbf",
        code="tc.drop",
        summary="a token bucket on the container's eth0 is too small for any packet",
        flow=OUT_HTTP,
        segment=Segment.SOURCE,
        break_commands=inside("app", "tc qdisc add dev eth0 root tbf rate 8bit burst 10 limit 10"),
        mend_commands=inside("app", "tc qdisc del dev eth0 root"),
    )


def _services() -> Iterable[Fault]:
    yield Fault(
        name="port-closed",
        code="port.not-listening",
        summary="nothing listens on TCP 81 in the destination",
        flow=FaultFlow(src="app", dst="web", args=("--proto", "tcp", "--port", "81")),
        segment=Segment.DESTINATION,
    )
    yield Fault(
        name="udp-port-closed",
        code="port.not-listening",
        summary="nothing listens on UDP 81 in the destination",
        flow=FaultFlow(src="app", dst="web", args=("--proto", "udp", "--port", "81")),
        segment=Segment.DESTINATION,
    )
    stop = "if [ -f {dir}/loopback.pid ]; then kill $(cat {dir}/loopback.pid); rm {dir}/loopback.pid; fi"
    yield Fault(
        name="listens-on-loopback",
        code="port.listens-on-loopback",
        summary="the server in the destination listens on 127.0.0.1 only",
        flow=FaultFlow(src="app", dst="web", args=("--proto", "tcp", "--port", "8081")),
        segment=Segment.DESTINATION,
        setup=inside("web", stop, "{serve} --http 0.0.0.0:8081 --pidfile {dir}/loopback.pid"),
        break_commands=inside("web", stop, "{serve} --http 127.0.0.1:8081 --pidfile {dir}/loopback.pid"),
        mend_commands=inside("web", stop, "{serve} --http 0.0.0.0:8081 --pidfile {dir}/loopback.pid"),
    )
    yield Fault(
        name="port-not-published",
        code="port.not-published",
        summary="the host publishes no port 8099",
        flow=FaultFlow(src="netns:{inet.path}", dst="{uplink.ip}", args=("--proto", "tcp", "--port", "8099")),
        segment=Segment.HOST,
    )
    kill = "if [ -f {dir}/shadow.pid ]; then kill $(cat {dir}/shadow.pid); rm {dir}/shadow.pid; fi"
    yield Fault(
        name="port-shadowed-by-service",
        code="port.shadowed",
        summary="a service of the host listens on the published port as well (no userland proxy holds it)",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=host("{serve} --http 0.0.0.0:8080 --pidfile {dir}/shadow.pid"),
        mend_commands=host(kill),
        kinds=("none",),
        on_wire=False,
    )
    redirect = "-p tcp --dport 8080 -j REDIRECT --to-ports 8084"
    yield Fault(
        name="port-shadowed-by-rule",
        code="port.shadowed",
        summary="a rule before the published port's leads it to a service of the host",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=host(
            "{serve} --http 0.0.0.0:8084 --pidfile {dir}/shadow.pid", f"iptables -t nat -I DOCKER {redirect}"
        ),
        mend_commands=host(f"iptables -t nat -D DOCKER {redirect}", kill),
        on_wire=False,
    )
    yield Fault(
        name="published-on-loopback",
        code="port.published-on-loopback",
        summary="a container's port is published on 127.0.0.1 only",
        flow=FaultFlow(src="netns:{inet.path}", dst="{uplink.ip}", args=("--proto", "tcp", "--port", "8082")),
        segment=Segment.HOST,
        setup=host(
            "docker inspect shy >/dev/null 2>&1 || docker run -d --name shy --stop-signal KILL -p 127.0.0.1:8082:80 "
            "busybox httpd -f -p 80 -h /www"
        ),
        kinds=("docker",),
    )
    yield Fault(
        name="source-stopped",
        code="engine.container-not-running",
        summary="the source container is stopped",
        flow=OUT,
        segment=Segment.SOURCE,
        break_commands=host("docker stop -t 0 app"),
        mend_commands=host("docker start app"),
        kinds=("docker",),
    )
    yield Fault(
        name="destination-stopped",
        code="engine.container-not-running",
        summary="the destination container is stopped",
        flow=PEER,
        segment=Segment.DESTINATION,
        break_commands=host("docker stop -t 0 web"),
        mend_commands=host("docker start web"),
        kinds=("docker",),
    )
    yield Fault(
        name="destination-paused",
        code="engine.container-not-running",
        summary="the destination container is paused: the kernel still answers for it, the program does not",
        flow=PEER_HTTP,
        segment=Segment.DESTINATION,
        break_commands=host("docker pause web"),
        mend_commands=host("docker unpause web"),
        kinds=("docker",),
        on_wire=False,
    )
    yield Fault(
        name="publisher-paused",
        code="engine.container-not-running",
        summary="the container behind the published port is paused: its kernel completes handshakes",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.DESTINATION,
        break_commands=host("docker pause web"),
        mend_commands=host("docker unpause web"),
        kinds=("docker",),
        on_wire=False,
    )
    yield Fault(
        name="publisher-stopped",
        code="engine.container-not-running",
        summary="the container that publishes the port is stopped",
        flow=PUBLISHED_OUTSIDE,
        segment=Segment.HOST,
        break_commands=host("docker stop -t 0 web"),
        mend_commands=host("docker start web"),
        kinds=("docker",),
    )
    yield Fault(
        name="no-network",
        code="engine.no-network",
        summary="a container made with --network none",
        flow=FaultFlow(src="lonely", dst="8.8.8.8"),
        segment=Segment.SOURCE,
        setup=host(
            "docker inspect lonely >/dev/null 2>&1 || docker run -d --name lonely --stop-signal KILL --network none "
            "busybox tail -f /dev/null"
        ),
        kinds=("docker",),
    )
    macvlan = host(
        "docker network inspect mv >/dev/null 2>&1 || docker network create -d macvlan --subnet 203.0.113.0/24 "
        "--gateway {uplink.gateway} --ip-range 203.0.113.64/26 -o parent={uplink.dev} mv",
        "docker inspect mv1 >/dev/null 2>&1 || docker run -d --name mv1 --stop-signal KILL --network mv "
        "busybox tail -f /dev/null",
    )
    yield Fault(
        name="macvlan-host",
        code="macvlan.host-isolation",
        summary="a macvlan container cannot talk to its parent's host",
        flow=FaultFlow(src="mv1", dst="{uplink.ip}"),
        segment=Segment.EGRESS,
        setup=macvlan,
        kinds=("docker",),
    )
    yield Fault(
        name="macvlan-parent-down",
        code="macvlan.parent-down",
        summary="the parent of a macvlan network is down",
        flow=FaultFlow(src="mv1", dst="8.8.8.8"),
        segment=Segment.EGRESS,
        setup=macvlan,
        break_commands=host("ip link set {uplink.dev} down"),
        mend_commands=host(
            "ip link set {uplink.dev} up",
            HOST_DEFAULT,
            "ip -6 addr replace {uplink.ip6}/64 dev {uplink.dev} nodad",
            HOST_DEFAULT6,
        ),
        kinds=("docker",),
    )
    yield Fault(
        name="remote-silent",
        code="remote.no-reply",
        summary="the far end drops what arrives, and says nothing",
        flow=OUT,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=inet("iptables -I INPUT -d {inet.public} -j DROP"),
        mend_commands=inet("iptables -D INPUT -d {inet.public} -j DROP"),
    )
    yield Fault(
        name="remote-silent-udp",
        code="remote.no-reply",
        summary="the far end drops DNS queries, and says nothing",
        flow=OUT_DNS,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=inet("iptables -I INPUT -p udp --dport 53 -j DROP"),
        mend_commands=inet("iptables -D INPUT -p udp --dport 53 -j DROP"),
    )
    yield Fault(
        name="remote-rejects",
        code="remote.rejected",
        summary="the far end answers with ICMP host prohibited",
        flow=OUT,
        segment=Segment.REMOTE,
        break_commands=inet("iptables -I INPUT -d {inet.public} -j REJECT --reject-with icmp-host-prohibited"),
        mend_commands=inet("iptables -D INPUT -d {inet.public} -j REJECT --reject-with icmp-host-prohibited"),
    )
    yield Fault(
        name="remote-port-closed",
        code="remote.rejected",
        summary="the far end's TCP port is closed, and it says so with a reset",
        flow=FaultFlow(src="app", dst="8.8.8.8", args=("--proto", "tcp", "--port", "81")),
        segment=Segment.REMOTE,
    )


NAMED = FaultFlow(src="c1", dst="example.org")
NAMED_ON_DOCKER0 = FaultFlow(src="app", dst="example.org")


def _resolv(container: str, server: str) -> tuple[Step, ...]:
    """Return the step that gives a container another name server, as an entry point that writes the file does."""
    return host(f"docker exec {container} sh -c 'echo nameserver {server} > /etc/resolv.conf'")


def _names() -> Iterable[Fault]:
    """Yield the faults of the first leg: no address for a name."""
    unreachable = "dns.server-unreachable"
    made, undone = _toggle("filter DOCKER-USER", "-p udp --dport 53 -j DROP")
    yield Fault(
        name="dns-port-blocked",
        code=unreachable,
        summary="a rule of the user's drops DNS queries that are forwarded",
        flow=NAMED_ON_DOCKER0,
        segment=Segment.HOST,
        break_commands=made,
        mend_commands=undone,
        kinds=("docker",),
    )
    yield Fault(
        name="dns-blocked-inside",
        code=unreachable,
        summary="a rule in the container drops what Docker's own name server asks on its behalf",
        flow=NAMED,
        segment=Segment.SOURCE,
        break_commands=inside("c1", "iptables -I OUTPUT -p udp --dport 53 -j DROP"),
        mend_commands=inside("c1", "iptables -D OUTPUT -p udp --dport 53 -j DROP"),
        kinds=("docker",),
    )
    yield Fault(
        name="dns-dead-server",
        code=unreachable,
        summary="the container's resolv.conf names an address that nobody has",
        flow=NAMED_ON_DOCKER0,
        segment=Segment.EGRESS,
        break_commands=_resolv("app", "203.0.113.99"),
        mend_commands=_resolv("app", "{inet.public}"),
        kinds=("docker",),
    )
    yield Fault(
        name="dns-remote-silent",
        code=unreachable,
        summary="the name server behind Docker's own drops queries, and says nothing",
        flow=NAMED,
        segment=Segment.REMOTE,
        direction=Direction.REPLY,
        break_commands=inet("iptables -I INPUT -p udp --dport 53 -j DROP"),
        mend_commands=inet("iptables -D INPUT -p udp --dport 53 -j DROP"),
        kinds=("docker",),
    )
    saved = "{dir}/names.iptables"
    yield Fault(
        name="dns-nat-flushed",
        code="dns.embedded-rules-missing",
        summary="the nat table in the container is flushed",
        flow=NAMED,
        segment=Segment.SOURCE,
        break_commands=inside("c1", f"iptables-save > {saved} 2>/dev/null", "iptables -t nat -F"),
        mend_commands=inside("c1", f"iptables-restore < {saved}"),
        kinds=("docker",),
    )
    yield Fault(
        name="dns-redirect-hidden",
        code="dns.embedded-rules-missing",
        summary="an earlier ACCEPT in the container's nat table hides the redirect to Docker's name server",
        flow=NAMED,
        segment=Segment.SOURCE,
        break_commands=inside("c1", "iptables -t nat -I OUTPUT -d 127.0.0.0/8 -j ACCEPT"),
        mend_commands=inside("c1", "iptables -t nat -D OUTPUT -d 127.0.0.0/8 -j ACCEPT"),
        kinds=("docker",),
    )
    astray = "DOCKER_OUTPUT -d 127.0.0.11 -p udp --dport 53 -j DNAT --to-destination 127.0.0.11:9"
    yield Fault(
        name="dns-redirect-astray",
        code="dns.resolver-not-listening",
        summary="the container's redirect leads DNS queries to a port where nobody listens",
        flow=NAMED,
        segment=Segment.SOURCE,
        break_commands=inside("c1", f"iptables -t nat -I {astray}"),
        mend_commands=inside("c1", f"iptables -t nat -D {astray}"),
        kinds=("docker",),
    )
    yield Fault(
        name="dns-loopback-stub",
        code="dns.loopback-stub",
        summary="the container's resolv.conf names the host's stub resolver, 127.0.0.53",
        flow=NAMED_ON_DOCKER0,
        segment=Segment.SOURCE,
        break_commands=_resolv("app", "127.0.0.53"),
        mend_commands=_resolv("app", "{inet.public}"),
        kinds=("docker",),
    )
    yield Fault(
        name="dns-other-network",
        code="dns.name-not-found",
        summary="a container on the default bridge asks for the name of one on another network",
        flow=FaultFlow(src="app", dst="c2."),
        segment=Segment.SOURCE,
        kinds=("docker",),
    )
    yield Fault(
        name="dns-wrong-alias",
        code="dns.name-not-found",
        summary="a name that no container of the network has",
        flow=FaultFlow(src="c1", dst="c22"),
        segment=Segment.SOURCE,
        kinds=("docker",),
    )


def _crafted() -> Iterable[Fault]:
    """Yield faults made in ways of their own: each asks a mechanism, none a rule that knows its shape."""
    yield from _crafted_rules()
    yield from _crafted_routes()
    yield from _crafted_links()
    yield from _crafted_decisions()


def _made(
    name: str,
    code: str,
    summary: str,
    made: tuple[Step, ...],
    undone: tuple[Step, ...],
    segment: Segment,
    direction: Direction = Direction.FORWARD,
    *,
    flow: FaultFlow = OUT,
    kinds: tuple[str, ...] = ("none",),
    iptables: str | None = None,
    on_wire: bool = True,
) -> Fault:
    return Fault(
        name=name,
        code=code,
        summary=summary,
        flow=flow,
        segment=segment,
        direction=direction,
        break_commands=made,
        mend_commands=undone,
        kinds=kinds,
        iptables=iptables,
        on_wire=on_wire,
    )


def _crafted_decisions() -> Iterable[Fault]:
    """Yield faults of policy rules, next hops, addresses and sysctls, each of a kernel decision of its own."""
    both, forward, reply = ("docker", "none"), Direction.FORWARD, Direction.REPLY
    main = "priority 32766 table main"
    yield _made(
        "policy-rule-main-gone",
        "route.policy-rule",
        "the policy rule that asks the main table is deleted",
        host(f"ip rule del {main}"),
        host(f"ip rule add {main}"),
        Segment.HOST,
        kinds=both,
    )
    yield _made(
        "policy-rule-local-gone",
        "route.policy-rule",
        "the destination's policy rule that asks the local table is deleted, and it answers no ARP",
        inside("web", "ip rule del priority 0 table local"),
        inside("web", "ip rule add priority 0 table local"),
        Segment.DESTINATION,
        flow=PEER,
    )
    half = "0.0.0.0/1 via {web.ip}"
    yield _made(
        "next-hop-no-router",
        "route.wrong-gateway",
        "half of all destinations are routed by a neighbour that does not forward",
        inside("app", f"ip route add {half}"),
        inside("app", f"ip route del {half}"),
        Segment.SOURCE,
        kinds=both,
    )
    detour = "{app.ip}/32 via {web.ip}"
    yield _made(
        "reply-by-a-neighbour",
        "route.wrong-gateway",
        "the host hands what is for the container to another container, which does not forward",
        host(f"ip route add {detour}"),
        host(f"ip route del {detour}"),
        Segment.HOST,
        reply,
    )
    away = "{web.ip}/32 via {uplink.gateway}"
    yield _made(
        "container-sought-beyond",
        "route.subnet-overlap",
        "the host's route to the container's address leads out of the uplink",
        host(f"ip route add {away}"),
        host(f"ip route del {away}"),
        Segment.HOST,
        flow=FaultFlow(src="host", dst="web"),
        kinds=both,
    )
    yield _made(
        "nexthop-object-blackhole",
        "route.blackhole",
        "a route's next hop is an object that discards",
        host("ip nexthop add id 77 blackhole", "ip route add 8.8.8.0/24 nhid 77"),
        host("ip nexthop del id 77"),
        Segment.HOST,
    )
    yield _made(
        "default-into-loopback",
        "route.default-hijacked",
        "the host's default route leads into its own loopback",
        host("ip route replace default dev lo"),
        host(HOST_DEFAULT),
        Segment.HOST,
    )
    yield _made(
        "sender-ttl-too-small",
        "route.loop",
        "the container sends with a TTL of 1",
        inside("app", "sysctl -qw net.ipv4.ip_default_ttl=1"),
        inside("app", "sysctl -qw net.ipv4.ip_default_ttl=64"),
        Segment.HOST,
        kinds=both,
    )
    yield _made(
        "uplink-answers-no-arp",
        "sysctl.arp-ignore",
        "the uplink answers no ARP, so that nobody can hand answers over",
        (*host("sysctl -qw net.ipv4.conf.eth0.arp_ignore=8"), *inet("ip neigh flush dev br0")),
        host("sysctl -qw net.ipv4.conf.eth0.arp_ignore=0"),
        Segment.EGRESS,
        reply,
    )
    yield _made(
        "router-remembers-wrong-mac",
        "remote.no-reply",
        "the router hands answers to a MAC that the host does not have",
        inet(f"ip neigh replace {{uplink.ip}} dev br0 lladdr {NOBODY} nud permanent"),
        inet("ip neigh del {uplink.ip} dev br0"),
        Segment.REMOTE,
        reply,
    )
    yield _made(
        "published-target-on-host",
        "addr.duplicate",
        "the host itself holds the address that a published port leads to",
        host("ip addr add {web.ip}/32 dev lo"),
        host("ip addr del {web.ip}/32 dev lo"),
        Segment.HOST,
        flow=PUBLISHED_OUTSIDE,
    )
    yield _made(
        "published-untracked",
        "nat.dnat-shadowed",
        "a NOTRACK rule keeps the published port's packets from being translated",
        *_toggle("raw PREROUTING", "-i {uplink.dev} -p tcp --dport 8080 -j CT --notrack"),
        Segment.HOST,
        forward,
        flow=PUBLISHED_OUTSIDE,
    )


def _crafted_rules() -> Iterable[Fault]:
    both, forward, reply = ("docker", "none"), Direction.FORWARD, Direction.REPLY
    for name, summary, chain, rule, code, segment, direction, flow, kinds in (
        (
            "opaque-drop",
            "a rule that tests raw bytes drops",
            "filter FORWARD",
            "-i {app.bridge} -m u32 --u32 '6&0xFF=1' -j DROP",
            "filter.rule-drop",
            Segment.HOST,
            Direction.FORWARD,
            OUT,
            both,
        ),
        (
            "queue-unheard",
            "a rule hands packets to a queue that no program reads",
            "filter FORWARD",
            "-s {app.ip} -j NFQUEUE --queue-num 3",
            "filter.rule-drop",
            Segment.HOST,
            Direction.FORWARD,
            OUT,
            ("none",),
        ),
        (
            "ttl-too-low",
            "a rule sets the TTL to 1 before the packet is forwarded",
            "mangle PREROUTING",
            "-s {app.ip} -j TTL --ttl-set 1",
            "filter.rule-drop",
            Segment.HOST,
            Direction.FORWARD,
            OUT,
            ("none",),
        ),
        (
            "untracked",
            "a NOTRACK rule keeps the container's packets from being masqueraded",
            "raw PREROUTING",
            "-s {app.ip} -j CT --notrack",
            "nat.masquerade-shadowed",
            Segment.REMOTE,
            reply,
            OUT,
            both,
        ),
        (
            "reply-in-another-zone",
            "what comes back is looked for in another conntrack zone than it was sent in",
            "raw PREROUTING",
            "-i {uplink.dev} -j CT --zone 6",
            "nat.masquerade-shadowed",
            Segment.REMOTE,
            reply,
            OUT,
            ("none",),
        ),
        (
            "outbound-dnat-to-nobody",
            "a DNAT gives outbound packets a destination that nobody holds",
            "nat PREROUTING",
            "-s {app.ip} -d 8.8.8.8 -j DNAT --to-destination 203.0.113.77",
            "nat.dnat-stale",
            Segment.EGRESS,
            Direction.FORWARD,
            OUT,
            both,
        ),
        (
            "outbound-redirected",
            "a REDIRECT takes the containers' HTTP to a proxy on the host that does not run",
            "nat PREROUTING",
            "-i {app.bridge} -p tcp --dport 80 -j REDIRECT --to-ports 3128",
            "nat.dnat-stale",
            Segment.HOST,
            Direction.FORWARD,
            OUT_HTTP,
            ("none",),
        ),
    ):
        yield _made(name, code, summary, *_toggle(chain, rule), segment, direction, flow=flow, kinds=kinds)
    yield _made(
        "recent-drop",
        "filter.rule-drop",
        "a rule that remembers whom it saw drops",
        # By number: iptables does not find such a rule by its text.
        host("iptables -I FORWARD 1 -s {app.ip} -m recent --set --name seen -j DROP"),
        host("iptables -D FORWARD 1"),
        Segment.HOST,
    )
    yield _made(
        "opaque-drop-legacy",
        "filter.backend-split",
        "iptables-legacy holds a rule that tests raw bytes and drops",
        host("iptables-legacy -I FORWARD -i {app.bridge} -m u32 --u32 '6&0xFF=1' -j DROP"),
        host("iptables-legacy -D FORWARD -i {app.bridge} -m u32 --u32 '6&0xFF=1' -j DROP"),
        Segment.HOST,
        iptables="nft",
    )
    for name, where, summary, match, segment, direction, flow, kinds in (
        (
            "source-input-opaque",
            "app",
            "a rule in the source container that tests raw bytes drops what comes back",
            "-p icmp -m u32 --u32 '6&0xFF=1'",
            Segment.SOURCE,
            reply,
            OUT,
            both,
        ),
        (
            "destination-input-opaque",
            "web",
            "a rule in the destination container that tests raw bytes drops requests",
            "-p tcp -m u32 --u32 '6&0xFF=6'",
            Segment.DESTINATION,
            forward,
            PEER_HTTP,
            both,
        ),
    ):
        yield _made(
            name,
            "filter.container-drop",
            summary,
            inside(where, f"iptables -I INPUT {match} -j DROP"),
            inside(where, f"iptables -D INPUT {match} -j DROP"),
            segment,
            direction,
            flow=flow,
            kinds=kinds,
        )
    yield _made(
        "source-input-opaque-six",
        "filter.container-drop",
        "an IPv6 rule in the source container that tests raw bytes drops what comes back",
        inside("c1", "ip6tables -I INPUT -p ipv6-icmp -m u32 --u32 '37&0xFF=129' -j DROP"),
        inside("c1", "ip6tables -D INPUT -p ipv6-icmp -m u32 --u32 '37&0xFF=129' -j DROP"),
        Segment.SOURCE,
        reply,
        flow=OUT6,
    )
    chain = "add chain netdev guard c {{{{ type filter hook {} device {} priority 0; }}}}"
    for name, where, hook, device, code, segment, direction, kinds in (
        ("veth-ingress-drop", "host", "ingress", "{app.veth}", "filter.rule-drop", Segment.SOURCE, forward, both),
        ("uplink-egress-drop", "host", "egress", "eth0", "filter.rule-drop", Segment.EGRESS, forward, ("none",)),
        ("source-ingress-drop", "app", "ingress", "eth0", "filter.container-drop", Segment.SOURCE, reply, both),
    ):
        made = (
            f"nft 'add table netdev guard; {chain.format(hook, device)}; add rule netdev guard c ip protocol icmp drop'"
        )
        yield _made(
            name,
            code,
            f"an nft chain of family netdev drops at the {hook} of a device",
            _at(where, made),
            _at(where, "nft delete table netdev guard"),
            segment,
            direction,
            kinds=kinds,
        )
    for name, where, device, code in (
        ("veth-arp-drop", "host", "{app.veth}", "filter.rule-drop"),
        ("source-arp-drop", "app", "eth0", "filter.container-drop"),
    ):
        rule = "add rule netdev guard c ether type arp drop"
        made = f"nft 'add table netdev guard; {chain.format('ingress', device)}; {rule}'"
        yield _made(
            name,
            code,
            "an nft chain of family netdev drops the ARP that comes in by a device",
            _at(where, made) + host(FORGET) + inside("app", "ip neigh flush dev eth0"),
            _at(where, "nft delete table netdev guard"),
            Segment.SOURCE,
        )
    yield _made(
        "ebtables-policy",
        "bridge.filter-drop",
        "ebtables' FORWARD policy drops what is bridged",
        host("ebtables -P FORWARD DROP"),
        host("ebtables -P FORWARD ACCEPT"),
        Segment.BRIDGE,
        flow=PEER,
    )
    yield _made(
        "arp-dropped-on-bridge",
        "bridge.filter-drop",
        "ebtables drops ARP between the ports of the bridge",
        host("ebtables -A FORWARD -p ARP -j DROP") + inside("app", "ip neigh flush dev eth0"),
        host("ebtables -D FORWARD -p ARP -j DROP") + inside("app", "ip neigh flush dev eth0"),
        Segment.BRIDGE,
        flow=PEER,
    )


def _crafted_routes() -> Iterable[Fault]:
    both, reply = ("docker", "none"), Direction.REPLY
    connected = "{app.subnet} dev {app.bridge}"
    yield _made(
        "connected-route-deleted",
        "route.wrong-device",
        "the host lost its route to docker0's network, and answers go out of the uplink",
        host(f"ip route del {connected}"),
        host(f"ip route replace {connected} proto kernel scope link src 172.17.0.1"),
        Segment.HOST,
        reply,
        kinds=both,
    )
    yield _made(
        "host-throw",
        "route.blackhole",
        "a route of type throw ends the search in the main table",
        host("ip route add throw 8.8.8.0/24"),
        host("ip route del throw 8.8.8.0/24"),
        Segment.HOST,
    )
    yield _made(
        "reply-blackhole",
        "route.blackhole",
        "a blackhole route covers the container's own address: by reverse path, its packets are discarded already",
        host("ip route add blackhole {app.ip}/32"),
        host("ip route del blackhole {app.ip}/32"),
        Segment.HOST,
        kinds=both,
    )
    yield _made(
        "policy-rule-by-mark",
        "route.policy-rule",
        "marked packets are sent to a table that prohibits",
        host(
            "iptables -t mangle -I PREROUTING -i {app.bridge} -j MARK --set-mark 0x21",
            "ip route add prohibit default table 77",
            "ip rule add fwmark 0x21 table 77 priority 77",
        ),
        host(
            "ip rule del priority 77",
            "ip route flush table 77",
            "iptables -t mangle -D PREROUTING -i {app.bridge} -j MARK --set-mark 0x21",
        ),
        Segment.HOST,
    )
    yield _made(
        "source-preferred",
        "nat.masquerade-missing",
        "the container's default route prefers a source that is none of its network's",
        inside(
            "app",
            "ip addr add 10.44.0.1/32 dev lo",
            f"{APP_DEFAULT} src 10.44.0.1",
            "ip route replace 10.44.0.1 dev lo",
        ),
        inside("app", APP_DEFAULT, "ip route del 10.44.0.1 dev lo", "ip addr del 10.44.0.1/32 dev lo", APP_DEFAULT),
        Segment.REMOTE,
        reply,
    )
    yield _made(
        "published-no-way-back",
        "route.missing",
        "the container behind a published port has no default route to answer by",
        inside("web", "ip route del default"),
        inside("web", "ip route replace default via {web.gateway} dev eth0"),
        Segment.DESTINATION,
        # Docker's containers do not filter by reverse path: there the request arrives, and only the answer is lost.
        flow=PUBLISHED_OUTSIDE,
    )


def _crafted_links() -> Iterable[Fault]:
    flush = inside("app", "ip neigh flush dev eth0") + inside("web", "ip neigh flush dev eth0")
    yield _made(
        "address-on-host",
        "addr.duplicate",
        "the host itself holds the container's address",
        host("ip addr add {app.ip}/32 dev lo"),
        host("ip addr del {app.ip}/32 dev lo"),
        Segment.BRIDGE,
        kinds=("docker", "none"),
    )
    yield _made(
        "address-of-destination-inside",
        "addr.duplicate",
        "the source holds the address of its destination as well, and answers itself",
        inside("app", "ip addr add {web.ip}/32 dev lo"),
        inside("app", "ip addr del {web.ip}/32 dev lo"),
        Segment.SOURCE,
        flow=PEER,
        kinds=("docker", "none"),
        on_wire=False,
    )
    yield _made(
        "uplink-arp-off",
        "neigh.unresolved",
        "the uplink does not do ARP",
        host("ip link set {uplink.dev} arp off", "ip neigh flush dev {uplink.dev}"),
        host("ip link set {uplink.dev} arp on", "ip neigh flush dev {uplink.dev}"),
        Segment.EGRESS,
    )
    yield _made(
        "source-arp-off",
        "neigh.unresolved",
        "the container's eth0 does not do ARP",
        inside("app", "ip link set eth0 arp off", "ip neigh flush dev eth0"),
        inside("app", "ip link set eth0 arp on", "ip neigh flush dev eth0"),
        Segment.SOURCE,
    )
    yield _made(
        "learnt-neighbour-wrong",
        "neigh.stale-static",
        "the container learnt a MAC for its peer that nobody has any more",
        inside("app", f"ip neigh replace {{web.ip}} lladdr {NOBODY} dev eth0 nud reachable"),
        inside("app", "ip neigh flush dev eth0"),
        Segment.SOURCE,
        flow=PEER,
    )
    yield _made(
        "destination-arp-ignore",
        "sysctl.arp-ignore",
        "the destination container answers no ARP",
        inside("web", "sysctl -qw net.ipv4.conf.all.arp_ignore=8") + flush,
        inside("web", "sysctl -qw net.ipv4.conf.all.arp_ignore=0") + flush,
        Segment.DESTINATION,
        flow=PEER,
    )
    yield _made(
        "echo-ignored",
        "port.not-listening",
        "the destination container ignores echo requests",
        inside("web", "sysctl -qw net.ipv4.icmp_echo_ignore_all=1"),
        inside("web", "sysctl -qw net.ipv4.icmp_echo_ignore_all=0"),
        Segment.DESTINATION,
        flow=PEER,
    )
    yield _made(
        "fdb-static-source",
        "bridge.fdb-wrong",
        "a static, sticky forwarding entry sends answers to the source out of the wrong port",
        host("bridge fdb replace {app.mac} dev {web.veth} master static sticky") + flush,
        host("bridge fdb del {app.mac} dev {web.veth} master") + flush,
        Segment.BRIDGE,
    )


def _crafted_bridges() -> Iterable[Fault]:
    both = ("docker", "none")
    # In this order: who is asked about by web learns its address again (neigh_event_ns in arp_process).
    forget = inside("web", "ip neigh flush dev eth0") + inside("app", "ip neigh flush dev eth0")
    yield _made(
        "fdb-local-source",
        "bridge.fdb-wrong",
        "a forwarding entry calls the source's MAC the bridge's own, so that the host keeps what is for it",
        host("bridge fdb replace {app.mac} dev {app.bridge} self permanent") + forget,
        host("bridge fdb del {app.mac} dev {app.bridge} self") + forget,
        Segment.BRIDGE,
        kinds=both,
    )
    yield _made(
        "fdb-local-destination",
        "bridge.fdb-wrong",
        "a local forwarding entry at the destination's own port calls its MAC the host's",
        host("bridge fdb replace {web.mac} dev {web.veth} master permanent"),
        host("bridge fdb del {web.mac} dev {web.veth} master") + forget,
        Segment.BRIDGE,
        flow=PEER,
        kinds=both,
    )
    own = "$(ip -br link show {app.bridge} | awk '{{print $3}}') dev {app.bridge} self"
    yield _made(
        "fdb-own-deleted",
        "bridge.fdb-wrong",
        "the bridge has no forwarding entry for its own address, as after a flush, and does not take what is for it",
        host(f"bridge fdb del {own}"),
        host(f"bridge fdb add {own} permanent"),
        Segment.BRIDGE,
        kinds=both,
    )
    unlearnt = "bridge fdb del {web.mac} dev {web.veth} master 2>/dev/null || true"
    for name, summary, broken, mended, flow in (
        (
            "port-flood-off",
            "the destination's bridge port neither learns nor gets what is flooded",
            host("bridge link set dev {web.veth} learning off flood off", unlearnt),
            host("bridge link set dev {web.veth} learning on flood on"),
            PEER,
        ),
        (
            "port-broadcast-off",
            "ARP requests of other ports are not flooded to the destination's bridge port",
            host("bridge link set dev {web.veth} bcast_flood off"),
            host("bridge link set dev {web.veth} bcast_flood on"),
            PEER,
        ),
        (
            "port-locked",
            "the source's bridge port is locked, and has no forwarding entry for it",
            host("bridge link set dev {app.veth} learning off locked on", unlearnt.replace("web", "app")),
            host("bridge link set dev {app.veth} locked off learning on"),
            OUT,
        ),
        (
            "port-listening",
            "the spanning tree protocol has not let the source's bridge port forward yet",
            host(
                "ip link set {app.bridge} type bridge stp_state 1 forward_delay 3000",
                "b={app.bridge}; ip link set {app.veth} nomaster && ip link set {app.veth} master $b",
            ),
            host(
                "ip link set {app.bridge} type bridge stp_state 0 forward_delay 1500",
                "bridge link set dev {app.veth} state 3",
            ),
            OUT,
        ),
    ):
        yield _made(
            name,
            "bridge.port-blocked",
            summary,
            broken + forget,
            mended + forget,
            Segment.BRIDGE,
            flow=flow,
            kinds=both,
        )
    yield _made(
        "mac-rewritten",
        "bridge.filter-drop",
        "ebtables gives the destination's frames another MAC address",
        host(f"ebtables -t nat -A PREROUTING -p IPv4 -d {{web.mac}} -j dnat --to-destination {NOBODY}"),
        host("ebtables -t nat -F PREROUTING"),
        Segment.BRIDGE,
        flow=PEER,
        kinds=both,
    )
    yield _made(
        "mac-rewritten-reply",
        "bridge.filter-drop",
        "an nft rule gives the answers to the source another MAC address",
        host(
            "nft 'add table bridge guard; add chain bridge guard pass {{ type filter hook forward priority 0; }}; "
            f"add rule bridge guard pass ether daddr {{app.mac}} ip protocol tcp ether daddr set {NOBODY}'"
        ),
        host("nft delete table bridge guard"),
        Segment.BRIDGE,
        Direction.REPLY,
        flow=PEER_HTTP,
        kinds=both,
    )
    yield _made(
        "arp-answered-by-rule",
        "bridge.filter-drop",
        "ebtables answers ARP requests for the destination with a MAC address that nobody has",
        host(f"ebtables -t nat -A PREROUTING -p ARP --arp-ip-dst {{web.ip}} -j arpreply --arpreply-mac {NOBODY}")
        + forget,
        host("ebtables -t nat -F PREROUTING") + forget,
        Segment.BRIDGE,
        flow=PEER,
        kinds=both,
    )
    yield _made(
        "bridge-input-drop",
        "bridge.filter-drop",
        "ebtables drops what the source sends to the host itself",
        host("ebtables -A INPUT -i {app.veth} -p IPv4 -j DROP"),
        host("ebtables -D INPUT -i {app.veth} -p IPv4 -j DROP"),
        Segment.BRIDGE,
        kinds=both,
    )
    yield _made(
        "bridge-output-drop",
        "bridge.filter-drop",
        "ebtables drops what leaves the host for the source, behind the last of its hooks",
        host("ebtables -t nat -A POSTROUTING -p IPv4 -d {app.mac} -j DROP"),
        host("ebtables -t nat -D POSTROUTING -p IPv4 -d {app.mac} -j DROP"),
        Segment.BRIDGE,
        Direction.REPLY,
        kinds=both,
    )
    #: A bridge that takes what comes in by an interface which is in use itself.
    for name, where, device, segment, direction, flow, kinds in (
        ("source-interface-enslaved", "app", "eth0", Segment.SOURCE, Direction.FORWARD, OUT, both),
        # In plain labs the reverse-path filter of containers is on, and discards the requests for them already.
        ("destination-interface-enslaved", "web", "eth0", Segment.DESTINATION, Direction.REPLY, PEER_HTTP, ("docker",)),
        ("uplink-enslaved", "host", "{uplink.dev}", Segment.EGRESS, Direction.FORWARD, OUT, both),
    ):
        taken = ("ip link add br9 type bridge", "ip link set br9 up", f"ip link set {device} master br9")
        yield _made(
            name,
            "bridge.port-without-master",
            "an interface with addresses of its own is made a port of a bridge",
            _at(where, *taken, f"ip neigh flush dev {device}"),
            _at(where, f"ip link set {device} nomaster", "ip link del br9") + forget,
            segment,
            direction,
            flow=flow,
            kinds=kinds,
        )


FAULTS: tuple[Fault, ...] = tuple(
    sorted(
        (
            *_nat(),
            *_filters(),
            *_mtu(),
            *_routes(),
            *_sysctls(),
            *_links(),
            *_bridges(),
            *_services(),
            *_names(),
            *_crafted(),
            *_crafted_bridges(),
        ),
        key=lambda each: (each.code, each.name),
    )
)
_BY_NAME = {each.name: each for each in FAULTS}
