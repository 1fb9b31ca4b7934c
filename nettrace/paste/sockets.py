"""`ss` and `netstat`: sockets that can receive. See ss(8), netstat(8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from nettrace.model.base import IPAddress
from nettrace.model.snapshot import Socket
from nettrace.paste.devices import Devices
from nettrace.paste.lines import Line, Trouble, index, quoted

__all__ = ["NETSTAT_HEAD", "SS_HEAD", "parse_netstat", "parse_ss"]

SS_HEAD = re.compile(r"(?:Netid\s+)?State\s+Recv-Q\s+Send-Q\s+.*", re.DOTALL)
NETSTAT_HEAD = re.compile(r"Proto\s+Recv-Q\s+Send-Q\s+Local Address\s+.*", re.DOTALL)
#: A program in `users:(("nginx",pid=7,fd=3))`, or in netstat's last column, "7/nginx".
_USER = re.compile(r'\("([^"]{1,64})",pid=')
_PROGRAM = re.compile(r"\d+/(\S{1,64})")
_NETIDS = frozenset({
    "nl", "u_str", "u_dgr", "u_seq", "u_str6", "p_raw", "p_dgr", "v_str", "v_dgr", "tipc", "ti_st", "xdp",
    "raw", "icmp6", "sctp", "dccp", "mptcp", "???",
})  # fmt: skip
_SS_STATES = {"LISTEN": "LISTEN", "UNCONN": "UNCONN", "ESTAB": "ESTAB"}
_OTHER_STATES = frozenset({
    "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSE-WAIT", "LAST-ACK", "CLOSING",
    "CLOSED", "UNKNOWN",
})  # fmt: skip


class Ports(list[Socket]):
    """Sockets, and the protocols that the listing is about (also when it shows none of one)."""

    def __init__(self) -> None:
        super().__init__()
        self.protocols: set[str] = set()


def parse_ss(lines: Sequence[Line], devices: Devices, *, proto: str | None = None) -> tuple[Ports, list[Trouble]]:
    """Return the receiving sockets that `ss` lists; `proto` where the command asked for one alone."""
    found, troubles = Ports(), list[Trouble]()
    if proto is not None:
        found.protocols.add(proto)
    has_netid = False
    for number, text in lines:
        words = text.split()
        if not words:
            continue
        if SS_HEAD.fullmatch(text.strip()):
            has_netid = words[0] == "Netid"
            if has_netid:
                found.protocols |= {"tcp", "udp"} if proto is None else set()
            continue
        if text[0].isspace():
            continue  # `ss -i` and `-m` put what they know of a socket's inside below it
        try:
            netid = words.pop(0) if has_netid else None
            socket = _ss_socket(netid, words, proto, devices)
        except (ValueError, IndexError):
            troubles.append(Trouble(line=number, text=quoted(text)))
            continue
        if socket is not None:
            found.append(socket)
            found.protocols.add(socket.proto)
    return found, troubles


def _ss_socket(netid: str | None, words: list[str], proto: str | None, devices: Devices) -> Socket | None:
    if netid is not None and netid not in ("tcp", "udp"):
        if netid in _NETIDS:
            return None
        raise ValueError("not understood")
    state = words[0]
    if state in _OTHER_STATES:
        return None
    if state not in _SS_STATES or not words[1].isdigit() or not words[2].isdigit():
        raise ValueError("not understood")
    kind = netid or proto or ("tcp" if state == "LISTEN" else "udp")
    if kind == "tcp" and state != "LISTEN":
        return None
    address, port, device, six, only = _endpoint(words[3])
    rest = words[5:]
    if port is None:
        return None
    uid = next((each.removeprefix("uid:") for each in rest if re.fullmatch(r"uid:\d{1,10}", each)), None)
    detailed = any(each.startswith(("ino:", "sk:")) for each in rest)
    told = next((each for each in rest if each in ("v6only:0", "v6only:1")), None)
    return Socket(
        proto=kind,
        family=6 if six else 4,
        address=address,
        port=port,
        state=_SS_STATES[state],
        ifindex=devices.index(device) if device else None,
        v6only=told == "v6only:1" if told is not None else only,
        # With -e the owner is printed, unless it is root.
        uid=int(uid) if uid is not None else 0 if detailed else None,
        process=tuple(dict.fromkeys(_USER.findall(" ".join(rest)))),
    )


def _endpoint(text: str) -> tuple[IPAddress, int | None, str, bool, bool]:
    """Return (address, port, device, is it IPv6, is it IPv6 alone) of `[::]:80`, `*:80`, `127.0.0.53%lo:53`."""
    place, _, port_text = text.rpartition(":")
    port = None if port_text == "*" else index(port_text)
    if port is not None and not 0 < port < 65536:
        port = None
    bracketed = place.startswith("[")
    place, _, device = place.replace("[", "").replace("]", "").partition("%")
    if place == "*":
        return IPv6Address("::"), port, device, True, False
    address = ip_address(place)
    # Where a socket of all addresses takes IPv4 as well, newer versions print "*"; older ones ":::80" for both.
    only = bracketed and address == IPv6Address("::")
    return address, port, device, address.version == 6, only


def parse_netstat(lines: Sequence[Line], *, proto: str | None = None) -> tuple[Ports, list[Trouble]]:
    """Return the receiving sockets that `netstat -ltnu` lists; whether "tcp6" means IPv6 alone it does not tell."""
    found, troubles = Ports(), list[Trouble]()
    found.protocols |= {proto} if proto is not None else set()
    for number, text in lines:
        words = text.split()
        if not words or NETSTAT_HEAD.fullmatch(text.strip()) or words[0] == "Active":
            continue
        try:
            if words[0] not in ("tcp", "tcp6", "udp", "udp6"):
                raise ValueError("not understood")
            kind = words[0].rstrip("6")
            found.protocols.add(kind)
            six = words[0].endswith("6")
            place, _, port_text = words[3].rpartition(":")
            state = words[5] if len(words) > 5 else ""
            if kind == "tcp" and state != "LISTEN":
                continue
            port = index(port_text) if port_text != "*" else 0
            if not 0 < port < 65536:
                continue
            address: IPAddress = ip_address(place) if place != "*" else IPv6Address("::") if six else IPv4Address(0)
        except (ValueError, IndexError):
            troubles.append(Trouble(line=number, text=quoted(text)))
            continue
        found.append(
            Socket(
                proto=kind,
                family=6 if six else 4,
                address=address,
                port=port,
                state="LISTEN" if kind == "tcp" else "ESTAB" if state == "ESTABLISHED" else "UNCONN",
                process=tuple(named[1] for word in words[5:] if (named := _PROGRAM.fullmatch(word.rstrip(":")))),
            )
        )
    return found, troubles
