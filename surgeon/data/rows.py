"""Makes samples of the rows of a table. What must not enter: reading of tables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data import tables
from surgeon.data.elements import numpy_dtype
from surgeon.data.media.arrays import ArraySamples, from_arrays
from surgeon.data.media.masks import Masks
from surgeon.data.media.registry import (
    PICTURES,
    SOUNDS,
    TEXTS,
    code_of,
    is_of,
    make,
    media,
    takes,
)  # fmt: skip
from surgeon.errors import DataError, UsageError
from surgeon.graph.reading import shown
from surgeon.records import TextEncoding
from surgeon.tasks.labels import group_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Given, Samples, Source
    from surgeon.records import Medium, TensorInfo
    from surgeon.tasks.base import Answers


def from_table(
    table: tables.Table,
    given: Given,
    label_column: str | Sequence[str] | None,
    group_column: str | None,
    *,
    labelled: bool,
) -> Samples:
    """Make samples of a table: of the column that holds a medium, or of its numbers.

    Raises:
        UsageError: a column must be named.
        DataError: cells that are no labels, no groups or no numbers.
    """
    named: list[str] = []
    if labelled or label_column is not None:
        named = tables.choose_labels(table, label_column)
    else:
        with contextlib.suppress(UsageError):  # without labels every column may be a value
            named = tables.choose_labels(table, None)
    answers: Answers | None = None
    if labelled or label_column is not None:
        columns = {name: table.columns[name] for name in named}
        answers = columns if len(named) > 1 else columns[named[0]]
    label = ", ".join(map(repr, named))
    word = "column" if len(named) < 2 else "columns"
    groups = None
    if group_column is not None:
        tables.require(table, group_column)
        groups = _texts(table, group_column)
    taken = [*named, *([] if group_column is None else [group_column])]
    split, split_column = tables.take_split(table, taken)
    if split_column is not None:
        taken.append(split_column)
    names = [table.name(row) for row in range(table.rows)]
    given = replace(
        given, names=names, answers=answers, split=split, groups=groups,
        where=f"{table.where}, {word} {label}",
        answer_at=lambda index: (
            f"{table.where}, {table.name(index)}" + (f", column {label}" if len(named) == 1 else "")
        ),
    )  # fmt: skip
    medium = _column_medium(table, given, taken)
    if medium is None:
        return _values(table, given, taken, labelled=labelled)
    return make(medium, _of_medium(table, given, medium, named, taken), table.where)


def _of_medium(
    table: tables.Table, given: Given, medium: Medium, named: Sequence[str], taken: Sequence[str]
) -> Given:
    """Return what samples are made of with the content of a table's column.

    Args:
        table: of the samples.
        given: what is known of them.
        medium: of the content.
        named: columns of answers.
        taken: columns that hold no content.
    """
    if medium is TEXTS:
        values = table.columns[tables.choose_text(table, taken)]
        if any(_is_sentence(value) for value in values):
            given = replace(given, words=[_words(value) for value in values])
            values = [" ".join(words) for words in given.words or ()]
        return replace(given, sources=[_text(value) for value in values])
    column = tables.choose_picture(table, taken, medium.name)
    if given.answers is not None and len(named) == 1 and _names_pictures(table, named[0]):
        given = replace(given, answers=Masks(*_pictures(table, named[0])))
    sources, names = _pictures(table, column)
    return replace(given, names=names, sources=sources)


def _pictures(table: tables.Table, column: str) -> tuple[list[Source], list[str]]:
    """Return where the pictures of a column are, and what messages call them."""
    rows = range(table.rows)
    return (
        [_picture(table, column, row) for row in rows],
        [_picture_name(table, column, row) for row in rows],
    )


def _texts(table: tables.Table, column: str) -> list[str]:
    """Return the cells of a column as names of groups."""
    return [
        group_text(value, f"{table.where}, row {row}, column {column!r}")
        for row, value in enumerate(table.columns[column], 1)
    ]


def _column_medium(table: tables.Table, given: Given, taken: Sequence[str]) -> Medium | None:
    """Say what a table's column holds; None where its columns are the values themselves."""
    inputs, constants = given.inputs, given.constants
    if code_of(PICTURES).takes(inputs, constants):
        return PICTURES
    columns = [values for name, values in table.columns.items() if name not in taken]
    words = any(_is_words(values[0]) for values in columns) or bool(table.pictures)
    for medium in media():
        if _names_files(columns, medium) and takes(medium, inputs, constants):
            return medium
    if not words and not (
        isinstance(given.rule, TextEncoding) and tables.names_texts(table, taken)
    ):
        return None
    for medium in media():
        rule = code_of(medium).rule
        if rule is not None and isinstance(given.rule, rule) and medium is not PICTURES:
            return medium
    for medium, told in ((TEXTS, words), (SOUNDS, bool(table.pictures))):
        if told and code_of(medium).takes(inputs, constants):
            raise code_of(medium).missing(table.where)
    return None


def _names_files(columns: Sequence[Sequence[Any]], medium: Medium) -> bool:
    """Say whether a column names files of a medium that needs no rule."""
    return code_of(medium).rule is None and any(
        isinstance(value, str) and is_of(Path(value), medium)
        for value in (values[0] for values in columns if len(values))
    )


def _is_words(value: Any) -> bool:
    """Say whether a value is neither a number nor a list of numbers."""
    if isinstance(value, Mapping | bytes) or _is_sentence(value):
        return True
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _is_sentence(value: Any) -> bool:
    """Say whether a value is a list of words."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _words(value: Any) -> list[str]:
    """Return the words of a cell; a text is divided at blanks, and what is neither holds none."""
    if isinstance(value, str):
        return value.split()
    return [str(one) for one in value] if isinstance(value, list) else []


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


def _names_pictures(table: tables.Table, column: str) -> bool:
    """Say whether a column of answers holds pictures, which then are masks."""
    first = table.columns[column][0]
    path = first.get("path") if isinstance(first, Mapping) else first
    return column in table.pictures or (isinstance(path, str) and is_of(Path(path), PICTURES))


def _picture_name(table: tables.Table, column: str, row: int) -> str:
    value = table.columns[column][row]
    if isinstance(value, Mapping):
        value = value.get("path")
    if isinstance(value, str) and value and column not in table.pictures:
        return shown(value if "://" in value else str(table.base / value))
    return table.name(row)


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
    if lenient and isinstance(width, int) and width < len(names):  # labels may stand beside them
        names = [name for name in names if not all(map(_is_words, table.columns[name]))]
    if isinstance(width, int) and width != len(names):
        columns_of = "" if lenient else "name the label column with --label-column and "
        raise DataError(
            f"the table has {len(names)} value columns, the model takes {width}",
            where=f"{table.where}, columns {', '.join(names[:20])}",
            remedy=f"{columns_of}drop columns that are no values",
        )
    columns = [_numbers(table, name, lenient=lenient) for name in names]
    stacked = np.stack(columns, 1 if info.batch_axis in {0, None} else 0)
    if numpy_dtype(info.dtype).kind in "iu":
        whole = stacked.astype(np.int64)
        return whole if np.array_equal(whole, stacked) else stacked
    return stacked.astype(numpy_dtype(info.dtype))


def _numbers(table: tables.Table, name: str, *, lenient: bool) -> NDArray[np.float64]:
    with contextlib.suppress(TypeError, ValueError):  # nearly always, and many times as fast
        found = np.fromiter(map(float, table.columns[name]), np.float64, table.rows)
        if lenient or not np.isnan(found).any():
            return found
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
