"""Tables some rows at a time, so that memory does not grow with them.

A row that cannot be read keeps its place, empty, and is named with the reason. What must not enter:
what columns mean.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from surgeon.data.tables import Table, delimiter_of, named_columns, read_table
from surgeon.errors import DataError
from surgeon.extras import need
from surgeon.graph.reading import misnamed, open_regular, parse_json, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ROWS = 8192
"""Rows of a part, at most."""
BYTES = 32_000_000
"""Bytes of a part of Parquet, about, at most."""

_Row = list[Any] | str
"""Cells, or why they cannot be read."""


def table_parts(path: Path, called: str) -> Iterator[tuple[Table, int, dict[int, str]]]:
    """Read a table in parts; with each, its first row that counts, and why some cannot be read.

    A part begins with a copy of the first row that could be read, which is not asked for again: by
    it the meaning of the columns is told, always the same.

    Args:
        path: CSV, TSV, Parquet or JSON-lines; another table is one part.
        called: what messages call a row, in front of its number.

    Raises:
        DataError: the file cannot be read as what its ending says.
    """
    suffix, where = path.suffix.lower(), shown(str(path))
    try:
        if suffix in _READERS:
            with open_regular(path) as stream:
                wrong = misnamed(stream.peek(1024))
            if wrong is not None:
                raise DataError(f"the table is {wrong[0]}", where=where, remedy=wrong[1])
        if suffix not in _READERS or (suffix == ".json" and not _is_lines(path)):
            yield replace(read_table(path), called=called), 0, {}
            return
        example: list[Any] | None = None
        first = 0
        for names, rows in _READERS[suffix](path):
            readable = (row for row in rows if not isinstance(row, str))
            example = next(readable, None) if example is None else example
            if example is None:
                (reason,) = {row for row in rows[:1] if isinstance(row, str)}
                raise DataError(f"no row can be read: {reason}", where=where, remedy="check them")
            nothing = [None] * len(names)
            cells = [example, *(nothing if isinstance(row, str) else row for row in rows)]
            columns = dict(zip(names, map(list, zip(*cells, strict=True)), strict=True))
            broken = {at: row for at, row in enumerate(rows, 1) if isinstance(row, str)}
            yield Table(columns, where, path.parent, called=called, first=first - 1), 1, broken
            first += len(rows)
    except (OSError, ValueError, csv.Error) as error:
        message = f"the table cannot be read: {error}"
        raise DataError(message, where=where, remedy="check the file and its ending") from None


def _csv_rows(path: Path) -> Iterator[tuple[Sequence[str], list[_Row]]]:
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        tabs = path.suffix.lower() == ".tsv"
        reader = csv.reader(file, delimiter="\t" if tabs else delimiter_of(head), strict=True)
        header = next(reader, [])
        if len(set(header)) != len(header):
            message = f"columns of the same name in {header}"
            raise ValueError(message)

        def rows() -> Iterator[_Row]:
            for row in reader:
                if row and len(row) != len(header):
                    yield f"line {reader.line_num} has {len(row)} fields, the header {len(header)}"
                elif row:
                    yield row

        every = rows()
        while part := list(islice(every, ROWS)):
            yield header, part


def _json_rows(path: Path) -> Iterator[tuple[Sequence[str], list[_Row]]]:
    names: dict[str, None] = {}
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="\n") as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        while part := [_object(number, line) for number, line in islice(lines, ROWS)]:
            if not names:
                for one in part:
                    names.update(dict.fromkeys(one) if isinstance(one, dict) else {})
            rows = [
                one if isinstance(one, str) else [one.get(name) for name in names] for one in part
            ]
            yield list(names), rows


def _object(number: int, line: str) -> dict[str, Any] | str:
    try:
        found = parse_json(line)
    except ValueError as error:
        return f"line {number}: {error}"
    return found if isinstance(found, dict) else f"line {number} is no object"


def _is_lines(path: Path) -> bool:
    """Say whether a `.json` file is not one list."""
    with open_regular(path) as stream:
        return not stream.peek(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _parquet_rows(path: Path) -> Iterator[tuple[Sequence[str], list[_Row]]]:
    parquet, arrow = need("pyarrow.parquet", "reading Parquet"), need("pyarrow", "reading Parquet")
    try:
        with open_regular(path) as stream, parquet.ParquetFile(stream) as file:
            groups = range(file.metadata.num_row_groups)
            held = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            each = max(1, held // max(1, file.metadata.num_rows))
            named = named_columns(file.schema_arrow.metadata)
            for batch in file.iter_batches(batch_size=max(1, min(ROWS, BYTES // each))):
                columns = named(dict(zip(batch.schema.names, batch.columns, strict=True)))
                yield list(columns), [list(row) for row in zip(*columns.values(), strict=True)]
    except arrow.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from None


_READERS: dict[str, Callable[[Path], Iterator[tuple[Sequence[str], list[_Row]]]]] = {
    ".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows, ".pq": _parquet_rows,
    ".jsonl": _json_rows, ".ndjson": _json_rows, ".json": _json_rows,
}  # fmt: skip
