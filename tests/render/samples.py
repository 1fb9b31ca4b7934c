"""Verdicts written by hand, one for each way an answer can look."""

from __future__ import annotations

from ipaddress import ip_address

from nettrace.model.flow import EndpointKind, Proto
from nettrace.model.path import Direction, Segment
from nettrace.model.verdict import (
    Agreement,
    Basis,
    Evidence,
    EvidenceKind,
    Finding,
    FlowEndView,
    FlowView,
    GapView,
    Hop,
    HostView,
    ObservedSight,
    PacketView,
    PredictedSight,
    Remedy,
    Result,
    Severity,
    Stop,
    StopHook,
    Timing,
    Tool,
    Verdict,
    Verified,
)

HOST, WEB, DB = 4026531840, 4026532652, 4026532711
START_NS = 1_750_000_000_000_000_000

SEEN, UNSEEN, BLIND, NOT_PROBED = (
    ObservedSight.SEEN,
    ObservedSight.NOT_SEEN,
    ObservedSight.BLIND,
    ObservedSight.NOT_PROBED,
)


def packet(src: str, dst: str, *, sport: int | None = None, dport: int | None = None) -> PacketView:
    return PacketView(src=ip_address(src), dst=ip_address(dst), sport=sport, dport=dport, ttl=64, length=84)


def hop(
    point: str,
    view: PacketView | None,
    *,
    reply: bool = False,
    predicted: PredictedSight = PredictedSight.SEEN,
    observed: ObservedSight = SEEN,
    agreement: Agreement = Agreement.AGREE,
    at_us: int | None = None,
    steps: tuple[str, ...] = (),
) -> Hop:
    name = point.partition("/")[0]
    return Hop(
        direction=Direction.REPLY if reply else Direction.FORWARD,
        point=point,
        netns={"host": HOST, "web": WEB}.get(name, DB),
        device=point.partition("/")[2],
        ifindex=2,
        predicted=predicted,
        observed=observed,
        agreement=agreement,
        packet=view,
        at_ns=None if at_us is None else START_NS + at_us * 1000,
        steps=steps,
    )


def verdict(
    outcome: Result,
    *,
    hops: tuple[Hop, ...],
    stop: Stop | None = None,
    findings: tuple[Finding, ...] = (),
    gaps: tuple[GapView, ...] = (),
    assumptions: tuple[str, ...] = (),
    src: str = "web",
    dst: str = "8.8.8.8",
    proto: Proto = Proto.ICMP,
    dport: int | None = None,
    size: int | None = None,
    family: int = 4,
) -> Verdict:
    address = ip_address(dst) if dst[0].isdigit() else ip_address("172.17.0.3")
    return Verdict(
        outcome=outcome,
        flow=FlowView(
            src=FlowEndView(
                kind=EndpointKind.CONTAINER, name=src, id="c5ff39f37596", netns=WEB, address=ip_address("172.17.0.2")
            ),
            dst=FlowEndView(
                kind=EndpointKind.ADDRESS if dst[0].isdigit() else EndpointKind.CONTAINER,
                name=dst,
                id=None,
                netns=None,
                address=address,
            ),
            proto=proto,
            sport=None,
            dport=dport,
            size=size,
            family=family,
        ),
        stop=stop,
        hops=hops,
        findings=findings,
        gaps=gaps,
        assumptions=assumptions,
        timing=Timing(total_s=0.4213, collect_s=0.0412, probe_s=0.3104),
        tool=Tool(version="0.1.0"),
        host=HostView(kernel="6.18.0", engine="docker 20.10.24"),
    )


def delivered() -> Verdict:
    out, back = packet("172.17.0.2", "8.8.8.8"), packet("8.8.8.8", "172.17.0.2")
    return verdict(
        Result.DELIVERED,
        hops=(
            hop("web/eth0", out, at_us=0),
            hop("host/veth9a41c2e", out, at_us=21),
            hop("host/docker0", out, at_us=26),
            hop("host/eth0", packet("203.0.113.2", "8.8.8.8"), at_us=60),
            hop("host/eth0", packet("8.8.8.8", "203.0.113.2"), reply=True, at_us=180),
            hop("host/docker0", back, reply=True, at_us=204),
            hop("host/veth9a41c2e", back, reply=True, at_us=210),
            hop("web/eth0", back, reply=True, at_us=219),
        ),
    )


def masquerade_missing() -> Verdict:
    out = packet("172.17.0.2", "8.8.8.8")
    return verdict(
        Result.STOPPED,
        stop=Stop(
            direction=Direction.REPLY,
            segment=Segment.REMOTE,
            after="host/eth0",
            before="host/eth0",
            netns=None,
            device=None,
            hook=None,
        ),
        hops=(
            hop("web/eth0", out, at_us=0),
            hop("host/veth9a41c2e", out, at_us=21),
            hop("host/docker0", out, at_us=26),
            hop("host/eth0", out, at_us=60),
            hop("host/eth0", None, reply=True, predicted=PredictedSight.UNKNOWN, observed=UNSEEN),
            hop("web/eth0", None, reply=True, predicted=PredictedSight.UNKNOWN, observed=UNSEEN),
        ),
        findings=(
            Finding(
                code="nat.masquerade-missing",
                severity=Severity.BLOCKING,
                title="Nothing translates 172.17.0.2 on its way out",
                explanation=(
                    "The packet leaves by eth0 with the container's private address as its source. Nobody beyond "
                    "this host has a route back to 172.17.0.0/16, so the reply cannot come home."
                ),
                basis=Basis.BOTH,
                at="host/eth0",
                evidence=(
                    Evidence(
                        kind=EvidenceKind.RULE,
                        ref="host: iptables-nft nat/POSTROUTING",
                        text=":POSTROUTING ACCEPT; none of 0 rules matches",
                    ),
                    Evidence(
                        kind=EvidenceKind.PACKET, ref="host/eth0", text="left as 172.17.0.2 → 8.8.8.8, untranslated"
                    ),
                    Evidence(
                        kind=EvidenceKind.INTENT,
                        ref="docker network bridge",
                        text="com.docker.network.bridge.enable_ip_masquerade=true",
                    ),
                ),
                remedy=Remedy(
                    summary="put the rule back; restarting the engine makes all of its rules again",
                    commands=("iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",),
                    verified=Verified.YES,
                ),
            ),
        ),
        assumptions=("beyond 203.0.113.1 there is no route to 172.17.0.0/16",),
    )


def filtered() -> Verdict:
    out = packet("172.17.0.2", "172.17.0.3", sport=40112, dport=80)
    return verdict(
        Result.STOPPED,
        dst="db",
        proto=Proto.TCP,
        dport=80,
        stop=Stop(
            direction=Direction.FORWARD,
            segment=Segment.BRIDGE,
            after="host/veth9a41c2e",
            before="host/veth77d0b11",
            netns=HOST,
            device="docker0",
            hook=StopHook(hook="forward", table="filter", chain="FORWARD"),
        ),
        hops=(
            hop("web/eth0", out, at_us=0),
            hop("host/veth9a41c2e", out, at_us=18),
            hop("host/veth77d0b11", out, predicted=PredictedSight.NOT_SEEN, observed=UNSEEN),
            hop("db/eth0", out, predicted=PredictedSight.NOT_SEEN, observed=BLIND, agreement=Agreement.UNCHECKED),
        ),
        findings=(
            Finding(
                code="filter.icc-disabled",
                severity=Severity.BLOCKING,
                title="Containers of network noicc may not talk to each other",
                explanation="The network was made with enable_icc=false.",
                basis=Basis.BOTH,
                at="host/docker0",
                evidence=(
                    Evidence(
                        kind=EvidenceKind.RULE,
                        ref="host: iptables-nft filter/FORWARD rule 6",
                        text="-A FORWARD -i docker0 -o docker0 -j DROP",
                    ),
                ),
                remedy=Remedy(
                    summary="make the network with icc on, or reach the other container by a published port",
                    verified=Verified.UNVERIFIABLE,
                ),
            ),
            Finding(
                code="filter.rule-drop",
                severity=Severity.BLOCKING,
                title="A rule of the user drops it as well",
                explanation="",
                basis=Basis.PREDICTED,
                at="host",
                remedy=Remedy(summary="delete it", commands=("iptables -D DOCKER-USER 1",), verified=Verified.NO),
            ),
        ),
        gaps=(
            GapView(section="sockets", netns="db", reason="the namespace ended while it was read"),
            GapView(section="capture", netns=None, reason="tracefs is not mounted, so the kernel names no drop reason"),
        ),
    )


def degraded() -> Verdict:
    out = packet("172.17.0.2", "8.8.8.8")
    return verdict(
        Result.DEGRADED,
        size=1500,
        stop=Stop(
            direction=Direction.FORWARD,
            segment=Segment.EGRESS,
            after="host/docker0",
            before="host/eth0",
            netns=HOST,
            device="eth0",
            hook=None,
        ),
        hops=(
            hop("web/eth0", out, at_us=0),
            hop("host/docker0", out, at_us=30),
            hop("host/eth0", out, predicted=PredictedSight.NOT_SEEN, observed=UNSEEN),
        ),
        findings=(
            Finding(
                code="mtu.mismatch",
                severity=Severity.DEGRADING,
                title="eth0 carries 1400 bytes, the container sends up to 1500",
                explanation="ICMP reports it, so TCP adapts after a loss.",
                basis=Basis.BOTH,
                at="host/eth0",
                evidence=(Evidence(kind=EvidenceKind.LINK, ref="host: eth0", text="mtu 1400"),),
            ),
        ),
    )


def contradicted() -> Verdict:
    out = packet("172.17.0.2", "8.8.8.8")
    return verdict(
        Result.INCONCLUSIVE,
        hops=(
            hop("web/eth0", out, at_us=0),
            hop(
                "host/docker0",
                out,
                observed=UNSEEN,
                agreement=Agreement.MODEL_ONLY,
                steps=("veth9a41c2e is a port of docker0", "docker0 takes it up"),
            ),
            hop("host/eth0", None, observed=NOT_PROBED, agreement=Agreement.UNCHECKED),
        ),
        findings=(
            Finding(
                code="model.contradicted",
                severity=Severity.WARNING,
                title="Prediction and wire disagree at host/docker0",
                explanation="Please report it, with a bundle.",
                basis=Basis.BOTH,
                at="host/docker0",
            ),
        ),
    )


def predicted_only() -> Verdict:
    sample = delivered()
    return verdict(
        Result.DELIVERED,
        hops=tuple(
            hop(
                each.point,
                each.packet,
                reply=each.direction is Direction.REPLY,
                observed=NOT_PROBED,
                agreement=Agreement.UNCHECKED,
            )
            for each in sample.hops
        ),
    )


def not_running() -> Verdict:
    return verdict(
        Result.STOPPED,
        stop=Stop(
            direction=Direction.FORWARD,
            segment=Segment.SOURCE,
            after=None,
            before=None,
            netns=None,
            device=None,
            hook=None,
        ),
        hops=(),
        findings=(
            Finding(
                code="engine.container-not-running",
                severity=Severity.BLOCKING,
                title="Container web is not running: exited",
                explanation="A container that does not run has no network namespace to send from.",
                basis=Basis.OBSERVED,
                at="web",
                remedy=Remedy(summary="start it", commands=("docker start c5ff39f37596",)),
            ),
        ),
    )


def ipv6_wide() -> Verdict:
    out = packet("2001:db8:1::242:ac11:2", "2001:4860:4860::8888", sport=40112, dport=443)
    nat = packet("2001:db8:203::2", "2001:4860:4860::8888", sport=40112, dport=443)
    back = packet("2001:4860:4860::8888", "2001:db8:203::2", sport=443, dport=40112)
    return verdict(
        Result.DELIVERED,
        src="an-application-with-a-very-long-name-of-its-own-1",
        dst="2001:4860:4860::8888",
        proto=Proto.TCP,
        dport=443,
        family=6,
        hops=(
            hop("an-application-with-a-very-long-name-of-its-own-1/eth0", out, at_us=0),
            hop("host/eth0", nat, at_us=1440),
            hop("host/eth0", back, reply=True, at_us=15020),
        ),
    )


def hostile() -> Verdict:
    """Every text that others choose tries to reach the terminal."""
    evil = "web\x1b[2J\x1b]0;owned\x07\u202e\u009b31m"
    out = packet("172.17.0.2", "8.8.8.8")
    return verdict(
        Result.STOPPED,
        src=evil,
        stop=Stop(
            direction=Direction.FORWARD,
            segment=Segment.HOST,
            after="host/\x1b[1mdocker0",
            before=None,
            netns=HOST,
            device="eth0\x1b[1m",
            hook=StopHook(hook="forward", table="t\x1b[7m", chain="c\rOK"),
        ),
        hops=(
            hop(
                f"{evil}/eth0",
                out,
                observed=UNSEEN,
                agreement=Agreement.MODEL_ONLY,
                steps=("step\x1b[2J",),
            ),
        ),
        findings=(
            Finding(
                code="filter.rule-drop",
                severity=Severity.BLOCKING,
                title="A rule\x1b[2J drops it",
                explanation="comment \x1b[8mhidden\x1b[0m\nline",
                basis=Basis.BOTH,
                at="host/\x07",
                evidence=(Evidence(kind=EvidenceKind.RULE, ref="r\x1b[2J", text='-m comment --comment "\x1b[2J\x9b"'),),
                remedy=Remedy(summary="delete\x1b it", commands=("iptables -D FORWARD 1\nrm -rf /tmp/x\x1b",)),
            ),
        ),
        gaps=(GapView(section="s\x1b", netns="n\x1b", reason="r\x1b"),),
        assumptions=("a\x1b[2J",),
    )


ALL = {
    "delivered": delivered,
    "masquerade_missing": masquerade_missing,
    "filtered": filtered,
    "degraded": degraded,
    "contradicted": contradicted,
    "predicted_only": predicted_only,
    "not_running": not_running,
    "ipv6_wide": ipv6_wide,
    "hostile": hostile,
}
