"""What `ebtables-save` prints, of either backend, as tables and chains of family bridge.

Source of the format and the matches: ebtables(8), ebtables-nft(8); of the priorities: linux/netfilter_bridge.h. A
chain that a user made has a policy of its own in ebtables, by default ACCEPT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nettrace.errors import InputError
from nettrace.model.netfilter import Hook, RuleRef
from nettrace.netfilter.iptables import MAX_BYTES, split_words
from nettrace.netfilter.names import ICMP4_TYPES, ICMP6_TYPES
from nettrace.netfilter.owner import owner_of
from nettrace.netfilter.ruleset import (
    Accept,
    Base,
    Binary,
    Chain,
    ChainBuilder,
    Concat,
    Const,
    Continue,
    Drop,
    Expr,
    In,
    Item,
    Jump,
    Masked,
    Meta,
    Never,
    Noop,
    Operand,
    Payload,
    Range,
    Return,
    Rule,
    RulesetBuilder,
    SetMeta,
    SetPayload,
    Statement,
    Table,
    TableBuilder,
    UnknownMatch,
    UnknownStatement,
    check_jumps,
)
from nettrace.netfilter.skb import mac_number
from nettrace.netfilter.xt_values import interface, masked, number, ports, prefix, protocol

__all__ = ["parse_ebtables_save"]

#: Base chains of each table with their priorities (enum nf_br_hook_priorities).
BASE_CHAINS: dict[str, dict[str, tuple[Hook, int, str]]] = {
    "filter": {
        "INPUT": (Hook.INPUT, -200, "filter"),
        "FORWARD": (Hook.FORWARD, -200, "filter"),
        "OUTPUT": (Hook.OUTPUT, 200, "filter"),
    },
    "nat": {
        "PREROUTING": (Hook.PREROUTING, -300, "nat"),
        "OUTPUT": (Hook.OUTPUT, 100, "nat"),
        "POSTROUTING": (Hook.POSTROUTING, 300, "nat"),
    },
    "broute": {"BROUTING": (Hook.PREROUTING, -(1 << 31), "filter")},
}

_ETHERTYPES = {
    "ipv4": 0x0800, "arp": 0x0806, "ipv6": 0x86DD, "802_1q": 0x8100, "802_1ad": 0x88A8, "x25": 0x0805, "rarp": 0x8035,
    "ppp_disc": 0x8863, "ppp_ses": 0x8864, "mpls_uc": 0x8847, "mpls_mult": 0x8848, "aarp": 0x80F3, "ipx": 0x8137,
}  # fmt: skip

_MACS: dict[str, Item] = {
    "unicast": Masked(value=0, mask=0x010000000000),
    "multicast": Masked(value=0x010000000000, mask=0x010000000000),
    "broadcast": 0xFFFFFFFFFFFF,
    "bga": Masked(value=0x0180C2000000, mask=0xFFFFFFFFFFFF),
}

_FULL_MAC = 0xFFFFFFFFFFFF


def parse_ebtables_save(text: str, *, backend: str = "nft") -> tuple[Table, ...]:
    """Parse the output of ebtables-save; `backend` is "nft" or "legacy".

    Raises InputError with the line number for anything that is no line of the format.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"the ebtables dump is larger than {MAX_BYTES // 1024 // 1024} MiB")
    builder = RulesetBuilder()
    policies: dict[tuple[str, str], str] = {}
    table: TableBuilder | None = None
    for at, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#") or line == "COMMIT":
            continue
        if line.startswith("*"):
            if line[1:] not in BASE_CHAINS:
                raise InputError(f"line {at}: {line[1:41]!r} is no table of ebtables (filter, nat, broute)")
            table = builder.table(backend, "bridge", line[1:])
        elif table is None:
            raise InputError(f"line {at}: not the output of ebtables-save: {line[:60]!r}; give that of `ebtables-save`")
        elif line.startswith(":"):
            _chain(table, line, at, policies)
        elif line.startswith(("-A ", "[")):
            _rule(table, line, at)
        else:
            raise InputError(f"line {at}: not a line of ebtables-save: {line[:60]!r}")
    tables = tuple(_with_policies(each.build(), policies) for each in builder.tables.values())
    for each in tables:
        check_jumps(each)
    return tables


def _chain(table: TableBuilder, line: str, at: int, policies: dict[tuple[str, str], str]) -> None:
    words = line[1:].split()
    if len(words) < 2 or words[1] not in ("ACCEPT", "DROP", "RETURN"):
        raise InputError(f"line {at}: a chain needs a name and a policy: {line[:60]!r}")
    name, policy = words[0], words[1]
    text = f":{name} {policy}"
    placed = BASE_CHAINS[table.name].get(name)
    if placed is None:
        policies[(table.name, name)] = policy
        table.chain(name, policy_text=text)
        return
    hook, priority, kind = placed
    verdict = "drop" if policy == "DROP" else "accept"
    table.chain(name, Base(hook=hook, priority=priority, kind=kind, policy=verdict), policy_text=text)


def _with_policies(table: Table, policies: dict[tuple[str, str], str]) -> Table:
    """Give each chain of the user's its policy, as a last rule without an index."""
    import msgspec

    chains: dict[str, Chain] = {}
    for name, chain in table.chains.items():
        policy = policies.get((table.name, name), "RETURN")
        if chain.base is None and policy != "RETURN":
            last = Rule(ref=chain.ref, exprs=(Accept() if policy == "ACCEPT" else Drop(),))
            chain = msgspec.structs.replace(chain, rules=chain.rules.plus(last))
        chains[name] = chain
    return msgspec.structs.replace(table, chains=chains)


def _rule(table: TableBuilder, line: str, at: int) -> None:
    packets: int | None = None
    if line.startswith("["):
        counters, _, line = line.partition("] ")
        first = counters[1:].partition(":")[0]
        packets = int(first) if first.isdigit() else None
    try:
        words = split_words(line)
    except ValueError as error:
        raise InputError(f"line {at}: {error}: {line[:200]!r}") from None
    chain = table.chains.get(words[1]) if len(words) > 1 else None
    if chain is None:
        raise InputError(f"line {at}: a rule for a chain that the dump does not declare: {line[:60]!r}")
    try:
        exprs, counted = _exprs(words[2:], table)
    except IndexError:
        raise InputError(f"line {at}: an option lacks its value: {line[:200]!r}") from None
    _add(chain, exprs, line, packets if packets is not None else counted)


def _add(chain: ChainBuilder, exprs: list[Expr], line: str, packets: int | None) -> None:
    table = chain.table
    ref = RuleRef(
        backend=table.backend,
        family=table.family,
        table=table.name,
        chain=chain.name,
        index=len(chain.rules) + 1,
        text=line,
        owner=owner_of(table.backend, table.family, table.name, chain.name, line, ""),
        packets=packets,
    )
    chain.rules.append(Rule(ref=ref, exprs=tuple(exprs)))


def _exprs(words: list[str], table: TableBuilder) -> tuple[list[Expr], int | None]:
    exprs: list[Expr] = []
    packets: int | None = None
    target: list[str] = ["CONTINUE"]
    at, negated = 0, False
    while at < len(words):
        word = words[at]
        at += 1
        if word == "!":
            negated = True
            continue
        if word in ("-j", "--jump"):
            target = [words[at]]
            at += 1
            while at < len(words) and words[at].startswith(_TARGET_OPTIONS):
                count = 1 if words[at] == "--snat-arp" else 2
                target += words[at : at + count]
                at += count
            continue
        if word == "-c":
            packets = int(words[at]) if words[at].isdigit() else None
            at += 2
            continue
        if word in _BARE:
            if word.startswith(("--log", "--nflog")):
                exprs.append(Noop(text=word))
            else:
                exprs.append(UnknownMatch(text=word, reason=f"{word} is not modelled", stateful=False))
            negated = False
            continue
        if words[at] == "!":
            negated, at = True, at + 1
        value = words[at]
        at += 1
        exprs += _option(word, value, negated)
        negated = False
    try:
        return exprs + list(_target(target, table)), packets
    except ValueError as error:
        text = " ".join(target)
        return [*exprs, UnknownStatement(text=text, reason=f"{text} cannot be read ({error})")], packets


#: Options that take no value.
_BARE = frozenset(
    {"--log", "--log-ip", "--log-arp", "--log-ip6", "--nflog", "--ulog", "--802_3-sap", "--arp-gratuitous"}
)
_TARGET_OPTIONS = (
    "--mark-set", "--mark-or", "--mark-and", "--mark-xor", "--mark-target", "--to-source", "--to-src",
    "--snat-target", "--snat-arp", "--to-destination", "--to-dst", "--dnat-target", "--redirect-target",
    "--arpreply-mac", "--arpreply-target", "--set-mark", "--or-mark", "--and-mark", "--xor-mark",
)  # fmt: skip


def _option(word: str, value: str, negated: bool) -> Iterable[Expr]:
    text = f"{'! ' if negated else ''}{word} {value}"
    build = _OPTIONS.get(word)
    if build is None:
        reason = f"nettrace does not model the ebtables option {word}"
        return (UnknownMatch(text=text, reason=reason, stateful=word.startswith("--limit")),)
    try:
        return tuple(build(value, negated))
    except (ValueError, KeyError) as error:
        return (UnknownMatch(text=text, reason=f"{word} {value} cannot be read ({error})", stateful=False),)


Build = Callable[[str, bool], Iterator[Expr]]


def _match(operand: Operand, item: Item | None, negated: bool) -> Iterator[Expr]:
    if item is not None:
        yield In(left=operand, items=(item,), negate=negated)
    elif negated:
        yield Never(text="! anything")


def _with(operand: Operand, convert: Callable[[str], Item | None]) -> Build:
    return lambda value, negated: _match(operand, convert(value), negated)


def _ethertype(value: str) -> Item:
    known = _ETHERTYPES.get(value.lower())
    return known if known is not None else int(value, 16)


def _mac(value: str) -> Item:
    known = _MACS.get(value.lower())
    if known is not None:
        return known
    address, slash, mask = value.partition("/")
    if not slash:
        return mac_number(address)
    bits = mac_number(mask)
    return mac_number(address) if bits == _FULL_MAC else Masked(value=mac_number(address) & bits, mask=bits)


def _icmp(proto: str) -> Build:
    names = ICMP4_TYPES if proto == "icmp" else ICMP6_TYPES
    kind, code = Payload(protocol=proto, field="type"), Payload(protocol=proto, field="code")

    def build(value: str, negated: bool) -> Iterator[Expr]:
        if value in names:
            wanted, codes = names[value]
            types: Item = wanted
            code_item: Item | None = Range(low=codes[0], high=codes[1]) if codes is not None else None
        else:
            type_text, slash, code_text = value.partition("/")
            types = ports(type_text)
            code_item = ports(code_text) if slash else None
        if code_item is None:
            yield from _match(kind, types, negated)
        else:
            yield from _match(Concat(parts=(kind, code)), (types, code_item), negated)

    return build


def _pkttype(value: str) -> Item:
    return {"otherhost": "other", "unicast": "host"}.get(value, value)


_OPTIONS: dict[str, Build] = {
    spelling: build
    for spellings, build in (
        ("-p --protocol", _with(Meta(key="protocol"), _ethertype)),
        ("-i --in-interface --in-if", _with(Meta(key="iifname"), interface)),
        ("-o --out-interface --out-if", _with(Meta(key="oifname"), interface)),
        ("--logical-in", _with(Meta(key="ibrname"), interface)),
        ("--logical-out", _with(Meta(key="obrname"), interface)),
        ("-s --source --src", _with(Payload(protocol="ether", field="saddr"), _mac)),
        ("-d --destination --dst", _with(Payload(protocol="ether", field="daddr"), _mac)),
        ("--ip-source --ip-src", _with(Payload(protocol="ip", field="saddr"), lambda value: prefix(value, 4))),
        ("--ip-destination --ip-dst", _with(Payload(protocol="ip", field="daddr"), lambda value: prefix(value, 4))),
        ("--ip-protocol --ip-proto", _with(Payload(protocol="ip", field="protocol"), protocol)),
        ("--ip-tos", _with(Payload(protocol="ip", field="tos"), lambda value: int(value, 16))),
        ("--ip-source-port --ip-sport", _with(Payload(protocol="th", field="sport"), ports)),
        ("--ip-destination-port --ip-dport", _with(Payload(protocol="th", field="dport"), ports)),
        ("--ip-icmp-type", _icmp("icmp")),
        ("--ip6-source --ip6-src", _with(Payload(protocol="ip6", field="saddr"), lambda value: prefix(value, 6))),
        ("--ip6-destination --ip6-dst", _with(Payload(protocol="ip6", field="daddr"), lambda value: prefix(value, 6))),
        ("--ip6-protocol --ip6-proto", _with(Payload(protocol="ip6", field="nexthdr"), protocol)),
        ("--ip6-source-port --ip6-sport", _with(Payload(protocol="th", field="sport"), ports)),
        ("--ip6-destination-port --ip6-dport", _with(Payload(protocol="th", field="dport"), ports)),
        ("--ip6-icmp-type", _icmp("icmpv6")),
        ("--mark", _with(Meta(key="mark"), masked)),
        ("--pkttype-type", _with(Meta(key="pkttype"), _pkttype)),
    )
    for spelling in spellings.split()
} | {
    option: lambda value, _negated: iter((Noop(text=value),))
    for option in ("--log-level", "--log-prefix", "--nflog-group", "--nflog-prefix", "--nflog-range", "--limit-burst")
}


def _verdict(name: str) -> Statement:
    return {"ACCEPT": Accept(), "DROP": Drop(), "RETURN": Return()}.get(name, Continue())


def _target(words: list[str], table: TableBuilder) -> Iterator[Expr]:
    name, text = words[0], " ".join(words)
    valued = [word for word in words[1:] if word != "--snat-arp"]
    options = dict(zip(valued[::2], valued[1::2], strict=False))
    if name in ("ACCEPT", "DROP", "RETURN", "CONTINUE"):
        if table.name == "broute" and name == "DROP":
            # In the broute table DROP means: route the frame instead of bridging it.
            yield UnknownStatement(text=text, reason="the frame is routed instead of bridged")
        else:
            yield _verdict(name)
    elif name == "mark":
        yield from _mark(options)
        yield _verdict(options.get("--mark-target", "ACCEPT"))
    elif name == "snat":
        yield Noop(text=text)
        yield _verdict(options.get("--snat-target", "ACCEPT"))
    elif name in ("dnat", "redirect") and table.name == "nat":
        # ebt_dnat, ebt_redirect: the latter gives the frame to the bridge itself.
        given = options.get("--to-destination") or options.get("--to-dst")
        own = Meta(key="ibrhwaddr")
        yield SetPayload(protocol="ether", field="daddr", value=Const(value=mac_number(given)) if given else own)
        yield _verdict(options.get(f"--{name}-target", "ACCEPT"))
    elif name in ("dnat", "redirect", "arpreply"):
        reason = "the destination MAC address is rewritten, which may send the frame elsewhere"
        if name == "arpreply":
            yield In(left=Meta(key="protocol"), items=(_ETHERTYPES["arp"],))
        yield UnknownStatement(text=text, reason=reason)
    elif name in table.chains or len(words) == 1:
        yield Jump(chain=name)
    else:
        yield UnknownStatement(text=text, reason=f"nettrace does not model the ebtables target {name}")


def _mark(options: dict[str, str]) -> Iterator[Expr]:
    own = Meta(key="mark")
    for option, value in options.items():
        how = option.replace("--mark-", "").replace("-mark", "").replace("--", "")
        given = Const(value=number(value)) if how in ("set", "or", "and", "xor") else None
        if given is None:
            continue
        if how == "set":
            yield SetMeta(key="mark", value=given)
        else:
            op = {"or": "|", "and": "&", "xor": "^"}[how]
            yield SetMeta(key="mark", value=Binary(op=op, left=own, right=given))
