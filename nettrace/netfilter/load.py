"""Every dump of one namespace, merged to what the kernel runs.

The same rules may be listed twice: iptables-nft's tables appear in iptables-save, where they are whole, and in nft's
listing, where their xt matches are opaque. Of such a table the iptables view is taken; handles, real priorities and
chains that only nft knows come from nft's. Tables of the legacy backend are always tables of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nettrace.errors import InputError
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter.ebtables import parse_ebtables_save
from nettrace.netfilter.ipset import parse_ipset_save
from nettrace.netfilter.iptables import parse_iptables_save
from nettrace.netfilter.ruleset import Chain, IpSet, NamedSet, Ruleset, Table, check_jumps

__all__ = ["load_ruleset"]


def load_ruleset(dumps: Iterable[NetfilterDump]) -> Ruleset:
    """Merge every dump of one namespace; raises InputError, naming the dump, when one cannot be read."""
    views: list[Table] = []
    natives: list[Table] = []
    ipsets: list[IpSet] = []
    listed = False
    for dump in dumps:
        try:
            if dump.format == DumpFormat.IPTABLES_SAVE:
                views += parse_iptables_save(dump.text, backend=dump.backend, family=dump.family)
            elif dump.format == DumpFormat.EBTABLES_SAVE:
                views += parse_ebtables_save(dump.text, backend=dump.backend)
            elif dump.format == DumpFormat.IPSET_SAVE:
                ipsets += parse_ipset_save(dump.text)
                listed = True
            else:
                natives += _native(dump)
        except InputError as error:
            raise InputError(f"{dump.format.value} ({dump.backend}, {dump.family}): {error}") from error
    return Ruleset(_merge(views, natives), ipsets, ipsets_listed=listed)


def _native(dump: NetfilterDump) -> Iterable[Table]:
    from nettrace.netfilter import nft_json

    if not dump.text.strip():
        return ()
    if dump.format == DumpFormat.NFT_TEXT:
        from nettrace.netfilter.nft_text import parse_text

        return nft_json.parse(parse_text(dump.text, deferring=True))
    return nft_json.parse(dump.text)


def _merge(views: list[Table], natives: list[Table]) -> list[Table]:
    tables = list(views)
    at = {(each.family, each.name): i for i, each in enumerate(tables) if each.backend == "nft"}
    for native in natives:
        place = at.get((native.family, native.name))
        if place is None:
            tables.append(native)
        else:
            tables[place] = _merge_table(tables[place], native)
    return tables


def _merge_table(view: Table, native: Table) -> Table:
    chains = {name: _merge_chain(chain, native.chains.get(name)) for name, chain in view.chains.items()}
    for name, chain in native.chains.items():
        chains.setdefault(name, chain)
    sets: dict[str, NamedSet] = {**native.sets, **view.sets}
    merged = msgspec.structs.replace(view, chains=chains, sets=sets, dormant=native.dormant)
    check_jumps(merged)
    return merged


def _merge_chain(view: Chain, native: Chain | None) -> Chain:
    """Add to a chain what only nft's listing tells: the real hook and priority, and the handles of its rules."""
    if native is None:
        return view
    base = view.base
    if base is not None and native.base is not None:
        real = native.base
        base = msgspec.structs.replace(base, hook=real.hook, priority=real.priority, order=real.order)
    rules = view.rules
    if len(view.rules) == len(native.rules):
        rules = rules.with_handles(native.rules.handles())
    return msgspec.structs.replace(view, base=base, rules=rules)
