"""The cache of models on disk: found there, or made there, whole or not at all.

One folder per model: the ONNX file, its external data if any, and `record.json` with the hashes of
both. A model is made in a temporary folder beside it and renamed into place, so that a reader
never sees half of one and two makers do not disturb each other: the slower one throws its copy
away. This module decides nothing about what a model is.
"""

from __future__ import annotations

import json
import logging
import shutil
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, cast

from surgeon.errors import CheckError, EnvironmentLacksError
from surgeon.runtime.cache import cache_root
from surgeon_models import index, packages

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto

    from surgeon_models.index import Entry

_log = logging.getLogger("surgeon.models")
_RECORD = "record.json"


def models_folder() -> Path:
    """Return the folder that holds one sub-folder per model."""
    return cache_root() / "models"


def data_folder() -> Path:
    """Return the folder that holds one .npz per data set."""
    return cache_root() / "data"


def get(name: str, *, refresh: bool = False) -> Path:
    """See `surgeon_models.get`."""
    entry = index.find(name)
    folder = models_folder() / name
    if not refresh and _is_whole(folder, entry):
        return folder / f"{name}.onnx"
    building = make_room(models_folder())
    try:
        _make(entry, building / name)
        _place(building / name, folder)
    except OSError as error:
        raise EnvironmentLacksError(
            f"{name} could not be written to the cache: {error}",
            where=str(folder),
            remedy="free some space, or set SURGEON_CACHE to another folder",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder / f"{name}.onnx"


def make_room(parent: Path) -> Path:
    """Make a temporary folder on the same file system as `parent`, so that renames are atomic."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(prefix=".building-", dir=parent))
    except OSError as error:
        raise EnvironmentLacksError(
            f"the cache cannot be written: {error}",
            where=str(parent),
            remedy="set SURGEON_CACHE to a folder you may write to",
        ) from error


def find_by_sha256(digest: str) -> Entry | None:
    """See `surgeon_models.find_by_sha256`."""
    models = index.load().models
    for entry in models.values():
        if digest and digest == entry.sha256:
            return entry
    for path in sorted(models_folder().glob(f"*/{_RECORD}")):
        record = _read_record(path.parent)
        name = path.parent.name
        if record and name in models and record["files"].get(f"{name}.onnx") == digest:
            return models[name]
    return None


def recognise(
    model: ModelProto, digest: str, read: Callable[[TensorProto], NDArray[Any]] | None
) -> Entry | None:
    """See `surgeon_models.recognise`."""
    found = find_by_sha256(digest)
    if found is not None:
        return found
    from surgeon_models import content

    count = content.count_samples(model)
    if not count:  # nor have entries that are known by their sha256 alone
        return None
    alike = [each for each in index.load().models.values() if len(each.weights) == count]
    structure = content.structure_sha256(model) if alike else ""
    return next(
        (
            entry
            for entry in alike
            if entry.structure_sha256 == structure
            and not content.compare_weights(model, entry.weights, read)
        ),
        None,
    )


def clear() -> int:
    """See `surgeon_models.clear`."""
    freed = 0
    for folder in (models_folder(), data_folder()):
        freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / _RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("files"), dict)
    return record if is_record else None


def _is_whole(folder: Path, entry: Entry) -> bool:
    """Whether the folder holds exactly what its record says, by the present recipe."""
    record = _read_record(folder)
    if record is None or record.get("recipe_sha256") != _recipe_sha256(entry):
        return False
    for name, digest in record["files"].items():
        path = folder / name
        if not path.is_file() or packages.sha256_of(path) != digest:
            _log.warning("%s in the cache was changed since it was made; it is made anew", path)
            return False
    return True


def _make(entry: Entry, folder: Path) -> None:
    """Fill a new folder with the model's files and its record."""
    unpacked = folder.parent / "sources"
    for source in entry.sources:
        packages.take(source, unpacked)
    folder.mkdir()
    path = folder / f"{entry.name}.onnx"
    if entry.recipe == "file":
        shutil.move(unpacked / entry.file, path)
    else:
        module, function = entry.recipe.split(":")
        _log.info("building %s (once; it stays in the cache) …", entry.name)
        recipe = cast(
            "Callable[..., None]", getattr(import_module(f"surgeon_models.{module}"), function)
        )
        recipe(unpacked, path, **entry.options)
    _check(entry, path)
    written = {each.name: packages.sha256_of(each) for each in sorted(folder.iterdir())}
    record = {"name": entry.name, "files": written, "recipe_sha256": _recipe_sha256(entry)}
    (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _check(entry: Entry, path: Path) -> None:
    """Compare a made file with the index: weights as numbers, structure with a note.

    Another version of the exporter may write other nodes for the same network, so a different
    structure is a warning; then the weights are those that the recipe itself has compared with the
    package's. Different weights in the same structure are another model, so they are an error.
    """
    if entry.recipe == "file":
        return  # its sha256 was compared when it was taken out of the package
    if entry.sha256:
        different = "its sha256 is another" if packages.sha256_of(path) != entry.sha256 else ""
    else:
        import onnx

        from surgeon_models import content

        model = onnx.load(path)
        if content.structure_sha256(model) != entry.structure_sha256:
            _log.warning(
                "%s has another structure than the indexed one: "
                "this version of the exporter writes other nodes",
                entry.name,
            )
            return
        different = content.compare_weights(model, entry.weights)
    if different:
        raise CheckError(
            f"the weights of the built {entry.name} are not the indexed ones: {different}",
            where=entry.recipe,
            remedy="install the versions named in constraints.txt and get it with refresh",
        )


def _place(made: Path, folder: Path) -> None:
    """Rename a finished folder into place; over an older one, file by file, the record last."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        for path in sorted(made.iterdir(), key=lambda each: each.name == _RECORD):
            path.replace(folder / path.name)


def _recipe_sha256(entry: Entry) -> str:
    """Return the hash of what a model is made of, so that a changed recipe is made anew."""
    sources = [
        {key: value for key, value in vars(source).items() if key != "twins"}
        | {"files": dict(source.files)}
        for source in entry.sources
    ]
    made_of = [sources, entry.recipe, dict(entry.options), entry.structure_sha256, entry.sha256]
    return sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
