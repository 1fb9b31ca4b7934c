"""A capture of a run among a great many other packets: the same packets of the run are found, however it is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace.errors import InputError
from nettrace.model.flow import Proto
from nettrace.model.observe import Frame, Way
from nettrace.wire.ours import needles_of, read_run
from nettrace.wire.parse import Parsed, parse_frame
from nettrace.wire.pcapng import read_pcapng, write_pcapng
from nettrace.wire.token import RunToken
from tests.wire import samples


def recognised(frames: tuple[Frame, ...], run: RunToken) -> list[tuple[str, Way, int, Parsed]]:
    found = ((each, parse_frame(each.data, run=run)) for each in frames)
    return [(each.point, each.way, each.at_ns, parsed) for each, parsed in found if parsed is not None]


@pytest.mark.parametrize(("proto", "family"), samples.CASES, ids=str)
def test_every_packet_of_a_run_holds_a_needle(proto: Proto, family: int) -> None:
    run = samples.token(proto, family)
    frames = [data for data, _kind in samples.ours(run).values()]
    frames += [samples.arp(), samples.arp(operation=2), samples.ethernet(samples.neighbour(), kind=0x86DD)]
    for data in frames:
        if parse_frame(data, run=run) is not None and (family == 6 or data[12:14] != b"\x86\xdd"):
            assert any(needle in data for needle in needles_of(run)), data.hex()


@pytest.mark.parametrize(("proto", "family"), samples.CASES, ids=str)
@settings(deadline=None)
@given(st.data())
def test_a_searched_capture_holds_what_a_read_one_does(proto: Proto, family: int, data: st.DataObject) -> None:
    run = samples.token(proto, family)
    known = [frame for frame, _kind in samples.ours(run).values()] + [samples.arp()]
    known += list(samples.strangers(run).values())
    frames = [
        Frame(
            point=data.draw(st.sampled_from(["a/b", "c/d"])),
            way=data.draw(st.sampled_from(list(Way))),
            at_ns=number,
            data=data.draw(st.sampled_from(known)),
            length=2000,
        )
        for number in range(data.draw(st.integers(0, 8)))
    ]
    content = write_pcapng(frames)
    read, searched = read_pcapng(content), read_run(content, run, large=0)
    assert searched.interfaces == read.interfaces
    assert recognised(searched.frames, run) == recognised(read.frames, run)


def test_a_searched_capture_that_is_cut_is_refused() -> None:
    run = samples.token(Proto.ICMP, 4)
    frame = Frame(point="a/b", way=Way.IN, at_ns=1, data=samples.ethernet(samples.probe(run)), length=100)
    content = write_pcapng([frame])
    with pytest.raises(InputError, match="ends in the middle"):
        read_run(content[:-3], run, large=0)
    assert len(read_run(content, run, large=0).frames) == 1
    with pytest.raises(InputError, match="more than"):
        read_run(write_pcapng([frame] * 20_001), run, large=0)
