"""A rule is Unknown where what it stands on was not read, and names it; what was read is judged as ever."""

from __future__ import annotations

import pytest

from nettrace.rules import rule_of
from nettrace.rules.base import Clear, Fired, Result, Unknown
from tests.rules.build import Lab, ask, case_of, observed, plain_lab


def checked(code: str, lab: Lab, **probe: str) -> Result:
    """Return what one rule says to app asking 8.8.8.8."""
    rule = rule_of(code)
    assert rule is not None
    wire = observed(**probe) if probe else None
    return rule.check(case_of(lab.snapshot(), ask(lab, "app", "8.8.8.8"), wire=wire))


def needs(result: Result) -> tuple[str, ...]:
    assert isinstance(result, Unknown)
    assert result.reason.startswith("not read: ")
    return result.needs


def test_a_rule_names_the_section_that_it_lacks() -> None:
    lab = plain_lab()
    lab["app"].drop_address("172.17.0.2/16")
    assert isinstance(checked("addr.missing", lab), Fired)
    lab.lose("addresses", "app")
    assert "app/addresses" in needs(checked("addr.missing", lab))


def test_without_devices_on_the_way_no_rule_is_asked() -> None:
    lab = plain_lab()
    lab.lose("links", "host")
    assert needs(checked("route.missing", lab)) == ("host/links",)


def test_what_is_missing_elsewhere_does_not_matter() -> None:
    lab = plain_lab()
    lab["app"].no_route("default")
    lab.lose("routes", "c1")
    lab.lose("links", "c2")
    assert isinstance(checked("route.missing", lab), Fired)


def test_without_the_engine_nothing_is_said_of_what_it_meant() -> None:
    lab = plain_lab()
    lab["app"].no_route("default")
    lab.network("bridge", internal=True)
    assert isinstance(checked("filter.internal-network", lab), Fired)
    lab.lose("intent")
    assert isinstance(checked("filter.internal-network", lab), Clear | Unknown)


@pytest.mark.parametrize(("probe", "fires"), [({}, False), ({"until": "host/docker0"}, True)])
def test_a_stop_that_the_wire_shows_stands_whatever_was_not_read_before_it(probe: dict[str, str], fires: bool) -> None:
    lab = plain_lab()
    lab.host.insert("filter", "-A FORWARD -s 172.17.0.2/32 -j DROP")
    lab.lose("netfilter", "app")
    assert isinstance(checked("filter.rule-drop", lab, **probe), Fired) is fires
