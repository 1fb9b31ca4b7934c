"""Every netfilter listing of one namespace, put together: what holds of each family, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass, field

from nettrace.errors import InputError
from nettrace.model.base import Missing, Present
from nettrace.model.snapshot import DumpFormat, NetfilterDump
from nettrace.netfilter import load_ruleset
from nettrace.paste.iptables_text import UNREAD, TableText, checked, unread_table
from nettrace.paste.lines import Trouble, quoted

__all__ = ["Firewall"]

FAMILIES = {"ip": "4", "ip6": "6"}
SAVE = {"ip": "iptables-save", "ip6": "ip6tables-save"}
#: Tables that decide over packets of every host with an engine; what is not told of them cannot be passed over.
TABLES = ("raw", "mangle", "nat", "filter")
#: Which text is believed where several show one table: the one that shows most.
_ORDER = ("iptables-save", "iptables -S", "iptables -nvL", "iptables -L", "nothing")


@dataclass(slots=True)
class Firewall:
    """Collects the listings; `section` then returns them as the model holds them."""

    tables: list[TableText] = field(default_factory=list)
    natives: list[NetfilterDump] = field(default_factory=list)
    #: Families whose iptables-save was shown, also where it is empty.
    saved: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    nft: bool = False
    gaps: list[tuple[str, str]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def add_tables(self, tables: list[TableText], *, family: str | None, backend: str | None) -> int:
        """Add the tables of one listing, of which `family` and `backend` are told; return how many rules they have."""
        told = {each.family for each in tables if each.family is not None}
        rest = family or (told.pop() if len(told) == 1 else "ip")
        for each in tables:
            self.tables.append(
                TableText(
                    table=each.table,
                    lines=each.lines,
                    family=family or each.family or rest,
                    backend=backend or each.backend,
                    whole=each.whole,
                    alone=each.alone,
                    source=each.source,
                )
            )
        return sum(line[0] in "-[" and UNREAD not in line for each in tables for line in each.lines)

    def add_native(self, dump: NetfilterDump, line: int, *, whole: bool = True) -> bool:
        """Add a listing that the model reads as it is; False, with a trouble, when it cannot."""
        try:
            load_ruleset([dump])
        except (InputError, RecursionError) as error:
            reason = " ".join(str(error).split()) or "nested too deeply"
            self.troubles.append(Trouble(line=line, text=dump.format.value, reason=quoted(reason)))
            return False
        self.natives.append(dump)
        if dump.format in (DumpFormat.NFT_JSON, DumpFormat.NFT_TEXT):
            self.nft = self.nft or whole
        return True

    @property
    def anything(self) -> bool:
        """Whether some listing was given."""
        return bool(self.tables or self.natives or self.saved)

    def section(self, missing: str) -> Present[NetfilterDump] | Missing:
        """Return the listings as a section, `missing` saying why there are none; `gaps` then tell what they lack."""
        if not self.anything:
            return Missing(reason=missing)
        dumps: list[NetfilterDump] = []
        for family in ("ip", "ip6"):
            dumps += self._family(family)
        dumps += self.natives
        try:
            load_ruleset(dumps)
        except InputError as error:
            self.gaps.append(("netfilter", f"the listings do not fit together: {quoted(str(error))}"))
            return Missing(reason=f"the listings do not fit together: {quoted(str(error))}")
        self._tell(dumps)
        return Present(rows=tuple(dumps))

    def _family(self, family: str) -> list[NetfilterDump]:
        known: dict[tuple[str, str], TableText] = {}
        own = [each for each in self.tables if each.family == family]
        usual = self._backend(own)
        for each in sorted(own, key=lambda table: _ORDER.index(table.source)):
            backend = each.backend or usual
            known.setdefault((backend, each.table), each)
        if self.nft:
            # nft shows whole what `iptables -L` shows in part.
            known = {
                key: each
                for key, each in known.items()
                if key[0] == "legacy" or ("-L" not in each.source and "nvL" not in each.source)
            }
        loaded: dict[tuple[str, str], TableText] = {}
        for (backend, name), each in known.items():
            found: list[Trouble] = []
            fine = checked(each, found, family=family, backend=backend)
            self.troubles += found
            loaded[backend, name] = fine if fine is not None else unread_table(name)
        if loaded or family in self.saved:
            self._fill(family, loaded)
        dumps = []
        for backend in ("nft", "legacy"):
            texts = [each.text() for (kind, _name), each in loaded.items() if kind == backend]
            if texts:
                dumps.append(
                    NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend=backend, family=family, text="".join(texts))
                )
        return dumps

    def _backend(self, tables: list[TableText]) -> str:
        told = {each.backend for each in tables if each.backend is not None}
        return told.pop() if len(told) == 1 else "nft"

    def _fill(self, family: str, loaded: dict[tuple[str, str], TableText]) -> None:
        """Put tables in of which nothing is known, where the texts show some tables alone, or break off."""
        if family not in self.saved and not self.nft:
            backend = next((kind for kind, _name in loaded), "nft")
            lacking = [name for name in TABLES if not any(table == name for _kind, table in loaded)]
            for name in lacking:
                loaded[backend, name] = unread_table(name)
            if lacking:
                what = f"{', '.join(lacking)} of {SAVE[family].removesuffix('-save')} are not in the paste"
                self.gaps.append(("netfilter/part", f"{what}: run `{SAVE[family]} -c`"))
        legacy = any("legacy tables present" in each for each in self.warnings)
        if legacy and not any(kind == "legacy" for kind, _name in loaded):
            loaded["legacy", "filter"] = unread_table("filter")
            loaded["legacy", "nat"] = unread_table("nat")
            self.gaps.append(
                (
                    "netfilter/part",
                    "iptables-legacy holds tables as well, which are not in the paste: run `iptables-legacy-save`",
                )
            )

    def _tell(self, dumps: list[NetfilterDump]) -> None:
        """Tell of families that no listing shows, of nftables beside iptables, and of tables shown in part."""
        covered = {each.family for each in dumps} | self.saved
        for family, version in FAMILIES.items():
            if not self.nft and family not in covered:
                self.gaps.append(
                    (f"netfilter/{version}", f"IPv{version} rules are not in the paste: run `{SAVE[family]} -c`")
                )
        if not self.nft and covered & set(FAMILIES):
            reason = "what else nftables holds is not in iptables' listings: run `nft -j list ruleset`"
            self.gaps.append(("netfilter/part", reason))
        for family in FAMILIES:
            for source, hidden in (("iptables -nvL", "details"), ("iptables -L", "interfaces and details")):
                names = [each.table for each in self.tables if (each.source, each.family) == (source, family)]
                if names and not self.nft:
                    what = f"`{source}` of {', '.join(dict.fromkeys(names))} leaves {hidden} of matches out"
                    self.gaps.append(("netfilter/part", f"{what}: run `{SAVE[family]} -c`"))
        sets = any(mark in each.text for each in dumps for mark in ("--match-set", "--add-set", "--map-set"))
        if sets and not any(each.format is DumpFormat.IPSET_SAVE for each in dumps):
            self.gaps.append(("netfilter/part", "rules ask sets whose members are not in the paste: run `ipset save`"))
        self.gaps = list(dict.fromkeys(self.gaps))
