"""Opens whatever the user names as data. What must not enter: the formats themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
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
from surgeon.data.samples import Samples
from surgeon.errors import DataError, UsageError
from surgeon.graph.encodings import missing_audio, missing_tokenizer
from surgeon.graph.preprocess import missing_preprocess
from surgeon.graph.reading import shown, what_lies_at
from surgeon.records import AudioEncoding, TextEncoding
from surgeon.tasks.labels import label_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from surgeon.data.sources import Source
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
        constants: values of `parse_constants`, the same for every sample.
        labelled: whether labels are needed; without, a folder may hold files at any depth.

    Raises:
        DataError: no data, labels missing, or data that do not fit the inputs.
        UsageError: a column or the preprocessing must be named.
    """
    constants = dict(constants or {})
    kind = data_kind(data)
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
        samples = _from_table(table, inputs, preprocess, label_column, constants, labelled)
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
    samples = _make(
        medium, found, names, inputs, preprocess, constants, None, ignored=len(others)
    )  # fmt: skip
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
    labels = listing.labels if labelled else None
    samples = _make(
        medium, listing.paths, names, inputs, preprocess, constants, labels,
        split=listing.split, ignored=listing.ignored, where=shown(str(path)),
    )  # fmt: skip
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


def _make(
    medium: Medium,
    sources: Sequence[Source],
    names: Sequence[str],
    inputs: Sequence[TensorInfo],
    rule: Preprocess | Encoding | None,
    constants: Mapping[str, NDArray[Any]] | None,
    labels: Sequence[str] | None,
    *,
    split: Sequence[str] | None = None,
    ignored: int = 0,
    where: str | None = None,
) -> Samples:
    """Make samples of files, or bytes, of one medium."""
    given: dict[str, Any] = {
        "inputs": inputs, "sources": sources, "names": names, "labels": labels,
        "constants": constants, "split": split, "ignored": ignored,
    }  # fmt: skip
    if medium is SERIES:
        return SeriesSamples(**given)
    if isinstance(rule, TextEncoding):
        return TextSamples(**given, encoding=rule)
    if isinstance(rule, AudioEncoding):
        return SoundSamples(**given, encoding=rule)
    if rule is None:
        raise missing_preprocess(where)
    return ImageSamples(**given, preprocess=rule)


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
    inputs: Sequence[TensorInfo],
    preprocess: Preprocess | Encoding | None,
    label_column: str | None,
    constants: Mapping[str, NDArray[Any]],
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
        labels = [
            label_text(value, f"{table.where}, row {row}, column {label!r}")
            for row, value in enumerate(table.columns[label], 1)
        ]
    taken = [] if label is None else [label]
    split, split_column = tables.take_split(table, taken)
    if split_column is not None:
        taken.append(split_column)
    rows = range(table.rows)
    medium = _column_medium(table, preprocess, inputs, constants, taken)
    if medium is None:
        return _values(table, inputs, constants, taken, labels, split, labelled=labelled)
    sources: list[Source]
    if medium is TEXTS:
        column = tables.choose_text(table, taken)
        sources = [_text(value) for value in table.columns[column]]
        names = [f"row {row + 1}" for row in rows]
    else:
        column = tables.choose_picture(table, taken, medium.name)
        sources = [_picture(table, column, row) for row in rows]
        names = [_picture_name(table, column, row) for row in rows]
    return _make(
        medium, sources, names, inputs, preprocess, constants, labels,
        split=split, where=table.where,
    )  # fmt: skip


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
    table: tables.Table,
    inputs: Sequence[TensorInfo],
    constants: Mapping[str, NDArray[Any]],
    taken: Sequence[str],
    labels: list[str] | None,
    split: list[str] | None,
    *,
    labelled: bool,
) -> ArraySamples:
    """Make samples of a table's numbers for the one input that is not constant.

    Without `labelled`, a row with a cell that is no number is unreadable by itself.
    """
    needed = [info for info in inputs if info.name not in constants]
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
    arrays: dict[str, Any] = {f"input:{info.name}": array}
    if split is not None:
        arrays["split"] = np.array(split)
    samples = from_arrays(arrays, inputs, constants, where=table.where, labelled=labelled)
    return ArraySamples(
        inputs=inputs,
        arrays=samples._arrays,  # noqa: SLF001 - the same room: only names and labels are added
        names=[f"row {row + 1}" for row in range(table.rows)],
        labels=labels,
        split=split,
        shared=samples._shared,  # noqa: SLF001
        broken=samples._broken,  # noqa: SLF001
    )


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
