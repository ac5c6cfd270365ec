"""Answers written as they come: CSV, JSON-lines or Parquet, one row for each input, in their order.

Rows go to `OUT.partial.ENDING` beside the file and get its name when all are there. What ends a run
before leaves the partial file, closed, so that it can be read. What must not enter: what an answer
says, reading of such files.
"""

from __future__ import annotations

import csv
import errno
import json
import logging
import math
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from surgeon.errors import EnvironmentLacksError, SurgeonError, UsageError
from surgeon.extras import need
from surgeon.graph.files import check_output, write_error
from surgeon.records import as_json

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    Row = Mapping[str, Any]

LOGGER = logging.getLogger(__name__)
_GROUP_ROWS = 16_384
_GROUP_CELLS = 1 << 19  # rows of a group in Parquet are held until it is written


class _Form(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...
    def close(self) -> None: ...


class AnswerFile:
    """A file of answers on its way.

    Attributes:
        path: what it will be called.
        partial: where it is written.
        rows: written so far.
        columns: of a table; empty until the first answer.
    """

    def __init__(
        self, path: str | os.PathLike[str], names: Sequence[str] | None, *, force: bool = False
    ) -> None:
        """Refuse what cannot be written, before any work.

        Args:
            path: its ending says the form.
            names: of the outputs, which columns of a table are called by.
            force: whether a file that is there is replaced.

        Raises:
            UsageError: another ending.
            OutputError: it exists, or cannot be written there.
            EnvironmentLacksError: Parquet without pyarrow.
        """
        self.path = check_output(path, force=force)
        self.partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
        self._names, self._suffix = names, self.path.suffix.lower()
        if self._suffix not in FORMS:
            raise UsageError(
                f"answers are not written as {self._suffix or 'a file without an ending'!r}",
                where=f"--out {self.path}",
                remedy=f"one of {', '.join(FORMS)}",
            )
        if FORMS[self._suffix] is _Parquet:
            need("pyarrow.parquet", "writing Parquet")
        self.rows, self.columns = 0, ()  # type: tuple[int, tuple[str, ...]]
        self._form: _Form | None = None
        self._early: list[Row] = []

    def __enter__(self) -> Self:
        return self

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows: `input`, what is told of it, and `error` where nothing is.

        Columns of a table are those of the first answer; rows without one wait for it in memory.
        """
        self._early += rows
        if self._form is None and all(row.get("error") is not None for row in self._early):
            return
        self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            if kind is None or self._early:
                self._flush()
            if self._form is not None:
                self._form.close()
            if kind is None:
                self.partial.replace(self.path)
        except OSError as failure:
            if kind is None:
                raise self._refused(failure) from failure
        if kind is not None and self.rows:
            kept = f"{self.rows:,} rows that were answered before it ended are in {self.partial}"
            LOGGER.warning(kept)
        elif kind is not None:
            self.partial.unlink(missing_ok=True)

    def _refused(self, failure: OSError) -> SurgeonError:
        if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
            return write_error(failure, self.path)
        return EnvironmentLacksError(
            "the disk is full; the rows so far stay",
            where=str(self.partial),
            remedy="free space, or write elsewhere",
        )

    def _flush(self) -> None:
        try:
            if self._form is None:
                told = next((row for row in self._early if row.get("error") is None), {})
                if FORMS[self._suffix] is not _Lines:
                    self.columns = ("input", *flat(told, self._names), "error")
                self._form = FORMS[self._suffix](self.partial, self.columns)
            rows, self._early = self._early, []
            if self.columns:
                rows = [
                    {"input": row["input"], **flat(row, self._names), "error": row.get("error")}
                    for row in rows
                ]
            self._form.write(rows)
            self.rows += len(rows)
        except OSError as failure:
            raise self._refused(failure) from failure


def flat(row: Row, names: Sequence[str] | None) -> dict[str, Any]:
    """Return what is told of an input as cells; what is null is left out.

    Probabilities are a column of each class, `top` two for each place, `values` one for each
    number; labels of one input are joined by `|`; a vector stays a list.
    """
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if value is None or key in ("input", "error"):
            continue
        if key == "probabilities":
            cells |= _each("probability", value, names)
        elif key == "top":
            for place, one in enumerate(value, 1):
                cells[f"label_{place}"] = one["index"] if one["label"] is None else one["label"]
                cells[f"probability_{place}"] = one["probability"]
        elif key == "labels":
            cells[key] = "|".join(map(str, value))
        elif key == "values":
            cells |= {"value": value[0]} if len(value) == 1 else _each("value", value, None)
        elif key == "interval" and len(value) == 1:
            cells |= {"low": value[0][0], "high": value[0][1]}
        elif key == "embeddings":
            cells |= value
        elif key != "embedding" or row.get("embeddings") is None:
            cells[key] = value
    return cells


def _each(word: str, values: Sequence[Any], names: Sequence[str] | None) -> dict[str, Any]:
    known = names if names is not None and len(names) == len(values) else range(len(values))
    return {f"{word}:{name}": value for name, value in zip(known, values, strict=True)}


class _Csv:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        tab = "\t" if path.suffix.lower() == ".tsv" else ","
        self._writer = csv.writer(self._file, delimiter=tab, lineterminator="\n")
        self._columns = columns
        self._writer.writerow(columns)

    def write(self, rows: Sequence[Row]) -> None:
        self._writer.writerows([_cell(row.get(name)) for name in self._columns] for row in rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _cell(value: Any) -> Any:
    if type(value) is float:
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(as_json(_plain(value)), allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


class _Lines:
    def __init__(self, path: Path, _: Sequence[str]) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", errors="backslashreplace")

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            told = {key: value for key, value in row.items() if value is not None}
            self._file.write(_text(told | {"error": row.get("error")}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Types are those of the first rows; what is neither text, number nor vector is JSON."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._arrow, self._parquet = need("pyarrow", "Parquet"), need("pyarrow.parquet", "Parquet")
        self._path, self._columns = path, columns
        self._held: list[Row] = []
        self._cells = 0
        self._writer: Any = None
        self._schema: Any = None

    def write(self, rows: Sequence[Row]) -> None:
        self._held += rows
        self._cells += sum(np.size(value) for row in rows[:1] for value in row.values()) * len(rows)
        if len(self._held) >= _GROUP_ROWS or self._cells >= _GROUP_CELLS:
            self._put()

    def close(self) -> None:
        self._put()
        self._writer.close()

    def _put(self) -> None:
        if self._schema is None:
            self._schema = self._arrow.schema([(name, self._type(name)) for name in self._columns])
            self._writer = self._parquet.ParquetWriter(self._path, self._schema)
        arrays = [self._array(field) for field in self._schema]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._held, self._cells = [], 0

    def _type(self, name: str) -> Any:
        first = next((row[name] for row in self._held if row.get(name) is not None), "")
        numbers = np.asarray(first) if isinstance(first, list | np.ndarray) else None
        if numbers is not None and numbers.ndim == 1 and numbers.dtype.kind in "fi":
            return self._arrow.list_(self._arrow.from_numpy_dtype(numbers.dtype))
        kinds = {bool: "bool_", int: "int64", float: "float64"}
        return getattr(self._arrow, kinds.get(type(first), "string"))()

    def _array(self, field: Any) -> Any:
        values = [row.get(field.name) for row in self._held]
        if field.type == self._arrow.string():
            values = [one if one is None or isinstance(one, str) else _text(one) for one in values]
            values = [one and one.encode("utf-8", "backslashreplace").decode() for one in values]
        return self._arrow.array(values, field.type)


FORMS: dict[str, type[_Csv | _Lines | _Parquet]] = {
    ".csv": _Csv, ".tsv": _Csv, ".jsonl": _Lines, ".ndjson": _Lines, ".parquet": _Parquet,
    ".pq": _Parquet,
}  # fmt: skip
"""What writes a file of each ending."""
