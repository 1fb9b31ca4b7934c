"""What a bridge does with a frame, as real packets showed (tests/oracle/topology.py)."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from msgspec.structs import replace

from nettrace.model.base import Present, Values, rows
from nettrace.model.path import LegEnd, Outcome, Reason, StepKind
from nettrace.model.snapshot import BridgeInfo, BridgePort, FdbEntry, Host, Link, Namespace, Snapshot
from nettrace.predict import bridge as bridging
from nettrace.predict import neigh, predict
from nettrace.predict.world import View, World
from nettrace.replay import read_case
from tests.rules.build import ask, plain_lab

CASES = Path(__file__).parents[2] / "fixtures" / "cases"

BRIDGE, PORT, OWN, FAR = 2, 3, "02:00:00:00:03:01", "02:00:00:00:02:01"


def world(*fdb: FdbEntry, port: BridgePort | None = None) -> World:
    """A host with a bridge, and one container behind its port."""
    host = Namespace(
        id=1, name="host",
        links=Present(rows=(
            Link(ifindex=BRIDGE, name="br0", kind="bridge", mac=OWN, bridge=BridgeInfo()),
            Link(ifindex=PORT, name="v1", kind="veth", master=BRIDGE, port=port or BridgePort(), peer_ifindex=2,
                 peer_netns=2),
        )),
        fdb=Present(rows=fdb),
    )  # fmt: skip
    links = Present(rows=(Link(ifindex=2, name="eth0", kind="veth", mac=FAR, peer_ifindex=PORT, peer_netns=1),))
    far = Namespace(id=2, name="c", links=links)
    return World(Snapshot(host=Host(kernel="6"), host_netns=1, namespaces=(host, far)))


def choose(held: World, mac: str, *, spoke: bool = False) -> bridging.Choice:
    """The port that the bridge's own frame leaves by."""
    host = held.views[1]
    return bridging.egress(held, host, host.links[BRIDGE], None, mac, ip_address("10.1.0.11"), spoke=spoke)


def test_an_answer_teaches_the_bridge_its_port_unless_learning_is_off() -> None:
    assert choose(world(port=BridgePort(unicast_flood=False)), FAR).reason is Reason.NO_FLOOD
    assert choose(world(port=BridgePort(unicast_flood=False)), FAR, spoke=True).reason is None
    deaf = world(port=BridgePort(unicast_flood=False, learning=False))
    assert choose(deaf, FAR, spoke=True).reason is Reason.NO_FLOOD


def test_the_entry_decides_what_is_the_bridges_own() -> None:
    taken = world(FdbEntry(ifindex=PORT, mac=OWN, master=BRIDGE, state="static"))
    kept = world(FdbEntry(ifindex=BRIDGE, mac=OWN, state="permanent", local=True))
    for held, expected in ((taken, False), (kept, True), (world(), True)):
        host = held.views[1]
        assert bridging.is_local_mac(host, host.links[BRIDGE], OWN) is expected


def test_a_bridge_sends_nothing_to_its_own_address() -> None:
    held = world(FdbEntry(ifindex=BRIDGE, mac=OWN, state="permanent", local=True))
    assert choose(held, OWN).reason is Reason.OTHERHOST


def test_a_frame_must_fit_through_the_port_that_it_leaves_by() -> None:
    """br_dev_queue_push_xmit asks is_skb_forwardable: the port's MTU, the link header and one VLAN tag."""
    recorded = read_case(CASES / "healthy-peer")
    flow = replace(recorded.run.flow, size=1400)
    host = recorded.before.namespace(recorded.before.host_netns)
    assert host is not None
    container = next(ns for ns in recorded.before.namespaces if ns.id == flow.dst.netns)
    port = next(link for link in rows(host.links) if link.peer_netns == container.id)

    def stops(mtu: int) -> list[tuple[Reason | None, str | None]]:
        links = tuple(replace(link, mtu=mtu) if link is port else link for link in rows(host.links))
        changed = replace(host, links=Present(rows=links))
        namespaces = tuple(changed if ns is host else ns for ns in recorded.before.namespaces)
        trace = predict(replace(recorded.before, namespaces=namespaces), flow)
        return [(step.reason, step.device) for step in trace.forward.steps if step.outcome is Outcome.DROP]

    assert stops(1396) == []
    assert stops(1395) == [(Reason.FRAME_TOO_BIG, port.name)]


def test_a_device_that_does_not_ask_speaks_to_itself_and_the_bridge_keeps_the_frame() -> None:
    """arp_constructor gives a NOARP device its own address; br_fdb_update has just learnt it at the port it came by."""
    held = world()
    host = held.views[1]
    port = host.links[PORT]
    kept = bridging.egress(held, host, host.links[BRIDGE], port, FAR, ip_address("10.1.0.12"), spoke=True)
    assert kept.reason is Reason.PORT_NO_HAIRPIN


def test_answers_to_a_bridge_whose_address_lies_behind_a_port_do_not_come_up() -> None:
    """A static entry for the bridge's own address sends what is meant for the bridge out of that port."""
    lab = plain_lab()
    lab.host.neighbours.clear()
    assert predict(lab.snapshot(), ask(lab, "host", "app")).forward.end is LegEnd.ARRIVED
    bridge, port = lab.host.link("docker0"), lab.host.link("veth-web")
    lab.host.fdb.append(FdbEntry(ifindex=port.ifindex, mac=bridge.mac or "", master=bridge.ifindex, state="static"))
    steps = predict(lab.snapshot(), ask(lab, "host", "app")).forward.steps
    stops = [(step.kind, step.reason, step.device) for step in steps if step.outcome is Outcome.DROP]
    assert stops == [(StepKind.NEIGHBOUR, Reason.FDB_WRONG_PORT, "veth-web")]


def test_arp_ignore_3_asks_for_an_address_of_any_device() -> None:
    """arp_ignore's inet_confirm_addr is called without a device for the value 3."""
    recorded = read_case(CASES / "healthy-out")
    host = recorded.before.namespace(recorded.before.host_netns)
    assert host is not None
    values = {"net.ipv4.conf.all.arp_ignore": "3"}
    view = View(replace(host, sysctls=Values(values=values)))
    bridge = next(link for link in rows(host.links) if link.kind == "bridge")
    other = next(link for link in rows(host.links) if link.kind != "bridge")
    own = next(each.address.ip for each in rows(host.addresses) if each.ifindex == bridge.ifindex)
    asking = ip_address("172.17.0.2")
    assert neigh.arp_blocked(view, other, own, asking) is None
    assert neigh.arp_blocked(view, other, ip_address("172.17.9.9"), asking) is not None


def test_without_forwarding_a_bridged_dnat_goes_up_and_ends_there() -> None:
    """ip_route_input_slow gives an error route where forwarding is off: br_netfilter hands the frame to the stack."""
    for forwarding, reason in (("1", None), ("0", Reason.FORWARDING_OFF)):
        lab = plain_lab()
        lab.host.chain("nat", "-A PREROUTING -d 198.51.100.7/32 -j DNAT --to-destination 172.17.0.3")
        lab.host.sysctls.update(
            {"net.bridge.bridge-nf-call-iptables": "1", "net.ipv4.ip_forward": forwarding}
            | {f"net.ipv4.conf.{name}.forwarding": forwarding for name in ("all", "docker0")}
        )
        steps = predict(lab.snapshot(), ask(lab, "app", "198.51.100.7")).forward.steps
        stops = [step.reason for step in steps if step.outcome is Outcome.DROP]
        assert stops == ([reason] if reason is not None else [])
