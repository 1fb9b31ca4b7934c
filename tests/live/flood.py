"""A flood of packets that resemble a probe, as fast as one process can: `flood.py SRC DST icmp|udp|tcp PORT SECONDS`.

Must be run inside the namespace that it floods from. Packets go out by sendmmsg(2), some hundred at once; their
payload begins as a probe's does, with a secret of its own. Prints how many were sent a second.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import time

BATCH = 512


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class Mmsghdr(ctypes.Structure):
    _fields_ = [("header", Msghdr), ("sent", ctypes.c_uint)]


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def transport(kind: str, src: str, dst: str, port: int) -> tuple[int, bytes]:
    payload = b"ntrc" + os.urandom(8) + bytes(4)
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst)
    if kind == "icmp":
        body = struct.pack(">BBHHH", 8, 0, 0, int.from_bytes(os.urandom(2), "big"), 0) + payload
        return socket.IPPROTO_ICMP, body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    if kind == "udp":
        size = 8 + len(payload)
        return socket.IPPROTO_UDP, struct.pack(">HHHH", 50000, port, size, 0) + payload
    head = struct.pack(">HHIIBBHHH", 50000, port, 1, 0, 5 << 4, 2, 64240, 0, 0)
    total = checksum(pseudo + struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(head)) + head)
    return socket.IPPROTO_TCP, head[:16] + struct.pack(">H", total) + head[18:]


def main() -> None:
    src, dst, kind, port, seconds = sys.argv[1:]
    proto, body = transport(kind, src, dst, int(port))
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0)
    packet = header + socket.inet_aton(src) + socket.inet_aton(dst) + body
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.connect((dst, 0))
    buffer = ctypes.create_string_buffer(packet, len(packet))
    iov = Iovec(ctypes.cast(buffer, ctypes.c_void_p), len(packet))
    batch = (Mmsghdr * BATCH)()
    for each in batch:
        each.header.iov, each.header.iovlen = ctypes.pointer(iov), 1
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    end, sent, start = time.monotonic() + float(seconds), 0, time.monotonic()
    print("ready", flush=True)
    while time.monotonic() < end:
        sent += max(0, send(sock.fileno(), batch, BATCH, 0))
    print(round(sent / (time.monotonic() - start)))


if __name__ == "__main__":
    main()
