"""Record cases: ask on a real lab, and keep everything that the answer stands on in `fixtures/cases/<slug>/`.

`python -m nettrace.lab.record [SLUG…]` records all cases again, each in the lab that it names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from nettrace.model.base import to_json
from nettrace.replay import Run

if TYPE_CHECKING:
    from nettrace.commands.path import Answer

CASES = Path("fixtures/cases")


def write_case(folder: Path, answer: Answer) -> None:
    """Write a live answer as a case; what was in the folder before is replaced, but for its case.toml."""
    from nettrace.commands.path import arp_types
    from nettrace.render.json import render_json
    from nettrace.render.text import render_text
    from nettrace.wire.pcapng import write_pcapng

    folder.mkdir(parents=True, exist_ok=True)
    observation = answer.observation
    run = Run(
        flow=answer.trace.flow,
        observation=replace(observation, sightings=(), frames=()) if observation is not None else None,
        dports=answer.dports,
        tunnels=answer.tunnels,
        arp_types=arp_types(answer),
    )
    frames = observation.frames if observation is not None else ()
    (folder / "run.json").write_bytes(to_json(run, indent=1))
    (folder / "before.json").write_bytes(to_json(answer.before, indent=1))
    if answer.after is not None:
        (folder / "after.json").write_bytes(to_json(answer.after, indent=1))
    (folder / "capture.pcapng").write_bytes(write_pcapng(frames, arp_types=arp_types(answer)))
    (folder / "verdict.json").write_text(render_json(answer.verdict) + "\n")
    (folder / "verdict.txt").write_text(render_text(answer.verdict, color=False, width=100) + "\n")
