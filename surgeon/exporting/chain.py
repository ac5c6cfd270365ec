"""The forms, in the order in which they are made, and the chain of those that were asked for.

A form of one's own is a line here and a file beside. What must not enter: what a form does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from surgeon.errors import ModelError, UsageError
from surgeon.exporting import embedded, half, integers, optimized, probabilities, sizes, tokenized
from surgeon.exporting.given import Form, asked_for
from surgeon.graph import external, files, forms
from surgeon.graph.weights import initializers
from surgeon.runtime.integers import LAYERS

if TYPE_CHECKING:
    from surgeon.exporting.given import Given
    from surgeon.options import Options


def _opset(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    version = given.asked.delivery.opset
    return made if version is None else forms.to_opset(made, version)


def _batch(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    batch = given.asked.training.batch
    return made if batch is None else forms.fixed_at(made, batch)


FORMS = (
    Form(
        "--opset N",
        lambda to: None if to.delivery.opset is None else f"opset={to.delivery.opset}",
        _opset, whole=True,
    ),
    Form(
        "--size HxW",
        sizes.named,
        sizes.make,
    ),
    Form(
        "--batch N",
        lambda to: None if to.training.batch is None else f"batch={to.training.batch}",
        _batch,
    ),
    Form("--int8 DATA", lambda to: None if to.delivery.int8 is None else "int8",
         integers.make, whole=True),
    Form("--int8-dynamic", lambda to: "int8-dynamic" if to.delivery.int8_dynamic else None,
         integers.make_dynamic, whole=True),
    Form("--fp16", lambda to: "fp16" if to.delivery.fp16 else None, half.make, whole=True),
    Form(
        "--probabilities",
        lambda to: "probabilities" if to.delivery.probabilities else None,
        probabilities.make,
    ),
    Form(
        "--embed-preprocess",
        lambda to: "embed-preprocess" if to.delivery.embed_preprocess else None,
        embedded.make,
    ),
    Form(
        "--embed-tokenizer TEXTS",
        lambda to: None if to.delivery.embed_tokenizer is None else "embed-tokenizer",
        tokenized.make,
    ),
    Form(
        "--optimize LEVEL",
        lambda to: None if to.delivery.optimize is None else f"optimize={to.delivery.optimize}",
        optimized.make, whole=True,
    ),
    Form("--describe", lambda to: "describe" if to.delivery.describe else None, beside=True),
    Form(
        "--code LANGUAGE",
        lambda to: f"code={','.join(to.delivery.code)}" if to.delivery.code else None,
        beside=True,
    ),
    Form("--external-data", lambda to: "external-data" if to.delivery.external_data else None),
    Form("--to NAME", lambda to: None if to.delivery.to is None else f"to={to.delivery.to}"),
)  # fmt: skip
"""All of them; a file takes them from the first to the last.

What rounds comes before what is put behind and in front, so that probabilities and the preparing of
pictures keep float32, and so that ranges are measured on what data give.
"""
ONE_OF = ("int8", "int8-dynamic", "fp16")
"""Precisions, of which a file has one."""
_HALF_CASTS = ("graph_input_cast", "graph_output_cast")
"""What the converter to half precision calls its nodes, also where weights are float32 again."""
_EIGHT_BITS = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}


def named(asked: Options) -> list[str]:
    """Return the names of the forms that were asked for, in the order in which they are made.

    Raises:
        UsageError: none is, or two that exclude each other.
    """
    found = [name for form in FORMS if (name := form.named(asked)) is not None]
    to = asked.delivery
    if to.calibrate is not None and not to.probabilities:
        raise UsageError(
            "a temperature is for probabilities", where="--calibrate", remedy="add --probabilities"
        )
    if not found:
        *others, last = (form.option for form in FORMS)
        raise UsageError(
            "no form is asked for", where="export", remedy=f"{', '.join(others)} or {last}"
        )
    several = [f"--{name}" for name in ONE_OF if name in found]
    if len(several) > 1:
        raise UsageError(
            f"{' and '.join(several)} exclude each other", where="export", remedy="choose one"
        )
    if to.to is not None and to.external_data:
        raise UsageError(
            "an exporter writes the files itself", where="--external-data", remedy="leave it out"
        )
    return found


def only_beside(asked: Options) -> bool:
    """Say whether only files beside it were asked for, so that the graph stays as it is."""
    return all(form.beside for form in asked_for(FORMS, asked))


def made_of(given: Given) -> onnx.ModelProto:
    """Return the source in the forms that were asked for.

    Raises:
        UsageError, UnsupportedError, ModelError: it cannot have one of them.
    """
    _not_rounded_twice(given)
    made = onnx.ModelProto()
    made.CopyFrom(given.stored)
    asked = asked_for(FORMS, given.asked)
    whole = [form.option for form in asked if form.whole]
    if whole:
        if files.weight_bytes(given.stored) > files.ONE_FILE_LIMIT:
            raise ModelError(
                "a file past 2 GB cannot be converted: ONNX's own tools take one message",
                where=given.model.where,
                remedy=f"leave out {' and '.join(whole)}",
            )
        made = external.loaded(made)
    for form in asked:
        if form.make is not None:
            made = form.make(made, given)
    files.check_model(made, "the exported graph")
    return made


def _not_rounded_twice(given: Given) -> None:
    """Refuse another precision for what has none of float32 to round.

    Raises:
        UsageError: the file is in 8 bits, or all its layers are in half precision.
    """
    options = {form.option for form in asked_for(FORMS, given.asked)}
    rounding = sorted(options & {"--int8 DATA", "--int8-dynamic", "--fp16"})
    graph = given.stored.graph
    tensors = initializers(given.stored)
    types = {
        tensors[name].data_type
        for node in graph.node
        if node.op_type in LAYERS
        for name in node.input[1:2]
        if name in tensors
    }
    cast = any(node.name.startswith(_HALF_CASTS) for node in graph.node)
    words = "half precision" if cast or types == {onnx.TensorProto.FLOAT16} else None
    if any(node.op_type in _EIGHT_BITS for node in graph.node):
        words = "8 bits"
    if rounding and words is not None:
        raise UsageError(
            f"the file computes in {words} already",
            where=rounding[0].split()[0],
            remedy="export the file that it was made from, or leave the option out",
        )
