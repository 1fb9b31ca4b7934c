"""A topology for people: tables for a terminal, Mermaid or Graphviz for a picture.

Names come from the host, so they are escaped: control characters for terminals, quotes for the languages of graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nettrace.model.topology import Box, Interface, NetworkView, Topology
from nettrace.render.safe import safe

__all__ = ["render_dot", "render_mermaid", "render_text"]


def render_text(topo: Topology, *, unicode: bool = True) -> str:
    """Return the topology as tables, without a last newline; what differs from the engine's intent stands first."""
    blocks = [
        _section("Differs from what the engine meant", [_bullet(each) for each in _differences(topo)]),
        _section("Networks", _networks(topo.networks)),
        _section("Host", _host(topo)),
        _section("Containers", _containers(topo)),
        _section("Other namespaces", _others(topo)),
        _section("Not known", [_bullet(each) for each in _gaps(topo)]),
    ]
    text = "\n\n".join("\n".join(block) for block in blocks if block)
    return text if unicode else text.replace("→", "->").replace("↔", "<->")


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  {line}".rstrip() for line in lines)] if lines else []


def _bullet(text: str) -> str:
    return f"- {text}"


def _tabulated(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> list[str]:
    from tabulate import tabulate  # here: it costs as much to import as the rest of the rendering

    if not rows:
        return []
    kept = [at for at in range(len(headers)) if any(row[at] for row in rows)]
    shown = [[safe(row[at]) for at in kept] for row in rows]
    text = tabulate(shown, headers=[headers[at] for at in kept], tablefmt="simple", disable_numparse=True)
    return text.splitlines()


def _differences(topo: Topology) -> Iterator[str]:
    for each in topo.differences:
        yield f"{safe(each.at)}: meant {safe(each.meant)}; {safe(each.found)}"


def _gaps(topo: Topology) -> Iterator[str]:
    for each in topo.gaps:
        where = f" of {safe(each.netns)}" if each.netns else ""
        yield f"{safe(each.section)}{where}: {safe(each.reason)}"


def _networks(networks: Iterable[NetworkView]) -> list[str]:
    rows = [
        [
            each.name,
            each.driver,
            each.bridge or each.parent or "",
            ", ".join(each.subnets),
            ", ".join(f"{name} {value}" for name, value in each.options.items()),
            str(len(each.members)) if each.members else "",
        ]
        for each in networks
    ]
    return _tabulated(rows, ("network", "driver", "device", "subnet", "options", "containers"))


def _host(topo: Topology) -> list[str]:
    host = next((each for each in topo.boxes if each.kind == "host"), None)
    if host is None:
        return []
    rows = [_device(each) for each in host.interfaces if each.kind != "loopback"]
    lines = _tabulated(rows, DEVICE)
    return [*lines, *(f"default via {safe(each)}" for each in host.gateways)]


DEVICE = ("device", "kind", "state", "mtu", "MAC", "addresses", "port of", "other end", "network")


def _device(each: Interface) -> list[str]:
    return [
        each.name,
        each.kind,
        "up" if each.up else "DOWN",
        str(each.mtu),
        each.mac or "",
        ", ".join(each.addresses),
        each.master or "",
        _other_end(each),
        each.network or "",
    ]


def _other_end(each: Interface) -> str:
    """The other end of a pair with both indexes: "↔ host/veth12ab@if45"."""
    if each.peer is not None:
        return f"↔ {each.peer}@if{each.ifindex}" if each.kind == "veth" else f"on {each.peer}"
    return "not seen from here" if each.peer_ifindex and each.kind == "veth" else ""


def _containers(topo: Topology) -> list[str]:
    rows: list[list[str]] = []
    for box in topo.boxes:
        if box.kind == "container" and box.engine is not None:
            rows += _rows(box)
    return _tabulated(rows, ("container", "state", "network", *DEVICE[:1], *DEVICE[2:6], "other end", "published"))


def _rows(box: Box) -> Iterator[list[str]]:
    """A line for each interface of a container, its name and ports on the first one."""
    shown = [each for each in box.interfaces if each.kind != "loopback"]
    state = "" if box.status == "running" else box.status or ""
    ports = ", ".join(box.ports)
    if not shown:
        why = f"joined to {box.joined}" if box.joined is not None else (box.mode or "")
        yield [box.name, state, why, "", "", "", "", "", "", ports]
        return
    for number, each in enumerate(shown):
        name, _kind, up, mtu, mac, addresses, _master, other, network = _device(each)
        first = [box.name, state] if number == 0 else ["", ""]
        yield [*first, network, name, up, mtu, mac, addresses, other, ports if number == 0 else ""]


def _others(topo: Topology) -> list[str]:
    rows = []
    for box in topo.boxes:
        if box.kind != "host" and box.engine is None:
            shown = [each for each in box.interfaces if each.kind != "loopback"]
            for number, each in enumerate(shown):
                rows.append([box.name if number == 0 else "", *_device(each)])
    return _tabulated(rows, ("namespace", *DEVICE))


# --- graphs ---------------------------------------------------------------------------------------------------------


#: What is not as the engine meant it.
MARK = '"#dd0000"'


class _Graph:
    """Nodes with labels, grouped by namespace, and edges between them; ids are plain words."""

    def __init__(self, topo: Topology) -> None:
        self.ids: dict[str, str] = {}
        self.groups: list[tuple[str, str, list[tuple[str, str]]]] = []
        self.edges: list[tuple[str, str, str]] = []
        #: Nodes and groups that are not as the engine meant them.
        self.marked: list[str] = []
        places = {each.at for each in topo.differences}
        for number, box in enumerate(topo.boxes):
            shown = [each for each in box.interfaces if each.kind != "loopback"]
            nodes = [(self._id(f"{box.name}/{each.device}"), _label(each)) for each in shown]
            if not nodes:
                nodes = [(self._id(box.name), _nothing(box))]
            title = " ".join([box.name, *(f"({port})" for port in box.ports)])
            self.groups.append((f"g{number}", title, nodes))
            self.marked += [self.ids[at] for each in shown if (at := f"{box.name}/{each.device}") in places]
            self.marked += [f"g{number}"] if box.name in places else []
        for box in topo.boxes:
            for each in box.interfaces:
                self._edges_of(box, each)

    def _id(self, name: str) -> str:
        return self.ids.setdefault(name, f"n{len(self.ids)}")

    def _edges_of(self, box: Box, each: Interface) -> None:
        own = f"{box.name}/{each.device}"
        if each.master is not None:
            self._edge(f"{box.name}/{each.master}", own, "")
        if each.peer is not None and (each.kind != "veth" or own < each.peer):
            self._edge(own, each.peer, each.kind)

    def _edge(self, one: str, other: str, label: str) -> None:
        if one in self.ids and other in self.ids:
            self.edges.append((self.ids[one], self.ids[other], label))


def _label(each: Interface) -> str:
    parts = [each.name, *each.addresses]
    if each.network is not None:
        parts.append(f"network {each.network}")
    if not each.up:
        parts.append("DOWN")
    return "\n".join(safe(part) for part in parts)


def _nothing(box: Box) -> str:
    if box.joined is not None:
        return f"joined to {safe(box.joined)}"
    return safe(box.status or "no interface")


def render_mermaid(topo: Topology) -> str:
    """Return the topology as a Mermaid flowchart, without a last newline."""
    graph = _Graph(topo)
    lines = ["flowchart LR"]
    for group, title, nodes in graph.groups:
        lines.append(f'  subgraph {group}["{_entities(safe(title))}"]')
        lines += [f'    {node}["{_entities(label).replace(chr(10), "<br/>")}"]' for node, label in nodes]
        lines.append("  end")
    for one, other, label in graph.edges:
        lines.append(f"  {one} ---|{label}| {other}" if label else f"  {one} --- {other}")
    lines += [f"  style {each} stroke:#d00,stroke-width:3px" for each in graph.marked]
    return "\n".join(lines)


def _entities(text: str) -> str:
    """Escape what Mermaid would read as its own inside quotes."""
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


def render_dot(topo: Topology) -> str:
    """Return the topology in Graphviz's language, without a last newline."""
    graph = _Graph(topo)
    lines = ["graph nettrace {", "  rankdir=LR;", "  node [shape=box];"]
    for group, title, nodes in graph.groups:
        lines += [f"  subgraph cluster_{group} {{", f"    label={_quoted(safe(title))};"]
        lines += [f"    color={MARK};"] if group in graph.marked else []
        lines += [
            f"    {node} [label={_quoted(label)}{f', color={MARK}, penwidth=3' if node in graph.marked else ''}];"
            for node, label in nodes
        ]
        lines.append("  }")
    for one, other, label in graph.edges:
        lines.append(f"  {one} -- {other} [label={_quoted(label)}];" if label else f"  {one} -- {other};")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
