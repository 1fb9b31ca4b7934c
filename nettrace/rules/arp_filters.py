"""Rules of a bridge that answer ARP themselves."""

from __future__ import annotations

import re

from nettrace.model.netfilter import RuleRef
from nettrace.predict.world import View


def answers_with(view: View, mac: str) -> RuleRef | None:
    """Return the rule of a bridge that answers ARP requests with a MAC address itself (ebtables' arpreply)."""
    for table in view.ruleset.tables:
        if table.family != "bridge":
            continue
        for chain in table.chains.values():
            for each in chain.rules:
                told = _ANSWER.search(each.ref.text)
                if told is not None and _same_mac(told[1], mac):
                    return each.ref
    return None


_ANSWER = re.compile(r"-j arpreply\b.*--arpreply-mac ([0-9A-Fa-f:]+)")


def _same_mac(one: str, other: str) -> bool:
    """Compare addresses as people write them: ebtables leaves leading zeros out."""
    return [int(byte, 16) for byte in one.split(":")] == [int(byte, 16) for byte in other.split(":")]
