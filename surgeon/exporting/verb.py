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

from surgeon.errors import UsageError
from surgeon.exporting import chain
from surgeon.exporting.compare import compare, prove
from surgeon.exporting.given import Given
from surgeon.exporting.offered import exporter, written
from surgeon.graph import files, forms
from surgeon.graph.shapes import input_infos, output_infos
from surgeon.model import Model, load
from surgeon.options import Options, explained
from surgeon.records import as_json
from surgeon.resumption import writable

if TYPE_CHECKING:
    import os

    import onnx

    from surgeon.plugin.manager import Plugins

    Source = str | os.PathLike[str] | onnx.ModelProto | Model


@explained
def export(  # noqa: PLR0913 - a public verb has its options as keywords
    path: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    probabilities: bool = False,
    fp16: bool = False,
    batch: int | None = None,
    opset: int | None = None,
    external_data: bool = False,
    to: str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Write a file in another form, proven against the one it was made from.

    Args:
        path: a file that surgeon wrote; it stays as it is.
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
    delivery = writable(asked.delivery)
    named = chain.named(asked)
    found = None if to is None else exporter(to, plugins)
    model = load(path)
    given = Given(model, model.stored or model.proto, asked, plugins)
    made = chain.made_of(given)
    compared = compare(given, made)
    prove(given, made, compared, named)
    assert delivery.out is not None
    target = Path(delivery.out)
    if found is None:
        files.save_model(made, target, force=delivery.force, apart=external_data)
        beside = target.with_name(f"{target.name}.data")
        files_written = [target, *([beside] if external_data and beside.exists() else [])]
    else:
        files_written = written(found, made, target)
    return {
        "out": str(target),
        "bytes": sum(one.stat().st_size for one in files_written if one.is_file()),
        "files": [str(one) for one in files_written],
        "source": model.where,
        "forms": named,
        "inputs": [as_json(info) for info in input_infos(made)],
        "outputs": [as_json(info) for info in output_infos(made)],
        "opset": forms.opset_of(made),
        "comparison": {
            "samples": compared.samples,
            "agreement": compared.agreement,
            "max_difference": compared.max_difference,
            "quality_before": None,
            "quality_after": None,
            "seconds_before": None,
            "seconds_after": None,
        },
        "warnings": [
            *given.notes,
            *([] if model.proof is not None else ["the source carries no proof to go on"]),
        ],
    }
