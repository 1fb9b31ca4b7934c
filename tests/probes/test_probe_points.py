"""One module a role, each with its facts and its document."""

from __future__ import annotations

import importlib

import pytest

from nettrace.model.observe import Way
from nettrace.model.path import Role
from nettrace.model.snapshot import Link
from probes.points import KINDS, capture_spec
from tests.probes import builders


@pytest.mark.parametrize("role", list(Role))
def test_every_role_has_a_module_that_says_what_is_heard(role: Role) -> None:
    module = importlib.import_module(f"probes.points.{role.value}")
    assert KINDS[role] is module.KIND
    assert module.KIND.role is role
    assert module.__doc__
    assert len(module.__doc__) > 120
    assert module.KIND.hears
    ways = {module.KIND.forward, module.KIND.reply}
    assert ways in ({Way.IN, Way.OUT}, {None})


def test_a_capture_knows_the_device_and_its_link_layer() -> None:
    tunnel = Link(ifindex=7, name="tun0", arp_type=65534)
    snapshot = builders.snapshot((builders.H, "h"), links=(tunnel,))
    known = capture_spec(builders.point("h/tun0", ifindex=7), snapshot)
    assert (known.device, known.ifindex, known.arp_type, known.netns) == ("tun0", 7, 65534, builders.H)
    assert capture_spec(builders.point("h/other", ifindex=8), snapshot).arp_type == 1
