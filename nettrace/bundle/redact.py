"""Take what identifies a host out of a bundle, and leave all that its diagnosis stands on.

Addresses and MAC addresses are mapped (see `nettrace.bundle.mapping`); names of hosts, containers, namespaces, networks
and those that were looked up become tokens. In the texts of the kernel's tools only addresses are replaced: names of
devices, chains and tables are what the rules in them refer to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from nettrace.bundle.format import AFTER, BEFORE, CAPTURE, RUN, TEXTS, VERDICT_JSON, VERDICT_TEXT, Bundle, Cut, Run
from nettrace.bundle.mapping import AddressMap, Facts
from nettrace.model.base import Missing, Model, from_json, to_json
from nettrace.model.flow import EndpointKind, Flow, FlowEnd
from nettrace.model.intent import Container, Intent
from nettrace.model.lookup import Lookup
from nettrace.model.observe import Frame, Open
from nettrace.model.snapshot import Snapshot

__all__ = ["Names", "Redacted", "redact"]

T = TypeVar("T")

#: Names that mean the same everywhere.
COMMON = frozenset(
    ("", "host", "bridge", "none", "default", "localhost", "docker_gwbridge", "ingress", "podman", "docker", "lab")
)


#: Last labels of domain names that tell nobody's.
_SHARED = frozenset(
    ("com", "org", "net", "io", "dev", "test", "example", "local", "localdomain", "internal", "lan", "home", "arpa")
)


#: Where engines listen unless they are told otherwise.
_SOCKETS = frozenset(("", "unix:///var/run/docker.sock", "unix:///run/docker.sock", "unix:///run/podman/podman.sock"))


class Names:
    """Tokens for names: the same name, the same token. `of` gives each kind its own, and is the only way in."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def of(self, name: str, kind: str) -> str:
        """Return the token of a name, made when it is first asked for; what is common stays."""
        if name in COMMON:
            return name
        if name not in self._tokens:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._tokens[name] = f"{kind}-{self._counts[kind]}"
        return self._tokens[name]

    def known(self, name: str) -> str:
        """Return the token of a name that has one, else the name."""
        return self._tokens.get(name, name)

    def domain(self, name: str) -> str:
        """Return a domain name with a token for each label: what is below what, and how many dots there are, stays.

        Top-level domains that many share stay as well.
        """
        return ".".join(each if each.lower() in _SHARED else self.of(each, "name") for each in name.split("."))

    def prose(self, text: str) -> str:
        """Return a text for people with every known name of three letters or more in it replaced, as whole words."""
        names = sorted((each for each in self._tokens if len(each) > 2), key=len, reverse=True)
        if not names:
            return text
        pattern = "|".join(map(re.escape, names))
        return re.sub(rf"(?<![\w.-])(?:{pattern})(?![\w-])", lambda found: self._tokens[found[0]], text)

    def table(self) -> dict[str, str]:
        """Return what stands for what."""
        return dict(self._tokens)


class Redacted(Model):
    """A redacted bundle without its verdict, which only a new diagnosis gives, and what stands for what.

    `frames` are the capture's, rewritten; the capture itself must be written again.
    """

    bundle: Bundle
    names: dict[str, str]
    addresses: dict[str, str]
    frames: tuple[Frame, ...] = ()


Rewrite = Callable[[bytes, int, AddressMap, tuple[int, ...]], bytes]


def redact(bundle: Bundle, key: bytes, frames: Iterable[Frame], rewrite: Rewrite) -> Redacted:
    """Return a bundle with everything replaced that tells whose it is.

    `frames` are those of its capture, and `rewrite` puts mapped addresses into one: (data, ARPHRD type, map, VXLAN
    ports). Raises InputError for members that are not what they should be.
    """
    if bundle.manifest.origin == "import":
        bundle = _without_words(bundle)
    snapshots = {name: bundle.decode(name, Snapshot) for name in (BEFORE, AFTER) if name in bundle.members}
    run = bundle.decode(RUN, Run) if RUN in bundle.members else None
    frames = tuple(frames)
    addresses = AddressMap(key, _facts(bundle))
    names = Names()
    for snapshot in snapshots.values():
        _name_all(snapshot, names)
    for end in (run.flow.src, run.flow.dst) if run is not None else ():
        _token_of_end(end, names)
    members: dict[str, bytes] = {}
    for name, data in bundle.members.items():
        if name in snapshots:
            members[name] = to_json(_snapshot(snapshots[name], addresses, names)) + b"\n"
        elif name == RUN and run is not None:
            members[name] = to_json(_run(run, addresses, names), indent=1) + b"\n"
        elif name.startswith(TEXTS):
            members[_text_name(name, names)] = _text(name, data, addresses, names)
        elif name not in (CAPTURE, VERDICT_JSON, VERDICT_TEXT):
            continue
    tunnels = run.tunnels if run is not None else ()
    arp_types = run.arp_types if run is not None else {}
    written = tuple(
        replace(
            frame,
            point=_point(frame.point, names),
            data=rewrite(frame.data, arp_types.get(frame.point, 1), addresses, tunnels),
        )
        for frame in frames
    )
    manifest = bundle.manifest
    question = manifest.question
    if question is not None:
        ends = (run.flow.src, run.flow.dst) if run is not None else (None, None)
        question = replace(
            question,
            src=_told(question.src, ends[0], addresses, names),
            dst=_told(question.dst, ends[1], addresses, names),
        )
    manifest = replace(
        manifest,
        redacted=True,
        hostname=names.of(manifest.hostname, "host") if manifest.hostname else None,
        question=question,
        read=tuple(_place(each, addresses, names) for each in manifest.read),
        cut=tuple(
            replace(each, what=_places(each.what, addresses, names), reason=names.prose(addresses.text(each.reason)))
            for each in manifest.cut
        ),
    )
    return Redacted(
        bundle=Bundle(manifest=manifest, members=members),
        names=names.table(),
        addresses=addresses.table(),
        frames=written,
    )


def _without_words(bundle: Bundle) -> Bundle:
    """Return a bundle of pasted texts without the texts and quotes of them: what people wrote may name anything."""
    members = {name: data for name, data in bundle.members.items() if not name.startswith(TEXTS)}
    if BEFORE in members:
        snapshot = bundle.decode(BEFORE, Snapshot)
        quoting = "a line of the paste was not understood, and is not quoted here"
        gaps = [replace(gap, reason=quoting) if gap.section == "paste" else gap for gap in snapshot.gaps]
        members[BEFORE] = to_json(replace(snapshot, gaps=tuple(dict.fromkeys(gaps))))
    kept = [each for each in bundle.manifest.cut if not each.what.startswith("text ")]
    left_out = Cut(what="texts", reason="what was pasted may name anything, and is left out when a bundle is redacted")
    return Bundle(manifest=replace(bundle.manifest, cut=(*kept, left_out)), members=members)


def _facts(bundle: Bundle) -> Facts:
    """Return what all members tell of addresses. JSON is read as values: a string in it may be JSON itself."""
    facts = Facts()
    for name, data in bundle.members.items():
        if name == CAPTURE:
            continue
        text = data.decode("utf-8", "replace")
        if name.endswith(".json"):
            for value in _strings(_decoded(text)):
                facts.add(value)
        else:
            facts.add(text)
    return facts


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return text


def _strings(value: Any) -> Iterable[str]:
    """Yield every string of a JSON value, keys among them."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            stack += [*each, *each.values()]
        elif isinstance(each, list):
            stack += each


# --- names ----------------------------------------------------------------------------------------------------------


def _name_all(snapshot: Snapshot, names: Names) -> None:
    """Give every name of a snapshot its token."""
    if snapshot.host.hostname:
        names.of(snapshot.host.hostname, "host")
    for container in snapshot.intent.containers:
        names.of(container.name, "container")
        for endpoint in container.endpoints:
            for alias in endpoint.aliases:
                # The engine makes an alias of each container's own short id.
                if not container.id.startswith(alias):
                    names.of(alias, "alias")
    for network in snapshot.intent.networks:
        names.of(network.name, "network")
    for service in snapshot.intent.services or ():
        names.of(service.name, "service")
    for namespace in snapshot.namespaces:
        if namespace.kind not in ("host", "overlay") and not namespace.name.startswith("pid:"):
            names.of(_bare(namespace.name), "netns")


def _bare(name: str) -> str:
    """Return the name of a namespace without the form that it was asked for by."""
    return name.removeprefix("netns:")


def _token_of_end(end: FlowEnd, names: Names) -> None:
    if end.kind is EndpointKind.NAME:
        names.domain(end.name)
    elif end.kind is EndpointKind.CONTAINER:
        names.of(end.name, "container")
    elif end.kind is EndpointKind.NETNS and not end.name.startswith("pid:"):
        names.of(_bare(end.name), "netns")


def _namespace_name(name: str, names: Names) -> str:
    bare = _bare(name)
    return name[: len(name) - len(bare)] + names.known(bare)


def _point(point: str, names: Names) -> str:
    """Return a point's id ("web/eth0") with its namespace's token."""
    name, slash, device = point.rpartition("/")
    return f"{_namespace_name(name, names)}{slash}{device}"


def _told(text: str, end: FlowEnd | None, addresses: AddressMap, names: Names) -> str:
    """Return an end of the question as it would be asked of the redacted host; an id stays an id."""
    form, colon, bare = text.partition(":")
    if colon and form in ("container", "netns"):
        return f"{form}:{names.known(bare)}"
    if end is not None and text == end.name:
        return _end_name(end, addresses, names)
    if end is not None and end.id is not None and end.id.startswith(text):
        return text
    return addresses.text(names.known(text))


def _place(text: str, addresses: AddressMap, names: Names) -> str:
    """Return a namespace as the manifest names it ("container web") with its token."""
    kind, space, name = text.partition(" ")
    return f"{kind}{space}{_namespace_name(name, names)}" if space else names.prose(addresses.text(text))


def _places(text: str, addresses: AddressMap, names: Names) -> str:
    """Return what is lacking ("web, db and 3 more: sysctls") with the tokens of the namespaces that lack it."""
    where, colon, what = text.partition(": ")
    if not colon:
        return names.prose(addresses.text(text))
    first, more, count = where.partition(" and ")
    tokens = ", ".join(_namespace_name(each, names) for each in first.split(", "))
    return f"{tokens}{more}{count}{colon}{names.prose(addresses.text(what))}"


# --- members --------------------------------------------------------------------------------------------------------


def _mapped(value: T, kind: type[T], addresses: AddressMap) -> T:
    """Return a model with the addresses in all of its strings replaced."""
    raw = _with_addresses(msgspec.json.decode(to_json(value)), addresses)
    return from_json(msgspec.json.encode(raw), kind)


def _with_addresses(value: Any, addresses: AddressMap) -> Any:
    if isinstance(value, str):
        return addresses.text(value)
    if isinstance(value, dict):
        return {addresses.text(key): _with_addresses(each, addresses) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_addresses(each, addresses) for each in value]
    return value


def _snapshot(snapshot: Snapshot, addresses: AddressMap, names: Names) -> Snapshot:
    mapped = _mapped(snapshot, Snapshot, addresses)
    return replace(
        mapped,
        host=replace(
            mapped.host, hostname=names.of(snapshot.host.hostname, "host") if snapshot.host.hostname else None
        ),
        intent=_intent(snapshot.intent, mapped.intent, names),
        namespaces=tuple(
            replace(
                new,
                name=_namespace_name(old.name, names),
                links=_without_aliases(new.links),
                path=None,
                names=_lookup(old.names, new.names, addresses, names),
            )
            for old, new in zip(snapshot.namespaces, mapped.namespaces, strict=True)
        ),
        gaps=tuple(
            replace(
                new,
                netns=_namespace_name(old.netns, names) if old.netns is not None else None,
                reason=names.prose(new.reason),
            )
            for old, new in zip(snapshot.gaps, mapped.gaps, strict=True)
        ),
    )


def _lookup(old: Lookup | Missing, mapped: Lookup | Missing, addresses: AddressMap, names: Names) -> Lookup | Missing:
    """Return what became of a name, with tokens for every label of it and of the search list."""
    if not isinstance(old, Lookup) or not isinstance(mapped, Lookup):
        return mapped
    return replace(
        mapped,
        name=names.domain(old.name),
        question=_flow(old.question, mapped.question, addresses, names),
        search=tuple(map(names.domain, old.search)),
        answers=tuple(
            replace(new, name=names.domain(was.name)) for was, new in zip(old.answers, mapped.answers, strict=True)
        ),
    )


def _without_aliases(links: Any) -> Any:
    """Leave out what people wrote beside their interfaces (ifalias): no decision stands on it."""
    if not hasattr(links, "rows"):
        return links
    return replace(links, rows=tuple(replace(each, alias=None) for each in links.rows))


def _intent(old: Intent, mapped: Intent, names: Names) -> Intent:
    return replace(
        mapped,
        engines=tuple(
            replace(new, endpoint=was.endpoint if was.endpoint in _SOCKETS else names.of(was.endpoint, "endpoint"))
            for was, new in zip(old.engines, mapped.engines, strict=True)
        ),
        networks=tuple(
            replace(new, name=names.of(was.name, "network"))
            for was, new in zip(old.networks, mapped.networks, strict=True)
        ),
        containers=tuple(
            _container(was, new, names) for was, new in zip(old.containers, mapped.containers, strict=True)
        ),
        services=None
        if old.services is None or mapped.services is None
        else tuple(
            replace(new, name=names.of(was.name, "service"))
            for was, new in zip(old.services, mapped.services, strict=True)
        ),
    )


def _container(old: Container, mapped: Container, names: Names) -> Container:
    return replace(
        mapped,
        name=names.of(old.name, "container"),
        mode=names.known(old.mode),
        endpoints=tuple(
            replace(
                new,
                network=names.of(was.network, "network"),
                aliases=tuple(names.known(alias) for alias in was.aliases),
            )
            for was, new in zip(old.endpoints, mapped.endpoints, strict=True)
        ),
    )


def _flow(old: Flow, mapped: Flow, addresses: AddressMap, names: Names) -> Flow:
    return replace(
        mapped,
        src=replace(mapped.src, name=_end_name(old.src, addresses, names)),
        dst=replace(mapped.dst, name=_end_name(old.dst, addresses, names)),
        assumed=tuple(names.prose(addresses.text(each)) for each in old.assumed),
    )


def _end_name(end: FlowEnd, addresses: AddressMap, names: Names) -> str:
    if end.kind is EndpointKind.NETNS:
        return _namespace_name(end.name, names)
    if end.kind is EndpointKind.NAME:
        return names.domain(end.name)
    return addresses.text(end.name) if end.kind is EndpointKind.ADDRESS else names.known(end.name)


def _run(run: Run, addresses: AddressMap, names: Names) -> Run:
    mapped = _mapped(run, Run, addresses)
    observation = mapped.observation
    if observation is not None:
        captures = tuple(
            replace(new, point=_point(old.point, names))
            if isinstance(new, Open)
            else replace(new, point=_point(old.point, names), reason=names.prose(new.reason))
            for old, new in zip(run.observation.captures if run.observation else (), observation.captures, strict=True)
        )
        observation = replace(observation, captures=captures)
    return replace(
        mapped,
        flow=_flow(run.flow, mapped.flow, addresses, names),
        observation=observation,
        arp_types={_point(point, names): kind for point, kind in run.arp_types.items()},
    )


def _text_name(name: str, names: Names) -> str:
    """Return the member's name of a raw text, whose folder is the namespace it was read in."""
    from nettrace.bundle.format import text_name

    owner, _, rest = name.removeprefix(TEXTS).partition("/")
    known: Mapping[str, str] = {text_name(old, "x").split("/")[1]: new for old, new in names.table().items()}
    return text_name(known.get(owner, owner), rest) if owner in known else name


def _text(name: str, data: bytes, addresses: AddressMap, names: Names) -> bytes:
    """Return a raw text with its addresses replaced, and the names in what an engine says."""
    text = addresses.text(data.decode("utf-8", "replace"))
    if not name.startswith(f"{TEXTS}engine="):
        # ip-link(8) names the namespace in which the other end of a pair lies.
        return re.sub(r"(?<=link-netns )\S+", lambda found: names.of(found[0], "netns"), text).encode()
    decoded = _decoded(text)
    if isinstance(decoded, str):
        return names.prose(text).encode()
    return (json.dumps(_named(decoded, names), indent=1, ensure_ascii=False) + "\n").encode()


def _named(value: Any, names: Names) -> Any:
    if isinstance(value, str):
        bare = value.removeprefix("/")
        return value[: len(value) - len(bare)] + names.known(bare)
    if isinstance(value, dict):
        return {names.known(key): _named(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return value
