"""The container's private source leaves the host unchanged.

What it reports: no rule translates the source address on the way out.
Why traffic stops: the far side answers to a private address that it cannot route back.
Proof: POSTROUTING holds no rule for the source; the capture at the egress shows the private source; no answer
    comes.
Remedy: add the MASQUERADE rule (restarting the engine writes it again).
Known limits: a router that knows the way back to the private network is not visible from here; then the answer
    comes, and nothing is reported.
Seen in the field: containers reach the host and each other, and nothing beyond; requests leave with 172.17.x.x
    (moby#13381, moby#41795, moby#34531, moby#14073, flannel#799). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Hit, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.nat_facts import Leaving, leaving, nat_hit, neighbourly


def check(case: Case) -> Result:
    """Fire when the packet leaves with the container's own address, masquerading is meant, and no rule does it."""
    out = leaving(case)
    if out is None or out.translated or out.covering or not out.meant or neighbourly(case, out):
        return fired()
    return fired(_hit(case, out))


def _hit(case: Case, out: Leaving) -> Hit:
    return nat_hit(
        case,
        out,
        title=f"{out.packet.src} leaves by {out.device} untranslated: the MASQUERADE rule is missing",
        explanation=f"The packet leaves {out.device} with the container's private address {out.packet.src}; no rule "
        "translates it, so answers cannot find the way back.",
        summary="Add the rule; restarting the engine writes it again.",
    )


RULE = rule("nat.masquerade-missing", check, rank=61, needs=("netfilter",))
