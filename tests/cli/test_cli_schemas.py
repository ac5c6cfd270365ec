"""The schemas are strict enough to fail."""

from __future__ import annotations

import jsonschema
import pytest
from contract_bodies import BODIES

from surgeon import schemas
from surgeon.errors import UnknownNameError
from surgeon.records import as_json


def document(verb):
    frame = {"schema": 1, "verb": verb, "surgeon": "0.1.0", "warnings": []}
    return {**frame, **as_json(BODIES[verb])}  # `inspect` has a `surgeon` of its own


@pytest.mark.parametrize("name", schemas.names())
def test_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(schemas.load(name))


def test_unknown_document():
    with pytest.raises(UnknownNameError, match="evalute"):
        schemas.load("evalute")


def places(value, path=()):
    """Every key of every object in a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


# Objects whose keys are data (a label, an operator, …) or belong to another record.
OPEN = {"opsets", "operators", "metadata", "classes", "preprocess", "head", "stages", "plan"}
OPTIONAL = {"why", "dropped_outputs", "notes"}


@pytest.mark.parametrize("verb", BODIES)
def test_a_missing_key_fails(verb):
    check = jsonschema.Draft202012Validator(schemas.load(verb))
    check.validate(document(verb))
    tried = 0
    for place in places(document(verb)):
        if OPEN & set(place[:-1]) or place[-1] in OPTIONAL:
            continue
        broken = document(verb)
        parent = broken
        for step in place[:-1]:
            parent = parent[step]
        del parent[place[-1]]
        assert not check.is_valid(broken), place
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize("verb", BODIES)
def test_a_wrong_type_fails(verb):
    check = jsonschema.Draft202012Validator(schemas.load(verb))
    free = {"measured", "bound"} if verb == "verify" else set()
    for key in document(verb).keys() - {"notes"} - free:
        assert not check.is_valid({**document(verb), key: object}), key
        assert not check.is_valid({**document(verb), key: [[1.5]]}), key


def test_a_tuned_file_must_have_its_proof():
    assert not jsonschema.Draft202012Validator(schemas.load("finetune")).is_valid(
        {**document("finetune"), "proof": None}
    )
