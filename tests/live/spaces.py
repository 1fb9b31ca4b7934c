"""Namespaces of a test's own, wired by hand, where a lab's host would have too much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from nettrace.lab.system import enter


class Spaces:
    """Network namespaces with one-letter names; a context that takes them away again."""

    def __init__(self, prefix: str, letters: str) -> None:
        self.names = {each: f"{prefix}{os.getpid()}-{each}" for each in letters}

    def __enter__(self) -> Spaces:
        try:
            for space, name in self.names.items():
                subprocess.run(["ip", "netns", "add", name], check=True)
                self.run(space, "ip link set lo up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def run(self, space: str, *commands: str) -> None:
        """Run commands in one of them; `{x}` in a command stands for the name of x."""
        for command in commands:
            words = command.format(**self.names).split()
            subprocess.run([*enter(f"/run/netns/{self.names[space]}"), *words], check=True, capture_output=True)

    def path(self, host: str, src: str, dst: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Ask, on the host, for the way from a namespace to an address; returns the exit code and the answer."""
        nettrace = [sys.executable, "-m", "nettrace", "path", f"netns:{self.names[src]}", dst, "--json", *options]
        argv = [*enter(f"/run/netns/{self.names[host]}"), *nettrace]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout)
