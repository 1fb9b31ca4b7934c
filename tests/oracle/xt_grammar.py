"""Random iptables rulesets, and random packets that have a chance to meet their rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random

from nettrace.model.flow import Packet
from tests.oracle.rig import CLIENT_MAC, GROUP, HOSTS, OWN, SERVER_MAC

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
PORTS = (53, 80, 443, 1000, 1001, 1999, 8080, 40000, 50000)
FAR = {4: "203.0.113.5", 6: "2001:db8::5"}
SNATS = {4: "198.51.100.7", 6: "2001:db8:7::7"}


@dataclass
class Case:
    """A ruleset as restore reads it, ipsets as ipset reads them, and the packets to send.

    `backend` is nft, legacy, or both: `rules` then go to nft and `legacy_rules` to legacy.
    """

    family: int
    backend: str
    rules: str
    ipsets: str = ""
    legacy_rules: str = ""
    flows: list[tuple[str, Packet]] = field(default_factory=list)


class Grammar:
    """Makes cases from one source of randomness. `hard` is how many matches a rule has at most."""

    def __init__(self, random: Random, family: int, backend: str) -> None:
        self.random = random
        self.family = family
        self.backend = backend
        self.icmp = "icmp" if family == 4 else "ipv6-icmp"
        self.sets: list[str] = []

    # --- pieces

    def host(self) -> str:
        """An address that packets carry."""
        hosts = HOSTS[self.family]
        return self.random.choice(
            [*hosts["cl0"][:3], *hosts["sv0"][:3], FAR[self.family], str(OWN[self.family]["cl0"])]
        )

    def net(self) -> str:
        """A prefix around such an address."""
        if self.family == 4 and self.random.random() < 0.1:
            return f"{self.host()}/255.{self.random.choice((0, 255))}.255.{self.random.choice((1, 2, 3, 254))}"
        top = 32 if self.family == 4 else 128
        length = self.random.choice((top, top, top - 1, top - 2, top - 8, top // 2, 8, 0))
        return f"{self.host()}/{length}"

    def end(self, option: str) -> str:
        """A match of a source or destination."""
        net = self.net()
        # The kernel refuses "! any/0" of iptables-nft.
        return f"{'' if net.endswith('/0') else self.flag()}{option} {net}"

    def port(self) -> str:
        """A port or a range."""
        if self.random.random() < 0.3:
            low, high = sorted(self.random.sample(PORTS, 2))
            return f"{low}:{high}"
        return str(self.random.choice(PORTS))

    def flag(self) -> str:
        """A negation now and then."""
        return "! " if self.random.random() < 0.25 else ""

    def interface(self, option: str) -> str:
        """A match of an interface, perhaps with a wildcard."""
        device = self.random.choice(("cl0", "sv0", "cl+", "s+", "lo", "eth9", "+"))
        # iptables-save prints "! -i +", which never matches, as no match at all.
        return f"{self.flag() if device != '+' else ''}{option} {device}"

    # --- matches

    def matches(self, table: str, hooks: frozenset[str]) -> tuple[str, str]:
        """Some matches that are allowed in a chain, and the protocol they fix ("" for none)."""
        random = self.random
        parts: list[str] = []
        proto = ""
        if random.random() < 0.4:
            parts.append(self.end("-s"))
        if random.random() < 0.4:
            parts.append(self.end("-d"))
        if random.random() < 0.3 and not hooks & {"OUTPUT", "POSTROUTING"}:
            parts.append(self.interface("-i"))
        if random.random() < 0.3 and not hooks & {"PREROUTING", "INPUT"}:
            parts.append(self.interface("-o"))
        if random.random() < 0.45:
            proto = random.choice(("tcp", "udp", self.icmp))
            if random.random() < 0.12:
                parts.append(f"! -p {proto}")
                proto = ""
            else:
                parts.append(f"-p {proto}")
                parts += self.transport(proto)
        for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
            extra = random.choice(self.extras)(self, table, hooks)
            if extra and not any(each.split()[1] == extra.split()[1] for each in parts if each.startswith("-m")):
                parts.append(extra)
        return " ".join(parts), proto

    def transport(self, proto: str) -> list[str]:
        """Matches of one protocol."""
        random = self.random
        parts: list[str] = []
        if proto in ("tcp", "udp"):
            if random.random() < 0.5:
                parts.append(f"{self.flag()}--dport {self.port()}")
            if random.random() < 0.2:
                parts.append(f"{self.flag()}--sport {self.port()}")
            if proto == "tcp" and random.random() < 0.3:
                flags = (
                    "SYN,RST,ACK,FIN SYN",
                    "ALL SYN,ACK",
                    "SYN SYN",
                    "ACK ACK",
                    "ALL NONE",
                    "FIN,SYN,RST,PSH,ACK,URG ACK",
                )
                parts.append(f"{self.flag()}--tcp-flags {random.choice(flags)}")
            if random.random() < 0.25:
                kind = random.choice(("--dports", "--sports", "--ports"))
                ports = ",".join(self.port() for _ in range(random.randint(1, 4)))
                parts.append(f"-m multiport {self.flag()}{kind} {ports}")
        elif random.random() < 0.6:
            option = "--icmp-type" if self.family == 4 else "--icmpv6-type"
            kinds = ("8", "0", "3", "8/0", "3/3", "echo-request", "echo-reply", "port-unreachable", "13")
            if self.family == 6:
                kinds = ("128", "129", "1", "128/0", "1/4", "echo-request", "echo-reply", "port-unreachable", "2")
            parts.append(f"{self.flag()}{option} {random.choice(kinds)}")
        return parts

    def _conntrack(self, table: str, hooks: frozenset[str]) -> str:
        random = self.random
        parts = []
        if random.random() < 0.8:
            states = random.sample(
                ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "SNAT", "DNAT"), random.randint(1, 3)
            )
            parts.append(f"{self.flag()}--ctstate {','.join(states)}")
        if random.random() < 0.15:
            parts.append(
                f"{self.flag()}--{random.choice(('ctorigsrc', 'ctorigdst', 'ctreplsrc', 'ctrepldst'))} {self.net()}"
            )
        if random.random() < 0.1:
            parts.append(f"{self.flag()}--ctproto {random.choice(('tcp', 'udp', '1'))}")
        if random.random() < 0.1:
            parts.append(f"--ctdir {random.choice(('ORIGINAL', 'REPLY'))}")
        if random.random() < 0.1:
            status = random.choice(("NONE", "EXPECTED", "SEEN_REPLY", "CONFIRMED", "SEEN_REPLY,EXPECTED"))
            parts.append(f"{self.flag()}--ctstatus {status}")
        if random.random() < 0.1:
            name = random.choice(("ctorigsrcport", "ctorigdstport", "ctreplsrcport", "ctrepldstport"))
            parts.append(f"--ctproto {random.choice(('tcp', 'udp'))} {self.flag()}--{name} {self.port()}")
        words = " ".join(parts).split()
        if words.count("--ctproto") > 1:
            return ""
        return f"-m conntrack {' '.join(parts)}" if parts else ""

    def _addrtype(self, table: str, hooks: frozenset[str]) -> str:
        kinds = ("LOCAL", "UNICAST", "BROADCAST", "MULTICAST", "LOCAL,UNICAST")
        if self.family == 6:
            kinds = ("LOCAL", "UNICAST", "LOCAL,UNICAST")
        kind = self.random.choice(kinds)
        limit = ""
        if self.family == 4 and self.random.random() < 0.2:
            if hooks <= {"PREROUTING", "INPUT", "FORWARD"}:
                limit = " --limit-iface-in"
            elif hooks <= {"OUTPUT", "POSTROUTING", "FORWARD"}:
                limit = " --limit-iface-out"
        if limit and self.random.random() < 0.5:
            return f"-m addrtype {self.flag()}--src-type {kind}{limit}"
        if self.family == 6 and hooks & {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}:
            return ""
        return f"-m addrtype {self.flag()}{self.random.choice(('--src-type', '--dst-type'))} {kind}{limit}"

    def _value(self) -> str:
        return self.random.choice(("0x1", "0x2", "0x0", "0x1/0x1", "0x0/0x3", "0x2/0x2", "0x10/0xf0"))

    def _mark(self, table: str, hooks: frozenset[str]) -> str:
        return f"-m {self.random.choice(('mark', 'connmark'))} {self.flag()}--mark {self._value()}"

    def _range(self, table: str, hooks: frozenset[str]) -> str:
        low, high = sorted((self.host(), self.host()), key=lambda each: int(ip_address(each)))
        return f"-m iprange {self.flag()}{self.random.choice(('--src-range', '--dst-range'))} {low}-{high}"

    def _length(self, table: str, hooks: frozenset[str]) -> str:
        return f"-m length {self.flag()}--length {self.random.choice(('0:60', '44', '61:1500', '40:48', '100:'))}"

    def _ttl(self, table: str, hooks: frozenset[str]) -> str:
        how = self.random.choice(("eq", "gt", "lt"))
        value = self.random.choice((1, 5, 63, 64, 200))
        negate = self.flag() if how == "eq" else ""
        return f"-m ttl {negate}--ttl-{how} {value}" if self.family == 4 else f"-m hl {negate}--hl-{how} {value}"

    def _tos(self, table: str, hooks: frozenset[str]) -> str:
        kind = self.random.choice(("tos", "dscp", "ecn"))
        if kind == "tos":
            return f"-m tos {self.flag()}--tos {self.random.choice(('0x10', '0x10/0xff', '0x00/0x3f', '0x08/0x08'))}"
        if kind == "dscp":
            return f"-m dscp {self.flag()}--dscp {self.random.choice(('0x00', '0x04', '0x0a'))}"
        return f"-m ecn {self.flag()}--ecn-ip-ect {self.random.choice((0, 1, 2, 3))}"

    def _pkttype(self, table: str, hooks: frozenset[str]) -> str:
        return f"-m pkttype {self.flag()}--pkt-type {self.random.choice(('unicast', 'broadcast', 'multicast'))}"

    def _mac(self, table: str, hooks: frozenset[str]) -> str:
        if not hooks <= {"PREROUTING", "INPUT", "FORWARD"}:
            return ""
        return f"-m mac {self.flag()}--mac-source {self.random.choice((CLIENT_MAC, SERVER_MAC, '00:11:22:33:44:55'))}"

    def _physdev(self, table: str, hooks: frozenset[str]) -> str:
        if hooks <= {"PREROUTING", "INPUT", "FORWARD"} and self.random.random() < 0.5:
            return f"-m physdev {self.flag()}--physdev-in cl0"
        if hooks <= {"FORWARD"}:
            return f"-m physdev {self.flag()}{self.random.choice(('--physdev-is-bridged', '--physdev-is-in'))}"
        return ""

    def _devgroup(self, table: str, hooks: frozenset[str]) -> str:
        group = self.random.choice((*GROUP.values(), 9))
        if hooks <= {"PREROUTING", "INPUT", "FORWARD"}:
            return f"-m devgroup {self.flag()}--src-group {group:#x}"
        if hooks <= {"FORWARD", "POSTROUTING", "OUTPUT"}:
            return f"-m devgroup {self.flag()}--dst-group {group:#x}"
        return ""

    def _rpfilter(self, table: str, hooks: frozenset[str]) -> str:
        if not hooks <= {"PREROUTING"} or table not in ("raw", "mangle"):
            return ""
        return f"-m rpfilter {self.random.choice(('', '--loose', '--invert', '--validmark', '--accept-local --loose'))}"

    def _socket(self, table: str, hooks: frozenset[str]) -> str:
        return "-m socket" if hooks <= {"PREROUTING"} and table == "mangle" else ""

    def _owner(self, table: str, hooks: frozenset[str]) -> str:
        if not hooks <= {"OUTPUT"}:
            return ""
        owner = self.random.choice(("--uid-owner 0", "--uid-owner 7", "--gid-owner 0-5", "--socket-exists"))
        return f"-m owner {self.flag()}{owner}"

    def _policy(self, table: str, hooks: frozenset[str]) -> str:
        kind = self.random.choice(("none", "ipsec"))
        if hooks <= {"PREROUTING", "INPUT", "FORWARD"}:
            return f"-m policy --dir in --pol {kind}"
        return f"-m policy --dir out --pol {kind}" if hooks <= {"FORWARD", "OUTPUT", "POSTROUTING"} else ""

    def _vague(self, table: str, hooks: frozenset[str]) -> str:
        if self.random.random() < 0.7:
            return '-m comment --comment "a \\"quoted\\" -j DROP"'
        return self.random.choice(("-m limit --limit 1000/sec", "-m statistic --mode random --probability 0.5"))

    def _set(self, table: str, hooks: frozenset[str]) -> str:
        name, dims = self.random.choice(_SETS)
        if "iface" in name and not hooks <= {"PREROUTING", "INPUT", "FORWARD"}:
            return ""
        if name.startswith("port") and self.family == 6:
            return ""
        directions = ",".join(
            "src" if name.startswith("iface") and at == 1 else self.random.choice(("src", "dst")) for at in range(dims)
        )
        return f"-m set {self.flag()}--match-set {name}-{self.family} {directions}"

    def _helper(self, table: str, hooks: frozenset[str]) -> str:
        return f"-m helper {self.flag()}--helper ftp"

    def _recent(self, table: str, hooks: frozenset[str]) -> str:
        return (
            "-m realm --realm 0x1"
            if hooks <= {"FORWARD", "POSTROUTING", "INPUT", "OUTPUT"} and self.family == 4
            else ""
        )

    extras: tuple[Callable[[Grammar, str, frozenset[str]], str], ...] = (
        _conntrack, _conntrack, _conntrack, _addrtype, _mark, _mark, _range, _length, _ttl, _tos, _pkttype, _mac,
        _physdev, _devgroup, _rpfilter, _socket, _owner, _policy, _vague, _set, _set, _helper, _recent,
    )  # fmt: skip

    # --- targets

    def target(self, table: str, hooks: frozenset[str], proto: str, chains: list[str]) -> str:
        """A target that is allowed in a chain."""
        random = self.random
        if chains and random.random() < 0.3:
            return f"{random.choice(('-j', '-j', '-j', '-g'))} {random.choice(chains)}"
        options = ["-j ACCEPT", "-j RETURN", ""]
        if table == "nat":
            options += [self.nat(hooks, proto) for _ in range(6)]
        else:
            options += ["-j DROP"] * (2 if table in ("filter", "security") else 1)
        if table == "filter" and hooks <= {"INPUT", "FORWARD", "OUTPUT"}:
            options += [self.reject(proto), self.reject(proto)]
        if table == "mangle":
            options += [self.mangle(hooks) for _ in range(8)]
        if table == "raw":
            options += ["-j CT --notrack", "-j CT --notrack"]
        if table != "nat" and random.random() < 0.2:
            options.append('-j NFLOG --nflog-prefix "x y"')
        return random.choice(options)

    def reject(self, proto: str) -> str:
        """A REJECT of some kind."""
        if proto == "tcp" and self.random.random() < 0.5:
            return "-j REJECT --reject-with tcp-reset"
        kinds = ("", "icmp-net-unreachable", "icmp-host-prohibited", "icmp-admin-prohibited", "icmp-proto-unreachable")
        if self.family == 6:
            kinds = ("", "icmp6-no-route", "icmp6-adm-prohibited", "icmp6-addr-unreachable")
        kind = self.random.choice(kinds)
        return f"-j REJECT --reject-with {kind}" if kind else "-j REJECT"

    def mangle(self, hooks: frozenset[str]) -> str:
        """A target that changes the packet or its marks."""
        options = [
            "-j MARK --set-xmark 0x1/0xffffffff", "-j MARK --set-xmark 0x2/0x2", "-j MARK --and-mark 0xfe",
            "-j MARK --or-mark 0x10", "-j MARK --xor-mark 0x3", "-j MARK --set-mark 0x6/0x3",
            "-j CONNMARK --set-xmark 0x1/0xffffffff", "-j CONNMARK --save-mark", "-j CONNMARK --restore-mark",
            "-j CONNMARK --save-mark --nfmask 0x3 --ctmask 0x13",
            "-j CONNMARK --restore-mark --nfmask 0xf --ctmask 0xf",
            "-j DSCP --set-dscp 0x0a", "-j TOS --set-tos 0x10/0xff", "-j TOS --and-tos 0x0f", "-j TOS --or-tos 0x08",
        ]  # fmt: skip
        name, option = ("TTL", "ttl") if self.family == 4 else ("HL", "hl")
        options += [f"-j {name} --{option}-set 5", f"-j {name} --{option}-inc 1", f"-j {name} --{option}-dec 1"]
        return self.random.choice(options)

    def nat(self, hooks: frozenset[str], proto: str) -> str:
        """A target of the nat table, for the hooks a chain is reached from."""
        random = self.random
        ports = proto in ("tcp", "udp")
        hosts = HOSTS[self.family]
        if hooks <= {"PREROUTING", "OUTPUT"}:
            kind = random.random()
            if kind < 0.15 and hooks <= {"PREROUTING"}:
                return "-j REDIRECT" + (
                    f" --to-ports {random.choice(PORTS)}" if ports and random.random() < 0.6 else ""
                )
            if kind < 0.25:
                net = "10.71.2.0/24" if self.family == 4 else "fd71:2::/64"
                return f"-j NETMAP --to {net}"
            host = random.choice([*hosts["sv0"][:3], hosts["cl0"][1], FAR[self.family]])
            if kind < 0.4:
                host = f"{hosts['sv0'][0]}-{hosts['sv0'][4]}"
            text = self._bracket(host, ports and random.random() < 0.6)
            flags = " --persistent" if random.random() < 0.2 else ""
            return f"-j DNAT --to-destination {text}{flags}"
        if hooks <= {"POSTROUTING", "INPUT"}:
            if random.random() < 0.4 and hooks <= {"POSTROUTING"}:
                text = "-j MASQUERADE"
                if ports and random.random() < 0.3:
                    text += f" --to-ports {random.choice(('2000-2100', '3000'))}"
                return text + (" --random-fully" if random.random() < 0.15 else "")
            host = SNATS[self.family]
            if random.random() < 0.3:
                host = f"{host}-{ip_address(host) + 4}"
            return f"-j SNAT --to-source {self._bracket(host, ports and random.random() < 0.3)}"
        return "-j ACCEPT"

    def _bracket(self, host: str, with_port: bool) -> str:
        if not with_port:
            return host
        port = self.random.choice(("80", "8080", "1000-1010"))
        if self.family == 6:
            return f"[{host}]:{port}"
        return f"{host}:{port}"

    # --- the whole

    def case(self, size: int = 6) -> Case:
        """A ruleset with about `size` rules a chain, and packets for it."""
        random = self.random
        tables = random.sample(("raw", "mangle", "nat", "filter", "security"), random.randint(1, 3))
        if random.random() < 0.5 and "filter" not in tables:
            tables.append("filter")
        texts = [self.table(name, size) for name in tables]
        # With both backends each has tables of its own, so that no two chains share hook and priority.
        split = random.randint(0, len(texts)) if self.backend == "both" else len(texts)
        flows = self.flows(random.randint(4, 8))
        rules, legacy_rules = "".join(texts[:split]), "".join(texts[split:])
        return Case(self.family, self.backend, rules, ipsets(self.family), legacy_rules, flows)

    def table(self, name: str, size: int) -> str:
        """One table as restore reads it."""
        random = self.random
        hooks = HOOKS[name]
        own: dict[str, tuple[str, frozenset[str]]] = {}
        for at in range(random.randint(0, 4)):
            # The hooks from which a chain may be reached are fixed beforehand, so that its rules are legal there.
            own[f"{name[:3].upper()}-{at}"] = ("-", frozenset({random.choice(hooks)}))
        if name == "filter" and random.random() < 0.5:
            own["BOTH"] = ("-", frozenset({"FORWARD", "INPUT"}))
        lines = [f"*{name}"]
        for hook in hooks:
            policy = "DROP" if name == "filter" and random.random() < 0.15 else "ACCEPT"
            lines.append(f":{hook} {policy} [0:0]")
        lines += [f":{chain} - [0:0]" for chain in own]
        names = list(own)
        for chain, reach in [*((hook, frozenset({hook})) for hook in hooks), *((c, own[c][1]) for c in own)]:
            after = names[names.index(chain) + 1 :] if chain in own else names
            callable_ = [each for each in after if reach <= own[each][1]]
            for _ in range(random.randint(0, size)):
                matches, proto = self.matches(name, reach)
                target = self.target(name, reach, proto, callable_)
                lines.append(f"-A {chain} {matches} {target}".replace("  ", " ").rstrip())
        return "\n".join([*lines, "COMMIT", ""])

    def flows(self, count: int) -> list[tuple[str, Packet]]:
        """Packets to send: from the client ("c"), the server ("s"), or the router itself ("r")."""
        random = self.random
        found: list[tuple[str, Packet]] = []
        hosts = HOSTS[self.family]
        for at in range(count):
            origin = random.choice("ccccssr")
            near, far = ("cl0", "sv0") if origin != "s" else ("sv0", "cl0")
            src = random.choice(hosts[near][:3])
            dst = random.choice([*hosts[far][:3], *hosts[far][:3], FAR[self.family], str(OWN[self.family][near])])
            proto = random.choice((6, 17, 1 if self.family == 4 else 58))
            fields: dict[str, int] = {}
            if proto in (6, 17):
                # Ports differ between flows, so that translations do not meet by accident.
                fields = {
                    "sport": 40000 + at if random.random() < 0.7 else PORTS[at % len(PORTS)],
                    "dport": random.choice(PORTS),
                }
                if proto == 6:
                    fields["tcp_flags"] = random.choice((2, 2, 2, 2, 16, 24, 18, 17))
            else:
                kind = (8, 8, 8, 13, 0) if self.family == 4 else (128, 128, 128, 129)
                fields = {"icmp_type": random.choice(kind), "icmp_code": 0, "icmp_id": 700 + at}
            ttl = random.choice((64, 64, 64, 2, 200, 5))
            if origin == "r":
                if proto != 17:
                    continue
                src, ttl = str(OWN[self.family]["cl0"]), 64
                dst = random.choice([*hosts["cl0"][:2], *hosts["sv0"][:3], FAR[self.family]])
                fields["sport"] = 41000 + at
            tos = random.choice((0, 0, 0x10, 0x28, 0x01)) if origin != "r" else 0
            found.append(
                (
                    origin,
                    Packet(
                        family=self.family, src=ip_address(src), dst=ip_address(dst), proto=proto, ttl=ttl, tos=tos,
                        **fields,
                    ),
                )
            )  # fmt: skip
        return found


_SETS = (
    ("ip", 1), ("net", 1), ("ipport", 2), ("netport", 2), ("ipportip", 3), ("ifacenet", 2), ("list", 1), ("portmap", 1),
)  # fmt: skip


def ipsets(family: int) -> str:
    """The ipsets that every case has, as `ipset restore` reads them."""
    hosts, far, inet = HOSTS[family], FAR[family], "inet" if family == 4 else "inet6"
    narrow, wide = ("10.71.2.0/30", "10.71.0.0/16") if family == 4 else ("fd71:2::/126", "fd71::/16")
    lines = [
        f"create ip-{family} hash:ip family {inet}",
        f"add ip-{family} {hosts['cl0'][0]}",
        f"add ip-{family} {hosts['sv0'][1]}",
        f"add ip-{family} {far}",
        f"create net-{family} hash:net family {inet}",
        f"add net-{family} {wide}",
        f"add net-{family} {narrow} nomatch",
        f"add net-{family} {hosts['sv0'][0]}",
        f"create ipport-{family} hash:ip,port family {inet}",
        f"add ipport-{family} {hosts['cl0'][0]},tcp:80",
        f"add ipport-{family} {hosts['sv0'][0]},udp:53",
        f"add ipport-{family} {hosts['sv0'][0]},{'icmp:8/0' if family == 4 else 'icmpv6:128/0'}",
        f"create netport-{family} hash:net,port family {inet}",
        f"add netport-{family} {wide},tcp:443",
        f"add netport-{family} {narrow},tcp:443 nomatch",
        f"create ipportip-{family} hash:ip,port,ip family {inet}",
        f"add ipportip-{family} {hosts['cl0'][0]},tcp:80,{hosts['sv0'][0]}",
        f"create ifacenet-{family} hash:net,iface family {inet}",
        f"add ifacenet-{family} {wide},cl0",
        f"create list-{family} list:set",
        f"add list-{family} ip-{family}",
        f"add list-{family} net-{family}",
    ]
    if family == 4:
        lines += [
            f"create portmap-{family} bitmap:port range 0-2000",
            f"add portmap-{family} 80-90",
            f"add portmap-{family} 1000",
        ]
    return "\n".join(lines) + "\n"
