"""Sysctls and counters, as /proc shows them to a thread inside the namespace."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from nettrace.collect.links import DEVCONF4, DEVCONF6

__all__ = [
    "SYSCTLS",
    "module_available",
    "parse_cache_stat",
    "parse_conntrack_stat",
    "parse_nfqueue",
    "parse_snmp",
    "parse_snmp6",
    "parse_softnet",
    "parse_xfrm",
    "read_counters",
    "read_sysctls",
    "read_text",
]

#: Sysctls that decide the way of a packet, beside those of each device. Absent ones are left out.
SYSCTLS: tuple[str, ...] = (
    "net.ipv4.ip_forward",
    "net.ipv4.ip_default_ttl",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.ip_no_pmtu_disc",
    "net.ipv4.ip_forward_use_pmtu",
    "net.ipv4.ip_forward_update_priority",
    "net.ipv4.ip_early_demux",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.fwmark_reflect",
    "net.ipv4.tcp_fwmark_accept",
    "net.ipv4.tcp_mtu_probing",
    "net.ipv4.tcp_l3mdev_accept",
    "net.ipv4.udp_l3mdev_accept",
    "net.ipv4.fib_multipath_hash_policy",
    "net.ipv4.fib_multipath_use_neigh",
    "net.ipv4.icmp_echo_ignore_all",
    "net.ipv4.icmp_echo_ignore_broadcasts",
    "net.ipv4.icmp_errors_use_inbound_ifaddr",
    "net.ipv4.icmp_ratelimit",
    "net.ipv4.icmp_ratemask",
    "net.ipv4.neigh.default.gc_thresh1",
    "net.ipv4.neigh.default.gc_thresh2",
    "net.ipv4.neigh.default.gc_thresh3",
    "net.ipv6.bindv6only",
    "net.ipv6.fwmark_reflect",
    "net.ipv6.ip_nonlocal_bind",
    "net.ipv6.fib_multipath_hash_policy",
    "net.ipv6.icmp.echo_ignore_all",
    "net.ipv6.icmp.ratelimit",
    "net.ipv6.neigh.default.gc_thresh1",
    "net.ipv6.neigh.default.gc_thresh2",
    "net.ipv6.neigh.default.gc_thresh3",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.bridge.bridge-nf-call-arptables",
    "net.bridge.bridge-nf-filter-vlan-tagged",
    "net.bridge.bridge-nf-filter-pppoe-tagged",
    "net.bridge.bridge-nf-pass-vlan-input-dev",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_buckets",
    "net.netfilter.nf_conntrack_checksum",
    "net.netfilter.nf_conntrack_helper",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_loose",
    *(f"net.ipv4.conf.{name}.{key}" for name in ("all", "default") for key in DEVCONF4.values()),
    *(f"net.ipv6.conf.{name}.{key}" for name in ("all", "default") for key in DEVCONF6.values()),
)

_READ_BYTES = 1 << 16


def read_text(path: str) -> str:
    """Return a whole file of /proc as text; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode(errors="replace")


def read_sysctls(names: Iterable[str] = SYSCTLS) -> dict[str, str]:
    """Return the values of sysctls in the calling thread's namespace, without those that this kernel lacks."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = read_text("/proc/sys/" + name.replace(".", "/")).strip()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            # Some files exist and refuse (write-only ones; IPv6 switched off at boot): no value is then known.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EIO, errno.EINVAL):
                raise
    return found


def read_counters() -> dict[str, int]:
    """Return the counters of the calling thread's namespace, keyed "Ip.InNoRoutes", "nf_conntrack.drop" and so on.

    Raises OSError when /proc/net/snmp itself cannot be read; the other files are absent on some kernels.
    """
    base = "/proc/thread-self/net/"
    found = parse_snmp(read_text(base + "snmp"))
    for path, parse in (
        ("netstat", parse_snmp),
        ("snmp6", parse_snmp6),
        ("stat/nf_conntrack", parse_conntrack_stat),
        ("stat/arp_cache", lambda text: parse_cache_stat(text, "arp_cache")),
        ("stat/ndisc_cache", lambda text: parse_cache_stat(text, "ndisc_cache")),
        ("softnet_stat", parse_softnet),
        ("xfrm_stat", parse_xfrm),
        ("netfilter/nfnetlink_queue", parse_nfqueue),
    ):
        try:
            found |= parse(read_text(base + path))
        except FileNotFoundError:
            continue
    if "IpExt.InNoRoutes" in found:
        # The one counter of the IP group that the kernel files under its extensions; IPv6 has it as Ip6.InNoRoutes.
        found["Ip.InNoRoutes"] = found["IpExt.InNoRoutes"]
    limits = read_sysctls(("net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"))
    for name, value in limits.items():
        if value.isdigit():
            found[f"nf_conntrack.{name.rpartition('_')[2]}"] = int(value)
    return found


def parse_snmp(text: str) -> dict[str, int]:
    """Parse /proc/net/snmp or /proc/net/netstat: pairs of lines, names and values, each with its group in front."""
    found: dict[str, int] = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        group, _, rest = names.partition(":")
        same, _, numbers = values.partition(":")
        if group == same:
            found |= {f"{group}.{name}": int(value) for name, value in zip(rest.split(), numbers.split(), strict=False)}
    return found


def parse_softnet(text: str) -> dict[str, int]:
    """Parse /proc/net/softnet_stat: a line of hexadecimal numbers per processor, summed (softnet_seq_show).

    They count for all namespaces of the machine together.
    """
    names = ("processed", "dropped", "time_squeeze")
    lines = [[int(word, 16) for word in line.split()[: len(names)]] for line in text.splitlines()]
    return {f"softnet.{name}": sum(line[at] for line in lines if at < len(line)) for at, name in enumerate(names)}


def parse_xfrm(text: str) -> dict[str, int]:
    """Parse /proc/net/xfrm_stat: a name and a number a line, of IPsec's own losses."""
    pairs = (line.split() for line in text.splitlines())
    return {f"xfrm.{words[0]}": int(words[1]) for words in pairs if len(words) == 2}


def parse_nfqueue(text: str) -> dict[str, int]:
    """Parse /proc/net/netfilter/nfnetlink_queue (seq_show of nfnetlink_queue.c), by the queue's number.

    Columns: queue, port id, waiting, copy mode, copy range, dropped (no room), user dropped (nobody took it), …
    """
    found: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 7:
            for name, at in (("waiting", 2), ("dropped", 5), ("user_dropped", 6)):
                found[f"nfqueue.{words[0]}.{name}"] = int(words[at])
    return found


def parse_snmp6(text: str) -> dict[str, int]:
    """Parse /proc/net/snmp6: one "Ip6InNoRoutes  0" a line."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.replace("\t", " ").partition(" ")
        group, six, rest = name.partition("6")
        if six and rest and value.strip().isdigit():
            found[f"{group}6.{rest}"] = int(value)
    return found


def parse_conntrack_stat(text: str) -> dict[str, int]:
    """Parse /proc/net/stat/nf_conntrack: a line of names, then one line of hexadecimal numbers per processor.

    Everything is summed but `entries`, which is the same on every line, and is read as nf_conntrack.count elsewhere.
    """
    return _per_cpu(text, "nf_conntrack", shared=("entries",))


def parse_cache_stat(text: str, name: str) -> dict[str, int]:
    """Parse /proc/net/stat/arp_cache or ndisc_cache, in the same layout; these count for all namespaces together."""
    found = _per_cpu(text, name, shared=())
    lines = text.splitlines()
    if len(lines) > 1:
        found[f"{name}.entries"] = int(lines[1].split()[0], 16)
    return found


def _per_cpu(text: str, group: str, shared: tuple[str, ...]) -> dict[str, int]:
    lines = text.splitlines()
    if not lines:
        return {}
    names = lines[0].split()
    rows = [[int(word, 16) for word in line.split()] for line in lines[1:]]
    return {
        f"{group}.{name}": sum(row[column] for row in rows if column < len(row))
        for column, name in enumerate(names)
        if name not in shared
    }


def module_available(name: str) -> bool:
    """Tell whether a kernel module is loaded or built in, so that using it makes the kernel load nothing.

    A kernel without loadable modules has no /proc/modules; there every question is harmless.
    """
    if Path(f"/sys/module/{name}").exists() or not Path("/proc/modules").exists():
        return True
    try:
        built_in = read_text(f"/lib/modules/{os.uname().release}/modules.builtin")
    except OSError:
        # The kernel's own list is not here (a container without /lib/modules): it may be built in.
        return True
    return f"/{name}.ko" in built_in.replace("-", "_")
