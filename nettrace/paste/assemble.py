"""From the listings of all files to one Snapshot: which namespaces there are, and how they hang together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from nettrace.model.base import Model, Present, rows, to_json
from nettrace.model.intent import Container, Intent
from nettrace.model.snapshot import Gap, Host, Namespace, Snapshot
from nettrace.paste.commands import Kind
from nettrace.paste.docker_texts import EngineTexts
from nettrace.paste.infer import filled, pair_up
from nettrace.paste.lines import Trouble, quoted
from nettrace.paste.namespace import COMMANDS, NamespaceTexts, in_namespace, lacking
from nettrace.paste.recognise import Block, Recognised, strays

__all__ = ["Assembled", "Listing", "Need", "Untold", "assemble"]

#: No inode of a namespace: the kernel gives numbers of nsfs from 0xF0000000 on, and a paste tells none.
HOST = 1
FIRST = 2
MAX_NAMESPACES = 5_000
#: How many lines that were not understood are told one by one, of each file.
MAX_TOLD = 50

_ENGINE_KINDS = {
    Kind.DOCKER_INSPECT, Kind.DOCKER_NETWORK, Kind.DOCKER_INFO, Kind.DOCKER_VERSION, Kind.DOCKER_PS,
}  # fmt: skip


class Listing(Model):
    """One listing that was recognised: where it begins, what it is, whose it is, and what came of it.

    `netns` is the name of the namespace, None for what an engine tells.
    """

    file: str
    line: int
    what: str
    netns: str | None
    rows: int
    not_understood: int


class Untold(Model):
    """A line that was not understood: the file, the line, what it says (shortened), and what is wrong with it."""

    file: str
    line: int
    text: str
    reason: str


class Need(Model):
    """What is missing for a firm answer, and the command that gives it, to be typed on the host."""

    section: str
    netns: str | None
    command: str


class Assembled(Model):
    """What came of a paste."""

    snapshot: Snapshot
    listings: tuple[Listing, ...]
    untold: tuple[Untold, ...]
    needs: tuple[Need, ...]

    @property
    def usable(self) -> bool:
        """Whether anything was read that a question can be asked about."""
        return any(each.rows for each in self.listings)


@dataclass(slots=True)
class _Spaces:
    """The namespaces that texts speak of, by key: "host", a container's id, or the name of a namespace."""

    intent: Intent
    texts: dict[str, NamespaceTexts] = field(default_factory=dict)
    #: Containers that only a command told of (`docker exec web …`), by name.
    strangers: dict[str, Container] = field(default_factory=dict)

    def of(self, place: str | None) -> NamespaceTexts:
        """Return the texts of the namespace that a command's place names."""
        form, _, word = (place or "host").partition(":")
        if form == "host":
            return self._made("host", "host", "host")
        container = self.container(word) if form in ("container", "netns") else self._of_pid(word)
        if container is not None and container.mode == "host":
            return self._made("host", "host", "host")
        if container is not None and container.joined is not None:
            container = self.container(container.joined) or container
        if container is not None:
            return self._made(container.id, container.name, "container")
        if form == "container":
            self.strangers.setdefault(word, Container(id=word, name=word, engine="docker"))
            return self._made(word, word, "container")
        return self._made(f"{form}:{word}", word if form == "netns" else f"pid:{word}", "netns")

    def _made(self, key: str, name: str, kind: str) -> NamespaceTexts:
        if key not in self.texts:
            if len(self.texts) >= MAX_NAMESPACES:
                return next(reversed(self.texts.values()))
            number = HOST if key == "host" else FIRST + len([each for each in self.texts if each != "host"])
            self.texts[key] = NamespaceTexts(number, name, kind)
        return self.texts[key]

    def container(self, word: str) -> Container | None:
        """Return the container with that name or id, or the only one whose id begins so."""
        named = [each for each in self.intent.containers if word in (each.name, each.id)]
        if not named and len(word) >= 4:
            named = [each for each in self.intent.containers if each.id.startswith(word)]
        return named[0] if len(named) == 1 else None

    def _of_pid(self, word: str) -> Container | None:
        found = [each for each in self.intent.containers if word.isdigit() and str(each.pid) == word]
        return found[0] if len(found) == 1 else None


def assemble(found: Sequence[Recognised]) -> Assembled:
    """Put the listings of all files together; pure, and never raises for what a text holds."""
    engine = EngineTexts()
    listings: list[Listing] = []
    untold: list[Untold] = []
    for file in found:
        for trouble in (*file.troubles, *strays(file)):
            untold.append(_untold(file.file, trouble))
        for block in file.blocks:
            if block.kind in _ENGINE_KINDS:
                count, troubles = _take_engine(engine, block)
                listings.append(_listing(block, None, count, troubles, untold))
    spaces = _Spaces(_encodable(engine.intent()))
    spaces.of(None)
    blocks = [block for file in found for block in file.blocks if block.kind not in _ENGINE_KINDS]
    folders = _folders(found, spaces)
    # Names of devices come first: other listings speak of them.
    for block in sorted(blocks, key=lambda each: each.kind is not Kind.LINK):
        if block.kind is Kind.BROKEN:
            untold.append(
                Untold(file=block.file, line=block.first, text=block.lines[0].text[:120], reason=block.kind.value)
            )
            continue
        place = block.command.place if block.command is not None else None
        texts = spaces.of(place or folders.get(block.file))
        try:
            count, troubles = texts.take(block)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            count, troubles = (
                0,
                [Trouble(line=block.first, text=block.kind.value, reason=quoted(f"unreadable: {error}"))],
            )
        listings.append(_listing(block, texts.name, count, troubles, untold))
    listings.sort(key=lambda each: (each.file, each.line))
    return _put_together(engine, spaces, listings, untold)


def _take_engine(engine: EngineTexts, block: Block) -> tuple[int, list[Trouble]]:
    try:
        if block.is_json:
            return engine.take_json(block.kind.value, block.document, block.first)
        if block.kind is Kind.DOCKER_INFO:
            return engine.take_info_text(block.lines)
        if block.kind is Kind.DOCKER_VERSION:
            return engine.take_version_text(block.lines)
        if block.kind is Kind.DOCKER_PS:
            return engine.take_ps(block.lines)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        return 0, [Trouble(line=block.first, text=block.kind.value, reason=quoted(f"unreadable: {error}"))]
    return 0, [Trouble(line=block.first, text=block.lines[0].text[:120], reason=f"`{block.kind.value}` prints JSON")]


def _encodable(intent: Intent) -> Intent:
    """Return what engines meant without what no document can hold (numbers of more than 64 bits)."""

    def fits(row: Model) -> bool:
        try:
            to_json(row)
        except (ValueError, OverflowError, TypeError):
            return False
        return True

    return replace(
        intent,
        networks=tuple(each for each in intent.networks if fits(each)),
        containers=tuple(each for each in intent.containers if fits(each)),
    )


def _listing(block: Block, netns: str | None, count: int, troubles: Sequence[Trouble], untold: list[Untold]) -> Listing:
    untold += [_untold(block.file, each) for each in troubles[:MAX_TOLD]]
    if len(troubles) > MAX_TOLD:
        more = f"{len(troubles) - MAX_TOLD} more lines of `{block.kind.value}` were not understood"
        untold.append(Untold(file=block.file, line=troubles[MAX_TOLD].line, text=troubles[MAX_TOLD].text, reason=more))
    return Listing(
        file=block.file, line=block.first, what=block.kind.value, netns=netns, rows=count, not_understood=len(troubles)
    )


def _untold(file: str, trouble: Trouble) -> Untold:
    return Untold(file=file, line=trouble.line, text=trouble.text, reason=trouble.reason)


def _folders(found: Sequence[Recognised], spaces: _Spaces) -> dict[str, str]:
    """Return the place that the folder of each file names, where it names one: "host", or a container.

    Beside a folder "host", every other one is of the container or namespace that it is called after.
    """
    paths = {each.file: each.file.split("/")[:-1] for each in found}
    beside = {tuple(parts[: parts.index("host")]) for parts in paths.values() if "host" in parts}
    places: dict[str, str] = {}
    for file, parts in paths.items():
        if "sos_commands" in parts:
            continue
        for depth in range(len(parts) - 1, -1, -1):
            if parts[depth] == "host":
                break
            if spaces.container(parts[depth]) is not None or tuple(parts[:depth]) in beside:
                places[file] = f"container:{parts[depth]}"
                break
    return places


def _put_together(engine: EngineTexts, spaces: _Spaces, listings: list[Listing], untold: list[Untold]) -> Assembled:
    intent = spaces.intent
    intent = replace(intent, containers=(*intent.containers, *spaces.strangers.values()))
    bridges = [network.bridge for network in intent.networks if network.bridge is not None]
    networks = {network.id: network for network in intent.networks}
    pasted = {key: texts.namespace(bridges) for key, texts in spaces.texts.items()}
    _pair_pasted(pasted, spaces)
    gaps: list[Gap] = []
    host = pasted.pop("host")
    gaps += [Gap(section=section, netns="host", reason=reason) for section, reason in spaces.texts["host"].gaps]
    made: list[tuple[Namespace, Container]] = []
    others: list[Namespace] = []
    number = FIRST + len(spaces.texts)
    _recognise_containers(pasted, spaces)
    for container in intent.containers:
        known = pasted.pop(container.id, None)
        if known is None and not _has_own(container):
            continue
        if known is None:
            number += 1
            known = NamespaceTexts(number, _unique(container, intent), "container").namespace(())
        namespace, sections = filled(known, container, networks, host)
        texts = spaces.texts.get(container.id)
        if sections:
            gaps.append(Gap(section="namespace", netns=namespace.name, reason=_assumed(namespace, sections)))
        for section, reason in texts.gaps if texts is not None else ():
            gaps.append(Gap(section=section, netns=namespace.name, reason=reason))
        made.append((namespace, container))
    for key, namespace in pasted.items():
        others.append(namespace)
        gaps += [
            Gap(section=section, netns=namespace.name, reason=reason) for section, reason in spaces.texts[key].gaps
        ]
    host, inside, said = pair_up(host, made, networks)
    gaps += [Gap(section="links", netns="host", reason=each) for each in said[:MAX_TOLD]]
    namespaces = (host, *inside, *others)
    intent = _with_netns(intent, {container.id: space.id for space, (_, container) in zip(inside, made, strict=True)})
    gaps += _engine_gaps(engine, intent)
    gaps += [_gap_of(each) for each in untold]
    told = engine.told()
    snapshot = Snapshot(
        host=Host(
            kernel=told.kernel,
            engine=f"{intent.engines[0].name} {intent.engines[0].version}".strip() if intent.engines else None,
            hostname=told.hostname,
        ),
        host_netns=host.id,
        namespaces=namespaces,
        intent=intent,
        gaps=tuple(dict.fromkeys(gaps)),
    )
    return Assembled(
        snapshot=snapshot,
        listings=tuple(listings),
        untold=tuple(untold),
        needs=tuple(dict.fromkeys(_needs(namespaces, {each.id for each, _ in made}, engine, gaps))),
    )


def _recognise_containers(pasted: dict[str, Namespace], spaces: _Spaces) -> None:
    """Give namespaces that were pasted by another name to the containers whose MAC and address they hold."""
    holders = {
        (link.mac, address.address.ip): key
        for key, namespace in pasted.items()
        if namespace.kind == "netns"
        for link in rows(namespace.links)
        for address in rows(namespace.addresses)
        if address.ifindex == link.ifindex
    }
    for container in spaces.intent.containers:
        for each in container.endpoints:
            key = holders.get((each.mac, each.ipv4.ip)) if each.ipv4 is not None else None
            if key is not None and key in pasted and container.id not in pasted and _has_own(container):
                pasted[container.id] = replace(pasted.pop(key), kind="container")
                spaces.texts[container.id] = spaces.texts[key]


def _has_own(container: Container) -> bool:
    """Tell whether a container has a network namespace of its own, as its engine runs it."""
    return container.status in ("running", "paused") and container.joined is None and container.mode not in ("host",)


def _unique(container: Container, intent: Intent) -> str:
    same = [each for each in intent.containers if each.name == container.name]
    name = container.name if len(same) == 1 else f"{container.name}-{container.id[:12]}"
    return name if name != "host" else "container:host"


def _assumed(namespace: Namespace, sections: Sequence[str]) -> str:
    meant = [each for each in sections if each in ("links", "addresses", "routes")]
    usual = [each for each in sections if each not in meant and each not in ("neighbours", "fdb")]
    parts = []
    if meant:
        parts.append(f"{_and(meant)} are taken as its engine makes them")
    if usual:
        parts.append(f"{_and(usual)} as a new container has them")
    if not parts:
        return f"{_and(sections)} are not in the paste, and taken as empty"
    commands = "; ".join(command for name in (*meant, *usual) for command in COMMANDS[name])
    whole = in_namespace(f"sh -c {shlex.quote(commands)}", namespace.name, namespace.kind)
    return f"not in the paste: {'; '.join(parts)}: run `{whole}`"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _commands(section: str, namespace: Namespace) -> list[str]:
    return [in_namespace(each, namespace.name, namespace.kind) for each in COMMANDS[section]]


def _with_netns(intent: Intent, inodes: dict[str, int]) -> Intent:
    containers = []
    for each in intent.containers:
        netns = inodes.get(each.id)
        if each.mode == "host" and each.status in ("running", "paused"):
            netns = HOST
        if each.joined is not None:
            other = next((row.id for row in intent.containers if each.joined in (row.id, row.name)), None)
            netns = inodes.get(other or "")
        containers.append(replace(each, netns=netns))
    return replace(intent, containers=tuple(containers))


def _engine_gaps(engine: EngineTexts, intent: Intent) -> list[Gap]:
    made = []
    if not engine.anything:
        reason = "nothing of a container engine is in the paste: run `docker inspect $(docker ps -aq)`"
        return [
            Gap(section="intent", netns=None, reason=f"{reason} and `docker network inspect $(docker network ls -q)`")
        ]
    if not engine.networks_inspected:
        reason = "the engine's networks are not in the paste: run `docker network inspect $(docker network ls -q)`"
        made.append(Gap(section="intent", netns=None, reason=reason))
    if not engine.inspected:
        reason = (
            "containers are not in the paste, but for their names or addresses: run `docker inspect $(docker ps -aq)`"
        )
        made.append(Gap(section="intent", netns=None, reason=reason))
    if not intent.engines or not intent.engines[0].version:
        made.append(Gap(section="host", netns=None, reason="which engine runs is not told: run `docker version`"))
    return made


def _gap_of(line: Untold) -> Gap:
    where = f"{line.file}, line {line.line}" if line.line else line.file
    return Gap(
        section="paste",
        netns=None,
        reason=f"{where}: {line.reason}: {line.text}" if line.text else f"{where}: {line.reason}",
    )


def _needs(
    namespaces: Sequence[Namespace], containers: set[int], engine: EngineTexts, gaps: Sequence[Gap]
) -> list[Need]:
    """Return what is missing, and how to get it; a container that nobody pasted anything of is asked for as one."""
    needs = [
        Need(section=section, netns=namespace.name, command=command)
        for namespace in namespaces
        for section in lacking(namespace)
        if section != "conntrack" and (namespace.id not in containers or section == "sockets")
        for command in _commands(section, namespace)
    ]
    for gap in gaps:
        # Of the host's listings, those that show a part; what only another IP version needs is told as a gap.
        section, _, part = gap.section.partition("/")
        if gap.netns == "host" and part in ("", "part"):
            needs += [
                Need(section=section, netns="host", command=each) for each in re.findall(r"run `([^`]+)`", gap.reason)
            ]
    if not engine.networks_inspected:
        command = "docker network inspect $(docker network ls -q)"
        needs.append(Need(section="intent", netns=None, command=command))
    if not engine.inspected:
        needs.append(Need(section="intent", netns=None, command="docker inspect $(docker ps -aq)"))
    return needs


def _pair_pasted(pasted: dict[str, Namespace], spaces: _Spaces) -> None:
    """Find out which links of two pasted namespaces are each other's peers: their indexes must point at each other."""
    ends: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for key, namespace in pasted.items():
        for link in rows(namespace.links):
            if link.peer_ifindex and (link.peer_nsid is not None or link.ifindex in spaces.texts[key].link_netns):
                ends.setdefault((link.ifindex, link.peer_ifindex), []).append((key, link.ifindex))
    # An index and its peer's may be the same in several namespaces: two ends are one pair where neither has a choice.
    choices = {
        (key, index): [(other, at) for other, at in ends.get((peer, index), ()) if other != key]
        for (index, peer), mine in ends.items()
        for key, _ in mine
    }
    peers = {end: found[0][0] for end, found in choices.items() if len(found) == 1 and choices[found[0]] == [end]}
    for key, namespace in pasted.items():
        links, nsids = [], dict(namespace.nsids)
        for link in rows(namespace.links):
            other = peers.get((key, link.ifindex)) or _parent(key, link, pasted)
            if other is not None:
                if link.peer_nsid is not None:
                    nsids[str(link.peer_nsid)] = pasted[other].id
                link = replace(link, peer_netns=pasted[other].id, peer_nsid=None)
            elif link.peer_nsid is None and link.ifindex in spaces.texts[key].link_netns:
                # It leads to another namespace, which is not in the paste.
                link = replace(link, peer_nsid=-1)
            links.append(link)
        if isinstance(namespace.links, Present):
            pasted[key] = replace(namespace, links=Present(rows=tuple(links)), nsids=nsids)


def _parent(key: str, link: object, pasted: dict[str, Namespace]) -> str | None:
    """Return the host where a macvlan of another namespace has its parent there."""
    from nettrace.model.snapshot import Link

    if not isinstance(link, Link) or key == "host" or link.kind not in ("macvlan", "ipvlan") or link.peer_nsid is None:
        return None
    found = any(each.ifindex == link.peer_ifindex for each in rows(pasted["host"].links))
    return "host" if found else None
