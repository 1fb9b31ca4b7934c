"""The house stands as it was drawn: who may import whom, which parts are pure, and what start-up may load.

Read from the source with `ast`; nothing is imported. Imports under `if TYPE_CHECKING` count for the layers (a type
is a dependency as well) but not for start-up.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

VOCABULARY = ("nettrace.model", "nettrace.errors", "nettrace._version")
ENGINE = (
    "nettrace.netfilter",
    "nettrace.layout",
    "nettrace.predict",
    "nettrace.testimony",
    "nettrace.correlate",
    "nettrace.rules",
    "nettrace.diagnose",
)

#: Each part of the house to what it may import besides itself; the longest name that fits a module is its part.
LAYERS: dict[str, tuple[str, ...]] = {
    "nettrace": ("nettrace._version",),
    "nettrace._version": (),
    "nettrace.errors": (),
    "nettrace.model": (),
    "nettrace.netns": ("nettrace.errors",),
    "nettrace.netfilter": VOCABULARY,
    "nettrace.predict": (*VOCABULARY, "nettrace.netfilter"),
    "nettrace.layout": VOCABULARY,
    "nettrace.testimony": (*VOCABULARY, "nettrace.netfilter", "nettrace.predict"),
    "nettrace.correlate": (*VOCABULARY, "nettrace.testimony"),
    "nettrace.rules": (
        *VOCABULARY,
        "nettrace.netfilter",
        "nettrace.layout",
        "nettrace.predict",
        "nettrace.testimony",
        "nettrace.correlate",
    ),
    "nettrace.diagnose": (*VOCABULARY, *ENGINE),
    "nettrace.topology": VOCABULARY,
    "nettrace.stitch": VOCABULARY,
    "nettrace.conversations": VOCABULARY,
    "nettrace.evaluation": (*VOCABULARY, "nettrace.netfilter", "nettrace.predict"),
    "nettrace.render": VOCABULARY,
    "nettrace.wire": (*VOCABULARY, "nettrace.netns"),
    "nettrace.collect": (*VOCABULARY, "nettrace.netns", "nettrace.lab.state"),
    # Engines' answers in a paste are read by the functions that read the API's.
    "nettrace.paste": (*VOCABULARY, "nettrace.netfilter", "nettrace.collect.engines.docker"),
    "nettrace.peer": (*VOCABULARY, "nettrace.wire", "nettrace.netns", "nettrace.collect"),
    "nettrace.bundle": (*VOCABULARY, "nettrace.wire"),
    "nettrace.redacting": (
        *VOCABULARY,
        *ENGINE,
        "nettrace.bundle",
        "nettrace.bundling",
        "nettrace.replay",
        "nettrace.render",
        "nettrace.wire",
    ),
    "nettrace.replay": (*VOCABULARY, *ENGINE, "nettrace.bundle", "nettrace.wire", "probes"),
    "nettrace.recorded": (*VOCABULARY, "nettrace.predict"),
    "nettrace.bundling": (*VOCABULARY, "nettrace.bundle", "nettrace.wire", "nettrace.render"),
    "nettrace.handmade": (*VOCABULARY, *ENGINE, "nettrace.stitch", "nettrace.conversations", "nettrace.wire"),
    "nettrace.lab": (*VOCABULARY, *ENGINE, "nettrace.netns", "nettrace.bundle", "nettrace.replay", "probes"),
    # Composition roots: they put the parts together, and nobody imports them.
    "nettrace.lab.record": ("nettrace", "probes"),
    "nettrace.lab.witnesses": ("nettrace", "probes"),
    "nettrace.commands": ("nettrace", "probes"),
    "nettrace.cli": ("nettrace._version", "nettrace.errors", "nettrace.render.safe"),
    "nettrace.__main__": ("nettrace.cli",),
    "probes": ("nettrace.model", "nettrace.errors", "nettrace.netns", "nettrace.wire"),
}

#: Parts that touch neither files, sockets, environment, processes, clock nor chance.
PURE = (
    "nettrace.model",
    "nettrace.render",
    "nettrace.evaluation",
    "nettrace.topology",
    "nettrace.recorded",
    "nettrace.stitch",
    "nettrace.conversations",
    "nettrace.paste",
    *ENGINE,
)

#: All of the standard library that computes only. What is missing here does, or may do, something to the world.
COMPUTES = {
    *("__future__", "abc", "array", "ast", "base64", "binascii", "bisect", "collections", "contextlib", "copy"),
    *(
        "dataclasses",
        "difflib",
        "enum",
        "errno",
        "fnmatch",
        "functools",
        "graphlib",
        "hashlib",
        "heapq",
        "html",
        "ipaddress",
    ),
    *("itertools", "json", "keyword", "math", "operator", "re", "shlex", "string", "struct", "sys", "textwrap"),
    *("types", "typing", "unicodedata", "zlib"),
    *("msgspec", "tabulate"),
}

#: Of `sys`, what only looks at the program itself.
SYS = {"modules", "intern", "maxsize", "byteorder"}

#: Built-in functions that reach outside, or run text.
REACHES_OUT = {"open", "input", "print", "exec", "eval", "compile", "breakpoint", "__import__"}

#: Libraries that cost more than the answer when they are imported at start-up.
HEAVY = {"scapy", "pyroute2", "docker", "tabulate", "jsonschema", "requests", "urllib3"}


@dataclass(frozen=True)
class Import:
    """One name that a module imports: at its top level, or only when a function runs."""

    name: str
    line: int
    top: bool
    typing_only: bool = False


@dataclass(frozen=True)
class Module:
    """One module's imports, and where it reaches outside by other means."""

    name: str
    imports: tuple[Import, ...]
    reaches: tuple[tuple[str, int], ...]


def read(name: str, source: str, *, package: bool = False) -> Module:
    """Parse a module; `from x import y` yields x.y, so that submodules are told from names by who asks."""
    tree = ast.parse(source)
    return Module(name, tuple(_imports(tree, name, package)), tuple(_reaches(tree)))


def _imports(tree: ast.Module, module: str, package: bool) -> Iterator[Import]:
    def walk(nodes: list[ast.stmt], top: bool, typing_only: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, node.lineno, top, typing_only) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = _absolute(node, module, package)
                yield from (Import(f"{base}.{alias.name}", node.lineno, top, typing_only) for alias in node.names)
            inner = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for field in ("body", "orelse", "finalbody"):
                yield from walk(getattr(node, field, []), inner, typing_only or (guarded and field == "body"))
            for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                yield from walk(part.body, inner, typing_only)

    return walk(tree.body, top=True, typing_only=False)


def _absolute(node: ast.ImportFrom, module: str, package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _reaches(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REACHES_OUT:
            yield f"{node.func.id}()", node.lineno
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sys" and node.attr not in SYS:
            yield f"sys.{node.attr}", node.lineno


def part_of(module: str) -> str | None:
    """Return the part of the house that a module, or a name in one, belongs to."""
    fits = [part for part in LAYERS if module == part or module.startswith(f"{part}.")]
    return max(fits, key=len, default=None)


def ours(name: str) -> bool:
    return name.partition(".")[0] in ("nettrace", "probes")


def within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def violations(module: Module) -> list[str]:
    """Return every breach of the layers, of purity, and of who may touch Scapy, by one module."""
    found = []
    part = part_of(module.name)
    if part is None or (part == "nettrace" and module.name != "nettrace"):
        return [f"{module.name}: belongs to no part of the house; add it to LAYERS with what it may import"]
    for each in module.imports:
        place = f"{module.name}:{each.line}"
        if ours(each.name):
            if not within(each.name, (part, *LAYERS[part])):
                found.append(f"{place}: {part} must not import {each.name}")
            if foreign_rule(module.name, each.name):
                found.append(f"{place}: a rule must not import another rule, {each.name}")
            continue
        library = each.name.partition(".")[0]
        if library == "scapy" and part != "nettrace.wire":
            found.append(f"{place}: only nettrace.wire imports scapy")
        if within(module.name, PURE) and library not in COMPUTES and not each.typing_only:
            found.append(f"{place}: {part} is pure and must not import {each.name}")
        if library in HEAVY and each.top and not each.typing_only and part != "nettrace.wire":
            found.append(f"{place}: import {library} inside the function that needs it")
    if within(module.name, PURE):
        found += [f"{module.name}:{line}: {part} is pure and must not use {what}" for what, line in module.reaches]
    return found


def foreign_rule(module: str, name: str) -> bool:
    """Tell whether a rule (nettrace.rules.<family>.<fault>) imports another; modules named with "_" are shared."""
    me, other = module.split("."), name.split(".")
    if len(me) != 4 or len(other) < 4 or other[:2] != ["nettrace", "rules"]:
        return False
    if not (ROOT / "nettrace" / "rules" / other[2]).is_dir():  # a module beside the families serves all of them
        return False
    return other[:4] != me and not other[3].startswith("_")


def start_up(modules: dict[str, Module]) -> list[str]:
    """Return each way from the command line to a heavy library by top-level imports alone."""
    found = []
    ways: dict[str, tuple[str, ...]] = {
        name: (name,)
        for name in modules
        if name in ("nettrace.cli", "nettrace.__main__") or name.startswith("nettrace.commands.")
    }
    todo = list(ways)
    while todo:
        name = todo.pop()
        for each in modules[name].imports:
            if not each.top or each.typing_only:
                continue
            if each.name.partition(".")[0] in HEAVY:
                found.append(f"{' → '.join(ways[name])}:{each.line} imports {each.name}")
            for target in _loaded(each.name, modules):
                if target not in ways:
                    ways[target] = (*ways[name], target)
                    todo.append(target)
    return found


def _loaded(name: str, modules: dict[str, Module]) -> list[str]:
    """Return our modules that importing a name loads: itself, and every package above it."""
    parts = name.split(".")
    return [above for end in range(1, len(parts) + 1) if (above := ".".join(parts[:end])) in modules]


def house() -> dict[str, Module]:
    """Read every module of both packages."""
    modules = {}
    for package in ("nettrace", "probes"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            modules[name] = read(name, path.read_text(), package=is_package)
    return modules


def test_every_module_keeps_to_its_layer() -> None:
    assert [breach for module in house().values() for breach in violations(module)] == []


def test_start_up_reaches_no_heavy_library() -> None:
    assert start_up(house()) == []


@pytest.mark.parametrize(
    ("name", "source", "breach"),
    [
        ("nettrace.model.x", "from nettrace.errors import InputError", "must not import"),
        ("nettrace.predict.x", "from nettrace.rules import RULES", "must not import"),
        ("nettrace.predict.x", "from ..collect import links", "must not import nettrace.collect"),
        ("nettrace.netfilter.x", "if TYPE_CHECKING:\n    from probes.plan import Plan", "must not import probes"),
        ("nettrace.render.x", "def f():\n    import socket", "is pure"),
        ("nettrace.rules.link.x", "import time", "is pure"),
        ("nettrace.diagnose", "from datetime import datetime", "is pure"),
        ("nettrace.correlate", "def f():\n    with open('x') as g:\n        pass", "must not use open()"),
        ("nettrace.predict.x", "import sys\nsys.stdout.write('x')", "must not use sys.stdout"),
        ("nettrace.rules.link.down", "from nettrace.rules.link.no_carrier import RULE", "another rule"),
        ("nettrace.rules.link.down", "from nettrace.rules.nat.dnat_missing import check", "another rule"),
        ("nettrace.collect.x", "def f():\n    from scapy.layers.l2 import Ether", "only nettrace.wire"),
        ("nettrace.collect.x", "import probes.run", "must not import probes"),
        ("nettrace.collect.x", "try:\n    import docker\nexcept ImportError:\n    pass", "inside the function"),
        ("nettrace.render.x", "class A:\n    from tabulate import tabulate", "inside the function"),
        ("probes.run", "from nettrace.predict import predict", "must not import"),
        ("probes.run", "from nettrace.collect.links import read", "must not import"),
        ("nettrace.somewhere", "", "belongs to no part"),
        ("nettrace.cli", "from nettrace.commands import path", "must not import"),
    ],
)
def test_a_breach_is_found(name: str, source: str, breach: str) -> None:
    found = violations(read(name, source))
    assert len(found) == 1
    assert breach in found[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "nettrace.rules.link.down",
            "from nettrace.rules.case import Case\nfrom nettrace.rules.link._veth import peer",
        ),
        ("nettrace.rules", "from nettrace.rules.link import down, no_carrier"),
        ("nettrace.render.text", "def f():\n    from tabulate import tabulate"),
        ("nettrace.wire.build", "from scapy.layers.inet import IP"),
        ("nettrace.commands.path", "from probes.run import run\nfrom nettrace.collect import collect"),
        ("nettrace.collect.x", "import os, socket\ndef f():\n    import pyroute2"),
        (
            "probes.run",
            "import selectors\nfrom nettrace.model.observe import Observation\nfrom probes.plan import Plan",
        ),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert violations(read(name, source)) == []


def test_a_heavy_library_is_found_behind_other_modules() -> None:
    modules = {
        "nettrace.cli": read("nettrace.cli", "def f():\n    import scapy"),
        "nettrace.commands.path": read("nettrace.commands.path", "from nettrace.wire import build"),
        "nettrace.wire": read("nettrace.wire", "", package=True),
        "nettrace.wire.build": read("nettrace.wire.build", "from scapy.layers.inet import IP"),
        "nettrace.wire.parse": read("nettrace.wire.parse", "from scapy.layers.inet import IP"),
    }
    assert start_up(modules) == ["nettrace.commands.path → nettrace.wire.build:1 imports scapy.layers.inet.IP"]
    lazy = read("nettrace.commands.path", "def f():\n    from nettrace.wire import build")
    assert start_up(modules | {"nettrace.commands.path": lazy}) == []
