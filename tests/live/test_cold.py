"""The labs' faults where no neighbour is known yet, as on a host that was just started: ARP and NDP meet them first.

In the labs' own tests the next hops are known from questions before; what stops a packet then may now stop the request
for its next hop already, and must be named all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nettrace.lab import FAULTS, Fault, Lab
from nettrace.model.verdict import Severity
from nettrace.rules import rule_of

from .warm import Asker

pytestmark = pytest.mark.live

#: Faults that are an entry of the neighbour table, or that forgetting the neighbours mends, and one more.
WARM = {
    "learnt-neighbour-wrong",
    "router-remembers-wrong-mac",
    "uplink-answers-no-arp",
    # The request bears the loopback address too, and the router does not answer it: its silence is named.
    "snat-loopback",
}
COLD = [each for each in FAULTS if "none" in each.kinds and each.iptables in (None, "nft") and each.name not in WARM]


@pytest.fixture(scope="module")
def askers() -> Iterator[dict[str, Asker]]:
    made: dict[str, Asker] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.mark.parametrize("fault", COLD, ids=lambda each: each.name)
def test_a_fault_is_named_before_any_neighbour_is_known(plain_lab: Lab, askers: dict[str, Asker], fault: Fault) -> None:
    lab = plain_lab
    if lab.name not in askers:
        askers[lab.name] = Asker(lab)
    lab.prepare(fault.name)
    question = lab.flow_of(fault.name)
    lab.break_fault(fault.name)
    try:
        for where in ("host", "app", "web", "c1", "inet"):
            # Entries that somebody has set stay.
            lab.exec(["sh", "-c", "ip -4 neigh flush all; ip -6 neigh flush all"], where)
        said = askers[lab.name].ask([*question, "--json", "--timeout", "0.5"])
    finally:
        if not fault.standing:
            lab.mend(fault.name)
    verdict = said.verdict
    codes = [finding["code"] for finding in verdict["findings"]]
    known = rule_of(fault.code)
    if known is not None and known.severity is Severity.WARNING:
        assert fault.code in codes
        return
    stop = verdict["stop"] or {}
    got = (codes[0] if codes else None, stop.get("segment"), stop.get("direction"))
    assert got == (fault.code, fault.segment.value, fault.direction.value), codes
