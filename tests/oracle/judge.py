"""Loads cases into the router, sends their packets, and compares what arrives with what the evaluator says."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

import msgspec

from nettrace import netns
from nettrace.model.flow import Packet
from nettrace.model.netfilter import CtState, Tracking
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import Ruleset, load_ruleset
from tests.oracle import wire
from tests.oracle.model import Outcome, Router, first_state, reply_tracking
from tests.oracle.rig import CLIENT_MAC, OWN, SERVER_MAC, Rig, rig, route
from tests.oracle.xt_grammar import Case, Grammar

PAYLOAD = b"nettrace oracle.."


class Loader(Protocol):
    """Puts a case into the kernel, and reads back what the kernel then holds."""

    def __call__(self, one: Rig, case: Case) -> Ruleset: ...


class Refused(Exception):
    """The kernel refuses a case; the message is its tool's. That is no fault of the evaluator."""


@dataclass
class Report:
    """What came of a run: how often each outcome was predicted, what was skipped, and every difference."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        skipped = ", ".join(f"{name} {count}" for name, count in sorted(self.skipped.items()))
        return f"{self.cases} cases: {counts}; skipped: {skipped or 'none'}; differences: {len(self.differences)}"


def run(cases: int, seed: int, *, backends: tuple[str, ...] = ("nft", "legacy", "both"), stop_after: int = 5) -> Report:
    """Judge random iptables cases; needs root. The same seed makes the same cases."""
    with rig() as one:
        return judge_all(one, random_cases(cases, seed, backends), load_xt, stop_after)


def judge_all(one: Rig, cases: Iterable[Case], load: Loader, stop_after: int) -> Report:
    """Judge cases one after the other, until so many differ; the first difference of a case is shrunk."""
    report = Report()
    for case in cases:
        before = len(report.differences)
        judge(one, case, load, report)
        if len(report.differences) > before:
            smallest = shrunk(one, case, load)
            if smallest is not None:
                report.differences[before] = f"shrunk: {smallest}"
            else:
                report.differences[before] += "\n(it differs no more when it is judged again)"
        if len(report.differences) >= stop_after:
            break
    return report


def shrunk(one: Rig, case: Case, load: Loader) -> str | None:
    """Take rules and flows away for as long as the case still differs; return the last difference, described.

    None when the case itself differs no more.
    """

    def differs(candidate: Case) -> str | None:
        report = Report()
        judge(one, candidate, load, report)
        return report.differences[0] if report.differences else None

    told = differs(case)
    smaller = told is not None
    while smaller:
        smaller = False
        for candidate in _smaller(case):
            again = differs(candidate)
            if again is not None:
                case, told, smaller = candidate, again, True
                break
    return told


def _smaller(case: Case) -> Iterator[Case]:
    """Yield the case with one flow, or with the rules of half, a quarter, ... of the dump, or one rule, less."""
    if len(case.flows) > 1:
        for at in range(len(case.flows)):
            yield replace(case, flows=[*case.flows[:at], *case.flows[at + 1 :]])
    for name in ("rules", "legacy_rules"):
        lines = getattr(case, name).split("\n")
        # Lines of nft with a brace open or close something; what the kernel refuses does not differ.
        rules = [
            at for at, line in enumerate(lines) if line.startswith("-A ") or (line[:1] == "\t" and "{" not in line)
        ]
        size = len(rules)
        while size > 1:
            size = (size + 1) // 2
            for begin in range(0, len(rules), size):
                gone = set(rules[begin : begin + size])
                yield replace(case, **{name: "\n".join(each for at, each in enumerate(lines) if at not in gone)})
            if size == 1:
                break


def random_cases(count: int, seed: int, backends: tuple[str, ...]) -> Iterator[Case]:
    """The cases of a seed, one by one; each has a seed of its own, so that one can be made again alone."""
    for at in range(count):
        random = Random(f"{seed}/{at}")
        family = 4 if random.random() < 0.7 else 6
        yield Grammar(random, family, backends[at % len(backends)]).case(random.choice((3, 6, 6)))


# --- loading ---------------------------------------------------------------------------------------------------------


def load_xt(one: Rig, case: Case) -> Ruleset:
    """Load a case with iptables-restore, and read it back as nettrace does; raises Refused."""
    name, family = ("iptables", "ip") if case.family == 4 else ("ip6tables", "ip6")
    parts = {"nft": case.rules, "legacy": case.legacy_rules}
    if case.backend == "legacy":
        parts = {"legacy": case.rules}
    dumps: list[NetfilterDump] = []
    for backend, text in parts.items():
        if not text:
            continue
        try:
            one.tool(f"{name}-{backend}-restore", text=text)
        except subprocess.CalledProcessError as error:
            raise Refused(" ".join(error.stderr.split())[:140]) from error
        saved = one.tool(f"{name}-{backend}-save", "-c")
        dumps.append(NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend=backend, family=family, text=saved))
        if backend == "nft":
            listed = one.tool("nft", "-j", "list", "ruleset")
            dumps.append(NetfilterDump(format=DumpFormat.NFT_JSON, backend="nft", family="all", text=listed))
    sets = one.tool("ipset", "save")
    dumps.append(NetfilterDump(format=DumpFormat.IPSET_SAVE, backend="nft", family="all", text=sets))
    return load_ruleset(dumps)


def clear(one: Rig) -> None:
    """Take every rule out of the router. ipsets stay: they are the same for every case."""
    empty = "".join(
        f"*{table}\n{''.join(f':{hook} ACCEPT [0:0]' + chr(10) for hook in hooks)}COMMIT\n"
        for table, hooks in _LEGACY.items()
    )
    for name in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
        one.tool(name, text=empty)
    one.tool("nft", "flush", "ruleset")


_LEGACY = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


# --- judging ---


@dataclass
class _Flow:
    number: int
    origin: str
    first: Packet
    expected: Outcome
    dead: bool = False
    seen: Packet | None = None
    clash: bool = False

    @property
    def iif(self) -> str | None:
        return {"c": "cl0", "s": "sv0"}.get(self.origin)


def judge(one: Rig, case: Case, load: Loader, report: Report) -> None:
    """Load a case, send its packets, and note every difference in the report."""
    if case.ipsets:
        one.tool("ipset", "restore", "-exist", text=case.ipsets)
    report.cases += 1
    try:
        ruleset = load(one, case)
    except Refused as error:
        report.skipped[f"refused: {error}"] += 1
        clear(one)
        return
    try:
        one.sights(0, 0.0)
        _Judge(one, case, ruleset, report).run()
    finally:
        clear(one)
        one.tool("conntrack", "-F")


class _Judge:
    def __init__(self, one: Rig, case: Case, ruleset: Ruleset, report: Report) -> None:
        self.rig = one
        self.case = case
        self.router = Router(ruleset, case.family)
        self.report = report
        self.flows: list[_Flow] = []
        self.sockets: list[socket.socket] = []

    def run(self) -> None:
        """First packets, replies, ICMP errors about them, and a second packet each way round."""
        try:
            self._first()
            self._replies()
            self._errors()
            self._again()
        finally:
            for sock in self.sockets:
                sock.close()

    def _sized(self, packet: Packet) -> Packet:
        body = {6: 20, 17: 8 + 4 + len(PAYLOAD)}.get(packet.proto, 8 + 4 + len(PAYLOAD))
        return msgspec.structs.replace(packet, length=body + (20 if packet.family == 4 else 40))

    def _first(self) -> None:
        expected = 0
        for number, (origin, packet) in enumerate(self.case.flows, 1):
            packet = self._sized(packet)
            if origin == "r":
                packet = self._from_router(packet)
            else:
                packet = msgspec.structs.replace(packet, src_mac=CLIENT_MAC if origin == "c" else SERVER_MAC)
            tracking = Tracking(state=first_state(packet))
            iif = {"c": "cl0", "s": "sv0"}.get(origin)
            outcome = (
                self.router.originate(packet, tracking) if iif is None else self.router.arrive(packet, tracking, iif)
            )
            flow = _Flow(number, origin, packet, outcome)
            flow.clash = self._clashes(flow)
            self.flows.append(flow)
            expected += outcome.kind in ("delivered", "reject", "local")
        for flow in self.flows:
            self._send(flow.origin, flow.first, flow.number << 8, (flow.number << 8) + 128)
        seen = self._gather(expected)
        for flow in self.flows:
            self._compare(flow, "first", flow.expected, seen.get(flow.number, []))

    def _from_router(self, packet: Packet) -> Packet:
        # The kernel picks the source address of the device, and TTL 64.
        return msgspec.structs.replace(packet, src=OWN[packet.family][route(packet.dst)], uid=0, gid=0)

    def _clashes(self, flow: _Flow) -> bool:
        own = flow.expected.tracking.reply_tuple
        return own is not None and any(
            each.expected.tracking.reply_tuple is not None
            and (own.src, own.dst, own.proto, own.sport, own.dport, own.icmp_id)
            == (
                each.expected.tracking.reply_tuple.src,
                each.expected.tracking.reply_tuple.dst,
                each.expected.tracking.reply_tuple.proto,
                each.expected.tracking.reply_tuple.sport,
                each.expected.tracking.reply_tuple.dport,
                each.expected.tracking.reply_tuple.icmp_id,
            )
            for each in self.flows
        )

    def _send(self, origin: str, packet: Packet, seq: int, ack: int, quoted: bytes = b"") -> None:
        if origin == "r":
            self._send_local(packet, seq)
            return
        payload = struct.pack("!I", seq) + PAYLOAD
        body = wire.transport(packet, seq, ack, payload, quoted)
        self.rig.send(origin, packet.family, wire.network(packet, body))

    def _send_local(self, packet: Packet, nonce: int) -> None:
        kind = socket.AF_INET if packet.family == 4 else socket.AF_INET6
        sock = netns.open_socket(self.rig.ns["r"], kind, socket.SOCK_DGRAM)
        self.sockets.append(sock)
        sock.bind(("", packet.sport or 0))
        try:
            sock.sendto(struct.pack("!I", nonce) + PAYLOAD, (str(packet.dst), packet.dport or 0))
        except OSError:
            # OUTPUT dropped or rejected it; that nothing arrives is what is judged.
            return

    def _gather(self, expected: int) -> dict[int, list[tuple[str, wire.Sight]]]:
        found: dict[int, list[tuple[str, wire.Sight]]] = {}
        for end, sights in self.rig.sights(expected).items():
            for sight in sights:
                found.setdefault(sight.flow, []).append((end, sight))
        return found

    # --- replies

    def _live(self) -> Iterator[_Flow]:
        for flow in self.flows:
            if not flow.dead and flow.seen is not None and flow.expected.kind == "delivered":
                yield flow

    def _replies(self) -> None:
        sent: list[tuple[_Flow, Outcome]] = []
        for flow in self._live():
            got = flow.seen
            if got is None or (got.proto == 6 and (got.tcp_flags or 0) & 0x17 not in (2, 16)):
                continue
            fields: dict[str, int | None] = {}
            if got.proto == 6:
                fields = {"tcp_flags": 18 if got.tcp_flags == 2 else 16}
            elif got.proto in (1, 58):
                answer = {8: 0, 13: 14, 128: 129}.get(got.icmp_type or 0)
                if answer is None:
                    continue
                fields = {"icmp_type": answer}
            reply = msgspec.structs.replace(
                got, src=got.dst, dst=got.src, sport=got.dport, dport=got.sport, ttl=64, tos=0, uid=None, gid=None,
                src_mac=SERVER_MAC if flow.expected.end == "s" else CLIENT_MAC, **fields,
            )  # fmt: skip
            reply = self._sized(reply)
            tracking = reply_tracking(flow.expected.tracking, reply)
            iif = "sv0" if flow.expected.end == "s" else "cl0"
            outcome = self.router.arrive(reply, tracking, iif)
            sent.append((flow, outcome))
            base = flow.number << 8
            self._send(flow.expected.end, reply, base + 128, base + 1)
        expected = sum(outcome.kind in ("delivered", "reject", "local") for _flow, outcome in sent)
        seen = self._gather(expected)
        for flow, outcome in sent:
            tracked = flow.expected.tracking.state in (CtState.NEW, CtState.ESTABLISHED)
            self._compare(flow, "reply", outcome, seen.get(flow.number, []))
            if tracked and not flow.dead and outcome.kind in ("delivered", "local"):
                flow.expected.tracking = outcome.tracking
            else:
                flow.dead = True

    def _errors(self) -> None:
        """The far end says "port unreachable" about what it got: RELATED, and the quoted packet is translated too."""
        sent: list[tuple[_Flow, Outcome]] = []
        for flow in self._live():
            got = flow.seen
            if got is None or got.proto != 17 or flow.expected.tracking.state != CtState.ESTABLISHED:
                continue
            family = got.family
            inner = wire.network(got, wire.transport(got, 0, 0, struct.pack("!I", flow.number << 8) + PAYLOAD))
            quoted = inner[: 1200 if family == 6 else 548]
            error = msgspec.structs.replace(
                got, proto=1 if family == 4 else 58, src=got.dst, dst=got.src, sport=None, dport=None, tos=0, ttl=64,
                icmp_type=3 if family == 4 else 1, icmp_code=3 if family == 4 else 4, icmp_id=None,
                length=(20 if family == 4 else 40) + 8 + len(quoted), quoted=got,
                src_mac=SERVER_MAC if flow.expected.end == "s" else CLIENT_MAC,
            )  # fmt: skip
            status = tuple(dict.fromkeys((*flow.expected.tracking.status, "seen_reply", "confirmed")))
            tracking = msgspec.structs.replace(flow.expected.tracking, state=CtState.RELATED, reply=True, status=status)
            iif = "sv0" if flow.expected.end == "s" else "cl0"
            outcome = self.router.arrive(error, tracking, iif)
            sent.append((flow, outcome))
            self._send(flow.expected.end, error, flow.number << 8, 0, quoted)
            flow.expected.tracking = msgspec.structs.replace(flow.expected.tracking, mark=outcome.tracking.mark)
        seen = self._gather(sum(outcome.kind in ("delivered", "reject") for _flow, outcome in sent))
        for flow, outcome in sent:
            self._compare(flow, "error", outcome, seen.get(flow.number, []))

    def _again(self) -> None:
        """The first packet's successor: an established one in the original direction."""
        sent: list[tuple[_Flow, Outcome]] = []
        for flow in self._live():
            if flow.iif is None or flow.expected.tracking.state != CtState.ESTABLISHED:
                continue
            packet = flow.first
            if packet.proto == 6:
                packet = msgspec.structs.replace(packet, tcp_flags=16)
            status = tuple(dict.fromkeys((*flow.expected.tracking.status, "seen_reply", "confirmed")))
            if packet.proto == 17 or (packet.proto == 6):
                # Assured is only asked about by rules that no case has.
                status = (*status,)
            tracking = msgspec.structs.replace(
                flow.expected.tracking, state=CtState.ESTABLISHED, reply=False, status=status
            )
            outcome = self.router.arrive(packet, tracking, flow.iif)
            sent.append((flow, outcome))
            self._send(flow.origin, packet, (flow.number << 8) + 1, (flow.number << 8) + 129)
        seen = self._gather(sum(outcome.kind in ("delivered", "reject", "local") for _flow, outcome in sent))
        for flow, outcome in sent:
            self._compare(flow, "again", outcome, seen.get(flow.number, []))

    # --- comparing

    def _compare(self, flow: _Flow, stage: str, want: Outcome, got: list[tuple[str, wire.Sight]]) -> None:
        report = self.report
        if flow.dead:
            return
        if want.kind == "unknown" or flow.clash:
            report.skipped["unknown" if want.kind == "unknown" else "translations meet"] += 1
            flow.dead = True
            return
        report.outcomes[f"{stage} {want.kind}"] += 1
        rejects = [sight for _end, sight in got if sight.quoted is not None or sight.reset]
        if stage == "error":
            rejects = []
        arrived = [(end, sight) for end, sight in got if sight not in rejects]
        problem = self._problem(flow, stage, want, arrived, rejects)
        if problem is not None:
            flow.dead = True
            report.differences.append(_describe(self.case, flow, stage, want, got, problem))
        elif want.kind != "delivered":
            flow.dead = True

    def _problem(
        self,
        flow: _Flow,
        stage: str,
        want: Outcome,
        arrived: list[tuple[str, wire.Sight]],
        rejects: list[wire.Sight],
    ) -> str | None:
        if want.kind == "local":
            return self._local_problem(want, arrived)
        if want.kind != "delivered":
            if arrived:
                return f"arrived at {arrived[0][0]}"
            if rejects and want.kind == "none":
                return "was rejected"
            return self._reject_problem(want, rejects) if rejects else None
        if not arrived:
            return "did not arrive" if not rejects else "was rejected"
        end, sight = arrived[0]
        if len(arrived) > 1:
            return f"arrived {len(arrived)} times"
        if end != want.end:
            return f"arrived at {end}"
        seen = sight.packet
        problem = _headers(want, seen)
        if problem is None and stage == "error" and want.packet.quoted is not None and sight.quoted is not None:
            inner, quoted = want.packet.quoted, sight.quoted
            ours = (inner.src, inner.dst, inner.sport, inner.dport)
            theirs = (quoted.src, quoted.dst, quoted.sport, quoted.dport)
            problem = f"quotes {theirs}" if ours != theirs else None
        if problem is None and stage == "first":
            flow.seen = seen
            self._learn(want, seen)
        return problem

    def _local_problem(self, want: Outcome, arrived: list[tuple[str, wire.Sight]]) -> str | None:
        """Judge a packet for the router: nobody else may get it, and an echo is answered through OUTPUT."""
        others = [end for end, sight in arrived if sight.packet.icmp_type not in (0, 14, 129)]
        if others:
            return f"arrived at {others[0]}"
        answer = self.router.answer(want)
        if answer is None or answer.kind in ("local", "unknown"):
            return None
        self.report.outcomes[f"answer {answer.kind}"] += 1
        if answer.kind != "delivered":
            return "was answered" if arrived else None
        if not arrived:
            return f"was not answered; expected {answer.packet.src} > {answer.packet.dst}\n{_trail(answer)}"
        problem = _headers(answer, arrived[0][1].packet)
        if arrived[0][0] != answer.end:
            problem = f"went to {arrived[0][0]}"
        return f"had an answer that {problem}; expected {answer.packet}\n{_trail(answer)}" if problem else None

    def _learn(self, want: Outcome, seen: Packet) -> None:
        """Take over the source port that the kernel was free to choose."""
        reply = want.tracking.reply_tuple
        if want.port_free and reply is not None:
            changes = {"icmp_id": seen.icmp_id} if seen.proto in (1, 58) else {"dport": seen.sport}
            want.tracking = msgspec.structs.replace(
                want.tracking, reply_tuple=msgspec.structs.replace(reply, **changes)
            )
            if "src_nat" not in want.tracking.status:
                want.tracking = msgspec.structs.replace(want.tracking, status=(*want.tracking.status, "src_nat"))

    def _reject_problem(self, want: Outcome, rejects: list[wire.Sight]) -> str | None:
        sight = rejects[0]
        if want.reject == "tcp-reset":
            quoted = sight.quoted
            if quoted is not None and (quoted.src, quoted.dst) == (want.packet.dst, want.packet.src):
                return None  # the reset was made, and OUTPUT refused it: the error is about the reset
            return None if sight.reset else "was rejected otherwise"
        code = _REJECTS.get(want.reject)
        if want.reject == "time-exceeded":
            code = (11, 0) if want.packet.family == 4 else (3, 0)
        if sight.reset:
            return "was reset"
        seen = (sight.packet.icmp_type, sight.packet.icmp_code)
        return None if code is None or seen == code else f"was rejected with {seen}"


_REJECTS = {
    "icmp-net-unreachable": (3, 0), "icmp-host-unreachable": (3, 1), "icmp-proto-unreachable": (3, 2),
    "icmp-port-unreachable": (3, 3), "icmp-net-prohibited": (3, 9), "icmp-host-prohibited": (3, 10),
    "icmp-admin-prohibited": (3, 13), "icmp6-no-route": (1, 0), "icmp6-adm-prohibited": (1, 1),
    "icmp6-addr-unreachable": (1, 3), "icmp6-port-unreachable": (1, 4),
}  # fmt: skip


def _headers(want: Outcome, seen: Packet) -> str | None:
    ours = want.packet
    checks: list[tuple[str, object, object]] = [
        ("source", ours.src, seen.src),
        ("destination", ours.dst, seen.dst),
        ("TTL", ours.ttl, seen.ttl),
        ("TOS", ours.tos, seen.tos),
        ("destination port", ours.dport, seen.dport),
    ]
    if not want.port_free:
        checks.append(("source port", ours.sport, seen.sport))
        checks.append(("ICMP id", ours.icmp_id, seen.icmp_id))
    for name, one, other in checks:
        if one != other and not (name == "ICMP id" and one is None):
            return f"arrived with {name} {other}"
    return None


def _describe(
    case: Case, flow: _Flow, stage: str, want: Outcome, got: list[tuple[str, wire.Sight]], problem: str
) -> str:
    first = flow.first
    seen = [(end, one.packet.src, one.packet.dst, one.packet.sport, one.packet.dport) for end, one in got]
    return (
        f"{case.backend} IPv{case.family} flow {flow.number} from {flow.origin}, {stage} packet: predicted {want.kind}"
        f" at {want.end or '-'} {want.packet.src}:{want.packet.sport} > {want.packet.dst}:{want.packet.dport}"
        f" ttl {want.packet.ttl} tos {want.packet.tos}; it {problem}\n"
        f"  packet {first.src} > {first.dst} proto {first.proto} {first.sport}>{first.dport} icmp {first.icmp_type}"
        f" flags {first.tcp_flags} ttl {first.ttl} tos {first.tos} length {first.length}\n"
        f"  seen {seen}\n"
        f"  tracking {want.tracking}\n{_trail(want)}\n{case.rules}{case.legacy_rules}"
    )


def _trail(want: Outcome) -> str:
    return "\n".join(
        f"  [{result.hook.value}] {'  ' * entry.level}{entry.event} {entry.rule.table}: "
        f"{entry.rule.text} => {entry.effect}"
        for result in want.results
        for entry in result.trail
    )
