"""What the netfilter tests build: packets, rulesets, and one call that walks a packet through a hook."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, Hook, HookResult, Tracking
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import HookContext, Ruleset, evaluate_hook, load_ruleset

NEW = Tracking(state=CtState.NEW)


def ip(text: str) -> IPAddress:
    return ip_address(text)


def tcp(
    src: str = "10.0.0.9", dst: str = "10.0.0.1", dport: int | None = 80, sport: int | None = 40000, **more: Any
) -> Packet:
    fields: dict[str, Any] = {"proto": 6, "tcp_flags": 2, "length": 60} | more
    return Packet(family=ip(src).version, src=ip(src), dst=ip(dst), sport=sport, dport=dport, **fields)


def udp(
    src: str = "10.0.0.9", dst: str = "10.0.0.1", dport: int | None = 53, sport: int | None = 40000, **more: Any
) -> Packet:
    return Packet(family=ip(src).version, src=ip(src), dst=ip(dst), proto=17, sport=sport, dport=dport, **more)


def ping(src: str = "10.0.0.9", dst: str = "10.0.0.1", **more: Any) -> Packet:
    version = ip(src).version
    fields: dict[str, Any] = {"icmp_type": 8 if version == 4 else 128, "icmp_code": 0, "icmp_id": 7} | more
    return Packet(family=version, src=ip(src), dst=ip(dst), proto=1 if version == 4 else 58, **fields)


def dump(text: str, *, backend: str = "nft", family: str = "ip") -> NetfilterDump:
    return NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend=backend, family=family, text=text)


def filter_table(*rules: str, policy: str = "ACCEPT", chains: tuple[str, ...] = (), table: str = "filter") -> str:
    hooks = {
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
        "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
        "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
        "raw": ("PREROUTING", "OUTPUT"),
    }[table]
    lines = [f"*{table}", *(f":{hook} {policy} [0:0]" for hook in hooks), *(f":{chain} - [0:0]" for chain in chains)]
    return "\n".join([*lines, *rules, "COMMIT", ""])


def ruleset(*texts: str, backend: str = "nft", family: str = "ip", ipset: str | None = None) -> Ruleset:
    dumps = [dump("".join(texts), backend=backend, family=family)]
    if ipset is not None:
        dumps.append(NetfilterDump(format=DumpFormat.IPSET_SAVE, backend="nft", family="all", text=ipset))
    return load_ruleset(dumps)


def walk(
    rules: Ruleset, packet: Packet, hook: Hook = Hook.FORWARD, tracking: Tracking = NEW, **context: Any
) -> HookResult:
    fields: dict[str, Any] = {
        "family": "ip" if packet.family == 4 else "ip6",
        "iif": "eth0" if hook not in (Hook.OUTPUT,) else None,
        "oif": "br0" if hook not in (Hook.PREROUTING, Hook.INPUT) else None,
    } | context
    return evaluate_hook(rules, hook, packet, tracking, HookContext(**fields))
