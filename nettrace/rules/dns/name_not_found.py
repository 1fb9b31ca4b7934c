"""The name server answers, and the name has no address.

What it reports: the source's resolver says that there is no such name, or none with an address that it could use.
Why traffic stops: without an address there is nothing to send to.
Proof: the answers; what the engine knows of containers that are called so, and in which networks.
Remedy: the right name; for containers a user-defined network that both are in, since the default bridge has no names.
Known limits: names that only an application resolves (mDNS, a service registry) are not known here.
Seen in the field: no single report stands for it: names are expected on the default bridge, which has none.
"""

from __future__ import annotations

from difflib import get_close_matches

from nettrace.model.intent import Container, Network
from nettrace.model.lookup import EMBEDDED, Lookup
from nettrace.model.path import Segment
from nettrace.model.verdict import Basis, Evidence
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.dns_facts import answer_words, has_names, lookup_evidence, networks_of, owner
from nettrace.rules.faults import intent_evidence

Named = tuple[Container, Network]


def check(case: Case) -> Result:
    """Fire when the servers answered, and their answer is that the name has no address."""
    lookup = case.lookup
    if lookup is None or not lookup.denied:
        return fired()
    last = lookup.answers[-1]
    bare = [each for each in lookup.answers if each.name.lower() == lookup.name.rstrip(".").lower()] or [last]
    source = lookup.question.src.name
    why, mend, evidence = _explain(case, lookup)
    tried = [each for each in dict.fromkeys(each.name for each in lookup.answers) if each != bare[0].name]
    also = f" (nor {', '.join(tried)})" if tried else ""
    return fired(
        Hit(
            title=f"{bare[0].server} knows no address of {lookup.name}: {answer_words(bare[0])}",
            explanation=f"{source} asked {bare[0].server} for {lookup.name}{also}, and the answer is "
            f"{answer_words(bare[0])}. {why}",
            at=source,
            evidence=(*lookup_evidence(lookup), *evidence),
            mend=mend,
            basis=Basis.OBSERVED,
            segment=Segment.SOURCE,
            netns=lookup.question.src.netns,
        )
    )


def _explain(case: Case, lookup: Lookup) -> tuple[str, Mend, tuple[Evidence, ...]]:
    """Return why the name is not known here, what to do, and what the engine meant."""
    source = lookup.question.src.name
    if lookup.elsewhere:
        version = lookup.elsewhere[0].version
        text = (
            f"It has only IPv{version} addresses ({', '.join(map(str, lookup.elsewhere))}), which were not asked for."
        )
        return (
            text,
            Mend(
                summary=f"Give the source IPv{version}, or the name an address that it can use.",
                commands=(f"nettrace path {source} {lookup.name} -{version}",),
            ),
            (),
        )
    container = owner(case)
    mine = networks_of(case, container)
    named = _named(case, lookup.name.rstrip("."))
    if named:
        return _of_a_container(lookup, container, mine, named)
    asleep = [
        each
        for each in case.before.intent.containers
        if each.status != "running" and each.name == lookup.name.rstrip(".")
    ]
    if asleep:
        text = f"Container {asleep[0].name} is {asleep[0].status}, and Docker tells the names of running ones only."
        tool = "podman" if asleep[0].engine == "podman" else "docker"
        return text, Mend(summary="Start the container.", commands=(f"{tool} start {asleep[0].name}",)), ()
    known = sorted({name for other, network in _all(case) if network in mine for name in _names(other, network)})
    near = get_close_matches(lookup.name.rstrip("."), known, n=3, cutoff=0.6)
    if near:
        text = f"Nothing is called {lookup.name}; containers of the same networks are called {', '.join(near)}."
        return text, Mend(summary="Use the right name.", commands=(f"nettrace path {source} {near[0]}",)), ()
    text = "No such name exists there."
    if EMBEDDED in map(str, lookup.servers):
        text = "Docker's own server knows no container of that name, and the servers behind it no such name."
    if "." not in lookup.name:
        text += f" No container is called {lookup.name} either."
    return text, Mend(summary="Check the spelling, and whether this server is the one that knows the name."), ()


def _of_a_container(
    lookup: Lookup, container: Container | None, mine: list[Network], named: list[Named]
) -> tuple[str, Mend, tuple[Evidence, ...]]:
    source = container.name if container is not None else lookup.question.src.name
    other, network = named[0]
    evidence = (intent_evidence(f"{lookup.name} is {other.name} on network {network.name}", other.engine),)
    tool = "podman" if other.engine == "podman" else "docker"
    if container is None:
        text = f"It is a name of container {other.name}, which the engine resolves only inside its networks."
        return text, Mend(summary="Use the container's address, or a published port."), evidence
    here = ", ".join(each.name for each in mine) or "none"
    text = (
        f"Container {other.name} has that name on network {network.name}, and {source} is not in it (its networks: "
        f"{here}). Docker tells names only to containers of the same user-defined network."
    )
    if has_names(network):
        join = f"{tool} network connect {network.name} {source}"
        return text, Mend(summary=f"Connect {source} to {network.name}.", commands=(join,)), evidence
    if network in mine:
        text = (
            f"Container {other.name} is on the default bridge, as {source} is, and Docker resolves no container names "
            "there: only user-defined networks have them."
        )
    commands = (
        f"{tool} network create names",
        f"{tool} network connect names {other.name}",
        f"{tool} network connect names {source}",
    )
    return text, Mend(summary="Put both in a user-defined network.", commands=commands), evidence


def _all(case: Case) -> list[Named]:
    """Return every attachment of a container that runs."""
    return [
        (container, network)
        for container in case.before.intent.containers
        if container.status == "running"
        for _endpoint, network in case.attachments(container)
    ]


def _names(container: Container, network: Network) -> set[str]:
    """Return what a container can be called on a network."""
    aliases = {
        alias for endpoint in container.endpoints if endpoint.network_id == network.id for alias in endpoint.aliases
    }
    return {container.name, *aliases}


def _named(case: Case, name: str) -> list[Named]:
    """Return the containers that are called so anywhere, those on networks with names first."""
    found = [(container, network) for container, network in _all(case) if name in _names(container, network)]
    return sorted(found, key=lambda each: not has_names(each[1]))


RULE = rule("dns.name-not-found", check, rank=77, needs=("names",))
