"""Names in hand-built hosts: what a container's resolver is, and what its lookup came to."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from nettrace.model.flow import EndpointKind, Flow, FlowEnd
from nettrace.model.lookup import EMBEDDED, Answer, AnswerKind, Lookup, Upstream
from tests.rules.build import Lab

Change = Callable[[Lab], object]
RCODE = {AnswerKind.NO_NAME: 3, AnswerKind.NO_DATA: 0, AnswerKind.FAILED: 2, AnswerKind.REFUSED: 5}


def looked_up(
    box: str,
    *answers: tuple[str, AnswerKind],
    name: str = "example.org",
    upstream: str | None = None,
    asks_from: str | None = None,
    held: tuple[str, ...] = (),
    elsewhere: tuple[str, ...] = (),
) -> Change:
    """Let a box have looked a name up, with what each server answered; `held` is what it came to."""

    def change(lab: Lab) -> None:
        servers = tuple(dict.fromkeys(ip_address(server) for server, _kind in answers))
        source = FlowEnd(kind=EndpointKind.CONTAINER, name=box, id=f"{box}-id", netns=lab[box].id)
        lab[box].names = Lookup(
            name=name,
            question=Flow(src=source, dst=FlowEnd(kind=EndpointKind.NAME, name=name)),
            servers=servers,
            files=(f"/proc/1/root/etc/{box}/resolv.conf",),
            answers=tuple(
                Answer(server=ip_address(server), name=name.rstrip("."), kind=kind, rcode=RCODE.get(kind))
                for server, kind in answers
            ),
            addresses=tuple(map(ip_address, held)),
            elsewhere=tuple(map(ip_address, elsewhere)),
            upstreams=(Upstream(server=ip_address(upstream), netns=lab[asks_from or box].id, source="--dns"),)
            if upstream
            else (),
        )

    return change


def embedded(box: str, *, udp: int = 40000, listens: int | None = 40000, rules: bool = True) -> Change:
    """Give a box Docker's own name server: its sockets, and the rules that lead port 53 to them."""

    def change(lab: Lab) -> None:
        if listens is not None:
            lab[box].listen(listens, EMBEDDED, "udp")
            lab[box].listen(40001, EMBEDDED)
        lab[box].chain("nat", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ":DOCKER_OUTPUT -")
        if rules:
            to = f"-j DNAT --to-destination {EMBEDDED}"
            lab[box].chain(
                "nat",
                f"-A OUTPUT -d {EMBEDDED}/32 -j DOCKER_OUTPUT",
                f"-A DOCKER_OUTPUT -d {EMBEDDED}/32 -p tcp -m tcp --dport 53 {to}:40001",
                f"-A DOCKER_OUTPUT -d {EMBEDDED}/32 -p udp -m udp --dport 53 {to}:{udp}",
            )

    return change
