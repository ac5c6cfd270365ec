"""Opens whatever the user names as data. What must not enter: the formats themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgeon.data import folder, tables
from surgeon.data.folder import PICTURES, SERIES, SOUNDS, TEXTS, Medium
from surgeon.data.media import pictures as images
from surgeon.data.media import series, sounds, texts
from surgeon.data.media.arrays import ArraySamples, from_arrays, numpy_dtype, open_npz
from surgeon.data.media.pictures import ImageSamples
from surgeon.data.media.series import SeriesSamples
from surgeon.data.media.sounds import SoundSamples
from surgeon.data.media.texts import TextSamples
from surgeon.data.samples import Given, Samples
from surgeon.errors import DataError, UsageError
from surgeon.graph.encodings import missing_audio, missing_tokenizer
from surgeon.graph.preprocess import missing_preprocess
from surgeon.graph.reading import shown, what_lies_at
from surgeon.records import AudioEncoding, TextEncoding
from surgeon.tasks.labels import group_text, label_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Source
    from surgeon.records import Encoding, Preprocess, TensorInfo

Kind = Literal["samples", "arrays", "folder", "file", "table", "dataset", "hub"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def data_kind(data: Any) -> Kind:
    """Say what the data is, by its form and, for a path, by what lies there; a path always wins.

    `OWNER/NAME` is a hub name only if nothing local is called OWNER; `hub:NAME` always is.

    Raises:
        DataError: no such file or folder, or a file of an unknown kind.
    """
    if isinstance(data, Samples):
        return "samples"
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
        return "dataset" if saved else "folder"
    if what == "a file":
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return "arrays"
        if suffix in tables.SUFFIXES:
            return "table"
        if any(suffix in medium.suffixes for medium in folder.MEDIA):
            return "file"
        raise DataError(
            f"a file ending in {shown(path.suffix) or 'nothing'!r} is not read as data",
            where=text,
            remedy="give a folder of pictures, texts or sounds, .npz, .csv, .parquet or .jsonl",
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
    if kind in {"folder", "file"}:
        return _medium(Path(data), None, inputs, constants or {}) is PICTURES
    return images.image_input(inputs, constants or {}) is not None


def _medium(
    path: Path,
    rule: Preprocess | Encoding | None,
    inputs: Sequence[TensorInfo],
    constants: Mapping[str, NDArray[Any]],
) -> Medium:
    """Say what the files of a folder are: the rule decides, else the model and what lies there."""
    if rule is not None:
        if isinstance(rule, TextEncoding):
            return TEXTS
        return SOUNDS if isinstance(rule, AudioEncoding) else PICTURES
    if images.image_input(inputs, constants) is not None:
        return PICTURES
    if series.series_input(inputs, constants) is not None and _holds(path, SERIES):
        return SERIES
    if _holds(path, TEXTS) and texts.text_inputs(inputs, constants) is not None:
        raise missing_tokenizer(str(path))
    if _holds(path, SOUNDS):
        raise missing_audio(str(path))
    if path.suffix.lower() == ".npy":
        raise DataError(
            "the file is a single array, not an .npz",
            where=str(path),
            remedy="save it with numpy.savez",
        )
    images.require_image_input(inputs, constants)
    return PICTURES


def _holds(path: Path, medium: Medium) -> bool:
    if path.is_dir():
        return folder.holds(path, medium)
    return path.suffix.lower() in medium.suffixes


def open_data(
    data: Any,
    inputs: Sequence[TensorInfo],
    *,
    preprocess: Preprocess | Encoding | None = None,
    label_column: str | None = None,
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
    elif kind in {"folder", "file"}:
        samples = _open_files(Path(data), inputs, preprocess, constants, labelled)
    else:
        table = _open_table(data, kind)
        given = Given(inputs, (), constants=constants, rule=preprocess)
        samples = _from_table(table, given, label_column, group_column, labelled=labelled)
    if not labelled and kind != "samples":
        samples.failure_bound = 1.0  # each is told about by itself; nothing is learnt from them
    if labelled and samples.labels is None:
        remedy = "add an array called labels, one for each sample"
        where = shown(str(data)[:200]) if kind != "samples" else None
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
    medium = _medium(first, preprocess, inputs, constants or {})
    found: list[Path] = []
    others: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if path.is_dir():
            listing = folder.list_files(path, medium)
            found += listing.paths
            others += listing.others
        else:
            _require_file(path, medium, alone=len(paths) == 1)
            found.append(path)
    names = [shown(str(path)) for path in found]
    given = Given(
        inputs, names, ignored=len(others), sources=found, constants=constants or {},
        rule=preprocess,
    )  # fmt: skip
    samples = _make(medium, given, None)
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
    medium = _medium(path, preprocess, inputs, constants)
    if path.is_file():
        _require_file(path, medium, alone=True)
        listing = folder.Listing(paths=[path])
        labelled = False
    elif labelled:
        listing = folder.list_classes(path, medium)
    else:
        listing = folder.list_files(path, medium)
    names = [shown(str(item)) for item in listing.paths]
    given = Given(
        inputs, names, listing.labels if labelled else None, listing.split,
        ignored=listing.ignored, sources=listing.paths, constants=constants, rule=preprocess,
    )  # fmt: skip
    samples = _make(medium, given, shown(str(path)))
    samples.remarks = tuple(listing.remarks)
    return samples


def _require_file(path: Path, medium: Medium, *, alone: bool) -> None:
    if path.suffix.lower() not in medium.suffixes:
        name = medium.name
        told = f"the file is none of the {name} that are needed here"
        raise DataError(
            told if alone else f"more than one input, not all {name}",
            where=shown(str(path)),
            remedy=f"give {name} ({medium.examples}) and folders of {name}, "
            "or one .npz or table alone",
        )


def _make(medium: Medium, given: Given, where: str | None) -> Samples:
    """Make samples of files, or bytes, of one medium."""
    if medium is SERIES:
        return SeriesSamples(given)
    if isinstance(given.rule, TextEncoding):
        return TextSamples(given)
    if isinstance(given.rule, AudioEncoding):
        return SoundSamples(given)
    if given.rule is None:
        raise missing_preprocess(where)
    return ImageSamples(given)


def _open_table(data: Any, kind: Kind) -> tables.Table:
    if kind == "table":
        return tables.read_table(Path(data))
    if kind == "hub":
        return tables.load_hub(str(data).removeprefix("hub:"))
    if isinstance(data, str | Path):
        return tables.load_dataset_folder(Path(data))
    return tables.read_dataset(data, "data set", Path())


def _from_table(
    table: tables.Table,
    given: Given,
    label_column: str | None,
    group_column: str | None,
    *,
    labelled: bool,
) -> Samples:
    label: str | None = None
    if labelled or label_column is not None:
        label = tables.choose_label(table, label_column)
    else:
        try:
            label = tables.choose_label(table, None)
        except UsageError:
            label = None  # without labels every column may be a value
    labels = None
    if label is not None and (labelled or label_column is not None):
        labels = _texts(table, label, label_text)
    groups = None
    if group_column is not None:
        tables.require(table, group_column)
        groups = _texts(table, group_column, group_text)
    taken = [name for name in (label, group_column) if name is not None]
    split, split_column = tables.take_split(table, taken)
    if split_column is not None:
        taken.append(split_column)
    names = [f"row {row + 1}" for row in range(table.rows)]
    given = replace(given, names=names, labels=labels, split=split, groups=groups)
    medium = _column_medium(table, given.rule, given.inputs, given.constants, taken)
    if medium is None:
        return _values(table, given, taken, labelled=labelled)
    rows = range(table.rows)
    sources: list[Source]
    if medium is TEXTS:
        column = tables.choose_text(table, taken)
        sources = [_text(value) for value in table.columns[column]]
    else:
        column = tables.choose_picture(table, taken, medium.name)
        sources = [_picture(table, column, row) for row in rows]
        names = [_picture_name(table, column, row) for row in rows]
    return _make(medium, replace(given, names=names, sources=sources), table.where)


def _texts(table: tables.Table, column: str, told: Callable[[Any, str], str]) -> list[str]:
    """Return the cells of a column as text, as labels or groups are written."""
    return [
        told(value, f"{table.where}, row {row}, column {column!r}")
        for row, value in enumerate(table.columns[column], 1)
    ]


def _column_medium(
    table: tables.Table,
    rule: Preprocess | Encoding | None,
    inputs: Sequence[TensorInfo],
    constants: Mapping[str, NDArray[Any]],
    taken: Sequence[str],
) -> Medium | None:
    """Say what a table's column holds; None where its columns are the values themselves."""
    if images.image_input(inputs, constants) is not None:
        return PICTURES
    columns = [values for name, values in table.columns.items() if name not in taken]
    words = any(_is_words(values[0]) for values in columns) or bool(table.pictures)
    if isinstance(rule, TextEncoding) and (words or tables.names_texts(table, taken)):
        return TEXTS
    if isinstance(rule, AudioEncoding) and words:
        return SOUNDS
    if words and texts.text_inputs(inputs, constants) is not None:
        raise missing_tokenizer(table.where)
    if table.pictures and sounds.sound_input(inputs, constants) is not None:
        raise missing_audio(table.where)
    return None


def _is_words(value: Any) -> bool:
    """Say whether a value is neither a number nor a list of numbers."""
    if isinstance(value, Mapping | bytes):
        return True
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _text(value: Any) -> bytes:
    """Return a text's bytes; what is no text is empty, fails when it is read and is named there."""
    return value.encode("utf-8", "replace") if isinstance(value, str) else b""


def _picture(table: tables.Table, column: str, row: int) -> Source:
    """Return where a picture is: a path (relative to the table), bytes, or what fetches them."""
    if table.fetch is not None and column in table.pictures:
        fetch = table.fetch

        def read() -> Path | bytes:
            return _resolve(fetch(column, row), table.base)

        return read
    return _resolve(table.columns[column][row], table.base)


def _resolve(value: Any, base: Path) -> Path | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return base / value
    return base / "(no path)"  # fails when it is decoded, and is named there


def _picture_name(table: tables.Table, column: str, row: int) -> str:
    value = table.columns[column][row]
    if isinstance(value, Mapping):
        value = value.get("path")
    if isinstance(value, str) and value and column not in table.pictures:
        return shown(value if "://" in value else str(table.base / value))
    return f"row {row + 1}"


def _values(
    table: tables.Table, given: Given, taken: Sequence[str], *, labelled: bool
) -> ArraySamples:
    """Make samples of a table's numbers for the one input that is not constant.

    Without `labelled`, a row with a cell that is no number is unreadable by itself.
    """
    needed = [info for info in given.inputs if info.name not in given.constants]
    if len(needed) != 1:
        raise DataError(
            f"a table feeds one graph input, the model has {len(needed)}",
            where=", ".join(info.name for info in needed),
            remedy="give an .npz, or the other inputs as constants: --input NAME=VALUE",
        )
    info = needed[0]
    names = [name for name in table.columns if name not in taken]
    lists = [name for name in names if isinstance(table.columns[name][0], list)]
    if info.name in lists or len(lists) == 1:
        name = info.name if info.name in lists else lists[0]
        array = _list_column(table, name, info)
    else:
        array = _number_columns(table, names, info, lenient=not labelled)
    return from_arrays(
        {f"input:{info.name}": array}, given.inputs, given.constants, where=table.where,
        labelled=labelled, named=given,
    )  # fmt: skip


def _list_column(table: tables.Table, name: str, info: TensorInfo) -> NDArray[Any]:
    wanted = numpy_dtype(info.dtype)
    try:
        return np.asarray(table.columns[name], wanted)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"the lists of column {name!r} do not form an array of {info.dtype}: {error}"
        remedy = "lists of equal lengths with numbers only"
        raise DataError(message, where=table.where, remedy=remedy) from None


def _number_columns(
    table: tables.Table, names: list[str], info: TensorInfo, *, lenient: bool
) -> NDArray[Any]:
    if info.shape is not None and len(info.shape) != 2:
        raise DataError(
            f"a table of numbers feeds an input of rank 2, the model takes rank {len(info.shape)}",
            where=f"graph input {info.name!r}",
            remedy="give an .npz, or one column of lists",
        )
    width = None if info.shape is None else info.shape[1 if info.batch_axis in {0, None} else 0]
    if isinstance(width, int) and width != len(names):
        raise DataError(
            f"the table has {len(names)} value columns, the model takes {width}",
            where=f"{table.where}, columns {', '.join(names[:20])}",
            remedy="name the label column with --label-column and drop columns that are no values",
        )
    columns = [_numbers(table, name, lenient=lenient) for name in names]
    stacked = np.stack(columns, 1 if info.batch_axis in {0, None} else 0)
    if numpy_dtype(info.dtype).kind in "iu":
        whole = stacked.astype(np.int64)
        return whole if np.array_equal(whole, stacked) else stacked
    return stacked.astype(numpy_dtype(info.dtype))


def _numbers(table: tables.Table, name: str, *, lenient: bool) -> NDArray[np.float64]:
    numbers = np.empty(table.rows, np.float64)
    for row, value in enumerate(table.columns[name]):
        try:
            numbers[row] = float(value)
        except (TypeError, ValueError):
            numbers[row] = math.nan
        if math.isnan(numbers[row]) and not lenient:
            raise DataError(
                f"{value!r} is not a number",
                where=f"{table.where}, row {row + 1}, column {name!r}",
                remedy="every column but the label's must hold numbers; "
                "name the label column with --label-column",
            )
    return numbers
