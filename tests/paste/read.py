"""Recorded texts, and the shortest way from a text to what is made of it."""

from __future__ import annotations

from pathlib import Path

from nettrace.model.snapshot import Namespace
from nettrace.paste import Assembled, Source, assemble, recognise

HERE = Path(__file__).parent
#: What a lab's tools printed (iproute2 6.1, iptables 1.8.9, nft 1.0.6), in files called as sosreport calls them:
#: `host` and `web` of a Docker lab, `wired` of a namespace with a bit of everything.
TEXTS = HERE / "texts"


def recorded(space: str, name: str) -> str:
    return (TEXTS / space / name).read_text()


def assembled(*texts: tuple[str, str]) -> Assembled:
    """Return what is made of (file name, text) pairs."""
    return assemble([recognise(Source(name=name, text=text)) for name, text in texts])


def of_files(space: str, *names: str) -> Assembled:
    """Return what is made of recorded files of one namespace, as texts of a host."""
    return assembled(*((f"host/{name}", recorded(space, name)) for name in names))


def of_text(text: str, name: str = "paste.txt") -> Assembled:
    return assembled((name, text))


def host_of(found: Assembled) -> Namespace:
    return found.snapshot.namespaces[0]


def space(found: Assembled, name: str) -> Namespace:
    return next(each for each in found.snapshot.namespaces if each.name == name)
