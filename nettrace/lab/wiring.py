"""The namespaces that every lab has: a host with an uplink, and an internet that knows nothing of container subnets.

    inet    br0 203.0.113.1/24 and 2001:db8:203::1/64, lo 8.8.8.8/32 and 2001:4860:4860::8888/128, forwarding
      | veth
    host    eth0 203.0.113.2/24 and 2001:db8:203::2/64, default routes through inet

The internet neither masquerades nor routes 172.16.0.0/12, so a source that leaves the host untranslated gets no reply.
All names of a lab are `ntlab-<lab>-<part>`; a part has no dash, so the lab can be read off any of them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from nettrace.errors import LabError
from nettrace.lab.state import NamespaceState, Process, state_dir
from nettrace.lab.system import ADMIN_PATH, enter, ip_batch, spawn, write_sysctls

__all__ = [
    "HOST4",
    "INET4",
    "NETNS_DIR",
    "PREFIX",
    "add_namespaces",
    "check_name",
    "lab_of",
    "namespace_name",
    "serve",
    "services_argv",
    "wire_uplink",
]

PREFIX = "ntlab-"
NETNS_DIR = Path("/run/netns")
INET4, INET6 = "203.0.113.1", "2001:db8:203::1"
HOST4, HOST6 = "203.0.113.2", "2001:db8:203::2"
PUBLIC4, PUBLIC6 = "8.8.8.8", "2001:4860:4860::8888"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?")

#: What a namespace has before its first link, so that links inherit it. Loose reverse-path filter as Debian sets it.
BASE_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "2",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}
ROUTER_SYSCTLS = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}


def check_name(name: str) -> str:
    """Return the name of a lab if it can be one; raises LabError when it is too long or has odd letters."""
    if not _NAME.fullmatch(name):
        raise LabError(f"{name!r} cannot name a lab: use 1 to 24 small letters, digits and inner dashes")
    return name


def namespace_name(lab: str, part: str) -> str:
    """Return the name of one namespace of a lab."""
    return f"{PREFIX}{lab}-{part}"


def lab_of(namespace: str) -> str | None:
    """Return the lab that a namespace belongs to by its name, or None when it is no lab's."""
    if not namespace.startswith(PREFIX):
        return None
    return namespace[len(PREFIX) :].rpartition("-")[0] or None


def add_namespaces(lab: str, parts: Iterable[str], routers: Sequence[str]) -> dict[str, NamespaceState]:
    """Make the lab's namespaces with their base sysctls, forwarding switched on in `routers`, and return them by part.

    A Docker host is left for dockerd to switch on: only then does dockerd set the policy of FORWARD to DROP.
    """
    parts = tuple(parts)
    ip_batch(f"netns add {namespace_name(lab, part)}" for part in parts)
    made = {}
    for part in parts:
        name = namespace_name(lab, part)
        path = NETNS_DIR / name
        made[part] = NamespaceState(name=name, path=str(path), inode=os.stat(path).st_ino)
        write_sysctls(str(path), BASE_SYSCTLS | (ROUTER_SYSCTLS if part in routers else {}))
    return made


def wire_uplink(host: NamespaceState, inet: NamespaceState, more: Sequence[str] = ()) -> None:
    """Link the host to the internet and give both their addresses and routes.

    `more` are further `ip` commands for the host, done in the same process after its uplink exists.
    """
    ip_batch(
        [
            "link set lo up",
            # Different indexes: the kernel reports a carrier at once only where ifindex and iflink differ
            # (linkwatch_urgent_event); else the bridge port at the far end stays shut for a second.
            f"link add eth0 index 2 type veth peer name host index 12 netns {inet.name}",
            f"addr add {HOST4}/24 broadcast + dev eth0",
            f"addr add {HOST6}/64 dev eth0 nodad",
            "link set eth0 up",
            *more,
        ],
        namespace=host.name,
    )
    ip_batch(
        [
            "link set lo up",
            f"addr add {PUBLIC4}/32 dev lo",
            f"addr add {PUBLIC6}/128 dev lo nodad",
            "link add br0 type bridge",
            "link set host master br0 up",
            f"addr add {INET4}/24 broadcast + dev br0",
            f"addr add {INET6}/64 dev br0 nodad",
            "link set br0 up",
        ],
        namespace=inet.name,
    )
    ip_batch(
        [f"route add default via {INET4} dev eth0", f"route add default via {INET6} dev eth0"],
        namespace=host.name,
    )


def services_argv(*options: str) -> list[str]:
    """Return the command that runs the lab's servers with these options."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("services.py")), *options]


def serve(lab: str, where: NamespaceState, role: str, options: Sequence[str]) -> Process:
    """Start servers inside a namespace, and return when they listen."""
    argv = [*enter(where.path), *services_argv(*options)]
    return spawn(argv, role, log=state_dir(lab) / f"{role}.log", env={"PATH": ADMIN_PATH}, ready=True)


def serve_internet(lab: str, inet: NamespaceState) -> Process:
    """Start the internet's HTTP (80), echo (7, TCP and UDP) and DNS (53) on its public addresses."""
    options = []
    for address in (PUBLIC4, f"[{PUBLIC6}]"):
        options += ["--http", f"{address}:80", "--echo", f"{address}:7", "--dns", f"{address}:53"]
    return serve(lab, inet, "internet", options)
