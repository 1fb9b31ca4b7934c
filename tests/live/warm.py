"""Answers one question after another in one namespace: each in a fork of a process that has its imports done.

Started by `Asker` inside a lab's host; a whole run of nettrace per question, without the second that imports cost.
Reads a JSON list of arguments a line, writes {"code", "out", "err"} a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nettrace.lab import Lab


@dataclass(frozen=True)
class Said:
    """What one run of nettrace came to."""

    code: int
    out: str
    err: str

    @property
    def verdict(self) -> dict[str, Any]:
        assert self.out, self.err
        decoded: dict[str, Any] = json.loads(self.out)
        return decoded


class Asker:
    """Asks nettrace in a lab's host namespace."""

    def __init__(self, lab: Lab) -> None:
        self.child = subprocess.Popen(
            lab.command([sys.executable, __file__]),
            env=lab.environment({"PYTHONPATH": str(Path(__file__).parents[2])}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, args: Sequence[str]) -> Said:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps(list(args)) + "\n")
        self.child.stdin.flush()
        return Said(**json.loads(self.child.stdout.readline()))

    def ask_and_replay(self, args: Sequence[str]) -> Said:
        """Ask `nettrace path … --json`, and hold the replay of the answer's own bundle to the same answer."""
        with tempfile.TemporaryDirectory() as folder:
            bundle = f"{folder}/bundle.tar.gz"
            said = self.ask([*args, "--bundle", bundle])
            if said.code in (0, 1, 3):
                again = self.ask(["replay", bundle, "--json"])
                assert (again.code, again.out, again.err) == (said.code, said.out, "")
        return said

    def close(self) -> None:
        with self.child:
            assert self.child.stdin is not None
            self.child.stdin.close()


def answer(args: list[str]) -> Said:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                from nettrace.cli import main

                code = main(args)
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return Said(os.waitstatus_to_exitcode(status), out.read(), err.read())


def serve() -> None:
    import docker  # noqa: F401
    import pyroute2  # noqa: F401

    import nettrace.bundling
    import nettrace.collect.engines.texts
    import nettrace.collect.texts
    import nettrace.commands.path
    import nettrace.commands.replay
    import nettrace.diagnose
    import nettrace.render.json
    import nettrace.render.text
    import nettrace.replay
    import nettrace.wire.build
    import probes.driver  # noqa: F401

    nettrace.wire.build.preload()
    for line in sys.stdin:
        said = answer(json.loads(line))
        print(json.dumps({"code": said.code, "out": said.out, "err": said.err}), flush=True)


if __name__ == "__main__":
    serve()
