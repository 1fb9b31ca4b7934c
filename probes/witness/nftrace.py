"""Rule trace: every nftables rule that the packets of one run meet in one network namespace, as the kernel walks them.

A table of our own, with the flag "owner", marks the packets of the run at the earliest hooks (`meta nftrace set 1`).
The kernel then reports each rule, jump and policy that a marked packet meets, those of iptables-nft as well; rules of
iptables-legacy are not reported. An owner table belongs to the netlink socket that made it: nobody else can change
it, and the kernel removes it when that socket closes, also after SIGKILL.

The mark ends where a packet changes the namespace or passes a veth (nf_reset_trace), so each namespace on the path
needs a witness of its own. What a marked packet turns into inside a namespace keeps it, through NAT as well. In a nat
chain only the first packet of a connection is seen.

Sources: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h, net/netfilter/nf_tables_trace.c,
net/netfilter/nf_tables_api.c (nf_tables_newtable, nft_rcv_nl_event), nft(8).
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final

from msgspec.structs import replace

from nettrace.model.base import Model
from nettrace.netns import Netns
from probes.witness.base import Lost, WitnessError, module_present
from probes.witness.marks import Mark
from probes.witness.netlink import (
    BUFFER_BYTES,
    NETLINK_NETFILTER,
    NFGENMSG_BYTES,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    TIMEOUT_S,
    attr,
    attributes,
    messages,
    nest,
    netfilter_message,
    number,
    open_netlink,
    transact,
    u32,
)

__all__ = ["RuleEvent", "RuleTrace", "open_rule_trace", "parse_trace", "read_handles"]

NFNLGRP_NFTRACE: Final = 9
NFNL_SUBSYS_NFTABLES: Final = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
_NEWTABLE, _NEWCHAIN, _NEWRULE, _GETRULE, _TRACE = (NFNL_SUBSYS_NFTABLES << 8 | each for each in (0, 3, 6, 7, 17))

#: enum nf_inet_hooks and its namesakes of the bridge: the same numbers.
_PREROUTING, _OUTPUT = 0, 3
#: First of all chains, but for ip_sabotage_in of br_netfilter (INT_MIN), which sends some packets past a second time.
_PRIORITY: Final = -(2**31) + 1
NFT_TABLE_F_OWNER: Final = 0x2

NFPROTO: Final[dict[int, str]] = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_INET, _BRIDGE = 1, 7
_NFPROTO_OF = {4: 2, 6: 10}
_ETHERTYPE_OF = {4: 0x0800, 6: 0x86DD}

# enum nft_meta_keys.
_META_PROTOCOL, _META_NFTRACE, _META_NFPROTO, _META_L4PROTO = 1, 12, 15, 16

# enum nft_trace_attributes.
(
    _TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _LINK_HEADER, _NETWORK_HEADER, _TRANSPORT_HEADER,
    _IIF, _IIFTYPE, _OIF, _OIFTYPE, _MARK, _PROTO, _POLICY,
) = range(1, 17)  # fmt: skip
#: Of enum nft_trace_types; whether a rule that returned is NFT_TRACETYPE_RETURN or _RULE differs between kernels.
_TYPE_POLICY = 1
_VERDICTS = {
    0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat", 5: "stop",
    -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return",
}  # fmt: skip

#: Room for a few thousand reports; without it, a flood of matching rules is lost before it is read.
_QUEUE_BYTES: Final = 4 << 20
_NAMES_TRIED: Final = 4
_DATA_BYTES: Final = 16
#: So that a flood of reports about others does not keep the caller from everything else.
_DATAGRAMS_A_READ: Final = 500


class RuleEvent(Model, tag="rule", tag_field="is"):
    """One step of a marked packet through a chain, in the order the kernel took them.

    `id` tells packets apart within the namespace; a packet keeps it from hook to hook. `family`, `table`, `chain`
    and `handle` name the rule. `kind`: "rule", a rule matched to its end;
    "end", no rule of the chain was left, so `handle` is None; "policy", the same of a base chain, and what it says.
    `verdict`: accept, drop, continue, jump, goto, return, queue, stolen …, also of what a rule did by a verdict map or
    an xt target; `target` is the chain that a jump or goto leads to. `nfproto` is the packet's family (2, 10, 7). The
    first event of a packet in each base chain carries its devices, `iif` and `oif` (ifindexes), and its `link`,
    `network` and `transport` headers (at most 18, 40 and 20 bytes); they are None and empty in the others. `mark` is
    None for 0. `at_ns` is when it was read. `marked` tells that our own table has marked a packet of that id; one that
    was cloned on its way (for a capture, between a bridge and the host's own stack) goes on under another.
    """

    netns: int
    id: int
    family: str
    table: str
    chain: str
    kind: str
    verdict: str
    handle: int | None = None
    target: str | None = None
    iif: int | None = None
    oif: int | None = None
    mark: int | None = None
    nfproto: int | None = None
    link: bytes = b""
    network: bytes = b""
    transport: bytes = b""
    at_ns: int = 0
    marked: bool = False


class RuleTrace:
    """The rule trace of one namespace: readable when the kernel reported something."""

    def __init__(self, ns: Netns, owner: socket.socket, listener: socket.socket, table: str, refused: str | None):
        self.netns = ns.inode
        self.table = table
        #: Why rules of the bridge family are not reported, when they were asked for.
        self.bridge_refused = refused
        self._owner = owner
        self._listener = listener
        self._ours: set[int] = set()

    def __enter__(self) -> RuleTrace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._listener.fileno()

    def close(self) -> None:
        """Close both sockets, and with them the table; closing twice is harmless."""
        self._owner.close()
        self._listener.close()

    def read(self) -> list[RuleEvent | Lost]:
        """Return what was reported since the last read, or the first part of it; never blocks.

        The steps through our own table are left out. Whoever else traces packets of this namespace is heard as well:
        `marked` tells which ones our table has seen.
        """
        found: list[RuleEvent | Lost] = []
        for _datagram in range(_DATAGRAMS_A_READ):
            try:
                data = self._listener.recv(BUFFER_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found.append(Lost())
                continue
            at_ns = time.time_ns()
            for kind, _flags, _sequence, body in messages(data):
                event = parse_trace(body, self.netns, at_ns) if kind == _TRACE else None
                if event is None:
                    continue
                if event.table != self.table:
                    found.append(event if event.id not in self._ours else replace(event, marked=True))
                elif event.kind == "rule":
                    # What somebody else has marked passes our chains as well, without matching a rule of ours.
                    self._ours.add(event.id)
        return found


def open_rule_trace(ns: Netns, marks: Sequence[Mark], *, bridge: bool = False) -> RuleTrace:
    """Mark the packets of a run in one namespace and listen to what the kernel says of them.

    With `bridge`, frames between ports of a bridge are marked where the bridge's own chains begin. Raises
    WitnessError.
    """
    missing = _missing(ns)
    if missing is not None:
        raise WitnessError(missing)
    listener = open_netlink(ns, NETLINK_NETFILTER, NFNLGRP_NFTRACE)
    try:
        _widen(listener)
        listener.setblocking(False)
        owner = open_netlink(ns, NETLINK_NETFILTER)
        try:
            owner.settimeout(TIMEOUT_S)
            table = _create(owner, marks)
            refused = _add_bridge(owner, table, marks) if bridge else None
        except BaseException:
            owner.close()
            raise
    except BaseException:
        listener.close()
        raise
    return RuleTrace(ns, owner, listener, table, refused)


def read_handles(ns: Netns) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """Return the handles of all rules by (family, table, chain), in their order, as the kernel has them now.

    It takes no nft program, and one question more than a listing that lacks handles. Raises WitnessError.
    """
    found: dict[tuple[str, str, str], list[int]] = {}
    if not module_present("nf_tables"):
        return {}
    try:
        with open_netlink(ns, NETLINK_NETFILTER) as sock:
            request = netfilter_message(_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
            for _kind, body in transact(sock, request, 1):
                fields = attributes(body, NFGENMSG_BYTES)
                place = (NFPROTO.get(body[0], str(body[0])), _text(fields.get(1)), _text(fields.get(2)))
                found.setdefault(place, []).append(number(fields.get(3)) or 0)
    except OSError as error:
        raise WitnessError(f"the rules of {ns.label} cannot be listed: {error.strerror or error}") from error
    return {place: tuple(handles) for place, handles in found.items()}


def parse_trace(body: bytes, netns: int, at_ns: int = 0) -> RuleEvent | None:
    """Turn an NFT_MSG_TRACE message (its struct nfgenmsg and attributes) into an event; None when it is malformed."""
    if len(body) < NFGENMSG_BYTES:
        return None
    fields = attributes(body, NFGENMSG_BYTES)
    if _ID not in fields or _TABLE not in fields:
        return None
    handle = number(fields.get(_HANDLE)) or None
    # The kernel reports the mark behind a chain's last rule as a rule without a handle.
    kind = "rule" if handle is not None else "end"
    if number(fields.get(_TYPE)) == _TYPE_POLICY:
        kind = "policy"
    verdict, target = "", None
    if _VERDICT in fields:
        inner = attributes(fields[_VERDICT])
        verdict = _verdict(inner.get(1))
        target = _text(inner.get(2)) or None
    elif _POLICY in fields:
        verdict = _verdict(fields[_POLICY])
    return RuleEvent(
        netns=netns,
        id=number(fields[_ID]) or 0,
        family=NFPROTO.get(body[0], str(body[0])),
        table=_text(fields[_TABLE]),
        chain=_text(fields.get(_CHAIN)),
        kind=kind,
        verdict=verdict,
        handle=handle,
        target=target,
        iif=number(fields.get(_IIF)),
        oif=number(fields.get(_OIF)),
        mark=number(fields.get(_MARK)),
        nfproto=number(fields.get(_PROTO)),
        link=fields.get(_LINK_HEADER, b""),
        network=fields.get(_NETWORK_HEADER, b""),
        transport=fields.get(_TRANSPORT_HEADER, b""),
        at_ns=at_ns,
    )


def _text(payload: bytes | None) -> str:
    return payload.rstrip(b"\0").decode(errors="replace") if payload is not None else ""


def _verdict(payload: bytes | None) -> str:
    """Name a verdict code; its upper half holds the error of a drop, or the number of a queue (NF_VERDICT_QBITS)."""
    if payload is None or len(payload) != 4:
        return ""
    code: int = struct.unpack(">i", payload)[0]
    return _VERDICTS.get(code) or _VERDICTS.get(code & 0xFF, str(code))


# --- The table ------------------------------------------------------------------------------------------------------


def _missing(ns: Netns) -> str | None:
    if not module_present("nf_tables"):
        return "nf_tables is not loaded, so there are no nftables rules to trace, and nettrace loads no modules"
    return f"the namespace of {ns.label} was let go" if ns.fd < 0 else None


def _name() -> str:
    # The process id is for people; processes of other pid namespaces may share it.
    return f"nettrace-{os.getpid()}-{secrets.token_hex(3)}"


def _create(owner: socket.socket, marks: Sequence[Mark]) -> str:
    for _attempt in range(_NAMES_TRIED):
        table = _name()
        try:
            _send(owner, _table_messages(_INET, table, marks))
        except _Taken:
            continue
        return table
    raise WitnessError("every table name that was tried is taken")


def _add_bridge(owner: socket.socket, table: str, marks: Sequence[Mark]) -> str | None:
    try:
        _send(owner, _table_messages(_BRIDGE, table, marks))
    except WitnessError as error:
        return str(error)
    return None


def _table_messages(family: int, table: str, marks: Iterable[Mark]) -> list[tuple[int, int, int, bytes]]:
    """Return (type, flags, family, attributes) of what makes the table, its two chains and their rules."""
    name = attr(1, table.encode() + b"\0")
    made = NLM_F_CREATE | NLM_F_EXCL
    out = [(_NEWTABLE, made, family, name + u32(2, NFT_TABLE_F_OWNER))]
    rules = [_rule(family, mark) for mark in marks]
    for chain, hook in (("prerouting", _PREROUTING), ("output", _OUTPUT)):
        place = nest(4, u32(1, hook), u32(2, _PRIORITY))
        out.append((_NEWCHAIN, made, family, name + attr(3, chain.encode() + b"\0") + place + attr(7, b"filter\0")))
        for rule in rules:
            body = name + attr(2, chain.encode() + b"\0") + rule
            out.append((_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, body))
    return out


def _rule(family: int, mark: Mark) -> bytes:
    """Return NFTA_RULE_EXPRESSIONS of the rule that marks the packets of one kind."""
    parts: list[bytes] = []
    if family == _BRIDGE:
        parts += _meta_is(_META_PROTOCOL, struct.pack(">H", _ETHERTYPE_OF[mark.family]))
    else:
        parts += _meta_is(_META_NFPROTO, bytes([_NFPROTO_OF[mark.family]]))
    parts += _meta_is(_META_L4PROTO, bytes([mark.proto]))
    for each in mark.compares:
        parts += _payload_is(each.base, each.offset, each.value)
    parts.append(_expression("immediate", u32(1, 1) + nest(2, attr(1, b"\x01"))))
    parts.append(_expression("meta", u32(2, _META_NFTRACE) + u32(3, 1)))
    return nest(4, *parts)


def _expression(name: str, data: bytes) -> bytes:
    return nest(1, attr(1, name.encode() + b"\0"), nest(2, data))


def _is(value: bytes) -> bytes:
    return _expression("cmp", u32(1, 1) + u32(2, 0) + nest(3, attr(1, value)))


def _meta_is(key: int, value: bytes) -> list[bytes]:
    return [_expression("meta", u32(1, 1) + u32(2, key)), _is(value)]


def _payload_is(base: int, offset: int, value: bytes) -> list[bytes]:
    """Compare bytes of the packet, as many at once as a comparison can hold (struct nft_data)."""
    parts = []
    for start in range(0, len(value), _DATA_BYTES):
        piece = value[start : start + _DATA_BYTES]
        load = u32(1, 1) + u32(2, base) + u32(3, offset + start) + u32(4, len(piece))
        parts += [_expression("payload", load), _is(piece)]
    return parts


class _Taken(WitnessError):
    """The table's name is in use."""


def _send(sock: socket.socket, parts: Sequence[tuple[int, int, int, bytes]]) -> None:
    """Send one batch and wait for the kernel's word on it, which comes once it is committed; raises WitnessError."""
    last = len(parts)
    frame = [_edge(NFNL_MSG_BATCH_BEGIN, 0)]
    for at, (kind, flags, family, body) in enumerate(parts, 1):
        wanted = NLM_F_REQUEST | flags | (NLM_F_ACK if at == last else 0)
        frame.append(netfilter_message(kind, wanted, at, family, body))
    frame.append(_edge(NFNL_MSG_BATCH_END, last + 1))
    try:
        sock.send(b"".join(frame))
        code = _answer(sock, last)
    except OSError as error:
        raise WitnessError(f"nftables did not take the table: {error.strerror or error}") from error
    if code == errno.EEXIST:
        raise _Taken("the table exists")
    if code:
        raise WitnessError(_why(code))


def _answer(sock: socket.socket, last: int) -> int:
    """Return the first error number that the kernel answers with, 0 when it acknowledged the last message."""
    while True:
        for kind, _flags, sequence, body in messages(sock.recv(BUFFER_BYTES)):
            if kind != NLMSG_ERROR or len(body) < 4:
                continue
            code: int = -struct.unpack_from("=i", body)[0]
            if code or sequence == last:
                return code


def _edge(kind: int, sequence: int) -> bytes:
    return netfilter_message(kind, NLM_F_REQUEST, sequence, 0, resource=NFNL_SUBSYS_NFTABLES)


def _why(code: int) -> str:
    if code in (errno.EPERM, errno.EACCES):
        return "the kernel asks for CAP_NET_ADMIN to trace rules"
    if code in (errno.EINVAL, errno.EOPNOTSUPP) and _kernel() < (5, 12):
        return f"Linux {os.uname().release} has no nftables tables that end with their owner (since 5.12)"
    if code in (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return f"this kernel's nftables lacks what the trace is made of ({os.strerror(code)})"
    return f"nftables did not take the table: {os.strerror(code)}"


def _kernel() -> tuple[int, ...]:
    words = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(word) for word in words if word.isdigit())


def _widen(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, 33, _QUEUE_BYTES)  # SO_RCVBUFFORCE
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
