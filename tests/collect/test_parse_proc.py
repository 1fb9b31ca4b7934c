"""Counters as /proc prints them, and names as resolv.conf, hosts and DNS servers give them."""

from __future__ import annotations

import os
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest

from nettrace.collect.dns import (
    ResolverConfig,
    build_query,
    candidates,
    parse_hosts,
    parse_resolv_conf,
    parse_response,
    read_config,
)
from nettrace.collect.netfilter import Tools, is_whole
from nettrace.collect.proc import (
    parse_cache_stat,
    parse_conntrack_stat,
    parse_nfqueue,
    parse_snmp,
    parse_snmp6,
    parse_softnet,
    parse_xfrm,
)
from nettrace.collect.rooted import LIMIT_BYTES, read_rooted
from nettrace.collect.sockets import parse_peers
from nettrace.collect.upstreams import parse_arguments, parse_ext_servers, read_upstreams
from nettrace.model.intent import Container
from nettrace.model.snapshot import DumpFormat
from nettrace.netns import current


def test_backlogs_are_summed_over_processors() -> None:
    text = "0000000a 00000001 00000002 0 0\n00000005 00000000 00000001 0 0\n"
    assert parse_softnet(text) == {"softnet.processed": 15, "softnet.dropped": 1, "softnet.time_squeeze": 3}


def test_ipsec_and_user_space_queues() -> None:
    assert parse_xfrm("XfrmInError             \t3\n") == {"xfrm.XfrmInError": 3}
    found = parse_nfqueue("    5   1234     7 2 65531     1     2        9  1\n")
    assert found == {"nfqueue.5.waiting": 7, "nfqueue.5.dropped": 1, "nfqueue.5.user_dropped": 2}


def test_snmp_and_netstat() -> None:
    text = "Ip: Forwarding InReceives\nIp: 1 42\nTcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 0 7\n"
    assert parse_snmp(text) == {
        "Ip.Forwarding": 1,
        "Ip.InReceives": 42,
        "TcpExt.SyncookiesSent": 0,
        "TcpExt.IPReversePathFilter": 7,
    }
    assert parse_snmp("Tcp: MaxConn\nTcp: -1\n") == {"Tcp.MaxConn": -1}
    assert parse_snmp("") == {}


def test_snmp6() -> None:
    text = "Ip6InReceives                   \t3\nIcmp6OutType133    \t1\nUdpLite6InErrors 0\nnonsense\n"
    assert parse_snmp6(text) == {"Ip6.InReceives": 3, "Icmp6.OutType133": 1, "UdpLite6.InErrors": 0}


def test_counters_per_processor_are_summed() -> None:
    text = "entries found drop\n0000000a 00000001 00000002\n0000000a 00000000 0000000f\n"
    assert parse_conntrack_stat(text) == {"nf_conntrack.found": 1, "nf_conntrack.drop": 17}
    found = parse_cache_stat("entries table_fulls\n00000010 00000001\n00000010 00000002\n", "arp_cache")
    assert (found["arp_cache.entries"], found["arp_cache.table_fulls"]) == (16, 3)


def test_resolv_conf() -> None:
    text = "# made by hand\nsearch a.test b.test\nnameserver 127.0.0.11\nnameserver fe80::1\noptions ndots:2 edns0\n"
    assert parse_resolv_conf(text) == ((ip_address("127.0.0.11"), ip_address("fe80::1")), ("a.test", "b.test"), 2)
    assert parse_resolv_conf("") == ((ip_address("127.0.0.1"),), (), 1)
    assert len(parse_resolv_conf("nameserver 192.0.2.1\n" * 5)[0]) == 3


def test_hosts() -> None:
    text = "127.0.0.1 localhost\n::1 localhost ip6-loopback # both\n172.17.0.2\tWeb web.test\nbad line\n"
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1", "::1"),
        "ip6-loopback": ("::1",),
        "web": ("172.17.0.2",),
        "web.test": ("172.17.0.2",),
    }


def test_search_domains() -> None:
    config = ResolverConfig(search=("a.test", "b.test"), ndots=1)
    assert candidates("db", config) == ("db.a.test", "db.b.test", "db")
    assert candidates("db.x", config) == ("db.x", "db.x.a.test", "db.x.b.test")
    assert candidates("db.", config) == ("db",)


def test_files_come_from_the_first_folder_that_has_them(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hosts").write_text(f"192.0.2.{len(name)} here\n")
    (tmp_path / "second" / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    config = read_config([str(tmp_path / "none"), str(tmp_path / "first"), str(tmp_path / "second")])
    assert config.hosts == {"here": ("192.0.2.5",)}
    assert config.servers == (ip_address("192.0.2.53"),)
    assert config.sources == (f"{tmp_path}/second/resolv.conf", f"{tmp_path}/first/hosts")


def response(query: bytes, code: int, *records: tuple[int, bytes]) -> bytes:
    body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data for kind, data in records)
    return query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0) + query[12:] + body


def test_dns_answers() -> None:
    query = build_query("web.example.test.", 4, 0x1234)
    assert query[12:] == b"\x03web\x07example\x04test\x00\x00\x01\x00\x01"
    cname = (5, b"\x03cdn\xc0\x10")
    answer = response(query, 0, cname, (1, bytes([192, 0, 2, 7])), (28, bytes(16)))
    assert parse_response(answer, query, 4) == (0, (ip_address("192.0.2.7"),))
    assert parse_response(response(query, 3), query, 4) == (3, ())
    for broken in (b"", answer[:20], b"\0\0" + answer[2:], query, answer[:-20]):
        with pytest.raises(ValueError, match=r"short|query"):
            parse_response(broken, query, 4)
    assert build_query("bücher.test", 6, 1)[12:] == b"\x0dxn--bcher-kva\x04test\x00\x00\x1c\x00\x01"
    for name in ("", "a..b", "x" * 64, ".".join(["y" * 60] * 5)):
        with pytest.raises(ValueError, match=r"DNS name|label|idna"):
            build_query(name, 4, 1)


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_tools_are_found_by_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nettrace.collect.netfilter.SEARCH", ())
    tools = Tools(str(tmp_path))
    assert tools.find("nft") is None
    assert tools.save("iptables-save", "nft") is None
    legacy = program(tmp_path, "xtables-legacy-multi")
    (tmp_path / "iptables-save").symlink_to(legacy)
    # A plain name that leads to one backend is not taken for the other.
    assert tools.save("iptables-save", "nft") is None
    assert tools.save("iptables-save", "legacy") == [str(legacy), "iptables-save"]
    direct = program(tmp_path, "iptables-legacy-save")
    assert tools.save("iptables-save", "legacy") == [str(direct)]
    assert tools.save("ip6tables-save", "legacy") == [str(legacy), "ip6tables-save"]


def test_half_a_listing_is_known_as_such() -> None:
    document = b'{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "filter"}}]}\n'
    saved = b"# Generated\n*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n*nat\nCOMMIT\n"
    assert is_whole(document, DumpFormat.NFT_JSON)
    assert is_whole(saved, DumpFormat.IPTABLES_SAVE)
    for end in range(len(document) - 1):
        assert not is_whole(document[:end], DumpFormat.NFT_JSON)
    for end in range(saved.index(b"*nat")):
        cut = saved[:end]
        whole = cut.rstrip().endswith(b"COMMIT") or (cut and b"*" not in cut)
        assert is_whole(cut, DumpFormat.IPTABLES_SAVE) == bool(whole), cut


def test_a_container_s_links_stay_inside_its_root(tmp_path: Path) -> None:
    root = tmp_path / "proc" / "1" / "root"
    (root / "etc").mkdir(parents=True)
    (root / "run").mkdir()
    (root / "run" / "resolv.conf").write_text("nameserver 192.0.2.9\n")
    (root / "etc" / "resolv.conf").symlink_to("/run/../../run/resolv.conf")
    (root / "etc" / "hosts").symlink_to("/etc/hosts")
    assert read_rooted(str(root), "/etc/resolv.conf") == "nameserver 192.0.2.9\n"
    with pytest.raises(OSError, match="symbolic links"):
        read_rooted(str(root), "/etc/hosts")


def test_what_would_hang_or_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "resolv.conf")
    (tmp_path / "hosts").write_text("192.0.2.1 here\n" * 400_000)
    config = read_config([str(tmp_path)])
    assert config.unreadable == {"resolv.conf": f"{tmp_path}/resolv.conf: not a regular file"}
    assert config.hosts == {"here": ("192.0.2.1",)}
    assert LIMIT_BYTES - 20 < len(read_rooted(str(tmp_path), "hosts")) <= LIMIT_BYTES
    for path in ("/dev/zero", "/etc"):
        with pytest.raises(OSError, match="not a regular file"):
            read_rooted("/", path)


def test_whom_the_engine_s_server_asks() -> None:
    text = "nameserver 127.0.0.11\n# ExtServers: [192.0.2.1 host(127.0.0.53) 2001:db8::53]\n"
    found = [(str(each.server), each.netns) for each in parse_ext_servers(text, 7, 1)]
    assert found == [("192.0.2.1", 7), ("127.0.0.53", 1), ("2001:db8::53", 7)]
    assert parse_ext_servers("nameserver 127.0.0.11\n", 7, 1) == ()
    arguments = ["/usr/bin/dockerd", "--dns", "192.0.2.2", "--dns=192.0.2.3", "--config-file=/x.json"]
    assert parse_arguments(arguments) == (("192.0.2.2", "192.0.2.3"), "/x.json")
    assert parse_arguments(["dockerd"]) == ((), "/etc/docker/daemon.json")


def test_a_query_under_way_tells_only_what_is_not_certain() -> None:
    container = Container(id="x", name="x", engine="docker", dns=("192.0.2.1", "192.0.2.2"))
    asked = [ip_address("192.0.2.2"), ip_address("198.51.100.7")]
    with current() as host:
        told = [str(each.server) for each in read_upstreams("", container, 7, host, asked)]
        assert told == ["192.0.2.2", "192.0.2.1"]
        ext = "# ExtServers: [192.0.2.9 host(127.0.0.1)]\n"
        found = read_upstreams(ext, container, 7, host, asked)
        assert [(str(each.server), each.netns) for each in found] == [("192.0.2.9", 7), ("127.0.0.1", host.inode)]


def test_whom_connected_sockets_send_to() -> None:
    text = (
        "   sl  local_address rem_address   st tx_queue rx_queue\n"
        " 9487: 0B00007F:BAE8 00000000:0000 07 00000000:00000000\n"
        "13078: 030012AC:C8EF 08080808:0035 01 00000000:00000000\n"
    )
    assert parse_peers(text) == [(ip_address("8.8.8.8"), 53)]
