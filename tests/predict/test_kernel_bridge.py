"""What a bridge does with a frame, as real packets showed (tests/oracle/topology.py)."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from msgspec.structs import replace

from nettrace.model.base import Present, Values, rows
from nettrace.model.path import LegEnd, Outcome, Reason, StepKind
from nettrace.model.snapshot import (
    BridgeInfo,
    BridgePort,
    DumpFormat,
    FdbEntry,
    Host,
    Link,
    Namespace,
    Neighbour,
    NetfilterDump,
    Snapshot,
)
from nettrace.predict import bridge as bridging
from nettrace.predict import neigh, predict
from nettrace.predict.world import View, World
from nettrace.replay import read_case
from tests.rules.build import BRIDGE_MAC, Lab, ask, plain_lab

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
    lab.host.fdb = [FdbEntry(ifindex=port.ifindex, mac=bridge.mac or "", master=bridge.ifindex, state="static")]
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


def stops(lab: Lab, src: str = "app", dst: str = "web") -> list[tuple[StepKind, Reason | None, str | None]]:
    """What stops a question's packet, or else its answer."""
    trace = predict(lab.snapshot(), ask(lab, src, dst))
    legs = [trace.forward.steps, trace.reply.steps if trace.reply is not None else ()]
    return [(step.kind, step.reason, step.device) for leg in legs for step in leg if step.outcome is Outcome.DROP]


APP, WEB = "02:42:ac:11:00:02", "02:42:ac:11:00:03"


def knows(lab: Lab, box: str, address: str, mac: str) -> None:
    """Let a container have learnt a neighbour already."""
    index = lab[box].link("eth0").ifindex
    lab[box].neighbours.append(Neighbour(ifindex=index, address=ip_address(address), mac=mac, state="REACHABLE"))


def local(lab: Lab, mac: str, device: str) -> None:
    """Let an entry call a MAC the bridge's own."""
    bridge, held = lab.host.link("docker0"), lab.host.link(device)
    entry = FdbEntry(ifindex=held.ifindex, mac=mac, master=bridge.ifindex, state="permanent", local=True)
    lab.host.fdb.append(entry)


def test_a_local_entry_brings_frames_for_another_up_to_the_host_which_drops_them() -> None:
    """br_handle_frame_finish passes them up; only the bridge's address and the port's own make them the host's."""
    for device in ("docker0", "veth-app", "veth-web"):
        lab = plain_lab()
        local(lab, WEB, device)
        assert stops(lab) == [(StepKind.BRIDGE, Reason.FDB_WRONG_PORT, device)]
    lab = plain_lab()
    local(lab, lab.host.link("veth-app").mac or "", "veth-app")
    assert stops(lab) == []


def test_a_bridge_without_an_entry_for_itself_takes_nothing_for_itself() -> None:
    """br_handle_frame_finish floods what has no entry; only promiscuous mode has the bridge take it all the same."""
    lab = plain_lab()
    lab.host.fdb = [each for each in lab.host.fdb if each.ifindex != 3]
    assert stops(lab, "app", "8.8.8.8")[:1] == [(StepKind.BRIDGE, Reason.FDB_WRONG_PORT, "docker0")]
    assert stops(lab, "host", "app")[:1] == [(StepKind.NEIGHBOUR, Reason.FDB_WRONG_PORT, "docker0")]
    assert stops(lab, "app", "web") == []
    lab.host.edit("docker0", promisc=True)
    assert stops(lab, "app", "8.8.8.8") == []
    lab.host.edit("docker0", promisc=False)
    lab.host.fdb = []  # nothing is known of it
    assert stops(lab, "app", "8.8.8.8") == []


def test_a_local_entry_of_a_port_does_not_keep_the_host_itself_from_it() -> None:
    """br_dev_xmit asks for the port alone (br_forward); without one, as at the bridge's own, the frame is lost."""
    lab = plain_lab()
    local(lab, APP, "veth-app")
    assert stops(lab, "app", "8.8.8.8") == []
    lab = plain_lab()
    local(lab, APP, "docker0")
    assert stops(lab, "app", "8.8.8.8")[:1] == [(StepKind.NEIGHBOUR, Reason.FDB_WRONG_PORT, "docker0")]
    # Who knows the gateway already need not ask, and it is the answer that is lost.
    knows(lab, "app", "172.17.0.1", BRIDGE_MAC["docker0"])
    assert stops(lab, "app", "8.8.8.8") == [(StepKind.BRIDGE, Reason.FDB_WRONG_PORT, "docker0")]


def test_an_entry_that_was_learnt_elsewhere_holds_until_its_owner_speaks() -> None:
    lab = plain_lab()
    port = lab.host.link("veth-c1")
    lab.host.links.append(replace(port, ifindex=900, name="veth-x", master=3, peer_ifindex=None, peer_netns=None))
    lab.host.fdb.append(FdbEntry(ifindex=900, mac=WEB, master=3))
    assert stops(lab) == []  # web has just answered
    knows(lab, "app", "172.17.0.3", WEB)
    assert stops(lab) == [(StepKind.BRIDGE, Reason.FDB_WRONG_PORT, "veth-x")]


def test_a_request_goes_only_to_ports_that_it_is_flooded_to() -> None:
    """br_flood leaves ports out by the kind of frame; what the bridge itself sends goes to all of them."""
    for source, target, family, lost in (
        ("app", "web", "bcast_flood", True),
        ("web", "app", "bcast_flood", False),
        ("host", "web", "bcast_flood", False),
        ("app", "web", "mcast_flood", False),
    ):
        lab = plain_lab()
        lab.host.edit_port("veth-web", **{family: False})
        expected = [(StepKind.NEIGHBOUR, Reason.NO_FLOOD, "veth-web")] if lost else []
        assert stops(lab, source, target) == expected
    lab = plain_lab()
    lab.host.edit_port("veth-web", bcast_flood=False)
    knows(lab, "app", "172.17.0.3", WEB)
    assert stops(lab) == []


def test_who_joined_a_group_gets_its_multicasts_where_somebody_queries() -> None:
    bridge = Link(ifindex=BRIDGE, name="br0", kind="bridge", bridge=BridgeInfo())
    deaf = Link(ifindex=PORT, name="v1", kind="veth", master=BRIDGE, port=BridgePort(mcast_flood=False))
    assert bridging.floods(bridge, deaf, 6) is not None
    assert bridging.floods(replace(bridge, bridge=BridgeInfo(mcast_querier=True)), deaf, 6) is None
    assert bridging.floods(bridge, deaf, 4) is None


def test_without_ageing_a_bridge_learns_nothing() -> None:
    """br_fdb_update returns at once where hold_time is 0."""
    port = Link(ifindex=PORT, name="v1", kind="veth", master=BRIDGE, port=BridgePort())
    bridge = Link(ifindex=BRIDGE, name="br0", kind="bridge", bridge=BridgeInfo())
    assert bridging.learns(bridge, port)
    assert not bridging.learns(replace(bridge, bridge=BridgeInfo(ageing_time_s=0)), port)


def test_a_locked_port_takes_only_what_has_an_entry_there() -> None:
    lab = plain_lab()
    lab.host.edit_port("veth-web", locked=True, learning=False)
    assert stops(lab)[:1] == [(StepKind.NEIGHBOUR, Reason.PORT_LOCKED, "veth-web")]
    knows(lab, "app", "172.17.0.3", WEB)
    assert stops(lab) == [(StepKind.BRIDGE, Reason.PORT_LOCKED, "veth-web")]
    index = lab.host.link("veth-web").ifindex
    lab.host.fdb.append(FdbEntry(ifindex=index, mac=WEB, master=3, state="static"))
    assert stops(lab) == []


def test_a_port_hears_no_answers_to_what_it_asks_itself() -> None:
    """The bridge takes all that comes in by a port (rx_handler); what is known already is used."""
    lab = plain_lab()
    app = lab["app"]
    app.links.append(Link(ifindex=77, name="br9", kind="bridge", mac=APP, bridge=BridgeInfo()))
    app.edit("eth0", master=77, port=BridgePort())
    assert stops(lab) == [(StepKind.NEIGHBOUR, Reason.PORT_ENSLAVED, "eth0")]
    knows(lab, "app", "172.17.0.3", WEB)
    assert stops(lab) == []


def ebtables(table: str, chain: str, rule: str) -> NetfilterDump:
    text = f"*{table}\n:{chain} ACCEPT\n-A {chain} {rule}\n"
    return NetfilterDump(format=DumpFormat.EBTABLES_SAVE, backend="nft", family="bridge", text=text)


def test_a_frame_for_another_mac_goes_where_that_is() -> None:
    """ebt_dnat and ebt_redirect: the bridge looks for the port, or takes the frame up, by what was written."""
    nobody = "02:00:00:00:00:aa"
    for table, chain, rule, expected in (
        ("nat", "PREROUTING", f"-d {WEB} -j dnat --to-destination {nobody}", [(StepKind.HOOK, "veth-app")]),
        ("nat", "PREROUTING", f"-d {WEB} -j redirect", []),
        ("nat", "POSTROUTING", f"-d {WEB} -j DROP", [(StepKind.HOOK, "veth-web")]),
    ):
        lab = plain_lab()
        lab.host.dumps.append(ebtables(table, chain, rule))
        assert [(kind, device) for kind, _reason, device in stops(lab)] == expected, rule


def test_one_who_forwards_may_be_given_anothers_frames() -> None:
    """A rule that leads frames to a container that routes is no stop in itself."""
    lab = plain_lab()
    lab.attach("router", "bridge", "172.17.0.9/16", index=40)
    lab.host.dumps.append(ebtables("nat", "PREROUTING", f"-i veth-app -d {WEB} -j dnat --to-dst 02:42:ac:11:00:09"))
    assert [reason for _kind, reason, _device in stops(lab)] == [Reason.FILTERED]
    lab["router"].set(ipv4__ip_forward="1", ipv4__conf__all__forwarding="1", ipv4__conf__eth0__forwarding="1")
    assert stops(lab) == []


def test_the_hooks_of_the_bridges_own_frames() -> None:
    """Local frames pass OUTPUT and POSTROUTING (__br_deliver, br_forward_finish), INPUT sees the port."""
    for table, chain, rule, stopped in (
        ("filter", "INPUT", "-i veth-app -j DROP", True),
        ("filter", "INPUT", "-i docker0 -j DROP", False),
        ("filter", "INPUT", "--logical-in docker0 -j DROP", True),
        ("filter", "OUTPUT", "-o veth-app -j DROP", True),
        ("nat", "POSTROUTING", "-o veth-app -j DROP", True),
    ):
        lab = plain_lab()
        lab.host.dumps.append(ebtables(table, chain, rule))
        assert bool(stops(lab, "app", "172.17.0.1")) is stopped, rule


def test_a_request_whose_way_back_leads_elsewhere_is_not_answered() -> None:
    """arp_process looks the request up as a packet (ip_route_input_noref), with the reverse-path filter."""
    lab = plain_lab()
    lab.host.sysctls["net.ipv4.conf.docker0.rp_filter"] = "1"
    assert stops(lab, "app", "8.8.8.8") == []
    lab.host.route("172.17.0.2/32", dev="br-net1")
    assert stops(lab, "app", "8.8.8.8")[:1] == [(StepKind.NEIGHBOUR, Reason.ARP_IGNORED, "eth0")]
    lab.host.sysctls["net.ipv4.conf.docker0.rp_filter"] = "2"
    assert (StepKind.NEIGHBOUR, Reason.ARP_IGNORED, "eth0") not in stops(lab, "app", "8.8.8.8")


def test_a_rule_of_the_bridge_may_answer_for_others() -> None:
    """ebt_arpreply answers requests itself, and lets them go no further."""
    nobody, asked = "02:00:00:00:00:aa", "-p ARP --arp-ip-dst"
    for rule, answered in (
        (f"{asked} 172.17.0.3 -j arpreply --arpreply-mac {nobody}", True),
        (f"{asked} 172.17.0.4 -j arpreply --arpreply-mac {nobody}", False),
        (f"-i veth-web {asked} 172.17.0.3 -j arpreply --arpreply-mac {nobody}", False),
    ):
        lab = plain_lab()
        lab.host.dumps.append(ebtables("nat", "PREROUTING", rule))
        expected = [(StepKind.RECEIVE, Reason.OTHERHOST, "eth0")] if answered else []
        assert stops(lab)[:1] == expected, rule
        assert stops(lab, "host", "web") == []


def test_what_was_learnt_is_used_although_no_container_has_that_address() -> None:
    """The engine's listing tells the addresses of containers whose namespaces were not read."""
    lab = plain_lab()
    del lab.boxes["web"]
    knows(lab, "app", "172.17.0.1", "02:00:00:00:00:99")
    assert stops(lab, "app", "8.8.8.8")[:1] == [(StepKind.BRIDGE, Reason.OTHERHOST, "docker0")]
    endpoint = replace(lab.containers["web"].endpoints[0], mac=None)
    lab.container("web", endpoints=(endpoint,))
    assert stops(lab, "app", "8.8.8.8") == []
