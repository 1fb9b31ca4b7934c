"""Netfilter: every language a ruleset is listed in, compiled to one form, and a packet walked through it.

    load_ruleset(dumps)                                          every dump of one namespace → Ruleset
    evaluate_hook(ruleset, hook, packet, tracking, context)      one packet through one hook → HookResult

Pure: no sockets, files, environment, clock or randomness. What cannot be evaluated is unknown, never guessed.
"""

from __future__ import annotations

from nettrace.netfilter.context import FibQuery, HookContext, SocketFacts
from nettrace.netfilter.ebtables import parse_ebtables_save
from nettrace.netfilter.evaluate import evaluate_hook
from nettrace.netfilter.ipset import parse_ipset_save
from nettrace.netfilter.iptables import parse_iptables_save
from nettrace.netfilter.load import load_ruleset
from nettrace.netfilter.owner import owner_of
from nettrace.netfilter.ruleset import Ruleset, RulesetBuilder

__all__ = [
    "FibQuery",
    "HookContext",
    "Ruleset",
    "RulesetBuilder",
    "SocketFacts",
    "evaluate_hook",
    "load_ruleset",
    "owner_of",
    "parse_ebtables_save",
    "parse_ipset_save",
    "parse_iptables_save",
]
