"""A stranger at the command line: what comes out is held to the contract.

Everything runs through `surgeon.cli.main`, nothing is faked; every document is validated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jsonschema
import networks
import numpy as np
import onnx
import pytest
from stranger import listing, paint, vectors

from surgeon import schemas
from surgeon.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """Keep the feature cache of every test to itself."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SURGEON_CACHE", str(folder))
    return folder


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys):
    def run(*arguments: object) -> Done:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def cli(call):
    """Run a verb with --json; return its document, valid and alone on stdout."""

    def run(verb: str, *arguments: object, code: int = 0) -> dict[str, Any]:
        done = call(verb, *arguments, "--json")
        assert done.code == code, done.out[-2000:] + done.err[-2000:]
        assert "Traceback" not in done.err
        document = json.loads(done.out)
        schema = schemas.load("error" if "error" in document else verb)
        jsonschema.Draft202012Validator(schema).validate(document)
        assert (document["schema"], document["verb"]) == (1, verb)
        assert isinstance(document["warnings"], list)
        return document

    return run


@pytest.fixture
def refused(cli, tmp_path):
    """Run a verb that must fail: code, what, where, remedy, and not one file more or less."""

    def run(verb: str, *arguments: object, code: int = 2, say: str = "", kind: str | None = None):
        before = listing(tmp_path)
        document = cli(verb, *arguments, code=code)
        assert listing(tmp_path) == before
        error = document["error"]
        assert error["exit"] == code
        assert error["message"]
        assert error["remedy"], error
        text = " ".join(str(error[key]) for key in ("message", "where", "remedy"))
        assert say.lower() in text.lower(), text
        assert kind is None or error["kind"] == kind, error
        return error

    return run


@pytest.fixture
def net(tmp_path):
    """Write a network of the zoo, by name, and return its path."""

    def write(name: str = "mlp", file: str | None = None, **options: Any) -> Path:
        path = tmp_path / (file or f"{name}.onnx")
        onnx.save(networks.ZOO[name](**options), path)
        return path

    return write


@pytest.fixture
def npz(tmp_path):
    def write(name: str = "data.npz", **arrays: Any) -> Path:
        path = tmp_path / name
        np.savez(path, **(arrays or vectors()))
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures, three classes."""

    def make(name: str = "photos", per_class: int = 12, classes=("ant", "bee", "cat")) -> Path:
        place = tmp_path / name
        for code, label in enumerate(classes):
            for item in range(per_class):
                paint(place / label / f"{item:02}.png", code % 3, 1000 * code + item)
        return place

    return make
