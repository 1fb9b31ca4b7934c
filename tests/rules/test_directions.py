"""Questions from outside, through proxies, and back to where they came from: each told by the model alone."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace

from nettrace.collect.outside import aim
from nettrace.model.flow import Packet, Proto
from nettrace.model.intent import Container
from nettrace.model.observe import Observation, SightingKind
from nettrace.model.path import Segment, Trace
from nettrace.model.verdict import Result, Verdict, Verified
from nettrace.predict import predict
from nettrace.predict.relay import relay_flow

from .build import Lab, ask, diagnose_case, observed, plain_lab

STRANGER = "198.51.100.7"


def predicted(lab: Lab, *asks: Any, **facts: Any) -> Verdict:
    return diagnose_case(lab.snapshot(), ask(lab, *asks, **facts))


def codes(verdict: Verdict) -> list[str]:
    return [each.code for each in verdict.findings]


# from outside


def test_a_packet_from_outside_comes_by_the_way_back_to_its_sender() -> None:
    verdict = predicted(plain_lab(), STRANGER, "203.0.113.2", "tcp", 8080)
    assert verdict.outcome is Result.DELIVERED
    assert (verdict.hops[0].point, verdict.hops[-1].point) == ("host/eth0", "host/eth0")
    assert "come in by eth0" in verdict.assumptions[0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda lab: lab.host.insert("filter", "-A FORWARD -i eth0 -j DROP"), "filter.rule-drop"),
        (lambda lab: lab.host.delete("nat", "-A PREROUTING"), "nat.dnat-missing"),
        (lambda lab: lab.host.no_route("default"), "route.missing"),
        (lambda lab: lab["web"].down("eth0"), "link.down"),
    ],
)
def test_what_stops_it_is_named(change: Any, code: str) -> None:
    lab = plain_lab()
    change(lab)
    verdict = predicted(lab, STRANGER, "203.0.113.2", "tcp", 8080)
    assert verdict.outcome is Result.STOPPED
    assert codes(verdict)[0] == code


def _web(lab: Lab, **changes: Any) -> Container:
    return replace(lab.containers["web"], **changes)


@pytest.mark.parametrize(
    ("proto", "port", "address", "target", "dport"),
    [
        ("tcp", 80, None, "203.0.113.2", 8080),  # the container's own port, where it is published
        ("tcp", 8080, None, "203.0.113.2", 8080),  # or the host's, if the container has none such
        ("tcp", 81, None, "203.0.113.2", 81),  # not published: as an unknowing client would ask
        ("tcp", 80, "172.17.0.3", "172.17.0.3", 80),  # an address is meant as it is
        ("icmp", None, None, "172.17.0.3", None),
        ("udp", 80, None, "203.0.113.2", 80),
    ],
)
def test_a_container_is_asked_where_it_is_published(
    proto: str, port: int | None, address: str | None, target: str, dport: int | None
) -> None:
    lab = plain_lab()
    found = aim(
        ip_address(STRANGER),
        proto=Proto(proto),
        dport=port,
        address=ip_address(address) if address else None,
        name="web",
        container=_web(lab),
        networks=tuple(lab.networks.values()),
        host=ip_address("203.0.113.2"),
    )
    assert (str(found.address), found.dport) == (target, dport)
    assert len(found.assumed) == 1


def test_a_container_of_a_routed_network_is_asked_at_its_own_address() -> None:
    lab = plain_lab()
    lab.network("bridge", gateway_mode_ipv4="routed")
    found = aim(
        ip_address(STRANGER),
        proto=Proto.TCP,
        dport=81,
        address=None,
        name="web",
        container=_web(lab),
        networks=tuple(lab.networks.values()),
        host=ip_address("203.0.113.2"),
    )
    assert (str(found.address), found.dport) == ("172.17.0.3", 81)


# the userland proxy


def proxied() -> Lab:
    """Return a host whose rules leave packets from docker0 to the userland proxy, which listens."""
    lab = plain_lab()
    lab.host.insert("nat", "-A DOCKER -i docker0 -j RETURN")
    lab.host.listen(8080)
    return lab


def test_what_a_proxy_takes_up_goes_on_to_the_container() -> None:
    lab = proxied()
    flow = relay_flow(lab.snapshot(), predict(lab.snapshot(), ask(lab, "app", "203.0.113.2", "tcp", 8080)))
    assert flow is not None
    assert (flow.src.name, flow.dst.name, str(flow.dst.address), flow.dport) == ("host", "web", "172.17.0.3", 80)


def test_what_is_translated_or_taken_by_another_service_has_no_second_half() -> None:
    lab = plain_lab()
    lab.host.listen(22)
    lab.host.sockets = [replace(each, process=("sshd",)) for each in lab.host.sockets]
    for port in (8080, 22):
        trace = predict(lab.snapshot(), ask(lab, STRANGER, "203.0.113.2", "tcp", port))
        assert relay_flow(lab.snapshot(), trace) is None


def held(lab: Lab) -> Lab:
    """Make the engine's daemon itself keep the published port."""
    lab.host.sockets = [replace(each, process=("dockerd",)) for each in lab.host.sockets]
    return lab


def test_a_port_that_the_engine_only_keeps_serves_nobody() -> None:
    lab = held(proxied())
    lab.host.delete("nat", "-A PREROUTING")
    flow = ask(lab, STRANGER, "203.0.113.2", "tcp", 8080)
    assert codes(diagnose_case(lab.snapshot(), flow))[0] == "nat.dnat-missing"
    assert relay_flow(lab.snapshot(), predict(lab.snapshot(), flow)) is None


def test_a_handshake_that_nobody_takes_up_is_no_delivery() -> None:
    lab = held(proxied())
    verdict = diagnose_case(lab.snapshot(), ask(lab, "app", "203.0.113.2", "tcp", 8080), wire=observed(reply=True))
    assert verdict.outcome is Result.STOPPED
    assert codes(verdict) == ["nat.hairpin-missing"]


def answered_by(address: str) -> Any:
    """Return a wire on which the answer comes back from another address than was asked."""

    def wire(trace: Trace) -> Observation:
        seen = observed(reply=True)(trace)

        def changed(packet: Packet) -> Packet:
            return replace(packet, src=ip_address(address))

        return replace(
            seen,
            sightings=tuple(
                replace(each, packet=changed(each.packet)) if each.kind is SightingKind.REPLY else each
                for each in seen.sightings
            ),
        )

    return wire


def test_a_datagram_that_is_answered_from_another_address_is_not_answered() -> None:
    lab = plain_lab()
    lab.publish("web", 5353, 53, proto="udp")
    lab.host.insert("nat", "-A DOCKER -i docker0 -j RETURN")
    lab.host.listen(5353, proto="udp")
    lab.host.listen(7, proto="udp")
    for port, code in ((5353, "nat.hairpin-missing"), (7, "route.reply-asymmetric")):
        flow = ask(lab, "app", "203.0.113.2", "udp", port)
        assert diagnose_case(lab.snapshot(), flow, wire=observed(reply=True)).outcome is Result.DELIVERED
        verdict = diagnose_case(lab.snapshot(), flow, wire=answered_by("172.17.0.1"))
        assert (verdict.outcome, codes(verdict)) == (Result.STOPPED, [code])
        assert verdict.stop is not None
        assert (verdict.stop.direction, verdict.stop.segment) == ("reply", Segment.SOURCE)


# back to where it came from


def test_a_packet_that_comes_back_with_its_own_source_is_named_and_mended() -> None:
    lab = plain_lab()
    veth = next(link.name for link in lab.host.links if link.kind == "veth" and link.peer_netns == lab["web"].id)
    to = "-j DNAT --to-destination 172.17.0.3:80"
    lab.host.insert("nat", f"-A DOCKER -i docker0 -p tcp -m tcp --dport 8080 {to}")
    lab.host.edit_port(veth, hairpin=True)
    verdict = predicted(lab, "web", "203.0.113.2", "tcp", 8080)
    assert codes(verdict)[0] == "nat.hairpin-missing"
    assert "its own address" in verdict.findings[0].title
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_what_is_seen_on_its_way_out_has_not_come_back() -> None:
    lab = plain_lab()
    verdict = diagnose_case(
        lab.snapshot(), ask(lab, "web", "203.0.113.2", "tcp", 8080), wire=observed(until="host/docker0")
    )
    assert verdict.stop is not None
    assert codes(verdict) == ["nat.hairpin-missing"]
    assert verdict.stop.direction == "forward"


# lost addresses, IPv6, custom names


def test_a_bridge_without_its_ipv6_address_is_named_for_the_answers_that_go_astray() -> None:
    lab = plain_lab()
    lab.host.drop_address("fd00:18::1/64")
    verdict = predicted(lab, "2001:db8:99::9", "fd00:18::2", family=6)
    assert codes(verdict)[0] == "bridge.no-address"
    assert "route.wrong-device" not in codes(verdict)


def test_the_remedy_for_a_network_without_ipv6_is_another_network() -> None:
    lab = plain_lab()
    lab["app"].set(ipv6__conf__eth0__disable_ipv6="1")
    verdict = predicted(lab, "app", "2001:db8:9::9", family=6)
    assert codes(verdict)[0] == "sysctl.ipv6-disabled"
    assert any("network create --ipv6" in each for each in verdict.findings[0].remedy.commands)


def test_the_guard_of_a_bridge_of_any_name_is_the_engines() -> None:
    lab = plain_lab()
    lab.host.links = [replace(each, name="mynet") if each.name == "br-net1" else each for each in lab.host.links]
    lab.network("net1", bridge="mynet")
    lab.host.chain("raw", ":PREROUTING ACCEPT", "-A PREROUTING -d 172.18.0.2/32 ! -i mynet -j DROP")
    assert codes(predicted(lab, "app", "172.18.0.2"))[0] == "filter.direct-access-drop"
    lab.host.chain("raw", "-A PREROUTING -d 172.18.0.3/32 -j DROP")
    assert codes(predicted(lab, "app", "172.18.0.3"))[0] == "filter.rule-drop"


def test_a_default_route_without_a_gateway_is_named() -> None:
    lab = plain_lab()
    lab["app"].no_route("default")
    lab["app"].route("default", dev="eth0")
    verdict = predicted(lab, "app", "8.8.8.8")
    assert codes(verdict)[0] == "route.wrong-gateway"
    assert verdict.findings[0].remedy.verified is Verified.YES


def test_an_accept_that_is_missing_for_what_comes_in_is_mended_by_one_that_lets_it_in() -> None:
    lab = plain_lab()
    lab.host.delete("filter", "--dport 80 -j ACCEPT")
    verdict = predicted(lab, STRANGER, "203.0.113.2", "tcp", 8080)
    finding = verdict.findings[0]
    assert finding.code in ("filter.forward-policy-drop", "filter.docker-rules-missing")
    assert finding.remedy.verified is Verified.YES
