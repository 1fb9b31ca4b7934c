"""Listings become one Snapshot: namespaces, their peers, what the engine meant, and what is missing for an answer."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from nettrace.model.base import Missing, Present, Values, from_json, rows, to_json
from nettrace.model.snapshot import Namespace, Snapshot

from .read import Assembled, assembled, host_of, of_files, of_text, recorded, space

HOST = (
    "ip_-d_-s_addr", "ip_route_show_table_all", "ip_rule", "ip_-6_rule", "ip_neigh", "bridge_fdb", "iptables-save_-c",
    "nft_-j_list_ruleset", "sysctl_-a", "ss_-lntu",
)  # fmt: skip
ENGINE = ("docker_inspect", "docker_network_inspect", "docker_info", "docker_version")


def whole(*, web: bool = True, engine: tuple[str, ...] = ENGINE) -> Assembled:
    texts = [(f"host/{name}", recorded("host", name)) for name in HOST]
    texts += [(f"engine/{name}", recorded("engine", name)) for name in engine]
    if web:
        names = ("ip_-d_-s_addr", "ip_route_show_table_all", "ip_rule", "ip_-6_rule", "ss_-lntu")
        texts += [(f"web/{name}", recorded("web", name)) for name in names]
    return assembled(*texts)


def test_peers_are_found_by_their_indexes() -> None:
    found = whole()
    host, web = host_of(found), space(found, "web")
    inside = next(link for link in rows(web.links) if link.name == "eth0")
    outside = next(link for link in rows(host.links) if link.ifindex == inside.peer_ifindex)
    assert (inside.peer_netns, outside.peer_netns, outside.peer_ifindex) == (host.id, web.id, inside.ifindex)
    uplink = next(link for link in rows(host.links) if link.name == "eth0")
    assert uplink.peer_netns is None
    assert uplink.peer_nsid == -1


def test_peers_are_found_where_engines_give_every_interface_the_same_index() -> None:
    def link(index: int, name: str, peer: int, more: str = "") -> str:
        return (
            f"{index}: {name}@if{peer}: <BROADCAST,UP,LOWER_UP> mtu 1500 qdisc noqueue {more}state UP group default\n"
        )

    host = link(2, "eth0", 12) + link(12, "vetha", 2, "master br0 ") + link(14, "vethb", 2, "master br0 ")
    found = assembled(("host/ip_addr", host), ("a/ip_addr", link(2, "eth0", 12)), ("b/ip_addr", link(2, "eth0", 14)))
    names = {each.name: each.id for each in found.snapshot.namespaces}
    peers = {each.name: each.peer_netns for each in rows(host_of(found).links)}
    assert peers == {"eth0": None, "vetha": names["a"], "vethb": names["b"]}


def test_a_container_that_nobody_pasted_is_as_its_engine_makes_it_and_that_is_told() -> None:
    found = whole(web=False)
    app = space(found, "app")
    (inside,) = (link for link in rows(app.links) if not link.loopback)
    assert (inside.kind, inside.mac, inside.mtu) == ("veth", "02:42:ac:11:00:02", 1500)
    assert ip_interface("172.17.0.2/16") in [each.address for each in rows(app.addresses)]
    routes = {(str(route.dst), route.table): route for route in rows(app.routes)}
    assert routes["0.0.0.0/0", 254].nexthops[0].gateway == ip_address("172.17.0.1")
    assert routes["172.17.0.0/16", 254].scope == "link"
    assert routes["172.17.0.2/32", 255].kind == "local"
    assert isinstance(app.sockets, Missing)
    (gap,) = (gap for gap in found.snapshot.gaps if gap.netns == "app")
    assert gap.section == "namespace"
    assert "links, addresses and routes are taken as its engine makes them" in gap.reason
    assert "nsenter -t $(docker inspect -f '{{.State.Pid}}' app) -n" in gap.reason
    # Nothing tells which of two equal ports leads to it; it is one of them, and that is told.
    port = next(link for link in rows(host_of(found).links) if link.peer_netns == app.id)
    assert port.master == next(link.ifindex for link in rows(host_of(found).links) if link.name == "docker0")
    assert any("all alike" in gap.reason for gap in found.snapshot.gaps)


def test_what_the_bridge_learned_tells_the_port() -> None:
    fdb = recorded("host", "bridge_fdb") + "02:42:ac:11:00:02 dev vethe7ee348 master docker0\n"
    texts = [(f"host/{name}", recorded("host", name)) for name in HOST if name != "bridge_fdb"]
    texts += [(f"engine/{name}", recorded("engine", name)) for name in ENGINE]
    found = assembled(*texts, ("host/bridge_fdb", fdb))
    port = next(link for link in rows(host_of(found).links) if link.peer_netns == space(found, "app").id)
    assert port.name == "vethe7ee348"


def test_nothing_is_made_up_of_a_container_on_several_networks_with_gateways() -> None:
    inspect = recorded("engine", "docker_inspect").replace(
        '"Networks": {',
        """"Networks": {"other": {"NetworkID": "%s",
        "IPAddress": "10.9.0.2", "IPPrefixLen": 16, "Gateway": "10.9.0.1", "MacAddress": "02:42:0a:09:00:02"},""",
    )
    network = next(line for line in recorded("engine", "docker_network_inspect").splitlines() if '"Id"' in line)
    other = network.partition('": "')[2].rstrip('",')
    found = assembled(
        *((f"host/{name}", recorded("host", name)) for name in HOST),
        ("docker_network_inspect", recorded("engine", "docker_network_inspect")),
        ("docker_inspect", inspect.replace("%s", other)),
    )
    app = space(found, "app")
    assert isinstance(app.routes, Missing)


def test_containers_out_of_the_networks_they_are_on() -> None:
    found = whole(web=False, engine=("docker_network_inspect",))
    app = next(each for each in found.snapshot.intent.containers if each.name == "app")
    (endpoint,) = app.endpoints
    assert (endpoint.ipv4, endpoint.gateway) == (ip_interface("172.17.0.2/16"), ip_address("172.17.0.1"))
    assert app.netns == space(found, "app").id
    assert "docker inspect $(docker ps -aq)" in [need.command for need in found.needs]


def test_an_engine_in_text_and_json_is_the_same() -> None:
    text = whole(engine=("docker_inspect", "docker_network_inspect", "docker_info", "docker_version"))
    document = whole(
        engine=("docker_inspect", "docker_network_inspect", "docker_info_--format_json", "docker_version_--format_json")
    )
    assert text.snapshot.intent == document.snapshot.intent
    assert text.snapshot.host == document.snapshot.host
    assert text.snapshot.intent.engines[0].version == "20.10.24+dfsg1"
    listed = whole(engine=("docker_ps_-a",))
    assert {each.name for each in listed.snapshot.intent.containers} >= {"app", "web"}


def test_kinds_are_guessed_only_without_d_and_that_is_told() -> None:
    told, guessed = of_files("host", "ip_-d_link", "ip_addr"), of_files("host", "ip_addr")
    assert not [gap for gap in told.snapshot.gaps if gap.section.startswith("links")]
    kinds = [{link.name: link.kind for link in rows(host_of(each).links)} for each in (told, guessed)]
    assert kinds[0] == kinds[1]
    (gap,) = (gap for gap in guessed.snapshot.gaps if gap.section == "links/part")
    assert "run `ip -d link`" in gap.reason


def test_no_interface_of_a_container_is_taken_for_hardware() -> None:
    found = of_text(
        "$ docker exec web ip addr\n6: eth0: <BROADCAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP\n"
        "    link/ether 02:42:ac:11:00:02 brd ff:ff:ff:ff:ff:ff\n    inet 172.17.0.2/16 scope global eth0\n"
    )
    (eth0,) = rows(space(found, "web").links)
    assert (eth0.kind, eth0.peer_nsid) == ("veth", -1)


def test_the_local_table_follows_from_addresses_and_that_is_told() -> None:
    found = of_files("host", "ip_-d_-s_addr", "ip_route")
    whole_table = of_files("host", "ip_-d_-s_addr", "ip_route_show_table_all")

    def local(each: Assembled) -> set[str]:
        return {repr(route) for route in rows(host_of(each).routes) if route.table == 255 and route.dst.version == 4}

    assert local(found) == local(whole_table)
    reasons = [(gap.section, gap.reason) for gap in found.snapshot.gaps]
    assert any(section == "routes" and "made up from the addresses" in reason for section, reason in reasons)
    assert any(section == "routes/6" for section, _ in reasons)


def test_what_was_read_of_one_family_is_missing_for_the_other() -> None:
    snapshot = of_files("host", "ip_-d_-s_addr", "ip_route", "ip_rule").snapshot
    four, six = (snapshot.narrowed(family=family, proto="icmp").namespaces[0] for family in (4, 6))
    assert isinstance(four.routes, Present)
    assert isinstance(four.rules, Present)
    assert isinstance(six.routes, Missing)
    assert isinstance(six.rules, Missing)


def test_sockets_of_one_protocol_are_missing_for_the_other() -> None:
    snapshot = of_text("$ ss -ltnp\nState  Recv-Q Send-Q Local Address:Port Peer Address:Port Process\n").snapshot
    assert isinstance(snapshot.narrowed(family=4, proto="tcp").namespaces[0].sockets, Present)
    assert isinstance(snapshot.narrowed(family=4, proto="udp").namespaces[0].sockets, Missing)


def test_a_table_that_rules_ask_and_nobody_pasted_is_told() -> None:
    found = of_text(
        "$ ip rule\n0:\tfrom all lookup local\n99:\tfrom all lookup 77\n32766:\tfrom all lookup main\n"
        "32767:\tfrom all lookup default\n$ ip route\ndefault via 192.0.2.1 dev eth0\n"
    )
    assert any("ask table 77, which the paste lacks" in gap.reason for gap in found.snapshot.gaps)
    assert isinstance(found.snapshot.narrowed(family=4, proto="icmp").namespaces[0].routes, Missing)


def test_a_file_of_proc_is_a_sysctl_and_few_are_not_taken_for_all() -> None:
    found = of_text(
        "$ cat /proc/sys/net/ipv4/conf/eth0.5/rp_filter\n2\n$ sysctl net.ipv4.ip_forward\nnet.ipv4.ip_forward = 0\n"
    )
    sysctls = host_of(found).sysctls
    assert isinstance(sysctls, Values)
    assert sysctls.values == {"net.ipv4.conf.eth0/5.rp_filter": "2", "net.ipv4.ip_forward": "0"}
    assert any(gap.section == "sysctls/part" and gap.reason.startswith("2 told") for gap in found.snapshot.gaps)


def test_a_full_table_of_connections_shows_in_its_counters() -> None:
    counters = host_of(of_files("host", "sysctl_-a")).counters
    assert isinstance(counters, Values)
    assert counters.values.keys() == {"nf_conntrack.count", "nf_conntrack.max"}


def test_a_container_on_the_hosts_network_is_the_host() -> None:
    inspect = recorded("engine", "docker_inspect").replace('"NetworkMode": "bridge"', '"NetworkMode": "host"', 1)
    found = assembled(
        ("inspect", inspect), ("paste", f"$ docker exec {_first(inspect)} ip addr\n{recorded('host', 'ip_addr')}")
    )
    assert rows(host_of(found).links)
    hosted = next(each for each in found.snapshot.intent.containers if each.name == _first(inspect))
    assert hosted.netns == host_of(found).id


def _first(inspect: str) -> str:
    before = inspect[: inspect.index('"NetworkMode": "host"')]
    return before[before.rindex('"Name": "/') :].partition("/")[2].partition('"')[0]


def test_what_is_made_is_what_a_bundle_holds() -> None:
    snapshot = whole().snapshot
    assert from_json(to_json(snapshot), Snapshot) == snapshot
    assert rows(host_of(whole()).routes)[0].dst == ip_network("0.0.0.0/0")


def narrowed(found: Assembled, family: int = 4, proto: str = "icmp") -> Namespace:
    return found.snapshot.narrowed(family=family, proto=proto).namespaces[0]


def test_a_part_of_a_table_is_no_table() -> None:
    """What is left of a listing must not look like the whole: no route, no rule, no device would be a fault."""
    addresses, routes = recorded("host", "ip_addr"), recorded("host", "ip_route")
    whole = f"$ ip addr\n{addresses}"
    for text, section in (
        (f"{whole}$ ip route | grep 172\n{routes}", "routes"),
        (f"{whole}$ ip route show dev docker0\n{routes}", "routes"),
        (f"{whole}$ ip route\n{routes}10.0.0.0/99 dev eth0\n", "routes"),
        (f"{whole}$ ip route\n{routes}default vi", "routes"),
        (f"$ ip addr show docker0\n{addresses}", "links"),
        (f"$ ip addr | grep -A9 docker0\n{addresses}", "addresses"),
        (
            "$ ip rule\n0:\tfrom all lookup local\n9:\tfrom all frobnicate lookup 9\n32767:\tfrom all lookup default\n",
            "rules",
        ),
        ("$ ip rule | tail -1\n32767:\tfrom all lookup default\n", "rules"),
        ("$ sysctl net.ipv4.conf.all.rp_filter\nnet.ipv4.conf.all.rp_filter = 1\n", "sysctls"),
        ("$ nft list table ip filter\ntable ip filter {\n\tchain x {\n\t}\n}\n", "netfilter"),
        ("$ iptables-save | grep -v nat\n# nothing\n", "netfilter"),
    ):
        assert isinstance(getattr(narrowed(of_text(text)), section), Missing), text
    # Prose behind a listing is no lost row.
    assert isinstance(narrowed(of_text(f"{whole}$ ip route\n{routes}Thanks for your help!\n")).routes, Present)
    assert isinstance(narrowed(of_text(f"{whole}$ ip route\n{routes}")).routes, Present)


def test_tables_behind_a_break_are_unknown() -> None:
    saved = recorded("host", "iptables-save_-c")
    first = saved[: saved.index("COMMIT")]
    dump = rows(narrowed(of_text(f"$ iptables-save\n{first}")).netfilter)[0]
    for table in ("filter", "nat", "mangle", "raw"):
        assert f"*{table}\n" in dump.text
    assert 'not-in-the-paste --text "table nat"' in dump.text or 'not-in-the-paste --text "table filter"' in dump.text


def test_an_error_message_is_no_empty_table() -> None:
    for command, said, section in (
        ("ss -lntu", "bash: ss: command not found", "sockets"),
        ("conntrack -L", "conntrack v1.4.6 (conntrack-tools): Operation failed: sorry, you must be root", "conntrack"),
        ("ip route", 'Object "rout" is unknown, try "ip help".', "routes"),
        ("iptables-save", "iptables-save: Permission denied (you must be root)", "netfilter"),
        ("ip neigh", "Cannot open netlink socket: Protocol not supported", "neighbours"),
    ):
        found = of_text(f"$ {command}\n{said}\n$ true\n")
        assert isinstance(getattr(narrowed(found), section), Missing), command
        assert [each.text for each in found.untold] == [said], command
    shown = "$ conntrack -L\nconntrack v1.4.7 (conntrack-tools): 0 flow entries have been shown.\n"
    assert rows(host_of(of_text(shown)).conntrack) == ()
    assert isinstance(host_of(of_text(shown)).conntrack, Present)
    # What prints nothing before the next prompt says that there is nothing; a heading, or the paste's end, does not.
    assert isinstance(host_of(of_text("$ ip neigh\n$ ip rule\n")).neighbours, Present)
    assert isinstance(host_of(of_text("### `ip neigh`\n\n### `ip rule`\n")).neighbours, Missing)
    assert isinstance(host_of(of_text("$ ip rule\n$ ip neigh\n")).neighbours, Missing)
    assert isinstance(host_of(assembled(("host/ip_-d_route_show_cache", ""))).routes, Missing)
