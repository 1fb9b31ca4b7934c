"""What became of a name: where it was looked for, which servers were asked, and what each of them answered.

A name is the first leg of a question: before a packet can leave for `example.org`, the source must learn its address
from its hosts file or from a name server, and the way to that server is a way like any other.
"""

from __future__ import annotations

from enum import StrEnum

from nettrace.model.base import IPAddress, Model
from nettrace.model.flow import Flow

#: Where Docker's own name server is told to listen, in every namespace whose networks have names.
EMBEDDED = "127.0.0.11"
DNS_PORT = 53


class AnswerKind(StrEnum):
    """What a server had to say."""

    FOUND = "found"
    NO_DATA = "no address of that family"
    NO_NAME = "no such name"
    REFUSED = "refused"
    FAILED = "failed"
    SILENT = "no answer"
    UNREACHABLE = "unreachable"


#: Answers that end the search, as glibc's resolver takes them (res_nsend); after the others it asks the next server.
FINAL = (AnswerKind.FOUND, AnswerKind.NO_DATA, AnswerKind.NO_NAME)


class Answer(Model):
    """One server's answer to one name. `rcode` is the DNS response code, None when nothing came back.

    `errno` is what the kernel said where it refused the query or reported an ICMP error about it.
    """

    server: IPAddress
    name: str
    kind: AnswerKind
    family: int = 4
    addresses: tuple[IPAddress, ...] = ()
    rcode: int | None = None
    errno: int | None = None


class Upstream(Model):
    """A server that the engine's own name server asks in its turn, from namespace `netns`; `source`: who says so."""

    server: IPAddress
    netns: int
    source: str


class Lookup(Model, tag="lookup", tag_field="is"):
    """One name as one source resolves it.

    `question` is what was asked, with the source's own end. `servers`, `search` and `ndots` are those of the
    namespace's resolv.conf, `files` the files that were read. `listed` are the addresses that the hosts file gives.
    `addresses` are what the name came to, none when it came to nothing. `elsewhere` are addresses of the other family,
    asked for when the source has none of it. `upstreams` are known only where they matter: when the engine's own
    server gave no address.
    """

    name: str
    question: Flow
    servers: tuple[IPAddress, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    files: tuple[str, ...] = ()
    listed: tuple[IPAddress, ...] = ()
    answers: tuple[Answer, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    elsewhere: tuple[IPAddress, ...] = ()
    upstreams: tuple[Upstream, ...] = ()

    @property
    def denied(self) -> bool:
        """Whether the servers say that the name, as it was typed, has no address: they answered, and this is it."""
        bare = self.name.rstrip(".").lower()
        asked = any(each.name.lower() == bare and each.kind in FINAL for each in self.answers)
        return not self.addresses and asked and not self.failures

    @property
    def failures(self) -> tuple[Answer, ...]:
        """The answers that were none, to the name as it was typed, in families for which no server had a better one.

        Of other names (with a search domain) only where time ran out before that one was asked.
        """
        bare = self.name.rstrip(".").lower()
        settled = {(each.name, each.family) for each in self.answers if each.kind in FINAL}
        lost = [each for each in self.answers if each.kind not in FINAL and (each.name, each.family) not in settled]
        asked = any(each.name.lower() == bare for each in self.answers)
        return tuple(each for each in lost if each.name.lower() == bare or not asked)

    @property
    def passed_over(self) -> tuple[Answer, ...]:
        """The servers' failures that were made good by the next server."""
        lost = self.failures
        return tuple(each for each in self.answers if each.kind not in FINAL and each not in lost)


__all__ = ["DNS_PORT", "EMBEDDED", "FINAL", "Answer", "AnswerKind", "Lookup", "Upstream"]
