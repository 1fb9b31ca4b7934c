"""What a script reads: one document, its schema, and the schema's file."""

from __future__ import annotations

import json
from collections.abc import Callable

import jsonschema
import pytest

from nettrace.model.base import from_json
from nettrace.model.verdict import Verdict
from nettrace.render.json import render_json
from tests.render import samples
from tests.schema import DATA, SCHEMAS, schema_text

EVERY = pytest.mark.parametrize("sample", samples.ALL.values(), ids=samples.ALL.keys())

#: The keys that the contract promises, at the top and in each part.
CONTRACT = {
    "": "schema outcome flow stop hops findings gaps assumptions timing tool host",
    "flow": "src dst proto sport dport size family",
    "stop": "direction segment after before netns device hook",
    "hops": "direction point netns device ifindex predicted observed agreement packet at_ns steps",
    "findings": "code severity title explanation basis at evidence remedy",
    "gaps": "section netns reason",
    "timing": "total_s collect_s probe_s",
}


@EVERY
def test_the_document_validates_and_comes_back_equal(sample: Callable[[], Verdict]) -> None:
    text = render_json(sample())
    jsonschema.Draft202012Validator(
        json.loads((DATA / "verdict.schema.json").read_text()),
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    ).validate(json.loads(text))
    assert from_json(text, Verdict) == sample()


@EVERY
def test_the_document_is_two_spaces_deep_and_harmless(sample: Callable[[], Verdict]) -> None:
    text = render_json(sample())
    assert text.startswith('{\n  "')
    assert text.endswith("}")
    assert all(char.isprintable() or char == "\n" for char in text)


def test_the_document_has_the_keys_of_the_contract() -> None:
    document = json.loads(render_json(samples.filtered()))
    for part, keys in CONTRACT.items():
        found = document[part] if part else document
        assert set(found[0] if isinstance(found, list) else found) == set(keys.split())


@pytest.mark.parametrize("change", [{"outcome": "fine"}, {"hops": [{}]}, {"schema": "nettrace.verdict/2"}])
def test_the_schema_refuses_what_is_no_verdict(change: dict[str, object]) -> None:
    document = json.loads(render_json(samples.filtered())) | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads((DATA / "verdict.schema.json").read_text()))


@pytest.mark.parametrize("file", SCHEMAS)
def test_the_schema_file_is_current(file: str) -> None:
    assert (DATA / file).read_text() == schema_text(file), "run `make schema`"
    jsonschema.Draft202012Validator.check_schema(json.loads((DATA / file).read_text()))


def test_every_schema_file_is_generated() -> None:
    assert {path.name for path in DATA.glob("*.json")} == set(SCHEMAS)
