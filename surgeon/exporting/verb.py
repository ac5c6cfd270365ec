"""A file in another form: with probabilities, in half precision, of one batch, of another opset.

::

    surgeon.export("tuned.onnx", "small.onnx", probabilities=True, fp16=True)

What is written is run beside what it was made from before it takes its place, within a bound for
its precision, and carries a proof of its own. Labels, plan and preprocessing stay. What must not
enter: names of other forms, which plugins offer; changes that the comparison cannot judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from surgeon.errors import UsageError
from surgeon.exporting import chain
from surgeon.exporting.beside import beside_of, facts_beside
from surgeon.exporting.check import check as judge
from surgeon.exporting.compare import compare, prove, told
from surgeon.exporting.given import Given
from surgeon.exporting.offered import exporter, written
from surgeon.graph import files, forms
from surgeon.graph.shapes import input_infos, output_infos
from surgeon.model import Model, load
from surgeon.options import Delivery, Options, explained
from surgeon.records import as_json
from surgeon.resumption import writable

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from surgeon.exporting.check import Checked
    from surgeon.exporting.given import Compared, Report
    from surgeon.plugin.manager import Plugins

    Source = str | os.PathLike[str] | onnx.ModelProto | Model

_IN_MEMORY = (onnx.ModelProto, Model)


@explained
def export(  # noqa: PLR0913 - a public verb has its options as keywords
    path: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    size: Any = None,
    label_column: str | None = None,
    probabilities: bool = False,
    embed_preprocess: bool = False,
    embed_tokenizer: Any = None,
    fp16: bool = False,
    int8: Any = None,
    int8_dynamic: bool = False,
    optimize: str | None = None,
    calibrate: Any = None,
    check: Any = None,
    batch: int | None = None,
    opset: int | None = None,
    external_data: bool = False,
    describe: bool = False,
    code: str | Sequence[str] = (),
    to: str | None = None,
    force: bool = False,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Write a file in another form, proven against the one it was made from.

    Args:
        path: a file that surgeon wrote; it stays as it is.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins; None loads them.

    Returns:
        The body of the document.

    Raises:
        UsageError: no form is asked for, or one that the file cannot have.
        CheckError: what comes out answers otherwise; nothing was written.
        OutputError: the output exists, or cannot be written.
    """
    asked = Options.of(locals())
    if out is None:
        raise UsageError("no file to write is named", where="-o", remedy="name one")
    named = chain.named(asked)
    beside = beside_of(asked.delivery, None if isinstance(path, _IN_MEMORY) else Path(path))
    model = load(path)
    notes: list[str] = []
    if beside is not None:
        asked = beside.implied(asked, model, notes)
        named = chain.named(asked)
    stays = beside is not None and beside.is_source and chain.only_beside(asked)
    delivery = asked.delivery if stays else writable(asked.delivery)
    found = None if to is None else exporter(to, plugins)
    given = Given(model, model.stored or model.proto, asked, plugins, progress, notes=notes)
    made, compared = _made(given, named)
    checked = None if check is None else judge(given, made, check)
    facts = None if beside is None else facts_beside(beside, made, given)
    files_written = [] if stays else _written(found, made, delivery)
    if beside is not None and facts is not None:
        files_written += beside.write(made, *facts)
    return {
        "out": str(delivery.out),
        "bytes": sum(one.stat().st_size for one in files_written if one.is_file()),
        "files": [str(one) for one in files_written],
        "source": model.where,
        "forms": named,
        "inputs": [as_json(info) for info in input_infos(made)],
        "outputs": [as_json(info) for info in output_infos(made)],
        "opset": forms.opset_of(made),
        "comparison": None if compared is None else _told(told(given, compared), checked, model),
        "quantised": given.quantised,
        "temperature": given.stated.get("temperature"),
        "warnings": [
            *given.notes,
            *([] if model.proof is not None else ["the source carries no proof to go on"]),
        ],
    }


def _made(given: Given, named: Sequence[str]) -> tuple[onnx.ModelProto, Compared | None]:
    """Return the file in the forms asked for; as it is, and not compared, where none changes it."""
    if chain.only_beside(given.asked):
        return given.stored, None
    made = chain.made_of(given)
    compared = compare(given, made)
    prove(given, made, compared, named)
    return made, compared


def _written(found: Any, made: onnx.ModelProto, to: Delivery) -> list[Path]:
    """Write the file, or let an exporter do so; return what was written."""
    assert to.out is not None
    target = Path(to.out)
    if found is not None:
        return written(found, made, target)
    files.save_model(made, target, force=to.force, apart=to.external_data)
    data = target.with_name(f"{target.name}.data")
    return [target, *([data] if to.external_data and data.exists() else [])]


def _told(compared: Compared, checked: Checked | None, model: Model) -> dict[str, Any]:
    """Return what is known of both files: by data where some were given."""
    by_data = checked is not None
    before, after = (None, None) if checked is None else checked.quality
    seconds = (None, None) if checked is None else checked.seconds
    return {
        "samples": checked.samples if checked is not None else compared.samples,
        "agreement": checked.agreement if checked is not None else compared.agreement,
        "max_difference": compared.max_difference,
        "checked": by_data,
        "measure": None if checked is None else checked.measure,
        "quality_before": before,
        "quality_after": after,
        "seconds_before": seconds[0],
        "seconds_after": seconds[1],
        "bytes_before": files.weight_bytes(model.stored or model.proto)
        if model.path is None
        else sum(
            one.stat().st_size
            for one in (model.path, model.path.with_name(f"{model.path.name}.data"))
            if one.exists()
        ),
    }
