"""The mode of two macvlan interfaces keeps them apart.

What it reports: source and destination hang on the same parent, in a mode that does not connect siblings.
Why traffic stops: private mode drops frames between siblings; vepa mode sends them to the switch, which must reflect
    them.
Proof: the mode of both links.
Remedy: create the network with macvlan_mode=bridge.
Known limits: whether a switch reflects cannot be seen; vepa is reported only when the flow stops.
Seen in the field: no public report was read; it comes with mode private, and with vepa on switches that do not
    reflect.
"""

from __future__ import annotations

from nettrace.model.path import Direction, Segment
from nettrace.model.snapshot import Link
from nettrace.predict.world import View
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.change import set_link, together
from nettrace.rules.wording import enter, link_evidence, wire_evidence

MODES = ("private", "vepa")


def check(case: Case) -> Result:
    """Fire when a stopped flow goes from one macvlan to a sibling, and one of the two is private or vepa."""
    source, target = case.view(case.flow.src.netns), case.view(case.flow.dst.netns)
    if source is None or target is None or source.id == target.id or not case.blockers:
        return fired()
    used = {step.ifindex for step in case.steps(Direction.FORWARD) if step.netns == source.id}
    for one in _siblings(source):
        for other in _siblings(target):
            same = (one.peer_ifindex, source.peer(one)) == (other.peer_ifindex, target.peer(other))
            modes = (one.macvlan_mode or one.ipvlan_flag, other.macvlan_mode or other.ipvlan_flag)
            if one.ifindex in used and same and any(mode in MODES for mode in modes):
                return fired(_hit(case, source, one, target, other))
    return fired()


def _siblings(view: View) -> list[Link]:
    return [link for link in view.links.values() if link.kind in ("macvlan", "ipvlan")]


def _hit(case: Case, source: View, one: Link, target: View, other: Link) -> Hit:
    blocker = case.blockers[0]
    modes = (one.macvlan_mode, other.macvlan_mode, one.ipvlan_flag, other.ipvlan_flag)
    mode = next(each for each in modes if each in MODES)
    why = "drops frames between siblings" if mode == "private" else "sends them to the switch, which must reflect them"
    ipvlan = one.kind == "ipvlan"
    field, word = ("ipvlan_flag", f"mode {one.ipvlan_mode} bridge") if ipvlan else ("macvlan_mode", "mode bridge")
    return Hit(
        title=f"{source.name} and {target.name} hang on one parent in {mode} mode, which keeps them apart",
        explanation=f"Both interfaces are {one.kind}s of the same parent; {mode} mode {why}.",
        at=f"{source.name}/{one.name}",
        evidence=(link_evidence(source, one), link_evidence(target, other), *wire_evidence(case, blocker)),
        mend=Mend(
            summary=f"Use bridge mode: create the network again with -o {one.kind}_{field.split('_')[1]}=bridge.",
            commands=tuple(
                f"{enter(case, view.id)}ip link set {link.name} type {link.kind} {word}"
                for view, link in ((source, one), (target, other))
            ),
            change=together(
                set_link(source.id, one.ifindex, **{field: "bridge"}),
                set_link(target.id, other.ifindex, **{field: "bridge"}),
            ),
        ),
        basis=blocker.basis,
        blocker=blocker,
        segment=Segment.EGRESS,
        direction=Direction.FORWARD,
        device=one.name,
        netns=source.id,
    )


RULE = rule("macvlan.mode-isolates", check, rank=24, needs=("links",))
