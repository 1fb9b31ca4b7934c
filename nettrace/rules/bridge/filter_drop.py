"""A bridge-family rule drops the frame, or sends it to another MAC address.

What it reports: ebtables or an nft table of the bridge family stops frames between ports, or writes a MAC address
    into them that is not their receiver's (ebtables' dnat, nft's `ether daddr set`).
Why traffic stops: frames bridged within one network pass the bridge's own hooks; whoever gets a frame for another's
    address discards it.
Proof: the rule itself, found by walking every table of both backends in the kernel's order; its packet counter
    before and after the probe; the points that saw the packet and those that did not.
Remedy: the command that deletes the rule, or the accept that is missing.
Known limits: none.
Seen in the field: no public report was read; the fault is known from the kernel's code, and was made in a lab.
"""

from __future__ import annotations

import re

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_fault, filter_hit, filtered

CODE = "bridge.filter-drop"
#: ebtables' targets dnat and redirect, and nft's statement.
_READDRESSES = re.compile(r"-j (dnat|redirect)\b|\bether daddr set\b")
WORDS = FilterWords(
    title="a bridge rule {verb} the frame: {rule}",
    explanation="{place} {verb} frames on their way through the bridge; iptables does not show it.",
)
READDRESSED = FilterWords(
    title="a bridge rule sends the frame to another MAC address: {rule}",
    explanation="{place} writes another MAC address into frames on their way through the bridge, so that their "
    "receiver discards them; iptables does not show it.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(
        *(
            filter_hit(case, blocker, step, ref, READDRESSED if _READDRESSES.search(ref.text) else WORDS, code=CODE)
            for blocker, step, ref in filtered(case)
            if filter_fault(case, step, ref) == CODE
        )
    )


RULE = rule(CODE, check, rank=60, needs=("netfilter",))
