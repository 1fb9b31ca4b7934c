"""Fuzz what reads bundles with atheris: anything but an answer or a NettraceError is a finding.

As tests.fuzz.parsers says, atheris wants an environment of its own; then, one target at a time:

    /tmp/fuzzvenv/bin/python -m tests.fuzz.bundles archive -max_total_time=300 -max_len=65536
    /tmp/fuzzvenv/bin/python -m tests.fuzz.bundles case -max_total_time=300 -max_len=400000 -timeout=60

Targets: `archive`, the bytes of a file (as they are, or compressed first, so that the changes reach the tar within);
`case`, a run and its snapshots, from JSON through prediction and diagnosis to the text, and a new question on the same
host. An input that breaks one belongs into tests/bundle/cases/, named TARGET-what.json (or .bin), where a test runs it
for good.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["TARGETS", "case_seed", "main", "mutate_case", "read"]

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
#: Recorded cases that, together, lead through most of the model.
SEEDS = ("healthy-peer", "masquerade-missing", "rule-drop-nft", "port-without-master", "mtu-mismatch", "rp-filter")


def _archive(data: bytes) -> None:
    from nettrace.bundle.archive import read_bundle

    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        file.write(data if data[:2] == b"\x1f\x8b" else gzip.compress(data, 1))
        file.flush()
        read_bundle(Path(file.name))


def _case(data: bytes) -> None:
    from nettrace.bundle.format import AFTER, BEFORE, CAPTURE, RUN, Bundle, Manifest
    from nettrace.commands.path import ask
    from nettrace.commands.replay import answer_again, answer_anew
    from nettrace.errors import InputError, NettraceError
    from nettrace.render.json import render_json
    from nettrace.render.text import render_text

    try:
        parts = json.loads(data)
        members = {
            RUN: json.dumps(parts["run"]).encode(),
            BEFORE: json.dumps(parts["before"]).encode(),
            CAPTURE: (CASES / parts["capture"] / CAPTURE).read_bytes(),
            **({AFTER: json.dumps(parts["after"]).encode()} if parts.get("after") else {}),
        }
        src, dst, *port = parts["question"]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise InputError("not an input of this target") from error
    bundle = Bundle(manifest=Manifest(), members=members)
    for answer in (
        lambda: answer_again(bundle),
        lambda: answer_anew(
            bundle, ask(str(src), str(dst), proto="tcp" if port else "icmp", port=80 if port else None)
        ),
    ):
        try:
            verdict = answer()
        except NettraceError:
            continue
        render_json(verdict)
        render_text(verdict, color=True, width=80)


TARGETS: dict[str, Callable[[bytes], None]] = {"archive": _archive, "case": _case}


def read(target: str, data: bytes) -> bool:
    """Give an input to a target; return whether it was taken or refused. Any other exception is a finding."""
    from nettrace.errors import NettraceError

    try:
        TARGETS[target](data)
    except NettraceError:
        return False
    return True


def case_seed(slug: str) -> bytes:
    """Return a recorded case as one JSON document, without the many sysctls and counters that change little."""
    folder = CASES / slug
    parts: dict[str, Any] = {"capture": slug, "question": ["app", "8.8.8.8"]}
    for name in ("run", "before", "after"):
        parts[name] = json.loads((folder / f"{name}.json").read_bytes())
    for name in ("before", "after"):
        for namespace in parts[name]["namespaces"]:
            kept = ("ip_forward", "rp_filter", "bridge-nf", "forwarding", "arp_ignore", "disable_ipv6")
            values = namespace["sysctls"].get("values", {})
            namespace["sysctls"]["values"] = {key: values[key] for key in values if any(word in key for word in kept)}
            namespace["counters"]["values"] = {}
    return json.dumps(parts).encode()


_INTEGERS = (0, 1, -1, 2, 4, 6, 255, 254, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
_TEXTS = ("", "x", "\x1b[31m", "0.0.0.0/0", "::/0", "10.0.0.1", "fe80::1", "0.0.0.0", "00:00:00:00:00:00", "lo", "host")


def mutate_case(document: Any, rng: random.Random) -> Any:
    """Change one place of a case so that it mostly stays well-typed: exchange, double, drop, move."""
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        node = pending.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        pending += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = rng.choice(places)
    old = node[key]
    alike = [there[at] for there, at in places if at == key and type(there) is type(node)]
    action = rng.randrange(6)
    if isinstance(old, bool):
        node[key] = not old
    elif isinstance(node, list) and action == 0:
        del node[key]
    elif isinstance(node, list) and action == 1:
        node.insert(key, json.loads(json.dumps(old)))
    elif action <= 3 and alike:
        node[key] = json.loads(json.dumps(rng.choice(alike)))
    elif isinstance(old, int):
        node[key] = rng.choice((*_INTEGERS, *(value for value in alike if isinstance(value, int))))
    elif isinstance(old, str):
        node[key] = rng.choice((*_TEXTS, *(value for value in alike if isinstance(value, str))))
    elif isinstance(old, list):
        node[key] = []
    else:
        node[key] = None
    return document


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = json.loads(case_seed(rng.choice(SEEDS)))
    for _ in range(rng.randint(1, 6)):
        document = mutate_case(document, rng)
    changed = json.dumps(document).encode()
    return changed if len(changed) <= max_size else case_seed(rng.choice(SEEDS))


def _archive_seeds() -> list[bytes]:
    from nettrace.bundle.archive import _pack, read_bundle

    packed = _pack(read_bundle(CASES / "container-not-running"))
    return [packed, gzip.decompress(packed)]


def main() -> None:
    """Fuzz the target that the first argument names, with the options of libFuzzer after it."""
    # Not a dependency, and without type information.
    atheris = import_module("atheris")
    target, options = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(
        include=["nettrace.bundle", "nettrace.predict", "nettrace.rules", "nettrace.correlate", "nettrace.diagnose"]
    ):
        seeds = [case_seed(slug) for slug in SEEDS] if target == "case" else _archive_seeds()
        read(target, seeds[0])
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            Path(folder, f"seed{number}").write_bytes(seed)
        mutator = {"custom_mutator": _mutate} if target == "case" else {}
        atheris.Setup([sys.argv[0], *options, folder], lambda data: read(target, data), **mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
