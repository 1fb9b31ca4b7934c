"""The neighbour table is full.

What it reports: a next hop stays unresolved, and the kernel counted that its neighbour table had no room.
Why traffic stops: without an entry nobody can be asked for a MAC address ("neighbour: arp_cache: neighbor table
    overflow!"), and the packet is dropped.
Proof: table_fulls of /proc/net/stat/arp_cache (or ndisc_cache); gc_thresh3.
Remedy: raise gc_thresh3 (and 2 and 1 with it).
Known limits: the table is one for all namespaces, and the counter may have risen for another's packet.
Seen in the field: intermittent failures on hosts with many neighbours, with "neighbor table overflow" in the kernel
    log (moby#32195, kops#4533).
"""

from __future__ import annotations

from nettrace.model.path import Reason
from nettrace.model.verdict import Evidence, EvidenceKind
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.wording import sysctl_evidence, wire_evidence

REASONS = (Reason.NEIGHBOUR_FAILED,)


def check(case: Case) -> Result:
    """Fire for a stop at a next hop, or one that only the wire shows, while the neighbour table overflowed."""
    family = case.flow.family
    cache = "arp_cache" if family == 4 else "ndisc_cache"
    host = case.host
    if host is None:
        return fired()
    rise = max((case.counter_rise(netns, f"{cache}.table_fulls") for netns in case.world.views), default=0)
    if rise <= 0:
        return fired()
    name = f"net.ipv{family}.neigh.default.gc_thresh3"
    limit = host.sysctl(name)
    hits = []
    for blocker in case.blockers:
        if blocker.step is not None and blocker.step.reason not in REASONS:
            continue
        where = case.view(blocker.step.netns) if blocker.step is not None else host
        view = where or host
        hits.append(
            Hit(
                title="the neighbour table is full",
                explanation="The kernel had no room for another neighbour entry while the probe ran, so the next hop "
                "could not be asked for its MAC address.",
                at=view.name,
                evidence=(
                    Evidence(kind=EvidenceKind.COUNTER, ref=f"/proc/net/stat/{cache}", text=f"table_fulls +{rise}"),
                    *((sysctl_evidence(host, f"{name} = {limit}"),) if limit is not None else ()),
                    *wire_evidence(case, blocker),
                ),
                mend=Mend(
                    summary="Raise the limits of the neighbour table.",
                    commands=tuple(
                        f"sysctl -w net.ipv{family}.neigh.default.gc_thresh{index}={value}"
                        for index, value in ((3, 8192), (2, 4096), (1, 1024))
                    ),
                ),
                basis=blocker.basis,
                blocker=blocker,
            )
        )
    return fired(*hits)


RULE = rule("neigh.table-overflow", check, rank=37, needs=("counters",))
