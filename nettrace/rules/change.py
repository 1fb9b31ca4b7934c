"""Changes that a remedy makes, done to a copy of the snapshot, so that the model can say whether they would help."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from nettrace.model.base import IPAddress, Missing, Present, Values, rows
from nettrace.model.intent import Container
from nettrace.model.netfilter import RuleRef
from nettrace.model.snapshot import (
    Address,
    BridgeInfo,
    BridgePort,
    DumpFormat,
    FdbEntry,
    Link,
    Namespace,
    Neighbour,
    NetfilterDump,
    NextHop,
    PolicyRule,
    Route,
    Snapshot,
)

Change = Callable[[Snapshot], Snapshot]


def together(*changes: Change) -> Change:
    """Return the change that makes all changes, in order."""

    def change(snapshot: Snapshot) -> Snapshot:
        for each in changes:
            snapshot = each(snapshot)
        return snapshot

    return change


def _in_namespace(netns: int, edit: Callable[[Namespace], Namespace]) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, namespaces=tuple(edit(ns) if ns.id == netns else ns for ns in snapshot.namespaces))

    return change


def _section(name: str, netns: int, edit: Callable[[tuple[Any, ...]], Iterable[Any]]) -> Change:
    def edit_namespace(ns: Namespace) -> Namespace:
        section = getattr(ns, name)
        if isinstance(section, Missing):
            return ns
        return replace(ns, **{name: Present(rows=tuple(edit(section.rows)))})

    return _in_namespace(netns, edit_namespace)


def set_status(container: Container, status: str) -> Change:
    """Set what the engine says about a container ("running")."""

    def change(snapshot: Snapshot) -> Snapshot:
        intent = snapshot.intent
        others = tuple(replace(each, status=status) if each.id == container.id else each for each in intent.containers)
        return replace(snapshot, intent=replace(intent, containers=others))

    return change


def set_sysctls(netns: int, values: dict[str, str]) -> Change:
    """Set sysctls of a namespace."""

    def edit(ns: Namespace) -> Namespace:
        if isinstance(ns.sysctls, Missing):
            return ns
        return replace(ns, sysctls=Values(values={**ns.sysctls.values, **values}))

    return _in_namespace(netns, edit)


def set_link(netns: int, ifindex: int, **facts: Any) -> Change:
    """Change facts of a link."""

    def edit(links: tuple[Link, ...]) -> Iterable[Link]:
        return (replace(link, **facts) if link.ifindex == ifindex else link for link in links)

    return _section("links", netns, edit)


def add_bridge(netns: int, name: str, ports: Iterable[int]) -> Change:
    """Add a bridge that is up, and make links its ports; its ifindex is the next one that is free."""

    def edit(links: tuple[Link, ...]) -> Iterable[Link]:
        index = next_ifindex(links)
        members = [link for link in links if link.ifindex in set(ports)]
        mac = min((link.mac for link in members if link.mac is not None), default=None)
        for link in links:
            forwards = 3 if link.up and link.lower_up else 0
            yield replace(link, master=index, port=BridgePort(state=forwards)) if link in members else link
        yield Link(ifindex=index, name=name, kind="bridge", mac=mac, lower_up=bool(members), bridge=BridgeInfo())

    return _section("links", netns, edit)


def next_ifindex(links: Iterable[Link]) -> int:
    """Return the index that the next link gets (dev_new_index)."""
    return max((link.ifindex for link in links), default=0) + 1


def set_port(netns: int, ifindex: int, **facts: Any) -> Change:
    """Change facts of a bridge port."""

    def edit(links: tuple[Link, ...]) -> Iterable[Link]:
        for link in links:
            if link.ifindex == ifindex and link.port is not None:
                yield replace(link, port=replace(link.port, **facts))
            else:
                yield link

    return _section("links", netns, edit)


def set_vtep(netns: int, entry: FdbEntry, address: IPAddress) -> Change:
    """Let a vxlan device's forwarding entry point to another host."""

    def edit(entries: tuple[FdbEntry, ...]) -> Iterable[FdbEntry]:
        return (replace(each, dst=address) if each == entry else each for each in entries)

    return _section("fdb", netns, edit)


def bring_up(netns: int, ifindex: int) -> Change:
    """Set a link up, with what the kernel does then.

    Both ends of a veth pair get their carrier once both are up; a bridge port with carrier forwards where no spanning
    tree decides (br_stp_enable_port); routes of the link count again, and those of its addresses come back
    (fib_sync_up, fib_add_ifaddr).
    """

    def change(snapshot: Snapshot) -> Snapshot:
        own, ns = _link_of(snapshot, netns, ifindex), snapshot.namespace(netns)
        if own is None:
            return snapshot
        far = _link_of(snapshot, own.peer_netns or netns, own.peer_ifindex or 0) if own.kind == "veth" else None
        steps = [set_link(netns, ifindex, up=True), _routes_back(netns, ifindex)]
        ports = [link for link in rows(ns.links) if link.master == ifindex and link.up and link.lower_up] if ns else []
        if own.kind == "bridge":
            # A bridge has the carrier of its ports, which stop forwarding while it is down (br_stp_enable_bridge).
            steps += [_forwarding(netns, port.ifindex) for port in ports]
        elif far is None or far.up:
            ends = [(netns, ifindex)] + ([(own.peer_netns or netns, far.ifindex)] if far is not None else [])
            for where, index in ends:
                steps += [set_link(where, index, lower_up=True, operstate="UP"), _forwarding(where, index)]
        return together(*steps)(snapshot)

    return change


def _link_of(snapshot: Snapshot, netns: int, ifindex: int) -> Link | None:
    ns = snapshot.namespace(netns)
    links = rows(ns.links) if ns is not None else ()
    return next((link for link in links if link.ifindex == ifindex), None)


def _forwarding(netns: int, ifindex: int) -> Change:
    """Let a bridge port forward, and its bridge have a carrier, where no spanning tree decides."""

    def edit(links: tuple[Link, ...]) -> Iterable[Link]:
        port = next((link for link in links if link.ifindex == ifindex), None)
        bridge = next((link for link in links if port is not None and link.ifindex == port.master), None)
        for link in links:
            if bridge is None or (bridge.bridge is not None and bridge.bridge.stp_state):
                yield link
            elif link is port and link.port is not None:
                yield replace(link, port=replace(link.port, state=3))
            elif link is bridge and link.up:
                yield replace(link, lower_up=True, operstate="UP")
            else:
                yield link

    return _section("links", netns, edit)


def _routes_back(netns: int, ifindex: int) -> Change:
    def edit_namespace(ns: Namespace) -> Namespace:
        if isinstance(ns.routes, Missing):
            return ns
        held = [each for each in rows(ns.addresses) if each.ifindex == ifindex]
        routes = [_alive(route, ifindex) for route in ns.routes.rows]
        there = {(route.table, route.dst) for route in routes if any(hop.ifindex == ifindex for hop in route.nexthops)}
        for each in held:
            if (254, each.address.network) not in there and each.address.network.prefixlen < each.address.max_prefixlen:
                source = each.address.ip if each.address.version == 4 else None
                hops = (NextHop(ifindex=ifindex),)
                routes.append(
                    Route(
                        table=254, dst=each.address.network, scope="link", proto="kernel", prefsrc=source, nexthops=hops
                    )
                )
        return replace(ns, routes=Present(rows=tuple(routes)))

    return _in_namespace(netns, edit_namespace)


def _alive(route: Route, ifindex: int) -> Route:
    """Return a route whose next hops by a link are no longer marked dead."""
    if all(hop.ifindex != ifindex or not hop.flags for hop in route.nexthops):
        return route
    gone = ("dead", "linkdown")
    return replace(
        route,
        nexthops=tuple(
            replace(hop, flags=tuple(flag for flag in hop.flags if flag not in gone)) if hop.ifindex == ifindex else hop
            for hop in route.nexthops
        ),
    )


def add_route(netns: int, route: Route) -> Change:
    """Add a route."""
    return _section("routes", netns, lambda rows: (*rows, route))


def default_route(gateway: IPAddress, ifindex: int) -> Route:
    """Return a default route of the main table by a gateway."""
    from ipaddress import ip_network

    everything = ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0")
    return Route(table=254, dst=everything, nexthops=(NextHop(ifindex=ifindex, gateway=gateway),))


def delete_route(netns: int, route: Route) -> Change:
    """Delete a route."""
    return _section("routes", netns, lambda rows: (row for row in rows if row != route))


def delete_policy_rule(netns: int, rule: PolicyRule) -> Change:
    """Delete a row of `ip rule`."""
    return _section("rules", netns, lambda rows: (row for row in rows if row != rule))


def add_policy_rule(netns: int, rule: PolicyRule) -> Change:
    """Add a row of `ip rule`."""
    return _section("rules", netns, lambda rows: (*rows, rule))


def delete_address(netns: int, address: Address) -> Change:
    """Delete an address with the local and connected routes that came with it."""
    held = address.address

    def stays(route: Route) -> bool:
        own = any(hop.ifindex == address.ifindex for hop in route.nexthops)
        local = route.kind == "local" and route.dst.network_address == held.ip
        # Connected IPv6 routes have the universe's scope, and a /128 has one too (addrconf_prefix_route).
        kernels = route.scope == "link" or (held.version == 6 and route.proto == "kernel")
        connected = kernels and route.dst == held.network and route.prefsrc in (None, held.ip)
        broadcast = route.kind == "broadcast" and route.prefsrc == held.ip
        return not (own and (local or connected or broadcast))

    return together(
        _section("addresses", netns, lambda rows: (row for row in rows if row != address)),
        _section("routes", netns, lambda rows: (row for row in rows if stays(row))),
    )


def add_address(netns: int, address: Address) -> Change:
    """Add an address with the local and connected routes that come with it."""
    from ipaddress import ip_network

    held = address.address
    hop = (NextHop(ifindex=address.ifindex),)
    local = Route(table=255, dst=ip_network(f"{held.ip}/{held.max_prefixlen}"), kind="local", nexthops=hop)
    connected = Route(table=254, dst=held.network, scope="link", prefsrc=held.ip, nexthops=hop)
    return together(
        _section("addresses", netns, lambda rows: (*rows, address)),
        add_route(netns, local),
        add_route(netns, connected),
    )


def delete_neighbour(netns: int, entry: Neighbour) -> Change:
    """Delete a neighbour entry."""
    return _section("neighbours", netns, lambda rows: (row for row in rows if row != entry))


def forget_neighbours(netns: int) -> Change:
    """Forget every neighbour entry that was learnt."""
    return _section("neighbours", netns, lambda rows: (row for row in rows if row.state == "PERMANENT"))


def add_fdb(netns: int, entry: FdbEntry) -> Change:
    """Add a forwarding entry."""
    return _section("fdb", netns, lambda rows: (*rows, entry))


def delete_fdb(netns: int, mac: str, ifindex: int) -> Change:
    """Delete a forwarding entry."""
    return _section("fdb", netns, lambda rows: (row for row in rows if (row.mac, row.ifindex) != (mac, ifindex)))


# --- netfilter ------------------------------------------------------------------------------------------------------


def _dumps(netns: int, edit: Callable[[NetfilterDump], NetfilterDump]) -> Change:
    return _section("netfilter", netns, lambda rows: (edit(row) for row in rows))


def _edit_iptables(netns: int, backend: str, family: str, table: str, edit: Callable[[list[str]], list[str]]) -> Change:
    """Edit the lines of one table of an iptables-save dump, or of an ebtables-save dump, which has no COMMIT."""
    format = DumpFormat.EBTABLES_SAVE if family == "bridge" else DumpFormat.IPTABLES_SAVE

    def edit_dump(dump: NetfilterDump) -> NetfilterDump:
        if (dump.format, dump.backend, dump.family) != (format, backend, family):
            return dump
        out: list[str] = []
        body: list[str] | None = None
        for line in [*dump.text.splitlines(), "*"]:
            if body is not None and (line.startswith("*") or line.strip() == "COMMIT"):
                out.extend(edit(body))
                body = None
            if line.startswith("*") and line[1:].strip() == table:
                body = []
                out.append(line)
            elif body is not None:
                body.append(line)
            else:
                out.append(line)
        return replace(dump, text="\n".join(out[:-1]) + "\n")

    return _dumps(netns, edit_dump)


def _chain_of(line: str) -> str | None:
    words = line.split()
    if words and words[0].startswith("["):
        words = words[1:]
    return words[1] if len(words) > 1 and words[0] == "-A" else None


def delete_rule(netns: int, ref: RuleRef) -> Change:
    """Delete one rule, wherever it stands: in an iptables-save dump, or in nft's JSON by its handle."""

    def drop_line(lines: list[str]) -> list[str]:
        kept: list[str] = []
        count = 0
        for line in lines:
            if _chain_of(line) == ref.chain:
                count += 1
                if count == ref.index:
                    continue
            kept.append(line)
        return kept

    def drop_object(dump: NetfilterDump) -> NetfilterDump:
        if dump.format is not DumpFormat.NFT_JSON or ref.handle is None:
            return dump
        document = json.loads(dump.text)
        document["nftables"] = [
            each
            for each in document.get("nftables", [])
            if not (
                isinstance(each.get("rule"), dict)
                and each["rule"].get("handle") == ref.handle
                and (each["rule"].get("family"), each["rule"].get("table"), each["rule"].get("chain"))
                == (ref.family, ref.table, ref.chain)
            )
        ]
        return replace(dump, text=json.dumps(document))

    return together(_edit_iptables(netns, ref.backend, ref.family, ref.table, drop_line), _dumps(netns, drop_object))


def insert_rule(netns: int, backend: str, family: str, table: str, rule: str) -> Change:
    """Put a rule ("-A CHAIN …") first into its chain."""
    chain = rule.split()[1]

    def edit(lines: list[str]) -> list[str]:
        for index, line in enumerate(lines):
            if _chain_of(line) == chain:
                return [*lines[:index], rule, *lines[index:]]
        return [*lines, rule]

    return _edit_iptables(netns, backend, family, table, edit)


def delete_text(netns: int, backend: str, family: str, table: str, rule: str) -> Change:
    """Delete the first rule of an iptables table that has this text ("-A CHAIN …")."""

    def edit(lines: list[str]) -> list[str]:
        found = next((index for index, line in enumerate(lines) if line[line.find("-A ") :] == rule), None)
        return lines if found is None else [*lines[:found], *lines[found + 1 :]]

    return _edit_iptables(netns, backend, family, table, edit)


#: The chains that the kernel makes with each table of iptables.
_BUILTIN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


def insert_rule_at(netns: int, backend: str, family: str, table: str, rule: str, position: int | None) -> Change:
    """Put a rule ("-A CHAIN …") at a position of its chain, which counts from 1; None is its end.

    The table, the chain, and one that the rule jumps to, are made when they are not there.
    """
    chain, target = rule.split()[1], rule.rpartition(" -j ")[2]

    def edit(lines: list[str]) -> list[str]:
        headers = {line[1:].split()[0] for line in lines if line.startswith(":")}
        new = [f":{each} - [0:0]" for each in (chain, target) if each.startswith("DOCKER") and each not in headers]
        lines = [*new, *lines]
        places = [index for index, line in enumerate(lines) if _chain_of(line) == chain]
        if position is None or position > len(places):
            return [*lines, rule]
        return [*lines[: places[position - 1]], rule, *lines[places[position - 1] :]]

    return together(_make_table(netns, backend, family, table), _edit_iptables(netns, backend, family, table, edit))


def _make_table(netns: int, backend: str, family: str, table: str) -> Change:
    """Make a table of iptables, with its own chains, where it is not there yet."""
    text = "".join(f":{chain} ACCEPT [0:0]\n" for chain in _BUILTIN[table])
    text = f"*{table}\n{text}COMMIT\n"
    key = (DumpFormat.IPTABLES_SAVE, backend, family)

    def edit(dumps: tuple[NetfilterDump, ...]) -> Iterable[NetfilterDump]:
        if all((dump.format, dump.backend, dump.family) != key for dump in dumps):
            dumps = (*dumps, NetfilterDump(format=key[0], backend=backend, family=family, text=""))
        for dump in dumps:
            lacks = (dump.format, dump.backend, dump.family) == key and f"*{table}" not in dump.text.splitlines()
            yield replace(dump, text=dump.text + text) if lacks else dump

    return _section("netfilter", netns, edit)


def append_rule(netns: int, backend: str, family: str, table: str, rule: str) -> Change:
    """Put a rule ("-A CHAIN …") last into its chain; the table is made when it is not there."""
    made = _make_table(netns, backend, family, table)
    return together(made, _edit_iptables(netns, backend, family, table, lambda lines: [*lines, rule]))


def set_policy(netns: int, ref: RuleRef, policy: str) -> Change:
    """Set the policy of a base chain ("ACCEPT")."""

    def edit(lines: list[str]) -> list[str]:
        return [
            f":{ref.chain} {policy} {line.split()[-1]}" if line.startswith(f":{ref.chain} ") else line for line in lines
        ]

    def edit_json(dump: NetfilterDump) -> NetfilterDump:
        if dump.format is not DumpFormat.NFT_JSON:
            return dump
        document = json.loads(dump.text)
        for each in document.get("nftables", []):
            chain = each.get("chain")
            if isinstance(chain, dict) and (chain.get("family"), chain.get("table"), chain.get("name")) == (
                ref.family,
                ref.table,
                ref.chain,
            ):
                chain["policy"] = policy.lower()
        return replace(dump, text=json.dumps(document))

    return together(_edit_iptables(netns, ref.backend, ref.family, ref.table, edit), _dumps(netns, edit_json))


def add_table(netns: int, family: str, table: str, chain: str, rules: Iterable[str]) -> Change:
    """Add a listing of its own with one table, one chain (":OUTPUT ACCEPT [0:0]") and its rules, beside the others."""
    text = "\n".join([f"*{table}", chain, *rules, "COMMIT"]) + "\n"
    dump = NetfilterDump(format=DumpFormat.IPTABLES_SAVE, backend="legacy", family=family, text=text)
    return _section("netfilter", netns, lambda rows: (*rows, dump))
