"""Tables: CSV, Parquet, JSON-lines, and data sets of the `datasets` library, as columns.

Every kind becomes `Table`, named columns of Python values; `surgeon.data.read` makes samples of
them. What must not enter: decoding of pictures, checks against the graph.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import DataError, EnvironmentLacksError, UsageError
from surgeon.extras import need
from surgeon.graph.reading import misnamed, open_regular, parse_json, read_text, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Columns = dict[str, Sequence[Any]]

SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson", ".json", ".tar"})
_LABEL_NAMES = ("label", "labels", "class", "target", "category")
_TAG_NAMES = ("tags", "ner_tags", "pos_tags", "spans")
_WORD_NAMES = ("tokens", "words")
_PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img")
_SOUND_NAMES = (*_PATH_NAMES, "audio", "sound", "wav", "clip")
_TEXT_NAMES = ("text", "texts", "sentence", "content", "document", "message", "review", "comment")
_SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Table:
    """Named columns of equal length.

    Attributes:
        columns: Python values; pictures are `bytes`, `{"bytes", "path"}` or a path.
        where: what messages call the table.
        base: the folder that paths are relative to.
        fetch: reads one picture of a column by row, for sources that do not hold them in memory.
        pictures: columns known to hold pictures or sounds.
        split: the data's own split, or None.
        called: what messages call a row, in front of its number.
        first: number of the first row, counted from 0.
        names: of the rows, where they have any.
    """

    columns: Mapping[str, Sequence[Any]]
    where: str
    base: Path
    fetch: Callable[[str, int], Any] | None = None
    pictures: tuple[str, ...] = ()
    split: list[str] | None = None
    called: str = "row"
    first: int = 0
    names: Sequence[str] | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max((len(column) for column in self.columns.values()), default=0)

    def name(self, row: int) -> str:
        """Return what messages call a row."""
        return f"{self.called} {self.first + row + 1}" if self.names is None else self.names[row]


def read_table(path: Path) -> Table:
    """Read a CSV, TSV, Parquet or JSON-lines file (also one JSON list of objects), or shards.

    Raises:
        DataError: the file cannot be read as what its ending says, or holds no row.
    """
    suffix, where = path.suffix.lower(), shown(str(path))
    if suffix == ".tar" or path.is_dir():
        from surgeon.data.shards import read_shards

        return read_shards(path)
    try:
        with open_regular(path) as stream:
            wrong = misnamed(stream.peek(1024))
        if wrong is not None:
            raise DataError(f"the table is {wrong[0]}", where=where, remedy=wrong[1])
        if suffix in {".csv", ".tsv"}:
            columns = _read_csv(path, "\t" if suffix == ".tsv" else None)
        elif suffix in {".parquet", ".pq"}:
            columns = _read_parquet(path)
        else:
            columns = _read_json(path)
    except (OSError, ValueError, csv.Error) as error:
        message = f"the table cannot be read: {error}"
        raise DataError(message, where=where, remedy="check the file and its ending") from None
    table = Table(columns, where, path.parent)
    if table.rows == 0:
        raise DataError("the table has no rows", where=where, remedy="give at least one sample")
    return table


def read_dataset(data: Any, where: str, base: Path) -> Table:
    """Turn a `datasets.Dataset` or `DatasetDict` into a table; pictures stay where they are.

    Raises:
        DataError: splits of different columns, or no rows.
    """
    datasets = need("datasets", "a data set of the hub's library")

    split: list[str] | None = None
    if isinstance(data, dict):
        parts = {name: part for name, part in data.items() if name in _SPLIT_NAMES} or dict(data)
        if len(parts) > 1 and not all(name in _SPLIT_NAMES for name in parts):
            message = f"the data set has parts that are no splits: {', '.join(parts)}"
            raise DataError(message, where=where, remedy="give one of them alone")
        if len({tuple(part.column_names) for part in parts.values()}) > 1:
            message = "the splits of the data set have different columns"
            raise DataError(message, where=where, remedy="give one of them alone")
        if len(parts) > 1:
            split = [_SPLIT_NAMES[name] for name, part in parts.items() for _ in range(len(part))]
        data = datasets.concatenate_datasets(list(parts.values()))
    kinds = (datasets.Image, datasets.Audio)
    pictures = tuple(n for n, f in data.features.items() if isinstance(f, kinds))
    for name in pictures:
        # Bytes, not decoded pictures or sounds: decoding and its failures belong to our readers.
        data = data.cast_column(name, type(data.features[name])(decode=False))
    plain = data.select_columns([name for name in data.column_names if name not in pictures])
    columns: dict[str, Sequence[Any]] = {name: range(len(data)) for name in pictures}
    for name in plain.column_names:
        values = list(plain[name])
        feature = plain.features[name]
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.ClassLabel) and feature.names:
            values = [_class_name(feature, value) for value in values]
        elif isinstance(inner, datasets.ClassLabel) and inner.names:
            values = [value and [_class_name(inner, one) for one in value] for value in values]
        columns[name] = values
    table = Table(
        columns, where, base, lambda name, row: data[row][name], pictures=pictures, split=split
    )
    if table.rows == 0:
        raise DataError("the data set has no rows", where=where, remedy="give at least one sample")
    return table


def load_dataset_folder(path: Path) -> Table:
    """Read a directory written by `save_to_disk`.

    Raises:
        DataError: the directory is broken.
    """
    datasets = need("datasets", "a data set of the hub's library")

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises what its parsers raise
        message = f"the data set directory cannot be read: {_gist(error)}"
        raise DataError(message, where=str(path), remedy="write it again: save_to_disk") from None
    return read_dataset(data, str(path), path)


def load_hub(name: str) -> Table:
    """Read a data set by its hub name, through the `datasets` library and its cache.

    Raises:
        DataError: there is no such data set.
        EnvironmentLacksError: the hub cannot be reached.
    """
    datasets = need("datasets", "a data set of the hub's library")

    try:
        data = datasets.load_dataset(name)
    except (ConnectionError, TimeoutError) as error:
        message = f"the hub cannot be reached: {_gist(error)}"
        remedy = "check the network, or give a local folder"
        raise EnvironmentLacksError(message, where=name, remedy=remedy) from None
    except Exception as error:  # noqa: BLE001 - the library raises what its loaders raise
        message = f"the data set cannot be loaded: {_gist(error)}"
        remedy = "check the name, or give a local file or folder"
        raise DataError(message, where=name, remedy=remedy) from None
    return read_dataset(data, name, Path())


def require(table: Table, column: str) -> None:
    """Refuse the name of a column that is not there.

    Raises:
        UsageError: there is none; tells those that are.
    """
    if column not in table.columns:
        raise UsageError(
            f"the table has no column {column!r}",
            where=table.where,
            remedy=f"it has {', '.join(table.columns)}",
        )


def choose_labels(table: Table, label_column: str | Sequence[str] | None) -> list[str]:
    """Return the names of the label columns: `--label-column`, or the only one of a usual name.

    `a,b` names two, unless one column is called so.

    Raises:
        UsageError: it cannot be told, or a named one is not there, or twice.
    """
    if label_column is not None:
        names = [label_column] if isinstance(label_column, str) else list(map(str, label_column))
        if len(names) == 1 and names[0] not in table.columns and "," in names[0]:
            names = [name.strip() for name in names[0].split(",")]
        for name in names:
            require(table, name)
        if len(set(names)) < len(names) or not names:
            raise UsageError(
                f"{', '.join(names) or 'nothing'} names no columns, each once",
                where="--label-column",
                remedy="name each column once",
            )
        return names
    usual = [
        [name for name in table.columns if name.lower() in known]
        for known in (_LABEL_NAMES, _TAG_NAMES)
    ]
    found = usual[0] or usual[1]
    if len(found) != 1:
        raise UsageError(
            "which column holds the labels is not clear",
            where=f"{table.where}, columns {', '.join(table.columns)}",
            remedy="name it with --label-column",
        )
    return found


def choose_picture(table: Table, without: Sequence[str], what: str = "pictures") -> str:
    """Return the name of the column that holds pictures (or `sounds`), or their paths.

    Raises:
        UsageError: there is none, or more than one.
    """
    names = [name for name in table.columns if name not in without]
    usual = _SOUND_NAMES if what == "sounds" else _PATH_NAMES
    found = [name for name in table.pictures if name not in without]
    if not found:
        found = [name for name in names if name.lower() in usual]
    if not found:
        found = [name for name in names if isinstance(table.columns[name][0], str | bytes | dict)]
    return _only(found, table, what, "path")


def names_texts(table: Table, without: Sequence[str]) -> bool:
    """Say whether a column has a name that is usual for texts."""
    return any(name.lower() in _TEXT_NAMES for name in table.columns if name not in without)


def choose_text(table: Table, without: Sequence[str]) -> str:
    """Return the name of the column that holds texts.

    Raises:
        UsageError: there is none, or more than one.
    """
    names = [name for name in table.columns if name not in without]
    found = [name for name in names if name.lower() in _TEXT_NAMES]
    for kind, known in ((list, _WORD_NAMES), (str, None), (list, None)):
        if not found:
            found = [
                name
                for name in names
                if isinstance(table.columns[name][0], kind)
                and (known is None or name.lower() in known)
            ]
    return _only(found, table, "texts", "text")


def take_split(table: Table, without: Sequence[str]) -> tuple[list[str] | None, str | None]:
    """Return the data's own split, and the name of the column it stands in.

    A column called `split` counts if every value is `train`, `validation` or `test`.
    """
    if table.split is not None:
        return table.split, None
    values = table.columns.get("split")
    if "split" in without or values is None:
        return None, None
    names = [_SPLIT_NAMES.get(str(value)) for value in values]
    known = [name for name in names if name is not None]
    return (known, "split") if len(known) == len(names) else (None, None)


def _only(found: Sequence[str], table: Table, what: str, name: str) -> str:
    if len(found) != 1:
        raise UsageError(
            f"which column holds the {what} is not clear",
            where=f"{table.where}, columns {', '.join(table.columns)}",
            remedy=f"call one column `{name}` and give no other such column",
        )
    return found[0]


def _read_csv(path: Path, delimiter: str | None) -> dict[str, Sequence[Any]]:
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter or delimiter_of(head), strict=True)
        header = next(reader, [])
        if len(set(header)) != len(header):
            message = f"columns of the same name in {header}"
            raise ValueError(message)
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                message = f"line {reader.line_num} has {len(row)} fields, the header {len(header)}"
                raise ValueError(message)
            if row:
                rows.append(row)
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, Sequence[Any]]:
    parquet = need("pyarrow.parquet", "reading Parquet")
    try:
        with open_regular(path) as stream:
            table = parquet.ParquetFile(stream).read()
    except need("pyarrow", "reading Parquet").ArrowException as error:
        raise ValueError(_gist(error)) from None
    named = named_columns(table.schema.metadata)
    return named({name: table.column(name) for name in table.column_names})


def named_columns(metadata: Mapping[bytes, bytes] | None) -> Callable[[Mapping[str, Any]], Columns]:
    """Return what makes lists of Parquet's columns, with the names of classes a schema has."""
    known = _class_names(metadata or {})

    def named(columns: Mapping[str, Any]) -> Columns:
        lists = {name: column.to_pylist() for name, column in columns.items()}
        return {
            name: [_named(value, name, known[name]) for value in values]
            if name in known
            else values
            for name, values in lists.items()
        }

    return named


def delimiter_of(head: str) -> str:
    """Return what divides the fields of a CSV file, by its first line."""
    return ";" if ";" in head and "," not in head else ","


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of classes by column that the `datasets` library leaves in a schema."""
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        inner = {  # a list of labels has the feature of one inside
            column: feature.get("feature", feature) if isinstance(feature, dict) else feature
            for column, feature in features.items()
        }
        return {
            str(column): [str(name) for name in feature["names"]]
            for column, feature in inner.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
            if isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # left by something else


def _named(value: Any, column: str, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, column, names) for one in value]
    if not isinstance(value, int) or value < 0:
        return None if isinstance(value, int) else value  # -1: the library's word for no label
    if value >= len(names):
        message = f"column {column!r} holds class {value}, its schema names {len(names)}"
        raise ValueError(message)
    return names[value]


def _read_json(path: Path) -> dict[str, Sequence[Any]]:
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = parse_json(text)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):  # JSON's only line break
            if line.strip():
                try:
                    rows.append(parse_json(line))
                except ValueError as error:
                    message = f"line {number}: {error}"
                    raise ValueError(message) from None
    if not all(isinstance(row, dict) for row in rows):
        message = "not every row is an object"
        raise ValueError(message)
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return {name: [row.get(name) for row in rows] for name in names}


def _class_name(feature: Any, value: Any) -> Any:
    return None if value is None or value < 0 else feature.int2str(value)


def _gist(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
