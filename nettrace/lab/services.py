"""Servers for the lab's namespaces: HTTP, echo and a small DNS. Standard library only; run as a file of its own.

`python -I -S services.py [--http ADDR:PORT] [--echo ADDR:PORT] [--dns ADDR:53] [--pidfile F]`, each option repeatable.
Prints one line to standard output when every socket listens. `--echo` is TCP and UDP. DNS knows example.org,
dns.google and six.example, which has an IPv6 address only; every other name does not exist (NXDOMAIN).
With `--pidfile` it goes to the background first, and the caller gets its prompt back once it listens.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys

ZONE = {
    "example.org": ("8.8.8.8", "2001:4860:4860::8888"),
    "six.example": ("", "2001:4860:4860::8888"),
    "dns.google": ("8.8.8.8", "2001:4860:4860::8888"),
}
BODY = b"hello from a lab\n"
PAGE = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + BODY


def split(where: str) -> tuple[int, str, int]:
    """Split ADDR:PORT (brackets round an IPv6 address) into family, address and port."""
    address, _, port = where.rpartition(":")
    address = address.strip("[]")
    return (socket.AF_INET6 if ":" in address else socket.AF_INET), address, int(port)


def bound(where: str, kind: int) -> socket.socket:
    """Return a non-blocking socket bound to ADDR:PORT, listening when it is a stream."""
    family, address, port = split(where)
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(256)
    sock.setblocking(False)
    return sock


def dns_answer(query: bytes) -> bytes:
    """Answer one DNS question (RFC 1035) about ZONE; an empty answer for other types, NXDOMAIN for other names."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
        at += 1 + query[at]
    question = query[12 : at + 5]
    kind = int.from_bytes(query[at + 1 : at + 3], "big")
    known = ZONE.get(".".join(labels))
    data = b""
    if known and kind == 1 and known[0]:
        data = socket.inet_pton(socket.AF_INET, known[0])
    elif known and kind == 28:
        data = socket.inet_pton(socket.AF_INET6, known[1])
    record = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(data).to_bytes(2, "big") + data
    flags = 0x8580 if known else 0x8583
    header = query[:2] + flags.to_bytes(2, "big") + b"\0\1" + (b"\0\1" if data else b"\0\0") + b"\0\0\0\0"
    return header + question + (record if data else b"")


def serve(servers: list[tuple[str, socket.socket]]) -> None:
    """Answer for ever. A client that goes away, or sends nonsense, costs its own connection only."""
    eyes = selectors.DefaultSelector()
    for name, server in servers:
        eyes.register(server, selectors.EVENT_READ, name)
    while True:
        for key, _ in eyes.select():
            role, sock = key.data, key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if role in ("http", "echo"):
                    client, _ = sock.accept()
                    client.setblocking(False)
                    eyes.register(client, selectors.EVENT_READ, role + "-client")
                elif role == "udp-echo":
                    sock.sendto(*sock.recvfrom(65535))
                elif role == "dns":
                    query, peer = sock.recvfrom(4096)
                    sock.sendto(dns_answer(query), peer)
                else:
                    data = sock.recv(65536)
                    if data:
                        sock.sendall(PAGE if role == "http-client" else data)
                    if not data or role == "http-client":
                        eyes.unregister(sock)
                        sock.close()
            except (OSError, IndexError):
                if role.endswith("-client"):
                    eyes.unregister(sock)
                    sock.close()


def main(arguments: list[str]) -> None:
    """Open what the arguments ask for, say so, and serve."""
    servers: list[tuple[str, socket.socket]] = []
    pidfile = ""
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        if option == "--pidfile":
            pidfile = value
        elif option == "--dns":
            servers.append(("dns", bound(value, socket.SOCK_DGRAM)))
        else:
            servers.append((option.strip("-"), bound(value, socket.SOCK_STREAM)))
            if option == "--echo":
                servers.append(("udp-echo", bound(value, socket.SOCK_DGRAM)))
    if pidfile:
        child = os.fork()
        if child:
            with open(pidfile, "w") as file:
                file.write(f"{child}\n")
            os._exit(0)
        os.setsid()
    os.write(1, b"ready\n")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    if pidfile:
        os.dup2(null, 0)
        os.dup2(null, 2)
    serve(servers)


if __name__ == "__main__":
    main(sys.argv[1:])
