"""`iptables -L`: what the listing for people tells, turned into the language of iptables-save.

`-nv` shows interfaces and counters; without `-v` the interfaces are hidden, without `-n` addresses and ports are
names. What a row says after its columns is the free text of matches and targets: what is known of it is turned back
into options, and the rest becomes a match that cannot be evaluated. See iptables(8), and `print` and `save` of
iptables' extensions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_network

from nettrace.paste.iptables_text import HOOKS, UNREAD, TableText, guess_family, guess_table
from nettrace.paste.lines import Line, Trouble, quoted

__all__ = ["CHAIN", "COLUMNS", "parse_listing"]

CHAIN = re.compile(r"Chain (\S+) \((?:policy (\S+)(?: .*)?|(?:\d+|-\d+) references)\)\s*")
COLUMNS = re.compile(r"(?:num\s+)?(?:pkts\s+bytes\s+)?target\s+prot\s+opt\s+(?:in\s+out\s+)?source\s+destination\s*")
_COUNT = re.compile(r"\d+[KMGT]?")
_OPT = ("--", "-f", "!f", "----")
_PROTOCOLS = {
    "0": "all",
    "1": "icmp",
    "6": "tcp",
    "17": "udp",
    "58": "ipv6-icmp",
    "132": "sctp",
    "47": "gre",
    "50": "esp",
}
_ADDRESS = re.compile(r"!?[0-9a-fA-F:.]+(?:/[0-9a-fA-F:.]+)?")


def parse_listing(
    lines: Sequence[Line], *, table: str | None = None, family: str | None = None
) -> tuple[list[TableText], list[Trouble]]:
    """Return the tables of a paste of `iptables -L`, with or without -n, -v, -x, --line-numbers."""
    found: list[TableText] = []
    troubles: list[Trouble] = []
    part = _Listing()
    for number, text in lines:
        stripped = text.strip()
        if not stripped or stripped.startswith("#"):
            continue
        chain = CHAIN.fullmatch(stripped)
        if chain is not None and part.is_over(chain):
            found += part.close(table, family, troubles)
            part = _Listing()
        part.line(number, stripped, chain, troubles)
    found += part.close(table, family, troubles)
    return found, troubles


class _Listing:
    """One run of `iptables -L`."""

    def __init__(self) -> None:
        self.policies: dict[str, str] = {}
        self.chains: dict[str, None] = {}
        self.rules: list[tuple[int, str, list[str]]] = []
        self.chain: str | None = None
        self.numbered = False
        self.verbose = False
        self.names = False

    def is_over(self, chain: re.Match[str]) -> bool:
        """Tell whether the head of a chain begins another run: a base chain again, or after chains of one's own."""
        if chain[2] is None:
            return chain[1] in self.chains
        return chain[1] in self.policies or bool(self.chains) or (chain[1] == "PREROUTING" and bool(self.policies))

    def line(self, number: int, line: str, chain: re.Match[str] | None, troubles: list[Trouble]) -> None:
        if chain is not None:
            self.chain = chain[1]
            if chain[2] is not None:
                self.policies[chain[1]] = chain[2]
            else:
                self.chains[chain[1]] = None
        elif COLUMNS.fullmatch(line):
            words = line.split()
            self.numbered, self.verbose = words[0] == "num", "pkts" in words and "in" in words
        elif self.chain is None:
            troubles.append(Trouble(line=number, text=quoted(line)))
        else:
            self.rules.append((number, self.chain, line.split()))

    def close(self, table: str | None, family: str | None, troubles: list[Trouble]) -> list[TableText]:
        if not self.policies and not self.chains:
            return []
        name = table or guess_table(tuple(self.policies), (" ".join(words[:6]) for _, _, words in self.rules))
        if name is None:
            at = self.rules[0][0] if self.rules else 0
            reason = "of which table is not told: run `iptables-save`"
            troubles.append(Trouble(line=at, text="iptables -L", reason=reason))
            return []
        told = family or guess_family(" ".join(words) for _, _, words in self.rules)
        made: list[str] = []
        for number, chain, words in self.rules:
            counters, rule, doubt = self._rule(words, told or "ip")
            if doubt:
                troubles.append(Trouble(line=number, text=quoted(" ".join(words)), reason=doubt))
            made.append(f"{counters}-A {chain} {rule}")
        missing = [chain for chain in HOOKS[name] if chain not in self.policies]
        whole = not [chain for chain in missing if (name, chain) != ("nat", "INPUT")]
        heads = [f":{chain} {_policy(self.policies.get(chain))} [0:0]" for chain in HOOKS[name]]
        own = [chain for chain in self.chains if chain not in HOOKS[name]]
        if not whole:
            # `iptables -L CHAIN` shows one chain; what it jumps to is not there.
            jumps = {chain for rule in made for chain in re.findall(r" -[jg] (\S+)$", rule)}
            own += sorted(each for each in jumps - set(own) - set(HOOKS[name]) if not each.isupper() or "-" in each)
            lacking = [chain for chain in (*missing, *own) if chain not in self.chains and chain not in self.policies]
            made += [f'-A {chain} -m {UNREAD} --text "chain {chain}" -j DROP' for chain in lacking]
        heads += [f":{chain} - [0:0]" for chain in own]
        return [
            TableText(
                table=name,
                lines=(*heads, *made),
                family=told,
                whole=whole,
                alone=True,
                source="iptables -nvL" if self.verbose else "iptables -L",
            )
        ]

    def _rule(self, words: list[str], family: str) -> tuple[str, str, str]:
        """Return a row's counters and options as iptables-save has them, and what is not known ("" when all is)."""
        row = list(words)
        if self.numbered and row and row[0].isdigit():
            row.pop(0)
        counters = ""
        if self.verbose or (len(row) > 2 and _COUNT.fullmatch(row[0]) and _COUNT.fullmatch(row[1])):
            if len(row) < 2 or not _COUNT.fullmatch(row[0]) or not _COUNT.fullmatch(row[1]):
                return "", _unknown(words), "not understood"
            packets, octets = row.pop(0), row.pop(0)
            if packets.isdigit() and octets.isdigit():
                counters = f"[{packets[:20]}:{octets[:20]}] "
        # Source and destination are the first two columns in a row that are addresses; older ip6tables leave `opt` out.
        at = next((n for n in range(1, len(row) - 1) if _is_place(row[n]) and _is_place(row[n + 1])), -1)
        before = row[:at] if at >= 0 else []
        interfaces: list[str] = []
        if self.verbose and len(before) >= 3:
            interfaces, before = before[-2:], before[:-2]
        if before and before[-1] in _OPT:
            if before[-1] != "--":
                return "", _unknown(words), f"fragments ({before[-1]}) are not modelled"
            before.pop()
        if at < 0 or not 1 <= len(before) <= 2 or (self.verbose and len(interfaces) != 2):
            return "", _unknown(words), "not understood"
        target = before[0] if len(before) == 2 else ""
        options, doubts = [], []
        for flag, value in (("-s", row[at]), ("-d", row[at + 1])):
            option, unclear = _place(flag, value, family)
            options += option
            doubts += unclear
        if self.verbose:
            for flag, value in (("-i", interfaces[0]), ("-o", interfaces[1])):
                if value not in ("*", "any"):
                    options += ["!", flag, value[1:]] if value.startswith("!") else [flag, value]
        else:
            doubts.append("interfaces")
        proto = before[-1]
        negated = proto.startswith("!")
        number = _PROTOCOLS.get(proto.lstrip("!"), proto.lstrip("!"))
        if number != "all":
            options += (["!"] if negated else []) + ["-p", number]
        leap = "-g" if "[goto]" in row[at + 2 :] else "-j"
        matches, effect, rest = _extras(" ".join(row[at + 2 :]), target)
        options += matches
        if rest:
            doubts.append(quoted(rest))
        if doubts:
            # What is hidden could only make the rule match less often: it may match, or it may not.
            options += ["-m", UNREAD, "--text", f'"{_plain(", ".join(doubts))}"']
        jump = f"{leap} {target}{effect}" if target else ""
        doubt = "" if not rest else f"not understood: {quoted(rest)}"
        return counters, " ".join([*options, jump]).strip(), doubt


def _plain(text: str) -> str:
    return re.sub(r'["\\\s]+', " ", text).strip()


def _unknown(words: Sequence[str]) -> str:
    return f'-m {UNREAD} --text "{_plain(quoted(" ".join(words)))}" -j DROP'


def _policy(told: str | None) -> str:
    return told if told in ("ACCEPT", "DROP") else "ACCEPT"


def _is_place(word: str) -> bool:
    plain = word.lstrip("!")
    if plain in ("anywhere", "localhost"):
        return True
    if _ADDRESS.fullmatch(word) is not None and ("." in word or ":" in word):
        return True
    # A name of a host, which -L without -n prints.
    return re.fullmatch(r"[A-Za-z][\w-]*(?:\.[\w-]+)+(?:/\d+)?", plain) is not None


def _place(flag: str, word: str, family: str) -> tuple[list[str], list[str]]:
    negated, plain = word.startswith("!"), word.lstrip("!")
    if plain in ("anywhere", "0.0.0.0/0", "::/0"):
        return ([], []) if not negated else ([], [f"{flag} {word}"])
    if plain == "localhost":
        plain = "127.0.0.1" if family == "ip" else "::1"
    try:
        network = ip_network(plain, strict=False)
    except ValueError:
        return [], [f"{flag} {word}"]
    if (network.version == 4) != (family == "ip"):
        return [], [f"{flag} {word}"]
    return [*(["!"] if negated else []), flag, str(network)], []


#: Free text of matches, tried from the left; each with the options that print it.
_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), options)
    for pattern, options in (
        (r"/\* .*? \*/", ""),
        (r"(tcp|udp|sctp|dccp) (dpt|spt):(!?)([\w-]+)", "port"),
        (r"(tcp|udp|sctp|dccp) (dpts|spts):(!?)(\d+:\d+)", "port"),
        (r"(dpt|spt):(!?)([\w-]+)", "more"),
        (r"(dpts|spts):(!?)(\d+:\d+)", "more"),
        (r"(tcp|udp|sctp|dccp)(?= |$)", ""),
        (r"(!?)ctstate ([A-Z,]+)", "ctstate"),
        (r"state ([A-Z,]+)", "state"),
        (r"ADDRTYPE match(?: (src|dst)-type (!?)([A-Z,]+))(?: (limit-(?:in|out)))?", "addrtype"),
        (r"(!?) ?match-set (\S+) ([a-z,]+)", "set"),
        (r"multiport (dports|sports|ports) (!?)([\d:,]+)", "multiport"),
        (r"mark match (!?)(0x[0-9a-fA-F]+(?:/0x[0-9a-fA-F]+)?)", "mark"),
        (r"connmark match (!?) ?(0x[0-9a-fA-F]+(?:/0x[0-9a-fA-F]+)?)", "connmark"),
        (r"icmp(?:type)? ?(\d+)(?: code (\d+))?(?= |$)", "icmp"),
        (r"ipv6-icmptype (\d+)(?: code (\d+))?(?= |$)", "icmp6"),
        (r"PHYSDEV match((?: !? ?--physdev-[a-z-]+(?: \S+)?)+)", "physdev"),
        (r"MAC ?(!?)((?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2})", "mac"),
    )
)
_NUMERIC = {
    "http": "80",
    "https": "443",
    "domain": "53",
    "ssh": "22",
    "webcache": "8080",
    "http-alt": "8080",
    "smtp": "25",
}


def _extras(text: str, target: str) -> tuple[list[str], str, str]:
    """Return (options of matches, options of the target, the rest that is not understood) of a row's free text."""
    options: list[str] = []
    rest: list[str] = []
    effect, text = _effect(text, target)
    while text:
        text = text.lstrip()
        if not text:
            break
        for pattern, kind in _TEXTS:
            found = pattern.match(text)
            if found is not None:
                made = _options(kind, found)
                if made is None:
                    rest.append(found[0])
                else:
                    options += made
                text = text[found.end() :]
                break
        else:
            word, _, text = text.partition(" ")
            rest.append(word)
    return options, effect, " ".join(rest)


def _port(name: str) -> str | None:
    return name if name.isdigit() or ":" in name else _NUMERIC.get(name)


def _options(kind: str, found: re.Match[str]) -> list[str] | None:
    """Return the options that print what a pattern found; None when they cannot be told."""

    def negated(sign: str | None) -> list[str]:
        return ["!"] if sign else []

    if kind == "":
        return []
    if kind == "port":
        port = _port(found[4])
        option = "--dport" if found[2].startswith("d") else "--sport"
        return None if port is None else ["-m", found[1], *negated(found[3]), option, port]
    if kind == "more":
        port = _port(found[3])
        option = "--dport" if found[1].startswith("d") else "--sport"
        return None if port is None else [*negated(found[2]), option, port]
    if kind == "ctstate":
        return ["-m", "conntrack", *negated(found[1]), "--ctstate", found[2]]
    if kind == "state":
        return ["-m", "state", "--state", found[1]]
    if kind == "addrtype":
        tail = [f"--limit-iface-{found[4].removeprefix('limit-')}"] if found[4] else []
        return ["-m", "addrtype", *negated(found[2]), f"--{found[1]}-type", found[3], *tail]
    if kind == "set":
        return ["-m", "set", *negated(found[1]), "--match-set", found[2], found[3]]
    if kind == "multiport":
        return ["-m", "multiport", *negated(found[2]), f"--{found[1]}", found[3]]
    if kind in ("mark", "connmark"):
        return ["-m", kind, *negated(found[1]), "--mark", found[2]]
    if kind in ("icmp", "icmp6"):
        option = "--icmp-type" if kind == "icmp" else "--icmpv6-type"
        return ["-m", kind, option, found[1] + (f"/{found[2]}" if found[2] else "")]
    if kind == "physdev":
        return ["-m", "physdev", *found[1].split()]
    return ["-m", "mac", *negated(found[1]), "--mac-source", found[2]]


#: What targets print, after everything else.
_EFFECTS: dict[str, tuple[re.Pattern[str], str]] = {
    "DNAT": (re.compile(r"(?:^| )to:(\S+)((?: random| persistent)*)\s*$"), " --to-destination {0}"),
    "SNAT": (re.compile(r"(?:^| )to:(\S+)((?: random| random-fully| persistent)*)\s*$"), " --to-source {0}"),
    "MASQUERADE": (re.compile(r"(?:^| )masq ports: (\S+)\s*$"), " --to-ports {0}"),
    "REDIRECT": (re.compile(r"(?:^| )redir ports (\S+)\s*$"), " --to-ports {0}"),
    "REJECT": (re.compile(r"(?:^| )reject-with (\S+)\s*$"), " --reject-with {0}"),
    "MARK": (re.compile(r"(?:^| )MARK (?:set|xset) (0x[0-9a-fA-F]+(?:/0x[0-9a-fA-F]+)?)\s*$"), " --set-xmark {0}"),
    "LOG": (re.compile(r"(?:^| )LOG flags \d+ level \d+(?: prefix .*)?$"), ""),
    "NFLOG": (re.compile(r"(?:^| )nflog-.*$"), ""),
}


def _effect(text: str, target: str) -> tuple[str, str]:
    """Return the options of a target, and the text without what it printed."""
    known = _EFFECTS.get(target)
    if known is None:
        return "", text.replace("[goto]", "").strip()
    found = known[0].search(text)
    if found is None:
        return "", text
    return known[1].format(*found.groups()), text[: found.start()]
