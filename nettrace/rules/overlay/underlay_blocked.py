"""The hosts of an overlay do not let its tunnel through.

What it reports: a rule on this host drops the outer packets of the overlay's VXLAN, going out or coming in.
Why traffic stops: all traffic between the hosts' containers travels in UDP (4789 unless set otherwise).
Proof: the rule, met by the outer packet; the points that saw the packet and those that did not.
Remedy: delete the rule, or accept the port between the hosts.
Known limits: what the far host or the net between drops shows only as silence behind the uplink.
Seen in the field: containers on one host talk, and never across hosts: UDP 4789 is closed, or taken by the
    hypervisor's own VXLAN (moby#30972, classicswarm#2687, flannel#423, flannel#2388). Very common.
"""

from __future__ import annotations

from nettrace.rules.base import Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.faults import FilterWords, filter_hits

WORDS = FilterWords(
    title="a rule {verb} the overlay's tunnel: {rule}",
    explanation="{place} {verb} the UDP packets in which the overlay travels between the hosts.",
)


def check(case: Case) -> Result:
    """Fire for each stop that is this fault."""
    return fired(*filter_hits(case, "overlay.underlay-blocked", WORDS))


RULE = rule("overlay.underlay-blocked", check, rank=58, needs=("netfilter",))
