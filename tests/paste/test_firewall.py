"""Rules in all forms that iptables prints: the same rules come of them, and what a form hides stays unknown."""

from __future__ import annotations

import re

import pytest

from nettrace.model.base import Missing, Present, rows
from nettrace.model.snapshot import DumpFormat
from nettrace.netfilter import load_ruleset
from nettrace.paste.iptables_text import UNREAD

from .read import host_of, of_files, of_text, recorded

TABLES = ("filter", "nat", "mangle", "raw")


def dump(found: object, family: str = "ip") -> str:
    listing = next(each for each in rows(host_of(found).netfilter) if each.family == family)  # type: ignore[arg-type]
    assert listing.format is DumpFormat.IPTABLES_SAVE
    return listing.text


def plain_rules(text: str) -> list[str]:
    """Return the rules of a dump without counters, and without what one form spells out and another does not."""
    lines = [re.sub(r"^\[\d+:\d+\] ", "", line) for line in text.splitlines()]
    return sorted(re.sub(r" -m (tcp|udp)(?= )|/32(?= )", "", line) for line in lines if line.startswith("-A"))


SAVED = plain_rules(recorded("host", "iptables-save_-c"))


@pytest.mark.parametrize(
    "names",
    [
        ("iptables_-S", "iptables_-t_nat_-S", "iptables_-t_mangle_-S", "iptables_-t_raw_-S"),
        ("iptables_-S", "iptables_-t_nat_-S_-v", "iptables_-t_mangle_-S", "iptables_-t_raw_-S"),
        ("iptables_-nvL", "iptables_-t_nat_-nvL", "iptables_-t_mangle_-nvL", "iptables_-t_raw_-nvL"),
        ("iptables_-nvxL", "iptables_-t_nat_-nvL_--line-numbers", "iptables_-t_mangle_-nvL", "iptables_-t_raw_-nvL"),
        ("iptables_-nvL_--line-numbers", "iptables_-t_nat_-nvL", "iptables_-t_mangle_-S", "iptables_-t_raw_-nvL"),
    ],
)
def test_every_form_gives_the_rules_of_iptables_save(names: tuple[str, ...]) -> None:
    apart, run_together = of_files("host", *names), of_text("\n".join(recorded("host", name) for name in names))
    for found in (apart, run_together):
        assert found.untold == ()
        assert plain_rules(dump(found)) == SAVED
        text = dump(found)
        assert ":FORWARD DROP [0:0]" in text
        assert len(re.findall(r"^\*", text, re.M)) == 4


def test_tables_that_are_not_shown_are_unknown_and_told() -> None:
    found = of_files("host", "iptables_-S")
    unread = [line for line in dump(found).splitlines() if UNREAD in line]
    assert {line.partition('--text "')[2].partition('"')[0] for line in unread} == {
        "table raw",
        "table mangle",
        "table nat",
    }
    reasons = [gap.reason for gap in found.snapshot.gaps if gap.section == "netfilter/part"]
    assert "raw, mangle, nat of iptables are not in the paste: run `iptables-save -c`" in reasons
    assert "iptables-save -c" in [need.command for need in found.needs]


def test_without_v_no_rule_is_sure_since_interfaces_are_hidden() -> None:
    found = of_files("host", "iptables_-L_-n", "iptables_-t_nat_-L_-n")
    rules = [line for line in dump(found).splitlines() if line.startswith("-A FORWARD")]
    assert all(f"-m {UNREAD}" in line for line in rules)
    assert any("leaves interfaces and details of matches out" in gap.reason for gap in found.snapshot.gaps)


def test_names_of_hosts_and_services_are_not_guessed() -> None:
    text = dump(of_text(
        "$ iptables -L\nChain FORWARD (policy ACCEPT)\ntarget     prot opt source               destination\n"
        "DROP       tcp  --  box.example.org      anywhere             tcp dpt:frobnicate\n"
        "ACCEPT     tcp  --  anywhere             localhost            tcp dpt:http\n"
    ))  # fmt: skip
    first, second = (line for line in text.splitlines() if line.startswith("-A FORWARD") and "table" not in line)
    assert "box.example.org" in first
    assert "--dport" not in first
    assert "-d 127.0.0.1/32" in second
    assert "--dport 80" in second


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("DROP all -- * * 0.0.0.0/0 0.0.0.0/0 state INVALID", "-m state --state INVALID -j DROP"),
        ("DROP 6 -- eth0 !docker0 10.0.0.0/8 !10.1.0.0/16 tcp dpts:1:1024",
         "-s 10.0.0.0/8 ! -d 10.1.0.0/16 -i eth0 ! -o docker0 -p tcp -m tcp --dport 1:1024 -j DROP"),
        ("REJECT all -- * * 0.0.0.0/0 0.0.0.0/0 reject-with icmp-host-prohibited",
         "-j REJECT --reject-with icmp-host-prohibited"),
        ("DNAT tcp -- !docker0 * 0.0.0.0/0 0.0.0.0/0 tcp dpt:80 to:172.17.0.2:8080",
         "! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:8080"),
        ("SNAT all -- * eth0 172.17.0.0/16 0.0.0.0/0 to:192.0.2.9",
         "-s 172.17.0.0/16 -o eth0 -j SNAT --to-source 192.0.2.9"),
        ("MARK all -- * * 0.0.0.0/0 0.0.0.0/0 MARK set 0x1", "-j MARK --set-xmark 0x1"),
        ("DROP all -- * * 0.0.0.0/0 0.0.0.0/0 match-set bad src", "-m set --match-set bad src -j DROP"),
        ("DROP udp -- * * 0.0.0.0/0 0.0.0.0/0 multiport dports 53,5353 /* no names */",
         "-p udp -m multiport --dports 53,5353 -j DROP"),
        ("RETURN all -- * * 0.0.0.0/0 0.0.0.0/0 mark match 0x1/0xff", "-m mark --mark 0x1/0xff -j RETURN"),
        ("DOCKER all -- * * 0.0.0.0/0 0.0.0.0/0 [goto]  ADDRTYPE match dst-type LOCAL limit-in",
         "-m addrtype --dst-type LOCAL --limit-iface-in -g DOCKER"),
        ("icmp -- * * 0.0.0.0/0 0.0.0.0/0 icmptype 8", "-p icmp -m icmp --icmp-type 8"),
        ("LOG all -- * * 0.0.0.0/0 0.0.0.0/0 LOG flags 0 level 4 prefix \"x \"", "-j LOG"),
        ("DROP all -- * * 0.0.0.0/0 0.0.0.0/0 frobnicate 7",
         f'-m {UNREAD} --text "frobnicate 7" -j DROP'),
    ],
)  # fmt: skip
def test_rows_of_a_listing(row: str, rule: str) -> None:
    text = dump(of_text(
        "$ iptables -nvL -t filter\nChain FORWARD (policy ACCEPT 0 packets, 0 bytes)\n"
        " pkts bytes target     prot opt in     out     source               destination\n"
        f"   12K  345M {row}\n"
        "Chain DOCKER (1 references)\n pkts bytes target     prot opt in     out     source               destination\n"
    ))  # fmt: skip
    assert f"-A FORWARD {rule}" in text.splitlines()


def test_ip6tables_of_old_leave_a_column_out() -> None:
    text = dump(of_text(
        "$ ip6tables -nvL\nChain INPUT (policy ACCEPT 0 packets, 0 bytes)\n"
        " pkts bytes target     prot opt in     out     source               destination\n"
        "    0     0 DROP       tcp      eth0   *       2001:db8::/32        ::/0                 tcp dpt:22\n"
    ), "ip6")  # fmt: skip
    assert "[0:0] -A INPUT -s 2001:db8::/32 -i eth0 -p tcp -m tcp --dport 22 -j DROP" in text.splitlines()


def test_a_dump_that_breaks_off_is_unknown_from_there_on() -> None:
    whole = recorded("host", "iptables-save_-c")
    found = of_text(whole[: whole.index("-A DOCKER-ISOLATION-STAGE-2")] + "-A DOCKER-ISO")
    assert "the table is cut short: no COMMIT" in [each.reason for each in found.untold]
    unread = [line for line in dump(found).splitlines() if UNREAD in line]
    assert any(line.startswith("-A DOCKER-ISOLATION-STAGE-2") for line in unread)
    load_ruleset(rows(host_of(found).netfilter))


def test_a_rule_that_cannot_be_read_is_told_and_stays_as_unknown() -> None:
    found = of_text(
        '*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 192.0.2.5 -m comment --comment "no end -j DROP\n'
        "this is no rule\n-A FORWARD -j ACCEPT\nCOMMIT\n"
    )
    assert [(each.line, each.text) for each in found.untold] == [(4, "this is no rule")]
    assert any("192.0.2.5" in gap.reason for gap in found.snapshot.gaps)
    first, second = (line for line in dump(found).splitlines() if line.startswith("-A"))
    assert UNREAD in first
    assert second == "-A FORWARD -j ACCEPT"


def test_backends_are_told_by_the_tools_own_words() -> None:
    found = of_text(
        "# Generated by iptables-save v1.8.9 on Wed Nov 25 17:26:54 2026\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
        "# Generated by iptables-save v1.8.9 (nf_tables) on Wed Nov 25\n*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
        "# Generated by ip6tables-save v1.4.21 on Wed Nov 25\n*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
    )
    assert [(each.backend, each.family) for each in rows(host_of(found).netfilter)] == [
        ("nft", "ip"), ("legacy", "ip"), ("legacy", "ip6"),
    ]  # fmt: skip


def test_a_warning_of_legacy_tables_leaves_them_unknown() -> None:
    found = of_text(
        "# Generated by iptables-save v1.8.7 (nf_tables) on Wed Nov 25\n*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
        "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n"
    )
    legacy = next(each for each in rows(host_of(found).netfilter) if each.backend == "legacy")
    assert UNREAD in legacy.text
    assert any("iptables-legacy-save" in gap.reason for gap in found.snapshot.gaps)


def test_nft_in_text_and_json_tells_of_both_families() -> None:
    for name in ("nft_list_ruleset", "nft_-j_list_ruleset"):
        found = of_files("host", name)
        assert isinstance(host_of(found).netfilter, Present)
        assert not [gap for gap in found.snapshot.gaps if gap.section.startswith("netfilter")]
    only = of_files("host", "iptables-save_-c")
    assert {gap.section for gap in only.snapshot.gaps} >= {"netfilter/6", "netfilter/part"}
    assert isinstance(only.snapshot.narrowed(family=6, proto="icmp").namespaces[0].netfilter, Missing)
    assert isinstance(only.snapshot.narrowed(family=4, proto="icmp").namespaces[0].netfilter, Present)


def test_a_ruleset_that_nft_would_not_print_is_missing_with_its_reason() -> None:
    found = of_text("table ip t {\n\tchain c {\n\t\ttype filter hook nowhere priority 0; policy drop;\n\t}\n}\n")
    assert isinstance(host_of(found).netfilter, Missing)
    assert any("could not be read" in gap.reason for gap in found.snapshot.gaps)
    assert found.untold != ()
