"""An old conntrack entry keeps a flow on an old translation.

What it reports: an unanswered UDP entry of the same flow is translated otherwise than today's rules would translate.
Why traffic stops: rules are asked for the first packet of a connection only; as long as a client keeps its source
    port and goes on sending, its packets follow the entry, to a container that is gone or with a wrong source.
Proof: the entry against the translation that the rules give a new packet.
Remedy: delete the entry.
Known limits: probes use ports of their own and are not caught by the entry, so this is a warning beside their verdict.
Seen in the field: a published UDP port stays dead after its container was restarted, for clients that never pause
    (moby#8795, moby#44688, moby#44742, moby#53384, for-linux#156). Common.
"""

from __future__ import annotations

from nettrace.model.base import rows
from nettrace.model.flow import Proto
from nettrace.model.snapshot import Tuple5
from nettrace.model.text import conntrack_text
from nettrace.model.verdict import Basis, Evidence, EvidenceKind, Severity
from nettrace.rules.base import Hit, Mend, Result, fired, rule
from nettrace.rules.case import Case
from nettrace.rules.wording import enter


def check(case: Case) -> Result:
    """Fire when a namespace on the way holds an unanswered UDP entry of this flow with another translation."""
    if case.flow.proto is not Proto.UDP:
        return fired()
    for key, fresh in case.trace.conntrack.items():
        view = case.view(int(key))
        if view is None:
            continue
        for entry in rows(view.ns.conntrack):
            if not _same_question(entry.orig, fresh.orig) or "seen_reply" in entry.status:
                continue
            if (entry.reply.src, entry.reply.sport, entry.reply.dst) == (
                fresh.reply.src,
                fresh.reply.sport,
                fresh.reply.dst,
            ):
                continue
            orig = entry.orig
            return fired(
                Hit(
                    title=f"an old connection still goes to {entry.reply.src}, not to {fresh.reply.src}"
                    if entry.reply.src != fresh.reply.src
                    else f"an old connection still leaves as {entry.reply.dst}, not as {fresh.reply.dst}"
                    if entry.reply.dst != fresh.reply.dst
                    else f"an old connection still goes to port {entry.reply.sport}, not to {fresh.reply.sport}",
                    explanation=f"{view.name} still translates the UDP flow from port {orig.sport} by an entry that "
                    "was made before its rules changed; it lives on as long as the client sends.",
                    at=view.name,
                    evidence=(
                        Evidence(kind=EvidenceKind.CONNTRACK, ref=view.name, text=conntrack_text(entry)),
                        Evidence(
                            kind=EvidenceKind.CONNTRACK,
                            ref=f"{view.name} (a new packet, predicted)",
                            text=conntrack_text(fresh),
                        ),
                    ),
                    mend=Mend(
                        summary="Delete the entry; the next packet makes a new one.",
                        commands=(
                            f"{enter(case, view.id)}conntrack -D -p udp -s {orig.src} -d {orig.dst} "
                            f"--sport {orig.sport} --dport {orig.dport}",
                        ),
                    ),
                    basis=Basis.PREDICTED,
                    severity=Severity.WARNING,
                )
            )
    return fired()


def _same_question(one: Tuple5, other: Tuple5) -> bool:
    return (one.src, one.dst, one.proto, one.dport) == (other.src, other.dst, other.proto, other.dport)


RULE = rule("conntrack.stale-entry", check, rank=64, needs=("conntrack",))
