"""Random rulesets in nft's own language, and the kernel as their judge.

Each ruleset is loaded in the oracle's router with `nft -f`, read back as JSON, compiled, and asked about packets that
are then sent for real: what arrives, where, how it was rewritten, and how it was refused must be what the evaluator
said. Answers go back through the same rules, so that established flows and reverse translation are judged as well.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Callable, Iterator
from typing import ClassVar

from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import Ruleset, load_ruleset
from tests.oracle import xt_grammar
from tests.oracle.judge import Report, judge_all
from tests.oracle.rig import HOSTS, OWN, Rig, rig
from tests.oracle.xt_grammar import Case

PORTS = tuple(sorted(xt_grammar.PORTS))
MARKS = (0, 1, 2, 5, 16)
STATES = ("new", "established", "related", "invalid", "untracked")


def _addresses(family: int) -> list[str]:
    return [*HOSTS[family]["cl0"][:4], *HOSTS[family]["sv0"][:4], *(str(each) for each in OWN[family].values())]


class Grammar:
    """Makes one ruleset. `rng` decides everything; `family` is that of the packets it will meet."""

    def __init__(self, rng: random.Random, family: int) -> None:
        self.rng = rng
        self.family = family
        self.proto = "ip" if family == 4 else "ip6"
        self.table_family = rng.choice(("inet", self.proto))

    # --- values

    def port(self) -> str:
        return str(self.rng.choice(PORTS))

    def ports(self) -> str:
        kind = self.rng.randrange(3)
        if kind == 0:
            return self.port()
        low, high = sorted(self.rng.sample(PORTS, 2))
        if kind == 1:
            return f"{low}-{high}"
        few = sorted(self.rng.sample(PORTS, self.rng.randint(1, 3)))
        more = f", {high + 10}-{high + 500}" if high == PORTS[-1] and high < 60000 else ""
        return "{ " + ", ".join(str(each) for each in few) + more + " }"

    def address(self) -> str:
        return self.rng.choice(_addresses(self.family))

    def prefix(self) -> str:
        if self.family == 4:
            return self.rng.choice(("10.71.1.0/24", "10.71.2.0/24", "10.71.0.0/16", "10.71.2.0/30", "10.71.1.2/31"))
        return self.rng.choice(("fd71:1::/64", "fd71:2::/64", "fd71::/16", "fd71:2::/126", "fd71:1::2/127"))

    def addresses(self) -> str:
        kind = self.rng.randrange(5)
        if kind == 0:
            return self.address()
        if kind == 1:
            return self.prefix()
        base = "10.71.2." if self.family == 4 else "fd71:2::"
        if kind == 2:
            return f"{base}2-{base}{self.rng.randint(3, 6)}"
        if kind == 3:
            return "{ " + ", ".join(self.rng.sample(_addresses(self.family), 3)) + " }"
        return f"{{ {base}2-{base}3, {base}5, {self.prefix_elsewhere()} }}"

    def prefix_elsewhere(self) -> str:
        return "10.71.1.0/25" if self.family == 4 else "fd71:1::/65"

    def device(self) -> str:
        return self.rng.choice(('"cl0"', '"sv0"', '"cl*"', '"sv*"', '"lo"', '"eth9"'))

    def op(self) -> str:
        return self.rng.choice(("", "", "", "!= "))

    # --- matches

    def match(self, hook: str) -> str:
        """One match that is possible at a hook."""
        choices: list[Callable[[], str]] = [
            lambda: f"{self.proto} saddr {self.op()}{self.addresses()}",
            lambda: f"{self.proto} daddr {self.op()}{self.addresses()}",
            lambda: f"{self.proto} daddr {self.op()}{self.addresses()}",
            lambda: f"{self.proto} daddr {self.op()}{self.rng.choice(('@s_addr', '@s_net'))}",
            lambda: f"{self.proto} saddr . {self.rng.choice(('tcp', 'udp'))} dport {self.op()}@s_cat",
            lambda: f"{self.rng.choice(('tcp', 'udp'))} dport {self.op()}{self.ports()}",
            lambda: f"{self.rng.choice(('tcp', 'udp'))} dport {self.op()}{self.ports()}",
            lambda: f"{self.rng.choice(('tcp', 'udp'))} sport {self.rng.choice(('<', '>', '>=', '<='))} 20050",
            lambda: f"meta l4proto {self.op()}{self.rng.choice(('tcp', 'udp', '{ tcp, udp }', self.icmp()))}",
            lambda: f"meta l4proto {{ tcp, udp }} th dport {self.op()}{self.ports()}",
            lambda: f"meta l4proto . th dport {{ tcp . {self.port()}, udp . 53, udp . {self.ports_flat()} }}",
            lambda: f"ct state {self.rng.choice(('', '!= ', '! '))}{self.rng.choice(STATES)}",
            lambda: f"ct state {','.join(self.rng.sample(STATES, 2))}",
            lambda: f"ct state {self.op()}{{ {', '.join(self.rng.sample(STATES, 2))} }}",
            lambda: f"ct direction {self.op()}{self.rng.choice(('original', 'reply'))}",
            lambda: f"ct original {self.proto} saddr {self.op()}{self.address()}",
            lambda: f"ct reply {self.proto} saddr {self.op()}{self.prefix()}",
            lambda: f"meta l4proto tcp ct original proto-dst {self.op()}{self.port()}",
            lambda: f"ct status {self.rng.choice(('dnat', 'snat', 'dnat,snat', '! dnat', 'confirmed', 'seen-reply'))}",
            lambda: f"ct mark {self.op()}{self.rng.choice(MARKS)}",
            lambda: f"meta mark {self.op()}{self.rng.choice(MARKS)}",
            lambda: f"meta mark & 0x3 {self.rng.choice(('==', '!='))} {self.rng.choice((0, 1, 2))}",
            lambda: f"meta mark {self.rng.choice(('<', '>', '<=', '>='))} {self.rng.choice(MARKS)}",
            lambda: f"meta length {self.rng.choice(('<', '>'))} {self.rng.choice((30, 45, 60))}",
            lambda: self.nfproto(),
            lambda: f"{'icmp' if self.family == 4 else 'icmpv6'} type {self.op()}{self.icmp_type()}",
            lambda: f"tcp flags {self.rng.choice(self.FLAGS)}",
            lambda: f"{self.proto} dscp {self.op()}{self.rng.choice(('cs0', 'cs1', 'ef', '{ cs1, ef }'))}",
            lambda: f"{self.ttl()} {self.rng.choice(('>', '<', '', '!='))} {self.rng.choice((5, 63, 64))}",
            lambda: f"{self.proto} saddr & {self.mask()} {self.rng.choice(('==', '!='))} {self.masked()}",
        ]
        if hook in ("prerouting", "input", "forward"):
            choices += [
                lambda: f"iifname {self.op()}{self.device()}",
                lambda: f'iifname {self.op()}{{ {self.device()}, "eth0" }}',
                lambda: f"iif {self.op()}{self.rng.choice(('cl0', 'sv0', 'lo'))}",
                lambda: f"iifgroup {self.op()}{self.rng.choice(('5', '7', '5-6', '{ 5, 9 }'))}",
                lambda: f'iifname . {self.proto} saddr {{ "cl0" . {self.prefix()}, "sv0" . {self.address()} }}',
                lambda: f"fib saddr . iif oif {self.rng.choice(('missing', 'exists'))}",
                lambda: "meta pkttype host",
            ]
        if hook in ("forward", "postrouting", "output"):
            choices += [
                lambda: f"oifname {self.op()}{self.device()}",
                lambda: f"oifgroup {self.op()}{self.rng.choice(('5', '7'))}",
                lambda: f'iifname . oifname {self.op()}{{ "cl0" . "sv0", "sv0" . "lo" }}',
                lambda: f"oif {self.op()}{self.rng.choice(('cl0', 'sv0', 'lo'))}",
            ]
        if hook == "output":
            choices += [
                lambda: f"meta skuid {self.op()}{self.rng.choice(('0', '1000', '0-5'))}",
                lambda: f"fib daddr type {self.op()}{self.rng.choice(('local', 'unicast'))}",
            ]
        if hook == "prerouting":
            choices += [
                lambda: f"fib daddr type {self.op()}{self.rng.choice(('local', 'unicast', '{ local, broadcast }'))}",
                lambda: f"fib daddr . iif type {self.rng.choice(('local', '!= local'))}",
            ]
        if hook in ("forward", "input"):
            choices.append(lambda: f"fib daddr type {self.op()}{self.rng.choice(('local', 'unicast'))}")
        return self.rng.choice(choices)()

    def nfproto(self) -> str:
        # In tables of one version nft refuses it, and of "meta protocol" it forgets what contradicts the table.
        if self.table_family != "inet":
            return f"meta l4proto {self.op()}tcp"
        return f"meta nfproto {self.op()}{self.rng.choice(('ipv4', 'ipv6'))}"

    FLAGS = (
        "syn",
        "== syn",
        "!= syn",
        "syn / syn,ack",
        "& (fin | syn | rst | ack) == syn",
        "& (syn | ack) != 0",
        "ack",
        "! syn",
        "{ syn, syn | ack }",
    )

    def ports_flat(self) -> str:
        low, high = sorted(self.rng.sample(PORTS[2:], 2))
        return f"{low}-{high}"

    def icmp(self) -> str:
        return "icmp" if self.family == 4 else "ipv6-icmp"

    def icmp_type(self) -> str:
        return self.rng.choice(("echo-request", "echo-reply", "{ echo-request, destination-unreachable }"))

    def ttl(self) -> str:
        return "ip ttl" if self.family == 4 else "ip6 hoplimit"

    def mask(self) -> str:
        return "255.255.0.255" if self.family == 4 else "ffff::f"

    def masked(self) -> str:
        return self.rng.choice(("10.71.0.2", "10.71.0.3") if self.family == 4 else ("fd71::2", "fd71::3"))

    # --- statements

    def verdict(self, hook: str, deeper: list[str]) -> str:
        choices = ["accept"] * 5 + ["drop"] * 3 + ["return", "continue", "counter"]
        choices += [f"jump {each}" for each in deeper] * 3 + [f"goto {each}" for each in deeper]
        if hook in ("prerouting", "forward", "input", "output"):
            choices += [f"reject{self.reject()}", f"reject{self.reject()}"]
        return self.rng.choice(choices)

    def reject(self) -> str:
        kinds = ["", " with tcp reset"]
        if self.table_family == "inet":
            kinds += [" with icmpx admin-prohibited", " with icmpx no-route", " with icmpx host-unreachable"]
        kinds += [f" with {each}" for each in self.RESETS[self.family]]
        return self.rng.choice(kinds)

    RESETS: ClassVar[dict[int, tuple[str, ...]]] = {
        4: ("icmp host-unreachable", "icmp admin-prohibited", "icmp net-unreachable", "icmp prot-unreachable"),
        6: ("icmpv6 no-route", "icmpv6 admin-prohibited", "icmpv6 addr-unreachable"),
    }

    def change(self, hook: str) -> str:
        choices = [
            f"meta mark set {self.rng.choice(MARKS)}",
            f"meta mark set meta mark | {self.rng.choice(MARKS)}",
            "meta mark set meta mark & 0xfffffffe ^ 0x2",
            f"ct mark set {self.rng.choice(MARKS)}",
            "ct mark set meta mark",
            "meta mark set ct mark",
            f"meta mark set {self.proto} dscp map {{ cs0 : 0x1, cs1 : 0x2 }}",
            f"meta mark set tcp dport map {{ {self.port()} : 0x5, 3000-4000 : 0x6 }}",
            f"{self.proto} dscp set {self.rng.choice(('cs1', 'ef', 'cs0'))}",
            f"{self.ttl()} set {self.rng.choice((9, 64, 33))}",
            "counter",
            "counter packets 7 bytes 9",
        ]
        return self.rng.choice(choices)

    def vmap(self, hook: str, deeper: list[str]) -> str:
        keys: list[Callable[[], tuple[str, list[str]]]] = [
            lambda: ("tcp dport", [*map(str, self.rng.sample(PORTS, 3)), "3000-4000"]),
            lambda: ("meta l4proto", ["tcp", "udp", self.icmp()]),
            lambda: ("ct state", self.rng.sample(("new", "established", "invalid", "related"), 3)),
            lambda: (f"{self.proto} daddr", self.rng.sample(_addresses(self.family), 3)),
            lambda: ("meta mark", ["0x1", "0x2", "0x5-0x9", "*"]),
            lambda: (f"{self.proto} saddr . meta l4proto", [f"{self.address()} . tcp", f"{self.prefix()} . udp"]),
        ]
        if hook in ("prerouting", "forward", "input"):
            keys.append(lambda: ("iifname", ['"cl0"', '"sv0"']))
        key, values = self.rng.choice(keys)()
        used = values[: self.rng.randint(1, len(values))]
        if len(set(used)) != len(used):
            used = used[:1]
        # A reject is no verdict, so maps cannot give one.
        verdicts = ["accept", "drop", "return", "continue", *(f"jump {each}" for each in deeper)]
        pairs = ", ".join(f"{value} : {self.rng.choice(verdicts)}" for value in used)
        return f"{key} vmap {{ {pairs} }}"

    def matches(self, hook: str, count: int) -> list[str]:
        """Several matches about different things, one inequality at most: nft lists two as if they were a range."""
        found: dict[str, str] = {}
        for _ in range(count):
            one = self.match(hook)
            unequal = {"<", ">", "<=", ">="}.intersection(one.split())
            found.setdefault("unequal" if unequal else " ".join(one.split()[:2]), one)
        return list(found.values())

    def rule(self, hook: str, deeper: list[str]) -> str:
        parts = self.matches(hook, self.rng.choice((0, 1, 1, 1, 2, 2, 3)))
        if self.rng.random() < 0.25:
            parts.append(self.change(hook))
        if self.rng.random() < 0.12:
            return " ".join([*parts, self.vmap(hook, deeper)])
        if self.rng.random() < 0.15 and parts:
            parts.append("counter")
        if hook == "early" or (parts and self.rng.random() < 0.1):
            return " ".join(parts)
        return " ".join([*parts, self.verdict(hook, deeper)])

    # --- address translation

    def nat_rule(self, hook: str) -> str:
        matches = " ".join(self.matches(hook, self.rng.choice((0, 1, 1, 2))))
        family = f"{self.proto} " if self.table_family == "inet" else ""
        host = self.host("sv0" if hook != "postrouting" else "cl0")
        if hook == "output":
            # Where a packet of the router itself goes must stay what its source address was chosen for.
            choices = [
                f"udp dport {self.ports()} dnat {family}to {self.with_port(self.host('sv0'))}",
                f"{self.proto} daddr {self.prefix_far()} dnat {family}to {host}",
                "accept",
                "return",
            ]
        elif hook == "prerouting":
            choices = [
                f"dnat {family}to {host}",
                f"tcp dport {self.ports()} dnat {family}to {self.with_port(host)}",
                f"udp dport {self.ports()} dnat {family}to {self.with_port(host)}",
                f"tcp dport {self.ports()} dnat to :{self.port()}",
                f"dnat {family}to {self.proto} daddr map {{ {self.near()} : {host}, "
                f"{self.prefix_far()} : {self.host('sv0')} }}",
                f"meta l4proto tcp dnat {family}addr . port to tcp dport map {{ {self.port()} : {host} . 8080 }}"
                if self.table_family == "inet"
                else f"meta l4proto tcp dnat {self.proto} addr . port to tcp dport map {{ 80 : {host} . 8080 }}",
                f"meta l4proto tcp redirect to :{self.port()}",
                "accept",
                "return",
                "counter",
                f"dnat {family}prefix to {self.proto} daddr map {{ {self.prefix_far()} : {self.prefix_near()} }}",
            ]
        else:
            own = str(OWN[self.family]["sv0"])
            choices = [
                "masquerade",
                f"snat {family}to {own}",
                f"snat {family}to {self.host('cl0')}",
                f"meta l4proto tcp snat {family}to {self.with_port(own, '30000-30999')}",
                "meta l4proto udp masquerade to :31000-31999",
                "masquerade random",
                f"snat {family}to {self.proto} saddr map {{ {self.near()} : {own}, {self.prefix_far()} : {own} }}",
                "accept",
                "return",
            ]
        return f"{matches} {self.rng.choice(choices)}".strip()

    def host(self, side: str) -> str:
        return self.rng.choice(HOSTS[self.family][side][:4])

    def near(self) -> str:
        return self.rng.choice([*HOSTS[self.family]["cl0"][:4], str(OWN[self.family]["cl0"])])

    def with_port(self, host: str, port: str = "") -> str:
        shown = f"[{host}]" if self.family == 6 else host
        return f"{shown}:{port or self.port()}"

    def prefix_far(self) -> str:
        return "10.71.2.0/29" if self.family == 4 else "fd71:2::/125"

    def prefix_near(self) -> str:
        return "10.71.1.0/29" if self.family == 4 else "fd71:1::/125"

    # --- the whole

    def chain(self, name: str, head: str, hook: str, deeper: list[str], size: int) -> str:
        rules = "".join(f"\t\t{self.rule(hook, deeper)}\n" for _ in range(size))
        return f"\tchain {name} {{\n{head}{rules}\t}}\n"

    def text(self) -> list[str]:
        """Return the parts of a ruleset that are loaded one by one: what the kernel refuses is left out."""
        kind = "ipv4_addr" if self.family == 4 else "ipv6_addr"
        family = self.table_family
        few = ", ".join(self.rng.sample(_addresses(self.family), 3))
        cat = ", ".join(f"{each} . {self.port()}" for each in self.rng.sample(_addresses(self.family), 3))
        parts = [
            f"table {family} t {{\n"
            f"\tset s_addr {{\n\t\ttype {kind}\n\t\telements = {{ {few} }}\n\t}}\n"
            f"\tset s_net {{\n\t\ttype {kind}\n\t\tflags interval\n\t\telements = {{ {self.prefix()} }}\n\t}}\n"
            f"\tset s_cat {{\n\t\ttype {kind} . inet_service\n\t\telements = {{ {cat} }}\n\t}}\n"
            f"\tchain u1 {{\n\t}}\n\tchain u2 {{\n\t}}\n\tchain u3 {{\n\t}}\n}}\n"
        ]
        hooks = [("prerouting", self.rng.choice((-300, -250, -150, -90, 10)), "filter"), ("forward", 0, "filter")]
        hooks += [("forward", self.rng.choice((-1, 0, 10)), "filter")] if self.rng.random() < 0.6 else []
        hooks += [("postrouting", self.rng.choice((-10, 150)), "filter")] if self.rng.random() < 0.5 else []
        hooks += [("prerouting", self.rng.choice((-100, -101)), "nat")] if self.rng.random() < 0.7 else []
        hooks += [("prerouting", -100, "nat")] if self.rng.random() < 0.2 else []
        hooks += [("postrouting", 100, "nat")] if self.rng.random() < 0.7 else []
        hooks += [("output", self.rng.choice((-300, -150, 0)), "filter")] if self.rng.random() < 0.5 else []
        hooks += [("output", -100, "nat")] if self.rng.random() < 0.4 else []
        hooks += [("input", self.rng.choice((0, 50)), "filter")] if self.rng.random() < 0.3 else []
        self.rng.shuffle(hooks)
        plain = [hook for hook, _priority, kind in hooks if kind == "filter"]
        # What a deeper chain holds must be possible wherever it is called from.
        shared = "any" if len(set(plain)) > 1 else plain[0]
        for name, deeper in (("u3", []), ("u2", ["u3"]), ("u1", ["u2", "u3"])):
            parts += [f"add rule {family} t {name} {self.rule(shared, deeper)}" for _ in range(self.rng.randint(1, 4))]
        for at, (hook, priority, kind) in enumerate(hooks):
            policy = "drop" if kind == "filter" and self.rng.random() < 0.2 else "accept"
            parts.append(
                f"table {family} t {{\n\tchain b{at} {{\n\t\ttype {kind} hook {hook} priority {priority}; "
                f"policy {policy};\n\t}}\n}}\n"
            )
            for _ in range(self.rng.randint(1, 5)):
                rule = self.nat_rule(hook) if kind == "nat" else self.rule(hook, ["u1", "u2", "u3"])
                if (
                    kind == "filter"
                    and hook in ("prerouting", "output")
                    and priority < -200
                    and self.rng.random() < 0.2
                ):
                    rule = f"{self.match(hook)} notrack"
                parts.append(f"add rule {family} t b{at} {rule}")
        return parts

    def case(self, flows: int) -> Case:
        """Return one case: the ruleset, its parts apart by empty lines, and packets to send."""
        packets = xt_grammar.Grammar(self.rng, self.family, "nft").flows(flows)
        return Case(family=self.family, backend="nft", rules="\n".join(self.text()), flows=packets)


# --- judging --------------------------------------------------------------------------------------------------------


def load(one: Rig, case: Case) -> Ruleset:
    """Load a case with nft, leaving out what the kernel refuses, and compile what the kernel then holds."""
    try:
        one.tool("nft", "-f", "-", text=case.rules)
    except subprocess.CalledProcessError:
        one.tool("nft", "flush", "ruleset")
        for part in _parts(case.rules):
            with contextlib.suppress(subprocess.CalledProcessError):
                one.tool("nft", "-f", "-", text=part)
    listed = one.tool("nft", "-j", "list", "ruleset")
    return load_ruleset([NetfilterDump(format=DumpFormat.NFT_JSON, backend="nft", family="all", text=listed)])


def _parts(text: str) -> Iterator[str]:
    """Cut a ruleset into its commands."""
    part: list[str] = []
    for line in text.splitlines():
        part.append(line)
        if line == "}" or line.startswith("add rule"):
            yield "\n".join(part) + "\n"
            part = []


def cases_of(count: int, seed: int) -> Iterator[Case]:
    """Return the cases of a seed, one by one; each has a seed of its own, so that it can be made again alone."""
    for at in range(count):
        rng = random.Random(f"nft/{seed}/{at}")
        yield Grammar(rng, 4 if rng.random() < 0.6 else 6).case(rng.choice((4, 8, 8)))


def run(cases: int, seed: int, *, prefix: str = "nf2", stop_after: int = 5) -> Report:
    """Judge random nft rulesets; needs root. The same seed makes the same cases."""
    with rig(prefix) as one:
        return judge_all(one, cases_of(cases, seed), load, stop_after)
