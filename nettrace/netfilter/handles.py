"""From what the kernel's rule trace names (family, table, chain, handle) to the rule as its own tool prints it.

A handle is never given twice within a table (nf_tables_api.c, nf_tables_alloc_handle), so a rule that was added after
the listing is not found, and never mistaken for another. Rules of iptables-nft have their text from iptables-save,
which knows no handles: there the rule is found by its place in the chain, and only where both listings have as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from nettrace.errors import InputError
from nettrace.model.netfilter import RuleRef
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import nft_json
from nettrace.netfilter.ruleset import Chain, Rules, Ruleset

__all__ = ["Place", "RuleHandles"]

#: Family, table and chain, as nft names them.
Place: TypeAlias = tuple[str, str, str]


class RuleHandles:
    """Finds rules of one namespace by handle.

    `ruleset` is what `load_ruleset` made of the namespace's dumps, and `dumps` those dumps: from them comes the
    opaque text of rules that only nft lists. `order` are the handles of each chain in order, as the kernel had them
    when the dumps were taken, for where no nft listing is at hand. No rule is read before it is found.
    """

    def __init__(
        self,
        ruleset: Ruleset,
        *,
        dumps: Iterable[NetfilterDump] = (),
        order: Mapping[Place, Sequence[int]] | None = None,
    ) -> None:
        self._chains = {
            (table.family, table.name, chain.name): chain
            for table in ruleset.tables
            if table.backend == "nft"
            for chain in table.chains.values()
        }
        self._order = dict(order) if order is not None else {}
        self._dumps = tuple(each for each in dumps if each.format == DumpFormat.NFT_JSON)
        self._natives: dict[Place, Chain] | None = None
        self._found: dict[Place, dict[int, tuple[Rules, int]]] = {}

    def rule(self, family: str, table: str, chain: str, handle: int) -> RuleRef | None:
        """Return the rule with that handle, None when no listing has it: it is younger than the listings, or gone."""
        place = (family, table, chain)
        found = self._found.get(place)
        if found is None:
            found = self._found[place] = self._index(place)
        where = found.get(handle)
        if where is None:
            return None
        rules, at = where
        ref = rules[at].ref
        if ref.handle != handle:
            return msgspec.structs.replace(ref, handle=handle)
        return ref

    def chain(self, family: str, table: str, chain: str) -> RuleRef | None:
        """Return what names a chain, or the policy of a base chain; None when no listing has it."""
        found = self._chains.get((family, table, chain))
        return found.ref if found is not None else None

    def _index(self, place: Place) -> dict[int, tuple[Rules, int]]:
        chain = self._chains.get(place)
        if chain is None:
            return {}
        handles: Sequence[int | None] = chain.rules.handles()
        if None in handles or not handles:
            ordered = self._order.get(place, ())
            if len(ordered) == len(chain.rules):
                handles = ordered
        found = {handle: (chain.rules, at) for at, handle in enumerate(handles) if handle is not None}
        if len(found) < len(chain.rules) or not found:
            # The two listings differ: what nft itself said of each rule is less clear, but about the right one.
            native = self._native().get(place)
            if native is not None:
                for at, handle in enumerate(native.rules.handles()):
                    if handle is not None:
                        found.setdefault(handle, (native.rules, at))
        return found

    def _native(self) -> dict[Place, Chain]:
        if self._natives is None:
            self._natives = {}
            for dump in self._dumps:
                try:
                    tables = nft_json.parse(dump.text) if dump.text.strip() else ()
                except InputError:
                    # load_ruleset reads the same text and has said what is wrong with it.
                    continue
                for table in tables:
                    self._natives.update(
                        {(table.family, table.name, each.name): each for each in table.chains.values()}
                    )
        return self._natives
