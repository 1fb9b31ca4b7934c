"""Which servers Docker's own name server (127.0.0.11) asks in its turn, and from which namespace.

It asks from the container's namespace, so the queries take the container's own way out; only a server on a loopback
address that came from the host's resolv.conf is asked from the host (libnetwork's Resolver, extDNSEntry.HostLoopback).
Who they are is told, in this order: by the query itself while it is on its way (a connected socket in the namespace),
by the comment "ExtServers" that Engine 26 and later leaves in the container's resolv.conf, by the container's --dns
options, by dockerd's own options, and by the host's resolv.conf.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

from nettrace.collect.dns import parse_resolv_conf
from nettrace.collect.proc import read_text
from nettrace.collect.rooted import read_rooted
from nettrace.collect.sockets import parse_peers
from nettrace.model.base import IPAddress
from nettrace.model.intent import Container
from nettrace.model.lookup import DNS_PORT, EMBEDDED, Upstream
from nettrace.netns import Netns, run_in

__all__ = ["parse_arguments", "parse_ext_servers", "peers_asked", "read_upstreams"]

#: What dockerd falls back on where the host names no server that a container could use (resolvconf's defaults).
DEFAULTS = ("8.8.8.8", "8.8.4.4")
STUB = "127.0.0.53"
SYSTEMD_RESOLVED = "/run/systemd/resolve/resolv.conf"
_EXT = re.compile(r"^# ExtServers: \[(.*)\]$", re.MULTILINE)


def read_upstreams(
    text: str, container: Container | None, netns: int, host: Netns, asked: Sequence[IPAddress] = ()
) -> tuple[Upstream, ...]:
    """Return the servers that the engine asks for a container, the one that it was asking just now first.

    `text` is the container's resolv.conf; `asked` are the servers that queries of its namespace were under way to.
    Those may be the container's own queries as well, so where the servers are known for certain only they count.
    """
    certain = parse_ext_servers(text, netns, host.inode) or _of(
        container.dns if container is not None else (), netns, "the container's --dns option"
    )
    if certain:
        return tuple(sorted(certain, key=lambda each: each.server not in asked))
    seen = [Upstream(server=each, netns=netns, source="a query of the engine's, under way") for each in asked]
    told = _of(_daemon_dns(host), netns, "dockerd's --dns option") or _of_host(netns, host.inode)
    return (*seen, *(each for each in told if each.server not in asked))


def parse_ext_servers(text: str, netns: int, host: int) -> tuple[Upstream, ...]:
    """Read "# ExtServers: [192.0.2.1 host(127.0.0.53)]", which Docker writes below a resolv.conf of its own."""
    found = _EXT.search(text)
    servers = []
    for word in (found[1] if found is not None else "").split():
        inner = word.removeprefix("host(").removesuffix(")")
        with suppress(ValueError):
            address = ip_address(inner)
            source = "ExtServers in the container's resolv.conf"
            servers.append(Upstream(server=address, netns=host if word != inner else netns, source=source))
    return tuple(servers)


def _of(words: Sequence[str], netns: int, source: str) -> tuple[Upstream, ...]:
    found = []
    for word in words:
        with suppress(ValueError):
            found.append(Upstream(server=ip_address(word), netns=netns, source=source))
    return tuple(found)


def _of_host(netns: int, host: int) -> tuple[Upstream, ...]:
    """Return what dockerd takes from the host's resolv.conf, which it reads when a container starts."""
    for path in ("/etc/resolv.conf", SYSTEMD_RESOLVED):
        with suppress(OSError):
            text = read_rooted("/", path)
            servers = parse_resolv_conf(text)[0] if "nameserver" in text else ()
            if path == "/etc/resolv.conf" and [str(each) for each in servers] == [STUB]:
                continue
            source = f"the host's {path}"
            found = [
                Upstream(server=each, netns=host if each.is_loopback else netns, source=source) for each in servers
            ]
            if found:
                return tuple(found)
    return _of(DEFAULTS, netns, "dockerd's own default")


def _daemon_dns(host: Netns) -> tuple[str, ...]:
    """Return the servers that the host's dockerd was started with; none when there are none, or several dockerds."""
    found = []
    with os.scandir("/proc") as entries:
        pids = [entry.name for entry in entries if entry.name.isdigit()]
    for pid in pids:
        with suppress(OSError):
            if read_text(f"/proc/{pid}/comm").strip() != "dockerd":
                continue
            if os.stat(f"/proc/{pid}/ns/net").st_ino == host.inode:
                found.append((pid, read_text(f"/proc/{pid}/cmdline").split("\0")))
    if len(found) != 1:
        return ()
    pid, arguments = found[0]
    given, path = parse_arguments(arguments)
    with suppress(OSError, ValueError, AttributeError):
        listed = json.loads(read_rooted(f"/proc/{pid}/root", path)).get("dns")
        given = (*given, *(str(each) for each in listed or ()))
    return given


def parse_arguments(arguments: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return what dockerd's command line says of --dns, and the path of its configuration file."""
    servers: list[str] = []
    path = "/etc/docker/daemon.json"
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        value = value if equals else following
        if option == "--dns":
            servers.append(value)
        elif option == "--config-file":
            path = value
    return tuple(servers), path


def peers_asked(ns: Netns) -> tuple[IPAddress, ...]:
    """Return the name servers that sockets of a namespace are connected to now, but for the engine's own."""

    def work() -> list[tuple[IPAddress, int]]:
        found = []
        for name in ("udp", "udp6"):
            with suppress(FileNotFoundError):
                found += parse_peers(read_text(f"/proc/thread-self/net/{name}"))
        return found

    return tuple(
        dict.fromkeys(address for address, port in run_in(ns, work) if port == DNS_PORT and str(address) != EMBEDDED)
    )
