"""The JSON Schemas in nettrace/data, generated from the types that the commands print.

`python -m tests.schema` writes them anew; a test compares them with what would be written.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from nettrace.model.base import json_schema

DATA = Path(__file__).parent.parent / "nettrace" / "data"

#: File to the type whose schema it holds, as "module:Type", and the schema's own name.
SCHEMAS: dict[str, tuple[str, str]] = {
    "bundle.schema.json": ("nettrace.bundle.format:Manifest", "nettrace.bundle/1"),
    "eval.schema.json": ("nettrace.model.evaluation:Evaluation", "nettrace.eval/1"),
    "topo.schema.json": ("nettrace.model.topology:Topology", "nettrace.topo/1"),
    "verdict.schema.json": ("nettrace.model.verdict:Verdict", "nettrace.verdict/1"),
}


def schema_text(file: str) -> str:
    """Return the text that the schema file must have; `$id` is a URN, since nothing is served anywhere."""
    place, name = SCHEMAS[file]
    module, _, kind = place.partition(":")
    body = json_schema(getattr(import_module(module), kind))
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{name.replace('.', ':').replace('/', ':')}",
        "title": name,
    }
    return json.dumps(head | body, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for file in SCHEMAS:
        (DATA / file).write_text(schema_text(file))
        print(f"wrote {(DATA / file).relative_to(DATA.parent.parent)}")


if __name__ == "__main__":
    main()
