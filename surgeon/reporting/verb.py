"""`report`: documents in, one page out, written whole or not at all.

What must not enter: what the page shows.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from surgeon.errors import DataError
from surgeon.graph.files import check_output, write_error
from surgeon.options import Options, explained
from surgeon.reporting import view
from surgeon.reporting.sources import REMEDY, gather


@explained
def report(
    source: Any, out: str | os.PathLike[str] | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Tell a run, or a file, on one page of HTML that needs nothing else.

    Args:
        source: what `finetune` returned, or its document with `--json` (a path, or a dict), also
            one of `evaluate` or `advise`; an ONNX file; or a list of these, one of each kind,
            for one page.

    Returns:
        The body of `report`: `out`, `bytes`; without `out` the page itself as `html`.

    Raises:
        DataError: a document that is none, or none that a report can tell.
        OutputError: the output exists or cannot be written.
    """
    to = Options.of(locals()).delivery
    if to.out is not None:
        check_output(to.out, force=to.force)
    text = page(source)
    if to.out is None:
        return {"out": None, "bytes": len(text.encode()), "html": text, "warnings": []}
    return {"out": str(to.out), "bytes": write(text, to.out, force=to.force), "warnings": []}


def page(source: Any) -> str:
    """Return the page that tells documents, results or a file.

    Raises:
        DataError: one that is none.
    """
    documents = gather(source)
    try:
        return _template().render(view.context(documents)) + "\n"
    except (jinja2.UndefinedError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"the document of {' and '.join(f'`{verb}`' for verb in documents)} is not whole: "
            f"{error}",
            where=_where(source), remedy=REMEDY,
        ) from error  # fmt: skip


def write(text: str, out: str | os.PathLike[str], *, force: bool = False) -> int:
    """Write a page; return how many bytes it has."""
    file = check_output(out, force=force)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.resolve().parent) as at:
            part = Path(at) / file.name
            count = part.write_bytes(text.encode("utf-8", "backslashreplace"))
            part.replace(file)
    except OSError as error:
        raise write_error(error, file) from error
    return count


def _where(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "report"


@cache
def _template() -> jinja2.Template:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("surgeon.reporting"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, autoescape=True,
    )  # fmt: skip
    made.filters |= view.filters()
    return made.get_template("page.html.jinja")
