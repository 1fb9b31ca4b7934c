"""All texts of one namespace, put together: its rows, what is missing, and which command would give it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any, TypeVar

from msgspec.structs import replace

from nettrace.model.base import Missing, Present, Values
from nettrace.model.snapshot import (
    Address,
    BridgeInfo,
    BridgePort,
    ConntrackEntry,
    DumpFormat,
    FdbEntry,
    Link,
    Namespace,
    Neighbour,
    NetfilterDump,
    NextHop,
    PolicyRule,
    PortVlan,
    Route,
    Socket,
)
from nettrace.paste.bridge_link import parse_bridge_link, parse_bridge_vlan, vlan_rows
from nettrace.paste.commands import Kind
from nettrace.paste.conntrack_list import parse_conntrack_list
from nettrace.paste.devices import UNTOLD, Devices
from nettrace.paste.firewall import Firewall
from nettrace.paste.ip_link import address_rows, link_row, parse_ip_link
from nettrace.paste.ip_neigh import fdb_row, neighbour_row, parse_bridge_fdb, parse_ip_neigh
from nettrace.paste.ip_route import KINDS as ROUTE_KINDS
from nettrace.paste.ip_route import LOCAL, MAIN, Tables, parse_ip_route, route_row
from nettrace.paste.ip_rule import parse_ip_rule, rule_family, rule_row
from nettrace.paste.iptables_listing import parse_listing
from nettrace.paste.iptables_text import parse_save, parse_specs
from nettrace.paste.lines import Trouble, converted, quoted, whole_dicts
from nettrace.paste.recognise import Block
from nettrace.paste.sockets import parse_netstat, parse_ss
from nettrace.paste.sysctl import parse_sysctl

__all__ = ["COMMANDS", "NOT_PASTED", "NamespaceTexts", "in_namespace", "lacking", "local_routes"]

T = TypeVar("T")

NOT_PASTED = "not in the paste"
#: Rows of one section beyond which a paste is cut: no bundle holds more.
MAX_ROWS = 100_000

#: How many rules that were not understood are told one by one.
MAX_TOLD = 50

#: What to run for each section, in the namespace.
COMMANDS: dict[str, tuple[str, ...]] = {
    "links": ("ip -d link",),
    "addresses": ("ip addr",),
    "routes": ("ip route show table all", "ip -6 route show table all"),
    "rules": ("ip rule", "ip -6 rule"),
    "neighbours": ("ip neigh",),
    "fdb": ("bridge fdb",),
    "sockets": ("ss -lntu",),
    "conntrack": ("conntrack -L",),
    "netfilter": ("iptables-save -c", "ip6tables-save -c", "nft -j list ruleset"),
    "sysctls": ("sysctl -a",),
}
LIKE_A_ROUTE = re.compile(
    r"\s*(?:(?:" + "|".join(sorted(ROUTE_KINDS)) + r")\s|default\b|nexthop\b|[0-9a-fA-F]*[.:][0-9a-fA-F])"
)
#: Names that engines and hypervisors give to bridges of their own.
_BRIDGE_NAME = re.compile(
    r"docker0|docker_gwbridge|br-[0-9a-f]{12}|virbr\d+|podman\d+|cni\d+|cni-podman\d+|lxcbr\d+|lxdbr\d+|br\d+"
)


class NamespaceTexts:
    """Takes the listings of one namespace, one by one, those of links first."""

    def __init__(self, identity: int, name: str, kind: str) -> None:
        self.id, self.name, self.kind = identity, name, kind
        self.devices = Devices()
        self.tables = Tables()
        self.firewall = Firewall()
        self.gaps: list[tuple[str, str]] = []
        self._links: dict[int, dict[str, Any]] = {}
        self._detailed = False
        self._partial: set[str] = set()
        self._ports: dict[str, dict[str, Any]] = {}
        self._vlans: dict[str, tuple[PortVlan, ...]] = {}
        self._addresses = False
        self._whole_links = False
        self._routes: dict[Route, None] = {}
        #: Of each IP version the tables that were shown: "all", or their numbers.
        self._route_tables: dict[int, set[object]] = {4: set(), 6: set()}
        self._rules: dict[int, dict[PolicyRule, None]] = {}
        self._neighbours: dict[Neighbour, None] | None = None
        self._fdb: dict[FdbEntry, None] | None = None
        self._sockets: dict[Socket, None] | None = None
        self._protocols: set[str] = set()
        self._conntrack: list[ConntrackEntry] | None = None
        self._sysctls: dict[str, str] | None = None
        self._all_sysctls = False
        #: Names of namespaces behind links, as `ip` prints them for those of /run/netns.
        self.link_netns: dict[int, str] = {}

    def take(self, block: Block) -> tuple[int, list[Trouble]]:
        """Take one listing; return how many rows it gave and what of it was not understood."""
        command = block.command
        if command is not None and command.part and command.kind is block.kind:
            self._partial.add(block.kind.value)
            section = _SECTION_OF.get(block.kind, "netfilter")
            self.gaps.append((f"{section}/part", f"`{quoted(command.text)}` shows a part only: {self.ask(section)}"))
        taken = {
            Kind.LINK: self._take_links,
            Kind.BRIDGE_LINK: self._take_bridge_links,
            Kind.BRIDGE_VLAN: self._take_bridge_vlans,
            Kind.ROUTE: self._take_routes,
            Kind.RULE: self._take_rules,
            Kind.NEIGH: self._take_neighbours,
            Kind.FDB: self._take_fdb,
            Kind.SS: self._take_sockets,
            Kind.NETSTAT: self._take_sockets,
            Kind.CONNTRACK: self._take_conntrack,
            Kind.SYSCTL: self._take_sysctls,
        }.get(block.kind, self._take_rules_of_firewall)
        count, troubles = taken(block)
        if troubles:
            section = _SECTION_OF.get(block.kind, "netfilter")
            reason = f"{len(troubles)} lines of `{block.kind.value}` were not understood, or not wholly"
            self.gaps.append((f"{section}/part", reason))
        return count, troubles

    def _within(self, section: str, found: list[T], taken: int) -> list[T]:
        """Return as many rows as there is room for; where that is not all, a gap says so."""
        room = max(0, MAX_ROWS - taken)
        if len(found) > room:
            self.gaps.append((f"{section}/part", f"only the first {MAX_ROWS} rows were taken"))
        return found[:room]

    # --- links and addresses ------------------------------------------------------------------------------------

    def _take_links(self, block: Block) -> tuple[int, list[Trouble]]:
        found, troubles = whole_dicts(block.document, block.first) if block.is_json else parse_ip_link(block.lines)
        fine, bad = converted(found, self._keep_link)
        command = block.command
        if command is None or not command.part:
            self._whole_links = True
            self._addresses |= any("addr_info" in row for _, row in found) or (
                command is not None and command.addresses
            )
        return len(fine), troubles + bad

    def _keep_link(self, row: dict[str, Any]) -> dict[str, Any]:
        link = link_row(row, Devices())  # what cannot be read is told here, with its line
        tuple(address_rows(row))
        known = self._links.setdefault(link.ifindex, {})
        addresses = {
            str(_address_key(each)): each for each in (*known.get("addr_info", ()), *row.get("addr_info", ())) if each
        }
        partial = known.get("_partial", True) and row.get("_partial", False)
        known |= {key: value for key, value in row.items() if value is not None}
        if addresses or "addr_info" in known:
            known["addr_info"] = list(addresses.values())
        known["_partial"] = partial
        self._detailed = self._detailed or "linkinfo" in row or "promiscuity" in row
        self.devices.learn(link.name, link.ifindex)
        if "link_netns" in row:
            self.link_netns[link.ifindex] = str(row["link_netns"])
        return row

    def _take_bridge_links(self, block: Block) -> tuple[int, list[Trouble]]:
        found, troubles = whole_dicts(block.document, block.first) if block.is_json else parse_bridge_link(block.lines)

        def keep(row: dict[str, Any]) -> dict[str, Any]:
            self._ports[str(row["ifname"])] = row
            return row

        fine, bad = converted(found, keep)
        return len(fine), troubles + bad

    def _take_bridge_vlans(self, block: Block) -> tuple[int, list[Trouble]]:
        found, troubles = whole_dicts(block.document, block.first) if block.is_json else parse_bridge_vlan(block.lines)
        fine, bad = converted(found, vlan_rows)
        self._vlans |= dict(fine)
        return len(fine), troubles + bad

    def links(self, bridges: Iterable[str]) -> Present[Link] | Missing:
        """Return the links; `bridges` are names that engines gave, for listings that tell no kinds."""
        whole = {index: row for index, row in self._links.items() if not row.get("_partial")}
        if not whole or not self._whole_links:
            return self._missing("links")
        fine, bad = converted(((0, row) for row in whole.values()), lambda row: link_row(row, self.devices))
        self.gaps += [("links/part", f"{each.text}: {each.reason}") for each in bad]
        made = {link.ifindex: link for link in fine}
        if not self._detailed:
            made = self._guessed(made, whole, set(bridges))
        filtering = any(each.bridge is not None and each.bridge.vlan_filtering for each in made.values())
        for index, link in made.items():
            port = self._port(link)
            if port is not None and filtering:
                vlans = self._vlans.get(link.name)
                port = replace(port, vlans=vlans if vlans is not None or not self._vlans else ())
            made[index] = replace(link, port=port)
        if filtering and not self._vlans:
            self.gaps.append(
                ("links/part", "bridges filter by VLAN, and which VLANs ports have is not told: run `bridge vlan`")
            )
        return Present(rows=tuple(made.values()))

    def _port(self, link: Link) -> BridgePort | None:
        from nettrace.paste.ip_link import port_row

        told = self._ports.get(link.name)
        if link.port is not None or told is None:
            return link.port
        try:
            return port_row(told)
        except (ValueError, TypeError):
            return None

    def _guessed(self, links: dict[int, Link], told: dict[int, dict[str, Any]], bridges: set[str]) -> dict[int, Link]:
        """Tell kinds by names, masters and peers, where the listing was made without -d; and say that this was done."""
        masters = {link.master for link in links.values() if link.master is not None}
        bridges |= {str(row["master"]) for row in self._ports.values() if row.get("master")}
        made: dict[int, Link] = {}
        guessed: list[str] = []
        for index, link in links.items():
            kind = link.kind
            upper = re.match(r"(?:bond|team)", link.name)
            if link.name in bridges or _BRIDGE_NAME.fullmatch(link.name) or (index in masters and upper is None):
                kind = "bridge"
            elif (
                (link.peer_ifindex and link.peer_nsid is not None and link.arp_type == 1)
                or (link.peer_ifindex in links and links[link.peer_ifindex or 0].peer_ifindex == index)
                or (index in self.link_netns and link.peer_ifindex)
            ):
                kind = "veth"
            elif link.name.startswith("veth") or (
                self.kind == "container" and not link.loopback and link.arp_type == 1
            ):
                # Before iproute2 4.1 peers were not shown. A container has no hardware of its own: what it has leads
                # to another namespace.
                kind = "veth"
                link = replace(link, peer_nsid=-1, peer_ifindex=link.peer_ifindex or UNTOLD)
            elif "." in link.name and link.peer_ifindex in links and link.name.rpartition(".")[2].isdigit():
                kind = "vlan"
                link = replace(link, vlan_id=int(link.name.rpartition(".")[2][:6]))
            if kind != link.kind:
                guessed.append(f"{link.name} ({kind})")
                link = replace(link, kind=kind, bridge=BridgeInfo() if kind == "bridge" else None)
            made[index] = link
        for index, link in made.items():
            above = made.get(link.master or 0)
            if above is not None and above.kind == "bridge" and link.port is None and link.name not in self._ports:
                made[index] = replace(link, port=BridgePort(state=3 if link.up and link.lower_up else 0))
        if guessed:
            shown = ", ".join(guessed[:6]) + (f" and {len(guessed) - 6} more" if len(guessed) > 6 else "")
            reason = (
                f"without -d `ip link` tells no kinds and settings; taken by name and peer: {shown}: run `ip -d link`"
            )
            self.gaps.append(("links" if self.kind == "container" else "links/part", reason))
        return made

    def addresses(self) -> Present[Address] | Missing:
        """Return the addresses."""
        if not self._addresses:
            return self._missing("addresses")
        return Present(rows=tuple(each for row in self._links.values() for each in address_rows(row)))

    # --- routes and rules ---------------------------------------------------------------------------------------

    def _take_routes(self, block: Block) -> tuple[int, list[Trouble]]:
        command = block.command if block.command is not None and block.command.kind is Kind.ROUTE else None
        found, troubles = whole_dicts(block.document, block.first) if block.is_json else parse_ip_route(block.lines)
        family = {"ip": 4, "ip6": 6, None: None}[command.family if command is not None else None]
        if family is None and any(":" in str(row.get("dst")) for _, row in found):
            six = all(":" in str(row.get("dst")) or row.get("dst") == "default" for _, row in found)
            family = 6 if six else None
        table = command.table if command is not None else None
        kinds = {str(row.get("type") or "unicast") for _, row in found}
        if table is None and kinds <= {"local", "broadcast", "multicast", "anycast"} and found:
            # `ip route show table local` leaves the table's name out.
            table = "local"

        def make(row: dict[str, Any]) -> Route | None:
            return route_row(row | {"_family": family}, self.devices, self.tables, table=table)

        fine, bad = converted(found, make)
        kept = self._within("routes", fine, len(self._routes))
        self._routes |= dict.fromkeys(kept)
        lost = bad + [each for each in troubles if LIKE_A_ROUTE.match(each.text) and each.reason == "not understood"]
        if not lost and len(kept) == len(fine) and (command is None or not command.part):
            # Else the way of a packet cannot be told from what is left.
            self._cover(fine, family, table, everything=command is not None and command.everything)
        return len(fine), troubles + bad

    def _cover(self, routes: list[Route], family: int | None, table: str | None, *, everything: bool) -> None:
        """Note which tables a listing shows: it names those beside main, and the local one is never empty."""
        versions: set[int] = {route.dst.version for route in routes} or {family or 4}
        if everything and family is None:
            versions = {4, 6}
        for version in versions:
            own = [route for route in routes if route.dst.version == version]
            shown = self._route_tables[version]
            if everything or (table is None and any(route.table == LOCAL for route in own)):
                shown.add("all")
            else:
                shown.add(self.tables.number(table) if table is not None else MAIN)

    def routes(self, links: Present[Link] | Missing, addresses: Present[Address] | Missing) -> Present[Route] | Missing:
        """Return the routes of the tables that were shown; the local table follows from addresses where it was not."""
        if not any(self._route_tables.values()):
            return self._missing("routes")  # also where a part was shown, which says too little
        made = list(self._routes)
        for version, shown in self._route_tables.items():
            ask = f"ip {'-6 ' if version == 6 else ''}route show table all"
            if not shown:
                self.gaps.append((f"routes/{version}", f"IPv{version} routes are not in the paste: run `{ask}`"))
                continue
            if "all" in shown:
                continue
            asked = {rule.table for rule in self._rules.get(version, ()) if rule.action == "lookup"} - {0}
            lacking = sorted(asked - shown - {LOCAL, 253})
            if lacking:
                names = {number: name for name, number in self.tables.named.items()} | {MAIN: "main"}
                told = ", ".join(str(names.get(each, each)) for each in lacking[:8])
                self.gaps.append(
                    (f"routes/{version}", f"policy rules ask table {told}, which the paste lacks: run `{ask}`")
                )
            if LOCAL in shown:
                continue
            if isinstance(addresses, Missing) or isinstance(links, Missing):
                self.gaps.append((f"routes/{version}", f"IPv{version}'s local table is not in the paste: run `{ask}`"))
                continue
            made += local_routes(addresses.rows, {link.ifindex: link for link in links.rows}, version)
            self.gaps.append(
                ("routes", f"IPv{version}'s local table is not in the paste: made up from the addresses: run `{ask}`")
            )
        return Present(rows=tuple(dict.fromkeys(made)))

    def _take_rules(self, block: Block) -> tuple[int, list[Trouble]]:
        command = block.command if block.command is not None and block.command.kind is Kind.RULE else None
        found, troubles = whole_dicts(block.document, block.first) if block.is_json else parse_ip_rule(block.lines)
        count, lost = 0, [each for each in troubles if each.text[:1].isdigit()]
        for part in _runs(found):
            told = rule_family([row for _, row in part])
            family = {"ip": 4, "ip6": 6, None: None}[command.family if command is not None else None] or told or 0
            if not family:
                # Nothing tells but that IPv6 has no rule for table default: `ip rule` alone shows IPv4's.
                family = 6 if 4 in self._rules or (found and command is None) else 4

            def make(row: dict[str, Any], family: int = family) -> PolicyRule:
                return rule_row(row, family, self.tables)

            fine, bad = converted(part, make)
            self._rules.setdefault(family, {}).update(dict.fromkeys(fine))
            troubles += bad
            count += len(fine)
            if lost or bad or (command is not None and command.part):
                self.gaps.append(
                    (f"rules/{family}", f"not all of IPv{family}'s policy rules are known: {self.ask('rules')}")
                )
        return count, troubles

    def rules(self) -> Present[PolicyRule] | Missing:
        """Return the policy rules."""
        if not self._rules:
            return self._missing("rules")
        for version, ask in ((4, "ip rule"), (6, "ip -6 rule")):
            if version not in self._rules:
                self.gaps.append((f"rules/{version}", f"IPv{version} policy rules are not in the paste: run `{ask}`"))
        return Present(rows=tuple(rule for version in (4, 6) for rule in self._rules.get(version, ())))

    # --- neighbours, sockets and the rest -----------------------------------------------------------------------

    def _take_neighbours(self, block: Block) -> tuple[int, list[Trouble]]:
        found, troubles = whole_dicts(block.document, block.first) if block.is_json else parse_ip_neigh(block.lines)
        fine, bad = converted(found, lambda row: neighbour_row(row, self.devices))
        self._neighbours = self._neighbours or {}
        self._neighbours |= dict.fromkeys(self._within("neighbours", fine, len(self._neighbours)))
        return len(fine), troubles + bad

    def _take_fdb(self, block: Block) -> tuple[int, list[Trouble]]:
        found, troubles = whole_dicts(block.document, block.first) if block.is_json else parse_bridge_fdb(block.lines)
        fine, bad = converted(found, lambda row: fdb_row(row, self.devices))
        self._fdb = self._fdb or {}
        self._fdb |= dict.fromkeys(self._within("fdb", fine, len(self._fdb)))
        return len(fine), troubles + bad

    def _take_sockets(self, block: Block) -> tuple[int, list[Trouble]]:
        command = block.command if block.command is not None and block.command.kind is block.kind else None
        proto = command.proto if command is not None else None
        if block.kind is Kind.SS:
            found, troubles = parse_ss(block.lines, self.devices, proto=proto)
        else:
            found, troubles = parse_netstat(block.lines, proto=proto)
        if command is not None and proto is None and (command.everything or not found.protocols):
            found.protocols |= {"tcp", "udp"}
        self._protocols |= found.protocols
        self._sockets = self._sockets or {}
        self._sockets |= dict.fromkeys(self._within("sockets", found, len(self._sockets)))
        return len(found), troubles

    def sockets(self) -> Present[Socket] | Missing:
        """Return the sockets."""
        if self._sockets is None:
            return self._missing("sockets")
        for proto, ask in (("tcp", "ss -lnt"), ("udp", "ss -lnu")):
            if proto not in self._protocols:
                self.gaps.append((f"sockets/{proto}", f"{proto.upper()} sockets are not in the paste: run `{ask}`"))
        return Present(rows=tuple(self._sockets))

    def _take_conntrack(self, block: Block) -> tuple[int, list[Trouble]]:
        found, troubles = parse_conntrack_list(block.lines)
        known = self._conntrack or []
        self._conntrack = [*known, *self._within("conntrack", found, len(known))]
        return len(found), troubles

    def _take_sysctls(self, block: Block) -> tuple[int, list[Trouble]]:
        found, troubles = parse_sysctl(block.lines)
        self._sysctls = (self._sysctls or {}) | dict(list(found.items())[:MAX_ROWS])
        command = block.command if block.command is not None and block.command.kind is Kind.SYSCTL else None
        # Whoever shows a hundred shows them all: no hand picks that many.
        self._all_sysctls |= (len(found) >= 100 or (command is not None and command.everything)) and not (
            command is not None and command.part
        )
        return len(found), troubles

    def sysctls(self) -> Values[str] | Missing:
        """Return the sysctls."""
        if self._sysctls is None:
            return self._missing("sysctls")
        if not self._all_sysctls and self.kind != "container":
            # What decides whether anything is forwarded must be known, or nothing is.
            if "net.ipv4.ip_forward" not in self._sysctls:
                return self._missing("sysctls")
            if "net.ipv6.conf.all.forwarding" not in self._sysctls:
                self.gaps.append(("sysctls/6", f"net.ipv6.conf.all.forwarding is not told: {self.ask('sysctls')}"))
        if not self._all_sysctls:
            reason = f"{len(self._sysctls)} told, all others taken as the kernel's defaults: run `sysctl -a`"
            self.gaps.append(("sysctls/part", reason))
        return Values(values=dict(self._sysctls))

    def counters(self) -> Values[int] | Missing:
        """Return the counters that sysctls tell of: how full the table of connections is."""
        names = {f"nf_conntrack.{each}": f"net.netfilter.nf_conntrack_{each}" for each in ("count", "max")}
        told = {key: (self._sysctls or {}).get(name, "") for key, name in names.items()}
        known = {key: int(value) for key, value in told.items() if value.isdigit() and len(value) < 19}
        return Values(values=known) if known else Missing(reason=NOT_PASTED)

    # --- firewall -----------------------------------------------------------------------------------------------

    def _take_rules_of_firewall(self, block: Block) -> tuple[int, list[Trouble]]:
        command = block.command if block.command is not None and block.command.kind is block.kind else None
        family, backend, table = (
            (command.family, command.backend, command.table) if command is not None else (None, None, None)
        )
        if block.kind is Kind.SAVE:
            tables, troubles, warnings = parse_save(block.lines, family=family)
            self.firewall.warnings += warnings
            if command is None or not command.part:
                told = {each.family or family or "ip" for each in tables} | ({family} if family is not None else set())
                # Where a table breaks off, more may have come after it.
                broken = {each.family or family or "ip" for each in tables if not each.whole}
                self.firewall.saved |= told - broken
            return self.firewall.add_tables(tables, family=family, backend=backend), troubles
        if block.kind in (Kind.SPECS, Kind.LISTING):
            parse = parse_specs if block.kind is Kind.SPECS else parse_listing
            made, strange = parse(block.lines, table=table, family=family)
            return self.firewall.add_tables(made, family=family, backend=backend), strange
        return self._take_native(block)

    def _take_native(self, block: Block) -> tuple[int, list[Trouble]]:
        format = _FORMATS.get(block.kind)
        if format is None:
            return 0, [Trouble(line=block.first, text=block.lines[0].text[:120], reason=block.kind.value)]
        if block.is_json:
            from nettrace.model.base import to_json

            text = to_json(block.document).decode()
        else:
            text = "\n".join(line.text for line in block.lines) + "\n"
        family = {DumpFormat.EBTABLES_SAVE: "bridge"}.get(format, "all")
        part = block.command is not None and block.command.part and block.command.kind is block.kind
        dump = NetfilterDump(format=format, backend="nft", family=family, text=text)
        before = len(self.firewall.troubles)
        fine = self.firewall.add_native(dump, block.first, whole=not part)
        troubles, self.firewall.troubles = self.firewall.troubles[before:], self.firewall.troubles[:before]
        if not fine:
            self.gaps.append(("netfilter/part", f"`{block.kind.value}` could not be read: {troubles[0].reason}"))
        count = len(block.document["nftables"]) if block.is_json else len(block.lines)
        return count if fine else 0, troubles

    # --- all of it ----------------------------------------------------------------------------------------------

    def namespace(self, bridges: Iterable[str]) -> Namespace:
        """Return everything that was pasted of the namespace; `gaps` then tell what is missing or taken for granted."""
        links = self.links(bridges)
        addresses = self.addresses()
        rules = self.rules()
        routes = self.routes(links, addresses)
        netfilter = self.firewall.section(self._missing("netfilter").reason)
        self.gaps += self.firewall.gaps
        unread = self.firewall.troubles
        self.gaps += [("netfilter/part", f"not understood: {each.text}: {each.reason}") for each in unread[:MAX_TOLD]]
        if len(unread) > MAX_TOLD:
            self.gaps.append(("netfilter/part", f"{len(unread) - MAX_TOLD} more rules were not understood"))
        made = Namespace(
            id=self.id,
            name=self.name,
            kind=self.kind,
            links=links,
            addresses=addresses,
            routes=routes,
            rules=rules,
            neighbours=self._section("neighbours", self._neighbours),
            fdb=self._section("fdb", self._fdb),
            sockets=self.sockets(),
            conntrack=self._section("conntrack", self._conntrack),
            netfilter=netfilter,
            sysctls=self.sysctls(),
            counters=self.counters(),
        )
        unlisted = self.devices.unlisted
        if unlisted and isinstance(links, Present):
            shown = ", ".join(unlisted[:6])
            self.gaps.append(("links", f"other listings name devices that `ip link` does not list: {shown}"))
        return made

    def ask(self, section: str) -> str:
        """Return the words that tell what to run for a section."""
        commands = (in_namespace(each, self.name, self.kind) for each in COMMANDS[section])
        return "run " + ", ".join(f"`{each}`" for each in commands)

    def _missing(self, section: str) -> Missing:
        return Missing(reason=f"{NOT_PASTED}: {self.ask(section)}")

    def _section(self, name: str, found: Iterable[T] | None) -> Present[T] | Missing:
        if found is None:
            return self._missing(name)
        return Present(rows=tuple(found))


_SECTION_OF = {
    Kind.LINK: "links", Kind.BRIDGE_LINK: "links", Kind.BRIDGE_VLAN: "links", Kind.ROUTE: "routes", Kind.RULE: "rules",
    Kind.NEIGH: "neighbours", Kind.FDB: "fdb", Kind.SS: "sockets", Kind.NETSTAT: "sockets", Kind.CONNTRACK: "conntrack",
    Kind.SYSCTL: "sysctls",
}  # fmt: skip
_FORMATS = {
    Kind.NFT_JSON: DumpFormat.NFT_JSON, Kind.NFT_TEXT: DumpFormat.NFT_TEXT, Kind.IPSET: DumpFormat.IPSET_SAVE,
    Kind.EBTABLES: DumpFormat.EBTABLES_SAVE,
}  # fmt: skip


def _address_key(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    return row.get("local"), str(row.get("prefixlen")), row.get("address")


def _runs(found: list[tuple[int, dict[str, Any]]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """Take listings of policy rules apart that were pasted one after the other: priorities rise within each."""
    runs: list[list[tuple[int, dict[str, Any]]]] = []
    last = -1
    for number, row in found:
        priority = row.get("priority")
        at = priority if isinstance(priority, int) else last
        if not runs or at < last:
            runs.append([])
        runs[-1].append((number, row))
        last = at
    return runs or [[]]


def local_routes(addresses: Iterable[Address], links: dict[int, Link], version: int) -> list[Route]:
    """Return the routes of table local that the kernel makes for addresses (fib_add_ifaddr, __ipv6_ifa_notify)."""
    made: list[Route] = []
    for each in addresses:
        link = links.get(each.ifindex)
        if each.address.version != version or link is None or not link.up:
            continue
        hop = (NextHop(ifindex=each.ifindex),)
        host = ip_network(each.address.ip)
        if version == 6:
            made.append(Route(table=LOCAL, dst=host, kind="local", proto="kernel", nexthops=hop))
            continue
        own = Route(
            table=LOCAL, dst=host, kind="local", scope="host", proto="kernel", prefsrc=each.address.ip, nexthops=hop
        )
        net = each.address.network
        if net.is_loopback and net.prefixlen < 32:
            made.append(replace(own, dst=net))
        made.append(own)
        if net.prefixlen < 31 and each.peer is None:
            broadcast = ip_network(net.broadcast_address)
            made.append(replace(own, dst=broadcast, kind="broadcast", scope="link"))
    return made


def in_namespace(command: str, name: str, kind: str) -> str:
    """Return a command as it is to be typed on the host to run in a namespace."""
    if kind == "host":
        return command
    quoted_name = shlex.quote(name)
    if kind == "container":
        return f"nsenter -t $(docker inspect -f '{{{{.State.Pid}}}}' {quoted_name}) -n {command}"
    if name.startswith("pid:"):
        return f"nsenter -t {shlex.quote(name.removeprefix('pid:'))} -n {command}"
    return f"ip netns exec {quoted_name} {command}"


def lacking(namespace: Namespace) -> list[str]:
    """Return the sections of a namespace that no text gave and that some command would."""
    return [name for name in COMMANDS if isinstance(getattr(namespace, name), Missing)]
