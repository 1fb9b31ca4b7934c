"""Listings are found by what they look like, in whatever they are wrapped; prompts and names say whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nettrace.model.base import Missing, Present, Values, rows
from nettrace.paste import Source, recognise
from nettrace.paste.commands import Kind, command_of_name, parse_command, prompt_of

from .read import HERE, assembled, host_of, of_text, recorded, space

ADDR = recorded("web", "ip_addr")
ROUTE = recorded("web", "ip_route")


def kinds(text: str, name: str = "paste.txt") -> list[tuple[Kind, int, str | None]]:
    """Return kind, first line and place of every listing of a text."""
    found = recognise(Source(name=name, text=text))
    return [(each.kind, each.first, each.command.place if each.command is not None else None) for each in found.blocks]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "".join(f"> {line}\n" for line in text.splitlines()),
        lambda text: "".join(f">> {line}\n" for line in text.splitlines()),
        lambda text: "".join(f"    {line}\n" for line in text.splitlines()),
        lambda text: f"Hello,\n\n```console\n{text}```\nIt does not work.\n",
        lambda text: f"\ufeff$ ip a\n{text}",
        lambda text: text.replace("eth0", "\x1b[36meth0\x1b[0m").replace("172.17.0.3", "\x1b[1;35m172.17.0.3\x1b[0m"),
        lambda text: text.replace("\n", "\x1b[K\n"),
    ],
)
def test_wrappings_change_nothing(wrap: object) -> None:
    plain, wrapped = of_text(ADDR), of_text(wrap(ADDR))  # type: ignore[operator]
    assert host_of(wrapped).links == host_of(plain).links
    assert host_of(wrapped).addresses == host_of(plain).addresses
    assert not [each for each in wrapped.untold if "outside of any listing" not in each.reason]


def test_a_session_with_prompts_of_all_kinds() -> None:
    text = (
        f"joe@box:~$ ip addr\n{ADDR}[root@box ~]# ip r\n{ROUTE}"
        f"bash-5.1# docker exec web ip addr\n{ADDR}+ nsenter --net=/run/netns/blue ip route\n{ROUTE}"
        f"# ip netns exec green ip addr\n{ADDR}$ sudo nsenter -t 4711 -n ip route\n{ROUTE}"
        f"$ ip -n red route\n{ROUTE}root@3386a527aa08:/# ip addr\n{ADDR}"
    )
    assert [(kind, place) for kind, _, place in kinds(text)] == [
        (Kind.LINK, None), (Kind.ROUTE, None), (Kind.LINK, "container:web"), (Kind.ROUTE, "netns:blue"),
        (Kind.LINK, "netns:green"), (Kind.ROUTE, "pid:4711"), (Kind.ROUTE, "netns:red"),
        (Kind.LINK, "container:3386a527aa08"),
    ]  # fmt: skip
    found = of_text(text)
    assert {(each.name, each.kind) for each in found.snapshot.namespaces} == {
        ("host", "host"), ("web", "container"), ("blue", "netns"), ("green", "netns"), ("pid:4711", "netns"),
        ("red", "netns"), ("3386a527aa08", "container"),
    }  # fmt: skip
    assert len(rows(space(found, "blue").routes)) >= 2
    assert isinstance(space(found, "blue").links, Missing)


def test_a_shell_in_a_container_until_it_is_left() -> None:
    text = f"joe@box:~$ docker exec -it web sh\n/ # ip a\n{ADDR}/ # ip r\n{ROUTE}/ # exit\njoe@box:~$ ip r\n{ROUTE}"
    assert [place for _, _, place in kinds(text)] == ["container:web", "container:web", None]
    by_hand = f"joe@box:~$ docker exec -it web sh\n/ # ip a\n{ADDR}joe@box:~$ ip r\n{ROUTE}"
    assert [place for _, _, place in kinds(by_hand)] == ["container:web", None]


def test_several_outputs_without_any_prompt() -> None:
    text = "".join(recorded("host", name) for name in (
        "ip_addr", "ip_route", "ip_rule", "bridge_fdb", "iptables-save_-c", "ss_-lntu", "sysctl_-a", "conntrack_-L",
        "nft_list_ruleset", "ip_-j_rule", "bridge_-j_fdb",
    ))  # fmt: skip
    assert [kind for kind, _, _ in kinds(text)] == [
        Kind.LINK, Kind.ROUTE, Kind.RULE, Kind.FDB, Kind.SAVE, Kind.SS, Kind.SYSCTL, Kind.CONNTRACK, Kind.NFT_TEXT,
        Kind.RULE, Kind.FDB,
    ]  # fmt: skip
    assert of_text(text).untold == ()


def test_headings_and_prose_name_commands() -> None:
    for head in ("**Output of `ip -6 rule`:**", "### ip -6 rule", "<summary>ip -6 rule</summary>", "# `ip -6 rule`"):
        found = of_text(f"{head}\n```\n0:\tfrom all lookup local\n32766:\tfrom all lookup main\n```\n")
        assert {rule.family for rule in rows(host_of(found).rules)} == {6}, head


def test_what_is_said_between_listings_is_told_once() -> None:
    found = of_text(f"{ADDR}\nAs you see there is no route:\nreally none.\n\n{ROUTE}\n")
    (trouble,) = found.untold
    assert (trouble.text, trouble.reason) == (
        "As you see there is no route:", "2 lines outside of any listing, the first of them",
    )  # fmt: skip


def test_a_part_is_not_taken_for_all() -> None:
    for command in ("ip addr show eth0", "ip route | grep default", "ip -br link", "iptables-save | grep DOCKER"):
        assert parse_command(command).part, command
    for command in ("ip addr", "ip addr show", "sudo ip route show table all | cat", "iptables-save -c", "ip a s"):
        assert not parse_command(command).part, command
    found = of_text(f"$ ip route | grep 172\n{ROUTE}")
    assert any("shows a part only" in gap.reason for gap in found.snapshot.gaps)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("sudo iptables -t nat -nvL --line-numbers", Kind.LISTING, {"table": "nat", "family": "ip"}),
        ("ip6tables-legacy-save -c", Kind.SAVE, {"family": "ip6", "backend": "legacy"}),
        ("/usr/sbin/iptables-nft -S", Kind.SPECS, {"table": "filter", "backend": "nft"}),
        ("iptables -vnxL", Kind.LISTING, {"table": "filter"}),
        ("ip -6 r s t all", Kind.ROUTE, {"family": "ip6"}),
        ("ip route show table local", Kind.ROUTE, {"table": "local", "everything": False}),
        ("ip route show table all", Kind.ROUTE, {"table": None, "everything": True}),
        ("ip -j -d addr", Kind.LINK, {"addresses": True}),
        ("ip -s -s neigh show", Kind.NEIGH, {}),
        ("ss -ltnp", Kind.SS, {"proto": "tcp"}),
        ("ss -peaonmi", Kind.SS, {"proto": None, "everything": True}),
        ("docker exec -u root -it web ss -lnu", Kind.SS, {"place": "container:web", "proto": "udp"}),
        ("docker compose exec db ip a", Kind.LINK, {"place": "container:db"}),
        ("nsenter -t 12 -n sh -c 'ip addr'", Kind.LINK, {"place": "pid:12"}),
        ("nsenter -t $(docker inspect -f '{{.State.Pid}}' web) -n ip addr", Kind.LINK, {"place": "container:web"}),
        ("ip netns exec blue iptables-save", Kind.SAVE, {"place": "netns:blue"}),
        ("cat /proc/sys/net/ipv4/ip_forward", Kind.SYSCTL, {"sysctl": "net.ipv4.ip_forward"}),
        ("docker network inspect bridge", Kind.DOCKER_NETWORK, {}),
        ("bridge -s -s -d -t fdb show", Kind.FDB, {"part": False}),
        ("conntrack -L -p tcp", Kind.CONNTRACK, {"part": True}),
        ("ping 8.8.8.8", None, {}),
    ],
)  # fmt: skip
def test_commands(text: str, kind: Kind | None, told: dict[str, object]) -> None:
    command = parse_command(text)
    assert command.kind is kind
    assert {name: getattr(command, name) for name in told} == told


@pytest.mark.parametrize(
    "line", ["# Generated by iptables-save", "# a remark", "$ make", "## Steps", "3: docker0: <UP>", "#"]
)
def test_what_is_no_prompt(line: str) -> None:
    assert prompt_of(line) is None


def test_files_called_after_their_command() -> None:
    for name, kind in (
        ("sos_commands/networking/ip_-s_-s_neigh_show", Kind.NEIGH),
        ("sos_commands/firewall_tables/iptables_-t_nat_-nvL", Kind.LISTING),
        ("iptables-save.txt", Kind.SAVE),
        ("ip-route.log", Kind.ROUTE),
    ):
        command = command_of_name(name)
        assert command is not None
        assert command.kind is kind
    assert command_of_name("README.md") is None


def sos(*more: tuple[str, str]) -> dict[str, str]:
    """Return the files of a sosreport of a recorded host, called as sos calls them."""
    base, blue = "sosreport-box/sos_commands/", "networking/namespaces/blue/ip_netns_exec_blue"
    files = {
        "networking/ip_-d_address": recorded("host", "ip_-d_-s_addr"),
        "networking/ip_-s_-d_link": recorded("host", "ip_-d_link"),
        "networking/ip_route_show_table_all": recorded("host", "ip_route_show_table_all"),
        "networking/ip_-6_route_show_table_all": recorded("host", "ip_route_show_table_all"),
        "networking/ip_-4_rule_list": recorded("host", "ip_rule"),
        "networking/ip_-6_rule_list": recorded("host", "ip_-6_rule"),
        "networking/ip_-s_-s_neigh_show": recorded("host", "ip_-s_-s_neigh"),
        "networking/bridge_-s_-s_-d_-t_fdb_show": recorded("host", "bridge_-s_fdb"),
        "networking/ss_-peaonmi": recorded("host", "ss_-tulpen"),
        f"{blue}_ip_-d_address_show": recorded("web", "ip_-d_link") + ADDR,
        f"{blue}_ip_route_show_table_all": recorded("web", "ip_route_show_table_all"),
        "firewall_tables/iptables_-t_nat_-nvL": recorded("host", "iptables_-t_nat_-nvL"),
        "firewall_tables/iptables_-t_mangle_-nvL": recorded("host", "iptables_-t_mangle_-nvL"),
        "firewall_tables/iptables_-vnxL": recorded("host", "iptables_-nvxL"),
        "kernel/sysctl_-a": recorded("host", "sysctl_-a"),
        "docker/docker_network_inspect_bridge": recorded("engine", "docker_network_inspect"),
        "docker/containers/docker_inspect_557da868c6d5": recorded("engine", "docker_inspect"),
        "docker/docker_info": recorded("engine", "docker_info"),
        "docker/docker_version": recorded("engine", "docker_version"),
        "docker/docker_ps_-a": recorded("engine", "docker_ps_-a"),
    }  # fmt: skip
    return {base + name: text for name, text in (*files.items(), *more)}


def test_a_sosreport() -> None:
    found = assembled(*sos().items())
    host, blue = host_of(found), space(found, "blue")
    assert [each for each in found.untold if "outside" not in each.reason] == []
    for section in ("links", "addresses", "routes", "rules", "neighbours", "fdb", "sockets", "netfilter"):
        assert isinstance(getattr(host, section), Present), section
    assert isinstance(host.sysctls, Values)
    assert len(rows(blue.links)) == 2
    assert {each.name for each in found.snapshot.intent.containers} == {"s1", "n1", "n2", "c2", "web", "c1", "app"}
    assert found.snapshot.host.kernel.startswith("6.")
    assert found.snapshot.host.engine == "docker 20.10.24+dfsg1"


def test_folders_name_namespaces_beside_a_folder_of_the_host() -> None:
    found = assembled(("r/host/ip_addr", recorded("host", "ip_addr")), ("r/web/ip_addr", ADDR), ("r/notes.txt", ROUTE))
    assert [(each.name, each.kind) for each in found.snapshot.namespaces] == [("host", "host"), ("web", "container")]
    assert len(rows(host_of(found).routes)) > 0
    alone = assembled(("web/ip_addr", ADDR))
    assert [each.name for each in alone.snapshot.namespaces] == ["host"]


def test_an_issue_as_people_write_them() -> None:
    found = of_text((HERE / "pastes" / "masquerade-flushed.md").read_text(), "issue.md")
    assert [(each.what, each.netns, each.rows) for each in found.listings] == [
        ("docker version", None, 1), ("docker info", None, 1), ("ip link", "host", 4), ("ip route", "host", 4),
        ("ip rule", "host", 3), ("sysctl", "host", 1), ("iptables -L", "host", 3), ("iptables -S", "host", 11),
        ("ip link", "web", 2), ("ip route", "web", 2), ("docker network inspect", None, 1),
    ]  # fmt: skip
    assert [each.reason for each in found.untold] == ["5 lines outside of any listing, the first of them"]


def test_recorded_files_are_all_known() -> None:
    for path in sorted(Path(HERE, "texts").glob("*/*")):
        found = recognise(Source(name=path.name, text=path.read_text()))
        assert found.blocks, path
        assert (found.stray, found.troubles) == (0, []), path
