"""`ip link` and `ip addr`, as text (with -d, -s, -o) and as JSON: links and addresses.

The text is turned into the objects that `ip -j` prints, and those into rows, so that both ways lead to the same. See
ip-link(8), ip-address(8); print_linkinfo, print_addrinfo and lib/…_opt printers of iproute2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from itertools import pairwise
from typing import Any

from nettrace.model.base import IPAddress
from nettrace.model.snapshot import Address, BridgeInfo, BridgePort, Link, LinkStats, Vxlan
from nettrace.paste.devices import Devices
from nettrace.paste.lines import Line, Trouble, counter, index, quoted

__all__ = ["HEAD", "ONE_LINE", "address_rows", "link_row", "parse_ip_link"]

HEAD = re.compile(r"(\d{1,10}): ([^\s<>]+): <([^<>]*)>(.*)", re.DOTALL)
#: `ip -o addr`: a line for each address, without the link's own.
ONE_LINE = re.compile(r"(\d{1,10}):\s+(\S+)\s+(inet6? .*)", re.DOTALL)

#: ARPHRD_* of include/uapi/linux/if_arp.h, by the names of iproute2 (lib/ll_types.c).
ARP_TYPES = {
    "ether": 1, "infiniband": 32, "ppp": 512, "ipip": 768, "tunnel6": 769, "loopback": 772, "sit": 776, "gre": 778,
    "gre6": 823, "none": 65534, "void": 65535, "netlink": 824, "can": 280, "ieee802.11": 801, "slip": 256,
}  # fmt: skip
PORT_STATES = {"disabled": 0, "listening": 1, "learning": 2, "forwarding": 3, "blocking": 4}

_HEAD_PAIRS = {
    "mtu": "mtu", "qdisc": "qdisc", "master": "master", "state": "operstate", "mode": "linkmode", "group": "group",
    "qlen": "txqlen", "conn": "conn",
}  # fmt: skip
_XDP = {"xdp": 1, "xdpgeneric": 2, "xdpoffload": 3, "xdpmulti": 4}
_XDP_NAMES = {1: "driver", 2: "generic", 3: "offloaded", 4: "several modes"}
_KINDS = frozenset({
    "amt", "bareudp", "batadv", "bond", "bridge", "can", "dummy", "dsa", "erspan", "geneve", "gre", "gretap",
    "gtp", "hsr", "ifb", "ip6erspan", "ip6gre", "ip6gretap", "ip6tnl", "ipip", "ipoib", "ipvlan", "ipvtap",
    "lowpan", "macsec", "macvlan", "macvtap", "netdevsim", "netkit", "nlmon", "openvswitch", "ovpn", "rmnet",
    "sit", "team", "tun", "vcan", "veth", "vlan", "vrf", "vti", "vti6", "vxcan", "vxlan", "wireguard", "wwan",
    "xfrm",
})  # fmt: skip
#: Words with which a line of `ip -d` may begin that says nothing the model holds.
_ASIDE = (
    "altname", "vf", "parentbus", "parentdev", "promiscuity", "allmulti", "numtxqueues", "addrgenmode",
    "netns-immutable",
    "minmtu", "permaddr", "gso_max_size", "devlink_port", "qdisc",
)  # fmt: skip
_ADDRESS_FLAGS = frozenset({
    "secondary", "temporary", "tentative", "deprecated", "home", "nodad", "dadfailed", "mngtmpaddr", "dynamic",
    "noprefixroute", "autojoin", "permanent", "stable-privacy", "managetempaddr", "optimistic",
})  # fmt: skip


def parse_ip_link(lines: Sequence[Line]) -> tuple[list[tuple[int, dict[str, Any]]], list[Trouble]]:
    """Turn the text of `ip link` or `ip addr` into the objects that `ip -j` prints, each with the line it begins at."""
    reader = _Reader()
    for number, text in lines:
        for part in text.split("\\") if "\\" in text else (text,):
            if part.strip():
                reader.line(number, part)
    return reader.links, reader.troubles


class _Reader:
    """Reads line by line; what a line means depends on its first word, and statistics on the line before."""

    def __init__(self) -> None:
        self.links: list[tuple[int, dict[str, Any]]] = []
        self.troubles: list[Trouble] = []
        self.by_index: dict[int, dict[str, Any]] = {}
        self.columns: tuple[str, list[str]] | None = None

    def line(self, number: int, text: str) -> None:
        """Take one line."""
        stripped = text.strip()
        columns, self.columns = self.columns, None
        if (head := HEAD.fullmatch(stripped)) is not None:
            self._head(number, head)
            return
        if (single := ONE_LINE.fullmatch(stripped)) is not None:
            self._address_line(number, single)
            return
        if not self.links:
            self._strange(number, text)
            return
        link = self.links[-1][1]
        words = stripped.split()
        first = words[0]
        if columns is not None and all(word.isdigit() for word in words):
            self._counts(link, columns, words)
        elif first in ("RX:", "TX:") or (first in ("RX", "TX") and words[1:2] == ["errors:"]):
            self.columns = (
                first[:2].lower(),
                [each for each in words if not each.endswith(":") or each == words[0]][1:],
            )
        elif first.startswith("link/"):
            self._hardware(number, link, words)
        elif first in ("inet", "inet6"):
            self._address(number, link, words)
        elif first == "alias":
            link["ifalias"] = stripped.partition(" ")[2]
        elif first == "prog/xdp":
            self._program(link, words)
        elif first.endswith("_slave"):
            info = link.setdefault("linkinfo", {})
            info["info_slave_kind"] = first.removesuffix("_slave")
            info["info_slave_data"] = _port(words[1:])
        elif first in _KINDS or (re.fullmatch(r"[a-z][a-z0-9_-]{1,15}", first) and "addrgenmode" in words):
            info = link.setdefault("linkinfo", {})
            info["info_kind"] = first
            info["info_data"] = _details(first, words[1:])
        elif first not in _ASIDE and first != "valid_lft":
            self._strange(number, text)

    def _strange(self, number: int, text: str, reason: str = "not understood") -> None:
        self.troubles.append(Trouble(line=number, text=quoted(text), reason=reason))

    def _head(self, number: int, head: re.Match[str]) -> None:
        name, _, link = head[2].partition("@")
        row: dict[str, Any] = {"ifindex": int(head[1]), "ifname": name, "flags": head[3].split(","), "_text": head[0]}
        if link:
            below = re.fullmatch(r"if(\d{1,10})", link)
            row |= {"link_index": int(below[1])} if below is not None else {"link": link}
        words = head[4].split()
        at = 0
        while at < len(words):
            word = words[at]
            if word in _HEAD_PAIRS and at + 1 < len(words):
                row[_HEAD_PAIRS[word]] = words[at + 1]
                at += 2
                continue
            if word in _XDP:
                row["xdp"] = {"mode": _XDP[word]}
            elif word not in ("protodown", "protodown_reason"):
                self._strange(number, head[0], f"{word} is not understood")
                break
            at += 1
        self.links.append((number, row))
        self.by_index[row["ifindex"]] = row

    def _address_line(self, number: int, found: re.Match[str]) -> None:
        ifindex = int(found[1])
        link = self.by_index.get(ifindex)
        if link is None:
            link = {"ifindex": ifindex, "ifname": found[2].partition("@")[0], "_partial": True, "_text": found[0]}
            self.by_index[ifindex] = link
            self.links.append((number, link))
        self._address(number, link, found[3].split())

    def _hardware(self, number: int, link: dict[str, Any], words: list[str]) -> None:
        link["link_type"] = words[0].partition("/")[2]
        at = 1
        if at < len(words) and ("." in words[at] or ":" in words[at]):
            link["address"] = words[at]
            at += 1
        while at + 1 < len(words):
            if words[at] == "link-netnsid":
                link["link_netnsid"] = -1 if words[at + 1] == "unknown" else _or_text(words[at + 1])
            elif words[at] == "link-netns":
                link["link_netns"] = words[at + 1]
            at += 1
        del number

    def _address(self, number: int, link: dict[str, Any], words: list[str]) -> None:
        row: dict[str, Any] = {"family": words[0]}
        local, _, length = (words[1] if len(words) > 1 else "").partition("/")
        row["local"] = local
        if length:
            row["prefixlen"] = length
        at = 2
        while at < len(words):
            word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
            if word == "peer":
                row["address"], _, peer_length = value.partition("/")
                if peer_length:
                    row["prefixlen"] = peer_length
                at += 2
            elif word in ("brd", "any", "metric", "proto", "valid_lft", "preferred_lft"):
                at += 2
            elif word == "scope":
                row["scope"] = value
                at += 2
            elif word in _ADDRESS_FLAGS:
                row[word] = True
                at += 1
            elif word == "flags":
                at += 2
            elif at == len(words) - 1:
                row["label"] = word
                at += 1
            else:
                self._strange(number, " ".join(words), f"{word} is not understood")
                break
        row["_line"] = number
        link.setdefault("addr_info", []).append(row)

    @staticmethod
    def _counts(link: dict[str, Any], columns: tuple[str, list[str]], words: list[str]) -> None:
        way, names = columns
        link.setdefault("stats64", {}).setdefault(way, {}).update(zip(names, words, strict=False))

    @staticmethod
    def _program(link: dict[str, Any], words: list[str]) -> None:
        if "id" in words[:-1]:
            link.setdefault("xdp", {"mode": 1})["prog"] = {"id": words[words.index("id") + 1]}


def _or_text(word: str) -> Any:
    return int(word) if word.isdigit() and len(word) < 11 else word


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from pairwise(words)


def _details(kind: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what a line of `ip -d` says of a device, in the words of `ip -j -d`."""
    words = words[: words.index("addrgenmode")] if "addrgenmode" in words else words
    said = dict(_pairs(words))
    if kind == "bridge":
        return {key: said[key] for key in _BRIDGE if key in said}
    if kind == "vxlan":
        data: dict[str, Any] = {key: said[key] for key in ("id", "local", "group", "remote", "ttl") if key in said}
        if "dev" in said:
            data["link"] = said["dev"]
        if "dstport" in said:
            data["port"] = said["dstport"]
        data["learning"] = "nolearning" not in words
        return (
            data
            | {key: True for key in ("proxy", "l2miss", "l3miss") if key in words}
            | {"udp_csum": "udpcsum" in words}
        )
    if kind in ("macvlan", "macvtap"):
        return {"mode": said["mode"]} if "mode" in said else {}
    if kind in ("ipvlan", "ipvtap"):
        return {"mode": said["mode"]} if "mode" in said else {}
    if kind == "vlan":
        return {"id": said["id"]} if "id" in said else {}
    return {}


_BRIDGE = (
    "vlan_filtering", "vlan_default_pvid", "stp_state", "group_fwd_mask", "ageing_time", "nf_call_iptables",
    "nf_call_ip6tables", "nf_call_arptables", "mcast_snooping", "mcast_querier",
)  # fmt: skip
_PORT = (
    "hairpin", "isolated", "learning", "flood", "mcast_flood", "bcast_flood", "proxy_arp", "neigh_suppress", "guard",
    "locked",
)  # fmt: skip


def _port(words: Sequence[str]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in _pairs(words):
        if name == "state":
            data["state"] = value
        elif name in _PORT and value in ("on", "off"):
            data[name] = value == "on"
    return data


def link_row(row: dict[str, Any], devices: Devices) -> Link:
    """Return the link that one object of `ip -j link` stands for; raises ValueError, KeyError, TypeError.

    `peer_netns` stays open: a listing knows other namespaces by ids of its own.
    """
    name, flags = row["ifname"], set(row.get("flags") or ())
    if not isinstance(name, str) or not name:
        raise ValueError("a link without a name")
    info = row.get("linkinfo") or {}
    kind = str(info.get("info_kind") or "")
    data = info.get("info_data") or {}
    slave = info.get("info_slave_data") or {}
    link_type = str(row.get("link_type") or "ether")
    address = row.get("address")
    return Link(
        ifindex=index(row["ifindex"]),
        name=name,
        kind=kind,
        mac=str(address) if address else None,
        mtu=index(row.get("mtu", 0)),
        up="UP" in flags,
        lower_up="LOWER_UP" in flags,
        operstate=str(row.get("operstate") or "UNKNOWN"),
        noarp="NOARP" in flags,
        promisc="PROMISC" in flags,
        loopback="LOOPBACK" in flags,
        pointopoint="POINTOPOINT" in flags,
        arp_type=ARP_TYPES.get(link_type, int(link_type) if link_type.isdigit() and len(link_type) < 6 else 1),
        group=_group(row.get("group")),
        master=devices.index(str(row["master"])) if row.get("master") else None,
        peer_ifindex=_peer(row, devices) if kind != "vxlan" else None,
        peer_nsid=_nsid(row),
        bridge=_bridge(data) if kind == "bridge" and data else None,
        port=port_row(slave) if info.get("info_slave_kind") == "bridge" and slave else None,
        vxlan=_vxlan(data, devices) if kind == "vxlan" and data else None,
        macvlan_mode=str(data["mode"]) if kind in ("macvlan", "macvtap") and data.get("mode") else None,
        ipvlan_mode=str(data["mode"]) if kind == "ipvlan" and data.get("mode") else None,
        vlan_id=index(data["id"]) if kind == "vlan" and "id" in data else None,
        qdisc=str(row.get("qdisc") or ""),
        xdp=_xdp(row.get("xdp")),
        alias=str(row["ifalias"]) if row.get("ifalias") else None,
        stats=_stats(row.get("stats64") or row.get("stats") or {}),
    )


def _group(value: Any) -> int:
    if value in (None, "default"):
        return 0
    # Names of groups stand in a file of that host (/etc/iproute2/group).
    return index(value) if str(value).isdigit() else 0


def _nsid(row: dict[str, Any]) -> int | None:
    """Return the id of the namespace behind a link; -1 where it is another one, and which is not told.

    A peer that is shown as a number ("@if7") lies in another namespace: of one's own `ip` knows the names.
    """
    nsid = row.get("link_netnsid")
    if isinstance(nsid, int) and not isinstance(nsid, bool):
        return -1 if nsid == -1 else index(nsid)
    return -1 if "link_index" in row or "link_netns" in row else None


def _peer(row: dict[str, Any], devices: Devices) -> int | None:
    if "link_index" in row:
        return index(row["link_index"])
    name = row.get("link")
    if name is None:
        return None
    return 0 if name == "NONE" else devices.index(str(name))


def _switch(data: dict[str, Any], name: str, default: bool) -> bool:
    value = data.get(name, default)
    return bool(index(value)) if not isinstance(value, bool) else value


def _bridge(data: dict[str, Any]) -> BridgeInfo:
    return BridgeInfo(
        vlan_filtering=_switch(data, "vlan_filtering", False),
        vlan_default_pvid=index(data.get("vlan_default_pvid", 1)),
        stp_state=index(data.get("stp_state", 0)),
        group_fwd_mask=index(data.get("group_fwd_mask", 0)),
        ageing_time_s=index(data.get("ageing_time", 30000)) / 100,
        nf_call_iptables=_switch(data, "nf_call_iptables", False),
        nf_call_ip6tables=_switch(data, "nf_call_ip6tables", False),
        nf_call_arptables=_switch(data, "nf_call_arptables", False),
        mcast_snooping=_switch(data, "mcast_snooping", False),
        mcast_querier=_switch(data, "mcast_querier", False),
    )


def port_row(data: dict[str, Any]) -> BridgePort:
    """Return what `ip -d link` or `bridge -d link` says of a bridge port; raises ValueError."""
    state = str(data.get("state", "forwarding"))
    if state not in PORT_STATES and not state.isdigit():
        raise ValueError(f"a port's state {state!r} is not known")
    return BridgePort(
        state=PORT_STATES[state] if state in PORT_STATES else index(state),
        hairpin=_switch(data, "hairpin", False),
        isolated=_switch(data, "isolated", False),
        learning=_switch(data, "learning", True),
        unicast_flood=_switch(data, "flood", True),
        mcast_flood=_switch(data, "mcast_flood", True),
        bcast_flood=_switch(data, "bcast_flood", True),
        proxyarp=_switch(data, "proxy_arp", False),
        neigh_suppress=_switch(data, "neigh_suppress", False),
        guard=_switch(data, "guard", False),
        locked=_switch(data, "locked", False),
    )


def _optional_address(value: Any) -> IPAddress | None:
    return ip_address(str(value)) if value else None


def _vxlan(data: dict[str, Any], devices: Devices) -> Vxlan:
    ttl = data.get("ttl", 0)
    return Vxlan(
        vni=index(data.get("id", 0)),
        local=_optional_address(data.get("local") or data.get("local6")),
        group=_optional_address(data.get("group") or data.get("remote") or data.get("group6") or data.get("remote6")),
        port=index(data.get("port", 4789)),
        underlay_ifindex=devices.index(str(data["link"])) if data.get("link") else None,
        learning=_switch(data, "learning", False),
        proxy=_switch(data, "proxy", False),
        l2miss=_switch(data, "l2miss", False),
        l3miss=_switch(data, "l3miss", False),
        ttl=0 if ttl in ("auto", "inherit") else index(ttl),
        udp_csum=_switch(data, "udp_csum", False),
    )


def _xdp(value: Any) -> str | None:
    if not value:
        return None
    mode = value.get("mode", 1)
    name = _XDP_NAMES.get(mode, str(mode)) if isinstance(mode, int) else str(mode)
    program = (value.get("prog") or {}).get("id")
    return f"{name} prog id {program}" if program else name


def _stats(data: dict[str, Any]) -> LinkStats:
    rx, tx = data.get("rx") or {}, data.get("tx") or {}
    return LinkStats(
        rx_packets=counter(rx.get("packets", 0)),
        tx_packets=counter(tx.get("packets", 0)),
        rx_errors=counter(rx.get("errors", 0)),
        tx_errors=counter(tx.get("errors", 0)),
        rx_dropped=counter(rx.get("dropped", 0)),
        tx_dropped=counter(tx.get("dropped", 0)),
        rx_nohandler=counter(rx.get("nohandler", 0)),
        tx_carrier_errors=counter(tx.get("carrier_errors", tx.get("carrier", tx.get("carrier_errs", 0)))),
    )


def address_rows(row: dict[str, Any]) -> Iterator[Address]:
    """Yield the addresses in one object of `ip -j addr`; raises ValueError, KeyError, TypeError."""
    ifindex = index(row["ifindex"])
    for each in row.get("addr_info") or ():
        if not each:
            continue
        local = ip_address(str(each["local"]))
        single = 32 if local.version == 4 else 128
        length = index(each.get("prefixlen", single))
        peer = _optional_address(each.get("address"))
        pair = peer if peer != local else None
        yield Address(
            ifindex=ifindex,
            # The prefix of a point-to-point address belongs to its peer: the local side covers itself only.
            address=ip_interface((local, single if pair is not None else length)),
            scope=str(each.get("scope", "global")),
            peer=ip_network((pair, length), strict=False) if pair is not None else None,
            tentative=bool(each.get("tentative", False)),
            dadfailed=bool(each.get("dadfailed", False)),
            noprefixroute=bool(each.get("noprefixroute", False)),
        )
