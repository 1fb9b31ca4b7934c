"""Who wrote a rule: told by the names and comments that each program leaves in it.

Names were read in the programs' own sources and in dumps; where several could have written a rule, the chain it
lies in decides before the rule's own text, and text before comments.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: Chain names, as a pattern over the whole name, in order of trust.
_CHAINS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (owner, re.compile(pattern))
    for owner, pattern in (
        ("podman", r"NETAVARK|nv_"),
        ("docker", r"DOCKER(?!-USER$)|docker-"),
        ("docker", r"filter-(?:FORWARD|forward-)|nat-(?:prerouting-and-output|postrouting-(?:in|out)__)"),
        ("cilium", r"(?:OLD_)?CILIUM_"),
        ("calico", r"cali[-:]"),
        ("kube", r"KUBE-"),
        ("flannel", r"FLANNEL-"),
        ("cni", r"CNI-"),
        ("ufw", r"ufw6?-"),
        ("fail2ban", r"f2b-|fail2ban-|addr-set-"),
        ("libvirt", r"LIBVIRT_|guest_(?:output|input|cross|nat)$"),
        ("tailscale", r"ts-"),
        ("wireguard", r"wg-quick|WG[-_]"),
        ("csf", r"(?:LOCALINPUT|LOCALOUTPUT|LOGDROPIN|LOGDROPOUT|DENYIN|DENYOUT|ALLOWIN|ALLOWOUT|INVALID|INVDROP)$"),
        (
            "firewalld",
            r"(?:FWD[IO]?|IN|POST|PRE|FWDI|FWDO)_|(?:INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)_"
            r"(?:direct|ZONES|POLICIES|ZONES_SOURCE|IN_ZONES|OUT_ZONES)|filter_(?:INPUT|FORWARD|OUTPUT)",
        ),
        ("lxd", r"(?:fwd|pstrt|in|out|aclin|aclout|aclfwd)\.[A-Za-z0-9._-]+$"),
    )
)

#: Tables that one program owns as a whole.
_TABLES: dict[str, str] = {
    "docker-bridges": "docker",
    "docker-dns": "docker",
    "docker-swarm": "docker",
    "netavark": "podman",
    "firewalld": "firewalld",
    "fail2ban": "fail2ban",
    "f2b-table": "fail2ban",
    "kube-proxy": "kube",
    "calico": "calico",
    "libvirt_network": "libvirt",
    "lxd": "lxd",
    "incus": "lxd",
    "flannel-ipv4": "flannel",
    "flannel-ipv6": "flannel",
    "cni_plugins_masquerade": "cni",
    "cni_hostport": "cni",
}

#: What Docker puts into chains that belong to nobody (bridge driver: setup_ip_tables_linux.go, iptabler); a rule of
#: another hand may name its bridges as well.
_BRIDGE = r"(?:docker0|docker_gwbridge|br-[0-9a-f]{12})"
_DOCKER_RULES = "|".join(
    (
        rf"FORWARD -o {_BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        rf"FORWARD -i {_BRIDGE} (?:(?:! )?-o {_BRIDGE} )?-j (?:ACCEPT|DROP)",
        rf"POSTROUTING (?:-s \S+ )?(?:! )?-o {_BRIDGE} (?:-m addrtype --src-type LOCAL )?"
        r"-j (?:MASQUERADE|SNAT --to-source \S+)",
        rf"PREROUTING -d \S+ ! -i {_BRIDGE} (?:-p \w+ -m \w+ --dport \d+ )?-j DROP",
    )
)

_TEXT: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (owner, re.compile(pattern))
    for owner, pattern in (
        ("podman", r"netavark|NETAVARK"),
        ("docker", rf"\bDOCKER(?:-[A-Z0-9-]+|_[A-Z_]+)?\b|^-A (?:{_DOCKER_RULES})$"),
        ("cilium", r"cilium"),
        ("calico", r"\bcali[-:]"),
        ("kube", r"\bKUBE-|kubernetes|kube-proxy"),
        ("flannel", r"FLANNEL-|flanneld"),
        ("cni", r"\bCNI-|\bcni-?podman\d|name: \\?\"[^\"]*\\?\" id: "),
        ("ufw", r"\bufw6?-|\[UFW "),
        ("fail2ban", r"\bf2b-|fail2ban"),
        ("libvirt", r"\bLIBVIRT_|\bvirbr\d"),
        ("lxd", r"generated for (?:LXD|Incus) network|\blxd?br0\b"),
        ("tailscale", r"\bts-(?:input|forward|postrouting)\b|tailscale"),
        ("wireguard", r"wg-quick"),
        ("csf", r"\b(?:LOCALINPUT|LOCALOUTPUT|LOGDROPIN|LOGDROPOUT)\b"),
        ("firewalld", r"_ZONES|_direct\b|firewalld"),
    )
)

#: One of an owner's hints is in every text that its pattern can match: most rules are passed over without a pattern.
_HINTS: dict[str, tuple[str, ...]] = {
    "podman": ("netavark", "NETAVARK"),
    "docker": ("DOCKER", "docker", "br-"),
    "cilium": ("cilium",),
    "calico": ("cali",),
    "kube": ("KUBE-", "kube"),
    "flannel": ("FLANNEL-", "flanneld"),
    "cni": ("CNI-", "cni", "id: "),
    "ufw": ("ufw", "UFW"),
    "fail2ban": ("f2b-", "fail2ban"),
    "libvirt": ("LIBVIRT_", "virbr"),
    "lxd": ("LXD", "Incus", "lxdbr", "lxbr"),
    "tailscale": ("ts-", "tailscale"),
    "wireguard": ("wg-quick",),
    "csf": ("LOCALINPUT", "LOCALOUTPUT", "LOGDROP"),
    "firewalld": ("_ZONES", "_direct", "firewalld"),
}

#: Hint, owner and pattern, in the order of _TEXT.
_SEARCHES = tuple((hint, name, pattern) for name, pattern in _TEXT for hint in _HINTS[name])

_BUILTIN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "BROUTING", "DOCKER-USER"})


@lru_cache(maxsize=4096)
def _by_place(table: str, chain: str) -> str | None:
    owner = _TABLES.get(table)
    if owner is not None:
        return owner
    if table.startswith("wg-quick-"):
        return "wireguard"
    if chain in _BUILTIN:
        return None
    for name, pattern in _CHAINS:
        if pattern.match(chain):
            return name
    return None


def owner_of(backend: str, family: str, table: str, chain: str, text: str, comment: str) -> str:
    """Return who wrote a rule (or chain, with an empty text); "user" when nothing tells.

    One of docker, podman, cni, ufw, firewalld, csf, fail2ban, kube, calico, cilium, flannel, libvirt, lxd, tailscale,
    wireguard, user. DOCKER-USER is the user's own, whoever made the chain. `backend` and `family` are for callers
    that know them; no program is told by them alone.
    """
    owner = _by_place(table, chain)
    if owner is not None:
        return owner
    if chain == "DOCKER-USER" or not text:
        return "user"
    for each in (text, comment):
        if each:
            for hint, name, pattern in _SEARCHES:
                if hint in each and pattern.search(each):
                    return name
    return "user"
