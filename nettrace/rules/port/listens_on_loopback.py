"""The service listens on another address only.

What it reports: a socket is bound to the port, but to an address that the packet is not for, as 127.0.0.1.
Why traffic stops: the kernel gives the packet only to sockets whose address fits.
Proof: the socket's bound address.
Remedy: bind the service to 0.0.0.0 (or ::).
Known limits: none.
Seen in the field: a published port resets the connection, since the service listens on 127.0.0.1 of its container
    (moby#10900, moby#13914, thelounge#194). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import enter, wire_evidence


def check(case: Case) -> Result:
    """Fire when the port is taken by a socket that is bound to another address."""
    hits = []
    for blocker, step in blockers(case, Reason.NOT_LISTENING):
        socket = step.socket
        if socket is None:
            continue
        view = view_of(case, step)
        # An IPv6 wildcard takes IPv4 too, unless the program says otherwise.
        other = f"IPv{socket.family}" if socket.address.is_unspecified else str(socket.address)
        every = "0.0.0.0" if step.packet.family == 4 else "::"
        hits.append(
            Hit(
                title=f"the service in {view.name} listens on {other} only",
                explanation=f"Port {socket.port} in {view.name} is bound to {socket.address}"
                f"{f' for {other} alone' if socket.address.is_unspecified else ''}, so packets to "
                f"{step.packet.dst} are refused.",
                at=view.name,
                evidence=(
                    Evidence(
                        kind=EvidenceKind.SOCKET,
                        ref=view.name,
                        text=f"{socket.proto} {socket.state} {socket.address}:{socket.port}",
                    ),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Let the service listen on 0.0.0.0 (or ::) instead."
                    if not socket.address.is_unspecified
                    else f"Let the service listen on {every} too.",
                    commands=(f"{enter(case, view.id)}ss -lntu",),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("port.listens-on-loopback", check, rank=79, needs=("sockets",))
