"""Attach a BPF program of two instructions to a device of the own network namespace, without a compiler.

`python attach.py DEVICE KIND VERDICT`: KIND is xdp, xdpgeneric, tcx-ingress or tcx-egress, VERDICT what the program
returns (XDP_DROP 1, XDP_PASS 2; TC_ACT_OK 0, TC_ACT_SHOT 2), or "off" to take one of tcx off again. Run in the
namespaces of labs.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys

BPF = {"x86_64": 321, "aarch64": 280}
PROG_LOAD, PROG_ATTACH, PROG_DETACH = 5, 8, 9
SCHED_CLS, XDP = 3, 6
TCX = {"tcx-ingress": 46, "tcx-egress": 47}
FLAGS = {"xdp": 0, "xdpgeneric": 2}
RTM_SETLINK, IFLA_XDP = 19, 43


def bpf(command: int, attr: bytes) -> int:
    """Call bpf(2); raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128)
    done = int(libc.syscall(BPF[platform.machine()], command, buffer, len(buffer)))
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


def load(kind: int, verdict: int) -> int:
    """Load `return verdict` as a program; returns its file descriptor."""
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0)
    program = ctypes.create_string_buffer(code, len(code))
    text = ctypes.create_string_buffer(b"GPL")
    return bpf(PROG_LOAD, struct.pack("=IIQQ", kind, 2, ctypes.addressof(program), ctypes.addressof(text)))


def set_xdp(ifindex: int, program: int, flags: int) -> None:
    """Set a device's XDP program (do_setlink, dev_change_xdp_fd); raises OSError."""
    nested = struct.pack("=HHiHHI", 8, 1, program, 8, 3, flags)
    body = struct.pack("=BxHiII", 0, 0, ifindex, 0, 0) + struct.pack("=HH", 4 + len(nested), IFLA_XDP | 0x8000) + nested
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as rtnetlink:
        rtnetlink.send(struct.pack("=IHHII", 16 + len(body), RTM_SETLINK, 5, 1, 0) + body)
        (error,) = struct.unpack_from("=i", rtnetlink.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error))


def main(device: str, kind: str, verdict: str) -> None:
    """Attach it: the kernel holds it from then on; or take it off."""
    ifindex = socket.if_nametoindex(device)
    if kind in FLAGS:
        set_xdp(ifindex, load(XDP, int(verdict)), FLAGS[kind])
    elif verdict == "off":
        bpf(PROG_DETACH, struct.pack("=IIII", ifindex, 0, TCX[kind], 0))
    else:
        bpf(PROG_ATTACH, struct.pack("=IIII", ifindex, load(SCHED_CLS, int(verdict)), TCX[kind], 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
