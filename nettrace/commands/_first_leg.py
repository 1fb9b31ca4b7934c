"""The first leg of a question about a name that came to nothing: which way to look at, and then look at it.

Where the name server gave no answer, the question becomes why the source cannot reach that server: the same pipeline,
for a flow to its UDP port 53. Docker's own server hands on what it does not know itself; where it takes the query, the
way that matters is the one to the server behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nettrace.model.path import LegEnd

if TYPE_CHECKING:
    from nettrace.collect import Collector
    from nettrace.model.flow import Flow
    from nettrace.model.lookup import Lookup
    from nettrace.model.path import Trace
    from nettrace.model.snapshot import Snapshot
    from nettrace.peer.company import Company


def look_at_names(collector: Collector | Company, flow: Flow) -> tuple[Flow, Snapshot, Trace]:
    """Return the flow to diagnose, with what was read for it and its trace: the question itself, or the first leg."""
    from nettrace.commands.path import look

    lookup = collector.lookup
    if lookup is None or lookup.addresses or not lookup.answers:
        return (flow, *look(collector, flow))
    asked = (lookup.failures or lookup.answers)[0].server
    flow = collector.turn_to(asked)
    before, trace = look(collector, flow)
    if lookup.failures and lookup.upstreams and trace.forward.end is LegEnd.ARRIVED and _kept(flow):
        first = lookup.upstreams[0]
        flow = collector.turn_to(first.server, from_host=first.netns == collector.host.inode)
        before, trace = look(collector, flow)
    return flow, before, trace


def _kept(flow: Flow) -> bool:
    """Tell whether a query stays in the namespace that it is asked from."""
    return flow.dst.address is not None and flow.dst.address.is_loopback


def settled_by_answer(lookup: Lookup | None) -> bool:
    """Tell whether nothing is left to probe: the servers answered that there is no such name."""
    return lookup is not None and lookup.denied
