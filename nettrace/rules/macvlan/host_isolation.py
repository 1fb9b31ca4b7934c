"""A macvlan or ipvlan interface and its parent's host cannot talk, by design.

What it reports: the packet goes from a child to an address of the parent's host, or from that host to a child.
Why traffic stops: a child sends past the parent's own stack, and what the host sends by the parent goes out on the
    wire, past the children.
Proof: the parent relation; the destination is the parent's host, or the child itself.
Remedy: give the host an interface of the same kind on the same parent.
Known limits: none.
Seen in the field: everybody reaches the container but its own host, by design of the driver (libnetwork#1915,
    docs#6745, docs#22607, docs#10751, docs#16360). Very common.
"""

from __future__ import annotations

from nettrace.model.path import Reason, Step
from nettrace.model.snapshot import Link
from nettrace.predict.children import children_of
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import blockers, view_of
from nettrace.rules.wording import link_evidence, wire_evidence

#: The mode in which a child of the host's own reaches its siblings.
MODE = {"macvlan": "bridge", "ipvlan": "l2"}


def check(case: Case) -> Result:
    """Fire when a frame of a child is for its parent."""
    hits = []
    for blocker, step in blockers(case, Reason.MACVLAN_ISOLATED):
        view = view_of(case, step)
        parent = view.links[step.ifindex or 0]
        kind = _kind(case, view, parent)
        hits.append(
            Hit(
                title=f"{kind} keeps the container and {parent.name}'s host apart",
                explanation=f"{step.text}: that is how {kind} works.",
                at=f"{view.name}/{parent.name}",
                evidence=(link_evidence(view, parent), *wire_evidence(case, blocker)),
                mend=Mend(
                    summary=(
                        f"Give the host a {kind} interface of its own on the same parent, with a route to the "
                        "container."
                    ),
                    commands=_shim(view, parent, kind, step),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


def _shim(view: View, parent: Link, kind: str, step: Step) -> tuple[str, ...]:
    """Return how the host gets an interface beside the child's, and sends to the child by it."""
    made = f"ip link add shim0 link {parent.name} type {kind} mode {MODE[kind]}"
    if kind != "macvlan":
        return (made,)
    away = [each for each in (step.packet.src, step.packet.dst) if each not in view.owned]
    family = "-6 " if step.packet.family == 6 else ""
    return (
        made,
        "ip link set shim0 up",
        *(f"ip {family}route add {each}/{each.max_prefixlen} dev shim0" for each in away[:1]),
    )


def _kind(case: Case, view: View, parent: Link) -> str:
    """Return what sort of child it is about: all children of one parent are of one sort."""
    kinds = {link.kind for _view, link in children_of(case.world, view, parent)}
    return "ipvlan" if kinds & {"ipvlan", "ipvtap"} else "macvlan"


RULE = rule("macvlan.host-isolation", check, rank=53, needs=("links",))
