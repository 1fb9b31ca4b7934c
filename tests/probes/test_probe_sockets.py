"""What happens when the kernel will not give a socket."""

from __future__ import annotations

import errno
import socket

import pytest

from nettrace.errors import PrivilegeError
from nettrace.model.flow import Proto
from nettrace.wire.filter import reject_all
from nettrace.wire.token import make_token
from probes.capture import CaptureError, open_capture
from probes.inject import open_injector
from probes.plan import Injection
from probes.points import capture_spec
from tests.probes import builders


def forbidden(*_args: object, **_kwargs: object) -> socket.socket:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_without_the_capability_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = capture_spec(builders.point("h/lo", ifindex=1), builders.snapshot())
    monkeypatch.setattr("probes.capture.socket.socket", forbidden)
    with pytest.raises(PrivilegeError, match="CAP_NET_RAW"):
        open_capture(spec, reject_all())


def test_a_device_that_is_not_there() -> None:
    spec = capture_spec(builders.point("h/eth9", ifindex=99999), builders.snapshot())
    with pytest.raises(CaptureError, match="eth9"):
        open_capture(spec, reject_all())


@pytest.mark.parametrize("proto", list(Proto))
def test_an_injector_needs_the_capability_too(monkeypatch: pytest.MonkeyPatch, proto: Proto) -> None:
    injection = Injection(netns=1, proto=proto, family=4, dst=builders.SRC, dport=80)
    monkeypatch.setattr("probes.inject.Injector._choose_source", lambda _self: builders.SRC)
    monkeypatch.setattr("probes.inject.socket.socket", forbidden)
    with pytest.raises(PrivilegeError, match="CAP_NET_RAW"):
        open_injector(injection, make_token(builders.SECRET, proto, dports=(80,)))


def test_what_is_refused_before_sending_refuses_every_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_self: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("probes.inject.Injector._choose_source", unreachable)
    injection = Injection(netns=1, proto=Proto.ICMP, family=4, dst=builders.SRC)
    injector = open_injector(injection, make_token(builders.SECRET, Proto.ICMP, count=2))
    try:
        assert [injector.send(number).errno for number in (0, 1)] == [errno.ENETUNREACH] * 2
    finally:
        injector.close()
