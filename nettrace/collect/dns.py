"""Resolve a name the way the source would: its own hosts file, its own resolv.conf, from inside its namespace.

The system's resolver library would ask from the wrong namespace. What is modelled is glibc's `files dns` order:
hosts(5), resolv.conf(5) with search domains and ndots, queries over UDP (RFC 1035) to each server in turn.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from nettrace.collect.rooted import read_rooted
from nettrace.model.base import IPAddress, Model
from nettrace.model.lookup import DNS_PORT, FINAL, Answer, AnswerKind
from nettrace.netns import Netns, open_socket

__all__ = [
    "Asking",
    "ResolverConfig",
    "build_query",
    "candidates",
    "parse_hosts",
    "parse_resolv_conf",
    "parse_response",
    "read_config",
]

TIMEOUT_S = 1.5
#: Docker's own server gives each of its upstreams up to four seconds (extIOTimeout), and glibc waits five for it.
PATIENCE_S = 4.8
#: No lookup takes longer than this, however many servers and search domains there are.
BUDGET_S = 6.0
TYPE_A, TYPE_CNAME, TYPE_AAAA = 1, 5, 28
CLASS_IN = 1
MAX_SERVERS = 3
#: Every domain of a search list costs a query; nobody has as many on purpose.
MAX_SEARCH = 32
TRUNCATED = 0x0200


class ResolverConfig(Model):
    """What resolv.conf and hosts say; `sources` are the files that were read.

    `unreadable` says why a file that is there could not be read, by its name. `text` is resolv.conf as it stands.
    """

    servers: tuple[IPAddress, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    hosts: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    sources: tuple[str, ...] = ()
    unreadable: dict[str, str] = msgspec.field(default_factory=dict)
    text: str = ""


def read_config(folders: Sequence[str]) -> ResolverConfig:
    """Read resolv.conf and hosts, each from the first of the folders that has it.

    A container's files lie in /proc/<pid>/root/etc; those of a named namespace in /etc/netns/<name> (ip-netns(8)).
    """
    texts: dict[str, str] = {}
    sources = []
    unreadable: dict[str, str] = {}
    for name in ("resolv.conf", "hosts"):
        for folder in folders:
            root, path = _rooted(folder)
            try:
                texts[name] = read_rooted(root, f"{path}/{name}")
            except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
                continue
            except OSError as error:
                unreadable[name] = f"{folder}/{name}: {error.strerror}"
                break
            sources.append(f"{folder}/{name}")
            break
    text = texts.get("resolv.conf", "")
    servers, search, ndots = parse_resolv_conf(text)
    return ResolverConfig(
        servers=servers,
        search=search,
        ndots=ndots,
        hosts=parse_hosts(texts.get("hosts", "")),
        sources=tuple(sources),
        unreadable=unreadable,
        text=text,
    )


def _rooted(folder: str) -> tuple[str, str]:
    """Split /proc/<pid>/root off a folder: links below it are that process's, and mean its own files."""
    parts = folder.split("/")
    if parts[:2] == ["", "proc"] and parts[3:4] == ["root"]:
        return "/".join(parts[:4]), "/" + "/".join(parts[4:])
    return "/", folder


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
                search = tuple(words[1 : MAX_SEARCH + 1] if words[0] == "search" else words[1:2])
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


class Asking:
    """Asks the servers of one resolver configuration, from inside one namespace, and keeps what they answer."""

    def __init__(self, ns: Netns, config: ResolverConfig, *, patient: Callable[[], bool] | None = None) -> None:
        """Ask from `ns`; `patient` tells, once a server is silent, whether waiting longer may be worth it."""
        self._ns = ns
        self._config = config
        self._patient = patient
        self._deadline = time.monotonic() + BUDGET_S
        self.answers: list[Answer] = []

    def ask(self, name: str, families: Sequence[int]) -> tuple[IPAddress, ...]:
        """Return the addresses of a name, of the first of the families that it has any of; none where it has none.

        Raises ValueError when it is no DNS name.
        """
        for family in families:
            for full in candidates(name, self._config):
                for server in self._config.servers:
                    answer = self._ask(server, full, family)
                    self.answers.append(answer)
                    if answer.kind is AnswerKind.FOUND:
                        return answer.addresses
                    if answer.kind in FINAL:
                        break
                    if time.monotonic() > self._deadline:
                        return ()
        return ()

    def _ask(self, server: IPAddress, name: str, family: int) -> Answer:
        identifier = int.from_bytes(os.urandom(2), "big")
        query = build_query(name, family, identifier)
        told: dict[str, object] = {"server": server, "name": name, "family": family}
        version = socket.AF_INET if server.version == 4 else socket.AF_INET6
        with open_socket(self._ns, version, socket.SOCK_DGRAM) as asking:
            try:
                asking.connect((str(server), DNS_PORT))
                asking.send(query)
                data = self._wait(asking, query, family)
                if data is None:
                    return Answer(kind=AnswerKind.SILENT, **told)  # type: ignore[arg-type]
                code, addresses = parse_response(data, query, family)
                if not addresses and int.from_bytes(data[2:4], "big") & TRUNCATED:
                    code, addresses = self._ask_by_tcp(server, query, family)
            except OSError as error:
                # An ICMP error or the lack of a route: known at once, and a different thing from silence.
                return Answer(kind=AnswerKind.UNREACHABLE, errno=error.errno, **told)  # type: ignore[arg-type]
        return Answer(kind=_kind(code, addresses), addresses=addresses, rcode=code, **told)  # type: ignore[arg-type]

    def _wait(self, asking: socket.socket, query: bytes, family: int) -> bytes | None:
        """Return the answer to a query, None when there is none in time; raises OSError."""
        started = time.monotonic()
        end = min(started + TIMEOUT_S, max(self._deadline, started + 0.05))
        extended = False
        while True:
            left = end - time.monotonic()
            if left <= 0:
                if extended or self._patient is None or not self._patient():
                    return None
                end, extended = min(started + PATIENCE_S, self._deadline), True
                continue
            asking.settimeout(left)
            try:
                data = asking.recv(65535)
                parse_response(data, query, family)
            except (TimeoutError, ValueError):
                continue
            return data

    def _ask_by_tcp(self, server: IPAddress, query: bytes, family: int) -> tuple[int, tuple[IPAddress, ...]]:
        """Ask again where the answer was too long for a datagram (RFC 7766); raises OSError."""
        version = socket.AF_INET if server.version == 4 else socket.AF_INET6
        with open_socket(self._ns, version, socket.SOCK_STREAM) as asking:
            asking.settimeout(TIMEOUT_S)
            asking.connect((str(server), DNS_PORT))
            asking.sendall(struct.pack(">H", len(query)) + query)
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                if time.monotonic() > self._deadline:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                part = asking.recv(65535)
                if not part:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                data += part
        try:
            return parse_response(data[2:], query, family)
        except ValueError as error:
            raise ConnectionAbortedError(errno.EPROTO, str(error)) from error


def _kind(code: int, addresses: tuple[IPAddress, ...]) -> AnswerKind:
    if code == 0:
        return AnswerKind.FOUND if addresses else AnswerKind.NO_DATA
    return {3: AnswerKind.NO_NAME, 5: AnswerKind.REFUSED}.get(code, AnswerKind.FAILED)
