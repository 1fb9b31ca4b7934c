"""The same Docker network under both of Docker's backends: every packet must meet the same fate.

Docker's own test data has the rules of one network for every combination of its options, as iptables-save and as nft
tables. Each pair is walked with a grid of packets: from outside, from the host, from the container, its neighbour and
another network, to published and unpublished ports, new and as answers. Where the backends are meant to differ,
DESIGNED says so, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest

from nettrace.model.base import IPAddress
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, FilterVerdict, Hook, HookResult, RuleRef, Tracking
from nettrace.model.snapshot import DumpFormat, NetfilterDump, Tuple5
from nettrace.netfilter import HookContext, evaluate_hook, load_ruleset, nft_json
from nettrace.netfilter.nft_text import parse_text
from nettrace.netfilter.ruleset import Ruleset, UnknownMatch, UnknownStatement

DATA = Path(__file__).parents[3] / "shared" / "data" / "moby-goldens"


@dataclass(frozen=True)
class Host:
    """The addresses of the host; one for each IP version."""

    family: int
    outside: str
    host: str
    gateway: str
    container: str
    neighbour: str
    other: str
    other_gateway: str
    subnet: str
    other_subnet: str
    loopback: str
    far: str

    def device_of(self, address: IPAddress) -> str:
        """The device that a packet to an address leaves by."""
        if address in ip_network(self.subnet):
            return "br-dummy"
        if address in ip_network(self.other_subnet):
            return "br-other"
        return "lo" if self.is_local(address) else "eth0"

    def is_local(self, address: IPAddress) -> bool:
        local = {self.host, self.gateway, self.other_gateway, self.loopback}
        return str(address) in local or (address.version == 4 and address in ip_network("127.0.0.0/8"))

    def source_for(self, device: str) -> IPAddress:
        address = {"br-dummy": self.gateway, "br-other": self.other_gateway, "lo": self.loopback}
        return ip_address(address.get(device, self.host))

    def context(self, iif: str | None, oif: str | None, *, loopback: bool = False) -> HookContext:
        return HookContext(
            family="ip" if self.family == 4 else "ip6",
            iif=iif,
            oif=oif,
            bridged=iif == oif and iif is not None,
            loopback=loopback,
            pkttype="host",
            address_type=lambda address, _dev: "LOCAL" if self.is_local(address) else "UNICAST",
            is_local=lambda address, _dev: self.is_local(address),
            source_for=lambda device, _dst: self.source_for(device),
            primary_address=self.source_for,
        )


V4 = Host(
    family=4,
    outside="203.0.113.9",
    host="192.0.2.10",
    gateway="192.168.0.1",
    container="192.168.0.2",
    neighbour="192.168.0.3",
    other="172.30.0.5",
    other_gateway="172.30.0.1",
    subnet="192.168.0.0/24",
    other_subnet="172.30.0.0/16",
    loopback="127.0.0.1",
    far="8.8.8.8",
)
V6 = Host(
    family=6,
    outside="2001:db8:9::9",
    host="2001:db8:1::10",
    gateway="fd49:efd7:54aa::ffff",
    container="fd49:efd7:54aa::1",
    neighbour="fd49:efd7:54aa::3",
    other="fd30::5",
    other_gateway="fd30::1",
    subnet="fd49:efd7:54aa::/64",
    other_subnet="fd30::/64",
    loopback="::1",
    far="2001:4860::8888",
)


@dataclass(frozen=True)
class End:
    """What became of a packet: the verdict, the packet as it left, its entry, and who decided."""

    verdict: FilterVerdict
    packet: Packet
    tracking: Tracking
    decided_by: RuleRef | None
    hook: Hook
    assumptions: int

    def fate(self) -> tuple[object, ...]:
        """What must be alike under both of Docker's backends."""
        if self.verdict in (FilterVerdict.DROP, FilterVerdict.REJECT):
            return ("stopped",)
        one = self.packet
        return (self.verdict.value, str(one.src), str(one.dst), one.sport, one.dport)


def walk(ruleset: Ruleset, host: Host, packet: Packet, iif: str | None, tracking: Tracking) -> End:
    """Take a packet from the device it came in by (None: from a local process) to where it leaves or is delivered."""
    unsure = 0

    def ask(
        hook: Hook, one: Packet, trk: Tracking, ways: tuple[str | None, str | None], back: bool = False
    ) -> HookResult:
        nonlocal unsure
        result = evaluate_hook(ruleset, hook, one, trk, host.context(*ways, loopback=back))
        unsure += len(result.assumptions)
        return result

    def come_in(one: Packet, trk: Tracking, device: str, back: bool = False) -> HookResult:
        result = ask(Hook.PREROUTING, one, trk, (device, None), back)
        if result.verdict != FilterVerdict.ACCEPT:
            return result
        if host.is_local(result.packet.dst):
            return ask(Hook.INPUT, result.packet, result.tracking, (device, None))
        way = (device, host.device_of(result.packet.dst))
        return ask(Hook.FORWARD, result.packet, result.tracking, way)

    if iif is None:
        result = ask(Hook.OUTPUT, packet, tracking, (None, host.device_of(packet.dst)))
    else:
        result = come_in(packet, tracking, iif)
    if result.verdict == FilterVerdict.ACCEPT and result.hook != Hook.INPUT:
        oif = host.device_of(result.packet.dst)
        # A forwarded packet still carries the device it came in by (ip_output passes skb->dev on).
        result = ask(Hook.POSTROUTING, result.packet, result.tracking, (iif, oif))
        if result.verdict == FilterVerdict.ACCEPT and oif == "lo":
            result = come_in(result.packet, result.tracking, "lo", back=True)
    return End(result.verdict, result.packet, result.tracking, result.decided_by, result.hook, unsure)


def tuple_of(packet: Packet) -> Tuple5:
    return Tuple5(
        src=packet.src,
        dst=packet.dst,
        proto=packet.proto,
        sport=packet.sport,
        dport=packet.dport,
        icmp_type=packet.icmp_type,
        icmp_code=packet.icmp_code,
        icmp_id=packet.icmp_id,
    )


def reply_to(end: End) -> tuple[Packet, Tracking]:
    """The answer to a packet that arrived, with the entry it belongs to."""
    came = end.packet
    answer = msgspec.structs.replace(came, src=came.dst, dst=came.src, sport=came.dport, dport=came.sport)
    if came.icmp_type is not None:
        answer = msgspec.structs.replace(answer, icmp_type=0 if came.family == 4 else 129)
    if came.tcp_flags is not None:
        answer = msgspec.structs.replace(answer, tcp_flags=0x12)
    tracking = msgspec.structs.replace(end.tracking, state=CtState.ESTABLISHED, reply=True)
    return answer, tracking


# --- Packets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One packet of the grid. `name` says whence, whither and what."""

    name: str
    packet: Packet
    iif: str | None


def make(host: Host, src: str, dst: str, proto: int, dport: int | None) -> Packet:
    icmp = proto in (1, 58)
    return Packet(
        family=host.family,
        src=ip_address(src),
        dst=ip_address(dst),
        proto=proto,
        sport=None if icmp else 45678,
        dport=dport,
        icmp_type=(8 if host.family == 4 else 128) if icmp else None,
        icmp_code=0 if icmp else None,
        icmp_id=77 if icmp else None,
        tcp_flags=0x02 if proto == 6 else None,
        src_mac="02:00:00:00:00:01",
        dst_mac="02:00:00:00:00:02",
        uid=0,
        gid=0,
    )


@cache
def grid(host: Host) -> tuple[Case, ...]:
    sources = (
        ("outside", host.outside, "eth0"),
        ("outside-as-loopback", host.loopback, "eth0"),
        ("container", host.container, "br-dummy"),
        ("neighbour", host.neighbour, "br-dummy"),
        ("other-network", host.other, "br-other"),
        ("host", host.host, None),
        ("host-by-gateway", host.gateway, None),
        ("host-by-loopback", host.loopback, None),
    )
    targets = (
        ("container", host.container),
        ("neighbour", host.neighbour),
        ("host", host.host),
        ("gateway", host.gateway),
        ("loopback", host.loopback),
        ("other-network", host.other),
        ("far", host.far),
    )
    icmp = 1 if host.family == 4 else 58
    kinds = (("tcp80", 6, 80), ("tcp81", 6, 81), ("tcp8080", 6, 8080), ("udp8080", 17, 8080))
    found = []
    for whence, src, iif in sources:
        for whither, dst in targets:
            if src == dst and iif is not None and iif != "br-dummy":
                continue
            for name, proto, port in (*kinds, ("icmp", icmp, None)):
                found.append(Case(f"{whence}>{whither}:{name}", make(host, src, dst, proto, port), iif))
    return tuple(found)


# --- Pairs ----------------------------------------------------------------------------------------------------------


def pairs() -> Iterator[tuple[str, Path, Path, Host]]:
    for suffixes, host in ((("__iptables.golden", "__ip.golden"), V4), (("__ip6tables.golden", "__ip6.golden"), V6)):
        for path in sorted((DATA / "iptabler").glob(f"*{suffixes[0]}")):
            other = DATA / "nftabler" / path.name.replace(suffixes[0], suffixes[1])
            if other.exists():
                yield f"{path.name.removesuffix(suffixes[0])} v{host.family}", path, other, host


PAIRS = list(pairs()) if DATA.is_dir() else []


def iptables(text: str, host: Host) -> Ruleset:
    family = "ip" if host.family == 4 else "ip6"
    return load_ruleset([NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend="nft", family=family, text=text)])


def nftables(text: str) -> Ruleset:
    return load_ruleset([NetfilterDump(format=DumpFormat.NFT_TEXT, backend="nft", family="all", text=text)])


def options_of(name: str) -> dict[str, str]:
    return dict(each.split("=") for each in name.rpartition(" ")[0].split(",") if "=" in each)


def differences(one: Ruleset, two: Ruleset, host: Host) -> Iterator[tuple[str, End, End]]:
    """Every packet that the two rulesets treat differently: new ones, and the answers to those that arrive."""
    new = Tracking(state=CtState.NEW)
    for case in grid(host):
        first, second = (walk(rules, host, case.packet, case.iif, new) for rules in (one, two))
        if first.fate() != second.fate():
            yield f"new {case.name}", first, second
            continue
        if not case.name.endswith((":tcp80", ":icmp")):
            continue
        plain = Tracking(state=CtState.ESTABLISHED, orig=tuple_of(case.packet), reply_tuple=inverted(case.packet))
        first_going, second_going = (walk(rules, host, case.packet, case.iif, plain) for rules in (one, two))
        if first_going.fate() != second_going.fate():
            yield f"established {case.name}", first_going, second_going
        if first.verdict != FilterVerdict.ACCEPT:
            continue
        first_answer, second_answer = answer_to(first, one, host), answer_to(second, two, host)
        if first_answer.fate() != second_answer.fate():
            yield f"reply {case.name}", first_answer, second_answer


def answer_to(end: End, rules: Ruleset, host: Host) -> End:
    packet, tracking = reply_to(end)
    back = None if end.hook == Hook.INPUT else host.device_of(packet.src)
    return walk(rules, host, packet, back, tracking)


def inverted(packet: Packet) -> Tuple5:
    kind = packet.icmp_type if packet.icmp_type is None else (0 if packet.family == 4 else 129)
    return Tuple5(
        src=packet.dst,
        dst=packet.src,
        proto=packet.proto,
        sport=packet.dport,
        dport=packet.sport,
        icmp_type=kind,
        icmp_code=packet.icmp_code,
        icmp_id=packet.icmp_id,
    )


# --- Differences that are meant --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Designed:
    """A difference that Docker's two backends have by design, and which packets show it."""

    reason: str
    applies: Callable[[dict[str, str], str, End, End], bool]


def _internal_established(options: dict[str, str], what: str, one: End, two: End) -> bool:
    return (
        options.get("internal") == "true"
        and what.startswith("established ")
        and one.fate() == ("stopped",)
        and two.verdict == FilterVerdict.ACCEPT
    )


def _own_traffic_from_gateway(options: dict[str, str], what: str, one: End, two: End) -> bool:
    changed = options.get("masq") == "true" and options.get("gwm") in ("nat", "nat-unprotected")
    same = one.fate()[2:] == two.fate()[2:] and two.packet.src in (ip_address(V4.gateway), ip_address(V6.gateway))
    return changed and what.startswith("new host-by-gateway>") and one.verdict == two.verdict and same


DESIGNED = (
    Designed(
        "the nft backend accepts what conntrack calls established before it looks at an internal network's drops; "
        "the iptables backend writes no such rule for an internal network",
        _internal_established,
    ),
    Designed(
        "the iptables backend masquerades whatever has a source in the subnet, also what the host itself sends from "
        "the bridge's address; the nft backend only what came in by the bridge",
        _own_traffic_from_gateway,
    ),
)

pytestmark = pytest.mark.skipif(not PAIRS, reason=f"Docker's test data is not at {DATA}")


@pytest.mark.parametrize(("name", "left", "right", "host"), PAIRS, ids=[each[0] for each in PAIRS])
def test_both_backends_of_docker_agree(name: str, left: Path, right: Path, host: Host) -> None:
    options = options_of(name)
    unexplained = [
        f"{what}\n iptables {one.fate()} by {one.decided_by}\n nftables {two.fate()} by {two.decided_by}"
        for what, one, two in found_in(left.read_text(), right.read_text(), host)
        if not any(each.applies(options, what, one, two) for each in DESIGNED)
    ]
    assert unexplained == []


@cache
def found_in(left: str, right: str, host: Host) -> tuple[tuple[str, End, End], ...]:
    """The differences of a pair; several options often make the same rules."""
    return tuple(differences(iptables(left, host), nftables(right), host))


def test_every_designed_difference_shows() -> None:
    wanted = {each.reason for each in DESIGNED}
    for name, left, right, host in PAIRS:
        if "internal=true,icc=false" in name or "masq=true,snat=false,gwm=nat,bindlh=false" in name:
            for what, one, two in found_in(left.read_text(), right.read_text(), host):
                wanted -= {each.reason for each in DESIGNED if each.applies(options_of(name), what, one, two)}
        if not wanted:
            break
    assert wanted == set()


@pytest.mark.parametrize("path", sorted({right for _name, _left, right, _host in PAIRS}), ids=lambda path: path.name)
def test_no_rule_of_docker_is_unknown(path: Path) -> None:
    for table in nft_json.parse(parse_text(path.read_text())):
        for chain in table.chains.values():
            for rule in chain.rules:
                assert not [each for each in rule.exprs if isinstance(each, UnknownMatch | UnknownStatement)]
                assert "Unknown" not in repr(rule.exprs)
                assert rule.ref.owner == "docker"


def test_every_pair_of_the_data_is_compared() -> None:
    compared = {name for name, _left, _right, _host in PAIRS if not name.startswith("cleaned")}
    assert len([name for name in compared if name.endswith("v4")]) == 176
    assert len([name for name in compared if name.endswith("v6")]) == 100
