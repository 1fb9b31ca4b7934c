"""Read the packets of one run out of a capture that holds many others, without taking those apart.

A capture of nettrace's own holds little else than its run's packets, and is read whole. One that has grown, since it
was joined with others, is searched for the bytes that each packet of the run must hold.
"""

from __future__ import annotations

import io

from nettrace.errors import InputError
from nettrace.model.flow import Proto
from nettrace.model.observe import Frame, Way
from nettrace.wire.captured import ARP_NEEDLE
from nettrace.wire.pcapng import Capture, Interface, read_pcapng
from nettrace.wire.scan import scan
from nettrace.wire.token import DNS_LABEL, MAGIC, RunToken

__all__ = ["LARGE", "needles_of", "read_run"]

#: From this size on a capture is searched, in bytes.
LARGE = 4 << 20
#: More needles than this take longer to look for than all packets take to read.
_MOST_NEEDLES = 24
_MOST_PACKETS = 20_000


def needles_of(run: RunToken) -> tuple[bytes, ...]:
    """Return byte strings of which every packet that `parse_frame` may recognise as the run's holds at least one."""
    found = [MAGIC + run.secret, ARP_NEEDLE]
    if run.family == 6:
        found.append(b"\x3a\xff")  # ICMPv6 with the hop limit of neighbour discovery
    if run.proto is Proto.TCP:
        found.append(run.sequence_base.to_bytes(3, "big"))
    elif run.proto is Proto.ICMP:
        found.append(run.icmp_id.to_bytes(2, "big") + b"\x00")  # as errors quote it, with the probe's number
    else:
        found.append(DNS_LABEL + run.secret.hex().encode())
        for near in run.sports:
            for far in run.dports:
                found.append(near.to_bytes(2, "big") + far.to_bytes(2, "big"))
                found.append(far.to_bytes(2, "big") + near.to_bytes(2, "big"))
    return tuple(dict.fromkeys(found))


def read_run(data: bytes, run: RunToken, *, large: int = LARGE) -> Capture:
    """Read a pcapng file: whole, or, from `large` bytes on, what may be of the run.

    Raises InputError as `read_pcapng` does, and for more packets of one run than a run can have.
    """
    needles = needles_of(run)
    if len(data) < large or len(needles) > _MOST_NEEDLES:
        return read_pcapng(data)
    found = scan(io.BytesIO(data), needles, most=_MOST_PACKETS)
    if found.cut:
        raise InputError(f"this is not a readable pcapng file: {found.cut}")
    if any(tap.full_ns is not None for tap in found.taps):
        raise InputError(f"the capture holds more than {_MOST_PACKETS} packets that may be of its run at one interface")
    interfaces = tuple(
        Interface(name=tap.name or f"interface {number}", linktype=tap.linktype)
        for number, tap in enumerate(found.taps)
    )
    frames = tuple(
        Frame(
            point=interfaces[each.tap].name,
            way=each.way or Way.IN,
            at_ns=each.at_ns,
            data=each.data,
            length=each.length,
        )
        for each in found.records
    )
    return Capture(interfaces=interfaces, frames=frames)
