"""Every dump of a namespace merged, and who wrote which rule."""

from __future__ import annotations

import json

import pytest

from nettrace.errors import InputError
from nettrace.model.netfilter import FilterVerdict, Hook
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import load_ruleset, owner_of
from tests.netfilter.packets import dump, filter_table, tcp, walk


def nft(*objects: dict[str, object]) -> NetfilterDump:
    text = json.dumps({"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}, *objects]})
    return NetfilterDump(format=DumpFormat.NFT_JSON, backend="nft", family="all", text=text)


def chain(name: str, table: str = "filter", **more: object) -> dict[str, object]:
    return {"chain": {"family": "ip", "table": table, "name": name, "handle": 1, **more}}


def rule(name: str, handle: int, *expr: dict[str, object], table: str = "filter") -> dict[str, object]:
    return {"rule": {"family": "ip", "table": table, "chain": name, "handle": handle, "expr": list(expr)}}


TABLE = {"table": {"family": "ip", "name": "filter", "handle": 1}}
FORWARD = chain("FORWARD", type="filter", hook="forward", prio=7, policy="accept")
XT = {"xt": {"type": "match", "name": "comment"}}


def test_a_table_in_both_views_is_taken_once_with_handles_and_priority() -> None:
    made = load_ruleset(
        [
            dump(filter_table("-A FORWARD -m comment --comment x -j DROP")),
            nft(TABLE, FORWARD, rule("FORWARD", 42, XT, {"counter": {"packets": 0, "bytes": 0}}, {"drop": None})),
        ]
    )
    assert len(made.tables) == 1
    forward = made.tables[0].chains["FORWARD"]
    assert [each.ref.handle for each in forward.rules] == [42]
    assert forward.rules[0].ref.text == "-A FORWARD -m comment --comment x -j DROP"
    assert forward.base is not None
    assert forward.base.priority == 7
    assert walk(made, tcp()).verdict == FilterVerdict.DROP


def test_chains_that_only_nft_lists_are_kept() -> None:
    extra = chain("extra", type="filter", hook="forward", prio=20, policy="drop")
    made = load_ruleset([dump(filter_table()), nft(TABLE, FORWARD, extra)])
    result = walk(made, tcp())
    assert result.verdict == FilterVerdict.DROP
    assert result.decided_by is not None
    assert result.decided_by.chain == "extra"


def test_the_legacy_table_of_the_same_name_is_another() -> None:
    made = load_ruleset(
        [
            dump(filter_table("-A FORWARD -j DROP"), backend="legacy"),
            nft(TABLE, FORWARD),
        ]
    )
    assert sorted(table.backend for table in made.tables) == ["legacy", "nft"]
    assert walk(made, tcp()).verdict == FilterVerdict.DROP


def test_ip6_dumps_are_for_ipv6_packets() -> None:
    made = load_ruleset([dump(filter_table("-A FORWARD -j DROP"), family="ip6")])
    assert walk(made, tcp()).verdict == FilterVerdict.ACCEPT
    assert walk(made, tcp("fd00::1", "fd00::2")).verdict == FilterVerdict.DROP


def test_an_error_names_the_dump() -> None:
    with pytest.raises(InputError, match=r"iptables-save \(legacy, ip\): line 2"):
        load_ruleset([dump("*filter\nnonsense\nCOMMIT\n", backend="legacy")])


def test_nothing_listed_lets_everything_pass() -> None:
    result = walk(load_ruleset([]), tcp(), Hook.INPUT)
    assert (result.verdict, result.decided_by, result.trail) == (FilterVerdict.ACCEPT, None, ())


@pytest.mark.parametrize(
    ("table", "name", "text", "owner"),
    [
        ("filter", "DOCKER", "-A DOCKER -j DROP", "docker"),
        ("filter", "DOCKER-FORWARD", "", "docker"),
        ("filter", "DOCKER-USER", "-A DOCKER-USER -j DROP", "user"),
        ("filter", "FORWARD", "-A FORWARD -o docker0 -j DOCKER", "docker"),
        ("filter", "FORWARD", "-A FORWARD -i br-0123456789ab -j ACCEPT", "docker"),
        ("filter", "FORWARD", "-A FORWARD -j DROP", "user"),
        ("docker-bridges", "filter-FORWARD", "", "docker"),
        ("filter", "NETAVARK_FORWARD", "", "podman"),
        ("nat", "CNI-HOSTPORT-DNAT", "", "cni"),
        ("filter", "ufw-user-input", "", "ufw"),
        ("filter", "FORWARD", "-A FORWARD -j ufw-before-forward", "ufw"),
        ("firewalld", "filter_FORWARD", "", "firewalld"),
        ("filter", "FORWARD_direct", "", "firewalld"),
        ("nat", "KUBE-SERVICES", "", "kube"),
        ("filter", "cali-FORWARD", "", "calico"),
        ("filter", "CILIUM_FORWARD", "", "cilium"),
        ("filter", "FLANNEL-FWD", "", "flannel"),
        ("filter", "LIBVIRT_FWI", "", "libvirt"),
        ("filter", "FORWARD", "-A FORWARD -i virbr0 -j REJECT", "libvirt"),
        ("lxd", "fwd.lxdbr0", "", "lxd"),
        ("filter", "ts-forward", "", "tailscale"),
        ("filter", "f2b-sshd", "", "fail2ban"),
        ("wg-quick-wg0", "premangle", "", "wireguard"),
        ("filter", "LOCALINPUT", "", "csf"),
        ("filter", "FORWARD", "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT", "docker"),
        ("nat", "POSTROUTING", "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "docker"),
        ("raw", "PREROUTING", "-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP", "docker"),
        # Whoever names Docker's bridge is not Docker.
        ("filter", "FORWARD", "-A FORWARD -i docker0 -p tcp -j DROP", "user"),
        ("raw", "PREROUTING", "-A PREROUTING ! -d 10.0.0.0/8 -i docker0 -j DROP", "user"),
        ("guard", "c", 'iifname "docker0" ip daddr 8.8.8.8 dnat to 203.0.113.88', "user"),
    ],
)
def test_owners(table: str, name: str, text: str, owner: str) -> None:
    assert owner_of("nft", "ip", table, name, text, "") == owner
