"""BPF programs that are attached to devices by tcx, which traffic control's own dumps do not list.

Asks bpf(2) with BPF_PROG_QUERY, by ifindex, in the namespace of the calling thread (tcx_prog_query in
kernel/bpf/tcx.c, Linux 6.6 and later).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Iterable

__all__ = ["read_tcx"]

#: bpf(2) by machine: x86_64, and those with the table of asm-generic.
_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "s390x": 351, "ppc64le": 361}
_PROG_QUERY = 16
_TCX = ((46, "ingress"), (47, "egress"))
_MOST = 64


def read_tcx(ifindexes: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Return the tcx programs of devices of the calling thread's namespace, by ifindex, as filters would be printed.

    Nothing where the kernel has no tcx, or does not let itself be asked.
    """
    number = _BPF.get(platform.machine())
    if number is None:
        return {}
    libc = ctypes.CDLL(None, use_errno=True)
    ids = (ctypes.c_uint32 * _MOST)()
    found: dict[int, tuple[str, ...]] = {}
    for ifindex in ifindexes:
        lines: list[str] = []
        for kind, block in _TCX:
            # union bpf_attr, query: target_ifindex, attach_type, query_flags, attach_flags, prog_ids, count.
            asked = struct.pack("=IIIIQI", ifindex, kind, 0, 0, ctypes.addressof(ids), _MOST)
            attr = ctypes.create_string_buffer(asked.ljust(64, b"\0"), 64)
            if libc.syscall(number, _PROG_QUERY, attr, len(attr)) < 0:
                if ctypes.get_errno() == errno.ENODEV:
                    break  # it has gone meanwhile
                return found
            (count,) = struct.unpack_from("=I", attr, 24)
            lines += [f"filter {block} tcx prog id {each}" for each in ids[: min(count, _MOST)]]
        if lines:
            found[ifindex] = tuple(lines)
    return found
