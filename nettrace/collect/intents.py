"""What all engines on this host meant, and the containers that a question is about."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nettrace.collect.engines import Candidate, Engine, find_engines
from nettrace.collect.places import Place, Places, netns_of
from nettrace.errors import EngineError
from nettrace.model.base import IPAddress
from nettrace.model.intent import Container, Endpoint, Intent

__all__ = ["Intents"]

#: As many characters of an id as engines print; a word this long is meant as an id.
SHORT_ID = 12


class Intents:
    """The engines' answers, read once, made complete where a question needs it."""

    def __init__(self, places: Places, engines: Sequence[Engine] | None) -> None:
        self._places = places
        self._given = engines
        self._engines: list[Engine] = []
        self._owner: dict[str, Engine] = {}
        self._intent: Intent | None = None
        self._inspected: set[str] = set()
        #: The container that each pair of MAC address and address was given to.
        self._given_out: dict[tuple[str, IPAddress], str] | None = None
        #: Why engines that might be there did not answer, or what is odd about those that did.
        self.troubles: list[str] = []
        #: The error of an engine that the user named (DOCKER_HOST …).
        self.refused: EngineError | None = None

    def close(self) -> None:
        """Close the engines that were opened here."""
        if self._given is None:
            for engine in self._engines:
                engine.close()

    def all(self) -> Intent:
        """Return everything that is known so far."""
        if self._intent is None:
            self._read()
        assert self._intent is not None
        return self._intent

    def _read(self) -> None:
        engines, candidates = (self._given, ()) if self._given is not None else find_engines(self._places.host)
        self._engines = list(engines)
        for candidate in candidates:
            self._open(candidate)
        intents = []
        for engine in list(self._engines):
            try:
                intent = engine.read_intent()
            except EngineError as error:
                self._give_up(error, explicit=self._given is not None)
                continue
            intents.append(intent)
            self._owner |= {container.id: engine for container in intent.containers}
        if not intents and not self.troubles:
            self.troubles.append("no container engine found: neither Docker's socket nor Podman's is there")
        self._intent = Intent(
            engines=tuple(each for intent in intents for each in intent.engines),
            networks=tuple(each for intent in intents for each in intent.networks),
            containers=tuple(each for intent in intents for each in intent.containers),
            services=next((intent.services for intent in intents if intent.services is not None), None),
        )
        for container in self._intent.containers:
            self._remember(container)

    def _open(self, candidate: Candidate) -> None:
        try:
            engine = candidate.open(self._places.host)
        except EngineError as error:
            self._give_up(error, explicit=candidate.explicit)
            return
        warning = getattr(engine, "warning", None)
        if warning:
            self.troubles.append(warning)
        self._engines.append(engine)

    def _give_up(self, error: EngineError, *, explicit: bool) -> None:
        self.troubles.append(str(error))
        if explicit and self.refused is None:
            self.refused = error

    def require(self) -> None:
        """Raise EngineError when an engine that the user named did not answer, for questions that need it."""
        self.all()
        if self.refused is not None:
            raise self.refused

    def inspect(self, container: Container) -> Container:
        """Return the container with its process and namespace; raises EngineError, NotFound when it is gone."""
        if container.id in self._inspected:
            return self.all().container(container.id) or container
        whole = self._owner[container.id].inspect(container) if container.id in self._owner else container
        self._inspected.add(container.id)
        intent = self.all()
        containers = tuple(whole if each.id == whole.id else each for each in intent.containers)
        self._intent = replace(intent, containers=containers)
        self._remember(whole)
        return whole

    def look_again(self, container: Container) -> Container:
        """Return the container as its engine has it now, and leave what is known as it is.

        Raises EngineError, NotFound when it is gone.
        """
        return self._owner[container.id].inspect(container) if container.id in self._owner else container

    def add(self, pod: Container) -> Container:
        """Add a pod that a question names: no engine's listing has it, and all of it is known already."""
        intent = self.all()
        if intent.container(pod.id) is None:
            self._inspected.add(pod.id)
            self._intent = replace(intent, containers=(*intent.containers, pod))
            self._remember(pod)
        return pod

    def locate(self, place: Place, held: Iterable[tuple[str, IPAddress]]) -> None:
        """Say which container a namespace is, where one of its devices has a MAC address and an address of an endpoint.

        `held` are those pairs. That spares a call to the engine for each of many containers; neither alone would do,
        as both can be given to the wrong one. Only namespaces in the engines' own folders are theirs: another host's on
        the same machine may hold the same addresses.
        """
        folders = {os.path.realpath(folder) for engine in self._engines for folder in engine.sandbox_folders()}
        if str(Path(os.path.realpath(place.path)).parent) not in folders:
            return
        if self._given_out is None:
            self._given_out = self._pairs()
        for pair in held:
            container = self.all().container(self._given_out.get(pair, ""))
            if container is not None and container.netns is None:
                self._places.add(Place(inode=place.inode, path=place.path, name=container.name, kind="container"))
                self._replace({container.id: msgspec.structs.replace(container, netns=place.inode)})
                return

    def _pairs(self) -> dict[tuple[str, IPAddress], str]:
        """Return the container that each pair of MAC address and address was given to.

        Podman lists one that joined another's network with the other's addresses, and does not say that it joined: a
        pair of two containers tells nothing.
        """
        found: dict[tuple[str, IPAddress], str] = {}
        twice = set()
        for container in self.all().containers:
            if container.status not in ("running", "paused") or container.joined:
                continue
            for endpoint in container.endpoints:
                for address in (endpoint.ipv4, endpoint.ipv6):
                    if endpoint.mac is None or address is None:
                        continue
                    pair = (endpoint.mac, address.ip)
                    if found.setdefault(pair, container.id) != container.id:
                        twice.add(pair)
        return {pair: container for pair, container in found.items() if pair not in twice}

    def settle(self) -> tuple[Container, ...]:
        """Give containers that share another's namespace, or the host's, theirs; return those that are nowhere yet."""
        found: dict[str, Container] = {}
        for container in self.all().containers:
            if container.netns is not None or container.status not in ("running", "paused"):
                continue
            owner = self.network_owner(container)
            netns = self._places.host.inode if owner.mode == "host" else owner.netns
            if netns is not None:
                found[container.id] = msgspec.structs.replace(container, netns=netns)
        self._replace(found)
        return tuple(
            each for each in self.all().containers if each.netns is None and each.status in ("running", "paused")
        )

    def _replace(self, changed: Mapping[str, Container]) -> None:
        if changed:
            intent = self.all()
            containers = tuple(changed.get(each.id, each) for each in intent.containers)
            self._intent = replace(intent, containers=containers)

    def inspect_all(self) -> Intent:
        """Make every running container complete, and return the whole Intent."""
        for container in self.all().containers:
            if container.status in ("running", "paused"):
                self.inspect(container)
        return self.all()

    def _remember(self, container: Container) -> None:
        """Note where the container's namespace is; one that joined another's, or the host's, names nothing."""
        if container.netns is None or container.joined or container.netns == self._places.host.inode:
            return
        path = f"/proc/{container.pid}/ns/net"
        if container.pid is None or netns_of(path) != container.netns:
            known = self._places.get(container.netns)
            if known is None:
                return
            path = known.path
        name = container.name if container.name != "host" else "container:host"
        self._places.add(Place(inode=container.netns, path=path, name=name, kind="container"))

    def list_sandboxes(self) -> None:
        """Remember the namespaces in the engines' own folders, hidden ones of overlay networks included."""
        up = ("running", "paused")
        running = [each for each in self.all().containers if each.status in up and not each.joined]
        for engine in self._engines:
            own = [each for each in running if self._owner.get(each.id) is engine]
            if own and not any(each.id in self._inspected for each in own):
                # The folder is told with each container: an engine may keep it anywhere.
                self.inspect(own[0])
            for folder in engine.sandbox_folders():
                self._places.list_folder(folder, sandboxes=True)

    def engines(self) -> tuple[Engine, ...]:
        """Return the engines that answered."""
        self.all()
        return tuple(self._engines)

    def matches(self, word: str) -> tuple[Container, ...]:
        """Return the containers that a word may mean: by name, by id, by the beginning of an id.

        As with the engines' own clients a name beats the mere beginning of an id, unless the word is as long as the
        ids that they print.
        """
        containers = self.all().containers
        named = [each for each in containers if each.name == word]
        if word and all(letter in "0123456789abcdef" for letter in word) and (not named or len(word) >= SHORT_ID):
            named += [each for each in containers if each.id.startswith(word) and each not in named]
        return tuple(named)

    def elsewhere(self, word: str) -> str | None:
        """Say on which other host a container runs that an engine knows of, else None."""
        if not any(engine.swarm for engine in self.all().engines):
            return None
        return next((place for engine in self._engines if (place := engine.elsewhere(word)) is not None), None)

    def owner_of(self, address: IPAddress) -> tuple[Container, Endpoint] | None:
        """Return the running container, and the attachment, that an engine gave an address to."""
        for container in self.all().containers:
            if container.status not in ("running", "paused"):
                continue
            for endpoint in container.endpoints:
                if any(held is not None and held.ip == address for held in (endpoint.ipv4, endpoint.ipv6)):
                    return container, endpoint
        return None

    def by_macs(self, macs: Iterable[str]) -> Container | None:
        """Return the running container that an engine gave one of these MAC addresses to; the caller makes sure."""
        wanted = set(macs)
        for container in self.all().containers:
            if container.status not in ("running", "paused") or container.joined:
                continue
            if any(endpoint.mac in wanted for endpoint in container.endpoints if endpoint.mac):
                return container
        return None

    def network_owner(self, container: Container) -> Container:
        """Return the container whose network another one uses (`--network container:x`); itself when it has its own."""
        return self.all().owner(container) or container

    def name_shared(self, container: Container) -> None:
        """Have the namespace of a container that joined another's known by its owner; by itself where that has left.

        Raises EngineError, NotFound when the owner goes meanwhile.
        """
        owner = self.network_owner(container)
        if owner.status in ("running", "paused"):
            self.inspect(owner)
        if container.netns is not None and container.netns != self._places.host.inode:
            place = self._places.get(container.netns)
            if place is None or not place.named:
                path = f"/proc/{container.pid}/ns/net"
                self._places.add(Place(inode=container.netns, path=path, name=container.name, kind="container"))
