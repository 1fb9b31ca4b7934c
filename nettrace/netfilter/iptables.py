"""What `iptables-save` and `ip6tables-save` print, of either backend, as tables and chains.

A reader that skips is a reader that lies: a match or target that is not known here is kept as unknown with its
text; anything that is no line of the format is an error with its line number.

Source of the format: iptables-save(8), iptables/iptables-restore.c; hook priorities: linux/netfilter_ipv4.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from nettrace.errors import InputError
from nettrace.model.netfilter import Hook
from nettrace.netfilter.names import PROTOCOLS
from nettrace.netfilter.ruleset import (
    AllOf,
    AnyOf,
    Base,
    ChainBuilder,
    Condition,
    Deferred,
    Expr,
    Goto,
    In,
    Jump,
    Payload,
    RulesetBuilder,
    Table,
    TableBuilder,
    UnknownMatch,
    UnknownStatement,
)
from nettrace.netfilter.xt_matches import MODULES, Module, Option, header
from nettrace.netfilter.xt_targets import TARGETS, is_extension
from nettrace.netfilter.xt_values import address_condition

__all__ = ["MAX_BYTES", "fill_iptables", "parse_iptables_save", "split_words"]

#: Largest dump that is read, in characters; the largest rulesets in the field are a tenth of it.
MAX_BYTES = 256 * 1024 * 1024

_ALL = (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING)
_LOCAL = (Hook.INPUT, Hook.FORWARD, Hook.OUTPUT)

#: Base chains of each table: type, and per hook the priority (enum nf_ip_hook_priorities).
BASE_CHAINS: dict[str, tuple[str, dict[Hook, int]]] = {
    "raw": ("filter", dict.fromkeys((Hook.PREROUTING, Hook.OUTPUT), -300)),
    "mangle": ("filter", dict.fromkeys(_ALL, -150)),
    "nat": (
        "nat",
        {Hook.PREROUTING: -100, Hook.OUTPUT: -100, Hook.INPUT: 100, Hook.POSTROUTING: 100},
    ),
    "filter": ("filter", dict.fromkeys(_LOCAL, 0)),
    "security": ("filter", dict.fromkeys(_LOCAL, 50)),
}

#: Options of the header match: spelling → canonical name.
_HEADER: dict[str, str] = {
    "-s": "-s", "--source": "-s", "--src": "-s",
    "-d": "-d", "--destination": "-d", "--dst": "-d",
    "-i": "-i", "--in-interface": "-i",
    "-o": "-o", "--out-interface": "-o",
    "-p": "-p", "--protocol": "-p", "--proto": "-p",
}  # fmt: skip

#: Match that a protocol brings along without -m.
_IMPLIED = {
    "tcp": "tcp", "6": "tcp", "udp": "udp", "17": "udp", "udplite": "udplite", "136": "udplite", "sctp": "sctp",
    "132": "sctp", "dccp": "dccp", "33": "dccp", "icmp": "icmp", "1": "icmp", "icmpv6": "icmp6", "ipv6-icmp": "icmp6",
    "58": "icmp6", "ah": "ah", "51": "ah", "esp": "esp", "50": "esp", "mh": "mh", "ipv6-mh": "mh", "135": "mh",
}  # fmt: skip


def parse_iptables_save(text: str, *, backend: str, family: str) -> tuple[Table, ...]:
    """Parse the output of iptables-save (family "ip") or ip6tables-save ("ip6"); `backend` is "nft" or "legacy".

    Raises InputError, with the line number, for a truncated dump, a listing of another command, an unknown table,
    a jump that leads nowhere or in a circle, and anything that is no line of the format.
    """
    builder = RulesetBuilder()
    fill_iptables(builder, text, backend=backend, family=family)
    return tuple(table.build() for table in builder.tables.values())


def fill_iptables(builder: RulesetBuilder, text: str, *, backend: str, family: str) -> None:
    """Parse a dump into a builder; raises as parse_iptables_save, but leaves jumps to be checked by `build`."""
    if len(text) > MAX_BYTES:
        raise InputError(f"the dump is larger than {MAX_BYTES // 1024 // 1024} MiB; give the tables one by one")
    if "\0" in text[:65536]:
        raise InputError("line 1: this is binary data; give the text that iptables-save prints")
    reader = _Reader(builder, backend, family)
    number = 0
    for number, line in enumerate(text.split("\n"), 1):
        if line:
            reader.line(line, number)
    reader.end(number)


_ADDRESS = r"[0-9A-Fa-f:.]+(?:/[0-9A-Fa-f:.]+)?"
#: A rule that is sure to be well formed: plain options in the order of iptables-save, each with its value.
_PLAIN = re.compile(
    rf"""
    (?:-A\ )(?P<chain>[^\s"]+)
    (?:\ (?P<not_s>!\ )?-s\ (?P<s>{_ADDRESS}))?
    (?:\ (?P<not_d>!\ )?-d\ (?P<d>{_ADDRESS}))?
    (?:\ (?P<not_i>!\ )?-i\ (?P<i>[^\s"!]+))?
    (?:\ (?P<not_o>!\ )?-o\ (?P<o>[^\s"!]+))?
    (?:\ (?P<not_p>!\ )?-p\ (?P<p>[a-z0-9-]+))?
    (?:
        \ -m\ (?:tcp|udp)(?:\ (?:!\ )?--[ds]port\ \d+(?::\d+)?)+
      | \ -m\ comment\ --comment\ (?:"[^"\\]*"|[^\s"\\!-][^\s"\\]*)
      | \ -m\ conntrack\ (?:!\ )?--ctstate\ [A-Z,]+
    )*
    (?:\ (?P<how>-[jg])\ (?P<target>[^\s"!-][^\s"]*)(?P<tail>(?:\ --[a-z][a-z-]*(?:\ [^\s"!-][^\s"]*)?)*))?
    """,
    re.VERBOSE,
).fullmatch

#: Targets whose effect depends on nothing but the rule.
_PLAIN_TARGETS = frozenset({"ACCEPT", "DROP", "RETURN", "REJECT", "LOG", "NFLOG"})


class _Plain(Deferred):
    """A rule of a plain form, kept as its line."""

    __slots__ = ("backend", "chains", "known", "line", "packets", "version")

    def __init__(
        self,
        line: str,
        packets: int | None,
        backend: str,
        version: int,
        chains: dict[str, ChainBuilder],
        known: dict[tuple[str, str], tuple[Expr, ...]],
        target: str | None,
    ) -> None:
        self.line = line
        self.packets = packets
        self.backend = backend
        self.version = version
        self.chains = chains
        self.known = known
        self.target = target
        self.handle = None

    def read(self) -> tuple[tuple[Expr, ...], str, str, int | None]:
        """Return the expressions, the text, the comment, and the packets counted."""
        exprs, comment, counted = _Line(self.line, self.backend, self.version, self.chains, self.known).parse()
        return tuple(exprs), self.line, comment, self.packets if self.packets is not None else counted

    def conditions(self) -> Iterator[Condition]:
        """Yield what the header of the rule asks for."""
        found = _PLAIN(self.line)
        if found is None:
            return
        for key, field in (("i", "iif"), ("o", "oif")):
            name = found[key]
            if name is not None and name[-1] != "+":
                yield field, None, name, found[f"not_{key}"] is not None
        if (number := PROTOCOLS.get(found["p"] or "")) is not None and number != 0:
            yield "proto", None, number, found["not_p"] is not None
        for key, field in (("s", "saddr"), ("d", "daddr")):
            if found[key] is not None:
                yield from address_condition(field, found[key], self.version, negated=found[f"not_{key}"] is not None)

    def outputs(self) -> list[str]:
        """Return the output device that the rule names."""
        found = _PLAIN(self.line)
        return [found["o"]] if found is not None and found["o"] is not None else []


class _Reader:
    """Reads a dump line by line."""

    def __init__(self, builder: RulesetBuilder, backend: str, family: str) -> None:
        self.builder = builder
        self.backend = backend
        self.family = family
        self.version = 4 if family == "ip" else 6
        self.table: TableBuilder | None = None
        self.chains: dict[str, ChainBuilder] = {}
        self.pending: list[tuple[ChainBuilder, str, int | None, int]] = []
        self.known: dict[tuple[str, str], tuple[Expr, ...]] = {}

    def line(self, line: str, number: int) -> None:
        """Take one line that is not empty."""
        first = line[0]
        if first == "-" or first == "[":
            self._rule(line, number)
        elif first == ":":
            self._chain(line, number)
        elif first == "*":
            self._table(line, number)
        elif first == "#":
            return
        elif line.strip() == "COMMIT":
            self._commit(number)
        elif line.strip():
            raise InputError(_explain(line, number, self.family))

    def end(self, number: int) -> None:
        """Check that the dump was whole."""
        if self.table is not None:
            raise InputError(
                f"line {number}: the dump ends inside table {self.table.name}, without COMMIT: it is cut short; "
                f"take it again with `{_tool(self.family)}`"
            )

    def _table(self, line: str, number: int) -> None:
        if self.table is not None:
            raise InputError(f"line {number}: table {self.table.name} has no COMMIT before {line.strip()}")
        name = line[1:].strip()
        if name not in BASE_CHAINS:
            raise InputError(
                f"line {number}: {name[:40]!r} is no table of iptables (raw, mangle, nat, filter, security)"
            )
        self.table = self.builder.table(self.backend, self.family, name)
        self.chains = self.table.chains
        self.pending = []

    def _chain(self, line: str, number: int) -> None:
        table = self._in_table(line, number)
        words = line[1:].split()
        if len(words) < 2:
            raise InputError(f"line {number}: a chain needs a name and a policy: {line[:60]!r}")
        name, policy = words[0], words[1]
        kind, hooks = BASE_CHAINS[table.name]
        hook = next((each for each in hooks if each.name == name), None)
        if hook is None:
            if policy != "-":
                raise InputError(f"line {number}: chain {name} of table {table.name} cannot have a policy ({policy})")
            table.chain(name, policy_text=f":{name} -")
            return
        if policy not in ("ACCEPT", "DROP", "-"):
            raise InputError(f"line {number}: {policy[:40]!r} is no policy of a chain (ACCEPT or DROP)")
        if table.name == "mangle" and hook == Hook.OUTPUT:
            kind = "route"
        base = Base(hook=hook, priority=hooks[hook], kind=kind, policy="drop" if policy == "DROP" else "accept")
        table.chain(name, base, policy_text=f":{name} {policy}")

    def _rule(self, line: str, number: int) -> None:
        self._in_table(line, number)
        packets: int | None = None
        if line[0] == "[":
            counters, _, line = line.partition("] ")
            try:
                packets = int(counters[1:].partition(":")[0])
            except ValueError:
                raise InputError(f"line {number}: {counters[:40]!r} are no counters") from None
        if not line.startswith(("-A ", "--append ")):
            raise InputError(_explain(line, number, self.family))
        name = line.partition(" ")[2].lstrip().partition(" ")[0].strip()
        chain = self.chains.get(name)
        if chain is None:
            raise InputError(f"line {number}: a rule for chain {name[:40]!r}, which the dump does not declare")
        self.pending.append((chain, line.rstrip(), packets, number))

    def _commit(self, number: int) -> None:
        if self.table is None:
            raise InputError(f"line {number}: COMMIT outside of a table")
        chains = self.chains
        for chain, line, packets, at in self.pending:
            plain = _PLAIN(line)
            targets = self._plain_targets(plain) if plain is not None else None
            if targets is not None:
                target = next(iter(targets), None)
                chain.defer(_Plain(line, packets, self.backend, self.version, chains, self.known, target))
                continue
            try:
                exprs, comment, counted = _Line(line, self.backend, self.version, chains, self.known).parse()
            except _BadLine as error:
                raise InputError(f"line {at}: {error}: {line[:200]!r}") from None
            chain.add(exprs, line, packets=packets if packets is not None else counted, comment=comment)
        self.table = None
        self.pending = []

    def _plain_targets(self, plain: re.Match[str]) -> tuple[str, ...] | None:
        """Return the chain that a plain rule leads to, if it leads to one; None when its target is not plain."""
        name = plain["target"]
        if name is None or (name in _PLAIN_TARGETS and plain["how"] == "-j"):
            return ()
        if name in TARGETS and plain["how"] == "-j":
            return None
        if plain["how"] == "-g" or (not plain["tail"] and (name in self.chains or not is_extension(name))):
            return (name,)
        return None

    def _in_table(self, line: str, number: int) -> TableBuilder:
        if self.table is None:
            raise InputError(_explain(line, number, self.family))
        return self.table


def _tool(family: str) -> str:
    return "iptables-save -c" if family == "ip" else "ip6tables-save -c"


def _explain(line: str, number: int, family: str) -> str:
    """Say what a line that does not belong here is likely to be, and what to do instead."""
    tool = _tool(family)
    if line.startswith("Chain ") or line.lstrip().startswith(("pkts ", "num ", "target ")):
        return (
            f"line {number}: this is the listing of `iptables -L`, which leaves things out; give the output of `{tool}`"
        )
    if line.startswith(("-P ", "-N ", "-A ", "--append ")):
        return f"line {number}: this is the output of `iptables -S`, which names no table; give that of `{tool}`"
    if line.startswith(("table ", "chain ", "add table", "{")):
        return (
            f"line {number}: this looks like nftables, beside iptables-save in one text; "
            "put each into a file of its own, and give both"
        )
    return f"line {number}: not a line of iptables-save: {line[:60]!r}; give the whole output of `{tool}`"


class _BadLine(ValueError):
    """A rule that cannot be read; the message lacks the line number."""


def _apart(between: str) -> bool:
    return between != "" and between[0].isspace() and between[-1].isspace()


def split_words(line: str) -> list[str]:
    """Split a rule into words as iptables-restore does: double quotes group, a backslash takes the next character.

    Raises ValueError when a quote is not closed.
    """
    if '"' not in line:
        return line.split()
    words: list[str] = []
    parts = line.split('"')
    ends_apart = (parts[0] == "" or parts[0][-1].isspace()) and (parts[-1] == "" or parts[-1][0].isspace())
    if len(parts) & 1 and ends_apart and "\\" not in line and all(map(_apart, parts[2:-1:2])):
        # Every quoted word stands by itself, as iptables-save writes it.
        for number, part in enumerate(parts):
            if number & 1:
                words.append(part)
            else:
                words += part.split()
        return words
    at, size = 0, len(line)
    while at < size:
        if line[at].isspace():
            at += 1
            continue
        word: list[str] = []
        quoted = False
        while at < size and (quoted or not line[at].isspace()):
            char = line[at]
            if char == '"':
                quoted = not quoted
            elif char == "\\" and quoted and at + 1 < size:
                at += 1
                word.append(line[at])
            else:
                word.append(char)
            at += 1
        if quoted:
            raise _BadLine("a quote is not closed")
        words.append("".join(word))
    return words


#: Matches whose ports iptables-nft turns into native expressions (add_nft_tcpudp).
_PORT_MATCHES = frozenset({"tcp", "udp", "udplite", "sctp", "dccp"})


def _both_ports_negated(exprs: tuple[Expr, ...], options: list[Option], text: str) -> tuple[Expr, ...]:
    """Return the match of a rule that negates one source and one destination port, as iptables-nft loads it.

    It compares both ports at once, as one number: the rule then matches where either differs, while its text, and
    nft's too, says that both do (nft_shared.c of iptables 1.8.8 and later; seen on 1.8.9). Older versions load what
    the text says, and the text does not tell by which it was loaded.
    """
    given = [each for each in options if each.name in ("--sport", "--dport")]
    if len(given) != 2 or not all(each.negated and each.arg.isdigit() for each in given):
        return exprs
    ports = tuple(
        each
        for each in exprs
        if isinstance(each, In) and isinstance(each.left, Payload) and each.left.field in ("sport", "dport")
    )
    others = tuple(each for each in exprs if each not in ports)
    reason = "iptables-nft may have loaded this as: either port differs (a fault of some of its versions)"
    doubt = UnknownMatch(text=text, reason=reason, stateful=False)
    return (*others, AnyOf(matches=ports), AnyOf(matches=(AllOf(matches=ports), doubt)))


class _Line:
    """Reads the words of one rule."""

    __slots__ = (
        "at",
        "backend",
        "chains",
        "comment",
        "exprs",
        "family",
        "known",
        "modules",
        "packets",
        "size",
        "words",
    )

    def __init__(
        self,
        line: str,
        backend: str,
        family: int,
        chains: dict[str, ChainBuilder],
        known: dict[tuple[str, str], tuple[Expr, ...]],
    ) -> None:
        self.words = split_words(line)
        self.backend = backend
        self.size = len(self.words)
        self.at = 2
        self.family = family
        self.chains = chains
        self.exprs: list[Expr] = []
        self.comment = ""
        self.packets: int | None = None
        #: Matches as they come: name, module, options, and the words they were made of.
        self.modules: list[tuple[str, Module | None, list[Option], list[str]]] = []
        #: Expressions by name and text: equal matches of a dump are one object.
        self.known = known

    def parse(self) -> tuple[list[Expr], str, int | None]:
        """Return the expressions, the comment and the counter of the rule; raises _BadLine."""
        words = self.words
        target: tuple[str, str] | None = None
        negated = False
        implied: str | None = None
        tail: list[str] = []
        while self.at < self.size:
            word = words[self.at]
            self.at += 1
            canonical = _HEADER.get(word)
            if canonical is not None:
                if self.at < self.size and words[self.at] == "!":
                    negated, self.at = True, self.at + 1
                option = Option(canonical, negated, (self._next(word),))
                negated = False
                if canonical == "-p":
                    implied = _IMPLIED.get(option.arg.lower())
                self._header(option)
            elif word == "!":
                negated = True
            elif word == "-m" or word == "--match":
                self._module(self._next(word))
            elif word in ("-j", "--jump", "-g", "--goto"):
                target = (word, self._next(word))
                tail = self._target_words()
            elif word in ("-f", "--fragment"):
                self.exprs += header(Option("-f", negated, ()), self.family)
                negated = False
            elif word in ("-c", "--set-counters"):
                counter = self._next(word)
                if not counter.isdigit():
                    raise _BadLine(f"{counter[:40]!r} is no counter")
                self.packets = int(counter)
                self._next(word)
            elif word in ("-4", "--ipv4", "-6", "--ipv6"):
                continue
            else:
                self._option(word, negated, implied)
                negated = False
        self._close_modules()
        if target is not None:
            self._target(*target, tail)
        return self.exprs, self.comment, self.packets

    def _next(self, word: str) -> str:
        if self.at >= self.size:
            raise _BadLine(f"{word} lacks its value")
        self.at += 1
        return self.words[self.at - 1]

    def _header(self, option: Option) -> None:
        text = f"! {option.arg}" if option.negated else option.arg
        found = self.known.get((option.name, text))
        if found is None:
            try:
                found = tuple(header(option, self.family))
            except ValueError as error:
                found = (UnknownMatch(text=f"{option.name} {text}", reason=str(error), stateful=False),)
            self.known[(option.name, text)] = found
        self.exprs += found

    # --- matches

    def _module(self, name: str) -> None:
        self.modules.append((name, MODULES.get(name), [], ["-m", name]))
        module = self.modules[-1]
        if module[1] is None:
            # Everything up to the next match or the target is the unknown match's own.
            while self.at < self.size and self.words[self.at] not in ("-m", "--match", "-j", "--jump", "-g", "--goto"):
                module[3].append(self.words[self.at])
                self.at += 1

    def _option(self, word: str, negated: bool, implied: str | None) -> None:
        found = self._find(word, implied)
        if found is None:
            text = [word, *self._arguments()]
            reason = f"the option {word} is not known here"
            self.exprs.append(UnknownMatch(text=" ".join(text), reason=reason))
            return
        name, module, options, text = found
        if module is None:
            text.append(word)
            return
        canonical, count = module.options[word]
        if count and self.at < self.size and self.words[self.at] == "!":
            negated, self.at = True, self.at + 1
        args = tuple(islice(self.words, self.at, self.at + count))
        if len(args) < count:
            raise _BadLine(f"{word} lacks its value")
        self.at += count
        options.append(Option(canonical, negated, args))
        text += [*(("!",) if negated else ()), word, *args]
        if name == "comment":
            self.comment = args[0]

    def _find(self, word: str, implied: str | None) -> tuple[str, Module | None, list[Option], list[str]] | None:
        for each in reversed(self.modules):
            if each[1] is not None and word in each[1].options:
                return each
        if implied is not None and word in MODULES[implied].options:
            self.modules.append((implied, MODULES[implied], [], ["-m", implied]))
            return self.modules[-1]
        return None

    def _arguments(self) -> list[str]:
        start = self.at
        while self.at < self.size and not self.words[self.at].startswith("-") and self.words[self.at] != "!":
            self.at += 1
        return self.words[start : self.at]

    def _close_modules(self) -> None:
        for name, module, options, words in self.modules:
            if name == "comment":
                continue
            text = " ".join(words)
            if module is None:
                reason = f"nettrace does not model the match {name}"
                self.exprs.append(UnknownMatch(text=text, reason=reason))
                continue
            found = self.known.get((name, text))
            if found is None:
                try:
                    found = tuple(module.build(tuple(options), self.family, text))
                    if self.backend == "nft" and name in _PORT_MATCHES:
                        found = _both_ports_negated(found, options, text)
                except (ValueError, KeyError, IndexError) as error:
                    reason = f"its arguments cannot be read ({error})"
                    found = (UnknownMatch(text=text, reason=reason, stateful=False),)
                self.known[(name, text)] = found
            self.exprs += found

    # --- target

    def _target_words(self) -> list[str]:
        start = self.at
        while self.at < self.size and self.words[self.at] not in ("-m", "--match", "-c", "--set-counters"):
            self.at += 1
        return self.words[start : self.at]

    def _target(self, how: str, name: str, tail: list[str]) -> None:
        text = " ".join([name, *tail])
        if how in ("-g", "--goto"):
            self.exprs.append(Goto(chain=name))
            return
        target = TARGETS.get(name)
        if name in self.chains and target is None:
            self.exprs.append(Jump(chain=name))
            return
        if target is None:
            if tail or is_extension(name):
                reason = f"nettrace does not model the target {name}"
                self.exprs.append(UnknownStatement(text=text, reason=reason))
            else:
                self.exprs.append(Jump(chain=name))
            return
        found = self.known.get(("-j", text))
        if found is None:
            try:
                found = tuple(target.build(tuple(_target_options(target.options, tail)), self.family, text))
            except (ValueError, KeyError, IndexError) as error:
                reason = f"the arguments of {name} cannot be read ({error})"
                found = (UnknownStatement(text=text, reason=reason),)
            self.known[("-j", text)] = found
        self.exprs += found


def _target_options(known: dict[str, tuple[str, int]], words: list[str]) -> Iterable[Option]:
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "!":
            continue
        if word not in known:
            raise ValueError(f"unknown option {word}")
        canonical, count = known[word]
        args = tuple(words[at : at + count])
        if len(args) < count:
            raise ValueError(f"{word} lacks its value")
        at += count
        yield Option(canonical, False, args)
