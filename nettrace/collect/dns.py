"""Resolve a name the way the source would: its own hosts file, its own resolv.conf, from inside its namespace.

The system's resolver library would ask from the wrong namespace. What is modelled is glibc's `files dns` order:
hosts(5), resolv.conf(5) with search domains and ndots, queries over UDP (RFC 1035) to each server in turn.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from nettrace.collect.proc import read_text
from nettrace.errors import NotFound
from nettrace.model.base import IPAddress, Model
from nettrace.netns import Netns, open_socket

__all__ = [
    "Answer",
    "AnswerKind",
    "NameNotResolved",
    "ResolverConfig",
    "build_query",
    "parse_hosts",
    "parse_resolv_conf",
    "parse_response",
    "read_config",
    "resolve_name",
]

PORT = 53
TIMEOUT_S = 1.5
#: No lookup takes longer than this, however many servers and search domains there are.
BUDGET_S = 6.0
TYPE_A, TYPE_CNAME, TYPE_AAAA = 1, 5, 28
CLASS_IN = 1
MAX_SERVERS = 3


class AnswerKind(StrEnum):
    """What a server had to say."""

    FOUND = "found"
    NO_DATA = "no address of that family"
    NO_NAME = "no such name"
    REFUSED = "refused"
    FAILED = "failed"
    SILENT = "no answer"
    UNREACHABLE = "unreachable"


class Answer(Model):
    """One server's answer to one name. `rcode` is the DNS response code, None when nothing came back."""

    server: IPAddress
    name: str
    kind: AnswerKind
    addresses: tuple[IPAddress, ...] = ()
    rcode: int | None = None


class ResolverConfig(Model):
    """What resolv.conf and hosts say; `sources` are the files that were read."""

    servers: tuple[IPAddress, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    hosts: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    sources: tuple[str, ...] = ()


class NameNotResolved(NotFound):
    """A name could not be turned into an address. `answers` is what each server said, in order."""

    def __init__(self, message: str, name: str, answers: tuple[Answer, ...]) -> None:
        super().__init__(message)
        self.name = name
        self.answers = answers


def read_config(folders: Sequence[str]) -> ResolverConfig:
    """Read resolv.conf and hosts, each from the first of the folders that has it.

    A container's files lie in /proc/<pid>/root/etc; those of a named namespace in /etc/netns/<name> (ip-netns(8)).
    """
    texts: dict[str, str] = {}
    sources = []
    for name in ("resolv.conf", "hosts"):
        for folder in folders:
            path = f"{folder}/{name}"
            with contextlib.suppress(OSError):
                texts[name] = read_text(path)
                sources.append(path)
                break
    servers, search, ndots = parse_resolv_conf(texts.get("resolv.conf", ""))
    return ResolverConfig(
        servers=servers, search=search, ndots=ndots, hosts=parse_hosts(texts.get("hosts", "")), sources=tuple(sources)
    )


def parse_resolv_conf(text: str) -> tuple[tuple[IPAddress, ...], tuple[str, ...], int]:
    """Return (servers, search domains, ndots); without a server glibc asks 127.0.0.1."""
    servers: list[IPAddress] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        match words[0]:
            case "nameserver":
                with contextlib.suppress(ValueError):
                    servers.append(ip_address(words[1]))
            case "search" | "domain":
                search = tuple(words[1:] if words[0] == "search" else words[1:2])
            case "options":
                for option in words[1:]:
                    key, _, value = option.partition(":")
                    if key == "ndots" and value.isdigit():
                        ndots = min(int(value), 15)
    return tuple(servers[:MAX_SERVERS]) or (IPv4Address("127.0.0.1"),), search, ndots


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses of every name in a hosts file, as text, in order; names in lower case."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = str(ip_address(words[0]))
        except ValueError:
            continue
        for name in words[1:]:
            key = name.lower()
            if address not in found.get(key, ()):
                found[key] = (*found.get(key, ()), address)
    return found


def build_query(name: str, family: int, identifier: int) -> bytes:
    """Return a DNS query for the A (4) or AAAA (6) records of a name; raises ValueError when it is no DNS name."""
    labels = name.rstrip(".").encode("idna" if not name.isascii() else "ascii").split(b".")
    if any(not 0 < len(label) < 64 for label in labels) or sum(map(len, labels)) + len(labels) > 254:
        raise ValueError(f"{name!r} is not a DNS name")
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    kind = TYPE_A if family == 4 else TYPE_AAAA
    return struct.pack(">HHHHHH", identifier, 0x0100, 1, 0, 0, 0) + question + struct.pack(">HH", kind, CLASS_IN)


def parse_response(data: bytes, query: bytes, family: int) -> tuple[int, tuple[IPAddress, ...]]:
    """Return (response code, addresses) of the answer to a query.

    Raises ValueError when the bytes are not an answer to it. Records are taken by type, wherever aliases lead.
    """
    if len(data) < 12:
        raise ValueError("shorter than a DNS header")
    identifier, flags, questions, answers = struct.unpack_from(">HHHH", data)
    if identifier != struct.unpack_from(">H", query)[0] or not flags & 0x8000:
        raise ValueError("not the answer to this query")
    offset = 12
    for _question in range(questions):
        offset = _skip_name(data, offset) + 4
    found: list[IPAddress] = []
    for _record in range(answers):
        offset = _skip_name(data, offset)
        if offset + 10 > len(data):
            raise ValueError("answer cut short")
        kind, _class, _ttl, length = struct.unpack_from(">HHIH", data, offset)
        value = data[offset + 10 : offset + 10 + length]
        offset += 10 + length
        if kind == TYPE_A and family == 4 and length == 4:
            found.append(IPv4Address(value))
        elif kind == TYPE_AAAA and family == 6 and length == 16:
            found.append(IPv6Address(value))
    return flags & 0xF, tuple(found)


def _skip_name(data: bytes, offset: int) -> int:
    while True:
        if offset >= len(data):
            raise ValueError("name cut short")
        length = data[offset]
        if length == 0:
            return offset + 1
        if length & 0xC0 == 0xC0:
            return offset + 2
        offset += length + 1


def candidates(name: str, config: ResolverConfig) -> tuple[str, ...]:
    """Return the full names to ask for, in order (res_search): ndots decides whether the name itself comes first."""
    if name.endswith("."):
        return (name.rstrip("."),)
    searched = tuple(f"{name}.{domain.strip('.')}" for domain in config.search if domain.strip("."))
    return (name, *searched) if name.count(".") >= config.ndots else (*searched, name)


def resolve_name(ns: Netns, config: ResolverConfig, name: str, families: Sequence[int]) -> tuple[IPAddress, ...]:
    """Return the addresses of a name, of the first of the families that it has any of.

    Queries leave from a socket of the namespace `ns`. Raises NameNotResolved with what was asked and answered.
    """
    listed = [ip_address(each) for each in config.hosts.get(name.rstrip(".").lower(), ())]
    for family in families:
        found = tuple(address for address in listed if address.version == family)
        if found:
            return found
    answers: list[Answer] = []
    deadline = time.monotonic() + BUDGET_S
    for family in families:
        for full in candidates(name, config):
            for server in config.servers:
                answer = _ask(ns, server, full, family, min(TIMEOUT_S, max(0.05, deadline - time.monotonic())))
                answers.append(answer)
                if answer.kind is AnswerKind.FOUND:
                    return answer.addresses
                if answer.kind in (AnswerKind.NO_NAME, AnswerKind.NO_DATA) or time.monotonic() > deadline:
                    break
    raise NameNotResolved(_explain(name, config, families, answers), name, tuple(answers))


def _explain(name: str, config: ResolverConfig, families: Sequence[int], answers: Sequence[Answer]) -> str:
    kinds = " or ".join(f"IPv{family}" for family in families)
    said = dict.fromkeys(f"{answer.server}: {answer.kind.value}" for answer in answers)
    files = ", ".join(config.sources) or "no resolv.conf"
    return (
        f"{name} has no {kinds} address as the source resolves names ({files}; {'; '.join(said) or 'nothing asked'}): "
        "give its address instead, or ask for the way to the name server with --proto udp --port 53"
    )


def _ask(ns: Netns, server: IPAddress, name: str, family: int, timeout_s: float) -> Answer:
    identifier = int.from_bytes(os.urandom(2), "big")
    query = build_query(name, family, identifier)
    version = socket.AF_INET if server.version == 4 else socket.AF_INET6
    deadline = time.monotonic() + timeout_s
    with open_socket(ns, version, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((str(server), PORT))
            asking.send(query)
            while (left := deadline - time.monotonic()) > 0:
                asking.settimeout(left)
                try:
                    code, addresses = parse_response(asking.recv(65535), query, family)
                except ValueError:
                    continue
                return Answer(server=server, name=name, kind=_kind(code, addresses), addresses=addresses, rcode=code)
        except TimeoutError:
            pass
        except OSError:
            # An ICMP error or the lack of a route: known at once, and a different thing from silence.
            return Answer(server=server, name=name, kind=AnswerKind.UNREACHABLE)
    return Answer(server=server, name=name, kind=AnswerKind.SILENT)


def _kind(code: int, addresses: tuple[IPAddress, ...]) -> AnswerKind:
    if code == 0:
        return AnswerKind.FOUND if addresses else AnswerKind.NO_DATA
    return {3: AnswerKind.NO_NAME, 5: AnswerKind.REFUSED}.get(code, AnswerKind.FAILED)
