"""Opens whatever the user names as data. What must not enter: the formats themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surgeon.data import folder, tables
from surgeon.data.media.arrays import from_arrays, open_npz
from surgeon.data.media.formats import require_reader
from surgeon.data.media.pictures import image_input, require_image_input
from surgeon.data.media.registry import (
    PICTURES,
    SOUNDS,
    code_of,
    examples,
    format_of,
    is_of,
    make,
    media,
    takes,
)  # fmt: skip
from surgeon.data.rows import from_table
from surgeon.data.samples import Given, Samples
from surgeon.errors import DataError, UsageError
from surgeon.graph.reading import shown, what_lies_at
from surgeon.records import Files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from surgeon.records import Encoding, Medium, Preprocess, TensorInfo
    from surgeon.tasks.base import Answers

Kind = Literal["samples", "files", "arrays", "folder", "file", "table", "dataset", "hub"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def data_kind(data: Any) -> Kind:
    """Say what the data is, by its form and, for a path, by what lies there; a path always wins.

    `OWNER/NAME` is a hub name only if nothing local is called OWNER; `hub:NAME` always is.

    Raises:
        DataError: no such file or folder, or a file of an unknown kind.
    """
    if isinstance(data, Samples):
        return "samples"
    if isinstance(data, Files):
        return "files"
    if hasattr(data, "features") and not isinstance(data, str | Path):
        return "dataset"
    if isinstance(data, Mapping):
        is_parts = data and all(hasattr(part, "features") for part in data.values())
        return "dataset" if is_parts else "arrays"
    if not isinstance(data, str | Path):
        message = f"data is a {type(data).__name__}"
        raise DataError(message, remedy="give a path, or a dictionary of arrays")
    path, text = Path(data), shown(str(data))
    what = what_lies_at(path)
    if what == "a folder":
        saved = (path / "dataset_dict.json").is_file() or (
            (path / "dataset_info.json").is_file() and (path / "state.json").is_file()
        )
        return "dataset" if saved else "table" if _holds_shards(path) else "folder"
    if what == "a file":
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return "arrays"
        if suffix in tables.SUFFIXES:
            return "table"
        if any(is_of(path, medium) for medium in media()):
            return "file"
        raise DataError(
            f"a file ending in {shown(path.suffix) or 'nothing'!r} is not read as data",
            where=text,
            remedy="give a folder of pictures, texts or sounds, .npz, .csv, .parquet, .jsonl, .tar",
        )
    if what is not None:
        remedy = "save it to a file first"
        raise DataError(f"this is {what}, not a file or folder", where=text[:200], remedy=remedy)
    if text.startswith("hub:") or (
        isinstance(data, str)
        and _HUB_NAME.fullmatch(text)
        and not text.startswith(".")
        and what_lies_at(text.partition("/")[0]) is None
    ):
        return "hub"
    remedy = "check the path; a data set of the hub is named hub:OWNER/NAME"
    raise DataError("there is no such file or folder", where=text[:200], remedy=remedy)


def _holds_shards(path: Path) -> bool:
    """Say whether all that is in a folder, and not hidden, are shards."""
    try:
        seen = [one.suffix for one in path.iterdir() if not one.name.startswith(".")]
    except OSError:
        return False
    return bool(seen) and set(seen) == {".tar"}


def has_columns(data: Any) -> bool:
    """Say whether the data are a table, so that a column of it can be named."""
    return data_kind(data) in {"table", "dataset", "hub"}


def needs_preprocess(
    data: Any, inputs: Sequence[TensorInfo], constants: Mapping[str, NDArray[Any]] | None = None
) -> bool:
    """Say whether the data are pictures, so that a preprocessing is needed to open them.

    Raises:
        DataError: files that the model does not take.
        UsageError: texts or sounds, which need `--tokenizer` or `--audio`.
    """
    kind = data_kind(data)
    if kind in {"samples", "arrays"}:
        return False
    if kind in {"folder", "file", "files"}:
        place = data.paths[0] if kind == "files" else Path(data)
        return medium_of(place, None, inputs, constants or {}) is PICTURES
    return image_input(inputs, constants or {}) is not None


def medium_of(
    path: Path,
    rule: Preprocess | Encoding | None,
    inputs: Sequence[TensorInfo],
    constants: Mapping[str, NDArray[Any]],
) -> Medium:
    """Say what the files of a folder are: the rule decides, else the model and what lies there."""
    if rule is not None:
        ruled = [one for one in media() if isinstance(rule, code_of(one).rule or ())]
        return next((one for one in ruled[:-1] if _holds(path, one)), ruled[-1])
    for medium in media():
        code = code_of(medium)
        if not takes(medium, inputs, constants):
            continue
        if medium is PICTURES:
            return medium
        if _holds(path, medium):
            if code.rule is not None:
                raise code.missing(str(path))
            return medium
    if _holds(path, SOUNDS):
        raise code_of(SOUNDS).missing(str(path))
    if path.suffix.lower() == ".npy":
        raise DataError(
            "the file is a single array, not an .npz",
            where=str(path),
            remedy="save it with numpy.savez",
        )
    require_image_input(inputs, constants)
    return PICTURES


def _holds(path: Path, medium: Medium) -> bool:
    return folder.holds(path, medium) if path.is_dir() else is_of(path, medium)


def open_data(
    data: Any,
    inputs: Sequence[TensorInfo],
    *,
    preprocess: Preprocess | Encoding | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
    constants: Mapping[str, NDArray[Any]] | None = None,
    labelled: bool = True,
) -> Samples:
    """Open samples for a graph's inputs.

    Args:
        data: a folder with one sub-folder per class, of pictures, texts, sounds or series; a CSV,
            Parquet or JSON-lines table; a directory or hub name of the `datasets` library, or its
            object; an `.npz`, or arrays in the same convention; or samples that are open already.
        inputs: the graph inputs that are not initializers, in order.
        preprocess: how pictures, texts or sounds become values; needed for them.
        label_column: name of a table's label column.
        group_column: name of a table's column that says which samples belong together.
        constants: values of `parse_constants`, the same for every sample.
        labelled: whether labels are needed; without, a folder may hold files at any depth.

    Raises:
        DataError: no data, labels missing, or data that do not fit the inputs.
        UsageError: a column or the preprocessing must be named.
    """
    constants = dict(constants or {})
    kind = data_kind(data)
    if group_column is not None and not has_columns(data):
        raise UsageError(
            f"only a table has a column {group_column!r}",
            where="--group-column",
            remedy="leave it out: arrays and .npz name groups by an array called groups"
            if kind == "arrays"
            else "give a table with a column of paths and one of groups",
        )
    if kind == "samples":
        samples: Samples = data
    elif kind == "arrays":
        if isinstance(data, Mapping):
            samples = from_arrays(data, inputs, constants, labelled=labelled)
        else:
            samples = open_npz(Path(data), inputs, constants, labelled=labelled)
    elif kind == "files":
        samples = _open_listed(data, inputs, preprocess, constants)
    elif kind in {"folder", "file"}:
        samples = _open_files(Path(data), inputs, preprocess, constants, labelled)
    else:
        table = _open_table(data, kind)
        given = Given(inputs, (), constants=constants, rule=preprocess)
        samples = from_table(table, given, label_column, group_column, labelled=labelled)
    if not labelled and kind != "samples":
        samples.failure_bound = 1.0  # each is told about by itself; nothing is learnt from them
    if labelled and samples.answers is None:
        remedy = "add an array called labels, one for each sample"
        where = shown(str(data)) if isinstance(data, str | Path) else "data"
        raise DataError("the data has no labels", where=where, remedy=remedy)
    return samples


def open_inputs(
    paths: Sequence[str | Path],
    inputs: Sequence[TensorInfo],
    *,
    preprocess: Preprocess | Encoding | None = None,
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> Samples:
    """Open what `predict` is given: files and folders of one medium, or one file of samples.

    Raises:
        DataError: nothing given, a path that does not exist, or a mixture that makes no sense.
    """
    if not paths:
        raise DataError("there is nothing to predict", remedy="give pictures, a folder or an .npz")
    kinds = [data_kind(path) for path in paths]
    single = [kind in {"folder", "file"} for kind in kinds]
    if len(paths) == 1 and not single[0]:
        return open_data(
            paths[0], inputs, preprocess=preprocess, constants=constants, labelled=False
        )
    first = Path(paths[single.index(True)]) if any(single) else Path(paths[0])
    medium = medium_of(first, preprocess, inputs, constants or {})
    found: list[Path] = []
    others: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if path.is_dir():
            listing = folder.list_files(path, medium)
            found += listing.paths
            others += listing.others
        else:
            require_file(path, medium, alone=len(paths) == 1)
            found.append(path)
    names = [shown(str(path)) for path in found]
    given = Given(
        inputs, names, ignored=len(others), sources=found, constants=constants or {},
        rule=preprocess,
    )  # fmt: skip
    samples = make(medium, given, None)
    samples.failure_bound = 1.0
    samples.passed_over = tuple((shown(str(path)), reason) for path, reason in others)
    return samples


def _open_files(
    path: Path,
    inputs: Sequence[TensorInfo],
    preprocess: Preprocess | Encoding | None,
    constants: Mapping[str, NDArray[Any]],
    labelled: bool,
) -> Samples:
    medium = medium_of(path, preprocess, inputs, constants)
    if path.is_file():
        require_file(path, medium, alone=True)
        listing = folder.Listing(paths=[path])
        labelled = False
    elif labelled:
        listing = (folder.list_masks(path) if medium is PICTURES else None) or folder.list_classes(
            path, medium
        )
    else:
        listing = folder.list_files(path, medium)
    names = [shown(str(item)) for item in listing.paths]
    answers: Answers | None = listing.labels if labelled else None
    if listing.masks:
        from surgeon.data.media.masks import Masks

        answers = Masks(listing.masks, [shown(str(mask)) for mask in listing.masks])
    given = Given(
        inputs, names, answers, listing.split, where=shown(str(path)),
        ignored=listing.ignored, sources=listing.paths, constants=constants, rule=preprocess,
    )  # fmt: skip
    samples = make(medium, given, shown(str(path)))
    samples.remarks = tuple(listing.remarks)
    return samples


def _open_listed(
    data: Files,
    inputs: Sequence[TensorInfo],
    preprocess: Preprocess | Encoding | None,
    constants: Mapping[str, NDArray[Any]],
) -> Samples:
    """Open files whose answers a plugin found."""
    where = data.answers_at
    given = Given(
        inputs, [shown(str(one)) for one in data.paths], data.answers, data.split,
        sources=data.paths, constants=constants, rule=preprocess,
        answer_at=where.__getitem__ if where else None,
    )  # fmt: skip
    samples = make(medium_of(data.paths[0], preprocess, inputs, constants), given, given.names[0])
    samples.remarks, samples.task = data.remarks, data.task
    return samples


def require_file(path: Path, medium: Medium, *, alone: bool) -> None:
    """Refuse a file of another medium, or of a format that cannot be read here.

    Raises:
        DataError: it is of another one.
        EnvironmentLacksError: what reads it is not installed.
    """
    form = format_of(path, medium)
    if form is not None:
        require_reader(form)
    if not is_of(path, medium):
        name = medium.name
        told = f"the file is none of the {name} that are needed here"
        raise DataError(
            told if alone else f"more than one input, not all {name}",
            where=shown(str(path)),
            remedy=f"give {name} ({examples(medium)}) and folders of {name}, "
            "or one .npz or table alone",
        )


def _open_table(data: Any, kind: Kind) -> tables.Table:
    if kind == "table":
        return tables.read_table(Path(data))
    if kind == "hub":
        return tables.load_hub(str(data).removeprefix("hub:"))
    if isinstance(data, str | Path):
        return tables.load_dataset_folder(Path(data))
    return tables.read_dataset(data, "data set", Path())
